//! Sends whose home is out of reach.

use hearth_protocol::Level;
use hearth_protocol::client::QueuedReason;
use region_model::view::Bounds;
use region_model::{DeviceOutcome, Outcome, ParkingBounds};

use crate::support::{Message, Setup, Sim, cut_off, device_of, message_id, user};

#[test]
fn a_cut_parks_in_the_order_of_the_device_survives_a_crash_of_the_edge_and_is_acked_once_in_order_after_the_heal() {
    let (mut sim, log) = cut_off(Setup::default());
    let tickets: Vec<u64> = (0..20).map(|id| sim.send(1, log, &Message::new("ann", id))).collect();
    sim.run_for(500);
    for ticket in &tickets {
        assert!(matches!(sim.last(*ticket), Some(Outcome::Queued(QueuedReason::HomeUnreachable, _))));
    }
    sim.crash(1);
    sim.start(1);
    sim.run_for(3_000);
    sim.heal_all();
    sim.run_until("all are acked", |sim| sim.device.len() >= 20);
    assert!(sim.device.iter().all(|(region, _, ended)| *region == 1 && matches!(ended, DeviceOutcome::Acked(_))));
    assert_eq!(sim.message_ids(0, log), (0..20).map(message_id).collect::<Vec<_>>());
    sim.run_for(1_000);
    assert!(sim.regions[1].disk.parked.is_empty());
}

#[test]
fn a_send_behind_parked_ones_of_its_device_queues_behind_them_although_the_link_is_up() {
    let (mut sim, log) = cut_off(Setup { store: (20, 40), ..Setup::default() });
    for id in 0..5 {
        sim.send(1, log, &Message::new("ann", id));
    }
    sim.heal_all();
    sim.run_until("the link is up", |sim| sim.is_linked(0, 1));
    sim.send(1, log, &Message::new("ann", 5));
    sim.run_until("all are there", |sim| sim.message_ids(0, log).len() == 6);
    assert_eq!(sim.message_ids(0, log), (0..6).map(message_id).collect::<Vec<_>>());
}

#[test]
fn a_forward_whose_answer_is_lost_is_parked_and_not_doubled() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed);
        let log = sim.group_at(0, 1);
        sim.cut_one_way(0, 1);
        let ticket = sim.send(1, log, &Message::new("ann", 1));
        sim.run_for(8_000);
        assert!(matches!(sim.last(ticket), Some(Outcome::Queued(..))), "told within some seconds");
        sim.heal_all();
        sim.run_until("the device is told", |sim| !sim.device.is_empty());
        assert!(matches!(&sim.device[0].2, DeviceOutcome::Acked(ack) if ack.duplicate));
        assert_eq!(sim.message_ids(0, log), [message_id(1)]);
    }
}

#[test]
fn a_home_without_room_makes_parked_sends_wait_and_takes_them_in_their_order() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    sim.settle(&[0, 1, 2], log);
    sim.isolate(0);
    sim.run_until("both sides notice", |sim| !sim.is_linked(0, 1) && !sim.is_linked(0, 2));
    let full = hearth_protocol::limits::UNMARKED_ENTRIES as u64;
    for id in 0..full {
        sim.send(0, log, &Message::new("cem", id).at(Level::Majority));
    }
    sim.run_for(100);
    let over = sim.send(0, log, &Message::new("cem", full));
    assert_eq!(sim.refused(over), "OVERLOADED");
    let parked = full + 1..full + 41;
    for id in parked.clone() {
        sim.send(1, log, &Message::new("ann", id));
    }
    sim.run_for(100);
    sim.heal(0, 1);
    sim.run_until("all are acked", |sim| sim.device.len() >= 40);
    assert_eq!(sim.overloaded, 0, "none of them was refused for now");
    let last = sim.message_ids(0, log).split_off(usize::try_from(full).expect("small"));
    assert_eq!(last, parked.map(message_id).collect::<Vec<_>>());
}

#[test]
fn a_conversation_takes_so_many_messages_a_minute_refuses_more_and_never_what_was_parked() {
    let bounds = Bounds { conversation_messages_per_minute: 6, ..Bounds::default() };
    let (mut sim, log) = cut_off(Setup { bounds, ..Setup::default() });
    for id in 0..6 {
        let ticket = sim.send(0, log, &Message::new("cem", id));
        sim.acked(ticket);
    }
    let over = sim.send(0, log, &Message::new("cem", 6));
    assert_eq!(sim.refused(over), "RATE_LIMITED");
    let again = sim.send(0, log, &Message::new("cem", 5));
    assert!(sim.acked(again).duplicate, "a retry costs nothing");
    let stranger = sim.send(0, log, &Message::new("mallory", 1));
    assert_eq!(sim.refused(stranger), "CONVERSATION_NOT_FOUND", "and is told nothing of it");
    for id in 10..13 {
        sim.send(1, log, &Message::new("ann", id));
    }
    sim.run_for(500);
    sim.heal_all();
    sim.run_until("what was parked is acked", |sim| sim.device.len() >= 3);
    assert!(sim.device.iter().all(|(_, _, ended)| matches!(ended, DeviceOutcome::Acked(_))));
    let early = sim.send(0, log, &Message::new("cem", 7));
    assert_eq!(sim.refused(early), "RATE_LIMITED");
    // Three were taken beyond it, at ten seconds each.
    sim.run_for(41_000);
    let paid = sim.send(0, log, &Message::new("cem", 7));
    sim.acked(paid);
}

#[test]
fn above_the_bound_sends_are_refused_as_overloaded_and_a_retry_of_a_parked_one_is_not_parked_twice() {
    let parking = ParkingBounds { per_conversation: 3, ..ParkingBounds::default() };
    let (mut sim, log) = cut_off(Setup { parking, ..Setup::default() });
    for id in 0..3 {
        sim.send(1, log, &Message::new("ann", id));
    }
    let over = sim.send(1, log, &Message::new("ann", 3));
    assert_eq!(sim.refused(over), "OVERLOADED");
    let again = sim.send(1, log, &Message::new("ann", 2));
    sim.run_for(100);
    assert!(matches!(sim.last(again), Some(Outcome::Queued(..))));
    let other = sim.send(1, log, &Message::new("ann", 2).saying("other"));
    assert_eq!(sim.refused(other), "DUPLICATE_MESSAGE");
    assert_eq!(sim.regions[1].disk.parked.len(), 3);
}

#[test]
fn an_overdue_send_is_refused_as_expired_which_its_device_is_told_when_it_connects_and_then_forgotten() {
    let parking = ParkingBounds { kept_milliseconds: 10_000, ..ParkingBounds::default() };
    let (mut sim, log) = cut_off(Setup { parking, ..Setup::default() });
    sim.devices_connected = false;
    sim.send(1, log, &Message::new("ann", 1));
    sim.run_for(15_000);
    sim.crash(1);
    sim.start(1);
    let before = sim.device.len();
    sim.devices_connected = true;
    sim.input(1, region_model::Input::DeviceConnected(user("ann"), device_of("ann")));
    assert!(matches!(&sim.device[before].2, DeviceOutcome::Refused(refusal) if refusal.error.as_str() == "EXPIRED"));
    sim.run_for(1_000);
    assert!(sim.regions[1].disk.parked.is_empty());
    assert!(sim.message_ids(0, log).is_empty());
}

#[test]
fn a_send_is_answered_within_the_configured_time_by_a_home_that_is_silent_or_lacks_copies() {
    // No side of a link notices a cut before 1.5 s: what answers earlier is the configured time.
    for (answer_milliseconds, told) in [(1_000, true), (10_000, false)] {
        let mut sim = Sim::with(1, Setup { answer_milliseconds, ..Setup::default() });
        let log = sim.group_at(0, 1);
        sim.settle(&[0, 1, 2], log);
        sim.isolate(0);
        let elsewhere = sim.send(1, log, &Message::new("ann", 1));
        let at_home = sim.send(0, log, &Message::new("ben", 2).at(Level::Majority));
        sim.run_for(1_000);
        let queued = |ticket, why| matches!(sim.last(ticket), Some(Outcome::Queued(reason, _)) if *reason == why);
        assert_eq!(queued(elsewhere, QueuedReason::HomeUnreachable), told, "{answer_milliseconds} ms");
        assert_eq!(queued(at_home, QueuedReason::CopiesMissing), told, "{answer_milliseconds} ms");
    }
}
