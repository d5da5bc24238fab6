//! Stores have identities: one that is new, empty or older than the map knows counts for nothing until it caught up
//! (design.md 4.1).

use hearth_protocol::Epoch;

/// Whether a replica's store counts as a copy and as sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trust<C> {
    /// It does.
    #[default]
    Full,
    /// It belongs to a new incarnation and has not caught up; `None` until it subscribed as that incarnation.
    Joining(Option<Goal<C>>),
}

/// What a new incarnation must hold before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Goal<C> {
    /// The epoch that the placement named, read after the map took the new incarnation.
    pub epoch: Epoch,
    /// How many entries its home's log had when the new incarnation subscribed.
    pub length: u64,
    /// The hash of the last of them.
    pub last: C,
}

/// How a store compares with what the region map knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreAge {
    /// It is the one that the map knows.
    Same,
    /// It is another, or an older copy: the region is a new incarnation.
    New,
}

/// Compares a store's identity and counter with those in the map. Each lease renewal carries a counter that is on disk
/// first, so a store below the map's counter is an older copy; a copy newer than the last renewal goes unnoticed.
pub fn judge_store<I: PartialEq>(known: Option<&(I, u64)>, mine: &(I, u64)) -> StoreAge {
    match known {
        Some((store, counter)) if *store == mine.0 && mine.1 >= *counter => StoreAge::Same,
        Some(_) | None => StoreAge::New,
    }
}
