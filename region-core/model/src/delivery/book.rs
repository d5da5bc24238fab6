//! When messages passed the steps of their way through one region, for the last hour: rows of fixed size in a ring,
//! found by place and by id. It is written for every message, so it allocates nothing after it was made, and looks up
//! nothing but what it is told of.
//!
//! ```text
//!   heads by hash ─► newest row ─► older row ─► … ─► a row that went
//! ```
//! Rows are numbered as they come, and each chain descends: what the ring has dropped ends the chains that lead to it, so
//! that nothing is looked up to drop a row.

use std::cmp::Reverse;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hearth_protocol::client::KeptWhy;
use hearth_protocol::{ConversationId, RegionId, SealedEntry, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::mutants::Mutant;

/// For how long hops are kept, in microseconds.
pub const KEPT_MICROSECONDS: u64 = 3_600_000_000;
/// Times of a row are told from its first one by 32 bits. A clock that is set back by less than this still fits.
const BEFORE: u32 = 1 << 29;
/// Times that a row has beside those on links.
const TIMES: usize = 7;

/// Rows of a book at most: numbers of rows go round at four times as many and more.
const MOST_ROWS: usize = 1 << 30;

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
    conversation: [u64; 2],
    id: [u64; 2],
    /// Hash of the sender; two senders may give one id.
    sender: u64,
    /// 0 until it has a number.
    sequence: u64,
    epoch: u64,
    /// Microseconds since the epoch of the first time.
    base: u64,
    times: [u32; TIMES],
    /// The next older row of its chains by id and by place.
    older: [u32; 2],
    /// Whether this region numbered it.
    numbered: bool,
}

/// What rows are found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chain {
    Id,
    Place,
}

/// What a row is of.
#[derive(Clone, Copy, Debug)]
struct Name {
    conversation: [u64; 2],
    id: [u64; 2],
    /// Hash of the sender.
    sender: u64,
}

/// Chains of one kind, a power of two: most of them are empty or have one row, so that a look-up touches few rows.
fn buckets(most: usize) -> usize {
    2 * most.next_power_of_two()
}

/// An index that went over the end of a ring once at most.
fn wrapped(index: usize, most: usize) -> usize {
    if index >= most { index - most } else { index }
}

/// A UUID without the alignment of a 128-bit number.
fn halves(id: Uuid) -> [u64; 2] {
    let (high, low) = id.as_u64_pair();
    [high, low]
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
    /// The index of the oldest row, and its number.
    first: usize,
    number: u32,
    len: usize,
    /// By row and other region, as [`packed`].
    out: Box<[u32]>,
    others: Vec<RegionId>,
    /// By chain and hash, the number of the newest row.
    heads: [Box<[u32]>; 2],
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
        let most = most.clamp(1, MOST_ROWS);
        // Numbers begin with 1: a head of 0 is no row for as long as the first ones are there.
        let heads = || vec![0; buckets(most)].into_boxed_slice();
        Self {
            rows: Vec::with_capacity(most),
            most,
            first: 0,
            number: 1,
            len: 0,
            out: vec![0; most * others.len()].into_boxed_slice(),
            others,
            heads: [heads(), heads()],
            hasher: FixedState::with_seed(seed),
            started,
            pushed_out: 0,
        }
    }

    /// Bytes of a book that is full.
    #[must_use]
    pub fn bytes(most: usize, others: usize) -> usize {
        most * (size_of::<Row>() + others * size_of::<u32>()) + 2 * buckets(most) * size_of::<u32>()
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
        let numbered = self.of_position(name.conversation, sequence, epoch).filter(|slot| self.has_name(*slot, name));
        if let Some(slot) = numbered.or_else(|| self.of_id(name)) {
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
            let Some(slot) = self.of_place(halves(conversation.0), sequence) else { return };
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
            if let Some(slot) = self.of_place(halves(conversation.0), sequence) {
                self.out[slot * self.others.len() + other] = packed(self.rows[slot].base, at);
            }
        }
    }

    /// The entry of a number and epoch was handed to the sessions here.
    pub fn shown(&mut self, conversation: ConversationId, (sequence, epoch): (u64, u64), at: u64) {
        if let Some(slot) = self.of_position(halves(conversation.0), sequence, epoch) {
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
            if Mutant::HopsByNumber.is_on() && sequence == Some(row.sequence) {
                return self.is_kept(row, now);
            }
            let sender = sender.is_none_or(|sender| row.sender == self.hasher.hash_one(sender.as_str()));
            sender && id.is_none_or(|id| row.id == halves(id)) && self.is_kept(row, now)
        };
        let by_place = sequence.and_then(|sequence| {
            let place = (halves(conversation.0), sequence);
            self.of_place(place.0, place.1).filter(fits).or_else(|| self.at_place(place.0, place.1).find(fits))
        });
        let slot = by_place.or_else(|| {
            let mut of_id = self.slots_of_id(id?).filter(|slot| {
                let row = &self.rows[*slot];
                let placed = sequence.is_none_or(|sequence| row.sequence == 0 || row.sequence == sequence);
                row.conversation == halves(conversation.0) && placed
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
            kept.map(|row| ConversationId(Uuid::from_u64_pair(row.conversation[0], row.conversation[1]))).collect();
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

    fn name(&self, conversation: ConversationId, id: Uuid, sender: &str) -> Name {
        Name { conversation: halves(conversation.0), id: halves(id), sender: self.hasher.hash_one(sender) }
    }

    fn of_id(&self, name: Name) -> Option<usize> {
        self.chain(Chain::Id, self.hasher.hash_one(name.id)).find(|slot| self.has_name(*slot, name))
    }

    fn has_name(&self, slot: usize, name: Name) -> bool {
        let row = &self.rows[slot];
        row.id == name.id && row.conversation == name.conversation && row.sender == name.sender
    }

    fn slots_of_id(&self, id: Uuid) -> impl Iterator<Item = usize> {
        let id = halves(id);
        self.chain(Chain::Id, self.hasher.hash_one(id)).filter(move |slot| self.rows[*slot].id == id)
    }

    /// The row of what stands at a place here: of the messages that came there, that of the newest line.
    fn of_place(&self, conversation: [u64; 2], sequence: u64) -> Option<usize> {
        let came =
            self.at_place(conversation, sequence).filter(|slot| self.rows[*slot].times[Time::Came as usize] != 0);
        came.min_by_key(|slot| Reverse(self.rows[*slot].epoch))
    }

    /// The row of what came with a number and an epoch. It ends where it finds that: rows behind it are seldom in a
    /// processor's cache.
    fn of_position(&self, conversation: [u64; 2], sequence: u64, epoch: u64) -> Option<usize> {
        self.at_place(conversation, sequence).find(|slot| {
            let row = &self.rows[*slot];
            row.epoch == epoch && row.times[Time::Came as usize] != 0
        })
    }

    /// The rows of what stood at a place, on whatever line, the newest row first.
    fn at_place(&self, conversation: [u64; 2], sequence: u64) -> impl Iterator<Item = usize> {
        self.chain(Chain::Place, self.hash_of_place(conversation, sequence)).filter(move |slot| {
            let row = &self.rows[*slot];
            row.sequence == sequence && row.conversation == conversation
        })
    }

    /// The rows of a chain, the newest first.
    fn chain(&self, chain: Chain, hash: u64) -> impl Iterator<Item = usize> {
        let mut next = self.heads[chain as usize][self.bucket(hash)];
        std::iter::from_fn(move || {
            let slot = self.slot_of(next)?;
            next = self.rows[slot].older[chain as usize];
            Some(slot)
        })
    }

    /// Numbers that follow each other have buckets that do, which share a processor's cache: they pass together.
    fn hash_of_place(&self, conversation: [u64; 2], sequence: u64) -> u64 {
        self.hasher.hash_one(conversation).wrapping_add(sequence)
    }

    fn bucket(&self, hash: u64) -> usize {
        // The number of buckets is a power of two.
        usize::try_from(hash & (self.heads[0].len() as u64 - 1)).unwrap_or(0)
    }

    /// Where the row of a number is, while it is there.
    fn slot_of(&self, number: u32) -> Option<usize> {
        let place = number.wrapping_sub(self.number) as usize;
        (place < self.len).then(|| wrapped(self.first + place, self.most))
    }

    fn number_of(&self, slot: usize) -> u32 {
        let place = wrapped(slot + self.most - self.first, self.most);
        self.number.wrapping_add(u32::try_from(place).unwrap_or(u32::MAX))
    }

    /// Puts a row where its number stands in a chain: before all that are older.
    fn link(&mut self, chain: Chain, hash: u64, slot: usize) {
        let (number, bucket) = (self.number_of(slot), self.bucket(hash));
        let place = number.wrapping_sub(self.number);
        let (mut newer, mut next) = (None, self.heads[chain as usize][bucket]);
        while let Some(at) = self.slot_of(next).filter(|_| next.wrapping_sub(self.number) > place) {
            (newer, next) = (Some(at), self.rows[at].older[chain as usize]);
        }
        self.rows[slot].older[chain as usize] = next;
        match newer {
            Some(newer) => self.rows[newer].older[chain as usize] = number,
            None => self.heads[chain as usize][bucket] = number,
        }
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

    /// Gives a row its number; of several with one number the newest is found first.
    fn place(&mut self, slot: usize, sequence: u64, epoch: u64) {
        let row = &mut self.rows[slot];
        if row.sequence != 0 || sequence == 0 {
            return;
        }
        (row.sequence, row.epoch) = (sequence, epoch);
        let hash = self.hash_of_place(self.rows[slot].conversation, sequence);
        self.link(Chain::Place, hash, slot);
    }

    /// Adds a row, in place of the oldest where there is no room; of several with one name the newest is found first.
    fn insert(&mut self, name: Name, at: u64) -> usize {
        self.forget_old(at);
        if self.len == self.most {
            self.pushed_out = self.rows[self.first].base;
            self.forget_first();
        }
        let slot = wrapped(self.first + self.len, self.most);
        let Name { conversation, id, sender } = name;
        let row = Row {
            conversation,
            id,
            sender,
            sequence: 0,
            epoch: 0,
            base: at,
            times: [0; TIMES],
            older: [self.number.wrapping_sub(1); 2],
            numbered: false,
        };
        if slot == self.rows.len() {
            self.rows.push(row);
        } else {
            self.rows[slot] = row;
        }
        self.out[slot * self.others.len()..(slot + 1) * self.others.len()].fill(0);
        self.len += 1;
        self.link(Chain::Id, self.hasher.hash_one(id), slot);
        slot
    }

    fn forget_old(&mut self, now: u64) {
        while self.len > 0 && !self.is_kept(&self.rows[self.first], now) {
            self.forget_first();
        }
    }

    /// The chains that lead to the row end there from now on.
    fn forget_first(&mut self) {
        self.first = wrapped(self.first + 1, self.most);
        self.number = self.number.wrapping_add(1);
        self.len -= 1;
    }
}
