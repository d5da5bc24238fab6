//! Whoever waits for the core: a connection for its ack, or a call for its outcome.

use std::sync::Arc;

use hearth_protocol::client::{
    AckDurability, AckPayload, QueuedPayload, RefusedPayload, ServerFrame, encode_server_frame,
};
use hearth_protocol::record::ParkedSend;
use hearth_protocol::{ConversationId, MessageId};
use parking_lot::Mutex;
use region_model::{Ack, DeviceOutcome, LogView, Outcome};
use tokio::sync::oneshot;

use crate::edge::{Connection, EdgeEvent};

/// A `message.send` of a connection.
#[derive(Debug)]
pub(crate) struct SendReply {
    pub(crate) connection: Arc<Connection>,
    pub(crate) request: Option<String>,
    pub(crate) message: MessageId,
    pub(crate) conversation: ConversationId,
    /// When the session gave it to the core, in microseconds since the epoch.
    pub(crate) taken: u64,
}

/// What a call hears.
#[derive(Debug)]
pub(crate) enum Heard {
    Outcome(Outcome),
    View(Box<LogView>),
}

/// Names whoever waits. Clones are cheap.
#[derive(Clone, Debug)]
pub(crate) enum ReplyTo {
    Send(Arc<SendReply>),
    Call(Arc<Mutex<Option<oneshot::Sender<Heard>>>>),
}

impl ReplyTo {
    /// A call and the end at which it hears.
    pub(crate) fn call() -> (Self, oneshot::Receiver<Heard>) {
        let (sender, receiver) = oneshot::channel();
        (Self::Call(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    /// Tells the outcome. A call hears the first that ends it; that it is queued is not an end for a call.
    pub(crate) fn outcome(&self, outcome: Outcome) {
        match self {
            Self::Send(reply) => {
                reply
                    .connection
                    .push(EdgeEvent::Frame(encode_server_frame(&send_frame(reply, outcome), reply.request.as_deref())));
            }
            Self::Call(sender) => {
                if matches!(outcome, Outcome::Queued(..)) {
                    return;
                }
                if let Some(sender) = sender.lock().take() {
                    // The caller may have gone: then nobody needs to know.
                    let _ = sender.send(Heard::Outcome(outcome));
                }
            }
        }
    }

    /// Answers a query.
    pub(crate) fn view(&self, view: Box<LogView>) {
        if let Self::Call(sender) = self
            && let Some(sender) = sender.lock().take()
        {
            let _ = sender.send(Heard::View(view));
        }
    }

    /// The connection that gets the ack and therefore not the delivery.
    pub(crate) fn connection_id(&self) -> Option<u64> {
        match self {
            Self::Send(reply) => Some(reply.connection.id),
            Self::Call(_) => None,
        }
    }
}

fn send_frame(reply: &SendReply, outcome: Outcome) -> ServerFrame {
    match outcome {
        Outcome::Acked(ack) => ServerFrame::Ack(ack_payload(reply.message, reply.conversation, ack)),
        Outcome::Queued(reason, home) => ServerFrame::Queued(QueuedPayload {
            message_id: reply.message,
            conversation_id: reply.conversation,
            reason,
            home,
        }),
        Outcome::Refused(refusal) => ServerFrame::Error(refusal),
    }
}

fn ack_payload(message_id: MessageId, conversation_id: ConversationId, ack: Ack) -> AckPayload {
    AckPayload {
        message_id,
        sequence_number: ack.position.sequence.0,
        timestamp: ack.time,
        conversation_id,
        epoch: ack.position.epoch,
        home: ack.home,
        durability: AckDurability { level: ack.level, regions: ack.regions },
        duplicate: ack.duplicate.then_some(true),
    }
}

/// The frame that tells a device how its parked send ended.
pub(crate) fn device_frame(send: &ParkedSend, ended: DeviceOutcome) -> ServerFrame {
    match ended {
        DeviceOutcome::Acked(ack) => ServerFrame::Ack(ack_payload(send.id, send.conversation, ack)),
        DeviceOutcome::Refused(refusal) => ServerFrame::Refused(RefusedPayload {
            message_id: send.id,
            conversation_id: send.conversation,
            error: refusal.error,
            message: refusal.message.into_owned(),
        }),
        DeviceOutcome::CopiesMissing(home) => ServerFrame::Queued(QueuedPayload {
            message_id: send.id,
            conversation_id: send.conversation,
            reason: hearth_protocol::client::QueuedReason::CopiesMissing,
            home,
        }),
    }
}
