//! What users withhold from others: blocks and when they were there last. A block stands in two records: in the blocker's,
//! which the regions where it has devices follow, and which hides what the other one sends; and in the other one's, where it
//! hides the blocker. The second follows the first: where it cannot be written, the call is refused and made again.

use std::sync::Arc;

use hearth_protocol::entry::{ConversationKind, Privacy};
use hearth_protocol::rest::ApiAnswer;
use hearth_protocol::{Change, EntryKind, LogId, Refusal, SealedEntry, Timestamp, UserId};
use region_model::view::{ConversationState, PrivacyState, View};

use crate::call::ApiCall;
use crate::region::Region;

/// Whether an entry is hidden from whoever blocks its sender since then.
pub(crate) fn is_withheld(entry: &SealedEntry, reader: &UserId, since: Option<Timestamp>) -> bool {
    let fixed = &entry.entry.fixed;
    since.is_some_and(|since| fixed.kind.is_sent() && fixed.sender != *reader && fixed.time >= since)
}

impl Region {
    /// A user blocks another one, or does so no longer; decided at the home of its record.
    pub(crate) async fn block(
        self: &Arc<Self>,
        user: &UserId,
        (other, blocked): (&UserId, bool),
        call: &ApiCall,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        if other == user {
            return Err(Refusal::invalid("one does not block oneself"));
        }
        let home = self.ensure_user(user).await?;
        if home != *self.me() {
            return self.to_home(&home, user, call, pass_on).await;
        }
        let block = Privacy::Block { user: other.clone(), blocked };
        self.change_user(user, &Change::Privacy(block)).await?;
        let other_side = Privacy::BlockedBy { user: user.clone(), blocked };
        self.change_user(other, &Change::Privacy(other_side)).await?;
        Ok(ApiAnswer::empty())
    }

    /// Since when a user blocks the other one of a direct conversation. Where its record is out of reach nothing is known of
    /// a block.
    pub(crate) async fn blocked_since(&self, user: &UserId, state: &ConversationState) -> Option<Timestamp> {
        if state.kind != ConversationKind::Direct {
            return None;
        }
        let other = state.members.keys().find(|member| *member != user)?;
        if self.hub.is_connected(user) {
            return self.hub.blocked_since(user, other);
        }
        let view = self.view(LogId::user(user), true).await.ok()?;
        match &view.view {
            View::User(state) if view.held => state.privacy.blocks.get(other).copied(),
            _ => {
                let call = ApiCall::BlockedSince { other: other.clone() };
                let answer = self.pass_on(&view, user, &call, true).await.ok()?;
                serde_json::from_slice(&answer.body).ok()?
            }
        }
    }

    /// What another region asks that answers a user whose record it does not have.
    pub(crate) async fn tell_blocked_since(&self, user: &UserId, other: &UserId) -> Result<ApiAnswer, Refusal> {
        let view = self.view(LogId::user(user), false).await?;
        let since: Option<Timestamp> = match &view.view {
            View::User(state) => state.privacy.blocks.get(other).copied(),
            View::Empty | View::Conversation(_) | View::Placements(_) => None,
        };
        Ok(ApiAnswer::json(200, &since))
    }

    /// What a user's record here says.
    pub(crate) async fn privacy_of(&self, user: &UserId) -> Option<PrivacyState> {
        self.privacy_in(LogId::user(user)).await.map(|(_, privacy)| privacy)
    }

    async fn privacy_in(&self, record: LogId) -> Option<(UserId, PrivacyState)> {
        let view = self.view(record, false).await.ok()?;
        match &view.view {
            View::User(state) => Some((state.user.clone(), state.privacy.clone())),
            View::Empty | View::Conversation(_) | View::Placements(_) => None,
        }
    }

    /// Sessions here keep to what a user withholds.
    pub(crate) fn keep_private(&self, user: &UserId, privacy: &PrivacyState) {
        self.presence.hides_last_seen(user, privacy.hides_last_seen);
        self.hub.set_privacy(user, privacy);
    }

    /// A record here has another word about what its user withholds.
    pub(crate) fn privacy_changed(self: &Arc<Self>, log: LogId, entry: &SealedEntry) {
        if entry.entry.fixed.kind != EntryKind::User || !matches!(entry.change(), Some(Change::Privacy(_))) {
            return;
        }
        let region = self.clone();
        tokio::spawn(async move {
            let mut kept = None;
            // Of two words close together the first may be kept last: whoever kept one looks again.
            while let Some((user, privacy)) = region.privacy_in(log).await {
                if kept.as_ref() == Some(&privacy) {
                    return;
                }
                region.keep_private(&user, &privacy);
                region.presence.touched(std::iter::once(user));
                kept = Some(privacy);
            }
        });
    }
}
