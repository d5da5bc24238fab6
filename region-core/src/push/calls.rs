//! What users say over REST about being woken: parts of their records.

use std::sync::Arc;

use hearth_protocol::push::{PatchPreferences, PreferencesRow, Subscription, SubscriptionRow, SubscriptionsResponse};
use hearth_protocol::rest::ApiAnswer;
use hearth_protocol::{Change, ConversationId, ErrorCode, LogId, Refusal, Timestamp, UserId};
use region_model::LogView;
use region_model::view::{PushState, View};
use uuid::Uuid;

use crate::call::ApiCall;
use crate::region::Region;

/// Until when a user wants to hear nothing of a conversation, by the user's record.
pub(crate) fn muted(record: &LogView, conversation: ConversationId) -> Option<Timestamp> {
    match &record.view {
        View::User(state) => state.push.preferences(conversation).muted_until,
        View::Empty | View::Conversation(_) | View::Placements(_) => None,
    }
}

fn push_of(record: &LogView) -> PushState {
    match &record.view {
        View::User(state) => state.push.clone(),
        View::Empty | View::Conversation(_) | View::Placements(_) => PushState::default(),
    }
}

impl Region {
    pub(crate) async fn set_preferences(
        self: &Arc<Self>,
        user: &UserId,
        id: ConversationId,
        patch: &PatchPreferences,
        call: &ApiCall,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        if pass_on {
            // Whoever passed it on looked before. Who is no member is told what everybody is told.
            self.row_of(user, id, true).await?;
        }
        let home = self.ensure_user(user).await?;
        if home != *self.me() {
            return self.to_home(&home, user, call, pass_on).await;
        }
        let change = Change::Preferred { conversation: id, muted_until: patch.muted_until, policy: patch.push };
        self.change_user(user, &change).await?;
        let preferences = push_of(&self.view(LogId::user(user), false).await?).preferences(id);
        let row =
            PreferencesRow { conversation_id: id, muted_until: preferences.muted_until, push: preferences.policy };
        Ok(ApiAnswer::json(200, &row))
    }

    pub(crate) async fn subscribe_push(
        self: &Arc<Self>,
        user: &UserId,
        subscription: &Subscription,
        call: &ApiCall,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        let door = &self.options.push.door;
        door.check(&subscription.target).map_err(Refusal::invalid)?;
        let home = self.ensure_user(user).await?;
        if home != *self.me() {
            return self.to_home(&home, user, call, pass_on).await;
        }
        let known = push_of(&self.view(LogId::user(user), false).await?).subscriptions.contains_key(&subscription.id);
        self.change_user(user, &Change::Subscribed(subscription.clone())).await?;
        let status = if known { 200 } else { 201 };
        Ok(ApiAnswer::json(status, &SubscriptionRow::from(subscription)))
    }

    pub(crate) async fn unsubscribe_push(
        self: &Arc<Self>,
        user: &UserId,
        id: Uuid,
        call: &ApiCall,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        let home = self.ensure_user(user).await?;
        if home != *self.me() {
            return self.to_home(&home, user, call, pass_on).await;
        }
        if !push_of(&self.view(LogId::user(user), false).await?).subscriptions.contains_key(&id) {
            return Err(Refusal::new(ErrorCode::NotFound, "no such push subscription of this user"));
        }
        let change = Change::Unsubscribed { id, registered_until: Timestamp(u64::MAX) };
        self.change_user(user, &change).await?;
        Ok(ApiAnswer::empty())
    }

    pub(crate) async fn push_subscriptions(
        self: &Arc<Self>,
        user: &UserId,
        call: &ApiCall,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        let view = self.view(LogId::user(user), true).await?;
        if view.placement.is_some() && !self.holds(&view) {
            return self.pass_on(&view, user, call, pass_on).await;
        }
        let subscriptions = push_of(&view).subscriptions.values().map(SubscriptionRow::from).collect();
        let application_server_key = self.options.push.door.application_server_key();
        Ok(ApiAnswer::json(200, &SubscriptionsResponse { subscriptions, application_server_key }))
    }

    /// A subscription that still holds, as the user's record has it here.
    pub(crate) async fn push_subscription(&self, user: &UserId, id: Uuid) -> Option<Subscription> {
        let view = self.view(LogId::user(user), false).await.ok()?;
        push_of(&view).subscriptions.remove(&id)
    }

    /// A service says that a subscription is dead.
    pub(crate) async fn push_gone(&self, user: &UserId, subscription: &Subscription) {
        let change = Change::Unsubscribed { id: subscription.id, registered_until: subscription.registered_at };
        // Where it is not recorded the next attempt says so again.
        if let Err(refusal) = self.change_user(user, &change).await {
            tracing::debug!(region = %self.me(), %refusal, "a dead push subscription is dropped later");
        }
    }
}
