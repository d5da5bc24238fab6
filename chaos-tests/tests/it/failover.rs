//! The region map decides over real sockets and processes: who is gone is fenced, once, and its slots go to others.

use std::time::Duration;

use chaos_tests::{Mesh, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for a decision: the time out of reach, the lapse of a lease, an election, and a busy machine.
const DECIDED: Duration = Duration::from_secs(40);
/// Slots of a mesh.
const SLOTS: f64 = 4_096.0;

async fn is_in_state(mesh: &Mesh, asked: usize, region: usize, state: &str) -> bool {
    let labels = format!("region=\"{}\",state=\"{state}\"", mesh.regions[region].id);
    mesh.metric(asked, "hearth_region_state", &labels).await > 0.0
}

async fn slots(mesh: &Mesh, asked: usize, region: usize) -> f64 {
    let labels = format!("region=\"{}\"", mesh.regions[region].id);
    mesh.metric(asked, "hearth_region_slots", &labels).await
}

async fn is_taken_over(mesh: &Mesh, asked: &[usize], region: usize) -> bool {
    for asked in asked {
        if !is_in_state(mesh, *asked, region, "fenced").await || slots(mesh, *asked, region).await > 0.0 {
            return false;
        }
    }
    true
}

async fn fences(mesh: &Mesh, asked: &[usize]) -> f64 {
    let mut sum = 0.0;
    for asked in asked {
        sum += mesh.metric(*asked, "hearth_map_fences_total", "").await;
    }
    sum
}

async fn holds_its_lease(mesh: &Mesh, region: usize) -> bool {
    mesh.metric(region, "hearth_lease_seconds", "").await > 0.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_region_is_fenced_by_the_others_which_take_its_slots_and_comes_back_without_them() {
    let mesh = Mesh::quick(&["--processes", "--failover-after", "3s"]).await;
    let pid = mesh.regions[1].pid.expect("a process");
    until("it is in the map", DECIDED, || async {
        is_in_state(&mesh, 0, 1, "active").await && slots(&mesh, 0, 1).await > 1_000.0
    })
    .await;
    until("it holds its lease", DECIDED, || holds_its_lease(&mesh, 1)).await;
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a signal");
    until("it is fenced and has no slots", DECIDED, || is_taken_over(&mesh, &[0, 2], 1)).await;
    let rest = [slots(&mesh, 0, 0).await, slots(&mesh, 0, 2).await];
    assert!(rest.iter().sum::<f64>() == SLOTS && (rest[0] - rest[1]).abs() <= 1.0, "{rest:?}");
    assert_eq!(fences(&mesh, &[0, 2]).await, 1.0);
    mesh.start_region(1).await;
    until("it holds a lease", DECIDED, || holds_its_lease(&mesh, 1)).await;
    until("all have it back", DECIDED, || async {
        is_in_state(&mesh, 0, 1, "active").await && is_in_state(&mesh, 1, 1, "active").await
    })
    .await;
    assert_eq!(slots(&mesh, 1, 1).await, 0.0, "slots come back by a failback, not by themselves");
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_cut_between_two_regions_fences_nobody_and_a_region_cut_from_both_is_fenced_once() {
    let mesh = Mesh::quick(&["--failover-after", "2s"]).await;
    let all = [0, 1, 2];
    for region in all {
        until("leases", DECIDED, || holds_its_lease(&mesh, region)).await;
    }
    mesh.cut(0, 1).await;
    // Long enough for a lease to lapse and for a decision.
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for region in all {
            assert!(holds_its_lease(&mesh, region).await, "{region} goes on by way of the third");
        }
    }
    assert_eq!(fences(&mesh, &all).await, 0.0);
    mesh.cut(0, 2).await;
    until("it is fenced and has no slots", DECIDED, || is_taken_over(&mesh, &[1, 2], 0)).await;
    assert!(!holds_its_lease(&mesh, 0).await);
    mesh.heal(0, 1).await;
    mesh.heal(0, 2).await;
    until("it holds a lease again", DECIDED, || holds_its_lease(&mesh, 0)).await;
    assert_eq!(fences(&mesh, &all).await, 1.0);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_of_the_map_stopped_past_its_lease_is_fenced_and_fences_nobody_when_it_goes_on() {
    let mesh = Mesh::quick(&["--processes", "--failover-after", "3s"]).await;
    let all = [0, 1, 2];
    for region in all {
        until("leases", DECIDED, || holds_its_lease(&mesh, region)).await;
    }
    let mut leader = 0;
    for region in all {
        let labels = format!("region=\"{}\"", mesh.regions[region].id);
        if mesh.metric(0, "hearth_map_leader", &labels).await > 0.0 {
            leader = region;
        }
    }
    let others: Vec<usize> = all.into_iter().filter(|region| *region != leader).collect();
    let pid = Pid::from_raw(mesh.regions[leader].pid.expect("a process"));
    kill(pid, Signal::SIGSTOP).expect("a signal");
    until("it is fenced and has no slots", DECIDED, || is_taken_over(&mesh, &others, leader)).await;
    kill(pid, Signal::SIGCONT).expect("a signal");
    until("it has returned", DECIDED, || is_in_state(&mesh, others[0], leader, "active")).await;
    for region in all {
        until("leases again", DECIDED, || holds_its_lease(&mesh, region)).await;
    }
    assert_eq!(fences(&mesh, &all).await, 1.0);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_automatic_failover_a_region_that_is_gone_keeps_its_slots() {
    let mesh = Mesh::quick(&["--failover", "off", "--failover-after", "1s"]).await;
    until("it holds its lease", DECIDED, || holds_its_lease(&mesh, 1)).await;
    let before = slots(&mesh, 0, 1).await;
    mesh.stop_region(1).await;
    // Long enough for a lease to lapse and for a decision.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(is_in_state(&mesh, 0, 1, "active").await && slots(&mesh, 0, 1).await == before);
    mesh.start_region(1).await;
    mesh.end().await;
}
