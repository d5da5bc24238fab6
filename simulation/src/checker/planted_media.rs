//! The checker of media judged: each thing that it looks for is planted once in a history that is good otherwise.

use hearth_protocol::{ConversationId, Epoch, Level, MessageId, Position, Sequence, UserId};
use region_model::media::ports::MediaObject;
use uuid::Uuid;

use super::{Guarantee, check};
use crate::history::{Acked, Event, History, MediaAnswer, RegionSet};

const SECOND: u64 = 1_000_000;
const CONVERSATION: ConversationId = ConversationId(Uuid::from_u128(9));
const MEDIA: MediaObject = MediaObject { conversation: CONVERSATION, id: Uuid::from_u128(7) };
const MESSAGE: MessageId = MessageId(Uuid::from_u128(1));

fn ack(second: u64) -> (u64, Event) {
    let position = Position { epoch: Epoch(1), sequence: Sequence(5) };
    let (regions, home) = (RegionSet::from_iter([0]), Some(0));
    let acked = Acked { position, time: 1, level: Level::Region, home, regions, again: false };
    let event = Event::Ack { session: 0, conversation: CONVERSATION, message: MESSAGE, acked, on_disk: None };
    (second * SECOND, event)
}

fn asked(second: u64, answer: MediaAnswer, is_member: bool, is_shown: bool, is_own: bool) -> (u64, Event) {
    let user = UserId::new("bob").expect("a valid user id");
    let shown = if is_shown { vec![MESSAGE] } else { Vec::new() };
    (second * SECOND, Event::MediaAsked { user, media: MEDIA, answer, is_member, shown, is_own })
}

fn taken(second: u64, is_shown: bool) -> (u64, Event) {
    let shown = if is_shown { vec![(MESSAGE, false)] } else { Vec::new() };
    (second * SECOND, Event::MediaTaken { media: MEDIA, shown, asked_at: second * SECOND })
}

fn end(has_bytes: bool, has_record: bool, is_kept: bool, is_shown: bool) -> (u64, Event) {
    let shown = if is_shown { vec![(MESSAGE, false)] } else { Vec::new() };
    (100 * SECOND, Event::MediaEnd { media: MEDIA, region: 0, has_bytes, has_record, is_kept, shown })
}

/// They come, a message carries them, and whoever is shown it gets them.
fn story() -> Vec<(u64, Event)> {
    vec![
        (SECOND, Event::MediaCame(MEDIA)),
        (SECOND, Event::Invoke(0, CONVERSATION, MESSAGE)),
        ack(2),
        asked(3, MediaAnswer::Given(true), true, true, false),
        asked(3, MediaAnswer::NotShown, false, false, false),
        asked(4, MediaAnswer::Later, true, true, false),
    ]
}

fn found(more: Vec<(u64, Event)>) -> Vec<String> {
    let mut history = History::default();
    history.session("ann at eu", 1);
    history.events = story().into_iter().chain(more).collect();
    let report = check(&history);
    let media = report.violations.into_iter().filter(|violation| violation.guarantee == Guarantee::Media);
    media.map(|violation| violation.what).collect()
}

fn finds(what: &str, more: Vec<(u64, Event)>) {
    let found = found(more);
    assert!(found.iter().any(|said| said.contains(what)), "{what} is not found: {found:?}");
}

fn holds(more: Vec<(u64, Event)>) {
    assert_eq!(found(more), Vec::<String>::new());
}

#[test]
fn media_that_are_there_while_shown_and_go_afterwards_are_not_blamed() {
    holds(vec![end(true, true, true, true), asked(101, MediaAnswer::Given(true), true, true, false)]);
    holds(vec![taken(50, false), end(false, false, false, false)]);
}

#[test]
fn bytes_that_go_while_a_message_shows_them_are_found_unless_it_came_with_that() {
    finds("go while", vec![taken(50, true)]);
    holds(vec![taken(5, true)]);
    finds("are gone, and", vec![end(false, false, false, true)]);
    finds("are gone, and", vec![taken(50, false), end(false, false, false, true)]);
    holds(vec![taken(5, false), end(false, false, false, true)]);
    holds(vec![(50 * SECOND, Event::MediaGone(0)), end(false, false, false, true)]);
}

#[test]
fn bytes_that_go_while_what_was_lost_may_come_back_are_found_where_that_was_noted() {
    let from = Position { epoch: Epoch(1), sequence: Sequence(1) };
    let lost = |noted| {
        let loss = Event::Loss { conversation: CONVERSATION, from, below: 2, covered_copies: 2 };
        let (at, mut gone) = taken(50, true);
        if let Event::MediaTaken { shown, .. } = &mut gone {
            shown[0].1 = noted;
        }
        vec![(10 * SECOND, loss), (at, gone)]
    };
    finds("go while", lost(true));
    holds(lost(false));
}

#[test]
fn media_that_are_given_to_who_is_no_member_or_is_shown_nothing_are_found() {
    finds("no member", vec![asked(9, MediaAnswer::Given(true), false, false, false)]);
    finds("shown nothing", vec![asked(9, MediaAnswer::Given(true), true, false, false)]);
    holds(vec![asked(9, MediaAnswer::Given(true), true, false, true)]);
}

#[test]
fn media_that_are_kept_from_who_is_shown_a_message_with_them_are_found() {
    finds("are refused", vec![asked(9, MediaAnswer::NotShown, true, true, false)]);
    let at_the_end = |answer| vec![end(true, true, true, true), asked(101, answer, true, true, false)];
    finds("out of reach at the end", at_the_end(MediaAnswer::Later));
    finds("out of reach at the end", at_the_end(MediaAnswer::None));
    finds("a link to nothing", at_the_end(MediaAnswer::Given(false)));
}

#[test]
fn what_is_left_with_nothing_to_keep_it_is_found() {
    finds("are still there", vec![end(true, true, false, false)]);
    finds("are still there", vec![end(true, false, false, false)]);
    finds("have a record still", vec![end(false, true, false, false)]);
}
