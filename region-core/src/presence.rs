//! Presence: what sessions say and ask of it, over the links and back, by [`PresenceBook`]. Nothing of it is stored, and
//! what finds a queue full is made good by a sweep or a digest.

mod visible;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_protocol::client::{
    PresenceBulkPayload, PresencePayload, PresenceSetRequest, PresenceUsersRequest, ServerFrame, encode_server_frame,
};
use hearth_protocol::mesh::{self, Body, MeshFrame};
use hearth_protocol::{Change, EntryKind, ErrorCode, Refusal, RegionId, SealedEntry, Timestamp, UserId};
use parking_lot::Mutex;
use prost::Message;
use region_model::Lane;
use region_model::presence::{Asked, Effect, Moment, Paced, PresenceBook, PresenceSizes, SessionId};
use region_model::region_map::{MapState, RegionState};
use region_model::view::Members;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use crate::edge::{Connection, EdgeEvent};
use crate::region::Region;
use crate::runtime::wall;

/// Words taken in one turn.
const BATCH: usize = 1_024;
/// New subscriptions looked at at a time; the others wait, at most [`PresenceBook`]'s bound of each session.
const CHECKS: usize = 32;

/// What the task takes.
#[derive(Debug)]
pub(crate) enum Said {
    /// A session began, or says something else of its device.
    Session(Arc<Connection>),
    /// A session is over.
    Gone(SessionId),
    /// A session subscribes, or does so no longer.
    Users { connection: Arc<Connection>, request: Option<String>, users: PresenceUsersRequest },
    /// A session went to the background or came back.
    Background(Arc<Connection>, bool),
    /// Another region tells.
    Frame(RegionId, mesh::Presence),
    /// A link came up or went down.
    Link(RegionId, bool),
    /// A region was fenced, or is back.
    Fenced(RegionId, bool),
    /// Whom a session may see, as memberships were at `seen`.
    Checked { session: SessionId, users: Vec<UserId>, visible: BTreeSet<UserId>, asked: Option<Asked>, seen: u64 },
    /// Memberships of these users changed.
    Touched(Vec<UserId>),
    /// A user hides when it was there last, or does so no longer.
    Hides(UserId, bool),
    /// When a user was there last is asked, as far as it is known here and not hidden.
    LastSeen(UserId, oneshot::Sender<Option<Timestamp>>),
}

/// The way to the task.
#[derive(Debug)]
pub(crate) struct Presence {
    said: mpsc::Sender<Said>,
    /// Whether nobody subscribes: then changes of membership concern nobody.
    idle: AtomicBool,
    /// Counted up with each change of membership that was told here.
    touches: AtomicU64,
    /// Set when one found the queue full: then all subscriptions are looked at again.
    touch_missed: AtomicBool,
    /// Subscriptions to be looked at again, by session. As many as there are subscriptions at most.
    again: Mutex<BTreeMap<SessionId, (UserId, BTreeSet<UserId>)>>,
    look: Notify,
    fenced: Mutex<BTreeSet<RegionId>>,
    sizes: Mutex<PresenceSizes>,
    /// Updates and answers handed to sessions.
    pub(crate) told: AtomicU64,
    /// Words that found the queue full, frames that a link did not take, updates that a session did not take at once.
    pub(crate) dropped: AtomicU64,
}

impl Presence {
    pub(crate) fn new(said: mpsc::Sender<Said>) -> Self {
        Self {
            said,
            idle: AtomicBool::new(true),
            touches: AtomicU64::new(0),
            touch_missed: AtomicBool::new(false),
            again: Mutex::default(),
            look: Notify::new(),
            fenced: Mutex::default(),
            sizes: Mutex::default(),
            told: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Takes a word; false when the queue is full. Of sessions and links the sweep and digests then tell.
    fn take(&self, said: Said) -> bool {
        let taken = self.said.try_send(said).is_ok();
        if !taken {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    pub(crate) fn opened(&self, connection: &Arc<Connection>) {
        self.take(Said::Session(connection.clone()));
    }

    pub(crate) fn closed(&self, connection: &Connection) {
        self.take(Said::Gone(connection.id));
    }

    pub(crate) fn set(&self, connection: &Arc<Connection>, set: PresenceSetRequest) {
        connection.set_presence(set.status == hearth_protocol::client::ChosenStatus::Away, set.device_type);
        self.take(Said::Session(connection.clone()));
    }

    pub(crate) fn users(&self, connection: &Arc<Connection>, request: Option<String>, users: PresenceUsersRequest) {
        let said = Said::Users { connection: connection.clone(), request: request.clone(), users };
        if !self.take(said) {
            let refusal = Refusal::new(ErrorCode::Overloaded, "too many requests wait in this region");
            refuse(connection, request.as_deref(), &refusal.with_retry_after(1));
        }
    }

    pub(crate) fn background(&self, connection: &Arc<Connection>, background: bool) {
        self.take(Said::Background(connection.clone(), background));
    }

    pub(crate) fn frame(&self, peer: &RegionId, frame: mesh::Presence) {
        self.take(Said::Frame(peer.clone(), frame));
    }

    /// Waits for room: the task waits for nobody.
    pub(crate) async fn link(&self, peer: &RegionId, up: bool) {
        // A task that ended has nothing to tell any more.
        let _ = self.said.send(Said::Link(peer.clone(), up)).await;
    }

    /// Memberships of users changed here: whoever subscribes to them, and they themselves, may see other users.
    pub(crate) fn touched(&self, users: impl Iterator<Item = UserId>) {
        self.touches.fetch_add(1, Ordering::SeqCst);
        if !self.idle.load(Ordering::SeqCst) && !self.take(Said::Touched(users.collect())) {
            self.touch_missed.store(true, Ordering::SeqCst);
        }
    }

    /// A word that finds the queue full is said again when a device of the user comes.
    pub(crate) fn hides_last_seen(&self, user: &UserId, hides: bool) {
        self.take(Said::Hides(user.clone(), hides));
    }

    /// When a user was there last; `None` where that is not known here, or hidden, or it is there now.
    pub(crate) async fn last_seen(&self, user: &UserId) -> Option<Timestamp> {
        let (answer, told) = oneshot::channel();
        if !self.take(Said::LastSeen(user.clone(), answer)) {
            return None;
        }
        told.await.ok().flatten()
    }

    /// Whether a region is fenced, as this one knows the map.
    pub(crate) fn is_fenced(&self, region: &RegionId) -> bool {
        self.fenced.lock().contains(region)
    }

    /// How much it holds.
    pub(crate) fn sizes(&self) -> PresenceSizes {
        *self.sizes.lock()
    }

    /// An entry that may change who shares a conversation with whom was shown.
    pub(crate) fn delivered(&self, sealed: &SealedEntry, audience: &Members) {
        match sealed.entry.fixed.kind {
            EntryKind::Header => self.touched(audience.keys().cloned()),
            EntryKind::Member => {
                if let Some(Change::Members { users, .. }) = sealed.change() {
                    self.touched(users.into_iter());
                }
            }
            _ => {}
        }
    }

    fn look_again(&self, connection: &Connection, users: impl IntoIterator<Item = UserId>) {
        let mut again = self.again.lock();
        let (_, waiting) = again.entry(connection.id).or_insert_with(|| (connection.user.clone(), BTreeSet::new()));
        waiting.extend(users);
        drop(again);
        self.look.notify_one();
    }
}

/// The book, and the sessions that subscribe.
struct Desk {
    region: Arc<Region>,
    book: PresenceBook,
    sessions: HashMap<SessionId, Arc<Connection>>,
    /// Whom updates concern, and the frames.
    paced: Paced<(UserId, Bytes)>,
    started: Instant,
    sweep_at: u64,
    checks: Arc<Semaphore>,
}

/// Runs until the region stops.
pub(crate) async fn run(region: Arc<Region>, mut said: mpsc::Receiver<Said>) {
    let mut failed = region.store.failed.subscribe();
    let again = tokio::spawn(visible::run(region.clone()));
    let mut desk = Desk::new(region);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let wait = Duration::from_millis(desk.due().saturating_sub(desk.now().ticks));
        tokio::select! {
            () = Region::until_failed(&mut failed) => break,
            count = said.recv_many(&mut batch, BATCH) => if count == 0 { break },
            () = tokio::time::sleep(wait) => {}
        }
        desk.turn(&mut batch);
    }
    again.abort();
}

impl Desk {
    fn new(region: Arc<Region>) -> Self {
        let now = Moment { ticks: 0, wall: wall().0 };
        let bounds = region.options.presence;
        let incarnation = rand::random();
        let book = PresenceBook::new(region.me().clone(), &region.options.map.regions, incarnation, bounds, now);
        Self {
            region,
            book,
            sessions: HashMap::new(),
            paced: Paced::default(),
            started: Instant::now(),
            sweep_at: bounds.sweep(),
            checks: Arc::new(Semaphore::new(CHECKS)),
        }
    }

    fn now(&self) -> Moment {
        let ticks = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX / 2);
        Moment { ticks, wall: wall().0 }
    }

    fn due(&self) -> u64 {
        self.book.due().min(self.sweep_at).min(self.paced.due().unwrap_or(u64::MAX))
    }

    /// Takes what was said, looks at the time, and does what follows.
    fn turn(&mut self, batch: &mut Vec<Said>) {
        let now = self.now();
        for said in batch.drain(..) {
            self.take(said, now);
        }
        if now.ticks >= self.sweep_at {
            self.sweep_at = now.ticks + self.region.options.presence.sweep();
            self.sweep(now);
        }
        if now.ticks >= self.book.due() {
            self.book.tick(now);
        }
        self.region.presence.idle.store(self.book.is_idle(), Ordering::SeqCst);
        loop {
            let effects = self.book.effects();
            if effects.is_empty() {
                break;
            }
            effects.into_iter().for_each(|effect| self.perform(effect, now));
        }
        while let Some((session, updates)) = self.paced.next(now.ticks) {
            self.tell(session, updates);
        }
        *self.region.presence.sizes.lock() = self.book.sizes();
    }

    fn take(&mut self, said: Said, now: Moment) {
        match said {
            Said::Session(connection) => self.session(&connection, now),
            Said::Gone(session) => {
                self.sessions.remove(&session);
                self.region.presence.again.lock().remove(&session);
                self.book.gone(session, now);
            }
            Said::Users { connection, request, users } => {
                self.session(&connection, now);
                self.sessions.insert(connection.id, connection.clone());
                if users.subscribe {
                    self.book.subscribe(connection.id, request, users.user_ids, now);
                } else {
                    self.book.unsubscribe(connection.id, request, users.user_ids, now);
                }
            }
            Said::Background(connection, background) => {
                self.session(&connection, now);
                self.book.background(connection.id, background, now);
            }
            Said::Frame(peer, frame) => self.book.frame(&peer, &frame, now),
            Said::Link(peer, up) => self.book.link(&peer, up, now),
            Said::Fenced(peer, fenced) => self.book.fenced(&peer, fenced, now),
            Said::Checked { session, users, visible, asked, seen } => {
                // A membership that changed while it was looked at may have been missed.
                if self.region.presence.touches.load(Ordering::SeqCst) != seen
                    && asked.is_some()
                    && let Some(connection) = self.sessions.get(&session)
                {
                    self.region.presence.look_again(connection, users.iter().cloned());
                }
                self.book.checked(session, users, &visible, asked, now);
            }
            Said::Touched(users) => self.book.touched(&users),
            // Whoever asked may be gone.
            Said::LastSeen(user, answer) => drop(answer.send(self.book.read(&user, now).last_seen)),
            Said::Hides(user, hides) => self.book.hides_last_seen(&user, hides, now),
        }
    }

    fn session(&mut self, connection: &Connection, now: Moment) {
        let (status, device_type) = connection.presence();
        self.book.session(connection.id, &connection.user, status, device_type, now);
    }

    /// Sessions of which something was heard are there, whatever found the queue full; the others run out.
    fn sweep(&mut self, now: Moment) {
        let connections = self.region.hub.all();
        for connection in connections.iter().filter(|connection| connection.spoke()) {
            self.session(connection, now);
        }
        let book = &self.book;
        self.sessions.retain(|session, _| book.subscribes(*session));
        if self.region.presence.touch_missed.swap(false, Ordering::SeqCst) {
            self.book.look_at_all();
        }
    }

    fn perform(&mut self, effect: Effect, now: Moment) {
        let presence = &self.region.presence;
        match effect {
            Effect::Send(peer, frame) => {
                let frame = Bytes::from(MeshFrame { body: Some(Body::Presence(frame)) }.encode_to_vec());
                if self.region.links.send(&peer, Lane::Bulk, frame).is_err() {
                    presence.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Effect::Check { session, users, asked: None } => {
                if let Some(connection) = self.sessions.get(&session) {
                    presence.look_again(connection, users);
                }
            }
            Effect::Check { session, users, asked } => {
                if let Some(connection) = self.sessions.get(&session) {
                    let (region, connection, checks) = (self.region.clone(), connection.clone(), self.checks.clone());
                    tokio::spawn(async move {
                        let _permit = checks.acquire_owned().await;
                        region.check_first(&connection, users, asked).await;
                    });
                }
            }
            Effect::Bulk { session, request, presences } => {
                let frame = ServerFrame::PresenceBulk(PresenceBulkPayload { presences });
                self.answer(session, encode_server_frame(&frame, request.as_deref()));
            }
            Effect::Refuse { session, request, refusal } => {
                self.answer(session, encode_server_frame(&ServerFrame::Error(refusal), request.as_deref()));
            }
            Effect::Update { presence, sessions } => self.update(presence, &sessions, now),
        }
    }

    fn answer(&mut self, session: SessionId, frame: Bytes) {
        // An answer is newer than what was found out before it.
        let updates = self.paced.take(session);
        self.tell(session, updates);
        if let Some(connection) = self.sessions.get(&session) {
            connection.push(EdgeEvent::Frame(frame));
            self.region.presence.told.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn update(&mut self, presence: PresencePayload, sessions: &[SessionId], now: Moment) {
        let user = presence.user_id.clone();
        let frame = encode_server_frame(&ServerFrame::PresenceUpdate(presence), None);
        for session in sessions {
            if let Some(update) = self.paced.offer(*session, (user.clone(), frame.clone()), now.ticks) {
                self.tell(*session, vec![update]);
            }
        }
    }

    /// Gives a session updates. Of those that it does not take the book hears.
    fn tell(&mut self, session: SessionId, updates: Vec<(UserId, Bytes)>) {
        let Some(connection) = self.sessions.get(&session) else { return };
        let taken = connection.push_while_idle(updates.iter().map(|(_, frame)| EdgeEvent::Frame(frame.clone())));
        let late = &updates[taken..];
        for (user, _) in late {
            self.book.held_back(session, user);
        }
        self.region.presence.told.fetch_add(taken as u64, Ordering::Relaxed);
        self.region.presence.dropped.fetch_add(late.len() as u64, Ordering::Relaxed);
    }
}

impl Region {
    /// Looks which regions are fenced; each change is one event for every session.
    pub(crate) async fn look_at_fences(&self, map: &MapState) {
        let ended = |state| matches!(state, RegionState::Fenced | RegionState::Removed);
        let fenced: BTreeSet<RegionId> = map
            .regions
            .iter()
            .filter(|entry| ended(entry.state) && entry.region != *self.me())
            .map(|entry| entry.region.clone())
            .collect();
        let before = std::mem::replace(&mut *self.presence.fenced.lock(), fenced.clone());
        for region in before.symmetric_difference(&fenced) {
            let is = fenced.contains(region);
            let reachable = self.links.is_up(region);
            let status = ServerFrame::RegionStatus { region: region.clone(), reachable, fenced: Some(is) };
            self.hub.to_all(&encode_server_frame(&status, None));
            // A task that ended has nothing to tell any more.
            let _ = self.presence.said.send(Said::Fenced(region.clone(), is)).await;
        }
    }
}

fn refuse(connection: &Connection, request: Option<&str>, refusal: &Refusal) {
    connection.push(EdgeEvent::Frame(encode_server_frame(&ServerFrame::Error(refusal.clone()), request)));
}
