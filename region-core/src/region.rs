//! What the parts of a running region share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::client::{Endpoint, ServerFrame, encode_server_frame};
use hearth_protocol::mesh::{self, Body, MeshFrame, Question};
use hearth_protocol::record::OutboxRecord;
use hearth_protocol::rest::ApiAnswer;
use hearth_protocol::{
    Change, DeviceId, EntryKind, ErrorCode, LogId, LogKind, NodeId, Refusal, RegionId, RegionMap, SealedEntry, UserId,
};
use parking_lot::Mutex;
use prost::Message;
use rand::RngCore;
use region_model::ports::Stores;
use region_model::presence::PresenceBounds;
use region_model::view::{Bounds, View};
use region_model::{Command, CoreGauges, Input, Lane, LogView, Outcome, ParkingBounds};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use crate::call::ApiCall;
use crate::delivery::Delivery;
use crate::feed::FeedRuns;
use crate::hub::Hub;
use crate::links::{LinkEvent, Links};
use crate::media::{Media, MediaOptions};
use crate::metrics::Measures;
use crate::outage::StoreState;
use crate::ownership::Ownership;
use crate::presence::Presence;
use crate::push::{Push, PushOptions};
use crate::receipts::Receipts;
use crate::refusals::KeptRefusals;
use crate::reply::{Heard, ReplyTo};
use crate::typing::{Said, Typing};

/// Longest wait for the core's own answer to a call.
const CALL_PATIENCE: Duration = Duration::from_secs(8);
/// Longest wait for a move: the core gives up one that makes no progress long before, and copies of long logs take long.
const MOVE_PATIENCE: Duration = Duration::from_secs(600);
/// Longest wait for another region's answer to a call.
const PROXY_PATIENCE: Duration = Duration::from_secs(6);
/// Calls of other regions answered at a time; more are refused `OVERLOADED`.
const PROXY_CALLS: usize = 256;
/// Of those that add members: they wait for a second, and keep no other call out meanwhile.
const PROXY_JOINS: usize = 4_096;
/// Ids of requests that the shell makes; the core's have this bit clear.
const SHELL_REQUEST: u64 = 1 << 63;
/// Logs compared per anti-entropy period and kind, beyond those in memory.
const COMPARE_PAGE: usize = 256;

/// The reason of a region that was stopped on purpose.
pub(crate) const STOPPED: &str = "the region is stopped";

/// How a region is set up.
#[derive(Clone, Debug)]
pub struct RegionOptions {
    /// The region.
    pub region: RegionId,
    /// The node.
    pub node: NodeId,
    /// The mesh.
    pub map: RegionMap,
    /// Bounds of decisions.
    pub bounds: Bounds,
    /// Bounds of parking.
    pub parking: ParkingBounds,
    /// Logs in memory.
    pub loaded_logs: usize,
    /// Messages, and moves of cursors, of which the steps are remembered for explanations; at least 1.
    pub explained_messages: usize,
    /// Within which a send is answered, at the latest by `message.queued`; 1 s to 1 min.
    pub answer_timeout: Duration,
    /// How often homes compare with replicas.
    pub anti_entropy: Duration,
    /// After this long without a connect, a region is not resident for a user any more.
    pub resident_for: Duration,
    /// Dedup records of entries older than this are forgotten; longer than any park. 90 days by default (design.md 3).
    pub dedup_window: Duration,
    /// How often the content of deleted messages is taken away, and what was taken away leaves the store's files.
    pub content_sweep: Duration,
    /// How long a day of a conversation's `retentionDays` lasts: shorter, where somebody rehearses it.
    pub retention_day: Duration,
    /// Members above which a conversation is large: its entries go to sessions by workers, its receipts are summed up. The
    /// same as in `bounds`, by which joins share an entry.
    pub fanout_threshold: usize,
    /// How long a user types after it said so.
    pub typing_for: Duration,
    /// Where clients may go instead, best first.
    pub endpoints: Vec<Endpoint>,
    /// Bounds of presence.
    pub presence: PresenceBounds,
    /// How users are woken.
    pub push: PushOptions,
    /// How media are kept.
    pub media: MediaOptions,
}

/// Counters of the shell, for metrics.
#[derive(Debug, Default)]
pub(crate) struct ShellCounters {
    pub(crate) frames_not_sent: AtomicU64,
    pub(crate) frames_unreadable: AtomicU64,
    pub(crate) forks: AtomicU64,
    /// Loss statements that count as open here.
    pub(crate) open_losses: AtomicU64,
}

/// A running region.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) options: RegionOptions,
    pub(crate) stores: Stores,
    pub(crate) links: Arc<dyn Links>,
    pub(crate) ownership: Arc<dyn Ownership>,
    pub(crate) hub: Hub,
    pub(crate) feed_runs: FeedRuns,
    pub(crate) receipts: Receipts,
    pub(crate) typing: Typing,
    pub(crate) presence: Presence,
    pub(crate) push: Push,
    pub(crate) delivery: Delivery,
    pub(crate) media: Media,
    pub(crate) store: StoreState,
    pub(crate) draining: watch::Sender<bool>,
    pub(crate) gauges: Mutex<CoreGauges>,
    pub(crate) counters: ShellCounters,
    inputs: mpsc::Sender<Input<ReplyTo>>,
    outbox: mpsc::Sender<OutboxRecord>,
    pub(crate) refusals: KeptRefusals,
    pub(crate) measures: Measures,
    requests: Mutex<HashMap<u64, oneshot::Sender<mesh::Response>>>,
    next_request: AtomicU64,
    next_connection: AtomicU64,
    pub(crate) proxied: tokio::sync::Semaphore,
    pub(crate) proxied_joins: tokio::sync::Semaphore,
    compared: Mutex<HashMap<LogKind, LogId>>,
}

/// Fresh entropy for a salt.
pub(crate) fn salt() -> [u8; 16] {
    let mut salt = [0; 16];
    rand::rng().fill_bytes(&mut salt);
    salt
}

/// What a region keeps beside its core: sessions, receipts, typing, presence, push, explanations, media.
pub(crate) type Parts = (Hub, Receipts, Typing, Presence, Push, Delivery, Media);

impl Region {
    pub(crate) fn new(
        options: RegionOptions,
        stores: Stores,
        (links, ownership): (Arc<dyn Links>, Arc<dyn Ownership>),
        (hub, receipts, typing, presence, push, delivery, media): Parts,
        inputs: mpsc::Sender<Input<ReplyTo>>,
        outbox: mpsc::Sender<OutboxRecord>,
    ) -> Self {
        Self {
            options,
            stores,
            links,
            ownership,
            hub,
            feed_runs: FeedRuns::default(),
            receipts,
            typing,
            presence,
            push,
            delivery,
            media,
            store: StoreState::default(),
            draining: watch::Sender::new(false),
            gauges: Mutex::new(CoreGauges::default()),
            counters: ShellCounters::default(),
            inputs,
            outbox,
            refusals: KeptRefusals::default(),
            measures: Measures::default(),
            requests: Mutex::new(HashMap::new()),
            next_request: AtomicU64::new(SHELL_REQUEST + 1),
            next_connection: AtomicU64::new(1),
            proxied: tokio::sync::Semaphore::new(PROXY_CALLS),
            proxied_joins: tokio::sync::Semaphore::new(PROXY_JOINS),
            compared: Mutex::new(HashMap::new()),
        }
    }

    pub(crate) fn me(&self) -> &RegionId {
        &self.options.region
    }

    pub(crate) fn new_connection_id(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    /// Queues an input without waiting. Returns whether it was taken.
    pub(crate) fn try_input(&self, input: Input<ReplyTo>) -> bool {
        self.inputs.try_send(input).is_ok()
    }

    /// Queues an input, waiting for room. A region that failed takes none.
    pub(crate) async fn input(&self, input: Input<ReplyTo>) {
        // The loop ends only with the region: then nobody waits for what this would have done.
        let _ = self.inputs.send(input).await;
    }

    /// Has a command sequenced at its home, and waits for the end.
    pub(crate) async fn command(&self, command: Command) -> Result<region_model::Ack, Refusal> {
        self.check_store()?;
        let (reply, heard) = ReplyTo::call();
        self.input(Input::Command { command, salt: salt(), reply, device: None }).await;
        match self.hear(heard).await? {
            Heard::Outcome(Outcome::Acked(ack)) => Ok(ack),
            Heard::Outcome(Outcome::Refused(refusal)) => Err(refusal),
            Heard::Outcome(Outcome::Queued(..)) | Heard::View(_) => {
                Err(Refusal::new(ErrorCode::Internal, "the core answered out of turn"))
            }
        }
    }

    /// Asks what is known of a log. With `ask`, its steward may be asked.
    pub(crate) async fn view(&self, log: LogId, ask: bool) -> Result<LogView, Refusal> {
        self.check_store()?;
        let (reply, heard) = ReplyTo::call();
        self.input(Input::Query { log, ask, reply }).await;
        match self.hear(heard).await? {
            Heard::View(view) => Ok(*view),
            Heard::Outcome(Outcome::Refused(refusal)) => Err(refusal),
            Heard::Outcome(_) => Err(Refusal::new(ErrorCode::Internal, "the core answered out of turn")),
        }
    }

    /// Moves a home that is here.
    pub(crate) async fn move_home(&self, log: LogId, to: RegionId) -> Result<(), Refusal> {
        self.check_store()?;
        let (reply, heard) = ReplyTo::call();
        self.input(Input::Move { log, to, reply }).await;
        self.moved(heard).await
    }

    /// Changes the voters of a home that is here, and moves the home to one of them.
    pub(crate) async fn change_voters(&self, log: LogId, to: RegionId, voters: Vec<RegionId>) -> Result<(), Refusal> {
        self.check_store()?;
        let (reply, heard) = ReplyTo::call();
        self.input(Input::ChangeVoters { log, to, voters, reply }).await;
        self.moved(heard).await
    }

    async fn moved(&self, heard: oneshot::Receiver<Heard>) -> Result<(), Refusal> {
        match self.hear_within(heard, MOVE_PATIENCE).await? {
            Heard::View(_) => Ok(()),
            Heard::Outcome(Outcome::Refused(refusal)) => Err(refusal),
            Heard::Outcome(_) => Err(Refusal::new(ErrorCode::Internal, "the core answered out of turn")),
        }
    }

    async fn hear(&self, heard: oneshot::Receiver<Heard>) -> Result<Heard, Refusal> {
        self.hear_within(heard, CALL_PATIENCE).await
    }

    async fn hear_within(&self, heard: oneshot::Receiver<Heard>, patience: Duration) -> Result<Heard, Refusal> {
        let mut failed = self.store.failed.subscribe();
        tokio::select! {
            biased;
            heard = heard => heard.map_err(|_| Refusal::new(ErrorCode::Overloaded, "the request was dropped")),
            () = Self::until_failed(&mut failed) => Err(self.unavailable()),
            () = self.store.until_away() => Err(self.away_for_now()),
            () = tokio::time::sleep(patience) => Err(Refusal::new(
                ErrorCode::HomeUnreachable,
                "the copies or the home that this needs are out of reach; it may still be done: retry with the same key",
            )
            .with_retry_after(5)),
        }
    }

    /// Has a call answered by another region.
    pub(crate) async fn proxy(&self, to: &RegionId, user: &UserId, call: &ApiCall) -> ApiAnswer {
        let unreachable = || {
            ApiAnswer::from(
                Refusal::new(ErrorCode::HomeUnreachable, format!("region {to} is out of reach")).with_retry_after(5),
            )
        };
        let call = Bytes::from(serde_json::to_vec(call).expect("calls hold only string keys"));
        let question = Question::Api(mesh::ApiCall { user: user.as_str().to_owned(), call });
        let answer = self.ask(to, question).await;
        match answer {
            Some(response) => ApiAnswer { status: u16::try_from(response.status).unwrap_or(500), body: response.body },
            None => unreachable(),
        }
    }

    /// Asks another region; `None` when it does not answer in time.
    pub(crate) async fn ask(&self, to: &RegionId, question: Question) -> Option<mesh::Response> {
        let request_id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let body = Body::Request(mesh::Request { request_id, question: Some(question) });
        let (sender, receiver) = oneshot::channel();
        self.requests.lock().insert(request_id, sender);
        let frame = Bytes::from(MeshFrame { body: Some(body) }.encode_to_vec());
        let mut failed = self.store.failed.subscribe();
        let answer = match self.links.send(to, Lane::Control, frame) {
            // A region that stops waits for nobody: whoever waits holds its store.
            Ok(()) => tokio::select! {
                answer = tokio::time::timeout(PROXY_PATIENCE, receiver) => answer.ok().and_then(Result::ok),
                () = Self::until_failed(&mut failed) => None,
            },
            Err(_) => None,
        };
        self.requests.lock().remove(&request_id);
        answer
    }

    /// Takes what the links tell. Waits when the core is behind, so that the links slow down.
    pub(crate) async fn link_event(self: &Arc<Self>, event: LinkEvent) {
        match event {
            LinkEvent::Up(peer) => {
                self.region_status(&peer, true);
                self.presence.link(&peer, true).await;
                self.push.link(&peer, true).await;
                self.input(Input::LinkUp(peer.clone())).await;
                self.compare_receipts(Some(peer.clone()));
                let region = self.clone();
                tokio::spawn(async move { region.compare_all(peer).await });
            }
            LinkEvent::Down(peer) => {
                self.region_status(&peer, false);
                self.presence.link(&peer, false).await;
                self.push.link(&peer, false).await;
                self.input(Input::LinkDown(peer)).await;
            }
            LinkEvent::Frames(peer, frames) => {
                for frame in frames {
                    self.link_frame(&peer, frame).await;
                }
            }
        }
    }

    fn region_status(&self, peer: &RegionId, reachable: bool) {
        let fenced = self.presence.is_fenced(peer).then_some(true);
        let status = ServerFrame::RegionStatus { region: peer.clone(), reachable, fenced };
        self.hub.to_all(&encode_server_frame(&status, None));
    }

    /// A session that starts while regions are out of reach or fenced hears of each once, as those that lived then did.
    pub(crate) fn tell_unreachable(&self, connection: &crate::edge::Connection) {
        for peer in self.options.map.regions.iter().filter(|peer| *peer != self.me()) {
            let (reachable, fenced) = (self.links.is_up(peer), self.presence.is_fenced(peer));
            if reachable && !fenced {
                continue;
            }
            let status = ServerFrame::RegionStatus { region: peer.clone(), reachable, fenced: fenced.then_some(true) };
            connection.push(crate::edge::EdgeEvent::Frame(encode_server_frame(&status, None)));
        }
    }

    async fn link_frame(self: &Arc<Self>, peer: &RegionId, frame: Bytes) {
        let Ok(MeshFrame { body }) = MeshFrame::decode(frame) else {
            self.counters.frames_unreadable.fetch_add(1, Ordering::Relaxed);
            return;
        };
        // A body of a later version's kind reads as nothing and is skipped.
        let Some(body) = body else { return };
        let mut entries = Vec::new();
        match &body {
            Body::Append(mesh::Append { entries: stored, .. }) | Body::Pulled(mesh::Pulled { entries: stored, .. }) => {
                for encoded in stored {
                    match SealedEntry::decode(encoded.clone()) {
                        Ok(entry) => entries.push(entry),
                        Err(error) => {
                            self.counters.frames_unreadable.fetch_add(1, Ordering::Relaxed);
                            tracing::warn!(region = %self.me(), %peer, %error, "an entry of a peer does not read");
                            return;
                        }
                    }
                }
            }
            Body::Response(response) if response.request_id & SHELL_REQUEST != 0 => {
                if let Some(waiting) = self.requests.lock().remove(&response.request_id) {
                    let _ = waiting.send(response.clone());
                }
                return;
            }
            Body::Push(heard) => return self.push.frame(peer, heard.clone()),
            Body::Receipts(_) | Body::ReceiptDigests(_) => return self.receipts.queue_frame(peer, body),
            Body::Presence(heard) => return self.presence.frame(peer, heard.clone()),
            Body::Typing(heard) => return self.typing.take(Said::Frame(peer.clone(), heard.clone())),
            Body::Request(mesh::Request { request_id, question: Some(Question::Api(call)) }) => {
                self.answer_peer(peer.clone(), *request_id, call.clone());
                return;
            }
            Body::Request(mesh::Request { request_id, question: Some(Question::Refusals(asked)) }) => {
                let (region, peer, request_id, asked) = (self.clone(), peer.clone(), *request_id, asked.clone());
                tokio::spawn(async move {
                    let body = region.refusals_for(&asked).await;
                    let status = if body.is_some() { 200 } else { 400 };
                    region.respond(&peer, mesh::Response { request_id, status, body: body.unwrap_or_default() });
                });
                return;
            }
            _ => {}
        }
        let salt = if matches!(body, Body::Forward(_)) { salt() } else { [0; 16] };
        self.input(Input::Frame { peer: peer.clone(), body: Box::new(body), entries, salt }).await;
    }

    pub(crate) fn respond(&self, peer: &RegionId, response: mesh::Response) {
        let frame = Bytes::from(MeshFrame { body: Some(Body::Response(response)) }.encode_to_vec());
        if self.links.send(peer, Lane::Control, frame).is_err() {
            self.counters.frames_not_sent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An outbox item may be told. A full queue is harmless: the item is on disk, and the worker sweeps.
    pub(crate) fn outbox_ready(&self, item: OutboxRecord) {
        let _ = self.outbox.try_send(item);
    }

    /// A log has its home elsewhere: whoever compares with it, decides there or looks at it hears of it.
    pub(crate) fn home_changed(&self, log: LogId) {
        self.receipts.compare_soon(log);
        self.push.home_changed(log);
        if let Some(conversation) = log.as_conversation() {
            self.hub.home_changed(conversation);
        }
    }

    pub(crate) fn forked(&self, log: LogId, peer: &RegionId) {
        self.counters.forks.fetch_add(1, Ordering::Relaxed);
        tracing::error!(region = %self.me(), %peer, %log, "the lines of home and replica fork");
    }

    /// A user record held here changed: where the user is resident, the region follows what the user is in, and whom the
    /// user may see is another question.
    pub(crate) fn user_changed(self: &Arc<Self>, log: LogId, entry: &SealedEntry) {
        if entry.entry.fixed.kind != EntryKind::User {
            return;
        }
        self.privacy_changed(log, entry);
        if region_model::push::concerns_push(entry) {
            self.push.touched(log);
        }
        let joined = match entry.change() {
            Some(Change::Joined { conversation, .. }) => Some(conversation),
            Some(Change::Removed { .. }) => None,
            _ => return,
        };
        let region = self.clone();
        tokio::spawn(async move {
            let Ok(view) = region.view(log, false).await else { return };
            let View::User(state) = &view.view else { return };
            region.presence.touched(std::iter::once(state.user.clone()));
            if let Some(conversation) = joined
                && state.resident.contains_key(region.me())
            {
                let log = LogId::conversation(conversation);
                region.input(Input::Follow { log, hold: true }).await;
                region.receipts.compare_soon(log);
            }
        });
    }

    /// Compares all logs on disk with a peer whose link came up, page by page.
    async fn compare_all(self: Arc<Self>, peer: RegionId) {
        for kind in [LogKind::Placement, LogKind::User, LogKind::Conversation] {
            let mut after = None;
            loop {
                let Some(last) = self.compare_page(kind, after, std::slice::from_ref(&peer)).await else { break };
                after = Some(last);
            }
        }
    }

    /// Compares the next page of logs with every peer: nothing stays different for longer than a round of pages.
    pub(crate) fn compare_next_page(self: &Arc<Self>) {
        let region = self.clone();
        tokio::spawn(async move {
            let peers: Vec<RegionId> = region
                .options
                .map
                .regions
                .iter()
                .filter(|peer| *peer != region.me() && region.links.is_up(peer))
                .cloned()
                .collect();
            for kind in [LogKind::Placement, LogKind::User, LogKind::Conversation] {
                let after = region.compared.lock().get(&kind).copied();
                let last = region.compare_page(kind, after, &peers).await;
                match last {
                    Some(last) => region.compared.lock().insert(kind, last),
                    None => region.compared.lock().remove(&kind),
                };
            }
        });
    }

    /// Sends the lengths of a page of logs to the peers that should hold them, and follows again what is followed.
    /// Returns the last log of a full page.
    async fn compare_page(&self, kind: LogKind, after: Option<LogId>, peers: &[RegionId]) -> Option<LogId> {
        let page = match self.stores.log.logs(kind, after, COMPARE_PAGE).await {
            Ok(page) => page,
            Err(error) => {
                self.fail(&error.to_string());
                return None;
            }
        };
        for peer in peers {
            let mut lengths = Vec::new();
            for summary in &page {
                let record = &summary.record;
                if record.home == *self.me() && (kind == LogKind::Placement || record.voters.contains(peer)) {
                    lengths.push(mesh::Length {
                        log: Bytes::copy_from_slice(&summary.log.to_bytes()),
                        epoch: record.accepted.0,
                        length: summary.length,
                        hash: summary.last.as_ref().map_or_else(Bytes::new, |last| Bytes::copy_from_slice(&last.hash)),
                        mark: summary.mark,
                    });
                } else if record.home == *peer && kind != LogKind::Placement && !record.voters.contains(self.me()) {
                    self.input(Input::Follow { log: summary.log, hold: true }).await;
                }
            }
            if !lengths.is_empty() {
                self.input(Input::CompareHomes(peer.clone(), lengths)).await;
            }
        }
        (page.len() == COMPARE_PAGE).then(|| page.last().map(|summary| summary.log)).flatten()
    }

    /// A command that this region makes itself.
    pub(crate) fn own_command(&self, log: LogId, kind: EntryKind, id: Uuid, content: Bytes) -> Command {
        Command {
            log,
            kind,
            sender: region_model::region_sender(self.me()),
            id,
            content,
            reply_to: None,
            target: None,
            expires_at: None,
            level: None,
            origin: self.me().clone(),
            original_time: None,
            joined: None,
        }
    }

    /// Refusals kept here are offered to a device that connected.
    pub(crate) async fn device_connected(&self, user: &UserId, device: DeviceId) {
        self.input(Input::DeviceConnected(user.clone(), device)).await;
    }
}
