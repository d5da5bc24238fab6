//! TLS and WebTransport over real sockets.

use std::sync::Arc;
use std::time::Duration;

use crate::common::*;
use arc_swap::ArcSwap;
use base64::Engine as _;
use edge_gateway::{GatewayOptions, WebTransportCertificate};
use futures_util::FutureExt as _;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wtransport::tls::Sha256Digest;
use wtransport::{ClientConfig, Connection, RecvStream, SendStream};

fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    let now = std::time::SystemTime::now();
    parameters.not_before = (now - Duration::from_secs(3_600)).into();
    parameters.not_after = (now + Duration::from_secs(13 * 24 * 3_600)).into();
    let certificate = parameters.self_signed(&key).unwrap();
    (certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()).into())
}

fn server_tls() -> (Arc<rustls::ServerConfig>, CertificateDer<'static>) {
    let (certificate, key) = certificate();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (Arc::new(config), certificate)
}

/// The status line of `GET /livez`, or the failure of the handshake.
async fn livez(address: std::net::SocketAddr, root: &CertificateDer<'static>) -> std::io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"GET /transport.json HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    // The server may close without a TLS goodbye.
    let _ = stream.read_to_end(&mut answer).await;
    Ok(String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn tls_is_served_and_its_certificate_is_replaced_while_running() {
    let (first, first_root) = server_tls();
    let shared = Arc::new(ArcSwap::new(first));
    let options = GatewayOptions::default();
    let gateway = start_with(options, Some(Arc::clone(&shared)), None, Arc::new(NameVerifier), None).await;
    assert!(livez(gateway.address, &first_root).await.unwrap().contains("wss://h/ws"));
    let (second, second_root) = server_tls();
    shared.store(second);
    assert!(livez(gateway.address, &first_root).await.is_err());
    assert!(livez(gateway.address, &second_root).await.unwrap().contains("wss://h/ws"));
}

async fn webtransport_gateway() -> (TestGateway, WebTransportCertificate) {
    webtransport_gateway_with(GatewayOptions::default()).await
}

async fn webtransport_gateway_with(options: GatewayOptions) -> (TestGateway, WebTransportCertificate) {
    let (leaf, key) = certificate();
    let certificate = WebTransportCertificate { chain: vec![leaf], key, by_hash: true };
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let both = Some((socket, certificate.clone()));
    let gateway = start_with(options, None, both, Arc::new(NameVerifier), None).await;
    (gateway, certificate)
}

/// URL and hash as a browser learns them.
async fn advertised(gateway: &TestGateway) -> (String, [u8; 32]) {
    let transports = gateway.request("GET", "/transport.json", &[], "").await.json();
    let url = transports["webtransport"]["url"].as_str().unwrap().to_owned();
    let entry = &transports["webtransport"]["certificateHashes"][0];
    assert_eq!(entry["algorithm"], "sha-256");
    let hash = base64::engine::general_purpose::STANDARD.decode(entry["value"].as_str().unwrap()).unwrap();
    (url, hash.try_into().unwrap())
}

async fn connect(gateway: &TestGateway) -> Connection {
    let (url, hash) = advertised(gateway).await;
    let config =
        ClientConfig::builder().with_bind_default().with_server_certificate_hashes([Sha256Digest::new(hash)]).build();
    wtransport::Endpoint::client(config).unwrap().connect(url).await.unwrap()
}

struct Session {
    connection: Connection,
    sender: SendStream,
    receiver: RecvStream,
}

impl Session {
    async fn open(gateway: &TestGateway) -> Self {
        let connection = connect(gateway).await;
        let (sender, receiver) = connection.open_bi().await.unwrap().await.unwrap();
        Self { connection, sender, receiver }
    }

    async fn authenticated(gateway: &TestGateway, user: &str) -> Self {
        let mut session = Self::open(gateway).await;
        session.send(&json!({"type": "auth", "payload": {"token": user}})).await;
        assert_eq!(session.next().await["type"], "connected");
        session
    }

    async fn send(&mut self, frame: &Value) {
        let text = frame.to_string();
        let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        self.sender.write_all(&bytes).await.unwrap();
    }

    async fn next(&mut self) -> Value {
        let reading = async {
            let mut length = [0; 4];
            self.receiver.read_exact(&mut length).await.unwrap();
            let mut text = vec![0; u32::from_be_bytes(length) as usize];
            self.receiver.read_exact(&mut text).await.unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap()
    }
}

#[tokio::test]
async fn webtransport_carries_the_same_frames_as_websocket() {
    let (gateway, _) = webtransport_gateway().await;
    let mut ann = Session::authenticated(&gateway, "ann").await;
    let mut bob = gateway.session("bob").await;
    for number in 1..=20 {
        ann.send(&message(number)).await;
        assert_eq!(ann.next().await["type"], "message.ack");
        assert_eq!(bob.next().await["payload"]["sequenceNumber"], json!(number));
    }
    bob.send(&message(21)).await;
    assert_eq!(ann.next().await["payload"]["sequenceNumber"], 21);
    ann.sender.finish().await.unwrap();
    while gateway.core.connections() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bob.next().await;
    bob.heartbeat().await;
}

#[tokio::test]
async fn a_session_that_does_not_read_is_closed_4010_over_webtransport_too() {
    let mut options = GatewayOptions::default();
    options.limits.session_queue = 1_000_000;
    options.limits.session_queue_bytes = 256 * 1024;
    options.times.write_timeout = Duration::from_secs(3_600);
    let (gateway, _) = webtransport_gateway_with(options).await;
    let mut other = Session::authenticated(&gateway, "bob").await;
    let mut slow = Session::authenticated(&gateway, "slow").await;
    let frame = bytes::Bytes::from(format!("{{\"type\":\"x\",\"payload\":\"{}\"}}", "a".repeat(10 * 1024)));
    while gateway.core.push_to("slow", &frame, 1) == 1 {
        tokio::task::yield_now().await;
    }
    let last = loop {
        let frame = slow.next().await;
        if frame["type"] != "x" {
            break frame;
        }
    };
    assert_eq!((&last["type"], &last["code"]), (&json!("close"), &json!(4010)), "whole frames, then the close");
    drop(slow.sender);
    slow.connection.close(0u32.into(), b"");
    other.send(&json!({"type": "heartbeat"})).await;
    assert_eq!(other.next().await["type"], "heartbeat.ack");
}

#[tokio::test]
async fn a_client_that_allows_streams_and_datagrams_gets_everything_on_its_own_stream() {
    let (gateway, _) = webtransport_gateway().await;
    let mut session = Session::open(&gateway).await;
    let auth = json!({"token": "ann", "datagrams": true, "streams": true});
    session.send(&json!({"type": "auth", "payload": auth})).await;
    assert_eq!(session.next().await["type"], "connected");
    session.send(&json!({"type": "sync.request", "id": "s1", "payload": {"conversations": []}})).await;
    let answer = session.next().await;
    assert_eq!((&answer["type"], &answer["id"]), (&json!("sync.response"), &json!("s1")));
    session.send(&json!({"type": "typing.start", "id": "t1", "payload": {"conversationId": 7}})).await;
    assert_eq!(session.next().await["payload"]["error"], "INVALID_MESSAGE");
    session.send(&json!({"type": "heartbeat"})).await;
    assert_eq!(session.next().await["type"], "heartbeat.ack");
    assert!(session.connection.accept_uni().now_or_never().is_none(), "no stream of the server");
    assert!(session.connection.receive_datagram().now_or_never().is_none(), "no datagram");
    let mut text = gateway.connect().await;
    text.send(&json!({"type": "auth", "payload": {"token": "bob", "datagrams": true, "streams": true}})).await;
    assert_eq!(text.next().await["type"], "connected");
}

#[tokio::test]
async fn a_silent_session_is_closed_4008_and_one_without_auth_4001_in_the_time_of_one() {
    let mut options = GatewayOptions::default();
    options.times.heartbeat_timeout = Duration::from_millis(300);
    options.times.auth_timeout = Duration::from_millis(300);
    let (gateway, _) = webtransport_gateway_with(options).await;
    let mut silent = Session::authenticated(&gateway, "ann").await;
    assert_eq!(silent.next().await["code"], 4008);
    let mut nobody = Session::open(&gateway).await;
    // A stream is known to the other side once something is written.
    nobody.sender.write_all(&[0]).await.unwrap();
    assert_eq!(nobody.next().await["code"], 4001);
}

#[tokio::test]
async fn bad_lengths_and_bad_tokens_close_in_band_and_hurt_no_other() {
    let (gateway, _) = webtransport_gateway().await;
    let mut other = Session::authenticated(&gateway, "bob").await;
    for length in [0u32, 64 * 1024 + 1, u32::MAX] {
        let mut session = Session::authenticated(&gateway, "ann").await;
        session.sender.write_all(&length.to_be_bytes()).await.unwrap();
        assert_eq!(session.next().await["type"], "error", "{length}");
        assert_eq!(session.next().await["code"], 4400, "{length}");
    }
    let mut session = Session::open(&gateway).await;
    session.send(&json!({"type": "auth", "payload": {"token": "mallory"}})).await;
    assert_eq!(session.next().await["code"], 4001);
    for _ in 0..5 {
        let mut half = Session::authenticated(&gateway, "ann").await;
        half.sender.write_all(&[0, 0, 1, 0, b'{']).await.unwrap();
        half.connection.close(0u32.into(), b"");
    }
    while gateway.core.connections() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    other.send(&json!({"type": "heartbeat"})).await;
    assert_eq!(other.next().await["type"], "heartbeat.ack");
}

#[tokio::test]
async fn a_renewed_certificate_is_advertised_and_old_sessions_stay() {
    let (gateway, first) = webtransport_gateway().await;
    let mut old = Session::authenticated(&gateway, "ann").await;
    let before = advertised(&gateway).await.1;
    let (leaf, key) = certificate();
    let second = WebTransportCertificate { chain: vec![leaf], key, by_hash: true };
    assert_ne!(first.chain, second.chain);
    gateway.handle.replace_webtransport_certificate(&second).unwrap();
    assert_ne!(advertised(&gateway).await.1, before);
    let mut new = Session::authenticated(&gateway, "bob").await;
    for session in [&mut old, &mut new] {
        session.send(&json!({"type": "heartbeat"})).await;
        assert_eq!(session.next().await["type"], "heartbeat.ack");
    }
}

#[tokio::test]
async fn another_path_is_no_session() {
    let (gateway, _) = webtransport_gateway().await;
    let (url, hash) = advertised(&gateway).await;
    let config =
        ClientConfig::builder().with_bind_default().with_server_certificate_hashes([Sha256Digest::new(hash)]).build();
    let endpoint = wtransport::Endpoint::client(config).unwrap();
    assert!(endpoint.connect(url.replace("/wt", "/other")).await.is_err());
}
