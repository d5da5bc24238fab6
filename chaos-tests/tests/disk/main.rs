//! Crash, power cut and bad disk: what was acked is there, once, whatever happens to the process and its disk.

mod image;

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use chaos_tests::load::users;
use chaos_tests::mesh::QUICK;
use chaos_tests::site::{Door, Keys};
use chaos_tests::{Load, Mesh, Served, Setup, Site, shell, web};
use image::{Image, on_own_disk};
use nix::sys::signal::Signal;
use serde_json::json;

const SENDERS: usize = 8;
/// Acks that a run needs before its fault, or it has shown nothing.
const ENOUGH: usize = 300;
/// One region without latency and rate limits.
const ONE: [&str; 6] = ["--regions", "eu-west", "--latency", "none", "--limits", "off"];

/// A mesh on a data folder of the story's own.
async fn mesh_at(data: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Mesh {
    Mesh::with(Setup { arguments, environment, data: Some(data) }).await
}

/// A group of ann and the senders, with its home in region `index`.
async fn group(mesh: &Mesh, index: usize) -> String {
    let names = users(SENDERS);
    mesh.group("ann", index, &names.iter().map(String::as_str).collect::<Vec<_>>()).await
}

async fn load(mesh: &Mesh, index: usize, group: &str, bytes: usize) -> Load {
    Load::at(mesh, index, &users(SENDERS), group, bytes).await
}

/// Cuts the power of a region under load: its file system as it is on the "disk", without what was not synced.
/// Returns what does not hold afterwards, and how many messages were acked.
async fn power_cut(environment: &[(&str, &str)]) -> (Vec<String>, usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Image::make(folder.path(), "disk", 400);
    let mut mesh = mesh_at(&disk.mount.join("data"), &ONE, environment).await;
    let group = group(&mesh, 0).await;
    let load = load(&mesh, 0, &group, 100).await;
    load.until_acked(ENOUGH).await;
    mesh.signal(Signal::SIGSTOP);
    let seen = load.seen();
    let copy = folder.path().join("copy.img");
    shell(&format!("cp --sparse=always {} {}", disk.file.display(), copy.display()));
    mesh.kill().await;
    load.end().await;
    drop((mesh, disk));
    let after = Image::mount(copy, &folder.path().join("after"));
    if !after.mount.join("data/version").exists() {
        return (vec!["the whole data folder is gone".to_owned()], seen.acked());
    }
    let mesh = mesh_at(&after.mount.join("data"), &ONE, &[]).await;
    // Without its syncs even the group may be gone.
    let faults = match mesh.try_history("ann", 0, &group).await {
        Ok(rows) => seen.faults(&group, &[rows]),
        Err(answer) => vec![format!("no history: {answer:?}")],
    };
    mesh.end().await;
    (faults, seen.acked())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_that_was_acked() {
    let (faults, acked) = power_cut(&[]).await;
    assert!(faults.is_empty(), "of {acked} acked: {:?}", faults.first());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_whose_commits_skip_the_sync_fails_the_power_cut() {
    let (faults, acked) = power_cut(&[("HEARTH_MUTANT_SKIP_SYNC", "1")]).await;
    assert!(
        !faults.is_empty(),
        "all of {acked} survived without a sync: this test shows nothing, or the binary has no mutants"
    );
}

/// The steps between append and publish.
const FAIL_POINTS: [&str; 7] = [
    "before-append",
    "after-append",
    "before-replicate",
    "before-send",
    "before-ack",
    "before-deliver",
    "before-outbox",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_at_any_step_between_append_and_publish_loses_and_doubles_nothing() {
    for name in FAIL_POINTS {
        let mut mesh = Mesh::quick(&[]).await;
        let group = group(&mesh, 0).await;
        mesh.signal(Signal::SIGINT);
        assert_eq!(mesh.wait().await, 0);
        let point = if name == "before-outbox" { format!("{name}:2") } else { format!("{name}:200") };
        mesh.set_environment(&[("HEARTH_FAIL_POINT", &point)]);
        mesh.restart().await;
        let load = load(&mesh, 0, &group, 20).await;
        if name == "before-outbox" {
            make_group_that_may_die(&mesh).await;
        }
        // It ends by itself, or the point was never passed, or the binary has no fail points.
        assert_ne!(mesh.wait().await, 0, "{name}");
        let seen = {
            let mut seen = chaos_tests::Checker::default();
            for peer in load.end().await {
                peer.ended(Duration::from_secs(10)).await;
                seen.observe(&peer);
            }
            seen
        };
        mesh.set_environment(&[]);
        mesh.restart().await;
        let rows = mesh.agreed("ann", &[0, 2], &group, 1).await;
        println!("{name}: {} acked, {} rows", seen.acked(), rows.len());
        seen.check(&group, &[rows]);
        mesh.end().await;
    }
}

/// Whether or not it is answered, the process dies while it is made.
async fn make_group_that_may_die(mesh: &Mesh) {
    let token = mesh.token("ann", 0).await;
    let body = json!({ "name": "h", "participantIds": ["s0", "s1"] });
    let _ = web::try_call(None, &mesh.regions[0].http, "POST", "/api/v1/groups", Some(body), Some(&token), &[]).await;
}

fn fill(disk: &Image) {
    // dd ends with an error when the disk is full: that is what it is for.
    for (name, block) in [("filler", "1M"), ("filler2", "1k")] {
        let file = disk.mount.join(name);
        let arguments = [
            "if=/dev/zero".to_owned(),
            format!("of={}", file.display()),
            format!("bs={block}"),
            "status=none".to_owned(),
        ];
        let _ = Command::new("dd").args(arguments).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_its_region_alone_and_a_start_after_space_is_freed_recovers_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut mesh = mesh_at(&folder.path().join("data"), &QUICK, &[]).await;
    mesh.signal(Signal::SIGINT);
    assert_eq!(mesh.wait().await, 0);
    let disk = on_own_disk(folder.path(), &mesh.regions[1].data);
    mesh.restart().await;
    let (here, there) = (group(&mesh, 1).await, group(&mesh, 0).await);
    let full = load(&mesh, 1, &here, 4_000).await;
    full.until_acked(SENDERS).await;
    fill(&disk);
    full.until_refused("STORE_UNAVAILABLE").await;
    let answer = mesh.plain(1, "GET", "/readyz", None).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.text.contains("STORE_UNAVAILABLE"), "{answer:?}");
    assert_eq!(mesh.plain(0, "GET", "/readyz", None).await.status, 200);
    // The other regions go on in the same process.
    let others = load(&mesh, 0, &there, 20).await;
    others.until_acked(ENOUGH).await;
    others.end().await;
    let seen = full.seen();
    full.end().await;
    shell(&format!("rm -f {}/filler*", disk.mount.display()));
    mesh.start_region(1).await;
    assert_eq!(mesh.plain(1, "GET", "/readyz", None).await.status, 200);
    let rows = mesh.history("ann", 1, &here).await;
    seen.check(&here, &[rows]);
    let again = load(&mesh, 1, &here, 20).await;
    again.until_acked(20).await;
    again.end().await;
    mesh.end().await;
}

/// Lets every sync of a process fail, but the next few; strace writes the calls to `calls`.
fn fail_syncs(pid: i32, calls: &Path) -> Child {
    Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO:when=5+", "-o"])
        .arg(calls)
        .args(["-p", &pid.to_string()])
        .spawn()
        .expect("strace runs")
}

fn failed_syncs(calls: &Path) -> usize {
    std::fs::read_to_string(calls).unwrap_or_default().lines().filter(|line| line.contains("EIO")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_stops_the_region_and_is_never_retried() {
    let mut mesh = Mesh::start(&ONE).await;
    let group = group(&mesh, 0).await;
    let load = load(&mesh, 0, &group, 100).await;
    load.until_acked(ENOUGH).await;
    let calls = mesh.data().join("calls");
    let mut strace = fail_syncs(mesh.process().pid(), &calls);
    load.until_refused("STORE_UNAVAILABLE").await;
    assert_eq!(mesh.plain(0, "GET", "/readyz", None).await.status, 503);
    let before = failed_syncs(&calls);
    let seen = load.seen();
    load.end().await;
    assert!(before >= 1, "no sync failed: this test shows nothing");
    assert_eq!(failed_syncs(&calls), before, "a failed sync was tried again");
    mesh.kill().await;
    let _ = strace.wait();
    mesh.restart().await;
    let rows = mesh.history("ann", 0, &group).await;
    seen.check(&group, &[rows]);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_served_region_whose_store_fails_ends_with_74_and_has_everything_acked_when_it_is_back() {
    let site = Site::new([Door::Plain, Door::Plain], Keys::Secret).await;
    let (mut one, other) = tokio::join!(Served::start(&site, 0), Served::start(&site, 1));
    let group = site.group("ann", "bob").await;
    let mut peers = Vec::new();
    for user in ["ann", "bob"] {
        let peer = site.peer(user, 0, site.token(user, 600)).await;
        peer.expect("connected", |_| true).await;
        peers.push(peer);
    }
    let load = Load::start(peers, std::slice::from_ref(&group), 100);
    load.until_acked(ENOUGH / 10).await;
    let mut strace = fail_syncs(one.process.pid(), &site.path("calls"));
    assert_eq!(one.process.wait().await, 74);
    let _ = strace.wait();
    let mut seen = chaos_tests::Checker::default();
    for peer in load.end().await {
        peer.ended(Duration::from_secs(10)).await;
        seen.observe(&peer);
    }
    let back = Served::start(&site, 0).await;
    let rows = site.history("ann", 0, &group).await;
    seen.check(&group, &[rows]);
    tokio::join!(back.end(), other.end());
}
