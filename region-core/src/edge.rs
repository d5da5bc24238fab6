//! The seam to the edges of this region: what a session is to the core, and what reaches it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use hearth_protocol::{ConversationId, DeviceId, Epoch, UserId};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

/// What the core sends to a session.
#[derive(Clone, Debug)]
pub enum EdgeEvent {
    /// A frame that goes out as it is, in order.
    Frame(Bytes),
    /// A `message.new`. The session puts it behind a replay of the same conversation, and drops what it sent already.
    Message {
        /// The conversation.
        conversation: ConversationId,
        /// The epoch of the entry.
        epoch: Epoch,
        /// Its number.
        sequence: u64,
        /// The frame, made once for all who receive it.
        frame: Bytes,
    },
    /// Messages that this region does not show live.
    Skipped(Skipped),
    /// Messages that were shown here have left the line.
    Rewound(Rewound),
}

/// Messages of a conversation that this region does not show live: its stream begins above them, and reads of them are
/// answered meanwhile by a region that holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The conversation.
    pub conversation: ConversationId,
    /// The epoch of the stream.
    pub epoch: Epoch,
    /// The first number that was not shown here.
    pub from: u64,
    /// The first number of the stream.
    pub at: u64,
}

/// Messages of a conversation above a number have left the line: a home was replaced that had not copied them. What the
/// client has of older epochs above it is to be forgotten; what was not lost comes again under new numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewound {
    /// The conversation.
    pub conversation: ConversationId,
    /// The epoch of the line from now on.
    pub epoch: Epoch,
    /// The last number that stays.
    pub after: u64,
}

impl EdgeEvent {
    /// Bytes of its frame: what it counts for in a queue. What has no frame yet is bounded by the number of events.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Frame(frame) | Self::Message { frame, .. } => frame.len(),
            Self::Skipped(_) | Self::Rewound(_) => 0,
        }
    }
}

/// Bounds of the queue to one session. Whichever is met first ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
    /// Events that wait for the session to take them; at least 1.
    pub events: usize,
    /// Bytes of their frames, those included that the session took and has not written yet. A single frame may be
    /// longer: it passes when nothing else waits.
    pub bytes: usize,
}

/// One authenticated connection of a device, as the core sees it. The queue to it is bounded by [`QueueBounds`]: a
/// connection that does not take its events is marked overflowed once, gets nothing more, and its session closes with
/// 4010 (design.md G9).
#[derive(Debug)]
pub struct Connection {
    /// Unique in this process.
    pub id: u64,
    /// Whose.
    pub user: UserId,
    /// From which device.
    pub device: DeviceId,
    /// The conversation on its screen.
    view: Mutex<Option<ConversationId>>,
    events: mpsc::Sender<EdgeEvent>,
    /// Bytes pushed and not released yet.
    waiting: AtomicUsize,
    most_bytes: usize,
    overflowed: AtomicBool,
    overflow: Notify,
}

impl Connection {
    /// A connection and the receiving end of its queue.
    #[must_use]
    pub fn new(id: u64, user: UserId, device: DeviceId, bounds: QueueBounds) -> (Self, mpsc::Receiver<EdgeEvent>) {
        let (events, receiver) = mpsc::channel(bounds.events);
        let connection = Self {
            id,
            user,
            device,
            view: Mutex::new(None),
            events,
            waiting: AtomicUsize::new(0),
            most_bytes: bounds.bytes,
            overflowed: AtomicBool::new(false),
            overflow: Notify::new(),
        };
        (connection, receiver)
    }

    /// Queues an event without waiting. Returns whether it was taken.
    pub fn push(&self, event: EdgeEvent) -> bool {
        if self.overflowed.load(Ordering::Relaxed) {
            return false;
        }
        let bytes = event.bytes();
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        if before > 0 && before.saturating_add(bytes) > self.most_bytes {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.overflow();
            return false;
        }
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(refused) => {
                self.waiting.fetch_sub(bytes, Ordering::Relaxed);
                if matches!(refused, mpsc::error::TrySendError::Full(_)) {
                    self.overflow();
                }
                false
            }
        }
    }

    /// Queues an event that is for the moment, unless half of the queue waits already: these are the first to go when a
    /// session is slow. Returns whether it was taken.
    pub fn push_if_idle(&self, event: EdgeEvent) -> bool {
        let busy = self.events.capacity() * 2 < self.events.max_capacity()
            || self.waiting.load(Ordering::Relaxed) > self.most_bytes / 2;
        !busy && self.push(event)
    }

    /// Sets what is on its screen.
    pub fn set_view(&self, conversation: Option<ConversationId>) {
        *self.view.lock() = conversation;
    }

    /// Whether a conversation is on its screen.
    #[must_use]
    pub fn views(&self, conversation: ConversationId) -> bool {
        *self.view.lock() == Some(conversation)
    }

    fn overflow(&self) {
        self.overflowed.store(true, Ordering::Release);
        self.overflow.notify_waiters();
    }

    /// Makes room again: events of so many bytes were taken, and written or dropped. Never more than were taken.
    pub fn release(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that wait.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Resolves once the queue overflowed, for everybody who waits.
    pub async fn overflowed(&self) {
        // Made before the flag is read: an overflow in between reaches it.
        let overflow = self.overflow.notified();
        if !self.overflowed.load(Ordering::Acquire) {
            overflow.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(events: usize, bytes: usize) -> (Connection, mpsc::Receiver<EdgeEvent>) {
        let device = DeviceId(uuid::Uuid::from_u128(1));
        Connection::new(1, UserId::new("ann").unwrap(), device, QueueBounds { events, bytes })
    }

    fn frame(bytes: usize) -> EdgeEvent {
        EdgeEvent::Frame(Bytes::from(vec![b'x'; bytes]))
    }

    #[test]
    fn a_queue_takes_frames_up_to_its_bytes_and_more_once_some_were_written() {
        let (connection, mut events) = connection(100, 1_000);
        assert!(connection.push(frame(600)) && connection.push(frame(400)));
        let taken = events.try_recv().unwrap().bytes();
        assert_eq!(connection.waiting_bytes(), 1_000, "what was taken and not written waits still");
        connection.release(taken);
        assert!(connection.push(frame(600)));
        assert!(!connection.push(frame(1)));
        connection.release(1_000);
        assert!(!connection.push(frame(1)), "an overflow is for good");
        assert_eq!(connection.waiting_bytes(), 0);
    }

    #[test]
    fn what_is_for_the_moment_is_dropped_once_half_of_the_queue_waits_and_ends_no_session() {
        let (many, mut events) = connection(4, 1_000);
        assert!(many.push_if_idle(frame(1)) && many.push_if_idle(frame(1)) && many.push_if_idle(frame(1)));
        assert!(!many.push_if_idle(frame(1)), "three of four wait");
        assert!(many.push(frame(1)), "what matters has room");
        events.try_recv().unwrap();
        events.try_recv().unwrap();
        assert!(many.push_if_idle(frame(1)));
        let (large, _events) = connection(100, 1_000);
        assert!(large.push(frame(600)) && !large.push_if_idle(frame(1)) && large.push(frame(400)));
    }

    #[test]
    fn a_frame_over_the_bytes_passes_alone_and_the_number_of_events_bounds_too() {
        let (alone, _events) = connection(100, 1_000);
        assert!(alone.push(frame(5_000)));
        assert!(!alone.push(frame(1)));
        let (many, _events) = connection(2, 1_000);
        assert!(many.push(frame(1)) && many.push(frame(1)));
        assert!(!many.push(frame(1)));
        assert_eq!(many.waiting_bytes(), 2, "a refused frame does not count");
    }
}
