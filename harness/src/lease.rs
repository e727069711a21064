//! Who works on a run directory: `lease.json`, a token with a heartbeat. Two workers never run the same cell.
//!
//! A lease is claimed, taken over, written under and given back while an exclusive lock on `lease.lock` is held; the
//! kernel frees that lock with its process. Between those moments the lease itself says who the worker is, and its
//! modification time, renewed every two seconds, that it lives. A holder that is gone (same host, process dead) or silent
//! for half a minute loses the lease to the next claimer. It cannot do harm when it wakes up: everything it writes goes
//! through [`Lease::hold`], which compares tokens under the lock.
//!
//! File systems without locks (some cluster mounts) fall back on the exclusive creation of `lease.json` and on the
//! comparison of tokens: then only a takeover leaves a moment in which two could write.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::files::{self, FileError, failed_to};
use crate::stop::{Reason, Stop};

pub(crate) const LEASE: &str = "lease.json";
pub(crate) const LOCK: &str = "lease.lock";

/// How often the holder renews the modification time.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Silence after which a holder counts as gone: a dozen heartbeats, so a busy file server takes no lease away.
pub const STALE_AFTER: Duration = Duration::from_secs(30);

/// How long a claim waits for another process that is claiming or writing just now.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who holds a lease: the content of `lease.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// 128 random bits in hexadecimal: the identity of this claim.
    pub token: String,
    /// Name of the machine.
    pub host: String,
    /// Process number on it.
    pub pid: u32,
    /// Which boot, which space of process numbers and which start time the number belongs to, where the system tells.
    /// Numbers are used again; together with these they are not.
    pub started: Option<String>,
}

/// The right to write to a run directory, kept alive by a thread and given back on drop.
#[derive(Debug)]
pub struct Lease {
    directory: PathBuf,
    token: String,
    lock: File,
    stop: Stop,
    heart: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

/// What came of a claim.
#[derive(Debug)]
pub enum Claim {
    /// The run is ours.
    Taken(Lease),
    /// Another process works on it.
    Held(Holder),
}

/// Another process has taken the run over; nothing was written.
#[derive(Debug, thiserror::Error)]
#[error("{} has been taken over by another process", .0.display())]
pub struct LostLease(pub PathBuf);

impl Lease {
    /// Claims a run directory that exists. A holder that is gone loses it to us; losing it later sets `stop`.
    ///
    /// # Errors
    /// [`FileError`] where the directory cannot be written to.
    pub fn claim(directory: &Path, stop: &Stop) -> anyhow::Result<Claim> {
        let lock_path = directory.join(LOCK);
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&lock_path);
        let lock = opened.map_err(failed_to("write", &lock_path))?;
        if !lock_patiently(&lock).map_err(failed_to("lock", &lock_path))? {
            let holder = read(directory)?.map(|(holder, _)| holder);
            return holder
                .map(Claim::Held)
                .with_context(|| format!("{} is locked by another process", lock_path.display()));
        }
        let locked = Locked(&lock);
        if let Some((holder, heartbeat)) = read(directory)?
            && lives(&holder, silence(heartbeat, now_there(&lock)))
        {
            return Ok(Claim::Held(holder));
        }
        files::remove(&directory.join(LEASE))?;
        let holder = Holder {
            token: files::unique_token(),
            host: host(),
            pid: std::process::id(),
            started: started(std::process::id()),
        };
        let Some(file) = create(directory, &holder)? else {
            // Only without locks: another claimer was quicker.
            let (winner, _) = read(directory)?
                .with_context(|| format!("cannot claim {}", directory.display()))?;
            return Ok(Claim::Held(winner));
        };
        drop(locked);
        let heart = beat(
            directory.to_owned(),
            holder.token.clone(),
            file,
            stop.clone(),
        )?;
        Ok(Claim::Taken(Lease {
            directory: directory.to_owned(),
            token: holder.token,
            lock,
            stop: stop.clone(),
            heart: Some(heart),
        }))
    }

    /// Does something to the run directory while nobody can take it over.
    ///
    /// # Errors
    /// [`LostLease`] where somebody has; otherwise what `write` returns.
    pub fn hold<T>(&self, write: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        allow_no_locks(self.lock.lock()).map_err(failed_to("lock", &self.directory.join(LOCK)))?;
        let _locked = Locked(&self.lock);
        if !still_ours(&self.directory, &self.token)? {
            self.stop.set(Reason::LostLease);
            return Err(LostLease(self.directory.clone()).into());
        }
        write()
    }

    /// The identity of this claim, for names of half-written things.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((quit, thread)) = self.heart.take() {
            drop(quit);
            // The thread ends at once and has nothing to say.
            let _ = thread.join();
        }
        // A lease that cannot be removed goes stale by itself.
        let _ = self.hold(|| Ok(files::remove(&self.directory.join(LEASE))?));
    }
}

/// The process that works on a run directory, if one does. Looks only, and so needs no right to write there.
///
/// # Errors
/// [`FileError`] where the lease is there and cannot be read.
pub fn holder(directory: &Path) -> anyhow::Result<Option<Holder>> {
    let live = |(holder, heartbeat)| {
        lives(&holder, silence(heartbeat, SystemTime::now())).then_some(holder)
    };
    Ok(read(directory)?.and_then(live))
}

/// Frees the lock at the end of a block, also when it is left by an error or a panic.
struct Locked<'a>(&'a File);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Fails only where there are no locks to free.
        let _ = self.0.unlock();
    }
}

/// Tries for [`PATIENCE`]; false where another process keeps the lock.
fn lock_patiently(lock: &File) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) => return allow_no_locks(Err(error)).map(|()| true),
            Err(TryLockError::WouldBlock) if begun.elapsed() > PATIENCE => return Ok(false),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Turns "this file system has no locks" into success.
fn allow_no_locks(locked: io::Result<()>) -> io::Result<()> {
    /// `ENOSYS` and `ENOLCK` of Linux, which the standard library has no kind for.
    const NO_LOCKS: [i32; 2] = [38, 37];
    match locked {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(error)
            if cfg!(target_os = "linux")
                && error
                    .raw_os_error()
                    .is_some_and(|code| NO_LOCKS.contains(&code)) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// The lease and its last heartbeat. A lease that is no JSON (a power failure) has no holder.
fn read(directory: &Path) -> Result<Option<(Holder, SystemTime)>, FileError> {
    let path = directory.join(LEASE);
    let content = fs::read(&path).and_then(|text| Ok((text, fs::metadata(&path)?.modified()?)));
    match content {
        Ok((text, heartbeat)) => Ok(serde_json::from_slice(&text)
            .ok()
            .map(|holder| (holder, heartbeat))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed_to("read", &path)(error)),
    }
}

fn still_ours(directory: &Path, token: &str) -> Result<bool, FileError> {
    Ok(read(directory)?.is_some_and(|(holder, _)| holder.token == token))
}

/// Creates `lease.json` with its content at once; none where one is there. The file stays open for the heartbeat.
fn create(directory: &Path, holder: &Holder) -> anyhow::Result<Option<File>> {
    let path = directory.join(LEASE);
    let (partial, file) = files::write_beside(&path, &serde_json::to_vec(holder)?)?;
    // A link never replaces what is there, unlike renaming. Where there are no links, the lock alone must do.
    let placed = match fs::hard_link(&partial, &path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(_) => fs::rename(&partial, &path).map(|()| true),
        Ok(()) => Ok(true),
    };
    files::remove(&partial)?;
    Ok(placed.map_err(failed_to("write", &path))?.then_some(file))
}

/// Starts the thread that renews the lease and notices its loss. It writes to the file that it created, so it can never
/// keep another's lease alive.
fn beat(
    directory: PathBuf,
    token: String,
    mut file: File,
    stop: Stop,
) -> anyhow::Result<(mpsc::Sender<()>, JoinHandle<()>)> {
    let (quit, quitting) = mpsc::channel();
    let beat = move || {
        while quitting.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
            // An unreadable lease (a file server that hiccups) is not a lost one; a missing one is.
            if still_ours(&directory, &token).is_ok_and(|ours| !ours) {
                return stop.set(Reason::LostLease);
            }
            // Rewriting its first byte lets the file server's own clock set the time. On a full disk of a file system
            // that copies on write, the time alone can still be set. If neither works, the lease goes stale.
            let renewed = file
                .seek(io::SeekFrom::Start(0))
                .and_then(|_| file.write_all(b"{"));
            let _ = renewed.or_else(|_| file.set_modified(SystemTime::now()));
        }
    };
    let thread = thread::Builder::new()
        .name("heartbeat".into())
        .spawn(beat)
        .context("cannot start a thread")?;
    Ok((quit, thread))
}

/// The time by the clock that stamps the lease: on a network file system that is the server's. Written to the lock file,
/// whose content means nothing.
fn now_there(mut lock: &File) -> SystemTime {
    let stamped = lock
        .seek(io::SeekFrom::Start(0))
        .and_then(|_| lock.write_all(b"\n"))
        .and_then(|()| lock.metadata()?.modified());
    stamped.unwrap_or_else(|_| SystemTime::now())
}

fn silence(heartbeat: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(heartbeat).unwrap_or_default()
}

fn lives(holder: &Holder, silence: Duration) -> bool {
    silence <= STALE_AFTER && !is_dead(holder)
}

/// Whether the holder was a process of this machine that is certainly gone.
fn is_dead(holder: &Holder) -> bool {
    let (Some(recorded), Some(ours)) = (&holder.started, started(std::process::id())) else {
        // Nothing but the number: then only a process that is not there is surely gone.
        return holder.host == host() && !exists(holder.pid);
    };
    // Another boot or another container may be another machine of the same name: let the heartbeat decide.
    let space = |started: &str| started.rsplit_once(' ').map(|(space, _)| space.to_owned());
    holder.host == host()
        && space(recorded) == space(&ours)
        && started(holder.pid).as_ref() != Some(recorded)
}

/// Boot, space of process numbers and start time of a process that runs; none where the system does not tell, and none
/// for a process that is gone or dead and only not yet waited for.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the program's name, is in parentheses and may itself hold spaces and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (state, start) = (fields.first()?, fields.get(19)?);
    if matches!(*state, "Z" | "X") {
        return None;
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let space = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {} {start}", boot.trim(), space.display()))
}

#[cfg(unix)]
fn exists(pid: u32) -> bool {
    use nix::errno::Errno;
    use nix::sys::signal::kill;
    use nix::unistd::Pid;
    // Signal 0 is delivered to nobody. A process of another user says EPERM and exists.
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH))
}

/// Without a way to ask, every process counts as there and the heartbeat decides.
#[cfg(not(unix))]
fn exists(_pid: u32) -> bool {
    true
}

fn host() -> String {
    let file = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = file
        .or_else(|| std::env::var("HOSTNAME").ok())
        .or_else(|| std::env::var("COMPUTERNAME").ok());
    name.map_or_else(|| "unknown".into(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::sync::Barrier;

    fn run_directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("temporary directory")
    }

    fn claim(directory: &Path) -> Claim {
        Lease::claim(directory, &Stop::new(None)).expect("claim")
    }

    fn taken(claim: Claim) -> Option<Lease> {
        match claim {
            Claim::Taken(lease) => Some(lease),
            Claim::Held(_) => None,
        }
    }

    fn leave_lease(directory: &Path, holder: &Holder, silent_for: Duration) {
        let path = directory.join(LEASE);
        fs::write(&path, serde_json::to_vec(holder).expect("JSON")).expect("written");
        let file = OpenOptions::new().write(true).open(&path).expect("opened");
        file.set_modified(SystemTime::now() - silent_for)
            .expect("time set");
    }

    fn holder_elsewhere() -> Holder {
        Holder {
            token: "ab".into(),
            host: "another-host".into(),
            pid: 1,
            started: None,
        }
    }

    #[test]
    fn of_many_threads_that_claim_at_once_exactly_one_wins() {
        for stale in [false, true] {
            let directory = run_directory();
            if stale {
                leave_lease(directory.path(), &holder_elsewhere(), STALE_AFTER * 2);
            }
            let barrier = Barrier::new(8);
            let won: Vec<Option<Lease>> = thread::scope(|scope| {
                let claims: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| {
                            barrier.wait();
                            taken(claim(directory.path()))
                        })
                    })
                    .collect();
                claims
                    .into_iter()
                    .map(|claim| claim.join().expect("no panic"))
                    .collect()
            });
            assert_eq!(
                won.iter().flatten().count(),
                1,
                "stale lease there before: {stale}"
            );
        }
    }

    /// Not a test by itself: the other process of the next test, which runs this test binary again.
    #[test]
    fn other_process() {
        let Some(directory) = std::env::var_os("RELORA_TEST_LEASE_DIRECTORY") else {
            return;
        };
        let lease = taken(claim(Path::new(&directory)));
        let answer: &[u8] = if lease.is_some() {
            b"taken\n"
        } else {
            b"held\n"
        };
        io::Write::write_all(&mut io::stdout(), answer).expect("the parent listens");
        // Keeps the lease until the parent has seen all answers and closes the pipe, or kills.
        let _ = io::Read::read(&mut io::stdin(), &mut [0]);
    }

    fn start_other_process(directory: &Path) -> std::process::Child {
        let program = std::env::current_exe().expect("test binary");
        let mut command = Command::new(program);
        command
            .args(["lease::tests::other_process", "--exact", "--nocapture"])
            .env("RELORA_TEST_LEASE_DIRECTORY", directory);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started")
    }

    fn answer(child: &mut std::process::Child) -> String {
        use std::io::BufRead;
        let output = io::BufReader::new(child.stdout.take().expect("piped"));
        let mut lines = output.lines().map_while(Result::ok);
        lines
            .find(|line| line.ends_with("taken") || line.ends_with("held"))
            .unwrap_or_default()
    }

    #[test]
    fn of_many_processes_one_wins_and_when_it_is_killed_the_next_wins_at_once() {
        let directory = run_directory();
        let mut children: Vec<_> = (0..4)
            .map(|_| start_other_process(directory.path()))
            .collect();
        let answers: Vec<String> = children.iter_mut().map(answer).collect();
        assert_eq!(
            answers
                .iter()
                .filter(|answer| answer.ends_with("taken"))
                .count(),
            1,
            "{answers:?}"
        );
        assert!(matches!(claim(directory.path()), Claim::Held(_)));
        for child in &mut children {
            child.kill().expect("killed");
        }
        if cfg!(unix) {
            // Not waited for yet: dead processes that nobody has reaped must not count as holders either.
            let begun = Instant::now();
            while taken(claim(directory.path())).is_none() {
                assert!(
                    begun.elapsed() < Duration::from_secs(5),
                    "the lease of a killed process was not taken over"
                );
                thread::sleep(Duration::from_millis(10));
            }
        }
        for child in &mut children {
            child.wait().expect("reaped");
        }
    }

    #[test]
    fn a_silent_holder_elsewhere_loses_its_lease_and_a_lively_one_keeps_it() {
        let directory = run_directory();
        leave_lease(directory.path(), &holder_elsewhere(), STALE_AFTER / 2);
        assert!(
            matches!(claim(directory.path()), Claim::Held(holder) if holder == holder_elsewhere())
        );
        assert_eq!(
            holder(directory.path()).expect("readable"),
            Some(holder_elsewhere())
        );
        leave_lease(directory.path(), &holder_elsewhere(), STALE_AFTER * 2);
        assert_eq!(holder(directory.path()).expect("readable"), None);
        assert!(taken(claim(directory.path())).is_some());
    }

    #[test]
    fn a_process_number_that_is_used_again_is_not_the_holder() {
        let Some(started) = started(std::process::id()) else {
            return;
        };
        let (space, start) = started.rsplit_once(' ').expect("three parts");
        let earlier = start.parse::<u64>().expect("clock ticks") - 1;
        let ours = Holder {
            token: "ab".into(),
            host: host(),
            pid: std::process::id(),
            started: Some(started.clone()),
        };
        let reused = Holder {
            started: Some(format!("{space} {earlier}")),
            ..ours.clone()
        };
        let other_boot = Holder {
            started: Some(format!("x{space} {earlier}")),
            ..ours.clone()
        };
        assert!(!is_dead(&ours));
        assert!(is_dead(&reused));
        assert!(
            !is_dead(&other_boot),
            "perhaps another machine of the same name: the heartbeat decides"
        );
    }

    #[test]
    fn nothing_is_written_after_a_takeover_and_the_new_lease_stays() {
        let directory = run_directory();
        let stop = Stop::new(None);
        let Claim::Taken(lease) = Lease::claim(directory.path(), &stop).expect("claim") else {
            panic!("held")
        };
        assert_eq!(lease.hold(|| Ok(7)).expect("ours"), 7);
        leave_lease(directory.path(), &holder_elsewhere(), Duration::ZERO);
        let refused = lease
            .hold(|| -> anyhow::Result<()> { panic!("must not be called") })
            .expect_err("lost");
        assert!(refused.is::<LostLease>());
        assert_eq!(stop.reason(), Some(Reason::LostLease));
        drop(lease);
        assert_eq!(
            holder(directory.path()).expect("readable"),
            Some(holder_elsewhere())
        );
    }

    #[test]
    fn the_heartbeat_renews_the_lease_and_notices_its_loss() {
        let directory = run_directory();
        let stop = Stop::new(None);
        let Claim::Taken(lease) = Lease::claim(directory.path(), &stop).expect("claim") else {
            panic!("held")
        };
        let claimed = fs::metadata(directory.path().join(LEASE))
            .and_then(|metadata| metadata.modified())
            .expect("time");
        thread::sleep(HEARTBEAT + HEARTBEAT / 2);
        let (holder, renewed) = read(directory.path()).expect("readable").expect("there");
        assert!(renewed > claimed);
        assert_eq!(holder.token, lease.token());
        leave_lease(directory.path(), &holder_elsewhere(), Duration::ZERO);
        thread::sleep(HEARTBEAT + HEARTBEAT / 2);
        assert_eq!(stop.reason(), Some(Reason::LostLease));
    }

    #[test]
    fn a_lease_given_back_leaves_no_holder() {
        let directory = run_directory();
        drop(taken(claim(directory.path())));
        assert_eq!(holder(directory.path()).expect("readable"), None);
        assert!(taken(claim(directory.path())).is_some());
    }
}
