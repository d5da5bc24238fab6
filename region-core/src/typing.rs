//! Typing: from a session to the sessions of other members that have the conversation on their screen, in every region.
//! Nothing of it is stored, and whatever finds a queue full is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_protocol::client::{ServerFrame, TypingPayload, encode_server_frame};
use hearth_protocol::mesh::{self, Body, MeshFrame};
use hearth_protocol::{ConversationId, LogId, Refusal, RegionId, UserId};
use prost::Message;
use region_model::typing::{TypingBook, Update};
use region_model::{Lane, LogView};
use tokio::sync::mpsc;

use crate::edge::{Connection, EdgeEvent};
use crate::region::Region;

/// Users who type at a time; more are not told.
const MOST: usize = 16_384;
/// Looks at times that are over come at least so far apart.
const LOOK: Duration = Duration::from_millis(50);

/// What the task takes.
#[derive(Debug)]
pub(crate) enum Said {
    /// A session starts or stops.
    Typing { connection: Arc<Connection>, request: Option<String>, conversation: ConversationId, typing: bool },
    /// A session has a conversation on its screen.
    View { connection: Arc<Connection>, request: Option<String>, conversation: ConversationId },
    /// Another region tells.
    Frame(RegionId, mesh::Typing),
}

/// The way to the task.
#[derive(Debug)]
pub(crate) struct Typing {
    said: mpsc::Sender<Said>,
    /// Words that found a queue full: the task's, a link's or a session's.
    pub(crate) dropped: AtomicU64,
    /// Updates handed to sessions.
    pub(crate) told: AtomicU64,
}

impl Typing {
    pub(crate) fn new(said: mpsc::Sender<Said>) -> Self {
        Self { said, dropped: AtomicU64::new(0), told: AtomicU64::new(0) }
    }

    /// Takes a word. One that finds the queue full is dropped: typing is for the moment.
    pub(crate) fn take(&self, said: Said) {
        if self.said.try_send(said).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Runs until the region stops.
pub(crate) async fn run(region: Arc<Region>, mut said: mpsc::Receiver<Said>) {
    let mut failed = region.store.failed.subscribe();
    let started = Instant::now();
    let now = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut book = TypingBook::new(MOST, u64::try_from(region.options.typing_for.as_millis()).unwrap_or(u64::MAX / 2));
    loop {
        let due = book.due().map(|due| Duration::from_millis(due.saturating_sub(now())).max(LOOK));
        let over = async {
            match due {
                Some(due) => tokio::time::sleep(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = Region::until_failed(&mut failed) => return,
            said = said.recv() => match said {
                Some(said) => region.take_typing(&mut book, said, now()).await,
                None => return,
            },
            () = over => {}
        }
        for update in book.expire(now()) {
            region.tell_typing(&update, None).await;
        }
    }
}

impl Region {
    async fn take_typing(&self, book: &mut TypingBook, said: Said, now: u64) {
        match said {
            Said::Typing { connection, request, conversation, typing } => {
                let (log, user) = (LogId::conversation(conversation), &connection.user);
                if let Err(refusal) = self.may_type(log, user).await {
                    return refuse(&connection, request.as_deref(), &refusal);
                }
                let update = if typing { book.start(log, user, now) } else { book.stop(log, user, true) };
                if let Some(update) = update {
                    self.tell_typing(&update, None).await;
                }
            }
            Said::View { connection, request, conversation } => {
                let log = LogId::conversation(conversation);
                if let Err(refusal) = self.may_type(log, &connection.user).await {
                    return refuse(&connection, request.as_deref(), &refusal);
                }
                for user in book.typing_in(log).into_iter().filter(|user| *user != connection.user) {
                    let told = connection.offer_typing(&user, &frame(conversation, &user, true));
                    let counter = if told { &self.typing.told } else { &self.typing.dropped };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
            Said::Frame(peer, heard) => {
                let (Some(log), Ok(user)) = (LogId::from_bytes(&heard.log), UserId::new(&heard.user)) else { return };
                let update = if heard.typing { book.heard(log, &user, now) } else { book.stop(log, &user, false) };
                if let Some(update) = update {
                    self.tell_typing(&update, Some(&peer)).await;
                }
            }
        }
    }

    /// Whether a user is a member, as far as this region knows: of a conversation that it does not hold, members' other
    /// regions do.
    async fn may_type(&self, log: LogId, user: &UserId) -> Result<(), Refusal> {
        let view = self.view(log, true).await?;
        let member = match view.view.members().filter(|_| view.held) {
            Some(members) => members.contains_key(user),
            None => view.placement.is_some(),
        };
        if member { Ok(()) } else { Err(Refusal::no_conversation()) }
    }

    /// Tells sessions here, and other regions: the home tells all that hold the conversation, others tell the home.
    async fn tell_typing(&self, update: &Update, from: Option<&RegionId>) {
        let Ok(view) = self.view(update.log, false).await else { return };
        if let (Some(members), Some(conversation)) = (view.view.members(), update.log.as_conversation())
            && view.held
        {
            if !members.contains_key(&update.user) {
                return;
            }
            let frame = frame(conversation, &update.user, update.typing);
            let (told, dropped) = self.hub.to_viewers(conversation, members, &update.user, &frame);
            self.typing.told.fetch_add(told, Ordering::Relaxed);
            self.typing.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        self.send_typing(update, &view, from);
    }

    fn send_typing(&self, update: &Update, view: &LogView, from: Option<&RegionId>) {
        let Some(placement) = &view.placement else { return };
        let at_home = placement.home == *self.me();
        // What another region told is passed on by the home alone, and what ends by itself ends everywhere by itself.
        let passed_on = update.here || (at_home && from.is_some());
        if !passed_on {
            return;
        }
        let mut peers: Vec<&RegionId> =
            if at_home { view.replicas.iter().chain(&placement.voters).collect() } else { vec![&placement.home] };
        peers.sort();
        peers.dedup();
        let typing = mesh::Typing {
            log: Bytes::copy_from_slice(&update.log.to_bytes()),
            user: update.user.as_str().to_owned(),
            typing: update.typing,
        };
        let frame = Bytes::from(MeshFrame { body: Some(Body::Typing(typing)) }.encode_to_vec());
        for peer in peers.into_iter().filter(|peer| *peer != self.me() && Some(*peer) != from) {
            if self.links.send(peer, Lane::Bulk, frame.clone()).is_err() {
                self.typing.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn frame(conversation_id: ConversationId, user: &UserId, is_typing: bool) -> Bytes {
    let payload = TypingPayload { conversation_id, user_id: user.clone(), is_typing };
    encode_server_frame(&ServerFrame::TypingUpdate(payload), None)
}

fn refuse(connection: &Connection, request: Option<&str>, refusal: &Refusal) {
    connection.push(EdgeEvent::Frame(encode_server_frame(&ServerFrame::Error(refusal.clone()), request)));
}
