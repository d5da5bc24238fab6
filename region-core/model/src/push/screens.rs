//! The edge: what its sessions have on their screens. Times are milliseconds of a clock that never goes back.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::{ConversationId, DeviceId, UserId};

/// Devices that are told again in one round.
const AT_ONCE: usize = 64;

/// What is on screens here.
#[derive(Clone, Debug)]
pub struct Screens {
    /// By session.
    shown: BTreeMap<(UserId, u64), (DeviceId, ConversationId)>,
    /// Devices that are to be told again.
    again: BTreeSet<(UserId, DeviceId)>,
    every: u64,
    next: u64,
}

impl Screens {
    /// Nothing is on any; each is told again this often, from now on.
    #[must_use]
    pub fn new(every: u64, now: u64) -> Self {
        Self { shown: BTreeMap::new(), again: BTreeSet::new(), every, next: now.saturating_add(every) }
    }

    /// A session shows a conversation, or nothing. Returns whether that is news.
    pub fn set(&mut self, session: u64, user: &UserId, device: DeviceId, to: Option<ConversationId>) -> bool {
        let key = (user.clone(), session);
        let before = match to {
            Some(to) => self.shown.insert(key, (device, to)),
            None => self.shown.remove(&key),
        };
        before.map(|(_, conversation)| conversation) != to
    }

    /// What a device shows: of several sessions the newest.
    #[must_use]
    pub fn of(&self, user: &UserId, device: DeviceId) -> Option<ConversationId> {
        let sessions = self.shown.range((user.clone(), 0)..=(user.clone(), u64::MAX));
        sessions.rev().find(|(_, (of, _))| *of == device).map(|(_, (_, conversation))| *conversation)
    }

    /// Whoever was told may have forgotten.
    pub fn all_again(&mut self, now: u64) {
        self.again.extend(self.shown.iter().map(|((user, _), (device, _))| (user.clone(), *device)));
        self.next = now.saturating_add(self.every);
    }

    /// Somebody else is to be told of this user.
    pub fn again(&mut self, user: &UserId) {
        let sessions = self.shown.range((user.clone(), 0)..=(user.clone(), u64::MAX));
        self.again.extend(sessions.map(|((user, _), (device, _))| (user.clone(), *device)));
    }

    /// Whether all are to be told again, from what their sessions say.
    #[must_use]
    pub fn is_due(&self, now: u64) -> bool {
        now >= self.next
    }

    /// What is on screens by the sessions themselves: a word that found a queue full is made good by it.
    pub fn take(&mut self, shown: BTreeMap<(UserId, u64), (DeviceId, ConversationId)>, now: u64) {
        self.all_again(now);
        self.shown = shown;
        self.all_again(now);
    }

    /// Those who are to be told again now.
    pub fn due(&mut self) -> Vec<(UserId, DeviceId)> {
        std::iter::from_fn(|| self.again.pop_first()).take(AT_ONCE).collect()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_device_shows_what_its_newest_session_shows_and_is_told_again_in_turn() {
        let (user, device) = (UserId::new("ann").unwrap(), DeviceId(Uuid::from_u128(1)));
        let conversation = |number| Some(ConversationId(Uuid::from_u128(number)));
        let mut screens = Screens::new(3_600, 0);
        assert!(!screens.set(1, &user, device, None));
        assert!(screens.set(1, &user, device, conversation(7)));
        assert!(!screens.set(1, &user, device, conversation(7)));
        assert!(screens.set(2, &user, device, conversation(8)));
        assert_eq!(screens.of(&user, device), conversation(8));
        assert!(screens.set(2, &user, device, None));
        assert_eq!(screens.of(&user, device), conversation(7), "the other session shows it still");
        assert!(screens.due().is_empty());
        screens.all_again(1);
        assert_eq!(screens.due(), [(user.clone(), device)]);
        assert_eq!((screens.is_due(3_600), screens.is_due(3_601)), (false, true));
        let (cem, gone) = (UserId::new("cem").unwrap(), (user.clone(), device));
        let shown = BTreeMap::from([((cem.clone(), 3), (device, ConversationId(Uuid::from_u128(9))))]);
        screens.take(shown, 2);
        assert_eq!(screens.due(), [gone, (cem.clone(), device)], "who is gone is told, too");
        assert_eq!((screens.of(&user, device), screens.of(&cem, device)), (None, conversation(9)));
        screens.again(&cem);
        screens.again(&UserId::new("bob").unwrap());
        assert_eq!((screens.due().len(), screens.due().len()), (1, 0));
    }
}
