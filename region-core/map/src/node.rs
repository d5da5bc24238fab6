//! One region's part in the map: its member of the consensus, and the way of proposals to the leader.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hearth_protocol::RegionId;
use hearth_protocol::record::Record as _;
use openraft::storage::RaftLogStorage as _;
use openraft::{Config, ServerState, SnapshotPolicy};
use parking_lot::{Mutex, RwLock};
use region_model::ports::{MapStore, StoreError};
use region_model::region_map::{FirstMap, MapAnswer, MapCommand, MapFact, MapRefusal, MapState};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::MapClock;
use crate::machine::{Applied, Machine};
use crate::network::{Network, ask};
use crate::port::{Leadership, MapNetwork, MapOptions, NotDecided, RegionMapLog};
use crate::raft::{Member, Metrics, Raft};
use crate::reach::Reach;
use crate::records::{self, ReadError, SelfRecord};
use crate::store::LogStore;
use crate::wire::{Request, Response, Status};
use crate::{elections, failover, members, reach};

/// openraft's time-out of one message to a member, and so the longest round trip of a link that still carries the map.
const MESSAGE: u64 = 1_000;
/// A voter refuses its vote for this long after it heard a leader. Elections are ours (`elections.rs`): openraft draws
/// its time-out once per process, looks at it every 1.5 message time-outs only, and two voters may tie for ever.
const VOTER_LEASE: (u64, u64) = (1_100, 1_101);
/// Entries after which a snapshot is made: a few minutes of renewals.
const SNAPSHOT_AFTER: u64 = 512;
/// Entries that stay for members that are a little behind.
const KEPT_ENTRIES: u64 = 128;
/// Between two rounds of asking, when nobody took a proposal.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Why a region does not take part.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store does not read or write.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the store holds, or the options, cannot be used.
    #[error("the region map does not start: {0}")]
    Failed(String),
}

impl From<ReadError> for StartError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => Self::Store(error),
            ReadError::Record(error) => Self::Failed(error.to_string()),
        }
    }
}

/// The member that runs now; replaced when the region becomes another one.
pub(crate) struct Live {
    pub(crate) raft: Raft,
    pub(crate) me: SelfRecord,
    pub(crate) id: u64,
    /// When a leader was heard, or a vote given, last.
    pub(crate) heard: Mutex<Option<Instant>>,
    /// Set while a leader gives way: it sends nothing and takes no proposals.
    pub(crate) gives_way: Arc<AtomicBool>,
}

impl std::fmt::Debug for MapNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MapNode").field("region", &self.inner.options.region).finish_non_exhaustive()
    }
}

/// One region's part in the map. Clones are the same part; it ends by [`MapNode::stop`].
#[derive(Clone)]
pub struct MapNode {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: MapOptions,
    pub(crate) store: Arc<dyn MapStore>,
    pub(crate) network: Arc<dyn MapNetwork>,
    pub(crate) clock: MapClock,
    pub(crate) applied: Arc<Applied>,
    pub(crate) reach: Reach,
    /// Fences that were committed here.
    pub(crate) fences: AtomicU64,
    /// Set while the store does not answer.
    pub(crate) away: AtomicBool,
    live: RwLock<Arc<Live>>,
    /// Held while the member is replaced.
    replacing: tokio::sync::Mutex<()>,
    pub(crate) stop: CancellationToken,
    tasks: TaskTracker,
}

impl MapNode {
    /// Starts a region's part. What it held before is read from the store; a store that is new starts empty, and
    /// learns the map from the others, or founds it with all of them.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(
        options: MapOptions,
        store: Arc<dyn MapStore>,
        network: Arc<dyn MapNetwork>,
        clock: MapClock,
    ) -> Result<Self, StartError> {
        if !options.regions.contains(&options.region) {
            return Err(StartError::Failed("the region is not among the regions of the mesh".to_owned()));
        }
        let stored: Option<SelfRecord> = records::get(&store, records::SELF).await?;
        let me = match stored.filter(|me| me.store == options.store) {
            Some(me) => me,
            None => {
                let me = SelfRecord { store: options.store, incarnation: 1, generation: 0 };
                records::start_over(&store, &me, Vec::new()).await?;
                me
            }
        };
        let applied = Applied::new(clock.clone());
        let live = RwLock::new(Arc::new(start_member(&options.region, &store, &network, &applied, me).await?));
        let (replacing, stop, tasks) = (tokio::sync::Mutex::default(), CancellationToken::new(), TaskTracker::new());
        let (reach, fences, away) = (Reach::default(), AtomicU64::new(0), AtomicBool::new(false));
        let inner =
            Inner { options, store, network, clock, applied, reach, fences, away, live, replacing, stop, tasks };
        let node = Self { inner: Arc::new(inner) };
        node.spawn(elections::run(node.clone()));
        node.spawn(members::run(node.clone()));
        node.spawn(reach::run(node.clone()));
        node.spawn(failover::run(node.clone()));
        Ok(node)
    }

    /// A task that ends with the node.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.tasks.spawn(self.inner.stop.clone().run_until_cancelled_owned(task));
    }

    /// Says whether the store of this region does not answer. Meanwhile the region is silent, as one that is gone: it
    /// cannot keep its lease, and whoever counts on it fails it over as the rules of the mesh say.
    pub fn set_away(&self, away: bool) {
        self.inner.away.store(away, Ordering::Relaxed);
    }

    pub(crate) fn is_away(&self) -> bool {
        self.inner.away.load(Ordering::Relaxed)
    }

    /// Answers a request of another region; `None` when it does not read, or the store does not answer.
    pub async fn handle(&self, from: &RegionId, request: Bytes) -> Option<Bytes> {
        let request = match Request::decode(&request) {
            Ok(request) => request,
            Err(error) => {
                tracing::warn!(peer = %from, %error, "a request about the region map does not read");
                return None;
            }
        };
        self.asked_by(from);
        if self.is_away() {
            return None;
        }
        Some(Bytes::from(self.answer(from, request).await.encode()))
    }

    async fn answer(&self, from: &RegionId, request: Request) -> Response {
        let live = self.live();
        match request {
            Request::Append { to, request } if to == live.id => match live.raft.append_entries(request).await {
                Ok(response) => {
                    if !matches!(response, openraft::raft::AppendEntriesResponse::HigherVote(_)) {
                        live.hear();
                    }
                    Response::Append(response)
                }
                Err(_) => Response::Elsewhere,
            },
            Request::Vote { to, request } if to == live.id => match live.raft.vote(request).await {
                Ok(response) => {
                    if response.vote_granted {
                        // Its time for the election that it may win.
                        live.hear();
                    }
                    Response::Vote(response)
                }
                Err(_) => Response::Elsewhere,
            },
            Request::Snapshot { to, request } if to == live.id => match live.raft.install_snapshot(request).await {
                Ok(response) => {
                    live.hear();
                    Response::Snapshot(Some(response))
                }
                Err(openraft::error::RaftError::APIError(_)) => Response::Snapshot(None),
                Err(openraft::error::RaftError::Fatal(_)) => Response::Elsewhere,
            },
            Request::Append { .. } | Request::Vote { .. } | Request::Snapshot { .. } => Response::Elsewhere,
            Request::Propose { command, relay } => self.answer_proposal(from, command, relay).await,
            Request::Status => Response::Status(self.status(&live).await),
            Request::WouldVote { last } => {
                Response::WouldVote(!self.hears_leader(&live) && self.last_entry().await <= last)
            }
            Request::Report { silent } => {
                self.take_report(&live, from, silent);
                Response::Noted
            }
            Request::Map => Response::Map(self.encoded_map()),
        }
    }

    async fn answer_proposal(&self, from: &RegionId, command: MapCommand, relay: bool) -> Response {
        let attempt = self.inner.options.times.attempt;
        if let Some(answer) = self.propose_here(command.clone(), attempt).await {
            return Response::Answer(answer);
        }
        let leader = self.leadership().leader.filter(|leader| relay && leader != from);
        let Some(leader) = leader.filter(|leader| *leader != self.inner.options.region) else {
            return Response::NotLeader;
        };
        let request = Request::Propose { command, relay: false };
        ask(&*self.inner.network, &leader, &request, attempt).await.unwrap_or(Response::NotLeader)
    }

    /// The last entry of the log here. Only who asks for votes depends on it.
    pub(crate) async fn last_entry(&self) -> Option<crate::raft::LogId> {
        LogStore::new(Arc::clone(&self.inner.store)).get_log_state().await.ok()?.last_log_id
    }

    async fn status(&self, live: &Live) -> Status {
        let map = self.inner.applied.map();
        Status {
            store: live.me.store,
            // A store that was brought back from a copy holds what a map before may have owned: it founds none.
            pristine: live.me.incarnation == 1 && !live.raft.is_initialized().await.unwrap_or(true),
            generation: live.me.generation,
            version: map.version,
            hears_leader: self.hears_leader(live),
        }
    }

    /// Whether this member leads or heard a leader within the first rank's window.
    pub(crate) fn hears_leader(&self, live: &Live) -> bool {
        let metrics = live.metrics();
        if metrics.state == ServerState::Leader {
            return !live.gives_way();
        }
        let heard = live.heard.lock().is_some_and(|at| at.elapsed() < self.inner.options.times.election);
        heard && metrics.current_leader.is_some()
    }

    /// Proposes to the member here, if it leads: `None` when it does not, or could not commit in time.
    pub(crate) async fn propose_here(&self, command: MapCommand, patience: Duration) -> Option<MapAnswer> {
        let live = self.live();
        let metrics = live.metrics();
        if metrics.state != ServerState::Leader || live.gives_way() {
            return None;
        }
        let map = self.inner.applied.map();
        // By force only in the consensus of one that this region has begun for it.
        let may_change_voters = match &command {
            MapCommand::NameMapVoter { force: true, .. } => live.me.generation > map.generation,
            other => !other.changes_map_voters() || members::settled(&map, &live),
        };
        let refused = match may_change_voters {
            true => self.admit(&command, metrics.current_term),
            false => Err(MapRefusal::VotersChanging),
        };
        if let Err(reason) = refused {
            return Some(MapAnswer::Refused { version: map.version, reason });
        }
        let answer = timeout(patience, live.raft.client_write(command)).await.ok()?.ok()?.data;
        if let Some(MapAnswer::Changed { fact: MapFact::Fence { .. }, .. }) = &answer {
            self.inner.fences.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    /// One attempt by each way to the leader that there is: here, directly, then through each other region.
    async fn propose_once(&self, command: &MapCommand, deadline: Instant) -> Option<MapAnswer> {
        let inner = &self.inner;
        let attempt = inner.options.times.attempt;
        if let Some(answer) = self.propose_here(command.clone(), attempt).await {
            return Some(answer);
        }
        let leader = self.leadership().leader.filter(|leader| *leader != inner.options.region);
        let others = self.others().into_iter().filter(|region| Some(region) != leader.as_ref());
        let ways = leader.clone().map(|leader| (leader, attempt)).into_iter();
        for (region, patience) in ways.chain(others.map(|region| (region, attempt * 2))) {
            if Instant::now() >= deadline {
                return None;
            }
            let relay = Some(&region) != leader.as_ref();
            let request = Request::Propose { command: command.clone(), relay };
            let asked = ask(&*inner.network, &region, &request, patience);
            if let Ok(Ok(Response::Answer(answer))) = timeout_at(deadline, asked).await {
                return Some(answer);
            }
        }
        None
    }

    /// The other regions that are known: those of the map, and those of the configuration.
    pub(crate) fn others(&self) -> Vec<RegionId> {
        let map = self.inner.applied.map();
        let voters = map.map_voters.iter();
        let members = map.members().map(|entry| &entry.region);
        let mut seen = BTreeSet::from([&self.inner.options.region]);
        let all = voters.chain(members).chain(&self.inner.options.regions);
        all.filter(|region| seen.insert(region)).cloned().collect()
    }

    /// The member that runs now.
    pub(crate) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.inner.live.read())
    }

    /// The first map, by the configuration.
    pub(crate) fn first_map(&self) -> FirstMap {
        FirstMap::of(self.inner.options.regions.clone())
    }

    /// The region takes part as another member from now on: the one before is forgotten.
    ///
    /// # Errors
    /// [`StartError`]; the region takes part no more.
    pub(crate) async fn become_member(&self, me: SelfRecord, seed: Option<&MapState>) -> Result<(), StartError> {
        let inner = &self.inner;
        let _alone = inner.replacing.lock().await;
        if self.live().me == me {
            return Ok(());
        }
        tracing::info!(region = %inner.options.region, incarnation = me.incarnation, generation = me.generation,
            "takes part in the region map as a new member");
        self.live().raft.shutdown().await.map_err(|error| StartError::Failed(error.to_string()))?;
        let more = seed.map(|map| members::seed(&inner.options.region, &me, map)).unwrap_or_default();
        records::start_over(&inner.store, &me, more).await?;
        inner.applied.forget_term();
        let live = start_member(&inner.options.region, &inner.store, &inner.network, &inner.applied, me).await?;
        *inner.live.write() = Arc::new(live);
        Ok(())
    }

    /// On the operator's word that a majority of the map's voters is down: this region becomes the one map voter, and all
    /// others are fenced and start fenced. The map as this region has it goes on.
    ///
    /// # Errors
    /// [`StartError::Failed`] before there is a map; else of the store, or when the map does not answer within
    /// `patience`.
    pub async fn name_map_voter_by_force(&self, patience: Duration) -> Result<MapAnswer, StartError> {
        let map = self.inner.applied.map();
        if map.version == 0 {
            return Err(StartError::Failed(MapRefusal::NotFounded.to_string()));
        }
        let region = self.inner.options.region.clone();
        if map.map_voters != [region.clone()] {
            let me = SelfRecord { generation: map.generation + 1, ..self.live().me.clone() };
            self.become_member(me, Some(&map)).await?;
        }
        let command = MapCommand::NameMapVoter { region, force: true, seen: map.changed };
        self.propose(command, patience).await.map_err(|error| StartError::Failed(error.to_string()))
    }

    /// Ends this part: what was answered is on disk. Others notice by silence.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        // A member that panicked has stopped, too.
        drop(self.live().raft.shutdown().await);
    }
}

#[async_trait]
impl RegionMapLog for MapNode {
    async fn propose(&self, command: MapCommand, patience: Duration) -> Result<MapAnswer, NotDecided> {
        let deadline = Instant::now() + patience;
        loop {
            if self.inner.stop.is_cancelled() {
                return Err(NotDecided::Stopped);
            }
            if let Some(answer) = self.propose_once(&command, deadline).await {
                return Ok(answer);
            }
            if Instant::now() + ASK_AGAIN >= deadline {
                return Err(NotDecided::Unknown);
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    fn watch(&self) -> watch::Receiver<Arc<MapState>> {
        self.inner.applied.watch()
    }

    fn leadership(&self) -> Leadership {
        let live = self.live();
        let metrics = live.metrics();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let name = |id: u64| membership.get_node(&id).and_then(Member::region_id);
        let mut leadership = Leadership {
            leader: metrics.current_leader.and_then(name),
            is_here: metrics.state == ServerState::Leader,
            term: metrics.current_term,
            changing: membership.get_joint_config().len() > 1,
            ..Leadership::default()
        };
        for (id, member) in membership.nodes() {
            let regions = if voters.contains(id) { &mut leadership.voters } else { &mut leadership.learners };
            regions.extend(member.region_id());
        }
        leadership.voters.sort();
        leadership.learners.sort();
        leadership
    }
}

impl Live {
    fn hear(&self) {
        *self.heard.lock() = Some(Instant::now());
    }

    pub(crate) fn gives_way(&self) -> bool {
        self.gives_way.load(Ordering::Relaxed)
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow().clone()
    }
}

async fn start_member(
    region: &RegionId,
    store: &Arc<dyn MapStore>,
    network: &Arc<dyn MapNetwork>,
    applied: &Arc<Applied>,
    me: SelfRecord,
) -> Result<Live, StartError> {
    let config = Config {
        cluster_name: "region-map".to_owned(),
        heartbeat_interval: MESSAGE,
        election_timeout_min: VOTER_LEASE.0,
        election_timeout_max: VOTER_LEASE.1,
        install_snapshot_timeout: 2 * MESSAGE,
        max_payload_entries: 64,
        replication_lag_threshold: SNAPSHOT_AFTER / 2,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_AFTER),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        purge_batch_size: 32,
        enable_elect: false,
        enable_heartbeat: false,
        ..Config::default()
    };
    let failed = |error: &dyn std::fmt::Display| StartError::Failed(error.to_string());
    let config = Arc::new(config.validate().map_err(|error| failed(&error))?);
    let id = Member::new(region, me.store, me.incarnation, me.generation).id();
    let machine = Machine::load(Arc::clone(store), Arc::clone(applied)).await?;
    let log = LogStore::new(Arc::clone(store));
    let gives_way = Arc::new(AtomicBool::new(false));
    let network = Network { network: Arc::clone(network), gives_way: Arc::clone(&gives_way) };
    let raft = Raft::new(id, config, network, log, machine).await.map_err(|error| failed(&error))?;
    Ok(Live { raft, me, id, heard: Mutex::new(None), gives_way })
}
