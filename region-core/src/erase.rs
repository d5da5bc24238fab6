//! An operator has a user erased: an entry in the user's record, and one in each of its conversations, sequenced by their
//! homes like any other change. What follows from it every region does by itself ([`crate::sweep`]).

use hearth_protocol::entry::Forget;
use hearth_protocol::{Change, ConversationId, EntryKind, ErrorCode, LogId, Refusal, RegionId, UserId};
use region_model::view::View;
use uuid::Uuid;

use crate::region::Region;

/// What has to be erased of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserTraces {
    /// The conversations that it is or ever was in.
    pub conversations: Vec<ConversationId>,
    /// Whether its profile says nothing, and is erased already.
    pub profile_erased: bool,
}

/// Where a user's record is, or what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserFound {
    /// No region ever needed it.
    Nobody,
    /// It is not held here: its home is there.
    At(RegionId),
    /// It is here.
    Here(UserTraces),
}

impl Region {
    pub(crate) async fn traces_of(&self, user: &UserId) -> Result<UserFound, Refusal> {
        let view = self.view(LogId::user(user), true).await?;
        let Some(placement) = &view.placement else { return Ok(UserFound::Nobody) };
        if !view.held || view.behind {
            if placement.home == *self.me() {
                let refusal = Refusal::new(ErrorCode::HomeUnreachable, "the user's record is being opened here");
                return Err(refusal.with_retry_after(5));
            }
            return Ok(UserFound::At(placement.home.clone()));
        }
        let View::User(state) = &view.view else { return Ok(UserFound::Nobody) };
        Ok(UserFound::Here(UserTraces {
            conversations: state.conversations.keys().copied().collect(),
            profile_erased: state.erased,
        }))
    }

    /// Has what a user wrote so far forgotten in a conversation, or its profile where none is named. Returns whether there
    /// was something to forget.
    pub(crate) async fn erase(&self, user: &UserId, conversation: Option<ConversationId>) -> Result<bool, Refusal> {
        let (log, kind) = match conversation {
            Some(conversation) => (LogId::conversation(conversation), EntryKind::System),
            None => (LogId::user(user), EntryKind::User),
        };
        let change = Change::Forget(Forget::User(user.clone()));
        let ack = self.command(self.own_command(log, kind, Uuid::new_v4(), change.encode())).await?;
        Ok(!ack.duplicate)
    }
}
