//! Sessions: resume anywhere, drain, refresh, limits, and what one client does to others, which is nothing.

use std::time::Duration;

use chaos_tests::raw;
use chaos_tests::{Mesh, Peer, new_id};
use hearth_client::TransportKind;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

fn number(frame: &Value) -> u64 {
    frame["payload"]["sequenceNumber"].as_u64().unwrap_or(0)
}

/// Sends `count` messages and waits for their acks.
async fn fill(peer: &Peer, conversation: &str, count: usize) -> Value {
    let mut last = String::new();
    for number in 0..count {
        last = peer.send(conversation, &format!("to fill the history, {number}")).await;
    }
    peer.acked_within(&last, Duration::from_secs(30)).await
}

/// Numbers of `message.new` that a session was sent, up to `sync.complete`.
async fn replayed(peer: &Peer) -> (Value, Vec<u64>) {
    let done = peer.expect_within("sync.complete", Duration::from_secs(20), |_| true).await;
    let frames = peer.frames().into_iter().map(|frame| frame.value);
    let rows = frames.filter(|frame| frame["type"] == "message.new").map(|frame| number(&frame)).collect();
    (done.value, rows)
}

async fn resumes_elsewhere(kind: TransportKind) {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect_over(&mesh, "bob", 1, kind).await);
    let ack = ann.say(&group, "the first message").await;
    bob.expect("message.new", |frame| number(frame) == 1).await;
    let resume = bob.resume_token();
    bob.leave().await;
    let cursors = |last: u64| json!([{ "conversationId": group, "epoch": ack["epoch"], "lastSequence": last }]);
    fill(&ann, &group, 20).await;
    mesh.agreed("bob", &[0, 2], &group, 21).await;
    let few = Peer::resume_over(&mesh, &bob, 2, kind, &resume, cursors(1)).await;
    let (done, rows) = replayed(&few).await;
    assert_eq!(rows, (2..=21).collect::<Vec<_>>());
    assert_eq!(done["payload"]["resumed"], "exact");
    assert_eq!(done["payload"]["conversations"][0]["upToSequence"], 21);
    few.leave().await;
    fill(&ann, &group, 200).await;
    mesh.agreed("bob", &[0, 2], &group, 221).await;
    let many = Peer::resume_over(&mesh, &bob, 2, kind, &resume, cursors(21)).await;
    many.expect("sync.required", |frame| frame["payload"]["conversationId"] == group.as_str()).await;
    replayed(&many).await;
    many.leave().await;
    fill(&ann, &group, 1_000).await;
    mesh.agreed("bob", &[0, 2], &group, 1_221).await;
    let most = Peer::resume_over(&mesh, &bob, 2, kind, &resume, cursors(21)).await;
    let gap = most.expect("sync.gap", |_| true).await.value;
    let (done, rows) = replayed(&most).await;
    assert_eq!(rows, (1_122..=1_221).collect::<Vec<_>>(), "the newest hundred");
    assert_eq!((&gap["payload"]["fromSequence"], &gap["payload"]["toSequence"]), (&json!(22), &json!(1_121)));
    assert_eq!(done["payload"]["resumed"], "exact");
    drop((ann, bob, few, many, most));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_at_another_region_is_exact_or_says_what_it_leaves_out() {
    resumes_elsewhere(TransportKind::WebSocket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_over_webtransport_at_another_region_is_exact_or_says_what_it_leaves_out() {
    resumes_elsewhere(TransportKind::WebTransport).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_a_region_that_is_stopped_and_started_resumes_there_over_either_transport() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let bob = Peer::connect(&mesh, "bob", 1).await;
    let cem = Peer::connect_over(&mesh, "cem", 1, TransportKind::WebTransport).await;
    let ack = ann.say(&group, "before the region stops").await;
    for peer in [&bob, &cem] {
        peer.expect("message.new", |frame| number(frame) == 1).await;
    }
    mesh.stop_region(1).await;
    for peer in [&bob, &cem] {
        let close = peer.expect("close", |_| true).await.value;
        assert_eq!(close["code"], 4009, "{}", peer.user);
        peer.ended(Duration::from_secs(10)).await;
    }
    ann.say(&group, "while the region is away").await;
    fill(&ann, &group, 20).await;
    mesh.start_region(1).await;
    mesh.agreed("bob", &[0, 1], &group, 22).await;
    let cursors = json!([{ "conversationId": group, "epoch": ack["epoch"], "lastSequence": 1 }]);
    for (old, kind) in [(&bob, TransportKind::WebSocket), (&cem, TransportKind::WebTransport)] {
        let back = Peer::resume_over(&mesh, old, 1, kind, &old.resume_token(), cursors.clone()).await;
        let hello = back.expect("connected", |_| true).await.value;
        assert_eq!((&hello["resumed"], &hello["deviceId"]), (&json!("exact"), &json!(old.device)));
        let (done, rows) = replayed(&back).await;
        // What the one before sent may follow.
        assert_eq!(rows[..21], (2..=22).collect::<Vec<_>>(), "{}", old.user);
        assert_eq!(done["payload"]["resumed"], "exact");
        let ack = back.say(&group, "sent after the region came back").await;
        ann.expect("message.new", |frame| frame["payload"]["messageId"] == ack["messageId"]).await;
    }
    drop((ann, bob, cem));
    mesh.end().await;
}

async fn leaves_in_order(peer: &Peer) {
    let draining = peer.expect("server.draining", |_| true).await;
    for field in ["reconnectAfterMs", "deadlineMs", "endpoints", "resumeToken"] {
        assert!(!draining.value[field].is_null(), "server.draining lacks {field}");
    }
    let close = peer.expect_within("close", Duration::from_secs(15), |_| true).await;
    assert_eq!(close.value["code"], 4009);
    assert_eq!(peer.ended(Duration::from_secs(10)).await, Some(4009));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_tells_every_session_where_to_go_before_it_closes() {
    let mut mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let data = mesh.data().to_string_lossy().into_owned();
    let region = mesh.regions[1].id.clone();
    let arguments = ["dev", "drain", &region, "--over", "1s", "--data", &data];
    let (exit, ()) = tokio::join!(chaos_tests::run(&arguments), leaves_in_order(&bob));
    assert_eq!(exit.code, 0, "{exit:?}");
    ann.say(&group, "another region goes on").await;
    assert_eq!(chaos_tests::run(&arguments).await.code, 6, "it drains already");
    mesh.start_region(1).await;
    let back = Peer::connect(&mesh, "bob", 1).await;
    back.say(&group, "the drained region takes sessions again").await;
    mesh.signal(Signal::SIGTERM);
    tokio::join!(leaves_in_order(&ann), leaves_in_order(&back));
    assert_eq!(mesh.wait().await, 0);
    mesh.check_log();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_is_closed_and_slows_nobody() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob", "slow"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 0).await);
    let (status, mut slow) = raw::upgrade(&mesh.regions[0], None, "").await;
    assert_eq!(status, 101);
    let auth = json!({ "type": "auth", "payload": { "token": mesh.token("slow", 0).await } });
    slow.write_all(&raw::masked(1, auth.to_string().as_bytes())).await.expect("written");
    let long = "a long text ".repeat(1_200);
    for number in 0..700 {
        let ack = ann.say(&group, &format!("{long}{number}")).await;
        assert_eq!(ack["sequenceNumber"], number + 1, "acks go on");
    }
    bob.expect_within("message.new", Duration::from_secs(10), |frame| number(frame) == 700).await;
    assert_eq!(bob.payloads("message.new").len(), 700, "the other reader gets every message");
    chaos_tests::until("the blocked reader is let go", Duration::from_secs(30), || async {
        mesh.metric(0, "hearth_gateway_outbound_dropped_total", "slow_consumer").await >= 1.0
    })
    .await;
    let (texts, code) = raw::read_to_end(&mut slow).await;
    let shown = texts.iter().filter(|text| text.contains("message.new")).count();
    assert!(shown < 700, "the slow reader was cut off");
    // Who reads on within some seconds is told; this one may have come too late.
    assert!(code.is_none() || code == Some(4010), "closed as slow: {code:?}");
    let told = texts.last().is_some_and(|text| text.contains("\"type\":\"close\""));
    assert!(code.is_none() || told, "a close code follows the close in band");
    println!("the slow reader had {shown} of 700 messages, close code {code:?}");
    ann.say(&group, "after the slow one").await;
    drop((ann, bob));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_too_much_is_refused_with_the_limit_and_others_are_not() {
    let mesh = Mesh::start(&["--latency", "none"]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 0).await);
    for number in 0..130 {
        ann.send(&group, &format!("far too many messages, {number}")).await;
    }
    let refused = ann.expect("error", |frame| frame["payload"]["error"] == "RATE_LIMITED").await.value;
    assert!(refused["payload"]["retryAfter"].as_f64().is_some_and(|seconds| seconds > 0.0), "{refused}");
    assert!(!refused["payload"]["limit"].is_null(), "{refused}");
    bob.say(&group, "another user goes on").await;
    ann.settled().await;
    let acked = ann.payloads("message.ack").len();
    assert!((100..=110).contains(&acked), "{acked} acked");
    drop((ann, bob));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_refreshed_on_a_live_session_and_a_bad_one_changes_nothing() {
    let mesh = Mesh::quick(&[]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let token = mesh.token("ann", 1).await;
    ann.frame(json!({ "type": "auth.refresh", "id": "r1", "payload": { "token": token } })).await;
    let refreshed = ann.expect("auth.refreshed", |frame| frame["id"] == "r1").await.value;
    assert!(refreshed["payload"]["expiresAt"].as_u64().is_some_and(|at| at > 0), "{refreshed}");
    for bad in ["nonsense".to_owned(), mesh.token("eve", 0).await] {
        ann.frame(json!({ "type": "auth.refresh", "id": "r2", "payload": { "token": bad } })).await;
        ann.expect("error", |frame| frame["payload"]["error"] == "UNAUTHORIZED" && frame["id"] == "r2").await;
    }
    ann.settled().await;
    drop(ann);
    mesh.end().await;
}

/// Bytes after the upgrade that cannot be read as frames of the contract.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("not UTF-8", raw::masked(1, &[0xff, 0xfe, 0xfd])),
        ("not JSON", raw::masked(1, b"{\"type\":")),
        ("not an object", raw::masked(1, b"[1,2,3]")),
        ("binary", raw::masked(2, b"{\"type\":\"heartbeat\"}")),
        ("too long", vec![0x81, 0xff, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0]),
        ("no frame at all", vec![0xff; 64]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_of_every_kind_ends_at_most_its_own_session() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 0).await);
    let region = &mesh.regions[0];
    for (what, bytes) in malformed() {
        let (status, mut stream) = raw::upgrade(region, None, "").await;
        assert_eq!(status, 101, "{what}");
        let auth = json!({ "type": "auth", "payload": { "token": mesh.token("eve", 0).await } });
        stream.write_all(&raw::masked(1, auth.to_string().as_bytes())).await.expect("written");
        stream.write_all(&bytes).await.expect("written");
        let (texts, code) = raw::read_to_end(&mut stream).await;
        println!("{what}: closed with {code:?} after {} frames", texts.len());
        ann.say(&group, &format!("others go on after {what}")).await;
    }
    let (_, mut half) = raw::upgrade(region, None, "").await;
    half.write_all(&raw::masked(1, b"{\"type\":\"auth\"")[..9]).await.expect("written");
    let flood = Peer::connect(&mesh, "flood", 0).await;
    let odd = json!({ "type": "no.such.type", "payload": {} }).to_string();
    flood.texts(vec![odd; 10_000]).await;
    let deep = format!("{{\"type\":\"message.send\",\"payload\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    let eve = Peer::connect(&mesh, "eve", 0).await;
    eve.texts(vec![deep]).await;
    eve.expect("error", |frame| frame["payload"]["error"] == "INVALID_MESSAGE").await;
    for id in [group.clone(), new_id()] {
        let message = eve.send(&id, "from somebody who is no member").await;
        eve.expect("error", |frame| {
            frame["id"] == message.as_str() && frame["payload"]["error"] == "CONVERSATION_NOT_FOUND"
        })
        .await;
    }
    flood.ended(Duration::from_secs(20)).await;
    let close = flood.frames().into_iter().rev().find(|frame| frame.value["type"] == "close");
    assert_eq!(close.map(|frame| frame.value["code"].clone()), Some(json!(4029)), "after 1,000 refusals");
    ann.say(&group, "after everything bad").await;
    bob.expect("message.new", |frame| number(frame) == 7).await;
    drop((half, ann, bob, eve, flood));
    mesh.end().await;
}
