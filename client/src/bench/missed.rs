//! What a client missed, asked for in one go: 1,000 messages over 50 conversations.

use std::time::Instant;

use futures_util::{StreamExt, TryStreamExt, stream};
use hearth_protocol::ConversationId;
use hearth_protocol::client::AuthPayload;
use hearth_protocol::rest::{SyncCursor, SyncRequest};
use tokio::net::TcpStream;

use super::generator::Plan;
use super::report::{Latency, MissedReport};
use super::run::histogram;
use super::scenario::{Field, Load, host_of, user};
use super::server::Server;
use super::{BenchError, opening};
use crate::rest::Rest;

const CONVERSATIONS: u16 = 50;
/// Missed messages of each.
const MESSAGES: u64 = 20;
const ALL: u64 = CONVERSATIONS as u64 * MESSAGES;
/// How often each way is tried.
const ROUNDS: usize = 40;
/// Calls made at once while the conversations are made.
const AT_ONCE: usize = 16;

/// One reader with many conversations, and somebody who writes in each.
struct Reader<'a> {
    rest: &'a Rest,
    http: &'a str,
    host: String,
    token: String,
    cursors: Vec<SyncCursor>,
}

/// Fills the conversations, then asks for all of it by REST and by a session that comes back, in turn.
pub(super) async fn missed(server: &Server, rest: &Rest, run: u32, home: &str) -> Result<MissedReport, BenchError> {
    let home = server.region(home)?;
    let reader = user(format!("bench-{run:x}-missed"))?;
    let token = rest.dev_token(&home.http, &reader, 86_400).await?.token;
    let plans: Vec<Plan> = stream::iter(0..CONVERSATIONS)
        .map(|number| {
            let reader = reader.clone();
            async move {
                let sender = user(format!("bench-{run:x}-w{number}"))?;
                let token = rest.dev_token(&home.http, &sender, 86_400).await?.token;
                let row = rest.with_token(&home.http, &token).direct(&reader).await?;
                Ok::<_, BenchError>(Plan {
                    host: host_of(&home.ws),
                    token,
                    conversation: row.conversation_id.to_string(),
                    base: row.last_sequence,
                    sender: Some(number),
                    hears: Vec::new(),
                })
            }
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let mut field = Field::open(run, &plans).await?;
    field.run.borrow_mut().end_after(MESSAGES);
    field.start(Load::Full(MESSAGES));
    while field.run.borrow().total_acked() < ALL {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    field.drain(0).await;
    let mut notes = field.run.borrow_mut().take_notes();
    field.tasks.shutdown().await;
    let cursor = |plan: &Plan| {
        let id: Result<ConversationId, _> = plan.conversation.parse();
        let conversation_id = id.map_err(|_| BenchError::Server { what: "a conversation id is no UUID".to_owned() })?;
        Ok::<_, BenchError>(SyncCursor { conversation_id, last_sequence: plan.base, epoch: None })
    };
    let cursors = plans.iter().map(cursor).collect::<Result<_, _>>()?;
    let reader = Reader { rest, http: &home.http, host: host_of(&home.ws), token, cursors };
    let (mut by_rest, mut by_session) = (histogram(), histogram());
    for _ in 0..ROUNDS {
        for (way, times) in [("a sync", &mut by_rest), ("a session that came back", &mut by_session)] {
            let (rows, micros) = if way == "a sync" { reader.ask().await? } else { reader.come_back().await? };
            times.saturating_record(micros.max(1));
            if rows != ALL {
                notes.push(format!("{way} got {rows} messages, not {ALL}"));
            }
        }
    }
    notes.truncate(5);
    Ok(MissedReport {
        scenario: "sync",
        stores: server.stores,
        messages: ALL,
        conversations: u64::from(CONVERSATIONS),
        rounds: ROUNDS,
        rest_ms: Latency::of(&by_rest),
        session_ms: Latency::of(&by_session),
        held: notes.is_empty(),
        notes,
    })
}

impl Reader<'_> {
    /// `POST /sync` over a kept-alive connection: rows and microseconds.
    async fn ask(&self) -> Result<(u64, u64), BenchError> {
        let request = SyncRequest { conversations: self.cursors.clone(), limit: Some(MESSAGES) };
        let started = Instant::now();
        let answer = self.rest.with_token(self.http, &self.token).sync(&request).await?;
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let rows = answer.conversations.iter().map(|synced| synced.messages.len() as u64).sum();
        Ok((rows, micros))
    }

    /// A new connection that brings its cursors, until `sync.complete`: messages and microseconds.
    async fn come_back(&self) -> Result<(u64, u64), BenchError> {
        let failed = |what: String| BenchError::Connect { host: self.host.clone(), what };
        let started = Instant::now();
        let stream = TcpStream::connect(&self.host).await.map_err(|error| failed(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
        let auth =
            AuthPayload { token: self.token.clone(), cursors: Some(self.cursors.clone()), ..AuthPayload::default() };
        let mut opened = opening::open(stream, &self.host, &auth).await.map_err(failed)?;
        let rows = opened.until_synced().await.map_err(failed)?;
        Ok((rows, u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)))
    }
}
