//! Runs as a whole: the same seed twice, what a replay line means, runs that failed once.

use simulation::{Plan, Size, Verdict, run};

fn small() -> Size {
    Size { seconds: 30, clients: 12, ..Size::default() }
}

#[test]
fn the_same_seed_twice_gives_the_same_trace_and_another_seed_another() {
    let (one, again, other) = (run(&Plan::new(5, small())), run(&Plan::new(5, small())), run(&Plan::new(6, small())));
    assert_eq!((&one.trace_hash, one.sends, &one.steps), (&again.trace_hash, again.sends, &again.steps));
    assert_ne!(one.trace_hash, other.trace_hash);
    assert_eq!(one.trace_hash.len(), 64);
}

#[test]
fn a_run_without_a_fault_holds_what_it_shows() {
    for seed in 1..4 {
        let ran = run(&Plan::new(seed, small()).with_faults(&[]));
        println!("{}", ran.replay);
        assert_eq!(ran.violations, vec![]);
        assert_eq!(ran.verdict, Verdict::Inconclusive, "without faults it says little");
        assert!(ran.acked > 200, "{} acked", ran.acked);
    }
}

#[test]
fn a_replay_line_says_what_was_left_out_of_a_plan() {
    let plan = Plan::new(3, small());
    assert_eq!(plan.replay(), "hearth sim --seed 3 --seconds 30 --regions 3 --clients 12");
    let fewer = plan.clone().with_faults(&[1, 2]).with_clients(&[0, 4]);
    assert!(fewer.replay().ends_with("--faults 1,2 --only-clients 0,4"), "{}", fewer.replay());
    assert!(plan.calm_from(9).replay().contains("--calm-from 9"));
}

/// A plan from its replay line.
fn read(line: &str) -> Plan {
    let words: Vec<&str> = line.split_whitespace().collect();
    let value = |flag: &str| words.iter().position(|word| *word == flag).map(|at| words[at + 1]);
    let number = |flag: &str| value(flag).map(|text| text.parse::<u64>().expect("a number"));
    let list = |text: &str| text.split(',').filter_map(|number| number.parse::<u32>().ok()).collect::<Vec<_>>();
    let size = |flag: &str| usize::try_from(number(flag).expect("a size")).expect("small");
    let size = Size {
        seconds: number("--seconds").expect("seconds"),
        regions: size("--regions"),
        clients: size("--clients"),
        pace: number("--pace").unwrap_or(simulation::PACE),
        successions: words.contains(&"--successions"),
        stores: words.contains(&"--stores"),
        voters: words.contains(&"--voters"),
        erasures: words.contains(&"--erasures"),
        by_hand: words.contains(&"--by-hand"),
        aimed: words.contains(&"--aimed"),
        joins: words.contains(&"--joins"),
    };
    let mut plan = Plan::new(number("--seed").expect("a seed"), size);
    if let Some(second) = number("--calm-from") {
        plan = plan.calm_from(second);
    }
    if let Some(text) = value("--faults") {
        plan = plan.with_faults(&list(text));
    }
    if let Some(text) = value("--only-clients") {
        let clients: Vec<usize> = list(text).into_iter().map(|client| client as usize).collect();
        plan = plan.with_clients(&clients);
    }
    plan
}

#[test]
fn runs_that_failed_once_hold() {
    let lines = include_str!("../regressions.txt").lines().filter(|line| line.starts_with("hearth sim"));
    for line in lines {
        println!("{line}");
        let plan = read(line);
        assert_eq!(plan.replay(), line, "a line says all of its plan");
        assert_eq!(run(&plan).violations, vec![], "{line}");
    }
}

#[test]
fn a_region_that_loses_its_store_again_and_again_loses_nothing_that_had_another_copy() {
    for seed in 1..4 {
        let size = Size { seconds: 60, clients: 12, stores: true, ..Size::default() };
        let ran = run(&Plan::new(seed, size));
        println!("{}", ran.replay);
        assert_eq!(ran.violations, vec![]);
        let lost = ["store-lost", "store-restored"].map(|step| ran.steps.get(step).copied().unwrap_or(0));
        assert!(lost.iter().sum::<u64>() > 0 && ran.steps["incarnation"] > 0, "{lost:?}");
    }
}

#[test]
fn conversations_whose_voters_change_under_faults_lose_nothing() {
    for (seed, regions) in [(1, 3), (2, 5)] {
        let size = Size { seconds: 60, clients: 12, regions, voters: true, ..Size::default() };
        let ran = run(&Plan::new(seed, size));
        println!("{}", ran.replay);
        assert_eq!(ran.violations, vec![]);
        assert!(ran.steps["voters-asked"] > 0 && ran.moves > 0, "{} moves", ran.moves);
    }
}

#[test]
fn power_that_fails_at_the_moment_of_a_write_loses_nothing_that_was_promised() {
    let mut hits = 0;
    for seed in 1..9 {
        let ran = run(&Plan::new(seed, Size { seconds: 60, clients: 12, aimed: true, ..Size::default() }));
        println!("{}", ran.replay);
        assert_eq!(ran.violations, vec![]);
        // In a short run with few clients what is aimed at may not happen.
        hits += ran.steps.get("power-cut-at-write").copied().unwrap_or(0);
    }
    assert!(hits > 5, "{hits} hits");
}

#[test]
fn regions_that_are_fenced_by_hand_as_soon_as_the_map_lets_it_lose_nothing() {
    let (mut asked, mut fences) = (0, 0);
    for seed in 1..4 {
        let size = Size { seconds: 60, clients: 12, by_hand: true, ..Size::default() };
        let ran = run(&Plan::new(seed, size));
        println!("{}", ran.replay);
        assert_eq!(ran.violations, vec![]);
        (asked, fences) = (asked + ran.steps["fence-asked"], fences + ran.steps["fence"]);
    }
    assert!(asked > fences && fences > 0, "{fences} fences, asked for {asked} times");
}

#[test]
fn requests_that_share_an_entry_add_each_user_once_under_faults() {
    let mut shared = 0;
    for (seed, successions) in [(1, false), (2, false), (3, true)] {
        let size = Size { seconds: 60, clients: 12, joins: true, successions, ..Size::default() };
        let ran = run(&Plan::new(seed, size));
        println!("{}", ran.replay);
        assert_eq!(ran.violations, vec![]);
        shared += ran.steps["joins-shared"];
    }
    assert!(shared > 20, "{shared} copies of such entries");
}
