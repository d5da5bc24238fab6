//! What a session sends to change an earlier message: edits, deletes, reactions.

use serde::{Deserialize, Serialize};

use super::content::Content;
use super::from_client::SendPayload;
use crate::entry::{Change, EntryKind};
use crate::error::Refusal;
use crate::ids::{ConversationId, MessageId};
use crate::limits;

/// `message.edit`, `message.delete`, `reaction.add` and `reaction.remove`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ChangePayload {
    /// The idempotency key.
    pub message_id: MessageId,
    /// Where.
    pub conversation_id: ConversationId,
    /// The message.
    pub target_message_id: MessageId,
    /// What is done to it.
    #[serde(skip, default = "deleted")]
    pub what: Asked,
}

/// What a session asks to be done to a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// It gets other content.
    Edit(Content),
    /// Its content goes.
    Delete,
    /// A reaction comes or goes.
    React {
        /// What it shows.
        emoji: String,
        /// Whether it comes.
        added: bool,
    },
}

fn deleted() -> Asked {
    Asked::Delete
}

impl ChangePayload {
    /// The kind of the entry that it asks for.
    #[must_use]
    pub fn kind(&self) -> EntryKind {
        match self.what {
            Asked::Edit(_) => EntryKind::Edit,
            Asked::Delete => EntryKind::Delete,
            Asked::React { .. } => EntryKind::Reaction,
        }
    }

    /// What the entry carries; the home puts the message's number in.
    #[must_use]
    pub fn change(&self) -> Change {
        match &self.what {
            Asked::Edit(content) => {
                let content = String::from_utf8(content.to_json()).expect("JSON is UTF-8");
                Change::Edit { target: 0, content }
            }
            Asked::Delete => Change::Delete { target: 0 },
            Asked::React { emoji, added } => Change::Reaction { target: 0, emoji: emoji.clone(), added: *added },
        }
    }
}

/// What a session wants sequenced: acked, queued or refused, in the order of its device.
#[derive(Clone, Debug)]
pub enum Submission {
    /// A new message.
    Message(SendPayload),
    /// A change of an earlier one.
    Change(ChangePayload),
}

impl Submission {
    /// The idempotency key.
    #[must_use]
    pub fn message_id(&self) -> MessageId {
        match self {
            Self::Message(send) => send.message_id,
            Self::Change(change) => change.message_id,
        }
    }

    /// Where to.
    #[must_use]
    pub fn conversation_id(&self) -> ConversationId {
        match self {
            Self::Message(send) => send.conversation_id,
            Self::Change(change) => change.conversation_id,
        }
    }
}

/// Checks the emoji of a reaction: a short text without spaces and control characters.
///
/// # Errors
/// `INVALID_MESSAGE` for another form, `TOO_LARGE` over the limit.
pub(super) fn check_emoji(emoji: &str) -> Result<(), Refusal> {
    if emoji.is_empty() || emoji.chars().any(|character| character.is_whitespace() || character.is_control()) {
        return Err(Refusal::invalid("emoji is a text without spaces and control characters"));
    }
    if emoji.len() > limits::EMOJI_BYTES {
        return Err(Refusal::too_large("the emoji is too long", format!("{} bytes of emoji", limits::EMOJI_BYTES)));
    }
    Ok(())
}
