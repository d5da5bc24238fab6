//! What can go wrong, and what to type then.

use std::error::Error as _;
use std::time::Duration;

use deadpool_postgres::{PoolError, TimeoutType};
use hearth_protocol::RegionId;
use region_model::ports::StoreError;
use tokio_postgres::error::SqlState;

/// Why a call to PostgreSQL, or a projection, did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a name of a schema.
    #[error("a schema is named by 1 to 40 lower-case letters, digits and _, beginning with a letter, and not {0:?}")]
    Name(String),
    /// The server does not answer, or the connection to it broke. What was under way is done whole or not at all.
    #[error("PostgreSQL at {at} does not answer: {reason}; start it, or mend host and port in [store.postgres]")]
    Server {
        /// Where it was asked.
        at: String,
        /// What the system or the driver says.
        reason: String,
    },
    /// The server does not let this region in, or has no such database.
    #[error(
        "PostgreSQL at {at} does not let this region in: {reason}; mend database, username and password_file in \
         [store.postgres], or type at the server: CREATE ROLE … LOGIN, CREATE DATABASE … OWNER …"
    )]
    Login {
        /// Where it was asked.
        at: String,
        /// What it says.
        reason: String,
    },
    /// The user lacks a right.
    #[error(
        "PostgreSQL refuses {what}: {reason}; type there: GRANT CREATE ON DATABASE … TO …, or make the user the owner of the schema"
    )]
    Right {
        /// What was asked.
        what: &'static str,
        /// What it says.
        reason: String,
    },
    /// Another version of this program made the schema.
    #[error(
        "the schema has migration {found}, this build knows {known}: start the version that made it, or a newer one"
    )]
    Version {
        /// The last migration found.
        found: i32,
        /// The last that this build knows.
        known: i32,
    },
    /// It is the projection of another region.
    #[error("the schema is the projection of region {found}, not of {asked}: name another schema in [store.postgres]")]
    Region {
        /// Whose it is.
        found: String,
        /// Who asked for it.
        asked: RegionId,
    },
    /// A call took longer than its deadline. The server was asked to end it, and none of it is done.
    #[error("PostgreSQL did not finish {what} within {}: it was asked to end it", show(.after))]
    Late {
        /// What was asked.
        what: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The server ended a statement: it ran longer than `statement_timeout`, or somebody had it ended. None of the call is
    /// done.
    #[error(
        "PostgreSQL ended {what}: {reason}; see what keeps it from going on, or raise statement_timeout in [store.postgres]"
    )]
    Ended {
        /// What was asked.
        what: &'static str,
        /// What it says.
        reason: String,
    },
    /// Somebody else does the same now.
    #[error("{0} is under way already, by another process: wait for it")]
    Busy(&'static str),
    /// The region's own store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Anything else.
    #[error(
        "PostgreSQL failed {what}: {reason}; if rows or tables were changed by hand, stop the region and type: hearth rebuild metadata"
    )]
    Failed {
        /// What was asked.
        what: &'static str,
        /// What it says, with its code.
        reason: String,
    },
}

/// A duration as one writes it in a configuration.
fn show(duration: &Duration) -> String {
    match duration.as_millis() {
        whole if whole % 1_000 == 0 => format!("{} s", whole / 1_000),
        part => format!("{part} ms"),
    }
}

/// What an error says, with what it says it came from.
fn said(error: &tokio_postgres::Error) -> String {
    if let Some(refused) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", refused.message(), refused.code().code());
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What an answer of the server means.
pub(crate) fn explain(at: &str, what: &'static str, error: &tokio_postgres::Error) -> Error {
    let reason = said(error);
    let Some(code) = error.code() else {
        // Without a code it is the connection, or an answer of a form that the driver does not read.
        let from_server =
            error.is_closed() || error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>);
        return if from_server { Error::Server { at: at.to_owned(), reason } } else { Error::Failed { what, reason } };
    };
    let login =
        [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION, SqlState::INVALID_CATALOG_NAME];
    let gone = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    ];
    match code {
        code if login.contains(code) => Error::Login { at: at.to_owned(), reason },
        code if gone.contains(code) => Error::Server { at: at.to_owned(), reason },
        code if *code == SqlState::QUERY_CANCELED => Error::Ended { what, reason },
        code if *code == SqlState::INSUFFICIENT_PRIVILEGE => Error::Right { what, reason },
        _ => Error::Failed { what, reason },
    }
}

/// Why there is no connection.
pub(crate) fn no_connection(at: &str, what: &'static str, error: PoolError) -> Error {
    let server = |reason: String| Error::Server { at: at.to_owned(), reason };
    match error {
        PoolError::Timeout(TimeoutType::Wait) => server("all connections are in use".to_owned()),
        PoolError::Timeout(_) => server("no connection came about in time".to_owned()),
        PoolError::Backend(error) => match explain(at, what, &error) {
            // Without a connection nothing was asked: the driver says why it came to none.
            Error::Failed { reason, .. } if error.code().is_none() => {
                if reason.contains("password") {
                    return Error::Login { at: at.to_owned(), reason };
                }
                server(reason)
            }
            explained => explained,
        },
        other => server(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_happened_and_what_to_type() {
        let late = Error::Late { what: "a batch", after: Duration::from_millis(1_500) };
        assert_eq!(late.to_string(), "PostgreSQL did not finish a batch within 1500 ms: it was asked to end it");
        let late = Error::Late { what: "a batch", after: Duration::from_secs(30) };
        assert!(late.to_string().contains("within 30 s"));
        let version = Error::Version { found: 9, known: 3 }.to_string();
        assert!(version.contains('9') && version.contains('3') && version.contains("start the version"));
    }
}
