//! What each command does, and why it is refused.

use hearth_protocol::{Epoch, RegionMap, Slot};
use region_model::region_map::{
    FirstMap, MapCommand, MapFact, MapRefusal, MapState, RangeOf, Reachability, RegionState, SlotGroup,
};
use std::time::Duration;

use super::{changed, founded, region, renewal, store, term};

fn fence(map: &MapState, name: &str) -> MapCommand {
    MapCommand::Fence { region: region(name), term: term(map, name) }
}

fn refused(map: &mut MapState, command: &MapCommand) -> MapRefusal {
    let before = map.clone();
    let answer = map.apply(command);
    assert_eq!(*map, before, "a refused command changes nothing");
    answer.fact().expect_err("it is refused").clone()
}

#[test]
fn the_first_map_is_the_configured_one_and_is_made_once() {
    let regions = vec![region("eu"), region("us"), region("ap")];
    let mut map = MapState::default();
    let take = MapCommand::TakeIncarnation { region: region("eu"), store: store(1), counter: 0, replaces: 0, term: 0 };
    assert_eq!(refused(&mut map, &take), MapRefusal::NotFounded);
    let found = MapCommand::Found(FirstMap::of(regions.clone()));
    assert_eq!(changed(&mut map, &found).version(), 1);
    let configured = RegionMap { version: 1, regions };
    for slot in (0..Slot::COUNT).map(Slot) {
        let placement = configured.placement_log(slot);
        let group = map.slots.group(slot).expect("it is founded");
        assert_eq!((&group.steward, &group.voters), (&placement.home, &placement.voters));
        assert_eq!(map.placement_epoch(slot), Some(placement.epoch));
    }
    let other = MapCommand::Found(FirstMap::of(vec![region("sa")]));
    for again in [found, other] {
        assert!(map.apply(&again).fact().is_ok());
        assert_eq!(map.version, 1);
    }
}

#[test]
fn the_map_voters_are_one_three_or_five() {
    for (regions, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (7, 5)] {
        let names = (0..regions).map(|number| region(&format!("r{number}"))).collect();
        assert_eq!(FirstMap::of(names).map_voters.len(), voters);
    }
    let map = founded(&["eu", "us"]);
    assert_eq!(map.named_map_voter(), Some(&region("eu")));
    assert_eq!(founded(&["eu", "us", "ap"]).named_map_voter(), None);
}

#[test]
fn a_store_older_than_the_map_knows_gets_no_lease_until_it_is_a_new_incarnation() {
    let mut map = founded(&["eu", "us", "ap"]);
    for _ in 0..3 {
        let renewal = renewal(&map, "eu");
        changed(&mut map, &renewal);
    }
    let restored = |counter, incarnation| MapCommand::Renew {
        region: region("eu"),
        store: store(1),
        incarnation,
        counter,
        milliseconds: 6_000,
    };
    assert_eq!(refused(&mut map, &restored(2, 1)), MapRefusal::OlderStore(3));
    let take = |map: &MapState, replaces| MapCommand::TakeIncarnation {
        region: region("eu"),
        store: store(1),
        counter: 2,
        replaces,
        term: term(map, "eu"),
    };
    let took = take(&map, 1);
    let answer = changed(&mut map, &took);
    let fence = map.version;
    assert_eq!(answer.fact(), Ok(&MapFact::Incarnation { incarnation: 2, fence }));
    assert_eq!(refused(&mut map, &restored(3, 2)), MapRefusal::State(RegionState::Fenced));
    let returned = MapCommand::Return { region: region("eu"), incarnation: 2, fence };
    changed(&mut map, &returned);
    // A renewal of the incarnation before that was on its way.
    assert!(matches!(refused(&mut map, &restored(4, 1)), MapRefusal::OtherStore { incarnation: 2, .. }));
    changed(&mut map, &restored(3, 2));
    let stale = take(&map, 1);
    assert!(map.apply(&stale).fact().is_ok_and(|fact| *fact == MapFact::Incarnation { incarnation: 2, fence }));
    let wrong = take(&map, 5);
    assert!(matches!(refused(&mut map, &wrong), MapRefusal::OtherStore { incarnation: 2, .. }));
}

#[test]
fn a_fence_ends_a_right_for_good_and_a_fenced_region_may_come_back() {
    let mut map = founded(&["eu", "us", "ap"]);
    let held = renewal(&map, "us");
    changed(&mut map, &held);
    let early = fence(&map, "us");
    let renewed = renewal(&map, "us");
    changed(&mut map, &renewed);
    assert_eq!(refused(&mut map, &early), MapRefusal::Renewed(2), "it was renewed since the fence was decided upon");
    let fenced = fence(&map, "us");
    let answer = changed(&mut map, &fenced);
    let fence = map.version;
    assert_eq!(answer.fact(), Ok(&MapFact::Fence { fence }));
    let entry = map.region(&region("us")).expect("known").clone();
    assert_eq!((entry.state, entry.lease, entry.fence), (RegionState::Fenced, None, fence));
    let renewal = renewal(&map, "us");
    assert_eq!(refused(&mut map, &renewal), MapRefusal::State(RegionState::Fenced));
    let back = |fence| MapCommand::Return { region: region("us"), incarnation: 1, fence };
    assert_eq!(refused(&mut map, &back(fence - 1)), MapRefusal::State(RegionState::Fenced));
    changed(&mut map, &back(fence));
    assert_eq!(refused(&mut map, &fenced), MapRefusal::Renewed(entry.term));
    changed(&mut map, &renewal);
    // Its slots were not reassigned meanwhile: it stewards them under new epochs.
    let since = |map: &MapState, slot| map.placement_epoch(Slot(slot)).expect("founded");
    assert_eq!((since(&map, 0), since(&map, 1)), (Epoch(1), Epoch(fence + 1)));
}

#[test]
fn the_slots_of_a_fenced_region_are_spread_over_the_live_voters_of_their_placement_logs() {
    let mut map = founded(&["eu", "us", "ap", "sa", "af"]);
    let active = MapCommand::Reassign { region: region("eu"), seen: map.changed };
    assert_eq!(refused(&mut map, &active), MapRefusal::State(RegionState::Active));
    for name in ["eu", "us"] {
        let fence = fence(&map, name);
        changed(&mut map, &fence);
    }
    let reassign = MapCommand::Reassign { region: region("eu"), seen: map.changed };
    let stale = MapCommand::Reassign { region: region("eu"), seen: map.changed - 1 };
    assert_eq!(refused(&mut map, &stale), MapRefusal::Changed(map.changed));
    let before = map.clone();
    let answer = changed(&mut map, &reassign);
    // eu's voters are eu, us and ap: only ap is left of them.
    assert_eq!(answer.fact(), Ok(&MapFact::Slots { moved: 820, left: 0 }));
    for (slot, group) in before.slots.iter().filter(|(_, group)| group.steward == region("eu")) {
        let now = map.slots.group(slot).expect("founded");
        assert_eq!((&now.steward, &now.voters, now.since), (&region("ap"), &group.voters, map.version));
    }
    let reassign = MapCommand::Reassign { region: region("us"), seen: map.changed };
    changed(&mut map, &reassign);
    let loads = ["us", "ap", "sa"].map(|name| map.slots.stewarded(&region(name)));
    assert_eq!(loads.iter().sum::<usize>(), 4_096 - 819, "af keeps its own");
    assert_eq!(loads, [0, 1_639, 1_638], "the one with the fewest takes the next");
    assert!(!map.apply(&reassign).changed());
}

#[test]
fn slots_without_a_live_voter_stay_and_are_counted() {
    let mut map = founded(&["eu", "us", "ap", "sa"]);
    for name in ["eu", "us", "ap"] {
        let fence = fence(&map, name);
        changed(&mut map, &fence);
    }
    let reassign = MapCommand::Reassign { region: region("eu"), seen: map.changed };
    let answer = map.apply(&reassign);
    assert!(!answer.changed());
    assert_eq!(answer.fact(), Ok(&MapFact::Slots { moved: 0, left: 1_024 }));
}

#[test]
fn an_added_region_follows_until_it_is_activated_and_leaves_only_when_it_holds_nothing() {
    let mut map = founded(&["eu", "us", "ap"]);
    let sa = region("sa");
    let add = MapCommand::AddRegion { region: sa.clone(), seen: map.changed };
    changed(&mut map, &add);
    assert!(!map.apply(&add).changed());
    let take = MapCommand::TakeIncarnation { region: sa.clone(), store: store(9), counter: 0, replaces: 0, term: 0 };
    changed(&mut map, &take);
    let renew = renewal(&map, "sa");
    assert_eq!(refused(&mut map, &renew), MapRefusal::State(RegionState::Following));
    let place = |map: &MapState, steward: &str| MapCommand::Place {
        slots: vec![Slot(7), Slot(9)],
        steward: region(steward),
        voters: vec![region("eu"), region("sa"), region("ap")],
        seen: map.changed,
    };
    let early = place(&map, "sa");
    assert_eq!(refused(&mut map, &early), MapRefusal::State(RegionState::Following));
    let activate = MapCommand::Activate { region: sa.clone(), seen: map.changed };
    changed(&mut map, &activate);
    changed(&mut map, &renew);
    let taken = place(&map, "sa");
    changed(&mut map, &taken);
    let expected =
        SlotGroup { steward: sa.clone(), voters: vec![region("eu"), sa.clone(), region("ap")], since: map.version };
    assert_eq!(map.slots.group(Slot(9)), Some(&expected));
    assert!(!map.apply(&taken).changed());
    let drain = |map: &MapState, draining| MapCommand::SetDraining { region: sa.clone(), draining, seen: map.changed };
    for draining in [true, false, true] {
        let drain = drain(&map, draining);
        changed(&mut map, &drain);
    }
    let remove =
        |map: &MapState| MapCommand::RemoveRegion { region: sa.clone(), term: term(map, "sa"), seen: map.changed };
    let early = remove(&map);
    assert_eq!(refused(&mut map, &early), MapRefusal::InUse);
    let given_back = MapCommand::Place {
        slots: vec![Slot(7), Slot(9)],
        steward: region("eu"),
        voters: vec![region("eu"), region("us"), region("ap")],
        seen: map.changed,
    };
    changed(&mut map, &given_back);
    let removed = remove(&map);
    assert_eq!(removed.must_have_lapsed(), Some((&sa, 1)));
    changed(&mut map, &removed);
    let renew = renewal(&map, "sa");
    assert_eq!(refused(&mut map, &renew), MapRefusal::State(RegionState::Removed));
    assert_eq!(map.members().count(), 3);
}

#[test]
fn placements_of_slots_are_checked() {
    let mut map = founded(&["eu", "us", "ap"]);
    let place = |slots: Vec<u16>, steward: &str, voters: &[&str]| MapCommand::Place {
        slots: slots.into_iter().map(Slot).collect(),
        steward: region(steward),
        voters: voters.iter().map(|voter| region(voter)).collect(),
        seen: 4,
    };
    for (command, range) in [
        (place(vec![], "eu", &["eu"]), RangeOf::Slots),
        (place(vec![4_096], "eu", &["eu"]), RangeOf::Slots),
        (place(vec![1, 1], "eu", &["eu"]), RangeOf::Slots),
        (place(vec![1], "eu", &["us"]), RangeOf::PlacementVoters),
        (place(vec![1], "eu", &["eu", "eu"]), RangeOf::PlacementVoters),
    ] {
        assert_eq!(refused(&mut map, &command), MapRefusal::Range(range), "{command:?}");
    }
    let unknown = place(vec![1], "eu", &["eu", "sa"]);
    assert_eq!(refused(&mut map, &unknown), MapRefusal::UnknownRegion(region("sa")));
    changed(&mut map, &place(vec![1], "eu", &["eu", "us"]));
}

#[test]
fn map_voters_change_one_by_one_and_the_last_one_stays() {
    let mut map = founded(&["eu", "us", "ap", "sa"]);
    let remove = |map: &MapState, name: &str| MapCommand::RemoveMapVoter { region: region(name), seen: map.changed };
    let add = |map: &MapState, name: &str| MapCommand::AddMapVoter { region: region(name), seen: map.changed };
    let (first, second) = (remove(&map, "eu"), remove(&map, "us"));
    changed(&mut map, &first);
    assert_eq!(refused(&mut map, &second), MapRefusal::Changed(map.changed), "decided upon a map that has changed");
    let added = add(&map, "sa");
    changed(&mut map, &added);
    assert_eq!(map.map_voters, [region("us"), region("ap"), region("sa")]);
    for name in ["us", "ap"] {
        let remove = remove(&map, name);
        changed(&mut map, &remove);
    }
    let last = remove(&map, "sa");
    assert_eq!(refused(&mut map, &last), MapRefusal::Range(RangeOf::MapVoters));
    let named = MapCommand::NameMapVoter { region: region("eu"), force: false, seen: map.changed };
    assert_eq!(refused(&mut map, &named), MapRefusal::NotTwoRegions);
}

#[test]
fn of_three_regions_one_is_named_by_force_fences_the_others_and_takes_them_as_voters_again() {
    let mut map = founded(&["eu", "us", "ap"]);
    let named = MapCommand::NameMapVoter { region: region("us"), force: true, seen: map.changed };
    changed(&mut map, &named);
    assert_eq!((map.generation, &map.map_voters[..]), (1, &[region("us")][..]));
    for name in ["eu", "ap"] {
        assert_eq!(map.region(&region(name)).map(|entry| entry.state), Some(RegionState::Fenced));
    }
    assert_eq!(map.region(&region("us")).map(|entry| entry.state), Some(RegionState::Active));
}

#[test]
fn a_voter_named_by_force_fences_the_other_region() {
    let mut map = founded(&["eu", "us"]);
    let held = renewal(&map, "eu");
    changed(&mut map, &held);
    let named = MapCommand::NameMapVoter { region: region("us"), force: true, seen: map.changed };
    changed(&mut map, &named);
    assert_eq!((map.generation, map.named_map_voter()), (1, Some(&region("us"))));
    let other = map.region(&region("eu")).expect("known").clone();
    assert_eq!((other.state, other.lease, other.fence), (RegionState::Fenced, None, map.version));
    let renew = renewal(&map, "eu");
    assert_eq!(refused(&mut map, &renew), MapRefusal::State(RegionState::Fenced));
    let back = MapCommand::NameMapVoter { region: region("eu"), force: false, seen: map.changed };
    assert_eq!(refused(&mut map, &back), MapRefusal::State(RegionState::Fenced));
}

#[test]
fn a_region_is_out_of_reach_when_a_majority_of_the_voters_says_so_for_long_enough() {
    let map = founded(&["eu", "us", "ap", "sa", "af"]);
    let seconds = Duration::from_secs;
    let mut reports = Reachability::default();
    let down = |reports: &Reachability, now| {
        reports.is_out_of_reach(&map, &region("us"), seconds(10), seconds(3), seconds(now))
    };
    let say = |reports: &mut Reachability, voter: &str, down: u64, now| {
        reports.report(region(voter), [(region("us"), seconds(down))], seconds(now));
    };
    say(&mut reports, "eu", 12, 100);
    say(&mut reports, "ap", 12, 100);
    say(&mut reports, "us", 12, 100);
    assert!(!down(&reports, 100), "two of five, and its own word");
    say(&mut reports, "sa", 9, 100);
    assert!(!down(&reports, 100), "not long enough");
    say(&mut reports, "sa", 10, 101);
    assert!(down(&reports, 101));
    assert!(!down(&reports, 104), "two of the reports are stale");
    reports.report(region("sa"), [], seconds(101));
    assert!(!down(&reports, 101), "one of the three sees it again");
    let named = founded(&["eu", "us"]);
    let mut reports = Reachability::default();
    say(&mut reports, "eu", 10, 1);
    assert!(reports.is_out_of_reach(&named, &region("us"), seconds(10), seconds(3), seconds(1)));
    assert!(!reports.is_out_of_reach(&named, &region("eu"), seconds(10), seconds(3), seconds(1)));
}
