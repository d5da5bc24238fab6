//! The journal: what a commit answers for is here and synced before the tables have it.
//!
//! fjall has a journal of its own and takes locks over its syncs: a flush or a merge keeps a commit waiting for tens of
//! milliseconds. This journal takes no lock. The tables are written behind it and may fall behind, within a bound.
//!
//! ```text
//!   slot-0 … slot-15, each one segment at a time:
//!     header   magic, segment's number, lowest number still needed, their hash
//!     record*  length, hash (seeded with the number), ops: keyspace, key, value or none
//!     end      a length of all ones, once the next segment begins
//! ```
//! A slot is filled with zeros before its first use, and is used again without a change of name or size: a sync then
//! writes data and no metadata, and waits for no other file (ext4, `data=ordered`: the commit of its journal waits for
//! the data of every file that grew). A header is on disk before anything else of its segment, and says which older
//! segments count no more: what is left of them is not taken for news.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Slots, and with them segments that wait for the tables. When all do, a commit waits until one is done.
pub(super) const SLOTS: usize = 16;
/// Size from which the next record goes to the next segment. A record may be larger.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
const MAGIC: &[u8; 8] = b"HRTHJNL1";
const HEADER: usize = 32;
/// Bytes before the ops of a record: length and hash.
pub(super) const RECORD_HEAD: usize = 12;
/// The length that ends a segment.
const END: u32 = u32::MAX;
/// The length of a value that says that the key is taken away.
const REMOVED: u32 = u32::MAX;

/// Why a journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    #[error("the journal cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("the journal lacks segment {0}")]
    Missing(u64),
    #[error("segment {0} of the journal is damaged before its end")]
    Damaged(u64),
}

/// Which segments the tables still need. Shared with whoever writes the tables.
#[derive(Debug, Default)]
pub(super) struct Needed {
    lowest: Mutex<u64>,
    moved: Condvar,
    ended: AtomicBool,
}

impl Needed {
    /// Everything below `number` is in the tables, on disk.
    pub(super) fn only_from(&self, number: u64) {
        *self.lowest.lock() = number;
        self.moved.notify_all();
    }

    /// Nothing more gets into the tables: whoever waits for a slot waits in vain, and is told.
    pub(super) fn end(&self) {
        let _waiting = self.lowest.lock();
        self.ended.store(true, Ordering::Relaxed);
        self.moved.notify_all();
    }
}

/// The journal, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    slots: Vec<Arc<File>>,
    /// Fills the next segment's slot, if it was never used.
    filling: Option<JoinHandle<io::Result<()>>>,
    needed: Arc<Needed>,
    number: u64,
    offset: u64,
}

impl Journal {
    /// Opens the journal in `folder`, or makes one; hands every record that may not be in the tables to `replay`, in
    /// order. The caller puts them on disk there and calls [`Journal::begin`] before the first append.
    ///
    /// # Errors
    /// [`JournalError`], or what `replay` answers.
    pub(super) fn open<E: From<JournalError>>(
        folder: &Path,
        mut replay: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let slots = open_slots(folder).map_err(JournalError::from)?;
        let segments = live_segments(&slots)?;
        let last = segments.last().map_or(0, |(number, _)| *number);
        for (number, slot) in segments {
            let bytes = read_all(&slots[slot]).map_err(JournalError::from)?;
            let mut records = Records { bytes: &bytes, offset: HEADER, number };
            for ops in records.by_ref() {
                replay(ops)?;
            }
            if number < last && !records.ended() {
                return Err(JournalError::Damaged(number).into());
            }
        }
        Ok(Self { slots, filling: None, needed: Arc::new(Needed::default()), number: last, offset: 0 })
    }

    /// Begins the first segment of this life: everything older is in the tables, on disk.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        self.needed.only_from(self.number + 1);
        self.next_segment()
    }

    /// Which segments are still needed, for whoever writes the tables.
    pub(super) fn needed(&self) -> Arc<Needed> {
        Arc::clone(&self.needed)
    }

    /// The segment that the next record of ordinary size goes to.
    pub(super) fn segment(&self) -> u64 {
        self.number
    }

    /// Writes a record, whose first [`RECORD_HEAD`] bytes are filled in here; with `sync` it is on disk when this
    /// returns.
    ///
    /// # Errors
    /// The disk's. What is on it is unknown then: nothing may be appended any more.
    pub(super) fn append(&mut self, record: &mut [u8], sync: bool) -> io::Result<()> {
        let length = u32::try_from(record.len() - RECORD_HEAD).ok().filter(|length| *length < END);
        let length = length.ok_or_else(|| io::Error::other("a commit of 4 GiB or more"))?;
        if self.offset > HEADER as u64 && self.offset + record.len() as u64 > SEGMENT_BYTES {
            let end = END.to_le_bytes();
            self.file().write_all_at(&end, self.offset)?;
            self.file().sync_data()?;
            self.next_segment()?;
        }
        let hash = xxh3_64_with_seed(&record[RECORD_HEAD..], self.number);
        record[..4].copy_from_slice(&length.to_le_bytes());
        record[4..RECORD_HEAD].copy_from_slice(&hash.to_le_bytes());
        self.file().write_all_at(record, self.offset)?;
        self.offset += record.len() as u64;
        if sync { self.file().sync_data() } else { Ok(()) }
    }

    /// Goes on in slots that hold nothing of before. Everything so far is in the tables, on disk.
    ///
    /// # Errors
    /// The disk's. Nothing may be appended any more.
    pub(super) fn empty(&mut self) -> io::Result<()> {
        // The first turn puts on disk that no older segment counts; only then their slots may be emptied. The second one
        // leaves the slot that was in use at the first, behind whose header an old segment shows.
        for _ in 0..2 {
            let end = END.to_le_bytes();
            self.file().write_all_at(&end, self.offset)?;
            self.file().sync_data()?;
            self.needed.only_from(self.number + 1);
            self.next_segment()?;
            if let Some(filling) = self.filling.take() {
                filling.join().map_err(|_| io::Error::other("filling a slot of the journal panicked"))??;
            }
            let in_use = slot_of(self.number);
            for (_, slot) in self.slots.iter().enumerate().filter(|(slot, _)| *slot != in_use) {
                slot.set_len(0)?;
                slot.sync_all()?;
            }
        }
        Ok(())
    }

    fn file(&self) -> &File {
        &self.slots[slot_of(self.number)]
    }

    /// Takes the slot that has waited longest, once the tables have what is in it.
    fn next_segment(&mut self) -> io::Result<()> {
        let number = self.number + 1;
        let lowest = {
            let mut lowest = self.needed.lowest.lock();
            while number >= *lowest + SLOTS as u64 {
                if self.needed.ended.load(Ordering::Relaxed) {
                    return Err(io::Error::other("the journal is full, and the tables take nothing more"));
                }
                self.needed.moved.wait(&mut lowest);
            }
            *lowest
        };
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&number.to_le_bytes());
        header[16..24].copy_from_slice(&lowest.to_le_bytes());
        let hash = xxh3_64_with_seed(&header[..24], 0);
        header[24..].copy_from_slice(&hash.to_le_bytes());
        self.number = number;
        self.fill(number)?;
        self.file().write_all_at(&header, 0)?;
        self.file().sync_data()?;
        self.offset = HEADER as u64;
        self.fill_ahead(number + 1)
    }

    /// Sees to it that the slot of segment `number` is filled.
    fn fill(&mut self, number: u64) -> io::Result<()> {
        match self.filling.take() {
            Some(filling) => filling.join().map_err(|_| io::Error::other("filling a slot of the journal panicked"))?,
            None => fill(&self.slots[slot_of(number)]),
        }
    }

    /// Fills the slot of segment `number` while this one is in use.
    fn fill_ahead(&mut self, number: u64) -> io::Result<()> {
        let slot = Arc::clone(&self.slots[slot_of(number)]);
        if slot.metadata()?.len() < SEGMENT_BYTES {
            self.filling = Some(std::thread::Builder::new().name("journal-fill".into()).spawn(move || fill(&slot))?);
        }
        Ok(())
    }
}

/// Fills a slot with zeros behind what it holds. One that was cut short is filled up again.
fn fill(slot: &File) -> io::Result<()> {
    const STEP: usize = 64 * 1024;
    let mut filled = slot.metadata()?.len();
    if filled >= SEGMENT_BYTES {
        return Ok(());
    }
    while filled < SEGMENT_BYTES {
        slot.write_all_at(&[0; STEP], filled)?;
        filled += STEP as u64;
    }
    slot.sync_all()
}

fn slot_of(number: u64) -> usize {
    usize::try_from(number % SLOTS as u64).expect("below the number of slots")
}

fn open_slots(folder: &Path) -> io::Result<Vec<Arc<File>>> {
    std::fs::create_dir_all(folder)?;
    let path = |slot: usize| -> PathBuf { folder.join(format!("slot-{slot}")) };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let open = |slot| options.open(path(slot)).map(Arc::new);
    let slots: Vec<Arc<File>> = (0..SLOTS).map(open).collect::<io::Result<_>>()?;
    File::open(folder)?.sync_all()?;
    if let Some(parent) = folder.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(slots)
}

/// Number and slot of every segment that may hold what the tables lack, lowest first, without a gap.
fn live_segments(slots: &[Arc<File>]) -> Result<Vec<(u64, usize)>, JournalError> {
    let mut found = Vec::new();
    let mut lowest = 0;
    for (slot, file) in slots.iter().enumerate() {
        let mut header = [0; HEADER];
        if file.metadata()?.len() < HEADER as u64 {
            continue;
        }
        file.read_exact_at(&mut header, 0)?;
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        // A header that a power cut left half written begins a segment in which nothing was answered for.
        if header[..8] == MAGIC[..] && number(24) == xxh3_64_with_seed(&header[..24], 0) {
            found.push((number(8), slot));
            lowest = lowest.max(number(16));
        }
    }
    found.retain(|(number, _)| *number >= lowest);
    found.sort_unstable();
    for (index, (number, _)) in found.iter().enumerate() {
        let expected = lowest + index as u64;
        if *number != expected {
            return Err(JournalError::Missing(expected));
        }
    }
    Ok(found)
}

fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// The whole records at the front of a segment.
struct Records<'a> {
    bytes: &'a [u8],
    offset: usize,
    number: u64,
}

impl<'a> Records<'a> {
    fn length(&self) -> Option<u32> {
        let bytes = self.bytes.get(self.offset..self.offset + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    /// Whether the segment was ended by the next one.
    fn ended(&self) -> bool {
        self.length() == Some(END)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = self.length().filter(|length| *length != END)?;
        let start = self.offset + RECORD_HEAD;
        let ops = self.bytes.get(start..start + usize::try_from(length).ok()?)?;
        let hash = &self.bytes[self.offset + 4..start];
        // What a power cut left of the last write was not answered for.
        if hash != xxh3_64_with_seed(ops, self.number).to_le_bytes() {
            return None;
        }
        self.offset = start + ops.len();
        Some(ops)
    }
}

/// Writes one op behind those in `record`. `value` of `None` takes the key away.
pub(super) fn write_op(record: &mut Vec<u8>, keyspace: &str, key: &[u8], value: Option<&[u8]>) {
    let short = |length: usize| u16::try_from(length).expect("names and keys are below 64 KiB").to_le_bytes();
    record.extend_from_slice(&short(keyspace.len()));
    record.extend_from_slice(keyspace.as_bytes());
    record.extend_from_slice(&short(key.len()));
    record.extend_from_slice(key);
    let length = value.map_or(REMOVED, |value| u32::try_from(value.len()).expect("values are below 4 GiB"));
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(value.unwrap_or_default());
}

/// One change of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Op<'a> {
    /// The keyspace's name.
    pub(super) keyspace: &'a str,
    /// The key.
    pub(super) key: &'a [u8],
    /// The value, or that the key is taken away.
    pub(super) value: Option<&'a [u8]>,
}

/// The ops of a record. `None` when the bytes are not what [`write_op`] writes.
pub(super) fn read_ops(mut bytes: &[u8]) -> Option<Vec<Op<'_>>> {
    let mut ops = Vec::new();
    while !bytes.is_empty() {
        let keyspace = std::str::from_utf8(take_short(&mut bytes)?).ok()?;
        let key = take_short(&mut bytes)?;
        let length = u32::from_le_bytes(take(&mut bytes, 4)?.try_into().ok()?);
        let value = if length == REMOVED { None } else { Some(take(&mut bytes, usize::try_from(length).ok()?)?) };
        ops.push(Op { keyspace, key, value });
    }
    Some(ops)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn take_short<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u16::from_le_bytes(take(bytes, 2)?.try_into().ok()?);
    take(bytes, usize::from(length))
}

#[cfg(test)]
#[path = "journal/tests.rs"]
mod tests;
