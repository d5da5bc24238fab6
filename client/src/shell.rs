//! The task of one client: it carries out what [`Session`] decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::{BoxFuture, FutureExt, OptionFuture};
use hearth_protocol::rest::FeedResponse;
use tokio::sync::{mpsc, oneshot};

use crate::client::{ClientOptions, Command};
use crate::rest::Rest;
use crate::session::{Action, Disconnect, Event, Explained, Session, SessionOptions};
use crate::token::{Token, TokenError, TokenSource};
use crate::transport::{Address, Connection, Received, TransportError, TransportKind};

/// Events that may wait in the session before the connection is read on.
const EVENTS_BEFORE_PAUSE: usize = 256;
/// Conversations of one page of the change feed.
const FEED_PAGE: u64 = 100;

/// The wall clock, carried on by the monotonic one so that it never goes back.
#[derive(Debug)]
struct Clock {
    wall: Duration,
    start: Instant,
}

impl Clock {
    fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall, start: Instant::now() }
    }

    fn now(&self) -> Duration {
        self.wall + self.start.elapsed()
    }
}

/// A token with what is known of it.
#[derive(Clone)]
struct Held {
    token: Token,
    since: Duration,
}

/// What a dial gave.
enum Dialed {
    Open { connection: Box<Connection>, held: Held, fresh: bool },
    NoToken(TokenError),
    Failed(TransportError, Option<Held>),
}

/// What a wait ended with.
enum Happened {
    /// The application dropped its handle or its events.
    Gone,
    /// There is room for an event.
    Room,
    Received(Result<Received, TransportError>),
    Dialed(Box<Dialed>),
    Refreshed(Result<Token, TokenError>),
    Feed(Option<FeedResponse>),
    Command(Command),
    /// The session's deadline has come.
    Time,
}

/// One client. It ends when the application drops its handle or its events, or the session is refused for good.
pub(crate) struct Shell {
    session: Session,
    clock: Clock,
    rest: Rest,
    tokens: TokenSource,
    transport: TransportKind,
    tls: Option<Arc<rustls::ClientConfig>>,
    held: Option<Held>,
    connection: Option<Connection>,
    dialing: Option<BoxFuture<'static, Dialed>>,
    refreshing: Option<BoxFuture<'static, Result<Token, TokenError>>>,
    feed: Option<BoxFuture<'static, Option<FeedResponse>>>,
    feed_base: String,
    feed_cursor: Option<String>,
    first_feed: bool,
    follow_feed: bool,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    /// Who waits for an explanation, by the session's number of it.
    questions: HashMap<u64, oneshot::Sender<Explained>>,
}

impl std::fmt::Debug for Shell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shell").field("session", &self.session).finish_non_exhaustive()
    }
}

impl Shell {
    pub(crate) fn new(
        options: ClientOptions,
        rest: Rest,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let clock = Clock::start();
        let session_options = SessionOptions {
            endpoints: options.endpoints,
            device: options.device,
            cursors: options.cursors,
            unacked_limit: options.unacked_limit,
        };
        Self {
            session: Session::new(session_options, clock.now()),
            clock,
            rest,
            tokens: options.tokens,
            transport: options.transport,
            tls: options.tls,
            held: None,
            connection: None,
            dialing: None,
            refreshing: None,
            feed: None,
            feed_base: String::new(),
            feed_cursor: None,
            first_feed: true,
            follow_feed: options.follow_feed,
            commands,
            events,
            questions: HashMap::new(),
        }
    }

    pub(crate) async fn run(mut self) {
        loop {
            self.session.tick(self.clock.now(), rand::random());
            self.carry_out().await;
            self.write().await;
            self.hand_out_explanations();
            if self.session.is_ended() && self.session.waiting_events() == 0 {
                break;
            }
            if !self.step().await {
                break;
            }
        }
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }

    /// Waits for one thing to happen and takes it in; false when the application has gone.
    async fn step(&mut self) -> bool {
        match self.next().await {
            Happened::Gone => return false,
            Happened::Time => {}
            Happened::Room => self.hand_out(),
            Happened::Received(received) => self.received(received),
            Happened::Dialed(dialed) => {
                self.dialing = None;
                self.dialed(*dialed);
            }
            Happened::Refreshed(token) => {
                self.refreshing = None;
                self.refreshed(token);
            }
            Happened::Feed(page) => {
                self.feed = None;
                self.feed_page(page);
            }
            Happened::Command(command) => self.command(command),
        }
        true
    }

    /// The next thing to happen. Nothing is lost when another one comes first.
    async fn next(&mut self) -> Happened {
        let deadline = self.session.deadline().map(|at| at.saturating_sub(self.clock.now()));
        let waiting = self.session.waiting_events();
        let reading = self.connection.as_mut().filter(|_| waiting < EVENTS_BEFORE_PAUSE);
        tokio::select! {
            permit = self.events.reserve(), if waiting > 0 => {
                if permit.is_ok() { Happened::Room } else { Happened::Gone }
            }
            () = self.events.closed() => Happened::Gone,
            Some(received) = OptionFuture::from(reading.map(Connection::receive)) => Happened::Received(received),
            Some(dialed) = OptionFuture::from(self.dialing.as_mut()) => Happened::Dialed(Box::new(dialed)),
            Some(token) = OptionFuture::from(self.refreshing.as_mut()) => Happened::Refreshed(token),
            Some(page) = OptionFuture::from(self.feed.as_mut()) => Happened::Feed(page),
            command = self.commands.recv() => command.map_or(Happened::Gone, Happened::Command),
            () = tokio::time::sleep(deadline.unwrap_or(Duration::from_secs(3_600))) => Happened::Time,
        }
    }

    /// Hands out as many events as there is room for.
    fn hand_out(&mut self) {
        while self.session.waiting_events() > 0 {
            // This task is the only sender, so a permit cannot be taken away between here and the send.
            let Ok(permit) = self.events.clone().try_reserve_owned() else { return };
            let Some(event) = self.session.take_event() else { return };
            self.read_feed_after(&event);
            permit.send(event);
        }
    }

    fn hand_out_explanations(&mut self) {
        while let Some((number, explained)) = self.session.take_explained() {
            if let Some(answer) = self.questions.remove(&number) {
                let _ = answer.send(explained);
            }
        }
    }

    async fn carry_out(&mut self) {
        for action in self.session.take_actions() {
            match action {
                Action::Dial { address, fresh_token } => self.dial(address, fresh_token),
                Action::HangUp => {
                    if let Some(connection) = self.connection.take() {
                        connection.close().await;
                    }
                }
                Action::RefreshToken => {
                    let tokens = self.tokens.clone();
                    self.refreshing = Some(async move { tokens.token().await }.boxed());
                }
            }
        }
    }

    /// Everything that waits goes out in one write.
    async fn write(&mut self) {
        let Some(connection) = self.connection.as_mut() else { return };
        let frames = self.session.take_frames();
        if frames.is_empty() {
            return;
        }
        if let Err(error) = connection.send_many(frames).await {
            self.lost(None, error.to_string());
        }
    }

    fn dial(&mut self, address: Address, fresh_token: bool) {
        self.connection = None;
        self.feed = None;
        self.feed_base.clone_from(&address.http);
        let now = self.clock.now();
        let usable = self.held.take().filter(|held| {
            let left = held.token.lifetime.map(|lifetime| (held.since + lifetime).saturating_sub(now));
            !fresh_token && left.is_none_or(|left| left > Duration::from_secs(10))
        });
        let (tokens, transport, tls, rest) = (self.tokens.clone(), self.transport, self.tls.clone(), self.rest.clone());
        let dialing = async move {
            let fresh = usable.is_none();
            let held = match usable {
                Some(held) => held,
                None => match tokens.token().await {
                    Ok(token) => Held { token, since: now },
                    Err(error) => return Dialed::NoToken(error),
                },
            };
            match Connection::open(&address, transport, tls, &rest).await {
                Ok(connection) => Dialed::Open { connection: Box::new(connection), held, fresh },
                Err(error) => Dialed::Failed(error, Some(held)),
            }
        };
        self.dialing = Some(dialing.boxed());
    }

    fn dialed(&mut self, dialed: Dialed) {
        let now = self.clock.now();
        match dialed {
            Dialed::Open { connection, held, fresh } => {
                self.connection = Some(*connection);
                let left = held.token.lifetime.map(|lifetime| (held.since + lifetime).saturating_sub(now));
                self.session.opened(held.token.jwt.clone(), left, fresh, now);
                self.held = Some(held);
            }
            Dialed::NoToken(error) => {
                self.session.failed(Disconnect::NoToken(error.0), now, rand::random());
            }
            Dialed::Failed(error, held) => {
                self.held = held;
                self.session.failed(Disconnect::Unreachable(error.to_string()), now, rand::random());
            }
        }
    }

    fn refreshed(&mut self, token: Result<Token, TokenError>) {
        let now = self.clock.now();
        match token {
            Ok(token) => {
                self.session.refresh(&token.jwt, token.lifetime, now);
                self.held = Some(Held { token, since: now });
            }
            Err(_) => self.session.refresh_failed(now),
        }
    }

    fn received(&mut self, received: Result<Received, TransportError>) {
        match received {
            Ok(Received::Text(text)) => {
                if let Err(error) = self.session.handle_frame(&text, self.clock.now()) {
                    self.lost(None, format!("a frame of another form than the contract fixes: {error}"));
                }
            }
            Ok(Received::Closed(code)) => self.lost(code, "closed by the server".to_owned()),
            Err(error) => self.lost(None, error.to_string()),
        }
    }

    fn lost(&mut self, code: Option<u16>, why: String) {
        self.connection = None;
        self.session.lost(code, why, self.clock.now(), rand::random());
    }

    fn read_feed_after(&mut self, event: &Event) {
        if self.follow_feed && matches!(event, Event::Connected { .. } | Event::FeedComplete) {
            self.ask_feed();
        }
    }

    fn ask_feed(&mut self) {
        let Some(held) = self.held.clone() else { return };
        let (rest, base, cursor) = (self.rest.clone(), self.feed_base.clone(), self.feed_cursor.clone());
        let asking = async move {
            // A failed read is made up for by the next connect; live frames come either way.
            rest.with_token(&base, &held.token.jwt).conversations(cursor.as_deref(), FEED_PAGE).await.ok()
        };
        self.feed = Some(asking.boxed());
    }

    fn feed_page(&mut self, page: Option<FeedResponse>) {
        let Some(page) = page else { return };
        self.session.take_feed(page.conversations, self.first_feed, self.clock.now());
        self.feed_cursor = Some(page.cursor);
        if page.has_more {
            self.ask_feed();
        } else {
            self.first_feed = false;
        }
    }

    fn command(&mut self, command: Command) {
        let now = self.clock.now();
        // Whoever asked may have stopped waiting for the answer; what was taken stays taken.
        match command {
            Command::Send(payload, answer) => {
                let _ = answer.send(self.session.send(&payload, now));
            }
            Command::Follow(conversation, last_sequence, epoch) => {
                self.session.follow(conversation, last_sequence, epoch, now);
            }
            Command::Receipt(receipt) => self.session.receipt(&receipt),
            Command::Cursors(answer) => {
                let _ = answer.send(self.session.cursors());
            }
            Command::Explain(request, answer) => match self.session.explain(&request) {
                Ok(number) => drop(self.questions.insert(number, answer)),
                Err(refusal) => drop(answer.send(Err(refusal))),
            },
        }
    }
}
