//! Regions whose cursors go back and forth, lost and doubled: they agree at last, and nothing runs ahead.

use hearth_protocol::entry::Role;
use hearth_protocol::record::Opening;
use hearth_protocol::{ConversationId, Epoch};
use proptest::prelude::*;

use super::*;
use crate::effect::LogView;
use crate::view::Member;

fn log() -> LogId {
    LogId::conversation(ConversationId(uuid::Uuid::from_u128(1)))
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a name")
}

fn members(names: &[&str]) -> Members {
    let member = Member { role: Role::Member, since: 0, messages_before: 0, sent_before: 0 };
    names.iter().map(|name| (user(name), member.clone())).collect()
}

fn line(openings: &[(u64, u64)]) -> Line {
    let opening = |(epoch, first): &(u64, u64)| Opening {
        epoch: Epoch(*epoch),
        first: *first,
        previous: [0; 32],
        loss: *epoch > 1,
    };
    Line::of(&LogView { openings: openings.iter().map(opening).collect(), ..LogView::default() })
}

fn claim(name: &str, up_to: u64, read: bool) -> Claim<()> {
    let said = Said { up_to, epoch: Some(Epoch(1)), sent: None };
    Claim { user: user(name), delivered: said, read: read.then_some(said), by: () }
}

fn at(book: &ReceiptBook, name: &str, line: &Line) -> (u64, u64) {
    let kept = book.logs.get(&log()).and_then(|conversation| conversation.members.get(&user(name)));
    let up_to = |cursor: &Cursor| cursor.reached(line).map_or(0, |reached| reached.up_to);
    kept.map_or((0, 0), |kept| (up_to(&kept.cursors.delivered), up_to(&kept.cursors.read)))
}

#[test]
fn a_region_takes_a_receipt_up_to_what_it_holds_and_of_members_alone() {
    let (line, members) = (line(&[(1, 0)]), members(&["ann", "bob"]));
    let facts = Facts { line: &line, last: 7, members: &members };
    let mut book = ReceiptBook::default();
    let change = book.claim(log(), &claim("bob", 99, false), &facts, Timestamp(5), 0).expect("it is news");
    let reached = Reached { epoch: Epoch(1), up_to: 7, at: Timestamp(5) };
    assert_eq!((change.delivered, change.read), (Some(Moved { from: 0, reached }), None));
    assert!(book.claim(log(), &claim("bob", 6, false), &facts, Timestamp(6), 0).is_none(), "it does not fall");
    let change = book.claim(log(), &claim("bob", 4, true), &facts, Timestamp(7), 0).expect("it is news");
    assert_eq!((change.delivered, change.read.map(|read| read.reached.up_to)), (None, Some(4)));
    assert!(book.claim(log(), &claim("eve", 4, true), &facts, Timestamp(7), 0).is_none());
    let change = book.claim(log(), &claim("ann", 3, true), &facts, Timestamp(8), 0).expect("it is news");
    assert!(change.delivered.is_some(), "what is read was received");
    assert_eq!(book.count(log(), 4, &facts, &user("ann")), (1, 1));
    assert_eq!(book.count(log(), 5, &facts, &user("eve")), (1, 0));
}

#[test]
fn cursors_of_a_large_conversation_are_sent_and_summed_up_once_a_second() {
    let (line, members) = (line(&[(1, 0)]), members(&["ann"]));
    let facts = Facts { line: &line, last: 90, members: &members };
    let mut book = ReceiptBook::default();
    let (mut sent, mut summed) = (0, 0);
    for step in 0..30 {
        let now = step * 100;
        book.claim(log(), &claim("ann", step + 1, false), &facts, Timestamp(now), now);
        sent += book.take_outgoing(log(), true, now).len();
        summed += u64::from(book.take_summary(log(), now));
    }
    assert_eq!((sent, summed), (3, 3), "at 0, 1 and 2 seconds");
    assert_eq!(book.unfinished(), [log()], "the newest goes later");
    assert_eq!(book.take_outgoing(log(), true, 3_000).len(), 1);
    assert!(book.take_summary(log(), 3_000) && book.unfinished().is_empty());
}

#[test]
fn members_in_memory_are_bounded_and_what_is_to_be_sent_stays() {
    let line = line(&[(1, 0)]);
    let mut book = ReceiptBook::default();
    let cursors = |number: u64| MemberCursors::of([Reached { epoch: Epoch(1), up_to: 1, at: Timestamp(number) }], []);
    for number in 0..10 {
        let log = LogId::conversation(ConversationId(uuid::Uuid::from_u128(u128::from(number))));
        book.merge(log, &user("ann"), &cursors(number), &line, number);
        if number > 0 {
            book.take_outgoing(log, false, number);
            book.no_summary(log);
        }
    }
    book.make_room(4);
    assert_eq!(book.members(), 4);
    let kept: Vec<u128> = book.logs.keys().map(|log| log.id.as_u128()).collect();
    assert_eq!(kept, [0, 7, 8, 9]);
}

/// One word of a member to the region where it is connected, or a page between two regions that may be lost.
#[derive(Clone, Debug)]
enum Step {
    Say { region: usize, member: usize, up_to: u64, read: bool },
    Exchange { from: usize, to: usize, lost: bool },
    Learn { region: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3usize, 0..4usize, 1..60u64, any::<bool>()).prop_map(|(region, member, up_to, read)| Step::Say {
            region,
            member,
            up_to,
            read
        }),
        (0..3usize, 0..3usize, any::<bool>()).prop_map(|(from, to, lost)| Step::Exchange { from, to, lost }),
        (0..3usize).prop_map(|region| Step::Learn { region }),
    ]
}

/// As two regions do whose digests differ: one sends pages of what it has, the other answers with what is beyond.
fn exchange(books: &mut [ReceiptBook], lines: &[Line], (from, to): (usize, usize), lost: bool) {
    let mut after = None;
    loop {
        let (rows, last) = books[from].page(log(), after.as_ref(), 2);
        let theirs: BTreeMap<UserId, MemberCursors> =
            rows.into_iter().map(|row| (row.user, MemberCursors::of(row.delivered, row.read))).collect();
        for (user, cursors) in &theirs {
            books[to].merge(log(), user, cursors, &lines[to], 0);
        }
        let back = books[to].beyond(log(), &theirs, after.as_ref(), last.as_ref());
        for row in back.into_iter().filter(|_| !lost) {
            books[from].merge(log(), &row.user, &MemberCursors::of(row.delivered, row.read), &lines[from], 0);
        }
        let Some(last) = last else { return };
        after = Some(last);
    }
}

proptest! {
    #[test]
    fn whatever_is_lost_doubled_or_late_regions_agree_at_last_and_no_cursor_runs_ahead_or_falls(
        steps in proptest::collection::vec(any_step(), 1..60),
    ) {
        let names = ["ann", "bob", "cid", "dan"];
        let members = members(&names);
        // Under epoch 1 regions may show 50 numbers; a failover takes those above 30 away, and 45 are shown then.
        let (before, after) = (line(&[(1, 0)]), line(&[(1, 0), (2, 31)]));
        let mut lines = vec![before; 3];
        let mut books: Vec<ReceiptBook> = (0..3).map(|_| ReceiptBook::default()).collect();
        for step in steps {
            let seen: Vec<Vec<(u64, u64)>> =
                books.iter().zip(&lines).map(|(book, line)| names.iter().map(|name| at(book, name, line)).collect()).collect();
            let mut learned = None;
            match step {
                Step::Say { region, member, up_to, read } => {
                    let line = &lines[region];
                    let last = if line.epoch() == Epoch(1) { 50 } else { 45 };
                    let facts = Facts { line, last, members: &members };
                    books[region].claim(log(), &claim(names[member], up_to, read), &facts, Timestamp(1), 0);
                }
                Step::Exchange { from, to, lost } if from != to => exchange(&mut books, &lines, (from, to), lost),
                Step::Exchange { .. } => {}
                Step::Learn { region } => {
                    learned = Some(region);
                    lines[region] = after.clone();
                }
            }
            for (region, book) in books.iter().enumerate().filter(|(region, _)| Some(*region) != learned) {
                for (name, before) in names.iter().zip(&seen[region]) {
                    let now = at(book, name, &lines[region]);
                    prop_assert!(now.0 >= before.0 && now.1 >= before.1, "{} fell at {}", name, region);
                    let most = if lines[region].epoch() == Epoch(1) { 50 } else { 45 };
                    prop_assert!(now.0 <= most && now.1 <= now.0, "{} at {}: {:?}", name, region, now);
                }
            }
        }
        lines.fill(after.clone());
        for pair in [(0, 1), (1, 2), (0, 1), (0, 2)] {
            exchange(&mut books, &lines, pair, false);
        }
        let digests: Vec<u64> = books.iter_mut().map(|book| book.digest(log(), &after)).collect();
        prop_assert!(digests.iter().all(|digest| *digest == digests[0]), "{:?}", digests);
    }
}
