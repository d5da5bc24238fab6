//! One region from its configuration: store, links, core and gateway, started and stopped as one.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::Router;
use edge_gateway::{
    Access, AddressRange, Gateway, GatewayHandle, GatewayLimits, GatewayOptions, GatewayParts, GatewayTimes, Listeners,
    SharedTls, SystemClock, WebTransportCertificate,
};
use futures_util::future::BoxFuture;
use hearth_config::{
    FailoverSection, ListenSection, Pem, RegionConfig, TlsFiles, WebTransportCertificate as CertificateKind,
};
use hearth_protocol::client::{Endpoint, FrameLimits};
use hearth_protocol::{NodeId, RegionId, RegionMap};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use region_core::{MediaOptions, PushOptions, RegionHandle, RegionOptions};
use region_map::{LeaseView, MapNode};
use region_model::ParkingBounds;
use region_model::ports::{StoreError, Stores};
use region_model::presence::PresenceBounds;
use region_model::region_map::FailoverRules;
use region_model::view::Bounds;
use region_store::embedded::OpenError;
use replication::{LinkConfig, LinkError, LinkFaults, LinkMetrics, LinkTls, LinksHandle, PeerConfig};
use tokio::net::{TcpListener, TcpSocket};
use tracing::Instrument;

use crate::admin::{self, AdminNode};
use crate::backup::Source;
use crate::keys;
use crate::links::{QuicLinks, pump};
use crate::map::{MapLinks, MapOwnership};
use crate::media::MediaParts;
use crate::metadata::Metadata;
use crate::push::PushParts;
use crate::store::{RegionStore, watch_outages};

/// Longest wait for a port whose last user is about to let go of it: QUIC drains a closed connection for a moment.
const PORT_PATIENCE: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Connections that may wait to be accepted, as far as the kernel allows (`net.core.somaxconn`, 4,096 by default). Who finds
/// no room is heard when its kernel tries again: after 1 s, 3 s, 7 s, 15 s. When a node is lost, all its clients come at once.
const BACKLOG: u32 = 65_535;

/// Why a region does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The servers that the store is in do not answer, or do not hold the region's store.
    #[error("{0}")]
    Servers(String),
    /// The store does not read.
    #[error(transparent)]
    Read(#[from] StoreError),
    /// The links cannot be made.
    #[error("the links to other regions: {0}")]
    Links(#[from] LinkError),
    /// The client listeners cannot be used.
    #[error(transparent)]
    Gateway(#[from] edge_gateway::StartError),
    /// An address is taken.
    #[error("{address} is in use")]
    InUse {
        /// Which.
        address: SocketAddr,
    },
    /// The region's part in the region map.
    #[error(transparent)]
    Map(#[from] region_map::StartError),
    /// A socket cannot be made.
    #[error("{address}: {error}")]
    Socket {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// A key, a certificate or a name cannot be used.
    #[error("{0}")]
    Config(String),
}

impl StartError {
    /// What a failed bind means.
    pub(crate) fn bind(address: SocketAddr, error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::AddrInUse {
            Self::InUse { address }
        } else {
            Self::Socket { address, error }
        }
    }
}

/// What the composition adds to a configuration.
#[derive(Debug, Default)]
pub struct RegionParts {
    /// The HTTP listener, bound already; else bound from the configuration.
    pub http: Option<TcpListener>,
    /// The WebTransport socket, bound already.
    pub webtransport: Option<UdpSocket>,
    /// The link socket, bound already.
    pub link: Option<UdpSocket>,
    /// The administration port, bound already.
    pub administration: Option<TcpListener>,
    /// Faults under the links.
    pub faults: LinkFaults,
    /// Further routes (development).
    pub extra_routes: Option<Router>,
    /// Hosts that are served (development); none: all.
    pub allowed_hosts: Option<Vec<String>>,
    /// Whether a foreign origin is refused everywhere (development).
    pub refuse_foreign_origins: bool,
}

/// A running region.
#[derive(Debug)]
pub struct RunningRegion {
    /// The region's core.
    pub handle: RegionHandle,
    /// The clients' side.
    pub gateway: Arc<GatewayHandle>,
    /// The other regions' side.
    pub links: LinksHandle,
    /// The region map.
    pub map: MapNode,
    /// This region's right to sequence, by the map.
    pub lease: LeaseView,
    store: RegionStore,
    tasks: tokio_util::task::TaskTracker,
    stop: tokio_util::sync::CancellationToken,
    /// Where clients come.
    pub http: SocketAddr,
    /// Where WebTransport comes.
    pub webtransport: Option<SocketAddr>,
    /// Where administrators come.
    pub administration: SocketAddr,
}

impl RunningRegion {
    /// Starts a region. Boxed, so that it is compiled once, here, and not by each crate that waits for it.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start(config: &RegionConfig, parts: RegionParts) -> BoxFuture<'_, Result<Self, StartError>> {
        Box::pin(Self::begin(config, parts))
    }

    async fn begin(config: &RegionConfig, parts: RegionParts) -> Result<Self, StartError> {
        let region = region_id(&config.region.id)?;
        let metadata = Metadata::new(config, &region)?;
        let store = RegionStore::open(config, &region).await?;
        let registry = Arc::new(Mutex::new(Registry::default()));
        let metrics = LinkMetrics::default();
        metrics.register(&mut registry.lock());
        let link_socket = match parts.link {
            Some(socket) => socket,
            None => bind_udp_patiently(config.mesh.listen).await?,
        };
        let stores = store.stores();
        let link_config = link_config(config, &stores.identity)?;
        let (links, events) =
            replication::Links::start(link_config, link_socket, parts.faults.clone(), metrics).await?;
        let push = PushParts::new(config, Arc::clone(&stores.map)).await?;
        let media = MediaParts::new(config, &*stores.map).await?;
        let options = region_options(config, &region, push.options.clone(), media.options.clone())?;
        let map_links = MapLinks::new(links.clone());
        let (map, lease) = start_map(&options, &stores, Arc::clone(&map_links), &config.failover).await?;
        crate::map::register(&region, &map, &lease, &mut registry.lock());
        let ownership = Arc::new(MapOwnership { node: map.clone(), lease: lease.clone() });
        let (kept, configured) = (stores.clone(), options.map.clone());
        let handle = RegionHandle::start(options, stores, Arc::new(QuicLinks(links.clone())), ownership).await?;
        handle.register_metrics(&mut registry.lock());
        let tasks = tokio_util::task::TaskTracker::new();
        let stop = tokio_util::sync::CancellationToken::new();
        let span = tracing::debug_span!("link", region = %region);
        tasks.spawn(
            stop.clone()
                .run_until_cancelled_owned(pump(events, handle.clone(), map_links, map.clone()).instrument(span)),
        );
        tasks.spawn(push.dispatcher(&handle, &mut registry.lock()).run(stop.clone()));
        tasks.spawn(stop.clone().run_until_cancelled_owned(watch_store(store.broken(), handle.clone(), links.clone())));
        metadata.follow(&tasks, &stop, &kept, &registry);
        if let Some(away) = store.away() {
            tasks.spawn(stop.clone().run_until_cancelled_owned(watch_outages(away, handle.clone(), map.clone())));
        }
        let http = match parts.http {
            Some(listener) => listener,
            None => bind_tcp(config.listen.http)?,
        };
        let http_address = http.local_addr().map_err(|error| StartError::bind(config.listen.http, error))?;
        let listeners = listeners(config, http, parts.webtransport).await?;
        let webtransport = listeners.webtransport.as_ref().and_then(|(socket, _)| socket.local_addr().ok());
        let tls = listeners.tls.clone();
        let verifier = keys::verifier(&config.auth)?;
        let gateway = Arc::new(Gateway::start(GatewayParts {
            options: gateway_options(config, parts.allowed_hosts, parts.refuse_foreign_origins),
            core: Arc::new(handle.clone()),
            listeners,
            verifier: verifier.clone(),
            resume_keys: Arc::new(keys::resume_keys(&config.auth, config.limits.resume_for)?),
            extra_routes: media.routes(parts.extra_routes),
            registry,
            clock: Arc::new(SystemClock::default()),
        })?);
        let renewal = crate::reload::run(config.listen.clone(), gateway.clone(), tls, verifier);
        tasks.spawn(stop.clone().run_until_cancelled_owned(renewal));
        let (http, administration) = (http_address, config.administration.listen);
        let mut running =
            Self { handle, gateway, links, map, lease, store, tasks, stop, http, webtransport, administration };
        match running.administer(config, parts.administration, kept, configured).await {
            Ok(()) => Ok(running),
            Err(error) => {
                running.stop().await;
                Err(error)
            }
        }
    }

    /// Opens the administration port.
    async fn administer(
        &mut self,
        config: &RegionConfig,
        bound: Option<TcpListener>,
        stores: Stores,
        configured: RegionMap,
    ) -> Result<(), StartError> {
        let address = config.administration.listen;
        let listener = match bound {
            Some(listener) => listener,
            None => bind_tcp(address)?,
        };
        self.administration = listener.local_addr().map_err(|error| StartError::bind(address, error))?;
        let node = AdminNode {
            region: self.handle.region().clone(),
            stores,
            map: self.map.clone(),
            lease: self.lease.clone(),
            links: self.links.clone(),
            handle: self.handle.clone(),
            gateway: Arc::clone(&self.gateway),
            mover: Arc::new(self.handle.clone()),
            audit: admin::audit_in(&config.region.data),
            configured,
            under_way: Mutex::default(),
            backup: Source::of(config, self.store.embedded()),
            stop: self.stop.clone(),
        };
        let served = admin::serve(listener, node, &config.mesh, &config.region.data)?;
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(served));
        self.tasks.close();
        Ok(())
    }

    /// Resolves with the reason once the store failed; the links are closed by then.
    pub async fn failed(&self) -> String {
        self.handle.failed().await
    }

    /// Whether the region holds its lease.
    #[must_use]
    pub fn may_sequence(&self) -> bool {
        self.lease.right().leased
    }

    /// Resolves once the region holds its lease.
    pub async fn until_it_may_sequence(&self) {
        while !self.may_sequence() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lets the sessions leave within `within`. Returns how many had not left.
    pub async fn drain(&self, within: Duration) -> usize {
        self.handle.set_draining(true);
        self.gateway.drain(within).await
    }

    /// Serves again after a drain.
    pub fn undrain(&self) {
        self.handle.set_draining(false);
        self.gateway.resume_serving();
    }

    /// Ends everything: clients, links, store, in this order. What was acked is on disk.
    pub async fn stop(self) {
        self.gateway.shutdown().await;
        if self.handle.store_away().is_some() {
            // What waits for the store ends undone, and that is no failure.
            self.handle.stop();
        }
        self.store.end();
        self.links.shutdown().await;
        self.map.stop().await;
        self.handle.stop();
        self.stop.cancel();
        self.tasks.wait().await;
        self.store.close().await;
    }
}

/// The region map on the region's own store; its first version is the configured one.
async fn start_map(
    options: &RegionOptions,
    stores: &Stores,
    links: Arc<MapLinks>,
    failover: &FailoverSection,
) -> Result<(MapNode, LeaseView), region_map::StartError> {
    let options = region_map::MapOptions {
        region: options.region.clone(),
        store: stores.identity.store,
        regions: options.map.regions.clone(),
        times: region_map::MapTimes::default(),
        failover: FailoverRules { automatic: failover.automatic, after: failover.after },
    };
    let node = MapNode::start(options, Arc::clone(&stores.map), links, region_map::boot_clock()).await?;
    let lease = region_map::LeaseKeeper::start(&node).await?;
    Ok((node, lease))
}

async fn watch_store(
    mut broken: tokio::sync::watch::Receiver<Option<Arc<str>>>,
    handle: RegionHandle,
    links: LinksHandle,
) {
    let store = async {
        let reason = match broken.wait_for(Option::is_some).await {
            Ok(reason) => reason.as_deref().unwrap_or("unknown").to_owned(),
            Err(_) => return,
        };
        handle.fail(&reason);
    };
    tokio::select! {
        () = store => {}
        _ = handle.failed() => {}
    }
    links.shutdown().await;
}

pub(crate) fn region_id(text: &str) -> Result<RegionId, StartError> {
    RegionId::new(text).map_err(|error| StartError::Config(format!("region {text:?}: {error}")))
}

fn link_config(
    config: &RegionConfig,
    identity: &hearth_protocol::record::StoreIdentity,
) -> Result<LinkConfig, StartError> {
    let read = |pem: &Pem| pem.read().map_err(|error| StartError::Config(error.to_string()));
    let mut peers = Vec::new();
    for peer in config.mesh.regions.iter().filter(|peer| peer.id != config.region.id) {
        let address = peer.resolve().map_err(|error| StartError::Config(format!("region {}: {error}", peer.id)))?;
        peers.push(PeerConfig { region: peer.id.clone(), address });
    }
    Ok(LinkConfig {
        mesh_id: config.mesh.id.clone(),
        region: config.region.id.clone(),
        node: config.region.node.clone(),
        store_id: *identity.store.as_bytes(),
        incarnation: identity.incarnation,
        map_digest: config.map_digest(),
        versions: replication::VersionRange::default(),
        peers,
        tls: LinkTls {
            ca_pem: read(&config.mesh.ca)?,
            cert_pem: read(&config.mesh.certificate)?,
            key_pem: read(&config.mesh.key)?,
        },
        times: replication::LinkTimes::default(),
        limits: replication::LinkLimits::default(),
        seed: rand::random(),
    })
}

fn region_options(
    config: &RegionConfig,
    region: &RegionId,
    push: PushOptions,
    media: MediaOptions,
) -> Result<RegionOptions, StartError> {
    let mut regions = Vec::new();
    let mut endpoints = Vec::new();
    for entry in &config.mesh.regions {
        let id = region_id(&entry.id)?;
        if let (Some(ws), true) = (&entry.ws, id != *region) {
            endpoints.push(Endpoint { region: id.clone(), ws: ws.clone(), webtransport: entry.webtransport.clone() });
        }
        regions.push(id);
    }
    let limits = &config.limits;
    Ok(RegionOptions {
        region: region.clone(),
        node: NodeId(Arc::from(config.region.node.as_str())),
        map: RegionMap { version: 1, regions },
        bounds: Bounds {
            group_members: limits.group_members,
            channel_members: limits.channel_members,
            conversation_messages_per_minute: limits.conversation_messages_per_minute,
            fanout_threshold: limits.fanout_threshold,
            ..Bounds::default()
        },
        parking: ParkingBounds {
            messages: limits.parked_messages,
            bytes: usize::try_from(limits.parked_bytes).unwrap_or(usize::MAX),
            per_conversation: limits.parked_per_conversation,
            kept_milliseconds: edge_gateway_millis(limits.parked_for),
        },
        loaded_logs: limits.loaded_logs,
        explained_messages: limits.explained_messages,
        answer_timeout: limits.answer_timeout,
        anti_entropy: config.replication.anti_entropy,
        resident_for: limits.resident_for,
        dedup_window: limits.dedup_window,
        content_sweep: limits.content_sweep,
        retention_day: limits.retention_day,
        fanout_threshold: limits.fanout_threshold,
        typing_for: limits.typing_for,
        endpoints,
        presence: PresenceBounds {
            per_frame: limits.presence_per_frame,
            per_session: limits.presence_subscriptions,
            expiry: edge_gateway_millis(limits.heartbeat_timeout),
            ..PresenceBounds::default()
        },
        push,
        media,
    })
}

fn edge_gateway_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn gateway_options(
    config: &RegionConfig,
    allowed_hosts: Option<Vec<String>>,
    refuse_foreign_origins: bool,
) -> GatewayOptions {
    let limits = &config.limits;
    let listen = &config.listen;
    GatewayOptions {
        limits: GatewayLimits {
            frame: FrameLimits {
                frame_bytes: limits.frame_bytes,
                text_bytes: limits.text_bytes,
                json_depth: limits.json_depth,
            },
            body_bytes: limits.rest_body_bytes,
            members_per_request: limits.members_per_request,
            messages_per_minute: limits.messages_per_minute,
            refusals_per_minute: limits.refusals_per_minute,
            sessions: limits.sessions,
            // Beside sessions there are REST calls.
            connections: limits.sessions.saturating_add(limits.sessions / 8 + 1_000),
            connections_per_address: limits.connections_per_address,
            connects_per_minute: limits.connects_per_minute,
            logins_at_once: limits.logins_at_once,
            resumes_at_once: limits.resumes_at_once,
            session_queue: limits.session_queue_frames,
            session_queue_bytes: limits.session_queue_bytes,
            replay_rows: limits.replay_messages as u64,
            gap_rows: limits.gap_messages as u64,
            ..GatewayLimits::default()
        },
        times: GatewayTimes {
            auth_timeout: limits.auth_timeout,
            heartbeat_interval: limits.heartbeat_interval,
            heartbeat_timeout: limits.heartbeat_timeout,
            resume_for: limits.resume_for,
            ..GatewayTimes::default()
        },
        access: Access {
            // Behind a proxy the `Host` need not be the name that pages came from.
            allowed_origins: listen.allowed_origins.iter().chain(&listen.public_http).cloned().collect(),
            refuse_foreign_origins,
            allowed_hosts,
            trusted_forwarders: listen
                .trusted_forwarders
                .iter()
                .map(|network| AddressRange { address: network.address(), prefix: network.prefix() })
                .collect(),
        },
        public_http: listen.public_http.clone(),
        public_ws: listen.public_ws.clone(),
        public_webtransport: listen.public_webtransport.clone(),
    }
}

pub(crate) fn bind_tcp(address: SocketAddr) -> Result<TcpListener, StartError> {
    let listen = || {
        let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
        // As `TcpListener::bind` does: connections of a process before that are not quite gone are no obstacle.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| StartError::bind(address, error))
}

pub(crate) fn bind_udp(address: SocketAddr) -> Result<UdpSocket, StartError> {
    let socket = UdpSocket::bind(address).map_err(|error| StartError::bind(address, error))?;
    socket.set_nonblocking(true).map_err(|error| StartError::bind(address, error))?;
    Ok(socket)
}

/// As [`bind_udp`], for a region that was just stopped and starts again.
async fn bind_udp_patiently(address: SocketAddr) -> Result<UdpSocket, StartError> {
    let deadline = tokio::time::Instant::now() + PORT_PATIENCE;
    loop {
        match bind_udp(address) {
            Err(StartError::InUse { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            bound => return bound,
        }
    }
}

async fn listeners(
    config: &RegionConfig,
    http: TcpListener,
    webtransport: Option<UdpSocket>,
) -> Result<Listeners, StartError> {
    let tls: Option<SharedTls> = match &config.listen.tls {
        Some(files) => Some(Arc::new(ArcSwap::new(server_tls(files)?))),
        None => None,
    };
    let socket = match (webtransport, config.listen.webtransport) {
        (Some(socket), _) => Some(socket),
        (None, Some(address)) => Some(bind_udp_patiently(address).await?),
        (None, None) => None,
    };
    let webtransport = match socket {
        Some(socket) => Some((socket, webtransport_certificate(&config.listen)?)),
        None => None,
    };
    Ok(Listeners { http, tls, webtransport })
}

fn certified(files: &TlsFiles) -> Result<WebTransportCertificate, StartError> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let config = |error: String| StartError::Config(format!("listen.tls: {error}"));
    let chain = files.certificate.read().map_err(|error| config(error.to_string()))?;
    let key = files.key.read().map_err(|error| config(error.to_string()))?;
    Ok(WebTransportCertificate {
        chain: CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| config(error.to_string()))?,
        key: PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| config(error.to_string()))?,
        by_hash: false,
    })
}

/// TLS of the HTTP listener.
pub(crate) fn server_tls(files: &TlsFiles) -> Result<Arc<rustls::ServerConfig>, StartError> {
    let WebTransportCertificate { chain, key, .. } = certified(files)?;
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| StartError::Config(format!("listen.tls: {error}")))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// What WebTransport presents now.
pub(crate) fn webtransport_certificate(listen: &ListenSection) -> Result<WebTransportCertificate, StartError> {
    match (&listen.tls, listen.webtransport_certificate) {
        (Some(files), CertificateKind::Tls) => certified(files),
        (_, CertificateKind::SelfMade) => self_made(),
        (None, CertificateKind::Tls) => {
            Err(StartError::Config("listen.webtransport needs listen.tls, or a self-made certificate".to_owned()))
        }
    }
}

fn self_made() -> Result<WebTransportCertificate, StartError> {
    use rustls::pki_types::pem::PemObject;
    let local = [std::net::IpAddr::from([127, 0, 0, 1])];
    let made = hearth_config::self_signed_webtransport(&["localhost".to_owned()], &local, SystemTime::now())
        .map_err(|error| StartError::Config(error.to_string()))?;
    Ok(WebTransportCertificate {
        chain: vec![made.certificate_der.clone().into()],
        key: rustls::pki_types::PrivateKeyDer::from_pem_slice(made.key_pem.as_bytes())
            .map_err(|error| StartError::Config(error.to_string()))?,
        by_hash: true,
    })
}

#[cfg(test)]
mod tests;
