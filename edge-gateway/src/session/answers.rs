//! Answers of the API as frames, and what a session learns from frames that only pass through it.

use bytes::Bytes;
use hearth_protocol::rest::ApiAnswer;
use hearth_protocol::{ConversationId, Epoch, ErrorCode, Refusal};
use serde::Deserialize;

use super::deliveries::effect_of;
use super::{Effect, Session, State};
use crate::clock::Moment;

/// Which request an answer belongs to.
#[derive(Debug)]
pub(crate) struct Ticket {
    kind: &'static str,
    id: Option<String>,
}

impl Ticket {
    pub(super) fn sync(id: Option<String>) -> Self {
        Self { kind: "sync.response", id }
    }

    pub(super) fn history(id: Option<String>) -> Self {
        Self { kind: "history.response", id }
    }

    pub(super) fn explanation(id: Option<String>) -> Self {
        Self { kind: "delivery.explanation", id }
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorCode,
}

#[derive(Deserialize)]
struct ErrorFrame {
    payload: ErrorBody,
}

#[derive(Deserialize)]
struct AckFrame {
    payload: AckBody,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AckBody {
    conversation_id: ConversationId,
    sequence_number: u64,
    #[serde(default)]
    epoch: Epoch,
}

impl Session {
    /// The API answered.
    pub(crate) fn handle_answer(&mut self, ticket: &Ticket, answer: &ApiAnswer, now: Moment) {
        self.requests -= 1;
        if self.state == State::Closed {
            return;
        }
        let id = ticket.id.as_deref();
        let most = self.shared.limits.answer_bytes;
        if (200..300).contains(&answer.status) {
            if answer.body.len() > most {
                let refusal =
                    Refusal::too_large("the answer is too long, ask for fewer rows", format!("{most} bytes an answer"));
                return self.refuse(id, &refusal, now);
            }
            self.effects.push_back(Effect::Send(frame_around(ticket.kind, id, &answer.body)));
            return;
        }
        match serde_json::from_slice::<Refusal>(&answer.body) {
            Ok(refusal) => self.refuse(id, &refusal, now),
            Err(_) => self.refuse(id, &Refusal::new(ErrorCode::Internal, "the region failed to answer"), now),
        }
    }

    /// Learns from a frame that goes out: the number of an own message, behind which others may wait, or that a request was
    /// refused.
    pub(super) fn look_at(&mut self, frame: &Bytes, now: Moment) -> Option<ErrorCode> {
        if frame.starts_with(b"{\"type\":\"message.ack\"") {
            if let Ok(AckFrame { payload }) = serde_json::from_slice(frame) {
                let acked = (payload.epoch, payload.sequence_number);
                let out = &mut |delivery| self.effects.push_back(effect_of(delivery));
                self.deliveries.own_acked(payload.conversation_id, acked, now.ticks, out);
            }
            return None;
        }
        if !frame.starts_with(b"{\"type\":\"error\"") {
            return None;
        }
        let refused = serde_json::from_slice::<ErrorFrame>(frame);
        Some(refused.map_or(ErrorCode::Internal, |frame| frame.payload.error))
    }
}

/// A frame with a body that is JSON already.
fn frame_around(kind: &str, id: Option<&str>, body: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(body.len() + 64 + id.map_or(0, str::len));
    frame.extend_from_slice(b"{\"type\":\"");
    frame.extend_from_slice(kind.as_bytes());
    frame.push(b'"');
    if let Some(id) = id {
        frame.extend_from_slice(b",\"id\":");
        serde_json::to_writer(&mut frame, id).expect("a string is JSON and a vector takes every write");
    }
    frame.extend_from_slice(b",\"payload\":");
    frame.extend_from_slice(body);
    frame.push(b'}');
    frame.into()
}
