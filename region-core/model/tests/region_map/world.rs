//! Regions with links that are cut in any direction, and the real types that decide: silences, reports, leases, the
//! leader's view and the map. The consensus is one committed map, and a leader while one reaches a majority.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_protocol::RegionId;
use region_model::region_map::{
    FailoverRules, HolderLease, LeaderLeases, LeaderView, MapAnswer, MapCommand, MapFact, MapRefusal, MapState,
    Reachability, RegionState, Silences,
};

use super::{founded, region};

/// How far time goes in one step.
pub(crate) const TICK: Duration = Duration::from_millis(500);
/// Ticks between two renewals, and without a leader before the next one is elected.
const RENEW_TICKS: u64 = 4;
const ELECTION_TICKS: u64 = 4;
pub(crate) const NAMES: [&str; 5] = ["eu", "us", "ap", "sa", "af"];

pub(crate) struct Node {
    pub(crate) alive: bool,
    silences: Silences,
    pub(crate) holder: HolderLease,
    leases: LeaderLeases,
    counter: u64,
}

pub(crate) struct World {
    pub(crate) map: MapState,
    pub(crate) nodes: Vec<Node>,
    /// Directions that carry nothing: from, to.
    pub(crate) cut: Vec<(usize, usize)>,
    pub(crate) leader: Option<usize>,
    pub(crate) rules: FailoverRules,
    /// Steps that a leader takes in one tick.
    pub(crate) steps: usize,
    /// Commands that changed the map, renewals apart.
    pub(crate) decisions: Vec<MapCommand>,
    reports: Reachability,
    leaderless: u64,
    ticks: u64,
}

impl World {
    /// So many regions, all with a lease.
    pub(crate) fn new(count: usize) -> Self {
        let map = founded(&NAMES[..count]);
        let node = || Node {
            alive: true,
            silences: Silences::default(),
            holder: HolderLease::default(),
            leases: LeaderLeases::new(Duration::ZERO),
            counter: 0,
        };
        let mut world = Self {
            map,
            nodes: (0..count).map(|_| node()).collect(),
            cut: Vec::new(),
            leader: None,
            rules: FailoverRules::default(),
            steps: 8,
            decisions: Vec::new(),
            reports: Reachability::default(),
            leaderless: ELECTION_TICKS,
            ticks: 0,
        };
        world.run(10);
        assert!((0..count).all(|node| world.holds(node)), "all hold leases");
        world
    }

    pub(crate) fn now(&self) -> Duration {
        TICK * u32::try_from(self.ticks).expect("a short run")
    }

    pub(crate) fn holds(&self, node: usize) -> bool {
        self.nodes[node].alive && self.nodes[node].holder.may_sequence(self.now())
    }

    pub(crate) fn state(&self, node: usize) -> RegionState {
        self.map.region(&region(NAMES[node])).expect("known").state
    }

    pub(crate) fn slots(&self, node: usize) -> usize {
        self.map.slots.stewarded(&region(NAMES[node]))
    }

    pub(crate) fn fences(&self) -> usize {
        self.decisions.iter().filter(|command| matches!(command, MapCommand::Fence { .. })).count()
    }

    fn passes(&self, from: usize, to: usize) -> bool {
        from == to || (self.nodes[from].alive && self.nodes[to].alive && !self.cut.contains(&(from, to)))
    }

    fn answers(&self, from: usize, to: usize) -> bool {
        self.passes(from, to) && self.passes(to, from)
    }

    fn voters(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.map.map_voters.contains(&region(NAMES[*node]))).collect()
    }

    fn may_lead(&self, node: usize) -> bool {
        let voters = self.voters();
        let answer = voters.iter().filter(|voter| self.answers(node, **voter)).count();
        self.nodes[node].alive && answer > voters.len() / 2
    }

    pub(crate) fn run(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.tick();
        }
    }

    pub(crate) fn tick(&mut self) {
        self.ticks += 1;
        self.look();
        self.elect();
        if let Some(leader) = self.leader {
            self.report_to(leader);
            for node in 0..self.nodes.len() {
                if self.nodes[node].alive && (self.ticks.is_multiple_of(RENEW_TICKS) || !self.holds(node)) {
                    self.renew(node, leader);
                }
            }
            for _ in 0..self.steps {
                let Some(command) = self.view(leader).next_step(&self.rules) else { break };
                if self.view(leader).admit(&command).is_ok() {
                    self.commit(&command);
                }
            }
        }
        for (node, name) in NAMES.iter().enumerate().take(self.nodes.len()) {
            let fenced = self.state(node) == RegionState::Fenced;
            assert!(!(fenced && self.holds(node)), "{name} is fenced and believes in its lease");
        }
    }

    fn look(&mut self) {
        let now = self.now();
        for one in (0..self.nodes.len()).filter(|one| self.nodes[*one].alive).collect::<Vec<_>>() {
            let others: Vec<usize> = (0..self.nodes.len()).filter(|other| *other != one).collect();
            let names: Vec<RegionId> = others.iter().map(|other| region(NAMES[*other])).collect();
            self.nodes[one].silences.look(&names, now);
            for (other, name) in others.into_iter().zip(&names) {
                if self.answers(one, other) {
                    self.nodes[one].silences.heard(name);
                }
            }
        }
    }

    fn elect(&mut self) {
        if self.leader.is_some_and(|leader| self.may_lead(leader)) {
            return;
        }
        self.leader = None;
        self.leaderless += 1;
        let next = self.voters().into_iter().find(|voter| self.may_lead(*voter));
        if let Some(next) = next.filter(|_| self.leaderless > ELECTION_TICKS) {
            (self.leader, self.leaderless) = (Some(next), 0);
            self.reports.clear();
            let now = self.now();
            self.nodes[next].leases.applied(&self.map, now);
            self.nodes[next].leases.elected(now);
        }
    }

    fn report_to(&mut self, leader: usize) {
        for voter in self.voters() {
            if self.nodes[voter].alive && self.passes(voter, leader) {
                self.reports.report(region(NAMES[voter]), self.nodes[voter].silences.silent(), self.now());
            }
        }
    }

    fn view(&self, leader: usize) -> LeaderView<'_> {
        let me = self.map.regions.iter().map(|entry| &entry.region).find(|name| name.as_str() == NAMES[leader]);
        let me = me.expect("the leader is a region");
        LeaderView { me, map: &self.map, leases: &self.nodes[leader].leases, reach: &self.reports, now: self.now() }
    }

    fn commit(&mut self, command: &MapCommand) -> MapAnswer {
        let answer = self.map.apply(command);
        let now = self.now();
        let reached: Vec<bool> =
            (0..self.nodes.len()).map(|node| self.leader.is_some_and(|leader| self.passes(leader, node))).collect();
        for (node, reached) in self.nodes.iter_mut().zip(reached) {
            if node.alive && reached {
                node.leases.applied(&self.map, now);
            }
        }
        if answer.changed() && !matches!(command, MapCommand::Renew { .. }) {
            self.decisions.push(command.clone());
        }
        answer
    }

    /// By each way to the leader, until one brings an answer back.
    fn propose(&mut self, by: usize, leader: usize, command: &MapCommand) -> Option<Result<MapFact, MapRefusal>> {
        for relay in std::iter::once(by).chain((0..self.nodes.len()).filter(|relay| *relay != by)) {
            if !(self.passes(by, relay) && self.passes(relay, leader)) {
                continue;
            }
            let answer = match self.view(leader).admit(command) {
                Ok(()) => self.commit(command).fact().cloned().map_err(Clone::clone),
                Err(refusal) => Err(refusal),
            };
            if self.passes(leader, relay) && self.passes(relay, by) {
                return Some(answer);
            }
        }
        None
    }

    fn renew(&mut self, node: usize, leader: usize) {
        let name = region(NAMES[node]);
        let mark = self.map.region(&name).and_then(|entry| entry.store).expect("it has a store");
        let now = self.now();
        self.nodes[node].counter += 1;
        let counter = self.nodes[node].counter;
        self.nodes[node].holder.ask(counter, now);
        let renewal = MapCommand::Renew {
            region: name.clone(),
            store: mark.store,
            incarnation: mark.incarnation,
            counter,
            milliseconds: 6_000,
        };
        match self.propose(node, leader, &renewal) {
            Some(Ok(MapFact::Lease { term, milliseconds, generation })) => {
                self.nodes[node].holder.granted(counter, term, milliseconds, generation);
            }
            Some(Err(MapRefusal::State(RegionState::Fenced))) => {
                self.nodes[node].holder.ended();
                let fence = self.map.generation_of(&name);
                self.propose(node, leader, &MapCommand::Return { region: name, incarnation: mark.incarnation, fence });
            }
            _ => {}
        }
    }

    /// The slots that nobody can use though one of their voters could steward them.
    pub(crate) fn without_owner(&self) -> usize {
        let holders: BTreeMap<RegionId, bool> =
            (0..self.nodes.len()).map(|node| (region(NAMES[node]), self.holds(node))).collect();
        let lost = self
            .map
            .slots
            .iter()
            .filter(|(_, group)| !holders[&group.steward] && group.voters.iter().any(|voter| holders[voter]));
        lost.count()
    }
}
