//! Entries of a log in, rows out. What they add up to is [`View`]'s business alone: this notes which rows entries touch,
//! and what their times are.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::entry::Role;
use hearth_protocol::push::PushPolicy;
use hearth_protocol::record::{LogRecord, Reached};
use hearth_protocol::{Change, ConversationId, EntryKind, Hash, LogId, SealedEntry, Timestamp, UserId};
use region_model::line::Line;
use region_model::receipts::MemberCursors;
use region_model::view::{ConversationState, UserState, View};

use crate::rows::{
    ConversationRow, CursorRow, LogRows, MemberRow, MembershipRow, Stand, SubscriptionRow, UserRow, What,
};

/// An entry does not go on from the one before it: the log changed while it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotNext;

/// The last entry that was taken.
#[derive(Clone, Copy, Debug)]
struct Last {
    sequence: u64,
    epoch: u64,
    hash: Hash,
    time: Timestamp,
}

/// Takes the entries of one log in their order.
#[derive(Clone, Debug)]
pub struct Projector {
    log: LogId,
    view: View,
    /// Entries below are in `view` already.
    folded: u64,
    /// What stands in the database; `None`: everything is to be written.
    before: Option<Stand>,
    last: Option<Last>,
    members: BTreeSet<UserId>,
    memberships: BTreeSet<ConversationId>,
    /// When entries that changed members were made.
    times: BTreeMap<u64, Timestamp>,
    created_by: Option<UserId>,
    last_message_at: Option<Timestamp>,
}

impl Projector {
    /// Projects a log anew. `view` is what the entries below `folded` add up to; [`View::Empty`] and 0 for all of them.
    #[must_use]
    pub fn anew(log: LogId, view: View, folded: u64) -> Self {
        Self {
            log,
            view,
            folded,
            before: None,
            last: None,
            members: BTreeSet::new(),
            memberships: BTreeSet::new(),
            times: BTreeMap::new(),
            created_by: None,
            last_message_at: None,
        }
    }

    /// Goes on from what stands in the database: only rows that entries from there on touch are written.
    #[must_use]
    pub fn after(log: LogId, before: Stand, view: View, folded: u64) -> Self {
        Self { before: Some(before), ..Self::anew(log, view, folded) }
    }

    /// The number of the first entry that it needs.
    #[must_use]
    pub fn first(&self) -> u64 {
        let known = self.before.as_ref().map_or(u64::MAX, |before| before.length.saturating_sub(1));
        // Above an open range the entry below the first is not there.
        self.folded.min(known)
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// [`NotNext`] when it does not name the one before it.
    pub fn take(&mut self, entry: &SealedEntry) -> Result<(), NotNext> {
        let (fixed, sequence) = (&entry.entry.fixed, entry.sequence().0);
        let follows = match &self.last {
            Some(last) => sequence == last.sequence + 1 && fixed.previous == last.hash,
            None => sequence == self.first(),
        };
        if !follows {
            return Err(NotNext);
        }
        self.last = Some(Last { sequence, epoch: entry.epoch().0, hash: entry.hash, time: fixed.time });
        if sequence >= self.folded {
            self.view.fold(entry);
        }
        if self.before.as_ref().is_none_or(|before| sequence >= before.length) {
            self.note(entry);
        }
        Ok(())
    }

    /// Whether an entry that was taken is the one up to which the log was projected: if not, it is on another line.
    #[must_use]
    pub fn is_same_line(&self, entry: &SealedEntry) -> bool {
        self.before.as_ref().is_none_or(|before| entry.sequence().0 + 1 != before.length || entry.hash == before.hash)
    }

    fn note(&mut self, entry: &SealedEntry) {
        let fixed = &entry.entry.fixed;
        match fixed.kind {
            EntryKind::Header => self.created_by = Some(fixed.sender.clone()),
            EntryKind::Message => self.last_message_at = Some(fixed.time),
            EntryKind::Member => {
                if let Some(Change::Members { users, .. }) = entry.change() {
                    self.times.insert(fixed.position.sequence.0, fixed.time);
                    // Anew all of them are written.
                    self.members.extend(users.into_iter().filter(|_| self.before.is_some()));
                }
            }
            EntryKind::User => {
                if let Some(Change::Joined { conversation, .. } | Change::Removed { conversation, .. }) = entry.change()
                {
                    self.memberships.insert(conversation);
                }
            }
            EntryKind::Edit | EntryKind::Delete | EntryKind::Reaction | EntryKind::System | EntryKind::Placement => {}
        }
    }

    /// What the entries taken so far add up to.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The rows; `None` when no entry was taken, or the log is none that is projected.
    #[must_use]
    pub fn finish(&self, record: &LogRecord, change: u64) -> Option<LogRows> {
        let last = self.last?;
        let what = match &self.view {
            View::Conversation(state) => self.conversation(state, record, last, change)?,
            View::User(state) => What::User(Box::new(user_row(state, last.time)), self.memberships_of(state)),
            View::Empty | View::Placements(_) => return None,
        };
        let after = Stand {
            length: last.sequence + 1,
            epoch: last.epoch,
            hash: last.hash,
            line: Line::of_record(record).epoch().0,
            change,
            cursors: self.before.as_ref().map_or(0, |before| before.cursors),
        };
        let (before, anew) = (self.before.clone(), self.before.is_none());
        Some(LogRows { log: self.log, before, after, anew, what, cursors: Vec::new() })
    }

    fn conversation(&self, state: &ConversationState, record: &LogRecord, last: Last, change: u64) -> Option<What> {
        let row = ConversationRow {
            id: self.log.as_conversation()?,
            kind: kind_of(state),
            name: state.name.clone(),
            created_by: self.created_by.clone(),
            created_at: state.created_at,
            updated_at: last.time,
            last_message_at: self.last_message_at,
            last_sequence: last.sequence,
            messages: state.messages,
            member_count: state.members.len() as u64,
            settings: serde_json::to_string(&state.settings).ok()?,
            durability: state.level.as_str(),
            partition_mode: state.partition_mode.map(|mode| mode.as_str()),
            floor: state.forgotten.floor(),
            home: record.home.clone(),
            change,
        };
        let member = |(user, member): (&UserId, &region_model::view::Member)| MemberRow {
            user: user.clone(),
            role: match member.role {
                Role::Admin => "admin",
                Role::Member => "member",
            },
            since: member.since,
            joined_at: match member.since {
                0 => Some(state.created_at),
                since => self.times.get(&since).copied(),
            },
        };
        if self.before.is_none() {
            let members = state.members.iter().map(member).collect();
            return Some(What::Conversation(Box::new(row), members, Vec::new()));
        }
        let present = self.members.iter().filter_map(|user| Some((user, state.members.get(user)?)));
        let gone = self.members.iter().filter(|user| !state.members.contains_key(*user)).cloned();
        Some(What::Conversation(Box::new(row), present.map(member).collect(), gone.collect()))
    }

    fn memberships_of(&self, state: &UserState) -> Vec<MembershipRow> {
        let is_wanted = |id: &ConversationId| self.before.is_none() || self.memberships.contains(id);
        let wanted = state.conversations.iter().filter(|(id, _)| is_wanted(id));
        wanted
            .map(|(id, membership)| MembershipRow {
                conversation: *id,
                joined: membership.joined,
                position: (membership.position.epoch.0, membership.position.sequence.0),
            })
            .collect()
    }
}

fn kind_of(state: &ConversationState) -> &'static str {
    use hearth_protocol::entry::ConversationKind;
    match state.kind {
        ConversationKind::Direct => "direct",
        ConversationKind::Group => "group",
        ConversationKind::Channel => "channel",
    }
}

fn user_row(state: &UserState, updated_at: Timestamp) -> UserRow {
    let policy = |policy| match policy {
        PushPolicy::All => "all",
        PushPolicy::Mentions => "mentions",
        PushPolicy::None => "none",
    };
    let preferences = state.push.preferences.iter();
    let subscriptions = state.push.subscriptions.values().map(|subscription| SubscriptionRow {
        id: subscription.id,
        device: subscription.device.0,
        service: subscription.target.service().label(),
        registered_at: subscription.registered_at,
    });
    UserRow {
        id: state.user.clone(),
        display_name: state.display_name.clone(),
        avatar_url: state.avatar_url.clone(),
        created_at: state.created_at,
        updated_at,
        last_active_at: state.resident.values().max().copied(),
        hides_last_seen: state.privacy.hides_last_seen,
        erased: state.erased,
        regions: state.resident.iter().map(|(region, at)| (region.clone(), *at)).collect(),
        preferences: preferences.map(|(id, wants)| (*id, policy(wants.policy), wants.muted_until)).collect(),
        subscriptions: subscriptions.collect(),
    }
}

/// How far a member is in the line of a log.
#[must_use]
pub fn cursor_row(record: &hearth_protocol::record::CursorRecord, change: u64, line: &Line) -> CursorRow {
    let cursors = MemberCursors::of(record.delivered.iter().copied(), record.read.iter().copied());
    let at = |reached: Option<Reached>| reached.map_or((0, None), |reached| (reached.up_to, Some(reached.at)));
    CursorRow {
        user: record.user.clone(),
        delivered: at(cursors.delivered.reached(line)),
        read: at(cursors.read.reached(line)),
        change,
    }
}

/// All rows of a log that is whole here: what a rebuild writes of it. Cursors are not in the log.
///
/// # Errors
/// [`NotNext`] when the entries are not those from the header on.
pub fn project<'a>(
    log: LogId,
    record: &LogRecord,
    change: u64,
    entries: impl IntoIterator<Item = &'a SealedEntry>,
) -> Result<Option<LogRows>, NotNext> {
    let mut projector = Projector::anew(log, View::Empty, 0);
    entries.into_iter().try_for_each(|entry| projector.take(entry))?;
    Ok(projector.finish(record, change))
}
