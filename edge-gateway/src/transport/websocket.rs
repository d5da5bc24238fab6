//! WebSocket: text frames hold JSON.

use std::future::poll_fn;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hearth_protocol::Refusal;
use hearth_protocol::client::CloseCode;
use tokio_tungstenite::tungstenite;

use super::{FrameStream, GIVE_UP_TIMEOUT, Incoming, Lost};
use crate::options::GatewayLimits;

/// Bytes that the codec takes at a time: what is below reads ahead, so that it costs no system call each.
const READ_BUFFER: usize = 128;
/// Frames fed in a row are written to the socket when they exceed this, and at the flush.
const WRITE_BUFFER: usize = 16 * 1024;
/// How long the client may take to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a client that sent far too much may take to read its close.
const OVER_LONG_PAUSE: Duration = Duration::from_secs(1);

/// The settings of this transport. Frames up to twice the limit are read whole, so that they get a typed error.
pub(crate) fn configure(upgrade: WebSocketUpgrade, limits: &GatewayLimits) -> WebSocketUpgrade {
    let most = limits.frame.frame_bytes * 2;
    upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + limits.answer_bytes * 2)
        .max_message_size(most)
        .max_frame_size(most)
}

pub(crate) struct WebSocketFrames {
    socket: WebSocket,
    /// The last frame, until the next is waited for: see [`WebSocketFrames::next`].
    last: Bytes,
    /// Whether a message was so long that its bytes are not read: the codec would keep all of them if it went on.
    over_long: bool,
}

impl WebSocketFrames {
    pub(crate) fn new(socket: WebSocket) -> Self {
        Self { socket, last: Bytes::new(), over_long: false }
    }
}

impl FrameStream for WebSocketFrames {
    async fn receive(&mut self) -> Incoming {
        loop {
            return match self.next().await {
                Some(Ok(Message::Text(text))) => {
                    let frame = Bytes::from(text);
                    self.last = frame.clone();
                    Incoming::Frame(frame)
                }
                Some(Ok(Message::Binary(_))) => {
                    Incoming::Malformed(Refusal::invalid("a binary message on the text protocol chat.v1"))
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(_))) | None => Incoming::Closed,
                Some(Err(error)) => self.failed(error),
            };
        }
    }

    async fn send(&mut self, batch: &mut Vec<Bytes>) -> Result<(), Lost> {
        for frame in batch.drain(..) {
            let text = Utf8Bytes::try_from(frame).map_err(|_| Lost)?;
            self.socket.feed(Message::Text(text)).await.map_err(|_| Lost)?;
        }
        self.socket.flush().await.map_err(|_| Lost)
    }

    async fn close(mut self, code: CloseCode) {
        let frame = CloseFrame { code: code.number(), reason: Utf8Bytes::from_static(code.reason()) };
        let closing = async {
            if self.socket.send(Message::Close(Some(frame))).await.is_err() {
                return;
            }
            if self.over_long {
                // The client, still writing, finds the close while the connection stays open.
                return tokio::time::sleep(OVER_LONG_PAUSE).await;
            }
            // Unread bytes would turn the close into a reset, and the client would lose what was written before.
            let mut errors = 0;
            while let Some(message) = self.socket.next().await {
                errors += usize::from(message.is_err());
                if errors > 1 || matches!(message, Ok(Message::Close(_))) {
                    return;
                }
            }
        };
        // A client that does not answer loses its connection: nothing more is owed to it.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }

    async fn give_up(mut self, last: Bytes, code: CloseCode) {
        // The codec holds what the write had begun, whole frames only, and goes on where the socket stopped.
        let Ok(text) = Utf8Bytes::try_from(last) else { return };
        let frame = CloseFrame { code: code.number(), reason: Utf8Bytes::from_static(code.reason()) };
        let closing = async {
            if self.socket.send(Message::Text(text)).await.is_ok() {
                // Without the client's answer the connection ends all the same.
                let _ = self.socket.send(Message::Close(Some(frame))).await;
                while let Some(Ok(message)) = self.socket.next().await {
                    if matches!(message, Message::Close(_)) {
                        return;
                    }
                }
            }
        };
        let _ = tokio::time::timeout(GIVE_UP_TIMEOUT, closing).await;
    }

    async fn end(self) {}
}

impl WebSocketFrames {
    /// The next message. The codec reads on into what is left of its buffer, and makes a small one where that is in use
    /// by a frame: it is made to, since it would keep one as large as the last frame otherwise, for as long as the
    /// connection is idle.
    async fn next(&mut self) -> Option<Result<Message, axum::Error>> {
        poll_fn(|context| {
            let next = self.socket.poll_next_unpin(context);
            self.last = Bytes::new();
            next
        })
        .await
    }

    fn failed(&mut self, error: axum::Error) -> Incoming {
        match error.into_inner().downcast_ref::<tungstenite::Error>() {
            Some(tungstenite::Error::Utf8(_)) => Incoming::Malformed(Refusal::invalid("the frame is not UTF-8")),
            Some(tungstenite::Error::Capacity(_)) => {
                self.over_long = true;
                Incoming::Malformed(Refusal::too_large("the frame is too long", "twice the bytes of a frame"))
            }
            Some(tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake
                | tungstenite::error::ProtocolError::SendAfterClosing
                | tungstenite::error::ProtocolError::ReceivedAfterClosing,
            )) => Incoming::Closed,
            Some(tungstenite::Error::Protocol(_)) => {
                Incoming::Malformed(Refusal::invalid("not a WebSocket frame as RFC 6455 has it"))
            }
            _ => Incoming::Closed,
        }
    }
}
