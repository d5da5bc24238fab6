//! How a keyspace is opened: session, schema, identity, and what a process that ended left undone.

use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::record::{Record, StoreIdentity};
use hearth_protocol::{LogId, RegionId};
use region_model::ports::{StoreCounters, StoreError};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::{Consistency, SerialConsistency};
use scylla::value::CqlValue;
use tokio::sync::Semaphore;

use crate::database::{Cas, Database, all, unreadable};
use crate::outage::Outages;
use crate::queue::{QUEUE_BOUND, Queues};
use crate::schema::Migration;
use crate::stamps::{Stamps, away, read_meta, set_meta};
use crate::state::States;
use crate::statements::Statements;
use crate::values::{SHARDS, blob, int};
use crate::{CqlOptions, OpenError, Replication, Store, door, schema};

/// Entries of a bucket of a new keyspace: about a megabyte of messages a partition.
const BUCKET: u64 = 1_024;
/// A request that takes longer has an unknown outcome. Longer than the servers' own limits, so that theirs come first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(12);
/// For one connection to one node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a first session: a server that takes connections and says nothing is waited for by the driver for longer.
const OPEN_PATIENCE: Duration = Duration::from_secs(20);
/// Rows of a page of `open_logs`.
const PAGE: i32 = 1_000;

const IDENTITY: &str = "identity";
const BUCKET_SIZE: &str = "bucket-size";
/// Set while the servers' files hold what was taken away.
const SCRUB: &str = "scrub";

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

fn is_name(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    (1..=48).contains(&name.len()) && plain && name.starts_with(|first: char| first.is_ascii_lowercase())
}

/// The statement that makes the keyspace. Data centres are quoted as CQL quotes text.
fn create(options: &CqlOptions) -> String {
    let copies = match &options.replication {
        Replication::One => "'class': 'SimpleStrategy', 'replication_factor': 1".to_owned(),
        Replication::DataCentres(copies) => {
            let each = copies.iter().map(|(name, count)| format!(", '{}': {count}", name.replace('\'', "''")));
            format!("'class': 'NetworkTopologyStrategy'{}", each.collect::<String>())
        }
    };
    format!("CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {{{copies}}}", options.keyspace)
}

async fn session(options: &CqlOptions) -> Result<Session, OpenError> {
    if !is_name(&options.keyspace) {
        return Err(OpenError::Name(options.keyspace.clone()));
    }
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .serial_consistency(Some(SerialConsistency::LocalSerial))
        .request_timeout(Some(REQUEST_TIMEOUT))
        .build();
    let builder = SessionBuilder::new()
        .known_nodes(&options.nodes)
        .connection_timeout(CONNECT_TIMEOUT)
        // Which node holds what is all that is asked of the schema: tables are known from here.
        .keyspaces_to_fetch([&options.keyspace])
        .fetch_full_schema_metadata(false)
        .refresh_metadata_on_auto_schema_agreement(false)
        .default_execution_profile_handle(profile.into_handle());
    match tokio::time::timeout(OPEN_PATIENCE, door::come_in(builder, options)?.build()).await {
        Ok(built) => built.map_err(|error| door::not_in(options, &error)),
        Err(_) => {
            let reason = format!("no answer for {OPEN_PATIENCE:?}");
            Err(OpenError::Server { nodes: options.nodes.join(", "), reason })
        }
    }
}

fn failed(error: &dyn std::fmt::Display) -> OpenError {
    OpenError::Failed(error.to_string())
}

/// Makes the keyspace where it is not there, and brings it up to date.
async fn up_to_date(session: &Session, options: &CqlOptions) -> Result<Vec<Migration>, OpenError> {
    session.query_unpaged(create(options), ()).await.map_err(|error| failed(&error))?;
    session.use_keyspace(&options.keyspace, false).await.map_err(|error| failed(&error))?;
    let made = schema::migrate(session).await?;
    for migration in &made {
        tracing::info!(number = migration.number, name = migration.name, "the keyspace has a new migration");
    }
    Ok(made)
}

/// See [`crate::migrate`].
pub(crate) async fn migrate(options: &CqlOptions, dry_run: bool) -> Result<Vec<Migration>, OpenError> {
    let session = session(options).await?;
    if dry_run { schema::pending(&session, &options.keyspace).await } else { up_to_date(&session, options).await }
}

/// See [`crate::drop_keyspace`].
pub(crate) async fn drop_keyspace(options: &CqlOptions) -> Result<(), OpenError> {
    let session = session(options).await?;
    let dropped = session.query_unpaged(format!("DROP KEYSPACE IF EXISTS {}", options.keyspace), ()).await;
    dropped.map(drop).map_err(|error| failed(&error))
}

/// Opens the keyspace.
pub(crate) async fn open(options: &CqlOptions, region: &RegionId) -> Result<Store, OpenError> {
    let session = session(options).await?;
    up_to_date(&session, options).await?;
    let statements = Statements::prepare(&session).await.map_err(|error| failed(&error))?;
    let counters = Arc::new(StoreCounters::default());
    let outages = Outages::new(Arc::clone(&counters));
    let database = Arc::new(Database { session, statements, outages });
    let bucket = bucket_size(&database, options.bucket_size.unwrap_or(BUCKET)).await?;
    let identity = next_identity(&database, region).await?;
    let runtime = tokio::runtime::Handle::current();
    Ok(Store {
        stamps: Arc::new(Stamps::open(Arc::clone(&database), runtime.clone()).await?),
        database,
        queues: Queues::default(),
        turn: tokio::sync::Mutex::new(()),
        room: Arc::new(Semaphore::new(QUEUE_BOUND)),
        states: parking_lot::Mutex::new(States::default()),
        map_turn: tokio::sync::Mutex::new(()),
        runtime,
        bucket,
        identity,
        counters,
    })
}

/// What the keyspace was made with, or is made with now.
async fn bucket_size(database: &Database, wanted: u64) -> Result<u64, OpenError> {
    let form = || OpenError::Failed("the size of a bucket has a form that this build does not know".into());
    for _ in 0..8 {
        if let Some(found) = read_meta(database, BUCKET_SIZE).await? {
            let size = found.try_into().map(u64::from_be_bytes).map_err(|_| form())?;
            return if size > 0 { Ok(size) } else { Err(form()) };
        }
        set_meta(database, BUCKET_SIZE, None, &wanted.max(1).to_be_bytes()).await?;
    }
    Err(OpenError::Failed("the size of a bucket was not set".into()))
}

async fn next_identity(database: &Database, region: &RegionId) -> Result<StoreIdentity, OpenError> {
    for _ in 0..8 {
        let found = read_meta(database, IDENTITY).await?;
        let next = match found.as_deref().map(StoreIdentity::decode).transpose() {
            Ok(Some(stored)) if stored.region == *region => {
                StoreIdentity { incarnation: stored.incarnation + 1, ..stored }
            }
            Ok(Some(stored)) => return Err(OpenError::Region { found: stored.region, asked: region.clone() }),
            Ok(None) => {
                let store = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
                StoreIdentity { store, region: region.clone(), incarnation: 1 }
            }
            Err(error) => return Err(OpenError::Failed(error.to_string())),
        };
        if set_meta(database, IDENTITY, found.as_deref(), &next.encode()).await? == Cas::Applied {
            return Ok(next);
        }
    }
    Err(OpenError::Failed("others open the same keyspace all the time".into()))
}

/// Finishes what a process that ended left undone: its logs are noted in `open_logs`.
pub(crate) async fn finish(store: &Arc<Store>) -> Result<(), OpenError> {
    let statements = &store.database.statements;
    for shard in 0..SHARDS {
        let mut after: Vec<u8> = Vec::new();
        loop {
            let asked = vec![int(shard), blob(&after), int(PAGE)];
            let rows: Vec<(Vec<u8>,)> = store.database.rows(&statements.open_logs, asked).await?;
            let stamp = away(store.stamps.draw(1)?);
            let looks = rows.iter().map(|(bytes,)| async move {
                let log = LogId::from_bytes(bytes).ok_or_else(|| unreadable("a log's id"))?;
                store.known(log).await?;
                let values = vec![Some(CqlValue::BigInt(stamp)), int(shard), blob(bytes)];
                store.database.run(&store.database.statements.remove_open_log, values).await
            });
            all(looks).await?;
            match rows.last() {
                Some((last,)) if rows.len() == usize::try_from(PAGE).unwrap_or(0) => after.clone_from(last),
                _ => break,
            }
        }
    }
    Ok(())
}

impl Store {
    /// The servers' files hold what was taken away.
    pub(crate) async fn note_scrub(&self) -> Result<(), StoreError> {
        let found = read_meta(&self.database, SCRUB).await?;
        if found.as_deref().is_none_or(<[u8]>::is_empty) {
            // Where it is refused somebody else noted it.
            set_meta(&self.database, SCRUB, found.as_deref(), b"1").await?;
        }
        Ok(())
    }

    /// See `docs/operations/stores.md`: no statement of CQL rewrites the servers' files. What was taken away goes when
    /// they compact, which an operator asks for.
    pub(crate) async fn scrubbed(&self) -> Result<bool, StoreError> {
        let found = read_meta(&self.database, SCRUB).await?;
        if found.as_deref().is_none_or(<[u8]>::is_empty) {
            return Ok(false);
        }
        set_meta(&self.database, SCRUB, found.as_deref(), b"").await?;
        tracing::info!("content was taken away: the CQL servers' files hold it until they compact");
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_names_of_keyspaces() {
        for name in ["hearth", "h", "hearth_eu_1"] {
            assert!(is_name(name), "{name}");
        }
        let long = "h".repeat(49);
        for name in ["", "1h", "_h", "Hearth", "h-e", "h;drop", "h e", &long] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn a_keyspace_is_made_with_the_copies_that_were_asked_for() {
        let options =
            |replication| CqlOptions { nodes: vec![], keyspace: "hearth".into(), replication, ..CqlOptions::default() };
        let made = create(&options(Replication::DataCentres(vec![("eu".into(), 3), ("o'd".into(), 2)])));
        let copies = "{'class': 'NetworkTopologyStrategy', 'eu': 3, 'o''d': 2}";
        assert_eq!(made, format!("CREATE KEYSPACE IF NOT EXISTS hearth WITH replication = {copies}"));
        assert!(create(&options(Replication::One)).contains("'replication_factor': 1}"));
    }
}
