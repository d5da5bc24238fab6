//! Push: at the home of users' records one decision a user and message, at the home of a conversation its messages on
//! offer, and at the edge what is on screens. The decisions are in `region_model::push`; what goes out waits in a queue.
//!
//! ```text
//!   edge ──what is on screens──► home of the record ◄──messages, cursors── home of the conversation
//!                                   │  Desk: who has subscriptions   └──wishes, from what is decided──►
//!                                   └─► PushQueue, then what is decided is kept
//! ```
//! Nothing that is said between regions need arrive: screens are told again, and wishes name what is decided.

mod calls;
mod home;
mod kept;
mod record;
mod screens;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_protocol::mesh::{self, Body, MeshFrame};
use hearth_protocol::push::Target;
use hearth_protocol::{DeviceId, LogId, LogKind, RegionId, UserId};
use parking_lot::Mutex;
use prost::Message;
use region_model::Lane;
use region_model::push::ports::PushQueue;
use region_model::push::{Desk, PushTimes, Records, Screens, Watchers, Withheld};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::edge::Connection;
use crate::region::Region;
pub(crate) use calls::muted;

/// What is due is looked at this often.
const ROUND: Duration = Duration::from_millis(50);
/// Words taken in one turn.
const BATCH: usize = 256;
/// Users of all watches here, each once a conversation and region; of more nothing is offered.
const WATCHED: usize = 4_000_000;

/// What an operator lets clients subscribe to.
pub trait PushDoor: Send + Sync + fmt::Debug {
    /// Whether a target may be used, whose form is checked.
    ///
    /// # Errors
    /// Why not, for the client.
    fn check(&self, target: &Target) -> Result<(), &'static str>;

    /// What a browser needs to subscribe (RFC 8292), where Web Push is configured.
    fn application_server_key(&self) -> Option<String>;
}

/// How a region has its users woken.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// Where what was decided waits for a sender.
    pub queue: Arc<dyn PushQueue>,
    /// What clients may subscribe to.
    pub door: Arc<dyn PushDoor>,
    /// How long things may take.
    pub times: PushTimes,
    /// How long a push may wait for its device.
    pub lives: Duration,
}

/// What the task takes.
#[derive(Debug)]
pub(crate) enum Said {
    /// Another region tells.
    Frame(RegionId, mesh::Push),
    /// A session has something else on its screen.
    Screen(Arc<Connection>),
    /// A session with something on its screen is over.
    Closed(u64, UserId, DeviceId),
    /// A link came up or went down.
    Link(RegionId, bool),
}

/// The way to the task, and what it shares with others.
#[derive(Debug)]
pub(crate) struct Push {
    said: mpsc::Sender<Said>,
    watchers: Mutex<Watchers>,
    /// Whether anybody wants messages of conversations whose home is here.
    watched: AtomicBool,
    /// User records to be looked at.
    touched: Mutex<BTreeSet<LogId>>,
    /// Conversations whose wishes are to be said again.
    again: Mutex<BTreeSet<LogId>>,
    pub(crate) counters: PushCounters,
}

/// What push counts here.
#[derive(Debug, Default)]
pub(crate) struct PushCounters {
    /// Decisions: pushed, and withheld by [`Withheld`] in its order.
    decided: [AtomicU64; 9],
    /// Jobs that found the queue full.
    pub(crate) full: AtomicU64,
    /// Words, and frames that a link did not take; all of them are said again.
    pub(crate) dropped: AtomicU64,
    /// Users with subscriptions whose records have their home here.
    pub(crate) users: AtomicU64,
}

impl PushCounters {
    fn decided(&self, withheld: Option<Withheld>) {
        let at = withheld.and_then(|why| Withheld::ALL.iter().position(|reason| *reason == why)).map_or(0, |at| at + 1);
        self.decided[at].fetch_add(1, Ordering::Relaxed);
    }

    /// How many decisions were made, by what was decided.
    pub(crate) fn decisions(&self) -> Vec<(&'static str, u64)> {
        let labels = std::iter::once("pushed").chain(Withheld::ALL.iter().map(|reason| reason.label()));
        labels.zip(&self.decided).map(|(label, count)| (label, count.load(Ordering::Relaxed))).collect()
    }
}

impl Push {
    pub(crate) fn new(said: mpsc::Sender<Said>) -> Self {
        Self {
            said,
            watchers: Mutex::new(Watchers::new(WATCHED)),
            watched: AtomicBool::new(false),
            touched: Mutex::default(),
            again: Mutex::default(),
            counters: PushCounters::default(),
        }
    }

    fn take(&self, said: Said) {
        if self.said.try_send(said).is_err() {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn frame(&self, peer: &RegionId, frame: mesh::Push) {
        self.take(Said::Frame(peer.clone(), frame));
    }

    /// Waits for room: the task waits for no other region.
    pub(crate) async fn link(&self, peer: &RegionId, up: bool) {
        // A task that ended has nothing to tell any more.
        let _ = self.said.send(Said::Link(peer.clone(), up)).await;
    }

    pub(crate) fn screen(&self, connection: &Arc<Connection>) {
        self.take(Said::Screen(connection.clone()));
    }

    pub(crate) fn closed(&self, connection: &Connection) {
        if connection.in_view().is_some() {
            self.take(Said::Closed(connection.id, connection.user.clone(), connection.device));
        }
    }

    /// A user record changed, in what matters here.
    pub(crate) fn touched(&self, record: LogId) {
        self.touched.lock().insert(record);
    }

    pub(crate) fn home_changed(&self, log: LogId) {
        match log.kind {
            LogKind::User => self.touched(log),
            LogKind::Conversation => {
                self.again.lock().insert(log);
            }
            LogKind::Placement => {}
        }
    }
}

/// What the task holds.
struct Task {
    region: Arc<Region>,
    records: Records,
    screens: Screens,
    /// What the times of screens are counted from.
    began: Instant,
    /// Frames for this region itself.
    own: VecDeque<mesh::Push>,
    /// Where the look at all records at the start goes on; `None` once it is over.
    records_after: Option<Option<LogId>>,
    /// Records of that look of which something may be kept still from an earlier process: a few pages at most.
    unswept: BTreeSet<LogId>,
    /// Where the look at everything that is watched goes on.
    swept: Option<LogId>,
    sweep_at: Instant,
}

/// Runs until the region stops.
pub(crate) async fn run(region: Arc<Region>, mut said: mpsc::Receiver<Said>) {
    let mut failed = region.store.failed.subscribe();
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let times = region.options.push.times;
    let mut task = Task {
        records: Records::new(Desk::new(times)),
        screens: Screens::new(times.view_counts / 3, 0),
        began: Instant::now(),
        own: VecDeque::new(),
        records_after: Some(None),
        unswept: BTreeSet::new(),
        swept: None,
        sweep_at: Instant::now() + region.options.anti_entropy,
        region,
    };
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            () = Region::until_failed(&mut failed) => return,
            count = said.recv_many(&mut batch, BATCH) => if count == 0 { return },
            _ = round.tick() => task.round().await,
        }
        for said in batch.drain(..) {
            task.take(said).await;
        }
        while let Some(frame) = task.own.pop_front() {
            let me = task.region.me().clone();
            task.frame(&me, &frame).await;
        }
    }
}

impl Task {
    async fn take(&mut self, said: Said) {
        match said {
            Said::Frame(peer, frame) => self.frame(&peer, &frame).await,
            Said::Screen(connection) => {
                let (user, device) = (connection.user.clone(), connection.device);
                let changed = self.screens.set(connection.id, &user, device, connection.in_view());
                if changed {
                    self.tell_screen(&user, device).await;
                }
            }
            Said::Closed(connection, user, device) => {
                if self.screens.set(connection, &user, device, None) {
                    self.tell_screen(&user, device).await;
                }
            }
            Said::Link(_, true) => {
                // Whoever is behind it may have begun anew.
                let mut after = None;
                loop {
                    let page = self.records.desk.logs_after(after, BATCH);
                    after = page.last().copied();
                    if after.is_none() {
                        break;
                    }
                    self.region.push.again.lock().extend(page);
                }
                self.screens.all_again(self.milliseconds());
            }
            Said::Link(peer, false) => self.region.push.watchers.lock().lost(&peer),
        }
        self.note_watched();
    }

    async fn frame(&mut self, peer: &RegionId, frame: &mesh::Push) {
        for watch in &frame.watches {
            self.watched(peer, watch);
        }
        for offers in &frame.offers {
            self.offered(offers).await;
        }
        for view in &frame.views {
            self.viewed(peer, view).await;
        }
        self.note_watched();
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn note_watched(&self) {
        let watched = !self.region.push.watchers.lock().is_empty();
        self.region.push.watched.store(watched, Ordering::Relaxed);
    }

    /// Does what is due.
    async fn round(&mut self) {
        self.look_at_records().await;
        self.wish_again().await;
        self.offer_round().await;
        self.decide_due().await;
        if self.screens.is_due(self.milliseconds()) {
            let sessions = self.region.hub.all();
            let shown = |session: &Arc<Connection>| {
                Some(((session.user.clone(), session.id), (session.device, session.in_view()?)))
            };
            self.screens.take(sessions.iter().filter_map(shown).collect(), self.milliseconds());
        }
        for (user, device) in self.screens.due() {
            self.tell_screen(&user, device).await;
        }
        if Instant::now() >= self.sweep_at {
            self.sweep_at = Instant::now() + self.region.options.anti_entropy;
            self.sweep();
        }
    }

    fn send(&mut self, peer: &RegionId, frame: mesh::Push) {
        if peer == self.region.me() {
            return self.own.push_back(frame);
        }
        let frame = Bytes::from(MeshFrame { body: Some(Body::Push(frame)) }.encode_to_vec());
        if self.region.links.send(peer, Lane::Bulk, frame).is_err() {
            self.region.push.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
