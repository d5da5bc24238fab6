//! Typing: from a session to the sessions of other members that have the conversation on their screen, in every region.
//! Nothing of it is stored, and whatever finds a queue full is dropped. Who is told is decided in `region_model::typing`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_protocol::client::{ServerFrame, TypingPayload, encode_server_frame};
use hearth_protocol::mesh::{self, MeshFrame};
use hearth_protocol::{ConversationId, LogId, Refusal, RegionId, UserId};
use prost::Message;
use region_model::Lane;
use region_model::typing::{self, Heard, Telling, TypingBook, Update};
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

    /// Counts what came of an update that was for a session.
    fn count(&self, taken: Option<bool>) {
        if let Some(taken) = taken {
            let counter = if taken { &self.told } else { &self.dropped };
            counter.fetch_add(1, Ordering::Relaxed);
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
            region.tell_typing(&update).await;
        }
    }
}

impl Region {
    async fn take_typing(&self, book: &mut TypingBook, said: Said, now: u64) {
        match said {
            Said::Typing { connection, request, conversation, typing } => {
                let log = LogId::conversation(conversation);
                let said = match self.view(log, true).await {
                    Ok(view) => book.said((log, &view), &connection.user, typing, now),
                    Err(refusal) => Err(refusal),
                };
                match said {
                    Ok(Some(update)) => self.tell_typing(&update).await,
                    Ok(None) => {}
                    Err(refusal) => refuse(&connection, request.as_deref(), &refusal),
                }
            }
            Said::View { connection, request, conversation } => {
                let log = LogId::conversation(conversation);
                let privacy = self.hub.privacy_of(&connection.user);
                let viewed = match self.view(log, true).await {
                    Ok(view) => book.viewed((log, &view), &connection.user, privacy.as_deref()),
                    Err(refusal) => Err(refusal),
                };
                match viewed {
                    Ok(users) => users.iter().for_each(|user| {
                        let taken = connection.offer_typing(conversation, user, true, &frame(conversation, user, true));
                        self.typing.count(taken);
                    }),
                    Err(refusal) => refuse(&connection, request.as_deref(), &refusal),
                }
            }
            Said::Frame(peer, heard) => {
                let Some(heard) = Heard::of(&heard) else { return };
                let Ok(view) = self.view(heard.log, false).await else { return };
                if let Some(update) = book.told(&heard, &peer, &view, now) {
                    self.tell_typing(&update).await;
                }
            }
        }
    }

    /// Tells sessions here, and other regions.
    async fn tell_typing(&self, update: &Update) {
        let Ok(view) = self.view(update.log, false).await else { return };
        let telling = Telling::of(update, &view, self.me());
        if let Some((conversation, members)) = telling.audience {
            let frame = frame(conversation, &update.user, update.typing);
            self.hub.to_viewers((conversation, members), update, |connection| {
                self.typing.count(connection.offer_typing(conversation, &update.user, update.typing, &frame));
            });
        }
        if telling.peers.is_empty() {
            return;
        }
        let frame = Bytes::from(MeshFrame { body: Some(typing::body(update)) }.encode_to_vec());
        for peer in telling.peers {
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
