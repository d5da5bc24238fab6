//! The server's side of TLS over any stream.
//!
//! rustls decides everything; what is here are its buffers. Its own stream keeps 4 KB for each connection to read into,
//! for as long as the connection lasts. Here a record is kept until it is whole, and what was decrypted until it is read.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::poll_chunk;

/// Bytes of records that are not processed yet. A handshake message takes 64 KiB at most, in records of 16 KiB; rustls
/// refuses longer ones itself.
const INCOMING: usize = 96 * 1024;
/// Bytes encrypted before they are written.
const OUTGOING: usize = 64 * 1024;
/// What a record may be longer than its content, and how much of that it has at most.
const RECORD_OVERHEAD: usize = 64;
const RECORD: usize = 16 * 1024;

/// A connection after its handshake.
pub(crate) struct TlsStream<S> {
    stream: S,
    connection: UnbufferedServerConnection,
    /// Records that are not whole yet.
    incoming: Vec<u8>,
    /// What was decrypted and not read.
    plain: Bytes,
    /// What was encrypted and not written.
    outgoing: BytesMut,
    /// The peer said that nothing follows.
    ended: bool,
    /// The peer was told that nothing follows.
    closed: bool,
    /// Something came that is no TLS: nothing is read any more.
    broken: bool,
}

impl<S> std::fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream").field("ended", &self.ended).field("closed", &self.closed).finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Does the handshake.
    ///
    /// # Errors
    /// What the stream fails with, and `InvalidData` for what the peer does wrong; it is told why, as far as it reads.
    pub(crate) async fn accept(config: Arc<ServerConfig>, stream: S) -> io::Result<Self> {
        let connection = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let mut accepted = Self {
            stream,
            connection,
            incoming: Vec::new(),
            plain: Bytes::new(),
            outgoing: BytesMut::new(),
            ended: false,
            closed: false,
            broken: false,
        };
        poll_fn(|context| accepted.poll_handshake(context)).await?;
        Ok(accepted)
    }

    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let written = self.poll_write_out(context)?;
            if !self.connection.is_handshaking() {
                // Of TLS 1.3 tickets may be left, which the peer may not read before it has something to read: they go
                // out with what follows. Before that the last word of the handshake is the server's.
                let waits = self.connection.protocol_version() != Some(ProtocolVersion::TLSv1_3);
                return if waits { written.map(Ok) } else { Poll::Ready(Ok(())) };
            }
            ready!(written);
            if ready!(self.poll_take_in(context))? == 0 {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the end within the handshake")));
            }
        }
    }

    /// Reads once and processes what came. Gives how many bytes came, none at the end of the stream.
    fn poll_take_in(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.broken || self.incoming.len() >= INCOMING {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let Self { stream, incoming, .. } = self;
        let count = ready!(poll_chunk(stream, context, |chunk| {
            incoming.extend_from_slice(chunk);
            chunk.len()
        }))?;
        if let Err(error) = self.process(&[]) {
            // The peer is told why. The error counts more than whether it reads that.
            let _ = self.poll_write_out(context);
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(count))
    }

    /// Goes on until the connection waits for more from the peer, and encrypts `content` once it takes content. Gives
    /// how much was encrypted. After an error only what is encrypted already goes out.
    fn process(&mut self, content: &[u8]) -> io::Result<usize> {
        let processed = if self.broken { Err(io::ErrorKind::BrokenPipe.into()) } else { self.process_records(content) };
        self.broken |= processed.is_err();
        if self.broken || self.incoming.is_empty() {
            self.incoming = Vec::new();
        }
        processed
    }

    fn process_records(&mut self, content: &[u8]) -> io::Result<usize> {
        let mut encrypted = 0;
        let mut failed = None;
        loop {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.incoming);
            let mut rests = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        self.plain = joined(&self.plain, record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    grow_until(&mut self.outgoing, 0, |room| match data.encode(room) {
                        Ok(count) => Ok(Ok(count)),
                        Err(EncodeError::InsufficientSize(size)) => Ok(Err(size.required_size)),
                        Err(error) => Err(io::Error::other(error)),
                    })?;
                }
                // What was encoded is written in order, before anything that follows.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    if encrypted < content.len() {
                        let least = content.len() + (content.len() / RECORD + 1) * RECORD_OVERHEAD;
                        grow_until(&mut self.outgoing, least, |room| sized(traffic.encrypt(content, room)))?;
                        encrypted = content.len();
                    }
                    rests = true;
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => rests = true,
                // Not asked for: the configuration allows no early data.
                Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
                // The alert that it made is encoded still.
                Err(error) if failed.is_none() => failed = Some(error),
                Err(_) => rests = true,
            }
            self.incoming.drain(..discard.min(self.incoming.len()));
            if rests {
                return failed.map_or(Ok(encrypted), |error| Err(invalid(error)));
            }
        }
    }

    /// Writes what the connection itself has to say, although nobody writes. Where the stream takes it later, who reads
    /// is woken for it, and comes here again.
    fn write_beside(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.poll_write_out(context) {
            Poll::Ready(written) => written,
            Poll::Pending => Ok(()),
        }
    }

    /// Writes what was encrypted.
    fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, &self.outgoing))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(count);
        }
        self.outgoing = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.write_beside(context)?;
        while this.plain.is_empty() {
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            let came = ready!(this.poll_take_in(context))?;
            this.write_beside(context)?;
            if came == 0 && !this.ended {
                let message = "the peer closed the connection without the end of TLS";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, message)));
            }
        }
        let count = this.plain.len().min(buffer.remaining());
        buffer.put_slice(&this.plain[..count]);
        this.plain.advance(count);
        if this.plain.is_empty() {
            this.plain = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_write_out(context))?;
        if this.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = this.process(&bytes[..bytes.len().min(OUTGOING)])?;
        if count == 0 && !bytes.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        // What does not go out now does so at the next write or flush.
        this.write_beside(context)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_out(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closed && !this.broken {
            let UnbufferedStatus { discard, state } = this.connection.process_tls_records(&mut this.incoming);
            if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
                grow_until(&mut this.outgoing, RECORD_OVERHEAD, |room| sized(traffic.queue_close_notify(room)))?;
            }
            this.incoming.drain(..discard.min(this.incoming.len()));
        }
        this.closed = true;
        ready!(this.poll_write_out(context))?;
        match ready!(Pin::new(&mut this.stream).poll_shutdown(context)) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What was read before, and more behind it.
fn joined(before: &Bytes, more: &[u8]) -> Bytes {
    if before.is_empty() { Bytes::copy_from_slice(more) } else { Bytes::from([before, more].concat()) }
}

/// How much was written, or how much room it takes.
fn sized(written: Result<usize, EncryptError>) -> io::Result<Result<usize, usize>> {
    match written {
        Ok(count) => Ok(Ok(count)),
        Err(EncryptError::InsufficientSize(size)) => Ok(Err(size.required_size)),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Appends what `write` puts into the room that it is given, which is as much as it asks for.
fn grow_until(
    buffer: &mut BytesMut,
    least: usize,
    mut write: impl FnMut(&mut [u8]) -> io::Result<Result<usize, usize>>,
) -> io::Result<()> {
    let begin = buffer.len();
    let mut room = least;
    loop {
        buffer.resize(begin + room, 0);
        match write(&mut buffer[begin..]) {
            Ok(Ok(count)) => {
                buffer.truncate(begin + count);
                return Ok(());
            }
            Ok(Err(needed)) if needed > room => room = needed,
            Ok(Err(_)) => return Err(io::Error::other("more room is asked for than is needed")),
            Err(error) => {
                buffer.truncate(begin);
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests;
