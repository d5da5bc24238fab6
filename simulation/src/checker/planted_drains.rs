//! The checker of drains judged: each thing that it looks for is planted once in a history that is good otherwise.

use hearth_protocol::{ConversationId, Epoch, MessageId, Position, Sequence};
use uuid::Uuid;

use super::{Guarantee, check};
use crate::history::{Event, History, SessionId};

const SECOND: u64 = 1_000_000;

/// A node with ten sessions is drained within ten seconds. Nine leave at their slots, the last is closed.
fn story() -> Vec<(u64, Event)> {
    let sessions: Vec<SessionId> = (0..10).collect();
    let mut events = vec![(SECOND, Event::Drains { region: 0, within: 10 * SECOND, sessions })];
    for session in 0..10 {
        let at = SECOND + u64::from(session) * 8 * SECOND / 10;
        events.push((SECOND, Event::ToldToLeave { session, at, until: 11 * SECOND }));
        let (left_at, closed) = if session == 9 { (11 * SECOND + 50_000, true) } else { (at, false) };
        events.push((left_at, Event::LeftNode { session, closed }));
    }
    events.push((9 * SECOND, Event::At(20, 1)));
    events.push((15 * SECOND, Event::Serves(0)));
    events.push((16 * SECOND, Event::At(21, 0)));
    events.push((30 * SECOND, Event::FaultEnds(0)));
    events
}

fn found(events: Vec<(u64, Event)>) -> Vec<String> {
    let mut history = History { events, ..History::default() };
    history.events.sort_by_key(|(at, _)| *at);
    let found = check(&history).violations.into_iter().filter(|violation| violation.guarantee == Guarantee::Drained);
    found.map(|violation| violation.what).collect()
}

/// The story with the events of one session made otherwise, or left out.
fn with(session: SessionId, change: impl Fn(&mut u64, &mut Event) -> bool) -> Vec<String> {
    let mut events = story();
    events.retain_mut(|(at, event)| {
        let of = match event {
            Event::ToldToLeave { session, .. } | Event::LeftNode { session, .. } => Some(*session),
            _ => None,
        };
        of != Some(session) || change(at, event)
    });
    found(events)
}

fn finds(what: &str, found: &[String]) {
    assert!(found.iter().any(|text| text.contains(what)), "{what}: {found:?}");
}

#[test]
fn sessions_that_are_told_and_leave_at_their_slots_are_not_blamed() {
    assert_eq!(found(story()), Vec::<String>::new());
}

#[test]
fn a_session_that_is_not_told_or_told_twice_or_a_slot_outside_the_drain_is_found() {
    finds("is not told", &with(3, |_, event| !matches!(event, Event::ToldToLeave { .. })));
    finds("never told", &with(9, |_, event| !matches!(event, Event::ToldToLeave { .. })));
    let mut twice = story();
    twice.push((2 * SECOND, Event::ToldToLeave { session: 9, at: 3 * SECOND, until: 11 * SECOND }));
    finds("told twice", &found(twice));
    let slot_at = |slot: u64| {
        with(3, move |_, event| {
            if let Event::ToldToLeave { at, .. } = event {
                *at = slot;
            }
            true
        })
    };
    finds("not in the time", &slot_at(12 * SECOND));
    finds("not in the time", &slot_at(SECOND / 2));
}

#[test]
fn a_session_that_is_closed_early_or_late_is_found_but_for_the_time_that_its_node_stood_still() {
    let closed_at = |second: u64| {
        let mut events = story();
        events.retain(|(_, event)| !matches!(event, Event::LeftNode { session: 9, .. }));
        events.push((second * SECOND, Event::LeftNode { session: 9, closed: true }));
        events
    };
    finds("before its time", &found(closed_at(9)));
    finds("there still", &found(closed_at(16)));
    let still = vec![(10 * SECOND, Event::StandsStill(0, true)), (15 * SECOND, Event::StandsStill(0, false))];
    assert_eq!(found([closed_at(16), still].concat()), Vec::<String>::new());
    finds("there still", &with(4, |_, event| !matches!(event, Event::LeftNode { .. })));
}

#[test]
fn sessions_that_shall_all_come_back_at_once_or_begin_at_a_node_that_is_drained_are_found() {
    let mut events = story();
    for (_, event) in &mut events {
        if let Event::ToldToLeave { at, .. } = event {
            *at = 3 * SECOND;
        }
    }
    finds("sessions have slots", &found(events));
    let mut begins = story();
    begins.push((5 * SECOND, Event::At(20, 0)));
    finds("begins at a node", &found(begins));
}

#[test]
fn who_comes_back_and_is_shown_what_is_behind_a_hole_that_it_was_not_told_of_is_found() {
    let conversation = ConversationId(Uuid::from_u128(9));
    let at = |sequence| Position { epoch: Epoch(1), sequence: Sequence(sequence) };
    let shown = |sequence: u64| {
        (3 * SECOND, Event::Shown(1, conversation, at(sequence), MessageId(Uuid::from_u128(u128::from(sequence)))))
    };
    let gaps = |events: Vec<(u64, Event)>| {
        let report = check(&History { events, ..History::default() });
        report.count(&[Guarantee::G4])
    };
    let resumes = (2 * SECOND, Event::Resumes(1, conversation, at(4)));
    let told = (2 * SECOND, Event::Told(1, Some(conversation)));
    assert_eq!(gaps(vec![resumes.clone(), shown(5), shown(6)]), 0);
    assert_eq!(gaps(vec![resumes.clone(), shown(6)]), 1);
    assert_eq!(gaps(vec![resumes, told, shown(6)]), 0);
    assert_eq!(gaps(vec![shown(6)]), 0, "it had nothing");
}
