//! A conversation: who is in it, what it allows, how many messages it has.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_protocol::entry::{ConversationKind, HistoryForNewMembers, MemberAction, Role, Settings};
use hearth_protocol::placement::PartitionMode;
use hearth_protocol::{Change, EntryKind, ErrorCode, Level, Refusal, SealedEntry, Timestamp, UserId};
use serde::{Deserialize, Serialize};

use super::{Bounds, Decision};
use crate::command::Command;

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Admin or member.
    pub role: Role,
    /// The sequence of the entry that made it a member; 0 for the first members.
    pub since: u64,
    /// Messages of the conversation before that.
    pub messages_before: u64,
    /// Its own messages before that.
    pub sent_before: u64,
}

/// The members at one position. Shared by every entry that was decided under them.
pub type Members = BTreeMap<UserId, Member>;

/// The state of a conversation after some entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationState {
    /// Direct, group or channel.
    pub kind: ConversationKind,
    /// The name, of groups and channels.
    pub name: Option<String>,
    /// The settings.
    pub settings: Settings,
    /// The level that messages ask for when they name none.
    pub level: Level,
    /// When it was created.
    pub created_at: Timestamp,
    /// Who is in it.
    pub members: Arc<Members>,
    /// Entries of kind `message`.
    pub messages: u64,
    /// Of those, by sender.
    pub sent: BTreeMap<UserId, u64>,
    /// What edges do while the home is out of reach, once it was changed; else the placement says it. Snapshots carry
    /// it behind everything else.
    #[serde(skip)]
    pub partition_mode: Option<PartitionMode>,
}

impl ConversationState {
    pub(super) fn created(
        kind: ConversationKind,
        name: Option<String>,
        settings: Settings,
        members: Vec<(UserId, Role)>,
        created_at: Timestamp,
    ) -> Self {
        let member = |role| Member { role, since: 0, messages_before: 0, sent_before: 0 };
        Self {
            kind,
            name,
            settings,
            level: Level::Region,
            created_at,
            members: Arc::new(members.into_iter().map(|(user, role)| (user, member(role))).collect()),
            messages: 0,
            sent: BTreeMap::new(),
            partition_mode: None,
        }
    }

    pub(super) fn fold(&mut self, sealed: &SealedEntry) {
        let fixed = &sealed.entry.fixed;
        match fixed.kind {
            EntryKind::Message => {
                self.messages += 1;
                *self.sent.entry(fixed.sender.clone()).or_default() += 1;
            }
            EntryKind::Member => {
                if let Some(Change::Members { action, users }) = sealed.change() {
                    self.fold_members(&action, &users, fixed.position.sequence.0);
                }
            }
            EntryKind::System => match sealed.change() {
                Some(Change::Name(name)) => self.name = Some(name),
                Some(Change::Durability(level)) => self.level = level,
                Some(Change::PartitionMode(mode)) => self.partition_mode = Some(mode),
                _ => {}
            },
            EntryKind::Header
            | EntryKind::Edit
            | EntryKind::Delete
            | EntryKind::Reaction
            | EntryKind::User
            | EntryKind::Placement => {}
        }
    }

    fn fold_members(&mut self, action: &MemberAction, users: &[UserId], sequence: u64) {
        let members = Arc::make_mut(&mut self.members);
        for user in users {
            match action {
                MemberAction::Add(role) => {
                    let sent_before = self.sent.get(user).copied().unwrap_or(0);
                    let member = Member { role: *role, since: sequence, messages_before: self.messages, sent_before };
                    members.insert(user.clone(), member);
                }
                MemberAction::Remove | MemberAction::Leave => {
                    members.remove(user);
                }
                MemberAction::Role(role) => {
                    if let Some(member) = members.get_mut(user) {
                        member.role = *role;
                    }
                }
            }
        }
    }

    /// The lowest sequence that a member may see.
    #[must_use]
    pub fn visible_from(&self, member: &Member) -> u64 {
        match self.settings.history_for_new_members {
            HistoryForNewMembers::All => 1,
            HistoryForNewMembers::None => member.since.max(1),
        }
    }

    /// Messages of others that a member may see and, without receipts, has not read.
    #[must_use]
    pub fn unread(&self, user: &UserId, member: &Member) -> u64 {
        let (messages_before, sent_before) = match self.settings.history_for_new_members {
            HistoryForNewMembers::All => (0, 0),
            HistoryForNewMembers::None => (member.messages_before, member.sent_before),
        };
        let own = self.sent.get(user).copied().unwrap_or(0).saturating_sub(sent_before);
        (self.messages - messages_before).saturating_sub(own)
    }

    pub(super) fn decide(&self, command: &Command, now: Timestamp, bounds: &Bounds) -> Decision {
        let Some(actor) = self.members.get(&command.sender) else {
            return Decision::refuse(Refusal::no_conversation());
        };
        match command.kind {
            EntryKind::Message => self.decide_message(command, actor, now),
            EntryKind::Member => match Change::decode(&command.content) {
                Some(Change::Members { action, users }) => {
                    self.decide_members(&command.sender, actor, &action, users, bounds)
                }
                _ => Decision::refuse(Refusal::invalid("not a change of members")),
            },
            EntryKind::System => self.decide_system(command, actor),
            EntryKind::Header
            | EntryKind::Edit
            | EntryKind::Delete
            | EntryKind::Reaction
            | EntryKind::User
            | EntryKind::Placement => Decision::refuse(Refusal::invalid("this kind of entry is not served yet")),
        }
    }

    fn decide_message(&self, command: &Command, actor: &Member, now: Timestamp) -> Decision {
        if self.settings.only_admins_can_post && actor.role != Role::Admin {
            return Decision::refuse(Refusal::new(ErrorCode::Forbidden, "only admins may write here"));
        }
        if command.expires_at.is_some_and(|at| at <= now) {
            return Decision::refuse(Refusal::new(ErrorCode::Expired, "expiresAt is not in the future"));
        }
        Decision::Append {
            content: command.content.clone(),
            level: command.level.unwrap_or(Level::Region).max(self.level),
        }
    }

    fn decide_members(
        &self,
        sender: &UserId,
        actor: &Member,
        action: &MemberAction,
        mut users: Vec<UserId>,
        bounds: &Bounds,
    ) -> Decision {
        if self.kind == ConversationKind::Direct {
            return Decision::refuse(Refusal::new(ErrorCode::Forbidden, "a direct conversation keeps its two members"));
        }
        let admin = actor.role == Role::Admin;
        users.sort();
        users.dedup();
        match action {
            MemberAction::Add(Role::Member) => {
                if !admin && !self.settings.allow_member_invites {
                    return Decision::refuse(Refusal::new(ErrorCode::Forbidden, "only admins may add members here"));
                }
                users.retain(|user| !self.members.contains_key(user));
                if users.is_empty() {
                    return Decision::AlreadySo;
                }
                let most = match self.kind {
                    ConversationKind::Channel => bounds.channel_members,
                    ConversationKind::Group | ConversationKind::Direct => bounds.group_members,
                };
                if self.members.len() + users.len() > most {
                    return Decision::refuse(Refusal::too_large("too many members", format!("{most} members")));
                }
            }
            MemberAction::Remove if users.iter().any(|user| user != sender) && !admin => {
                return Decision::refuse(Refusal::new(ErrorCode::Forbidden, "only admins may remove others"));
            }
            MemberAction::Leave if users.iter().any(|user| user != sender) => {
                return Decision::refuse(Refusal::invalid("one leaves by oneself"));
            }
            MemberAction::Remove | MemberAction::Leave => {
                users.retain(|user| self.members.contains_key(user));
                if users.is_empty() {
                    return Decision::refuse(Refusal::new(ErrorCode::NotFound, "not a member"));
                }
            }
            MemberAction::Add(Role::Admin) | MemberAction::Role(_) => {
                return Decision::refuse(Refusal::invalid("changes of roles are not served yet"));
            }
        }
        Decision::change(&Change::Members { action: action.clone(), users })
    }

    fn decide_system(&self, command: &Command, actor: &Member) -> Decision {
        if self.kind != ConversationKind::Direct && actor.role != Role::Admin {
            return Decision::refuse(Refusal::new(ErrorCode::Forbidden, "only admins may change this"));
        }
        match Change::decode(&command.content) {
            Some(Change::Name(_)) if self.kind == ConversationKind::Direct => {
                Decision::refuse(Refusal::invalid("a direct conversation has no name"))
            }
            Some(Change::Name(name)) if self.name.as_ref() == Some(&name) => Decision::AlreadySo,
            Some(Change::Durability(level)) if self.level == level => Decision::AlreadySo,
            Some(Change::PartitionMode(mode)) if self.partition_mode == Some(mode) => Decision::AlreadySo,
            Some(change @ (Change::Name(_) | Change::Durability(_) | Change::PartitionMode(_))) => {
                Decision::change(&change)
            }
            _ => Decision::refuse(Refusal::invalid("not a change of name, durability or partition mode")),
        }
    }
}
