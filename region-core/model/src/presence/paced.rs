//! Updates on their way to sessions. The first goes at once; what follows within [`TOGETHER`] goes together, since a
//! frame of its own for each costs a write to a socket, and nobody sees a quarter of a second.

use std::collections::{BTreeMap, VecDeque};
use std::mem::take;

use super::SessionId;

/// A session is given updates at most once in this time, in milliseconds.
pub const TOGETHER: u64 = 250;

/// What waits for sessions, in the order in which it came. A session that is told of at most so many users a second has at
/// most that many here: the bound is that of subscriptions.
#[derive(Debug)]
pub struct Paced<T> {
    /// The sessions that were given something within [`TOGETHER`], and what has come since.
    waiting: BTreeMap<SessionId, Vec<T>>,
    /// When each of them is given what has come, earliest first.
    due: VecDeque<(u64, SessionId)>,
}

impl<T> Default for Paced<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), due: VecDeque::new() }
    }
}

impl<T> Paced<T> {
    /// Takes an update, or gives it back: then it goes at once.
    pub fn offer(&mut self, session: SessionId, update: T, now: u64) -> Option<T> {
        if let Some(waiting) = self.waiting.get_mut(&session) {
            waiting.push(update);
            return None;
        }
        self.waiting.insert(session, Vec::new());
        self.due.push_back((now + TOGETHER, session));
        Some(update)
    }

    /// What waits for a session, to go before something else does.
    pub fn take(&mut self, session: SessionId) -> Vec<T> {
        self.waiting.get_mut(&session).map(take).unwrap_or_default()
    }

    /// When somebody is given something again, by the clock of `now`.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        self.due.front().map(|(due, _)| *due)
    }

    /// The next session whose time has come and what it is given, which may be nothing.
    pub fn next(&mut self, now: u64) -> Option<(SessionId, Vec<T>)> {
        let (_, session) = self.due.pop_front_if(|(due, _)| *due <= now)?;
        let updates = self.take(session);
        if updates.is_empty() {
            self.waiting.remove(&session);
        } else {
            self.due.push_back((now + TOGETHER, session));
        }
        Some((session, updates))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn due<T>(paced: &mut Paced<T>, now: u64) -> Vec<(SessionId, Vec<T>)> {
        std::iter::from_fn(|| paced.next(now)).filter(|(_, updates)| !updates.is_empty()).collect()
    }

    #[test]
    fn the_first_update_goes_at_once_and_those_of_the_next_quarter_of_a_second_together() {
        let mut paced = Paced::default();
        assert_eq!(paced.offer(1, "a", 1_000), Some("a"));
        assert_eq!(
            (paced.offer(1, "b", 1_001), paced.offer(2, "c", 1_002), paced.offer(1, "d", 1_200)),
            (None, Some("c"), None)
        );
        assert_eq!(due(&mut paced, 1_249), vec![]);
        assert_eq!(due(&mut paced, 1_250), vec![(1, vec!["b", "d"])]);
        assert_eq!(paced.offer(1, "e", 1_300), None, "a session is given something at most once in that time");
        assert_eq!((due(&mut paced, 1_499), due(&mut paced, 1_500)), (vec![], vec![(1, vec!["e"])]));
        assert_eq!((due(&mut paced, 1_750), paced.due()), (vec![], None), "nothing is kept of who is told nothing");
        assert_eq!(paced.offer(1, "f", 1_751), Some("f"));
    }

    #[test]
    fn what_waits_goes_before_an_answer() {
        let mut paced = Paced::default();
        assert_eq!((paced.offer(1, "a", 0), paced.offer(1, "b", 1)), (Some("a"), None));
        assert_eq!((paced.take(1), paced.take(1), paced.take(9)), (vec!["b"], vec![], vec![]));
        assert_eq!(due(&mut paced, 250), vec![]);
    }

    proptest! {
        #[test]
        fn every_update_is_given_once_in_order_and_at_most_a_quarter_of_a_second_late(
            offers in proptest::collection::vec((0u64..4, 0u64..200), 1..100),
        ) {
            let mut paced = Paced::default();
            let (mut offered, mut given) = (vec![Vec::new(); 4], vec![Vec::new(); 4]);
            let mut offers = offers.into_iter().scan(0, |at, (session, wait)| {
                *at += wait;
                Some((session, *at))
            }).peekable();
            let mut now = 0;
            while offers.peek().is_some() || paced.due().is_some() {
                for (session, updates) in due(&mut paced, now) {
                    prop_assert!(updates.iter().all(|at| now - at <= TOGETHER));
                    given[session as usize].extend(updates);
                }
                while let Some((session, at)) = offers.next_if(|(_, at)| *at == now) {
                    offered[session as usize].push(at);
                    given[session as usize].extend(paced.offer(session, at, now));
                }
                now += 1;
            }
            prop_assert_eq!(given, offered);
        }
    }
}
