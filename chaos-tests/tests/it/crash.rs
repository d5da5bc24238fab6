//! `kill -9` under load: what was acked is there, once, at its number.

use std::time::Duration;

use chaos_tests::{Checker, Load, Mesh, Peer, until};

const ROUNDS: usize = 3;
const ACKS_A_ROUND: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acked_is_there_once_after_kills_under_load() {
    let mut mesh = Mesh::quick(&[]).await;
    let users = ["ann", "bob", "cem"];
    let mut groups = Vec::new();
    for home in 0..3 {
        let others: Vec<&str> = users.iter().copied().filter(|user| *user != users[home]).collect();
        groups.push(mesh.group(users[home], home, &others).await);
    }
    let mut checker = Checker::default();
    for round in 0..ROUNDS {
        let mut peers = Vec::new();
        for (index, user) in users.iter().enumerate() {
            peers.push(Peer::connect(&mesh, user, (index + round) % 3).await);
        }
        let load = Load::start(peers, &groups, 20);
        load.until_acked(ACKS_A_ROUND).await;
        mesh.kill().await;
        for peer in load.end().await {
            peer.ended(Duration::from_secs(10)).await;
            checker.observe(&peer);
        }
        mesh.restart().await;
        println!("round {round}: {} acked, ready again after {:?}", checker.acked(), mesh.ready_after);
    }
    assert!(checker.acked() >= ROUNDS * ACKS_A_ROUND, "too little load to show anything");
    for group in &groups {
        let rows = mesh.agreed("ann", &[0, 1, 2], group, 1).await;
        checker.check(group, &[rows]);
    }
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_process_that_dies_takes_nothing_acked_with_it_and_parks_nothing_for_ever() {
    let mesh = Mesh::quick(&["--processes"]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let bob = Peer::connect(&mesh, "bob", 1).await;
    for number in 0..20 {
        bob.say(&group, &format!("before its home died, {number}")).await;
    }
    let pid = mesh.regions[0].pid.expect("--processes names the process");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("a signal");
    let parked = bob.send(&group, "while its home is dead").await;
    let mine = |frame: &serde_json::Value| frame["payload"]["messageId"] == parked.as_str();
    bob.expect("message.queued", mine).await;
    until("the region starts again", Duration::from_secs(20), || async {
        let exit = mesh.dev("start", 0).await;
        exit.code == 0
    })
    .await;
    bob.acked_within(&parked, Duration::from_secs(20)).await;
    let rows = mesh.agreed("ann", &[0, 1, 2], &group, 21).await;
    let mut checker = Checker::default();
    checker.observe(&bob);
    checker.check(&group, &[rows]);
    drop(bob);
    mesh.end().await;
}
