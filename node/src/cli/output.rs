//! What commands print, and how they end.

use crate::{config::ConfigError, models::ModelError, node::NodeError, routing::JobFailure};
use serde::Serialize;
use std::{fmt, io::Write, process::ExitCode};

/// How a command ends: nothing, or what went wrong with its exit code.
pub type Outcome = Result<(), Exit>;

/// A command that failed.
#[derive(Debug)]
pub struct Exit {
    code: u8,
    error: anyhow::Error,
}

impl Exit {
    /// Something of no special kind.
    pub(super) fn error(error: impl Into<anyhow::Error>) -> Self {
        Self { code: 1, error: error.into() }
    }

    /// The same with a message of our own.
    pub(super) fn message(message: impl fmt::Display) -> Self {
        Self::error(anyhow::anyhow!("{message}"))
    }

    /// Wrong use.
    pub(super) fn usage(message: impl fmt::Display) -> Self {
        Self { code: 2, error: anyhow::anyhow!("{message}") }
    }

    /// No node answers.
    pub(super) fn no_daemon(address: &str, reason: impl fmt::Display) -> Self {
        let error = anyhow::anyhow!(
            "no aitbc node answers at http://{address} ({reason}): start one with `aitbc up`, or name another with --api"
        );
        Self { code: 3, error }
    }

    /// Something that did not happen in time.
    pub(super) fn timeout(message: impl fmt::Display) -> Self {
        Self { code: 5, error: anyhow::anyhow!("{message}") }
    }

    /// A check that does not hold.
    pub(super) fn verification(message: impl fmt::Display) -> Self {
        Self { code: 6, error: anyhow::anyhow!("{message}") }
    }

    /// Prints the error on stderr (as JSON where JSON was asked for) and gives the exit code.
    pub fn report(&self, json: bool) -> ExitCode {
        if json {
            let document = serde_json::json!({
                "schema": "aitbc.error/1", "code": self.code, "error": format!("{:#}", self.error),
            });
            eprintln!("{document}");
        } else {
            eprintln!("error: {:#}", self.error);
        }
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#}", self.error)
    }
}

impl From<JobFailure> for Exit {
    fn from(failure: JobFailure) -> Self {
        let code = match failure {
            JobFailure::Invalid { .. } => 2,
            JobFailure::NoProvider { .. } => 4,
            JobFailure::Timeout { .. } => 5,
            JobFailure::Verification { .. } => 6,
            JobFailure::TooExpensive { .. } => 7,
            JobFailure::Failed { .. } => 1,
        };
        Self { code, error: failure.into() }
    }
}

macro_rules! plain_error {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for Exit {
            fn from(error: $error) -> Self {
                Self::error(error)
            }
        })*
    };
}

plain_error!(
    anyhow::Error,
    std::io::Error,
    serde_json::Error,
    reqwest::Error,
    NodeError,
    ModelError,
    aitbc_crypto::keys::KeyError,
);

impl From<ConfigError> for Exit {
    fn from(error: ConfigError) -> Self {
        Self { code: 2, error: error.into() }
    }
}

/// Prints `document` as JSON, or lets `people` print it for people.
pub(super) fn print(json: bool, document: &impl Serialize, people: impl FnOnce()) -> Outcome {
    if json {
        let mut text = serde_json::to_string_pretty(document)?;
        text.push('\n');
        // A reader that left (`aitbc … | head`) is no error.
        match std::io::stdout().lock().write_all(text.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        }
    } else {
        people();
    }
    Ok(())
}

/// Logs to stderr what the filter lets through.
pub(super) fn start_logging(filter: &str) -> Outcome {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|error| Exit::usage(format_args!("--log {filter:?}: {error}")))?;
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .with_target(false)
        .try_init();
    Ok(())
}

/// A length of time in words.
pub(super) fn duration(milliseconds: u64) -> String {
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..60_000 => format!("{:.1} s", milliseconds as f64 / 1000.0),
        60_000..3_600_000 => format!("{} min {} s", milliseconds / 60_000, milliseconds / 1000 % 60),
        _ => format!("{} h {} min", milliseconds / 3_600_000, milliseconds / 60_000 % 60),
    }
}

/// How long ago something was, in words.
pub(super) fn ago(then_ms: u64) -> String {
    format!("{} ago", duration(crate::clock::now_ms().saturating_sub(then_ms)))
}

/// A moment in UTC, to the minute.
pub(super) fn utc(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| "?".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

/// A size in words.
pub(super) fn bytes(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    match bytes {
        0..MIB => format!("{} KiB", bytes.div_ceil(1024)),
        _ if bytes < 1024 * MIB => format!("{:.1} MiB", bytes as f64 / MIB as f64),
        _ => format!("{:.1} GiB", bytes as f64 / (1024 * MIB) as f64),
    }
}

/// Micro-credits as credits, exactly.
pub(super) fn credits(micro_credits: u64) -> String {
    format!("{}.{:06}", micro_credits / 1_000_000, micro_credits % 1_000_000)
}
