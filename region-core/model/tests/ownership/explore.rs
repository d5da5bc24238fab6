//! Explores a world breadth first, or by random walks, and says what was found.

use std::collections::BTreeSet;
use std::time::Duration;

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::actions::Action;
use crate::properties;
use crate::world::{Bounds, World};

impl Model for Bounds {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::begin(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.list_actions(self, actions);
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        (world.perform(self, action) && world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("G1 acked is in the line", properties::acked_is_in_the_line),
            Property::always("G2 one order", properties::one_order),
            Property::always("G3 sent once", properties::sent_once),
            Property::always("G5 one writer", properties::one_writer),
            Property::always("G6 honest acks", properties::honest_acks),
            Property::always("G8 acked is held", properties::acked_is_held),
            Property::always("losses are named", properties::losses_are_named),
            Property::always("no conflict within an accepted line", properties::no_conflict),
            Property::always("shown stays", properties::shown_stays),
            Property::always("placed once", properties::placed_once),
            Property::always("a majority side goes on", properties::majority_goes_on),
            Property::sometimes("acked under a second epoch", properties::acked_under_second_epoch),
            Property::sometimes("a tail came back", properties::tail_came_back),
            Property::sometimes("entries went apart", properties::something_went_apart),
            Property::sometimes("a line was staged", properties::something_was_staged),
        ];
        let judged = |name: &str| self.judged.is_empty() || self.judged.iter().any(|start| name.starts_with(start));
        properties.retain(|property| judged(property.name));
        properties
    }
}

/// What an exploration found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The violated property with the shortest way there that was found.
    pub(crate) violated: Option<(&'static str, Vec<Action>)>,
    /// What was seen of the `sometimes` properties.
    pub(crate) seen: BTreeSet<&'static str>,
    /// Whether every state within the bounds was visited.
    pub(crate) exhausted: bool,
}

impl Found {
    /// Fails unless everything held, in every state within the bounds, and these things happened.
    pub(crate) fn holds(&self, happened: &[&str]) {
        if let Some((property, steps)) = &self.violated {
            panic!("violated: {property}\n{}", steps.iter().map(|step| format!("  {step:?}\n")).collect::<String>());
        }
        assert!(self.exhausted, "not exhausted within its time");
        for seen in happened {
            assert!(self.seen.contains(seen), "never seen: {seen}");
        }
    }
}

/// Whether the long forms are asked for.
pub(crate) fn all() -> bool {
    std::env::var_os("HEARTH_TEST_ALL").is_some()
}

/// Explores everything within the bounds, until something is violated.
pub(crate) fn explore(name: &str, bounds: &Bounds) -> Found {
    let limit = Duration::from_secs(if all() { 3_600 } else { 300 });
    let threads = if all() { 2 } else { 1 };
    let checker = bounds
        .clone()
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .timeout(limit)
        .spawn_bfs()
        .join();
    report(name, &checker)
}

/// Numbers for random walks: xorshift, the same for a seed everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).expect("48 bits") % count
    }
}

/// Steps of one walk.
const WALK: usize = 150;

/// Walks of one exploration: some 8 seconds, or 10 minutes by command, on one core.
fn walks() -> u64 {
    if all() { 1_500_000 } else { 20_000 }
}

/// Walks at random from the beginning again and again, the same for a seed. Fails when something is violated, or when one of
/// these things never happened. stateright's own simulation cannot name a path in which actions were impossible.
pub(crate) fn walk(name: &str, bounds: &Bounds, seed: u64, happened: &[&str]) {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let properties = bounds.properties();
    let mut steps = 0u64;
    let mut seen = BTreeSet::new();
    for number in 1..=walks() {
        let (mut world, mut path, mut actions) = (World::begin(bounds), Vec::new(), Vec::new());
        for _ in 0..WALK {
            actions.clear();
            world.list_actions(bounds, &mut actions);
            let action = actions[dice.below(actions.len())];
            let mut next = world.clone();
            if !next.perform(bounds, action) || next == world {
                continue;
            }
            world = next;
            path.push(action);
            steps += 1;
            for property in &properties {
                let holds = (property.condition)(bounds, &world);
                match property.expectation {
                    stateright::Expectation::Sometimes if holds => drop(seen.insert(property.name)),
                    stateright::Expectation::Always if !holds => {
                        let path: String = path.iter().map(|step| format!("  {step:?}\n")).collect();
                        panic!("violated in walk {number} of seed {seed}: {}\n{path}", property.name);
                    }
                    _ => {}
                }
            }
        }
    }
    println!("random walks, seed {seed}: {name} | {} walks | {steps} steps | seen: {seen:?}", walks());
    for wanted in happened {
        assert!(seen.contains(wanted), "never seen: {wanted}");
    }
}

/// Explores something wrong until the property that begins so is violated.
///
/// Fails when it is not.
pub(crate) fn breaks(name: &str, bounds: Bounds, property: &'static str) {
    let bounds = Bounds { judged: vec![property], ..bounds };
    let found = explore(&format!("mutant: {name}"), &bounds);
    assert!(found.violated.is_some(), "no counterexample (exhausted: {})", found.exhausted);
}

fn report(name: &str, checker: &impl Checker<Bounds>) -> Found {
    let mut violated: Option<(&'static str, Vec<Action>)> = None;
    let mut seen = BTreeSet::new();
    for (property, path) in checker.discoveries() {
        let always = checker
            .model()
            .properties()
            .iter()
            .any(|known| known.name == property && matches!(known.expectation, stateright::Expectation::Always));
        if !always {
            seen.insert(property);
        } else {
            let steps = path.into_actions();
            if violated.as_ref().is_none_or(|(_, shorter)| steps.len() < shorter.len()) {
                violated = Some((property, steps));
            }
        }
    }
    let found = match &violated {
        Some((property, steps)) => format!("violated in {} steps: {property}", steps.len()),
        None if checker.is_done() => format!("holds; seen: {}", seen.iter().copied().collect::<Vec<_>>().join(", ")),
        None => "not exhausted".to_owned(),
    };
    if std::env::var_os("HEARTH_MODEL_STEPS").is_some() {
        for step in violated.iter().flat_map(|(_, steps)| steps) {
            println!("    {step:?}");
        }
    }
    println!(
        "{name} | {} states | {} distinct | depth {} | {found}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    let exhausted = checker.is_done() && violated.is_none();
    Found { violated, seen, exhausted }
}
