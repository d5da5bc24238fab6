//! How far one member is, as a value that only grows: merging is a maximum.

use std::cmp::Reverse;

use hearth_protocol::record::Reached;
use hearth_protocol::{Epoch, Timestamp};

use crate::line::Line;

/// Epochs above the line's that a cursor remembers; of more the newest stay.
const NEWER_EPOCHS: usize = 4;

impl Line {
    /// How much of what a client says counts in this line. Without an epoch it is what its session was sent of this line,
    /// or what no failover may have taken away.
    #[must_use]
    pub fn counts(&self, said: &Said) -> u64 {
        match (said.epoch, said.sent) {
            (Some(epoch), _) => self.cut(epoch, said.up_to),
            (None, Some((epoch, sent))) if epoch <= self.epoch() => {
                self.cut_unknown(said.up_to).max(said.up_to.min(self.cut(epoch, sent)))
            }
            (None, _) => self.cut_unknown(said.up_to),
        }
    }
}

/// What a client says that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// The last number.
    pub up_to: u64,
    /// Its epoch, when the client names one.
    pub epoch: Option<Epoch>,
    /// What its session was sent last.
    pub sent: Option<(Epoch, u64)>,
}

/// How far a member came, by epoch, ascending. Numbers of one epoch only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor(Vec<Reached>);

/// Of two that reached the same, the earlier one counts.
fn rank(reached: &Reached) -> (u64, Reverse<Timestamp>) {
    (reached.up_to, Reverse(reached.at))
}

impl Cursor {
    /// From what a peer or a store has; in any order.
    #[must_use]
    pub fn of(reached: impl IntoIterator<Item = Reached>) -> Self {
        let mut cursor = Self::default();
        for reached in reached {
            cursor.take(reached);
        }
        cursor
    }

    /// By epoch, ascending.
    #[must_use]
    pub fn parts(&self) -> &[Reached] {
        &self.0
    }

    /// Takes the maximum. Returns whether something changed.
    pub fn take(&mut self, reached: Reached) -> bool {
        if reached.up_to == 0 {
            return false;
        }
        match self.0.binary_search_by_key(&reached.epoch, |known| known.epoch) {
            Ok(at) if rank(&self.0[at]) >= rank(&reached) => false,
            Ok(at) => {
                self.0[at] = reached;
                true
            }
            Err(at) => {
                self.0.insert(at, reached);
                true
            }
        }
    }

    /// Takes the maximum of every epoch. Returns whether something changed.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for reached in &other.0 {
            changed |= self.take(*reached);
        }
        changed
    }

    /// Says the same in as few words as the line allows: what was reached under epochs of the line is one number.
    pub fn settle(&mut self, line: &Line) {
        let epoch = line.epoch();
        if self.0.len() <= 1 && self.0.first().is_none_or(|only| only.epoch >= epoch) {
            return;
        }
        let newer = self.0.partition_point(|reached| reached.epoch <= epoch);
        let rest = self.0.split_off(newer);
        let settled =
            self.0.iter().map(|reached| Reached { epoch, up_to: line.cut(reached.epoch, reached.up_to), ..*reached });
        let settled = settled.max_by_key(rank).filter(|settled| settled.up_to > 0);
        let skipped = rest.len().saturating_sub(NEWER_EPOCHS);
        self.0 = settled.into_iter().chain(rest.into_iter().skip(skipped)).collect();
    }

    /// How far it is in a line, `None` for nowhere. What was reached under epochs that the line does not know yet does
    /// not count in it.
    #[must_use]
    pub fn reached(&self, line: &Line) -> Option<Reached> {
        let epoch = line.epoch();
        let known = self.0.iter().take_while(|reached| reached.epoch <= epoch);
        let cut = known.map(|reached| Reached { epoch, up_to: line.cut(reached.epoch, reached.up_to), ..*reached });
        cut.max_by_key(rank).filter(|reached| reached.up_to > 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use hearth_protocol::record::Opening;

    use super::*;

    fn line(openings: &[(u64, u64, bool)]) -> Line {
        let opening = |(epoch, first, loss): &(u64, u64, bool)| Opening {
            epoch: Epoch(*epoch),
            first: *first,
            previous: [0; 32],
            loss: *loss,
        };
        Line::new(openings.iter().map(opening).collect())
    }

    fn reached(epoch: u64, up_to: u64, at: u64) -> Reached {
        Reached { epoch: Epoch(epoch), up_to, at: Timestamp(at) }
    }

    #[test]
    fn a_number_of_an_older_epoch_counts_up_to_the_next_opening_and_one_of_none_up_to_what_was_sent() {
        let line = line(&[(1, 0, false), (2, 100, true), (4, 150, false)]);
        let said = |epoch: Option<u64>, up_to, sent: Option<(u64, u64)>| {
            let sent = sent.map(|(epoch, sent)| (Epoch(epoch), sent));
            line.counts(&Said { up_to, epoch: epoch.map(Epoch), sent })
        };
        assert_eq!((said(Some(1), 120, None), said(Some(1), 80, None)), (99, 80));
        assert_eq!((said(Some(2), 180, None), said(Some(3), 180, None), said(Some(4), 180, None)), (149, 149, 180));
        assert_eq!((said(None, 180, None), said(None, 180, Some((2, 170)))), (99, 149));
        assert_eq!((said(None, 180, Some((4, 160))), said(None, 50, Some((4, 10)))), (160, 50));
    }

    #[test]
    fn what_a_failover_took_away_is_not_read_any_more_and_what_came_instead_is_not_read_yet() {
        let (before, after) = (line(&[(1, 0, false)]), line(&[(1, 0, false), (2, 100, true)]));
        let mut cursor = Cursor::of([reached(1, 120, 5)]);
        assert_eq!(cursor.reached(&before), Some(reached(1, 120, 5)));
        cursor.settle(&after);
        assert_eq!(cursor.parts(), [reached(2, 99, 5)]);
        assert!(cursor.take(reached(2, 130, 9)) && !cursor.take(reached(2, 110, 3)));
        assert_eq!(cursor.reached(&after), Some(reached(2, 130, 9)));
        assert_eq!(cursor.reached(&before), None, "this line does not know the epoch yet");
    }

    fn any_reached() -> impl Strategy<Value = Reached> {
        (1u64..6, 0u64..40, 0u64..4).prop_map(|(epoch, up_to, at)| reached(epoch, up_to, at))
    }

    fn any_cursor() -> impl Strategy<Value = Cursor> {
        proptest::collection::vec(any_reached(), 0..6).prop_map(Cursor::of)
    }

    /// A line opens ever further, or lower where a failover lost something.
    fn any_line() -> impl Strategy<Value = Line> {
        proptest::collection::vec((0u64..2, 1u64..40, any::<bool>()), 0..5).prop_map(|steps| {
            let (mut openings, mut epoch) = (vec![(1, 0, false)], 1);
            for (skipped, first, loss) in steps {
                epoch += 1 + skipped;
                openings.push((epoch, first, loss));
            }
            line(&openings)
        })
    }

    fn merged(a: &Cursor, b: &Cursor) -> Cursor {
        let mut merged = a.clone();
        merged.merge(b);
        merged
    }

    proptest! {
        #[test]
        fn merging_is_idempotent_commutative_and_associative(a in any_cursor(), b in any_cursor(), c in any_cursor()) {
            prop_assert_eq!(&merged(&a, &a), &a);
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            let mut grown = a.clone();
            prop_assert_eq!(grown.merge(&b), grown != a);
        }

        #[test]
        fn within_a_line_cursors_only_grow_whatever_comes_in_whatever_order(
            line in any_line(),
            said in proptest::collection::vec(any_cursor(), 1..6),
        ) {
            let (mut cursor, mut before) = (Cursor::default(), 0);
            for said in &said {
                cursor.merge(said);
                cursor.settle(&line);
                let now = cursor.reached(&line).map_or(0, |reached| reached.up_to);
                prop_assert!(now >= before, "{} after {}", now, before);
                before = now;
            }
            let mut at_once = said.iter().fold(Cursor::default(), |all, one| merged(&all, one));
            at_once.settle(&line);
            let numbers = |cursor: &Cursor| -> Vec<_> { cursor.parts().iter().map(|part| (part.epoch, part.up_to)).collect() };
            prop_assert_eq!(numbers(&at_once), numbers(&cursor));
        }

        #[test]
        fn settling_changes_nothing_that_counts_in_this_line_or_in_one_that_follows_it(
            cursor in any_cursor(),
            line in any_line(),
            more in 1u64..40,
        ) {
            let mut longer = line.clone();
            longer.openings.push(Opening { epoch: Epoch(line.epoch().0 + 1), first: more, previous: [0; 32], loss: true });
            let mut settled = cursor.clone();
            settled.settle(&line);
            let up_to = |cursor: &Cursor, line| cursor.reached(line).map_or(0, |reached| reached.up_to);
            prop_assert_eq!(up_to(&settled, &line), up_to(&cursor, &line));
            prop_assert_eq!(up_to(&settled, &longer), up_to(&cursor, &longer));
        }
    }
}
