//! Whether a majority of the map's voters sees a region out of reach (design.md 4.4).

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_protocol::RegionId;

use super::MAXIMUM_REGIONS;
use super::state::MapState;

/// What one voter said last.
#[derive(Clone, Debug)]
struct Report {
    /// When it came, by the leader's clock.
    at: Duration,
    /// Regions out of its reach, and for how long by its own clock.
    down: BTreeMap<RegionId, Duration>,
}

/// The leader's collection of reports. Durations come from the voters' clocks, moments from the leader's: the two are
/// never mixed.
#[derive(Clone, Debug, Default)]
pub struct Reachability {
    reports: BTreeMap<RegionId, Report>,
}

impl Reachability {
    /// A voter says which regions are out of its reach, and for how long. Replaces what it said before; at most
    /// [`MAXIMUM_REGIONS`] regions are kept of a report, and as many reports.
    pub fn report(&mut self, voter: RegionId, down: impl IntoIterator<Item = (RegionId, Duration)>, now: Duration) {
        if self.reports.len() >= MAXIMUM_REGIONS && !self.reports.contains_key(&voter) {
            return;
        }
        let down = down.into_iter().take(MAXIMUM_REGIONS).collect();
        self.reports.insert(voter, Report { at: now, down });
    }

    /// Forgets everything: this region is leader anew, and reports of an earlier time say nothing.
    pub fn clear(&mut self) {
        self.reports.clear();
    }

    /// Whether a majority of the map's voters has seen the region out of reach for `after`, by reports not older than
    /// `fresh`. The region's own word does not count.
    #[must_use]
    pub fn is_out_of_reach(
        &self,
        map: &MapState,
        region: &RegionId,
        after: Duration,
        fresh: Duration,
        now: Duration,
    ) -> bool {
        let says_so = |voter: &&RegionId| {
            *voter != region
                && self.reports.get(*voter).is_some_and(|report| {
                    now.saturating_sub(report.at) <= fresh && report.down.get(region).is_some_and(|down| *down >= after)
                })
        };
        map.map_voters.iter().filter(says_so).count() > map.map_voters.len() / 2
    }
}
