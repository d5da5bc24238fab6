//! The map itself, and what each command does to it.

use std::sync::Arc;

use hearth_protocol::record::{Record, RecordError};
use hearth_protocol::{Epoch, RegionId, RegionMap, Slot};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::command::{FirstMap, MapAnswer, MapCommand, MapFact, MapRefusal, RangeOf};
use super::slots::{SlotGroup, SlotTable};
use super::{LEASE_MILLISECONDS, MAXIMUM_MAP_VOTERS, MAXIMUM_PLACEMENT_VOTERS, MAXIMUM_REGIONS};

/// How a region takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegionState {
    /// Added, and only follows so far.
    Following,
    /// Takes part.
    Active,
    /// Takes part, and is being emptied: it becomes steward of nothing.
    Draining,
    /// Its right to every epoch that it held has ended.
    Fenced,
    /// Not part of the mesh any more.
    Removed,
}

impl RegionState {
    /// The states of regions that are part of the mesh.
    pub const OF_MEMBERS: [Self; 4] = [Self::Following, Self::Active, Self::Draining, Self::Fenced];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Following => "following",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Fenced => "fenced",
            Self::Removed => "removed",
        }
    }
}

/// The store of a region, as the map knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreMark {
    /// Which.
    pub store: Uuid,
    /// Counted up for each store that is new, empty, restored or older than the map knows; the first is 1.
    pub incarnation: u64,
    /// The store's counter at its last renewal: a store below it is older.
    pub counter: u64,
}

/// A region's right to sequence. The map knows no time: when it ends is counted by holder and leader, each by its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The incarnation that holds it.
    pub incarnation: u64,
    /// Its length in milliseconds.
    pub milliseconds: u32,
}

/// What the map knows of one region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionEntry {
    /// Which.
    pub region: RegionId,
    /// How it takes part.
    pub state: RegionState,
    /// Its store; `None` until it came with one.
    pub store: Option<StoreMark>,
    /// The lease granted last, unless a fence or a new incarnation ended it.
    pub lease: Option<Lease>,
    /// Counts the leases granted, fences included: it never goes back.
    pub term: u64,
    /// The version of its last fence; 0 for none. What it owned under older versions it owns no more.
    pub fence: u64,
}

/// The region map. The same commands in the same order give the same map everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapState {
    /// Grows by one with every command that takes effect; 0 until the map is founded.
    pub version: u64,
    /// The version of the last command that was no renewal.
    pub changed: u64,
    /// How often a map voter was named by force. Of two maps the one with the higher generation counts.
    pub generation: u64,
    /// The regions, in the order in which they came; removed ones stay.
    pub regions: Vec<RegionEntry>,
    /// Slots, stewards and voters of the placement logs.
    pub slots: Arc<SlotTable>,
    /// The regions that vote on the map, by rank; all others learn it.
    pub map_voters: Vec<RegionId>,
}

/// The map after the command, or `None` when nothing changes; and what holds then.
type Decision = Result<(Option<MapState>, MapFact), MapRefusal>;

fn already(fact: MapFact) -> Decision {
    Ok((None, fact))
}

impl Record for MapState {}

impl MapState {
    /// Reads [`Record::encode`], and checks what the types do not.
    ///
    /// # Errors
    /// [`RecordError`] for another version and for bytes that are no map.
    pub fn read(bytes: &[u8]) -> Result<Self, RecordError> {
        let map = Self::decode(bytes)?;
        if map.slots.is_whole() && map.regions.len() <= MAXIMUM_REGIONS { Ok(map) } else { Err(RecordError::Form) }
    }

    /// Takes one committed command.
    pub fn apply(&mut self, command: &MapCommand) -> MapAnswer {
        match self.decide(command) {
            Ok((Some(mut next), fact)) => {
                next.version = self.version + 1;
                if !matches!(command, MapCommand::Renew { .. }) {
                    next.changed = next.version;
                }
                *self = next;
                MapAnswer::Changed { version: self.version, fact }
            }
            Ok((None, fact)) => MapAnswer::Already { version: self.version, fact },
            Err(reason) => MapAnswer::Refused { version: self.version, reason },
        }
    }

    /// What the map knows of a region.
    #[must_use]
    pub fn region(&self, region: &RegionId) -> Option<&RegionEntry> {
        self.regions.iter().find(|entry| entry.region == *region)
    }

    /// The generation of a region's right to sequence: the version of its last fence, 0 for none and for a region that
    /// the map does not know. A placement names it, and a lease under another generation is no right to that placement.
    #[must_use]
    pub fn generation_of(&self, region: &RegionId) -> u64 {
        self.region(region).map_or(0, |entry| entry.fence)
    }

    /// The one voter of a mesh of at most two regions.
    #[must_use]
    pub fn named_map_voter(&self) -> Option<&RegionId> {
        match &self.map_voters[..] {
            [voter] if self.members().count() <= 2 => Some(voter),
            _ => None,
        }
    }

    /// Regions that are part of the mesh.
    pub fn members(&self) -> impl Iterator<Item = &RegionEntry> {
        self.regions.iter().filter(|entry| entry.state != RegionState::Removed)
    }

    /// The steward of a slot; `None` before the map is founded.
    #[must_use]
    pub fn steward(&self, slot: Slot) -> Option<&RegionId> {
        self.slots.group(slot).map(|group| &group.steward)
    }

    /// Whether [`MapCommand::Reassign`] would move a slot of this region: a voter of one that it stewards is active.
    #[must_use]
    pub fn has_slots_to_move(&self, region: &RegionId) -> bool {
        let is_active = |voter| self.region(voter).is_some_and(|entry| entry.state == RegionState::Active);
        self.slots.groups().any(|group| group.steward == *region && group.voters.iter().any(is_active))
    }

    /// The epoch of a slot's placement log: the version that named its steward.
    #[must_use]
    pub fn placement_epoch(&self, slot: Slot) -> Option<Epoch> {
        self.slots.group(slot).map(|group| Epoch(group.since))
    }

    fn decide(&self, command: &MapCommand) -> Decision {
        if let MapCommand::Found(first) = command {
            return self.found(first);
        }
        if self.version == 0 {
            return Err(MapRefusal::NotFounded);
        }
        match command {
            MapCommand::Found(first) => self.found(first),
            MapCommand::Renew { region, store, incarnation, counter, milliseconds } => self.renew(
                region,
                StoreMark { store: *store, incarnation: *incarnation, counter: *counter },
                *milliseconds,
            ),
            MapCommand::TakeIncarnation { region, store, counter, replaces, term } => {
                self.take_incarnation(region, (*store, *counter), *replaces, *term)
            }
            MapCommand::Fence { region, term } => self.fence(region, *term),
            MapCommand::Return { region, incarnation, fence } => self.bring_back(region, *incarnation, *fence),
            MapCommand::Reassign { region, seen } => self.reassign(region, *seen),
            MapCommand::Place { slots, steward, voters, seen } => self.place(slots, steward, voters, *seen),
            MapCommand::AddRegion { region, seen } => self.add_region(region, *seen),
            MapCommand::Activate { region, seen } => self.activate(region, *seen),
            MapCommand::RemoveRegion { region, term, seen } => self.remove_region(region, *term, *seen),
            MapCommand::SetDraining { region, draining, seen } => self.set_draining(region, *draining, *seen),
            MapCommand::AddMapVoter { region, seen } => self.add_map_voter(region, *seen),
            MapCommand::RemoveMapVoter { region, seen } => self.remove_map_voter(region, *seen),
            MapCommand::NameMapVoter { region, force, seen } => self.name_map_voter(region, *force, *seen),
        }
    }

    fn known(&self, region: &RegionId) -> Result<&RegionEntry, MapRefusal> {
        self.region(region).ok_or_else(|| MapRefusal::UnknownRegion(region.clone()))
    }

    fn unchanged_since(&self, seen: u64) -> Result<(), MapRefusal> {
        if seen == self.changed { Ok(()) } else { Err(MapRefusal::Changed(self.changed)) }
    }

    /// The map with one region's entry changed.
    fn with(&self, region: &RegionId, change: impl FnOnce(&mut RegionEntry)) -> Self {
        let mut next = self.clone();
        if let Some(entry) = next.regions.iter_mut().find(|entry| entry.region == *region) {
            change(entry);
        }
        next
    }

    fn found(&self, first: &FirstMap) -> Decision {
        if self.version > 0 {
            return already(MapFact::Holds);
        }
        let FirstMap { regions, map_voters } = first;
        if regions.is_empty() || regions.len() > MAXIMUM_REGIONS || repeats(regions) {
            return Err(MapRefusal::Range(RangeOf::Regions));
        }
        let voters_are_regions = map_voters.iter().all(|voter| regions.contains(voter));
        if map_voters.is_empty() || map_voters.len() > MAXIMUM_MAP_VOTERS || repeats(map_voters) || !voters_are_regions
        {
            return Err(MapRefusal::Range(RangeOf::MapVoters));
        }
        let configured = RegionMap { version: 1, regions: regions.clone() };
        let slots = SlotTable::deal(|slot| {
            let steward = configured.steward(slot).clone();
            SlotGroup { voters: configured.voters(&steward), steward, since: 1 }
        });
        let next = Self {
            regions: regions.iter().map(|region| new_region(region, RegionState::Active)).collect(),
            slots: Arc::new(slots),
            map_voters: map_voters.clone(),
            ..self.clone()
        };
        Ok((Some(next), MapFact::Holds))
    }

    fn renew(&self, region: &RegionId, mark: StoreMark, milliseconds: u32) -> Decision {
        let entry = self.known(region)?;
        if !matches!(entry.state, RegionState::Active | RegionState::Draining) {
            return Err(MapRefusal::State(entry.state));
        }
        if !LEASE_MILLISECONDS.contains(&milliseconds) {
            return Err(MapRefusal::Range(RangeOf::Lease));
        }
        let known = entry.store.filter(|known| (known.store, known.incarnation) == (mark.store, mark.incarnation));
        let Some(known) = known else { return Err(other_store(entry)) };
        // A lease never becomes shorter while its holder may count the longer one before it.
        let milliseconds = entry.lease.map_or(milliseconds, |lease| lease.milliseconds.max(milliseconds));
        match (mark.counter.cmp(&known.counter), entry.lease) {
            (std::cmp::Ordering::Equal, Some(lease)) => {
                let milliseconds = lease.milliseconds;
                return already(MapFact::Lease { term: entry.term, milliseconds, generation: entry.fence });
            }
            (std::cmp::Ordering::Less | std::cmp::Ordering::Equal, _) => {
                return Err(MapRefusal::OlderStore(known.counter));
            }
            (std::cmp::Ordering::Greater, _) => {}
        }
        let (term, generation) = (entry.term + 1, entry.fence);
        let next = self.with(region, |entry| {
            entry.store = Some(mark);
            entry.lease = Some(Lease { incarnation: mark.incarnation, milliseconds });
            entry.term = term;
        });
        Ok((Some(next), MapFact::Lease { term, milliseconds, generation }))
    }

    fn take_incarnation(&self, region: &RegionId, (store, counter): (Uuid, u64), replaces: u64, term: u64) -> Decision {
        let entry = self.known(region)?;
        if entry.state == RegionState::Removed {
            return Err(MapRefusal::State(entry.state));
        }
        let incarnation = entry.store.map_or(0, |known| known.incarnation);
        if entry.store.is_some_and(|known| known.store == store) && incarnation == replaces + 1 {
            return already(MapFact::Incarnation { incarnation, fence: entry.fence });
        }
        if incarnation != replaces {
            return Err(other_store(entry));
        }
        if entry.term != term {
            return Err(MapRefusal::Renewed(entry.term));
        }
        let first = replaces == 0;
        let fence = if first { entry.fence } else { self.version + 1 };
        let next = self.with(region, |entry| {
            entry.store = Some(StoreMark { store, incarnation: replaces + 1, counter });
            if !first {
                end_right(entry, fence);
            }
        });
        Ok((Some(next), MapFact::Incarnation { incarnation: replaces + 1, fence }))
    }

    fn fence(&self, region: &RegionId, term: u64) -> Decision {
        let entry = self.known(region)?;
        match entry.state {
            RegionState::Fenced => return already(MapFact::Fence { fence: entry.fence }),
            RegionState::Following | RegionState::Removed => return Err(MapRefusal::State(entry.state)),
            RegionState::Active | RegionState::Draining => {}
        }
        if entry.term != term {
            return Err(MapRefusal::Renewed(entry.term));
        }
        let fence = self.version + 1;
        Ok((Some(self.with(region, |entry| end_right(entry, fence))), MapFact::Fence { fence }))
    }

    fn bring_back(&self, region: &RegionId, incarnation: u64, fence: u64) -> Decision {
        let entry = self.known(region)?;
        if entry.store.is_none_or(|known| known.incarnation != incarnation) {
            return Err(other_store(entry));
        }
        match entry.state {
            RegionState::Active | RegionState::Draining if entry.fence == fence => return already(MapFact::Holds),
            RegionState::Fenced if entry.fence == fence => {}
            state => return Err(MapRefusal::State(state)),
        }
        let mut next = self.with(region, |entry| entry.state = RegionState::Active);
        // The fence ended its epochs of placement logs, too: what it still stewards it stewards anew.
        let since = self.version + 1;
        next.slots = Arc::new(self.slots.with(|_, group| {
            (group.steward == *region && group.since < since).then(|| SlotGroup { since, ..group.clone() })
        }));
        Ok((Some(next), MapFact::Holds))
    }

    fn reassign(&self, region: &RegionId, seen: u64) -> Decision {
        let entry = self.known(region)?;
        if entry.state != RegionState::Fenced {
            return Err(MapRefusal::State(entry.state));
        }
        let mut loads: Vec<(usize, &RegionId)> = self
            .regions
            .iter()
            .filter(|entry| entry.state == RegionState::Active)
            .map(|entry| (self.slots.stewarded(&entry.region), &entry.region))
            .collect();
        let since = self.version + 1;
        let (mut moved, mut left) = (0, 0);
        let slots = self.slots.with(|_, group| {
            if group.steward != *region {
                return None;
            }
            // The live voter with the fewest slots; of equals the one that came first.
            let voter = loads.iter_mut().filter(|(_, live)| group.voters.contains(live)).min_by_key(|(load, _)| *load);
            let Some((load, steward)) = voter else {
                left += 1;
                return None;
            };
            *load += 1;
            moved += 1;
            Some(SlotGroup { steward: steward.clone(), since, ..group.clone() })
        });
        let fact = MapFact::Slots { moved, left };
        if moved == 0 {
            return already(fact);
        }
        self.unchanged_since(seen)?;
        Ok((Some(Self { slots: Arc::new(slots), ..self.clone() }), fact))
    }

    fn place(&self, slots: &[Slot], steward: &RegionId, voters: &[RegionId], seen: u64) -> Decision {
        let mut wanted = vec![false; usize::from(Slot::COUNT)];
        for slot in slots {
            match wanted.get_mut(usize::from(slot.0)) {
                Some(wanted) if !*wanted => *wanted = true,
                _ => return Err(MapRefusal::Range(RangeOf::Slots)),
            }
        }
        if slots.is_empty() {
            return Err(MapRefusal::Range(RangeOf::Slots));
        }
        if voters.len() > MAXIMUM_PLACEMENT_VOTERS || repeats(voters) || !voters.contains(steward) {
            return Err(MapRefusal::Range(RangeOf::PlacementVoters));
        }
        for voter in voters {
            let entry = self.known(voter)?;
            let fits = entry.state == RegionState::Active || (entry.state == RegionState::Draining && voter != steward);
            if !fits {
                return Err(MapRefusal::State(entry.state));
            }
        }
        let since = self.version + 1;
        let mut moved = 0;
        let table = self.slots.with(|slot, group| {
            let same = group.steward == *steward && group.voters == voters;
            (wanted[usize::from(slot.0)] && !same).then(|| {
                moved += 1;
                SlotGroup { steward: steward.clone(), voters: voters.to_vec(), since }
            })
        });
        let fact = MapFact::Slots { moved, left: 0 };
        if moved == 0 {
            return already(fact);
        }
        self.unchanged_since(seen)?;
        Ok((Some(Self { slots: Arc::new(table), ..self.clone() }), fact))
    }

    fn add_region(&self, region: &RegionId, seen: u64) -> Decision {
        match self.region(region).map(|entry| entry.state) {
            Some(RegionState::Removed) => {
                self.unchanged_since(seen)?;
                Ok((Some(self.with(region, |entry| entry.state = RegionState::Following)), MapFact::Holds))
            }
            Some(_) => already(MapFact::Holds),
            None if self.regions.len() >= MAXIMUM_REGIONS => Err(MapRefusal::Range(RangeOf::Regions)),
            None => {
                self.unchanged_since(seen)?;
                let mut next = self.clone();
                next.regions.push(new_region(region, RegionState::Following));
                Ok((Some(next), MapFact::Holds))
            }
        }
    }

    fn activate(&self, region: &RegionId, seen: u64) -> Decision {
        let entry = self.known(region)?;
        match entry.state {
            RegionState::Active => already(MapFact::Holds),
            RegionState::Following => {
                self.unchanged_since(seen)?;
                Ok((Some(self.with(region, |entry| entry.state = RegionState::Active)), MapFact::Holds))
            }
            state => Err(MapRefusal::State(state)),
        }
    }

    fn remove_region(&self, region: &RegionId, term: u64, seen: u64) -> Decision {
        let entry = self.known(region)?;
        match entry.state {
            RegionState::Removed => return already(MapFact::Holds),
            RegionState::Active => return Err(MapRefusal::State(entry.state)),
            RegionState::Following | RegionState::Draining | RegionState::Fenced => {}
        }
        if entry.term != term {
            return Err(MapRefusal::Renewed(entry.term));
        }
        if self.slots.uses(region) || self.map_voters.contains(region) {
            return Err(MapRefusal::InUse);
        }
        self.unchanged_since(seen)?;
        let fence = self.version + 1;
        let next = self.with(region, |entry| {
            end_right(entry, fence);
            entry.state = RegionState::Removed;
        });
        Ok((Some(next), MapFact::Holds))
    }

    fn set_draining(&self, region: &RegionId, draining: bool, seen: u64) -> Decision {
        let entry = self.known(region)?;
        let (from, to) = match draining {
            true => (RegionState::Active, RegionState::Draining),
            false => (RegionState::Draining, RegionState::Active),
        };
        if entry.state == to {
            return already(MapFact::Holds);
        }
        if entry.state != from {
            return Err(MapRefusal::State(entry.state));
        }
        self.unchanged_since(seen)?;
        Ok((Some(self.with(region, |entry| entry.state = to)), MapFact::Holds))
    }

    fn add_map_voter(&self, region: &RegionId, seen: u64) -> Decision {
        let entry = self.known(region)?;
        if self.map_voters.contains(region) {
            return already(MapFact::Holds);
        }
        if matches!(entry.state, RegionState::Removed | RegionState::Fenced) || entry.store.is_none() {
            return Err(MapRefusal::State(entry.state));
        }
        if self.map_voters.len() >= MAXIMUM_MAP_VOTERS {
            return Err(MapRefusal::Range(RangeOf::MapVoters));
        }
        self.unchanged_since(seen)?;
        let mut next = self.clone();
        next.map_voters.push(region.clone());
        Ok((Some(next), MapFact::Holds))
    }

    fn remove_map_voter(&self, region: &RegionId, seen: u64) -> Decision {
        self.known(region)?;
        if !self.map_voters.contains(region) {
            return already(MapFact::Holds);
        }
        if self.map_voters.len() == 1 {
            return Err(MapRefusal::Range(RangeOf::MapVoters));
        }
        self.unchanged_since(seen)?;
        let mut next = self.clone();
        next.map_voters.retain(|voter| voter != region);
        Ok((Some(next), MapFact::Holds))
    }

    fn name_map_voter(&self, region: &RegionId, force: bool, seen: u64) -> Decision {
        let entry = self.known(region)?;
        if self.members().count() > 2 && !force {
            return Err(MapRefusal::NotTwoRegions);
        }
        if self.map_voters == [region.clone()] {
            return already(MapFact::Holds);
        }
        if entry.state == RegionState::Removed || (entry.state == RegionState::Fenced && !force) {
            return Err(MapRefusal::State(entry.state));
        }
        self.unchanged_since(seen)?;
        let mut next = self.clone();
        next.map_voters = vec![region.clone()];
        if force {
            next.generation += 1;
            let fence = self.version + 1;
            let others = |entry: &&mut RegionEntry| entry.region != *region && entry.state != RegionState::Removed;
            next.regions.iter_mut().filter(others).for_each(|entry| end_right(entry, fence));
        }
        Ok((Some(next), MapFact::Holds))
    }
}

fn new_region(region: &RegionId, state: RegionState) -> RegionEntry {
    RegionEntry { region: region.clone(), state, store: None, lease: None, term: 0, fence: 0 }
}

/// Ends every right under the versions before. A region that only follows has none and goes on following.
pub(super) fn end_right(entry: &mut RegionEntry, fence: u64) {
    entry.lease = None;
    // A renewal or a fence that was decided upon the lease before is refused from now on.
    entry.term += 1;
    entry.fence = fence;
    if entry.state != RegionState::Following {
        entry.state = RegionState::Fenced;
    }
}

fn other_store(entry: &RegionEntry) -> MapRefusal {
    let (store, incarnation) = entry.store.map_or((Uuid::nil(), 0), |known| (known.store, known.incarnation));
    MapRefusal::OtherStore { store, incarnation, term: entry.term }
}

fn repeats(regions: &[RegionId]) -> bool {
    regions.iter().enumerate().any(|(at, region)| regions[..at].contains(region))
}
