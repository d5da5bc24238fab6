//! An entry as small as the models need it.

use hearth_protocol::{Epoch, Level};
use region_model::ownership::{LineEntry, OpeningAt};

/// One entry: who numbered it, where, which message, at which level, behind what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Entry {
    pub(crate) epoch: u8,
    pub(crate) sequence: u8,
    pub(crate) message: u8,
    pub(crate) level: Level,
    pub(crate) previous: u32,
}

impl LineEntry for Entry {
    type Chain = u32;
    type Id = u8;

    fn epoch(&self) -> Epoch {
        Epoch(u64::from(self.epoch))
    }

    fn sequence(&self) -> u64 {
        u64::from(self.sequence)
    }

    fn previous(&self) -> u32 {
        self.previous
    }

    fn chain(&self) -> u32 {
        let own = u32::from(self.epoch) << 16 | u32::from(self.sequence) << 8 | u32::from(self.message);
        let mixed = (self.previous ^ own).wrapping_mul(0x9E37_79B1);
        (mixed ^ mixed >> 15).wrapping_mul(0x85EB_CA6B) | 1
    }

    fn level(&self) -> Level {
        self.level
    }

    fn id(&self) -> Option<u8> {
        Some(self.message)
    }
}

/// What is on its way. Packets are never taken out: each may arrive never, late, again and in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Packet {
    /// From the home of an epoch to any region.
    Append { opening: OpeningAt<u32>, entry: Entry },
    /// The same without an entry, to tell the mark.
    Mark { opening: OpeningAt<u32>, mark: u8 },
    /// From a replica to the home of the epoch that it accepted.
    Holds { from: u8, accepted: u8, length: u8, counts: bool },
}

/// Adds to a sorted list without repeating.
pub(crate) fn insert<T: Ord>(list: &mut Vec<T>, item: T) {
    if let Err(index) = list.binary_search(&item) {
        list.insert(index, item);
    }
}
