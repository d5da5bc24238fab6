//! The connections of a run: one task each on one thread, several frames a write, nothing parsed that is not counted.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use hearth_protocol::MessageId;
use hearth_protocol::client::{AuthPayload, ServerFrame};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::run::Run;
use super::wire::{self, Number, Reader, Seen, Template};
use super::{BenchError, opening};

/// How long opening one connection may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// One connection of a run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// `host:port`.
    pub(super) host: String,
    pub(super) token: String,
    pub(super) conversation: String,
    /// The conversation's last number before the run.
    pub(super) base: u64,
    /// Its number as a sender, if it sends.
    pub(super) sender: Option<u16>,
    /// Whose messages it is to get.
    pub(super) hears: Vec<u16>,
}

/// The sending half of one connection.
#[derive(Debug)]
pub(super) struct Link {
    write: OwnedWriteHalf,
    out: RefCell<Vec<u8>>,
    written: Cell<usize>,
    template: Template,
    /// A `message.received` up to its number.
    receipt: String,
    /// Index of the connection, and of its tally.
    pub(super) index: usize,
    pub(super) sender: Option<u16>,
}

impl Link {
    /// Appends one message, sent or due at `at` (nanoseconds of the run's clock).
    pub(super) fn append(&self, run: &mut Run, at: u64) {
        let Some(sender) = self.sender else { return };
        let counter = run.sent(sender, at);
        let number = Number { run: run.id, sender, counter };
        self.template.append(number, &mut self.out.borrow_mut());
    }

    /// Appends a `message.received` up to a number.
    pub(super) fn append_receipt(&self, up_to: u64) {
        self.append_text(format!("{}{up_to}}}}}", self.receipt).as_bytes());
    }

    /// Appends a text frame.
    pub(super) fn append_text(&self, payload: &[u8]) {
        self.append_control(wire::TEXT, payload);
    }

    fn append_control(&self, opcode: u8, payload: &[u8]) {
        wire::append_frame(opcode, payload, &mut self.out.borrow_mut());
    }

    fn is_waiting(&self) -> bool {
        self.written.get() < self.out.borrow().len()
    }

    /// Writes as much as the socket takes.
    pub(super) fn flush(&self) -> std::io::Result<()> {
        let mut out = self.out.borrow_mut();
        while self.written.get() < out.len() {
            match self.write.try_write(&out[self.written.get()..]) {
                Ok(length) => self.written.set(self.written.get() + length),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        out.clear();
        self.written.set(0);
        Ok(())
    }
}

/// The receiving half of one connection.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) read: OwnedReadHalf,
    /// What came right behind `connected`.
    pub(super) early: Vec<u8>,
}

/// Opens the connections of a plan, in its order, `at_once` of them at a time.
pub(super) async fn open_all(
    plans: &[Plan],
    text: &str,
    at_once: usize,
) -> Result<Vec<(Rc<Link>, Incoming)>, BenchError> {
    let opening = stream::iter(plans.iter().enumerate()).map(|(index, plan)| open(index, plan, text));
    opening.buffered(at_once).try_collect().await
}

/// Opens a connection, authenticates, and waits for `connected`.
pub(super) async fn open(index: usize, plan: &Plan, text: &str) -> Result<(Rc<Link>, Incoming), BenchError> {
    let failed = |what: String| BenchError::Connect { host: plan.host.clone(), what };
    let opening = async {
        let stream = TcpStream::connect(&plan.host).await.map_err(|error| failed(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
        let auth = AuthPayload { token: plan.token.clone(), ..AuthPayload::default() };
        opening::open(stream, &plan.host, &auth).await.map_err(failed)
    };
    let opened = tokio::time::timeout(OPEN_TIMEOUT, opening).await;
    let opened = opened.map_err(|_| failed(format!("took longer than {} s", OPEN_TIMEOUT.as_secs())))??;
    let (read, write) = opened.stream.into_split();
    let link = Link {
        write,
        out: RefCell::new(Vec::new()),
        written: Cell::new(0),
        template: Template::new(&plan.conversation, text),
        receipt: format!(
            r#"{{"type":"message.received","payload":{{"conversationId":"{}","upToSequence":"#,
            plan.conversation
        ),
        index,
        sender: plan.sender,
    };
    Ok((Rc::new(link), Incoming { read, early: opened.early }))
}

/// Reads one connection until it ends, and keeps its window full.
pub(super) async fn drive(link: Rc<Link>, incoming: Incoming, run: Rc<RefCell<Run>>, read_bytes: usize) {
    let Incoming { mut read, early } = incoming;
    let mut reader = Reader::default();
    let mut filled = early.len();
    let mut buffer = early;
    buffer.resize(filled + read_bytes, 0);
    loop {
        let length = if link.is_waiting() {
            tokio::select! {
                length = read.read(&mut buffer[filled..]) => length,
                ready = link.write.writable() => {
                    if ready.is_err() || link.flush().is_err() {
                        break;
                    }
                    continue;
                }
            }
        } else {
            read.read(&mut buffer[filled..]).await
        };
        let Ok(length @ 1..) = length else { break };
        filled += length;
        let now = run.borrow().now();
        let taken = take_frames(&buffer[..filled], &mut reader, &link, &mut run.borrow_mut(), now);
        match taken {
            Ok(taken) => {
                buffer.copy_within(taken..filled, 0);
                filled -= taken;
            }
            Err(error) => {
                run.borrow_mut().note(error.to_string());
                break;
            }
        }
        if filled == buffer.len() {
            buffer.resize(filled * 2, 0);
        }
        refill(&link, &mut run.borrow_mut(), now);
        if link.flush().is_err() {
            break;
        }
    }
    run.borrow_mut().ended(link.index);
}

/// Takes in every whole frame; gives how many bytes they were.
fn take_frames(
    bytes: &[u8],
    reader: &mut Reader,
    link: &Link,
    run: &mut Run,
    now: u64,
) -> Result<usize, wire::WireError> {
    let mut taken = 0;
    while let Some(frame) = wire::first_frame(&bytes[taken..])? {
        let payload = &bytes[taken + frame.start..taken + frame.end];
        taken += frame.end;
        match frame.opcode {
            wire::TEXT => match reader.read(payload) {
                Seen::Ack { number, sequence } => run.acked(link.index, number, sequence, now),
                Seen::New { number, sequence } => run.delivered(link.index, number, sequence, now),
                Seen::Other => other(payload, link, run, now),
            },
            wire::PING => link.append_control(wire::PONG, payload),
            wire::CLOSE => run.note("the server closed a connection".to_owned()),
            _ => {}
        }
    }
    Ok(taken)
}

/// Frames that are rare in a good run, or have their fields in another order: harmless ones are passed over, messages
/// are counted as ever, the rest is noted.
fn other(payload: &[u8], link: &Link, run: &mut Run, now: u64) {
    let number = |id: MessageId| Number::parse(id.to_string().as_bytes());
    let text = String::from_utf8_lossy(payload);
    match ServerFrame::parse(&text) {
        Ok((_, Some(ServerFrame::Ack(ack)))) => match number(ack.message_id) {
            Some(number) => run.acked(link.index, number, ack.sequence_number, now),
            None => run.note("an ack for a message that was never sent".to_owned()),
        },
        Ok((_, Some(ServerFrame::New(row)))) => match number(row.message_id) {
            Some(number) => run.delivered(link.index, number, row.sequence_number, now),
            None => run.position_of_other(link.index, row.sequence_number, &row.kind),
        },
        Ok((_, Some(ServerFrame::Error(refusal)))) => run.note(format!("error: {refusal}")),
        Ok((_, Some(ServerFrame::Queued(queued)))) => run.note(format!("queued: {:?}", queued.reason)),
        Ok((_, Some(ServerFrame::Refused(refused)))) => run.note(format!("refused: {}", refused.error.as_str())),
        Ok((_, Some(ServerFrame::Close(close)))) => run.note(format!("closed: {} {}", close.code, close.reason)),
        Ok((_, Some(ServerFrame::SyncRequired(_)))) => run.note("a session was switched to pull".to_owned()),
        Ok(_) => {}
        Err(_) => run.note("a frame of another form than the contract fixes".to_owned()),
    }
}

/// Sends until as many messages are outstanding as the window has.
pub(super) fn refill(link: &Link, run: &mut Run, now: u64) {
    let Some(sender) = link.sender else { return };
    while run.wants(sender) {
        link.append(run, now);
    }
}

/// Looks once a millisecond whether senders that waited for those who hear them may go on.
pub(super) async fn refills(links: Vec<Rc<Link>>, run: Rc<RefCell<Run>>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    loop {
        ticks.tick().await;
        for link in links.iter().filter(|link| link.sender.is_some()) {
            let mut run = run.borrow_mut();
            let now = run.now();
            refill(link, &mut run, now);
            // A broken connection is noticed by its reader.
            let _ = link.flush();
        }
    }
}

/// Sends at an even rate over all senders, whatever comes back, until `stop` says so: one sender after the other, each
/// `burst` messages at a time. Each message counts from the time when it was due, so that a stall of either side shows
/// in the latencies.
pub(super) async fn pace(links: Vec<Rc<Link>>, run: Rc<RefCell<Run>>, per_second: f64, burst: u64) {
    let senders: Vec<_> = links.into_iter().filter(|link| link.sender.is_some()).collect();
    if senders.is_empty() || per_second <= 0.0 {
        return;
    }
    let start = run.borrow().now();
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let bursts_per_second = per_second / burst as f64;
    let mut emitted = 0u64;
    while !run.borrow().is_stopped() {
        ticks.tick().await;
        {
            let mut run = run.borrow_mut();
            let due = ((run.now() - start) as f64 / 1e9 * bursts_per_second) as u64;
            while emitted < due {
                let at = start + (emitted as f64 / bursts_per_second * 1e9) as u64;
                let sender = &senders[(emitted % senders.len() as u64) as usize];
                for _ in 0..burst {
                    sender.append(&mut run, at);
                }
                emitted += 1;
            }
        }
        // A socket that was full is tried again with the next tick.
        for link in senders.iter().filter(|link| link.is_waiting()) {
            if link.flush().is_err() {
                return;
            }
        }
    }
}

/// Nobody is closed for silence in a long run.
pub(super) async fn heartbeats(links: Vec<Rc<Link>>) {
    loop {
        tokio::time::sleep(Duration::from_secs(20)).await;
        for link in &links {
            link.append_control(wire::TEXT, br#"{"type":"heartbeat","timestamp":0}"#);
            // A broken connection is noticed by its reader.
            let _ = link.flush();
        }
    }
}

/// Each connection says once a second how far it has stored what came, as clients do.
pub(super) async fn receipts(links: Vec<Rc<Link>>, run: Rc<RefCell<Run>>) {
    const STEPS: usize = 50;
    let mut said = vec![0; links.len()];
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / STEPS as u32);
    // A part of the connections at each step: clients are not in step with each other.
    for step in (0..STEPS).cycle() {
        ticks.tick().await;
        for link in links.iter().skip(step).step_by(STEPS) {
            let up_to = run.borrow().received_up_to(link.index);
            if up_to > std::mem::replace(&mut said[link.index], up_to) {
                link.append_receipt(up_to);
                // A broken connection is noticed by its reader.
                let _ = link.flush();
            }
        }
    }
}

/// A clock that starts with the run, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunClock(Instant);

impl RunClock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
