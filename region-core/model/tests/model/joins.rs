//! Requests to add members of a large conversation: those of a second share one entry, and each ends by itself.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::entry::{MemberAction, Role};
use hearth_protocol::{Change, EntryKind, Level, LogId, UserId};
use region_model::view::{Bounds, View};
use region_model::{Command, Input, Outcome};
use uuid::Uuid;

use crate::support::{Message, Setup, Sim, user};

const ALL: [usize; 3] = [0, 1, 2];
const ADD: MemberAction = MemberAction::Add(Role::Member);

/// A mesh in which a group of ann, ben and cem is large, with room for so many members.
fn large(seed: u64, most: usize) -> (Sim, LogId) {
    let bounds = Bounds { fanout_threshold: 2, group_members: most, ..Bounds::default() };
    let mut sim = Sim::with(seed, Setup { bounds, ..Setup::default() });
    sim.found_map();
    let log = sim.group_at(0, 1);
    sim.settle(&ALL, log);
    (sim, log)
}

/// The request `id` of `adder`, made at a region.
fn request(sim: &mut Sim, region: usize, log: LogId, id: u64, adder: &str, users: &[&str]) -> u64 {
    let change = Change::Members { action: ADD, users: users.iter().map(|name| user(name)).collect() };
    let command = Command {
        log,
        kind: EntryKind::Member,
        sender: user(adder),
        id: key(id),
        content: change.encode(),
        reply_to: None,
        target: None,
        expires_at: None,
        level: None,
        origin: sim.regions[region].id.clone(),
        original_time: None,
        joined: None,
    };
    sim.command(region, command, None)
}

fn key(id: u64) -> Uuid {
    Uuid::from_u128(0xE000_0000 + u128::from(id))
}

/// Whom each entry of a region's line makes members, by sequence.
fn added(sim: &Sim, region: usize, log: LogId) -> Vec<Vec<UserId>> {
    let added = |change| match change {
        Some(Change::Members { action: MemberAction::Add(_), users }) => Some(users),
        _ => None,
    };
    sim.entries(region, log).iter().filter_map(|entry| added(entry.change())).collect()
}

fn members(sim: &Sim, region: usize, log: LogId) -> BTreeSet<String> {
    let mut view = View::Empty;
    sim.entries(region, log).iter().for_each(|entry| view.fold(entry));
    view.members().expect("a conversation").keys().map(ToString::to_string).collect()
}

fn is_answered(sim: &Sim, ticket: u64) -> bool {
    matches!(sim.last(ticket), Some(Outcome::Acked(_) | Outcome::Refused(_)))
}

#[test]
fn many_joins_of_one_second_are_one_entry_and_each_is_answered_within_two() {
    let (mut sim, log) = large(1, 1_000);
    let names: Vec<String> = (0..40).map(|number| format!("new{number}")).collect();
    let tickets: Vec<u64> = (0..40)
        .map(|number| {
            sim.run_for(20);
            request(&mut sim, number % 3, log, number as u64, "ann", &[&names[number]])
        })
        .collect();
    sim.run_for(1_200);
    assert!(tickets.iter().all(|ticket| is_answered(&sim, *ticket)), "nobody waits longer");
    let acks: Vec<_> = tickets.iter().map(|ticket| sim.acked(*ticket)).collect();
    assert!(acks.iter().all(|ack| ack.position == acks[0].position && !ack.duplicate && ack.level == Level::Majority));
    sim.settle(&ALL, log);
    for region in ALL {
        let entries = added(&sim, region, log);
        assert_eq!(entries.iter().map(Vec::len).collect::<Vec<_>>(), [40], "one entry with all of them");
    }
    let told = sim.outbox.iter().filter(|item| item.position == acks[0].position).count();
    assert_eq!(told, 40, "each user's record is told");
}

#[test]
fn a_small_conversation_waits_for_nobody() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    let (one, other) = (request(&mut sim, 0, log, 1, "ann", &["dan"]), request(&mut sim, 0, log, 2, "ann", &["eve"]));
    sim.run_for(200);
    assert!(is_answered(&sim, one) && is_answered(&sim, other));
    assert_eq!(added(&sim, 0, log), [[user("dan")], [user("eve")]]);
}

#[test]
fn each_adder_has_an_entry_of_its_own() {
    let (mut sim, log) = large(1, 1_000);
    let tickets: Vec<u64> = ["ben", "ann", "ben"]
        .into_iter()
        .zip(["dan", "eve", "fay"])
        .enumerate()
        .map(|(id, (adder, name))| request(&mut sim, 0, log, id as u64, adder, &[name]))
        .collect();
    tickets.into_iter().for_each(|ticket| drop(sim.acked(ticket)));
    let entries = sim.entries(0, log);
    let senders: Vec<&str> = entries.iter().skip(1).map(|entry| entry.entry.fixed.sender.as_str()).collect();
    assert_eq!(senders, ["ben", "ann"]);
    assert_eq!(added(&sim, 0, log), [vec![user("dan"), user("fay")], vec![user("eve")]]);
}

#[test]
fn a_join_that_waits_is_refused_alone_when_there_is_no_room_for_it_any_more() {
    let (mut sim, log) = large(1, 6);
    let fits = request(&mut sim, 0, log, 1, "ann", &["dan", "eve"]);
    let too_many = request(&mut sim, 1, log, 2, "ann", &["fay", "gus"]);
    let last = request(&mut sim, 0, log, 3, "ann", &["fay"]);
    let so_already = request(&mut sim, 2, log, 4, "ann", &["eve", "ben"]);
    let full = request(&mut sim, 2, log, 5, "ann", &["hal"]);
    let position = sim.acked(fits).position;
    assert_eq!(sim.refused(too_many), "TOO_LARGE");
    assert_eq!(sim.acked(last).position, position);
    let ack = sim.acked(so_already);
    assert_eq!((ack.position, ack.duplicate), (position, true), "its users came with another request");
    assert_eq!(sim.refused(full), "TOO_LARGE");
    assert_eq!(added(&sim, 0, log), [["dan", "eve", "fay"].map(user).to_vec()]);
}

#[test]
fn a_join_that_may_not_be_is_refused_at_once_and_keeps_nobody_waiting() {
    let (mut sim, log) = large(1, 1_000);
    let waits = request(&mut sim, 0, log, 1, "ann", &["dan"]);
    let stranger = request(&mut sim, 0, log, 2, "mallory", &["eve"]);
    let already = request(&mut sim, 0, log, 3, "ann", &["ben"]);
    sim.run_for(300);
    assert_eq!(sim.refused(stranger), "CONVERSATION_NOT_FOUND");
    assert!(sim.acked(already).duplicate);
    assert!(!is_answered(&sim, waits));
    sim.acked(waits);
}

#[test]
fn what_depends_on_a_join_or_ends_its_right_comes_behind_it_and_other_messages_do_not_end_the_second() {
    let (mut sim, log) = large(1, 1_000);
    let cases = [
        ("dan", "ann", Some((MemberAction::Remove, "dan"))),
        ("eve", "ben", Some((MemberAction::Remove, "ben"))),
        ("fay", "fay", None),
        ("gus", "cem", None),
    ];
    let mut id = 0;
    for (name, sender, change) in cases {
        let adder = if name == "eve" { "ben" } else { "cem" };
        let waits = request(&mut sim, 0, log, id, adder, &[name]);
        sim.run_for(100);
        assert!(!is_answered(&sim, waits), "{name} waits");
        id += 1;
        let next = match change {
            Some((action, who)) => {
                let by = if who == "ben" { "ann" } else { sender };
                sim.members(0, log, by, action, &[who])
            }
            None => sim.send(0, log, &Message::new(if sender == "fay" { "fay" } else { "cem" }, id)),
        };
        let next = sim.acked(next);
        let joined = sim.acked(waits);
        let behind = next.position > joined.position;
        assert_eq!(behind, name != "gus", "{name}: {:?} and {:?}", next.position, joined.position);
    }
    sim.settle(&ALL, log);
    let there = members(&sim, 1, log);
    assert!(["eve", "fay", "gus"].iter().all(|name| there.contains(*name)), "{there:?}");
    assert!(["dan", "ben"].iter().all(|name| !there.contains(*name)), "{there:?}");
}

#[test]
fn a_retry_gets_the_same_answer_while_its_join_waits_and_after_its_user_was_removed_and_at_the_next_home() {
    for seed in 0..8 {
        let (mut sim, log) = large(seed, 1_000);
        let first = request(&mut sim, 0, log, 1, "ann", &["dan"]);
        let second = request(&mut sim, 1, log, 2, "ann", &["eve"]);
        sim.run_for(300);
        let meanwhile = request(&mut sim, 2, log, 2, "ann", &["eve"]);
        let position = sim.acked(first).position;
        assert_eq!((sim.acked(second).position, sim.acked(meanwhile).position), (position, position));
        let removed = sim.members(0, log, "ann", MemberAction::Remove, &["eve"]);
        sim.acked(removed);
        sim.settle(&ALL, log);
        let later = request(&mut sim, 0, log, 2, "ann", &["eve"]);
        let ack = sim.acked(later);
        assert_eq!((ack.position, ack.duplicate), (position, true), "the home finds it");
        sim.crash(0);
        sim.start(0);
        let restarted = request(&mut sim, 0, log, 2, "ann", &["eve"]);
        assert_eq!(sim.acked(restarted).position, position, "it finds it on its disk");
        sim.isolate(0);
        sim.run_for(5_000);
        sim.fail_over(0);
        sim.run_until("another home", |sim| sim.regions[1].disk.placements[&log].epoch.0 > 1);
        sim.run_for(3_000);
        let elsewhere = request(&mut sim, 1, log, 2, "ann", &["eve"]);
        assert_eq!(sim.acked(elsewhere).position, position, "the next home finds it");
        assert!(!members(&sim, 1, log).contains("eve"), "and adds nobody again");
    }
}

#[test]
fn more_users_than_an_entry_takes_do_not_wait_for_the_end_of_the_second() {
    let (mut sim, log) = large(1, 10_000);
    let names: Vec<String> = (0..1_200).map(|number| format!("new{number}")).collect();
    let parts: Vec<Vec<&str>> = names.chunks(300).map(|part| part.iter().map(String::as_str).collect()).collect();
    let tickets: Vec<u64> =
        parts.iter().zip(0..).map(|(part, id)| request(&mut sim, 0, log, id, "ann", part)).collect();
    sim.run_for(300);
    assert_eq!(tickets.iter().filter(|ticket| is_answered(&sim, **ticket)).count(), 3);
    tickets.into_iter().for_each(|ticket| drop(sim.acked(ticket)));
    let full: Vec<String> = (0..1_000).map(|number| format!("more{number}")).collect();
    let full = request(&mut sim, 0, log, 9, "ann", &full.iter().map(String::as_str).collect::<Vec<_>>());
    sim.run_for(300);
    assert!(is_answered(&sim, full), "nobody has room with it");
    assert_eq!(added(&sim, 0, log).iter().map(Vec::len).collect::<Vec<_>>(), [900, 300, 1_000]);
}

#[test]
fn joins_that_wait_go_with_a_home_that_moves_and_are_refused_for_now_where_the_right_ends() {
    for seed in 0..8 {
        let (mut sim, log) = large(seed, 1_000);
        let tickets = [(1, "dan"), (2, "eve")].map(|(id, name)| request(&mut sim, 0, log, id, "ann", &[name]));
        sim.run_for(300);
        let to = sim.regions[1].id.clone();
        sim.ask(0, |reply| Input::Move { log, to, reply });
        let [dan, eve] = tickets.map(|ticket| sim.acked(ticket).position);
        assert_eq!(dan, eve);
        sim.run_until("the home moved", |sim| sim.regions[0].disk.placements[&log].epoch.0 > 1);
        sim.settle(&ALL, log);
        let at_home = request(&mut sim, 1, log, 3, "ann", &["fay"]);
        let elsewhere = request(&mut sim, 2, log, 4, "ann", &["gus"]);
        sim.run_for(300);
        sim.lapse(1);
        sim.run_for(2_000);
        for ticket in [at_home, elsewhere] {
            assert_eq!(sim.refused(ticket), "HOME_UNREACHABLE", "as anything that is not sent by a device");
        }
    }
}

/// An entry of a dead home that no other region had, with an operator's word that it may be lost: who asked asks again
/// at the new home, one of them is removed since, and the old home comes back with the entry.
#[test]
fn requests_that_shared_an_entry_which_comes_back_are_known_each_by_itself() {
    for seed in 0..8 {
        let (mut sim, log) = large(seed, 1_000);
        sim.isolate(0);
        for (id, name) in [(1, "dan"), (2, "eve"), (3, "fay")] {
            request(&mut sim, 0, log, id, "ann", &[name]);
        }
        sim.run_for(2_500);
        assert_eq!(added(&sim, 0, log).len(), 1, "it is on the disk of one region");
        sim.run_for(2_000);
        sim.fail_over(0);
        sim.run_until("another home", |sim| sim.regions[1].disk.placements[&log].epoch.0 > 1);
        sim.run_for(1_000);
        let again = request(&mut sim, 1, log, 2, "ann", &["eve"]);
        assert!(!sim.acked(again).duplicate, "the new home cannot know it");
        let removed = sim.members(1, log, "ann", MemberAction::Remove, &["eve"]);
        sim.acked(removed);
        sim.heal_all();
        sim.run_for(6_000);
        sim.come_back(0);
        sim.run_until("the tail is in every line", |sim| {
            ALL.iter().all(|region| {
                members(sim, *region, log).is_superset(&BTreeSet::from(["dan", "fay"].map(str::to_owned)))
            })
        });
        sim.settle(&ALL, log);
        for region in ALL {
            assert!(!members(&sim, region, log).contains("eve"), "seed {seed}: it had its end");
        }
        for id in [1, 2, 3] {
            let retry = request(&mut sim, 2, log, id, "ann", &[["dan", "eve", "fay"][id as usize - 1]]);
            assert!(sim.acked(retry).duplicate, "seed {seed}: {id}");
        }
    }
}

/// Requests of a run, each for a user of its own.
struct Run {
    sim: Sim,
    log: LogId,
    /// Not known to be acked: their users, and what waits for them.
    open: BTreeMap<u64, (String, Vec<u64>)>,
    /// Acked; with the removal that was asked for since.
    done: BTreeMap<u64, (String, Option<u64>)>,
}

impl Run {
    /// Requests come; some are asked for again, of those that are acked some users are removed.
    fn step(&mut self) {
        let first = (self.open.len() + self.done.len()) as u64;
        for id in first..first + self.sim.random.between(1, 4) {
            self.open.insert(id, (format!("new{id}"), Vec::new()));
        }
        let ids: Vec<u64> = self.open.keys().copied().collect();
        for id in ids {
            let region = usize::try_from(self.sim.random.between(0, 2)).expect("small");
            let (name, tickets) = self.open[&id].clone();
            let is_up = self.sim.is_up(region);
            if tickets.iter().any(|ticket| matches!(self.sim.last(*ticket), Some(Outcome::Acked(_)))) {
                let removes = is_up && self.sim.random.between(0, 3) == 0;
                let removal =
                    removes.then(|| self.sim.members(region, self.log, "ann", MemberAction::Remove, &[&name]));
                self.open.remove(&id);
                self.done.insert(id, (name, removal));
            } else if is_up && self.sim.random.between(0, 5) == 0 {
                let ticket = request(&mut self.sim, region, self.log, id, "ann", &[&name]);
                self.open.get_mut(&id).expect("it is open").1.push(ticket);
            }
        }
        let pause = self.sim.random.between(50, 600);
        self.sim.run_for(pause);
    }

    /// A region is gone, and its homes are opened elsewhere. Returns which.
    fn lose_one(&mut self) -> usize {
        let region = usize::try_from(self.sim.random.between(0, 2)).expect("small");
        if self.sim.random.between(0, 1) == 0 {
            self.sim.isolate(region)
        } else {
            self.sim.crash(region)
        }
        self.sim.run_for(4_000);
        self.sim.fail_over(region);
        region
    }

    fn bring_back(&mut self, region: usize) {
        if !self.sim.is_up(region) {
            self.sim.start(region);
        }
        self.sim.heal_all();
        self.sim.run_for(3_000);
        self.sim.come_back(region);
    }

    /// Removals whose answer was lost are asked for again, and every request once more.
    fn end(&mut self) {
        let (sim, log) = (&mut self.sim, self.log);
        sim.run_for(20_000);
        for (name, removal) in self.done.values() {
            let heard = removal.is_none_or(|removal| matches!(sim.last(removal), Some(Outcome::Acked(_))));
            if !heard {
                let again = sim.members(1, log, "ann", MemberAction::Remove, &[name]);
                sim.run_until("the removal ends", |sim| is_answered(sim, again));
            }
        }
        for (id, (name, _)) in &self.done {
            let retry = request(sim, 2, log, *id, "ann", &[name]);
            assert!(sim.acked(retry).duplicate, "request {id}");
        }
        for (id, (name, _)) in &self.open {
            let retry = request(sim, 0, log, *id, "ann", &[name]);
            sim.acked(retry);
        }
        sim.settle(&ALL, log);
    }
}

/// Requests from every region, retried until they are acked, with removals, crashes and failovers between them: each is
/// in exactly one entry of the line, and nobody who was removed is back.
#[test]
fn whatever_happens_each_request_adds_its_user_once() {
    for seed in 0..24 {
        let (sim, log) = large(3_000 + seed, 1_000);
        let mut run = Run { sim, log, open: BTreeMap::new(), done: BTreeMap::new() };
        let mut lost = None;
        for round in 0..60 {
            run.step();
            match round % 20 {
                10 => lost = Some(run.lose_one()),
                15 => lost.take().into_iter().for_each(|region| run.bring_back(region)),
                _ => {}
            }
        }
        run.end();
        let there = members(&run.sim, 2, log);
        for (id, (name, removal)) in &run.done {
            assert_eq!(there.contains(name), removal.is_none(), "seed {seed}: request {id} of {name}");
        }
        assert!(run.open.values().all(|(name, _)| there.contains(name)), "seed {seed}");
        let entries = run.sim.entries(2, log);
        let adds = |change| matches!(change, Some(Change::Members { action: MemberAction::Add(_), .. }));
        let ids: Vec<Uuid> =
            entries.iter().filter(|entry| adds(entry.change())).flat_map(|entry| entry.ids()).collect();
        let unique: BTreeSet<&Uuid> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len(), "seed {seed}: a request stands twice");
        assert!(entries.iter().any(|entry| entry.join_requests().len() > 1), "seed {seed}: some shared an entry");
    }
}
