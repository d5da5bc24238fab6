//! A network within one process, with delays, losses, cuts and dead regions, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hearth_protocol::RegionId;
use parking_lot::Mutex;

use crate::node::MapNode;
use crate::port::{MapNetwork, NotAnswered};

/// One direction of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// How long a message takes.
    pub delay: Duration,
    /// Messages lost, in percent.
    pub loss: f64,
    /// Whether nothing passes.
    pub cut: bool,
}

/// All regions and the links between them. Clones are the same network.
#[derive(Clone, Debug, Default)]
pub struct InProcess {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    nodes: BTreeMap<RegionId, MapNode>,
    links: BTreeMap<(RegionId, RegionId), Link>,
    usual: Link,
}

impl Default for State {
    fn default() -> Self {
        let usual = Link { delay: Duration::ZERO, loss: 0.0, cut: false };
        Self { nodes: BTreeMap::new(), links: BTreeMap::new(), usual }
    }
}

impl InProcess {
    /// The network as one region sees it.
    #[must_use]
    pub fn of(&self, region: RegionId) -> Arc<dyn MapNetwork> {
        Arc::new(Port { network: self.clone(), region })
    }

    /// A region answers from now on.
    pub fn attach(&self, region: RegionId, node: MapNode) {
        self.state.lock().nodes.insert(region, node);
    }

    /// A region is silent from now on.
    pub fn detach(&self, region: &RegionId) {
        self.state.lock().nodes.remove(region);
    }

    /// How links are that nothing else was said of.
    pub fn set_usual(&self, link: Link) {
        self.state.lock().usual = link;
    }

    /// Cuts or mends one direction.
    pub fn set_cut(&self, from: &RegionId, to: &RegionId, cut: bool) {
        let mut state = self.state.lock();
        let usual = state.usual;
        state.links.entry((from.clone(), to.clone())).or_insert(usual).cut = cut;
    }

    /// Cuts or mends both directions.
    pub fn set_cut_both(&self, one: &RegionId, other: &RegionId, cut: bool) {
        self.set_cut(one, other, cut);
        self.set_cut(other, one, cut);
    }

    fn node(&self, region: &RegionId) -> Option<MapNode> {
        self.state.lock().nodes.get(region).cloned()
    }

    /// Takes a message over one direction.
    async fn pass(&self, from: &RegionId, to: &RegionId) -> Result<(), NotAnswered> {
        let link = {
            let state = self.state.lock();
            state.links.get(&(from.clone(), to.clone())).copied().unwrap_or(state.usual)
        };
        tokio::time::sleep(link.delay).await;
        if link.cut || rand::random_bool(link.loss / 100.0) { Err(NotAnswered) } else { Ok(()) }
    }
}

#[derive(Debug)]
struct Port {
    network: InProcess,
    region: RegionId,
}

impl Port {
    async fn there_and_back(&self, to: &RegionId, request: Bytes) -> Result<Bytes, NotAnswered> {
        self.network.pass(&self.region, to).await?;
        let node = self.network.node(to).ok_or(NotAnswered)?;
        let answer = node.handle(&self.region, request).await.ok_or(NotAnswered)?;
        self.network.pass(to, &self.region).await?;
        Ok(answer)
    }
}

#[async_trait]
impl MapNetwork for Port {
    /// Whatever is lost is silence, as in a network: the caller waits for all its patience.
    async fn ask(&self, to: &RegionId, request: Bytes, patience: Duration) -> Result<Bytes, NotAnswered> {
        let silent = tokio::time::sleep(patience);
        match self.there_and_back(to, request).await {
            Ok(answer) => Ok(answer),
            Err(lost) => {
                silent.await;
                Err(lost)
            }
        }
    }
}
