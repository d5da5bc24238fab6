//! The links that ship, with quinn and TLS, on a simulated network: hours of faults in seconds. `HEARTH_SEEDS=50` runs
//! that many seeds of each; the network's chances come from the seed, the pauses between attempts do not.

mod mesh;
mod socket;

use std::time::Duration;

use mesh::{Certificates, Controls, REGIONS, crash, lose, pass};

/// Longer than a region may take to see that a link is gone.
const NOTICED: Duration = Duration::from_secs(5);
/// Longer than a link takes to come back, over a network that loses datagrams.
const BACK: Duration = Duration::from_secs(12);

/// Runs a story for each seed.
fn for_seeds(story: impl Fn(&mut turmoil::Sim<'_>, &Controls, u64)) {
    let seeds = std::env::var("HEARTH_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let certificates = Certificates::new();
    for seed in 1..=seeds {
        println!("seed {seed}");
        let controls = Controls::default();
        let mut mesh = mesh::mesh(seed, &controls, &certificates);
        // From none to five in a hundred.
        lose(&controls, (seed % 6) as f64);
        pass(&mut mesh, BACK);
        all_flow(&mut mesh, &controls);
        story(&mut mesh, &controls, seed);
        all_flow(&mut mesh, &controls);
    }
}

/// Every link is up and carries frames.
fn all_flow(mesh: &mut turmoil::Sim<'_>, controls: &Controls) {
    let before = controls.pairs();
    pass(mesh, Duration::from_secs(3));
    for ((by, of, before), (_, _, now)) in before.into_iter().zip(controls.pairs()) {
        assert!(now.is_up, "{by} has no link to {of}: {now:?}");
        assert!(now.frames > before.frames + 20, "{by} hears {} frames of {of}", now.frames - before.frames);
    }
}

#[test]
fn links_that_lose_datagrams_keep_order_and_leave_nothing_out() {
    for_seeds(|mesh, controls, _| {
        pass(mesh, Duration::from_secs(60));
        for (by, of, seen) in controls.pairs() {
            assert!(seen.frames > 1_000, "{by} heard {} frames of {of}", seen.frames);
        }
    });
}

#[test]
fn a_cut_of_one_direction_takes_the_link_down_on_both_sides_and_no_other_link() {
    for_seeds(|mesh, controls, seed| {
        let (from, to) = (REGIONS[(seed % 3) as usize], REGIONS[((seed + 1) % 3) as usize]);
        let downs = |one: &'static str, other: &str| controls.seen(one, other).downs;
        let before: Vec<_> = controls.pairs().into_iter().map(|(_, _, seen)| seen.downs).collect();
        mesh.partition_oneway(from, to);
        pass(mesh, NOTICED);
        assert!(downs(from, to) > 0 && downs(to, from) > 0, "both sides notice");
        for ((by, of, seen), before) in controls.pairs().into_iter().zip(before) {
            let cut = (by, of) == (from, to) || (by, of) == (to, from);
            assert!(cut || seen.downs == before, "the link of {by} to {of} is not cut");
        }
        mesh.repair_oneway(from, to);
        pass(mesh, BACK);
    });
}

#[test]
fn links_of_a_partition_come_back_and_carry_only_what_was_sent_since() {
    for_seeds(|mesh, controls, seed| {
        for round in 0..3 {
            let (one, other) = (REGIONS[((seed + round) % 3) as usize], REGIONS[((seed + round + 1) % 3) as usize]);
            mesh.partition(one, other);
            pass(mesh, NOTICED + Duration::from_millis(700 * round));
            assert!(!controls.seen(one, other).is_up && !controls.seen(other, one).is_up);
            mesh.repair(one, other);
            pass(mesh, BACK);
            assert!(controls.seen(one, other).is_up && controls.seen(other, one).is_up);
        }
    });
}

#[test]
fn datagrams_that_were_held_up_for_seconds_and_come_at_once_change_nothing() {
    for_seeds(|mesh, controls, seed| {
        let (one, other) = (REGIONS[(seed % 3) as usize], REGIONS[((seed + 1) % 3) as usize]);
        for seconds in [1, 4, 9] {
            mesh.hold(one, other);
            pass(mesh, Duration::from_secs(seconds));
            mesh.release(one, other);
            pass(mesh, BACK);
            assert!(controls.seen(one, other).is_up, "after {seconds} s");
        }
    });
}

#[test]
fn a_region_that_dies_and_starts_again_has_its_links_back() {
    for_seeds(|mesh, controls, seed| {
        let region = REGIONS[(seed % 3) as usize];
        for down in [Duration::from_millis(20), NOTICED] {
            crash(mesh, controls, region);
            pass(mesh, down);
            mesh.bounce(region);
            pass(mesh, BACK);
            all_flow(mesh, controls);
        }
    });
}

#[test]
fn a_region_that_reads_nothing_holds_up_who_sends_to_it_and_nobody_else() {
    for_seeds(|mesh, controls, seed| {
        let (deaf, one, other) =
            (REGIONS[(seed % 3) as usize], REGIONS[((seed + 1) % 3) as usize], REGIONS[((seed + 2) % 3) as usize]);
        let before = controls.seen(one, other).frames;
        *controls.deaf.lock() = Some(deaf);
        pass(mesh, Duration::from_secs(30));
        assert!(controls.seen(one, other).frames > before + 500, "the others go on");
        assert!(controls.seen(one, deaf).full > 0 && controls.seen(one, other).full == 0, "one lane is full");
        *controls.deaf.lock() = None;
        pass(mesh, BACK);
    });
}
