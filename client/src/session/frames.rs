//! The frames that a client writes.

use std::time::Duration;

use hearth_protocol::client::{AuthPayload, ExplainRequest, HistoryRequest, ReceiptPayload, SendPayload};
use hearth_protocol::rest::SyncCursor;
use hearth_protocol::{ConversationId, DeviceId, limits};
use serde::Serialize;

#[derive(Serialize)]
struct Frame<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    payload: T,
}

fn frame<T: Serialize>(kind: &'static str, id: Option<&str>, payload: T) -> String {
    serde_json::to_string(&Frame { kind, id, payload }).expect("frames hold only string keys")
}

/// The first frame.
pub(super) fn auth(
    token: String,
    device_id: Option<DeviceId>,
    resume_token: Option<String>,
    cursors: Vec<SyncCursor>,
) -> String {
    let cursors = (!cursors.is_empty()).then_some(cursors);
    frame("auth", None, AuthPayload { token, device_id, resume_token, cursors, datagrams: false, streams: false })
}

/// A new token for the live session.
pub(super) fn refresh(token: &str) -> String {
    #[derive(Serialize)]
    struct Refresh<'a> {
        token: &'a str,
    }
    frame("auth.refresh", Some("refresh"), Refresh { token })
}

/// A message; its own id is the request's, so that a refusal names it.
pub(super) fn send(payload: &SendPayload) -> String {
    frame("message.send", Some(&payload.message_id.to_string()), payload)
}

/// How far the application is.
pub(super) fn receipt(receipt: &ReceiptPayload) -> String {
    frame(if receipt.read { "message.read" } else { "message.received" }, None, receipt)
}

/// A pull of the next page.
pub(super) fn history(id: &str, conversation_id: ConversationId, after: u64) -> String {
    let limit = Some(limits::HISTORY_ROWS as u64);
    frame("history.request", Some(id), HistoryRequest { conversation_id, before: None, after: Some(after), limit })
}

/// A question about the way of a message.
pub(super) fn explain(id: &str, request: &ExplainRequest) -> String {
    frame("delivery.explain", Some(id), request)
}

/// The heartbeat; its time stands beside `type`.
pub(super) fn heartbeat(now: Duration) -> String {
    format!(r#"{{"type":"heartbeat","timestamp":{}}}"#, now.as_millis())
}
