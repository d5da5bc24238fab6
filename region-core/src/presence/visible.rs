//! Who may see whom: users who share a conversation, and nobody else. Whoever may not is told the same as of a user who
//! never was, in the same time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use hearth_protocol::ids::direct_conversation;
use hearth_protocol::{ConversationId, LogId, UserId};
use region_model::presence::{Asked, SessionId};
use region_model::view::View;

use super::Said;
use crate::edge::Connection;
use crate::region::Region;

/// Conversations looked at at a time.
const LOOKUPS: usize = 32;
/// A first look waits so often for what is on its way here.
const FIRST_LOOKS: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// What was not here then is looked for again after this, so often, twice as long later each time.
const LATER_LOOKS: u32 = 5;
const LATER_PAUSE: Duration = Duration::from_secs(2);

/// Looks again at subscriptions of which something may have changed, one session after the other, until the region stops.
pub(super) async fn run(region: Arc<Region>) {
    loop {
        let next = region.presence.again.lock().pop_first();
        let Some((session, (user, users))) = next else {
            region.presence.look.notified().await;
            continue;
        };
        let seen = region.presence.touches.load(Ordering::SeqCst);
        let users: Vec<UserId> = users.into_iter().collect();
        let (visible, _) = region.whom_may_see(&user, &users).await;
        region.checked(session, users, visible, None, seen).await;
    }
}

impl Region {
    /// Looks at a new subscription, and again later where a conversation is still on its way here.
    pub(super) async fn check_first(
        self: Arc<Self>,
        connection: &Arc<Connection>,
        users: Vec<UserId>,
        asked: Option<Asked>,
    ) {
        let user = &connection.user;
        let seen = self.presence.touches.load(Ordering::SeqCst);
        let (mut visible, mut whole) = self.whom_may_see(user, &users).await;
        for _ in 0..FIRST_LOOKS {
            if whole || visible.len() == users.len() {
                break;
            }
            tokio::time::sleep(FIRST_PAUSE).await;
            (visible, whole) = self.whom_may_see(user, &users).await;
        }
        let rest: Vec<UserId> = users.iter().filter(|user| !visible.contains(*user)).cloned().collect();
        self.checked(connection.id, users, visible, asked, seen).await;
        if whole || rest.is_empty() {
            return;
        }
        let (region, connection) = (Arc::downgrade(&self), Arc::downgrade(connection));
        tokio::spawn(async move {
            let mut pause = LATER_PAUSE;
            for _ in 0..LATER_LOOKS {
                tokio::time::sleep(pause).await;
                pause *= 2;
                let (Some(region), Some(connection)) = (region.upgrade(), connection.upgrade()) else { return };
                region.presence.look_again(&connection, rest.iter().cloned());
            }
        });
    }

    async fn checked(
        &self,
        session: SessionId,
        users: Vec<UserId>,
        visible: BTreeSet<UserId>,
        asked: Option<Asked>,
        seen: u64,
    ) {
        // The task ends with the region, and nobody waits for an answer then.
        let _ = self.presence.said.send(Said::Checked { session, users, visible, asked, seen }).await;
    }

    /// Those of `others` whom a user shares a conversation with, as far as this region knows, and whether it knows all of
    /// the user's conversations.
    async fn whom_may_see(&self, user: &UserId, others: &[UserId]) -> (BTreeSet<UserId>, bool) {
        let mut visible: BTreeSet<UserId> = others.iter().filter(|other| *other == user).cloned().collect();
        let Ok(view) = self.view(LogId::user(user), false).await else { return (visible, false) };
        let View::User(state) = &view.view else { return (visible, false) };
        // Whoever blocks the user looks like somebody who was never there.
        let others: Vec<UserId> =
            others.iter().filter(|other| !state.privacy.blocked_by.contains(*other)).cloned().collect();
        let joined = |id: &ConversationId| state.conversations.get(id).is_some_and(|membership| membership.joined);
        visible.extend(others.iter().filter(|other| joined(&direct_conversation(user, other))).cloned());
        let mut whole = view.held && !view.behind;
        let mut left: Vec<&UserId> = others.iter().filter(|other| !visible.contains(*other)).collect();
        let conversations: Vec<ConversationId> = state.conversations.keys().filter(|id| joined(id)).copied().collect();
        for chunk in conversations.chunks(LOOKUPS) {
            if left.is_empty() {
                break;
            }
            let views = join_all(chunk.iter().map(|id| self.view(LogId::conversation(*id), false))).await;
            for view in views {
                let members = view.ok().filter(|view| view.held).and_then(|view| view.view.members().cloned());
                let Some(members) = members.filter(|members| members.contains_key(user)) else {
                    whole = false;
                    continue;
                };
                visible.extend(left.iter().filter(|other| members.contains_key(**other)).map(|other| (*other).clone()));
                left.retain(|other| !members.contains_key(*other));
            }
        }
        (visible, whole)
    }
}
