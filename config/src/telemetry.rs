//! Logs: always to standard error, so that standard output belongs to what a command answers.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::LogFormat;

/// Environment variables that replace the configured filter, the first that is set wins.
const FILTER_VARIABLES: [&str; 2] = ["HEARTH_LOG", "RUST_LOG"];

/// Crates that write what they carry at their finer levels: message texts and tokens never reach a log.
const CAPPED: [&str; 6] = ["tungstenite", "tokio_tungstenite", "h2", "hyper", "hyper_util", "wtransport"];

/// The consensus library tells each message at `info` and each cut link at `error`; what matters of it we tell ourselves.
const SILENT: &str = "openraft";

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not one that tracing understands.
    #[error("the log filter from {origin} cannot be read: {reason}; type for example `info,hearth_mesh=debug`")]
    Filter {
        /// The environment variable, or `the configuration`.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A subscriber is set already.
    #[error("logging has already been started in this process")]
    AlreadyStarted,
}

/// Starts logging to standard error for the whole process, once. `filter` is a tracing filter such as
/// `info,hearth_mesh=debug`; `HEARTH_LOG`, then `RUST_LOG`, replace it when set and not empty.
///
/// # Errors
/// When the filter cannot be read, or logging was started before.
pub fn init_logging(format: LogFormat, filter: &str) -> Result<(), LoggingError> {
    let overriding = FILTER_VARIABLES
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()).map(|value| (name, value)));
    let filter = match overriding {
        Some((name, value)) => parse_filter(name, &value)?,
        None => parse_filter("the configuration", filter)?,
    };
    let filter = CAPPED.iter().fold(filter, |filter, target| {
        filter.add_directive(format!("{target}=info").parse().expect("a crate and a level are a directive"))
    });
    let filter = filter.add_directive(format!("{SILENT}=off").parse().expect("a crate and a level are a directive"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| LoggingError::AlreadyStarted)
}

/// Tells whether `filter` is one that [`init_logging`] accepts.
///
/// # Errors
/// With the reason when it is not.
pub(crate) fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::builder().parse(filter).map(drop).map_err(|error| error.to_string())
}

fn parse_filter(origin: &str, filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| LoggingError::Filter { origin: origin.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_with_targets_is_accepted_and_a_broken_one_is_refused_with_a_reason() {
        assert_eq!(check_filter("info,hearth_mesh=debug"), Ok(()));
        assert!(check_filter("info,hearth=loud").is_err());
    }

    #[test]
    fn starting_twice_is_refused() {
        // The first start may itself be the second of this process when the tests share one.
        drop(init_logging(LogFormat::Text, "warn"));
        assert!(matches!(init_logging(LogFormat::Json, "warn"), Err(LoggingError::AlreadyStarted)));
    }
}
