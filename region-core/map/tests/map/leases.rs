//! Leases over the replicated map.

use std::time::Duration;

use region_map::{RegionMapLog as _, begin_anew, forget};
use region_model::ports::MapStore;
use region_model::region_map::{LEASE, MapCommand, MapFact, MapRefusal, MapState, RegionState};

use crate::mesh::{Mesh, region};

fn fence(map: &MapState, name: &str) -> MapCommand {
    MapCommand::Fence { region: region(name), term: map.region(&region(name)).expect("known").term }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_cut_off_stops_by_itself_before_the_map_takes_a_fence_and_comes_back_after_the_heal() {
    let mesh = Mesh::start(&["eu", "us", "ap"], Duration::from_millis(5)).await;
    mesh.all_hold_leases().await;
    let (eu, us, ap) = (region("eu"), region("us"), region("ap"));
    for other in [&eu, &ap] {
        mesh.network.set_cut_both(&us, other, true);
    }
    let mut early = 0;
    let fence = loop {
        let command = fence(&mesh.map(&eu), "us");
        let answer = mesh.propose(&eu, command).await;
        let believes = mesh.running[&us].lease.may_sequence();
        match answer.fact() {
            Ok(MapFact::Fence { fence }) => {
                assert!(!believes, "the fence was taken while the region could believe in its lease");
                break *fence;
            }
            Err(MapRefusal::LeaseHeld(milliseconds)) => {
                early += 1;
                assert!(*milliseconds <= 6_061, "{milliseconds}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => assert!(matches!(other, Err(MapRefusal::Renewed(_))), "{other:?}"),
        }
    };
    assert!(early > 0, "else nothing was refused");
    assert_eq!(mesh.map(&eu).region(&us).map(|entry| entry.state), Some(RegionState::Fenced));
    for other in [&eu, &ap] {
        mesh.network.set_cut_both(&us, other, false);
    }
    mesh.until("the region comes back", || mesh.running[&us].lease.may_sequence().then_some(())).await;
    let entry = mesh.map(&eu).region(&us).expect("known").clone();
    assert_eq!((entry.state, entry.fence), (RegionState::Active, fence));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_store_is_a_new_incarnation_and_another_member_once_the_lease_before_has_lapsed() {
    let mut mesh = Mesh::start(&["eu", "us", "ap"], Duration::from_millis(5)).await;
    mesh.all_hold_leases().await;
    for (name, number) in [("us", 12), ("eu", 11)] {
        let lost = region(name);
        let other = region("ap");
        let before = mesh.map(&other).region(&lost).expect("known").store.expect("it has one");
        mesh.kill(&lost).await;
        mesh.lose_store(&lost, number);
        let killed = tokio::time::Instant::now();
        mesh.start_region(&lost).await;
        let lease = &mesh.running[&lost].lease;
        mesh.until("it holds a lease", || lease.may_sequence().then_some(())).await;
        // The last renewal may have come up to two seconds before the kill.
        assert!(killed.elapsed() > LEASE - Duration::from_millis(2_500), "after {:?}", killed.elapsed());
        let entry = mesh.map(&other).region(&lost).expect("known").clone();
        let after = entry.store.expect("it has one");
        assert_eq!((after.incarnation, after.store), (before.incarnation + 1, uuid::Uuid::from_u128(number)));
        assert!(entry.fence > 0, "what the lost store owned is over");
        mesh.until("it votes again, as another member", || {
            let leadership = mesh.node(&other).leadership();
            (leadership.voters == [region("ap"), region("eu"), region("us")]
                && leadership.learners.is_empty()
                && !leadership.changing)
                .then_some(())
        })
        .await;
        mesh.until("it has the map", || (mesh.map(&lost).version > 0).then_some(())).await;
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_was_fenced_comes_back_over_a_new_store_however_often_it_lost_one() {
    let mut mesh = Mesh::start(&["eu", "us", "ap"], Duration::from_millis(5)).await;
    mesh.all_hold_leases().await;
    let (eu, us) = (region("eu"), region("us"));
    for (number, incarnation) in [(12, 2), (13, 3)] {
        mesh.kill(&us).await;
        mesh.lose_store(&us, number);
        while mesh.propose(&eu, fence(&mesh.map(&eu), "us")).await.fact().is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        mesh.start_region(&us).await;
        mesh.until("it holds a lease", || mesh.running[&us].lease.may_sequence().then_some(())).await;
        let store = mesh.map(&us).region(&us).expect("known").store.expect("it has one");
        assert_eq!((store.incarnation, store.store), (incarnation, uuid::Uuid::from_u128(number)));
    }
    mesh.stop().await;
}

/// Another store than before, as it is after a restore.
fn rename_store(mesh: &mut Mesh, name: &str, number: u128) -> (std::sync::Arc<dyn MapStore>, uuid::Uuid) {
    let id = uuid::Uuid::from_u128(number);
    let (memory, store) = mesh.stores.get_mut(&region(name)).expect("known");
    *store = id;
    (memory.stores().map, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_mesh_is_gone_its_map_goes_on_at_one_restored_region_and_the_others_follow_it() {
    let mut mesh = Mesh::start(&["eu", "us", "ap"], Duration::from_millis(5)).await;
    mesh.all_hold_leases().await;
    let (eu, us, ap) = (region("eu"), region("us"), region("ap"));
    for name in mesh.names.clone() {
        mesh.kill(&name).await;
    }
    let (map, id) = rename_store(&mut mesh, "us", 12);
    let begun = begin_anew(&map, &us, id, 1_000_000).await.expect("begins");
    assert_eq!((begun.version, &begun.map_voters[..]), (1_000_001, &[us.clone()][..]));
    mesh.start_region(&us).await;
    mesh.until("it holds a lease alone", || mesh.running[&us].lease.may_sequence().then_some(())).await;
    let (map, id) = rename_store(&mut mesh, "eu", 11);
    forget(&map, id).await.expect("forgets");
    mesh.lose_store(&ap, 13);
    for name in [&eu, &ap] {
        mesh.start_region(name).await;
    }
    mesh.all_hold_leases().await;
    for name in [&eu, &us, &ap] {
        mesh.until("all have the same map", || (mesh.map(name).version > 1_000_001).then_some(())).await;
        let entry = mesh.map(&us).region(name).expect("known").clone();
        assert!(entry.fence >= 1_000_000 && entry.store.is_some_and(|store| store.incarnation > 1), "{entry:?}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_regions_found_no_map_of_their_own() {
    let mut mesh = Mesh::stopped(&["eu", "us", "ap"], Duration::from_millis(5));
    for (name, number) in [("eu", 11), ("us", 12)] {
        let (map, id) = rename_store(&mut mesh, name, number);
        forget(&map, id).await.expect("forgets");
    }
    for name in mesh.names.clone() {
        mesh.start_region(&name).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(mesh.names.iter().all(|name| mesh.map(name).version == 0), "there is nobody to learn one from");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_that_died_as_a_whole_has_its_map_again_and_its_leases_within_seconds() {
    let mut mesh = Mesh::start(&["eu", "us", "ap"], Duration::from_millis(45)).await;
    mesh.all_hold_leases().await;
    let version = mesh.names.iter().map(|name| mesh.map(name).version).max().expect("three");
    for name in mesh.names.clone() {
        mesh.kill(&name).await;
    }
    let began = tokio::time::Instant::now();
    for name in mesh.names.clone() {
        mesh.start_region(&name).await;
    }
    mesh.all_hold_leases().await;
    let took = began.elapsed();
    println!("leases again {} ms after the start of all", took.as_millis());
    for name in &mesh.names {
        mesh.until("nothing is forgotten", || (mesh.map(name).version >= version).then_some(())).await;
        assert_eq!(mesh.map(name).region(name).expect("known").store.map(|store| store.incarnation), Some(1));
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_alone_holds_its_lease() {
    let mut mesh = Mesh::start(&["eu"], Duration::ZERO).await;
    mesh.all_hold_leases().await;
    let eu = region("eu");
    mesh.kill(&eu).await;
    mesh.start_region(&eu).await;
    mesh.all_hold_leases().await;
    mesh.stop().await;
}
