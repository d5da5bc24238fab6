//! What a home does once its own commit is on disk: stream to replicas, count their copies, ack, move the mark.

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::client::QueuedReason;
use hearth_protocol::{Change, Epoch, Level, LogKind, RegionId, SealedEntry, UserId, mesh};

use crate::command::{Ack, Command, Outcome, command_of};
use crate::core::Context;
use crate::effect::{Effect, Lane};
use crate::home::answer;
use crate::log::{Log, Pending, Replica, free_if_empty, outbox_records};
use crate::mutants::Mutant;
use crate::ownership::Flaw;

/// Entries of one page for a replica that is behind.
pub(crate) const CATCH_UP_ENTRIES: u64 = 2_048;
/// A page of at most so many entries, with at most as many behind it, goes on the log's own lane: what follows may be
/// streamed right behind it.
const SMALL_PAGE_ENTRIES: usize = 64;
/// Bytes of entries in one frame: well below what a link takes.
pub(crate) const FRAME_ENTRY_BYTES: usize = hearth_protocol::limits::MESH_FRAME_BYTES / 2;
/// Every level, in the order of [`crate::home::HomeState::acked_below`].
const LEVELS: [Level; 3] = [Level::Region, Level::TwoRegions, Level::Majority];

impl<R: Clone> Log<R> {
    /// The home's own commit is on disk up to `durable`: count, then stream with the mark that follows.
    pub(crate) fn appended(&mut self, durable: u64, context: &mut Context<'_, R>) {
        let before = self.durable;
        if durable <= before {
            return;
        }
        self.durable = durable;
        self.ensure_replicas(context);
        let fresh = self.entries_between(before, durable);
        self.advance(context);
        let targets: Vec<RegionId> = self.home.replicas.keys().cloned().collect();
        for peer in targets {
            let streams = context.links_up.contains(&peer)
                && self.home.replicas.get(&peer).is_some_and(|replica| replica.streams() && replica.sent == before);
            if streams {
                self.send_entries(&peer, before, &fresh, Lane::Log(self.id), context);
            } else {
                self.catch_up(&peer, context);
            }
        }
    }

    /// Messages of a user above the mark, as they were sent, and whether a device here sent them.
    pub(crate) fn unmarked_of(&self, sender: &UserId) -> Vec<(Command, bool)> {
        let of_it = self
            .pending
            .iter()
            .filter(|pending| pending.entry.entry.fixed.kind.is_sent())
            .filter(|pending| pending.entry.entry.fixed.sender == *sender)
            // An edit that came back without its text has nothing to be sent again.
            .filter(|pending| pending.entry.content().is_some());
        of_it.map(|pending| (command_of(self.id, &pending.entry).0, pending.sent_here)).collect()
    }

    /// Entries above the mark, `from <= sequence < to`.
    fn entries_between(&self, from: u64, to: u64) -> Vec<Arc<SealedEntry>> {
        let skip = usize::try_from(from.saturating_sub(self.marked)).unwrap_or(usize::MAX);
        let take = usize::try_from(to - from).unwrap_or(usize::MAX);
        self.pending.iter().skip(skip).take(take).map(|pending| pending.entry.clone()).collect()
    }

    /// The voters that the record names are replicas from the start; their cursors begin at what is on disk here, in
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

    /// Sends entries in as many frames as they need, one when there are none, with the mark.
    pub(crate) fn send_entries(
        &mut self,
        peer: &RegionId,
        first: u64,
        entries: &[Arc<SealedEntry>],
        lane: Lane,
        context: &mut Context<'_, R>,
    ) {
        let mut from = 0;
        loop {
            let to = frame_end(entries, from);
            let mut body = self.append_frame(first + from as u64, &entries[from..to]);
            if let mesh::Body::Append(append) = &mut body {
                append.invited = self.home.replicas.get(peer).is_some_and(|replica| replica.invited);
            }
            context.effects.push(Effect::Send { peer: peer.clone(), lane, body });
            from = to;
            if from >= entries.len() {
                break;
            }
        }
        if let Some(replica) = self.home.replicas.get_mut(peer) {
            replica.sent = first + entries.len() as u64;
            replica.mark_sent = self.marked;
        }
    }

    pub(crate) fn append_frame(&self, first: u64, entries: &[Arc<SealedEntry>]) -> mesh::Body {
        let (opening, opening_hash) = self.opening();
        let voters = match &self.record {
            Some(record) if first == 0 || entries.is_empty() => {
                record.voters.iter().map(|voter| voter.as_str().to_owned()).collect()
            }
            _ => Vec::new(),
        };
        let previous = if entries.is_empty() { self.hash_before(first) } else { None };
        mesh::Body::Append(mesh::Append {
            log: Bytes::copy_from_slice(&self.id.to_bytes()),
            epoch: self.epoch().0,
            opening,
            opening_hash,
            first,
            entries: entries.iter().map(|entry| entry.encoded.clone()).collect(),
            mark: self.marked,
            voters,
            previous: previous.map_or_else(Bytes::new, |hash| Bytes::copy_from_slice(&hash)),
            begin: None,
            invited: false,
            joins: 0,
        })
    }

    /// Reads the next page for a replica that is behind, unless one is being read or on its way.
    pub(crate) fn catch_up(&mut self, peer: &RegionId, context: &mut Context<'_, R>) {
        let Some(replica) = self.home.replicas.get_mut(peer) else { return };
        if !replica.streams() || replica.sent >= self.durable || !context.links_up.contains(peer) {
            return;
        }
        replica.reading = true;
        let from = replica.sent;
        let to = self.durable.min(from + CATCH_UP_ENTRIES);
        context.effects.push(Effect::ReadForReplica { log: self.id, peer: peer.clone(), from, to });
    }

    /// A page that was read for a replica. Its cursor may have moved meanwhile: then another page is read.
    pub(crate) fn replica_page(
        &mut self,
        peer: &RegionId,
        from: u64,
        entries: &[Arc<SealedEntry>],
        context: &mut Context<'_, R>,
    ) {
        let Some(replica) = self.home.replicas.get_mut(peer) else { return };
        replica.reading = false;
        if !replica.streams() || !context.links_up.contains(peer) {
            return;
        }
        if replica.sent != from || entries.is_empty() {
            if replica.sent != from {
                self.catch_up(peer, context);
            }
            return;
        }
        let end = from + entries.len() as u64;
        if entries.len() <= SMALL_PAGE_ENTRIES && self.durable.saturating_sub(end) <= SMALL_PAGE_ENTRIES as u64 {
            self.send_entries(peer, from, entries, Lane::Log(self.id), context);
            self.catch_up(peer, context);
            return;
        }
        replica.flying = Some((from, end));
        self.send_entries(peer, from, entries, Lane::Bulk, context);
    }

    /// A replica said what it has.
    pub(crate) fn replica_appended(&mut self, peer: &RegionId, said: &mesh::Appended, context: &mut Context<'_, R>) {
        if said.joining != 0 && self.length == 0 && self.id.kind == LogKind::Placement && self.may_ack(context) {
            // Nobody has written to it yet: a voter joins with its header.
            self.open_placement_log(context);
        }
        self.ensure_replicas(context);
        let Some(accepted) = self.record.as_ref().map(|record| record.accepted.0) else { return };
        if said.newer > accepted {
            self.give_way(Epoch(said.newer), context);
            return;
        }
        if said.length > 0 && !self.home.replicas.contains_key(peer) {
            // A follower that this process did not know: it holds the log, and is sent what comes.
            self.home.replicas.insert(peer.clone(), Replica { sent: said.length, ..Replica::default() });
        }
        let durable = self.durable;
        // Above an open range its stream goes on at another place than its head.
        let place = said.length.max(said.above);
        let opening = self.opening().0;
        let votes = self.record.as_ref().is_some_and(|record| record.voters.contains(peer));
        if (said.fork || place > durable) && !self.counts() {
            // It is this region that has an older copy of its store.
            return;
        }
        let Some(replica) = self.home.replicas.get_mut(peer) else { return };
        if replica.forked || replica.lapsed || replica.begin.is_some() {
            return;
        }
        let counts = said.accepted == accepted || Mutant::Rule(Flaw::CountUnaccepted).is_on();
        // One that has promised and holds nothing cannot say where to go on from.
        let lost = said.length > 0 || !said.resend;
        if said.accepted < accepted && lost && !said.fork && !counts {
            self.bring_over(peer, said, opening, context);
            return;
        }
        if said.fork || place > durable {
            *replica = Replica { forked: true, reading: replica.reading, ..Replica::default() };
            context.effects.push(Effect::Fork { log: self.id, peer: peer.clone() });
            return;
        }
        if said.joining != 0 && votes {
            replica.acked = 0;
        } else if counts || said.length == 0 {
            replica.acked = if said.resend { said.length } else { replica.acked.max(said.length) };
        }
        match replica.flying {
            Some((_, to)) if place >= to => replica.flying = None,
            // Asked before the page came; a page that is lost is noticed by anti-entropy.
            Some((from, _)) if place == from => {}
            Some(_) if said.resend => {
                replica.flying = None;
                replica.sent = place;
            }
            None if said.resend => replica.sent = place,
            Some(_) | None => {}
        }
        self.advance(context);
        self.settle_replica(peer, context);
        if counts && said.joining != 0 && said.joining != mesh::NOT_KNOWN_YET {
            self.offer_to_join(peer, said.joining, context);
        }
    }

    /// Names what is on disk here to a voter whose store is of a new incarnation, behind all that it was sent: it counts
    /// once it holds that. What its store of before had said counts no longer by now.
    fn offer_to_join(&mut self, peer: &RegionId, joins: u64, context: &mut Context<'_, R>) {
        let Some(replica) = self.home.replicas.get(peer) else { return };
        let votes = self.record.as_ref().is_some_and(|record| record.voters.contains(peer)) || replica.invited;
        let sent_all = replica.streams() && replica.sent == self.durable && context.links_up.contains(peer);
        if !votes || !sent_all || !self.may_ack(context) {
            return;
        }
        if let mesh::Body::Append(append) = self.append_frame(self.durable, &[]) {
            let body = mesh::Body::Append(mesh::Append { joins, ..append });
            context.effects.push(Effect::Send { peer: peer.clone(), lane: Lane::Log(self.id), body });
        }
    }

    /// A replica has not accepted this epoch: it is sent what the epoch opened with, from where it asks; what it holds
    /// is no copy.
    fn bring_over(&mut self, peer: &RegionId, said: &mesh::Appended, opening: u64, context: &mut Context<'_, R>) {
        let Some(replica) = self.home.replicas.get_mut(peer) else { return };
        let place = match said.resend {
            true => said.length,
            // It knows the opening, and its log does not lead there: it needs the entry before it to see where to ask.
            false => said.length.min(opening.saturating_sub(1)),
        };
        replica.acked = 0;
        if !said.resend && replica.flying.is_some_and(|(from, to)| (from..to).contains(&place)) {
            // The rest of the page is on its way.
            return;
        }
        replica.flying = None;
        replica.sent = place.min(self.durable);
        self.catch_up(peer, context);
    }

    /// Sends a replica what it lacks of entries or mark, unless that is on its way.
    fn settle_replica(&mut self, peer: &RegionId, context: &mut Context<'_, R>) {
        let (durable, marked) = (self.durable, self.marked);
        let Some(replica) = self.home.replicas.get(peer) else { return };
        if replica.sent < durable {
            self.catch_up(peer, context);
        } else if replica.mark_sent < marked && replica.streams() && context.links_up.contains(peer) {
            self.send_entries(peer, durable, &[], Lane::Log(self.id), context);
        }
    }

    /// How many entries each voter has on disk.
    fn voter_lengths(&self, me: &RegionId) -> Vec<u64> {
        let Some(record) = &self.record else { return Vec::new() };
        let length = |voter: &RegionId| {
            if voter == me {
                self.held_here()
            } else {
                self.home.replicas.get(voter).map_or(0, |replica| replica.acked)
            }
        };
        record.voters.iter().map(length).collect()
    }

    /// How many entries count as on disk here.
    fn held_here(&self) -> u64 {
        if Mutant::AckBeforeDisk.is_on() { self.length } else { self.durable }
    }

    /// The voters that have an entry on disk, as far as they said.
    pub(crate) fn holders(&self, sequence: u64, me: &RegionId) -> Vec<RegionId> {
        let Some(record) = &self.record else { return Vec::new() };
        let lengths = self.voter_lengths(me);
        let having = record.voters.iter().zip(lengths).filter(|(_, length)| *length > sequence);
        having.map(|(voter, _)| voter.clone()).collect()
    }

    /// By level: entries below it have that level's copies.
    fn covered_by_level(&self, me: &RegionId) -> [u64; 3] {
        let mut lengths = self.voter_lengths(me);
        let voters = lengths.len();
        lengths.sort_unstable_by(|one, other| other.cmp(one));
        let copies = |level: Level| if Mutant::Rule(Flaw::AckBeforeCopies).is_on() { 1 } else { level.copies(voters) };
        LEVELS.map(|level| lengths.get(copies(level) - 1).copied().unwrap_or(0).min(self.held_here()))
    }

    /// Entries below it have the copies of a level.
    pub(crate) fn covered(&self, level: Level, me: &RegionId) -> u64 {
        self.covered_by_level(me)[level as usize - 1]
    }

    /// The ack of a pending entry, naming who has it now.
    pub(crate) fn ack_of(&self, sequence: u64, me: &RegionId) -> Option<Ack> {
        let fixed = &self.pending_at(sequence)?.entry.entry.fixed;
        Some(Ack {
            position: fixed.position,
            time: fixed.time,
            home: me.clone(),
            level: fixed.level,
            regions: self.holders(sequence, me),
            duplicate: false,
        })
    }

    /// Acks what has its copies, and moves the mark over what has them without a gap.
    pub(crate) fn advance(&mut self, context: &mut Context<'_, R>) {
        if self.pending.is_empty() || !self.may_ack(context) {
            return;
        }
        let covered = self.covered_by_level(context.me);
        self.ack_covered(covered, context);
        let marked_before = self.marked;
        self.move_mark(covered, context);
        self.home.forget_settled();
        if self.marked > marked_before {
            self.send_beginnings(context);
            self.tell_mark(context);
            self.take_paced(context);
        }
    }

    /// Each entry is looked at once a level, whatever waits before it.
    fn ack_covered(&mut self, covered: [u64; 3], context: &mut Context<'_, R>) {
        for (index, level) in LEVELS.into_iter().enumerate() {
            let from = self.home.acked_below[index].max(self.marked);
            self.home.acked_below[index] = from.max(covered[index]);
            for sequence in from..covered[index] {
                let waits = self
                    .pending_at(sequence)
                    .is_some_and(|pending| pending.entry.entry.fixed.level == level && pending.waiting() > 0);
                if waits {
                    self.ack(sequence, context);
                }
            }
        }
    }

    fn ack(&mut self, sequence: u64, context: &mut Context<'_, R>) {
        let Some(ack) = self.ack_of(sequence, context.me) else { return };
        let Some(pending) = self.pending_index(sequence).and_then(|index| self.pending.get_mut(index)) else { return };
        for waiter in pending.take_waiters() {
            self.home.waiters -= 1;
            answer(waiter, Outcome::Acked(ack.clone()), context.effects, self.id);
        }
    }

    fn move_mark(&mut self, covered: [u64; 3], context: &mut Context<'_, R>) {
        let least = if self.id.kind == LogKind::Conversation { Level::Region } else { Level::Majority };
        while let Some(front) = self.pending.front() {
            let own = front.entry.entry.fixed.level;
            let level = if Mutant::Rule(Flaw::MarkByConversation).is_on() { least } else { own.max(least) };
            if self.marked >= covered[level as usize - 1] {
                break;
            }
            if front.waiting() > 0 {
                // Acked before under copies that a replica lost since, and asked for again.
                self.ack(self.marked, context);
            }
            if let Some(pending) = self.pending.pop_front() {
                self.marked += 1;
                self.home.settle(&pending.entry);
                self.publish(pending, true, context);
            }
        }
        free_if_empty(&mut self.pending);
    }

    /// Replicas that got entries before their copies stood learn the mark by a frame without entries.
    fn tell_mark(&mut self, context: &mut Context<'_, R>) {
        let (marked, durable) = (self.marked, self.durable);
        let is_late = |replica: &Replica| {
            replica.mark_sent < marked && replica.sent == durable && replica.sent >= marked && replica.streams()
        };
        let late =
            self.home.replicas.iter().filter(|(peer, replica)| is_late(replica) && context.links_up.contains(*peer));
        let late: Vec<RegionId> = late.map(|(peer, _)| peer.clone()).collect();
        for peer in late {
            self.send_entries(&peer, durable, &[], Lane::Log(self.id), context);
        }
        if self.pending.is_empty() {
            context.effects.push(Effect::PutMark(self.id, marked));
        }
    }

    /// A region that is to vote takes a copy from now on, and says what it has.
    pub(crate) fn invite(&mut self, peer: &RegionId, context: &mut Context<'_, R>) {
        self.ensure_replicas(context);
        let replica = self.home.replicas.entry(peer.clone()).or_default();
        (replica.invited, replica.lapsed) = (true, false);
        self.replica_link_up(peer, context);
    }

    /// How many entries a replica lacks of what is on disk here; `None` when it is none, or gets nothing now.
    pub(crate) fn lacks(&self, peer: &RegionId) -> Option<u64> {
        let replica = self.home.replicas.get(peer).filter(|replica| !replica.forked && !replica.lapsed)?;
        Some(self.durable.saturating_sub(replica.acked))
    }

    /// A link came up: the replica there is told where the home is, and says what it has.
    pub(crate) fn replica_link_up(&mut self, peer: &RegionId, context: &mut Context<'_, R>) {
        self.ensure_replicas(context);
        let durable = self.durable;
        let Some(replica) = self.home.replicas.get_mut(peer) else { return };
        if replica.lapsed || replica.begin.is_some() {
            return;
        }
        replica.flying = None;
        replica.sent = durable;
        // That a new steward opened a placement log is told of an empty one, too: who has its epoch has its line.
        let opened = self.id.kind == LogKind::Placement
            && self.record.as_ref().is_some_and(|record| record.accepted > Epoch(1) && record.voters.contains(peer));
        if durable > 0 || opened {
            self.send_entries(peer, durable, &[], Lane::Log(self.id), context);
        }
    }

    /// Asks every replica that can be reached what it has.
    pub(crate) fn ask_voters(&mut self, context: &mut Context<'_, R>) {
        let peers: Vec<RegionId> = context.links_up.iter().cloned().collect();
        for peer in peers {
            self.replica_link_up(&peer, context);
        }
    }

    /// A link went down: what was on its way is not believed to have arrived.
    pub(crate) fn replica_link_down(&mut self, peer: &RegionId) {
        let follows = !self.sends_all_to(peer);
        if let Some(replica) = self.home.replicas.get_mut(peer) {
            replica.flying = None;
            replica.sent = replica.acked;
            replica.mark_sent = 0;
            replica.begin = None;
            replica.lapsed = follows;
        }
    }

    /// Whether a region is a replica without following: it votes, or the log is a placement log.
    pub(crate) fn sends_all_to(&self, peer: &RegionId) -> bool {
        self.id.kind == LogKind::Placement || self.record.as_ref().is_none_or(|record| record.voters.contains(peer))
    }

    /// Forgets who waits for acks in another region: its link broke.
    pub(crate) fn forget_waiters_of(&mut self, peer: &RegionId) {
        self.home.forget_waiters_of(peer);
        if self.home.waiters == 0 {
            return;
        }
        for pending in &mut self.pending {
            let before = pending.waiting();
            pending.waiters.retain(|waiter| !waiter.is_from(peer));
            pending.joins.retain(|join| !join.waiter.is_from(peer));
            self.home.waiters -= before - pending.waiting();
        }
    }

    /// Anti-entropy for a loaded log: a replica that made no progress since the last time is asked again.
    pub(crate) fn ask_stalled(&mut self, context: &mut Context<'_, R>) {
        let durable = self.durable;
        let mut stalled = Vec::new();
        for (peer, replica) in &mut self.home.replicas {
            let asked = replica.acked < durable && !replica.forked && !replica.lapsed && replica.begin.is_none();
            if asked && replica.acked_before == Some(replica.acked) {
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
            if now < pending.decided_at + context.copies_patience {
                // Those behind it were decided later.
                break;
            }
            if pending.queued || pending.entry.sequence().0 >= self.durable {
                continue;
            }
            pending.queued = true;
            for waiter in pending.waiters.iter().chain(pending.joins.iter().map(|join| &join.waiter)) {
                let outcome = Outcome::Queued(QueuedReason::CopiesMissing, context.me.clone());
                answer(waiter.clone(), outcome, context.effects, self.id);
            }
        }
    }

    /// Whether somebody waits here for copies, or for others who join.
    pub(crate) fn has_waiters(&self) -> bool {
        self.home.waiters > 0 || self.home.joins.len() > 0
    }

    /// How many entries a replica lacks.
    pub(crate) fn lag_of(&self, peer: &RegionId) -> u64 {
        self.home.replicas.get(peer).map_or(0, |replica| self.durable.saturating_sub(replica.acked))
    }

    /// What follows from an entry that passed the mark, at the home and at replicas alike.
    pub(crate) fn publish(&self, pending: Pending<R>, at_home: bool, context: &mut Context<'_, R>) {
        let entry = pending.entry;
        match self.id.kind {
            LogKind::Conversation => {
                if at_home {
                    let items = outbox_records(self.id, &entry);
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

/// The end of the frame that begins at `from`: at least one entry, if there is one, and not too many bytes.
fn frame_end(entries: &[Arc<SealedEntry>], from: usize) -> usize {
    let mut bytes = 0;
    let rest = entries.iter().skip(from);
    let fitting = rest.take_while(|entry| {
        let fits = bytes == 0 || bytes + entry.encoded.len() <= FRAME_ENTRY_BYTES;
        bytes += entry.encoded.len();
        fits
    });
    from + fitting.count()
}

/// The length of a log at its home, as a replica is told. The hash goes along when it is of the last entry on disk.
pub(crate) fn length_of<R: Clone>(log: &Log<R>) -> mesh::Length {
    let tip = log.tip.filter(|_| log.length == log.durable);
    mesh::Length {
        log: Bytes::copy_from_slice(&log.id.to_bytes()),
        epoch: log.epoch().0,
        length: log.durable,
        hash: tip.map_or_else(Bytes::new, |tip| Bytes::copy_from_slice(&tip.hash)),
        mark: log.marked,
    }
}
