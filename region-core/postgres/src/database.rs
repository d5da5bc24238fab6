//! Connections, and calls that end at their deadline: here and at the server.

use std::time::Duration;

use deadpool_postgres::{Client, Manager, Object, Pool, Runtime};
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::{CancelToken, Config, NoTls};

use crate::PostgresOptions;
use crate::error::{Error, explain, no_connection};

/// Longest wait for a connection to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait until the server took the wish to end a statement.
const CANCEL: Duration = Duration::from_secs(2);
/// How long the server lets a transaction wait for its next statement, in milliseconds: that of a process that stands still
/// must not keep its locks.
const IDLE_IN_TRANSACTION: u64 = 60_000;

/// What a call does with its connection.
pub(crate) type Work<'a, T> = BoxFuture<'a, Result<T, tokio_postgres::Error>>;

/// Says that a closure is for a connection of any lifetime.
pub(crate) fn work<T, F>(work: F) -> F
where
    F: for<'a> FnOnce(&'a mut Client) -> Work<'a, T> + Send,
{
    work
}

/// One schema at one server.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pool: Pool,
    pub(crate) schema: String,
    at: String,
    deadline: Duration,
}

/// A name that needs no care in a statement.
pub(crate) fn is_schema(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase()) && !name.starts_with("pg_");
    begins && name.len() <= 48 && name.bytes().all(plain)
}

impl Database {
    /// A pool of connections that begin in `schema`, `connections` at most. Connects to nothing yet.
    pub(crate) fn new(options: &PostgresOptions, schema: &str) -> Result<Self, Error> {
        if !is_schema(schema) {
            return Err(Error::Name(schema.to_owned()));
        }
        let at = format!("{}:{}", options.host, options.port);
        let failed = |reason: String| Error::Failed { what: "to make a pool", reason };
        let pool = Pool::builder(Manager::new(config(options, schema), NoTls))
            .max_size(options.connections.max(1))
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(options.deadline))
            .create_timeout(Some(CONNECT))
            .recycle_timeout(Some(CONNECT))
            .build()
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { pool, schema: schema.to_owned(), at, deadline: options.deadline })
    }

    /// A connection, to be held for longer than a call.
    pub(crate) async fn connect(&self, what: &'static str) -> Result<Client, Error> {
        self.pool.get().await.map_err(|error| no_connection(&self.at, what, error))
    }

    /// What an answer means.
    pub(crate) fn explain(&self, what: &'static str, error: &tokio_postgres::Error) -> Error {
        explain(&self.at, what, error)
    }

    /// Does something on a connection within the deadline. What takes longer is ended at the server, too, and so is what
    /// nobody waits for any more; the connection goes with it, so that the end cannot hit what comes next on it.
    pub(crate) async fn call<T: Send>(
        &self,
        what: &'static str,
        work: impl for<'a> FnOnce(&'a mut Client) -> Work<'a, T> + Send,
    ) -> Result<T, Error> {
        self.call_within(what, Some(self.deadline), work).await
    }

    /// As [`Database::call`] with another deadline; `None` for none.
    pub(crate) async fn call_within<T: Send>(
        &self,
        what: &'static str,
        deadline: Option<Duration>,
        work: impl for<'a> FnOnce(&'a mut Client) -> Work<'a, T> + Send,
    ) -> Result<T, Error> {
        let until = deadline.map(|deadline| Instant::now() + deadline);
        let client = self.connect(what).await?;
        let mut under_way = UnderWay { token: client.cancel_token(), client: Some(client) };
        let Some(client) = under_way.client.as_mut() else {
            return Err(Error::Failed { what, reason: "there is no connection".to_owned() });
        };
        let worked = match until {
            Some(until) => timeout_at(until, work(client)).await.ok(),
            None => Some(work(client).await),
        };
        match worked {
            Some(Ok(done)) => {
                under_way.done();
                Ok(done)
            }
            Some(Err(error)) => {
                under_way.done();
                Err(self.explain(what, &error))
            }
            None => {
                let token = under_way.token.clone();
                under_way.leave();
                cancel(token).await;
                Err(Error::Late { what, after: deadline.unwrap_or_default() })
            }
        }
    }
}

fn config(options: &PostgresOptions, schema: &str) -> Config {
    let mut config = Config::new();
    config.host(&options.host).port(options.port).dbname(&options.database).user(&options.username);
    if let Some(password) = &options.password {
        config.password(password);
    }
    let timeout = options.statement_timeout.as_millis();
    let settings = format!(
        "-c search_path={schema} -c statement_timeout={timeout} \
         -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION}"
    );
    config.options(settings).application_name("hearth").connect_timeout(CONNECT);
    // A server that is gone without a word is noticed by the deadline of the call; an idle connection by these.
    config.keepalives(true).keepalives_idle(Duration::from_secs(30)).tcp_user_timeout(Duration::from_secs(30));
    config
}

async fn cancel(token: CancelToken) {
    match timeout(CANCEL, token.cancel_query(NoTls)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a statement could not be ended at the server"),
        Err(_) => tracing::debug!("the server did not take the wish to end a statement"),
    }
}

/// A connection that something is under way on.
struct UnderWay {
    token: CancelToken,
    client: Option<Client>,
}

impl UnderWay {
    /// It is over: the connection may be used again.
    fn done(&mut self) {
        self.client = None;
    }

    /// Closes the connection.
    fn leave(&mut self) {
        self.client.take().map(Object::take);
    }
}

impl Drop for UnderWay {
    /// Nobody waits for it any more: what is under way ends at the server, too.
    fn drop(&mut self) {
        if self.client.is_none() {
            return;
        }
        self.leave();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(cancel(self.token.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_has_a_name_that_needs_no_care() {
        for good in ["hearth", "h", "hearth_eu_west_2"] {
            assert!(is_schema(good), "{good}");
        }
        for bad in ["", "Hearth", "1a", "_a", "a-b", "a;b", "a\"b", "pg_a", &"a".repeat(49)] {
            assert!(!is_schema(bad), "{bad}");
        }
    }
}
