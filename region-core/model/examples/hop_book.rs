//! What the book of hops costs a message: `cargo run --release -p region-model --example hop_book`. Messages of many
//! conversations pass a full book, as they do at a home that is their edge and at a replica, in commits of one entry a
//! conversation. Prints the nanoseconds a message of one thread, of the turn in the middle: what else runs on the machine
//! interrupts some turns.

use std::sync::Arc;
use std::time::Instant;

use hearth_protocol::entry::Fixed;
use hearth_protocol::{
    ConversationId, Entry, EntryKind, Epoch, Level, Position, RegionId, SealedEntry, Sequence, Timestamp, UserId,
};
use region_model::delivery::HopBook;
use uuid::Uuid;

/// Messages that the book holds.
const MOST: usize = 200_000;
/// Messages that pass it.
const MESSAGES: u64 = 1_000_000;
const CONVERSATIONS: u64 = 1_000;
/// Messages handled in one turn of the loop.
const TURN: usize = 256;
/// Microseconds since the epoch.
const BEGIN: u64 = 1_700_000_000_000_000;

/// An id as clients make them, without order.
fn id(number: u64) -> Uuid {
    Uuid::from_u64_pair(number.wrapping_mul(0x9E37_79B9_7F4A_7C15), number)
}

fn entry(number: u64, sender: &UserId) -> (ConversationId, Arc<SealedEntry>) {
    let fixed = Fixed {
        position: Position { epoch: Epoch(1), sequence: Sequence(1 + number / CONVERSATIONS) },
        kind: EntryKind::Message,
        sender: sender.clone(),
        id: id(number),
        time: Timestamp(BEGIN / 1_000),
        level: Level::Region,
        digest: [0; 32],
        previous: [0; 32],
        origin: RegionId::new("eu-west").expect("a name"),
        reply_to: None,
        target: None,
        expires_at: None,
        original_time: None,
    };
    (ConversationId(id(number % CONVERSATIONS)), SealedEntry::seal(Entry { fixed, content: None }))
}

/// Runs all turns; nanoseconds a message.
#[expect(clippy::disallowed_methods, reason = "a measurement reads a clock, what it measures does not")]
fn measure(mut turn: impl FnMut(&mut HopBook, &[(ConversationId, Arc<SealedEntry>)], u64)) -> f64 {
    let others: Vec<RegionId> = ["us-east", "ap-south"].map(|name| RegionId::new(name).expect("a name")).to_vec();
    let mut book = HopBook::new(MOST, others, 7, BEGIN);
    let sender = UserId::new("somebody-with-a-name").expect("a name");
    let (mut number, mut turns) = (0, Vec::new());
    while number < MESSAGES {
        let entries: Vec<_> = (number..number + TURN as u64).map(|number| entry(number, &sender)).collect();
        number += TURN as u64;
        let began = Instant::now();
        turn(&mut book, &entries, BEGIN + number);
        // A book that fills yet costs less.
        if number > MOST as u64 {
            turns.push(began.elapsed());
        }
    }
    assert_eq!(book.len(), MOST);
    turns.sort_unstable();
    turns[turns.len() / 2].as_nanos() as f64 / TURN as f64
}

fn main() {
    let (east, south) = (RegionId::new("us-east").expect("a name"), RegionId::new("ap-south").expect("a name"));
    let home = measure(|book, entries, at| {
        for (conversation, entry) in entries {
            book.taken(*conversation, entry.entry.fixed.id, entry.entry.fixed.sender.as_str(), at);
        }
        entries.iter().for_each(|(conversation, entry)| book.numbered(*conversation, entry, at));
        for (conversation, entry) in entries {
            let (fixed, sequence) = (&entry.entry.fixed, entry.sequence().0);
            book.durable(*conversation, sequence + 1, at + 1);
            book.acked((*conversation, fixed.id, fixed.sender.as_str()), (sequence, 1), at + 1);
            book.shown(*conversation, (sequence, 1), at + 1);
            book.sent(*conversation, &east, (sequence, 1), at + 1);
            book.sent(*conversation, &south, (sequence, 1), at + 1);
        }
    });
    let replica = measure(|book, entries, at| {
        entries.iter().for_each(|(conversation, entry)| book.arrived(*conversation, entry, at));
        for (conversation, entry) in entries {
            book.durable(*conversation, entry.sequence().0 + 1, at + 1);
            book.shown(*conversation, (entry.sequence().0, 1), at + 1);
        }
    });
    println!("home and edge: {home:.0} ns a message; replica: {replica:.0} ns a message");
    println!("a full book of {MOST} messages: {} bytes", HopBook::bytes(MOST, 2));
}
