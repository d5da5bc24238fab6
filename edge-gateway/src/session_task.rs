//! The shell of a session: moves frames, events and time between a connection, the core and the machine.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use hearth_protocol::client::{CloseCode, ClosePayload, ServerFrame, encode_server_frame};
use hearth_protocol::rest::{ApiAnswer, SyncCursor};
use hearth_protocol::{DeviceId, ErrorCode, Refusal, UserId};
use region_core::{Connection, QueueBounds, Replay, SessionQuestion, SessionSent, Taken};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tracing::Instrument as _;

use crate::clock::Moment;
use crate::metrics::{DropLabel, SessionMetrics, TransportLabel};
use crate::session::{Arrival, Effect, OpenedFacts, Session, Ticket};
use crate::state::{GatewayState, Phase};
use crate::transport::{FrameStream, Incoming};

/// Frames and events taken in one wake, before the answers are written.
const BATCH: usize = 256;
/// Bytes written at once: a larger batch is written in parts.
const BATCH_BYTES: usize = 256 * 1024;
/// How long the core may take to register a session. It promises about a second.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

type Running = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What a session has called for. Each is polled only when it was woken.
enum Done {
    Answer(Ticket, ApiAnswer),
    Replayed(SyncCursor, Result<Replay, Refusal>),
}

/// An effect that takes time.
enum Lasting {
    /// So much waits to be written.
    Write,
    Close(CloseCode),
    Open {
        user: UserId,
        device: DeviceId,
        resumes: bool,
    },
    Told(Box<(SessionQuestion, SessionSent)>),
}

/// A session that the core knows; forgotten there when this is dropped.
struct Registered {
    gateway: Arc<GatewayState>,
    connection: Arc<Connection>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.gateway.core.close(&self.connection);
    }
}

/// Counts a live session for as long as it exists.
struct Counted {
    gateway: Arc<GatewayState>,
    metrics: SessionMetrics,
}

impl Counted {
    fn new(gateway: &Arc<GatewayState>, transport: TransportLabel) -> Self {
        let metrics = gateway.metrics.session(transport);
        metrics.sessions.inc();
        gateway.live.send_modify(|live| *live += 1);
        Self { gateway: Arc::clone(gateway), metrics }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.sessions.dec();
        self.gateway.live.send_modify(|live| *live -= 1);
    }
}

/// What a connection brought with it.
#[derive(Debug, Default)]
pub(crate) struct Presented {
    pub(crate) token: Option<String>,
    pub(crate) device: Option<DeviceId>,
    /// When it was accepted, if that was earlier than the session begins: the time for `auth` counts from there.
    pub(crate) since: Option<Moment>,
}

/// Serves one connection to its end. Not an `async fn`: what lives as long as the session lies in one box, and not in
/// every future that it would be moved through. The future itself is small, too: what is over in a moment and what comes
/// once, at the end, is boxed while it lasts.
pub(crate) fn run<S: FrameStream>(
    gateway: Arc<GatewayState>,
    stream: S,
    presented: Presented,
    transport: TransportLabel,
) -> impl Future<Output = ()> + Send {
    let number = gateway.next_number();
    let connection_id = format!("{}-{number:x}", uuid::Uuid::new_v4().simple());
    let span = tracing::debug_span!("session", connection = %connection_id, region = %gateway.sessions.region);
    let arrival = Arrival {
        token: presented.token,
        device: presented.device,
        new_device: DeviceId(uuid::Uuid::new_v4()),
        connection_id,
    };
    let sessions = Arc::clone(&gateway.sessions);
    let since = presented.since.unwrap_or_else(|| gateway.clock.now());
    let runner = Box::new(Runner::new(gateway, stream, Session::new(sessions, arrival, since), transport, number));
    runner.run().instrument(span)
}

struct Runner<S> {
    gateway: Arc<GatewayState>,
    session: Session,
    stream: S,
    counted: Counted,
    registered: Option<Registered>,
    /// Calls without an answer yet; an idle session has none.
    running: Option<FuturesUnordered<Running>>,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    /// Bytes of events taken from the core since it was last told that there is room again.
    taken_bytes: usize,
    number: u64,
}

enum Wake {
    Incoming(Incoming),
    Events(Taken),
    Done(Done),
    /// The gateway is in another phase.
    Phase(watch::Receiver<Phase>),
    Time,
}

/// The end of a session.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The connection is gone.
    Gone,
    /// The session was told, and everything before is written.
    Closed(CloseCode),
    /// The client does not read: a write was given up.
    Slow,
}

impl<S: FrameStream> Runner<S> {
    fn new(gateway: Arc<GatewayState>, stream: S, session: Session, transport: TransportLabel, number: u64) -> Self {
        let counted = Counted::new(&gateway, transport);
        Self {
            gateway,
            session,
            stream,
            counted,
            registered: None,
            running: None,
            batch: Vec::new(),
            batch_bytes: 0,
            taken_bytes: 0,
            number,
        }
    }

    async fn run(mut self: Box<Self>) {
        let end = self.serve().await;
        tracing::debug!(?end, "session ended");
        // The core stops queueing before the close is written.
        self.registered = None;
        // The session counts as live until then: a process that ends waits for it.
        let Self { stream, gateway, counted: _counted, .. } = *self;
        match end {
            End::Closed(code) => {
                gateway.metrics.closed(code);
                Box::pin(stream.close(code)).await;
            }
            End::Slow => {
                let code = CloseCode::SlowConsumer;
                gateway.metrics.dropped(DropLabel::SlowConsumer);
                gateway.metrics.closed(code);
                let payload = ClosePayload { code: code.number(), reason: code.reason().to_owned() };
                let last = encode_server_frame(&ServerFrame::Close(payload), None);
                Box::pin(stream.give_up(last, code)).await;
            }
            End::Gone => Box::pin(stream.end()).await,
        }
    }

    async fn serve(&mut self) -> End {
        // A drain may have begun between the upgrade and this subscription.
        let mut phases = self.gateway.phase.subscribe();
        self.apply_phase(*phases.borrow_and_update());
        let phase = next_phase(phases);
        tokio::pin!(phase);
        let sleep = tokio::time::sleep(Duration::MAX / 4);
        tokio::pin!(sleep);
        let mut gone = false;
        loop {
            // Also when the client is gone: what it sent before is forwarded, and a close decided on before is told.
            if let ControlFlow::Break(end) = self.perform().await {
                return end;
            }
            self.release();
            if gone {
                return End::Gone;
            }
            self.rest();
            self.arm(sleep.as_mut());
            match self.wait(sleep.as_mut(), phase.as_mut()).await {
                Wake::Incoming(incoming) => {
                    gone = self.take_frames(incoming).is_break();
                    self.take_ready_events();
                }
                Wake::Events(taken) => {
                    self.take_events(taken);
                    gone = self.take_ready_frames().is_break();
                }
                Wake::Done(done) => self.take_done(done),
                Wake::Phase(mut phases) => {
                    self.apply_phase(*phases.borrow_and_update());
                    phase.set(next_phase(phases));
                }
                Wake::Time => self.session.handle_timeout(self.gateway.clock.now()),
            }
        }
    }

    /// Re-arms the timer when something is due earlier than it is set, or when it fired. Most deadlines only move
    /// away, which needs no work until then.
    fn arm(&self, mut sleep: Pin<&mut Sleep>) {
        let Some(due) = self.session.poll_timeout(self.gateway.clock.now()) else { return };
        let due = Instant::now() + Duration::from_millis(due.min(DAY_MS));
        if sleep.is_elapsed() || due < sleep.deadline() {
            sleep.as_mut().reset(due);
        }
    }

    /// Nothing is to be done now: an idle session keeps no buffer.
    fn rest(&mut self) {
        self.session.rest();
        self.batch = Vec::new();
        if self.running.as_ref().is_some_and(FuturesUnordered::is_empty) {
            self.running = None;
        }
    }

    async fn wait(
        &mut self,
        sleep: Pin<&mut Sleep>,
        phase: Pin<&mut impl Future<Output = watch::Receiver<Phase>>>,
    ) -> Wake {
        let reading = self.session.requests() < self.gateway.options.limits.session_requests;
        let connection = self.registered.as_ref().map(|registered| &registered.connection);
        tokio::select! {
            incoming = self.stream.receive(), if reading => Wake::Incoming(incoming),
            taken = next_events(connection) => Wake::Events(taken),
            done = next_done(self.running.as_mut()) => Wake::Done(done),
            phases = phase => Wake::Phase(phases),
            () = sleep => Wake::Time,
        }
    }

    fn apply_phase(&mut self, phase: Phase) {
        match phase {
            Phase::Serving => {}
            Phase::Draining(order) => {
                let endpoints = self.gateway.core.endpoints();
                self.session.handle_drain(&order.notice(self.number), endpoints, self.gateway.clock.now());
            }
            Phase::Stopping => self.session.handle_shutdown(),
        }
    }

    fn call(&mut self, call: Running) {
        self.running.get_or_insert_default().push(call);
    }

    /// Takes this frame and those that are there already.
    fn take_frames(&mut self, incoming: Incoming) -> ControlFlow<()> {
        self.take_frame(incoming)?;
        self.take_ready_frames()
    }

    fn take_ready_frames(&mut self) -> ControlFlow<()> {
        for _ in 1..BATCH {
            if self.session.requests() >= self.gateway.options.limits.session_requests {
                break;
            }
            let Some(incoming) = self.stream.receive().now_or_never() else { break };
            self.take_frame(incoming)?;
        }
        ControlFlow::Continue(())
    }

    fn take_frame(&mut self, incoming: Incoming) -> ControlFlow<()> {
        let now = self.gateway.clock.now();
        if let Some(registered) = &self.registered {
            registered.connection.heard();
        }
        match incoming {
            Incoming::Frame(frame) => {
                self.counted.metrics.frames_in.inc();
                self.session.handle_frame(&frame, now);
            }
            Incoming::Malformed(refusal) => {
                self.counted.metrics.frames_in.inc();
                self.session.handle_malformed(refusal, now);
            }
            Incoming::Closed => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn take_events(&mut self, taken: Taken) {
        let Taken::Events(events) = taken else { return self.session.handle_overflow() };
        let now = self.gateway.clock.now();
        for event in events {
            self.taken_bytes += event.bytes();
            self.session.handle_event(event, now);
        }
    }

    fn take_ready_events(&mut self) {
        let Some(registered) = &self.registered else { return };
        let ready = next_events(Some(&registered.connection)).now_or_never();
        if let Some(taken) = ready {
            self.take_events(taken);
        }
    }

    /// Everything taken was written, dropped, or waits behind a replay within a bound of its own: the core may queue
    /// as much again.
    fn release(&mut self) {
        let bytes = std::mem::take(&mut self.taken_bytes);
        if bytes > 0
            && let Some(registered) = &self.registered
        {
            registered.connection.release(bytes);
        }
    }

    fn take_done(&mut self, done: Done) {
        let now = self.gateway.clock.now();
        match done {
            Done::Answer(ticket, answer) => self.session.handle_answer(&ticket, &answer, now),
            Done::Replayed(cursor, replayed) => self.session.handle_replayed(&cursor, replayed, now),
        }
    }

    /// Does what the session decided, and writes everything in as few writes as its size allows.
    async fn perform(&mut self) -> ControlFlow<End> {
        loop {
            let lasting = self.perform_at_once();
            if let Some(Lasting::Open { user, device, resumes }) = lasting {
                // Boxed: it is as large as the rest of the session's future, and is over in a moment.
                Box::pin(self.open(user, device, resumes)).await;
                continue;
            }
            self.write().await?;
            match lasting {
                None => return ControlFlow::Continue(()),
                Some(Lasting::Close(code)) => return ControlFlow::Break(End::Closed(code)),
                Some(Lasting::Told(told)) => told.0.answer(told.1),
                Some(Lasting::Write | Lasting::Open { .. }) => {}
            }
        }
    }

    /// Does what takes no time. Gives the first effect that takes some; `None` when all is done but what is to be written.
    /// Not in [`Self::perform`], whose future would have room for an effect as long as the session lives.
    fn perform_at_once(&mut self) -> Option<Lasting> {
        while let Some(effect) = self.session.next_effect() {
            match effect {
                Effect::Send(frame) => {
                    self.counted.metrics.frames_out.inc();
                    self.batch_bytes += frame.len();
                    self.batch.push(frame);
                    if self.batch_bytes >= BATCH_BYTES {
                        return Some(Lasting::Write);
                    }
                }
                Effect::Close(code) => return Some(Lasting::Close(code)),
                Effect::Open { user, device, resumes } => return Some(Lasting::Open { user, device, resumes }),
                Effect::Told { question, sent } => return Some(Lasting::Told(Box::new((question, sent)))),
                Effect::Api { ticket, call } => {
                    let (core, user) = (Arc::clone(&self.gateway.core), self.user());
                    self.call(Box::pin(async move { Done::Answer(ticket, core.api(&user, call).await) }));
                }
                Effect::Replay { cursor, rows } => {
                    let (core, user) = (Arc::clone(&self.gateway.core), self.user());
                    self.call(Box::pin(async move {
                        let replayed = core.replay(&user, &cursor, rows, true).await;
                        Done::Replayed(cursor, replayed)
                    }));
                }
                Effect::Refused(error) => self.gateway.metrics.refused(error),
                Effect::Dropped(reason) => self.gateway.metrics.dropped(reason),
                given @ (Effect::Forward { .. }
                | Effect::Receipt { .. }
                | Effect::Typing { .. }
                | Effect::View { .. }
                | Effect::PresenceSet(_)
                | Effect::PresenceUsers { .. }
                | Effect::Background(_)) => self.give(given),
            }
        }
        None
    }

    /// Gives to the core what it takes of a session that it knows.
    fn give(&self, effect: Effect) {
        let Some(Registered { connection, .. }) = &self.registered else { return };
        let core = &self.gateway.core;
        match effect {
            Effect::Forward { request, send } => core.send(connection, request, *send),
            Effect::Receipt { request, receipt, sent } => core.receipt(connection, request, &receipt, sent),
            Effect::Typing { request, typing } => core.typing(connection, request, typing),
            Effect::View { request, conversation } => core.conversation_view(connection, request, conversation),
            Effect::PresenceSet(set) => core.presence_set(connection, set),
            Effect::PresenceUsers { request, users } => core.presence_users(connection, request, users),
            Effect::Background(background) => core.client_state(connection, background),
            _ => {}
        }
    }

    async fn open(&mut self, user: UserId, device: DeviceId, resumes: bool) {
        tracing::debug!(%user, %device, "authenticated");
        let limits = &self.gateway.options.limits;
        let bounds = QueueBounds { events: limits.session_queue, bytes: limits.session_queue_bytes };
        let gateway = Arc::clone(&self.gateway);
        let opened = async {
            let _place = gateway.admission.admit(resumes).await?;
            let opening = gateway.core.open(user, device, bounds);
            tokio::time::timeout(OPEN_TIMEOUT, opening).await.unwrap_or_else(|_| {
                Err(Refusal::new(ErrorCode::Overloaded, "the region did not answer in time").with_retry_after(1))
            })
        };
        let opened = opened.await;
        let facts = opened.map(|opened| {
            self.registered = Some(Registered { gateway: Arc::clone(&self.gateway), connection: opened.connection });
            OpenedFacts { feed_complete: opened.feed_complete, endpoints: self.gateway.core.endpoints() }
        });
        self.session.handle_opened(facts, self.gateway.clock.now());
    }

    fn user(&self) -> UserId {
        self.session.user().cloned().expect("only authenticated sessions ask the core")
    }

    async fn write(&mut self) -> ControlFlow<End> {
        if self.batch.is_empty() {
            return ControlFlow::Continue(());
        }
        self.batch_bytes = 0;
        let connection = self.registered.as_ref().map(|registered| &registered.connection);
        tokio::select! {
            biased;
            sent = self.stream.send(&mut self.batch) => match sent {
                Ok(()) => ControlFlow::Continue(()),
                Err(_lost) => ControlFlow::Break(End::Gone),
            },
            // Whichever comes first: so much waits behind this write, or it is blocked for so long.
            () = overflowed(connection) => ControlFlow::Break(End::Slow),
            () = tokio::time::sleep(self.gateway.options.times.write_timeout) => ControlFlow::Break(End::Slow),
        }
    }
}

/// Timers beyond this are set again when it is over.
const DAY_MS: u64 = 24 * 3600 * 1000;

async fn overflowed(connection: Option<&Arc<Connection>>) {
    match connection {
        Some(connection) => connection.overflowed().await,
        None => std::future::pending().await,
    }
}

/// The next answer to what a session called for.
async fn next_done(running: Option<&mut FuturesUnordered<Running>>) -> Done {
    match running {
        // Of none there is no answer to come until one is added, which this wait is over for.
        Some(running) => match running.next().await {
            Some(done) => done,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// Waits until the gateway is in another phase.
async fn next_phase(mut phases: watch::Receiver<Phase>) -> watch::Receiver<Phase> {
    // The sender lives in the gateway's state, which the session holds: waiting cannot fail.
    let _ = phases.changed().await;
    phases
}

async fn next_events(connection: Option<&Arc<Connection>>) -> Taken {
    match connection {
        Some(connection) => connection.take().await,
        None => std::future::pending().await,
    }
}
