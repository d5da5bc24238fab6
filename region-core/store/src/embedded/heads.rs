//! What the committer remembers of logs, so that most appends need no look-up.

use std::collections::HashMap;

use hearth_protocol::{Epoch, LogId};

/// What an append is checked against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// Last sequence + 1, or 0.
    pub(super) length: u64,
    /// The epoch below which the log takes nothing.
    pub(super) sealed: Epoch,
    /// The mark as last stored.
    pub(super) mark: u64,
    /// The number of the last change.
    pub(super) change: u64,
    /// Whether the region holds the log at all.
    pub(super) held: bool,
}

/// A bounded cache in two generations: when the younger one is full it becomes the older one, and what was only in the
/// older one is forgotten. Heads used since the last turn always survive a turn.
#[derive(Debug)]
pub(super) struct Heads {
    young: HashMap<LogId, Head>,
    old: HashMap<LogId, Head>,
    bound: usize,
}

impl Heads {
    /// A cache of at most `2 × bound` heads, and those of one batch.
    pub(super) fn new(bound: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), bound }
    }

    /// The head of a log, if it is remembered.
    pub(super) fn get(&mut self, log: &LogId) -> Option<Head> {
        if let Some(head) = self.young.get(log) {
            return Some(*head);
        }
        let head = self.old.remove(log)?;
        self.young.insert(*log, head);
        Some(head)
    }

    /// Remembers a head.
    pub(super) fn put(&mut self, log: LogId, head: Head) {
        self.young.insert(log, head);
    }

    /// Forgets a log.
    pub(super) fn forget(&mut self, log: &LogId) {
        self.young.remove(log);
        self.old.remove(log);
    }

    /// To be called between batches only: a batch must find what its own appends changed.
    pub(super) fn turn_if_full(&mut self) {
        if self.young.len() >= self.bound {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_in_use_survive_a_turn_and_others_are_forgotten() {
        let log = |n: u128| LogId { kind: hearth_protocol::LogKind::User, id: uuid::Uuid::from_u128(n) };
        let mut heads = Heads::new(2);
        heads.put(log(1), Head { length: 1, ..Head::default() });
        heads.put(log(2), Head { length: 2, ..Head::default() });
        heads.turn_if_full();
        assert_eq!(heads.get(&log(1)).map(|head| head.length), Some(1));
        heads.put(log(3), Head::default());
        heads.turn_if_full();
        assert_eq!(heads.get(&log(1)).map(|head| head.length), Some(1));
        assert_eq!(heads.get(&log(2)), None);
    }
}
