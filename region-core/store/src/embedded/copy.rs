//! A copy of a store that is in use, and a store made of one.
//!
//! ```text
//!   copy:    one snapshot over all keyspaces ──► blocks: length, hash (seeded with the block's number), rows as ops
//!   restore: blocks ──► the tables of a new store, which has an identity of its own
//! ```
//! fjall has no checkpoint. Its files change under it, and belong together by lists of its own, so that a copy of files
//! would rest on what this build does not know. A snapshot is what every read of this store rests on already: it shows
//! whole commits, in their order, up to one of them, and nothing waits for it. Rows are read back through the same
//! batch that the journal is replayed through.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use fjall::{Keyspace, Readable as _, Snapshot};
use hearth_protocol::RegionId;
use hearth_protocol::record::{Record as _, StoreIdentity};
use region_model::ports::StoreError;
use tokio::sync::OwnedMutexGuard;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::batch::{Batch, Staged};
use super::journal::{RECORD_HEAD, read_ops, write_op};
use super::open::{self, BACKGROUND_NICE, FORMAT, IDENTITY};
use super::tables::Tables;
use super::{Embedded, EmbeddedOptions, OpenError, scrub};

/// The format that rows of a copy have: that of the store, as its version file says it.
pub const ROWS_FORMAT: u32 = FORMAT;
/// Bytes of rows from which the next row goes into the next block.
const BLOCK_BYTES: usize = 1024 * 1024;
/// No block is longer: one row above [`BLOCK_BYTES`], and rows are far below this.
const LONGEST_BLOCK: u32 = 1 << 30;
/// Keys of the region map's keyspace that no copy has.
pub type LeftOut = &'static [&'static [u8]];

/// Why a copy is not made, or no store is made of it.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A row of the store does not read.
    #[error("the store does not read: {0}")]
    Store(String),
    /// The blocks do not read.
    #[error("the copy does not read: {0}")]
    Io(#[from] io::Error),
    /// A block is not the one that was written as this number.
    #[error("block {0} of the copy is damaged")]
    Damaged(u64),
    /// A block holds rows of a keyspace that this build does not know.
    #[error("block {0} of the copy has a form that this build does not know")]
    Form(u64),
    /// It is a copy of another region's store, or of none.
    #[error("the copy is not one of a store of region {0}")]
    Region(RegionId),
    /// The new store cannot be made.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl From<fjall::Error> for CopyError {
    fn from(error: fjall::Error) -> Self {
        Self::Store(error.to_string())
    }
}

/// A store as it was at one moment. The store keeps what it needs for it until this is dropped, and rewrites no files
/// meanwhile: content that was taken away stays in them for so much longer.
pub struct StoreCopy {
    tables: Tables,
    view: Snapshot,
    identity: StoreIdentity,
    left_out: LeftOut,
    _no_scrub: OwnedMutexGuard<()>,
}

impl std::fmt::Debug for StoreCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreCopy").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Embedded {
    /// The store as it is now: everything that was answered before this call is in it. `None` while another copy is
    /// made, or the files are being rewritten. Nobody waits for it but the caller.
    ///
    /// # Errors
    /// The store is broken.
    pub async fn copy(&self, left_out: LeftOut) -> Result<Option<StoreCopy>, StoreError> {
        let shared = &self.shared;
        shared.check()?;
        let Ok(no_scrub) = Arc::clone(&shared.rewriting).try_lock_owned() else { return Ok(None) };
        shared.behind.caught_up().await;
        shared.check()?;
        let (tables, view) = (shared.tables.clone(), shared.tables.database.snapshot());
        Ok(Some(StoreCopy { tables, view, identity: shared.identity.clone(), left_out, _no_scrub: no_scrub }))
    }
}

impl StoreCopy {
    /// Whose it is.
    #[must_use]
    pub fn identity(&self) -> &StoreIdentity {
        &self.identity
    }

    /// Every row, in blocks that [`read_block`] reads. Reading blocks the thread.
    pub fn blocks(&self) -> Blocks<'_> {
        Blocks { copy: self, keyspaces: self.tables.all().into(), open: None, number: 0, rows: 0 }
    }
}

/// The blocks of a copy.
pub struct Blocks<'a> {
    copy: &'a StoreCopy,
    /// Keyspaces that were not begun, in their order.
    keyspaces: std::collections::VecDeque<&'a Keyspace>,
    open: Option<(&'a Keyspace, fjall::Iter)>,
    number: u64,
    rows: u64,
}

impl std::fmt::Debug for Blocks<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks").field("number", &self.number).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl<'a> Blocks<'a> {
    /// Rows so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The next row of all keyspaces.
    fn row(&mut self) -> Option<(&'a Keyspace, fjall::Guard)> {
        loop {
            if let Some((keyspace, rows)) = &mut self.open
                && let Some(row) = rows.next()
            {
                return Some((keyspace, row));
            }
            let keyspace = self.keyspaces.pop_front()?;
            self.open = Some((keyspace, self.copy.view.iter(keyspace)));
        }
    }

    fn is_left_out(&self, keyspace: &Keyspace, key: &[u8]) -> bool {
        match &**keyspace.name() {
            "map" => self.copy.left_out.contains(&key),
            "meta" => key == scrub::FILLING,
            _ => false,
        }
    }

    fn block(&mut self) -> Result<Option<Vec<u8>>, CopyError> {
        let mut block = vec![0; RECORD_HEAD];
        while block.len() < BLOCK_BYTES
            && let Some((keyspace, row)) = self.row()
        {
            let (key, value) = row.into_inner()?;
            if !self.is_left_out(keyspace, &key) {
                write_op(&mut block, keyspace.name(), &key, Some(&value));
                self.rows += 1;
            }
        }
        if block.len() == RECORD_HEAD {
            return Ok(None);
        }
        let length = u32::try_from(block.len() - RECORD_HEAD).ok().filter(|length| *length <= LONGEST_BLOCK);
        let length = length.ok_or_else(|| CopyError::Store("a row is longer than a copy can hold".to_owned()))?;
        let hash = xxh3_64_with_seed(&block[RECORD_HEAD..], self.number);
        block[..4].copy_from_slice(&length.to_le_bytes());
        block[4..RECORD_HEAD].copy_from_slice(&hash.to_le_bytes());
        self.number += 1;
        Ok(Some(block))
    }
}

impl Iterator for Blocks<'_> {
    type Item = Result<Vec<u8>, CopyError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.block().transpose()
    }
}

/// Reads block `number` of what [`Blocks`] gave; `None` where nothing follows.
///
/// # Errors
/// [`CopyError::Damaged`] for another block than that, or a part of one.
pub fn read_block(from: &mut impl Read, number: u64) -> Result<Option<Vec<u8>>, CopyError> {
    let mut head = [0; RECORD_HEAD];
    let mut filled = 0;
    while filled < head.len() {
        match from.read(&mut head[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(CopyError::Damaged(number)),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    if length > LONGEST_BLOCK {
        return Err(CopyError::Damaged(number));
    }
    // No more is taken than comes: the length alone is not believed.
    let mut block = Vec::new();
    let read = from.take(u64::from(length)).read_to_end(&mut block)?;
    let whole = u32::try_from(read).is_ok_and(|read| read == length);
    if !whole || head[4..] != xxh3_64_with_seed(&block, number).to_le_bytes() {
        return Err(CopyError::Damaged(number));
    }
    Ok(Some(block))
}

/// A store that is being made of a copy.
pub struct Restoring {
    tables: Tables,
    region: RegionId,
    number: u64,
}

impl std::fmt::Debug for Restoring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restoring").field("region", &self.region).field("number", &self.number).finish_non_exhaustive()
    }
}

impl Restoring {
    /// Begins a store in a folder that is not there yet; the rows that come have the given format.
    ///
    /// # Errors
    /// [`CopyError::Open`] where the format is none that this build reads, or the folder cannot be made.
    pub fn begin(folder: &Path, region: &RegionId, format: u32) -> Result<Self, CopyError> {
        let tables = open::make(folder, format, &EmbeddedOptions::default())?;
        Ok(Self { tables, region: region.clone(), number: 0 })
    }

    /// Takes the next block, as [`read_block`] gave it.
    ///
    /// # Errors
    /// [`CopyError::Form`], or of the disk.
    pub fn take(&mut self, block: &[u8]) -> Result<(), CopyError> {
        let staged = read_ops(block).and_then(|ops| Staged::of_ops(&self.tables, &ops));
        staged.ok_or(CopyError::Form(self.number))?.apply()?;
        self.number += 1;
        Ok(())
    }

    /// Ends it: the store is another one than the one that was copied, on disk, and opens as that from now on.
    ///
    /// # Errors
    /// [`CopyError::Region`] where the rows are of another region's store, or of none; of the disk.
    pub fn finish(self) -> Result<StoreIdentity, CopyError> {
        let tables = &self.tables;
        let copied = tables.meta.get(IDENTITY)?.and_then(|value| StoreIdentity::decode(&value).ok());
        let copied = copied.filter(|copied| copied.region == self.region);
        let copied = copied.ok_or_else(|| CopyError::Region(self.region.clone()))?;
        let identity = StoreIdentity { store: uuid::Builder::from_random_bytes(rand::random()).into_uuid(), ..copied };
        let mut batch = Batch::new(&tables.database, 1);
        batch.put(&tables.meta, IDENTITY, &identity.encode());
        batch.into_parts().1.apply()?;
        tables.sync()?;
        Ok(identity)
    }
}

/// Does work on a thread of its own that gives way to commits and sessions, as the store's own flushes and merges do.
///
/// # Errors
/// When there is no thread to be had.
pub fn in_background<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // A system that refuses only loses the preference.
        if let Err(error) = rustix::process::nice(BACKGROUND_NICE) {
            tracing::debug!(%error, "the work keeps its priority");
        }
        work()
    })
}
