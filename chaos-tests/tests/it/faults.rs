//! Links that lose, delay, flap and fall silent in one direction, under load, over both transports: nothing is lost,
//! nothing comes twice, nothing comes in another order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chaos_tests::load::all_seen;
use chaos_tests::{Checker, Load, Mesh, Peer};
use hearth_client::TransportKind;
use serde_json::{Value, json};

const TRANSPORTS: [TransportKind; 2] = [TransportKind::WebSocket, TransportKind::WebTransport];
/// Users, one at each region; the first one's is the home.
const USERS: [&str; 3] = ["ann", "bob", "cem"];
/// Longest wait for what was parked to be acked after the last fault.
const HEALED: Duration = Duration::from_secs(30);

async fn connected(mesh: &Mesh, kind: TransportKind) -> Vec<Peer> {
    let mut peers = Vec::new();
    for (region, user) in USERS.iter().enumerate() {
        peers.push(Peer::connect_over(mesh, user, region, kind).await);
    }
    peers
}

/// Ends a load: every send acked, every region with the same history, every session with all of it.
async fn holds(mesh: &Mesh, load: Load, group: &str) -> Vec<Arc<Peer>> {
    let peers = load.end_acked(HEALED).await;
    let sent: usize = peers.iter().map(|peer| peer.tally().sent).sum();
    let rows = mesh.agreed("ann", &[0, 1, 2], group, sent).await;
    assert_eq!(rows.len(), sent, "as many rows as sends");
    all_seen(&peers, group, &rows).await;
    let mut checker = Checker::default();
    peers.iter().for_each(|peer| checker.observe(peer));
    checker.check(group, &[rows]);
    println!("{sent} sent, all acked once");
    peers
}

/// A load of one session at each region over `kind`, while `fault` is done to the links.
async fn story(mesh: &Mesh, kind: TransportKind, fault: impl AsyncFn()) {
    println!("over {kind:?}");
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let load = Load::start(connected(mesh, kind).await, std::slice::from_ref(&group), 40);
    load.until_acked(30).await;
    fault().await;
    holds(mesh, load, &group).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_loses_every_fifth_datagram_loses_doubles_and_reorders_no_message() {
    let mesh = Mesh::quick(&[]).await;
    for kind in TRANSPORTS {
        story(&mesh, kind, async || {
            mesh.set_fault(0, 1, json!({ "lossPercent": 20 })).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            mesh.set_fault(0, 1, json!({ "lossPercent": 0 })).await;
        })
        .await;
        let lost = mesh.metric(0, "hearth_link_dropped_datagrams_total", &mesh.regions[1].id).await;
        assert!(lost > 20.0, "{lost} datagrams lost: this story shows nothing");
    }
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_becomes_slow_and_quick_again_loses_doubles_and_reorders_no_message() {
    let mesh = Mesh::quick(&[]).await;
    for kind in TRANSPORTS {
        story(&mesh, kind, async || {
            for delay in [300, 10, 150, 0] {
                mesh.set_fault(0, 1, json!({ "delayMs": delay })).await;
                tokio::time::sleep(Duration::from_millis(1_500)).await;
            }
        })
        .await;
    }
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_in_either_direction_under_load_loses_doubles_and_reorders_no_message() {
    let mesh = Mesh::quick(&[]).await;
    for kind in TRANSPORTS {
        for (from, to) in [(0, 1), (1, 0)] {
            story(&mesh, kind, async || {
                mesh.cut_one_way(from, to).await;
                tokio::time::sleep(Duration::from_secs(4)).await;
                mesh.heal(0, 1).await;
            })
            .await;
        }
    }
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_flaps_for_ten_seconds_under_load_loses_doubles_and_reorders_no_message() {
    let mesh = Mesh::quick(&[]).await;
    for kind in TRANSPORTS {
        story(&mesh, kind, async || {
            let until = Instant::now() + Duration::from_secs(10);
            let mut flaps = 0;
            while Instant::now() < until {
                match flaps % 3 {
                    0 => mesh.cut(0, 1).await,
                    1 => mesh.cut_one_way(0, 1).await,
                    _ => mesh.cut_one_way(1, 0).await,
                }
                // From shorter than a round trip of the liveness check to longer than its patience.
                tokio::time::sleep(Duration::from_millis(rand::random_range(20..1_500))).await;
                mesh.heal(0, 1).await;
                tokio::time::sleep(Duration::from_millis(rand::random_range(20..600))).await;
                flaps += 1;
            }
            println!("{flaps} flaps");
        })
        .await;
    }
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_stops_and_starts_under_the_others_sessions_costs_them_no_message() {
    let mesh = Mesh::quick(&[]).await;
    for kind in TRANSPORTS {
        // Its home is the region that stops, so the others' sends are parked.
        let group = mesh.group("bob", 1, &["ann", "cem"]).await;
        let mut peers = connected(&mesh, kind).await;
        let bob = peers.remove(1);
        let load = Load::start(peers, std::slice::from_ref(&group), 40);
        load.until_acked(30).await;
        let (exit, close) = tokio::join!(mesh.dev("stop", 1), bob.ended(Duration::from_secs(15)));
        assert_eq!(exit.code, 0, "{exit:?}");
        println!("over {kind:?}: the stopped region's session was closed with {close:?}");
        tokio::time::sleep(Duration::from_secs(3)).await;
        mesh.start_region(1).await;
        for peer in holds(&mesh, load, &group).await {
            assert!(peer.closed().is_none(), "{} lost its session", peer.user);
        }
        let back = Peer::connect_over(&mesh, "bob", 1, kind).await;
        back.say(&group, "after the region is back").await;
    }
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_made_right_when_its_link_is_cut_is_told_to_its_members_after_the_heal() {
    let mesh = Mesh::quick(&[]).await;
    for kind in TRANSPORTS {
        let bob = Peer::connect_over(&mesh, "bob", 1, kind).await;
        for after in [0_u64, 1, 2, 4, 8, 16, 32] {
            let cut = async {
                tokio::time::sleep(Duration::from_millis(after)).await;
                mesh.cut(0, 1).await;
            };
            // The home may not reach the members' own homes any more: it is made, or it is refused whole.
            let body = json!({ "name": "a story", "participantIds": ["bob"] });
            let (made, ()) = tokio::join!(mesh.rest("ann", 0, "POST", "/api/v1/groups", Some(body)), cut);
            tokio::time::sleep(Duration::from_millis(500)).await;
            mesh.heal(0, 1).await;
            assert!(made.status == 201 || made.status == 503, "{made:?}");
            if made.status == 201 {
                let group = made.body["conversationId"].clone();
                let mine = |frame: &Value| frame["payload"]["conversationId"] == group;
                bob.expect_within("conversation.new", HEALED, mine).await;
            }
            println!("over {kind:?}, cut after {after} ms: {}", made.status);
        }
        bob.leave().await;
    }
    mesh.end().await;
}
