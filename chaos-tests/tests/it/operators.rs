//! Verbs of an operator over a running mesh: homes that move under sessions, regions that are emptied and taken back, and
//! the last region of three that goes on.

use std::path::Path;
use std::time::Duration;

use chaos_tests::{Exit, Mesh, Peer, run, until};
use serde_json::{Value, json};

/// Longest wait for what takes leases, elections and anti-entropy on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn at(data: &Path, verb: &[&str]) -> Exit {
    let data = data.to_string_lossy().into_owned();
    let exit = run(&[verb, &["--json", "--data", &data]].concat()).await;
    println!("hearth {}: {} {}", verb.join(" "), exit.code, exit.out);
    exit
}

/// The last line of a change, which must end with this code.
async fn change(data: &Path, verb: &[&str], code: i32) -> Value {
    let exit = at(data, verb).await;
    assert_eq!(exit.code, code, "{exit:?}");
    let last = exit.out.lines().last().unwrap_or_else(|| panic!("{exit:?}"));
    serde_json::from_str(last).unwrap_or_else(|_| panic!("{exit:?}"))
}

async fn row(data: &Path, region: &str) -> Value {
    let status = at(data, &["region", "status"]).await.json();
    let rows = status["regions"].as_array().unwrap_or_else(|| panic!("{status}")).clone();
    rows.into_iter().find(|row| row["region"] == region).unwrap_or_else(|| panic!("{status}"))
}

/// A session is told that a conversation lives elsewhere.
async fn told_of(peer: &Peer, home: &str, epoch: u64) {
    let there = |frame: &Value| frame["payload"]["home"] == home && frame["payload"]["epoch"] == epoch;
    peer.expect_within("conversation.updated", PATIENCE, there).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_everywhere_are_told_of_a_move_and_of_a_failover_and_a_drain_and_its_way_back_may_be_typed_twice() {
    let mesh = Mesh::quick(&["--failover", "off"]).await;
    let data = mesh.data();
    let names: Vec<String> = mesh.regions.iter().map(|region| region.id.clone()).collect();
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, bob, cem) = (
        Peer::connect(&mesh, "ann", 0).await,
        Peer::connect(&mesh, "bob", 1).await,
        Peer::connect(&mesh, "cem", 2).await,
    );
    ann.say(&group, "before the move").await;
    let dry = change(&data, &["home", "move", &group, "--to", &names[1], "--dry-run"], 0).await;
    assert_eq!(dry["changed"], false);
    let moved = change(&data, &["home", "move", &group, "--to", &names[1]], 0).await;
    assert_eq!(moved["changed"], true);
    for peer in [&ann, &bob, &cem] {
        told_of(peer, &names[1], 2).await;
    }
    let again = change(&data, &["home", "move", &group, "--to", &names[1]], 0).await;
    assert_eq!(again["changed"], false, "{again}");
    assert_eq!(cem.say(&group, "after the move").await["home"], names[1].as_str());

    let drained = change(&data, &["region", "drain", &names[1], "--over", "1s"], 0).await;
    assert_eq!(drained["changed"], true, "{drained}");
    let home = at(&data, &["home", "show", &group]).await.json()["regions"][0]["home"].clone();
    assert_ne!(home, names[1].as_str());
    let again = change(&data, &["region", "drain", &names[1], "--over", "1s"], 0).await;
    assert_eq!(again["changed"], false, "{again}");
    let refused = change(&data, &["region", "failback", &names[1]], 1).await;
    assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("--undo")), "{refused}");
    let planned = at(&data, &["region", "remove", &names[1], "--dry-run"]).await;
    assert!(
        planned.code == 0 && planned.out.contains("have other voters first"),
        "it is no home any more: {planned:?}"
    );
    let undone = change(&data, &["region", "drain", &names[1], "--undo"], 0).await;
    assert_eq!((&undone["changed"], row(&data, &names[1]).await["slots"].as_u64()), (&json!(true), Some(1_365)));
    let again = change(&data, &["region", "drain", &names[1], "--undo"], 0).await;
    assert_eq!(again["changed"], false, "{again}");
    let selector = format!("home={}", home.as_str().expect("a name"));
    let back = change(&data, &["home", "move", "--selector", &selector, "--to", &names[1]], 0).await;
    assert_eq!(back["changed"], true, "{back}");
    drop(bob);

    mesh.stop_region(1).await;
    let made = change(&data, &["region", "failover", &names[1]], 0).await;
    assert_eq!(made["changed"], true, "{made}");
    let newer =
        |frame: &Value| frame["payload"]["home"] != names[1].as_str() && frame["payload"]["epoch"].as_u64() > Some(4);
    cem.expect_within("conversation.updated", PATIENCE, newer).await;
    mesh.start_region(1).await;
    until("it is back", PATIENCE, || async { row(&data, &names[1]).await["state"] == "active" }).await;
    let dry = change(&data, &["region", "failback", &names[1], "--dry-run"], 0).await;
    assert_eq!(dry["changed"], false);
    let taken = change(&data, &["region", "failback", &names[1]], 0).await;
    assert_eq!((&taken["changed"], row(&data, &names[1]).await["slots"].as_u64()), (&json!(true), Some(1_365)));
    let again = change(&data, &["region", "failback", &names[1]], 0).await;
    assert_eq!(again["changed"], false, "{again}");
    drop((ann, cem));
    mesh.end().await;
}

/// The statement about a conversation; null without one.
async fn loss(data: &Path, group: &str) -> Value {
    let losses = at(data, &["region", "losses"]).await.json();
    let rows = losses["losses"].as_array().unwrap_or_else(|| panic!("{losses}")).clone();
    rows.into_iter().find(|row| row["log"] == group).unwrap_or(Value::Null)
}

async fn open_losses(mesh: &Mesh, regions: &[usize]) -> f64 {
    let mut sum = 0.0;
    for region in regions {
        sum += mesh.metric(*region, "hearth_home_losses_open", "").await;
    }
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_three_regions_goes_on_by_word_states_what_it_may_lack_and_has_all_of_it_when_they_are_back() {
    let mesh = Mesh::quick(&["--failover", "off"]).await;
    let data = mesh.data();
    let names: Vec<String> = mesh.regions.iter().map(|region| region.id.clone()).collect();
    let group = mesh.group("ann", 0, &["cem"]).await;
    let (ann, cem) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "cem", 2).await);
    ann.say(&group, "all have this").await;
    cem.expect("message.new", |_| true).await;
    // What only the two have that are lost.
    mesh.cut(0, 2).await;
    mesh.cut(1, 2).await;
    cem.expect_within("region.status", PATIENCE, |frame| frame["payload"]["region"] == names[0].as_str()).await;
    for number in 0..5 {
        ann.say(&group, &format!("the last one lacks this, {number}")).await;
    }
    drop(ann);
    mesh.stop_region(0).await;
    mesh.stop_region(1).await;

    let refused = change(&data, &["region", "failover", &names[0], "--accept-loss"], 1).await;
    assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("--accept-loss --force")), "{refused}");
    let refused = change(&data, &["region", "failover", &names[0], "--force"], 1).await;
    assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("--accept-loss --force")), "{refused}");
    let word = ["region", "failover", &names[0], "--accept-loss", "--force"];
    let dry = at(&data, &[&word[..], &["--dry-run"]].concat()).await;
    assert!(dry.code == 0 && dry.out.contains("may lack epoch 1 from 2 on"), "{dry:?}");
    let made = change(&data, &word, 0).await;
    assert_eq!(made["changed"], true, "{made}");
    let again = change(&data, &word, 0).await;
    assert_eq!(again["changed"], false, "{again}");
    told_of(
        &cem,
        &names[2],
        at(&data, &["home", "show", &group]).await.json()["regions"][0]["epoch"].as_u64().expect("an epoch"),
    )
    .await;
    assert_eq!(cem.say(&group, "the last one goes on").await["home"], names[2].as_str());
    let stated = loss(&data, &group).await;
    assert_eq!((&stated["state"], &stated["statement"]["lostHome"]), (&json!("open"), &json!(names[0])), "{stated}");
    until("it is counted", PATIENCE, || async { open_losses(&mesh, &[2]).await >= 1.0 }).await;

    for region in [0, 1] {
        mesh.start_region(region).await;
        mesh.heal(region, 2).await;
    }
    for region in [0, 1] {
        until("it is back", PATIENCE, || async { row(&data, &names[region]).await["state"] == "active" }).await;
        until("its votes are its own", PATIENCE, || async {
            change_code(&data, &["region", "failback", &names[region]]).await == 0
                && row(&data, &names[region]).await["slots"].as_u64() > Some(1_364)
        })
        .await;
        assert_eq!(row(&data, &names[region]).await["mapVoter"], true);
    }
    until("all has come back", PATIENCE, || async { loss(&data, &group).await["state"] == "back" }).await;
    let stated = loss(&data, &group).await;
    assert_eq!((&stated["missing"], &stated["back"]), (&json!(5), &json!(5)), "{stated}");
    until("none is open", PATIENCE, || async { open_losses(&mesh, &[0, 1, 2]).await == 0.0 }).await;
    let rows = mesh.agreed("cem", &[0, 1, 2], &group, 7).await;
    let again: Vec<&Value> = rows.iter().filter(|row| row["originalTimestamp"].is_u64()).collect();
    assert_eq!((rows.len(), again.len()), (7, 5));
    let walked = at(&data, &["verify"]).await;
    assert_eq!(walked.code, 0, "{walked:?}");
    drop(cem);
    mesh.end().await;
}

async fn change_code(data: &Path, verb: &[&str]) -> i32 {
    at(data, verb).await.code
}

/// The voters of a conversation, as every region that answers knows them.
async fn voters(data: &Path, group: &str) -> Vec<Vec<String>> {
    let shown = at(data, &["home", "show", group]).await.json();
    let rows = shown["regions"].as_array().unwrap_or_else(|| panic!("{shown}"));
    let names = |row: &Value| {
        row["voters"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|name| name.as_str().unwrap_or_default().to_owned())
            .collect()
    };
    rows.iter().map(names).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_removed_once_others_vote_in_its_place_and_one_that_voted_for_nothing_takes_homes() {
    let mesh = Mesh::quick(&["--regions", "ra,rb,rc,rd", "--failover", "off", "--processes"]).await;
    let data = mesh.data();
    let mut groups = Vec::new();
    for (user, region) in [("ann", 0), ("bob", 1), ("cem", 2), ("dee", 3)] {
        groups.push(mesh.group(user, region, &["ann", "bob", "cem", "dee"]).await);
    }
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let dee = Peer::connect(&mesh, "dee", 3).await;
    for group in &groups {
        ann.say(group, "before").await;
    }
    // Of the first group ra, rb and rc vote; rd does not, and becomes its home.
    let dry = at(&data, &["home", "move", &groups[0], "--to", "rd", "--dry-run"]).await;
    assert!(dry.code == 0 && dry.out.contains("copy"), "{dry:?}");
    let moved = change(&data, &["home", "move", &groups[0], "--to", "rd"], 0).await;
    assert_eq!(moved["changed"], true, "{moved}");
    assert_eq!(dee.say(&groups[0], "at the new home").await["home"], "rd");

    let refused = change(&data, &["region", "remove", "rb"], 1).await;
    assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("hearth region drain rb")), "{refused}");
    change(&data, &["region", "drain", "rb", "--over", "1s"], 0).await;
    let planned = at(&data, &["region", "remove", "rb", "--dry-run"]).await;
    assert!(planned.code == 0 && planned.out.contains("in the place of rb"), "{planned:?}");
    mesh.stop_region(1).await;
    let removed = async || {
        let exit = at(&data, &["region", "remove", "rb", "--rate", "500"]).await;
        exit.code == 0
    };
    until("rb is removed, once its lease has lapsed", PATIENCE, removed).await;
    let again = change(&data, &["region", "remove", "rb"], 0).await;
    assert_eq!(again["changed"], false, "{again}");
    for group in &groups {
        let voters = voters(&data, group).await;
        assert_eq!(voters.len(), 3, "three regions answer");
        assert!(voters.iter().all(|voters| voters.len() == 3 && !voters.contains(&"rb".to_owned())), "{voters:?}");
        ann.say(group, "after").await;
        let texts = mesh.agreed("ann", &[0, 2, 3], group, 2).await;
        assert!(texts.len() >= 2, "{texts:?}");
    }
    // One more may go, and nothing acked by two regions goes with it.
    mesh.stop_region(2).await;
    let made = change(&data, &["region", "failover", "rc"], 0).await;
    assert_eq!(made["changed"], true, "{made}");
    for group in &groups {
        ann.say(group, "with one region fewer").await;
    }
    drop((ann, dee));
    mesh.end().await;
}
