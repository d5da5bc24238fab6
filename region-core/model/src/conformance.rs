//! The contract of the ports as sentences that every adapter proves, real servers included.
//!
//! ```ignore
//! mod memory {
//!     region_model::store_conformance!(MySubject::fresh());
//! }
//! ```
//! makes one `#[tokio::test]` of each sentence. Every sentence gets a subject of its own, with empty stores.

mod changes;
mod cursors;
mod dedup;
mod expiry;
mod looks;
mod map_store;
pub mod samples;
mod tails;

use std::future::Future;
use std::pin::Pin;

pub use changes::{
    a_message_is_found_by_its_id_with_what_was_done_to_it,
    content_that_is_taken_away_leaves_the_rest_of_its_entries_in_the_log_and_in_its_tail,
    what_was_done_to_messages_goes_with_the_entries_that_did_it_and_with_their_log,
};
pub use cursors::{
    cursors_are_replaced_paged_by_member_and_numbered_with_the_appends,
    the_last_change_of_a_log_is_that_of_its_entries_or_of_ones_own_cursors,
};
pub use dedup::dedup_records_before_a_time_are_forgotten_page_by_page_and_no_others;
pub use expiry::content_whose_time_is_over_is_told_in_its_order_and_goes_from_the_log_and_from_its_tail;
pub use looks::a_look_shows_what_a_read_shows_and_ids_without_records;
pub use map_store::{
    keys_of_the_map_are_put_ranged_and_taken_away_in_order,
    writes_of_the_map_keep_their_order_and_are_there_after_a_reopen,
};
pub use tails::{
    requests_that_share_an_entry_are_all_found_and_all_leave_with_it,
    what_a_new_beginning_puts_apart_stays_as_a_tail_and_the_rest_is_dropped,
    what_is_put_apart_leaves_the_log_with_its_dedup_and_stays_as_its_tail,
};

use bytes::Bytes;
use hearth_protocol::record::{LogRecord, OutboxRecord};
use hearth_protocol::{Epoch, LogKind};
use samples::{
    append, conversation, dedup_key, dedup_of, entries, entry, outbox, parked, placement, record, region, user,
};

use crate::ports::{AppendOutcome, Begin, LogAppend, StoreError, Stores};

/// An adapter under test.
pub trait Subject: Send {
    /// The ports. All that came from here is dropped before [`Subject::reopen`].
    fn stores(&self) -> Stores;

    /// Closes the stores and opens them again as a new process would.
    fn reopen(&mut self);
}

/// Makes one test of each sentence of the suite; the expression makes a fresh [`Subject`].
#[macro_export]
macro_rules! store_conformance {
    ($subject:expr) => {
        $crate::store_conformance!(@each $subject;
            an_append_that_expects_the_length_is_applied_and_loaded,
            an_append_that_expects_another_length_conflicts_and_changes_nothing,
            an_append_whose_entries_are_numbered_below_the_length_conflicts,
            a_conflict_leaves_the_other_logs_of_the_call_alone,
            a_log_may_stand_twice_in_a_call,
            calls_are_applied_in_the_order_of_their_first_poll,
            an_append_below_the_sealed_epoch_conflicts,
            a_mark_never_moves_back,
            a_mark_of_a_log_that_is_not_held_is_ignored,
            changes_grow_with_every_append,
            an_unknown_log_loads_as_nothing,
            a_log_with_a_record_and_no_entries_has_length_zero,
            a_load_brings_the_entries_from_the_lower_of_snapshot_and_mark_on,
            a_log_goes_on_above_an_open_range_that_is_filled_from_above_and_dropped_by_a_new_beginning,
            what_is_put_apart_leaves_the_log_with_its_dedup_and_stays_as_its_tail,
            requests_that_share_an_entry_are_all_found_and_all_leave_with_it,
            what_a_new_beginning_puts_apart_stays_as_a_tail_and_the_rest_is_dropped,
            a_message_is_found_by_its_id_with_what_was_done_to_it,
            content_that_is_taken_away_leaves_the_rest_of_its_entries_in_the_log_and_in_its_tail,
            content_whose_time_is_over_is_told_in_its_order_and_goes_from_the_log_and_from_its_tail,
            what_was_done_to_messages_goes_with_the_entries_that_did_it_and_with_their_log,
            a_read_stops_at_its_bounds,
            dedup_finds_what_was_appended_and_nothing_else,
            dedup_records_before_a_time_are_forgotten_page_by_page_and_no_others,
            logs_are_paged_by_id_within_their_kind,
            a_look_shows_what_a_read_shows_and_ids_without_records,
            a_removed_log_leaves_only_its_placement,
            a_placement_of_an_older_epoch_is_ignored,
            the_outbox_is_ordered_and_forgets_what_is_done,
            parked_sends_are_ordered_replaced_and_forgotten,
            cursors_are_replaced_paged_by_member_and_numbered_with_the_appends,
            the_last_change_of_a_log_is_that_of_its_entries_or_of_ones_own_cursors,
            keys_of_the_map_are_put_ranged_and_taken_away_in_order,
            writes_of_the_map_keep_their_order_and_are_there_after_a_reopen,
            what_was_answered_is_there_after_a_reopen,
        );
    };
    (@each $subject:expr; $($name:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                $crate::conformance::$name(&mut $subject).await;
            }
        )*
    };
}

/// Polls all in the order given until all are done.
pub async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut open = false;
        for (future, output) in &mut futures {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => open = true,
                }
            }
        }
        if open { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}

type Waiting<'a> = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>>;

fn applied(outcome: &AppendOutcome) -> u64 {
    match outcome {
        AppendOutcome::Applied { change } => *change,
        conflict @ AppendOutcome::Conflict { .. } => panic!("expected Applied, got {conflict:?}"),
    }
}

async fn apply(stores: &Stores, appends: Vec<LogAppend>) -> Vec<u64> {
    let outcomes = stores.log.append(appends).await.expect("the append is answered");
    outcomes.iter().map(applied).collect()
}

async fn conflict(stores: &Stores, append: LogAppend) -> (u64, Epoch) {
    match &stores.log.append(vec![append]).await.expect("the append is answered")[..] {
        [AppendOutcome::Conflict { length, sealed }] => (*length, *sealed),
        other => panic!("expected one conflict, got {other:?}"),
    }
}

/// See the name.
pub async fn an_append_that_expects_the_length_is_applied_and_loaded(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let log = conversation(1);
    apply(&stores, vec![append(log, 0, 3)]).await;
    apply(&stores, vec![append(log, 3, 1)]).await;
    let loaded = stores.log.load(log).await.expect("loads");
    assert_eq!(loaded.length, 4);
    assert_eq!(loaded.record, Some(record(1)));
    assert_eq!(loaded.entries, entries(log, 0..4));
    assert_eq!(loaded.last, Some(entry(log, 3)));
}

/// See the name.
pub async fn an_append_that_expects_another_length_conflicts_and_changes_nothing(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let log = conversation(1);
    apply(&stores, vec![append(log, 0, 2)]).await;
    for expect in [0, 1, 3] {
        assert_eq!(conflict(&stores, append(log, expect, 1)).await, (2, Epoch(1)));
    }
    let mut marked = append(log, 9, 1);
    (marked.mark, marked.snapshot) = (2, Some((2, Bytes::from_static(b"no"))));
    marked.outbox = vec![outbox(1, 1, "ann")];
    conflict(&stores, marked).await;
    let loaded = stores.log.load(log).await.expect("loads");
    assert_eq!((loaded.length, loaded.mark, loaded.snapshot), (2, 0, None));
    assert_eq!(stores.outbox_items().await, vec![]);
    assert_eq!(stores.log.dedup(vec![dedup_key(log, 9)]).await, Ok(vec![None]));
    assert_eq!(conflict(&stores, append(conversation(2), 1, 1)).await, (0, Epoch(0)));
}

/// See the name. Anything else would overwrite rows.
pub async fn an_append_whose_entries_are_numbered_below_the_length_conflicts(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let log = conversation(1);
    apply(&stores, vec![append(log, 0, 2)]).await;
    let mut wrong = append(log, 2, 1);
    wrong.entries = entries(log, 1..2);
    conflict(&stores, wrong).await;
    let mut twice = append(log, 2, 1);
    twice.entries = vec![entry(log, 2), entry(log, 2)];
    conflict(&stores, twice).await;
    assert_eq!(stores.log.load(log).await.expect("loads").length, 2);
}

/// See the name.
pub async fn a_conflict_leaves_the_other_logs_of_the_call_alone(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let call = vec![append(conversation(1), 0, 2), append(conversation(2), 5, 1), append(conversation(3), 0, 1)];
    let outcomes = stores.log.append(call).await.expect("the append is answered");
    applied(&outcomes[0]);
    assert_eq!(outcomes[1], AppendOutcome::Conflict { length: 0, sealed: Epoch(0) });
    applied(&outcomes[2]);
    for (number, length) in [(1, 2), (2, 0), (3, 1)] {
        assert_eq!(stores.log.load(conversation(number)).await.expect("loads").length, length);
    }
}

/// See the name. The later one sees what the earlier one did.
pub async fn a_log_may_stand_twice_in_a_call(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let log = conversation(1);
    let call = vec![append(log, 0, 2), append(log, 2, 1), append(log, 2, 1), append(log, 3, 1)];
    let outcomes = stores.log.append(call).await.expect("the append is answered");
    assert!(applied(&outcomes[0]) < applied(&outcomes[1]));
    assert_eq!(outcomes[2], AppendOutcome::Conflict { length: 3, sealed: Epoch(1) });
    applied(&outcomes[3]);
    assert_eq!(stores.log.load(log).await.expect("loads").entries, entries(log, 0..4));
}

/// See the name, also when several wait at once, and reads after an answer see it.
pub async fn calls_are_applied_in_the_order_of_their_first_poll(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let log = conversation(1);
    let calls = (0..500).map(|length| stores.log.append(vec![append(log, length, 1)])).collect();
    let mut last = 0;
    for outcomes in join_all(calls).await {
        let change = applied(&outcomes.expect("the append is answered")[0]);
        assert!(change > last);
        last = change;
    }
    let loaded = stores.log.load(log).await.expect("loads");
    assert_eq!((loaded.length, loaded.change), (500, last));
}

/// See the name.
pub async fn an_append_below_the_sealed_epoch_conflicts(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let log = conversation(1);
    apply(&stores, vec![append(log, 0, 1)]).await;
    let mut seal = append(log, 1, 0);
    (seal.record, seal.epoch) = (Some(record(3)), Epoch(3));
    apply(&stores, vec![seal]).await;
    assert_eq!(conflict(&stores, append(log, 1, 1)).await, (1, Epoch(3)));
    let mut allowed = append(log, 1, 1);
    allowed.epoch = Epoch(3);
    apply(&stores, vec![allowed]).await;
    // Also within one call.
    let mut seal = append(log, 2, 0);
    (seal.record, seal.epoch) = (Some(record(4)), Epoch(4));
    let mut late = append(log, 2, 1);
    late.epoch = Epoch(3);
    let outcomes = stores.log.append(vec![seal, late]).await.expect("the append is answered");
    assert_eq!(outcomes[1], AppendOutcome::Conflict { length: 2, sealed: Epoch(4) });
}

/// See the name.
pub async fn a_mark_never_moves_back(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let log = conversation(1);
    let with_mark = |expect, count, mark| LogAppend { mark, ..append(log, expect, count) };
    apply(&stores, vec![with_mark(0, 3, 2)]).await;
    assert_eq!(stores.mark(1).await, 2);
    stores.log.put_marks(vec![(log, 3)]).await.expect("takes marks");
    assert_eq!(stores.mark(1).await, 3);
    stores.log.put_marks(vec![(log, 1)]).await.expect("takes marks");
    assert_eq!(stores.mark(1).await, 3);
    apply(&stores, vec![with_mark(3, 1, 2)]).await;
    assert_eq!(stores.mark(1).await, 3);
    apply(&stores, vec![with_mark(4, 0, 4)]).await;
    assert_eq!(stores.mark(1).await, 4);
    stores.log.put_marks(vec![(log, 2), (log, 5), (log, 4)]).await.expect("takes marks");
    assert_eq!(stores.mark(1).await, 5);
    apply(&stores, vec![with_mark(4, 2, 4), with_mark(6, 1, 6)]).await;
    assert_eq!(stores.mark(1).await, 6);
}

/// See the name.
pub async fn a_mark_of_a_log_that_is_not_held_is_ignored(subject: &mut dyn Subject) {
    let stores = subject.stores();
    stores.log.put_marks(vec![(conversation(1), 3)]).await.expect("takes marks");
    assert_eq!(stores.mark(1).await, 0);
    apply(&stores, vec![append(conversation(1), 0, 1)]).await;
    assert_eq!(stores.mark(1).await, 0);
}

/// See the name, across logs, calls and reopens, and a log remembers the number of its last change.
pub async fn changes_grow_with_every_append(subject: &mut dyn Subject) {
    let mut last = 0;
    for round in 0..3_u64 {
        let stores = subject.stores();
        for step in 0..3 {
            let length = round * 3 + step;
            let call = vec![append(conversation(1), length, 1), append(conversation(2), length, 1)];
            for (log, change) in apply(&stores, call).await.into_iter().enumerate() {
                assert!(change > last, "{change} after {last}");
                last = change;
                let loaded = stores.log.load(conversation(log as u128 + 1)).await.expect("loads");
                assert_eq!(loaded.change, change);
            }
        }
        // An append without entries is a change, too.
        let change = apply(&stores, vec![append(conversation(1), round * 3 + 3, 0)]).await[0];
        assert!(change > last);
        assert_eq!(stores.log.load(conversation(1)).await.expect("loads").change, change);
        last = change;
        drop(stores);
        subject.reopen();
    }
}

/// See the name.
pub async fn an_unknown_log_loads_as_nothing(subject: &mut dyn Subject) {
    let stores = subject.stores();
    apply(&stores, vec![append(conversation(2), 0, 2)]).await;
    for number in [1, 3] {
        let loaded = stores.log.load(conversation(number)).await.expect("loads");
        assert_eq!((loaded.placement, loaded.record, loaded.length, loaded.mark), (None, None, 0, 0));
        assert_eq!((loaded.snapshot, loaded.last, loaded.entries, loaded.change), (None, None, vec![], 0));
        assert_eq!(stores.log.read(conversation(number), 0, 9, 9, 9).await, Ok(vec![]));
    }
}

/// See the name.
pub async fn a_log_with_a_record_and_no_entries_has_length_zero(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let log = conversation(1);
    let mut made = append(log, 0, 0);
    made.record = Some(record(2));
    apply(&stores, vec![made]).await;
    let loaded = stores.log.load(log).await.expect("loads");
    assert_eq!((loaded.record, loaded.length, loaded.last), (Some(record(2)), 0, None));
    assert_eq!(stores.log.logs(LogKind::Conversation, None, 9).await.expect("lists").len(), 1);
}

/// See the name.
pub async fn a_load_brings_the_entries_from_the_lower_of_snapshot_and_mark_on(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let log = conversation(1);
    apply(&stores, vec![LogAppend { mark: 5, ..append(log, 0, 8) }]).await;
    assert_eq!(stores.log.load(log).await.expect("loads").entries, entries(log, 0..8));
    let state = Bytes::from_static(b"folded");
    let with_snapshot = LogAppend { snapshot: Some((6, state.clone())), ..append(log, 8, 1) };
    apply(&stores, vec![with_snapshot]).await;
    let loaded = stores.log.load(log).await.expect("loads");
    assert_eq!((loaded.snapshot, loaded.entries), (Some((6, state.clone())), entries(log, 5..9)));
    stores.log.put_marks(vec![(log, 8)]).await.expect("takes marks");
    assert_eq!(stores.log.load(log).await.expect("loads").entries, entries(log, 6..9));
    let newer = Bytes::from_static(b"newer");
    apply(&stores, vec![LogAppend { snapshot: Some((9, newer.clone())), mark: 9, ..append(log, 9, 0) }]).await;
    let loaded = stores.log.load(log).await.expect("loads");
    assert_eq!((loaded.snapshot, loaded.entries, loaded.last), (Some((9, newer)), vec![], Some(entry(log, 8))));
}

/// See the name.
pub async fn a_log_goes_on_above_an_open_range_that_is_filled_from_above_and_dropped_by_a_new_beginning(
    subject: &mut dyn Subject,
) {
    let log = conversation(1);
    let open = |ranges: &[(u64, u64)]| Some(LogRecord { open_ranges: ranges.to_vec(), ..record(1) });
    let begin = |expect, dropped, at: u64, from| LogAppend {
        begin: Some(Begin { dropped, at }),
        record: open(&[(from, at)]),
        mark: at,
        snapshot: Some((at, Bytes::from_static(b"view"))),
        ..append(log, expect, 0)
    };
    let stores = subject.stores();
    apply(&stores, vec![append(log, 0, 2), begin(2, 2..2, 8, 2), append(log, 8, 1)]).await;
    apply(&stores, vec![append(log, 9, 1)]).await;
    assert_eq!(conflict(&stores, append(log, 2, 1)).await, (10, Epoch(1)));
    let fill = LogAppend { filled: entries(log, 5..8), record: open(&[(2, 5)]), ..append(log, 10, 0) };
    apply(&stores, vec![fill]).await;
    let read = stores.log.read(log, 0, 99, 99, usize::MAX).await.expect("reads");
    assert_eq!(read, [entries(log, 0..2), entries(log, 5..10)].concat());
    drop(stores);
    subject.reopen();
    let stores = subject.stores();
    let loaded = stores.log.load(log).await.expect("loads");
    assert_eq!((loaded.length, loaded.mark, loaded.below_open), (10, 8, Some(entry(log, 1))));
    assert_eq!(loaded.record, open(&[(2, 5)]));
    assert_eq!(loaded.entries, entries(log, 8..10));
    apply(&stores, vec![begin(10, 5..10, 12, 2)]).await;
    let loaded = stores.log.load(log).await.expect("loads");
    assert_eq!((loaded.length, loaded.mark, loaded.last), (12, 12, Some(entry(log, 1))));
    assert_eq!(stores.log.logs(LogKind::Conversation, None, 9).await.expect("lists")[0].length, 12);
    let last = LogAppend { filled: entries(log, 2..12), record: open(&[]), ..append(log, 12, 1) };
    apply(&stores, vec![last]).await;
    assert_eq!(stores.log.read(log, 0, 99, 99, usize::MAX).await.expect("reads"), entries(log, 0..13));
    assert_eq!(stores.log.load(log).await.expect("loads").length, 13);
}

/// See the name: sequences, rows and bytes, but at least one entry.
pub async fn a_read_stops_at_its_bounds(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let log = conversation(2);
    apply(&stores, vec![append(conversation(1), 0, 9), append(log, 0, 9), append(conversation(3), 0, 9)]).await;
    let many = usize::MAX;
    for (from, to, rows, bytes, expected) in [
        (0, 9, many, many, 0..9),
        (0, u64::MAX, many, many, 0..9),
        (3, 6, many, many, 3..6),
        (8, 20, many, many, 8..9),
        (9, 20, many, many, 9..9),
        (5, 5, many, many, 5..5),
        (6, 5, many, many, 6..6),
        (2, 9, 3, many, 2..5),
        (2, 9, 0, many, 2..2),
        (2, 9, many, 0, 2..3),
        (2, 9, many, entry(log, 2).encoded.len() + 1, 2..4),
    ] {
        let read = stores.log.read(log, from, to, rows, bytes).await.expect("reads");
        assert_eq!(read, entries(log, expected), "{from}..{to}, {rows} rows, {bytes} bytes");
    }
}

/// See the name: answers stand in the order of the keys; log, sender and id all count.
pub async fn dedup_finds_what_was_appended_and_nothing_else(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let log = conversation(1);
    apply(&stores, vec![append(log, 0, 3)]).await;
    let mut other_sender = dedup_key(log, 1);
    other_sender.sender = user("ann2");
    let other_log = hearth_protocol::LogId { id: conversation(2).id, ..log };
    let keys = vec![
        dedup_key(log, 2),
        dedup_key(log, 7),
        dedup_key(other_log, 1),
        other_sender,
        dedup_key(log, 1),
        dedup_key(log, 1),
    ];
    let found = stores.log.dedup(keys).await.expect("looks up");
    let one = Some(dedup_of(1).1);
    assert_eq!(found, vec![Some(dedup_of(2).1), None, None, None, one.clone(), one]);
    assert_eq!(stores.log.dedup(vec![]).await, Ok(vec![]));
}

/// See the name.
pub async fn logs_are_paged_by_id_within_their_kind(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let of = |kind, number| hearth_protocol::LogId { kind, ..conversation(number) };
    for number in [5, 1, 3, 2, 4] {
        let length = number as u64;
        apply(&stores, vec![LogAppend { mark: 1, ..append(conversation(number), 0, length) }]).await;
        apply(&stores, vec![append(of(LogKind::User, number), 0, 1)]).await;
    }
    stores.placements.put_placements(vec![placement(conversation(9), 1)]).await.expect("takes placements");
    let page = |kind, after, limit| {
        let log = &stores.log;
        async move { log.logs(kind, after, limit).await.expect("lists") }
    };
    let ids = |page: &[crate::ports::LogSummary]| page.iter().map(|row| row.log).collect::<Vec<_>>();
    let first = page(LogKind::Conversation, None, 2).await;
    assert_eq!(ids(&first), vec![conversation(1), conversation(2)]);
    assert_eq!((first[1].length, first[1].mark, &first[1].record), (2, 1, &record(1)));
    assert_eq!(first[1].last, Some(entry(conversation(2), 1)));
    assert_eq!(first[1].change, stores.log.load(conversation(2)).await.expect("loads").change);
    let rest = page(LogKind::Conversation, Some(conversation(2)), 99).await;
    assert_eq!(ids(&rest), vec![conversation(3), conversation(4), conversation(5)]);
    assert_eq!(ids(&page(LogKind::Conversation, Some(conversation(5)), 9).await), vec![]);
    let users = page(LogKind::User, Some(of(LogKind::User, 4)), 9).await;
    assert_eq!(ids(&users), vec![of(LogKind::User, 5)]);
    assert_eq!(ids(&page(LogKind::Placement, None, 9).await), vec![]);
}

/// See the name, and the log can be made anew.
pub async fn a_removed_log_leaves_only_its_placement(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let (log, other) = (conversation(1), conversation(2));
    let full = |log, number| LogAppend {
        mark: 2,
        snapshot: Some((2, Bytes::from_static(b"state"))),
        outbox: vec![outbox(number, 1, "ann")],
        ..append(log, 0, 3)
    };
    apply(&stores, vec![full(log, 1), full(other, 2)]).await;
    stores.placements.put_placements(vec![placement(log, 1)]).await.expect("takes placements");
    // What waits before the removal goes with it.
    let more: Waiting<'_> = Box::pin(async { stores.log.append(vec![append(log, 3, 1)]).await.map(drop) });
    let removed: Waiting<'_> = stores.log.remove(log);
    assert_eq!(join_all(vec![more, removed]).await, vec![Ok(()), Ok(())]);
    let loaded = stores.log.load(log).await.expect("loads");
    assert_eq!((loaded.placement, loaded.record), (Some(placement(log, 1)), None));
    assert_eq!((loaded.length, loaded.mark, loaded.snapshot, loaded.last), (0, 0, None, None));
    assert_eq!(stores.log.dedup(vec![dedup_key(log, 1)]).await, Ok(vec![None]));
    assert_eq!(stores.outbox_items().await, vec![outbox(2, 1, "ann")]);
    assert_eq!(stores.log.load(other).await.expect("loads").length, 3);
    apply(&stores, vec![append(log, 0, 1)]).await;
    assert_eq!(stores.log.load(log).await.expect("loads").entries, entries(log, 0..1));
}

/// See the name, also within one call.
pub async fn a_placement_of_an_older_epoch_is_ignored(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let log = conversation(1);
    let known = || async { stores.placements.placement(log).await.expect("reads") };
    assert_eq!(known().await, None);
    for (put, epoch) in [(vec![2], 2), (vec![1], 2), (vec![4, 3], 4), (vec![5, 6], 6)] {
        let put = put.into_iter().map(|epoch| placement(log, epoch)).collect();
        stores.placements.put_placements(put).await.expect("takes placements");
        assert_eq!(known().await, Some(placement(log, epoch)));
    }
    let mut same = placement(log, 6);
    same.home = region("us");
    stores.placements.put_placements(vec![same.clone()]).await.expect("takes placements");
    assert_eq!(known().await, Some(same.clone()));
    assert_eq!(stores.log.load(log).await.expect("loads").placement, Some(same));
}

/// See the name.
pub async fn the_outbox_is_ordered_and_forgets_what_is_done(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let items = [outbox(1, 1, "ann"), outbox(1, 1, "bob"), outbox(1, 2, "ann"), outbox(2, 0, "cid")];
    let with_outbox = |number, outbox| LogAppend { outbox, ..append(conversation(number), 0, 3) };
    apply(&stores, vec![with_outbox(2, vec![items[3].clone()])]).await;
    let unordered = vec![items[2].clone(), items[1].clone(), items[0].clone()];
    apply(&stores, vec![with_outbox(1, unordered)]).await;
    assert_eq!(stores.outbox_items().await, items);
    let page = stores.outbox.outbox(Some(items[0].clone()), 2).await.expect("reads");
    assert_eq!(page, items[1..3]);
    stores.outbox.outbox_done(vec![items[1].clone(), items[3].clone()]).await.expect("forgets");
    assert_eq!(stores.outbox_items().await, vec![items[0].clone(), items[2].clone()]);
    stores.outbox.outbox_done(vec![items[1].clone()]).await.expect("an item may be done twice");
    let page = stores.outbox.outbox(Some(items[1].clone()), 9).await.expect("goes on after an item that is gone");
    assert_eq!(page, vec![items[2].clone()]);
}

/// See the name.
pub async fn parked_sends_are_ordered_replaced_and_forgotten(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let lot = &stores.parking;
    lot.park(vec![parked(300), parked(2)]).await.expect("parks");
    lot.park(vec![parked(5), parked(1)]).await.expect("parks");
    let all = || async { lot.parked(None, 99).await.expect("reads") };
    assert_eq!(all().await, [1, 2, 5, 300].map(parked));
    assert_eq!(lot.parked(Some(1), 2).await.expect("reads"), [2, 5].map(parked));
    let mut refused = parked(5);
    refused.refused = Some(("forbidden".into(), "not a member".into()));
    lot.park(vec![refused.clone()]).await.expect("parks");
    assert_eq!(all().await, [parked(1), parked(2), refused, parked(300)]);
    lot.unpark(vec![1, 5, 77]).await.expect("forgets");
    assert_eq!(all().await, [2, 300].map(parked));
    let (park, unpark) = (lot.park(vec![parked(9)]), lot.unpark(vec![9]));
    assert_eq!(join_all(vec![park, unpark]).await, vec![Ok(()), Ok(())]);
    assert_eq!(all().await, [2, 300].map(parked));
}

/// See the name; the store is the same one in its next incarnation.
pub async fn what_was_answered_is_there_after_a_reopen(subject: &mut dyn Subject) {
    let log = conversation(1);
    let before = {
        let stores = subject.stores();
        let first = LogAppend {
            mark: 2,
            snapshot: Some((2, Bytes::from_static(b"state"))),
            outbox: vec![outbox(1, 1, "ann")],
            ..append(log, 0, 3)
        };
        stores.placements.put_placements(vec![placement(log, 7)]).await.expect("takes placements");
        stores.parking.park(vec![parked(4)]).await.expect("parks");
        apply(&stores, vec![first, append(conversation(2), 0, 1)]).await;
        stores.log.remove(conversation(2)).await.expect("removes");
        stores.identity
    };
    subject.reopen();
    let stores = subject.stores();
    assert_eq!((stores.identity.store, &stores.identity.region), (before.store, &before.region));
    assert!(stores.identity.incarnation > before.incarnation);
    let loaded = stores.log.load(log).await.expect("loads");
    assert_eq!((loaded.length, loaded.mark, loaded.record), (3, 2, Some(record(1))));
    assert_eq!(loaded.snapshot, Some((2, Bytes::from_static(b"state"))));
    assert_eq!(loaded.entries, entries(log, 2..3));
    assert_eq!(stores.log.dedup(vec![dedup_key(log, 1)]).await, Ok(vec![Some(dedup_of(1).1)]));
    assert_eq!(stores.outbox_items().await, vec![outbox(1, 1, "ann")]);
    assert_eq!(stores.parking.parked(None, 9).await, Ok(vec![parked(4)]));
    assert_eq!(stores.log.load(conversation(2)).await.expect("loads").record, None);
    assert_eq!(conflict(&stores, append(log, 0, 1)).await, (3, Epoch(1)));
    apply(&stores, vec![append(log, 3, 1)]).await;
}

impl Stores {
    async fn mark(&self, number: u128) -> u64 {
        self.log.load(conversation(number)).await.expect("loads").mark
    }

    async fn outbox_items(&self) -> Vec<OutboxRecord> {
        self.outbox.outbox(None, 99).await.expect("reads")
    }
}
