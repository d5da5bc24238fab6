//! A replica of a log, voter or follower: what it promised, what it accepted, what it may take.

use hearth_protocol::Epoch;

use crate::ownership::line::{Held, LineEntry, OpeningAt, Unread};
use crate::ownership::rules::{Flaw, Rules};
use crate::ownership::step::{Append, Said, Staged, Step, Write};
use crate::ownership::trust::{Goal, Trust};

mod plan;

use plan::Plan;

/// Stream entries that a follower holds above an open range; later ones are asked for again.
const ABOVE_ENTRIES: usize = 1_024;

/// What a replica keeps on disk about its log, beside the entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Standing<C> {
    /// The newest epoch that this region promised: it takes nothing below.
    pub sealed: Epoch,
    /// The newest epoch whose opening this log holds by hash, with nothing of an older epoch beyond it.
    pub accepted: Epoch,
    /// The openings of the line that the log is on, oldest first.
    pub openings: Vec<OpeningAt<C>>,
    /// Entries below it may be shown.
    pub mark: u64,
    /// The part of a newer line that is not complete yet.
    pub staged: Option<Staged<C>>,
    /// Whether the store counts.
    pub trust: Trust<C>,
}

impl<C> Standing<C> {
    /// Of a log that this region holds nothing of yet.
    pub fn empty() -> Self {
        Self {
            sealed: Epoch::default(),
            accepted: Epoch::default(),
            openings: Vec::new(),
            mark: 0,
            staged: None,
            trust: Trust::Full,
        }
    }
}

/// A follower's subscription whose range below the stream is not complete: the stream is held until it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Arrival<E: LineEntry> {
    /// The epoch subscribed to.
    pub epoch: Epoch,
    /// The first sequence of the stream.
    pub start: u64,
    /// The hash of the entry before it.
    pub previous: E::Chain,
    /// The opening of the epoch.
    pub opening: OpeningAt<E::Chain>,
    /// The stream so far.
    pub above: Vec<E>,
}

/// A replica's decisions about one log. The entries themselves are the shell's ([`Held`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica<E: LineEntry> {
    pub(crate) standing: Standing<E::Chain>,
    arrival: Option<Arrival<E>>,
}

impl<E: LineEntry> Replica<E> {
    /// Takes up a log as the store has it.
    pub fn new(standing: Standing<E::Chain>) -> Self {
        Self { standing, arrival: None }
    }

    /// What is on disk about the log, or on its way there.
    pub fn standing(&self) -> &Standing<E::Chain> {
        &self.standing
    }

    /// The subscription whose range is still open.
    pub fn arrival(&self) -> Option<&Arrival<E>> {
        self.arrival.as_ref()
    }

    /// What a home is told of a log of `length` entries on disk.
    pub fn holds(&self, length: u64) -> Said<E> {
        Said::Holds { accepted: self.standing.accepted, length, counts: self.standing.trust == Trust::Full }
    }

    /// The home hears that a voter promised a newer epoch: it numbers nothing more under its own. `None` when it promised
    /// that already.
    pub fn give_way(&mut self, newer: Epoch) -> Option<Write<E>> {
        if newer <= self.standing.sealed {
            return None;
        }
        self.standing.sealed = newer;
        Some(Write::of(self.standing.clone()))
    }

    /// An opener asks for the promise to take nothing below `epoch`. The answer carries what decides the winner, as
    /// it stands once the promise is durable.
    ///
    /// # Errors
    /// [`Unread`] when the last hash is not in memory.
    pub fn handle_seal(
        &mut self,
        held: &(impl Held<E> + ?Sized),
        epoch: Epoch,
        rules: &impl Rules,
    ) -> Result<Step<E>, Unread> {
        if epoch < self.standing.sealed {
            return Ok(Step::say(Said::Newer { sealed: self.standing.sealed }));
        }
        let length = held.length();
        let last = held.hash_before(length)?.unwrap_or_default();
        let write = (epoch > self.standing.sealed && !rules.has(Flaw::SealOff)).then(|| {
            self.standing.sealed = epoch;
            Write::of(self.standing.clone())
        });
        self.end_older_subscription();
        let counts = self.standing.trust == Trust::Full || rules.has(Flaw::NewStoreTrusted);
        let accepted = self.standing.accepted;
        Ok(Step { write, then: vec![Said::Sealed { epoch, accepted, length, last, counts }] })
    }

    /// Takes what the home of an epoch sent: entries onto the predecessor that they name, the accepted epoch in the
    /// write after which the log holds all that the epoch opened with, by hash, and nothing older beyond that.
    ///
    /// # Errors
    /// [`Unread`] when a hash is not in memory; nothing has changed then.
    pub fn handle_append(
        &mut self,
        held: &(impl Held<E> + ?Sized),
        append: &Append<E>,
        rules: &impl Rules,
    ) -> Result<Step<E>, Unread> {
        let lenient = rules.has(Flaw::FollowerTakesOlder) || rules.has(Flaw::SealOff);
        if append.epoch < self.standing.sealed && !lenient {
            return Ok(Step::say(Said::Newer { sealed: self.standing.sealed }));
        }
        let mut plan = Plan::new(held, &self.standing);
        plan.begin(append, rules)?;
        for entry in &append.entries {
            plan.take(append, entry, rules)?;
        }
        plan.ask_on(append);
        plan.take_mark(append, rules);
        plan.judge_trust(rules)?;
        Ok(self.finish(plan, rules))
    }

    /// Turns a plan into a step and goes on from there.
    fn finish<H: Held<E> + ?Sized>(&mut self, plan: Plan<'_, E, H>, rules: &impl Rules) -> Step<E> {
        let counts = plan.standing.trust == Trust::Full || rules.has(Flaw::NewStoreTrusted);
        let answer = plan.answer(counts);
        let rewound = plan.rewound;
        let write = plan.into_write(&self.standing);
        if let Some(write) = &write {
            self.standing = write.standing.clone();
        }
        self.end_older_subscription();
        let rewound = rewound.map(|from| Said::Rewound { from });
        Step { write, then: rewound.into_iter().chain([answer]).collect() }
    }

    /// What was held of a subscription goes once a newer epoch is known: it may be of a line that ended.
    fn end_older_subscription(&mut self) {
        if self.arrival.as_ref().is_some_and(|arrival| arrival.epoch < self.standing.sealed) {
            self.arrival = None;
        }
    }

    /// The home of `epoch` answered this follower's subscription: its stream begins at `start`, behind `previous`.
    /// What was held of an earlier subscription goes, and nothing of an older epoch is taken from now on.
    ///
    /// # Errors
    /// [`Unread`] when a hash is not in memory.
    pub fn handle_subscribed(
        &mut self,
        held: &(impl Held<E> + ?Sized),
        opening: OpeningAt<E::Chain>,
        start: u64,
        previous: E::Chain,
        rules: &impl Rules,
    ) -> Result<Step<E>, Unread> {
        if opening.epoch < self.standing.sealed {
            return Ok(Step::say(Said::Newer { sealed: self.standing.sealed }));
        }
        let above = match self.arrival.take() {
            Some(arrival) if rules.has(Flaw::HeldOverSubscription) => arrival.above,
            Some(_) | None => Vec::new(),
        };
        let mut plan = Plan::new(held, &self.standing);
        plan.standing.sealed = opening.epoch;
        if held.hash_before(start)? != Some(previous) || self.standing.accepted < opening.epoch {
            self.arrival = Some(Arrival { epoch: opening.epoch, start, previous, opening, above });
        }
        let write = plan.into_write(&self.standing);
        if let Some(write) = &write {
            self.standing = write.standing.clone();
        }
        Ok(Step { write, then: vec![Said::Asks { from: held.length() }] })
    }

    /// Takes stream entries above the open range: they are held until the range below them is complete. Returns
    /// whether they were; what does not fit behind what is held is asked for again later.
    pub fn hold_above(&mut self, append: &Append<E>) -> bool {
        let Some(arrival) = self.arrival.as_mut().filter(|arrival| arrival.epoch == append.epoch) else { return false };
        for entry in &append.entries {
            let end = arrival.start + arrival.above.len() as u64;
            let last = arrival.above.last().map_or(arrival.previous, LineEntry::chain);
            if entry.sequence() == end && entry.previous() == last && arrival.above.len() < ABOVE_ENTRIES {
                arrival.above.push(entry.clone());
            }
        }
        append.entries.iter().all(|entry| entry.sequence() >= arrival.start)
    }

    /// Takes a pulled range below the stream of a follower, from whichever replica. Where it meets the stream it must be the
    /// predecessor that the stream names, else it is of another line and the stream's own home is asked.
    ///
    /// # Errors
    /// [`Unread`] when a hash is not in memory; nothing has changed then.
    pub fn handle_pulled(
        &mut self,
        held: &(impl Held<E> + ?Sized),
        entries: &[E],
        rules: &impl Rules,
    ) -> Result<Step<E>, Unread> {
        let Some(arrival) = &self.arrival else { return Ok(Step::say(Said::Asks { from: held.length() })) };
        let mut plan = Plan::new(held, &self.standing);
        let below = Append { epoch: arrival.epoch, opening: arrival.as_opening(), entries: Vec::new(), mark: 0 };
        if rules.has(Flaw::PullUnchecked) {
            plan.take_unchecked(arrival, entries);
        } else {
            plan.begin(&below, rules)?;
            for entry in entries.iter().filter(|entry| entry.sequence() < arrival.start) {
                plan.take_pulled(&below, entry, rules)?;
            }
        }
        if plan.holds(arrival.start, arrival.previous, rules)? {
            // The range is complete up to the stream's predecessor, by hash: what was held follows.
            for entry in arrival.above.clone() {
                plan.take(&below, &entry, rules)?;
            }
            plan.correct_opening(arrival);
            self.arrival = None;
        }
        Ok(self.finish(plan, rules))
    }

    /// This region is a new incarnation, and the map knows it as that: its store counts for nothing yet.
    pub fn begin_joining(&mut self) -> Step<E> {
        self.standing.trust = Trust::Joining(None);
        Step { write: Some(Write::of(self.standing.clone())), then: Vec::new() }
    }

    /// The home that the placement names, read after the map took the new incarnation, answered its subscription: the
    /// store counts once it accepted that epoch and holds what the home's log had then.
    ///
    /// # Errors
    /// [`Unread`] when a hash is not in memory.
    pub fn handle_joined(
        &mut self,
        held: &(impl Held<E> + ?Sized),
        goal: Goal<E::Chain>,
        rules: &impl Rules,
    ) -> Result<Step<E>, Unread> {
        if self.standing.trust == Trust::Full || goal.epoch < self.standing.sealed {
            return Ok(Step::say(Said::Newer { sealed: self.standing.sealed }));
        }
        let mut plan = Plan::new(held, &self.standing);
        plan.standing.trust = Trust::Joining(Some(goal));
        plan.judge_trust(rules)?;
        Ok(self.finish(plan, rules))
    }
}

impl<E: LineEntry> Arrival<E> {
    /// Where the stream begins, in the place of an opening: who holds all below it by hash holds the opening too.
    fn as_opening(&self) -> OpeningAt<E::Chain> {
        OpeningAt { epoch: self.epoch, first: self.start, previous: self.previous }
    }
}
