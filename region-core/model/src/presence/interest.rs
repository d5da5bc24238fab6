//! Which sessions subscribe to whom, may see whom, and what they were told.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::{Refusal, RegionId, UserId};

use super::join::Shown;
use super::{
    Asked, Live, MOST_CHECKS, MOST_INTEREST, MOST_PENDING, MOST_SUBSCRIPTIONS, PresenceBounds, SessionId, overloaded,
};

/// A session that subscribes.
#[derive(Debug, Default)]
struct Subscriber {
    /// Whom, and whether it may see them.
    users: BTreeMap<UserId, bool>,
    background: bool,
    /// Users of whom it is to be told later.
    held: BTreeSet<UserId>,
    /// Requests that wait for who may see whom.
    checks: usize,
}

/// A user whom sessions subscribe to.
#[derive(Debug, Default)]
struct Interest {
    sessions: BTreeSet<SessionId>,
    /// Of those, whoever may see it.
    seeing: BTreeSet<SessionId>,
    /// What was told last, and when; `None` until links have said.
    shown: Option<Shown>,
    shown_at: u64,
}

/// An answer that waits for links.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) session: SessionId,
    /// In the order asked.
    pub(super) users: Vec<UserId>,
    /// The request, or `None` where users came into sight by themselves.
    pub(super) asked: Option<Asked>,
    /// Users of whom a link has not said yet.
    pub(super) waits: BTreeSet<UserId>,
    pub(super) until: u64,
}

/// What it changes that a session may see a user, or may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Sees,
    /// No session saw the user before.
    FirstSees,
    SeesNoMore,
    /// No session sees the user any more.
    LastSeesNoMore,
}

/// All subscriptions of a region.
#[derive(Debug, Default)]
pub(super) struct Interests {
    subscribers: BTreeMap<SessionId, Subscriber>,
    users: BTreeMap<UserId, Interest>,
    live: Live,
    subscriptions: usize,
    pending: Vec<Pending>,
    due: BTreeSet<(u64, UserId)>,
    lagging: BTreeSet<SessionId>,
}

pub(super) fn too_many_in_a_frame(bounds: &PresenceBounds) -> Refusal {
    Refusal::too_large("too many users in a frame", format!("presence_per_frame: {} users a frame", bounds.per_frame))
}

impl Interests {
    /// Takes a subscription whole, or refuses it whole. Nobody is seen by it yet.
    pub(super) fn subscribe(
        &mut self,
        session: SessionId,
        users: &[UserId],
        bounds: &PresenceBounds,
    ) -> Result<(), Refusal> {
        if users.len() > bounds.per_frame {
            return Err(too_many_in_a_frame(bounds));
        }
        let subscriber = self.subscribers.entry(session).or_default();
        let new = users.iter().filter(|user| !subscriber.users.contains_key(*user)).count();
        if subscriber.users.len() + new > bounds.per_session {
            let limit = format!("presence_subscriptions: {} users a connection", bounds.per_session);
            return Err(Refusal::too_large("too many presence subscriptions", limit));
        }
        if subscriber.checks >= MOST_CHECKS {
            return Err(overloaded(format!("{MOST_CHECKS} presence requests of a connection")));
        }
        if self.subscriptions + new > MOST_SUBSCRIPTIONS {
            return Err(overloaded(format!("{MOST_SUBSCRIPTIONS} presence subscriptions of a region")));
        }
        if self.live.len() + new > MOST_INTEREST {
            return Err(overloaded(format!("{MOST_INTEREST} users subscribed to in a region")));
        }
        subscriber.checks += 1;
        self.subscriptions += new;
        for user in users {
            subscriber.users.entry(user.clone()).or_insert(false);
            self.users.entry(user.clone()).or_default().sessions.insert(session);
        }
        Ok(())
    }

    /// The session's request was looked at.
    pub(super) fn checked(&mut self, session: SessionId) {
        if let Some(subscriber) = self.subscribers.get_mut(&session) {
            subscriber.checks = subscriber.checks.saturating_sub(1);
        }
    }

    /// Ends one subscription. Returns whether no session sees the user any more.
    pub(super) fn unsubscribe(&mut self, session: SessionId, user: &UserId) -> bool {
        let last = self.show(session, user, false) == Change::LastSeesNoMore;
        let Some(subscriber) = self.subscribers.get_mut(&session) else { return last };
        if subscriber.users.remove(user).is_none() {
            return last;
        }
        subscriber.held.remove(user);
        self.subscriptions -= 1;
        if let Some(interest) = self.users.get_mut(user) {
            interest.sessions.remove(&session);
            if interest.sessions.is_empty() {
                self.users.remove(user);
            }
        }
        last
    }

    /// Forgets a session. Returns the users whom no session sees any more.
    pub(super) fn forget(&mut self, session: SessionId) -> Vec<UserId> {
        let Some(subscriber) = self.subscribers.get(&session) else { return Vec::new() };
        let users: Vec<UserId> = subscriber.users.keys().cloned().collect();
        let gone = users.into_iter().filter(|user| self.unsubscribe(session, user)).collect();
        self.subscribers.remove(&session);
        self.lagging.remove(&session);
        self.pending.retain(|pending| pending.session != session);
        gone
    }

    /// Whether a session may see a user that it subscribes to, from now on.
    pub(super) fn show(&mut self, session: SessionId, user: &UserId, sees: bool) -> Change {
        let subscription = self.subscribers.get_mut(&session).and_then(|of| of.users.get_mut(user));
        let (Some(known), Some(interest)) = (subscription, self.users.get_mut(user)) else { return Change::None };
        if *known == sees {
            return Change::None;
        }
        *known = sees;
        if sees {
            interest.seeing.insert(session);
            if self.live.insert(user) { Change::FirstSees } else { Change::Sees }
        } else {
            interest.seeing.remove(&session);
            if !interest.seeing.is_empty() {
                return Change::SeesNoMore;
            }
            interest.shown = None;
            self.live.remove(user);
            Change::LastSeesNoMore
        }
    }

    /// Whether a session subscribes to a user and may see it.
    pub(super) fn sees(&self, session: SessionId, user: &UserId) -> bool {
        self.subscribers.get(&session).is_some_and(|of| of.users.get(user) == Some(&true))
    }

    /// Subscriptions to these users.
    pub(super) fn concerned(&self, users: &[UserId]) -> BTreeMap<SessionId, Vec<UserId>> {
        let mut concerned: BTreeMap<SessionId, Vec<UserId>> = BTreeMap::new();
        for user in users {
            for session in self.users.get(user).into_iter().flat_map(|interest| &interest.sessions) {
                concerned.entry(*session).or_default().push(user.clone());
            }
        }
        concerned
    }

    /// Everybody whom a session subscribes to.
    pub(super) fn of(&self, session: SessionId) -> Vec<UserId> {
        self.subscribers.get(&session).map_or_else(Vec::new, |of| of.users.keys().cloned().collect())
    }

    /// Everybody whom any session subscribes to.
    pub(super) fn all(&self) -> Vec<(SessionId, Vec<UserId>)> {
        let subscribing = self.subscribers.iter().filter(|(_, of)| !of.users.is_empty());
        subscribing.map(|(session, of)| (*session, of.users.keys().cloned().collect())).collect()
    }

    pub(super) fn set_background(&mut self, session: SessionId, background: bool) {
        if let Some(subscriber) = self.subscribers.get_mut(&session) {
            subscriber.background = background;
        } else if background {
            self.subscribers.insert(session, Subscriber { background, ..Subscriber::default() });
        }
    }

    pub(super) fn is_in_background(&self, session: SessionId) -> bool {
        self.subscribers.get(&session).is_some_and(|of| of.background)
    }

    /// The session is to be told of a user later.
    pub(super) fn hold(&mut self, session: SessionId, user: &UserId) {
        if let Some(subscriber) = self.subscribers.get_mut(&session).filter(|of| of.users.contains_key(user)) {
            subscriber.held.insert(user.clone());
            if !subscriber.background {
                self.lagging.insert(session);
            }
        }
    }

    pub(super) fn take_held(&mut self, session: SessionId) -> BTreeSet<UserId> {
        self.lagging.remove(&session);
        let subscriber = self.subscribers.get_mut(&session).filter(|of| !of.background);
        subscriber.map(|of| std::mem::take(&mut of.held)).unwrap_or_default()
    }

    /// Sessions that did not take an update.
    pub(super) fn lagging(&self) -> Vec<SessionId> {
        self.lagging.iter().copied().collect()
    }

    /// Sessions to be told of a user now; those in the background are told later.
    pub(super) fn awake(&mut self, user: &UserId) -> Vec<SessionId> {
        let Some(interest) = self.users.get(user) else { return Vec::new() };
        let mut awake = Vec::with_capacity(interest.seeing.len());
        for session in &interest.seeing {
            match self.subscribers.get_mut(session) {
                Some(subscriber) if subscriber.background => drop(subscriber.held.insert(user.clone())),
                Some(subscriber) => {
                    // It hears the latest with this.
                    subscriber.held.remove(user);
                    awake.push(*session);
                }
                None => {}
            }
        }
        awake
    }

    /// What was told last of a user whom somebody sees, and when.
    pub(super) fn shown(&self, user: &UserId) -> Option<(&Shown, u64)> {
        let interest = self.users.get(user).filter(|interest| !interest.seeing.is_empty())?;
        interest.shown.as_ref().map(|shown| (shown, interest.shown_at))
    }

    /// Whether somebody sees a user of whom nothing was told yet.
    pub(super) fn is_unshown(&self, user: &UserId) -> bool {
        self.users.get(user).is_some_and(|interest| !interest.seeing.is_empty() && interest.shown.is_none())
    }

    pub(super) fn set_shown(&mut self, user: &UserId, shown: Shown, at: u64) {
        if let Some(interest) = self.users.get_mut(user).filter(|interest| !interest.seeing.is_empty()) {
            (interest.shown, interest.shown_at) = (Some(shown), at);
        }
    }

    /// Clients hear that a region is fenced: what they make of it is what they were told. Gives whom that concerns.
    pub(super) fn fenced(&mut self, region: &RegionId) -> Vec<UserId> {
        let told = self.users.iter_mut().filter_map(|(user, interest)| Some((user, interest.shown.as_mut()?)));
        told.filter_map(|(user, shown)| shown.without(region).then(|| user.clone())).collect()
    }

    /// The same was told again.
    pub(super) fn shown_again(&mut self, user: &UserId, at: u64) {
        if let Some(interest) = self.users.get_mut(user) {
            interest.shown_at = at;
        }
    }

    pub(super) fn look_again(&mut self, user: &UserId, at: u64) {
        self.due.insert((at, user.clone()));
    }

    /// Users who are to be looked at again by now.
    pub(super) fn due_until(&mut self, now: u64) -> Vec<UserId> {
        let mut due = Vec::new();
        while self.due.first().is_some_and(|(at, _)| *at <= now) {
            due.extend(self.due.pop_first().map(|(_, user)| user));
        }
        due
    }

    pub(super) fn due(&self) -> Option<u64> {
        let looks = self.due.first().map(|(at, _)| *at);
        self.pending.iter().map(|pending| pending.until).chain(looks).min()
    }

    /// An answer waits for links. Where too many do, the first of them waits no longer.
    pub(super) fn wait(&mut self, pending: Pending) {
        if self.pending.len() >= MOST_PENDING
            && let Some(first) = self.pending.first_mut()
        {
            first.until = 0;
        }
        self.pending.push(pending);
    }

    /// Answers that need to wait no longer.
    pub(super) fn answerable(&mut self, now: u64, owed: impl Fn(&UserId) -> bool) -> Vec<Pending> {
        for pending in &mut self.pending {
            while pending.waits.first().is_some_and(|user| !owed(user)) {
                pending.waits.pop_first();
            }
        }
        let answerable = |pending: &mut Pending| pending.waits.is_empty() || pending.until <= now;
        self.pending.extract_if(.., answerable).collect()
    }

    pub(super) fn live(&self) -> &Live {
        &self.live
    }

    pub(super) fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    pub(super) fn subscribes(&self, session: SessionId) -> bool {
        self.subscribers.contains_key(&session)
    }
}
