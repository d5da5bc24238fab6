//! The rules as they ship hold within these bounds.

use hearth_protocol::Level::{Majority, Region, TwoRegions};

use crate::explore::{all, explore};
use crate::world::Bounds;

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
fn with_the_seal_off_the_lease_alone_keeps_all_over_one_failover() {
    let bounds = Bounds::new(3, &[TwoRegions, TwoRegions], 1).flawed(&[region_model::ownership::Flaw::SealOff]);
    explore("seal off, lease on, 1 failover", &bounds).holds(&[SECOND]);
}

#[test]
fn two_messages_survive_three_failovers() {
    if all() {
        let bounds = Bounds { lapse_with_fence: true, ..Bounds::new(3, &[TwoRegions, TwoRegions], 3) };
        explore("2 messages, 3 failovers", &bounds).holds(&[SECOND, APART]);
    }
}
