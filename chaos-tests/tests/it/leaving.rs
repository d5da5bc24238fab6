//! A node that leaves with hundreds of sessions, and a reader that cannot keep up.

use std::sync::Arc;
use std::time::Duration;

use chaos_tests::raw;
use chaos_tests::{Mesh, Peer};
use futures_util::future::join_all;
use hearth_client::TransportKind;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

/// Sessions of the node that leaves.
const SESSIONS: usize = 300;
/// Messages said to all of them meanwhile.
const MESSAGES: u64 = 80;
/// How long the node takes to leave.
const OVER: &str = "5s";
/// The slots lie in the first four fifths of that, in milliseconds.
const WINDOW: u64 = 4_000;

fn number(frame: &Value) -> u64 {
    frame["payload"]["sequenceNumber"].as_u64().unwrap_or(0)
}

fn numbers(peer: &Peer) -> Vec<u64> {
    let frames = peer.frames().into_iter().map(|frame| frame.value);
    frames.filter(|frame| frame["type"] == "message.new").map(|frame| number(&frame)).collect()
}

/// Does what a client does that is told to leave. Gives the time that it was told to wait, and its next session.
async fn moves(mesh: &Mesh, old: &Peer, kind: TransportKind, group: &str, epoch: &Value) -> (u64, Peer) {
    let told = old.expect_within("server.draining", Duration::from_secs(10), |_| true).await.value;
    let wait = told["reconnectAfterMs"].as_u64().expect("milliseconds");
    tokio::time::sleep(Duration::from_millis(wait)).await;
    let endpoint = told["endpoints"][0]["ws"].as_str().expect("somewhere to go");
    let region = mesh.regions.iter().position(|region| region.ws == endpoint).expect("a region of the mesh");
    let last = numbers(old).last().copied().unwrap_or(0);
    let cursors = json!([{ "conversationId": group, "epoch": epoch, "lastSequence": last }]);
    let resume = told["resumeToken"].as_str().expect("a token");
    let new = Peer::resume_over(mesh, old, region, kind, resume, cursors).await;
    let hello = new.expect("connected", |_| true).await.value;
    assert_eq!(hello["resumed"], "exact", "{}", old.user);
    let shown = numbers(old);
    assert_eq!(shown, (1..=shown.len() as u64).collect::<Vec<_>>(), "{} misses nothing before it goes", old.user);
    new.expect_within("message.new", Duration::from_secs(30), |frame| number(frame) == MESSAGES).await;
    assert_eq!(numbers(&new), (last + 1..=MESSAGES).collect::<Vec<_>>(), "{} goes on where it was", old.user);
    (wait, new)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_sessions_leave_a_draining_node_one_after_the_other_and_miss_no_message() {
    let mesh = Arc::new(Mesh::quick(&[]).await);
    let users: Vec<String> = (0..SESSIONS).map(|number| format!("u{number}")).collect();
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let group = mesh.group("ann", 0, &names).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let kind =
        |number: usize| if number.is_multiple_of(3) { TransportKind::WebTransport } else { TransportKind::WebSocket };
    let mut peers = Vec::new();
    for (number, user) in names.iter().enumerate() {
        peers.push(Peer::connect_over(&mesh, user, 1, kind(number)).await);
    }
    let first = ann.say(&group, "all are here").await;
    join_all(peers.iter().map(|peer| peer.expect("message.new", |frame| number(frame) == 1))).await;
    let data = mesh.data().to_string_lossy().into_owned();
    let leaves = ["dev", "drain", &mesh.regions[1].id, "--over", OVER, "--data", &data];
    let says = async {
        for number in 2..=MESSAGES {
            ann.say(&group, &format!("while they leave, {number}")).await;
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    };
    let epoch = &first["epoch"];
    let clients = peers.iter().enumerate().map(|(number, peer)| moves(&mesh, peer, kind(number), &group, epoch));
    let (exit, (), moved) = tokio::join!(chaos_tests::run(&leaves), says, join_all(clients));
    assert_eq!(exit.code, 0, "{exit:?}");
    let mut fifths = [0usize; 5];
    for (wait, _) in &moved {
        assert!(*wait <= WINDOW, "{wait} ms is not in the window");
        fifths[usize::try_from(wait * 5 / (WINDOW + 1)).expect("below five")] += 1;
    }
    let even = SESSIONS / 5;
    assert!(fifths.iter().all(|fifth| (even / 2..=even * 2).contains(fifth)), "not spread: {fifths:?}");
    for peer in &peers {
        // Not every transport shows a close code: it is told in band as well.
        peer.ended(Duration::from_secs(10)).await;
        let close = peer.frames().into_iter().find(|frame| frame.value["type"] == "close");
        assert_eq!(close.map(|frame| frame.value["code"].clone()), Some(json!(4009)), "{}", peer.user);
    }
    println!("{SESSIONS} sessions left over {WINDOW} ms in fifths of {fifths:?}");
    drop((ann, peers, moved));
    Arc::into_inner(mesh).expect("nobody else has it").end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_lags_is_told_to_pull_what_it_was_not_sent_and_its_session_goes_on() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["slow"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let (status, mut slow) = raw::upgrade(&mesh.regions[0], None, "").await;
    assert_eq!(status, 101);
    let auth = json!({ "type": "auth", "payload": { "token": mesh.token("slow", 0).await } });
    slow.write_all(&raw::masked(1, auth.to_string().as_bytes())).await.expect("written");
    // More than the kernel's buffers and the queue hold, within the time that one write may take.
    let long = "a long text ".repeat(1_300);
    const LONG: u64 = 700;
    let mut last = String::new();
    for number in 0..LONG {
        last = ann.send(&group, &format!("{long}{number}")).await;
    }
    ann.acked_within(&last, Duration::from_secs(20)).await;
    let mut texts = raw::Texts::new(slow);
    let (mut shown, mut pull) = (0, None);
    while pull.is_none() {
        let frame: Value = texts.next(Duration::from_secs(10)).await.expect("the session goes on");
        match frame["type"].as_str() {
            Some("message.new") => {
                assert_eq!(number(&frame), shown + 1, "in order");
                shown += 1;
            }
            Some("sync.required") => pull = frame["payload"]["fromSequence"].as_u64(),
            _ => {}
        }
    }
    assert_eq!(pull, Some(shown + 1), "the pull begins where the messages ended");
    assert!(shown < LONG, "it could not take all of them");
    // It may fall behind again while it catches up; then it is told so again.
    while texts.next(Duration::from_secs(1)).await.is_some() {}
    ann.say(&group, "after it caught up").await;
    let live: Value = texts.next(Duration::from_secs(10)).await.expect("the session goes on");
    assert_eq!((live["type"].as_str(), number(&live)), (Some("message.new"), LONG + 1), "live again");
    let rows = mesh.history("slow", 0, &group).await;
    assert_eq!(rows.len() as u64, LONG + 1, "what it was not sent is there to be pulled");
    let pulled = mesh.metric(0, "hearth_gateway_outbound_dropped_total", "pulled").await;
    let closed = mesh.metric(0, "hearth_gateway_outbound_dropped_total", "slow_consumer").await;
    assert!(pulled >= 1.0 && closed < 1.0, "{pulled} pulled, {closed} closed");
    println!("the reader had {shown} of {LONG} messages and pulled the rest");
    drop(ann);
    mesh.end().await;
}
