//! A region of the simulation: the core that ships, over a simulated store. What the shell of a region does with
//! effects is done here, in the order in which the core gave them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use hearth_protocol::record::{OutboxRecord, ParkedSend, Record};
use hearth_protocol::{LogId, Placement, RegionId, UserId, mesh};
use region_model::LogView;
use region_model::ports::LogAppend;
use region_model::presence::PresenceBook;
use region_model::session::MessageRate;
use region_model::typing::TypingBook;
use region_model::view::Bounds;
use region_model::{CoreOptions, DeviceOutcome, Effect, Input, Lane, Now, Outcome, ParkingBounds, RegionCore};

use crate::aimed::Target;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::drains::Node;
use crate::explain::{Hops, Received};
use crate::history;
use crate::limits::Limits;
use crate::map::Keeper;
use crate::media::MediaTask;
use crate::push::PushTask;
use crate::random::Random;
use crate::stores::Stores;
use crate::visitors::LARGE;
use crate::woken::Reads;
use crate::world::{Event, World};

/// Names whoever waits for an answer of a core.
pub(crate) type Ticket = u64;

/// One operation of the store, in microseconds, while nothing slows it.
const STORE: (u64, u64) = (200, 3_000);
/// Logs in memory of each region: fewer than there are, so that they come and go.
const LOADED_LOGS: usize = 48;
/// Within which a send is answered, as the product has it, in milliseconds.
const ANSWER: u64 = 5_000;
/// Entries of a page for a replica or a pull.
const PAGE: usize = 64;

/// A write of the store, done in the order in which they were made.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Append(Box<LogAppend>),
    Mark(LogId, u64),
    Placement(Box<Placement>),
    Park(Box<ParkedSend>),
    Unpark(u64),
    Told(OutboxRecord),
}

/// One region: what is in memory, and what survives a crash.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) id: RegionId,
    pub(crate) core: Option<RegionCore<Ticket>>,
    pub(crate) disk: Disk,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    /// Counted up at each start: what belongs to an earlier one is lost.
    pub(crate) start: u64,
    started: std::time::Duration,
    /// When the last write of the store is done.
    written: u64,
    /// Writes under way, in order.
    pub(crate) writes: VecDeque<Write>,
    /// How many times longer the store takes.
    pub(crate) slow: u64,
    pub(crate) fail_sync: bool,
    /// The write at which power fails.
    pub(crate) target: Target,
    /// Faults that keep it down or still.
    pub(crate) down: u32,
    pub(crate) paused: u32,
    /// What came while it stood still.
    pub(crate) held: Vec<Event>,
    /// Connections of clients here, by user.
    pub(crate) sessions: BTreeMap<UserId, Vec<u64>>,
    /// Items of the outbox that are being told.
    pub(crate) telling: BTreeSet<(LogId, u64, String)>,
    /// What it knows of the region map, and its lease.
    pub(crate) keeper: Keeper,
    /// Copies of its store, and the one before.
    pub(crate) stores: Stores,
    /// Who is there, as it knows it, while it runs.
    pub(crate) presence: Option<PresenceBook>,
    /// Who is woken, as it decides, while it runs.
    pub(crate) push: Option<PushTask>,
    /// Who types, as it knows it, while it runs.
    pub(crate) typing: Option<TypingBook>,
    /// The media that it takes away, while it runs.
    pub(crate) media: Option<MediaTask>,
    /// How far users have read, as it was told.
    pub(crate) reads: Reads,
    /// When messages passed it, while it runs.
    pub(crate) hops: Option<Hops>,
    /// How far members are, as it was told: it keeps that.
    pub(crate) received: Received,
    /// What its node does with sessions.
    pub(crate) node: Node,
    /// The rates that it holds its users and conversations to.
    pub(crate) limits: Limits,
    /// What its users have sent lately, by their numbers.
    pub(crate) rates: BTreeMap<usize, MessageRate>,
}

impl Region {
    pub(crate) fn new(seed: u64, place: usize, id: RegionId) -> Self {
        Self {
            id,
            core: None,
            disk: Disk::default(),
            clock: Clock::new(seed, place),
            random: Random::of(seed, "region", place),
            start: 0,
            started: std::time::Duration::ZERO,
            written: 0,
            writes: VecDeque::new(),
            slow: 1,
            fail_sync: false,
            target: Target::default(),
            down: 0,
            paused: 0,
            held: Vec::new(),
            sessions: BTreeMap::new(),
            telling: BTreeSet::new(),
            keeper: Keeper::default(),
            stores: Stores::default(),
            presence: None,
            push: None,
            typing: None,
            media: None,
            reads: Reads::default(),
            hops: None,
            received: Received::default(),
            node: Node::default(),
            limits: Limits::of(seed, place),
            rates: BTreeMap::new(),
        }
    }

    /// Whether it runs and does not stand still.
    pub(crate) fn runs(&self) -> bool {
        self.core.is_some() && self.paused == 0
    }
}

impl World {
    /// Starts a region over what is on its disk.
    pub(crate) fn start(&mut self, place: usize) {
        let conversation_messages_per_minute = self.regions[place].limits.conversation;
        let mut bounds = Bounds { conversation_messages_per_minute, ..Bounds::default() };
        if self.plan.size.joins {
            bounds.fanout_threshold = LARGE;
        }
        let options = CoreOptions {
            me: self.regions[place].id.clone(),
            map: self.map.clone(),
            bounds,
            parking: ParkingBounds::default(),
            loaded_logs: LOADED_LOGS,
            answer_milliseconds: ANSWER,
        };
        let now = self.now;
        let region = &mut self.regions[place];
        region.core = Some(RegionCore::new(options));
        region.start += 1;
        region.started = region.clock.monotonic(now);
        region.written = now;
        region.fail_sync = false;
        region.rates.clear();
        let parked: Vec<ParkedSend> = region.disk.parked.values().cloned().collect();
        self.trace.count(now, "start", place as u64, parked.len() as u64);
        self.explain_start(place);
        self.input(place, Input::ParkedAtStart(parked));
        let tails = self.regions[place].disk.tails();
        self.input(place, Input::TailsAtStart(tails));
        self.map_at_start(place);
        self.presence_start(place);
        self.push_start(place);
        self.typing_start(place);
        self.media_start(place);
    }

    /// A region dies: its memory goes, and of what its store was doing, a part from the front is done unheard. When
    /// power fails, what was done without a sync goes, too.
    pub(crate) fn crash(&mut self, place: usize, power: bool) {
        let region = &mut self.regions[place];
        region.core = None;
        region.keeper.process_ended();
        region.presence = None;
        region.push = None;
        region.typing = None;
        region.media = None;
        region.hops = None;
        region.telling.clear();
        let writes = std::mem::take(&mut region.writes);
        let done = region.random.below(writes.len() + 1);
        for write in writes.into_iter().take(done) {
            self.write(place, write);
        }
        if power {
            self.push_forgotten(place);
            self.regions[place].disk.lose_unsynced();
        }
        self.trace.count(self.now, "stop", place as u64, u64::from(power));
        self.drop_sessions(place);
        self.node_serves(place);
        self.break_links_of(place);
    }

    /// The store failed: nobody is left waiting.
    fn store_failed(&mut self, place: usize) {
        let Some(core) = self.regions[place].core.take() else { return };
        let waiting = core.abandon();
        self.trace.count(self.now, "abandoned", place as u64, waiting.len() as u64);
        self.crash(place, false);
    }

    pub(crate) fn now_of(&self, place: usize) -> Now {
        let region = &self.regions[place];
        let clock = region.clock.monotonic(self.now);
        let since = clock.saturating_sub(region.started);
        let monotonic = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Now { monotonic, wall: region.clock.wall(self.now), right: region.keeper.right(clock) }
    }

    /// Gives an input to a region that runs, and performs what follows.
    pub(crate) fn input(&mut self, place: usize, input: Input<Ticket>) {
        let (now, at) = (self.now_of(place), self.micros_of(place));
        let mut effects = std::mem::take(&mut self.effects);
        self.notes_input(place, &input, at);
        if let Some(core) = &mut self.regions[place].core {
            core.handle(input, now, &mut effects);
        }
        for effect in effects.drain(..) {
            self.notes_effect(place, &effect, at);
            self.perform(place, effect);
        }
        if self.effects.capacity() < effects.capacity() {
            self.effects = effects;
        }
    }

    fn store_write(&mut self, place: usize, write: Write) {
        self.aim(place, &write);
        let region = &mut self.regions[place];
        let took = region.random.between(STORE.0, STORE.1) * region.slow;
        region.written = (self.now + took).max(region.written);
        region.writes.push_back(write);
        let (done, start) = (region.written, region.start);
        self.at(done, Event::Written { region: place, start });
    }

    /// After as long as the store takes for a read.
    fn store_read(&mut self, place: usize, event: Event) {
        let region = &mut self.regions[place];
        let took = region.random.between(STORE.0, STORE.1) / 2 * region.slow;
        self.after(took, event);
    }

    pub(crate) fn told(&mut self, place: usize, item: OutboxRecord) {
        self.store_write(place, Write::Told(item));
    }

    /// The next write of a region is done.
    pub(crate) fn written(&mut self, place: usize) {
        let region = &mut self.regions[place];
        if region.fail_sync {
            region.fail_sync = false;
            self.trace.count(self.now, "sync-failed", place as u64, 0);
            self.store_failed(place);
            return;
        }
        let Some(write) = region.writes.pop_front() else { return };
        if let Some(input) = self.write(place, write) {
            self.input(place, input);
        }
    }

    /// Applies a write; returns what answers it.
    fn write(&mut self, place: usize, write: Write) -> Option<Input<Ticket>> {
        let disk = &mut self.regions[place].disk;
        match write {
            Write::Append(append) => {
                let log = append.log;
                let (length, ranges) = (append.end(), usize::from(append.changes_ranges()));
                let promises = usize::from(append.promises);
                let shared = append.entries.iter().filter(|entry| entry.join_requests().len() > 1).count();
                match disk.append(*append) {
                    Ok(change) => {
                        for _ in 0..shared {
                            self.trace.count(self.now, "joins-shared", place as u64, length);
                        }
                        self.trace.count(self.now, "append-durable", place as u64, length);
                        Some(Input::Appended { log, length, change, ranges, promises })
                    }
                    Err(conflict) => {
                        // One writer a store: the shell ends the region.
                        self.trace.count(self.now, "conflict", place as u64, length);
                        self.broken.push(format!("{}: {conflict}", self.regions[place].id));
                        self.store_failed(place);
                        None
                    }
                }
            }
            Write::Mark(log, mark) => {
                disk.put_mark(log, mark);
                None
            }
            Write::Placement(placement) => {
                disk.put_placement(*placement);
                None
            }
            Write::Park(send) => {
                let number = send.number;
                disk.park(*send);
                Some(Input::Parked(number))
            }
            Write::Unpark(number) => {
                disk.unpark(number);
                None
            }
            Write::Told(item) => {
                disk.told(&item);
                None
            }
        }
    }

    pub(crate) fn read(&mut self, place: usize, effect: Effect<Ticket>) {
        let disk = &self.regions[place].disk;
        let input = match effect {
            Effect::Load(log) => Input::Loaded(log, Box::new(disk.load(log))),
            Effect::ReadForReplica { log, peer, from, to } => {
                let entries = disk.read(log, from, to.min(from + PAGE as u64));
                Input::ReplicaPage { log, peer, from, entries }
            }
            Effect::ReadForPull { log, peer, from, to } => {
                let entries = disk.read(log, from, to.min(from + PAGE as u64));
                Input::PullPage { log, peer, from, to, entries }
            }
            Effect::ReadForRetry { log, sequence, ticket } => {
                Input::RetryRead(ticket, disk.entry(log, sequence).cloned())
            }
            Effect::ReadHashes { log, sequence, rows } => {
                Input::HashesRead { log, sequence, entries: disk.read(log, sequence, sequence + rows as u64) }
            }
            Effect::ReadTail { log, after, rows } => Input::TailPage { log, entries: disk.tail(log, after, rows) },
            Effect::Target(key) => {
                let found = Box::new(disk.target(&key));
                Input::Target(key, found)
            }
            _ => return,
        };
        self.input(place, input);
    }

    fn perform(&mut self, place: usize, effect: Effect<Ticket>) {
        let start = self.regions[place].start;
        match effect {
            Effect::Append(append) => {
                self.wishes_append(&append);
                self.store_write(place, Write::Append(append));
            }
            Effect::PutMark(log, mark) => self.store_write(place, Write::Mark(log, mark)),
            Effect::PutPlacement(placement) => {
                self.placement_seen(&placement);
                self.store_write(place, Write::Placement(Box::new(placement)));
            }
            Effect::Park(send) => {
                self.trace.count(self.now, "park", place as u64, send.number);
                self.store_write(place, Write::Park(send));
            }
            Effect::Unpark(number) => {
                self.trace.count(self.now, "unpark", place as u64, number);
                self.store_write(place, Write::Unpark(number));
            }
            Effect::Dedup(key) => {
                self.store_read(place, Event::DedupReads { region: place, start, key: Box::new(key) });
            }
            Effect::Load(_)
            | Effect::ReadForReplica { .. }
            | Effect::ReadForPull { .. }
            | Effect::ReadHashes { .. }
            | Effect::ReadTail { .. }
            | Effect::Target(_)
            | Effect::ReadForRetry { .. } => {
                self.trace.count(self.now, read_name(&effect), place as u64, 0);
                self.store_read(place, Event::Reads { region: place, start, effect: Box::new(effect) });
            }
            Effect::Send { peer, body, .. } if peer == self.regions[place].id => {
                let salt = self.regions[place].random.salt();
                let input = Box::new(Input::Frame { peer, body: Box::new(body), entries: Vec::new(), salt });
                self.after(0, Event::Answer { region: place, start, input });
            }
            Effect::Send { peer, lane, body } => self.send_frame(place, &peer, lane, body),
            Effect::PlacementAnswer { peer, request_id, placement } => {
                let (status, body) = placement.map_or((404, Vec::new()), |placement| (200, placement.encode()));
                let body = mesh::Body::Response(mesh::Response { request_id, status, body: Bytes::from(body) });
                self.send_frame(place, &peer, Lane::Control, body);
            }
            Effect::Reply(ticket, outcome) => self.reply(place, ticket, outcome),
            Effect::View(ticket, view) => self.view(place, ticket, &view),
            Effect::Deliver { log, entry, audience, skip } => {
                self.push_delivered(place, log);
                self.typing_delivered(place, log, &audience);
                self.deliver(place, log, &entry, &audience, skip);
            }
            Effect::Began { log, epoch, from, at, before, audience } => {
                self.trace.count(self.now, "began", from, at);
                self.typing_unsure(log);
                self.typing_delivered(place, log, &audience);
                let users: BTreeSet<UserId> = before.keys().chain(audience.keys()).cloned().collect();
                self.skipped(place, log, epoch, (from, at), &users);
            }
            Effect::LineChanged { log, line, audience } => {
                self.trace.count(self.now, "line-changed", place as u64, line.epoch().0);
                self.typing_unsure(log);
                self.line_changed(place, log, &line, &audience);
            }
            Effect::HomeChanged(log) => self.push_home_changed(place, log),
            Effect::UserChanged { log, entry } => self.push_user_changed(place, log, &entry),
            Effect::Outbox(item) => self.tell(place, item),
            Effect::Device { send, ended } => self.tell_device(place, &send, ended),
            Effect::Fork { log, peer } => self.forked(place, log, &peer),
        }
    }

    /// What a region knows of a log, as its core would answer; the placement as its steward would, where it knows none.
    pub(crate) fn look(&self, place: usize, log: LogId, ask: bool) -> LogView {
        let region = &self.regions[place];
        let Some(core) = &region.core else { return LogView::default() };
        let now = self.now_of(place);
        let mut view = core.look(log, now).unwrap_or_else(|| core.look_at(log, region.disk.load(log), now));
        if ask && view.placement.is_none() {
            view.placement = self.newest_placement(log).cloned();
        }
        view
    }

    pub(crate) fn newest_placement(&self, log: LogId) -> Option<&Placement> {
        let placements = self.regions.iter().filter_map(|region| region.disk.placement(log));
        placements.max_by_key(|placement| placement.epoch)
    }

    /// Two regions have other entries at the same position, which is never to be.
    fn forked(&mut self, place: usize, log: LogId, peer: &RegionId) {
        let peer = self.place_of(peer).unwrap_or(0);
        self.trace.count(self.now, "fork", place as u64, peer as u64);
        self.broken.push(format!("{} and {} fork in {log}", self.regions[place].id, self.regions[peer].id));
    }

    /// A parked send ended: its device is told on whatever connection it has here.
    fn tell_device(&mut self, place: usize, send: &ParkedSend, ended: DeviceOutcome) {
        let connections = self.regions[place].sessions.get(&send.sender).cloned().unwrap_or_default();
        let of_device = |connection: &&u64| {
            self.connections.get(*connection).is_some_and(|connection| connection.device == send.device)
        };
        let Some(connection) = connections.iter().find(of_device).copied() else {
            let event = match ended {
                DeviceOutcome::Refused(_) => history::Event::RefusalKept(send.conversation, send.id),
                DeviceOutcome::Acked(ack) => history::Event::AckUnheard(send.conversation, send.id, self.acked(&ack)),
                DeviceOutcome::CopiesMissing(_) => return,
            };
            self.history.add(self.now, event);
            return;
        };
        self.notes_device(place, send, &ended);
        let outcome = match ended {
            DeviceOutcome::Acked(ack) => Outcome::Acked(ack),
            DeviceOutcome::Refused(refusal) => {
                let start = self.regions[place].start;
                let input = Box::new(Input::RefusalTold(send.number));
                self.after(0, Event::Answer { region: place, start, input });
                Outcome::Refused(refusal)
            }
            DeviceOutcome::CopiesMissing(_) => {
                let session = self.connections[&connection].session;
                self.history.add(self.now, history::Event::Queued(session, send.conversation, send.id));
                return;
            }
        };
        self.limited(send.conversation, send.id, &outcome);
        self.hear(place, connection, send.conversation, send.id, outcome);
    }
}

fn read_name(effect: &Effect<Ticket>) -> &'static str {
    match effect {
        Effect::Load(_) => "load",
        Effect::ReadForReplica { .. } => "read-for-replica",
        Effect::ReadForPull { .. } => "read-for-pull",
        Effect::ReadHashes { .. } => "read-hash",
        Effect::ReadTail { .. } => "read-tail",
        Effect::Target(_) => "read-target",
        _ => "read-for-retry",
    }
}
