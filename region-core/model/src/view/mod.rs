//! What the entries of a log add up to, and which commands it admits.

mod conversation;
mod expiry;
mod forgotten;
mod placements;
mod present;
mod privacy;
mod taking;
mod user;

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::entry::{ConversationKind, Forget, Settings};
use hearth_protocol::placement::PartitionMode;
use hearth_protocol::{Change, EntryKind, Header, Level, LogKind, Refusal, SealedEntry, Timestamp};
use serde::{Deserialize, Serialize};

pub use conversation::{ConversationState, Member, Members};
pub use expiry::is_expired;
pub use forgotten::{ErasedUser, Floor, Forgotten};
pub use placements::{PlacedAt, PlacementState};
pub use present::{Present, Target};
pub use privacy::PrivacyState;
pub use taking::Taking;
pub use user::{Membership, PushState, UserState};

use crate::command::Command;

/// Bounds that decisions keep to.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Members of a group.
    pub group_members: usize,
    /// Members of a channel.
    pub channel_members: usize,
    /// Entries that a new follower lacks at most, to be sent all of them in order: with more the stream begins at once
    /// and what is missing below it is pulled.
    pub follow_in_order: u64,
    /// New messages of a conversation a minute; 0: no limit.
    pub conversation_messages_per_minute: u32,
    /// Members above which a conversation is large: who joins within a second shares an entry.
    pub fanout_threshold: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            group_members: hearth_protocol::limits::GROUP_MEMBERS,
            channel_members: hearth_protocol::limits::CHANNEL_MEMBERS,
            follow_in_order: hearth_protocol::limits::FOLLOW_IN_ORDER,
            conversation_messages_per_minute: 0,
            fanout_threshold: hearth_protocol::limits::FANOUT_THRESHOLD,
        }
    }
}

/// The folded state of a log of any kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum View {
    /// Nothing yet.
    #[default]
    Empty,
    /// A conversation.
    Conversation(Arc<ConversationState>),
    /// A user record.
    User(Arc<UserState>),
    /// A placement log.
    Placements(PlacementState),
}

/// What the home does with a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Appends an entry with this content at this level, at least.
    Append {
        /// Content: as in the command, or what is left of it.
        content: Bytes,
        /// The least level.
        level: Level,
        /// Whether the entry stands without its content, which the chain knows by its digest: the new text of a message
        /// that was deleted meanwhile.
        bare: bool,
    },
    /// Everything that it asks for is so already; the position of that, when it has one of its own.
    AlreadySo,
    /// Refuses it.
    Refuse(Refusal),
}

impl Decision {
    fn change(change: &Change) -> Self {
        Self::Append { content: change.encode(), level: Level::Majority, bare: false }
    }

    fn refuse(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// Version byte of snapshots. Version 1 had placements of the first form; version 3 is version 2 with the partition mode
/// of a conversation behind it, and is written where there is one; version 4 has [`Behind`] there, and is written where
/// something is kept no longer, withheld, or to be woken for.
const SNAPSHOT_VERSION: u8 = 2;
const FIRST_SNAPSHOT_VERSION: u8 = 1;
const MODE_SNAPSHOT_VERSION: u8 = 3;
const BEHIND_SNAPSHOT_VERSION: u8 = 4;
/// The number of [`View::Placements`] in the stored form.
const PLACEMENTS: u8 = 3;

/// What stands behind the view in a snapshot of version 4.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Behind {
    mode: Option<PartitionMode>,
    forgotten: Forgotten,
    erased: bool,
    privacy: PrivacyState,
    push: PushState,
}

impl Behind {
    /// Whether versions before 4 do not hold it.
    fn needs_version_4(&self) -> bool {
        self.erased || !self.forgotten.is_empty() || !self.privacy.is_empty() || !self.push.is_empty()
    }
}

impl View {
    /// The stored form of a snapshot. It is a cache: the entries rebuild it.
    #[must_use]
    pub fn snapshot(&self) -> Bytes {
        const ENCODES: &str = "views hold nothing that postcard refuses";
        let behind = self.behind();
        let (version, mode) = match behind.mode {
            _ if behind.needs_version_4() => (BEHIND_SNAPSHOT_VERSION, None),
            Some(mode) => (MODE_SNAPSHOT_VERSION, Some(mode)),
            None => (SNAPSHOT_VERSION, None),
        };
        let mut encoded = postcard::to_extend(self, vec![version]).expect(ENCODES);
        if let Some(mode) = mode {
            encoded = postcard::to_extend(&mode, encoded).expect(ENCODES);
        }
        if version == BEHIND_SNAPSHOT_VERSION {
            encoded = postcard::to_extend(&behind, encoded).expect(ENCODES);
        }
        Bytes::from(encoded)
    }

    fn behind(&self) -> Behind {
        match self {
            View::Conversation(state) => {
                Behind { mode: state.partition_mode, forgotten: state.forgotten.clone(), ..Behind::default() }
            }
            View::User(state) => Behind {
                erased: state.erased,
                privacy: state.privacy.clone(),
                push: state.push.clone(),
                ..Behind::default()
            },
            View::Empty | View::Placements(_) => Behind::default(),
        }
    }

    fn set_behind(&mut self, behind: Behind) {
        match self {
            View::Conversation(state) => {
                let state = Arc::make_mut(state);
                (state.partition_mode, state.forgotten) = (behind.mode, behind.forgotten);
            }
            View::User(state) => {
                let state = Arc::make_mut(state);
                (state.erased, state.privacy, state.push) = (behind.erased, behind.privacy, behind.push);
            }
            View::Empty | View::Placements(_) => {}
        }
    }

    /// Reads [`View::snapshot`]; `None` for another version: the entries then rebuild it.
    #[must_use]
    pub fn from_snapshot(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first() {
            Some((&FIRST_SNAPSHOT_VERSION, [PLACEMENTS, rest @ ..])) => {
                PlacementState::from_first_version(rest).map(Self::Placements)
            }
            Some((&(SNAPSHOT_VERSION | FIRST_SNAPSHOT_VERSION), rest)) => postcard::from_bytes(rest).ok(),
            Some((&MODE_SNAPSHOT_VERSION, rest)) => {
                let (mut view, mode) = postcard::take_from_bytes::<Self>(rest).ok()?;
                if let Self::Conversation(state) = &mut view {
                    Arc::make_mut(state).partition_mode = Some(postcard::from_bytes(mode).ok()?);
                }
                Some(view)
            }
            Some((&BEHIND_SNAPSHOT_VERSION, rest)) => {
                let (mut view, behind) = postcard::take_from_bytes::<Self>(rest).ok()?;
                view.set_behind(postcard::from_bytes(behind).ok()?);
                Some(view)
            }
            _ => None,
        }
    }

    /// Adds one entry.
    pub fn fold(&mut self, sealed: &SealedEntry) {
        let fixed = &sealed.entry.fixed;
        if fixed.kind == EntryKind::Header {
            *self = match sealed.header() {
                Some(Header::Conversation { kind, name, settings, members }) => {
                    View::Conversation(Arc::new(ConversationState::created(kind, name, settings, members, fixed.time)))
                }
                Some(Header::User { user }) => View::User(Arc::new(UserState::created(user, fixed.time))),
                Some(Header::Placement) | None => View::Placements(PlacementState::default()),
            };
            return;
        }
        match self {
            View::Empty => {}
            View::Conversation(state) => Arc::make_mut(state).fold(sealed),
            View::User(state) => Arc::make_mut(state).fold(sealed),
            View::Placements(state) => state.fold(sealed),
        }
    }

    /// Decides a command. `now` is the time that its entry would get.
    #[must_use]
    pub fn decide(&self, command: &Command, now: Timestamp, bounds: &Bounds) -> Decision {
        match (self, command.log.kind, command.kind) {
            (View::Empty, _, EntryKind::Header) => decide_header(command, bounds),
            (View::Empty, LogKind::Conversation, _) => Decision::refuse(Refusal::no_conversation()),
            (View::Empty, LogKind::User | LogKind::Placement, _) => {
                Decision::refuse(Refusal::new(hearth_protocol::ErrorCode::NotFound, "no such record"))
            }
            (_, _, EntryKind::Header) => Decision::AlreadySo,
            (View::Conversation(state), LogKind::Conversation, _) => state.decide(command, now, bounds),
            (View::User(state), LogKind::User, EntryKind::User) => state.decide(command),
            (View::Placements(state), LogKind::Placement, EntryKind::Placement) => state.decide(command),
            _ => Decision::refuse(Refusal::invalid("this kind of entry does not belong in this kind of log")),
        }
    }

    /// Decides a command that changes an earlier message, which the home looked up. `now` is the time that its entry would
    /// get.
    #[must_use]
    pub fn decide_change(&self, command: &Command, target: Option<&Target>, now: Timestamp) -> Decision {
        match self {
            View::Conversation(state) if command.log.kind == LogKind::Conversation => {
                state.decide_change(command, target, now)
            }
            View::Empty | View::Conversation(_) | View::User(_) | View::Placements(_) => {
                Decision::refuse(Refusal::no_conversation())
            }
        }
    }

    /// What was forgotten of it, when it is a conversation.
    #[must_use]
    pub fn forgotten(&self) -> Option<&Forgotten> {
        match self {
            View::Conversation(state) => Some(&state.forgotten),
            View::Empty | View::User(_) | View::Placements(_) => None,
        }
    }

    /// Whether a command would raise the floor above what is marked.
    pub(crate) fn floor_above(command: &Command, marked: u64) -> bool {
        matches!(forgotten::forget_of(command), Some(Forget::Below { floor, .. }) if floor > marked)
    }

    /// Why what comes back with a tail is not taken: it was forgotten since.
    pub(crate) fn refuse_forgotten(&self, command: &Command) -> Option<Refusal> {
        self.forgotten()?.refuse(command)
    }

    /// The level that entries ask for when they name none.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            View::Conversation(state) => state.level,
            View::Empty | View::User(_) | View::Placements(_) => Level::Majority,
        }
    }

    /// How many things a snapshot of it holds, about.
    pub(crate) fn weight(&self) -> u64 {
        let things = match self {
            View::Empty => 0,
            View::Conversation(state) => state.members.len() + state.sent.len() + state.forgotten.users.len(),
            View::User(state) => {
                let push = state.push.preferences.len() + state.push.subscriptions.len();
                state.conversations.len() + state.resident.len() + state.privacy.blocks.len() + push
            }
            View::Placements(state) => state.placed.len(),
        };
        things as u64
    }

    /// The members, when it is a conversation.
    #[must_use]
    pub fn members(&self) -> Option<&Arc<Members>> {
        match self {
            View::Conversation(state) => Some(&state.members),
            View::Empty | View::User(_) | View::Placements(_) => None,
        }
    }
}

/// A header is refused only when it does not fit the kind of its log or is over a bound.
fn decide_header(command: &Command, bounds: &Bounds) -> Decision {
    let fits = match (Header::decode(&command.content), command.log.kind) {
        (Some(Header::Conversation { kind, members, .. }), LogKind::Conversation) => {
            let most = match kind {
                ConversationKind::Direct => 2,
                ConversationKind::Group => bounds.group_members,
                ConversationKind::Channel => bounds.channel_members,
            };
            if members.len() > most {
                return Decision::refuse(Refusal::too_large("too many members", format!("{most} members")));
            }
            true
        }
        (Some(Header::User { .. }), LogKind::User) | (Some(Header::Placement), LogKind::Placement) => true,
        _ => false,
    };
    if fits {
        Decision::Append { content: command.content.clone(), level: Level::Majority, bare: false }
    } else {
        Decision::refuse(Refusal::invalid("this header does not belong in this kind of log"))
    }
}

/// The settings that a new conversation has, where the request names none.
#[must_use]
pub fn default_settings(kind: ConversationKind) -> Settings {
    Settings {
        only_admins_can_post: kind == ConversationKind::Channel,
        allow_member_invites: kind != ConversationKind::Channel,
        history_for_new_members: hearth_protocol::entry::HistoryForNewMembers::All,
        retention_days: 30,
    }
}
