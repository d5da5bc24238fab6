//! The one load of the stories: sessions that send as fast as their window and pace let them, and remember what they saw.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::process::hide;
use crate::{Checker, new_id, until};

/// Unacked messages of a session, above which it waits.
const WINDOW: usize = 16;
/// Between two sends of a session: every session sees what all others send, on a small machine.
const PACE: Duration = Duration::from_millis(4);
/// A session that was refused waits this long: a store that failed refuses everything.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// What every text of a load begins with; no log may show it.
const WORDS: &str = "words of a load";

/// Sessions that send until they are told to stop, or their connection ends.
#[derive(Debug)]
pub struct Load {
    peers: Vec<Arc<Peer>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// Names of `count` users.
#[must_use]
pub fn users(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("s{number}")).collect()
}

impl Load {
    /// Every session sends to every conversation in turn; each text has about `bytes` bytes.
    #[must_use]
    pub fn start(peers: Vec<Peer>, conversations: &[String], bytes: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let peers: Vec<Arc<Peer>> = peers.into_iter().map(Arc::new).collect();
        let tasks = peers.iter().enumerate().map(|(index, peer)| {
            hide(peer.secrets(), WORDS);
            let mut conversations = conversations.to_vec();
            let turn = index % conversations.len().max(1);
            conversations.rotate_left(turn);
            tokio::spawn(send(peer.clone(), conversations, bytes, stop.clone()))
        });
        Self { tasks: tasks.collect(), peers, stop }
    }

    /// As [`Load::start`], with `users` connected at one region over WebSocket.
    pub async fn at(mesh: &Mesh, region: usize, users: &[String], conversation: &str, bytes: usize) -> Self {
        let mut peers = Vec::new();
        for user in users {
            peers.push(Peer::connect(mesh, user, region).await);
        }
        Self::start(peers, &[conversation.to_owned()], bytes)
    }

    /// Acks so far.
    #[must_use]
    pub fn acked(&self) -> usize {
        self.peers.iter().map(|peer| peer.tally().acked).sum()
    }

    /// Waits until there are `count` acks.
    ///
    /// # Panics
    /// When there are not within a minute.
    pub async fn until_acked(&self, count: usize) {
        until("enough acks", Duration::from_secs(60), || async { self.acked() >= count }).await;
    }

    /// Waits until a send is refused with `code`: one that was on its way, when every window is full.
    ///
    /// # Panics
    /// When none is within a minute.
    pub async fn until_refused(&self, code: &str) {
        until(code, Duration::from_secs(60), || async {
            self.peers.iter().any(|peer| peer.tally().refused.contains_key(code))
        })
        .await;
    }

    /// What the sessions have seen so far.
    #[must_use]
    pub fn seen(&self) -> Checker {
        let mut checker = Checker::default();
        self.peers.iter().for_each(|peer| checker.observe(peer));
        checker
    }

    /// Stops sending; the sessions stay.
    ///
    /// # Panics
    /// When a sender did.
    pub async fn end(self) -> Vec<Arc<Peer>> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a sender");
        }
        self.peers
    }

    /// Stops sending and waits until every send has ended with an ack.
    ///
    /// # Panics
    /// When one has not within `within`, or was refused.
    pub async fn end_acked(self, within: Duration) -> Vec<Arc<Peer>> {
        let peers = self.end().await;
        let deadline = Instant::now() + within;
        for peer in &peers {
            let left = deadline.saturating_duration_since(Instant::now());
            let acked = peer.tallied(left, |tally| tally.acked >= tally.sent).await;
            assert!(acked, "{}: not all acked: {:?}, closed {:?}", peer.user, peer.tally(), peer.closed());
        }
        peers
    }
}

fn payload(conversation: &str, text: &str) -> Value {
    json!({ "messageId": new_id(), "conversationId": conversation, "content": { "type": "text", "text": text } })
}

async fn send(peer: Arc<Peer>, conversations: Vec<String>, bytes: usize, stop: Arc<AtomicBool>) {
    let filler = "x".repeat(bytes);
    let mut refused = 0;
    for number in 0_usize.. {
        if stop.load(Ordering::Relaxed) || peer.closed().is_some() {
            return;
        }
        let text = format!("{WORDS} of {} number {number} {filler}", peer.user);
        peer.post(payload(&conversations[number % conversations.len()], &text)).await;
        tokio::time::sleep(PACE).await;
        while !peer.tallied(Duration::from_millis(200), |tally| tally.outstanding() < WINDOW).await {
            if stop.load(Ordering::Relaxed) || peer.closed().is_some() {
                return;
            }
        }
        let now = peer.tally().refused.values().sum();
        if now > refused {
            refused = now;
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    }
}

/// Waits until every session has seen every row of a conversation: as its own acked message, or as `message.new`.
///
/// # Panics
/// When one has not within 20 s and was not told to look for itself.
pub async fn all_seen(peers: &[Arc<Peer>], conversation: &str, rows: &[Value]) {
    let wanted: BTreeSet<&str> = rows.iter().filter_map(|row| row["messageId"].as_str()).collect();
    for peer in peers {
        until("every session has seen every message", Duration::from_secs(20), || async {
            let frames = peer.frames();
            let told = frames.iter().any(|frame| frame.value["type"] == "sync.required");
            let seen: BTreeSet<&str> = frames
                .iter()
                .filter(|frame| frame.value["type"] == "message.ack" || frame.value["type"] == "message.new")
                .filter(|frame| frame.value["payload"]["conversationId"] == conversation)
                .filter_map(|frame| frame.value["payload"]["messageId"].as_str())
                .collect();
            told || wanted.is_subset(&seen)
        })
        .await;
    }
}
