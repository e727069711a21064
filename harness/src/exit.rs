//! How a command ends: its exit code, and the one line that a person reads when something is wrong.
//!
//! A command returns [`Exit`] when it knows how things went and an error when they went wrong. Whose fault an error is
//! gets decided here and nowhere else: what the user typed or pointed at is bad input (2), everything else a failure
//! (1). Code below marks bad input with [`UserError`], or is recognised by the type of its error.

use std::fmt;
use std::process::ExitCode;

use datasets::DataError;
use models::DeviceError;

use crate::profile::ProfileError;
use crate::progress::warn;
use crate::settings::suggestion;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything asked for is done (0). A diverged run counts as done: in this field it is a result.
    Success,
    /// Something failed that is not the user's doing (1).
    Failure,
    /// What was asked for cannot be: an unknown name, an unreadable corpus, a run made with other settings (2).
    BadInput,
    /// The suite went through, but some of its cells failed (3).
    SomeCellsFailed,
    /// Stopped before the end; the same command continues (75, `EX_TEMPFAIL` of sysexits).
    Stopped,
}

impl Exit {
    /// The process exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::BadInput => 2,
            Exit::SomeCellsFailed => 3,
            Exit::Stopped => 75,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Bad input: one line that names the thing, its value and what would be right, and maybe a hint below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserError {
    message: String,
    hint: Option<String>,
}

impl UserError {
    /// An error of one line, without a full stop.
    pub fn new(message: impl Into<String>) -> UserError {
        UserError {
            message: message.into(),
            hint: None,
        }
    }

    /// The same error with a hint, shown on a line of its own.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> UserError {
        self.hint = Some(hint.into());
        self
    }

    /// A name that no list knows, with the nearest that does and all of them.
    pub fn unknown<'a>(
        what: &str,
        given: &str,
        valid: impl IntoIterator<Item = &'a str>,
    ) -> UserError {
        let valid: Vec<&str> = valid.into_iter().collect();
        UserError::new(format!(
            "unknown {what} `{given}`: {}",
            suggestion(given, &valid)
        ))
    }
}

impl fmt::Display for UserError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for UserError {}

/// Prints what went wrong to standard error and says how the process should end.
#[must_use]
pub fn report(error: &anyhow::Error) -> Exit {
    if error.is::<ReaderGone>() {
        return Exit::Success;
    }
    warn(&format!("error: {}", one_line(error)));
    if let Some(hint) = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<UserError>())
        .and_then(|error| error.hint.as_ref())
    {
        warn(&format!("\nhint: {hint}"));
    }
    blame(error)
}

/// The error and its causes on one line. A cause that its parent already quotes is not said twice.
#[must_use]
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause
            .to_string()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
    }
    line
}

/// Whose fault an error is.
#[must_use]
pub fn blame(error: &anyhow::Error) -> Exit {
    let input = error.chain().any(|cause| {
        let of_data = cause.downcast_ref::<DataError>().map(|error| {
            !matches!(
                error,
                DataError::Write { .. } | DataError::Damaged { .. } | DataError::Tokenizer { .. }
            )
        });
        let of_device = cause
            .downcast_ref::<DeviceError>()
            .map(|error| !matches!(error, DeviceError::Fault(_)));
        cause.is::<UserError>()
            || cause.is::<ProfileError>()
            || of_data.or(of_device).unwrap_or(false)
    });
    if input { Exit::BadInput } else { Exit::Failure }
}

/// The reader of our standard output has gone away (`relora tables | head`), which is no failure.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output any more")]
pub struct ReaderGone;

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn bad_input_stays_bad_input_under_context() {
        let error = Err::<(), _>(UserError::new("rank = 0: expected at least 1"))
            .context("profile tiny.toml")
            .unwrap_err();
        assert_eq!(blame(&error), Exit::BadInput);
        assert_eq!(
            one_line(&error),
            "profile tiny.toml: rank = 0: expected at least 1"
        );
        assert_eq!(
            blame(&anyhow::anyhow!("no space left on device")),
            Exit::Failure
        );
    }

    #[test]
    fn a_cause_quoted_by_its_parent_is_said_once() {
        let inner = anyhow::anyhow!("permission denied");
        assert_eq!(
            one_line(&inner.context("cannot write /x: permission denied")),
            "cannot write /x: permission denied"
        );
    }
}
