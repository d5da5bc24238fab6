//! The checker of pushes judged: each thing that it looks for is planted once in a history that is good otherwise.

use std::sync::Arc;

use hearth_protocol::push::{Preferences, PushPolicy};
use hearth_protocol::{ConversationId, Epoch, MessageId, Position, Sequence, Timestamp, UserId};
use region_model::push::Withheld;
use uuid::Uuid;

use super::{Guarantee, check};
use crate::history::{Did, Event, History, ReadRow};

const SECOND: u64 = 1_000_000;
const CONVERSATION: ConversationId = ConversationId(Uuid::from_u128(9));

fn bob() -> UserId {
    UserId::new("bob").expect("a valid user id")
}

fn id(number: u64) -> MessageId {
    MessageId(Uuid::from_u128(u128::from(number)))
}

fn at(epoch: u64, sequence: u64) -> Position {
    Position { epoch: Epoch(epoch), sequence: Sequence(sequence) }
}

fn decided(sequence: u64, withheld: Option<Withheld>) -> Event {
    decided_by(sequence, withheld, (0, 1, 1))
}

fn decided_by(sequence: u64, withheld: Option<Withheld>, by: (usize, u64, u64)) -> Event {
    let (user, conversation, message) = (bob(), CONVERSATION, id(sequence));
    let position = at(1, sequence);
    Event::PushDecided { user, conversation, message, position, withheld, by, in_view_since: None }
}

fn sent(sequence: u64, notify: bool) -> Event {
    Event::PushSent { user: bob(), conversation: CONVERSATION, position: at(1, sequence), notify, is_over: false }
}

fn row(sequence: u64, sender: &str) -> ReadRow {
    ReadRow {
        sequence,
        message: id(sequence),
        sender: sender.to_owned(),
        time: 0,
        did: Did::Message,
        text: Some("text".to_owned()),
        deleted: false,
        expires: None,
        expired: false,
        bare: false,
        reactions: Vec::new(),
    }
}

/// What is so at the end, of a member from the first message on who wants everything.
fn end(wants: Preferences, spans: &[(u64, u64)]) -> Event {
    let (user, conversation) = (bob(), CONVERSATION);
    Event::PushEnd { user, conversation, spans: spans.to_vec(), wants, decides: Some((0, 1)) }
}

/// Ann writes 1 and 2, bob writes 3; bob is woken for 1 and 2 at once, and reads both.
fn story() -> Vec<(u64, Event)> {
    let rows = vec![row(1, "ann"), row(2, "ann"), row(3, "bob")];
    vec![
        (SECOND, decided(1, None)),
        (SECOND, decided(2, None)),
        (2 * SECOND, sent(2, true)),
        (3 * SECOND, Event::Screen(bob(), Some(CONVERSATION))),
        (3 * SECOND, Event::ReadUpTo(bob(), CONVERSATION, at(1, 2))),
        (4 * SECOND, sent(2, false)),
        (5 * SECOND, decided(3, Some(Withheld::Own))),
        (60 * SECOND, end(Preferences::default(), &[(0, u64::MAX)])),
        (61 * SECOND, Event::Read { reader: "eu".to_owned(), conversation: CONVERSATION, rows: Arc::new(rows) }),
    ]
}

fn found(events: Vec<(u64, Event)>) -> Vec<String> {
    let mut history = History { events, ..History::default() };
    history.events.sort_by_key(|(at, _)| *at);
    let report = check(&history);
    let pushes = report.violations.into_iter().filter(|violation| violation.guarantee == Guarantee::Push);
    pushes.map(|violation| violation.what).collect()
}

fn finds(name: &str, events: Vec<(u64, Event)>) {
    assert!(!found(events).is_empty(), "{name} is not found");
}

fn with(more: Vec<(u64, Event)>) -> Vec<(u64, Event)> {
    story().into_iter().chain(more).collect()
}

/// The story with the decision on 2 made otherwise.
fn second(change: impl FnOnce(&mut Event)) -> Vec<(u64, Event)> {
    let mut events = story();
    change(&mut events[1].1);
    events
}

fn wanting(wants: Preferences) -> Vec<(u64, Event)> {
    let mut events = story();
    events[7].1 = end(wants, &[(0, u64::MAX)]);
    events
}

#[test]
fn who_is_woken_once_for_what_it_missed_is_not_blamed() {
    assert_eq!(found(story()), Vec::<String>::new());
}

#[test]
fn who_is_woken_twice_by_one_who_knows_of_the_first_time_is_found() {
    finds("twice", with(vec![(7 * SECOND, decided(1, None)), (8 * SECOND, sent(2, false))]));
    let again = vec![(6 * SECOND, Event::PushForgot(bob(), CONVERSATION)), (7 * SECOND, decided(1, None))];
    assert_eq!(found(with([again, vec![(8 * SECOND, sent(2, false))]].concat())), Vec::<String>::new());
}

#[test]
fn who_is_woken_for_what_it_does_not_want_wrote_has_in_view_or_may_not_see_is_found() {
    let all = Preferences::default();
    finds("nothing is wanted", wanting(Preferences { policy: PushPolicy::None, ..all }));
    finds("nobody is named", wanting(Preferences { policy: PushPolicy::Mentions, ..all }));
    finds("muted", wanting(Preferences { muted_until: Some(Timestamp(u64::MAX)), ..all }));
    let named = [1, 2].map(|sequence| (0, Event::Names(CONVERSATION, id(sequence), bob()))).to_vec();
    let mentions = wanting(Preferences { policy: PushPolicy::Mentions, ..all });
    assert_eq!(found([named, mentions].concat()), Vec::<String>::new());
    let mut own = story();
    own[6].1 = decided(3, None);
    finds("its own", own);
    let viewed = |since: u64| {
        let mut events = story();
        events.push((20 * SECOND, sent(2, false)));
        events[1] = (19 * SECOND, decided(2, None));
        if let Event::PushDecided { in_view_since, .. } = &mut events[1].1 {
            *in_view_since = Some(since);
        }
        events
    };
    finds("in view all the time", viewed(3 * SECOND));
    assert_eq!(found(viewed(17 * SECOND)), Vec::<String>::new());
    let mut away = story();
    away[7].1 = end(all, &[(0, 2), (3, u64::MAX)]);
    finds("no member", away);
}

#[test]
fn who_is_not_woken_for_a_reason_that_is_not_so_or_without_any_is_found() {
    let because = |why| {
        second(|event| {
            if let Event::PushDecided { withheld, .. } = event {
                *withheld = Some(why);
            }
        })
    };
    for why in Withheld::ALL {
        finds(why.label(), because(why));
    }
    // The process that had it waiting at another position ends before that is decided, and the next one decides it here.
    let next = (5 * SECOND / 4, decided_by(2, Some(Withheld::Read), (0, 1, 2)));
    let read = (SECOND, Event::ReadUpTo(bob(), CONVERSATION, at(1, 2)));
    let events = [because(Withheld::Repeated), vec![next, read, (2 * SECOND, sent(1, true))]].concat();
    assert_eq!(found(events), Vec::<String>::new(), "repeated, and decided by the next process");
    let mut forgotten = story();
    forgotten.remove(1);
    finds("nothing decided", forgotten.clone());
    let start = |at_second: u64| (at_second * SECOND, Event::PushStart(bob(), CONVERSATION, at(1, 2)));
    let acked = |events: Vec<(u64, Event)>, at_second| [vec![start(at_second)], events].concat();
    assert_eq!(found(acked(forgotten, 59)), Vec::<String>::new(), "it was older than a minute");
}

#[test]
fn what_is_decided_and_not_sent_and_what_is_read_and_not_taken_away_is_found() {
    let mut unsent = story();
    unsent.retain(|(_, event)| !matches!(event, Event::PushSent { .. }));
    finds("never sent", unsent);
    let mut shown = story();
    shown.retain(|(_, event)| !matches!(event, Event::PushSent { notify: false, .. }));
    finds("shown still", shown);
}
