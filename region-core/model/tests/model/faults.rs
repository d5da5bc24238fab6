//! Crashes, cuts and lost frames between a home and its replicas.

use hearth_protocol::entry::{MemberAction, Role};
use hearth_protocol::{LogId, SealedEntry};
use region_model::Input;

use crate::support::{Message, Setup, Sim};

fn send_many(sim: &mut Sim, log: LogId, ids: std::ops::Range<u64>) {
    for id in ids {
        let ticket = sim.send(0, log, &Message::new("ann", id));
        if id % 50 == 0 {
            sim.acked(ticket);
        }
    }
}

#[test]
fn a_replica_that_was_down_catches_up_by_pages_while_the_home_goes_on() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    sim.crash(2);
    send_many(&mut sim, log, 0..5_000);
    sim.start(2);
    for id in 5_000..5_200 {
        sim.run_for(5);
        sim.send(0, log, &Message::new("ann", id));
    }
    sim.settle(&[0, 1, 2], log);
    assert_eq!(sim.shown(2, log).last(), Some(&5_200));
}

#[test]
fn frames_that_are_lost_or_come_twice_change_nothing_in_the_end() {
    for seed in 0..10 {
        let mut sim = Sim::new(seed);
        let log = sim.group_at(0, 1);
        sim.duplicate_frames = true;
        sim.lose_appends = Some(3);
        for id in 0..100 {
            sim.run_for(id % 30);
            sim.send(usize::try_from(id % 3).expect("small"), log, &Message::new("ann", id));
        }
        sim.lose_appends = None;
        sim.settle(&[0, 1, 2], log);
        assert_eq!(sim.message_ids(2, log).len(), 100);
    }
}

#[test]
fn a_quiet_mesh_sends_no_storm_of_marks() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    sim.acked_everywhere(log);
    let before = sim.frames;
    sim.run_for(60_000);
    assert!(sim.frames - before < 1_000, "{} frames in a quiet minute", sim.frames - before);
}

#[test]
fn a_fork_is_named_and_nothing_is_overwritten() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    let ticket = sim.send(0, log, &Message::new("ann", 1));
    sim.acked(ticket);
    sim.settle(&[0, 1, 2], log);
    // The store of the home is set back by one entry, which no rule allows, and another takes its place.
    sim.crash(0);
    let stored = sim.regions[0].disk.logs.get_mut(&log).expect("it is there");
    stored.entries.retain(|sequence, _| *sequence < 1);
    stored.mark = 1;
    stored.snapshot = None;
    sim.regions[0].disk.dedup.clear();
    sim.start(0);
    sim.send(0, log, &Message::new("ben", 2));
    sim.run_for(20_000);
    assert!(sim.forks.iter().any(|(region, forked, _)| *region == 0 && *forked == log));
    for replica in [1, 2] {
        assert_eq!(sim.message_ids(replica, log), [crate::support::message_id(1)]);
    }
}

/// Lengths alone do not tell it, and no entry comes.
#[test]
fn a_quiet_replica_that_was_set_back_to_another_entry_of_the_same_number_is_found_when_it_follows_again() {
    let mut sim = Sim::with(1, Setup { regions: 4, ..Setup::default() });
    let log = sim.group_at(0, 1);
    sim.input(3, Input::Follow { log, hold: true });
    let ticket = sim.send(0, log, &Message::new("ann", 1));
    sim.acked(ticket);
    sim.settle(&[0, 3], log);
    sim.crash(3);
    let stored = sim.regions[3].disk.logs.get_mut(&log).expect("it is there");
    let (sequence, last) = stored.entries.pop_last().expect("it holds the message");
    let mut other = last.entry.clone();
    other.fixed.sender = crate::support::user("ben");
    stored.entries.insert(sequence, SealedEntry::seal(other));
    sim.start(3);
    sim.run_until("the fork is named", |sim| !sim.forks.is_empty());
    assert!(
        sim.forks.iter().all(|(region, forked, peer)| { *region == 0 && *forked == log && *peer == sim.regions[3].id })
    );
}

#[test]
fn an_evicted_log_loads_again_and_goes_on() {
    let mut sim = Sim::with(1, Setup { loaded_logs: 1, ..Setup::default() });
    let logs: Vec<LogId> = (0..4).map(|number| sim.group_at(0, number)).collect();
    for round in 0..4 {
        for log in &logs {
            let ticket = sim.send(1, *log, &Message::new("ann", round));
            assert_eq!(sim.acked(ticket).position.sequence.0, round + 1);
        }
        sim.run_until("the logs left memory", |sim| {
            sim.regions[0].core.as_ref().is_some_and(|core| core.gauges().loaded_logs <= 1)
        });
    }
    for log in logs {
        sim.settle(&[0, 1, 2], log);
    }
}

#[test]
fn a_home_that_crashed_goes_on_with_entries_whose_copies_it_does_not_know() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed);
        let log = sim.group_at(0, 1);
        sim.isolate(0);
        sim.send(0, log, &Message::new("ann", 1).at(hearth_protocol::Level::Majority));
        sim.run_for(200);
        sim.crash(0);
        sim.start(0);
        sim.heal_all();
        let again = sim.send(0, log, &Message::new("ann", 1).at(hearth_protocol::Level::Majority));
        sim.acked(again);
        sim.settle(&[0, 1, 2], log);
        assert_eq!(sim.message_ids(0, log).len(), 1);
    }
}

/// The crash window between append and publish: nobody sends again, and no client asks.
#[test]
fn what_a_home_had_on_disk_and_not_published_when_it_crashed_is_shown_and_told_after_its_start() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed);
        let log = sim.group_at(0, 1);
        sim.settle(&[0, 1, 2], log);
        sim.isolate(0);
        let (action, me) = (MemberAction::Add(Role::Member), "ann");
        sim.members(0, log, me, action, &["dan"]);
        sim.send(0, log, &Message::new("ann", 1));
        sim.run_for(200);
        assert!(!sim.outbox.iter().any(|item| item.user.as_str() == "dan"), "it waits for copies");
        sim.crash(0);
        sim.start(0);
        sim.heal_all();
        sim.settle(&[0, 1, 2], log);
        assert_eq!(sim.shown(1, log).last(), Some(&2));
        assert!(sim.outbox.iter().any(|item| item.user.as_str() == "dan"), "its home is told");
    }
}

impl Sim {
    fn acked_everywhere(&mut self, log: LogId) {
        let ticket = self.send(1, log, &Message::new("ann", 1));
        self.acked(ticket);
        self.settle(&[0, 1, 2], log);
        self.run_for(1_000);
    }
}
