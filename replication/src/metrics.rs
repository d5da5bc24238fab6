//! Metrics of links. One set serves all regions of a process: `from` tells them apart.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::wire::Refusal;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Direction {
    from: String,
    to: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LaneLabels {
    from: String,
    to: String,
    lane: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    from: String,
    to: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RefusedLabels {
    region: String,
    reason: &'static str,
}

/// Metrics of all links of a process. Clones share their values; register one of them once.
#[derive(Clone, Debug, Default)]
pub struct LinkMetrics {
    sent_bytes: Family<Direction, Counter>,
    received_bytes: Family<Direction, Counter>,
    round_trip: Family<Direction, Gauge<f64, AtomicU64>>,
    up: Family<Direction, Gauge>,
    queue_frames: Family<LaneLabels, Gauge>,
    queue_bytes: Family<LaneLabels, Gauge>,
    dropped_frames: Family<ReasonLabels, Counter>,
    dropped_datagrams: Family<ReasonLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
}

impl LinkMetrics {
    /// Adds all metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "hearth_link_bytes",
            "UDP payload bytes sent on region links, counted at the QUIC sockets",
            self.sent_bytes.clone(),
        );
        registry.register(
            "hearth_link_received_bytes",
            "UDP payload bytes received on region links, counted at the QUIC sockets",
            self.received_bytes.clone(),
        );
        registry.register_with_unit(
            "hearth_link_round_trip",
            "Smoothed time between a ping and its echo",
            Unit::Seconds,
            self.round_trip.clone(),
        );
        registry.register("hearth_link_up", "1 when the link is up, else 0", self.up.clone());
        registry.register("hearth_link_queue_frames", "Frames that wait in a lane", self.queue_frames.clone());
        registry.register("hearth_link_queue_bytes", "Bytes that wait in a lane", self.queue_bytes.clone());
        registry.register(
            "hearth_link_dropped_frames",
            "Frames not taken (full, down, too_large) or lost with a link (unsent)",
            self.dropped_frames.clone(),
        );
        registry.register(
            "hearth_link_dropped_datagrams",
            "Datagrams dropped under QUIC by injected faults (cut, loss, overflow) or errors",
            self.dropped_datagrams.clone(),
        );
        registry.register("hearth_link_refused", "Connections refused by this region or to it", self.refused.clone());
    }

    /// The metrics of one pair, as `region` sees it.
    pub(crate) fn pair(&self, region: &str, peer: &str) -> PairMetrics {
        for reason in Refusal::NAMES {
            // What never happened reads 0 and is not absent.
            drop(self.refused.get_or_create(&RefusedLabels { region: region.to_owned(), reason }));
        }
        let outward = Direction { from: region.to_owned(), to: peer.to_owned() };
        let inward = Direction { from: peer.to_owned(), to: region.to_owned() };
        let reason = |family: &Family<ReasonLabels, Counter>, reason| {
            let labels = ReasonLabels { from: region.to_owned(), to: peer.to_owned(), reason };
            family.get_or_create_owned(&labels)
        };
        PairMetrics {
            sent_bytes: self.sent_bytes.get_or_create_owned(&outward),
            received_bytes: self.received_bytes.get_or_create_owned(&inward),
            round_trip: self.round_trip.get_or_create_owned(&outward),
            up: self.up.get_or_create_owned(&outward),
            frames_full: reason(&self.dropped_frames, "full"),
            frames_down: reason(&self.dropped_frames, "down"),
            frames_too_large: reason(&self.dropped_frames, "too_large"),
            frames_unsent: reason(&self.dropped_frames, "unsent"),
            datagrams_cut: reason(&self.dropped_datagrams, "cut"),
            datagrams_lost: reason(&self.dropped_datagrams, "loss"),
            datagrams_overflow: reason(&self.dropped_datagrams, "overflow"),
            datagrams_error: reason(&self.dropped_datagrams, "error"),
        }
    }

    /// Depth of one lane's queue: frames and bytes.
    pub(crate) fn lane(&self, region: &str, peer: &str, lane: String) -> (Gauge, Gauge) {
        let labels = LaneLabels { from: region.to_owned(), to: peer.to_owned(), lane };
        (self.queue_frames.get_or_create_owned(&labels), self.queue_bytes.get_or_create_owned(&labels))
    }

    /// Counts a refusal in which `region` took part.
    pub(crate) fn count_refused(&self, region: &str, reason: &'static str) {
        self.refused.get_or_create(&RefusedLabels { region: region.to_owned(), reason }).inc();
    }
}

/// Resolved metrics of one pair, so that the hot path looks up no labels.
#[derive(Clone, Debug)]
pub(crate) struct PairMetrics {
    pub(crate) sent_bytes: Counter,
    pub(crate) received_bytes: Counter,
    pub(crate) round_trip: Gauge<f64, AtomicU64>,
    pub(crate) up: Gauge,
    pub(crate) frames_full: Counter,
    pub(crate) frames_down: Counter,
    pub(crate) frames_too_large: Counter,
    pub(crate) frames_unsent: Counter,
    pub(crate) datagrams_cut: Counter,
    pub(crate) datagrams_lost: Counter,
    pub(crate) datagrams_overflow: Counter,
    pub(crate) datagrams_error: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exported_names_are_those_of_the_documentation() {
        let metrics = LinkMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let pair = metrics.pair("eu-west", "us-east");
        pair.sent_bytes.inc_by(1_200);
        pair.received_bytes.inc_by(40);
        pair.round_trip.set(0.08);
        pair.up.set(1);
        metrics.lane("eu-west", "us-east", "bulk".into()).0.set(3);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        for line in [
            "hearth_link_bytes_total{from=\"eu-west\",to=\"us-east\"} 1200",
            "hearth_link_received_bytes_total{from=\"us-east\",to=\"eu-west\"} 40",
            "hearth_link_round_trip_seconds{from=\"eu-west\",to=\"us-east\"} 0.08",
            "hearth_link_up{from=\"eu-west\",to=\"us-east\"} 1",
            "hearth_link_queue_frames{from=\"eu-west\",to=\"us-east\",lane=\"bulk\"} 3",
            "hearth_link_dropped_frames_total{from=\"eu-west\",to=\"us-east\",reason=\"full\"} 0",
            "hearth_link_dropped_datagrams_total{from=\"eu-west\",to=\"us-east\",reason=\"cut\"} 0",
            "hearth_link_refused_total{region=\"eu-west\",reason=\"certificate\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
