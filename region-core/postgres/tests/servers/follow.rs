//! The follower: what is shown is projected soon, and a server that is away makes it late and nothing else.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use region_postgres::{FollowOptions, FollowState, PostgresOptions, follow};
use tokio::net::{TcpListener, TcpStream};

use crate::lines::{Line, Step, region};
use crate::tables::{folded, found};
use crate::{Region, Schema};

const SOON: FollowOptions =
    FollowOptions { every: Duration::from_millis(50), cursors_every: Duration::from_millis(50) };

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within 12 s: {what}");
}

/// Connections to the server by another port; they end with this.
async fn forward(port: u16, to: String) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
    let mut ways = tokio::task::JoinSet::new();
    loop {
        let (mut here, _) = listener.accept().await.expect("accepts");
        let to = to.clone();
        ways.spawn(async move {
            let mut there = TcpStream::connect(to).await.expect("the server is there");
            let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_outlasts_a_server_that_is_away_and_goes_on_when_it_is_back() {
    let (schema, from) = (Schema::new(), Region::new());
    let mut line = Line::group(1);
    from.put(&line, None).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let options = PostgresOptions { host: "127.0.0.1".to_owned(), port: free.port(), ..schema.0.clone() };
    let state = Arc::new(FollowState::default());
    let following = follow(options, SOON, region("eu"), from.source.clone(), Arc::clone(&state));
    let following = tokio::spawn(following);
    until("it failed", async || state.failures.load(Relaxed) > 1).await;
    let server = format!("{}:{}", schema.0.host, schema.0.port);
    let way = tokio::spawn(forward(free.port(), server.clone()));
    until("it passed", async || state.passes.load(Relaxed) > 0).await;
    let client = schema.client().await;
    assert_eq!(found(&client).await, folded([&line]));
    line.step(&Step::Add(2, true));
    from.put(&line, None).await;
    until("the new member is there", async || found(&client).await == folded([&line])).await;
    // The connections break under it.
    way.abort();
    line.step(&Step::Remove(2));
    from.put(&line, None).await;
    let _way = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        forward(free.port(), server).await;
    });
    until("it is up to date", async || found(&client).await == folded([&line])).await;
    assert!(state.lag() < Duration::from_secs(10) && state.rows.load(Relaxed) > 0);
    following.abort();
}
