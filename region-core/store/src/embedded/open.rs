//! Opening: the version file, the database, the keyspaces, who the store is.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use fjall::compaction::Leveled;
use fjall::config::{CompressionPolicy, FilterPolicy, PinningPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions};
use hearth_protocol::RegionId;
use hearth_protocol::record::{Record, StoreIdentity};

use super::batch::{DurableBatch, Sync};
use super::committer::CHANGE_FLOOR;
use super::tables::Tables;
use super::{EmbeddedOptions, OpenError};

/// The format that this build writes and reads.
pub(super) const FORMAT: u32 = 1;
/// Names the format before anything else of the folder is touched.
pub(super) const VERSION_FILE: &str = "hearth-store";
const DATABASE_FOLDER: &str = "database";
const IDENTITY: &[u8] = b"identity";
const VERSION: &[u8] = b"version";

const MEBIBYTE: u64 = 1024 * 1024;
/// Journals beyond this make fjall flush keyspaces that hold old ones alive; a reopen reads them all.
const JOURNALS: u64 = 128 * MEBIBYTE;
const BLOCK_CACHE: u64 = 64 * MEBIBYTE;

/// A database that is open, and who it is in this life.
pub(super) struct Opened {
    pub(super) tables: Tables,
    pub(super) identity: StoreIdentity,
    /// No change so far had a higher number.
    pub(super) change_floor: u64,
}

/// Opens or makes the store in `folder`.
pub(super) fn open(folder: &Path, region: &RegionId, options: &EmbeddedOptions) -> Result<Opened, OpenError> {
    fs::create_dir_all(folder)?;
    check_version_file(folder)?;
    let database = open_database(&folder.join(DATABASE_FOLDER), options)?;
    let tables = open_keyspaces(database, options)?;
    check_version_key(&tables)?;
    let identity = next_identity(&tables, region)?;
    let change_floor = number(&tables, CHANGE_FLOOR)?.unwrap_or(0);
    let mut batch = DurableBatch::new(&tables.database, 2);
    batch.put(&tables.meta, VERSION, &u64::from(FORMAT).to_be_bytes());
    batch.put(&tables.meta, IDENTITY, &identity.encode());
    batch.commit(Sync::Disk)?;
    Ok(Opened { tables, identity, change_floor })
}

fn check_version_file(folder: &Path) -> Result<(), OpenError> {
    let path = folder.join(VERSION_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(FORMAT) => Ok(()),
            Ok(found) => Err(OpenError::Version { found, known: FORMAT }),
            Err(_) => Err(OpenError::Failed(format!("{} does not hold a version", path.display()))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => write_version_file(folder),
        Err(error) => Err(error.into()),
    }
}

/// Written aside and renamed: a crash leaves no half of it.
fn write_version_file(folder: &Path) -> Result<(), OpenError> {
    let aside = folder.join("hearth-store.new");
    let mut file = fs::File::create(&aside)?;
    writeln!(file, "{FORMAT}")?;
    file.sync_all()?;
    fs::rename(&aside, folder.join(VERSION_FILE))?;
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}

/// Flushed memtables that are merged into the first level at a time: many small ones, since memtables are small.
const L0_RUNS: u8 = 8;
/// Size of a table on disk: a small one is merged without a long stall.
const TABLE_BYTES: u64 = 16 * MEBIBYTE;

fn open_database(folder: &Path, options: &EmbeddedOptions) -> Result<Database, OpenError> {
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
    // Small memtables: a look-up in a large one misses the processor's caches, and its flush stalls commits longer. At
    // 25,000 appends/s the p99 of a commit was 200 ms with 64 MiB, 43 ms with 16 MiB and 18 ms with 4 MiB
    // (`examples/commit_rate`, two idle cores).
    Ok(Tables {
        // Entries are read by range, which no filter helps.
        entries: make("entries", 4, false)?,
        // Nearly every look-up misses: filters at all levels, held in memory.
        dedup: make("dedup", 2, true)?,
        logs: make("logs", 8, true)?,
        snapshots: make("snapshots", 8, true)?,
        marks: make("marks", 8, true)?,
        placements: make("placements", 8, true)?,
        outbox: make("outbox", 8, false)?,
        parked: make("parked", 8, false)?,
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
        Some(found) if found != u64::from(FORMAT) => {
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
