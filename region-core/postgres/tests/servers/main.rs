//! The projection against a real server. `./services up postgresql` starts it; one that is not there fails.

#![allow(dead_code, reason = "tests share what writes logs")]

#[path = "../lines/mod.rs"]
mod lines;

mod follow;
mod migrations;
mod projected;
mod rebuilt;
mod tables;
mod timeouts;

use std::sync::atomic::{AtomicU32, Ordering};

use hearth_protocol::Epoch;
use hearth_protocol::record::LogRecord;
use lines::{Line, region};
use region_model::ports::{AppendOutcome, LogAppend, Stores};
use region_postgres::{Pass, PostgresOptions, Projection, Source, Sweep};
use region_store::memory::Memory;
use tokio_postgres::{Client, NoTls};

/// A schema of its own; it goes with this.
pub(crate) struct Schema(pub(crate) PostgresOptions);

impl Schema {
    pub(crate) fn new() -> Self {
        static SCHEMAS: AtomicU32 = AtomicU32::new(0);
        let schema = format!("test_{}_{}", std::process::id(), SCHEMAS.fetch_add(1, Ordering::Relaxed));
        let at = std::env::var("HEARTH_POSTGRESQL").unwrap_or_else(|_| "127.0.0.1:19032".into());
        let (host, port) = at.rsplit_once(':').expect("HEARTH_POSTGRESQL is host:port");
        Self(PostgresOptions {
            host: host.to_owned(),
            port: port.parse().expect("a port"),
            database: "postgres".to_owned(),
            schema,
            connections: 2,
            ..PostgresOptions::default()
        })
    }

    pub(crate) async fn open(&self) -> Projection {
        let opened = Projection::open(&self.0, &region("eu")).await;
        opened.unwrap_or_else(|error| panic!("{error}\ntype: ./services up postgresql"))
    }

    /// A connection beside the projection's.
    pub(crate) async fn client(&self) -> Client {
        connect(&self.0).await
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let options = self.0.clone();
        // From a thread of its own: tests are inside a runtime already.
        let dropping = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let schema = &options.schema;
                let drop = format!("DROP SCHEMA IF EXISTS {schema}, {schema}_rebuild CASCADE");
                if let Err(error) = connect(&options).await.batch_execute(&drop).await {
                    eprintln!("the schema {schema} stays: {error}");
                }
            });
        };
        // A test that failed since there is no server fails once.
        let _ = std::thread::spawn(dropping).join();
    }
}

async fn connect(options: &PostgresOptions) -> Client {
    let text = format!("host={} port={} user=hearth dbname=postgres", options.host, options.port);
    let (client, connection) = tokio_postgres::connect(&text, NoTls).await.expect("type: ./services up postgresql");
    tokio::spawn(connection);
    client.batch_execute(&format!("SET search_path = {}", options.schema)).await.expect("a search path");
    client
}

/// A region's store, and the logs that were written to it.
pub(crate) struct Region {
    pub(crate) memory: Memory,
    pub(crate) stores: Stores,
    pub(crate) source: Source,
}

impl Region {
    pub(crate) fn new() -> Self {
        let memory = Memory::new(region("eu"));
        let stores = memory.stores();
        let source = Source::from(&stores);
        Self { memory, stores, source }
    }

    /// Writes what of a line the store does not have, and marks all of it.
    pub(crate) async fn put(&self, line: &Line, apart: Option<usize>) {
        self.put_marked(line, apart, line.length()).await;
    }

    /// As `put`, marked up to a place.
    pub(crate) async fn put_marked(&self, line: &Line, apart: Option<usize>, mark: u64) {
        let length = self.stores.log.load(line.log).await.expect("loads").length;
        let first = apart.unwrap_or_else(|| usize::try_from(length).expect("short"));
        let append = LogAppend {
            mark,
            apart: apart.map(|first| first as u64),
            ..self.change(line, length, first, line.record())
        };
        self.append(append).await;
        self.stores.log.put_marks(vec![(line.log, mark)]).await.expect("marks");
    }
}

impl Region {
    /// An append of the entries from `first` on.
    pub(crate) fn change(&self, line: &Line, expect: u64, first: usize, record: LogRecord) -> LogAppend {
        LogAppend {
            log: line.log,
            expect,
            epoch: record.accepted,
            entries: line.entries[first..].to_vec(),
            mark: line.length(),
            record: Some(record),
            promises: false,
            snapshot: None,
            apart: None,
            begin: None,
            filled: vec![],
            dedup: vec![],
            changes: vec![],
            outbox: vec![],
        }
    }

    pub(crate) async fn append(&self, append: LogAppend) {
        let outcomes = self.stores.log.append(vec![append]).await.expect("appends");
        assert!(matches!(outcomes[0], AppendOutcome::Applied { .. }), "{outcomes:?}");
    }
}

pub(crate) async fn catch_up(projection: &Projection, region: &Region) -> Pass {
    projection.catch_up(&region.source, Sweep::All, &mut |_| {}).await.unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn first_epoch() -> Epoch {
    Epoch(1)
}
