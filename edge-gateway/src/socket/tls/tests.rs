//! Against the client's side of rustls, over pipes that hold little.

use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, split};
use tokio_rustls::{TlsConnector, client};

use super::*;

type Both = (TlsStream<DuplexStream>, client::TlsStream<DuplexStream>);

/// The settings of both sides, under one version of TLS.
fn settings(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let certificate: CertificateDer<'static> = certificate.der().clone();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[version]).unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    (Arc::new(server), Arc::new(client.with_root_certificates(roots).with_no_client_auth()))
}

async fn connected(version: &'static SupportedProtocolVersion, pipe: usize) -> Both {
    let (server, client) = settings(version);
    let (here, there) = tokio::io::duplex(pipe);
    let name = ServerName::try_from("localhost").unwrap();
    let connecting = TlsConnector::from(client).connect(name, there);
    let both = async { tokio::join!(TlsStream::accept(server, here), connecting) };
    let (accepted, connected) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    (accepted.unwrap(), connected.unwrap())
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

/// Nothing is held for a connection on which nothing is on its way.
fn assert_holds_nothing(stream: &TlsStream<DuplexStream>) {
    let held = (stream.incoming.capacity(), stream.outgoing.capacity(), stream.plain.len());
    assert_eq!(held, (0, 0, 0));
}

#[tokio::test]
async fn under_both_versions_and_over_any_pipe_all_arrives_in_both_directions_at_once() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for (pipe, count) in [(7, 3_000), (1_000, 100_000), (200_000, 1_000_000)] {
            let (server, client) = connected(version, pipe).await;
            let sent = bytes(count);
            let (mut server_reads, mut server_writes) = split(server);
            let (mut client_reads, mut client_writes) = split(client);
            let mut at_server = Vec::new();
            let mut at_client = Vec::new();
            let (to_server, to_client, read_here, read_there) = tokio::join!(
                async {
                    client_writes.write_all(&sent).await?;
                    client_writes.shutdown().await
                },
                async {
                    server_writes.write_all(&sent).await?;
                    server_writes.shutdown().await
                },
                server_reads.read_to_end(&mut at_server),
                client_reads.read_to_end(&mut at_client),
            );
            to_server.and(to_client).and(read_here).and(read_there).unwrap();
            assert!(at_server == sent && at_client == sent, "{count} bytes over a pipe of {pipe}");
            assert_holds_nothing(&server_reads.unsplit(server_writes));
        }
    }
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer_and_goes_on_where_it_was() {
    let (mut server, mut client) = connected(&rustls::version::TLS13, 64 * 1024).await;
    for size in [1, 500, 20_000] {
        assert_holds_nothing(&server);
        let sent = bytes(size);
        client.write_all(&sent).await.unwrap();
        let mut read = vec![0; size];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(read, sent);
        server.write_all(&sent).await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(read, sent);
    }
    assert_holds_nothing(&server);
}

#[tokio::test]
async fn a_client_that_asks_for_new_keys_is_answered() {
    let (mut server, mut client) = connected(&rustls::version::TLS13, 64 * 1024).await;
    for round in 0..3u8 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(&[round; 100]).await.unwrap();
        let mut read = [0; 100];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(read, [round; 100]);
        server.write_all(&read).await.unwrap();
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(read, [round; 100]);
    }
}

#[tokio::test]
async fn an_end_without_the_end_of_tls_is_an_error_and_one_with_it_is_none() {
    let (mut server, mut client) = connected(&rustls::version::TLS13, 64 * 1024).await;
    client.write_all(b"last").await.unwrap();
    client.shutdown().await.unwrap();
    let mut read = Vec::new();
    server.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"last");
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    assert!(server.write_all(b"more").await.is_err(), "nothing follows the end");
    read.clear();
    client.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"answer");

    let (mut server, client) = connected(&rustls::version::TLS13, 64 * 1024).await;
    drop(client);
    let error = server.read_to_end(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn what_is_no_tls_is_refused_before_and_after_the_handshake_and_the_peer_is_told() {
    let (config, _) = settings(&rustls::version::TLS13);
    let (here, mut there) = tokio::io::duplex(4_096);
    there.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let refused = TlsStream::accept(config, here).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    let mut told = Vec::new();
    there.read_to_end(&mut told).await.unwrap();
    assert_eq!(told.first(), Some(&21), "an alert");

    let (mut server, client) = connected(&rustls::version::TLS13, 4_096).await;
    let (mut raw, _) = client.into_inner();
    // A record of application data that nobody encrypted.
    raw.write_all(&[23, 3, 3, 0, 20]).await.unwrap();
    raw.write_all(&[0; 20]).await.unwrap();
    let error = server.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(server.read_u8().await.is_err() && server.write_u8(1).await.is_err(), "it stays refused");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_within_the_handshake_ends_it() {
    let (config, _) = settings(&rustls::version::TLS13);
    let (here, there) = tokio::io::duplex(4_096);
    drop(there);
    assert_eq!(TlsStream::accept(config, here).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}
