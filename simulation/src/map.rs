//! The region map as a small linearizable service, and each region's lease. Its commands, leases and refusals are those
//! of [`region_model::region_map`]; what is simulated is consensus: a leader among the map's voters that answers while
//! it reaches a majority of them, commits after a round trip, and is replaced after a while when it does not.

use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::RegionId;
use region_model::Input;
use region_model::ownership::Right;
use region_model::region_map::{
    FailoverRules, FirstMap, HolderLease, LEASE, LeaderLeases, LeaderView, MapAnswer, MapCommand, MapFact, MapRefusal,
    MapState, RENEW_EVERY, Reachability, RegionState, StoreMark,
};

use crate::plan::SECOND;
use crate::random::Random;
use crate::world::{Event, World};

/// How often leader, reports and fences are looked at.
const LOOK: u64 = SECOND / 4;
/// How long a leader out of reach of a majority stays the leader, at least and at most.
const ELECTION: (u64, u64) = (SECOND, 3 * SECOND);

/// A lease as its region keeps it, and the map as the region sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keeper {
    lease: HolderLease,
    /// The proposal under way: its number, and when it was made.
    asked: Option<(u64, u64)>,
    /// When the renewal that was granted last was asked.
    renewed: Option<u64>,
    pub(crate) map: Arc<MapState>,
    leases: Option<LeaderLeases>,
    /// Since when each peer's link is down, by this region's clock.
    pub(crate) down: std::collections::BTreeMap<usize, Duration>,
}

impl Keeper {
    /// What a process believes of its lease ends with it.
    pub(crate) fn process_ended(&mut self) {
        *self = Self { map: Arc::clone(&self.map), ..Self::default() };
    }

    /// The right to sequence at a moment of the region's clock.
    pub(crate) fn right(&self, clock: Duration) -> Right {
        self.lease.right(clock)
    }
}

/// The service.
#[derive(Debug)]
pub(crate) struct MapService {
    state: Arc<MapState>,
    leader: Option<usize>,
    /// Counted up by each election.
    leadership: u64,
    /// Since when the leader does not reach a majority, and until when it stays.
    lost: Option<u64>,
    reachability: Reachability,
    proposals: u64,
    random: Random,
}

impl MapService {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: Arc::default(),
            leader: None,
            leadership: 0,
            lost: None,
            reachability: Reachability::default(),
            proposals: 0,
            random: Random::of(seed, "map", 0),
        }
    }

    /// What the map knows of a region's store.
    pub(crate) fn known(&self, region: &RegionId) -> Option<StoreMark> {
        self.state.region(region).and_then(|entry| entry.store)
    }
}

/// A command on its way.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    from: usize,
    number: u64,
    command: MapCommand,
    leadership: u64,
}

/// What the map's leader answered.
#[derive(Clone, Debug)]
pub(crate) struct MapTold {
    number: u64,
    command: MapCommand,
    answer: MapAnswer,
}

impl World {
    /// Founds the map: every region has its store and its first incarnation.
    pub(crate) fn found_map(&mut self) {
        let mut map = MapState::default();
        let ids: Vec<_> = self.regions.iter().map(|region| region.id.clone()).collect();
        map.apply(&MapCommand::Found(FirstMap::of(ids.clone())));
        for (place, region) in ids.into_iter().enumerate() {
            let store = self.regions[place].stores.name(place);
            map.apply(&MapCommand::TakeIncarnation { region, store, counter: 0, replaces: 0, term: 0 });
            self.regions[place].disk.incarnation = 1;
        }
        self.service.state = Arc::new(map);
        self.service.leader = Some(0);
        for place in 0..self.regions.len() {
            self.regions[place].keeper.map = Arc::clone(&self.service.state);
        }
        self.after(LOOK, Event::MapLook);
    }

    /// A region starts: it holds nothing, and knows what it knew of the map.
    pub(crate) fn map_at_start(&mut self, place: usize) {
        let clock = self.regions[place].clock.monotonic(self.now);
        let peers = (0..self.regions.len()).filter(|peer| *peer != place);
        let down = peers.map(|peer| (peer, clock)).collect();
        let region = &mut self.regions[place];
        let map = Arc::clone(&region.keeper.map);
        let mut leases = LeaderLeases::new(clock);
        leases.applied(&map, clock);
        region.keeper = Keeper { map: Arc::clone(&map), leases: Some(leases), down, ..Keeper::default() };
        if map.version > 0 {
            self.input(place, Input::Map(map));
        }
        let start = self.regions[place].start;
        self.after(0, Event::Keep { region: place, start });
    }

    /// A region sees to its lease.
    pub(crate) fn keep(&mut self, place: usize, start: u64) {
        let again = SECOND / 4 + self.regions[place].random.between(0, SECOND / 10);
        self.after(again, Event::Keep { region: place, start });
        let renew = u64::try_from(RENEW_EVERY.as_micros()).unwrap_or(u64::MAX);
        let keeper = &self.regions[place].keeper;
        let waits = keeper.asked.is_some_and(|(_, at)| self.now < at + renew);
        if waits || keeper.renewed.is_some_and(|at| self.now < at + renew) {
            return;
        }
        self.renew(place);
    }

    fn renew(&mut self, place: usize) {
        let region = &mut self.regions[place];
        if region.keeper.lease.first_question(region.disk.counter).is_none() {
            region.disk.counter += 1;
            region.keeper.lease.ask(region.disk.counter, region.clock.monotonic(self.now));
        }
        let (counter, incarnation) = (region.disk.counter, region.disk.incarnation);
        let milliseconds = u32::try_from(LEASE.as_millis()).unwrap_or(u32::MAX);
        let (region, store) = (region.id.clone(), region.stores.name(place));
        self.propose_own(place, MapCommand::Renew { region, store, incarnation, counter, milliseconds });
    }

    fn propose_own(&mut self, place: usize, command: MapCommand) {
        let number = self.propose(place, command);
        self.regions[place].keeper.asked = Some((number, self.now));
    }

    /// Sends a command to the leader, by whatever way there is.
    fn propose(&mut self, from: usize, command: MapCommand) -> u64 {
        self.service.proposals += 1;
        let number = self.service.proposals;
        let leadership = self.service.leadership;
        let Some(leader) = self.service.leader else { return number };
        if let Some(way) = self.way_to(from, leader) {
            let proposal = Proposal { from, number, command, leadership };
            self.after(way, Event::MapAsk { leader, proposal: Box::new(proposal) });
        }
        number
    }

    /// How long a request takes from one region to another, directly or through a third; `None` when none gets through.
    fn way_to(&self, from: usize, to: usize) -> Option<u64> {
        if from == to {
            return Some(0);
        }
        let direct = |one: usize, other: usize| self.links.passes(one, other).then(|| self.links.way(one, other));
        let through = (0..self.regions.len())
            .filter(|third| *third != from && *third != to && self.regions[*third].runs())
            .filter_map(|third| Some(direct(from, third)? + direct(third, to)?));
        direct(from, to).into_iter().chain(through).min()
    }

    /// A round trip to enough voters for a majority; `None` when too few are in reach.
    fn majority(&self, leader: usize) -> Option<u64> {
        let voters = &self.service.state.map_voters;
        let mut ways: Vec<u64> = voters
            .iter()
            .filter_map(|voter| self.place_of(voter))
            .filter(|voter| self.regions[*voter].runs())
            .filter(|voter| {
                *voter == leader || (self.links.passes(leader, *voter) && self.links.passes(*voter, leader))
            })
            .map(|voter| if voter == leader { 0 } else { 2 * self.links.way(leader, voter) })
            .collect();
        ways.sort_unstable();
        ways.get(voters.len() / 2).copied()
    }

    /// A command reached the leader.
    pub(crate) fn map_ask(&mut self, leader: usize, proposal: Box<Proposal>) {
        if self.service.leader != Some(leader) || proposal.leadership != self.service.leadership {
            return;
        }
        let clock = self.regions[leader].clock.monotonic(self.now);
        let state = Arc::clone(&self.service.state);
        let Some(view) = self.leader_view(leader, &state, clock) else { return };
        let admitted = view.admit(&proposal.command);
        match (admitted, self.majority(leader)) {
            (Err(reason), _) => {
                let answer = MapAnswer::Refused { version: state.version, reason };
                self.map_answer(leader, &proposal, answer);
            }
            (Ok(()), Some(round_trip)) => {
                let took = round_trip + self.service.random.between(0, 10_000);
                self.after(took, Event::MapCommit { leader, proposal });
            }
            (Ok(()), None) => {}
        }
    }

    /// A command may be committed now. When its leader was replaced meanwhile, the new one may have it, unheard.
    pub(crate) fn map_commit(&mut self, leader: usize, proposal: &Proposal) {
        let leads = self.service.leader == Some(leader) && self.service.leadership == proposal.leadership;
        if (leads && self.majority(leader).is_none()) || (!leads && self.service.random.percent(50)) {
            return;
        }
        let mut state = (*self.service.state).clone();
        let answer = state.apply(&proposal.command);
        if answer.changed() {
            self.trace.count(self.now, command_name(&proposal.command), state.version, proposal.from as u64);
            self.service.state = Arc::new(state);
            self.tell_map();
        }
        if leads {
            self.map_answer(leader, proposal, answer);
        }
    }

    fn map_answer(&mut self, leader: usize, proposal: &Proposal, answer: MapAnswer) {
        let (to, number) = (proposal.from, proposal.number);
        if let Some(way) = self.way_to(leader, to) {
            let start = self.regions[to].start;
            let told = Box::new(MapTold { number, command: proposal.command.clone(), answer });
            self.after(way, Event::MapTell { to, start, told });
        }
    }

    /// Whoever is in reach of the leader hears of the map.
    fn tell_map(&mut self) {
        let Some(leader) = self.service.leader else { return };
        for place in 0..self.regions.len() {
            let known = self.regions[place].keeper.map.version;
            if known < self.service.state.version
                && let Some(way) = self.way_to(leader, place)
            {
                let map = Arc::clone(&self.service.state);
                self.after(way, Event::MapSeen { region: place, map });
            }
        }
    }

    pub(crate) fn map_seen(&mut self, place: usize, map: Arc<MapState>) {
        let region = &mut self.regions[place];
        if region.core.is_none() || map.version <= region.keeper.map.version {
            return;
        }
        let clock = region.clock.monotonic(self.now);
        let changed = map.changed != region.keeper.map.changed;
        region.keeper.map = Arc::clone(&map);
        if let Some(leases) = &mut region.keeper.leases {
            leases.applied(&map, clock);
        }
        let state = map.region(&region.id).map(|entry| entry.state);
        if state == Some(RegionState::Fenced) {
            region.keeper.lease.ended();
        }
        if changed {
            self.presence_fences(place, &map);
            self.input(place, Input::Map(map));
        }
    }

    /// An answer of the map came to the region that asked.
    pub(crate) fn map_tell(&mut self, place: usize, told: &MapTold) {
        let MapTold { number, command, answer } = told;
        let keeper = &mut self.regions[place].keeper;
        if keeper.asked.is_none_or(|(asked, _)| asked != *number) {
            return;
        }
        let at = keeper.asked.take().map_or(self.now, |(_, at)| at);
        if let MapCommand::Renew { counter, .. } | MapCommand::TakeIncarnation { counter, .. } = command
            && keeper.lease.first_question(*counter).is_some()
            && keeper.lease.answered_first(*counter, answer.fact())
            && matches!(command, MapCommand::Renew { .. })
        {
            return self.renew(place);
        }
        match (command, answer.fact()) {
            (MapCommand::Renew { counter, .. }, Ok(MapFact::Lease { term, milliseconds, generation })) => {
                keeper.lease.granted(*counter, *term, *milliseconds, *generation);
                keeper.renewed = Some(at);
                self.input(place, Input::Tick);
            }
            (_, Ok(MapFact::Incarnation { incarnation, .. })) => {
                self.regions[place].disk.incarnation = *incarnation;
                self.renew(place);
            }
            (MapCommand::Return { .. }, Ok(_)) => {
                self.trace.count(self.now, "came-back", place as u64, 0);
                self.renew(place);
            }
            (_, Err(MapRefusal::State(RegionState::Fenced))) => self.come_back(place),
            (_, Err(MapRefusal::OtherStore { incarnation, term, .. })) => {
                self.take_incarnation(place, *incarnation, *term);
            }
            (_, Err(MapRefusal::OlderStore(_))) => {
                let region = &self.regions[place];
                let term = region.keeper.map.region(&region.id).map_or(0, |entry| entry.term);
                self.take_incarnation(place, region.disk.incarnation, term);
            }
            _ => {}
        }
    }

    fn take_incarnation(&mut self, place: usize, replaces: u64, term: u64) {
        let region = &mut self.regions[place];
        region.keeper.lease.ended();
        let (counter, store, region) = (region.disk.counter, region.stores.name(place), region.id.clone());
        let command = MapCommand::TakeIncarnation { region, store, counter, replaces, term };
        self.propose_own(place, command);
    }

    /// The region was fenced: it holds nothing, and says so before it may hold a lease again.
    fn come_back(&mut self, place: usize) {
        let region = &mut self.regions[place];
        region.keeper.lease.ended();
        let Some(entry) = region.keeper.map.region(&region.id).filter(|entry| entry.state == RegionState::Fenced)
        else {
            return;
        };
        let fence = entry.fence;
        let (incarnation, region) = (region.disk.incarnation, region.id.clone());
        self.propose_own(place, MapCommand::Return { region, incarnation, fence });
    }

    /// Looks at the leader, at what voters report, and at who is to be fenced.
    pub(crate) fn map_look(&mut self) {
        self.after(LOOK, Event::MapLook);
        self.elect();
        self.tell_map();
        let Some(leader) = self.service.leader.filter(|leader| self.majority(*leader).is_some()) else { return };
        let clock = self.regions[leader].clock.monotonic(self.now);
        let state = Arc::clone(&self.service.state);
        let voters: Vec<usize> = state.map_voters.iter().filter_map(|voter| self.place_of(voter)).collect();
        for voter in voters {
            if !self.regions[voter].runs() || self.way_to(voter, leader).is_none() {
                continue;
            }
            let now = self.regions[voter].clock.monotonic(self.now);
            let down: Vec<_> = self.regions[voter]
                .keeper
                .down
                .iter()
                .map(|(peer, since)| (self.regions[*peer].id.clone(), now.saturating_sub(*since)))
                .collect();
            self.service.reachability.report(self.regions[voter].id.clone(), down, clock);
        }
        let view = self.leader_view(leader, &state, clock);
        if let Some(command) = view.and_then(|view| view.next_step(&FailoverRules::default())) {
            self.propose(leader, command);
        }
    }

    /// An operator fences a region, again every second until it is let: while the lease is held it is refused.
    pub(crate) fn fence_by_hand(&mut self, region: usize, until: u64) {
        if self.now >= until {
            return;
        }
        self.after(SECOND, Event::FenceByHand(region, until));
        let Some(leader) = self.service.leader.filter(|leader| *leader != region && self.majority(*leader).is_some())
        else {
            return;
        };
        let fenced = self.service.state.region(&self.regions[region].id);
        if let Some(entry) = fenced.filter(|entry| entry.state == RegionState::Active) {
            let command = MapCommand::Fence { region: entry.region.clone(), term: entry.term };
            self.trace.count(self.now, "fence-asked", region as u64, leader as u64);
            self.propose(leader, command);
        }
    }

    /// What the leader goes by.
    fn leader_view<'a>(&'a self, leader: usize, map: &'a MapState, now: Duration) -> Option<LeaderView<'a>> {
        let region = &self.regions[leader];
        let leases = region.keeper.leases.as_ref()?;
        Some(LeaderView { me: &region.id, map, leases, reach: &self.service.reachability, now })
    }

    fn elect(&mut self) {
        let fine =
            self.service.leader.is_some_and(|leader| self.regions[leader].runs() && self.majority(leader).is_some());
        if fine {
            self.service.lost = None;
            return;
        }
        let until = match self.service.lost {
            Some(until) => until,
            None => {
                let until = self.now + self.service.random.between(ELECTION.0, ELECTION.1);
                self.service.lost = Some(until);
                until
            }
        };
        if self.now < until {
            return;
        }
        let voters = self.service.state.map_voters.clone();
        let mut ranked = voters.iter().filter_map(|voter| self.place_of(voter));
        let Some(leader) = ranked.find(|voter| self.regions[*voter].runs() && self.majority(*voter).is_some()) else {
            return;
        };
        self.trace.count(self.now, "map-elected", leader as u64, self.service.leadership);
        self.service.leader = Some(leader);
        self.service.leadership += 1;
        self.service.lost = None;
        self.service.reachability.clear();
        // Whoever is elected has everything that was committed.
        let map = Arc::clone(&self.service.state);
        self.map_seen(leader, map);
        let clock = self.regions[leader].clock.monotonic(self.now);
        if let Some(leases) = &mut self.regions[leader].keeper.leases {
            leases.elected(clock);
        }
    }
}

fn command_name(command: &MapCommand) -> &'static str {
    match command {
        MapCommand::Renew { .. } => "lease-renewed",
        MapCommand::Fence { .. } => "fence",
        MapCommand::Return { .. } => "return",
        MapCommand::Reassign { .. } => "reassign",
        MapCommand::TakeIncarnation { .. } => "incarnation",
        _ => "map-change",
    }
}
