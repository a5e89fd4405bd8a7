//! What commands print, and how they end.

use crate::{
    config::ConfigError,
    models::ModelError,
    node::NodeError,
    routing::{JobFailure, RuledOut},
};
use serde::Serialize;
use std::{fmt, io::Write, process::ExitCode};

/// How a command ends: nothing, or what went wrong with its exit code.
pub type Outcome = Result<(), Exit>;

/// A command that failed.
#[derive(Debug)]
pub struct Exit {
    code: u8,
    error: anyhow::Error,
    /// Who could not do a job, and why.
    ruled_out: Vec<RuledOut>,
}

impl Exit {
    fn new(code: u8, error: anyhow::Error) -> Self {
        Self { code, error, ruled_out: Vec::new() }
    }

    /// Something of no special kind.
    pub(super) fn error(error: impl Into<anyhow::Error>) -> Self {
        Self::new(1, error.into())
    }

    /// The same with a message of our own.
    pub(super) fn message(message: impl fmt::Display) -> Self {
        Self::error(anyhow::anyhow!("{message}"))
    }

    /// Wrong use.
    pub(super) fn usage(message: impl fmt::Display) -> Self {
        Self::new(2, anyhow::anyhow!("{message}"))
    }

    /// No node answers.
    pub(super) fn no_daemon(address: &str, reason: impl fmt::Display) -> Self {
        let error = anyhow::anyhow!(
            "no aitbc node answers at http://{address} ({reason}): start one with `aitbc up`, or name another with --api"
        );
        Self::new(3, error)
    }

    /// Something that did not happen in time.
    pub(super) fn timeout(message: impl fmt::Display) -> Self {
        Self::new(5, anyhow::anyhow!("{message}"))
    }

    /// A check that does not hold.
    pub(super) fn verification(message: impl fmt::Display) -> Self {
        Self::new(6, anyhow::anyhow!("{message}"))
    }

    /// Prints the error on stderr (as JSON where JSON was asked for) and gives the exit code.
    pub fn report(&self, json: bool) -> ExitCode {
        if json {
            let mut document = serde_json::json!({
                "schema": "aitbc.error/1", "code": self.code, "error": format!("{:#}", self.error),
            });
            if !self.ruled_out.is_empty() {
                document["ruled_out"] = serde_json::json!(self.ruled_out);
            }
            eprintln!("{document}");
        } else {
            for line in table(&self.ruled_out) {
                eprintln!("{line}");
            }
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

/// Who was ruled out by what, a line each under a head; nothing of nobody.
fn table(ruled_out: &[RuledOut]) -> Vec<String> {
    let row = |row: &RuledOut| {
        let who = row.provider.map_or_else(|| "the cloud".to_owned(), |who| format!("…{}", who.short()));
        let cell = row.cell.map_or_else(|| "-".to_owned(), |cell| cell.to_string());
        format!("{who:12} {cell:8} {:10} {}", row.by, row.reason)
    };
    let head = (!ruled_out.is_empty()).then(|| format!("{:12} {:8} {:10} why", "who", "cell", "ruled by"));
    head.into_iter().chain(ruled_out.iter().map(row)).collect()
}

impl From<JobFailure> for Exit {
    fn from(mut failure: JobFailure) -> Self {
        let ruled_out = failure.take_ruled_out();
        let code = match failure {
            JobFailure::Invalid { .. } => 2,
            JobFailure::NoProvider { .. } => 4,
            JobFailure::Timeout { .. } => 5,
            JobFailure::Verification { .. } => 6,
            JobFailure::TooExpensive { .. } => 7,
            JobFailure::Failed { .. } => 1,
        };
        Self { ruled_out, ..Self::new(code, failure.into()) }
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
        Self::new(2, error.into())
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
