//! The contract of the ports against a real server. `./services up cassandra` starts it; one that is not there fails.

#[cfg(feature = "tls")]
mod door;
#[cfg(test)]
mod lost;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod races;
#[cfg(test)]
mod undone;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use hearth_protocol::RegionId;
use region_cql::{Cql, CqlOptions};
use region_model::conformance::Subject;
use region_model::ports::Stores;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tokio::runtime::Runtime;

/// Sessions outlive the runtime of one test.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("makes a runtime"))
}

fn region() -> RegionId {
    RegionId::new("eu").expect("a valid name")
}

fn options(bucket_size: u64) -> CqlOptions {
    static KEYSPACES: AtomicU32 = AtomicU32::new(0);
    let keyspace = format!("test_{}_{}", std::process::id(), KEYSPACES.fetch_add(1, Ordering::Relaxed));
    let node = std::env::var("HEARTH_CASSANDRA").unwrap_or_else(|_| "127.0.0.1:19042".into());
    CqlOptions { nodes: vec![node], keyspace, bucket_size: Some(bucket_size), ..CqlOptions::default() }
}

/// Waits from a thread of its own: tests are inside a runtime already.
fn wait_for<F: Future<Output: Send> + Send>(future: F) -> F::Output {
    std::thread::scope(|scope| scope.spawn(|| runtime().block_on(future)).join().expect("it does not panic"))
}

fn open(options: &CqlOptions) -> Cql {
    wait_for(Cql::open(options, &region())).unwrap_or_else(|error| panic!("{error}\ntype: ./services up cassandra"))
}

/// Drops its keyspace with itself.
struct Keyspace(CqlOptions);

impl Drop for Keyspace {
    fn drop(&mut self) {
        static SESSION: OnceLock<Option<Session>> = OnceLock::new();
        let connect = || wait_for(SessionBuilder::new().known_nodes(&self.0.nodes).build()).ok();
        if let Some(session) = SESSION.get_or_init(connect) {
            let statement = format!("DROP KEYSPACE IF EXISTS {}", self.0.keyspace);
            if let Err(error) = wait_for(session.query_unpaged(statement, ())) {
                eprintln!("the keyspace {} stays: {error}", self.0.keyspace);
            }
        }
    }
}

struct OnServer {
    store: Option<Cql>,
    keyspace: Keyspace,
}

impl OnServer {
    fn fresh(bucket_size: u64) -> Self {
        let keyspace = Keyspace(options(bucket_size));
        Self { store: Some(open(&keyspace.0)), keyspace }
    }
}

impl Subject for OnServer {
    fn stores(&self) -> Stores {
        self.store.as_ref().expect("it is open").stores()
    }

    fn reopen(&mut self) {
        self.store = None;
        self.store = Some(open(&self.keyspace.0));
    }
}

#[test]
fn a_dry_run_names_what_a_keyspace_lacks_and_makes_nothing_and_the_second_migration_has_nothing_to_do() {
    let keyspace = Keyspace(options(16));
    let migrate = |dry_run| {
        let made = wait_for(region_cql::migrate(&keyspace.0, dry_run)).expect("the server answers");
        made.iter().map(|migration| migration.number).collect::<Vec<_>>()
    };
    assert_eq!((migrate(true), migrate(true)), (vec![1, 2, 3], vec![1, 2, 3]));
    assert_eq!((migrate(false), migrate(true), migrate(false)), (vec![1, 2, 3], vec![], vec![]));
}

mod cassandra {
    region_model::store_conformance!(super::OnServer::fresh(1_024));
}

/// Nearly everything goes over buckets.
mod cassandra_with_small_buckets {
    region_model::store_conformance!(super::OnServer::fresh(3));
}
