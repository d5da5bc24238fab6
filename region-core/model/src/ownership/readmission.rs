//! Tails come back: what a replica holds beyond a fork is offered to the home and numbered anew (design.md 4.6).

use hearth_protocol::Epoch;

use crate::ownership::line::LineEntry;

/// The entries of a tail that the home's line lacks, in their old order. `known` says whether an id is in the line.
/// The home numbers them anew with their first sender, id and time.
pub fn missing_from<E: LineEntry>(tail: &[E], known: impl Fn(&E::Id) -> bool) -> Vec<&E> {
    let mut seen = std::collections::BTreeSet::new();
    let mut missing = Vec::new();
    for entry in tail {
        let Some(id) = entry.id() else { continue };
        if !known(&id) && seen.insert(id) {
            missing.push(entry);
        }
    }
    missing
}

/// One tail on its way back, at the replica that holds it. The tail itself stays on disk; this only remembers how far
/// the home of one epoch took it, and begins again under the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Readmission {
    epoch: Epoch,
    settled: u64,
    entries: u64,
}

impl Readmission {
    /// A tail of so many entries, offered to no home yet.
    pub fn new(entries: u64) -> Self {
        Self { epoch: Epoch::default(), settled: 0, entries }
    }

    /// What to offer to the home of `epoch`: indexes into the tail, at most `most` at once, in order.
    pub fn offer(&mut self, epoch: Epoch, most: u64) -> std::ops::Range<u64> {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.settled = 0;
        }
        self.settled..self.entries.min(self.settled.saturating_add(most))
    }

    /// The home of `epoch` has all below `index` in its line, each with the copies of its level.
    pub fn handle_settled(&mut self, epoch: Epoch, index: u64) {
        if epoch == self.epoch {
            self.settled = self.settled.max(index.min(self.entries));
        }
    }

    /// Whether the home of the epoch last offered to has all of it.
    pub fn is_settled(&self) -> bool {
        self.settled == self.entries
    }
}
