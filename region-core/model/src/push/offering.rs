//! The home of a conversation: from where a region's wishes are met, and what of the log it is told. Whoever has the log
//! reads it in between.

use std::collections::BTreeSet;

use hearth_protocol::{EntryKind, Position, SealedEntry, Sequence, Timestamp, UserId};
use serde::Deserialize;

use super::offers::{Due, Offered, Offers, Wanted};
use crate::LogView;
use crate::line::Line;
use crate::mutants::Mutant;

/// Messages that somebody has missed at most; of more the oldest are not offered.
const CATCH_UP: u64 = 10_000;
/// Where nobody knows how far another region decided, what was sequenced so long before is decided on: longer than a
/// failover takes. In milliseconds.
const TAKEOVER: u64 = 60_000;

#[derive(Deserialize)]
struct Mentions {
    #[serde(default)]
    mentions: Vec<UserId>,
}

/// Looks for the first number that a user wants: above what is decided on this line, and not from before the
/// subscription. Times never decrease along a log, so halves are ruled out.
#[derive(Clone, Copy, Debug)]
pub struct FirstWanted {
    low: u64,
    high: u64,
    since: Timestamp,
}

impl FirstWanted {
    /// `known`: up to where another region, or this one before, had decided for the user, as far as it was told.
    #[must_use]
    pub fn new(view: &LogView, line: &Line, wanted: &Wanted, known: Option<Position>, now: Timestamp) -> Self {
        let known = known.filter(|_| wanted.since.is_some());
        let after = known.max(Some(wanted.after)).unwrap_or_default();
        let first = line.cut(after.epoch, after.sequence.0).saturating_add(1);
        let Some(mut since) = wanted.since else { return Self { low: first, high: first, since: Timestamp(0) } };
        if wanted.taken_over && known.is_none() {
            since = since.max(Timestamp(now.0.saturating_sub(TAKEOVER)));
        }
        Self { low: first.max(view.marked.saturating_sub(CATCH_UP)), high: view.marked, since }
    }

    /// The number of an entry that is to be looked at, where it is not found yet.
    #[must_use]
    pub fn probe(&self) -> Option<u64> {
        (self.low < self.high).then(|| self.low + (self.high - self.low) / 2)
    }

    /// When the entry to be looked at was sequenced, if it is there.
    pub fn take(&mut self, probed: u64, time: Option<Timestamp>) {
        if time.is_some_and(|time| time < self.since) {
            self.low = probed + 1;
        } else {
            self.high = probed;
        }
    }

    /// What was found.
    #[must_use]
    pub fn found(&self) -> u64 {
        self.low
    }
}

/// What one region is to be told of a conversation, before its rows are read.
#[derive(Clone, Debug)]
pub struct Offering {
    from: u64,
    starts: Vec<(UserId, Position)>,
    begins: bool,
}

impl Offering {
    /// `firsts`: what was found for each of those who are asked for, in their order.
    #[must_use]
    pub fn new(view: &LogView, due: &Due, firsts: &[u64]) -> Self {
        let from = firsts.iter().copied().fold(due.next.unwrap_or(view.marked), u64::min);
        let from = from.min(view.marked).max(view.marked.saturating_sub(CATCH_UP)).max(view.floor).max(1);
        let starts = due.asked.iter().zip(firsts).map(|(wanted, first)| (wanted.user.clone(), before(view, *first)));
        let starts = starts.collect();
        Self { from, starts, begins: !due.asked.is_empty() }
    }

    /// The first number that it reads.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.from
    }

    /// With the rows from [`Offering::from`] on, below the mark, and how far users have read. Says whether there is more.
    #[must_use]
    pub fn with<'a>(
        self,
        view: &LogView,
        users: &BTreeSet<UserId>,
        rows: impl IntoIterator<Item = &'a SealedEntry>,
        reads: Vec<(UserId, Vec<Position>)>,
    ) -> (Offers, bool) {
        let Self { from, starts, begins } = self;
        let members = view.view.members();
        let since_of = |since| if Mutant::JoinsOverlooked.is_on() { 0 } else { since };
        let since = |user: &UserId| members.and_then(|members| members.get(user)).map(|member| since_of(member.since));
        // It ends where somebody becomes a member: of what is below, that user is woken for nothing.
        let joins = users.iter().filter_map(since).filter(|since| *since > from).min().unwrap_or(u64::MAX);
        let mut to = from;
        let mut items = Vec::new();
        for row in rows.into_iter().take_while(|row| row.sequence().0 < joins) {
            to = row.sequence().0 + 1;
            items.extend(offered(row, users));
        }
        let is_member = |user: &UserId| since(user).is_some_and(|since| since < to || since <= from);
        let gone = users.iter().filter(|user| !is_member(user)).cloned().collect();
        let offers = Offers { from, to, epoch: before(view, from).epoch, begins, items, reads, gone, starts };
        (offers, to < view.marked)
    }
}

/// The place before a number.
fn before(view: &LogView, number: u64) -> Position {
    let epoch = view.openings.iter().rev().find(|opening| opening.first < number).map(|opening| opening.epoch);
    Position { epoch: epoch.unwrap_or_default(), sequence: Sequence(number.saturating_sub(1)) }
}

fn offered(row: &SealedEntry, users: &BTreeSet<UserId>) -> Option<Offered> {
    let fixed = &row.entry.fixed;
    if fixed.kind != EntryKind::Message {
        return None;
    }
    let mentions = row.content().and_then(|content| serde_json::from_slice::<Mentions>(content).ok());
    let mentions = mentions.into_iter().flat_map(|content| content.mentions);
    Some(Offered {
        position: fixed.position,
        message: fixed.id,
        sender: fixed.sender.clone(),
        mentions: mentions.filter(|user| users.contains(user)).collect(),
        sequenced_at: fixed.time,
        // What has lost its content wakes nobody.
        expires_at: if row.content().is_some() { fixed.expires_at } else { Some(Timestamp(1)) },
    })
}
