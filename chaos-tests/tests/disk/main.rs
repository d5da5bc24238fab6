//! Crash, power cut and bad disk: what was acked is there, once, whatever happens to the process and its disk.

mod load;
mod server;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hearth_client::rest::Rest;
use hearth_protocol::{ConversationId, ErrorCode};
use load::{Told, group, history, lost, sender};
use server::{Image, Server, hearth, run};

const SENDERS: usize = 8;
/// Acks that a run needs before its fault, or it has shown nothing.
const ENOUGH: usize = 300;

struct Load {
    told: Arc<Told>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(server: &Server, index: usize, group: ConversationId, bytes: usize) -> Self {
        let (told, stop) = (Arc::new(Told::default()), Arc::new(AtomicBool::new(false)));
        let tasks = (0..SENDERS)
            .map(|n| sender(server, index, format!("s{n}"), group, bytes, told.clone(), stop.clone()))
            .collect();
        Self { told, stop, tasks }
    }

    async fn until_acked(&self, count: usize) {
        until("enough acks", || async { self.told.acked.lock().await.len() >= count }).await;
    }

    async fn end(self) -> Arc<Told> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a sender");
        }
        self.told
    }
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Cuts the power of a region under load: its file system as it is on the "disk", without what was not synced.
/// Returns how many acked messages are missing afterwards, of how many.
async fn power_cut(env: &[(&str, &str)]) -> (usize, usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Image::make(folder.path(), "disk", 400);
    let server = Server::dev(&disk.mount.join("data"), "eu-west", env);
    let group = group(&server, 0, SENDERS).await;
    let load = Load::start(&server, 0, group, 100);
    load.until_acked(ENOUGH).await;
    server.freeze();
    let acked = load.told.acked.lock().await.clone();
    let copy = folder.path().join("copy.img");
    run(&format!("cp --sparse=always {} {}", disk.file.display(), copy.display()));
    server.kill();
    load.end().await;
    drop(disk);
    let after = Image::mount(copy, &folder.path().join("after"));
    if !after.mount.join("data/version").exists() {
        return (acked.len(), acked.len());
    }
    let server = Server::dev(&after.mount.join("data"), "eu-west", &[]);
    let token = load::token(&server, 0, "ann").await;
    let rest = Rest::new(None).expect("a client");
    // Without its syncs even the group may be gone.
    if rest.with_token(server.http(0), &token).conversation(group).await.is_err() {
        return (acked.len(), acked.len());
    }
    let rows = history(&server, 0, group).await;
    (lost(&rows, &acked).len(), acked.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_that_was_acked() {
    let (lost, acked) = power_cut(&[]).await;
    assert_eq!(lost, 0, "of {acked} acked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_whose_commits_skip_the_sync_fails_the_power_cut() {
    let (lost, acked) = power_cut(&[("HEARTH_MUTANT_SKIP_SYNC", "1")]).await;
    assert!(lost > 0, "all of {acked} survived without a sync: this test shows nothing, or the binary has no mutants");
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
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let server = Server::dev(&data, "eu-west,us-east,ap-south", &[]);
        let mut groups = vec![group(&server, 0, SENDERS).await];
        assert_eq!(server.interrupt(), Some(0));
        let point = if name == "before-outbox" { format!("{name}:2") } else { format!("{name}:200") };
        let mut server = Server::dev(&data, "eu-west,us-east,ap-south", &[("HEARTH_FAIL_POINT", &point)]);
        let load = Load::start(&server, 0, groups[0], 20);
        if name == "before-outbox" {
            groups.push(group_that_may_die(&server).await.unwrap_or(groups[0]));
        }
        assert!(
            server.ended_within(Duration::from_secs(30)),
            "{name} was never passed, or the binary has no fail points"
        );
        let acked = load.end().await.acked.lock().await.clone();
        let server = Server::dev(&data, "eu-west,us-east,ap-south", &[]);
        let rows = history(&server, 0, groups[0]).await;
        assert_eq!(lost(&rows, &acked), [], "after dying at {name}");
        until("all regions agree", || async {
            let other = history(&server, 2, groups[0]).await;
            other.len() == rows.len() && other.iter().zip(&rows).all(|(one, two)| one.message_id == two.message_id)
        })
        .await;
        println!("{name}: {} acked, {} rows, 0 lost", acked.len(), rows.len());
    }
}

async fn group_that_may_die(server: &Server) -> Option<ConversationId> {
    let rest = Rest::new(None).expect("a client");
    let token = rest.dev_token(server.http(0), &load::user("ann"), 60).await.ok()?.token;
    let others = [load::user("s0"), load::user("s1")];
    Some(rest.with_token(server.http(0), &token).create_group("h", &others).await.ok()?.conversation_id)
}

fn ready_status(server: &Server, index: usize) -> (u16, String) {
    let url = format!("{}/readyz", server.http(index));
    let output =
        Command::new("curl").args(["-s", "-m", "5", "-w", "\n%{http_code}", &url]).output().expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').expect("a status line");
    (code.parse().unwrap_or(0), body.to_owned())
}

/// Moves the folder of a region onto a file system of its own, and returns that.
fn on_own_disk(folder: &Path, data: &Path, region: &str) -> Image {
    let regions = data.join("regions").join(region);
    let image = Image::make(folder, "small", 512);
    run(&format!("cp -a {}/. {}", regions.display(), image.mount.display()));
    run(&format!("umount {}", image.mount.display()));
    Image::mount(image.file.clone(), &regions)
}

fn fill(image: &Image) {
    // dd ends with an error when the disk is full: that is what it is for.
    let file = image.mount.join("filler");
    let _ =
        Command::new("dd").args(["if=/dev/zero", &format!("of={}", file.display()), "bs=1M", "status=none"]).status();
    let _ =
        Command::new("dd").args(["if=/dev/zero", &format!("of={}2", file.display()), "bs=1k", "status=none"]).status();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_its_region_alone_and_a_start_after_space_is_freed_recovers_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let regions = "eu-west,us-east,ap-south";
    let server = Server::dev(&data, regions, &[]);
    assert_eq!(server.interrupt(), Some(0));
    let disk = on_own_disk(folder.path(), &data, "us-east");
    let server = Server::dev(&data, regions, &[]);
    let (here, there) = (group(&server, 1, SENDERS).await, group(&server, 0, SENDERS).await);
    fill(&disk);
    let load = Load::start(&server, 1, here, 12_000);
    until("STORE_UNAVAILABLE", || async { load.told.refused.lock().await.contains_key(&ErrorCode::StoreUnavailable) })
        .await;
    let (status, body) = ready_status(&server, 1);
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("STORE_UNAVAILABLE"), "{body}");
    assert_eq!(ready_status(&server, 0).0, 200);
    // The other regions go on in the same process.
    let others = Load::start(&server, 0, there, 20);
    others.until_acked(ENOUGH).await;
    others.end().await;
    let acked = load.end().await.acked.lock().await.clone();
    run(&format!("rm -f {}/filler*", disk.mount.display()));
    let start =
        Command::new(hearth()).args(["dev", "start", "us-east", "--data"]).arg(&data).output().expect("hearth runs");
    assert!(start.status.success(), "{}", String::from_utf8_lossy(&start.stderr));
    assert_eq!(ready_status(&server, 1).0, 200);
    let rows = history(&server, 1, here).await;
    assert_eq!(lost(&rows, &acked), [], "of {} acked before the disk was full", acked.len());
    let again = Load::start(&server, 1, here, 20);
    again.until_acked(20).await;
    again.end().await;
    assert_eq!(server.interrupt(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_stops_the_region_and_is_never_retried() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let server = Server::dev(&data, "eu-west", &[]);
    let group = group(&server, 0, SENDERS).await;
    let load = Load::start(&server, 0, group, 100);
    load.until_acked(ENOUGH).await;
    let calls = folder.path().join("calls");
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO:when=5+", "-o"])
        .arg(&calls)
        .args(["-p", &server.pid().to_string()])
        .spawn()
        .expect("strace runs");
    until("STORE_UNAVAILABLE", || async { load.told.refused.lock().await.contains_key(&ErrorCode::StoreUnavailable) })
        .await;
    assert_eq!(ready_status(&server, 0).0, 503);
    let failed = |text: &str| text.lines().filter(|line| line.contains("EIO")).count();
    let before = failed(&std::fs::read_to_string(&calls).unwrap_or_default());
    let acked = load.end().await.acked.lock().await.clone();
    let after = failed(&std::fs::read_to_string(&calls).unwrap_or_default());
    assert!(before >= 1, "no sync failed: this test shows nothing");
    assert_eq!(after, before, "a failed sync was tried again");
    server.kill();
    let _ = strace.wait();
    let server = Server::dev(&data, "eu-west", &[]);
    assert_eq!(lost(&history(&server, 0, group).await, &acked), []);
}
