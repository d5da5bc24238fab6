//! Sends, retries and acks at home and elsewhere.

use hearth_protocol::Level;
use hearth_protocol::client::QueuedReason;
use region_model::Outcome;

use crate::support::{Message, Setup, Sim};

const USERS: [&str; 3] = ["ann", "ben", "cem"];

#[test]
fn sends_at_the_home_and_at_another_region_get_consecutive_numbers_and_every_region_ends_with_the_same_entries() {
    for seed in 0..5 {
        let mut sim = Sim::new(seed);
        let log = sim.group_at(0, 1);
        let mut tickets = Vec::new();
        for id in 0..30 {
            sim.run_for(id % 4);
            let region = usize::try_from(id % 3).expect("small");
            tickets.push(sim.send(region, log, &Message::new(USERS[region], id)));
        }
        let mut numbers: Vec<u64> = tickets.iter().map(|ticket| sim.acked(*ticket).position.sequence.0).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=30).collect::<Vec<_>>());
        sim.settle(&[0, 1, 2], log);
        for region in 0..3 {
            assert_eq!(sim.shown(region, log), (0..=30).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_retry_at_any_region_gets_the_first_ack_with_duplicate_and_appends_nothing() {
    for seed in 0..5 {
        let mut sim = Sim::new(seed);
        let log = sim.group_at(0, 1);
        let first = sim.send(1, log, &Message::new("ann", 1));
        let first = sim.acked(first);
        for region in 0..3 {
            let again = sim.send(region, log, &Message::new("ann", 1));
            let again = sim.acked(again);
            assert!(again.duplicate && !first.duplicate);
            assert_eq!((again.position, again.time, again.level), (first.position, first.time, first.level));
        }
        assert_eq!(sim.message_ids(0, log).len(), 1);
    }
}

#[test]
fn the_same_id_with_other_content_or_another_reply_to_is_refused_as_duplicate() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    let first = sim.send(0, log, &Message::new("ann", 1));
    let early = sim.send(0, log, &Message::new("ann", 1).saying("other"));
    assert_eq!(sim.refused(early), "DUPLICATE_MESSAGE");
    sim.acked(first);
    for other in [Message::new("ann", 1).saying("other"), Message::new("ann", 1).answering(7)] {
        let ticket = sim.send(1, log, &other);
        assert_eq!(sim.refused(ticket), "DUPLICATE_MESSAGE");
    }
}

#[test]
fn retries_that_overtake_the_first_commit_or_its_lookup_append_once() {
    for seed in 0..200 {
        let mut sim = Sim::with(seed, Setup { store: (0, 80), ..Setup::default() });
        let log = sim.group_at(0, 1);
        let mut tickets = Vec::new();
        for step in 0..12 {
            let wait = sim.random.between(0, 40);
            sim.run_for(wait);
            for region in 0..3 {
                tickets.push(sim.send(region, log, &Message::new("ann", step / 4)));
            }
        }
        let acks: Vec<_> = tickets.iter().map(|ticket| sim.acked(*ticket)).collect();
        assert_eq!(sim.message_ids(0, log).len(), 3);
        assert_eq!(acks.iter().filter(|ack| !ack.duplicate).count(), 3);
    }
}

#[test]
fn who_is_no_member_is_told_that_there_is_no_such_conversation() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    for region in 0..3 {
        let ticket = sim.send(region, log, &Message::new("mallory", 1));
        assert_eq!(sim.refused(ticket), "CONVERSATION_NOT_FOUND");
    }
}

#[test]
fn a_majority_send_waits_for_its_second_copy_is_queued_when_voters_are_out_of_reach_and_acked_after_the_heal() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    sim.isolate(0);
    sim.run_for(5_000);
    let raised = sim.send(0, log, &Message::new("ann", 1).at(Level::Majority));
    let plain = sim.send(0, log, &Message::new("ben", 2));
    assert_eq!(sim.acked(plain).position.sequence.0, 2);
    sim.run_until("it is told queued", |sim| sim.last(raised).is_some());
    assert!(matches!(sim.last(raised), Some(Outcome::Queued(QueuedReason::CopiesMissing, _))));
    let again = sim.send(0, log, &Message::new("ann", 1).at(Level::Majority));
    sim.run_for(100);
    assert!(matches!(sim.last(again), Some(Outcome::Queued(..))), "a retry is told as well");
    assert_eq!(sim.shown(0, log), [0], "what is behind an entry without its copies is not shown");
    sim.heal_all();
    let ack = sim.acked(raised);
    assert!(ack.regions.len() >= 2 && ack.level == Level::Majority);
    assert!(sim.acked(again).duplicate);
    sim.settle(&[0, 1, 2], log);
    assert_eq!(sim.shown(0, log), [0, 1, 2]);
}

#[test]
fn the_connection_that_gets_the_ack_is_skipped_by_the_delivery_at_home_and_elsewhere() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    for region in 0..3 {
        let ticket = sim.send(region, log, &Message::new("ann", 10 + region as u64));
        let ack = sim.acked(ticket);
        sim.settle(&[0, 1, 2], log);
        for other in 0..3 {
            let shown = &sim.regions[other].delivered[&log];
            let shown = shown.iter().find(|shown| shown.sequence == ack.position.sequence.0).expect("it is shown");
            assert_eq!(shown.skip, (other == region).then_some(ticket));
            assert_eq!(shown.audience.len(), 3);
        }
    }
}

#[test]
fn a_level_that_asks_for_more_regions_than_there_are_is_refused() {
    let mut sim = Sim::with(1, Setup { regions: 1, ..Setup::default() });
    let log = sim.group_at(0, 1);
    let ticket = sim.send(0, log, &Message::new("ann", 1).at(Level::TwoRegions));
    assert_eq!(sim.refused(ticket), "INVALID_MESSAGE");
}
