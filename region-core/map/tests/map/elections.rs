//! A leader that dies is replaced, every time; regions that see a part of the mesh disturb nobody.

use std::time::Duration;

use region_map::RegionMapLog as _;
use region_model::region_map::MapCommand;
use tokio::time::Instant;

use crate::mesh::{Mesh, region, since, spread};

/// About what lies between regions of two continents.
const DELAY: Duration = Duration::from_millis(45);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_founds_its_map_at_once_and_every_region_follows_it() {
    let began = Instant::now();
    let mesh = Mesh::start(&["eu", "us", "ap", "sa"], DELAY).await;
    mesh.all_hold_leases().await;
    let took = since(began);
    mesh.until("one map", || {
        let versions: Vec<u64> = mesh.names.iter().map(|name| mesh.map(name).version).collect();
        versions.iter().all(|version| *version > 0 && *version == versions[0]).then_some(())
    })
    .await;
    let leadership = mesh.node(&region("sa")).leadership();
    assert_eq!(leadership.voters, [region("ap"), region("eu"), region("us")]);
    assert_eq!(leadership.learners, [region("sa")]);
    assert!(took < Duration::from_secs(10), "the first leases took {took:?}");
    println!("first leases of four regions after {} ms", took.as_millis());
    mesh.stop().await;
}

/// Kills whoever leads, over and over. `(from the kill to a leader that all follow, from the kill to a commit)`.
async fn kill_leaders(count: usize) -> (Vec<Duration>, Vec<Duration>) {
    let mut mesh = Mesh::start(&["eu", "us", "ap"], DELAY).await;
    mesh.all_hold_leases().await;
    let (mut elected, mut committed) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let leader = mesh.leader().await;
        mesh.kill(&leader).await;
        let killed = Instant::now();
        let next = mesh.leader().await;
        assert_ne!(next, leader);
        elected.push(since(killed));
        let other = mesh.running.keys().find(|name| **name != next).expect("two run").clone();
        let before = mesh.map(&next).region(&other).expect("known").state;
        let draining = before == region_model::region_map::RegionState::Active;
        let answer = loop {
            let seen = mesh.map(&next).changed;
            let command = MapCommand::SetDraining { region: other.clone(), draining, seen };
            let answer = mesh.propose(&other, command).await;
            if answer.fact().is_ok() {
                break answer;
            }
        };
        committed.push(since(killed));
        println!("{leader} killed, {next} leads after {:?}, a commit after {:?}", elected.last(), committed.last());
        let version = answer.version();
        mesh.start_region(&leader).await;
        mesh.until("the killed one has caught up", || (mesh.map(&leader).version >= version).then_some(())).await;
    }
    mesh.all_hold_leases().await;
    mesh.stop().await;
    (elected, committed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_killed_is_replaced_every_time() {
    let named = std::env::var("HEARTH_LEADER_KILLS").ok().and_then(|count| count.parse().ok());
    let count = named.unwrap_or(if crate::all() { 200 } else { 20 });
    let (elected, committed) = kill_leaders(count).await;
    let (half, largest) = spread(elected);
    println!("{count} leaders killed, 0 hangs: elected again after p50 {half} ms, max {largest} ms");
    let (half, largest) = spread(committed);
    println!("{count} leaders killed, 0 hangs: committed again after p50 {half} ms, max {largest} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_cut_from_the_leader_alone_ends_neither_the_leader_nor_its_own_lease() {
    let mesh = Mesh::start(&["eu", "us", "ap"], DELAY).await;
    mesh.all_hold_leases().await;
    let leader = mesh.leader().await;
    let term = mesh.node(&leader).leadership().term;
    let cut = mesh.names.iter().find(|name| **name != leader).expect("three").clone();
    mesh.network.set_cut_both(&leader, &cut, true);
    let before = mesh.running[&cut].lease.term().expect("it holds one");
    // Three more leases than one cut could outlast.
    mesh.until("renewals by way of the third region", || {
        assert!(mesh.running[&cut].lease.may_sequence(), "its lease goes on");
        (mesh.running[&cut].lease.term() >= Some(before + 5)).then_some(())
    })
    .await;
    let now = mesh.node(&leader).leadership();
    assert!(now.is_here && now.term == term, "{now:?}");
    mesh.network.set_cut_both(&leader, &cut, false);
    let version = mesh.map(&leader).version;
    mesh.until("it learns the map again", || (mesh.map(&cut).version >= version).then_some(())).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_only_hears_and_one_that_is_only_heard_are_both_survived() {
    let mesh = Mesh::start(&["eu", "us", "ap"], DELAY).await;
    mesh.all_hold_leases().await;
    for outwards in [true, false] {
        let leader = mesh.leader().await;
        let others: Vec<_> = mesh.names.iter().filter(|name| **name != leader).cloned().collect();
        for other in &others {
            let (from, to) = if outwards { (&leader, other) } else { (other, &leader) };
            mesh.network.set_cut(from, to, true);
        }
        let next = mesh
            .until("a leader that the others follow", || {
                let leaders = others.iter().map(|other| mesh.node(other).leadership().leader);
                let mut leaders = leaders.collect::<Option<Vec<_>>>()?;
                leaders.dedup();
                (leaders.len() == 1 && leaders[0] != leader).then(|| leaders[0].clone())
            })
            .await;
        assert!(mesh.node(&next).leadership().is_here);
        for other in &others {
            mesh.network.set_cut_both(&leader, other, false);
        }
        mesh.all_hold_leases().await;
    }
    mesh.stop().await;
}
