//! The trace of a run: a running hash of everything that happened, and how often each step happened.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aws_lc_rs::digest;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// Bytes gathered before they are hashed.
const GATHERED: usize = 1 << 16;

/// Hash and counts.
pub(crate) struct Trace {
    context: digest::Context,
    gathered: Vec<u8>,
    /// How often each step happened. Nothing depends on its order: see [`Trace::steps`].
    steps: HashMap<&'static str, u64, FixedState>,
    /// Whether each line goes to standard error, too.
    pub(crate) told: bool,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace").field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl Trace {
    pub(crate) fn new(steps: &[&'static str]) -> Self {
        Self {
            context: digest::Context::new(&digest::SHA256),
            gathered: Vec::with_capacity(GATHERED),
            steps: steps.iter().map(|step| (*step, 0)).collect(),
            told: false,
        }
    }

    /// Something happened, at a time in microseconds, with two numbers that tell it from others of its kind.
    pub(crate) fn add(&mut self, at: u64, step: &'static str, one: u64, other: u64) {
        if self.told {
            eprintln!("{:>12.6} {step} {one} {other}", at as f64 / 1e6);
        }
        self.gathered.extend_from_slice(&at.to_le_bytes());
        self.gathered.extend_from_slice(step.as_bytes());
        self.gathered.extend_from_slice(&one.to_le_bytes());
        self.gathered.extend_from_slice(&other.to_le_bytes());
        if self.gathered.len() >= GATHERED {
            self.context.update(&self.gathered);
            self.gathered.clear();
        }
    }

    /// As [`Trace::add`], and counted.
    pub(crate) fn count(&mut self, at: u64, step: &'static str, one: u64, other: u64) {
        *self.steps.entry(step).or_default() += 1;
        self.add(at, step, one, other);
    }

    /// How often each step happened, by name.
    pub(crate) fn steps(&self) -> BTreeMap<&'static str, u64> {
        self.steps.iter().map(|(step, count)| (*step, *count)).collect()
    }

    /// How often a step happened.
    pub(crate) fn steps_of(&self, step: &str) -> u64 {
        self.steps.get(step).copied().unwrap_or(0)
    }

    /// The hash of all, in hexadecimal.
    pub(crate) fn hash(mut self) -> String {
        self.context.update(&self.gathered);
        let mut text = String::new();
        for byte in self.context.finish().as_ref() {
            // A string takes everything.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}
