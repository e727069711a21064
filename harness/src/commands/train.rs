//! `relora train`: one cell by flags, through the same machinery as a suite of one.

use std::path::{Path, PathBuf};

use super::request::{Request, shown};
use super::{bench_all, print};
use crate::cli::{Seeds, SuiteOptions, TrainOptions};
use crate::exit::{Exit, UserError};
use crate::progress::warn;
use crate::settings::{MOST_STEPS, ScalingName, Settings};

/// Name of the size of a folder that has no usable name of its own.
const FOLDER: &str = "init";

/// Trains the cell and prints its tables.
///
/// # Errors
/// Those of [`Request::new`] and [`Request::plan`], and what the disk says.
pub fn run(options: TrainOptions) -> anyhow::Result<Exit> {
    let mut set = options.set;
    // As lists of one they replace the profile's own, and --set may still say more about the cell.
    let size = options.size.unwrap_or_else(|| {
        let folder = options.init_from.as_deref();
        folder.map_or_else(|| FOLDER.to_owned(), size_name)
    });
    let method = options.method;
    set.push(format!("sizes=[{}]", toml::Value::from(size.clone())));
    set.push(format!("methods=[{}]", toml::Value::from(method.clone())));
    if let Some(folder) = &options.init_from {
        set.push(format!("init_from={}", shown(folder)?));
    }
    let mut suite = SuiteOptions {
        profile: options.profile,
        out: Some(
            options
                .out
                .unwrap_or_else(|| PathBuf::from(super::RUNS).join("train")),
        ),
        set,
        seeds: options
            .seed
            .map(|seed| Seeds(seed..=seed))
            .into_iter()
            .collect(),
        place: options.place,
        text: options.text,
        ..SuiteOptions::default()
    };
    if let Some(steps) = options.steps {
        if !(1..=MOST_STEPS).contains(&steps) {
            let message = format!("--steps {steps}: must be at least 1 and at most {MOST_STEPS}");
            return Err(UserError::new(message).into());
        }
        let request = Request::new(&suite);
        // Without the steps the profile has its own proportions; these become the run's, and --set may still say others.
        let settings = request?.profile.settings(&size, &method)?.0;
        suite.set.splice(0..0, proportioned(&settings, steps));
    }
    if options.rank.is_some() || options.alpha.is_some() {
        let scale = scaled(&mut suite, &size, &method, options.rank, options.alpha)?;
        warn(&scale);
    }
    let request = Request::new(&suite)?
        .with_first_seed()?
        .with_event_files(options.tensorboard);
    if options.print_config {
        print(&request.profile.to_toml())?;
        return Ok(Exit::Success);
    }
    bench_all::train(&request, options.json)
}

/// A folder's name as that of a size: in lower case, and with nothing that a key of a profile could not be.
fn size_name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name
        .to_lowercase()
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() || letter == '_' {
                letter
            } else {
                '-'
            }
        })
        .collect();
    let name = name.trim_matches(['-', '_']);
    if name.is_empty() {
        FOLDER.to_owned()
    } else {
        name.to_owned()
    }
}

/// Sets rank and alpha. A rank alone keeps the scale alpha / rank that the profile has, as a comparison of ranks wants it: alpha
/// goes with it. Returns a line that says what results.
fn scaled(
    suite: &mut SuiteOptions,
    size: &str,
    method: &str,
    rank: Option<u64>,
    alpha: Option<f64>,
) -> anyhow::Result<String> {
    suite.set.extend(rank.map(|rank| format!("rank={rank}")));
    let profile = Request::new(suite)?.profile;
    let settings = profile.settings(size, method)?.0;
    if !settings.low_rank {
        let flag = match (rank, alpha) {
            (Some(rank), _) => format!("--rank {rank}"),
            (None, alpha) => format!("--alpha {}", alpha.unwrap_or_default()),
        };
        let message = format!(
            "{flag}: method `{method}` trains no low-rank factors; leave it out, or choose another --method"
        );
        return Err(UserError::new(message).into());
    }
    let before = match rank {
        Some(_) => profile.settings_before_set("rank", size, method)?,
        None => settings.clone(),
    };
    let kept = before.alpha / before.rank as f64;
    // One who sets alpha by its key means it as much as one who gives the flag.
    let by_key = |set: &String| {
        let key = set.split('=').next().unwrap_or_default();
        key.trim().rsplit('.').next() == Some("alpha")
    };
    let set = suite.set.iter().any(by_key).then_some(settings.alpha);
    let alpha = alpha.or(set).unwrap_or(kept * settings.rank as f64);
    suite.set.push(format!("alpha={alpha:?}"));
    let rank = settings.rank;
    if settings.scaling == ScalingName::TanhScalar {
        return Ok(format!("rank {rank}; the scale of the product is trained"));
    }
    let scale = alpha / rank as f64;
    let origin = if scale == kept && set.is_none() {
        ", as in the profile"
    } else {
        ""
    };
    Ok(format!("rank {rank}, alpha {alpha}: scale {scale}{origin}"))
}

/// The settings that depend on the number of steps, for `steps` of them: as many cycles, and a warm start and warm-ups of the
/// same share. Neither number is above [`MOST_STEPS`], so no product of two of them overflows.
fn proportioned(settings: &Settings, steps: u64) -> Vec<String> {
    let about = |length: u64| (length * steps / settings.steps).max(1);
    let mut set = vec![
        format!("steps={steps}"),
        format!("warmup_steps={}", about(settings.warmup_steps)),
    ];
    if settings.restarts || settings.jagged || settings.optimizer_reset {
        let remaining = settings.steps - settings.warm_start_length();
        let cycles = (remaining / settings.cycle().max(1)).max(1);
        let cycle = remaining * steps / settings.steps / cycles;
        set.push(format!("restart_every={cycle}"));
        set.push("cycle_steps=0".into());
        set.push(format!("rewarmup_steps={}", about(settings.rewarmup_steps)));
        if settings.warm_start {
            set.push(format!(
                "warm_start_steps={}",
                steps.saturating_sub(cycles * cycle)
            ));
        }
    } else if settings.warm_start {
        set.push(format!(
            "warm_start_steps={}",
            about(settings.warm_start_steps)
        ));
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    #[test]
    fn any_number_of_steps_keeps_the_profile_s_restarts() {
        for steps in [100, 123, 1000, 5000] {
            for method in ["full", "relora", "lora-warm-start"] {
                let load = |set: &[String]| {
                    Profile::load("laptop", set)
                        .expect("loads")
                        .settings("nano", method)
                        .expect(method)
                        .0
                };
                let set = proportioned(&load(&[]), steps);
                let profile = Profile::load(
                    "laptop",
                    &[set, vec![format!("methods=[\"{method}\"]")]].concat(),
                )
                .expect("loads");
                let settings = profile.settings("nano", method).expect("can be").0;
                assert_eq!(settings.steps, steps);
                if settings.restarts {
                    assert_eq!(
                        (steps - settings.warm_start_steps) / settings.restart_every,
                        4
                    );
                    assert_eq!(
                        (steps - settings.warm_start_steps) % settings.restart_every,
                        0
                    );
                }
            }
        }
    }
}
