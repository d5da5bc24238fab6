//! Edits, deletes and reactions in three regions, through a cut link, a restart and a failover.

use std::path::Path;
use std::time::Duration;

use chaos_tests::{Checker, Mesh, Peer, run, until};
use hearth_client::TransportKind;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// What must come after a heal, a restart or a failover, on a busy machine.
const LATE: Duration = Duration::from_secs(30);
const ALL: [usize; 3] = [0, 1, 2];

/// What a message's row says: its text, whether it was edited and deleted, and its reactions.
fn said(row: &Value) -> Value {
    json!([row["content"]["text"], row["editedAt"].is_u64(), row["deleted"], row["reactions"]])
}

/// The row of a message in the history of a region.
async fn row_of(mesh: &Mesh, user: &str, region: usize, conversation: &str, message: &str) -> Option<Value> {
    let rows = mesh.try_history(user, region, conversation).await.ok()?;
    rows.into_iter().find(|row| row["messageId"] == message)
}

/// Waits until a message's row says this in each region.
async fn says(mesh: &Mesh, user: &str, regions: &[usize], conversation: &str, message: &str, wanted: &Value) {
    for region in regions {
        until(&format!("{user} sees {wanted} in region {region}"), LATE, || async {
            row_of(mesh, user, *region, conversation, message).await.is_some_and(|row| said(&row) == *wanted)
        })
        .await;
    }
}

fn by(emoji: &str, count: u64, by_me: bool) -> Value {
    json!([{ "emoji": emoji, "count": count, "byMe": by_me }])
}

/// Waits for the row of a change; its payload.
async fn shown(peer: &Peer, change: &str) -> Value {
    peer.expect_within("message.new", LATE, |frame| frame["payload"]["messageId"] == change).await.value["payload"]
        .clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_sync_and_live_rows_show_what_was_done_to_a_message_in_every_region_over_both_transports() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let bob = Peer::connect_over(&mesh, "bob", 1, TransportKind::WebTransport).await;
    let cem = Peer::connect(&mesh, "cem", 2).await;
    let (first, second) = (ann.send(&group, "the first words").await, ann.send(&group, "words to be taken back").await);
    ann.acked(&second).await;
    let edit = ann.edit(&group, &first, "better words").await;
    ann.acked(&edit).await;
    for peer in [&bob, &cem] {
        let row = shown(peer, &edit).await;
        let target = (row["kind"].as_str(), row["targetMessageId"].as_str(), row["content"]["text"].as_str());
        assert_eq!(target, (Some("edit"), Some(first.as_str()), Some("better words")));
    }
    let reaction = bob.react(&group, &first, "👍").await;
    bob.acked(&reaction).await;
    let row = shown(&ann, &reaction).await;
    assert_eq!(row["change"], json!({ "action": "add", "by": "bob", "emoji": "👍" }));
    let again = cem.react(&group, &first, "👍").await;
    cem.acked(&again).await;
    let delete = ann.delete(&group, &second).await;
    ann.acked(&delete).await;
    assert_eq!(shown(&bob, &delete).await["targetMessageId"], second.as_str());
    says(&mesh, "bob", &ALL, &group, &first, &json!(["better words", true, null, by("👍", 2, true)])).await;
    says(&mesh, "ann", &ALL, &group, &first, &json!(["better words", true, null, by("👍", 2, false)])).await;
    says(&mesh, "cem", &ALL, &group, &second, &json!([null, false, true, null])).await;
    let taken = bob.change("reaction.remove", &group, &first, json!({ "emoji": "👍" })).await;
    bob.acked(&taken).await;
    says(&mesh, "bob", &ALL, &group, &first, &json!(["better words", true, null, by("👍", 1, false)])).await;
    let last = mesh.rest("bob", 1, "GET", &format!("/api/v1/conversations/{group}"), None).await.body;
    assert_eq!((&last["lastMessage"]["deleted"], &last["lastMessage"]["content"]), (&json!(true), &Value::Null));
    assert_eq!(last["unreadCount"], 2, "what changes a message is no message");
    let sync = json!({ "conversations": [{ "conversationId": group, "lastSequence": 0 }] });
    let synced = mesh.rest("cem", 2, "POST", "/api/v1/sync", Some(sync)).await;
    let kinds = |row: &Value| row["kind"].as_str().unwrap_or_default().to_owned();
    let rows = synced.body["conversations"][0]["messages"].as_array().expect("rows").clone();
    let sequence: Vec<String> = rows.iter().map(kinds).collect();
    assert_eq!(sequence, ["message", "message", "edit", "reaction", "reaction", "delete", "reaction"]);
    assert!(!synced.text.contains("taken back") && !synced.text.contains("first words"), "{}", synced.text);
    let rows = mesh.agreed("ann", &ALL, &group, 7).await;
    let mut checker = Checker::default();
    [&ann, &bob, &cem].into_iter().for_each(|peer| checker.observe(peer));
    checker.check(&group, &[rows]);
    drop((ann, bob, cem));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_may_not_change_is_refused_with_the_request_and_the_edit_history_is_for_author_and_admins() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let eve = Peer::connect(&mesh, "eve", 2).await;
    let message = bob.send(&group, "the words of bob").await;
    bob.acked(&message).await;
    shown(&ann, &message).await;
    let refused = async |peer: &Peer, change: String, error: &str| {
        let answer = peer.expect("error", |frame| frame["id"] == change.as_str()).await;
        assert_eq!(answer.value["payload"]["error"], error);
    };
    refused(&ann, ann.edit(&group, &message, "not hers").await, "FORBIDDEN").await;
    refused(&eve, eve.react(&group, &message, "👀").await, "CONVERSATION_NOT_FOUND").await;
    refused(&bob, bob.edit(&group, &chaos_tests::new_id(), "of nothing").await, "NOT_FOUND").await;
    refused(&bob, bob.change("message.edit", &group, &message, json!({})).await, "INVALID_MESSAGE").await;
    refused(&bob, bob.react(&group, &message, "two words").await, "INVALID_MESSAGE").await;
    for text in ["the second words of bob", "the third words of bob"] {
        let edit = bob.edit(&group, &message, text).await;
        bob.acked(&edit).await;
    }
    let path = format!("/api/v1/conversations/{group}/messages/1/edits");
    let edits = async |user: &str, region: usize| mesh.rest(user, region, "GET", &path, None).await;
    for (user, region) in [("bob", 1), ("ann", 2), ("bob", 0)] {
        until("all versions are there", LATE, || async {
            let texts: Vec<Value> = edits(user, region).await.body["versions"]
                .as_array()
                .map(|versions| versions.iter().map(|version| version["content"]["text"].clone()).collect())
                .unwrap_or_default();
            texts == ["the words of bob", "the second words of bob", "the third words of bob"]
        })
        .await;
    }
    assert_eq!(edits("cem", 0).await.status, 403);
    assert_eq!(edits("eve", 0).await.body["error"], "CONVERSATION_NOT_FOUND");
    let nothing = mesh.rest("bob", 0, "GET", &path.replace("/1/", "/2/"), None).await;
    assert_eq!(nothing.status, 404, "an edit is no message");
    let deleted = ann.delete(&group, &message).await;
    ann.acked(&deleted).await;
    refused(&bob, bob.edit(&group, &message, "too late").await, "NOT_FOUND").await;
    let after = edits("bob", 0).await;
    assert!(after.body["deleted"] == true && !after.text.contains("words of bob"), "{}", after.text);
    drop((ann, bob, eve));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_said_behind_a_cut_link_are_queued_and_pass_it_in_order_after_the_heal_and_survive_kill_9() {
    let mut mesh = Mesh::quick(&["--anti-entropy", "1s"]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let (kept, gone) = (bob.send(&group, "words before the cut").await, bob.send(&group, "words that go").await);
    bob.acked(&gone).await;
    shown(&ann, &gone).await;
    mesh.cut(0, 1).await;
    bob.expect_within("region.status", LATE, |frame| frame["payload"]["reachable"] == json!(false)).await;
    let changes = [
        bob.edit(&group, &kept, "words behind the cut").await,
        bob.send(&group, "a message between them").await,
        bob.delete(&group, &gone).await,
        bob.edit(&group, &kept, "the last words behind the cut").await,
        bob.react(&group, &kept, "🎉").await,
    ];
    for change in &changes {
        bob.expect_within("message.queued", LATE, |frame| frame["payload"]["messageId"] == change.as_str()).await;
    }
    let meanwhile = ann.react(&group, &kept, "🎉").await;
    ann.acked(&meanwhile).await;
    mesh.heal(0, 1).await;
    let mut numbers = Vec::new();
    for change in &changes {
        numbers.push(bob.acked_within(change, LATE).await["sequenceNumber"].as_u64().expect("a number"));
    }
    assert!(numbers.is_sorted(), "in the order of the device: {numbers:?}");
    let wanted = json!(["the last words behind the cut", true, null, by("🎉", 2, true)]);
    says(&mesh, "bob", &ALL, &group, &kept, &wanted).await;
    says(&mesh, "cem", &ALL, &group, &gone, &json!([null, false, true, null])).await;
    let rows = mesh.agreed("ann", &ALL, &group, 8).await;
    let mut checker = Checker::default();
    [&ann, &bob].into_iter().for_each(|peer| checker.observe(peer));
    checker.check(&group, &[rows]);
    drop((ann, bob));
    mesh.kill().await;
    mesh.restart().await;
    says(&mesh, "bob", &ALL, &group, &kept, &wanted).await;
    says(&mesh, "cem", &ALL, &group, &gone, &json!([null, false, true, null])).await;
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_to_messages_stands_after_a_failover_and_a_returning_region_does_not_undo_it() {
    let mesh = Mesh::quick(&["--processes", "--failover-after", "3s", "--anti-entropy", "1s"]).await;
    let group = mesh.group("dan", 1, &["ann", "bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 2).await);
    let (kept, gone) = (ann.send(&group, "words of the first home").await, ann.send(&group, "words that go").await);
    ann.acked(&gone).await;
    let edit = ann.edit(&group, &kept, "edited under the first home").await;
    ann.acked(&edit).await;
    shown(&bob, &edit).await;
    let pid = mesh.regions[1].pid.expect("a process");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a signal");
    let second = ann.edit(&group, &kept, "edited under the second home").await;
    let delete = ann.delete(&group, &gone).await;
    let reaction = bob.react(&group, &kept, "🎉").await;
    for (peer, change) in [(&ann, &second), (&ann, &delete), (&bob, &reaction)] {
        let ack = peer.acked_within(change, Duration::from_secs(60)).await;
        assert!(ack["epoch"].as_u64().is_some_and(|epoch| epoch > 1), "{ack}");
    }
    let wanted = json!(["edited under the second home", true, null, by("🎉", 1, true)]);
    says(&mesh, "bob", &[0, 2], &group, &kept, &wanted).await;
    says(&mesh, "bob", &[0, 2], &group, &gone, &json!([null, false, true, null])).await;
    mesh.start_region(1).await;
    says(&mesh, "bob", &ALL, &group, &kept, &wanted).await;
    says(&mesh, "bob", &ALL, &group, &gone, &json!([null, false, true, null])).await;
    let rows = mesh.agreed("ann", &ALL, &group, 6).await;
    let mut checker = Checker::default();
    [&ann, &bob].into_iter().for_each(|peer| checker.observe(peer));
    checker.check(&group, &[rows]);
    drop((ann, bob));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_resumes_behind_a_delete_is_never_given_the_text_and_an_older_version_of_an_edit_neither() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let before = ann.say(&group, "what bob has seen").await;
    bob.expect("message.new", |frame| frame["payload"]["sequenceNumber"] == before["sequenceNumber"]).await;
    let token = bob.resume_token();
    bob.leave().await;
    let (kept, gone) = (ann.send(&group, "secret original").await, ann.send(&group, "secret of the deleted").await);
    let edits = [
        ann.edit(&group, &gone, "secret edit of the deleted").await,
        ann.edit(&group, &kept, "secret middle").await,
        ann.edit(&group, &kept, "what is shown at last").await,
        ann.delete(&group, &gone).await,
    ];
    for edit in &edits {
        ann.acked(edit).await;
    }
    let cursors = json!([{ "conversationId": group, "lastSequence": before["sequenceNumber"] }]);
    let last = edits[3].as_str();
    until("region 2 has all", LATE, || async { row_of(&mesh, "bob", 2, &group, last).await.is_some() }).await;
    let back = Peer::resume(&mesh, &bob, 2, &token, cursors).await;
    back.expect_within("sync.complete", LATE, |_| true).await;
    let told: Vec<Value> = back.payloads("message.new");
    assert_eq!(told.len(), 6, "{told:?}");
    assert!(told.iter().all(|row| !row.to_string().contains("secret")), "{told:?}");
    let texts: Vec<&str> = told.iter().filter_map(|row| row["content"]["text"].as_str()).collect();
    assert_eq!(texts, ["what is shown at last"; 2], "the message and the edit that it shows");
    drop((ann, bob, back));
    mesh.end().await;
}

/// Whether a file below a folder holds a text. A file that goes meanwhile holds none.
pub(crate) fn holds(folder: &Path, text: &str) -> bool {
    let Ok(files) = std::fs::read_dir(folder) else { return false };
    files.flatten().any(|file| {
        let path = file.path();
        if path.is_dir() {
            return holds(&path, text);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_text_of_a_deleted_message_leaves_the_files_of_every_region_and_the_chain_still_verifies() {
    let mesh = Mesh::quick(&["--content-sweep", "3s", "--anti-entropy", "1s"]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let (kept, gone) = ("these words of ann are kept", "these words of bob are to go");
    ann.say(&group, kept).await;
    // Parked on its way: the edge has it in a place of its own.
    mesh.cut(0, 1).await;
    bob.expect_within("region.status", LATE, |frame| frame["payload"]["reachable"] == json!(false)).await;
    let message = bob.send(&group, gone).await;
    bob.expect_within("message.queued", LATE, |frame| frame["payload"]["messageId"] == message.as_str()).await;
    mesh.heal(0, 1).await;
    bob.acked_within(&message, LATE).await;
    let edited = "and these, which came in their stead";
    let edit = bob.edit(&group, &message, edited).await;
    bob.acked(&edit).await;
    mesh.agreed("ann", &ALL, &group, 3).await;
    for region in ALL {
        let folder = &mesh.regions[region].data;
        until("the texts are in the files", LATE, || async {
            [kept, gone, edited].iter().all(|text| holds(folder, text))
        })
        .await;
    }
    let delete = ann.delete(&group, &message).await;
    ann.acked(&delete).await;
    for region in ALL {
        let folder = &mesh.regions[region].data;
        until("the texts are in no file", Duration::from_secs(90), || async {
            [gone, edited].iter().all(|text| !holds(folder, text))
        })
        .await;
        assert!(holds(folder, kept), "what was not deleted stays");
    }
    says(&mesh, "cem", &ALL, &group, &message, &json!([null, false, true, null])).await;
    let data = mesh.data().to_string_lossy().into_owned();
    let walked = run(&["verify", "--json", "--data", &data]).await;
    assert_eq!(walked.code, 0, "{walked:?}");
    drop((ann, bob));
    mesh.end().await;
}
