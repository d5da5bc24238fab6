//! Makes a failing run smaller: fewer faults, fewer clients, an earlier end, while it still breaks the same guarantee.

use crate::checker::Guarantee;
use crate::plan::{Plan, SECOND};
use crate::run::{Ran, Verdict, run};

/// A smaller plan that still fails.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The plan.
    pub plan: Plan,
    /// Its run.
    pub ran: Ran,
    /// Runs that it took.
    pub runs: usize,
}

/// Shrinks a plan that failed, with at most so many runs.
#[must_use]
pub fn shrink(plan: &Plan, ran: Ran, most: usize) -> Shrunk {
    let wanted: Vec<Guarantee> = ran.violations.first().map(|violation| violation.guarantee).into_iter().collect();
    let mut shrinker = Shrinker { best: Shrunk { plan: plan.clone(), ran, runs: 0 }, wanted, most };
    shrinker.earlier();
    shrinker.fewer_faults();
    shrinker.fewer_clients();
    shrinker.fewer_faults();
    shrinker.best
}

struct Shrinker {
    best: Shrunk,
    wanted: Vec<Guarantee>,
    most: usize,
}

impl Shrinker {
    /// Tries a plan; keeps it when it still fails in the same way.
    fn fails(&mut self, plan: Plan) -> bool {
        if self.best.runs >= self.most {
            return false;
        }
        self.best.runs += 1;
        let ran = run(&plan);
        let same = ran.violations.iter().any(|violation| self.wanted.contains(&violation.guarantee));
        if ran.verdict == Verdict::Violated && same {
            self.best.plan = plan;
            self.best.ran = ran;
            return true;
        }
        false
    }

    fn earlier(&mut self) {
        let (mut low, mut high) = (4, self.best.plan.calm_at / SECOND);
        while low + 1 < high {
            let middle = low.midpoint(high);
            if self.fails(self.best.plan.clone().calm_from(middle)) {
                high = middle;
            } else {
                low = middle;
            }
        }
    }

    fn fewer_faults(&mut self) {
        self.fewer(
            |plan| plan.faults.iter().map(|fault| fault.number as usize).collect(),
            |plan, keep| {
                let numbers: Vec<u32> = keep.iter().filter_map(|number| u32::try_from(*number).ok()).collect();
                plan.with_faults(&numbers)
            },
        );
    }

    fn fewer_clients(&mut self) {
        self.fewer(|plan| plan.clients.clone(), |plan, keep| plan.with_clients(keep));
    }

    /// Delta debugging: drops ever smaller parts of a list.
    fn fewer(&mut self, of: impl Fn(&Plan) -> Vec<usize>, with: impl Fn(Plan, &[usize]) -> Plan) {
        let mut part = of(&self.best.plan).len().div_ceil(2);
        while part >= 1 && self.best.runs < self.most {
            let mut at = 0;
            while at < of(&self.best.plan).len() {
                let all = of(&self.best.plan);
                let keep: Vec<usize> = all[..at].iter().chain(all.iter().skip(at + part)).copied().collect();
                if !self.fails(with(self.best.plan.clone(), &keep)) {
                    at += part;
                }
            }
            if part == 1 {
                break;
            }
            part = part.div_ceil(2);
        }
    }
}
