//! Numbers of changes: region-wide, growing, never given out twice, and at the same time the clock of every write that
//! is not conditional. A number `n` makes two timestamps: `2n` for what is taken away and `2n + 1` for what is put, so
//! that a change may do both to one row. A write that comes late or twice is older than what came since.

use std::sync::Arc;

use parking_lot::Mutex;
use region_model::ports::StoreError;

use crate::database::{Cas, Database, Seen};
use crate::values::{blob, text};

/// Numbers that are reserved at a time. What was reserved and not used is skipped after a restart.
const BLOCK: u64 = 1_000_000;
/// How often a block is asked for. One that was reserved by a write whose answer was lost is skipped.
const ATTEMPTS: usize = 16;
/// The key of the highest number that is reserved, in `meta`.
const FLOOR: &str = "change-floor";

/// The timestamp of what a change takes away.
pub(crate) fn away(change: u64) -> i64 {
    crate::values::number(change.saturating_mul(2))
}

/// The timestamp of what a change puts.
pub(crate) fn put(change: u64) -> i64 {
    crate::values::number(change.saturating_mul(2).saturating_add(1))
}

#[derive(Debug, Default)]
struct Blocks {
    next: u64,
    end: u64,
    /// A block that is reserved for when this one is used up.
    spare: Option<(u64, u64)>,
    reserving: bool,
}

#[derive(Debug)]
pub(crate) struct Stamps {
    database: Arc<Database>,
    runtime: tokio::runtime::Handle,
    blocks: Mutex<Blocks>,
}

impl Stamps {
    /// Reserves a first block: every number is above all that were ever given out.
    pub(crate) async fn open(database: Arc<Database>, runtime: tokio::runtime::Handle) -> Result<Self, StoreError> {
        let (next, end) = reserve(&database, 0).await?;
        Ok(Self { database, runtime, blocks: Mutex::new(Blocks { next, end, spare: None, reserving: false }) })
    }

    /// Takes `count` (at most a few) numbers that follow each other; the first of them. Never waits: fails only where
    /// the server does not reserve for as long as half a million numbers last.
    pub(crate) fn draw(self: &Arc<Self>, count: u64) -> Result<u64, StoreError> {
        let mut blocks = self.blocks.lock();
        if blocks.next + count > blocks.end {
            let (next, end) = blocks.spare.take().ok_or(StoreError::Unknown)?;
            (blocks.next, blocks.end) = (next, end);
        }
        let first = blocks.next;
        blocks.next += count;
        if blocks.end - blocks.next < BLOCK / 2 && blocks.spare.is_none() && !blocks.reserving {
            blocks.reserving = true;
            let stamps = Arc::clone(self);
            self.runtime.spawn(async move {
                let reserved = reserve(&stamps.database, 0).await;
                let mut blocks = stamps.blocks.lock();
                blocks.reserving = false;
                blocks.spare = reserved.ok();
            });
        }
        Ok(first)
    }

    /// From now on every number is above `change`, which another process gave out.
    pub(crate) async fn pass(&self, change: u64) -> Result<(), StoreError> {
        {
            let mut blocks = self.blocks.lock();
            if change < blocks.next {
                return Ok(());
            }
            if change < blocks.end {
                blocks.next = change + 1;
                return Ok(());
            }
        }
        let (next, end) = reserve(&self.database, change).await?;
        let mut blocks = self.blocks.lock();
        if next > blocks.next {
            (blocks.next, blocks.end, blocks.spare) = (next, end, None);
        }
        Ok(())
    }
}

/// Reserves a block above `least` and above all that are reserved: `[first, end)`.
async fn reserve(database: &Database, least: u64) -> Result<(u64, u64), StoreError> {
    let number = |value: &[u8]| value.try_into().map(u64::from_be_bytes).unwrap_or(0);
    for _ in 0..ATTEMPTS {
        let found = read_meta(database, FLOOR).await?;
        let first = found.as_deref().map_or(0, number).max(least) + 1;
        let end = first + BLOCK;
        if set_meta(database, FLOOR, found.as_deref(), &(end - 1).to_be_bytes()).await? == Cas::Applied {
            return Ok((first, end));
        }
    }
    Err(StoreError::Unknown)
}

/// The value of a key of `meta`, after whatever is under way.
pub(crate) async fn read_meta(database: &Database, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let row: Option<(Option<Vec<u8>>,)> = database.row(&database.statements.meta, vec![text(key)]).await?;
    Ok(row.and_then(|(value,)| value))
}

/// Sets a key of `meta` that has the value `found`. Refused, too, where it is not known who set what is there now: whoever
/// asks reads again, and goes on from that.
pub(crate) async fn set_meta(
    database: &Database,
    key: &str,
    found: Option<&[u8]>,
    value: &[u8],
) -> Result<Cas, StoreError> {
    let values = vec![blob(value), text(key), found.and_then(blob)];
    let look = || async {
        let now = read_meta(database, key).await?;
        Ok(match now.as_deref() {
            now if now == found => Seen::NotYet,
            // Somebody else may have set the same: it does not count as ours.
            _ => Seen::Never,
        })
    };
    database.compare_and_set(vec![(&database.statements.set_meta, values)], look).await
}
