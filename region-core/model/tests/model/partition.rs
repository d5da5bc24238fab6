//! Partition modes: what an edge does with a conversation whose home is out of reach.

use hearth_protocol::placement::PartitionMode;
use hearth_protocol::{Change, EntryKind, LogId};
use region_model::view::View;
use region_model::{DeviceOutcome, Outcome};

use crate::support::{Message, Sim, message_id, user};

/// A group whose home is region 0, in a mode.
fn group_in(mode: PartitionMode, seed: u64) -> (Sim, LogId) {
    let mut sim = Sim::new(seed);
    let log = sim.group_at(0, 1);
    let changed = sim.change(0, log, &user("ann"), EntryKind::System, &Change::PartitionMode(mode));
    sim.acked(changed);
    sim.settle(&[0, 1, 2], log);
    (sim, log)
}

fn cut(sim: &mut Sim) {
    sim.cut(0, 1);
    sim.run_until("both sides notice", |sim| !sim.is_linked(0, 1));
    sim.run_for(5_000);
}

#[test]
fn an_edge_that_does_not_reach_the_home_refuses_sends_in_read_only_and_fail_parks_none_and_takes_them_after_the_heal() {
    for (mode, told) in [(PartitionMode::ReadOnly, "READ_ONLY"), (PartitionMode::Fail, "HOME_UNREACHABLE")] {
        let (mut sim, log) = group_in(mode, 1);
        cut(&mut sim);
        let view = sim.view(1, log);
        assert_eq!((view.mode, view.home_out_of_reach), (mode, true));
        let refused = sim.send(1, log, &Message::new("ben", 1));
        assert_eq!(sim.refused(refused), told);
        let stranger = sim.send(1, log, &Message::new("dan", 2));
        assert_eq!(sim.refused(stranger), "CONVERSATION_NOT_FOUND", "a stranger is not told that there is such a one");
        sim.run_for(1_000);
        assert!(sim.regions[1].disk.parked.is_empty());
        assert!(!sim.view(2, log).home_out_of_reach);
        let elsewhere = sim.send(2, log, &Message::new("cem", 3));
        sim.acked(elsewhere);
        sim.heal_all();
        sim.run_until("the link is up", |sim| sim.is_linked(0, 1));
        let again = sim.send(1, log, &Message::new("ben", 1));
        assert!(!sim.acked(again).duplicate);
        sim.settle(&[0, 1, 2], log);
        assert_eq!(sim.message_ids(1, log), [message_id(3), message_id(1)]);
    }
}

#[test]
fn what_was_on_its_way_when_the_link_broke_is_kept_and_what_comes_later_is_refused() {
    for seed in 0..20 {
        let (mut sim, log) = group_in(PartitionMode::ReadOnly, seed);
        sim.cut(0, 1);
        let on_its_way = sim.send(1, log, &Message::new("ben", 1));
        sim.run_for(8_000);
        assert!(matches!(sim.last(on_its_way), Some(Outcome::Queued(..))), "{:?}", sim.last(on_its_way));
        let later = sim.send(1, log, &Message::new("ben", 2));
        assert_eq!(sim.refused(later), "READ_ONLY");
        let again = sim.send(1, log, &Message::new("ben", 1));
        sim.run_for(1_000);
        assert!(matches!(sim.last(again), Some(Outcome::Queued(..))), "what is kept is not refused");
        sim.heal_all();
        sim.run_until("the device is told", |sim| !sim.device.is_empty());
        assert!(matches!(sim.device[0].2, DeviceOutcome::Acked(_)));
        sim.settle(&[0, 1, 2], log);
        assert_eq!(sim.message_ids(0, log), [message_id(1)]);
    }
}

#[test]
fn a_home_without_its_lease_is_out_of_reach_for_its_own_sessions_and_a_new_home_takes_sends_again() {
    let mut sim = Sim::new(1);
    sim.found_map();
    let log = sim.group_at(0, 1);
    let changed = sim.change(0, log, &user("ann"), EntryKind::System, &Change::PartitionMode(PartitionMode::ReadOnly));
    sim.acked(changed);
    sim.settle(&[0, 1, 2], log);
    sim.isolate(0);
    sim.run_for(5_000);
    sim.lapse(0);
    let here = sim.send(0, log, &Message::new("ann", 1));
    assert_eq!(sim.refused(here), "READ_ONLY");
    let edge = sim.send(1, log, &Message::new("ben", 2));
    assert_eq!(sim.refused(edge), "READ_ONLY");
    sim.fail_over(0);
    sim.run_until("the log has another home", |sim| {
        sim.regions[1].disk.placements.get(&log).is_some_and(|placement| placement.epoch.0 > 1)
    });
    let again = sim.send(1, log, &Message::new("ben", 2));
    sim.acked(again);
    assert_eq!(sim.view(1, log).mode, PartitionMode::ReadOnly, "the mode outlives its home");
    assert!(sim.regions[0].disk.parked.is_empty());
}

#[test]
fn the_mode_is_read_again_from_a_snapshot_and_from_one_of_before() {
    let (mut sim, log) = group_in(PartitionMode::Fail, 1);
    sim.crash(1);
    sim.start(1);
    assert_eq!(sim.view(1, log).mode, PartitionMode::Fail, "from its entries");
    let mut view = View::default();
    let entries = sim.entries(0, log);
    view.fold(&entries[0]);
    let before = view.snapshot();
    assert_eq!((before[0], View::from_snapshot(&before)), (2, Some(view.clone())), "as versions before wrote it");
    view.fold(&entries[1]);
    let with_mode = view.snapshot();
    assert_eq!((with_mode[0], View::from_snapshot(&with_mode)), (3, Some(view)));
    assert_eq!(View::from_snapshot(&with_mode[..with_mode.len() - 1]), None, "one that is cut short is none");
}
