//! Nodes are drained in a run: no session begins there, and those that are there are told a slot, served on, and closed
//! at the end, as `region_model::session` decides it. Clients leave at their slots, but for some that do not know the
//! frame, and come back at another region with what they have.

use region_model::session::{Drain, Drained, Stay};

use crate::clients::Connection;
use crate::history::Event as Told;
use crate::plan::SECOND;
use crate::random::Random;
use crate::world::{Event, World};

/// Of a hundred clients that are told to leave, so many stay until they are closed.
const STAY: u64 = 12;
/// How long it takes a client to come back, at least and at most.
const BACK: (u64, u64) = (SECOND / 50, SECOND / 2);

/// What a region's node does with sessions, while it runs.
#[derive(Debug, Default)]
pub(crate) struct Node {
    drain: Option<Drain>,
    /// Sessions that have begun here: their numbers.
    begun: u64,
}

impl Node {
    /// The number of a session that begins.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }
}

/// Chances of drains, apart from all others.
#[derive(Debug)]
pub(crate) struct Drains(Random);

impl Drains {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Random::of(seed, "drained", 0))
    }
}

impl World {
    /// The node of a region that runs is drained within so many seconds. A second drain changes nothing.
    pub(crate) fn drain_node(&mut self, region: usize, seconds: u64) {
        if !self.regions[region].runs() || self.regions[region].node.drain.is_some() {
            return;
        }
        let began = self.now_of(region).monotonic;
        let drain = Drain { began, milliseconds: seconds * 1_000 };
        self.regions[region].node.drain = Some(drain);
        let here: Vec<u64> = self.connections.iter().filter(|(_, of)| of.region == region).map(|(id, _)| *id).collect();
        let sessions = here.iter().map(|id| self.connections[id].session).collect();
        let within = seconds * SECOND;
        self.history.add(self.now, Told::Drains { region, within, sessions });
        here.into_iter().for_each(|id| self.told_to_leave(id, drain));
    }

    fn told_to_leave(&mut self, id: u64, drain: Drain) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let slot = drain.slot(connection.number);
        let Drained::Told(leave) = connection.stay.drained(&slot) else { return };
        connection.stay = Stay::Leaves(leave);
        let at = self.now + slot.reconnect_after * 1_000;
        let told = Told::ToldToLeave { session: connection.session, at, until: self.now + drain.milliseconds * 1_000 };
        self.history.add(self.now, told);
        self.trace.count(self.now, "told-to-leave", id, slot.reconnect_after);
        if !self.drains.0.percent(STAY) {
            self.at(at, Event::Slot(id));
        }
    }

    /// The slot of a client has come.
    pub(crate) fn slot_comes(&mut self, id: u64) {
        if self.connections.contains_key(&id) {
            let back = self.drains.0.between(BACK.0, BACK.1);
            self.disconnect(id, back);
        }
    }

    /// A node closes the sessions whose time is over.
    pub(crate) fn close_drained(&mut self, place: usize) {
        let now = self.now_of(place).monotonic;
        let is_over = |of: &Connection| match of.stay {
            Stay::Leaves(leave) => of.region == place && leave.is_over(now),
            Stay::Begins | Stay::Served => false,
        };
        let over: Vec<u64> = self.connections.iter().filter(|(_, of)| is_over(of)).map(|(id, _)| *id).collect();
        for id in over {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.stay = Stay::Begins;
                self.history.add(self.now, Told::LeftNode { session: connection.session, closed: true });
            }
            self.trace.count(self.now, "closed-for-drain", id, place as u64);
            let back = self.drains.0.between(BACK.0, BACK.1);
            self.disconnect(id, back);
        }
    }

    /// A connection is over.
    pub(crate) fn drained_gone(&mut self, connection: &Connection) {
        if let Stay::Leaves(_) = connection.stay {
            self.history.add(self.now, Told::LeftNode { session: connection.session, closed: false });
        }
    }

    /// Sessions begin at a node again: its drain was taken back, or its process has ended.
    pub(crate) fn node_serves(&mut self, region: usize) {
        if self.regions[region].node.drain.take().is_some() {
            self.history.add(self.now, Told::Serves(region));
        }
    }

    /// Where a client begins a session that wants one at a region: there, or at the next one that does not drain.
    pub(crate) fn node_for(&self, wanted: usize) -> usize {
        let count = self.regions.len();
        let others = (0..count).map(|step| (wanted + step) % count);
        let takes = |place: &usize| *place == wanted || self.regions[*place].runs();
        others.filter(takes).find(|place| self.regions[*place].node.drain.is_none()).unwrap_or(wanted)
    }

    /// Whether a region begins sessions.
    pub(crate) fn begins_sessions(&self, region: usize) -> bool {
        self.regions[region].runs() && self.regions[region].node.drain.is_none()
    }

    /// A session begins, of a client that says what it has of each conversation.
    pub(crate) fn resumes(&mut self, id: u64) {
        let Some(Connection { client, session, region, .. }) = self.connections.get(&id) else { return };
        let (client, session, region) = (*client, *session, *region);
        self.history.add(self.now, Told::At(session, region));
        for (conversation, at) in self.clients[client].cursors.clone() {
            let of = &self.conversations[conversation];
            // What was said while it was no member is not for it.
            if of.guest != Some(client) {
                self.history.add(self.now, Told::Resumes(session, of.id, at));
            }
        }
    }
}
