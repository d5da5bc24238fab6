//! The core of a region: routes commands to homes, homes to replicas, and parks what cannot go.
//!
//! One value, one thread, no wait: every input is handled to its end, and what follows from it is in the effects.

mod abandon;
mod failover;
mod frames;
mod gauges;
mod homes;
mod input;
mod joining;
mod links;
mod lookups;
mod moves;
mod parked;
mod partition;
mod pulls;
mod rounds;
mod routing;
mod standing;
mod tails;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use hearth_protocol::{DeviceId, ErrorCode, LogId, Placement, Refusal, RegionId, SealedEntry, UserId, mesh};

use crate::command::Command;
use crate::effect::{Effect, SendKey};
use crate::home::{LinksUp, RetryCheck};
use crate::log::{Log, Waiter};
use crate::mutants::Mutant;
use crate::ownership::{Migration, Right};
use crate::parking::ParkingLot;
use crate::ports::LoadedLog;
use crate::region_map::MapState;
use crate::succession::{Owned, OwnedWrite};
use crate::view::Bounds;
pub use input::{CoreOptions, Input, Now};
pub(crate) use parked::is_passing;
use pulls::pull_page;
pub use standing::{CopyStanding, ParkedStanding, Standing};

/// A forward that the home holds and does not answer within this is offered again: the answer may be lost.
const HELD_PATIENCE_MILLISECONDS: u64 = 30_000;
/// How often parked sends are looked through for those that waited too long.
const OVERDUE_EVERY_MILLISECONDS: u64 = 1_000;
/// Parked sends of one conversation on their way at a time.
const RELEASE_WINDOW: usize = 256;
/// Commands on their way to other regions; above it more are refused `OVERLOADED`.
const FORWARDS: usize = 65_536;
/// Inputs that wait for one log to be loaded or placed; above it commands and queries are refused `OVERLOADED`, and
/// frames are dropped: their cursors bring them again.
const WAITING_FOR_LOG: usize = 4_096;
/// Sends whose connection is remembered, so that it gets the ack and not the delivery.
const AWAITING: usize = 65_536;

/// What the parts of the core share while one input is handled.
pub(crate) struct Context<'a, R> {
    pub(crate) me: &'a RegionId,
    pub(crate) regions: &'a [RegionId],
    pub(crate) now: Now,
    pub(crate) bounds: &'a Bounds,
    /// Milliseconds after which who waits for copies is told so.
    pub(crate) copies_patience: u64,
    pub(crate) links_up: &'a LinksUp,
    /// Whether this region is the log's home and has the right to sequence under its placement.
    pub(crate) sequences: bool,
    /// Commits of the step that change promises or lines.
    pub(crate) owned: &'a mut Vec<Owned>,
    /// Commands that cannot be decided here any more.
    pub(crate) homeless: &'a mut Vec<(Command, [u8; 16], Waiter<R>)>,
    pub(crate) effects: &'a mut Vec<Effect<R>>,
    pub(crate) retries: &'a mut Vec<RetryCheck<R>>,
    pub(crate) placed: &'a mut Vec<Placement>,
    awaiting: &'a mut Awaiting<R>,
}

impl<R> Context<'_, R> {
    /// The connection that waits for the ack of an entry that this region forwarded.
    pub(crate) fn take_awaiting(&mut self, log: LogId, entry: &SealedEntry) -> Option<R> {
        if self.awaiting.replies.is_empty() {
            return None;
        }
        let fixed = &entry.entry.fixed;
        self.awaiting.replies.remove(&(log, fixed.sender.clone(), fixed.id))
    }

    /// The sender of entries that the region makes itself.
    pub(crate) fn region_as_sender(&self) -> UserId {
        region_sender(self.me)
    }
}

/// The sender of entries that a region makes itself: `region:<name>`.
#[must_use]
pub fn region_sender(region: &RegionId) -> UserId {
    UserId::new(format!("region:{region}")).expect("a region's name has at most 32 of a user id's characters")
}

/// Connections whose sends went to another region; the oldest are forgotten first.
#[derive(Debug)]
struct Awaiting<R> {
    replies: BTreeMap<SendKey, R>,
    order: VecDeque<SendKey>,
}

impl<R> Awaiting<R> {
    fn insert(&mut self, key: SendKey, reply: R) {
        while self.order.len() >= AWAITING {
            if let Some(oldest) = self.order.pop_front() {
                self.replies.remove(&oldest);
            }
        }
        self.order.push_back(key.clone());
        self.replies.insert(key, reply);
    }
}

/// An input that waits for a log to be loaded.
#[derive(Debug)]
enum Waiting<R> {
    /// `again` is set for one that this region had sequenced as a home: it stands before what its device had parked.
    Command {
        command: Command,
        salt: [u8; 16],
        waiter: Waiter<R>,
        again: bool,
    },
    Query {
        ask: bool,
        reply: R,
    },
    Frame(RegionId, Box<mesh::Body>, Vec<Arc<SealedEntry>>),
    PlacementQuestion {
        peer: RegionId,
        request_id: u64,
        about: LogId,
    },
    Lookup {
        about: LogId,
    },
    Follow {
        hold: bool,
    },
    /// A placement leaves this region out.
    LeftOut,
    Release,
    LinkUp(RegionId),
    Compare(RegionId, mesh::Length),
    /// This region may have to open an epoch.
    Open,
    /// This region opened an epoch with a commit after which the log was read again.
    Opened,
    /// This region stewards a slot: it opens its placement log and looks for homes that are fenced.
    Steward,
    /// A voter's store of a new incarnation asks to count for a placement log.
    Join,
    Move {
        to: RegionId,
        /// Voters from then on; as they are where none are named.
        voters: Option<Vec<RegionId>>,
        reply: R,
    },
}

/// What this region does about a log that it does not vote for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Following {
    /// It wants to hold it, and its home could not be asked yet.
    Wanted,
    /// Its home was asked to send it. After a link failure it is asked again.
    Asked(RegionId),
    /// It wants it no longer. What it had is not shown.
    Left,
}

#[derive(Debug)]
enum Slotted<R> {
    Loading(Vec<Waiting<R>>),
    Ready(Box<Log<R>>),
}

/// A command on its way to another region.
#[derive(Debug)]
struct Forwarded<R> {
    command: Command,
    home: RegionId,
    reply: Option<R>,
    device: Option<DeviceId>,
    /// Without an answer by then, in milliseconds, it is taken back.
    patience_ends: u64,
    parked: Option<u64>,
    /// Whether it is of a tail that comes back.
    tail: bool,
}

impl<R> Forwarded<R> {
    /// Whether it is to be sequenced in the order in which it went out.
    fn is_in_order(&self) -> bool {
        self.device.is_some() || self.tail
    }
}

/// Those who wait for a placement from a steward.
#[derive(Debug)]
struct Lookup<R> {
    waiting: Vec<Waiting<R>>,
    asked_at: u64,
    request_id: Option<u64>,
}

/// The core of one region. `R` names whoever waits for a reply in the shell; clones of it are cheap.
#[derive(Debug)]
pub struct RegionCore<R> {
    options: CoreOptions,
    logs: BTreeMap<LogId, Slotted<R>>,
    links_up: LinksUp,
    forwards: BTreeMap<u64, Forwarded<R>>,
    next_id: u64,
    lookups: BTreeMap<LogId, Lookup<R>>,
    lot: ParkingLot<R>,
    awaiting: Awaiting<R>,
    retries: BTreeMap<u64, RetryCheck<R>>,
    waiting_for_copies: BTreeSet<LogId>,
    follows: BTreeMap<LogId, Following>,
    /// Logs in memory with an open range.
    open: BTreeSet<LogId>,
    overdue_checked: u64,
    /// The region map; without one the configured regions steward.
    map: Option<Arc<MapState>>,
    /// Every region of the mesh.
    regions: Vec<RegionId>,
    /// The right as it was when the last input came.
    right: Right,
    /// Whether this region's store counts.
    store: joining::Store,
    /// By log, commits on their way that change promises or lines.
    owned: BTreeMap<LogId, VecDeque<OwnedWrite>>,
    /// Inputs that wait for this region to open an epoch, or for a hash.
    held: BTreeMap<LogId, Vec<Waiting<R>>>,
    /// Homes here that promised a newer epoch, and since when in milliseconds.
    sealed_homes: BTreeMap<LogId, u64>,
    /// Marks that homes told, of logs that are being read again.
    told: BTreeMap<LogId, u64>,
    /// Rounds of forwards, by log.
    rounds: rounds::Rounds,
    /// Placements that came while their log was being read.
    learned: BTreeMap<LogId, Placement>,
    failovers: failover::Failovers,
    /// Of logs that left memory, the time of the last entry, for a failover; the ones with the oldest are forgotten first.
    left_memory: BTreeMap<LogId, hearth_protocol::Timestamp>,
    moves: BTreeMap<LogId, moves::Move<R>>,
    tails: BTreeMap<LogId, tails::Tail>,
}

/// Numbers for `/metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreGauges {
    /// Logs in memory.
    pub loaded_logs: usize,
    /// Commands on their way to other regions.
    pub forwards: usize,
    /// Parked sends.
    pub parked: usize,
    /// Logs that this region, as a steward, is giving a home.
    pub failing_over: usize,
    /// Placement logs, and other logs in memory, for which this region's store does not count yet.
    pub joining: usize,
    /// Logs whose tails are not settled under their present home.
    pub tails: usize,
    /// Entries that each replica region lacks, over the logs in memory.
    pub lag: BTreeMap<RegionId, u64>,
}

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    /// A core that knows nothing yet.
    #[must_use]
    pub fn new(options: CoreOptions) -> Self {
        Self {
            lot: ParkingLot::new(options.parking),
            regions: options.map.regions.clone(),
            options,
            logs: BTreeMap::new(),
            links_up: LinksUp::new(),
            forwards: BTreeMap::new(),
            next_id: 1,
            lookups: BTreeMap::new(),
            awaiting: Awaiting { replies: BTreeMap::new(), order: VecDeque::new() },
            retries: BTreeMap::new(),
            waiting_for_copies: BTreeSet::new(),
            follows: BTreeMap::new(),
            open: BTreeSet::new(),
            overdue_checked: 0,
            map: None,
            right: Right::default(),
            store: joining::Store::default(),
            owned: BTreeMap::new(),
            held: BTreeMap::new(),
            sealed_homes: BTreeMap::new(),
            told: BTreeMap::new(),
            rounds: rounds::Rounds::default(),
            learned: BTreeMap::new(),
            failovers: failover::Failovers::default(),
            left_memory: BTreeMap::new(),
            moves: BTreeMap::new(),
            tails: BTreeMap::new(),
        }
    }

    /// Handles one input; what follows is added to `effects`.
    pub fn handle(&mut self, input: Input<R>, now: Now, effects: &mut Vec<Effect<R>>) {
        self.confirm_store(now, effects);
        if self.right != now.right {
            self.right_changed(now, effects);
        }
        match input {
            Input::Command { command, salt, reply, device } => {
                let waiter = Waiter::Local { reply, device, retry: false };
                self.on_log(command.log, Waiting::Command { command, salt, waiter, again: false }, now, effects);
            }
            Input::Query { log, ask, reply } => self.on_log(log, Waiting::Query { ask, reply }, now, effects),
            Input::Loaded(log, loaded) => self.loaded(log, *loaded, now, effects),
            Input::Dedup(key, record) => {
                self.with_log(key.log, now, effects, |log, context| log.dedup_answer(&key, record, context));
            }
            Input::Target(key, found) => {
                self.with_log(key.log, now, effects, |log, context| log.target_found(&key, &found, context));
            }
            Input::Appended { log, length, change, ranges, promises } => {
                self.tell_lines(log, promises, effects);
                self.appended(log, length, change, ranges, now, effects);
                self.promised(log, promises, now, effects);
            }
            Input::HashesRead { log, sequence, entries } => self.hashes_read(log, sequence, &entries, now, effects),
            Input::TailPage { log, entries } => self.tail_page(log, &entries, now, effects),
            Input::TailsAtStart(logs) => self.tails_at_start(logs),
            Input::Map(map) => self.map_changed(map, now, effects),
            Input::AcceptLoss(region, fence) => self.accept_loss(region, fence, now, effects),
            Input::Move { log, to, reply } => {
                self.on_log(log, Waiting::Move { to, voters: None, reply }, now, effects);
            }
            Input::ChangeVoters { log, to, voters, reply } => {
                self.on_log(log, Waiting::Move { to, voters: Some(voters), reply }, now, effects);
            }
            Input::ReplicaPage { log, peer, from, entries } => {
                let home_here = self.home_here(log);
                self.with_log(log, now, effects, |log, context| {
                    if home_here {
                        log.replica_page(&peer, from, &entries, context);
                    }
                });
            }
            Input::PullPage { log, peer, from, to, entries } => pull_page(log, peer, from, to, &entries, effects),
            Input::RetryRead(ticket, entry) => self.retry_read(ticket, entry, now, effects),
            Input::Parked(number) => self.parked(number, now, effects),
            Input::ParkedAtStart(sends) => self.parked_at_start(sends),
            Input::DeviceConnected(user, device) => self.device_connected(&user, device, effects),
            Input::RefusalTold(number) => self.refusal_told(number, effects),
            Input::Erased(log, user, at) => self.erase_parked(log, &user, at, effects),
            Input::LinkUp(peer) => self.link_up(peer, now, effects),
            Input::LinkDown(peer) => self.link_down(&peer, now, effects),
            Input::Frame { peer, body, entries, salt } => self.frame(peer, body, entries, salt, now, effects),
            Input::Follow { log, hold } => self.on_log(log, Waiting::Follow { hold }, now, effects),
            Input::Forget(log) => {
                if self.follows.get(&log) == Some(&Following::Left) {
                    self.logs.remove(&log);
                    self.open.remove(&log);
                }
            }
            Input::CompareHomes(peer, lengths) => self.compare_homes(&peer, lengths, effects),
            Input::Tick => self.tick(now, effects),
            Input::AntiEntropy if Mutant::AntiEntropyOff.is_on() => {}
            Input::AntiEntropy => self.anti_entropy(now, effects),
        }
    }

    /// Runs `step` on a log in memory, with everything that the step may touch.
    fn with_log(
        &mut self,
        id: LogId,
        now: Now,
        effects: &mut Vec<Effect<R>>,
        step: impl FnOnce(&mut Log<R>, &mut Context<'_, R>),
    ) {
        let Some(Slotted::Ready(log)) = self.logs.get_mut(&id) else { return };
        log.used_at = now.monotonic;
        log.store = self.store.incarnation;
        let (mut retries, mut placed, mut owned, mut homeless) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut context = Context {
            me: &self.options.me,
            regions: &self.regions,
            sequences: homes::covers(now.right, &self.options.me, log),
            owned: &mut owned,
            homeless: &mut homeless,
            now,
            bounds: &self.options.bounds,
            copies_patience: self.options.copies_patience(),
            links_up: &self.links_up,
            effects,
            retries: &mut retries,
            placed: &mut placed,
            awaiting: &mut self.awaiting,
        };
        step(log, &mut context);
        if log.has_waiters() {
            self.waiting_for_copies.insert(id);
        } else if !self.waiting_for_copies.is_empty() {
            self.waiting_for_copies.remove(&id);
        }
        if log.ranges.open.is_some() {
            self.open.insert(id);
        } else if !self.open.is_empty() {
            self.open.remove(&id);
        }
        if log.is_sealed_home(&self.options.me) {
            self.sealed_homes.entry(id).or_insert(now.monotonic);
        }
        for owned in owned {
            self.owned_step(id, owned, effects);
        }
        for (command, salt, waiter) in homeless {
            self.homeless(command, salt, waiter, now, effects);
        }
        for check in retries {
            let ticket = self.new_id();
            effects.push(Effect::ReadForRetry { log: id, sequence: check.ack.position.sequence.0, ticket });
            self.retries.insert(ticket, check);
        }
        for placement in placed {
            self.placement_learned(placement, now, effects);
        }
    }

    fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Handles an input about a log, now or once it is loaded.
    fn on_log(&mut self, id: LogId, waiting: Waiting<R>, now: Now, effects: &mut Vec<Effect<R>>) {
        match self.logs.get_mut(&id) {
            Some(Slotted::Ready(log)) => {
                log.used_at = now.monotonic;
                self.on_ready(id, waiting, now, effects);
            }
            Some(Slotted::Loading(queue)) if queue.len() < WAITING_FOR_LOG => queue.push(waiting),
            Some(Slotted::Loading(_)) => self.fail_waiting(id, vec![waiting], &too_many_waiting(), effects),
            None => {
                self.logs.insert(id, Slotted::Loading(vec![waiting]));
                effects.push(Effect::Load(id));
            }
        }
    }

    fn loaded(&mut self, id: LogId, mut loaded: LoadedLog, now: Now, effects: &mut Vec<Effect<R>>) {
        if let Some(slot) = id.placement_slot() {
            loaded.placement = Some(self.placement_log(slot));
        }
        if let Some(learned) = self.learned.remove(&id)
            && loaded.placement.as_ref().is_none_or(|known| known.epoch < learned.epoch)
        {
            loaded.placement = Some(learned);
        }
        // A newer home's word outlived the placement that made it one: the steward knows it.
        let accepted = loaded.record.as_ref().map(|record| record.accepted);
        loaded.placement.take_if(|known| accepted.is_some_and(|accepted| accepted > known.epoch));
        if !matches!(self.logs.get(&id), Some(Slotted::Loading(_))) {
            // Nobody asked: what is in memory knows more than what was read.
            return;
        }
        let mut log = Log::from_loaded(id, loaded, now.monotonic);
        let told = self.told.remove(&id);
        log.told_mark = log.told_mark.max(told.unwrap_or_default());
        let home_here = log.is_home_of(&self.options.me) && log.is_held();
        let unmarked = !log.pending.is_empty();
        let Some(Slotted::Loading(queue)) = self.logs.insert(id, Slotted::Ready(Box::new(log))) else { return };
        if home_here && unmarked {
            self.resume_unmarked(id, now, effects);
        }
        if told.is_some() && !home_here {
            self.with_log(id, now, effects, |log, context| log.show(context));
        }
        self.ensure_open(id, now, effects);
        for waiting in queue {
            self.on_ready(id, waiting, now, effects);
        }
    }

    /// A home goes on with entries whose copies it does not know: it counts its own and asks the voters for theirs.
    fn resume_unmarked(&mut self, id: LogId, now: Now, effects: &mut Vec<Effect<R>>) {
        self.with_log(id, now, effects, |log, context| {
            log.ensure_replicas(context);
            log.ask_voters(context);
            log.advance(context);
        });
    }

    fn on_ready(&mut self, id: LogId, waiting: Waiting<R>, now: Now, effects: &mut Vec<Effect<R>>) {
        match waiting {
            Waiting::Command { command, salt, waiter, again } => {
                self.route(command, salt, waiter, again, now, effects);
            }
            Waiting::Query { ask, reply } => self.query(id, ask, reply, now, effects),
            Waiting::Frame(peer, body, entries) => self.log_frame(id, &peer, &body, &entries, now, effects),
            Waiting::PlacementQuestion { peer, request_id, about } => {
                let placement = self.placed(id, about);
                // That there is none is known to the steward alone, while it is one.
                if placement.is_some() || self.numbers(id, now) {
                    effects.push(Effect::PlacementAnswer { peer, request_id, placement });
                }
            }
            Waiting::Lookup { about } => {
                let placement = self.placed(id, about);
                if placement.is_some() || self.numbers(id, now) {
                    self.lookup_answered(about, placement, now, effects);
                } else {
                    self.give_up_lookups(vec![about], effects);
                }
            }
            Waiting::Open => self.ensure_open(id, now, effects),
            Waiting::Opened => self.opened(id, now, effects),
            Waiting::Steward => self.steward(id, now, effects),
            Waiting::Join => self.join_placement_log(id, now, effects),
            Waiting::Move { to, voters, reply } => self.begin_move(id, to, voters, reply, now, effects),
            Waiting::Follow { hold: true } if self.placement_of(id).is_none() => {
                self.follows.insert(id, Following::Wanted);
                self.look_up(id, Waiting::Follow { hold: true }, now, effects);
            }
            Waiting::Follow { hold } => self.follow(id, hold, effects),
            Waiting::LeftOut => self.left_out(id, now, effects),
            Waiting::Release if self.placement_of(id).is_none() => {
                self.look_up(id, Waiting::Release, now, effects);
            }
            Waiting::Release => self.release(id, now, effects),
            Waiting::LinkUp(peer) => {
                let (home_here, opens) = (self.home_here(id), self.opens(id));
                self.with_log(id, now, effects, |log, context| match home_here {
                    true if opens => {}
                    true => log.replica_link_up(&peer, context),
                    false => log.resend_asked = None,
                });
            }
            Waiting::Compare(peer, length) => {
                self.with_log(id, now, effects, |log, context| log.compare(&peer, &length, context));
            }
        }
    }

    fn home_here(&self, id: LogId) -> bool {
        self.logs.get(&id).is_some_and(|slotted| self.is_home_in(slotted))
    }

    fn is_home_in(&self, slotted: &Slotted<R>) -> bool {
        match slotted {
            Slotted::Ready(log) => log.is_home_of(&self.options.me),
            Slotted::Loading(_) => false,
        }
    }

    fn placement_of(&self, id: LogId) -> Option<&Placement> {
        match self.logs.get(&id) {
            Some(Slotted::Ready(log)) => log.placement.as_ref(),
            Some(Slotted::Loading(_)) | None => None,
        }
    }
}

impl<R> Waiting<R> {
    /// Whether the region `peer` waits for an answer.
    fn is_from(&self, peer: &RegionId) -> bool {
        match self {
            Self::Command { waiter, .. } => waiter.is_from(peer),
            Self::PlacementQuestion { peer: asker, .. } => asker == peer,
            Self::Query { .. }
            | Self::Frame(..)
            | Self::Lookup { .. }
            | Self::Follow { .. }
            | Self::LeftOut
            | Self::Release
            | Self::LinkUp(_)
            | Self::Compare(..)
            | Self::Open
            | Self::Opened
            | Self::Steward
            | Self::Join
            | Self::Move { .. } => false,
        }
    }
}

fn home_unreachable(home: &RegionId) -> Refusal {
    Refusal::new(ErrorCode::HomeUnreachable, format!("region {home} is out of reach")).with_retry_after(5)
}

fn too_many_waiting() -> Refusal {
    Refusal::new(ErrorCode::Overloaded, "too many requests wait for this log").with_retry_after(1)
}
