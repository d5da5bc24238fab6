//! A WebSocket by hand: any bytes, any headers, and a reader that can be slow.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::mesh::Region;

fn socket_address(region: &Region) -> SocketAddr {
    region.http.trim_start_matches("http://").parse().expect("an address")
}

/// Sends an HTTP request by hand, without asking for an upgrade; the status and the head of the answer.
///
/// # Panics
/// When the region cannot be reached.
pub async fn request(region: &Region, head: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(socket_address(region)).await.expect("a connection");
    stream.write_all(head.as_bytes()).await.expect("written");
    read_head(&mut stream).await
}

async fn read_head(stream: &mut TcpStream) -> (u16, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, head)
}

/// Upgrades to a WebSocket, with further header lines (each ends in CRLF); the status and the connection.
///
/// # Panics
/// When the region cannot be reached.
pub async fn upgrade(region: &Region, host: Option<&str>, headers: &str) -> (u16, TcpStream) {
    let address = socket_address(region);
    let socket = TcpSocket::new_v4().expect("a socket");
    // A small window: a reader that stops reading is noticed after little.
    socket.set_recv_buffer_size(64 * 1_024).expect("a buffer size");
    let mut stream = socket.connect(address).await.expect("a connection");
    let host = host.map_or_else(|| address.to_string(), str::to_owned);
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let (status, _) = read_head(&mut stream).await;
    (status, stream)
}

/// A masked WebSocket frame: opcode 1 is text, 2 binary, 8 close.
///
/// # Panics
/// For payloads over 64 KiB.
#[must_use]
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match u16::try_from(payload.len()) {
        Ok(short) if short < 126 => frame.push(0x80 | u8::try_from(short).expect("under 126")),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => panic!("too long for this helper"),
    }
    // A mask of zeros leaves the payload as it is.
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// Reads server frames until the connection ends; the texts, and the code of the close frame if there was one.
///
/// # Panics
/// When the connection does not end within 30 s.
pub async fn read_to_end(stream: &mut TcpStream) -> (Vec<String>, Option<u16>) {
    let mut stream = tokio::io::BufReader::new(stream);
    let reading = async {
        let (mut texts, mut code) = (Vec::new(), None);
        while let Ok((opcode, payload)) = read_frame(&mut stream).await {
            match opcode {
                1 => texts.push(String::from_utf8_lossy(&payload).into_owned()),
                8 => code = payload.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes)),
                _ => {}
            }
        }
        (texts, code)
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), reading).await.expect("it ends within 30 s")
}

/// Reads the text frames of a connection one by one.
#[derive(Debug)]
pub struct Texts(tokio::io::BufReader<TcpStream>);

impl Texts {
    /// Of an upgraded connection.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self(tokio::io::BufReader::new(stream))
    }

    /// The next one; `None` when none comes within this time, or the connection ended.
    pub async fn next(&mut self, within: std::time::Duration) -> Option<serde_json::Value> {
        let reading = async {
            loop {
                let (opcode, payload) = read_frame(&mut self.0).await.ok()?;
                if opcode == 1 {
                    return serde_json::from_slice(&payload).ok();
                }
            }
        };
        tokio::time::timeout(within, reading).await.ok().flatten()
    }
}

async fn read_frame(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> std::io::Result<(u8, Vec<u8>)> {
    let opcode = stream.read_u8().await? & 0x0f;
    let length = match stream.read_u8().await? & 0x7f {
        126 => usize::from(stream.read_u16().await?),
        127 => usize::try_from(stream.read_u64().await?).unwrap_or(usize::MAX),
        short => usize::from(short),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok((opcode, payload))
}
