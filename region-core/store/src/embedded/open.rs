//! Opening: the version file, the database, the keyspaces, who the store is.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use fjall::compaction::Leveled;
use fjall::config::{CompressionPolicy, FilterPolicy, PinningPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions};
use hearth_protocol::record::{Record, StoreIdentity};
use hearth_protocol::{LogId, RegionId};

use super::batch::{Batch, Staged};
use super::committer::CHANGE_FLOOR;
use super::journal::{Journal, JournalError, read_ops};
use super::keys::{self, ReadError};
use super::tables::Tables;
use super::{EmbeddedOptions, OpenError};

/// The format that this build writes. It reads older ones, too, and makes them this one: format 1 lacks the journal,
/// format 2 tails and the second form of placements, format 3 changes of messages, format 4 when content is over,
/// format 5 what is kept no longer.
pub(super) const FORMAT: u32 = 6;
const FIRST_FORMAT: u32 = 1;
/// The first format that says when content is over beside the entries.
const EXPIRIES_SINCE: u32 = 5;
/// Names the format before anything else of the folder is touched.
pub(super) const VERSION_FILE: &str = "hearth-store";
const DATABASE_FOLDER: &str = "database";
const JOURNAL_FOLDER: &str = "journal";
pub(super) const IDENTITY: &[u8] = b"identity";
const VERSION: &[u8] = b"version";

const MEBIBYTE: u64 = 1024 * 1024;
/// Journals beyond this make fjall flush keyspaces that hold old ones alive; a reopen reads them all.
const JOURNALS: u64 = 128 * MEBIBYTE;
const BLOCK_CACHE: u64 = 64 * MEBIBYTE;

/// A database that is open, and who it is in this life.
pub(super) struct Opened {
    pub(super) tables: Tables,
    pub(super) journal: Journal,
    pub(super) identity: StoreIdentity,
    /// No change so far had a higher number.
    pub(super) change_floor: u64,
}

/// Opens or makes the store in `folder`.
pub(super) fn open(folder: &Path, region: &RegionId, options: &EmbeddedOptions) -> Result<Opened, OpenError> {
    fs::create_dir_all(folder)?;
    let found = check_version_file(folder)?;
    let database = open_database(&folder.join(DATABASE_FOLDER), options)?;
    let tables = open_keyspaces(database, options)?;
    check_version_key(&tables)?;
    let mut journal = replay(&folder.join(JOURNAL_FOLDER), &tables)?;
    if found < EXPIRIES_SINCE {
        find_expiries(&tables)?;
    }
    let identity = next_identity(&tables, region)?;
    let change_floor = number(&tables, CHANGE_FLOOR)?.unwrap_or(0);
    let mut batch = Batch::new(&tables.database, 2);
    batch.put(&tables.meta, VERSION, &u64::from(FORMAT).to_be_bytes());
    batch.put(&tables.meta, IDENTITY, &identity.encode());
    batch.into_parts().1.apply()?;
    tables.sync()?;
    if found != FORMAT {
        // An older build must not open a store that holds what it does not know.
        write_version_file(folder, FORMAT)?;
    }
    journal.begin()?;
    Ok(Opened { tables, journal, identity, change_floor })
}

/// Makes the tables of a store whose rows come from elsewhere, in a folder that is not there yet.
pub(super) fn make(folder: &Path, format: u32, options: &EmbeddedOptions) -> Result<Tables, OpenError> {
    if !(FIRST_FORMAT..=FORMAT).contains(&format) {
        return Err(OpenError::Version { found: format, known: FORMAT });
    }
    fs::create_dir(folder)?;
    write_version_file(folder, format)?;
    open_keyspaces(open_database(&folder.join(DATABASE_FOLDER), options)?, options)
}

/// Writes down when content is over, of entries that a build before [`EXPIRIES_SINCE`] stored. Done again from the start
/// when it is interrupted.
fn find_expiries(tables: &Tables) -> Result<(), OpenError> {
    let failed = |error: ReadError| OpenError::Failed(error.to_string());
    let mut batch = Batch::new(&tables.database, 0);
    for row in tables.entries.iter() {
        let (key, row) = row.into_inner()?;
        note_expiry(tables, &mut batch, keys::log_of(&key).map_err(failed)?, &row).map_err(failed)?;
    }
    for row in tables.tails.iter() {
        let (key, row) = row.into_inner()?;
        let log = key.get(..LogId::LENGTH).and_then(LogId::from_bytes);
        note_expiry(tables, &mut batch, log.ok_or_else(|| failed(ReadError::Form("tails")))?, &row).map_err(failed)?;
    }
    Ok(batch.into_parts().1.apply()?)
}

fn note_expiry(tables: &Tables, batch: &mut Batch, log: LogId, row: &[u8]) -> Result<(), ReadError> {
    let entry = keys::row_entry(row)?;
    if let Some(at) = entry.entry.fixed.expires_at.filter(|_| entry.content().is_some()) {
        batch.put(&tables.expiries, &keys::expiry(at, log, entry.entry.fixed.position), &[]);
    }
    Ok(())
}

/// Brings into the tables what only the journal has. Done again from the start when it is interrupted.
fn replay(folder: &Path, tables: &Tables) -> Result<Journal, OpenError> {
    Journal::open(folder, |record| {
        let staged = read_ops(record).and_then(|ops| Staged::of_ops(tables, &ops));
        let form = || OpenError::Failed("a record of the journal has a form that this build does not know".into());
        Ok(staged.ok_or_else(form)?.apply()?)
    })
}

impl From<JournalError> for OpenError {
    fn from(error: JournalError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The format that the folder has, or will have.
fn check_version_file(folder: &Path) -> Result<u32, OpenError> {
    let path = folder.join(VERSION_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(found @ FIRST_FORMAT..=FORMAT) => Ok(found),
            Ok(found) => Err(OpenError::Version { found, known: FORMAT }),
            Err(_) => Err(OpenError::Failed(format!("{} does not hold a version", path.display()))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_version_file(folder, FORMAT)?;
            Ok(FORMAT)
        }
        Err(error) => Err(error.into()),
    }
}

/// Written aside and renamed: a crash leaves no half of it.
fn write_version_file(folder: &Path, format: u32) -> Result<(), OpenError> {
    let aside = folder.join("hearth-store.new");
    let mut file = fs::File::create(&aside)?;
    writeln!(file, "{format}")?;
    file.sync_all()?;
    fs::rename(&aside, folder.join(VERSION_FILE))?;
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}

/// Flushed memtables that are merged into the first level at a time.
const L0_RUNS: u8 = 4;
/// Size of a table on disk: the merge of a small one is over before the next memtables are full.
const TABLE_BYTES: u64 = 8 * MEBIBYTE;

/// Flushes and merges give way to commits and sessions: they have seconds, a message has milliseconds. In steps of
/// `nice`(2), which Linux keeps for each thread.
pub(super) const BACKGROUND_NICE: i32 = 15;

/// Opens the database on a thread of lower priority, which its background threads inherit.
fn open_database(folder: &Path, options: &EmbeddedOptions) -> Result<Database, OpenError> {
    let opening = || {
        // A system that refuses only loses the preference.
        if let Err(error) = rustix::process::nice(BACKGROUND_NICE) {
            tracing::debug!(%error, "the store's background work keeps its priority");
        }
        open_at_this_priority(folder, options)
    };
    std::thread::scope(|scope| match scope.spawn(opening).join() {
        Ok(opened) => opened,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn open_at_this_priority(folder: &Path, options: &EmbeddedOptions) -> Result<Database, OpenError> {
    let journal = if options.compression { CompressionType::Lz4 } else { CompressionType::None };
    let opened = Database::builder(folder)
        .cache_size(BLOCK_CACHE)
        .max_journaling_size(JOURNALS)
        .journal_compression(journal)
        // A second worker spins on the queue while the first compacts.
        .worker_threads(1)
        .open();
    opened.map_err(|error| match error {
        fjall::Error::Locked => OpenError::InUse,
        other => other.into(),
    })
}

fn open_keyspaces(database: Database, options: &EmbeddedOptions) -> Result<Tables, OpenError> {
    let make = |name: &str, memtable: u64, filter: bool| -> Result<Keyspace, OpenError> {
        Ok(database.keyspace(name, || keyspace_options(memtable * MEBIBYTE, filter, options.compression))?)
    };
    // Commits do not wait for the tables, but what the tables are behind is bounded. With memtables of 16 MiB a flush
    // and the merge after it are short, and fewer than with smaller ones (`hearth bench`, two cores).
    Ok(Tables {
        // Entries are read by range, which no filter helps.
        entries: make("entries", 16, false)?,
        // Nearly every look-up misses: filters at all levels, held in memory.
        dedup: make("dedup", 8, true)?,
        // Read by range.
        changes: make("changes", 8, false)?,
        deletes: make("deletes", 1, false)?,
        expiries: make("expiries", 1, false)?,
        logs: make("logs", 8, true)?,
        snapshots: make("snapshots", 8, true)?,
        marks: make("marks", 8, true)?,
        tails: make("tails", 4, false)?,
        placements: make("placements", 8, true)?,
        outbox: make("outbox", 8, false)?,
        parked: make("parked", 8, false)?,
        cursors: make("cursors", 8, true)?,
        map: make("map", 1, false)?,
        meta: make("meta", 1, true)?,
        database,
    })
}

fn keyspace_options(memtable: u64, filter: bool, compression: bool) -> KeyspaceCreateOptions {
    let levels = Leveled::default().with_l0_threshold(L0_RUNS).with_table_target_size(TABLE_BYTES);
    let mut options = KeyspaceCreateOptions::default()
        .compaction_strategy(Arc::new(levels))
        .max_memtable_size(memtable)
        .index_block_pinning_policy(PinningPolicy::all(true))
        .filter_block_pinning_policy(PinningPolicy::all(true));
    if !filter {
        options = options.filter_policy(FilterPolicy::disabled());
    }
    if !compression {
        options = options
            .data_block_compression_policy(CompressionPolicy::disabled())
            .index_block_compression_policy(CompressionPolicy::disabled());
    }
    options
}

fn number(tables: &Tables, key: &[u8]) -> Result<Option<u64>, OpenError> {
    let Some(value) = tables.meta.get(key)? else { return Ok(None) };
    match value[..].try_into() {
        Ok(bytes) => Ok(Some(u64::from_be_bytes(bytes))),
        Err(_) => Err(OpenError::Failed("a number of the store has a form that this build does not know".into())),
    }
}

fn check_version_key(tables: &Tables) -> Result<(), OpenError> {
    match number(tables, VERSION)? {
        Some(found) if !(u64::from(FIRST_FORMAT)..=u64::from(FORMAT)).contains(&found) => {
            Err(OpenError::Version { found: u32::try_from(found).unwrap_or(u32::MAX), known: FORMAT })
        }
        _ => Ok(()),
    }
}

fn next_identity(tables: &Tables, region: &RegionId) -> Result<StoreIdentity, OpenError> {
    let Some(value) = tables.meta.get(IDENTITY)? else {
        let store = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
        return Ok(StoreIdentity { store, region: region.clone(), incarnation: 1 });
    };
    let stored = StoreIdentity::decode(&value).map_err(|error| OpenError::Failed(error.to_string()))?;
    if stored.region != *region {
        return Err(OpenError::Region { found: stored.region, asked: region.clone() });
    }
    Ok(StoreIdentity { incarnation: stored.incarnation + 1, ..stored })
}

#[cfg(test)]
mod tests {
    use region_model::conformance::samples::{append, conversation, expiring, record, region};
    use region_model::ports::LogAppend;

    use super::super::Embedded;
    use super::*;

    /// Leaves a folder as a build of format 4 does.
    fn forget_expiries(folder: &Path) {
        fs::remove_dir_all(folder.join(JOURNAL_FOLDER)).expect("removes");
        let options = EmbeddedOptions::default();
        let database = open_database(&folder.join(DATABASE_FOLDER), &options).expect("opens");
        let tables = open_keyspaces(database, &options).expect("opens");
        let mut batch = Batch::new(&tables.database, 0);
        for row in tables.expiries.iter() {
            batch.remove(&tables.expiries, &row.key().expect("reads"));
        }
        assert_eq!(batch.len(), 3, "something is forgotten");
        batch.into_parts().1.apply().expect("applies");
        tables.sync().expect("syncs");
        fs::write(folder.join(VERSION_FILE), "4\n").expect("writes");
    }

    #[tokio::test]
    async fn of_a_store_of_format_4_it_is_found_out_when_content_is_over() {
        let folder = tempfile::tempdir().expect("makes a folder");
        let open =
            || Embedded::open(folder.path(), &region("eu"), &EmbeddedOptions::default()).expect("opens").stores();
        let log = conversation(1);
        let stores = open();
        let entries = (0..3).map(|sequence| expiring(log, sequence, 100 + sequence)).collect();
        let cut = LogAppend {
            apart: Some(2),
            epoch: hearth_protocol::Epoch(2),
            record: Some(record(2)),
            ..append(log, 3, 0)
        };
        stores.log.append(vec![LogAppend { entries, ..append(log, 0, 3) }, cut]).await.expect("appends");
        let told = stores.log.expired(hearth_protocol::Timestamp(999), 9).await.expect("lists");
        assert_eq!(told.len(), 3);
        drop(stores);
        forget_expiries(folder.path());
        assert_eq!(open().log.expired(hearth_protocol::Timestamp(999), 9).await.expect("lists"), told);
    }
}
