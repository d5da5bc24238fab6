//! The handle of a running region.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::client::{
    Endpoint, ExplanationPayload, MessageName, PresenceSetRequest, PresenceUsersRequest, ReceiptPayload, ServerFrame,
    Submission, TypingRequest, encode_server_frame,
};
use hearth_protocol::push::Subscription;
use hearth_protocol::rest::{ApiAnswer, SyncCursor};
use hearth_protocol::{ConversationId, DeviceId, Epoch, ErrorCode, NodeId, Refusal, RegionId, UserId};
use region_model::delivery::Asker;
use region_model::ports::{StoreError, Stores};
use region_model::{CoreOptions, Input, Outcome, RegionCore};
use tokio::sync::mpsc;
use tracing::Instrument;
use uuid::Uuid;

use crate::call::ApiCall;
use crate::delivery::{ASKS, Delivery};
use crate::edge::{Connection, EdgeEvent, QueueBounds};
use crate::erase::UserFound;
use crate::hub::Hub;
use crate::links::{LinkEvent, Links};
use crate::media::Media;
use crate::ownership::Ownership;
use crate::presence::Presence;
use crate::push::Push;
use crate::receipts::Receipts;
use crate::region::{Region, RegionOptions, STOPPED, salt};
use crate::reply::{ReplyTo, SendReply};
use crate::runtime::{Runtime, wall_micros};
use crate::typing::{Said, Typing};
use crate::{
    Loss, departures, expiry, losses, media, notices, outbox, ownership, presence, push, receipts, retention, sweep,
    typing, word,
};

/// A session that the core knows.
#[derive(Debug)]
pub struct Opened {
    /// Give this to [`RegionHandle::send`] and [`RegionHandle::close`]; what to send to the client comes from it.
    pub connection: Arc<Connection>,
    /// Whether this region knows all of the user's conversations. If not, a `feed.complete` frame follows as an event.
    pub feed_complete: bool,
}

/// What a resume of one conversation gives, as frames `message.new`.
pub type Replay = region_model::session::Replay<Bytes>;

/// Whether the region serves, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It serves.
    Ready,
    /// It does not, for this reason.
    NotReady(String),
}

/// A running region. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RegionHandle {
    region: Arc<Region>,
}

/// Waits at most this long for the user's record before a session starts with a partial feed.
const ARRIVAL_PATIENCE: Duration = Duration::from_millis(800);
/// Pause before an arrival that failed is tried again.
const ARRIVAL_AGAIN: Duration = Duration::from_secs(1);
/// Inputs that wait for the core; a full queue refuses sends with `OVERLOADED` and slows links down.
const INPUTS: usize = 16_384;
/// Outbox items that wait for the worker; what a full queue leaves out is swept from disk.
const OUTBOX: usize = 4_096;
/// Notices that wait to be made.
const NOTICES: usize = 1_024;
/// Frames of other regions about receipts that wait; what finds the queue full is compared later.
const RECEIPT_FRAMES: usize = 1_024;
/// Words about presence that wait; what finds the queue full is made good by a sweep, a digest or another request.
const PRESENCE: usize = 16_384;
/// Words about push that wait; what finds the queue full is said again.
const PUSH: usize = 16_384;
/// Words about typing that wait; what finds the queue full is dropped.
const TYPING: usize = 1_024;

impl RegionHandle {
    /// Starts a region over its stores and links. Parked sends are taken up before anything else.
    ///
    /// # Errors
    /// When the store does not read.
    pub async fn start(
        options: RegionOptions,
        stores: Stores,
        links: Arc<dyn Links>,
        ownership: Arc<dyn Ownership>,
    ) -> Result<Self, StoreError> {
        let (inputs, input_queue) = mpsc::channel(INPUTS);
        let (outbox, outbox_queue) = mpsc::channel(OUTBOX);
        let (notices, notice_queue) = mpsc::channel(NOTICES);
        let (receipt_frames, receipt_queue) = mpsc::channel(RECEIPT_FRAMES);
        let (said, said_queue) = mpsc::channel(TYPING);
        let (presence, presence_queue) = mpsc::channel(PRESENCE);
        let (push, push_queue) = mpsc::channel(PUSH);
        let (asks, ask_queue) = mpsc::channel(ASKS);
        let (receipts, typing) = (Receipts::new(receipt_frames), Typing::new(said));
        let delivery = Delivery::new(options.explained_messages, asks);
        let media = Media::load(&*stores.map).await?;
        let hub = (Hub::new(notices), receipts, typing, Presence::new(presence), Push::new(push), delivery, media);
        let core = RegionCore::new(CoreOptions {
            me: options.region.clone(),
            map: options.map.clone(),
            bounds: options.bounds,
            parking: options.parking,
            loaded_logs: options.loaded_logs,
            answer_milliseconds: u64::try_from(options.answer_timeout.as_millis()).unwrap_or(u64::MAX / 16),
        });
        let parked = all_parked(&stores).await?;
        let tails = all_tails(&stores).await?;
        let words = word::kept(&*stores.map).await?;
        let region = Arc::new(Region::new(options, stores, (links, ownership), hub, inputs, outbox));
        parked.iter().for_each(|send| region.refusals.stored(send));
        region.input(Input::ParkedAtStart(parked)).await;
        region.input(Input::TailsAtStart(tails)).await;
        for (lost, fence) in words {
            region.input(Input::AcceptLoss(lost, fence)).await;
        }
        let span = tracing::debug_span!("home", region = %region.me());
        tokio::spawn(Runtime::new(region.clone(), core, (input_queue, ask_queue)).run().instrument(span));
        tokio::spawn(ownership::run(region.clone()));
        tokio::spawn(outbox::run(region.clone(), outbox_queue));
        tokio::spawn(notices::run(region.clone(), notice_queue));
        tokio::spawn(departures::run(region.clone()));
        tokio::spawn(expiry::run(region.clone()));
        tokio::spawn(sweep::run(region.clone()));
        tokio::spawn(retention::run(region.clone()));
        tokio::spawn(media::run(region.clone()));
        tokio::spawn(losses::run(region.clone()));
        tokio::spawn(receipts::run(region.clone(), receipt_queue));
        tokio::spawn(typing::run(region.clone(), said_queue));
        tokio::spawn(presence::run(region.clone(), presence_queue));
        tokio::spawn(push::run(region.clone(), push_queue));
        Ok(Self { region })
    }

    /// The region's name.
    #[must_use]
    pub fn region(&self) -> &RegionId {
        &self.region.options.region
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.region.options.node
    }

    /// Other regions that clients may try, best first: by round trip where it is known.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let mut endpoints = self.region.options.endpoints.clone();
        endpoints.sort_by_key(|endpoint| {
            self.region.links.round_trip(&endpoint.region).unwrap_or(Duration::from_secs(3_600))
        });
        endpoints
    }

    /// Whether the region serves: its store works and it is not draining.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        if let Some(reason) = self.region.store.failed.borrow().as_ref() {
            return Readiness::NotReady(format!("STORE_UNAVAILABLE: {reason}"));
        }
        if let Some(reason) = self.region.store.away() {
            return Readiness::NotReady(format!("STORE_UNAVAILABLE: the store does not answer now: {reason}"));
        }
        if *self.region.draining.borrow() {
            return Readiness::NotReady("DRAINING: sessions are leaving".to_owned());
        }
        Readiness::Ready
    }

    /// Resolves with the reason once the store failed.
    pub async fn failed(&self) -> String {
        let mut failed = self.region.store.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the region is gone".to_owned(),
        }
    }

    /// Tells the region that its store broke outside a call.
    pub fn fail(&self, reason: &str) {
        self.region.fail(reason);
    }

    /// Tells the region that its store does not answer, and why, or that it does again: what waits for it goes on then.
    pub fn set_store_away(&self, reason: Option<Arc<str>>) {
        self.region.set_away(reason);
    }

    /// Why the store does not answer, while it does not.
    #[must_use]
    pub fn store_away(&self) -> Option<Arc<str>> {
        self.region.store.away()
    }

    /// Resolves once the store does not answer.
    pub async fn until_store_away(&self) {
        self.region.store.until_away().await;
    }

    /// Ends the core: nothing is sequenced any more. What was acked is on disk.
    pub fn stop(&self) {
        self.region.fail(STOPPED);
    }

    /// Sets whether the region drains: no new session is taken.
    pub fn set_draining(&self, draining: bool) {
        self.region.draining.send_replace(draining);
    }

    /// Takes an event of the links; waits when the core is behind.
    pub async fn link_event(&self, event: LinkEvent) {
        self.region.link_event(event).await;
    }

    /// Registers a session with a queue of these bounds. Waits at most about a second for the user's record.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE` or `DRAINING`.
    pub async fn open(&self, user: UserId, device: DeviceId, bounds: QueueBounds) -> Result<Opened, Refusal> {
        self.region.check_store()?;
        if *self.region.draining.borrow() {
            return Err(Refusal::new(ErrorCode::Draining, "this region is leaving; try another"));
        }
        let connection = Connection::new(self.region.new_connection_id(), user.clone(), device, bounds);
        let connection = Arc::new(connection);
        let privacy = tokio::time::timeout(ARRIVAL_PATIENCE, self.region.privacy_of(&user)).await.ok().flatten();
        self.region.hub.add(connection.clone());
        if let Some(privacy) = privacy.filter(|privacy| !privacy.is_empty()) {
            self.region.keep_private(&user, &privacy);
        }
        self.region.tell_unreachable(&connection);
        self.region.presence.opened(&connection);
        let feed_complete = self.arrive(&connection).await;
        self.region.device_connected(&user, device).await;
        tokio::spawn(self.region.clone().fetch_refusals(user, device));
        Ok(Opened { connection, feed_complete })
    }

    /// Starts the arrival; `feed.complete` follows where it takes longer than a session waits.
    async fn arrive(&self, connection: &Arc<Connection>) -> bool {
        let region = self.region.clone();
        let user = connection.user.clone();
        let (done, arrived) = tokio::sync::oneshot::channel();
        let late = Arc::downgrade(connection);
        tokio::spawn(async move {
            let mut done = Some(done);
            while region.arrive(&user).await.is_err() {
                tokio::time::sleep(ARRIVAL_AGAIN).await;
                // Nobody waits for the arrival of a session that left.
                if late.upgrade().is_none() || region.has_failed() {
                    return;
                }
            }
            let in_time = done.take().is_some_and(|done| done.send(()).is_ok());
            if !in_time && let Some(connection) = late.upgrade() {
                connection.push(EdgeEvent::Frame(encode_server_frame(&ServerFrame::FeedComplete, None)));
            }
        });
        matches!(tokio::time::timeout(ARRIVAL_PATIENCE, arrived).await, Ok(Ok(())))
    }

    /// Forgets a session.
    pub fn close(&self, connection: &Connection) {
        connection.close();
        self.region.hub.remove(connection);
        self.region.presence.closed(connection);
        self.region.push.closed(connection);
    }

    /// Takes a `message.send`, or a change of an earlier message. The answer (ack, queued or error, with `request` echoed) comes as an event of the
    /// connection, always, also when the core is overloaded.
    pub fn send(&self, connection: &Arc<Connection>, request: Option<String>, send: Submission) {
        let reply = ReplyTo::Send(Arc::new(SendReply {
            connection: connection.clone(),
            request,
            message: send.message_id(),
            conversation: send.conversation_id(),
            taken: wall_micros(),
        }));
        let refused = |refusal| reply.outcome(Outcome::Refused(refusal));
        if let Err(refusal) = self.region.check_store() {
            return refused(refusal);
        }
        if let Submission::Message(send) = &send
            && let Some(level) = send.durability
            && let Err(refusal) = self.region.check_level(level)
        {
            return refused(refusal);
        }
        let command = self.region.send_command(&connection.user, send);
        let device = Some(connection.device);
        let input = Input::Command { command, salt: salt(), reply: reply.clone(), device };
        if !self.region.try_input(input) {
            let refusal = match self.region.check_store() {
                Err(refusal) => refusal,
                Ok(()) => Refusal::new(ErrorCode::Overloaded, "too many requests wait in this region")
                    .with_retry_after(1)
                    .with_limit(format!("{INPUTS} requests")),
            };
            refused(refusal);
        }
    }

    /// Takes a `message.received` or `message.read`; `sent` is what the session was sent last of the conversation. It is
    /// not answered, but with an error when it is refused. Of many in a short time the greatest counts.
    pub fn receipt(
        &self,
        connection: &Arc<Connection>,
        request: Option<String>,
        receipt: &ReceiptPayload,
        sent: Option<(Epoch, u64)>,
    ) {
        self.region.receipts.take(connection, request, receipt, sent);
    }

    /// Takes a `typing.start` or `typing.stop`. It is not answered, but with an error when it is refused.
    pub fn typing(&self, connection: &Arc<Connection>, request: Option<String>, typing: TypingRequest) {
        let (connection, conversation, typing) = (connection.clone(), typing.conversation_id, typing.typing);
        self.region.typing.take(Said::Typing { connection, request, conversation, typing });
    }

    /// Takes a `conversation.view`: who types there is told from now on, and of no other conversation.
    pub fn conversation_view(
        &self,
        connection: &Arc<Connection>,
        request: Option<String>,
        conversation: Option<ConversationId>,
    ) {
        connection.set_view(conversation);
        self.region.push.screen(connection);
        if let Some(conversation) = conversation {
            self.region.typing.take(Said::View { connection: connection.clone(), request, conversation });
        }
    }

    /// Takes a `presence.set`. It is not answered.
    pub fn presence_set(&self, connection: &Arc<Connection>, set: PresenceSetRequest) {
        self.region.presence.set(connection, set);
    }

    /// Takes a `presence.subscribe` or `presence.unsubscribe`. The answer comes as an event.
    pub fn presence_users(&self, connection: &Arc<Connection>, request: Option<String>, users: PresenceUsersRequest) {
        self.region.presence.users(connection, request, users);
    }

    /// Takes a `client.state`: in the background typing and presence are held back, and on return the latest is told.
    pub fn client_state(&self, connection: &Arc<Connection>, background: bool) {
        connection.set_background(background);
        self.region.push.screen(connection);
        self.region.presence.background(connection, background);
    }

    /// Rows of a conversation after `cursor.last_sequence` that the user may see, at most `rows`: the newest of them
    /// when `newest`, else the oldest.
    ///
    /// # Errors
    /// `CONVERSATION_NOT_FOUND` and what a read of the store may meet.
    pub async fn replay(
        &self,
        user: &UserId,
        cursor: &SyncCursor,
        rows: usize,
        newest: bool,
    ) -> Result<Replay, Refusal> {
        self.region.while_there(self.region.replay(user, cursor, rows, newest)).await
    }

    /// Moves the home of a log that is here to another of its voters; returns once it moved.
    ///
    /// # Errors
    /// A refusal that says why it did not.
    pub async fn move_home(&self, log: hearth_protocol::LogId, to: RegionId) -> Result<(), Refusal> {
        self.region.move_home(log, to).await
    }

    /// Changes the voters of a log whose home is here, and moves the home to one of them, or leaves it here; returns once
    /// it is so.
    ///
    /// # Errors
    /// A refusal that says why it is not.
    pub async fn change_voters(
        &self,
        log: hearth_protocol::LogId,
        to: RegionId,
        voters: Vec<RegionId>,
    ) -> Result<(), Refusal> {
        self.region.change_voters(log, to, voters).await
    }

    /// The operator's word that homes of a region that was fenced by this version of the map may be opened here with
    /// fewer voters than their acks ask for, once those that live had some seconds to answer. It is on disk before it
    /// counts, and counts again after a restart.
    ///
    /// # Errors
    /// Of the store: the word was not taken.
    pub async fn accept_loss(&self, region: RegionId, fence: u64) -> Result<(), StoreError> {
        word::keep(&*self.region.stores.map, &region, fence).await?;
        self.region.input(Input::AcceptLoss(region, fence)).await;
        Ok(())
    }

    /// What has to be erased of a user, where its record is here.
    ///
    /// # Errors
    /// What a question to a steward may meet.
    pub async fn traces_of(&self, user: &UserId) -> Result<UserFound, Refusal> {
        self.region.traces_of(user).await
    }

    /// Has what a user wrote so far forgotten in a conversation, or its profile where none is named. Returns whether there
    /// was something to forget: what was is shown to nobody from then on, and every region's sweep takes it away.
    ///
    /// # Errors
    /// A refusal of the home, or that it is out of reach.
    pub async fn erase(&self, user: &UserId, conversation: Option<ConversationId>) -> Result<bool, Refusal> {
        self.region.erase(user, conversation).await
    }

    /// What this region knows of a log; a log unknown here is asked of its steward.
    ///
    /// # Errors
    /// What a question to a steward may meet.
    pub async fn view(&self, log: hearth_protocol::LogId) -> Result<region_model::LogView, Refusal> {
        self.region.view(log, true).await
    }

    /// Every loss statement that this region knows, and what it has of what may be missing. Walks all logs.
    ///
    /// # Errors
    /// Of the store.
    pub async fn losses(&self) -> Result<Vec<Loss>, StoreError> {
        self.region.losses().await
    }

    /// Answers a REST call.
    pub async fn api(&self, user: &UserId, call: ApiCall) -> ApiAnswer {
        self.region.api(user, call).await
    }

    /// Explains where a message is on its way to a user, to an administrator who goes by the name `asker`. Without a
    /// conversation it is the one in which a message of that id passed this region within the last hour.
    ///
    /// # Errors
    /// `NOT_FOUND` where no such message passed here, `INVALID_MESSAGE` where several did, and what the regions say.
    pub async fn explain(
        &self,
        asker: &UserId,
        conversation: Option<ConversationId>,
        name: MessageName,
        user: &UserId,
    ) -> Result<ExplanationPayload, Refusal> {
        let conversation = match (conversation, name) {
            (Some(conversation), _) => conversation,
            (None, MessageName::Id(id)) => self.region.conversation_of(id).await?,
            (None, MessageName::Number(_)) => return Err(Refusal::invalid("a number needs its conversation")),
        };
        self.region.explain(Asker { user: asker, operator: true }, conversation, name, user).await
    }

    /// Whether this region holds a copy of a conversation.
    pub async fn holds_copy(&self, id: ConversationId) -> bool {
        let view = self.region.view(hearth_protocol::LogId::conversation(id), false).await;
        view.is_ok_and(|view| view.held)
    }

    /// A push subscription that still holds, as the user's record has it here.
    pub async fn push_subscription(&self, user: &UserId, id: Uuid) -> Option<Subscription> {
        self.region.push_subscription(user, id).await
    }

    /// A push service says that a subscription is dead: it is dropped, unless its device registered it again meanwhile.
    pub async fn push_gone(&self, user: &UserId, subscription: &Subscription) {
        self.region.push_gone(user, subscription).await;
    }

    /// Numbers for `/metrics`.
    pub fn register_metrics(&self, registry: &mut prometheus_client::registry::Registry) {
        crate::metrics::register(&self.region, registry);
    }
}

async fn all_tails(stores: &Stores) -> Result<Vec<hearth_protocol::LogId>, StoreError> {
    const PAGE: usize = 1_024;
    let mut tails = Vec::new();
    loop {
        let page = stores.log.tails(tails.last().copied(), PAGE).await?;
        let full = page.len() == PAGE;
        tails.extend(page);
        if !full {
            return Ok(tails);
        }
    }
}

async fn all_parked(stores: &Stores) -> Result<Vec<hearth_protocol::record::ParkedSend>, StoreError> {
    const PAGE: usize = 1_024;
    let mut parked = Vec::new();
    loop {
        let after = parked.last().map(|send: &hearth_protocol::record::ParkedSend| send.number);
        let page = stores.parking.parked(after, PAGE).await?;
        let full = page.len() == PAGE;
        parked.extend(page);
        if !full {
            return Ok(parked);
        }
    }
}
