//! Answers that do not come: the connection ends between the request of a conditional batch and its answer, or before
//! the server has the request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use region_cql::{Cql, CqlOptions};
use region_model::conformance::samples::{append, conversation, dedup_key, entries};
use region_model::ports::{AppendOutcome, LogAppend};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::{Keyspace, options, region};

/// A frame of CQL: nine bytes of header, the opcode at the fifth, the body's length in the last four.
const HEADER: usize = 9;
const BATCH: u8 = 0x0d;

/// What happened to batches. Of seven the second is lost itself, and the fourth and fifth reach the server and their
/// answers are lost. Seven and the three attempts that a write mostly takes then have no common measure, so that every
/// combination comes.
#[derive(Debug, Default)]
struct Losses {
    batches: AtomicUsize,
    requests: AtomicUsize,
    answers: AtomicUsize,
}

async fn frame(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut frame = vec![0; HEADER];
    from.read_exact(&mut frame).await.ok()?;
    let length = u32::from_be_bytes(frame[5..9].try_into().expect("four bytes"));
    frame.resize(HEADER + usize::try_from(length).expect("fits"), 0);
    from.read_exact(&mut frame[HEADER..]).await.ok()?;
    Some(frame)
}

/// Passes frames on. Ends, and with it the connection, where something is to be lost.
async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, losses: Arc<Losses>, lose: Arc<AtomicUsize>) {
    while let Some(frame) = frame(&mut from).await {
        let nth = if frame[4] == BATCH { losses.batches.fetch_add(1, Ordering::SeqCst) % 7 } else { 0 };
        if nth == 1 {
            losses.requests.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if nth == 3 || nth == 4 {
            // The stream number tells its answer.
            lose.store(1 + usize::from(u16::from_be_bytes([frame[2], frame[3]])), Ordering::SeqCst);
        }
        if to.write_all(&frame).await.is_err() {
            return;
        }
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, losses: Arc<Losses>, lose: Arc<AtomicUsize>) {
    while let Some(frame) = frame(&mut from).await {
        if 1 + usize::from(u16::from_be_bytes([frame[2], frame[3]])) == lose.load(Ordering::SeqCst) {
            losses.answers.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if to.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// A way to the server that loses; where it listens.
async fn lossy(server: String, losses: Arc<Losses>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("has an address");
    tokio::spawn(async move {
        loop {
            let Ok((client, _)) = listener.accept().await else { return };
            let Ok(server) = TcpStream::connect(&server).await else { return };
            let (client_read, client_write) = client.into_split();
            let (server_read, server_write) = server.into_split();
            let lose = Arc::new(AtomicUsize::new(0));
            let (there, back) = (Arc::clone(&losses), Arc::clone(&losses));
            let mark = Arc::clone(&lose);
            tokio::spawn(async move {
                // Either end of the connection ends both.
                tokio::select! {
                    () = requests(client_read, server_write, there, mark) => {}
                    () = answers(server_read, client_write, back, lose) => {}
                }
            });
        }
    });
    address
}

/// Every append is answered with what became of it, and none is there twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_looked_for_until_the_outcome_is_known() {
    let keyspace = Keyspace(options(7));
    // The schema is made on a way that does not lose.
    drop(super::open(&keyspace.0));
    let losses = Arc::new(Losses::default());
    let way = lossy(keyspace.0.nodes[0].clone(), Arc::clone(&losses)).await;
    let through = CqlOptions { nodes: vec![way.to_string()], ..keyspace.0.clone() };
    let store = Cql::open(&through, &region()).await.expect("opens").stores();
    let (log, mut length) = (conversation(1), 0);
    for step in 0..40_u64 {
        let count = step % 3;
        let asked = LogAppend { mark: length, ..append(log, length, count) };
        let outcome = store.log.append(vec![asked]).await.expect("the outcome becomes known");
        assert!(matches!(outcome[0], AppendOutcome::Applied { .. }), "step {step}: {outcome:?}");
        length += count;
        let loaded = store.log.load(log).await.expect("loads");
        assert_eq!(loaded.length, length, "step {step}");
    }
    let read = store.log.read(log, 0, length, usize::MAX, usize::MAX).await.expect("reads");
    assert_eq!(read, entries(log, 0..length));
    let keys = (0..length).map(|sequence| dedup_key(log, sequence)).collect();
    assert!(store.log.dedup(keys).await.expect("looks up").iter().all(Option::is_some));
    let (requests, answers) = (losses.requests.load(Ordering::SeqCst), losses.answers.load(Ordering::SeqCst));
    println!("lost: {requests} requests, {answers} answers");
    assert!(requests >= 8 && answers >= 8, "lost: {requests} requests, {answers} answers");
}
