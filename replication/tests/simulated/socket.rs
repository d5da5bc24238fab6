//! A socket for quinn over turmoil's network (design's correctness.md, section 2).

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// The port of every region's links.
pub(crate) const PORT: u16 = 4400;

/// Datagrams that came, and who waits for them.
#[derive(Debug, Default)]
struct Arrived {
    datagrams: VecDeque<(Vec<u8>, SocketAddr)>,
    waits: Option<Waker>,
}

/// The socket of one host.
pub(crate) struct SimulatedSocket {
    udp: Arc<turmoil::net::UdpSocket>,
    arrived: Arc<Mutex<Arrived>>,
    /// turmoil receives only as a future: a task does that.
    pump: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for SimulatedSocket {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SimulatedSocket").finish_non_exhaustive()
    }
}

impl Drop for SimulatedSocket {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl SimulatedSocket {
    pub(crate) async fn bind() -> io::Result<Arc<Self>> {
        let udp = Arc::new(turmoil::net::UdpSocket::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT)).await?);
        let arrived = Arc::<Mutex<Arrived>>::default();
        let (from, to) = (Arc::clone(&udp), Arc::clone(&arrived));
        let pump = tokio::spawn(async move {
            let mut datagram = vec![0; 65_536];
            while let Ok((length, sender)) = from.recv_from(&mut datagram).await {
                let mut arrived = to.lock();
                arrived.datagrams.push_back((datagram[..length].to_vec(), sender));
                if let Some(waker) = arrived.waits.take() {
                    waker.wake();
                }
            }
        });
        Ok(Arc::new(Self { udp, arrived, pump }))
    }
}

/// There is always room for one more datagram.
#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for SimulatedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.udp.try_send_to(transmit.contents, transmit.destination) {
            // A network that is cut shows nothing of it to who sends.
            Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut arrived = self.arrived.lock();
        let mut count = 0;
        while count < buffers.len().min(meta.len()) {
            let Some((datagram, sender)) = arrived.datagrams.pop_front() else { break };
            buffers[count][..datagram.len()].copy_from_slice(&datagram);
            let mut about = RecvMeta::default();
            (about.addr, about.len, about.stride) = (sender, datagram.len(), datagram.len());
            meta[count] = about;
            count += 1;
        }
        if count == 0 {
            arrived.waits = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
