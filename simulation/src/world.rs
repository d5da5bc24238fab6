//! The mesh of a run: regions, links, clients and the one queue of what happens next. One thread, no wait, no real
//! clock: the same plan gives the same run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use hearth_protocol::{LogId, Placement, RegionId, RegionMap, SealedEntry, mesh};
use region_model::ports::DedupKey;
use region_model::region_map::MapState;
use region_model::session::Delivery;
use region_model::{Effect, Input};

use crate::clients::{Client, Connection, Conversation, Sending};
use crate::drains::Drains;
use crate::errands::Errand;
use crate::explain::Explaining;
use crate::history::{self, History};
use crate::map::{MapService, MapTold, Proposal};
use crate::media::Media;
use crate::network::{Decoded, Links};
use crate::plan::{Plan, SECOND};
use crate::presence::{self, Presence};
use crate::push::Push;
use crate::random::Random;
use crate::region::{Region, Ticket};
use crate::trace::Trace;
use crate::typing::{self, Typing};
use crate::visitors::Visitors;

/// What may happen in a simulated second, in the mean: far above what a failover takes.
const EVENTS_A_SECOND: u64 = 40_000;
/// Cores tick this often.
const TICK: u64 = SECOND / 10;
/// Links that are down are tried this often.
const LINKS: u64 = SECOND / 4;
/// Homes are compared with their replicas this often.
const ANTI_ENTROPY: u64 = 5 * SECOND;

/// What happens at some time.
#[derive(Debug)]
pub(crate) enum Event {
    /// The next write of a region is done.
    Written { region: usize, start: u64 },
    /// An input comes to a region.
    Answer { region: usize, start: u64, input: Box<Input<Ticket>> },
    /// A dedup lookup reads; its answer takes a while more.
    DedupReads { region: usize, start: u64, key: Box<DedupKey> },
    /// Other reads.
    Reads { region: usize, start: u64, effect: Box<Effect<Ticket>> },
    /// A frame arrives.
    Frame { from: usize, to: usize, connection: u64, body: Box<mesh::Body> },
    /// A side of a link may notice that it is cut.
    Notices { side: usize, peer: usize, connection: u64 },
    /// A region ticks.
    Tick(usize),
    /// A region compares.
    AntiEntropy(usize),
    /// A copy is made of a region's store.
    CopyStore(usize),
    /// Links connect again.
    Links,
    /// A fault begins.
    Fault(usize),
    /// A fault ends.
    FaultEnds(usize),
    /// A client does something.
    Client(usize),
    /// What a client sent arrives at its region.
    Sent { region: usize, connection: u64, sending: Box<Sending> },
    /// A connection begins with a conversation, again.
    Begin { connection: u64, conversation: usize },
    /// An errand goes on, or again.
    Errand(u64),
    /// A group's members change.
    Churn(usize),
    /// Visitors join a group.
    Visitors,
    /// A client was told to leave its node now.
    Slot(u64),
    /// Power fails in a region, at a write that was aimed at.
    Struck { region: usize, start: u64 },
    /// A region sees to its lease.
    Keep { region: usize, start: u64 },
    /// Leader and fences of the map are looked at.
    MapLook,
    /// An operator fences a region, until a time.
    FenceByHand(usize, u64),
    /// A command comes to the map's leader.
    MapAsk { leader: usize, proposal: Box<Proposal> },
    /// The map's leader has a majority for a command.
    MapCommit { leader: usize, proposal: Box<Proposal> },
    /// The map's answer comes back.
    MapTell { to: usize, start: u64, told: Box<MapTold> },
    /// Something comes to a region's book of who is there.
    Presence { region: usize, start: u64, said: Box<presence::Said> },
    /// A word about typing comes to a region.
    Typing { region: usize, start: u64, connection: u64, said: typing::Said },
    /// A region hears of a newer map.
    MapSeen { region: usize, map: Arc<MapState> },
}

impl Event {
    /// The region that it is for: while that stands still, it waits.
    fn region(&self) -> Option<usize> {
        match self {
            Self::Written { region, .. }
            | Self::Answer { region, .. }
            | Self::DedupReads { region, .. }
            | Self::Reads { region, .. }
            | Self::Tick(region)
            | Self::AntiEntropy(region)
            | Self::Sent { region, .. }
            | Self::Keep { region, .. }
            | Self::Presence { region, .. }
            | Self::Typing { region, .. }
            | Self::MapSeen { region, .. } => Some(*region),
            Self::Frame { to, .. } | Self::MapTell { to, .. } => Some(*to),
            Self::Notices { side, .. } => Some(*side),
            Self::MapAsk { leader, .. } | Self::MapCommit { leader, .. } => Some(*leader),
            Self::Links
            | Self::Fault(_)
            | Self::FaultEnds(_)
            | Self::Client(_)
            | Self::Errand(_)
            | Self::Begin { .. }
            | Self::Churn(_)
            | Self::Visitors
            | Self::Slot(_)
            | Self::CopyStore(_)
            | Self::FenceByHand(..)
            | Self::Struck { .. }
            | Self::MapLook => None,
        }
    }
}

/// What is planned, the earliest first, and of one time what was planned first. The heap moves keys alone: events lie in
/// a list of places that are used again.
#[derive(Debug, Default)]
struct Events {
    heap: BinaryHeap<Reverse<Planned>>,
    places: Vec<Option<Event>>,
    free: Vec<u32>,
}

/// When an event happens, its number over all that were planned, and its place.
type Planned = (u64, u64, u32);

impl Events {
    fn push(&mut self, at: u64, number: u64, event: Event) {
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.places.push(None);
                u32::try_from(self.places.len() - 1).expect("fewer events wait than a run may have")
            }
        };
        self.places[place as usize] = Some(event);
        self.heap.push(Reverse((at, number, place)));
    }

    /// The next event with its time, unless that is after `end`.
    fn pop_until(&mut self, end: u64) -> Option<(u64, Event)> {
        let Reverse((at, _, place)) = *self.heap.peek().filter(|Reverse((at, ..))| *at <= end)?;
        self.heap.pop();
        self.free.push(place);
        Some((at, self.places[place as usize].take()?))
    }
}

/// The mesh.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    /// Microseconds since the run began.
    pub(crate) now: u64,
    events: Events,
    planned: u64,
    pub(crate) map: RegionMap,
    pub(crate) regions: Vec<Region>,
    pub(crate) links: Links,
    pub(crate) decoded: Decoded,
    pub(crate) service: MapService,
    pub(crate) clients: Vec<Client>,
    pub(crate) conversations: Vec<Conversation>,
    pub(crate) by_log: BTreeMap<LogId, usize>,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) tickets: BTreeMap<Ticket, crate::clients::Waits>,
    pub(crate) errands: BTreeMap<u64, Errand>,
    /// Numbers for tickets, connections, devices and errands.
    numbers: u64,
    pub(crate) random: Random,
    pub(crate) history: History,
    pub(crate) trace: Trace,
    pub(crate) effects: Vec<Effect<Ticket>>,
    /// What a session decided to show: a buffer.
    pub(crate) deliveries: Vec<Delivery<Arc<SealedEntry>>>,
    /// Things that the shell of a region would stop for.
    pub(crate) broken: Vec<String>,
    /// The newest epoch seen of each log, and whether its placement told of a loss.
    pub(crate) epochs: BTreeMap<LogId, u64>,
    pub(crate) moves: u64,
    /// The clients' retries, for the report.
    pub(crate) resent: u64,
    /// Who is there.
    pub(crate) presence: Presence,
    /// Who joins groups.
    pub(crate) visitors: Visitors,
    /// Who is woken.
    pub(crate) push: Push,
    /// Who types.
    pub(crate) typing: Typing,
    /// What was put beside messages.
    pub(crate) media: Media,
    /// Who asks where messages are.
    pub(crate) explaining: Explaining,
    /// Nodes that are drained.
    pub(crate) drains: Drains,
}

impl World {
    pub(crate) fn new(plan: Plan, steps: &[&'static str]) -> Self {
        let names = ["eu-west", "us-east", "ap-south", "sa-east", "af-south", "me-west"];
        let ids: Vec<RegionId> =
            names.iter().take(plan.size.regions).filter_map(|name| RegionId::new(name).ok()).collect();
        let seed = plan.seed;
        let regions = ids.iter().enumerate().map(|(place, id)| Region::new(seed, place, id.clone())).collect();
        let history = History {
            regions: ids.iter().map(|id| id.as_str().to_owned()).collect(),
            events: Vec::with_capacity(plan.history_events()),
            ..History::default()
        };
        let mut world = Self {
            now: 0,
            events: Events::default(),
            planned: 0,
            map: RegionMap { version: 1, regions: ids },
            regions,
            links: Links::new(seed, plan.size.regions),
            decoded: Decoded::new(),
            service: MapService::new(seed),
            clients: Vec::new(),
            conversations: Vec::new(),
            by_log: BTreeMap::new(),
            connections: BTreeMap::new(),
            tickets: BTreeMap::new(),
            errands: BTreeMap::new(),
            numbers: 0,
            random: Random::of(seed, "world", 0),
            history,
            trace: Trace::new(steps),
            effects: Vec::new(),
            deliveries: Vec::new(),
            broken: Vec::new(),
            epochs: BTreeMap::new(),
            moves: 0,
            resent: 0,
            presence: Presence::new(seed),
            visitors: Visitors::new(seed),
            push: Push::new(seed, plan.size.regions),
            typing: Typing::new(seed),
            media: Media::new(seed),
            explaining: Explaining::new(seed),
            drains: Drains::new(seed),
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.found_map();
        for place in 0..self.regions.len() {
            self.start(place);
            let shift = TICK / 7 * place as u64;
            self.after(TICK + shift, Event::Tick(place));
            self.after(ANTI_ENTROPY + shift, Event::AntiEntropy(place));
            if self.plan.size.stores {
                self.after(SECOND, Event::CopyStore(place));
            }
        }
        self.connect_links();
        self.after(LINKS, Event::Links);
        self.make_clients();
        self.typing_begins();
        if self.plan.size.joins {
            self.after(SECOND, Event::Visitors);
        }
        for index in 0..self.plan.faults.len() {
            self.at(self.plan.faults[index].at, Event::Fault(index));
        }
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.planned += 1;
        self.events.push(at.max(self.now), self.planned, event);
    }

    pub(crate) fn after(&mut self, microseconds: u64, event: Event) {
        self.at(self.now + microseconds, event);
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn place_of(&self, region: &RegionId) -> Option<usize> {
        self.map.regions.iter().position(|known| known == region)
    }

    /// Runs until a time, in microseconds.
    pub(crate) fn run_until(&mut self, end: u64) {
        let most = EVENTS_A_SECOND * (self.now.max(end) / SECOND + 60);
        while self.planned < most
            && let Some((at, event)) = self.events.pop_until(end)
        {
            self.now = at;
            match event.region() {
                Some(region) if self.regions[region].paused > 0 => self.regions[region].held.push(event),
                _ => self.happen(event),
            }
        }
        if self.planned >= most && self.broken.is_empty() {
            self.broken.push(format!("{most} things happened within {} s: some of them go on for ever", end / SECOND));
        }
        self.now = end;
    }

    fn is_current(&self, region: usize, start: u64) -> bool {
        self.regions[region].core.is_some() && self.regions[region].start == start
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Written { region, start } if self.is_current(region, start) => self.written(region),
            Event::Answer { region, start, input } if self.is_current(region, start) => self.input(region, *input),
            Event::DedupReads { region, start, key } if self.is_current(region, start) => {
                let record = self.regions[region].disk.dedup(&key);
                let input = Box::new(Input::Dedup(*key, record));
                let took = self.regions[region].random.between(0, 1_000);
                self.after(took, Event::Answer { region, start, input });
            }
            Event::Reads { region, start, effect } if self.is_current(region, start) => self.read(region, *effect),
            Event::Struck { region, start } if self.is_current(region, start) => self.struck(region),
            Event::Keep { region, start } if self.is_current(region, start) => self.keep(region, start),
            Event::Presence { region, start, said } if self.is_current(region, start) => {
                self.presence_said(region, *said);
            }
            Event::Typing { region, start, connection, said } if self.is_current(region, start) => {
                self.typing_said(region, connection, said);
            }
            Event::MapTell { to, start, told } if self.is_current(to, start) => self.map_tell(to, &told),
            Event::Written { .. }
            | Event::Answer { .. }
            | Event::DedupReads { .. }
            | Event::Reads { .. }
            | Event::Struck { .. }
            | Event::Keep { .. }
            | Event::Presence { .. }
            | Event::Typing { .. }
            | Event::MapTell { .. } => {}
            Event::Frame { from, to, connection, body } => self.arrive(from, to, connection, body),
            Event::Notices { side, peer, connection } => self.notice(side, peer, connection),
            Event::Tick(region) => {
                self.input(region, Input::Tick);
                self.presence_tick(region);
                self.push_round(region);
                self.typing_round(region);
                self.media_round(region);
                self.look_at_waits(region);
                self.close_drained(region);
                self.after(TICK, Event::Tick(region));
            }
            Event::AntiEntropy(region) => self.anti_entropy(region),
            Event::CopyStore(region) => self.copy_store(region),
            Event::Links => {
                self.connect_links();
                self.after(LINKS, Event::Links);
            }
            Event::Fault(index) => self.fault(index),
            Event::FaultEnds(index) => self.fault_ends(index),
            Event::Client(client) => self.client(client),
            Event::Sent { region, connection, sending } => self.sent(region, connection, *sending),
            Event::Begin { connection, conversation } => self.begin_with(connection, conversation),
            Event::Errand(errand) => self.errand(errand),
            Event::Churn(conversation) => self.churn(conversation),
            Event::Visitors => self.visitors_come(),
            Event::Slot(connection) => self.slot_comes(connection),
            Event::MapLook => self.map_look(),
            Event::FenceByHand(region, until) => self.fence_by_hand(region, until),
            Event::MapAsk { leader, proposal } => self.map_ask(leader, proposal),
            Event::MapCommit { leader, proposal } => self.map_commit(leader, &proposal),
            Event::MapSeen { region, map } => self.map_seen(region, map),
        }
    }

    fn anti_entropy(&mut self, region: usize) {
        self.after(ANTI_ENTROPY, Event::AntiEntropy(region));
        let wall = self.regions[region].clock.wall(self.now);
        self.regions[region].disk.take_expired(wall);
        self.regions[region].disk.take_deleted();
        let erased = self.regions[region].disk.take_forgotten();
        self.media_swept(region);
        if self.regions[region].core.is_none() {
            return;
        }
        for (log, user, at) in erased {
            self.input(region, Input::Erased(log, user, at));
        }
        self.input(region, Input::AntiEntropy);
        for peer in 0..self.regions.len() {
            self.compare(region, peer);
        }
        self.exchange_receipts(region);
        self.sweep_outbox(region);
        self.look_at_bounds(region);
    }

    fn look_at_bounds(&mut self, region: usize) {
        let Some(core) = &self.regions[region].core else { return };
        let gauges = core.gauges();
        let parked = region_model::ParkingBounds::default().messages;
        for (what, value, bound) in [("parked sends", gauges.parked, parked), ("forwards", gauges.forwards, 65_536)] {
            self.history.add(self.now, history::Event::Bound { what, value, bound });
        }
    }

    /// A region remembers a placement: epochs that open are counted, and their loss statements go into the history.
    pub(crate) fn placement_seen(&mut self, placement: &Placement) {
        let known = self.epochs.entry(placement.log).or_insert(1);
        if placement.epoch.0 <= *known {
            return;
        }
        *known = placement.epoch.0;
        self.typing.has_moved(placement.log, self.now);
        self.trace.count(self.now, "opening", placement.epoch.0, placement.first);
        let (Some(loss), Some(conversation)) = (&placement.loss, placement.log.as_conversation()) else { return };
        self.trace.count(self.now, "loss-statement", loss.epoch.0, loss.from);
        let sequence = hearth_protocol::Sequence(loss.from);
        let event = history::Event::Loss {
            conversation,
            from: hearth_protocol::Position { epoch: loss.epoch, sequence },
            below: placement.epoch.0,
            covered_copies: usize::try_from(loss.covered_copies).unwrap_or(usize::MAX),
        };
        self.history.add(self.now, event);
    }
}
