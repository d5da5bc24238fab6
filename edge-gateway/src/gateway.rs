//! Starting, draining and ending a gateway.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::accept::{self, SharedTls};
use crate::admission::Admission;
use crate::auth::TokenVerifier;
use crate::clock::{Clock, millis};
use crate::connections::Connections;
use crate::core_port::Core;
use crate::http::router;
use crate::metrics::GatewayMetrics;
use crate::options::GatewayOptions;
use crate::rate::RateLimiter;
use crate::resume_token::ResumeKeys;
use crate::session::SessionShared;
use crate::state::{DrainOrder, GatewayState, Phase};
use crate::webtransport_server::{CertificateError, CertificateHash, WebTransportCertificate, WebTransportEndpoint};

/// Where clients reach a gateway. All are bound by the composition.
#[derive(Debug)]
pub struct Listeners {
    /// HTTP: REST, WebSocket, health, metrics.
    pub http: TcpListener,
    /// TLS of `http`; none: plain. The composition may store another configuration at any time; ALPN `h2` and
    /// `http/1.1` belong in it.
    pub tls: Option<SharedTls>,
    /// WebTransport, with what it presents.
    pub webtransport: Option<(UdpSocket, WebTransportCertificate)>,
}

/// What a gateway is made of.
pub struct GatewayParts {
    /// Limits, times, access.
    pub options: GatewayOptions,
    /// The region behind it.
    pub core: Arc<dyn Core>,
    /// Where it listens.
    pub listeners: Listeners,
    /// Who checks tokens.
    pub verifier: Arc<dyn TokenVerifier>,
    /// Keys of resume tokens.
    pub resume_keys: Arc<ResumeKeys>,
    /// Further routes at the same port (development), under the same checks of host and origin.
    pub extra_routes: Option<Router>,
    /// Where the metrics are shown; `/metrics` writes all of it.
    pub registry: Arc<Mutex<Registry>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for GatewayParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayParts").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket cannot be used.
    #[error("a client listener cannot be used: {0}")]
    Socket(#[from] std::io::Error),
    /// The certificate of WebTransport cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Starts gateways.
#[derive(Clone, Copy, Debug)]
pub struct Gateway;

impl Gateway {
    /// Begins to accept clients. Needs a tokio runtime with timers and I/O.
    ///
    /// # Errors
    /// [`StartError`] when a listener or the WebTransport certificate cannot be used.
    pub fn start(parts: GatewayParts) -> Result<GatewayHandle, StartError> {
        let GatewayParts { options, core, listeners, verifier, resume_keys, extra_routes, registry, clock } = parts;
        let metrics = GatewayMetrics::register(&mut registry.lock());
        let sessions = Arc::new(SessionShared {
            limits: options.limits.clone(),
            times: options.times.clone(),
            verifier,
            resume_keys,
            rates: RateLimiter::new(options.limits.messages_per_minute),
            region: core.region().clone(),
            node: core.node().to_string(),
        });
        let Listeners { http, tls, webtransport } = listeners;
        let hash = CertificateHash::default();
        let udp_port = webtransport.as_ref().map(|(socket, _)| socket.local_addr()).transpose()?;
        let endpoint = match webtransport {
            Some((socket, certificate)) => {
                let endpoint = WebTransportEndpoint::bind(socket, &certificate)?;
                endpoint.replace(&hash, &certificate)?;
                Some(endpoint)
            }
            None => None,
        };
        let limits = &options.limits;
        let connections =
            Connections::new(limits.connections, limits.connections_per_address, limits.connects_per_minute);
        let admission = Admission::new(limits.logins_at_once, limits.resumes_at_once);
        let state = Arc::new(GatewayState {
            core,
            options,
            sessions,
            clock,
            metrics,
            registry,
            connections,
            admission,
            phase: watch::Sender::new(Phase::Serving),
            live: watch::Sender::new(0),
            certificate_hash: hash,
            webtransport_port: udp_port.map(|address| address.port()),
            numbers: AtomicU64::new(1),
        });
        let router = router(Arc::clone(&state), extra_routes);
        let mut tasks = vec![tokio::spawn(accept::serve(Arc::clone(&state), http, tls, router))];
        if let Some(endpoint) = &endpoint {
            tasks.push(tokio::spawn(endpoint.clone().serve(Arc::clone(&state))));
        }
        Ok(GatewayHandle { state, endpoint, tasks: Mutex::new(tasks) })
    }
}

/// A running gateway. It runs on when this is dropped; [`GatewayHandle::shutdown`] ends it.
#[derive(Debug)]
pub struct GatewayHandle {
    state: Arc<GatewayState>,
    endpoint: Option<WebTransportEndpoint>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// Past a drain's deadline, how long sessions have to write their close.
const DRAIN_GRACE: Duration = Duration::from_secs(3);
/// How long the end may take.
const END_TIMEOUT: Duration = Duration::from_secs(5);

impl GatewayHandle {
    /// How many sessions live here.
    #[must_use]
    pub fn sessions(&self) -> usize {
        *self.state.live.borrow()
    }

    /// Tells every session to leave within `deadline`, each in its own slot, and waits until they have. New sessions
    /// are refused `DRAINING` from now on, and `/readyz` says so; REST goes on. A second drain changes nothing.
    /// Returns how many sessions had not left.
    pub async fn drain(&self, deadline: Duration) -> usize {
        let order = DrainOrder { began: self.state.clock.now(), milliseconds: millis(deadline) };
        self.state.phase.send_if_modified(|phase| {
            let serving = *phase == Phase::Serving;
            if serving {
                *phase = Phase::Draining(order);
            }
            serving
        });
        self.wait_for_none(deadline.saturating_add(DRAIN_GRACE)).await;
        self.sessions()
    }

    /// Serves again after a drain. Sessions that were told to leave still leave.
    pub fn resume_serving(&self) {
        self.state.phase.send_if_modified(|phase| {
            let draining = matches!(phase, Phase::Draining(_));
            if draining {
                *phase = Phase::Serving;
            }
            draining
        });
    }

    /// Closes every session (4009) and every listener, and waits at most some seconds for open requests.
    pub async fn shutdown(&self) {
        self.state.phase.send_replace(Phase::Stopping);
        self.wait_for_none(END_TIMEOUT).await;
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for mut task in tasks {
            if tokio::time::timeout(END_TIMEOUT, &mut task).await.is_err() {
                task.abort();
            }
        }
    }

    /// Presents another certificate to new WebTransport connections, and shows its hash in `/transport.json`.
    /// The TLS of HTTP is replaced by storing into [`Listeners::tls`].
    ///
    /// # Errors
    /// [`CertificateError`]; the old one stays then.
    pub fn replace_webtransport_certificate(
        &self,
        certificate: &WebTransportCertificate,
    ) -> Result<(), CertificateError> {
        match &self.endpoint {
            Some(endpoint) => endpoint.replace(&self.state.certificate_hash, certificate),
            None => Ok(()),
        }
    }

    async fn wait_for_none(&self, most: Duration) {
        let mut live = self.state.live.subscribe();
        // Whoever is left after the time is reported or cut off by the caller.
        let _ = tokio::time::timeout(most, live.wait_for(|live| *live == 0)).await;
    }
}
