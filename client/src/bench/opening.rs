//! Opens a connection of a run: the upgrade, `auth`, and `connected`, in as few reads as the bytes come in.

use hearth_protocol::client::{AuthPayload, Connected, ServerFrame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::wire;

/// The head of an answer and `connected` together are shorter; more is a fault.
const MOST_BYTES: usize = 256 * 1024;
/// Bytes that a session which catches up reads at once, at least.
const READ_BYTES: usize = 4 * 1024;

/// A connection whose session is open.
#[derive(Debug)]
pub(super) struct Opened<S> {
    pub(super) stream: S,
    /// What was read behind `connected`.
    pub(super) early: Vec<u8>,
    pub(super) connected: Connected,
}

/// Upgrades a stream and authenticates on it.
///
/// # Errors
/// What came instead of `connected`, in words.
pub(super) async fn open<S>(mut stream: S, host: &str, auth: &AuthPayload) -> Result<Opened<S>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let told = |error: std::io::Error| error.to_string();
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: aGVhcnRoIGJlbmNoIGtleQ==\r\nSec-WebSocket-Protocol: chat.v1\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(told)?;
    let mut bytes = Vec::with_capacity(2048);
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        read_more(&mut stream, &mut bytes).await?;
    };
    if !bytes.starts_with(b"HTTP/1.1 101") {
        return Err(String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned());
    }
    bytes.drain(..head);
    let payload = serde_json::json!({ "type": "auth", "payload": auth }).to_string();
    let mut frame = Vec::with_capacity(payload.len() + 16);
    wire::append_frame(wire::TEXT, payload.as_bytes(), &mut frame);
    stream.write_all(&frame).await.map_err(told)?;
    loop {
        match wire::first_frame(&bytes).map_err(|error| error.to_string())? {
            None => read_more(&mut stream, &mut bytes).await?,
            Some(frame) => {
                let text = String::from_utf8_lossy(&bytes[frame.start..frame.end]);
                let Ok((_, Some(ServerFrame::Connected(connected)))) = ServerFrame::parse(&text) else {
                    return Err(format!("expected `connected`, got {}", text.chars().take(120).collect::<String>()));
                };
                let early = bytes.split_off(frame.end);
                return Ok(Opened { stream, early, connected: *connected });
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Opened<S> {
    /// Reads up to `sync.complete`: only then the session has what it missed. Gives how many messages came before it.
    ///
    /// # Errors
    /// Why it did not come, in words.
    pub(super) async fn until_synced(&mut self) -> Result<u64, String> {
        let mut bytes = std::mem::take(&mut self.early);
        let mut messages = 0;
        loop {
            let mut taken = 0;
            while let Some(frame) = wire::first_frame(&bytes[taken..]).map_err(|error| error.to_string())? {
                let payload = &bytes[taken + frame.start..taken + frame.end];
                if payload.starts_with(br#"{"type":"sync.complete""#) {
                    return Ok(messages);
                }
                messages += u64::from(payload.starts_with(br#"{"type":"message.new""#));
                taken += frame.end;
            }
            bytes.drain(..taken);
            bytes.reserve(READ_BYTES);
            read_some(&mut self.stream, &mut bytes).await?;
        }
    }
}

async fn read_more(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> Result<(), String> {
    if bytes.len() >= MOST_BYTES {
        return Err(format!("more than {MOST_BYTES} bytes before `connected`"));
    }
    read_some(stream, bytes).await
}

async fn read_some(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> Result<(), String> {
    match stream.read_buf(bytes).await {
        Ok(0) => Err("the server ended the connection".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
