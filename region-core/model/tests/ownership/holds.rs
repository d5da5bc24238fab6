//! The rules as they ship hold within these bounds.

use hearth_protocol::Level::{Majority, Region, TwoRegions};
use region_model::ownership::Flaw;

use crate::explore::{all, explore, walk};
use crate::world::{Bounds, Moves, Replacements};

const SECOND: &str = "acked under a second epoch";
const APART: &str = "entries went apart";
const BACK: &str = "a tail came back";

#[test]
fn one_message_survives_a_failover_and_a_crash() {
    let bounds = Bounds { crashes: 1, progress: true, ..Bounds::new(3, &[TwoRegions], 1) };
    explore("1 message, 1 failover, 1 crash, progress", &bounds).holds(&[SECOND, APART]);
}

#[test]
fn two_messages_survive_a_failover() {
    explore("2 messages, 1 failover", &Bounds::new(3, &[TwoRegions, TwoRegions], 1)).holds(&[SECOND, APART]);
}

#[test]
fn two_messages_at_region_are_re_admitted() {
    let bounds = Bounds { readmission: true, ..Bounds::new(3, &[Region, Region], 1) };
    explore("2 messages at region, 1 failover, re-admission", &bounds).holds(&[SECOND, APART, BACK]);
}

#[test]
fn two_messages_survive_two_failovers() {
    explore("2 messages, 2 failovers", &Bounds::new(3, &[TwoRegions, TwoRegions], 2)).holds(&[SECOND, APART]);
}

#[test]
fn five_regions_seal_four_for_two_copies() {
    explore("5 regions, regions:2, 1 message, 1 failover", &Bounds::new(5, &[TwoRegions], 1)).holds(&[SECOND]);
}

#[test]
fn five_regions_seal_three_for_a_majority() {
    let bounds = Bounds { lowest: Majority, ..Bounds::new(5, &[Majority], 1) };
    explore("5 regions, majority, 1 message, 1 failover", &bounds).holds(&[SECOND]);
}

#[test]
fn with_wrong_clocks_the_seal_alone_keeps_all_but_one_writer() {
    let bounds = Bounds { wrong_clocks: true, crashes: 1, ..Bounds::new(3, &[TwoRegions, TwoRegions], 1) };
    let bounds = Bounds { judged: vec!["G1", "G2", "G3", "G6", "G8", SECOND], ..bounds };
    explore("lease off, seal on: 2 messages, 1 failover, 1 crash", &bounds).holds(&[SECOND]);
}

#[test]
fn with_the_seal_off_the_lease_alone_loses_nothing_over_one_failover() {
    // G6 does not hold: what a voter said to hold may be overwritten before it is counted.
    let judged = vec!["G1", "G2", "G3", "G5", "G8", SECOND];
    let bounds = Bounds { judged, ..Bounds::new(3, &[TwoRegions], 1) }.flawed(&[Flaw::SealOff]);
    explore("seal off, lease on, 1 failover", &bounds).holds(&[SECOND]);
}

#[test]
fn what_an_operator_gives_up_is_named() {
    let bounds = Bounds {
        accept_loss: true,
        readmission: true,
        judged: vec!["G2", "G5", "G6", "G8", "losses", SECOND],
        ..Bounds::new(3, &[Region, TwoRegions], 1)
    };
    explore("one seal by the operator's word, 2 levels, 1 failover", &bounds).holds(&[SECOND]);
}

#[test]
fn shown_messages_stay() {
    let bounds = Bounds { marks: true, ..Bounds::new(3, &[TwoRegions, TwoRegions], 1) };
    explore("marks, 2 messages, 1 failover", &bounds).holds(&[SECOND]);
    let bounds = Bounds { marks: true, lapse_with_fence: true, ..Bounds::new(3, &[Region, TwoRegions], 1) };
    explore("marks, 2 levels, 1 failover", &bounds).holds(&[SECOND]);
}

/// Region 0 is home with voters 0, 1, 2; region 3 only follows.
fn moving(target: u8, voters: &[u8], failovers: u8) -> Bounds {
    let moves = Moves { count: 1, targets: vec![(target, voters.to_vec())] };
    Bounds { regions: 4, moves, lapse_with_fence: true, ..Bounds::new(3, &[TwoRegions], failovers) }
}

#[test]
fn a_move_survives_a_crash_at_each_step_and_can_be_undone() {
    let bounds = Bounds { crashes: 1, progress: true, ..moving(3, &[3, 0, 1], 0) };
    explore("move to a new voter, 1 crash, way back, progress", &bounds).holds(&[SECOND]);
    let bounds = Bounds { crashes: 1, ..moving(3, &[3, 2], 0) };
    explore("move to two voters, 1 crash, way back", &bounds).holds(&[SECOND]);
}

#[test]
fn a_move_and_a_failover_end_in_one_owner() {
    explore("move to a new voter, 1 failover", &moving(3, &[3, 0, 1], 1)).holds(&[SECOND, APART]);
    let bounds = Bounds { regions: 3, lapse_with_fence: false, ..moving(1, &[0, 1, 2], 1) };
    explore("move to a voter, lapses, 1 failover", &bounds).holds(&[SECOND, APART]);
}

#[test]
fn a_change_of_voters_is_a_move() {
    explore("voters changed, 1 failover", &moving(0, &[0, 1, 3], 1)).holds(&[SECOND, APART]);
}

#[test]
fn a_replaced_store_counts_only_once_it_caught_up() {
    for older in [false, true] {
        let replacements = Replacements { count: 1, older };
        // An answer of the lost store may still be on its way and be counted: that is a copy lost after its ack.
        let judged = vec!["G1", "G2", "G3", "G5", "G8", "no conflict", SECOND];
        let bounds = Bounds { replacements, judged, lapse_with_fence: true, ..Bounds::new(3, &[TwoRegions], 1) };
        explore(&format!("store replaced (older copy: {older}), 1 failover"), &bounds).holds(&[SECOND]);
    }
}

#[test]
fn a_promise_to_a_steward_that_never_places_leaves_no_log_without_an_owner() {
    let strays = |bounds| Bounds { strays: 1, progress: true, lapse_with_fence: true, ..bounds };
    explore("1 stray promise, 1 failover, progress", &strays(Bounds::new(3, &[TwoRegions], 1))).holds(&[SECOND]);
    explore("1 stray promise, move to a new voter, progress", &strays(moving(3, &[3, 0, 1], 0))).holds(&[SECOND]);
}

#[test]
fn a_placement_log_keeps_what_it_placed_over_a_failover_of_its_steward() {
    let bounds = Bounds { placements: true, marks: true, lapse_with_fence: true, ..Bounds::new(3, &[Majority; 2], 1) };
    explore("placement log, 2 rivals, steward fails over", &bounds).holds(&[SECOND]);
}

fn everything() -> Bounds {
    let targets = vec![(3, vec![3, 0, 1]), (1, vec![0, 1, 2]), (0, vec![0, 1, 3])];
    Bounds {
        regions: 4,
        crashes: 2,
        moves: Moves { count: 2, targets },
        strays: 2,
        marks: true,
        readmission: true,
        ..Bounds::new(3, &[Region, TwoRegions, Majority], 3)
    }
}

#[test]
fn all_together_holds_on_random_walks() {
    walk("3 levels, 3 failovers, 2 moves, 2 crashes, re-admission", &everything(), 1, &[SECOND, APART, BACK]);
}

#[test]
fn all_together_holds_on_random_walks_with_a_lost_store() {
    // What an only copy was is gone with its store: G8 and the loss statement claim nothing of that, nor G6.
    let judged = vec!["G1", "G2", "G3", "G5", "shown", "no conflict", SECOND, APART];
    let bounds = Bounds { replacements: Replacements { count: 1, older: false }, judged, ..everything() };
    walk("the same and an empty store", &bounds, 2, &[SECOND, APART]);
    let bounds = Bounds { replacements: Replacements { count: 1, older: true }, ..bounds };
    walk("the same and an older store", &bounds, 3, &[SECOND, APART]);
}

fn fused(bounds: Bounds) -> Bounds {
    Bounds { lapse_with_fence: true, ..bounds }
}

const TWO: [hearth_protocol::Level; 2] = [TwoRegions, TwoRegions];

/// Larger bounds, by command, like all below: `HEARTH_TEST_ALL=1`.
#[test]
fn larger_failovers_hold_when_asked_for() {
    if !all() {
        return;
    }
    explore("2 messages, 3 failovers", &fused(Bounds::new(3, &TWO, 3))).holds(&[SECOND, APART]);
    explore("3 messages, 2 failovers", &fused(Bounds::new(3, &[TwoRegions; 3], 2))).holds(&[SECOND, APART]);
    let bounds = Bounds { crashes: 1, ..fused(Bounds::new(3, &TWO, 2)) };
    explore("2 messages, 2 failovers, 1 crash", &bounds).holds(&[SECOND, APART]);
    explore("5 regions, regions:2, 2 messages, 1 failover", &fused(Bounds::new(5, &TWO, 1))).holds(&[SECOND]);
    let bounds = Bounds { wrong_clocks: true, judged: vec!["G1", "G2", "G3", "G6", "G8"], ..Bounds::new(3, &TWO, 2) };
    explore("lease off, seal on: 2 messages, 2 failovers", &bounds).holds(&[]);
    let bounds = Bounds { strays: 2, ..fused(Bounds::new(3, &TWO, 1)) };
    explore("2 stray promises, 2 messages, 1 failover", &bounds).holds(&[SECOND, APART]);
}

#[test]
fn larger_levels_hold_when_asked_for() {
    if !all() {
        return;
    }
    let bounds = Bounds { readmission: true, ..fused(Bounds::new(3, &[Region, Region], 2)) };
    explore("2 messages at region, 2 failovers, re-admission", &bounds).holds(&[SECOND, APART, BACK]);
    let bounds = Bounds { readmission: true, ..fused(Bounds::new(3, &[Region, TwoRegions], 2)) };
    explore("2 levels, 2 failovers, re-admission", &bounds).holds(&[SECOND, APART, BACK]);
    let bounds = Bounds { marks: true, ..fused(Bounds::new(3, &TWO, 2)) };
    explore("marks, 2 messages, 2 failovers", &bounds).holds(&[SECOND]);
}

#[test]
fn larger_moves_hold_when_asked_for() {
    if !all() {
        return;
    }
    let bounds = Bounds { crashes: 1, ..moving(3, &[3, 0, 1], 1) };
    explore("move to a new voter, 1 failover, 1 crash", &bounds).holds(&[SECOND, APART]);
    let replacements = Replacements { count: 1, older: false };
    let judged = vec!["G1", "G2", "G3", "G5", "G8", "no conflict", SECOND];
    let bounds = Bounds { replacements, judged, ..fused(Bounds::new(3, &TWO, 1)) };
    explore("store replaced, 2 messages, 1 failover", &bounds).holds(&[SECOND]);
    explore("move to a new voter, 2 failovers", &moving(3, &[3, 0, 1], 2)).holds(&[SECOND, APART]);
    explore("voters changed, 2 failovers", &moving(0, &[0, 1, 3], 2)).holds(&[SECOND, APART]);
}

#[test]
fn larger_placement_logs_hold_when_asked_for() {
    if !all() {
        return;
    }
    let bounds = Bounds { placements: true, marks: true, ..fused(Bounds::new(3, &[Majority; 2], 2)) };
    explore("placement log, 2 rivals, steward fails over twice", &bounds).holds(&[SECOND]);
}
