//! The shell around [`Session`]: sockets, clock, randomness and tokens, and the handle that applications hold.

use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::client::{Content, ExplainRequest, ReceiptPayload, SendPayload};
use hearth_protocol::rest::SyncCursor;
use hearth_protocol::{ConversationId, DeviceId, Epoch, ErrorCode, MessageId, Refusal};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::rest::{Rest, RestError};
use crate::session::{Endpoint, Event, Explained, SendError};
use crate::shell::Shell;
use crate::token::TokenSource;
use crate::transport::TransportKind;

/// Events that wait for the application. When it is full the client stops reading its connection.
const EVENTS: usize = 1_024;
/// Calls that wait for the client's task; callers wait when it is full.
const COMMANDS: usize = 64;

/// What a client needs to know.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Regions to try, best first; at least one.
    pub endpoints: Vec<Endpoint>,
    /// Which transport carries the frames.
    pub transport: TransportKind,
    /// Where tokens come from.
    pub tokens: TokenSource,
    /// Stable per device; made by the server if absent, and told in [`Event::Connected`].
    pub device: Option<DeviceId>,
    /// What the application has, to go on from.
    pub cursors: Vec<SyncCursor>,
    /// Messages that may wait for their acks before [`SendError::Full`]. Default 1,000.
    pub unacked_limit: usize,
    /// Whether the user's change feed is read after each connect, so that conversations joined while away are followed
    /// too. Default true; without it, only conversations of `cursors`, of [`Client::follow`] and of live frames are.
    pub follow_feed: bool,
    /// TLS for `wss://` and `https://`; the platform's trust if absent.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

impl ClientOptions {
    /// The defaults, for a user of `tokens` at `endpoints`.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>, tokens: TokenSource) -> Self {
        Self {
            endpoints,
            transport: TransportKind::default(),
            tokens,
            device: None,
            cursors: Vec::new(),
            unacked_limit: 1_000,
            follow_feed: true,
            tls: None,
        }
    }
}

/// Why a client could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no region to try.
    #[error("a client needs at least one endpoint")]
    NoEndpoint,
    /// TLS or HTTP cannot be set up on this machine.
    #[error(transparent)]
    Rest(#[from] RestError),
}

/// A call to the client's task.
#[derive(Debug)]
pub(crate) enum Command {
    Send(Box<SendPayload>, oneshot::Sender<Result<(), SendError>>),
    Receipt(ReceiptPayload),
    Follow(ConversationId, u64, Option<Epoch>),
    Cursors(oneshot::Sender<Vec<SyncCursor>>),
    Explain(Box<ExplainRequest>, oneshot::Sender<Explained>),
}

/// A running client. Clones drive the same one; it leaves when the last is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
}

/// The ordered stream of what happened. Dropping it ends the client.
#[derive(Debug)]
pub struct Events {
    events: mpsc::Receiver<Event>,
}

impl Events {
    /// The next event; `None` after the client has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Client {
    /// Starts a client. It connects in the background and tells so by [`Event::Connected`]; failures are told as
    /// [`Event::Disconnected`] and tried again until the session is refused for good. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ConnectError`] when nothing could even be tried.
    pub fn connect(options: ClientOptions) -> Result<(Self, Events), ConnectError> {
        if options.endpoints.is_empty() {
            return Err(ConnectError::NoEndpoint);
        }
        let rest = Rest::new(options.tls.clone())?;
        let (commands, command_receiver) = mpsc::channel(COMMANDS);
        let (event_sender, events) = mpsc::channel(EVENTS);
        let shell = Shell::new(options, rest, command_receiver, event_sender);
        tokio::spawn(shell.run());
        Ok((Self { commands }, Events { events }))
    }

    /// Sends content under a new id (UUID v7) and gives the id back once it is taken; [`Event::Acked`],
    /// [`Event::Queued`], [`Event::Refused`] or [`Event::Error`] follow.
    ///
    /// # Errors
    /// [`SendError`]; nothing was taken then.
    pub async fn send(&self, conversation: ConversationId, content: Content) -> Result<MessageId, SendError> {
        let message_id = MessageId(Uuid::now_v7());
        let payload = SendPayload {
            message_id,
            conversation_id: conversation,
            content,
            reply_to: None,
            expires_at: None,
            durability: None,
        };
        self.send_payload(payload).await.map(|()| message_id)
    }

    /// Sends with everything that `message.send` can carry. The same id again is one message.
    ///
    /// # Errors
    /// [`SendError`]; nothing was taken then.
    pub async fn send_payload(&self, payload: SendPayload) -> Result<(), SendError> {
        let (answer, taken) = oneshot::channel();
        let command = Command::Send(Box::new(payload), answer);
        self.commands.send(command).await.map_err(|_| SendError::Ended)?;
        taken.await.unwrap_or(Err(SendError::Ended))
    }

    /// Says that the application has everything of a conversation up to `last_sequence` (0: nothing) and wants what
    /// follows. No effect on a conversation that is followed already, or after the client ended.
    pub async fn follow(&self, conversation: ConversationId, last_sequence: u64, epoch: Option<Epoch>) {
        // An ended client follows nothing; its event stream says that it ended.
        let _ = self.commands.send(Command::Follow(conversation, last_sequence, epoch)).await;
    }

    /// Tells that the application has stored (`read`: its user has read) everything of a conversation up to a number. No
    /// effect without a session that lives: tell it again with the next message.
    pub async fn receipt(&self, conversation: ConversationId, up_to: u64, epoch: Option<Epoch>, read: bool) {
        let receipt = ReceiptPayload { conversation_id: conversation, up_to_sequence: up_to, epoch, read };
        // An ended client tells nothing; its event stream says that it ended.
        let _ = self.commands.send(Command::Receipt(receipt)).await;
    }

    /// Asks where a message is on its way to a user: when it passed each step, and what it waits for now. For its sender,
    /// the user, and operators.
    ///
    /// # Errors
    /// What the region answers: `CONVERSATION_NOT_FOUND`, `FORBIDDEN`; `HOME_UNREACHABLE` without a session that lives, or
    /// when the connection ends before the answer.
    pub async fn explain(&self, request: ExplainRequest) -> Explained {
        let ended = || Refusal::new(ErrorCode::HomeUnreachable, "the client has ended");
        let (answer, explained) = oneshot::channel();
        let command = Command::Explain(Box::new(request), answer);
        self.commands.send(command).await.map_err(|_| ended())?;
        explained.await.unwrap_or_else(|_| Err(ended()))
    }

    /// What the application has been given or will be by events already on their way, for a later client to go on from.
    ///
    /// # Errors
    /// [`SendError::Ended`].
    pub async fn cursors(&self) -> Result<Vec<SyncCursor>, SendError> {
        let (answer, cursors) = oneshot::channel();
        self.commands.send(Command::Cursors(answer)).await.map_err(|_| SendError::Ended)?;
        cursors.await.map_err(|_| SendError::Ended)
    }

    /// The wait between two tries that a full queue suggests to callers.
    pub const FULL_PAUSE: Duration = Duration::from_millis(50);
}
