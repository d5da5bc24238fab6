//! WebTransport: all frames on the client's first bidirectional stream, each behind a 4-byte big-endian length.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use hearth_protocol::Refusal;
use hearth_protocol::client::CloseCode;
use wtransport::{Connection, RecvStream, SendStream, VarInt};

use super::{FrameStream, GIVE_UP_TIMEOUT, Incoming, Lost};

/// Bytes of the length before each frame.
const LENGTH: usize = 4;
/// Bytes taken from the stream at once.
const READ: usize = 64 * 1024;
/// How long the client may take to read what was written before a close, and to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct WebTransportFrames {
    connection: Connection,
    sender: SendStream,
    receiver: RecvStream,
    received: FrameBuffer,
    /// Chunks of the write under way; what is written is taken off them.
    writing: Vec<Bytes>,
    /// Whether the client ended its side of the stream: it leaves, and its connection is not lost.
    left: bool,
}

impl WebTransportFrames {
    pub(crate) fn new(connection: Connection, sender: SendStream, receiver: RecvStream, frame_bytes: usize) -> Self {
        let received = FrameBuffer { bytes: BytesMut::new(), frame_bytes };
        Self { connection, sender, receiver, received, writing: Vec::new(), left: false }
    }
}

/// What is left of the frame that a write had begun, from chunks (length, frame, length, frame …) whose written bytes
/// were taken off by the write.
fn rest_of_begun(writing: &mut Vec<Bytes>) -> Vec<Bytes> {
    let pairs = writing.chunks_exact(2).find(|pair| !pair[1].is_empty());
    let begun = pairs.filter(|pair| pair[0].len() < LENGTH).map(<[Bytes]>::to_vec).unwrap_or_default();
    writing.clear();
    begun
}

/// Bytes of a stream, cut into frames.
#[derive(Debug)]
struct FrameBuffer {
    bytes: BytesMut,
    frame_bytes: usize,
}

impl FrameBuffer {
    /// The next whole frame; `None` when more bytes are needed.
    fn next(&mut self) -> Option<Result<Bytes, Refusal>> {
        let length = u32::from_be_bytes(*self.bytes.first_chunk::<LENGTH>()?);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length == 0 {
            return Some(Err(Refusal::invalid("a frame of length 0")));
        }
        if length > self.frame_bytes {
            let limit = format!("{} bytes a frame", self.frame_bytes);
            return Some(Err(Refusal::too_large("the frame is too long", limit)));
        }
        if self.bytes.len() < LENGTH + length {
            return None;
        }
        self.bytes.advance(LENGTH);
        Some(Ok(self.bytes.split_to(length).freeze()))
    }
}

impl FrameStream for WebTransportFrames {
    async fn receive(&mut self) -> Incoming {
        loop {
            match self.received.next() {
                Some(Ok(frame)) => return Incoming::Frame(frame),
                Some(Err(refusal)) => return Incoming::Malformed(refusal),
                None => {}
            }
            match self.receiver.quic_stream_mut().read_chunk(READ, true).await {
                Ok(Some(chunk)) => self.received.bytes.extend_from_slice(&chunk.bytes),
                Ok(None) => {
                    self.left = true;
                    return Incoming::Closed;
                }
                Err(_) => return Incoming::Closed,
            }
        }
    }

    async fn send(&mut self, batch: &mut Vec<Bytes>) -> Result<(), Lost> {
        let mut lengths = BytesMut::with_capacity(batch.len() * LENGTH);
        for frame in batch.iter() {
            lengths.put_u32(u32::try_from(frame.len()).map_err(|_| Lost)?);
        }
        let mut lengths = lengths.freeze();
        self.writing.clear();
        self.writing.extend(batch.drain(..).flat_map(|frame| [lengths.split_to(LENGTH), frame]));
        self.sender.quic_stream_mut().write_all_chunks(&mut self.writing).await.map_err(|_| Lost)
    }

    async fn close(mut self, code: CloseCode) {
        self.finish().await;
        self.connection.close(VarInt::from_u32(code.number().into()), code.reason().as_bytes());
    }

    async fn give_up(mut self, last: Bytes, code: CloseCode) {
        let begun = rest_of_begun(&mut self.writing);
        let closing = async {
            let length = Bytes::copy_from_slice(&u32::try_from(last.len()).unwrap_or_default().to_be_bytes());
            let mut chunks = [begun, vec![length, last]].concat();
            if self.sender.quic_stream_mut().write_all_chunks(&mut chunks).await.is_ok()
                && self.sender.finish().await.is_ok()
            {
                self.connection.closed().await;
            }
        };
        let _ = tokio::time::timeout(GIVE_UP_TIMEOUT, closing).await;
        self.connection.close(VarInt::from_u32(code.number().into()), code.reason().as_bytes());
    }

    async fn end(mut self) {
        if self.left {
            // A connection closed at once would look lost to a client whose own end is not acknowledged yet.
            self.finish().await;
        }
        self.connection.close(VarInt::from_u32(0), b"");
    }
}

impl WebTransportFrames {
    /// Ends this side of the stream, and waits for the client to end the connection.
    async fn finish(&mut self) {
        let reading = async {
            // Closing the connection at once would drop what the client has not read yet, the in-band close included.
            if self.sender.finish().await.is_ok() {
                self.connection.closed().await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, reading).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: &[u8], chunk: usize) -> Vec<Result<Bytes, Refusal>> {
        let mut buffer = FrameBuffer { bytes: BytesMut::new(), frame_bytes: 8 };
        let mut frames = Vec::new();
        for part in bytes.chunks(chunk) {
            buffer.bytes.extend_from_slice(part);
            while let Some(frame) = buffer.next() {
                let broken = frame.is_err();
                frames.push(frame);
                if broken {
                    return frames;
                }
            }
        }
        frames
    }

    #[test]
    fn frames_are_cut_the_same_however_the_bytes_arrive() {
        let bytes = b"\0\0\0\x03abc\0\0\0\x01d\0\0\0\x08efghijkl\0\0\0\x05half";
        for chunk in 1..bytes.len() {
            let texts: Vec<_> = frames(bytes, chunk).into_iter().map(Result::unwrap).collect();
            assert_eq!(texts, ["abc", "d", "efghijkl"], "chunks of {chunk}");
        }
    }

    #[test]
    fn of_a_write_that_was_given_up_the_begun_frame_alone_is_finished() {
        let (length, frame) = (Bytes::from_static(b"\0\0\0\x03"), Bytes::from_static(b"abc"));
        let rest = |mut writing: Vec<Bytes>| rest_of_begun(&mut writing).concat();
        let empty = Bytes::new;
        let untouched = vec![length.clone(), frame.clone()];
        assert_eq!(rest(untouched.clone()), b"");
        assert_eq!(rest([vec![empty(), empty()], untouched.clone()].concat()), b"");
        assert_eq!(rest([vec![empty(), frame.slice(1..)], untouched.clone()].concat()), b"bc");
        assert_eq!(rest([vec![length.slice(3..), frame], untouched].concat()), b"\x03abc");
        assert_eq!(rest(Vec::new()), b"");
    }

    #[test]
    fn a_length_of_zero_or_over_the_limit_is_malformed_before_its_bytes_arrive() {
        assert!(frames(b"\0\0\0\0", 4)[0].is_err());
        assert!(frames(b"\0\0\0\x09", 4)[0].is_err());
        assert!(frames(b"\xff\xff\xff\xff", 1)[0].is_err());
    }
}
