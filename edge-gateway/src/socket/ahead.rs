//! A stream that is read in large pieces whatever its reader asks for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{READ, poll_chunk};

/// Reads ahead of a reader whose own buffer is small, so that it may be small at no cost in system calls. What was read
/// ahead is kept until it is taken, and nothing after that.
#[derive(Debug)]
pub(crate) struct ReadAhead<S> {
    stream: S,
    ahead: Bytes,
}

impl<S> ReadAhead<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, ahead: Bytes::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            if buffer.remaining() >= READ {
                return Pin::new(&mut this.stream).poll_read(context, buffer);
            }
            let rest = poll_chunk(&mut this.stream, context, |chunk| {
                let (now, later) = chunk.split_at(chunk.len().min(buffer.remaining()));
                buffer.put_slice(now);
                Bytes::copy_from_slice(later)
            });
            this.ahead = ready!(rest)?;
            return Poll::Ready(Ok(()));
        }
        let now = this.ahead.len().min(buffer.remaining());
        buffer.put_slice(&this.ahead[..now]);
        this.ahead.advance(now);
        if this.ahead.is_empty() {
            this.ahead = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn whatever_is_asked_for_at_a_time_the_bytes_are_the_same_and_none_are_kept() {
        let sent: Vec<u8> = (0..20_000_u32).flat_map(u32::to_be_bytes).collect();
        for size in [1, 14, 100, READ - 1, READ, 10_000] {
            let (mut from, to) = tokio::io::duplex(5_000);
            let bytes = sent.clone();
            let writing = tokio::spawn(async move {
                from.write_all(&bytes).await.unwrap();
            });
            let mut reader = ReadAhead::new(to);
            let (mut read, mut part) = (Vec::new(), vec![0; size]);
            loop {
                let count = reader.read(&mut part).await.unwrap();
                if count == 0 {
                    break;
                }
                read.extend_from_slice(&part[..count]);
            }
            writing.await.unwrap();
            assert!(read == sent, "{size} bytes at a time");
            assert!(reader.ahead.is_empty() && reader.ahead.as_ptr() == Bytes::new().as_ptr(), "nothing is kept");
        }
    }
}
