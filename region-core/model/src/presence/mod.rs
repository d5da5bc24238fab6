//! Who is there: devices joined to users, users over regions, told to sessions that subscribe to them. Never stored.
//!
//! A region knows of its own devices, asks each link for the users that its sessions subscribe to, and is told of them as
//! they change; digests show what a link lost. What is told carries the incarnation of the process that
//! told it: another one voids it. A cut link changes nothing that was told, only how sure it is.

mod buckets;
mod here;
mod interest;
mod join;
mod paced;
mod peer;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::client::{DeviceType, PresencePayload, PresenceStatus};
use hearth_protocol::{ErrorCode, Refusal, RegionId, UserId, limits, mesh};

use buckets::Buckets;
use here::Here;
use interest::{Interests, Pending};
pub use paced::{Paced, TOGETHER};
use peer::Peer;

/// Names a session of this region.
pub type SessionId = u64;

/// A user is told of at most once in this time, in milliseconds.
pub const TOLD_EVERY: u64 = 1_000;
/// What changed within this time goes to a link in one frame, in milliseconds.
const ROUND: u64 = 50;
/// Links compare what they told this often, in milliseconds.
const COMPARE: u64 = 1_000;
/// An answer waits at most so long for links that have not said yet, in milliseconds.
const PATIENCE: u64 = 1_500;
/// Frames to one link in a round.
const ROUND_FRAMES: usize = 4;
/// Users that the sessions of a region may see and subscribe to, in all.
pub(crate) const MOST_INTEREST: usize = 262_144;
/// Subscriptions of all sessions of a region.
const MOST_SUBSCRIPTIONS: usize = 4_194_304;
/// Requests of one session that wait for who may see whom.
const MOST_CHECKS: usize = 16;
/// Answers that wait for links; a further one says what is known.
const MOST_PENDING: usize = 1_024;

/// The time, as the shell read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds of a clock that never goes back.
    pub ticks: u64,
    /// Milliseconds since the epoch: decorates only.
    pub wall: u64,
}

/// What presence keeps to.
#[derive(Clone, Copy, Debug)]
pub struct PresenceBounds {
    /// Users in one frame.
    pub per_frame: usize,
    /// Users that one session subscribes to.
    pub per_session: usize,
    /// A session of which nothing was heard for so long is gone, in milliseconds.
    pub expiry: u64,
    /// Users without a session whose last seen is remembered; of more the oldest are forgotten.
    pub remembered: usize,
}

impl Default for PresenceBounds {
    fn default() -> Self {
        Self {
            per_frame: limits::PRESENCE_PER_FRAME,
            per_session: limits::PRESENCE_SUBSCRIPTIONS,
            expiry: 90_000,
            remembered: 65_536,
        }
    }
}

impl PresenceBounds {
    /// How often sessions are looked at: with the expiry of 90 s, one that was killed is gone within 110 s.
    #[must_use]
    pub fn sweep(&self) -> u64 {
        (self.expiry / 9).max(1)
    }
}

/// What the shell does for it.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Sends a frame over a link. One that is lost does no harm.
    Send(RegionId, mesh::Presence),
    /// Finds out which of these users a session may see; answered by [`PresenceBook::checked`].
    Check {
        /// Of which session.
        session: SessionId,
        /// Who they are.
        users: Vec<UserId>,
        /// Set for a new subscription: its request, to be handed back.
        asked: Option<Asked>,
    },
    /// Answers a request.
    Bulk {
        /// Of which session.
        session: SessionId,
        /// The request's id.
        request: Option<String>,
        /// In the order asked.
        presences: Vec<PresencePayload>,
    },
    /// Refuses a request.
    Refuse {
        /// Of which session.
        session: SessionId,
        /// The request's id.
        request: Option<String>,
        /// Why.
        refusal: Refusal,
    },
    /// Tells sessions of one user. One that does not take it is given to [`PresenceBook::held_back`].
    Update {
        /// What.
        presence: PresencePayload,
        /// Whom.
        sessions: Vec<SessionId>,
    },
}

/// A subscription to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The request's id.
    pub request: Option<String>,
}

/// Sizes of what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PresenceSizes {
    /// Devices connected here.
    pub devices: usize,
    /// Users of whom this region says something.
    pub users: usize,
    /// Of those, without a device.
    pub remembered: usize,
    /// Subscriptions of sessions.
    pub subscriptions: usize,
    /// Users that sessions here see and subscribe to.
    pub interest: usize,
    /// Users that links ask for, over all links.
    pub asked: usize,
}

/// Everything that one region knows of who is there.
#[derive(Debug)]
pub struct PresenceBook {
    me: RegionId,
    incarnation: u64,
    bounds: PresenceBounds,
    began: Moment,
    here: Here,
    peers: BTreeMap<RegionId, Peer>,
    interests: Interests,
    round_at: Option<u64>,
    compare_at: u64,
    sweep_at: u64,
    retry_at: u64,
    effects: Vec<Effect>,
}

impl PresenceBook {
    /// Nobody is there. `incarnation` names this process: another one of the same region has another.
    #[must_use]
    pub fn new(me: RegionId, peers: &[RegionId], incarnation: u64, bounds: PresenceBounds, now: Moment) -> Self {
        let others = peers.iter().filter(|peer| **peer != me);
        Self {
            peers: others.map(|peer| (peer.clone(), Peer::default())).collect(),
            me,
            incarnation,
            bounds,
            began: now,
            here: Here::new(bounds.remembered),
            interests: Interests::default(),
            round_at: None,
            compare_at: now.ticks + COMPARE,
            sweep_at: now.ticks + bounds.sweep(),
            retry_at: now.ticks + TOLD_EVERY,
            effects: Vec::new(),
        }
    }

    /// What is to be done, once.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// A session is there, and says this of its device. To be said again whenever something was heard of it: a session
    /// that is silent for the expiry is gone.
    pub fn session(
        &mut self,
        session: SessionId,
        user: &UserId,
        status: PresenceStatus,
        device_type: Option<DeviceType>,
        now: Moment,
    ) {
        self.here.device(session, user, (status, device_type), now);
        self.settle(now);
    }

    /// A user hides when it was there last, or does so no longer. To be said again when one of its devices comes.
    pub fn hides_last_seen(&mut self, user: &UserId, hides: bool, now: Moment) {
        self.here.hides_last_seen(user, hides, now);
        self.settle(now);
    }

    /// A session is over.
    pub fn gone(&mut self, session: SessionId, now: Moment) {
        self.here.gone(session, now);
        self.forget_subscriber(session);
        self.settle(now);
    }

    fn forget_subscriber(&mut self, session: SessionId) {
        for user in self.interests.forget(session) {
            self.want_no_more(&user);
        }
    }

    /// The last session that saw a user is gone.
    fn want_no_more(&mut self, user: &UserId) {
        self.peers.values_mut().for_each(|peer| peer.want_no_more(user));
    }

    /// A session subscribes to users. Answered by [`Effect::Check`] first, or by [`Effect::Refuse`].
    pub fn subscribe(&mut self, session: SessionId, request: Option<String>, users: Vec<UserId>, now: Moment) {
        let users = unique(users);
        match self.interests.subscribe(session, &users, &self.bounds) {
            Ok(()) => self.effects.push(Effect::Check { session, users, asked: Some(Asked { request }) }),
            Err(refusal) => self.effects.push(Effect::Refuse { session, request, refusal }),
        }
        self.settle(now);
    }

    /// A session subscribes to users no longer.
    pub fn unsubscribe(&mut self, session: SessionId, request: Option<String>, users: Vec<UserId>, now: Moment) {
        if users.len() > self.bounds.per_frame {
            let refusal = interest::too_many_in_a_frame(&self.bounds);
            return self.effects.push(Effect::Refuse { session, request, refusal });
        }
        for user in unique(users) {
            if self.interests.unsubscribe(session, &user) {
                self.want_no_more(&user);
            }
        }
        self.effects.push(Effect::Bulk { session, request, presences: Vec::new() });
        self.settle(now);
    }

    /// Which users of a [`Effect::Check`] the session may see; all others it may not. They stay subscribed to, and look
    /// like users who were never there.
    pub fn checked(
        &mut self,
        session: SessionId,
        users: Vec<UserId>,
        visible: &BTreeSet<UserId>,
        asked: Option<Asked>,
        now: Moment,
    ) {
        let mut appeared = Vec::new();
        for user in &users {
            let change = self.interests.show(session, user, visible.contains(user));
            match change {
                interest::Change::FirstSees => {
                    self.peers.values_mut().for_each(|peer| peer.want(user));
                    appeared.push(user.clone());
                }
                interest::Change::Sees => appeared.push(user.clone()),
                interest::Change::LastSeesNoMore | interest::Change::SeesNoMore => {
                    if change == interest::Change::LastSeesNoMore {
                        self.want_no_more(user);
                    }
                    if asked.is_none() {
                        self.tell_one(session, user, now);
                    }
                }
                interest::Change::None => {}
            }
        }
        if asked.is_some() {
            self.interests.checked(session);
        }
        if asked.is_some() || !appeared.is_empty() {
            let waits = users.iter().filter(|user| self.interests.sees(session, user)).cloned().collect();
            let users = if asked.is_some() { users } else { appeared };
            let pending = Pending { session, users, asked, waits, until: now.ticks + PATIENCE };
            self.interests.wait(pending);
        }
        self.settle(now);
    }

    /// Who these users share conversations with changed: who may see them, and whom they may see, is found out again.
    pub fn touched(&mut self, users: &[UserId]) {
        let mut concerned = self.interests.concerned(users);
        for session in users.iter().flat_map(|user| self.here.sessions(user)) {
            let all = self.interests.of(*session);
            if !all.is_empty() {
                concerned.insert(*session, all);
            }
        }
        for (session, users) in concerned {
            self.effects.push(Effect::Check { session, users, asked: None });
        }
    }

    /// As [`PresenceBook::touched`], for everybody.
    pub fn look_at_all(&mut self) {
        for (session, users) in self.interests.all() {
            self.effects.push(Effect::Check { session, users, asked: None });
        }
    }

    /// Whether anybody subscribes to anything: if not, nothing needs to be [`PresenceBook::touched`].
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.interests.is_empty()
    }

    /// A session goes to the background, where it is told nothing, or comes back, and is told the latest of what it missed.
    pub fn background(&mut self, session: SessionId, background: bool, now: Moment) {
        self.interests.set_background(session, background);
        if !background {
            self.tell_held(session, now);
        }
        self.settle(now);
    }

    /// A session did not take an update: it is told the latest a while later.
    pub fn held_back(&mut self, session: SessionId, user: &UserId) {
        self.interests.hold(session, user);
    }

    fn tell_held(&mut self, session: SessionId, now: Moment) {
        for user in self.interests.take_held(session) {
            self.tell_one(session, &user, now);
        }
    }

    /// Tells sessions what they did not take, or were told ahead of others. They hear of a user once a second like all
    /// others, so it is once the second of what was told last is over, and begins another one.
    fn tell_lagging(&mut self, now: Moment) {
        let mut lagging: BTreeMap<UserId, Vec<SessionId>> = BTreeMap::new();
        for session in self.interests.lagging() {
            for user in self.interests.take_held(session) {
                lagging.entry(user).or_default().push(session);
            }
        }
        for (user, sessions) in lagging {
            let over = self.interests.shown(&user).is_none_or(|(_, at)| now.ticks >= at + TOLD_EVERY);
            if !over {
                sessions.iter().for_each(|session| self.interests.hold(*session, &user));
            } else if !self.look(&user, now) {
                sessions.iter().for_each(|session| self.tell_one(*session, &user, now));
                self.interests.shown_again(&user, now.ticks);
            }
        }
    }

    /// Tells one session what it may know of a user, or keeps that for its return from the background.
    fn tell_one(&mut self, session: SessionId, user: &UserId, now: Moment) {
        if self.interests.is_in_background(session) {
            return self.interests.hold(session, user);
        }
        let presence = self.row(session, user, now);
        self.effects.push(Effect::Update { presence, sessions: vec![session] });
        self.follow_up(session, user);
    }

    /// A session was told what others are told only once their second is over: it is told again then, since the state may
    /// be what they were told before, and nobody is told of it.
    fn follow_up(&mut self, session: SessionId, user: &UserId) {
        let ahead = self.interests.shown(user).is_some_and(|(shown, _)| *shown != join::shown(self, user));
        if ahead && self.interests.sees(session, user) {
            self.interests.hold(session, user);
        }
    }

    /// What a session may know of a user.
    fn row(&self, session: SessionId, user: &UserId, now: Moment) -> PresencePayload {
        if self.interests.sees(session, user) { self.read(user, now) } else { join::of_nobody(user, now) }
    }

    /// A link came up or went down.
    pub fn link(&mut self, peer: &RegionId, up: bool, now: Moment) {
        let of = self.peers.entry(peer.clone()).or_default();
        if up {
            of.comes_up()
        } else {
            of.goes_down()
        }
        self.settle(now);
    }

    /// A frame of another region.
    pub fn frame(&mut self, peer: &RegionId, frame: &mesh::Presence, now: Moment) {
        let Some(of) = self.peers.get_mut(peer).filter(|peer| peer.up) else { return };
        let changed = of.take(frame, self.interests.live(), &mut self.here, now);
        for user in changed {
            self.look(&user, now);
        }
        self.settle(now);
    }

    /// A region is fenced, or is back. That is one event for all its users: none is told of by itself, but those who are
    /// otherwise there than clients make of it.
    pub fn fenced(&mut self, peer: &RegionId, fenced: bool, now: Moment) {
        let Some(of) = self.peers.get_mut(peer).filter(|peer| peer.fenced != fenced) else { return };
        let mut users = of.present();
        if fenced {
            of.fence();
            users.extend(self.interests.fenced(peer));
        } else {
            of.fenced = false
        }
        for user in users {
            self.look(&user, now);
        }
        self.settle(now);
    }

    /// Looks at the time.
    pub fn tick(&mut self, now: Moment) {
        self.here.tick(now);
        if now.ticks >= self.sweep_at {
            self.sweep_at = now.ticks + self.bounds.sweep();
            for session in self.here.expire(self.bounds.expiry, now) {
                self.forget_subscriber(session);
            }
        }
        if now.ticks >= self.compare_at {
            self.compare_at = now.ticks + COMPARE;
            self.peers.values_mut().for_each(Peer::compare);
        }
        if now.ticks >= self.retry_at {
            self.retry_at = now.ticks + TOLD_EVERY;
            self.tell_lagging(now);
        }
        for user in self.interests.due_until(now.ticks) {
            self.look(&user, now);
        }
        self.settle(now);
    }

    /// When [`PresenceBook::tick`] is due at the latest.
    #[must_use]
    pub fn due(&self) -> u64 {
        let timers = self.compare_at.min(self.sweep_at).min(self.retry_at);
        let others = [self.here.due(), self.interests.due(), self.round_at];
        others.into_iter().flatten().fold(timers, u64::min)
    }

    /// Everything that follows from what changed.
    fn settle(&mut self, now: Moment) {
        for told in self.here.take_told() {
            self.peers.values_mut().for_each(|peer| peer.told(&told, now));
            self.look(&told.user, now);
        }
        self.answer(now);
        if self.round_at.is_some_and(|at| at <= now.ticks) {
            self.round_at = None;
            self.send(now);
        }
        if self.round_at.is_none() && self.peers.values().any(|peer| peer.up && peer.has_something()) {
            self.round_at = Some(now.ticks + ROUND);
        }
    }

    fn send(&mut self, now: Moment) {
        for (region, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.up) {
            for _ in 0..ROUND_FRAMES {
                if !peer.has_something() {
                    break;
                }
                let frame = peer.frame(self.incarnation, self.interests.live(), &self.here, now);
                self.effects.push(Effect::Send(region.clone(), frame));
            }
        }
    }

    /// Tells of a user when it is another state than was told last, and the second since then is over. Whether it told.
    fn look(&mut self, user: &UserId, now: Moment) -> bool {
        let Some((shown, shown_at)) = self.interests.shown(user) else { return false };
        let joined = join::shown(self, user);
        if *shown == joined {
            return false;
        }
        if now.ticks < shown_at + TOLD_EVERY {
            self.interests.look_again(user, shown_at + TOLD_EVERY);
            return false;
        }
        self.interests.set_shown(user, joined, now.ticks);
        let sessions = self.interests.awake(user);
        if !sessions.is_empty() {
            let presence = self.read(user, now);
            self.effects.push(Effect::Update { presence, sessions });
        }
        true
    }

    /// Answers what waited for links long enough.
    fn answer(&mut self, now: Moment) {
        let peers = &self.peers;
        let done = self.interests.answerable(now.ticks, |user| peers.values().any(|peer| peer.owes(user)));
        for Pending { session, users, asked, .. } in done {
            for user in &users {
                if self.interests.is_unshown(user) {
                    let shown = join::shown(self, user);
                    self.interests.set_shown(user, shown, now.ticks.saturating_sub(TOLD_EVERY));
                }
            }
            if let Some(Asked { request }) = asked {
                let presences = users.iter().map(|user| self.row(session, user, now)).collect();
                self.effects.push(Effect::Bulk { session, request, presences });
                users.iter().for_each(|user| self.follow_up(session, user));
            } else {
                users.iter().for_each(|user| self.tell_one(session, user, now));
            }
        }
    }

    /// What this region knows of a user now, for those who may see it.
    #[must_use]
    pub fn read(&self, user: &UserId, now: Moment) -> PresencePayload {
        join::read(self, user, now)
    }

    /// How much it holds.
    #[must_use]
    pub fn sizes(&self) -> PresenceSizes {
        let (devices, users, remembered) = self.here.sizes();
        PresenceSizes {
            devices,
            users,
            remembered,
            subscriptions: self.interests.subscriptions(),
            interest: self.interests.live().len(),
            asked: self.peers.values().map(|peer| peer.sizes().0).sum(),
        }
    }

    /// Sessions that subscribe, for a shell that keeps something for each of them.
    #[must_use]
    pub fn subscribes(&self, session: SessionId) -> bool {
        self.interests.subscribes(session)
    }
}

/// The frame of presence that a link brought, if it is one.
#[must_use]
pub fn of_body(body: &mesh::Body) -> Option<&mesh::Presence> {
    if let mesh::Body::Presence(frame) = body { Some(frame) } else { None }
}

/// Without repetitions, in the order given.
fn unique(users: Vec<UserId>) -> Vec<UserId> {
    let mut seen = BTreeSet::new();
    users.into_iter().filter(|user| seen.insert(user.clone())).collect()
}

fn overloaded(limit: String) -> Refusal {
    Refusal::new(ErrorCode::Overloaded, "too many presence subscriptions").with_retry_after(5).with_limit(limit)
}

/// Users whose presence is asked for by name.
type Live = Buckets;
