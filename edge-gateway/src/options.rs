//! What a gateway is told at its start. Plain values: the composition fills them from the configuration.

use std::net::IpAddr;
use std::time::Duration;

use hearth_protocol::client::FrameLimits;
use hearth_protocol::limits;

/// Everything that an operator may set about the edge of one region.
#[derive(Clone, Debug, Default)]
pub struct GatewayOptions {
    /// Bounds.
    pub limits: GatewayLimits,
    /// Times.
    pub times: GatewayTimes,
    /// Which pages and names may reach it.
    pub access: Access,
    /// The URL under which clients reach everything else, as `https://eu-west.chat.example.com`; default: built from the
    /// `Host` of the request.
    pub public_http: Option<String>,
    /// The URL under which clients reach `/ws`; default: built from the `Host` of the request.
    pub public_ws: Option<String>,
    /// The URL under which clients reach `/wt`; default: built from the `Host` and the UDP port.
    pub public_webtransport: Option<String>,
}

/// Bounds of the edge.
#[derive(Clone, Debug)]
pub struct GatewayLimits {
    /// Sizes of a client frame.
    pub frame: FrameLimits,
    /// Bytes of a REST body.
    pub body_bytes: usize,
    /// Users named by one request.
    pub members_per_request: usize,
    /// Messages a minute of one user in this region; 0: no limit.
    pub messages_per_minute: u32,
    /// Refusals within a minute after which a session is closed (4029); 0: never.
    pub refusals_per_minute: u32,
    /// Client sessions of this region. A further one is refused `OVERLOADED`.
    pub sessions: usize,
    /// Connections of this region, of every kind. A further one is refused `OVERLOADED`, or closed at once while many
    /// are being refused; one of WebTransport is refused in its handshake.
    pub connections: usize,
    /// Connections from one address; behind a proxy sessions of one. A further one is refused as above.
    pub connections_per_address: usize,
    /// New connections from one address a minute; 0: no limit. A further one is refused `RATE_LIMITED`.
    pub connects_per_minute: u32,
    /// Sessions that are opened at a time of clients that log in, 1 or more; the others wait.
    pub logins_at_once: usize,
    /// Sessions that are opened at a time of clients that resume, 1 or more.
    pub resumes_at_once: usize,
    /// Events that wait for one session: above three quarters its messages are to be pulled, above all it is closed (4010).
    pub session_queue: usize,
    /// Bytes of frames that wait for one session, likewise; also of those that wait behind replays,
    /// before the client is told to pull.
    pub session_queue_bytes: usize,
    /// API requests of one session that run at once. Further frames are not read until one is answered.
    pub session_requests: usize,
    /// Resumes of single conversations that one session runs at once; the others wait.
    pub session_replays: usize,
    /// Live frames of one session that wait behind replays. Above it the client is told to pull.
    pub held_frames: usize,
    /// Conversations of one session whose last number is remembered. Above it the oldest knowledge is dropped.
    pub tracked_conversations: usize,
    /// Missed messages that a resume sends itself; above it the client pulls.
    pub replay_rows: u64,
    /// Missed messages above which a gap is announced first.
    pub gap_rows: u64,
    /// Bytes of one answer in a frame. A larger one is refused `TOO_LARGE`: ask for fewer rows.
    pub answer_bytes: usize,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            frame: FrameLimits::default(),
            body_bytes: limits::BODY_BYTES,
            members_per_request: limits::MEMBERS_PER_REQUEST,
            messages_per_minute: limits::MESSAGES_PER_MINUTE,
            refusals_per_minute: limits::REFUSALS_PER_MINUTE,
            sessions: 100_000,
            connections: 110_000,
            connections_per_address: 10_000,
            connects_per_minute: 0,
            logins_at_once: 128,
            resumes_at_once: 512,
            session_queue: 1_024,
            session_queue_bytes: 1024 * 1024,
            session_requests: 64,
            session_replays: 8,
            held_frames: 1_000,
            tracked_conversations: 4_096,
            replay_rows: limits::REPLAY_ROWS,
            gap_rows: limits::REPLAY_GAP_ROWS,
            answer_bytes: 16 * 1024 * 1024,
        }
    }
}

/// Times of the edge.
#[derive(Clone, Debug)]
pub struct GatewayTimes {
    /// Within which an `auth` frame must come.
    pub auth_timeout: Duration,
    /// What `connected` tells clients.
    pub heartbeat_interval: Duration,
    /// Without a frame for this long, a session is closed (4008).
    pub heartbeat_timeout: Duration,
    /// How old a resume token may be.
    pub resume_for: Duration,
    /// Within which the head of a request, and a TLS handshake, must be complete.
    pub header_timeout: Duration,
    /// How long one write may be blocked before the session counts as a slow consumer.
    pub write_timeout: Duration,
}

impl Default for GatewayTimes {
    fn default() -> Self {
        Self {
            auth_timeout: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(30),
            heartbeat_timeout: Duration::from_secs(90),
            resume_for: Duration::from_secs(7 * 24 * 3600),
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
        }
    }
}

/// Which pages, names and proxies are believed.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Origins of pages that may connect, as `https://chat.example.com`; `*` for all. The origin of the request's own
    /// `Host` is always allowed, because such a page came from here.
    pub allowed_origins: Vec<String>,
    /// Whether a foreign origin is refused everywhere, not on `/ws` and `/wt` alone (development).
    pub refuse_foreign_origins: bool,
    /// `Host` values that are served, as `127.0.0.1:8081`; none: all. Development sets it against DNS rebinding.
    pub allowed_hosts: Option<Vec<String>>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_forwarders: Vec<AddressRange>,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// The first bits are compared.
    pub address: IpAddr,
    /// How many bits: 0 to 32, or to 128.
    pub prefix: u8,
}

impl AddressRange {
    /// Whether `address` lies in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix.min(32));
                u64::from(range.to_bits()) >> shift == u64::from(address.to_bits()) >> shift
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix.min(128));
                shift == 128 || range.to_bits() >> shift == address.to_bits() >> shift
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_its_own_addresses_and_no_others() {
        let range = |text: &str, prefix| AddressRange { address: text.parse().unwrap(), prefix };
        let inside = |range: AddressRange, text: &str| range.contains(text.parse().unwrap());
        assert!(inside(range("10.1.0.0", 16), "10.1.255.7"));
        assert!(!inside(range("10.1.0.0", 16), "10.2.0.1"));
        assert!(inside(range("0.0.0.0", 0), "9.9.9.9"));
        assert!(inside(range("127.0.0.1", 32), "::ffff:127.0.0.1"));
        assert!(inside(range("fd00::", 8), "fd12::1") && !inside(range("fd00::", 8), "fe80::1"));
        assert!(inside(range("::", 0), "fe80::1") && !inside(range("::", 0), "10.0.0.1"));
    }
}
