//! The TCP listener: bounded connections, optional TLS, HTTP/1.1 and HTTP/2 with upgrades, an end that waits.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse as _;
use hearth_protocol::{ErrorCode, Refusal};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::access::Peer;
use crate::connections::{Full, Place};
use crate::error::ApiError;
use crate::http::Secure;
use crate::socket::{ReadAhead, TlsStream};
use crate::state::GatewayState;

/// The TLS settings of the listener; replaced while it runs.
pub type SharedTls = Arc<ArcSwap<rustls::ServerConfig>>;

/// Waits after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections without a place that are told so at a time; a further one is closed without a word.
const REFUSED_AT_ONCE: usize = 64;
/// How long one of them may take to hear it.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);
/// How long open requests may take at the end.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// Accepts until the gateway stops, then waits a bounded time for open requests.
pub(crate) async fn serve(gateway: Arc<GatewayState>, listener: TcpListener, tls: Option<SharedTls>, router: Router) {
    let mut tasks = JoinSet::new();
    let refusing = Arc::new(Semaphore::new(REFUSED_AT_ONCE));
    let stopping = gateway.stopping();
    tokio::pin!(stopping);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = tasks.join_next(), if !tasks.is_empty() => continue,
            () = &mut stopping => break,
        };
        match accepted {
            Ok((stream, address)) => match place(&gateway, address) {
                Ok(place) => {
                    let connection = Connection {
                        gateway: Arc::clone(&gateway),
                        router: router.clone(),
                        address,
                        place: Arc::new(place),
                    };
                    tasks.spawn(connection.serve(stream, tls.clone()));
                }
                Err(full) => {
                    tracing::debug!(?full, "a connection over a limit is refused");
                    gateway.metrics.refused(ErrorCode::Overloaded);
                    if let Ok(permit) = Arc::clone(&refusing).try_acquire_owned() {
                        let tls = tls.clone();
                        tasks.spawn(async move {
                            // Who is slower than this is closed like those that are too many.
                            let _ = tokio::time::timeout(REFUSED_WITHIN, refuse(stream, tls, full.into())).await;
                            drop(permit);
                        });
                    }
                }
            },
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let ended = async { while tasks.join_next().await.is_some() {} };
    // What is still open after the time is dropped with the set.
    let _ = tokio::time::timeout(END_TIMEOUT, ended).await;
}

fn place(gateway: &GatewayState, address: SocketAddr) -> Result<Place, Full> {
    let trusted = gateway.options.access.trusted_forwarders.iter().any(|range| range.contains(address.ip()));
    gateway.connections.place((!trusted).then(|| address.ip().to_canonical()))
}

/// Answers the first request of a connection that has no place, and closes it: a client that hears nothing takes it for
/// a broken network, and tries again at once.
async fn refuse(stream: TcpStream, tls: Option<SharedTls>, refusal: Refusal) {
    let Some(tls) = tls else { return refuse_http(stream, refusal).await };
    match TlsStream::accept(tls.load_full(), stream).await {
        Ok(stream) => refuse_http(stream, refusal).await,
        Err(error) => tracing::debug!(%error, "TLS handshake failed"),
    }
}

async fn refuse_http<S>(stream: S, refusal: Refusal)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |_request: Request<Incoming>| {
        let response = ApiError(refusal.clone()).into_response();
        async { Ok::<_, Infallible>(response) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().keep_alive(false);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection over a limit ended before it was told");
    }
}

struct Connection {
    gateway: Arc<GatewayState>,
    router: Router,
    address: SocketAddr,
    place: Arc<Place>,
}

impl Connection {
    async fn serve(self, stream: TcpStream, tls: Option<SharedTls>) {
        // Frames are small and written whole: waiting to fill a segment only adds latency.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was refused");
        }
        let Some(tls) = tls else { return self.serve_http(ReadAhead::new(stream), false).await };
        let accepting = TlsStream::accept(tls.load_full(), stream);
        let handshake = tokio::time::timeout(self.gateway.options.times.header_timeout, accepting);
        match handshake.await {
            Ok(Ok(stream)) => self.serve_http(stream, true).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        }
    }

    async fn serve_http<S>(self, stream: S, secure: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { gateway, router, address, place } = self;
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(Peer { address });
            request.extensions_mut().insert(Arc::clone(&place));
            if secure {
                request.extensions_mut().insert(Secure);
            }
            router.clone().oneshot(request)
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(gateway.options.times.header_timeout);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(128).keep_alive_interval(HTTP2_KEEP_ALIVE);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = gateway.stopping() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "HTTP connection ended");
        }
    }
}

/// An HTTP/2 connection that answers no ping is closed.
const HTTP2_KEEP_ALIVE: Option<Duration> = Some(Duration::from_secs(30));
