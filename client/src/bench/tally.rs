//! Exact counting: what each connection got, message by message and position by position.

use std::collections::HashMap;

use super::wire::Number;

/// Messages of one sender and positions of one conversation that a run may have.
const MOST: u64 = 1 << 30;

/// A set of small numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
    count: u64,
}

impl Bits {
    /// Adds a number; false when it was there already or is out of bounds.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        if number >= MOST {
            return false;
        }
        let (word, bit) = ((number / 64) as usize, 1u64 << (number % 64));
        if word >= self.words.len() {
            self.words.resize((word + 1).next_power_of_two(), 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u64::from(new);
        new
    }

    /// How many numbers it holds.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// How many numbers it holds below `bound`.
    pub(super) fn below(&self, bound: u64) -> u64 {
        let whole = (bound / 64) as usize;
        let count: u64 = self.words.iter().take(whole).map(|word| u64::from(word.count_ones())).sum();
        let rest = self.words.get(whole).map_or(0, |word| word & ((1u64 << (bound % 64)) - 1));
        count + u64::from(rest.count_ones())
    }
}

/// What went wrong, counted. A run holds when all are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Faults {
    /// Sent, and not acked or not delivered to somebody within the time for draining.
    pub(super) missing: u64,
    /// Acked or delivered more than once, or never sent.
    pub(super) duplicated: u64,
    /// Delivered behind a later position of the same conversation.
    pub(super) out_of_order: u64,
    /// Positions between the first and the last that nobody was shown.
    pub(super) holes: u64,
}

/// What one connection got of its one conversation.
#[derive(Debug)]
pub(super) struct Tally {
    run: u32,
    /// The conversation's last number before the run.
    base: u64,
    /// By sender, of those whose messages this connection is to get.
    seen: HashMap<u16, Bits>,
    positions: Bits,
    highest: u64,
    last_row: u64,
    faults: Faults,
}

impl Tally {
    pub(super) fn new(run: u32, base: u64, senders: &[u16]) -> Self {
        let seen = senders.iter().map(|sender| (*sender, Bits::default())).collect();
        Self { run, base, seen, positions: Bits::default(), highest: base, last_row: base, faults: Faults::default() }
    }

    /// A message arrived.
    pub(super) fn delivered(&mut self, number: Number, sequence: u64) {
        let bits = self.seen.get_mut(&number.sender).filter(|_| number.run == self.run);
        if !bits.is_some_and(|bits| bits.insert(number.counter)) {
            self.faults.duplicated += 1;
        }
        if sequence <= self.last_row {
            self.faults.out_of_order += 1;
        }
        self.last_row = self.last_row.max(sequence);
        self.position(sequence);
    }

    /// An own message was acked at a position.
    pub(super) fn position(&mut self, sequence: u64) {
        self.highest = self.highest.max(sequence);
        let offset = sequence.checked_sub(self.base + 1);
        if !offset.is_some_and(|offset| self.positions.insert(offset)) {
            self.faults.duplicated += 1;
        }
    }

    /// The position of the last message of others, or the base.
    pub(super) fn last_row(&self) -> u64 {
        self.last_row
    }

    /// How many messages arrived, each counted once.
    pub(super) fn count(&self) -> u64 {
        self.seen.values().map(Bits::count).sum()
    }

    /// What went wrong, when `sent` tells how many messages each sender sent.
    pub(super) fn faults(&self, sent: impl Fn(u16) -> u64) -> Faults {
        let mut faults = self.faults;
        for (sender, bits) in &self.seen {
            let sent = sent(*sender);
            faults.missing += sent - bits.below(sent);
            faults.duplicated += bits.count() - bits.below(sent);
        }
        faults.holes += self.highest - self.base - self.positions.count();
        faults
    }
}

impl std::ops::AddAssign for Faults {
    fn add_assign(&mut self, other: Self) {
        self.missing += other.missing;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
        self.holes += other.holes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(counter: u64) -> Number {
        Number { run: 1, sender: 3, counter }
    }

    #[test]
    fn a_whole_run_has_no_fault() {
        let mut tally = Tally::new(1, 10, &[3]);
        for counter in 0..200 {
            tally.delivered(number(counter), 11 + counter);
        }
        assert_eq!(tally.faults(|_| 200), Faults::default());
        assert_eq!(tally.count(), 200);
    }

    #[test]
    fn one_message_missing_twice_late_or_foreign_is_counted() {
        let mut tally = Tally::new(1, 0, &[3]);
        for (counter, sequence) in [(0, 1), (1, 2), (1, 2), (4, 5), (3, 4)] {
            tally.delivered(number(counter), sequence);
        }
        let faults = tally.faults(|_| 5);
        assert_eq!((faults.missing, faults.holes), (1, 1));
        // The repeat counts as a message and as a position.
        assert_eq!((faults.duplicated, faults.out_of_order), (2, 2));
        tally.delivered(Number { run: 2, sender: 3, counter: 9 }, 6);
        assert_eq!(tally.faults(|_| 5).duplicated, 3);
    }

    #[test]
    fn own_acks_fill_their_positions() {
        let mut tally = Tally::new(1, 0, &[3]);
        tally.position(2);
        tally.delivered(number(0), 1);
        tally.delivered(number(1), 3);
        assert_eq!(tally.faults(|_| 2), Faults::default());
    }
}
