//! How many messages a CQL server takes: `cargo run --release -p region-cql --example append_rate [SECONDS]` against
//! `./services up cassandra` (`HEARTH_CASSANDRA` names another). Makes a keyspace and drops it.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_protocol::RegionId;
use region_cql::{Cql, CqlOptions};
use region_model::conformance::samples::{append, conversation};
use region_model::ports::{AppendOutcome, Stores};
use scylla::client::session_builder::SessionBuilder;

/// Logs at once, messages of an append.
const CASES: [(u128, u64); 8] = [(1, 1), (1, 10), (1, 50), (1, 100), (16, 1), (16, 10), (64, 1), (64, 10)];

/// One log, one append after the other; how long each took, in microseconds.
async fn fill(stores: Stores, number: u128, count: u64, until: Instant) -> Result<Vec<u64>, String> {
    let (log, mut length, mut taken) = (conversation(number), 0, Vec::new());
    while Instant::now() < until {
        let began = Instant::now();
        let outcome = stores.log.append(vec![append(log, length, count)]).await.map_err(|error| error.to_string())?;
        if !matches!(outcome[0], AppendOutcome::Applied { .. }) {
            return Err(format!("{outcome:?}"));
        }
        length += count;
        taken.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(taken)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(3), |seconds| seconds.parse())?;
    let node = std::env::var("HEARTH_CASSANDRA").unwrap_or_else(|_| "127.0.0.1:19042".into());
    let keyspace = format!("rate_{}", std::process::id());
    let options = CqlOptions { nodes: vec![node], keyspace: keyspace.clone(), ..CqlOptions::default() };
    let store = Cql::open(&options, &RegionId::new("eu")?).await?;
    println!("logs  messages an append  appends/s  messages/s  p50 ms  p99 ms  batches/append");
    let mut first = 1;
    for (logs, count) in CASES {
        let counters = Arc::clone(&store.stores().counters);
        let before = counters.commits.load(std::sync::atomic::Ordering::Relaxed);
        let until = Instant::now() + Duration::from_secs(seconds);
        let filling = (first..first + logs).map(|number| tokio::spawn(fill(store.stores(), number, count, until)));
        let mut taken = Vec::new();
        for done in filling.collect::<Vec<_>>() {
            taken.extend(done.await??);
        }
        first += logs;
        taken.sort_unstable();
        let (appends, commits) =
            (taken.len() as u64, counters.commits.load(std::sync::atomic::Ordering::Relaxed) - before);
        let at = |part: usize| taken.get(taken.len() * part / 100).copied().unwrap_or(0) as f64 / 1_000.0;
        let rate = appends / seconds.max(1);
        println!(
            "{logs:4}  {count:18}  {rate:9}  {:10}  {:6.1}  {:6.1}  {:14.2}",
            rate * count,
            at(50),
            at(99),
            commits as f64 / appends.max(1) as f64
        );
    }
    let session = SessionBuilder::new().known_nodes(&options.nodes).build().await?;
    session.query_unpaged(format!("DROP KEYSPACE {keyspace}"), ()).await?;
    Ok(())
}
