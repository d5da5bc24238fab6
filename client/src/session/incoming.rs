//! What a frame of the server changes.

use std::time::Duration;

use hearth_protocol::client::{AckPayload, Connected, Draining, Endpoint as WireEndpoint, ServerFrame};
use hearth_protocol::rest::{ConversationRow, HistoryResponse, Row, SyncResponse};
use hearth_protocol::{ErrorCode, MessageId, Refusal};

use super::{Endpoint, Event, Line, Phase, Session};
use crate::transport::Address;

impl Session {
    /// Takes one frame of the server. Frames of unknown types are ignored, as the contract asks.
    ///
    /// # Errors
    /// When the text is not JSON or a known type has another form: the connection is of no use any more.
    pub fn handle_frame(&mut self, text: &str, now: Duration) -> Result<(), serde_json::Error> {
        self.last_heard = now;
        let (id, frame) = ServerFrame::parse(text)?;
        let Some(frame) = frame else { return Ok(()) };
        match frame {
            ServerFrame::Connected(connected) => self.connected(*connected, now),
            ServerFrame::Draining(draining) => self.draining(draining, now),
            ServerFrame::Close(close) => self.closing = Some((close.code, close.reason)),
            ServerFrame::HeartbeatAck(_) | ServerFrame::AuthRefreshed(_) => {}
            ServerFrame::Ack(ack) => self.acked(ack, now),
            ServerFrame::Queued(queued) => {
                if let Some(unacked) = self.unacked.iter_mut().find(|unacked| unacked.message == queued.message_id) {
                    unacked.sent = None;
                }
                self.events.push_back(Event::Queued(queued));
            }
            ServerFrame::Refused(refused) => {
                self.forget(refused.message_id);
                self.events.push_back(Event::Refused(refused));
            }
            ServerFrame::New(row) => self.row(row, now),
            ServerFrame::ConversationNew(row) => self.joined(row),
            ServerFrame::ConversationUpdated(row) => self.events.push_back(Event::ConversationUpdated(row)),
            ServerFrame::ConversationRewound(rewound) => {
                // What stands above comes again under the new epoch, or is lost and named by a loss statement.
                let line = Line::new(Some(rewound.after_sequence), Some(rewound.epoch));
                self.lines.insert(rewound.conversation_id, line);
                self.events.push_back(Event::Rewound(rewound));
            }
            ServerFrame::Delivered(delivered) => self.events.push_back(Event::Delivered(delivered)),
            ServerFrame::ReadReceipt(read) => self.events.push_back(Event::Read(read)),
            ServerFrame::ReceiptsSummary(summary) => self.events.push_back(Event::ReceiptsSummary(summary)),
            ServerFrame::TypingUpdate(update) => self.events.push_back(Event::Typing(update)),
            ServerFrame::FeedComplete => self.events.push_back(Event::FeedComplete),
            ServerFrame::PresenceUpdate(presence) => self.events.push_back(Event::Presence(vec![presence])),
            ServerFrame::PresenceBulk(bulk) => self.events.push_back(Event::Presence(bulk.presences)),
            ServerFrame::RegionStatus { region, reachable, .. } => {
                self.events.push_back(Event::RegionStatus { region, reachable });
            }
            ServerFrame::SyncComplete(complete) => {
                for covered in complete.conversations {
                    if let Some(line) = self.lines.get_mut(&covered.conversation_id) {
                        let outputs = line.covered(covered.up_to_sequence, now);
                        self.emit(covered.conversation_id, outputs);
                    }
                }
            }
            ServerFrame::SyncRequired(required) => {
                let line = self
                    .lines
                    .entry(required.conversation_id)
                    .or_insert_with(|| Line::new(Some(required.from_sequence.saturating_sub(1)), None));
                line.pull_to_end(now);
            }
            ServerFrame::SyncGap(gap) => {
                let line = self
                    .lines
                    .entry(gap.conversation_id)
                    .or_insert_with(|| Line::new(Some(gap.from_sequence.saturating_sub(1)), None));
                let outputs = line.covered(gap.to_sequence, now);
                self.emit(gap.conversation_id, outputs);
            }
            ServerFrame::SyncResponse(response) => self.synced(response, now),
            ServerFrame::HistoryResponse(response) => self.pulled(id.as_deref(), response, now),
            ServerFrame::Explanation(explanation) => self.explained(id.as_deref(), explanation),
            ServerFrame::Error(refusal) => self.refused(id.as_deref(), refusal, now),
        }
        Ok(())
    }

    fn connected(&mut self, connected: Connected, now: Duration) {
        self.phase = Phase::Live { since: now };
        self.heartbeat_every = Duration::from_millis(connected.heartbeat_interval.clamp(100, 300_000));
        self.heartbeat_at = now + self.heartbeat_every;
        self.resume_token = Some(connected.resume_token);
        self.device = Some(connected.device_id);
        self.learn(&connected.endpoints);
        // Everything unacked goes first, in order; `send` appends behind it from now on.
        for unacked in &mut self.unacked {
            self.frames.push_back(unacked.frame.clone());
            unacked.sent = Some(now);
        }
        self.events.push_back(Event::Connected {
            region: connected.region,
            exact: connected.resumed == "exact",
            feed_complete: connected.feed == "complete",
            user: connected.user_id,
            device: connected.device_id,
        });
    }

    fn draining(&mut self, draining: Draining, now: Duration) {
        let reconnect_after = Duration::from_millis(draining.reconnect_after_ms);
        self.resume_token = Some(draining.resume_token);
        self.learn(&draining.endpoints);
        let first = draining.endpoints.first();
        if let Some(next) = first.and_then(|first| self.endpoints.iter().position(|known| known.region == first.region))
        {
            self.next = next;
        }
        self.move_at = Some(now + reconnect_after);
        self.events.push_back(Event::Draining { reconnect_after });
    }

    /// Regions that a server names and the options did not are tried after those that they did.
    fn learn(&mut self, endpoints: &[WireEndpoint]) {
        for told in endpoints {
            if self.endpoints.iter().any(|known| known.region == told.region) {
                continue;
            }
            let Some(http) = http_base(&told.ws) else { continue };
            let address = Address { http, ws: told.ws.clone(), webtransport: told.webtransport.clone() };
            self.endpoints.push(Endpoint { region: told.region.clone(), address });
        }
    }

    fn acked(&mut self, ack: AckPayload, now: Duration) {
        let line = self.lines.entry(ack.conversation_id).or_insert_with(|| Line::new(None, None));
        let outputs = line.own(ack.sequence_number, ack.epoch, now);
        let conversation = ack.conversation_id;
        if self.forget(ack.message_id) {
            self.events.push_back(Event::Acked(ack));
        }
        self.emit(conversation, outputs);
    }

    fn forget(&mut self, message: MessageId) -> bool {
        let Some(index) = self.unacked.iter().position(|unacked| unacked.message == message) else { return false };
        self.unacked.remove(index).is_some()
    }

    fn row(&mut self, row: Box<Row>, now: Duration) {
        let conversation = row.conversation_id;
        let own_in_flight = self.unacked.iter().any(|unacked| unacked.conversation == conversation);
        let line = self.lines.entry(conversation).or_insert_with(|| Line::new(None, None));
        let outputs = line.row(row, own_in_flight, now);
        self.emit(conversation, outputs);
    }

    fn joined(&mut self, row: Box<ConversationRow>) {
        self.lines.entry(row.conversation_id).or_insert_with(|| Line::joined(row.last_sequence));
        self.events.push_back(Event::ConversationNew(row));
    }

    fn pulled(&mut self, id: Option<&str>, response: HistoryResponse, now: Duration) {
        // An answer that was given up on is still good: its rows are what they are, in ascending order.
        if let Some(id) = id {
            self.pulls.remove(id);
        }
        let conversation = response.conversation_id;
        if let Some(line) = self.lines.get_mut(&conversation) {
            let outputs = line.pulled(response, now);
            self.emit(conversation, outputs);
        }
    }

    fn synced(&mut self, response: SyncResponse, now: Duration) {
        for synced in response.conversations {
            for row in synced.messages {
                self.row(Box::new(row), now);
            }
        }
    }

    fn refused(&mut self, id: Option<&str>, refusal: Refusal, now: Duration) {
        if self.questions.answer(id, Err(refusal.clone())) {
            return;
        }
        if let Some(conversation) = id.and_then(|id| self.pulls.remove(id)) {
            let gone = matches!(refusal.error, ErrorCode::ConversationNotFound | ErrorCode::Forbidden);
            if gone && self.lines.remove(&conversation).is_some() {
                self.events.push_back(Event::Unfollowed { conversation, error: refusal.error });
            } else if let Some(line) = self.lines.get_mut(&conversation) {
                line.retry(now);
            }
            return;
        }
        if id == Some("refresh") {
            self.refresh_failed(now);
        }
        let message = id.and_then(|id| id.parse::<MessageId>().ok());
        let known = message.filter(|message| self.unacked.iter().any(|unacked| unacked.message == *message));
        if known.is_some() && refusal.error == ErrorCode::Draining {
            // The node is leaving; the message goes out again on the next connection.
            return;
        }
        if let Some(message) = known {
            self.forget(message);
        }
        self.events.push_back(Event::Error { message: known, refusal });
    }
}

/// `http://host:port` of `ws://host:port/ws`.
fn http_base(ws: &str) -> Option<String> {
    let (scheme, rest) = ws.split_once("://")?;
    let host = rest.split('/').next().filter(|host| !host.is_empty())?;
    match scheme {
        "ws" => Some(format!("http://{host}")),
        "wss" => Some(format!("https://{host}")),
        _ => None,
    }
}
