//! In which order parked sends go out, and under which membership.

use hearth_protocol::entry::{MemberAction, Role};
use region_model::{DeviceOutcome, Input};

use crate::support::{Message, Setup, Sim, cut_off, device_of, message_id, user};

/// Ben sends at a region.
fn sends(sim: &mut Sim, region: usize, log: hearth_protocol::LogId, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        sim.send(region, log, &Message::new("ben", id));
    }
    sim.run_for(100);
}

#[test]
fn a_device_that_sends_all_again_has_it_in_its_order_although_the_first_of_it_was_not_parked_here_any_more() {
    let (mut sim, log) = cut_off(Setup::default());
    sends(&mut sim, 1, log, [2, 4]);
    sim.input(1, Input::DeviceConnected(user("ben"), device_of("ben")));
    sends(&mut sim, 1, log, 1..=5);
    sim.heal_all();
    sim.run_until("all are there", |sim| sim.message_ids(0, log).len() == 5);
    assert_eq!(sim.message_ids(0, log), (1..=5).map(message_id).collect::<Vec<_>>());
    sim.run_for(1_000);
    assert!(sim.regions[1].disk.parked.is_empty());
}

#[test]
fn a_retry_without_a_new_connection_leaves_parked_sends_in_their_order() {
    let (mut sim, log) = cut_off(Setup::default());
    sends(&mut sim, 1, log, [1, 2, 1, 3, 2, 1]);
    sim.crash(1);
    sim.start(1);
    sim.run_for(3_000);
    sim.heal_all();
    sim.run_until("all are there", |sim| sim.message_ids(0, log).len() == 3);
    assert_eq!(sim.message_ids(0, log), [1, 2, 3].map(message_id));
}

/// A send of a member is parked at region 1; meanwhile the member is taken out at the home and taken in again.
fn parked_under_a_membership_that_ends() -> (Sim, hearth_protocol::LogId) {
    let (mut sim, log) = cut_off(Setup::default());
    sends(&mut sim, 1, log, [1]);
    for action in [MemberAction::Remove, MemberAction::Add(Role::Member)] {
        let changed = sim.members(0, log, "ann", action, &["ben"]);
        sim.acked(changed);
    }
    let present = sim.send(0, log, &Message::new("ben", 2));
    sim.acked(present);
    (sim, log)
}

#[test]
fn what_a_member_sent_before_it_left_is_refused_although_it_is_a_member_again_and_by_a_home_that_restarted_too() {
    for restarts in [false, true] {
        let (mut sim, log) = parked_under_a_membership_that_ends();
        if restarts {
            sim.crash(0);
            sim.start(0);
            sim.run_for(3_000);
        }
        sim.heal_all();
        sim.run_until("the device is told", |sim| !sim.device.is_empty());
        let DeviceOutcome::Refused(refusal) = &sim.device[0].2 else { panic!("{:?}", sim.device[0]) };
        assert_eq!(refusal.error.as_str(), "FORBIDDEN");
        assert_eq!(sim.message_ids(0, log), [message_id(2)]);
    }
}

#[test]
fn what_a_member_sends_elsewhere_under_its_present_membership_is_taken() {
    let (mut sim, log) = parked_under_a_membership_that_ends();
    sim.run_for(5_000);
    let elsewhere = sim.send(2, log, &Message::new("ben", 3));
    sim.acked(elsewhere);
    assert_eq!(sim.message_ids(0, log), [2, 3].map(message_id));
}
