//! The books against plain lists: bounded, the oldest go first, no time is told that was not taken down.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::client::KeptWhy;
use hearth_protocol::entry::Fixed;
use hearth_protocol::record::ParkedSend;
use hearth_protocol::{
    ConversationId, DeviceId, Entry, EntryKind, Epoch, Level, MessageId, Position, RegionId, SealedEntry, Sequence,
    Timestamp, UserId,
};
use proptest::prelude::*;
use uuid::Uuid;

use region_model::delivery::{CursorKind, HopBook, HopTimes, KEPT_MICROSECONDS, Kept, MoveBook};
use region_model::{Ack, DeviceOutcome};

/// Microseconds since the epoch at which the tests begin.
const BEGIN: u64 = 1_700_000_000_000_000;

fn conversation(number: u128) -> ConversationId {
    ConversationId(Uuid::from_u128(number))
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a name")
}

fn region(name: &str) -> RegionId {
    RegionId::new(name).expect("a name")
}

fn book(most: usize) -> HopBook {
    HopBook::new(most, vec![region("us-east"), region("ap-south")], 7, BEGIN)
}

/// A message of `sender` with this id at (epoch, sequence), sequenced at `at`.
fn entry(id: u128, sender: &str, (epoch, sequence): (u64, u64), at: u64) -> Arc<SealedEntry> {
    let fixed = Fixed {
        position: Position { epoch: Epoch(epoch), sequence: Sequence(sequence) },
        kind: EntryKind::Message,
        sender: user(sender),
        id: Uuid::from_u128(id),
        time: Timestamp(at / 1_000),
        level: Level::Region,
        digest: [0; 32],
        previous: [0; 32],
        origin: region("eu-west"),
        reply_to: None,
        target: None,
        expires_at: None,
        original_time: None,
    };
    SealedEntry::seal(Entry { fixed, content: None })
}

fn by_id(book: &HopBook, id: u128, now: u64) -> Option<HopTimes> {
    book.find(conversation(1), (Some(Uuid::from_u128(id)), None, None), now)
}

fn by_number(book: &HopBook, sequence: u64, now: u64) -> Option<HopTimes> {
    book.find(conversation(1), (None, None, Some(sequence)), now)
}

#[test]
fn a_message_of_a_session_here_has_every_step_under_its_id_and_under_its_number() {
    let (mut book, id) = (book(100), Uuid::from_u128(9));
    book.taken(conversation(1), id, "ann", BEGIN + 1);
    book.numbered(conversation(1), &entry(9, "ann", (1, 5), BEGIN), BEGIN + 2);
    book.durable(conversation(1), 6, BEGIN + 3);
    book.sent(conversation(1), &region("ap-south"), (5, 1), BEGIN + 4);
    book.acked((conversation(1), id, "ann"), (5, 1), BEGIN + 5);
    book.shown(conversation(1), (5, 1), BEGIN + 6);
    let times = by_id(&book, 9, BEGIN + 9).expect("it is known");
    assert_eq!(by_number(&book, 5, BEGIN + 9).as_ref(), Some(&times));
    assert!(times.numbered && times.queued.is_none() && times.forwarded.is_none());
    let after = |time: Option<u64>| time.map(|at| at - BEGIN);
    let steps = [times.taken, times.came, times.durable, times.acked, times.shown].map(after);
    assert_eq!(steps, [Some(1), Some(2), Some(3), Some(5), Some(6)]);
    assert_eq!(times.out, [(region("ap-south"), BEGIN + 4)]);
    assert!(book.find(conversation(1), (Some(id), Some(&user("bob")), None), BEGIN + 9).is_none(), "another's");
    assert_eq!(book.conversations_of(id, BEGIN + 9), [conversation(1)]);
}

#[test]
fn an_edge_that_holds_no_copy_knows_the_number_by_the_ack_and_a_copy_that_came_in_is_not_numbered_here() {
    let (mut book, id) = (book(100), Uuid::from_u128(9));
    book.taken(conversation(1), id, "ann", BEGIN + 1);
    book.forwarded(conversation(1), id, "ann", BEGIN + 2);
    book.queued(conversation(1), id, "ann", BEGIN + 3);
    book.forwarded(conversation(1), id, "ann", BEGIN + 4);
    book.acked((conversation(1), id, "ann"), (7, 2), BEGIN + 5);
    let times = by_number(&book, 7, BEGIN + 6).expect("the ack names it");
    assert_eq!((times.epoch, times.forwarded, times.came), (2, Some(BEGIN + 4), None));
    book.arrived(conversation(1), &entry(9, "ann", (2, 7), BEGIN), BEGIN + 6);
    book.arrived(conversation(1), &entry(9, "ann", (2, 7), BEGIN), BEGIN + 8);
    let times = by_id(&book, 9, BEGIN + 9).expect("it is known");
    assert_eq!((times.numbered, times.came), (false, Some(BEGIN + 6)), "the first time counts");
    assert_eq!(book.len(), 1);
}

#[test]
fn a_message_that_comes_back_at_another_place_is_another_way_and_the_newest_is_found() {
    let mut book = book(100);
    book.numbered(conversation(1), &entry(9, "ann", (1, 5), BEGIN), BEGIN + 1);
    book.numbered(conversation(1), &entry(8, "bob", (2, 5), BEGIN), BEGIN + 2);
    book.numbered(conversation(1), &entry(9, "ann", (2, 6), BEGIN), BEGIN + 3);
    let times = by_id(&book, 9, BEGIN + 4).expect("it is known");
    assert_eq!((times.epoch, times.sequence, times.came), (2, 6, Some(BEGIN + 3)));
    assert_eq!(by_number(&book, 5, BEGIN + 4).map(|times| times.epoch), Some(2));
}

#[test]
fn steps_are_of_the_message_that_stands_at_a_place_and_not_of_one_that_a_failover_left_out() {
    let (mut book, id) = (book(100), Uuid::from_u128(9));
    book.taken(conversation(1), id, "ann", BEGIN + 1);
    // What stood there on the line before came later than ann's message, which waited.
    book.arrived(conversation(1), &entry(8, "bob", (1, 5), BEGIN), BEGIN + 2);
    book.durable(conversation(1), 6, BEGIN + 3);
    book.numbered(conversation(1), &entry(9, "ann", (2, 5), BEGIN), BEGIN + 4);
    book.durable(conversation(1), 6, BEGIN + 5);
    book.sent(conversation(1), &region("ap-south"), (5, 1), BEGIN + 6);
    book.shown(conversation(1), (5, 2), BEGIN + 7);
    let times = by_id(&book, 9, BEGIN + 8).expect("it is known");
    assert_eq!((times.durable, times.shown), (Some(BEGIN + 5), Some(BEGIN + 7)));
    assert_eq!(times.out, [(region("ap-south"), BEGIN + 6)]);
    let left = by_id(&book, 8, BEGIN + 8).expect("it is known");
    assert_eq!((left.durable, left.shown, left.out.len()), (Some(BEGIN + 3), None, 0));
    assert_eq!(by_number(&book, 5, BEGIN + 8).map(|times| times.epoch), Some(2));
}

#[test]
fn the_device_of_a_parked_send_that_is_told_its_number_was_told_an_ack() {
    let (mut book, id) = (book(100), Uuid::from_u128(9));
    book.taken(conversation(1), id, "ann", BEGIN + 1);
    book.queued(conversation(1), id, "ann", BEGIN + 2);
    let send = ParkedSend {
        number: 1,
        conversation: conversation(1),
        sender: user("ann"),
        device: DeviceId(Uuid::from_u128(3)),
        id: MessageId(id),
        content: Bytes::new(),
        reply_to: None,
        expires_at: None,
        level: None,
        parked_at: Timestamp(BEGIN / 1_000),
        refused: None,
        joined: None,
        kind: EntryKind::Message,
        target: None,
    };
    let position = Position { epoch: Epoch(2), sequence: Sequence(7) };
    let (time, home, level) = (Timestamp(BEGIN / 1_000), region("us-east"), Level::Region);
    let ack = Ack { position, time, home: home.clone(), level, regions: vec![home.clone()], duplicate: false };
    book.told_device(&send, &DeviceOutcome::CopiesMissing(home), BEGIN + 3);
    book.told_device(&send, &DeviceOutcome::Acked(ack), BEGIN + 4);
    let times = by_id(&book, 9, BEGIN + 5).expect("it is known");
    assert_eq!((times.queued, times.acked, times.sequence), (Some(BEGIN + 2), Some(BEGIN + 4), 7));
}

#[test]
fn what_is_kept_is_an_hour_or_since_the_start_or_what_there_is_room_for() {
    let mut book = book(2);
    let kept = |book: &HopBook, now: u64| book.kept(BEGIN + now);
    assert_eq!(kept(&book, 5), Kept { since: BEGIN, why: KeptWhy::Start });
    let later = KEPT_MICROSECONDS + 5;
    assert_eq!(kept(&book, later), Kept { since: BEGIN + 5, why: KeptWhy::Hour });
    for number in 1..=3 {
        book.numbered(conversation(1), &entry(u128::from(number), "ann", (1, number), BEGIN), BEGIN + number * 10);
    }
    assert_eq!(kept(&book, 40), Kept { since: BEGIN + 11, why: KeptWhy::Full });
    assert!(by_id(&book, 1, BEGIN + 40).is_none() && by_id(&book, 2, BEGIN + 40).is_some());
    assert!(by_id(&book, 2, BEGIN + 21 + KEPT_MICROSECONDS).is_none(), "after its hour it is not told");
    book.numbered(conversation(1), &entry(4, "ann", (1, 4), BEGIN + later), BEGIN + later + 30);
    assert_eq!(book.len(), 1, "what is older than an hour makes room by itself");
    assert_eq!(kept(&book, later + 30).why, KeptWhy::Hour);
}

#[test]
fn entries_of_long_ago_and_headers_are_no_messages_on_their_way() {
    let mut book = book(10);
    book.arrived(conversation(1), &entry(9, "ann", (1, 5), BEGIN - KEPT_MICROSECONDS - 2_000), BEGIN);
    book.arrived(conversation(1), &entry(8, "ann", (1, 0), BEGIN), BEGIN);
    book.durable(conversation(1), 6, BEGIN);
    book.shown(conversation(1), (5, 1), BEGIN);
    assert!(book.is_empty());
}

#[test]
fn a_clock_that_is_set_back_is_told_as_it_was_and_a_time_that_does_not_fit_is_none() {
    let (mut book, id) = (book(10), Uuid::from_u128(9));
    book.taken(conversation(1), id, "ann", BEGIN);
    book.queued(conversation(1), id, "ann", BEGIN - 60_000_000);
    book.forwarded(conversation(1), id, "ann", BEGIN - KEPT_MICROSECONDS);
    let times = by_id(&book, 9, BEGIN).expect("it is known");
    assert_eq!((times.queued, times.forwarded), (Some(BEGIN - 60_000_000), None));
}

#[test]
fn the_bytes_of_a_full_book_are_what_the_configuration_says() {
    let all = HopBook::bytes(200_000, 2) + MoveBook::bytes(200_000);
    assert!((30_000_000..40_000_000).contains(&all), "{all} bytes");
}

#[derive(Clone, Debug)]
enum Step {
    Taken(u8),
    Numbered(u8),
    Durable(u8),
    Sent(u8),
    Shown(u8),
}

fn any_step() -> impl Strategy<Value = (Step, u32)> {
    let step = prop_oneof![
        (0u8..12).prop_map(Step::Taken),
        (0u8..12).prop_map(Step::Numbered),
        (0u8..12).prop_map(Step::Durable),
        (0u8..12).prop_map(Step::Sent),
        (0u8..12).prop_map(Step::Shown),
    ];
    (step, 0u32..1_500_000_000)
}

proptest! {
    /// Message `n` has number `n + 1`. The list beside it keeps what was noted of each while it is among the newest.
    #[test]
    fn a_book_is_bounded_drops_the_oldest_first_and_tells_no_time_that_was_not_noted(
        steps in proptest::collection::vec(any_step(), 1..120),
        most in 1usize..6,
    ) {
        let mut book = book(most);
        let mut noted: Vec<(u8, u64, BTreeMap<&'static str, u64>)> = Vec::new();
        let mut now = BEGIN;
        for (step, passed) in steps {
            now += u64::from(passed);
            let number = match step {
                Step::Taken(n) | Step::Numbered(n) | Step::Durable(n) | Step::Sent(n) | Step::Shown(n) => n,
            };
            let place = u64::from(number) + 1;
            let adds = matches!(step, Step::Taken(_) | Step::Numbered(_));
            if adds && !noted.iter().any(|(known, ..)| *known == number) {
                noted.retain(|(_, base, _)| base + KEPT_MICROSECONDS >= now);
                if noted.len() == most {
                    noted.remove(0);
                }
                noted.push((number, now, BTreeMap::new()));
            }
            let known = noted.iter_mut().find(|(known, ..)| *known == number).map(|(_, _, times)| times);
            let id = Uuid::from_u128(u128::from(number) + 100);
            match step {
                Step::Taken(_) => {
                    book.taken(conversation(1), id, "ann", now);
                    known.expect("added").entry("taken").or_insert(now);
                }
                Step::Numbered(_) => {
                    book.numbered(conversation(1), &entry(id.as_u128(), "ann", (1, place), now), now);
                    known.expect("added").entry("came").or_insert(now);
                }
                Step::Shown(_) => {
                    book.shown(conversation(1), (place, 1), now);
                    if let Some(known) = known.filter(|known| known.contains_key("came")) {
                        known.entry("shown").or_insert(now);
                    }
                }
                Step::Sent(_) => {
                    book.sent(conversation(1), &region("us-east"), (place, 1), now);
                    if let Some(known) = known.filter(|known| known.contains_key("came")) {
                        known.insert("sent", now);
                    }
                }
                Step::Durable(_) => {
                    book.durable(conversation(1), place + 1, now);
                    // Down from it, as far as there are rows that are not on disk.
                    for lower in (0..=number).rev() {
                        let row = noted.iter_mut().find(|(known, _, times)| *known == lower && times.contains_key("came"));
                        let Some((.., times)) = row.filter(|(.., times)| !times.contains_key("durable")) else { break };
                        times.insert("durable", now);
                    }
                }
            }
            prop_assert!(book.len() <= most);
            for n in 0..12u8 {
                let kept = noted.iter().find(|(known, base, _)| *known == n && base + KEPT_MICROSECONDS >= now);
                let told = by_id(&book, u128::from(n) + 100, now);
                prop_assert_eq!(told.is_some(), kept.is_some(), "message {}", n);
                let (Some(told), Some((.., times))) = (told, kept) else { continue };
                let time = |name| times.get(name).copied();
                let sent = told.out.first().map(|(_, at)| *at);
                let steps = (told.taken, told.came, told.durable, told.shown, sent);
                let expected = (time("taken"), time("came"), time("durable"), time("shown"), time("sent"));
                // A time later than an hour after the first does not fit, and is not told.
                prop_assert_eq!(steps, expected, "message {}", n);
            }
        }
    }

    /// A list of all moves says when a number was passed first since the cursor was last below it.
    #[test]
    fn moves_are_bounded_and_tell_when_a_number_was_passed_or_nothing(
        moves in proptest::collection::vec((0u8..3, 0u64..20, any::<bool>()), 1..60),
        most in 1usize..40,
    ) {
        let mut book = MoveBook::new(most, 3);
        let mut all: Vec<(u8, u64, u64, u64)> = Vec::new();
        let names = ["ann", "bob", "cem"];
        for (step, (member, by, fell)) in moves.into_iter().enumerate() {
            let at = 1_000 + step as u64;
            let before = all.iter().rev().find(|(known, ..)| *known == member).map_or(0, |(_, _, up_to, _)| *up_to);
            let from = if fell { before / 2 } else { before };
            let up_to = from + by + 1;
            book.moved((conversation(1), &user(names[usize::from(member)]), CursorKind::Read), (from, up_to), Timestamp(at));
            all.push((member, from, up_to, at));
            let kept = &all[all.len().saturating_sub(most)..];
            for member in 0..3u8 {
                for sequence in 1..40 {
                    let told = book.passed(conversation(1), &user(names[usize::from(member)]), CursorKind::Read, sequence, Timestamp(at));
                    let of_it = kept.iter().rev().filter(|(known, ..)| *known == member);
                    let reached: Vec<_> = of_it.take_while(|(_, _, up_to, _)| *up_to >= sequence).collect();
                    let passed = reached.iter().find(|(_, from, ..)| *from < sequence).map(|(.., at)| Timestamp(*at));
                    prop_assert_eq!(told, passed, "{} at {}", member, sequence);
                }
            }
            let other = book.passed(conversation(1), &user("ann"), CursorKind::Delivered, 1, Timestamp(at));
            prop_assert!(other.is_none(), "the other cursor did not move");
        }
    }
}

#[test]
fn a_move_of_more_than_an_hour_ago_is_not_told() {
    let mut book = MoveBook::new(4, 3);
    book.moved((conversation(1), &user("ann"), CursorKind::Delivered), (0, 5), Timestamp(1_000));
    let passed = |now| book.passed(conversation(1), &user("ann"), CursorKind::Delivered, 3, Timestamp(now));
    assert_eq!(passed(3_601_000), Some(Timestamp(1_000)));
    assert_eq!(passed(3_601_001), None);
}
