//! Regions on loopback with certificates of their own.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use replication::{
    DownReason, Lane, LinkConfig, LinkEvent, LinkFaults, LinkLimits, LinkMetrics, LinkTimes, LinkTls, Links,
    LinksHandle, PeerConfig, PeerHello, Refusal, SendError, VersionRange,
};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// Far more than anything takes: a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("self-signed").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Trusts another authority, and signs nothing that it would believe.
    pub(crate) fn trusting(pem: &str) -> Self {
        Self { pem: pem.to_owned(), ..Self::new() }
    }

    pub(crate) fn tls(&self, region: &str) -> LinkTls {
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec![region.to_owned()]).expect("a DNS name");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        LinkTls { ca_pem: self.pem.clone(), cert_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }
}

pub(crate) fn socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

/// Binds an address that a stopped region had; the kernel may take a moment to give it back.
pub(crate) async fn rebind(address: SocketAddr) -> UdpSocket {
    let bound = async {
        loop {
            match UdpSocket::bind(address) {
                Ok(socket) => return socket,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(PATIENCE, bound).await.expect("the port is free again")
}

pub(crate) fn config(authority: &Authority, region: &str, peers: &[(&str, SocketAddr)]) -> LinkConfig {
    LinkConfig {
        mesh_id: "test-mesh".into(),
        region: region.into(),
        node: format!("{region}-1"),
        store_id: [region.len() as u8; 16],
        incarnation: 1,
        map_digest: [7; 32],
        versions: VersionRange::default(),
        peers: peers
            .iter()
            .map(|(region, address)| PeerConfig { region: (*region).into(), address: *address })
            .collect(),
        tls: authority.tls(region),
        times: LinkTimes::default(),
        limits: LinkLimits::default(),
        seed: 42,
    }
}

pub(crate) struct Region {
    pub(crate) links: LinksHandle,
    pub(crate) events: Receiver<LinkEvent>,
}

impl Region {
    pub(crate) async fn start(config: LinkConfig, socket: UdpSocket, faults: &LinkFaults) -> Self {
        Self::start_measured(config, socket, faults, LinkMetrics::default()).await
    }

    pub(crate) async fn start_measured(
        config: LinkConfig,
        socket: UdpSocket,
        faults: &LinkFaults,
        metrics: LinkMetrics,
    ) -> Self {
        let (links, events) = Links::start(config, socket, faults.clone(), metrics).await.expect("starts");
        Self { links, events }
    }

    pub(crate) async fn next(&mut self) -> LinkEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("an event").expect("links run")
    }

    /// The next event, which must be `Up`.
    pub(crate) async fn up(&mut self) -> PeerHello {
        match self.next().await {
            LinkEvent::Up { hello, .. } => hello,
            other => panic!("instead of up: {other:?}"),
        }
    }

    /// The next event, which must be `Down`.
    pub(crate) async fn down(&mut self) -> DownReason {
        match self.next().await {
            LinkEvent::Down { reason, .. } => reason,
            other => panic!("instead of down: {other:?}"),
        }
    }

    /// The next event, which must be `Refused`.
    pub(crate) async fn refused(&mut self) -> Refusal {
        match self.next().await {
            LinkEvent::Refused { reason, .. } => reason,
            other => panic!("instead of a refusal: {other:?}"),
        }
    }

    /// The next event, which must be frames.
    pub(crate) async fn frames(&mut self) -> (Lane, Vec<Bytes>) {
        match self.next().await {
            LinkEvent::Frames { lane, frames, .. } => (lane, frames),
            other => panic!("instead of frames: {other:?}"),
        }
    }

    /// Sends, and while the lane is full waits for it to move.
    pub(crate) async fn send(&self, peer: &str, lane: Lane, frame: Bytes) {
        let sent = async {
            loop {
                match self.links.send(peer, lane, frame.clone()) {
                    Ok(()) => return,
                    Err(SendError::Full { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
                    Err(error) => panic!("cannot send: {error}"),
                }
            }
        };
        timeout(PATIENCE, sent).await.expect("the lane moves");
    }
}

/// Two regions with a link that is up.
pub(crate) async fn pair(authority: &Authority, faults: &LinkFaults) -> (Region, Region) {
    let ((west, west_address), (east, east_address)) = (socket(), socket());
    let mut west = Region::start(config(authority, "eu-west", &[("us-east", east_address)]), west, faults).await;
    let mut east = Region::start(config(authority, "us-east", &[("eu-west", west_address)]), east, faults).await;
    assert_eq!(west.up().await.region, "us-east");
    assert_eq!(east.up().await.region, "eu-west");
    (west, east)
}
