//! What the system says of the machine.

use std::fs;

/// Memory of this machine, bytes; none where the system does not say. `MemTotal:` is all of it, `MemAvailable:` what is
/// free.
#[must_use]
pub fn meminfo(key: &str) -> Option<u64> {
    let information = fs::read_to_string("/proc/meminfo").ok()?;
    let line = information.lines().find_map(|line| line.strip_prefix(key));
    let kibibytes: u64 = line?.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
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
