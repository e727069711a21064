//! Why a run should stop before its end: a signal, the budget's deadline, a lost lease. The algorithm asks at step
//! boundaries and hears nothing else of processes.
//!
//! Here too: a panic on any thread, which poisons the whole process. The tensor library catches panics on its device
//! thread, logs them and trains on with what is then garbage; a poisoned process writes nothing more.

use std::io::{self, BufRead, IsTerminal};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use crate::exit::Exit;
use crate::files;
use crate::progress::warn;

/// What a supervisor writes to a worker's standard input when the budget's time is over.
pub const BUDGET_LINE: &str = "budget";

/// What a supervised worker writes to standard output, in place of any record, when another process works on its run.
pub const HELD_LINE: &str = "held";

/// Why a run stops before its end. A later one overrules an earlier one, never the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The wall-clock guard of the budget has passed.
    Budget,
    /// SIGINT, SIGTERM, or the supervisor is gone.
    Interrupted,
    /// Another process has taken the run over: nothing more may be written.
    LostLease,
}

impl Reason {
    /// The reason in the words of a [`Stop` record](results::record::StopRecord).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::Budget => "budget",
            Reason::Interrupted => "interrupted",
            Reason::LostLease => "lost lease",
        }
    }
}

/// Whether to stop, shared between the run, the lease's heartbeat and the signal handler. Clones are the same switch.
#[derive(Clone, Debug)]
pub struct Stop {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// 0 for none, else 1 + the reason's place in [`Reason`].
    reason: AtomicU8,
    interrupts: AtomicU32,
    deadline: Option<Instant>,
}

impl Stop {
    /// A switch that turns itself on at the deadline, if there is one.
    #[must_use]
    pub fn new(deadline: Option<Instant>) -> Stop {
        Stop {
            shared: Arc::new(Shared {
                reason: AtomicU8::new(0),
                interrupts: AtomicU32::new(0),
                deadline,
            }),
        }
    }

    /// Lets SIGINT, SIGTERM and SIGHUP (on Windows Ctrl-C and closing the console) set [`Reason::Interrupted`]. A SIGHUP
    /// that was ignored when the process began, as under `nohup`, stays ignored, here and in the processes that it starts.
    ///
    /// # Errors
    /// When the system does not let them be handled.
    pub fn install_signals(&self) -> anyhow::Result<()> {
        on_signals(OnSignal::Set(self.clone()))
    }

    /// Listens to the supervisor, which holds the other end of standard input: the line [`BUDGET_LINE`] sets
    /// [`Reason::Budget`], the end of the input [`Reason::Interrupted`]. The input ends when the supervisor closes it, and
    /// also when the supervisor is killed without a chance to say anything.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn watch_supervisor(&self) -> anyhow::Result<()> {
        let stop = self.clone();
        let watch = move || stop.listen(io::stdin().lock());
        thread::Builder::new()
            .name("supervisor watch".into())
            .spawn(watch)
            .context("cannot start a thread")?;
        Ok(())
    }

    fn listen(&self, supervisor: impl BufRead) {
        for line in supervisor.lines().map_while(Result::ok) {
            if line == BUDGET_LINE {
                self.set(Reason::Budget);
            }
        }
        self.set(Reason::Interrupted);
    }

    /// Stops for a reason, unless it stops for a graver one already.
    pub fn set(&self, reason: Reason) {
        self.shared
            .reason
            .fetch_max(1 + reason as u8, Ordering::SeqCst);
        if reason == Reason::Interrupted {
            self.shared.interrupts.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Why to stop; none to go on.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self.shared.reason.load(Ordering::SeqCst) {
            0 => self
                .shared
                .deadline
                .filter(|deadline| *deadline <= Instant::now())
                .map(|_| Reason::Budget),
            1 => Some(Reason::Budget),
            2 => Some(Reason::Interrupted),
            _ => Some(Reason::LostLease),
        }
    }

    /// How often [`Reason::Interrupted`] was set: a person who presses Ctrl-C again does not want to wait.
    #[must_use]
    pub fn interrupts(&self) -> u32 {
        self.shared.interrupts.load(Ordering::SeqCst)
    }
}

/// Ignores SIGHUP, and says whether it was ignored before.
#[cfg(unix)]
#[expect(
    unsafe_code,
    reason = "every call that sets a signal's disposition is; ignoring one runs no code"
)]
fn ignore_hangup() -> nix::Result<bool> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let ignoring = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed, so nothing can run at a moment at which it must not.
    let before = unsafe { sigaction(Signal::SIGHUP, &ignoring) }?;
    Ok(matches!(before.handler(), SigHandler::SigIgn))
}

/// What a signal does. The process has one handler, which looks here.
static ON_SIGNAL: Mutex<Option<OnSignal>> = Mutex::new(None);

enum OnSignal {
    /// It is passed on.
    Set(Stop),
    /// It ends the process, with this line, and without this folder.
    Leave(&'static str, Option<PathBuf>),
}

fn on_signals(action: OnSignal) -> anyhow::Result<()> {
    let current = || ON_SIGNAL.lock().unwrap_or_else(PoisonError::into_inner);
    if current().replace(action).is_some() {
        return Ok(());
    }
    let handler = move || match &*current() {
        Some(OnSignal::Set(stop)) => stop.set(Reason::Interrupted),
        Some(OnSignal::Leave(line, folder)) => {
            // What is half done is of no use to anyone.
            let left = folder.as_deref().filter(|it| !cleared_away(it));
            let left = left.map_or_else(String::new, |it| format!("; remove {}", it.display()));
            // A bar stands on the line.
            let begin = if io::stderr().is_terminal() { "\n" } else { "" };
            warn(&format!("{begin}{line}{left}"));
            std::process::exit(i32::from(Exit::Stopped.code()));
        }
        None => {}
    };
    #[cfg(unix)]
    let was_ignored = ignore_hangup().context("cannot handle signals")?;
    ctrlc::set_handler(handler).context("cannot handle signals")?;
    #[cfg(unix)]
    if was_ignored {
        ignore_hangup().context("cannot handle signals")?;
    }
    Ok(())
}

/// Removes a folder into which another thread is still writing: what it adds meanwhile is removed the next time.
fn cleared_away(folder: &Path) -> bool {
    (0..100).any(|_| {
        // Whatever it says, what counts is whether the folder is there.
        let _ = files::remove(folder);
        let gone = !folder.exists();
        if !gone {
            thread::sleep(Duration::from_millis(10));
        }
        gone
    })
}

/// Until [`Stop::install_signals`], lets SIGINT, SIGTERM and SIGHUP end the process at once, with this line and the exit code
/// of what was stopped: for what leaves nothing behind that the next command would not find or clear away, as the preparation
/// of text, but this folder, which is removed.
///
/// # Errors
/// When the system does not let them be handled.
pub fn leave_on_signals(line: &'static str, folder: Option<PathBuf>) -> anyhow::Result<()> {
    on_signals(OnSignal::Leave(line, folder))
}

/// The first panic of this process, if there was one.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// From now on a panic prints nothing, is kept as one line for [`poisoned`], and unwinds as ever.
pub fn poison_on_panic() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(install_hook);
}

fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or(payload.downcast_ref::<String>().map(String::as_str));
        let place = info.location().map_or_else(String::new, |location| {
            format!(" at {}:{}", location.file(), location.line())
        });
        let thread = thread::current();
        let line = format!(
            "panic in thread {}{place}: {}",
            thread.name().unwrap_or("without a name"),
            text.unwrap_or("no message")
        );
        let mut first = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(line.split_whitespace().collect::<Vec<_>>().join(" "));
    }));
}

/// The first panic since [`poison_on_panic`], on whatever thread and whoever caught it. What the process holds in memory
/// can then not be trusted.
#[must_use]
pub fn poisoned() -> Option<String> {
    PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Does the work of a process that trains: what panics in it, or has panicked on another thread by then, is an error of one
/// line, and prints nothing else.
///
/// # Errors
/// That of the work; the first panic.
pub fn without_panic<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    poison_on_panic();
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(anyhow!(
            poisoned().unwrap_or_else(|| "a panic without a word".into())
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_graver_reason_stays() {
        let stop = Stop::new(None);
        assert_eq!(stop.reason(), None);
        stop.set(Reason::LostLease);
        stop.set(Reason::Interrupted);
        assert_eq!(stop.clone().reason(), Some(Reason::LostLease));
        assert_eq!(stop.interrupts(), 1);
    }

    #[test]
    fn a_passed_deadline_is_the_budget_and_a_signal_overrules_it() {
        let stop = Stop::new(Some(Instant::now()));
        assert_eq!(stop.reason(), Some(Reason::Budget));
        stop.set(Reason::Interrupted);
        assert_eq!(stop.reason(), Some(Reason::Interrupted));
        assert_eq!(
            Stop::new(Some(Instant::now() + Duration::from_secs(3600))).reason(),
            None
        );
    }

    #[test]
    fn a_supervisor_says_budget_by_a_line_and_interrupted_by_its_end() {
        let stop = Stop::new(None);
        let (reader, mut writer) = io::pipe().expect("pipe");
        thread::scope(|scope| {
            scope.spawn(|| stop.listen(io::BufReader::new(reader)));
            writer.write_all(b"budget\n").expect("written");
            while stop.reason().is_none() {
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(stop.reason(), Some(Reason::Budget));
            drop(writer);
        });
        assert_eq!(stop.reason(), Some(Reason::Interrupted));
    }
}
