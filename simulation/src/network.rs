//! The links of the mesh. A connection keeps frames in order a lane, as the real ones do; a cut holds them back, and
//! what is still held when a side notices is lost with the connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::entry::EntryError;
use hearth_protocol::{RegionId, SealedEntry, mesh};
use region_model::{Input, Lane};

use crate::plan::SECOND;
use crate::random::Random;
use crate::world::{Event, World};

/// A side that hears nothing notices within this.
const NOTICE: (u64, u64) = (3 * SECOND / 2, 4 * SECOND);
/// Shortest and longest way of a frame, by pair of regions, in microseconds.
const WAY: (u64, u64) = (5_000, 110_000);
/// How much longer a frame may take than its pair's way, in percent.
const JITTER: u64 = 20;
/// How much longer a frame takes at most while a link reorders.
const LATE: u64 = 2 * SECOND;
/// How much later the second of two copies comes at most.
const SECOND_COPY: u64 = SECOND / 2;

/// What a fault does to one direction of a link.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Cuts that hold: none passes while there is one.
    pub(crate) cuts: u32,
    /// Lost frames in a hundred.
    pub(crate) loss: u64,
    pub(crate) duplicates: u32,
    pub(crate) late: u32,
}

/// One connection between two regions, made anew after each failure.
#[derive(Debug, Default)]
struct Link {
    /// Counted up with each connection and each failure.
    connection: u64,
    alive: bool,
    /// Whether the core of the lower and of the higher region was told that it is up.
    told_up: [bool; 2],
    /// From the lower to the higher region, and back.
    weather: [Weather; 2],
    /// Frames that wait for a cut to end, by direction.
    #[expect(clippy::vec_box, reason = "bodies go on as they came, in their boxes")]
    held: [Vec<Box<mesh::Body>>; 2],
    way: u64,
}

/// All links, by (lower, higher) place.
#[derive(Debug)]
pub(crate) struct Links {
    links: BTreeMap<(usize, usize), Link>,
    /// When the last frame of a lane arrives.
    lanes: BTreeMap<(usize, usize, Lane), u64>,
    random: Random,
}

impl Links {
    pub(crate) fn new(seed: u64, regions: usize) -> Self {
        let mut random = Random::of(seed, "links", 0);
        let pairs = (0..regions).flat_map(|low| (low + 1..regions).map(move |high| (low, high)));
        let links = pairs.map(|pair| (pair, Link { way: random.between(WAY.0, WAY.1), ..Link::default() })).collect();
        Self { links, lanes: BTreeMap::new(), random }
    }

    fn between(&mut self, one: usize, other: usize) -> &mut Link {
        self.links.entry((one.min(other), one.max(other))).or_default()
    }

    /// What a fault may change of one direction.
    pub(crate) fn weather(&mut self, from: usize, to: usize) -> &mut Weather {
        &mut self.between(from, to).weather[direction(from, to)]
    }

    /// Whether frames pass from one region to another now, both being up.
    pub(crate) fn passes(&self, from: usize, to: usize) -> bool {
        let link = self.links.get(&(from.min(to), from.max(to)));
        link.is_none_or(|link| link.weather[direction(from, to)].cuts == 0)
    }

    /// The connection that takes frames of a region for another, what faults do to it, and its usual way.
    pub(crate) fn carries(&mut self, from: usize, to: usize) -> Option<(u64, Weather, u64)> {
        let link = self.between(from, to);
        let takes = link.alive && link.told_up[direction(from, to)];
        takes.then(|| (link.connection, link.weather[direction(from, to)], link.way))
    }

    /// Whether a question of a region to another one is answered now: nothing is cut on the way there or back.
    pub(crate) fn calls(&mut self, from: usize, to: usize) -> bool {
        let mut passes = |from, to| self.carries(from, to).is_some_and(|(_, weather, _)| weather.cuts == 0);
        passes(from, to) && passes(to, from)
    }

    /// The usual way between two regions, in microseconds.
    pub(crate) fn way(&self, one: usize, other: usize) -> u64 {
        self.links.get(&(one.min(other), one.max(other))).map_or(0, |link| link.way)
    }
}

/// What goes over the links beside the chat's frames, with chances of its own, so that a seed's chat stays as it is.
#[derive(Debug)]
pub(crate) struct Aside {
    pub(crate) random: Random,
    /// When the last frame of a link arrives.
    lanes: BTreeMap<(usize, usize), u64>,
}

impl Aside {
    pub(crate) fn new(seed: u64, part: &str) -> Self {
        Self { random: Random::of(seed, part, 0), lanes: BTreeMap::new() }
    }

    /// When a frame arrives, and when again; `None`: it is lost.
    fn way(&mut self, now: u64, ends: (usize, usize), weather: Weather, way: u64) -> Option<(u64, Option<u64>)> {
        let random = &mut self.random;
        if weather.loss > 0 && random.percent(weather.loss) {
            return None;
        }
        let late = if weather.late > 0 { random.between(0, LATE) } else { 0 };
        let earliest = now + way + random.between(0, way * JITTER / 100) + late;
        let again = random.between(0, SECOND_COPY);
        let arrives = self.lanes.entry(ends).or_default();
        *arrives = earliest.max(*arrives);
        Some((*arrives, (weather.duplicates > 0).then_some(*arrives + again)))
    }
}

/// Entries that were decoded last, by where their bytes lie: each region decodes the very bytes that the home made, and
/// comes to the same.
#[derive(Debug)]
pub(crate) struct Decoded(Vec<Option<Arc<SealedEntry>>>);

impl Decoded {
    /// How many are kept: more than are on their way at a time.
    const KEPT: usize = 4_096;

    pub(crate) fn new() -> Self {
        Self(vec![None; Self::KEPT])
    }

    fn decode(&mut self, encoded: &Bytes) -> Result<Arc<SealedEntry>, EntryError> {
        // The allocator gives places that are apart by at least 16 bytes.
        let kept = &mut self.0[(encoded.as_ptr() as usize >> 4) % Self::KEPT];
        // What is kept keeps its bytes, so that no others lie there.
        let same = |known: &&Arc<SealedEntry>| {
            (known.encoded.as_ptr(), known.encoded.len()) == (encoded.as_ptr(), encoded.len())
        };
        if let Some(known) = kept.as_ref().filter(same) {
            return Ok(Arc::clone(known));
        }
        let entry = SealedEntry::decode(encoded.clone())?;
        *kept = Some(Arc::clone(&entry));
        Ok(entry)
    }
}

fn direction(from: usize, to: usize) -> usize {
    usize::from(from > to)
}

impl World {
    fn pairs(&self) -> Vec<(usize, usize)> {
        self.links.links.keys().copied().collect()
    }

    /// Connects what is not connected and can be.
    pub(crate) fn connect_links(&mut self) {
        for (low, high) in self.pairs() {
            let both_run = [low, high].iter().all(|side| self.regions[*side].runs());
            let link = self.links.between(low, high);
            let cut = link.weather.iter().any(|weather| weather.cuts > 0);
            if link.alive || link.told_up != [false; 2] || cut || !both_run {
                continue;
            }
            link.alive = true;
            link.connection += 1;
            link.told_up = [true; 2];
            self.trace.count(self.now, "link-up", low as u64, high as u64);
            for (side, peer) in [(low, high), (high, low)] {
                self.regions[side].keeper.down.remove(&peer);
                let peer_id = self.regions[peer].id.clone();
                self.presence_link(side, &peer_id, true);
                self.push_link(side, peer, true);
                self.input(side, Input::LinkUp(peer_id));
                self.compare(side, peer);
            }
        }
    }

    /// One direction of a link is cut from now on. Both sides notice after a while.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.links.weather(from, to).cuts += 1;
        self.notices_of(from, to);
    }

    /// One cut of a direction is over: what it held back arrives.
    pub(crate) fn heal(&mut self, from: usize, to: usize) {
        let way = direction(from, to);
        let link = self.links.between(from, to);
        link.weather[way].cuts = link.weather[way].cuts.saturating_sub(1);
        if link.weather[way].cuts == 0 {
            let (connection, held) = (link.connection, std::mem::take(&mut link.held[way]));
            for body in held {
                self.after(0, Event::Frame { from, to, connection, body });
            }
        }
    }

    /// A region stands still or died: the other sides notice.
    pub(crate) fn notices_of_all(&mut self, region: usize) {
        for peer in (0..self.regions.len()).filter(|peer| *peer != region) {
            self.notices_of(region, peer);
        }
    }

    fn notices_of(&mut self, one: usize, other: usize) {
        let connection = self.links.between(one, other).connection;
        for (side, peer) in [(one, other), (other, one)] {
            let after = self.links.random.between(NOTICE.0, NOTICE.1);
            self.after(after, Event::Notices { side, peer, connection });
        }
    }

    /// A region died: its connections are gone.
    pub(crate) fn break_links_of(&mut self, region: usize) {
        for peer in (0..self.regions.len()).filter(|peer| *peer != region) {
            self.links.between(region, peer).told_up[direction(region, peer)] = false;
            self.break_link(region, peer);
        }
    }

    fn break_link(&mut self, one: usize, other: usize) {
        let link = self.links.between(one, other);
        if link.alive {
            link.alive = false;
            link.connection += 1;
            link.held = [Vec::new(), Vec::new()];
        }
        self.notices_of(one, other);
    }

    /// A side may notice that its connection is cut or gone.
    pub(crate) fn notice(&mut self, side: usize, peer: usize, connection: u64) {
        let still = [side, peer].iter().any(|region| !self.regions[*region].runs());
        let link = self.links.between(side, peer);
        let fine = link.weather.iter().all(|weather| weather.cuts == 0) && !still;
        if link.connection != connection || (link.alive && fine) {
            return;
        }
        if link.alive {
            self.break_link(side, peer);
        }
        let told = &mut self.links.between(side, peer).told_up[direction(side, peer)];
        if std::mem::take(told) {
            self.trace.count(self.now, "link-down", side as u64, peer as u64);
            let clock = self.regions[side].clock.monotonic(self.now);
            self.regions[side].keeper.down.insert(peer, clock);
            self.push_link(side, peer, false);
            let peer = self.regions[peer].id.clone();
            self.presence_link(side, &peer, false);
            self.input(side, Input::LinkDown(peer));
        }
    }

    pub(crate) fn send_frame(&mut self, from: usize, peer: &RegionId, lane: Lane, body: mesh::Body) {
        let Some(to) = self.place_of(peer) else { return };
        let Some((connection, weather, way)) = self.links.carries(from, to) else { return };
        self.notes_frame(from, peer, &body);
        let links = &mut self.links;
        if weather.loss > 0 && links.random.percent(weather.loss) {
            self.trace.count(self.now, "frame-lost", from as u64, to as u64);
            return;
        }
        let late = if weather.late > 0 { links.random.between(0, LATE) } else { 0 };
        let earliest = self.now + way + links.random.between(0, way * JITTER / 100) + late;
        let arrives = links.lanes.entry((from, to, lane)).or_default();
        *arrives = earliest.max(*arrives);
        let time = *arrives;
        self.trace.count(self.now, body.name(), from as u64, to as u64);
        if weather.duplicates > 0 {
            let again = time + links.random.between(0, SECOND_COPY);
            self.at(again, Event::Frame { from, to, connection, body: Box::new(body.clone()) });
        }
        self.at(time, Event::Frame { from, to, connection, body: Box::new(body) });
    }

    /// A frame beside the chat's goes out, or is lost. Returns whether a link took it.
    pub(crate) fn send_aside(
        &mut self,
        of: impl FnOnce(&mut Self) -> &mut Aside,
        step: &'static str,
        (from, to): (usize, usize),
        body: mesh::Body,
    ) -> bool {
        let Some((connection, weather, way)) = self.links.carries(from, to) else { return false };
        let now = self.now;
        let Some((time, again)) = of(self).way(now, (from, to), weather, way) else { return true };
        self.trace.count(now, step, from as u64, to as u64);
        let body = Box::new(body);
        if let Some(again) = again {
            self.at(again, Event::Frame { from, to, connection, body: body.clone() });
        }
        self.at(time, Event::Frame { from, to, connection, body });
        true
    }

    pub(crate) fn arrive(&mut self, from: usize, to: usize, connection: u64, body: Box<mesh::Body>) {
        let link = self.links.between(from, to);
        if link.connection != connection || !link.alive {
            return;
        }
        if link.weather[direction(from, to)].cuts > 0 {
            link.held[direction(from, to)].push(body);
            return;
        }
        if !link.told_up[direction(to, from)] {
            return;
        }
        if let Some(frame) = region_model::presence::of_body(&body) {
            let peer = self.regions[from].id.clone();
            return self.presence_frame(to, &peer, frame);
        }
        if let Some(frame) = region_model::push::wire::of_body(&body) {
            return self.push_frame(to, from, frame);
        }
        if let Some(frame) = region_model::typing::of_body(&body) {
            return self.typing_frame(to, from, frame);
        }
        let decoded = &mut self.decoded;
        let Ok(entries) = body.stored_entries().iter().map(|encoded| decoded.decode(encoded)).collect() else { return };
        let peer = self.regions[from].id.clone();
        let salt = self.regions[to].random.salt();
        self.input(to, Input::Frame { peer, body, entries, salt });
    }

    /// What the shell does at anti-entropy and when a link comes up.
    pub(crate) fn compare(&mut self, region: usize, peer: usize) {
        if region == peer || self.regions[region].core.is_none() {
            return;
        }
        let (me, other) = (self.regions[region].id.clone(), self.regions[peer].id.clone());
        let (lengths, follows) = self.regions[region].disk.compare(&me, &other);
        if !lengths.is_empty() {
            self.input(region, Input::CompareHomes(other, lengths));
        }
        for log in follows {
            self.input(region, Input::Follow { log, hold: true });
        }
    }
}
