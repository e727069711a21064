//! What the system says of the machine.

use std::fs;
use std::path::{Path, PathBuf};

use crate::nvml;

/// Memory that this process may take, bytes: the machine's, or the least that a control group around the process (a
/// container, a job of Slurm) is limited to. None where the system does not say.
#[must_use]
pub fn memory() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = least_limit(&groups, Path::new("/sys/fs/cgroup"));
    machine_memory().into_iter().chain(limit).min()
}

/// Memory of this machine that is free, bytes; a control group may have less left.
#[must_use]
pub fn free_memory() -> Option<u64> {
    meminfo("MemAvailable:")
}

/// Memory of this machine, bytes.
#[must_use]
pub fn machine_memory() -> Option<u64> {
    meminfo("MemTotal:")
}

/// Bytes that this process may still write to the disk of a folder. None where the system does not say.
#[must_use]
pub fn free_disk(folder: &Path) -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let disk = nix::sys::statvfs::statvfs(folder).ok()?;
        Some(disk.blocks_available() * disk.fragment_size())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = folder;
        None
    }
}

/// The least limit among the groups of `/proc/self/cgroup` (cgroups(7)) and those around them, of either version (the
/// kernel's cgroup-v2.rst and cgroup-v1/memory.rst). A group that is mounted elsewhere, as in a container, is looked for at
/// the root as well.
fn least_limit(groups: &str, mounted: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => (mounted.to_owned(), "memory.max"),
            _ if controllers
                .split(',')
                .any(|controller| controller == "memory") =>
            {
                (mounted.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let around = Path::new(group.trim_start_matches('/')).ancestors();
        let files: Vec<PathBuf> = around.map(|group| root.join(group).join(file)).collect();
        let limit = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
        files.into_iter().filter_map(limit).min()
    });
    limits.min()
}

fn meminfo(key: &str) -> Option<u64> {
    let information = fs::read_to_string("/proc/meminfo").ok()?;
    let line = information.lines().find_map(|line| line.strip_prefix(key));
    let kibibytes: u64 = line?.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
}

/// Version of NVIDIA's driver: what its management library says or, on Linux, its kernel module.
#[must_use]
pub fn nvidia_driver_version() -> Option<String> {
    let of_module = || {
        let text = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
        version_of_module(&text)
    };
    nvml::library()
        .and_then(nvml::Library::driver_version)
        .or_else(of_module)
}

/// The version in the first line of `/proc/driver/nvidia/version`: the first word that is numbers with dots between them.
fn version_of_module(text: &str) -> Option<String> {
    let is_version =
        |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    let mut words = text.lines().next()?.split_whitespace();
    words.find(is_version).map(str::to_owned)
}

/// The processor's name, where the system tells.
#[must_use]
pub fn processor_name() -> Option<String> {
    let information = fs::read_to_string("/proc/cpuinfo").ok()?;
    let named = |line: &str| {
        Some(
            line.strip_prefix("model name")?
                .split_once(':')?
                .1
                .trim()
                .to_owned(),
        )
    };
    information.lines().find_map(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of the open and of the older kernel module.
    #[test]
    fn the_version_of_a_kernel_module_is_read() {
        for (text, version) in [
            (
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: 12.2.0\n",
                Some("535.183.01"),
            ),
            (
                "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build",
                Some("570.86.15"),
            ),
            ("", None),
        ] {
            assert_eq!(version_of_module(text).as_deref(), version);
        }
    }

    /// Laid out as the kernel's documentation describes both versions; 2^63 - 4096 is what version 1 says of no limit.
    #[test]
    fn the_least_limit_of_the_groups_around_a_process_counts() {
        let mounted = tempfile::tempdir().expect("a folder");
        let write = |file: &str, limit: &str| {
            let path = mounted.path().join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, format!("{limit}\n")).expect("a file");
        };
        write("job/memory.max", "4096");
        write("job/step/memory.max", "max");
        write("job/large/memory.max", "8192");
        write("memory/job/memory.limit_in_bytes", "2048");
        write("memory/memory.limit_in_bytes", "9223372036854771712");
        let least = |groups| least_limit(groups, mounted.path());
        assert_eq!(least("0::/job/step\n"), Some(4096));
        assert_eq!(least("0::/job/large\n"), Some(4096));
        assert_eq!(least("0::/job\n4:memory:/job\n"), Some(2048));
        assert_eq!(least("4:memory:/job\n1:cpu:/\n0::/\n"), Some(2048));
        assert_eq!(
            least("4:cpu,memory:/elsewhere\n"),
            Some(9_223_372_036_854_771_712)
        );
        assert_eq!(least("0::/elsewhere\n"), None);
        assert_eq!(least("nonsense\n"), None);
    }
}
