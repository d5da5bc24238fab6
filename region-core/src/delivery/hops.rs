//! What the loop of the core is asked of messages. What it writes down of each is decided by `region_model::delivery`.

use hearth_protocol::ConversationId;
use region_model::Standing;
use region_model::delivery::{HopTimes, Kept, OfSession, Sought};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::reply::ReplyTo;

/// A question to the loop. Whoever asks may be gone by the answer.
#[derive(Debug)]
pub(crate) enum Ask {
    /// In which conversations a message of this id passed.
    Where { id: Uuid, answer: oneshot::Sender<Vec<ConversationId>> },
    /// What stands of a message.
    Stands { conversation: ConversationId, sought: Sought, answer: oneshot::Sender<Stands> },
}

/// What the loop knows of a message.
#[derive(Debug)]
pub(crate) struct Stands {
    pub(crate) hops: Option<HopTimes>,
    pub(crate) kept: Kept,
    pub(crate) standing: Standing,
}

/// The message whose answer a session waits for.
pub(crate) fn of_session(reply: &ReplyTo) -> Option<OfSession<'_>> {
    let ReplyTo::Send(reply) = reply else { return None };
    let (conversation, id, sender) = (reply.conversation, reply.message.0, &reply.connection.user);
    Some(OfSession { conversation, id, sender, taken: reply.taken })
}
