//! Messages whose content is over at a time, in three regions, through a cut link, a restart and a failover.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chaos_tests::{Checker, Mesh, Peer, new_id, run, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::edits::holds;

/// What must come after a heal, a restart or a failover, on a busy machine.
const LATE: Duration = Duration::from_secs(30);
const ALL: [usize; 3] = [0, 1, 2];

/// Milliseconds since the epoch, so many from now.
fn in_milliseconds(milliseconds: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock behind 1970");
    u64::try_from(now.as_millis()).expect("fits") + milliseconds
}

fn payload(conversation: &str, text: &str, at: u64) -> Value {
    json!({
        "messageId": new_id(), "conversationId": conversation, "expiresAt": at,
        "content": { "type": "text", "text": text },
    })
}

/// What a message's row says: its text, whether it expired, and its reactions.
fn said(row: &Value) -> Value {
    json!([row["content"]["text"], row["expired"], row["reactions"]])
}

async fn row_of(mesh: &Mesh, user: &str, region: usize, conversation: &str, message: &str) -> Option<Value> {
    let rows = mesh.try_history(user, region, conversation).await.ok()?;
    rows.into_iter().find(|row| row["messageId"] == message)
}

/// Waits until a message's row says this in each region.
async fn says(mesh: &Mesh, regions: &[usize], conversation: &str, message: &str, wanted: &Value) {
    for region in regions {
        until(&format!("region {region} says {wanted}"), LATE, || async {
            row_of(mesh, "bob", *region, conversation, message).await.is_some_and(|row| said(&row) == *wanted)
        })
        .await;
    }
}

fn gone() -> Value {
    json!([null, true, null])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_goes_at_its_time_in_every_region_and_from_every_file_and_its_row_stays() {
    let mut mesh = Mesh::quick(&["--content-sweep", "2s", "--anti-entropy", "1s"]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let texts = ["brief words of ann", "brief words of ann, edited", "words of ann that stay"];
    let over = in_milliseconds(20_000);
    let message = ann.send_payload(payload(&group, texts[0], over)).await;
    ann.acked(&message).await;
    let live = bob.expect("message.new", |frame| frame["payload"]["messageId"] == message.as_str()).await;
    assert_eq!(live.value["payload"]["expiresAt"], over);
    ann.say(&group, texts[2]).await;
    let edit = ann.edit(&group, &message, texts[1]).await;
    ann.acked(&edit).await;
    let reaction = bob.react(&group, &message, "+").await;
    bob.acked(&reaction).await;
    let shown = json!([texts[1], null, [{ "emoji": "+", "count": 1, "byMe": true }]]);
    says(&mesh, &ALL, &group, &message, &shown).await;
    for region in ALL {
        until("the texts are in the files", LATE, || async {
            texts.iter().all(|text| holds(&mesh.regions[region].data, text))
        })
        .await;
    }
    says(&mesh, &ALL, &group, &message, &gone()).await;
    assert!(in_milliseconds(0) >= over, "not before its time");
    let late = ann.edit(&group, &message, "too late").await;
    let refused = ann.expect("error", |frame| frame["id"] == late.as_str()).await;
    assert_eq!(refused.value["payload"]["error"], "NOT_FOUND");
    let again = ann.send_payload(payload(&group, "late words", over)).await;
    let refused = ann.expect("error", |frame| frame["id"] == again.as_str()).await;
    assert_eq!(refused.value["payload"]["error"], "EXPIRED");
    for region in ALL {
        let folder = &mesh.regions[region].data;
        until("the texts are in no file", Duration::from_secs(90), || async {
            texts[..2].iter().all(|text| !holds(folder, text))
        })
        .await;
        assert!(holds(folder, texts[2]), "what has no time stays");
    }
    let path = format!("/api/v1/conversations/{group}/messages/1/edits");
    let edits = mesh.rest("ann", 1, "GET", &path, None).await;
    assert!(edits.body["expired"] == true && !edits.text.contains("brief words"), "{}", edits.text);
    let sync = json!({ "conversations": [{ "conversationId": group, "lastSequence": 0 }] });
    let synced = mesh.rest("cem", 2, "POST", "/api/v1/sync", Some(sync)).await;
    assert!(!synced.text.contains("brief words"), "{}", synced.text);
    let rows = mesh.agreed("ann", &ALL, &group, 4).await;
    let mut checker = Checker::default();
    [&ann, &bob].into_iter().for_each(|peer| checker.observe(peer));
    checker.check(&group, &[rows]);
    drop((ann, bob));
    mesh.kill().await;
    mesh.restart().await;
    says(&mesh, &ALL, &group, &message, &gone()).await;
    let data = mesh.data().to_string_lossy().into_owned();
    let walked = run(&["verify", "--json", "--data", &data]).await;
    assert_eq!(walked.code, 0, "{walked:?}");
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_that_expires_behind_a_cut_link_is_refused_and_its_text_leaves_the_files_before_the_heal() {
    let mesh = Mesh::quick(&["--content-sweep", "2s", "--anti-entropy", "1s"]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let bob = Peer::connect(&mesh, "bob", 1).await;
    let first = bob.send_payload(payload(&group, "brief words in time", in_milliseconds(6_000))).await;
    bob.acked(&first).await;
    mesh.cut(0, 1).await;
    bob.expect_within("region.status", LATE, |frame| frame["payload"]["reachable"] == json!(false)).await;
    let text = "brief words behind the cut";
    let message = bob.send_payload(payload(&group, text, in_milliseconds(15_000))).await;
    bob.expect_within("message.queued", LATE, |frame| frame["payload"]["messageId"] == message.as_str()).await;
    let folder = &mesh.regions[1].data;
    assert!(holds(folder, text));
    until("the text is in no file", Duration::from_secs(120), || async { !holds(folder, text) }).await;
    let kept = bob.send(&group, "words that stay").await;
    mesh.heal(0, 1).await;
    let refused = bob.expect_within("message.refused", LATE, |frame| frame["payload"]["messageId"] == message.as_str());
    assert_eq!(refused.await.value["payload"]["error"], "EXPIRED");
    bob.acked_within(&kept, LATE).await;
    says(&mesh, &ALL, &group, &first, &gone()).await;
    let rows = mesh.agreed("ann", &ALL, &group, 2).await;
    let mut checker = Checker::default();
    checker.observe(&bob);
    checker.check(&group, &[rows]);
    drop(bob);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_while_its_home_is_replaced_is_gone_in_every_region_and_does_not_come_back() {
    let arguments = ["--processes", "--failover-after", "3s", "--anti-entropy", "1s", "--content-sweep", "2s"];
    let mesh = Mesh::quick(&arguments).await;
    let group = mesh.group("dan", 1, &["ann", "bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 2).await);
    let text = "brief words of the first home";
    let message = ann.send_payload(payload(&group, text, in_milliseconds(6_000))).await;
    ann.acked(&message).await;
    bob.expect("message.new", |frame| frame["payload"]["messageId"] == message.as_str()).await;
    kill(Pid::from_raw(mesh.regions[1].pid.expect("a process")), Signal::SIGKILL).expect("a signal");
    says(&mesh, &[0, 2], &group, &message, &gone()).await;
    let kept = ann.send(&group, "words under the second home").await;
    let ack = ann.acked_within(&kept, Duration::from_secs(60)).await;
    assert!(ack["epoch"].as_u64().is_some_and(|epoch| epoch > 1), "{ack}");
    mesh.start_region(1).await;
    says(&mesh, &ALL, &group, &message, &gone()).await;
    for region in ALL {
        let folder = &mesh.regions[region].data;
        until("the text is in no file", Duration::from_secs(90), || async { !holds(folder, text) }).await;
    }
    let rows = mesh.agreed("ann", &ALL, &group, 2).await;
    let mut checker = Checker::default();
    [&ann, &bob].into_iter().for_each(|peer| checker.observe(peer));
    checker.check(&group, &[rows]);
    drop((ann, bob));
    mesh.end().await;
}
