//! The supervisor: one worker process per cell, as many at once as the plan says, in an order that lets warm starts be
//! handed on. It decides from what is on the disk; what workers print is for the display alone.
//!
//! A cell that another process works on (a second terminal, a batch scheduler's task) is left to it and waited for. When
//! the supervisor is to stop, it closes its workers' standard input; should it be killed, the system does so for it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use results::record::{Manifest, Record, RunResult};

use crate::checkpoint;
use crate::exit::{Exit, one_line};
use crate::files::{self, failed_to};
use crate::journal;
use crate::lease::{self, Claim, Lease};
use crate::plan::{Budget, Plan};
use crate::progress::{Display, Shown, warn};
use crate::stop::{BUDGET_LINE, HELD_LINE, Reason, Stop};

/// How long the supervisor sleeps when nothing happens.
const TICK: Duration = Duration::from_millis(100);

/// How often it looks at cells that other processes work on.
const LOOK_ELSEWHERE: Duration = Duration::from_secs(1);

/// The wall-clock guard of a budget in time, as a multiple of it: the plan was sized to the budget by a short
/// measurement, so a suite that takes a fifth longer is no accident of that measurement any more.
const GUARD: f64 = 1.2;

/// Workers that a cell may use up by losing the lease while nobody else has it.
const MOST_LOST_LEASES: u32 = 3;

/// What glibc's allocator is told in workers (other systems ignore it): to keep the pages of large temporaries. A training
/// step frees and allocates the same ones over and over, and getting them back from the system zeroed costs more time than
/// many of the operations that fill them. What the user has set stays.
const ALLOCATOR: &[(&str, &str)] = &[
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "1073741824"),
    ("MALLOC_TRIM_THRESHOLD_", "4294967296"),
    ("MALLOC_TOP_PAD_", "67108864"),
];

/// How a suite ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuiteOutcome {
    /// Every cell has its result.
    Finished,
    /// Some cells failed; the others have theirs.
    SomeFailed,
    /// Stopped before the end; the same command goes on.
    Stopped,
}

/// Runs all cells of a plan that have no result yet.
///
/// # Errors
/// [`UserError`](crate::exit::UserError) for a run directory that was made with other settings or is not a run's, before
/// anything is started; what the disk says.
pub fn run_suite(directory: &Path, plan: &Plan) -> Result<SuiteOutcome> {
    let guard = plan.budget.as_ref().and_then(|text| match text.parse() {
        Ok(Budget::Time(time)) => Instant::now().checked_add(time.mul_f64(GUARD)),
        _ => None,
    });
    let stop = Stop::new(guard);
    stop.install_signals()?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let shown = plan.cells.iter().map(|cell| Shown {
        name: cell.directory(),
        steps: cell.settings.steps,
        flops: cell.flops(),
    });
    let display = Display::new(shown.collect());
    Supervisor::new(directory, plan, program, &stop, display)?.run()
}

/// How a cell stands for this command.
enum State {
    Waiting,
    Running(Box<Worker>),
    /// Another process works on it, and is taken to do so until then, whatever this machine's clock says of its heartbeat.
    Elsewhere(Instant),
    Done,
    Failed,
    /// Stopped; not started again by this command.
    Stopped,
}

struct Worker {
    child: Child,
    /// Its end tells the worker to stop.
    input: Option<ChildStdin>,
    readers: Vec<JoinHandle<()>>,
    newest_message: Option<String>,
    has_begun: bool,
    /// It has found another process at work on the run.
    found_held: bool,
}

/// A line that a worker wrote, with the place of its cell in the plan.
enum Line {
    Output(usize, String),
    Message(usize, String),
}

struct Supervisor<'a> {
    directory: &'a Path,
    plan: &'a Plan,
    program: PathBuf,
    stop: &'a Stop,
    display: Display,
    states: Vec<State>,
    lost_leases: Vec<u32>,
    sender: Sender<Line>,
    lines: Receiver<Line>,
    told: Option<Reason>,
    looked_elsewhere: Instant,
}

impl<'a> Supervisor<'a> {
    fn new(
        directory: &'a Path,
        plan: &'a Plan,
        program: PathBuf,
        stop: &'a Stop,
        display: Display,
    ) -> Result<Supervisor<'a>> {
        let mut states = Vec::new();
        for cell in &plan.cells {
            let run_directory = directory.join(cell.directory());
            journal::check(&run_directory, cell)?;
            // One that cannot be read is looked at again, and fails its cell, when the cell's turn comes.
            states.push(match journal::result(&run_directory) {
                Ok(Some(_)) => State::Done,
                Ok(None) | Err(_) => State::Waiting,
            });
        }
        let (sender, lines) = mpsc::channel();
        let lost_leases = vec![0; plan.cells.len()];
        let looked_elsewhere = Instant::now();
        Ok(Supervisor {
            directory,
            plan,
            program,
            stop,
            display,
            states,
            lost_leases,
            sender,
            lines,
            told: None,
            looked_elsewhere,
        })
    }

    fn run(mut self) -> Result<SuiteOutcome> {
        for (index, state) in self.states.iter().enumerate() {
            if matches!(state, State::Done) {
                self.display.was_done(index);
            }
        }
        let ended = self.supervise();
        // Also on an error: nobody is left behind, and each worker checkpoints first.
        self.tell_workers(Reason::Interrupted);
        while self.is_running() {
            self.pass_lines_on();
            self.reap()?;
        }
        self.display.close();
        ended?;
        let any = |wanted: fn(&State) -> bool| self.states.iter().any(wanted);
        Ok(
            if any(|state| matches!(state, State::Waiting | State::Elsewhere(_) | State::Stopped)) {
                SuiteOutcome::Stopped
            } else if any(|state| matches!(state, State::Failed)) {
                SuiteOutcome::SomeFailed
            } else {
                SuiteOutcome::Finished
            },
        )
    }

    fn supervise(&mut self) -> Result<()> {
        loop {
            self.reap()?;
            if let Some(reason) = self.stop.reason() {
                self.tell_workers(reason);
                if !self.is_running() {
                    return Ok(());
                }
            } else {
                self.look_elsewhere();
                self.start_workers()?;
                let unsettled = |state: &State| {
                    matches!(
                        state,
                        State::Waiting | State::Running(_) | State::Elsewhere(_)
                    )
                };
                if !self.states.iter().any(unsettled) {
                    return Ok(());
                }
            }
            self.pass_lines_on();
            self.display.tick();
        }
    }

    fn is_running(&self) -> bool {
        self.states
            .iter()
            .any(|state| matches!(state, State::Running(_)))
    }

    fn run_directory(&self, index: usize) -> PathBuf {
        self.directory.join(self.plan.cells[index].directory())
    }

    /// Starts workers while there is room for them and something to do.
    fn start_workers(&mut self) -> Result<()> {
        loop {
            let running = self
                .states
                .iter()
                .filter(|state| matches!(state, State::Running(_)))
                .count() as u64;
            if running >= self.plan.jobs.max(1) {
                return Ok(());
            }
            let Some(index) = self.next() else {
                return Ok(());
            };
            let run_directory = self.run_directory(index);
            // Another supervisor may have been there since.
            match look(&run_directory) {
                Err(error) => self.fail(index, &one_line(&error)),
                Ok((Some(result), _)) => self.settle(index, &result),
                Ok((None, true)) => {
                    self.states[index] = State::Elsewhere(Instant::now());
                    self.display.begins(index, true);
                }
                Ok((None, false)) => {
                    self.states[index] =
                        State::Running(Box::new(self.start(index, &run_directory)?));
                    self.display.begins(index, false);
                }
            }
        }
    }

    /// The next cell to start: the first one that waits, but one whose warm start `full` is still to leave comes after
    /// those that need not wait for anything. If there are no others it starts anyway and trains the warm start itself,
    /// on a processor that would be idle.
    fn next(&self) -> Option<usize> {
        let waiting =
            || (0..self.states.len()).filter(|index| matches!(self.states[*index], State::Waiting));
        waiting()
            .find(|index| !self.gains_by_waiting(*index))
            .or_else(|| waiting().next())
    }

    fn gains_by_waiting(&self, index: usize) -> bool {
        let cell = &self.plan.cells[index];
        let Some(full) = cell.warm_start_cell().map(|full| full.directory()) else {
            return false;
        };
        let Some(full) = self
            .plan
            .cells
            .iter()
            .position(|other| other.directory() == full)
        else {
            return false;
        };
        let step = cell.settings.warm_start_length();
        let left = checkpoint::at_step(&checkpoint::folder(&self.run_directory(full)), step);
        matches!(
            self.states[full],
            State::Waiting | State::Running(_) | State::Elsewhere(_)
        ) && !left.is_dir()
    }

    fn start(&self, index: usize, run_directory: &Path) -> Result<Worker> {
        let mut command = training_process(&self.program);
        command.arg("worker").arg("--supervised").arg(run_directory);
        // This command's own, not the suite's: another one may run elsewhere.
        command
            .args(["--device", &self.plan.device])
            .args(["--threads", &self.plan.threads.to_string()])
            .arg("--store")
            .arg(&self.plan.store);
        let mut child = command.spawn().map_err(failed_to("start", &self.program))?;
        let input = child.stdin.take();
        let mut readers = Vec::new();
        if let Some(output) = child.stdout.take() {
            readers.push(read_lines(output, self.sender.clone(), move |line| {
                Line::Output(index, line)
            }));
        }
        if let Some(messages) = child.stderr.take() {
            readers.push(read_lines(messages, self.sender.clone(), move |line| {
                Line::Message(index, line)
            }));
        }
        Ok(Worker {
            child,
            input,
            readers,
            newest_message: None,
            has_begun: false,
            found_held: false,
        })
    }

    /// Tells the workers why to stop, each reason once; a second interrupt of a person who will not wait kills them,
    /// which costs what is newer than the last checkpoint.
    fn tell_workers(&mut self, reason: Reason) {
        let impatient = self.stop.interrupts() > 1;
        let is_news = self.told.is_none_or(|told| told < reason);
        self.told = self.told.max(Some(reason));
        if is_news && self.is_running() {
            self.display.line(match reason {
                Reason::Budget => "the budget's time is over: stopping",
                _ => "stopping: each running cell writes a checkpoint first",
            });
        }
        for state in &mut self.states {
            let State::Running(worker) = state else {
                continue;
            };
            if reason == Reason::Budget && is_news {
                // A worker that has just ended no longer listens.
                let _ = worker
                    .input
                    .as_mut()
                    .map(|input| writeln!(input, "{BUDGET_LINE}"));
            } else if reason != Reason::Budget {
                worker.input = None;
            }
            if impatient {
                let _ = worker.child.kill();
            }
        }
    }

    /// Waits a moment for what workers print and shows it.
    fn pass_lines_on(&mut self) {
        match self.lines.recv_timeout(TICK) {
            Ok(line) => self.pass_on(line),
            // The supervisor itself holds a sender.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
        while let Ok(line) = self.lines.try_recv() {
            self.pass_on(line);
        }
    }

    fn pass_on(&mut self, line: Line) {
        match line {
            Line::Output(index, line) if line == HELD_LINE => {
                if let State::Running(worker) = &mut self.states[index] {
                    worker.found_held = true;
                }
            }
            Line::Output(index, line) => {
                let Ok(record) = serde_json::from_str::<Record>(&line) else {
                    return;
                };
                let manifest_path = self.run_directory(index).join(journal::MANIFEST);
                let State::Running(worker) = &mut self.states[index] else {
                    return;
                };
                if !worker.has_begun {
                    worker.has_begun = true;
                    let manifest: Option<Manifest> =
                        files::read_json(&manifest_path, "a run's manifest").ok();
                    let from =
                        manifest.and_then(|manifest| Some(manifest.sessions.last()?.from_step));
                    self.display.resumes(index, from.unwrap_or(0));
                }
                self.display.record(index, &record);
            }
            Line::Message(index, line) => {
                let State::Running(worker) = &mut self.states[index] else {
                    return;
                };
                match line.strip_prefix("error: ") {
                    // Shown when the worker has ended.
                    Some(error) => worker.newest_message = Some(error.to_owned()),
                    None if line.is_empty() => {}
                    None => {
                        self.display.note(index, &line);
                        worker.newest_message.get_or_insert(line);
                    }
                }
            }
        }
    }

    /// Takes note of workers that have ended.
    fn reap(&mut self) -> Result<()> {
        for index in 0..self.states.len() {
            let State::Running(worker) = &mut self.states[index] else {
                continue;
            };
            let Some(status) = worker
                .child
                .try_wait()
                .context("cannot wait for a worker")?
            else {
                continue;
            };
            let readers = std::mem::take(&mut worker.readers);
            for reader in readers {
                // Its pipe has ended with the worker.
                let _ = reader.join();
            }
            while let Ok(line) = self.lines.try_recv() {
                self.pass_on(line);
            }
            let State::Running(worker) = std::mem::replace(&mut self.states[index], State::Waiting)
            else {
                continue;
            };
            if worker.found_held {
                // By the file server's clock; ours may be ahead and see no holder there.
                self.states[index] = State::Elsewhere(Instant::now() + lease::STALE_AFTER);
                self.display.stopped(index, "another process is at it");
            } else if let Err(error) = self.judge(index, status, worker.newest_message) {
                // What is wrong is in this run's directory, and the others go on.
                self.fail(index, &one_line(&error));
            }
        }
        Ok(())
    }

    /// What becomes of a cell whose worker has ended: the disk says.
    fn judge(&mut self, index: usize, status: ExitStatus, message: Option<String>) -> Result<()> {
        let run_directory = self.run_directory(index);
        if let Some(result) = journal::result(&run_directory)? {
            self.settle(index, &result);
            return Ok(());
        }
        if status.code() == Some(i32::from(Exit::Stopped.code())) {
            if lease::holder(&run_directory)?.is_some() {
                self.states[index] = State::Elsewhere(Instant::now());
                self.display.stopped(index, "another process is at it");
                return Ok(());
            }
            let stop = match journal::newest_record(&run_directory)? {
                Some(Record::Stop(stop)) => Some(stop),
                _ => None,
            };
            if let Some(stop) = stop {
                self.states[index] = State::Stopped;
                self.display.stopped(
                    index,
                    &format!("stopped: {} at step {}", stop.reason, stop.step),
                );
                return Ok(());
            }
            if self.lost_leases[index] < MOST_LOST_LEASES {
                // Its lease was lost, or held for a moment; it waits for its turn again.
                self.lost_leases[index] += 1;
                return Ok(());
            }
        }
        if self.stop.reason().is_some() && status.code().is_none() {
            self.states[index] = State::Stopped;
            self.display.stopped(index, "killed");
            return Ok(());
        }
        let left = journal::failure(&run_directory)?.map(|failure| failure.error);
        let error = left
            .clone()
            .or(message)
            .unwrap_or_else(|| how_it_ended(status));
        if left.is_none() {
            leave_failure(&run_directory, self.stop, &error);
        }
        self.fail(index, &error);
        Ok(())
    }

    fn fail(&mut self, index: usize, error: &str) {
        self.states[index] = State::Failed;
        self.display.stopped(index, &format!("failed: {error}"));
    }

    fn settle(&mut self, index: usize, result: &RunResult) {
        self.states[index] = State::Done;
        self.display.finished(index, result);
    }

    /// Takes note of cells that other processes have finished or let go.
    fn look_elsewhere(&mut self) {
        if self.looked_elsewhere.elapsed() < LOOK_ELSEWHERE {
            return;
        }
        self.looked_elsewhere = Instant::now();
        for index in 0..self.states.len() {
            let State::Elsewhere(until) = self.states[index] else {
                continue;
            };
            let run_directory = self.run_directory(index);
            let taken_for_held =
                Instant::now() < until && run_directory.join(lease::LEASE).exists();
            match look(&run_directory) {
                Err(error) => self.fail(index, &one_line(&error)),
                Ok((Some(result), _)) => self.settle(index, &result),
                Ok((None, is_held)) if is_held || taken_for_held => {}
                Ok((None, _)) => match journal::failure(&run_directory) {
                    Err(error) => self.fail(index, &one_line(&error)),
                    Ok(Some(_)) => {
                        self.states[index] = State::Failed;
                        self.display.stopped(index, "failed in another process");
                    }
                    Ok(None) => {
                        self.states[index] = State::Waiting;
                        self.display.stopped(index, "let go by the other process");
                    }
                },
            }
        }
    }
}

/// A process of this program that trains, to be given a command: its three streams are pipes, its allocator is ours.
pub(crate) fn training_process(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.envs(allocator());
    command
}

/// What of [`ALLOCATOR`] the user has not set.
fn allocator() -> impl Iterator<Item = (&'static str, &'static str)> {
    let unset = |(name, _): &(&str, &str)| std::env::var_os(name).is_none();
    ALLOCATOR.iter().copied().filter(unset)
}

/// Starts this program anew with its own arguments and the allocator of a process that trains, unless it has that already. For
/// a command that measures in its own process what a worker would take.
///
/// # Errors
/// A program that cannot be started.
#[cfg(unix)]
pub(crate) fn with_training_allocator() -> Result<()> {
    use std::os::unix::process::CommandExt;
    if allocator().next().is_none() {
        return Ok(());
    }
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(&program);
    command.args(std::env::args_os().skip(1)).envs(allocator());
    Err(failed_to("start", &program)(command.exec()).into())
}

/// Other systems have no such allocator.
#[cfg(not(unix))]
pub(crate) fn with_training_allocator() -> Result<()> {
    Ok(())
}

/// A run's result, and whether another process works on it.
fn look(run_directory: &Path) -> Result<(Option<RunResult>, bool)> {
    // The lease first: it is given back after the result is written.
    let is_held = lease::holder(run_directory)?.is_some();
    Ok((journal::result(run_directory)?, is_held))
}

/// Sends on every line of a worker's output. Bytes that are no text become question marks: a library may print anything.
fn read_lines(
    source: impl Read + Send + 'static,
    sender: Sender<Line>,
    make: impl Fn(String) -> Line + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        while source
            .read_until(b'\n', &mut line)
            .is_ok_and(|bytes| bytes > 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(make(text)).is_err() {
                return;
            }
            line.clear();
        }
    })
}

/// A worker that was killed could not say so itself. Where nobody has taken the run up, the supervisor does, if it can:
/// a failure that cannot be written is shown all the same.
fn leave_failure(run_directory: &Path, stop: &Stop, error: &str) {
    if run_directory.is_dir()
        && let Ok(Claim::Taken(lease)) = Lease::claim(run_directory, stop)
    {
        let recorded = journal::record_failure(run_directory, &lease, error);
        drop(recorded.inspect_err(|error| warn(&format!("warning: {}", one_line(error)))));
    }
}

#[cfg(unix)]
fn how_it_ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status.signal() {
        // Nobody else kills so: a person, or the system when memory ran out.
        Some(9) => "its worker was killed (by hand, or by the system for want of memory)".into(),
        Some(signal) => format!("its worker was ended by signal {signal}"),
        None => how_it_exited(status),
    }
}

#[cfg(not(unix))]
fn how_it_ended(status: ExitStatus) -> String {
    how_it_exited(status)
}

fn how_it_exited(status: ExitStatus) -> String {
    format!("its worker ended without a word and without a result ({status})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::folder;
    use crate::journal::tests::cell;
    use crate::plan;
    use std::fs;

    fn plan_of(methods: &[&str], jobs: u64) -> Plan {
        Plan {
            schema: plan::SCHEMA,
            profile: "test".into(),
            store: PathBuf::new(),
            device: "cpu".into(),
            precision: "f32".into(),
            jobs,
            threads: 1,
            tensorboard: false,
            budget: None,
            scale: None,
            calibration: None,
            margin: None,
            cells: methods.iter().map(|method| cell(method)).collect(),
        }
    }

    fn silent() -> Display {
        Display::plain(Vec::new(), Box::new(std::io::sink()))
    }

    /// A shell script in place of the program: `$3` is the run directory that a worker is given.
    #[cfg(unix)]
    fn program(suite: &Path, script: &str) -> PathBuf {
        let path = suite.join("program");
        // Another process writes it: one that this process has open for writing could not be started while a test beside
        // this one is forking.
        let mut writer = Command::new("sh");
        writer
            .args(["-c", "cat > \"$0\" && chmod +x \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped());
        let mut writer = writer.spawn().expect("started");
        let text = format!("#!/bin/sh\nmkdir -p \"$3\"\n{script}\n");
        writer
            .stdin
            .take()
            .expect("piped")
            .write_all(text.as_bytes())
            .expect("written");
        assert!(writer.wait().expect("waited for").success());
        path
    }

    #[cfg(unix)]
    fn outcome(suite: &Path, plan: &Plan, script: &str, stop: &Stop) -> SuiteOutcome {
        let supervisor = Supervisor::new(suite, plan, program(suite, script), stop, silent())
            .expect("no run refused");
        supervisor.run().expect("supervised")
    }

    fn result_text() -> String {
        let numbers = [
            "update_steps",
            "tokens_seen",
            "validation_targets",
            "bytes_per_target",
            "tokens_per_second",
            "training_seconds",
            "evaluation_seconds",
            "wall_seconds",
            "weight_bytes",
            "optimizer_state_bytes",
            "restarts",
            "resets",
        ];
        let fields: Vec<String> = numbers.iter().map(|name| format!("\"{name}\":1")).collect();
        format!(
            "{{\"schema\":1,\"status\":\"complete\",{}}}",
            fields.join(",")
        )
    }

    fn finish(run_directory: &Path) {
        fs::create_dir_all(run_directory).expect("created");
        fs::write(run_directory.join("result.json"), result_text()).expect("written");
    }

    #[cfg(unix)]
    const FINISH: &str =
        "cp \"${0%/*}/result\" \"$3/result.json\"; echo done >> \"${0%/*}/started\"";

    #[test]
    #[cfg(unix)]
    fn what_is_finished_is_not_run_again() {
        let suite = tempfile::tempdir().expect("temporary directory");
        fs::write(suite.path().join("result"), result_text()).expect("written");
        let plan = plan_of(&["full", "relora"], 1);
        let directory = suite.path().join(plan.cells[0].directory());
        finish(&directory);
        let (row, determines) = (plan.cells[0].row(), plan.cells[0].determines());
        let manifest = Manifest {
            schema: results::record::SCHEMA,
            row,
            determines,
            sessions: Vec::new(),
        };
        files::write_json(&directory.join(journal::MANIFEST), &manifest).expect("written");
        assert_eq!(
            outcome(suite.path(), &plan, FINISH, &Stop::new(None)),
            SuiteOutcome::Finished
        );
        assert_eq!(
            fs::read_to_string(suite.path().join("started")).expect("read"),
            "done\n"
        );
    }

    #[test]
    #[cfg(unix)]
    fn a_worker_that_is_killed_leaves_a_failed_cell_and_the_others_run() {
        let suite = tempfile::tempdir().expect("temporary directory");
        fs::write(suite.path().join("result"), result_text()).expect("written");
        let plan = plan_of(&["full", "relora"], 1);
        let script = format!("case \"$3\" in *full*) kill -9 $$;; esac; {FINISH}");
        assert_eq!(
            outcome(suite.path(), &plan, &script, &Stop::new(None)),
            SuiteOutcome::SomeFailed
        );
        let directory = suite.path().join(plan.cells[0].directory());
        assert_eq!(journal::result(&directory).expect("readable"), None);
        let error = journal::failure(&directory)
            .expect("readable")
            .expect("left")
            .error;
        assert!(error.starts_with("its worker was killed"), "{error}");
        let other = journal::result(&suite.path().join(plan.cells[1].directory()));
        assert!(other.expect("readable").is_some());
    }

    #[test]
    #[cfg(unix)]
    fn a_failed_worker_is_quoted_and_not_started_again() {
        let suite = tempfile::tempdir().expect("temporary directory");
        let plan = plan_of(&["full"], 1);
        let script = "echo 'note' >&2; echo 'error: the device failed' >&2; exit 1";
        assert_eq!(
            outcome(suite.path(), &plan, script, &Stop::new(None)),
            SuiteOutcome::SomeFailed
        );
        let failure =
            journal::failure(&suite.path().join(plan.cells[0].directory())).expect("readable");
        assert_eq!(failure.expect("left").error, "the device failed");
    }

    #[test]
    #[cfg(unix)]
    fn an_interrupt_closes_the_workers_input_and_waits_for_them() {
        let suite = tempfile::tempdir().expect("temporary directory");
        let plan = plan_of(&["full", "relora"], 1);
        let stop = Stop::new(None);
        let record = r#"{"type":"stop","step":3,"reason":"interrupted"}"#;
        let script = format!(
            "echo started >> \"${{0%/*}}/started\"; cat > /dev/null; echo '{record}' > \"$3/metrics.jsonl\"; exit 75"
        );
        let interrupt = {
            let (stop, started) = (stop.clone(), suite.path().join("started"));
            thread::spawn(move || {
                while !started.exists() {
                    thread::sleep(Duration::from_millis(5));
                }
                stop.set(Reason::Interrupted);
            })
        };
        assert_eq!(
            outcome(suite.path(), &plan, &script, &stop),
            SuiteOutcome::Stopped
        );
        interrupt.join().expect("no panic");
        let of = |index: usize| {
            let newest = journal::newest_record(&suite.path().join(plan.cells[index].directory()));
            newest.expect("readable")
        };
        assert!(
            matches!(of(0), Some(Record::Stop(stop)) if stop.reason == Reason::Interrupted.name())
        );
        assert_eq!(of(1), None, "it has not begun");
    }

    #[test]
    #[cfg(unix)]
    fn a_cell_that_another_process_works_on_is_waited_for() {
        let suite = tempfile::tempdir().expect("temporary directory");
        let plan = plan_of(&["full"], 1);
        let directory = suite.path().join(plan.cells[0].directory());
        fs::create_dir(&directory).expect("created");
        let Claim::Taken(lease) = Lease::claim(&directory, &Stop::new(None)).expect("claimed")
        else {
            panic!("held")
        };
        assert!(lease::holder(&directory).expect("readable").is_some());
        let other = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            finish(&directory);
            drop(lease);
        });
        assert_eq!(
            outcome(suite.path(), &plan, "exit 1", &Stop::new(None)),
            SuiteOutcome::Finished
        );
        other.join().expect("no panic");
    }

    /// A lease without a holder is one whose heartbeat this machine's clock, being ahead, takes for stale; the worker asks the
    /// file server and knows better.
    #[test]
    #[cfg(unix)]
    fn a_run_that_a_worker_finds_held_is_waited_for_whatever_the_clock_says() {
        let suite = tempfile::tempdir().expect("temporary directory");
        let plan = plan_of(&["full"], 1);
        let directory = suite.path().join(plan.cells[0].directory());
        fs::create_dir(&directory).expect("created");
        fs::write(directory.join(lease::LEASE), "nobody's").expect("written");
        let started = suite.path().join("started");
        let other = {
            let started = started.clone();
            thread::spawn(move || {
                while !started.exists() {
                    thread::sleep(Duration::from_millis(5));
                }
                // Long enough to be looked at again before.
                thread::sleep(LOOK_ELSEWHERE + 3 * TICK);
                finish(&directory);
            })
        };
        let script = format!("echo started >> \"${{0%/*}}/started\"; echo {HELD_LINE}; exit 75");
        assert_eq!(
            outcome(suite.path(), &plan, &script, &Stop::new(None)),
            SuiteOutcome::Finished
        );
        other.join().expect("no panic");
        assert_eq!(
            fs::read_to_string(started).expect("read"),
            "started\n",
            "once"
        );
    }

    #[test]
    #[cfg(unix)]
    fn a_result_that_cannot_be_read_fails_its_cell_alone() {
        let suite = tempfile::tempdir().expect("temporary directory");
        fs::write(suite.path().join("result"), result_text()).expect("written");
        let plan = plan_of(&["full", "relora"], 1);
        let run = |index: usize| suite.path().join(plan.cells[index].directory());
        let manifest = Manifest {
            schema: results::record::SCHEMA,
            row: plan.cells[0].row(),
            determines: plan.cells[0].determines(),
            sessions: Vec::new(),
        };
        finish(&run(0));
        files::write_json(&run(0).join(journal::MANIFEST), &manifest).expect("written");
        fs::write(run(0).join("result.json"), "{").expect("written");
        assert_eq!(
            outcome(suite.path(), &plan, FINISH, &Stop::new(None)),
            SuiteOutcome::SomeFailed
        );
        assert!(journal::result(&run(1)).expect("readable").is_some());
    }

    #[test]
    fn a_cell_waits_for_its_warm_start_only_while_others_can_run() {
        let suite = tempfile::tempdir().expect("temporary directory");
        let mut plan = plan_of(&["full", "relora", "control"], 2);
        let stop = Stop::new(None);
        plan.cells[2].method = "control".into();
        let mut supervisor = Supervisor::new(suite.path(), &plan, PathBuf::new(), &stop, silent())
            .expect("no run refused");
        assert_eq!(supervisor.next(), Some(0), "full first");
        supervisor.states[0] = State::Elsewhere(Instant::now());
        assert_eq!(
            supervisor.next(),
            Some(2),
            "the warm start is still to come"
        );
        supervisor.states[2] = State::Elsewhere(Instant::now());
        assert_eq!(
            supervisor.next(),
            Some(1),
            "nothing else to do: it trains the warm start itself"
        );
        supervisor.states[2] = State::Waiting;
        let step = plan.cells[1].settings.warm_start_length();
        let handed_on =
            checkpoint::at_step(&folder(&suite.path().join(plan.cells[0].directory())), step);
        fs::create_dir_all(handed_on).expect("created");
        assert_eq!(supervisor.next(), Some(1), "the warm start is there");
        supervisor.states = vec![State::Done, State::Done, State::Done];
        assert_eq!(supervisor.next(), None);
    }
}
