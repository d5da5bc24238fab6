//! What a driver's error says of the servers: whether the same call may be answered later.

use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError,
    RequestAttemptError, UseKeyspaceError,
};

/// Codes that CQL has and the driver does not name: a change that is captured was not written down, and a conditional
/// write whose outcome the coordinator does not know.
const CDC_WRITE_FAILURE: i32 = 0x1600;
const CAS_WRITE_UNKNOWN: i32 = 0x1700;
/// How Cassandra begins the refusal of a password while the tables that it would look it up in do not answer.
const NO_LOOKUP: &str = "Unable to perform authentication";

/// What an error leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The servers, or the way to them, are away or overloaded: the call may have been done, and the same call may be
    /// answered later.
    Passing,
    /// The servers answered, and would answer the same again. What this build does not know counts as that: a region that
    /// ends is looked at, one that waits for ever is not.
    Final,
}

use Verdict::{Final, Passing};

/// Judges the error of one request.
pub(crate) fn judge(error: &ExecutionError) -> Verdict {
    match error {
        ExecutionError::LastAttemptError(attempt) => of_attempt(attempt),
        ExecutionError::ConnectionPoolError(pool) => of_pool(pool),
        ExecutionError::UseKeyspaceError(used) => of_keyspace(used),
        // No node is in reach, or none answers in time, or which there are is not known now.
        ExecutionError::EmptyPlan
        | ExecutionError::RequestTimeout(_)
        | ExecutionError::SchemaAgreementError(_)
        | ExecutionError::MetadataError(_) => Passing,
        _ => Final,
    }
}

fn of_attempt(error: &RequestAttemptError) -> Verdict {
    match error {
        RequestAttemptError::DbError(error, text) => of_answer(error, text),
        RequestAttemptError::BrokenConnectionError(_) | RequestAttemptError::UnableToAllocStreamId => Passing,
        _ => Final,
    }
}

fn of_answer(error: &DbError, text: &str) -> Verdict {
    match error {
        DbError::Unavailable { .. }
        | DbError::Overloaded
        | DbError::IsBootstrapping
        | DbError::TruncateError
        | DbError::ReadTimeout { .. }
        | DbError::WriteTimeout { .. }
        | DbError::ReadFailure { .. }
        | DbError::WriteFailure { .. }
        | DbError::RateLimitReached { .. }
        // A node that starts or ends says so of what it has no better word for, and forgets what was prepared.
        | DbError::ServerError
        | DbError::Unprepared { .. } => Passing,
        DbError::Other(CDC_WRITE_FAILURE | CAS_WRITE_UNKNOWN) => Passing,
        DbError::AuthenticationError if text.starts_with(NO_LOOKUP) => Passing,
        _ => Final,
    }
}

/// A pool without a connection says why the last one that it tried did not come.
fn of_pool(error: &ConnectionPoolError) -> Verdict {
    match error {
        ConnectionPoolError::Broken { last_connection_error } => of_connection(last_connection_error),
        ConnectionPoolError::Initializing => Passing,
        _ => Final,
    }
}

fn of_connection(error: &ConnectionError) -> Verdict {
    match error {
        ConnectionError::ConnectionSetupRequestError(setup) => of_setup(&setup.error),
        ConnectionError::UseKeyspaceError(used) => of_keyspace(used),
        ConnectionError::ConnectTimeout
        | ConnectionError::IoError(_)
        | ConnectionError::NoSourcePortForShard(_)
        | ConnectionError::TranslationError(_)
        | ConnectionError::BrokenConnection(_) => Passing,
        _ => Final,
    }
}

fn of_setup(error: &ConnectionSetupRequestErrorKind) -> Verdict {
    match error {
        ConnectionSetupRequestErrorKind::DbError(error, text) => of_answer(error, text),
        ConnectionSetupRequestErrorKind::BrokenConnection(_)
        | ConnectionSetupRequestErrorKind::UnableToAllocStreamId => Passing,
        _ => Final,
    }
}

fn of_keyspace(error: &UseKeyspaceError) -> Verdict {
    match error {
        UseKeyspaceError::RequestError(attempt) => of_attempt(attempt),
        UseKeyspaceError::RequestTimeout(_) => Passing,
        _ => Final,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::time::Duration;

    use scylla::errors::{BrokenConnectionErrorKind, WriteType};
    use scylla::statement::Consistency;

    use super::*;

    fn answer(error: DbError, text: &str) -> ExecutionError {
        RequestAttemptError::DbError(error, text.to_owned()).into()
    }

    fn pool(last_connection_error: ConnectionError) -> ExecutionError {
        ConnectionPoolError::Broken { last_connection_error }.into()
    }

    /// What the driver said while Cassandra 5.0.4 was stopped by SIGSTOP, killed, and starting again, and what servers
    /// answer that are too few or too busy.
    #[test]
    fn a_server_that_is_away_too_busy_or_too_few_is_asked_again() {
        let consistency = Consistency::LocalQuorum;
        let write_type = WriteType::Cas;
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let broken = || BrokenConnectionErrorKind::KeepaliveTimeout(IpAddr::V4(Ipv4Addr::LOCALHOST));
        for error in [
            ExecutionError::RequestTimeout(Duration::from_secs(12)),
            ExecutionError::EmptyPlan,
            RequestAttemptError::BrokenConnectionError(broken().into()).into(),
            pool(ConnectionError::IoError(Arc::new(refused))),
            pool(ConnectionError::ConnectTimeout),
            ConnectionPoolError::Initializing.into(),
            answer(DbError::Unavailable { consistency, required: 2, alive: 1 }, ""),
            answer(DbError::WriteTimeout { consistency, received: 1, required: 2, write_type }, ""),
            answer(DbError::ReadTimeout { consistency, received: 0, required: 1, data_present: false }, ""),
            answer(DbError::Overloaded, ""),
            answer(DbError::IsBootstrapping, ""),
            answer(DbError::ServerError, "java.lang.AssertionError"),
            answer(DbError::Other(0x1700), "CAS operation result is unknown"),
        ] {
            assert_eq!(judge(&error), Passing, "{error}");
        }
    }

    /// The driver's error around these cannot be made here.
    #[test]
    fn a_password_that_is_refused_is_final_and_one_that_cannot_be_looked_up_is_not() {
        let refused = |text: &str| {
            of_setup(&ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, text.to_owned()))
        };
        assert_eq!(refused("Provided username hearth and/or password are incorrect"), Final);
        assert_eq!(of_setup(&ConnectionSetupRequestErrorKind::MissingAuthentication), Final);
        let lookup = "Unable to perform authentication: Cannot achieve consistency level LOCAL_ONE";
        assert_eq!(refused(lookup), Passing);
        let broken = BrokenConnectionErrorKind::KeepaliveTimeout(IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(of_setup(&ConnectionSetupRequestErrorKind::BrokenConnection(broken.into())), Passing);
    }

    #[test]
    fn a_server_that_answered_and_will_not_answer_otherwise_is_believed() {
        for error in [
            answer(DbError::Invalid, "unconfigured table log"),
            answer(DbError::Invalid, "Batch too large"),
            answer(DbError::SyntaxError, ""),
            answer(DbError::Unauthorized, "User hearth has no MODIFY permission"),
            answer(DbError::ConfigError, ""),
            answer(DbError::ProtocolError, ""),
            answer(DbError::Other(0x4444), "what no version of the protocol says"),
            RequestAttemptError::NonfinishedPagingState.into(),
            UseKeyspaceError::RequestError(RequestAttemptError::DbError(
                DbError::Invalid,
                "Keyspace 'hearth' does not exist".to_owned(),
            ))
            .into(),
        ] {
            assert_eq!(judge(&error), Final, "{error}");
        }
    }
}
