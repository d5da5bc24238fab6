//! The two transports behind one [`Connection`]: nothing outside this folder names either of them.

mod websocket;
mod webtransport;

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::rest::Rest;

/// How long opening a connection may take: name look-up, TCP or QUIC, TLS and upgrade together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one write may take before the connection counts as lost.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one frame that a client takes from a server: a page of 200 rows of the longest texts fits.
pub const MAX_RECEIVED_BYTES: usize = 16 * 1024 * 1024;

/// Which transport carries the frames. Both carry the same frames and share resume tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransportKind {
    /// `ws://` or `wss://`.
    #[default]
    WebSocket,
    /// HTTP/3 over QUIC.
    WebTransport,
}

/// Why a connection could not be opened, or ended.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The URL cannot be used.
    #[error("the URL {url} cannot be used: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The other side could not be reached, or the handshake failed.
    #[error("could not connect to {url}: {source}")]
    Connect {
        /// Where to.
        url: String,
        /// What the transport said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Opening or writing took too long.
    #[error("{what} took longer than {} s", limit.as_secs())]
    Timeout {
        /// What was tried.
        what: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// It was open and ended.
    #[error("the connection ended: {0}")]
    Lost(Box<dyn std::error::Error + Send + Sync>),
    /// The other side sent what is not a frame of the contract.
    #[error("the server sent what is no text frame: {0}")]
    Malformed(&'static str),
}

impl TransportError {
    fn lost(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Lost(Box::new(error))
    }

    fn connect(url: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Connect { url: url.to_owned(), source: error.into() }
    }
}

/// What came in.
#[derive(Debug)]
pub enum Received {
    /// One frame.
    Text(String),
    /// The other side closed, with the close code when the transport showed one.
    Closed(Option<u16>),
}

/// Where one region is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `http://host:port`, without a path.
    pub http: String,
    /// `ws://host:port/ws`.
    pub ws: String,
    /// `https://host:port/wt`, when the region serves it.
    pub webtransport: Option<String>,
}

/// An open connection. Frames go out in the order given and come in in the order sent.
#[derive(Debug)]
pub struct Connection {
    kind: Inner,
}

#[derive(Debug)]
enum Inner {
    WebSocket(Box<websocket::WebSocket>),
    WebTransport(Box<webtransport::WebTransport>),
}

/// TLS as used where the caller gives none: the platform's trust, by aws-lc-rs.
///
/// # Errors
/// When the platform's trust store cannot be used.
pub fn platform_tls() -> Result<Arc<ClientConfig>, rustls::Error> {
    use rustls_platform_verifier::BuilderVerifierExt;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Connection {
    /// Opens a connection to `address` within [`CONNECT_TIMEOUT`]. It carries no credentials yet: `auth` is the first frame.
    ///
    /// # Errors
    /// [`TransportError::Url`], [`TransportError::Connect`] or [`TransportError::Timeout`].
    pub async fn open(
        address: &Address,
        kind: TransportKind,
        tls: Option<Arc<ClientConfig>>,
        rest: &Rest,
    ) -> Result<Self, TransportError> {
        let opening = async {
            Ok(match kind {
                TransportKind::WebSocket => {
                    Inner::WebSocket(Box::new(websocket::WebSocket::open(&address.ws, tls).await?))
                }
                TransportKind::WebTransport => {
                    let hashes = rest
                        .webtransport_hashes(&address.http)
                        .await
                        .map_err(|error| TransportError::connect(&format!("{}/transport.json", address.http), error))?;
                    let url = address.webtransport.as_deref().ok_or(TransportError::Url {
                        url: address.http.clone(),
                        reason: "this region names no WebTransport URL",
                    })?;
                    Inner::WebTransport(Box::new(webtransport::WebTransport::open(url, &hashes, tls.as_deref()).await?))
                }
            })
        };
        let timeout = TransportError::Timeout { what: "connecting", limit: CONNECT_TIMEOUT };
        let kind = tokio::time::timeout(CONNECT_TIMEOUT, opening).await.map_err(|_| timeout)??;
        Ok(Self { kind })
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// [`TransportError::Lost`] or, after [`WRITE_TIMEOUT`], [`TransportError::Timeout`]; the connection is unusable then.
    pub async fn send(&mut self, frame: String) -> Result<(), TransportError> {
        self.send_many(vec![frame]).await
    }

    /// Sends frames in order, together where the transport can.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub async fn send_many(&mut self, frames: Vec<String>) -> Result<(), TransportError> {
        let sending = async {
            match &mut self.kind {
                Inner::WebSocket(socket) => socket.send_many(frames).await,
                Inner::WebTransport(stream) => stream.send_many(frames).await,
            }
        };
        let timeout = TransportError::Timeout { what: "writing", limit: WRITE_TIMEOUT };
        tokio::time::timeout(WRITE_TIMEOUT, sending).await.map_err(|_| timeout)?
    }

    /// The next frame. Cancel-safe: a frame is never lost by dropping the future.
    ///
    /// # Errors
    /// [`TransportError::Lost`] or [`TransportError::Malformed`]; the connection is unusable then.
    pub async fn receive(&mut self) -> Result<Received, TransportError> {
        match &mut self.kind {
            Inner::WebSocket(socket) => socket.receive().await,
            Inner::WebTransport(stream) => stream.receive().await,
        }
    }

    /// Says goodbye and lets go. Best effort, at most one second.
    pub async fn close(mut self) {
        let closing = async {
            match &mut self.kind {
                Inner::WebSocket(socket) => socket.close().await,
                Inner::WebTransport(stream) => stream.close().await,
            }
        };
        // Nothing is owed to the other side: it sees the end of the connection either way.
        let _ = tokio::time::timeout(Duration::from_secs(1), closing).await;
    }
}
