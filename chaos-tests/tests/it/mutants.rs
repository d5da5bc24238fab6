//! Wrong readings of the core over real sockets: the checker finds each by what clients saw, and nothing in the code that
//! ships.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use chaos_tests::chaos::driver::{process_of, unsettled};
use chaos_tests::chaos::reading::{openings, read_all};
use chaos_tests::load::users;
use chaos_tests::mesh::QUICK;
use chaos_tests::{Checker, Load, Mesh, Peer, Setup, new_id, until, web};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use simulation::checker::{self, Guarantee, Violation};

/// Longest wait for a step of a story: a fence, an election, a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a mesh has to come to rest at the end. A wrong reading may never let it.
const RESTS: Duration = Duration::from_secs(30);
/// Longest wait for what a home says first to a message that it may never ack.
const FIRST_WORD: Duration = Duration::from_secs(15);
/// Messages of each kind.
const FEW: usize = 4;

/// A mesh of processes, of the code as it ships or of a wrong reading of it, and a checker whose clock begins now.
async fn mesh(mutant: Option<&str>, arguments: &[&str]) -> (Mesh, Checker) {
    let arguments = [&QUICK[..], &["--processes"], arguments].concat();
    let environment: Vec<(&str, &str)> = mutant.map(|name| ("HEARTH_MUTANT", name)).into_iter().collect();
    let mesh = Mesh::with(Setup { arguments: &arguments, environment: &environment, data: None }).await;
    until("the mesh is whole", PATIENCE, || async { unsettled(&mesh).await.is_none() }).await;
    let checker = Checker::of(mesh.regions.iter().map(|region| region.id.clone()).collect());
    (mesh, checker)
}

/// Waits until the mesh is at rest, or its time is over.
async fn rest(mesh: &Mesh) {
    let deadline = Instant::now() + RESTS;
    while let Some(what) = unsettled(mesh).await {
        if Instant::now() > deadline {
            println!("not at rest: {what}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn kill_region(mesh: &Mesh, region: usize) {
    kill(process_of(mesh, region).expect("a process"), Signal::SIGKILL).expect("a signal");
}

async fn start(mesh: &Mesh, region: usize) {
    let http = &mesh.regions[region].http;
    // The verb may come before the supervisor knows of the kill, and waits for links that other stories keep slow.
    until("the region serves again", PATIENCE, || async {
        let exit = mesh.dev("start", region).await;
        let ready = web::try_call(None, http, "GET", "/readyz", None, None, &[]).await;
        exit.code == 0 || ready.is_ok_and(|answer| answer.status == 200)
    })
    .await;
}

/// Ends a cut of region 0, which does not run, at the two others.
async fn heal_at_the_others(mesh: &Mesh) {
    for asked in [1, 2] {
        for (from, to) in [(0, asked), (asked, 0)] {
            let (from, to) = (&mesh.regions[from].id, &mesh.regions[to].id);
            let body = json!({ "from": from, "to": to, "state": "up", "both": false });
            let answer = mesh.plain(asked, "POST", "/api/v1/dev/links?passed=true", Some(body)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
}

fn payload(group: &str, text: &str, level: &str) -> Value {
    json!({ "messageId": new_id(), "conversationId": group, "durability": level,
        "content": { "type": "text", "text": text } })
}

/// Waits for the first word about a message: an ack, or that it is queued or refused.
async fn first_word(peer: &Peer, message: &str) {
    let about = |frame: &Value| frame["payload"]["messageId"] == message || frame["id"] == message;
    let deadline = Instant::now() + FIRST_WORD;
    while !peer.frames().iter().any(|frame| about(&frame.value)) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The home of a conversation is cut off while its users go on, replaced, killed with what it had queued, and back: what
/// does not hold.
async fn a_home_is_cut_off(mutant: Option<&str>) -> Vec<Violation> {
    let (mesh, checker) = mesh(mutant, &["--failover-after", "2s"]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    for number in 0..FEW {
        ann.say(&group, &format!("before the cut, {number}")).await;
    }
    // A device that did not hear its ack sends again.
    let again = new_id();
    for _ in 0..2 {
        ann.send_as(&group, "sent twice", &again).await;
        ann.acked(&again).await;
    }
    bob.say(&group, "from elsewhere").await;

    mesh.cut(0, 1).await;
    mesh.cut(0, 2).await;
    let mut said = Vec::new();
    for number in 0..FEW {
        ann.say(&group, &format!("on the disk of the home alone, {number}")).await;
    }
    for number in 0..FEW {
        let copied = payload(&group, &format!("wants a copy, {number}"), "regions:2");
        said.push(ann.send_payload(copied.clone()).await);
        ann.send_payload(copied).await;
    }
    // The new home acks it.
    let elsewhere = bob.send(&group, "to whoever is the home").await;
    bob.acked_within(&elsewhere, PATIENCE).await;
    for number in 0..FEW {
        said.push(ann.send(&group, &format!("after the failover, {number}")).await);
    }
    for message in &said {
        first_word(&ann, message).await;
    }
    kill_region(&mesh, 0);
    ann.ended(PATIENCE).await;
    heal_at_the_others(&mesh).await;
    start(&mesh, 0).await;
    mesh.heal(0, 1).await;
    mesh.heal(0, 2).await;
    rest(&mesh).await;
    judge(mesh, checker, &[&ann, &bob], &group).await
}

async fn judge(mesh: Mesh, mut checker: Checker, peers: &[&Peer], group: &str) -> Vec<Violation> {
    peers.iter().for_each(|peer| checker.observe(peer));
    let groups = [group.to_owned()];
    openings(&mesh, &groups, &mut checker).await;
    let (readings, silent) = read_all(&mesh, "bob", &groups, 1).await;
    println!("{} acked; nothing was given by: {silent:?}", checker.acked());
    assert!(!readings.is_empty(), "no region gives the conversation");
    let mut violations = checker::check(&checker.history(&readings)).violations;
    // A session that was killed does not hear all.
    violations.retain(|violation| violation.guarantee != Guarantee::Answered);
    violations
}

/// A wrong reading breaks this guarantee.
fn is_caught(mutant: &str, violations: &[Violation], guarantee: Guarantee) {
    for violation in violations.iter().take(5) {
        println!("{mutant}: {:?}: {}", violation.guarantee, violation.what);
    }
    let caught = violations.iter().any(|violation| violation.guarantee == guarantee);
    assert!(caught, "{mutant} is not caught by {guarantee:?}: {violations:?}; or the binary has no mutants");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_is_cut_off_replaced_and_killed_breaks_nothing_as_the_code_ships() {
    let violations = a_home_is_cut_off(None).await;
    assert_eq!(violations, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_dedup_a_message_that_is_sent_again_is_found_twice_over_real_sockets() {
    is_caught("no-dedup", &a_home_is_cut_off(Some("no-dedup")).await, Guarantee::G3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_never_loses_its_lease_is_found_as_a_second_writer_over_real_sockets() {
    let name = "lease-never-lapses";
    is_caught(name, &a_home_is_cut_off(Some(name)).await, Guarantee::G5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_that_is_dropped_at_the_heal_is_missed_over_real_sockets() {
    is_caught("tail-dropped", &a_home_is_cut_off(Some("tail-dropped")).await, Guarantee::G8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_without_their_copies_are_lost_over_real_sockets() {
    for name in ["ack-before-copies", "retry-at-once"] {
        is_caught(name, &a_home_is_cut_off(Some(name)).await, Guarantee::G1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_queued_and_is_forgotten_at_a_start_is_missed_over_real_sockets() {
    let name = "parked-lost-at-start";
    is_caught(name, &a_home_is_cut_off(Some(name)).await, Guarantee::G7);
}

/// Acks of a load before its home's disk becomes slow, and as many after it.
const ACKS: usize = 100;

/// A kill just after the store wrote what waited loses nothing of a wrong reading, either: within so many one does.
const KILLS: usize = 4;

/// Lets every sync of a process take a tenth of a second: what comes meanwhile waits for the next one.
fn slow_syncs(pid: i32, calls: &Path) -> Child {
    Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:delay_enter=100000", "-o"])
        .arg(calls)
        .args(["-p", &pid.to_string()])
        .spawn()
        .expect("strace runs")
}

/// The process of a home is killed while its disk is slow: what does not hold once it runs again.
async fn a_home_with_a_slow_disk_is_killed(mutant: Option<&str>) -> Vec<Violation> {
    let (mesh, checker) = mesh(mutant, &["--failover", "off"]).await;
    let names = users(4);
    let group = mesh.group("bob", 0, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let load = Load::at(&mesh, 0, &names, &group, 20).await;
    load.until_acked(ACKS).await;
    let mut strace = slow_syncs(process_of(&mesh, 0).expect("a process").as_raw(), &mesh.data().join("calls"));
    until("a sync was slow", PATIENCE, || async {
        std::fs::metadata(mesh.data().join("calls")).is_ok_and(|calls| calls.len() > 0)
    })
    .await;
    load.until_acked(load.acked() + ACKS).await;
    kill_region(&mesh, 0);
    let _ = strace.wait();
    let peers = load.end().await;
    for peer in &peers {
        peer.ended(PATIENCE).await;
    }
    start(&mesh, 0).await;
    rest(&mesh).await;
    let peers: Vec<&Peer> = peers.iter().map(AsRef::as_ref).collect();
    judge(mesh, checker, &peers, &group).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_before_the_disk_has_them_are_lost_by_a_kill_and_none_is_as_the_code_ships() {
    assert_eq!(a_home_with_a_slow_disk_is_killed(None).await, []);
    let name = "ack-before-disk";
    let mut violations = Vec::new();
    for kill in 1..=KILLS {
        violations = a_home_with_a_slow_disk_is_killed(Some(name)).await;
        println!("kill {kill}: {} violations", violations.len());
        if !violations.is_empty() {
            break;
        }
    }
    is_caught(name, &violations, Guarantee::G1);
}
