//! A user record: profile, conversations, resident regions.

use std::collections::BTreeMap;

use hearth_protocol::entry::Forget;
use hearth_protocol::{Change, ConversationId, Position, Refusal, RegionId, SealedEntry, Timestamp, UserId};
use serde::{Deserialize, Serialize};

use super::Decision;
use super::privacy::PrivacyState;
use crate::command::Command;

/// A connect that is not this much later than the last recorded one is not recorded: once an hour is enough for 30 days.
const RESIDENT_REFRESH_MILLISECONDS: u64 = 3_600_000;

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
    pub conversations: BTreeMap<ConversationId, Membership>,
    /// Where devices were connected, and the last connect recorded.
    pub resident: BTreeMap<RegionId, Timestamp>,
    /// Whether the profile was erased, and nothing was written there since. Snapshots carry it behind everything else.
    #[serde(skip)]
    pub erased: bool,
    /// What the user withholds from others. Snapshots carry it behind everything else.
    #[serde(skip)]
    pub privacy: PrivacyState,
}

impl UserState {
    pub(super) fn created(user: UserId, created_at: Timestamp) -> Self {
        Self {
            user,
            created_at,
            display_name: None,
            avatar_url: None,
            conversations: BTreeMap::new(),
            resident: BTreeMap::new(),
            erased: false,
            privacy: PrivacyState::default(),
        }
    }

    pub(super) fn fold(&mut self, sealed: &SealedEntry) {
        match sealed.change() {
            Some(Change::Joined { conversation, position }) => {
                self.conversations.insert(conversation, Membership { joined: true, position });
            }
            Some(Change::Removed { conversation, position }) => {
                self.conversations.insert(conversation, Membership { joined: false, position });
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
