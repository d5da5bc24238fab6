//! A thin raw client over either transport: it sends what it is told and records every frame with a monotonic time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hearth_client::rest::Rest;
use hearth_client::transport::{Connection, Received, TransportError};
use hearth_client::{Address, TransportKind};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::mesh::{Mesh, Region};
use crate::new_id;
use crate::process::{Secrets, hide};

/// How long an expected frame may take, unless a story says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Texts shorter than this may be in a log by chance.
const TELLING: usize = 8;

/// A frame as it came in.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When.
    pub at: Instant,
    /// What.
    pub value: Value,
}

/// A message as it went out.
#[derive(Clone, Debug)]
pub struct Sent {
    /// When.
    pub at: Instant,
    /// Its id.
    pub message: String,
    /// Where to.
    pub conversation: String,
    /// The text that it carries, if it carries one.
    pub text: Option<String>,
}

/// What the first frame says.
#[derive(Clone, Debug, Default)]
pub struct Auth {
    /// The token.
    pub token: String,
    /// The device; a new one if absent.
    pub device: Option<String>,
    /// A resume token.
    pub resume: Option<String>,
    /// Cursors.
    pub cursors: Option<Value>,
}

/// How sends of a session ended so far, counted as the frames come in.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Sends.
    pub sent: usize,
    /// Acks.
    pub acked: usize,
    /// Refusals, by their code.
    pub refused: BTreeMap<String, usize>,
}

impl Tally {
    fn take_in(&mut self, frame: &Value) {
        match frame["type"].as_str() {
            Some("message.ack") => self.acked += 1,
            Some("error" | "message.refused") => {
                let code = frame["payload"]["error"].as_str().unwrap_or_default();
                *self.refused.entry(code.to_owned()).or_default() += 1;
            }
            _ => {}
        }
    }

    /// Sends that have not ended.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.sent.saturating_sub(self.acked + self.refused.values().sum::<usize>())
    }
}

/// A receipt as it went out.
#[derive(Clone, Debug)]
pub struct Said {
    /// When.
    pub at: Instant,
    /// Of which conversation.
    pub conversation: String,
    /// The last number.
    pub up_to: u64,
    /// Whether it was read, and not only received.
    pub read: bool,
}

#[derive(Debug, Default)]
struct Record {
    said: Vec<Said>,
    frames: Vec<Frame>,
    /// Indexes of frames that no story has asked for yet.
    unread: Vec<usize>,
    sent: Vec<Sent>,
    tally: Tally,
    /// When the connection ended, and its close code where the transport shows one.
    closed: Option<(Instant, Option<u16>)>,
}

enum Order {
    Send(Vec<String>),
    Leave,
}

/// A session of a user.
#[derive(Debug)]
pub struct Peer {
    /// The user.
    pub user: String,
    /// The device.
    pub device: String,
    record: Arc<Mutex<Record>>,
    changed: watch::Receiver<u64>,
    orders: mpsc::Sender<Order>,
    /// Held while a message is noted and sent, so that both are in one order.
    sending: tokio::sync::Mutex<()>,
    task: tokio::task::JoinHandle<()>,
    secrets: Secrets,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where a region is reached.
#[must_use]
pub fn address(region: &Region) -> Address {
    Address { http: region.http.clone(), ws: region.ws.clone(), webtransport: Some(region.webtransport.clone()) }
}

impl Peer {
    /// Connects `user` at a region over WebSocket, and waits for `connected`.
    pub async fn connect(mesh: &Mesh, user: &str, region: usize) -> Self {
        Self::connect_over(mesh, user, region, TransportKind::WebSocket).await
    }

    /// As [`Peer::connect`], over `kind`.
    pub async fn connect_over(mesh: &Mesh, user: &str, region: usize, kind: TransportKind) -> Self {
        let auth = Auth { token: mesh.token(user, region).await, ..Auth::default() };
        let peer = Self::open(mesh, user, region, kind, auth).await;
        peer.expect("connected", |_| true).await;
        peer
    }

    /// Connects with a resume token and cursors; what the answer was is for the story to look at.
    pub async fn resume(mesh: &Mesh, old: &Self, region: usize, resume: &str, cursors: Value) -> Self {
        Self::resume_over(mesh, old, region, TransportKind::WebSocket, resume, cursors).await
    }

    /// As [`Peer::resume`], over `kind`.
    pub async fn resume_over(
        mesh: &Mesh,
        old: &Self,
        region: usize,
        kind: TransportKind,
        resume: &str,
        cursors: Value,
    ) -> Self {
        let auth = Auth {
            token: mesh.token(&old.user, region).await,
            device: Some(old.device.clone()),
            resume: Some(resume.to_owned()),
            cursors: Some(cursors),
        };
        Self::open(mesh, &old.user, region, kind, auth).await
    }

    /// Opens a connection and sends `auth` as its first frame.
    ///
    /// # Panics
    /// When the region cannot be reached.
    pub async fn open(mesh: &Mesh, user: &str, region: usize, kind: TransportKind, auth: Auth) -> Self {
        Self::open_at(&address(&mesh.regions[region]), user, kind, None, auth, mesh.secrets.clone()).await
    }

    /// As [`Peer::open`], anywhere.
    ///
    /// # Panics
    /// When it cannot be reached.
    pub async fn open_at(
        address: &Address,
        user: &str,
        kind: TransportKind,
        tls: Option<Arc<rustls::ClientConfig>>,
        auth: Auth,
        secrets: Secrets,
    ) -> Self {
        let opened = Self::try_open_at(address, user, kind, tls, auth, secrets).await;
        opened.unwrap_or_else(|error| panic!("{user} at {}: {error}", address.http))
    }

    /// As [`Peer::open_at`].
    ///
    /// # Errors
    /// Why it cannot be reached.
    ///
    /// # Panics
    /// When no TLS client can be made on this machine.
    pub async fn try_open_at(
        address: &Address,
        user: &str,
        kind: TransportKind,
        tls: Option<Arc<rustls::ClientConfig>>,
        auth: Auth,
        secrets: Secrets,
    ) -> Result<Self, TransportError> {
        let rest = Rest::new(tls.clone()).expect("a client");
        let connection = Connection::open(address, kind, tls, &rest).await?;
        let device = auth.device.unwrap_or_else(new_id);
        let mut payload = json!({ "token": auth.token, "deviceId": device });
        if let Some(resume) = auth.resume {
            payload["resumeToken"] = json!(resume);
        }
        if let Some(cursors) = auth.cursors {
            payload["cursors"] = cursors;
        }
        let record = Arc::new(Mutex::new(Record::default()));
        let (tell, changed) = watch::channel(0);
        let (orders, inbox) = mpsc::channel(64);
        let task = tokio::spawn(pump(connection, inbox, record.clone(), tell));
        let peer = Self {
            user: user.to_owned(),
            device,
            record,
            changed,
            orders,
            sending: tokio::sync::Mutex::default(),
            task,
            secrets,
        };
        peer.frame(json!({ "type": "auth", "payload": payload })).await;
        Ok(peer)
    }

    /// Sends an object as it is.
    pub async fn frame(&self, frame: Value) {
        self.texts(vec![frame.to_string()]).await;
    }

    /// Sends texts as they are, together.
    pub async fn texts(&self, texts: Vec<String>) {
        // A connection that ended records so; whoever waits for an answer is told.
        let _ = self.orders.send(Order::Send(texts)).await;
    }

    /// Sends a text message; its id.
    pub async fn send(&self, conversation: &str, text: &str) -> String {
        self.send_as(conversation, text, &new_id()).await
    }

    /// Sends a text message under an id.
    pub async fn send_as(&self, conversation: &str, text: &str, message: &str) -> String {
        let payload = json!({
            "messageId": message, "conversationId": conversation, "content": { "type": "text", "text": text },
        });
        self.send_payload(payload).await
    }

    /// Sends a `message.send` with this payload; its message's id.
    ///
    /// # Panics
    /// When it has no `messageId`.
    pub async fn send_payload(&self, payload: Value) -> String {
        self.hide_text(&payload);
        self.post(payload).await
    }

    /// A text that tells something may stand in no log from now on.
    pub(crate) fn hide_text(&self, payload: &Value) {
        if let Some(text) = payload["content"]["text"].as_str().filter(|text| text.len() >= TELLING) {
            hide(&self.secrets, text);
        }
    }

    /// As [`Peer::send_payload`], when the text is one that is hidden already.
    pub(crate) async fn post(&self, payload: Value) -> String {
        self.post_as("message.send", payload).await
    }

    pub(crate) async fn post_as(&self, kind: &str, payload: Value) -> String {
        let message = payload["messageId"].as_str().expect("a message id").to_owned();
        let conversation = payload["conversationId"].as_str().unwrap_or_default().to_owned();
        let _one_at_a_time = self.sending.lock().await;
        let text = payload["content"]["text"].as_str().map(str::to_owned);
        let sent = Sent { at: Instant::now(), message: message.clone(), conversation, text };
        {
            let mut record = self.record.lock().expect("no panic holds it");
            record.sent.push(sent);
            record.tally.sent += 1;
        }
        self.frame(json!({ "type": kind, "id": message, "payload": payload })).await;
        message
    }

    /// Sends a text and waits for its ack's payload.
    pub async fn say(&self, conversation: &str, text: &str) -> Value {
        let message = self.send(conversation, text).await;
        self.acked(&message).await
    }

    /// Waits for the ack of a message; its payload.
    pub async fn acked(&self, message: &str) -> Value {
        self.acked_within(message, PATIENCE).await
    }

    /// As [`Peer::acked`].
    pub async fn acked_within(&self, message: &str, within: Duration) -> Value {
        let mine = |frame: &Value| frame["payload"]["messageId"] == message;
        self.expect_within("message.ack", within, mine).await.value["payload"].clone()
    }

    /// Takes the first unread frame of `kind` that matches, waiting for it.
    pub async fn expect(&self, kind: &str, matches: impl Fn(&Value) -> bool) -> Frame {
        self.expect_within(kind, PATIENCE, matches).await
    }

    /// As [`Peer::expect`].
    ///
    /// # Panics
    /// When it does not come in time, with the frames that did.
    pub async fn expect_within(&self, kind: &str, within: Duration, matches: impl Fn(&Value) -> bool) -> Frame {
        self.first(kind, within, |value| value["type"] == kind && matches(value)).await
    }

    /// Takes the first unread frame that matches, of whatever kind, waiting for it; `what` names it.
    ///
    /// # Panics
    /// When it does not come in time, with the frames that did.
    pub async fn first(&self, what: &str, within: Duration, matches: impl Fn(&Value) -> bool) -> Frame {
        let deadline = Instant::now() + within;
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            if let Some(frame) = self.take(&matches) {
                return frame;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = self.closed().is_some();
            if ended || tokio::time::timeout(left, changed.changed()).await.is_err() {
                if let Some(frame) = self.take(&matches) {
                    return frame;
                }
                panic!("{}: no {what} within {within:?}; {}", self.user, self.story());
            }
        }
    }

    /// Takes the first unread frame that matches, if it is there.
    ///
    /// # Panics
    /// Never.
    pub fn take(&self, matches: impl Fn(&Value) -> bool) -> Option<Frame> {
        let mut record = self.record.lock().expect("no panic holds it");
        let at = record.unread.iter().position(|index| matches(&record.frames[*index].value))?;
        let index = record.unread.remove(at);
        Some(record.frames[index].clone())
    }

    /// All frames so far.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        self.record.lock().expect("no panic holds it").frames.clone()
    }

    /// The frames from the `from`th on, so far.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn since(&self, from: usize) -> Vec<Value> {
        let record = self.record.lock().expect("no panic holds it");
        record.frames.iter().skip(from).map(|frame| frame.value.clone()).collect()
    }

    /// Waits for the first frame of `kind`; `None` when the connection ends before, or it is not there within `within`.
    pub async fn heard(&self, kind: &str, within: Duration) -> Option<Value> {
        let deadline = tokio::time::Instant::now() + within;
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            if let Some(frame) = self.since(0).into_iter().find(|frame| frame["type"] == kind) {
                return Some(frame);
            }
            if self.closed().is_some() || tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                return None;
            }
        }
    }

    /// Drops the connection as a network does that is gone: nobody is told. Nothing is heard of it any more.
    ///
    /// # Panics
    /// Never.
    pub fn abandon(&self) {
        self.task.abort();
        let mut record = self.record.lock().expect("no panic holds it");
        record.closed.get_or_insert((Instant::now(), None));
    }

    /// Payloads of all frames of a type so far.
    #[must_use]
    pub fn payloads(&self, kind: &str) -> Vec<Value> {
        let of_kind = self.frames().into_iter().filter(|frame| frame.value["type"] == kind);
        of_kind.map(|frame| frame.value["payload"].clone()).collect()
    }

    /// Tells how far the user is: `read`, or only received.
    ///
    /// # Panics
    /// Never.
    pub async fn receipt(&self, conversation: &str, up_to: u64, epoch: Option<u64>, read: bool) {
        let said = Said { at: Instant::now(), conversation: conversation.to_owned(), up_to, read };
        self.record.lock().expect("no panic holds it").said.push(said);
        let mut payload = json!({ "conversationId": conversation, "upToSequence": up_to });
        if let Some(epoch) = epoch {
            payload["epoch"] = json!(epoch);
        }
        let kind = if read { "message.read" } else { "message.received" };
        self.frame(json!({ "type": kind, "id": new_id(), "payload": payload })).await;
    }

    /// Receipts as they went out.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn said(&self) -> Vec<Said> {
        self.record.lock().expect("no panic holds it").said.clone()
    }

    /// All that was sent.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.record.lock().expect("no panic holds it").sent.clone()
    }

    /// What no log may show.
    pub(crate) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// How its sends ended so far.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.record.lock().expect("no panic holds it").tally.clone()
    }

    /// Waits until the tally is as it should be; false when it is not within `within` or the connection ended first.
    pub async fn tallied(&self, within: Duration, holds: impl Fn(&Tally) -> bool) -> bool {
        let deadline = tokio::time::Instant::now() + within;
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            if holds(&self.tally()) {
                return true;
            }
            if self.closed().is_some() || tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                return holds(&self.tally());
            }
        }
    }

    /// When the connection ended, and its close code where the transport shows one.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn closed(&self) -> Option<(Instant, Option<u16>)> {
        self.record.lock().expect("no panic holds it").closed
    }

    /// Waits until the server ended the connection; the close code where the transport shows one.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ended(&self, within: Duration) -> Option<u16> {
        let mut changed = self.changed.clone();
        let deadline = tokio::time::Instant::now() + within;
        loop {
            changed.mark_unchanged();
            if let Some((_, code)) = self.closed() {
                return code;
            }
            let waited = tokio::time::timeout_at(deadline, changed.changed()).await;
            assert!(waited.is_ok(), "{}: not closed within {within:?}; {}", self.user, self.story());
        }
    }

    /// Answers to everything before have come once this returns: frames of a session are handled in order.
    pub async fn settled(&self) {
        self.frame(json!({ "type": "heartbeat", "timestamp": 1 })).await;
        self.expect("heartbeat.ack", |_| true).await;
    }

    /// The resume token of this session.
    #[must_use]
    pub fn resume_token(&self) -> String {
        let hello = self.frames().into_iter().find(|frame| frame.value["type"] == "connected");
        hello.and_then(|frame| frame.value["resumeToken"].as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Leaves.
    pub async fn leave(&self) {
        let _ = self.orders.send(Order::Leave).await;
        self.ended(PATIENCE).await;
    }

    /// The last frames, without what must not be shown.
    fn story(&self) -> String {
        let frames = self.frames();
        let last = frames.iter().rev().take(12).map(|frame| {
            let mut value = frame.value.clone();
            if value["resumeToken"].is_string() {
                value["resumeToken"] = json!("…");
            }
            let text = value.to_string();
            text.chars().take(240).collect::<String>()
        });
        let last: Vec<String> = last.collect();
        format!("closed: {:?}; {} frames, newest first:\n  {}", self.closed(), frames.len(), last.join("\n  "))
    }
}

async fn pump(
    mut connection: Connection,
    mut inbox: mpsc::Receiver<Order>,
    record: Arc<Mutex<Record>>,
    tell: watch::Sender<u64>,
) {
    let code = loop {
        tokio::select! {
            order = inbox.recv() => match order {
                Some(Order::Send(texts)) => {
                    // A lost connection shows in what is received next.
                    let _ = connection.send_many(texts).await;
                }
                Some(Order::Leave) | None => {
                    connection.close().await;
                    break None;
                }
            },
            received = connection.receive() => match received {
                Ok(Received::Text(text)) => {
                    let value = serde_json::from_str(&text).unwrap_or(Value::Null);
                    let mut record = record.lock().expect("no panic holds it");
                    if record.closed.is_some() {
                        return;
                    }
                    record.tally.take_in(&value);
                    let index = record.frames.len();
                    record.frames.push(Frame { at: Instant::now(), value });
                    record.unread.push(index);
                    tell.send_modify(|count| *count += 1);
                }
                Ok(Received::Closed(code)) => break code,
                Err(_) => break None,
            },
        }
    };
    record.lock().expect("no panic holds it").closed = Some((Instant::now(), code));
    tell.send_modify(|count| *count += 1);
}
