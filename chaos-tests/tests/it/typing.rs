//! Typing reaches the members who look at the conversation, in every region, and nobody else, and ends by itself.

use std::time::{Duration, Instant};

use chaos_tests::{Mesh, Peer};
use hearth_client::TransportKind;
use serde_json::{Value, json};

/// What must come on a busy machine.
const LATE: Duration = Duration::from_secs(20);

async fn view(peer: &Peer, conversation: Option<&str>) {
    peer.frame(json!({ "type": "conversation.view", "payload": { "conversationId": conversation } })).await;
    // Frames of a session are taken in order: what is answered later was read later.
    peer.settled().await;
}

async fn types(peer: &Peer, conversation: &str, start: bool) {
    let kind = if start { "typing.start" } else { "typing.stop" };
    peer.frame(json!({ "type": kind, "id": "typing", "payload": { "conversationId": conversation } })).await;
}

async fn told(peer: &Peer, conversation: &str, user: &str, typing: bool) -> Instant {
    let wanted = json!({ "conversationId": conversation, "userId": user, "isTyping": typing });
    let matches = |frame: &Value| frame["payload"] == wanted;
    peer.expect_within("typing.update", LATE, matches).await.at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typing_is_told_in_every_region_to_members_who_look_and_to_nobody_else() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob", "cem", "dan"]).await;
    let other = mesh.group("ann", 0, &["dan"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let bob = Peer::connect_over(&mesh, "bob", 1, TransportKind::WebTransport).await;
    let cem = Peer::connect(&mesh, "cem", 2).await;
    let dan = Peer::connect(&mesh, "dan", 1).await;
    let away = Peer::connect(&mesh, "cem", 1).await;
    ann.say(&group, "all of you have this").await;
    for peer in [&bob, &cem, &dan, &away] {
        peer.expect("message.new", |frame| frame["payload"]["conversationId"] == group.as_str()).await;
    }
    for peer in [&ann, &bob, &cem] {
        view(peer, Some(&group)).await;
    }
    view(&dan, Some(&other)).await;
    types(&bob, &group, true).await;
    for peer in [&ann, &cem] {
        told(peer, &group, "bob", true).await;
    }
    // One who looks only now is told who types.
    view(&dan, Some(&group)).await;
    told(&dan, &group, "bob", true).await;
    view(&dan, None).await;
    types(&bob, &group, false).await;
    for peer in [&ann, &cem] {
        told(peer, &group, "bob", false).await;
    }
    // From a region that is not the home to another, and to one's own other devices not.
    types(&cem, &group, true).await;
    told(&bob, &group, "cem", true).await;
    types(&cem, &group, false).await;
    told(&bob, &group, "cem", false).await;
    assert!(away.payloads("typing.update").is_empty(), "it looks at nothing, and cem is itself");
    assert_eq!(dan.payloads("typing.update").len(), 1, "the end came when it looked away");
    assert!(bob.payloads("typing.update").iter().all(|update| update["userId"] != "bob"));
    for peer in [&ann, &bob, &cem, &dan] {
        assert!(peer.payloads("error").is_empty());
    }
    drop((ann, bob, cem, dan, away));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typing_is_over_five_seconds_after_the_last_start_and_told_at_most_once_a_second() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    bob.say(&group, "before it types").await;
    view(&ann, Some(&group)).await;
    let began = Instant::now();
    let mut starts = 0;
    while began.elapsed() < Duration::from_secs(3) {
        types(&bob, &group, true).await;
        starts += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let last = Instant::now();
    let over = told(&ann, &group, "bob", false).await.saturating_duration_since(last);
    assert!(over > Duration::from_millis(4_500) && over < Duration::from_secs(8), "over after {over:?}");
    let updates = ann.payloads("typing.update");
    assert!(starts > 20 && updates.len() <= 6, "{} updates of {starts} starts", updates.len());
    while ann.take(|frame| frame["type"] == "typing.update").is_some() {}
    // A killed client ends like one that stops.
    types(&bob, &group, true).await;
    told(&ann, &group, "bob", true).await;
    bob.abandon();
    told(&ann, &group, "bob", false).await;
    drop((ann, bob));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_member_neither_types_nor_looks_and_what_a_cut_link_ends_is_over_by_itself() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let eve = Peer::connect(&mesh, "eve", 1).await;
    for kind in ["typing.start", "typing.stop", "conversation.view"] {
        let payload = json!({ "conversationId": group });
        eve.frame(json!({ "type": kind, "id": kind, "payload": payload })).await;
        let answer = eve.expect("error", |frame| frame["id"] == kind).await;
        assert_eq!(answer.value["payload"]["error"], "CONVERSATION_NOT_FOUND", "{kind}");
        eve.frame(json!({ "type": kind, "id": "bad", "payload": { "conversationId": 7 } })).await;
        let answer = eve.expect("error", |frame| frame["id"] == "bad").await;
        assert_eq!(answer.value["payload"]["error"], "INVALID_MESSAGE", "{kind}");
    }
    bob.say(&group, "before the cut").await;
    view(&ann, Some(&group)).await;
    types(&bob, &group, true).await;
    told(&ann, &group, "bob", true).await;
    mesh.cut(0, 1).await;
    told(&ann, &group, "bob", false).await;
    assert!(eve.payloads("typing.update").is_empty());
    drop((ann, bob, eve));
    mesh.end().await;
}
