//! One run: a plan comes to its end, everything is read through every region, and the history is judged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use hearth_protocol::MessageId;
use serde::Serialize;

use crate::alterations::shown_rows;
use crate::checker::{self, Guarantee, Report, Violation};
use crate::history::{Event, History, ReadRow, Row};
use crate::plan::{FaultKind, Plan, SECOND};
use crate::world::World;

/// Protocol steps that the end of a report counts, whether they happened or not.
pub const STEPS: [&str; 82] = [
    "send",
    "edit",
    "delete",
    "reaction",
    "resend",
    "ack",
    "ack-again",
    "ack-lost",
    "queued",
    "refused-for-now",
    "refused",
    "rate-limited",
    "connect",
    "client-roams",
    "told-to-leave",
    "closed-for-drain",
    "device-switched",
    "forgotten",
    "members-change",
    "visitor-asked",
    "joins-shared",
    "wish-asked",
    "wished",
    "media-put",
    "media-asked",
    "media-taken",
    "explain-asked",
    "deliver",
    "began",
    "user-changed",
    "outbox",
    "forward",
    "answer",
    "append",
    "appended",
    "append-durable",
    "lengths",
    "follow",
    "pull",
    "pulled",
    "request",
    "response",
    "park",
    "unpark",
    "load",
    "read-for-replica",
    "read-for-pull",
    "read-for-retry",
    "read-target",
    "read-hash",
    "read-tail",
    "start",
    "stop",
    "abandoned",
    "sync-failed",
    "link-up",
    "link-down",
    "frame-lost",
    "lease-renewed",
    "map-elected",
    "fence",
    "reassign",
    "return",
    "came-back",
    "seal",
    "sealed",
    "opening",
    "loss-statement",
    "line-changed",
    "rewound",
    "move-asked",
    "moved",
    "move-refused",
    "voters-asked",
    "erase-asked",
    "floor-asked",
    "store-lost",
    "store-restored",
    "fence-asked",
    "power-cut-at-write",
    "fork",
    "conflict",
];
/// Steps that are not to happen, or only in a plan that was asked for them: they are left out while they do not.
const LEFT_OUT: [&str; 11] = [
    "visitor-asked",
    "joins-shared",
    "fork",
    "conflict",
    "voters-asked",
    "erase-asked",
    "floor-asked",
    "store-lost",
    "store-restored",
    "fence-asked",
    "power-cut-at-write",
];
/// How much longer than planned a run may take to come to its end.
const PATIENCE: u64 = 60 * SECOND;
/// How long after the restart of all regions they are looked at first.
const RESTART: u64 = 5 * SECOND;

/// What the last region gave of a conversation.
#[derive(Debug, Default)]
struct Given {
    rows: Arc<Vec<Row>>,
    shown: Arc<Vec<ReadRow>>,
}

/// What was given, shared with what was given before where that is the same.
fn share<T: PartialEq>(before: &mut Arc<Vec<T>>, given: Vec<T>) -> Arc<Vec<T>> {
    if **before != given {
        *before = Arc::new(given);
    }
    Arc::clone(before)
}

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything that was checked holds.
    Held,
    /// Something does not hold.
    Violated,
    /// Too little happened to say anything.
    Inconclusive,
}

/// A run and its verdict, as `hearth sim --json` prints it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ran {
    /// The seed.
    pub seed: u64,
    /// Simulated seconds.
    pub simulated_seconds: f64,
    /// Real seconds that it took.
    pub real_seconds: f64,
    /// SHA-256 over everything that happened, in hexadecimal.
    pub trace_hash: String,
    /// Messages that clients handed over.
    pub sends: usize,
    /// Messages acked.
    pub acked: usize,
    /// Acked messages that are gone.
    pub lost: usize,
    /// Messages that stand twice or were acked twice differently.
    pub duplicated: usize,
    /// Messages that stand or were shown in another order.
    pub out_of_order: usize,
    /// Regions that were failed over.
    pub failovers: u64,
    /// Homes that were moved.
    pub moves: u64,
    /// Faults during which a send was in flight.
    pub faults_overlapping_sends: usize,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// The verdict.
    pub verdict: Verdict,
    /// Protocol steps by name.
    #[serde(skip)]
    pub steps: BTreeMap<&'static str, u64>,
    /// What does not hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
    /// Why it says nothing, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inconclusive: Option<String>,
    /// What to type to see it again.
    pub replay: String,
}

/// Runs a plan to its end.
#[must_use]
pub fn run(plan: &Plan) -> Ran {
    run_told(plan, false)
}

/// As [`run`]; with `told`, every step goes to standard error.
#[must_use]
pub fn run_told(plan: &Plan, told: bool) -> Ran {
    run_whole(plan, told).0
}

/// As [`run_told`], with what its clients saw.
#[must_use]
pub fn run_whole(plan: &Plan, told: bool) -> (Ran, History) {
    let began = Instant::now();
    let steps: Vec<&str> = STEPS.into_iter().filter(|step| !LEFT_OUT.contains(step)).collect();
    let mut world = World::new(plan.clone(), &steps);
    world.trace.told = told;
    world.run_until(plan.ends_at());
    let unsettled = world.settle();
    world.presence_at_the_end();
    world.push_at_the_end();
    world.explain_at_the_end();
    let mut given = BTreeMap::new();
    world.read_all(1, &mut given);
    world.restart_all();
    world.run_until(world.now + RESTART);
    let after_restart = world.settle();
    world.media_at_the_end();
    world.read_all(2, &mut given);
    world.memberships_at_the_end();
    world.visitors_at_the_end();
    let mut report = checker::check(&world.history);
    for why in [unsettled, after_restart].into_iter().flatten() {
        report.add(Guarantee::Answered, why);
    }
    for what in std::mem::take(&mut world.broken) {
        report.add(Guarantee::G2, what);
    }
    let history = std::mem::take(&mut world.history);
    (summary(world, plan, &report, began), history)
}

fn summary(world: World, plan: &Plan, report: &Report, began: Instant) -> Ran {
    let simulated_seconds = world.now as f64 / SECOND as f64;
    let mut faults: BTreeMap<&'static str, u64> =
        FaultKind::NAMES.iter().filter(|name| !FaultKind::ASKED_FOR.contains(name)).map(|name| (*name, 0)).collect();
    for fault in &plan.faults {
        *faults.entry(fault.kind.name()).or_default() += 1;
    }
    let inconclusive = too_little(report, plan, simulated_seconds);
    let verdict = match (&report.violations[..], &inconclusive) {
        ([], None) => Verdict::Held,
        ([], Some(_)) => Verdict::Inconclusive,
        _ => Verdict::Violated,
    };
    Ran {
        seed: plan.seed,
        simulated_seconds,
        sends: report.sends,
        acked: report.acked,
        lost: report.count(&[Guarantee::G1, Guarantee::G8]),
        duplicated: report.count(&[Guarantee::G3]),
        out_of_order: report.count(&[Guarantee::G2, Guarantee::DeviceOrder]),
        failovers: world.trace.steps_of("fence"),
        moves: world.moves,
        faults_overlapping_sends: report.faults_overlapping,
        faults,
        verdict,
        steps: world.trace.steps(),
        trace_hash: world.trace.hash(),
        violations: report.violations.clone(),
        inconclusive,
        replay: plan.replay(),
        real_seconds: began.elapsed().as_secs_f64(),
    }
}

/// Why a run says nothing: rates and hours count only at one send a client and simulated second, and one fault in ten
/// simulated seconds, each while a send is in flight.
fn too_little(report: &Report, plan: &Plan, seconds: f64) -> Option<String> {
    let wanted = plan.clients.len() as f64 * seconds;
    if (report.sends as f64) < wanted {
        return Some(format!("{} sends, and {wanted:.0} are a send per client and second", report.sends));
    }
    if (report.faults as f64) < seconds / 10.0 {
        return Some(format!("{} faults in {seconds:.0} s", report.faults));
    }
    if report.faults_overlapping < report.faults {
        let without = report.faults - report.faults_overlapping;
        return Some(format!("{without} faults overlapped no send"));
    }
    (report.acked == 0).then(|| "nothing was acked".to_owned())
}

impl World {
    /// Runs until everything is answered and the same everywhere; says what is not, after a while.
    fn settle(&mut self) -> Option<String> {
        let end = self.now + PATIENCE;
        loop {
            let open = self.unsettled()?;
            if self.now >= end {
                return Some(format!("not settled {} s after all was healed: {open}", PATIENCE / SECOND));
            }
            self.run_until(self.now + SECOND / 2);
        }
    }

    fn unsettled(&self) -> Option<String> {
        let waiting: usize = self.clients.iter().map(|client| client.outstanding.len()).sum();
        if waiting > 0 {
            return Some(format!("{waiting} messages are not acked"));
        }
        let tails: usize = self.regions.iter().filter_map(|region| Some(region.core.as_ref()?.gauges().tails)).sum();
        if tails > 0 {
            return Some(format!("{tails} tails have not come back"));
        }
        for (number, conversation) in self.conversations.iter().enumerate() {
            if !conversation.ready {
                return Some(format!("{} is not made", conversation.log));
            }
            if conversation.churn.is_some() {
                return Some(format!("{}: members still change", conversation.log));
            }
            if let Some(why) = self.differs(number) {
                return Some(format!("{}: {why}", conversation.log));
            }
        }
        None
    }

    /// Regions that hold a conversation whole: its voters.
    fn voters_of(&self, conversation: usize) -> Vec<usize> {
        let log = self.conversations[conversation].log;
        let placements = self.regions.iter().filter_map(|region| region.disk.placement(log));
        let newest = placements.max_by_key(|placement| placement.epoch);
        newest.map_or_else(Vec::new, |newest| newest.voters.iter().filter_map(|voter| self.place_of(voter)).collect())
    }

    fn differs(&self, conversation: usize) -> Option<String> {
        let log = self.conversations[conversation].log;
        let voters = self.voters_of(conversation);
        let state = |place: usize| {
            let stored = self.regions[place].disk.logs.get(&log)?;
            Some((stored.length(), stored.mark, stored.entries.values().next_back()?.hash))
        };
        let first = state(*voters.first()?);
        for place in voters {
            let here = state(place);
            let marked = here.is_some_and(|(length, mark, _)| length == mark);
            if here != first || !marked {
                let show = |place: usize| self.standing(place, log);
                let voters: Vec<String> = self.voters_of(conversation).into_iter().map(show).collect();
                return Some(format!("voters differ: {}", voters.join("; ")));
            }
        }
        None
    }

    /// What a region's disk says of a log, for people.
    fn standing(&self, place: usize, log: hearth_protocol::LogId) -> String {
        let region = &self.regions[place];
        let Some(stored) = region.disk.logs.get(&log) else { return format!("{} has nothing", region.id) };
        let record = stored.record.as_ref().map(|record| {
            format!("accepted {} and sealed at {}, home {}", record.accepted, record.sealed, record.home)
        });
        let placed = region.disk.placement(log).map(|placement| format!("{} at {}", placement.epoch, placement.home));
        format!(
            "{} has {} entries, mark {}, {}, placed {}",
            region.id,
            stored.length(),
            stored.mark,
            record.unwrap_or_default(),
            placed.unwrap_or_default()
        )
    }

    /// Every conversation is read from its first row to its end in every region that votes for it. `given` is what the
    /// last one gave: what is the same is kept once.
    fn read_all(&mut self, pass: u32, given: &mut BTreeMap<usize, Given>) {
        for conversation in 0..self.conversations.len() {
            let (log, id) = (self.conversations[conversation].log, self.conversations[conversation].id);
            if !self.conversations[conversation].ready {
                continue;
            }
            for region in self.voters_of(conversation) {
                let disk = &self.regions[region].disk;
                let mark = disk.logs.get(&log).map_or(0, |stored| stored.mark);
                let row = |entry: &Arc<hearth_protocol::SealedEntry>| Row {
                    sequence: entry.sequence().0,
                    epoch: entry.epoch().0,
                    message: MessageId(entry.entry.fixed.id),
                };
                let entries = disk.read(log, 1, mark);
                // What is below the floor is shown to nobody, and is in the line all the same.
                let rows = entries.iter().map(row).collect();
                let shown = shown_rows(&entries, &disk.changes(log), self.regions[region].clock.wall(self.now));
                let reader = format!("{} (reading {pass})", self.regions[region].id);
                let given = given.entry(conversation).or_default();
                let (rows, shown) = (share(&mut given.rows, rows), share(&mut given.shown, shown));
                self.history.add(self.now, Event::Reading { region, pass, conversation: id, rows });
                self.history.add(self.now, Event::Read { reader, conversation: id, rows: shown });
            }
        }
    }

    fn restart_all(&mut self) {
        for place in 0..self.regions.len() {
            if self.regions[place].core.is_some() {
                self.crash(place, true);
            }
            self.start(place);
        }
    }
}
