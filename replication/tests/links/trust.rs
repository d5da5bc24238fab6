//! Who is let in: only a certificate of this mesh for the region that is claimed.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::support::{Authority, PATIENCE, Region, config, socket};
use quinn::crypto::rustls::QuicClientConfig;
use replication::{LinkFaults, LinkTls, Refusal};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::timeout;

/// A region that accepts, for a peer `eu-west` at `peer`.
async fn acceptor(authority: &Authority, peer: SocketAddr) -> (Region, SocketAddr) {
    let (socket, address) = socket();
    let config = config(authority, "us-east", &[("eu-west", peer)]);
    (Region::start(config, socket, &LinkFaults::new()).await, address)
}

/// A QUIC client that trusts `authority` and shows `certificate`, if any.
fn client(authority: &Authority, certificate: Option<&LinkTls>) -> quinn::Endpoint {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM")).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut tls = match certificate {
        None => builder.with_no_client_auth(),
        Some(tls) => {
            let chain = vec![CertificateDer::from_pem_slice(tls.cert_pem.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(tls.key_pem.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("a matching key")
        }
    };
    tls.alpn_protocols = vec![b"hearth-mesh/1".to_vec()];
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let quic = QuicClientConfig::try_from(tls).expect("a suite for QUIC");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(quic)));
    endpoint
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_certificate_gets_no_byte() {
    let authority = Authority::new();
    let (_, nobody) = socket();
    let (mut east, address) = acceptor(&authority, nobody).await;
    let client = client(&authority, None);
    let attempt = async {
        // The client's side of the handshake ends before the server has asked for the certificate.
        let connection = client.connect(address, "us-east").expect("valid").await?;
        let (mut send, mut receive) = connection.open_bi().await?;
        drop(send.write_all(&[0, 0, 0, 0, 0]).await);
        let mut byte = [0];
        match receive.read(&mut byte).await {
            Ok(read) => panic!("got {read:?}"),
            Err(_) => Err::<(), _>(connection.closed().await),
        }
    };
    let error = timeout(PATIENCE, attempt).await.expect("ends").expect_err("not let in");
    assert!(matches!(error, quinn::ConnectionError::ConnectionClosed(_)), "{error:?}");
    assert!(!east.links.is_up("eu-west"));
    assert!(east.events.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrators_certificate_of_the_mesh_is_no_way_into_a_link() {
    let now = std::time::SystemTime::now();
    let mesh = hearth_config::CertificateAuthority::in_memory(now).expect("an authority");
    let tls = |issued: hearth_config::IssuedCertificate| LinkTls {
        ca_pem: mesh.certificate_pem().to_owned(),
        cert_pem: issued.certificate_pem,
        key_pem: issued.key_pem,
    };
    // Even one whose administrator is called as the region is.
    let admin = tls(mesh.issue_admin("eu-west", 30, now).expect("an administrator"));
    let region = mesh.issue_region("us-east", &hearth_config::IssueOptions::default(), now).expect("a region");
    let ((_, nobody), (socket, address)) = (socket(), socket());
    let mut config = config(&Authority::new(), "us-east", &[("eu-west", nobody)]);
    config.tls = tls(region);
    let mut east = Region::start(config, socket, &LinkFaults::new()).await;
    let trust = Authority::trusting(mesh.certificate_pem());
    let client = client(&trust, Some(&admin));
    let attempt = async {
        let connection = client.connect(address, "us-east").expect("valid").await?;
        let (mut send, _receive) = connection.open_bi().await?;
        let hello = b"\x0a\x09test-mesh\x12\x07eu-west";
        let length = u8::try_from(hello.len()).expect("short");
        // It may be closed before.
        drop(send.write_all(&[&[0, 0, 0, 0, length], hello.as_slice()].concat()).await);
        Err::<(), quinn::ConnectionError>(connection.closed().await)
    };
    let error = timeout(PATIENCE, attempt).await.expect("ends").expect_err("not let in");
    println!("{error:?}");
    assert!(!east.links.is_up("eu-west"));
    assert!(east.events.try_recv().is_err());
}

/// What a dialler with `tls` and this name is told by `us-east`, and what that tells its owner.
async fn dial_with(tls: LinkTls, name: &str) -> (Refusal, Region) {
    let authority = Authority::new();
    dial_with_under(&authority, tls, name).await
}

async fn dial_with_under(authority: &Authority, tls: LinkTls, name: &str) -> (Refusal, Region) {
    let (socket, address) = socket();
    let (east, east_address) = acceptor(authority, address).await;
    let mut dialler = config(authority, name, &[("us-east", east_address)]);
    dialler.tls = tls;
    let mut dialler = Region::start(dialler, socket, &LinkFaults::new()).await;
    (dialler.refused().await, east)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialler_of_another_authority_is_refused_by_both_sides() {
    let other = Authority::new();
    let (refusal, mut east) = dial_with(other.tls("eu-west"), "eu-west").await;
    assert_eq!(refusal, Refusal::Certificate);
    assert!(east.events.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialler_that_trusts_the_mesh_but_was_certified_elsewhere_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let tls = LinkTls { ca_pem: authority.pem.clone(), ..other.tls("eu-west") };
    let (refusal, mut east) = dial_with_under(&authority, tls, "eu-west").await;
    assert_eq!(refusal, Refusal::Certificate);
    assert!(east.events.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_of_the_mesh_that_is_not_a_peer_is_refused() {
    let authority = Authority::new();
    let (refusal, mut east) = dial_with_under(&authority, authority.tls("ap-south"), "ap-south").await;
    assert_eq!(refusal, Refusal::UnknownRegion);
    assert!(east.events.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialler_gives_nothing_to_another_region_at_the_address_it_dials() {
    let authority = Authority::new();
    let ((west_socket, west_address), (other_socket, other_address)) = (socket(), socket());
    // At the address of us-east sits us-west, with a good certificate of its own.
    let other = config(&authority, "us-west", &[("eu-west", west_address)]);
    let mut other = Region::start(other, other_socket, &LinkFaults::new()).await;
    let west = config(&authority, "eu-west", &[("us-east", other_address)]);
    let mut west = Region::start(west, west_socket, &LinkFaults::new()).await;
    assert_eq!(west.refused().await, Refusal::Certificate);
    assert!(other.events.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_whose_certificate_is_not_its_own_does_not_start() {
    let authority = Authority::new();
    let ((udp, _), (_, peer)) = (socket(), socket());
    let mut config = config(&authority, "us-east", &[("eu-west", peer)]);
    config.tls = authority.tls("eu-west");
    let outcome = replication::Links::start(config, udp, LinkFaults::new(), replication::LinkMetrics::default()).await;
    assert!(matches!(outcome, Err(replication::LinkError::Tls(replication::TlsError::Region { .. }))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_in_the_hello_that_the_certificate_does_not_carry_is_refused() {
    let authority = Authority::new();
    let (_, nobody) = socket();
    let (mut east, address) = acceptor(&authority, nobody).await;
    let client = client(&authority, Some(&authority.tls("ap-south")));
    let attempt = async {
        let connection = client.connect(address, "us-east").expect("valid").await?;
        let (mut send, _receive) = connection.open_bi().await?;
        // Lane 0, a frame of 20 bytes: mesh "test-mesh" and region "eu-west", as prost writes them.
        let hello = [b"\x0a\x09test-mesh\x12\x07eu-west".as_slice()].concat();
        let length = u8::try_from(hello.len()).expect("short");
        let bytes = [&[0, 0, 0, 0, length], hello.as_slice()].concat();
        send.write_all(&bytes).await.expect("written");
        Err::<(), quinn::ConnectionError>(connection.closed().await)
    };
    let error = timeout(PATIENCE, attempt).await.expect("ends").expect_err("not let in");
    let quinn::ConnectionError::ApplicationClosed(close) = error else { panic!("{error:?}") };
    assert_eq!(close.error_code.into_inner(), 20);
    assert!(east.events.try_recv().is_err());
}
