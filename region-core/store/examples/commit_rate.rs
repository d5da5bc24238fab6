//! Appends per second of the embedded store, and what each costs.
//!
//! `commit_rate [folder]` appends as fast as it goes; entries are made before the clock starts.
//! `commit_rate <folder> <seconds> <rate>` appends at a rate and shows how long calls wait; entries are made on the way.
//!
//! Each append is one entry of about 700 stored bytes and one dedup record.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use hearth_protocol::entry::{Fixed, content_digest};
use hearth_protocol::record::{DedupRecord, LogRecord, Opening};
use hearth_protocol::{
    Entry, EntryKind, Epoch, Level, LogId, LogKind, Position, RegionId, SealedEntry, Sequence, Timestamp, UserId,
};
use region_model::ports::{AppendOutcome, DedupKey, LogAppend, Stores};
use region_store::embedded::{Embedded, EmbeddedOptions};
use uuid::Uuid;

const LOGS: usize = 200;
const PER_LOG: u64 = 1_500;

fn sealed(log: LogId, sequence: u64, user: &UserId, region: &RegionId) -> Arc<SealedEntry> {
    let salt = bytes::Bytes::from_static(&[3; 16]);
    let content = bytes::Bytes::from(format!("{{\"text\":\"{log} {sequence} {}\"}}", "x".repeat(430)));
    let fixed = Fixed {
        position: Position { epoch: Epoch(1), sequence: Sequence(sequence) },
        kind: EntryKind::Message,
        sender: user.clone(),
        id: Uuid::new_v4(),
        time: Timestamp(1_700_000_000_000 + sequence),
        level: Level::Region,
        digest: content_digest(&salt, &content),
        previous: [1; 32],
        origin: region.clone(),
        reply_to: None,
        target: None,
        expires_at: None,
        original_time: None,
    };
    SealedEntry::seal(Entry { fixed, content: Some((salt, content)) })
}

fn append(log: LogId, entry: Arc<SealedEntry>, record: Option<LogRecord>) -> LogAppend {
    let fixed = &entry.entry.fixed;
    let key = DedupKey { log, sender: fixed.sender.clone(), id: fixed.id };
    let dedup = DedupRecord {
        position: fixed.position,
        time: fixed.time,
        digest: fixed.digest,
        reply_to: None,
        level: Level::Region,
    };
    let expect = entry.sequence().0;
    LogAppend {
        log,
        expect,
        epoch: Epoch(1),
        mark: expect,
        entries: vec![entry],
        record,
        snapshot: None,
        apart: None,
        promises: false,
        begin: None,
        filled: vec![],
        dedup: vec![(key, dedup)],
        changes: vec![],
        outbox: vec![],
    }
}

fn record(region: &RegionId) -> LogRecord {
    LogRecord {
        home: region.clone(),
        voters: vec![region.clone()],
        accepted: Epoch(1),
        sealed: Epoch(1),
        openings: vec![Opening { epoch: Epoch(1), first: 0, previous: [0; 32], loss: false }],
        floor: 0,
        published: 0,
        open_ranges: vec![],
        incarnation: 1,
    }
}

/// Seconds of processor time that this process has used.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
    let ticks = |place: usize| fields[place].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

struct Prepared {
    log: LogId,
    entries: Vec<Arc<SealedEntry>>,
}

fn prepare(region: &RegionId) -> Vec<Prepared> {
    let user = UserId::new("ann").expect("a valid name");
    let log = |_| LogId { kind: LogKind::Conversation, id: Uuid::now_v7() };
    (0..LOGS)
        .map(log)
        .map(|log| Prepared { log, entries: (0..PER_LOG).map(|n| sealed(log, n, &user, region)).collect() })
        .collect()
}

/// Appends everything with that many callers, each of which has its own logs and waits for each answer.
async fn run(stores: &Stores, prepared: Vec<Prepared>, callers: usize, region: &RegionId) -> Vec<Duration> {
    let mut shares: Vec<Vec<Prepared>> = (0..callers).map(|_| Vec::new()).collect();
    for (place, log) in prepared.into_iter().enumerate() {
        shares[place % callers].push(log);
    }
    let mut tasks = Vec::new();
    for share in shares {
        let (log, record) = (Arc::clone(&stores.log), record(region));
        tasks.push(tokio::spawn(async move {
            let mut waits = Vec::new();
            for number in 0..PER_LOG as usize {
                let one = |logs: &Prepared| {
                    append(logs.log, Arc::clone(&logs.entries[number]), (number == 0).then(|| record.clone()))
                };
                let call: Vec<LogAppend> = share.iter().map(one).collect();
                let began = Instant::now();
                let outcomes = log.append(call).await.expect("appends");
                waits.push(began.elapsed());
                assert!(outcomes.iter().all(|outcome| matches!(outcome, AppendOutcome::Applied { .. })));
            }
            waits
        }));
    }
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.expect("no panic"));
    }
    waits.sort_unstable();
    waits
}

async fn measure(folder: &Path, callers: usize) {
    let region = RegionId::new("eu").expect("a valid name");
    let prepared = prepare(&region);
    let began = Instant::now();
    let store = Embedded::open(&folder.join(callers.to_string()), &region, &EmbeddedOptions::default()).expect("opens");
    let opening = began.elapsed();
    let stores = store.stores();
    let sample = prepared[0].log;
    let (began, used) = (Instant::now(), processor());
    let waits = run(&stores, prepared, callers, &region).await;
    let (seconds, used) = (began.elapsed().as_secs_f64(), processor() - used);
    let counters = &stores.counters;
    let (appends, commits) = (counters.appends.load(Relaxed) as f64, counters.commits.load(Relaxed) as f64);
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{callers:>4} callers of {:>3} logs: {:>8.0} appends/s, {:>5.2} µs processor an append, {:>6.1} appends and \
         {:>5.2} ms a commit, call p50 {:.2} p99 {:.2} p99.9 {:.2} max {:.1} ms, open {:.0} ms",
        LOGS / callers,
        appends / seconds,
        used * 1e6 / appends,
        appends / commits,
        counters.commit_microseconds.load(Relaxed) as f64 / 1e3 / commits,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        opening.as_secs_f64() * 1e3,
    );
    reads(&stores, sample).await;
    drop(stores);
    let began = Instant::now();
    drop(store);
    let closing = began.elapsed();
    let began = Instant::now();
    let again = Embedded::open(&folder.join(callers.to_string()), &region, &EmbeddedOptions::default());
    drop(again.expect("opens again"));
    println!("     close {:.0} ms, reopen {:.0} ms", closing.as_secs_f64() * 1e3, began.elapsed().as_secs_f64() * 1e3);
}

async fn reads(stores: &Stores, log: LogId) {
    let missing = |n: u128| DedupKey { log, sender: UserId::new("ann").expect("valid"), id: Uuid::from_u128(n) };
    let began = Instant::now();
    for n in 0..10_000 {
        stores.log.dedup(vec![missing(n)]).await.expect("looks up");
    }
    let dedup = began.elapsed() / 10_000;
    let began = Instant::now();
    for n in 0..1_000 {
        let from = n % (PER_LOG - 50);
        assert_eq!(stores.log.read(log, from, from + 50, 50, usize::MAX).await.expect("reads").len(), 50);
    }
    let read = began.elapsed() / 1_000;
    let began = Instant::now();
    for n in 0..1_000 {
        let other = LogId { kind: LogKind::Conversation, id: Uuid::from_u128(n) };
        stores.log.load(other).await.expect("loads");
    }
    let load = began.elapsed() / 1_000;
    println!("     dedup miss {dedup:.1?}, read of 50 entries {read:.1?}, load of an unknown log {load:.1?}");
}

const PACED_CALLERS: usize = 20;

/// One caller's share of the rate: ten logs a call, a call at each tick, late calls are not left out.
async fn paced(stores: Stores, region: RegionId, seconds: u64, rate: u64) -> Vec<Duration> {
    let user = UserId::new("ann").expect("a valid name");
    let logs: Vec<LogId> =
        (0..LOGS / PACED_CALLERS).map(|_| LogId { kind: LogKind::Conversation, id: Uuid::now_v7() }).collect();
    let period = Duration::from_secs_f64(LOGS as f64 / rate as f64);
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let calls = (seconds as f64 / period.as_secs_f64()) as u64;
    let mut waits = Vec::new();
    for number in 0..calls {
        let due = tick.tick().await;
        let one =
            |log: &LogId| append(*log, sealed(*log, number, &user, &region), (number == 0).then(|| record(&region)));
        let call = logs.iter().map(one).collect();
        stores.log.append(call).await.expect("appends");
        waits.push(due.elapsed());
    }
    waits
}

async fn sustain(folder: &Path, seconds: u64, rate: u64) {
    let region = RegionId::new("eu").expect("a valid name");
    let store = Embedded::open(folder, &region, &EmbeddedOptions::default()).expect("opens");
    let stores = store.stores();
    let (began, used) = (Instant::now(), processor());
    let callers: Vec<_> =
        (0..PACED_CALLERS).map(|_| tokio::spawn(paced(stores.clone(), region.clone(), seconds, rate))).collect();
    let mut waits = Vec::new();
    for caller in callers {
        waits.extend(caller.await.expect("no panic"));
    }
    waits.sort_unstable();
    let (elapsed, used) = (began.elapsed().as_secs_f64(), processor() - used);
    let (appends, commits) = (stores.counters.appends.load(Relaxed), stores.counters.commits.load(Relaxed));
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{:.0} appends/s for {elapsed:.0} s, {:.2} µs processor an append with making it, {:.1} appends a commit, due to \
         answered p50 {:.2} p99 {:.2} p99.9 {:.2} max {:.1} ms",
        appends as f64 / elapsed,
        used * 1e6 / appends as f64,
        appends as f64 / commits as f64,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
    );
}

#[tokio::main]
async fn main() {
    let given = std::env::args().nth(1).map(PathBuf::from);
    let temporary = tempfile::tempdir().expect("makes a folder");
    let folder = given.unwrap_or_else(|| temporary.path().to_path_buf());
    let number = |place: usize| std::env::args().nth(place).map(|text| text.parse().expect("a number"));
    if let (Some(seconds), Some(rate)) = (number(2), number(3)) {
        return sustain(&folder, seconds, rate).await;
    }
    for callers in [1, 20, 200] {
        measure(&folder, callers).await;
    }
}
