//! The port that sessions use: frames in order, both ways, on whatever carries them.

pub(crate) mod websocket;
pub(crate) mod webtransport;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::Refusal;
use hearth_protocol::client::CloseCode;

/// How long a client that did not read may take to read on to its close.
pub(crate) const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(4);

/// What came from the client.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// One frame, not looked at.
    Frame(Bytes),
    /// Something that is no frame.
    Malformed(Refusal),
    /// The client left, or the connection is lost. A half frame before it is dropped.
    Closed,
}

/// The connection is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is lost")]
pub(crate) struct Lost;

/// Frames of one client connection.
pub(crate) trait FrameStream: Send {
    /// Waits for the next frame. Nothing is lost when the future is dropped.
    fn receive(&mut self) -> impl Future<Output = Incoming> + Send;

    /// Writes all frames of `batch` as one, and empties it. Waits while the client does not read. When the future is
    /// dropped before its end, only [`FrameStream::give_up`] may follow.
    fn send(&mut self, batch: &mut Vec<Bytes>) -> impl Future<Output = Result<(), Lost>> + Send;

    /// Closes with the code, and waits a bounded time for the client to have read everything before it.
    fn close(self, code: CloseCode) -> impl Future<Output = ()> + Send;

    /// Closes after a [`FrameStream::send`] that was given up: the frame that it had begun is finished, `last` follows
    /// instead of the others, then the code. A client that reads within a bounded time gets all of it.
    fn give_up(self, last: Bytes, code: CloseCode) -> impl Future<Output = ()> + Send;

    /// Ends after [`Incoming::Closed`], and waits a bounded time for a client that left to have heard of the end.
    fn end(self) -> impl Future<Output = ()> + Send;
}
