//! The leader makes the consensus follow the map: members are added, promoted and taken away one at a time.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::RegionId;
use openraft::{ChangeMembers, CommittedLeaderId, Membership, ServerState, StoredMembership};
use region_model::ports::MapChange;
use region_model::region_map::{MapState, RegionState};
use tokio::time::timeout;

use crate::node::{Live, MapNode};
use crate::raft::{LogId, Member, Metrics, SnapshotMeta, Vote};
use crate::records::{self, LogIdRecord, SelfRecord, VoteRecord};

/// Entries that a learner may lack and still be promoted.
const CAUGHT_UP: u64 = 64;

/// What the consensus should be: members, and which of them vote.
struct Wanted {
    members: BTreeMap<u64, Member>,
    voters: BTreeSet<u64>,
}

/// A voter of the first map takes part before the map knows its store: it is the member that the founding named.
fn wanted(map: &MapState, live: &Live, metrics: &Metrics) -> Wanted {
    let now = metrics.membership_config.membership();
    let mut wanted = Wanted { members: BTreeMap::new(), voters: BTreeSet::new() };
    for entry in map.regions.iter().filter(|entry| entry.state != RegionState::Removed) {
        let member = match entry.store {
            Some(mark) => Member::new(&entry.region, mark.store, mark.incarnation, live.me.generation),
            None => match now.nodes().find(|(_, member)| member.region == entry.region.as_str()) {
                Some((_, member)) => member.clone(),
                None => continue,
            },
        };
        let id = member.id();
        if map.map_voters.contains(&entry.region) {
            wanted.voters.insert(id);
        }
        wanted.members.insert(id, member);
    }
    wanted
}

/// Whether the voters of the consensus are those of the map, and no change is under way.
pub(crate) fn settled(map: &MapState, live: &Live) -> bool {
    let metrics = live.metrics();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    membership.get_joint_config().len() == 1 && voters == wanted(map, live, &metrics).voters
}

/// Runs until the node stops.
pub(crate) async fn run(node: MapNode) {
    loop {
        tokio::time::sleep(node.inner.options.times.look).await;
        let live = node.live();
        let metrics = live.metrics();
        let map = node.inner.applied.map();
        if metrics.state != ServerState::Leader || live.gives_way() || map.version == 0 {
            continue;
        }
        if let Some((changes, retain)) = next_change(&map, &live, &metrics) {
            let change = live.raft.change_membership(changes, retain);
            match timeout(node.inner.options.times.attempt * 4, change).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a change of the map's members was not made"),
                Err(_) => tracing::debug!("a change of the map's members takes long"),
            }
        }
    }
}

/// The next step towards what the map wants; `None` when there is none that can be made now.
fn next_change(map: &MapState, live: &Live, metrics: &Metrics) -> Option<(ChangeMembers<u64, Member>, bool)> {
    let membership = metrics.membership_config.membership();
    let wanted = wanted(map, live, metrics);
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    if membership.get_joint_config().len() > 1 {
        // A change that another leader began is brought to its end, whatever it was.
        let last = membership.get_joint_config().last()?.clone();
        return Some((ChangeMembers::ReplaceAllVoters(last), true));
    }
    if let Some((id, member)) = wanted.members.iter().find(|(id, _)| membership.get_node(id).is_none()) {
        return Some((ChangeMembers::AddNodes(BTreeMap::from([(*id, member.clone())])), true));
    }
    let coming = wanted.voters.iter().find(|id| !voters.contains(id) && caught_up(metrics, **id)).copied();
    let going = voters.iter().find(|id| !wanted.voters.contains(id)).copied();
    let mut next = voters.clone();
    next.extend(coming);
    if let Some(going) = going
        && (coming.is_some() || next.len() > wanted.voters.len())
    {
        next.remove(&going);
    }
    if next != voters && !next.is_empty() {
        return Some((ChangeMembers::ReplaceAllVoters(next), true));
    }
    let extra = membership.nodes().map(|(id, _)| *id).find(|id| !wanted.members.contains_key(id));
    let extra = extra.filter(|id| !voters.contains(id))?;
    Some((ChangeMembers::RemoveNodes(BTreeSet::from([extra])), true))
}

fn caught_up(metrics: &Metrics, id: u64) -> bool {
    let matched = metrics.replication.as_ref().and_then(|members| members.get(&id)).and_then(|matched| *matched);
    matched.is_some_and(|matched| matched.index + CAUGHT_UP >= metrics.last_log_index.unwrap_or(0))
}

/// A consensus of one member that begins with a map: its snapshot, and nothing else.
pub(crate) fn seed(region: &RegionId, me: &SelfRecord, map: &MapState) -> Vec<MapChange> {
    let member = Member::new(region, me.store, me.incarnation, me.generation);
    let id = member.id();
    let begin = LogId::new(CommittedLeaderId::new(1, id), 1);
    let membership = Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, member)]));
    let meta = SnapshotMeta {
        last_log_id: Some(begin),
        last_membership: StoredMembership::new(Some(begin), membership),
        snapshot_id: format!("generation-{}", me.generation),
    };
    vec![
        records::put(records::key(records::SNAPSHOT), &records::snapshot(&meta, map)),
        records::put(records::key(records::PURGED), &LogIdRecord(Some(begin))),
        records::put(records::key(records::COMMITTED), &LogIdRecord(Some(begin))),
        records::put(records::key(records::VOTE), &VoteRecord(Vote::new(1, id))),
    ]
}
