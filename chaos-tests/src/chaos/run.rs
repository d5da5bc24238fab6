//! One run: a mesh of processes, clients at every region, the faults of a plan, and what the checker says to it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use simulation::checker::{self, Guarantee, Violation};

use super::client::{Client, Place, Shared};
use super::driver::{self, Driver, When};
use super::ends;
use super::measure::{self, Performed};
use super::plan::{Plan, REGIONS};
use super::population::{Population, user};
use super::reading::{Openings, openings, read_all};
use super::report::{LEAST_ACKED, Report, Verdict, replay};
use crate::checker::Reading;
use crate::mesh::QUICK;
use crate::peer::{Peer, address};
use crate::{Checker, Mesh, Setup, until};

/// Acks before the first fault's time begins to count.
const WARM: usize = 60;
/// How long the load goes on after everything is healed and settled, so that the last epochs see acks.
const AFTERGLOW: Duration = Duration::from_secs(4);
/// How long it goes on at most until there are enough acks.
const ENOUGH: Duration = Duration::from_secs(40);
/// Acks at which the load may end: some more than a run needs, since several may name one message.
const ACKS: usize = LEAST_ACKED + 200;
/// Longest wait, after everything is healed, for the mesh to come to rest and for every send to end.
const SETTLES: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

type Sessions = Arc<Mutex<Vec<Arc<Peer>>>>;

/// The clients of a run.
struct Crowd {
    shared: Arc<Shared>,
    sessions: Vec<Sessions>,
    tasks: Vec<tokio::task::JoinHandle<Client>>,
}

async fn groups(mesh: &Mesh, population: &Population) -> Vec<String> {
    let mut groups = Vec::new();
    for members in &population.conversations {
        let names: Vec<String> = members.iter().copied().map(user).collect();
        let others: Vec<&str> = names[1..].iter().map(String::as_str).collect();
        groups.push(mesh.group(&names[0], members[0] % REGIONS, &others).await);
    }
    groups
}

impl Crowd {
    async fn start(mesh: &Mesh, population: &Population, groups: &[String], seed: u64) -> Self {
        let shared = Arc::new(Shared::default());
        shared.sending.store(true, Ordering::Relaxed);
        let regions = Arc::new(mesh.regions.iter().map(address).collect());
        let (mut sessions, mut tasks) = (Vec::new(), Vec::new());
        for number in 0..population.clients {
            let place = Place {
                regions: Arc::clone(&regions),
                conversations: population.of(number).into_iter().map(|of| groups[of].clone()).collect(),
                pace: population.pace,
                everything: population.everything,
                secrets: mesh.secrets.clone(),
            };
            let token = mesh.token(&user(number), number % REGIONS).await;
            let own = seed.wrapping_mul(1_000).wrapping_add(number as u64);
            let client = Client::new(&user(number), token, number % REGIONS, place, shared.clone(), own);
            sessions.push(client.sessions());
            tasks.push(tokio::spawn(client.run()));
        }
        Self { shared, sessions, tasks }
    }

    fn acked(&self) -> usize {
        self.shared.acked.load(Ordering::Relaxed)
    }

    fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    async fn until_acked(&self, count: usize, within: Duration) {
        let deadline = Instant::now() + within;
        while self.acked() < count && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends the load: sends until enough was acked, then waits for every send to end. Why that did not come.
    async fn calm_down(&self, mesh: &Mesh) -> Option<String> {
        let deadline = Instant::now() + SETTLES;
        let mut why = settle(mesh, deadline).await;
        self.shared.calm.store(true, Ordering::Relaxed);
        let glows = tokio::time::sleep(AFTERGLOW);
        tokio::join!(glows, self.until_acked(ACKS, ENOUGH));
        self.shared.sending.store(false, Ordering::Relaxed);
        let deadline = Instant::now() + SETTLES;
        while self.open() > 0 && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        if self.open() > 0 {
            why = Some(format!("{} sends have not ended {} s after the last", self.open(), SETTLES.as_secs()));
        }
        why.or(settle(mesh, Instant::now() + SETTLES).await)
    }

    async fn end(self) -> (Vec<Client>, Vec<Vec<Arc<Peer>>>, Arc<Shared>) {
        self.shared.over.store(true, Ordering::Relaxed);
        let mut clients = Vec::new();
        for task in self.tasks {
            clients.push(task.await.expect("a client"));
        }
        let all = self.sessions.iter().map(|of| of.lock().unwrap_or_else(PoisonError::into_inner).clone());
        (clients, all.collect(), self.shared)
    }
}

/// Waits until nothing of the mesh is unsettled; what still is at the deadline.
async fn settle(mesh: &Mesh, deadline: Instant) -> Option<String> {
    loop {
        let what = driver::unsettled(mesh).await?;
        if Instant::now() >= deadline {
            return Some(format!("not settled {} s after everything was healed: {what}", SETTLES.as_secs()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What a run leaves, before it is judged.
struct Seen {
    checker: Checker,
    readings: Vec<Reading>,
    openings: Openings,
    done: BTreeMap<usize, When>,
    fences: usize,
    fences_counted: u64,
    clients: Vec<Client>,
    shared: Arc<Shared>,
    /// What does not hold that no client can see.
    faults: Vec<(Guarantee, String)>,
    settled: Duration,
}

/// Performs a run with a population, of the code as it ships or, where `mutant` names one, of a wrong reading of it;
/// `say` hears of its progress.
///
/// # Panics
/// When the mesh does not start, does not take a fault, or ends with a code or a log that it must not have.
pub async fn run(plan: &Plan, population: &Population, mutant: Option<&str>, say: impl Fn(&str)) -> Report {
    say(&replay(plan.seed, population));
    let began = Instant::now();
    // Kept unless all held: also when this function panics.
    let folder = tempfile::Builder::new().prefix("hearth-chaos-").tempdir().expect("a folder").keep();
    let data = folder.join("data");
    let arguments = [&QUICK[..], &["--processes", "--failover-after", "2s"]].concat();
    let environment: Vec<(&str, &str)> = mutant.map(|name| ("HEARTH_MUTANT", name)).into_iter().collect();
    let setup = Setup { arguments: &arguments, environment: &environment, data: Some(&data) };
    let mut mesh = Mesh::with(setup).await;
    let seen = perform(&mut mesh, plan, population, &say).await;
    let report = judge(plan, seen, began, &folder, &mesh.log());
    mesh.end().await;
    if report.verdict() == Verdict::Held {
        let _ = std::fs::remove_dir_all(&folder);
    } else {
        say(&replay(plan.seed, population));
    }
    say(&report.story());
    report
}

async fn perform(mesh: &mut Mesh, plan: &Plan, population: &Population, say: &impl Fn(&str)) -> Seen {
    let mut checker = Checker::of(mesh.regions.iter().map(|region| region.id.clone()).collect());
    until("the mesh is whole", SETTLES, || async { driver::unsettled(mesh).await.is_none() }).await;
    let groups = groups(mesh, population).await;
    let crowd = Crowd::start(mesh, population, &groups, plan.seed).await;
    until("clients are acked", SETTLES, || async { crowd.acked() >= WARM }).await;
    let mut driver = Driver::new(mesh, plan);
    driver.perform(Instant::now(), |what| say(&format!("  {} acked; {what}", crowd.acked()))).await;
    let healed = Instant::now();
    let mut faults = Vec::new();
    faults.extend(crowd.calm_down(mesh).await.map(|why| (Guarantee::Answered, why)));
    let settled = healed.elapsed();
    if population.everything {
        faults.extend(ends::look(mesh, population, &groups).await);
    }
    driver.look().await;
    let (done, fences) = (std::mem::take(&mut driver.done), driver.fences.len());
    let fences_counted = driver::fences(mesh).await;
    say(&format!("  {} acked; settled, {fences} fences; reading", crowd.acked()));
    let (clients, sessions, shared) = crowd.end().await;
    sessions.iter().for_each(|peers| checker.observe_resumed(peers));
    for (number, when) in &done {
        checker.fault(plan.faults[*number].kind.name(), when.began, when.ended);
    }
    let openings = openings(mesh, &groups, &mut checker).await;
    faults.extend(openings.owners.iter().map(|what| (Guarantee::G5, what.clone())));
    let (mut readings, mut silent) = read_all(mesh, &user(0), &groups, 1).await;
    mesh.kill().await;
    mesh.restart().await;
    let (again, silent_again) = read_all(mesh, &user(0), &groups, 2).await;
    readings.extend(again);
    silent.extend(silent_again);
    faults.extend(silent.into_iter().map(|what| (Guarantee::G1, what)));
    Seen { checker, readings, openings, done, fences, fences_counted, clients, shared, faults, settled }
}

fn judge(plan: &Plan, seen: Seen, began: Instant, folder: &Path, log: &str) -> Report {
    let history = seen.checker.history(&seen.readings);
    let judged = checker::check(&history);
    let mut violations = judged.violations;
    violations.extend(seen.faults.into_iter().map(|(guarantee, what)| Violation { guarantee, what }));
    let performed: Vec<Performed> = seen
        .done
        .iter()
        .map(|(number, when)| Performed {
            fault: *number,
            takes_away: plan.faults[*number].kind.takes_away(),
            fails_over: plan.faults[*number].fails_over().is_some(),
            began: seen.checker.micros(when.began),
            ended: seen.checker.micros(when.ended),
        })
        .collect();
    let (epochs, without) = measure::epochs(&history, &seen.openings.opened);
    let of_clients = |of: fn(&Client) -> &BTreeMap<String, usize>| {
        let mut sum: BTreeMap<String, usize> = BTreeMap::new();
        for (code, count) in seen.clients.iter().flat_map(of) {
            *sum.entry(code.clone()).or_default() += count;
        }
        sum
    };
    let mut report = Report {
        plan: plan.clone(),
        sends: judged.sends,
        acked: judged.acked,
        violations,
        failovers: seen.fences,
        fences_counted: seen.fences_counted,
        silence: measure::longest_silence(&history),
        rehomed: measure::rehomed(&history, &performed),
        epochs,
        epochs_without_ack: without.len(),
        faults_overlapping: judged.faults_overlapping,
        resumes: seen.shared.resumes.load(Ordering::Relaxed),
        unanswered: seen.shared.unanswered.load(Ordering::Relaxed),
        refused: of_clients(|client| &client.book.refused),
        put_off: of_clients(|client| &client.book.put_off),
        losses: seen.openings.losses,
        readmitted: measure::readmitted(&history),
        settled: seen.settled,
        took: began.elapsed(),
        kept: None,
    };
    if report.verdict() != Verdict::Held {
        let events = history.events.iter().map(|event| format!("{event:?}\n"));
        let sessions = history.sessions.iter().map(|session| format!("{session:?}\n"));
        let text: String = sessions.chain(events).collect();
        let openings = format!("{:?}\nwithout an ack: {without:?}\n{performed:?}\n", seen.openings);
        for (name, text) in [("history", text.as_str()), ("log", log), ("openings", &openings)] {
            // What cannot be kept is missed by nobody but a person who looks for it.
            let _ = std::fs::write(folder.join(name), text);
        }
        report.kept = Some(folder.display().to_string());
    }
    report
}
