//! The core of a region: routes commands to homes, homes to replicas, and parks what cannot go.
//!
//! One value, one thread, no wait: every input is handled to its end, and what follows from it is in the effects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::client::QueuedReason;
use hearth_protocol::record::{DedupRecord, ParkedSend};
use hearth_protocol::{
    DeviceId, EntryKind, ErrorCode, LogId, LogKind, MessageId, Placement, Refusal, RegionId, RegionMap,
    SealedEntry, Slot, Timestamp, UserId, mesh,
};

use crate::command::{Command, Outcome};
use crate::effect::{DeviceOutcome, Effect, Lane, LogView, SendKey};
use crate::home::{LinksUp, RetryCheck, answer, length_of, other_content, same_content};
use crate::log::{Log, Waiter};
use crate::parking::{Parked, ParkingBounds, ParkingLot};
use crate::ports::{DedupKey, LoadedLog};
use crate::view::{Bounds, View};

/// A forward that is not answered within this is parked: the client hears something within 5 s.
const FORWARD_PATIENCE_MILLISECONDS: u64 = 3_500;
/// A question to a steward that is not answered within this is given up.
const LOOKUP_PATIENCE_MILLISECONDS: u64 = 3_000;
/// Parked sends of one conversation on their way at a time.
const RELEASE_WINDOW: usize = 256;
/// Sends whose connection is remembered, so that it gets the ack and not the delivery.
const AWAITING: usize = 65_536;

/// The time, as the shell read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back.
    pub monotonic: u64,
    /// Wall clock: decorates only.
    pub wall: Timestamp,
}

/// How a region's core is set up.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// This region.
    pub me: RegionId,
    /// The mesh.
    pub map: RegionMap,
    /// Bounds of decisions.
    pub bounds: Bounds,
    /// Bounds of the parking lot.
    pub parking: ParkingBounds,
    /// Logs that may be in memory; above it idle ones leave.
    pub loaded_logs: usize,
}

/// What happens to a region.
#[derive(Debug)]
pub enum Input<R> {
    /// Somebody here wants an entry appended somewhere.
    Command {
        /// What.
        command: Command,
        /// Fresh entropy for the content's salt.
        salt: [u8; 16],
        /// Whom to answer.
        reply: R,
        /// The device, for messages: they may be parked.
        device: Option<DeviceId>,
    },
    /// Somebody here wants to know of a log. With `ask`, a log unknown here is asked of its steward.
    Query {
        /// The log.
        log: LogId,
        /// Whether the steward may be asked.
        ask: bool,
        /// Whom to answer.
        reply: R,
    },
    /// The answer to `Effect::Load`.
    Loaded(LogId, Box<LoadedLog>),
    /// The answer to `Effect::Dedup`.
    Dedup(DedupKey, Option<DedupRecord>),
    /// The answer to `Effect::Append`.
    Appended {
        /// The log.
        log: LogId,
        /// Entries on disk now.
        length: u64,
        /// The region-wide number of this change.
        change: u64,
    },
    /// The answer to `Effect::ReadForReplica`.
    ReplicaPage {
        /// The log.
        log: LogId,
        /// The replica.
        peer: RegionId,
        /// First sequence read.
        from: u64,
        /// What was read.
        entries: Vec<Arc<SealedEntry>>,
    },
    /// The answer to `Effect::ReadForRetry`.
    RetryRead(u64, Option<Arc<SealedEntry>>),
    /// The answer to `Effect::Park`.
    Parked(u64),
    /// What the parking lot held when the region started.
    ParkedAtStart(Vec<ParkedSend>),
    /// A device connected here: it is told of refusals that are kept for it.
    DeviceConnected(UserId, DeviceId),
    /// A device has been told of a refusal.
    RefusalTold(u64),
    /// A link came up.
    LinkUp(RegionId),
    /// A link went down.
    LinkDown(RegionId),
    /// A frame of another region.
    Frame {
        /// Which.
        peer: RegionId,
        /// What it says.
        body: Box<mesh::Body>,
        /// The entries of an `Append`, decoded.
        entries: Vec<Arc<SealedEntry>>,
        /// Fresh entropy for the salt of a `Forward`.
        salt: [u8; 16],
    },
    /// This region wants to hold a log, or no longer.
    Follow {
        /// The log.
        log: LogId,
        /// `false` ends it.
        hold: bool,
    },
    /// Logs whose home is here, with replicas elsewhere: compared with what each replica has.
    CompareHomes(RegionId, Vec<mesh::Length>),
    /// Time passes; about every 100 ms.
    Tick,
    /// The anti-entropy period passed.
    AntiEntropy,
}

/// What the parts of the core share while one input is handled.
pub(crate) struct Context<'a, R> {
    pub(crate) me: &'a RegionId,
    pub(crate) regions: &'a [RegionId],
    pub(crate) now: Now,
    pub(crate) bounds: &'a Bounds,
    pub(crate) links_up: &'a LinksUp,
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
    Command { command: Command, salt: [u8; 16], waiter: Waiter<R>, device: Option<DeviceId> },
    Query { ask: bool, reply: R },
    Frame(RegionId, mesh::Body, Vec<Arc<SealedEntry>>),
    PlacementQuestion { peer: RegionId, request_id: u64, about: LogId },
    Lookup { about: LogId },
    Follow { hold: bool },
    Release,
    LinkUp(RegionId),
    Compare(RegionId, mesh::Length),
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
    sent_at: u64,
    parked: Option<u64>,
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
    /// Logs that this region wants to hold and whose home could not be asked yet.
    wanted: BTreeSet<LogId>,
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
    /// Entries that each replica region lacks, over the logs in memory.
    pub lag: BTreeMap<RegionId, u64>,
}

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    /// A core that knows nothing yet.
    #[must_use]
    pub fn new(options: CoreOptions) -> Self {
        Self {
            lot: ParkingLot::new(options.parking),
            options,
            logs: BTreeMap::new(),
            links_up: LinksUp::new(),
            forwards: BTreeMap::new(),
            next_id: 1,
            lookups: BTreeMap::new(),
            awaiting: Awaiting { replies: BTreeMap::new(), order: VecDeque::new() },
            retries: BTreeMap::new(),
            waiting_for_copies: BTreeSet::new(),
            wanted: BTreeSet::new(),
        }
    }

    /// Numbers for `/metrics`.
    #[must_use]
    pub fn gauges(&self) -> CoreGauges {
        let mut lag = BTreeMap::new();
        for peer in self.options.map.regions.iter().filter(|region| **region != self.options.me) {
            let behind = self.logs.values().map(|slotted| match slotted {
                Slotted::Ready(log) => log.lag_of(peer),
                Slotted::Loading(_) => 0,
            });
            lag.insert(peer.clone(), behind.sum());
        }
        CoreGauges { loaded_logs: self.logs.len(), forwards: self.forwards.len(), parked: self.lot.len(), lag }
    }

    /// Handles one input; what follows is added to `effects`.
    pub fn handle(&mut self, input: Input<R>, now: Now, effects: &mut Vec<Effect<R>>) {
        match input {
            Input::Command { command, salt, reply, device } => {
                let waiter = Waiter::Local { reply, retry: false };
                self.on_log(command.log, Waiting::Command { command, salt, waiter, device }, now, effects);
            }
            Input::Query { log, ask, reply } => self.on_log(log, Waiting::Query { ask, reply }, now, effects),
            Input::Loaded(log, loaded) => self.loaded(log, *loaded, now, effects),
            Input::Dedup(key, record) => {
                self.with_log(key.log, now, effects, |log, context| log.dedup_answer(&key, record, context));
            }
            Input::Appended { log, length, change } => self.appended(log, length, change, now, effects),
            Input::ReplicaPage { log, peer, from, entries } => {
                self.with_log(log, now, effects, |log, context| log.replica_page(&peer, from, &entries, context));
            }
            Input::RetryRead(ticket, entry) => self.retry_read(ticket, entry, effects),
            Input::Parked(number) => self.parked(number, now, effects),
            Input::ParkedAtStart(sends) => self.parked_at_start(sends),
            Input::DeviceConnected(user, device) => self.device_connected(&user, device, effects),
            Input::RefusalTold(number) => {
                if self.lot.remove(number).is_some() {
                    effects.push(Effect::Unpark(number));
                }
            }
            Input::LinkUp(peer) => self.link_up(peer, now, effects),
            Input::LinkDown(peer) => self.link_down(&peer, now, effects),
            Input::Frame { peer, body, entries, salt } => self.frame(peer, *body, entries, salt, now, effects),
            Input::Follow { log, hold } => self.on_log(log, Waiting::Follow { hold }, now, effects),
            Input::CompareHomes(peer, lengths) => self.compare_homes(&peer, lengths, effects),
            Input::Tick => self.tick(now, effects),
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
        let mut retries = Vec::new();
        let mut placed = Vec::new();
        let mut context = Context {
            me: &self.options.me,
            regions: &self.options.map.regions,
            now,
            bounds: &self.options.bounds,
            links_up: &self.links_up,
            effects,
            retries: &mut retries,
            placed: &mut placed,
            awaiting: &mut self.awaiting,
        };
        step(log, &mut context);
        let waits = log.has_waiters();
        if waits {
            self.waiting_for_copies.insert(id);
        } else {
            self.waiting_for_copies.remove(&id);
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
            Some(Slotted::Loading(queue)) => queue.push(waiting),
            None => {
                self.logs.insert(id, Slotted::Loading(vec![waiting]));
                effects.push(Effect::Load(id));
            }
        }
    }

    fn loaded(&mut self, id: LogId, mut loaded: LoadedLog, now: Now, effects: &mut Vec<Effect<R>>) {
        if let Some(slot) = id.placement_slot() {
            loaded.placement = Some(self.options.map.placement_log(slot));
        }
        let log = Log::from_loaded(id, loaded, now.monotonic);
        let home_here = self.is_home(log.placement.as_ref()) && log.is_held();
        let unmarked = !log.pending.is_empty();
        let Some(Slotted::Loading(queue)) = self.logs.insert(id, Slotted::Ready(Box::new(log))) else { return };
        if home_here && unmarked {
            self.resume_unmarked(id, now, effects);
        }
        for waiting in queue {
            self.on_ready(id, waiting, now, effects);
        }
    }

    /// A home goes on with entries whose copies it does not know: it counts its own and asks the voters for theirs.
    fn resume_unmarked(&mut self, id: LogId, now: Now, effects: &mut Vec<Effect<R>>) {
        self.with_log(id, now, effects, |log, context| {
            let peers: Vec<RegionId> = context.links_up.iter().cloned().collect();
            log.ensure_replicas(context);
            for peer in peers {
                log.replica_link_up(&peer, context);
            }
            log.advance(context);
        });
    }

    fn is_home(&self, placement: Option<&Placement>) -> bool {
        placement.is_some_and(|placement| placement.home == self.options.me)
    }

    fn on_ready(&mut self, id: LogId, waiting: Waiting<R>, now: Now, effects: &mut Vec<Effect<R>>) {
        match waiting {
            Waiting::Command { command, salt, waiter, device } => {
                self.route(command, salt, waiter, device, now, effects);
            }
            Waiting::Query { ask, reply } => self.query(id, ask, reply, now, effects),
            Waiting::Frame(peer, body, entries) => self.log_frame(id, &peer, &body, &entries, now, effects),
            Waiting::PlacementQuestion { peer, request_id, about } => {
                let placement = self.placed(id, about);
                effects.push(Effect::PlacementAnswer { peer, request_id, placement });
            }
            Waiting::Lookup { about } => {
                let placement = self.placed(id, about);
                self.lookup_answered(about, placement, now, effects);
            }
            Waiting::Follow { hold: true } if self.placement_of(id).is_none() => {
                self.look_up(id, Waiting::Follow { hold: true }, now, effects);
            }
            Waiting::Follow { hold } => self.follow(id, hold, effects),
            Waiting::Release if self.placement_of(id).is_none() => {
                self.look_up(id, Waiting::Release, now, effects);
            }
            Waiting::Release => self.release(id, now, effects),
            Waiting::LinkUp(peer) => {
                let home_here = self.home_here(id);
                if home_here {
                    self.with_log(id, now, effects, |log, context| log.replica_link_up(&peer, context));
                }
            }
            Waiting::Compare(peer, length) => {
                self.with_log(id, now, effects, |log, context| log.compare(&peer, &length, context));
            }
        }
    }

    fn home_here(&self, id: LogId) -> bool {
        match self.logs.get(&id) {
            Some(Slotted::Ready(log)) => self.is_home(log.placement.as_ref()),
            Some(Slotted::Loading(_)) | None => false,
        }
    }

    fn placement_of(&self, id: LogId) -> Option<Placement> {
        match self.logs.get(&id) {
            Some(Slotted::Ready(log)) => log.placement.clone(),
            Some(Slotted::Loading(_)) | None => None,
        }
    }

    // Routing.

    fn route(
        &mut self,
        command: Command,
        salt: [u8; 16],
        waiter: Waiter<R>,
        device: Option<DeviceId>,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        let id = command.log;
        let Some(home) = (match self.logs.get(&id) {
            Some(Slotted::Ready(log)) => log.placement.as_ref().map(|placement| placement.home.clone()),
            Some(Slotted::Loading(_)) | None => None,
        }) else {
            self.look_up(id, Waiting::Command { command, salt, waiter, device }, now, effects);
            return;
        };
        if home == self.options.me {
            self.with_log(id, now, effects, |log, context| log.submit(command, salt, waiter, context));
            return;
        }
        match waiter {
            Waiter::Local { reply, .. } => self.send_home(command, home, reply, device, now, effects),
            Waiter::Peer { .. } => {
                let refusal = Refusal::new(ErrorCode::HomeUnreachable, "this region is not the home of the log");
                answer(waiter, Outcome::Refused(refusal), effects, id);
            }
        }
    }

    /// Sends a command to its home elsewhere, or parks it.
    fn send_home(
        &mut self,
        command: Command,
        home: RegionId,
        reply: R,
        device: Option<DeviceId>,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        if command.kind == EntryKind::Message {
            let key = (command.log, command.sender.clone(), command.id);
            self.awaiting.insert(key, reply.clone());
        }
        let behind = device.is_some_and(|device| self.lot.holds(command.log, &command.sender, device));
        if self.links_up.contains(&home) && !behind {
            self.forward(Forwarded {
                command,
                home,
                reply: Some(reply),
                device,
                sent_at: now.monotonic,
                parked: None,
            }, effects);
            return;
        }
        self.park(command, &home, reply, device, now, effects);
    }

    fn forward(&mut self, forwarded: Forwarded<R>, effects: &mut Vec<Effect<R>>) {
        let forward_id = self.new_id();
        effects.push(Effect::Send {
            peer: forwarded.home.clone(),
            lane: Lane::Log(forwarded.command.log),
            body: mesh::Body::Forward(forwarded.command.to_forward(forward_id)),
        });
        if let Some(number) = forwarded.parked
            && let Some(parked) = self.lot.get_mut(number)
        {
            parked.forward = Some(forward_id);
        }
        self.forwards.insert(forward_id, forwarded);
    }

    /// Parks a message; anything else is refused, since its sender waits for the answer.
    fn park(
        &mut self,
        command: Command,
        home: &RegionId,
        reply: R,
        device: Option<DeviceId>,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        let refused = |refusal| Effect::Reply(reply.clone(), Outcome::Refused(refusal));
        let (Some(device), EntryKind::Message, Some(conversation)) =
            (device, command.kind, command.log.as_conversation())
        else {
            effects.push(refused(home_unreachable(home)));
            return;
        };
        if let Some(Slotted::Ready(log)) = self.logs.get(&command.log)
            && let View::Conversation(state) = &log.view
            && !state.members.contains_key(&command.sender)
        {
            effects.push(refused(Refusal::no_conversation()));
            return;
        }
        if let Some(number) = self.lot.number_of(command.log, &command.sender, command.id) {
            self.park_again(number, &command, home, reply, effects);
            return;
        }
        if let Err(refusal) = self.lot.check_room(command.log, command.content.len()) {
            effects.push(refused(refusal));
            return;
        }
        let send = ParkedSend {
            number: self.lot.next_number(),
            conversation,
            sender: command.sender,
            device,
            id: MessageId(command.id),
            content: command.content,
            reply_to: command.reply_to,
            expires_at: command.expires_at,
            level: command.level,
            parked_at: now.wall,
            refused: None,
        };
        effects.push(Effect::Park(Box::new(send.clone())));
        self.lot.insert(Parked { send, durable: false, replies: vec![reply], forward: None });
    }

    /// The same message again, while it is parked: told again, not parked twice.
    fn park_again(
        &mut self,
        number: u64,
        command: &Command,
        home: &RegionId,
        reply: R,
        effects: &mut Vec<Effect<R>>,
    ) {
        let Some(parked) = self.lot.get_mut(number) else { return };
        if parked.send.content != command.content || parked.send.reply_to != command.reply_to {
            effects.push(Effect::Reply(reply, Outcome::Refused(other_content())));
        } else if parked.durable {
            let outcome = Outcome::Queued(QueuedReason::HomeUnreachable, home.clone());
            effects.push(Effect::Reply(reply, outcome));
        } else {
            parked.replies.push(reply);
        }
    }

    fn parked(&mut self, number: u64, now: Now, effects: &mut Vec<Effect<R>>) {
        let Some(parked) = self.lot.get_mut(number) else { return };
        parked.durable = true;
        let replies = std::mem::take(&mut parked.replies);
        let log = LogId::conversation(parked.send.conversation);
        let home = self.placement_of(log).map_or_else(|| self.options.me.clone(), |placement| placement.home);
        for reply in replies {
            let outcome = Outcome::Queued(QueuedReason::HomeUnreachable, home.clone());
            effects.push(Effect::Reply(reply, outcome));
        }
        self.release(log, now, effects);
    }

    fn parked_at_start(&mut self, sends: Vec<ParkedSend>) {
        for send in sends {
            self.lot.insert(Parked { send, durable: true, replies: Vec::new(), forward: None });
        }
    }

    /// Sends what is parked for a conversation, in order, as far as the window allows.
    fn release(&mut self, log: LogId, now: Now, effects: &mut Vec<Effect<R>>) {
        let ready = self.lot.ready(log);
        if ready.is_empty() {
            return;
        }
        let Some(home) = self.placement_of(log).map(|placement| placement.home) else {
            // Not in memory, or its placement is not known here: comes back here once it is.
            if !self.lookups.contains_key(&log) {
                self.on_log(log, Waiting::Release, now, effects);
            }
            return;
        };
        if !self.links_up.contains(&home) {
            return;
        }
        for number in ready.into_iter().take(RELEASE_WINDOW) {
            let Some(parked) = self.lot.get_mut(number) else { continue };
            let send = &parked.send;
            let command = Command {
                log,
                kind: EntryKind::Message,
                sender: send.sender.clone(),
                id: send.id.0,
                content: send.content.clone(),
                reply_to: send.reply_to,
                expires_at: send.expires_at,
                level: send.level,
                origin: self.options.me.clone(),
            };
            let device = Some(send.device);
            self.forward(Forwarded {
                command,
                home: home.clone(),
                reply: None,
                device,
                sent_at: now.monotonic,
                parked: Some(number),
            }, effects);
        }
    }

    fn answered(&mut self, peer: &RegionId, said: &mesh::Answer, now: Now, effects: &mut Vec<Effect<R>>) {
        let Some(outcome) = Outcome::from_answer(said, peer) else { return };
        let Some(forwarded) = self.forwards.get(&said.forward_id) else { return };
        let waits = matches!(outcome, Outcome::Queued(..));
        if let Some(number) = forwarded.parked {
            self.parked_answered(number, outcome, now, effects);
        } else if let Some(reply) = forwarded.reply.clone() {
            effects.push(Effect::Reply(reply, outcome));
        }
        if !waits {
            self.forwards.remove(&said.forward_id);
        }
    }

    /// The home answered for a parked send.
    fn parked_answered(&mut self, number: u64, outcome: Outcome, now: Now, effects: &mut Vec<Effect<R>>) {
        match outcome {
            Outcome::Acked(ack) => {
                if let Some(parked) = self.lot.remove(number) {
                    effects.push(Effect::Unpark(number));
                    let log = LogId::conversation(parked.send.conversation);
                    effects.push(Effect::Device { send: Box::new(parked.send), ended: DeviceOutcome::Acked(ack) });
                    self.release(log, now, effects);
                }
            }
            Outcome::Refused(refusal) => self.refuse_parked(number, refusal, effects),
            Outcome::Queued(_, home) => {
                if let Some(parked) = self.lot.get_mut(number) {
                    let send = Box::new(parked.send.clone());
                    effects.push(Effect::Device { send, ended: DeviceOutcome::CopiesMissing(home) });
                }
            }
        }
    }

    /// Keeps a refusal until its device has it.
    fn refuse_parked(&mut self, number: u64, refusal: Refusal, effects: &mut Vec<Effect<R>>) {
        let Some(parked) = self.lot.get_mut(number) else { return };
        parked.forward = None;
        parked.send.content = Bytes::new();
        parked.send.refused = Some((refusal.error.as_str().to_owned(), refusal.message.clone().into_owned()));
        let send = parked.send.clone();
        effects.push(Effect::Park(Box::new(send.clone())));
        effects.push(Effect::Device { send: Box::new(send), ended: DeviceOutcome::Refused(refusal) });
    }

    fn device_connected(&mut self, user: &UserId, device: DeviceId, effects: &mut Vec<Effect<R>>) {
        for send in self.lot.refusals(user, device) {
            let (code, message) = send.refused.clone().unwrap_or_default();
            let refusal = Refusal::new(ErrorCode::parse(&code), message);
            effects.push(Effect::Device { send: Box::new(send), ended: DeviceOutcome::Refused(refusal) });
        }
    }

    // Placements.

    /// Asks the steward where a log is.
    fn look_up(&mut self, id: LogId, waiting: Waiting<R>, now: Now, effects: &mut Vec<Effect<R>>) {
        if let Some(lookup) = self.lookups.get_mut(&id) {
            lookup.waiting.push(waiting);
            return;
        }
        let slot = Slot::of(&id);
        let steward = self.options.map.steward(slot).clone();
        let mut lookup = Lookup { waiting: vec![waiting], asked_at: now.monotonic, request_id: None };
        if steward == self.options.me {
            self.lookups.insert(id, lookup);
            self.on_log(LogId::placement(slot), Waiting::Lookup { about: id }, now, effects);
        } else if self.links_up.contains(&steward) {
            let request_id = self.new_id();
            lookup.request_id = Some(request_id);
            self.lookups.insert(id, lookup);
            let question = mesh::Question::Placement(Bytes::copy_from_slice(&id.to_bytes()));
            let body = mesh::Body::Request(mesh::Request { request_id, question: Some(question) });
            effects.push(Effect::Send { peer: steward, lane: Lane::Control, body });
        } else {
            self.fail_waiting(id, lookup.waiting, &home_unreachable(&steward), effects);
        }
    }

    /// A placement that counts: its entry is below the mark of its slot's log.
    fn placed(&self, slot_log: LogId, about: LogId) -> Option<Placement> {
        let Some(Slotted::Ready(log)) = self.logs.get(&slot_log) else { return None };
        let View::Placements(state) = &log.view else { return None };
        state.placed.get(&about).filter(|placed| placed.sequence < log.marked).map(|placed| placed.placement.clone())
    }

    fn lookup_answered(&mut self, id: LogId, placement: Option<Placement>, now: Now, effects: &mut Vec<Effect<R>>) {
        match placement {
            Some(placement) => {
                effects.push(Effect::PutPlacement(placement.clone()));
                self.placement_learned(placement, now, effects);
            }
            None => {
                if let Some(lookup) = self.lookups.remove(&id) {
                    let refusal = match id.kind {
                        LogKind::Conversation => Refusal::no_conversation(),
                        LogKind::User | LogKind::Placement => Refusal::new(ErrorCode::NotFound, "no such record"),
                    };
                    self.fail_waiting(id, lookup.waiting, &refusal, effects);
                }
            }
        }
    }

    /// A placement is known here: what waited for it goes on.
    fn placement_learned(&mut self, placement: Placement, now: Now, effects: &mut Vec<Effect<R>>) {
        let id = placement.log;
        if let Some(Slotted::Ready(log)) = self.logs.get_mut(&id) {
            if log.placement.as_ref().is_none_or(|known| known.epoch <= placement.epoch) {
                log.placement = Some(placement);
            }
        } else if self.lookups.contains_key(&id) {
            // A lookup waits on a log in memory; it can only have left meanwhile.
            self.logs.remove(&id);
        }
        if let Some(lookup) = self.lookups.remove(&id) {
            for waiting in lookup.waiting {
                self.on_log(id, waiting, now, effects);
            }
        }
    }

    /// Ends what waited for a placement in vain. A query is answered with what is known: nothing.
    fn fail_waiting(&mut self, id: LogId, waiting: Vec<Waiting<R>>, refusal: &Refusal, effects: &mut Vec<Effect<R>>) {
        for waiting in waiting {
            match waiting {
                Waiting::Command { waiter, .. } => answer(waiter, Outcome::Refused(refusal.clone()), effects, id),
                Waiting::Query { reply, .. } => {
                    if refusal.error == ErrorCode::HomeUnreachable {
                        effects.push(Effect::Reply(reply, Outcome::Refused(refusal.clone())));
                    } else {
                        effects.push(Effect::View(reply, Box::default()));
                    }
                }
                Waiting::Frame(..)
                | Waiting::PlacementQuestion { .. }
                | Waiting::Lookup { .. }
                | Waiting::Follow { .. }
                | Waiting::Release
                | Waiting::LinkUp(_)
                | Waiting::Compare(..) => {}
            }
        }
    }

    fn query(&mut self, id: LogId, ask: bool, reply: R, now: Now, effects: &mut Vec<Effect<R>>) {
        let view = match self.logs.get(&id) {
            Some(Slotted::Ready(log)) => log.view(),
            Some(Slotted::Loading(_)) | None => LogView::default(),
        };
        if ask && view.placement.is_none() {
            self.look_up(id, Waiting::Query { ask: false, reply }, now, effects);
        } else {
            effects.push(Effect::View(reply, Box::new(view)));
        }
    }

    // Replication.

    fn appended(&mut self, id: LogId, length: u64, change: u64, now: Now, effects: &mut Vec<Effect<R>>) {
        let home_here = self.home_here(id);
        self.with_log(id, now, effects, |log, context| {
            log.change = log.change.max(change);
            if home_here { log.appended(length, context) } else { log.applied(length, context) }
        });
    }

    fn frame(
        &mut self,
        peer: RegionId,
        body: mesh::Body,
        entries: Vec<Arc<SealedEntry>>,
        salt: [u8; 16],
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        match &body {
            mesh::Body::Forward(forward) => {
                let forward_id = forward.forward_id;
                let waiter = Waiter::Peer { peer, forward_id, retry: false };
                match Command::from_forward(forward) {
                    Some(command) => {
                        let waiting = Waiting::Command { salt, waiter, device: None, command };
                        let id = LogId::from_bytes(&forward.log).unwrap_or(LogId::placement(Slot(0)));
                        self.on_log(id, waiting, now, effects);
                    }
                    None => {
                        let refusal = Refusal::invalid("a forward that this region cannot read");
                        answer(waiter, Outcome::Refused(refusal), effects, LogId::placement(Slot(0)));
                    }
                }
            }
            mesh::Body::Answer(said) => self.answered(&peer, said, now, effects),
            mesh::Body::Append(append) => self.frame_for(append.log.clone(), peer, body, entries, now, effects),
            mesh::Body::Appended(said) => self.frame_for(said.log.clone(), peer, body, entries, now, effects),
            mesh::Body::Follow(follow) => self.frame_for(follow.log.clone(), peer, body, entries, now, effects),
            mesh::Body::Lengths(lengths) => {
                for length in lengths.logs.clone() {
                    if let Some(id) = LogId::from_bytes(&length.log) {
                        self.on_log(id, Waiting::Compare(peer.clone(), length), now, effects);
                    }
                }
            }
            mesh::Body::Request(request) => {
                if let Some(mesh::Question::Placement(bytes)) = &request.question
                    && let Some(about) = LogId::from_bytes(bytes)
                {
                    let waiting = Waiting::PlacementQuestion { peer, request_id: request.request_id, about };
                    self.on_log(LogId::placement(Slot::of(&about)), waiting, now, effects);
                }
            }
            mesh::Body::Response(response) => self.placement_response(response, now, effects),
        }
    }

    fn frame_for(
        &mut self,
        log: Bytes,
        peer: RegionId,
        body: mesh::Body,
        entries: Vec<Arc<SealedEntry>>,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        if let Some(id) = LogId::from_bytes(&log) {
            self.on_log(id, Waiting::Frame(peer, body, entries), now, effects);
        }
    }

    fn log_frame(
        &mut self,
        id: LogId,
        peer: &RegionId,
        body: &mesh::Body,
        entries: &[Arc<SealedEntry>],
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        let home_here = self.home_here(id);
        self.with_log(id, now, effects, |log, context| match body {
            mesh::Body::Append(append) if !home_here => log.apply(peer, append, entries, context),
            mesh::Body::Appended(said) if home_here => log.replica_appended(peer, said, context),
            mesh::Body::Follow(follow) if home_here && follow.unfollow => log.unfollow(peer),
            mesh::Body::Follow(follow) if home_here => log.follow(peer, follow.length, context),
            _ => {}
        });
    }

    fn placement_response(&mut self, response: &mesh::Response, now: Now, effects: &mut Vec<Effect<R>>) {
        let asked = self.lookups.iter().find(|(_, lookup)| lookup.request_id == Some(response.request_id));
        let Some(id) = asked.map(|(id, _)| *id) else { return };
        let placement = if response.status == 200 {
            <Placement as hearth_protocol::record::Record>::decode(&response.body).ok().filter(|found| found.log == id)
        } else {
            None
        };
        self.lookup_answered(id, placement, now, effects);
    }

    /// Asks the home of a log to send it, or says that it is not wanted any more.
    fn follow(&mut self, id: LogId, hold: bool, effects: &mut Vec<Effect<R>>) {
        let Some(Slotted::Ready(log)) = self.logs.get(&id) else { return };
        let Some(placement) = &log.placement else { return };
        let votes = placement.voters.contains(&self.options.me);
        if placement.home == self.options.me || votes {
            return;
        }
        if !self.links_up.contains(&placement.home) {
            if hold {
                self.wanted.insert(id);
            }
            return;
        }
        self.wanted.remove(&id);
        let body = mesh::Body::Follow(mesh::Follow {
            log: Bytes::copy_from_slice(&id.to_bytes()),
            length: log.durable,
            unfollow: !hold,
        });
        effects.push(Effect::Send { peer: placement.home.clone(), lane: Lane::Log(id), body });
        if !hold {
            self.logs.remove(&id);
        }
    }

    fn compare_homes(&self, peer: &RegionId, lengths: Vec<mesh::Length>, effects: &mut Vec<Effect<R>>) {
        // Logs in memory know more than the page that was read.
        let logs = lengths.into_iter().map(|length| match LogId::from_bytes(&length.log).and_then(|id| self.logs.get(&id)) {
            Some(Slotted::Ready(log)) => length_of(log),
            Some(Slotted::Loading(_)) | None => length,
        });
        let body = mesh::Body::Lengths(mesh::Lengths { logs: logs.collect() });
        effects.push(Effect::Send { peer: peer.clone(), lane: Lane::Bulk, body });
    }

    fn retry_read(&mut self, ticket: u64, entry: Option<Arc<SealedEntry>>, effects: &mut Vec<Effect<R>>) {
        let Some(check) = self.retries.remove(&ticket) else { return };
        let outcome = match entry {
            Some(entry) if !same_content(&entry, &check.command) => Outcome::Refused(other_content()),
            Some(_) | None => Outcome::Acked(check.ack),
        };
        answer(check.waiter, outcome, effects, check.command.log);
    }

    // Links and time.

    fn link_up(&mut self, peer: RegionId, now: Now, effects: &mut Vec<Effect<R>>) {
        self.links_up.insert(peer.clone());
        let ids: Vec<LogId> = self.logs.keys().copied().collect();
        for id in ids {
            self.on_log(id, Waiting::LinkUp(peer.clone()), now, effects);
        }
        for log in self.lot.logs() {
            self.release(log, now, effects);
        }
        for id in std::mem::take(&mut self.wanted) {
            self.on_log(id, Waiting::Follow { hold: true }, now, effects);
        }
    }

    fn link_down(&mut self, peer: &RegionId, now: Now, effects: &mut Vec<Effect<R>>) {
        self.links_up.remove(peer);
        for slotted in self.logs.values_mut() {
            if let Slotted::Ready(log) = slotted {
                log.replica_link_down(peer);
            }
        }
        let broken: Vec<u64> =
            self.forwards.iter().filter(|(_, forwarded)| forwarded.home == *peer).map(|(id, _)| *id).collect();
        self.withdraw(broken, now, effects);
        let asked: Vec<LogId> = self
            .lookups
            .iter()
            .filter(|(id, lookup)| {
                lookup.request_id.is_some() && self.options.map.steward(Slot::of(id)) == peer
            })
            .map(|(id, _)| *id)
            .collect();
        self.give_up_lookups(asked, effects);
    }

    /// Takes back forwards whose answer is not to be expected: messages are parked in their order, others refused.
    fn withdraw(&mut self, forward_ids: Vec<u64>, now: Now, effects: &mut Vec<Effect<R>>) {
        let ids: BTreeSet<u64> = forward_ids.into_iter().collect();
        self.lot.recall(&ids);
        for id in ids {
            let Some(forwarded) = self.forwards.remove(&id) else { continue };
            let Forwarded { command, home, reply, device, .. } = forwarded;
            if let Some(reply) = reply {
                self.park(command, &home, reply, device, now, effects);
            }
        }
    }

    fn give_up_lookups(&mut self, ids: Vec<LogId>, effects: &mut Vec<Effect<R>>) {
        for id in ids {
            if let Some(lookup) = self.lookups.remove(&id) {
                let steward = self.options.map.steward(Slot::of(&id)).clone();
                self.fail_waiting(id, lookup.waiting, &home_unreachable(&steward), effects);
            }
        }
    }

    fn tick(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        let late: Vec<u64> = self
            .forwards
            .iter()
            .filter(|(_, forwarded)| now.monotonic >= forwarded.sent_at + FORWARD_PATIENCE_MILLISECONDS)
            .map(|(id, _)| *id)
            .collect();
        if !late.is_empty() {
            self.withdraw(late, now, effects);
        }
        let silent: Vec<LogId> = self
            .lookups
            .iter()
            .filter(|(_, lookup)| now.monotonic >= lookup.asked_at + LOOKUP_PATIENCE_MILLISECONDS)
            .map(|(id, _)| *id)
            .collect();
        self.give_up_lookups(silent, effects);
        let waiting: Vec<LogId> = self.waiting_for_copies.iter().copied().collect();
        for id in waiting {
            self.with_log(id, now, effects, |log, context| log.tell_queued(context));
        }
        for number in self.lot.overdue(now.wall.0) {
            let refusal = Refusal::new(ErrorCode::Expired, "the home was out of reach for longer than sends are kept");
            self.refuse_parked(number, refusal, effects);
        }
    }

    fn anti_entropy(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        let homes: Vec<LogId> = self.logs.keys().copied().filter(|id| self.home_here(*id)).collect();
        for id in homes {
            self.with_log(id, now, effects, |log, context| log.ask_stalled(context));
        }
        for log in self.lot.logs() {
            self.release(log, now, effects);
        }
        self.evict(now);
    }

    /// Lets idle logs leave memory, oldest use first, when there are more than allowed.
    fn evict(&mut self, now: Now) {
        let over = self.logs.len().saturating_sub(self.options.loaded_logs);
        if over == 0 {
            return;
        }
        let mut idle: Vec<(u64, LogId)> = self
            .logs
            .iter()
            .filter_map(|(id, slotted)| match slotted {
                Slotted::Ready(log) if log.is_idle() && !self.lookups.contains_key(id) => Some((log.used_at, *id)),
                Slotted::Ready(_) | Slotted::Loading(_) => None,
            })
            .filter(|(used_at, _)| *used_at < now.monotonic)
            .collect();
        idle.sort_unstable();
        for (_, id) in idle.into_iter().take(over) {
            self.logs.remove(&id);
        }
    }
}

fn home_unreachable(home: &RegionId) -> Refusal {
    Refusal::new(ErrorCode::HomeUnreachable, format!("region {home} is out of reach")).with_retry_after(5)
}
