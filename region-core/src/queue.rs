//! The queue of events to one session. It is bounded by events and bytes, costs nothing while it is empty, and decides
//! what a slow session loses, in this order: first what is for the moment, then messages (the session is told to pull
//! them), then the connection.

use std::collections::BTreeMap;
use std::mem::take;
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use hearth_protocol::ConversationId;
use parking_lot::Mutex;

use region_model::session::Skipped;

use crate::edge::{EdgeEvent, QueueBounds};

/// Conversations that a slow session is told to pull at a time, about 100 bytes each; one more ends it.
const PULLED: usize = 1_024;

/// What a queue has for its session.
#[derive(Debug)]
pub enum Taken {
    /// Events, in order, at least one.
    Events(Vec<EdgeEvent>),
    /// More was put in than it holds: the session ends with 4010.
    Overflow,
}

/// A queue with one reader.
#[derive(Debug)]
pub(crate) struct EventQueue {
    state: Mutex<State>,
    bounds: QueueBounds,
    reader: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<EdgeEvent>,
    /// Bytes of events that wait, and of those that were taken and not released yet.
    bytes: usize,
    /// Messages that were not queued, by conversation: the session is told to pull them once it has caught up.
    pulled: BTreeMap<ConversationId, Skipped>,
    overflowed: bool,
    closed: bool,
}

impl State {
    /// Queues an event; one that finds no room ends the queue.
    fn take_in(&mut self, event: EdgeEvent, bounds: QueueBounds) -> bool {
        let taken = self.push(event, bounds);
        self.overflowed = !taken;
        taken
    }

    /// Whether more than so many parts of the bounds wait: at 1 of 2 what is for the moment goes, at 3 of 4 messages.
    fn is_filled(&self, bounds: QueueBounds, (parts, of): (usize, usize)) -> bool {
        self.events.len() * of > bounds.events * parts || self.bytes > bounds.bytes / of * parts
    }

    /// Queues an event; `false` when there is no room.
    fn push(&mut self, event: EdgeEvent, bounds: QueueBounds) -> bool {
        let bytes = event.bytes();
        // A single frame may be longer than the bound: it passes when nothing else waits.
        let too_many = self.bytes > 0 && self.bytes.saturating_add(bytes) > bounds.bytes;
        let full = too_many || self.events.len() >= bounds.events;
        if let EdgeEvent::Message { conversation, epoch, sequence, .. } = &event
            && (full || self.is_filled(bounds, (3, 4)) || self.pulled.contains_key(conversation))
        {
            if self.pulled.len() >= PULLED && !self.pulled.contains_key(conversation) {
                return false;
            }
            let (conversation, epoch, sequence) = (*conversation, *epoch, *sequence);
            let first = Skipped { conversation, epoch, from: sequence, at: sequence + 1 };
            let skipped = self.pulled.entry(conversation).or_insert(first);
            skipped.epoch = skipped.epoch.max(epoch);
            skipped.from = skipped.from.min(sequence);
            skipped.at = skipped.at.max(sequence + 1);
            return true;
        }
        if !full {
            self.bytes += bytes;
            self.events.push(event);
        }
        !full
    }

    /// Whether a session that lagged has caught up so far that it is told what to pull.
    fn may_tell_pulled(&self, bounds: QueueBounds) -> bool {
        !self.pulled.is_empty() && self.bytes <= bounds.bytes / 2
    }

    /// Everything that waits.
    fn take(&mut self, bounds: QueueBounds) -> Vec<EdgeEvent> {
        let mut events = take(&mut self.events);
        if self.may_tell_pulled(bounds) {
            events.extend(take(&mut self.pulled).into_values().map(EdgeEvent::Pulled));
        }
        events
    }
}

impl EventQueue {
    pub(crate) fn new(bounds: QueueBounds) -> Self {
        Self { state: Mutex::default(), bounds, reader: AtomicWaker::new() }
    }

    /// Queues an event without waiting. Returns whether it was taken: not after an overflow, nor after the end.
    pub(crate) fn push(&self, event: EdgeEvent) -> bool {
        let taken = {
            let mut state = self.state.lock();
            if state.overflowed || state.closed {
                return false;
            }
            state.take_in(event, self.bounds)
        };
        self.reader.wake();
        taken
    }

    /// Queues events until more than half of it waits. Returns how many were taken.
    pub(crate) fn push_while_idle(&self, events: impl IntoIterator<Item = EdgeEvent>) -> usize {
        let mut taken = 0;
        {
            let mut state = self.state.lock();
            for event in events {
                let idle = !(state.overflowed || state.closed || state.is_filled(self.bounds, (1, 2)));
                if !idle || !state.take_in(event, self.bounds) {
                    break;
                }
                taken += 1;
            }
        }
        self.reader.wake();
        taken
    }

    /// What waits, for its one reader, which is woken when there is something again.
    pub(crate) fn poll_take(&self, context: &mut Context<'_>) -> Poll<Taken> {
        // Registered before the look: what comes in between wakes it.
        self.reader.register(context.waker());
        let mut state = self.state.lock();
        if state.overflowed {
            return Poll::Ready(Taken::Overflow);
        }
        let events = state.take(self.bounds);
        if events.is_empty() { Poll::Pending } else { Poll::Ready(Taken::Events(events)) }
    }

    /// Resolves once it overflowed; for the reader, while it does nothing else with the queue.
    pub(crate) fn poll_overflowed(&self, context: &mut Context<'_>) -> Poll<()> {
        self.reader.register(context.waker());
        if self.state.lock().overflowed { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Makes room again: events of so many bytes were taken, and written or dropped.
    pub(crate) fn release(&self, bytes: usize) {
        let tell = {
            let mut state = self.state.lock();
            state.bytes = state.bytes.saturating_sub(bytes);
            state.may_tell_pulled(self.bounds)
        };
        if tell {
            self.reader.wake();
        }
    }

    /// Bytes that wait, and of those that were taken and not released.
    pub(crate) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// Takes nothing more.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.events = Vec::new();
        state.pulled = BTreeMap::new();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::task::noop_waker;
    use hearth_protocol::Epoch;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn conversation(number: u128) -> ConversationId {
        ConversationId(Uuid::from_u128(number))
    }

    fn message(of: u128, sequence: u64, bytes: usize) -> EdgeEvent {
        let frame = Bytes::from(vec![b'm'; bytes]);
        EdgeEvent::Message { conversation: conversation(of), epoch: Epoch(1), sequence, frame }
    }

    fn taken(queue: &EventQueue) -> Vec<EdgeEvent> {
        match queue.poll_take(&mut Context::from_waker(&noop_waker())) {
            Poll::Ready(Taken::Events(events)) => events,
            Poll::Ready(Taken::Overflow) | Poll::Pending => Vec::new(),
        }
    }

    #[test]
    fn a_session_that_lags_is_told_to_pull_what_was_not_queued_once_it_has_caught_up() {
        let queue = EventQueue::new(QueueBounds { events: 100, bytes: 1_000 });
        for sequence in 1..=20 {
            assert!(queue.push(message(1, sequence, 100)));
        }
        let events = taken(&queue);
        assert_eq!(events.len(), 8, "the messages up to three quarters, and the one that passes them");
        assert!(taken(&queue).is_empty(), "nothing of them is written yet");
        queue.release(800);
        assert!(queue.push(message(2, 5, 100)) && queue.push(message(1, 21, 100)), "the one stays pulled");
        let events = taken(&queue);
        let [EdgeEvent::Message { sequence: 5, .. }, EdgeEvent::Pulled(skipped)] = events.as_slice() else {
            panic!("{events:?}")
        };
        assert_eq!((skipped.conversation, skipped.from, skipped.at), (conversation(1), 9, 22));
        assert!(queue.push(message(1, 22, 100)));
        assert_eq!(taken(&queue).len(), 1, "the stream goes on above");
    }

    #[test]
    fn one_conversation_more_than_can_be_noted_ends_the_session() {
        let queue = EventQueue::new(QueueBounds { events: 4, bytes: 1_000_000 });
        let fits = (0..).take_while(|number| queue.push(message(*number, 1, 1))).count();
        assert_eq!(fits, 4 + PULLED);
        assert!(matches!(queue.poll_take(&mut Context::from_waker(&noop_waker())), Poll::Ready(Taken::Overflow)));
    }

    #[test]
    fn nothing_is_taken_after_the_end() {
        let queue = EventQueue::new(QueueBounds { events: 4, bytes: 1_000 });
        assert!(queue.push(message(1, 1, 1)));
        queue.close();
        assert!(!queue.push(message(1, 2, 1)) && taken(&queue).is_empty());
    }

    proptest! {
        #[test]
        fn whatever_is_queued_every_message_is_given_or_told_to_be_pulled_and_the_bounds_hold(
            steps in proptest::collection::vec((0u8..4, 0u128..3, 1usize..300), 1..200),
        ) {
            let bounds = QueueBounds { events: 16, bytes: 1_000 };
            let queue = EventQueue::new(bounds);
            let mut sent = [0u64; 3];
            let mut had = [0u64; 3];
            let mut unwritten = 0;
            let mut take = |unwritten: &mut usize| {
                for event in taken(&queue) {
                    *unwritten += event.bytes();
                    match event {
                        EdgeEvent::Message { conversation, sequence, .. } => {
                            let of = conversation.0.as_u128() as usize;
                            assert_eq!(sequence, had[of] + 1);
                            had[of] = sequence;
                        }
                        EdgeEvent::Pulled(skipped) => {
                            let of = skipped.conversation.0.as_u128() as usize;
                            assert_eq!(skipped.from, had[of] + 1);
                            had[of] = skipped.at - 1;
                        }
                        EdgeEvent::Frame(_)
                        | EdgeEvent::Skipped(_)
                        | EdgeEvent::LineChanged(_)
                        | EdgeEvent::Asked(_) => {}
                    }
                }
                had
            };
            for (what, of, bytes) in steps {
                match what {
                    0 | 1 => {
                        let next = sent[of as usize] + 1;
                        prop_assert!(queue.push(message(of, next, bytes)), "messages alone end no session");
                        sent[of as usize] = next;
                    }
                    2 => drop(take(&mut unwritten)),
                    _ => queue.release(std::mem::take(&mut unwritten)),
                }
                prop_assert!(queue.bytes() <= bounds.bytes.max(300) + 300);
            }
            for _ in 0..2 {
                take(&mut unwritten);
                queue.release(std::mem::take(&mut unwritten));
            }
            prop_assert_eq!(take(&mut unwritten), sent);
        }
    }
}
