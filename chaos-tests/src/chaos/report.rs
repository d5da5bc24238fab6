//! What came of a run, and of several.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use simulation::checker::{Guarantee, Violation};

use super::measure::{Rehomed, middle_and_most};
use super::plan::Plan;
use super::population::Population;

/// Acks below which a run shows nothing (issue 4, point 13).
pub const LEAST_ACKED: usize = 5_000;

/// Whether a run held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It shows that everything held.
    Held,
    /// Something did not hold.
    Violated,
    /// It shows nothing, which is a failure.
    Inconclusive,
}

impl Verdict {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Violated => "violated",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// What came of one run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was to be done.
    pub plan: Plan,
    /// Messages handed over.
    pub sends: usize,
    /// Messages acked.
    pub acked: usize,
    /// Everything that does not hold.
    pub violations: Vec<Violation>,
    /// Fences that the region map had.
    pub failovers: usize,
    /// Fences by `hearth_map_fences_total` at the end of the load; a process that was killed has forgotten its own.
    pub fences_counted: u64,
    /// How the homes of each region that was gone came to others.
    pub rehomed: Vec<Rehomed>,
    /// The longest time without an ack in a conversation.
    pub silence: Duration,
    /// Epochs seen, over all conversations.
    pub epochs: usize,
    /// Epochs seen without an ack under them.
    pub epochs_without_ack: usize,
    /// Faults that overlapped a send.
    pub faults_overlapping: usize,
    /// Connections that were resumed.
    pub resumes: usize,
    /// Connections left because a send had no answer for 12 s.
    pub unanswered: usize,
    /// Refusals for good, by their code.
    pub refused: BTreeMap<String, usize>,
    /// Refusals for now, by their code.
    pub put_off: BTreeMap<String, usize>,
    /// Loss statements, over all conversations.
    pub losses: usize,
    /// Messages that left a line at a failover and came back under another number.
    pub readmitted: usize,
    /// From the end of the last fault until nothing was failing over, set apart, parked or open.
    pub settled: Duration,
    /// How long the run took.
    pub took: Duration,
    /// Where its data, log and history are, when they were kept.
    pub kept: Option<String>,
}

impl Report {
    fn count(&self, guarantees: &[Guarantee]) -> usize {
        self.violations.iter().filter(|violation| guarantees.contains(&violation.guarantee)).count()
    }

    /// Acked messages that are not there any more.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.count(&[Guarantee::G1, Guarantee::G8])
    }

    /// Messages that are there twice, or were acked as two.
    #[must_use]
    pub fn duplicated(&self) -> usize {
        self.count(&[Guarantee::G3])
    }

    /// Breaches of the one order, and of a device's.
    #[must_use]
    pub fn out_of_order(&self) -> usize {
        self.count(&[Guarantee::G2, Guarantee::DeviceOrder])
    }

    /// Why the run shows nothing, although nothing is violated.
    #[must_use]
    pub fn too_little(&self) -> Option<String> {
        if self.acked < LEAST_ACKED {
            return Some(format!("{} acked sends of {LEAST_ACKED}", self.acked));
        }
        let injected = self.plan.faults.iter().filter(|fault| fault.fails_over().is_some()).count();
        if self.failovers < injected {
            return Some(format!("{} failovers, where {injected} were injected", self.failovers));
        }
        if injected > 0 && self.rehomed.iter().all(|of| of.after.is_empty()) {
            return Some("no home that was gone acked elsewhere".to_owned());
        }
        if let Some(of) = self.rehomed.iter().find(|of| of.without > 0) {
            return Some(format!(
                "{} homes that fault {} took away never acked under a newer epoch",
                of.without, of.fault
            ));
        }
        if self.epochs_without_ack > 0 {
            return Some(format!("{} of {} epochs saw no ack", self.epochs_without_ack, self.epochs));
        }
        let faults = self.plan.faults.len();
        (self.faults_overlapping < faults)
            .then(|| format!("{} of {faults} faults overlapped a send in flight", self.faults_overlapping))
    }

    /// Whether it held.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if !self.violations.is_empty() {
            return Verdict::Violated;
        }
        if self.too_little().is_some() { Verdict::Inconclusive } else { Verdict::Held }
    }

    /// The failover times of all its homes.
    #[must_use]
    pub fn failover_times(&self) -> Vec<Duration> {
        self.rehomed.iter().flat_map(|of| of.after.iter().copied()).collect()
    }

    /// As one line of JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let times = middle_and_most(&self.failover_times());
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        json!({
            "seed": self.plan.seed,
            "verdict": self.verdict().name(),
            "inconclusive": self.too_little(),
            "faults": self.plan.faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "sends": self.sends,
            "acked": self.acked,
            "lost": self.lost(),
            "duplicated": self.duplicated(),
            "outOfOrder": self.out_of_order(),
            "violations": self.violations,
            "failovers": self.failovers,
            "longestSilenceMs": millis(self.silence),
            "firstAckMs": self.failover_times().into_iter().map(millis).collect::<Vec<_>>(),
            "firstAckP50Ms": times.map(|(middle, _)| millis(middle)),
            "firstAckMaxMs": times.map(|(_, most)| millis(most)),
            "epochs": self.epochs,
            "faultsOverlappingSends": self.faults_overlapping,
            "resumes": self.resumes,
            "unanswered": self.unanswered,
            "refused": self.refused,
            "putOff": self.put_off,
            "lossStatements": self.losses,
            "readmitted": self.readmitted,
            "settledMs": millis(self.settled),
            "seconds": self.took.as_secs_f64(),
            "kept": self.kept,
        })
    }

    /// What a person needs to know when it did not hold.
    #[must_use]
    pub fn story(&self) -> String {
        let mut text = format!("{}: seed {}", self.verdict().name(), self.plan.seed);
        if let Some(why) = self.too_little() {
            let _ = write!(text, "\n  shows nothing: {why}");
        }
        for fault in &self.plan.faults {
            let _ = write!(text, "\n  {fault}");
        }
        for violation in self.violations.iter().take(20) {
            let _ = write!(text, "\n  {:?}: {}", violation.guarantee, violation.what);
        }
        let more = self.violations.len().saturating_sub(20);
        if more > 0 {
            let _ = write!(text, "\n  and {more} more");
        }
        let _ = write!(text, "\n  data, log and history: {}", self.kept.as_deref().unwrap_or("not kept"));
        text
    }
}

/// How to do it again.
#[must_use]
pub fn replay(seed: u64, population: &Population) -> String {
    let crowd = if population.everything { " --crowd" } else { "" };
    format!(
        "chaos --seed {seed}{crowd}    (cargo run --release -p chaos-tests --example chaos -- --runs 1 --seed {seed}{crowd})"
    )
}

/// The table at the end of several runs.
#[must_use]
pub fn table(reports: &[Report]) -> String {
    let mut text = format!(
        "{:>6} {:>12} {:>6} {:>6} {:>5} {:>5} {:>6} {:>6} {:>5} {:>6} {:>7} {:>7} {:>7} {:>6}\n",
        "seed",
        "verdict",
        "faults",
        "acked",
        "lost",
        "twice",
        "order",
        "other",
        "fails",
        "epochs",
        "p50 s",
        "max s",
        "settled",
        "took s"
    );
    let seconds =
        |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), |time| format!("{:.1}", time.as_secs_f64()));
    for report in reports {
        let times = middle_and_most(&report.failover_times());
        let other = report.violations.len() - report.lost() - report.duplicated() - report.out_of_order();
        let _ = writeln!(
            text,
            "{:>6} {:>12} {:>6} {:>6} {:>5} {:>5} {:>6} {:>6} {:>5} {:>6} {:>7} {:>7} {:>7.1} {:>6.0}",
            report.plan.seed,
            report.verdict().name(),
            report.plan.faults.len(),
            report.acked,
            report.lost(),
            report.duplicated(),
            report.out_of_order(),
            other,
            report.failovers,
            report.epochs,
            seconds(times.map(|(middle, _)| middle)),
            seconds(times.map(|(_, most)| most)),
            report.settled.as_secs_f64(),
            report.took.as_secs_f64(),
        );
    }
    let all: Vec<Duration> = reports.iter().flat_map(Report::failover_times).collect();
    let held = reports.iter().filter(|report| report.verdict() == Verdict::Held).count();
    let sum = |of: fn(&Report) -> usize| reports.iter().map(of).sum::<usize>();
    let _ = writeln!(
        text,
        "{held} of {} held: {} acked, {} lost, {} duplicated, {} out of order, {} failovers",
        reports.len(),
        sum(|report| report.acked),
        sum(Report::lost),
        sum(Report::duplicated),
        sum(Report::out_of_order),
        sum(|report| report.failovers),
    );
    if let Some((middle, most)) = middle_and_most(&all) {
        let _ = writeln!(
            text,
            "from a cut, kill or stop to the first ack of the new home, over {} homes: p50 {:.1} s, max {:.1} s",
            all.len(),
            middle.as_secs_f64(),
            most.as_secs_f64()
        );
    }
    text + &kinds(reports)
}

fn kinds(reports: &[Report]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for report in reports {
        for (name, count) in report.plan.counts() {
            *counts.entry(name).or_default() += count;
        }
    }
    let words: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    format!("faults: {}\n", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::plan::USUAL;

    fn good() -> Report {
        let plan = Plan::of(1, USUAL);
        let failovers = plan.faults.iter().filter(|fault| fault.fails_over().is_some()).count();
        Report {
            sends: LEAST_ACKED,
            acked: LEAST_ACKED,
            violations: Vec::new(),
            failovers,
            fences_counted: 1,
            silence: Duration::from_secs(9),
            rehomed: vec![Rehomed { fault: 0, after: vec![Duration::from_secs(8)], without: 0 }],
            epochs: 8,
            epochs_without_ack: 0,
            faults_overlapping: plan.faults.len(),
            resumes: 9,
            unanswered: 0,
            refused: BTreeMap::new(),
            put_off: BTreeMap::new(),
            losses: 0,
            readmitted: 0,
            settled: Duration::from_secs(2),
            took: Duration::from_secs(80),
            kept: None,
            plan,
        }
    }

    #[test]
    fn a_run_counts_only_with_its_acks_failovers_epochs_and_overlaps() {
        assert_eq!(good().verdict(), Verdict::Held);
        let little: [Report; 5] = [
            Report { acked: LEAST_ACKED - 1, ..good() },
            Report { failovers: 0, ..good() },
            Report { rehomed: vec![], ..good() },
            Report { epochs_without_ack: 1, ..good() },
            Report { faults_overlapping: 1, ..good() },
        ];
        for report in little {
            assert_eq!(report.verdict(), Verdict::Inconclusive, "{:?}", report.too_little());
        }
    }

    #[test]
    fn a_violation_decides_even_in_a_run_that_shows_too_little() {
        let violation = Violation { guarantee: Guarantee::G1, what: "gone".to_owned() };
        let report = Report { violations: vec![violation], acked: 1, ..good() };
        assert_eq!((report.verdict(), report.lost()), (Verdict::Violated, 1));
        assert!(report.story().contains("gone") && table(&[report]).contains("violated"));
    }
}
