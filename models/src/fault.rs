//! The device's faults: how a panic on the device's own thread reaches the run that it spoils.
//!
//! Burn runs a device's work on a thread of its own. A panic there is caught and logged by the library, the outputs
//! stay unwritten and training would go on with garbage. A panic hook counts every panic of the process; a learner
//! refuses to work on once one has happened since it was made. That is stricter than it must be (any thread's panic
//! counts), on purpose: a worker process that has panicked anywhere is in no state to vouch for its numbers.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// The device, or the process, failed while it worked. The numbers since the last good reading are worthless.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device failed: {reason}")]
pub struct DeviceFault {
    /// One line, from the device or from the panic.
    pub reason: String,
}

impl DeviceFault {
    /// A fault whose reason is the first line of `reason`, with the cause that CubeCL's errors name below it: drivers and
    /// panics add a trace after that.
    #[must_use]
    pub fn new(reason: &str) -> Self {
        let mut lines = reason
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or("no reason given");
        let cause = match (lines.next(), lines.next()) {
            (Some("Caused by:"), Some(cause)) => format!(": {cause}"),
            _ => String::new(),
        };
        Self {
            reason: format!("{first}{cause}"),
        }
    }

    /// Whether the device had no memory left. CubeCL 0.10 says so in its own words, from whichever thread asked for memory,
    /// or in the driver's; where the request was one among many, as a page of its pool that is not there.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        let says = |words: &str| self.reason.contains(words);
        says("can't allocate buffer of size")
            || says("CUDA_ERROR_OUT_OF_MEMORY")
            || (says("Memory page") || says("Memory slice")) && says("doesn't exist")
    }
}

/// Messages of the panics so far. The first is the fault; those after it are mostly what follows from it.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn seen() -> MutexGuard<'static, Vec<String>> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches for panics from the moment it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanicWatch {
    panics_before: usize,
}

impl PanicWatch {
    /// Installs the hook, once per process, in front of whatever hook there was.
    pub(crate) fn start() -> Self {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(|| {
            let previous = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                let message = info.payload_as_str().unwrap_or("a panic without a message");
                seen().push(message.to_owned());
                previous(info);
            }));
        });
        Self {
            panics_before: seen().len(),
        }
    }

    /// Fails once any thread has panicked since the watch began.
    pub(crate) fn check(self) -> Result<(), DeviceFault> {
        match seen().get(self.panics_before) {
            None => Ok(()),
            Some(first) => Err(DeviceFault::new(first)),
        }
    }

    /// Does `work` unless a panic has been seen; a panic within it becomes a fault.
    pub(crate) fn guard<T>(
        self,
        work: impl FnOnce() -> Result<T, DeviceFault>,
    ) -> Result<T, DeviceFault> {
        self.check()?;
        let result = panic::catch_unwind(AssertUnwindSafe(work));
        self.check()?;
        result.unwrap_or_else(|_| Err(DeviceFault::new("a panic that no hook has seen")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of cubecl-cuda, cubecl-runtime and cudarc, as their sources write them.
    #[test]
    fn a_device_without_memory_is_told_apart_from_other_faults() {
        for (text, reason, out_of_memory) in [
            (
                "called `Result::unwrap()` on an `Err` value: can't allocate buffer of size: 1073741824\n   0: frame",
                "called `Result::unwrap()` on an `Err` value: can't allocate buffer of size: 1073741824",
                true,
            ),
            (
                "The server is in an invalid state\nCaused by:\n  [Io(can't allocate buffer of size: 512\nframes)]",
                "The server is in an invalid state: [Io(can't allocate buffer of size: 512",
                true,
            ),
            (
                "called `Result::unwrap()` on an `Err` value: DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
                "called `Result::unwrap()` on an `Err` value: DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
                true,
            ),
            (
                "couldn't find resource for that handle: Memory page 3 doesn't exist\nframes",
                "couldn't find resource for that handle: Memory page 3 doesn't exist",
                true,
            ),
            (
                "An error happened during execution\nCaused by:\n  DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)\nBacktrace:\n",
                "An error happened during execution: DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)",
                false,
            ),
            ("\n", "no reason given", false),
        ] {
            let fault = DeviceFault::new(text);
            assert_eq!(fault.reason, reason);
            assert_eq!(fault.is_out_of_memory(), out_of_memory, "{reason}");
        }
    }
}
