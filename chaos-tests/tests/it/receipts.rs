//! Receipts reach the sender's devices in every region, through a cut, a restart and a failover, and unread counts agree.

use std::time::Duration;

use chaos_tests::{Checker, Mesh, Peer, new_id, until};
use hearth_client::TransportKind;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// What must come after a heal, a restart or a failover, on a busy machine.
const LATE: Duration = Duration::from_secs(30);

async fn delivered(peer: &Peer, to: &str, up_to: u64) -> Value {
    let matches =
        |frame: &Value| frame["payload"]["deliveredTo"] == to && frame["payload"]["upToSequence"] == json!(up_to);
    peer.expect_within("message.delivered", LATE, matches).await.value["payload"].clone()
}

async fn read_by(peer: &Peer, by: &str, up_to: u64) -> Value {
    let matches =
        |frame: &Value| frame["payload"]["readBy"] == by && frame["payload"]["readUpToSequence"] == json!(up_to);
    peer.expect_within("message.read_receipt", LATE, matches).await.value["payload"].clone()
}

/// What a user has read and has not, as a region says; `None` while it does not answer.
async fn counts(mesh: &Mesh, user: &str, region: usize, conversation: &str) -> Option<(u64, u64)> {
    let path = format!("/api/v1/conversations/{conversation}");
    let row = mesh.rest(user, region, "GET", &path, None).await;
    Some((row.body["readUpTo"].as_u64()?, row.body["unreadCount"].as_u64()?))
}

async fn counts_everywhere(mesh: &Mesh, user: &str, regions: &[usize], conversation: &str, wanted: (u64, u64)) {
    for region in regions {
        until(&format!("{user} has read and not read {wanted:?} in region {region}"), LATE, || async {
            counts(mesh, user, *region, conversation).await == Some(wanted)
        })
        .await;
    }
}

async fn shown(peer: &Peer, number: u64) -> u64 {
    let matches = |frame: &Value| frame["payload"]["sequenceNumber"] == json!(number);
    let frame = peer.expect_within("message.new", LATE, matches).await;
    frame.value["payload"]["epoch"].as_u64().expect("an epoch")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_reach_every_device_of_sender_and_reader_over_both_transports_and_unread_counts_agree() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let other_ann = Peer::connect_over(&mesh, "ann", 2, TransportKind::WebTransport).await;
    let bob = Peer::connect_over(&mesh, "bob", 1, TransportKind::WebTransport).await;
    let other_bob = Peer::connect(&mesh, "bob", 2).await;
    let mut messages = Vec::new();
    for text in ["the first of three", "the second of three", "the third of three"] {
        messages.push(ann.say(&group, text).await["messageId"].clone());
    }
    let epoch = shown(&bob, 3).await;
    shown(&other_bob, 3).await;
    counts_everywhere(&mesh, "bob", &[0, 1, 2], &group, (0, 3)).await;
    bob.receipt(&group, 3, Some(epoch), false).await;
    for device in [&ann, &other_ann] {
        assert_eq!(delivered(device, "bob", 3).await["messageIds"], json!(messages));
    }
    bob.receipt(&group, 2, None, true).await;
    for device in [&ann, &other_ann, &other_bob] {
        assert_eq!(read_by(device, "bob", 2).await["epoch"], json!(epoch));
    }
    counts_everywhere(&mesh, "bob", &[0, 1, 2], &group, (2, 1)).await;
    // A client that says too much, or less than before, is cut to what there is, or says nothing new.
    other_bob.receipt(&group, 1, Some(epoch), true).await;
    other_bob.receipt(&group, 99, Some(epoch), true).await;
    read_by(&bob, "bob", 3).await;
    read_by(&ann, "bob", 3).await;
    counts_everywhere(&mesh, "bob", &[0, 1, 2], &group, (3, 0)).await;
    // What one sends is read by nobody yet, and never unread for oneself.
    bob.say(&group, "an answer of bob").await;
    counts_everywhere(&mesh, "bob", &[0, 1, 2], &group, (3, 0)).await;
    counts_everywhere(&mesh, "ann", &[0, 1, 2], &group, (0, 1)).await;
    let rows = mesh.agreed("ann", &[0, 1, 2], &group, 4).await;
    let mut checker = Checker::default();
    [&ann, &other_ann, &bob, &other_bob].into_iter().for_each(|peer| checker.observe(peer));
    checker.check(&group, &[rows]);
    drop((ann, other_ann, bob, other_bob));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_that_cannot_be_is_refused_with_its_request_and_the_session_goes_on() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let eve = Peer::connect(&mesh, "eve", 1).await;
    let refused = async |id: &str, payload: Value, error: &str| {
        eve.frame(json!({ "type": "message.read", "id": id, "payload": payload })).await;
        let answer = eve.expect("error", |frame| frame["id"] == id).await;
        assert_eq!(answer.value["payload"]["error"], error);
    };
    refused("not-a-member", json!({ "conversationId": group, "upToSequence": 1 }), "CONVERSATION_NOT_FOUND").await;
    refused("nowhere", json!({ "conversationId": new_id(), "upToSequence": 1 }), "CONVERSATION_NOT_FOUND").await;
    refused("no-number", json!({ "conversationId": group }), "INVALID_MESSAGE").await;
    refused("below-zero", json!({ "conversationId": group, "upToSequence": -1 }), "INVALID_MESSAGE").await;
    refused("no-conversation", json!({ "upToSequence": 1 }), "INVALID_MESSAGE").await;
    eve.settled().await;
    drop(eve);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_said_behind_a_cut_link_pass_it_after_the_heal_and_survive_kill_9() {
    let mut mesh = Mesh::quick(&["--anti-entropy", "1s"]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    for number in 0..5 {
        ann.say(&group, &format!("before the cut, {number}")).await;
    }
    let epoch = shown(&bob, 5).await;
    mesh.cut(0, 1).await;
    let away = |frame: &Value| frame["payload"]["reachable"] == json!(false);
    bob.expect_within("region.status", LATE, away).await;
    bob.receipt(&group, 4, Some(epoch), true).await;
    counts_everywhere(&mesh, "bob", &[1], &group, (4, 1)).await;
    assert!(ann.payloads("message.read_receipt").is_empty(), "the link is cut");
    mesh.heal(0, 1).await;
    read_by(&ann, "bob", 4).await;
    delivered(&ann, "bob", 4).await;
    counts_everywhere(&mesh, "bob", &[0, 1, 2], &group, (4, 1)).await;
    let mut checker = Checker::default();
    let rows = mesh.agreed("ann", &[0, 1, 2], &group, 5).await;
    [&ann, &bob].into_iter().for_each(|peer| checker.observe(peer));
    checker.check(&group, &[rows]);
    drop((ann, bob));
    mesh.kill().await;
    mesh.restart().await;
    counts_everywhere(&mesh, "bob", &[0, 1, 2], &group, (4, 1)).await;
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_stand_after_a_failover_and_go_by_way_of_the_new_home() {
    let mesh = Mesh::quick(&["--processes", "--failover-after", "3s", "--anti-entropy", "1s"]).await;
    let group = mesh.group("dan", 1, &["ann", "bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 2).await);
    for number in 0..3 {
        ann.say(&group, &format!("under the first home, {number}")).await;
    }
    let epoch = shown(&bob, 3).await;
    bob.receipt(&group, 2, Some(epoch), true).await;
    read_by(&ann, "bob", 2).await;
    let pid = mesh.regions[1].pid.expect("a process");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a signal");
    let message = ann.send(&group, "under the second home").await;
    let ack = ann.acked_within(&message, Duration::from_secs(60)).await;
    let number = ack["sequenceNumber"].as_u64().expect("a number");
    let epoch = shown(&bob, number).await;
    assert!(epoch > 1, "a new home opened an epoch");
    counts_everywhere(&mesh, "bob", &[0, 2], &group, (2, number - 2)).await;
    bob.receipt(&group, number, Some(epoch), true).await;
    assert_eq!(read_by(&ann, "bob", number).await["epoch"], json!(epoch));
    counts_everywhere(&mesh, "bob", &[0, 2], &group, (number, 0)).await;
    mesh.start_region(1).await;
    counts_everywhere(&mesh, "bob", &[0, 1, 2], &group, (number, 0)).await;
    drop((ann, bob));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_hundred_members_receipts_are_summed_up_at_most_once_a_second() {
    let mesh = Mesh::quick(&[]).await;
    let quiet: Vec<String> = (0..101).map(|number| format!("quiet-{number}")).collect();
    let others: Vec<&str> = ["bob", "cem"].into_iter().chain(quiet.iter().map(String::as_str)).collect();
    let group = mesh.group("ann", 0, &others).await;
    let (ann, bob, cem) = (
        Peer::connect(&mesh, "ann", 0).await,
        Peer::connect(&mesh, "bob", 1).await,
        Peer::connect(&mesh, "cem", 2).await,
    );
    let mut epoch = 0;
    for number in 1..=40 {
        ann.say(&group, &format!("to many, {number}")).await;
        epoch = shown(&bob, number).await;
        shown(&cem, number).await;
        bob.receipt(&group, number, Some(epoch), false).await;
        cem.receipt(&group, number, Some(epoch), true).await;
    }
    let all = |frame: &Value| {
        let payload = &frame["payload"];
        payload["sequenceNumber"] == json!(40) && payload["delivered"] == json!(2) && payload["read"] == json!(1)
    };
    ann.expect_within("receipts.summary", LATE, all).await;
    bob.receipt(&group, 40, Some(epoch), true).await;
    let both = |frame: &Value| frame["payload"]["read"] == json!(2);
    ann.expect_within("receipts.summary", LATE, both).await;
    let frames = ann.frames();
    let times: Vec<_> =
        frames.iter().filter(|frame| frame.value["type"] == "receipts.summary").map(|frame| frame.at).collect();
    let apart: Vec<Duration> = times.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect();
    // They are made a second apart; the first may have waited longer on its way.
    assert!(apart.iter().all(|apart| *apart > Duration::from_millis(700)), "{apart:?}");
    assert!(ann.payloads("message.delivered").is_empty() && ann.payloads("message.read_receipt").is_empty());
    counts_everywhere(&mesh, "bob", &[0, 1, 2], &group, (40, 0)).await;
    counts_everywhere(&mesh, "quiet-7", &[0, 1, 2], &group, (0, 40)).await;
    drop((ann, bob, cem));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_receipts_cost_no_sync_and_what_was_read_elsewhere_is_a_change_of_the_feed() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let mut epoch = 0;
    for number in 1..=20 {
        ann.say(&group, &format!("to be read one by one, {number}")).await;
        epoch = shown(&bob, number).await;
    }
    let feed =
        async |cursor: &str| mesh.rest("bob", 2, "GET", &format!("/api/v1/conversations{cursor}"), None).await.body;
    let first = feed("").await;
    let cursor = format!("?cursor={}", first["cursor"].as_str().expect("a cursor"));
    counts_everywhere(&mesh, "bob", &[0, 1, 2], &group, (0, 20)).await;
    let syncs = async |region| mesh.metric(region, "hearth_store_syncs_total", "").await;
    let before = syncs(1).await;
    for number in 1..=20 {
        for _ in 0..25 {
            bob.receipt(&group, number, Some(epoch), true).await;
        }
    }
    read_by(&ann, "bob", 20).await;
    let cost = syncs(1).await - before;
    // Leases and the map sync a few times a second on their own.
    assert!(cost < 60.0, "{cost} syncs for 500 receipts");
    assert!(mesh.metric(1, "hearth_receipts_taken_total", "").await >= 500.0);
    let told = ann.payloads("message.read_receipt").len();
    assert!(told <= 20, "{told} frames");
    until("the feed of another region tells what was read", LATE, || async {
        let rows = feed(&cursor).await;
        rows["conversations"].as_array().is_some_and(|rows| {
            rows.iter().any(|row| row["conversationId"] == group.as_str() && row["unreadCount"] == json!(0))
        })
    })
    .await;
    drop((ann, bob));
    mesh.end().await;
}
