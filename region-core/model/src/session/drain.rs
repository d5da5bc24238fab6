//! How sessions leave a node: each is told its slot once, is served on, and is closed when the drain ends.

use crate::mutants::Mutant;

/// A drain of a node, by a clock of it in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When it began.
    pub began: u64,
    /// How long it lasts.
    pub milliseconds: u64,
}

/// The part of a drain that one session gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainSlot {
    /// After how many milliseconds the client shall reconnect.
    pub reconnect_after: u64,
    /// When the session is closed.
    pub close_at: u64,
}

impl Drain {
    /// The slot of the session with this number. Multiples of the golden ratio spread any set of numbers evenly, so that
    /// clients come back one after the other; all slots lie in the first four fifths of the time.
    #[must_use]
    pub fn slot(&self, number: u64) -> DrainSlot {
        let number = if Mutant::OneSlotForAll.is_on() { 0 } else { number };
        let fraction = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let window = self.milliseconds.min(u64::from(u32::MAX)) * 4 / 5;
        DrainSlot { reconnect_after: (window * fraction) >> 32, close_at: self.ends() }
    }

    /// When it ends.
    #[must_use]
    pub fn ends(&self) -> u64 {
        self.began.saturating_add(self.milliseconds)
    }
}

/// A session that was told to leave. It is served as before until it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    close_at: u64,
}

impl Leave {
    /// When it is over.
    #[must_use]
    pub fn closes_at(self) -> u64 {
        if Mutant::DrainedAtOnce.is_on() { 0 } else { self.close_at }
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(self, now: u64) -> bool {
        now >= self.closes_at()
    }
}

/// How far a session is when a drain comes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// It is not served yet.
    Begins,
    /// It is served.
    Served,
    /// It was told to leave.
    Leaves(Leave),
}

/// What a drain does to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// It is told its slot, and is served until then.
    Told(Leave),
    /// It is closed: nobody has to be told when to come back who has had nothing.
    Closed,
    /// Nothing: it keeps the slot that it was told first.
    Kept,
}

impl Stay {
    /// A drain comes.
    #[must_use]
    pub fn drained(self, slot: &DrainSlot) -> Drained {
        match self {
            Self::Begins => Drained::Closed,
            Self::Served => Drained::Told(Leave { close_at: slot.close_at }),
            Self::Leaves(_) => Drained::Kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_spread_evenly_and_end_before_the_deadline() {
        let drain = Drain { began: 500, milliseconds: 10_000 };
        let mut tenths = [0u32; 8];
        for number in 0..8_000 {
            let slot = drain.slot(number);
            assert_eq!(slot.close_at, 10_500);
            tenths[usize::try_from(slot.reconnect_after / 1_000).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|count| (900..=1_100).contains(count)), "{tenths:?}");
    }

    #[test]
    fn a_session_is_told_once_and_is_served_until_the_drain_ends() {
        let slot = Drain { began: 500, milliseconds: 1_000 }.slot(7);
        let Drained::Told(leave) = Stay::Served.drained(&slot) else { panic!("it is told") };
        assert!(!leave.is_over(1_499) && leave.is_over(1_500));
        let later = Drain { began: 600, milliseconds: 9_000 }.slot(7);
        assert_eq!(Stay::Leaves(leave).drained(&later), Drained::Kept);
        assert_eq!(Stay::Begins.drained(&slot), Drained::Closed);
    }
}
