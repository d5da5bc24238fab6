//! Who reaches whom (design.md 4.4): each region counts for how long the others have not answered it, and the leader
//! collects what the voters count.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hearth_protocol::RegionId;

use super::MAXIMUM_REGIONS;
use super::state::MapState;

/// The most that may lie between two looks of [`Silences`] and be counted; what is longer was no asking: the process
/// was stopped, or the machine suspended.
const LONGEST_LOOK: Duration = Duration::from_secs(2);
/// A shorter silence is not reported: answers take their time.
const REPORTED_FROM: Duration = Duration::from_secs(1);

/// For how long each region has not answered this one, counted in time that this one was awake to ask.
#[derive(Clone, Debug, Default)]
pub struct Silences {
    awake: Duration,
    looked: Option<Duration>,
    /// `awake` when the region answered last, or was asked first.
    heard: BTreeMap<RegionId, Duration>,
}

impl Silences {
    /// Time goes on to `now`, by a clock that does not run backwards; `asked` are the regions that are asked from now
    /// on, at most [`MAXIMUM_REGIONS`]. Others are forgotten, and a region that is new counts from now.
    pub fn look(&mut self, asked: &[RegionId], now: Duration) {
        let passed = self.looked.map_or(Duration::ZERO, |looked| now.saturating_sub(looked));
        self.looked = Some(now);
        self.awake += passed.min(LONGEST_LOOK);
        let asked: BTreeSet<&RegionId> = asked.iter().take(MAXIMUM_REGIONS).collect();
        self.heard.retain(|region, _| asked.contains(region));
        for region in asked {
            self.heard.entry(region.clone()).or_insert(self.awake);
        }
    }

    /// A region answered.
    pub fn heard(&mut self, region: &RegionId) {
        if let Some(heard) = self.heard.get_mut(region) {
            *heard = self.awake;
        }
    }

    /// Whether a region that is asked has been silent for at least a second.
    #[must_use]
    pub fn is_silent(&self, region: &RegionId) -> bool {
        self.heard.get(region).is_some_and(|heard| self.awake.saturating_sub(*heard) >= REPORTED_FROM)
    }

    /// The regions that have been silent for at least a second, and for how long.
    #[must_use]
    pub fn silent(&self) -> Vec<(RegionId, Duration)> {
        let silent = self.heard.iter().map(|(region, heard)| (region.clone(), self.awake.saturating_sub(*heard)));
        silent.filter(|(_, silence)| *silence >= REPORTED_FROM).collect()
    }
}

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

    /// Whether `voter` has seen the region out of reach for `after`, by a report not older than `fresh`.
    #[must_use]
    pub fn says_so(
        &self,
        voter: &RegionId,
        region: &RegionId,
        after: Duration,
        fresh: Duration,
        now: Duration,
    ) -> bool {
        self.reports.get(voter).is_some_and(|report| {
            now.saturating_sub(report.at) <= fresh && report.down.get(region).is_some_and(|down| *down >= after)
        })
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
        let says_so = |voter: &&RegionId| *voter != region && self.says_so(voter, region, after, fresh, now);
        map.map_voters.iter().filter(says_so).count() > map.map_voters.len() / 2
    }
}
