//! Any sequence of sends, retries, membership changes, cuts and crashes, against a small reference.
//!
//! `MODEL_CASES` runs more cases than the few seconds' worth; a failing case is printed with its steps and seed.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::entry::{MemberAction, Role};
use hearth_protocol::{EntryKind, ErrorCode, Level, LogId, UserId};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use region_model::view::Bounds;
use region_model::{Ack, DeviceOutcome, Input, Outcome};
use uuid::Uuid;

use crate::support::{Message, Setup, Sim, device_of, message_id, user};

const REGIONS: usize = 4;
const USERS: [&str; 4] = ["ann", "ben", "cem", "eve"];

/// One step of a run.
#[derive(Clone, Debug)]
enum Step {
    /// A user sends a fresh message through the region of its device.
    Send {
        user: usize,
        log: usize,
        level: Option<Level>,
    },
    /// The `n`th send again, through any region.
    Retry {
        send: usize,
        region: usize,
    },
    /// `eve` is added to a conversation, or removed from it.
    Eve {
        log: usize,
        add: bool,
    },
    Cut {
        one: usize,
        other: usize,
        both_ways: bool,
    },
    Heal {
        one: usize,
        other: usize,
    },
    Crash {
        region: usize,
    },
    Start {
        region: usize,
    },
    /// The region that does not vote for a conversation wants to hold it.
    Follow {
        log: usize,
    },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let level = prop_oneof![6 => Just(None), 1 => Just(Some(Level::TwoRegions)), 1 => Just(Some(Level::Majority))];
    prop_oneof![
        12 => (0..4_usize, 0..2_usize, level).prop_map(|(user, log, level)| Step::Send { user, log, level }),
        4 => (0..1_000_usize, 0..REGIONS).prop_map(|(send, region)| Step::Retry { send, region }),
        1 => (0..2_usize, any::<bool>()).prop_map(|(log, add)| Step::Eve { log, add }),
        2 => (0..REGIONS, 1..REGIONS, any::<bool>())
            .prop_map(|(one, step, both_ways)| Step::Cut { one, other: (one + step) % REGIONS, both_ways }),
        2 => (0..REGIONS, 1..REGIONS).prop_map(|(one, step)| Step::Heal { one, other: (one + step) % REGIONS }),
        1 => (0..REGIONS).prop_map(|region| Step::Crash { region }),
        2 => (0..REGIONS).prop_map(|region| Step::Start { region }),
        1 => (0..2_usize).prop_map(|log| Step::Follow { log }),
        8 => prop_oneof![0..30_u64, 0..6_000_u64].prop_map(Step::Wait),
    ]
}

/// One message as its client knows it.
#[derive(Debug)]
struct Tried {
    log: LogId,
    message: Message,
    region: usize,
    tickets: Vec<u64>,
    retried: bool,
}

#[derive(Debug)]
struct Run {
    sim: Sim,
    logs: [LogId; 2],
    tried: Vec<Tried>,
    /// Regions that crashed: what was in their memory may be out of order.
    crashed: BTreeSet<usize>,
    /// Conversations that the region without a vote follows.
    followed: BTreeSet<usize>,
}

impl Run {
    fn new(seed: u64, setup: Setup, lose_appends: Option<u64>, duplicate_frames: bool) -> Self {
        let mut sim = Sim::with(seed, setup);
        let logs = [sim.group_at(0, 1), sim.group_at(1, 2)];
        sim.lose_appends = lose_appends;
        sim.duplicate_frames = duplicate_frames;
        Self { sim, logs, tried: Vec::new(), crashed: BTreeSet::new(), followed: BTreeSet::new() }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Send { user, log, level } => {
                let message = Message { level, ..Message::new(USERS[user], self.tried.len() as u64) };
                let (log, region) = (self.logs[log], user % REGIONS);
                let tickets = vec![self.sim.send(region, log, &message)];
                self.tried.push(Tried { log, message, region, tickets, retried: false });
            }
            Step::Retry { send, region } if !self.tried.is_empty() => {
                let index = send % self.tried.len();
                self.retry(index, region);
            }
            Step::Retry { .. } => {}
            Step::Eve { log, add } => {
                let action = if add { MemberAction::Add(Role::Member) } else { MemberAction::Remove };
                self.sim.members(log, self.logs[log], "ann", action, &["eve"]);
            }
            Step::Follow { log } => {
                let follower = (log + 3) % REGIONS;
                if self.sim.is_up(follower) {
                    self.followed.insert(log);
                    self.sim.input(follower, Input::Follow { log: self.logs[log], hold: true });
                }
            }
            Step::Cut { one, other, both_ways: true } => self.sim.cut(one, other),
            Step::Cut { one, other, both_ways: false } => self.sim.cut_one_way(one, other),
            Step::Heal { one, other } => self.sim.heal(one, other),
            Step::Crash { region } => {
                if self.sim.is_up(region) {
                    self.crashed.insert(region);
                    self.sim.crash(region);
                }
            }
            Step::Start { region } => {
                if !self.sim.is_up(region) {
                    self.sim.start(region);
                }
            }
            Step::Wait(milliseconds) => self.sim.run_for(milliseconds),
        }
    }

    fn retry(&mut self, index: usize, region: usize) {
        let tried = &mut self.tried[index];
        tried.retried = true;
        tried.tickets.push(self.sim.send(region, tried.log, &tried.message));
    }

    /// Whether the client of a send knows how it ended.
    fn is_told(&self, tried: &Tried) -> bool {
        let mut replies = tried.tickets.iter().filter_map(|ticket| self.sim.last(*ticket));
        replies.any(|outcome| match outcome {
            Outcome::Acked(_) => true,
            // It was told to come again.
            Outcome::Refused(refusal) => refusal.error != ErrorCode::HomeUnreachable,
            Outcome::Queued(..) => false,
        }) || self.told_device(tried).any(|ended| !matches!(ended, DeviceOutcome::CopiesMissing(_)))
    }

    fn told_device<'a>(&'a self, tried: &'a Tried) -> impl Iterator<Item = &'a DeviceOutcome> {
        let sender = user(tried.message.sender);
        let about = move |send: &hearth_protocol::record::ParkedSend| {
            send.id.0 == message_id(tried.message.id) && send.sender == sender
        };
        self.sim.device.iter().filter(move |(_, send, _)| about(send)).map(|(_, _, ended)| ended)
    }

    /// Everything heals; clients send again what they know no end of.
    fn end(&mut self) {
        self.sim.lose_appends = None;
        for region in 0..REGIONS {
            if !self.sim.is_up(region) {
                self.sim.start(region);
            }
        }
        self.sim.heal_all();
        self.sim.run_for(30_000);
        for index in 0..self.tried.len() {
            if !self.is_told(&self.tried[index]) {
                let region = self.tried[index].region;
                // The client of a region that did not crash was answered: what it waits for comes by itself.
                let last = |ticket: &u64| self.sim.last(*ticket);
                let queued =
                    self.tried[index].tickets.iter().filter_map(last).any(|last| matches!(last, Outcome::Queued(..)));
                assert!(!queued || !self.crashed.is_empty(), "queued and never ended: {:?}", self.tried[index]);
                self.retry(index, region);
            }
        }
        self.sim.run_for(30_000);
        // A refusal that a crash kept from its device is told when the device connects.
        for region in 0..REGIONS {
            for name in USERS {
                self.sim.input(region, Input::DeviceConnected(user(name), device_of(name)));
            }
        }
        self.sim.run_for(1_000);
    }

    fn acks(&self, tried: &Tried) -> Vec<Ack> {
        let replies = tried.tickets.iter().flat_map(|ticket| self.sim.replies.get(ticket)).flatten();
        let by_reply = replies.filter_map(|outcome| match outcome {
            Outcome::Acked(ack) => Some(ack.clone()),
            Outcome::Queued(..) | Outcome::Refused(_) => None,
        });
        let by_device = self.told_device(tried).filter_map(|ended| match ended {
            DeviceOutcome::Acked(ack) => Some(ack.clone()),
            DeviceOutcome::CopiesMissing(_) | DeviceOutcome::Refused(_) => None,
        });
        by_reply.chain(by_device).collect()
    }

    /// Every replica has what the home has; every ack is of an entry that stands once; every send has ended.
    fn check(&self) {
        for (home, log) in self.logs.into_iter().enumerate() {
            let voters = [home, (home + 1) % REGIONS, (home + 2) % REGIONS];
            for voter in voters {
                assert!(
                    self.sim.agree(&[home, voter], log),
                    "region {voter} does not hold what the home of {log} holds"
                );
            }
            let other = (home + 3) % REGIONS;
            if self.followed.contains(&home) {
                let holds = self.sim.agree(&[home, other], log);
                // Who crashed before anything came knows nothing of its wish.
                let lost = self.crashed.contains(&other) && self.sim.entries(other, log).is_empty();
                assert!(holds || lost, "the follower of {log} holds what its home holds");
            } else {
                assert!(self.sim.entries(other, log).is_empty(), "who does not vote nor follow holds nothing");
            }
            self.check_log(home, log);
        }
        assert!(self.sim.forks.is_empty());
        for region in &self.sim.regions {
            assert!(region.disk.parked.is_empty(), "nothing stays parked in {}", region.id);
        }
    }

    /// The reference: which message stands where, by the home's log alone.
    fn check_log(&self, home: usize, log: LogId) {
        let mut at: BTreeMap<(UserId, Uuid), u64> = BTreeMap::new();
        for entry in self.sim.entries(home, log).iter().filter(|entry| entry.entry.fixed.kind == EntryKind::Message) {
            let fixed = &entry.entry.fixed;
            let earlier = at.insert((fixed.sender.clone(), fixed.id), fixed.position.sequence.0);
            assert_eq!(earlier, None, "a message stands twice in {log}");
        }
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        // Not eve: a send from before her join may be refused unheard, and be taken after a later one.
        let mut ordered: BTreeSet<&str> = USERS.into_iter().filter(|name| *name != "eve").collect();
        for tried in self.tried.iter().filter(|tried| tried.log == log) {
            let stands = at.get(&(user(tried.message.sender), message_id(tried.message.id))).copied();
            let acks = self.acks(tried);
            for ack in &acks {
                assert_eq!(Some(ack.position.sequence.0), stands, "acked where it does not stand: {tried:?}");
            }
            assert!(self.is_told(tried), "never ended: {tried:?}");
            assert!(
                !acks.is_empty() || tried.message.sender == "eve",
                "not acked: {tried:?} {:?}",
                self.refusals(tried)
            );
            // From the first retry on, or once its region crashed, a device's order is up to the client.
            if tried.retried || self.crashed.contains(&tried.region) {
                ordered.remove(tried.message.sender);
            }
            if let Some(sequence) = stands.filter(|_| ordered.contains(tried.message.sender)) {
                let before = last.insert(tried.message.sender, sequence).unwrap_or(0);
                assert!(
                    before < sequence,
                    "sends of one device stand in the order in which they were sent: {tried:?}, {}",
                    self.story_of(tried)
                );
            }
        }
    }

    /// What the clients of a sender heard in a conversation, in the order of its sends.
    fn story_of(&self, of: &Tried) -> String {
        let same = self.tried.iter().filter(|tried| tried.log == of.log && tried.message.sender == of.message.sender);
        let lines = same.map(|tried| {
            let replies: Vec<_> = tried.tickets.iter().map(|ticket| self.sim.replies.get(ticket)).collect();
            let device: Vec<_> = self.told_device(tried).collect();
            format!("\n{}: {replies:?} {device:?}", tried.message.id)
        });
        lines.collect()
    }

    fn refusals(&self, tried: &Tried) -> Vec<ErrorCode> {
        let replies = tried.tickets.iter().flat_map(|ticket| self.sim.replies.get(ticket)).flatten();
        let refused = replies.filter_map(|outcome| match outcome {
            Outcome::Refused(refusal) => Some(refusal.error),
            Outcome::Acked(_) | Outcome::Queued(..) => None,
        });
        refused.collect()
    }
}

#[test]
fn whatever_happens_every_ack_stands_once_every_replica_agrees_and_every_send_ends() {
    let cases = std::env::var("MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_000);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let setup = (1..10_usize, prop_oneof![Just(0), Just(3), Just(60)], prop_oneof![Just(8), Just(25), Just(200)]);
    let setup = (setup, prop_oneof![Just(0), Just(3), Just(256)], prop_oneof![3..6_usize, Just(512)]);
    let setup = setup.prop_map(|((loaded_logs, store, link), follow_in_order, page)| Setup {
        bounds: Bounds { follow_in_order, ..Bounds::default() },
        page,
        regions: REGIONS,
        loaded_logs,
        store: (0, store),
        link: (5, link),
        ..Setup::default()
    });
    let faults = (setup, prop_oneof![Just(None), (3..12_u64).prop_map(Some)], any::<bool>());
    let strategy = (any::<u64>(), faults, proptest::collection::vec(step(), 1..120));
    let result = TestRunner::new(config).run(&strategy, |(seed, (setup, lose, twice), steps)| {
        let mut run = Run::new(seed, setup, lose, twice);
        for step in &steps {
            run.step(step);
        }
        run.end();
        run.check();
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
