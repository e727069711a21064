//! The journal against a disk: killed, damaged, full, with other settings; and what its result says.

use super::*;
use crate::checkpoint::tests::Pretend;
use crate::lease::Claim;
use crate::settings::Settings;
use crate::stop::Stop;
use std::fs;

/// A cell of one seed and size: `full`, or `relora` whose warm start `full` can hand on.
pub(crate) fn cell(method: &str) -> Cell {
    let settings = Settings {
        warm_start: method == "relora",
        low_rank: method == "relora",
        ..Settings::default()
    };
    let full = Settings::default();
    let warm_start = (method == "relora").then(|| {
        serde_json::json!({
            "learning_rate": full.learning_rate,
            "warmup_steps": full.warmup_steps,
            "minimum_learning_rate_ratio": full.minimum_learning_rate_ratio,
            "schedule": full.schedule,
            "grad_clip": full.grad_clip,
        })
    });
    serde_json::from_value(serde_json::json!({
        "size": "nano", "method": method, "preset": method, "seed": 1, "dialect": "default",
        "device": "cpu", "precision": "f32", "hands_over": method == "full",
        "data": { "hash": "text", "vocabulary": 64 },
        "network": { "hidden": 8, "intermediate": 16, "layers": 1, "heads": 2 },
        "settings": settings, "warm_start": warm_start,
    }))
    .expect("a cell")
}

fn session() -> Session {
    Session {
        version: "0".into(),
        started_unix_seconds: 0,
        from_step: 0,
        device_name: "test".into(),
        threads: 1,
        kernels: None,
        cuda: None,
    }
}

fn open(suite: &Path, cell: &Cell) -> Result<Journal> {
    let directory = suite.join(cell.directory());
    files::create_directory(&directory)?;
    match Lease::claim(&directory, &Stop::new(None))? {
        Claim::Taken(lease) => Journal::open(&directory, cell, lease, session()),
        Claim::Held(holder) => bail!("held by {holder:?}"),
    }
}

fn at(step: u64) -> Progress {
    Progress {
        step,
        tokens_seen: 100 * step,
    }
}

fn train(journal: &mut Journal, steps: std::ops::RangeInclusive<u64>) -> Result<()> {
    for step in steps {
        let reading = Reading {
            step: step - 1,
            loss: 4.0 / step as f64,
            grad_norm: 1.0,
        };
        journal.step(at(step), &reading, 1e-3)?;
    }
    Ok(())
}

fn trained(journal: &mut Journal, steps: std::ops::RangeInclusive<u64>) {
    train(journal, steps).expect("written");
}

/// A checkpoint of a learner that is told by its number.
fn save(journal: &mut Journal, step: u64, learner: u8, keep: bool) {
    journal
        .checkpoint(at(step), &Pretend::new(learner), keep)
        .expect("written");
}

/// The last evaluation, checkpoint and result of a run that is complete.
fn finished(journal: &mut Journal, step: u64, learner: u8) {
    let loss = evaluate(journal, step).expect("written");
    journal
        .finish(
            at(step),
            Outcome::Complete,
            Some(loss),
            &Pretend::new(learner),
        )
        .expect("finished");
}

fn ended(suite: &Path, cell: &Cell) -> RunResult {
    let result = result(&suite.join(cell.directory()));
    result.expect("readable").expect("there")
}

fn evaluate(journal: &mut Journal, step: u64) -> Result<LossSum> {
    let loss = journal.measuring_evaluation(|| {
        Ok(LossSum {
            sum: 30.0,
            targets: 10,
        })
    })?;
    journal.evaluation(at(step), loss)?;
    Ok(loss)
}

/// Kind and step of every record.
fn records(suite: &Path, cell: &Cell) -> Vec<(&'static str, u64)> {
    let text = fs::read_to_string(suite.join(cell.directory()).join(METRICS)).expect("read");
    assert!(
        text.is_empty() || text.ends_with('\n'),
        "every line is whole"
    );
    let parse = |line| match serde_json::from_str(line).expect("a record") {
        Record::Step(record) => ("step", record.step),
        Record::Evaluation(record) => ("evaluation", record.step),
        Record::Restart(record) => ("restart", record.step),
        Record::Reset(record) => ("reset", record.step),
        Record::Stop(record) => ("stop", record.step),
    };
    text.lines().map(parse).collect()
}

fn suite() -> tempfile::TempDir {
    tempfile::tempdir().expect("temporary directory")
}

/// What a killed process leaves: its lease goes to the next one because it is dead. In one process, by dropping.
fn resume(suite: &Path, cell: &Cell) -> (Journal, Option<u64>) {
    let mut journal = open(suite, cell).expect("opened");
    let from = journal.newest_checkpoint().expect("looked for");
    match &from {
        Some(from) => journal.resume(from).expect("resumed"),
        None => journal.fresh().expect("begun"),
    }
    (journal, from.map(|from| from.progress.step))
}

/// A run of `full` at its first step, alone in its suite.
fn begun() -> (tempfile::TempDir, Cell, Journal) {
    let (suite, cell) = (suite(), cell("full"));
    let journal = resume(suite.path(), &cell).0;
    (suite, cell, journal)
}

#[test]
fn a_resumed_run_has_every_record_once_wherever_it_was_killed() {
    let cell = cell("full");
    let undisturbed: Vec<_> = (1..=6)
        .map(|step| ("step", step))
        .chain([("evaluation", 6)])
        .collect();
    // Killed with this many bytes of the records after the checkpoint of step 3 on the disk.
    let whole = {
        let suite = suite();
        let mut journal = resume(suite.path(), &cell).0;
        trained(&mut journal, 1..=3);
        save(&mut journal, 3, 1, false);
        trained(&mut journal, 4..=5);
        journal.stop(at(5), Reason::Interrupted).expect("written");
        fs::read(suite.path().join(cell.directory()).join(METRICS)).expect("read")
    };
    let ends: Vec<usize> = (0..whole.len())
        .filter(|index| whole[*index] == b'\n')
        .map(|index| index + 1)
        .collect();
    for cut in (ends[2]..=whole.len())
        .step_by(13)
        .chain([ends[2] + 1, ends[3], whole.len()])
    {
        let suite = suite();
        let mut journal = resume(suite.path(), &cell).0;
        trained(&mut journal, 1..=3);
        save(&mut journal, 3, 1, false);
        drop(journal);
        let mut file = OpenOptions::new()
            .append(true)
            .open(suite.path().join(cell.directory()).join(METRICS))
            .expect("open");
        file.write_all(&whole[ends[2]..cut]).expect("written");
        let (mut journal, from) = resume(suite.path(), &cell);
        assert_eq!(from, Some(3));
        trained(&mut journal, 4..=6);
        finished(&mut journal, 6, 2);
        assert_eq!(
            records(suite.path(), &cell),
            undisturbed,
            "cut at {cut} of {}",
            whole.len()
        );
    }
}

#[test]
fn a_run_killed_between_its_last_checkpoint_and_its_result_evaluates_again_and_has_the_record_once()
{
    let (suite, cell, mut journal) = begun();
    trained(&mut journal, 1..=2);
    finished(&mut journal, 2, 1);
    drop(journal);
    fs::remove_file(suite.path().join(cell.directory()).join(RESULT)).expect("removed");
    let (mut journal, from) = resume(suite.path(), &cell);
    assert_eq!(from, Some(2));
    finished(&mut journal, 2, 1);
    assert_eq!(
        records(suite.path(), &cell),
        [("step", 1), ("step", 2), ("evaluation", 2)]
    );
    assert!(
        result(&suite.path().join(cell.directory()))
            .expect("readable")
            .is_some()
    );
}

#[test]
fn damaged_records_are_kept_beside_those_that_a_run_goes_on_with() {
    let (suite, cell, mut journal) = begun();
    trained(&mut journal, 1..=2);
    save(&mut journal, 2, 1, false);
    trained(&mut journal, 3..=3);
    drop(journal);
    let directory = suite.path().join(cell.directory());
    let mut damaged = fs::read(directory.join(METRICS)).expect("read");
    damaged.extend(b"oops\n{\"type\":");
    fs::write(directory.join(METRICS), &damaged).expect("written");
    let (journal, from) = resume(suite.path(), &cell);
    assert_eq!(from, Some(2));
    drop(journal);
    assert_eq!(records(suite.path(), &cell), [("step", 1), ("step", 2)]);
    let kept = fs::read(directory.join("metrics.jsonl.damaged")).expect("kept");
    assert!(kept == damaged);
    // What a kill leaves behind is no damage.
    let mut file = OpenOptions::new()
        .append(true)
        .open(directory.join(METRICS))
        .expect("open");
    file.write_all(b"{\"type\":").expect("written");
    drop(resume(suite.path(), &cell));
    assert!(!directory.join("metrics.jsonl.damaged-1").exists());
}

#[test]
fn a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used() {
    let (suite, cell, mut journal) = begun();
    for step in 1..=3 {
        trained(&mut journal, step..=step);
        save(&mut journal, step, step as u8, false);
    }
    drop(journal);
    let folder = checkpoint::folder(&suite.path().join(cell.directory()));
    assert_eq!(
        checkpoint::steps(&folder).expect("listed"),
        [2, 3],
        "the newest two"
    );
    let path = checkpoint::at_step(&folder, 3).join("moments.safetensors");
    let mut bytes = fs::read(&path).expect("read");
    *bytes.last_mut().expect("not empty") ^= 1;
    fs::write(&path, bytes).expect("written");
    let mut journal = open(suite.path(), &cell).expect("opened");
    let from = journal
        .newest_checkpoint()
        .expect("looked for")
        .expect("the one before");
    let mut learner = Pretend::new(0);
    from.load_into(&mut learner).expect("loaded");
    assert_eq!(learner, Pretend::new(2));
    journal.resume(&from).expect("resumed");
    assert!(folder.join("step-3.damaged").is_dir());
    assert_eq!(records(suite.path(), &cell), [("step", 1), ("step", 2)]);
    trained(&mut journal, 3..=3);
    save(&mut journal, 3, 3, false);
    drop(journal);
    assert_eq!(resume(suite.path(), &cell).1, Some(3));
}

#[test]
fn a_checkpoint_whose_records_are_gone_is_not_used() {
    let (suite, cell, mut journal) = begun();
    for step in 1..=2 {
        trained(&mut journal, step..=step);
        save(&mut journal, step, 1, false);
    }
    drop(journal);
    let path = suite.path().join(cell.directory()).join(METRICS);
    let length = fs::metadata(&path).expect("there").len();
    OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_len(length - 1))
        .expect("cut");
    assert_eq!(resume(suite.path(), &cell).1, Some(1));
}

#[test]
fn a_run_made_with_other_settings_is_refused_with_the_fields_and_left_alone() {
    let (suite, mut cell) = (suite(), cell("full"));
    drop(resume(suite.path(), &cell).0);
    let directory = suite.path().join(cell.directory());
    let before = fs::read(directory.join(MANIFEST)).expect("read");
    cell.settings.learning_rate = 0.5;
    cell.data.hash = "other".into();
    let error = check(&directory, &cell).expect_err("refused");
    assert!(error.is::<UserError>());
    let line = error.to_string();
    assert!(
        line.contains("data.hash = \"text\", not \"other\"")
            && line.contains("settings.learning_rate = 0.001, not 0.5"),
        "{line}"
    );
    assert!(open(suite.path(), &cell).is_err_and(|error| error.is::<UserError>()));
    assert_eq!(fs::read(directory.join(MANIFEST)).expect("read"), before);
}

#[test]
fn a_directory_of_something_else_is_refused_and_left_alone() {
    let (suite, cell) = (suite(), cell("full"));
    let directory = suite.path().join(cell.directory());
    fs::create_dir(&directory).expect("created");
    fs::write(directory.join("thesis.tex"), "years of work").expect("written");
    let error = check(&directory, &cell).expect_err("refused");
    assert!(
        error.is::<UserError>()
            && error
                .to_string()
                .contains("holds thesis.tex but no manifest.json"),
        "{error}"
    );
    assert_eq!(files::entries(&directory).expect("listed").len(), 1);
    fs::rename(directory.join("thesis.tex"), directory.join(MANIFEST)).expect("renamed");
    assert!(check(&directory, &cell).is_err_and(|error| error.is::<UserError>()));
}

#[test]
fn a_warm_start_is_handed_on_with_its_records_and_its_time() {
    let (suite, full, relora) = (suite(), cell("full"), cell("relora"));
    let mut journal = resume(suite.path(), &full).0;
    trained(&mut journal, 1..=2);
    std::thread::sleep(Duration::from_millis(20));
    trained(&mut journal, 3..=3);
    save(&mut journal, 3, 7, true);
    trained(&mut journal, 4..=5);
    let charged = journal.clock.training_seconds;
    drop(journal);

    let mut journal = open(suite.path(), &relora).expect("opened");
    assert!(journal.newest_checkpoint().expect("looked for").is_none());
    assert!(
        journal.warm_start(2).expect("looked for").is_none(),
        "only exactly that step"
    );
    let from = journal
        .warm_start(3)
        .expect("looked for")
        .expect("handed on");
    let mut learner = Pretend::new(0);
    from.load_into(&mut learner).expect("loaded");
    assert_eq!(learner, Pretend::new(7));
    journal.resume(&from).expect("resumed");
    trained(&mut journal, 4..=4);
    assert_eq!(
        records(suite.path(), &relora),
        [("step", 1), ("step", 2), ("step", 3), ("step", 4)]
    );
    save(&mut journal, 4, 8, false);
    drop(journal);

    let (mut journal, from) = resume(suite.path(), &relora);
    assert_eq!(from, Some(4), "its own now");
    finished(&mut journal, 4, 8);
    let result = ended(suite.path(), &relora);
    assert!(
        result.training_seconds >= 0.02 && charged >= 0.02,
        "the warm start is charged"
    );
    assert!(result.wall_seconds >= result.training_seconds + result.evaluation_seconds);
    assert_eq!((result.update_steps, result.tokens_seen), (4, 400));
}

#[test]
fn a_warm_start_of_another_run_or_a_damaged_one_is_not_handed_on() {
    let (suite, full, mut relora) = (suite(), cell("full"), cell("relora"));
    let mut journal = resume(suite.path(), &full).0;
    trained(&mut journal, 1..=3);
    save(&mut journal, 3, 7, true);
    drop(journal);
    let handed_on = |cell: &Cell| {
        let journal = open(suite.path(), cell).expect("opened");
        journal.warm_start(3).expect("looked for").is_some()
    };
    assert!(handed_on(&relora));
    relora.seed = 2;
    relora.size = "other".into();
    assert!(!handed_on(&relora), "no full run of that size");
    let directory =
        checkpoint::at_step(&checkpoint::folder(&suite.path().join(full.directory())), 3);
    fs::write(directory.join("weights.safetensors"), "damaged").expect("written");
    assert!(!handed_on(&cell("relora")));
    assert!(
        directory.is_dir(),
        "another run's checkpoint is not ours to rename"
    );
}

/// The last update's own loss was finite; the weights that it left are not.
#[test]
fn a_run_whose_last_evaluation_is_not_finite_has_diverged() {
    let (suite, cell, mut journal) = begun();
    trained(&mut journal, 1..=4);
    let loss = LossSum {
        sum: f64::NAN,
        targets: 7,
    };
    let outcome = journal
        .finish(at(4), Outcome::Complete, Some(loss), &Pretend::new(1))
        .expect("finished");
    assert_eq!(outcome, Outcome::Diverged { step: 4 });
    let result = ended(suite.path(), &cell);
    assert_eq!(
        (
            result.status,
            result.diverged_at_step,
            result.validation_loss
        ),
        (Status::Diverged, Some(4), None)
    );
}

#[test]
fn a_result_has_the_figures_of_the_records() {
    let (suite, cell, mut journal) = begun();
    journal.set_bytes_per_target(3.5);
    trained(&mut journal, 1..=4);
    journal.restart(at(4)).expect("written");
    journal
        .reset(
            at(4),
            ResetReport {
                total: 6,
                zeroed: 5,
            },
        )
        .expect("written");
    finished(&mut journal, 4, 1);
    let result = ended(suite.path(), &cell);
    assert_eq!(
        (result.status, result.diverged_at_step),
        (Status::Complete, None)
    );
    assert_eq!(
        (
            result.validation_loss,
            result.validation_targets,
            result.training_loss
        ),
        (Some(3.0), 10, Some(1.0))
    );
    assert_eq!(
        (result.restarts, result.resets, result.bytes_per_target),
        (1, 1, 3.5)
    );
    // Of `Pretend`: 6 weights of two bytes, 3 + 3 of four; moments 3 + 3 of four.
    assert_eq!(
        (result.weight_bytes, result.optimizer_state_bytes),
        (36, 24)
    );
    assert_eq!(result.peak_memory_bytes, Some(4096));
}

#[test]
fn the_memory_of_the_process_does_not_stand_for_that_of_a_gpu() {
    assert_eq!(peak_memory_bytes(None, "cuda"), None);
    assert_eq!(peak_memory_bytes(Some(1), "cuda"), Some(1));
    assert_eq!(peak_memory_bytes(Some(1), "cpu"), Some(1));
    assert!(peak_memory_bytes(None, "cpu") > Some(1 << 20));
}

#[test]
fn a_diverged_run_has_a_result_and_no_loss() {
    let (suite, cell, mut journal) = begun();
    trained(&mut journal, 1..=1);
    journal
        .step(
            at(2),
            &Reading {
                step: 1,
                loss: f64::NAN,
                grad_norm: f64::INFINITY,
            },
            1e-3,
        )
        .expect("written");
    journal
        .finish(at(2), Outcome::Diverged { step: 2 }, None, &Pretend::new(1))
        .expect("finished");
    let result = ended(suite.path(), &cell);
    assert_eq!(
        (
            result.status,
            result.diverged_at_step,
            result.validation_loss
        ),
        (Status::Diverged, Some(2), None)
    );
}

#[test]
fn the_next_session_takes_a_failure_away_and_is_listed() {
    let (suite, cell) = (suite(), cell("full"));
    let directory = suite.path().join(cell.directory());
    let mut journal = resume(suite.path(), &cell).0;
    trained(&mut journal, 1..=2);
    save(&mut journal, 2, 1, false);
    journal.fail("the device failed").expect("written");
    drop(journal);
    assert_eq!(
        failure(&directory).expect("readable").expect("there").error,
        "the device failed"
    );
    drop(resume(suite.path(), &cell));
    assert_eq!(failure(&directory).expect("readable"), None);
    let manifest: Manifest =
        files::read_json(&directory.join(MANIFEST), "a manifest").expect("readable");
    assert_eq!(
        manifest
            .sessions
            .iter()
            .map(|session| session.from_step)
            .collect::<Vec<_>>(),
        [0, 2]
    );
}

#[test]
fn the_newest_record_is_the_last_whole_line() {
    let (suite, cell) = (suite(), cell("full"));
    let directory = suite.path().join(cell.directory());
    let mut journal = resume(suite.path(), &cell).0;
    assert_eq!(newest_record(&directory).expect("readable"), None);
    trained(&mut journal, 1..=100);
    journal.stop(at(100), Reason::Budget).expect("written");
    let stop = Record::Stop(StopRecord {
        step: 100,
        reason: "budget".into(),
    });
    assert_eq!(
        newest_record(&directory).expect("readable"),
        Some(stop.clone())
    );
    let mut file = OpenOptions::new()
        .append(true)
        .open(directory.join(METRICS))
        .expect("open");
    file.write_all(b"{\"type\":\"st").expect("written");
    assert_eq!(newest_record(&directory).expect("readable"), Some(stop));
}

/// Not a test by itself: the other process of the next test, which runs this test binary again, since a panic spoils
/// a whole process.
#[test]
fn panicking_process() {
    let Some(suite) = std::env::var_os("RELORA_TEST_PANIC_DIRECTORY") else {
        return;
    };
    let mut journal = resume(Path::new(&suite), &cell("full")).0;
    trained(&mut journal, 1..=2);
    stop::poison_on_panic();
    let caught = std::thread::Builder::new()
        .name("device".into())
        .spawn(|| panic!("out of\nmemory"))
        .expect("started")
        .join();
    assert!(caught.is_err());
    let line = train(&mut journal, 3..=3).expect_err("refused").to_string();
    assert!(
        line.starts_with("panic in thread device at ") && line.ends_with(": out of memory"),
        "{line}"
    );
    assert_eq!(
        journal
            .checkpoint(at(3), &Pretend::new(1), false)
            .expect_err("refused")
            .to_string(),
        line
    );
    journal.fail(&line).expect("only the failure is written");
}

#[test]
fn a_process_in_which_any_thread_has_panicked_writes_no_record_and_no_checkpoint() {
    let suite = suite();
    let mut other = std::process::Command::new(std::env::current_exe().expect("test binary"));
    other
        .args(["journal::tests::panicking_process", "--exact"])
        .env("RELORA_TEST_PANIC_DIRECTORY", suite.path());
    let output = other.output().expect("started");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let cell = cell("full");
    assert_eq!(records(suite.path(), &cell), [("step", 1), ("step", 2)]);
    assert!(
        checkpoint::steps(&checkpoint::folder(&suite.path().join(cell.directory())))
            .expect("listed")
            .is_empty()
    );
}

/// A file system of 256 KiB in memory, unmounted at the end; none where we may not mount.
#[cfg(target_os = "linux")]
struct SmallDisk(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let directory = suite();
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
            .arg(directory.path());
        let mounted = mount
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            // Past the test harness, which keeps to itself what a passing test prints.
            writeln!(
                io::stderr(),
                "skipped: a small file system cannot be mounted here"
            )
            .expect("standard error");
        }
        mounted.then_some(SmallDisk(directory))
    }

    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("ballast");
        let mut file = File::create(&path).expect("created");
        while file.write_all(&[0; 512]).is_ok() {}
        path
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .status();
        assert!(unmounted.is_ok_and(|status| status.success()), "unmounted");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn on_a_full_disk_every_write_fails_with_its_path_and_the_run_goes_on_once_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let (suite, cell) = (disk.0.path(), cell("full"));
    let full = |result: Result<()>, name: &str| {
        let line = result.expect_err("no room").to_string();
        assert!(
            line.contains(name) && line.contains("No space left on device"),
            "{line}"
        );
    };
    let ballast = disk.fill();
    full(open(suite, &cell).map(drop), "lease");
    fs::remove_file(&ballast).expect("removed");

    let mut journal = resume(suite, &cell).0;
    trained(&mut journal, 1..=3);
    save(&mut journal, 3, 3, false);
    let ballast = disk.fill();
    full(train(&mut journal, 4..=400), METRICS);
    full(
        journal.checkpoint(at(4), &Pretend::new(4), false),
        "checkpoints",
    );
    full(
        journal
            .finish(at(4), Outcome::Diverged { step: 4 }, None, &Pretend::new(4))
            .map(drop),
        RESULT,
    );
    full(journal.fail("full"), FAILED);
    drop(journal);
    fs::remove_file(&ballast).expect("removed");

    let (mut journal, from) = resume(suite, &cell);
    assert_eq!(from, Some(3), "nothing lost");
    assert_eq!(
        records(suite, &cell),
        [("step", 1), ("step", 2), ("step", 3)]
    );
    trained(&mut journal, 4..=4);
    finished(&mut journal, 4, 4);
    let left = fs::read_dir(checkpoint::folder(&suite.join(cell.directory())))
        .expect("listed")
        .count();
    assert_eq!(left, 1, "no half-written checkpoint stays");
}

/// A step of training that takes a while on a GPU that draws power.
fn trained_slowly(journal: &mut Journal, step: u64, milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
    trained(journal, step..=step);
}

/// The journal of a cell's run as [`resume`] has it, with a meter or without.
fn resume_metered(suite: &Path, cell: &Cell, has_meter: bool) -> Journal {
    // Before the clock begins: the first one builds the library.
    let meter = crate::nvml::tests::meter(0).expect("a meter");
    let mut journal = open(suite, cell).expect("opened");
    if has_meter {
        journal.measure(meter);
    }
    let own = journal.newest_checkpoint().expect("looked for");
    let handed_on = || journal.warm_start(1).expect("looked for");
    match own.or_else(handed_on) {
        Some(from) => journal.resume(&from).expect("resumed"),
        None => journal.fresh().expect("begun"),
    }
    journal
}

/// Within a quarter: the machine may be busy.
fn near(value: Option<f64>, expected: f64) {
    let value = value.expect("told");
    assert!(
        (value / expected - 1.0).abs() < 0.25,
        "{value} for {expected}"
    );
}

/// The card of the stand-in library draws 250 W all the time, so that energy is time: what is killed after its checkpoint is in
/// neither.
#[test]
fn a_resumed_run_has_the_energy_of_its_time_once() {
    let watts = crate::nvml::tests::WATTS;
    let (suite, cell) = (suite(), cell("full"));
    let mut journal = resume_metered(suite.path(), &cell, true);
    trained_slowly(&mut journal, 1, 150);
    save(&mut journal, 1, 1, false);
    trained_slowly(&mut journal, 2, 2000);
    drop(journal);
    let mut journal = resume_metered(suite.path(), &cell, true);
    trained_slowly(&mut journal, 2, 150);
    finished(&mut journal, 2, 1);
    let result = ended(suite.path(), &cell);
    let gpu = result.gpu.expect("metered");
    assert!(result.training_seconds < 2.0, "{}", result.training_seconds);
    near(gpu.training_joules, watts * result.training_seconds);
    near(gpu.joules, watts * result.wall_seconds);
    near(gpu.joules_per_token, watts / result.tokens_per_second);
    near(gpu.utilization, 0.8);
    assert_eq!(gpu.peak_memory_bytes, Some(4 << 30));
}

#[test]
fn a_warm_start_is_handed_on_with_its_energy_which_no_token_of_the_method_is_charged_with() {
    let watts = crate::nvml::tests::WATTS;
    let (suite, full, mut relora) = (suite(), cell("full"), cell("relora"));
    relora.settings.warm_start_steps = 1;
    let mut journal = resume_metered(suite.path(), &full, true);
    trained_slowly(&mut journal, 1, 150);
    save(&mut journal, 1, 7, true);
    drop(journal);
    let mut journal = resume_metered(suite.path(), &relora, true);
    assert_eq!(journal.clock.warm_start_tokens, 100, "handed on");
    trained_slowly(&mut journal, 2, 150);
    trained_slowly(&mut journal, 3, 150);
    finished(&mut journal, 3, 8);
    let result = ended(suite.path(), &relora);
    let gpu = result.gpu.expect("metered");
    near(gpu.training_joules, watts * result.training_seconds);
    near(gpu.joules_per_token, watts / result.tokens_per_second);
}

#[test]
fn a_run_of_which_a_process_had_no_meter_has_no_energy_rather_than_part_of_it() {
    for first_is_metered in [true, false] {
        let (suite, cell) = (suite(), cell("full"));
        let mut journal = resume_metered(suite.path(), &cell, first_is_metered);
        trained(&mut journal, 1..=1);
        save(&mut journal, 1, 1, false);
        drop(journal);
        let mut journal = resume_metered(suite.path(), &cell, !first_is_metered);
        trained(&mut journal, 2..=2);
        finished(&mut journal, 2, 1);
        assert_eq!(ended(suite.path(), &cell).gpu, None);
        let text = fs::read_to_string(suite.path().join(cell.directory()).join(RESULT));
        assert!(
            !text.expect("read").contains("gpu"),
            "absent, not null or zero"
        );
    }
}
