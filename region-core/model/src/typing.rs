//! Who types where, for a moment: never stored, told at most once a second, over by itself.

use std::collections::BTreeMap;

use hearth_protocol::{LogId, UserId};

/// A user's starts in a conversation are told at most once in this time.
pub const TOLD_EVERY: u64 = 1_000;
/// What another region told is over by itself this much later than what is said here, should its end be lost.
const LOST_AFTER: u64 = 2_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Typing {
    until: u64,
    told_at: u64,
    /// Whether a session of this region types: then this region tells the others.
    here: bool,
}

/// Something to tell: a user types in a conversation, or does so no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The conversation.
    pub log: LogId,
    /// Who.
    pub user: UserId,
    /// Whether.
    pub typing: bool,
    /// Whether other regions are to hear it from this one.
    pub here: bool,
}

/// Who types now, as one region knows it. At most so many.
#[derive(Debug)]
pub struct TypingBook {
    typing: BTreeMap<(LogId, UserId), Typing>,
    most: usize,
    typing_for: u64,
}

impl TypingBook {
    /// Nobody types, and never more than `most`. `typing.update {isTyping: false}` comes `typing_for` milliseconds after
    /// the last start.
    #[must_use]
    pub fn new(most: usize, typing_for: u64) -> Self {
        Self { typing: BTreeMap::new(), most, typing_for }
    }

    /// A session of this region starts, or goes on. `None` when it was told within [`TOLD_EVERY`], or too many type.
    pub fn start(&mut self, log: LogId, user: &UserId, now: u64) -> Option<Update> {
        self.take(log, user, now + self.typing_for, true, now)
    }

    /// Another region told that a user types.
    pub fn heard(&mut self, log: LogId, user: &UserId, now: u64) -> Option<Update> {
        self.take(log, user, now + self.typing_for + LOST_AFTER, false, now)
    }

    fn take(&mut self, log: LogId, user: &UserId, until: u64, here: bool, now: u64) -> Option<Update> {
        let key = (log, user.clone());
        if let Some(typing) = self.typing.get_mut(&key) {
            typing.until = typing.until.max(until);
            typing.here |= here;
            if now < typing.told_at + TOLD_EVERY {
                return None;
            }
            typing.told_at = now;
        } else if self.typing.len() >= self.most {
            return None;
        } else {
            self.typing.insert(key, Typing { until, told_at: now, here });
        }
        Some(Update { log, user: user.clone(), typing: true, here })
    }

    /// A user stops, by a session of this region (`here`) or by the word of another. `None` when that is known.
    pub fn stop(&mut self, log: LogId, user: &UserId, here: bool) -> Option<Update> {
        self.typing.remove(&(log, user.clone()))?;
        Some(Update { log, user: user.clone(), typing: false, here })
    }

    /// Those whose time is over.
    pub fn expire(&mut self, now: u64) -> Vec<Update> {
        let over =
            |(key, typing): (&(LogId, UserId), &Typing)| (typing.until <= now).then(|| (key.clone(), typing.here));
        let over: Vec<((LogId, UserId), bool)> = self.typing.iter().filter_map(over).collect();
        let update = |((log, user), here): ((LogId, UserId), bool)| {
            self.typing.remove(&(log, user.clone()));
            Update { log, user, typing: false, here }
        };
        over.into_iter().map(update).collect()
    }

    /// When the next time is over.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        self.typing.values().map(|typing| typing.until).min()
    }

    /// Who types in a conversation now.
    #[must_use]
    pub fn typing_in(&self, log: LogId) -> Vec<UserId> {
        self.typing.keys().filter(|(of, _)| *of == log).map(|(_, user)| user.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use hearth_protocol::ConversationId;
    use proptest::prelude::*;

    use super::*;

    fn log(number: u128) -> LogId {
        LogId::conversation(ConversationId(uuid::Uuid::from_u128(number)))
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("a name")
    }

    #[test]
    fn a_start_is_told_at_most_once_a_second_and_is_over_five_seconds_after_the_last() {
        let (mut book, ann) = (TypingBook::new(10, 5_000), user("ann"));
        let update = |typing| Update { log: log(1), user: user("ann"), typing, here: true };
        assert_eq!(book.start(log(1), &ann, 0), Some(update(true)));
        assert_eq!(book.start(log(1), &ann, 999), None);
        assert_eq!(book.start(log(1), &ann, 1_000), Some(update(true)));
        assert_eq!(book.start(log(1), &ann, 1_500), None);
        assert_eq!((book.due(), book.typing_in(log(1))), (Some(6_500), vec![user("ann")]));
        assert!(book.expire(6_499).is_empty());
        assert_eq!((book.expire(6_500), book.due()), (vec![update(false)], None));
        assert_eq!(book.stop(log(1), &ann, true), None, "it is over already");
        book.start(log(1), &ann, 7_000);
        assert_eq!(book.stop(log(1), &ann, true), Some(update(false)));
        assert!(book.expire(99_000).is_empty());
    }

    #[test]
    fn who_sets_another_time_gets_it_and_a_rest_leaves_nothing_in_memory() {
        let (mut book, ann) = (TypingBook::new(1, 2_000), user("ann"));
        book.start(log(1), &ann, 0);
        assert_eq!(book.start(log(2), &ann, 0), None, "there is room for one");
        assert_eq!((book.expire(1_999).len(), book.expire(2_000).len()), (0, 1));
        assert!(book.typing.is_empty() && book.start(log(2), &ann, 2_000).is_some());
        book.heard(log(2), &ann, 2_500);
        assert_eq!((book.expire(2_500 + 2_000).len(), book.expire(2_500 + 2_000 + LOST_AFTER).len()), (0, 1));
        assert!(book.typing.is_empty());
    }

    #[test]
    fn what_another_region_told_is_over_by_itself_and_not_told_on() {
        let (mut book, ann) = (TypingBook::new(10, 5_000), user("ann"));
        assert!(book.heard(log(1), &ann, 0).is_some_and(|update| !update.here));
        assert!(book.expire(7_000).iter().all(|update| !update.typing && !update.here));
        assert_eq!(book.due(), None);
    }

    proptest! {
        #[test]
        fn whoever_is_told_to_type_is_told_to_have_stopped_and_no_more_type_than_the_bound(
            steps in proptest::collection::vec((0..4u8, 0..3u128, 0..3usize, 0..1_500u64), 0..80),
        ) {
            let (mut book, mut now) = (TypingBook::new(4, 5_000), 0);
            let mut told: std::collections::BTreeSet<(LogId, UserId)> = std::collections::BTreeSet::new();
            for (step, conversation, who, later) in steps {
                now += later;
                let (log, user) = (log(conversation), user(["ann", "bob", "cid"][who]));
                let mut updates = book.expire(now);
                updates.extend(match step {
                    0 | 1 => book.start(log, &user, now),
                    2 => book.heard(log, &user, now),
                    _ => book.stop(log, &user, true),
                });
                for update in updates {
                    let key = (update.log, update.user);
                    if update.typing { told.insert(key); } else { prop_assert!(told.remove(&key)); }
                }
                prop_assert!(told.len() <= 4);
            }
            for update in book.expire(now + 7_000) {
                told.remove(&(update.log, update.user));
            }
            prop_assert!(told.is_empty());
        }
    }
}
