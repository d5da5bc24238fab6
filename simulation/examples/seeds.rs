//! Runs seeds and prints one line each: `cargo run --release -p simulation --example seeds -- FROM COUNT SECONDS`.

use simulation::{Plan, Size};

/// The allocator of the binary that ships, so that the speed is that of `hearth sim`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let (from, count) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(1));
    let [successions, stores, voters, erasures, by_hand, aimed, joins] =
        ["SUCCESSIONS", "STORES", "VOTERS", "ERASURES", "BY_HAND", "AIMED", "JOINS"]
            .map(|name| std::env::var(name).is_ok());
    let regions = std::env::var("REGIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let size = Size { regions, successions, stores, voters, erasures, by_hand, aimed, joins, ..Size::default() };
    #[cfg(feature = "mutants")]
    if let Ok(name) = std::env::var("MUTANT") {
        let seconds = numbers.next().unwrap_or(60);
        for name in simulation::hunt::names().filter(|known| name == "all" || name == *known) {
            let size = Size { seconds, ..size };
            let hunted =
                simulation::hunt::hunt(name, from, count, size).map(|it| (it.seeds, it.caught.is_some(), it.breaks));
            println!("{name}: {hunted:?}");
        }
        return;
    }
    let size = Size { seconds: numbers.next().unwrap_or(120), ..size };
    for seed in from..from + count {
        let numbers = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(text.split(',').filter_map(|number| number.parse::<u32>().ok()).collect::<Vec<_>>())
        };
        let mut plan = Plan::new(seed, size);
        if let Some(second) = numbers("CALM") {
            plan = plan.calm_from(u64::from(second[0]));
        }
        if let Some(faults) = numbers("FAULTS") {
            plan = plan.with_faults(&faults);
        }
        if let Some(clients) = numbers("CLIENTS") {
            plan = plan.with_clients(&clients.into_iter().map(|client| client as usize).collect::<Vec<_>>());
        }
        let (ran, history) = simulation::run_whole(&plan, std::env::var("TOLD").is_ok());
        if let Ok(words) = std::env::var("DUMP") {
            for (at, event) in &history.events {
                let text = format!("{event:?}");
                if words.split('/').all(|word| text.contains(word)) && text.len() < 400 {
                    println!("{at} {text}");
                }
            }
        }
        println!("{}", serde_json::to_string(&ran).unwrap_or_default());
        if let Ok(guarantee) = std::env::var("SHRINK") {
            let mut ran = ran.clone();
            ran.violations.retain(|violation| format!("{:?}", violation.guarantee) == guarantee);
            let shrunk = simulation::shrink(&plan, ran, 150);
            println!("{} runs: {}", shrunk.runs, shrunk.ran.replay);
            shrunk.plan.faults.iter().for_each(|fault| println!("  {fault:?}"));
            shrunk.ran.violations.iter().take(4).for_each(|violation| println!("  {violation:?}"));
        }
        if count == 1 {
            println!("{:?}", ran.steps);
        }
    }
}
