//! One log as a region holds it: the parts that home and replica share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::placement::PartitionMode;
use hearth_protocol::record::{DedupRecord, LogRecord, Opening, OutboxRecord};
use hearth_protocol::{
    Change, DeviceId, EntryKind, Epoch, Hash, Header, LogId, LogKind, Placement, RegionId, SealedEntry, Timestamp,
    entry::MemberAction, limits, mesh,
};

use crate::command::Command;
use crate::effect::LogView;
use crate::home::{HomeState, is_by_id};
use crate::joins::Join;
use crate::mutants::Mutant;
use crate::ownership::Flaw;
use crate::ports::{DedupKey, LoadedLog, LogAppend};
use crate::succession::NewerLine;
use crate::targets::{Changed, change_record};
use crate::view::{Forgotten, Members, View};

/// The incarnation of a region's first store: nothing was ever promised or copied by one before it.
pub(crate) const FIRST_INCARNATION: u64 = 1;
/// Who may wait for one entry, beside the requests that share it; the oldest of more than that goes unanswered and asks
/// again by its own timer.
const WAITERS_OF_AN_ENTRY: usize = 64;
/// A snapshot is written after this many entries, and one more for each thing in it: a load replays at most as many.
pub(crate) const SNAPSHOT_EVERY: u64 = 256;

/// The end of a log: what the next entry chains to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tip {
    pub(crate) epoch: Epoch,
    pub(crate) hash: Hash,
    pub(crate) time: Timestamp,
}

/// An entry above the mark.
#[derive(Clone, Debug)]
pub(crate) struct Pending<R> {
    pub(crate) entry: Arc<SealedEntry>,
    /// The members as of this entry.
    pub(crate) audience: Option<Arc<Members>>,
    /// Who waits for the ack.
    pub(crate) waiters: Vec<Waiter<R>>,
    /// Requests to add members that share it, and wait for the ack.
    pub(crate) joins: Vec<Join<R>>,
    /// The local connection that sent it: it gets the ack, not the delivery.
    pub(crate) skip: Option<R>,
    /// Whether a device here sent it, if only again.
    pub(crate) sent_here: bool,
    /// When the home decided it; `queued` is told once after a while.
    pub(crate) decided_at: u64,
    pub(crate) queued: bool,
}

impl<R> Pending<R> {
    /// How many wait for the ack.
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len() + self.joins.len()
    }

    /// Adds who waits; with what it asked for, where the entry does not say that.
    pub(crate) fn wait(&mut self, waiter: Waiter<R>, asked: Option<(Command, [u8; 16])>) {
        if let Some((command, salt)) = asked {
            if self.joins.len() >= limits::JOINS_OF_AN_ENTRY + WAITERS_OF_AN_ENTRY {
                self.joins.remove(0);
            }
            self.joins.push(Join { command, salt, waiter });
            return;
        }
        if self.waiters.len() >= WAITERS_OF_AN_ENTRY {
            self.waiters.remove(0);
        }
        self.waiters.push(waiter);
    }

    /// Everybody who waits for the ack; nobody does from then on.
    pub(crate) fn take_waiters(&mut self) -> impl Iterator<Item = Waiter<R>> + use<R> {
        let joins = std::mem::take(&mut self.joins).into_iter().map(|join| join.waiter);
        std::mem::take(&mut self.waiters).into_iter().chain(joins)
    }
}

/// Who waits for an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waiter<R> {
    /// Somebody in this region.
    Local {
        /// Whom to answer.
        reply: R,
        /// The device, for messages: they may be parked.
        device: Option<DeviceId>,
        /// Whether it is told `duplicate`.
        retry: bool,
    },
    /// Another region, about a forward of its.
    Peer {
        /// The region.
        peer: RegionId,
        /// Its forward.
        forward_id: u64,
        /// Whether it is told `duplicate`.
        retry: bool,
        /// Whether it parked the message: then it waits for room here, too.
        parked: bool,
        /// Its round of forwards for the log; 0 for none.
        round: u64,
    },
    /// Nobody, or nobody any more.
    Gone,
}

impl<R> Waiter<R> {
    /// Whether the region `peer` waits.
    pub(crate) fn is_from(&self, peer: &RegionId) -> bool {
        matches!(self, Self::Peer { peer: asker, .. } if asker == peer)
    }

    /// The device of a session here.
    pub(crate) fn device(&self) -> Option<DeviceId> {
        match self {
            Self::Local { device, .. } => *device,
            Self::Peer { .. } | Self::Gone => None,
        }
    }

    /// Whether a region waits that parked the message.
    pub(crate) fn is_parked(&self) -> bool {
        matches!(self, Self::Peer { parked: true, .. })
    }

    /// The same, told `duplicate`.
    pub(crate) fn into_retry(self) -> Self {
        match self {
            Self::Local { reply, device, .. } => Self::Local { reply, device, retry: true },
            Self::Peer { peer, forward_id, parked, round, .. } => {
                Self::Peer { peer, forward_id, retry: true, parked, round }
            }
            Self::Gone => Self::Gone,
        }
    }
}

/// Gives back the memory of an empty queue: most logs in memory are idle, and keep nothing for the next time.
pub(crate) fn free_if_empty<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() {
        *queue = VecDeque::new();
    }
}

/// One log in memory. `R` names whoever waits in the shell.
#[derive(Debug)]
pub(crate) struct Log<R> {
    pub(crate) id: LogId,
    pub(crate) placement: Option<Placement>,
    pub(crate) record: Option<LogRecord>,
    /// Entries decided or applied, on disk or on their way.
    pub(crate) length: u64,
    /// Entries on disk.
    pub(crate) durable: u64,
    /// Entries that may be shown.
    pub(crate) marked: u64,
    pub(crate) tip: Option<Tip>,
    pub(crate) view: View,
    pub(crate) snapshot_length: u64,
    /// Entries from `marked` to `length`.
    pub(crate) pending: VecDeque<Pending<R>>,
    /// What only the home has.
    pub(crate) home: HomeState<R>,
    /// What the home last said of its mark; a replica shows what is below it and on disk.
    pub(crate) told_mark: u64,
    /// What a replica last asked to be sent again: from which length, and when in milliseconds.
    pub(crate) resend_asked: Option<(u64, u64)>,
    /// What a follower still pulls.
    pub(crate) ranges: Ranges,
    /// The part of a newer line that differs from the log.
    pub(crate) newer: NewerLine,
    /// What recent entries do to earlier messages.
    pub(crate) changed: Changed,
    /// Hashes of entries that memory does not have otherwise.
    pub(crate) hashes: BTreeMap<u64, Hash>,
    /// The incarnation of this region's store, once the region map has confirmed it.
    pub(crate) store: Option<u64>,
    /// The region-wide number of its last change.
    pub(crate) change: u64,
    /// When it was last used, in milliseconds of the shell's monotonic clock.
    pub(crate) used_at: u64,
}

impl<R: Clone> Log<R> {
    /// Takes up a log as the store has it.
    pub(crate) fn from_loaded(id: LogId, loaded: LoadedLog, now: u64) -> Self {
        let ranges = Ranges::from_loaded(&loaded);
        let (mut view, snapshot_length) = loaded
            .snapshot
            .and_then(|(length, bytes)| Some((View::from_snapshot(&bytes)?, length)))
            .unwrap_or((View::Empty, 0));
        let open_end = ranges.open.map_or(0, |(_, to)| to);
        // Above an open range the last row is another one than the last entry.
        let last = loaded.last.filter(|last| last.sequence().0 + 1 == loaded.length);
        let mut log = Self {
            id,
            placement: loaded.placement,
            record: loaded.record,
            length: loaded.length,
            durable: loaded.length,
            marked: loaded.mark.min(loaded.length).max(open_end),
            tip: last.as_ref().map(|last| Tip { epoch: last.epoch(), hash: last.hash, time: last.entry.fixed.time }),
            view: View::Empty,
            snapshot_length,
            pending: VecDeque::new(),
            home: HomeState::default(),
            told_mark: loaded.mark,
            resend_asked: None,
            ranges,
            newer: NewerLine::default(),
            changed: Changed::from(loaded.length),
            hashes: BTreeMap::new(),
            store: None,
            change: loaded.change,
            used_at: now,
        };
        for entry in loaded.entries {
            let sequence = entry.sequence().0;
            if sequence >= snapshot_length {
                view.fold(&entry);
            }
            if sequence >= log.marked {
                log.pending.push_back(Pending {
                    audience: view.members().cloned(),
                    entry,
                    waiters: Vec::new(),
                    joins: Vec::new(),
                    skip: None,
                    sent_here: false,
                    decided_at: now,
                    queued: false,
                });
            }
        }
        log.view = view;
        log
    }

    /// Whether this region holds it.
    pub(crate) fn is_held(&self) -> bool {
        self.record.is_some()
    }

    /// Whether what is on disk here counts as a copy and as sealed ([`crate::ownership::Trust`]): of a region's first
    /// store always, since there was none before it whose word could be lost.
    pub(crate) fn counts(&self) -> bool {
        let Some(store) = self.store else { return false };
        let joined = self.record.as_ref().is_some_and(|record| record.incarnation == store);
        store == FIRST_INCARNATION || joined || Mutant::Rule(Flaw::NewStoreTrusted).is_on()
    }

    /// What it says beside its length: 0 where it counts, else the incarnation that is to count.
    pub(crate) fn joining(&self) -> u64 {
        if self.counts() { 0 } else { self.store.unwrap_or(mesh::NOT_KNOWN_YET) }
    }

    /// Whether this region is its home and accepted the epoch of its placement: it serves the replicas.
    pub(crate) fn is_home_of(&self, me: &RegionId) -> bool {
        self.placement.as_ref().is_some_and(|placement| {
            placement.home == *me
                && match &self.record {
                    Some(record) => record.accepted == placement.epoch,
                    None => placement.first == 0,
                }
        })
    }

    /// Whether its placement names this region, which promised a newer epoch: it numbers nothing under the placement.
    pub(crate) fn is_sealed_home(&self, me: &RegionId) -> bool {
        let Some((placement, record)) = self.placement.as_ref().zip(self.record.as_ref()) else { return false };
        let named = placement.home == *me && placement.first != u64::MAX;
        named && record.sealed > placement.epoch && record.accepted <= placement.epoch
    }

    /// Whether it can leave memory: nothing in it waits, no store answer is outstanding, and nobody follows it beside
    /// those that the record names.
    pub(crate) fn is_idle(&self) -> bool {
        let named = |peer: &RegionId| self.record.as_ref().is_some_and(|record| record.voters.contains(peer));
        self.length == self.durable
            && self.ranges.is_idle()
            && self.pending.is_empty()
            && self.home.is_idle()
            && (self.id.kind == LogKind::Placement || self.home.replicas.keys().all(named))
    }

    /// The epoch under which entries are written now.
    pub(crate) fn epoch(&self) -> Epoch {
        self.record.as_ref().map_or(Epoch(1), |record| record.accepted)
    }

    /// The opening of the present epoch.
    pub(crate) fn opening(&self) -> (u64, Bytes) {
        self.record.as_ref().and_then(|record| record.openings.last()).map_or((0, Bytes::new()), |opening| {
            let hash = if opening.first == 0 { Bytes::new() } else { Bytes::copy_from_slice(&opening.previous) };
            (opening.first, hash)
        })
    }

    /// What a query is told.
    pub(crate) fn view(&self) -> LogView {
        LogView {
            placement: self.placement.clone(),
            held: self.is_held() && self.length > 0,
            length: self.durable,
            decided: self.length,
            marked: self.marked.min(self.durable),
            behind: self.told_mark > self.marked,
            open: self.ranges.open,
            change: self.change,
            floor: self.view.forgotten().map_or(1, Forgotten::floor),
            openings: self.record.as_ref().map(|record| record.openings.clone()).unwrap_or_default(),
            replicas: self.home.replicas.keys().cloned().collect(),
            view: self.view.clone(),
            mode: self.partition_mode(),
            home_out_of_reach: false,
            tail_settled: None,
        }
    }

    /// What an edge does while the home is out of reach: as it was changed last, or as it was created.
    pub(crate) fn partition_mode(&self) -> PartitionMode {
        let changed = match &self.view {
            View::Conversation(state) => state.partition_mode,
            View::Empty | View::User(_) | View::Placements(_) => None,
        };
        changed.or(self.placement.as_ref().map(|placement| placement.partition_mode)).unwrap_or_default()
    }

    /// An entry above the mark.
    pub(crate) fn pending_at(&self, sequence: u64) -> Option<&Pending<R>> {
        self.pending.get(self.pending_index(sequence)?)
    }

    /// Where an entry above the mark would stand in `pending`.
    pub(crate) fn pending_index(&self, sequence: u64) -> Option<usize> {
        usize::try_from(sequence.checked_sub(self.marked)?).ok()
    }

    /// The hash of the entry before a sequence, where memory has it: at the end of the log, and above the mark.
    pub(crate) fn hash_before(&self, sequence: u64) -> Option<Hash> {
        if sequence == self.length {
            return self.tip.as_ref().map(|tip| tip.hash);
        }
        self.pending_at(sequence).map(|pending| pending.entry.entry.fixed.previous)
    }

    /// A commit that adds nothing yet: entries are pushed into it.
    pub(crate) fn start_append(&self) -> LogAppend {
        LogAppend {
            mark: self.marked,
            record: if self.length == 0 { self.record.clone() } else { None },
            ..LogAppend::empty(self.id, self.length, self.epoch())
        }
    }

    /// Takes an entry behind the tip: folds it, and adds it to the commit that makes it durable.
    pub(crate) fn push(&mut self, entry: Arc<SealedEntry>, pushed: PushedBy<R>, append: &mut LogAppend) {
        debug_assert_eq!(entry.sequence().0, self.length, "an entry is numbered by the length before it");
        self.view.fold(&entry);
        let fixed = &entry.entry.fixed;
        self.tip = Some(Tip { epoch: fixed.position.epoch, hash: entry.hash, time: fixed.time });
        self.length += 1;
        // A snapshot of before may hold what is kept no longer.
        if self.length >= self.snapshot_length + SNAPSHOT_EVERY + self.view.weight() || entry.forgets().is_some() {
            self.snapshot_length = self.length;
            append.snapshot = Some((self.length, self.view.snapshot()));
        }
        let changes = append.changes.len();
        add_indexes(append, std::slice::from_ref(&entry));
        if !self.has_undecided() {
            self.changed.forget_below(self.durable);
        }
        append.changes.iter().skip(changes).for_each(|change| self.changed.note(change.clone()));
        append.entries.push(entry.clone());
        self.pending.push_back(Pending {
            audience: self.view.members().cloned(),
            entry,
            waiters: if matches!(pushed.waiter, Waiter::Gone) { Vec::new() } else { vec![pushed.waiter] },
            joins: Vec::new(),
            sent_here: pushed.skip.is_some(),
            skip: pushed.skip,
            decided_at: pushed.now,
            queued: false,
        });
    }
}

/// The open range of a follower. It is filled from above: each page is checked by the hash that the entry above it
/// names, and is final.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges {
    /// What is not on disk.
    pub(crate) open: Option<(u64, u64)>,
    /// Hash of the entry before it; `None` where it begins at 0.
    pub(crate) below: Option<Hash>,
    /// The hash that its last entry must have.
    pub(crate) above: Option<Hash>,
    /// Whether what stands above it is of an earlier subscription: nothing is applied until a new one begins.
    pub(crate) stale: bool,
    /// When its next page was asked for, in milliseconds.
    pub(crate) asked: Option<u64>,
    /// Commits on their way that change it.
    pub(crate) writes: usize,
}

impl Ranges {
    fn from_loaded(loaded: &LoadedLog) -> Self {
        let open = loaded.record.as_ref().and_then(|record| record.open_ranges.first().copied());
        let below = loaded.below_open.as_ref().map(|entry| entry.hash);
        Self { open, below, stale: open.is_some(), ..Self::default() }
    }

    fn is_idle(&self) -> bool {
        self.writes == 0 && (self.open.is_none() || self.stale)
    }
}

/// Where a pushed entry came from.
#[derive(Debug)]
pub(crate) struct PushedBy<R> {
    pub(crate) waiter: Waiter<R>,
    pub(crate) skip: Option<R>,
    pub(crate) now: u64,
}

/// The record of a log that opens at its first epoch, at its home.
pub(crate) fn first_record(placement: &Placement, incarnation: u64) -> LogRecord {
    LogRecord {
        home: placement.home.clone(),
        voters: placement.voters.clone(),
        accepted: placement.epoch,
        sealed: placement.epoch,
        openings: vec![Opening { epoch: placement.epoch, first: 0, previous: [0; 32], loss: false }],
        floor: 0,
        published: 0,
        open_ranges: Vec::new(),
        incarnation,
    }
}

/// What entries that come to a log are found by, beside their number: their id, and the message that they change.
pub(crate) fn add_indexes(append: &mut LogAppend, entries: &[Arc<SealedEntry>]) {
    let log = append.log;
    append.dedup.extend(entries.iter().flat_map(|entry| dedup_records(log, entry)));
    append.changes.extend(entries.iter().filter_map(|entry| change_record(log, entry)));
}

/// Entries that clients name by id are remembered for dedup, at the home and at every replica alike.
fn dedup_records(log: LogId, sealed: &SealedEntry) -> impl Iterator<Item = (DedupKey, DedupRecord)> {
    let fixed = &sealed.entry.fixed;
    let remembered = (log.kind == LogKind::Conversation && is_by_id(fixed.kind)).then_some(sealed);
    let record = DedupRecord {
        position: fixed.position,
        time: fixed.time,
        digest: fixed.digest,
        reply_to: fixed.reply_to,
        level: fixed.level,
    };
    remembered.into_iter().flat_map(move |entry| DedupKey::all_of(log, entry)).map(move |key| (key, record.clone()))
}

/// Memberships that an entry of a conversation makes or ends.
pub(crate) fn outbox_records(log: LogId, sealed: &SealedEntry) -> Vec<OutboxRecord> {
    if log.kind != LogKind::Conversation {
        return Vec::new();
    }
    let position = sealed.entry.fixed.position;
    let (users, joined) = match sealed.entry.fixed.kind {
        EntryKind::Header => match sealed.header() {
            Some(Header::Conversation { members, .. }) => (members.into_iter().map(|(user, _)| user).collect(), true),
            Some(Header::User { .. } | Header::Placement) | None => (Vec::new(), true),
        },
        EntryKind::Member => match sealed.change() {
            Some(Change::Members { action: MemberAction::Add(_), users }) => (users, true),
            Some(Change::Members { action: MemberAction::Remove | MemberAction::Leave, users }) => (users, false),
            _ => (Vec::new(), true),
        },
        EntryKind::Message
        | EntryKind::Edit
        | EntryKind::Delete
        | EntryKind::Reaction
        | EntryKind::System
        | EntryKind::User
        | EntryKind::Placement => (Vec::new(), true),
    };
    users.into_iter().map(|user| OutboxRecord { log, position, user, joined }).collect()
}

/// What a home knows of one replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replica {
    /// Entries on its disk, as it said.
    pub(crate) acked: u64,
    /// Entries sent to it.
    pub(crate) sent: u64,
    /// The mark that it was told.
    pub(crate) mark_sent: u64,
    /// Whether a page for it is being read. Reads are not taken back: the page comes in any case.
    pub(crate) reading: bool,
    /// A large page on its way, `[from, to)`: nothing else is sent until it arrived, since it may be overtaken.
    pub(crate) flying: Option<(u64, u64)>,
    /// `acked` at the last anti-entropy: without progress since, it is asked again.
    pub(crate) acked_before: Option<u64>,
    /// Its last entry is not ours: it gets nothing until that is settled.
    pub(crate) forked: bool,
    /// Where its stream begins, once the mark is there.
    pub(crate) begin: Option<Box<Beginning>>,
    /// A follower whose link broke: it gets nothing until it subscribes again.
    pub(crate) lapsed: bool,
    /// Whether it is to vote, and takes a copy for that.
    pub(crate) invited: bool,
}

/// Where the stream of a follower begins, and what it needs for that.
#[derive(Clone, Debug)]
pub(crate) struct Beginning {
    pub(crate) at: u64,
    pub(crate) tip: Tip,
    pub(crate) view: Bytes,
}

impl Replica {
    /// Whether entries may be sent to it behind what was sent.
    pub(crate) fn streams(&self) -> bool {
        !self.reading && self.flying.is_none() && !self.forked && !self.lapsed && self.begin.is_none()
    }
}

/// The replicas of a log, by region.
pub(crate) type Replicas = BTreeMap<RegionId, Replica>;
