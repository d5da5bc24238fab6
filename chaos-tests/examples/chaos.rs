//! `cargo run --release -p chaos-tests --example chaos`: runs of random faults over real sockets, one after the other.

use std::process::ExitCode;
use std::time::Duration;

use chaos_tests::chaos::plan::{Plan, USUAL};
use chaos_tests::chaos::report::{self, Report};
use chaos_tests::chaos::{Population, Verdict, run};

const HELP: &str = "\
usage: chaos [--runs N] [--seed N] [--seconds N] [--crowd] [--json] [--plan] [--mutant NAME]...

Starts `hearth dev --processes`, loads it through all three regions, performs the faults that follow from the seed, heals
everything, reads every conversation through every region, restarts all, reads again, and judges what the clients saw.

  --runs N      how many runs, of seeds in turn (1)
  --seed N      the first seed (1)
  --seconds N   how long faults come, from 45 (52)
  --crowd       500 users in 50 conversations of mixed size who do all of chat, instead of six who send
  --json        one line of JSON a run on standard output; everything else goes to standard error
  --mutant NAME a wrong reading of the core (`hearth sim --help`), of a binary that was built with the feature `mutants`:
                seeds in turn, --runs at most, until one is violated; may be given more than once
  --plan        prints the plans and runs nothing
  --help        this text

The binary is the one named by HEARTH, or `hearth` beside the folder of this program: let HEARTH name a copy of your own
where somebody may build meanwhile. The same seed brings the same faults, not the same interleaving.

Exit codes: 0 all held, 1 one was violated or broke off, 2 one was inconclusive, 64 usage. With --mutant: 0 when each of
them was caught, else 1.";

struct Arguments {
    runs: u64,
    seed: u64,
    length: Duration,
    json: bool,
    plan: bool,
    crowd: bool,
    mutants: Vec<String>,
}

impl Arguments {
    fn population(&self) -> Population {
        if self.crowd { Population::crowd() } else { Population::few() }
    }
}

fn arguments() -> Result<Option<Arguments>, String> {
    let mut parsed =
        Arguments { runs: 1, seed: 1, length: USUAL, json: false, plan: false, crowd: false, mutants: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--mutant" {
            parsed.mutants.push(words.next().ok_or("--mutant: a name is missing, as in --mutant no-dedup")?);
            continue;
        }
        let mut number = || {
            let value = words.next().unwrap_or_default();
            value.parse::<u64>().map_err(|_| format!("{word} {value}: a number is missing, as in {word} 5"))
        };
        match word.as_str() {
            "--runs" => parsed.runs = number()?,
            "--seed" => parsed.seed = number()?,
            "--seconds" => parsed.length = Duration::from_secs(number()?.max(45)),
            "--json" => parsed.json = true,
            "--plan" => parsed.plan = true,
            "--crowd" => parsed.crowd = true,
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("{word} is not known")),
        }
    }
    Ok(Some(parsed))
}

fn say(json: bool, text: &str) {
    if json { eprintln!("{text}") } else { println!("{text}") }
}

/// One run. One that breaks off is told by its task, and is no reason not to do others.
async fn one(plan: Plan, arguments: &Arguments, mutant: Option<String>) -> Result<Report, tokio::task::JoinError> {
    let population = arguments.population();
    let json = arguments.json;
    tokio::spawn(async move { run(&plan, &population, mutant.as_deref(), |text| say(json, text)).await }).await
}

/// Runs each mutant until a run is violated; whether all were caught. A run that breaks off catches nothing.
async fn mutants(arguments: &Arguments) -> bool {
    let mut rows = Vec::new();
    for name in &arguments.mutants {
        let mut caught = None;
        for seed in arguments.seed..arguments.seed + arguments.runs {
            say(arguments.json, &format!("{name}, seed {seed}"));
            let plan = Plan::of(seed, arguments.length);
            let Ok(report) = one(plan, arguments, Some(name.clone())).await else { continue };
            if let Some(violation) = report.violations.first() {
                caught = Some((seed, violation.clone()));
                break;
            }
        }
        rows.push((name, caught));
    }
    for (name, caught) in &rows {
        let what = caught.as_ref().map_or_else(
            || format!("not caught by {} seeds", arguments.runs),
            |(seed, violation)| format!("seed {seed}: {:?}: {}", violation.guarantee, violation.what),
        );
        say(arguments.json, &format!("{name:>24}  {what}"));
    }
    rows.iter().all(|(_, caught)| caught.is_some())
}

async fn all(arguments: &Arguments) -> (Vec<Report>, u64) {
    let (mut reports, mut broken) = (Vec::new(), 0);
    for number in 0..arguments.runs {
        let plan = Plan::of(arguments.seed + number, arguments.length);
        let json = arguments.json;
        say(json, &format!("run {} of {}", number + 1, arguments.runs));
        if arguments.plan {
            plan.faults.iter().for_each(|fault| say(json, &format!("  {fault}")));
            continue;
        }
        let seed = plan.seed;
        match one(plan, arguments, None).await {
            Ok(report) => {
                if json {
                    println!("{}", report.json());
                }
                reports.push(report);
            }
            Err(error) => {
                broken += 1;
                say(json, &format!("broke off: {error}\n{}", report::replay(seed, &arguments.population())));
            }
        }
    }
    (reports, broken)
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}: see --help");
            return ExitCode::from(64);
        }
    };
    if !arguments.mutants.is_empty() {
        return if mutants(&arguments).await { ExitCode::SUCCESS } else { ExitCode::from(1) };
    }
    let (reports, broken) = all(&arguments).await;
    if arguments.plan {
        return ExitCode::SUCCESS;
    }
    say(arguments.json, &report::table(&reports));
    if broken > 0 {
        say(arguments.json, &format!("{broken} runs broke off"));
    }
    let any = |verdict| reports.iter().any(|report| report.verdict() == verdict);
    match (broken > 0 || any(Verdict::Violated), any(Verdict::Inconclusive)) {
        (true, _) => ExitCode::from(1),
        (false, true) => ExitCode::from(2),
        (false, false) => ExitCode::SUCCESS,
    }
}
