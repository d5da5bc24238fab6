//! Keeps a region's lease: counts on disk, asks, and says whether the region may sequence now.

use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::RegionId;
use parking_lot::Mutex;
use region_model::ownership::Right;
use region_model::ports::{MapStore, MapSync};
use region_model::region_map::{HolderLease, MapCommand, MapFact, MapRefusal, RegionState};
use uuid::Uuid;

use crate::clock::MapClock;
use crate::node::{MapNode, StartError};
use crate::port::{NotDecided, RegionMapLog};
use crate::records::{self, CounterRecord, FenceRecord, ReadError, SelfRecord};

/// The lease of a region, as it may believe in it. Clones are the same lease.
#[derive(Clone, Debug)]
pub struct LeaseView {
    lease: Arc<Mutex<HolderLease>>,
    clock: MapClock,
}

impl LeaseView {
    /// Whether the region may sequence now. To be asked after the append, just before the ack (design.md 4.1).
    #[must_use]
    pub fn may_sequence(&self) -> bool {
        self.lease.lock().may_sequence(self.clock.now())
    }

    /// What is left of the lease; zero without one.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.lease.lock().remaining(self.clock.now())
    }

    /// The region's right to sequence now, for [`Right::covers`]: to be read when [`LeaseView::may_sequence`] is.
    #[must_use]
    pub fn right(&self) -> Right {
        self.lease.lock().right(self.clock.now())
    }

    /// The term of the lease held last.
    #[must_use]
    pub fn term(&self) -> Option<u64> {
        self.lease.lock().term()
    }
}

/// Why a renewal gave no lease.
#[derive(Debug, thiserror::Error)]
enum NotRenewed {
    #[error(transparent)]
    NotDecided(#[from] NotDecided),
    #[error("the map refused: {0}")]
    Refused(#[from] MapRefusal),
    #[error(transparent)]
    Store(#[from] ReadError),
    #[error(transparent)]
    Member(#[from] StartError),
}

/// What a round came to.
enum Step {
    /// The region holds its lease.
    Held,
    /// Something stood in the way and does no longer: ask at once.
    Again,
}

/// Renews a region's lease for as long as its node runs.
#[derive(Debug)]
pub struct LeaseKeeper {
    node: MapNode,
    region: RegionId,
    store: Uuid,
    map: Arc<dyn MapStore>,
    view: LeaseView,
    counter: u64,
    /// The newest fence that is known, as it is on disk.
    fence: u64,
    /// Whether the map knows the store of this region, which follows and does not take part yet.
    followed: bool,
}

impl LeaseKeeper {
    /// Starts to keep the lease of the node's region.
    ///
    /// # Errors
    /// The store does not read.
    pub async fn start(node: &MapNode) -> Result<LeaseView, StartError> {
        let inner = &node.inner;
        let stored: Option<CounterRecord> = records::get(&inner.store, records::COUNTER).await?;
        let fence: Option<FenceRecord> = records::get(&inner.store, records::FENCE).await?;
        let view = LeaseView { lease: Arc::default(), clock: inner.clock.clone() };
        let keeper = Self {
            node: node.clone(),
            region: inner.options.region.clone(),
            store: inner.options.store,
            map: Arc::clone(&inner.store),
            view: view.clone(),
            counter: stored.map_or(0, |stored| stored.0),
            fence: fence.map_or(0, |fence| fence.0),
            followed: false,
        };
        node.spawn(keeper.run());
        Ok(view)
    }

    async fn run(mut self) {
        let times = self.node.inner.options.times;
        let mut told = false;
        loop {
            let began = tokio::time::Instant::now();
            match self.renew().await {
                Ok(Step::Again) => continue,
                Ok(Step::Held) => {
                    if std::mem::take(&mut told) {
                        tracing::info!(region = %self.region, "the region holds its lease again");
                    }
                }
                Err(NotRenewed::Store(error)) => {
                    tracing::error!(region = %self.region, %error, "the lease is kept no longer");
                    return;
                }
                Err(error) => {
                    // A mesh that starts has no map for a moment.
                    if !told && !matches!(error, NotRenewed::Refused(MapRefusal::NotFounded)) {
                        told = true;
                        tracing::warn!(region = %self.region, %error, "the lease was not renewed");
                    }
                    tokio::time::sleep(times.look).await;
                    continue;
                }
            }
            tokio::time::sleep_until(began + times.renew).await;
        }
    }

    /// One renewal, whatever it takes: the region comes back from a fence that it knows, and takes an incarnation when
    /// the map knows another store.
    async fn renew(&mut self) -> Result<Step, NotRenewed> {
        let me = self.node.live().me.clone();
        let first = self.view.lease.lock().first_question(self.counter);
        if first.is_none() {
            self.count().await?;
            self.view.lease.lock().ask(self.counter, self.view.clock.now());
        }
        let (counter, milliseconds) = (self.counter, self.lease_milliseconds());
        let times = self.node.inner.options.times;
        let command = MapCommand::Renew {
            region: self.region.clone(),
            store: self.store,
            incarnation: me.incarnation,
            counter,
            milliseconds,
        };
        // At a start there may be no leader for a moment: whoever comes first is asked soon.
        let patience = if self.view.term().is_some() { times.renew } else { times.attempt };
        let answer = self.node.propose(command, patience).await?;
        if first.is_some() && self.view.lease.lock().answered_first(counter, answer.fact()) {
            return Ok(Step::Again);
        }
        match answer.fact() {
            Ok(MapFact::Lease { term, milliseconds, generation }) => {
                self.note(*generation).await?;
                self.view.lease.lock().granted(counter, *term, *milliseconds, *generation);
                Ok(Step::Held)
            }
            Ok(_) => Ok(Step::Held),
            Err(MapRefusal::OtherStore { incarnation, term, .. }) => self.take_incarnation(*incarnation, *term).await,
            Err(MapRefusal::OlderStore(_)) => {
                let term = self.node.watch().borrow().region(&self.region).map_or(0, |entry| entry.term);
                self.take_incarnation(me.incarnation, term).await
            }
            Err(MapRefusal::State(RegionState::Fenced)) => self.come_back(me.incarnation).await,
            Err(refusal @ MapRefusal::State(RegionState::Following)) => {
                if !self.followed {
                    self.follow(me.incarnation).await?;
                }
                Err(refusal.clone().into())
            }
            Err(refusal) => Err(refusal.clone().into()),
        }
    }

    fn lease_milliseconds(&self) -> u32 {
        u32::try_from(self.node.inner.options.times.lease.as_millis()).unwrap_or(u32::MAX)
    }

    /// The next counter is on disk before it is used.
    async fn count(&mut self) -> Result<(), ReadError> {
        let next = self.counter + 1;
        let change = records::put(records::key(records::COUNTER), &CounterRecord(next));
        self.map.write(vec![change], MapSync::Disk).await?;
        self.counter = next;
        Ok(())
    }

    /// A fence is on disk before the region returns from it, and before it uses a lease that was granted after it.
    async fn note(&mut self, fence: u64) -> Result<(), ReadError> {
        if fence > self.fence {
            let change = records::put(records::key(records::FENCE), &FenceRecord(fence));
            self.map.write(vec![change], MapSync::Disk).await?;
            self.fence = fence;
        }
        Ok(())
    }

    /// The map knows another store, or a newer one than this: what it owned is over. The map answers once the lease of
    /// the incarnation before must have lapsed.
    async fn take_incarnation(&mut self, replaces: u64, term: u64) -> Result<Step, NotRenewed> {
        self.view.lease.lock().ended();
        let command = MapCommand::TakeIncarnation {
            region: self.region.clone(),
            store: self.store,
            counter: self.counter,
            replaces,
            term,
        };
        let answer = self.node.propose(command, self.node.inner.options.times.renew).await?;
        let fact = answer.fact().map_err(Clone::clone)?;
        self.view.lease.lock().answered_first(self.counter, Ok(fact));
        if let MapFact::Incarnation { incarnation, .. } = fact {
            tracing::info!(region = %self.region, incarnation, "the store has an incarnation of the map");
            let me = SelfRecord { incarnation: *incarnation, ..self.node.live().me.clone() };
            self.node.become_member(me, None).await?;
        }
        Ok(Step::Again)
    }

    /// The region was added, and gets no lease before an operator lets it take part. The map learns its store meanwhile:
    /// only then is the region sent the map, and only then may it take part.
    async fn follow(&mut self, incarnation: u64) -> Result<(), NotRenewed> {
        let command = MapCommand::TakeIncarnation {
            region: self.region.clone(),
            store: self.store,
            counter: self.counter,
            replaces: incarnation.saturating_sub(1),
            term: 0,
        };
        let answer = self.node.propose(command, self.node.inner.options.times.renew).await?;
        match answer.fact() {
            Ok(_) => {}
            // It was a part of the mesh before, with this store or another one.
            Err(MapRefusal::OtherStore { incarnation, term, .. }) => {
                self.take_incarnation(*incarnation, *term).await?;
            }
            Err(MapRefusal::Renewed(term)) => {
                self.take_incarnation(incarnation.saturating_sub(1), *term).await?;
            }
            Err(refusal) => return Err(refusal.clone().into()),
        }
        self.followed = true;
        Ok(())
    }

    /// The region was fenced: it holds nothing, and says so before it may hold a lease again.
    async fn come_back(&mut self, incarnation: u64) -> Result<Step, NotRenewed> {
        self.view.lease.lock().ended();
        let fence = self.node.watch().borrow().region(&self.region).map_or(0, |entry| entry.fence);
        self.note(fence).await?;
        let command = MapCommand::Return { region: self.region.clone(), incarnation, fence };
        let answer = self.node.propose(command, self.node.inner.options.times.renew).await?;
        match answer.fact() {
            Ok(_) => Ok(Step::Again),
            // It was fenced as another store than this one.
            Err(MapRefusal::OtherStore { incarnation, term, .. }) => self.take_incarnation(*incarnation, *term).await,
            Err(refusal) => Err(refusal.clone().into()),
        }
    }
}
