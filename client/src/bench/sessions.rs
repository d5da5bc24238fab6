//! Many sessions: they come all at once, stay and do nothing, are dropped, and come back all at once.
//!
//! A client that is refused, or whose connection breaks, tries again after a pause; its time counts from its first try.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use hearth_protocol::UserId;
use hearth_protocol::client::AuthPayload;
use hearth_protocol::rest::SyncCursor;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::BenchError;
use super::opening::{self, Opened};
use super::report::{Latency, SessionsReport, StormReport};
use super::run::histogram;
use super::scenario::{host_of, user};
use super::server::{Server, cpu};
use crate::rest::Rest;

/// Calls made at once while users and conversations are made.
const AT_ONCE: usize = 16;
/// Users who log in for the first time while all others come back, and over how long they do.
const STRANGERS: usize = 200;
const STRANGERS_OVER: Duration = Duration::from_secs(3);
/// How long one try may take, and the pause before the next.
const TRY: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);
const TRIES: u32 = 20;
/// How long nothing happens before memory is read: what was freed is given back by then, and what changed is on disk and
/// out of the store's memory, on busy cores too.
const SETTLE: Duration = Duration::from_secs(15);

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}
type Session = Opened<Box<dyn Stream>>;

/// A client, and what it has.
#[derive(Clone)]
struct Client {
    auth: AuthPayload,
}

/// How clients reach the region.
#[derive(Clone)]
struct Door {
    host: String,
    tls: Option<Arc<ClientConfig>>,
}

/// What a storm took.
struct Storm {
    started: Instant,
    times: Histogram<u64>,
    /// From the first try to the last client's success.
    seconds: f64,
    refused: u64,
    notes: Vec<String>,
}

impl Storm {
    fn new() -> Self {
        Self { started: Instant::now(), times: histogram(), seconds: 0.0, refused: 0, notes: Vec::new() }
    }

    fn report(&self, cpu: Duration) -> StormReport {
        let sessions = self.times.len();
        StormReport {
            sessions,
            per_second: sessions as f64 / self.seconds.max(0.001),
            ms: Latency::of(&self.times),
            slowest_ms: self.times.max() as f64 / 1_000.0,
            tried_again: self.refused,
            server_cpu_ms_per_thousand: cpu.as_secs_f64() * 1e6 / sessions.max(1) as f64,
        }
    }
}

impl Door {
    async fn connect(&self, auth: &AuthPayload) -> Result<Session, String> {
        let told = |error: std::io::Error| error.to_string();
        let stream = TcpStream::connect(&self.host).await.map_err(told)?;
        stream.set_nodelay(true).map_err(told)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = ServerName::try_from("127.0.0.1").map_err(|error| error.to_string())?;
                Box::new(tokio_rustls::TlsConnector::from(Arc::clone(tls)).connect(name, stream).await.map_err(told)?)
            }
        };
        let mut session = opening::open(stream, &self.host, auth).await?;
        if auth.cursors.is_some() {
            session.until_synced().await?;
        }
        Ok(session)
    }

    /// Connects, again and again if need be.
    async fn come(&self, client: &Client, storm: &RefCell<Storm>) -> Option<Session> {
        let began = Instant::now();
        for _ in 0..TRIES {
            let connected = tokio::time::timeout(TRY, self.connect(&client.auth)).await;
            let why = match connected {
                Ok(Ok(session)) => {
                    let mut storm = storm.borrow_mut();
                    storm.times.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
                    storm.seconds = storm.started.elapsed().as_secs_f64();
                    return Some(session);
                }
                Ok(Err(why)) => why,
                Err(_) => format!("took longer than {} s", TRY.as_secs()),
            };
            tracing::debug!(why, "a try failed");
            storm.borrow_mut().refused += 1;
            tokio::time::sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
        }
        let mut storm = storm.borrow_mut();
        if storm.notes.len() < 5 {
            storm.notes.push(format!("a client did not get in within {TRIES} tries"));
        }
        None
    }
}

/// All clients at once. Gives the open sessions in the order of the clients.
async fn storm(door: &Door, clients: &[Client]) -> (Vec<Option<Session>>, Storm) {
    let storm = Rc::new(RefCell::new(Storm::new()));
    let mut tasks = JoinSet::new();
    for (number, client) in clients.iter().cloned().enumerate() {
        let (door, storm) = (door.clone(), Rc::clone(&storm));
        tasks.spawn_local(async move { (number, door.come(&client, &storm).await) });
    }
    let mut sessions: Vec<Option<Session>> = std::iter::repeat_with(|| None).take(clients.len()).collect();
    while let Some(Ok((number, session))) = tasks.join_next().await {
        sessions[number] = session;
    }
    (sessions, Rc::into_inner(storm).expect("all clients are done").into_inner())
}

/// New users, one after the other over a while.
async fn strangers(door: Door, clients: Vec<Client>) -> Storm {
    let storm = Rc::new(RefCell::new(Storm::new()));
    let mut tasks = JoinSet::new();
    let pause = STRANGERS_OVER / u32::try_from(clients.len().max(1)).unwrap_or(u32::MAX);
    for client in clients {
        let (door, storm) = (door.clone(), Rc::clone(&storm));
        tasks.spawn_local(async move { door.come(&client, &storm).await });
        tokio::time::sleep(pause).await;
    }
    let _sessions = tasks.join_all().await;
    Rc::into_inner(storm).expect("all clients are done").into_inner()
}

/// A user with a token of its own.
async fn client(server: &Server, rest: &Rest, name: String) -> Result<(UserId, Client), BenchError> {
    let user = user(name)?;
    let token = server.token(rest, &server.regions[0].http, &user).await?;
    Ok((user, Client { auth: AuthPayload { token, ..AuthPayload::default() } }))
}

/// Pairs of users with a direct conversation each. Gives the clients, and the cursor that each will come back with.
async fn pairs(
    server: &Server,
    rest: &Rest,
    run: u32,
    sessions: usize,
) -> Result<(Vec<Client>, Vec<SyncCursor>), BenchError> {
    let made: Vec<[(Client, SyncCursor); 2]> = stream::iter(0..sessions.div_ceil(2))
        .map(|pair| async move {
            let (_, one) = client(server, rest, format!("bench-{run:x}-i{pair}")).await?;
            let (user, other) = client(server, rest, format!("bench-{run:x}-j{pair}")).await?;
            let api = rest.with_token(&server.regions[0].http, &one.auth.token);
            let row = api.direct(&user).await?;
            let cursor = SyncCursor {
                conversation_id: row.conversation_id,
                last_sequence: row.last_sequence,
                epoch: Some(row.epoch),
            };
            Ok::<_, BenchError>([(one, cursor.clone()), (other, cursor)])
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(made.into_iter().flatten().take(sessions).unzip())
}

/// Makes the run against the one region of `server`.
pub(super) async fn sessions(
    server: &Server,
    rest: &Rest,
    tls: Option<Arc<ClientConfig>>,
    run: u32,
    count: usize,
) -> Result<SessionsReport, BenchError> {
    let door = Door { host: host_of(&server.regions[0].ws), tls };
    // What a region allocates once, whoever comes, is there before it is measured.
    let (warm, _) = pairs(server, rest, run, 2).await?;
    drop(storm(&door, &warm).await);
    tokio::time::sleep(SETTLE).await;
    let empty = server.resident_bytes();
    let (mut clients, cursors) = pairs(server, rest, run + 1, count).await?;
    let strange: Vec<(UserId, Client)> = stream::iter(0..STRANGERS)
        .map(|number| client(server, rest, format!("bench-{run:x}-k{number}")))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    tokio::time::sleep(SETTLE).await;
    let made = server.resident_bytes();
    let used = || cpu(Some(server.pid())).unwrap_or_default();
    let before = used();
    let (open, login) = storm(&door, &clients).await;
    let login_report = login.report(used() - before);
    tokio::time::sleep(SETTLE).await;
    let full = server.resident_bytes();
    for ((client, session), cursor) in clients.iter_mut().zip(&open).zip(cursors) {
        client.auth.cursors = Some(vec![cursor]);
        if let Some(session) = session {
            client.auth.resume_token = Some(session.connected.resume_token.clone());
            client.auth.device_id = Some(session.connected.device_id);
        }
    }
    drop(open);
    let before = used();
    let strange = strange.into_iter().map(|(_, client)| client).collect();
    let new = tokio::task::spawn_local(strangers(door.clone(), strange));
    let (open, resume) = storm(&door, &clients).await;
    let new = new.await.map_err(|_| BenchError::Thread)?;
    let resume_report = resume.report(used() - before);
    let fresh = open.iter().flatten().filter(|session| session.connected.resumed != "exact").count();
    let mut notes = [&login, &resume, &new].map(|storm| storm.notes.clone()).concat();
    if fresh > 0 {
        notes.push(format!("{fresh} sessions came back as new ones"));
    }
    Ok(SessionsReport {
        scenario: "sessions",
        tls: door.tls.is_some(),
        sessions: count as u64,
        bytes_a_session: full.saturating_sub(empty) / count.max(1) as u64,
        bytes_of_users_and_conversations: made.saturating_sub(empty) / count.max(1) as u64,
        logins: login_report,
        resumes: resume_report,
        logins_meanwhile: new.report(Duration::ZERO),
        held: notes.is_empty(),
        notes,
    })
}
