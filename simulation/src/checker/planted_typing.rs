//! The checker of typing judged: each thing that it looks for is planted once in a history that is good otherwise.

use hearth_protocol::{ConversationId, UserId};
use uuid::Uuid;

use super::{Guarantee, check};
use crate::history::{Event, History};

const SECOND: u64 = 1_000_000;
const HERE: ConversationId = ConversationId(Uuid::from_u128(9));
const ELSEWHERE: ConversationId = ConversationId(Uuid::from_u128(10));
/// The sessions of ann, who types, and of bob, who looks.
const ANN: u32 = 0;
const BOB: u32 = 1;

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a valid user id")
}

fn typed(typing: bool) -> Event {
    Event::Typed { session: ANN, user: user("ann"), conversation: HERE, typing }
}

fn looks(conversation: Option<ConversationId>, aside: bool) -> Event {
    Event::InView { session: BOB, user: user("bob"), region: 1, conversation, aside }
}

fn told(typing: bool) -> Event {
    Event::TypingTold { session: BOB, user: user("ann"), conversation: HERE, typing }
}

fn reached(since: u64) -> Event {
    Event::TypingReached { user: user("ann"), conversation: HERE, since, sessions: vec![BOB] }
}

/// Bob looks, ann types for two seconds, and falls silent.
fn story() -> Vec<(u64, Event)> {
    vec![
        (SECOND, looks(Some(HERE), false)),
        (10 * SECOND, typed(true)),
        (10 * SECOND + 1, told(true)),
        (12 * SECOND, typed(true)),
        (12 * SECOND + 1, told(true)),
        (13 * SECOND, reached(10 * SECOND)),
        (15 * SECOND, reached(12 * SECOND)),
        (19 * SECOND, told(false)),
        (60 * SECOND, looks(None, false)),
    ]
}

fn found(events: Vec<(u64, Event)>) -> Vec<String> {
    let mut history = History { events, ..History::default() };
    history.events.sort_by_key(|(at, _)| *at);
    let report = check(&history);
    let typing = report.violations.into_iter().filter(|violation| violation.guarantee == Guarantee::Typing);
    typing.map(|violation| violation.what).collect()
}

fn with(more: Vec<(u64, Event)>) -> Vec<(u64, Event)> {
    story().into_iter().chain(more).collect()
}

fn without(event: &Event) -> Vec<(u64, Event)> {
    story().into_iter().filter(|(_, known)| known != event).collect()
}

/// One violation, which says this.
fn finds(says: &str, events: Vec<(u64, Event)>) {
    let found = found(events);
    assert!(found.iter().any(|what| what.contains(says)), "{says} is not among {found:?}");
}

#[test]
fn a_good_history_shows_nothing() {
    assert_eq!(found(story()), Vec::<String>::new());
    let looked_away = without(&told(false)).into_iter().chain([(16 * SECOND, looks(Some(ELSEWHERE), false))]).collect();
    assert_eq!(found(looked_away), Vec::<String>::new(), "its view ended");
    let aside = without(&told(false)).into_iter();
    let aside = aside.chain([(14 * SECOND, looks(Some(HERE), true)), (30 * SECOND, looks(Some(HERE), false))]);
    let aside: Vec<(u64, Event)> = aside.chain([(30 * SECOND, told(false))]).collect();
    assert_eq!(found(aside), Vec::<String>::new(), "it is told on its return");
    let still = [(13 * SECOND, Event::StandsStill(1, true)), (40 * SECOND, Event::StandsStill(1, false))];
    let late = without(&told(false)).into_iter().chain(still).chain([(46 * SECOND, told(false))]).collect();
    assert_eq!(found(late), Vec::<String>::new(), "its region stood still");
}

#[test]
fn an_end_that_is_not_told_is_found() {
    finds("still", without(&told(false)));
    let late = without(&told(false)).into_iter().chain([(21 * SECOND, told(false))]).collect();
    finds("still", late);
    let ends = story().into_iter().take(7).chain([(60 * SECOND, typed(false))]).collect();
    finds("still", ends);
    // It was told again, and that counts from the last start.
    let again = vec![
        (SECOND, looks(Some(HERE), false)),
        (10 * SECOND, typed(true)),
        (15 * SECOND, told(true)),
        (20 * SECOND, told(false)),
    ];
    finds("still", again);
    let aside = [(14 * SECOND, looks(Some(HERE), true)), (30 * SECOND, looks(Some(HERE), false))];
    finds("still", without(&told(false)).into_iter().chain(aside).collect());
    let still = [(13 * SECOND, Event::StandsStill(0, true)), (40 * SECOND, Event::StandsStill(0, false))];
    finds("still", without(&told(false)).into_iter().chain(still).collect());
}

#[test]
fn a_start_that_is_not_told_in_reach_is_found() {
    finds("was not told", without(&told(true)).into_iter().filter(|(_, known)| *known != told(false)).collect());
}

#[test]
fn telling_one_who_does_not_look_is_found() {
    finds("does not look", with(vec![(5 * SECOND, looks(Some(ELSEWHERE), false))]));
    finds("does not look", with(vec![(5 * SECOND, looks(None, false))]));
    finds("does not look", with(vec![(5 * SECOND, looks(Some(HERE), true))]));
    finds("does not look", without(&looks(Some(HERE), false)));
}

#[test]
fn telling_one_who_was_removed_or_is_parted_or_types_itself_is_found() {
    let out = |is_out| Event::ShownOut { region: 1, conversation: HERE, user: user("bob"), is_out };
    finds("no member", with(vec![(5 * SECOND, out(true))]));
    assert_eq!(found(with(vec![(5 * SECOND, out(true)), (6 * SECOND, out(false))])), Vec::<String>::new());
    let removed = story().into_iter().filter(|(at, _)| *at < 15 * SECOND).chain([(14 * SECOND, out(true))]).collect();
    assert_eq!(found(removed), Vec::<String>::new(), "who was removed hears nothing of the end");
    let leaving = |leaves| [(14 * SECOND, Event::Leaves(HERE, user("bob"), leaves))];
    let unheard = || without(&told(false)).into_iter();
    assert_eq!(found(unheard().chain(leaving(true)).collect()), Vec::<String>::new(), "its region may know already");
    finds("still", unheard().chain(leaving(false)).collect());
    let back = [(20 * SECOND, Event::Leaves(HERE, user("bob"), false))];
    let again = || unheard().chain(leaving(true)).chain(back.clone());
    assert_eq!(found(again().collect()), Vec::<String>::new(), "the end came while it was no member");
    let types = [(25 * SECOND, typed(true)), (25 * SECOND + 1, told(true))];
    finds("still", again().chain(types).collect());
    for (one, other) in [("ann", "bob"), ("bob", "ann")] {
        finds("blocks", with(vec![(0, Event::Blocks(HERE, user(one), user(other)))]));
    }
    let own = Event::InView { session: BOB, user: user("ann"), region: 1, conversation: Some(HERE), aside: false };
    finds("itself", with(vec![(2 * SECOND, own)]));
}

#[test]
fn telling_more_than_once_a_second_or_what_nobody_said_is_found() {
    finds("again after", with(vec![(12 * SECOND + SECOND / 2, told(true))]));
    finds("was not told that it does", with(vec![(5 * SECOND, told(false))]));
    finds("which was over", with(vec![(30 * SECOND, told(true)), (33 * SECOND, told(false))]));
    finds("which was over", story().into_iter().filter(|(_, known)| *known != typed(true)).collect());
}
