//! Rewrites the files of the tables, so that nothing that was taken away is left in them.
//!
//! A value that is replaced or taken away stays in the files of fjall: in tables until they are merged, and in fjall's
//! own journal until that is above 64 MB. Both are brought about here; it takes seconds, and some 70 MB of writing.

use rand::RngCore as _;

use super::tables::Tables;

/// Bytes of one block that fills fjall's journal.
const BLOCK: usize = 1024 * 1024;
/// Blocks that bring it above the size at which fjall begins another one.
const BLOCKS: usize = 68;
/// Turns after which an old journal that is still there is an error.
const TURNS: usize = 16;
/// Key of the blocks in `meta`.
pub(super) const FILLING: &[u8] = b"filling";

impl Tables {
    /// Keyspaces that hold what users wrote.
    fn with_texts(&self) -> [&fjall::Keyspace; 4] {
        [&self.entries, &self.tails, &self.parked, &self.snapshots]
    }

    /// Rewrites tables and lets fjall begin a journal. What is replaced while this runs may stay.
    ///
    /// # Errors
    /// The disk's. It may be tried again.
    pub(super) fn rewrite(&self) -> Result<(), fjall::Error> {
        for keyspace in self.with_texts() {
            keyspace.rotate_memtable_and_wait()?;
            keyspace.major_compact()?;
        }
        self.turn_journal()
    }

    fn turn_journal(&self) -> Result<(), fjall::Error> {
        let mut block = vec![0; BLOCK];
        for _ in 0..BLOCKS {
            // Random bytes: the journal is compressed.
            rand::rng().fill_bytes(&mut block);
            self.meta.insert(FILLING, block.as_slice())?;
        }
        for _ in 0..TURNS {
            // A journal goes with a turn behind the one that brought the last of it into tables.
            for keyspace in self.all() {
                keyspace.rotate_memtable_and_wait()?;
            }
            self.meta.insert(FILLING, &b""[..])?;
            self.meta.rotate_memtable_and_wait()?;
            if self.database.journal_count() <= 1 {
                break;
            }
        }
        self.meta.remove(FILLING)?;
        self.meta.rotate_memtable_and_wait()?;
        self.meta.major_compact()?;
        if self.database.journal_count() > 1 {
            return Err(fjall::Error::Io(std::io::Error::other("a journal of the database does not end")));
        }
        Ok(())
    }
}
