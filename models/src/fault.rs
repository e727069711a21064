//! The device's faults: how a panic on the device's own thread reaches the run that it spoils.
//!
//! Burn runs a device's work on a thread of its own. A panic there is caught and logged by the library, the outputs
//! stay unwritten and training would go on with garbage. A panic hook counts every panic of the process; a learner
//! refuses to work on once one has happened since it was made. That is stricter than it must be (any thread's panic
//! counts), on purpose: a worker process that has panicked anywhere is in no state to vouch for its numbers.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, Once, PoisonError};

/// The device, or the process, failed while it worked. The numbers since the last good reading are worthless.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device failed: {reason}")]
pub struct DeviceFault {
    /// One line, from the device or from the panic.
    pub reason: String,
}

impl DeviceFault {
    /// A fault whose reason is the first line of `reason`: drivers and panics add a trace below it.
    pub(crate) fn new(reason: &str) -> Self {
        let line = reason.lines().map(str::trim).find(|line| !line.is_empty());
        Self {
            reason: line.unwrap_or("no reason given").to_owned(),
        }
    }
}

/// Panics seen so far, and the last one's message.
static PANICS: Mutex<(u64, String)> = Mutex::new((0, String::new()));

/// Watches for panics from the moment it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanicWatch {
    panics_before: u64,
}

impl PanicWatch {
    /// Installs the hook, once per process, in front of whatever hook there was.
    pub(crate) fn start() -> Self {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(|| {
            let previous = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                let message = info.payload_as_str().unwrap_or("a panic without a message");
                let mut seen = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
                *seen = (seen.0 + 1, message.to_owned());
                drop(seen);
                previous(info);
            }));
        });
        Self {
            panics_before: PANICS.lock().unwrap_or_else(PoisonError::into_inner).0,
        }
    }

    /// Fails once any thread has panicked since the watch began.
    pub(crate) fn check(self) -> Result<(), DeviceFault> {
        let seen = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 == self.panics_before {
            Ok(())
        } else {
            Err(DeviceFault::new(&seen.1))
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
