//! A mesh of regions in one thread: cores over simulated links and stores, in simulated time. The same seed gives the
//! same run.

mod checks;
mod client;
mod disk;
mod links;
mod map;
mod random;

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_protocol::record::{OutboxRecord, ParkedSend, Record};
use hearth_protocol::{Epoch, LogId, RegionId, RegionMap, SealedEntry, Timestamp, UserId, mesh};
use region_model::ownership::Right;
use region_model::region_map::MapState;
use region_model::view::Bounds;
use region_model::{
    Command, CoreOptions, DeviceOutcome, Effect, Input, Lane, LogView, Now, Outcome, ParkingBounds, RegionCore,
};

pub(crate) use client::*;
pub(crate) use disk::Disk;
use links::Links;
pub(crate) use random::Random;

/// The wall clock when a run begins.
pub(crate) const START: u64 = 1_800_000_000_000;

/// How a mesh is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) regions: usize,
    pub(crate) parking: ParkingBounds,
    pub(crate) bounds: Bounds,
    pub(crate) loaded_logs: usize,
    /// Within which a send is answered.
    pub(crate) answer_milliseconds: u64,
    /// Milliseconds of one store operation, at least and at most.
    pub(crate) store: (u64, u64),
    /// Milliseconds of a frame's way, at least and at most.
    pub(crate) link: (u64, u64),
    /// Entries of one read for a pull.
    pub(crate) page: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            regions: 3,
            parking: ParkingBounds::default(),
            bounds: Bounds::default(),
            loaded_logs: 100_000,
            answer_milliseconds: 5_000,
            store: (0, 3),
            link: (5, 25),
            page: 512,
        }
    }
}

/// What was shown to the sessions of a region.
#[derive(Clone, Debug)]
pub(crate) struct Delivered {
    pub(crate) epoch: Epoch,
    pub(crate) sequence: u64,
    pub(crate) audience: Vec<UserId>,
    pub(crate) skip: Option<u64>,
}

/// One region: what is in memory, and what survives a crash.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) id: RegionId,
    pub(crate) core: Option<RegionCore<u64>>,
    pub(crate) disk: Disk,
    /// Counted up at each start: what belongs to an earlier one is lost.
    pub(crate) start: u64,
    /// When the last write of the store is done.
    written: u64,
    /// Writes under way, in order.
    writes: Vec<(u64, Write)>,
    /// Since the last start.
    pub(crate) delivered: BTreeMap<LogId, Vec<Delivered>>,
    /// What is shown next after a gap that was told.
    next_shown: BTreeMap<LogId, u64>,
    /// What its lease gives it.
    pub(crate) right: Right,
}

/// A write of the store. They are applied in the order in which they were made.
#[derive(Debug)]
enum Write {
    Append(Box<region_model::ports::LogAppend>),
    Mark(LogId, u64),
    Placement(hearth_protocol::Placement),
    Park(Box<ParkedSend>),
    Unpark(u64),
}

/// What happens at some time.
#[derive(Debug)]
enum Event {
    /// The next write of a region is done.
    Written {
        region: usize,
        start: u64,
    },
    /// A read of a region is answered.
    Answer {
        region: usize,
        start: u64,
        input: Box<Input<u64>>,
    },
    /// A dedup lookup reads; its answer takes a while more.
    DedupReads {
        region: usize,
        start: u64,
        key: region_model::ports::DedupKey,
    },
    /// Other reads.
    Reads {
        region: usize,
        start: u64,
        effect: Box<Effect<u64>>,
    },
    /// A frame arrives.
    Frame {
        from: usize,
        to: usize,
        connection: u64,
        body: Box<mesh::Body>,
    },
    /// A side of a link notices that it is cut.
    Notices {
        side: usize,
        peer: usize,
        connection: u64,
    },
    /// Cores tick, links connect again.
    Tick,
    AntiEntropy,
}

/// The mesh.
#[derive(Debug)]
pub(crate) struct Sim {
    pub(crate) setup: Setup,
    pub(crate) now: u64,
    pub(crate) random: Random,
    pub(crate) regions: Vec<Region>,
    links: Links,
    events: BTreeMap<(u64, u64), Event>,
    event_count: u64,
    /// What was sent by clients, by ticket.
    pub(crate) sent: BTreeMap<u64, Command>,
    pub(crate) replies: BTreeMap<u64, Vec<Outcome>>,
    pub(crate) views: BTreeMap<u64, LogView>,
    pub(crate) device: Vec<(usize, ParkedSend, DeviceOutcome)>,
    pub(crate) forks: Vec<(usize, LogId, RegionId)>,
    /// Forwards that a home refused for want of room.
    pub(crate) overloaded: usize,
    /// So many pages for pulls come with their entries turned around.
    pub(crate) spoil_pulls: usize,
    /// Gaps that regions told of.
    pub(crate) gaps: usize,
    pub(crate) outbox: Vec<OutboxRecord>,
    pub(crate) user_changes: Vec<(usize, LogId, u64)>,
    /// Sessions of a region were told of another home.
    pub(crate) home_changes: Vec<(usize, LogId)>,
    /// Whether refusals are told to devices when they come.
    pub(crate) devices_connected: bool,
    /// Every `n`th `Append` frame between regions is lost, when set.
    pub(crate) lose_appends: Option<u64>,
    /// Every frame between regions comes twice, when set.
    pub(crate) duplicate_frames: bool,
    pub(crate) frames: u64,
    pub(crate) tickets: u64,
    /// The region map, once there is one.
    pub(crate) region_map: Option<Arc<MapState>>,
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, Setup::default())
    }

    pub(crate) fn with(seed: u64, setup: Setup) -> Self {
        println!("seed {seed}");
        let names = ["eu", "us", "ap", "sa", "af", "oc"];
        let region = |name: &&str| Region {
            id: RegionId::new(name).expect("a valid name"),
            core: None,
            disk: Disk::default(),
            start: 0,
            written: 0,
            writes: Vec::new(),
            delivered: BTreeMap::new(),
            next_shown: BTreeMap::new(),
            right: Right { leased: true, generation: 0 },
        };
        let regions: Vec<Region> = names.iter().take(setup.regions).map(region).collect();
        let mut sim = Self {
            links: Links::new(setup.regions),
            setup,
            now: 0,
            random: Random::new(seed),
            regions,
            events: BTreeMap::new(),
            event_count: 0,
            sent: BTreeMap::new(),
            replies: BTreeMap::new(),
            views: BTreeMap::new(),
            device: Vec::new(),
            forks: Vec::new(),
            overloaded: 0,
            spoil_pulls: 0,
            gaps: 0,
            outbox: Vec::new(),
            user_changes: Vec::new(),
            home_changes: Vec::new(),
            devices_connected: true,
            lose_appends: None,
            duplicate_frames: false,
            frames: 0,
            tickets: 0,
            region_map: None,
        };
        for index in 0..sim.regions.len() {
            sim.start(index);
        }
        sim.connect_links();
        sim.at(100, Event::Tick);
        sim.at(5_000, Event::AntiEntropy);
        sim
    }

    pub(crate) fn map(&self) -> RegionMap {
        RegionMap { version: 1, regions: self.regions.iter().map(|region| region.id.clone()).collect() }
    }

    /// Starts a region over what is on its disk.
    pub(crate) fn start(&mut self, index: usize) {
        let options = CoreOptions {
            me: self.regions[index].id.clone(),
            map: self.map(),
            bounds: self.setup.bounds,
            parking: self.setup.parking,
            loaded_logs: self.setup.loaded_logs,
            answer_milliseconds: self.setup.answer_milliseconds,
        };
        let region = &mut self.regions[index];
        assert!(region.core.is_none(), "it runs");
        region.core = Some(RegionCore::new(options));
        region.start += 1;
        let parked: Vec<ParkedSend> = region.disk.parked.values().cloned().collect();
        self.input(index, Input::ParkedAtStart(parked));
        let tails = self.regions[index].disk.tails();
        self.input(index, Input::TailsAtStart(tails));
        if let Some(map) = self.region_map.clone() {
            self.input(index, Input::Map(map));
        }
    }

    /// A region dies: its memory goes, and of what its store was doing, a part from the front is done unheard.
    pub(crate) fn crash(&mut self, index: usize) {
        self.regions[index].core = None;
        self.regions[index].delivered.clear();
        self.regions[index].next_shown.clear();
        let writes = std::mem::take(&mut self.regions[index].writes);
        let done = self.random.between(0, writes.len() as u64);
        for (_, write) in writes.into_iter().take(usize::try_from(done).expect("small")) {
            self.write(index, write);
        }
        self.break_links_of(index);
    }

    pub(crate) fn is_up(&self, index: usize) -> bool {
        self.regions[index].core.is_some()
    }

    fn at(&mut self, time: u64, event: Event) {
        self.event_count += 1;
        self.events.insert((time, self.event_count), event);
    }

    fn after(&mut self, bounds: (u64, u64), event: Event) {
        let time = self.now + self.random.between(bounds.0, bounds.1);
        self.at(time, event);
    }

    pub(crate) fn run_for(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        self.run_while(end, |_| true);
        self.now = end;
    }

    /// Runs until something is so.
    pub(crate) fn run_until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        let end = self.now + 120_000;
        self.run_while(end, |sim| !so(sim));
        assert!(so(self), "not so within two minutes: {what}");
    }

    fn run_while(&mut self, end: u64, goes_on: impl Fn(&Self) -> bool) {
        while goes_on(self) {
            let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= end) else { break };
            let ((time, _), event) = entry.remove_entry();
            self.now = self.now.max(time);
            self.happen(event);
        }
    }

    fn is_current(&self, region: usize, start: u64) -> bool {
        self.is_up(region) && self.regions[region].start == start
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Written { region, start } if self.is_current(region, start) => {
                let (_, write) = self.regions[region].writes.remove(0);
                if let Some(input) = self.write(region, write) {
                    self.input(region, input);
                }
            }
            Event::Answer { region, start, input } if self.is_current(region, start) => self.input(region, *input),
            Event::DedupReads { region, start, key } if self.is_current(region, start) => {
                let record = self.regions[region].disk.dedup.get(&key).cloned();
                let input = Box::new(Input::Dedup(key, record));
                self.after(self.setup.store, Event::Answer { region, start, input });
            }
            Event::Reads { region, start, effect } if self.is_current(region, start) => self.read(region, *effect),
            Event::Written { .. } | Event::Answer { .. } | Event::DedupReads { .. } | Event::Reads { .. } => {}
            Event::Frame { from, to, connection, body } => self.arrive(from, to, connection, body),
            Event::Notices { side, peer, connection } => self.notice(side, peer, connection),
            Event::Tick => {
                self.connect_links();
                for index in 0..self.regions.len() {
                    self.input(index, Input::Tick);
                }
                self.at(self.now + 100, Event::Tick);
            }
            Event::AntiEntropy => {
                for index in 0..self.regions.len() {
                    self.input(index, Input::AntiEntropy);
                    for peer in 0..self.regions.len() {
                        self.compare(index, peer);
                    }
                }
                self.at(self.now + 5_000, Event::AntiEntropy);
            }
        }
    }

    /// What the shell does at anti-entropy and when a link comes up.
    fn compare(&mut self, index: usize, peer: usize) {
        if index == peer || !self.is_up(index) {
            return;
        }
        let (me, other) = (self.regions[index].id.clone(), self.regions[peer].id.clone());
        let (lengths, follows) = self.regions[index].disk.compare(&me, &other);
        if !lengths.is_empty() {
            self.input(index, Input::CompareHomes(other, lengths));
        }
        for log in follows {
            self.input(index, Input::Follow { log, hold: true });
        }
    }

    /// Applies a write; returns what answers it.
    fn write(&mut self, region: usize, write: Write) -> Option<Input<u64>> {
        let disk = &mut self.regions[region].disk;
        match write {
            Write::Append(append) => {
                let log = append.log;
                let (length, ranges) = (append.end(), usize::from(append.changes_ranges()));
                let promises = usize::from(append.promises);
                let change = disk.append(*append);
                return Some(Input::Appended { log, length, change, ranges, promises });
            }
            Write::Mark(log, mark) => disk.put_mark(log, mark),
            Write::Placement(placement) => disk.put_placement(placement),
            Write::Park(send) => {
                let number = send.number;
                disk.parked.insert(number, *send);
                return Some(Input::Parked(number));
            }
            Write::Unpark(number) => {
                disk.parked.remove(&number);
            }
        }
        None
    }

    fn read(&mut self, region: usize, effect: Effect<u64>) {
        let disk = &self.regions[region].disk;
        let input = match effect {
            Effect::Load(log) => Input::Loaded(log, Box::new(disk.load(log))),
            Effect::ReadForReplica { log, peer, from, to } => {
                Input::ReplicaPage { log, peer, from, entries: disk.read(log, from, to) }
            }
            Effect::ReadForPull { log, peer, from, to } => {
                // A read may end early by its bytes.
                let mut entries = disk.read(log, from, to);
                entries.truncate(self.setup.page);
                Input::PullPage { log, peer, from, to, entries }
            }
            Effect::ReadForRetry { log, sequence, ticket } => {
                Input::RetryRead(ticket, disk.entry(log, sequence).cloned())
            }
            Effect::ReadHashes { log, sequence, rows } => {
                let entries = (sequence..sequence + rows as u64).map_while(|at| disk.entry(log, at).cloned()).collect();
                Input::HashesRead { log, sequence, entries }
            }
            Effect::ReadTail { log, after, rows } => Input::TailPage { log, entries: disk.tail(log, after, rows) },
            Effect::Target(key) => {
                let found = Box::new(disk.target(&key));
                Input::Target(key, found)
            }
            other => panic!("not a read: {other:?}"),
        };
        self.input(region, input);
    }

    /// Gives an input to a region that runs, and performs what follows.
    pub(crate) fn input(&mut self, index: usize, input: Input<u64>) {
        let right = self.regions[index].right;
        let now = Now { monotonic: self.now, wall: Timestamp(START + self.now), right };
        let Some(core) = &mut self.regions[index].core else { return };
        let mut effects = Vec::new();
        core.handle(input, now, &mut effects);
        for effect in effects {
            self.perform(index, effect);
        }
    }

    fn store_write(&mut self, region: usize, write: Write) {
        let took = self.random.between(self.setup.store.0, self.setup.store.1);
        let done = (self.now + took).max(self.regions[region].written);
        let start = self.regions[region].start;
        self.regions[region].written = done;
        self.regions[region].writes.push((done, write));
        self.at(done, Event::Written { region, start });
    }

    fn perform(&mut self, region: usize, effect: Effect<u64>) {
        let start = self.regions[region].start;
        match effect {
            Effect::Append(append) => self.store_write(region, Write::Append(append)),
            Effect::PutMark(log, mark) => self.store_write(region, Write::Mark(log, mark)),
            Effect::PutPlacement(placement) => self.store_write(region, Write::Placement(placement)),
            Effect::Park(send) => self.store_write(region, Write::Park(send)),
            Effect::Unpark(number) => self.store_write(region, Write::Unpark(number)),
            Effect::Dedup(key) => self.after(self.setup.store, Event::DedupReads { region, start, key }),
            Effect::Load(_)
            | Effect::ReadForReplica { .. }
            | Effect::ReadForPull { .. }
            | Effect::ReadHashes { .. }
            | Effect::ReadTail { .. }
            | Effect::Target(_)
            | Effect::ReadForRetry { .. } => {
                self.after(self.setup.store, Event::Reads { region, start, effect: Box::new(effect) });
            }
            Effect::Send { peer, body, .. } if peer == self.regions[region].id => {
                let (salt, body) = (self.salt(), Box::new(body));
                let input = Box::new(Input::Frame { peer, body, entries: Vec::new(), salt });
                self.at(self.now, Event::Answer { region, start, input });
            }
            Effect::Send { peer, lane, body } => {
                self.check_answer(region, lane, &body);
                if let mesh::Body::Answer(mesh::Answer { refused: Some(refused), .. }) = &body {
                    self.overloaded += usize::from(refused.error == "OVERLOADED");
                }
                self.send_frame(region, &peer, lane, body);
            }
            Effect::PlacementAnswer { peer, request_id, placement } => {
                let (status, body) = placement.map_or((404, Vec::new()), |placement| (200, placement.encode()));
                let body = mesh::Body::Response(mesh::Response { request_id, status, body: body.into() });
                self.send_frame(region, &peer, Lane::Control, body);
            }
            Effect::Reply(ticket, outcome) => {
                self.check_reply(ticket, &outcome);
                self.replies.entry(ticket).or_default().push(outcome);
            }
            Effect::View(ticket, view) => {
                self.views.insert(ticket, *view);
            }
            Effect::Deliver { log, entry, audience, skip } => {
                self.deliver(region, log, &entry, audience.keys().cloned().collect(), skip);
            }
            Effect::Began { log, from, at, .. } => self.began(region, log, from, at),
            Effect::LineChanged { log, line, .. } => {
                let shown = self.regions[region].delivered.entry(log).or_default();
                let kept = shown.partition_point(|shown| line.cut(shown.epoch, shown.sequence) == shown.sequence);
                if kept < shown.len() {
                    let next = shown[kept].sequence;
                    shown.truncate(kept);
                    self.regions[region].next_shown.insert(log, next);
                }
            }
            Effect::HomeChanged(log) => self.home_changes.push((region, log)),
            Effect::UserChanged { log, entry } => self.user_changes.push((region, log, entry.sequence().0)),
            Effect::Outbox(item) => self.outbox.push(item),
            Effect::Device { send, ended } => self.tell_device(region, *send, ended),
            Effect::Fork { log, peer } => self.forks.push((region, log, peer)),
        }
    }

    /// A gap is told where it stands: behind what was shown, and before what is shown next.
    fn began(&mut self, region: usize, log: LogId, from: u64, at: u64) {
        let told = self.regions[region].next_shown.get(&log).copied();
        let shown = self.regions[region].delivered.entry(log).or_default();
        if let Some(next) = told.or(shown.last().map(|last| last.sequence + 1)) {
            assert_eq!(next, from, "the gap begins behind what region {region} showed of {log}");
        }
        assert!(from < at, "a gap has a number in it");
        self.regions[region].next_shown.insert(log, at);
        self.gaps += 1;
    }

    fn deliver(&mut self, region: usize, log: LogId, entry: &SealedEntry, audience: Vec<UserId>, skip: Option<u64>) {
        let sequence = entry.sequence().0;
        let told = self.regions[region].next_shown.remove(&log);
        let shown = self.regions[region].delivered.entry(log).or_default();
        if let Some(next) = told.or(shown.last().map(|last| last.sequence + 1)) {
            assert_eq!(sequence, next, "region {region} shows {log} in order, without a gap that is not told");
        }
        shown.push(Delivered { epoch: entry.entry.fixed.position.epoch, sequence, audience, skip });
        self.check_shown(region, log, sequence);
    }

    fn tell_device(&mut self, region: usize, send: ParkedSend, ended: DeviceOutcome) {
        let number = send.number;
        let refused = matches!(ended, DeviceOutcome::Refused(_));
        if let DeviceOutcome::Acked(ack) = &ended {
            self.check_ack(LogId::conversation(send.conversation), ack, Some((&send.sender, send.id.0)));
        }
        self.device.push((region, send, ended));
        if refused && self.devices_connected {
            let input = Box::new(Input::RefusalTold(number));
            let start = self.regions[region].start;
            self.at(self.now, Event::Answer { region, start, input });
        }
    }
}
