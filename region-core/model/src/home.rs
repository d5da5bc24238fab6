//! What a home does with its log: dedup, decide, number, append, copy, ack, mark. In that order, always.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use hearth_protocol::client::QueuedReason;
use hearth_protocol::entry::{Entry, Fixed, content_digest};
use hearth_protocol::record::DedupRecord;
use hearth_protocol::{
    Change, EntryKind, Header, Level, LogId, LogKind, Position, Refusal, RegionId, SealedEntry, Sequence, Timestamp,
    UserId, mesh,
};
use uuid::Uuid;

use crate::bucket::Bucket;
use crate::command::{Ack, Command, Outcome, other_content, same_content};
use crate::core::{Context, is_passing};
use crate::effect::{Effect, Lane};
use crate::joins::{Join, Joins};
use crate::log::{Log, Pending, PushedBy, Replicas, Waiter, first_record, free_if_empty, outbox_records};
use crate::mutants::Mutant;
use crate::ownership::Flaw;
use crate::pacing::{Paced, no_room};
use crate::ports::{DedupKey, TargetFound, TargetKey};
use crate::targets::{TargetLook, expiry_of};
use crate::view::Decision;

/// A command that waits for its dedup lookup, behind those that came before it.
#[derive(Clone, Debug)]
pub(crate) struct Submit<R> {
    command: Command,
    salt: [u8; 16],
    waiter: Waiter<R>,
    looked_up: Option<Option<DedupRecord>>,
    target: TargetLook,
    /// Entries on disk when the command came: its lookup, asked later, cannot miss any of them.
    durable_before: u64,
}

impl<R> Submit<R> {
    fn is_ready(&self) -> bool {
        self.looked_up.is_some() && !matches!(self.target, TargetLook::Asked)
    }

    fn id(&self) -> SentId {
        (self.command.sender.clone(), self.command.id)
    }

    fn waits_for(&self, id: &SentId) -> bool {
        self.looked_up.is_none() && self.command.id == id.1 && self.command.sender == id.0
    }
}

/// Refusals of parked messages that a home remembers of a log; of more, the oldest go.
const REFUSED: usize = 256;

/// What names a command within its log: sender and id.
type SentId = (UserId, Uuid);

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
    pub(crate) submits: VecDeque<Submit<R>>,
    /// One of `submits` was turned away for want of the right: those behind it are turned away as well, even if the
    /// right is back when their lookups are answered, since what is turned away comes back and must find its place.
    turns_away: bool,
    /// Parked messages that wait for room, in the order in which they came.
    pub(crate) paced: VecDeque<Paced<R>>,
    /// Requests to add members that wait for others.
    pub(crate) joins: Joins<R>,
    /// How many messages it takes, once it took one.
    pub(crate) rate: Option<Box<Bucket>>,
    /// Parked messages that were refused for good: should the answer be lost, they are refused again, wherever they come
    /// from and also if their sender is a member again by then, since what the sender parked behind them may have been
    /// taken.
    refused: VecDeque<(SentId, Refusal)>,
    /// Open lookups, each with how many submits wait for it. One is asked at a time for an id: answers to several could
    /// not be told apart.
    lookups: BTreeMap<SentId, usize>,
    /// Ids of pending entries: a retry that overtakes its first commit joins it.
    in_flight: BTreeMap<SentId, u64>,
    /// Ids of entries that passed the mark, kept in `in_flight` while a lookup that may have missed them is open.
    settled: VecDeque<(SentId, u64)>,
    /// Who waits for an ack, over all pending entries.
    pub(crate) waiters: usize,
    /// By level: entries below it that ask for this level have been acked.
    pub(crate) acked_below: [u64; 3],
}

impl<R> Default for HomeState<R> {
    fn default() -> Self {
        Self {
            replicas: Replicas::new(),
            submits: VecDeque::new(),
            turns_away: false,
            paced: VecDeque::new(),
            joins: Joins::default(),
            rate: None,
            refused: VecDeque::new(),
            lookups: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            settled: VecDeque::new(),
            waiters: 0,
            acked_below: [0; 3],
        }
    }
}

impl<R> HomeState<R> {
    /// Whether nothing is asked or on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.submits.is_empty()
            && self.paced.is_empty()
            && self.joins.len() == 0
            && self.replicas.values().all(|replica| !replica.reading && replica.flying.is_none())
    }

    /// Keeps the id of an entry that passed the mark, until no open lookup can have missed it.
    pub(crate) fn settle(&mut self, entry: &SealedEntry) {
        if is_by_id(entry.entry.fixed.kind) {
            let fixed = &entry.entry.fixed;
            self.settled.extend(entry.ids().map(|id| ((fixed.sender.clone(), id), fixed.position.sequence.0)));
        }
    }

    /// Notes ids of an entry that is on its way to the disk.
    pub(crate) fn note_in_flight(&mut self, ids: impl Iterator<Item = SentId>, sequence: u64) {
        self.in_flight.extend(ids.map(|id| (id, sequence)));
    }

    /// Where an entry stands that is not on disk yet, or was not when an open lookup was asked. `None`: of any sender.
    pub(crate) fn in_flight_of(&self, sender: Option<&UserId>, id: Uuid) -> Option<u64> {
        match sender {
            Some(sender) => self.in_flight.get(&(sender.clone(), id)).copied(),
            None => self.in_flight.iter().find(|((_, known), _)| *known == id).map(|(_, sequence)| *sequence),
        }
    }

    /// Drops ids that no open lookup can have missed.
    pub(crate) fn forget_settled(&mut self) {
        let safe_below = self.submits.front().map_or(u64::MAX, |submit| submit.durable_before);
        while self.settled.front().is_some_and(|(_, sequence)| *sequence < safe_below) {
            if let Some((id, _)) = self.settled.pop_front() {
                self.in_flight.remove(&id);
            }
        }
    }

    /// What was not decided yet.
    pub(crate) fn take_undecided(&mut self) -> impl Iterator<Item = (Command, [u8; 16], Waiter<R>)> + use<R> {
        let submits = std::mem::take(&mut self.submits).into_iter();
        self.turns_away = false;
        let paced = std::mem::take(&mut self.paced).into_iter();
        let joins = self.joins.take().into_iter().map(Join::into_parts);
        joins
            .chain(submits.map(|submit| (submit.command, submit.salt, submit.waiter)))
            .chain(paced.map(|paced| (paced.command, paced.salt, paced.waiter)))
    }

    /// Who waits behind a dedup lookup, or for others.
    pub(crate) fn into_waiters(mut self) -> impl Iterator<Item = Waiter<R>> {
        let joins = self.joins.take().into_iter().map(|join| join.waiter);
        self.submits.into_iter().map(|submit| submit.waiter).chain(joins)
    }

    /// Forgets who asked from the region `peer`. What it parked it offers again.
    pub(crate) fn forget_waiters_of(&mut self, peer: &RegionId) {
        self.paced.retain(|paced| !paced.waiter.is_from(peer));
        self.joins.forget_waiters(|waiter| waiter.is_from(peer));
        for submit in self.submits.iter_mut().filter(|submit| submit.waiter.is_from(peer)) {
            submit.waiter = Waiter::Gone;
        }
    }
}

/// Entries that clients name by id: only they are deduplicated, and come back when they are in a tail.
#[must_use]
pub fn is_by_id(kind: EntryKind) -> bool {
    kind.is_sent() || matches!(kind, EntryKind::Member | EntryKind::System)
}

/// Answers one waiter.
pub(crate) fn answer<R>(waiter: Waiter<R>, mut outcome: Outcome, effects: &mut Vec<Effect<R>>, log: LogId) {
    let retry = match &waiter {
        Waiter::Local { retry, .. } | Waiter::Peer { retry, .. } => *retry,
        Waiter::Gone => return,
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
        Waiter::Gone => {}
    }
}

impl<R: Clone> Log<R> {
    /// Takes a command at the home.
    pub(crate) fn submit(&mut self, command: Command, salt: [u8; 16], waiter: Waiter<R>, context: &mut Context<'_, R>) {
        if waiter.is_parked() && (!self.has_room() || !self.home.paced.is_empty()) {
            self.pace(command, salt, waiter, context);
            return;
        }
        if !self.has_room() {
            answer(waiter, Outcome::Refused(no_room()), context.effects, self.id);
            return;
        }
        self.admit(command, salt, waiter, context);
        self.decide_ready(context);
    }

    /// Whether commands wait for their lookups.
    pub(crate) fn has_undecided(&self) -> bool {
        !self.home.submits.is_empty()
    }

    /// Whether sends of a user's devices here, never parked, wait for their lookups: later ones go behind them, and share
    /// what becomes of them.
    pub(crate) fn has_undecided_of(&self, user: &UserId) -> bool {
        self.home.submits.iter().any(|submit| submit.command.sender == *user && submit.waiter.device().is_some())
    }

    /// Queues a command to be decided, after its lookup where it needs one.
    pub(crate) fn admit(&mut self, command: Command, salt: [u8; 16], waiter: Waiter<R>, context: &mut Context<'_, R>) {
        let looked_up = if is_by_id(command.kind) { None } else { Some(None) };
        let target = self.look_for_target(&command, context);
        let submit = Submit { command, salt, waiter, looked_up, target, durable_before: self.durable };
        if submit.looked_up.is_none() {
            self.look_up(&submit, context);
        }
        self.home.submits.push_back(submit);
    }

    /// Asks whether an id was used, unless that is being asked.
    fn look_up(&mut self, submit: &Submit<R>, context: &mut Context<'_, R>) {
        let waiting = self.home.lookups.entry(submit.id()).or_default();
        *waiting += 1;
        if *waiting == 1 {
            let (sender, id) = submit.id();
            context.effects.push(Effect::Dedup(DedupKey { log: self.id, sender, id }));
        }
    }

    /// Takes the answer of a dedup lookup. Commands are decided in the order in which they came.
    pub(crate) fn dedup_answer(&mut self, key: &DedupKey, record: Option<DedupRecord>, context: &mut Context<'_, R>) {
        let id = (key.sender.clone(), key.id);
        let Some(waiting) = self.home.lookups.get(&id).copied() else { return };
        // What was found stays true for all that wait; that nothing was found, only for the first.
        let answered = if record.is_some() { waiting } else { 1 };
        for submit in self.home.submits.iter_mut().filter(|submit| submit.waits_for(&id)).take(answered) {
            submit.looked_up = Some(record.clone());
        }
        if waiting > answered {
            self.home.lookups.insert(id, waiting - answered);
            context.effects.push(Effect::Dedup(key.clone()));
        } else {
            self.home.lookups.remove(&id);
        }
        self.decide_ready(context);
        self.take_paced(context);
    }

    /// Takes the answer of a look-up of a message that commands change.
    pub(crate) fn target_found(&mut self, key: &TargetKey, found: &TargetFound, context: &mut Context<'_, R>) {
        for submit in &mut self.home.submits {
            if matches!(submit.target, TargetLook::Asked) && Self::is_target_of(&submit.command, key) {
                submit.target = TargetLook::Found(Box::new(found.clone()));
            }
        }
        self.decide_ready(context);
        self.take_paced(context);
    }

    fn decide_ready(&mut self, context: &mut Context<'_, R>) {
        while self.home.submits.front().is_some_and(Submit::is_ready) {
            if let Some(submit) = self.home.submits.pop_front() {
                self.decide(submit, context);
            }
        }
        free_if_empty(&mut self.home.submits);
        self.home.turns_away &= self.has_undecided();
        self.home.forget_settled();
        let looked_up = self.home.submits.front().map_or(u64::MAX, |submit| submit.durable_before);
        self.changed.forget_below(looked_up.min(self.durable));
    }

    fn decide(&mut self, submit: Submit<R>, context: &mut Context<'_, R>) {
        if self.home.turns_away || !self.may_ack(context) {
            // The right went while the lookup was under way: nothing is numbered without it.
            self.home.turns_away = true;
            context.homeless.push((submit.command, submit.salt, submit.waiter));
            return;
        }
        let dedups = is_by_id(submit.command.kind) && !Mutant::Rule(Flaw::NoDedup).is_on();
        let in_flight = if dedups { self.home.in_flight.get(&submit.id()).copied() } else { None };
        match in_flight {
            Some(sequence) if sequence >= self.marked => {
                self.join(sequence, (&submit.command, submit.salt), submit.waiter, context);
                return;
            }
            Some(_) if submit.looked_up == Some(None) => {
                // The lookup overtook the commit: the record is on disk by now.
                let submit = Submit { looked_up: None, ..submit };
                self.look_up(&submit, context);
                self.home.submits.push_front(submit);
                return;
            }
            Some(_) | None => {}
        }
        let target = match &submit.target {
            TargetLook::Found(found) => self.target_of(&submit.command, found),
            TargetLook::Asked | TargetLook::NotNeeded => Ok(None),
        };
        let Ok(target) = target else {
            // The look-up overtook a commit that it should have seen: that is on disk by now.
            let submit = Submit { target: self.look_for_target(&submit.command, context), ..submit };
            self.home.submits.push_front(submit);
            return;
        };
        let Submit { command, salt, waiter, looked_up, .. } = submit;
        if let Some(Some(record)) = looked_up.filter(|_| !Mutant::Rule(Flaw::NoDedup).is_on()) {
            self.answer_retry(&record, (&command, salt), waiter, context);
            return;
        }
        if let Some(refusal) = self.refused_before(&command) {
            answer(waiter, Outcome::Refused(refusal), context.effects, self.id);
            return;
        }
        if let Some(users) = self.joins_with_others(&command, context) {
            self.wait_for_others(Join { command, salt, waiter }, users, context);
            return;
        }
        self.make_joins_before(&command, context);
        if self.length == 0 && self.id.kind == LogKind::Placement {
            self.open_placement_log(context);
        }
        match self.judge(&command, target.as_ref(), context) {
            Decision::Append { content, level, bare } => match self
                .refuse_level(&command, level)
                .or_else(|| self.count(&command, waiter.is_parked(), context).err())
            {
                Some(refusal) => answer(waiter, Outcome::Refused(refusal), context.effects, self.id),
                None => {
                    let expires_at = expiry_of(&command, target.as_ref());
                    let command = Command { content, level: Some(level), expires_at, ..command };
                    self.append(command, bare, salt, waiter, context);
                }
            },
            Decision::AlreadySo => self.answer_already(waiter, context),
            Decision::Refuse(refusal) => {
                self.remember_refusal(&command, &waiter, &refusal);
                answer(waiter, Outcome::Refused(refusal), context.effects, self.id);
            }
        }
    }

    fn refused_before(&self, command: &Command) -> Option<Refusal> {
        let is_it = |((sender, id), _): &&(SentId, Refusal)| *id == command.id && *sender == command.sender;
        // What comes back with a tail was admitted once, whatever became of a parked copy of it.
        let refused = command.original_time.is_none().then(|| self.home.refused.iter().find(is_it))?;
        refused.map(|(_, refusal)| refusal.clone())
    }

    fn remember_refusal(&mut self, command: &Command, waiter: &Waiter<R>, refusal: &Refusal) {
        if waiter.is_parked() && !is_passing(refusal.error) {
            if self.home.refused.len() >= REFUSED {
                self.home.refused.pop_front();
            }
            self.home.refused.push_back(((command.sender.clone(), command.id), refusal.clone()));
        }
    }

    /// A level that asks for more copies than there are voters would wait for ever.
    fn refuse_level(&self, command: &Command, level: Level) -> Option<Refusal> {
        let voters = match (&self.record, &self.placement) {
            (Some(record), _) => record.voters.len(),
            (None, Some(placement)) => placement.voters.len(),
            (None, None) => 0,
        };
        let asked = match Change::decode(&command.content) {
            Some(Change::Durability(asked)) if command.kind == EntryKind::System => asked,
            _ => level,
        };
        (asked.copies(voters) > voters).then(|| {
            Refusal::invalid(format!("durability {} asks for more regions than there are", asked.as_str()))
                .with_limit(format!("{voters} regions"))
        })
    }

    /// The time of the next entry, of which alone it is judged what has expired: an entry that the log holds says by
    /// itself that it came in time.
    pub(crate) fn time_of_next(&self, wall: Timestamp) -> Timestamp {
        self.tip.map_or(wall, |tip| tip.time.max(wall))
    }

    /// The one place where a sequence number is made.
    fn next_position(&self) -> Position {
        Position { epoch: self.epoch(), sequence: Sequence(self.length) }
    }

    /// Appends what a command asks for, in its content and at its level; `bare` leaves the content out.
    pub(crate) fn append(
        &mut self,
        command: Command,
        bare: bool,
        salt: [u8; 16],
        waiter: Waiter<R>,
        context: &mut Context<'_, R>,
    ) {
        if self.record.is_none() {
            let incarnation = self.store.unwrap_or_default();
            self.record = self.placement.as_ref().map(|placement| first_record(placement, incarnation));
        }
        let skip = match &waiter {
            Waiter::Local { reply, .. } => Some(reply.clone()),
            Waiter::Peer { .. } | Waiter::Gone => None,
        };
        if is_by_id(command.kind) {
            self.home.in_flight.insert((command.sender.clone(), command.id), self.length);
        }
        let time = self.time_of_next(context.now.wall);
        let entry = SealedEntry::seal(Entry {
            fixed: Fixed {
                position: self.next_position(),
                kind: command.kind,
                sender: command.sender,
                id: command.id,
                time,
                level: command.level.unwrap_or_default(),
                digest: content_digest(&salt, &command.content),
                previous: self.tip.map_or([0; 32], |tip| tip.hash),
                origin: command.origin,
                reply_to: command.reply_to,
                target: command.target,
                expires_at: command.expires_at,
                original_time: command.original_time,
            },
            content: (!bare).then(|| (Bytes::copy_from_slice(&salt), command.content)),
        });
        let by = PushedBy { waiter, skip, now: context.now.monotonic };
        self.home.waiters += usize::from(!matches!(by.waiter, Waiter::Gone));
        let mut append = self.start_append();
        self.push(entry, by, &mut append);
        if !Mutant::PublishLost.is_on() {
            append.outbox = outbox_records(self.id, &append.entries[0]);
        }
        context.effects.push(Effect::Append(Box::new(append)));
        if Mutant::AckBeforeDisk.is_on() {
            self.advance(context);
        }
    }

    /// A placement log opens with its first placement: nobody creates it by name.
    pub(crate) fn open_placement_log(&mut self, context: &mut Context<'_, R>) {
        let header = Command {
            log: self.id,
            kind: EntryKind::Header,
            sender: context.region_as_sender(),
            id: Uuid::nil(),
            content: Header::Placement.encode(),
            reply_to: None,
            target: None,
            expires_at: None,
            level: Some(Level::Majority),
            origin: context.me.clone(),
            original_time: None,
            joined: None,
        };
        self.append(header, false, [0; 16], Waiter::Gone, context);
    }

    /// A retry of an entry that is still on its way waits with it.
    fn join(
        &mut self,
        sequence: u64,
        (command, salt): (&Command, [u8; 16]),
        waiter: Waiter<R>,
        context: &mut Context<'_, R>,
    ) {
        let Some(pending) = self.pending_index(sequence).and_then(|index| self.pending.get_mut(index)) else { return };
        if same_content(&pending.entry, command) {
            pending.sent_here |= waiter.device().is_some();
            // Of several requests that share the entry, the command of one is not what the entry says.
            let shares = command.id != pending.entry.entry.fixed.id;
            self.wait_with(sequence, waiter, shares.then(|| (command.clone(), salt)), context);
        } else {
            answer(waiter, Outcome::Refused(other_content()), context.effects, self.id);
        }
    }

    /// Adds a waiter to a pending entry, or answers it when the entry has its copies; with what it asked for, where the
    /// entry does not say that.
    fn wait_with(
        &mut self,
        sequence: u64,
        waiter: Waiter<R>,
        asked: Option<(Command, [u8; 16])>,
        context: &mut Context<'_, R>,
    ) {
        let waiter = waiter.into_retry();
        let Some(level) = self.pending_at(sequence).map(|pending| pending.entry.entry.fixed.level) else { return };
        let has_copies = sequence < self.covered(level, context.me) || Mutant::Rule(Flaw::RetryAtOnce).is_on();
        if self.may_ack(context) && has_copies {
            if let Some(ack) = self.ack_of(sequence, context.me) {
                answer(waiter, Outcome::Acked(ack), context.effects, self.id);
            }
            return;
        }
        let log = self.id;
        let Some(pending) = self.pending_index(sequence).and_then(|index| self.pending.get_mut(index)) else { return };
        if pending.queued {
            let outcome = Outcome::Queued(QueuedReason::CopiesMissing, context.me.clone());
            answer(waiter.clone(), outcome, context.effects, log);
        }
        let before = pending.waiting();
        pending.wait(waiter, asked);
        self.home.waiters += pending.waiting() - before;
    }

    /// A retry of an entry on disk gets its first ack again, once the copies stand under the present epoch.
    fn answer_retry(
        &mut self,
        record: &DedupRecord,
        (command, salt): (&Command, [u8; 16]),
        waiter: Waiter<R>,
        context: &mut Context<'_, R>,
    ) {
        let sequence = record.position.sequence.0;
        if sequence >= self.marked {
            // Loaded from disk with its copies unknown: it waits like the first one did.
            self.join(sequence, (command, salt), waiter, context);
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

    pub(crate) fn answer_already(&mut self, waiter: Waiter<R>, context: &mut Context<'_, R>) {
        // What is so already was decided by an entry that may still wait for copies: the answer waits for the last one
        // that asks for as many as changes do.
        let by_change = |pending: &&Pending<R>| pending.entry.entry.fixed.level == Level::Majority;
        let last = self.pending.iter().rev().find(by_change).or(self.pending.back());
        if let Some(sequence) = last.map(|pending| pending.entry.sequence().0) {
            self.wait_with(sequence, waiter, None, context);
            return;
        }
        let sequence = self.length.saturating_sub(1);
        let ack = Ack {
            position: Position { epoch: self.epoch(), sequence: Sequence(sequence) },
            time: self.tip.map_or(context.now.wall, |tip| tip.time),
            home: context.me.clone(),
            // The last entry of a conversation may have asked for no more.
            level: if self.id.kind == LogKind::Conversation { Level::Region } else { Level::Majority },
            regions: self.holders(sequence, context.me),
            duplicate: true,
        };
        answer(waiter, Outcome::Acked(ack), context.effects, self.id);
    }
}

/// The regions whose links are up.
pub(crate) type LinksUp = BTreeSet<RegionId>;
