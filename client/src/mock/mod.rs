//! A region for tests: the few routes and frames that the client and the load generator use, from memory.

mod http;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use hearth_protocol::{ConversationId, UserId};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use uuid::Uuid;

/// What goes wrong on purpose.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// `message.new` of these numbers is not delivered live.
    pub(crate) swallowed: HashSet<u64>,
    /// The connection is cut instead of the n-th answer (from 1) of the whole mock.
    pub(crate) cut_at_answer: Option<u64>,
    /// Sends are answered by `message.queued` and sequenced on [`Mock::release`].
    pub(crate) queue: bool,
    /// Every message is delivered twice.
    pub(crate) twice: bool,
}

#[derive(Debug, Default)]
struct State {
    conversations: HashMap<Uuid, Conversation>,
    sessions: HashMap<u64, (UserId, mpsc::Sender<Out>)>,
    next_session: u64,
    answers: u64,
    auths: Vec<Value>,
    held: Vec<(String, Value)>,
    faults: Faults,
}

#[derive(Debug, Default)]
struct Conversation {
    members: Vec<UserId>,
    rows: Vec<Value>,
}

#[derive(Debug)]
enum Out {
    Frame(String),
    Close(u16),
    Cut,
}

/// A running mock; it ends when dropped.
#[derive(Clone, Debug)]
pub(crate) struct Mock {
    pub(crate) http: String,
    pub(crate) ws: String,
    state: Arc<Mutex<State>>,
    _running: Arc<watch::Sender<()>>,
}

impl Mock {
    pub(crate) async fn start(faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (running, mut ended) = watch::channel(());
        let mock = Self {
            http: format!("http://{address}"),
            ws: format!("ws://{address}/ws"),
            state: Arc::new(Mutex::new(State { faults, ..State::default() })),
            _running: Arc::new(running),
        };
        let (state, base) = (Arc::downgrade(&mock.state), address.to_string());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = ended.changed() => return,
                    accepted = listener.accept() => {
                        let (Ok((stream, _)), Some(state)) = (accepted, state.upgrade()) else { return };
                        tokio::spawn(serve(stream, state, base.clone()));
                    }
                }
            }
        });
        mock
    }

    /// The `auth` frames so far.
    pub(crate) fn auths(&self) -> Vec<Value> {
        self.state.lock().auths.clone()
    }

    /// Closes every session with this code.
    pub(crate) fn close_all(&self, code: u16) {
        for (_, out) in self.state.lock().sessions.values() {
            let _ = out.try_send(Out::Close(code));
        }
    }

    /// Sequences what was queued.
    pub(crate) fn release(&self) {
        let mut state = self.state.lock();
        state.faults.queue = false;
        for (sender, payload) in std::mem::take(&mut state.held) {
            let answer = sequence(&mut state, 0, &sender, &payload);
            let user = UserId::new(&sender).expect("valid");
            for (_, out) in state.sessions.values().filter(|(session, _)| *session == user) {
                let _ = out.try_send(Out::Frame(answer.clone()));
            }
        }
    }

    /// The ids of a conversation's messages, in order.
    pub(crate) fn message_ids(&self, conversation: ConversationId) -> Vec<String> {
        let state = self.state.lock();
        let rows = &state.conversations[&conversation.0].rows;
        rows.iter().map(|row| row["messageId"].as_str().expect("an id").to_owned()).collect()
    }

    /// Says something as a user that has no session.
    pub(crate) fn say(&self, sender: &str, conversation: ConversationId, text: &str) {
        let payload = json!({"messageId": Uuid::now_v7(), "conversationId": conversation,
            "content": {"type": "text", "text": text}});
        sequence(&mut self.state.lock(), 0, sender, &payload);
    }

    /// Makes a conversation.
    pub(crate) fn open(&self, conversation: ConversationId, members: &[&str]) {
        let members = members.iter().map(|member| UserId::new(member).expect("valid")).collect();
        self.state.lock().conversations.insert(conversation.0, Conversation { members, rows: Vec::new() });
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>, base: String) {
    let mut start = [0; 8];
    // The request line tells which protocol follows; nothing is taken from the socket.
    if stream.readable().await.is_err() || stream.peek(&mut start).await.is_err() {
        return;
    }
    if start.starts_with(b"GET /ws") {
        if let Ok(socket) = accept(stream).await {
            session(socket, &state).await;
        }
    } else {
        http::serve(stream, &state, &base).await;
    }
}

async fn accept(stream: TcpStream) -> Result<WebSocketStream<TcpStream>, Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    Ok(tokio_tungstenite::accept_hdr_async(stream, ChatProtocol).await?)
}

/// Agrees to `chat.v1`.
struct ChatProtocol;

impl Callback for ChatProtocol {
    fn on_request(self, _: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("chat.v1"));
        Ok(response)
    }
}

async fn session(socket: WebSocketStream<TcpStream>, state: &Mutex<State>) {
    let (mut sink, mut frames) = socket.split();
    let Some(Ok(Message::Text(first))) = frames.next().await else { return };
    let first: Value = serde_json::from_str(&first).expect("JSON");
    let user = first["payload"]["token"].as_str().expect("a token").trim_start_matches("token-").to_owned();
    let (out, mut outgoing) = mpsc::channel(100_000);
    let id = begin(&mut state.lock(), &user, &first, out.clone());
    loop {
        tokio::select! {
            biased;
            next = outgoing.recv() => {
                match next {
                    Some(Out::Frame(frame)) => {
                        let sent = if outgoing.is_empty() {
                            sink.send(Message::text(frame)).await
                        } else {
                            sink.feed(Message::text(frame)).await
                        };
                        if sent.is_err() {
                            break;
                        }
                    }
                    Some(Out::Close(code)) => {
                        let close = json!({"type": "close", "code": code, "reason": "test"}).to_string();
                        let _ = sink.send(Message::text(close)).await;
                        break;
                    }
                    Some(Out::Cut) | None => {
                        let _ = sink.flush().await;
                        break;
                    }
                }
            }
            frame = frames.next() => match frame {
                Some(Ok(Message::Text(text))) => handle(&mut state.lock(), id, &user, &text, &out),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            }
        }
    }
    state.lock().sessions.remove(&id);
}

fn begin(state: &mut State, user: &str, auth: &Value, out: mpsc::Sender<Out>) -> u64 {
    state.auths.push(auth["payload"].clone());
    state.next_session += 1;
    let id = state.next_session;
    let device =
        auth["payload"]["deviceId"].as_str().map_or_else(|| Uuid::from_u128(u128::from(id)).to_string(), str::to_owned);
    let connected = json!({"type": "connected", "connectionId": id.to_string(), "serverTime": 1, "node": "mock",
        "heartbeatInterval": 30_000, "resumeToken": format!("resume-{user}"), "userId": user, "deviceId": device,
        "region": "eu-west", "resumed": "exact", "feed": "complete", "endpoints": [], "protocolVersion": 1});
    let _ = out.try_send(Out::Frame(connected.to_string()));
    if let Some(cursors) = auth["payload"]["cursors"].as_array() {
        let mut covered = Vec::new();
        for cursor in cursors {
            let conversation: Uuid = cursor["conversationId"].as_str().and_then(|id| id.parse().ok()).expect("an id");
            let rows = state.conversations.get(&conversation).map(|known| known.rows.clone()).unwrap_or_default();
            let last = cursor["lastSequence"].as_u64().expect("a number");
            for row in rows.iter().filter(|row| row["sequenceNumber"].as_u64() > Some(last)) {
                let _ = out.try_send(Out::Frame(json!({"type": "message.new", "payload": row}).to_string()));
            }
            covered.push(json!({"conversationId": conversation, "epoch": 1, "upToSequence": rows.len()}));
        }
        let complete = json!({"type": "sync.complete", "payload": {"conversations": covered, "resumed": "exact"}});
        let _ = out.try_send(Out::Frame(complete.to_string()));
    }
    state.sessions.insert(id, (UserId::new(user).expect("valid"), out));
    id
}

fn handle(state: &mut State, session: u64, user: &str, text: &str, out: &mpsc::Sender<Out>) {
    let frame: Value = serde_json::from_str(text).expect("JSON");
    let payload = &frame["payload"];
    match frame["type"].as_str() {
        Some("message.send") => {
            state.answers += 1;
            if state.faults.cut_at_answer == Some(state.answers) {
                let _ = out.try_send(Out::Cut);
                return;
            }
            if state.faults.queue {
                state.held.push((user.to_owned(), payload.clone()));
                let queued = json!({"type": "message.queued", "payload": {"messageId": payload["messageId"],
                    "conversationId": payload["conversationId"], "reason": "HOME_UNREACHABLE", "home": "us-east"}});
                let _ = out.try_send(Out::Frame(queued.to_string()));
                return;
            }
            let answer = sequence(state, session, user, payload);
            let _ = out.try_send(Out::Frame(answer));
        }
        Some("history.request") => {
            let body = history(state, payload);
            let answer = json!({"type": "history.response", "id": frame["id"], "payload": body});
            let _ = out.try_send(Out::Frame(answer.to_string()));
        }
        Some("heartbeat") => {
            let _ = out.try_send(Out::Frame(r#"{"type":"heartbeat.ack","serverTime":1}"#.to_owned()));
        }
        _ => {}
    }
}

/// Gives a message its number, once, delivers it and makes the ack.
fn sequence(state: &mut State, session: u64, sender: &str, payload: &Value) -> String {
    let id: Uuid = payload["conversationId"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    let conversation = state.conversations.entry(id).or_default();
    let known = conversation.rows.iter().rev().find(|row| row["messageId"] == payload["messageId"]);
    let known = known.and_then(|row| row["sequenceNumber"].as_u64());
    let number = known.unwrap_or(conversation.rows.len() as u64 + 1);
    if known.is_none() {
        let row = json!({"messageId": payload["messageId"], "conversationId": id, "senderId": sender,
            "content": payload["content"], "sequenceNumber": number, "timestamp": 1, "epoch": 1, "kind": "message",
            "originRegion": "eu-west"});
        let text = format!(r#"{{"type":"message.new","payload":{row}}}"#);
        conversation.rows.push(row);
        let members = conversation.members.clone();
        for (other, (user, out)) in &state.sessions {
            if *other == session || !members.contains(user) || state.faults.swallowed.contains(&number) {
                continue;
            }
            for _ in 0..if state.faults.twice { 2 } else { 1 } {
                let _ = out.try_send(Out::Frame(text.clone()));
            }
        }
    }
    json!({"type": "message.ack", "payload": {"messageId": payload["messageId"], "sequenceNumber": number,
        "timestamp": 1, "conversationId": id, "epoch": 1, "home": "eu-west",
        "durability": {"level": "region", "regions": ["eu-west"]}}})
    .to_string()
}

/// A page after or before a number, or the newest.
fn history(state: &State, query: &Value) -> Value {
    let id: Uuid = query["conversationId"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    let rows = state.conversations.get(&id).map(|known| known.rows.as_slice()).unwrap_or_default();
    let limit = usize::try_from(query["limit"].as_u64().unwrap_or(50)).expect("small");
    let number = |name: &str| query[name].as_u64().map(|number| usize::try_from(number).expect("small"));
    let (from, to) = match (number("after"), number("before")) {
        (Some(after), _) => (after.min(rows.len()), (after + limit).min(rows.len())),
        (None, Some(before)) => (before.saturating_sub(1 + limit), (before - 1).min(rows.len())),
        (None, None) => (rows.len().saturating_sub(limit), rows.len()),
    };
    let more = if number("after").is_some() { to < rows.len() } else { from > 0 };
    json!({"conversationId": id, "messages": rows[from..to], "hasMore": more, "floorSequence": 1, "withheld": []})
}
