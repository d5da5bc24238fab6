//! `hearth serve`: two regions from written configurations, with their own authority, TLS and an identity provider's keys.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chaos_tests::mesh::{Secrets, hearth, run};
use chaos_tests::{Auth, Peer, new_id};
use hearth_client::rest::Rest;
use hearth_client::transport::Connection;
use hearth_client::{Address, TransportKind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

const REGIONS: [&str; 2] = ["eu-west", "us-east"];
/// Leeway of the configurations: a token is refused this long after its end.
const LEEWAY: u64 = 1;

/// A folder with an authority, certificates, keys and two configurations.
struct Site {
    folder: tempfile::TempDir,
    http: [u16; 2],
    webtransport: [u16; 2],
    signer: jsonwebtoken::EncodingKey,
    secrets: Secrets,
}

fn free_port() -> u16 {
    loop {
        let port = rand::random_range(10_000..30_000);
        let free = std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free && std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

async fn issue(region: &str, authority: &Path, out: &Path) {
    let (authority, out) = (authority.to_string_lossy(), out.to_string_lossy());
    let arguments =
        ["ca", "issue", region, "--dir", &authority, "--out", &out, "--ip", "127.0.0.1", "--dns", "localhost"];
    let exit = run(&arguments).await;
    assert_eq!(exit.code, 0, "{exit:?}");
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let jwks = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "k1",
            "x": URL_SAFE_NO_PAD.encode(key.public_key_raw()) }] });
        std::fs::write(folder.path().join("jwks.json"), jwks.to_string()).expect("written");
        std::fs::write(folder.path().join("resume.secret"), [new_id(), new_id()].concat()).expect("written");
        let signer = jsonwebtoken::EncodingKey::from_ed_pem(key.serialize_pem().as_bytes()).expect("a key");
        let (http, webtransport) = ([free_port(), free_port()], [free_port(), free_port()]);
        let site = Self { folder, http, webtransport, signer, secrets: Secrets::default() };
        let links = [free_port(), free_port()];
        for authority in ["ca", "other-ca"] {
            let exit = run(&["ca", "init", "--dir", &site.path(authority).to_string_lossy()]).await;
            assert_eq!(exit.code, 0, "{exit:?}");
        }
        for (index, region) in REGIONS.iter().enumerate() {
            issue(region, &site.path("ca"), &site.path("tls")).await;
            std::fs::write(site.config(index), site.configuration(index, links)).expect("written");
        }
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self, index: usize) -> PathBuf {
        self.path(&format!("{}.toml", REGIONS[index]))
    }

    fn configuration(&self, index: usize, links: [u16; 2]) -> String {
        let region = REGIONS[index];
        let mut text = format!(
            "[region]\nid = \"{region}\"\ndata = \"data-{region}\"\n[mesh]\nid = \"story\"\n\
             listen = \"127.0.0.1:{link}\"\ncertificate = \"tls/{region}.pem\"\nkey = \"tls/{region}.key\"\n\
             ca = \"ca/ca.pem\"\n",
            link = links[index],
        );
        for (other, name) in REGIONS.iter().enumerate() {
            text.push_str(&format!(
                "[[mesh.regions]]\nid = \"{name}\"\naddress = \"127.0.0.1:{}\"\nws = \"wss://127.0.0.1:{}/ws\"\n",
                links[other], self.http[other]
            ));
        }
        text.push_str(&format!(
            "[listen]\nhttp = \"127.0.0.1:{}\"\nwebtransport = \"127.0.0.1:{}\"\ntls = {{ certificate = \"tls/{region}.pem\", key = \"tls/{region}.key\" }}\n\
             [auth]\njwks = \"jwks.json\"\nissuer = \"story\"\nleeway = \"{LEEWAY}s\"\n\
             [[auth.resume_keys]]\nid = \"1\"\nsecret_file = \"resume.secret\"\n",
            self.http[index], self.webtransport[index],
        ));
        text
    }

    fn token(&self, user: &str, seconds: u64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
        header.kid = Some("k1".to_owned());
        let claims = json!({ "sub": user, "iss": "story", "iat": now, "exp": now + seconds });
        let token = jsonwebtoken::encode(&header, &claims, &self.signer).expect("a token");
        self.secrets.lock().expect("no panic holds it").insert(token.clone());
        token
    }

    fn trust(&self) -> Arc<rustls::ClientConfig> {
        self.trust_in("ca")
    }

    fn trust_in(&self, authority: &str) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        let authority = std::fs::read(self.path(authority).join("ca.pem")).expect("the authority");
        roots.add(CertificateDer::from_pem_slice(&authority).expect("a certificate")).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Arc::new(config.expect("versions").with_root_certificates(roots).with_no_client_auth())
    }

    fn base(&self, index: usize) -> String {
        format!("https://127.0.0.1:{}", self.http[index])
    }

    fn address(&self, index: usize) -> Address {
        let ws = format!("wss://127.0.0.1:{}/ws", self.http[index]);
        let webtransport = Some(format!("https://127.0.0.1:{}/wt", self.webtransport[index]));
        Address { http: self.base(index), ws, webtransport }
    }

    async fn peer(&self, user: &str, index: usize, token: String) -> Peer {
        self.peer_over(TransportKind::WebSocket, user, index, Auth { token, ..Auth::default() }).await
    }

    async fn peer_over(&self, kind: TransportKind, user: &str, index: usize, auth: Auth) -> Peer {
        Peer::open_at(&self.address(index), user, kind, Some(self.trust()), auth, self.secrets.clone()).await
    }

    async fn group(&self, user: &str, other: &str) -> String {
        let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured((*self.trust()).clone());
        let request = client.build().expect("a client").post(format!("{}/api/v1/groups", self.base(0)));
        let body = json!({ "name": "a story", "participantIds": [other] });
        let answer = request.bearer_auth(self.token(user, 600)).json(&body).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 201);
        let row: Value = answer.json().await.expect("a row");
        row["conversationId"].as_str().expect("an id").to_owned()
    }

    async fn tls(&self, index: usize) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.http[index])).await.expect("a connection");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        tokio_rustls::TlsConnector::from(self.trust()).connect(name, stream).await.expect("TLS")
    }

    /// Whether a client that trusts this authority alone gets a WebTransport session.
    async fn opens_webtransport(&self, index: usize, authority: &str) -> bool {
        let trust = Some(self.trust_in(authority));
        let rest = Rest::new(trust.clone()).expect("a client");
        Connection::open(&self.address(index), TransportKind::WebTransport, trust, &rest).await.is_ok()
    }

    async fn presented(&self, index: usize) -> Vec<u8> {
        let stream = self.tls(index).await;
        stream.get_ref().1.peer_certificates().expect("a certificate")[0].as_ref().to_vec()
    }
}

/// A region that runs.
struct Served {
    child: Child,
    log: PathBuf,
}

impl Served {
    async fn start(site: &Site, index: usize) -> Self {
        let log = site.path(&format!("{}.log", REGIONS[index]));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        let mut command = Command::new(hearth());
        command.args(["serve", "--json", "--config"]).arg(site.config(index)).kill_on_drop(true);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).spawn().expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await.expect("in time");
        let line = line.expect("a pipe").unwrap_or_default();
        let shown = || std::fs::read_to_string(&log).unwrap_or_default();
        assert!(line.contains("\"ready\":true"), "{line}\n{}", shown());
        Self { child, log }
    }

    async fn end(mut self, secrets: &Secrets) {
        let id = self.child.id().expect("it runs");
        kill(Pid::from_raw(i32::try_from(id).expect("a process id")), Signal::SIGTERM).expect("a signal");
        let ended = tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let status = ended.expect("it ends within 20 s").expect("it ran");
        assert_eq!(status.code(), Some(0), "{log}");
        for secret in secrets.lock().expect("no panic holds it").iter() {
            assert!(!log.contains(secret.as_str()), "a log shows a token or a text");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_served_regions_talk_over_tls_and_a_token_that_ends_ends_its_session() {
    let site = Site::new().await;
    let (one, other) = tokio::join!(Served::start(&site, 0), Served::start(&site, 1));
    let group = site.group("ann", "bob").await;
    let ann = site.peer("ann", 0, site.token("ann", 600)).await;
    let bob = site.peer("bob", 1, site.token("bob", 600)).await;
    for (peer, index) in [(&ann, 0), (&bob, 1)] {
        let hello = peer.expect("connected", |_| true).await.value;
        assert_eq!(hello["region"], REGIONS[index]);
    }
    let ack = ann.say(&group, "said over TLS").await;
    bob.expect("message.new", |frame| frame["payload"]["messageId"] == ack["messageId"]).await;
    let ack = bob.say(&group, "answered over TLS").await;
    ann.expect("message.new", |frame| frame["payload"]["messageId"] == ack["messageId"]).await;
    let short = site.peer("cem", 0, site.token("cem", 2)).await;
    short.expect("connected", |_| true).await;
    let close = short.expect_within("close", Duration::from_secs(15), |_| true).await.value;
    assert_eq!(close["code"], 4011);
    assert_eq!(short.ended(Duration::from_secs(5)).await, Some(4011));
    let late = site.peer("cem", 0, site.token("cem", 0)).await;
    tokio::time::timeout(Duration::from_secs(15), late.ended(Duration::from_secs(15))).await.expect("it ends");
    drop((ann, bob, short, late));
    tokio::join!(one.end(&site.secrets), other.end(&site.secrets));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_replaced_on_disk_are_presented_to_new_connections_and_a_foreign_page_is_refused() {
    let site = Site::new().await;
    let region = Served::start(&site, 0).await;
    let before = site.presented(0).await;
    issue(REGIONS[0], &site.path("ca"), &site.path("tls")).await;
    chaos_tests::until("the new certificate is presented", Duration::from_secs(15), || async {
        site.presented(0).await != before
    })
    .await;
    let mut stream = site.tls(0).await;
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nOrigin: https://evil.example\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        site.http[0]
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 403");
    region.end(&site.secrets).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn served_regions_talk_over_webtransport_under_their_tls_and_a_session_resumes_over_the_other_transport() {
    let site = Site::new().await;
    let (one, other) = tokio::join!(Served::start(&site, 0), Served::start(&site, 1));
    let group = site.group("ann", "bob").await;
    let over = |user: &'static str, index| {
        let auth = Auth { token: site.token(user, 600), ..Auth::default() };
        site.peer_over(TransportKind::WebTransport, user, index, auth)
    };
    let (ann, bob) = tokio::join!(over("ann", 0), over("bob", 1));
    let first = ann.say(&group, "said over QUIC").await;
    bob.expect("message.new", |frame| frame["payload"]["messageId"] == first["messageId"]).await;
    let (device, resume) = (bob.device.clone(), bob.resume_token());
    bob.leave().await;
    ann.say(&group, "while bob changes places").await;
    let cursors = json!([{ "conversationId": group, "epoch": first["epoch"], "lastSequence": 1 }]);
    let auth =
        Auth { token: site.token("bob", 600), device: Some(device), resume: Some(resume), cursors: Some(cursors) };
    let back = site.peer_over(TransportKind::WebSocket, "bob", 0, auth).await;
    let hello = back.expect("connected", |_| true).await.value;
    assert_eq!((&hello["resumed"], &hello["region"]), (&json!("exact"), &json!(REGIONS[0])));
    back.expect("message.new", |frame| frame["payload"]["sequenceNumber"] == 2).await;
    let done = back.expect("sync.complete", |_| true).await.value;
    assert_eq!(done["payload"]["resumed"], "exact");
    drop((ann, bob, back));
    tokio::join!(one.end(&site.secrets), other.end(&site.secrets));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_replaced_on_disk_is_presented_to_new_webtransport_sessions_and_old_ones_stay() {
    let site = Site::new().await;
    let region = Served::start(&site, 0).await;
    let auth = Auth { token: site.token("ann", 600), ..Auth::default() };
    let ann = site.peer_over(TransportKind::WebTransport, "ann", 0, auth).await;
    ann.settled().await;
    assert!(!site.opens_webtransport(0, "other-ca").await, "the other authority has nothing to do with it yet");
    issue(REGIONS[0], &site.path("other-ca"), &site.path("tls")).await;
    chaos_tests::until("the new certificate is presented", Duration::from_secs(20), || {
        site.opens_webtransport(0, "other-ca")
    })
    .await;
    assert!(!site.opens_webtransport(0, "ca").await, "the old certificate is presented no more");
    ann.settled().await;
    drop(ann);
    region.end(&site.secrets).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_session_is_closed_4008_after_the_configured_time_over_either_transport() {
    let site = Site::new().await;
    let text = std::fs::read_to_string(site.config(0)).expect("a configuration");
    let limits = "[limits]\nheartbeat_interval = \"1s\"\nheartbeat_timeout = \"2s\"\n";
    std::fs::write(site.config(0), format!("{text}{limits}")).expect("written");
    let region = Served::start(&site, 0).await;
    for (user, kind) in [("ann", TransportKind::WebSocket), ("bob", TransportKind::WebTransport)] {
        let auth = Auth { token: site.token(user, 600), ..Auth::default() };
        let began = Instant::now();
        let silent = site.peer_over(kind, user, 0, auth).await;
        let hello = silent.expect("connected", |_| true).await;
        assert_eq!(hello.value["heartbeatInterval"], 1_000);
        let close = silent.expect_within("close", Duration::from_secs(20), |_| true).await;
        assert_eq!(close.value["code"], 4008);
        assert!(close.at - began >= Duration::from_millis(1_990), "not before its time");
        if let Some(code) = silent.ended(Duration::from_secs(10)).await {
            assert_eq!(code, 4008);
        }
    }
    region.end(&site.secrets).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_certified_by_another_authority_gets_no_link_until_it_has_the_right_certificate() {
    let site = Site::new().await;
    let (one, other) = tokio::join!(Served::start(&site, 0), Served::start(&site, 1));
    let group = site.group("ann", "bob").await;
    let ann = site.peer("ann", 0, site.token("ann", 600)).await;
    ann.say(&group, "before the wrong certificate").await;
    other.end(&site.secrets).await;
    let right = std::fs::read_to_string(site.config(1)).expect("a configuration");
    issue(REGIONS[1], &site.path("other-ca"), &site.path("other-tls")).await;
    let mesh_part = |name: &str| format!("certificate = \"{name}/us-east.pem\"\nkey = \"{name}/us-east.key\"\nca = ");
    let half_wrong = right.replace(&mesh_part("tls"), &mesh_part("other-tls"));
    assert_ne!(right, half_wrong);
    std::fs::write(site.config(1), &half_wrong).expect("written");
    let exit = run(&["serve", "--config", &site.config(1).to_string_lossy()]).await;
    assert_eq!(exit.code, 2, "a certificate that does not fit its own authority is found at start: {exit:?}");
    let wrong = half_wrong.replace("ca = \"ca/ca.pem\"", "ca = \"other-ca/ca.pem\"");
    assert_ne!(wrong, half_wrong);
    std::fs::write(site.config(1), wrong).expect("written");
    let intruder = Served::start(&site, 1).await;
    let message = ann
        .send_payload(json!({ "messageId": new_id(), "conversationId": group, "durability": "regions:2",
            "content": { "type": "text", "text": "for two regions that trust each other" } }))
        .await;
    ann.expect("message.queued", |frame| frame["payload"]["messageId"] == message.as_str()).await;
    intruder.end(&site.secrets).await;
    std::fs::write(site.config(1), right).expect("written");
    let back = Served::start(&site, 1).await;
    ann.acked_within(&message, Duration::from_secs(20)).await;
    drop(ann);
    tokio::join!(one.end(&site.secrets), back.end(&site.secrets));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_with_an_error_ends_with_2_and_names_its_line() {
    let site = Site::new().await;
    let text = std::fs::read_to_string(site.config(0)).expect("a configuration");
    let line = text.lines().count() + 2;
    std::fs::write(site.config(0), format!("{text}[limits]\nframe_bytes = \"much\"\n")).expect("written");
    let path = site.config(0).to_string_lossy().into_owned();
    let exit = run(&["serve", "--config", &path]).await;
    assert_eq!(exit.code, 2, "{exit:?}");
    assert!(exit.err.contains(&format!(":{line}")) || exit.err.contains(&format!("line {line}")), "{exit:?}");
    assert!(exit.err.contains("frame_bytes"), "{exit:?}");
    let exit = run(&["config", "check", &path]).await;
    assert_eq!(exit.code, 1, "{exit:?}");
}
