//! The one place that commits. fjall's `commit()` answers before any sync unless the batch asks for one, so no other
//! code may make a batch: `tests/tidy.rs` looks for it.

use fjall::{Database, Keyspace, OwnedWriteBatch, PersistMode};

/// What a commit asks of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    /// It is on disk before the commit answers.
    Disk,
    /// It is with the kernel: it outlives the process, and a power cut may take it.
    Kernel,
}

/// A batch that is committed as a whole. Of several changes of one key the last one counts.
pub(super) struct DurableBatch {
    inner: OwnedWriteBatch,
}

impl DurableBatch {
    /// An empty batch with room for that many items.
    pub(super) fn new(database: &Database, items: usize) -> Self {
        Self { inner: OwnedWriteBatch::with_capacity(database.clone(), items) }
    }

    /// Items so far.
    pub(super) fn len(&self) -> usize {
        self.inner.len()
    }

    /// Puts a value.
    pub(super) fn put(&mut self, keyspace: &Keyspace, key: &[u8], value: &[u8]) {
        self.inner.insert(keyspace, key, value);
    }

    /// Takes a key away.
    pub(super) fn remove(&mut self, keyspace: &Keyspace, key: &[u8]) {
        self.inner.remove(keyspace, key);
    }

    /// Commits, and answers once the disk or the kernel has it.
    ///
    /// # Errors
    /// The write or the sync failed. Whether it happened is unknown; it must not be tried again.
    pub(super) fn commit(self, sync: Sync) -> Result<(), fjall::Error> {
        let mode = match sync {
            Sync::Disk => PersistMode::SyncData,
            Sync::Kernel => PersistMode::Buffer,
        };
        self.inner.durability(Some(mode)).commit()
    }
}
