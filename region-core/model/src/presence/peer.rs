//! One link: what this region asks of the other and was told, and what the other asks and is told.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::UserId;
use hearth_protocol::client::{DeviceType, PresenceStatus};
use hearth_protocol::mesh::{self, PresenceBucket, PresenceDigest, PresenceDigestRow, PresenceEntry};

use super::buckets::{BUCKETS, Buckets, Digest};
use super::here::{Here, State, Told};
use super::{MOST_INTEREST, Moment};

/// Users named in one frame at most, of each kind.
const FRAME_USERS: usize = 4_096;
/// Buckets told whole in one frame at most.
const FRAME_BUCKETS: usize = 8;
/// A bucket in which so lately something was told may differ only since that is under way.
const UNDER_WAY: u64 = 500;
/// A bucket that differs so often in a row is told again in any case.
const DIFFERS: u8 = 3;

/// What the other region said of a user.
#[derive(Clone, Copy, Debug)]
struct Known {
    version: u64,
    state: State,
}

/// A link to one region.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) up: bool,
    pub(super) fenced: bool,
    /// Of the other region's process. `confirmed` once this connection brought a frame of it.
    incarnation: Option<u64>,
    confirmed: bool,
    /// Whether the other side compared since the link came up: what it said is what it says.
    synced: bool,
    /// When it was heard last, on the wall; 0 for never.
    pub(super) heard: u64,
    known: BTreeMap<UserId, Known>,
    known_digest: Digest,
    /// What was known of those who were there when it was fenced.
    lapsed: BTreeMap<UserId, State>,
    /// Whom it asks for, and what it is told of them.
    asked: Buckets,
    told_digest: Digest,
    /// By bucket: when something was told last, and how often in a row the other side differed.
    told_at: BTreeMap<u32, u64>,
    differed: BTreeMap<u32, u8>,
    /// What is to be sent.
    add: BTreeSet<UserId>,
    drop: BTreeSet<UserId>,
    whole: BTreeSet<u32>,
    tell: BTreeSet<UserId>,
    wanted: BTreeSet<u32>,
    digest: bool,
    compared: bool,
}

impl Peer {
    /// The link came up: both sides compare, and only what differs travels.
    pub(super) fn comes_up(&mut self) {
        self.up = true;
        self.confirmed = false;
        self.synced = false;
        self.differed.clear();
        self.told_at.clear();
        self.forget_what_was_to_be_sent();
        self.digest = true;
    }

    /// The link went down. What it said stays known.
    pub(super) fn goes_down(&mut self) {
        self.up = false;
        self.synced = false;
        self.forget_what_was_to_be_sent();
    }

    /// What a cut leaves out is seen by digests.
    fn forget_what_was_to_be_sent(&mut self) {
        self.add.clear();
        self.drop.clear();
        self.whole.clear();
        self.tell.clear();
        self.wanted.clear();
        self.digest = false;
        self.compared = false;
    }

    /// What it said of a user, as far as it counts. Users of a region that is fenced are away from it.
    pub(super) fn state(&self, user: &UserId) -> Option<State> {
        let known = self.known.get(user).map(|known| known.state).filter(|_| !self.fenced);
        known.or_else(|| self.lapsed.get(user).copied())
    }

    /// Whether what it says now can be had, and was not said yet.
    pub(super) fn owes(&self, user: &UserId) -> bool {
        self.up && !self.fenced && !(self.synced && self.known.contains_key(user))
    }

    /// Whether a user was there when the region was fenced.
    pub(super) fn lapsed(&self, user: &UserId) -> bool {
        self.fenced && self.lapsed.contains_key(user)
    }

    /// The region is fenced: its users are taken to have left it when it was heard last. What it says later counts once
    /// it is back.
    pub(super) fn fence(&mut self) {
        self.fenced = true;
        let heard = self.heard;
        let gone = |known: &Known| State {
            status: PresenceStatus::Offline,
            last_seen: known.state.last_seen.max(heard),
            ..known.state
        };
        let present = self.known.iter().filter(|(_, known)| known.state.status != PresenceStatus::Offline);
        self.lapsed = present.map(|(user, known)| (user.clone(), gone(known))).collect();
        self.known.clear();
        self.known_digest = Digest::default();
        self.synced = false;
    }

    /// This region's sessions want to know of a user from now on.
    pub(super) fn want(&mut self, user: &UserId) {
        if self.up {
            self.drop.remove(user);
            self.add.insert(user.clone());
        }
    }

    /// They do no longer.
    pub(super) fn want_no_more(&mut self, user: &UserId) {
        if let Some(known) = self.known.remove(user) {
            self.known_digest.toggle(user, known.version);
        }
        self.lapsed.remove(user);
        if self.up && !self.add.remove(user) {
            self.drop.insert(user.clone());
        }
    }

    /// Something else is told of a user of this region from now on.
    pub(super) fn told(&mut self, told: &Told, now: Moment) {
        if !self.asked.contains(&told.user) {
            return;
        }
        self.told_digest.toggle(&told.user, told.before);
        self.told_digest.toggle(&told.user, told.version);
        self.told_at.insert(super::buckets::bucket_of(&told.user), now.ticks);
        if self.up {
            self.tell.insert(told.user.clone());
        }
    }

    /// The time to compare has come.
    pub(super) fn compare(&mut self) {
        self.digest = self.up;
    }

    /// Whether something is to be sent.
    pub(super) fn has_something(&self) -> bool {
        self.digest
            || self.compared
            || !(self.add.is_empty()
                && self.drop.is_empty()
                && self.whole.is_empty()
                && self.tell.is_empty()
                && self.wanted.is_empty())
    }

    /// The next frame.
    pub(super) fn frame(&mut self, incarnation: u64, interest: &Buckets, here: &Here, now: Moment) -> mesh::Presence {
        let names = |users: Vec<UserId>| users.iter().map(|user| user.as_str().to_owned()).collect();
        let whole = self.whole_buckets(interest);
        let tell = some(&mut self.tell);
        for user in &tell {
            self.told_at.insert(super::buckets::bucket_of(user), now.ticks);
        }
        let entry = |user: &UserId| {
            let state = here.state(user).as_told();
            PresenceEntry {
                user: user.as_str().to_owned(),
                version: here.version(user),
                status: state.status.number(),
                device_type: DeviceType::number(state.device_type),
                last_seen: state.last_seen,
                hides_last_seen: state.hides_last_seen,
            }
        };
        // It says that everything that differed was told: after the last of it.
        let compared = self.tell.is_empty() && std::mem::take(&mut self.compared);
        mesh::Presence {
            incarnation,
            compared,
            add: names(some(&mut self.add)),
            drop: names(some(&mut self.drop)),
            whole,
            entries: tell.iter().map(entry).collect(),
            wanted: std::mem::take(&mut self.wanted).into_iter().collect(),
            digest: std::mem::take(&mut self.digest).then(|| self.own_digest(interest)),
        }
    }

    /// Some of the buckets that the other side wants whole. Once it has all of them, it can compare what it told.
    fn whole_buckets(&mut self, interest: &Buckets) -> Vec<PresenceBucket> {
        let mut whole = Vec::new();
        while whole.len() < FRAME_BUCKETS {
            let Some(bucket) = self.whole.pop_first() else { break };
            let users = interest.of(bucket).map(|user| user.as_str().to_owned()).collect();
            whole.push(PresenceBucket { bucket, users });
        }
        self.digest |= !whole.is_empty() && self.whole.is_empty();
        whole
    }

    fn own_digest(&self, interest: &Buckets) -> PresenceDigest {
        let row = |bucket| PresenceDigestRow {
            bucket,
            asked: interest.digest().of(bucket),
            told: self.known_digest.of(bucket),
        };
        PresenceDigest { rows: (0..BUCKETS).map(row).filter(|row| row.asked != 0 || row.told != 0).collect() }
    }

    /// Takes a frame. Returns the users of whom something else is known now.
    pub(super) fn take(
        &mut self,
        frame: &mesh::Presence,
        interest: &Buckets,
        here: &mut Here,
        now: Moment,
    ) -> Vec<UserId> {
        let mut changed = Vec::new();
        if !self.confirmed {
            if self.incarnation != Some(frame.incarnation) {
                // Another process: what the one before said is void.
                changed.extend(std::mem::take(&mut self.known).into_keys());
                self.known_digest = Digest::default();
                self.incarnation = Some(frame.incarnation);
            }
            self.confirmed = true;
        }
        if self.incarnation != Some(frame.incarnation) {
            return changed;
        }
        self.heard = self.heard.max(now.wall);
        self.synced |= frame.compared;
        self.take_asked(frame, here);
        for entry in &frame.entries {
            changed.extend(self.take_entry(entry, interest));
        }
        self.whole.extend(frame.wanted.iter().copied().filter(|bucket| *bucket < BUCKETS));
        if let Some(digest) = &frame.digest {
            self.take_digest(digest, now);
        }
        changed
    }

    fn take_entry(&mut self, entry: &PresenceEntry, interest: &Buckets) -> Option<UserId> {
        let user = UserId::new(&entry.user).ok().filter(|user| interest.contains(user))?;
        let state = State {
            status: PresenceStatus::from_number(entry.status),
            device_type: DeviceType::from_number(entry.device_type),
            last_seen: entry.last_seen,
            hides_last_seen: entry.hides_last_seen,
        };
        let known = self.known.get(&user).map(|known| known.version);
        // Frames may come twice and late.
        if known.is_some_and(|known| known >= entry.version) {
            return None;
        }
        if let Some(known) = known {
            self.known_digest.toggle(&user, known);
        }
        self.known_digest.toggle(&user, entry.version);
        self.known.insert(user.clone(), Known { version: entry.version, state });
        if !self.fenced {
            self.lapsed.remove(&user);
        }
        Some(user)
    }

    fn take_asked(&mut self, frame: &mesh::Presence, here: &mut Here) {
        let read = |names: &[String]| names.iter().filter_map(|name| UserId::new(name).ok()).collect::<Vec<_>>();
        for user in read(&frame.drop) {
            self.asks_no_more(&user, here);
        }
        for user in read(&frame.add) {
            self.asks(&user, here);
        }
        for PresenceBucket { bucket, users } in &frame.whole {
            let users: BTreeSet<UserId> = read(users).into_iter().collect();
            let gone: Vec<UserId> = self.asked.of(*bucket).filter(|user| !users.contains(*user)).cloned().collect();
            gone.iter().for_each(|user| self.asks_no_more(user, here));
            users.iter().for_each(|user| self.asks(user, here));
        }
    }

    /// One that is over the bound is not taken: no region subscribes to more, so that this is not one of ours.
    fn asks(&mut self, user: &UserId, here: &mut Here) {
        if self.asked.len() < MOST_INTEREST && self.asked.insert(user) {
            here.ask(user);
            self.told_digest.toggle(user, here.version(user));
        }
        if self.asked.contains(user) && self.up {
            self.tell.insert(user.clone());
        }
    }

    fn asks_no_more(&mut self, user: &UserId, here: &mut Here) {
        if self.asked.remove(user) {
            self.told_digest.toggle(user, here.version(user));
            self.tell.remove(user);
            here.drop_ask(user);
        }
    }

    /// Compares with what the other side has: buckets whose users differ are asked for, what was told otherwise is told
    /// again. What is under way differs for a while, and is left alone at first.
    fn take_digest(&mut self, digest: &PresenceDigest, now: Moment) {
        let (mut asked, mut told) = (Digest::default(), Digest::default());
        for row in &digest.rows {
            asked.set(row.bucket, row.asked);
            told.set(row.bucket, row.told);
        }
        let mut all_asked = true;
        for bucket in 0..BUCKETS {
            let same_users = asked.of(bucket) == self.asked.digest().of(bucket);
            all_asked &= same_users;
            if same_users && told.of(bucket) == self.told_digest.of(bucket) {
                self.differed.remove(&bucket);
                continue;
            }
            let times = self.differed.entry(bucket).or_default();
            *times += 1;
            let under_way = self.told_at.get(&bucket).is_some_and(|at| now.ticks < at + UNDER_WAY);
            if under_way && *times < DIFFERS {
                continue;
            }
            *times = 0;
            if same_users {
                self.tell.extend(self.asked.of(bucket).cloned());
            } else {
                self.wanted.insert(bucket);
            }
        }
        self.compared |= all_asked;
    }

    /// Users of whom it said something that a fence or its end may change.
    pub(super) fn present(&self) -> Vec<UserId> {
        let there = self.known.iter().filter(|(_, known)| known.state.status != PresenceStatus::Offline);
        there.map(|(user, _)| user).chain(self.lapsed.keys()).cloned().collect()
    }

    /// Users asked for by it, and known from it, for bounds.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.asked.len(), self.known.len())
    }
}

/// The first of what waits, as much as fits into a frame.
fn some(waiting: &mut BTreeSet<UserId>) -> Vec<UserId> {
    let mut taken = Vec::new();
    while taken.len() < FRAME_USERS {
        let Some(user) = waiting.pop_first() else { break };
        taken.push(user);
    }
    taken
}
