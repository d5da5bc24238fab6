//! Wrong readings of the rules: exploration finds a counterexample to each by itself.

use hearth_protocol::Level::{Majority, Region, TwoRegions};
use region_model::ownership::Flaw;

use crate::explore::breaks;
use crate::world::{Bounds, Moves, Replacements};

fn two(failovers: u8) -> Bounds {
    Bounds { lapse_with_fence: true, ..Bounds::new(3, &[TwoRegions, TwoRegions], failovers) }
}

fn one(failovers: u8) -> Bounds {
    Bounds { lapse_with_fence: true, ..Bounds::new(3, &[TwoRegions], failovers) }
}

/// With drift beyond every bound.
fn wrong(bounds: Bounds) -> Bounds {
    Bounds { wrong_clocks: true, lapse_with_fence: false, ..bounds }
}

#[test]
fn both_locks_off_lose_an_acked_message() {
    let bounds = || wrong(two(1)).flawed(&[Flaw::SealOff]);
    breaks("both locks off", bounds(), "G1");
    breaks("both locks off", bounds(), "G5");
}

#[test]
fn wrong_clocks_alone_let_a_stale_home_ack() {
    breaks("lease off, seal on", Bounds { wrong_clocks: true, ..Bounds::new(3, &[Region], 1) }, "G5");
}

#[test]
fn a_seal_that_is_off_loses_at_the_second_failover() {
    breaks("seal off, lease on, 2 failovers", two(2).flawed(&[Flaw::SealOff]), "G1");
}

#[test]
fn a_seal_that_a_crash_forgets_loses_when_clocks_are_wrong() {
    let bounds = Bounds { crashes: 1, seal_forgotten: true, ..wrong(two(1)) };
    breaks("seal not durable, clocks wrong", bounds, "G1");
}

#[test]
fn one_seal_too_few_loses() {
    breaks("one seal too few", two(1).flawed(&[Flaw::OneSealTooFew]), "G1");
    let five = Bounds::new(5, &[TwoRegions], 1).flawed(&[Flaw::OneSealTooFew]);
    breaks("a majority of 5 for regions:2 is one seal too few", five, "G1");
    let five = Bounds { lowest: Majority, ..Bounds::new(5, &[TwoRegions], 1) };
    breaks("a level in use that the placement does not name, 5 regions", five, "G1");
    let five = Bounds { lowest: Majority, ..Bounds::new(5, &[Majority], 1) }.flawed(&[Flaw::OneSealTooFew]);
    breaks("one seal too few for a majority of 5", five, "G1");
}

#[test]
fn the_longest_log_does_not_win() {
    breaks("longest log wins", two(2).flawed(&[Flaw::LongestWins]), "G1");
}

#[test]
fn the_highest_entry_does_not_win() {
    breaks("highest entry epoch wins", one(3).flawed(&[Flaw::EntryEpochWins]), "G1");
}

#[test]
fn an_entry_goes_onto_the_one_that_it_names() {
    breaks("predecessor unchecked", two(2).flawed(&[Flaw::PredecessorUnchecked]), "G2");
}

#[test]
fn a_dropped_tail_is_lost() {
    let bounds = Bounds::new(3, &[Region, Region], 1).flawed(&[Flaw::TailDropped]);
    breaks("tail dropped", bounds, "G8");
}

#[test]
fn no_dedup_repeats() {
    breaks("no dedup", Bounds::new(3, &[Region], 0).flawed(&[Flaw::NoDedup]), "G3");
}

#[test]
fn an_ack_before_its_copies_is_lost() {
    breaks("ack before copies", two(1).flawed(&[Flaw::AckBeforeCopies]), "G1");
    breaks("ack before copies", two(1).flawed(&[Flaw::AckBeforeCopies]), "G6");
}

#[test]
fn a_store_from_yesterday_is_noticed() {
    let replacements = Replacements { count: 1, older: true };
    let bounds = || Bounds { replacements, ..two(1) }.flawed(&[Flaw::OldStoreUnnoticed]);
    breaks("older copy of a store unnoticed", bounds(), "G1");
    breaks("older copy of a store unnoticed", bounds(), "G2");
}

#[test]
fn a_replaced_store_does_not_count_at_once() {
    let replacements = Replacements { count: 1, older: false };
    let bounds = Bounds { replacements, ..two(1) }.flawed(&[Flaw::NewStoreTrusted]);
    breaks("replaced store trusted", bounds, "G1");
    let bounds = Bounds { replacements, ..two(1) }.flawed(&[Flaw::NewStoreCountsOnceAccepted]);
    breaks("replaced store counts once it accepted", bounds, "G1");
}

#[test]
fn accepting_at_the_first_append_loses() {
    breaks("accepted at the first append", two(2).flawed(&[Flaw::AcceptAtFirstAppend]), "G1");
}

#[test]
fn accepting_with_a_longer_tail_loses() {
    breaks("accepted while a tail stays", two(2).flawed(&[Flaw::AcceptWithTail]), "G1");
}

#[test]
fn a_copy_of_a_voter_that_has_not_accepted_is_none() {
    breaks("copy counted before accepted", two(2).flawed(&[Flaw::CountUnaccepted]), "G1");
}

#[test]
fn an_answer_after_the_own_seal_is_not_counted() {
    breaks("answers counted after the own seal", moving(0).flawed(&[Flaw::CountAfterSeal]), "G5");
}

#[test]
fn dedup_records_go_with_their_entries() {
    let bounds = one(2).flawed(&[Flaw::DedupOutlivesRewind]);
    breaks("dedup records outlive a rewind", bounds, "G1");
}

#[test]
fn a_retry_is_not_answered_at_once() {
    breaks("retry answered at once", two(1).flawed(&[Flaw::RetryAtOnce]), "G1");
}

#[test]
fn a_fenced_region_does_not_go_on() {
    let bounds = Bounds { crashes: 1, ..Bounds::new(3, &[Region], 1) };
    breaks("fenced region goes on under its old epoch", bounds.flawed(&[Flaw::FenceForgiven]), "G5");
}

#[test]
fn the_mark_goes_by_the_entrys_own_level() {
    let bounds = Bounds { marks: true, ..two(1) }.flawed(&[Flaw::MarkByConversation]);
    breaks("mark by the conversation's level", bounds, "shown stays");
}

#[test]
fn a_mark_counts_only_once_its_epoch_is_accepted() {
    let bounds = Bounds { marks: true, ..two(2) }.flawed(&[Flaw::MarkUnaccepted]);
    breaks("mark believed before its epoch is accepted", bounds, "shown stays");
}

/// Region 0 is home with voters 0, 1, 2; region 3 only follows.
fn moving(failovers: u8) -> Bounds {
    let targets = vec![(3, vec![3, 0, 1])];
    Bounds { regions: 4, moves: Moves { count: 1, targets }, ..Bounds::new(3, &[TwoRegions], failovers) }
}

#[test]
fn a_move_copies_to_enough_new_voters() {
    let mut bounds = moving(1).flawed(&[Flaw::MoveCopiesHomeOnly]);
    bounds.moves.targets = vec![(3, vec![3, 2])];
    breaks("move copies to the new home only", bounds, "G1");
}

#[test]
fn a_move_seals_first() {
    breaks("move without its own seal", moving(0).flawed(&[Flaw::MoveWithoutSeal]), "G1");
}

#[test]
fn a_copy_for_a_move_does_not_accept() {
    let moves = Moves { count: 1, targets: vec![(1, vec![0, 1, 2])] };
    let bounds = Bounds { moves, ..two(2) };
    breaks("copy for a move accepts", bounds.flawed(&[Flaw::MoveCopyAccepts]), "G1");
}

#[test]
fn a_home_that_sealed_itself_has_a_way_back() {
    let bounds = Bounds { progress: true, ..moving(0) };
    breaks("no way back", bounds.flawed(&[Flaw::NoWayBack]), "a majority side goes on");
}

#[test]
fn a_home_that_promised_before_it_opened_opens_above_its_promise() {
    let bounds = Bounds { strays: 1, progress: true, lapse_with_fence: true, ..Bounds::new(3, &[TwoRegions], 1) };
    breaks("no opening above a promise", bounds.flawed(&[Flaw::NoOpeningAbove]), "a majority side goes on");
}

#[test]
fn the_loser_of_a_placement_race_stops() {
    breaks("loser of a placement race goes on", moving(1).flawed(&[Flaw::LoserGoesOn]), "G5");
}

/// A placement log whose steward fails over; messages are placements.
fn placements() -> Bounds {
    let messages = [Majority, Majority, Majority];
    Bounds { placements: true, marks: true, lapse_with_fence: true, ..Bounds::new(3, &messages, 1) }
}

#[test]
fn a_placement_counts_only_below_the_mark() {
    breaks("placement before the mark", placements().flawed(&[Flaw::PlacementBeforeMark]), "placed once");
}

#[test]
fn a_placement_names_the_epoch_that_it_replaces() {
    breaks("placement unconditional", placements().flawed(&[Flaw::PlacementUnconditional]), "placed once");
}
