//! openraft's state machine over the pure map: in memory, with its snapshots on disk. What was applied after the
//! newest snapshot is applied again from the log at a start.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{EntryPayload, ErrorVerb, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use region_model::ports::{MAP_VALUE_BYTES, MapStore, MapSync};
use region_model::region_map::{LeaderLeases, MapAnswer, MapState};
use tokio::sync::watch;

use crate::clock::MapClock;
use crate::raft::{Entry, LogId, Membership, SnapshotMeta, StorageError, TypeConfig};
use crate::records::{self, ReadError, SnapshotRecord};
use crate::store::failed;

/// The map as applied here, and the leases as a leader here would count them. Shared by the machine and the node.
#[derive(Debug)]
pub(crate) struct Applied {
    map: watch::Sender<Arc<MapState>>,
    leases: Mutex<Leases>,
    clock: MapClock,
}

#[derive(Debug)]
struct Leases {
    leases: LeaderLeases,
    /// The term of the consensus in which this member led last.
    led: u64,
}

impl Applied {
    pub(crate) fn new(clock: MapClock) -> Arc<Self> {
        let leases = Mutex::new(Leases { leases: LeaderLeases::new(clock.now()), led: 0 });
        Arc::new(Self { map: watch::Sender::new(Arc::default()), leases, clock })
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<MapState>> {
        self.map.subscribe()
    }

    pub(crate) fn map(&self) -> Arc<MapState> {
        Arc::clone(&self.map.borrow())
    }

    /// What a leader goes by: the map, the leases and the time; `term` is the term of the consensus that it leads in.
    pub(crate) fn as_leader<T>(&self, term: u64, decide: impl FnOnce(&MapState, &LeaderLeases, Duration) -> T) -> T {
        let (map, now) = (self.map(), self.clock.now());
        let mut leases = self.leases.lock();
        if leases.led != term {
            leases.led = term;
            leases.leases.elected(now);
        }
        decide(&map, &leases.leases, now)
    }

    /// The consensus begins anew: its terms count from the start again.
    pub(crate) fn forget_term(&self) {
        self.leases.lock().led = 0;
    }

    /// What a member applied, or a neighbour showed. A member that starts from nothing is behind what was shown before,
    /// and is not shown.
    pub(crate) fn put(&self, map: Arc<MapState>) {
        let shown = self.map();
        if (map.generation, map.version) >= (shown.generation, shown.version) {
            self.leases.lock().leases.applied(&map, self.clock.now());
            self.map.send_replace(map);
        }
    }
}

/// The state machine of one member.
#[derive(Debug)]
pub(crate) struct Machine {
    store: Arc<dyn MapStore>,
    applied: Arc<Applied>,
    map: MapState,
    last: Option<LogId>,
    membership: Membership,
}

impl Machine {
    /// The machine as its newest snapshot left it.
    pub(crate) async fn load(store: Arc<dyn MapStore>, applied: Arc<Applied>) -> Result<Self, ReadError> {
        let snapshot: Option<SnapshotRecord> = records::get(&store, records::SNAPSHOT).await?;
        let mut machine =
            Self { store, applied, map: MapState::default(), last: None, membership: Membership::default() };
        if let Some(SnapshotRecord { meta, map }) = snapshot {
            machine.map = MapState::read(&map)?;
            machine.last = meta.last_log_id;
            machine.membership = meta.last_membership;
        }
        machine.applied.put(Arc::new(machine.map.clone()));
        Ok(machine)
    }

    fn apply_one(&mut self, entry: Entry) -> Option<MapAnswer> {
        self.last = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Membership(membership) => {
                self.membership = Membership::new(Some(entry.log_id), membership);
                None
            }
            EntryPayload::Normal(command) => Some(self.map.apply(&command)),
        }
    }
}

/// A copy of the machine at one moment.
#[derive(Debug)]
pub(crate) struct Builder {
    store: Arc<dyn MapStore>,
    map: MapState,
    meta: SnapshotMeta,
}

async fn save(store: &Arc<dyn MapStore>, record: &SnapshotRecord) -> Result<(), StorageError> {
    let change = records::put(records::key(records::SNAPSHOT), record);
    store.write(vec![change], MapSync::Disk).await.map_err(|error| failed(ErrorVerb::Write, error))
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let record = records::snapshot(&self.meta, &self.map);
        save(&self.store, &record).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(Cursor::new(record.map)) })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Option<MapAnswer>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let answers: Vec<_> = entries.into_iter().map(|entry| self.apply_one(entry)).collect();
        if answers.iter().flatten().any(MapAnswer::changed) {
            self.applied.put(Arc::new(self.map.clone()));
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        let snapshot_id = self.last.map_or_else(|| "0".to_owned(), |last| format!("{}-{}", last.leader_id, last.index));
        let meta = SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone(), snapshot_id };
        Builder { store: Arc::clone(&self.store), map: self.map.clone(), meta }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        if bytes.len() > MAP_VALUE_BYTES {
            return Err(failed(ErrorVerb::Write, hearth_protocol::record::RecordError::Form));
        }
        let map = MapState::read(&bytes).map_err(|error| failed(ErrorVerb::Read, error))?;
        save(&self.store, &SnapshotRecord { meta: meta.clone(), map: bytes }).await?;
        self.map = map;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.applied.put(Arc::new(self.map.clone()));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let record: Result<Option<SnapshotRecord>, ReadError> = records::get(&self.store, records::SNAPSHOT).await;
        let record = record.map_err(|error| failed(ErrorVerb::Read, error))?;
        Ok(record.map(|SnapshotRecord { meta, map }| Snapshot { meta, snapshot: Box::new(Cursor::new(map)) }))
    }
}
