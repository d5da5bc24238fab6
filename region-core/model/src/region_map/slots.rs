//! Which region stewards each slot, and which vote for its placement log.

use std::collections::BTreeMap;

use hearth_protocol::{RegionId, Slot};
use serde::{Deserialize, Serialize};

/// Steward and voters of some slots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotGroup {
    /// Appends to their placement logs.
    pub steward: RegionId,
    /// Count for their placement logs.
    pub voters: Vec<RegionId>,
    /// The version of the map that named the steward: the epoch of the placement logs.
    pub since: u64,
}

/// All slots. Empty until the map is founded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotTable {
    groups: Vec<SlotGroup>,
    /// By slot, an index into `groups`.
    slots: Vec<u16>,
}

impl SlotTable {
    /// Deals all slots by a rule.
    #[must_use]
    pub(super) fn deal(mut rule: impl FnMut(Slot) -> SlotGroup) -> Self {
        let mut table = Self { groups: Vec::new(), slots: Vec::with_capacity(usize::from(Slot::COUNT)) };
        let mut known: BTreeMap<SlotGroup, u16> = BTreeMap::new();
        for slot in (0..Slot::COUNT).map(Slot) {
            let group = rule(slot);
            let next = u16::try_from(known.len()).expect("there are no more groups than slots");
            let index = *known.entry(group.clone()).or_insert(next);
            if index == next {
                table.groups.push(group);
            }
            table.slots.push(index);
        }
        table
    }

    /// The same table with the slots for which `rule` gives a group in that group.
    #[must_use]
    pub(super) fn with(&self, mut rule: impl FnMut(Slot, &SlotGroup) -> Option<SlotGroup>) -> Self {
        Self::deal(|slot| {
            let group = &self.groups[usize::from(self.slots[usize::from(slot.0)])];
            rule(slot, group).unwrap_or_else(|| group.clone())
        })
    }

    /// Steward and voters of a slot; `None` before the map is founded and for a number that is no slot.
    #[must_use]
    pub fn group(&self, slot: Slot) -> Option<&SlotGroup> {
        let index = self.slots.get(usize::from(slot.0))?;
        self.groups.get(usize::from(*index))
    }

    /// All slots with their groups, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &SlotGroup)> {
        (0..).zip(&self.slots).filter_map(|(slot, index)| Some((Slot(slot), self.groups.get(usize::from(*index))?)))
    }

    /// The groups, each once; every one has a slot.
    pub fn groups(&self) -> impl Iterator<Item = &SlotGroup> {
        self.groups.iter()
    }

    /// How many slots a region stewards.
    #[must_use]
    pub fn stewarded(&self, region: &RegionId) -> usize {
        self.iter().filter(|(_, group)| group.steward == *region).count()
    }

    /// Whether a region stewards a slot or votes for a placement log.
    #[must_use]
    pub fn uses(&self, region: &RegionId) -> bool {
        self.groups.iter().any(|group| group.steward == *region || group.voters.contains(region))
    }

    /// Whether the table has a form that `SlotTable::deal` makes; for bytes that come from elsewhere.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let count = self.slots.len();
        (count == 0 || count == usize::from(Slot::COUNT))
            && self.slots.iter().all(|index| usize::from(*index) < self.groups.len())
    }
}
