//! A region's metadata in PostgreSQL: users, conversations, members, cursors, change feeds and push subscriptions, as tables
//! that anybody may ask.
//!
//! Everything in here is made from the region's logs, and can be made again ([`Projection::catch_up`], [`rebuild`]). Nothing
//! of Hearth reads it, and nothing waits for it: while the server is away the projection is late, and nothing else.
//!
//! ```text
//!   logs ──► Source: which entries ──► Projector: View folds them, touched rows are noted ──► LogRows   (pure)
//!                                                                                              │
//!   projected: length, hash of the last entry ◄── one transaction a batch, if that still stands ┘
//! ```
//! A log is projected as far as it may be shown. What a failover puts apart is noticed by the hash of the last entry that
//! was projected: that log is then written anew, in the transaction that takes its old rows away. Two processes at once do
//! no harm: what one has written the other one's transaction finds, and leaves.

mod database;
mod error;
mod follow;
mod migrations;
mod projection;
mod projector;
mod read;
mod rebuild;
mod rows;
mod statements;
mod views;
mod write;

use std::fmt;
use std::time::Duration;

pub use error::Error;
pub use follow::{FollowOptions, FollowState, follow};
pub use migrations::Migration;
pub use projection::{Pass, Projection, Sweep};
pub use projector::{NotNext, Projector, cursor_row, project};
pub use read::Source;
pub use rebuild::{Plan, plan, rebuild};
pub use rows::{ConversationRow, CursorRow, LogRows, MemberRow, MembershipRow, Stand, SubscriptionRow, UserRow, What};

/// Where a projection is, and how it is asked.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresOptions {
    /// The server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database, which has to be there.
    pub database: String,
    /// Who the region is there.
    pub username: String,
    /// The password, where one is asked for.
    pub password: Option<String>,
    /// The region's own schema: 1 to 40 of a-z, 0-9 and `_`, beginning with a letter. Made where it is not there.
    pub schema: String,
    /// Connections, at most.
    pub connections: usize,
    /// After this the server ends a statement.
    pub statement_timeout: Duration,
    /// After this a call ends, with all its statements.
    pub deadline: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 5432,
            database: "hearth".to_owned(),
            username: "hearth".to_owned(),
            password: None,
            schema: "hearth".to_owned(),
            connections: 4,
            statement_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .field("username", &self.username)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// Makes a schema where it is not there, and brings it up to date, as [`Projection::open`] does; or only looks (`dry_run`).
/// Returns the migrations that this made, or would.
///
/// # Errors
/// [`Error`].
pub async fn migrate(options: &PostgresOptions, dry_run: bool) -> Result<Vec<Migration>, Error> {
    let database = database::Database::new(options, &options.schema)?;
    if dry_run { migrations::pending(&database).await } else { migrations::migrate(&database).await }
}

/// Drops a schema with all that is in it, where it is there.
///
/// # Errors
/// [`Error`].
pub async fn drop_schema(options: &PostgresOptions) -> Result<(), Error> {
    migrations::drop_schema(&database::Database::new(options, &options.schema)?).await
}
