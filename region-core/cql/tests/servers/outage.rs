//! Servers that do not answer for a while, and servers whose answer is final.

use std::net::SocketAddr;
use std::time::Duration;

use region_cql::{Cql, CqlOptions};
use region_model::conformance::samples::{append, conversation, entries};
use region_model::ports::{AppendOutcome, LogAppend, StoreError};
use scylla::client::session_builder::SessionBuilder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Keyspace, options, region};

/// Longest wait for what a driver does by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// What becomes of bytes on the way to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    Fair,
    /// They wait, as at a server that is stopped.
    Still,
    /// Connections end, and no new one comes about.
    Cut,
    /// Answers come late.
    Slow(Duration),
}

async fn pass_on(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    are_answers: bool,
) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if weather.wait_for(|weather| *weather != Weather::Still).await.is_err() {
            return;
        }
        let now = *weather.borrow();
        if let Weather::Slow(by) = now
            && are_answers
        {
            tokio::time::sleep(by).await;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// A way to the server, and what is done to it.
async fn way(server: String) -> (SocketAddr, watch::Sender<Weather>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("has an address");
    let weather = watch::Sender::new(Weather::Fair);
    let seen = weather.subscribe();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(&server).await else { return };
            let (client_read, client_write) = client.into_split();
            let (server_read, server_write) = server.into_split();
            let (there, back, mut cut) = (seen.clone(), seen.clone(), seen.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = pass_on(client_read, server_write, there, false) => {}
                    () = pass_on(server_read, client_write, back, true) => {}
                    _ = cut.wait_for(|weather| *weather == Weather::Cut) => {}
                }
            });
        }
    });
    (address, weather)
}

/// A store behind such a way.
async fn behind_weather() -> (Keyspace, Cql, watch::Sender<Weather>) {
    let keyspace = Keyspace(options(7));
    // The schema is made on the short way.
    drop(super::open(&keyspace.0));
    let (address, weather) = way(keyspace.0.nodes[0].clone()).await;
    let through = CqlOptions { nodes: vec![address.to_string()], ..keyspace.0.clone() };
    let store = Cql::open(&through, &region()).await.expect("opens");
    (keyspace, store, weather)
}

/// Appends of one entry each that are asked for at once and answered later, in their order.
fn appends(store: &Cql, numbers: std::ops::Range<u64>) -> Vec<tokio::task::JoinHandle<bool>> {
    let log = store.stores().log;
    numbers
        .map(|number| {
            let log = log.clone();
            // Two steps of a queue: the first poll is what orders them.
            let mut call = Box::pin(async move {
                let asked = LogAppend { mark: number, ..append(conversation(1), number, 1) };
                let outcome = log.append(vec![asked]).await.expect("it is outlasted");
                matches!(outcome[0], AppendOutcome::Applied { .. })
            });
            assert!(futures_util::FutureExt::now_or_never(&mut call).is_none());
            tokio::spawn(call)
        })
        .collect()
}

async fn all_there(store: &Cql, appended: Vec<tokio::task::JoinHandle<bool>>, count: u64) {
    for one in appended {
        let applied = tokio::time::timeout(PATIENCE, one).await.expect("in time").expect("it runs");
        assert!(applied, "a condition that held by the order of the calls");
    }
    let read = store.stores().log.read(conversation(1), 0, count, usize::MAX, usize::MAX).await.expect("reads");
    assert_eq!(read, entries(conversation(1), 0..count));
}

async fn outlasted(bad: Weather) {
    let (_keyspace, store, weather) = behind_weather().await;
    all_there(&store, appends(&store, 0..3), 3).await;
    let mut away = store.away();
    weather.send_replace(bad);
    let waiting = appends(&store, 3..23);
    let told = tokio::time::timeout(PATIENCE, away.wait_for(Option::is_some)).await;
    println!("{bad:?}: {:?}", told.expect("it is told").expect("it lives").as_deref());
    // Longer than a request takes at most, so that those that were lost are made again.
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(away.borrow().is_some() && waiting.iter().all(|call| !call.is_finished()));
    weather.send_replace(Weather::Fair);
    let back = tokio::time::Instant::now();
    all_there(&store, waiting, 23).await;
    tokio::time::timeout(PATIENCE, away.wait_for(Option::is_none)).await.expect("it is told").expect("it lives");
    println!("{bad:?}: there again after {:?}", back.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_of_a_server_that_stands_still_is_done_once_and_in_order_when_it_goes_on() {
    outlasted(Weather::Still).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_of_a_server_that_is_gone_is_done_once_and_in_order_when_it_is_back() {
    // Cut stays so for new connections: they end at once.
    outlasted(Weather::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server_is_told_of_and_does_what_it_is_asked() {
    let (_keyspace, store, weather) = behind_weather().await;
    all_there(&store, appends(&store, 0..3), 3).await;
    let mut away = store.away();
    weather.send_replace(Weather::Slow(Duration::from_secs(4)));
    let waiting = appends(&store, 3..23);
    tokio::time::timeout(PATIENCE, away.wait_for(Option::is_some)).await.expect("it is told").expect("it lives");
    all_there(&store, waiting, 23).await;
    weather.send_replace(Weather::Fair);
    tokio::time::timeout(PATIENCE, away.wait_for(Option::is_none)).await.expect("it is told").expect("it lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_ends_does_not_wait_for_servers_that_are_away() {
    let (_keyspace, store, weather) = behind_weather().await;
    weather.send_replace(Weather::Still);
    let log = store.stores().log;
    let waiting = tokio::spawn(async move { log.append(vec![append(conversation(1), 0, 1)]).await });
    store.away().wait_for(Option::is_some).await.expect("it is told");
    store.end();
    let ended = tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("in time").expect("it runs");
    assert_eq!(ended, Err(StoreError::Unknown));
    weather.send_replace(Weather::Fair);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyspace_that_is_gone_is_a_final_answer() {
    let keyspace = Keyspace(options(7));
    let store = super::open(&keyspace.0);
    all_there(&store, appends(&store, 0..3), 3).await;
    let session = SessionBuilder::new().known_nodes(&keyspace.0.nodes).build().await.expect("connects");
    session.query_unpaged(format!("DROP KEYSPACE {}", keyspace.0.keyspace), ()).await.expect("it is dropped");
    let answer = store.stores().log.append(vec![append(conversation(1), 3, 1)]).await;
    println!("{answer:?}");
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    assert!(store.away().borrow().is_none(), "it is no outage");
}
