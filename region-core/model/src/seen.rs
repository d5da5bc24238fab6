//! What of a conversation one member may see.

use std::sync::Arc;

use hearth_protocol::{Refusal, UserId};

use crate::effect::LogView;
use crate::view::{ConversationState, Member, View};

/// A conversation as one member may see it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The conversation.
    pub state: &'a Arc<ConversationState>,
    /// Who looks.
    pub member: &'a Member,
    /// The lowest number that it may see.
    pub from: u64,
    /// Exclusive end of what it may see.
    pub to: u64,
}

/// Checks that a user may see a conversation that a region holds.
///
/// # Errors
/// `CONVERSATION_NOT_FOUND` for who is no member.
pub fn seen<'a>(view: &'a LogView, user: &UserId) -> Result<Seen<'a>, Refusal> {
    let View::Conversation(state) = &view.view else { return Err(Refusal::no_conversation()) };
    let member = state.members.get(user).ok_or_else(Refusal::no_conversation)?;
    let from = state.visible_from(member).max(view.floor);
    Ok(Seen { state, member, from, to: view.shown().max(1) })
}
