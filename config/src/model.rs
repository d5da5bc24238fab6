//! What one region is told: the structures behind `hearth serve --config FILE`, also built in code by
//! the development mesh.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::files::{FileError, read_text};
use crate::limits::Limits;
use crate::media::MediaSection;
use crate::push::PushSection;
use crate::store::StoreSection;
use crate::values::{Network, Pem, SecretText, duration};

/// The number of the region map's rules that [`RegionConfig::map_digest`] covers: slots are dealt round
/// robin over the ordered regions.
pub const MAP_VERSION: u32 = 1;

/// Everything that one region is told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionConfig {
    /// Which region this is.
    pub region: RegionSection,
    /// The mesh that it belongs to.
    pub mesh: MeshSection,
    /// Where clients reach it.
    pub listen: ListenSection,
    /// Whose tokens it accepts.
    #[serde(default)]
    pub auth: AuthSection,
    /// What it refuses.
    #[serde(default)]
    pub limits: Limits,
    /// How it keeps up with other regions.
    #[serde(default)]
    pub replication: ReplicationSection,
    /// What it does about regions that are gone.
    #[serde(default)]
    pub failover: FailoverSection,
    /// Where administrators reach it.
    #[serde(default)]
    pub administration: AdministrationSection,
    /// How it leaves.
    #[serde(default)]
    pub drain: DrainSection,
    /// Where it keeps what is durable.
    #[serde(default)]
    pub store: StoreSection,
    /// How users are woken.
    #[serde(default)]
    pub push: PushSection,
    /// What clients may attach to messages.
    #[serde(default)]
    pub media: MediaSection,
    /// What it logs.
    #[serde(default)]
    pub log: LogSection,
}

/// `[region]`: which region this is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionSection {
    /// The region's name, one of `mesh.regions`.
    pub id: String,
    /// The node's name within the region; default `core-1`.
    #[serde(default = "default_node")]
    pub node: String,
    /// The folder that holds the region's stores; made when it does not exist.
    pub data: PathBuf,
}

fn default_node() -> String {
    "core-1".to_owned()
}

/// `[mesh]`: the regions and the links between them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshSection {
    /// The mesh's name; regions of another mesh are refused.
    pub id: String,
    /// Where links of other regions arrive (UDP).
    pub listen: SocketAddr,
    /// This region's certificate chain, made by `hearth ca issue`; it names the region.
    pub certificate: Pem,
    /// The certificate's private key.
    pub key: Pem,
    /// The mesh's certificate authority, made by `hearth ca init`.
    pub ca: Pem,
    /// All regions, this one included. The order is part of the region map: every region has the same
    /// list in the same order.
    pub regions: Vec<MeshRegion>,
}

/// One entry of `mesh.regions`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshRegion {
    /// The region's name.
    pub id: String,
    /// Where other regions reach its links (UDP): `host:port` or `IP:port`.
    pub address: String,
    /// The full URL of its WebSocket for clients (`wss://…/ws`), told in `connected`; none: not told.
    #[serde(default)]
    pub ws: Option<String>,
    /// The full URL of its WebTransport for clients (`https://…/wt`), told in `connected`; none: not told.
    #[serde(default)]
    pub webtransport: Option<String>,
}

impl MeshRegion {
    /// A region at `address` without client URLs.
    #[must_use]
    pub fn new(id: impl Into<String>, address: impl Into<String>) -> Self {
        Self { id: id.into(), address: address.into(), ws: None, webtransport: None }
    }

    /// Looks the address up; blocks on the name service when it is a host name.
    ///
    /// # Errors
    /// When the name is unknown, has no address, or no port stands behind it.
    pub fn resolve(&self) -> std::io::Result<SocketAddr> {
        self.address.to_socket_addrs()?.next().ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::NotFound, format!("{} has no address", self.address))
        })
    }
}

/// `[listen]`: where clients reach the region.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenSection {
    /// HTTP, REST and WebSocket (TCP).
    pub http: SocketAddr,
    /// WebTransport (UDP); default none: no WebTransport.
    #[serde(default)]
    pub webtransport: Option<SocketAddr>,
    /// Certificate and key for the client listeners, read again when they change; default none: `http`
    /// is plain, as behind a proxy that ends TLS.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    /// What WebTransport presents; default `tls`.
    #[serde(default)]
    pub webtransport_certificate: WebTransportCertificate,
    /// Origins of web pages that may connect, as `https://chat.example.com`, or `*` for all. Default
    /// none: pages of the origin of `public_http` alone. Clients that send no origin are no browsers
    /// and are not asked.
    #[serde(default)]
    pub allowed_origins: Vec<String>,
    /// Addresses or ranges of proxies whose `X-Forwarded-For` is believed. Default none: the peer's own
    /// address counts. `Forwarded` is never believed: a proxy that does not set it passes on the client's.
    #[serde(default)]
    pub trusted_forwarders: Vec<Network>,
    /// The URL under which clients reach `http`, as `https://eu-west.chat.example.com`; default none:
    /// built from the listener.
    #[serde(default)]
    pub public_http: Option<String>,
    /// The full URL of the WebSocket for clients, ending in `/ws`; default none: built from the listener.
    #[serde(default)]
    pub public_ws: Option<String>,
    /// The full URL of WebTransport for clients, ending in `/wt`; default none: built from the listener.
    #[serde(default)]
    pub public_webtransport: Option<String>,
}

impl ListenSection {
    /// A plain listener at `http` with every default.
    #[must_use]
    pub fn new(http: SocketAddr) -> Self {
        Self {
            http,
            webtransport: None,
            tls: None,
            webtransport_certificate: WebTransportCertificate::default(),
            allowed_origins: Vec::new(),
            trusted_forwarders: Vec::new(),
            public_http: None,
            public_ws: None,
            public_webtransport: None,
        }
    }
}

/// A certificate chain with its private key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The certificate chain, the listener's own certificate first.
    pub certificate: Pem,
    /// The private key.
    pub key: Pem,
}

/// What the WebTransport listener presents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WebTransportCertificate {
    /// `listen.tls`.
    #[default]
    Tls,
    /// A certificate of at most 14 days that the region makes and renews itself; browsers accept it by
    /// its hash in `/transport.json`.
    SelfMade,
}

/// `[auth]`: whose tokens are accepted.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthSection {
    /// A JWKS file with the public keys (EdDSA, ES256, RS256) that tokens are signed by; default none.
    pub jwks: Option<PathBuf>,
    /// A file with a shared secret (HS256) of at least 32 bytes; default none.
    pub hs256_secret_file: Option<PathBuf>,
    /// The shared secret itself: from the environment or code, never in a configuration file.
    pub hs256_secret: Option<SecretText>,
    /// The `iss` that a token must carry; default none: any.
    pub issuer: Option<String>,
    /// The `aud` that a token must carry; default none: any.
    pub audience: Option<String>,
    /// How far clocks may differ when `exp` and `nbf` are checked; default 60 s, at most 10 minutes.
    #[serde(deserialize_with = "duration::deserialize")]
    pub leeway: Duration,
    /// Keys of resume tokens, the same in all regions: the first signs, all verify.
    pub resume_keys: Vec<ResumeKey>,
}

impl Default for AuthSection {
    fn default() -> Self {
        Self {
            jwks: None,
            hs256_secret_file: None,
            hs256_secret: None,
            issuer: None,
            audience: None,
            leeway: Duration::from_secs(60),
            resume_keys: Vec::new(),
        }
    }
}

impl AuthSection {
    /// The HS256 secret, of the environment or code first, then of its file; none when neither is set.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_hs256_secret(&self) -> Result<Option<SecretText>, FileError> {
        read_secret(self.hs256_secret.as_ref(), self.hs256_secret_file.as_deref())
    }
}

/// One entry of `auth.resume_keys`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeKey {
    /// The key's name, carried in tokens so that the right key verifies them.
    pub id: String,
    /// A file with a secret of at least 32 bytes.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// The secret itself: from the environment or code, never in a configuration file.
    #[serde(default)]
    pub secret: Option<SecretText>,
}

impl ResumeKey {
    /// A key in memory.
    #[must_use]
    pub fn inline(id: impl Into<String>, secret: SecretText) -> Self {
        Self { id: id.into(), secret_file: None, secret: Some(secret) }
    }

    /// The secret, of the environment or code first, then of its file; none when neither is set.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_secret(&self) -> Result<Option<SecretText>, FileError> {
        read_secret(self.secret.as_ref(), self.secret_file.as_deref())
    }
}

fn read_secret(inline: Option<&SecretText>, file: Option<&Path>) -> Result<Option<SecretText>, FileError> {
    match (inline, file) {
        (Some(secret), _) => Ok(Some(secret.clone())),
        (None, Some(path)) => read_text(path).map(|text| Some(SecretText::new(text))),
        (None, None) => Ok(None),
    }
}

/// `[replication]`: how the region keeps up with others.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicationSection {
    /// How often neighbours compare what they hold; default 5 s.
    #[serde(deserialize_with = "duration::deserialize")]
    pub anti_entropy: Duration,
}

impl Default for ReplicationSection {
    fn default() -> Self {
        Self { anti_entropy: Duration::from_secs(5) }
    }
}

/// `[failover]`: what happens to a region that is gone. The region that leads the region map goes by its own file, so all
/// regions have the same.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FailoverSection {
    /// Whether a region that is gone is failed over without a word of the operator; default true. It never is where
    /// fewer than three regions vote on the region map.
    pub automatic: bool,
    /// For how long a region has to be out of reach; default 10 s, from 1 s to 1 hour.
    #[serde(deserialize_with = "duration::deserialize")]
    pub after: Duration,
}

impl FailoverSection {
    /// The shortest and the longest `after`.
    pub const AFTER: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
}

impl Default for FailoverSection {
    fn default() -> Self {
        Self { automatic: true, after: Duration::from_secs(10) }
    }
}

/// `[administration]`: where administrators reach this node, with certificates that `hearth ca issue admin` made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdministrationSection {
    /// The administration port (TCP, mutual TLS by the certificates of `[mesh]`); default `127.0.0.1:0`: any free port,
    /// of this machine only. Where it is stands in `administration.json` in the data folder.
    pub listen: SocketAddr,
}

impl Default for AdministrationSection {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 0)) }
    }
}

/// `[drain]`: how the region leaves when it is stopped.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrainSection {
    /// The time within which all sessions are asked to leave; default 10 s.
    #[serde(deserialize_with = "duration::deserialize")]
    pub within: Duration,
}

impl Default for DrainSection {
    fn default() -> Self {
        Self { within: Duration::from_secs(10) }
    }
}

/// `[log]`: what goes to standard error.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// `text` (default) or `json`.
    pub format: LogFormat,
    /// A tracing filter, as `info,hearth_mesh=debug`; default `info`. `HEARTH_LOG` and `RUST_LOG`
    /// replace it.
    pub filter: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl RegionConfig {
    /// The names of all regions in the map's order.
    #[must_use]
    pub fn region_ids(&self) -> Vec<&str> {
        self.mesh.regions.iter().map(|region| region.id.as_str()).collect()
    }

    /// SHA-256 over the map's version and the ordered region names: two regions whose digests differ
    /// would deal slots differently and must not link.
    #[must_use]
    pub fn map_digest(&self) -> [u8; 32] {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        context.update(&MAP_VERSION.to_be_bytes());
        for id in self.region_ids() {
            context.update(&(id.len() as u64).to_be_bytes());
            context.update(id.as_bytes());
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }

    /// Makes every relative path absolute against `folder`, the folder of the configuration file.
    pub fn resolve_paths(&mut self, folder: &Path) {
        let absolute = |path: &mut PathBuf| *path = folder.join(&*path);
        absolute(&mut self.region.data);
        self.mesh.certificate.resolve(folder);
        self.mesh.key.resolve(folder);
        self.mesh.ca.resolve(folder);
        if let Some(tls) = &mut self.listen.tls {
            tls.certificate.resolve(folder);
            tls.key.resolve(folder);
        }
        self.store.resolve(folder);
        self.push.resolve(folder);
        self.media.resolve(folder);
        self.auth.jwks.iter_mut().for_each(absolute);
        self.auth.hs256_secret_file.iter_mut().for_each(absolute);
        self.auth.resume_keys.iter_mut().filter_map(|key| key.secret_file.as_mut()).for_each(absolute);
    }
}
