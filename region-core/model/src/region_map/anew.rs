//! A map that goes on at one region, after a mesh is gone with all of its stores and a copy of this one was brought back.

use std::sync::Arc;

use hearth_protocol::RegionId;
use uuid::Uuid;

use super::slots::SlotGroup;
use super::state::{MapState, RegionState, StoreMark, end_right};

impl MapState {
    /// The map as it goes on at `region`, whose store is another one from now on, with this counter. Nobody else is left,
    /// on the operator's word: `region` is the one voter and the one steward, every other region is fenced and comes back
    /// as one that was away, and what `region` itself owned is over as well.
    ///
    /// Versions go on at `floor` or above. Versions are epochs of placement logs and generations of placements, and those
    /// that were made after the copy are not known any more: `floor` is to be one that none of them reached. Incarnations
    /// go on there, too: the first store that a region comes back with is at `floor` + 1, as that of `region` is. So a
    /// store that was brought back for this very map can say so beforehand, and a later one of the same region cannot.
    /// `None` where `region` is no part of the mesh, or has come so far already.
    #[must_use]
    pub fn anew(&self, region: &RegionId, (store, counter): (Uuid, u64), floor: u64) -> Option<Self> {
        let entry = self.region(region).filter(|entry| entry.state != RegionState::Removed)?;
        entry.store.is_none_or(|known| known.incarnation < floor).then_some(())?;
        let fence = (self.version + 1).max(floor);
        let version = fence + 1;
        let mut next = self.clone();
        for entry in next.regions.iter_mut().filter(|entry| entry.state != RegionState::Removed) {
            end_right(entry, fence);
            if entry.region == *region {
                entry.state = RegionState::Active;
                entry.store = Some(StoreMark { store, incarnation: floor + 1, counter });
            } else {
                // None of its stores is known from here on.
                entry.store = Some(StoreMark { store: Uuid::nil(), incarnation: floor, counter: 0 });
            }
        }
        let group = SlotGroup { steward: region.clone(), voters: vec![region.clone()], since: version };
        next.slots = Arc::new(self.slots.with(|_, _| Some(group.clone())));
        next.map_voters = vec![region.clone()];
        next.generation += 1;
        (next.version, next.changed) = (version, version);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use hearth_protocol::Slot;

    use super::super::{FirstMap, MapAnswer, MapCommand, MapFact, MapRefusal};
    use super::*;

    fn name(text: &str) -> RegionId {
        RegionId::new(text).expect("a name")
    }

    /// A map of three regions of which each holds a lease.
    fn founded() -> MapState {
        let mut map = MapState::default();
        let regions = ["ra", "rb", "rc"].map(name);
        map.apply(&MapCommand::Found(FirstMap::of(regions.to_vec())));
        for (place, region) in regions.iter().enumerate() {
            let store = Uuid::from_u128(place as u128 + 1);
            let take = MapCommand::TakeIncarnation { region: region.clone(), store, counter: 0, replaces: 0, term: 0 };
            assert!(map.apply(&take).changed());
            assert!(renew(&mut map, region, (store, 1, 5)).changed());
        }
        map
    }

    fn renew(map: &mut MapState, region: &RegionId, (store, incarnation, counter): (Uuid, u64, u64)) -> MapAnswer {
        map.apply(&MapCommand::Renew { region: region.clone(), store, incarnation, counter, milliseconds: 6_000 })
    }

    #[test]
    fn one_region_goes_on_alone_under_a_right_and_epochs_that_nobody_had_before() {
        let map = founded();
        let new = Uuid::from_u128(99);
        let mut next = map.anew(&name("ra"), (new, 5), 1_000).expect("it is a part of the mesh");
        assert_eq!((next.version, next.changed, next.generation), (1_001, 1_001, map.generation + 1));
        assert_eq!(next.map_voters, [name("ra")]);
        for (slot, group) in next.slots.iter() {
            assert_eq!((&group.steward, &group.voters[..], group.since), (&name("ra"), &[name("ra")][..], 1_001));
            assert!(next.placement_epoch(slot) > map.placement_epoch(slot));
        }
        assert_eq!(next.slots.iter().count(), usize::from(Slot::COUNT));
        // Its own placements of before are over, too, and its new store gets a lease.
        assert_eq!(next.generation_of(&name("ra")), 1_000);
        let answer = renew(&mut next, &name("ra"), (new, 1_001, 6));
        assert!(matches!(answer.fact(), Ok(MapFact::Lease { generation: 1_000, .. })), "{answer:?}");
    }

    #[test]
    fn the_other_regions_are_fenced_and_an_old_store_of_the_region_itself_is_another_one() {
        let map = founded();
        let mut next = map.anew(&name("ra"), (Uuid::from_u128(99), 5), 1_000).expect("it is a part of the mesh");
        let answer = renew(&mut next, &name("rb"), (Uuid::from_u128(2), 1, 6));
        assert_eq!(answer.fact(), Err(&MapRefusal::State(RegionState::Fenced)));
        let answer = renew(&mut next, &name("ra"), (Uuid::from_u128(1), 1, 6));
        assert!(matches!(answer.fact(), Err(MapRefusal::OtherStore { incarnation: 1_001, .. })), "{answer:?}");
    }

    #[test]
    fn the_first_store_of_another_region_is_at_the_incarnation_that_was_said_beforehand_and_no_later_one_is() {
        let mut next = founded().anew(&name("ra"), (Uuid::from_u128(99), 5), 1_000).expect("it is a part of the mesh");
        for (store, incarnation) in [(50, 1_001), (51, 1_002)] {
            let entry = next.region(&name("rb")).expect("known");
            let command = MapCommand::TakeIncarnation {
                region: name("rb"),
                store: Uuid::from_u128(store),
                counter: 5,
                replaces: entry.store.expect("a mark").incarnation,
                term: entry.term,
            };
            let answer = next.apply(&command);
            let fits = matches!(answer.fact(), Ok(MapFact::Incarnation { incarnation: at, .. }) if *at == incarnation);
            assert!(fits, "{answer:?}");
        }
    }

    #[test]
    fn the_same_copy_brought_back_twice_gives_other_epochs_each_time() {
        let map = founded();
        let once = map.anew(&name("ra"), (Uuid::from_u128(98), 5), 1_000).expect("once");
        let again = map.anew(&name("ra"), (Uuid::from_u128(99), 5), 2_000).expect("again");
        assert!(again.placement_epoch(Slot(0)) > once.placement_epoch(Slot(0)));
        // A clock that went back gives no epochs of before.
        assert_eq!(again.anew(&name("ra"), (Uuid::from_u128(97), 5), 1_500), None);
    }

    #[test]
    fn a_region_that_is_no_part_of_the_mesh_does_not_go_on_for_it() {
        assert_eq!(founded().anew(&name("rz"), (Uuid::from_u128(9), 0), 0), None);
    }
}
