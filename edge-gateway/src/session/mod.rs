//! One client session as a machine without sockets and clocks: frames, events and times go in, effects come out.

mod answers;
mod deliveries;
mod resume;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::client::{
    AuthPayload, ClientFrame, ClientState, CloseCode, ClosePayload, Connected, Draining, Endpoint, ExplainRequest,
    FrameError, HistoryRequest, PresenceSetRequest, PresenceUsersRequest, ReceiptPayload, ResumePayload, ServerFrame,
    Submission, TypingRequest, encode_server_frame, parse_client_frame,
};
use hearth_protocol::rest::{HistoryQuery, SyncCursor, SyncRequest};
use hearth_protocol::{ConversationId, DeviceId, Epoch, ErrorCode, Refusal, Timestamp, UserId};
use region_core::{
    ApiCall, Deliveries, DeliveryCall, DeliveryLimits, DrainSlot, Drained, EdgeEvent, Leave, Live, SessionQuestion,
    SessionSent, Skipped, Stay,
};

use crate::auth::{AuthError, Identity, TokenVerifier};
use crate::clock::{Moment, millis};
use crate::metrics::DropLabel;
use crate::options::{GatewayLimits, GatewayTimes};
use crate::rate::{RateLimiter, UserRate};
use crate::resume_token::ResumeKeys;

pub(crate) use answers::Ticket;
use deliveries::effect_of;
use resume::Resume;

/// What all sessions of a gateway share.
#[derive(Debug)]
pub(crate) struct SessionShared {
    pub(crate) limits: GatewayLimits,
    pub(crate) times: GatewayTimes,
    pub(crate) verifier: Arc<dyn TokenVerifier>,
    pub(crate) resume_keys: Arc<ResumeKeys>,
    pub(crate) rates: RateLimiter,
    pub(crate) region: hearth_protocol::RegionId,
    pub(crate) node: String,
}

/// What a connection brings before its first frame.
pub(crate) struct Arrival {
    /// A token of the header, the subprotocol or the URL.
    pub(crate) token: Option<String>,
    /// A device of the header or the URL.
    pub(crate) device: Option<DeviceId>,
    /// For a client that names none.
    pub(crate) new_device: DeviceId,
    /// Names the connection in logs and in `connected`.
    pub(crate) connection_id: String,
}

/// What the core said about a session.
#[derive(Debug)]
pub(crate) struct OpenedFacts {
    pub(crate) feed_complete: bool,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// What one session is told of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DrainNotice {
    /// Its slot, and when it is closed, in ticks.
    pub(crate) slot: DrainSlot,
    /// When it is closed, on the wall.
    pub(crate) close_at_wall: Timestamp,
}

/// What the shell does for a session, in this order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Writes a frame.
    Send(Bytes),
    /// Closes with the code, after everything before it is written. Nothing follows.
    Close(CloseCode),
    /// Registers the session at the core; answered by [`Session::handle_opened`]. One that brings a good resume token does
    /// not stand behind those who log in.
    Open { user: UserId, device: DeviceId, resumes: bool },
    /// Gives a message to the core.
    Forward { request: Option<String>, send: Box<Submission> },
    /// Gives a receipt to the core, with what this session was sent last of the conversation.
    Receipt { request: Option<String>, receipt: ReceiptPayload, sent: Option<(Epoch, u64)> },
    /// Gives a start or stop of typing to the core.
    Typing { request: Option<String>, typing: TypingRequest },
    /// Tells the core what is on the screen.
    View { request: Option<String>, conversation: Option<ConversationId> },
    /// Tells the core what the device says of itself.
    PresenceSet(PresenceSetRequest),
    /// Gives a subscription to presence, or its end, to the core.
    PresenceUsers { request: Option<String>, users: PresenceUsersRequest },
    /// Tells the core whether somebody looks at the client.
    Background(bool),
    /// Calls the API; answered by [`Session::handle_answer`].
    Api { ticket: Ticket, call: ApiCall },
    /// Reads what a cursor misses; answered by [`Session::handle_replayed`].
    Replay { cursor: SyncCursor, rows: usize },
    /// Answers what this session was sent of a message, once everything before is written.
    Told { question: SessionQuestion, sent: SessionSent },
    /// Counts a refusal.
    Refused(ErrorCode),
    /// Counts an event that did not go out.
    Dropped(DropLabel),
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Waits for `auth` until these ticks.
    Greeting { until: u64 },
    /// The core registers it.
    Opening,
    /// Serves.
    Live,
    /// Was told to leave and serves until then.
    Draining(Leave),
    /// Over.
    Closed,
}

/// A session.
pub(crate) struct Session {
    shared: Arc<SessionShared>,
    state: State,
    effects: VecDeque<Effect>,
    connection_id: String,
    device: Option<DeviceId>,
    new_device: DeviceId,
    identity: Option<Identity>,
    /// Set by the first message: most sessions read.
    rate: Option<Arc<UserRate>>,
    deliveries: Deliveries<Bytes>,
    resume: Option<Resume>,
    /// What the `auth` frame asked to resume: begun once the core knows the session.
    wanted: Option<(Option<String>, Vec<SyncCursor>)>,
    /// Whether another `resume` may come.
    may_resume: bool,
    /// Ticks of the last frame of the client.
    heard_at: u64,
    /// Refusals since the ticks.
    refusals: (u64, u32),
    /// API requests without an answer yet.
    requests: usize,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.connection_id).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Session {
    /// A session that begins at `now`. With a token of the upgrade it is authenticated or refused at once.
    pub(crate) fn new(shared: Arc<SessionShared>, arrival: Arrival, now: Moment) -> Self {
        let limits = DeliveryLimits {
            held: shared.limits.held_frames,
            held_bytes: shared.limits.session_queue_bytes,
            tracked: shared.limits.tracked_conversations,
            replay_rows: shared.limits.replay_rows,
            gap_rows: shared.limits.gap_rows,
        };
        let until = now.ticks + millis(shared.times.auth_timeout);
        let (salt, _) = arrival.new_device.0.as_u64_pair();
        let mut session = Self {
            shared,
            state: State::Greeting { until },
            effects: VecDeque::new(),
            connection_id: arrival.connection_id,
            device: arrival.device,
            new_device: arrival.new_device,
            identity: None,
            rate: None,
            deliveries: Deliveries::new(limits, salt),
            resume: None,
            wanted: None,
            may_resume: true,
            heard_at: now.ticks,
            refusals: (now.ticks, 0),
            requests: 0,
        };
        if let Some(token) = arrival.token {
            session.authenticate(&token, now);
        }
        session
    }

    /// The next thing to do.
    pub(crate) fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Nothing is to be done now: an idle session keeps no buffer.
    pub(crate) fn rest(&mut self) {
        debug_assert!(self.effects.is_empty(), "what was decided is done first");
        self.effects = VecDeque::new();
    }

    /// API requests without an answer yet: the shell reads no further frames while there are too many.
    pub(crate) fn requests(&self) -> usize {
        self.requests
    }

    /// Whose session it is, once that is known.
    pub(crate) fn user(&self) -> Option<&UserId> {
        self.identity.as_ref().map(|identity| &identity.user)
    }

    /// Takes a frame of the client.
    pub(crate) fn handle_frame(&mut self, frame: &[u8], now: Moment) {
        if self.state == State::Closed {
            return;
        }
        self.heard_at = now.ticks;
        let (id, parsed) = parse_client_frame(frame, &self.shared.limits.frame);
        match parsed {
            Err(FrameError::Malformed(refusal)) => self.handle_malformed(refusal, now),
            Err(FrameError::Refused(refusal)) => {
                self.refuse(id.as_deref(), &refusal, now);
                if matches!(self.state, State::Greeting { .. }) {
                    self.close(CloseCode::Unauthorized, None);
                }
            }
            Ok(frame) => self.take(id, frame, now),
        }
    }

    /// Takes what cannot be read as a frame.
    pub(crate) fn handle_malformed(&mut self, refusal: Refusal, now: Moment) {
        self.refuse(None, &refusal, now);
        self.close(CloseCode::Malformed, None);
    }

    fn take(&mut self, id: Option<String>, frame: ClientFrame, now: Moment) {
        if matches!(self.state, State::Greeting { .. }) {
            return match frame {
                ClientFrame::Auth(auth) => self.greet(auth, now),
                _ => self.close(CloseCode::Unauthorized, Some("the first frame was not auth")),
            };
        }
        match frame {
            ClientFrame::Send(send) => self.submit(id, Submission::Message(*send), now),
            ClientFrame::Change(change) => self.submit(id, Submission::Change(*change), now),
            ClientFrame::Heartbeat => self.send(&ServerFrame::HeartbeatAck(now.wall), None),
            ClientFrame::Receipt(receipt) => {
                let sent = self.deliveries.sent(receipt.conversation_id);
                self.effects.push_back(Effect::Receipt { request: id, receipt, sent });
            }
            ClientFrame::Typing(typing) => self.effects.push_back(Effect::Typing { request: id, typing }),
            ClientFrame::View(view) => {
                self.effects.push_back(Effect::View { request: id, conversation: view.conversation_id });
            }
            ClientFrame::PresenceSet(set) => self.effects.push_back(Effect::PresenceSet(set)),
            ClientFrame::PresenceUsers(users) => self.effects.push_back(Effect::PresenceUsers { request: id, users }),
            ClientFrame::State(state) => {
                self.effects.push_back(Effect::Background(state.state == ClientState::Background));
            }
            ClientFrame::Sync(request) => self.sync(id, request, now),
            ClientFrame::History(request) => self.history(id, &request, now),
            ClientFrame::Explain(request) => self.explain(id, request),
            ClientFrame::Resume(resume) => self.resume_frame(id, resume, now),
            ClientFrame::AuthRefresh(token) => self.refresh(id, &token, now),
            ClientFrame::Auth(_) => {
                self.refuse(id.as_deref(), &Refusal::invalid("the session is authenticated already"), now);
            }
        }
    }

    fn greet(&mut self, auth: AuthPayload, now: Moment) {
        self.device = auth.device_id.or(self.device);
        if let Some(cursors) = auth.cursors {
            self.may_resume = false;
            self.wanted = Some((auth.resume_token, cursors));
        } else if auth.resume_token.is_some() {
            self.wanted = Some((auth.resume_token, Vec::new()));
        }
        self.authenticate(&auth.token, now);
    }

    fn authenticate(&mut self, token: &str, now: Moment) {
        match self.shared.verifier.verify(token, now.wall) {
            Ok(identity) => {
                let resumed = self.resumed_device(&identity.user, now);
                let device = self.device.or(resumed).unwrap_or(self.new_device);
                self.device = Some(device);
                let resumes = resumed == Some(device);
                self.effects.push_back(Effect::Open { user: identity.user.clone(), device, resumes });
                self.identity = Some(identity);
                self.state = State::Opening;
            }
            Err(error) => {
                self.effects.push_back(Effect::Refused(ErrorCode::Unauthorized));
                self.close(CloseCode::Unauthorized, Some(reason_of(error)));
            }
        }
    }

    /// The device of a good resume token: a client that lost its id goes on as the same device.
    fn resumed_device(&self, user: &UserId, now: Moment) -> Option<DeviceId> {
        let token = self.wanted.as_ref()?.0.as_deref()?;
        self.shared.resume_keys.verify(token, now.wall).filter(|old| old.user == *user).map(|old| old.device)
    }

    /// The core registered the session, or refused it.
    pub(crate) fn handle_opened(&mut self, opened: Result<OpenedFacts, Refusal>, now: Moment) {
        if self.state != State::Opening {
            return;
        }
        match opened {
            Ok(facts) => {
                self.state = State::Live;
                self.connected(facts, now);
            }
            Err(refusal) => {
                self.refuse(None, &refusal, now);
                self.close(CloseCode::Draining, None);
            }
        }
    }

    fn connected(&mut self, facts: OpenedFacts, now: Moment) {
        let wanted = self.wanted.take();
        let promise =
            wanted.as_ref().is_some_and(|(token, _)| !self.may_resume && self.token_holds(token.as_deref(), now));
        let identity = self.identity.as_ref().expect("set before the core was asked");
        let device_id = self.device.expect("set before the core was asked");
        let connected = Connected {
            connection_id: self.connection_id.clone(),
            server_time: now.wall,
            heartbeat_interval: millis(self.shared.times.heartbeat_interval),
            resume_token: self.shared.resume_keys.issue(&identity.user, device_id, now.wall),
            user_id: identity.user.clone(),
            device_id,
            region: self.shared.region.clone(),
            node: self.shared.node.clone(),
            resumed: resume::word(promise).to_owned(),
            feed: if facts.feed_complete { "complete" } else { "partial" }.to_owned(),
            endpoints: facts.endpoints,
            protocol_version: 1,
        };
        self.send(&ServerFrame::Connected(Box::new(connected)), None);
        if let Some((token, cursors)) = wanted.filter(|_| !self.may_resume) {
            self.begin_resume(token.as_deref(), cursors, now);
        }
    }

    fn resume_frame(&mut self, id: Option<String>, resume: ResumePayload, now: Moment) {
        if !self.may_resume {
            return self.refuse(id.as_deref(), &Refusal::invalid("a session resumes once"), now);
        }
        self.may_resume = false;
        self.begin_resume(resume.resume_token.as_deref(), resume.cursors, now);
    }

    fn submit(&mut self, id: Option<String>, send: Submission, now: Moment) {
        let identity = self.identity.as_ref().expect("set before the core was asked");
        let rate = self.rate.get_or_insert_with(|| self.shared.rates.user(&identity.user, now.ticks));
        if let Err(refusal) = rate.take(send.conversation_id(), send.message_id(), now.ticks) {
            return self.refuse(id.as_deref(), &refusal, now);
        }
        self.deliveries.own_sent(send.conversation_id(), now.ticks);
        self.effects.push_back(Effect::Forward { request: id, send: Box::new(send) });
    }

    fn sync(&mut self, id: Option<String>, request: SyncRequest, now: Moment) {
        if let Err(refusal) = crate::rest::check_sync(&request) {
            return self.refuse(id.as_deref(), &refusal, now);
        }
        self.requests += 1;
        self.effects.push_back(Effect::Api { ticket: Ticket::sync(id), call: ApiCall::Sync { request } });
    }

    fn history(&mut self, id: Option<String>, request: &HistoryRequest, now: Moment) {
        let query = HistoryQuery { before: request.before, after: request.after, limit: request.limit };
        if let Err(refusal) = crate::rest::check_history(&query) {
            return self.refuse(id.as_deref(), &refusal, now);
        }
        self.requests += 1;
        let call = ApiCall::History { id: request.conversation_id, query };
        self.effects.push_back(Effect::Api { ticket: Ticket::history(id), call });
    }

    fn explain(&mut self, id: Option<String>, request: ExplainRequest) {
        let operator = self.identity.as_ref().is_some_and(|identity| identity.operator);
        self.requests += 1;
        let call = ApiCall::Delivery(DeliveryCall::Explain { request, operator });
        self.effects.push_back(Effect::Api { ticket: Ticket::explanation(id), call });
    }

    fn refresh(&mut self, id: Option<String>, token: &str, now: Moment) {
        let verified = self.shared.verifier.verify(token, now.wall);
        let user = self.user().expect("set before the core was asked");
        let refusal = match verified {
            Ok(identity) if identity.user == *user => {
                self.send(&ServerFrame::AuthRefreshed(identity.token_expires_at), id.as_deref());
                self.identity = Some(identity);
                return;
            }
            Ok(_) => Refusal::new(ErrorCode::Unauthorized, "the token is another user's"),
            Err(error) => Refusal::new(ErrorCode::Unauthorized, error.to_string()),
        };
        self.refuse(id.as_deref(), &refusal, now);
    }

    /// Takes an event of the core.
    pub(crate) fn handle_event(&mut self, event: EdgeEvent, now: Moment) {
        if self.state == State::Closed {
            return;
        }
        match event {
            EdgeEvent::Message { conversation, epoch, sequence, frame } => {
                let live = Live { conversation, epoch, sequence, bytes: frame.len(), frame };
                self.deliveries.live(live, now.ticks, &mut |delivery| self.effects.push_back(effect_of(delivery)));
            }
            EdgeEvent::Skipped(skipped) => self.skip(&skipped),
            EdgeEvent::Pulled(skipped) => {
                self.effects.push_back(Effect::Dropped(DropLabel::Pulled));
                self.skip(&skipped);
            }
            EdgeEvent::Asked(question) => {
                let sent = self.deliveries.about(question.conversation, question.sequence);
                self.effects.push_back(Effect::Told { question, sent });
            }
            EdgeEvent::LineChanged(changed) => {
                let out = &mut |delivery| self.effects.push_back(effect_of(delivery));
                self.deliveries.line_changed(&changed, now.ticks, out);
            }
            EdgeEvent::Frame(frame) => {
                self.effects.push_back(Effect::Send(frame.clone()));
                if let Some(code) = self.look_at(&frame, now) {
                    self.count_refusal(code, now);
                }
            }
        }
    }

    fn skip(&mut self, skipped: &Skipped) {
        self.deliveries.skipped(skipped, &mut |delivery| self.effects.push_back(effect_of(delivery)));
    }

    /// The client does not read: its queue at the core overflowed.
    pub(crate) fn handle_overflow(&mut self) {
        self.effects.push_back(Effect::Dropped(DropLabel::SlowConsumer));
        self.close(CloseCode::SlowConsumer, None);
    }

    /// The node leaves.
    pub(crate) fn handle_drain(&mut self, notice: &DrainNotice, endpoints: Vec<Endpoint>, now: Moment) {
        let stay = match &self.state {
            State::Closed => return,
            State::Greeting { .. } | State::Opening => Stay::Begins,
            State::Live => Stay::Served,
            State::Draining(leave) => Stay::Leaves(*leave),
        };
        match stay.drained(&notice.slot) {
            Drained::Kept => {}
            Drained::Closed => self.close(CloseCode::Draining, None),
            Drained::Told(leave) => {
                let identity = self.identity.as_ref().expect("set before the core was asked");
                let device = self.device.expect("set before the core was asked");
                let draining = Draining {
                    reconnect_after_ms: notice.slot.reconnect_after,
                    deadline_ms: notice.close_at_wall.0,
                    endpoints,
                    resume_token: self.shared.resume_keys.issue(&identity.user, device, now.wall),
                };
                self.send(&ServerFrame::Draining(draining), None);
                self.state = State::Draining(leave);
            }
        }
    }

    /// Closes for the end of the process.
    pub(crate) fn handle_shutdown(&mut self) {
        self.close(CloseCode::Draining, None);
    }

    /// In how many milliseconds [`Session::handle_timeout`] is due; `None` for never.
    pub(crate) fn poll_timeout(&self, now: Moment) -> Option<u64> {
        let silent = self.heard_at + millis(self.shared.times.heartbeat_timeout);
        let own = match &self.state {
            State::Closed => return None,
            State::Greeting { until } => return Some(until.saturating_sub(now.ticks)),
            State::Opening | State::Live => silent,
            State::Draining(leave) => silent.min(leave.closes_at()),
        };
        let token =
            self.identity.as_ref().map_or(u64::MAX, |identity| identity.expires_at.0.saturating_sub(now.wall.0));
        let waits = self.deliveries.poll_timeout().unwrap_or(u64::MAX);
        Some(own.min(waits).saturating_sub(now.ticks).min(token))
    }

    /// Looks at the time.
    pub(crate) fn handle_timeout(&mut self, now: Moment) {
        match self.state {
            State::Closed => return,
            State::Greeting { until } => {
                if now.ticks >= until {
                    self.close(CloseCode::Unauthorized, Some("no auth frame in time"));
                }
                return;
            }
            State::Draining(leave) if leave.is_over(now.ticks) => return self.close(CloseCode::Draining, None),
            State::Opening | State::Live | State::Draining(_) => {}
        }
        self.deliveries.handle_timeout(now.ticks, &mut |_, delivery| self.effects.push_back(effect_of(delivery)));
        if self.identity.as_ref().is_some_and(|identity| now.wall >= identity.expires_at) {
            self.close(CloseCode::TokenExpired, None);
        } else if now.ticks >= self.heard_at + millis(self.shared.times.heartbeat_timeout) {
            self.close(CloseCode::HeartbeatLost, None);
        }
    }

    fn send(&mut self, frame: &ServerFrame, id: Option<&str>) {
        self.effects.push_back(Effect::Send(encode_server_frame(frame, id)));
    }

    fn refuse(&mut self, id: Option<&str>, refusal: &Refusal, now: Moment) {
        self.send(&ServerFrame::Error(refusal.clone()), id);
        self.count_refusal(refusal.error, now);
    }

    fn count_refusal(&mut self, code: ErrorCode, now: Moment) {
        self.effects.push_back(Effect::Refused(code));
        let (since, count) = &mut self.refusals;
        if now.ticks >= *since + 60_000 {
            (*since, *count) = (now.ticks, 0);
        }
        *count = count.saturating_add(1);
        let most = self.shared.limits.refusals_per_minute;
        if most > 0 && *count >= most {
            self.close(CloseCode::RateLimited, None);
        }
    }

    fn close(&mut self, code: CloseCode, detail: Option<&str>) {
        if self.state == State::Closed {
            return;
        }
        self.state = State::Closed;
        let reason = detail.map_or_else(|| code.reason().to_owned(), |detail| format!("{}: {detail}", code.reason()));
        self.send(&ServerFrame::Close(ClosePayload { code: code.number(), reason }), None);
        self.effects.push_back(Effect::Close(code));
    }
}

fn reason_of(error: AuthError) -> &'static str {
    match error {
        AuthError::Missing => "no token",
        AuthError::Malformed => "not a usable token",
        AuthError::UnknownKey => "unknown key",
        AuthError::Signature => "wrong signature",
        AuthError::Expired => "token expired",
        AuthError::NotYetValid => "token not valid yet",
        AuthError::Issuer => "other issuer",
        AuthError::Audience => "other audience",
        AuthError::Subject => "subject is not a user id",
    }
}
