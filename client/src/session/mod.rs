//! Everything a client decides, without a socket, a clock or entropy: the shell in `client.rs` drives it.
//!
//! `now` is the time since the Unix epoch by a clock that never goes back. The shell calls [`Session::tick`], carries
//! out what [`Session::take_actions`] gives, writes what [`Session::take_frames`] gives and hands out
//! [`Session::take_event`]; it sleeps until [`Session::deadline`].

mod backoff;
mod event;
mod explain;
mod frames;
mod incoming;
mod line;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use hearth_protocol::client::{ReceiptPayload, SendPayload};
use hearth_protocol::rest::{ConversationRow, SyncCursor};
use hearth_protocol::{ConversationId, DeviceId, Epoch, MessageId, RegionId, limits};

pub use event::{Disconnect, Event, GapReason};
pub use explain::Explained;
use explain::Questions;
use line::{Line, Output};

use crate::transport::Address;

/// How long `connected` is waited for after `auth`.
const AUTH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer to a message is waited for: the contract promises one within 5 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// A session that lived this long was a good one: the next back-off starts from the beginning.
const GOOD_SESSION: Duration = Duration::from_secs(5);
/// Pulls asked at once.
const PULLS_AT_ONCE: usize = 8;

/// A region to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The region.
    pub region: RegionId,
    /// Where it is reached.
    pub address: Address,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// As many messages as may be wait for their acks already: try again after one came.
    #[error("{limit} messages wait for their acks already")]
    Full {
        /// The bound.
        limit: usize,
    },
    /// A message with this id waits for its ack already.
    #[error("a message with this id waits for its ack already")]
    Repeated,
    /// The client has ended.
    #[error("the client has ended")]
    Ended,
}

/// What a session starts with.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Regions to try, best first. Must not be empty.
    pub endpoints: Vec<Endpoint>,
    /// Stable per device; made by the server if absent.
    pub device: Option<DeviceId>,
    /// What the application has.
    pub cursors: Vec<SyncCursor>,
    /// Messages that may wait for their acks, 1 or more.
    pub unacked_limit: usize,
}

/// What the shell is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Get a token if need be, open a connection, then call [`Session::opened`] or [`Session::failed`].
    Dial {
        /// Where to.
        address: Address,
        /// Whether a token that was used before will not do.
        fresh_token: bool,
    },
    /// Let go of the connection.
    HangUp,
    /// Get a new token, then call [`Session::refresh`].
    RefreshToken,
}

#[derive(Debug)]
enum Phase {
    Waiting { until: Duration },
    Dialing,
    Authenticating { since: Duration },
    Live { since: Duration },
    Ended,
}

#[derive(Debug)]
struct Unacked {
    message: MessageId,
    conversation: ConversationId,
    frame: String,
    /// When it went out on this connection; `None` while it waits for one, or was answered by `message.queued`.
    sent: Option<Duration>,
}

/// The decisions of one client.
#[derive(Debug)]
pub struct Session {
    endpoints: Vec<Endpoint>,
    /// Index of the endpoint to dial next.
    next: usize,
    phase: Phase,
    failures: u32,
    device: Option<DeviceId>,
    resume_token: Option<String>,
    fresh_token: bool,
    token_was_fresh: bool,
    lines: HashMap<ConversationId, Line>,
    pulls: HashMap<String, ConversationId>,
    next_pull: u64,
    questions: Questions,
    unacked: VecDeque<Unacked>,
    unacked_limit: usize,
    frames: VecDeque<String>,
    events: VecDeque<Event>,
    actions: Vec<Action>,
    heartbeat_every: Duration,
    heartbeat_at: Duration,
    last_heard: Duration,
    refresh_at: Option<Duration>,
    move_at: Option<Duration>,
    closing: Option<(u16, String)>,
}

impl Session {
    /// A session that dials at once.
    #[must_use]
    pub fn new(options: SessionOptions, now: Duration) -> Self {
        let lines = options
            .cursors
            .iter()
            .map(|cursor| (cursor.conversation_id, Line::new(Some(cursor.last_sequence), cursor.epoch)));
        Self {
            next: 0,
            phase: Phase::Waiting { until: now },
            failures: 0,
            device: options.device,
            resume_token: None,
            fresh_token: false,
            token_was_fresh: true,
            lines: lines.collect(),
            pulls: HashMap::new(),
            next_pull: 0,
            questions: Questions::default(),
            unacked: VecDeque::new(),
            unacked_limit: options.unacked_limit.max(1),
            frames: VecDeque::new(),
            events: VecDeque::new(),
            actions: Vec::new(),
            heartbeat_every: Duration::from_secs(30),
            heartbeat_at: now,
            last_heard: now,
            refresh_at: None,
            move_at: None,
            closing: None,
            endpoints: options.endpoints,
        }
    }

    /// Takes a message. It goes out at once on a live session, else after the next connect, in order.
    ///
    /// # Errors
    /// [`SendError`]; nothing was taken then.
    pub fn send(&mut self, payload: &SendPayload, now: Duration) -> Result<(), SendError> {
        if matches!(self.phase, Phase::Ended) {
            return Err(SendError::Ended);
        }
        if self.unacked.len() >= self.unacked_limit {
            return Err(SendError::Full { limit: self.unacked_limit });
        }
        if self.unacked.iter().any(|unacked| unacked.message == payload.message_id) {
            return Err(SendError::Repeated);
        }
        let frame = frames::send(payload);
        let live = matches!(self.phase, Phase::Live { .. });
        if live {
            self.frames.push_back(frame.clone());
        }
        self.unacked.push_back(Unacked {
            message: payload.message_id,
            conversation: payload.conversation_id,
            frame,
            sent: live.then_some(now),
        });
        Ok(())
    }

    /// Says that the application has everything of a conversation up to `last_sequence`, and wants what follows. Without
    /// it, a conversation begins with the first row that comes. No effect on a conversation that is followed already.
    pub fn follow(&mut self, conversation: ConversationId, last_sequence: u64, epoch: Option<Epoch>, now: Duration) {
        let live = matches!(self.phase, Phase::Live { .. });
        self.lines.entry(conversation).or_insert_with(|| {
            let mut line = Line::new(Some(last_sequence), epoch);
            if live {
                // What came between the application's read and now is not replayed on a session that lives.
                line.pull_to_end(now);
            }
            line
        });
    }

    /// Tells how far the application is. Without a session that lives nothing is told: a later receipt says as much.
    pub fn receipt(&mut self, receipt: &ReceiptPayload) {
        if matches!(self.phase, Phase::Live { .. }) {
            self.frames.push_back(frames::receipt(receipt));
        }
    }

    /// Takes one page of the user's change feed. At the `first` read of a client, conversations begin behind what the feed
    /// shows; later, a conversation that is not known yet was joined while away, and is read from its beginning.
    pub fn take_feed(&mut self, rows: Vec<ConversationRow>, first: bool, now: Duration) {
        for row in rows {
            let conversation = row.conversation_id;
            let Some(line) = self.lines.get_mut(&conversation) else {
                let mut line = Line::new(Some(if first { row.last_sequence } else { 0 }), None);
                if !first {
                    line.pull_to_end(now);
                }
                self.lines.insert(conversation, line);
                self.events.push_back(Event::ConversationNew(Box::new(row)));
                continue;
            };
            let outputs = line.covered(row.last_sequence, now);
            self.emit(conversation, outputs);
        }
    }

    /// What the application has been given, for a later client to go on from.
    #[must_use]
    pub fn cursors(&self) -> Vec<SyncCursor> {
        let cursors = self.lines.iter().filter_map(|(conversation, line)| {
            let (last_sequence, epoch) = line.cursor()?;
            Some(SyncCursor { conversation_id: *conversation, last_sequence, epoch })
        });
        cursors.collect()
    }

    /// How many messages wait for their acks.
    #[must_use]
    pub fn unacked(&self) -> usize {
        self.unacked.len()
    }

    /// The connection is open: `auth` goes out. `lifetime` is how long the token still lives, if known.
    pub fn opened(&mut self, token: String, lifetime: Option<Duration>, fresh: bool, now: Duration) {
        if !matches!(self.phase, Phase::Dialing) {
            self.actions.push(Action::HangUp);
            return;
        }
        self.phase = Phase::Authenticating { since: now };
        self.token_was_fresh = fresh;
        self.fresh_token = false;
        self.last_heard = now;
        self.closing = None;
        self.refresh_at = lifetime.map(|lifetime| now + lifetime.mul_f64(0.8));
        let listed: Vec<_> = self.cursors().into_iter().take(limits::SYNC_CONVERSATIONS).collect();
        for (conversation, line) in &mut self.lines {
            line.reconnected(now);
            if !listed.iter().any(|cursor| cursor.conversation_id == *conversation) && line.cursor().is_some() {
                line.pull_to_end(now);
            }
        }
        self.pulls.clear();
        self.questions.give_up();
        self.frames.clear();
        self.frames.push_back(frames::auth(token, self.device, self.resume_token.clone(), listed));
    }

    /// A new token for the live session.
    pub fn refresh(&mut self, token: &str, lifetime: Option<Duration>, now: Duration) {
        self.refresh_at = lifetime.map(|lifetime| now + lifetime.mul_f64(0.8));
        if matches!(self.phase, Phase::Live { .. }) {
            self.frames.push_back(frames::refresh(token));
        }
    }

    /// No new token could be had: again in a while, as long as the session lives.
    pub fn refresh_failed(&mut self, now: Duration) {
        self.refresh_at = Some(now + Duration::from_secs(5));
    }

    /// The dial failed. `random` is from 0 up to 1.
    pub fn failed(&mut self, reason: Disconnect, now: Duration, random: f64) {
        self.disconnected(reason, now, random);
    }

    /// The transport ended, with the close code if it showed one. `random` is from 0 up to 1.
    pub fn lost(&mut self, code: Option<u16>, why: String, now: Duration, random: f64) {
        let told = self.closing.take().or_else(|| code.filter(|code| *code >= 4000).map(|code| (code, why.clone())));
        let Some((code, reason)) = told else {
            return self.disconnected(Disconnect::Lost(why), now, random);
        };
        match code {
            4001 if self.token_was_fresh => self.end(code, reason),
            4003 => self.end(code, reason),
            4001 | 4011 => {
                self.fresh_token = true;
                self.disconnected(Disconnect::Closed { code, reason }, now, random);
            }
            _ => self.disconnected(Disconnect::Closed { code, reason }, now, random),
        }
    }

    /// Timers: call when [`Session::deadline`] has come, and after every other call. `random` is from 0 up to 1.
    pub fn tick(&mut self, now: Duration, random: f64) {
        match self.phase {
            Phase::Waiting { until } if until <= now => self.dial(),
            Phase::Authenticating { since } if since + AUTH_TIMEOUT <= now => {
                self.hang_up(Disconnect::Silent, now, random);
            }
            Phase::Live { .. } => self.tick_live(now, random),
            Phase::Waiting { .. } | Phase::Authenticating { .. } | Phase::Dialing | Phase::Ended => {}
        }
    }

    fn tick_live(&mut self, now: Duration, random: f64) {
        if self.move_at.is_some_and(|at| at <= now) {
            self.failures = 0;
            return self.hang_up(Disconnect::Drained, now, random);
        }
        if now >= self.silent_at() {
            return self.hang_up(Disconnect::Silent, now, random);
        }
        if self.heartbeat_at <= now {
            self.heartbeat_at = now + self.heartbeat_every;
            self.frames.push_back(frames::heartbeat(now));
        }
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            self.actions.push(Action::RefreshToken);
        }
        self.ask_pulls(now);
    }

    /// When the server has been silent for too long: a heartbeat and a third of one more, or a message unanswered.
    fn silent_at(&self) -> Duration {
        let heard = self.last_heard + self.heartbeat_every + self.heartbeat_every / 3;
        let answered = self.unacked.iter().find_map(|unacked| unacked.sent).map(|sent| sent + ANSWER_TIMEOUT);
        answered.map_or(heard, |answered| heard.min(answered))
    }

    fn ask_pulls(&mut self, now: Duration) {
        let asked = self.lines.values().filter(|line| line.is_asked()).count();
        let mut free = PULLS_AT_ONCE.saturating_sub(asked);
        for (conversation, line) in &mut self.lines {
            if free == 0 {
                break;
            }
            if let Some(after) = line.ask(now) {
                let id = format!("pull-{}", self.next_pull);
                self.next_pull += 1;
                free -= 1;
                self.frames.push_back(frames::history(&id, *conversation, after));
                self.pulls.retain(|_, asked| asked != conversation);
                self.pulls.insert(id, *conversation);
            }
        }
    }

    /// When [`Session::tick`] has something to do next; `None` when only a call changes anything.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Waiting { until } => Some(until),
            Phase::Authenticating { since } => Some(since + AUTH_TIMEOUT),
            Phase::Dialing | Phase::Ended => None,
            Phase::Live { .. } => {
                let asked = self.lines.values().filter(|line| line.is_asked()).count();
                let pulls = self.lines.values().filter(|line| asked < PULLS_AT_ONCE || line.is_asked());
                let pulls = pulls.filter_map(Line::deadline).min();
                let others = [Some(self.heartbeat_at), Some(self.silent_at()), self.refresh_at, self.move_at, pulls];
                others.into_iter().flatten().min()
            }
        }
    }

    /// What is to be done, in order.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// What is to be written, in order.
    pub fn take_frames(&mut self) -> Vec<String> {
        self.frames.drain(..).collect()
    }

    /// The next event.
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// How many events wait. The shell stops reading the connection while they are many, which bounds them.
    #[must_use]
    pub fn waiting_events(&self) -> usize {
        self.events.len()
    }

    /// Whether the session was refused for good.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    fn dial(&mut self) {
        self.phase = Phase::Dialing;
        let index = self.next % self.endpoints.len().max(1);
        if let Some(endpoint) = self.endpoints.get(index) {
            let address = endpoint.address.clone();
            self.actions.push(Action::Dial { address, fresh_token: self.fresh_token });
        }
    }

    fn hang_up(&mut self, reason: Disconnect, now: Duration, random: f64) {
        self.actions.push(Action::HangUp);
        self.disconnected(reason, now, random);
    }

    fn end(&mut self, code: u16, reason: String) {
        self.phase = Phase::Ended;
        self.frames.clear();
        self.events.push_back(Event::Closed { code, reason });
    }

    /// Waits with full jitter, then dials: the same region once more after a good session, else the next in turn.
    fn disconnected(&mut self, reason: Disconnect, now: Duration, random: f64) {
        match self.phase {
            Phase::Ended | Phase::Waiting { .. } => return,
            Phase::Live { since } if since + GOOD_SESSION <= now => self.failures = 0,
            Phase::Live { .. } | Phase::Dialing | Phase::Authenticating { .. } => {}
        }
        let was_live = matches!(self.phase, Phase::Live { .. });
        if !was_live || self.failures > 0 {
            self.next = (self.next + 1) % self.endpoints.len().max(1);
        }
        let drained = reason == Disconnect::Drained || self.move_at.is_some();
        let slot = self.move_at.take().filter(|_| drained).map(|at| at.saturating_sub(now));
        let retry_in = slot.unwrap_or_else(|| backoff::wait(self.failures, random));
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Waiting { until: now + retry_in };
        self.frames.clear();
        self.pulls.clear();
        for unacked in &mut self.unacked {
            unacked.sent = None;
        }
        self.events.push_back(Event::Disconnected { reason, retry_in });
    }

    fn emit(&mut self, conversation: ConversationId, outputs: Vec<Output>) {
        for output in outputs {
            self.events.push_back(match output {
                Output::Row(row) => Event::Message(row),
                Output::Gap { from, to, reason } => Event::Gap { conversation, from, to, reason },
            });
        }
    }
}
