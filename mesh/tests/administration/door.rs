//! Who is let in.

use std::time::SystemTime;

use hearth_config::{CertificateAuthority, IssueOptions};
use hearth_mesh::admin::{AdminClient, AskError, client_without_a_look};
use hearth_protocol::admin::{self, Status};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Mesh, pem};

/// What a client with this TLS is told at the first region.
async fn refused(mesh: &Mesh, tls: rustls::ClientConfig) -> AskError {
    let client = AdminClient::with_tls(&mesh.url(0), tls).expect("a client");
    client.get::<Status>(admin::STATUS).await.expect_err("not let in")
}

fn without_certificate(mesh: &Mesh) -> rustls::ClientConfig {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(mesh.authority.certificate_pem().as_bytes()).expect("PEM");
    roots.add(authority).expect("an authority");
    rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_administrator_of_this_mesh_is_let_in() {
    let mesh = Mesh::start().await;
    let now = SystemTime::now();
    let status = mesh.status(0).await;
    assert_eq!((status.node.region.as_str(), status.regions.len()), ("ra", 3));
    assert_eq!(status.regions.iter().map(|row| row.slots).sum::<usize>(), 4_096);

    // A region of the mesh: the handshake ends here, before a request is read.
    let region = mesh.authority.issue_region("rb", &IssueOptions::default(), now).expect("a region");
    let tls = client_without_a_look(&pem(&mesh.authority, region)).expect("TLS");
    assert!(matches!(refused(&mesh, tls).await, AskError::NotTrusted { .. }));

    // An administrator of another mesh, who trusts this one.
    let other = CertificateAuthority::in_memory(now).expect("an authority");
    let foreign = other.issue_admin("ann", 30, now).expect("an administrator");
    let tls = client_without_a_look(&pem(&mesh.authority, foreign)).expect("TLS");
    let error = refused(&mesh, tls).await;
    assert!(matches!(error, AskError::NotTrusted { .. }), "{error}");

    // An administrator who trusts another mesh gives nothing to this one.
    let admin = mesh.authority.issue_admin("ann", 30, now).expect("an administrator");
    let tls = client_without_a_look(&pem(&other, admin)).expect("TLS");
    let error = refused(&mesh, tls).await;
    assert!(matches!(error, AskError::NotTrusted { .. }), "{error}");

    // A node of another region than the one that is asked for.
    let elsewhere = AdminClient::new(&mesh.url(0), &mesh.admin("ann"), Some("rb")).expect("a client");
    let error = elsewhere.get::<Status>(admin::STATUS).await.expect_err("it is ra");
    assert!(matches!(error, AskError::NotTrusted { .. }), "{error}");
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_and_without_tls_not_a_byte_is_answered() {
    let mesh = Mesh::start().await;
    let address = mesh.regions[0].as_ref().expect("it runs").administration;
    assert!(address.ip().is_loopback(), "by default only this machine reaches it");
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(without_certificate(&mesh)));
    let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let name = rustls::pki_types::ServerName::try_from("ra").expect("a name");
    let mut answer = Vec::new();
    let attempt = async {
        let mut stream = connector.connect(name, stream).await?;
        stream.write_all(b"GET /admin/v1/status HTTP/1.1\r\nHost: ra\r\n\r\n").await?;
        stream.read_to_end(&mut answer).await
    };
    attempt.await.expect_err("the handshake ends with an alert");
    let mut plain = tokio::net::TcpStream::connect(address).await.expect("a connection");
    plain.write_all(b"GET /admin/v1/status HTTP/1.1\r\nHost: ra\r\n\r\n").await.expect("written");
    let mut bytes = Vec::new();
    // It ends by a reset, or after a TLS alert.
    let _ = plain.read_to_end(&mut bytes).await;
    assert!(answer.is_empty() && !bytes.starts_with(b"HTTP"), "{answer:?} {bytes:?}");
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_regions_certificate_is_refused_before_it_is_shown() {
    let mesh = Mesh::start().await;
    let region = mesh.authority.issue_region("rb", &IssueOptions::default(), SystemTime::now()).expect("a region");
    let error = AdminClient::new(&mesh.url(0), &pem(&mesh.authority, region), None).expect_err("no administrator");
    assert!(error.to_string().contains("no administrator's"), "{error}");
    mesh.end().await;
}
