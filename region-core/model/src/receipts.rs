//! Receipts: how far each member of a conversation is, delivered and read, as cursors that only grow (design.md G10).
//!
//! ```text
//!   message.received ─► Claims ─► claim: cut to what this region may show ─► a member's cursors
//!   other regions ─────────────► merge: a maximum                        ─►   │
//!                                      stored · sent on · told to sessions ◄──┘
//! ```
//! A region takes what its own clients say up to the mark that it holds, and what other regions say as it is: they took
//! it under the same rule. Nothing here is in the log; losing the newest does no harm, since merging is a maximum.

mod claims;
mod cursor;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::record::{CursorRecord, Reached};
use hearth_protocol::{LogId, Timestamp, UserId};

pub use claims::{Claim, Claims};
pub use cursor::{Cursor, Said};

use crate::line::Line;
use crate::view::Members;

/// How often cursors of a large conversation go to other regions, and its summaries to sessions, in milliseconds.
pub const LARGE_EVERY: u64 = 1_000;

/// How far one member is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberCursors {
    /// What its devices have.
    pub delivered: Cursor,
    /// What it has read; never beyond `delivered`.
    pub read: Cursor,
}

impl MemberCursors {
    /// From what a store or a peer has.
    #[must_use]
    pub fn of(delivered: impl IntoIterator<Item = Reached>, read: impl IntoIterator<Item = Reached>) -> Self {
        Self { delivered: Cursor::of(delivered), read: Cursor::of(read) }
    }

    fn merge(&mut self, other: &Self) -> bool {
        let delivered = self.delivered.merge(&other.delivered);
        self.read.merge(&other.read) | delivered
    }

    fn settle(&mut self, line: &Line) {
        self.delivered.settle(line);
        self.read.settle(line);
    }

    /// Whether `other` has nothing that this has not.
    fn covers(&self, other: &Self) -> bool {
        !self.clone().merge(other)
    }
}

/// A cursor that grew: numbers above `from`, up to `reached`, are new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Where it stood.
    pub from: u64,
    /// Where it stands.
    pub reached: Reached,
}

/// A member whose cursors changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The member.
    pub user: UserId,
    /// What its devices have.
    pub delivered: Option<Moved>,
    /// What it has read.
    pub read: Option<Moved>,
}

/// What a region knows of the conversation that receipts are about.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Its line.
    pub line: &'a Line,
    /// The last number that may be shown here.
    pub last: u64,
    /// Who is in it.
    pub members: &'a Members,
}

#[derive(Debug, Default)]
struct Kept {
    cursors: MemberCursors,
    /// The number of the store's change in which what it has read grew last; 0 for unknown.
    change: u64,
}

#[derive(Debug, Default)]
struct Conversation {
    members: BTreeMap<UserId, Kept>,
    /// Members whose cursors other regions shall have.
    outgoing: BTreeSet<UserId>,
    /// Not before this are they sent, in milliseconds.
    send_at: u64,
    /// Whether members grew since the last summary.
    summary: bool,
    /// The next summary is not made before this, in milliseconds.
    summary_at: u64,
    used_at: u64,
}

/// The cursors of the conversations that are in memory.
#[derive(Debug, Default)]
pub struct ReceiptBook {
    logs: BTreeMap<LogId, Conversation>,
    members: usize,
}

impl ReceiptBook {
    /// Members in memory, over all conversations.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members
    }

    /// Whether a conversation's cursors are in memory. If not, what the store has is to be loaded before anything else.
    #[must_use]
    pub fn is_loaded(&self, log: LogId) -> bool {
        self.logs.contains_key(&log)
    }

    /// Takes what the store has. What was taken meanwhile stays: it is a maximum.
    pub fn load(&mut self, log: LogId, rows: Vec<(CursorRecord, u64)>, now: u64) {
        let conversation = self.logs.entry(log).or_default();
        conversation.used_at = now;
        for (record, change) in rows {
            let kept = conversation.members.entry(record.user).or_insert_with(|| {
                self.members += 1;
                Kept::default()
            });
            kept.cursors.merge(&MemberCursors::of(record.delivered, record.read));
            kept.change = kept.change.max(change);
        }
    }

    /// Forgets a conversation: this region drops its copy.
    pub fn forget(&mut self, log: LogId) {
        if let Some(conversation) = self.logs.remove(&log) {
            self.members -= conversation.members.len();
        }
    }

    /// Makes room: conversations that were not used for the longest leave memory until at most `most` members are in it.
    /// Everything in memory is in the store; what still has to be sent stays.
    pub fn make_room(&mut self, most: usize) {
        if self.members <= most {
            return;
        }
        let idle = |(log, conversation): (&LogId, &Conversation)| (conversation.used_at, *log);
        let mut by_use: Vec<(u64, LogId)> =
            self.logs.iter().filter(|(_, kept)| kept.outgoing.is_empty() && !kept.summary).map(idle).collect();
        by_use.sort_unstable();
        for (_, log) in by_use {
            if self.members <= most {
                break;
            }
            self.forget(log);
        }
    }

    /// Takes what a member's own client says, cut to what this region may show. `None` when it is not news. Who is no
    /// member has no cursor.
    pub fn claim<W>(
        &mut self,
        log: LogId,
        claim: &Claim<W>,
        facts: &Facts<'_>,
        wall: Timestamp,
        now: u64,
    ) -> Option<Change> {
        if !facts.members.contains_key(&claim.user) {
            return None;
        }
        let cursor = |said: &Said| {
            let up_to = facts.line.counts(said).min(facts.last);
            Cursor::of([Reached { epoch: facts.line.epoch(), up_to, at: wall }])
        };
        let read = claim.read.as_ref().map(cursor).unwrap_or_default();
        let mut delivered = cursor(&claim.delivered);
        delivered.merge(&read);
        self.take(log, &claim.user, &MemberCursors { delivered, read }, facts.line, now)
    }

    /// Takes what another region has of a member.
    pub fn merge(
        &mut self,
        log: LogId,
        user: &UserId,
        theirs: &MemberCursors,
        line: &Line,
        now: u64,
    ) -> Option<Change> {
        self.take(log, user, theirs, line, now)
    }

    fn take(&mut self, log: LogId, user: &UserId, more: &MemberCursors, line: &Line, now: u64) -> Option<Change> {
        let conversation = self.logs.entry(log).or_default();
        conversation.used_at = now;
        if !conversation.members.contains_key(user) {
            self.members += 1;
            conversation.members.insert(user.clone(), Kept::default());
        }
        let kept = conversation.members.get_mut(user)?;
        let before = (kept.cursors.delivered.reached(line), kept.cursors.read.reached(line));
        if !kept.cursors.merge(more) {
            return None;
        }
        kept.cursors.settle(line);
        conversation.outgoing.insert(user.clone());
        let delivered = moved(before.0, kept.cursors.delivered.reached(line));
        let read = moved(before.1, kept.cursors.read.reached(line));
        conversation.summary |= delivered.is_some() || read.is_some();
        Some(Change { user: user.clone(), delivered, read })
    }

    /// What the store is to keep of a member, and other regions are to have.
    #[must_use]
    pub fn record(&self, log: LogId, user: &UserId) -> Option<CursorRecord> {
        let cursors = &self.logs.get(&log)?.members.get(user)?.cursors;
        let (delivered, read) = (cursors.delivered.parts().to_vec(), cursors.read.parts().to_vec());
        Some(CursorRecord { log, user: user.clone(), delivered, read })
    }

    /// The store has what a member read in the change of that number.
    pub fn stored(&mut self, log: LogId, user: &UserId, change: u64) {
        if let Some(kept) = self.logs.get_mut(&log).and_then(|conversation| conversation.members.get_mut(user)) {
            kept.change = kept.change.max(change);
        }
    }

    /// Members whose cursors are to be sent on now. Of a large conversation they go once in [`LARGE_EVERY`].
    pub fn take_outgoing(&mut self, log: LogId, large: bool, now: u64) -> Vec<UserId> {
        let Some(conversation) = self.logs.get_mut(&log) else { return Vec::new() };
        if conversation.outgoing.is_empty() || (large && now < conversation.send_at) {
            return Vec::new();
        }
        conversation.send_at = now + LARGE_EVERY;
        std::mem::take(&mut conversation.outgoing).into_iter().collect()
    }

    /// Conversations that have something to send on, or to sum up for their sessions, now or soon.
    #[must_use]
    pub fn unfinished(&self) -> Vec<LogId> {
        let due = self.logs.iter().filter(|(_, kept)| !kept.outgoing.is_empty() || kept.summary);
        due.map(|(log, _)| *log).collect()
    }

    /// Whether a summary is due: something grew, and the last one is [`LARGE_EVERY`] ago. It counts as made.
    pub fn take_summary(&mut self, log: LogId, now: u64) -> bool {
        let Some(conversation) = self.logs.get_mut(&log) else { return false };
        let due = conversation.summary && now >= conversation.summary_at;
        if due {
            (conversation.summary, conversation.summary_at) = (false, now + LARGE_EVERY);
        }
        due
    }

    /// A small conversation has no summaries.
    pub fn no_summary(&mut self, log: LogId) {
        if let Some(conversation) = self.logs.get_mut(&log) {
            conversation.summary = false;
        }
    }

    /// How many members but `except` have a number: their devices, and they themselves.
    #[must_use]
    pub fn count(&self, log: LogId, number: u64, facts: &Facts<'_>, except: &UserId) -> (u64, u64) {
        let Some(conversation) = self.logs.get(&log) else { return (0, 0) };
        let of_members =
            conversation.members.iter().filter(|(user, _)| *user != except && facts.members.contains_key(*user));
        let has = |cursor: &Cursor| cursor.reached(facts.line).is_some_and(|reached| reached.up_to >= number);
        of_members.fold((0, 0), |(delivered, read), (_, kept)| {
            let cursors = &kept.cursors;
            (delivered + u64::from(has(&cursors.delivered)), read + u64::from(has(&cursors.read)))
        })
    }

    /// How far a member has read, and the number of the store's change in which that grew last.
    #[must_use]
    pub fn read(&self, log: LogId, user: &UserId, line: &Line) -> (u64, u64) {
        let kept = self.logs.get(&log).and_then(|conversation| conversation.members.get(user));
        kept.map_or((0, 0), |kept| (kept.cursors.read.reached(line).map_or(0, |reached| reached.up_to), kept.change))
    }

    /// The cursors of a conversation in a number: the same for the same cursors.
    #[must_use]
    pub fn digest(&mut self, log: LogId, line: &Line) -> u64 {
        let Some(conversation) = self.logs.get_mut(&log) else { return 0 };
        let mut digest = 0;
        for (user, kept) in &mut conversation.members {
            kept.cursors.settle(line);
            digest ^= hash(user, &kept.cursors);
        }
        digest
    }

    /// Up to `limit` members behind `after`, and the last of a full page.
    #[must_use]
    pub fn page(&self, log: LogId, after: Option<&UserId>, limit: usize) -> (Vec<CursorRecord>, Option<UserId>) {
        let Some(conversation) = self.logs.get(&log) else { return (Vec::new(), None) };
        let behind = conversation.members.keys().filter(|user| after.is_none_or(|after| *user > after));
        let rows: Vec<CursorRecord> = behind.take(limit).filter_map(|user| self.record(log, user)).collect();
        let last = if rows.len() == limit { rows.last().map(|row| row.user.clone()) } else { None };
        (rows, last)
    }

    /// What is here beyond a page of another region: of its members, and of those between `after` and `to`.
    #[must_use]
    pub fn beyond(
        &self,
        log: LogId,
        theirs: &BTreeMap<UserId, MemberCursors>,
        after: Option<&UserId>,
        to: Option<&UserId>,
    ) -> Vec<CursorRecord> {
        let Some(conversation) = self.logs.get(&log) else { return Vec::new() };
        let within = |user: &&UserId| after.is_none_or(|after| *user > after) && to.is_none_or(|to| *user <= to);
        let known = |user: &UserId, kept: &Kept| theirs.get(user).is_some_and(|known| known.covers(&kept.cursors));
        let more = conversation.members.iter().filter(|(user, kept)| within(user) && !known(user, kept));
        more.filter_map(|(user, _)| self.record(log, user)).collect()
    }
}

fn moved(before: Option<Reached>, now: Option<Reached>) -> Option<Moved> {
    let (from, reached) = (before.map_or(0, |before| before.up_to), now?);
    (reached.up_to > from).then_some(Moved { from, reached })
}

/// FNV-1a: both ends of a link count alike, whatever their build.
fn hash(user: &UserId, cursors: &MemberCursors) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    add(user.as_str().as_bytes());
    for (mark, cursor) in [(1, &cursors.delivered), (2, &cursors.read)] {
        add(&[mark]);
        for part in cursor.parts() {
            for number in [part.epoch.0, part.up_to, part.at.0] {
                add(&number.to_le_bytes());
            }
        }
    }
    hash
}
