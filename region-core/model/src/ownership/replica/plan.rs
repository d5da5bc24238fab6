//! One step of a replica in the making: the log as it will be, before anything is written.

use crate::ownership::line::{Held, LineEntry, OpeningAt, Unread};
use crate::ownership::replica::{Arrival, Standing};
use crate::ownership::rules::{Flaw, Rules};
use crate::ownership::step::{Append, Said, StageWrite, Staged, Write};
use crate::ownership::trust::Trust;

/// The log under change.
#[derive(Debug)]
pub(super) struct Plan<'h, E: LineEntry, H: Held<E> + ?Sized> {
    held: &'h H,
    pub(super) standing: Standing<E::Chain>,
    stage: StageWrite<E>,
    apart: Option<u64>,
    /// The staged range that becomes part of the log.
    adopted: Option<Staged<E::Chain>>,
    append: Vec<E>,
    asks: Option<u64>,
    conflict: Option<u64>,
    pub(super) rewound: Option<u64>,
}

impl<'h, E: LineEntry, H: Held<E> + ?Sized> Plan<'h, E, H> {
    pub(super) fn new(held: &'h H, standing: &Standing<E::Chain>) -> Self {
        Self {
            held,
            standing: standing.clone(),
            stage: StageWrite::Keep,
            apart: None,
            adopted: None,
            append: Vec::new(),
            asks: None,
            conflict: None,
            rewound: None,
        }
    }

    /// The end of what the log keeps of before.
    fn base(&self) -> u64 {
        match &self.adopted {
            Some(staged) => staged.end,
            None => self.apart.unwrap_or(self.held.length()),
        }
    }

    fn length(&self) -> u64 {
        self.base() + self.append.len() as u64
    }

    /// The hash before `sequence` in the log as planned; `None` beyond its end.
    fn hash_before(&self, sequence: u64) -> Result<Option<E::Chain>, Unread> {
        let base = self.base();
        if sequence > base {
            let index = usize::try_from(sequence - base - 1).unwrap_or(usize::MAX);
            return Ok(self.append.get(index).map(LineEntry::chain));
        }
        match &self.adopted {
            Some(staged) if sequence == staged.end => Ok(Some(staged.last)),
            Some(staged) if sequence > staged.first => Err(Unread(sequence - 1)),
            Some(_) | None => self.held.hash_before(sequence),
        }
    }

    /// Promises the epoch, forgets what was staged for an older one, accepts if the log holds the opening already.
    pub(super) fn begin(&mut self, append: &Append<E>, rules: &impl Rules) -> Result<(), Unread> {
        self.standing.sealed = self.standing.sealed.max(append.epoch);
        if self.standing.staged.as_ref().is_some_and(|staged| staged.epoch != append.epoch) {
            self.standing.staged = None;
            self.stage = StageWrite::Drop;
        }
        self.try_accept(append, rules)
    }

    /// Takes one entry where it belongs: below the opening towards accepting, else behind the log.
    pub(super) fn take(&mut self, append: &Append<E>, entry: &E, rules: &impl Rules) -> Result<(), Unread> {
        if self.standing.accepted >= append.epoch {
            return self.extend(append, entry, rules);
        }
        if rules.has(Flaw::AcceptAtFirstAppend) {
            return self.accept_at_first(append, entry);
        }
        if entry.sequence() < append.opening.first {
            self.approach(append, entry, rules)?;
            self.try_accept(append, rules)
        } else {
            self.ask(self.next_below(append.opening));
            Ok(())
        }
    }

    /// What is needed next towards an opening that the log does not lead to. A log that is longer than the opening has
    /// nothing to ask for at its end: the entry before the opening shows where the lines part.
    fn next_below(&self, opening: OpeningAt<E::Chain>) -> u64 {
        match &self.standing.staged {
            Some(staged) => staged.end,
            None => self.length().min(opening.first.saturating_sub(1)),
        }
    }

    /// An entry of the accepted line.
    fn extend(&mut self, append: &Append<E>, entry: &E, rules: &impl Rules) -> Result<(), Unread> {
        let at = entry.sequence();
        if self.adopted.as_ref().is_some_and(|staged| at < staged.end) {
            return Ok(());
        }
        let length = self.length();
        if at > length {
            self.ask(length);
        } else if at < length {
            if self.hash_before(at + 1)? != Some(entry.chain()) {
                self.replace(append, entry, rules)?;
            }
        } else if rules.has(Flaw::PredecessorUnchecked) || self.hash_before(at)? == Some(entry.previous()) {
            self.push(entry);
        } else {
            self.conflict = Some(at);
        }
        Ok(())
    }

    /// Another entry stands where the accepted line has this one: a broken store, or a rule that is switched off.
    fn replace(&mut self, append: &Append<E>, entry: &E, rules: &impl Rules) -> Result<(), Unread> {
        let at = entry.sequence();
        let lenient = [Flaw::AcceptAtFirstAppend, Flaw::AcceptWithTail, Flaw::FollowerTakesOlder, Flaw::SealOff];
        let newer = entry.epoch() >= append.epoch || rules.has(Flaw::AcceptAtFirstAppend);
        if lenient.into_iter().any(|flaw| rules.has(flaw)) && newer && self.hash_before(at)? == Some(entry.previous()) {
            self.cut(at);
            self.push(entry);
        } else {
            self.conflict = Some(at);
        }
        Ok(())
    }

    /// The wrong reading: the first append that fits makes the epoch accepted.
    fn accept_at_first(&mut self, append: &Append<E>, entry: &E) -> Result<(), Unread> {
        let at = entry.sequence();
        if at > self.length() || self.hash_before(at)? != Some(entry.previous()) {
            self.ask(self.lower(at));
            return Ok(());
        }
        if at == self.length() || self.hash_before(at + 1)? != Some(entry.chain()) {
            self.cut(at);
            self.push(entry);
        }
        self.standing.accepted = append.epoch;
        Ok(())
    }

    /// An entry of a newer line, below its opening. Where the log agrees it is known or extends the log, under the old
    /// accepted epoch; where it differs it is staged, so that the log never shrinks before the new line is complete.
    fn approach(&mut self, append: &Append<E>, entry: &E, rules: &impl Rules) -> Result<(), Unread> {
        let at = entry.sequence();
        if let Some(staged) = self.standing.staged.clone().filter(|staged| at >= staged.first) {
            if at == staged.end && entry.previous() == staged.last {
                self.stage(staged, entry);
            } else if at >= staged.end {
                self.ask(staged.end);
            }
            return Ok(());
        }
        let length = self.length();
        if at > length {
            self.ask(length);
        } else if at < length && self.hash_before(at + 1)? == Some(entry.chain()) {
            // Known.
        } else if at == length && rules.has(Flaw::PredecessorUnchecked) {
            self.push(entry);
        } else if self.hash_before(at)? != Some(entry.previous()) {
            self.ask(self.lower(at));
        } else if at == length {
            self.push(entry);
        } else if self.standing.staged.is_none() {
            let begun = Staged {
                epoch: append.epoch,
                first: at,
                end: at,
                last: entry.previous(),
                openings: self.standing.openings.iter().filter(|opening| opening.first < at).copied().collect(),
            };
            self.stage(begun, entry);
        }
        Ok(())
    }

    /// An entry from any replica, below where a stream begins. It may be of another line: all of them stay staged until
    /// the range meets the predecessor that the stream names, also when the epoch is accepted already.
    pub(super) fn take_pulled(&mut self, below: &Append<E>, entry: &E, rules: &impl Rules) -> Result<(), Unread> {
        let at = entry.sequence();
        if self.adopted.is_some() {
            return Ok(());
        }
        if let Some(staged) = self.standing.staged.clone().filter(|staged| at > staged.first) {
            if at == staged.end && entry.previous() == staged.last {
                self.stage(staged, entry);
                return self.try_accept(below, rules);
            }
            if at >= staged.end {
                self.ask(staged.first);
            }
            return Ok(());
        }
        if at > self.length() {
            self.ask(self.length());
        } else if at < self.length() && self.hash_before(at + 1)? == Some(entry.chain()) {
            // Known.
        } else if self.hash_before(at)? == Some(entry.previous()) {
            let openings = self.standing.openings.iter().filter(|opening| opening.first < at).copied().collect();
            self.stage(Staged { epoch: below.epoch, first: at, end: at, last: entry.previous(), openings }, entry);
            return self.try_accept(below, rules);
        } else {
            self.ask(self.lower(at));
        }
        Ok(())
    }

    /// Whether the log as planned has a hash before a sequence.
    pub(super) fn holds(&self, sequence: u64, previous: E::Chain, rules: &impl Rules) -> Result<bool, Unread> {
        let reached = rules.has(Flaw::PullUnchecked) && self.length() >= sequence;
        Ok(reached || self.hash_before(sequence)? == Some(previous))
    }

    fn stage(&mut self, mut staged: Staged<E::Chain>, entry: &E) {
        note_opening(&mut staged.openings, entry);
        let starts = staged.end == staged.first;
        staged.end += 1;
        staged.last = entry.chain();
        self.standing.staged = Some(staged);
        match &mut self.stage {
            StageWrite::Start(entries) | StageWrite::Extend(entries) if !starts => entries.push(entry.clone()),
            stage if starts => *stage = StageWrite::Start(vec![entry.clone()]),
            stage => *stage = StageWrite::Extend(vec![entry.clone()]),
        }
    }

    /// Stores the epoch as accepted if the log, or the staged line, now holds all that it opened with.
    fn try_accept(&mut self, append: &Append<E>, rules: &impl Rules) -> Result<(), Unread> {
        let opening = append.opening;
        let again = self.standing.accepted == append.epoch && self.standing.staged.is_some();
        if (self.standing.accepted >= append.epoch && !again) || rules.has(Flaw::AcceptAtFirstAppend) {
            return Ok(());
        }
        let complete = |staged: &Staged<E::Chain>| staged.end == opening.first && staged.last == opening.previous;
        if let Some(staged) = self.standing.staged.clone().filter(complete) {
            self.cut(staged.first);
            self.standing.openings.clone_from(&staged.openings);
            self.adopted = Some(staged);
        } else if again {
            return Ok(());
        } else if self.hash_before(opening.first)? == Some(opening.previous) {
            if !rules.has(Flaw::AcceptWithTail) {
                self.cut(opening.first);
            }
        } else {
            return Ok(());
        }
        if self.standing.staged.take().is_some() && self.adopted.is_none() {
            self.stage = StageWrite::Drop;
        }
        self.standing.accepted = append.epoch;
        self.standing.openings.push(opening);
        Ok(())
    }

    /// Entries from `from` on leave the log.
    fn cut(&mut self, from: u64) {
        let base = self.base();
        if from >= self.length() {
            return;
        }
        if from >= base {
            self.append.truncate(usize::try_from(from - base).unwrap_or(usize::MAX));
        } else {
            self.append.clear();
            self.apart = Some(from);
        }
        self.standing.openings.retain(|opening| opening.first < from);
        if self.standing.mark > from {
            self.standing.mark = from;
            self.rewound = Some(from);
        }
    }

    fn push(&mut self, entry: &E) {
        note_opening(&mut self.standing.openings, entry);
        self.append.push(entry.clone());
    }

    fn ask(&mut self, from: u64) {
        self.asks = Some(self.asks.map_or(from, |before| before.min(from)));
    }

    /// Towards accepting an epoch its home is asked for what comes behind what a frame held: where the lines agree for
    /// longer than a page, the length of this log says nothing of where they part.
    pub(super) fn ask_on(&mut self, append: &Append<E>) {
        let Some(last) = append.entries.last() else { return };
        if self.asks.is_some() || self.conflict.is_some() || self.standing.accepted >= append.epoch {
            return;
        }
        let next = self.standing.staged.as_ref().map_or((last.sequence() + 1).min(self.length()), |staged| staged.end);
        if next < append.opening.first {
            self.ask(next);
        }
    }

    /// Where the lines may still agree, below `at`: forks lie at openings, of this line or of the other.
    fn lower(&self, at: u64) -> u64 {
        self.standing.openings.iter().map(|opening| opening.first).filter(|first| *first < at).max().unwrap_or(0)
    }

    /// A mark counts only once its epoch is accepted.
    pub(super) fn take_mark(&mut self, append: &Append<E>, rules: &impl Rules) {
        if self.standing.accepted == append.epoch || rules.has(Flaw::MarkUnaccepted) {
            self.standing.mark = self.standing.mark.max(append.mark.min(self.length()));
        }
    }

    /// A new incarnation counts once it reached its goal; a newer epoch begins that again.
    pub(super) fn judge_trust(&mut self, rules: &impl Rules) -> Result<(), Unread> {
        let Trust::Joining(goal) = self.standing.trust else { return Ok(()) };
        if rules.has(Flaw::NewStoreCountsOnceAccepted) && self.standing.accepted == self.standing.sealed {
            self.standing.trust = Trust::Full;
            return Ok(());
        }
        let Some(goal) = goal else { return Ok(()) };
        if self.standing.sealed > goal.epoch {
            self.standing.trust = Trust::Joining(None);
        } else if self.standing.accepted == goal.epoch && self.hash_before(goal.length)? == Some(goal.last) {
            self.standing.trust = Trust::Full;
        }
        Ok(())
    }

    /// The wrong reading: a pulled range is taken as it comes and joined to the stream.
    pub(super) fn take_unchecked(&mut self, arrival: &Arrival<E>, entries: &[E]) {
        for entry in entries {
            if entry.sequence() == self.length() && entry.sequence() < arrival.start {
                self.append.push(entry.clone());
            }
        }
        if self.length() >= arrival.start {
            self.standing.accepted = arrival.epoch;
            self.append.extend(arrival.above.iter().cloned());
        }
    }

    /// The accepted epoch opened where its home said, not where the stream began.
    pub(super) fn correct_opening(&mut self, arrival: &Arrival<E>) {
        let openings = &mut self.standing.openings;
        openings.retain(|opening| opening.epoch != arrival.epoch);
        openings.push(arrival.opening);
    }

    /// What the home is told.
    pub(super) fn answer(&self, counts: bool) -> Said<E> {
        match (self.conflict, self.asks) {
            (Some(at), _) => Said::Conflict { at },
            (None, Some(from)) if self.append.is_empty() => Said::Asks { from },
            (None, Some(_) | None) => Said::Holds { accepted: self.standing.accepted, length: self.length(), counts },
        }
    }

    /// The write, if there is anything to write.
    pub(super) fn into_write(self, before: &Standing<E::Chain>) -> Option<Write<E>> {
        let write = Write {
            stage: self.stage,
            apart: self.apart,
            adopt: self.adopted.is_some(),
            append: self.append,
            standing: self.standing,
        };
        let nothing = write.stage == StageWrite::Keep
            && write.apart.is_none()
            && !write.adopt
            && write.append.is_empty()
            && write.standing == *before;
        (!nothing).then_some(write)
    }
}

/// Remembers where an epoch opened, when an entry is the first of it.
fn note_opening<E: LineEntry>(openings: &mut Vec<OpeningAt<E::Chain>>, entry: &E) {
    if openings.last().is_none_or(|last| last.epoch < entry.epoch()) {
        openings.push(OpeningAt { epoch: entry.epoch(), first: entry.sequence(), previous: entry.previous() });
    }
}
