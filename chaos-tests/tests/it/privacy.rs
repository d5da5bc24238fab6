//! What users withhold from each other: blocks and when they were there last, in three regions.

use std::time::Duration;

use chaos_tests::{Checker, Mesh, Peer, new_id, until};
use serde_json::{Value, json};

/// What must come after a heal, a restart or a failover, on a busy machine.
const LATE: Duration = Duration::from_secs(30);
const ALL: [usize; 3] = [0, 1, 2];

async fn direct(mesh: &Mesh, user: &str, region: usize, other: &str) -> String {
    let body = json!({ "participantIds": [other], "type": "direct" });
    let made = mesh.rest(user, region, "POST", "/api/v1/conversations", Some(body)).await;
    made.body["conversationId"].as_str().unwrap_or_else(|| panic!("{}", made.text)).to_owned()
}

async fn block(mesh: &Mesh, user: &str, region: usize, method: &str, other: &str) -> u16 {
    let answer = mesh.rest(user, region, method, &format!("/api/v1/users/me/blocks/{other}"), None).await;
    println!("{method} {user} {other}: {} {}", answer.status, answer.text);
    answer.status
}

/// What is said of a user to a session that asks now.
async fn seen(peer: &Peer, user: &str) -> Value {
    let id = new_id();
    peer.frame(json!({ "type": "presence.subscribe", "id": id, "payload": { "userIds": [user] } })).await;
    let bulk = peer.expect_within("presence.bulk", LATE, |frame| frame["id"] == id.as_str()).await;
    bulk.value["payload"]["presences"][0].clone()
}

/// What the rows of a conversation say: who, what, and whether it is blocked.
async fn said(mesh: &Mesh, user: &str, region: usize, conversation: &str) -> Vec<Value> {
    let rows = mesh.try_history(user, region, conversation).await.unwrap_or_default();
    rows.iter().map(|row| json!([row["senderId"], row["content"]["text"], row["blocked"]])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_blocked_sender_says_is_acked_and_never_delivered_or_receipted_and_its_row_has_no_content() {
    let mesh = Mesh::quick(&["--anti-entropy", "1s"]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let both = direct(&mesh, "bob", 1, "ann").await;
    bob.say(&both, "before the block").await;
    ann.expect_within("message.new", LATE, |frame| frame["payload"]["content"]["text"] == "before the block").await;
    ann.receipt(&both, 1, None, false).await;
    bob.expect_within("message.delivered", LATE, |frame| frame["payload"]["conversationId"] == both.as_str()).await;
    until("bob sees ann", LATE, || async { seen(&bob, "ann").await["status"] == "online" }).await;

    assert_eq!(block(&mesh, "ann", 2, "PUT", "bob").await, 204);
    assert_eq!(block(&mesh, "ann", 0, "PUT", "bob").await, 204, "twice is once");
    assert_eq!(block(&mesh, "ann", 0, "PUT", "ann").await, 400);
    let gone = bob.expect_within("presence.update", LATE, |frame| frame["payload"]["status"] == "offline").await;
    assert!(gone.value["payload"].get("lastSeen").is_none(), "{}", gone.value);
    let looks = seen(&bob, "ann").await;
    let nobody = seen(&bob, "nobody").await;
    assert_eq!(
        (&looks["status"], &looks["regions"], &looks["certainty"]),
        (&json!("offline"), &json!([]), &nobody["certainty"])
    );
    assert_eq!(seen(&ann, "bob").await["status"], "online", "the other way round nothing changes");

    let (count, heard) = (ann.payloads("message.new").len(), bob.payloads("message.delivered").len());
    let blocked = bob.send(&both, "behind the block").await;
    let number = bob.acked(&blocked).await["sequenceNumber"].as_u64().expect("a number");
    // In a group the two hear each other.
    bob.say(&group, "to the group").await;
    ann.expect_within("message.new", LATE, |frame| frame["payload"]["content"]["text"] == "to the group").await;
    assert_eq!(ann.payloads("message.new").len(), count + 1, "what is blocked is not delivered");
    ann.receipt(&both, number, None, true).await;
    ann.settled().await;
    let wanted = [json!(["bob", "before the block", null]), json!(["bob", null, true])];
    for region in ALL {
        until(&format!("ann's history in region {region} hides it"), LATE, || async {
            said(&mesh, "ann", region, &both).await == wanted
        })
        .await;
        let own = [json!(["bob", "before the block", null]), json!(["bob", "behind the block", null])];
        until("bob's own shows it", LATE, || async { said(&mesh, "bob", region, &both).await == own }).await;
    }
    let path = format!("/api/v1/conversations/{both}");
    until("ann has read what she was shown, and nothing else is unread", LATE, || async {
        mesh.rest("ann", 0, "GET", &path, None).await.body["unreadCount"] == 0
    })
    .await;
    let row = mesh.rest("ann", 0, "GET", &path, None).await;
    assert_eq!(row.body["lastMessage"]["blocked"], true, "{}", row.text);
    assert!(!row.text.contains("behind the block"), "{}", row.text);
    let edits =
        mesh.rest("ann", 0, "GET", &format!("/api/v1/conversations/{both}/messages/{number}/edits"), None).await;
    assert!(!edits.text.contains("behind the block"), "{}", edits.text);
    // What ann says herself follows a hole, of which a second device of hers is told.
    let second = Peer::connect(&mesh, "ann", 2).await;
    second.settled().await;
    ann.say(&both, "from ann").await;
    bob.expect_within("message.new", LATE, |frame| frame["payload"]["content"]["text"] == "from ann").await;
    assert_eq!(bob.payloads("message.delivered").len(), heard, "no receipt of who blocks");
    assert!(bob.payloads("message.read_receipt").iter().all(|read| read["readBy"] != "ann"));

    drop((ann, bob, second));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_survives_kill_9_of_all_regions_and_when_it_ends_everything_is_shown_again() {
    let mut mesh = Mesh::quick(&["--anti-entropy", "1s"]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let both = direct(&mesh, "bob", 1, "ann").await;
    assert_eq!(block(&mesh, "ann", 0, "PUT", "bob").await, 204);
    mesh.kill().await;
    mesh.restart().await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 1).await, Peer::connect(&mesh, "bob", 2).await);
    bob.say(&both, "after the restart").await;
    bob.say(&group, "to the group").await;
    ann.expect_within("message.new", LATE, |frame| frame["payload"]["content"]["text"] == "to the group").await;
    assert!(ann.payloads("message.new").iter().all(|row| row["content"]["text"] != "after the restart"));
    assert_eq!(seen(&bob, "ann").await["status"], "offline");
    assert_eq!(block(&mesh, "ann", 1, "DELETE", "bob").await, 204);
    until("bob sees ann again", LATE, || async { seen(&bob, "ann").await["status"] == "online" }).await;
    bob.say(&both, "after the block").await;
    until("ann's client hears of it", LATE, || async {
        let live = ann.payloads("message.new").iter().any(|row| row["content"]["text"] == "after the block");
        live || ann.payloads("sync.required").iter().any(|told| told["conversationId"] == both.as_str())
    })
    .await;
    let shown = [json!(["bob", "after the restart", null]), json!(["bob", "after the block", null])];
    for region in ALL {
        until("ann is shown everything", LATE, || async { said(&mesh, "ann", region, &both).await == shown }).await;
    }
    let rows = mesh.agreed("bob", &ALL, &both, 2).await;
    let mut checker = Checker::default();
    [&ann, &bob].into_iter().for_each(|peer| checker.observe(peer));
    checker.check(&both, &[rows]);
    drop((ann, bob));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_show_when_it_was_there_last_is_told_of_without_that_in_every_region() {
    let mesh = Mesh::quick(&[]).await;
    mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, cem) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "cem", 1).await);
    let bob = Peer::connect(&mesh, "bob", 1).await;
    let shown = mesh.rest("bob", 1, "GET", "/api/v1/users/me", None).await;
    assert_eq!(shown.body["showLastSeen"], true, "{}", shown.text);
    let patch = |shows: bool| mesh.rest("bob", 2, "PATCH", "/api/v1/users/me", Some(json!({ "showLastSeen": shows })));
    let hidden = patch(false).await;
    assert_eq!((hidden.status, &hidden.body["showLastSeen"]), (200, &json!(false)), "{}", hidden.text);
    let other = mesh.rest("ann", 0, "GET", "/api/v1/users/bob", None).await;
    assert!(other.body.get("showLastSeen").is_none(), "that is bob's own: {}", other.text);
    let wrong = mesh.rest("bob", 1, "PATCH", "/api/v1/users/me", Some(json!({ "showLastSeen": "no" }))).await;
    assert_eq!(wrong.status, 400, "{}", wrong.text);
    bob.frame(json!({ "type": "presence.set", "payload": { "status": "away" } })).await;
    bob.settled().await;
    for peer in [&ann, &cem] {
        until("bob is away, and nobody is told since when", LATE, || async {
            let row = seen(peer, "bob").await;
            row["status"] == "away" && row.get("lastSeen").is_none()
        })
        .await;
    }
    bob.leave().await;
    for peer in [&ann, &cem] {
        until("bob is gone, and nobody is told since when", LATE, || async {
            let row = seen(peer, "bob").await;
            row["status"] == "offline" && row.get("lastSeen").is_none()
        })
        .await;
    }
    assert_eq!(patch(true).await.body["showLastSeen"], true);
    for peer in [&ann, &cem] {
        until("it is shown again", LATE, || async { seen(peer, "bob").await["lastSeen"].is_u64() }).await;
    }
    drop((ann, cem));
    mesh.end().await;
}
