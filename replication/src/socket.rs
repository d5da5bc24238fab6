//! The UDP socket under quinn: counts bytes, and cuts, delays and loses what this region sends.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::faults::{FaultCell, FaultState};
use crate::metrics::PairMetrics;

/// What the socket knows about one peer.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) address: SocketAddr,
    pub(crate) faults: Arc<FaultCell>,
    pub(crate) metrics: PairMetrics,
}

/// A send that waits for its injected delay. Several datagrams of one segment size stay together,
/// so that the kernel still takes them in one call.
#[derive(Debug)]
struct Delayed {
    due: Instant,
    contents: Bytes,
    segment_size: Option<usize>,
    destination: SocketAddr,
    source: Option<IpAddr>,
    ecn: Option<EcnCodepoint>,
}

impl Delayed {
    fn transmit(&self) -> Transmit<'_> {
        Transmit {
            destination: self.destination,
            ecn: self.ecn,
            contents: &self.contents,
            segment_size: self.segment_size,
            src_ip: self.source,
        }
    }
}

/// Sends of one peer in order. Their due times never decrease, so a queue serves for a heap.
#[derive(Debug)]
struct PeerLine {
    route: Route,
    /// Sends in `queue` or just being released; the fast path passes only when there are none,
    /// so that nothing overtakes them.
    waiting: AtomicUsize,
    queue: Mutex<VecDeque<Delayed>>,
}

/// Shared by the socket and the task that releases delayed sends.
#[derive(Debug)]
struct DelayLines {
    peers: Vec<PeerLine>,
    bytes: AtomicUsize,
    maximum_bytes: usize,
    changed: Notify,
    closed: AtomicBool,
}

/// A socket for quinn that applies [`crate::LinkFaults`] to what it sends.
#[derive(Debug)]
pub(crate) struct FaultySocket {
    inner: Arc<dyn AsyncUdpSocket>,
    lines: Arc<DelayLines>,
    by_address: HashMap<SocketAddr, usize>,
    dice: Mutex<SmallRng>,
    muted: Arc<AtomicBool>,
}

/// What the owner of a [`FaultySocket`] keeps after quinn took the socket.
#[derive(Debug)]
pub(crate) struct SocketControl {
    /// While set, nothing is sent any more, to anybody.
    pub(crate) muted: Arc<AtomicBool>,
    /// The task that releases delayed sends; it ends, after the last of them, when quinn has
    /// dropped the socket.
    pub(crate) releasing: JoinHandle<()>,
}

/// Addresses compare in one form, although a dual-stack socket writes IPv4 within IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Number of datagrams in a send of `bytes` bytes.
fn datagrams(bytes: usize, segment_size: Option<usize>) -> u64 {
    let count = segment_size.map_or(1, |size| bytes.div_ceil(size.max(1)).max(1));
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Wraps `inner` and starts the task that releases delayed sends.
pub(crate) fn wrap(
    inner: Arc<dyn AsyncUdpSocket>,
    routes: Vec<Route>,
    maximum_delayed_bytes: usize,
    seed: u64,
) -> (Arc<FaultySocket>, SocketControl) {
    let by_address = routes.iter().enumerate().map(|(index, route)| (canonical(route.address), index)).collect();
    let peers = routes
        .into_iter()
        .map(|route| PeerLine { route, waiting: AtomicUsize::new(0), queue: Mutex::default() })
        .collect();
    let lines = Arc::new(DelayLines {
        peers,
        bytes: AtomicUsize::new(0),
        maximum_bytes: maximum_delayed_bytes,
        changed: Notify::new(),
        closed: AtomicBool::new(false),
    });
    let releasing = tokio::spawn(release(Arc::clone(&lines), Arc::clone(&inner)));
    let dice = Mutex::new(SmallRng::seed_from_u64(seed));
    let muted = Arc::new(AtomicBool::new(false));
    let control = SocketControl { muted: Arc::clone(&muted), releasing };
    (Arc::new(FaultySocket { inner, lines, by_address, dice, muted }), control)
}

impl Drop for FaultySocket {
    fn drop(&mut self) {
        self.lines.closed.store(true, Ordering::Release);
        self.lines.changed.notify_one();
    }
}

impl FaultySocket {
    /// Sends under a fault, or behind sends that still wait for theirs. Never blocks: a network
    /// that is slow or full shows nothing of it to the sender.
    fn send_faulty(&self, line: &PeerLine, faults: FaultState, transmit: &Transmit<'_>) -> io::Result<()> {
        let metrics = &line.route.metrics;
        let size = transmit.contents.len();
        if faults.cut {
            metrics.datagrams_cut.inc_by(datagrams(size, transmit.segment_size));
            return Ok(());
        }
        let contents = if faults.loss_percent > 0.0 {
            self.survivors(transmit, faults.loss_percent, metrics)
        } else {
            Bytes::copy_from_slice(transmit.contents)
        };
        if contents.is_empty() {
            return Ok(());
        }
        let delayed = Delayed {
            due: Instant::now() + faults.delay,
            segment_size: transmit.segment_size.filter(|segment| *segment < contents.len()),
            contents,
            destination: transmit.destination,
            source: transmit.src_ip,
            ecn: transmit.ecn,
        };
        if faults.delay.is_zero() && line.waiting.load(Ordering::Acquire) == 0 {
            self.inner.try_send(&delayed.transmit())?;
            metrics.sent_bytes.inc_by(delayed.contents.len() as u64);
        } else {
            self.lines.push(line, delayed);
        }
        Ok(())
    }

    /// The datagrams of a send that the dice spare. Only the last may be shorter than the segment
    /// size, and leaving some out keeps that true.
    fn survivors(&self, transmit: &Transmit<'_>, loss_percent: f64, metrics: &PairMetrics) -> Bytes {
        let mut kept = BytesMut::with_capacity(transmit.contents.len());
        let mut dice = self.dice.lock();
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(segment) {
            if dice.random::<f64>() * 100.0 < loss_percent {
                metrics.datagrams_lost.inc();
            } else {
                kept.extend_from_slice(datagram);
            }
        }
        kept.freeze()
    }
}

impl AsyncUdpSocket for FaultySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.muted.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Some(index) = self.by_address.get(&canonical(transmit.destination)) else {
            return self.inner.try_send(transmit);
        };
        let line = &self.lines.peers[*index];
        let faults = line.route.faults.get();
        if !faults.is_none() || line.waiting.load(Ordering::Acquire) > 0 {
            return self.send_faulty(line, faults, transmit);
        }
        self.inner.try_send(transmit)?;
        line.route.metrics.sent_bytes.inc_by(transmit.contents.len() as u64);
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = std::task::ready!(self.inner.poll_recv(context, buffers, meta))?;
        for meta in &meta[..received] {
            if let Some(index) = self.by_address.get(&canonical(meta.addr)) {
                self.lines.peers[*index].route.metrics.received_bytes.inc_by(meta.len as u64);
            }
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl DelayLines {
    /// Lets a send wait until it is due, and behind all sends to the same peer that wait already.
    fn push(&self, line: &PeerLine, mut delayed: Delayed) {
        let size = delayed.contents.len();
        let metrics = &line.route.metrics;
        if self.bytes.load(Ordering::Relaxed) + size > self.maximum_bytes {
            metrics.datagrams_overflow.inc_by(datagrams(size, delayed.segment_size));
            return;
        }
        self.bytes.fetch_add(size, Ordering::Relaxed);
        metrics.sent_bytes.inc_by(size as u64);
        let mut queue = line.queue.lock();
        delayed.due = queue.back().map_or(delayed.due, |last| last.due.max(delayed.due));
        let first = queue.is_empty();
        line.waiting.fetch_add(1, Ordering::AcqRel);
        queue.push_back(delayed);
        drop(queue);
        if first {
            self.changed.notify_one();
        }
    }

    /// When the next send of any peer is due.
    fn next_due(&self) -> Option<Instant> {
        self.peers.iter().filter_map(|line| line.queue.lock().front().map(|delayed| delayed.due)).min()
    }
}

/// Hands delayed sends to the kernel when they are due.
async fn release(lines: Arc<DelayLines>, inner: Arc<dyn AsyncUdpSocket>) {
    let mut poller = Arc::clone(&inner).create_io_poller();
    loop {
        match lines.next_due() {
            Some(due) => tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = lines.changed.notified() => continue,
            },
            None if lines.closed.load(Ordering::Acquire) => return,
            None => {
                lines.changed.notified().await;
                continue;
            }
        }
        for line in &lines.peers {
            release_due(&lines, line, inner.as_ref(), poller.as_mut()).await;
        }
    }
}

/// Hands all due sends of one peer to the kernel.
async fn release_due(
    lines: &DelayLines,
    line: &PeerLine,
    inner: &dyn AsyncUdpSocket,
    mut poller: Pin<&mut dyn UdpPoller>,
) {
    let now = Instant::now();
    loop {
        let delayed = {
            let mut queue = line.queue.lock();
            if queue.front().is_none_or(|delayed| delayed.due > now) {
                return;
            }
            queue.pop_front()
        };
        let Some(delayed) = delayed else { return };
        lines.bytes.fetch_sub(delayed.contents.len(), Ordering::Relaxed);
        let transmit = delayed.transmit();
        let mut outcome = inner.try_send(&transmit);
        while outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            let writable = std::future::poll_fn(|context| poller.as_mut().poll_writable(context)).await;
            outcome = writable.and_then(|()| inner.try_send(&transmit));
        }
        if outcome.is_err() {
            let lost = datagrams(delayed.contents.len(), delayed.segment_size);
            line.route.metrics.datagrams_error.inc_by(lost);
        }
        line.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
