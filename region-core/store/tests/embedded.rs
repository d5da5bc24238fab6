//! What the embedded store keeps through crashes, damage and failing disks.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hearth_protocol::entry::content_digest;
use hearth_protocol::record::{ChangeRecord, MessageChange, ParkedSend};
use hearth_protocol::{Entry, Epoch, LogId, LogKind, SealedEntry, Timestamp};
use region_model::conformance::samples::{
    append, conversation, dedup_key, dedup_of, entries, expiring, parked, position, record, region, user,
};
use region_model::ports::{AppendOutcome, LogAppend, StoreError, Stores, TakenContent};
use region_store::embedded::{Embedded, EmbeddedOptions, OpenError};

/// Set for a test that another one runs as its child: the store's folder.
const CHILD: &str = "HEARTH_STORE_CHILD";

fn try_open(folder: &Path) -> Result<Embedded, OpenError> {
    Embedded::open(folder, &region("eu"), &EmbeddedOptions::default())
}

fn open(folder: &Path) -> Embedded {
    try_open(folder).expect("opens")
}

async fn apply(stores: &Stores, append: LogAppend) {
    let outcomes = stores.log.append(vec![append]).await.expect("appends");
    assert!(matches!(outcomes[..], [AppendOutcome::Applied { .. }]), "{outcomes:?}");
}

async fn length(stores: &Stores, log: u128) -> u64 {
    let loaded = stores.log.load(conversation(log)).await.expect("loads");
    assert_eq!(loaded.entries, entries(conversation(log), 0..loaded.length));
    loaded.length
}

#[tokio::test]
async fn everything_is_there_after_a_drop_and_a_reopen() {
    let folder = tempfile::tempdir().expect("makes a folder");
    for round in 0..3 {
        let store = open(folder.path());
        let stores = store.stores();
        assert_eq!(stores.identity.incarnation, round + 1);
        assert_eq!(length(&stores, 1).await, round * 100);
        for step in 0..100 {
            apply(&stores, append(conversation(1), round * 100 + step, 1)).await;
        }
    }
    let stores = open(folder.path()).stores();
    assert_eq!(length(&stores, 1).await, 300);
    let keys = (0..300).map(|sequence| dedup_key(conversation(1), sequence)).collect();
    let records = (0..300).map(|sequence| Some(dedup_of(sequence).1)).collect();
    assert_eq!(stores.log.dedup(keys).await, Ok(records));
}

#[tokio::test]
async fn a_closed_store_finishes_what_waits_and_then_takes_no_changes() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let store = open(folder.path());
    let stores = store.stores();
    let mut waiting = Box::pin(stores.log.append(vec![append(conversation(1), 0, 1)]));
    let first = std::future::poll_fn(|context| std::task::Poll::Ready(waiting.as_mut().poll(context))).await;
    store.close();
    if first.is_pending() {
        waiting.await.expect("it had its place before the close");
    }
    assert_eq!(length(&stores, 1).await, 1);
    let refused = stores.log.append(vec![append(conversation(1), 1, 1)]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert_eq!(*store.broken().borrow(), None);
}

/// On a current-thread runtime, tasks are first polled in the order in which they were spawned.
#[tokio::test]
async fn calls_keep_their_order_when_the_queue_is_full() {
    const CALLS: u64 = 10_000;
    let folder = tempfile::tempdir().expect("makes a folder");
    let stores = open(folder.path()).stores();
    let spawn = |sequence| {
        let log = Arc::clone(&stores.log);
        tokio::spawn(async move { log.append(vec![append(conversation(1), sequence, 1)]).await })
    };
    let calls: Vec<_> = (0..CALLS).map(spawn).collect();
    for call in calls {
        let outcomes = call.await.expect("no panic").expect("appends");
        assert!(matches!(outcomes[..], [AppendOutcome::Applied { .. }]), "{outcomes:?}");
    }
    let counters = &stores.counters;
    assert_eq!((counters.appends.load(Relaxed), counters.entries.load(Relaxed)), (CALLS, CALLS));
    assert!(counters.commits.load(Relaxed) < CALLS / 10, "calls that wait share commits");
    assert_eq!(counters.syncs.load(Relaxed), counters.commits.load(Relaxed));
    assert_eq!(counters.waiting.load(Relaxed), 0);
}

#[tokio::test]
async fn changes_without_a_sync_of_their_own_ask_for_none() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let stores = open(folder.path()).stores();
    apply(&stores, append(conversation(1), 0, 3)).await;
    let syncs = stores.counters.syncs.load(Relaxed);
    stores.log.put_marks(vec![(conversation(1), 2)]).await.expect("takes marks");
    stores.parking.unpark(vec![1]).await.expect("forgets");
    assert_eq!(stores.counters.syncs.load(Relaxed), syncs);
    assert_eq!(stores.counters.commits.load(Relaxed), syncs + 2);
}

/// The mutant that the power-cut story must catch.
#[cfg(feature = "mutants")]
#[tokio::test]
async fn a_mutant_answers_without_a_sync() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let options = EmbeddedOptions { skip_sync: true, ..EmbeddedOptions::default() };
    let stores = Embedded::open(folder.path(), &region("eu"), &options).expect("opens").stores();
    apply(&stores, append(conversation(1), 0, 1)).await;
    assert_eq!(stores.counters.syncs.load(Relaxed), 0);
}

#[test]
fn a_folder_that_is_open_is_in_use() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let store = open(folder.path());
    assert!(matches!(try_open(folder.path()), Err(OpenError::InUse)));
    drop(store);
    open(folder.path());
}

#[test]
fn a_store_of_another_version_or_region_is_refused() {
    let folder = tempfile::tempdir().expect("makes a folder");
    drop(open(folder.path()));
    let other = Embedded::open(folder.path(), &region("us"), &EmbeddedOptions::default());
    assert!(matches!(other, Err(OpenError::Region { found, .. }) if found == region("eu")));
    let file = folder.path().join("hearth-store");
    std::fs::write(&file, "7\n").expect("writes");
    assert!(matches!(try_open(folder.path()), Err(OpenError::Version { found: 7, known: 6 })));
    std::fs::write(&file, "seven").expect("writes");
    assert!(matches!(try_open(folder.path()), Err(OpenError::Failed(_))));
    std::fs::remove_file(&file).expect("removes");
    {
        let database = fjall::Database::builder(folder.path().join("database")).open().expect("opens");
        let meta = database.keyspace("meta", fjall::KeyspaceCreateOptions::default).expect("is there");
        meta.insert("version", 9_u64.to_be_bytes()).expect("writes");
    }
    assert!(matches!(try_open(folder.path()), Err(OpenError::Version { found: 9, known: 6 })));
}

#[tokio::test]
async fn a_text_can_be_found_by_searching_the_files() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let stores = open(folder.path()).stores();
    apply(&stores, append(conversation(1), 0, 3)).await;
    let text = format!("number 2 of {}", conversation(1));
    let bytes = std::fs::read(journal(folder.path())).expect("reads");
    assert!(bytes.windows(text.len()).any(|window| window == text.as_bytes()));
}

/// Files below a folder that hold a text.
fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(folder).expect("reads the folder") {
        let path = file.expect("reads the folder").path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else {
            let bytes = std::fs::read(&path).expect("reads");
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(path);
            }
        }
    }
    found
}

#[tokio::test]
async fn after_a_scrub_no_file_holds_what_was_taken_away_and_everything_else_is_there_through_a_kill() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let (log, gone) = (conversation(1), conversation(2));
    let text = |number: u64, log: LogId| format!("number {number} of {log}");
    let store = open(folder.path());
    let stores = store.stores();
    apply(&stores, append(log, 0, 10)).await;
    apply(&stores, append(gone, 0, 3)).await;
    let cut = LogAppend { apart: Some(8), epoch: Epoch(2), record: Some(record(2)), ..append(log, 10, 0) };
    apply(&stores, cut).await;
    stores.parking.park(vec![parked(7)]).await.expect("parks");
    stores.parking.unpark(vec![7]).await.expect("unparks");
    stores.log.remove(gone).await.expect("removes");
    let what = MessageChange::Deleted;
    let delete = ChangeRecord { target: 3, position: position(4), sender: user("ann"), time: Timestamp(9), what };
    let (entries, tail) = (vec![position(3)], vec![position(9)]);
    stores.log.take_content(TakenContent { log, entries, tail, done: Some(delete) }).await.expect("takes");
    let taken = [text(3, log), text(9, log), text(1, gone), "parked 7".to_owned()];
    for text in &taken {
        assert!(!files_with(folder.path(), text).is_empty(), "{text:?} is in the files before the scrub");
    }
    assert_eq!(stores.log.scrub().await, Ok(true));
    for text in &taken {
        assert_eq!(files_with(folder.path(), text), Vec::<PathBuf>::new(), "{text:?}");
    }
    apply(&stores, LogAppend { epoch: Epoch(2), ..append(log, 8, 1) }).await;
    // As a kill leaves it: what was not brought into the tables is in the journal.
    let killed = tempfile::tempdir().expect("makes a folder");
    copy(folder.path(), killed.path());
    drop((stores, store));
    let stores = open(killed.path()).stores();
    let read = stores.log.read(log, 0, 99, 99, usize::MAX).await.expect("reads");
    assert_eq!(read.iter().map(|entry| entry.content().is_some()).collect::<Vec<_>>(), {
        let mut there = vec![true; 9];
        there[3] = false;
        there
    });
    assert_eq!(stores.log.read_tail(log, None, 9).await.expect("reads").len(), 2);
}

/// The slot of a new store's first segment.
fn journal(folder: &Path) -> PathBuf {
    folder.join("journal/slot-1")
}

/// A store with ten commits of one entry each as a kill would leave it: its journal, and where what was written ends.
async fn killed(folder: &Path) -> (std::fs::File, u64) {
    let alive = tempfile::tempdir().expect("makes a folder");
    let stores = open(alive.path()).stores();
    for sequence in 0..10 {
        apply(&stores, append(conversation(1), sequence, 1)).await;
    }
    copy(alive.path(), folder);
    let bytes = std::fs::read(journal(folder)).expect("reads");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("something was written") + 1;
    let file = std::fs::File::options().write(true).open(journal(folder)).expect("opens");
    (file, u64::try_from(end).expect("fits"))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("makes a folder");
    for file in std::fs::read_dir(from).expect("reads the folder") {
        let from = file.expect("reads the folder").path();
        let to = to.join(from.file_name().expect("has a name"));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("copies");
        }
    }
}

#[tokio::test]
async fn garbage_after_the_journal_loses_nothing() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let (journal, end) = killed(folder.path()).await;
    let garbage: Vec<u8> = (0..777_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    journal.write_all_at(&garbage, end + 8).expect("writes");
    let stores = open(folder.path()).stores();
    assert_eq!(length(&stores, 1).await, 10);
    apply(&stores, append(conversation(1), 10, 1)).await;
    drop(stores);
    assert_eq!(length(&open(folder.path()).stores(), 1).await, 11);
}

#[tokio::test]
async fn a_journal_cut_within_its_last_commit_opens_with_all_commits_before() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let (journal, end) = killed(folder.path()).await;
    journal.set_len(end - 30).expect("cuts");
    let stores = open(folder.path()).stores();
    assert_eq!(length(&stores, 1).await, 9);
    let lost = stores.log.dedup(vec![dedup_key(conversation(1), 9)]).await;
    assert_eq!(lost, Ok(vec![None]), "a commit is there as a whole or not at all");
    apply(&stores, append(conversation(1), 9, 1)).await;
    drop(stores);
    assert_eq!(length(&open(folder.path()).stores(), 1).await, 10);
}

#[tokio::test]
async fn a_store_of_the_first_format_opens_and_becomes_one_that_its_build_refuses() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let stores = open(folder.path()).stores();
    apply(&stores, append(conversation(1), 0, 3)).await;
    drop(stores);
    std::fs::remove_dir_all(folder.path().join("journal")).expect("removes");
    let file = folder.path().join("hearth-store");
    std::fs::write(&file, "1\n").expect("writes");
    assert_eq!(length(&open(folder.path()).stores(), 1).await, 3);
    assert_eq!(std::fs::read_to_string(&file).expect("reads"), "6\n");
}

#[tokio::test]
async fn after_a_scrub_no_file_holds_a_text_whose_time_is_over_nor_one_of_a_parked_send_that_lost_it() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let log = conversation(1);
    let stores = open(folder.path()).stores();
    let entries = (0..4).map(|sequence| expiring(log, sequence, 100 + sequence)).collect();
    apply(&stores, LogAppend { entries, ..append(log, 0, 4) }).await;
    let cut = LogAppend { apart: Some(3), epoch: Epoch(2), record: Some(record(2)), ..append(log, 4, 0) };
    apply(&stores, cut).await;
    stores.parking.park(vec![parked(7)]).await.expect("parks");
    let texts: Vec<String> = (1..4).map(|number| format!("number {number} of {log}")).collect();
    let expired = stores.log.expired(Timestamp(999), 9).await.expect("lists");
    stores.log.take_expired(expired[1..].to_vec()).await.expect("takes");
    stores.parking.park(vec![ParkedSend { content: bytes::Bytes::new(), ..parked(7) }]).await.expect("parks");
    for text in texts.iter().map(String::as_str).chain(["parked 7"]) {
        assert!(!files_with(folder.path(), text).is_empty(), "{text:?} is in the files before the scrub");
    }
    assert_eq!(stores.log.scrub().await, Ok(true));
    for text in texts.iter().map(String::as_str).chain(["parked 7"]) {
        assert_eq!(files_with(folder.path(), text), Vec::<PathBuf>::new(), "{text:?}");
    }
    assert!(!files_with(folder.path(), &format!("number 0 of {log}")).is_empty(), "its time is not over");
}

fn child_folder() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// Runs a test of this binary in a process of its own, after the given words of a shell.
fn spawn_child(test: &str, before: &str, folder: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new("sh")
        .args(["-c", &format!("{before} exec \"$0\" --exact {test} --nocapture --test-threads 1")])
        .arg(std::env::current_exe().expect("this binary has a path"))
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    (child, output)
}

const CHILD_LOGS: u64 = 8;

/// Does nothing unless run as a child: then it appends until it is killed, and says what was answered.
#[tokio::test]
async fn child_that_appends_until_it_is_killed() {
    let Some(folder) = child_folder() else { return };
    let stores = open(&folder).stores();
    let spawn = |number: u64| {
        let stores = stores.clone();
        tokio::spawn(async move {
            for sequence in 0.. {
                apply(&stores, append(conversation(number.into()), sequence, 1)).await;
                let mut output = std::io::stdout().lock();
                writeln!(output, "acked {number} {sequence}").expect("the parent reads");
                output.flush().expect("the parent reads");
            }
        })
    };
    let tasks: Vec<_> = (1..=CHILD_LOGS).map(spawn).collect();
    for task in tasks {
        task.await.expect("no panic");
    }
}

#[tokio::test]
async fn every_answered_append_is_there_exactly_once_after_kill_9() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let (mut child, output) = spawn_child("child_that_appends_until_it_is_killed", "", folder.path());
    let mut acked = vec![None; 1 + CHILD_LOGS as usize];
    let mut count = 0;
    for line in output.lines() {
        let line = line.expect("reads");
        // A line may share its place with what the test harness prints; the last one may be cut.
        let Some((_, words)) = line.split_once("acked ") else { continue };
        let mut numbers = words.split(' ').map(str::parse::<u64>);
        if let (Some(Ok(log)), Some(Ok(sequence))) = (numbers.next(), numbers.next()) {
            acked[log as usize] = acked[log as usize].max(Some(sequence));
            count += 1;
        }
        if count == 2_000 {
            child.kill().expect("kills");
        }
    }
    child.wait().expect("waits");
    assert!(count >= 2_000, "the child ended by itself after {count}");
    let stores = open(folder.path()).stores();
    let listed = stores.log.logs(LogKind::Conversation, None, 99).await.expect("lists");
    assert_eq!(listed.len() as u64, CHILD_LOGS);
    for (log, acked) in (1..).zip(&acked[1..]) {
        let length = length(&stores, log).await;
        let acked = acked.expect("each log was acked");
        // One append per log was on its way.
        assert!(length == acked + 1 || length == acked + 2, "log {log} has {length}, acked up to {acked}");
        let keys = (0..length).map(|sequence| dedup_key(conversation(log), sequence)).collect();
        let found = stores.log.dedup(keys).await.expect("looks up");
        assert!(found.iter().all(Option::is_some), "a row and its dedup record are one commit");
    }
}

/// More than fits into a file of 64 MiB, in one commit.
fn huge(expect: u64) -> LogAppend {
    let small = append(conversation(1), expect, 70);
    let large = |entry: &Arc<SealedEntry>| {
        let mut fixed = entry.entry.fixed.clone();
        let (salt, content) = (bytes::Bytes::from_static(&[1; 16]), bytes::Bytes::from(vec![b'x'; 1024 * 1024]));
        fixed.digest = content_digest(&salt, &content);
        SealedEntry::seal(Entry { fixed, content: Some((salt, content)) })
    };
    LogAppend { entries: small.entries.iter().map(large).collect(), ..small }
}

/// Does nothing unless run as a child whose files may not pass 64 MiB: the journal cannot take a huge commit.
#[tokio::test]
async fn child_whose_disk_fails() {
    let Some(folder) = child_folder() else { return };
    let store = open(&folder);
    let stores = store.stores();
    apply(&stores, append(conversation(1), 0, 5)).await;
    let mut broken = store.broken();
    assert_eq!(*broken.borrow_and_update(), None);
    let failed = stores.log.append(vec![huge(5)]).await;
    let Err(StoreError::Unavailable(reason)) = failed else { panic!("the commit cannot succeed: {failed:?}") };
    broken.changed().await.expect("the store lives");
    assert_eq!(*broken.borrow(), Some(Arc::clone(&reason)));
    let unavailable = StoreError::Unavailable(reason);
    assert_eq!(stores.log.append(vec![append(conversation(2), 0, 1)]).await, Err(unavailable.clone()));
    assert_eq!(stores.log.load(conversation(1)).await.expect_err("is broken"), unavailable);
    assert_eq!(stores.parking.parked(None, 1).await, Err(unavailable.clone()));
    assert_eq!(stores.log.put_marks(vec![]).await, Err(unavailable));
    println!("broken as it should be");
}

#[tokio::test]
async fn a_store_whose_write_failed_is_unavailable_for_ever_and_keeps_what_it_answered() {
    let folder = tempfile::tempdir().expect("makes a folder");
    // The limit counts blocks of 512 bytes; the signal is ignored, so that the write fails instead.
    let limit = "trap '' XFSZ; ulimit -f 131072;";
    let (mut child, output) = spawn_child("child_whose_disk_fails", limit, folder.path());
    let lines: Vec<String> = output.lines().map(|line| line.expect("reads")).collect();
    child.wait().expect("waits");
    assert!(lines.iter().any(|line| line.contains("broken as it should be")), "{lines:#?}");
    let stores = open(folder.path()).stores();
    assert_eq!(length(&stores, 1).await, 5);
    apply(&stores, append(conversation(1), 5, 1)).await;
}
