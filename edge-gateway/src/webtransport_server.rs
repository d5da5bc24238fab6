//! The UDP listener: WebTransport sessions at `/wt`.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use tokio::task::JoinSet;
use wtransport::endpoint::{IncomingSessionFuture, SessionRequest};
use wtransport::quinn;
use wtransport::quinn::crypto::rustls::QuicServerConfig;

use crate::access::{OriginVerdict, host_is_served, judge_origin};
use crate::connections::Place;
use crate::metrics::TransportLabel;
use crate::session_task::{self, Presented};
use crate::state::GatewayState;
use crate::transport::webtransport::WebTransportFrames;
use hearth_protocol::ErrorCode;
use hearth_protocol::client::CloseCode;

/// What WebTransport presents.
#[derive(Debug)]
pub struct WebTransportCertificate {
    /// The certificate chain, the listener's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key.
    pub key: PrivateKeyDer<'static>,
    /// Whether browsers know it by its hash alone (ECDSA P-256, valid for at most 14 days): `/transport.json` shows it.
    pub by_hash: bool,
}

impl Clone for WebTransportCertificate {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key(), by_hash: self.by_hash }
    }
}

/// Why a certificate cannot be presented.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The chain or the key cannot be used.
    #[error("the WebTransport certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// The provider has no cipher suite that QUIC needs.
    #[error("no QUIC cipher suite")]
    NoCipherSuite,
}

/// The hash that `/transport.json` shows now.
#[derive(Debug, Default)]
pub(crate) struct CertificateHash(ArcSwapOption<String>);

/// A row of `/transport.json`.
#[derive(Debug, Serialize)]
pub(crate) struct CertificateHashEntry {
    algorithm: &'static str,
    value: String,
}

impl CertificateHash {
    fn set(&self, certificate: &WebTransportCertificate) {
        let hash = certificate
            .chain
            .first()
            .filter(|_| certificate.by_hash)
            .map(|leaf| Arc::new(STANDARD.encode(digest::digest(&digest::SHA256, leaf))));
        self.0.store(hash);
    }

    pub(crate) fn entries(&self) -> Vec<CertificateHashEntry> {
        let hash = self.0.load_full();
        hash.iter().map(|value| CertificateHashEntry { algorithm: "sha-256", value: value.to_string() }).collect()
    }
}

/// Streams that a client may have open: HTTP/3 needs four, the frames one.
const STREAMS: u32 = 8;
/// Bytes in flight to the server, of one stream and of a connection.
const WINDOW: u32 = 256 * 1024;
/// Bytes in flight to a client.
const SEND_WINDOW: u64 = 1024 * 1024;
/// Without a packet for this long, a connection is gone.
const IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Connections above which an address must prove itself before anything is kept for it.
const UNPROVEN: usize = 256;

fn server_config(certificate: &WebTransportCertificate) -> Result<quinn::ServerConfig, CertificateError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(certificate.chain.clone(), certificate.key.clone_key())?;
    tls.alpn_protocols = vec![wtransport::tls::WEBTRANSPORT_ALPN.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).map_err(|_| CertificateError::NoCipherSuite)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS.into())
        .max_concurrent_uni_streams(STREAMS.into())
        .stream_receive_window(WINDOW.into())
        .receive_window((WINDOW * 2).into())
        .send_window(SEND_WINDOW)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(quinn::IdleTimeout::try_from(IDLE).expect("a minute fits")));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// A bound endpoint.
#[derive(Clone, Debug)]
pub(crate) struct WebTransportEndpoint {
    endpoint: quinn::Endpoint,
}

impl WebTransportEndpoint {
    pub(crate) fn bind(socket: UdpSocket, certificate: &WebTransportCertificate) -> Result<Self, crate::StartError> {
        let config = server_config(certificate)?;
        socket.set_nonblocking(true)?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new(quinn::EndpointConfig::default(), Some(config), socket, runtime)?;
        Ok(Self { endpoint })
    }

    /// New connections see the new certificate; open ones stay.
    pub(crate) fn replace(
        &self,
        hash: &CertificateHash,
        certificate: &WebTransportCertificate,
    ) -> Result<(), CertificateError> {
        self.endpoint.set_server_config(Some(server_config(certificate)?));
        hash.set(certificate);
        Ok(())
    }

    /// Accepts until the gateway stops.
    pub(crate) async fn serve(self, gateway: Arc<GatewayState>) {
        let mut tasks = JoinSet::new();
        let stopping = gateway.stopping();
        tokio::pin!(stopping);
        loop {
            let incoming = tokio::select! {
                incoming = self.endpoint.accept() => incoming,
                Some(_ended) = tasks.join_next(), if !tasks.is_empty() => continue,
                () = &mut stopping => break,
            };
            let Some(incoming) = incoming else { break };
            if !incoming.remote_address_validated() && tasks.len() >= UNPROVEN {
                // An address that proved itself already is never asked twice.
                let _ = incoming.retry();
                continue;
            }
            match gateway.connections.place(Some(incoming.remote_address().ip().to_canonical())) {
                Ok(place) => {
                    tasks.spawn(connection(Arc::clone(&gateway), incoming, place));
                }
                Err(full) => {
                    tracing::debug!(?full, "a connection over a limit was refused");
                    gateway.metrics.refused(ErrorCode::Overloaded);
                    incoming.refuse();
                }
            }
        }
        let ended = async { while tasks.join_next().await.is_some() {} };
        // Sessions were told to leave; what does not is cut off.
        let _ = tokio::time::timeout(Duration::from_secs(3), ended).await;
        self.endpoint.close(0u32.into(), b"");
    }
}

async fn connection(gateway: Arc<GatewayState>, incoming: quinn::Incoming, place: Place) {
    let timeout = gateway.options.times.header_timeout;
    let request = match tokio::time::timeout(timeout, IncomingSessionFuture::with_quic_incoming(incoming)).await {
        Ok(Ok(request)) => request,
        Ok(Err(error)) => return tracing::debug!(%error, "WebTransport handshake failed"),
        Err(_) => return tracing::debug!("WebTransport handshake took too long"),
    };
    let Some(request) = admit(&gateway, request).await else { return };
    let connection = match request.accept().await {
        Ok(connection) => connection,
        Err(error) => return tracing::debug!(%error, "WebTransport session was not accepted"),
    };
    let since = Some(gateway.clock.now());
    let first = tokio::time::timeout(gateway.options.times.auth_timeout, connection.accept_bi()).await;
    let (sender, receiver) = match first {
        Ok(Ok(streams)) => streams,
        Ok(Err(error)) => return tracing::debug!(%error, "WebTransport session ended before its first stream"),
        Err(_) => {
            let code = CloseCode::Unauthorized;
            gateway.metrics.closed(code);
            return connection.close(wtransport::VarInt::from_u32(code.number().into()), code.reason().as_bytes());
        }
    };
    let frames = WebTransportFrames::new(connection, sender, receiver, gateway.options.limits.frame.frame_bytes);
    let presented = Presented { since, ..Presented::default() };
    session_task::run(gateway, frames, presented, TransportLabel::WebTransport).await;
    drop(place);
}

/// Lets a request in, or answers it: another path, a foreign name or origin, a node that leaves.
async fn admit(gateway: &GatewayState, request: SessionRequest) -> Option<SessionRequest> {
    let access = &gateway.options.access;
    let host = Some(request.authority());
    let foreign = judge_origin(access, request.origin(), host) == OriginVerdict::Foreign;
    if request.path().split('?').next() != Some("/wt") {
        request.not_found().await;
    } else if foreign || !host_is_served(access, host) {
        request.forbidden().await;
    } else if gateway.check_serving().is_err() {
        request.too_many_requests().await;
    } else {
        return Some(request);
    }
    None
}
