//! Sessions over real WebSockets.

use std::time::Duration;

use crate::common::*;
use edge_gateway::{Access, GatewayOptions};
use futures_util::SinkExt as _;
use hearth_protocol::Epoch;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

#[tokio::test]
async fn every_form_of_credentials_connects_and_refused_ones_close_in_band_with_4001() {
    let gateway = start(GatewayOptions::default()).await;
    let bearer = ["Bearer ann", "Bearer mallory"];
    let protocols = ["chat.v1, bearer.ann", "chat.v1, bearer.mallory"];
    let queries = ["/ws?token=ann", "/ws?token=mallory"];
    for (index, good) in [(0, true), (1, false)] {
        let forms: [(&str, Vec<(&'static str, &str)>); 3] = [
            ("/ws", vec![("authorization", bearer[index])]),
            ("/ws", vec![("sec-websocket-protocol", protocols[index])]),
            (queries[index], vec![]),
        ];
        for (path, headers) in forms {
            let mut client = gateway.connect_with(path, &headers).await.unwrap();
            if headers.iter().any(|(name, _)| *name == "sec-websocket-protocol") {
                assert_eq!(client.protocol.as_deref(), Some("chat.v1"));
            }
            if good {
                assert_eq!(client.next().await["userId"], "ann");
                client.heartbeat().await;
            } else {
                assert_eq!(client.closes().await, (4001, 4001));
            }
        }
    }
    let mut client = gateway.connect().await;
    client.send(&json!({"type": "auth", "payload": {"token": "mallory"}})).await;
    assert_eq!(client.closes().await, (4001, 4001));
}

#[tokio::test]
async fn messages_are_acked_and_reach_the_others_in_order() {
    let gateway = start(GatewayOptions::default()).await;
    let mut ann = gateway.session("ann").await;
    let mut bob = gateway.session("bob").await;
    for number in 1..=50 {
        ann.send(&message(number)).await;
    }
    for number in 1..=50u64 {
        let ack = ann.next().await;
        assert_eq!((&ack["type"], &ack["id"]), (&json!("message.ack"), &json!(format!("r{number}"))));
        let new = bob.next().await;
        assert_eq!((&new["type"], &new["payload"]["sequenceNumber"]), (&json!("message.new"), &json!(number)));
    }
    let mut back = gateway.connect_with("/ws?token=bob", &[]).await.unwrap();
    back.next().await;
    let cursors = json!([{"conversationId": conversation(), "lastSequence": 48}]);
    back.send(&json!({"type": "resume", "payload": {"cursors": cursors}})).await;
    assert_eq!(back.next().await["payload"]["sequenceNumber"], 49);
    assert_eq!(back.next().await["payload"]["sequenceNumber"], 50);
    let complete = back.next().await;
    assert_eq!((&complete["type"], &complete["payload"]["resumed"]), (&json!("sync.complete"), &json!("exact")));
}

#[tokio::test]
async fn receipts_reach_the_core_with_what_the_session_was_sent_and_are_not_answered() {
    let gateway = start(GatewayOptions::default()).await;
    let mut ann = gateway.session("ann").await;
    let mut bob = gateway.session("bob").await;
    let receipt = |kind: &str, up_to: u64| {
        let payload = json!({"conversationId": conversation(), "upToSequence": up_to});
        json!({"type": kind, "payload": payload})
    };
    bob.send(&receipt("message.received", 1)).await;
    bob.heartbeat().await;
    for number in 1..=2 {
        ann.send(&message(number)).await;
        bob.next().await;
    }
    bob.send(&receipt("message.read", 9)).await;
    bob.heartbeat().await;
    let receipts = gateway.core.receipts.lock().clone();
    let said: Vec<_> =
        receipts.iter().map(|(user, said, sent)| (user.as_str(), said.up_to_sequence, said.read, *sent)).collect();
    assert_eq!(said, [("bob", 1, false, None), ("bob", 9, true, Some((Epoch(1), 2)))]);
}

#[tokio::test]
async fn bad_input_of_one_session_gets_a_typed_answer_and_hurts_no_other() {
    let gateway = start(GatewayOptions::default()).await;
    let mut other = gateway.session("bob").await;
    let raw = |opcode, bytes: Vec<u8>| Message::Frame(Frame::message(bytes, opcode, true));
    let text = OpCode::Data(Data::Text);
    let long = format!("{{\"type\":\"x\",\"payload\":\"{}\"}}", "a".repeat(70 * 1024));
    let closing: Vec<(&str, Message)> = vec![
        ("not UTF-8", raw(text, b"{\"type\":\"\xff\xfe\"}".to_vec())),
        ("not JSON", Message::text("hello")),
        ("not an object", Message::text("[1]")),
        ("binary", Message::binary(b"{\"type\":\"heartbeat\"}".to_vec())),
        ("too long", Message::text(long)),
        ("far too long", Message::text("a".repeat(2_000_000))),
    ];
    for (what, message) in closing {
        let mut client = gateway.session("ann").await;
        // What is far too long is never read to its end.
        let sending = client.socket.send(message);
        let _ = tokio::time::timeout(Duration::from_millis(300), sending).await;
        let error = client.next().await;
        assert_eq!(error["type"], "error", "{what}");
        let expected = if what.contains("too long") { "TOO_LARGE" } else { "INVALID_MESSAGE" };
        assert_eq!(error["payload"]["error"], expected, "{what}");
        assert_eq!(client.closes().await, (4400, 4400), "{what}");
        other.heartbeat().await;
    }
    let mut client = gateway.session("ann").await;
    let deep = format!("{{\"type\":\"x\",\"payload\":{}{}}}", "[".repeat(100), "]".repeat(100));
    for text in [&deep, r#"{"type":"nonsense"}"#, r#"{"type":"message.send","payload":{"messageId":7}}"#] {
        client.socket.send(Message::text(text)).await.unwrap();
        assert_eq!(client.next().await["payload"]["error"], "INVALID_MESSAGE");
        client.heartbeat().await;
    }
    other.heartbeat().await;
}

#[tokio::test]
async fn half_a_frame_and_a_lost_connection_leave_nothing_behind() {
    let gateway = start(GatewayOptions::default()).await;
    let mut other = gateway.session("bob").await;
    for _ in 0..20 {
        let mut client = gateway.session("ann").await;
        let tokio_tungstenite::MaybeTlsStream::Plain(stream) = client.socket.get_mut() else { panic!("plain") };
        stream.write_all(&[0x81, 0xfe, 0x10, 0x00, 1, 2, 3, 4, b'{']).await.unwrap();
        drop(client);
    }
    while gateway.core.connections() > 1 || gateway.handle.sessions() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    other.heartbeat().await;
}

#[tokio::test]
async fn what_a_client_sent_before_it_left_is_still_taken() {
    let gateway = start(GatewayOptions::default()).await;
    let mut bob = gateway.session("bob").await;
    let mut ann = gateway.session("ann").await;
    for number in 1..=20 {
        ann.socket.feed(Message::text(message(number).to_string())).await.unwrap();
    }
    ann.socket.close(None).await.unwrap();
    for number in 1..=20 {
        assert_eq!(bob.next().await["payload"]["sequenceNumber"], number);
    }
}

#[tokio::test]
async fn ten_thousand_frames_at_once_are_all_answered() {
    let mut options = GatewayOptions::default();
    options.limits.messages_per_minute = 0;
    options.limits.session_queue = 32_768;
    options.limits.session_queue_bytes = 16 * 1024 * 1024;
    let gateway = start(options).await;
    let mut ann = gateway.session("ann").await;
    let mut other = gateway.session("bob").await;
    for number in 0..10_000 {
        ann.socket.feed(Message::text(message(number).to_string())).await.unwrap();
    }
    ann.socket.flush().await.unwrap();
    for number in 0..10_000 {
        assert_eq!(ann.next().await["id"], format!("r{number}"));
    }
    for number in 1..=10_000 {
        assert_eq!(other.next().await["payload"]["sequenceNumber"], number);
    }
    other.heartbeat().await;
}

#[tokio::test]
async fn the_rate_of_a_user_counts_over_all_sessions() {
    let mut options = GatewayOptions::default();
    options.limits.messages_per_minute = 3;
    let gateway = start(options).await;
    let mut phone = gateway.session("ann").await;
    let mut laptop = gateway.session("ann").await;
    for number in 1..=3 {
        phone.send(&message(number)).await;
        assert_eq!(phone.next().await["type"], "message.ack");
        assert_eq!(laptop.next().await["type"], "message.new");
    }
    laptop.send(&message(4)).await;
    let refused = laptop.next().await;
    assert_eq!(refused["payload"]["error"], "RATE_LIMITED");
    assert!(refused["payload"]["retryAfter"].as_u64().unwrap() >= 1);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_others_go_on() {
    let gateway = start(GatewayOptions::default()).await;
    let mut slow = gateway.session("ann").await;
    gateway.core.flood(&bytes::Bytes::from_static(b"{\"type\":\"x\"}"));
    assert_eq!(slow.closes().await, (4010, 4010));
    gateway.session("bob").await.heartbeat().await;
}

/// Frames of 10 KiB until the session of slow is refused one; the bytes that were taken.
async fn fill_slow(gateway: &TestGateway) -> usize {
    let frame = bytes::Bytes::from(format!("{{\"type\":\"x\",\"payload\":\"{}\"}}", "a".repeat(10 * 1024)));
    let mut taken = 0;
    // What the sockets still take is not waiting: the queue fills once they are full.
    while gateway.core.push_to("slow", &frame, 1) == 1 {
        taken += frame.len();
        tokio::task::yield_now().await;
    }
    taken
}

#[tokio::test]
async fn a_session_whose_queue_holds_the_configured_bytes_is_closed_4010_and_others_go_on() {
    const QUEUE: usize = 256 * 1024;
    let mut options = GatewayOptions::default();
    options.limits.session_queue = 1_000_000;
    options.limits.session_queue_bytes = QUEUE;
    // The bytes end the session, not the time of a blocked write.
    options.times.write_timeout = Duration::from_secs(3_600);
    let gateway = start(options).await;
    let mut other = gateway.session("bob").await;
    let mut slow = gateway.session("slow").await;
    let taken = fill_slow(&gateway).await;
    assert!(taken >= QUEUE - 11 * 1024, "{taken} bytes and closed already");
    assert_eq!(slow.closes().await, (4010, 4010));
    other.heartbeat().await;
    while gateway.handle.sessions() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Who reads gets many times the queue's bytes.
    let mut reads = gateway.session("slow").await;
    for _ in 0..100 {
        assert_eq!(gateway.core.push_to("slow", &bytes::Bytes::from(vec![b'1'; 20 * 1024]), 1), 1);
        reads.read().await;
    }
    reads.heartbeat().await;
}

#[tokio::test]
async fn a_write_that_is_blocked_for_too_long_closes_4010() {
    let mut options = GatewayOptions::default();
    options.limits.session_queue = 1_000_000;
    options.limits.session_queue_bytes = usize::MAX;
    options.times.write_timeout = Duration::from_millis(200);
    let gateway = start(options).await;
    let mut slow = gateway.session("slow").await;
    let frame = bytes::Bytes::from(format!("{{\"type\":\"x\",\"payload\":\"{}\"}}", "a".repeat(64 * 1024)));
    // More than loopback sockets hold.
    assert_eq!(gateway.core.push_to("slow", &frame, 1_024), 1_024);
    while gateway.core.connections() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(slow.closes().await, (4010, 4010));
}

#[tokio::test]
async fn a_session_without_an_auth_frame_ends() {
    let mut options = GatewayOptions::default();
    options.times.auth_timeout = Duration::from_millis(50);
    let gateway = start(options).await;
    assert_eq!(gateway.connect().await.closes().await, (4001, 4001));
}

#[tokio::test]
async fn a_session_that_sends_nothing_is_closed_4008_and_one_that_sends_anything_is_not() {
    let mut options = GatewayOptions::default();
    options.times.heartbeat_interval = Duration::from_millis(100);
    options.times.heartbeat_timeout = Duration::from_millis(1_000);
    let gateway = start(options).await;
    let mut silent = gateway.session("ann").await;
    let mut talks = gateway.session("bob").await;
    let beats = async {
        loop {
            talks.heartbeat().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let code = tokio::select! {
        code = silent.closes() => code,
        () = beats => unreachable!("it has no end"),
    };
    assert_eq!(code, (4008, 4008));
    talks.heartbeat().await;
}

#[tokio::test]
async fn sessions_over_the_bound_are_refused_overloaded_with_the_limit_and_room_comes_back() {
    let mut options = GatewayOptions::default();
    options.limits.sessions = 2;
    let gateway = start(options).await;
    let first = gateway.session("ann").await;
    let mut second = gateway.session("bob").await;
    let upgrade = ["connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: a"];
    let refused = gateway.request("GET", "/ws", &upgrade, "").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("10")));
    assert_eq!((&refused.json()["error"], &refused.json()["limit"]), (&json!("OVERLOADED"), &json!("2 sessions")));
    assert_eq!(gateway.ann("GET", "/api/v1/users/bob", "").await.status, 200, "REST goes on");
    drop(first);
    while gateway.connect_with("/ws", &[]).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    second.heartbeat().await;
}

#[tokio::test]
async fn a_drain_tells_every_session_a_slot_and_closes_it_with_4009() {
    let gateway = start(GatewayOptions::default()).await;
    let mut stays = gateway.session("ann").await;
    let mut leaves = gateway.session("bob").await;
    let drain = gateway.handle.drain(Duration::from_millis(400));
    let clients = async {
        let draining = leaves.next().await;
        assert_eq!(draining["type"], "server.draining");
        assert!(draining["reconnectAfterMs"].as_u64().unwrap() <= 320);
        assert_eq!(draining["endpoints"][0]["region"], "us-east");
        assert!(draining["resumeToken"].as_str().unwrap().starts_with("r1."));
        leaves.socket.close(None).await.unwrap();
        let ready = gateway.request("GET", "/readyz", &[], "").await;
        assert_eq!((ready.status, &ready.json()["reason"]), (503, &json!("draining")));
        assert_eq!(gateway.connect_with("/ws", &[]).await.err(), Some(503));
        assert_eq!(stays.closes().await, (4009, 4009));
    };
    let (left, ()) = tokio::join!(drain, clients);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_shutdown_closes_sessions_and_the_listener() {
    let gateway = start(GatewayOptions::default()).await;
    let mut client = gateway.session("ann").await;
    let ((), closes) = tokio::join!(gateway.handle.shutdown(), client.closes());
    assert_eq!(closes, (4009, 4009));
    assert!(tokio::net::TcpStream::connect(gateway.address).await.is_err());
}

#[tokio::test]
async fn a_foreign_origin_or_host_gets_no_upgrade() {
    let access = Access { allowed_origins: vec!["https://chat.example.com".into()], ..Access::default() };
    let options = GatewayOptions { access, ..GatewayOptions::default() };
    let gateway = start(options).await;
    let own = format!("http://{}", gateway.address);
    for (origin, status) in [
        ("https://chat.example.com", None),
        (own.as_str(), None),
        ("https://evil.example", Some(403)),
        ("null", Some(403)),
    ] {
        assert_eq!(gateway.connect_with("/ws", &[("origin", origin)]).await.err(), status, "{origin}");
    }
    let mut options = GatewayOptions::default();
    options.access.allowed_hosts = Some(vec!["localhost:1".into()]);
    let gateway = start(options).await;
    assert_eq!(gateway.connect_with("/ws", &[]).await.err(), Some(403));
    assert_eq!(gateway.request("GET", "/livez", &["host: localhost:1"], "").await.status, 200);
    assert_eq!(gateway.request("GET", "/livez", &["host: evil.example"], "").await.status, 403);
}

#[tokio::test]
async fn an_address_that_connects_too_often_is_told_when_it_may_again_and_who_is_connected_stays() {
    let mut options = GatewayOptions::default();
    options.limits.connects_per_minute = 1;
    let gateway = start(options).await;
    let mut ann = gateway.session("ann").await;
    let url = format!("ws://{}/ws", gateway.address);
    let refused = tokio_tungstenite::connect_async(&url).await.expect_err("it was the second of this minute");
    let tokio_tungstenite::tungstenite::Error::Http(answer) = refused else { panic!("{refused}") };
    assert_eq!(answer.status(), 429);
    let seconds: u64 = answer.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=60).contains(&seconds), "{seconds}");
    let body = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned();
    assert!(body.contains("RATE_LIMITED") && body.contains("connects_per_minute: 1"), "{body}");
    ann.heartbeat().await;
}

#[tokio::test]
async fn connections_over_the_bound_are_refused_as_overloaded_and_room_comes_back() {
    let mut options = GatewayOptions::default();
    options.limits.connections_per_address = 2;
    let gateway = start(options).await;
    let first = gateway.session("ann").await;
    let mut second = gateway.session("bob").await;
    let url = format!("ws://{}/ws", gateway.address);
    let refused = tokio_tungstenite::connect_async(&url).await.expect_err("there is no place");
    let tokio_tungstenite::tungstenite::Error::Http(answer) = refused else { panic!("{refused}") };
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "10");
    let body = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned();
    assert!(body.contains("OVERLOADED") && body.contains("connections_per_address: 2"), "{body}");
    drop(first);
    while tokio_tungstenite::connect_async(&url).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    second.heartbeat().await;
}
