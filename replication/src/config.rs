//! What a region says about itself and its links when it starts them.

use std::net::SocketAddr;
use std::time::Duration;

use crate::wire::VersionRange;

/// Everything that [`crate::Links::start`] needs to know.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Name of the mesh; both sides of a link must say the same.
    pub mesh_id: String,
    /// This region's name. It must be a DNS name in the subject alternative names of the certificate.
    pub region: String,
    /// This node's name, for people; not checked.
    pub node: String,
    /// Identity of this region's store, told to every peer.
    pub store_id: [u8; 16],
    /// Number that grows with every start of this region, told to every peer.
    pub incarnation: u64,
    /// Digest of the region map; both sides of a link must have the same.
    pub map_digest: [u8; 32],
    /// Versions of what travels in frames that this side can speak.
    pub versions: VersionRange,
    /// The other regions. Names are distinct and not this region's own.
    pub peers: Vec<PeerConfig>,
    /// Certificates and the private key.
    pub tls: LinkTls,
    /// Time limits of links.
    pub times: LinkTimes,
    /// Bounds of queues and windows.
    pub limits: LinkLimits,
    /// Seed of the dice for injected loss.
    pub seed: u64,
}

/// One other region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Name of the region, as in its certificate.
    pub region: String,
    /// Address of its link endpoint. It also sends from there: faults and byte counts map by it.
    pub address: SocketAddr,
}

/// PEM texts for mutual TLS. A certificate with extended key usages must allow both client and server.
#[derive(Clone)]
pub struct LinkTls {
    /// Certificate(s) of the mesh's authority.
    pub ca_pem: String,
    /// This region's certificate, followed by intermediates if any.
    pub cert_pem: String,
    /// Private key of the certificate, PKCS#8, SEC1 or PKCS#1.
    pub key_pem: String,
}

impl std::fmt::Debug for LinkTls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LinkTls").finish_non_exhaustive()
    }
}

/// Time limits of links. The defaults suit round trips of up to a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTimes {
    /// Time between two pings (default 250 ms).
    pub ping_every: Duration,
    /// A link is down when no ping was echoed for this long (default 2.5 s).
    pub silent_after: Duration,
    /// QUIC's own idle time-out, a back-stop (default 5 s).
    pub idle: Duration,
    /// Bounds the TLS handshake and the hello of one attempt (default 1 s); every fourth attempt
    /// of a series may take 2.2 times as long, for a link with a very long round trip.
    pub establish: Duration,
    /// Largest pause before the next attempt (default 1 s; the smallest ceiling is 50 ms).
    pub reconnect_cap: Duration,
    /// Mean pause before the next attempt after a refusal (default 5 s).
    pub refused_retry: Duration,
}

impl Default for LinkTimes {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_millis(250),
            silent_after: Duration::from_millis(2_500),
            idle: Duration::from_secs(5),
            establish: Duration::from_secs(1),
            reconnect_cap: Duration::from_secs(1),
            refused_retry: Duration::from_secs(5),
        }
    }
}

/// Bounds of queues and windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkLimits {
    /// Frames that may wait in one lane to one peer (default 4,096). `send` then answers full.
    pub lane_frames: usize,
    /// Bytes that may wait in one lane to one peer (default 16 MiB). One frame always fits an empty lane.
    pub lane_bytes: usize,
    /// Events that may wait for the owner of the receiver (default 256). Readers then wait, and so
    /// in the end do the peers, by QUIC's flow control.
    pub events: usize,
    /// QUIC receive window of a stream, in bytes (default 8 MiB).
    pub stream_window: u32,
    /// QUIC receive window of a connection, in bytes (default 16 MiB): memory that a peer can make us hold.
    pub connection_window: u32,
    /// Bytes of datagrams that may wait for an injected delay (default 64 MiB); more is lost, as in a network.
    pub delayed_bytes: usize,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            lane_frames: 4_096,
            lane_bytes: 16 << 20,
            events: 256,
            stream_window: 8 << 20,
            connection_window: 16 << 20,
            delayed_bytes: 64 << 20,
        }
    }
}
