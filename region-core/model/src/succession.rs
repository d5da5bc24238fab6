//! What a log does when its epoch changes: it promises, takes a newer line, opens as home, seals itself. The rules are
//! those of [`crate::ownership`]; this brings them to a log in memory and to its commits.

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::record::{LogRecord, Opening};
use hearth_protocol::{Epoch, Hash, LossStatement, Placement, RegionId, SealedEntry, Timestamp, mesh};

use crate::core::Context;
use crate::effect::{Effect, Lane};
use crate::home::HomeState;
use crate::line::Line;
use crate::log::{Log, PushedBy, Waiter, add_indexes};
use crate::mutants::Mutant;
use crate::ownership::{
    Append, Flaw, Held, Home, Migration, MoveError, OpenError, OpeningAt, Placing, Replica, Right, Said, Shipped,
    StageWrite, Staged, Standing, Step, Trust, Unread, Write, promised_above, way_back,
};
use crate::ranges::go_stale;
use crate::view::Members;

/// Bytes of a newer line that are held beside the log until it is complete. A line that differs for longer is not
/// taken: the replica tells of a fork.
const STAGED_BYTES: usize = 256 * 1024 * 1024;
/// Hashes that are read at a time.
const HASHES_AT_ONCE: usize = 1_024;
/// Hashes that were read and are kept: more than one frame can ask for.
const HASHES: usize = 8_192;

/// A commit that changes what a log promised or which line it is on, and what follows once it is durable.
#[derive(Debug, Default)]
pub(crate) struct OwnedWrite {
    /// Frames that may leave then.
    pub(crate) says: Vec<(RegionId, mesh::Body)>,
    /// Whether entries left the log: it is read again from the store.
    pub(crate) reload: bool,
    /// Whether entries were put apart otherwise.
    pub(crate) apart: bool,
    /// Whether this region opens an epoch with it.
    pub(crate) opened: bool,
    /// The line that the log is on with it, where that is a newer epoch's, and the members.
    pub(crate) line: Option<(Arc<Line>, Arc<Members>)>,
}

/// What a step leaves to the core.
#[derive(Debug)]
pub(crate) enum Owned {
    /// A commit is on its way.
    Write(OwnedWrite),
    /// To be said behind the commits on their way.
    Say(Vec<(RegionId, mesh::Body)>),
}

/// A newer line as far as it is known and differs from the log. It stands in memory: after a crash it is sent again.
#[derive(Debug, Default)]
pub(crate) struct NewerLine {
    /// Boxed: of most logs there is no newer line.
    staged: Option<Box<Staged<Hash>>>,
    entries: Vec<Arc<SealedEntry>>,
    bytes: usize,
}

impl NewerLine {
    /// Takes what a decision stages; returns whether there is room.
    fn take(&mut self, stage: StageWrite<Arc<SealedEntry>>, staged: Option<Staged<Hash>>) -> bool {
        let more = match stage {
            StageWrite::Keep => Vec::new(),
            StageWrite::Drop => {
                *self = Self::default();
                Vec::new()
            }
            StageWrite::Start(entries) => {
                *self = Self::default();
                entries
            }
            StageWrite::Extend(entries) => entries,
        };
        self.bytes += more.iter().map(|entry| entry.encoded.len()).sum::<usize>();
        self.entries.extend(more);
        self.staged = staged.map(Box::new);
        self.bytes <= STAGED_BYTES
    }
}

/// The log as decided, for [`Held`].
struct OwnLog<'a, R>(&'a Log<R>);

impl<R: Clone> Held<Arc<SealedEntry>> for OwnLog<'_, R> {
    fn length(&self) -> u64 {
        self.0.length
    }

    fn hash_at(&self, sequence: u64) -> Result<Hash, Unread> {
        self.0.known_hash(sequence).ok_or(Unread(sequence))
    }

    fn last_epoch(&self) -> Option<Epoch> {
        self.0.tip.map(|tip| tip.epoch)
    }
}

/// A placement as ownership sees it.
pub(crate) fn placing_of(placement: &Placement) -> Placing<RegionId, Hash> {
    Placing {
        home: placement.home.clone(),
        generation: placement.generation,
        opening: OpeningAt { epoch: placement.epoch, first: placement.first, previous: placement.previous },
        voters: placement.voters.clone(),
    }
}

/// The placement that follows `before` as ownership decided it.
pub(crate) fn placement_of(
    before: &Placement,
    placing: Placing<RegionId, Hash>,
    loss: Option<LossStatement>,
) -> Placement {
    Placement {
        home: placing.home,
        epoch: placing.opening.epoch,
        voters: placing.voters,
        generation: placing.generation,
        first: placing.opening.first,
        previous: placing.opening.previous,
        loss,
        ..before.clone()
    }
}

/// What an opened epoch may lack, as a placement states it.
pub(crate) fn loss_of(loss: crate::ownership::LossStatement, lost_home: RegionId, made_at: Timestamp) -> LossStatement {
    LossStatement {
        epoch: loss.epoch,
        from: loss.from,
        covered_copies: u32::try_from(loss.covered_copies).unwrap_or(u32::MAX),
        lost_home,
        made_at,
    }
}

fn bytes_of(hash: &Hash) -> Bytes {
    Bytes::copy_from_slice(hash)
}

impl<R: Clone> Log<R> {
    /// What this region promised and accepted about the log.
    fn standing(&self) -> Standing<Hash> {
        let trust = if self.counts() { Trust::Full } else { Trust::Joining(None) };
        let Some(record) = &self.record else { return Standing { trust, ..Standing::empty() } };
        let openings = record.openings.iter().map(|opening| OpeningAt {
            epoch: opening.epoch,
            first: opening.first,
            previous: opening.previous,
        });
        Standing {
            sealed: record.sealed,
            accepted: record.accepted,
            openings: openings.collect(),
            mark: self.marked,
            staged: self.newer.staged.as_deref().cloned(),
            trust,
        }
    }

    fn as_replica(&self) -> Replica<Arc<SealedEntry>> {
        Replica::new(self.standing())
    }

    /// The hash of an entry, where memory has it.
    fn known_hash(&self, sequence: u64) -> Option<Hash> {
        if let Some(pending) = self.pending_at(sequence) {
            return Some(pending.entry.hash);
        }
        if sequence + 1 == self.length {
            return self.tip.map(|tip| tip.hash);
        }
        let opening = self.record.iter().flat_map(|record| &record.openings).find(|at| at.first == sequence + 1);
        opening.map(|opening| opening.previous).or_else(|| self.hashes.get(&sequence).copied())
    }

    /// Hashes that a decision asked for were read.
    pub(crate) fn hashes_read(&mut self, entries: &[Arc<SealedEntry>]) {
        if self.hashes.len() + entries.len() > HASHES {
            self.hashes.clear();
        }
        self.hashes.extend(entries.iter().map(|entry| (entry.sequence().0, entry.hash)));
    }

    /// Whether nothing newer than the accepted epoch was promised here.
    pub(crate) fn is_unsealed(&self) -> bool {
        self.record.as_ref().is_none_or(|record| record.accepted == record.sealed)
    }

    /// Whether this region may ack and number under the placement now.
    pub(crate) fn may_ack(&self, context: &Context<'_, R>) -> bool {
        context.sequences && (self.is_unsealed() || Mutant::Rule(Flaw::CountAfterSeal).is_on())
    }

    /// Makes a decision durable; what it says goes to `peer` once it is.
    fn take_step(
        &mut self,
        step: Step<Arc<SealedEntry>>,
        peer: &RegionId,
        owner: Option<(RegionId, Vec<RegionId>)>,
        context: &mut Context<'_, R>,
    ) {
        let says: Vec<(RegionId, mesh::Body)> =
            step.then.iter().filter_map(|said| Some((peer.clone(), self.body_of(said)?))).collect();
        if Mutant::SealBeforeDisk.is_on() {
            let sends = |(peer, body): &(RegionId, mesh::Body)| Effect::Send {
                peer: peer.clone(),
                lane: Lane::Log(self.id),
                body: body.clone(),
            };
            context.effects.extend(says.iter().map(sends));
        }
        match step.write {
            Some(write) => self.write_owned(write, owner, OwnedWrite { says, ..OwnedWrite::default() }, context),
            None => self.say_after_writes(says, context),
        }
    }

    /// Says what rests on nothing but what is durable or on its way: behind the commits on their way.
    fn say_after_writes(&self, says: Vec<(RegionId, mesh::Body)>, context: &mut Context<'_, R>) {
        context.owned.push(Owned::Say(says));
    }

    fn write_owned(
        &mut self,
        write: Write<Arc<SealedEntry>>,
        owner: Option<(RegionId, Vec<RegionId>)>,
        mut after: OwnedWrite,
        context: &mut Context<'_, R>,
    ) {
        let Write { stage, apart, adopt, append: entries, standing } = write;
        if !self.newer.take(stage, standing.staged.clone()) {
            self.newer = NewerLine::default();
            let conflict = self.body_of(&Said::Conflict { at: self.length });
            after.says = after.says.drain(..).filter_map(|(peer, _)| Some((peer, conflict.clone()?))).collect();
            return self.say_after_writes(after.says, context);
        }
        // What the same frame staged is adopted with what was staged before.
        let adopted = if adopt { std::mem::take(&mut self.newer).entries } else { Vec::new() };
        let mut record = self.record_of(&standing, owner, context.me);
        if after.opened {
            // Whoever opens an epoch holds all of it.
            record.incarnation = self.store.unwrap_or(record.incarnation);
        }
        let entries: Vec<Arc<SealedEntry>> = adopted.into_iter().chain(entries).collect();
        let cut = apart.filter(|apart| *apart < self.length);
        if self.record.as_ref() == Some(&record) && entries.is_empty() && cut.is_none() {
            return self.say_after_writes(after.says, context);
        }
        if let Some(members) = self.view.members().filter(|_| self.epoch() < record.accepted) {
            after.line = Some((Arc::new(Line::of_record(&record)), Arc::clone(members)));
        }
        self.record = Some(record.clone());
        let mut append = self.start_append();
        append.promises = true;
        append.epoch = record.sealed;
        append.record = Some(record);
        if cut.is_some() {
            after.reload = true;
            append.apart = cut;
            // What was shown here, and not what may be: the rest is shown once the log is read again.
            append.mark = self.marked.min(cut.unwrap_or(u64::MAX));
            add_indexes(&mut append, &entries);
            append.entries = entries;
        } else {
            for entry in entries {
                let pushed = PushedBy { waiter: Waiter::Gone, skip: None, now: context.now.monotonic };
                self.push(entry, pushed, &mut append);
            }
        }
        context.effects.push(Effect::Append(Box::new(append)));
        context.owned.push(Owned::Write(after));
    }

    fn record_of(
        &self,
        standing: &Standing<Hash>,
        owner: Option<(RegionId, Vec<RegionId>)>,
        me: &RegionId,
    ) -> LogRecord {
        let before = self.record.as_ref();
        let (home, voters) = owner.unwrap_or_else(|| match (before, &self.placement) {
            (Some(record), _) => (record.home.clone(), record.voters.clone()),
            (None, Some(placement)) => (placement.home.clone(), placement.voters.clone()),
            (None, None) => (me.clone(), Vec::new()),
        });
        let openings = standing.openings.iter().map(|opening| Opening {
            epoch: opening.epoch,
            first: opening.first,
            previous: opening.previous,
            loss: self.opened_with_loss(opening.epoch),
        });
        LogRecord {
            home,
            voters,
            accepted: standing.accepted,
            sealed: standing.sealed,
            openings: openings.collect(),
            floor: before.map_or(0, |record| record.floor),
            published: before.map_or(0, |record| record.published),
            open_ranges: before.map(|record| record.open_ranges.clone()).unwrap_or_default(),
            incarnation: before.map_or(0, |record| record.incarnation),
        }
    }

    /// Whether a loss statement goes with an epoch, as far as this region knows.
    fn opened_with_loss(&self, epoch: Epoch) -> bool {
        let known = self.record.iter().flat_map(|record| &record.openings);
        known.into_iter().any(|opening| opening.epoch == epoch && opening.loss)
            || self.placement.as_ref().is_some_and(|placed| placed.epoch == epoch && placed.loss.is_some())
    }

    /// An epoch may be accepted here before its placement says whose it is, and that it may lack something.
    pub(crate) fn note_placement(&mut self, placement: &Placement) {
        if let Some(record) = self.record.as_mut().filter(|record| record.accepted == placement.epoch) {
            record.home.clone_from(&placement.home);
        }
        let openings = self.record.iter_mut().flat_map(|record| &mut record.openings);
        for opening in openings.filter(|opening| opening.epoch == placement.epoch) {
            opening.loss |= placement.loss.is_some();
        }
    }

    fn body_of(&self, said: &Said<Arc<SealedEntry>>) -> Option<mesh::Body> {
        let accepted = self.record.as_ref().map_or(0, |record| record.accepted.0);
        let log = Bytes::copy_from_slice(&self.id.to_bytes());
        let (length, joining) = (self.head(), self.joining());
        let appended = mesh::Appended { log: log.clone(), accepted, length, joining, ..mesh::Appended::default() };
        Some(match said {
            Said::Holds { accepted, length, .. } => {
                mesh::Body::Appended(mesh::Appended { accepted: accepted.0, length: *length, ..appended })
            }
            Said::Asks { from } => mesh::Body::Appended(mesh::Appended { length: *from, resend: true, ..appended }),
            Said::Newer { sealed } => mesh::Body::Appended(mesh::Appended { newer: sealed.0, ..appended }),
            Said::Conflict { .. } => mesh::Body::Appended(mesh::Appended { fork: true, ..appended }),
            Said::Sealed { epoch, accepted, length, last, counts } => mesh::Body::Sealed(mesh::Sealed {
                log,
                epoch: epoch.0,
                accepted: accepted.0,
                length: *length,
                last: if *length == 0 { Bytes::new() } else { bytes_of(last) },
                counts: *counts && self.ranges.open.is_none(),
                newer: 0,
            }),
            Said::Rewound { .. } | Said::Append(_) => return None,
        })
    }

    /// An opener asks for a promise: it is on disk before it is answered, also when it was given before.
    pub(crate) fn seal(&mut self, peer: &RegionId, epoch: Epoch, context: &mut Context<'_, R>) -> Result<(), Unread> {
        let mut replica = self.as_replica();
        let step = replica.handle_seal(&OwnLog(self), epoch, &Shipped)?;
        if let [Said::Newer { sealed }] = step.then[..] {
            let log = Bytes::copy_from_slice(&self.id.to_bytes());
            let newer = mesh::Sealed { log, epoch: epoch.0, newer: sealed.0, ..mesh::Sealed::default() };
            self.say_after_writes(vec![(peer.clone(), mesh::Body::Sealed(newer))], context);
        } else {
            self.take_step(step, peer, None, context);
        }
        Ok(())
    }

    /// Tells a home of an older epoch that a newer one was promised here.
    pub(crate) fn say_newer(&mut self, peer: &RegionId, context: &mut Context<'_, R>) {
        let Some(sealed) = self.record.as_ref().map(|record| record.sealed) else { return };
        if let Some(body) = self.body_of(&Said::Newer { sealed }) {
            self.say_after_writes(vec![(peer.clone(), body)], context);
        }
    }

    /// Takes what the home of a newer epoch sent, towards accepting it.
    pub(crate) fn succeed(
        &mut self,
        peer: &RegionId,
        append: &mesh::Append,
        entries: &[Arc<SealedEntry>],
        context: &mut Context<'_, R>,
    ) -> Result<(), Unread> {
        if self.ranges.open.is_some() {
            // Below an open range nothing is known by hash: the stream begins anew.
            go_stale(&mut self.ranges);
            self.ask_fresh(peer, context);
            return Ok(());
        }
        let opening = OpeningAt {
            epoch: Epoch(append.epoch),
            first: append.opening,
            previous: append.opening_hash[..].try_into().unwrap_or_default(),
        };
        let frame = Append { epoch: opening.epoch, opening, entries: entries.to_vec(), mark: append.mark };
        self.take_line(peer, &frame, &append.voters, context)
    }

    /// The same for a frame in ownership's own form.
    pub(crate) fn take_line(
        &mut self,
        peer: &RegionId,
        frame: &Append<Arc<SealedEntry>>,
        voters: &[String],
        context: &mut Context<'_, R>,
    ) -> Result<(), Unread> {
        let accepted_before = self.epoch();
        let mut replica = self.as_replica();
        let step = replica.handle_append(&OwnLog(self), frame, &Shipped)?;
        let accepts = replica.standing().accepted == frame.epoch || self.record.is_none();
        if accepted_before < frame.epoch {
            // This region streams no more.
            self.home.replicas.clear();
        }
        let owner = accepts.then(|| (peer.clone(), self.voters_under(frame.epoch, voters)));
        self.take_step(step, peer, owner, context);
        if self.epoch() == frame.epoch {
            self.hashes.clear();
            // What a home of before told may be of another line.
            let before = if accepted_before == frame.epoch { self.told_mark } else { 0 };
            self.told_mark = before.max(frame.mark);
        }
        Ok(())
    }

    /// The voters of an epoch: as its home says, or its placement, or as before.
    fn voters_under(&self, epoch: Epoch, said: &[String]) -> Vec<RegionId> {
        let said: Vec<RegionId> = said.iter().filter_map(|voter| RegionId::new(voter).ok()).collect();
        let placed = self.placement.as_ref().filter(|placement| placement.epoch == epoch);
        match (said.is_empty(), placed) {
            (false, _) => said,
            (true, Some(placement)) => placement.voters.clone(),
            (true, None) => self.record.as_ref().map(|record| record.voters.clone()).unwrap_or_default(),
        }
    }

    /// Opens the epoch of the placement here. Whether that is on its way.
    pub(crate) fn open_epoch(&mut self, right: Right, context: &mut Context<'_, R>) -> Result<(), OpenError> {
        let Some(placement) = self.placement.clone() else { return Err(OpenError::NoRight) };
        let mut replica = self.as_replica();
        let (_, step) = Home::open(context.me, &placing_of(&placement), right, &mut replica, &OwnLog(self), &Shipped)?;
        self.home = HomeState::default();
        if let Some(write) = step.write {
            let after = OwnedWrite { opened: true, ..OwnedWrite::default() };
            self.write_owned(write, Some((context.me.clone(), placement.voters)), after, context);
        }
        Ok(())
    }

    /// A voter of this home promised a newer epoch: nothing more is numbered here under this one.
    pub(crate) fn give_way(&mut self, newer: Epoch, context: &mut Context<'_, R>) {
        if let Some(write) = self.as_replica().give_way(newer) {
            self.write_owned(write, None, OwnedWrite::default(), context);
        }
    }

    /// The home promises to number nothing more under its epoch, for a move.
    pub(crate) fn seal_for_move(
        &mut self,
        migration: &mut Migration<RegionId, Hash>,
        right: Right,
        context: &mut Context<'_, R>,
    ) -> Result<(), MoveError> {
        let mut replica = self.as_replica();
        let line = OwnLog(self);
        let opened = Home::open(context.me, migration.replaces(), right, &mut replica, &line, &Shipped);
        let (home, _) = opened.map_err(|_| MoveError::NotHome)?;
        let step = migration.seal_self(&home, &mut replica, &line, &Shipped)?;
        let me = context.me.clone();
        self.take_step(step, &me, None, context);
        Ok(())
    }

    /// The steward of a placement log takes its line towards the opening that it chose; `me` is the home of it. Returns
    /// from where entries are needed yet, or `None` once the log holds all that the epoch opens with.
    pub(crate) fn take_line_as_steward(
        &mut self,
        me: &RegionId,
        frame: &Append<Arc<SealedEntry>>,
        voters: &[String],
        context: &mut Context<'_, R>,
    ) -> Result<Option<u64>, Unread> {
        if self.record.as_ref().is_some_and(|record| record.accepted == frame.epoch) {
            return Ok(None);
        }
        let mut replica = self.as_replica();
        let step = replica.handle_append(&OwnLog(self), frame, &Shipped)?;
        let asked = step.then.iter().find_map(|said| match said {
            Said::Asks { from } => Some(*from),
            _ => None,
        });
        let accepted = replica.standing().accepted == frame.epoch;
        let owner = (me.clone(), self.voters_under(frame.epoch, voters));
        if let Some(write) = step.write {
            let after = OwnedWrite { opened: accepted, ..OwnedWrite::default() };
            self.write_owned(write, Some(owner), after, context);
        }
        let staged = self.newer.staged.as_ref().map(|staged| staged.end);
        let next = asked.or(staged).unwrap_or(self.length).min(frame.opening.first.saturating_sub(1));
        Ok((!accepted).then_some(next))
    }

    /// Where a home goes that sealed itself and was not replaced: above its promise, to itself.
    pub(crate) fn way_back(&self, me: &RegionId, right: Right) -> Option<Placement> {
        let placement = self.placement.as_ref()?;
        let placing = way_back(me, &placing_of(placement), right, &self.as_replica(), &OwnLog(self), &Shipped);
        Some(placement_of(placement, placing.ok().flatten()?, placement.loss.clone()))
    }

    /// The promise above which this region opens the log anew, which its placement names it home of in vain.
    pub(crate) fn promised_above(&self, me: &RegionId, right: Right) -> Option<Epoch> {
        let placement = self.placement.as_ref().filter(|placement| placement.first != u64::MAX)?;
        promised_above(me, &placing_of(placement), right, &self.standing(), &Shipped)
    }

    /// A follower's stream begins under a newer epoch: what it has of before is not known to be of this line.
    pub(crate) fn begin_epoch(&mut self, home: &RegionId, append: &mesh::Append) {
        let epoch = Epoch(append.epoch);
        let (floor, published) = self.record.as_ref().map_or((0, 0), |record| (record.floor, record.published));
        let previous = append.opening_hash[..].try_into().unwrap_or_default();
        let older = append.begin.iter().flat_map(|begin| &begin.openings).filter(|older| older.epoch < append.epoch);
        let mut openings: Vec<Opening> = older.filter_map(opening_from).collect();
        openings.push(Opening { epoch, first: append.opening, previous, loss: self.opened_with_loss(epoch) });
        self.record = Some(LogRecord {
            home: home.clone(),
            voters: self.voters_under(epoch, &append.voters),
            accepted: epoch,
            sealed: epoch,
            openings,
            floor,
            published,
            open_ranges: self.record.as_ref().map(|record| record.open_ranges.clone()).unwrap_or_default(),
            incarnation: self.record.as_ref().map_or(0, |record| record.incarnation),
        });
        self.newer = NewerLine::default();
    }
}

/// A hash has to be read before a decision can be made.
pub(crate) fn read_first<R>(log: hearth_protocol::LogId, unread: Unread, effects: &mut Vec<Effect<R>>) {
    effects.push(Effect::ReadHashes { log, sequence: unread.0, rows: HASHES_AT_ONCE });
}

/// Openings that a follower is told of with its beginning, the newest of them: what sessions had of older epochs is
/// judged by these.
const OPENINGS_TOLD: usize = 64;

/// What a follower is told of where epochs opened.
pub(crate) fn openings_told(record: Option<&LogRecord>) -> Vec<mesh::Opening> {
    let openings = record.map_or(&[][..], |record| &record.openings);
    let told = |opening: &Opening| mesh::Opening {
        epoch: opening.epoch.0,
        first: opening.first,
        previous: Bytes::copy_from_slice(&opening.previous),
        loss: opening.loss,
    };
    openings[openings.len().saturating_sub(OPENINGS_TOLD)..].iter().map(told).collect()
}

fn opening_from(told: &mesh::Opening) -> Option<Opening> {
    let previous = told.previous[..].try_into().ok()?;
    Some(Opening { epoch: Epoch(told.epoch), first: told.first, previous, loss: told.loss })
}
