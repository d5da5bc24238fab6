//! Runs seeds and prints one line each: `cargo run --release -p simulation --example seeds -- FROM COUNT SECONDS`.

use simulation::{Plan, Size, run};

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let (from, count) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(1));
    #[cfg(feature = "mutants")]
    if let Ok(name) = std::env::var("MUTANT") {
        for name in simulation::hunt::names().filter(|known| name == "all" || name == *known) {
            let size = Size { seconds: 60, ..Size::default() };
            let hunted = simulation::hunt::hunt(name, from, count, size).map(|it| (it.seeds, it.caught.is_some(), it.breaks));
            println!("{name}: {hunted:?}");
        }
        return;
    }
    let size = Size { seconds: numbers.next().unwrap_or(120), ..Size::default() };
    for seed in from..from + count {
        let ran = run(&Plan::new(seed, size));
        println!("{}", serde_json::to_string(&ran).unwrap_or_default());
        if let Ok(guarantee) = std::env::var("SHRINK") {
            let mut ran = ran.clone();
            ran.violations.retain(|violation| format!("{:?}", violation.guarantee) == guarantee);
            let shrunk = simulation::shrink(&Plan::new(seed, size), ran, 150);
            println!("{} runs: {}", shrunk.runs, shrunk.ran.replay);
            shrunk.plan.faults.iter().for_each(|fault| println!("  {fault:?}"));
            shrunk.ran.violations.iter().take(4).for_each(|violation| println!("  {violation:?}"));
        }
        if count == 1 {
            println!("{:?}", ran.steps);
        }
    }
}
