//! Presence in a run: the book that ships in each region, clients that come, go, step away and look at each other. What it
//! draws and sends is apart from the chat's, so that a seed's chat stays as it is.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::client::{Certainty, PresencePayload, PresenceStatus};
use hearth_protocol::{RegionId, UserId, mesh};
use region_model::presence::{Effect, Moment, PresenceBook, PresenceBounds};
use region_model::region_map::{MapState, RegionState};

use crate::history;
use crate::network::Aside;
use crate::plan::SECOND;
use crate::world::{Event, World};

/// How many others each client looks at.
const LOOKED_AT: usize = 5;
/// Of a hundred times that a client does something, it steps away or comes back so often.
const STEPS_AWAY: u64 = 10;
/// So long after the last heal and change everybody agrees (G11).
const AGREED: u64 = 5 * SECOND;

/// What comes to a region's book.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    /// A session is there, or says something else of itself.
    Session { connection: u64, user: UserId, status: PresenceStatus },
    /// A session looks at others.
    Looks { connection: u64, users: Vec<UserId> },
    /// A session is over.
    Gone { connection: u64 },
}

/// What the run keeps of it.
#[derive(Debug)]
pub(crate) struct Presence {
    aside: Aside,
    /// What each connection was told last.
    told: BTreeMap<u64, BTreeMap<UserId, (PresenceStatus, Vec<RegionId>)>>,
    /// Regions that take another for fenced.
    fenced: BTreeSet<(usize, RegionId)>,
    away: BTreeSet<u64>,
    /// When a link, a region or a fence changed last.
    changed: u64,
}

impl Presence {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            aside: Aside::new(seed, "presence"),
            told: BTreeMap::new(),
            fenced: BTreeSet::new(),
            away: BTreeSet::new(),
            changed: 0,
        }
    }
}

impl World {
    fn moment(&self, place: usize) -> Moment {
        let now = self.now_of(place);
        Moment { ticks: now.monotonic, wall: now.wall.0 }
    }

    /// A region starts with an empty book.
    pub(crate) fn presence_start(&mut self, place: usize) {
        let incarnation = self.presence.aside.random.next();
        let (me, now) = (self.regions[place].id.clone(), self.moment(place));
        let book = PresenceBook::new(me, &self.map.regions, incarnation, PresenceBounds::default(), now);
        self.regions[place].presence = Some(book);
        self.presence.changed = self.now;
        self.presence.fenced.retain(|(at, _)| *at != place);
        let map = self.regions[place].keeper.map.clone();
        self.presence_fences(place, &map);
    }

    /// Gives the book of a region that runs something to do, and performs what follows.
    fn with_book(&mut self, place: usize, what: impl FnOnce(&mut PresenceBook, Moment)) {
        let now = self.moment(place);
        let Some(book) = &mut self.regions[place].presence else { return };
        what(book, now);
        loop {
            let effects = self.regions[place].presence.as_mut().map(PresenceBook::effects).unwrap_or_default();
            if effects.is_empty() {
                return;
            }
            effects.into_iter().for_each(|effect| self.presence_effect(place, now, effect));
        }
    }

    pub(crate) fn presence_tick(&mut self, place: usize) {
        self.with_book(place, |book, now| {
            if book.due() <= now.ticks {
                book.tick(now);
            }
        });
    }

    pub(crate) fn presence_link(&mut self, place: usize, peer: &RegionId, up: bool) {
        self.presence.changed = self.now;
        self.with_book(place, |book, now| book.link(peer, up, now));
    }

    pub(crate) fn presence_frame(&mut self, place: usize, peer: &RegionId, frame: &mesh::Presence) {
        self.with_book(place, |book, now| book.frame(peer, frame, now));
    }

    /// A region hears of a newer map.
    pub(crate) fn presence_fences(&mut self, place: usize, map: &MapState) {
        self.presence.changed = self.now;
        for entry in &map.regions {
            let fenced = entry.state == RegionState::Fenced;
            if entry.region != self.regions[place].id {
                let pair = (place, entry.region.clone());
                if !fenced {
                    self.presence.fenced.remove(&pair);
                } else if self.presence.fenced.insert(pair) {
                    self.presence_clients_hear_of_a_fence(place, &entry.region);
                }
                self.with_book(place, |book, now| book.fenced(&entry.region, fenced, now));
            }
        }
    }

    /// What clients make of `region.status` with `fenced: true`: its users are in it no more.
    fn presence_clients_hear_of_a_fence(&mut self, place: usize, fenced: &RegionId) {
        let here = |connection: &u64| self.connections.get(connection).is_some_and(|of| of.region == place);
        for (_, told) in self.presence.told.iter_mut().filter(|(connection, _)| here(connection)) {
            for (status, regions) in told.values_mut().filter(|(_, regions)| regions.contains(fenced)) {
                regions.retain(|region| region != fenced);
                if regions.is_empty() {
                    *status = PresenceStatus::Offline;
                }
            }
        }
    }

    pub(crate) fn presence_said(&mut self, place: usize, said: Said) {
        self.with_book(place, |book, now| match said {
            Said::Session { connection, user, status } => book.session(connection, &user, status, None, now),
            Said::Looks { connection, users } => book.subscribe(connection, None, users, now),
            Said::Gone { connection } => book.gone(connection, now),
        });
    }

    fn presence_say(&mut self, connection: u64, said: Said) {
        let Some(region) = self.connections.get(&connection).map(|connection| connection.region) else { return };
        let start = self.regions[region].start;
        self.after(0, Event::Presence { region, start, said: Box::new(said) });
    }

    /// A client says of itself what is so from now on.
    fn presence_there(&mut self, connection: u64, status: PresenceStatus) {
        let Some(of) = self.connections.get(&connection) else { return };
        let user = self.clients[of.client].user.clone();
        let there = history::Event::There { session: of.session, user: user.to_string(), status };
        self.history.add(self.now, there);
        self.presence_say(connection, Said::Session { connection, user, status });
    }

    pub(crate) fn presence_connected(&mut self, connection: u64) {
        let Some(number) = self.connections.get(&connection).map(|connection| connection.client) else { return };
        self.presence_there(connection, PresenceStatus::Online);
        let count = self.clients.len();
        let others = (1..=LOOKED_AT).map(|step| (number + step) % count).filter(|other| *other != number);
        let users: Vec<UserId> = others.map(|other| self.clients[other].user.clone()).collect();
        self.presence.told.insert(connection, BTreeMap::new());
        self.presence_say(connection, Said::Looks { connection, users });
    }

    /// Before the connection is forgotten.
    pub(crate) fn presence_gone(&mut self, connection: u64) {
        let Some(of) = self.connections.get(&connection) else { return };
        let user = self.clients[of.client].user.to_string();
        let gone = history::Event::There { session: of.session, user, status: PresenceStatus::Offline };
        self.history.add(self.now, gone);
        self.presence.told.remove(&connection);
        self.presence.away.remove(&connection);
        self.presence_say(connection, Said::Gone { connection });
    }

    /// A client did something: it is heard, and steps away or comes back at times.
    pub(crate) fn presence_acts(&mut self, connection: u64) {
        let calm = self.now >= self.plan.calm_at;
        let changes = self.presence.aside.random.percent(STEPS_AWAY) && !calm;
        let was_away = self.presence.away.contains(&connection);
        let away = was_away != changes;
        if changes && away {
            self.presence.away.insert(connection);
        } else if changes {
            self.presence.away.remove(&connection);
        }
        let status = if away { PresenceStatus::Away } else { PresenceStatus::Online };
        if changes {
            self.trace.count(self.now, "presence-set", connection, u64::from(away));
            return self.presence_there(connection, status);
        }
        let Some(of) = self.connections.get(&connection) else { return };
        let user = self.clients[of.client].user.clone();
        self.presence_say(connection, Said::Session { connection, user, status });
    }

    fn presence_effect(&mut self, place: usize, now: Moment, effect: Effect) {
        match effect {
            Effect::Send(peer, frame) => self.presence_send(place, &peer, frame),
            Effect::Check { session, users, asked } => {
                let visible = users.iter().cloned().collect();
                if let Some(book) = &mut self.regions[place].presence {
                    book.checked(session, users, &visible, asked, now);
                }
            }
            Effect::Bulk { session, presences, .. } => {
                presences.into_iter().for_each(|presence| self.presence_told(session, presence, true));
            }
            Effect::Update { presence, sessions } => {
                sessions.into_iter().for_each(|session| self.presence_told(session, presence.clone(), false));
            }
            Effect::Refuse { refusal, .. } => self.broken.push(format!("a subscription was refused: {refusal}")),
        }
    }

    /// An update, or a row of an answer: that one who was in a region that is fenced is offline, unsurely, is answered and
    /// not told.
    fn presence_told(&mut self, connection: u64, presence: PresencePayload, answered: bool) {
        let Some(of) = self.connections.get(&connection) else { return };
        let (session, wall) = (of.session, self.moment(of.region).wall);
        let PresencePayload { user_id, status, certainty, regions, as_of, .. } = presence;
        let sure = certainty == Certainty::Fresh;
        self.trace.count(self.now, "presence-told", connection, u64::from(status.number()));
        let as_of = self.now.saturating_sub(wall.saturating_sub(as_of.0) * 1_000);
        let told = history::Event::PresenceTold { session, user: user_id.to_string(), status, sure, as_of };
        if !answered || sure {
            self.history.add(self.now, told);
        }
        self.presence.told.entry(connection).or_default().insert(user_id, (status, regions));
    }

    fn presence_send(&mut self, from: usize, peer: &RegionId, frame: mesh::Presence) {
        let Some(to) = self.place_of(peer) else { return };
        self.send_aside(|world| &mut world.presence.aside, "presence", (from, to), mesh::Body::Presence(frame));
    }

    /// What every region and session knows at the end, once nothing has changed for long enough.
    pub(crate) fn presence_at_the_end(&mut self) {
        let long_ago = self.now.saturating_sub(AGREED + SECOND);
        if self.presence.changed > long_ago {
            self.trace.count(self.now, "presence-unjudged", 0, 0);
            return;
        }
        let mut ends = Vec::new();
        for (place, region) in self.regions.iter().enumerate() {
            let Some(book) = region.presence.as_ref().filter(|_| region.runs()) else { continue };
            let looked_at: BTreeSet<&UserId> = self.connections.iter().filter(|(_, of)| of.region == place).fold(
                BTreeSet::new(),
                |mut users, (id, _)| {
                    users.extend(self.presence.told.get(id).into_iter().flat_map(BTreeMap::keys));
                    users
                },
            );
            for user in looked_at {
                let read = book.read(user, self.moment(place));
                let sure = read.certainty == Certainty::Fresh;
                ends.push((region.id.to_string(), user.to_string(), read.status, sure));
            }
        }
        for (connection, told) in &self.presence.told {
            let Some(of) = self.connections.get(connection).filter(|of| self.regions[of.region].runs()) else {
                continue;
            };
            let name = self.history.sessions.get(of.session as usize).map_or("", |session| &session.name);
            ends.extend(told.iter().map(|(user, (status, _))| (name.to_owned(), user.to_string(), *status, true)));
        }
        for (who, user, status, sure) in ends {
            self.trace.count(self.now, "presence-end", u64::from(status.number()), u64::from(sure));
            self.history.add(self.now, history::Event::PresenceEnd { who, user, status, sure });
        }
    }
}
