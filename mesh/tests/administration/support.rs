//! Three regions of this process, their authority, and administrators.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hearth_config::{
    AdministrationSection, AuthSection, CertificateAuthority, DrainSection, FailoverSection, IssueOptions,
    IssuedCertificate, ListenSection, LogSection, MeshRegion, MeshSection, Pem, PushSection, RegionConfig,
    RegionSection, ReplicationSection, ResumeKey, SecretText,
};
use hearth_mesh::admin::{AdminClient, AdminPem};
use hearth_mesh::{RegionParts, RunningRegion};
use hearth_protocol::RegionId;
use hearth_protocol::admin::{self, AuditPage, Change, ChangeRequest, Line, Status};

pub(crate) const REGIONS: [&str; 3] = ["ra", "rb", "rc"];

pub(crate) fn id(name: &str) -> RegionId {
    RegionId::new(name).expect("a name")
}

pub(crate) struct Mesh {
    pub(crate) regions: Vec<Option<RunningRegion>>,
    pub(crate) authority: CertificateAuthority,
    pub(crate) data: tempfile::TempDir,
}

/// The material of one side, as another authority than its own may have signed it.
pub(crate) fn pem(trusted: &CertificateAuthority, issued: IssuedCertificate) -> AdminPem {
    let ca = trusted.certificate_pem().to_owned();
    AdminPem { ca, certificate: issued.certificate_pem, key: issued.key_pem }
}

fn config(index: usize, links: &[SocketAddr], authority: &CertificateAuthority, data: &Path) -> RegionConfig {
    let id = REGIONS[index];
    let issued = authority.issue_region(id, &IssueOptions::default(), SystemTime::now()).expect("a certificate");
    let regions = REGIONS.iter().zip(links).map(|(id, address)| MeshRegion::new(*id, address.to_string())).collect();
    RegionConfig {
        region: RegionSection { id: id.to_owned(), node: "core-1".to_owned(), data: data.join(id) },
        mesh: MeshSection {
            id: "test".to_owned(),
            listen: links[index],
            certificate: Pem::Inline(issued.certificate_pem),
            key: Pem::Inline(issued.key_pem),
            ca: Pem::Inline(authority.certificate_pem().to_owned()),
            regions,
        },
        listen: ListenSection::new(SocketAddr::from(([127, 0, 0, 1], 0))),
        auth: AuthSection {
            hs256_secret: Some(SecretText::new("a secret of tests that is long enough")),
            resume_keys: vec![ResumeKey::inline("test", SecretText::new("another secret that is long enough"))],
            ..AuthSection::default()
        },
        limits: hearth_config::Limits::default(),
        replication: ReplicationSection { anti_entropy: Duration::from_millis(500) },
        // What happens, happens because an administrator asks for it.
        failover: FailoverSection { automatic: false, ..FailoverSection::default() },
        administration: AdministrationSection::default(),
        drain: DrainSection::default(),
        push: PushSection::default(),
        media: hearth_config::MediaSection::default(),
        log: LogSection::default(),
    }
}

impl Mesh {
    /// Starts the regions, and waits until the map has a leader and all hold their leases.
    pub(crate) async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority = CertificateAuthority::in_memory(SystemTime::now()).expect("an authority");
        let data = tempfile::tempdir().expect("a folder");
        let sockets: Vec<UdpSocket> = REGIONS.iter().map(|_| UdpSocket::bind("127.0.0.1:0").expect("a port")).collect();
        let links: Vec<SocketAddr> = sockets.iter().map(|socket| socket.local_addr().expect("bound")).collect();
        let mut regions = Vec::new();
        for (index, socket) in sockets.into_iter().enumerate() {
            socket.set_nonblocking(true).expect("a socket");
            let parts = RegionParts { link: Some(socket), ..RegionParts::default() };
            let running = RunningRegion::start(&config(index, &links, &authority, data.path()), parts).await;
            regions.push(Some(running.expect("a region starts")));
        }
        let mesh = Self { regions, authority, data };
        mesh.until("all regions hold their leases, and all links are up", || {
            let up = |one: &RunningRegion| {
                REGIONS.iter().all(|other| one.handle.region().as_str() == *other || one.links.is_up(other))
            };
            mesh.regions.iter().flatten().all(|region| region.lease.may_sequence() && up(region))
        })
        .await;
        mesh
    }

    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let within = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(40), within).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }

    pub(crate) fn url(&self, index: usize) -> String {
        format!("https://{}", self.regions[index].as_ref().expect("it runs").administration)
    }

    pub(crate) fn admin(&self, name: &str) -> AdminPem {
        pem(&self.authority, self.authority.issue_admin(name, 30, SystemTime::now()).expect("an administrator"))
    }

    /// The administrator ann at a region.
    pub(crate) fn ann(&self, index: usize) -> AdminClient {
        AdminClient::new(&self.url(index), &self.admin("ann"), Some(REGIONS[index])).expect("a client")
    }

    pub(crate) async fn status(&self, index: usize) -> Status {
        self.ann(index).get(admin::STATUS).await.expect("a status")
    }

    pub(crate) async fn state(&self, index: usize, region: &str) -> String {
        let status = self.status(index).await;
        status.regions.into_iter().find(|row| row.region.as_str() == region).expect("a member").state
    }

    pub(crate) async fn audit(&self, index: usize) -> AuditPage {
        self.ann(index).get(admin::AUDIT).await.expect("an audit log")
    }

    /// Asks for a change at a region: all lines of the answer, and the last one.
    pub(crate) async fn change(&self, index: usize, change: Change, dry_run: bool) -> (Vec<Line>, Line) {
        let mut lines = Vec::new();
        let request = ChangeRequest { change, dry_run };
        let last = self.ann(index).change(&request, |line| lines.push(line.clone())).await.expect("an answer");
        println!("{request:?}: {lines:#?}");
        (lines, last)
    }

    pub(crate) async fn stop(&mut self, index: usize) {
        self.regions[index].take().expect("it runs").stop().await;
    }

    pub(crate) async fn end(mut self) {
        for region in self.regions.iter_mut().filter_map(Option::take) {
            region.stop().await;
        }
    }
}
