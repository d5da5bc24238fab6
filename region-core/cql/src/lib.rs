//! The ports of [`region_model::ports`] over CQL: Apache Cassandra, and ScyllaDB.
//!
//! A log's entries lie in buckets: partition (log, sequence / size). The static columns of the bucket in which the next
//! entry will be are the log's state; an append is **one conditional batch** there, of as many messages as wait: its
//! entries, the new state, and what it does in other tables (`redo`), which is done behind it. Whoever finds a log after
//! a process that ended does that first, so that an append happens whole or not at all.
//!
//! ```text
//!   append ──► queue of the log ──► one batch IF change = … AND head = … AND epoch = …  ──► other tables ──► answer
//!                                     │ no answer: read at LocalSerial, ask again, or Unknown
//!                                     └ over buckets: decide in the open bucket, then bucket by bucket (`moving`)
//! ```
//! Two processes may hold one keyspace at once: at each position exactly one of them succeeds. What is remembered of a
//! log is never believed where it would refuse an append, and a load reads anew.
//!
//! A call waits for servers that do not answer (`outage`): whether they will is said by [`Cql::away`]. An answer that
//! would be the same again makes it [`StoreError::Unavailable`], as rows do that this build does not read.

mod append;
mod database;
mod door;
mod effects;
mod indexes;
mod moving;
mod open;
mod outage;
mod ports;
mod queue;
mod reads;
mod schema;
mod stamps;
mod state;
mod statements;
mod values;
mod verdict;

use std::fmt;
use std::sync::Arc;

use hearth_protocol::RegionId;
use hearth_protocol::record::StoreIdentity;
use parking_lot::Mutex;
use region_model::ports::{StoreCounters, Stores};
use tokio::sync::{Semaphore, watch};

use database::Database;
pub use door::{Login, Tls};
use ports::Ports;
use queue::Queues;
pub use schema::Migration;
use stamps::Stamps;
use state::States;

#[cfg(doc)]
use region_model::ports::StoreError;

/// How a keyspace is opened.
#[derive(Clone, Debug, Default)]
pub struct CqlOptions {
    /// Nodes to begin with, `host:port`; the others are learned from them.
    pub nodes: Vec<String>,
    /// The keyspace: 1 to 48 lower-case letters, digits and `_`, beginning with a letter. One for each region.
    pub keyspace: String,
    /// What the keyspace is made with where it is not there yet; see [`Replication`].
    pub replication: Replication,
    /// Who the region is to servers that ask.
    pub login: Option<Login>,
    /// TLS, where the servers speak it.
    pub tls: Option<Tls>,
    /// Entries of a bucket, from 1; read only where the keyspace is new. 1,024 where it is not set.
    pub bucket_size: Option<u64>,
}

/// Copies of each row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Replication {
    /// One copy: for development and tests.
    #[default]
    One,
    /// Copies in each of these data centres. A region's data centres must be near: every append waits for a majority of
    /// the copies in the one that is asked.
    DataCentres(Vec<(String, u8)>),
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No node answers.
    #[error("no CQL server answers at {nodes}: {reason}")]
    Server {
        /// Where it was asked.
        nodes: String,
        /// What the driver says.
        reason: String,
    },
    /// The servers do not let this region in.
    #[error("the CQL servers at {nodes} do not let this region in: {reason}")]
    Login {
        /// Where it was asked.
        nodes: String,
        /// What they say, or what to do.
        reason: String,
    },
    /// Not a name of a keyspace.
    #[error("a keyspace is named by 1 to 48 lower-case letters, digits and _, beginning with a letter, and not {0:?}")]
    Name(String),
    /// Another version of this program made it.
    #[error("the keyspace has migration {found}, this build knows {known}")]
    Version {
        /// The last migration found.
        found: i32,
        /// The last that this build knows.
        known: i32,
    },
    /// It is the store of another region.
    #[error("the store belongs to region {found}, not to {asked}")]
    Region {
        /// Whose it is.
        found: RegionId,
        /// Who asked for it.
        asked: RegionId,
    },
    /// Anything else.
    #[error("the store does not open: {0}")]
    Failed(String),
}

/// Makes a keyspace where it is not there, and brings it up to date, as [`Cql::open`] does; or only looks (`dry_run`).
/// Returns the migrations that this made, or would.
///
/// # Errors
/// [`OpenError`].
pub async fn migrate(options: &CqlOptions, dry_run: bool) -> Result<Vec<Migration>, OpenError> {
    open::migrate(options, dry_run).await
}

/// Drops a keyspace with all that is in it, where it is there.
///
/// # Errors
/// [`OpenError`].
pub async fn drop_keyspace(options: &CqlOptions) -> Result<(), OpenError> {
    open::drop_keyspace(options).await
}

/// An open keyspace.
#[derive(Clone, Debug)]
pub struct Cql {
    store: Arc<Store>,
}

impl Cql {
    /// Opens the store of a region, or makes it: keyspace, tables, identity. Finishes what a process that ended left
    /// undone, which takes a read for each log that was in use then. What it starts runs on the runtime that calls it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(options: &CqlOptions, region: &RegionId) -> Result<Self, OpenError> {
        let store = Arc::new(open::open(options, region).await?);
        open::finish(&store).await?;
        store.database.outages.opened();
        Ok(Self { store })
    }

    /// Why the servers do not answer, while they do not: a call has waited for longer than 3 s, and waits.
    #[must_use]
    pub fn away(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.store.database.outages.away()
    }

    /// Nobody will wait for servers that do not answer: from now on such a call is [`StoreError::Unknown`].
    pub fn end(&self) {
        self.store.database.outages.ending();
    }

    /// The ports.
    #[must_use]
    pub fn stores(&self) -> Stores {
        let ports = Arc::new(Ports(Arc::clone(&self.store)));
        Stores {
            log: Arc::clone(&ports) as _,
            placements: Arc::clone(&ports) as _,
            outbox: Arc::clone(&ports) as _,
            parking: Arc::clone(&ports) as _,
            cursors: Arc::clone(&ports) as _,
            last_changes: Arc::clone(&ports) as _,
            map: Arc::clone(&ports) as _,
            inspect: ports,
            identity: self.store.identity.clone(),
            counters: Arc::clone(&self.store.counters),
        }
    }
}

/// What all handles share.
struct Store {
    database: Arc<Database>,
    stamps: Arc<Stamps>,
    queues: Queues,
    /// Held while a call waits for room: that keeps the order of first polls.
    turn: tokio::sync::Mutex<()>,
    room: Arc<Semaphore>,
    states: Mutex<States>,
    /// Writes of the map, one after the other.
    map_turn: tokio::sync::Mutex<()>,
    runtime: tokio::runtime::Handle,
    /// Entries of a bucket.
    bucket: u64,
    identity: StoreIdentity,
    counters: Arc<StoreCounters>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cql")
            .field("identity", &self.identity)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
