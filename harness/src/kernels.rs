//! Compiled kernels, kept from one process to the next: compiling them takes a GPU's first step from seconds to half a minute.
//!
//! ```text
//! <the user's cache>/relora/kernels/sm90-cuda12.8-nvrtc12.8-<hash of this program>/
//!     published-<hash of what it holds>/     what a process has left, never changed again
//!     working-<token>/, working-<token>.lock what a process reads and adds to; its lock is held as long as it lives
//! ```
//!
//! CubeCL trusts what it reads and panics where it cannot write, so each process gives it a folder of its own: a copy of the
//! published one whose bytes still have the hash of its name. At its end the process publishes its folder, by a rename, if it
//! has compiled anything. Processes that start or end at the same time cannot spoil each other's, and a folder that was damaged
//! counts as none.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use models::{Device, KernelTarget};
use results::record::KernelRecord;

use crate::files::{self, FileError, failed_to};
use crate::machine;
use crate::progress::warn;

/// Environment variable with another folder than the user's cache, or `off`.
pub const VARIABLE: &str = "RELORA_KERNEL_CACHE";

/// What must be free on the disk for kernels to be kept: a full disk would end the run, and no cache is worth that.
const LEAST_FREE_BYTES: u64 = 512 << 20;

/// Written and removed again to find out whether more can be: what all kernels of a network take, and more.
const PROBE_BYTES: usize = 4 << 20;

/// How many other programs, drivers or GPUs have their kernels kept: every build of this program is another one.
const OTHERS_KEPT: usize = 8;

const PUBLISHED: &str = "published-";
const WORKING: &str = "working-";
const LOCK: &str = ".lock";

/// The kernels of this process. To be opened before its first learner and to be dropped after its last.
#[derive(Debug)]
pub struct Kernels {
    device: Device,
    key: Option<String>,
    working: Option<Working>,
}

impl Kernels {
    /// Looks for kernels that were compiled before, for the GPU on which this process will compute. A folder in which
    /// they cannot be kept is named on standard error and stops nothing.
    #[must_use]
    pub fn open(device: Device) -> Kernels {
        let mut kernels = Kernels {
            device,
            key: None,
            working: None,
        };
        let Device::Cuda(index) = device else {
            return kernels;
        };
        let Some((target, root)) = models::kernel_target(index)
            .and_then(|target| Some((target, root(std::env::var_os(VARIABLE), target)?)))
        else {
            return kernels;
        };
        let opened = key(target).and_then(|key| Ok((Working::open(&root.join(&key))?, key)));
        match opened {
            Ok((working, key)) if models::keep_kernels_in(working.folder.clone()) => {
                kernels.key = Some(key);
                kernels.working = Some(working);
            }
            // Another command of this process has opened them before.
            Ok((working, _)) => working.discard(),
            Err(error) => warn(&format!(
                "note: compiled kernels are not kept: {error}; {VARIABLE} names another folder, or `off`"
            )),
        }
        kernels
    }

    /// What a run's manifest says of them; `None` on a processor.
    #[must_use]
    pub fn record(&self) -> Option<KernelRecord> {
        matches!(self.device, Device::Cuda(_)).then(|| KernelRecord {
            autotune: models::AUTOTUNE.to_owned(),
            cache: self.key.clone(),
        })
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        if let Some(working) = self.working.take() {
            // Whatever goes wrong, the next process compiles once more.
            let _ = working.publish();
        }
    }
}

/// Where kernels are kept; `None` where they are not. The stand-in driver never writes into the user's own cache.
fn root(variable: Option<std::ffi::OsString>, target: KernelTarget) -> Option<PathBuf> {
    match variable {
        Some(folder) if folder == "off" || folder.is_empty() => None,
        Some(folder) => Some(PathBuf::from(folder)),
        None if target.stand_in => None,
        None => models::user_cache().map(|cache| cache.join("kernels")),
    }
}

/// The name of what a compiled kernel depends on; patches of the compiler do not change its version. CubeCL knows its kernels by the names of their Rust types, so any change
/// to this program may change what a name stands for.
fn key(target: KernelTarget) -> Result<String, FileError> {
    let program = std::env::current_exe().map_err(failed_to("find", Path::new("this program")))?;
    let mut hasher = blake3::Hasher::new();
    File::open(&program)
        .and_then(|file| hasher.update_reader(file).map(|_| ()))
        .map_err(failed_to("read", &program))?;
    let KernelTarget {
        capability,
        driver,
        compiler,
        ..
    } = target;
    Ok(format!(
        "sm{}{}-cuda{}.{}-nvrtc{}.{}-{}",
        capability.0,
        capability.1,
        driver.0,
        driver.1,
        compiler.0,
        compiler.1,
        &hasher.finalize().to_hex()[..16]
    ))
}

/// A folder that no other process touches.
#[derive(Debug)]
struct Working {
    /// The folder of all processes with the same key.
    shared: PathBuf,
    folder: PathBuf,
    /// Locked, so that others can tell whether this process lives.
    lock: File,
    /// What was published when it was made.
    taken: Option<String>,
}

impl Working {
    fn open(shared: &Path) -> Result<Working, FileError> {
        fs::create_dir_all(shared).map_err(failed_to("create", shared))?;
        if machine::free_disk(shared).is_some_and(|free| free < LEAST_FREE_BYTES) {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(failed_to("write", shared)(full));
        }
        probe_writing(shared)?;
        remove_abandoned(shared)?;
        let folder = shared.join(format!("{WORKING}{}", files::unique_token()));
        let lock = locked(&lock_of(&folder))?;
        let mut working = Working {
            shared: shared.to_owned(),
            folder,
            lock,
            taken: None,
        };
        working.taken = match working.fill() {
            Ok(taken) => taken,
            Err(error) => {
                working.discard();
                return Err(error);
            }
        };
        Ok(working)
    }

    /// Copies the first published folder that is what its name says, and gives its hash. Others may remove it meanwhile.
    fn fill(&self) -> Result<Option<String>, FileError> {
        for (published, hash) in published(&self.shared)? {
            let is_whole = copy(&published, &self.folder).is_ok()
                && hash_of(&self.folder).ok() == Some(hash.clone());
            if is_whole {
                return Ok(Some(hash));
            }
            files::remove(&self.folder)?;
            // It would be in the way of a whole one of the same name.
            if hash_of(&published).is_ok_and(|found| found != hash) {
                files::remove(&published)?;
            }
        }
        fs::create_dir(&self.folder).map_err(failed_to("create", &self.folder))?;
        Ok(None)
    }

    /// Leaves what this process has compiled to others, unless somebody has left more meanwhile.
    fn publish(self) -> Result<(), FileError> {
        let hash = hash_of(&self.folder)?;
        let earlier = published(&self.shared)?;
        let size = size_of(&self.folder)?;
        let is_news = self.taken.as_ref() != Some(&hash)
            && earlier
                .iter()
                .filter(|(_, other)| Some(other) != self.taken.as_ref())
                .all(|(folder, other)| {
                    // A damaged one is in nobody's way.
                    size_of(folder).is_ok_and(|other_size| other_size < size)
                        || hash_of(folder).ok().as_ref() != Some(other)
                });
        if is_news && size > 0 {
            let path = self.shared.join(format!("{PUBLISHED}{hash}"));
            fs::rename(&self.folder, &path).map_err(failed_to("write", &path))?;
            for (folder, other) in earlier {
                if other != hash {
                    files::remove(&folder)?;
                }
            }
            remove_old(&self.shared)?;
        }
        self.discard();
        Ok(())
    }

    /// Removes the folder, if it is still there, and what says that it is worked on.
    fn discard(self) {
        // What stays is removed by a later process.
        let _ = files::remove(&self.folder);
        let _ = files::remove(&lock_of(&self.folder));
        drop(self.lock);
    }
}

/// Whether there is room for kernels. What the system says of a disk's free space knows nothing of quotas.
fn probe_writing(folder: &Path) -> Result<(), FileError> {
    tempfile::tempfile_in(folder)
        .and_then(|mut file| {
            file.write_all(&vec![1; PROBE_BYTES])?;
            file.sync_all()
        })
        .map_err(failed_to("write", folder))
}

/// A new file that this process holds locked from the moment in which others can see it: one that nobody holds is removed.
fn locked(path: &Path) -> Result<File, FileError> {
    let mut unseen = path.as_os_str().to_owned();
    unseen.push("-new");
    let unseen = PathBuf::from(unseen);
    let lock = File::create_new(&unseen).map_err(failed_to("create", &unseen))?;
    lock.try_lock()
        .map_err(std::io::Error::from)
        .and_then(|()| fs::rename(&unseen, path))
        .map_err(failed_to("lock", path))?;
    Ok(lock)
}

fn lock_of(folder: &Path) -> PathBuf {
    let mut path = folder.as_os_str().to_owned();
    path.push(LOCK);
    path.into()
}

/// Removes the working folders of processes that are gone: nobody holds their locks.
fn remove_abandoned(shared: &Path) -> Result<(), FileError> {
    for path in files::entries(shared)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let folder = match name.strip_suffix(LOCK) {
            Some(working) if working.starts_with(WORKING) => shared.join(working),
            _ => continue,
        };
        let is_abandoned = File::open(&path).is_ok_and(|lock| lock.try_lock().is_ok());
        if is_abandoned {
            files::remove(&folder)?;
            files::remove(&path)?;
        }
    }
    Ok(())
}

/// Removes the kernels of other keys that nobody has added to for longest, where nobody works with them.
fn remove_old(shared: &Path) -> Result<(), FileError> {
    let changed = |path: &PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified());
    let is_other = |path: &PathBuf| {
        // Anything else in the folder is not ours.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path != shared && name.starts_with("sm") && name.contains("-nvrtc") && path.is_dir()
    };
    let mut others: Vec<PathBuf> = files::entries(files::parent(shared))?;
    others.retain(is_other);
    others.sort_by_key(|path| std::cmp::Reverse(changed(path).ok()));
    for folder in others.into_iter().skip(OTHERS_KEPT) {
        remove_abandoned(&folder)?;
        let is_worked_with = |path: &PathBuf| path.to_string_lossy().ends_with(LOCK);
        if !files::entries(&folder)?.iter().any(is_worked_with) {
            files::remove(&folder)?;
        }
    }
    Ok(())
}

/// The folders that processes have left, by name, each with the hash that it had then.
fn published(shared: &Path) -> Result<Vec<(PathBuf, String)>, FileError> {
    let folders = files::entries(shared)?.into_iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?;
        let hash = name.strip_prefix(PUBLISHED)?.to_owned();
        Some((path, hash))
    });
    Ok(folders.collect())
}

/// The files below a folder, by their path in it.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut found = Vec::new();
    for path in files::entries(folder)? {
        if path.is_dir() {
            found.extend(files_of(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

fn size_of(folder: &Path) -> Result<u64, FileError> {
    let size = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
    Ok(files_of(folder)?.iter().map(size).sum())
}

fn hash_of(folder: &Path) -> Result<String, FileError> {
    let mut hasher = blake3::Hasher::new();
    for path in files_of(folder)? {
        let bytes = fs::read(&path).map_err(failed_to("read", &path))?;
        let within = path.strip_prefix(folder).unwrap_or(&path);
        for part in [within.as_os_str().as_encoded_bytes(), &bytes] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

/// Copies a folder to a place where there is none.
fn copy(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::create_dir_all(to).map_err(failed_to("create", to))?;
    for path in files_of(from)? {
        let target = to.join(path.strip_prefix(from).unwrap_or(&path));
        let folder = files::parent(&target);
        fs::create_dir_all(folder).map_err(failed_to("create", folder))?;
        fs::copy(&path, &target).map_err(failed_to("write", &target))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Named and filled as CubeCL names and fills its own.
    const CHUNK: &str = "cuda/0.10.0/ptx/chunk0.cbor";

    fn compiled(working: &Working, kernels: &str) {
        let path = working.folder.join(CHUNK);
        fs::create_dir_all(files::parent(&path)).expect("a folder");
        let before = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, before + kernels).expect("written");
    }

    fn found(working: &Working) -> String {
        fs::read_to_string(working.folder.join(CHUNK)).unwrap_or_default()
    }

    fn names(shared: &Path) -> usize {
        files::entries(shared).expect("listed").len()
    }

    #[test]
    fn what_a_process_compiles_the_next_one_finds_and_one_folder_is_left() {
        let cache = tempfile::tempdir().expect("a folder");
        let shared = cache.path().join("key");
        for (before, adds, after) in [("", "a", "a"), ("a", "b", "ab"), ("ab", "", "ab")] {
            let working = Working::open(&shared).expect("opened");
            assert_eq!(found(&working), before);
            if !adds.is_empty() {
                compiled(&working, adds);
            }
            working.publish().expect("published");
            assert_eq!(names(&shared), 1, "{after}");
            let next = Working::open(&shared).expect("opened");
            assert_eq!(found(&next), after);
            next.discard();
        }
    }

    #[test]
    fn processes_at_the_same_time_do_not_meet_and_the_larger_folder_stays() {
        let cache = tempfile::tempdir().expect("a folder");
        let shared = cache.path().join("key");
        let first = Working::open(&shared).expect("opened");
        let second = Working::open(&shared).expect("opened");
        compiled(&first, "aaa");
        compiled(&second, "bb");
        assert_eq!((found(&first), found(&second)), ("aaa".into(), "bb".into()));
        first.publish().expect("published");
        second.publish().expect("published");
        let third = Working::open(&shared).expect("opened");
        assert_eq!(found(&third), "aaa");
        third.discard();
        assert_eq!(names(&shared), 1);
    }

    #[test]
    fn a_damaged_folder_counts_as_none_and_is_replaced() {
        let cache = tempfile::tempdir().expect("a folder");
        let shared = cache.path().join("key");
        let working = Working::open(&shared).expect("opened");
        compiled(&working, "aaaa");
        working.publish().expect("published");
        let (folder, _) = published(&shared).expect("listed").remove(0);
        fs::write(folder.join(CHUNK), "aaxa").expect("damaged");

        let working = Working::open(&shared).expect("opened");
        assert_eq!(found(&working), "");
        compiled(&working, "aaaa");
        working.publish().expect("published");
        let next = Working::open(&shared).expect("opened");
        assert_eq!(found(&next), "aaaa");
        next.discard();
        assert_eq!(names(&shared), 1);
    }

    #[test]
    fn the_folder_of_a_process_that_was_killed_is_removed_and_that_of_a_living_one_stays() {
        let cache = tempfile::tempdir().expect("a folder");
        let shared = cache.path().join("key");
        let living = Working::open(&shared).expect("opened");
        compiled(&living, "a");
        let killed = Working::open(&shared).expect("opened");
        compiled(&killed, "b");
        let left = killed.folder.clone();
        // as the system does it when a process dies: locks are given back, files stay
        drop(killed.lock);
        let next = Working::open(&shared).expect("opened");
        assert!(!left.exists() && !lock_of(&left).exists());
        assert_eq!(found(&living), "a");
        next.discard();
        living.discard();
    }

    #[test]
    fn the_oldest_of_other_keys_go_and_those_that_are_worked_with_stay() {
        let cache = tempfile::tempdir().expect("a folder");
        let key = |number: usize| {
            cache
                .path()
                .join(format!("sm90-cuda12.8-nvrtc12.8-{number:02}"))
        };
        let in_use = Working::open(&key(0)).expect("opened");
        fs::create_dir(cache.path().join("thesis")).expect("created");
        let leave = |number: usize| {
            let working = Working::open(&key(number)).expect("opened");
            compiled(&working, "a");
            working.publish().expect("published");
        };
        let last = OTHERS_KEPT + 3;
        for number in 1..=last {
            leave(number);
            // Clocks of file systems may tick in hundredths of a second.
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let left = |number: usize| key(number).exists();
        // the last one, eight others before it, and what is in use
        assert!(left(last) && left(last - OTHERS_KEPT) && left(0));
        assert!(!left(last - OTHERS_KEPT - 1) && !left(1));
        assert!(cache.path().join("thesis").exists());
        in_use.discard();
    }

    #[test]
    fn the_stand_in_writes_only_where_it_is_told_to() {
        let real = KernelTarget {
            capability: (9, 0),
            driver: (12, 8),
            compiler: (12, 8),
            stand_in: false,
        };
        let stand_in = KernelTarget {
            stand_in: true,
            ..real
        };
        let named = Some("/somewhere".into());
        assert_eq!(root(None, stand_in), None);
        assert_eq!(root(named.clone(), stand_in), Some("/somewhere".into()));
        assert_eq!(root(named, real), Some("/somewhere".into()));
        assert_eq!(root(Some("off".into()), real), None);
        let users = models::user_cache().map(|cache| cache.join("kernels"));
        assert_eq!(root(None, real), users);
        let key = key(real).expect("a key");
        // this very test is the program that is hashed
        assert!(key.starts_with("sm90-cuda12.8-nvrtc12.8-"), "{key}");
    }
}
