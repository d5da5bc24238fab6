//! What is taken away: changes of messages with the entries that made them, content with the message that was deleted,
//! and from the journal whatever the tables do not hold any more.

use std::ops::Range;

use fjall::Keyspace;
use hearth_protocol::{LogId, Position, SealedEntry};
use region_model::ports::{ExpiredContent, TakenContent};

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

    /// Takes content away that was deleted or forgotten.
    pub(super) fn take_content(&mut self, taken: &TakenContent) -> Result<(), ReadError> {
        self.behind.wait_for(self.ticket);
        let tables = self.tables.clone();
        for at in &taken.entries {
            self.take_row(&tables.entries, &keys::entry(taken.log, at.sequence.0), *at)?;
        }
        for at in &taken.tail {
            self.take_row(&tables.tails, &keys::tail(taken.log, *at), *at)?;
        }
        if let Some(done) = &taken.done {
            self.batch.remove(&tables.deletes, &keys::change(taken.log, done.target, done.position.sequence.0));
        }
        self.note_scrub();
        Ok(())
    }

    /// Writes down when the content of an entry is over. That stays where the entry leaves the log, and is taken up at its
    /// time, for the entry of a tail or for nothing.
    pub(super) fn note_expiry(&mut self, log: LogId, entry: &SealedEntry) {
        let fixed = &entry.entry.fixed;
        if let Some(at) = fixed.expires_at.filter(|_| entry.content().is_some()) {
            self.batch.put(&self.tables.expiries, &keys::expiry(at, log, fixed.position), &[]);
        }
    }

    /// Takes content away whose time is over, and what says so.
    pub(super) fn take_expired(&mut self, taken: &[ExpiredContent]) -> Result<(), ReadError> {
        self.behind.wait_for(self.ticket);
        let tables = self.tables.clone();
        for ExpiredContent { at, log, position } in taken {
            self.take_row(&tables.entries, &keys::entry(*log, position.sequence.0), *position)?;
            self.take_row(&tables.tails, &keys::tail(*log, *position), *position)?;
            self.batch.remove(&tables.expiries, &keys::expiry(*at, *log, *position));
        }
        self.note_scrub();
        Ok(())
    }

    /// Writes the row of the entry at a position again without its content, if it is there and has some; what it says
    /// beside its entry stays.
    fn take_row(&mut self, keyspace: &Keyspace, key: &[u8], at: Position) -> Result<(), ReadError> {
        let Some(row) = keyspace.get(key)? else { return Ok(()) };
        let ((mark, change), entry) = (keys::row_head(&row)?, keys::row_entry(&row)?);
        if entry.entry.fixed.position == at && entry.content().is_some() {
            keys::write_row(&mut self.value, mark, change, &entry.without_content().encoded);
            self.batch.put(keyspace, key, &self.value);
        }
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
