//! The socket over a recorder instead of a network.

use super::*;
use crate::faults::LinkFaults;
use crate::metrics::LinkMetrics;
use std::time::Duration;

/// Takes every send and remembers when it came.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<Sent>>);

/// When, what, and the segment size.
type Sent = (Instant, Vec<u8>, Option<usize>);

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Recorder {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.lock().push((Instant::now(), transmit.contents.to_vec(), transmit.segment_size));
        Ok(())
    }

    fn poll_recv(&self, _: &mut Context<'_>, _: &mut [IoSliceMut<'_>], _: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([127, 0, 0, 1], 1)))
    }
}

struct Bench {
    recorder: Arc<Recorder>,
    socket: Arc<FaultySocket>,
    control: SocketControl,
    faults: LinkFaults,
    metrics: PairMetrics,
}

const PEER: ([u8; 4], u16) = ([127, 0, 0, 1], 2);

fn bench(maximum_delayed_bytes: usize) -> Bench {
    let (faults, recorder) = (LinkFaults::new(), Arc::new(Recorder::default()));
    let metrics = LinkMetrics::default().pair("a", "b");
    let route = Route { address: PEER.into(), faults: faults.cell("a", "b"), metrics: metrics.clone() };
    let (socket, control) = wrap(recorder.clone(), vec![route], maximum_delayed_bytes, 1);
    Bench { recorder, socket, control, faults, metrics }
}

impl Bench {
    fn fault(&self, state: FaultState) {
        self.faults.set("a", "b", state);
    }

    fn send(&self, contents: &[u8], segment_size: Option<usize>) {
        let transmit = Transmit { destination: PEER.into(), ecn: None, contents, segment_size, src_ip: None };
        self.socket.try_send(&transmit).expect("a network shows no errors");
    }

    fn sent(&self) -> Vec<u8> {
        self.recorder.0.lock().iter().flat_map(|(_, contents, _)| contents.clone()).collect()
    }
}

impl Bench {
    /// Waits until `bytes` bytes in all were handed on.
    async fn until_sent(&self, bytes: usize) {
        let sent = async {
            while self.sent().len() < bytes {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), sent).await.expect("sent");
        assert_eq!(self.sent().len(), bytes);
    }
}

fn delay(milliseconds: u64) -> FaultState {
    FaultState { delay: Duration::from_millis(milliseconds), ..FaultState::default() }
}

#[tokio::test]
async fn sends_leave_after_their_delay_in_order_even_when_it_shrinks() {
    let bench = bench(1_000);
    let start = Instant::now();
    bench.fault(delay(40));
    bench.send(&[1], None);
    bench.fault(delay(10));
    bench.send(&[2], None);
    bench.fault(FaultState::default());
    bench.send(&[3], None);
    assert_eq!(bench.sent(), []);
    bench.until_sent(3).await;
    assert_eq!(bench.sent(), [1, 2, 3]);
    let first = bench.recorder.0.lock()[0].0;
    assert!(first - start >= Duration::from_millis(40));
    bench.send(&[4], None);
    assert_eq!(bench.sent(), [1, 2, 3, 4], "nothing waits: straight through");
    assert_eq!(bench.metrics.sent_bytes.get(), 4);
}

#[tokio::test]
async fn a_cut_drops_silently_and_counts_every_datagram_but_no_byte() {
    let bench = bench(1_000);
    bench.fault(FaultState { cut: true, ..FaultState::default() });
    bench.send(&[0; 25], Some(10));
    assert_eq!(bench.sent(), []);
    assert_eq!(bench.metrics.datagrams_cut.get(), 3);
    assert_eq!(bench.metrics.sent_bytes.get(), 0);
}

#[tokio::test]
async fn loss_takes_single_datagrams_out_of_a_segmented_send() {
    let bench = bench(1_000_000);
    bench.fault(FaultState { loss_percent: 50.0, ..FaultState::default() });
    for _ in 0..200 {
        bench.send(&[1, 1, 2, 2, 3], Some(2));
    }
    let sent = bench.recorder.0.lock().clone();
    for (_, contents, segment_size) in &sent {
        let segments: Vec<&[u8]> = contents.chunks(segment_size.unwrap_or(usize::MAX)).collect();
        assert!(segments.iter().all(|segment| [&[1, 1][..], &[2, 2], &[3]].contains(segment)), "{segments:?}");
    }
    let lost = bench.metrics.datagrams_lost.get();
    assert!((200..400).contains(&lost), "{lost} of 600");
}

#[tokio::test]
async fn what_exceeds_the_bound_of_delayed_bytes_is_lost_and_counted() {
    let bench = bench(25);
    bench.fault(delay(10));
    for byte in 1..=3 {
        bench.send(&[byte; 10], None);
    }
    bench.until_sent(20).await;
    assert_eq!(bench.metrics.datagrams_overflow.get(), 1);
    bench.send(&[4; 10], None);
    bench.until_sent(30).await;
}

#[tokio::test]
async fn the_task_ends_with_the_socket_after_the_last_delayed_send() {
    let bench = bench(1_000);
    bench.fault(delay(10));
    bench.send(&[1], None);
    drop(bench.socket);
    bench.control.releasing.await.expect("ends");
    assert_eq!(bench.recorder.0.lock().len(), 1);
}

#[tokio::test]
async fn a_muted_socket_sends_nothing_more() {
    let bench = bench(1_000);
    bench.control.muted.store(true, Ordering::Relaxed);
    bench.send(&[1], None);
    assert_eq!(bench.sent(), []);
}
