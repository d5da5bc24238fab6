//! Edits, deletes and reactions at home and elsewhere, through cuts and failovers.

use hearth_protocol::entry::MemberAction;
use hearth_protocol::record::{ChangeRecord, MessageChange};
use hearth_protocol::{Change, Level, LogId, limits};
use region_model::Outcome;
use region_model::view::Present;

use crate::support::{Message, Setup, Sim, message_id, user};

const USERS: [&str; 3] = ["ann", "ben", "cem"];
const ALL: [usize; 3] = [0, 1, 2];

fn edit(text: &str) -> Change {
    Change::Edit { target: 0, content: format!("{{\"text\":\"{text}\"}}") }
}

fn delete() -> Change {
    Change::Delete { target: 0 }
}

fn react(emoji: &str, added: bool) -> Change {
    Change::Reaction { target: 0, emoji: emoji.to_owned(), added }
}

/// What a region's entries say was done to messages: the index holds just that.
fn changes(sim: &Sim, region: usize, log: LogId) -> Vec<ChangeRecord> {
    let stored: Vec<_> = sim.regions[region].disk.logs[&log].changes.values().cloned().collect();
    let of_entries: Vec<_> = sim
        .entries(region, log)
        .iter()
        .filter_map(|entry| {
            let fixed = &entry.entry.fixed;
            let (target, what) = match entry.change().filter(|_| fixed.kind.changes_message())? {
                Change::Edit { target, .. } => (target, MessageChange::Edited),
                Change::Delete { target } => (target, MessageChange::Deleted),
                Change::Reaction { target, emoji, added } => (target, MessageChange::Reacted { emoji, added }),
                other => panic!("{other:?} changes no message"),
            };
            let time = fixed.original_time.unwrap_or(fixed.time);
            Some(ChangeRecord { target, position: fixed.position, sender: fixed.sender.clone(), time, what })
        })
        .collect();
    assert_eq!(stored, of_entries, "region {region}: the entries give the index again");
    stored
}

/// The number of a message in a region's line.
fn number(sim: &Sim, region: usize, log: LogId, id: u64) -> u64 {
    let entries = sim.entries(region, log);
    let entry = entries.iter().find(|entry| entry.entry.fixed.id == message_id(id));
    entry.expect("the message is in the line").sequence().0
}

/// What a message shows in a region.
fn present(sim: &Sim, region: usize, log: LogId, id: u64) -> Present {
    let target = number(sim, region, log, id);
    Present::of(changes(sim, region, log).iter().filter(|change| change.target == target))
}

/// The id of the edit that a message shows.
fn shown_edit(sim: &Sim, region: usize, log: LogId, id: u64) -> Option<uuid::Uuid> {
    let (_, at) = present(sim, region, log, id).edit()?;
    sim.entries(region, log).iter().find(|entry| entry.entry.fixed.position == at).map(|entry| entry.entry.fixed.id)
}

#[test]
fn the_author_edits_author_and_admins_delete_every_member_reacts_and_nobody_changes_what_is_deleted() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    for (sender, id) in [("ann", 1), ("ben", 2), ("ben", 3)] {
        let sent = sim.send(0, log, &Message::new(sender, id));
        sim.acked(sent);
    }
    let mut refused = |region, sender, ids, what: &Change, code| {
        let ticket = sim.alter(region, log, sender, ids, what);
        assert_eq!(sim.refused(ticket), code, "{sender} {what:?}");
    };
    refused(1, "ann", (10, 2), &edit("not mine"), "FORBIDDEN");
    refused(2, "cem", (11, 2), &delete(), "FORBIDDEN");
    refused(0, "cem", (12, 99), &react("+", true), "NOT_FOUND");
    refused(1, "mallory", (13, 1), &react("+", true), "CONVERSATION_NOT_FOUND");
    for (region, sender, ids, what) in [
        (1, "ben", (20, 2), edit("better")),
        (2, "cem", (21, 1), react("+", true)),
        (0, "ann", (22, 2), delete()),
        (2, "ben", (23, 3), delete()),
    ] {
        let ticket = sim.alter(region, log, sender, ids, &what);
        sim.acked(ticket);
    }
    for (ids, what) in [((30, 2), edit("again")), ((31, 2), react("+", true)), ((32, 3), delete())] {
        let ticket = sim.alter(1, log, "ben", ids, &what);
        assert_eq!(sim.refused(ticket), "NOT_FOUND", "{what:?} of a deleted message");
    }
    sim.settle(&ALL, log);
    for region in ALL {
        assert!(present(&sim, region, log, 2).is_deleted() && present(&sim, region, log, 3).is_deleted());
        assert!(present(&sim, region, log, 1).has_reaction(&user("cem"), "+"));
    }
}

#[test]
fn who_was_added_without_history_changes_nothing_from_before() {
    let mut sim = Sim::new(1);
    let log = sim.group_without_history(0, 1);
    let early = sim.send(0, log, &Message::new("ann", 1));
    sim.acked(early);
    let added = sim.members(0, log, "ann", MemberAction::Add(hearth_protocol::entry::Role::Member), &["dan"]);
    sim.acked(added);
    let late = sim.send(0, log, &Message::new("ann", 2));
    sim.acked(late);
    let unseen = sim.alter(0, log, "dan", (10, 1), &react("+", true));
    assert_eq!(sim.refused(unseen), "NOT_FOUND");
    let seen = sim.alter(1, log, "dan", (11, 2), &react("+", true));
    sim.acked(seen);
}

#[test]
fn changes_sent_right_behind_their_message_find_it_however_slow_the_disk_and_are_decided_in_order() {
    for seed in 0..100 {
        let mut sim = Sim::with(seed, Setup { store: (0, 80), ..Setup::default() });
        let log = sim.group_at(0, 1);
        let region = usize::try_from(sim.random.between(0, 2)).expect("small");
        let mut tickets = Vec::new();
        for id in 0..4 {
            tickets.push(sim.send(region, log, &Message::new("ann", id)));
            for (step, what) in [edit("one"), react("+", true), edit("two"), react("+", false)].iter().enumerate() {
                let pause = sim.random.between(0, 30);
                sim.run_for(pause);
                let ids = (100 + id * 10 + step as u64, id);
                tickets.push(sim.alter(region, log, "ann", ids, what));
            }
        }
        let numbers: Vec<u64> = tickets.iter().map(|ticket| sim.acked(*ticket).position.sequence.0).collect();
        assert!(numbers.is_sorted(), "seed {seed}: in the order of the device");
        sim.settle(&ALL, log);
        for id in 0..4 {
            assert_eq!(shown_edit(&sim, 2, log, id), Some(message_id(100 + id * 10 + 2)), "seed {seed}");
            assert_eq!(present(&sim, 1, log, id).reactions(&user("ann")), []);
        }
    }
}

#[test]
fn a_delete_that_is_on_its_way_to_the_disk_is_seen_by_the_edit_behind_it() {
    for seed in 0..100 {
        let mut sim = Sim::with(seed, Setup { store: (0, 80), ..Setup::default() });
        let log = sim.group_at(0, 1);
        let sent = sim.send(0, log, &Message::new("ann", 1));
        sim.acked(sent);
        let deleted = sim.alter(0, log, "ann", (10, 1), &delete());
        let pause = sim.random.between(0, 100);
        sim.run_for(pause);
        let late = sim.alter(0, log, "ann", (11, 1), &edit("too late"));
        sim.acked(deleted);
        assert_eq!(sim.refused(late), "NOT_FOUND", "seed {seed}");
    }
}

#[test]
fn a_change_that_is_sent_again_gets_its_first_ack_and_one_with_other_content_under_its_id_is_refused() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    let sent = sim.send(0, log, &Message::new("ann", 1));
    sim.acked(sent);
    let first = sim.alter(1, log, "ann", (10, 1), &edit("better"));
    let first = sim.acked(first);
    for region in ALL {
        let again = sim.alter(region, log, "ann", (10, 1), &edit("better"));
        let again = sim.acked(again);
        assert!(again.duplicate && again.position == first.position);
        let other = sim.alter(region, log, "ann", (10, 1), &edit("worse"));
        assert_eq!(sim.refused(other), "DUPLICATE_MESSAGE");
        let other = sim.alter(region, log, "ann", (10, 1), &delete());
        assert_eq!(sim.refused(other), "DUPLICATE_MESSAGE");
    }
    let deleted = sim.alter(0, log, "ann", (11, 1), &delete());
    sim.acked(deleted);
    let again = sim.alter(2, log, "ann", (10, 1), &edit("better"));
    assert!(sim.acked(again).duplicate, "what was taken stays taken");
}

#[test]
fn behind_a_cut_link_changes_are_parked_in_the_order_of_the_device_and_survive_a_crash_of_the_edge() {
    for seed in 0..10 {
        let mut sim = Sim::new(seed);
        let log = sim.group_at(0, 1);
        let first = sim.send(1, log, &Message::new("ben", 1));
        sim.acked(first);
        sim.isolate(1);
        sim.run_for(5_000);
        let tickets = [
            sim.alter(1, log, "ben", (10, 1), &edit("one")),
            sim.send(1, log, &Message::new("ben", 2)),
            sim.alter(1, log, "ben", (11, 2), &react("+", true)),
            sim.alter(1, log, "ben", (12, 1), &edit("two")),
        ];
        for ticket in tickets {
            sim.run_until("it is queued", |sim| matches!(sim.last(ticket), Some(Outcome::Queued(..))));
        }
        sim.crash(1);
        sim.start(1);
        sim.heal_all();
        sim.run_until("all came", |sim| sim.entries(0, log).len() == 6);
        sim.settle(&ALL, log);
        let order: Vec<_> = sim.entries(2, log).iter().skip(2).map(|entry| entry.entry.fixed.id).collect();
        assert_eq!(order, [10, 2, 11, 12].map(message_id), "seed {seed}");
        assert_eq!(shown_edit(&sim, 2, log, 1), Some(message_id(12)));
        assert!(present(&sim, 1, log, 2).has_reaction(&user("ben"), "+"));
    }
}

#[test]
fn an_edit_or_reaction_of_a_tail_has_no_effect_where_the_new_line_has_a_later_one_and_is_in_it_all_the_same() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed);
        sim.found_map();
        let log = sim.group_at(0, 1);
        for id in 1..5 {
            let sent = sim.send(0, log, &Message::new("ann", id).at(Level::Majority));
            sim.acked(sent);
        }
        sim.settle(&ALL, log);
        sim.isolate(0);
        let tail = [
            sim.alter(0, log, "ann", (10, 1), &edit("old")),
            sim.alter(0, log, "ann", (11, 2), &edit("only in the tail")),
            sim.alter(0, log, "ann", (12, 1), &react("+", true)),
            sim.alter(0, log, "ann", (13, 3), &edit("of what is deleted meanwhile")),
            sim.alter(0, log, "ann", (14, 4), &delete()),
            sim.send(0, log, &Message::new("ann", 5)),
        ];
        for ticket in tail {
            sim.acked(ticket);
        }
        let reaction = sim.alter(0, log, "ben", (15, 5), &react("+", true));
        sim.acked(reaction);
        sim.run_for(4_000);
        sim.fail_over(0);
        let moved = |sim: &Sim| sim.regions[1].disk.placements.get(&log).is_some_and(|placed| placed.epoch.0 > 1);
        sim.run_until("the log has another home", moved);
        for (ids, what) in [
            ((20, 1), edit("new")),
            ((21, 1), react("+", true)),
            ((22, 1), react("+", false)),
            ((23, 3), delete()),
            ((24, 4), edit("before it is known that it is deleted")),
        ] {
            let ticket = sim.alter(1, log, "ann", ids, &what);
            sim.acked(ticket);
        }
        sim.heal_all();
        sim.run_for(6_000);
        sim.come_back(0);
        sim.run_until("the tail is in every line", |sim| ALL.iter().all(|at| sim.entries(*at, log).len() == 17));
        sim.settle(&ALL, log);
        for region in ALL {
            assert_eq!(shown_edit(&sim, region, log, 1), Some(message_id(20)), "seed {seed}");
            assert_eq!(shown_edit(&sim, region, log, 2), Some(message_id(11)));
            assert_eq!(present(&sim, region, log, 1).reactions(&user("ann")), []);
            assert!(present(&sim, region, log, 5).has_reaction(&user("ben"), "+"), "of one that came back with it");
            assert!(present(&sim, region, log, 3).is_deleted() && present(&sim, region, log, 4).is_deleted());
            let entries = sim.entries(region, log);
            let bare = entries.iter().find(|entry| entry.entry.fixed.id == message_id(13)).expect("it is in the line");
            assert!(bare.content().is_none(), "the text of what is deleted does not come back");
        }
    }
}

#[test]
fn whatever_fails_over_every_region_shows_the_same_and_the_entries_give_the_index_again() {
    for seed in 0..12 {
        let mut sim = Sim::new(2_000 + seed);
        sim.found_map();
        let log = sim.group_at(0, 1);
        for id in 0..6 {
            let sent =
                sim.send(0, log, &Message::new(USERS[usize::try_from(id % 3).expect("small")], id).at(Level::Majority));
            sim.acked(sent);
        }
        sim.settle(&ALL, log);
        let mut id = 100;
        for _ in 0..3 {
            let cut = usize::try_from(sim.random.between(0, 2)).expect("small");
            sim.isolate(cut);
            for _ in 0..12 {
                let pause = sim.random.between(0, 400);
                sim.run_for(pause);
                let (region, target) =
                    (usize::try_from(sim.random.between(0, 2)).expect("small"), sim.random.between(0, 5));
                let sender = USERS[usize::try_from(target % 3).expect("small")];
                let what = match sim.random.between(0, 7) {
                    0 if target == 0 => delete(),
                    1..=3 => edit(&format!("text {id}")),
                    even => react("+", even % 2 == 0),
                };
                sim.alter(region, log, sender, (id, target), &what);
                id += 1;
            }
            sim.fail_over(cut);
            sim.run_for(8_000);
            sim.heal_all();
            sim.come_back(cut);
            sim.run_for(8_000);
        }
        sim.run_for(30_000);
        sim.settle(&ALL, log);
        for message in 0..6 {
            let shown = present(&sim, 0, log, message);
            assert!(ALL.iter().all(|region| present(&sim, *region, log, message) == shown), "seed {seed}");
        }
    }
}

#[test]
fn reactions_and_edits_of_one_message_are_bounded_and_taking_away_is_always_possible() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    let sent = sim.send(0, log, &Message::new("ann", 1));
    sim.acked(sent);
    let mut id = 100;
    let mut next = |sim: &mut Sim, what: &Change| {
        id += 1;
        sim.alter(0, log, "ann", (id, 1), what)
    };
    let most = limits::EMOJI_OF_A_MESSAGE as u64;
    for emoji in 0..most {
        let ticket = next(&mut sim, &react(&format!("e{emoji}"), true));
        sim.acked(ticket);
    }
    let ticket = next(&mut sim, &react("one more", true));
    assert_eq!(sim.refused(ticket), "TOO_LARGE");
    for _ in most..limits::CHANGES_OF_A_MESSAGE as u64 {
        let ticket = next(&mut sim, &edit("again"));
        sim.acked(ticket);
    }
    for what in [edit("once more"), react("e0", true), react("never there", false)] {
        let ticket = next(&mut sim, &what);
        assert_eq!(sim.refused(ticket), "TOO_LARGE", "{what:?}");
    }
    for what in [react("e0", false), delete()] {
        let ticket = next(&mut sim, &what);
        sim.acked(ticket);
    }
}
