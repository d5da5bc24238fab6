//! What a region counts, read when `/metrics` is asked for. Labels come from closed sets: regions, never users.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use region_model::CoreGauges;

use crate::region::Region;

/// What a region measures as it goes.
#[derive(Clone, Debug)]
pub(crate) struct Measures {
    /// From the hand-over to the store to its answer.
    pub(crate) append_seconds: Histogram,
    /// Log appends handed over in one call; calls that wait share a commit.
    pub(crate) append_entries: Histogram,
    /// From the number to the hand-over to sessions of this region, by the wall clocks of home and edge.
    pub(crate) delivery_seconds: Histogram,
}

impl Default for Measures {
    fn default() -> Self {
        Self {
            append_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            append_entries: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            delivery_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
        }
    }
}

#[derive(Debug)]
struct RegionCollector {
    /// Weak: a region that stopped is not kept by its metrics.
    region: Weak<Region>,
}

pub(crate) fn register(region: &Arc<Region>, registry: &mut Registry) {
    let measures = &region.measures;
    let label = ("region".into(), region.me().as_str().to_owned().into());
    let labelled = registry.sub_registry_with_label(label);
    let help = "Time of a durable append";
    labelled.register("hearth_home_append_duration_seconds", help, measures.append_seconds.clone());
    labelled.register("hearth_home_append_batch", "Log appends in one call", measures.append_entries.clone());
    labelled.register(
        "hearth_home_delivery_duration_seconds",
        "From the number of an entry to its hand-over to sessions here",
        measures.delivery_seconds.clone(),
    );
    registry.register_collector(Box::new(RegionCollector { region: Arc::downgrade(region) }));
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Names, helps and values of what has no label but the region.
fn counters(region: &Region) -> [(&'static str, &'static str, u64); 22] {
    let store = &region.stores.counters;
    let push = &region.push.counters;
    [
        ("hearth_store_commits", "Durable commits", load(&store.commits)),
        ("hearth_store_syncs", "Syncs asked of the kernel", load(&store.syncs)),
        ("hearth_store_appends", "Log appends in commits", load(&store.appends)),
        ("hearth_store_entries", "Entries in commits", load(&store.entries)),
        ("hearth_store_repeated", "Requests to servers that were made again", load(&store.repeated)),
        ("hearth_store_requests", "Requests to servers", load(&store.requests)),
        ("hearth_store_rounds", "Conditional writes asked of servers", load(&store.rounds)),
        ("hearth_store_bytes", "Bytes of the journal, or of values sent to servers", load(&store.bytes)),
        ("hearth_home_deliveries", "Entries handed to sessions", load(&region.hub.delivered)),
        ("hearth_home_deliveries_dropped", "Entries that a session did not take", load(&region.hub.dropped)),
        ("hearth_mesh_frames_not_sent", "Frames that a link did not take", load(&region.counters.frames_not_sent)),
        ("hearth_mesh_frames_unreadable", "Frames that do not read", load(&region.counters.frames_unreadable)),
        ("hearth_mesh_forks", "Times that the lines of a log forked", load(&region.counters.forks)),
        ("hearth_receipts_taken", "Receipts of clients", load(&region.receipts.taken)),
        ("hearth_receipts_dropped", "Receipts that found a queue full", load(&region.receipts.dropped)),
        ("hearth_receipts_told", "Receipts handed to sessions", load(&region.receipts.told)),
        ("hearth_typing_told", "Typing updates handed to sessions", load(&region.typing.told)),
        ("hearth_typing_dropped", "Words about typing that found a queue full", load(&region.typing.dropped)),
        ("hearth_presence_told", "Presence updates and answers handed to sessions", load(&region.presence.told)),
        ("hearth_presence_dropped", "Words about presence told later or again", load(&region.presence.dropped)),
        ("hearth_push_dropped", "Words about push told again", load(&push.dropped)),
        ("hearth_push_full", "Pushes that found the queue full", load(&push.full)),
    ]
}

impl Collector for RegionCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(region) = self.region.upgrade() else { return Ok(()) };
        let labels = [("region", region.me().as_str().to_owned())];
        for (name, help, value) in counters(&region) {
            let metric = ConstCounter::new(value);
            let mut encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(encoder.encode_family(&labels)?)?;
        }
        encode_decisions(&region, &mut encoder)?;
        encode_spent(&region, &mut encoder)?;
        let gauges = region.gauges.lock().clone();
        let away = region.store.away().is_some();
        let ready = i64::from(!region.has_failed() && !away && !*region.draining.borrow());
        let losses = signed(load(&region.counters.open_losses));
        let presence = region.presence.sizes();
        let (members, (media_bytes, media)) = (signed(region.receipts.members() as u64), region.media.sizes());
        let values: [(&str, &str, i64); 18] = [
            ("hearth_region_ready", "1 while the region serves", ready),
            ("hearth_store_away", "1 while the store does not answer", i64::from(away)),
            ("hearth_store_queue", "Calls that wait for the committer", signed(load(&region.stores.counters.waiting))),
            (
                "hearth_home_fanout_queue",
                "Deliveries of large conversations that wait",
                signed(load(&region.hub.waiting)),
            ),
            ("hearth_home_loaded_logs", "Logs in memory", signed(gauges.loaded_logs as u64)),
            ("hearth_home_forwards", "Commands on their way to other regions", signed(gauges.forwards as u64)),
            ("hearth_home_parked", "Parked sends", signed(gauges.parked as u64)),
            ("hearth_home_failing_over", "Logs that are given a home here", signed(gauges.failing_over as u64)),
            ("hearth_home_joining", "Copies here that do not count yet", signed(gauges.joining as u64)),
            ("hearth_home_losses_open", "Loss statements whose missing part has not come back", losses),
            ("hearth_receipts_members", "Members whose cursors are in memory", members),
            ("hearth_presence_devices", "Devices that are there", signed(presence.devices as u64)),
            ("hearth_presence_subscriptions", "Presence subscriptions", signed(presence.subscriptions as u64)),
            ("hearth_presence_asked", "Users that other regions ask for", signed(presence.asked as u64)),
            ("hearth_push_users", "Users who may be woken from here", signed(load(&region.push.counters.users))),
            ("hearth_media_bytes", "Bytes of media, with those that have not come yet", signed(media_bytes)),
            ("hearth_media_items", "Media, with those that have not come yet", signed(media)),
            ("hearth_home_tails", "Logs whose tails have not come back yet", signed(gauges.tails as u64)),
        ];
        for (name, help, value) in values {
            let metric = ConstGauge::new(value);
            let mut encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(encoder.encode_family(&labels)?)?;
        }
        encode_lag(&region, &gauges, &mut encoder)
    }
}

fn encode_spent(region: &Region, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    let spent = ConstCounter::new(load(&region.stores.counters.commit_microseconds) as f64 / 1e6);
    let help = "Time in commits, sync included";
    let mut seconds = encoder.encode_descriptor("hearth_store_commit_seconds", help, None, spent.metric_type())?;
    spent.encode(seconds.encode_family(&[("region", region.me().as_str())])?)
}

fn encode_decisions(region: &Region, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    let kind = prometheus_client::metrics::MetricType::Counter;
    let help = "Decisions on who is woken, one a user and message";
    let mut decisions = encoder.encode_descriptor("hearth_push_decisions", help, None, kind)?;
    for (decision, count) in region.push.counters.decisions() {
        let labels = [("region", region.me().as_str().to_owned()), ("decision", decision.to_owned())];
        ConstCounter::new(count).encode(decisions.encode_family(&labels)?)?;
    }
    Ok(())
}

fn encode_lag(
    region: &Region,
    gauges: &CoreGauges,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    let mut lag = encoder.encode_descriptor(
        "hearth_mesh_replica_lag_entries",
        "Entries on disk here that a replica has not said it has",
        None,
        prometheus_client::metrics::MetricType::Gauge,
    )?;
    for (peer, entries) in &gauges.lag {
        let labels = [("from", region.me().as_str().to_owned()), ("to", peer.as_str().to_owned())];
        ConstGauge::new(signed(*entries)).encode(lag.encode_family(&labels)?)?;
    }
    Ok(())
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
