//! What one run knows while it goes on: who sent what when, what came back, and what fell into the measured window.

use hdrhistogram::Histogram;

use super::generator::{Plan, RunClock};
use super::tally::{Bits, Faults, Tally};
use super::wire::Number;

/// Notes kept; further ones are only counted.
const NOTES: usize = 5;

/// How a run sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Nothing yet, or nothing more.
    Stopped,
    /// Each sender keeps this many messages outstanding.
    Window(u64),
    /// Something else decides when.
    Paced,
}

#[derive(Debug, Default)]
struct Sender {
    /// When each message was sent or due, in nanoseconds of the run's clock.
    sent_at: Vec<u64>,
    acked: Bits,
}

/// One run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: u32,
    clock: RunClock,
    mode: Mode,
    senders: Vec<Sender>,
    tallies: Vec<Tally>,
    /// What is measured: messages sent from here …
    from: u64,
    /// … to here.
    to: u64,
    pub(super) acks: u64,
    pub(super) deliveries: u64,
    pub(super) ack_latency: Histogram<u64>,
    pub(super) delivery_latency: Histogram<u64>,
    most_outstanding: u64,
    outstanding: u64,
    duplicate_acks: u64,
    /// Messages that one sender may send in all.
    most: u64,
    /// Where many hear each message: how many hear it, and how many messages they may be behind in the mean.
    ahead: Option<(u64, u64)>,
    /// Deliveries so far.
    delivered: u64,
    notes: Vec<String>,
    further_notes: u64,
    finished: bool,
}

/// Microseconds up to two minutes, to three digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds are in order and the digits are few")
}

impl Run {
    pub(super) fn new(id: u32, plans: &[Plan]) -> Self {
        let senders = plans.iter().filter(|plan| plan.sender.is_some()).count();
        Self {
            id,
            clock: RunClock::start(),
            mode: Mode::Stopped,
            senders: std::iter::repeat_with(Sender::default).take(senders).collect(),
            tallies: plans.iter().map(|plan| Tally::new(id, plan.base, &plan.hears)).collect(),
            from: u64::MAX,
            to: u64::MAX,
            acks: 0,
            deliveries: 0,
            ack_latency: histogram(),
            delivery_latency: histogram(),
            most_outstanding: 0,
            outstanding: 0,
            duplicate_acks: 0,
            most: u64::MAX,
            ahead: None,
            delivered: 0,
            notes: Vec::new(),
            further_notes: 0,
            finished: false,
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.clock.now()
    }

    pub(super) fn keep_window(&mut self, window: u64) {
        self.mode = Mode::Window(window);
    }

    /// Each sender ends after this many messages.
    pub(super) fn end_after(&mut self, most: u64) {
        self.most = most;
    }

    /// Senders wait while those who hear each message, `receivers` of them, are more than `messages` behind in the mean.
    pub(super) fn wait_for(&mut self, receivers: u64, messages: u64) {
        self.ahead = Some((receivers, messages));
    }

    fn is_ahead(&self) -> bool {
        self.ahead
            .is_some_and(|(receivers, messages)| self.total_sent() * receivers >= self.delivered + messages * receivers)
    }

    pub(super) fn pace(&mut self) {
        self.mode = Mode::Paced;
    }

    pub(super) fn stop(&mut self) {
        self.mode = Mode::Stopped;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.mode == Mode::Stopped
    }

    /// Measures from now on.
    pub(super) fn measure(&mut self) {
        self.from = self.now();
    }

    /// Measures no longer; gives how long it did, in seconds.
    pub(super) fn measured(&mut self) -> f64 {
        self.to = self.now();
        (self.to - self.from) as f64 / 1e9
    }

    fn is_measuring(&self, at: u64) -> bool {
        at >= self.from && at < self.to
    }

    /// Whether this sender may send one more.
    pub(super) fn wants(&self, sender: u16) -> bool {
        let Mode::Window(window) = self.mode else { return false };
        let sender = &self.senders[usize::from(sender)];
        let sent = sender.sent_at.len() as u64;
        sent < self.most && sent < sender.acked.count() + window && !self.is_ahead()
    }

    /// Counts one more message; gives its number.
    pub(super) fn sent(&mut self, sender: u16, at: u64) -> u64 {
        let sender = &mut self.senders[usize::from(sender)];
        sender.sent_at.push(at);
        self.outstanding += 1;
        self.most_outstanding = self.most_outstanding.max(self.outstanding);
        sender.sent_at.len() as u64 - 1
    }

    fn sent_at(&self, number: Number) -> Option<u64> {
        let sender = self.senders.get(usize::from(number.sender)).filter(|_| number.run == self.id)?;
        sender.sent_at.get(usize::try_from(number.counter).ok()?).copied()
    }

    pub(super) fn acked(&mut self, connection: usize, number: Number, sequence: u64, now: u64) {
        let Some(at) = self.sent_at(number) else {
            return self.note("an ack for a message that was never sent".to_owned());
        };
        if !self.senders[usize::from(number.sender)].acked.insert(number.counter) {
            self.duplicate_acks += 1;
            return;
        }
        self.outstanding -= 1;
        self.tallies[connection].position(sequence);
        self.acks += u64::from(self.is_measuring(now));
        if self.is_measuring(at) {
            self.ack_latency.saturating_record((now.saturating_sub(at) / 1_000).max(1));
        }
    }

    pub(super) fn delivered(&mut self, connection: usize, number: Number, sequence: u64, now: u64) {
        self.tallies[connection].delivered(number, sequence);
        self.delivered += 1;
        self.deliveries += u64::from(self.is_measuring(now));
        if let Some(at) = self.sent_at(number).filter(|at| self.is_measuring(*at)) {
            self.delivery_latency.saturating_record((now.saturating_sub(at) / 1_000).max(1));
        }
    }

    /// A row that no sender of this run sent: it takes a position, and only a message is worth a note.
    pub(super) fn position_of_other(&mut self, connection: usize, sequence: u64, kind: &str) {
        self.tallies[connection].position(sequence);
        if kind == "message" {
            self.note(format!("connection {connection} got a message that nobody of this run sent"));
        }
    }

    /// Something that a good run does not show.
    pub(super) fn note(&mut self, text: String) {
        if self.notes.len() < NOTES {
            self.notes.push(text);
        } else {
            self.further_notes += 1;
        }
    }

    /// The run's connections may end from now on.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    pub(super) fn ended(&mut self, connection: usize) {
        if !self.finished {
            self.note(format!("connection {connection} ended"));
        }
    }

    /// The last message of others that a connection got; 0 before the first.
    pub(super) fn received_up_to(&self, connection: usize) -> u64 {
        self.tallies[connection].last_row()
    }

    pub(super) fn total_sent(&self) -> u64 {
        self.senders.iter().map(|sender| sender.sent_at.len() as u64).sum()
    }

    pub(super) fn total_acked(&self) -> u64 {
        self.senders.iter().map(|sender| sender.acked.count()).sum()
    }

    pub(super) fn total_delivered(&self) -> u64 {
        self.tallies.iter().map(Tally::count).sum()
    }

    pub(super) fn most_outstanding(&self) -> u64 {
        self.most_outstanding
    }

    /// Whether everything sent is acked and was delivered to `receivers` connections.
    pub(super) fn is_drained(&self, receivers: u64) -> bool {
        let sent = self.total_sent();
        self.total_acked() == sent && self.total_delivered() >= sent * receivers
    }

    pub(super) fn faults(&self) -> Faults {
        let mut faults = Faults { duplicated: self.duplicate_acks, ..Faults::default() };
        for sender in &self.senders {
            faults.missing += sender.sent_at.len() as u64 - sender.acked.count();
        }
        for tally in &self.tallies {
            faults += tally.faults(|sender| self.senders[usize::from(sender)].sent_at.len() as u64);
        }
        faults
    }

    pub(super) fn take_notes(&mut self) -> Vec<String> {
        let mut notes = std::mem::take(&mut self.notes);
        if self.further_notes > 0 {
            notes.push(format!("and {} more", self.further_notes));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_waits_for_those_who_hear_it() {
        let plan = |sender: Option<u16>, hears| Plan {
            host: String::new(),
            token: String::new(),
            conversation: String::new(),
            base: 0,
            sender,
            hears,
        };
        let mut run = Run::new(1, &[plan(Some(0), vec![]), plan(None, vec![0]), plan(None, vec![0])]);
        run.keep_window(8);
        run.wait_for(2, 3);
        for sent in 0..3 {
            assert!(run.wants(0), "{sent} sent, nobody heard one");
            run.sent(0, 0);
        }
        assert!(!run.wants(0), "three messages behind");
        run.delivered(1, Number { run: 1, sender: 0, counter: 0 }, 1, 0);
        assert!(run.wants(0), "two and a half in the mean");
    }
}
