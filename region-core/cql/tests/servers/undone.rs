//! A process that ends at any moment leaves no append half done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hearth_protocol::{Epoch, LogId};
use parking_lot::Mutex;
use region_cql::Cql;
use region_model::conformance::samples::{append, conversation, dedup_key, entries, outbox, record};
use region_model::ports::{AppendOutcome, LogAppend, Stores};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::{Keyspace, OnServer, open, options, region};

const LOGS: u64 = 6;
const ROUNDS: usize = 12;

/// What is known of a log from outside: its length as answered, and as it is if the last append, which nobody heard of,
/// was made.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    answered: u64,
    asked: u64,
    steps: u64,
}

/// How far the writers of one process are.
#[derive(Debug, Default)]
struct Progress {
    steps: AtomicUsize,
    /// Whether one of them ended.
    ended: AtomicBool,
    told: Notify,
}

/// The next append: mostly one to four entries, each with a membership to be told, at times the last two entries are put
/// apart under a new epoch.
fn next(number: u64, known: Known) -> (LogAppend, u64) {
    let (log, length, epoch) = (conversation(u128::from(number)), known.answered, Epoch(known.steps / 5 + 1));
    if known.steps % 5 == 4 && length > 3 {
        let cut = LogAppend { apart: Some(length - 2), ..append(log, length, 0) };
        return (LogAppend { epoch, record: Some(record(epoch.0)), ..cut }, length - 2);
    }
    let count = 1 + known.steps % 4;
    let told = (length..length + count).map(|sequence| outbox(u128::from(number), sequence, "ann")).collect();
    (LogAppend { outbox: told, epoch, ..append(log, length, count) }, length + count)
}

/// Appends until the runtime ends.
async fn write(stores: Stores, number: u64, known: Arc<Mutex<Vec<Known>>>, progress: Arc<Progress>) {
    let Progress { steps, ended, told } = &*progress;
    let place = usize::try_from(number).expect("small");
    loop {
        let before = known.lock()[place];
        let (append, length) = next(number, before);
        known.lock()[place].asked = length;
        let outcome = stores.log.append(vec![append]).await;
        if !matches!(outcome.as_deref(), Ok([AppendOutcome::Applied { .. }])) {
            // The process ends; or it does not, and the story says so.
            println!("an append to log {number} was answered {outcome:?}");
            ended.store(true, Ordering::Relaxed);
            told.notify_one();
            return;
        }
        known.lock()[place] = Known { answered: length, asked: length, steps: before.steps + 1 };
        steps.fetch_add(1, Ordering::Relaxed);
        told.notify_one();
    }
}

/// Entries, dedup records and memberships of a log are those of its length; which it is.
async fn check(stores: &Stores, log: LogId, number: u64, known: Known) -> u64 {
    let loaded = stores.log.load(log).await.expect("loads");
    assert!([known.answered, known.asked].contains(&loaded.length), "{log}: {} of {known:?}", loaded.length);
    let read = stores.log.read(log, 0, u64::MAX, usize::MAX, usize::MAX).await.expect("reads");
    assert_eq!(read, entries(log, 0..loaded.length), "{log}: {known:?}");
    let beyond = loaded.length + 8;
    let records = stores.log.dedup((0..beyond).map(|at| dedup_key(log, at)).collect()).await.expect("looks up");
    let there: Vec<bool> = records.iter().map(Option::is_some).collect();
    assert_eq!(there, (0..beyond).map(|at| at < loaded.length).collect::<Vec<_>>(), "{log}: {known:?}");
    let mut told = stores.outbox.outbox(None, 100_000).await.expect("lists");
    told.retain(|item| item.log == log);
    let expected: Vec<_> = (0..loaded.length).map(|at| outbox(u128::from(number), at, "ann")).collect();
    assert_eq!(told, expected, "{log}: {known:?}");
    loaded.length
}

#[test]
fn a_process_that_ends_at_any_moment_leaves_no_append_half_done() {
    let keyspace = Keyspace(options(3));
    let known = Arc::new(Mutex::new(vec![Known::default(); usize::try_from(LOGS).expect("small")]));
    for round in 0..ROUNDS {
        // A process of its own: it ends with whatever it has under way.
        let process = Runtime::new().expect("makes a runtime");
        let store = process.block_on(Cql::open(&keyspace.0, &region())).expect("opens");
        let progress = Arc::new(Progress::default());
        for number in 0..LOGS {
            process.spawn(write(store.stores(), number, Arc::clone(&known), Arc::clone(&progress)));
        }
        process.block_on(async {
            while progress.steps.load(Ordering::Relaxed) < 5 + 7 * round {
                assert!(!progress.ended.load(Ordering::Relaxed), "a writer ended before its process");
                progress.told.notified().await;
            }
        });
        process.shutdown_background();
        drop(store);
        let next = open(&keyspace.0);
        super::runtime().block_on(async {
            for number in 0..LOGS {
                let place = usize::try_from(number).expect("small");
                let was = known.lock()[place];
                let length = check(&next.stores(), conversation(u128::from(number)), number, was).await;
                // An append that nobody heard of is a step of the story, too.
                let heard = was.asked == was.answered || length == was.answered;
                known.lock()[place] = Known { answered: length, asked: length, steps: was.steps + u64::from(!heard) };
            }
        });
    }
}

/// One more process than the one that is checked holds the keyspace while it is reopened.
#[tokio::test]
async fn what_one_process_answered_another_that_opens_later_reads() {
    let mut subject = OnServer::fresh(3);
    let log = conversation(1);
    let first = region_model::conformance::Subject::stores(&subject);
    first.log.append(vec![append(log, 0, 5)]).await.expect("appends");
    region_model::conformance::Subject::reopen(&mut subject);
    let second = region_model::conformance::Subject::stores(&subject);
    second.log.append(vec![append(log, 5, 2)]).await.expect("appends");
    // The first goes on all the same, from what the second left.
    let outcome = first.log.append(vec![append(log, 7, 4)]).await.expect("appends");
    assert!(matches!(outcome[0], AppendOutcome::Applied { .. }), "{outcome:?}");
    let read = second.log.load(log).await.expect("loads");
    assert_eq!((read.length, read.entries), (11, entries(log, 0..11)));
}
