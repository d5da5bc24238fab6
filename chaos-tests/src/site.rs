//! Regions from written configurations, each a `hearth serve` of its own, as an operator sets them up.

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hearth_client::rest::Rest;
use hearth_client::transport::Connection;
use hearth_client::{Address, TransportKind};
use nix::sys::signal::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};

use crate::process::{Process, Secrets, check_log, hide, log_of, run};
use crate::web::{self, Answer};
use crate::{Auth, Peer, new_id};

/// The regions of a site, in their order; most sites have the first two.
pub const REGIONS: [&str; 4] = ["eu-west", "us-east", "ap-south", "sa-east"];
/// Leeway of the configurations, in seconds: a token is refused this long after its end.
pub const LEEWAY: u64 = 1;

/// How clients reach a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Without TLS, as behind a proxy.
    Plain,
    /// With TLS.
    Tls,
}

/// Whose tokens the regions take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// An identity provider's, by its public keys in a file.
    Jwks,
    /// Those of who knows a shared secret.
    Secret,
}

/// A folder with an authority, certificates, keys and configurations.
pub struct Site {
    folder: tempfile::TempDir,
    doors: Vec<Door>,
    keys: Keys,
    http: [u16; REGIONS.len()],
    webtransport: [u16; REGIONS.len()],
    links: [u16; REGIONS.len()],
    settings: String,
    signer: jsonwebtoken::EncodingKey,
    /// What no log may show.
    pub secrets: Secrets,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site").field("http", &self.http).finish_non_exhaustive()
    }
}

/// A port that is free for TCP and UDP. Another process may still take it first.
#[must_use]
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(10_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// `hearth ca issue`, by the authority in a folder.
///
/// # Panics
/// When it fails.
pub async fn issue(region: &str, authority: &Path, out: &Path) {
    let (authority, out) = (authority.to_string_lossy(), out.to_string_lossy());
    let arguments =
        ["ca", "issue", region, "--dir", &authority, "--out", &out, "--ip", "127.0.0.1", "--dns", "localhost"];
    let exit = run(&arguments).await;
    assert_eq!(exit.code, 0, "{exit:?}");
}

impl Site {
    /// Writes everything that two regions need, and a second authority that they do not trust.
    ///
    /// # Panics
    /// When a command that operators use does not work.
    pub async fn new(doors: [Door; 2], keys: Keys) -> Self {
        Self::of(&doors, keys, "").await
    }

    /// Writes everything that as many regions need as there are doors, and a second authority that they do not trust.
    /// `settings` are further sections of every configuration; `{region}` in them stands for the region's name with `_`
    /// instead of `-`.
    ///
    /// # Panics
    /// When a command that operators use does not work.
    pub async fn of(doors: &[Door], keys: Keys, settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let jwks = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "k1",
            "x": URL_SAFE_NO_PAD.encode(key.public_key_raw()) }] });
        let secret = [new_id(), new_id()].concat();
        std::fs::write(folder.path().join("jwks.json"), jwks.to_string()).expect("written");
        std::fs::write(folder.path().join("token.secret"), &secret).expect("written");
        std::fs::write(folder.path().join("resume.secret"), [new_id(), new_id()].concat()).expect("written");
        let signer = match keys {
            Keys::Jwks => jsonwebtoken::EncodingKey::from_ed_pem(key.serialize_pem().as_bytes()).expect("a key"),
            Keys::Secret => jsonwebtoken::EncodingKey::from_secret(secret.as_bytes()),
        };
        let ports = || std::array::from_fn(|_| free_port());
        let site = Self {
            folder,
            doors: Vec::new(),
            keys,
            http: ports(),
            webtransport: ports(),
            links: ports(),
            settings: settings.to_owned(),
            signer,
            secrets: Secrets::default(),
        };
        for authority in ["ca", "other-ca"] {
            let exit = run(&["ca", "init", "--dir", &site.path(authority).to_string_lossy()]).await;
            assert_eq!(exit.code, 0, "{exit:?}");
        }
        let mut site = site;
        for door in doors {
            site.add(*door).await;
        }
        site
    }

    /// Gives one more region a certificate and a configuration, and lists it at the end of all others.
    ///
    /// # Panics
    /// When a command that operators use does not work, or there is no name for one more.
    pub async fn add(&mut self, door: Door) {
        issue(REGIONS[self.doors.len()], &self.path("ca"), &self.path("tls")).await;
        self.doors.push(door);
        for index in 0..self.doors.len() {
            std::fs::write(self.config(index), self.configuration(index)).expect("written");
        }
    }

    /// A file or folder of the site.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The configuration of a region.
    #[must_use]
    pub fn config(&self, index: usize) -> PathBuf {
        self.path(&format!("{}.toml", REGIONS[index]))
    }

    fn configuration(&self, index: usize) -> String {
        let region = REGIONS[index];
        let mut text = format!(
            "[region]\nid = \"{region}\"\ndata = \"data-{region}\"\n[mesh]\nid = \"story\"\n\
             listen = \"127.0.0.1:{link}\"\ncertificate = \"tls/{region}.pem\"\nkey = \"tls/{region}.key\"\n\
             ca = \"ca/ca.pem\"\n",
            link = self.links[index],
        );
        for (other, name) in REGIONS.iter().enumerate().take(self.doors.len()) {
            let (link, ws) = (self.links[other], self.address(other).ws);
            text.push_str(&format!(
                "[[mesh.regions]]\nid = \"{name}\"\naddress = \"127.0.0.1:{link}\"\nws = \"{ws}\"\n"
            ));
        }
        text.push_str(&format!("[listen]\nhttp = \"127.0.0.1:{}\"\n", self.http[index]));
        if self.doors[index] == Door::Tls {
            text.push_str(&format!(
                "webtransport = \"127.0.0.1:{}\"\n\
                 tls = {{ certificate = \"tls/{region}.pem\", key = \"tls/{region}.key\" }}\n",
                self.webtransport[index]
            ));
        }
        let keys = match self.keys {
            Keys::Jwks => "jwks = \"jwks.json\"",
            Keys::Secret => "hs256_secret_file = \"token.secret\"",
        };
        text.push_str(&format!(
            "[auth]\n{keys}\nissuer = \"story\"\naudience = \"chat\"\nleeway = \"{LEEWAY}s\"\n\
             [[auth.resume_keys]]\nid = \"1\"\nsecret_file = \"resume.secret\"\n{}",
            self.settings.replace("{region}", &region.replace('-', "_"))
        ));
        text
    }

    /// A token for `seconds`.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn token(&self, user: &str, seconds: u64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let header = match self.keys {
            Keys::Jwks => jsonwebtoken::Header {
                kid: Some("k1".to_owned()),
                ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA)
            },
            Keys::Secret => jsonwebtoken::Header::default(),
        };
        let claims = json!({ "sub": user, "iss": "story", "aud": "chat", "iat": now, "exp": now + seconds });
        let token = jsonwebtoken::encode(&header, &claims, &self.signer).expect("a token");
        hide(&self.secrets, &token);
        token
    }

    /// TLS that trusts the site's authority.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn trust(&self) -> Arc<rustls::ClientConfig> {
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

    /// Where clients reach a region.
    #[must_use]
    pub fn address(&self, index: usize) -> Address {
        let (http, ws) = match self.doors[index] {
            Door::Plain => ("http", "ws"),
            Door::Tls => ("https", "wss"),
        };
        let port = self.http[index];
        Address {
            http: format!("{http}://127.0.0.1:{port}"),
            ws: format!("{ws}://127.0.0.1:{port}/ws"),
            webtransport: (self.doors[index] == Door::Tls)
                .then(|| format!("https://127.0.0.1:{}/wt", self.webtransport[index])),
        }
    }

    /// The port that clients of a region come to.
    #[must_use]
    pub fn port(&self, index: usize) -> u16 {
        self.http[index]
    }

    /// A session of a user that brings `token`.
    pub async fn peer(&self, user: &str, index: usize, token: String) -> Peer {
        self.peer_over(TransportKind::WebSocket, user, index, Auth { token, ..Auth::default() }).await
    }

    /// A session of a user over a transport.
    pub async fn peer_over(&self, kind: TransportKind, user: &str, index: usize, auth: Auth) -> Peer {
        let trust = (self.doors[index] == Door::Tls).then(|| self.trust());
        Peer::open_at(&self.address(index), user, kind, trust, auth, self.secrets.clone()).await
    }

    /// Whether a client that trusts this authority alone gets a WebTransport session.
    ///
    /// # Panics
    /// When there is no such authority.
    pub async fn opens_webtransport(&self, index: usize, authority: &str) -> bool {
        let trust = Some(self.trust_in(authority));
        let rest = Rest::new(trust.clone()).expect("a client");
        Connection::open(&self.address(index), TransportKind::WebTransport, trust, &rest).await.is_ok()
    }

    /// The sum of a metric of a region.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn metric(&self, index: usize, name: &str) -> f64 {
        web::metric(&self.rest(None, index, "GET", "/metrics", None, &[]).await.text, name, "")
    }

    /// One request to a region as `user`, or without credentials.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn rest(
        &self,
        user: Option<&str>,
        index: usize,
        method: &str,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let token = user.map(|user| self.token(user, 600));
        let trust = (*self.trust()).clone();
        let base = self.address(index).http;
        let answer = web::try_call(Some(trust), &base, method, path, body, token.as_deref(), headers).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// A group of two, made at the first region.
    pub async fn group(&self, user: &str, other: &str) -> String {
        self.group_of(user, &[other]).await
    }

    /// A group of `user` and `others`, made at the first region.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn group_of(&self, user: &str, others: &[&str]) -> String {
        let body = json!({ "name": "a story", "participantIds": others });
        let answer = self.rest(Some(user), 0, "POST", "/api/v1/groups", Some(body), &[]).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.body["conversationId"].as_str().expect("an id").to_owned()
    }

    /// The whole history of a conversation at a region, ascending.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn history(&self, user: &str, index: usize, conversation: &str) -> Vec<Value> {
        let (trust, token) = ((*self.trust()).clone(), self.token(user, 600));
        let rows = web::history(Some(trust), &self.address(index).http, &token, conversation).await;
        rows.unwrap_or_else(|answer| panic!("{answer:?}"))
    }

    /// A bare TLS connection to a region.
    ///
    /// # Panics
    /// When the region does not prove who it is.
    pub async fn tls(&self, index: usize) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.http[index])).await.expect("a connection");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        tokio_rustls::TlsConnector::from(self.trust()).connect(name, stream).await.expect("TLS")
    }

    /// The certificate that a region presents.
    ///
    /// # Panics
    /// When it presents none.
    pub async fn presented(&self, index: usize) -> Vec<u8> {
        let stream = self.tls(index).await;
        stream.get_ref().1.peer_certificates().expect("a certificate")[0].as_ref().to_vec()
    }
}

/// A region of a site that runs.
#[derive(Debug)]
pub struct Served {
    /// Its process.
    pub process: Process,
    /// Where administrators reach it, as its ready line says: `https://127.0.0.1:PORT`.
    pub administration: String,
    log: PathBuf,
    secrets: Secrets,
}

impl Served {
    /// `hearth serve` with the configuration of a region.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start(site: &Site, index: usize) -> Self {
        let log = site.path(&format!("{}.log", REGIONS[index]));
        let config = site.config(index).to_string_lossy().into_owned();
        let arguments = ["serve", "--json", "--config", &config].map(str::to_owned);
        let started = Process::start(&arguments, &[], &log).await;
        let (process, ready) =
            started.unwrap_or_else(|code| panic!("hearth serve ended with {code}\n{}", log_of(&log)));
        let administration = format!("https://{}", ready["administration"].as_str().unwrap_or_default());
        Self { process, administration, log, secrets: site.secrets.clone() }
    }

    /// Ends it as an operator does, and looks at what it has logged.
    ///
    /// # Panics
    /// When it does not end with 0, or a log shows a token or a text.
    pub async fn end(mut self) {
        self.process.signal(Signal::SIGTERM);
        assert_eq!(self.process.wait().await, 0, "{}", log_of(&self.log));
        check_log(&log_of(&self.log), &self.secrets);
    }
}
