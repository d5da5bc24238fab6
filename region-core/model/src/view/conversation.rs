//! A conversation: who is in it, what it allows, how many messages it has.

use std::collections::BTreeSet;
use std::sync::Arc;

use hearth_protocol::entry::{ConversationKind, Forget, HistoryForNewMembers, MemberAction, Role, Settings};
use hearth_protocol::placement::PartitionMode;
use hearth_protocol::{Change, EntryKind, ErrorCode, Level, Refusal, SealedEntry, Timestamp, UserId, limits};
use serde::{Deserialize, Serialize};

use super::forgotten::{Forgotten, forget_of};
use super::{Bounds, Decision, Target, is_expired};
use crate::command::Command;
use crate::few::FewMap;

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
pub type Members = FewMap<UserId, Member>;

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
    pub sent: FewMap<UserId, u64>,
    /// What edges do while the home is out of reach, once it was changed; else the placement says it. Snapshots carry
    /// it behind everything else.
    #[serde(skip)]
    pub partition_mode: Option<PartitionMode>,
    /// What is kept no longer. Snapshots carry it behind everything else.
    #[serde(skip)]
    pub forgotten: Forgotten,
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
            sent: FewMap::new(),
            partition_mode: None,
            forgotten: Forgotten::default(),
        }
    }

    pub(super) fn fold(&mut self, sealed: &SealedEntry) {
        let fixed = &sealed.entry.fixed;
        self.forgotten.fold(sealed);
        match fixed.kind {
            EntryKind::Message => {
                self.messages += 1;
                *self.sent.get_or_default(&fixed.sender) += 1;
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
                Some(Change::Settings(change)) => change.apply(&mut self.settings),
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
        if let Some(forget) = forget_of(command) {
            return self.decide_forget(forget, command.original_time.is_some());
        }
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

    /// A region asks for it: for a user on an operator's word, for a floor since retention is over for what is below. A
    /// floor is of one line: it does not come back with a tail, whose numbers are others here.
    fn decide_forget(&self, forget: Forget, comes_back: bool) -> Decision {
        let is_new = match &forget {
            Forget::User(user) => self.sent.contains_key(user) && !self.forgotten.has_forgotten(user),
            Forget::Below { from, floor, .. } => {
                let known = self.forgotten.floor();
                !comes_back && *from == known && *floor > known
            }
        };
        if is_new { Decision::change(&Change::Forget(forget)) } else { Decision::AlreadySo }
    }

    fn decide_message(&self, command: &Command, actor: &Member, now: Timestamp) -> Decision {
        if self.settings.only_admins_can_post && actor.role != Role::Admin {
            return Decision::refuse(Refusal::new(ErrorCode::Forbidden, "only admins may write here"));
        }
        // Where its edge took the text away, at its time by the clock there, it is over by this one, too.
        if command.expires_at.is_some_and(|at| at <= now || command.content.is_empty()) {
            return Decision::refuse(Refusal::new(ErrorCode::Expired, "expiresAt is not in the future"));
        }
        if command.content.is_empty() {
            return Decision::refuse(Refusal::new(ErrorCode::Expired, "its sender was erased since"));
        }
        Decision::Append {
            content: command.content.clone(),
            level: command.level.unwrap_or(Level::Region).max(self.level),
            bare: false,
        }
    }

    /// A change that was sequenced before and comes back with a tail was admitted then: it takes its number, and has the
    /// effect that its time leaves it ([`super::Present::fold`]).
    pub(super) fn decide_change(&self, command: &Command, target: Option<&Target>, now: Timestamp) -> Decision {
        let comes_back = command.original_time.is_some();
        let actor = self.members.get(&command.sender);
        if actor.is_none() && !comes_back {
            return Decision::refuse(Refusal::no_conversation());
        }
        let sees = |target: &&Target| actor.is_none_or(|actor| target.entry.sequence().0 >= self.visible_from(actor));
        let Some(target) = target.filter(|target| comes_back || sees(target)) else {
            return Decision::refuse(Refusal::new(ErrorCode::NotFound, "no such message"));
        };
        let Some(change) = Change::decode(&command.content).filter(|change| fits(command.kind, change)) else {
            return Decision::refuse(Refusal::invalid("not a change of a message"));
        };
        if let Some(actor) = actor.filter(|_| !comes_back)
            && let Some(refusal) = self.refuse_change(&command.sender, actor, &change, (target, now))
        {
            return Decision::refuse(refusal);
        }
        Decision::Append {
            bare: command.kind == EntryKind::Edit && (self.is_gone(target) || is_expired(&target.entry, now)),
            content: change.of_message(target.entry.sequence().0).encode(),
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
                users = match self.joiners(sender, users, &BTreeSet::new(), bounds) {
                    Ok(joiners) if joiners.is_empty() => return Decision::AlreadySo,
                    Ok(joiners) => joiners,
                    Err(refusal) => return Decision::Refuse(refusal),
                };
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
            MemberAction::Role(_) if !admin => {
                return Decision::refuse(Refusal::new(ErrorCode::Forbidden, "only admins may change roles"));
            }
            MemberAction::Role(role) => {
                if users.iter().any(|user| !self.members.contains_key(user)) {
                    return Decision::refuse(Refusal::new(ErrorCode::NotFound, "not a member"));
                }
                users.retain(|user| self.members.get(user).is_some_and(|member| member.role != *role));
                if users.is_empty() {
                    return Decision::AlreadySo;
                }
            }
            MemberAction::Add(Role::Admin) => {
                return Decision::refuse(Refusal::invalid("members are added as members, and promoted then"));
            }
        }
        if self.loses_its_admins(action, &users) {
            let refusal = Refusal::new(ErrorCode::Forbidden, "the last admin makes another member an admin first");
            return Decision::refuse(refusal);
        }
        Decision::change(&Change::Members { action: action.clone(), users })
    }

    /// Those of `users` whom `adder` makes members, where `others` become members before.
    ///
    /// # Errors
    /// Why none of them is.
    pub(crate) fn joiners(
        &self,
        adder: &UserId,
        mut users: Vec<UserId>,
        others: &BTreeSet<UserId>,
        bounds: &Bounds,
    ) -> Result<Vec<UserId>, Refusal> {
        let actor = self.members.get(adder).ok_or_else(Refusal::no_conversation)?;
        if actor.role != Role::Admin && !self.settings.allow_member_invites {
            return Err(Refusal::new(ErrorCode::Forbidden, "only admins may add members here"));
        }
        users.sort();
        users.dedup();
        users.retain(|user| !self.members.contains_key(user) && !others.contains(user));
        let most = match self.kind {
            ConversationKind::Channel => bounds.channel_members,
            ConversationKind::Group | ConversationKind::Direct => bounds.group_members,
        };
        if !users.is_empty() && self.members.len() + others.len() + users.len() > most {
            return Err(Refusal::too_large("too many members", format!("{most} members")));
        }
        Ok(users)
    }

    /// Whether members would stay without an admin, who alone can change what they are.
    fn loses_its_admins(&self, action: &MemberAction, users: &[UserId]) -> bool {
        let stays = |user: &UserId| users.binary_search(user).is_err();
        let (leave, demoted) = match action {
            MemberAction::Remove | MemberAction::Leave => (true, false),
            MemberAction::Role(Role::Member) => (false, true),
            MemberAction::Add(_) | MemberAction::Role(Role::Admin) => (false, false),
        };
        if !leave && !demoted {
            return false;
        }
        let mut admins = self.members.iter().filter(|(_, member)| member.role == Role::Admin);
        let had = self.members.values().any(|member| member.role == Role::Admin);
        had && !admins.any(|(user, _)| stays(user)) && (demoted || self.members.keys().any(stays))
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
            Some(Change::Settings(_)) if self.kind == ConversationKind::Direct => {
                Decision::refuse(Refusal::invalid("a direct conversation has no settings"))
            }
            Some(Change::Settings(change)) => {
                let mut settings = self.settings.clone();
                change.apply(&mut settings);
                if settings == self.settings {
                    Decision::AlreadySo
                } else {
                    Decision::change(&Change::Settings(change))
                }
            }
            Some(change @ (Change::Name(_) | Change::Durability(_) | Change::PartitionMode(_))) => {
                Decision::change(&change)
            }
            _ => Decision::refuse(Refusal::invalid("not a change of name, settings, durability or partition mode")),
        }
    }
}

fn fits(kind: EntryKind, change: &Change) -> bool {
    matches!(
        (kind, change),
        (EntryKind::Edit, Change::Edit { .. })
            | (EntryKind::Delete, Change::Delete { .. })
            | (EntryKind::Reaction, Change::Reaction { .. })
    )
}

impl ConversationState {
    /// Whether the content of a message is gone for good.
    fn is_gone(&self, target: &Target) -> bool {
        target.present.is_deleted() || self.forgotten.hides(&target.entry)
    }

    /// Only the author edits; the author and admins delete; everybody who sees it reacts. A message that is deleted or
    /// expired stays as it is.
    fn refuse_change(
        &self,
        sender: &UserId,
        actor: &Member,
        change: &Change,
        (target, now): (&Target, Timestamp),
    ) -> Option<Refusal> {
        let author = target.entry.entry.fixed.sender == *sender;
        let present = &target.present;
        if self.is_gone(target) {
            return Some(Refusal::new(ErrorCode::NotFound, "the message is deleted"));
        }
        if is_expired(&target.entry, now) {
            return Some(Refusal::new(ErrorCode::NotFound, "the message has expired"));
        }
        let most = limits::CHANGES_OF_A_MESSAGE;
        let full = present.changes() >= most;
        match change {
            Change::Edit { .. } if !author => {
                Some(Refusal::new(ErrorCode::Forbidden, "only its author edits a message"))
            }
            Change::Delete { .. } if !author && actor.role != Role::Admin => {
                Some(Refusal::new(ErrorCode::Forbidden, "only its author and admins delete a message"))
            }
            Change::Reaction { emoji, added: false, .. } if present.has_reaction(sender, emoji) => None,
            Change::Edit { .. } | Change::Reaction { .. } if full => {
                let limit = format!("{most} edits and reactions a message");
                Some(Refusal::too_large("too many changes of one message", limit))
            }
            Change::Reaction { emoji, added: true, .. }
                if !present.has_emoji(emoji) && present.emoji() >= limits::EMOJI_OF_A_MESSAGE =>
            {
                let limit = format!("{} emoji a message", limits::EMOJI_OF_A_MESSAGE);
                Some(Refusal::too_large("too many different reactions to one message", limit))
            }
            _ => None,
        }
    }
}
