//! Files as the run directory needs them: whole or not there, on the disk before anyone relies on them, and every error
//! with its path.
//!
//! No bare `io::Error` leaves this folder: what cannot be done is one line such as `cannot write
//! runs/x/result.json: No space left on device (os error 28)`.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// End of the names of files and directories that were being written when their process died. They start with a dot.
const PARTIAL: &str = ".partial";

/// Something that could not be done to a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", .path.display())]
pub struct FileError {
    /// What was tried: `read`, `write`, `create`, ...
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

impl FileError {
    /// Whether the file is simply not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether we may not write there: a read-only file system, or somebody else's directory.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
        )
    }
}

/// For `map_err`: puts what was tried and the path to an error of the operating system.
pub fn failed_to(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError {
        action,
        path,
        source,
    }
}

/// Text or bytes on disk that are not what they should be.
#[derive(Debug, thiserror::Error)]
#[error("{} is not readable as {what}: {detail}", .path.display())]
pub struct ContentError {
    /// The file.
    pub path: PathBuf,
    /// What it should hold.
    pub what: &'static str,
    /// Where and how it differs.
    pub detail: String,
}

/// Reads at a place of its own, whatever else reads the same open file.
///
/// # Errors
/// What the operating system says; a file that ends before.
pub fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
    }
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            let read = std::os::windows::fs::FileExt::seek_read(
                file,
                &mut bytes[done..],
                offset + done as u64,
            )?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            done += read;
        }
        Ok(())
    }
}

/// Reads a whole text file.
///
/// # Errors
/// [`FileError`] where it cannot be read or is not UTF-8.
pub fn read_to_string(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(failed_to("read", path))
}

/// Reads and parses a JSON file.
///
/// # Errors
/// [`FileError`] where it cannot be read, [`ContentError`] with line and column where it is not `what`.
pub fn read_json<T: DeserializeOwned>(path: &Path, what: &'static str) -> anyhow::Result<T> {
    let text = fs::read(path).map_err(failed_to("read", path))?;
    let parsed = serde_json::from_slice(&text);
    Ok(parsed.map_err(|error| ContentError {
        path: path.to_owned(),
        what,
        detail: error.to_string(),
    })?)
}

/// Like [`read_json`], but a file that is not there is `None`.
///
/// # Errors
/// Those of [`read_json`] for a file that is there.
pub fn read_json_if_present<T: DeserializeOwned>(
    path: &Path,
    what: &'static str,
) -> anyhow::Result<Option<T>> {
    match read_json(path, what) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.downcast_ref().is_some_and(FileError::is_not_found) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a value as JSON for people to read too, by [`write_atomically`].
///
/// # Errors
/// Those of [`write_atomically`].
pub fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    write_atomically(path, &to_json(value)?)
}

/// A value as [`write_json`] writes it.
///
/// # Errors
/// A value that JSON has no form for.
pub fn to_json(value: &impl Serialize) -> anyhow::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

/// Replaces a file by one with these bytes: written beside it, synced, renamed, and the directory synced. At any moment
/// the old or the new file is there, even after a power failure.
///
/// # Errors
/// [`FileError`] with the path of the file (not of the one written beside it). The old file is then untouched.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let (partial, file) = write_beside(path, bytes)?;
    let renamed = file
        .sync_all()
        .and_then(|()| fs::rename(&partial, path))
        .map_err(failed_to("write", path));
    if renamed.is_err() {
        // The first error is the one to report.
        let _ = remove(&partial);
    }
    renamed?;
    Ok(sync_directory(parent(path))?)
}

/// Writes a new file beside `path`, under a name of [`partial_name`], and leaves it open.
///
/// # Errors
/// [`FileError`] with `path`; then nothing is left beside it.
pub fn write_beside(path: &Path, bytes: &[u8]) -> Result<(PathBuf, File), FileError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = parent(path).join(partial_name(&name, &unique_token()));
    let mut file = File::create_new(&partial).map_err(failed_to("write", path))?;
    match file.write_all(bytes) {
        Ok(()) => Ok((partial, file)),
        Err(error) => {
            let _ = remove(&partial);
            Err(failed_to("write", path)(error))
        }
    }
}

/// 128 bits in hexadecimal that nobody else has: the standard library's hash keys come from the operating system's random
/// source, and no two calls get the same.
#[must_use]
pub fn unique_token() -> String {
    let drawn = || RandomState::new().hash_one((std::process::id(), SystemTime::now()));
    format!("{:016x}{:016x}", drawn(), drawn())
}

/// The directory that a path lies in (`.` for a bare name).
#[must_use]
pub fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Makes what was renamed, created or removed in a directory outlast a power failure.
///
/// # Errors
/// [`FileError`] where the directory cannot be opened or synced.
pub fn sync_directory(directory: &Path) -> Result<(), FileError> {
    // Windows has no such call: a directory cannot be opened as a file there, and NTFS journals its names.
    if cfg!(unix) {
        File::open(directory)
            .and_then(|opened| opened.sync_all())
            .map_err(failed_to("sync", directory))?;
    }
    Ok(())
}

/// Creates a directory and those above it; one that is there already is fine.
///
/// # Errors
/// [`FileError`] with the directory.
pub fn create_directory(directory: &Path) -> Result<(), FileError> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory).map_err(failed_to("create", directory))?;
    sync_directory(parent(directory))
}

/// Name under which something is built beside `name` until it is whole. `token` tells writers apart.
#[must_use]
pub fn partial_name(name: &str, token: &str) -> String {
    format!(".{name}.{token}{PARTIAL}")
}

fn is_partial(name: &std::ffi::OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.starts_with('.') && name.ends_with(PARTIAL))
}

/// Removes what processes that died left half-written in a directory. One that is not there holds nothing.
///
/// # Errors
/// [`FileError`] with what could not be listed or removed.
pub fn remove_partials(directory: &Path) -> Result<(), FileError> {
    for entry in listed(directory)? {
        if is_partial(entry.file_name().unwrap_or_default()) {
            remove(&entry)?;
        }
    }
    Ok(())
}

/// Everything in a directory, sorted by name, but what another process is just writing or left half-written; nothing where
/// the directory is not there.
///
/// # Errors
/// [`FileError`] where it cannot be listed.
pub fn entries(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut paths = listed(directory)?;
    paths.retain(|path| !is_partial(path.file_name().unwrap_or_default()));
    Ok(paths)
}

fn listed(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let listed = match fs::read_dir(directory) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed_to("list", directory)(error)),
    };
    let paths: io::Result<Vec<PathBuf>> = listed.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(failed_to("list", directory))?;
    paths.sort();
    Ok(paths)
}

/// Removes a file or a directory with all that is in it; one that is gone already is fine.
///
/// # Errors
/// [`FileError`] with the path.
pub fn remove(path: &Path) -> Result<(), FileError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed_to("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("value.json");
        write_json(&path, &[1, 2]).expect("first");
        write_json(&path, &[3]).expect("second");
        assert_eq!(
            read_json::<Vec<u32>>(&path, "numbers").expect("readable"),
            [3]
        );
        assert_eq!(listed(directory.path()).expect("listed"), [path]);
    }

    #[test]
    fn what_a_dead_process_left_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let kept = directory.path().join("plan.toml");
        fs::write(&kept, "").expect("written");
        fs::write(
            directory.path().join(partial_name("result.json", "7f")),
            "{",
        )
        .expect("written");
        let half = directory.path().join(partial_name("step-3", "7f"));
        fs::create_dir(&half).expect("created");
        fs::write(half.join("weights.safetensors"), "half").expect("written");
        assert_eq!(
            entries(directory.path()).expect("listed"),
            std::slice::from_ref(&kept)
        );
        remove_partials(directory.path()).expect("removed");
        assert_eq!(listed(directory.path()).expect("listed"), [kept]);
    }

    #[test]
    fn an_error_names_what_was_tried_and_where() {
        let path = Path::new("no-such-directory/result.json");
        let error = write_atomically(path, b"").expect_err("no directory");
        let line = error.to_string();
        assert!(
            line.starts_with("cannot write no-such-directory/result.json: "),
            "{line}"
        );
        let missing: Option<u32> = read_json_if_present(path, "a number").expect("absent is fine");
        assert_eq!(missing, None);
    }
}
