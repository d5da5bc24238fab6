//! A user over all regions, and how sure that is.

use hearth_protocol::client::{Certainty, DeviceType, PresencePayload, PresenceStatus};
use hearth_protocol::{RegionId, Timestamp, UserId};

use super::here::State;
use super::{Moment, PresenceBook};

/// What makes a difference that is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    status: PresenceStatus,
    device_type: Option<DeviceType>,
    regions: Vec<RegionId>,
}

impl Shown {
    /// What a client makes of it that hears that a region is fenced: the user is there no more, and offline who was
    /// nowhere else. Whether it says anything of that region.
    pub(super) fn without(&mut self, fenced: &RegionId) -> bool {
        let before = self.regions.len();
        self.regions.retain(|region| region != fenced);
        let changes = self.regions.len() < before;
        if changes && self.regions.is_empty() {
            *self = Self::default();
        }
        changes
    }
}

/// What each region says of a user, as far as it is known.
fn states<'a>(book: &'a PresenceBook, user: &UserId) -> Vec<(&'a RegionId, State)> {
    let others = book.peers.iter().filter_map(|(region, peer)| Some((region, peer.state(user)?)));
    std::iter::once((&book.me, book.here.state(user))).chain(others).collect()
}

/// Joins what regions say: every region that knows the same says the same.
pub(super) fn shown(book: &PresenceBook, user: &UserId) -> Shown {
    let states = states(book, user);
    let best = states.iter().max_by_key(|(region, state)| (state.status, state.device_type, *region));
    let there = states.iter().filter(|(_, state)| state.status != PresenceStatus::Offline);
    let mut regions: Vec<RegionId> = there.map(|(region, _)| (*region).clone()).collect();
    regions.sort();
    let status = best.map_or(PresenceStatus::Offline, |(_, state)| state.status);
    let device_type = best.and_then(|(_, state)| state.device_type).filter(|_| status != PresenceStatus::Offline);
    Shown { status, device_type, regions }
}

/// What is read of a user.
pub(super) fn read(book: &PresenceBook, user: &UserId, now: Moment) -> PresencePayload {
    let Shown { status, device_type, regions } = shown(book, user);
    let states = states(book, user);
    let hidden = states.iter().any(|(_, state)| state.hides_last_seen);
    let last_seen = states.iter().map(|(_, state)| state.last_seen).max().filter(|_| !hidden).unwrap_or(0);
    let (certainty, as_of) = certainty(book, user, status, now);
    PresencePayload {
        user_id: user.clone(),
        status,
        typing_in: None,
        last_seen: (last_seen > 0 && status != PresenceStatus::Online).then_some(Timestamp(last_seen)),
        device_type,
        as_of: Timestamp(as_of),
        certainty,
        regions,
    }
}

/// How sure the status is, and up to when it is known to hold. That a user is online is sure when one region that is
/// reached says so; anything less is only when all of them do.
fn certainty(book: &PresenceBook, user: &UserId, status: PresenceStatus, now: Moment) -> (Certainty, u64) {
    let online = |state: State| state.status == PresenceStatus::Online;
    let here = online(book.here.state(user));
    let peers = || book.peers.values();
    let elsewhere =
        || peers().any(|peer| peer.up && !peer.fenced && !peer.owes(user) && peer.state(user).is_some_and(online));
    if status == PresenceStatus::Online && (here || elsewhere()) {
        return (Certainty::Fresh, now.wall);
    }
    let heard = |peer: &super::Peer| if peer.heard == 0 { book.began.wall } else { peer.heard };
    if let Some(heard) = peers().filter(|peer| !peer.up && !peer.fenced).map(heard).min() {
        return (Certainty::Unknown, heard);
    }
    let owing = peers().filter(|peer| peer.owes(user) || peer.lapsed(user));
    match owing.map(heard).min() {
        Some(heard) => (Certainty::Stale, heard),
        None => (Certainty::Fresh, now.wall),
    }
}

/// A user of whom nothing is known, and one whom the reader may not see: nobody can tell them apart.
pub(super) fn of_nobody(user: &UserId, now: Moment) -> PresencePayload {
    PresencePayload {
        user_id: user.clone(),
        status: PresenceStatus::Offline,
        typing_in: None,
        last_seen: None,
        device_type: None,
        as_of: Timestamp(now.wall),
        certainty: Certainty::Fresh,
        regions: Vec::new(),
    }
}
