//! Senders that remember what was acked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hearth_client::rest::Rest;
use hearth_client::{Client, ClientOptions, Event, SendError, TokenSource};
use hearth_protocol::client::Content;
use hearth_protocol::rest::{HistoryQuery, Row};
use hearth_protocol::{ConversationId, ErrorCode, MessageId, UserId};
use tokio::sync::Mutex;

use crate::server::Server;

/// What clients were told.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) acked: Mutex<BTreeMap<MessageId, u64>>,
    pub(crate) refused: Mutex<BTreeMap<ErrorCode, u64>>,
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).expect("a user id")
}

pub(crate) async fn token(server: &Server, index: usize, name: &str) -> String {
    let rest = Rest::new(None).expect("a client");
    rest.dev_token(server.http(index), &user(name), 3_600).await.expect("a token").token
}

/// A group of `ann` and the senders, with its home in region `index`.
pub(crate) async fn group(server: &Server, index: usize, senders: usize) -> ConversationId {
    let rest = Rest::new(None).expect("a client");
    let token = token(server, index, "ann").await;
    let others: Vec<UserId> = (0..senders).map(|n| user(&format!("s{n}"))).collect();
    let row = rest.with_token(server.http(index), &token).create_group("g", &others).await;
    row.expect("a group").conversation_id
}

/// A sender at region `index` that goes on until `stop`; each text has `bytes` bytes.
pub(crate) fn sender(
    server: &Server,
    index: usize,
    name: String,
    group: ConversationId,
    bytes: usize,
    told: Arc<Told>,
    stop: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<()> {
    let rest = Rest::new(None).expect("a client");
    let tokens = TokenSource::dev(rest, vec![server.http(index).to_owned()], user(&name), Duration::from_secs(3_600));
    let mut options = ClientOptions::new(vec![server.endpoint(index)], tokens);
    options.unacked_limit = 16;
    options.follow_feed = false;
    tokio::spawn(async move {
        let (client, mut events) = Client::connect(options).expect("a client");
        let mut number = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let text = format!("{name} {number} {}", "x".repeat(bytes));
            match client.send(group, Content::text(text)).await {
                Ok(_) => {}
                Err(SendError::Full { .. }) => take_one(&mut events, &told).await,
                Err(_) => return,
            }
        }
    })
}

async fn take_one(events: &mut hearth_client::Events, told: &Told) {
    // A server that died says nothing more: the loop looks at its stop flag from time to time.
    let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(200), events.next()).await else { return };
    match event {
        Event::Acked(ack) => {
            told.acked.lock().await.insert(ack.message_id, ack.sequence_number);
        }
        Event::Error { refusal, .. } => *told.refused.lock().await.entry(refusal.error).or_default() += 1,
        _ => {}
    }
}

/// The whole conversation as `ann` reads it at region `index`, ascending.
pub(crate) async fn history(server: &Server, index: usize, group: ConversationId) -> Vec<Row> {
    let rest = Rest::new(None).expect("a client");
    let token = token(server, index, "ann").await;
    let api = rest.with_token(server.http(index), &token);
    let mut rows = Vec::new();
    let mut query = HistoryQuery { after: Some(0), limit: Some(200), ..HistoryQuery::default() };
    loop {
        let page = api.history(group, &query).await.expect("history");
        rows.extend(page.messages);
        match page.next_cursor {
            Some(next) if page.has_more => query.after = Some(next),
            _ => return rows,
        }
    }
}

/// The acked messages that a history lacks, or has at another number. The history itself must be dense, each id once.
pub(crate) fn lost(rows: &[Row], acked: &BTreeMap<MessageId, u64>) -> Vec<MessageId> {
    let mut at = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row.sequence_number, index as u64 + 1, "numbering has a hole or a repeat");
        assert!(at.insert(row.message_id, row.sequence_number).is_none(), "{} is there twice", row.message_id);
    }
    acked.iter().filter(|(id, number)| at.get(id) != Some(number)).map(|(id, _)| *id).collect()
}
