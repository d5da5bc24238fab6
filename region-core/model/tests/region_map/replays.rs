//! The version grows by one with each command that takes effect, and a command that comes again changes nothing:
//! at once, late, or from the start.

use hearth_protocol::Slot;
use hearth_protocol::record::Record as _;
use proptest::prelude::*;
use region_model::region_map::{MapAnswer, MapCommand, MapState, RegionState};

use super::{founded, region, store};

const NAMES: [&str; 5] = ["eu", "us", "ap", "sa", "af"];

/// A command with its guards as far off as `off` says: 0 for those of the map as it stands.
fn command(map: &MapState, kind: u8, who: usize, other: usize, off: u64) -> MapCommand {
    let region = region(NAMES[who]);
    let entry = map.region(&region);
    let term = entry.map_or(0, |entry| entry.term).saturating_sub(off);
    let mark = entry.and_then(|entry| entry.store);
    let incarnation = mark.map_or(0, |mark| mark.incarnation).saturating_sub(off);
    let counter = mark.map_or(0, |mark| mark.counter + 1).saturating_sub(off);
    let store = mark.map_or(store(who as u128 + 1), |mark| mark.store);
    let seen = map.changed.saturating_sub(off);
    match kind {
        0..=3 => MapCommand::Renew { region, store, incarnation, counter, milliseconds: 6_000 },
        4 => MapCommand::TakeIncarnation { region, store, counter: other as u64, replaces: incarnation, term },
        5 => MapCommand::Fence { region, term },
        6 | 7 => {
            let fence = entry.map_or(0, |entry| entry.fence).saturating_sub(off);
            MapCommand::Return { region, incarnation, fence }
        }
        8 => MapCommand::Reassign { region, seen },
        9 => {
            let (slots, voters) =
                (vec![Slot(3), Slot(other as u16 + 10)], vec![region.clone(), super::region(NAMES[other])]);
            MapCommand::Place { slots, steward: region, voters, seen }
        }
        10 => MapCommand::AddRegion { region, seen },
        11 => MapCommand::Activate { region, seen },
        12 => MapCommand::RemoveRegion { region, term, seen },
        13 => MapCommand::SetDraining { region, draining: other.is_multiple_of(2), seen },
        14 => MapCommand::AddMapVoter { region, seen },
        15 => MapCommand::RemoveMapVoter { region, seen },
        _ => MapCommand::NameMapVoter { region, force: other.is_multiple_of(2), seen },
    }
}

/// What must hold of any map.
fn check(map: &MapState) {
    assert!(!map.map_voters.is_empty());
    assert_eq!(map.slots.iter().count(), 4_096);
    for (_, group) in map.slots.iter() {
        assert!(group.since <= map.version && group.voters.contains(&group.steward));
        let steward = map.region(&group.steward).expect("a steward is a region");
        assert!(!matches!(steward.state, RegionState::Removed | RegionState::Following));
    }
    for entry in &map.regions {
        assert!(entry.lease.is_none() || matches!(entry.state, RegionState::Active | RegionState::Draining));
        assert!(entry.fence <= map.version);
    }
}

proptest! {
    #[test]
    fn commands_count_once_and_replays_change_nothing(
        two_regions in any::<bool>(),
        picks in prop::collection::vec((0_u8..17, 0_usize..5, 0_usize..5, 0_u64..3, any::<prop::sample::Index>()), 1..60),
    ) {
        let start = founded(if two_regions { &NAMES[..2] } else { &NAMES[..3] });
        let mut map = start.clone();
        let mut log: Vec<(MapCommand, MapAnswer)> = Vec::new();
        for (kind, who, other, off, earlier) in picks {
            let command = command(&map, kind, who, other, off / 2);
            let before = map.clone();
            let answer = map.apply(&command);
            prop_assert_eq!(map.version, before.version + u64::from(answer.changed()));
            prop_assert_eq!(answer.changed(), map != before);
            prop_assert_eq!(answer.version(), map.version);
            let terms = before.regions.iter().zip(&map.regions);
            prop_assert!(terms.into_iter().all(|(before, after)| before.term <= after.term && before.fence <= after.fence));
            check(&map);
            log.push((command, answer));
            // At once, and any one of the past.
            let late = log[earlier.index(log.len())].0.clone();
            let took_effect = log.iter().any(|(command, answer)| *command == late && answer.changed());
            let last = log.last().expect("just pushed").clone();
            let now = map.clone();
            prop_assert!(!map.apply(&last.0).changed());
            if took_effect {
                prop_assert!(!map.apply(&late).changed(), "{:?} took effect twice", late);
            }
            prop_assert_eq!(&map, &now);
            prop_assert_eq!(&MapState::read(&map.encode()).expect("it reads back"), &map);
        }
        // The same log from the start gives the same map and the same answers.
        let mut again = start;
        for (command, answer) in &log {
            prop_assert_eq!(&again.apply(command), answer);
        }
        prop_assert_eq!(again, map);
    }
}
