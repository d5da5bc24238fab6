//! The seam to the edges of this region: what a session is to the core, and what reaches it.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use bytes::Bytes;
use hearth_protocol::client::{DeviceType, PresenceStatus};
use hearth_protocol::{ConversationId, DeviceId, Epoch, Timestamp, UserId};
use parking_lot::Mutex;
use region_model::delivery::SessionSent;
use region_model::session::{LineChanged, Skipped};
use region_model::typing::{Offered, Screen};
use tokio::sync::mpsc;

use crate::queue::{EventQueue, Taken};
use crate::runtime::wall;

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
    /// Messages that the session did not get because it is slow.
    Pulled(Skipped),
    /// The region is on a newer epoch's line.
    LineChanged(LineChanged),
    /// Somebody asks what the session was sent of a message. Answered once what stands before it is written.
    Asked(SessionQuestion),
}

/// What a session was sent of a message is asked.
#[derive(Clone, Debug)]
pub struct SessionQuestion {
    /// The conversation.
    pub conversation: ConversationId,
    /// The message's number.
    pub sequence: u64,
    connection: u64,
    answer: mpsc::Sender<(u64, SessionSent)>,
}

impl SessionQuestion {
    /// Answers. Whoever asked may be gone.
    pub fn answer(self, sent: SessionSent) {
        let _ = self.answer.try_send((self.connection, sent));
    }
}

impl EdgeEvent {
    /// Bytes of its frame: what it counts for in a queue. What has no frame yet is bounded by the number of events.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frame().map_or(0, Bytes::len)
    }

    /// Its frame, when it has one.
    #[must_use]
    pub fn frame(&self) -> Option<&Bytes> {
        match self {
            Self::Frame(frame) | Self::Message { frame, .. } => Some(frame),
            Self::Skipped(_) | Self::Pulled(_) | Self::LineChanged(_) | Self::Asked(_) => None,
        }
    }
}

/// Bounds of the queue to one session. At half of either it takes nothing more that is for the moment, at three quarters
/// no messages (the session is told to pull them), and more than that ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
    /// Events that wait for the session to take them; at least 1.
    pub events: usize,
    /// Bytes of their frames, those included that the session took and has not written yet. A single frame may be
    /// longer: it passes when nothing else waits.
    pub bytes: usize,
}

/// In [`Connection`]'s word about itself: nobody is at the device. The device's type stands above this bit.
const AWAY: u8 = 1;

/// One authenticated connection of a device, as the core sees it. The queue to it is bounded by [`QueueBounds`]: a
/// connection that does not take its events overflows once, gets nothing more, and its session closes with 4010
/// (design.md G9).
#[derive(Debug)]
pub struct Connection {
    /// Unique in this process.
    pub id: u64,
    /// Whose.
    pub user: UserId,
    /// From which device.
    pub device: DeviceId,
    /// Since when it is there, in milliseconds since the epoch.
    pub since: Timestamp,
    screen: Mutex<Screen<Bytes>>,
    /// Whether it is away, and its type.
    says: AtomicU8,
    /// Whether something was heard of it since that was asked last.
    spoke: AtomicBool,
    queue: EventQueue,
}

impl Connection {
    /// A connection with a queue of these bounds.
    #[must_use]
    pub fn new(id: u64, user: UserId, device: DeviceId, bounds: QueueBounds) -> Self {
        Self {
            id,
            user,
            device,
            since: wall(),
            screen: Mutex::default(),
            says: AtomicU8::new(0),
            spoke: AtomicBool::new(true),
            queue: EventQueue::new(bounds),
        }
    }

    /// Queues an event without waiting. Returns whether it was taken: a message that a slow session is told to pull is,
    /// too.
    pub fn push(&self, event: EdgeEvent) -> bool {
        self.queue.push(event)
    }

    /// Queues an event that is for the moment, unless half of the queue waits already: these are the first to go when a
    /// session is slow. Returns whether it was taken.
    pub fn push_if_idle(&self, event: EdgeEvent) -> bool {
        self.push_while_idle([event]) == 1
    }

    /// The same of several, which wake the session once. Returns how many were taken, the first ones.
    pub fn push_while_idle(&self, events: impl IntoIterator<Item = EdgeEvent>) -> usize {
        self.queue.push_while_idle(events)
    }

    /// Everything that waits, for the one session that reads it, once there is something.
    pub async fn take(&self) -> Taken {
        poll_fn(|context| self.queue.poll_take(context)).await
    }

    /// Resolves once the queue overflowed, for the session while it writes.
    pub async fn overflowed(&self) {
        poll_fn(|context| self.queue.poll_overflowed(context)).await;
    }

    /// Makes room again: events of so many bytes were taken, and written or dropped. Never more than were taken.
    pub fn release(&self, bytes: usize) {
        self.queue.release(bytes);
    }

    /// Bytes that wait, and of what was taken and not released.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// Nobody reads it any more: what waits goes, and nothing more is taken.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Asks what it was sent of a message; the answer names it by its id. Returns whether it takes questions: one that is
    /// busy does not.
    pub(crate) fn ask(
        &self,
        (conversation, sequence): (ConversationId, u64),
        answer: &mpsc::Sender<(u64, SessionSent)>,
    ) -> bool {
        let answer = answer.clone();
        let question = SessionQuestion { conversation, sequence, connection: self.id, answer };
        self.push_if_idle(EdgeEvent::Asked(question))
    }

    /// Sets what is on its screen.
    pub fn set_view(&self, conversation: Option<ConversationId>) {
        self.screen.lock().set_view(conversation);
    }

    /// Its user is no member of a conversation any more.
    pub(crate) fn left(&self, conversation: ConversationId) {
        self.screen.lock().left(conversation);
    }

    /// What somebody looks at: nothing in the background.
    #[must_use]
    pub fn in_view(&self) -> Option<ConversationId> {
        self.screen.lock().in_view()
    }

    /// Offers what is to be told of a user's typing in a conversation: held while the session is in the background, where
    /// the latest counts. Returns whether it was taken; `None`: it is not for this session.
    pub fn offer_typing(
        &self,
        conversation: ConversationId,
        user: &UserId,
        typing: bool,
        frame: &Bytes,
    ) -> Option<bool> {
        // Queued under the lock: what is held and told on return is never behind what comes after it.
        let mut screen = self.screen.lock();
        match screen.offer(conversation, user, typing, || frame.clone()) {
            Offered::NotForIt => None,
            Offered::Now => Some(self.push_if_idle(EdgeEvent::Frame(frame.clone()))),
            Offered::Held => Some(true),
            Offered::Full => Some(false),
        }
    }

    /// Goes to the background, or comes back: then what was held is told.
    pub fn set_background(&self, background: bool) {
        let mut screen = self.screen.lock();
        for frame in screen.set_background(background) {
            self.push_if_idle(EdgeEvent::Frame(frame));
        }
    }

    /// Takes what the device says of itself; a type that it does not name stays as it is.
    pub fn set_presence(&self, away: bool, device_type: Option<DeviceType>) {
        let says = self.says.load(Ordering::Relaxed);
        let kind = if device_type.is_some() { DeviceType::number(device_type) } else { u32::from(says >> 1) };
        let kind = u8::try_from(kind).unwrap_or(0) << 1;
        self.says.store(kind | if away { AWAY } else { 0 }, Ordering::Relaxed);
    }

    /// What the device says of itself.
    #[must_use]
    pub fn presence(&self) -> (PresenceStatus, Option<DeviceType>) {
        let says = self.says.load(Ordering::Relaxed);
        let status = if says & AWAY == 0 { PresenceStatus::Online } else { PresenceStatus::Away };
        (status, DeviceType::from_number(u32::from(says >> 1)))
    }

    /// Something was heard of the client.
    pub fn heard(&self) {
        // A store for every frame would be shared between cores for nothing.
        if !self.spoke.load(Ordering::Relaxed) {
            self.spoke.store(true, Ordering::Relaxed);
        }
    }

    /// Whether something was heard of the client since this was asked last.
    pub(crate) fn spoke(&self) -> bool {
        self.spoke.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn connection(events: usize, bytes: usize) -> Connection {
        let device = DeviceId(uuid::Uuid::from_u128(1));
        Connection::new(1, UserId::new("ann").unwrap(), device, QueueBounds { events, bytes })
    }

    fn taken(connection: &Connection) -> Vec<EdgeEvent> {
        match connection.take().now_or_never() {
            Some(Taken::Events(events)) => events,
            Some(Taken::Overflow) | None => Vec::new(),
        }
    }

    fn frame(bytes: usize) -> EdgeEvent {
        EdgeEvent::Frame(Bytes::from(vec![b'x'; bytes]))
    }

    #[test]
    fn a_queue_takes_frames_up_to_its_bytes_and_more_once_some_were_written() {
        let connection = connection(100, 1_000);
        assert!(connection.push(frame(600)) && connection.push(frame(400)));
        assert_eq!(taken(&connection).len(), 2);
        assert_eq!(connection.waiting_bytes(), 1_000, "what was taken and not written waits still");
        connection.release(600);
        assert!(connection.push(frame(600)));
        assert!(!connection.push(frame(1)));
        connection.release(1_000);
        assert!(!connection.push(frame(1)), "an overflow is for good");
        assert_eq!(connection.waiting_bytes(), 0);
    }

    #[test]
    fn what_is_for_the_moment_is_dropped_once_half_of_the_queue_waits_and_ends_no_session() {
        let many = connection(4, 1_000);
        assert!(many.push_if_idle(frame(1)) && many.push_if_idle(frame(1)) && many.push_if_idle(frame(1)));
        assert!(!many.push_if_idle(frame(1)), "three of four wait");
        assert!(many.push(frame(1)), "what matters has room");
        assert_eq!(taken(&many).len(), 4);
        assert!(many.push_if_idle(frame(1)));
        let large = connection(100, 1_000);
        assert!(large.push(frame(600)) && !large.push_if_idle(frame(1)) && large.push(frame(400)));
    }

    #[test]
    fn in_the_background_typing_is_held_and_told_on_return() {
        let session = connection(100, 10_000);
        let (conversation, ann) = (ConversationId(uuid::Uuid::from_u128(7)), UserId::new("ann").unwrap());
        let offer = |typing, frame: &'static str| {
            session.offer_typing(conversation, &ann, typing, &Bytes::from_static(frame.as_bytes()))
        };
        assert_eq!(offer(true, "starts"), None, "it has nothing in view");
        session.set_view(Some(conversation));
        session.set_background(true);
        assert_eq!((offer(true, "starts"), offer(false, "stops")), (Some(true), Some(true)));
        assert!(taken(&session).is_empty(), "nothing is told meanwhile");
        session.set_background(false);
        let told = taken(&session);
        assert!(matches!(&told[..], [EdgeEvent::Frame(frame)] if frame == "stops"), "the latest of ann");
        assert_eq!(offer(true, "starts"), Some(true));
        assert_eq!(taken(&session).len(), 1);
    }

    #[test]
    fn a_device_says_whether_somebody_is_at_it_and_keeps_its_type() {
        let device = connection(4, 1_000);
        assert_eq!(device.presence(), (PresenceStatus::Online, None));
        device.set_presence(true, Some(DeviceType::Mobile));
        device.set_presence(true, None);
        assert_eq!(device.presence(), (PresenceStatus::Away, Some(DeviceType::Mobile)));
        device.set_presence(false, Some(DeviceType::Desktop));
        assert_eq!(device.presence(), (PresenceStatus::Online, Some(DeviceType::Desktop)));
        assert!(device.spoke() && !device.spoke());
        device.heard();
        assert!(device.spoke());
    }

    #[test]
    fn a_frame_over_the_bytes_passes_alone_and_the_number_of_events_bounds_too() {
        let alone = connection(100, 1_000);
        assert!(alone.push(frame(5_000)));
        assert!(!alone.push(frame(1)));
        let many = connection(2, 1_000);
        assert!(many.push(frame(1)) && many.push(frame(1)));
        assert!(!many.push(frame(1)));
        assert_eq!(many.waiting_bytes(), 2, "a refused frame does not count");
    }
}
