//! What a follower does about entries below its stream: it begins above them, and pulls them from the home, the last
//! ones first (design.md 4.8).

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::{Epoch, Hash, RegionId, SealedEntry, Timestamp, mesh};

use crate::core::Context;
use crate::effect::{Effect, Lane};
use crate::line::Line;
use crate::log::{Log, Ranges, Tip, add_indexes};
use crate::mutants::Mutant;
use crate::ports::{Begin, LogAppend};
use crate::succession::{Owned, OwnedWrite};
use crate::targets::Changed;
use crate::view::View;

/// Entries of one page of a pull.
const PULL_ENTRIES: u64 = 1_024;
/// A page that did not come within this is asked for again.
const PULL_PATIENCE_MILLISECONDS: u64 = 5_000;

impl<R: Clone> Log<R> {
    /// What is on disk here with nothing missing below.
    pub(crate) fn head(&self) -> u64 {
        self.ranges.open.map_or(self.durable, |(from, _)| from)
    }

    /// The home says where the stream begins. What stood above an open range of an earlier subscription is dropped. `before`
    /// is the epoch whose line the copy was on, where that is an older one: what is not in the new line stays as a tail.
    pub(crate) fn begin(
        &mut self,
        home: &RegionId,
        append: &mesh::Append,
        begin: &mesh::Begin,
        before: Option<Epoch>,
        context: &mut Context<'_, R>,
    ) {
        let (at, anew) = (append.first, before.is_some());
        let apart = before.and_then(|before| self.not_in_line(before));
        // What is complete has its whole length below the new beginning, decided or on disk. Under a newer epoch
        // nothing of before is known to be of its line.
        let head = match self.ranges.open {
            _ if anew => 0,
            Some(_) => self.head(),
            None => self.length,
        };
        let above: Option<Hash> = append.previous[..].try_into().ok();
        if at < head || (at <= self.length && !self.ranges.stale && !anew) {
            // A beginning that was asked for before, and came when nothing was missing any more.
            self.say(home, false, false, context);
            return;
        }
        let view = View::from_snapshot(&begin.view);
        let (Some(view), Some(above)) = (view, above) else {
            self.start_over(home, apart, context);
            return;
        };
        let below = match self.ranges.open {
            _ if anew => None,
            Some(_) => self.ranges.below,
            None => self.tip.map(|tip| tip.hash),
        };
        let members = self.view.members().cloned().unwrap_or_default();
        let shown = self.marked;
        self.view = view;
        self.snapshot_length = at;
        self.tip = Some(Tip { epoch: Epoch(begin.epoch), hash: above, time: Timestamp(begin.time) });
        self.go_on_at(head, at, Some((at, begin.view.clone())), apart, context);
        self.ranges.below = below;
        self.ranges.above = Some(above);
        self.told_mark = self.told_mark.max(append.mark).max(at);
        let audience = self.view.members().cloned().unwrap_or_default();
        if let Some(record) = self.record.as_ref().filter(|_| anew) {
            let line = Arc::new(Line::of_record(record));
            context.effects.push(Effect::LineChanged { log: self.id, line, audience: Arc::clone(&audience) });
        }
        if shown < at {
            context.effects.push(Effect::Began {
                log: self.id,
                epoch: self.epoch(),
                from: shown,
                at,
                before: members,
                audience,
            });
        }
        self.say(home, false, false, context);
    }

    /// The home cannot say what stands where the stream would begin, so the log is taken in order: from its head, or
    /// from its start when the state at the head is not known here any more.
    fn start_over(&mut self, home: &RegionId, apart: Option<u64>, context: &mut Context<'_, R>) {
        if self.ranges.stale {
            let mut append = self.start_append();
            if let Some(record) = &mut self.record {
                record.open_ranges.clear();
            }
            append.record.clone_from(&self.record);
            append.begin = Some(Begin { dropped: 0..self.length, at: 0 });
            append.snapshot = Some((0, View::Empty.snapshot()));
            self.restart(0, append, apart, context);
            (self.view, self.snapshot_length, self.tip, self.ranges.open) = (View::Empty, 0, None, None);
        }
        self.ask_again(home, context);
    }

    /// The first sequence here of what the line of an older epoch had and the present one has not.
    fn not_in_line(&self, before: Epoch) -> Option<u64> {
        let first = Line::of_record(self.record.as_ref()?).cut(before, u64::MAX).saturating_add(1);
        (first < self.length).then_some(first)
    }

    /// The commit after which the log goes on at `at`, with everything from its head up to there open.
    fn go_on_at(
        &mut self,
        head: u64,
        at: u64,
        snapshot: Option<(u64, Bytes)>,
        apart: Option<u64>,
        context: &mut Context<'_, R>,
    ) {
        let above = self.ranges.open.map_or(self.length, |(_, to)| to);
        let dropped = if head == 0 { 0..self.length } else { above..self.length };
        let end = if Mutant::PullWithGap.is_on() { at.saturating_sub(1) } else { at };
        let open = (head < end).then_some((head, end));
        let mut append = self.start_append();
        if let Some(record) = &mut self.record {
            record.open_ranges = open.into_iter().collect();
        }
        append.record.clone_from(&self.record);
        append.begin = Some(Begin { dropped, at });
        append.mark = at;
        append.snapshot = snapshot;
        self.restart(at, append, apart, context);
        self.ranges.open = open;
    }

    /// `apart` is from where entries stay as a tail, which is offered once that is on disk.
    fn restart(&mut self, at: u64, append: LogAppend, apart: Option<u64>, context: &mut Context<'_, R>) {
        let promises = apart.is_some();
        context.effects.push(Effect::Append(Box::new(LogAppend { apart, promises, ..append })));
        if promises {
            context.owned.push(Owned::Write(OwnedWrite { apart: true, ..OwnedWrite::default() }));
        }
        (self.length, self.durable, self.marked) = (at, at, at);
        self.pending.clear();
        self.changed = Changed::from(at);
        self.resend_asked = None;
        self.ranges.stale = false;
        self.ranges.asked = None;
        self.ranges.writes += 1;
    }

    /// A link broke: what stands above an open range is of an earlier subscription from now on.
    pub(crate) fn subscription_ended(&mut self, home: &RegionId) {
        self.ranges.asked = None;
        if self.ranges.open.is_some() && self.record.as_ref().is_some_and(|record| record.home == *home) {
            self.ranges.stale = true;
        }
    }

    /// Whether a page could be asked for now. One whose answer does not come is given up.
    pub(crate) fn wants_pull(&mut self, now: u64) -> bool {
        if self.ranges.asked.is_some_and(|asked| now >= asked + PULL_PATIENCE_MILLISECONDS) {
            self.ranges.asked = None;
        }
        self.ranges.open.is_some() && !self.ranges.stale && self.ranges.asked.is_none() && self.ranges.writes == 0
    }

    /// Asks for the end of the open range.
    pub(crate) fn pull(&mut self, context: &mut Context<'_, R>) {
        let Some(home) = self.record.as_ref().map(|record| record.home.clone()) else { return };
        let Some((from, to)) = self.ranges.open else { return };
        if !context.links_up.contains(&home) {
            return;
        }
        self.ranges.asked = Some(context.now.monotonic);
        let from = from.max(to.saturating_sub(PULL_ENTRIES));
        let pull = mesh::Pull { log: Bytes::copy_from_slice(&self.id.to_bytes()), from, to };
        context.effects.push(Effect::Send { peer: home, lane: Lane::Bulk, body: mesh::Body::Pull(pull) });
    }

    /// A page of the open range: taken when it reaches the hash that the entry above it names, else left and asked for
    /// again.
    pub(crate) fn pulled(
        &mut self,
        peer: &RegionId,
        to: u64,
        entries: &[Arc<SealedEntry>],
        context: &mut Context<'_, R>,
    ) {
        let Some((from, end)) = self.ranges.open else { return };
        let from_home = self.record.as_ref().is_some_and(|record| record.home == *peer);
        if self.ranges.stale || self.ranges.writes > 0 || to != end || !from_home {
            return;
        }
        let Some(low) = self.reached(from, end, entries) else { return };
        self.ranges.asked = None;
        let first = entries[0].entry.fixed.previous;
        if low == from && first != self.ranges.below.unwrap_or_default() {
            self.say(peer, false, true, context);
            return;
        }
        self.ranges.above = Some(first);
        let mut append = self.start_append();
        if let Some(record) = &mut self.record {
            record.open_ranges = if low > from { vec![(from, low)] } else { Vec::new() };
        }
        append.record.clone_from(&self.record);
        add_indexes(&mut append, entries);
        append.filled = entries.to_vec();
        self.ranges.writes += 1;
        context.effects.push(Effect::Append(Box::new(append)));
    }

    /// The first sequence of a page whose entries stand at the end of the range and name each other.
    fn reached(&self, from: u64, end: u64, entries: &[Arc<SealedEntry>]) -> Option<u64> {
        let (mut hash, mut low) = (self.ranges.above?, end);
        for entry in entries.iter().rev() {
            if entry.hash != hash || entry.sequence().0 + 1 != low {
                return None;
            }
            hash = entry.entry.fixed.previous;
            low -= 1;
        }
        (low >= from && low < end).then_some(low)
    }

    /// Commits that change what is open are on disk.
    pub(crate) fn ranges_written(&mut self, writes: usize, context: &mut Context<'_, R>) {
        self.ranges.writes = self.ranges.writes.saturating_sub(writes);
        if writes == 0 || self.ranges.writes > 0 {
            return;
        }
        self.ranges.open = self.record.as_ref().and_then(|record| record.open_ranges.first().copied());
        if let Some(home) = self.record.as_ref().map(|record| record.home.clone()) {
            self.say(&home, false, false, context);
        }
    }
}

/// What stands above an open range is of an earlier subscription from now on.
pub(crate) fn go_stale(ranges: &mut Ranges) {
    ranges.stale = ranges.open.is_some();
}
