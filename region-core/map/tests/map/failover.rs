//! The replicated map fails a region over by itself: over real time, elections and durable stores.

use std::time::Duration;

use hearth_protocol::RegionId;
use region_map::NotFailedOver;
use region_model::region_map::{FAILOVER_AFTER, FailoverRules, LEASE, MapState, RegionState};
use tokio::time::Instant;

use crate::PATIENCE;
use crate::mesh::{Mesh, region};

/// Short enough for a test: a lease has to lapse all the same.
const SOON: FailoverRules = FailoverRules { automatic: true, after: Duration::from_secs(4) };
/// Long after everything about a region that is gone has been decided.
const LONG: Duration = Duration::from_secs(12);

async fn mesh(names: &[&str], rules: FailoverRules) -> Mesh {
    let mut mesh = Mesh::stopped(names, Duration::from_millis(20));
    mesh.failover = rules;
    for name in names {
        mesh.start_region(&region(name)).await;
    }
    mesh.all_hold_leases().await;
    mesh
}

fn state(map: &MapState, name: &RegionId) -> RegionState {
    map.region(name).expect("known").state
}

fn is_taken_over(map: &MapState, name: &RegionId) -> bool {
    state(map, name) == RegionState::Fenced && map.slots.stewarded(name) == 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_is_fenced_by_the_next_one_within_13_seconds_and_every_region_hears_of_it() {
    // A learner, too: four regions have three voters.
    let mut mesh = mesh(&["eu", "us", "ap", "sa"], FailoverRules::default()).await;
    let dead = mesh.leader().await;
    mesh.kill(&dead).await;
    let killed = Instant::now();
    mesh.until("all know that its slots are taken over", || {
        mesh.running.keys().all(|name| is_taken_over(&mesh.map(name), &dead)).then_some(())
    })
    .await;
    let took = killed.elapsed();
    println!("a dead leader's slots were taken over after {} ms", took.as_millis());
    assert!(took >= FAILOVER_AFTER - Duration::from_secs(2) && took < Duration::from_secs(13), "{took:?}");
    assert_eq!(mesh.running.values().map(|running| running.node.fences_committed()).sum::<u64>(), 1);
    let fence = mesh.map(&region("sa")).generation_of(&dead);
    mesh.start_region(&dead).await;
    mesh.until("it comes back", || mesh.running[&dead].lease.may_sequence().then_some(())).await;
    let right = mesh.running[&dead].lease.right();
    assert!(right.leased && right.generation == fence && fence > 0, "{right:?}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_returns_knows_its_fence_for_good_before_it_may_hold_a_lease() {
    let mut mesh = mesh(&["eu", "us", "ap"], SOON).await;
    let us = region("us");
    mesh.kill(&us).await;
    mesh.until("it is taken over", || is_taken_over(&mesh.map(&region("eu")), &us).then_some(())).await;
    let fence = mesh.map(&region("eu")).generation_of(&us);
    let stored = |mesh: &Mesh| {
        let store = mesh.stores[&us].0.stores().map;
        async move { store.get(bytes::Bytes::from_static(b"fence")).await.expect("reads") }
    };
    assert_eq!(stored(&mesh).await, None);
    mesh.start_region(&us).await;
    mesh.until("it comes back", || mesh.running[&us].lease.may_sequence().then_some(())).await;
    // A version byte, and postcard's number.
    let noted = stored(&mesh).await.expect("noted");
    assert_eq!(noted[1..].iter().rev().fold(0, |number, byte| (number << 7) | u64::from(byte & 0x7f)), fence);
    assert_eq!(mesh.running[&us].lease.right().generation, fence);
    // A crash right after loses nothing of it.
    mesh.kill(&us).await;
    assert_eq!(stored(&mesh).await, Some(noted));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_cut_from_one_other_keeps_its_lease_follows_the_map_and_is_never_fenced() {
    let mesh = mesh(&["eu", "us", "ap"], SOON).await;
    let leader = mesh.leader().await;
    let others: Vec<_> = mesh.names.iter().filter(|name| **name != leader).cloned().collect();
    let cut = others[0].clone();
    mesh.network.set_cut_both(&leader, &cut, true);
    let began = Instant::now();
    mesh.until("a long time", || {
        assert!(mesh.names.iter().all(|name| mesh.running[name].lease.may_sequence()), "all go on");
        (began.elapsed() > LONG).then_some(())
    })
    .await;
    assert_eq!(mesh.running.values().map(|running| running.node.fences_committed()).sum::<u64>(), 0);
    let version = mesh.map(&leader).version;
    mesh.until("it has the map by way of the third", || (mesh.map(&cut).version >= version).then_some(())).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_heard_and_hears_nothing_is_fenced_once_and_returns_after_the_heal() {
    let mesh = mesh(&["eu", "us", "ap"], SOON).await;
    let us = region("us");
    let others = [region("eu"), region("ap")];
    for other in &others {
        mesh.network.set_cut(other, &us, true);
    }
    mesh.until("it is taken over", || is_taken_over(&mesh.map(&region("eu")), &us).then_some(())).await;
    assert!(!mesh.running[&us].lease.may_sequence());
    let changed = mesh.map(&region("eu")).changed;
    let began = Instant::now();
    mesh.until("a long time", || {
        let map = mesh.map(&region("eu"));
        assert!(map.changed == changed && state(&map, &us) == RegionState::Fenced, "nothing flaps");
        (began.elapsed() > LONG / 2).then_some(())
    })
    .await;
    for other in &others {
        mesh.network.set_cut(other, &us, false);
    }
    mesh.until("it comes back", || mesh.running[&us].lease.may_sequence().then_some(())).await;
    assert_eq!(mesh.map(&us).slots.stewarded(&us), 0, "it gets nothing back by itself");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_regions_fail_nothing_over_by_themselves_and_by_hand_once_the_lease_has_lapsed() {
    let mut mesh = mesh(&["eu", "us"], SOON).await;
    let (eu, us) = (region("eu"), region("us"));
    let node = mesh.node(&eu).clone();
    assert!(matches!(node.fence(&us, PATIENCE).await, Err(NotFailedOver::HoldsLease(_))), "it is alive");
    assert_eq!(node.reassign(&us, PATIENCE).await, Err(NotFailedOver::State(RegionState::Active)));
    assert_eq!(node.fence(&region("sa"), PATIENCE).await, Err(NotFailedOver::UnknownRegion(region("sa"))));
    mesh.kill(&us).await;
    let killed = Instant::now();
    let fence = loop {
        match node.fence(&us, PATIENCE).await {
            Ok(fence) => break fence,
            Err(NotFailedOver::HoldsLease(remaining)) => {
                assert!(remaining < LEASE + Duration::from_millis(100));
                tokio::time::sleep(remaining).await;
            }
            Err(other) => panic!("{other:?}"),
        }
    };
    assert!(killed.elapsed() > LEASE / 2, "not before the lease has lapsed");
    assert_eq!(node.fence(&us, PATIENCE).await, Ok(fence), "again is the same");
    let moved = node.reassign(&us, PATIENCE).await.expect("moved");
    assert_eq!((moved.moved, moved.left), (2_048, 0));
    assert_eq!(node.reassign(&us, PATIENCE).await.expect("again").moved, 0);
    mesh.start_region(&us).await;
    mesh.until("us comes back", || mesh.running[&us].lease.may_sequence().then_some(())).await;
    mesh.kill(&us).await;
    let began = Instant::now();
    mesh.until("a long time", || {
        assert_eq!(state(&mesh.map(&eu), &us), RegionState::Active, "one voter's word is not enough");
        (began.elapsed() > LONG).then_some(())
    })
    .await;
    mesh.kill(&eu).await;
    mesh.start_region(&us).await;
    let alone = mesh.node(&us).fence(&eu, Duration::from_secs(1)).await;
    assert_eq!(alone, Err(NotFailedOver::NoMajority), "the map voter is out of reach");
    mesh.stop().await;
}
