//! A client under chaos: it sends to all conversations in turn, loses connections, resumes at this region or another with
//! its cursors, and sends everything unacked again, in order, before anything new.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hearth_client::{Address, TransportKind};
use serde_json::{Value, json};

use super::book::Book;
use super::plan::Random;
use crate::new_id;
use crate::peer::{Auth, Peer};
use crate::process::{Secrets, hide};

/// Between two looks at what came in.
const LOOK: Duration = Duration::from_millis(45);
/// Unacked messages of a client in one conversation, above which it sends to others.
const WINDOW: usize = 16;
/// Between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A region that says nothing for so long is left.
const SILENCE: Duration = Duration::from_secs(4);
/// A send without any answer for so long makes a client come back elsewhere. The contract says 5 s, on a machine that is
/// not busy.
const NO_ANSWER: Duration = Duration::from_secs(12);
/// How long a connection and its first frame may take.
const OPENS: Duration = Duration::from_secs(3);
/// Between two tries to connect.
const AGAIN: Duration = Duration::from_millis(250);
/// A client goes to a region at random this often, at least and at most, in milliseconds.
const ROAMS: (u64, u64) = (9_000, 25_000);
/// What every text begins with; no log may show it.
const WORDS: &str = "words under chaos";

/// What all clients of a run share.
#[derive(Debug, Default)]
pub struct Shared {
    /// New messages are sent while this is set.
    pub sending: AtomicBool,
    /// Set when the clients shall leave.
    pub over: AtomicBool,
    /// Set when clients stay where they are.
    pub calm: AtomicBool,
    /// Acks of messages that had not ended before.
    pub acked: AtomicUsize,
    /// Messages that have not ended.
    pub open: AtomicUsize,
    /// Connections that were resumed.
    pub resumes: AtomicUsize,
    /// Connections left because a send had no answer in time.
    pub unanswered: AtomicUsize,
}

/// Where a client finds the mesh, and what it may do there.
#[derive(Clone, Debug)]
pub struct Place {
    /// The regions.
    pub regions: Arc<Vec<Address>>,
    /// The conversations that the user is in.
    pub conversations: Vec<String>,
    /// Between two sends.
    pub pace: Duration,
    /// Whether the client does all of chat beside sending.
    pub everything: bool,
    /// What no log may show.
    pub secrets: Secrets,
}

/// One user with one device.
#[derive(Debug)]
pub struct Client {
    user: String,
    device: String,
    token: String,
    prefers: usize,
    place: Place,
    shared: Arc<Shared>,
    random: Random,
    sessions: Arc<Mutex<Vec<Arc<Peer>>>>,
    /// What it keeps.
    pub book: Book,
    turn: usize,
    counted: usize,
    sends_at: Instant,
}

/// Why a connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Lost,
    Elsewhere,
    Over,
}

impl Client {
    /// A client that is at home at a region; all that it decides follows from `seed`.
    #[must_use]
    pub fn new(user: &str, token: String, prefers: usize, place: Place, shared: Arc<Shared>, seed: u64) -> Self {
        hide(&place.secrets, WORDS);
        Self {
            user: user.to_owned(),
            device: new_id(),
            token,
            prefers,
            book: Book::new(place.conversations.clone()),
            place,
            shared,
            random: Random::of(seed),
            sessions: Arc::default(),
            turn: prefers,
            counted: 0,
            sends_at: Instant::now(),
        }
    }

    /// All its connections, the ended ones too.
    #[must_use]
    pub fn sessions(&self) -> Arc<Mutex<Vec<Arc<Peer>>>> {
        self.sessions.clone()
    }

    /// Runs until the run is over; the client as it is then.
    pub async fn run(mut self) -> Self {
        let mut region = self.prefers;
        while !self.shared.over.load(Ordering::Relaxed) {
            let Some(peer) = self.connect(region).await else {
                region = (region + 1) % self.place.regions.len();
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            let mut read = 0;
            let left = self.serve(&peer, &mut read).await;
            self.leave(&peer, &mut read);
            region = match left {
                Left::Over => break,
                Left::Lost => self.prefers,
                Left::Elsewhere => self.random.below(self.place.regions.len()),
            };
        }
        self
    }

    async fn connect(&mut self, region: usize) -> Option<Arc<Peer>> {
        let auth = Auth {
            token: self.token.clone(),
            device: Some(self.device.clone()),
            resume: self.book.resume.clone(),
            cursors: self.book.resume.is_some().then(|| self.book.cursors()),
        };
        let resumes = auth.resume.is_some();
        let (address, secrets) = (&self.place.regions[region], self.place.secrets.clone());
        let opened = Peer::try_open_at(address, &self.user, TransportKind::WebSocket, None, auth, secrets);
        let peer = Arc::new(tokio::time::timeout(OPENS, opened).await.ok()?.ok()?);
        // What it hears counts from now on, whatever becomes of it.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).push(peer.clone());
        if peer.heard("connected", OPENS).await.is_none() {
            self.leave(&peer, &mut 0);
            return None;
        }
        self.shared.resumes.fetch_add(usize::from(resumes), Ordering::Relaxed);
        Some(peer)
    }

    /// Drops a connection, and takes in everything that it brought: the checker has seen it too.
    fn leave(&mut self, peer: &Peer, read: &mut usize) {
        peer.abandon();
        self.hear(peer, read);
    }

    /// Works on one connection until it ends or is given up.
    async fn serve(&mut self, peer: &Peer, read: &mut usize) -> Left {
        self.hear(peer, read);
        let again = self.book.again(Instant::now());
        if self.post_all(peer, again).await.is_err() {
            return Left::Lost;
        }
        let roams = Instant::now() + Duration::from_millis(self.random.between(ROAMS.0, ROAMS.1));
        let (mut heard, mut beat) = (Instant::now(), Instant::now());
        // Who sends seldom looks seldom, or the hundreds of a crowd would do nothing but look.
        let mut ticks = tokio::time::interval(LOOK.max(self.place.pace / 8));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            if self.hear(peer, read) > 0 {
                heard = now;
            }
            if self.shared.over.load(Ordering::Relaxed) {
                return Left::Over;
            }
            if peer.closed().is_some() || now > heard + SILENCE {
                return Left::Lost;
            }
            if self.book.unanswered(now) > NO_ANSWER {
                self.shared.unanswered.fetch_add(1, Ordering::Relaxed);
                return Left::Elsewhere;
            }
            if now > roams && !self.shared.calm.load(Ordering::Relaxed) {
                return Left::Elsewhere;
            }
            if now > beat + HEARTBEAT {
                beat = now;
                let beat = peer.frame(json!({ "type": "heartbeat", "timestamp": 1 }));
                if tokio::time::timeout(OPENS, beat).await.is_err() {
                    return Left::Lost;
                }
            }
            if self.send(peer).await.is_err() {
                return Left::Lost;
            }
        }
    }

    /// Takes in what came since the last look; how many frames.
    fn hear(&mut self, peer: &Peer, read: &mut usize) -> usize {
        let frames = peer.since(*read);
        *read += frames.len();
        let now = Instant::now();
        let acked = frames.iter().filter(|frame| self.book.hear(frame, now)).count();
        self.shared.acked.fetch_add(acked, Ordering::Relaxed);
        self.count();
        frames.len()
    }

    /// Tells the others how much of this client has not ended.
    fn count(&mut self) {
        let open = self.book.pending().len();
        if open >= self.counted {
            self.shared.open.fetch_add(open - self.counted, Ordering::Relaxed);
        } else {
            self.shared.open.fetch_sub(self.counted - open, Ordering::Relaxed);
        }
        self.counted = open;
    }

    /// Sends what is due again, or one new message.
    async fn send(&mut self, peer: &Peer) -> Result<(), ()> {
        let now = Instant::now();
        let due = self.book.due(now);
        if !due.is_empty() || !self.shared.sending.load(Ordering::Relaxed) {
            return self.post_all(peer, due).await;
        }
        if now < self.sends_at {
            return Ok(());
        }
        self.sends_at = now + self.place.pace;
        if self.place.everything {
            self.chatter(peer).await?;
        }
        let Some(conversation) = self.book.free(self.turn, WINDOW) else { return Ok(()) };
        self.turn += 1;
        let change = if self.place.everything && self.random.below(4) == 0 { self.change() } else { None };
        let (conversation, frame) =
            change.unwrap_or_else(|| (conversation, ("message.send", self.payload(conversation))));
        self.book.hand_over(conversation, frame.clone(), now);
        self.count();
        self.post_all(peer, vec![frame]).await
    }

    /// A change of a message that the client knows: a reaction, or an edit or delete of one of its own.
    fn change(&mut self) -> Option<(usize, (&'static str, Value))> {
        let known = self.book.known();
        let target = known.get(self.random.below(known.len().max(1)))?.clone();
        let mut payload = json!({ "messageId": new_id(), "targetMessageId": target.message,
            "conversationId": self.place.conversations[target.conversation] });
        let kind = match self.random.below(6) {
            0 if target.own => "message.delete",
            1..=3 if target.own => {
                let text = format!("{WORDS} of {} edited at {}", self.user, self.turn);
                payload["content"] = json!({ "type": "text", "text": text });
                "message.edit"
            }
            _ => {
                payload["emoji"] = json!(["👍", "🎉", "❤️"][self.random.below(3)]);
                "reaction.add"
            }
        };
        Some((target.conversation, (kind, payload)))
    }

    /// What is said beside messages: how far the client is, what it looks at, that it types, that somebody is there.
    async fn chatter(&mut self, peer: &Peer) -> Result<(), ()> {
        let place = self.random.below(self.place.conversations.len());
        let conversation = self.place.conversations[place].clone();
        let frame = match self.random.below(6) {
            0 => json!({ "type": "typing.start", "payload": { "conversationId": conversation } }),
            1 => json!({ "type": "conversation.view", "payload": { "conversationId": conversation } }),
            2 => {
                let status = if self.random.below(2) == 0 { "away" } else { "online" };
                json!({ "type": "presence.set", "payload": { "status": status } })
            }
            way => {
                let Some((epoch, up_to)) = self.book.shown(place) else { return Ok(()) };
                let said = peer.receipt(&conversation, up_to, Some(epoch), way == 3);
                return tokio::time::timeout(OPENS, said).await.map_err(|_| ());
            }
        };
        tokio::time::timeout(OPENS, peer.frame(frame)).await.map_err(|_| ())
    }

    /// Levels are mixed: of five messages three go at the conversation's own, one each at the higher ones.
    fn payload(&mut self, conversation: usize) -> Value {
        let text = format!("{WORDS} of {} number {}", self.user, self.turn);
        let mut payload = json!({ "messageId": new_id(), "conversationId": self.place.conversations[conversation],
            "content": { "type": "text", "text": text } });
        match self.random.below(5) {
            0 => payload["durability"] = json!("majority"),
            1 => payload["durability"] = json!("regions:2"),
            _ => {}
        }
        payload
    }

    async fn post_all(&self, peer: &Peer, frames: Vec<(&'static str, Value)>) -> Result<(), ()> {
        for (kind, payload) in frames {
            // A region that stands still takes no bytes any more: then nobody knows what it has.
            tokio::time::timeout(OPENS, peer.post_as(kind, payload)).await.map_err(|_| ())?;
        }
        Ok(())
    }
}
