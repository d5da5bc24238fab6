//! `hearth chat`: one conversation in a terminal, against a development mesh.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::time::Duration;

use hearth_protocol::client::{Content, QueuedReason};
use hearth_protocol::ids::direct_conversation;
use hearth_protocol::rest::{ConversationRow, HistoryQuery, Row, SyncCursor};
use hearth_protocol::{ConversationId, ErrorCode, MessageId, RegionId, UserId, limits};
use tokio::sync::mpsc;

use crate::rest::{DevRegion, Rest, RestError};
use crate::{
    Address, Client, ClientOptions, ConnectError, Disconnect, Endpoint, Event, Events, SendError, TokenSource,
    TransportKind,
};

/// Typed lines that wait to be sent; the reader of stdin waits when it is full.
const LINES: usize = 64;
/// Own messages without an ack above which no more lines are taken.
const UNACKED: usize = 500;
/// How long messages that a region holds are waited for after the input ended.
const QUEUED_WAIT: Duration = Duration::from_secs(30);

/// What `hearth chat` was asked for.
#[derive(Clone, Debug)]
pub struct ChatOptions {
    /// Who writes.
    pub as_user: String,
    /// Whom to write to; with `group`, whom to make it with. Several are separated by commas.
    pub to: Option<String>,
    /// A group by its name: the user's own if there is one, else it is made.
    pub group: Option<String>,
    /// The region to connect to; the mesh's first if absent.
    pub region: Option<String>,
    /// Any region of the mesh. Default `http://127.0.0.1:8081`.
    pub url: String,
    /// Which transport carries the frames.
    pub transport: TransportKind,
    /// How many of the last messages are shown first, 0 to 200. Default 20.
    pub history: u64,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self {
            as_user: String::new(),
            to: None,
            group: None,
            region: None,
            url: "http://127.0.0.1:8081".to_owned(),
            transport: TransportKind::default(),
            history: 20,
        }
    }
}

/// Why there is no conversation. Each text says what to type.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// Nobody answered where the mesh should be.
    #[error("no development mesh answers at {url}: is `hearth dev` running? Start it, or name another with --url")]
    NoMesh {
        /// Where it was looked for.
        url: String,
        /// What the call gave.
        source: RestError,
    },
    /// The mesh has no such region.
    #[error("the mesh has no region {asked}: use --region with one of {known}")]
    NoRegion {
        /// As given.
        asked: String,
        /// Separated by commas.
        known: String,
    },
    /// A user id has another form.
    #[error("{user:?} cannot be a user: {reason}")]
    User {
        /// As given.
        user: String,
        /// What the form is.
        reason: hearth_protocol::ids::IdError,
    },
    /// Neither a user nor a group was named.
    #[error("whom to write to? Use --to bob, or --group team --to bob,cyn")]
    Nobody,
    /// The region refused or did not answer.
    #[error("{0}")]
    Rest(#[from] RestError),
    /// The client could not be started.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// The session was refused for good.
    #[error("the region closed the session for good ({code} {reason}); start again")]
    Closed {
        /// The close code.
        code: u16,
        /// The server's words.
        reason: String,
    },
    /// The terminal is gone.
    #[error("the terminal cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

/// Where lines go: the conversation to `talk`, everything else to `notes`.
struct Screen<'a> {
    talk: &'a mut (dyn Write + Send),
    notes: &'a mut (dyn Write + Send),
}

impl std::fmt::Debug for Screen<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Screen")
    }
}

/// Runs a conversation over stdin and stdout until the input ends and the last ack came; notes go to stderr.
///
/// # Errors
/// [`ChatError`], each with what to type.
pub async fn chat(options: ChatOptions) -> Result<(), ChatError> {
    let (sender, lines) = mpsc::channel(LINES);
    // A thread of its own: a blocking read of stdin cannot be cancelled, and ends with the process.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    chat_with(options, lines, &mut std::io::stdout(), &mut std::io::stderr()).await
}

/// As [`chat`], over the lines and writers given. Ends when `lines` is closed and the last ack came.
///
/// # Errors
/// [`ChatError`].
pub async fn chat_with(
    options: ChatOptions,
    lines: mpsc::Receiver<String>,
    talk: &mut (dyn Write + Send),
    notes: &mut (dyn Write + Send),
) -> Result<(), ChatError> {
    let user = user_id(&options.as_user)?;
    let others = options.to.as_deref().unwrap_or("").split(',').map(str::trim).filter(|other| !other.is_empty());
    let others: Vec<UserId> = others.map(user_id).collect::<Result<_, _>>()?;
    let rest = Rest::new(None)?;
    let url = options.url.trim_end_matches('/').to_owned();
    let regions = rest.dev_regions(&url).await.map_err(|source| ChatError::NoMesh { url, source })?;
    let regions = preferred_first(regions, options.region.as_deref())?;
    let bases: Vec<String> = regions.iter().map(|region| region.http.clone()).collect();
    let tokens = TokenSource::dev(rest.clone(), bases, user.clone(), Duration::from_secs(3_600));
    let mut screen = Screen { talk, notes };
    let opening = Opening { rest: &rest, user: &user, others: &others, options: &options };
    let (conversation, cursor) = opening.open(&regions, &mut screen).await?;
    let endpoints = regions.iter().map(|region| Endpoint {
        region: region.id.clone(),
        address: Address {
            http: region.http.clone(),
            ws: region.ws.clone(),
            webtransport: region.webtransport.clone(),
        },
    });
    let mut client_options = ClientOptions::new(endpoints.collect(), tokens);
    client_options.transport = options.transport;
    client_options.cursors = cursor.into_iter().collect();
    client_options.follow_feed = false;
    let (client, events) = Client::connect(client_options)?;
    let mut talking = Talking { client, user, conversation, pending: HashMap::new(), ended: false };
    talking.run(lines, events, &mut screen).await
}

fn user_id(text: &str) -> Result<UserId, ChatError> {
    UserId::new(text).map_err(|reason| ChatError::User { user: text.to_owned(), reason })
}

fn preferred_first(mut regions: Vec<DevRegion>, asked: Option<&str>) -> Result<Vec<DevRegion>, ChatError> {
    if let Some(asked) = asked {
        let Some(index) = regions.iter().position(|region| region.id.as_str() == asked) else {
            let known: Vec<_> = regions.iter().map(|region| region.id.as_str()).collect();
            return Err(ChatError::NoRegion { asked: asked.to_owned(), known: known.join(", ") });
        };
        regions[..=index].rotate_right(1);
    }
    Ok(regions)
}

/// Finds or makes the conversation and shows its last messages.
#[derive(Debug)]
struct Opening<'a> {
    rest: &'a Rest,
    user: &'a UserId,
    others: &'a [UserId],
    options: &'a ChatOptions,
}

impl Opening<'_> {
    /// Regions that cannot be reached are passed over.
    async fn open(
        &self,
        regions: &[DevRegion],
        screen: &mut Screen<'_>,
    ) -> Result<(ConversationId, Option<SyncCursor>), ChatError> {
        let mut last = ChatError::Nobody;
        for region in regions {
            match self.open_at(&region.http, screen).await {
                Err(ChatError::Rest(error @ RestError::Unreachable { .. })) => {
                    writeln!(screen.notes, "-- {} is out of reach", region.id)?;
                    last = error.into();
                }
                other => return other,
            }
        }
        Err(last)
    }

    async fn open_at(
        &self,
        base: &str,
        screen: &mut Screen<'_>,
    ) -> Result<(ConversationId, Option<SyncCursor>), ChatError> {
        let token = self.rest.dev_token(base, self.user, 3_600).await?.token;
        let conversation = self.find(base, &token, screen).await?;
        let api = self.rest.with_token(base, &token);
        let limit = self.options.history.min(limits::HISTORY_ROWS as u64);
        let query = HistoryQuery { before: None, after: None, limit: Some(limit.max(1)) };
        let rows = match api.history(conversation, &query).await {
            Ok(page) => page.messages,
            Err(error) if is_home_away(&error) => {
                writeln!(screen.notes, "-- earlier messages cannot be shown now: {error}")?;
                return Ok((conversation, None));
            }
            Err(error) => return Err(error.into()),
        };
        let mut cursor = SyncCursor { conversation_id: conversation, last_sequence: 0, epoch: None };
        for shown in &rows {
            cursor.last_sequence = shown.sequence_number;
            cursor.epoch = Some(shown.epoch);
            if limit > 0 {
                writeln!(screen.talk, "{}", row_text(shown))?;
            }
        }
        screen.talk.flush()?;
        Ok((conversation, Some(cursor)))
    }

    /// The conversation; made if need be.
    async fn find(&self, base: &str, token: &str, screen: &mut Screen<'_>) -> Result<ConversationId, ChatError> {
        let api = self.rest.with_token(base, token);
        match (&self.options.group, self.others) {
            (Some(name), others) => match self.find_group(base, token, name).await? {
                Some(row) => Ok(row.conversation_id),
                None => Ok(api.create_group(name, others).await?.conversation_id),
            },
            (None, [other]) => match api.direct(other).await {
                Ok(row) => Ok(row.conversation_id),
                // Its id is known without its home, and the region holds what is sent until the home is back.
                Err(error) if is_home_away(&error) => {
                    writeln!(screen.notes, "-- {error}")?;
                    Ok(direct_conversation(self.user, other))
                }
                Err(error) => Err(error.into()),
            },
            (None, _) => Err(ChatError::Nobody),
        }
    }

    async fn find_group(&self, base: &str, token: &str, name: &str) -> Result<Option<ConversationRow>, ChatError> {
        let api = self.rest.with_token(base, token);
        let mut cursor: Option<String> = None;
        loop {
            let page = api.conversations(cursor.as_deref(), 100).await?;
            let mut rows = page.conversations.into_iter();
            if let Some(row) = rows.find(|row| row.name.as_deref() == Some(name) && row.role.is_some()) {
                return Ok(Some(row));
            }
            if !page.has_more {
                return Ok(None);
            }
            cursor = Some(page.cursor);
        }
    }
}

/// Whether a call failed only because the conversation's home is out of reach.
fn is_home_away(error: &RestError) -> bool {
    matches!(error, RestError::Refused { refusal, .. } if refusal.error == ErrorCode::HomeUnreachable)
}

/// `bob #12: text`.
fn row_text(row: &Row) -> String {
    #[derive(serde::Deserialize)]
    struct Shown {
        #[serde(default)]
        text: Option<String>,
        #[serde(default, rename = "mediaUrl")]
        media_url: Option<String>,
    }
    let content = row.content.as_ref().and_then(|content| serde_json::from_str::<Shown>(content.get()).ok());
    let text = content.map(|content| content.text.or(content.media_url).unwrap_or_default());
    match text {
        _ if row.deleted == Some(true) => format!("* #{} of {} was deleted", row.sequence_number, row.sender_id),
        _ if row.expired == Some(true) => format!("* #{} of {} has expired", row.sequence_number, row.sender_id),
        Some(text) if row.kind == "edit" => {
            format!("* #{} {} edited a message: {}", row.sequence_number, row.sender_id, printable(&text))
        }
        Some(text) => format!("{} #{}: {}", row.sender_id, row.sequence_number, printable(&text)),
        None => format!("* #{} {} by {}", row.sequence_number, row.kind, row.sender_id),
    }
}

/// Without control characters, so that no message can drive the reader's terminal.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// A conversation that runs.
#[derive(Debug)]
struct Talking {
    client: Client,
    user: UserId,
    conversation: ConversationId,
    /// Own messages without an ack, and whether a region holds them.
    pending: HashMap<MessageId, bool>,
    ended: bool,
}

impl Talking {
    async fn run(
        &mut self,
        mut lines: mpsc::Receiver<String>,
        mut events: Events,
        screen: &mut Screen<'_>,
    ) -> Result<(), ChatError> {
        let mut patience = Box::pin(tokio::time::sleep(QUEUED_WAIT));
        loop {
            let only_queued = self.ended && self.pending.values().all(|queued| *queued);
            if self.ended && self.pending.is_empty() {
                return Ok(());
            }
            if !only_queued {
                patience.as_mut().reset(tokio::time::Instant::now() + QUEUED_WAIT);
            }
            tokio::select! {
                line = lines.recv(), if !self.ended && self.pending.len() < UNACKED => match line {
                    Some(line) => self.say(line, screen).await?,
                    None => self.ended = true,
                },
                event = events.next() => match event {
                    Some(event) => {
                        if let Event::Message(row) = &event
                            && row.conversation_id == self.conversation
                            && row.sender_id != self.user
                        {
                            self.client.receipt(self.conversation, row.sequence_number, Some(row.epoch), true).await;
                        }
                        self.show(event, screen)?;
                    }
                    None => return Ok(()),
                },
                () = &mut patience, if only_queued => {
                    writeln!(screen.notes, "-- {} messages still wait; the region holds them", self.pending.len())?;
                    return Ok(());
                }
            }
        }
    }

    async fn say(&mut self, line: String, screen: &mut Screen<'_>) -> Result<(), ChatError> {
        if line.trim().is_empty() {
            return Ok(());
        }
        match self.client.send(self.conversation, Content::text(line)).await {
            Ok(message) => {
                self.pending.insert(message, false);
            }
            Err(SendError::Ended) => self.ended = true,
            Err(error @ (SendError::Full { .. } | SendError::Repeated)) => {
                writeln!(screen.notes, "! not sent: {error}")?
            }
        }
        Ok(())
    }

    fn show(&mut self, event: Event, screen: &mut Screen<'_>) -> Result<(), ChatError> {
        match event {
            Event::Message(row) => {
                let own = row.sender_id == self.user && self.pending.contains_key(&row.message_id);
                if row.conversation_id == self.conversation && !own {
                    writeln!(screen.talk, "{}", row_text(&row))?;
                }
            }
            Event::Acked(ack) => {
                self.pending.remove(&ack.message_id);
                writeln!(screen.talk, "#{} ✓ {}", ack.sequence_number, ack.home)?;
            }
            Event::Queued(queued) => {
                self.pending.insert(queued.message_id, true);
                writeln!(screen.talk, "… queued: {}", queued_text(queued.reason, &queued.home))?;
            }
            Event::Refused(refused) => {
                self.pending.remove(&refused.message_id);
                writeln!(screen.talk, "✗ not sent: {}", refused.message)?;
            }
            Event::Error { message, refusal } => {
                if let Some(message) = message {
                    self.pending.remove(&message);
                }
                writeln!(screen.talk, "✗ {refusal}")?;
            }
            Event::Closed { code, reason } => return Err(ChatError::Closed { code, reason }),
            other => {
                if let Some(note) = note(&other) {
                    writeln!(screen.notes, "-- {note}")?;
                }
            }
        }
        screen.talk.flush()?;
        Ok(())
    }
}

fn queued_text(reason: QueuedReason, home: &RegionId) -> String {
    match reason {
        QueuedReason::HomeUnreachable => format!("home {home} is out of reach"),
        QueuedReason::HomeMoving => format!("its home moves away from {home}"),
        QueuedReason::CopiesMissing => format!("home {home} has it and waits for copies"),
    }
}

/// What else is worth a line.
fn note(event: &Event) -> Option<String> {
    match event {
        Event::Connected { region, .. } => Some(format!("connected to {region}")),
        Event::Disconnected { reason, .. } => Some(match reason {
            Disconnect::Unreachable(why) | Disconnect::NoToken(why) => format!("{why}; trying on"),
            Disconnect::Closed { code, reason } => format!("closed by the region ({code} {reason}); connecting again"),
            Disconnect::Lost(_) | Disconnect::Silent => "connection lost; connecting again".to_owned(),
            Disconnect::Drained => "the node leaves; moving".to_owned(),
        }),
        Event::RegionStatus { region, reachable: true } => Some(format!("{region} is back")),
        Event::RegionStatus { region, reachable: false } => Some(format!("{region} is out of reach")),
        Event::Read(read) => Some(format!("{} has read up to #{}", read.read_by, read.read_up_to_sequence)),
        Event::ReceiptsSummary(sum) => {
            Some(format!("#{}: {} have it, {} have read it", sum.sequence_number, sum.delivered, sum.read))
        }
        Event::Gap { from, to, .. } => Some(format!("#{from} to #{to} cannot be shown")),
        Event::Unfollowed { error, .. } => Some(format!("this conversation can no longer be read: {}", error.as_str())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(id: &str) -> DevRegion {
        DevRegion { id: RegionId::new(id).expect("valid"), http: String::new(), ws: String::new(), webtransport: None }
    }

    #[test]
    fn the_region_asked_for_comes_first_and_an_unknown_one_names_the_known() {
        let regions = vec![region("eu-west"), region("us-east"), region("ap-south")];
        let order = preferred_first(regions.clone(), Some("ap-south")).expect("known");
        let ids: Vec<_> = order.iter().map(|region| region.id.as_str()).collect();
        assert_eq!(ids, ["ap-south", "eu-west", "us-east"]);
        let error = preferred_first(regions, Some("mars")).expect_err("unknown").to_string();
        assert!(error.contains("eu-west, us-east, ap-south"), "{error}");
    }

    #[test]
    fn no_message_can_drive_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a [2Jb c");
    }

    #[tokio::test]
    async fn without_a_mesh_the_error_says_what_to_start() {
        let (_lines, receiver) = mpsc::channel(1);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let options = ChatOptions {
            as_user: "ann".to_owned(),
            to: Some("bob".to_owned()),
            url: format!("http://{address}"),
            ..ChatOptions::default()
        };
        let (mut talk, mut notes) = (Vec::new(), Vec::new());
        let error = chat_with(options, receiver, &mut talk, &mut notes).await.expect_err("no mesh").to_string();
        assert!(error.contains("is `hearth dev` running?"), "{error}");
    }
}
