//! Frames as length and JSON on the first bidirectional stream of a WebTransport session.

use bytes::{Buf, BytesMut};
use wtransport::config::IpBindConfig;
use wtransport::endpoint::endpoint_side::Client;
use wtransport::error::{ConnectingError, ConnectionError};
use wtransport::tls::{Sha256Digest, WEBTRANSPORT_ALPN};
use wtransport::{ClientConfig, Endpoint, VarInt};

use super::{MAX_RECEIVED_BYTES, Received, TransportError};

/// An open session with its one stream. Connection and endpoint are held so that they live as long as the stream.
pub(super) struct WebTransport {
    connection: wtransport::Connection,
    _endpoint: Endpoint<Client>,
    sending: wtransport::SendStream,
    receiving: wtransport::RecvStream,
    buffer: BytesMut,
}

impl std::fmt::Debug for WebTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebTransport").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

/// Loopback needs no other interface, and some machines have no IPv6 to bind.
fn binding(url: &str) -> IpBindConfig {
    let host = url.split("://").nth(1).unwrap_or("");
    if host.starts_with("127.0.0.1") || host.starts_with("localhost") {
        IpBindConfig::LocalV4
    } else {
        IpBindConfig::InAddrAnyDual
    }
}

/// `H3_FRAME_UNEXPECTED` (RFC 9114, section 8.1).
const FRAME_UNEXPECTED: VarInt = VarInt::from_u32(0x105);

/// Connects, at once a second time where the server's wtransport lost its place in our settings. Up to 0.7.2 its reading
/// of control streams is cut off by whatever else happens on the connection, so that settings which come in two packets
/// are read from the middle; and what it does not know, it does not skip
/// (<https://github.com/BiagioFesta/wtransport/issues/327>).
async fn connect(endpoint: &Endpoint<Client>, url: &str) -> Result<wtransport::Connection, ConnectingError> {
    match endpoint.connect(url).await {
        Err(ConnectingError::ConnectionError(ConnectionError::ApplicationClosed(close)))
            if close.code() == FRAME_UNEXPECTED =>
        {
            endpoint.connect(url).await
        }
        connected => connected,
    }
}

impl WebTransport {
    /// With `hashes` only a certificate with one of these SHA-256 values is trusted; without, `tls` decides, or the
    /// platform's trust.
    pub(super) async fn open(
        url: &str,
        hashes: &[[u8; 32]],
        tls: Option<&rustls::ClientConfig>,
    ) -> Result<Self, TransportError> {
        let builder = ClientConfig::builder().with_bind_config(binding(url));
        let builder = match tls {
            Some(tls) if hashes.is_empty() => {
                let mut tls = tls.clone();
                tls.alpn_protocols = vec![WEBTRANSPORT_ALPN.to_vec()];
                builder.with_custom_tls(tls)
            }
            None if hashes.is_empty() => builder.with_native_certs(),
            Some(_) | None => {
                builder.with_server_certificate_hashes(hashes.iter().map(|hash| Sha256Digest::new(*hash)))
            }
        };
        let config = builder
            .max_idle_timeout(Some(std::time::Duration::from_secs(60)))
            .map_err(|_| TransportError::Url { url: url.to_owned(), reason: "the idle timeout is out of range" })?
            .keep_alive_interval(Some(std::time::Duration::from_secs(10)))
            .build();
        let endpoint = Endpoint::client(config).map_err(|error| TransportError::connect(url, error))?;
        let connection = connect(&endpoint, url).await.map_err(|error| TransportError::connect(url, error))?;
        let opening = connection.open_bi().await.map_err(|error| TransportError::connect(url, error))?;
        let (sending, receiving) = opening.await.map_err(|error| TransportError::connect(url, error))?;
        Ok(Self { connection, _endpoint: endpoint, sending, receiving, buffer: BytesMut::new() })
    }

    pub(super) async fn send_many(&mut self, frames: Vec<String>) -> Result<(), TransportError> {
        let mut bytes = Vec::with_capacity(frames.iter().map(|frame| frame.len() + 4).sum());
        for frame in &frames {
            let length = u32::try_from(frame.len()).map_err(|_| TransportError::Malformed("a frame over 4 GiB"))?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(frame.as_bytes());
        }
        self.sending.write_all(&bytes).await.map_err(TransportError::lost)
    }

    pub(super) async fn receive(&mut self) -> Result<Received, TransportError> {
        let mut chunk = vec![0; 16 * 1024];
        loop {
            if let Some(text) = take_frame(&mut self.buffer)? {
                return Ok(Received::Text(text));
            }
            // Only the read waits, and it takes nothing when it is dropped.
            match self.receiving.read(&mut chunk).await.map_err(TransportError::lost)? {
                None => return Ok(Received::Closed(None)),
                Some(length) => self.buffer.extend_from_slice(&chunk[..length]),
            }
        }
    }

    pub(super) async fn close(&mut self) {
        // FIN means leaving; the close tells a server that no longer reads the stream.
        let _ = self.sending.finish().await;
        self.connection.close(VarInt::from_u32(0), b"");
    }
}

/// Takes one whole frame off the front of `buffer`, if it is there.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<String>, TransportError> {
    let Some(header) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*header) as usize;
    if length == 0 || length > MAX_RECEIVED_BYTES {
        return Err(TransportError::Malformed("a frame of no or too many bytes"));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    buffer.advance(4);
    let frame = buffer.split_to(length);
    String::from_utf8(frame.to_vec()).map(Some).map_err(|_| TransportError::Malformed("a frame that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_out_only_when_it_is_whole() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 2, b'{'][..]);
        assert!(take_frame(&mut buffer).expect("no error").is_none());
        buffer.extend_from_slice(b"}\0\0");
        assert_eq!(take_frame(&mut buffer).expect("no error").as_deref(), Some("{}"));
        assert!(take_frame(&mut buffer).expect("no error").is_none());
    }

    #[test]
    fn a_frame_of_length_zero_is_refused() {
        assert!(take_frame(&mut BytesMut::from(&[0, 0, 0, 0][..])).is_err());
    }
}
