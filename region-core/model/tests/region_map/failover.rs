//! The leader's decision about regions that are gone: one decision for each partition, whatever its form, and every
//! slot with an owner.

use std::time::Duration;

use proptest::prelude::*;
use region_model::region_map::{
    FAILOVER_AFTER, LeaderLeases, LeaderView, MapCommand, Reachability, RegionState, Silences,
};

use super::world::{NAMES, World};
use super::{changed, founded, region, renewal, term};

/// Ticks in which every decision about a stable partition is made: time until it counts, a lease, an election.
const SETTLED: u64 = 60;

#[test]
fn a_region_that_dies_is_fenced_once_and_its_slots_are_dealt_evenly_whoever_leads() {
    for (count, dies) in [(3, 0), (3, 1), (4, 3), (5, 0), (5, 4)] {
        let mut world = World::new(count);
        let before = world.slots(dies);
        assert!(before > 0);
        world.nodes[dies].alive = false;
        while world.fences() == 0 {
            assert!(
                world.now() < Duration::from_secs(5) + FAILOVER_AFTER + Duration::from_secs(2),
                "it takes too long"
            );
            world.tick();
        }
        world.run(SETTLED);
        assert_eq!((world.fences(), world.state(dies), world.slots(dies)), (1, RegionState::Fenced, 0));
        assert_eq!(world.decisions.len(), 2, "a fence and a move: {:?}", world.decisions);
        let rest: Vec<usize> = (0..count).filter(|node| *node != dies).map(|node| world.slots(node)).collect();
        let spread = rest.iter().max().expect("others") - rest.iter().min().expect("others");
        assert!(count > 3 || spread <= 2, "{rest:?}");
        assert_eq!(rest.iter().sum::<usize>(), 4_096);
        world.nodes[dies].alive = true;
        world.run(SETTLED);
        assert!(world.holds(dies) && world.state(dies) == RegionState::Active);
        assert_eq!((world.fences(), world.slots(dies)), (1, 0), "it gets nothing back by itself");
    }
}

#[test]
fn a_link_cut_between_two_of_three_ends_in_no_decision_at_all_in_either_direction_or_both() {
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        for cut in [vec![(one, other)], vec![(other, one)], vec![(one, other), (other, one)]] {
            let mut world = World::new(3);
            world.cut = cut;
            for _ in 0..4 * SETTLED {
                world.tick();
                assert!(world.leader.is_none() || (0..3).all(|node| world.holds(node)));
            }
            assert!(world.decisions.is_empty(), "{:?}", world.decisions);
        }
    }
}

#[test]
fn a_region_that_is_heard_and_hears_nothing_is_fenced_and_does_not_flap() {
    for inwards in [true, false] {
        let mut world = World::new(3);
        world.cut = (1..3).map(|other| if inwards { (other, 0) } else { (0, other) }).collect();
        world.run(4 * SETTLED);
        assert_eq!(world.decisions.len(), 2, "{:?}", world.decisions);
        assert_eq!((world.state(0), world.without_owner()), (RegionState::Fenced, 0));
        world.cut.clear();
        world.run(SETTLED);
        assert!(world.holds(0) && world.decisions.len() == 3, "{:?}", world.decisions);
    }
}

#[test]
fn a_leader_that_dies_between_fence_and_move_leaves_the_move_to_the_next_one() {
    let mut world = World::new(5);
    world.steps = 1;
    world.nodes[4].alive = false;
    while world.fences() == 0 {
        world.tick();
    }
    let first = world.leader.expect("one led");
    assert!(world.slots(4) > 0, "fenced, and not moved yet");
    world.nodes[first].alive = false;
    while world.slots(4) > 0 {
        world.tick();
    }
    assert_ne!(world.leader, Some(first));
    world.run(SETTLED);
    assert_eq!((world.fences(), world.state(first), world.without_owner()), (2, RegionState::Fenced, 0));
}

#[test]
fn two_regions_and_a_mesh_without_automatic_failover_decide_nothing_by_themselves() {
    let mut two = World::new(2);
    two.nodes[1].alive = false;
    two.run(4 * SETTLED);
    assert!(two.decisions.is_empty() && two.holds(0), "{:?}", two.decisions);
    let mut by_hand = World::new(3);
    by_hand.rules.automatic = false;
    by_hand.nodes[1].alive = false;
    by_hand.run(4 * SETTLED);
    assert!(by_hand.decisions.is_empty(), "{:?}", by_hand.decisions);
    let fence = MapCommand::Fence { region: region("us"), term: term(&by_hand.map, "us") };
    changed(&mut by_hand.map, &fence);
    by_hand.run(SETTLED);
    assert_eq!(by_hand.slots(1), 0, "a fence by hand is followed by the move of its slots");
}

#[test]
fn a_fenced_region_that_is_in_reach_has_a_moment_to_return_before_its_slots_go() {
    let seconds = Duration::from_secs;
    let mut map = founded(&["eu", "us", "ap"]);
    let mut leases = LeaderLeases::new(Duration::ZERO);
    changed(&mut map, &MapCommand::Fence { region: region("us"), term: 0 });
    leases.applied(&map, seconds(100));
    let (me, reach) = (region("eu"), Reachability::default());
    let step = |map: &_, now| {
        LeaderView { me: &me, map, leases: &leases, reach: &reach, now: seconds(now) }.next_step(&Default::default())
    };
    assert_eq!(step(&map, 104), None);
    assert_eq!(step(&map, 105), Some(MapCommand::Reassign { region: region("us"), seen: map.changed }));
    for other in ["eu", "ap"] {
        changed(&mut map, &MapCommand::Fence { region: region(other), term: 0 });
    }
    assert_eq!(step(&map, 1_000), None, "nobody is left to take a slot");
}

#[test]
fn a_region_that_never_held_a_lease_is_not_failed_over_and_old_words_count_for_nothing() {
    let seconds = Duration::from_secs;
    let mut map = founded(&["eu", "us", "ap"]);
    let first = renewal(&map, "us");
    changed(&mut map, &first);
    let mut leases = LeaderLeases::new(Duration::ZERO);
    leases.applied(&map, Duration::ZERO);
    let mut reach = Reachability::default();
    for voter in ["eu", "ap"] {
        reach.report(region(voter), [(region("us"), FAILOVER_AFTER)], seconds(20));
    }
    let me = region("eu");
    let step = |map: &_, me: &_, now| {
        LeaderView { me, map, leases: &leases, reach: &reach, now: seconds(now) }.next_step(&Default::default())
    };
    assert_eq!(step(&map, &me, 20), Some(MapCommand::Fence { region: region("us"), term: 1 }));
    assert_eq!(step(&map, &me, 24), None, "the reports are stale");
    assert_eq!(step(&map, &region("sa"), 20), None, "the leader itself has an answer of it");
    map.regions[1].store = None;
    assert_eq!(step(&map, &me, 20), None, "it never came");
}

#[test]
fn a_region_that_was_suspended_itself_does_not_take_the_others_for_silent() {
    let seconds = Duration::from_secs;
    let (us, ap) = (region("us"), region("ap"));
    let mut silences = Silences::default();
    for second in 0..10 {
        silences.look(&[us.clone(), ap.clone()], seconds(second));
        silences.heard(&us);
    }
    assert_eq!(silences.silent(), [(ap.clone(), seconds(9))]);
    assert!(silences.is_silent(&ap) && !silences.is_silent(&us) && !silences.is_silent(&region("sa")));
    silences.look(&[us.clone(), ap.clone()], seconds(3_600));
    assert_eq!(silences.silent(), [(ap.clone(), seconds(11)), (us.clone(), seconds(2))]);
    silences.heard(&ap);
    silences.look(std::slice::from_ref(&us), seconds(3_601));
    assert_eq!(silences.silent(), [(us, seconds(3))], "who is asked no more is forgotten");
}

/// What happens to the mesh for some ticks: directions cut, and regions that are down.
type Phase = (Vec<(usize, usize)>, Vec<usize>, u64);

fn phase() -> impl Strategy<Value = Phase> {
    let cut = prop::collection::vec((0_usize..5, 0_usize..5), 0..8);
    (cut, prop::collection::vec(0_usize..5, 0..3), 1_u64..60)
}

fn enter(world: &mut World, (cut, down, ticks): &Phase) {
    let count = world.nodes.len();
    world.cut = cut.clone();
    for node in 0..count {
        world.nodes[node].alive = !down.contains(&node);
    }
    world.run(*ticks);
}

proptest! {
    #[test]
    fn whatever_is_cut_the_mesh_settles_every_slot_has_an_owner_and_all_return_after_the_heal(
        count in 3_usize..=5,
        phases in prop::collection::vec(phase(), 1..4),
    ) {
        let mut world = World::new(count);
        for phase in &phases {
            enter(&mut world, phase);
        }
        world.run(2 * SETTLED);
        let settled = world.decisions.len();
        for _ in 0..2 * SETTLED {
            world.tick();
            prop_assert_eq!(world.decisions.len(), settled, "it flaps: {:?}", &world.decisions);
            if world.leader.is_some() {
                let lost: Vec<_> = (0..count).filter(|node| !world.holds(*node)).map(|node| NAMES[node]).collect();
                prop_assert_eq!(world.without_owner(), 0, "without lease: {:?}, {:?}", lost, &world.decisions);
            }
        }
        enter(&mut world, &(Vec::new(), Vec::new(), 2 * SETTLED));
        for (node, name) in NAMES.iter().enumerate().take(count) {
            prop_assert!(world.holds(node) && world.state(node) == RegionState::Active, "{name}");
        }
        prop_assert_eq!(world.without_owner(), 0);
    }
}
