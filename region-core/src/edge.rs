//! The seam to the edges of this region: what a session is to the core, and what reaches it.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use hearth_protocol::{ConversationId, DeviceId, Epoch, UserId};
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

/// One authenticated connection of a device, as the core sees it. The queue to it is bounded: a connection that does
/// not take its events is marked overflowed once, gets nothing more, and its session closes with 4010.
#[derive(Debug)]
pub struct Connection {
    /// Unique in this process.
    pub id: u64,
    /// Whose.
    pub user: UserId,
    /// From which device.
    pub device: DeviceId,
    events: mpsc::Sender<EdgeEvent>,
    overflowed: AtomicBool,
    overflow: Notify,
}

impl Connection {
    /// A connection and the receiving end of its queue of `capacity` events.
    #[must_use]
    pub fn new(id: u64, user: UserId, device: DeviceId, capacity: usize) -> (Self, mpsc::Receiver<EdgeEvent>) {
        let (events, receiver) = mpsc::channel(capacity);
        let connection = Self { id, user, device, events, overflowed: AtomicBool::new(false), overflow: Notify::new() };
        (connection, receiver)
    }

    /// Queues an event without waiting. Returns whether it was taken.
    pub fn push(&self, event: EdgeEvent) -> bool {
        if self.overflowed.load(Ordering::Relaxed) {
            return false;
        }
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.overflowed.store(true, Ordering::Relaxed);
                self.overflow.notify_one();
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    /// Resolves once the queue overflowed.
    pub async fn overflowed(&self) {
        self.overflow.notified().await;
    }
}
