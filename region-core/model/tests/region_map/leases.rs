//! No fence is accepted while the holder could still believe in its lease: for clocks wrong by up to 1 %, and any
//! pauses, losses, delays, elections and restarts.

use std::time::Duration;

use proptest::prelude::*;
use region_model::ownership::Right;
use region_model::region_map::{
    HolderLease, LEASE, LeaderLeases, LeaseStanding, MapCommand, MapFact, MapState, RegionState,
};

use super::{changed, founded, region, store};

/// One part in a million.
const MILLION: u64 = 1_000_000;

/// A clock that runs wrong: true microseconds times `rate` parts per million, from some origin.
#[derive(Clone, Copy, Debug)]
struct Clock {
    rate: u64,
    origin: u64,
}

impl Clock {
    fn at(self, micros: u64) -> Duration {
        Duration::from_micros(self.origin + micros * self.rate / MILLION)
    }
}

/// A region that may lead: it applies the one log at its own pace.
struct Leader {
    clock: Clock,
    map: MapState,
    applied: usize,
    leases: LeaderLeases,
}

/// The holder `us`, two leaders and the log between them.
struct World {
    now: u64,
    holder_clock: Clock,
    holder: HolderLease,
    counter: u64,
    leaders: [Leader; 2],
    log: Vec<MapCommand>,
    committed: MapState,
    /// Commands on their way to the log, and answers on their way to the holder.
    commands: Vec<MapCommand>,
    answers: Vec<(u64, u64, u32, u64)>,
    fences: usize,
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Ask { milliseconds: u32, again: bool },
    Commit(usize),
    Lose(usize),
    Answer(usize),
    Apply(usize),
    Elect(usize),
    Restart(usize),
    Fence(usize),
    Return,
}

impl World {
    fn new(rates: [u64; 3]) -> Self {
        let map = founded(&["eu", "us", "ap"]);
        let clock = |rate, origin| Clock { rate, origin };
        let leader =
            |clock: Clock| Leader { clock, map: map.clone(), applied: 0, leases: LeaderLeases::new(clock.at(0)) };
        Self {
            now: 0,
            holder_clock: clock(rates[0], 77_000_000),
            holder: HolderLease::default(),
            counter: 0,
            leaders: [leader(clock(rates[1], 0)), leader(clock(rates[2], 5_000_000_000))],
            log: Vec::new(),
            committed: map.clone(),
            commands: Vec::new(),
            answers: Vec::new(),
            fences: 0,
        }
    }

    fn believes(&self) -> bool {
        self.holder.may_sequence(self.holder_clock.at(self.now))
    }

    fn is_fenced(&self) -> bool {
        self.committed.region(&region("us")).is_some_and(|entry| entry.state == RegionState::Fenced)
    }

    fn commit(&mut self, command: MapCommand) {
        let answer = self.committed.apply(&command);
        if let (MapCommand::Renew { counter, .. }, Ok(MapFact::Lease { term, milliseconds, generation })) =
            (&command, answer.fact())
        {
            self.answers.push((*counter, *term, *milliseconds, *generation));
        }
        self.fences += usize::from(answer.changed() && matches!(command, MapCommand::Fence { .. }));
        self.log.push(command);
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Wait(micros) => self.now += micros,
            Step::Ask { milliseconds, again } => {
                self.counter += u64::from(!again || self.counter == 0);
                let counter = self.counter;
                self.holder.ask(counter, self.holder_clock.at(self.now));
                let region = region("us");
                self.commands.push(MapCommand::Renew {
                    region,
                    store: store(2),
                    incarnation: 1,
                    counter,
                    milliseconds,
                });
            }
            Step::Commit(at) if !self.commands.is_empty() => {
                let command = self.commands.remove(at % self.commands.len());
                self.commit(command);
            }
            Step::Lose(at) if !self.commands.is_empty() => drop(self.commands.remove(at % self.commands.len())),
            Step::Answer(at) if !self.answers.is_empty() => {
                let (counter, term, milliseconds, generation) = self.answers.remove(at % self.answers.len());
                self.holder.granted(counter, term, milliseconds, generation);
            }
            Step::Apply(at) => {
                let leader = &mut self.leaders[at % 2];
                if let Some(command) = self.log.get(leader.applied) {
                    leader.map.apply(command);
                    leader.applied += 1;
                    leader.leases.applied(&leader.map, leader.clock.at(self.now));
                }
            }
            Step::Elect(at) => {
                let leader = &mut self.leaders[at % 2];
                leader.leases.elected(leader.clock.at(self.now));
            }
            Step::Restart(at) => {
                let leader = &mut self.leaders[at % 2];
                leader.leases = LeaderLeases::new(leader.clock.at(self.now));
                leader.leases.applied(&leader.map, leader.clock.at(self.now));
            }
            Step::Fence(at) => {
                let leader = &self.leaders[at % 2];
                let term = leader.map.region(&region("us")).expect("known").term;
                let fence = MapCommand::Fence { region: region("us"), term };
                if leader.leases.admit(&leader.map, &fence, leader.clock.at(self.now)).is_ok() {
                    self.commands.push(fence);
                }
            }
            Step::Return if self.is_fenced() => {
                self.holder.ended();
                let fence = self.committed.region(&region("us")).expect("known").fence;
                self.commit(MapCommand::Return { region: region("us"), incarnation: 1, fence });
            }
            Step::Commit(_) | Step::Lose(_) | Step::Answer(_) | Step::Return => {}
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Waits near the edges of a lease, its drift included.
    let edges =
        prop::sample::select(vec![1_u64, 60_000, 120_000, 5_939_999, 5_940_000, 6_000_000, 6_060_000, 6_120_001]);
    let wait = prop_oneof![edges, 0_u64..8_000_000].prop_map(Step::Wait);
    let length = prop::sample::select(vec![6_000_u32, 6_000, 6_000, 1_000, 9_000]);
    let at = 0_usize..4;
    let step = prop_oneof![
        4 => wait,
        4 => (length, prop::bool::weighted(0.2)).prop_map(|(milliseconds, again)| Step::Ask { milliseconds, again }),
        6 => at.clone().prop_map(Step::Commit),
        1 => at.clone().prop_map(Step::Lose),
        6 => at.clone().prop_map(Step::Answer),
        8 => at.clone().prop_map(Step::Apply),
        1 => at.clone().prop_map(Step::Elect),
        1 => at.clone().prop_map(Step::Restart),
        5 => at.prop_map(Step::Fence),
        1 => Just(Step::Return),
    ];
    prop::collection::vec(step, 1..80)
}

fn rate() -> impl Strategy<Value = u64> {
    prop_oneof![Just(990_000_u64), Just(1_010_000), Just(1_000_000), 990_000_u64..=1_010_000]
}

proptest! {
    #[test]
    fn no_fence_is_accepted_while_the_holder_may_believe_in_its_lease(
        rates in [rate(), rate(), rate()],
        steps in steps(),
    ) {
        let mut world = World::new(rates);
        for step in &steps {
            world.take(step);
            prop_assert!(!(world.is_fenced() && world.believes()), "after {step:?}");
            let right = world.holder.right(world.holder_clock.at(world.now));
            let generation = world.committed.generation_of(&region("us"));
            prop_assert!(!right.leased || right.generation == generation, "{right:?} of {generation} after {step:?}");
        }
    }
}

/// A lease that is renewed, answered and applied at once, and then not again; a fence is tried every millisecond.
/// Whether the holder still believed in it when the fence was committed, and when that was.
fn race(rates: [u64; 3]) -> (bool, u64) {
    let mut world = World::new(rates);
    for step in [Step::Ask { milliseconds: 6_000, again: false }, Step::Commit(0), Step::Answer(0), Step::Apply(0)] {
        world.take(&step);
    }
    assert!(world.believes());
    while !world.is_fenced() {
        world.take(&Step::Wait(1_000));
        world.take(&Step::Fence(0));
        world.take(&Step::Commit(0));
    }
    assert_eq!(world.fences, 1);
    (world.believes(), world.now)
}

#[test]
fn clocks_wrong_by_the_bound_meet_exactly_and_one_wrong_by_three_percent_breaks_the_lease() {
    assert_eq!(race([MILLION; 3]), (false, 6_060_000));
    assert_eq!(race([990_000, 1_010_000, MILLION]), (false, 6_000_000));
    assert!(race([970_000, 1_010_000, MILLION]).0, "else the property above could not fail");
}

#[test]
fn a_holder_counts_from_before_it_asked_and_a_repeated_question_from_the_first_time() {
    let seconds = Duration::from_secs;
    let mut lease = HolderLease::default();
    assert!(!lease.may_sequence(seconds(0)));
    lease.ask(1, seconds(10));
    lease.ask(1, seconds(13));
    lease.granted(1, 5, 6_000, 0);
    assert_eq!(lease.remaining(seconds(10)), Duration::from_millis(5_940));
    assert!(lease.may_sequence(Duration::from_micros(15_939_999)));
    assert!(!lease.may_sequence(Duration::from_micros(15_940_000)));
    lease.ask(2, seconds(14));
    lease.ask(3, seconds(15));
    lease.granted(3, 7, 6_000, 0);
    lease.granted(2, 6, 6_000, 0);
    assert_eq!((lease.term(), lease.remaining(seconds(15))), (Some(7), Duration::from_millis(5_940)));
    // The map answers a repeated counter with the lease that it gave then, however late it is asked again.
    lease.ask(3, seconds(20));
    lease.granted(3, 7, 6_000, 0);
    assert!(!lease.may_sequence(seconds(21)));
    lease.ask(4, seconds(16));
    lease.ended();
    lease.granted(4, 8, 6_000, 0);
    assert!(!lease.may_sequence(seconds(16)), "an answer that was under way gives nothing back");
}

#[test]
fn a_right_is_of_the_generation_that_the_lease_was_granted_to() {
    let seconds = Duration::from_secs;
    let mut map = founded(&["eu", "us", "ap"]);
    let us = region("us");
    let mut lease = HolderLease::default();
    assert_eq!(lease.right(seconds(0)), Right { leased: false, generation: 0 });
    let mut renew = |map: &mut MapState, counter, now| {
        lease.ask(counter, seconds(now));
        let answer = changed(map, &super::renewal(map, "us"));
        let Ok(MapFact::Lease { term, milliseconds, generation }) = answer.fact() else { panic!("{answer:?}") };
        lease.granted(counter, *term, *milliseconds, *generation);
        lease.right(seconds(now))
    };
    assert_eq!(renew(&mut map, 1, 1), Right { leased: true, generation: 0 });
    let term = super::term(&map, "us");
    changed(&mut map, &MapCommand::Fence { region: us.clone(), term });
    let fence = map.version;
    assert_eq!(map.generation_of(&us), fence);
    changed(&mut map, &MapCommand::Return { region: us.clone(), incarnation: 1, fence });
    assert_eq!(renew(&mut map, 2, 20), Right { leased: true, generation: fence });
    let again =
        map.apply(&MapCommand::Renew { region: us, store: store(2), incarnation: 1, counter: 2, milliseconds: 6_000 });
    assert!(!again.changed());
    assert!(matches!(again.fact(), Ok(MapFact::Lease { generation, .. }) if *generation == fence), "{again:?}");
    assert_eq!(lease.right(seconds(26)), Right { leased: false, generation: fence });
    lease.ended();
    assert!(!lease.right(seconds(20)).leased);
    assert_eq!(map.generation_of(&region("sa")), 0);
}

#[test]
fn a_leader_counts_from_its_election_and_from_its_start() {
    let seconds = Duration::from_secs;
    let mut map = founded(&["eu", "us", "ap"]);
    let us = region("us");
    let mut leases = LeaderLeases::new(seconds(100));
    assert_eq!(leases.standing(&map, &us, seconds(100)), LeaseStanding::Lapsed { term: 0 }, "it never had one");
    let renewal = super::renewal(&map, "us");
    map.apply(&renewal);
    leases.applied(&map, seconds(101));
    let held = |leases: &LeaderLeases, now| match leases.standing(&map, &us, seconds(now)) {
        LeaseStanding::Held { remaining, .. } => remaining,
        LeaseStanding::Lapsed { .. } => Duration::ZERO,
    };
    assert_eq!(held(&leases, 101), LEASE * 101 / 100);
    leases.elected(seconds(105));
    assert_eq!(held(&leases, 105), LEASE * 101 / 100);
    let restarted = LeaderLeases::new(seconds(200));
    assert_eq!(held(&restarted, 300), LEASE * 101 / 100, "a term that it has not seen applied counts from now");
}

#[test]
fn an_older_copy_of_a_store_is_noticed_however_often_it_asked_in_vain() {
    let mut map = founded(&["eu", "us", "ap"]);
    let renew = |counter| MapCommand::Renew {
        region: region("us"),
        store: store(2),
        incarnation: 1,
        counter,
        milliseconds: 6_000,
    };
    let renewed: Vec<bool> = (1..=5).map(|counter| map.apply(&renew(counter)).changed()).collect();
    assert_eq!(renewed, [true; 5]);

    // A copy of when the fourth renewal was not made yet: what it asks does not come to the map for a while.
    let mut older = HolderLease::default();
    let asked: Vec<Option<u64>> = (0..10).map(|_| older.first_question(3)).collect();
    assert_eq!(asked, [Some(3); 10], "it counts nothing until it is answered");
    assert!(!older.answered_first(3, map.apply(&renew(3)).fact()), "the map knows a newer one");
    // The process that it is a copy of asked the fifth time and did not hear the answer.
    let mut newest = HolderLease::default();
    assert!(newest.answered_first(5, map.apply(&renew(5)).fact()));
    assert_eq!(newest.first_question(5), None);
    assert!(!newest.may_sequence(Duration::ZERO), "that lease began before it asked");
    // It asked once more before it ended.
    assert!(HolderLease::default().answered_first(6, map.apply(&renew(6)).fact()));

    let term = map.region(&region("us")).map_or(0, |entry| entry.term);
    map.apply(&MapCommand::Fence { region: region("us"), term });
    let fenced = map.apply(&renew(6));
    assert!(!HolderLease::default().answered_first(6, fenced.fact()), "a fence comes first");
    let fence = map.region(&region("us")).map_or(0, |entry| entry.fence);
    map.apply(&MapCommand::Return { region: region("us"), incarnation: 1, fence });
    assert!(HolderLease::default().answered_first(6, map.apply(&renew(6)).fact()), "the lease went, the store did not");
}
