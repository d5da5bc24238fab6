//! Who types where, for a moment: never stored, told at most once a second, over by itself.

use std::collections::BTreeMap;

use hearth_protocol::{LogId, RegionId, UserId};

use crate::mutants::Mutant;

/// A user's starts in a conversation are told at most once in this time.
pub const TOLD_EVERY: u64 = 1_000;
/// What another region told is over by itself this much later than what is said here, should its end be lost.
pub const LOST_AFTER: u64 = 2_000;

/// What others take a user for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// They were told that it types.
    Told,
    /// It started again within [`TOLD_EVERY`] of the last start that they were told: they are told once that is over.
    Waits,
    /// It stopped. Kept until [`TOLD_EVERY`] is over, so that the next start is not told before.
    Stopped,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Typing {
    stage: Stage,
    until: u64,
    told_at: u64,
    /// Whether a session of this region types: then this region tells the others.
    here: bool,
    /// The region that told of it last, if one did.
    from: Option<RegionId>,
}

impl Typing {
    /// When something is to be done about it.
    fn due(&self) -> u64 {
        match self.stage {
            Stage::Told => self.until,
            Stage::Waits => self.until.min(self.told_at + TOLD_EVERY),
            Stage::Stopped => self.told_at + TOLD_EVERY,
        }
    }
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
    /// The region whose word this is, if it is one's: the home passes it on.
    pub from: Option<RegionId>,
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
        self.take(log, user, now + self.typing_for, None, now)
    }

    /// Another region told that a user types.
    pub fn heard(&mut self, log: LogId, user: &UserId, from: &RegionId, now: u64) -> Option<Update> {
        let until = if Mutant::TypingWithoutEnd.is_on() { u64::MAX } else { now + self.typing_for + LOST_AFTER };
        self.take(log, user, until, Some(from.clone()), now)
    }

    fn take(&mut self, log: LogId, user: &UserId, until: u64, from: Option<RegionId>, now: u64) -> Option<Update> {
        let (key, here) = ((log, user.clone()), from.is_none());
        if let Some(typing) = self.typing.get_mut(&key) {
            let goes_on = typing.stage != Stage::Stopped;
            typing.until = if goes_on { typing.until.max(until) } else { until };
            typing.here = here || (goes_on && typing.here);
            typing.from.clone_from(&from);
            if now < typing.told_at + TOLD_EVERY {
                if !goes_on {
                    typing.stage = Stage::Waits;
                }
                return None;
            }
            (typing.told_at, typing.stage) = (now, Stage::Told);
        } else if self.typing.len() >= self.most {
            return None;
        } else {
            self.typing.insert(key, Typing { stage: Stage::Told, until, told_at: now, here, from: from.clone() });
        }
        Some(Update { log, user: user.clone(), typing: true, here, from })
    }

    /// A user stops, by a session of this region or by the word of another region (`from`). `None` when that is known, or
    /// nobody was told that it types.
    pub fn stop(&mut self, log: LogId, user: &UserId, from: Option<&RegionId>) -> Option<Update> {
        let typing = self.typing.get_mut(&(log, user.clone()))?;
        let before = std::mem::replace(&mut typing.stage, Stage::Stopped);
        let (here, from) = (from.is_none(), from.cloned());
        (before == Stage::Told).then(|| Update { log, user: user.clone(), typing: false, here, from })
    }

    /// Those whose time is over, and those who may be told again.
    pub fn expire(&mut self, now: u64) -> Vec<Update> {
        let due = |(key, typing): (&(LogId, UserId), &Typing)| (typing.due() <= now).then(|| key.clone());
        let due: Vec<(LogId, UserId)> = self.typing.iter().filter_map(due).collect();
        due.into_iter().filter_map(|key| self.look_at(key, now)).collect()
    }

    fn look_at(&mut self, key: (LogId, UserId), now: u64) -> Option<Update> {
        let typing = self.typing.get_mut(&key)?;
        let (stage, here, from) = (typing.stage, typing.here, typing.from.clone());
        if stage == Stage::Waits && typing.until > now {
            (typing.told_at, typing.stage) = (now, Stage::Told);
            return Some(Update { log: key.0, user: key.1, typing: true, here, from });
        }
        self.typing.remove(&key);
        let (log, user) = key;
        (stage == Stage::Told).then_some(Update { log, user, typing: false, here, from: None })
    }

    /// When the next time is over.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        self.typing.values().map(Typing::due).min()
    }

    /// Who types in a conversation now, as others were told.
    #[must_use]
    pub fn typing_in(&self, log: LogId) -> Vec<UserId> {
        let of = self.typing.iter().filter(|((of, _), typing)| *of == log && typing.stage == Stage::Told);
        of.map(|((_, user), _)| user.clone()).collect()
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

    fn region(name: &str) -> RegionId {
        RegionId::new(name).expect("a name")
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("a name")
    }

    #[test]
    fn a_start_is_told_at_most_once_a_second_and_is_over_five_seconds_after_the_last() {
        let (mut book, ann) = (TypingBook::new(10, 5_000), user("ann"));
        let update = |typing| Update { log: log(1), user: user("ann"), typing, here: true, from: None };
        assert_eq!(book.start(log(1), &ann, 0), Some(update(true)));
        assert_eq!(book.start(log(1), &ann, 999), None);
        assert_eq!(book.start(log(1), &ann, 1_000), Some(update(true)));
        assert_eq!(book.start(log(1), &ann, 1_500), None);
        assert_eq!((book.due(), book.typing_in(log(1))), (Some(6_500), vec![user("ann")]));
        assert!(book.expire(6_499).is_empty());
        assert_eq!((book.expire(6_500), book.due()), (vec![update(false)], None));
        assert_eq!(book.stop(log(1), &ann, None), None, "it is over already");
        book.start(log(1), &ann, 7_000);
        assert_eq!(book.stop(log(1), &ann, None), Some(update(false)));
        assert!(book.expire(99_000).is_empty());
    }

    #[test]
    fn who_stops_and_starts_again_within_the_second_is_told_once_it_is_over() {
        let (mut book, ann, bob) = (TypingBook::new(10, 5_000), user("ann"), user("bob"));
        let update = |typing| Update { log: log(1), user: user("ann"), typing, here: true, from: None };
        assert_eq!(book.start(log(1), &ann, 0), Some(update(true)));
        assert_eq!(book.stop(log(1), &ann, None), Some(update(false)));
        assert_eq!(book.start(log(1), &ann, 200), None);
        assert!(book.typing_in(log(1)).is_empty(), "nobody was told");
        assert_eq!((book.due(), book.expire(999)), (Some(1_000), vec![]));
        assert_eq!(book.expire(1_000), vec![update(true)]);
        assert_eq!((book.due(), book.typing_in(log(1))), (Some(5_200), vec![ann.clone()]));
        assert_eq!(book.expire(5_200), vec![update(false)]);
        // One that stops again before others were told has nothing to tell.
        book.start(log(1), &bob, 6_000);
        book.stop(log(1), &bob, None);
        book.start(log(1), &bob, 6_100);
        assert_eq!(book.stop(log(1), &bob, None), None);
        assert!(book.expire(7_000).is_empty() && book.typing.is_empty());
        // What waits of another region's is passed on as its word.
        let eu = region("eu");
        book.heard(log(1), &ann, &eu, 8_000);
        book.stop(log(1), &ann, Some(&eu));
        book.heard(log(1), &ann, &eu, 8_100);
        let heard = Update { log: log(1), user: ann, typing: true, here: false, from: Some(eu) };
        assert_eq!(book.expire(9_000), vec![heard]);
    }

    #[test]
    fn who_sets_another_time_gets_it_and_a_rest_leaves_nothing_in_memory() {
        let (mut book, ann) = (TypingBook::new(1, 2_000), user("ann"));
        book.start(log(1), &ann, 0);
        assert_eq!(book.start(log(2), &ann, 0), None, "there is room for one");
        assert_eq!((book.expire(1_999).len(), book.expire(2_000).len()), (0, 1));
        assert!(book.typing.is_empty() && book.start(log(2), &ann, 2_000).is_some());
        book.heard(log(2), &ann, &region("eu"), 2_500);
        assert_eq!((book.expire(2_500 + 2_000).len(), book.expire(2_500 + 2_000 + LOST_AFTER).len()), (0, 1));
        assert!(book.typing.is_empty());
    }

    #[test]
    fn what_another_region_told_is_over_by_itself_and_not_told_on() {
        let (mut book, ann) = (TypingBook::new(10, 5_000), user("ann"));
        assert!(book.heard(log(1), &ann, &region("eu"), 0).is_some_and(|update| !update.here));
        assert!(book.expire(7_000).iter().all(|update| !update.typing && !update.here && update.from.is_none()));
        assert_eq!(book.due(), None);
    }

    proptest! {
        #[test]
        fn whoever_is_told_to_type_is_told_to_have_stopped_and_no_more_type_than_the_bound(
            steps in proptest::collection::vec((0..4u8, 0..3u128, 0..3usize, 0..1_500u64), 0..80),
        ) {
            let (mut book, mut now) = (TypingBook::new(4, 5_000), 0);
            let mut told: std::collections::BTreeSet<(LogId, UserId)> = std::collections::BTreeSet::new();
            let mut told_at: BTreeMap<(LogId, UserId), u64> = BTreeMap::new();
            for (step, conversation, who, later) in steps {
                now += later;
                let (log, user) = (log(conversation), user(["ann", "bob", "cid"][who]));
                let mut updates = book.expire(now);
                updates.extend(match step {
                    0 | 1 => book.start(log, &user, now),
                    2 => book.heard(log, &user, &region("eu"), now),
                    _ => book.stop(log, &user, None),
                });
                for update in updates {
                    let key = (update.log, update.user);
                    if update.typing {
                        let before = told_at.insert(key.clone(), now);
                        prop_assert!(before.is_none_or(|before| before + TOLD_EVERY <= now));
                        told.insert(key);
                    } else {
                        prop_assert!(told.remove(&key));
                    }
                }
                prop_assert!(told.len() <= 4);
            }
            for later in [now + 1_000, now + 7_000] {
                for update in book.expire(later) {
                    let key = (update.log, update.user);
                    if update.typing { told.insert(key); } else { told.remove(&key); }
                }
            }
            prop_assert!(told.is_empty() && book.typing.is_empty());
        }
    }
}
