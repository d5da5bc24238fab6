//! Three regions of this process, their authority, and administrators.

use std::time::SystemTime;

use hearth_config::{CertificateAuthority, FailoverSection, IssuedCertificate};
use hearth_mesh::RunningRegion;
use hearth_mesh::admin::{AdminClient, AdminPem};
use hearth_protocol::RegionId;
use hearth_protocol::admin::{self, AuditPage, Change, ChangeRequest, Line, Status};

use crate::regions::{Setup, authority, until};

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

impl Mesh {
    /// Starts the regions, and waits until the map has a leader and all hold their leases.
    pub(crate) async fn start() -> Self {
        let (authority, data) = (authority(), tempfile::tempdir().expect("a folder"));
        // What happens, happens because an administrator asks for it.
        let failover = FailoverSection { automatic: false, ..FailoverSection::default() };
        let started = Setup { failover, ..Setup::new(&REGIONS, data.path()) }.start(&authority).await;
        Self { regions: started.into_iter().map(Some).collect(), authority, data }
    }

    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        until(what, async || holds()).await;
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
