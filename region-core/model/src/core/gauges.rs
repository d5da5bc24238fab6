//! What the core says of itself for `/metrics`.

use std::collections::BTreeMap;

use hearth_protocol::LogKind;

use super::{CoreGauges, RegionCore, Slotted};

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    /// Numbers for `/metrics`.
    #[must_use]
    pub fn gauges(&self) -> CoreGauges {
        let mut lag = BTreeMap::new();
        for peer in self.options.map.regions.iter().filter(|region| **region != self.options.me) {
            let behind = self.logs.values().map(|slotted| match slotted {
                Slotted::Ready(log) => log.lag_of(peer),
                Slotted::Loading(_) => 0,
            });
            lag.insert(peer.clone(), behind.sum());
        }
        CoreGauges {
            loaded_logs: self.logs.len(),
            forwards: self.forwards.len(),
            parked: self.lot.len(),
            failing_over: self.failovers.len(),
            joining: self.joining_logs(),
            tails: self.tails.values().filter(|tail| !tail.is_settled()).count(),
            lag,
        }
    }

    /// Placement logs, and other logs in memory, that this region votes for and may not count for yet.
    fn joining_logs(&self) -> usize {
        let joins = |slotted: &&Slotted<R>| match slotted {
            Slotted::Ready(log) => {
                let votes = log.record.as_ref().is_some_and(|record| record.voters.contains(&self.options.me));
                votes && log.id.kind != LogKind::Placement && !log.counts()
            }
            Slotted::Loading(_) => false,
        };
        self.store.waiting() + self.logs.values().filter(joins).count()
    }
}
