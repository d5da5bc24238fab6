//! openraft's network over the port.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::RegionId;
use hearth_protocol::record::Record as _;
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};

use crate::port::{MapNetwork, NotAnswered};
use crate::raft::{Member, TypeConfig};
use crate::wire::{Request, Response};

/// A pause after a member was out of reach.
const PAUSE: Duration = Duration::from_millis(250);

/// Asks one region, and reads its answer.
pub(crate) async fn ask(
    network: &dyn MapNetwork,
    to: &RegionId,
    request: &Request,
    patience: Duration,
) -> Result<Response, NotAnswered> {
    let answer = tokio::time::timeout(patience, network.ask(to, Bytes::from(request.encode()), patience)).await;
    let bytes = answer.map_err(|_| NotAnswered)??;
    Response::decode(&bytes).map_err(|error| {
        tracing::warn!(peer = %to, %error, "an answer about the region map does not read");
        NotAnswered
    })
}

/// Makes the ways to members.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) network: Arc<dyn MapNetwork>,
    /// Whether the member here is a leader that gives way: no entry and no pulse of it goes out.
    pub(crate) gives_way: Arc<AtomicBool>,
}

/// The way to one member.
#[derive(Debug)]
pub(crate) struct Way {
    network: Arc<dyn MapNetwork>,
    to: u64,
    region: Option<RegionId>,
    gives_way: Arc<AtomicBool>,
}

type Failed<E> = RPCError<u64, Member, RaftError<u64, E>>;

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Way;

    async fn new_client(&mut self, target: u64, node: &Member) -> Way {
        let (network, gives_way) = (Arc::clone(&self.network), Arc::clone(&self.gives_way));
        Way { network, to: target, region: node.region_id(), gives_way }
    }
}

/// What a wrong answer means: the other side is of another kind for now.
fn unexpected<E: std::error::Error>() -> Failed<E> {
    RPCError::Network(NetworkError::new(&NotAnswered))
}

impl Way {
    async fn ask<E: std::error::Error>(&self, request: Request, patience: Duration) -> Result<Response, Failed<E>> {
        let unreachable = || RPCError::Unreachable(Unreachable::new(&NotAnswered));
        let region = self.region.as_ref().ok_or_else(unreachable)?;
        match ask(&*self.network, region, &request, patience).await {
            Ok(Response::Elsewhere) | Err(NotAnswered) => Err(unreachable()),
            Ok(response) => Ok(response),
        }
    }
}

impl RaftNetwork<TypeConfig> for Way {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed<openraft::error::Infallible>> {
        if self.gives_way.load(Ordering::Relaxed) {
            return Err(RPCError::Unreachable(Unreachable::new(&NotAnswered)));
        }
        match self.ask(Request::Append { to: self.to, request }, option.hard_ttl()).await? {
            Response::Append(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failed<openraft::error::Infallible>> {
        match self.ask(Request::Vote { to: self.to, request }, option.hard_ttl()).await? {
            Response::Vote(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failed<InstallSnapshotError>> {
        match self.ask(Request::Snapshot { to: self.to, request }, option.hard_ttl()).await? {
            Response::Snapshot(Some(response)) => Ok(response),
            _ => Err(unexpected()),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(PAUSE))
    }
}
