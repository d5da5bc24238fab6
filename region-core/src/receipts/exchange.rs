//! Cursors between regions: what grew goes to the home, from the home to all that hold the conversation. Whatever is
//! lost on the way is found by digests, which each region compares with the home on a timer and when a link comes up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hearth_protocol::mesh::{self, Body, MeshFrame};
use hearth_protocol::record::{CursorRecord, Reached};
use hearth_protocol::{Epoch, LogId, LogKind, RegionId, Timestamp, UserId};
use prost::Message;
use region_model::line::Line;
use region_model::receipts::{Claim, Facts, MemberCursors, Said};
use region_model::{Lane, LogView};

use super::{Speaker, Touched};
use crate::region::Region;
use crate::runtime::wall;

/// Members of one frame.
const FRAME_MEMBERS: usize = 1_000;
/// Conversations compared at a time.
const COMPARED: usize = 256;
/// Of those that are waited for, so many are looked at in a round.
const SOON_AT_ONCE: usize = 64;
/// Looks at a conversation that was followed just now until it is here and its home in reach: 10 s and more.
const SOON_ROUNDS: u32 = 200;
/// Conversations waited for; more are compared when the timer comes to them.
const SOON: usize = 4_096;

fn reached(part: &Reached) -> mesh::Reached {
    mesh::Reached { epoch: part.epoch.0, up_to: part.up_to, at: part.at.0 }
}

fn member(record: &CursorRecord) -> mesh::MemberReceipts {
    mesh::MemberReceipts {
        user: record.user.as_str().to_owned(),
        delivered: record.delivered.iter().map(reached).collect(),
        read: record.read.iter().map(reached).collect(),
    }
}

/// The cursors of a frame; names that are none are left out.
fn members(frame: &mesh::Receipts) -> BTreeMap<UserId, MemberCursors> {
    let part = |part: &mesh::Reached| Reached { epoch: Epoch(part.epoch), up_to: part.up_to, at: Timestamp(part.at) };
    let member = |member: &mesh::MemberReceipts| {
        let cursors = MemberCursors::of(member.delivered.iter().map(part), member.read.iter().map(part));
        Some((UserId::new(&member.user).ok()?, cursors))
    };
    frame.members.iter().filter_map(member).collect()
}

fn name(text: &str) -> Option<UserId> {
    UserId::new(text).ok()
}

impl super::Receipts {
    /// Has a conversation compared with its home once this region holds it.
    pub(crate) fn compare_soon(&self, log: LogId) {
        if log.kind != LogKind::Conversation {
            return;
        }
        let mut soon = self.soon.lock();
        if soon.len() < SOON {
            soon.insert(log, SOON_ROUNDS);
        }
        drop(soon);
        self.claimed.notify_one();
    }
}

impl Region {
    fn send_receipts(&self, peer: &RegionId, body: Body) {
        let frame = Bytes::from(MeshFrame { body: Some(body) }.encode_to_vec());
        if self.links.send(peer, Lane::Bulk, frame).is_err() {
            self.counters.frames_not_sent.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send_records(&self, peer: &RegionId, log: LogId, records: &[CursorRecord]) {
        for page in records.chunks(FRAME_MEMBERS) {
            let log = Bytes::copy_from_slice(&log.to_bytes());
            let members = page.iter().map(member).collect();
            self.send_receipts(peer, Body::Receipts(mesh::Receipts { log, members, ..mesh::Receipts::default() }));
        }
    }

    /// Sends what grew to the home, or from the home to everybody else who holds the conversation.
    pub(super) fn send_on(&self, log: LogId, view: &LogView, source: Option<&RegionId>) {
        let Some(placement) = &view.placement else { return };
        let large = super::tell::is_large(view, self.options.fanout_threshold);
        let records: Vec<CursorRecord> = {
            let mut book = self.receipts.book.lock();
            let users = book.take_outgoing(log, large, self.receipts.now());
            users.iter().filter_map(|user| book.record(log, user)).collect()
        };
        if records.is_empty() {
            return;
        }
        if placement.home != *self.me() {
            return self.send_records(&placement.home, log, &records);
        }
        let mut holders: Vec<&RegionId> = view.replicas.iter().chain(&placement.voters).collect();
        holders.sort();
        holders.dedup();
        // Of a large conversation more than this source's may have waited.
        let spared = source.filter(|_| !large);
        for peer in holders.into_iter().filter(|peer| *peer != self.me() && Some(*peer) != spared) {
            self.send_records(peer, log, &records);
        }
    }

    /// This region holds no copy: the home judges what was said.
    pub(super) fn pass_claims_on(&self, log: LogId, view: &LogView, claims: &[Claim<Speaker>]) {
        let Some(placement) = view.placement.as_ref().filter(|placement| placement.home != *self.me()) else { return };
        let part = |said: &Said| mesh::Reached {
            epoch: said.epoch.unwrap_or(placement.epoch).0,
            up_to: said.up_to,
            at: wall().0,
        };
        let member = |claim: &Claim<Speaker>| mesh::MemberReceipts {
            user: claim.user.as_str().to_owned(),
            delivered: vec![part(&claim.delivered)],
            read: claim.read.iter().map(part).collect(),
        };
        for page in claims.chunks(FRAME_MEMBERS) {
            let log = Bytes::copy_from_slice(&log.to_bytes());
            let members = page.iter().map(member).collect();
            let receipts = mesh::Receipts { log, members, claimed: true, ..mesh::Receipts::default() };
            self.send_receipts(&placement.home, Body::Receipts(receipts));
        }
    }

    /// Takes a frame of another region.
    pub(super) async fn receipt_frame(self: &Arc<Self>, peer: RegionId, body: Body) {
        match body {
            Body::Receipts(frame) => {
                if let Some(log) = LogId::from_bytes(&frame.log).filter(|log| log.kind == LogKind::Conversation) {
                    self.take_receipts(peer, log, &frame).await;
                }
            }
            Body::ReceiptDigests(digests) => {
                for digest in &digests.logs {
                    if let Some(log) = LogId::from_bytes(&digest.log) {
                        self.compare_digest(&peer, log, digest.digest).await;
                    }
                }
            }
            _ => {}
        }
    }

    async fn take_receipts(self: &Arc<Self>, peer: RegionId, log: LogId, frame: &mesh::Receipts) {
        let Ok(view) = self.view(log, false).await else { return };
        // A region that does not hold the conversation writes nothing of it.
        let Some(known) = view.view.members().filter(|_| view.held).cloned() else { return };
        if !self.load_cursors(log).await {
            return;
        }
        let (line, theirs, now) = (Line::of(&view), members(frame), self.receipts.now());
        let facts = Facts { line: &line, last: view.marked.saturating_sub(1), members: &known };
        let mut changes = Vec::new();
        for (user, cursors) in &theirs {
            let mut book = self.receipts.book.lock();
            let change = if frame.claimed {
                claims_of(user, cursors).iter().filter_map(|claim| book.claim(log, claim, &facts, wall(), now)).last()
            } else {
                book.merge(log, user, cursors, &line, now)
            };
            changes.extend(change.map(|change| (change, None)));
        }
        if frame.answer {
            let (after, to) = (name(&frame.after), name(&frame.to));
            let beyond = self.receipts.book.lock().beyond(log, &theirs, after.as_ref(), to.as_ref());
            self.send_records(&peer, log, &beyond);
        }
        self.touched(vec![Touched { log, view, changes, source: Some(peer) }]).await;
    }

    /// As the home: where a replica's cursors differ, it is sent all that are here, and asked for what it has beyond.
    async fn compare_digest(self: &Arc<Self>, peer: &RegionId, log: LogId, digest: u64) {
        let Ok(Some(look)) = self.stores.inspect.look(log).await else { return };
        if look.record.home != *self.me() || !self.load_cursors(log).await {
            return;
        }
        if self.receipts.book.lock().digest(log, &Line::of_record(&look.record)) == digest {
            return;
        }
        let mut after: Option<UserId> = None;
        loop {
            let (rows, last) = self.receipts.book.lock().page(log, after.as_ref(), FRAME_MEMBERS);
            let text = |user: &Option<UserId>| user.as_ref().map_or_else(String::new, |user| user.as_str().to_owned());
            let frame = mesh::Receipts {
                log: Bytes::copy_from_slice(&log.to_bytes()),
                members: rows.iter().map(member).collect(),
                answer: true,
                after: text(&after),
                to: text(&last),
                claimed: false,
            };
            self.send_receipts(peer, Body::Receipts(frame));
            if last.is_none() {
                return;
            }
            after = last;
        }
    }

    /// Compares cursors with homes that can be reached: all of one region's, or the next page of all.
    pub(crate) fn compare_receipts(self: &Arc<Self>, with: Option<RegionId>) {
        if with.is_none() && self.receipts.comparing.swap(true, Ordering::Relaxed) {
            return;
        }
        let region = self.clone();
        tokio::spawn(async move {
            match with {
                Some(peer) => {
                    let mut after = None;
                    while let Some(last) = region.compare_receipt_page(after, Some(&peer)).await {
                        after = Some(last);
                    }
                }
                None => {
                    let after = *region.receipts.compared.lock();
                    let last = region.compare_receipt_page(after, None).await;
                    *region.receipts.compared.lock() = last;
                    region.receipts.comparing.store(false, Ordering::Relaxed);
                }
            }
        });
    }

    /// Sends the digests of a page of conversations to their homes. Returns the last conversation of a full page.
    async fn compare_receipt_page(&self, after: Option<LogId>, with: Option<&RegionId>) -> Option<LogId> {
        let page = match self.stores.log.logs(LogKind::Conversation, after, COMPARED).await {
            Ok(page) => page,
            Err(error) => {
                self.fail(&error.to_string());
                return None;
            }
        };
        let mut digests: BTreeMap<&RegionId, Vec<mesh::ReceiptDigest>> = BTreeMap::new();
        for summary in &page {
            let home = &summary.record.home;
            let asked = *home != *self.me() && with.is_none_or(|peer| peer == home) && self.links.is_up(home);
            if asked && let Some(digest) = self.receipt_digest(summary.log, &Line::of_record(&summary.record)).await {
                digests.entry(home).or_default().push(digest);
            }
        }
        for (home, logs) in digests {
            self.send_receipts(home, Body::ReceiptDigests(mesh::ReceiptDigests { logs }));
        }
        (page.len() == COMPARED).then(|| page.last().map(|summary| summary.log)).flatten()
    }

    async fn receipt_digest(&self, log: LogId, line: &Line) -> Option<mesh::ReceiptDigest> {
        if !self.load_cursors(log).await {
            return None;
        }
        let digest = self.receipts.book.lock().digest(log, line);
        Some(mesh::ReceiptDigest { log: Bytes::copy_from_slice(&log.to_bytes()), digest })
    }

    /// Compares some of the conversations that this region follows since a moment ago, or whose home changed.
    pub(super) async fn compare_those_due_soon(&self) {
        let due: Vec<LogId> = self.receipts.soon.lock().keys().take(SOON_AT_ONCE).copied().collect();
        let mut digests: BTreeMap<RegionId, Vec<mesh::ReceiptDigest>> = BTreeMap::new();
        for log in due {
            let record = self.stores.inspect.look(log).await.ok().flatten().map(|look| look.record);
            let ready = record.filter(|record| record.home == *self.me() || self.links.is_up(&record.home));
            if let Some(record) = ready.as_ref().filter(|record| record.home != *self.me())
                && let Some(digest) = self.receipt_digest(log, &Line::of_record(record)).await
            {
                digests.entry(record.home.clone()).or_default().push(digest);
            }
            let mut soon = self.receipts.soon.lock();
            let rounds = soon.get(&log).copied().unwrap_or_default();
            if ready.is_some() || rounds <= 1 {
                soon.remove(&log)
            } else {
                soon.insert(log, rounds - 1)
            };
        }
        for (home, logs) in digests {
            self.send_receipts(&home, Body::ReceiptDigests(mesh::ReceiptDigests { logs }));
        }
    }
}

/// What a frame says of a member that its region did not judge, as claims.
fn claims_of(user: &UserId, cursors: &MemberCursors) -> Vec<Claim<()>> {
    let claim = |part: &Reached, read| {
        let said = Said { up_to: part.up_to, epoch: Some(part.epoch), sent: None };
        Claim { user: user.clone(), delivered: said, read, by: () }
    };
    let delivered = cursors.delivered.parts().iter().map(|part| claim(part, None));
    let read = cursors
        .read
        .parts()
        .iter()
        .map(|part| claim(part, Some(Said { up_to: part.up_to, epoch: Some(part.epoch), sent: None })));
    delivered.chain(read).collect()
}
