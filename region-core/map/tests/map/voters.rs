//! Voters and learners change by the map, one at a time; snapshots; the named voter of two regions.

use std::time::Duration;

use region_map::{NotDecided, RegionMapLog as _};
use region_model::region_map::{MapCommand, MapRefusal, RegionState};

use crate::PATIENCE;
use crate::mesh::{Mesh, region};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_are_replaced_one_at_a_time_and_the_leader_may_be_one_of_them() {
    let mesh = Mesh::start(&["eu", "us", "ap", "sa"], Duration::from_millis(5)).await;
    mesh.all_hold_leases().await;
    let leader = mesh.leader().await;
    let sa = region("sa");
    mesh.until("sa has the map", || (mesh.map(&sa).changed == mesh.map(&leader).changed).then_some(())).await;
    let added = mesh.node(&sa).add_voter(sa.clone(), PATIENCE).await.expect("decided");
    assert!(added.changed(), "{added:?}");
    let voters = |count: usize| {
        let mesh = &mesh;
        move || {
            let leadership = mesh.node(&region("sa")).leadership();
            (leadership.voters.len() == count && !leadership.changing).then_some(leadership.voters)
        }
    };
    mesh.until("four voters", voters(4)).await;
    loop {
        let removed = mesh.node(&sa).remove_voter(leader.clone(), PATIENCE).await.expect("decided");
        match removed.fact() {
            Ok(_) => break,
            Err(refusal) => {
                assert!(matches!(refusal, MapRefusal::VotersChanging | MapRefusal::Changed(_)), "{refusal:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    let left = mesh.until("three voters", voters(3)).await;
    assert!(!left.contains(&leader) && left.contains(&sa), "{left:?}");
    mesh.until("another leader", || mesh.node(&sa).leadership().leader.filter(|next| *next != leader)).await;
    mesh.all_hold_leases().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_was_away_for_long_gets_the_map_by_a_snapshot() {
    let mut mesh = Mesh::start(&["eu", "us", "ap"], Duration::ZERO).await;
    mesh.all_hold_leases().await;
    let leader = mesh.leader().await;
    let away = mesh.names.iter().find(|name| **name != leader).expect("three").clone();
    let busy = mesh.names.iter().find(|name| **name != leader && **name != away).expect("three").clone();
    mesh.kill(&away).await;
    // More than a snapshot's worth of entries, and than the entries that are kept behind it.
    let mut draining = true;
    for _ in 0..1_300 {
        let seen = mesh.map(&leader).changed;
        let command = MapCommand::SetDraining { region: busy.clone(), draining, seen };
        if mesh.propose(&leader, command).await.changed() {
            draining = !draining;
        }
    }
    let version = mesh.map(&leader).version;
    assert!(version > 1_000, "{version}");
    mesh.start_region(&away).await;
    mesh.until("it has the map", || (mesh.map(&away).version >= version).then_some(())).await;
    assert_eq!(mesh.map(&away).slots, mesh.map(&leader).slots);
    // And once more from its own store.
    mesh.kill(&away).await;
    mesh.start_region(&away).await;
    mesh.until("it has the map again", || (mesh.map(&away).version >= version).then_some(())).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_regions_one_goes_on_by_force_and_the_other_one_starts_fenced() {
    let mut mesh = Mesh::start(&["eu", "us"], Duration::from_millis(5)).await;
    mesh.all_hold_leases().await;
    let (eu, us) = (region("eu"), region("us"));
    mesh.until("us learns the map", || {
        (mesh.node(&us).leadership().learners == [us.clone()] && mesh.map(&us).version == mesh.map(&eu).version)
            .then_some(())
    })
    .await;
    assert_eq!(mesh.map(&us).named_map_voter(), Some(&eu));
    mesh.kill(&eu).await;
    mesh.until("the lease of us lapses", || (!mesh.running[&us].lease.may_sequence()).then_some(())).await;
    let seen = mesh.map(&us).changed;
    let alone = MapCommand::SetDraining { region: us.clone(), draining: true, seen };
    let undecided = mesh.node(&us).propose(alone, Duration::from_secs(1)).await;
    assert_eq!(undecided, Err(NotDecided::Unknown), "the map voter is out of reach");
    let named = mesh.node(&us).name_map_voter_by_force(PATIENCE).await.expect("decided");
    assert!(named.changed(), "{named:?}");
    let map = mesh.map(&us);
    assert_eq!((map.generation, map.named_map_voter()), (1, Some(&us)));
    assert_eq!(map.region(&eu).map(|entry| entry.state), Some(RegionState::Fenced));
    mesh.until("us holds its lease", || mesh.running[&us].lease.may_sequence().then_some(())).await;
    let fence = map.region(&eu).expect("known").fence;
    mesh.start_region(&eu).await;
    mesh.until("eu learns the new map and comes back from its fence", || {
        let map = mesh.map(&eu);
        (map.generation == 1 && mesh.running[&eu].lease.may_sequence()).then_some(())
    })
    .await;
    assert_eq!(mesh.map(&eu).region(&eu).expect("known").fence, fence);
    assert_eq!(mesh.node(&eu).leadership().leader, Some(us));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_three_regions_the_last_one_goes_on_by_force_and_takes_the_others_as_voters_again() {
    let mut mesh = Mesh::start(&["eu", "us", "ap"], Duration::from_millis(5)).await;
    mesh.all_hold_leases().await;
    let (eu, us, ap) = (region("eu"), region("us"), region("ap"));
    mesh.kill(&eu).await;
    mesh.kill(&us).await;
    let named = mesh.node(&ap).name_map_voter_by_force(PATIENCE).await.expect("decided");
    assert!(named.changed(), "{named:?}");
    let map = mesh.map(&ap);
    assert_eq!((map.generation, &map.map_voters[..]), (1, std::slice::from_ref(&ap)));
    mesh.until("ap holds its lease", || mesh.running[&ap].lease.may_sequence().then_some(())).await;
    for name in [&eu, &us] {
        assert_eq!(map.region(name).map(|entry| entry.state), Some(RegionState::Fenced));
        mesh.start_region(name).await;
    }
    for name in [&eu, &us] {
        mesh.until("it learns the new map and comes back from its fence", || {
            (mesh.map(name).generation == 1 && mesh.running[name].lease.may_sequence()).then_some(())
        })
        .await;
        loop {
            match mesh.node(&ap).add_voter(name.clone(), PATIENCE).await.expect("decided").fact() {
                Ok(_) => break,
                Err(refusal) => {
                    assert!(matches!(refusal, MapRefusal::VotersChanging | MapRefusal::Changed(_)), "{refusal:?}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
    mesh.until("three voters", || {
        let leadership = mesh.node(&ap).leadership();
        (leadership.voters.len() == 3 && !leadership.changing).then_some(())
    })
    .await;
    mesh.stop().await;
}
