//! What a development mesh is made of: options as given, and the spec with every port and address settled.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hearth_config::{
    AdministrationSection, AuthSection, DrainSection, FailoverSection, Limits, ListenSection, LogSection, MediaSection,
    MeshRegion, MeshSection, Pem, PushSection, RegionConfig, RegionSection, ReplicationSection, ResumeKey, SecretText,
    WebTransportCertificate,
};
use serde::{Deserialize, Serialize};

use super::folder::Secrets;
use super::servers::DevServers;

/// One-way delay of the links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// As oceans have it: eu-us 40 ms, us-ap 90 ms, eu-ap 70 ms, any other pair 50 ms.
    Default,
    /// The same for every link; zero for none.
    Fixed(Duration),
}

impl Latency {
    /// The one-way delay between two regions, by the first two letters of their names.
    #[must_use]
    pub fn between(self, one: &str, other: &str) -> Duration {
        let Self::Default = self else {
            let Self::Fixed(delay) = self else { return Duration::ZERO };
            return delay;
        };
        let mut pair = [one.get(..2).unwrap_or(one), other.get(..2).unwrap_or(other)];
        pair.sort_unstable();
        Duration::from_millis(match pair {
            ["eu", "us"] => 40,
            ["ap", "us"] => 90,
            ["ap", "eu"] => 70,
            _ => 50,
        })
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerAddress {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl FromStr for ServerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not HOST:PORT");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().map_err(|_| wrong())?;
        if host.is_empty() || port == 0 { Err(wrong()) } else { Ok(Self { host: host.to_owned(), port }) }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Where the regions of a development mesh keep what is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DevStores {
    /// In files of the data folder.
    Embedded,
    /// In servers, in builds that speak to them.
    Production {
        /// The CQL server, `host:port`.
        cassandra: String,
        /// The PostgreSQL server.
        postgresql: ServerAddress,
    },
}

/// Options of `hearth dev`.
#[derive(Clone, Debug)]
pub struct DevOptions {
    /// Regions in their order.
    pub regions: Vec<String>,
    /// Region i listens on `port + i`; 0 for any free port.
    pub port: u16,
    /// The data folder.
    pub data: PathBuf,
    /// Whether the data folder is emptied first.
    pub fresh: bool,
    /// Delay of links.
    pub latency: Latency,
    /// Whether rate limits hold.
    pub limits: bool,
    /// Period of anti-entropy.
    pub anti_entropy: Duration,
    /// Period of the sweep that takes the texts of deleted messages away.
    pub content_sweep: Duration,
    /// How long a day of `retentionDays` lasts.
    pub retention_day: Duration,
    /// Whether a region that is gone is failed over by itself.
    pub failover: bool,
    /// How long it is out of reach before, within [`FailoverSection::AFTER`].
    pub failover_after: Duration,
    /// One process a region.
    pub processes: bool,
    /// Where the regions keep what is durable.
    pub stores: DevStores,
}

impl Default for DevOptions {
    fn default() -> Self {
        Self {
            regions: ["eu-west", "us-east", "ap-south"].map(str::to_owned).to_vec(),
            port: 8081,
            data: PathBuf::from(".hearth-dev"),
            fresh: false,
            latency: Latency::Default,
            limits: true,
            anti_entropy: Duration::from_secs(5),
            content_sweep: Limits::default().content_sweep,
            retention_day: Limits::default().retention_day,
            failover: FailoverSection::default().automatic,
            failover_after: FailoverSection::default().after,
            processes: false,
            stores: DevStores::Embedded,
        }
    }
}

/// One region with its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionSpec {
    /// The region.
    pub id: String,
    /// TCP for HTTP and UDP for WebTransport.
    pub port: u16,
    /// UDP for links.
    pub link_port: u16,
    /// TCP for administrators.
    pub administration_port: u16,
    /// Its folder.
    pub data: PathBuf,
}

/// A mesh with every address settled: what a child process is given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DevSpec {
    /// The data folder, absolute.
    pub data: PathBuf,
    /// Regions in their order.
    pub regions: Vec<RegionSpec>,
    /// One-way delays in milliseconds: from, to, delay.
    pub delays: Vec<(String, String, u64)>,
    /// Whether rate limits hold.
    pub limits: bool,
    /// Period of anti-entropy.
    pub anti_entropy: Duration,
    /// Period of the sweep that takes the texts of deleted messages away.
    pub content_sweep: Duration,
    /// How long a day of `retentionDays` lasts.
    pub retention_day: Duration,
    /// Whether a region that is gone is failed over by itself.
    pub failover: bool,
    /// How long it is out of reach before.
    pub failover_after: Duration,
    /// What it has in servers; `None` with embedded stores.
    #[serde(default)]
    pub servers: Option<DevServers>,
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl RegionSpec {
    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `ws://127.0.0.1:PORT/ws`.
    #[must_use]
    pub fn ws(&self) -> String {
        format!("ws://127.0.0.1:{}/ws", self.port)
    }

    /// `https://127.0.0.1:PORT` of the administration port.
    #[must_use]
    pub fn administration(&self) -> String {
        format!("https://127.0.0.1:{}", self.administration_port)
    }

    /// `https://127.0.0.1:PORT/wt`.
    #[must_use]
    pub fn webtransport(&self) -> String {
        format!("https://127.0.0.1:{}/wt", self.port)
    }
}

impl DevSpec {
    /// The spec of a region.
    #[must_use]
    pub fn region(&self, id: &str) -> Option<&RegionSpec> {
        self.regions.iter().find(|region| region.id == id)
    }

    /// The hosts that a region of the mesh is asked under.
    pub(crate) fn hosts(&self) -> Vec<String> {
        self.regions
            .iter()
            .flat_map(|region| [format!("127.0.0.1:{}", region.port), format!("localhost:{}", region.port)])
            .collect()
    }

    /// The configuration of one region: the same structure as `hearth serve` reads from a file.
    pub(crate) fn config(&self, region: &RegionSpec, secrets: &Secrets) -> RegionConfig {
        // Everybody comes from one address: what bounds all of a node's connections bounds theirs.
        let (content_sweep, retention_day) = (self.content_sweep, self.retention_day);
        let mut limits = Limits { content_sweep, retention_day, ..Limits::default() };
        limits.connections_per_address = limits.sessions * 2;
        limits.connects_per_minute = 0;
        if !self.limits {
            limits.messages_per_minute = 0;
            limits.conversation_messages_per_minute = 0;
        }
        let mut listen = ListenSection::new(loopback(region.port));
        listen.webtransport = Some(loopback(region.port));
        listen.webtransport_certificate = WebTransportCertificate::SelfMade;
        listen.allowed_origins = self.hosts().iter().map(|host| format!("http://{host}")).collect();
        listen.public_ws = Some(region.ws());
        listen.public_webtransport = Some(region.webtransport());
        let regions = self.regions.iter().map(|entry| {
            let mut row = MeshRegion::new(entry.id.clone(), loopback(entry.link_port).to_string());
            row.ws = Some(entry.ws());
            row.webtransport = Some(entry.webtransport());
            row
        });
        RegionConfig {
            region: RegionSection { id: region.id.clone(), node: "core-1".to_owned(), data: region.data.clone() },
            mesh: MeshSection {
                id: "hearth-dev".to_owned(),
                listen: loopback(region.link_port),
                certificate: Pem::File(region.data.join("region.pem")),
                key: Pem::File(region.data.join("region.key")),
                ca: Pem::File(self.data.join("ca").join("ca.pem")),
                regions: regions.collect(),
            },
            listen,
            auth: AuthSection {
                hs256_secret: Some(SecretText::new(secrets.token.clone())),
                issuer: Some(super::folder::ISSUER.to_owned()),
                resume_keys: vec![ResumeKey::inline("dev", SecretText::new(secrets.resume.clone()))],
                ..AuthSection::default()
            },
            limits,
            replication: ReplicationSection { anti_entropy: self.anti_entropy },
            failover: FailoverSection { automatic: self.failover, after: self.failover_after },
            administration: AdministrationSection { listen: loopback(region.administration_port) },
            drain: DrainSection { within: Duration::from_secs(5) },
            store: self.servers.as_ref().map(|servers| servers.store(&region.id)).unwrap_or_default(),
            push: PushSection { log: true, ..PushSection::default() },
            media: MediaSection::default(),
            log: LogSection::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_server_is_a_host_and_a_port_and_reads_as_it_is_shown() {
        for good in ["127.0.0.1:19032", "db.example.com:5432", "[::1]:5432"] {
            let address: ServerAddress = good.parse().expect("an address");
            assert_eq!(address.to_string(), good);
        }
        for bad in ["", "db", "db:", ":5432", "db:0", "db:65536", "db:port"] {
            let said = bad.parse::<ServerAddress>().expect_err(bad);
            assert!(said.contains("HOST:PORT"), "{said}");
        }
    }
}
