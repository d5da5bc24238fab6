//! The one place that writes the tables. No other code may make a batch of fjall: `tests/tidy.rs` looks for it.

use fjall::{Database, Keyspace, OwnedWriteBatch, PersistMode};

use super::journal::{Op, RECORD_HEAD, write_op};
use super::tables::Tables;

/// What a commit asks of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    /// It is on disk before the commit answers.
    Disk,
    /// It is with the kernel: it outlives the process, and a power cut may take it.
    Kernel,
}

/// Changes that are committed as a whole, for the journal and for the tables. Of several changes of one key the last
/// one counts.
pub(super) struct Batch {
    staged: Staged,
    record: Vec<u8>,
}

/// Changes for the tables.
pub(super) struct Staged(OwnedWriteBatch);

impl Batch {
    /// An empty batch with room for that many items.
    pub(super) fn new(database: &Database, items: usize) -> Self {
        Self { staged: Staged::new(database, items), record: vec![0; RECORD_HEAD] }
    }

    /// Items so far.
    pub(super) fn len(&self) -> usize {
        self.staged.len()
    }

    /// Puts a value.
    pub(super) fn put(&mut self, keyspace: &Keyspace, key: &[u8], value: &[u8]) {
        write_op(&mut self.record, keyspace.name(), key, Some(value));
        self.staged.0.insert(keyspace, key, value);
    }

    /// Takes a key away.
    pub(super) fn remove(&mut self, keyspace: &Keyspace, key: &[u8]) {
        write_op(&mut self.record, keyspace.name(), key, None);
        self.staged.0.remove(keyspace, key);
    }

    /// The journal's record, its head still empty, and what the tables take once the journal has it.
    pub(super) fn into_parts(self) -> (Vec<u8>, Staged) {
        (self.record, self.staged)
    }
}

impl Staged {
    fn new(database: &Database, items: usize) -> Self {
        Self(OwnedWriteBatch::with_capacity(database.clone(), items))
    }

    /// Changes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The changes of a journal's record. `None` when it names a keyspace that this build does not know.
    pub(super) fn of_ops(tables: &Tables, ops: &[Op<'_>]) -> Option<Self> {
        let mut staged = Self::new(&tables.database, ops.len());
        for op in ops {
            let keyspace = tables.by_name(op.keyspace)?;
            match op.value {
                Some(value) => staged.0.insert(keyspace, op.key, value),
                None => staged.0.remove(keyspace, op.key),
            }
        }
        Some(staged)
    }

    /// Brings the changes into the tables. They are on disk after [`Tables::sync`] only.
    ///
    /// # Errors
    /// The write failed. Whether it happened is unknown; it must not be tried again.
    pub(super) fn apply(self) -> Result<(), fjall::Error> {
        self.0.commit()
    }
}

impl Tables {
    /// Begins to bring what is in memory into files; the database's own thread does so.
    ///
    /// # Errors
    /// The database failed before.
    pub(super) fn write_out(&self) -> Result<(), fjall::Error> {
        self.all().into_iter().try_for_each(|keyspace| keyspace.rotate_memtable().map(|_| ()))
    }

    /// Puts on disk what was applied.
    ///
    /// # Errors
    /// The sync failed. It must not be tried again.
    pub(super) fn sync(&self) -> Result<(), fjall::Error> {
        self.database.persist(PersistMode::SyncAll)
    }
}
