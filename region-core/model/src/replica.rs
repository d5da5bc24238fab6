//! What a replica does with what its home sends: apply onto the named predecessor, or ask again.

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::record::{LogRecord, Opening};
use hearth_protocol::{Epoch, RegionId, SealedEntry, mesh};

use crate::core::Context;
use crate::effect::{Effect, Lane};
use crate::log::{Log, PushedBy, Waiter, free_if_empty};
use crate::mutants::Mutant;
use crate::ownership::{Flaw, Unread};
use crate::ports::LogAppend;
use crate::ranges::go_stale;
use crate::succession::{Owned, OwnedWrite};

/// A replica asks for the same entries again after this long.
const RESEND_PATIENCE_MILLISECONDS: u64 = 1_000;

impl<R: Clone> Log<R> {
    /// Takes what the home `peer` sent. `entries` are the decoded forms of `append.entries`.
    ///
    /// # Errors
    /// [`Unread`] when a hash has to be read first; nothing has changed then.
    pub(crate) fn take_append(
        &mut self,
        peer: &RegionId,
        append: &mesh::Append,
        entries: &[Arc<SealedEntry>],
        context: &mut Context<'_, R>,
    ) -> Result<(), Unread> {
        let epoch = Epoch(append.epoch);
        let (accepted, sealed) = self.record.as_ref().map_or_else(Default::default, |at| (at.accepted, at.sealed));
        // The wrong reading refuses nothing for its epoch, whatever was promised or accepted since.
        let unsealed = epoch < sealed && Mutant::Rule(Flaw::SealOff).is_on();
        if epoch < sealed && !unsealed {
            self.say_newer(peer, context);
            return Ok(());
        }
        let placed = self.placement.as_ref().filter(|placement| placement.epoch == epoch);
        let foreign = placed.is_some_and(|placement| placement.home != *peer);
        if foreign || self.record.as_ref().is_some_and(|record| epoch == accepted && *peer != record.home) {
            return Ok(());
        }
        if let Some(begin) = &append.begin {
            let before = (epoch > accepted).then_some(accepted);
            if before.is_some() {
                self.begin_epoch(peer, append);
                go_stale(&mut self.ranges);
            }
            self.begin(peer, append, begin, before, context);
            return Ok(());
        }
        let is_first = self.record.is_none() && append.opening == 0;
        if (epoch > accepted || unsealed) && !is_first {
            return self.succeed(peer, append, entries, context);
        }
        if is_first {
            if append.first > 0 || entries.is_empty() {
                self.ask_again(peer, context);
                return Ok(());
            }
            self.record = Some(record_from(peer, append));
        }
        self.extend(peer, append, entries, context);
        Ok(())
    }

    /// Applies what the home of the accepted epoch sent.
    fn extend(
        &mut self,
        peer: &RegionId,
        append: &mesh::Append,
        entries: &[Arc<SealedEntry>],
        context: &mut Context<'_, R>,
    ) {
        if self.ranges.stale {
            self.ask_fresh(peer, context);
            return;
        }
        if append.first > self.length {
            self.told_mark = self.told_mark.max(append.mark);
            self.ask_again(peer, context);
            return;
        }
        if self.names_another(append) {
            self.say(peer, false, true, context);
            return;
        }
        let before = self.length;
        let in_order = self.take_entries(entries, append.mark, context);
        if !in_order {
            self.say(peer, false, true, context);
            return;
        }
        self.told_mark = self.told_mark.max(append.mark);
        self.show(context);
        self.join_home(append, context);
        if self.length == before || Mutant::CopyBeforeDisk.is_on() {
            // Nothing new: what the home wants to know is what is on disk here.
            self.say(peer, false, false, context);
        }
    }

    /// The home says what it holds, on this region's word that its store is of a new incarnation. Who holds the same
    /// counts from now on: a home that may ack is the one that the placement names, so nothing newer was opened before
    /// the region map took that incarnation (design.md 4.1).
    fn join_home(&mut self, append: &mesh::Append, context: &mut Context<'_, R>) {
        let asked = self.store.is_some_and(|store| store == append.joins) && !self.counts();
        let holds = append.entries.is_empty() && append.first == self.length && self.ranges.open.is_none();
        let same = self.tip.is_some_and(|tip| tip.hash[..] == append.previous[..]);
        let Some(record) = self.record.as_mut().filter(|_| asked && holds && same) else { return };
        record.incarnation = append.joins;
        let record = Some(record.clone());
        let write = LogAppend { record, promises: true, ..self.start_append() };
        context.effects.push(Effect::Append(Box::new(write)));
        context.owned.push(Owned::Write(OwnedWrite::default()));
    }

    /// Whether a frame without entries names another entry before its end than the one that stands there: this replica
    /// was set back, and went on otherwise.
    fn names_another(&self, append: &mesh::Append) -> bool {
        let named = !append.previous.is_empty() && append.entries.is_empty();
        named && self.hash_before(append.first).is_some_and(|hash| hash[..] != append.previous[..])
    }

    /// Adds those entries that are new, in one commit. Returns whether each names the one before it.
    fn take_entries(&mut self, entries: &[Arc<SealedEntry>], mark: u64, context: &mut Context<'_, R>) -> bool {
        let mut append = self.start_append();
        let known = self.length;
        let mut in_order = true;
        for entry in entries.iter().skip_while(|entry| entry.sequence().0 < known) {
            in_order = entry.sequence().0 == self.length && self.chains(entry);
            if !in_order {
                break;
            }
            let pushed = PushedBy { waiter: Waiter::Gone, skip: None, now: context.now.monotonic };
            self.push(entry.clone(), pushed, &mut append);
        }
        if !append.entries.is_empty() {
            append.mark = append.mark.max(mark.min(self.length));
            context.effects.push(Effect::Append(Box::new(append)));
            if Mutant::CopyBeforeDisk.is_on() {
                self.durable = self.length;
            }
        }
        in_order
    }

    /// Asks for a new beginning, once for a while.
    pub(crate) fn ask_fresh(&mut self, home: &RegionId, context: &mut Context<'_, R>) {
        let now = context.now.monotonic;
        if self.resend_asked.is_some_and(|(_, at)| now < at + RESEND_PATIENCE_MILLISECONDS) {
            return;
        }
        self.resend_asked = Some((self.durable, now));
        let log = Bytes::copy_from_slice(&self.id.to_bytes());
        let follow = mesh::Follow { log, length: self.head(), unfollow: false, fresh: true, accepted: self.epoch().0 };
        context.effects.push(Effect::Send {
            peer: home.clone(),
            lane: Lane::Log(self.id),
            body: mesh::Body::Follow(follow),
        });
    }

    /// Asks the home to send again from what is on disk here: once, not for every frame that comes meanwhile.
    pub(crate) fn ask_again(&mut self, home: &RegionId, context: &mut Context<'_, R>) {
        let now = context.now.monotonic;
        let asked = self
            .resend_asked
            .is_some_and(|(length, at)| length == self.durable && now < at + RESEND_PATIENCE_MILLISECONDS);
        if !asked {
            self.resend_asked = Some((self.durable, now));
            self.say(home, true, false, context);
        }
    }

    /// Whether an entry names the tip as its predecessor, under an epoch that does not fall.
    fn chains(&self, entry: &SealedEntry) -> bool {
        let fixed = &entry.entry.fixed;
        match &self.tip {
            Some(_) if Mutant::Rule(Flaw::PredecessorUnchecked).is_on() => true,
            Some(tip) => fixed.previous == tip.hash && fixed.position.epoch >= tip.epoch,
            None => fixed.previous == [0; 32],
        }
    }

    /// The commit is on disk up to `durable`: count for the home, show what it marked.
    pub(crate) fn applied(&mut self, durable: u64, context: &mut Context<'_, R>) {
        if self.ranges.writes == 0 {
            // Else a commit of before a new beginning may be told, and the one of the beginning covers it.
            self.durable = self.durable.max(durable);
        }
        if let Some(home) = self.record.as_ref().map(|record| record.home.clone()) {
            self.say(&home, false, false, context);
        }
        self.show(context);
    }

    /// Shows what is on disk and below the mark.
    pub(crate) fn show(&mut self, context: &mut Context<'_, R>) {
        let mark = self.told_mark.min(self.durable);
        if mark <= self.marked {
            return;
        }
        while self.marked < mark {
            let Some(pending) = self.pending.pop_front() else { break };
            self.marked = pending.entry.sequence().0 + 1;
            self.publish(pending, false, context);
        }
        free_if_empty(&mut self.pending);
        context.effects.push(Effect::PutMark(self.id, self.marked));
    }

    /// Tells the home what is on disk here.
    pub(crate) fn say(&self, home: &RegionId, resend: bool, fork: bool, context: &mut Context<'_, R>) {
        let above = if self.ranges.open.is_some() && !self.ranges.stale { self.durable } else { 0 };
        let said = mesh::Appended {
            log: Bytes::copy_from_slice(&self.id.to_bytes()),
            accepted: self.record.as_ref().map_or(0, |record| record.accepted.0),
            length: self.head(),
            resend,
            fork,
            above,
            newer: 0,
            joining: self.joining(),
        };
        context.effects.push(Effect::Send {
            peer: home.clone(),
            lane: Lane::Log(self.id),
            body: mesh::Body::Appended(said),
        });
    }

    /// Compares with what the home has (anti-entropy): asks for what is missing, takes the mark.
    pub(crate) fn compare(&mut self, peer: &RegionId, length: &mesh::Length, context: &mut Context<'_, R>) {
        if self.record.as_ref().is_some_and(|record| record.accepted.0 < length.epoch) {
            // It opened an epoch, and its word of that was lost.
            self.say(peer, false, false, context);
            return;
        }
        if self.record.as_ref().is_some_and(|record| record.home != *peer) {
            return;
        }
        if self.durable == length.length && self.durable == self.length {
            if !self.counts() {
                self.say(peer, false, false, context);
            }
            let tip = self.tip.as_ref().filter(|_| !length.hash.is_empty());
            if tip.is_some_and(|tip| tip.hash[..] != length.hash[..]) {
                self.say(peer, false, true, context);
                return;
            }
            self.told_mark = self.told_mark.max(length.mark);
            self.show(context);
            if length.mark < length.length {
                // The home waits for copies; else it would only load the log to hear that all is well.
                self.say(peer, false, false, context);
            }
        } else if self.length < length.length {
            self.ask_again(peer, context);
        }
    }
}

/// The record of a log that its home sends for the first time.
fn record_from(home: &RegionId, append: &mesh::Append) -> LogRecord {
    let mut previous = [0; 32];
    if append.opening_hash.len() == previous.len() {
        previous.copy_from_slice(&append.opening_hash);
    }
    LogRecord {
        home: home.clone(),
        voters: append.voters.iter().filter_map(|voter| RegionId::new(voter).ok()).collect(),
        accepted: Epoch(append.epoch),
        sealed: Epoch(append.epoch),
        openings: vec![Opening { epoch: Epoch(append.epoch), first: append.opening, previous, loss: false }],
        floor: 0,
        published: 0,
        open_ranges: Vec::new(),
        incarnation: 0,
    }
}
