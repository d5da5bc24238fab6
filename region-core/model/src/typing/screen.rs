//! What a session has in view, and what it is told of who types there.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::{ConversationId, UserId};

use crate::mutants::Mutant;

/// Users whose typing waits for a session in the background; of more nothing is told.
pub const HELD: usize = 256;

/// What comes of an update that is offered to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is not for this session: it has something else in view, or was never told that the user types.
    NotForIt,
    /// It is to be sent now.
    Now,
    /// It waits until the session is back from the background, where the latest of each user counts.
    Held,
    /// Too many wait.
    Full,
}

/// What one session looks at. `T` is what it is sent.
#[derive(Clone, Debug)]
pub struct Screen<T> {
    view: Option<ConversationId>,
    /// Who types there, as the session was told or will be on its return.
    types: BTreeSet<UserId>,
    /// Set in the background: who types or does so no longer, to be told on return.
    held: Option<BTreeMap<UserId, T>>,
}

impl<T> Default for Screen<T> {
    fn default() -> Self {
        Self { view: None, types: BTreeSet::new(), held: None }
    }
}

impl<T> Screen<T> {
    /// Sets what is in view. What was told of another conversation is over with its view.
    pub fn set_view(&mut self, conversation: Option<ConversationId>) {
        if self.view != conversation {
            self.view = conversation;
            self.types.clear();
            self.held.iter_mut().for_each(BTreeMap::clear);
        }
    }

    /// The user is no member any more: nothing of what was told of the conversation, or waits, is for it. Should it be one
    /// again while it looks, it is told from then on.
    pub fn left(&mut self, conversation: ConversationId) {
        if self.view == Some(conversation) {
            self.types.clear();
            self.held.iter_mut().for_each(BTreeMap::clear);
        }
    }

    /// Whether a conversation is on it, in the background as well.
    #[must_use]
    pub fn views(&self, conversation: ConversationId) -> bool {
        self.view == Some(conversation) || Mutant::TypingOutOfView.is_on()
    }

    /// The conversation on it, in the background as well.
    #[must_use]
    pub fn viewed(&self) -> Option<ConversationId> {
        self.view
    }

    /// Whether it is in the background.
    #[must_use]
    pub fn is_aside(&self) -> bool {
        self.held.is_some()
    }

    /// What somebody looks at: nothing in the background.
    #[must_use]
    pub fn in_view(&self) -> Option<ConversationId> {
        self.view.filter(|_| self.held.is_none())
    }

    /// Offers that a user types in a conversation, or does so no longer: an end is for those who were told of the start,
    /// whatever came of their memberships since.
    pub fn offer(
        &mut self,
        conversation: ConversationId,
        user: &UserId,
        typing: bool,
        told: impl FnOnce() -> T,
    ) -> Offered {
        if !self.views(conversation) || (!typing && !self.types.contains(user)) {
            return Offered::NotForIt;
        }
        if let Some(held) = &mut self.held {
            if typing && held.len() >= HELD && !held.contains_key(user) {
                return Offered::Full;
            }
            held.insert(user.clone(), told());
        }
        if typing {
            self.types.insert(user.clone());
        } else {
            self.types.remove(user);
        }
        if self.held.is_some() { Offered::Held } else { Offered::Now }
    }

    /// Goes to the background, or comes back: returned is what is to be sent then.
    pub fn set_background(&mut self, background: bool) -> impl Iterator<Item = T> + use<T> {
        let held = match (background, self.held.is_some()) {
            (true, false) => self.held.replace(BTreeMap::new()),
            (false, _) => self.held.take(),
            (true, true) => None,
        };
        held.into_iter().flatten().map(|(_, told)| told)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const HERE: ConversationId = ConversationId(Uuid::from_u128(7));
    const ELSEWHERE: ConversationId = ConversationId(Uuid::from_u128(8));

    fn user(number: usize) -> UserId {
        UserId::new(format!("u{number}")).expect("a name")
    }

    fn viewing() -> Screen<(UserId, bool)> {
        let mut screen = Screen::default();
        screen.set_view(Some(HERE));
        screen
    }

    fn offer(screen: &mut Screen<(UserId, bool)>, at: ConversationId, number: usize, typing: bool) -> Offered {
        screen.offer(at, &user(number), typing, || (user(number), typing))
    }

    #[test]
    fn who_looks_elsewhere_is_told_nothing_and_an_end_is_told_to_those_who_were_told_of_the_start() {
        let mut screen = viewing();
        assert_eq!(offer(&mut screen, ELSEWHERE, 1, true), Offered::NotForIt);
        assert_eq!(offer(&mut screen, HERE, 1, false), Offered::NotForIt);
        assert_eq!(offer(&mut screen, HERE, 1, true), Offered::Now);
        assert_eq!(offer(&mut screen, HERE, 1, false), Offered::Now);
        assert_eq!(offer(&mut screen, HERE, 1, false), Offered::NotForIt);
        offer(&mut screen, HERE, 2, true);
        screen.set_view(None);
        screen.set_view(Some(HERE));
        assert_eq!(offer(&mut screen, HERE, 2, false), Offered::NotForIt, "its view ended");
    }

    #[test]
    fn in_the_background_the_latest_of_each_who_types_is_held_and_told_on_return() {
        let mut screen = viewing();
        assert_eq!(offer(&mut screen, HERE, HELD + 20, true), Offered::Now);
        assert_eq!(screen.set_background(true).count(), 0);
        assert_eq!(screen.in_view(), None);
        for number in 0..HELD + 10 {
            let taken = offer(&mut screen, HERE, number, true);
            assert_eq!(taken, if number < HELD { Offered::Held } else { Offered::Full });
        }
        assert_eq!(offer(&mut screen, HERE, 0, false), Offered::Held);
        assert_eq!(offer(&mut screen, HERE, HELD + 9, false), Offered::NotForIt, "it was not to be told of the start");
        assert_eq!(offer(&mut screen, HERE, HELD + 20, false), Offered::Held, "an end has room always");
        assert_eq!(screen.set_background(true).count(), 0, "nothing is told meanwhile");
        let told: BTreeMap<UserId, bool> = screen.set_background(false).collect();
        assert_eq!(
            (told.len(), told[&user(0)], told[&user(HELD + 20)], told[&user(1)]),
            (HELD + 1, false, false, true)
        );
        screen.set_background(true).for_each(drop);
        assert_eq!(offer(&mut screen, HERE, 1, true), Offered::Held);
        screen.set_view(None);
        assert_eq!(screen.set_background(false).count(), 0, "its view ended");
    }

    #[test]
    fn who_is_removed_while_it_looks_is_told_neither_what_waited_nor_the_end_of_what_it_was_told() {
        let mut screen = viewing();
        assert_eq!(offer(&mut screen, HERE, 1, true), Offered::Now);
        screen.left(HERE);
        assert_eq!(offer(&mut screen, HERE, 1, false), Offered::NotForIt);
        screen.set_background(true).for_each(drop);
        assert_eq!(offer(&mut screen, HERE, 2, true), Offered::Held);
        screen.left(ELSEWHERE);
        assert_eq!(screen.clone().set_background(false).count(), 1);
        screen.left(HERE);
        assert_eq!(screen.set_background(false).count(), 0);
        assert_eq!(offer(&mut screen, HERE, 2, true), Offered::Now, "it is a member again");
    }
}
