//! Two processes that hold one keyspace: at each position exactly one of them succeeds.

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::entry::content_digest;
use hearth_protocol::{Entry, LogId, SealedEntry};
use region_model::conformance::samples::{append, conversation, entry, user};
use region_model::ports::{AppendOutcome, LogAppend, Stores};
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
async fn race(owners: [Stores; 2], log: LogId) -> Vec<usize> {
    let mut winners = Vec::new();
    for sequence in 0..POSITIONS {
        let [one, other] = [0, 1].map(|owner| {
            let stores = owners[owner].clone();
            let append = own_append(log, sequence, owner as u128);
            tokio::spawn(async move { stores.log.append(vec![append]).await.expect("the outcome is known") })
        });
        let outcomes = [one.await.expect("runs"), other.await.expect("runs")];
        let won: Vec<usize> =
            (0..2).filter(|owner| matches!(outcomes[*owner][0], AppendOutcome::Applied { .. })).collect();
        assert_eq!(won.len(), 1, "{log} at {sequence}: {outcomes:?}");
        let AppendOutcome::Conflict { length, .. } = outcomes[1 - won[0]][0] else { panic!("{outcomes:?}") };
        assert_eq!(length, sequence + 1, "the other hears how long the log is");
        winners.push(won[0]);
    }
    winners
}

/// Both buckets' ends and changes over buckets are among the positions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_owners_that_write_at_once_exactly_one_succeeds_at_each_position() {
    let keyspace = Keyspace(options(64));
    let owners = [open(&keyspace.0), open(&keyspace.0)];
    let races = (1..=LOGS).map(|number| {
        let log = conversation(u128::from(number));
        let stores = [owners[0].stores(), owners[1].stores()];
        tokio::spawn(async move { (log, race(stores, log).await) })
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
    println!("{} races, won {wins:?}", LOGS * POSITIONS);
    assert!(wins.iter().all(|wins| *wins > 0), "a race that one always wins is none");
}
