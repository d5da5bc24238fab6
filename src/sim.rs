//! `hearth sim`: runs seeds, prints what to type to see each again, shrinks what fails.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::iter::StepBy;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use simulation::{Plan, Ran, STEPS, Size, Verdict, run_told, shrink};

use crate::arguments::SimArguments;
use crate::output;

/// Exit code for arguments that cannot be used together.
pub(crate) const USAGE: u8 = 64;
/// Runs that shrinking one failure may take.
const SHRINK_RUNS: usize = 120;
/// Violations that are printed of one run.
const SHOWN: usize = 5;

/// What several runs came to.
#[derive(Debug, Default)]
struct Total {
    runs: usize,
    violated: usize,
    inconclusive: usize,
    simulated: f64,
    real: f64,
    faults: BTreeMap<&'static str, u64>,
    steps: BTreeMap<&'static str, u64>,
}

impl Total {
    fn add(&mut self, ran: &Ran) {
        self.runs += 1;
        self.violated += usize::from(ran.verdict == Verdict::Violated);
        self.inconclusive += usize::from(ran.verdict == Verdict::Inconclusive);
        self.simulated += ran.simulated_seconds;
        for (sum, of) in [(&mut self.faults, &ran.faults), (&mut self.steps, &ran.steps)] {
            for (name, count) in of {
                *sum.entry(name).or_default() += count;
            }
        }
    }

    fn exit(&self) -> ExitCode {
        match (self.violated, self.inconclusive) {
            (0, 0) => ExitCode::SUCCESS,
            (0, _) => ExitCode::from(2),
            _ => ExitCode::from(1),
        }
    }

    fn print(&self) {
        let speed = self.simulated / self.real.max(1e-9);
        output::line(&format!(
            "{} runs, {:.2} simulated hours in {:.1} s: {speed:.0} simulated s per s",
            self.runs,
            self.simulated / 3_600.0,
            self.real
        ));
        table("faults", self.faults.iter().map(|(name, count)| (*name, *count)).collect());
        let others = self.steps.keys().filter(|name| !STEPS.contains(name));
        let steps = STEPS.iter().chain(others).filter_map(|name| Some((*name, *self.steps.get(name)?)));
        table("steps", steps.collect());
    }
}

/// Counts in columns; what never happened is red.
fn table(title: &str, rows: Vec<(&str, u64)>) {
    let colours = std::io::stdout().is_terminal();
    output::line(title);
    for chunk in rows.chunks(4) {
        let cells = chunk.iter().map(|(name, count)| {
            let cell = format!("{name:>17} {count:>9}");
            match (*count, colours) {
                (0, true) => format!("\u{1b}[31m{cell}\u{1b}[0m"),
                (0, false) => format!("{name:>15} ! {count:>9}"),
                _ => cell,
            }
        });
        output::line(cells.collect::<Vec<_>>().join(" ").trim_end());
    }
}

fn size_of(arguments: &SimArguments) -> Size {
    let SimArguments {
        seconds,
        regions,
        clients,
        pace,
        successions,
        stores,
        voters,
        erasures,
        by_hand,
        aimed,
        joins,
        ..
    } = *arguments;
    Size { seconds, regions, clients, pace, successions, stores, voters, erasures, by_hand, aimed, joins }
}

/// How long mimalloc waits before it gives freed memory back, in milliseconds; -1: for ever.
const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";

/// Starts this process anew with memory that it frees kept for what comes next: a run ends with all of its memory freed,
/// and the kernel would empty it for the next one, a third of its time. mimalloc reads the variable once, at the start.
/// Where that does not work the runs are slower and nothing else.
pub(crate) fn keep_memory() {
    if std::env::var_os(PURGE_DELAY).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut again = Command::new(program);
    let failed = again.args(std::env::args_os().skip(1)).env(PURGE_DELAY, "-1").exec();
    tracing::debug!(%failed, "memory is given back after each run");
}

/// Runs the verb.
pub(crate) fn sim(arguments: &SimArguments) -> ExitCode {
    #[cfg(feature = "mutants")]
    if let Some(name) = &arguments.mutant {
        return mutants(arguments, name);
    }
    let size = size_of(arguments);
    let began = Instant::now();
    let mut total = Total::default();
    match (arguments.seed, arguments.hours) {
        (Some(seed), None) => match narrowed(arguments, Plan::new(seed, size)) {
            Ok(plan) => {
                announce(arguments, &plan);
                let ran = run_told(&plan, arguments.trace);
                tell(arguments, &plan, ran, &mut total);
            }
            Err(message) => return output::failure(USAGE, &message, "see `hearth sim --help`", arguments.json),
        },
        (None, Some(hours)) => {
            let runs = (hours * 3_600.0 / size.seconds as f64).ceil() as u64;
            let seeds = arguments.from..arguments.from.saturating_add(runs);
            let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
            let jobs = if arguments.trace { 1 } else { arguments.jobs.map_or_else(cores, usize::from) };
            let ran = |seed| {
                let plan = Plan::new(seed, size);
                let ran = run_told(&plan, arguments.trace);
                (plan, ran)
            };
            in_turn(seeds, jobs, ran, |(plan, ran)| {
                announce(arguments, &plan);
                tell(arguments, &plan, ran, &mut total);
            });
        }
        _ => {
            let message = "give either --seed or --hours";
            let hint = "`hearth sim --seed 1`, or `hearth sim --hours 1 --from 1`";
            return output::failure(USAGE, message, hint, arguments.json);
        }
    };
    total.real = began.elapsed().as_secs_f64();
    if !arguments.json {
        total.print();
    }
    total.exit()
}

/// Runs seeds, so many at a time, and tells of them in their order. Each worker has one run that waits to be told of, at
/// most, beside the one under way.
fn in_turn<T: Send>(seeds: Range<u64>, jobs: usize, ran: impl Fn(u64) -> T + Sync, mut told: impl FnMut(T)) {
    let ran = &ran;
    std::thread::scope(|scope| {
        let worker = |mine: StepBy<Range<u64>>| {
            let (done, waits) = sync_channel(1);
            scope.spawn(move || {
                for seed in mine {
                    if done.send(ran(seed)).is_err() {
                        return;
                    }
                }
            });
            waits
        };
        let firsts = seeds.clone().take(jobs);
        let workers: Vec<_> = firsts.map(|first| worker((first..seeds.end).step_by(jobs))).collect();
        for (seed, worker) in seeds.zip(workers.iter().cycle()) {
            let Ok(ran) = worker.recv() else {
                // The scope says more of it once the others are done.
                return output::note(&format!("seed {seed} did not end"));
            };
            told(ran);
        }
    });
}

/// Says what to type to see a run again.
fn announce(arguments: &SimArguments, plan: &Plan) {
    if !arguments.json {
        output::line(&plan.replay());
    }
}

fn tell(arguments: &SimArguments, plan: &Plan, ran: Ran, total: &mut Total) {
    total.add(&ran);
    print(arguments.json, &ran);
    if ran.verdict != Verdict::Violated {
        return;
    }
    output::note(&format!("seed {} fails: {}", ran.seed, ran.replay));
    if let Some(file) = &arguments.keep {
        keep(file, &ran.replay);
    }
    if arguments.shrink {
        let shrunk = shrink(plan, ran, SHRINK_RUNS);
        let of = &shrunk.plan;
        output::note(&format!(
            "shrunk to {} faults and {} clients in {} runs: {}",
            of.faults.len(),
            of.clients.len(),
            shrunk.runs,
            shrunk.ran.replay
        ));
        for fault in &of.faults {
            let (from, lasts) = (fault.at as f64 / 1e6, fault.lasts as f64 / 1e6);
            output::note(&format!("  {from:.3} s, for {lasts:.3} s: {:?}", fault.kind));
        }
        for violation in shrunk.ran.violations.iter().take(SHOWN) {
            output::note(&format!("  {:?}: {}", violation.guarantee, violation.what));
        }
    }
}

fn print(json: bool, ran: &Ran) {
    if json {
        return output::line(&serde_json::to_string(ran).unwrap_or_default());
    }
    let speed = ran.simulated_seconds / ran.real_seconds.max(1e-9);
    output::line(&format!(
        "  {:?}: {} sends, {} acked, {} lost, {} duplicated, {} out of order; {} failovers, {} moves, {} of {} faults \
         overlapped sends; {speed:.0} simulated s per s; trace {}",
        ran.verdict,
        ran.sends,
        ran.acked,
        ran.lost,
        ran.duplicated,
        ran.out_of_order,
        ran.failovers,
        ran.moves,
        ran.faults_overlapping_sends,
        ran.faults.values().sum::<u64>(),
        &ran.trace_hash[..16]
    ));
    for violation in ran.violations.iter().take(SHOWN) {
        output::line(&format!("  {:?}: {}", violation.guarantee, violation.what));
    }
    if let Some(why) = &ran.inconclusive {
        output::line(&format!("  it says little: {why}"));
    }
}

/// Adds a failing run to a file of runs, once.
fn keep(file: &Path, replay: &str) {
    let known = std::fs::read_to_string(file).unwrap_or_default();
    if known.lines().any(|line| line == replay) {
        return;
    }
    if let Err(error) = std::fs::write(file, format!("{known}{replay}\n")) {
        output::note(&format!("{}: {error}; the run is not kept", file.display()));
    }
}

/// The plan with only what the arguments leave in it.
fn narrowed(arguments: &SimArguments, mut plan: Plan) -> Result<Plan, String> {
    if let Some(second) = arguments.calm_from {
        plan = plan.calm_from(second);
    }
    if let Some(list) = &arguments.faults {
        plan = plan.with_faults(&numbers(list)?);
    }
    if let Some(list) = &arguments.only_clients {
        plan = plan.with_clients(&numbers(list)?);
    }
    Ok(plan)
}

fn numbers<T: std::str::FromStr>(list: &str) -> Result<Vec<T>, String> {
    if list == "none" {
        return Ok(Vec::new());
    }
    let read = |text: &str| text.trim().parse().map_err(|_| format!("{text:?} in {list:?} is not a number"));
    list.split(',').map(read).collect()
}

/// Prints a row of docs/simulation.md for a mutant, or for each.
#[cfg(feature = "mutants")]
fn mutants(arguments: &SimArguments, name: &str) -> ExitCode {
    let size = size_of(arguments);
    let names: Vec<&str> = simulation::hunt::names().filter(|known| name == "all" || name == *known).collect();
    if names.is_empty() {
        let known: Vec<&str> = simulation::hunt::names().collect();
        let hint = format!("one of {}, or all", known.join(", "));
        return output::failure(USAGE, &format!("no mutant is called {name}"), &hint, arguments.json);
    }
    let mut missed = 0;
    for name in names {
        let Some(hunted) = simulation::hunt::hunt(name, arguments.from, arguments.seeds, size) else { continue };
        missed += usize::from(hunted.caught.is_none());
        let seeds = match &hunted.caught {
            Some(_) => hunted.seeds.to_string(),
            None => format!("none of {}", hunted.seeds),
        };
        let breaks: Vec<String> = hunted.breaks.iter().map(|guarantee| format!("{guarantee:?}")).collect();
        if arguments.json {
            let row = serde_json::json!({ "mutant": name, "seeds": hunted.seeds, "caught": hunted.caught.is_some(),
                "breaks": breaks, "replay": hunted.caught.map(|ran| ran.replay) });
            output::line(&row.to_string());
        } else {
            output::line(&format!("| {name} | {seeds} | {} |", breaks.join(", ")));
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_told_once_and_in_their_order_however_many_run_at_a_time() {
        for (seeds, jobs) in [(5..25, 1), (5..25, 3), (5..25, 20), (5..7, 8), (5..5, 2)] {
            let mut told = Vec::new();
            // Every third takes longer than those behind it.
            let ran = |seed: u64| {
                let steps = if seed.is_multiple_of(3) { 200_000 } else { 1 };
                std::hint::black_box((0..steps).sum::<u64>());
                seed
            };
            in_turn(seeds.clone(), jobs, ran, |seed| told.push(seed));
            assert_eq!(told, seeds.collect::<Vec<_>>(), "{jobs} at a time");
        }
    }
}
