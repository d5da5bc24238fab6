//! The loop that drives the core: inputs in, effects out. The only place that performs them.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hearth_protocol::client::encode_server_frame;
use hearth_protocol::mesh::{Body, MeshFrame, Response};
use hearth_protocol::record::Record;
use hearth_protocol::{LogId, Placement, Timestamp};
use prost::Message;
use region_model::delivery::HopBook;
use region_model::ports::{AppendOutcome, DedupKey, LogAppend, StoreError, TargetKey};
use region_model::session::{LineChanged, Skipped};
use region_model::{DeviceOutcome, Effect, Input, Lane, Now, RegionCore};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::delivery::hops::{Ask, Stands, of_session};
use crate::fail_point::fail_point;
use crate::fanout::{FanOut, Job};
use crate::region::{Region, salt};
use crate::reply::{ReplyTo, device_frame};

/// Inputs handled before their effects are performed together: what one commit may gather.
const BATCH: usize = 1_024;
/// Store operations under way at a time; above it the loop takes no new input (back-pressure).
const OPERATIONS: usize = 1_024;
/// Bytes of a page for a replica that is behind.
const PAGE_BYTES: usize = 1024 * 1024;
/// Bytes of entries of which the hashes are read at a time.
const HASHES_READ_BYTES: usize = 4 * 1024 * 1024;
const TICK: Duration = Duration::from_millis(100);

type Operation = Pin<Box<dyn Future<Output = Result<Vec<Input<ReplyTo>>, StoreError>> + Send>>;

/// Wall clock in milliseconds.
pub(crate) fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Wall clock in microseconds since the epoch.
pub(crate) fn wall_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The core with what it takes to perform its effects.
pub(crate) struct Runtime {
    region: Arc<Region>,
    core: RegionCore<ReplyTo>,
    fan_out: FanOut,
    inputs: mpsc::Receiver<Input<ReplyTo>>,
    asks: mpsc::Receiver<Ask>,
    hops: HopBook,
    operations: FuturesUnordered<Operation>,
    started: Instant,
    effects: Vec<Effect<ReplyTo>>,
    again: VecDeque<Input<ReplyTo>>,
}

/// What one batch of effects asks of the store.
#[derive(Default)]
struct StoreWork {
    appends: Vec<LogAppend>,
    dedup: Vec<DedupKey>,
    targets: Vec<TargetKey>,
    marks: Vec<(LogId, u64)>,
    placements: Vec<Placement>,
    park: Vec<hearth_protocol::record::ParkedSend>,
    unpark: Vec<u64>,
}

/// What the core is told of an append once it is durable.
struct Appending {
    log: LogId,
    length: u64,
    ranges: usize,
    promises: usize,
}

impl Runtime {
    pub(crate) fn new(
        region: Arc<Region>,
        core: RegionCore<ReplyTo>,
        (inputs, asks): (mpsc::Receiver<Input<ReplyTo>>, mpsc::Receiver<Ask>),
    ) -> Self {
        let others = region.options.map.regions.iter().filter(|other| *other != region.me()).cloned().collect();
        let hops = HopBook::new(region.options.explained_messages, others, rand::random(), wall_micros());
        let fan_out = FanOut::start(&region);
        Self {
            region,
            core,
            fan_out,
            inputs,
            asks,
            hops,
            operations: FuturesUnordered::new(),
            started: Instant::now(),
            effects: Vec::new(),
            again: VecDeque::new(),
        }
    }

    /// Runs until the store fails or every handle is gone.
    pub(crate) async fn run(mut self) {
        let mut tick = interval(TICK);
        let mut anti_entropy = interval(self.region.options.anti_entropy);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        anti_entropy.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        let mut failed = self.region.store.failed.subscribe();
        loop {
            let accepting = self.operations.len() < OPERATIONS;
            tokio::select! {
                biased;
                () = Region::until_failed(&mut failed) => break,
                Some(done) = self.operations.next(), if !self.operations.is_empty() => {
                    self.take_done(done);
                    while let Some(done) = next_ready(&mut self.operations).await {
                        self.take_done(done);
                    }
                }
                Some(ask) = self.asks.recv() => self.answer(ask),
                count = self.inputs.recv_many(&mut batch, BATCH), if accepting => {
                    if count == 0 { break }
                    self.again.extend(batch.drain(..));
                }
                _ = tick.tick() => {
                    // Ticks ask the store for more: while it does as much as it may, they wait, too.
                    if accepting {
                        self.again.push_back(Input::Tick);
                    }
                    *self.region.gauges.lock() = self.core.gauges();
                }
                _ = anti_entropy.tick(), if accepting && self.region.store.away().is_none() => {
                    self.again.push_back(Input::AntiEntropy);
                    self.region.compare_next_page();
                }
            }
            self.turn().await;
        }
        self.refuse_rest();
    }

    fn take_done(&mut self, done: Result<Vec<Input<ReplyTo>>, StoreError>) {
        match done {
            Ok(inputs) => self.again.extend(inputs),
            Err(error) => self.region.fail(&error.to_string()),
        }
    }

    fn now(&self) -> Now {
        let monotonic = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { monotonic, wall: wall(), right: self.region.ownership.right() }
    }

    /// Handles everything at hand, performs what follows, and goes on with what the store answered at once.
    async fn turn(&mut self) {
        while !self.again.is_empty() && self.region.store.failed.borrow().is_none() {
            let (now, at) = (self.now(), wall_micros());
            for input in self.again.drain(..) {
                self.hops.input(&input, of_session, at);
                self.core.handle(input, now, &mut self.effects);
            }
            let mut work = StoreWork::default();
            let effects = std::mem::take(&mut self.effects);
            for effect in effects {
                self.hops.effect(&effect, of_session, at);
                self.perform(effect, &mut work).await;
            }
            self.store(work).await;
        }
    }

    async fn perform(&mut self, effect: Effect<ReplyTo>, work: &mut StoreWork) {
        match effect {
            Effect::Append(append) => work.appends.push(*append),
            Effect::Dedup(key) => work.dedup.push(key),
            Effect::Target(key) => work.targets.push(key),
            Effect::PutMark(log, mark) => work.marks.push((log, mark)),
            Effect::PutPlacement(placement) => work.placements.push(placement),
            Effect::Park(send) => {
                self.region.refusals.stored(&send);
                work.park.push(*send);
            }
            Effect::Unpark(number) => {
                self.region.refusals.forgotten(number);
                work.unpark.push(number);
            }
            Effect::Reply(to, outcome) => {
                fail_point("before-ack");
                to.outcome(outcome);
            }
            Effect::View(to, view) => to.view(view),
            Effect::Send { peer, body, .. } if peer == *self.region.me() => {
                self.again.push_back(Input::Frame { peer, body: Box::new(body), entries: Vec::new(), salt: salt() });
            }
            Effect::Send { peer, lane, body } => self.send(&peer, lane, body),
            Effect::PlacementAnswer { peer, request_id, placement } => {
                let response = Response {
                    request_id,
                    status: if placement.is_some() { 200 } else { 404 },
                    body: placement.map(|placement| Bytes::from(placement.encode())).unwrap_or_default(),
                };
                self.send(&peer, Lane::Control, Body::Response(response));
            }
            Effect::Deliver { log, entry, audience, skip } => {
                fail_point("before-deliver");
                self.region.push_delivered(log);
                if let Some(conversation) = log.as_conversation() {
                    let skip = skip.and_then(|reply| reply.connection_id());
                    self.region.presence.delivered(&entry, &audience);
                    self.fan_out.deliver(conversation, Job::Entry { entry, audience, skip }).await;
                }
            }
            told @ (Effect::Began { .. } | Effect::LineChanged { .. }) => self.tell_sessions(told).await,
            Effect::HomeChanged(log) => self.region.home_changed(log),
            Effect::UserChanged { log, entry } => self.region.user_changed(log, &entry),
            Effect::Outbox(item) => {
                fail_point("before-outbox");
                self.region.outbox_ready(item);
            }
            Effect::Device { send, ended } => {
                let frame = encode_server_frame(&device_frame(&send, ended.clone()), None);
                if self.region.hub.to_device(&send.sender, send.device, &frame) {
                    self.hops.told_device(&send, &ended, wall_micros());
                    if matches!(ended, DeviceOutcome::Refused(_)) {
                        self.again.push_back(Input::RefusalTold(send.number));
                    }
                }
            }
            Effect::Fork { log, peer } => self.region.forked(log, &peer),
            Effect::Load(_)
            | Effect::ReadForReplica { .. }
            | Effect::ReadForPull { .. }
            | Effect::ReadHashes { .. }
            | Effect::ReadTail { .. }
            | Effect::ReadForRetry { .. } => self.read(effect).await,
        }
    }

    /// Answers what an explanation needs to know. Whoever asked may be gone.
    fn answer(&self, ask: Ask) {
        let at = wall_micros();
        match ask {
            Ask::Where { id, answer } => drop(answer.send(self.hops.conversations_of(id, at))),
            Ask::Stands { conversation, sought, answer } => {
                let log = LogId::conversation(conversation);
                drop(answer.send(Stands {
                    hops: sought.hops(&self.hops, conversation, at),
                    kept: self.hops.kept(at),
                    standing: self.core.standing(log, sought.name, sought.sequence, self.now()),
                }));
            }
        }
    }

    /// Tells sessions where what they see goes on.
    async fn tell_sessions(&mut self, effect: Effect<ReplyTo>) {
        match effect {
            Effect::Began { log, epoch, from, at, before, audience } => {
                if let Some(conversation) = log.as_conversation() {
                    let skipped = Skipped { conversation, epoch, from: from.max(1), at };
                    self.region.presence.touched(before.keys().chain(audience.keys()).cloned());
                    let job = Job::Skipped { skipped, held: from > 0, before, audience };
                    self.fan_out.deliver(conversation, job).await;
                }
            }
            Effect::LineChanged { log, line, audience } => {
                if let Some(conversation) = log.as_conversation() {
                    self.region.presence.touched(audience.keys().cloned());
                    let changed = LineChanged { conversation, line };
                    self.fan_out.deliver(conversation, Job::LineChanged { changed, audience }).await;
                }
            }
            _ => {}
        }
    }

    /// Performs an effect that reads the store.
    async fn read(&mut self, effect: Effect<ReplyTo>) {
        let store = self.region.stores.log.clone();
        let operation: Operation = match effect {
            Effect::Load(log) => {
                Box::pin(async move { Ok(vec![Input::Loaded(log, Box::new(store.load(log).await?))]) })
            }
            Effect::ReadForReplica { log, peer, from, to } => Box::pin(async move {
                let rows = usize::try_from(to - from).unwrap_or(usize::MAX);
                let entries = store.read(log, from, to, rows, PAGE_BYTES).await?;
                Ok(vec![Input::ReplicaPage { log, peer, from, entries }])
            }),
            Effect::ReadForPull { log, peer, from, to } => Box::pin(async move {
                let rows = usize::try_from(to - from).unwrap_or(usize::MAX);
                let entries = store.read(log, from, to, rows, PAGE_BYTES).await?;
                Ok(vec![Input::PullPage { log, peer, from, to, entries }])
            }),
            Effect::ReadForRetry { log, sequence, ticket } => Box::pin(async move {
                let entry = store.read(log, sequence, sequence + 1, 1, usize::MAX).await?.into_iter().next();
                Ok(vec![Input::RetryRead(ticket, entry)])
            }),
            Effect::ReadHashes { log, sequence, rows } => Box::pin(async move {
                let to = sequence.saturating_add(rows as u64);
                let entries = store.read(log, sequence, to, rows, HASHES_READ_BYTES).await?;
                Ok(vec![Input::HashesRead { log, sequence, entries }])
            }),
            Effect::ReadTail { log, after, rows } => Box::pin(async move {
                let entries = store.read_tail(log, after, rows).await?;
                Ok(vec![Input::TailPage { log, entries }])
            }),
            _ => return,
        };
        self.start(operation).await;
    }

    fn send(&mut self, peer: &hearth_protocol::RegionId, lane: Lane, body: Body) {
        fail_point(if matches!(body, Body::Append(_)) { "before-replicate" } else { "before-send" });
        let frame = MeshFrame { body: Some(body) };
        let taken = self.region.links.send(peer, lane, Bytes::from(frame.encode_to_vec())).is_ok();
        if let Some(body) = frame.body.filter(|_| taken) {
            self.hops.went(peer, &body, wall_micros());
        }
        if !taken {
            self.region.counters.frames_not_sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Hands a batch's store work over. Durable work first, in one call, so that it shares a commit.
    async fn store(&mut self, work: StoreWork) {
        let StoreWork { appends, dedup, targets, marks, placements, park, unpark } = work;
        if !appends.is_empty() {
            fail_point("before-append");
            self.append(appends).await;
        }
        if !park.is_empty() {
            let parking = self.region.stores.parking.clone();
            let numbers: Vec<u64> = park.iter().map(|send| send.number).collect();
            let store = async move {
                parking.park(park).await?;
                Ok(numbers.into_iter().map(Input::Parked).collect())
            };
            self.start(Box::pin(store)).await;
        }
        if !dedup.is_empty() {
            let store = self.region.stores.log.clone();
            let look = async move {
                let records = store.dedup(dedup.clone()).await?;
                Ok(dedup.into_iter().zip(records).map(|(key, record)| Input::Dedup(key, record)).collect())
            };
            self.start(Box::pin(look)).await;
        }
        for key in targets {
            let store = self.region.stores.log.clone();
            let look = async move {
                let found = store.target(key.clone()).await?;
                Ok(vec![Input::Target(key, Box::new(found))])
            };
            self.start(Box::pin(look)).await;
        }
        if !marks.is_empty() || !placements.is_empty() || !unpark.is_empty() {
            let stores = self.region.stores.clone();
            let put = async move {
                // A mark says that what is below it was told: placements are first.
                if !placements.is_empty() {
                    stores.placements.put_placements(placements).await?;
                }
                if !marks.is_empty() {
                    stores.log.put_marks(marks).await?;
                }
                if !unpark.is_empty() {
                    stores.parking.unpark(unpark).await?;
                }
                Ok(Vec::new())
            };
            self.start(Box::pin(put)).await;
        }
    }

    async fn append(&mut self, appends: Vec<LogAppend>) {
        let lengths: Vec<Appending> = appends
            .iter()
            .map(|append| Appending {
                log: append.log,
                length: append.end(),
                ranges: usize::from(append.changes_ranges()),
                promises: usize::from(append.promises),
            })
            .collect();
        let region = self.region.clone();
        region.measures.append_entries.observe(lengths.len() as f64);
        let commit = async move {
            let began = Instant::now();
            let outcomes = region.stores.log.append(appends).await?;
            region.measures.append_seconds.observe(began.elapsed().as_secs_f64());
            fail_point("after-append");
            // Of each log its last length counts: what went into one commit goes to replicas in one frame.
            let mut durable: BTreeMap<LogId, (u64, Appending)> = BTreeMap::new();
            for (mut appending, outcome) in lengths.into_iter().zip(outcomes) {
                match outcome {
                    AppendOutcome::Applied { change } => {
                        if let Some((_, before)) = durable.get(&appending.log) {
                            appending.ranges += before.ranges;
                            appending.promises += before.promises;
                        }
                        durable.insert(appending.log, (change, appending));
                    }
                    AppendOutcome::Conflict { length: found, .. } => {
                        // One writer a store: a conflict means that the store is not what this region wrote.
                        let Appending { log, length, .. } = appending;
                        let reason = format!("{log} has {found} entries where this region wrote {length}");
                        return Err(StoreError::Unavailable(Arc::from(reason)));
                    }
                }
            }
            let appended = |(change, Appending { log, length, ranges, promises })| Input::Appended {
                log,
                length,
                change,
                ranges,
                promises,
            };
            Ok(durable.into_values().map(appended).collect())
        };
        self.start(Box::pin(commit)).await;
    }

    /// Starts an operation. One that is done at once is taken at once, without a turn of the scheduler.
    async fn start(&mut self, mut operation: Operation) {
        match futures_util::poll!(&mut operation) {
            Poll::Ready(done) => self.take_done(done),
            Poll::Pending => self.operations.push(operation),
        }
    }

    /// After a failure nothing is sequenced any more: whoever still asks is told.
    fn refuse_rest(mut self) {
        self.inputs.close();
        let mut replies = self.core.abandon();
        let queued = std::iter::from_fn(|| self.inputs.try_recv().ok());
        replies.extend(self.again.into_iter().chain(queued).filter_map(|input| match input {
            Input::Command { reply, .. } | Input::Query { reply, .. } => Some(reply),
            _ => None,
        }));
        for reply in replies {
            reply.outcome(region_model::Outcome::Refused(self.region.unavailable()));
        }
    }
}

async fn next_ready(operations: &mut FuturesUnordered<Operation>) -> Option<Result<Vec<Input<ReplyTo>>, StoreError>> {
    match futures_util::poll!(operations.next()) {
        Poll::Ready(done) => done,
        Poll::Pending => None,
    }
}
