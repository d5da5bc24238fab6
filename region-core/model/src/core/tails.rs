//! Tails come back: entries that left a log when its line ended elsewhere are offered to its home, in their order,
//! again under each new home (design.md 4.6).

use std::collections::BTreeSet;
use std::sync::Arc;

use hearth_protocol::{Epoch, LogId, LogKind, Position, SealedEntry};

use super::{Now, RegionCore, Waiting};
use crate::command::commands_of;
use crate::effect::Effect;
use crate::home::is_by_id;
use crate::mutants::Mutant;
use crate::ownership::Flaw;

/// Entries of a tail on their way to the home at a time.
const WINDOW: usize = 64;
/// Commands of those at a time: beyond it no further entry of a page is offered with them.
const COMMANDS: usize = 1_024;
/// Tails that are offered at a time.
const OFFERED: usize = 16;

/// How far a tail is. It stays on disk.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The epoch whose home is offered to, or has all of it.
    epoch: Epoch,
    /// Behind this position nothing was offered yet.
    after: Option<Position>,
    /// The last position of the page on its way.
    last: Option<Position>,
    /// Forwards on their way.
    waiting: BTreeSet<u64>,
    /// Whether one of the page was not taken.
    refused: bool,
    reading: bool,
    settled: bool,
}

impl Tail {
    /// Whether the home of the present epoch has all of it.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }
}

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    /// The store keeps tails of these logs.
    pub(super) fn tails_at_start(&mut self, logs: Vec<LogId>) {
        for log in logs {
            self.tail_found(log);
        }
    }

    /// Entries left a log: they come back from the start of its tail.
    pub(super) fn tail_found(&mut self, id: LogId) {
        if id.kind == LogKind::Conversation && !Mutant::Rule(Flaw::TailDropped).is_on() {
            self.tails.insert(id, Tail::default());
        }
    }

    /// Offers what is not settled under the present home.
    pub(super) fn offer_tails(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        if self.tails.is_empty() {
            return;
        }
        let mut unknown = Vec::new();
        let mut offered = self.tails.values().filter(|tail| tail.reading || !tail.waiting.is_empty()).count();
        let ids: Vec<LogId> = self.tails.keys().copied().collect();
        for id in ids {
            let Some(placement) = self.placement_of(id).cloned() else {
                unknown.push(id);
                continue;
            };
            let reached = if placement.home == self.options.me {
                self.numbers(id, now)
            } else {
                self.links_up.contains(&placement.home)
            };
            let reached = reached && !self.rounds.is_broken(id);
            let Some(tail) = self.tails.get_mut(&id) else { continue };
            if placement.epoch > tail.epoch {
                *tail = Tail { epoch: placement.epoch, ..Tail::default() };
            }
            if !tail.settled && !tail.reading && tail.waiting.is_empty() && reached && offered < OFFERED {
                offered += 1;
                tail.reading = true;
                effects.push(Effect::ReadTail { log: id, after: tail.after, rows: WINDOW });
            }
        }
        for id in unknown.into_iter().take(OFFERED) {
            // Brings the placement into memory.
            self.on_log(id, Waiting::Release, now, effects);
        }
    }

    /// A page of a tail was read.
    pub(super) fn tail_page(
        &mut self,
        id: LogId,
        entries: &[Arc<SealedEntry>],
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        let Some(tail) = self.tails.get_mut(&id) else { return };
        tail.reading = false;
        tail.refused = false;
        tail.settled = entries.is_empty();
        let entries = &entries[..entries_at_a_time(entries)];
        tail.last = entries.last().map(|entry| entry.entry.fixed.position);
        let epoch = tail.epoch;
        let Some(placement) = self.placement_of(id).filter(|placement| placement.epoch == epoch).cloned() else {
            return;
        };
        let mut waiting = BTreeSet::new();
        let entries = entries.iter().filter(|entry| is_by_id(entry.entry.fixed.kind));
        // Requests that shared an entry come back each by itself: who asked may have asked again since.
        let commands =
            entries.flat_map(|entry| commands_of(id, entry).into_iter().map(move |command| (command, entry)));
        for (mut command, entry) in commands {
            command.original_time = command.original_time.or(Some(entry.entry.fixed.time));
            waiting.insert(self.next_id);
            self.forward(command, placement.home.clone(), None, None, None, now, effects);
        }
        let Some(tail) = self.tails.get_mut(&id) else { return };
        tail.waiting = waiting;
        self.page_settled(id, effects);
    }

    /// The home answered for an entry of a tail; `took` says that it has it, or will never take it.
    pub(super) fn tail_answered(
        &mut self,
        id: LogId,
        forward: u64,
        took: bool,
        _now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        let Some(tail) = self.tails.get_mut(&id) else { return };
        if tail.waiting.remove(&forward) {
            tail.refused |= !took;
            self.page_settled(id, effects);
        }
    }

    fn page_settled(&mut self, id: LogId, effects: &mut Vec<Effect<R>>) {
        let Some(tail) = self.tails.get_mut(&id) else { return };
        // One that was not taken is offered again with the next second, and those behind it: their order stays.
        if tail.waiting.is_empty() && !tail.refused && !tail.settled && !tail.reading {
            tail.after = tail.last;
            tail.reading = true;
            effects.push(Effect::ReadTail { log: id, after: tail.after, rows: WINDOW });
        }
    }
}

/// How many entries of a page are offered together: most came from one command each.
fn entries_at_a_time(entries: &[Arc<SealedEntry>]) -> usize {
    let mut commands = 0;
    let fit = entries.iter().take_while(|entry| {
        let fits = commands < COMMANDS;
        commands += entry.ids().count();
        fits
    });
    fit.count()
}
