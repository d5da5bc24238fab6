//! Regions of one process, from configurations that are written here, over real links.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hearth_config::{
    AdministrationSection, AuthSection, CertificateAuthority, DrainSection, FailoverSection, IssueOptions, Limits,
    ListenSection, LogSection, MediaSection, MeshRegion, MeshSection, Pem, PushSection, RegionConfig, RegionSection,
    ReplicationSection, ResumeKey, SecretText, StoreSection,
};
use hearth_mesh::{RegionParts, RunningRegion};

/// What must come, on a busy machine.
pub(crate) const LATE: Duration = Duration::from_secs(60);

/// The regions of a test, and what their configurations say.
pub(crate) struct Setup<'a> {
    pub(crate) names: &'a [&'a str],
    /// Holds a folder for each.
    pub(crate) data: &'a Path,
    pub(crate) limits: Limits,
    pub(crate) failover: FailoverSection,
    pub(crate) media: MediaSection,
}

impl<'a> Setup<'a> {
    pub(crate) fn new(names: &'a [&'a str], data: &'a Path) -> Self {
        let (limits, failover, media) = (Limits::default(), FailoverSection::default(), MediaSection::default());
        Self { names, data, limits, failover, media }
    }

    fn config(&self, index: usize, links: &[SocketAddr], authority: &CertificateAuthority) -> RegionConfig {
        let id = self.names[index];
        let issued = authority.issue_region(id, &IssueOptions::default(), SystemTime::now()).expect("a certificate");
        let regions = self.names.iter().zip(links).map(|(id, address)| MeshRegion::new(*id, address.to_string()));
        RegionConfig {
            region: RegionSection { id: id.to_owned(), node: "core-1".to_owned(), data: self.data.join(id) },
            mesh: MeshSection {
                id: "test".to_owned(),
                listen: links[index],
                certificate: Pem::Inline(issued.certificate_pem),
                key: Pem::Inline(issued.key_pem),
                ca: Pem::Inline(authority.certificate_pem().to_owned()),
                regions: regions.collect(),
            },
            listen: ListenSection::new(SocketAddr::from(([127, 0, 0, 1], 0))),
            auth: AuthSection {
                hs256_secret: Some(SecretText::new("a secret of tests that is long enough")),
                resume_keys: vec![ResumeKey::inline("test", SecretText::new("another secret that is long enough"))],
                ..AuthSection::default()
            },
            limits: self.limits.clone(),
            replication: ReplicationSection { anti_entropy: Duration::from_millis(500) },
            failover: self.failover.clone(),
            administration: AdministrationSection::default(),
            drain: DrainSection::default(),
            store: StoreSection::default(),
            push: PushSection::default(),
            media: self.media.clone(),
            log: LogSection::default(),
        }
    }

    /// Starts the regions, and waits until all links are up and all hold their leases.
    pub(crate) async fn start(&self, authority: &CertificateAuthority) -> Vec<RunningRegion> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let sockets: Vec<_> = self.names.iter().map(|_| UdpSocket::bind("127.0.0.1:0").expect("a port")).collect();
        let links: Vec<SocketAddr> = sockets.iter().map(|socket| socket.local_addr().expect("bound")).collect();
        let mut regions = Vec::new();
        for (index, socket) in sockets.into_iter().enumerate() {
            socket.set_nonblocking(true).expect("a socket");
            let parts = RegionParts { link: Some(socket), ..RegionParts::default() };
            let running = RunningRegion::start(&self.config(index, &links, authority), parts).await;
            regions.push(running.expect("a region starts"));
        }
        let up = |one: &RunningRegion, other: &str| one.handle.region().as_str() == other || one.links.is_up(other);
        until("all links are up", async || regions.iter().all(|one| self.names.iter().all(|other| up(one, other))))
            .await;
        until("each region has its lease", async || regions.iter().all(RunningRegion::may_sequence)).await;
        regions
    }
}

/// An authority of a test.
pub(crate) fn authority() -> CertificateAuthority {
    CertificateAuthority::in_memory(SystemTime::now()).expect("an authority")
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let within = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let began = std::time::Instant::now();
    tokio::time::timeout(LATE, within).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    println!("after {:?}: {what}", began.elapsed());
}
