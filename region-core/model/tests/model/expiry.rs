//! Content that is over at a time, through cuts and failovers.

use bytes::Bytes;
use hearth_protocol::{Change, EntryKind, LogId, Timestamp};
use region_model::view::is_expired;
use region_model::{Command, Outcome};

use crate::support::{Message, START, Sim, device_of, message_id, user};

const ALL: [usize; 3] = [0, 1, 2];

/// A member's device sends a message that is over at a time, in milliseconds of the run.
fn send(sim: &mut Sim, region: usize, log: LogId, (sender, id): (&'static str, u64), over: u64) -> u64 {
    let command = Command {
        log,
        kind: EntryKind::Message,
        sender: user(sender),
        id: message_id(id),
        content: Bytes::from(format!("{{\"text\":\"{id}\"}}")),
        reply_to: None,
        target: None,
        expires_at: Some(Timestamp(START + over)),
        level: None,
        origin: sim.regions[region].id.clone(),
        original_time: None,
        joined: None,
    };
    sim.command(region, command, Some(device_of(sender)))
}

fn edit() -> Change {
    Change::Edit { target: 0, content: "{\"text\":\"edited\"}".to_owned() }
}

#[test]
fn an_edit_is_over_with_its_message_and_what_is_over_is_changed_no_more_and_still_acked_again() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    let first = send(&mut sim, 1, log, ("ann", 1), 20_000);
    let first = sim.acked(first);
    let edited = sim.alter(2, log, "ann", (10, 1), &edit());
    sim.acked(edited);
    sim.settle(&ALL, log);
    for region in ALL {
        let entries = sim.entries(region, log);
        let over: Vec<_> = entries.iter().skip(1).map(|entry| entry.entry.fixed.expires_at).collect();
        assert_eq!(over, [Some(Timestamp(START + 20_000)); 2]);
        assert!(entries.iter().all(|entry| !is_expired(entry, Timestamp(START + 19_999))));
        assert!(entries[1..].iter().all(|entry| is_expired(entry, Timestamp(START + 20_000))));
    }
    sim.run_for(25_000);
    let reaction = Change::Reaction { target: 0, emoji: "+".to_owned(), added: true };
    for (id, what) in [(11, edit()), (12, reaction), (13, Change::Delete { target: 0 })] {
        let late = sim.alter(1, log, "ann", (id, 1), &what);
        assert_eq!(sim.refused(late), "NOT_FOUND", "{what:?}");
    }
    let again = send(&mut sim, 2, log, ("ann", 1), 20_000);
    let again = sim.acked(again);
    assert!(again.duplicate && again.position == first.position, "a retry that comes late is told what became of it");
    let late = send(&mut sim, 2, log, ("ann", 2), 20_000);
    assert_eq!(sim.refused(late), "EXPIRED");
}

#[test]
fn a_parked_send_loses_its_text_at_its_time_and_is_refused_or_acked_as_its_home_has_it() {
    for seed in 0..10 {
        let mut sim = Sim::new(seed);
        let log = sim.group_at(0, 1);
        sim.settle(&ALL, log);
        // The second is sequenced, and its ack is lost.
        sim.isolate(1);
        sim.run_for(5_000);
        let never = send(&mut sim, 1, log, ("ann", 1), 20_000);
        let taken = send(&mut sim, 1, log, ("ben", 2), 20_000);
        let other = send(&mut sim, 2, log, ("ben", 2), 20_000);
        sim.acked(other);
        let plain = sim.send(1, log, &Message::new("cem", 3));
        for ticket in [never, taken, plain] {
            sim.run_until("it is queued", |sim| matches!(sim.last(ticket), Some(Outcome::Queued(..))));
        }
        sim.run_for(60_000);
        let texts =
            |sim: &Sim| -> Vec<usize> { sim.regions[1].disk.parked.values().map(|send| send.content.len()).collect() };
        let left = texts(&sim);
        assert!(left.len() == 3 && left[..2] == [0, 0] && left[2] > 0, "seed {seed}: {left:?}");
        sim.crash(1);
        sim.start(1);
        sim.heal_all();
        sim.run_until("nothing waits", |sim| sim.regions[1].disk.parked.is_empty());
        sim.settle(&ALL, log);
        assert_eq!(sim.message_ids(1, log), [2, 3].map(message_id), "seed {seed}");
    }
}

#[test]
fn what_comes_back_with_a_tail_after_its_time_takes_its_number_without_its_text() {
    for seed in 0..10 {
        let mut sim = Sim::new(seed);
        sim.found_map();
        let log = sim.group_at(0, 1);
        sim.settle(&ALL, log);
        sim.isolate(0);
        let now = |sim: &Sim| sim.now;
        let soon = now(&sim) + 3_000;
        let (brief, long) =
            (send(&mut sim, 0, log, ("ann", 1), soon), send(&mut sim, 0, log, ("ann", 2), soon + 900_000));
        sim.acked(brief);
        sim.acked(long);
        let edited = sim.alter(0, log, "ann", (10, 1), &edit());
        sim.acked(edited);
        sim.run_for(4_000);
        sim.fail_over(0);
        let moved = |sim: &Sim| sim.regions[1].disk.placements.get(&log).is_some_and(|placed| placed.epoch.0 > 1);
        sim.run_until("the log has another home", moved);
        sim.heal_all();
        sim.run_for(6_000);
        sim.come_back(0);
        sim.run_until("the tail is in every line", |sim| ALL.iter().all(|at| sim.entries(*at, log).len() == 4));
        sim.settle(&ALL, log);
        for region in ALL {
            let texts: Vec<_> = sim.entries(region, log).iter().map(|entry| entry.content().is_some()).collect();
            assert_eq!(texts, [true, false, true, false], "seed {seed}, region {region}");
        }
    }
}
