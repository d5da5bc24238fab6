//! The store of a region, by its configuration: embedded in its data folder, or in servers that speak CQL, where this build
//! has that.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "cql")]
use hearth_config::Pem;
use hearth_config::{CqlSection, RegionConfig};
use hearth_protocol::RegionId;
use region_core::RegionHandle;
#[cfg(feature = "cql")]
use region_cql::{Cql, CqlOptions, Login, Replication, Tls};
use region_map::MapNode;
use region_model::ports::Stores;
use region_store::embedded::{Embedded, EmbeddedOptions, OpenError};
use serde::Serialize;
use tokio::sync::watch;

use crate::region::StartError;

/// Longest wait for a store whose last user is about to let go of it: a region that was just stopped.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Whether this build has the adapters of all servers that a region can use.
pub const HAS_SERVERS: bool = cfg!(all(feature = "cql", feature = "postgres"));

/// An open store.
#[derive(Debug)]
pub(crate) enum RegionStore {
    /// In files of the data folder.
    Embedded(Embedded),
    /// In servers. The sender says nothing: what they refuse is said by each call.
    #[cfg(feature = "cql")]
    Cql(Cql, watch::Sender<Option<Arc<str>>>),
}

/// A step of a store's schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MigrationStep {
    /// Its number.
    pub number: i32,
    /// What it is about.
    pub name: String,
    /// What it does, in the servers' language.
    pub statements: Vec<String>,
}

impl RegionStore {
    /// Opens the store of a region, or makes it.
    pub(crate) async fn open(config: &RegionConfig, region: &RegionId) -> Result<Self, StartError> {
        match &config.store.cql {
            Some(cql) => Self::in_servers(cql, region).await,
            None => Ok(Self::Embedded(embedded(config.region.data.join("store"), region.clone()).await?)),
        }
    }

    #[cfg(feature = "cql")]
    async fn in_servers(cql: &CqlSection, region: &RegionId) -> Result<Self, StartError> {
        // Boxed: it is large, and is over once the region runs.
        let opened = Box::pin(Cql::open(&options(cql)?, region)).await;
        let store = opened.map_err(|error| StartError::Servers(error.to_string()))?;
        Ok(Self::Cql(store, watch::Sender::new(None)))
    }

    #[cfg(not(feature = "cql"))]
    #[expect(clippy::unused_async, reason = "as where there is CQL")]
    async fn in_servers(_: &CqlSection, _: &RegionId) -> Result<Self, StartError> {
        Err(left_out())
    }

    /// The ports.
    pub(crate) fn stores(&self) -> Stores {
        match self {
            Self::Embedded(store) => store.stores(),
            #[cfg(feature = "cql")]
            Self::Cql(store, _) => store.stores(),
        }
    }

    /// The store in files, where it is that.
    pub(crate) fn embedded(&self) -> Option<Embedded> {
        match self {
            Self::Embedded(store) => Some(store.clone()),
            #[cfg(feature = "cql")]
            Self::Cql(..) => None,
        }
    }

    /// Says why, once the store broke by itself and does nothing any more.
    pub(crate) fn broken(&self) -> watch::Receiver<Option<Arc<str>>> {
        match self {
            Self::Embedded(store) => store.broken(),
            #[cfg(feature = "cql")]
            Self::Cql(_, never) => never.subscribe(),
        }
    }

    /// Says why, while the store does not answer and calls wait for it. An embedded one never does that: `None`.
    pub(crate) fn away(&self) -> Option<watch::Receiver<Option<Arc<str>>>> {
        match self {
            Self::Embedded(_) => None,
            #[cfg(feature = "cql")]
            Self::Cql(store, _) => Some(store.away()),
        }
    }

    /// The region ends: calls do not wait any longer for a store that does not answer.
    pub(crate) fn end(&self) {
        match self {
            Self::Embedded(_) => {}
            #[cfg(feature = "cql")]
            Self::Cql(store, _) => store.end(),
        }
    }

    /// Ends it. What was answered is durable.
    pub(crate) async fn close(self) {
        match self {
            // Joins the committer: blocks for about one commit.
            Self::Embedded(store) => drop(tokio::task::spawn_blocking(move || store.close()).await),
            #[cfg(feature = "cql")]
            Self::Cql(..) => {}
        }
    }
}

/// Tells the parts of a region whether its store answers.
pub(crate) async fn watch_outages(mut away: watch::Receiver<Option<Arc<str>>>, handle: RegionHandle, map: MapNode) {
    loop {
        let reason = away.borrow_and_update().clone();
        map.set_away(reason.is_some());
        handle.set_store_away(reason);
        if away.changed().await.is_err() {
            return;
        }
    }
}

async fn embedded(folder: PathBuf, region: RegionId) -> Result<Embedded, StartError> {
    let options = EmbeddedOptions {
        #[cfg(feature = "mutants")]
        skip_sync: std::env::var_os("HEARTH_MUTANT_SKIP_SYNC").is_some(),
        ..EmbeddedOptions::default()
    };
    let open = move || {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            match Embedded::open(&folder, &region, &options) {
                Err(OpenError::InUse) if std::time::Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
                opened => return opened,
            }
        }
    };
    tokio::task::spawn_blocking(open)
        .await
        .map_err(|error| StartError::Config(format!("the store's opening ended: {error}")))?
        .map_err(StartError::from)
}

/// Brings the schema of a region's servers up to date, or only says what that would do (`dry_run`). Returns the steps, none
/// when nothing is to be done.
///
/// # Errors
/// [`StartError::Config`] where the region's store is embedded, or this build has no CQL; [`StartError::Servers`] when they
/// do not answer, or another version of this program made their tables.
pub async fn migrate(config: &RegionConfig, dry_run: bool) -> Result<Vec<MigrationStep>, StartError> {
    let Some(cql) = &config.store.cql else {
        return Err(StartError::Config("the region has an embedded store: there is nothing to migrate".to_owned()));
    };
    migrate_servers(cql, dry_run).await
}

#[cfg(feature = "cql")]
async fn migrate_servers(cql: &CqlSection, dry_run: bool) -> Result<Vec<MigrationStep>, StartError> {
    let steps = region_cql::migrate(&options(cql)?, dry_run).await;
    let steps = steps.map_err(|error| StartError::Servers(error.to_string()))?;
    let step = |step: region_cql::Migration| MigrationStep {
        number: step.number,
        name: step.name.to_owned(),
        statements: step.statements(),
    };
    Ok(steps.into_iter().map(step).collect())
}

#[cfg(not(feature = "cql"))]
#[expect(clippy::unused_async, reason = "as where there is CQL")]
async fn migrate_servers(_: &CqlSection, _: bool) -> Result<Vec<MigrationStep>, StartError> {
    Err(left_out())
}

/// Drops the keyspace of a region of a development mesh, where it is there.
///
/// # Errors
/// As [`migrate`].
#[cfg(feature = "cql")]
pub(crate) async fn drop_keyspace(cql: &CqlSection) -> Result<(), StartError> {
    let dropped = region_cql::drop_keyspace(&options(cql)?).await;
    dropped.map_err(|error| StartError::Servers(error.to_string()))
}

#[cfg(not(feature = "cql"))]
#[expect(clippy::unused_async, reason = "as where there is CQL")]
pub(crate) async fn drop_keyspace(_: &CqlSection) -> Result<(), StartError> {
    Err(left_out())
}

#[cfg(not(feature = "cql"))]
fn left_out() -> StartError {
    let text = "[store.cql] is set, and this build has no CQL: build it by cargo build --release --features cql";
    StartError::Config(text.to_owned())
}

#[cfg(feature = "cql")]
fn options(cql: &CqlSection) -> Result<CqlOptions, StartError> {
    let config = |key: &str, error: &dyn std::fmt::Display| StartError::Config(format!("store.cql.{key}: {error}"));
    let read = |key: &str, pem: &Pem| pem.read().map_err(|error| config(key, &error));
    let copies: Vec<(String, u8)> = cql.data_centres.iter().map(|(name, copies)| (name.clone(), *copies)).collect();
    let replication = if copies.is_empty() { Replication::One } else { Replication::DataCentres(copies) };
    let password = cql.read_password().map_err(|error| config("password_file", &error))?;
    let login = cql.username.clone().zip(password).map(|(username, password)| Login {
        username,
        password: String::from_utf8_lossy(password.expose()).into_owned(),
    });
    let identity = match (&cql.certificate, &cql.key) {
        (Some(certificate), Some(key)) => Some((read("certificate", certificate)?, read("key", key)?)),
        _ => None,
    };
    let tls = match &cql.authorities {
        Some(authorities) => Some(Tls { authorities: read("authorities", authorities)?, identity }),
        None => None,
    };
    let (nodes, keyspace) = (cql.nodes.clone(), cql.keyspace.clone());
    Ok(CqlOptions { nodes, keyspace, replication, login, tls, bucket_size: None })
}
