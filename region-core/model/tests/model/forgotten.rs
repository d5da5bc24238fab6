//! Users that are erased and floors that go up, through failovers and tails that come back.

use std::sync::Arc;

use hearth_protocol::entry::Forget;
use hearth_protocol::record::ChangeRecord;
use hearth_protocol::{Change, EntryKind, Level, LogId, Timestamp};
use region_model::region_sender;
use region_model::view::{Forgotten, PrivacyState, Taking, UserState, View};

use crate::support::{Message, Sim, message_id, user};

const ALL: [usize; 3] = [0, 1, 2];

fn erase(name: &str) -> Change {
    Change::Forget(Forget::User(user(name)))
}

/// A region asks for it, as an operator's verb and retention do.
fn ask(sim: &mut Sim, region: usize, log: LogId, change: &Change) -> u64 {
    let sender = region_sender(&sim.regions[region].id.clone());
    sim.change(region, log, &sender, EntryKind::System, change)
}

fn forgotten(sim: &mut Sim, region: usize, log: LogId) -> Forgotten {
    match sim.view(region, log).view {
        View::Conversation(state) => state.forgotten.clone(),
        other => panic!("{other:?} is no conversation"),
    }
}

/// A floor over everything below a number of a region's line.
fn below(sim: &mut Sim, region: usize, log: LogId, floor: u64) -> Change {
    let from = forgotten(sim, region, log).floor();
    let entries = sim.entries(region, log);
    let last = entries.iter().find(|entry| entry.sequence().0 + 1 == floor).expect("it is in the line");
    Change::Forget(Forget::Below { from, floor, before: last.entry.fixed.time, previous: last.hash })
}

/// The ids of those entries that are hidden in a region.
fn hidden(sim: &mut Sim, region: usize, log: LogId) -> Vec<uuid::Uuid> {
    let forgotten = forgotten(sim, region, log);
    let entries = sim.entries(region, log);
    entries.iter().filter(|entry| forgotten.hides(entry)).map(|entry| entry.entry.fixed.id).collect()
}

#[test]
fn who_is_erased_is_hidden_up_to_then_in_every_region_and_asking_again_changes_nothing_until_it_writes_again() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    for (sender, id) in [("ann", 1), ("ben", 2), ("ann", 3)] {
        let sent = sim.send(1, log, &Message::new(sender, id));
        sim.acked(sent);
    }
    let by_a_member = sim.change(0, log, &user("ann"), EntryKind::System, &erase("ben"));
    assert_eq!(sim.refused(by_a_member), "INVALID_MESSAGE", "an operator alone has that done");
    let nobody = ask(&mut sim, 0, log, &erase("cem"));
    assert!(sim.acked(nobody).duplicate, "who wrote nothing has nothing to be forgotten");
    let erased = ask(&mut sim, 2, log, &erase("ann"));
    assert!(!sim.acked(erased).duplicate);
    let again = ask(&mut sim, 1, log, &erase("ann"));
    assert!(sim.acked(again).duplicate);
    let late = sim.alter(1, log, "ann", (10, 1), &Change::Edit { target: 0, content: "{}".to_owned() });
    assert_eq!(sim.refused(late), "NOT_FOUND", "what is gone is not changed");
    let since = sim.send(0, log, &Message::new("ann", 4));
    sim.acked(since);
    sim.settle(&ALL, log);
    for region in ALL {
        assert_eq!(hidden(&mut sim, region, log), [1, 3].map(message_id));
    }
    let more = ask(&mut sim, 0, log, &erase("ann"));
    assert!(!sim.acked(more).duplicate);
    assert_eq!(hidden(&mut sim, 0, log), [1, 3, 4].map(message_id));
}

#[test]
fn nothing_of_an_erased_user_comes_back_with_a_tail_and_what_others_said_and_its_deletes_do() {
    for seed in 0..12 {
        let mut sim = Sim::new(seed);
        sim.found_map();
        let log = sim.group_at(0, 1);
        for (sender, id) in [("ann", 1), ("ann", 2)] {
            let sent = sim.send(0, log, &Message::new(sender, id).at(Level::Majority));
            sim.acked(sent);
        }
        sim.settle(&ALL, log);
        sim.isolate(0);
        let tail = [
            sim.send(0, log, &Message::new("ann", 3)),
            sim.alter(0, log, "ann", (10, 1), &Change::Edit { target: 0, content: "{}".to_owned() }),
            sim.alter(0, log, "ann", (11, 2), &Change::Delete { target: 0 }),
            sim.send(0, log, &Message::new("ben", 4)),
        ];
        for ticket in tail {
            sim.acked(ticket);
        }
        sim.run_for(4_000);
        sim.fail_over(0);
        let moved = |sim: &Sim| sim.regions[1].disk.placements.get(&log).is_some_and(|placed| placed.epoch.0 > 1);
        sim.run_until("the log has another home", moved);
        let erased = ask(&mut sim, 1, log, &erase("ann"));
        assert!(!sim.acked(erased).duplicate);
        sim.heal_all();
        sim.run_for(6_000);
        sim.come_back(0);
        let is_back = |sim: &Sim, id: u64| {
            ALL.iter().all(|at| sim.entries(*at, log).iter().any(|entry| entry.entry.fixed.id == message_id(id)))
        };
        sim.run_until("what ben said and what ann deleted is back", |sim| is_back(sim, 4) && is_back(sim, 11));
        sim.run_for(6_000);
        sim.settle(&ALL, log);
        assert!(!is_back(&sim, 3) && !is_back(&sim, 10), "seed {seed}: of ann nothing comes back");
        for region in ALL {
            assert_eq!(hidden(&mut sim, region, log), [1, 2].map(message_id), "seed {seed}");
        }
    }
}

#[test]
fn a_floor_goes_up_alone_below_the_mark_and_once_and_is_the_same_in_every_region() {
    let mut sim = Sim::new(3);
    let log = sim.group_at(0, 1);
    for id in 1..7 {
        let sent = sim.send(0, log, &Message::new("ann", id));
        sim.acked(sent);
        sim.run_for(10);
    }
    let three = below(&mut sim, 0, log, 3);
    let five = below(&mut sim, 0, log, 5);
    let raised = ask(&mut sim, 0, log, &five);
    assert!(!sim.acked(raised).duplicate);
    for change in [five, three] {
        let again = ask(&mut sim, 0, log, &change);
        assert!(sim.acked(again).duplicate, "it stands there, or above");
    }
    let above = Change::Forget(Forget::Below { from: 5, floor: 99, before: Timestamp(1), previous: [0; 32] });
    let above = ask(&mut sim, 0, log, &above);
    assert_eq!(sim.refused(above), "INVALID_MESSAGE");
    sim.settle(&ALL, log);
    for region in ALL {
        assert_eq!(sim.view(region, log).floor, 5);
        assert_eq!(hidden(&mut sim, region, log), [1, 2, 3, 4].map(message_id));
        sim.crash(region);
        sim.start(region);
        assert_eq!(sim.view(region, log).floor, 5, "after a start, too");
    }
}

#[test]
fn what_retention_is_over_for_does_not_come_back_with_a_tail_nor_does_a_floor_of_another_line() {
    for seed in 0..12 {
        let mut sim = Sim::new(100 + seed);
        sim.found_map();
        let log = sim.group_at(0, 1);
        let sent = sim.send(0, log, &Message::new("ann", 1).at(Level::Majority));
        sim.acked(sent);
        sim.settle(&ALL, log);
        sim.isolate(0);
        let lost = sim.send(0, log, &Message::new("ann", 2));
        sim.acked(lost);
        let floor = below(&mut sim, 0, log, 2);
        let never_acked = ask(&mut sim, 0, log, &floor);
        sim.run_for(4_000);
        sim.fail_over(0);
        let moved = |sim: &Sim| sim.regions[1].disk.placements.get(&log).is_some_and(|placed| placed.epoch.0 > 1);
        sim.run_until("the log has another home", moved);
        for id in 3..6 {
            sim.run_for(1_000);
            let sent = sim.send(1, log, &Message::new("ben", id));
            sim.acked(sent);
        }
        // Over the last but one: all that the tail has is older.
        let floor = below(&mut sim, 1, log, 4);
        let raised = ask(&mut sim, 1, log, &floor);
        assert!(!sim.acked(raised).duplicate);
        sim.heal_all();
        sim.run_for(6_000);
        sim.come_back(0);
        sim.run_for(12_000);
        sim.settle(&ALL, log);
        assert!(sim.ack_of(never_acked).is_none_or(|ack| ack.duplicate), "seed {seed}");
        for region in ALL {
            let entries = sim.entries(region, log);
            assert!(entries.iter().all(|entry| entry.entry.fixed.id != message_id(2)), "seed {seed}: it is over");
            let floors = entries.iter().filter(|entry| entry.forgets().is_some()).count();
            assert_eq!((floors, sim.view(region, log).floor), (1, 4), "seed {seed}");
        }
    }
}

#[test]
fn what_goes_is_what_is_hidden_and_reactions_with_the_floor_and_nothing_that_the_log_adds_up_to() {
    let mut sim = Sim::new(5);
    let log = sim.group_at(0, 1);
    for (sender, id) in [("ann", 1), ("ben", 2), ("ann", 3), ("ben", 4)] {
        let sent = sim.send(0, log, &Message::new(sender, id));
        sim.acked(sent);
        sim.run_for(10);
    }
    let reaction = Change::Reaction { target: 0, emoji: "+".to_owned(), added: true };
    let reacted = sim.alter(0, log, "ann", (10, 2), &reaction);
    sim.acked(reacted);
    let renamed = sim.change(0, log, &user("ann"), EntryKind::System, &Change::Name("tea".to_owned()));
    sim.acked(renamed);
    let erased = ask(&mut sim, 0, log, &erase("ann"));
    sim.acked(erased);
    let floor = below(&mut sim, 0, log, 7);
    let raised = ask(&mut sim, 0, log, &floor);
    sim.acked(raised);
    sim.settle(&ALL, log);
    for region in ALL {
        let entries = sim.entries(region, log);
        let goes = |change: &ChangeRecord| {
            let taking = Taking::of(log, change)?;
            let line = entries.iter().filter(|entry| taking.line.contains(&entry.sequence().0));
            Some(line.filter(|entry| taking.takes(entry)).map(|entry| entry.sequence().0).collect::<Vec<_>>())
        };
        let changes = &sim.regions[region].disk.logs[&log].changes;
        let gone: Vec<Vec<u64>> = changes.values().filter_map(goes).collect();
        assert_eq!(gone, [vec![1, 3], vec![1, 2, 3, 4, 5]], "region {region}");
        let bare = entries.iter().filter(|entry| entry.sequence().0 < 6).map(|entry| entry.without_content());
        let other = Taking::of(log, changes.values().last().expect("the floor")).expect("it takes");
        assert!(bare.into_iter().all(|entry| !other.takes(&entry)), "what is gone goes once");
    }
}

#[test]
fn a_snapshot_carries_what_is_kept_no_longer_and_what_is_withheld() {
    let mut sim = Sim::new(6);
    let log = sim.group_at(0, 1);
    let sent = sim.send(0, log, &Message::new("ann", 1));
    sim.acked(sent);
    let erased = ask(&mut sim, 0, log, &erase("ann"));
    sim.acked(erased);
    let view = sim.view(0, log).view;
    assert_eq!(View::from_snapshot(&view.snapshot()), Some(view));
    let privacy = PrivacyState {
        hides_last_seen: true,
        blocks: [(user("ben"), Timestamp(7))].into(),
        blocked_by: [user("cem")].into(),
    };
    for (erased, privacy) in [(true, PrivacyState::default()), (false, privacy)] {
        let state = UserState { erased, privacy, ..UserState::created(user("ann"), Timestamp(1)) };
        let view = View::User(Arc::new(state));
        assert_eq!(View::from_snapshot(&view.snapshot()), Some(view));
    }
}
