//! How many messages a user has not read.

use std::sync::Arc;

use hearth_protocol::{ConversationId, EntryKind, Epoch, LogId, Refusal, UserId};
use region_model::LogView;
use region_model::line::Line;

use crate::present::Reader;
use crate::privacy::is_withheld;
use crate::reads::Seen;
use crate::region::Region;

/// Members whose counts are remembered.
const COUNTS: usize = 65_536;
/// Rows of one read of the store.
const ROWS: usize = 1_000;
/// Bytes of it.
const BYTES: usize = 1024 * 1024;

/// Messages of others up to what a member has read: valid for that number under that epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    epoch: Epoch,
    read: u64,
    others: u64,
}

/// What a user has read of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadState {
    /// The last number read; 0 for none.
    pub(crate) up_to: u64,
    /// The number of the store's change in which that grew last.
    pub(crate) change: u64,
}

impl Region {
    /// As [`Region::read_state`]; 0 where this region does not hold the conversation.
    pub(crate) async fn read_up_to(&self, id: ConversationId, view: &LogView, user: &UserId) -> Result<u64, Refusal> {
        if !view.held {
            return Ok(0);
        }
        Ok(self.read_state(LogId::conversation(id), view, user).await?.up_to)
    }

    /// How far a user has read a conversation that this region holds.
    pub(crate) async fn read_state(&self, log: LogId, view: &LogView, user: &UserId) -> Result<ReadState, Refusal> {
        if !self.load_cursors(log).await {
            return Err(self.unavailable());
        }
        let (up_to, change) = self.receipts.book.lock().read(log, user, &Line::of(view));
        Ok(ReadState { up_to: up_to.min(view.marked.saturating_sub(1)), change })
    }

    /// Messages of others above what a user has read, up to the mark. The rows above that are here: see [`can_count`].
    pub(crate) async fn unread(
        self: &Arc<Self>,
        log: LogId,
        view: &LogView,
        reader: Reader<'_>,
        seen: &Seen<'_>,
        read: u64,
    ) -> Result<u64, Refusal> {
        let user = reader.user;
        if reader.blocks_since.is_some() || view.decided != view.length {
            // The state counts what is withheld, and what cannot be read yet.
            return self.others(log, seen.from.max(read + 1), view.marked, reader).await;
        }
        // What is below the floor cannot be read any more.
        let read = read.max(view.floor.saturating_sub(1));
        let all = seen.state.unread(user, seen.member);
        // Entries that wait for their copies count in the state and are not shown yet.
        let hidden = self.others(log, view.marked, view.length, reader).await?;
        if read < seen.state.visible_from(seen.member) {
            return Ok(all.saturating_sub(hidden));
        }
        let epoch = Line::of(view).epoch();
        let key = (log, user.clone());
        let known = self.receipts.counted.lock().get(&key).copied().filter(|known| known.epoch == epoch);
        let others = match known {
            Some(known) if known.read == read => known.others,
            Some(known) if known.read < read && read - known.read < view.length - read => {
                known.others + self.others(log, known.read + 1, read + 1, reader).await?
            }
            _ => all.saturating_sub(self.others(log, read + 1, view.length, reader).await?),
        };
        let mut counted = self.receipts.counted.lock();
        if counted.len() >= COUNTS {
            counted.clear();
        }
        counted.insert(key, Counted { epoch, read, others });
        Ok(all.saturating_sub(others).saturating_sub(hidden))
    }

    /// Messages of others with `from <= number < to` that are not withheld.
    async fn others(&self, log: LogId, from: u64, to: u64, reader: Reader<'_>) -> Result<u64, Refusal> {
        let (mut next, mut others) = (from, 0);
        while next < to {
            let rows = self.stores.log.read(log, next, to, ROWS, BYTES).await;
            let rows = rows.map_err(|error| self.store_refusal(&error))?;
            let Some(last) = rows.last() else { break };
            next = last.sequence().0 + 1;
            let of_others = rows.iter().filter(|row| {
                let fixed = &row.entry.fixed;
                fixed.kind == EntryKind::Message && fixed.sender != *reader.user
            });
            others += of_others.filter(|row| !is_withheld(row, reader.user, reader.blocks_since)).count() as u64;
        }
        Ok(others)
    }
}

/// Whether the rows that unread messages are counted from are here.
pub(crate) fn can_count(view: &LogView, read: u64) -> bool {
    read == 0 || view.has_rows(read + 1, view.length)
}
