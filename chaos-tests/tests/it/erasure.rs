//! A user is erased in three regions, through a cut link, a restart and a failover.

use std::time::Duration;

use chaos_tests::{Checker, Exit, Mesh, Peer, run, until};
use serde_json::{Value, json};

use crate::edits::holds;

/// What must come after a heal, a restart or a failover, on a busy machine.
const LATE: Duration = Duration::from_secs(60);
/// Until a sweep has rewritten the files, on a busy machine.
const SWEPT: Duration = Duration::from_secs(90);
const ALL: [usize; 3] = [0, 1, 2];

async fn verb(mesh: &Mesh, verb: &[&str]) -> Exit {
    let data = mesh.data().to_string_lossy().into_owned();
    let exit = run(&[verb, &["--json", "--data", &data]].concat()).await;
    println!("hearth {}: {} {} {}", verb.join(" "), exit.code, exit.out, exit.err);
    exit
}

/// The last line of the erasure of a user.
async fn erase(mesh: &Mesh, user: &str, code: i32) -> Value {
    let exit = verb(mesh, &["user", "erase", user]).await;
    assert_eq!(exit.code, code, "{exit:?}");
    let told = exit.out.lines().chain(exit.err.lines()).filter_map(|line| serde_json::from_str::<Value>(line).ok());
    told.collect::<Vec<_>>().pop().unwrap_or(Value::Null)
}

/// What the rows of a conversation say in a region: who, what, and whether it is deleted.
async fn said(mesh: &Mesh, user: &str, region: usize, conversation: &str) -> Vec<Value> {
    let rows = mesh.try_history(user, region, conversation).await.unwrap_or_default();
    let messages = rows.iter().filter(|row| row["kind"] == "message");
    messages.map(|row| json!([row["senderId"], row["content"]["text"], row["deleted"]])).collect()
}

async fn says(mesh: &Mesh, user: &str, conversation: &str, wanted: &[Value]) {
    for region in ALL {
        until(&format!("region {region} says {wanted:?}"), LATE, || async {
            said(mesh, user, region, conversation).await == wanted
        })
        .await;
    }
}

async fn in_no_file(mesh: &Mesh, texts: &[&str]) {
    for region in ALL {
        let folder = &mesh.regions[region].data;
        until(&format!("the texts are in no file of region {region}"), SWEPT, || async {
            texts.iter().all(|text| !holds(folder, text))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_erased_user_wrote_is_shown_to_nobody_leaves_the_files_of_every_region_and_the_chain_still_verifies() {
    let mut mesh = Mesh::quick(&["--content-sweep", "2s", "--anti-entropy", "1s"]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let with_ann = json!({ "participantIds": ["ann"], "type": "direct" });
    let direct = mesh.rest("bob", 1, "POST", "/api/v1/conversations", Some(with_ann)).await;
    let direct = direct.body["conversationId"].as_str().unwrap_or_else(|| panic!("{}", direct.text)).to_owned();
    let profile = json!({ "displayName": "Bobby of the files" });
    assert_eq!(mesh.rest("bob", 1, "PATCH", "/api/v1/users/me", Some(profile)).await.status, 200);
    let texts = ["words of bob to all", "words of bob, edited", "words of bob to ann alone"];
    let (kept, since) = ("words of ann that stay", "words of bob from afterwards");
    ann.say(&group, kept).await;
    let message = bob.send(&group, texts[0]).await;
    bob.acked(&message).await;
    let edit = bob.edit(&group, &message, texts[1]).await;
    bob.acked(&edit).await;
    bob.say(&direct, texts[2]).await;
    mesh.agreed("ann", &ALL, &group, 3).await;
    for region in ALL {
        until("the texts are in the files", LATE, || async {
            [kept, texts[0], texts[1], "Bobby of the files"].iter().all(|text| holds(&mesh.regions[region].data, text))
        })
        .await;
    }
    let dry = verb(&mesh, &["user", "erase", "bob", "--dry-run"]).await;
    assert!(dry.code == 0 && dry.out.contains("2 conversations"), "{dry:?}");
    assert_eq!(said(&mesh, "ann", 0, &group).await[1], json!(["bob", texts[1], null]), "nothing was changed");
    assert_eq!(verb(&mesh, &["user", "erase", "nobody-at-all"]).await.code, 1);

    let erased = erase(&mesh, "bob", 0).await;
    assert_eq!((&erased["changed"], &erased["counts"][1]), (&json!(true), &json!(["changed", 2])), "{erased}");
    let told = |frame: &Value| {
        frame["payload"]["change"] == json!({ "action": "erase", "by": "region:eu-west", "userIds": ["bob"] })
    };
    ann.expect_within("message.new", LATE, |frame| told(frame) || frame["payload"]["change"]["action"] == "erase")
        .await;
    let gone = json!(["bob", null, true]);
    says(&mesh, "ann", &group, &[json!(["ann", kept, null]), gone.clone()]).await;
    says(&mesh, "bob", &direct, std::slice::from_ref(&gone)).await;
    let path = format!("/api/v1/conversations/{group}/messages/2/edits");
    let edits = mesh.rest("ann", 2, "GET", &path, None).await;
    assert!(edits.body["deleted"] == true && !edits.text.contains("words of bob"), "{}", edits.text);
    until("the profile is gone", LATE, || async {
        mesh.rest("ann", 0, "GET", "/api/v1/users/bob", None).await.body["displayName"] == Value::Null
    })
    .await;
    let again = erase(&mesh, "bob", 0).await;
    assert_eq!(again["changed"], false, "{again}");
    let audit = verb(&mesh, &["audit"]).await;
    assert!(audit.out.contains("eraseUser"), "{audit:?}");

    bob.say(&group, since).await;
    in_no_file(&mesh, &[texts[0], texts[1], texts[2], "Bobby of the files"]).await;
    let wanted = [json!(["ann", kept, null]), gone, json!(["bob", since, null])];
    says(&mesh, "cem", &group, &wanted).await;
    let rows = mesh.agreed("ann", &ALL, &group, 5).await;
    let mut checker = Checker::default();
    [&ann, &bob].into_iter().for_each(|peer| checker.observe(peer));
    checker.check(&group, &[rows]);
    drop((ann, bob));
    mesh.kill().await;
    mesh.restart().await;
    says(&mesh, "cem", &group, &wanted).await;
    for region in ALL {
        assert!(holds(&mesh.regions[region].data, kept), "what others wrote stays");
    }
    let walked = verb(&mesh, &["verify"]).await;
    assert_eq!(walked.code, 0, "{walked:?}");
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_an_erased_user_comes_back_with_a_region_that_was_failed_over_or_out_of_another_ones_parking_lot() {
    let mesh = Mesh::quick(&["--failover-after", "3s", "--content-sweep", "2s", "--anti-entropy", "1s"]).await;
    let group = mesh.group("dan", 1, &["ann", "bob"]).await;
    let (ann, bob, dan) = (
        Peer::connect(&mesh, "ann", 0).await,
        Peer::connect(&mesh, "bob", 2).await,
        Peer::connect(&mesh, "dan", 1).await,
    );
    ann.say(&group, "words of ann that stay").await;
    let texts = ["words of dan that all regions have", "words of dan that one region has", "words of bob, parked"];
    dan.say(&group, texts[0]).await;
    mesh.agreed("ann", &ALL, &group, 2).await;
    // The home goes on for a moment by itself: what it acks is nowhere else.
    mesh.cut(1, 0).await;
    mesh.cut(1, 2).await;
    dan.say(&group, texts[1]).await;
    let home = async || {
        let shown = verb(&mesh, &["home", "show", &group]).await.json();
        shown["regions"].as_array().is_some_and(|rows| rows.iter().any(|row| row["epoch"].as_u64() > Some(1)))
    };
    until("the conversation has another home", LATE, home).await;
    let out_of_reach = erase(&mesh, "dan", 70).await;
    assert!(out_of_reach["message"].as_str().is_some_and(|why| why.contains("out of reach")), "{out_of_reach}");
    until("ann is not shown the text", LATE, || async {
        said(&mesh, "ann", 0, &group).await.get(1) == Some(&json!(["dan", null, true]))
    })
    .await;
    mesh.heal(1, 0).await;
    mesh.heal(1, 2).await;
    until("the old home has the new line", LATE, || async {
        said(&mesh, "dan", 1, &group).await.get(1) == Some(&json!(["dan", null, true]))
    })
    .await;
    until("all is in reach again", LATE, || async { verb(&mesh, &["user", "erase", "dan"]).await.code == 0 }).await;

    // Bob's region parks what he writes, and is not reached when he is erased.
    let epoch = verb(&mesh, &["home", "show", &group]).await.json();
    let home = epoch["regions"][0]["home"].as_str().unwrap_or_default().to_owned();
    let home = mesh.regions.iter().position(|region| region.id == home).unwrap_or_else(|| panic!("{epoch}"));
    if home != 2 {
        for region in [0, 1] {
            mesh.cut(2, region).await;
        }
        bob.expect_within("region.status", LATE, |frame| frame["payload"]["reachable"] == json!(false)).await;
        let parked = bob.send(&group, texts[2]).await;
        bob.expect_within("message.queued", LATE, |frame| frame["payload"]["messageId"] == parked.as_str()).await;
        erase(&mesh, "bob", 70).await;
        for region in [0, 1] {
            mesh.heal(2, region).await;
        }
        until("all is in reach again", LATE, || async { verb(&mesh, &["user", "erase", "bob"]).await.code == 0 }).await;
        bob.expect_within("message.ack", LATE, |frame| frame["payload"]["messageId"] == parked.as_str()).await;
        until("and what came out of the lot is erased, too", LATE, || async {
            verb(&mesh, &["user", "erase", "bob"]).await.code == 0
                && !said(&mesh, "ann", 0, &group).await.iter().any(|row| row[1] == texts[2])
        })
        .await;
    }
    in_no_file(&mesh, &texts).await;
    for region in ALL {
        assert!(holds(&mesh.regions[region].data, "words of ann that stay"), "what others wrote stays");
        let rows = said(&mesh, "ann", region, &group).await;
        assert!(rows.iter().all(|row| row[0] == "ann" || row[1].is_null()), "region {region}: {rows:?}");
    }
    let walked = verb(&mesh, &["verify"]).await;
    assert_eq!(walked.code, 0, "{walked:?}");
    drop((ann, bob, dan));
    mesh.end().await;
}
