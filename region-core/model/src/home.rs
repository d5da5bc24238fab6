//! What a home does with its log: dedup, decide, number, append, copy, ack, mark. In that order, always.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::client::QueuedReason;
use hearth_protocol::entry::{Entry, Fixed, content_digest};
use hearth_protocol::record::DedupRecord;
use hearth_protocol::{
    Change, EntryKind, ErrorCode, Header, Level, LogKind, Position, Refusal, RegionId, SealedEntry, Sequence,
    UserId, limits, mesh,
};
use uuid::Uuid;

use crate::command::{Ack, Command, Outcome};
use crate::core::Context;
use crate::effect::{Effect, Lane};
use crate::log::{Log, PushedBy, Replica, Replicas, Waiter, first_record};
use crate::ports::DedupKey;
use crate::view::Decision;

/// After this long without its copies, whoever waits for an ack is told that the message is queued.
const COPIES_PATIENCE_MILLISECONDS: u64 = 3_000;
/// Entries and bytes of one page for a replica that is behind.
pub(crate) const CATCH_UP_ENTRIES: u64 = 2_048;

/// A command that waits for its dedup lookup, behind those that came before it.
#[derive(Clone, Debug)]
pub(crate) struct Submit<R> {
    command: Command,
    salt: [u8; 16],
    waiter: Waiter<R>,
    looked_up: Option<Option<DedupRecord>>,
    /// Entries on disk when the lookup was asked for: it cannot have missed any of them.
    durable_at_lookup: u64,
}

/// A retry of an entry on disk: the entry is read before the first ack is given again, since the content must be the
/// same.
#[derive(Debug)]
pub(crate) struct RetryCheck<R> {
    pub(crate) command: Command,
    pub(crate) waiter: Waiter<R>,
    pub(crate) ack: Ack,
}

/// What only a home has of a log.
#[derive(Debug)]
pub(crate) struct HomeState<R> {
    pub(crate) replicas: Replicas,
    submits: VecDeque<Submit<R>>,
    /// Ids of pending entries: a retry that overtakes its first commit joins it.
    in_flight: BTreeMap<(UserId, Uuid), u64>,
    /// Ids of entries that passed the mark, kept while a lookup that may have missed them is not answered.
    settled: VecDeque<((UserId, Uuid), u64)>,
}

impl<R> Default for HomeState<R> {
    fn default() -> Self {
        Self {
            replicas: Replicas::new(),
            submits: VecDeque::new(),
            in_flight: BTreeMap::new(),
            settled: VecDeque::new(),
        }
    }
}

impl<R> HomeState<R> {
    pub(crate) fn is_idle(&self) -> bool {
        self.submits.is_empty() && self.replicas.values().all(|replica| !replica.catching_up)
    }
}

/// Answers one waiter.
pub(crate) fn answer<R>(waiter: Waiter<R>, mut outcome: Outcome, effects: &mut Vec<Effect<R>>, log: hearth_protocol::LogId) {
    let retry = match &waiter {
        Waiter::Local { retry, .. } | Waiter::Peer { retry, .. } => *retry,
    };
    if let Outcome::Acked(ack) = &mut outcome {
        ack.duplicate |= retry;
    }
    match waiter {
        Waiter::Local { reply, .. } => effects.push(Effect::Reply(reply, outcome)),
        Waiter::Peer { peer, forward_id, .. } => effects.push(Effect::Send {
            peer,
            lane: Lane::Log(log),
            body: mesh::Body::Answer(outcome.to_answer(forward_id)),
        }),
    }
}

impl<R: Clone> Log<R> {
    /// Takes a command at the home.
    pub(crate) fn submit(&mut self, command: Command, salt: [u8; 16], waiter: Waiter<R>, context: &mut Context<'_, R>) {
        if self.pending.len() + self.home.submits.len() >= limits::UNMARKED_ENTRIES {
            let refusal = Refusal::new(ErrorCode::Overloaded, "too many entries of this log wait for copies")
                .with_retry_after(5)
                .with_limit(format!("{} entries", limits::UNMARKED_ENTRIES));
            answer(waiter, Outcome::Refused(refusal), context.effects, self.id);
            return;
        }
        let by_id = matches!(command.kind, EntryKind::Message | EntryKind::Member | EntryKind::System);
        let key = by_id.then(|| DedupKey { log: self.id, sender: command.sender.clone(), id: command.id });
        let looked_up = if by_id { None } else { Some(None) };
        self.home.submits.push_back(Submit { command, salt, waiter, looked_up, durable_at_lookup: self.durable });
        match key {
            Some(key) => context.effects.push(Effect::Dedup(key)),
            None => self.decide_ready(context),
        }
    }

    /// Takes the answer of a dedup lookup. Commands are decided in the order in which they came.
    pub(crate) fn dedup_answer(&mut self, key: &DedupKey, record: Option<DedupRecord>, context: &mut Context<'_, R>) {
        let submit = self.home.submits.iter_mut().find(|submit| {
            submit.looked_up.is_none() && submit.command.id == key.id && submit.command.sender == key.sender
        });
        if let Some(submit) = submit {
            submit.looked_up = Some(record);
        }
        self.decide_ready(context);
    }

    fn decide_ready(&mut self, context: &mut Context<'_, R>) {
        while self.home.submits.front().is_some_and(|submit| submit.looked_up.is_some()) {
            if let Some(submit) = self.home.submits.pop_front() {
                self.decide(submit, context);
            }
        }
        self.forget_settled();
    }

    /// Drops ids that no open lookup can have missed.
    fn forget_settled(&mut self) {
        let safe_below = self.home.submits.front().map_or(u64::MAX, |submit| submit.durable_at_lookup);
        while self.home.settled.front().is_some_and(|(_, sequence)| *sequence < safe_below) {
            if let Some((id, _)) = self.home.settled.pop_front() {
                self.home.in_flight.remove(&id);
            }
        }
    }

    fn decide(&mut self, submit: Submit<R>, context: &mut Context<'_, R>) {
        let Submit { command, salt, waiter, looked_up, .. } = submit;
        let id = (command.sender.clone(), command.id);
        match self.home.in_flight.get(&id).copied() {
            Some(sequence) if sequence >= self.marked => {
                self.join(sequence, &command, waiter, context);
                return;
            }
            Some(_) if looked_up == Some(None) => {
                // The lookup overtook the commit: the record is on disk by now.
                let key = DedupKey { log: self.id, sender: command.sender.clone(), id: command.id };
                let durable_at_lookup = self.durable;
                self.home.submits.push_front(Submit { command, salt, waiter, looked_up: None, durable_at_lookup });
                context.effects.push(Effect::Dedup(key));
                return;
            }
            Some(_) | None => {}
        }
        if let Some(Some(record)) = looked_up {
            self.answer_retry(&record, &command, waiter, context);
            return;
        }
        if self.length == 0 && self.id.kind == LogKind::Placement {
            self.open_placement_log(context);
        }
        match self.view.decide(&command, context.now.wall, context.bounds) {
            Decision::Append { content, level } => self.append(command, content, level, salt, Some(waiter), context),
            Decision::AlreadySo => self.answer_already(waiter, context),
            Decision::Refuse(refusal) => answer(waiter, Outcome::Refused(refusal), context.effects, self.id),
        }
    }

    /// The one place where a sequence number is made.
    fn next_position(&self) -> Position {
        Position { epoch: self.epoch(), sequence: Sequence(self.length) }
    }

    fn append(
        &mut self,
        command: Command,
        content: Bytes,
        level: Level,
        salt: [u8; 16],
        waiter: Option<Waiter<R>>,
        context: &mut Context<'_, R>,
    ) {
        if self.record.is_none() {
            self.record = self.placement.as_ref().map(first_record);
        }
        let dedup = matches!(command.kind, EntryKind::Message | EntryKind::Member | EntryKind::System);
        let skip = match &waiter {
            Some(Waiter::Local { reply, .. }) => Some(reply.clone()),
            Some(Waiter::Peer { .. }) | None => None,
        };
        if dedup {
            self.home.in_flight.insert((command.sender.clone(), command.id), self.length);
        }
        let time = self.tip.map_or(context.now.wall, |tip| tip.time.max(context.now.wall));
        let entry = SealedEntry::seal(Entry {
            fixed: Fixed {
                position: self.next_position(),
                kind: command.kind,
                sender: command.sender,
                id: command.id,
                time,
                level,
                digest: content_digest(&salt, &content),
                previous: self.tip.map_or([0; 32], |tip| tip.hash),
                origin: command.origin,
                reply_to: command.reply_to,
                target: None,
                expires_at: command.expires_at,
                original_time: None,
            },
            content: Some((Bytes::copy_from_slice(&salt), content)),
        });
        let by = PushedBy { waiter, skip, now: context.now.monotonic };
        let append = self.push(entry, by, dedup);
        context.effects.push(Effect::Append(Box::new(append)));
    }

    /// A placement log opens with its first placement: nobody creates it by name.
    fn open_placement_log(&mut self, context: &mut Context<'_, R>) {
        let header = Command {
            log: self.id,
            kind: EntryKind::Header,
            sender: context.region_as_sender(),
            id: Uuid::nil(),
            content: Header::Placement.encode(),
            reply_to: None,
            expires_at: None,
            level: None,
            origin: context.me.clone(),
        };
        let content = header.content.clone();
        self.append(header, content, Level::Majority, [0; 16], None, context);
    }

    /// A retry of an entry that is still on its way waits with it.
    fn join(&mut self, sequence: u64, command: &Command, waiter: Waiter<R>, context: &mut Context<'_, R>) {
        let Some(index) = sequence.checked_sub(self.marked).map(|index| usize::try_from(index).unwrap_or(usize::MAX))
        else {
            return;
        };
        let Some(pending) = self.pending.get_mut(index) else { return };
        if !same_content(&pending.entry, command) {
            answer(waiter, Outcome::Refused(other_content()), context.effects, self.id);
            return;
        }
        let waiter = match waiter {
            Waiter::Local { reply, .. } => Waiter::Local { reply, retry: true },
            Waiter::Peer { peer, forward_id, .. } => Waiter::Peer { peer, forward_id, retry: true },
        };
        pending.waiters.push(waiter);
        self.advance(context);
    }

    /// A retry of an entry on disk gets its first ack again, once the copies stand under the present epoch.
    fn answer_retry(&mut self, record: &DedupRecord, command: &Command, waiter: Waiter<R>, context: &mut Context<'_, R>) {
        let sequence = record.position.sequence.0;
        if sequence >= self.marked {
            // Loaded from disk with its copies unknown: it waits like the first one did.
            self.join(sequence, command, waiter, context);
            return;
        }
        if record.reply_to != command.reply_to {
            answer(waiter, Outcome::Refused(other_content()), context.effects, self.id);
            return;
        }
        let ack = Ack {
            position: record.position,
            time: record.time,
            home: context.me.clone(),
            level: record.level,
            regions: self.holders(sequence, context.me),
            duplicate: true,
        };
        context.retries.push(RetryCheck { command: command.clone(), waiter, ack });
    }

    fn answer_already(&mut self, waiter: Waiter<R>, context: &mut Context<'_, R>) {
        // What is so already was decided by an entry that may still wait for copies: the answer waits for the last one.
        if let Some(last) = self.pending.back_mut() {
            let waiter = match waiter {
                Waiter::Local { reply, .. } => Waiter::Local { reply, retry: true },
                Waiter::Peer { peer, forward_id, .. } => Waiter::Peer { peer, forward_id, retry: true },
            };
            last.waiters.push(waiter);
            self.advance(context);
            return;
        }
        let sequence = self.length.saturating_sub(1);
        let ack = Ack {
            position: Position { epoch: self.epoch(), sequence: Sequence(sequence) },
            time: self.tip.map_or(context.now.wall, |tip| tip.time),
            home: context.me.clone(),
            level: Level::Majority,
            regions: self.holders(sequence, context.me),
            duplicate: true,
        };
        answer(waiter, Outcome::Acked(ack), context.effects, self.id);
    }

    /// The home's own commit is on disk up to `durable`: stream, then count.
    pub(crate) fn appended(&mut self, durable: u64, context: &mut Context<'_, R>) {
        let before = self.durable;
        self.durable = self.durable.max(durable);
        self.ensure_replicas(context);
        let fresh: Vec<Arc<SealedEntry>> = self.entries_between(before, self.durable);
        self.advance(context);
        let targets: Vec<RegionId> = self.home.replicas.keys().cloned().collect();
        for peer in targets {
            let ready = self.home.replicas.get(&peer).is_some_and(|replica| {
                !replica.catching_up && !replica.forked && replica.sent == before && context.links_up.contains(&peer)
            });
            if ready {
                self.send_entries(&peer, before, &fresh, Lane::Log(self.id), context);
            } else {
                self.catch_up(&peer, context);
            }
        }
    }

    /// Entries still in memory, `from <= sequence < to`.
    fn entries_between(&self, from: u64, to: u64) -> Vec<Arc<SealedEntry>> {
        self.pending
            .iter()
            .map(|pending| &pending.entry)
            .filter(|entry| (from..to).contains(&entry.sequence().0))
            .cloned()
            .collect()
    }

    /// The voters that the placement names are replicas from the start; their cursors begin at what is on disk here, in
    /// the hope that they have it. One that has not says so.
    pub(crate) fn ensure_replicas(&mut self, context: &Context<'_, R>) {
        let Some(record) = &self.record else { return };
        // Every region follows all placement logs, so that looking up a home is local.
        let everyone = if self.id.kind == LogKind::Placement { context.regions } else { &[] };
        for voter in record.voters.iter().chain(everyone) {
            if voter != context.me && !self.home.replicas.contains_key(voter) {
                let sent = self.pending.front().map_or(self.durable, |pending| pending.entry.sequence().0);
                self.home.replicas.insert(voter.clone(), Replica { sent, ..Replica::default() });
            }
        }
    }

    fn send_entries(
        &mut self,
        peer: &RegionId,
        first: u64,
        entries: &[Arc<SealedEntry>],
        lane: Lane,
        context: &mut Context<'_, R>,
    ) {
        let (opening, opening_hash) = self.opening();
        let voters = match (&self.record, first) {
            (Some(record), 0) => record.voters.iter().map(|voter| voter.as_str().to_owned()).collect(),
            _ => Vec::new(),
        };
        let mark = self.marked;
        let append = mesh::Append {
            log: Bytes::copy_from_slice(&self.id.to_bytes()),
            epoch: self.epoch().0,
            opening,
            opening_hash,
            first,
            entries: entries.iter().map(|entry| entry.encoded.clone()).collect(),
            mark,
            voters,
        };
        if let Some(replica) = self.home.replicas.get_mut(peer) {
            replica.sent = first + entries.len() as u64;
            replica.mark_sent = mark;
        }
        context.effects.push(Effect::Send { peer: peer.clone(), lane, body: mesh::Body::Append(append) });
    }

    /// Reads the next page for a replica that is behind, unless one is on its way.
    fn catch_up(&mut self, peer: &RegionId, context: &mut Context<'_, R>) {
        let Some(replica) = self.home.replicas.get_mut(peer) else { return };
        if replica.catching_up || replica.forked || replica.sent >= self.durable || !context.links_up.contains(peer) {
            return;
        }
        replica.catching_up = true;
        let from = replica.sent;
        let to = self.durable.min(from + CATCH_UP_ENTRIES);
        context.effects.push(Effect::ReadForReplica { log: self.id, peer: peer.clone(), from, to });
    }

    /// A page that was read for a replica.
    pub(crate) fn replica_page(
        &mut self,
        peer: &RegionId,
        from: u64,
        entries: &[Arc<SealedEntry>],
        context: &mut Context<'_, R>,
    ) {
        let wanted = self.home.replicas.get(peer).is_some_and(|replica| replica.catching_up && replica.sent == from);
        if wanted && !entries.is_empty() {
            self.send_entries(peer, from, entries, Lane::Bulk, context);
        } else if let Some(replica) = self.home.replicas.get_mut(peer) {
            replica.catching_up = false;
        }
    }

    /// A replica said what it has.
    pub(crate) fn replica_appended(&mut self, peer: &RegionId, said: &mesh::Appended, context: &mut Context<'_, R>) {
        self.ensure_replicas(context);
        let durable = self.durable;
        let Some(replica) = self.home.replicas.get_mut(peer) else { return };
        if said.fork || said.length > durable {
            replica.forked = true;
            replica.catching_up = false;
            context.effects.push(Effect::Fork { log: self.id, peer: peer.clone() });
            return;
        }
        if said.accepted == self.record.as_ref().map_or(0, |record| record.accepted.0) || said.length == 0 {
            replica.acked = if said.resend { said.length } else { replica.acked.max(said.length) };
        }
        if replica.catching_up {
            // Nothing is sent beside a page, so a page that arrived is acked as a whole; a resend starts over.
            if said.resend || said.length >= replica.sent {
                replica.catching_up = false;
                replica.sent = said.length;
            }
        } else if said.resend {
            replica.sent = said.length;
        }
        let behind = replica.sent < durable;
        self.advance(context);
        if behind {
            self.catch_up(peer, context);
        }
    }

    /// How many entries each voter has on disk.
    fn voter_lengths(&self, me: &RegionId) -> Vec<u64> {
        let Some(record) = &self.record else { return Vec::new() };
        record
            .voters
            .iter()
            .map(|voter| {
                if voter == me { self.durable } else { self.home.replicas.get(voter).map_or(0, |replica| replica.acked) }
            })
            .collect()
    }

    fn holders(&self, sequence: u64, me: &RegionId) -> Vec<RegionId> {
        let Some(record) = &self.record else { return Vec::new() };
        let lengths = self.voter_lengths(me);
        record.voters.iter().zip(lengths).filter(|(_, length)| *length > sequence).map(|(voter, _)| voter.clone()).collect()
    }

    /// Acks what has its copies, and moves the mark over what has them without a gap.
    pub(crate) fn advance(&mut self, context: &mut Context<'_, R>) {
        if self.pending.is_empty() {
            return;
        }
        let mut lengths = self.voter_lengths(context.me);
        let voters = lengths.len();
        lengths.sort_unstable_by(|one, other| other.cmp(one));
        // covered(level): entries below it have that level's copies.
        let covered = |level: Level| lengths.get(level.copies(voters) - 1).copied().unwrap_or(0).min(self.durable);
        let by_level = [covered(Level::Region), covered(Level::TwoRegions), covered(Level::Majority)];
        let reached = |level: Level| by_level[level as usize - 1];
        self.ack_covered(reached, context);
        let marked_before = self.marked;
        self.move_mark(reached, context);
        self.forget_settled();
        if self.marked > marked_before {
            self.tell_mark(context);
        }
    }

    fn ack_covered(&mut self, reached: impl Fn(Level) -> u64, context: &mut Context<'_, R>) {
        for index in 0..self.pending.len() {
            let pending = &self.pending[index];
            let fixed = &pending.entry.entry.fixed;
            let sequence = fixed.position.sequence.0;
            if pending.waiters.is_empty() || sequence >= reached(fixed.level) {
                continue;
            }
            let ack = Ack {
                position: fixed.position,
                time: fixed.time,
                home: context.me.clone(),
                level: fixed.level,
                regions: self.holders(sequence, context.me),
                duplicate: false,
            };
            for waiter in std::mem::take(&mut self.pending[index].waiters) {
                answer(waiter, Outcome::Acked(ack.clone()), context.effects, self.id);
            }
        }
    }

    fn move_mark(&mut self, reached: impl Fn(Level) -> u64, context: &mut Context<'_, R>) {
        let floor_level = if self.id.kind == LogKind::Conversation { Level::Region } else { Level::Majority };
        while let Some(front) = self.pending.front() {
            let fixed = &front.entry.entry.fixed;
            if fixed.position.sequence.0 >= reached(fixed.level.max(floor_level)) {
                break;
            }
            if let Some(pending) = self.pending.pop_front() {
                self.marked = pending.entry.sequence().0 + 1;
                let fixed = &pending.entry.entry.fixed;
                self.home.settled.push_back(((fixed.sender.clone(), fixed.id), fixed.position.sequence.0));
                self.publish(pending, true, context);
            }
        }
    }

    /// Replicas that got entries before their copies stood learn the mark by a frame without entries.
    fn tell_mark(&mut self, context: &mut Context<'_, R>) {
        let (marked, durable) = (self.marked, self.durable);
        let late: Vec<RegionId> = self
            .home
            .replicas
            .iter()
            .filter(|(peer, replica)| {
                replica.mark_sent < marked
                    && replica.sent == durable
                    && replica.sent >= marked
                    && !replica.catching_up
                    && !replica.forked
                    && context.links_up.contains(*peer)
            })
            .map(|(peer, _)| peer.clone())
            .collect();
        for peer in late {
            self.send_entries(&peer, durable, &[], Lane::Log(self.id), context);
        }
        if self.pending.is_empty() {
            context.effects.push(Effect::PutMark(self.id, marked));
        }
    }

    /// A link came up: the replica there is told where the home is, and says what it has.
    pub(crate) fn replica_link_up(&mut self, peer: &RegionId, context: &mut Context<'_, R>) {
        self.ensure_replicas(context);
        let durable = self.durable;
        let Some(replica) = self.home.replicas.get_mut(peer) else { return };
        replica.catching_up = false;
        replica.sent = durable;
        if durable > 0 {
            self.send_entries(peer, durable, &[], Lane::Log(self.id), context);
        }
    }

    /// A link went down: what was on its way is not believed to have arrived.
    pub(crate) fn replica_link_down(&mut self, peer: &RegionId) {
        if let Some(replica) = self.home.replicas.get_mut(peer) {
            replica.catching_up = false;
            replica.sent = replica.acked;
        }
    }

    /// Another region wants to hold the log, from what it has on.
    pub(crate) fn follow(&mut self, peer: &RegionId, length: u64, context: &mut Context<'_, R>) {
        let length = length.min(self.durable);
        self.home.replicas.insert(peer.clone(), Replica { acked: length, sent: length, ..Replica::default() });
        if length < self.durable {
            self.catch_up(peer, context);
        } else {
            self.send_entries(peer, length, &[], Lane::Log(self.id), context);
        }
    }

    /// Another region holds the log no longer. A voter stays a replica.
    pub(crate) fn unfollow(&mut self, peer: &RegionId) {
        if self.record.as_ref().is_some_and(|record| !record.voters.contains(peer)) {
            self.home.replicas.remove(peer);
        }
    }

    /// Anti-entropy for a loaded log: a replica that made no progress since the last time is asked again.
    pub(crate) fn ask_stalled(&mut self, context: &mut Context<'_, R>) {
        let durable = self.durable;
        let mut stalled = Vec::new();
        for (peer, replica) in &mut self.home.replicas {
            if replica.acked < durable && replica.acked_before == Some(replica.acked) && !replica.forked {
                stalled.push(peer.clone());
            }
            replica.acked_before = Some(replica.acked);
        }
        for peer in stalled {
            if context.links_up.contains(&peer) {
                self.replica_link_up(&peer, context);
            }
        }
    }

    /// Tells those who wait too long that their message is on disk here and its copies are not.
    pub(crate) fn tell_queued(&mut self, context: &mut Context<'_, R>) {
        let now = context.now.monotonic;
        for pending in &mut self.pending {
            if pending.queued || now < pending.decided_at + COPIES_PATIENCE_MILLISECONDS {
                continue;
            }
            pending.queued = true;
            for waiter in &pending.waiters {
                let outcome = Outcome::Queued(QueuedReason::CopiesMissing, context.me.clone());
                answer(waiter.clone(), outcome, context.effects, self.id);
            }
        }
    }

    /// Whether somebody waits here for copies.
    pub(crate) fn has_waiters(&self) -> bool {
        self.pending.iter().any(|pending| !pending.waiters.is_empty())
    }

    /// The replicas that lag, with how many entries they lack.
    pub(crate) fn lag_of(&self, peer: &RegionId) -> u64 {
        self.home.replicas.get(peer).map_or(0, |replica| self.durable.saturating_sub(replica.acked))
    }

    /// What follows from an entry that passed the mark, at the home and at replicas alike.
    pub(crate) fn publish(&self, pending: crate::log::Pending<R>, at_home: bool, context: &mut Context<'_, R>) {
        let entry = pending.entry;
        match self.id.kind {
            LogKind::Conversation => {
                if at_home {
                    let items = crate::log::outbox_records(self.id, &entry);
                    context.effects.extend(items.into_iter().map(Effect::Outbox));
                }
                let skip = pending.skip.or_else(|| context.take_awaiting(self.id, &entry));
                if let Some(audience) = pending.audience {
                    context.effects.push(Effect::Deliver { log: self.id, entry, audience, skip });
                }
            }
            LogKind::User => context.effects.push(Effect::UserChanged { log: self.id, entry }),
            LogKind::Placement => {
                if let Some(Change::Place { placement, .. }) = entry.change() {
                    context.placed.push(placement.clone());
                    context.effects.push(Effect::PutPlacement(placement));
                }
            }
        }
    }
}

pub(crate) fn other_content() -> Refusal {
    Refusal::new(ErrorCode::DuplicateMessage, "this messageId was used for another content or replyTo")
}

/// Whether a command repeats an entry: content gone, the id alone decides.
pub(crate) fn same_content(sealed: &SealedEntry, command: &Command) -> bool {
    let fixed = &sealed.entry.fixed;
    fixed.reply_to == command.reply_to
        && (fixed.kind != EntryKind::Message || sealed.content().is_none_or(|content| *content == command.content))
}

/// Lengths of the logs of one home, for one replica.
pub(crate) fn length_of<R: Clone>(log: &Log<R>) -> mesh::Length {
    mesh::Length {
        log: Bytes::copy_from_slice(&log.id.to_bytes()),
        epoch: log.epoch().0,
        length: log.durable,
        hash: log.tip.map_or_else(Bytes::new, |tip| Bytes::copy_from_slice(&tip.hash)),
        mark: log.marked,
    }
}

/// The regions whose links are up.
pub(crate) type LinksUp = BTreeSet<RegionId>;
