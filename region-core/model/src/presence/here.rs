//! What this region says of the users whose devices are connected to it: devices joined to a user, told at most once a
//! second, gone when nothing was heard of them.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::UserId;
use hearth_protocol::client::{DeviceType, PresenceStatus};

use super::{Moment, SessionId, TOLD_EVERY};

/// What one device says of itself.
#[derive(Clone, Debug)]
struct Device {
    user: UserId,
    status: PresenceStatus,
    device_type: Option<DeviceType>,
    /// When it came to that status, on the wall.
    since: u64,
    /// When something was heard of it last.
    heard: u64,
}

/// A user over all devices of one region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) status: PresenceStatus,
    pub(super) device_type: Option<DeviceType>,
    /// When the user was online last, on the wall; 0 for now, and where it is not known.
    pub(super) last_seen: u64,
    /// Whether that is told to nobody.
    pub(super) hides_last_seen: bool,
}

impl State {
    /// Whether a change from one to the other is told.
    fn is_told_as(&self, other: &Self) -> bool {
        let hides = self.hides_last_seen == other.hides_last_seen;
        hides && self.status == other.status && self.device_type == other.device_type
    }

    /// As other regions are told: without what is hidden.
    pub(super) fn as_told(self) -> Self {
        Self { last_seen: if self.hides_last_seen { 0 } else { self.last_seen }, ..self }
    }
}

#[derive(Clone, Debug, Default)]
struct User {
    sessions: Vec<SessionId>,
    hides_last_seen: bool,
    now: State,
    /// What was told, when, and under which version; 0 while nothing was.
    told: State,
    told_at: u64,
    version: u64,
    /// Regions that ask for this user.
    asked: u32,
}

/// A user of whom something else is told from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) user: UserId,
    /// The version told before.
    pub(super) before: u64,
    pub(super) version: u64,
}

/// The devices of this region.
#[derive(Debug)]
pub(super) struct Here {
    devices: BTreeMap<SessionId, Device>,
    users: BTreeMap<UserId, User>,
    /// Users of whom more is to be told once their second is over.
    due: BTreeSet<(u64, UserId)>,
    /// Users without a device and for whom no region asks, by the version told last: the first are forgotten first.
    resting: BTreeSet<(u64, UserId)>,
    most_resting: usize,
    versions: u64,
    told: Vec<Told>,
}

impl Here {
    pub(super) fn new(most_resting: usize) -> Self {
        Self {
            devices: BTreeMap::new(),
            users: BTreeMap::new(),
            due: BTreeSet::new(),
            resting: BTreeSet::new(),
            most_resting,
            versions: 0,
            told: Vec::new(),
        }
    }

    /// A device is there, and says this of itself.
    pub(super) fn device(
        &mut self,
        session: SessionId,
        user: &UserId,
        (status, device_type): (PresenceStatus, Option<DeviceType>),
        now: Moment,
    ) {
        let device = Device { user: user.clone(), status, device_type, since: now.wall, heard: now.ticks };
        match self.devices.get_mut(&session) {
            Some(known) if known.status == status && known.device_type == device_type => {
                known.heard = now.ticks;
                return;
            }
            Some(known) => *known = device,
            None => {
                self.devices.insert(session, device);
                let of = self.users.entry(user.clone()).or_default();
                of.sessions.push(session);
                self.resting.remove(&(of.version, user.clone()));
            }
        }
        self.look(user, now);
    }

    /// A user hides when it was there last, or does so no longer. One of whom nothing is known says so when it comes.
    pub(super) fn hides_last_seen(&mut self, user: &UserId, hides: bool, now: Moment) {
        let Some(of) = self.users.get_mut(user).filter(|of| of.hides_last_seen != hides) else { return };
        of.hides_last_seen = hides;
        self.resting.remove(&(of.version, user.clone()));
        self.look(user, now);
    }

    /// A device is gone.
    pub(super) fn gone(&mut self, session: SessionId, now: Moment) {
        let Some(Device { user, .. }) = self.devices.remove(&session) else { return };
        if let Some(of) = self.users.get_mut(&user) {
            of.sessions.retain(|known| *known != session);
        }
        self.look(&user, now);
    }

    /// Devices of which nothing was heard for so long are gone; which they were.
    pub(super) fn expire(&mut self, expiry: u64, now: Moment) -> Vec<SessionId> {
        let over = |(session, device): (&SessionId, &Device)| {
            (device.heard.saturating_add(expiry) <= now.ticks).then_some(*session)
        };
        let over: Vec<SessionId> = self.devices.iter().filter_map(over).collect();
        over.iter().for_each(|session| self.gone(*session, now));
        over
    }

    /// Joins the devices of a user, and tells what is new as soon as the second since the last word is over.
    fn look(&mut self, user: &UserId, now: Moment) {
        let Some(of) = self.users.get_mut(user) else { return };
        let devices = of.sessions.iter().filter_map(|session| self.devices.get(session));
        let best = devices.max_by_key(|device| (device.status, device.since, device.device_type));
        of.now = match best {
            Some(device) => State {
                status: device.status,
                device_type: device.device_type,
                last_seen: if device.status == PresenceStatus::Online { 0 } else { device.since },
                hides_last_seen: false,
            },
            None if of.now.status == PresenceStatus::Offline => of.now,
            None => State { status: PresenceStatus::Offline, last_seen: now.wall, ..of.now },
        };
        of.now.hides_last_seen = of.hides_last_seen;
        if of.now.is_told_as(&of.told) {
            self.rest(user);
        } else if of.version == 0 || now.ticks >= of.told_at + TOLD_EVERY {
            self.tell(user, now);
        } else {
            self.due.insert((of.told_at + TOLD_EVERY, user.clone()));
        }
    }

    fn tell(&mut self, user: &UserId, now: Moment) {
        let Some(of) = self.users.get_mut(user) else { return };
        self.versions += 1;
        self.told.push(Told { user: user.clone(), before: of.version, version: self.versions });
        (of.told, of.told_at, of.version) = (of.now, now.ticks, self.versions);
        self.rest(user);
    }

    /// Tells what has waited for its second.
    pub(super) fn tick(&mut self, now: Moment) {
        while let Some((at, user)) = self.due.first().filter(|(at, _)| *at <= now.ticks).cloned() {
            self.due.remove(&(at, user.clone()));
            self.look(&user, now);
        }
    }

    /// When something is to be told next.
    pub(super) fn due(&self) -> Option<u64> {
        self.due.first().map(|(at, _)| *at)
    }

    /// What is told anew, once.
    pub(super) fn take_told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    /// A user's sessions.
    pub(super) fn sessions(&self, user: &UserId) -> &[SessionId] {
        self.users.get(user).map_or(&[], |of| &of.sessions)
    }

    /// What is told of a user.
    pub(super) fn state(&self, user: &UserId) -> State {
        self.users.get(user).map_or(State::default(), |of| of.told)
    }

    /// The version of what is told of a user; 0 for one that nothing is known of.
    pub(super) fn version(&self, user: &UserId) -> u64 {
        self.users.get(user).map_or(0, |of| of.version)
    }

    /// One more region asks for a user.
    pub(super) fn ask(&mut self, user: &UserId) {
        if let Some(of) = self.users.get_mut(user) {
            of.asked += 1;
            self.resting.remove(&(of.version, user.clone()));
        } else {
            // Nothing is known of it, and whoever asks is told of its first device.
            self.users.insert(user.clone(), User { asked: 1, ..User::default() });
        }
    }

    /// One region fewer asks for a user.
    pub(super) fn drop_ask(&mut self, user: &UserId) {
        if let Some(of) = self.users.get_mut(user) {
            of.asked = of.asked.saturating_sub(1);
            self.rest(user);
        }
    }

    /// A user without a device and for whom nobody asks may be forgotten, and is once there are too many of them.
    fn rest(&mut self, user: &UserId) {
        let Some(of) = self.users.get(user) else { return };
        if !of.sessions.is_empty() || of.asked > 0 || !of.now.is_told_as(&of.told) {
            return;
        }
        if of.version == 0 {
            self.users.remove(user);
            return;
        }
        self.resting.insert((of.version, user.clone()));
        while self.resting.len() > self.most_resting {
            let Some((_, oldest)) = self.resting.pop_first() else { return };
            self.users.remove(&oldest);
        }
    }

    /// Devices, users, and users who rest, for bounds.
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.devices.len(), self.users.len(), self.resting.len())
    }
}
