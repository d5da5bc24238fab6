use hearth_protocol::record::Opening;
use hearth_protocol::{Level, LogId, RegionId, RegionMap};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::line::Line;

const LIMITS: DeliveryLimits = DeliveryLimits { held: 8, held_bytes: 1_000, tracked: 4, replay_rows: 5, gap_rows: 20 };

fn conversation() -> ConversationId {
    ConversationId(Uuid::from_u128(1))
}

/// Bytes of each message here: sixty, and its number in digits.
fn bytes(sequence: u64) -> usize {
    60 + sequence.to_string().len()
}

fn live(epoch: u64, sequence: u64) -> Live<u64> {
    Live { conversation: conversation(), epoch: Epoch(epoch), sequence, bytes: bytes(sequence), frame: sequence }
}

fn opening((epoch, first, loss): &(u64, u64, bool)) -> Opening {
    Opening { epoch: Epoch(*epoch), first: *first, previous: [0; 32], loss: *loss }
}

fn changed(openings: &[(u64, u64, bool)]) -> LineChanged {
    let line = Line::new(openings.iter().map(opening).collect());
    LineChanged { conversation: conversation(), line: Arc::new(line) }
}

fn cursor(epoch: u64, last_sequence: u64) -> SyncCursor {
    SyncCursor { conversation_id: conversation(), last_sequence, epoch: Some(Epoch(epoch)) }
}

fn skipped(from: u64, at: u64) -> Skipped {
    Skipped { conversation: conversation(), epoch: Epoch(1), from, at }
}

/// Up to a number, with the messages given, nothing hidden or gone.
fn replay(frames: impl IntoIterator<Item = u64>, up_to: u64) -> Replay<u64> {
    let frames = frames.into_iter().map(|sequence| (sequence, sequence)).collect();
    Replay { frames, epoch: Epoch(1), up_to, visible_from: 1, floor: 1, rewound: None }
}

/// Reads what goes out as a client does that starts with `have`: every message continues it, or a pull or gap was told.
fn check(have: u64, went_out: Vec<Delivery<u64>>) -> Result<u64, TestCaseError> {
    let mut last = have;
    let mut told = false;
    for delivery in went_out {
        match delivery {
            Delivery::Frame(sequence) => {
                prop_assert!(sequence > last, "{sequence} after {last}");
                prop_assert!(sequence == last + 1 || told, "{sequence} jumps over {last}");
                last = sequence;
                told = false;
            }
            Delivery::SyncRequired { from, .. } | Delivery::SyncGap { from, .. } => {
                // A second pull before the first was answered continues where that one ends.
                prop_assert!(told || from <= last + 1, "a pull beyond {last}");
                told = true;
            }
            Delivery::Rewound(_) | Delivery::LeftOut(_) => {}
        }
    }
    Ok(last)
}

#[test]
fn messages_that_the_region_does_not_show_are_told_once_and_not_where_the_client_cannot_miss_them() {
    let live = |sequence| live(1, sequence);
    let mut deliveries = Deliveries::new(LIMITS, 7);
    let mut out = Vec::new();
    deliveries.skipped(&skipped(7, 7), &mut |one| out.push(one));
    assert!(out.is_empty(), "nothing of it was shown to anybody");
    deliveries.live(live(7), 0, &mut |one| out.push(one));
    deliveries.skipped(&skipped(8, 8), &mut |one| out.push(one));
    assert_eq!(out.len(), 1, "nothing is missing");
    deliveries.skipped(&skipped(8, 12), &mut |one| out.push(one));
    deliveries.skipped(&skipped(8, 12), &mut |one| out.push(one));
    deliveries.live(live(12), 0, &mut |one| out.push(one));
    assert_eq!(out.len(), 3, "one pull is told, and the stream goes on");
    let listed = SyncCursor { conversation_id: conversation(), last_sequence: 12, epoch: Some(Epoch(1)) };
    deliveries.begin_replay(&listed);
    deliveries.skipped(&skipped(13, 20), &mut |one| out.push(one));
    deliveries.live(live(20), 0, &mut |one| out.push(one));
    deliveries.replayed(&listed, replay([], 12), 0, &mut |one| out.push(one));
    assert!(check(6, out).is_ok());
}

#[test]
fn what_a_session_was_sent_of_a_message_is_told_as_that() {
    let live = |sequence| live(1, sequence);
    let mut deliveries = Deliveries::new(LIMITS, 7);
    let mut out = Vec::new();
    let about =
        |deliveries: &Deliveries<u64>| [3, 5, 6, 9, 10, 11].map(|number| deliveries.about(conversation(), number));
    use SessionSent::{Before, Pulls, Sent, Waits};
    assert_eq!(about(&deliveries), [Before; 6]);
    deliveries.live(live(5), 0, &mut |one| out.push(one));
    assert_eq!(about(&deliveries), [Before, Sent, Waits, Waits, Waits, Waits]);
    deliveries.live(live(9), 0, &mut |one| out.push(one));
    assert_eq!(about(&deliveries), [Before, Sent, Pulls, Pulls, Waits, Waits], "a hole is pulled");
    deliveries.own_sent(conversation(), 0);
    deliveries.own_acked(conversation(), (Epoch(1), 10), 0, &mut |one| out.push(one));
    assert_eq!(about(&deliveries), [Before, Sent, Pulls, Pulls, Sent, Waits], "its own came back as the ack");
    let listed = SyncCursor { conversation_id: conversation(), last_sequence: 10, epoch: Some(Epoch(1)) };
    deliveries.begin_replay(&listed);
    deliveries.live(live(11), 0, &mut |one| out.push(one));
    assert_eq!(deliveries.about(conversation(), 11), Waits, "it is behind a replay");
    deliveries.replayed(&listed, replay([], 10), 0, &mut |one| out.push(one));
    assert_eq!(deliveries.about(conversation(), 11), Sent);
}

#[test]
fn what_left_the_line_is_told_and_the_new_line_follows_from_there() {
    let mut deliveries = Deliveries::new(LIMITS, 7);
    let mut out = Vec::new();
    for sequence in 5..9 {
        deliveries.live(live(1, sequence), 0, &mut |one| out.push(one));
    }
    let rewound = Rewound { conversation: conversation(), epoch: Epoch(2), after: 6 };
    deliveries.line_changed(&changed(&[(1, 0, false), (2, 7, true)]), 0, &mut |one| out.push(one));
    for sequence in 7..9 {
        deliveries.live(live(2, sequence), 0, &mut |one| out.push(one));
    }
    use Delivery::Frame;
    let told = Delivery::Rewound(rewound);
    let old_line = [5, 6, 7, 8].map(Frame);
    assert_eq!(out[..4], old_line);
    assert_eq!(out[4..], [told, Frame(7), Frame(8)]);
}

#[test]
fn a_replay_with_fewer_rows_than_were_missed_names_what_lacks() {
    let limits = DeliveryLimits { replay_rows: 500, gap_rows: 1_000, ..LIMITS };
    let listed = SyncCursor { conversation_id: conversation(), last_sequence: 10, epoch: Some(Epoch(1)) };
    let conversation = conversation();
    let gap = Delivery::SyncGap { conversation, from: 11, to: 408 };
    let required = Delivery::SyncRequired { conversation, from: 11 };
    for (rows, told) in [(409..411, gap), (411..411, required)] {
        let mut deliveries = Deliveries::new(limits, 7);
        let mut out = Vec::new();
        deliveries.begin_replay(&listed);
        let count = rows.clone().count();
        deliveries.replayed(&listed, replay(rows, 410), 0, &mut |one| out.push(one));
        assert_eq!(out[0], told);
        assert_eq!(out.len(), count + 1);
        check(10, out).unwrap();
    }
}

proptest! {
    #[test]
    fn whatever_is_dropped_doubled_or_late_no_message_comes_twice_or_after_an_untold_hole(
        cursor in 0u64..30,
        stored in 0u64..60,
        lacking in 0u64..7,
        before in proptest::collection::vec(1u64..40, 0..40),
        after in proptest::collection::vec(1u64..80, 0..60),
        held in 0usize..8,
        held_bytes in 0usize..600,
    ) {
        let limits = DeliveryLimits { held, held_bytes, ..LIMITS };
        let mut deliveries = Deliveries::new(limits, 7);
        let mut out = Vec::new();
        let live = |sequence| live(1, sequence);
        let listed = SyncCursor { conversation_id: conversation(), last_sequence: cursor, epoch: Some(Epoch(1)) };
        deliveries.begin_replay(&listed);
        for sequence in before {
            deliveries.live(live(sequence), 0, &mut |one| out.push(one));
        }
        prop_assert!(!out.iter().any(|one| matches!(one, Delivery::Frame(_))), "live before its replay");
        let rows = (cursor + 1).max((stored + lacking).saturating_sub(4))..=stored;
        deliveries.replayed(&listed, replay(rows, stored), 0, &mut |one| out.push(one));
        for sequence in after {
            deliveries.live(live(sequence), 0, &mut |one| out.push(one));
        }
        check(cursor, out)?;
        prop_assert_eq!((deliveries.held, deliveries.held_bytes), (0, 0));
    }
}

fn view(openings: &[(u64, u64, bool)]) -> LogView {
    let id = conversation();
    let eu = RegionId::new("eu").expect("a name");
    let map = RegionMap { version: 1, regions: vec![eu.clone()] };
    let mut placement = map.first_placement(LogId::conversation(id), &eu, Level::Region);
    placement.epoch = openings.last().map_or(Epoch(1), |(epoch, ..)| Epoch(*epoch));
    LogView { placement: Some(placement), openings: openings.iter().map(opening).collect(), ..LogView::default() }
}

#[test]
fn a_cursor_is_good_below_every_later_opening_and_one_without_an_epoch_below_those_that_may_lack_something() {
    let view = view(&[(1, 0, false), (2, 100, true), (3, 120, false), (4, 150, true)]);
    let id = conversation();
    let after = |epoch: Option<u64>, last_sequence| {
        let cursor = SyncCursor { conversation_id: id, last_sequence, epoch: epoch.map(Epoch) };
        rewound_for(&view, &cursor).map(|rewound| (rewound.epoch.0, rewound.after))
    };
    assert_eq!(after(Some(1), 99), None);
    assert_eq!(after(Some(1), 100), Some((4, 99)));
    assert_eq!(after(None, 130), Some((4, 99)));
    assert_eq!(after(Some(2), 119), None);
    assert_eq!(after(Some(3), 150), Some((4, 149)));
    assert_eq!(after(Some(4), 900), None);
    assert_eq!(after(Some(2), 130), Some((4, 119)), "what lacks nothing opened above all that there was");
}

#[test]
fn a_client_that_has_more_of_an_old_line_than_this_region_showed_is_told() {
    let mut deliveries = Deliveries::new(LIMITS, 7);
    let mut out = Vec::new();
    let listed = cursor(1, 20);
    deliveries.begin_replay(&listed);
    deliveries.replayed(&listed, replay([], 9), 0, &mut |one| out.push(one));
    for sequence in [10, 11] {
        deliveries.live(live(1, sequence), 0, &mut |one| out.push(one));
    }
    deliveries.line_changed(&changed(&[(1, 0, false), (2, 12, true)]), 0, &mut |one| out.push(one));
    deliveries.live(live(2, 12), 0, &mut |one| out.push(one));
    let rewound = Rewound { conversation: conversation(), epoch: Epoch(2), after: 11 };
    let twice = Delivery::LeftOut(LeftOut::Duplicate);
    assert_eq!(out, [twice.clone(), twice, Delivery::Rewound(rewound), Delivery::Frame(12)]);
}

#[test]
fn what_is_below_the_opening_of_an_epoch_that_a_region_knows_of_is_no_older_line() {
    let mut deliveries = Deliveries::new(LIMITS, 7);
    let mut out = Vec::new();
    let listed = cursor(1, 8);
    deliveries.begin_replay(&listed);
    deliveries.replayed(&listed, Replay { epoch: Epoch(2), ..replay([9], 9) }, 0, &mut |one| out.push(one));
    deliveries.live(live(1, 10), 0, &mut |one| out.push(one));
    deliveries.line_changed(&changed(&[(1, 0, false), (2, 11, true)]), 0, &mut |one| out.push(one));
    deliveries.live(live(2, 11), 0, &mut |one| out.push(one));
    assert_eq!(out, [9, 10, 11].map(Delivery::Frame));
}

#[test]
fn a_region_that_is_behind_the_clients_line_shows_nothing_until_it_is_on_it() {
    let mut deliveries = Deliveries::new(LIMITS, 7);
    let mut out = Vec::new();
    let listed = cursor(2, 12);
    deliveries.begin_replay(&listed);
    deliveries.replayed(&listed, replay([13], 13), 0, &mut |one| out.push(one));
    deliveries.live(live(1, 14), 0, &mut |one| out.push(one));
    assert_eq!(out, [Delivery::LeftOut(LeftOut::Held)], "13 and 14 are of the older line");
    deliveries.line_changed(&changed(&[(1, 0, false), (2, 12, true)]), 0, &mut |one| out.push(one));
    deliveries.live(live(2, 13), 0, &mut |one| out.push(one));
    let pulls = Delivery::SyncRequired { conversation: conversation(), from: 13 };
    assert_eq!(out[1..], [pulls, Delivery::Frame(13)]);
}

#[test]
fn a_replay_that_was_read_before_the_line_changed_gives_only_what_is_in_both() {
    let mut deliveries = Deliveries::new(LIMITS, 7);
    let mut out = Vec::new();
    let listed = cursor(1, 8);
    deliveries.begin_replay(&listed);
    deliveries.live(live(1, 13), 0, &mut |one| out.push(one));
    deliveries.line_changed(&changed(&[(1, 0, false), (2, 11, true)]), 0, &mut |one| out.push(one));
    deliveries.live(live(2, 11), 0, &mut |one| out.push(one));
    deliveries.replayed(&listed, replay(9..13, 12), 0, &mut |one| out.push(one));
    assert_eq!(out, [9, 10, 11].map(Delivery::Frame));
}

#[test]
fn what_follows_an_own_message_waits_for_its_ack_and_not_for_ever() {
    let mut deliveries = Deliveries::new(LIMITS, 7);
    let mut out = Vec::new();
    deliveries.live(live(1, 5), 0, &mut |one| out.push(one));
    deliveries.own_sent(conversation(), 0);
    deliveries.live(live(1, 7), 100, &mut |one| out.push(one));
    assert_eq!((out.len(), deliveries.poll_timeout()), (1, Some(100 + OWN_ACK_MS)), "6 may be its own");
    deliveries.own_acked(conversation(), (Epoch(1), 6), 150, &mut |one| out.push(one));
    assert_eq!((&out[1..], deliveries.poll_timeout()), (&[Delivery::Frame(7)][..], None));
    deliveries.own_sent(conversation(), 200);
    deliveries.live(live(1, 9), 300, &mut |one| out.push(one));
    deliveries.live(live(1, 10), 400, &mut |one| out.push(one));
    deliveries.handle_timeout(299 + OWN_ACK_MS, &mut |_, one| out.push(one));
    assert_eq!(out.len(), 2);
    deliveries.handle_timeout(300 + OWN_ACK_MS, &mut |_, one| out.push(one));
    let pulls = Delivery::SyncRequired { conversation: conversation(), from: 8 };
    assert_eq!(out[2..], [pulls, Delivery::LeftOut(LeftOut::Gap), Delivery::Frame(10)]);
}

#[test]
fn rows_beyond_an_opening_that_a_copy_has_not_gone_over_to_are_not_shown() {
    let of = |placed: u64, first| {
        let mut view = LogView { marked: 130, ..view(&[(1, 0, false), (2, 100, true)]) };
        let placement = view.placement.as_mut().expect("it has one");
        (placement.epoch, placement.first) = (Epoch(placed), first);
        (view.shown(), view.line().epoch())
    };
    assert_eq!(of(2, 100), (130, Epoch(2)), "the copy is on that line");
    assert_eq!(of(3, 120), (120, Epoch(3)));
    assert_eq!(of(3, 140), (130, Epoch(3)));
    assert_eq!(of(3, u64::MAX), (130, Epoch(2)), "where it opens is not known yet");
}
