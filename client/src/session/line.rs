//! One conversation as a client receives it: what came out, what waits for a hole to close, and when to pull.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_protocol::Epoch;
use hearth_protocol::rest::{HistoryResponse, Row};

use super::event::GapReason;

/// Rows of one conversation that wait behind a hole. Above it the newest are dropped and pulled later.
const WAITING_ROWS: usize = 2_000;
/// How long a hole may close by itself while an own message is on its way: its ack fills a position, no row does.
const GRACE: Duration = Duration::from_millis(300);
/// How long an answer to a pull is waited for.
const PULL_TIMEOUT: Duration = Duration::from_secs(10);

/// What fills a position.
#[derive(Debug)]
enum Item {
    /// A row to give out.
    Row(Box<Row>),
    /// Acked to this client: nothing to give out.
    Own(Epoch),
    /// Up to this position nothing can be had.
    Missing(u64, GapReason),
}

/// What comes out.
#[derive(Debug)]
pub(super) enum Output {
    Row(Box<Row>),
    Gap { from: u64, to: u64, reason: GapReason },
}

#[derive(Debug, PartialEq, Eq)]
enum Pull {
    Idle,
    Due(Duration),
    Asked { until: Duration },
}

/// One conversation.
#[derive(Debug)]
pub(super) struct Line {
    /// Everything up to here came out or was acked; `None` until the first row says where this client begins.
    done: Option<u64>,
    epoch: Option<Epoch>,
    waiting: BTreeMap<u64, Item>,
    /// Positions up to here are known to exist.
    known: u64,
    /// Whether to pull until the region says that no more follow.
    to_end: bool,
    pull: Pull,
    fruitless: u32,
    /// Where a resume goes on that comes before the first row.
    joined_at: Option<u64>,
}

impl Line {
    /// A conversation of which the client has everything up to `done`.
    pub(super) fn new(done: Option<u64>, epoch: Option<Epoch>) -> Self {
        let known = done.unwrap_or(0);
        Self {
            done,
            epoch,
            waiting: BTreeMap::new(),
            known,
            to_end: false,
            pull: Pull::Idle,
            fruitless: 0,
            joined_at: None,
        }
    }

    /// A conversation that the user just joined, with its last number.
    pub(super) fn joined(last_sequence: u64) -> Self {
        // Before its first message nothing can have been missed; later, rows come from the join on.
        let mut line = Self::new((last_sequence == 0).then_some(0), None);
        line.joined_at = Some(last_sequence);
        line
    }

    /// Where a resume goes on: position and its epoch.
    pub(super) fn cursor(&self) -> Option<(u64, Option<Epoch>)> {
        let first_own = || self.waiting.keys().next().map(|first| first - 1);
        self.done.or_else(first_own).or(self.joined_at).map(|done| (done, self.epoch))
    }

    /// A row that came by itself.
    pub(super) fn row(&mut self, row: Box<Row>, own_in_flight: bool, now: Duration) -> Vec<Output> {
        let sequence = row.sequence_number;
        if self.done.is_none() {
            let first = self.waiting.keys().next().map_or(sequence, |first| sequence.min(*first));
            self.done = Some(first.saturating_sub(1));
        }
        self.insert(sequence, Item::Row(row));
        self.advance(if own_in_flight { GRACE } else { Duration::ZERO }, now)
    }

    /// An own message got its position.
    pub(super) fn own(&mut self, sequence: u64, epoch: Epoch, now: Duration) -> Vec<Output> {
        self.insert(sequence, Item::Own(epoch));
        // Rows below an ack may be on their way on another path than the ack's.
        self.advance(GRACE, now)
    }

    /// Everything up to `sequence` exists and was covered.
    pub(super) fn covered(&mut self, sequence: u64, now: Duration) -> Vec<Output> {
        self.known = self.known.max(sequence);
        self.advance(GRACE, now)
    }

    /// The region asks for a pull from here on.
    pub(super) fn pull_to_end(&mut self, now: Duration) {
        self.to_end = true;
        self.done.get_or_insert(0);
        self.due(now);
    }

    /// A new connection: what was asked on the old one is not answered any more, and a replay may close the hole.
    pub(super) fn reconnected(&mut self, now: Duration) {
        self.pull = Pull::Idle;
        self.fruitless = 0;
        if self.incomplete() {
            self.pull = Pull::Due(now + Duration::from_secs(2));
        }
    }

    /// The answer to a pull.
    pub(super) fn pulled(&mut self, answer: HistoryResponse, now: Duration) -> Vec<Output> {
        let before = self.done;
        let next = self.done.unwrap_or(0) + 1;
        if answer.floor_sequence > next {
            self.insert(next, Item::Missing(answer.floor_sequence - 1, GapReason::Retention));
        }
        for range in answer.withheld.iter().filter(|range| range.to >= next) {
            self.insert(range.from.max(next), Item::Missing(range.to, GapReason::Withheld));
        }
        for row in answer.messages {
            self.insert(row.sequence_number, Item::Row(Box::new(row)));
        }
        self.to_end = self.to_end && answer.has_more;
        self.pull = Pull::Idle;
        let outputs = self.advance(Duration::ZERO, now);
        if self.done != before {
            self.fruitless = 0;
        } else if self.incomplete() {
            self.retry(now);
        }
        outputs
    }

    /// A pull was refused or not answered: again, later.
    pub(super) fn retry(&mut self, now: Duration) {
        self.fruitless = self.fruitless.saturating_add(1);
        let wait = Duration::from_millis(250) * 2u32.pow(self.fruitless.min(5));
        self.pull = Pull::Due(now + wait.min(Duration::from_secs(5)));
    }

    /// Whether a pull is to be asked for now, and after which position.
    pub(super) fn ask(&mut self, now: Duration) -> Option<u64> {
        match self.pull {
            Pull::Due(at) if at <= now => {}
            Pull::Asked { until } if until <= now => {}
            Pull::Idle | Pull::Due(_) | Pull::Asked { .. } => return None,
        }
        self.pull = Pull::Asked { until: now + PULL_TIMEOUT };
        Some(self.done.unwrap_or(0))
    }

    /// Whether an answer is outstanding.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self.pull, Pull::Asked { .. })
    }

    /// When [`Line::ask`] has something to say next.
    pub(super) fn deadline(&self) -> Option<Duration> {
        match self.pull {
            Pull::Idle => None,
            Pull::Due(at) => Some(at),
            Pull::Asked { until } => Some(until),
        }
    }

    fn incomplete(&self) -> bool {
        let Some(done) = self.done else { return false };
        self.to_end || !self.waiting.is_empty() || done < self.known
    }

    fn due(&mut self, at: Duration) {
        match self.pull {
            Pull::Due(earlier) if earlier <= at => {}
            Pull::Asked { .. } => {}
            Pull::Idle | Pull::Due(_) => self.pull = Pull::Due(at),
        }
    }

    fn insert(&mut self, sequence: u64, item: Item) {
        self.known = self.known.max(sequence);
        if self.done.is_some_and(|done| sequence <= done) {
            return;
        }
        self.waiting.entry(sequence).or_insert(item);
        if self.waiting.len() > WAITING_ROWS {
            // `known` remembers that it exists.
            self.waiting.pop_last();
        }
    }

    fn advance(&mut self, grace: Duration, now: Duration) -> Vec<Output> {
        let mut outputs = Vec::new();
        let Some(mut done) = self.done else { return outputs };
        while let Some(entry) = self.waiting.first_entry().filter(|entry| *entry.key() <= done + 1) {
            let (sequence, item) = entry.remove_entry();
            if let Item::Missing(to, reason) = item {
                if to > done {
                    outputs.push(Output::Gap { from: done + 1, to, reason });
                    done = to;
                }
                continue;
            }
            if sequence <= done {
                continue;
            }
            done = sequence;
            match item {
                Item::Row(row) => {
                    self.epoch = Some(row.epoch);
                    outputs.push(Output::Row(row));
                }
                Item::Own(epoch) => self.epoch = Some(epoch),
                Item::Missing(..) => {}
            }
        }
        self.done = Some(done);
        if self.incomplete() {
            self.due(now + grace);
        } else if !self.is_asked() {
            self.pull = Pull::Idle;
        }
        outputs
    }
}
