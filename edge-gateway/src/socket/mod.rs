//! What is under a connection of HTTP or WebSocket: streams that keep no buffer while nothing waits in them. Most
//! connections are idle most of the time, and there are many.

mod ahead;
mod tls;

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

pub(crate) use ahead::ReadAhead;
pub(crate) use tls::TlsStream;

/// Bytes taken from a socket at once. They lie on the stack until it is known how many came.
const READ: usize = 4 * 1024;

/// Reads once, and hands over what came; nothing at the end of the stream.
fn poll_chunk<S: AsyncRead + Unpin, T>(
    stream: &mut S,
    context: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    let mut bytes = [const { MaybeUninit::uninit() }; READ];
    let mut chunk = ReadBuf::uninit(&mut bytes);
    ready!(Pin::new(stream).poll_read(context, &mut chunk))?;
    Poll::Ready(Ok(take(chunk.filled())))
}
