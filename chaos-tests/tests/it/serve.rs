//! `hearth serve`: two regions from written configurations, with their own authority, TLS and an identity provider's keys.

use std::time::{Duration, Instant};

use chaos_tests::site::{Door, Keys, REGIONS, issue};
use chaos_tests::{Auth, Served, Site, new_id, run};
use hearth_client::TransportKind;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn behind_tls() -> Site {
    Site::new([Door::Tls, Door::Tls], Keys::Jwks).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_served_regions_talk_over_tls_and_a_token_that_ends_ends_its_session() {
    let site = behind_tls().await;
    let (one, other) = tokio::join!(Served::start(&site, 0), Served::start(&site, 1));
    let group = site.group("ann", "bob").await;
    let ann = site.peer("ann", 0, site.token("ann", 600)).await;
    let bob = site.peer("bob", 1, site.token("bob", 600)).await;
    for (peer, index) in [(&ann, 0), (&bob, 1)] {
        let hello = peer.expect("connected", |_| true).await.value;
        assert_eq!(hello["region"], REGIONS[index]);
    }
    let ack = ann.say(&group, "said over TLS").await;
    bob.expect("message.new", |frame| frame["payload"]["messageId"] == ack["messageId"]).await;
    let ack = bob.say(&group, "answered over TLS").await;
    ann.expect("message.new", |frame| frame["payload"]["messageId"] == ack["messageId"]).await;
    let short = site.peer("cem", 0, site.token("cem", 2)).await;
    short.expect("connected", |_| true).await;
    let close = short.expect_within("close", Duration::from_secs(15), |_| true).await.value;
    assert_eq!(close["code"], 4011);
    assert_eq!(short.ended(Duration::from_secs(5)).await, Some(4011));
    let late = site.peer("cem", 0, site.token("cem", 0)).await;
    tokio::time::timeout(Duration::from_secs(15), late.ended(Duration::from_secs(15))).await.expect("it ends");
    drop((ann, bob, short, late));
    tokio::join!(one.end(), other.end());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_replaced_on_disk_are_presented_to_new_connections_and_a_foreign_page_is_refused() {
    let site = behind_tls().await;
    let region = Served::start(&site, 0).await;
    let before = site.presented(0).await;
    issue(REGIONS[0], &site.path("ca"), &site.path("tls")).await;
    chaos_tests::until("the new certificate is presented", Duration::from_secs(15), || async {
        site.presented(0).await != before
    })
    .await;
    let mut stream = site.tls(0).await;
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nOrigin: https://evil.example\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        site.port(0)
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 403");
    region.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn served_regions_talk_over_webtransport_under_their_tls_and_a_session_resumes_over_the_other_transport() {
    let site = behind_tls().await;
    let (one, other) = tokio::join!(Served::start(&site, 0), Served::start(&site, 1));
    let group = site.group("ann", "bob").await;
    let over = |user: &'static str, index| {
        let auth = Auth { token: site.token(user, 600), ..Auth::default() };
        site.peer_over(TransportKind::WebTransport, user, index, auth)
    };
    let (ann, bob) = tokio::join!(over("ann", 0), over("bob", 1));
    // A session that opens after the message is sequenced is not sent it: it lists and syncs.
    for peer in [&ann, &bob] {
        peer.expect("connected", |_| true).await;
    }
    let first = ann.say(&group, "said over QUIC").await;
    bob.expect("message.new", |frame| frame["payload"]["messageId"] == first["messageId"]).await;
    let (device, resume) = (bob.device.clone(), bob.resume_token());
    bob.leave().await;
    ann.say(&group, "while bob changes places").await;
    let cursors = json!([{ "conversationId": group, "epoch": first["epoch"], "lastSequence": 1 }]);
    let auth =
        Auth { token: site.token("bob", 600), device: Some(device), resume: Some(resume), cursors: Some(cursors) };
    let back = site.peer_over(TransportKind::WebSocket, "bob", 0, auth).await;
    let hello = back.expect("connected", |_| true).await.value;
    assert_eq!((&hello["resumed"], &hello["region"]), (&json!("exact"), &json!(REGIONS[0])));
    back.expect("message.new", |frame| frame["payload"]["sequenceNumber"] == 2).await;
    let done = back.expect("sync.complete", |_| true).await.value;
    assert_eq!(done["payload"]["resumed"], "exact");
    drop((ann, bob, back));
    tokio::join!(one.end(), other.end());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_replaced_on_disk_is_presented_to_new_webtransport_sessions_and_old_ones_stay() {
    let site = behind_tls().await;
    let region = Served::start(&site, 0).await;
    let auth = Auth { token: site.token("ann", 600), ..Auth::default() };
    let ann = site.peer_over(TransportKind::WebTransport, "ann", 0, auth).await;
    ann.settled().await;
    assert!(!site.opens_webtransport(0, "other-ca").await, "the other authority has nothing to do with it yet");
    issue(REGIONS[0], &site.path("other-ca"), &site.path("tls")).await;
    chaos_tests::until("the new certificate is presented", Duration::from_secs(20), || {
        site.opens_webtransport(0, "other-ca")
    })
    .await;
    assert!(!site.opens_webtransport(0, "ca").await, "the old certificate is presented no more");
    ann.settled().await;
    drop(ann);
    region.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_session_is_closed_4008_after_the_configured_time_over_either_transport() {
    let site = behind_tls().await;
    let text = std::fs::read_to_string(site.config(0)).expect("a configuration");
    let limits = "[limits]\nheartbeat_interval = \"1s\"\nheartbeat_timeout = \"2s\"\n";
    std::fs::write(site.config(0), format!("{text}{limits}")).expect("written");
    let region = Served::start(&site, 0).await;
    for (user, kind) in [("ann", TransportKind::WebSocket), ("bob", TransportKind::WebTransport)] {
        let auth = Auth { token: site.token(user, 600), ..Auth::default() };
        let began = Instant::now();
        let silent = site.peer_over(kind, user, 0, auth).await;
        let hello = silent.expect("connected", |_| true).await;
        assert_eq!(hello.value["heartbeatInterval"], 1_000);
        let close = silent.expect_within("close", Duration::from_secs(20), |_| true).await;
        assert_eq!(close.value["code"], 4008);
        assert!(close.at - began >= Duration::from_millis(1_990), "not before its time");
        if let Some(code) = silent.ended(Duration::from_secs(10)).await {
            assert_eq!(code, 4008);
        }
    }
    region.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_certified_by_another_authority_gets_no_link_until_it_has_the_right_certificate() {
    let site = behind_tls().await;
    let (one, other) = tokio::join!(Served::start(&site, 0), Served::start(&site, 1));
    let group = site.group("ann", "bob").await;
    let ann = site.peer("ann", 0, site.token("ann", 600)).await;
    ann.say(&group, "before the wrong certificate").await;
    other.end().await;
    let right = std::fs::read_to_string(site.config(1)).expect("a configuration");
    issue(REGIONS[1], &site.path("other-ca"), &site.path("other-tls")).await;
    let mesh_part = |name: &str| format!("certificate = \"{name}/us-east.pem\"\nkey = \"{name}/us-east.key\"\nca = ");
    let half_wrong = right.replace(&mesh_part("tls"), &mesh_part("other-tls"));
    assert_ne!(right, half_wrong);
    std::fs::write(site.config(1), &half_wrong).expect("written");
    let exit = run(&["serve", "--config", &site.config(1).to_string_lossy()]).await;
    assert_eq!(exit.code, 2, "a certificate that does not fit its own authority is found at start: {exit:?}");
    let wrong = half_wrong.replace("ca = \"ca/ca.pem\"", "ca = \"other-ca/ca.pem\"");
    assert_ne!(wrong, half_wrong);
    std::fs::write(site.config(1), wrong).expect("written");
    let intruder = Served::start(&site, 1).await;
    let message = ann
        .send_payload(json!({ "messageId": new_id(), "conversationId": group, "durability": "regions:2",
            "content": { "type": "text", "text": "for two regions that trust each other" } }))
        .await;
    ann.expect("message.queued", |frame| frame["payload"]["messageId"] == message.as_str()).await;
    intruder.end().await;
    std::fs::write(site.config(1), right).expect("written");
    let back = Served::start(&site, 1).await;
    ann.acked_within(&message, Duration::from_secs(20)).await;
    drop(ann);
    tokio::join!(one.end(), back.end());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_with_an_error_ends_with_2_and_names_its_line() {
    let site = behind_tls().await;
    let text = std::fs::read_to_string(site.config(0)).expect("a configuration");
    let line = text.lines().count() + 2;
    std::fs::write(site.config(0), format!("{text}[limits]\nframe_bytes = \"much\"\n")).expect("written");
    let path = site.config(0).to_string_lossy().into_owned();
    let exit = run(&["serve", "--config", &path]).await;
    assert_eq!(exit.code, 2, "{exit:?}");
    assert!(exit.err.contains(&format!(":{line}")) || exit.err.contains(&format!("line {line}")), "{exit:?}");
    assert!(exit.err.contains("frame_bytes"), "{exit:?}");
    let exit = run(&["config", "check", &path]).await;
    assert_eq!(exit.code, 1, "{exit:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_regions_from_written_configurations_carry_a_conversation_over_plain_and_tls_listeners() {
    let site = Site::new([Door::Plain, Door::Tls], Keys::Secret).await;
    let authority = site.path("ca").to_string_lossy().into_owned();
    assert_ne!(run(&["ca", "init", "--dir", &authority]).await.code, 0, "an authority is never overwritten");
    let checked = run(&["config", "check", &site.config(0).to_string_lossy()]).await;
    assert_eq!(checked.code, 0, "{}{}", checked.out, checked.err);
    let (eu, us) = tokio::join!(Served::start(&site, 0), Served::start(&site, 1));
    let ann = site.peer("ann", 0, site.token("ann", 600)).await;
    let bob = site.peer("bob", 1, site.token("bob", 600)).await;
    ann.expect("connected", |frame| frame["region"] == "eu-west").await;
    bob.expect("connected", |frame| frame["region"] == "us-east").await;
    let body = json!({ "type": "direct", "participantIds": ["bob"] });
    let made = site.rest(Some("ann"), 0, "POST", "/api/v1/conversations", Some(body), &[]).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let id = made.body["conversationId"].as_str().expect("an id").to_owned();
    ann.say(&id, "from a plain listener").await;
    bob.expect("message.new", |frame| frame["payload"]["content"]["text"] == "from a plain listener").await;
    bob.say(&id, "from a secure one").await;
    ann.expect("message.new", |frame| frame["payload"]["sequenceNumber"] == 2).await;

    // What exists in development does not exist here, and a page of a foreign origin is not let in.
    for (method, path) in [("POST", "/api/v1/dev/tokens"), ("GET", "/api/v1/dev/links"), ("GET", "/")] {
        let body = (method == "POST").then(|| json!({ "userId": "eve" }));
        let dev = site.rest(None, 0, method, path, body, &[]).await;
        assert_eq!(dev.status, 404, "{path}: {}", dev.text);
    }
    let foreign = site.rest(None, 0, "GET", "/ws", None, &[("origin", "https://evil.example")]).await;
    assert_eq!(foreign.status, 403, "{}", foreign.text);
    drop((ann, bob));
    tokio::join!(eu.end(), us.end());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_with_a_fault_is_refused_with_its_line_and_what_to_type() {
    let site = Site::new([Door::Plain, Door::Plain], Keys::Secret).await;
    let config = site.config(0).to_string_lossy().into_owned();
    let text = std::fs::read_to_string(&config).expect("a file").replace("[listen]\nhttp", "[listen]\nhtpp");
    let line = 1 + text.lines().position(|line| line.starts_with("htpp")).expect("the fault");
    std::fs::write(&config, text).expect("a file");
    for arguments in [vec!["config", "check", config.as_str()], vec!["serve", "--config", config.as_str()]] {
        let ended = run(&arguments).await;
        assert_ne!(ended.code, 0);
        let said = format!("{}{}", ended.out, ended.err);
        assert!(said.contains(&format!(":{line}:")) && said.contains("htpp") && said.contains("help"), "{said}");
    }
}
