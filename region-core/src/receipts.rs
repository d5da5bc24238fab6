//! Receipts of this region's sessions, and of other regions: taken in rounds, stored, sent on, told.
//!
//! One task does all of it, a round at a time; between rounds what a member says of one conversation is one claim. The
//! decisions are in `region_model::receipts`.

mod exchange;
mod tell;
mod unread;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hearth_protocol::client::{ReceiptPayload, ServerFrame, encode_server_frame};
use hearth_protocol::mesh::Body;
use hearth_protocol::record::{CursorRecord, Reached};
use hearth_protocol::{Epoch, LogId, Position, Refusal, RegionId, Sequence, UserId};
use parking_lot::Mutex;
use region_model::LogView;
use region_model::line::Line;
use region_model::receipts::{Change, Claim, Claims, Facts, ReceiptBook, Said};
use region_model::view::View;
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval};

use crate::edge::{Connection, EdgeEvent};
use crate::region::Region;
use crate::runtime::wall;
use tell::Summaries;
use unread::Counted;
pub(crate) use unread::can_count;

/// What is said within this is taken together.
const ROUND: Duration = Duration::from_millis(50);
/// Members and conversations whose words wait for the next round; more are dropped, and counted.
const CLAIMS: usize = 65_536;
/// Conversations looked up at a time.
const LOOKUPS: usize = 64;
/// Members whose cursors are in memory, about 150 bytes each; those not used for the longest leave first.
const MEMBERS: usize = 262_144;
/// Cursors of one read of the store.
const PAGE: usize = 1_000;

/// Who said something, for an error.
#[derive(Clone, Debug)]
struct Speaker {
    connection: Arc<Connection>,
    request: Option<String>,
}

/// What a region keeps about receipts.
#[derive(Debug)]
pub(crate) struct Receipts {
    book: Mutex<ReceiptBook>,
    claims: Mutex<Claims<Speaker>>,
    claimed: Notify,
    frames: mpsc::Sender<(RegionId, Body)>,
    /// Conversations to be compared with their home as soon as this region holds them, and for how many rounds more.
    soon: Mutex<BTreeMap<LogId, u32>>,
    comparing: AtomicBool,
    /// The last conversation compared with its home.
    compared: Mutex<Option<LogId>>,
    summaries: Mutex<Summaries>,
    counted: Mutex<BTreeMap<(LogId, UserId), Counted>>,
    started: Instant,
    /// Words of clients.
    pub(crate) taken: AtomicU64,
    /// Words of clients and frames of regions that found a queue full.
    pub(crate) dropped: AtomicU64,
    /// Frames to sessions.
    pub(crate) told: AtomicU64,
}

/// What changed of one conversation, and by whom.
struct Touched {
    log: LogId,
    view: LogView,
    /// Each with the session that said so.
    changes: Vec<(Change, Option<u64>)>,
    /// The region that told it.
    source: Option<RegionId>,
}

impl Receipts {
    pub(crate) fn new(frames: mpsc::Sender<(RegionId, Body)>) -> Self {
        Self {
            book: Mutex::default(),
            claims: Mutex::new(Claims::new(CLAIMS)),
            claimed: Notify::new(),
            frames,
            soon: Mutex::default(),
            comparing: AtomicBool::new(false),
            compared: Mutex::default(),
            summaries: Mutex::default(),
            counted: Mutex::default(),
            started: Instant::now(),
            taken: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }
    }

    /// Takes what a client says; it is looked at in the next round.
    pub(crate) fn take(
        &self,
        connection: &Arc<Connection>,
        request: Option<String>,
        receipt: &ReceiptPayload,
        sent: Option<(Epoch, u64)>,
    ) {
        let log = LogId::conversation(receipt.conversation_id);
        let said = Said { up_to: receipt.up_to_sequence, epoch: receipt.epoch, sent };
        let by = Speaker { connection: connection.clone(), request };
        let taken = self.claims.lock().take(log, connection.user.clone(), said, receipt.read, by);
        let counter = if taken { &self.taken } else { &self.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
        self.claimed.notify_one();
    }

    /// A frame of another region. One that finds the queue full is dropped: digests bring it again.
    pub(crate) fn queue_frame(&self, peer: &RegionId, body: Body) {
        if self.frames.try_send((peer.clone(), body)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// This region drops its copy of a conversation.
    pub(crate) fn forget(&self, log: LogId) {
        self.book.lock().forget(log);
    }

    /// How far a member has read, by epoch. The cursors of the conversation are in memory.
    pub(crate) fn read_parts(&self, log: LogId, user: &UserId) -> Vec<Position> {
        let record = self.book.lock().record(log, user);
        let part = |part: &Reached| Position { epoch: part.epoch, sequence: Sequence(part.up_to) };
        record.map_or_else(Vec::new, |record| record.read.iter().map(part).collect())
    }

    /// How far a member is, as it is stored. The cursors of the conversation are in memory.
    pub(crate) fn record(&self, log: LogId, user: &UserId) -> Option<CursorRecord> {
        self.book.lock().record(log, user)
    }

    /// Members whose cursors are in memory.
    pub(crate) fn members(&self) -> usize {
        self.book.lock().members()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Runs until the region stops.
pub(crate) async fn run(region: Arc<Region>, mut frames: mpsc::Receiver<(RegionId, Body)>) {
    let mut failed = region.store.failed.subscribe();
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut compare = interval(region.options.anti_entropy);
    compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut busy = false;
    loop {
        tokio::select! {
            () = Region::until_failed(&mut failed) => return,
            () = region.receipts.claimed.notified(), if !busy => {
                busy = true;
                round.reset();
            }
            _ = round.tick(), if busy => busy = region.receipt_round().await,
            frame = frames.recv() => match frame {
                Some((peer, body)) => {
                    region.receipt_frame(peer, body).await;
                    busy = true;
                }
                None => return,
            },
            _ = compare.tick() => region.compare_receipts(None),
        }
    }
}

impl Region {
    /// Takes what was said since the last round, and does what is due. Returns whether more will be.
    async fn receipt_round(self: &Arc<Self>) -> bool {
        let claims: Vec<_> = self.receipts.claims.lock().drain().into_iter().collect();
        for chunk in claims.chunks(LOOKUPS) {
            let taken = chunk.iter().map(|(log, claims)| self.take_claims(*log, claims));
            let touched = join_all(taken).await.into_iter().flatten().collect();
            self.touched(touched).await;
        }
        let unfinished = self.receipts.book.lock().unfinished();
        for log in unfinished {
            self.finish(log).await;
        }
        self.compare_those_due_soon().await;
        self.receipts.book.lock().make_room(MEMBERS);
        let unfinished = !self.receipts.book.lock().unfinished().is_empty();
        unfinished || !self.receipts.soon.lock().is_empty() || !self.receipts.claims.lock().is_empty()
    }

    /// Takes what members said of one conversation, and refuses the others.
    async fn take_claims(self: &Arc<Self>, log: LogId, claims: &[Claim<Speaker>]) -> Option<Touched> {
        let view = match self.view(log, true).await {
            Ok(view) if view.placement.is_some() => view,
            Ok(_) => {
                claims.iter().for_each(|claim| refuse(&claim.by, &Refusal::no_conversation()));
                return None;
            }
            Err(refusal) => {
                claims.iter().for_each(|claim| refuse(&claim.by, &refusal));
                return None;
            }
        };
        let members = view.view.members().filter(|_| view.held).cloned();
        let Some(members) = members else {
            self.pass_claims_on(log, &view, claims);
            return None;
        };
        if !self.load_cursors(log).await {
            return None;
        }
        let line = Line::of(&view);
        let facts = Facts { line: &line, last: view.marked.saturating_sub(1), members: &members };
        let mut changes = Vec::new();
        for claim in claims {
            if !members.contains_key(&claim.user) {
                refuse(&claim.by, &Refusal::no_conversation());
                continue;
            }
            let change = self.receipts.book.lock().claim(log, claim, &facts, wall(), self.receipts.now());
            changes.extend(change.map(|change| (change, Some(claim.by.connection.id))));
        }
        Some(Touched { log, view, changes, source: None })
    }

    /// Has the cursors of a conversation in memory. Returns whether they are.
    pub(crate) async fn load_cursors(&self, log: LogId) -> bool {
        if self.receipts.book.lock().is_loaded(log) {
            return true;
        }
        let mut rows: Vec<(CursorRecord, u64)> = Vec::new();
        loop {
            let after = rows.last().map(|(row, _)| row.user.clone());
            match self.stores.cursors.cursors(log, after, PAGE).await {
                Ok(page) => {
                    let full = page.len() == PAGE;
                    rows.extend(page);
                    if !full {
                        break;
                    }
                }
                Err(error) => {
                    self.fail(&error.to_string());
                    return false;
                }
            }
        }
        self.receipts.book.lock().load(log, rows, self.receipts.now());
        true
    }

    /// Stores what changed, in one call, then sends it on and tells it.
    async fn touched(self: &Arc<Self>, touched: Vec<Touched>) {
        let changed = |touched: &Touched| {
            let users = touched.changes.iter().map(|(change, _)| change.user.clone());
            users.map(|user| (touched.log, user)).collect::<Vec<_>>()
        };
        let users: Vec<(LogId, UserId)> = touched.iter().flat_map(changed).collect();
        if users.is_empty() {
            return;
        }
        let records: Vec<CursorRecord> = {
            let book = self.receipts.book.lock();
            users.iter().filter_map(|(log, user)| book.record(*log, user)).collect()
        };
        match self.stores.cursors.put_cursors(records).await {
            Ok(change) => {
                let mut book = self.receipts.book.lock();
                for touched in &touched {
                    for (moved, _) in touched.changes.iter().filter(|(moved, _)| moved.read.is_some()) {
                        book.stored(touched.log, &moved.user, change);
                    }
                }
            }
            Err(error) => return self.fail(&error.to_string()),
        }
        for touched in touched.iter().filter(|touched| !touched.changes.is_empty()) {
            self.delivery.moved(touched.log, touched.changes.iter().map(|(change, _)| change));
            let read = touched.changes.iter().filter(|(change, _)| change.read.is_some());
            self.push_read(touched.log, read.map(|(change, _)| &change.user));
            self.send_on(touched.log, &touched.view, touched.source.as_ref());
            self.tell(touched).await;
        }
    }

    /// Sends on what waited for its second, and sums up.
    async fn finish(self: &Arc<Self>, log: LogId) {
        let Ok(view) = self.view(log, false).await else { return };
        if !view.held || !matches!(view.view, View::Conversation(_)) {
            return self.receipts.forget(log);
        }
        self.send_on(log, &view, None);
        self.sum_up(log, &view).await;
    }
}

fn refuse(speaker: &Speaker, refusal: &Refusal) {
    let frame = encode_server_frame(&ServerFrame::Error(refusal.clone()), speaker.request.as_deref());
    speaker.connection.push(EdgeEvent::Frame(frame));
}
