//! Voters of a log change, with a home that stays or goes to a new one: under sends, cuts, crashes and failovers.

use std::collections::BTreeSet;

use hearth_protocol::{Level, LogId, RegionId};
use region_model::{Input, Outcome};
use uuid::Uuid;

use crate::support::{Message, Setup, Sim, message_id};

const USERS: [&str; 4] = ["ann", "ben", "cem", "ann"];
const ALL: [usize; 4] = [0, 1, 2, 3];

/// Four regions with a map, and a log whose home is the first and whose voters are the first three.
fn four(seed: u64) -> (Sim, LogId) {
    let mut sim = Sim::with(seed, Setup { regions: 4, ..Setup::default() });
    sim.found_map();
    let log = sim.group_at(0, 1);
    (sim, log)
}

fn voters(sim: &Sim, region: usize, log: LogId) -> Vec<String> {
    let placement = sim.regions[region].disk.placements.get(&log);
    placement.map(|placement| placement.voters.iter().map(ToString::to_string).collect()).unwrap_or_default()
}

fn home(sim: &Sim, region: usize, log: LogId) -> usize {
    let home = sim.regions[region].disk.placements.get(&log).map(|placement| placement.home.clone());
    sim.regions.iter().position(|region| Some(&region.id) == home.as_ref()).unwrap_or(0)
}

/// Has the home of a log change its voters.
fn change(sim: &mut Sim, at: usize, log: LogId, to: usize, voters: &[usize]) -> u64 {
    let name = |index: usize| -> RegionId { sim.regions[index].id.clone() };
    let (to, voters) = (name(to), voters.iter().map(|voter| name(*voter)).collect());
    sim.ask(at, |reply| Input::ChangeVoters { log, to, voters, reply })
}

/// No id twice in any of these regions, and each acked one in all.
fn check_lines(sim: &Sim, regions: &[usize], log: LogId, acked: &[Uuid]) {
    for region in regions {
        let ids = sim.message_ids(*region, log);
        let unique: BTreeSet<&Uuid> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len(), "region {region} holds an id twice");
        for id in acked {
            assert!(unique.contains(id), "region {region} lacks an acked message");
        }
    }
}

#[test]
fn voters_change_under_sends_with_a_home_that_stays_or_goes_to_a_new_voter() {
    // Home and voters from then on.
    let changes: [(usize, &[usize]); 3] = [(0, &[0, 1, 3]), (3, &[3, 0, 1]), (1, &[0, 1])];
    for seed in 0..18 {
        let (mut sim, log) = four(seed);
        let (to, named) = changes[usize::try_from(seed % 3).expect("small")];
        let mut changed = 0;
        for id in 0..80 {
            let pause = sim.random.between(0, 40);
            sim.run_for(pause);
            let region = usize::try_from(sim.random.between(0, 3)).expect("small");
            sim.send(region, log, &Message::new(USERS[region], id));
            if id == 30 {
                changed = change(&mut sim, 0, log, to, named);
            }
        }
        sim.run_until("the voters changed", |sim| sim.views.contains_key(&changed));
        sim.run_until("all are in the line", |sim| sim.message_ids(to, log).len() == 80);
        sim.settle(named, log);
        check_lines(&sim, named, log, &[]);
        assert_eq!(home(&sim, 2, log), to, "every region knows the home");
        let names: Vec<String> = named.iter().map(|voter| sim.regions[*voter].id.to_string()).collect();
        assert_eq!(voters(&sim, 2, log), names);
        assert_eq!(sim.regions[to].disk.load(log).record.expect("held").voters.len(), named.len());
        let again = change(&mut sim, to, log, to, named);
        sim.run_until("typed again it is so already", |sim| sim.views.contains_key(&again));
        assert_eq!(sim.regions[0].disk.placements[&log].epoch.0, 2);
        assert!(sim.forks.is_empty(), "{:?}", sim.forks);
    }
}

#[test]
fn a_long_log_is_copied_before_its_home_seals_itself_and_a_region_that_voted_is_needed_no_more() {
    let (mut sim, log) = four(7);
    for id in 0..3_000 {
        sim.send(0, log, &Message::new("ann", id));
        if id % 100 == 0 {
            sim.run_for(20);
        }
    }
    sim.run_until("all are in the line", |sim| sim.message_ids(0, log).len() == 3_000);
    let changed = change(&mut sim, 0, log, 0, &[0, 1, 3]);
    let sent = sim.send(0, log, &Message::new("ann", 3_000).at(Level::Majority));
    sim.acked(sent);
    assert_eq!(sim.ack_of(sent).expect("acked").position.epoch.0, 1, "the home goes on while the copy is made");
    sim.run_until("the voters changed", |sim| sim.views.contains_key(&changed));
    sim.isolate(2);
    sim.crash(1);
    let after = sim.send(0, log, &Message::new("ann", 3_001).at(Level::Majority));
    let ack = sim.acked(after);
    assert_eq!(ack.regions.iter().map(RegionId::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(["eu", "sa"]));
    sim.start(1);
    sim.heal_all();
    sim.fail_over(0);
    sim.run_until("another voter is the home", |sim| home(sim, 3, log) != 0);
    assert_ne!(home(&sim, 3, log), 2, "it votes no more");
    let last = sim.send(3, log, &Message::new("cem", 3_002).at(Level::Majority));
    sim.acked(last);
    sim.settle(&[1, 3], log);
    check_lines(&sim, &[1, 3], log, &[message_id(3_000), message_id(3_001)]);
}

#[test]
fn a_change_whose_new_voter_goes_away_is_given_up_and_the_log_stays_as_it_was() {
    for seed in 0..10 {
        let (mut sim, log) = four(seed);
        for id in 0..10 {
            sim.send(0, log, &Message::new("ann", id));
        }
        sim.run_for(1_000);
        let changed = change(&mut sim, 0, log, 3, &[3, 0, 1]);
        let pause = sim.random.between(0, 120);
        sim.run_for(pause);
        sim.isolate(3);
        sim.run_for(20_000);
        sim.send(1, log, &Message::new("ben", 10).at(Level::TwoRegions));
        sim.run_until("the change ended", |sim| sim.views.contains_key(&changed) || sim.replies.contains_key(&changed));
        sim.heal_all();
        sim.run_until("what was sent is in the line", |sim| sim.message_ids(1, log).contains(&message_id(10)));
        // A home that is on its way back refuses until it is there.
        let mut typed = 0;
        loop {
            let at = home(&sim, 1, log);
            let again = change(&mut sim, at, log, 3, &[3, 0, 1]);
            sim.run_until("it is answered", |sim| sim.views.contains_key(&again) || sim.replies.contains_key(&again));
            typed += 1;
            if sim.views.contains_key(&again) {
                break;
            }
            assert!(typed < 5, "typed again and again: {:?}", sim.replies[&again]);
            sim.run_for(2_000);
        }
        sim.settle(&[0, 1, 3], log);
        check_lines(&sim, &[0, 1, 3], log, &[message_id(10)]);
        assert!(sim.forks.is_empty(), "{:?}", sim.forks);
    }
}

/// Changes of voters between any three or two of four, crashes and cuts at any step of them, and failovers.
#[test]
fn whatever_changes_voters_what_two_regions_acked_is_in_every_line_at_last() {
    for seed in 0..24 {
        let (mut sim, log) = four(5_000 + seed);
        let (mut id, mut tickets) = (0, Vec::new());
        let mut done = Vec::new();
        for _ in 0..8 {
            let knows = usize::try_from(sim.random.between(0, 3)).expect("small");
            let at = home(&sim, knows, log);
            let away = usize::try_from(sim.random.between(0, 3)).expect("small");
            let mut named: Vec<usize> = ALL.iter().copied().filter(|region| *region != away).collect();
            if sim.random.between(0, 3) == 0 {
                named.remove(usize::try_from(sim.random.between(0, 2)).expect("small"));
            }
            let to = named[usize::try_from(sim.random.between(0, named.len() as u64 - 1)).expect("small")];
            if sim.is_up(at) {
                done.push(change(&mut sim, at, log, to, &named));
            }
            for _ in 0..sim.random.between(1, 6) {
                let pause = sim.random.between(0, 100);
                sim.run_for(pause);
                let region = usize::try_from(sim.random.between(0, 3)).expect("small");
                if sim.is_up(region) {
                    let level = if sim.random.between(0, 2) == 0 { Level::Region } else { Level::TwoRegions };
                    tickets.push((id, sim.send(region, log, &Message::new(USERS[region], id).at(level))));
                    id += 1;
                }
            }
            disturb(&mut sim);
        }
        sim.heal_all();
        sim.run_for(40_000);
        let last = sim.send(0, log, &Message::new("ann", id).at(Level::TwoRegions));
        sim.acked(last);
        sim.run_for(10_000);
        let placed = voters(&sim, 0, log);
        let names: Vec<String> = sim.regions.iter().map(|region| region.id.to_string()).collect();
        let regions: Vec<usize> = ALL.iter().copied().filter(|region| placed.contains(&names[*region])).collect();
        sim.settle(&regions, log);
        let acked = |ticket: &u64| {
            let acks = sim.replies.get(ticket).into_iter().flatten();
            acks.into_iter().any(|reply| matches!(reply, Outcome::Acked(_)))
        };
        let acked: Vec<Uuid> =
            tickets.iter().filter(|(_, ticket)| acked(ticket)).map(|(id, _)| message_id(*id)).collect();
        assert!(!acked.is_empty());
        check_lines(&sim, &regions, log, &acked);
        assert!(sim.forks.is_empty(), "{:?}", sim.forks);
        let changed = done.iter().filter(|ticket| sim.views.contains_key(ticket)).count();
        println!("{changed} of {} changes were done", done.len());
    }
}

/// Nothing, a cut of one region, a restart, or a whole failover; at the end of it all regions run.
fn disturb(sim: &mut Sim) {
    let region = usize::try_from(sim.random.between(0, 3)).expect("small");
    match sim.random.between(0, 3) {
        0 => {
            sim.isolate(region);
            let pause = sim.random.between(0, 12_000);
            sim.run_for(pause);
            sim.heal_all();
        }
        1 => {
            sim.crash(region);
            let pause = sim.random.between(0, 3_000);
            sim.run_for(pause);
            sim.start(region);
        }
        2 => {
            sim.isolate(region);
            let pause = sim.random.between(0, 3_000);
            sim.run_for(pause);
            sim.fail_over(region);
            let pause = sim.random.between(0, 8_000);
            sim.run_for(pause);
            sim.heal_all();
            sim.come_back(region);
            let pause = sim.random.between(0, 8_000);
            sim.run_for(pause);
        }
        _ => {}
    }
}
