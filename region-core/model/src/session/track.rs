//! What a session was sent of one conversation.

use std::collections::VecDeque;
use std::sync::Arc;

use hearth_protocol::{ConversationId, Epoch};

use super::events::{Delivery, Live, Rewound};
use crate::line::Line;
use crate::mutants::Mutant;

/// Numbers of own messages remembered per conversation: the core does not send these to the connection that sent them.
const OWN_NUMBERS: usize = 256;

/// What is known of one conversation: numbers `first..=sent` were sent, but for those in `own`.
#[derive(Debug)]
pub(super) struct Track<F> {
    /// Of an epoch on whose line `sent` is.
    pub(super) epoch: Epoch,
    /// Of the last live message: what comes behind it is of none older.
    pub(super) shown: Epoch,
    pub(super) first: u64,
    pub(super) sent: u64,
    /// Whether `first` and `sent` say anything: an own message may come before the first that is delivered.
    pub(super) begun: bool,
    /// Own messages, with the epochs under which they were acked.
    pub(super) own: VecDeque<(u64, Epoch)>,
    /// Nothing in `own` is above it: what is needs no look through them all.
    pub(super) own_highest: u64,
    pub(super) own_unacked: u64,
    pub(super) own_until: u64,
    pub(super) held: Option<Held<F>>,
    /// The range that the client was told to pull last; `(1, 0)` for none.
    pub(super) pulled: (u64, u64),
}

/// Live messages that wait.
#[derive(Debug)]
pub(super) struct Held<F> {
    pub(super) frames: VecDeque<Live<F>>,
    /// The highest number dropped because too many waited.
    pub(super) dropped: Option<(Epoch, u64)>,
    pub(super) behind: Behind,
}

/// What live messages wait for.
#[derive(Debug)]
pub(super) enum Behind {
    /// A replay; with the line of the region, where that changed meanwhile.
    Replay(Option<Arc<Line>>),
    /// The line of an epoch: the region is on an older one than the client.
    Line(Epoch),
    /// Acks of own messages, until a time.
    Acks(u64),
}

impl<F> Held<F> {
    pub(super) fn behind(behind: Behind) -> Self {
        Self { frames: VecDeque::new(), dropped: None, behind }
    }
}

impl<F> Track<F> {
    pub(super) fn new(epoch: Epoch, first: u64, sent: u64) -> Self {
        Self {
            epoch,
            shown: Epoch(0),
            first,
            sent,
            begun: true,
            own: VecDeque::new(),
            own_highest: 0,
            own_unacked: 0,
            own_until: 0,
            held: None,
            pulled: (1, 0),
        }
    }

    /// A conversation of which only own messages are known so far.
    pub(super) fn of_own() -> Self {
        Self { begun: false, ..Self::new(Epoch(0), 0, 0) }
    }

    /// Sets where deliveries begin, if that is not known yet.
    pub(super) fn begin(&mut self, epoch: Epoch, first: u64) {
        if !self.begun {
            (self.begun, self.epoch, self.first, self.sent) = (true, epoch, first, first.saturating_sub(1));
        }
    }

    pub(super) fn is_own(&self, sequence: u64) -> bool {
        self.own.iter().any(|(own, _)| *own == sequence)
    }

    pub(super) fn was_sent(&self, sequence: u64) -> bool {
        (self.first..=self.sent).contains(&sequence) && !self.is_own(sequence)
    }

    /// How many numbers are missing before `sequence` that are not known to be of messages that this session sent itself.
    pub(super) fn missing(&self, sequence: u64) -> u64 {
        let missing = sequence - self.sent - 1;
        if missing == 0 || Mutant::HoleUntold.is_on() {
            return 0;
        }
        let own = self.own.iter().filter(|(own, _)| *own > self.sent && *own < sequence).count() as u64;
        missing.saturating_sub(own)
    }

    /// Whether so many missing numbers may be own ones whose acks are on their way.
    pub(super) fn may_be_own(&self, missing: u64, now: u64) -> bool {
        now <= self.own_until && missing <= self.own_unacked
    }

    /// An own message was acked. Returns `false` where that was known.
    pub(super) fn add_own(&mut self, own: (u64, Epoch)) -> bool {
        if own.0 <= self.own_highest && self.own.contains(&own) {
            return false;
        }
        if self.own.len() == OWN_NUMBERS {
            self.own.pop_front();
        }
        self.own.push_back(own);
        self.own_highest = self.own_highest.max(own.0);
        true
    }

    pub(super) fn absorb_own(&mut self) {
        while self.sent < self.own_highest {
            // The newest is the likeliest.
            let Some((own, acked)) = self.own.iter().rev().find(|(own, _)| *own == self.sent + 1) else { return };
            (self.epoch, self.sent) = (self.epoch.max(*acked), *own);
        }
    }

    /// A message goes out.
    pub(super) fn send(&mut self, live: Live<F>, out: &mut impl FnMut(Delivery<F>)) {
        (self.epoch, self.shown, self.sent) = (live.epoch, live.epoch, live.sequence);
        self.absorb_own();
        out(Delivery::Frame(live.frame));
    }

    /// Everything up to a number was left out: the client pulls it.
    pub(super) fn pull(
        &mut self,
        conversation: ConversationId,
        epoch: Epoch,
        to: u64,
        out: &mut impl FnMut(Delivery<F>),
    ) {
        out(Delivery::SyncRequired { conversation, from: self.sent + 1 });
        self.pulled = (self.sent + 1, to);
        (self.epoch, self.sent) = (epoch, to);
        self.absorb_own();
    }

    /// What the client has above a number is not in the line.
    pub(super) fn rewind(&mut self, rewound: Rewound, out: &mut impl FnMut(Delivery<F>)) {
        out(Delivery::Rewound(rewound));
        let after = rewound.after;
        self.own.retain(|(own, acked)| *own <= after || *acked >= rewound.epoch);
        (self.epoch, self.shown, self.sent, self.first) = (rewound.epoch, Epoch(0), after, self.first.min(after + 1));
        self.absorb_own();
    }

    /// The region is on a line: what the client has that is not in it, it is told to forget.
    pub(super) fn follow(&mut self, conversation: ConversationId, line: &Line, out: &mut impl FnMut(Delivery<F>)) {
        let after = line.cut(self.epoch, self.sent);
        if self.begun && after < self.sent {
            let rewound = Rewound { conversation, epoch: line.epoch(), after };
            self.rewind(rewound, out);
        }
    }
}
