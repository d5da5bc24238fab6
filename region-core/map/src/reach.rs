//! Which regions answer this one: asked all the time, told to the leader by those that vote, and collected by the one
//! that leads (design.md 4.4). An answer also says how far its region has the map: a region that the leader does not
//! reach takes it from a neighbour, and one of an earlier generation learns it anew.

use std::collections::BTreeSet;
use std::time::Duration;

use hearth_protocol::RegionId;
use hearth_protocol::record::Record as _;
use openraft::ServerState;
use parking_lot::Mutex;
use region_model::region_map::{LeaderView, MapCommand, MapRefusal, MapState, Reachability, Silences};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::network::ask;
use crate::node::{Live, MapNode};
use crate::port::RegionMapLog as _;
use crate::records::SelfRecord;
use crate::wire::{Request, Response, Status};

/// How often a region that does not answer at once is asked; each has one question under way.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// What this region knows of the reach of regions.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    state: Mutex<State>,
    /// A region that does not answer has asked something itself: it is asked at once.
    nudge: Notify,
}

#[derive(Debug, Default)]
struct State {
    silences: Silences,
    reports: Reachability,
    /// The term of the consensus that the reports were made in.
    term: u64,
}

impl State {
    /// A region answered; whether it had been silent.
    fn heard(&mut self, region: &RegionId) -> bool {
        let was_silent = self.silences.is_silent(region);
        self.silences.heard(region);
        was_silent
    }

    /// Reports to an earlier leader say nothing.
    fn reports_of(&mut self, term: u64) -> &mut Reachability {
        if self.term != term {
            self.term = term;
            self.reports.clear();
        }
        &mut self.reports
    }
}

/// Asks the other regions, and reports, until the node stops.
pub(crate) async fn run(node: MapNode) {
    let mut tick = tokio::time::interval(ASK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = JoinSet::new();
    let mut under_way = BTreeSet::new();
    loop {
        let is_tick = tokio::select! {
            _ = tick.tick() => true,
            () = node.inner.reach.nudge.notified() => false,
            Some(answer) = asked.join_next() => {
                let Ok((region, status)) = answer else {
                    under_way.clear();
                    continue;
                };
                under_way.remove(&region);
                if let Some(status) = status {
                    if node.inner.reach.state.lock().heard(&region) {
                        node.spawn(report(node.clone()));
                    }
                    follow(&node, &region, &status).await;
                }
                continue;
            }
        };
        let others = node.others();
        node.inner.reach.state.lock().silences.look(&others, node.inner.clock.now());
        for region in others.into_iter().filter(|region| under_way.insert(region.clone())) {
            asked.spawn(ask_one(node.clone(), region));
        }
        if is_tick {
            node.spawn(report(node.clone()));
        }
    }
}

async fn ask_one(node: MapNode, region: RegionId) -> (RegionId, Option<Status>) {
    let patience = node.inner.options.times.attempt * 2;
    let answer = ask(&*node.inner.network, &region, &Request::Status, patience).await;
    let status = match answer {
        Ok(Response::Status(status)) => Some(status),
        _ => None,
    };
    (region, status)
}

/// Tells the leader which regions do not answer; nothing while there is none that is known.
async fn report(node: MapNode) {
    let inner = &node.inner;
    let Some(leader) = node.leadership().leader.filter(|leader| *leader != inner.options.region) else { return };
    if !inner.applied.map().map_voters.contains(&inner.options.region) {
        return;
    }
    let silent = inner.reach.state.lock().silences.silent();
    let milliseconds = |silence: Duration| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
    let silent = silent.into_iter().map(|(region, silence)| (region, milliseconds(silence))).collect();
    // A lost report is followed by the next one.
    drop(ask(&*inner.network, &leader, &Request::Report { silent }, ASK_EVERY).await);
}

/// The other region is of a later generation of the map: this one was taken for dead, and learns the map anew. Or it
/// has more of the map while no leader is heard here: the map is shown as the other one has it.
async fn follow(node: &MapNode, region: &RegionId, status: &Status) {
    let live = node.live();
    let me = live.me.clone();
    if status.generation > me.generation {
        let me = SelfRecord { generation: status.generation, ..me };
        if let Err(error) = node.become_member(me, None).await {
            tracing::error!(region = %node.inner.options.region, %error, "the region takes part in the map no more");
        }
        return;
    }
    let map = node.inner.applied.map();
    let is_behind = status.generation == map.generation && status.version > map.version;
    if is_behind && !node.hears_leader(&live) {
        node.spawn(fetch(node.clone(), region.clone()));
    }
}

async fn fetch(node: MapNode, region: RegionId) {
    let inner = &node.inner;
    let patience = inner.options.times.attempt * 2;
    let Ok(Response::Map(bytes)) = ask(&*inner.network, &region, &Request::Map, patience).await else { return };
    match MapState::read(&bytes) {
        Ok(map) if map.generation == inner.applied.map().generation => inner.applied.put(map.into()),
        Ok(_) => {}
        Err(error) => tracing::warn!(peer = %region, %error, "a region map from a neighbour does not read"),
    }
}

impl MapNode {
    /// Another region asks something: one that has not answered may be there again.
    pub(crate) fn asked_by(&self, region: &RegionId) {
        if self.inner.reach.state.lock().silences.is_silent(region) {
            self.inner.reach.nudge.notify_one();
        }
    }

    /// A voter's report; taken only while this member leads.
    pub(crate) fn take_report(&self, live: &Live, voter: &RegionId, silent: Vec<(RegionId, u64)>) {
        let metrics = live.metrics();
        if metrics.state != ServerState::Leader {
            return;
        }
        let silent = silent.into_iter().map(|(region, silence)| (region, Duration::from_millis(silence)));
        let now = self.inner.clock.now();
        self.inner.reach.state.lock().reports_of(metrics.current_term).report(voter.clone(), silent, now);
    }

    /// What the leader goes by, in this term of the consensus.
    pub(crate) fn as_leader<T>(&self, term: u64, decide: impl FnOnce(&LeaderView<'_>) -> T) -> T {
        let inner = &self.inner;
        let me = &inner.options.region;
        inner.applied.as_leader(term, |map, leases, now| {
            let mut state = inner.reach.state.lock();
            let silent = state.silences.silent();
            state.reports_of(term).report(me.clone(), silent, now);
            decide(&LeaderView { me, map, leases, reach: &state.reports, now })
        })
    }

    /// The leader's check before a command goes into the log.
    pub(crate) fn admit(&self, command: &MapCommand, term: u64) -> Result<(), MapRefusal> {
        self.as_leader(term, |view| view.admit(command))
    }

    /// The map as it is shown here, for a neighbour.
    pub(crate) fn encoded_map(&self) -> Vec<u8> {
        self.inner.applied.map().encode()
    }
}
