//! Loss statements: what epochs that opened after a failover may lack, and how much of it has come back (design.md 4.6).
//!
//! A statement stands in the placement that opened the epoch, and so in the placement log of its slot for good. What may
//! be missing is on the disk of the home that was replaced: once that region accepted the epoch, what its line had
//! beyond the fork is its tail, which is offered to the present home in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hearth_protocol::{Change, LogId, LogKind, LossStatement, Placement, Position, RegionId, Slot};
use region_model::is_by_id;
use region_model::ports::{DedupKey, LogSummary, StoreError};
use region_model::region_map::RegionState;
use tokio::time::{Instant, sleep};

use crate::region::Region;
use crate::runtime::wall;

/// Logs, entries of placement logs and entries of tails that are read at once.
const PAGE: usize = 512;
/// Bytes of one read of a placement log.
const PAGE_BYTES: usize = 1024 * 1024;
/// The sweep that counts open statements rests for so long at least.
const SWEEP: Duration = Duration::from_secs(5);
/// And for so many times as long as it took.
const REST: u32 = 50;

/// One loss statement, as one region knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The log.
    pub log: LogId,
    /// Its home now.
    pub home: RegionId,
    /// The epoch that opened with the statement.
    pub epoch: u64,
    /// The first sequence of that epoch.
    pub first: u64,
    /// The statement; `None` where the placement log of its slot is not held here.
    pub statement: Option<LossStatement>,
    /// Whether this region accepted the epoch or a later one: what it had beyond the fork is apart by then.
    pub accepted: bool,
    /// Entries of this region's tail that the statement names.
    pub tail: u64,
    /// Of those, how many are in the line again.
    pub back: u64,
    /// Whether the present home took or refused all of this region's tail.
    pub settled: bool,
}

impl Loss {
    /// Whether all that `region` has of what may be missing was taken up. Only of the region that answers.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.accepted && (self.tail == self.back || self.settled)
    }
}

/// The statements of the logs of one slot: epoch, its first sequence, what it says.
type Statements = BTreeMap<LogId, Vec<(u64, u64, LossStatement)>>;

/// What one walk has read so far beside the logs.
#[derive(Default)]
struct Known {
    /// Logs of which a tail is kept here.
    tails: BTreeSet<LogId>,
    slots: BTreeMap<u16, Statements>,
}

/// Counts open statements for `/metrics` until the region stops.
pub(crate) async fn run(region: Arc<Region>) {
    let mut failed = region.store.failed.subscribe();
    let sweeps = async {
        loop {
            let began = Instant::now();
            match region.losses_if_any().await {
                Ok(losses) => {
                    let open = losses.iter().filter(|loss| region.counts_as_open(loss)).count();
                    region.counters.open_losses.store(open as u64, Ordering::Relaxed);
                }
                Err(error) => region.fail(&error.to_string()),
            }
            sleep(SWEEP.max(began.elapsed() * REST)).await;
        }
    };
    tokio::select! {
        () = Region::until_failed(&mut failed) => {}
        () = sweeps => {}
    }
}

impl Region {
    /// A mesh that never fenced a region never failed over a home: there is nothing to be walked for.
    async fn losses_if_any(&self) -> Result<Vec<Loss>, StoreError> {
        let fenced = self.ownership.map().borrow().regions.iter().any(|entry| entry.fence > 0);
        if fenced { self.losses().await } else { Ok(Vec::new()) }
    }

    /// Every loss statement of conversations and users' records that this region knows.
    pub(crate) async fn losses(&self) -> Result<Vec<Loss>, StoreError> {
        let mut losses = Vec::new();
        let mut known = Known::default();
        loop {
            let tails = self.stores.log.tails(known.tails.last().copied(), PAGE).await?;
            let full = tails.len() == PAGE;
            known.tails.extend(tails);
            if !full {
                break;
            }
        }
        for kind in [LogKind::Conversation, LogKind::User] {
            let mut after = None;
            loop {
                let page = self.stores.log.logs(kind, after, PAGE).await?;
                after = page.last().map(|summary| summary.log);
                for summary in &page {
                    self.losses_of(summary, &mut known, &mut losses).await?;
                }
                if page.len() < PAGE {
                    break;
                }
                // Others have their turn between two pages.
                tokio::task::yield_now().await;
            }
        }
        Ok(losses)
    }

    /// Over all regions each open statement counts once: where the home was that was replaced, or, while that region is
    /// fenced or gone for good, at the present home.
    fn counts_as_open(&self, loss: &Loss) -> bool {
        let Some(statement) = &loss.statement else { return false };
        if statement.lost_home == *self.me() {
            return !loss.is_settled();
        }
        let map = self.ownership.map();
        let map = map.borrow();
        let state = map.region(&statement.lost_home).map(|entry| entry.state);
        loss.home == *self.me() && matches!(state, None | Some(RegionState::Fenced | RegionState::Removed))
    }

    async fn losses_of(
        &self,
        summary: &LogSummary,
        known: &mut Known,
        losses: &mut Vec<Loss>,
    ) -> Result<(), StoreError> {
        let LogSummary { log, record, .. } = summary;
        let placement = self.stores.placements.placement(*log).await?;
        let placed = placement.as_ref().filter(|placement| placement.epoch >= record.accepted);
        let is_behind = placed.is_some_and(|placement| placement.epoch > record.accepted);
        let stated = placed.is_some_and(|placement| placement.loss.is_some());
        let opened = record.openings.iter().any(|opening| opening.loss);
        if !stated && !opened && !is_behind && !known.tails.contains(log) {
            return Ok(());
        }
        let home = placed.map_or(&record.home, |placement| &placement.home);
        let found = self.statements_of(*log, known).await?;
        let first = losses.len();
        for (epoch, first, statement) in found {
            losses.push(Loss {
                log: *log,
                home: home.clone(),
                epoch,
                first,
                statement: Some(statement),
                accepted: record.accepted.0 >= epoch,
                tail: 0,
                back: 0,
                settled: true,
            });
        }
        if losses.len() == first {
            losses.extend(unexplained(summary, placed, home));
        }
        self.look_at_tail(*log, &mut losses[first..]).await
    }

    /// The statements about a log, oldest first, as the placement log of its slot has them; none where that is not here.
    async fn statements_of(&self, log: LogId, known: &mut Known) -> Result<Vec<(u64, u64, LossStatement)>, StoreError> {
        let slot = Slot::of(&log);
        if let Some(statements) = known.slots.get(&slot.0) {
            return Ok(statements.get(&log).cloned().unwrap_or_default());
        }
        let statements = self.statements_of_slot(slot).await?;
        let found = statements.get(&log).cloned().unwrap_or_default();
        known.slots.insert(slot.0, statements);
        Ok(found)
    }

    async fn statements_of_slot(&self, slot: Slot) -> Result<Statements, StoreError> {
        let mut statements = Statements::new();
        let mut from = 0;
        loop {
            let page = self.stores.log.read(LogId::placement(slot), from, u64::MAX, PAGE, PAGE_BYTES).await?;
            let Some(last) = page.last() else { return Ok(statements) };
            from = last.sequence().0 + 1;
            for entry in &page {
                let Some(Change::Place { placement, .. }) = entry.change() else { continue };
                let Some(loss) = placement.loss else { continue };
                let known = statements.entry(placement.log).or_default();
                // A move carries the statement of before on.
                if known.last().is_none_or(|(_, _, before)| *before != loss) {
                    known.push((placement.epoch.0, placement.first, loss));
                }
            }
        }
    }

    /// Counts what this region's tail of a log has of each statement.
    async fn look_at_tail(&self, log: LogId, losses: &mut [Loss]) -> Result<(), StoreError> {
        let window = u64::try_from(self.options.dedup_window.as_millis()).unwrap_or(u64::MAX);
        let remembered_since = wall().0.saturating_sub(window);
        let mut after: Option<Position> = None;
        loop {
            let page = self.stores.log.read_tail(log, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.entry.fixed.position);
            let by_id: Vec<_> = page.iter().filter(|entry| is_by_id(entry.entry.fixed.kind)).collect();
            let keys = by_id.iter().map(|entry| {
                let fixed = &entry.entry.fixed;
                DedupKey { log, sender: fixed.sender.clone(), id: fixed.id }
            });
            let known = self.stores.log.dedup(keys.collect()).await?;
            for (entry, known) in by_id.iter().zip(known) {
                let fixed = &entry.entry.fixed;
                let Some(loss) = losses.iter_mut().find(|loss| loss.names(fixed.position)) else { continue };
                loss.tail += 1;
                // Of what is older nothing is remembered: it came back, or was refused, long ago.
                loss.back += u64::from(known.is_some() || fixed.time.0 < remembered_since);
            }
        }
        if losses.iter().any(|loss| loss.tail > loss.back) {
            let settled = self.view(log, false).await.is_ok_and(|view| view.tail_settled == Some(true));
            losses.iter_mut().for_each(|loss| loss.settled = settled);
        }
        Ok(())
    }
}

impl Loss {
    /// Whether a position of an older line may be missing by this statement.
    fn names(&self, position: Position) -> bool {
        let from = self.statement.as_ref().map_or((0, 0), |statement| (statement.epoch.0, statement.from));
        position.epoch.0 < self.epoch && (position.epoch.0, position.sequence.0) >= from
    }
}

/// Statements that are known of without what they say.
fn unexplained<'a>(
    summary: &'a LogSummary,
    placed: Option<&'a Placement>,
    home: &'a RegionId,
) -> impl Iterator<Item = Loss> + 'a {
    let accepted = summary.record.accepted.0;
    let opened = summary.record.openings.iter().filter(|opening| opening.loss);
    let opened = opened.map(|opening| (opening.epoch.0, opening.first, None));
    let placed = placed
        .filter(|placement| placement.epoch.0 > accepted)
        .and_then(|placement| placement.loss.clone().map(|loss| (placement.epoch.0, placement.first, Some(loss))));
    opened.chain(placed).map(move |(epoch, first, statement)| Loss {
        log: summary.log,
        home: home.clone(),
        epoch,
        first,
        statement,
        accepted: accepted >= epoch,
        tail: 0,
        back: 0,
        settled: true,
    })
}
