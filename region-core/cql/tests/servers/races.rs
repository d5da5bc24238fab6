//! Two processes that hold one keyspace: at each position exactly one of them succeeds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hearth_protocol::entry::content_digest;
use hearth_protocol::{Entry, LogId, SealedEntry};
use region_model::conformance::samples::{append, conversation, entry, user};
use region_model::ports::{AppendOutcome, LogAppend, StoreError, Stores};
use uuid::Uuid;

use super::{Keyspace, open, options};

const LOGS: u64 = 8;
const POSITIONS: u64 = 300;

/// What owner `owner` puts at a position: the two differ.
fn own_entry(log: LogId, sequence: u64, owner: u128) -> Arc<SealedEntry> {
    let mut fixed = entry(log, sequence).entry.fixed.clone();
    fixed.sender = user(&format!("owner{owner}"));
    fixed.id = Uuid::from_u128((owner << 64) | (u128::from(sequence) + 1));
    let salt = Bytes::from_static(&[3; 16]);
    let content = Bytes::from(format!("by {owner}"));
    fixed.digest = content_digest(&salt, &content);
    SealedEntry::seal(Entry { fixed, content: Some((salt, content)) })
}

fn own_append(log: LogId, sequence: u64, owner: u128) -> LogAppend {
    let entries = vec![own_entry(log, sequence, owner)];
    LogAppend { entries, dedup: Vec::new(), ..append(log, sequence, 1) }
}

/// One log, from its first position to its last: who won each.
async fn race(owners: [Stores; 2], log: LogId, unknown: &'static AtomicU64) -> Vec<usize> {
    let mut winners = Vec::new();
    for sequence in 0..POSITIONS {
        let [one, other] = [0, 1].map(|owner| {
            let stores = owners[owner].clone();
            let append = own_append(log, sequence, owner as u128);
            tokio::spawn(async move { settled(&stores, append, unknown).await })
        });
        let lengths = [one.await.expect("runs"), other.await.expect("runs")];
        let won: Vec<usize> = (0..2).filter(|owner| lengths[*owner].is_none()).collect();
        assert_eq!(won.len(), 1, "{log} at {sequence}: {lengths:?}");
        assert_eq!(lengths[1 - won[0]], Some(sequence + 1), "the other hears how long the log is");
        winners.push(won[0]);
    }
    winners
}

/// Appends, and reads where the outcome is unknown, as the port asks of its callers. `None` when it was applied, else the
/// length that was there.
async fn settled(stores: &Stores, append: LogAppend, unknown: &AtomicU64) -> Option<u64> {
    loop {
        match stores.log.append(vec![append.clone()]).await {
            Ok(outcomes) => match outcomes[0] {
                AppendOutcome::Applied { .. } => return None,
                AppendOutcome::Conflict { length, .. } => return Some(length),
            },
            Err(error) => assert_eq!(error, StoreError::Unknown),
        }
        unknown.fetch_add(1, Ordering::Relaxed);
        // A busy server may not answer the read either.
        let Ok(loaded) = stores.log.load(append.log).await else { continue };
        if loaded.length > append.expect {
            let read = stores.log.read(append.log, append.expect, append.expect + 1, 1, usize::MAX).await;
            let Ok(read) = read else { continue };
            return if read == append.entries { None } else { Some(append.expect + 1) };
        }
    }
}

/// Both buckets' ends and changes over buckets are among the positions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_owners_that_write_at_once_exactly_one_succeeds_at_each_position() {
    static UNKNOWN: AtomicU64 = AtomicU64::new(0);
    let keyspace = Keyspace(options(64));
    let owners = [open(&keyspace.0), open(&keyspace.0)];
    let races = (1..=LOGS).map(|number| {
        let log = conversation(u128::from(number));
        let stores = [owners[0].stores(), owners[1].stores()];
        tokio::spawn(async move { (log, race(stores, log, &UNKNOWN).await) })
    });
    let mut wins = [0, 0];
    for done in races.collect::<Vec<_>>() {
        let (log, winners) = done.await.expect("holds");
        for owner in &owners {
            let read = owner.stores().log.read(log, 0, u64::MAX, usize::MAX, usize::MAX).await.expect("reads");
            let expected: Vec<_> =
                (0..).zip(&winners).map(|(sequence, winner)| own_entry(log, sequence, *winner as u128)).collect();
            assert_eq!(read, expected, "what was answered is there, and nothing else");
        }
        for winner in winners {
            wins[winner] += 1;
        }
    }
    let unknown = UNKNOWN.load(Ordering::Relaxed);
    println!("{} races, won {wins:?}, {unknown} outcomes were unknown and read", LOGS * POSITIONS);
    assert!(unknown * 10 < LOGS * POSITIONS, "{unknown} outcomes were unknown");
    assert!(wins.iter().all(|wins| *wins > 0), "a race that one always wins is none");
}
