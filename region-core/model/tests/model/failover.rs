//! Fences, failovers, tails that come back, moves: over the mesh, with the map's word as given.

use std::collections::BTreeSet;

use hearth_protocol::{Level, LogId};
use region_model::{Input, Outcome};
use uuid::Uuid;

use crate::support::{Message, Sim, message_id};

const USERS: [&str; 3] = ["ann", "ben", "cem"];
const ALL: [usize; 3] = [0, 1, 2];

fn epoch(sim: &Sim, region: usize, log: LogId) -> u64 {
    sim.regions[region].disk.placements.get(&log).map_or(0, |placement| placement.epoch.0)
}

fn home(sim: &Sim, region: usize, log: LogId) -> String {
    sim.regions[region].disk.placements.get(&log).map_or_else(String::new, |placement| placement.home.to_string())
}

/// No id twice, each acked at more than its home in the line of every region.
fn check_lines(sim: &Sim, log: LogId, acked: &[Uuid]) {
    for region in ALL {
        let ids = sim.message_ids(region, log);
        let unique: BTreeSet<&Uuid> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len(), "region {region} holds an id twice");
        for id in acked {
            assert!(unique.contains(id), "region {region} lacks an acked message");
        }
    }
}

/// A mesh with a map and a group at its first region, with one message that all of them hold.
fn with_one_message(seed: u64) -> (Sim, LogId) {
    let mut sim = Sim::new(seed);
    sim.found_map();
    let log = sim.group_at(0, 1);
    let first = sim.send(0, log, &Message::new("ann", 0).at(Level::Majority));
    sim.acked(first);
    sim.settle(&ALL, log);
    (sim, log)
}

#[test]
fn a_home_that_is_cut_off_is_replaced_and_what_was_parked_meanwhile_is_acked_by_the_new_one() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed);
        sim.found_map();
        let log = sim.group_at(0, 1);
        let before: Vec<u64> =
            (0..5).map(|id| sim.send(0, log, &Message::new("ann", id).at(Level::Majority))).collect();
        for ticket in &before {
            sim.acked(*ticket);
        }
        sim.isolate(0);
        sim.run_for(5_000);
        let parked = sim.send(1, log, &Message::new("ben", 10).at(Level::TwoRegions));
        sim.run_for(2_000);
        sim.fail_over(0);
        sim.run_until("the log has another home", |sim| epoch(sim, 1, log) > 1 && epoch(sim, 2, log) > 1);
        let after = sim.send(2, log, &Message::new("cem", 11).at(Level::TwoRegions));
        sim.acked(after);
        sim.run_until("what was parked came", |sim| sim.message_ids(1, log).len() == 7);
        assert!(sim.replies[&parked].iter().any(|reply| matches!(reply, Outcome::Queued(..))));
        sim.heal_all();
        sim.run_for(6_000);
        sim.come_back(0);
        sim.settle(&ALL, log);
        assert_ne!(home(&sim, 0, log), "eu");
        assert_eq!(sim.message_ids(0, log).len(), 7);
        assert!(sim.forks.is_empty(), "{:?}", sim.forks);
    }
}

#[test]
fn a_tail_of_the_old_home_comes_back_under_its_first_time_and_no_id_twice() {
    for seed in 0..20 {
        let (mut sim, log) = with_one_message(seed);
        sim.isolate(0);
        let tail: Vec<u64> = (1..6).map(|id| sim.send(0, log, &Message::new("ann", id).at(Level::Region))).collect();
        for ticket in &tail {
            sim.acked(*ticket);
        }
        sim.run_for(4_000);
        sim.fail_over(0);
        sim.run_until("the log has another home", |sim| epoch(sim, 1, log) > 1);
        let again = sim.send(1, log, &Message::new("ann", 3));
        let other = sim.send(1, log, &Message::new("ben", 7));
        assert!(!sim.acked(again).duplicate, "the new home cannot know it");
        sim.acked(other);
        sim.heal_all();
        sim.run_for(6_000);
        sim.come_back(0);
        sim.run_until("the tail is in every line", |sim| {
            ALL.iter().all(|region| sim.message_ids(*region, log).len() == 7)
        });
        sim.settle(&ALL, log);
        check_lines(&sim, log, &[]);
        let returned = sim.entries(1, log).iter().filter(|entry| entry.entry.fixed.original_time.is_some()).count();
        assert_eq!(returned, 4, "all but the one that its sender sent again");
    }
}

/// The later send comes to the home when its lease is over, while the earlier ones wait there for their copies.
#[test]
fn what_a_home_had_numbered_when_its_lease_lapsed_stands_before_what_the_same_user_sent_later() {
    for seed in 0..20 {
        let (mut sim, log) = with_one_message(seed);
        sim.isolate(0);
        for id in 1..4 {
            sim.send(0, log, &Message::new("ann", id).at(Level::Majority));
        }
        sim.run_for(2_000);
        sim.lapse(0);
        sim.send(0, log, &Message::new("ann", 4).at(Level::Majority));
        sim.run_for(2_000);
        sim.fail_over(0);
        sim.run_until("the log has another home", |sim| epoch(sim, 1, log) > 1);
        sim.heal_all();
        sim.run_for(6_000);
        sim.come_back(0);
        sim.run_until("all came", |sim| ALL.iter().all(|region| sim.message_ids(*region, log).len() == 5));
        sim.settle(&ALL, log);
        assert_eq!(sim.message_ids(1, log), (0..5).map(message_id).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn a_home_moves_under_sends_without_losing_or_doubling_one() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed);
        sim.found_map();
        let log = sim.group_at(0, 1);
        let mut tickets = Vec::new();
        let mut moves = Vec::new();
        for id in 0..60 {
            let pause = sim.random.between(0, 60);
            sim.run_for(pause);
            let region = usize::try_from(id % 3).expect("small");
            tickets.push(sim.send(region, log, &Message::new(USERS[region], id)));
            if id % 20 == 10 {
                let at = sim.regions.iter().position(|region| region.id.as_str() == home(&sim, 0, log)).unwrap_or(0);
                let to = sim.regions[(at + 1) % 3].id.clone();
                moves.push(sim.ask(at, |reply| Input::Move { log, to, reply }));
            }
        }
        sim.run_until("all are in the line", |sim| sim.message_ids(0, log).len() == 60);
        sim.settle(&ALL, log);
        check_lines(&sim, log, &[]);
        let moved = moves.iter().filter(|ticket| sim.views.contains_key(ticket)).count();
        assert!(moved >= 1, "no move was done: {:?}", moves.iter().map(|at| sim.replies.get(at)).collect::<Vec<_>>());
        assert_eq!(epoch(&sim, 0, log), 1 + moved as u64);
    }
}

#[test]
fn whatever_fails_over_what_two_regions_acked_is_in_every_line_at_last() {
    for seed in 0..16 {
        let mut sim = Sim::new(1_000 + seed);
        sim.found_map();
        let log = sim.group_at(0, 1);
        let (mut id, mut tickets) = (0, Vec::new());
        let mut fenced: Option<usize> = None;
        for _ in 0..6 {
            for _ in 0..sim.random.between(2, 12) {
                let pause = sim.random.between(0, 200);
                sim.run_for(pause);
                let region = usize::try_from(sim.random.between(0, 2)).expect("small");
                if sim.is_up(region) {
                    let level = if sim.random.between(0, 2) == 0 { Level::Region } else { Level::TwoRegions };
                    tickets.push((id, sim.send(region, log, &Message::new(USERS[region], id).at(level))));
                    id += 1;
                }
            }
            match fenced.take() {
                Some(region) => {
                    if !sim.is_up(region) {
                        sim.start(region);
                    }
                    sim.heal_all();
                    let pause = sim.random.between(0, 4_000);
                    sim.run_for(pause);
                    sim.come_back(region);
                    let pause = sim.random.between(0, 8_000);
                    sim.run_for(pause);
                }
                None => {
                    let region = usize::try_from(sim.random.between(0, 2)).expect("small");
                    if sim.random.between(0, 1) == 0 {
                        sim.isolate(region)
                    } else {
                        sim.crash(region)
                    }
                    let pause = sim.random.between(0, 5_000);
                    sim.run_for(pause);
                    sim.fail_over(region);
                    fenced = Some(region);
                    let pause = sim.random.between(0, 8_000);
                    sim.run_for(pause);
                }
            }
        }
        if let Some(region) = fenced {
            if !sim.is_up(region) {
                sim.start(region);
            }
            sim.heal_all();
            sim.come_back(region);
        }
        sim.heal_all();
        sim.run_for(30_000);
        sim.settle(&ALL, log);
        let acked: Vec<Uuid> = tickets
            .iter()
            .filter(|(_, ticket)| {
                let acks = sim.replies.get(ticket).into_iter().flatten();
                acks.into_iter().any(|reply| matches!(reply, Outcome::Acked(_)))
            })
            .map(|(id, _)| message_id(*id))
            .collect();
        assert!(!acked.is_empty());
        check_lines(&sim, log, &acked);
        assert!(sim.forks.is_empty(), "{:?}", sim.forks);
    }
}

#[test]
fn a_new_steward_of_a_placement_log_that_nobody_used_is_accepted_by_its_voters() {
    let mut sim = Sim::new(1);
    sim.found_map();
    let slot = hearth_protocol::Slot(6);
    sim.deal_slots(vec![slot], 1, &[0, 1, 2]);
    let log = LogId::placement(slot);
    sim.run_until("all have accepted it", |sim| {
        let accepted =
            |region: &usize| sim.regions[*region].disk.load(log).record.map_or(0, |record| record.accepted.0);
        ALL.iter().all(|region| accepted(region) == sim.region_map.as_ref().expect("founded").version)
    });
}

/// Every slot, as the configuration deals them.
fn slots_of(region: u16) -> Vec<hearth_protocol::Slot> {
    (0..hearth_protocol::Slot::COUNT).filter(|slot| slot % 3 == region).map(hearth_protocol::Slot).collect()
}

#[test]
fn the_last_of_three_regions_goes_on_by_the_operators_word_and_what_it_lacked_is_stated_and_comes_back() {
    for seed in 0..6 {
        let (mut sim, log) = with_one_message(seed);
        // What the two that are lost acked together is not at the third.
        sim.isolate(2);
        sim.run_for(5_000);
        let lost: Vec<u64> =
            (1..4).map(|id| sim.send(0, log, &Message::new("ann", id).at(Level::TwoRegions))).collect();
        for ticket in &lost {
            sim.acked(*ticket);
        }
        sim.crash(0);
        sim.crash(1);
        sim.heal_all();
        sim.go_on_alone(2);
        sim.run_for(15_000);
        assert_eq!(epoch(&sim, 2, log), 1, "without the word too few voters live");
        sim.accept_loss(2, 0);
        sim.run_until("the log is open", |sim| epoch(sim, 2, log) > 1);
        let loss = sim.regions[2].disk.placements[&log].loss.clone().expect("a loss statement");
        assert_eq!((loss.lost_home.as_str(), loss.covered_copies, loss.epoch.0), ("eu", 3, 1));
        let after = sim.send(2, log, &Message::new("cem", 10).at(Level::Region));
        assert_eq!(sim.acked(after).home.as_str(), "ap");
        let waits = sim.send(2, log, &Message::new("cem", 11).at(Level::TwoRegions));
        sim.start(0);
        sim.start(1);
        sim.run_for(3_000);
        sim.come_back(0);
        sim.come_back(1);
        // They vote for placement logs again, then steward their own once they have them.
        let all = (0..hearth_protocol::Slot::COUNT).map(hearth_protocol::Slot).collect();
        sim.deal_slots(all, 2, &[2, 0, 1]);
        sim.acked(waits);
        sim.run_until("all that was lost is back in every line", |sim| {
            ALL.iter().all(|region| sim.message_ids(*region, log).len() == 6)
        });
        sim.run_for(5_000);
        sim.deal_slots(slots_of(0), 0, &[0, 1, 2]);
        sim.deal_slots(slots_of(1), 1, &[0, 1, 2]);
        sim.run_for(10_000);
        sim.settle(&ALL, log);
        check_lines(&sim, log, &[]);
        assert!(ALL.iter().all(|region| home(&sim, *region, log) == "ap"), "the last placement stands everywhere");
        let placed = sim.group_at(2, 2);
        let sent = sim.send(0, placed, &Message::new("ben", 20).at(Level::Majority));
        sim.acked(sent);
        assert!(sim.forks.is_empty(), "{:?}", sim.forks);
    }
}
