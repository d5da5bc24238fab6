//! In which order logs are given a home: placement logs first, since they tell what else there is; then the log with the
//! newest entry; and between them, every fourth, those that were tried in vain, so that neither waits for the other's end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hearth_protocol::{LogId, LogKind};

/// Of so many logs that begin, one was tried before, where there are both.
const TRIED_BEFORE_EVERY: u64 = 4;

/// Whether it is no placement log; how new its last entry is; which.
type Key = (bool, Reverse<u64>, LogId);

/// The logs that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    first: BTreeSet<Key>,
    tried: VecDeque<LogId>,
    /// Every log that waits; with its key, where it was not tried before.
    waiting: BTreeMap<LogId, Option<Key>>,
    popped: u64,
}

impl Queue {
    /// A log waits for its first attempt; `newest` is the time of its last entry, 0 where that is not known here.
    pub(super) fn push(&mut self, log: LogId, newest: u64) {
        let key = (log.kind != LogKind::Placement, Reverse(newest), log);
        if let std::collections::btree_map::Entry::Vacant(place) = self.waiting.entry(log) {
            place.insert(Some(key));
            self.first.insert(key);
        }
    }

    /// A log waits for another attempt.
    pub(super) fn push_again(&mut self, log: LogId) {
        if let std::collections::btree_map::Entry::Vacant(place) = self.waiting.entry(log) {
            place.insert(None);
            self.tried.push_back(log);
        }
    }

    /// The log whose turn it is.
    pub(super) fn pop(&mut self) -> Option<LogId> {
        self.popped += 1;
        let again = self.popped.is_multiple_of(TRIED_BEFORE_EVERY);
        let log = match (again, self.first.is_empty()) {
            (true, _) | (false, true) if !self.tried.is_empty() => self.tried.pop_front(),
            _ => self.first.pop_first().map(|(_, _, log)| log),
        }?;
        self.waiting.remove(&log);
        Some(log)
    }

    pub(super) fn contains(&self, log: &LogId) -> bool {
        self.waiting.contains_key(log)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use hearth_protocol::{ConversationId, Slot};
    use uuid::Uuid;

    use super::*;

    fn log(number: u128) -> LogId {
        LogId::conversation(ConversationId(Uuid::from_u128(number)))
    }

    fn all(queue: &mut Queue) -> Vec<LogId> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn of_a_hundred_thousand_logs_those_with_the_newest_entries_are_first_whatever_their_slots() {
        let mut queue = Queue::default();
        // By slots, as stewards open them; every thousandth was used a minute ago, all others long before.
        for number in 0..100_000_u128 {
            let newest = if number % 1_000 == 0 { 1_000_000 - u64::try_from(number).expect("small") } else { 7 };
            queue.push(log(number), newest);
        }
        queue.push(LogId::placement(Slot(4_095)), 0);
        let order = all(&mut queue);
        assert_eq!(order[0], LogId::placement(Slot(4_095)), "it may name more of them");
        let recent: Vec<LogId> = (0..100).map(|number| log(number * 1_000)).collect();
        assert_eq!(order[1..101], recent);
        assert_eq!((order.len(), queue.len()), (100_001, 0));
    }

    #[test]
    fn what_was_tried_in_vain_comes_in_its_turn_and_starves_nobody() {
        let mut queue = Queue::default();
        (0..6).for_each(|number| queue.push(log(number), 10 - u64::try_from(number).expect("small")));
        (10..13).for_each(|number| queue.push_again(log(number)));
        queue.push_again(log(0));
        queue.push(log(11), 1_000);
        let order = all(&mut queue);
        assert_eq!(order, [0, 1, 2, 10, 3, 4, 5, 11, 12].map(log), "each once");
    }
}
