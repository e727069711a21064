//! Whether the golden test would notice: breaks one rule of the algorithm at a time and says which recordings see it.
//! `just golden-mutants`, with a part of a rule's name behind it for those alone; about twenty minutes.
//!
//! It works on a copy of the tracked files, never on the sources themselves, and builds it beside the build, never into it: no
//! program that is broken on purpose is left where someone would take it for the real one.

#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// One rule, broken.
struct Mutant {
    rule: &'static str,
    file: &'static str,
    /// Stands exactly once in the file.
    find: &'static str,
    replace: &'static str,
}

const fn mutant(
    rule: &'static str,
    file: &'static str,
    find: &'static str,
    replace: &'static str,
) -> Mutant {
    Mutant {
        rule,
        file,
        find,
        replace,
    }
}

const SCHEDULE: &str = "harness/src/schedule.rs";
const ALGORITHM: &str = "harness/src/algorithm.rs";
const RUN: &str = "harness/src/run.rs";
const LEARNER: &str = "models/src/learner.rs";
const LOW_RANK: &str = "models/src/low_rank.rs";
const RESET: &str = "models/src/reset.rs";
const ADAMW: &str = "models/src/ops/cpu/adamw.rs";
const STEP: &str = "models/src/ops/adamw.rs";

const MUTANTS: &[Mutant] = &[
    mutant(
        "events come one update early",
        SCHEDULE,
        "since % self.every == 1",
        "since % self.every == 0",
    ),
    mutant(
        "the first warm-up is one update ahead",
        SCHEDULE,
        "Shape::Jagged { .. } if t < warmup => ratio(t, warmup)",
        "Shape::Jagged { .. } if t < warmup => ratio(t + 1, warmup)",
    ),
    mutant(
        "the re-warm-up is one update ahead",
        SCHEDULE,
        "ratio(since, rewarmup)",
        "ratio(since + 1, rewarmup)",
    ),
    mutant(
        "the envelope has no minimum",
        SCHEDULE,
        "self.minimum_ratio + (1.0 - self.minimum_ratio) * (0.5",
        "0.0 * self.minimum_ratio + (0.5",
    ),
    mutant(
        "the schedule goes on where the warm start left it",
        SCHEDULE,
        "stage.at(step - first)",
        "stage.at(step - first.min(&0))",
    ),
    mutant(
        "restarts follow the cycle of the resets",
        ALGORITHM,
        "restarts: events(settings.restarts, settings.restart_every)",
        "restarts: events(settings.restarts, settings.cycle())",
    ),
    mutant(
        "the reset comes before the restart's own update",
        RUN,
        "            .after(at.step)\n            .then(||",
        "            .after(at.step + 1)\n            .then(||",
    ),
    mutant(
        "a restart begins the bias correction again",
        LEARNER,
        "            if let Some(attached) = &learner.attached {\n                for linear",
        "            if let Some(attached) = &mut learner.attached {\n                attached.step = step;\n                for linear",
    ),
    mutant(
        "attaching keeps the bias correction going",
        LEARNER,
        ".map_or(0, |attached| attached.step);",
        ".map_or(0, |_| 0);",
    ),
    mutant(
        "the scale is forgotten in the merge",
        LOW_RANK,
        "weight.add(b.matmul(a).mul(scale))",
        "weight.add(b.matmul(a).add(scale.mul_scalar(0.0)))",
    ),
    mutant(
        "B stays as it was merged",
        LOW_RANK,
        "        b.set_values(vec![0.0; b.shape.iter().product()], placement);\n",
        "",
    ),
    mutant(
        "A is not drawn anew",
        LOW_RANK,
        "        a.set_values(draws.values(&draw), placement);\n",
        "        let _ = draws.values(&draw);\n",
    ),
    mutant(
        "nothing is merged",
        LOW_RANK,
        "weight.set_full(merge(weight.full(), a.full(), b.full(), scale), placement);",
        "let _ = merge(weight.full(), a.full(), b.full(), scale);",
    ),
    mutant(
        "the trained scale survives a merge",
        LOW_RANK,
        "            scalar.set_values(vec![0.0], placement);",
        "            let _ = scalar;",
    ),
    mutant(
        "a trained scale has no tanh",
        LOW_RANK,
        "output = output.mul(scalar.clone().tanh());",
        "output = output.mul(scalar.clone());",
    ),
    mutant(
        "what lies on the threshold is kept",
        RESET,
        ".greater_elem(threshold)",
        ".greater_equal_elem(threshold)",
    ),
    mutant(
        "the quantile is not interpolated",
        RESET,
        "        if self.weight < 0.5 {\n            self.weight.mul_add(b - a, a)",
        "        if self.weight < 2.0 {\n            a",
    ),
    mutant(
        "both moments are pruned by one mask",
        RESET,
        "Mask::Separate => dropped(second, DrawRole::KeepSecond)?",
        "Mask::Separate => dropped_first.clone()",
    ),
    mutant(
        "only the moments of A are pruned",
        RESET,
        "Role::FactorA | Role::FactorB)",
        "Role::FactorA)",
    ),
    mutant(
        "a random reset keeps what it should drop",
        RESET,
        "f64::from(value) <= ratio",
        "f64::from(value) > ratio",
    ),
    mutant(
        "a reset prunes norms, embedding and head too",
        RESET,
        "Role::FactorA | Role::FactorB)",
        "Role::FactorA | Role::FactorB | Role::Weight)",
    ),
    mutant(
        "a reset prunes the trained scales too",
        RESET,
        "Role::FactorA | Role::FactorB)",
        "Role::FactorA | Role::FactorB | Role::Scalar)",
    ),
    mutant(
        "norms are not decayed",
        LEARNER,
        "        adamw(trainable, gradients, step);",
        "        for (parameter, gradient) in trainable.into_iter().zip(gradients) {\n            let mut step = step;\n            if parameter.name.contains(\"norm\") {\n                step.weight_decay = 0.0;\n            }\n            adamw(vec![parameter], vec![gradient], step);\n        }",
    ),
    mutant(
        "decay goes through the gradient",
        ADAMW,
        "let g = g * scale;",
        "let g = g * scale + *w * step.weight_decay as f32;",
    ),
    mutant(
        "epsilon stands under the root",
        ADAMW,
        "(v.sqrt() * correction + epsilon)",
        "((*v + epsilon).sqrt() * correction)",
    ),
    mutant(
        "the second moment is not corrected",
        STEP,
        "(1.0 - self.power(self.beta2)).sqrt().recip()",
        "1.0",
    ),
    mutant(
        "nothing is clipped",
        "models/src/optimizer.rs",
        "(clip / (norm + 1e-6)).min(1.0)",
        "(clip / (norm + 1e-6)).clamp(1.0, 1.0)",
    ),
    mutant(
        "micro-batches are summed, not averaged",
        ALGORITHM,
        "1.0 / (sequences.targets().max(1) as f64 * micro_batches as f64)",
        "1.0 / (sequences.targets().max(1) as f64 * micro_batches.min(1) as f64)",
    ),
    mutant(
        "the last row of the embedding is trained",
        LEARNER,
        "            parameters.embedding.frozen_row = Some(row as usize);",
        "            let _ = row;",
    ),
    mutant(
        "the norm's epsilon is ten times as large",
        "models/src/ops/rms_norm.rs",
        "pub const EPSILON: f32 = 1e-6;",
        "pub const EPSILON: f32 = 1e-5;",
    ),
    mutant(
        "positions turn by another base",
        "models/src/ops/attention.rs",
        "libm::pow(10_000.0",
        "libm::pow(1_000.0",
    ),
];

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every mutant was caught.
fn run() -> Result<bool, Box<dyn Error>> {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), PathBuf::from);
    let copy = target.join("golden-mutants/source");
    copy_of_tracked_files(&workspace, &copy)?;
    let build = target.join("golden-mutants/build");
    if !build.exists() {
        // What others wrote is compiled already; ours is another package at another place.
        for part in ["deps", "build", ".fingerprint"] {
            link_tree(
                &target.join("debug").join(part),
                &build.join("debug").join(part),
            )?;
        }
    }
    // Kernels for a GPU take minutes to compile and are not looked at here.
    replace(
        &copy.join("models/Cargo.toml"),
        "default = [\"cuda\"]",
        "default = []",
    )?;

    let golden = || golden(&copy, &build);
    let unbroken = golden()?;
    if unbroken != Verdict::Caught(Vec::new()) {
        return Err(format!("the golden test fails without a mutant: {unbroken:?}").into());
    }
    let mut survivors = Vec::new();
    println!("| rule broken | seen by |\n|---|---|");
    for Mutant {
        rule,
        file,
        find,
        replace: with,
    } in MUTANTS
        .iter()
        .filter(|mutant| mutant.rule.contains(&filter))
    {
        let path = copy.join(file);
        let original = fs::read_to_string(&path)?;
        replace(&path, find, with)?;
        let verdict = golden();
        fs::write(&path, original)?;
        match verdict? {
            Verdict::Caught(cases) if cases.is_empty() => {
                println!("| {rule} | **nothing** |");
                survivors.push(*rule);
            }
            Verdict::Caught(cases) => println!("| {rule} | {} |", summary(&cases)),
            Verdict::NotBuilt => return Err(format!("{rule}: the mutant does not compile").into()),
        }
    }
    println!("\n{} survive {}", survivors.len(), survivors.join("; "));
    Ok(survivors.is_empty())
}

/// How many cases, and the first of them.
fn summary(cases: &[String]) -> String {
    let first: Vec<String> = cases
        .iter()
        .take(3)
        .map(|case| format!("`{case}`"))
        .collect();
    let more = if cases.len() > first.len() {
        ", ..."
    } else {
        ""
    };
    format!("{}: {}{more}", cases.len(), first.join(", "))
}

#[derive(Debug, PartialEq)]
enum Verdict {
    /// By these cases of the golden test.
    Caught(Vec<String>),
    NotBuilt,
}

fn golden(copy: &Path, build: &Path) -> Result<Verdict, Box<dyn Error>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "test",
            "--offline",
            "--package",
            "harness",
            "--test",
            "golden",
        ])
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", build)
        .stderr(Stdio::piped())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !said.contains("replaying ") {
        print!("{}", String::from_utf8_lossy(&output.stderr));
        return Ok(Verdict::NotBuilt);
    }
    let failed = said.lines().filter_map(|line| line.strip_prefix("FAILED "));
    Ok(Verdict::Caught(failed.map(str::to_owned).collect()))
}

/// Copies what git tracks, as it is on disk, and takes away what an earlier copy had more.
fn copy_of_tracked_files(workspace: &Path, copy: &Path) -> Result<(), Box<dyn Error>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(workspace)
        .output()?;
    if !listed.status.success() {
        return Err("git does not list the files of this workspace".into());
    }
    if copy.exists() {
        fs::remove_dir_all(copy)?;
    }
    for name in String::from_utf8(listed.stdout)?.split_terminator('\0') {
        let (from, to) = (workspace.join(name), copy.join(name));
        if !from.is_file() {
            continue; // removed and not yet committed
        }
        fs::create_dir_all(to.parent().unwrap_or(copy))?;
        fs::copy(from, to)?;
    }
    Ok(())
}

/// The same files under another folder, as links where the file system has them.
fn link_tree(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (from, to) = (entry?.path(), to.to_owned());
        let to = to.join(from.file_name().unwrap_or_default());
        if from.is_dir() {
            link_tree(&from, &to)?;
        } else if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

fn replace(path: &Path, find: &str, with: &str) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(path)?;
    if text.matches(find).count() != 1 {
        return Err(format!("{} does not hold {find:?} exactly once", path.display()).into());
    }
    Ok(fs::write(path, text.replacen(find, with, 1))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a rule that was rewritten would be found missing only when somebody breaks them all.
    #[test]
    fn every_rule_stands_once_in_its_file() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for Mutant {
            rule, file, find, ..
        } in MUTANTS
        {
            let text = fs::read_to_string(workspace.join(file)).expect("a source file");
            assert_eq!(text.matches(find).count(), 1, "{rule}: {find:?} in {file}");
        }
    }
}
