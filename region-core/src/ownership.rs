//! The region map and this region's lease, as the core needs them. The mesh composition puts consensus behind this
//! port.

use std::fmt;
use std::sync::Arc;

use region_model::Input;
use region_model::ownership::Right;
use region_model::region_map::MapState;
use tokio::sync::watch;

use crate::region::Region;

/// Who may sequence what, as this region knows it.
pub trait Ownership: Send + Sync + fmt::Debug {
    /// The right to sequence, now.
    fn right(&self) -> Right;

    /// The region map as applied here.
    fn map(&self) -> watch::Receiver<Arc<MapState>>;
}

/// Tells the core of every new map, until the map or the region ends.
pub(crate) async fn run(region: Arc<Region>) {
    let mut map = region.ownership.map();
    let mut failed = region.store.failed.subscribe();
    loop {
        let state = Arc::clone(&map.borrow_and_update());
        if state.version > 0 {
            region.look_at_fences(&state).await;
            region.input(Input::Map(state)).await;
        }
        tokio::select! {
            changed = map.changed() => if changed.is_err() { return },
            () = Region::until_failed(&mut failed) => return,
        }
    }
}
