//! What a replica does with what its home sends: apply onto the named predecessor, or ask again.

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::record::{LogRecord, Opening};
use hearth_protocol::{Epoch, LogKind, RegionId, SealedEntry, mesh};

use crate::core::Context;
use crate::effect::{Effect, Lane};
use crate::log::{Log, PushedBy};

impl<R: Clone> Log<R> {
    /// Applies what the home `peer` sent. `entries` are the decoded forms of `append.entries`.
    pub(crate) fn apply(
        &mut self,
        peer: &RegionId,
        append: &mesh::Append,
        entries: &[Arc<SealedEntry>],
        context: &mut Context<'_, R>,
    ) {
        let epoch = Epoch(append.epoch);
        if self.record.as_ref().is_some_and(|record| epoch < record.sealed) {
            return;
        }
        if self.record.is_none() {
            if append.first > 0 || entries.is_empty() {
                self.say(peer, true, false, context);
                return;
            }
            self.record = Some(record_from(peer, append));
        }
        self.told_mark = self.told_mark.max(append.mark);
        if append.first > self.length {
            self.say(peer, true, false, context);
            return;
        }
        let known = self.length;
        let fresh = entries.iter().skip_while(|entry| entry.sequence().0 < known);
        let mut applied = false;
        for entry in fresh {
            if entry.sequence().0 != self.length {
                self.say(peer, true, false, context);
                return;
            }
            if !self.chains(entry) {
                self.say(peer, false, true, context);
                return;
            }
            let by = PushedBy { waiter: None, skip: None, now: context.now.monotonic };
            let mut append = self.push(entry.clone(), by, self.id.kind == LogKind::Conversation);
            append.outbox.clear();
            append.mark = append.mark.max(self.told_mark.min(self.length));
            context.effects.push(Effect::Append(Box::new(append)));
            applied = true;
        }
        self.show(context);
        if !applied {
            // Nothing new: what the home wants to know is what is on disk here.
            self.say(peer, false, false, context);
        }
    }

    /// Whether an entry names the tip as its predecessor, under an epoch that does not fall.
    fn chains(&self, entry: &SealedEntry) -> bool {
        let fixed = &entry.entry.fixed;
        match &self.tip {
            Some(tip) => fixed.previous == tip.hash && fixed.position.epoch >= tip.epoch,
            None => fixed.previous == [0; 32],
        }
    }

    /// The commit is on disk up to `durable`: count for the home, show what it marked.
    pub(crate) fn applied(&mut self, durable: u64, context: &mut Context<'_, R>) {
        self.durable = self.durable.max(durable);
        if let Some(home) = self.record.as_ref().map(|record| record.home.clone()) {
            self.say(&home, false, false, context);
        }
        self.show(context);
    }

    /// Shows what is on disk and below the mark.
    fn show(&mut self, context: &mut Context<'_, R>) {
        let mark = self.told_mark.min(self.durable);
        if mark <= self.marked {
            return;
        }
        while self.marked < mark {
            let Some(pending) = self.pending.pop_front() else { break };
            self.marked = pending.entry.sequence().0 + 1;
            self.publish(pending, false, context);
        }
        context.effects.push(Effect::PutMark(self.id, self.marked));
    }

    /// Tells the home what is on disk here.
    pub(crate) fn say(&self, home: &RegionId, resend: bool, fork: bool, context: &mut Context<'_, R>) {
        let said = mesh::Appended {
            log: Bytes::copy_from_slice(&self.id.to_bytes()),
            accepted: self.record.as_ref().map_or(0, |record| record.accepted.0),
            length: self.durable,
            resend,
            fork,
        };
        context.effects.push(Effect::Send {
            peer: home.clone(),
            lane: Lane::Log(self.id),
            body: mesh::Body::Appended(said),
        });
    }

    /// Compares with what the home has (anti-entropy): asks for what is missing, takes the mark.
    pub(crate) fn compare(&mut self, peer: &RegionId, length: &mesh::Length, context: &mut Context<'_, R>) {
        if self.record.as_ref().is_some_and(|record| record.home != *peer) {
            return;
        }
        if self.durable == length.length && self.durable == self.length {
            let same = self.tip.as_ref().is_none_or(|tip| tip.hash[..] == length.hash[..]);
            self.told_mark = self.told_mark.max(length.mark);
            self.show(context);
            self.say(peer, false, !same, context);
        } else if self.length < length.length {
            self.say(peer, true, false, context);
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
    }
}
