//! When the content of an entry is over. Decided from the entry and a time alone: whoever holds the entry says the same
//! from that time on, whatever the order in which regions take the bytes away.

use hearth_protocol::{SealedEntry, Timestamp};

/// Whether the content of an entry is over at `now`, or was taken away because it was. Of one that was deleted, too, the
/// delete is told.
#[must_use]
pub fn is_expired(sealed: &SealedEntry, now: Timestamp) -> bool {
    sealed.entry.fixed.expires_at.is_some_and(|at| at <= now || sealed.content().is_none())
}
