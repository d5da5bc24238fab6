//! What all parts of one gateway share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hearth_protocol::ErrorCode;
use hearth_protocol::Refusal;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use region_core::Drain;
use tokio::sync::watch;

use crate::admission::Admission;
use crate::clock::{Clock, Moment};
use crate::connections::Connections;
use crate::core_port::Core;
use crate::metrics::GatewayMetrics;
use crate::options::GatewayOptions;
use crate::session::{DrainNotice, SessionShared};
use crate::webtransport_server::CertificateHash;

/// What the gateway is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It serves.
    Serving,
    /// Its sessions leave.
    Draining(DrainOrder),
    /// It ends now.
    Stopping,
}

/// When a drain began and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DrainOrder {
    pub(crate) began: Moment,
    pub(crate) milliseconds: u64,
}

impl DrainOrder {
    /// What the session with this number is told.
    pub(crate) fn notice(&self, number: u64) -> DrainNotice {
        let drain = Drain { began: self.began.ticks, milliseconds: self.milliseconds };
        let end = self.began.plus(std::time::Duration::from_millis(self.milliseconds));
        DrainNotice { slot: drain.slot(number), close_at_wall: end.wall }
    }
}

/// State of a gateway.
#[derive(Debug)]
pub(crate) struct GatewayState {
    pub(crate) core: Arc<dyn Core>,
    pub(crate) options: GatewayOptions,
    pub(crate) sessions: Arc<SessionShared>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) registry: Arc<Mutex<Registry>>,
    pub(crate) connections: Connections,
    pub(crate) admission: Admission,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) live: watch::Sender<usize>,
    pub(crate) certificate_hash: CertificateHash,
    pub(crate) webtransport_port: Option<u16>,
    pub(crate) numbers: AtomicU64,
}

impl GatewayState {
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Refuses new sessions once the gateway drains, and while there are as many as allowed. Those that begin at the
    /// same moment may pass together: the number of connections is the hard bound.
    pub(crate) fn check_serving(&self) -> Result<(), Refusal> {
        if *self.phase.borrow() != Phase::Serving {
            let refusal = Refusal::new(ErrorCode::Draining, "this node is leaving, connect to another");
            return Err(refusal.with_retry_after(1));
        }
        let most = self.options.limits.sessions;
        if *self.live.borrow() >= most {
            let refusal = Refusal::new(ErrorCode::Overloaded, "this node has as many sessions as it takes");
            return Err(refusal.with_retry_after(10).with_limit(format!("{most} sessions")));
        }
        Ok(())
    }

    /// Resolves once the gateway ends.
    pub(crate) async fn stopping(&self) {
        let mut phase = self.phase.subscribe();
        // The sender lives in this very value: waiting cannot fail.
        let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_protocol::Timestamp;

    #[test]
    fn a_session_is_told_its_slot_and_when_the_drain_ends_by_the_wall() {
        let began = Moment { wall: Timestamp(1_000_000), ticks: 500 };
        let notice = DrainOrder { began, milliseconds: 10_000 }.notice(7);
        assert_eq!(notice.slot, Drain { began: 500, milliseconds: 10_000 }.slot(7));
        assert_eq!((notice.slot.close_at, notice.close_at_wall), (10_500, Timestamp(1_010_000)));
    }
}
