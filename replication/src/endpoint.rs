//! A region's endpoint: starts links, accepts and dials, and is the handle to all of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::udp::UdpSocketState;
use quinn::{Endpoint, Incoming, Runtime, TokioRuntime, VarInt};
use rustls::pki_types::ServerName;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::config::{LinkConfig, LinkLimits};
use crate::faults::LinkFaults;
use crate::handshake::{self, EstablishError};
use crate::lanes::{Lane, SendError};
use crate::metrics::LinkMetrics;
use crate::peer::{Established, LinkEvent, Peer, SessionEnd, Shared, run_session};
use crate::socket::{self, Route, SocketControl};
use crate::tls::{self, TlsError};
use crate::wire::{CLOSE_SHUTDOWN, Hello, Refusal};

/// Handshakes that may be under way at once; further connections are refused by QUIC and tried again.
const MAXIMUM_HANDSHAKES: usize = 64;

/// A dialled link that lived for less is counted as a failed attempt, so that a pair that cannot
/// keep a link does not dial without a pause.
const STEADY_AFTER: Duration = Duration::from_secs(1);

/// Asked of the kernel for the UDP receive buffer; it may give less.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// How long `shutdown` waits for each of: its tasks, farewells to peers, the socket.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);

/// Why links could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A region name is not a DNS name, is repeated among the peers, or is this region's own.
    #[error("region name {region:?} cannot be used")]
    RegionName {
        /// The name.
        region: String,
    },
    /// A limit is zero.
    #[error("limit {limit} is zero")]
    ZeroLimit {
        /// Which.
        limit: &'static str,
    },
    /// The versions are out of order.
    #[error("the oldest version is newer than the newest")]
    Versions,
    /// The TLS material cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The socket cannot be used.
    #[error("the UDP socket cannot be used")]
    Socket(#[from] std::io::Error),
}

/// Starts the links of a region.
#[derive(Clone, Copy, Debug)]
pub struct Links;

/// Handle to the links of one region. Clones are the same links. They stop by
/// [`LinksHandle::shutdown`], and also when the receiver of events is dropped.
#[derive(Clone, Debug)]
pub struct LinksHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    peers: HashMap<String, Arc<Peer>>,
    tasks: TaskTracker,
    /// Taken by `shutdown`: the socket is released when nobody holds the endpoint.
    endpoint: Mutex<Option<(Endpoint, SocketControl)>>,
}

impl Links {
    /// Starts the links of `config.region` on `udp`, with `faults` under them, and goes on making
    /// them until shutdown. Must be called within a tokio runtime.
    ///
    /// `metrics` may be shared by the regions of a process. Events are bounded by
    /// `config.limits.events`; a receiver that is not read stops the reading of frames, nothing else.
    ///
    /// # Errors
    /// [`LinkError`] when a name, limit, certificate or the socket cannot be used.
    pub async fn start(
        config: LinkConfig,
        udp: std::net::UdpSocket,
        faults: LinkFaults,
        metrics: LinkMetrics,
    ) -> Result<(LinksHandle, mpsc::Receiver<LinkEvent>), LinkError> {
        Self::start_over(config, bind(udp)?, faults, metrics)
    }

    /// The same over a socket that need not be the kernel's: a network that a test simulates.
    ///
    /// # Errors
    /// As [`Links::start`].
    pub fn start_over(
        config: LinkConfig,
        socket: Arc<dyn quinn::AsyncUdpSocket>,
        faults: LinkFaults,
        metrics: LinkMetrics,
    ) -> Result<(LinksHandle, mpsc::Receiver<LinkEvent>), LinkError> {
        check(&config)?;
        let configs = tls::quic_configs(&config)?;
        let peers: Vec<Arc<Peer>> = config
            .peers
            .iter()
            .map(|peer| Arc::new(Peer::new(peer.clone(), metrics.pair(&config.region, &peer.region))))
            .collect();
        let (socket, control) =
            socket::wrap(socket, routes(&config, &faults, &metrics), config.limits.delayed_bytes, config.seed);
        let mut endpoint =
            Endpoint::new_with_abstract_socket(configs.endpoint, Some(configs.server), socket, Arc::new(TokioRuntime))?;
        endpoint.set_default_client_config(configs.client);
        let (events, receiver) = mpsc::channel(config.limits.events);
        let hello = hello(&config);
        let shared = Arc::new(Shared { config, hello, metrics, events, stop: CancellationToken::new() });
        let tasks = TaskTracker::new();
        spawn_all(&tasks, &shared, &peers, &endpoint);
        let peers = peers.into_iter().map(|peer| (peer.config.region.clone(), peer)).collect();
        let endpoint = Mutex::new(Some((endpoint, control)));
        Ok((LinksHandle { inner: Arc::new(Inner { shared, peers, tasks, endpoint }) }, receiver))
    }
}

fn check(config: &LinkConfig) -> Result<(), LinkError> {
    let mut seen = vec![config.region.as_str()];
    if ServerName::try_from(config.region.as_str()).is_err() {
        return Err(LinkError::RegionName { region: config.region.clone() });
    }
    for peer in &config.peers {
        let name = peer.region.as_str();
        if seen.contains(&name) || ServerName::try_from(name).is_err() {
            return Err(LinkError::RegionName { region: peer.region.clone() });
        }
        seen.push(name);
    }
    if config.versions.minimum > config.versions.current {
        return Err(LinkError::Versions);
    }
    let LinkLimits { lane_frames, events, stream_window, connection_window, .. } = config.limits;
    let windows = (stream_window as usize, connection_window as usize);
    for (limit, value) in [
        ("lane_frames", lane_frames),
        ("events", events),
        ("stream_window", windows.0),
        ("connection_window", windows.1),
    ] {
        if value == 0 {
            return Err(LinkError::ZeroLimit { limit });
        }
    }
    Ok(())
}

fn hello(config: &LinkConfig) -> Hello {
    Hello {
        mesh_id: config.mesh_id.clone(),
        region: config.region.clone(),
        node: config.node.clone(),
        store_id: config.store_id.to_vec(),
        incarnation: config.incarnation,
        map_digest: config.map_digest.to_vec(),
        minimum_version: config.versions.minimum,
        current_version: config.versions.current,
    }
}

fn routes(config: &LinkConfig, faults: &LinkFaults, metrics: &LinkMetrics) -> Vec<Route> {
    let route = |peer: &crate::PeerConfig| Route {
        address: peer.address,
        faults: faults.cell(&config.region, &peer.region),
        metrics: metrics.pair(&config.region, &peer.region),
    };
    config.peers.iter().map(route).collect()
}

fn bind(udp: std::net::UdpSocket) -> std::io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
    let state = UdpSocketState::new((&udp).into())?;
    // The kernel's default holds a few milliseconds of a fast link; a refusal of more is no failure.
    drop(state.set_recv_buffer_size((&udp).into(), RECEIVE_BUFFER_BYTES));
    TokioRuntime.wrap_udp_socket(udp)
}

/// Starts the tasks: one per peer, one that accepts, one that notices a dropped receiver.
///
/// Of a pair, the region whose name sorts first dials. Both sides know that without talking, so
/// there is never a second connection of the same pair to choose from, and a second one always
/// means that the dialler lost the first.
fn spawn_all(tasks: &TaskTracker, shared: &Arc<Shared>, peers: &[Arc<Peer>], endpoint: &Endpoint) {
    let mut accepting = HashMap::new();
    for peer in peers {
        let (sender, receiver) = mpsc::channel(1);
        if shared.config.region < peer.config.region {
            tasks.spawn(run_dialler(Arc::clone(shared), Arc::clone(peer), endpoint.clone(), receiver));
        } else {
            tasks.spawn(run_acceptor(Arc::clone(shared), Arc::clone(peer), receiver));
        }
        accepting.insert(peer.config.region.clone(), (Arc::clone(peer), sender));
    }
    tasks.spawn(accept_all(Arc::clone(shared), Arc::new(accepting), endpoint.clone(), tasks.clone()));
    let shared = Arc::clone(shared);
    tasks.spawn(async move {
        tokio::select! {
            () = shared.events.closed() => shared.stop.cancel(),
            () = shared.stop.cancelled() => {}
        }
    });
}

/// Makes and keeps the link to a peer that we dial, for ever.
async fn run_dialler(shared: Arc<Shared>, peer: Arc<Peer>, endpoint: Endpoint, mut newer: mpsc::Receiver<Established>) {
    let times = shared.config.times;
    let mut backoff = Backoff::new(times.reconnect_cap);
    loop {
        let limit = backoff.attempt_limit(times.establish);
        let attempt = handshake::dial(&endpoint, peer.config.address, &peer.config.region, &shared.hello);
        let outcome = tokio::select! {
            () = shared.stop.cancelled() => return,
            outcome = timeout(limit, attempt) => outcome.unwrap_or(Err(EstablishError::Lost)),
        };
        let mut pause = None;
        match outcome {
            Ok(established) => {
                let since = Instant::now();
                if matches!(run_session(&shared, &peer, established, &mut newer).await, SessionEnd::Stop) {
                    return;
                }
                if since.elapsed() >= STEADY_AFTER {
                    backoff.reset();
                }
            }
            Err(EstablishError::Refused(reason)) => {
                peer.refused(&shared, &reason);
                pause = Some(times.refused_retry.mul_f64(0.5 + rand::random::<f64>()));
            }
            Err(EstablishError::Lost | EstablishError::Protocol) => {}
        }
        let pause = pause.unwrap_or_else(|| backoff.pause(rand::random()));
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Keeps the link to a peer that dials us: a newer connection replaces the one before.
async fn run_acceptor(shared: Arc<Shared>, peer: Arc<Peer>, mut newer: mpsc::Receiver<Established>) {
    let mut next = None;
    loop {
        let established = match next.take() {
            Some(established) => established,
            None => tokio::select! {
                () = shared.stop.cancelled() => return,
                established = newer.recv() => match established {
                    Some(established) => established,
                    None => return,
                },
            },
        };
        if established.connection.close_reason().is_some() {
            continue;
        }
        match run_session(&shared, &peer, established, &mut newer).await {
            SessionEnd::Down => {}
            SessionEnd::Replaced(established) => next = Some(*established),
            SessionEnd::Stop => return,
        }
    }
}

type Accepting = HashMap<String, (Arc<Peer>, mpsc::Sender<Established>)>;

/// Accepts connections until shutdown.
async fn accept_all(shared: Arc<Shared>, accepting: Arc<Accepting>, endpoint: Endpoint, tasks: TaskTracker) {
    let handshakes = Arc::new(Semaphore::new(MAXIMUM_HANDSHAKES));
    loop {
        let incoming = tokio::select! {
            () = shared.stop.cancelled() => return,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let (shared, accepting) = (Arc::clone(&shared), Arc::clone(&accepting));
        tasks.spawn(async move {
            let limit = shared.config.times.establish * 3;
            tokio::select! {
                () = shared.stop.cancelled() => {}
                // Whoever dialled gave up before that.
                _ = timeout(limit, accept_one(&shared, &accepting, incoming)) => {}
            }
            drop(permit);
        });
    }
}

async fn accept_one(shared: &Shared, accepting: &Accepting, incoming: Incoming) {
    let ours = shared.config.region.as_str();
    let knows = |region: &str| match accepting.get(region) {
        None => Err(Refusal::UnknownRegion),
        Some(_) if region > ours => Err(Refusal::WrongDialler),
        Some(_) => Ok(()),
    };
    let (proved, outcome) = handshake::accept(incoming, &shared.hello, knows).await;
    let peer = proved.and_then(|region| accepting.get(&region));
    match (outcome, peer) {
        // The peer's task ends before its receiver only at shutdown.
        (Ok(established), Some((_, sender))) => drop(sender.send(established).await),
        (Err(EstablishError::Refused(reason)), Some((peer, _))) => peer.refused(shared, &reason),
        (Err(EstablishError::Refused(reason)), None) => {
            shared.metrics.count_refused(ours, reason.name());
            tracing::debug!(region = ours, reason = reason.name(), "connection refused");
        }
        (Ok(_), None) | (Err(EstablishError::Lost | EstablishError::Protocol), _) => {}
    }
}

impl LinksHandle {
    /// Queues a frame for `peer`. Never waits.
    ///
    /// Taking a frame promises no delivery: it is lost when the link goes down.
    ///
    /// # Errors
    /// [`SendError`]; the frame was not taken.
    pub fn send(&self, peer: &str, lane: Lane, frame: Bytes) -> Result<(), SendError> {
        self.inner.peers.get(peer).ok_or(SendError::UnknownPeer)?.send(lane, frame)
    }

    /// Whether the link to `peer` is up.
    #[must_use]
    pub fn is_up(&self, peer: &str) -> bool {
        self.inner.peers.get(peer).is_some_and(|peer| peer.is_up())
    }

    /// Smoothed round trip of the link to `peer`; none while it is down or before the first echo.
    #[must_use]
    pub fn round_trip(&self, peer: &str) -> Option<Duration> {
        self.inner.peers.get(peer)?.round_trip()
    }

    /// Closes all links, so that peers see them down at once, and releases the socket. Frames that
    /// wait are lost. Takes a few round trips, at most about six seconds.
    pub async fn shutdown(&self) {
        self.inner.shared.stop.cancel();
        self.inner.tasks.close();
        if timeout(SHUTDOWN_PATIENCE, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!(region = self.inner.shared.config.region, "link tasks did not stop in time");
        }
        let Some((endpoint, control)) = self.inner.endpoint.lock().take() else {
            return;
        };
        endpoint.close(VarInt::from_u32(CLOSE_SHUTDOWN), b"");
        // A peer that is cut off cannot be told; it notices by silence.
        drop(timeout(SHUTDOWN_PATIENCE, endpoint.wait_idle()).await);
        drop(endpoint);
        // Ends when quinn dropped the socket: its port is free then.
        drop(timeout(SHUTDOWN_PATIENCE, control.releasing).await);
    }

    /// Stops as a crash does: not a datagram more leaves, and peers find out by themselves.
    /// Releases the socket as [`LinksHandle::shutdown`] does.
    pub async fn vanish(&self) {
        if let Some((_, control)) = self.inner.endpoint.lock().as_ref() {
            control.muted.store(true, Ordering::Relaxed);
        }
        self.shutdown().await;
    }
}
