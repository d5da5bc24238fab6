//! Lanes of a link: bounded queues, framing, and the tasks that write and read their streams.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use quinn::{RecvStream, SendStream};
use tokio::sync::{Notify, mpsc};

use crate::peer::{DownReason, LinkEvent};

/// Largest frame, in bytes.
pub const MAXIMUM_FRAME_BYTES: usize = 8 << 20;

/// Number of message lanes.
pub const MESSAGE_LANES: u8 = 8;

/// Number of streams of a connection.
pub(crate) const LANES: usize = MESSAGE_LANES as usize + 2;

/// Bytes of the length before a frame.
const HEADER_BYTES: usize = 4;
/// Frames that one write takes at most.
const BATCH_FRAMES: usize = 64;
/// Bytes after which one write takes no further frame.
const BATCH_BYTES: usize = 256 << 10;
/// A frame of at least this size is handed to quinn as it is, smaller ones are copied together:
/// many small chunks cost quinn more than the copy.
const UNCOPIED_BYTES: usize = 16 << 10;
/// QUIC chunks (about a packet each) that one read takes at most.
const READ_CHUNKS: usize = 128;

/// One ordered stream of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Leases and control, ahead of everything else.
    Control,
    /// Messages; all of one conversation use the same lane. Numbers wrap at [`MESSAGE_LANES`].
    Message(u8),
    /// Catch-up, behind everything else.
    Bulk,
}

impl Lane {
    /// The lane for a conversation with this hash.
    #[must_use]
    pub fn for_hash(hash: u64) -> Self {
        let lane = hash % u64::from(MESSAGE_LANES);
        Self::Message(u8::try_from(lane).expect("a remainder of 8 fits a byte"))
    }

    /// Position in a link's arrays, and the first byte of the lane's stream.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Control => 0,
            Self::Message(number) => 1 + usize::from(number % MESSAGE_LANES),
            Self::Bulk => 1 + usize::from(MESSAGE_LANES),
        }
    }

    /// The lane that a stream names by its first byte.
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Control),
            1..=MESSAGE_LANES => Some(Self::Message(byte - 1)),
            _ if usize::from(byte) == LANES - 1 => Some(Self::Bulk),
            _ => None,
        }
    }

    /// First byte of this lane's stream.
    pub(crate) fn byte(self) -> u8 {
        u8::try_from(self.index()).expect("there are ten lanes")
    }

    /// All lanes in the order of their index.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::Control).chain((0..MESSAGE_LANES).map(Self::Message)).chain(std::iter::once(Self::Bulk))
    }

    /// quinn's priority of the stream: higher goes first.
    pub(crate) fn priority(self) -> i32 {
        match self {
            Self::Control => 2,
            Self::Message(_) => 1,
            Self::Bulk => 0,
        }
    }

    /// Name in metrics.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Control => "control".to_owned(),
            Self::Message(number) => format!("message-{}", number % MESSAGE_LANES),
            Self::Bulk => "bulk".to_owned(),
        }
    }
}

/// Why a frame was not taken. The frame is not kept: whoever needs it sends it again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The name is not that of a peer.
    #[error("not a peer")]
    UnknownPeer,
    /// The link is down.
    #[error("the link is down")]
    Down,
    /// The lane's queue is full.
    #[error("the lane is full: {frames} frames, {bytes} bytes wait")]
    Full {
        /// Frames that wait.
        frames: usize,
        /// Bytes that wait.
        bytes: usize,
    },
    /// The frame is larger than [`MAXIMUM_FRAME_BYTES`].
    #[error("a frame of {bytes} bytes is too large")]
    TooLarge {
        /// Size of the frame.
        bytes: usize,
    },
}

/// Frames that wait for a lane's writer. Bounded by number and bytes; when full, `push` refuses.
#[derive(Debug)]
pub(crate) struct LaneQueue {
    state: Mutex<QueueState>,
    filled: Notify,
    maximum_frames: usize,
    maximum_bytes: usize,
    depth_frames: Gauge,
    depth_bytes: Gauge,
}

#[derive(Debug, Default)]
struct QueueState {
    frames: VecDeque<Bytes>,
    bytes: usize,
    closed: bool,
}

impl LaneQueue {
    pub(crate) fn new(maximum_frames: usize, maximum_bytes: usize, depth: (Gauge, Gauge)) -> Self {
        Self {
            state: Mutex::default(),
            filled: Notify::new(),
            maximum_frames,
            maximum_bytes,
            depth_frames: depth.0,
            depth_bytes: depth.1,
        }
    }

    /// Adds a frame. One frame always fits an empty queue, or it could never be sent.
    pub(crate) fn push(&self, frame: Bytes) -> Result<(), SendError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(SendError::Down);
        }
        let bytes = state.bytes + frame.len();
        let full = state.frames.len() >= self.maximum_frames || bytes > self.maximum_bytes;
        if full && !state.frames.is_empty() {
            return Err(SendError::Full { frames: state.frames.len(), bytes: state.bytes });
        }
        state.bytes = bytes;
        state.frames.push_back(frame);
        self.export(&state);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Takes what waits, up to the bounds of one write.
    fn take_batch(&self) -> Vec<Bytes> {
        let mut state = self.state.lock();
        let mut batch = Vec::with_capacity(state.frames.len().min(BATCH_FRAMES));
        let mut bytes = 0;
        while batch.len() < BATCH_FRAMES && bytes < BATCH_BYTES {
            let Some(frame) = state.frames.pop_front() else {
                break;
            };
            bytes += frame.len();
            batch.push(frame);
        }
        state.bytes -= bytes;
        self.export(&state);
        batch
    }

    /// Waits until there is something, then takes it.
    async fn next_batch(&self) -> Vec<Bytes> {
        loop {
            let batch = self.take_batch();
            if !batch.is_empty() {
                return batch;
            }
            self.filled.notified().await;
        }
    }

    /// Refuses further frames and forgets those that wait; gives their number.
    pub(crate) fn close(&self) -> usize {
        let mut state = self.state.lock();
        let lost = state.frames.len();
        *state = QueueState { closed: true, ..QueueState::default() };
        self.export(&state);
        lost
    }

    fn export(&self, state: &QueueState) {
        self.depth_frames.set(i64::try_from(state.frames.len()).unwrap_or(i64::MAX));
        self.depth_bytes.set(i64::try_from(state.bytes).unwrap_or(i64::MAX));
    }
}

/// The 4-byte big-endian length before a frame.
pub(crate) fn header(frame_bytes: usize) -> [u8; HEADER_BYTES] {
    u32::try_from(frame_bytes).expect("frames are at most 8 MiB").to_be_bytes()
}

/// Puts frames with their lengths into few chunks.
fn encode(batch: Vec<Bytes>) -> Vec<Bytes> {
    let small = |frame: &Bytes| {
        if frame.len() < UNCOPIED_BYTES { frame.len() } else { 0 }
    };
    let copied = batch.iter().map(|frame| HEADER_BYTES + small(frame)).sum();
    let mut chunks = Vec::new();
    let mut together = BytesMut::with_capacity(copied);
    for frame in batch {
        together.put_slice(&header(frame.len()));
        if frame.len() < UNCOPIED_BYTES {
            together.put_slice(&frame);
        } else {
            chunks.push(together.split().freeze());
            chunks.push(frame);
        }
    }
    if !together.is_empty() {
        chunks.push(together.freeze());
    }
    chunks
}

/// The peer announced a frame larger than [`MAXIMUM_FRAME_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameTooLarge;

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub(crate) struct FrameDecoder {
    buffer: BytesMut,
}

impl FrameDecoder {
    /// Adds bytes of the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes all frames that are complete.
    pub(crate) fn drain(&mut self) -> Result<Vec<Bytes>, FrameTooLarge> {
        let mut frames = Vec::new();
        while let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() {
            let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
            if length > MAXIMUM_FRAME_BYTES {
                return Err(FrameTooLarge);
            }
            if self.buffer.len() < HEADER_BYTES + length {
                break;
            }
            self.buffer.advance(HEADER_BYTES);
            frames.push(self.buffer.split_to(length).freeze());
        }
        Ok(frames)
    }
}

/// Writes what is queued, until the stream ends.
pub(crate) async fn write_lane(queue: &LaneQueue, mut stream: SendStream) -> DownReason {
    loop {
        let mut chunks = encode(queue.next_batch().await);
        if let Err(error) = stream.write_all_chunks(&mut chunks).await {
            return DownReason::from_write(error);
        }
    }
}

/// Reads frames and hands them up in batches, until the stream ends. While the receiver of events
/// is full this waits, the stream's window fills, and the peer's writer waits too.
pub(crate) async fn read_lane(
    peer: String,
    lane: Lane,
    mut stream: RecvStream,
    events: mpsc::Sender<LinkEvent>,
) -> DownReason {
    let mut decoder = FrameDecoder::default();
    let mut chunks = vec![Bytes::new(); READ_CHUNKS];
    loop {
        match stream.read_chunks(&mut chunks).await {
            Ok(Some(count)) => {
                for chunk in &mut chunks[..count] {
                    decoder.push(&std::mem::take(chunk));
                }
            }
            Ok(None) => return DownReason::Protocol,
            Err(error) => return DownReason::from_read(error),
        }
        let Ok(frames) = decoder.drain() else {
            return DownReason::Protocol;
        };
        if frames.is_empty() {
            continue;
        }
        let event = LinkEvent::Frames { peer: peer.clone(), lane, frames };
        if events.send(event).await.is_err() {
            return DownReason::Shutdown;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn queue(frames: usize, bytes: usize) -> LaneQueue {
        LaneQueue::new(frames, bytes, (Gauge::default(), Gauge::default()))
    }

    #[test]
    fn every_lane_is_named_by_its_own_byte() {
        for (index, lane) in Lane::all().enumerate() {
            assert_eq!(lane.index(), index);
            assert_eq!(Lane::from_byte(lane.byte()), Some(lane));
        }
        assert_eq!(Lane::all().count(), LANES);
        assert_eq!(Lane::from_byte(10), None);
        assert_eq!(Lane::Message(9).index(), Lane::Message(1).index());
        assert_eq!(Lane::for_hash(u64::MAX), Lane::Message(7));
    }

    #[test]
    fn a_queue_refuses_what_exceeds_its_frames_or_bytes() {
        let by_frames = queue(2, 1_000);
        assert_eq!(by_frames.push(Bytes::from_static(b"a")), Ok(()));
        assert_eq!(by_frames.push(Bytes::from_static(b"b")), Ok(()));
        assert_eq!(by_frames.push(Bytes::from_static(b"c")), Err(SendError::Full { frames: 2, bytes: 2 }));
        let by_bytes = queue(10, 4);
        assert_eq!(by_bytes.push(Bytes::from_static(b"longer than four")), Ok(()));
        assert_eq!(by_bytes.push(Bytes::new()), Err(SendError::Full { frames: 1, bytes: 16 }));
        assert_eq!(by_bytes.take_batch().len(), 1);
        assert_eq!(by_bytes.push(Bytes::from_static(b"four")), Ok(()));
    }

    #[test]
    fn a_closed_queue_forgets_its_frames_and_takes_no_more() {
        let queue = queue(10, 100);
        assert_eq!(queue.push(Bytes::from_static(b"a")), Ok(()));
        assert_eq!(queue.close(), 1);
        assert_eq!(queue.push(Bytes::from_static(b"b")), Err(SendError::Down));
        assert!(queue.take_batch().is_empty());
        assert_eq!(queue.depth_frames.get(), 0);
    }

    #[test]
    fn one_write_takes_no_more_than_its_bounds() {
        let queue = queue(1_000, 100 << 20);
        for _ in 0..100 {
            queue.push(Bytes::from_static(b"small")).expect("fits");
        }
        assert_eq!(queue.take_batch().len(), BATCH_FRAMES);
        assert_eq!(queue.take_batch().len(), 100 - BATCH_FRAMES);
        for _ in 0..10 {
            queue.push(Bytes::from(vec![0; BATCH_BYTES / 2])).expect("fits");
        }
        assert_eq!(queue.take_batch().len(), 2);
    }

    #[test]
    fn a_frame_that_is_announced_too_large_is_an_error() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&u32::try_from(MAXIMUM_FRAME_BYTES + 1).expect("fits").to_be_bytes());
        assert_eq!(decoder.drain(), Err(FrameTooLarge));
    }

    proptest! {
        #[test]
        fn frames_survive_any_way_of_cutting_the_stream(
            sizes in prop::collection::vec(prop_oneof![0usize..300, 16_000usize..20_000], 0..12),
            cut in 1usize..5_000,
        ) {
            let frames: Vec<Bytes> =
                sizes.iter().enumerate().map(|(index, size)| Bytes::from(vec![index as u8; *size])).collect();
            let stream: Vec<u8> = encode(frames.clone()).concat();
            let mut decoder = FrameDecoder::default();
            let mut read = Vec::new();
            for piece in stream.chunks(cut) {
                decoder.push(piece);
                read.extend(decoder.drain().expect("no frame is too large"));
            }
            prop_assert_eq!(read, frames);
        }
    }
}
