//! Frames, faults, restarts, back-pressure and refusals.

use std::collections::HashMap;
use std::time::Duration;

use crate::support::{Authority, PATIENCE, Region, config, pair, rebind, socket};
use bytes::Bytes;
use replication::{
    DownReason, FaultState, Lane, LinkEvent, LinkFaults, LinkLimits, LinkMetrics, Refusal, SendError, VersionRange,
};
use tokio::time::{Instant, timeout};

const CUT: FaultState = FaultState { cut: true, delay: Duration::ZERO, loss_percent: 0.0 };

/// A link that is silent is down on both sides within this.
const DOWN_WITHIN: Duration = Duration::from_millis(3_500);
/// A link that was healed is up on both sides within this.
const UP_WITHIN: Duration = Duration::from_secs(2);

fn lanes() -> Vec<Lane> {
    let mut lanes = vec![Lane::Control, Lane::Bulk];
    lanes.extend((0..8).map(Lane::Message));
    lanes
}

fn number(frame: &Bytes) -> u64 {
    u64::from_be_bytes(*frame.first_chunk().expect("eight bytes"))
}

/// Sends frames 0 to `count` from one region, spread over all lanes, and checks their order there.
async fn exchange(from: &mut Region, from_name: &str, to: &mut Region, to_name: &str, count: u64) {
    let lanes = lanes();
    let sending = async {
        for index in 0..count {
            let mut frame = index.to_be_bytes().to_vec();
            frame.resize(8 + usize::try_from(index * 37 % 900).expect("small"), 0);
            from.send(to_name, lanes[usize::try_from(index).expect("small") % lanes.len()], frame.into()).await;
        }
    };
    let receiving = async {
        let mut next: HashMap<Lane, u64> = (0..).zip(&lanes).map(|(index, lane)| (*lane, index)).collect();
        let mut received = 0;
        while received < count {
            let LinkEvent::Frames { peer, lane, frames } = to.next().await else { panic!("the link is lost") };
            assert_eq!(peer, from_name);
            for frame in frames {
                let expected = next.get_mut(&lane).expect("a lane that was used");
                assert_eq!(number(&frame), *expected, "order of {lane:?}");
                *expected += lanes.len() as u64;
                received += 1;
            }
        }
    };
    timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await.expect("all arrive");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_frames_each_way_arrive_in_order_on_their_lanes() {
    let (mut west, mut east) = pair(&Authority::new(), &LinkFaults::new()).await;
    exchange(&mut west, "eu-west", &mut east, "us-east", 10_000).await;
    exchange(&mut east, "us-east", &mut west, "eu-west", 10_000).await;
    west.links.shutdown().await;
    assert!(matches!(east.down().await, DownReason::ClosedByPeer { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_arrive_in_order_through_delay_and_loss() {
    let faults = LinkFaults::new();
    let state = FaultState { delay: Duration::from_millis(5), loss_percent: 2.0, ..FaultState::default() };
    faults.set_both("eu-west", "us-east", state);
    let (mut west, mut east) = pair(&Authority::new(), &faults).await;
    exchange(&mut west, "eu-west", &mut east, "us-east", 2_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_frame_arrives_and_a_larger_one_is_refused() {
    let (west, mut east) = pair(&Authority::new(), &LinkFaults::new()).await;
    let largest = Bytes::from(vec![9; replication::MAXIMUM_FRAME_BYTES]);
    west.send("us-east", Lane::Bulk, largest.clone()).await;
    assert_eq!(east.frames().await, (Lane::Bulk, vec![largest]));
    let larger = Bytes::from(vec![9; replication::MAXIMUM_FRAME_BYTES + 1]);
    let bytes = larger.len();
    assert_eq!(west.links.send("us-east", Lane::Bulk, larger), Err(SendError::TooLarge { bytes }));
    assert_eq!(west.links.send("mars", Lane::Bulk, Bytes::new()), Err(SendError::UnknownPeer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_both_ways_is_noticed_on_both_sides_and_healed() {
    let faults = LinkFaults::new();
    let (mut west, mut east) = pair(&Authority::new(), &faults).await;
    faults.set_both("eu-west", "us-east", CUT);
    let cut = Instant::now();
    assert_eq!(west.down().await, DownReason::Silent);
    assert_eq!(east.down().await, DownReason::Silent);
    assert!(cut.elapsed() < DOWN_WITHIN, "took {:?}", cut.elapsed());
    assert!(!west.links.is_up("us-east") && !east.links.is_up("eu-west"));
    assert_eq!(west.links.send("us-east", Lane::Control, Bytes::new()), Err(SendError::Down));
    // Long enough for the dialler to have reached its longest pauses.
    tokio::time::sleep(Duration::from_secs(4)).await;
    faults.set_both("eu-west", "us-east", FaultState::default());
    let healed = Instant::now();
    west.up().await;
    east.up().await;
    assert!(healed.elapsed() < UP_WITHIN, "took {:?}", healed.elapsed());
    exchange(&mut west, "eu-west", &mut east, "us-east", 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_of_either_direction_alone_is_noticed_on_both_sides() {
    let faults = LinkFaults::new();
    let (mut west, mut east) = pair(&Authority::new(), &faults).await;
    for (from, to) in [("eu-west", "us-east"), ("us-east", "eu-west")] {
        faults.set(from, to, CUT);
        let cut = Instant::now();
        // One side may learn it from the other's farewell instead of the silence.
        let reasons = tokio::join!(west.down(), east.down());
        assert!(cut.elapsed() < DOWN_WITHIN, "took {:?}", cut.elapsed());
        assert!(reasons.0 == DownReason::Silent || reasons.1 == DownReason::Silent, "{reasons:?}");
        faults.set(from, to, FaultState::default());
        tokio::join!(west.up(), east.up());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_injected_delay_shows_in_the_round_trip_and_goes_away() {
    let faults = LinkFaults::new();
    let delay = FaultState { delay: Duration::from_millis(40), ..FaultState::default() };
    faults.set_both("eu-west", "us-east", delay);
    let (west, east) = pair(&Authority::new(), &faults).await;
    let measured = async {
        while west.links.round_trip("us-east").is_none() || east.links.round_trip("eu-west").is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, measured).await.expect("measured");
    for round_trip in [west.links.round_trip("us-east"), east.links.round_trip("eu-west")] {
        let round_trip = round_trip.expect("measured");
        assert!(round_trip >= Duration::from_millis(80), "{round_trip:?}");
        assert!(round_trip < Duration::from_millis(200), "{round_trip:?}");
    }
    faults.set_both("eu-west", "us-east", FaultState::default());
    let fell = async {
        while west.links.round_trip("us-east").is_none_or(|round_trip| round_trip > Duration::from_millis(40)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, fell).await.expect("the smoothed round trip follows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stops_is_down_at_once_and_seen_again_with_its_new_incarnation() {
    let authority = Authority::new();
    let faults = LinkFaults::new();
    let ((west_socket, west_address), (east_socket, east_address)) = (socket(), socket());
    let west_config = config(&authority, "eu-west", &[("us-east", east_address)]);
    let east_config = config(&authority, "us-east", &[("eu-west", west_address)]);
    let mut west = Region::start(west_config.clone(), west_socket, &faults).await;
    let mut east = Region::start(east_config.clone(), east_socket, &faults).await;
    tokio::join!(west.up(), east.up());
    // The side that accepts, then the side that dials.
    let stopped = Instant::now();
    east.links.shutdown().await;
    assert!(matches!(west.down().await, DownReason::ClosedByPeer { .. }));
    assert!(stopped.elapsed() < Duration::from_secs(2), "took {:?}", stopped.elapsed());
    assert_eq!(east.down().await, DownReason::Shutdown);
    drop(east);
    let again = replication::LinkConfig { incarnation: 2, ..east_config };
    let mut east = Region::start(again, rebind(east_address).await, &faults).await;
    assert_eq!(west.up().await.incarnation, 2);
    assert_eq!(east.up().await.incarnation, 1);
    west.links.shutdown().await;
    assert!(matches!(east.down().await, DownReason::ClosedByPeer { .. }));
    drop(west);
    let again = replication::LinkConfig { incarnation: 5, ..west_config };
    let mut west = Region::start(again, rebind(west_address).await, &faults).await;
    assert_eq!(west.up().await.incarnation, 2);
    assert_eq!(east.up().await.incarnation, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialler_that_crashed_and_came_back_replaces_its_old_link() {
    let authority = Authority::new();
    let faults = LinkFaults::new();
    let ((west_socket, west_address), (east_socket, east_address)) = (socket(), socket());
    let west_config = config(&authority, "eu-west", &[("us-east", east_address)]);
    let mut east_config = config(&authority, "us-east", &[("eu-west", west_address)]);
    // So patient that only the new connection, or the reset of the old, can end the old one.
    east_config.times.silent_after = PATIENCE;
    east_config.times.idle = PATIENCE;
    let mut west = Region::start(west_config.clone(), west_socket, &faults).await;
    let mut east = Region::start(east_config, east_socket, &faults).await;
    tokio::join!(west.up(), east.up());
    west.links.vanish().await;
    drop(west);
    let again = replication::LinkConfig { incarnation: 2, ..west_config };
    let mut west = Region::start(again, rebind(west_address).await, &faults).await;
    west.up().await;
    let reason = east.down().await;
    assert!(matches!(reason, DownReason::Replaced | DownReason::Reset), "{reason:?}");
    assert_eq!(east.up().await.incarnation, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_crashed_and_came_back_resets_the_link_it_forgot() {
    let authority = Authority::new();
    let faults = LinkFaults::new();
    let ((west_socket, west_address), (east_socket, east_address)) = (socket(), socket());
    let mut west_config = config(&authority, "eu-west", &[("us-east", east_address)]);
    let east_config = config(&authority, "us-east", &[("eu-west", west_address)]);
    west_config.times.silent_after = PATIENCE;
    west_config.times.idle = PATIENCE;
    let mut west = Region::start(west_config, west_socket, &faults).await;
    let mut east = Region::start(east_config.clone(), east_socket, &faults).await;
    tokio::join!(west.up(), east.up());
    east.links.vanish().await;
    drop(east);
    let mut east = Region::start(east_config, rebind(east_address).await, &faults).await;
    assert_eq!(west.down().await, DownReason::Reset);
    tokio::join!(west.up(), east.up());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_fills_its_own_lane_and_stalls_nobody_else() {
    let authority = Authority::new();
    let faults = LinkFaults::new();
    let sockets = [socket(), socket(), socket()];
    let [west_address, south_address, east_address] = [sockets[0].1, sockets[1].1, sockets[2].1];
    let [(west, _), (south, _), (east, _)] = sockets;
    let west_config = config(&authority, "eu-west", &[("sa-east", south_address), ("us-east", east_address)]);
    let mut south_config = config(&authority, "sa-east", &[("eu-west", west_address)]);
    south_config.limits = LinkLimits { events: 2, ..LinkLimits::default() };
    let east_config = config(&authority, "us-east", &[("eu-west", west_address)]);
    let mut west = Region::start(west_config, west, &faults).await;
    let mut south = Region::start(south_config, south, &faults).await;
    let mut east = Region::start(east_config, east, &faults).await;
    west.up().await;
    west.up().await;
    south.up().await;
    east.up().await;
    let frame = Bytes::from(vec![1; 64 << 10]);
    let mut sent = 0;
    let filled = async {
        // The windows fill first, then the lane: full for good is full twice with time between.
        let mut refused = 0;
        while refused < 20 {
            match west.links.send("sa-east", Lane::Bulk, frame.clone()) {
                Ok(()) => (sent, refused) = (sent + 1, 0),
                Err(SendError::Full { .. }) => {
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(PATIENCE, filled).await.expect("fills");
    exchange(&mut west, "eu-west", &mut east, "us-east", 1_000).await;
    // Longer than a silent link is tolerated: pings do not wait behind frames.
    tokio::time::sleep(DOWN_WITHIN).await;
    assert!(west.links.is_up("sa-east") && south.links.is_up("eu-west"));
    let mut received = 0;
    while received < sent {
        received += south.frames().await.1.len();
    }
    west.send("sa-east", Lane::Control, Bytes::from_static(b"after")).await;
    assert_eq!(south.frames().await, (Lane::Control, vec![Bytes::from_static(b"after")]));
}

/// Starts two regions whose configurations disagree and gives what each is told.
async fn disagree(change: impl FnOnce(&mut replication::LinkConfig)) -> (Refusal, Refusal) {
    let authority = Authority::new();
    let faults = LinkFaults::new();
    let ((west_socket, west_address), (east_socket, east_address)) = (socket(), socket());
    let west_config = config(&authority, "eu-west", &[("us-east", east_address)]);
    let mut east_config = config(&authority, "us-east", &[("eu-west", west_address)]);
    change(&mut east_config);
    let mut west = Region::start(west_config, west_socket, &faults).await;
    let mut east = Region::start(east_config, east_socket, &faults).await;
    let refusals = tokio::join!(west.refused(), east.refused());
    assert!(!west.links.is_up("us-east") && !east.links.is_up("eu-west"));
    refusals
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_map_or_mesh_is_refused_with_the_reason_on_both_sides() {
    let (ours, newer) = (VersionRange::default(), VersionRange { minimum: 2, current: 3 });
    let (west, east) = disagree(|config| config.versions = newer).await;
    assert_eq!(west, Refusal::Version(replication::Incompatible { ours, theirs: newer }));
    assert_eq!(east, Refusal::Version(replication::Incompatible { ours: newer, theirs: ours }));
    let refusals = disagree(|config| config.map_digest = [8; 32]).await;
    assert_eq!(refusals, (Refusal::MapDigest, Refusal::MapDigest));
    let refusals = disagree(|config| config.mesh_id = "other".into()).await;
    assert_eq!(refusals, (Refusal::Mesh, Refusal::Mesh));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_round_trip_and_state_are_exported() {
    let faults = LinkFaults::new();
    let authority = Authority::new();
    let metrics = LinkMetrics::default();
    let ((west, west_address), (east, east_address)) = (socket(), socket());
    let west_config = config(&authority, "eu-west", &[("us-east", east_address)]);
    let east_config = config(&authority, "us-east", &[("eu-west", west_address)]);
    let mut west = Region::start_measured(west_config, west, &faults, metrics.clone()).await;
    let mut east = Region::start_measured(east_config, east, &faults, metrics.clone()).await;
    tokio::join!(west.up(), east.up());
    west.send("us-east", Lane::Bulk, Bytes::from(vec![0; 100_000])).await;
    east.frames().await;
    let mut registry = prometheus_client::registry::Registry::default();
    metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name)).expect("exported");
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    };
    assert!(value("hearth_link_bytes_total{from=\"eu-west\",to=\"us-east\"}") > 100_000.0);
    assert!(value("hearth_link_received_bytes_total{from=\"eu-west\",to=\"us-east\"}") > 100_000.0);
    assert!(value("hearth_link_bytes_total{from=\"us-east\",to=\"eu-west\"}") > 1_000.0);
    assert_eq!(value("hearth_link_up{from=\"eu-west\",to=\"us-east\"}"), 1.0);
    assert_eq!(value("hearth_link_queue_frames{from=\"eu-west\",to=\"us-east\",lane=\"bulk\"}"), 0.0);
}
