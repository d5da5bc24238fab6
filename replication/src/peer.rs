//! One peer's link as its owner sees it, and the task that runs a connection from up to down.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use prost::Message;
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{LinkConfig, PeerConfig};
use crate::lanes::{self, Lane, LaneQueue, MAXIMUM_FRAME_BYTES, SendError};
use crate::liveness::{Liveness, LivenessAction};
use crate::metrics::{LinkMetrics, PairMetrics};
use crate::wire::{self, Hello, Probe, Refusal};

/// What a peer said about itself when its link was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHello {
    /// Its region, as proved by its certificate.
    pub region: String,
    /// Its node, for people.
    pub node: String,
    /// Identity of its store.
    pub store_id: [u8; 16],
    /// Number that grows with every start of the region.
    pub incarnation: u64,
    /// Version that both sides speak on this link.
    pub version: u32,
}

/// Why a link went down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// None of our pings was echoed for too long.
    Silent,
    /// The peer said that it stops, or closed the connection for another reason of its own.
    ClosedByPeer {
        /// Close code of this layer or of QUIC.
        code: u64,
    },
    /// The peer forgot the connection: it was restarted.
    Reset,
    /// The peer made a newer connection; the next event of this peer is `Up`.
    Replaced,
    /// This side stops.
    Shutdown,
    /// The peer broke the rules of this layer.
    Protocol,
    /// QUIC gave up, by its idle time-out or for an error of transport.
    Transport,
}

impl DownReason {
    fn from_connection(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::ClosedByPeer { code: close.error_code.into_inner() },
            ConnectionError::ConnectionClosed(close) => Self::ClosedByPeer { code: close.error_code.into() },
            ConnectionError::Reset => Self::Reset,
            ConnectionError::LocallyClosed => Self::Shutdown,
            _ => Self::Transport,
        }
    }

    pub(crate) fn from_write(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => Self::from_connection(&error),
            _ => Self::Protocol,
        }
    }

    pub(crate) fn from_read(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => Self::from_connection(&error),
            _ => Self::Protocol,
        }
    }

    /// QUIC code with which this side closes for this reason.
    fn close_code(&self) -> u32 {
        match self {
            Self::Silent => wire::CLOSE_SILENT,
            Self::Replaced => wire::CLOSE_REPLACED,
            Self::Protocol => wire::CLOSE_PROTOCOL,
            _ => wire::CLOSE_SHUTDOWN,
        }
    }
}

/// What happens to links, in order. Of one peer: `Up`, then `Frames`, then `Down`, and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The link is made: frames can be sent.
    Up {
        /// The peer's region.
        peer: String,
        /// What it said.
        hello: PeerHello,
    },
    /// The link is lost, with all frames that waited or were on their way.
    Down {
        /// The peer's region.
        peer: String,
        /// Why.
        reason: DownReason,
    },
    /// Frames of one lane, in the order in which they were sent. Frames of one event share memory:
    /// a small frame that is kept for long keeps its neighbours (up to about 200 KiB).
    Frames {
        /// The peer's region.
        peer: String,
        /// The lane.
        lane: Lane,
        /// One or more frames.
        frames: Vec<Bytes>,
    },
    /// A link was not made; told once per change of the reason. Left out when the receiver is full.
    Refused {
        /// The peer's region.
        peer: String,
        /// Why.
        reason: Refusal,
    },
}

/// A connection whose hellos were exchanged and whose lanes are open.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) connection: Connection,
    pub(crate) hello: PeerHello,
    /// Streams by the index of their lane.
    pub(crate) streams: Vec<(SendStream, RecvStream)>,
}

/// What all tasks of one region share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: LinkConfig,
    pub(crate) hello: Hello,
    pub(crate) metrics: LinkMetrics,
    pub(crate) events: mpsc::Sender<LinkEvent>,
    pub(crate) stop: CancellationToken,
}

/// A link that is up.
#[derive(Debug)]
struct LiveLink {
    queues: Vec<LaneQueue>,
    liveness: Mutex<Liveness>,
}

/// One peer, for as long as the region runs.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) config: PeerConfig,
    metrics: PairMetrics,
    live: RwLock<Option<Arc<LiveLink>>>,
    last_refusal: Mutex<Option<Refusal>>,
}

impl Peer {
    pub(crate) fn new(config: PeerConfig, metrics: PairMetrics) -> Self {
        Self { config, metrics, live: RwLock::default(), last_refusal: Mutex::default() }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.live.read().is_some()
    }

    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.live.read().as_ref().and_then(|live| live.liveness.lock().round_trip())
    }

    pub(crate) fn send(&self, lane: Lane, frame: Bytes) -> Result<(), SendError> {
        let outcome = self.queue(lane, frame);
        match &outcome {
            Ok(()) | Err(SendError::UnknownPeer) => {}
            Err(SendError::Down) => _ = self.metrics.frames_down.inc(),
            Err(SendError::Full { .. }) => _ = self.metrics.frames_full.inc(),
            Err(SendError::TooLarge { .. }) => _ = self.metrics.frames_too_large.inc(),
        }
        outcome
    }

    fn queue(&self, lane: Lane, frame: Bytes) -> Result<(), SendError> {
        if frame.len() > MAXIMUM_FRAME_BYTES {
            return Err(SendError::TooLarge { bytes: frame.len() });
        }
        match self.live.read().as_ref() {
            Some(live) => live.queues[lane.index()].push(frame),
            None => Err(SendError::Down),
        }
    }

    /// Counts a refusal, and tells it to people and to the owner of the events when it is a new one.
    pub(crate) fn refused(&self, shared: &Shared, reason: &Refusal) {
        let region = &shared.config.region;
        shared.metrics.count_refused(region, reason.name());
        let mut last = self.last_refusal.lock();
        if last.as_ref() == Some(reason) {
            return;
        }
        *last = Some(reason.clone());
        drop(last);
        tracing::warn!(region, peer = self.config.region, reason = reason.name(), "link refused");
        let event = LinkEvent::Refused { peer: self.config.region.clone(), reason: reason.clone() };
        // A full receiver means an owner that is busy with links that do work; the log has it.
        drop(shared.events.try_send(event));
    }
}

/// What ended a session.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// The link is down for the reason that was told.
    Down,
    /// The peer made this newer connection.
    Replaced(Box<Established>),
    /// This region stops.
    Stop,
}

/// Runs one connection from `Up` to `Down`. `newer` gives connections that replace this one.
pub(crate) async fn run_session(
    shared: &Shared,
    peer: &Arc<Peer>,
    established: Established,
    newer: &mut mpsc::Receiver<Established>,
) -> SessionEnd {
    let Established { connection, hello, streams } = established;
    let name = peer.config.region.clone();
    let live = Arc::new(live_link(shared, &name));
    *peer.live.write() = Some(Arc::clone(&live));
    *peer.last_refusal.lock() = None;
    peer.metrics.up.set(1);
    let mut tasks = JoinSet::new();
    // Pings have tasks of their own, so that no full queue or window delays them.
    tasks.spawn(send_pings(connection.clone(), Arc::clone(&live)));
    tasks.spawn(answer_probes(connection.clone(), Arc::clone(&live), peer.metrics.clone()));
    tracing::info!(region = shared.config.region, peer = name, incarnation = hello.incarnation, "link up");
    let told = tokio::select! {
        sent = shared.events.send(LinkEvent::Up { peer: name.clone(), hello }) => sent.is_ok(),
        () = shared.stop.cancelled() => false,
    };
    if told {
        spawn_lanes(&mut tasks, shared, &name, &live, streams);
    }
    let (reason, end) = tokio::select! {
        biased;
        () = shared.stop.cancelled() => (DownReason::Shutdown, SessionEnd::Stop),
        Some(established) = newer.recv() => (DownReason::Replaced, SessionEnd::Replaced(Box::new(established))),
        error = connection.closed() => (DownReason::from_connection(&error), SessionEnd::Down),
        Some(ended) = tasks.join_next() => (ended.unwrap_or(DownReason::Protocol), SessionEnd::Down),
    };
    connection.close(VarInt::from_u32(reason.close_code()), b"");
    *peer.live.write() = None;
    tasks.shutdown().await;
    finish(shared, peer, &live, reason).await;
    end
}

fn live_link(shared: &Shared, peer: &str) -> LiveLink {
    let limits = &shared.config.limits;
    let times = &shared.config.times;
    let queues = Lane::all()
        .map(|lane| {
            let depth = shared.metrics.lane(&shared.config.region, peer, lane.name());
            LaneQueue::new(limits.lane_frames, limits.lane_bytes, depth)
        })
        .collect();
    let liveness = Liveness::new(times.ping_every, times.silent_after, Instant::now().into_std());
    LiveLink { queues, liveness: Mutex::new(liveness) }
}

fn spawn_lanes(
    tasks: &mut JoinSet<DownReason>,
    shared: &Shared,
    peer: &str,
    live: &Arc<LiveLink>,
    streams: Vec<(SendStream, RecvStream)>,
) {
    for (lane, (send, receive)) in Lane::all().zip(streams) {
        let live = Arc::clone(live);
        tasks.spawn(async move { lanes::write_lane(&live.queues[lane.index()], send).await });
        tasks.spawn(lanes::read_lane(peer.to_owned(), lane, receive, shared.events.clone()));
    }
}

/// Forgets what waits and tells that the link is down. `Down` waits for room among the events,
/// except when this region stops, whose owner may no longer read.
async fn finish(shared: &Shared, peer: &Peer, live: &LiveLink, reason: DownReason) {
    let unsent: usize = live.queues.iter().map(LaneQueue::close).sum();
    peer.metrics.frames_unsent.inc_by(unsent as u64);
    peer.metrics.up.set(0);
    let name = peer.config.region.clone();
    tracing::info!(region = shared.config.region, peer = name, ?reason, unsent, "link down");
    let event = LinkEvent::Down { peer: name, reason };
    if shared.stop.is_cancelled() {
        drop(shared.events.try_send(event));
        return;
    }
    tokio::select! {
        _ = shared.events.send(event) => {}
        () = shared.stop.cancelled() => {}
    }
}

/// Sends numbered pings until none was echoed for too long.
///
/// They travel as QUIC datagrams: those know no flow control, so that a peer whose owner reads
/// slowly is not taken for a dead one, and a lost one is made good by the next.
async fn send_pings(connection: Connection, live: Arc<LiveLink>) -> DownReason {
    loop {
        let action = live.liveness.lock().poll(Instant::now().into_std());
        match action {
            LivenessAction::Dead => return DownReason::Silent,
            LivenessAction::Wait(until) => tokio::time::sleep_until(until.into()).await,
            LivenessAction::Ping(number) => {
                let ping = Probe { ping: Some(number), pong: None };
                if let Err(quinn::SendDatagramError::ConnectionLost(error)) =
                    connection.send_datagram(ping.encode_to_vec().into())
                {
                    return DownReason::from_connection(&error);
                }
            }
        }
    }
}

/// Echoes the peer's pings and takes the echoes of ours.
async fn answer_probes(connection: Connection, live: Arc<LiveLink>, metrics: PairMetrics) -> DownReason {
    loop {
        let datagram = match connection.read_datagram().await {
            Ok(datagram) => datagram,
            Err(error) => return DownReason::from_connection(&error),
        };
        let Ok(probe) = Probe::decode(datagram) else {
            return DownReason::Protocol;
        };
        if let Some(number) = probe.ping {
            let pong = Probe { ping: None, pong: Some(number) };
            // A lost connection is noticed by the next read, anything else by the peer's silence.
            drop(connection.send_datagram(pong.encode_to_vec().into()));
        }
        if let Some(number) = probe.pong
            && let Some(smoothed) = live.liveness.lock().handle_pong(number, Instant::now().into_std())
        {
            metrics.round_trip.set(smoothed.as_secs_f64());
        }
    }
}
