//! Links of the mesh. A connection keeps frames in order a lane; a cut holds them back, and what is still held when a
//! side notices is lost with the connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_protocol::{RegionId, SealedEntry, mesh};
use region_model::{Input, Lane};

use super::{Event, Sim};

/// A side that hears nothing notices within this many milliseconds.
const NOTICE: (u64, u64) = (1_500, 4_000);

/// One connection between two regions, made anew after each failure.
#[derive(Debug, Default)]
struct Link {
    /// Counted up with each connection and each failure.
    connection: u64,
    alive: bool,
    /// Whether the core of the lower and of the higher region was told that it is up.
    told_up: [bool; 2],
    /// Whether frames pass from the lower to the higher region, and back.
    cut: [bool; 2],
    /// Frames that wait for a cut to end, by direction.
    held: [Vec<mesh::Body>; 2],
}

/// All links, by (lower, higher) index.
#[derive(Debug)]
pub(super) struct Links {
    links: BTreeMap<(usize, usize), Link>,
    /// When the last frame of a lane arrives.
    lanes: BTreeMap<(usize, usize, Lane), u64>,
}

impl Links {
    pub(super) fn new(regions: usize) -> Self {
        let pairs = (0..regions).flat_map(|low| (low + 1..regions).map(move |high| (low, high)));
        Self { links: pairs.map(|pair| (pair, Link::default())).collect(), lanes: BTreeMap::new() }
    }

    fn between(&mut self, one: usize, other: usize) -> &mut Link {
        self.links.get_mut(&(one.min(other), one.max(other))).expect("every pair has a link")
    }
}

fn direction(from: usize, to: usize) -> usize {
    usize::from(from > to)
}

impl Sim {
    /// Connects what is not connected and can be.
    pub(super) fn connect_links(&mut self) {
        for (low, high) in self.links.links.keys().copied().collect::<Vec<_>>() {
            let both_run = self.is_up(low) && self.is_up(high);
            let link = self.links.between(low, high);
            if link.alive || link.told_up != [false; 2] || link.cut != [false; 2] || !both_run {
                continue;
            }
            link.alive = true;
            link.connection += 1;
            link.told_up = [true; 2];
            for (side, peer) in [(low, high), (high, low)] {
                let peer_id = self.regions[peer].id.clone();
                self.input(side, Input::LinkUp(peer_id));
                self.compare(side, peer);
            }
        }
    }

    /// Cuts both directions.
    pub(crate) fn cut(&mut self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Cuts what goes from one region to another. Both notice after a while.
    pub(crate) fn cut_one_way(&mut self, from: usize, to: usize) {
        let link = self.links.between(from, to);
        link.cut[direction(from, to)] = true;
        let connection = link.connection;
        for (side, peer) in [(from, to), (to, from)] {
            self.after(NOTICE, Event::Notices { side, peer, connection });
        }
    }

    /// Cuts a region off from all others.
    pub(crate) fn isolate(&mut self, index: usize) {
        for other in (0..self.regions.len()).filter(|other| *other != index) {
            self.cut(index, other);
        }
    }

    pub(crate) fn heal(&mut self, one: usize, other: usize) {
        for (from, to) in [(one, other), (other, one)] {
            let link = self.links.between(from, to);
            link.cut[direction(from, to)] = false;
            let (connection, held) = (link.connection, std::mem::take(&mut link.held[direction(from, to)]));
            for body in held {
                self.arrive(from, to, connection, Box::new(body));
            }
        }
    }

    pub(crate) fn heal_all(&mut self) {
        for (low, high) in self.links.links.keys().copied().collect::<Vec<_>>() {
            self.heal(low, high);
        }
    }

    pub(crate) fn is_linked(&self, one: usize, other: usize) -> bool {
        self.links.links.get(&(one.min(other), one.max(other))).is_some_and(|link| link.told_up == [true; 2])
    }

    /// A region died: the other sides notice.
    pub(super) fn break_links_of(&mut self, index: usize) {
        for peer in (0..self.regions.len()).filter(|peer| *peer != index) {
            let link = self.links.between(index, peer);
            link.told_up[direction(index, peer)] = false;
            self.break_link(index, peer);
        }
    }

    fn break_link(&mut self, one: usize, other: usize) {
        let link = self.links.between(one, other);
        if link.alive {
            link.alive = false;
            link.connection += 1;
            link.held = [Vec::new(), Vec::new()];
        }
        let connection = link.connection;
        for (side, peer) in [(one, other), (other, one)] {
            self.after(NOTICE, Event::Notices { side, peer, connection });
        }
    }

    /// A side may notice that its connection is cut or gone.
    pub(super) fn notice(&mut self, side: usize, peer: usize, connection: u64) {
        let link = self.links.between(side, peer);
        if link.connection != connection || (link.alive && link.cut == [false; 2]) {
            return;
        }
        if link.alive {
            self.break_link(side, peer);
        }
        let told = &mut self.links.between(side, peer).told_up[direction(side, peer)];
        if std::mem::take(told) {
            let peer = self.regions[peer].id.clone();
            self.input(side, Input::LinkDown(peer));
        }
    }

    pub(super) fn send_frame(&mut self, from: usize, peer: &RegionId, lane: Lane, body: mesh::Body) {
        let to = self.regions.iter().position(|region| region.id == *peer).expect("a region of the map");
        self.frames += 1;
        let link = self.links.between(from, to);
        if !link.alive || !link.told_up[direction(from, to)] {
            return;
        }
        let connection = link.connection;
        if matches!(body, mesh::Body::Append(_))
            && self.lose_appends.is_some_and(|every| self.frames.is_multiple_of(every))
        {
            return;
        }
        let earliest = self.now + self.random.between(self.setup.link.0, self.setup.link.1);
        let arrives = self.links.lanes.entry((from, to, lane)).or_default();
        *arrives = earliest.max(*arrives);
        let time = *arrives;
        if self.duplicate_frames {
            self.at(time, Event::Frame { from, to, connection, body: Box::new(body.clone()) });
        }
        self.at(time, Event::Frame { from, to, connection, body: Box::new(body) });
    }

    pub(super) fn arrive(&mut self, from: usize, to: usize, connection: u64, body: Box<mesh::Body>) {
        let link = self.links.between(from, to);
        if link.connection != connection || !link.alive {
            return;
        }
        if link.cut[direction(from, to)] {
            link.held[direction(from, to)].push(*body);
            return;
        }
        if !link.told_up[direction(to, from)] {
            return;
        }
        let mut body = body;
        if let mesh::Body::Pulled(pulled) = &mut *body
            && self.spoil_pulls > 0
            && pulled.entries.len() > 1
        {
            self.spoil_pulls -= 1;
            pulled.entries.reverse();
        }
        let entries = match &*body {
            mesh::Body::Append(append) => append.entries.iter().cloned().map(decode).collect(),
            mesh::Body::Pulled(pulled) => pulled.entries.iter().cloned().map(decode).collect(),
            _ => Vec::new(),
        };
        let peer = self.regions[from].id.clone();
        let salt = self.salt();
        self.input(to, Input::Frame { peer, body, entries, salt });
    }
}

fn decode(encoded: bytes::Bytes) -> Arc<SealedEntry> {
    SealedEntry::decode(encoded).expect("what a region sent is an entry")
}
