//! Mutants: how many seeds it takes until the checker sees a wrong reading in the code that ships.

use std::collections::BTreeSet;

use region_model::mutants::{Mutant, switch_on};

use crate::checker::Guarantee;
use crate::plan::{Plan, Size};
use crate::run::{Ran, run};

/// What a hunt for one mutant came to.
#[derive(Clone, Debug)]
pub struct Hunted {
    /// Seeds that were run, the catching one included.
    pub seeds: u64,
    /// The run that shows it; `None` when none did.
    pub caught: Option<Ran>,
    /// The guarantees that it breaks, and the code without it does not.
    pub breaks: Vec<Guarantee>,
}

/// Names of all mutants.
pub fn names() -> impl Iterator<Item = &'static str> {
    Mutant::ALL.into_iter().map(|(name, _)| name)
}

/// Runs seeds with a mutant switched on until one breaks a guarantee that the same seed without it does not break, at
/// most so many. `None` when no mutant has the name. Switches are of the process: one hunt at a time.
#[must_use]
pub fn hunt(name: &str, from: u64, most: u64, size: Size) -> Option<Hunted> {
    if !names().any(|known| known == name) {
        return None;
    }
    for seed in from..from + most {
        let plan = Plan::new(seed, size);
        switch_on(Some(name));
        let with = run(&plan);
        switch_on(None);
        let broken = guarantees(&with);
        if broken.is_empty() {
            continue;
        }
        let without = guarantees(&run(&plan));
        let breaks: Vec<Guarantee> = broken.difference(&without).copied().collect();
        if !breaks.is_empty() {
            return Some(Hunted { seeds: seed - from + 1, caught: Some(with), breaks });
        }
    }
    Some(Hunted { seeds: most, caught: None, breaks: Vec::new() })
}

fn guarantees(ran: &Ran) -> BTreeSet<Guarantee> {
    ran.violations.iter().map(|violation| violation.guarantee).collect()
}
