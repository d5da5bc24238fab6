//! A user record: profile, conversations, resident regions.

use std::collections::BTreeMap;

use hearth_protocol::entry::Forget;
use hearth_protocol::push::{Preferences, PushPolicy, Subscription};
use hearth_protocol::{Change, ConversationId, Position, Refusal, RegionId, SealedEntry, Timestamp, UserId, limits};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Decision;
use super::privacy::PrivacyState;
use crate::command::Command;
use crate::few::FewMap;

/// A connect that is not this much later than the last recorded one is not recorded: once an hour is enough for 30 days.
const RESIDENT_REFRESH_MILLISECONDS: u64 = 3_600_000;
/// A subscription that is registered again unchanged within this time of the last one is not recorded.
const REGISTERED_REFRESH_MILLISECONDS: u64 = 600_000;

/// The last membership change of one conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// In or out.
    pub joined: bool,
    /// Where in the conversation.
    pub position: Position,
}

/// The state of a user record after some entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserState {
    /// Whose.
    pub user: UserId,
    /// When the first region needed it.
    pub created_at: Timestamp,
    /// For people.
    pub display_name: Option<String>,
    /// A URL.
    pub avatar_url: Option<String>,
    /// By conversation, removals too.
    pub conversations: FewMap<ConversationId, Membership>,
    /// Where devices were connected, and the last connect recorded.
    pub resident: FewMap<RegionId, Timestamp>,
    /// Whether the profile was erased, and nothing was written there since. Snapshots carry it behind everything else.
    #[serde(skip)]
    pub erased: bool,
    /// What the user withholds from others. Snapshots carry it behind everything else.
    #[serde(skip)]
    pub privacy: PrivacyState,
    /// What stands behind the rest in snapshots.
    #[serde(skip)]
    pub push: PushState,
}

/// What a user wants to be woken for, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushState {
    /// By conversation, those that are not the default.
    pub preferences: BTreeMap<ConversationId, Preferences>,
    /// By id, at most [`limits::PUSH_SUBSCRIPTIONS`].
    pub subscriptions: BTreeMap<Uuid, Subscription>,
}

impl PushState {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.preferences.is_empty() && self.subscriptions.is_empty()
    }

    /// What the user wants of a conversation.
    #[must_use]
    pub fn preferences(&self, conversation: ConversationId) -> Preferences {
        self.preferences.get(&conversation).copied().unwrap_or_default()
    }

    /// The preferences after a change.
    fn preferred(
        &self,
        conversation: ConversationId,
        muted_until: Option<Option<Timestamp>>,
        policy: Option<PushPolicy>,
    ) -> Preferences {
        let known = self.preferences(conversation);
        Preferences { policy: policy.unwrap_or(known.policy), muted_until: muted_until.unwrap_or(known.muted_until) }
    }

    /// The subscription that a new one takes the place of, under another id.
    fn replaced(&self, by: &Subscription) -> Option<Uuid> {
        let same = |known: &&Subscription| {
            known.device == by.device && known.target.service() == by.target.service() && known.id != by.id
        };
        self.subscriptions.values().find(same).map(|known| known.id)
    }

    fn decide_subscribed(&self, subscription: &Subscription) -> Option<Refusal> {
        let room = self.subscriptions.contains_key(&subscription.id)
            || self.replaced(subscription).is_some()
            || self.subscriptions.len() < limits::PUSH_SUBSCRIPTIONS;
        let limit = || format!("{} subscriptions a user", limits::PUSH_SUBSCRIPTIONS);
        (!room).then(|| Refusal::too_large("too many push subscriptions: delete one of a device that is gone", limit()))
    }

    /// Whether a subscription stands as it is, and was registered not much earlier.
    fn is_subscribed(&self, subscription: &Subscription) -> bool {
        self.subscriptions.get(&subscription.id).is_some_and(|known| {
            let fresh = known.registered_at.0.saturating_add(REGISTERED_REFRESH_MILLISECONDS);
            known.device == subscription.device
                && known.target == subscription.target
                && subscription.registered_at.0 < fresh
        })
    }

    fn fold(&mut self, change: Change) {
        match change {
            Change::Subscribed(subscription) => {
                if let Some(replaced) = self.replaced(&subscription) {
                    self.subscriptions.remove(&replaced);
                }
                self.subscriptions.insert(subscription.id, subscription);
            }
            Change::Unsubscribed { id, registered_until } if self.ends(id, registered_until) => {
                self.subscriptions.remove(&id);
            }
            Change::Preferred { conversation, muted_until, policy } => {
                let preferences = self.preferred(conversation, muted_until, policy);
                if preferences == Preferences::default() {
                    self.preferences.remove(&conversation);
                } else {
                    self.preferences.insert(conversation, preferences);
                }
            }
            _ => {}
        }
    }

    /// Whether the end of a subscription finds it, and not registered again since.
    fn ends(&self, id: Uuid, registered_until: Timestamp) -> bool {
        self.subscriptions.get(&id).is_some_and(|known| known.registered_at <= registered_until)
    }
}

impl UserState {
    /// The record of a user of whom nothing is known.
    #[must_use]
    pub fn created(user: UserId, created_at: Timestamp) -> Self {
        Self {
            user,
            created_at,
            display_name: None,
            avatar_url: None,
            conversations: FewMap::new(),
            resident: FewMap::new(),
            erased: false,
            privacy: PrivacyState::default(),
            push: PushState::default(),
        }
    }

    pub(super) fn fold(&mut self, sealed: &SealedEntry) {
        match sealed.change() {
            Some(Change::Joined { conversation, position }) => {
                self.conversations.insert(conversation, Membership { joined: true, position });
            }
            Some(Change::Removed { conversation, position }) => {
                self.conversations.insert(conversation, Membership { joined: false, position });
                self.push.preferences.remove(&conversation);
            }
            Some(Change::Resident { region, at }) => {
                self.resident.insert(region, at);
            }
            Some(Change::Left { region, .. }) => {
                self.resident.remove(&region);
            }
            Some(Change::Privacy(privacy)) => self.privacy.fold(privacy, sealed.entry.fixed.time),
            Some(Change::Forget(Forget::User(_))) => {
                (self.display_name, self.avatar_url, self.erased) = (None, None, true);
                self.push = PushState::default();
            }
            Some(Change::Profile { display_name, avatar_url }) => {
                self.erased = false;
                if let Some(display_name) = display_name {
                    self.display_name = display_name;
                }
                if let Some(avatar_url) = avatar_url {
                    self.avatar_url = avatar_url;
                }
            }
            Some(change @ (Change::Subscribed(_) | Change::Unsubscribed { .. } | Change::Preferred { .. })) => {
                self.push.fold(change);
            }
            Some(
                Change::Members { .. }
                | Change::Name(_)
                | Change::Durability(_)
                | Change::PartitionMode(_)
                | Change::Edit { .. }
                | Change::Delete { .. }
                | Change::Reaction { .. }
                | Change::Settings(_)
                | Change::Forget(Forget::Below { .. })
                | Change::Place { .. },
            )
            | None => {}
        }
    }

    pub(super) fn decide(&self, command: &Command) -> Decision {
        let Some(change) = Change::decode(&command.content) else {
            return Decision::refuse(Refusal::invalid("not a change"));
        };
        let already = match &change {
            Change::Joined { conversation, position } | Change::Removed { conversation, position } => {
                self.conversations.get(conversation).is_some_and(|known| known.position >= *position)
            }
            Change::Resident { region, at } => self
                .resident
                .get(region)
                .is_some_and(|known| at.0 < known.0.saturating_add(RESIDENT_REFRESH_MILLISECONDS)),
            Change::Left { region, last_connect } => self.resident.get(region).is_none_or(|known| known > last_connect),
            Change::Profile { display_name, avatar_url } => {
                display_name.as_ref().is_none_or(|name| *name == self.display_name)
                    && avatar_url.as_ref().is_none_or(|url| *url == self.avatar_url)
            }
            Change::Forget(Forget::User(user)) => *user != self.user || self.erased,
            Change::Privacy(privacy) => {
                let is_so = self.privacy.is_so(privacy);
                if let Some(refusal) = self.privacy.refuse(privacy).filter(|_| !is_so) {
                    return Decision::refuse(refusal);
                }
                is_so
            }
            Change::Subscribed(subscription) => {
                if let Some(refusal) = self.push.decide_subscribed(subscription) {
                    return Decision::refuse(refusal);
                }
                self.push.is_subscribed(subscription)
            }
            Change::Unsubscribed { id, registered_until } => !self.push.ends(*id, *registered_until),
            Change::Preferred { conversation, muted_until, policy } => {
                let after = self.push.preferred(*conversation, *muted_until, *policy);
                let known = self.push.preferences.get(conversation);
                if known.is_none()
                    && after != Preferences::default()
                    && self.push.preferences.len() >= limits::PUSH_PREFERENCES
                {
                    let limit = format!("{} conversations with preferences", limits::PUSH_PREFERENCES);
                    return Decision::refuse(Refusal::too_large("too many preferences", limit));
                }
                known.copied().unwrap_or_default() == after
            }
            Change::Members { .. }
            | Change::Name(_)
            | Change::Durability(_)
            | Change::PartitionMode(_)
            | Change::Edit { .. }
            | Change::Delete { .. }
            | Change::Reaction { .. }
            | Change::Settings(_)
            | Change::Forget(Forget::Below { .. })
            | Change::Place { .. } => {
                return Decision::refuse(Refusal::invalid("not a change of a user record"));
            }
        };
        if already { Decision::AlreadySo } else { Decision::change(&change) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use hearth_protocol::push::Target;
    use hearth_protocol::{DeviceId, EntryKind, ErrorCode, LogId};

    use super::super::View;
    use super::*;

    fn bob() -> UserId {
        UserId::new("bob").unwrap()
    }

    fn command(change: &Change) -> Command {
        Command {
            log: LogId::user(&bob()),
            kind: EntryKind::User,
            sender: bob(),
            id: Uuid::nil(),
            content: change.encode(),
            reply_to: None,
            target: None,
            expires_at: None,
            level: None,
            origin: RegionId::new("eu-west").unwrap(),
            original_time: None,
            joined: None,
        }
    }

    fn subscription(device: u128, token: &str, at: u64) -> Subscription {
        let target = Target::Fcm { registration: token.to_owned() };
        Subscription::new(&bob(), DeviceId(Uuid::from_u128(device)), target, Timestamp(at))
    }

    /// Decides a change and, where it is one, makes it.
    fn decide(state: &mut UserState, change: Change) -> Decision {
        let decision = state.decide(&command(&change));
        if matches!(decision, Decision::Append { .. }) {
            state.push.fold(change);
        }
        decision
    }

    fn appended(decision: &Decision) -> bool {
        matches!(decision, Decision::Append { .. })
    }

    #[test]
    fn a_device_has_one_subscription_a_service_which_is_recorded_again_now_and_then_and_so_many_are_taken() {
        let mut bob = UserState::created(bob(), Timestamp(0));
        let first = subscription(1, "one", 1_000);
        assert!(appended(&decide(&mut bob, Change::Subscribed(first.clone()))));
        let again = subscription(1, "one", 2_000);
        assert_eq!(decide(&mut bob, Change::Subscribed(again)), Decision::AlreadySo);
        let later = subscription(1, "one", 1_000 + REGISTERED_REFRESH_MILLISECONDS);
        assert!(appended(&decide(&mut bob, Change::Subscribed(later))));
        let dead = Change::Unsubscribed { id: first.id, registered_until: first.registered_at };
        assert_eq!(decide(&mut bob, dead), Decision::AlreadySo, "it was registered again since");
        let other = subscription(1, "two", 1_000);
        assert!(appended(&decide(&mut bob, Change::Subscribed(other.clone()))));
        assert_eq!(bob.push.subscriptions.keys().collect::<Vec<_>>(), [&other.id], "it takes the place of the first");
        for device in 2..=limits::PUSH_SUBSCRIPTIONS as u128 {
            let one_more = subscription(device, &device.to_string(), 1_000);
            assert!(appended(&decide(&mut bob, Change::Subscribed(one_more))));
        }
        let full = decide(&mut bob, Change::Subscribed(subscription(99, "too many", 1_000)));
        assert!(matches!(full, Decision::Refuse(refusal) if refusal.error == ErrorCode::TooLarge));
        assert!(appended(&decide(&mut bob, Change::Subscribed(subscription(1, "three", 1_000)))), "in place of one");
        let id = subscription(1, "three", 0).id;
        let over = Change::Unsubscribed { id, registered_until: Timestamp(u64::MAX) };
        assert!(appended(&decide(&mut bob, over.clone())));
        assert_eq!(decide(&mut bob, over), Decision::AlreadySo);
    }

    #[test]
    fn preferences_change_field_by_field_and_what_is_the_default_is_not_kept() {
        let mut bob = UserState::created(bob(), Timestamp(0));
        let conversation = ConversationId(Uuid::from_u128(7));
        let prefers = |muted_until, policy| Change::Preferred { conversation, muted_until, policy };
        assert!(appended(&decide(&mut bob, prefers(None, Some(PushPolicy::Mentions)))));
        assert!(appended(&decide(&mut bob, prefers(Some(Some(Timestamp(9))), None))));
        let both = Preferences { policy: PushPolicy::Mentions, muted_until: Some(Timestamp(9)) };
        assert_eq!(bob.push.preferences(conversation), both);
        assert_eq!(decide(&mut bob, prefers(None, None)), Decision::AlreadySo);
        assert!(appended(&decide(&mut bob, prefers(Some(None), Some(PushPolicy::All)))));
        assert!(bob.push.is_empty());
    }

    #[test]
    fn a_snapshot_has_what_a_user_wants_to_be_woken_for_and_is_as_before_where_that_is_nothing() {
        let mut bob = UserState::created(bob(), Timestamp(5));
        let plain = View::User(Arc::new(bob.clone()));
        assert_eq!((plain.snapshot()[0], View::from_snapshot(&plain.snapshot())), (2, Some(plain)));
        decide(&mut bob, Change::Subscribed(subscription(1, "one", 1_000)));
        let woken = View::User(Arc::new(bob));
        let snapshot: Bytes = woken.snapshot();
        assert_eq!((snapshot[0], View::from_snapshot(&snapshot)), (4, Some(woken)));
        assert_eq!(View::from_snapshot(&snapshot[..snapshot.len() - 1]), None, "the entries rebuild it");
    }
}
