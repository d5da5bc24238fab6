//! When a voter asks for votes. Ours instead of openraft 0.9's, whose time-out is drawn once per process and looked at
//! every 1.5 message time-outs, so that two voters can tie for ever (its issue 1838).
//!
//! ```text
//!   heard a leader │◄───── election ─────►│ rank 0 │ … │ rank 1 │ … │ rank 2 │      windows, drawn anew each time
//! ```
//! Before it asks, a voter asks all voters whether they hear no leader and would vote for a log that ends like its own,
//! and goes on only when a majority would. So a region that is cut off from the leader alone raises no term, and does not
//! end the leader that others see. And one whose log is behind leaves the term to who can win it: openraft takes the next
//! term of its own vote, so both would ask for the same one, again and again, and the one that cannot win could be the
//! one whose vote counts as the greater. When three elections of its own gave no leader, it rests for a random pause (the watchdog). At a start nobody was heard:
//! the lowest rank asks at once.
//!
//! A leader that a majority does not answer, and one that votes no more, gives way: it is silent long enough for the
//! others to elect, since openraft's would be heard for ever. When they do not, because they lack entries that it has,
//! it goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hearth_protocol::RegionId;
use openraft::ServerState;
use region_model::region_map::MapCommand;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::network::ask;
use crate::node::{Live, MapNode};
use crate::port::{MapTimes, RegionMapLog};
use crate::raft::Member;
use crate::wire::{Request, Response, Status};

/// How long the others have to say whether they hear a leader.
const SAY: Duration = Duration::from_millis(600);
/// After so long a voter that would not win asks again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Elections without a leader after which a voter rests.
const REST_AFTER: u32 = 3;
/// How often this is looked at.
const TICK: Duration = Duration::from_millis(20);

/// What one voter knows of its own elections.
#[derive(Debug)]
struct Campaign {
    /// From when its window counts.
    since: Instant,
    /// Its place in the window, 0 to 1.
    draw: f64,
    /// Elections of its own since a leader was heard.
    failed: u32,
}

impl Campaign {
    fn new(since: Instant) -> Self {
        Self { since, draw: rand::random(), failed: 0 }
    }

    /// When to ask for votes, for a voter of this rank.
    fn due(&self, times: &MapTimes, rank: u32, at_start: bool) -> Instant {
        let widened = times.window * 2_u32.pow(self.failed.min(5));
        let wait = if at_start { Duration::ZERO } else { times.election };
        self.since + wait + times.rank_step * rank + widened.mul_f64(self.draw)
    }

    /// An election was asked for.
    fn tried(&mut self, times: &MapTimes) {
        self.failed += 1;
        self.draw = rand::random();
        self.since = Instant::now();
        if self.failed.is_multiple_of(REST_AFTER) {
            self.since += times.election.mul_f64(rand::random());
        }
    }
}

/// A leader's pulse, and whether it gives way.
#[derive(Debug)]
struct Leading {
    pulsed: Instant,
    /// From when its silence, or its leading, counts.
    since: Instant,
    /// How long it is silent.
    pause: Duration,
}

impl Leading {
    fn new() -> Self {
        let now = Instant::now();
        Self { pulsed: now, since: now, pause: Duration::ZERO }
    }

    /// Decides whether the leader gives way. It leads for at least the time of an election before.
    fn weigh(&mut self, live: &Live, metrics: &crate::raft::Metrics, times: &MapTimes) {
        if live.gives_way() {
            if self.since.elapsed() > self.pause {
                self.since = Instant::now();
                live.gives_way.store(false, Ordering::Relaxed);
            }
            return;
        }
        let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
        let alone = u128::from(metrics.millis_since_quorum_ack.unwrap_or(u64::MAX)) > times.election.as_millis();
        let useless = !voters.contains(&live.id) || (voters.len() > 1 && alone);
        if useless && self.since.elapsed() > times.election {
            tracing::info!(voters = voters.len(), alone, "the map's leader gives way");
            self.since = Instant::now();
            self.pause = times.election.mul_f64(2.0 + rand::random::<f64>());
            live.gives_way.store(true, Ordering::Relaxed);
        }
    }
}

/// Runs elections, a leader's pulse, and the founding, until the node stops.
pub(crate) async fn run(node: MapNode) {
    let mut campaign = Campaign::new(Instant::now());
    let mut member = node.live().id;
    let mut leading = None;
    loop {
        tokio::time::sleep(TICK).await;
        let live = node.live();
        if live.id != member {
            (member, campaign) = (live.id, Campaign::new(Instant::now()));
        }
        let metrics = live.metrics();
        let times = node.inner.options.times;
        if node.is_away() {
            // Nothing that a member says is on disk: a leader says nothing, so that the others elect another, and who
            // follows asks for no votes.
            live.gives_way.store(metrics.state == ServerState::Leader, Ordering::Relaxed);
            campaign = Campaign::new(Instant::now());
            continue;
        }
        if metrics.state == ServerState::Leader {
            campaign = Campaign::new(Instant::now());
            let leading = leading.get_or_insert_with(Leading::new);
            leading.weigh(&live, &metrics, &times);
            if !live.gives_way() && leading.pulsed.elapsed() >= times.pulse {
                leading.pulsed = Instant::now();
                // A member that stopped has no pulse.
                drop(live.raft.trigger().heartbeat().await);
                found_map(&node).await;
            }
            continue;
        }
        leading = None;
        live.gives_way.store(false, Ordering::Relaxed);
        if let Some(heard) = *live.heard.lock()
            && heard > campaign.since
        {
            campaign = Campaign::new(heard);
        }
        match rank(&live, &metrics) {
            Some((rank, voters)) => elect(&node, &live, &mut campaign, rank, voters).await,
            None if metrics.last_log_index.is_none() => initialize(&node, &live).await,
            None => {}
        }
    }
}

/// This member's rank among the voters of the consensus, in the order of the map, and the regions of the others.
fn rank(live: &Live, metrics: &crate::raft::Metrics) -> Option<(u32, Vec<RegionId>)> {
    let membership = metrics.membership_config.membership();
    let voters: Vec<u64> = membership.voter_ids().collect();
    let mut named: Vec<(String, u64)> =
        membership.nodes().filter(|(id, _)| voters.contains(id)).map(|(id, node)| (node.region.clone(), *id)).collect();
    named.sort();
    let rank = named.iter().position(|(_, id)| *id == live.id)?;
    let others = named.iter().filter(|(_, id)| *id != live.id).filter_map(|(name, _)| RegionId::new(name).ok());
    Some((u32::try_from(rank).unwrap_or(u32::MAX), others.collect()))
}

async fn elect(node: &MapNode, live: &Arc<Live>, campaign: &mut Campaign, rank: u32, others: Vec<RegionId>) {
    let times = node.inner.options.times;
    let at_start = live.heard.lock().is_none() && campaign.failed == 0;
    if !others.is_empty() && Instant::now() < campaign.due(&times, rank, at_start) {
        return;
    }
    if !would_win(node, live, others).await {
        // Somebody hears a leader, has a newer log, or too few can be asked. Asking raises no term: another window opens
        // soon. It counts from behind the last word of a leader, which was longer ago than an election takes.
        let now = Instant::now();
        campaign.since = now.checked_sub(times.election.saturating_sub(ASK_AGAIN)).unwrap_or(now);
        campaign.draw = rand::random();
        if at_start {
            live.heard.lock().get_or_insert_with(Instant::now);
        }
        return;
    }
    tracing::info!(region = %node.inner.options.region, rank, failed = campaign.failed, "asks for votes on the map");
    campaign.tried(&times);
    // A member that stopped asks nobody.
    drop(live.raft.trigger().elect().await);
}

/// Whether a majority of the voters, this one among them, hears no leader and would vote for the log here.
async fn would_win(node: &MapNode, live: &Arc<Live>, others: Vec<RegionId>) -> bool {
    let voters = others.len() + 1;
    if node.hears_leader(live) {
        return false;
    }
    let last = node.last_entry().await;
    let mut votes = 1;
    let mut asked = JoinSet::new();
    for region in others {
        let network = Arc::clone(&node.inner.network);
        asked.spawn(async move { ask(&*network, &region, &Request::WouldVote { last }, SAY).await });
    }
    while votes <= voters / 2 {
        match asked.join_next().await {
            Some(Ok(Ok(Response::WouldVote(would)))) => votes += usize::from(would),
            Some(_) => {}
            None => return false,
        }
    }
    true
}

/// Asks regions how they take part. The set gives answers as they come.
fn ask_all(node: &MapNode, regions: Vec<RegionId>) -> JoinSet<Option<(RegionId, Status)>> {
    let mut asked = JoinSet::new();
    for region in regions {
        let network = Arc::clone(&node.inner.network);
        asked.spawn(async move {
            match ask(&*network, &region, &Request::Status, SAY).await {
                Ok(Response::Status(status)) => Some((region, status)),
                _ => None,
            }
        });
    }
    asked
}

/// The first map: the lowest-ranked of the configured voters begins, once all of them have said that they are pristine,
/// with the stores that they named. A store that was lost later is another member, and finds a map that exists.
async fn initialize(node: &MapNode, live: &Arc<Live>) {
    let options = &node.inner.options;
    let voters = node.first_map().map_voters;
    if voters.first() != Some(&options.region) || live.me.incarnation != 1 || live.me.generation != 0 {
        return;
    }
    let others: Vec<RegionId> = voters.iter().filter(|voter| **voter != options.region).cloned().collect();
    let count = others.len();
    let mut asked = ask_all(node, others);
    let me = Member::new(&options.region, live.me.store, 1, 0);
    let mut members = BTreeMap::from([(me.id(), me)]);
    while let Some(answer) = asked.join_next().await {
        let Ok(Some((region, status))) = answer else { continue };
        if status.pristine && status.version == 0 && status.generation == 0 {
            let member = Member::new(&region, status.store, 1, 0);
            members.insert(member.id(), member);
        }
    }
    if members.len() == count + 1 {
        tracing::info!(region = %options.region, voters = members.len(), "founds the region map");
        if let Err(error) = live.raft.initialize(members).await {
            tracing::warn!(region = %options.region, %error, "the region map was not founded");
        }
    }
}

/// A leader of a consensus without a map proposes the configured one.
async fn found_map(node: &MapNode) {
    if node.inner.applied.map().version == 0 {
        let command = MapCommand::Found(node.first_map());
        // Without an answer it is proposed again at the next pulse.
        drop(node.propose(command, node.inner.options.times.attempt).await);
    }
}
