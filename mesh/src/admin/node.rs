//! What administration knows of its node, and what it reads.

use std::sync::Arc;
use std::time::Duration;

use edge_gateway::GatewayHandle;
use hearth_protocol::admin::{
    CopyRow, HomeRow, LossRow, LossStatementRow, Losses, NodeStatus, ParkedPage, ParkedRow, RegionRow, Status,
};
use hearth_protocol::{ConversationId, LogId, LogKind, Placement, RegionId, RegionMap};
use region_core::{Loss, Readiness, RegionHandle};
use region_map::{LeaseView, MapNode, RegionMapLog as _};
use region_model::ports::{LogSummary, StoreError, Stores};
use region_model::region_map::{MapState, RegionState};
use replication::LinksHandle;

use tokio_util::sync::CancellationToken;

use super::audit::Audit;
use super::mover::Mover;
use crate::backup::Source;

/// Logs read at once.
const PAGE: usize = 512;
/// Rows of one answer.
pub(super) const ROWS: usize = 1_000;
/// Kinds whose home is a region's to have; placement logs go with the slots.
pub(super) const MOVABLE: [LogKind; 2] = [LogKind::Conversation, LogKind::User];

/// One node, as its administrators see it.
#[derive(Debug)]
pub(crate) struct AdminNode {
    pub(crate) region: RegionId,
    pub(crate) stores: Stores,
    pub(crate) map: MapNode,
    pub(crate) lease: LeaseView,
    pub(crate) links: LinksHandle,
    pub(crate) handle: RegionHandle,
    pub(crate) gateway: Arc<GatewayHandle>,
    pub(crate) mover: Arc<dyn Mover>,
    pub(crate) audit: Audit,
    /// The regions in their configured order, by which slots are dealt at first.
    pub(crate) configured: RegionMap,
    /// The change under way: what it is, for whoever asks for another one.
    pub(crate) under_way: parking_lot::Mutex<Option<String>>,
    /// What a copy of the region is made of.
    pub(crate) backup: Source,
    /// Cancelled when the region stops.
    pub(crate) stop: CancellationToken,
}

/// A log that is held here, and where it lives.
#[derive(Clone, Debug)]
pub(super) struct Owned {
    pub(super) log: LogId,
    pub(super) home: RegionId,
    pub(super) voters: Vec<RegionId>,
    /// Its placement, where that is the newest word of it that is known here.
    pub(super) placement: Option<Placement>,
    /// Epochs that opened with a loss statement.
    pub(super) losses: u64,
}

impl Owned {
    /// After a failover or a move a placement is known before the log accepts its epoch; an epoch may be accepted before
    /// its placement is known.
    fn of(summary: LogSummary, placement: Option<Placement>) -> Self {
        let LogSummary { log, record, .. } = summary;
        let losses = record.openings.iter().filter(|opening| opening.loss).count() as u64;
        match placement.filter(|placement| placement.epoch >= record.accepted) {
            Some(placement) => {
                let (home, voters) = (placement.home.clone(), placement.voters.clone());
                Self { log, home, voters, placement: Some(placement), losses }
            }
            None => Self { log, home: record.home, voters: record.voters, placement: None, losses },
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl AdminNode {
    /// The map as applied here.
    pub(super) fn map_state(&self) -> Arc<MapState> {
        Arc::clone(&self.map.watch().borrow())
    }

    pub(super) fn is_up(&self, region: &RegionId) -> bool {
        *region == self.region || self.links.is_up(region.as_str())
    }

    /// Conversations and users' records that are held here, with where they live: as the newest
    /// word of them says, which a placement may be and what the log itself accepted.
    pub(super) async fn owned_logs(&self, mut look: impl FnMut(Owned)) -> Result<(), StoreError> {
        for kind in MOVABLE {
            let mut after = None;
            loop {
                let page = self.stores.log.logs(kind, after, PAGE).await?;
                let full = page.len() == PAGE;
                after = page.last().map(|summary| summary.log);
                for summary in page {
                    let placement = self.stores.placements.placement(summary.log).await?;
                    look(Owned::of(summary, placement));
                }
                if !full {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Conversations and users' records whose home is `home`, of those that are held here.
    pub(super) async fn homes_of(&self, home: &RegionId) -> Result<Vec<Owned>, StoreError> {
        let mut logs = Vec::new();
        self.owned_logs(|owned| {
            if owned.home == *home {
                logs.push(owned);
            }
        })
        .await?;
        Ok(logs)
    }

    pub(super) async fn status(&self) -> Result<Status, StoreError> {
        let map = self.map_state();
        let regions = map.members().map(|entry| {
            let here = entry.region == self.region;
            let round_trip = self.links.round_trip(entry.region.as_str()).filter(|_| !here);
            RegionRow {
                region: entry.region.clone(),
                state: entry.state.as_str().to_owned(),
                map_voter: map.map_voters.contains(&entry.region),
                slots: map.slots.stewarded(&entry.region),
                incarnation: entry.store.map(|store| store.incarnation),
                fence: entry.fence,
                link_up: (!here).then(|| self.is_up(&entry.region)),
                round_trip_milliseconds: round_trip.map(milliseconds),
            }
        });
        Ok(Status {
            node: self.node_status().await?,
            map_version: map.version,
            map_leader: self.map.leadership().leader,
            regions: regions.collect(),
        })
    }

    async fn node_status(&self) -> Result<NodeStatus, StoreError> {
        let (mut logs, mut homes, mut losses) = (0, 0, 0);
        self.owned_logs(|owned| {
            logs += 1;
            homes += u64::from(owned.home == self.region);
            losses += owned.losses;
        })
        .await?;
        let mut parked = 0;
        let mut after = None;
        loop {
            let page = self.stores.parking.parked(after, PAGE).await?;
            parked += page.len() as u64;
            after = page.last().map(|send| send.number);
            if page.len() < PAGE {
                break;
            }
        }
        Ok(NodeStatus {
            region: self.region.clone(),
            node: self.handle.node().to_string(),
            not_ready: match self.handle.readiness() {
                Readiness::Ready => None,
                Readiness::NotReady(reason) => Some(reason),
            },
            sessions: self.gateway.sessions(),
            logs,
            homes,
            parked,
            losses,
            lease_milliseconds: milliseconds(self.lease.remaining()),
        })
    }

    /// `None` when this region knows no such conversation.
    pub(super) async fn home(&self, conversation: ConversationId) -> Result<Option<HomeRow>, StoreError> {
        let loaded = self.stores.log.load(LogId::conversation(conversation)).await?;
        let Some(placement) = loaded.placement else { return Ok(None) };
        // A change of it stands in the log.
        let shown = self.handle.view(LogId::conversation(conversation)).await;
        let mode = shown.map_or(placement.partition_mode, |view| view.mode);
        let copy = loaded.record.map(|record| CopyRow {
            length: loaded.length,
            mark: loaded.mark,
            accepted: record.accepted.0,
            sealed: record.sealed.0,
            openings: record.openings.iter().map(|opening| (opening.epoch.0, opening.first)).collect(),
            open_ranges: record.open_ranges,
        });
        Ok(Some(HomeRow {
            conversation,
            region: self.region.clone(),
            home: placement.home,
            epoch: placement.epoch.0,
            voters: placement.voters,
            durability: placement.durability.as_str().to_owned(),
            partition_mode: mode.as_str().to_owned(),
            allowed_regions: placement.allowed_regions,
            copy,
        }))
    }

    pub(super) async fn parked(&self, after: Option<u64>, limit: usize) -> Result<ParkedPage, StoreError> {
        let sends = self.stores.parking.parked(after, limit).await?;
        let next = sends.last().map(|send| send.number).filter(|_| sends.len() == limit);
        let mut parked = Vec::with_capacity(sends.len());
        for send in sends {
            let placement = self.stores.placements.placement(LogId::conversation(send.conversation)).await?;
            parked.push(ParkedRow {
                number: send.number,
                conversation: send.conversation,
                home: placement.map(|placement| placement.home),
                sender: send.sender,
                device: send.device,
                message: send.id,
                parked_at: send.parked_at,
                refused: send.refused.map(|(code, _)| code),
            });
        }
        Ok(ParkedPage { region: self.region.clone(), parked, next })
    }

    pub(super) async fn losses(&self) -> Result<Losses, StoreError> {
        let mut losses = self.handle.losses().await?;
        let more = losses.len() > ROWS;
        losses.truncate(ROWS);
        Ok(Losses { region: self.region.clone(), losses: losses.into_iter().map(loss_row).collect(), more })
    }

    /// The members of the mesh that take part and that this node reaches, beside `but`.
    pub(super) fn takes_over(&self, map: &MapState, but: &RegionId) -> Vec<RegionId> {
        let live = map.members().filter(|entry| entry.state == RegionState::Active && entry.region != *but);
        live.filter(|entry| self.is_up(&entry.region)).map(|entry| entry.region.clone()).collect()
    }
}

fn loss_row(loss: Loss) -> LossRow {
    let Loss { log, home, epoch, first, statement, accepted, tail, back, settled } = loss;
    let statement = statement.map(|statement| LossStatementRow {
        lost_home: statement.lost_home,
        epoch: statement.epoch.0,
        from: statement.from,
        covered_copies: statement.covered_copies,
        made_at: statement.made_at,
    });
    let log = log.as_conversation().map_or_else(|| log.to_string(), |conversation| conversation.to_string());
    LossRow { log, home: Some(home), epoch, first, statement, accepted, tail, back, settled }
}
