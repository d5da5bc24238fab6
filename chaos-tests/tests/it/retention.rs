//! Floors that go up with time, in three regions, through a cut link, a restart and a failover.

use std::time::Duration;

use chaos_tests::{Checker, Mesh, Peer, run, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::edits::holds;

/// What must come after a heal, a restart or a failover, on a busy machine.
const LATE: Duration = Duration::from_secs(60);
/// Until a sweep has rewritten the files, on a busy machine.
const SWEPT: Duration = Duration::from_secs(90);
const ALL: [usize; 3] = [0, 1, 2];

/// A group whose messages are kept for a day, which lasts as long as `--retention-day` says.
async fn group(mesh: &Mesh, user: &str, region: usize, others: &[&str]) -> String {
    let body = json!({ "name": "brief", "participantIds": others, "settings": { "retentionDays": 1 } });
    let made = mesh.rest(user, region, "POST", "/api/v1/groups", Some(body)).await;
    assert_eq!(made.status, 201, "{}", made.text);
    made.body["conversationId"].as_str().expect("an id").to_owned()
}

async fn floor(mesh: &Mesh, user: &str, region: usize, conversation: &str) -> u64 {
    let row = mesh.rest(user, region, "GET", &format!("/api/v1/conversations/{conversation}"), None).await;
    row.body["floorSequence"].as_u64().unwrap_or(0)
}

/// Waits until every one of these regions has a floor above a number; the floors.
async fn above(mesh: &Mesh, user: &str, regions: &[usize], conversation: &str, number: u64) {
    for region in regions {
        until(&format!("the floor is above {number} in region {region}"), LATE, || async {
            floor(mesh, user, *region, conversation).await > number
        })
        .await;
    }
}

async fn verified(mesh: &Mesh) {
    let data = mesh.data().to_string_lossy().into_owned();
    let walked = run(&["verify", "--json", "--data", &data]).await;
    assert_eq!(walked.code, 0, "{walked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_past_retention_is_below_the_floor_in_every_region_and_its_text_in_no_file_and_whoever_asks_is_told() {
    let mut mesh = Mesh::quick(&["--retention-day", "30s", "--content-sweep", "1s", "--anti-entropy", "1s"]).await;
    let group = group(&mesh, "ann", 0, &["bob", "cem"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let old = ["old words of ann", "old words, edited", "old words of bob"];
    let first = ann.send(&group, old[0]).await;
    ann.acked(&first).await;
    bob.expect("message.new", |frame| frame["payload"]["messageId"] == first.as_str()).await;
    let token = bob.resume_token();
    bob.leave().await;
    let edit = ann.edit(&group, &first, old[1]).await;
    ann.acked(&edit).await;
    let back = Peer::connect(&mesh, "bob", 1).await;
    back.say(&group, old[2]).await;
    for region in ALL {
        until("the texts are in the files", LATE, || async {
            old.iter().all(|text| holds(&mesh.regions[region].data, text))
        })
        .await;
    }
    above(&mesh, "ann", &ALL, &group, 3).await;
    let new = ann.say(&group, "new words of ann").await["sequenceNumber"].as_u64().expect("a number");
    for region in ALL {
        let path = format!("/api/v1/conversations/{group}/messages?after=0");
        until("the new words are here", LATE, || async {
            mesh.rest("cem", region, "GET", &path, None).await.text.contains("new words of ann")
        })
        .await;
        let page = mesh.rest("cem", region, "GET", &path, None).await;
        let floor = page.body["floorSequence"].as_u64().expect("a floor");
        let rows = page.body["messages"].as_array().expect("rows");
        assert!(floor > 3 && rows[0]["sequenceNumber"].as_u64() == Some(floor), "{}", page.text);
        assert!(!page.text.contains("old words"), "{}", page.text);
        let sync = json!({ "conversations": [{ "conversationId": group, "lastSequence": 0 }] });
        let synced = mesh.rest("cem", region, "POST", "/api/v1/sync", Some(sync)).await;
        assert!(!synced.text.contains("old words") && synced.text.contains("new words"), "{}", synced.text);
        let path = format!("/api/v1/conversations/{group}/messages/1/edits");
        assert_eq!(mesh.rest("ann", region, "GET", &path, None).await.status, 404, "it is no more");
    }
    let unread = mesh.rest("cem", 2, "GET", &format!("/api/v1/conversations/{group}"), None).await;
    assert_eq!(unread.body["unreadCount"], 1, "what is gone cannot be read: {}", unread.text);
    let late = ann.edit(&group, &first, "too late").await;
    let refused = ann.expect("error", |frame| frame["id"] == late.as_str()).await;
    assert_eq!(refused.value["payload"]["error"], "NOT_FOUND");
    // A client that was away for longer than that is told what it will never have.
    let resumed = Peer::resume(&mesh, &bob, 2, &token, json!([{ "conversationId": group, "lastSequence": 1 }])).await;
    let gap = resumed.expect_within("sync.gap", LATE, |_| true).await.value["payload"].clone();
    assert_eq!((&gap["fromSequence"], gap["toSequence"].as_u64() >= Some(3)), (&json!(2), true), "{gap}");
    resumed.expect_within("message.new", LATE, |frame| frame["payload"]["sequenceNumber"] == new).await;
    for region in ALL {
        let folder = &mesh.regions[region].data;
        until("the texts are in no file", SWEPT, || async { old.iter().all(|text| !holds(folder, text)) }).await;
    }
    drop((ann, bob, back, resumed));
    mesh.kill().await;
    mesh.restart().await;
    above(&mesh, "cem", &ALL, &group, 3).await;
    verified(&mesh).await;
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floors_stand_after_a_failover_go_on_under_the_new_home_and_a_region_that_was_away_has_them_once_it_is_back() {
    let arguments = ["--processes", "--failover-after", "3s", "--retention-day", "12s", "--content-sweep", "1s"];
    let mesh = Mesh::quick(&arguments).await;
    let group = group(&mesh, "dan", 1, &["ann", "bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 2).await);
    ann.say(&group, "old words under the first home").await;
    above(&mesh, "ann", &ALL, &group, 1).await;
    let before = floor(&mesh, "ann", 0, &group).await;
    let second = ann.say(&group, "words that the first home saw last").await;
    bob.expect_within("message.new", LATE, |frame| frame["payload"]["sequenceNumber"] == second["sequenceNumber"])
        .await;
    let pid = mesh.regions[1].pid.expect("a process");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a signal");
    let message = bob.send(&group, "words under the second home").await;
    let ack = bob.acked_within(&message, LATE).await;
    assert!(ack["epoch"].as_u64().is_some_and(|epoch| epoch > 1), "{ack}");
    assert!(floor(&mesh, "ann", 0, &group).await >= before, "it never goes back");
    let number = ack["sequenceNumber"].as_u64().expect("a number");
    above(&mesh, "ann", &[0, 2], &group, number).await;
    mesh.start_region(1).await;
    above(&mesh, "ann", &ALL, &group, number).await;
    for region in ALL {
        let folder = &mesh.regions[region].data;
        let old =
            ["old words under the first home", "words that the first home saw last", "words under the second home"];
        until("the texts are in no file", SWEPT, || async { old.iter().all(|text| !holds(folder, text)) }).await;
    }
    let last = ann.say(&group, "words that are new").await;
    let agree = async || {
        let mut rows: Vec<Vec<Value>> = Vec::new();
        for region in ALL {
            rows.push(mesh.try_history("ann", region, &group).await.unwrap_or_default());
        }
        let has_last = rows[0].iter().any(|row| row["sequenceNumber"] == last["sequenceNumber"]);
        has_last && rows.iter().all(|of| *of == rows[0])
    };
    until("all regions show the same", LATE, agree).await;
    verified(&mesh).await;
    let mut checker = Checker::default();
    [&ann, &bob].into_iter().for_each(|peer| checker.observe(peer));
    checker.check(&group, &[mesh.try_history("ann", 0, &group).await.unwrap_or_default()]);
    drop((ann, bob));
    mesh.end().await;
}
