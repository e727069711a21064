//! A folder of its own for each test, with a small corpus and a tiny profile in it, and the command to run there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A folder that goes away with the test.
pub struct World {
    directory: TempDir,
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl World {
    /// A folder with `corpus.jsonl` and `tiny.toml`.
    pub fn new() -> World {
        let directory = tempfile::Builder::new()
            .prefix("relora-test-")
            .tempdir()
            .expect("a temporary folder");
        let world = World { directory };
        fs::write(world.path("corpus.jsonl"), corpus(400)).expect("corpus written");
        fs::write(world.path("tiny.toml"), include_str!("fixtures/tiny.toml"))
            .expect("profile written");
        world
    }

    /// A path inside the folder.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(inside)
    }

    /// The built command, in this folder, with nothing of the caller's taste in its environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_relora")), arguments)
    }

    fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("NO_COLOR", "1")
            .env("COLUMNS", "100")
            .env("XDG_CACHE_HOME", self.path("cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The command as a user for whom permissions bind: the one who runs the tests, unless that is root; then nobody, who
    /// is given the folder and all that is in it, and a copy of the program, since the build's folder may be closed to others.
    /// None where that cannot be; it is said.
    pub fn command_as_ordinary_user(&self, arguments: &[&str]) -> Option<Command> {
        /// Number of user and group `nobody`.
        const NOBODY: u32 = 65534;
        let root = self.directory.path();
        let owner = fs::metadata(root).expect("metadata").uid();
        if owner != 0 && owner != NOBODY {
            return Some(self.command(arguments));
        }
        let program = self.path("relora");
        if !program.exists() {
            let built = env!("CARGO_BIN_EXE_relora");
            // A link costs nothing; where the build is on another file system, a copy.
            fs::hard_link(built, &program)
                .or_else(|_| fs::copy(built, &program).map(drop))
                .expect("a copy of the program");
            let given = chown(root, Some(NOBODY), Some(NOBODY))
                .and_then(|()| fs::set_permissions(root, fs::Permissions::from_mode(0o755)))
                .and_then(|()| give(root, NOBODY, &program));
            if given.is_err() {
                skipped("as root, without another user to be");
                return None;
            }
        }
        let as_nobody = |arguments| {
            let mut command = self.command_of(&program, arguments);
            command.uid(NOBODY).gid(NOBODY);
            command
        };
        let reachable = as_nobody(&["--version"])
            .status()
            .is_ok_and(|status| status.success());
        if !reachable {
            skipped("as root, and no other user can start the program");
        }
        reachable.then(|| as_nobody(arguments))
    }

    /// Runs the command to its end.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        ended(self.command(arguments).spawn().expect("the command starts"))
    }

    /// Runs the command and insists that it succeeds.
    pub fn succeed(&self, arguments: &[&str]) -> Ended {
        let ended = self.run(arguments);
        assert_eq!(
            ended.code,
            Some(0),
            "relora {arguments:?}\n{}\n{}",
            ended.stdout,
            ended.stderr
        );
        ended
    }

    /// A command about the tiny profile and its text, with more options behind.
    pub fn tiny<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let fixed = [
            command,
            "--profile",
            "tiny.toml",
            "--data",
            "corpus.jsonl",
            "--device",
            "cpu",
        ];
        fixed.into_iter().chain(more.iter().copied()).collect()
    }

    /// `bench-all` of the tiny profile into `out`, with more options behind.
    pub fn suite<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        World::tiny("bench-all", &[&["--out", out], more].concat())
    }

    /// The lines of a run's `metrics.jsonl`.
    pub fn records(&self, run: &str) -> Vec<Value> {
        let path = self.path(run).join("metrics.jsonl");
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a line is a JSON object"))
            .collect()
    }
}

/// Gives all that is in a folder to a user, but for the program, which may be the very file that was built.
fn give(folder: &Path, user: u32, program: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path != program {
            chown(&path, Some(user), Some(user))?;
            if path.is_dir() {
                give(&path, user, program)?;
            }
        }
    }
    Ok(())
}

/// Says that something was not tried here, past the test harness, which keeps to itself what a passing test prints.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    writeln!(io::stderr(), "{test}: skipped ({why})").expect("standard error");
}

/// Waits for something that takes a moment on a busy machine, and not for ever.
pub fn patiently<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "nothing within a minute"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for a command.
pub fn ended(child: Child) -> Ended {
    let output = child.wait_with_output().expect("the command ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("what we print is UTF-8");
    Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// JSON lines of sentences made from a small grammar: enough structure that a loss can fall, the same bytes every time.
pub fn corpus(documents: u64) -> String {
    const WHO: [&str; 8] = [
        "the miller",
        "a sailor",
        "the old queen",
        "my neighbour",
        "a fox",
        "the clerk",
        "a child",
        "the wind",
    ];
    const DOES: [&str; 8] = [
        "carries",
        "finds",
        "forgets",
        "paints",
        "counts",
        "follows",
        "sells",
        "remembers",
    ];
    const WHAT: [&str; 8] = [
        "a lantern",
        "the map",
        "seven stones",
        "the river",
        "a letter",
        "the clock",
        "blue cloth",
        "the road",
    ];
    let mut draw = Draw(7);
    let mut text = String::new();
    for document in 0..documents {
        let mut story = format!("Story {document}.");
        for _ in 0..8 {
            let (who, does, what) = (draw.of(&WHO), draw.of(&DOES), draw.of(&WHAT));
            write!(story, " And then {who} {does} {what}.").expect("writing to a string");
        }
        writeln!(text, "{}", serde_json::json!({ "text": story })).expect("writing to a string");
    }
    text
}

/// Reproducible draws (the 64-bit SplitMix generator), for corpora and for moments at which to kill something.
pub struct Draw(pub u64);

impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in [0, 1).
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[(self.next() % choices.len() as u64) as usize]
    }
}

/// Every CSV table of a suite without its columns and rows of time and memory, by name.
pub fn tables(suite: &Path) -> BTreeMap<String, String> {
    let mut tables = BTreeMap::new();
    for entry in fs::read_dir(suite.join("tables")).expect("tables") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "csv") {
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            tables.insert(name, steady(&path));
        }
    }
    assert!(tables.len() >= 6, "{:?}", tables.keys());
    tables
}

fn steady(path: &Path) -> String {
    let mut reader = csv::Reader::from_path(path).expect("a table");
    let header = reader.headers().expect("a header").clone();
    let steady: Vec<usize> = (0..header.len())
        .filter(|column| !results::frame::VOLATILE_COLUMNS.contains(&&header[*column]))
        .collect();
    let line = |record: &csv::StringRecord| {
        steady
            .iter()
            .map(|column| &record[*column])
            .collect::<Vec<_>>()
            .join(",")
            + "\n"
    };
    let is_timed = |record: &csv::StringRecord| {
        let stem = path.file_stem().unwrap_or_default();
        results::frame::VOLATILE_ROWS
            .iter()
            .any(|(table, column, value)| {
                let at = header.iter().position(|name| name == *column);
                stem == *table && at.is_some_and(|at| &record[at] == *value)
            })
    };
    let mut text = line(&header);
    for record in reader.records() {
        let record = record.expect("a row");
        if !is_timed(&record) {
            text += &line(&record);
        }
    }
    text
}
