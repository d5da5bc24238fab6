//! The projection of a region's metadata into PostgreSQL, where the configuration asks for it and this build has that: kept
//! up to date by a task, and made anew by `hearth rebuild metadata`.

use hearth_config::RegionConfig;
use region_model::ports::Stores;
use serde::Serialize;

use crate::region::StartError;
use crate::store::{MigrationStep, RegionStore};

/// What a rebuild would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuildPlan {
    /// Steps of the schema that it would make first.
    pub migrations: Vec<MigrationStep>,
    /// Records of users that it would read.
    pub users: u64,
    /// Conversations that it would read.
    pub conversations: u64,
    /// Their entries.
    pub entries: u64,
    /// Logs that are projected now.
    pub projected: u64,
    /// Whether one was begun before, and would be gone on with.
    pub begun: bool,
}

/// What a rebuild did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuildProgress {
    /// Logs that were looked at.
    pub logs: u64,
    /// Logs that were written.
    pub written: u64,
    /// Entries that were read.
    pub entries: u64,
    /// Rows that were written, about.
    pub rows: u64,
    /// Logs that could not be projected yet: a running region projects them when the rest of them is here.
    pub behind: u64,
}

/// Opens the store of a region that is down. One that is not there is not made.
async fn open(config: &RegionConfig) -> Result<RegionStore, StartError> {
    let folder = config.region.data.join("store");
    if config.store.cql.is_none() && !folder.is_dir() {
        return Err(StartError::Config(format!("{} holds no store", folder.display())));
    }
    RegionStore::open(config, &crate::region::region_id(&config.region.id)?).await
}

/// Says what [`rebuild_metadata`] would do. Changes nothing.
///
/// # Errors
/// As [`rebuild_metadata`].
pub async fn plan_metadata(config: &RegionConfig) -> Result<RebuildPlan, StartError> {
    let metadata = Metadata::asked(config)?;
    let store = open(config).await?;
    let planned = metadata.plan(&store.stores()).await;
    store.close().await;
    planned
}

/// Makes the projection of a region that is down anew, from its store. Dropped it leaves the old one as it is, and goes on
/// where it was when it is called again. `tell` hears of each page of logs.
///
/// # Errors
/// [`StartError::Config`] where the configuration names no PostgreSQL, or this build has none; [`StartError::Servers`] when
/// it does not answer or does not do what it is asked; what the store says that does not open.
pub async fn rebuild_metadata(
    config: &RegionConfig,
    tell: &mut (dyn FnMut(&RebuildProgress) + Send),
) -> Result<RebuildProgress, StartError> {
    let metadata = Metadata::asked(config)?;
    let store = open(config).await?;
    let rebuilt = metadata.rebuild(&store.stores(), tell).await;
    store.close().await;
    rebuilt
}

#[cfg(feature = "postgres")]
pub(crate) use with_postgres::{Metadata, drop_schema};
#[cfg(not(feature = "postgres"))]
pub(crate) use without::{Metadata, drop_schema};

#[cfg(not(feature = "postgres"))]
mod without {
    use std::sync::Arc;

    use hearth_config::PostgresSection;
    use hearth_protocol::RegionId;
    use parking_lot::Mutex;
    use prometheus_client::registry::Registry;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::{RebuildPlan, RebuildProgress, RegionConfig, StartError, Stores};

    /// Nothing: this build has no PostgreSQL.
    pub(crate) struct Metadata;

    fn left_out() -> StartError {
        let text =
            "this build has no PostgreSQL, for [store.postgres]: build it by cargo build --release --features postgres";
        StartError::Config(text.to_owned())
    }

    #[expect(clippy::unused_async, reason = "as where there is PostgreSQL")]
    pub(crate) async fn drop_schema(_: &PostgresSection, _: &str) -> Result<(), StartError> {
        Err(left_out())
    }

    impl Metadata {
        pub(crate) fn new(config: &RegionConfig, _: &RegionId) -> Result<Self, StartError> {
            if config.store.postgres.is_some() { Err(left_out()) } else { Ok(Self) }
        }

        pub(super) fn asked(_: &RegionConfig) -> Result<Self, StartError> {
            Err(left_out())
        }

        #[expect(clippy::unused_self, reason = "as where there is PostgreSQL")]
        pub(crate) fn follow(self, _: &TaskTracker, _: &CancellationToken, _: &Stores, _: &Arc<Mutex<Registry>>) {}

        #[expect(clippy::unused_async, reason = "as where there is PostgreSQL")]
        pub(super) async fn plan(&self, _: &Stores) -> Result<RebuildPlan, StartError> {
            Err(left_out())
        }

        #[expect(clippy::unused_async, reason = "as where there is PostgreSQL")]
        pub(super) async fn rebuild(
            &self,
            _: &Stores,
            _: &mut (dyn FnMut(&RebuildProgress) + Send),
        ) -> Result<RebuildProgress, StartError> {
            Err(left_out())
        }
    }
}

#[cfg(feature = "postgres")]
mod with_postgres {
    use std::sync::Arc;
    use std::sync::atomic::Ordering::Relaxed;

    use hearth_config::PostgresSection;
    use hearth_protocol::RegionId;
    use parking_lot::Mutex;
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
    use prometheus_client::metrics::MetricType;
    use prometheus_client::metrics::counter::ConstCounter;
    use prometheus_client::metrics::gauge::ConstGauge;
    use prometheus_client::registry::Registry;
    use region_postgres::{FollowOptions, FollowState, Pass, PostgresOptions, Source};
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::{MigrationStep, RebuildPlan, RebuildProgress, RegionConfig, StartError, Stores};

    /// Where a region's metadata go.
    pub(crate) struct Metadata {
        region: RegionId,
        /// None where the configuration names no server.
        to: Option<(PostgresOptions, FollowOptions)>,
    }

    impl Metadata {
        /// From the configuration; asks nobody yet.
        pub(crate) fn new(config: &RegionConfig, region: &RegionId) -> Result<Self, StartError> {
            let to = config.store.postgres.as_ref().map(|section| options(section, region)).transpose()?;
            Ok(Self { region: region.clone(), to })
        }

        pub(super) fn asked(config: &RegionConfig) -> Result<Self, StartError> {
            let metadata = Self::new(config, &crate::region::region_id(&config.region.id)?)?;
            match metadata.to {
                Some(_) => Ok(metadata),
                None => Err(StartError::Config("the configuration has no [store.postgres]".to_owned())),
            }
        }

        /// Keeps the projection up to date until `stop`. Nothing waits for it.
        pub(crate) fn follow(
            self,
            tasks: &TaskTracker,
            stop: &CancellationToken,
            stores: &Stores,
            registry: &Arc<Mutex<Registry>>,
        ) {
            let Some((options, times)) = self.to else { return };
            let state = Arc::new(FollowState::default());
            let collector = MetadataCollector { region: self.region.clone(), state: Arc::clone(&state) };
            registry.lock().register_collector(Box::new(collector));
            let following = region_postgres::follow(options, times, self.region, Source::from(stores), state);
            tasks.spawn(stop.clone().run_until_cancelled_owned(following));
        }

        fn server(&self) -> Result<&PostgresOptions, StartError> {
            let server = self.to.as_ref().map(|(options, _)| options);
            server.ok_or_else(|| StartError::Config("the configuration has no [store.postgres]".to_owned()))
        }

        pub(super) async fn plan(&self, stores: &Stores) -> Result<RebuildPlan, StartError> {
            let plan = region_postgres::plan(self.server()?, &Source::from(stores)).await.map_err(|e| said(&e))?;
            let step = |step: region_postgres::Migration| MigrationStep {
                number: step.number,
                name: step.name.to_owned(),
                statements: step.statements(),
            };
            Ok(RebuildPlan {
                migrations: plan.migrations.into_iter().map(step).collect(),
                users: plan.users,
                conversations: plan.conversations,
                entries: plan.entries,
                projected: plan.projected,
                begun: plan.begun,
            })
        }

        pub(super) async fn rebuild(
            &self,
            stores: &Stores,
            tell: &mut (dyn FnMut(&RebuildProgress) + Send),
        ) -> Result<RebuildProgress, StartError> {
            let mut tell_progress = |pass: &Pass| tell(&progress(pass));
            let source = Source::from(stores);
            let rebuilt = region_postgres::rebuild(self.server()?, &self.region, &source, &mut tell_progress).await;
            Ok(progress(&rebuilt.map_err(|error| said(&error))?))
        }
    }

    /// Drops the schema of a region, where it is there.
    pub(crate) async fn drop_schema(section: &PostgresSection, region: &str) -> Result<(), StartError> {
        let (options, _) = options(section, &crate::region::region_id(region)?)?;
        region_postgres::drop_schema(&options).await.map_err(|error| said(&error))
    }

    fn said(error: &region_postgres::Error) -> StartError {
        StartError::Servers(error.to_string())
    }

    fn progress(pass: &Pass) -> RebuildProgress {
        let Pass { logs, written, entries, rows, behind, .. } = *pass;
        RebuildProgress { logs, written, entries, rows, behind }
    }

    fn options(section: &PostgresSection, region: &RegionId) -> Result<(PostgresOptions, FollowOptions), StartError> {
        let password = section.read_password();
        let password =
            password.map_err(|error| StartError::Config(format!("store.postgres.password_file: {error}")))?;
        let options = PostgresOptions {
            host: section.host.clone(),
            port: section.port,
            database: section.database.clone(),
            username: section.username.clone(),
            password: password.map(|password| String::from_utf8_lossy(password.expose()).into_owned()),
            schema: section.schema_of(region.as_str()),
            connections: section.connections,
            statement_timeout: section.statement_timeout,
            deadline: section.deadline,
        };
        Ok((options, FollowOptions { every: section.every, cursors_every: section.cursors_every }))
    }

    #[derive(Debug)]
    struct MetadataCollector {
        region: RegionId,
        state: Arc<FollowState>,
    }

    impl Collector for MetadataCollector {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
            let here = [("region", self.region.as_str().to_owned())];
            let state = &self.state;
            let lag = i64::try_from(state.lag().as_secs()).unwrap_or(i64::MAX);
            let behind = i64::try_from(state.behind.load(Relaxed)).unwrap_or(i64::MAX);
            let gauges = [
                ("hearth_metadata_lag_seconds", "Since the last whole pass over the logs began", lag),
                ("hearth_metadata_behind_logs", "Logs that the last pass could not project yet", behind),
            ];
            for (name, help, value) in gauges {
                let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(family.encode_family(&here)?)?;
            }
            let counters = [
                ("hearth_metadata_passes", "Passes over the logs that came to their end", &state.passes),
                ("hearth_metadata_failures", "Passes that did not", &state.failures),
                ("hearth_metadata_logs", "Logs that were projected", &state.logs),
                ("hearth_metadata_rows", "Rows that were written, about", &state.rows),
                ("hearth_metadata_statements", "Statements that wrote them", &state.statements),
            ];
            for (name, help, counter) in counters {
                let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
                ConstCounter::new(counter.load(Relaxed)).encode(family.encode_family(&here)?)?;
            }
            Ok(())
        }
    }
}
