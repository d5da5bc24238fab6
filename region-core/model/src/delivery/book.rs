//! When messages passed the steps of their way through one region, for the last hour: rows of fixed size in a ring,
//! found by place and by id. It is written for every message, so it allocates nothing after it was made, and looks up
//! nothing but what it is told of.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hearth_protocol::client::KeptWhy;
use hearth_protocol::{ConversationId, RegionId, SealedEntry, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// For how long hops are kept, in microseconds.
pub const KEPT_MICROSECONDS: u64 = 3_600_000_000;
/// Times of a row are told from its first one by 32 bits. A clock that is set back by less than this still fits.
const BEFORE: u32 = 1 << 29;
/// Times that a row has beside those on links.
const TIMES: usize = 7;

/// A time of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Time {
    Taken,
    Queued,
    Forwarded,
    Acked,
    Came,
    Durable,
    Shown,
}

/// One message at one region.
#[derive(Clone, Copy, Debug)]
struct Row {
    conversation: u128,
    id: u128,
    /// Hash of the sender; two senders may give one id.
    sender: u64,
    /// 0 until it has a number.
    sequence: u64,
    epoch: u64,
    /// Microseconds since the epoch of the first time.
    base: u64,
    times: [u32; TIMES],
    /// Whether this region numbered it.
    numbered: bool,
}

/// Microseconds after `base`, as a row keeps them; 0 for what does not fit, and so for no time.
fn packed(base: u64, at: u64) -> u32 {
    let biased = (i128::from(at) - i128::from(base)) + i128::from(BEFORE);
    u32::try_from(biased).unwrap_or(0)
}

fn unpacked(base: u64, packed: u32) -> Option<u64> {
    (packed > 0).then(|| (base + u64::from(packed)).saturating_sub(u64::from(BEFORE)))
}

/// What a region knows of one message; times in microseconds since the epoch, by the clock of the region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopTimes {
    /// The message's number; 0 until it has one.
    pub sequence: u64,
    /// The epoch of that number.
    pub epoch: u64,
    /// Whether this region numbered it; else it holds a copy, or was its edge alone.
    pub numbered: bool,
    /// It came from a session here.
    pub taken: Option<u64>,
    /// Its sender was told that it is held here.
    pub queued: Option<u64>,
    /// It went on the link to its home last.
    pub forwarded: Option<u64>,
    /// Its sender was told that it is sequenced.
    pub acked: Option<u64>,
    /// It was numbered here, or came in from its home.
    pub came: Option<u64>,
    /// It is on disk here.
    pub durable: Option<u64>,
    /// The mark passed it here: it was handed to sessions.
    pub shown: Option<u64>,
    /// It went on the link to these regions last.
    pub out: Vec<(RegionId, u64)>,
}

/// From when on a book knows everything that passed, and why not from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Microseconds since the epoch.
    pub since: u64,
    /// Why.
    pub why: KeptWhy,
}

/// What passed through one region lately: at most so many messages, the oldest go first.
#[derive(Debug)]
pub struct HopBook {
    rows: Vec<Row>,
    most: usize,
    /// Index of the oldest row.
    first: usize,
    len: usize,
    /// By row and other region, as [`packed`].
    out: Box<[u32]>,
    others: Vec<RegionId>,
    by_place: HashTable<u32>,
    by_id: HashTable<u32>,
    hasher: FixedState,
    started: u64,
    /// The first time of the newest row that went for want of room.
    pushed_out: u64,
}

impl HopBook {
    /// An empty book of a region that started at `started` (microseconds since the epoch), for at most `most` messages,
    /// at least 1, and links to `others`. Memory is reserved at once and touched as rows come: see [`HopBook::bytes`].
    /// `seed` keeps clients, who choose ids, from choosing which of them share a place in its tables.
    #[must_use]
    pub fn new(most: usize, others: Vec<RegionId>, seed: u64, started: u64) -> Self {
        let most = most.clamp(1, u32::MAX as usize);
        Self {
            rows: Vec::with_capacity(most),
            most,
            first: 0,
            len: 0,
            out: vec![0; most * others.len()].into_boxed_slice(),
            others,
            by_place: HashTable::with_capacity(most),
            by_id: HashTable::with_capacity(most),
            hasher: FixedState::with_seed(seed),
            started,
            pushed_out: 0,
        }
    }

    /// Bytes of a book that is full.
    #[must_use]
    pub fn bytes(most: usize, others: usize) -> usize {
        // A table of 4-byte slots has a byte of its own for each, and is full at seven eighths.
        let slots = (most * 8 / 7).next_power_of_two();
        most * (size_of::<Row>() + others * size_of::<u32>()) + 2 * slots * (size_of::<u32>() + 1)
    }

    /// Messages in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// From when on it knows what passed.
    #[must_use]
    pub fn kept(&self, now: u64) -> Kept {
        let hour = Kept { since: now.saturating_sub(KEPT_MICROSECONDS), why: KeptWhy::Hour };
        let start = Kept { since: self.started, why: KeptWhy::Start };
        let full = Kept { since: self.pushed_out + 1, why: KeptWhy::Full };
        let later = if start.since > hour.since { start } else { hour };
        if self.pushed_out > 0 && full.since > later.since { full } else { later }
    }

    /// A session here sent a message.
    pub fn taken(&mut self, conversation: ConversationId, id: Uuid, sender: &str, at: u64) {
        let name = self.name(conversation, id, sender);
        let slot = self.of_id(name).unwrap_or_else(|| self.insert(name, at));
        // Sent again: the first time counts.
        self.set_first(slot, Time::Taken, at);
    }

    /// Its sender was told that the message is held here.
    pub fn queued(&mut self, conversation: ConversationId, id: Uuid, sender: &str, at: u64) {
        let name = self.name(conversation, id, sender);
        if let Some(slot) = self.of_id(name) {
            self.set_first(slot, Time::Queued, at);
        }
    }

    /// It went to its home.
    pub fn forwarded(&mut self, conversation: ConversationId, id: Uuid, sender: &str, at: u64) {
        let name = self.name(conversation, id, sender);
        if let Some(slot) = self.of_id(name) {
            self.set(slot, Time::Forwarded, at);
        }
    }

    /// Its sender was told its number and epoch.
    pub fn acked(
        &mut self,
        (conversation, id, sender): (ConversationId, Uuid, &str),
        (sequence, epoch): (u64, u64),
        at: u64,
    ) {
        let name = self.name(conversation, id, sender);
        if let Some(slot) = self.of_id(name) {
            self.place(slot, sequence, epoch);
            self.set_first(slot, Time::Acked, at);
        }
    }

    /// An entry was numbered here, and is on its way to the disk.
    pub fn numbered(&mut self, conversation: ConversationId, entry: &SealedEntry, at: u64) {
        self.came(conversation, entry, true, at);
    }

    /// An entry came in from its home, or from another region that holds it.
    pub fn arrived(&mut self, conversation: ConversationId, entry: &SealedEntry, at: u64) {
        self.came(conversation, entry, false, at);
    }

    /// Entries of before this hour are history that is copied, and no message on its way.
    fn came(&mut self, conversation: ConversationId, entry: &SealedEntry, numbered: bool, at: u64) {
        let fixed = &entry.entry.fixed;
        let old = fixed.time.0.saturating_mul(1_000).saturating_add(KEPT_MICROSECONDS) < at;
        let (sequence, epoch) = (fixed.position.sequence.0, fixed.position.epoch.0);
        if sequence == 0 || old {
            return;
        }
        let name = self.name(conversation, fixed.id, fixed.sender.as_str());
        let known = self.of_id(name);
        let slot = match known.filter(|slot| self.is_at(*slot, sequence, epoch)) {
            Some(slot) => slot,
            // Its position of before has left the line: this is another way.
            None => self.insert(name, at),
        };
        self.place(slot, sequence, epoch);
        if self.rows[slot].times[Time::Came as usize] == 0 {
            self.rows[slot].numbered = numbered;
            self.set(slot, Time::Came, at);
        }
    }

    /// Whether a row has no number yet, or this one.
    fn is_at(&self, slot: usize, sequence: u64, epoch: u64) -> bool {
        let row = &self.rows[slot];
        row.sequence == 0 || (row.sequence == sequence && row.epoch == epoch)
    }

    /// Entries of a conversation below `length` are on disk here.
    pub fn durable(&mut self, conversation: ConversationId, length: u64, at: u64) {
        let mut sequence = length;
        while sequence > 1 {
            sequence -= 1;
            let Some(slot) = self.of_place(conversation.0.as_u128(), sequence) else { return };
            if self.rows[slot].times[Time::Durable as usize] != 0 {
                return;
            }
            self.set(slot, Time::Durable, at);
        }
    }

    /// Entries `first .. first + count` went on the link to another region.
    pub fn sent(&mut self, conversation: ConversationId, peer: &RegionId, (first, count): (u64, u64), at: u64) {
        let Some(other) = self.others.iter().position(|other| other == peer) else { return };
        for sequence in first..first.saturating_add(count) {
            if let Some(slot) = self.of_place(conversation.0.as_u128(), sequence) {
                self.out[slot * self.others.len() + other] = packed(self.rows[slot].base, at);
            }
        }
    }

    /// An entry was handed to the sessions here.
    pub fn shown(&mut self, conversation: ConversationId, sequence: u64, at: u64) {
        if let Some(slot) = self.of_place(conversation.0.as_u128(), sequence) {
            self.set_first(slot, Time::Shown, at);
        }
    }

    /// What is known of a message, by its id or by its number. `sender` tells apart what two gave the same id.
    #[must_use]
    pub fn find(
        &self,
        conversation: ConversationId,
        (id, sender, sequence): (Option<Uuid>, Option<&UserId>, Option<u64>),
        now: u64,
    ) -> Option<HopTimes> {
        let fits = |slot: &usize| {
            let row = &self.rows[*slot];
            let sender = sender.is_none_or(|sender| row.sender == self.hasher.hash_one(sender.as_str()));
            sender && id.is_none_or(|id| row.id == id.as_u128()) && self.is_kept(row, now)
        };
        let by_place = sequence.and_then(|sequence| self.of_place(conversation.0.as_u128(), sequence));
        let slot = by_place.filter(fits).or_else(|| {
            let mut of_id = self.slots_of_id(id?).filter(|slot| {
                let row = &self.rows[*slot];
                let placed = sequence.is_none_or(|sequence| row.sequence == 0 || row.sequence == sequence);
                row.conversation == conversation.0.as_u128() && placed
            });
            of_id.find(fits)
        })?;
        Some(self.hop_times(slot))
    }

    /// The conversations in which a message of this id passed.
    #[must_use]
    pub fn conversations_of(&self, id: Uuid, now: u64) -> Vec<ConversationId> {
        let kept = self.slots_of_id(id).map(|slot| &self.rows[slot]).filter(|row| self.is_kept(row, now));
        let mut found: Vec<ConversationId> =
            kept.map(|row| ConversationId(Uuid::from_u128(row.conversation))).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn is_kept(&self, row: &Row, now: u64) -> bool {
        row.base.saturating_add(KEPT_MICROSECONDS) >= now
    }

    fn hop_times(&self, slot: usize) -> HopTimes {
        let row = &self.rows[slot];
        let time = |time: Time| unpacked(row.base, row.times[time as usize]);
        let places = &self.out[slot * self.others.len()..(slot + 1) * self.others.len()];
        let out = self.others.iter().zip(places);
        HopTimes {
            sequence: row.sequence,
            epoch: row.epoch,
            numbered: row.numbered,
            taken: time(Time::Taken),
            queued: time(Time::Queued),
            forwarded: time(Time::Forwarded),
            acked: time(Time::Acked),
            came: time(Time::Came),
            durable: time(Time::Durable),
            shown: time(Time::Shown),
            out: out.filter_map(|(other, at)| Some((other.clone(), unpacked(row.base, *at)?))).collect(),
        }
    }

    fn name(&self, conversation: ConversationId, id: Uuid, sender: &str) -> (u128, u128, u64) {
        (conversation.0.as_u128(), id.as_u128(), self.hasher.hash_one(sender))
    }

    fn of_id(&self, (conversation, id, sender): (u128, u128, u64)) -> Option<usize> {
        let is_it = |slot: &u32| {
            let row = &self.rows[*slot as usize];
            row.id == id && row.conversation == conversation && row.sender == sender
        };
        self.by_id.find(self.hasher.hash_one(id), is_it).map(|slot| *slot as usize)
    }

    fn slots_of_id(&self, id: Uuid) -> impl Iterator<Item = usize> {
        let id = id.as_u128();
        let slots = self.by_id.iter_hash(self.hasher.hash_one(id)).map(|slot| *slot as usize);
        slots.filter(move |slot| self.rows[*slot].id == id)
    }

    fn of_place(&self, conversation: u128, sequence: u64) -> Option<usize> {
        let is_it = |slot: &u32| {
            let row = &self.rows[*slot as usize];
            row.sequence == sequence && row.conversation == conversation
        };
        self.by_place.find(self.hasher.hash_one((conversation, sequence)), is_it).map(|slot| *slot as usize)
    }

    fn set(&mut self, slot: usize, time: Time, at: u64) {
        let row = &mut self.rows[slot];
        row.times[time as usize] = packed(row.base, at);
    }

    fn set_first(&mut self, slot: usize, time: Time, at: u64) {
        if self.rows[slot].times[time as usize] == 0 {
            self.set(slot, time, at);
        }
    }

    /// Gives a row its number; the newest of one number is found by it.
    fn place(&mut self, slot: usize, sequence: u64, epoch: u64) {
        let row = &mut self.rows[slot];
        if row.sequence != 0 || sequence == 0 {
            return;
        }
        (row.sequence, row.epoch) = (sequence, epoch);
        let (conversation, rows) = (row.conversation, &self.rows);
        let hash = self.hasher.hash_one((conversation, sequence));
        let is_it = |slot: &u32| {
            let row = &rows[*slot as usize];
            row.sequence == sequence && row.conversation == conversation
        };
        let value = u32::try_from(slot).unwrap_or(u32::MAX);
        match self.by_place.find_mut(hash, is_it) {
            Some(known) => *known = value,
            None => {
                let hasher = &self.hasher;
                self.by_place.insert_unique(hash, value, |slot| {
                    let row = &rows[*slot as usize];
                    hasher.hash_one((row.conversation, row.sequence))
                });
            }
        }
    }

    /// Adds a row, in place of the oldest where there is no room; the newest of one name is found by it.
    fn insert(&mut self, name: (u128, u128, u64), at: u64) -> usize {
        self.forget_old(at);
        if self.len == self.most {
            self.pushed_out = self.rows[self.first].base;
            self.forget_first();
        }
        let slot = (self.first + self.len) % self.most;
        let (conversation, id, sender) = name;
        let times = [0; TIMES];
        let row = Row { conversation, id, sender, sequence: 0, epoch: 0, base: at, times, numbered: false };
        if slot == self.rows.len() {
            self.rows.push(row);
        } else {
            self.rows[slot] = row;
        }
        self.out[slot * self.others.len()..(slot + 1) * self.others.len()].fill(0);
        self.len += 1;
        let (hash, rows, value) = (self.hasher.hash_one(id), &self.rows, u32::try_from(slot).unwrap_or(u32::MAX));
        let is_it = |known: &u32| {
            let row = &rows[*known as usize];
            *known != value && row.id == id && row.conversation == conversation && row.sender == sender
        };
        match self.by_id.find_mut(hash, is_it) {
            Some(known) => *known = value,
            None => {
                let hasher = &self.hasher;
                self.by_id.insert_unique(hash, value, |slot| hasher.hash_one(rows[*slot as usize].id));
            }
        }
        slot
    }

    fn forget_old(&mut self, now: u64) {
        while self.len > 0 && !self.is_kept(&self.rows[self.first], now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let (slot, row) = (self.first, self.rows[self.first]);
        let value = u32::try_from(slot).unwrap_or(u32::MAX);
        // Where a newer row took its name or its place, that one stays.
        if let Ok(known) = self.by_id.find_entry(self.hasher.hash_one(row.id), |known| *known == value) {
            known.remove();
        }
        if row.sequence > 0 {
            let hash = self.hasher.hash_one((row.conversation, row.sequence));
            if let Ok(known) = self.by_place.find_entry(hash, |known| *known == value) {
                known.remove();
            }
        }
        self.first = (self.first + 1) % self.most;
        self.len -= 1;
    }
}
