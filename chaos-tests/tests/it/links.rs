//! Links are cut, one way too: what was queued is kept, goes out once and in order, and nobody else notices.

use std::time::{Duration, Instant};

use chaos_tests::{Checker, Mesh, Peer, new_id, until};
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(5);
/// The contract's five seconds, and room for a busy machine.
const NOTICED: Duration = Duration::from_secs(8);

async fn send_many(peer: &Peer, conversation: &str, count: usize, what: &str) -> Vec<String> {
    let mut messages = Vec::new();
    for number in 0..count {
        messages.push(peer.send(conversation, &format!("{what} number {number}")).await);
    }
    messages
}

async fn all_queued(peer: &Peer, messages: &[String], reason: &str) {
    for message in messages {
        let queued = peer
            .expect_within("message.queued", NOTICED, |frame| frame["payload"]["messageId"] == message.as_str())
            .await;
        assert_eq!(queued.value["payload"]["reason"], reason);
        let sent = peer.sent().into_iter().find(|sent| sent.message == *message).expect("sent");
        let took = queued.at.duration_since(sent.at);
        assert!(took < NOTICED, "queued after {took:?}");
        if took > WITHIN {
            println!("queued after {took:?}: the machine is busy");
        }
    }
}

/// Numbers of the acks, which must ascend.
async fn all_acked(peer: &Peer, messages: &[String]) -> Vec<u64> {
    let mut numbers = Vec::new();
    for message in messages {
        let ack = peer.acked_within(message, Duration::from_secs(20)).await;
        numbers.push(ack["sequenceNumber"].as_u64().expect("a number"));
    }
    assert!(numbers.is_sorted(), "acked in another order than sent: {numbers:?}");
    numbers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_home_link_queues_sends_and_a_heal_brings_them_home_in_order_while_others_notice_nothing() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, bob, cem) = (
        Peer::connect(&mesh, "ann", 0).await,
        Peer::connect(&mesh, "bob", 1).await,
        Peer::connect(&mesh, "cem", 2).await,
    );
    bob.say(&group, "before the cut").await;
    mesh.cut(0, 1).await;
    let cut = Instant::now();
    let first = bob.send(&group, "a first parked message").await;
    let home = mesh.regions[0].id.clone();
    all_queued(&bob, std::slice::from_ref(&first), "HOME_UNREACHABLE").await;
    let status =
        |frame: &Value| frame["payload"]["region"] == home.as_str() && frame["payload"]["reachable"] == json!(false);
    let status = bob.expect_within("region.status", NOTICED, status).await;
    println!("the cut was told after {:?}", status.at.duration_since(cut));
    let later = send_many(&bob, &group, 10, "a later parked message").await;
    for number in 0..20 {
        ann.say(&group, &format!("the home goes on, {number}")).await;
        cem.say(&group, &format!("the third region goes on, {number}")).await;
    }
    assert!(ann.payloads("message.queued").is_empty() && cem.payloads("message.queued").is_empty());
    all_queued(&bob, &later, "HOME_UNREACHABLE").await;
    // The third region serves the history during the cut.
    assert_eq!(mesh.agreed("cem", &[0, 2], &group, 41).await.len(), 41);
    mesh.heal(0, 1).await;
    let healed = Instant::now();
    all_acked(&bob, &[vec![first], later].concat()).await;
    println!("all acked {:?} after the heal", healed.elapsed());
    let rows = mesh.agreed("ann", &[0, 1, 2], &group, 52).await;
    bob.settled().await;
    let mut checker = Checker::default();
    for peer in [&ann, &bob, &cem] {
        checker.observe(peer);
    }
    checker.check(&group, &[rows]);
    drop((ann, bob, cem));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_messages_survive_kill_9_and_a_stopped_region_and_come_out_once_in_order() {
    let mut mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let bob = Peer::connect(&mesh, "bob", 1).await;
    bob.say(&group, "before the cut").await;
    mesh.cut(0, 1).await;
    let parked = send_many(&bob, &group, 30, "parked before the kill").await;
    all_queued(&bob, &parked, "HOME_UNREACHABLE").await;
    mesh.kill().await;
    mesh.restart().await;
    println!("ready {:?} after the kill", mesh.ready_after);
    let rows = mesh.agreed("ann", &[0, 1, 2], &group, 31).await;
    let order: Vec<&str> = rows[1..].iter().filter_map(|row| row["messageId"].as_str()).collect();
    assert_eq!(order, parked, "once, and in order");
    mesh.cut(0, 1).await;
    let again = Peer::connect(&mesh, "bob", 1).await;
    let parked = send_many(&again, &group, 10, "parked before the stop").await;
    all_queued(&again, &parked, "HOME_UNREACHABLE").await;
    mesh.stop_region(1).await;
    mesh.heal(0, 1).await;
    mesh.start_region(1).await;
    let rows = mesh.agreed("ann", &[0, 1, 2], &group, 41).await;
    let order: Vec<&str> = rows[31..].iter().filter_map(|row| row["messageId"].as_str()).collect();
    assert_eq!(order, parked, "once, and in order");
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_cut_one_way_in_either_direction_loses_and_doubles_nothing() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    bob.say(&group, "before the cuts").await;
    for (from, to) in [(0, 1), (1, 0)] {
        mesh.cut_one_way(from, to).await;
        let sent = send_many(&bob, &group, 10, "sent into a one-way cut").await;
        all_queued(&bob, &sent, "HOME_UNREACHABLE").await;
        ann.say(&group, "the home goes on").await;
        mesh.heal(0, 1).await;
        all_acked(&bob, &sent).await;
    }
    let rows = mesh.agreed("ann", &[0, 1, 2], &group, 23).await;
    let mut checker = Checker::default();
    checker.observe(&ann);
    checker.observe(&bob);
    checker.check(&group, &[rows]);
    drop((ann, bob));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_after_a_reconnect_is_not_doubled() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let bob = Peer::connect(&mesh, "bob", 1).await;
    bob.say(&group, "before the cut").await;
    mesh.cut(0, 1).await;
    let sent = send_many(&bob, &group, 20, "not acked yet").await;
    all_queued(&bob, &sent, "HOME_UNREACHABLE").await;
    drop(bob);
    let (here, there) = (Peer::connect(&mesh, "bob", 1).await, Peer::connect(&mesh, "bob", 2).await);
    for (number, message) in sent.iter().enumerate() {
        here.send_as(&group, &format!("not acked yet number {number}"), message).await;
        there.send_as(&group, &format!("not acked yet number {number}"), message).await;
    }
    let far = all_acked(&there, &sent).await;
    mesh.heal(0, 1).await;
    assert_eq!(all_acked(&here, &sent).await, far, "both retries get the same acks");
    let rows = mesh.agreed("ann", &[0, 1, 2], &group, 21).await;
    assert_eq!(rows.len(), 21);
    let mut checker = Checker::default();
    checker.observe(&here);
    checker.observe(&there);
    checker.check(&group, &[rows]);
    drop((here, there));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rest_write_to_a_home_out_of_reach_is_refused_at_once_and_harms_nothing() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let bob = Peer::connect(&mesh, "bob", 1).await;
    bob.say(&group, "before the cut").await;
    mesh.cut(0, 1).await;
    let path = format!("/api/v1/conversations/{group}/members/bob");
    let answer = mesh.rest("bob", 1, "DELETE", &path, None).await;
    assert_eq!((answer.status, &answer.body["error"]), (503, &json!("HOME_UNREACHABLE")), "{answer:?}");
    mesh.heal(0, 1).await;
    until("leaving works again", Duration::from_secs(15), || async {
        mesh.rest("bob", 1, "DELETE", &path, None).await.status == 204
    })
    .await;
    drop(bob);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_higher_level_waits_for_its_copies_and_its_ack_names_them() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let send = async |level: &str| {
        ann.send_payload(json!({ "messageId": new_id(), "conversationId": group, "durability": level,
            "content": { "type": "text", "text": format!("at the level {level}") } }))
            .await
    };
    for level in ["majority", "regions:2"] {
        let ack = ann.acked(&send(level).await).await;
        let regions = ack["durability"]["regions"].as_array().expect("regions").len();
        assert!(regions >= 2, "{ack}");
    }
    mesh.cut(0, 1).await;
    mesh.cut(0, 2).await;
    let mut waiting = Vec::new();
    for level in ["majority", "regions:2"] {
        waiting.push(send(level).await);
    }
    all_queued(&ann, &waiting, "COPIES_MISSING").await;
    assert!(ann.payloads("message.ack").len() == 2, "no ack below its level");
    mesh.heal(0, 2).await;
    all_acked(&ann, &waiting).await;
    mesh.heal(0, 1).await;
    let rows = mesh.agreed("bob", &[0, 1, 2], &group, 4).await;
    let mut checker = Checker::default();
    checker.observe(&ann);
    checker.check(&group, &[rows]);
    drop(ann);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_was_down_catches_up_by_itself() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    ann.say(&group, "before the stop").await;
    mesh.agreed("cem", &[0, 1, 2], &group, 1).await;
    mesh.stop_region(2).await;
    let sent = send_many(&ann, &group, 200, "while it is down").await;
    all_acked(&ann, &sent).await;
    mesh.start_region(2).await;
    let rows = mesh.agreed("cem", &[0, 1, 2], &group, 201).await;
    assert_eq!(rows.len(), 201);
    drop(ann);
    mesh.end().await;
}
