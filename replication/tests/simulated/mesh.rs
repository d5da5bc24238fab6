//! Three regions on a simulated network, each sending numbered frames to the others while their links are up.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use replication::{
    FaultState, Lane, LinkConfig, LinkEvent, LinkFaults, LinkLimits, LinkMetrics, LinkTimes, LinkTls, Links,
    LinksHandle, PeerConfig, SendError, VersionRange,
};

use crate::socket::{PORT, SimulatedSocket};

pub(crate) const REGIONS: [&str; 3] = ["ap-south", "eu-west", "us-east"];
/// A frame to each peer that often.
const EVERY: Duration = Duration::from_millis(20);
/// Padding of every tenth frame: larger than a datagram.
const LARGE: usize = 4_000;

/// What one region saw of another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) ups: u64,
    pub(crate) downs: u64,
    pub(crate) is_up: bool,
    /// Frames that arrived since the link was up last.
    pub(crate) since_up: u64,
    pub(crate) frames: u64,
    /// The number of the last frame: the start of its sender, the link as that counted it, and the place in it.
    last: Option<(u64, u64, u64)>,
    /// Sends that were refused because the lane was full.
    pub(crate) full: u64,
}

/// By who saw and whom.
pub(crate) type Book = Arc<Mutex<HashMap<(&'static str, String), Seen>>>;

/// What a test may do to the regions while they run.
#[derive(Clone, Default)]
pub(crate) struct Controls {
    pub(crate) faults: LinkFaults,
    pub(crate) book: Book,
    /// Starts of each region so far.
    starts: Arc<Mutex<HashMap<&'static str, u64>>>,
    /// A region that does not read its events.
    pub(crate) deaf: Arc<Mutex<Option<&'static str>>>,
}

pub(crate) struct Certificates(HashMap<&'static str, LinkTls>);

impl Certificates {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = params.self_signed(&key).expect("self-signed").pem();
        let issuer = Issuer::new(params, key);
        let of = |region: &'static str| {
            let key = KeyPair::generate().expect("key");
            let params = CertificateParams::new(vec![region.to_owned()]).expect("a DNS name");
            let cert_pem = params.signed_by(&key, &issuer).expect("signed").pem();
            (region, LinkTls { ca_pem: ca_pem.clone(), cert_pem, key_pem: key.serialize_pem() })
        };
        Self(REGIONS.into_iter().map(of).collect())
    }
}

/// The network of a seed with its three regions; nothing runs yet.
pub(crate) fn mesh(seed: u64, controls: &Controls, certificates: &Certificates) -> turmoil::Sim<'static> {
    let mut mesh = turmoil::Builder::new()
        .simulation_duration(Duration::from_secs(600))
        .tick_duration(Duration::from_millis(5))
        .min_message_latency(Duration::from_millis(5))
        .max_message_latency(Duration::from_millis(80))
        .udp_capacity(65_536)
        .rng_seed(seed)
        .build();
    for region in REGIONS {
        let (controls, tls) = (controls.clone(), certificates.0[region].clone());
        mesh.host(region, move || run(region, seed, controls.clone(), tls.clone()));
    }
    mesh
}

/// One start of a region.
async fn run(region: &'static str, seed: u64, controls: Controls, tls: LinkTls) -> turmoil::Result {
    let start = {
        let mut starts = controls.starts.lock();
        let start = starts.entry(region).or_default();
        *start += 1;
        *start
    };
    let others: Vec<&str> = REGIONS.into_iter().filter(|other| *other != region).collect();
    let address = |peer: &str| SocketAddr::new(turmoil::lookup(peer), PORT);
    let config = LinkConfig {
        mesh_id: "simulated".into(),
        region: region.into(),
        node: format!("{region}-1"),
        store_id: [1; 16],
        incarnation: start,
        map_digest: [7; 32],
        versions: VersionRange::default(),
        peers: others.iter().map(|peer| PeerConfig { region: (*peer).into(), address: address(peer) }).collect(),
        tls,
        times: LinkTimes::default(),
        // Small, so that who does not read holds up who sends to it within seconds.
        limits: LinkLimits { lane_frames: 64, events: 16, stream_window: 65_536, ..LinkLimits::default() },
        seed,
    };
    let socket = SimulatedSocket::bind().await?;
    let (links, mut events) = Links::start_over(config, socket, controls.faults.clone(), LinkMetrics::default())?;
    // By peer: the link, counted, and the place of the next frame in it.
    let mut sending: HashMap<String, (u64, u64)> = HashMap::new();
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        let deaf = *controls.deaf.lock() == Some(region);
        tokio::select! {
            event = events.recv(), if !deaf => {
                let Some(event) = event else { return Ok(()) };
                note(region, event, &controls.book, &mut sending);
            }
            _ = ticks.tick() => send_all(region, start, &links, &controls.book, &mut sending),
        }
    }
}

fn send_all(
    region: &'static str,
    start: u64,
    links: &LinksHandle,
    book: &Book,
    sending: &mut HashMap<String, (u64, u64)>,
) {
    for (peer, (link, place)) in sending {
        let mut frame: Vec<u8> = [start, *link, *place].iter().flat_map(|part| part.to_be_bytes()).collect();
        if place.is_multiple_of(10) {
            frame.resize(LARGE, 0);
        }
        match links.send(peer, Lane::Message(3), frame.into()) {
            Ok(()) => *place += 1,
            Err(SendError::Full { .. }) => {
                book.lock().entry((region, peer.clone())).or_default().full += 1;
            }
            // Its event is on the way.
            Err(_) => {}
        }
    }
}

/// Notes an event, and checks what a link promises: at most once, in order, without a gap while it is up.
fn note(region: &'static str, event: LinkEvent, book: &Book, sending: &mut HashMap<String, (u64, u64)>) {
    let mut book = book.lock();
    match event {
        LinkEvent::Up { peer, .. } => {
            let seen = book.entry((region, peer.clone())).or_default();
            assert!(!seen.is_up, "{region}: the link to {peer} is up twice");
            (seen.is_up, seen.ups, seen.since_up) = (true, seen.ups + 1, 0);
            sending.insert(peer, (seen.ups, 0));
        }
        LinkEvent::Down { peer, .. } => {
            let seen = book.entry((region, peer.clone())).or_default();
            assert!(seen.is_up, "{region}: the link to {peer} is down twice");
            (seen.is_up, seen.downs) = (false, seen.downs + 1);
            sending.remove(&peer);
        }
        LinkEvent::Frames { peer, lane, frames } => {
            assert_eq!(lane, Lane::Message(3));
            let seen = book.entry((region, peer.clone())).or_default();
            assert!(seen.is_up, "{region}: frames of {peer} over a link that is down");
            frames.iter().for_each(|frame| take(region, &peer, seen, frame));
        }
        LinkEvent::Refused { peer, reason } => panic!("{region}: {peer} refused: {reason:?}"),
    }
}

fn take(region: &str, peer: &str, seen: &mut Seen, frame: &Bytes) {
    let part = |index: usize| u64::from_be_bytes(frame[index * 8..index * 8 + 8].try_into().expect("eight bytes"));
    let number = (part(0), part(1), part(2));
    if let Some(last) = seen.last {
        assert!(number > last, "{region}: {number:?} of {peer} came after {last:?}");
        let follows = number == (last.0, last.1, last.2 + 1);
        let begins = number.2 == 0 && number.1 > last.1;
        assert!(
            seen.since_up == 0 || follows || begins,
            "{region}: between {last:?} and {number:?} of {peer} is a gap"
        );
    }
    seen.last = Some(number);
    seen.since_up += 1;
    seen.frames += 1;
}

/// Cleared at a crash: what a region saw before is not what its next start sees.
pub(crate) fn crash(mesh: &mut turmoil::Sim<'_>, controls: &Controls, region: &'static str) {
    mesh.crash(region);
    for ((of, _), seen) in controls.book.lock().iter_mut() {
        if *of == region {
            seen.is_up = false;
        }
    }
}

/// Lets simulated time pass.
pub(crate) fn pass(mesh: &mut turmoil::Sim<'_>, time: Duration) {
    let end = mesh.elapsed() + time;
    while mesh.elapsed() < end {
        mesh.step().expect("no region ends or panics");
    }
}

/// Loss of datagrams between all regions, in percent.
pub(crate) fn lose(controls: &Controls, percent: f64) {
    for from in REGIONS {
        for to in REGIONS.into_iter().filter(|to| *to != from) {
            controls.faults.set(from, to, FaultState { loss_percent: percent, ..FaultState::default() });
        }
    }
}

impl Controls {
    pub(crate) fn seen(&self, by: &'static str, of: &str) -> Seen {
        self.book.lock().get(&(by, of.to_owned())).cloned().unwrap_or_default()
    }

    /// Every pair of regions in both directions.
    pub(crate) fn pairs(&self) -> Vec<(&'static str, &'static str, Seen)> {
        let of = |one: &'static str| REGIONS.into_iter().filter(move |other| *other != one).map(move |to| (one, to));
        REGIONS.into_iter().flat_map(of).map(|(one, other)| (one, other, self.seen(one, other))).collect()
    }
}
