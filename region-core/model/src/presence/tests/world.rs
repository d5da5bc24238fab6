//! Regions, links between them, and what their sessions were told.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::client::{PresencePayload, PresenceStatus};
use hearth_protocol::{Refusal, RegionId, UserId, mesh};

use super::super::{Effect, Moment, PresenceBook, PresenceBounds, SessionId};

/// One way of every link, in milliseconds.
pub(super) const WAY: u64 = 40;
const WALL: u64 = 1_790_000_000_000;

pub(super) fn user(number: usize) -> UserId {
    UserId::new(format!("u{number}")).expect("a name")
}

pub(super) fn region(number: usize) -> RegionId {
    RegionId::new(["eu-west", "us-east", "ap-south"][number]).expect("a name")
}

#[derive(Debug)]
struct Flight {
    at: u64,
    from: usize,
    to: usize,
    connection: u64,
    frame: mesh::Presence,
}

/// What a session was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) updates: Vec<(u64, PresencePayload)>,
    pub(super) bulks: Vec<Vec<PresencePayload>>,
    pub(super) refused: Vec<Refusal>,
    /// The last of each user.
    pub(super) last: BTreeMap<UserId, PresencePayload>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) books: Vec<PresenceBook>,
    pub(super) now: u64,
    flights: Vec<Flight>,
    up: BTreeSet<(usize, usize)>,
    connections: BTreeMap<(usize, usize), u64>,
    incarnations: u64,
    pub(super) told: BTreeMap<(usize, SessionId), Told>,
    pub(super) hidden: BTreeSet<UserId>,
    /// Of a hundred frames, so many are lost or come twice.
    pub(super) loss: u64,
    pub(super) twice: u64,
    dice: u64,
    /// Sessions that take no update now.
    pub(super) busy: BTreeSet<(usize, SessionId)>,
    /// Frames sent over links.
    pub(super) sent: u64,
    bounds: PresenceBounds,
}

impl World {
    pub(super) fn new(regions: usize) -> Self {
        Self::bound_by(regions, PresenceBounds::default())
    }

    pub(super) fn bound_by(regions: usize, bounds: PresenceBounds) -> Self {
        let mut world = Self {
            books: Vec::new(),
            now: 0,
            flights: Vec::new(),
            up: BTreeSet::new(),
            connections: BTreeMap::new(),
            incarnations: 0,
            told: BTreeMap::new(),
            hidden: BTreeSet::new(),
            loss: 0,
            twice: 0,
            dice: 1,
            busy: BTreeSet::new(),
            sent: 0,
            bounds,
        };
        for place in 0..regions {
            let book = world.book(place, regions);
            world.books.push(book);
        }
        for (low, high) in world.pairs() {
            world.set_link(low, high, true);
        }
        world
    }

    fn book(&mut self, place: usize, regions: usize) -> PresenceBook {
        self.incarnations += 1;
        let ids: Vec<RegionId> = (0..regions).map(region).collect();
        PresenceBook::new(region(place), &ids, self.incarnations, self.bounds, self.moment())
    }

    pub(super) fn pairs(&self) -> Vec<(usize, usize)> {
        let count = self.books.len();
        (0..count).flat_map(|low| (low + 1..count).map(move |high| (low, high))).collect()
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { ticks: self.now, wall: WALL + self.now }
    }

    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % 100
    }

    pub(super) fn seed(&mut self, seed: u64) {
        self.dice = seed;
    }

    /// A link comes up or goes down, and both sides notice.
    pub(super) fn set_link(&mut self, one: usize, other: usize, up: bool) {
        let pair = (one.min(other), one.max(other));
        if self.up.contains(&pair) == up {
            return;
        }
        *self.connections.entry(pair).or_default() += 1;
        if up {
            self.up.insert(pair)
        } else {
            self.up.remove(&pair)
        };
        let now = self.moment();
        for (side, peer) in [(one, other), (other, one)] {
            self.books[side].link(&region(peer), up, now);
        }
        self.perform();
    }

    pub(super) fn fence(&mut self, fenced: usize, is: bool) {
        let now = self.moment();
        for place in (0..self.books.len()).filter(|place| *place != fenced) {
            if is {
                self.clients_hear_of_a_fence(place, &region(fenced));
            }
            self.books[place].fenced(&region(fenced), is, now);
        }
        self.perform();
    }

    /// What clients make of `region.status` with `fenced: true`: its users are in it no more.
    fn clients_hear_of_a_fence(&mut self, place: usize, fenced: &RegionId) {
        for (_, told) in self.told.iter_mut().filter(|((at, _), _)| *at == place) {
            for row in told.last.values_mut().filter(|row| row.regions.contains(fenced)) {
                row.regions.retain(|region| region != fenced);
                if row.regions.is_empty() {
                    row.status = PresenceStatus::Offline;
                }
            }
        }
    }

    /// A region dies and starts again, without sessions.
    pub(super) fn restart(&mut self, place: usize) {
        let others: Vec<usize> = (0..self.books.len()).filter(|other| *other != place).collect();
        let was_up: Vec<usize> =
            others.into_iter().filter(|other| self.up.contains(&(place.min(*other), place.max(*other)))).collect();
        was_up.iter().for_each(|other| self.set_link(place, *other, false));
        let book = self.book(place, self.books.len());
        self.books[place] = book;
        self.told.retain(|(at, _), _| *at != place);
        was_up.iter().for_each(|other| self.set_link(place, *other, true));
    }

    pub(super) fn set(&mut self, place: usize, session: SessionId, of: usize, status: PresenceStatus) {
        let now = self.moment();
        self.books[place].session(session, &user(of), status, None, now);
        self.perform();
    }

    pub(super) fn gone(&mut self, place: usize, session: SessionId) {
        let now = self.moment();
        self.books[place].gone(session, now);
        self.told.remove(&(place, session));
        self.perform();
    }

    pub(super) fn subscribe(&mut self, place: usize, session: SessionId, users: &[usize]) {
        let (users, now) = (users.iter().copied().map(user).collect(), self.moment());
        self.told.entry((place, session)).or_default();
        self.books[place].subscribe(session, Some("ask".to_owned()), users, now);
        self.perform();
    }

    pub(super) fn unsubscribe(&mut self, place: usize, session: SessionId, users: &[usize]) {
        let (users, now): (Vec<UserId>, _) = (users.iter().copied().map(user).collect(), self.moment());
        self.books[place].unsubscribe(session, None, users.clone(), now);
        if let Some(told) = self.told.get_mut(&(place, session)) {
            users.iter().for_each(|user| drop(told.last.remove(user)));
        }
        self.perform();
    }

    pub(super) fn background(&mut self, place: usize, session: SessionId, is: bool) {
        let now = self.moment();
        self.books[place].background(session, is, now);
        self.perform();
    }

    pub(super) fn touch(&mut self, users: &[usize]) {
        let users: Vec<UserId> = users.iter().copied().map(user).collect();
        self.books.iter_mut().for_each(|book| book.touched(&users));
        self.perform();
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        while self.now < end {
            let next =
                self.flights.iter().map(|flight| flight.at).chain(self.books.iter().map(PresenceBook::due)).min();
            self.now = next.unwrap_or(end).clamp(self.now + 1, end);
            let (arrived, flying) = std::mem::take(&mut self.flights).into_iter().partition(|of| of.at <= self.now);
            self.flights = flying;
            let mut arrived: Vec<Flight> = arrived;
            arrived.sort_by_key(|flight| flight.at);
            let now = self.moment();
            for Flight { from, to, connection, frame, .. } in arrived {
                let pair = (from.min(to), from.max(to));
                if self.up.contains(&pair) && self.connections.get(&pair) == Some(&connection) {
                    self.books[to].frame(&region(from), &frame, now);
                    self.perform();
                }
            }
            for place in 0..self.books.len() {
                if self.books[place].due() <= self.now {
                    self.books[place].tick(now);
                }
            }
            self.perform();
        }
    }

    fn perform(&mut self) {
        for place in 0..self.books.len() {
            loop {
                let effects = self.books[place].effects();
                if effects.is_empty() {
                    break;
                }
                effects.into_iter().for_each(|effect| self.effect(place, effect));
            }
        }
    }

    fn effect(&mut self, place: usize, effect: Effect) {
        let now = self.moment();
        match effect {
            Effect::Send(peer, frame) => self.send(place, &peer, &frame),
            Effect::Check { session, users, asked } => {
                let visible = users.iter().filter(|user| !self.hidden.contains(*user)).cloned().collect();
                self.books[place].checked(session, users, &visible, asked, now);
            }
            Effect::Bulk { session, presences, .. } => {
                let Some(told) = self.told.get_mut(&(place, session)) else { return };
                told.last.extend(presences.iter().map(|row| (row.user_id.clone(), row.clone())));
                told.bulks.push(presences);
            }
            Effect::Refuse { session, refusal, .. } => {
                self.told.entry((place, session)).or_default().refused.push(refusal);
            }
            Effect::Update { presence, sessions } => {
                for session in sessions {
                    if self.busy.contains(&(place, session)) {
                        self.books[place].held_back(session, &presence.user_id);
                        continue;
                    }
                    let Some(told) = self.told.get_mut(&(place, session)) else { continue };
                    told.last.insert(presence.user_id.clone(), presence.clone());
                    told.updates.push((self.now, presence.clone()));
                }
            }
        }
    }

    fn send(&mut self, from: usize, peer: &RegionId, frame: &mesh::Presence) {
        self.sent += 1;
        let to = (0..self.books.len()).find(|place| region(*place) == *peer).expect("a region");
        if self.roll() < self.loss {
            return;
        }
        let connection = self.connections[&(from.min(to), from.max(to))];
        let mut fly = |at| self.flights.push(Flight { at, from, to, connection, frame: frame.clone() });
        fly(self.now + WAY);
        if self.roll() < self.twice {
            let late = self.roll() * 10;
            self.flights.push(Flight { at: self.now + WAY + late, from, to, connection, frame: frame.clone() });
        }
    }

    pub(super) fn read(&self, place: usize, of: usize) -> PresencePayload {
        self.books[place].read(&user(of), self.moment())
    }

    /// What a session was told last of a user.
    pub(super) fn last(&self, place: usize, session: SessionId, of: usize) -> Option<&PresencePayload> {
        self.told.get(&(place, session))?.last.get(&user(of))
    }

    pub(super) fn updates(&self, place: usize, session: SessionId) -> usize {
        self.told.get(&(place, session)).map_or(0, |told| told.updates.len())
    }
}
