//! What will be done to a mesh of three regions, from a seed: a list of faults with their times. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// Regions of a mesh under chaos.
pub const REGIONS: usize = 3;
/// A region that is gone for so long is failed over with `--failover-after 2s`: its lease lapses 6 s after its last
/// renewal at the latest, and the rest is a decision, seals and a busy machine.
pub const FAILS_OVER: Duration = Duration::from_secs(12);
/// How long faults come, unless the caller says otherwise.
pub const USUAL: Duration = Duration::from_secs(52);
/// The longest cut of a region from all others (issue 4, point 13).
const LONG_CUT: u64 = 30_000;

/// What goes wrong. Regions are named by their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing passes between a region and all others.
    Isolate(usize),
    /// Nothing that a region sends arrives; it hears the others.
    IsolateOutward(usize),
    /// Nothing arrives at a region; the others hear it.
    IsolateInward(usize),
    /// Nothing passes between two regions; both reach the third.
    Cut(usize, usize),
    /// Nothing passes from one region to another; back it does.
    CutOneWay(usize, usize),
    /// `kill -9`, and a start at the end.
    Kill(usize),
    /// SIGSTOP, and SIGCONT at the end.
    Stop(usize),
    /// `kill -9`, `hearth region failover` at once, and a start at the end.
    FailOverByHand(usize),
}

impl Kind {
    /// All names.
    pub const NAMES: [&'static str; 8] =
        ["isolate", "isolate-outward", "isolate-inward", "cut", "cut-one-way", "kill", "stop", "fail-over-by-hand"];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Isolate(_) => "isolate",
            Self::IsolateOutward(_) => "isolate-outward",
            Self::IsolateInward(_) => "isolate-inward",
            Self::Cut(..) => "cut",
            Self::CutOneWay(..) => "cut-one-way",
            Self::Kill(_) => "kill",
            Self::Stop(_) => "stop",
            Self::FailOverByHand(_) => "fail-over-by-hand",
        }
    }

    /// The region that is gone for the others while it lasts.
    #[must_use]
    pub fn takes_away(self) -> Option<usize> {
        match self {
            Self::Isolate(region)
            | Self::IsolateOutward(region)
            | Self::IsolateInward(region)
            | Self::Kill(region)
            | Self::Stop(region)
            | Self::FailOverByHand(region) => Some(region),
            Self::Cut(..) | Self::CutOneWay(..) => None,
        }
    }

    /// The region whose process does not run while it lasts.
    #[must_use]
    pub fn stops(self) -> Option<usize> {
        match self {
            Self::Kill(region) | Self::Stop(region) | Self::FailOverByHand(region) => Some(region),
            Self::Isolate(_)
            | Self::IsolateOutward(_)
            | Self::IsolateInward(_)
            | Self::Cut(..)
            | Self::CutOneWay(..) => None,
        }
    }

    /// The directions that are cut while it lasts.
    #[must_use]
    pub fn cuts(self) -> BTreeSet<(usize, usize)> {
        let others = |region: usize| (0..REGIONS).filter(move |other| *other != region);
        match self {
            Self::Isolate(region) => others(region).flat_map(|other| [(region, other), (other, region)]).collect(),
            Self::IsolateOutward(region) => others(region).map(|other| (region, other)).collect(),
            Self::IsolateInward(region) => others(region).map(|other| (other, region)).collect(),
            Self::Cut(one, other) => [(one, other), (other, one)].into(),
            Self::CutOneWay(from, to) => [(from, to)].into(),
            Self::Kill(_) | Self::Stop(_) | Self::FailOverByHand(_) => BTreeSet::new(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(one, other) => write!(out, "{} {one}-{other}", self.name()),
            Self::CutOneWay(from, to) => write!(out, "{} {from}>{to}", self.name()),
            _ => write!(out, "{} {}", self.name(), self.takes_away().unwrap_or_default()),
        }
    }
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When it begins, after the load has.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What.
    pub kind: Kind,
}

impl Fault {
    /// When it ends.
    #[must_use]
    pub fn ends(&self) -> Duration {
        self.at + self.lasts
    }

    /// The region that the map must fail over because of it.
    #[must_use]
    pub fn fails_over(&self) -> Option<usize> {
        self.kind.takes_away().filter(|_| self.lasts >= FAILS_OVER)
    }

    fn is_on(&self, at: Duration) -> bool {
        self.at <= at && at < self.ends()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.1} s {} for {:.1} s", self.at.as_secs_f64(), self.kind, self.lasts.as_secs_f64())
    }
}

/// A moment at which something begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// When, after the load began.
    pub at: Duration,
    /// Whether the fault begins; ends come first where both fall together.
    pub begins: bool,
    /// Which fault, by its place in [`Plan::faults`].
    pub fault: usize,
}

/// What will be done in one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What all of it follows from.
    pub seed: u64,
    /// How long faults come.
    pub length: Duration,
    /// The faults, in the order in which they begin.
    pub faults: Vec<Fault>,
}

impl Plan {
    /// The plan of a seed: first a fault that fails a home region over, while all regions are homes, then others while
    /// there is room in `length`. Three seeds in a row begin with a cut of 30 s, a kill and a stop.
    #[must_use]
    pub fn of(seed: u64, length: Duration) -> Self {
        let mut random = Random::of(seed);
        let end = millis(length);
        let mut at = random.between(4_000, 7_000);
        let first = first_fault(seed, &mut random);
        let mut faults = vec![fault(at, first.1, first.0)];
        at = beside(&mut faults, &mut random) + random.between(4_000, 6_000);
        while at + 2_000 < end {
            let (kind, lasts) = other_fault(&mut random, end - at);
            faults.push(fault(at, lasts, kind));
            at += lasts + random.between(3_000, 5_000);
        }
        faults.sort_by_key(|fault| fault.at);
        Self { seed, length, faults }
    }

    /// A plan of faults that a story names.
    #[must_use]
    pub fn named(seed: u64, faults: Vec<Fault>) -> Self {
        let length = faults.iter().map(Fault::ends).max().unwrap_or_default();
        Self { seed, length, faults }
    }

    /// What happens, in order.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = self
            .faults
            .iter()
            .enumerate()
            .flat_map(|(number, fault)| {
                let step = |at, begins| Step { at, begins, fault: number };
                [step(fault.at, true), step(fault.ends(), false)]
            })
            .collect();
        steps.sort_unstable();
        steps
    }

    /// The directions that are cut at a moment.
    #[must_use]
    pub fn cuts_at(&self, at: Duration) -> BTreeSet<(usize, usize)> {
        self.faults.iter().filter(|fault| fault.is_on(at)).flat_map(|fault| fault.kind.cuts()).collect()
    }

    /// The regions whose processes do not run at a moment.
    #[must_use]
    pub fn stopped_at(&self, at: Duration) -> BTreeSet<usize> {
        self.faults.iter().filter(|fault| fault.is_on(at)).filter_map(|fault| fault.kind.stops()).collect()
    }

    /// How often each kind comes; 0 for those that do not.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts: BTreeMap<&'static str, usize> = Kind::NAMES.iter().map(|name| (*name, 0)).collect();
        for fault in &self.faults {
            *counts.entry(fault.kind.name()).or_default() += 1;
        }
        counts
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

fn fault(at: u64, lasts: u64, kind: Kind) -> Fault {
    Fault { at: Duration::from_millis(at), lasts: Duration::from_millis(lasts), kind }
}

/// The fault that fails over a region while all are homes.
fn first_fault(seed: u64, random: &mut Random) -> (Kind, u64) {
    let region = random.below(REGIONS);
    let lasts = random.between(14_000, 17_000);
    match seed % 6 {
        1 => (Kind::Isolate(region), LONG_CUT),
        2 => (Kind::Kill(region), lasts),
        3 => (Kind::Stop(region), lasts),
        4 => (Kind::IsolateOutward(region), lasts),
        5 => (Kind::IsolateInward(region), lasts),
        _ => (Kind::FailOverByHand(region), lasts),
    }
}

/// In two of five plans the region that is gone returns while one of its links is still cut. Where all ends.
fn beside(faults: &mut Vec<Fault>, random: &mut Random) -> u64 {
    let first = faults[0];
    let (from, to) = (random.between(1_000, 3_000), random.between(4_000, 7_000));
    let (shape, step) = (random.below(5), 1 + random.below(REGIONS - 1));
    let end = millis(first.ends());
    let Some(region) = first.kind.takes_away() else { return end };
    let other = (region + step) % REGIONS;
    let kind = match shape {
        0 => Kind::Cut(region, other),
        1 => Kind::CutOneWay(region, other),
        _ => return end,
    };
    faults.push(fault(end - from, from + to, kind));
    end + to
}

/// A fault that fits into what is left.
fn other_fault(random: &mut Random, left: u64) -> (Kind, u64) {
    let region = random.below(REGIONS);
    let other = (region + 1 + random.below(REGIONS - 1)) % REGIONS;
    let (short, middle) = (random.between(1_000, 3_500), random.between(3_000, 8_000));
    let long = random.between(13_000, 16_000);
    let (shape, of_long) = (random.below(8), random.below(6));
    let (kind, lasts) = match shape {
        0 | 1 => (Kind::Cut(region, other), middle),
        2 | 3 => (Kind::CutOneWay(region, other), middle),
        4 => (Kind::Kill(region), short),
        5 => (Kind::Stop(region), short),
        _ if left < long => (Kind::Isolate(region), short),
        _ => {
            let kinds = [
                Kind::Isolate,
                Kind::IsolateOutward,
                Kind::IsolateInward,
                Kind::Kill,
                Kind::Stop,
                Kind::FailOverByHand,
            ];
            (kinds[of_long](region), long)
        }
    };
    (kind, lasts.min(left.max(1_000)))
}

/// SplitMix64: the same everywhere, for ever.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// All numbers of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self(seed ^ 0x5851_F42D_4C95_7F2D)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high.saturating_sub(low) + 1)
    }

    /// A place in a list of so many, at least one.
    pub fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % (count.max(1) as u64)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: std::ops::Range<u64> = 0..500;

    fn plans() -> impl Iterator<Item = Plan> {
        SEEDS.map(|seed| Plan::of(seed, USUAL))
    }

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_seed_another_one() {
        for plan in plans() {
            assert_eq!(plan, Plan::of(plan.seed, USUAL));
            assert_ne!(plan.faults, Plan::of(plan.seed + 6, USUAL).faults, "seed {}", plan.seed);
        }
    }

    #[test]
    fn every_kind_comes_up_within_twenty_seeds_in_a_row() {
        for from in [1, 21, 300] {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for seed in from..from + 20 {
                for (name, count) in Plan::of(seed, USUAL).counts() {
                    *counts.entry(name).or_default() += count;
                }
            }
            assert!(counts.len() == Kind::NAMES.len() && counts.values().all(|count| *count > 0), "{counts:?}");
        }
    }

    #[test]
    fn every_plan_first_fails_over_a_region_that_is_still_a_home() {
        for plan in plans() {
            let first = plan.faults[0];
            assert!(first.fails_over().is_some() && plan.faults.len() > 1, "seed {}: {:?}", plan.seed, plan.faults);
        }
    }

    #[test]
    fn three_seeds_in_a_row_begin_with_a_cut_of_thirty_seconds_a_kill_and_a_stop_past_the_lease() {
        let first = [1, 2, 3].map(|seed| Plan::of(seed, USUAL).faults[0]);
        assert!(matches!(first[0].kind, Kind::Isolate(_)) && first[0].lasts == Duration::from_secs(30));
        assert!(matches!(first[1].kind, Kind::Kill(_)) && matches!(first[2].kind, Kind::Stop(_)));
    }

    #[test]
    fn at_every_moment_two_regions_live_and_reach_each_other_both_ways() {
        for plan in plans() {
            for step in plan.steps() {
                let (cuts, stopped) = (plan.cuts_at(step.at), plan.stopped_at(step.at));
                let reach = |one: usize, other: usize| {
                    let live = !stopped.contains(&one) && !stopped.contains(&other);
                    live && !cuts.contains(&(one, other)) && !cuts.contains(&(other, one))
                };
                assert!(reach(0, 1) || reach(1, 2) || reach(0, 2), "seed {} at {:?}", plan.seed, step.at);
            }
        }
    }

    #[test]
    fn after_the_last_step_nothing_is_wrong_any_more_and_the_faults_keep_to_their_time() {
        for plan in plans() {
            let last = plan.steps().last().expect("steps").at;
            assert!(plan.cuts_at(last).is_empty() && plan.stopped_at(last).is_empty(), "seed {}", plan.seed);
            assert!(last <= USUAL + Duration::from_secs(8), "seed {}: {last:?}", plan.seed);
        }
    }
}
