//! A gateway over a fake core on real loopback sockets, and small clients for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use edge_gateway::{
    AuthError, Core, Gateway, GatewayHandle, GatewayOptions, GatewayParts, Identity, Listeners, ResumeKeys,
    SystemClock, TokenVerifier, WebTransportCertificate,
};
use futures_util::{SinkExt as _, StreamExt as _};
use hearth_protocol::client::{
    Endpoint, PresenceSetRequest, PresenceUsersRequest, ReceiptPayload, Submission, TypingRequest,
};
use hearth_protocol::rest::{ApiAnswer, SyncCursor};
use hearth_protocol::{ConversationId, DeviceId, Epoch, NodeId, Refusal, RegionId, Timestamp, UserId};
use parking_lot::Mutex;
use region_core::{ApiCall, Connection, EdgeEvent, Opened, QueueBounds, Readiness, Replay};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use uuid::Uuid;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn conversation() -> ConversationId {
    ConversationId(Uuid::from_u128(5))
}

/// Who said what, and what its session had been sent.
pub(crate) type TakenReceipt = (UserId, ReceiptPayload, Option<(Epoch, u64)>);

/// A core with one conversation that everybody is in.
#[derive(Debug)]
pub(crate) struct FakeCore {
    region: RegionId,
    node: NodeId,
    connections: Mutex<Vec<Arc<Connection>>>,
    frames: Mutex<Vec<Bytes>>,
    next: AtomicU64,
    pub(crate) readiness: Mutex<Readiness>,
    /// API calls as they came, in their debug form.
    pub(crate) calls: Mutex<Vec<String>>,
    /// Receipts as they came, with what the session had been sent.
    pub(crate) receipts: Mutex<Vec<TakenReceipt>>,
}

impl FakeCore {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            region: RegionId::new("eu-west").unwrap(),
            node: NodeId(Arc::from("eu-west-1")),
            connections: Mutex::default(),
            frames: Mutex::default(),
            next: AtomicU64::new(1),
            readiness: Mutex::new(Readiness::Ready),
            calls: Mutex::default(),
            receipts: Mutex::default(),
        })
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.lock().len()
    }

    /// Sends a frame to the sessions of a user until the first is refused; how many were taken.
    pub(crate) fn push_to(&self, user: &str, frame: &Bytes, most: usize) -> usize {
        let connections = self.connections.lock();
        let mut theirs = connections.iter().filter(|connection| connection.user.as_str() == user);
        let connection = theirs.next().expect("a session");
        (0..most).take_while(|_| connection.push(EdgeEvent::Frame(frame.clone()))).count()
    }

    /// Sends a frame to every session until one of them overflows.
    pub(crate) fn flood(&self, frame: &Bytes) {
        for connection in self.connections.lock().iter() {
            while connection.push(EdgeEvent::Frame(frame.clone())) {}
        }
    }
}

#[async_trait]
impl Core for FakeCore {
    fn region(&self) -> &RegionId {
        &self.region
    }

    fn node(&self) -> &NodeId {
        &self.node
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        vec![Endpoint { region: RegionId::new("us-east").unwrap(), ws: "ws://us-east/ws".into(), webtransport: None }]
    }

    fn readiness(&self) -> Readiness {
        self.readiness.lock().clone()
    }

    async fn open(&self, user: UserId, device: DeviceId, bounds: QueueBounds) -> Result<Opened, Refusal> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(id, user, device, bounds));
        self.connections.lock().push(Arc::clone(&connection));
        Ok(Opened { connection, feed_complete: true })
    }

    fn close(&self, connection: &Connection) {
        self.connections.lock().retain(|known| known.id != connection.id);
    }

    fn send(&self, connection: &Arc<Connection>, request: Option<String>, send: Submission) {
        let Submission::Message(send) = send else { panic!("these tests send messages") };
        let mut frames = self.frames.lock();
        let sequence = frames.len() as u64 + 1;
        let row = json!({"type": "message.new", "payload": {
            "messageId": send.message_id, "conversationId": conversation(), "sequenceNumber": sequence,
            "senderId": connection.user, "content": send.content}});
        let frame = Bytes::from(row.to_string());
        frames.push(frame.clone());
        let payload =
            json!({"messageId": send.message_id, "conversationId": conversation(), "sequenceNumber": sequence});
        let id = request.map(|id| format!("\"id\":\"{id}\",")).unwrap_or_default();
        let ack = format!("{{\"type\":\"message.ack\",{id}\"payload\":{payload}}}");
        connection.push(EdgeEvent::Frame(ack.into()));
        for other in self.connections.lock().iter().filter(|other| other.id != connection.id) {
            let (conversation, frame) = (conversation(), frame.clone());
            other.push(EdgeEvent::Message { conversation, epoch: Epoch(1), sequence, frame });
        }
    }

    fn receipt(
        &self,
        connection: &Arc<Connection>,
        _: Option<String>,
        receipt: &ReceiptPayload,
        sent: Option<(Epoch, u64)>,
    ) {
        self.receipts.lock().push((connection.user.clone(), receipt.clone(), sent));
    }

    fn typing(&self, _: &Arc<Connection>, _: Option<String>, _: TypingRequest) {}

    fn presence_set(&self, _: &Arc<Connection>, _: PresenceSetRequest) {}

    fn presence_users(&self, _: &Arc<Connection>, _: Option<String>, _: PresenceUsersRequest) {}

    fn client_state(&self, _: &Arc<Connection>, _: bool) {}

    fn conversation_view(&self, connection: &Arc<Connection>, _: Option<String>, conversation: Option<ConversationId>) {
        connection.set_view(conversation);
    }

    async fn replay(&self, _: &UserId, cursor: &SyncCursor, rows: usize, newest: bool) -> Result<Replay, Refusal> {
        if cursor.conversation_id != conversation() {
            return Err(Refusal::no_conversation());
        }
        let all = self.frames.lock();
        let up_to = all.len() as u64;
        let missed = all.iter().enumerate().map(|(index, frame)| (index as u64 + 1, frame.clone()));
        let mut frames: Vec<_> = missed.filter(|(sequence, _)| *sequence > cursor.last_sequence).collect();
        let skip = if newest { frames.len().saturating_sub(rows) } else { 0 };
        frames.drain(..skip);
        frames.truncate(rows);
        Ok(Replay { frames, epoch: Epoch(1), up_to, visible_from: 1, floor: 1, rewound: None })
    }

    async fn api(&self, user: &UserId, call: ApiCall) -> ApiAnswer {
        self.calls.lock().push(format!("{user}: {call:?}"));
        match call {
            ApiCall::CreateDirect { .. } | ApiCall::CreateGroup { .. } => ApiAnswer::json(201, &json!({"made": true})),
            ApiCall::RemoveMember { .. } => ApiAnswer::empty(),
            ApiCall::Conversation { id } if id != conversation() => Refusal::no_conversation().into(),
            ApiCall::User { id } if id.as_str() == "busy" => {
                Refusal::new(hearth_protocol::ErrorCode::Overloaded, "busy").with_retry_after(7).into()
            }
            _ => ApiAnswer::json(200, &json!({"ok": true})),
        }
    }
}

/// Takes any user id as a token of that user; `mallory` is refused.
#[derive(Debug)]
pub(crate) struct NameVerifier;

impl TokenVerifier for NameVerifier {
    fn verify(&self, token: &str, now: Timestamp) -> Result<Identity, AuthError> {
        let user = UserId::new(token).map_err(|_| AuthError::Subject)?;
        if token == "mallory" {
            return Err(AuthError::Signature);
        }
        let expires_at = Timestamp(now.0 + 3_600_000);
        Ok(Identity { user, expires_at, token_expires_at: expires_at, operator: false })
    }
}

pub(crate) struct TestGateway {
    pub(crate) handle: GatewayHandle,
    pub(crate) core: Arc<FakeCore>,
    pub(crate) address: SocketAddr,
}

pub(crate) fn resume_keys() -> Arc<ResumeKeys> {
    Arc::new(ResumeKeys::new([("1".to_owned(), b"a secret of the tests".to_vec())], 7 * 24 * 3_600_000).unwrap())
}

pub(crate) async fn start(options: GatewayOptions) -> TestGateway {
    start_with(options, None, None, Arc::new(NameVerifier), None).await
}

pub(crate) async fn start_with(
    options: GatewayOptions,
    tls: Option<edge_gateway::SharedTls>,
    webtransport: Option<(std::net::UdpSocket, WebTransportCertificate)>,
    verifier: Arc<dyn TokenVerifier>,
    extra_routes: Option<axum::Router>,
) -> TestGateway {
    let core = FakeCore::new();
    let http = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = http.local_addr().unwrap();
    let handle = Gateway::start(GatewayParts {
        options,
        core: core.clone(),
        listeners: Listeners { http, tls, webtransport },
        verifier,
        resume_keys: resume_keys(),
        extra_routes,
        registry: Arc::default(),
        clock: Arc::new(SystemClock::default()),
    })
    .unwrap();
    TestGateway { handle, core, address }
}

/// A plain HTTP answer.
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl HttpAnswer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
            .map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {} {}", self.head, self.body))
    }
}

impl TestGateway {
    /// One request on its own connection. `headers` are whole lines.
    pub(crate) async fn request(&self, method: &str, path: &str, headers: &[&str], body: &str) -> HttpAnswer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut text = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !headers.iter().any(|line| line.to_ascii_lowercase().starts_with("host:")) {
            text.push_str(&format!("host: {}\r\n", self.address));
        }
        for line in headers {
            text.push_str(line);
            text.push_str("\r\n");
        }
        text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        HttpAnswer { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// A request of ann.
    pub(crate) async fn ann(&self, method: &str, path: &str, body: &str) -> HttpAnswer {
        self.request(method, path, &["authorization: Bearer ann"], body).await
    }

    pub(crate) async fn connect(&self) -> Client {
        self.connect_with("/ws", &[]).await.unwrap()
    }

    /// # Errors
    /// The HTTP status of a refused upgrade.
    pub(crate) async fn connect_with(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<Client, u16> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match tokio_tungstenite::connect_async(request).await {
            Ok((socket, response)) => {
                let protocol = response.headers().get("sec-websocket-protocol");
                let protocol = protocol.map(|value| value.to_str().unwrap().to_owned());
                Ok(Client { socket, protocol })
            }
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// A session of `user` that is connected.
    pub(crate) async fn session(&self, user: &str) -> Client {
        let mut client = self.connect().await;
        client.send(&json!({"type": "auth", "payload": {"token": user}})).await;
        assert_eq!(client.next().await["type"], "connected");
        client
    }
}

pub(crate) struct Client {
    pub(crate) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) protocol: Option<String>,
}

pub(crate) fn message(number: u128) -> Value {
    json!({"type": "message.send", "id": format!("r{number}"), "payload": {
        "messageId": Uuid::from_u128(number), "conversationId": conversation(),
        "content": {"type": "text", "text": "hello"}}})
}

impl Client {
    pub(crate) async fn send(&mut self, frame: &Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Value {
        match self.read().await {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("not a frame: {other:?}"),
        }
    }

    pub(crate) async fn read(&mut self) -> Message {
        tokio::time::timeout(PATIENCE, self.socket.next()).await.unwrap().unwrap().unwrap()
    }

    /// Reads on to the close: the codes in band and of the socket.
    pub(crate) async fn closes(&mut self) -> (u64, u16) {
        let mut in_band = 0;
        loop {
            match self.read().await {
                Message::Text(text) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    if frame["type"] == "close" {
                        in_band = frame["code"].as_u64().unwrap();
                    }
                }
                Message::Close(frame) => return (in_band, frame.unwrap().code.into()),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Shows that the session is served.
    pub(crate) async fn heartbeat(&mut self) {
        self.send(&json!({"type": "heartbeat", "timestamp": 1})).await;
        assert_eq!(self.next().await["type"], "heartbeat.ack");
    }
}
