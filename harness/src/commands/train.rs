//! `relora train`: one cell by flags, through the same machinery as a suite of one.

use std::path::{Path, PathBuf};

use super::request::{Request, no_factors, one_cell, shown};
use super::{bench_all, print};
use crate::cli::{Seeds, SuiteOptions, TrainOptions};
use crate::exit::{Exit, UserError};
use crate::lengths;
use crate::matrix::{self, Cell, Surroundings};
use crate::profile::Assignment;
use crate::settings::{MOST_STEPS, ScalingName, Scope, Setting, Settings};

/// Name of the size of a folder that has no usable name of its own.
const FOLDER: &str = "init";

/// Trains the cell and prints its tables.
///
/// # Errors
/// Those of [`Request::new`] and [`Request::plan`], and what the disk says.
pub fn run(options: TrainOptions) -> anyhow::Result<Exit> {
    let mut set = options.set;
    // --set may still say more about the cell.
    let init_from = options.init_from.as_deref();
    let from_folder = init_from.map(|folder| format!("--init-from {}", folder.display()));
    let (size, from) = match (options.size, &from_folder) {
        (None, Some(typed)) => (init_from.map(size_name).unwrap_or_default(), typed.clone()),
        (size, _) => {
            let size = size.unwrap_or_else(|| FOLDER.to_owned());
            (size.clone(), format!("--size {size}"))
        }
    };
    let method = options.method;
    set.extend(one_cell(from, &size, &method));
    if let (Some(folder), Some(typed)) = (init_from, from_folder) {
        set.push(Assignment::by_flag(
            typed,
            format!("init_from={}", shown(folder)?),
        ));
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
    // Said once nothing speaks against the rest: an error should stand alone.
    let mut remarks = Vec::new();
    if let Some(steps) = options.steps {
        if !(1..=MOST_STEPS).contains(&steps) {
            let message = format!("--steps {steps}: must be at least 1 and at most {MOST_STEPS}");
            return Err(UserError::new(message).into());
        }
        let lengths = proportioned(&suite, &size, steps)?;
        if !lengths.is_empty() {
            let shown: Vec<&str> = lengths.iter().map(|it| it.text.as_str()).collect();
            // Without the size: there is but this one.
            let own = format!("size.{size}.");
            let shown: Vec<&str> = shown
                .iter()
                .map(|text| text.strip_prefix(&own).unwrap_or(text))
                .collect();
            remarks.push(format!("in proportion: {}", shown.join(", ")));
        }
        suite.set.splice(0..0, lengths);
    }
    if options.rank.is_some() || options.alpha.is_some() {
        let scale = scaled(&mut suite, &size, &method, options.rank, options.alpha)?;
        remarks.push(scale);
    }
    let request = Request::new(&suite)?
        .with_first_seed()?
        .with_event_files(options.tensorboard);
    if options.print_config {
        print(&request.profile.to_toml())?;
        return Ok(Exit::Success);
    }
    bench_all::train(&request, &remarks, options.json)
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
    let given_rank = rank.map(|rank| format!("--rank {rank}"));
    let given_alpha = alpha.map(|alpha| format!("--alpha {alpha}"));
    let rank_set = (given_rank.iter().zip(rank))
        .map(|(typed, rank)| Assignment::by_flag(typed, format!("rank={rank}")));
    suite.set.extend(rank_set);
    let profile = Request::new(suite)?.profile;
    let settings = profile.settings(size, method)?.0;
    if !settings.low_rank {
        let flag = given_rank.or(given_alpha).unwrap_or_default();
        return Err(no_factors(&flag, method).into());
    }
    let before = match rank {
        Some(_) => profile.settings_before_set("rank", size, method)?,
        None => settings.clone(),
    };
    let kept = before.alpha / before.rank as f64;
    // One who sets alpha by its key means it as much as one who gives the flag.
    let by_key = |set: &Assignment| section_and_key(&set.text).1 == "alpha";
    let set = suite.set.iter().any(by_key).then_some(settings.alpha);
    let alpha = alpha.or(set).unwrap_or(kept * settings.rank as f64);
    if let Some(typed) = given_alpha.or(given_rank.filter(|_| set.is_none())) {
        suite
            .set
            .push(Assignment::by_flag(typed, format!("alpha={alpha:?}")));
    }
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

/// The assignments that bring the one run of these options, and the stage of `full` that it may begin with, to `steps` steps in
/// proportion, as [`lengths::in_steps`] does. A length that --set names is the one that is wanted: it is left out.
fn proportioned(suite: &SuiteOptions, size: &str, steps: u64) -> anyhow::Result<Vec<Assignment>> {
    let (named, others): (Vec<Assignment>, Vec<Assignment>) = (suite.set.iter().cloned())
        .partition(|set| lengths::KEYS.contains(&section_and_key(&set.text).1));
    let named: Vec<&str> = named.iter().map(|set| set.text.as_str()).collect();
    if let Some(set) = named.iter().find(|set| section_and_key(set).1 == "steps") {
        let message = format!("--steps {steps}: --set {set} says it too; leave one of them out");
        return Err(UserError::new(message).into());
    }
    let unnamed = SuiteOptions {
        set: others,
        ..suite.clone()
    };
    let profile = Request::new(&unnamed)?.profile;
    let cells = matrix::cells(&profile, &Surroundings::without_text(&profile))?;
    let Some(long) = cells.first() else {
        return Ok(Vec::new());
    };
    // Whether lengths of one's own come out even shows once they are all there.
    let short = match lengths::in_steps(long, steps) {
        Err(_) if !named.is_empty() => lengths::shortened(long, steps),
        short => short?,
    };
    let mut changed = changed(long, &short);
    changed.retain(|length| !named.iter().any(|set| length.is_named_by(set)));
    Ok(changed
        .iter()
        .map(|length| Assignment::by_flag(format!("--steps {steps}"), length.assignment(size)))
        .collect())
}

/// A length of a run that is another one than the profile's.
struct Length {
    /// The method in whose section it stands; none for one that all methods of the size share.
    method: Option<String>,
    /// The preset whose section that method takes over.
    preset: String,
    key: &'static str,
    value: toml::Value,
}

impl Length {
    /// Whether an assignment of --set says the same length, of the method or of all.
    fn is_named_by(&self, set: &str) -> bool {
        let (section, key) = section_and_key(set);
        let section = section.replace(['"', '\''], "");
        let of_this = match (section.split_once("method."), &self.method) {
            (Some((_, named)), Some(method)) => named == method || named == self.preset,
            _ => true,
        };
        of_this && key == self.key
    }

    /// As `--set` takes it, in its most specific section, so that the lengths of `full` stay apart from the method's own.
    fn assignment(&self, size: &str) -> String {
        let written = |name: &str| {
            let bare = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
            if name.chars().all(bare) {
                name.to_owned()
            } else {
                toml::Value::from(name).to_string()
            }
        };
        let method = (self.method.as_deref()).map(|name| format!("method.{}.", written(name)));
        format!(
            "size.{}.{}{}={}",
            written(size),
            method.unwrap_or_default(),
            self.key,
            self.value
        )
    }
}

/// The lengths in which a cell differs from what it was made of, of those that it uses.
fn changed(long: &Cell, short: &Cell) -> Vec<Length> {
    let values = (long.settings.show().into_iter()).zip(short.settings.show());
    let own = values
        .filter(|((key, before), (_, after))| {
            lengths::KEYS.contains(key) && long.settings.uses(key) && before != after
        })
        .map(|(_, (key, value))| Length {
            method: (!Settings::KEYS.contains(&(key, Scope::Size))).then(|| long.method.clone()),
            preset: long.preset.clone(),
            key,
            value,
        });
    let of_full = |cell: &Cell| {
        let stage = cell.warm_start.as_ref();
        [
            ("warmup_steps", stage.map(|stage| stage.warmup_steps)),
            ("cycle_steps", stage.and_then(|stage| stage.cycle_steps)),
        ]
    };
    let full = of_full(long).into_iter().zip(of_full(short));
    let full = full.filter(|(before, after)| before != after);
    let full = full.filter_map(|(_, (key, steps))| {
        Some(Length {
            method: Some("full".into()),
            preset: "full".into(),
            key,
            value: steps?.show(),
        })
    });
    own.chain(full).collect()
}

/// The section of an assignment of --set, and its key.
fn section_and_key(set: &str) -> (&str, &str) {
    let path = set.split('=').next().unwrap_or_default().trim();
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    (section, key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;
    use crate::recipe;
    use crate::settings::ScheduleSpan;

    /// The cell that `train` makes of the flags.
    fn cell(profile: &str, size: &str, method: &str, set: &[&str]) -> Cell {
        let lists = [
            format!("sizes=[\"{size}\"]"),
            format!("methods=[\"{method}\"]"),
        ];
        let set = set.iter().map(|set| (*set).to_owned());
        let set: Vec<Assignment> = set.chain(lists).map(Assignment::from).collect();
        let profile = Profile::load(profile, &set).expect("loads");
        let cells = matrix::cells(&profile, &Surroundings::without_text(&profile));
        cells.expect("cells").remove(0)
    }

    /// The assignments of --steps with these of --set.
    fn proportion(
        profile: &str,
        size: &str,
        method: &str,
        steps: u64,
        set: &[&str],
    ) -> anyhow::Result<Vec<Assignment>> {
        let lists = [
            format!("sizes=[\"{size}\"]"),
            format!("methods=[\"{method}\"]"),
        ];
        let set = set.iter().map(|set| (*set).to_owned());
        let suite = SuiteOptions {
            profile: Some(profile.to_owned()),
            set: set.chain(lists).map(Assignment::from).collect(),
            ..SuiteOptions::default()
        };
        proportioned(&suite, size, steps)
    }

    /// The cell with these steps and assignments of --set.
    fn cell_in(profile: &str, size: &str, method: &str, steps: u64, set: &[&str]) -> Cell {
        let lengths = proportion(profile, size, method, steps, set).expect(method);
        let all: Vec<&str> = lengths
            .iter()
            .map(|length| length.text.as_str())
            .chain(set.iter().copied())
            .collect();
        cell(profile, size, method, &all)
    }

    /// Restarts of the whole run, by what the trainer asks after every update.
    fn restarts(cell: &Cell) -> usize {
        let algorithm = cell.algorithm().expect("a schedule");
        (1..=algorithm.steps)
            .filter(|done| algorithm.restarts.after(*done))
            .count()
    }

    #[test]
    fn any_number_of_steps_keeps_the_profile_s_restarts_or_names_one_that_does() {
        for dialect in recipe::dialect_names() {
            let dialect = format!("dialect={dialect}");
            for method in recipe::preset_names() {
                let long = cell("laptop", "nano", method, &[&dialect]);
                for steps in [100, 123, 300, 1000, 1001, 1024, 5000] {
                    let short = match lengths::in_steps(&long, steps) {
                        Ok(_) => cell_in("laptop", "nano", method, steps, &[&dialect]),
                        Err(error) => {
                            // Without a warm start, or with a schedule of all steps, five cycles must come out even.
                            let settings = &long.settings;
                            let whole = settings.schedule_span == ScheduleSpan::Whole;
                            let even = steps % 5 == 0 || (settings.warm_start && !whole);
                            assert!(!even, "{dialect} {method} {steps}: {error}");
                            let below = steps / 5 * 5;
                            let nearest = format!(
                                "--steps {steps}: cannot be divided into the cycles of method `{method}` as the profile's \
                                 2000 steps are; nearest that can: {below}, {}",
                                below + 5
                            );
                            assert_eq!(error.to_string(), nearest);
                            continue;
                        }
                    };
                    let what = format!("{dialect} {method} {steps}");
                    assert_eq!(short.settings.steps, steps, "{what}");
                    assert_eq!(restarts(&short), restarts(&long), "{what}");
                    assert!(short.check().is_ok(), "{what}");
                }
            }
        }
        // Which cannot: the message is one line on what was typed.
        for (method, set) in [
            ("relora-no-warm-start", "dialect=default"),
            ("relora", "dialect=paper-2023-05"),
        ] {
            let error = proportion("laptop", "nano", method, 1024, &[set]).expect_err(method);
            assert!(error.to_string().ends_with("1020, 1025"), "{error}");
        }
        // A length of one's own may come out even where the profile's does not.
        let own = cell_in(
            "laptop",
            "nano",
            "relora-no-warm-start",
            1024,
            &["restart_every=256"],
        );
        assert_eq!(restarts(&own), 3);
        let error = proportion("laptop", "nano", "relora", 9, &[]).expect_err("cycles of one step");
        assert!(
            error.to_string().ends_with("; nearest that can: 10"),
            "{error}"
        );
    }

    /// Where the rate of `full` has another warm-up than the method's own, as in the paper's profile at 250M.
    #[test]
    fn a_warm_start_is_the_beginning_of_full_in_as_many_steps() {
        for (profile, size, steps, set) in [
            ("paper", "250m", 2000, &[][..]),
            ("laptop", "nano", 1024, &[]),
            // The cycles of `full` come out even too.
            (
                "laptop",
                "nano",
                1000,
                &["method.full.schedule=cosine-cycles"],
            ),
            ("laptop", "nano", 1000, &["schedule=cosine-cycles"]),
        ] {
            let relora = cell_in(profile, size, "relora", steps, set);
            let named = relora.warm_start_cell().expect("a warm start");
            let full = cell_in(profile, size, "full", steps, set);
            let schedules =
                [named, full].map(|cell| cell.algorithm().expect("a schedule").schedule);
            for step in 0..steps {
                let rates = [schedules[0].at(step), schedules[1].at(step)];
                assert_eq!(rates[0], rates[1], "{profile} {size} step {step}");
            }
        }
        let relora = cell_in("paper", "250m", "relora", 2000, &[]);
        let stage = relora.warm_start.as_ref().expect("a warm start");
        assert_eq!(
            (relora.settings.warmup_steps, stage.warmup_steps),
            (50, 100)
        );
    }

    /// Or they could not stand in one suite.
    #[test]
    fn methods_with_a_warm_start_have_the_same_one_in_as_many_steps() {
        for steps in [100, 123, 1001, 1024, 5000] {
            let warm_start = |method| {
                let cell = cell_in("laptop", "nano", method, steps, &[]);
                cell.settings.warm_start_steps
            };
            let relora = warm_start("relora");
            for method in ["lora-warm-start", "relora-no-restart", "relora-no-jagged"] {
                assert_eq!(warm_start(method), relora, "{method} {steps}");
            }
        }
    }

    #[test]
    fn a_control_has_any_number_of_steps() {
        for (profile, size, steps) in [("laptop", "nano", 300), ("paper", "130m", 1000)] {
            let whole = cell(profile, size, "control", &[]);
            let short = cell_in(profile, size, "control", steps, &[]);
            assert_eq!(
                (short.settings.steps, &short.network),
                (steps, &whole.network)
            );
            let bare = cell(
                profile,
                size,
                "control",
                &[&format!("steps={steps}"), "warmup_steps=7"],
            );
            assert_eq!(bare.network, whole.network);
        }
    }

    #[test]
    fn a_length_that_set_names_is_the_one_that_is_wanted() {
        for set in [
            "warmup_steps=7",
            "settings.warmup_steps=7",
            "method.relora.warmup_steps=7",
            "size.nano.method.relora.warmup_steps=7",
        ] {
            let settings = cell_in("laptop", "nano", "relora", 1000, &[set]).settings;
            assert_eq!(
                (
                    settings.warmup_steps,
                    settings.restart_every,
                    settings.warm_start_steps
                ),
                (7, 200, 200),
                "{set}"
            );
        }
        for set in ["warmup_steps=7", "method.full.warmup_steps=7"] {
            let settings = cell_in("laptop", "nano", "full", 1000, &[set]).settings;
            assert_eq!(
                (settings.warmup_steps, settings.evaluate_every),
                (7, 200),
                "{set}"
            );
        }
        // The profile's own number of steps changes nothing.
        let same = proportion("laptop", "nano", "relora", 2000, &[]).expect("the profile's");
        assert!(same.is_empty(), "{same:?}");
        // A warm start of its own leaves cycles of its own.
        let set = ["warm_start_steps=100", "restart_every=300"];
        let settings = cell_in("laptop", "nano", "relora", 1000, &set).settings;
        assert_eq!(
            (settings.warm_start_steps, settings.restart_every),
            (100, 300)
        );
        // What is of `full` leaves the method's own.
        let relora = cell_in(
            "laptop",
            "nano",
            "relora",
            1000,
            &["method.full.warmup_steps=7"],
        );
        let stage = relora.warm_start.as_ref().expect("a warm start");
        assert_eq!((relora.settings.warmup_steps, stage.warmup_steps), (30, 7));

        let error =
            proportion("laptop", "nano", "relora", 1000, &["steps=500"]).expect_err("twice");
        assert_eq!(
            error.to_string(),
            "--steps 1000: --set steps=500 says it too; leave one of them out"
        );
    }

    /// `--print-config` gives a profile, which must be that of the run.
    #[test]
    fn the_printed_profile_is_the_one_that_runs() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("paper.toml");
        for set in [&[][..], &["grad_clip=0.5"]] {
            let lengths = proportion("paper", "250m", "relora", 2000, set).expect("lengths");
            let mut all = lengths;
            all.extend(set.iter().map(|set| Assignment::from(*set)));
            all.extend(["sizes=[\"250m\"]", "methods=[\"relora\"]"].map(Assignment::from));
            let profile = Profile::load("paper", &all).expect("loads");
            std::fs::write(&path, profile.to_toml()).expect("written");
            let printed = Profile::load(&path.to_string_lossy(), &[]).expect("loads");
            let cells = |profile: &Profile| {
                matrix::cells(profile, &Surroundings::without_text(profile)).expect("cells")
            };
            assert_eq!(cells(&printed), cells(&profile));
        }
    }
}
