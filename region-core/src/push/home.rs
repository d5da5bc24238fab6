//! The home of a conversation: offers its messages, once the mark has passed them, to the regions that want them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hearth_protocol::mesh;
use hearth_protocol::{EntryKind, LogId, Position, SealedEntry, Sequence, Timestamp, UserId};
use region_model::LogView;
use region_model::line::Line;
use region_model::ports::StoreError;
use region_model::push::{Due, Offered, Offers, Wanted};
use serde::Deserialize;

use super::Task;
use crate::region::Region;
use crate::runtime::wall;

/// Rows of one frame.
const ROWS: usize = 256;
/// Bytes of them.
const BYTES: usize = 1024 * 1024;
/// Messages that somebody has missed at most; of more the oldest are not offered.
const CATCH_UP: u64 = 10_000;
/// Where nobody knows how far another region decided, what was sequenced so long before is decided on: longer than a
/// failover takes. In milliseconds.
const TAKEOVER: u64 = 60_000;
/// Conversations of one round.
const LOGS: usize = 64;

#[derive(Deserialize)]
struct Mentions {
    #[serde(default)]
    mentions: Vec<UserId>,
}

impl Task {
    /// Offers what is due.
    pub(super) async fn offer_round(&mut self) {
        let due = self.region.push.watchers.lock().due(LOGS);
        for log in due {
            if let Err(error) = self.offer(log).await {
                return self.region.fail(&error.to_string());
            }
        }
    }

    async fn offer(&mut self, log: LogId) -> Result<(), StoreError> {
        let region = self.region.clone();
        // A view that cannot be had now is asked for in the next round.
        let Ok(view) = region.view(log, false).await else { return Ok(()) };
        let home = view.placement.as_ref().map(|placement| &placement.home);
        if home != Some(region.me()) || !view.held {
            // Those who want it say so to the home.
            region.push.watchers.lock().forget(log);
            return Ok(());
        }
        let due = region.push.watchers.lock().take(log);
        for due in due {
            let Some(users) = region.push.watchers.lock().watched(log, &due.region).cloned() else { continue };
            let (offers, more) = region.offers_of(log, &view, &due, &users).await?;
            region.push.watchers.lock().offered(log, &due.region, offers.to, more);
            let nothing = offers.from == offers.to && offers.reads.is_empty() && !offers.begins;
            if !nothing {
                let frame = mesh::Push { offers: vec![to_mesh(log, &offers)], ..mesh::Push::default() };
                self.send(&due.region, frame);
            }
        }
        Ok(())
    }
}

impl Region {
    /// What one region is to be told of a conversation, and whether there is more.
    async fn offers_of(
        self: &Arc<Self>,
        log: LogId,
        view: &LogView,
        due: &Due,
        users: &BTreeSet<UserId>,
    ) -> Result<(Offers, bool), StoreError> {
        let line = Line::of(view);
        let mut from = due.next.unwrap_or(view.marked);
        let mut starts = Vec::new();
        for wanted in &due.asked {
            let first = self.first_wanted(log, view, &line, wanted).await?;
            from = from.min(first);
            if wanted.since.is_some() {
                starts.push((wanted.user.clone(), before(view, first)));
            }
        }
        let from = from.min(view.marked).max(view.marked.saturating_sub(CATCH_UP)).max(view.floor).max(1);
        let rows = self.stores.log.read(log, from, view.marked, ROWS, BYTES).await?;
        let to = rows.last().map_or(from, |row| row.sequence().0 + 1);
        let asked = due.asked.iter().map(|wanted| &wanted.user);
        let read: BTreeSet<&UserId> = asked.clone().chain(&due.read).collect();
        let mut reads = Vec::new();
        if !read.is_empty() && self.load_cursors(log).await {
            let parts = read.into_iter().map(|user| (user.clone(), self.receipts.read_parts(log, user)));
            reads = parts.filter(|(_, parts)| !parts.is_empty()).collect();
        }
        let members = view.view.members();
        let is_member = |user: &UserId| members.is_some_and(|members| members.contains_key(user));
        let offers = Offers {
            from,
            to,
            epoch: before(view, from).epoch,
            begins: !due.asked.is_empty(),
            items: rows.iter().filter_map(|row| offered(row, users)).collect(),
            reads,
            gone: users.iter().filter(|user| !is_member(user)).cloned().collect(),
            starts,
        };
        Ok((offers, to < view.marked))
    }

    /// The first number that a user wants: above what is decided on this line, and not from before the subscription.
    async fn first_wanted(&self, log: LogId, view: &LogView, line: &Line, wanted: &Wanted) -> Result<u64, StoreError> {
        let known = self.push.watchers.lock().known(log, &wanted.user).filter(|_| wanted.since.is_some());
        let after = known.max(Some(wanted.after)).unwrap_or_default();
        let first = line.cut(after.epoch, after.sequence.0).saturating_add(1);
        let Some(mut since) = wanted.since else { return Ok(first) };
        if wanted.taken_over && known.is_none() {
            since = since.max(Timestamp(wall().0.saturating_sub(TAKEOVER)));
        }
        let (mut low, mut high) = (first.max(view.marked.saturating_sub(CATCH_UP)), view.marked);
        // Times never decrease along a log.
        while low < high {
            let middle = low + (high - low) / 2;
            let row = self.stores.log.read(log, middle, middle + 1, 1, usize::MAX).await?;
            if row.first().is_some_and(|row| row.entry.fixed.time < since) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The mark passed an entry of a conversation.
    pub(crate) fn push_delivered(&self, log: LogId) {
        if self.push.watched.load(Ordering::Relaxed) {
            self.push.watchers.lock().delivered(log);
        }
    }

    /// Cursors of these members grew here.
    pub(crate) fn push_read<'a>(&self, log: LogId, users: impl Iterator<Item = &'a UserId>) {
        if self.push.watched.load(Ordering::Relaxed) {
            let mut watchers = self.push.watchers.lock();
            for user in users {
                watchers.read(log, user);
            }
        }
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

fn to_mesh(log: LogId, offers: &Offers) -> mesh::PushOffers {
    let text = |user: &UserId| user.as_str().to_owned();
    let item = |item: &Offered| mesh::PushOffer {
        epoch: item.position.epoch.0,
        sequence: item.position.sequence.0,
        message: Bytes::copy_from_slice(item.message.as_bytes()),
        sender: text(&item.sender),
        mentions: item.mentions.iter().map(text).collect(),
        sequenced_at: item.sequenced_at.0,
        expires_at: item.expires_at.map_or(0, |at| at.0),
    };
    let part = |read: &Position| mesh::Reached { epoch: read.epoch.0, up_to: read.sequence.0, at: 0 };
    let reads = |(user, parts): &(UserId, Vec<Position>)| mesh::MemberReceipts {
        user: text(user),
        delivered: Vec::new(),
        read: parts.iter().map(part).collect(),
    };
    let start = |(user, at): &(UserId, Position)| mesh::PushWatcher {
        user: text(user),
        epoch: at.epoch.0,
        sequence: at.sequence.0,
        ..mesh::PushWatcher::default()
    };
    mesh::PushOffers {
        log: Bytes::copy_from_slice(&log.to_bytes()),
        from: offers.from,
        to: offers.to,
        epoch: offers.epoch.0,
        begins: offers.begins,
        items: offers.items.iter().map(item).collect(),
        reads: offers.reads.iter().map(reads).collect(),
        gone: offers.gone.iter().map(text).collect(),
        starts: offers.starts.iter().map(start).collect(),
    }
}
