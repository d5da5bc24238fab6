use std::fs::OpenOptions;

use super::*;

fn record(text: &str) -> Vec<u8> {
    let mut record = vec![0; RECORD_HEAD];
    write_op(&mut record, "entries", text.as_bytes(), Some(text.as_bytes()));
    record
}

/// Opens and gives what is replayed.
fn replayed(folder: &Path) -> Result<(Journal, Vec<String>), JournalError> {
    let mut seen = Vec::new();
    let journal = Journal::open(folder, |ops| {
        for op in read_ops(ops).expect("ops") {
            seen.push(String::from_utf8(op.key.to_vec()).expect("text"));
        }
        Ok::<_, JournalError>(())
    })?;
    Ok((journal, seen))
}

fn fresh(folder: &Path) -> Journal {
    let (mut journal, seen) = replayed(folder).expect("opens");
    assert!(seen.is_empty());
    journal.begin().expect("begins");
    journal
}

fn slot(folder: &Path, number: u64) -> File {
    OpenOptions::new().write(true).read(true).open(folder.join(format!("slot-{}", slot_of(number)))).expect("opens")
}

/// Fills segments with one record of half a segment each, so that every third record begins the next segment.
fn big(text: &str) -> Vec<u8> {
    let mut record = record(text);
    let padding = vec![b'x'; usize::try_from(SEGMENT_BYTES / 2).expect("fits") - 100];
    write_op(&mut record, "entries", text.as_bytes(), Some(&padding));
    record
}

#[test]
fn records_come_back_in_order_until_they_are_no_longer_needed() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let mut journal = fresh(folder.path());
    for text in ["a", "b", "c"] {
        journal.append(&mut record(text), text == "c").expect("appends");
    }
    drop(journal);
    let (mut journal, seen) = replayed(folder.path()).expect("opens");
    assert_eq!(seen, ["a", "b", "c"]);
    journal.begin().expect("begins");
    journal.append(&mut record("d"), true).expect("appends");
    drop(journal);
    assert_eq!(replayed(folder.path()).expect("opens").1, ["d"], "the tables have what was replayed before");
}

#[test]
fn a_journal_that_was_replayed_and_not_begun_is_replayed_again() {
    let folder = tempfile::tempdir().expect("makes a folder");
    fresh(folder.path()).append(&mut record("a"), true).expect("appends");
    for _ in 0..2 {
        assert_eq!(replayed(folder.path()).expect("opens").1, ["a"]);
    }
}

#[test]
fn a_last_record_cut_anywhere_is_left_out_and_none_before_it() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let mut journal = fresh(folder.path());
    journal.append(&mut record("a"), true).expect("appends");
    let before = journal.offset;
    journal.append(&mut record("b"), true).expect("appends");
    let after = journal.offset;
    let number = journal.number;
    drop(journal);
    let file = slot(folder.path(), number);
    let mut whole = vec![0; usize::try_from(after - before).expect("fits")];
    file.read_exact_at(&mut whole, before).expect("reads");
    for kept in 0..whole.len() {
        let mut torn = whole.clone();
        torn[kept..].fill(0);
        file.write_all_at(&torn, before).expect("writes");
        // The last bytes of the record may be zeros of its own.
        let expected: &[&str] = if torn == whole { &["a", "b"] } else { &["a"] };
        assert_eq!(replayed(folder.path()).expect("opens").1, expected, "{kept} bytes kept");
    }
}

#[test]
fn a_slot_used_again_gives_nothing_of_its_former_segment() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let mut journal = fresh(folder.path());
    let needed = journal.needed();
    let mut texts = Vec::new();
    for number in 0..5 * SLOTS {
        needed.only_from(journal.segment());
        texts.push(format!("{number}"));
        journal.append(&mut big(&texts[number]), false).expect("appends");
    }
    assert!(journal.number > 2 * SLOTS as u64, "every slot was used more than once");
    drop(journal);
    let (_, mut seen) = replayed(folder.path()).expect("opens");
    seen.dedup();
    assert!(!seen.is_empty() && texts.ends_with(&seen), "{seen:?}");
}

#[test]
fn a_commit_waits_for_the_tables_when_every_slot_is_needed() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let mut journal = fresh(folder.path());
    let needed = journal.needed();
    let (told, progress) = std::sync::mpsc::channel();
    let appending = std::thread::spawn(move || {
        for number in 0.. {
            journal.append(&mut big("x"), false).expect("appends");
            told.send(journal.segment()).expect("the test listens");
            if number == 2 * SLOTS {
                return;
            }
        }
    });
    let reached = |segment| progress.iter().any(|at| at == segment);
    assert!(reached(SLOTS as u64), "all slots were used");
    // What may still come is the second record of the last slot's segment.
    let quiet = std::time::Duration::from_millis(200);
    while progress.recv_timeout(quiet).is_ok_and(|segment| segment <= SLOTS as u64) {}
    assert!(!appending.is_finished());
    needed.only_from(2);
    assert!(reached(SLOTS as u64 + 1), "one slot is free again");
    appending.join().expect("no panic");
}

#[test]
fn a_commit_that_waits_for_tables_that_take_nothing_more_fails() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let mut journal = fresh(folder.path());
    journal.needed().end();
    let failed = (0..3 * SLOTS).any(|_| journal.append(&mut big("x"), false).is_err());
    assert!(failed);
}

#[test]
fn damage_before_the_end_and_a_lost_segment_are_told() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let mut journal = fresh(folder.path());
    for text in ["a", "b", "c", "d", "e"] {
        journal.append(&mut big(text), false).expect("appends");
    }
    assert_eq!(journal.segment(), 3);
    drop(journal);
    slot(folder.path(), 2).write_all_at(b"?", 1_000).expect("writes");
    assert!(matches!(replayed(folder.path()), Err(JournalError::Damaged(2))));
    slot(folder.path(), 2).write_all_at(b"?", 0).expect("writes");
    assert!(matches!(replayed(folder.path()), Err(JournalError::Missing(2))));
}

#[test]
fn ops_read_back_as_written_and_other_bytes_are_refused() {
    let mut record = Vec::new();
    write_op(&mut record, "dedup", b"", Some(b""));
    write_op(&mut record, "e", b"key", None);
    let ops = read_ops(&record).expect("ops");
    assert_eq!(ops[0], Op { keyspace: "dedup", key: b"", value: Some(b"") });
    assert_eq!(ops[1], Op { keyspace: "e", key: b"key", value: None });
    for length in 1..record.len() {
        assert!(read_ops(&record[..length]).is_none_or(|ops| ops.len() < 2));
    }
}
