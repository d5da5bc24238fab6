//! Copies of a region's data that are made while it serves, and regions that come back from them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use chaos_tests::process::hearth;
use chaos_tests::site::{Door, Keys, REGIONS};
use chaos_tests::{Auth, Checker, Exit, Load, Peer, Served, Site, run, until};
use hearth_client::TransportKind;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

/// Longest wait for what takes leases, elections and anti-entropy on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const SETTINGS: &str = "[limits]\nmessages_per_minute = 0\nconversation_messages_per_minute = 0\n\
                        [failover]\nafter = \"3s\"\n";

/// An operator of a site.
struct Operator<'a>(&'a Site);

impl<'a> Operator<'a> {
    async fn of(site: &'a Site) -> Self {
        let path = |name: &str| site.path(name).to_string_lossy().into_owned();
        let words = ["ca", "issue", "admin", "--name", "ann", "--dir", &path("ca"), "--out", &path("admins")];
        let issued = run(&words).await;
        assert_eq!(issued.code, 0, "{issued:?}");
        Self(site)
    }

    /// A verb at these nodes.
    fn words(&self, verb: &[&str], nodes: &[&Served]) -> Vec<String> {
        let path = |name: &str| self.0.path(name).to_string_lossy().into_owned();
        let files = [path("admins/ann.admin.pem"), path("admins/ann.admin.key"), path("ca/ca.pem")];
        let mut words: Vec<String> = verb.iter().map(|word| (*word).to_owned()).collect();
        let more = ["--json", "--cert", &files[0], "--key", &files[1], "--ca", &files[2]];
        words.extend(more.map(str::to_owned));
        nodes.iter().for_each(|node| words.extend(["--admin".to_owned(), node.administration.clone()]));
        words
    }

    async fn types(&self, verb: &[&str], nodes: &[&Served]) -> Exit {
        let words = self.words(verb, nodes);
        let exit = run(&words.iter().map(String::as_str).collect::<Vec<_>>()).await;
        println!("hearth {}: {} {} {}", verb.join(" "), exit.code, exit.out, exit.err);
        exit
    }

    /// `hearth store backup`, which must succeed; the folder.
    async fn backs_up(&self, index: usize, node: &Served, name: &str) -> PathBuf {
        let to = self.0.path(name);
        let exit = self.types(&["store", "backup", REGIONS[index], "--to", &text(&to)], &[node]).await;
        assert_eq!(exit.code, 0, "{exit:?}");
        assert_eq!(last(&exit)["line"], "done", "{exit:?}");
        to
    }

    /// `hearth store restore` by the region's configuration.
    async fn restores(&self, index: usize, copy: &Path, more: &[&str]) -> Exit {
        let config = text(&self.0.config(index));
        let exit = run(&[&["store", "restore", &text(copy), "--config", &config, "--json"], more].concat()).await;
        println!("hearth store restore: {} {} {}", exit.code, exit.out, exit.err);
        exit
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn last(exit: &Exit) -> Value {
    serde_json::from_str(exit.out.lines().last().unwrap_or_default()).unwrap_or(Value::Null)
}

fn data(site: &Site, index: usize) -> PathBuf {
    site.path(&format!("data-{}", REGIONS[index]))
}

async fn session(site: &Site, user: &str, region: usize) -> Peer {
    let peer = site.peer(user, region, site.token(user, 3_600)).await;
    peer.expect("connected", |_| true).await;
    peer
}

/// The region holds a lease, and everything that it votes for counts.
async fn counts(site: &Site, region: usize) {
    until("its copies count", PATIENCE, || async {
        let leased = site.metric(region, "hearth_lease_seconds").await > 0.0;
        leased && site.metric(region, "hearth_home_joining").await == 0.0
    })
    .await;
}

/// `kill -9`.
async fn killed(mut region: Served) {
    region.process.signal(Signal::SIGKILL);
    region.process.wait().await;
}

fn destroy(site: &Site, index: usize) {
    std::fs::remove_dir_all(data(site, index)).expect("its data are there");
}

fn messages(rows: &[Value]) -> Vec<String> {
    let rows = rows.iter().filter(|row| row["kind"] == "message");
    rows.map(|row| row["messageId"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The histories of these regions, once they agree and have all of `wanted`.
async fn agreed(site: &Site, user: &str, regions: &[usize], group: &str, wanted: &BTreeSet<String>) -> Vec<Value> {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let mut histories = Vec::new();
        for region in regions {
            histories.push(site.history(user, *region, group).await);
        }
        let ids: Vec<Vec<String>> = histories.iter().map(|rows| messages(rows)).collect();
        let whole = wanted.iter().all(|id| ids[0].contains(id));
        if whole && ids.iter().all(|other| *other == ids[0]) {
            return histories.swap_remove(0);
        }
        let lengths: Vec<usize> = ids.iter().map(Vec::len).collect();
        assert!(std::time::Instant::now() < deadline, "{regions:?} do not agree on {}: {lengths:?}", wanted.len());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn three(site: &Site) -> [Served; 3] {
    let (one, two, three) = tokio::join!(Served::start(site, 0), Served::start(site, 1), Served::start(site, 2));
    [one, two, three]
}

/// A group at home in the first region, in which two regions hold what is acked.
async fn group_of_two_copies(site: &Site) -> String {
    let group = site.group_of("ann", &["bob", "cem"]).await;
    let path = format!("/api/v1/conversations/{group}");
    let changed = site.rest(Some("ann"), 0, "PATCH", &path, Some(json!({ "durability": "majority" })), &[]).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    group
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_restored_from_a_copy_made_under_load_catches_up_and_nothing_acked_is_missing_when_the_home_dies() {
    let site = Site::of(&[Door::Plain; 3], Keys::Secret, SETTINGS).await;
    let operator = Operator::of(&site).await;
    let [home, restored, third] = three(&site).await;
    let group = group_of_two_copies(&site).await;
    let peers = vec![session(&site, "ann", 0).await, session(&site, "cem", 2).await];
    let load = Load::start(peers, std::slice::from_ref(&group), 200);
    load.until_acked(200).await;
    let copy = operator.backs_up(1, &restored, "copy").await;
    // What is acked from here on is not in the copy.
    load.until_acked(load.acked() + 200).await;
    killed(restored).await;
    destroy(&site, 1);
    until("it is failed over", PATIENCE, || async {
        let status = operator.types(&["region", "status"], &[&home]).await.json();
        let rows = status["regions"].as_array().cloned().unwrap_or_default();
        rows.iter().any(|row| row["region"] == REGIONS[1] && row["state"] == "fenced" && row["slots"] == 0)
    })
    .await;
    load.until_acked(load.acked() + 100).await;

    let done = operator.restores(1, &copy, &[]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let restored = Served::start(&site, 1).await;
    counts(&site, 1).await;
    load.until_acked(load.acked() + 100).await;
    let mut checker = Checker::default();
    let peers = load.end_acked(PATIENCE).await;
    peers.iter().for_each(|peer| checker.observe(peer));
    // The third holds all; the restored one and it are what is left of three.
    killed(home).await;
    let after = peers[1].send(&group, "after the home was gone").await;
    peers[1].acked_within(&after, PATIENCE).await;
    drop(peers);
    let rows = agreed(&site, "cem", &[1, 2], &group, &BTreeSet::from([after])).await;
    assert!(checker.acked() >= 600, "{} acked are too few to show anything", checker.acked());
    checker.check(&group, &[rows]);
    let walked = operator.types(&["verify"], &[&restored, &third]).await;
    assert_eq!(walked.code, 0, "{walked:?}");
    restored.end().await;
    third.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_of_one_region_goes_on_from_a_copy_under_a_new_epoch_and_tells_who_had_seen_more() {
    let site = Site::of(&[Door::Plain], Keys::Secret, SETTINGS).await;
    let operator = Operator::of(&site).await;
    let region = Served::start(&site, 0).await;
    let group = site.group_of("ann", &["bob"]).await;
    let (ann, bob) = (session(&site, "ann", 0).await, session(&site, "bob", 0).await);
    let mut before = BTreeSet::new();
    for number in 0..20 {
        let ack = ann.say(&group, &format!("before the copy, {number}")).await;
        before.insert(ack["messageId"].as_str().expect("an id").to_owned());
    }
    let copy = operator.backs_up(0, &region, "copy").await;
    let mut lost = Value::Null;
    for number in 0..10 {
        lost = ann.say(&group, &format!("after the copy, {number}")).await;
    }
    bob.expect("message.new", |frame| frame["payload"]["messageId"] == lost["messageId"]).await;
    let device = bob.device.clone();
    drop((ann, bob));
    killed(region).await;
    destroy(&site, 0);

    let refused = operator.restores(0, &copy, &[]).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(last(&refused)["hint"].as_str().is_some_and(|hint| hint.contains("--mesh-is-gone")), "{refused:?}");
    assert!(!data(&site, 0).exists());
    let done = operator.restores(0, &copy, &["--mesh-is-gone"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let region = Served::start(&site, 0).await;
    counts(&site, 0).await;
    assert_eq!(messages(&site.history("ann", 0, &group).await).len(), 20);
    let ann = session(&site, "ann", 0).await;
    let new = ann.send(&group, "the mesh goes on").await;
    let ack = ann.acked_within(&new, PATIENCE).await;
    assert_eq!(ack["sequenceNumber"], 21, "{ack}");
    assert!(ack["epoch"].as_u64() > lost["epoch"].as_u64(), "{ack}, and before {lost}");
    before.insert(new);
    let rows = messages(&site.history("ann", 0, &group).await);
    assert_eq!(rows.into_iter().collect::<BTreeSet<_>>(), before);
    // Bob was shown what is gone, under numbers that others have now.
    let cursors = json!([{ "conversationId": group, "epoch": lost["epoch"], "lastSequence": lost["sequenceNumber"] }]);
    let auth = Auth { token: site.token("bob", 600), device: Some(device), cursors: Some(cursors), ..Auth::default() };
    let bob = site.peer_over(TransportKind::WebSocket, "bob", 0, auth).await;
    bob.expect_within("conversation.rewound", PATIENCE, |frame| frame["payload"]["conversationId"] == group.as_str())
        .await;
    let walked = operator.types(&["verify"], &[&region]).await;
    assert_eq!(walked.code, 0, "{walked:?}");
    drop((ann, bob));
    region.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_copies_and_targets_are_refused_with_what_to_type_and_leave_no_data_folder() {
    let site = Site::of(&[Door::Plain; 2], Keys::Secret, SETTINGS).await;
    let operator = Operator::of(&site).await;
    let (region, other) = tokio::join!(Served::start(&site, 0), Served::start(&site, 1));
    let group = site.group("ann", "bob").await;
    let ann = session(&site, "ann", 0).await;
    ann.say(&group, "in the copy").await;
    drop(ann);
    let copy = operator.backs_up(0, &region, "copy").await;
    let again = operator.types(&["store", "backup", REGIONS[0], "--to", &text(&copy)], &[&region]).await;
    assert_eq!((again.code, last(&again)["hint"].is_string()), (1, true), "a copy is not written over: {again:?}");
    let inside = text(&data(&site, 0).join("copies"));
    let inside = operator.types(&["store", "backup", REGIONS[0], "--to", &inside], &[&region]).await;
    assert_eq!(inside.code, 1, "{inside:?}");
    let elsewhere = operator.types(&["store", "backup", REGIONS[1], "--to", &text(&site.path("x"))], &[&region]).await;
    assert_eq!(elsewhere.code, 1, "{elsewhere:?}");
    let dry = ["store", "backup", REGIONS[0], "--to", &text(&site.path("dry")), "--dry-run"];
    let dry = operator.types(&dry, &[&region]).await;
    assert_eq!((dry.code, site.path("dry").exists()), (0, false), "{dry:?}");
    let used = operator.restores(0, &copy, &[]).await;
    assert_eq!(used.code, 1, "its data folder is in use: {used:?}");
    region.end().await;
    other.end().await;

    destroy(&site, 0);
    let foreign = operator.restores(1, &copy, &[]).await;
    assert_eq!(foreign.code, 1, "a copy of another region: {foreign:?}");
    let rows = copy.join("store/000001.rows");
    let whole = std::fs::read(&rows).expect("rows");
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    for wrong in [&whole[..whole.len() - 7], &changed[..]] {
        std::fs::write(&rows, wrong).expect("written");
        let refused = operator.restores(0, &copy, &[]).await;
        assert_eq!((refused.code, data(&site, 0).exists()), (1, false), "{refused:?}");
        assert!(last(&refused)["message"].as_str().is_some_and(|text| text.contains("000001.rows")), "{refused:?}");
    }
    std::fs::write(&rows, whole).expect("written");
    let manifest = std::fs::read(copy.join("manifest.json")).expect("a manifest");
    std::fs::remove_file(copy.join("manifest.json")).expect("removed");
    let interrupted = operator.restores(0, &copy, &[]).await;
    assert_eq!((interrupted.code, data(&site, 0).exists()), (1, false), "{interrupted:?}");
    std::fs::write(copy.join("manifest.json"), manifest).expect("written");
    let checked = operator.restores(0, &copy, &["--dry-run"]).await;
    assert_eq!((checked.code, data(&site, 0).exists()), (0, false), "{checked:?}");
    let nowhere = run(&["store", "restore", &text(&copy), "--json"]).await;
    assert_eq!(nowhere.code, 2, "{nowhere:?}");
    let done = operator.restores(0, &copy, &[]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let nobody = run(&["store", "backup", REGIONS[0], "--to", &text(&site.path("y")), "--data", "no-mesh"]).await;
    assert_eq!(nobody.code, 7, "{nobody:?}");
}

/// Bytes of media that a kill comes amid; nobody writes them.
const LONG: u64 = 6 * 1024 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_killed_amid_a_backup_starts_again_with_all_that_was_acked_and_what_was_written_is_no_copy() {
    let site = Site::of(&[Door::Plain], Keys::Secret, SETTINGS).await;
    let operator = Operator::of(&site).await;
    let region = Served::start(&site, 0).await;
    let group = site.group_of("ann", &["bob"]).await;
    let ann = session(&site, "ann", 0).await;
    for number in 0..20 {
        ann.say(&group, &format!("before the kill, {number}")).await;
    }
    let media = data(&site, 0).join("media/00000000-0000-0000-0000-00000000000c");
    std::fs::create_dir_all(&media).expect("made");
    let long = media.join("00000000-0000-0000-0000-00000000000d");
    std::fs::File::create(&long).and_then(|file| file.set_len(LONG)).expect("a file without content");
    let copy = site.path("copy");
    let words = operator.words(&["store", "backup", REGIONS[0], "--to", &text(&copy)], &[&region]);
    let mut asked =
        Command::new(hearth()).args(&words).stdout(Stdio::null()).kill_on_drop(true).spawn().expect("it starts");
    let begun = copy.join("media/00000000-0000-0000-0000-00000000000c/00000000-0000-0000-0000-00000000000d");
    until("media are being copied", PATIENCE, || async { begun.exists() }).await;
    // Nobody waits for it: the region acks all the while.
    let during = ann.say(&group, "while a copy is being made").await;
    killed(region).await;
    assert!(!asked.wait().await.expect("it ends").success(), "it was cut off");
    drop(ann);
    std::fs::remove_file(&long).expect("removed");
    assert!(!copy.join("manifest.json").exists(), "it was killed amid the copy");
    let target = text(&site.path("elsewhere"));
    let folder = ["store", "restore", &text(&copy), "--folder", &target, "--region", REGIONS[0], "--json"];
    let refused = run(&[&folder[..], &["--mesh-is-gone"]].concat()).await;
    assert_eq!((refused.code, site.path("elsewhere").exists()), (1, false), "{refused:?}");

    let region = Served::start(&site, 0).await;
    let rows = messages(&site.history("ann", 0, &group).await);
    assert_eq!(rows.len(), 21);
    assert!(rows.contains(&during["messageId"].as_str().expect("an id").to_owned()));
    let whole = operator.backs_up(0, &region, "whole").await;
    region.end().await;
    let folder = ["store", "restore", &text(&whole), "--folder", &target, "--region", REGIONS[0], "--json"];
    let done = run(&[&folder[..], &["--mesh-is-gone"]].concat()).await;
    assert_eq!(done.code, 0, "{done:?}");
    let walked = run(&["verify", "--json", "--folder", &target, "--region", REGIONS[0]]).await;
    assert_eq!(walked.code, 0, "{walked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_of_three_that_is_gone_comes_back_from_copies_of_different_moments_with_all_that_any_of_them_has() {
    let site = Site::of(&[Door::Plain; 3], Keys::Secret, SETTINGS).await;
    let operator = Operator::of(&site).await;
    let served = three(&site).await;
    let group = group_of_two_copies(&site).await;
    let ann = session(&site, "ann", 0).await;
    let (mut copies, mut kept) = (Vec::new(), BTreeSet::new());
    for (index, node) in served.iter().enumerate() {
        for number in 0..5 {
            let ack = ann.say(&group, &format!("before copy {index}, {number}")).await;
            kept.insert(ack["messageId"].as_str().expect("an id").to_owned());
        }
        agreed(&site, "ann", &[0, 1, 2], &group, &kept).await;
        copies.push(operator.backs_up(index, node, &format!("copy-{index}")).await);
    }
    let lost = ann.say(&group, "behind every copy").await;
    drop(ann);
    for region in served {
        killed(region).await;
    }
    (0..3).for_each(|index| destroy(&site, index));

    // The oldest copy is the first: what the others have beyond it comes back with them.
    let first = operator.restores(0, &copies[0], &["--mesh-is-gone"]).await;
    assert_eq!(first.code, 0, "{first:?}");
    let number = last(&first)["done"]["goesOnAbove"].to_string();
    for (index, copy) in copies.iter().enumerate().skip(1) {
        let done = operator.restores(index, copy, &["--goes-on-above", &number]).await;
        assert_eq!(done.code, 0, "{done:?}");
    }
    let served = three(&site).await;
    counts(&site, 0).await;
    for index in [1, 2] {
        // Slots are left while their placement logs come: then the same is typed again.
        let back = async || {
            let exit = operator.types(&["region", "failback", REGIONS[index]], &[&served[index]]).await;
            exit.code == 0 && !exit.out.contains("type the same again")
        };
        until("it has its votes and slots again", PATIENCE, back).await;
        counts(&site, index).await;
    }
    let rows = agreed(&site, "ann", &[0, 1, 2], &group, &kept).await;
    let lost = lost["messageId"].as_str().expect("an id").to_owned();
    assert!(!messages(&rows).contains(&lost), "no copy has it");
    let cem = session(&site, "cem", 2).await;
    let new = cem.send(&group, "the mesh goes on").await;
    cem.acked_within(&new, PATIENCE).await;
    kept.insert(new);
    let rows = messages(&agreed(&site, "ann", &[0, 1, 2], &group, &kept).await);
    assert_eq!((rows.len(), rows.iter().collect::<BTreeSet<_>>().len()), (kept.len(), kept.len()), "each once");
    let walked = operator.types(&["verify"], &served.iter().collect::<Vec<_>>()).await;
    assert_eq!(walked.code, 0, "{walked:?}");
    drop(cem);
    for region in served {
        region.end().await;
    }
}
