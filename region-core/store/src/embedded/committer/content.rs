//! What is taken away: changes of messages with the entries that made them, content with the message that was deleted,
//! and from the journal whatever the tables do not hold any more.

use std::ops::Range;

use hearth_protocol::LogId;
use region_model::ports::TakenContent;

use super::super::keys::{self, ReadError};
use super::{Committer, SCRUB};

impl Committer {
    /// Takes away what entries did to earlier messages, by the numbers of the entries.
    pub(super) fn take_changes(&mut self, log: LogId, by: &Range<u64>) -> Result<(), ReadError> {
        self.behind.wait_for(self.ticket);
        for row in self.tables.changes.prefix(keys::spread(log)) {
            let key = row.key()?;
            if by.contains(&keys::changed_by(&key)?) {
                self.batch.remove(&self.tables.changes, &key);
                self.batch.remove(&self.tables.deletes, &key);
            }
        }
        Ok(())
    }

    /// The files hold what the tables do not any more.
    pub(super) fn note_scrub(&mut self) {
        let change = self.next_change();
        self.batch.put(&self.tables.meta, SCRUB, &change.to_be_bytes());
    }

    /// Writes rows again without their content; what a row says beside its entry stays.
    pub(super) fn take_content(&mut self, taken: &TakenContent) -> Result<(), ReadError> {
        self.behind.wait_for(self.ticket);
        let tables = self.tables.clone();
        let rows = taken.entries.iter().map(|at| (&tables.entries, keys::entry(taken.log, at.sequence.0).to_vec(), at));
        let tails = taken.tail.iter().map(|at| (&tables.tails, keys::tail(taken.log, *at).to_vec(), at));
        for (keyspace, key, at) in rows.chain(tails) {
            let Some(row) = keyspace.get(&key)? else { continue };
            let ((mark, change), entry) = (keys::row_head(&row)?, keys::row_entry(&row)?);
            if entry.entry.fixed.position == *at && entry.content().is_some() {
                keys::write_row(&mut self.value, mark, change, &entry.without_content().encoded);
                self.batch.put(keyspace, &key, &self.value);
            }
        }
        let done = keys::change(taken.log, taken.delete.target, taken.delete.position.sequence.0);
        self.batch.remove(&tables.deletes, &done);
        self.note_scrub();
        Ok(())
    }

    /// The journal's slots hold everything of before still: they are emptied, once the tables have it on disk.
    pub(super) fn scrubbed(&mut self, after: u64) -> Result<(), ReadError> {
        self.behind.wait_for(self.ticket);
        self.tables.sync()?;
        self.journal.empty()?;
        if self.tables.to_scrub()? == Some(after) {
            self.batch.remove(&self.tables.meta, SCRUB);
        }
        Ok(())
    }
}
