//! What happens to a suite when something is killed, full, damaged or there twice.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Draw, World, ended, patiently, skipped, tables};

/// Seed of the moments. Another one is as good; this one is stated so that a failure can be seen again.
const SEED: u64 = 20_230_705;

/// Every method, on the text that everybody has, as a person would start it.
fn smoke(out: &str) -> [&str; 7] {
    [
        "bench-all",
        "--profile",
        "smoke",
        "--device",
        "cpu",
        "--out",
        out,
    ]
}

#[test]
fn the_smoke_suite_killed_at_ten_random_moments_ends_with_the_same_tables() {
    let world = World::new();
    // Prepares the text, so that what is measured next is the suite.
    world.succeed(&["plan", "--profile", "smoke", "--device", "cpu"]);
    world.succeed(&smoke("undisturbed"));
    let whole = records(&world.path("undisturbed"));

    let mut draw = Draw(SEED);
    let mut supervisor: Option<Child> = None;
    for moment in 1..=10 {
        let mut running = supervisor.take().unwrap_or_else(|| {
            let mut command = world.command(&smoke("disturbed"));
            command.spawn().expect("the command starts")
        });
        // By what is recorded, not by the clock of a machine that may be busy. At most a tenth of the whole further on, and
        // at any instant of a step, so that all ten come before the end: what was done since the last checkpoint is done
        // again, and a worker that is killed leaves the other cells to go on.
        let further = (whole as f64 * (0.01 + 0.09 * draw.share())) as usize;
        let then = records(&world.path("disturbed")) + further;
        patiently(|| (records(&world.path("disturbed")) >= then).then_some(()));
        thread::sleep(Duration::from_micros((20_000.0 * draw.share()) as u64));
        if moment % 3 == 0 {
            patiently(|| {
                let worker = worker_of(&running).filter(|worker| !is_zombie(*worker))?;
                kill(worker, Signal::SIGKILL).ok()
            });
            supervisor = Some(running);
        } else {
            running.kill().expect("nobody has waited for it yet");
            let status = running.wait().expect("waited for");
            assert_eq!(
                status.signal(),
                Some(Signal::SIGKILL as i32),
                "{moment}: had ended before"
            );
        }
    }
    assert!(supervisor.is_none(), "the tenth is a supervisor's");
    world.succeed(&smoke("disturbed"));

    assert_eq!(
        tables(&world.path("disturbed")),
        tables(&world.path("undisturbed"))
    );
    no_line_twice(&world, "disturbed");
    weights_are_equal(&world.path("undisturbed"), &world.path("disturbed"));
}

#[test]
fn workers_end_by_themselves_when_their_supervisor_is_killed() {
    let world = World::new();
    let mut supervisor = world
        .command(&World::suite("out", &["--set", "settings.steps=100010"]))
        .spawn()
        .expect("it starts");
    let worker = patiently(|| worker_of(&supervisor));
    supervisor.kill().expect("killed");
    supervisor.wait().expect("waited for");
    patiently(|| (kill(worker, None).is_err() || is_zombie(worker)).then_some(()));
}

#[test]
fn an_interrupted_suite_says_so_and_goes_on() {
    let world = World::new();
    let more = [
        "--only",
        "full",
        "--set",
        "settings.steps=3210",
        "--set",
        "settings.evaluate_every=0",
        "--set",
        "settings.checkpoint_every=500",
    ];
    let arguments = World::suite("out", &more);
    let supervisor = world.command(&arguments).spawn().expect("it starts");
    patiently(|| worker_of(&supervisor));
    patiently(|| {
        world
            .path("out/tiny-full-seed1/metrics.jsonl")
            .metadata()
            .ok()
            .filter(|metadata| metadata.len() > 0)
    });
    kill(Pid::from_raw(supervisor.id() as i32), Signal::SIGTERM).expect("sent");
    let ended = ended(supervisor);
    assert_eq!(ended.code, Some(75), "{ended:#?}");
    let status = world.succeed(&["status", "out", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("JSON");
    assert_eq!(status[0]["status"], "stopped: interrupted", "{status:#}");
    assert!(status[0]["update_steps"].as_u64() > Some(0), "{status:#}");
    world.succeed(&arguments);
    world.succeed(&World::suite("undisturbed", &more));
    assert_eq!(
        tables(&world.path("out")),
        tables(&world.path("undisturbed"))
    );
}

/// As under `nohup`: who ignores SIGHUP when he starts a suite wants it to outlive his terminal.
#[test]
fn a_suite_that_was_started_with_hangups_ignored_outlives_its_terminal() {
    let world = World::new();
    let plain = world.command(&World::suite(
        "out",
        &["--only", "full", "--set", "settings.steps=100010"],
    ));
    let mut deaf = Command::new("sh");
    deaf.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""])
        .arg(plain.get_program())
        .args(plain.get_args())
        .envs((plain.get_envs()).filter_map(|(name, value)| Some((name, value?))))
        .current_dir(world.path(""))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let supervisor = deaf.spawn().expect("it starts");
    let worker = patiently(|| worker_of(&supervisor));
    patiently(|| {
        let records = world.path("out/tiny-full-seed1/metrics.jsonl").metadata();
        records.ok().filter(|metadata| metadata.len() > 0)
    });
    let itself = Pid::from_raw(supervisor.id() as i32);
    for process in [worker, itself] {
        kill(process, Signal::SIGHUP).expect("sent");
    }
    let before = records(&world.path("out"));
    patiently(|| (records(&world.path("out")) > before + 100).then_some(()));
    kill(itself, Signal::SIGTERM).expect("sent");
    let ended = ended(supervisor);
    assert_eq!(ended.code, Some(75), "{ended:#?}");
}

#[test]
fn an_interrupt_while_the_text_is_prepared_ends_with_the_code_of_what_goes_on() {
    let world = World::new();
    world.succeed(&World::tiny("plan", &["--out", "out"]));
    // Who holds the lock of a store that is not there makes the next command wait for it.
    let stores = fs::read_dir(world.path("cache/relora/stores")).expect("listed");
    let mut paths = stores.map(|entry| entry.expect("an entry").path());
    let lock = paths
        .find(|path| path.extension().is_some_and(|it| it == "lock"))
        .expect("a lock");
    fs::remove_dir_all(lock.with_extension("")).expect("removed");
    let held = fs::File::open(&lock).expect("opened");
    held.lock().expect("locked");
    for (name, line) in [
        (
            "bench-all",
            "stopped before any training; the same command goes on",
        ),
        (
            "plan",
            "stopped before the plan was made; the same command makes it",
        ),
    ] {
        let mut command = world.command(&World::tiny(name, &["--out", "out"]));
        let said = world.path("said");
        command.stderr(fs::File::create(&said).expect("created"));
        let mut process = command.spawn().expect("it starts");
        let stderr = || fs::read_to_string(&said).expect("read");
        patiently(|| {
            stderr()
                .contains("waiting for another process")
                .then_some(())
        });
        kill(Pid::from_raw(process.id() as i32), Signal::SIGTERM).expect("sent");
        let status = process.wait().expect("waited for");
        assert_eq!(status.code(), Some(75), "{}", stderr());
        assert!(stderr().contains(line), "{}", stderr());
    }
    drop(held);
    world.succeed(&World::suite("out", &["--only", "full"]));
}

#[test]
fn two_supervisors_at_once_share_the_cells() {
    let world = World::new();
    let arguments = World::suite("out", &[]);
    let pair = [0, 1].map(|_| world.command(&arguments).spawn().expect("it starts"));
    for supervisor in pair {
        let ended = ended(supervisor);
        assert_eq!(ended.code, Some(0), "{ended:#?}");
    }
    world.succeed(&World::suite("alone", &[]));
    assert_eq!(tables(&world.path("out")), tables(&world.path("alone")));
    no_line_twice(&world, "out");
}

#[test]
fn a_finished_suite_is_not_repeated() {
    let world = World::new();
    let arguments = World::suite("out", &["--only", "full"]);
    world.succeed(&arguments);
    let run = world.path("out/tiny-full-seed1");
    let before: Vec<_> = ["manifest.json", "metrics.jsonl", "result.json"]
        .map(|file| fs::read(run.join(file)).expect("a file"))
        .into();
    world.succeed(&arguments);
    let after: Vec<_> = ["manifest.json", "metrics.jsonl", "result.json"]
        .map(|file| fs::read(run.join(file)).expect("a file"))
        .into();
    assert!(before == after);
}

#[test]
fn a_full_disk_fails_the_cells_with_a_line_each_and_the_same_command_goes_on_once_there_is_room() {
    if !can_mount(
        "faults::a_full_disk_fails_the_cells_with_a_line_each_and_the_same_command_goes_on_once_there_is_room",
    ) {
        return;
    }
    // A checkpoint of this width, 5 MB, does not fit, the tables do; or nothing does any more once the records have used up
    // the room.
    for (kibibytes, code, file, more) in [
        (
            1024,
            3,
            ".safetensors",
            &[
                "--set",
                "settings.hidden=128",
                "--set",
                "settings.intermediate=256",
            ][..],
        ),
        (
            64,
            1,
            "metrics.jsonl",
            &[
                "--set",
                "methods=[\"full\"]",
                "--set",
                "settings.checkpoint_every=0",
                "--set",
                "settings.steps=420",
            ],
        ),
    ] {
        let world = World::new();
        world.succeed(&World::suite("good", more));
        let disk = Disk::mount(&world, kibibytes);
        let arguments = World::suite("disk/out", more);
        let ended = world.run(&arguments);
        assert_eq!(ended.code, Some(code), "{file}: {ended:#?}");
        let failed: Vec<&str> = (ended.stderr.lines())
            .filter(|line| line.contains("failed: "))
            .collect();
        assert!(
            !failed.is_empty()
                && (failed.iter())
                    .all(|line| line.contains(&format!("{file}: No space left on device"))),
            "{file}: {ended:#?}"
        );
        if code == 1 {
            // The tables do not fit either.
            let last = ended.stderr.lines().last().unwrap_or_default();
            assert!(
                last.starts_with("error: cannot write disk/out/tables")
                    && last.contains(": No space left on device"),
                "{ended:#?}"
            );
        }
        assert!(!ended.stderr.contains("panicked"), "{ended:#?}");
        assert!(!world.path("disk/out/tiny-full-seed1/result.json").exists());
        let status = world.succeed(&["status", "disk/out"]).stdout;
        assert!(!status.contains("complete"), "{status}");

        disk.resize(32 * 1024);
        world.succeed(&arguments);
        assert_eq!(
            tables(&world.path("disk/out")),
            tables(&world.path("good")),
            "{file}"
        );
        no_line_twice(&world, "disk/out");
        weights_are_equal(&world.path("good"), &world.path("disk/out"));
    }
}

#[test]
fn a_token_store_that_does_not_fit_is_one_line_and_is_built_once_there_is_room() {
    if !can_mount(
        "faults::a_token_store_that_does_not_fit_is_one_line_and_is_built_once_there_is_room",
    ) {
        return;
    }
    let world = World::new();
    let arguments = World::suite("out", &["--only", "full"]);
    world.succeed(&World::suite("good", &["--only", "full"]));
    let disk = Disk::mount(&world, 16);
    let run = || {
        let mut command = world.command(&arguments);
        command.env("XDG_CACHE_HOME", world.path("disk"));
        ended(command.spawn().expect("it starts"))
    };
    let full = run();
    assert_eq!(full.code, Some(1), "{full:#?}");
    let last = full.stderr.lines().last().unwrap_or_default();
    for part in [
        "error: ",
        "disk/relora/stores/",
        "No space left on device",
        "XDG_CACHE_HOME",
    ] {
        assert!(last.contains(part), "{part}: {full:#?}");
    }
    assert!(
        !full.stderr.contains("panicked") && !world.path("out").exists(),
        "{full:#?}"
    );

    disk.resize(32 * 1024);
    let room = run();
    assert_eq!(room.code, Some(0), "{room:#?}");
    assert_eq!(tables(&world.path("out")), tables(&world.path("good")));
}

/// Says to a test of a full disk, by its name, whether it may mount one: as root, or in a namespace of its own, where the
/// test is started a second time and this first one is over. It is said where neither is possible.
fn can_mount(test: &str) -> bool {
    const INSIDE: &str = "RELORA_TEST_IN_NAMESPACE";
    let folder = tempfile::tempdir().expect("a temporary folder");
    if mount(folder.path(), "size=16k") {
        unmount(folder.path());
        return true;
    }
    let namespace = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]);
        command
    };
    let possible = namespace()
        .args(["mount", "-t", "tmpfs", "tmpfs"])
        .arg(folder.path())
        .output();
    if std::env::var_os(INSIDE).is_some() || !possible.is_ok_and(|output| output.status.success()) {
        skipped("a small file system cannot be mounted here");
        return false;
    }
    let inside = namespace()
        .arg(std::env::current_exe().expect("the test binary"))
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("started");
    let said = String::from_utf8_lossy(&inside.stdout);
    assert!(
        inside.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&inside.stderr)
    );
    false
}

fn mount(folder: &Path, options: &str) -> bool {
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", options, "tmpfs"])
        .arg(folder);
    mount.output().is_ok_and(|output| output.status.success())
}

fn unmount(folder: &Path) {
    let unmounted = Command::new("umount").arg("-l").arg(folder).status();
    assert!(unmounted.is_ok_and(|status| status.success()), "unmounted");
}

/// A small file system at `disk` in the folder of a test, unmounted at the end.
struct Disk(PathBuf);

impl Disk {
    fn mount(world: &World, kibibytes: u32) -> Disk {
        let path = world.path("disk");
        fs::create_dir(&path).expect("created");
        assert!(mount(&path, &format!("size={kibibytes}k")), "mounted");
        Disk(path)
    }

    fn resize(&self, kibibytes: u32) {
        assert!(
            mount(&self.0, &format!("remount,size={kibibytes}k")),
            "mounted anew"
        );
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

#[test]
fn a_damaged_checkpoint_is_noticed_and_the_one_before_it_used() {
    let world = World::new();
    world.succeed(&World::suite("good", &["--only", "full"]));
    let arguments = World::suite("out", &["--only", "full"]);
    for file in ["weights.safetensors", "moments.safetensors", "state.json"] {
        world.succeed(&arguments);
        let run = world.path("out/tiny-full-seed1");
        // Back to a moment before the end: without its result the run goes on from its newest checkpoint.
        fs::remove_file(run.join("result.json")).expect("removed");
        damage(&newest_checkpoint(&run).join(file));
        let ended = world.succeed(&arguments);
        assert!(
            ended.stderr.contains("warning") && ended.stderr.contains("step-42"),
            "{file}: {}",
            ended.stderr
        );
        assert_eq!(
            tables(&world.path("out")),
            tables(&world.path("good")),
            "{file}"
        );
    }
}

#[test]
fn all_checkpoints_damaged_means_from_the_start() {
    let world = World::new();
    world.succeed(&World::suite("good", &["--only", "full"]));
    let arguments = World::suite("out", &["--only", "full"]);
    world.succeed(&arguments);
    let run = world.path("out/tiny-full-seed1");
    fs::remove_file(run.join("result.json")).expect("removed");
    for entry in fs::read_dir(run.join("checkpoints")).expect("checkpoints") {
        damage(&entry.expect("an entry").path().join("weights.safetensors"));
    }
    world.succeed(&arguments);
    assert_eq!(tables(&world.path("out")), tables(&world.path("good")));
}

/// What one damaged file does to everything else of a suite: nothing.
#[test]
fn a_run_that_cannot_be_read_is_shown_as_such_and_left_as_it_is() {
    let world = World::new();
    let arguments = World::suite("out", &["--only", "full,relora"]);
    world.succeed(&arguments);
    let run = "out/tiny-relora-seed1";
    for (file, damage, at) in [
        ("result.json", "{", ":1:"),
        ("metrics.jsonl", "oops\n", ":1:"),
        // What a kill leaves of a run that goes on is none of one that has ended.
        ("metrics.jsonl", "oops", ": is cut short"),
        ("metrics.jsonl", "", ": is cut short"),
    ] {
        let path = world.path(run).join(file);
        let before = fs::read(&path).expect("read");
        fs::write(&path, damage).expect("written");
        let reason = format!("{run}/{file}{at}");

        let status = world.succeed(&["status", "out"]);
        assert_eq!(status.stderr.lines().count(), 1, "{}", status.stderr);
        let warning = format!("warning: {reason}");
        assert!(status.stderr.starts_with(&warning), "{}", status.stderr);
        for part in ["tiny-full-seed1", "complete", "unreadable", &reason] {
            assert!(status.stdout.contains(part), "{part}: {}", status.stdout);
        }
        // Nobody knows how far it came, and 0 would be a figure.
        let rows = world.succeed(&["status", "out", "--json"]).stdout;
        let rows: Value = serde_json::from_str(&rows).expect("JSON");
        let row = (rows.as_array().into_iter().flatten())
            .find(|row| row["status"] == "unreadable")
            .expect("its row");
        assert!(row["update_steps"].is_null(), "{row}");
        let tables = world.succeed(&["tables", "out"]);
        assert!(tables.stderr.contains(&warning), "{}", tables.stderr);
        let line = format!("- `relora` with seed 1 is left out, since it cannot be read: {reason}");
        assert!(tables.stdout.contains(&line), "{}", tables.stdout);
        assert!(tables.stdout.contains("| `full`"), "{}", tables.stdout);
        world.succeed(&["report", "out"]);

        let again = world.run(&arguments);
        assert_eq!(again.code, Some(3), "{file}: {again:#?}");
        assert_eq!(fs::read_to_string(&path).expect("read"), damage, "{file}");
        fs::write(&path, before).expect("written");
    }
    // A copy must not stand for the run that it is of without a word.
    let copy = world.path("out/a-copy");
    fs::create_dir(&copy).expect("a directory");
    for file in ["manifest.json", "metrics.jsonl", "result.json"] {
        fs::copy(world.path(run).join(file), copy.join(file)).expect("copied");
    }
    fs::write(world.path(run).join("manifest.json"), "oops").expect("written");
    let status = world.succeed(&["status", "out"]);
    let warning = format!("warning: {run}/manifest.json");
    assert!(status.stderr.starts_with(&warning), "{}", status.stderr);
    fs::remove_dir_all(&copy).expect("removed");

    let status = world.succeed(&["status", "out"]);
    assert!(status.stdout.contains("unreadable"), "{}", status.stdout);
    let again = world.run(&arguments);
    assert_eq!(again.code, Some(2), "{again:#?}");
    assert!(again.stderr.contains("manifest.json"), "{}", again.stderr);
}

/// The worker that a supervisor has started, by the parent that Linux says it has.
fn worker_of(supervisor: &Child) -> Option<Pid> {
    let parent = format!("PPid:\t{}\n", supervisor.id());
    let processes = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let mut workers = processes.filter(|pid| {
        fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|text| text.contains(&parent))
    });
    workers.next().map(Pid::from_raw)
}

fn is_zombie(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|text| text.contains("State:\tZ"))
}

/// Lines of all records of a suite, also of one that is not there yet.
fn records(suite: &Path) -> usize {
    let Ok(entries) = fs::read_dir(suite) else {
        return 0;
    };
    let files = entries.filter_map(|entry| fs::read(entry.ok()?.path().join("metrics.jsonl")).ok());
    files
        .map(|bytes| bytes.iter().filter(|byte| **byte == b'\n').count())
        .sum()
}

fn newest_checkpoint(run: &Path) -> PathBuf {
    let step = |path: &PathBuf| {
        path.file_name()?
            .to_str()?
            .strip_prefix("step-")?
            .parse::<u64>()
            .ok()
    };
    let checkpoints = fs::read_dir(run.join("checkpoints"))
        .expect("checkpoints")
        .map(|entry| entry.expect("an entry").path());
    checkpoints
        .filter(|path| step(path).is_some())
        .max_by_key(step)
        .expect("a checkpoint")
}

/// Turns over one bit in the middle of a file.
fn damage(path: &Path) {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("opened");
    let middle = file.metadata().expect("metadata").len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle)).expect("sought");
    file.read_exact(&mut byte).expect("read");
    file.seek(SeekFrom::Start(middle)).expect("sought");
    file.write_all(&[byte[0] ^ 1]).expect("written");
}

/// Each step, evaluation and event stands in the records once, and steps ascend.
fn no_line_twice(world: &World, suite: &str) {
    for entry in fs::read_dir(world.path(suite)).expect("a suite") {
        let run = entry.expect("an entry").path();
        if !run.join("metrics.jsonl").exists() {
            continue;
        }
        let records = world.records(run.to_str().expect("a UTF-8 path"));
        let mut seen: Vec<(String, u64)> = Vec::new();
        for record in &records {
            let key = (
                record["type"].to_string(),
                record["step"].as_u64().expect("a step"),
            );
            assert!(!seen.contains(&key), "{}: {key:?} twice", run.display());
            assert!(
                seen.last().is_none_or(|(_, step)| *step <= key.1),
                "{}: {key:?} after {:?}",
                run.display(),
                seen.last()
            );
            seen.push(key);
        }
    }
}

fn weights_are_equal(left: &Path, right: &Path) {
    for entry in fs::read_dir(left).expect("a suite") {
        let run = entry.expect("an entry").path();
        if run.join("result.json").exists() {
            let other = right.join(run.file_name().expect("a name"));
            let weights = |run: &Path| {
                fs::read(newest_checkpoint(run).join("weights.safetensors")).expect("weights")
            };
            assert!(
                weights(&run) == weights(&other),
                "{} ends with other weights",
                other.display()
            );
        }
    }
}
