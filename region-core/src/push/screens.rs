//! The edge: what its sessions have on their screens, told to the homes of those users' records who are woken at all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_protocol::mesh;
use hearth_protocol::{ConversationId, DeviceId, LogId, UserId};
use region_model::view::View;

use super::Task;

/// Devices that are told again in one round.
const AT_ONCE: usize = 64;

/// What is on screens here.
#[derive(Debug)]
pub(super) struct Screens {
    /// By session.
    shown: BTreeMap<(UserId, u64), (DeviceId, ConversationId)>,
    /// Devices that are to be told again.
    again: BTreeSet<(UserId, DeviceId)>,
    every: Duration,
    next: Instant,
}

impl Screens {
    /// Nothing is on any; each is told again this often.
    pub(super) fn new(every: Duration) -> Self {
        Self { shown: BTreeMap::new(), again: BTreeSet::new(), every, next: Instant::now() + every }
    }

    /// A session shows a conversation, or nothing. Returns whether that is news.
    pub(super) fn set(&mut self, session: u64, user: &UserId, device: DeviceId, to: Option<ConversationId>) -> bool {
        let key = (user.clone(), session);
        let before = match to {
            Some(to) => self.shown.insert(key, (device, to)),
            None => self.shown.remove(&key),
        };
        before.map(|(_, conversation)| conversation) != to
    }

    /// What a device shows: of several sessions the newest.
    fn of(&self, user: &UserId, device: DeviceId) -> Option<ConversationId> {
        let sessions = self.shown.range((user.clone(), 0)..=(user.clone(), u64::MAX));
        sessions.rev().find(|(_, (of, _))| *of == device).map(|(_, (_, conversation))| *conversation)
    }

    /// Whoever was told may have forgotten.
    pub(super) fn all_again(&mut self) {
        self.again.extend(self.shown.iter().map(|((user, _), (device, _))| (user.clone(), *device)));
        self.next = Instant::now() + self.every;
    }

    /// Somebody else is to be told of this user.
    pub(super) fn again(&mut self, user: &UserId) {
        let sessions = self.shown.range((user.clone(), 0)..=(user.clone(), u64::MAX));
        self.again.extend(sessions.map(|((user, _), (device, _))| (user.clone(), *device)));
    }

    /// Whether all are to be told again, from what their sessions say.
    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    /// What is on screens by the sessions themselves: a word that found a queue full is made good by it.
    pub(super) fn take(&mut self, shown: BTreeMap<(UserId, u64), (DeviceId, ConversationId)>) {
        self.all_again();
        self.shown = shown;
        self.all_again();
    }

    /// Those who are to be told again now.
    pub(super) fn due(&mut self) -> Vec<(UserId, DeviceId)> {
        std::iter::from_fn(|| self.again.pop_first()).take(AT_ONCE).collect()
    }
}

impl Task {
    /// Tells what a device shows, where its user has subscriptions.
    pub(super) async fn tell_screen(&mut self, user: &UserId, device: DeviceId) {
        let record = LogId::user(user);
        // A copy may be here before its placement is known here, so the steward is asked.
        let Ok(view) = self.region.view(record, true).await else { return };
        let View::User(state) = &view.view else { return };
        let Some(placement) = view.placement.as_ref().filter(|_| !state.push.subscriptions.is_empty()) else { return };
        let shown = self.screens.of(user, device).map(LogId::conversation);
        let view = mesh::PushView {
            user: user.as_str().to_owned(),
            device: Bytes::copy_from_slice(device.0.as_bytes()),
            log: shown.map_or_else(Bytes::new, |log| Bytes::copy_from_slice(&log.to_bytes())),
        };
        let home = placement.home.clone();
        self.send(&home, mesh::Push { views: vec![view], ..mesh::Push::default() });
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
        let mut screens = Screens::new(Duration::from_secs(3_600));
        assert!(!screens.set(1, &user, device, None));
        assert!(screens.set(1, &user, device, conversation(7)));
        assert!(!screens.set(1, &user, device, conversation(7)));
        assert!(screens.set(2, &user, device, conversation(8)));
        assert_eq!(screens.of(&user, device), conversation(8));
        assert!(screens.set(2, &user, device, None));
        assert_eq!(screens.of(&user, device), conversation(7), "the other session shows it still");
        assert!(screens.due().is_empty());
        screens.all_again();
        assert_eq!(screens.due(), [(user.clone(), device)]);
        let (cem, gone) = (UserId::new("cem").unwrap(), (user.clone(), device));
        let shown = BTreeMap::from([((cem.clone(), 3), (device, ConversationId(Uuid::from_u128(9))))]);
        screens.take(shown);
        assert_eq!(screens.due(), [gone, (cem.clone(), device)], "who is gone is told, too");
        assert_eq!((screens.of(&user, device), screens.of(&cem, device)), (None, conversation(9)));
        screens.again(&cem);
        screens.again(&UserId::new("bob").unwrap());
        assert_eq!((screens.due().len(), screens.due().len()), (1, 0));
    }
}
