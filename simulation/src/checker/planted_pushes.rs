//! The checker of pushes judged: each thing that it looks for is planted once in a history that is good otherwise.

use std::sync::Arc;

use hearth_protocol::push::{Preferences, PushPolicy};
use hearth_protocol::{ConversationId, Epoch, Level, MessageId, Position, Sequence, Timestamp, UserId};
use region_model::push::Withheld;
use uuid::Uuid;

use super::{Guarantee, check};
use crate::history::{Acked, Did, Event, History, InForce, ReadRow, RegionSet};

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
    let wall = Timestamp(1_000_000);
    Event::PushDecided { user, conversation, message, position, withheld, by, in_view_since: None, wall }
}

fn sent(sequence: u64, notify: bool) -> Event {
    let (user, conversation, position) = (bob(), CONVERSATION, at(1, sequence));
    let (subscription, epoch) = (Uuid::from_u128(1), Some(1));
    Event::PushSent { user, conversation, position, notify, is_over: false, subscription, epoch }
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

/// What is so at the end, of a member from the first message on who wants this all the time.
fn end(wants: Preferences, spans: &[(u64, u64)]) -> Event {
    end_of(vec![says(1, 0, 0, wants)], spans)
}

fn end_of(wants: Vec<InForce<Preferences>>, spans: &[(u64, u64)]) -> Event {
    let (user, conversation) = (bob(), CONVERSATION);
    Event::PushEnd { user, conversation, spans: spans.to_vec(), wants, decides: Some((0, 1)) }
}

/// What the record says under an epoch from a second on, and what is known at another one.
fn says<T>(epoch: u64, from: u64, known: u64, what: T) -> InForce<T> {
    InForce { epoch, from: from * SECOND, known: known * SECOND, what }
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
    let start = |at_second: u64| (at_second * SECOND, Event::PushStart(bob(), CONVERSATION, at(1, 2), 3));
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

/// The story with what bob wants of it in the order of its record.
fn told(wants: Vec<InForce<Preferences>>) -> Vec<String> {
    let mut events = story();
    events[7].1 = end_of(wants, &[(0, u64::MAX)]);
    found(events)
}

#[test]
fn who_decides_against_what_was_wanted_then_is_found_and_not_who_cannot_know_of_it_yet() {
    let nothing = Preferences { policy: PushPolicy::None, muted_until: None };
    let all = Preferences::default();
    // Both messages are decided at the first second, under the first epoch.
    let blamed = |wants| !told(wants).is_empty();
    assert!(blamed(vec![says(1, 0, 0, nothing)]), "known long before");
    assert!(!blamed(vec![says(1, 0, 1, nothing)]), "just said to stand");
    assert!(!blamed(vec![says(2, 0, 0, nothing)]), "said under a newer home");
    assert!(!blamed(vec![says(1, 0, 0, nothing), says(1, 1, 2, all)]), "on its way is what it is decided by");
    assert!(blamed(vec![says(1, 0, 0, nothing), says(1, 2, 3, all)]), "wanted later alone");
    assert!(blamed(vec![says(1, 0, 0, all), says(1, 0, 0, nothing)]), "not wanted any more");
    let muted = |until| Preferences { muted_until: Some(Timestamp(until)), ..all };
    assert!(blamed(vec![says(1, 0, 0, muted(1_000_001))]), "muted by the clock of who decides");
    assert!(!blamed(vec![says(1, 0, 0, muted(1_000_000))]), "until then");
}

#[test]
fn who_is_not_subscribed_is_not_decided_for_and_what_was_sent_to_a_subscription_that_is_over_is_found() {
    let subscribed =
        |subscriptions| with(vec![(60 * SECOND, Event::Subscribed { user: bob(), subscriptions, first_asked: 0 })]);
    let (one, other) = (Some(Uuid::from_u128(1)), Some(Uuid::from_u128(2)));
    assert_eq!(found(subscribed(vec![says(1, 0, 0, one)])), Vec::<String>::new());
    finds("never subscribed", subscribed(Vec::new()));
    finds("subscribed later", subscribed(vec![says(1, 2, 2, one)]));
    finds("over before", subscribed(vec![says(1, 0, 0, one), says(1, 0, 0, None)]));
    finds("sent to another one", subscribed(vec![says(1, 0, 0, one), says(1, 0, 0, other)]));
    assert_eq!(found(subscribed(vec![says(1, 0, 0, one), says(1, 30, 31, None)])), Vec::<String>::new(), "over later");
    let acked = Acked {
        position: at(1, 1),
        time: 0,
        level: Level::Region,
        home: None,
        regions: RegionSet::default(),
        again: false,
    };
    let asked_at = |first_asked| {
        let (conversation, message, acked) = (CONVERSATION, id(1), acked.clone());
        let ack = Event::Ack { session: 0, conversation, message, acked, on_disk: None };
        let decided = (20 * SECOND, decided_by(1, None, (0, 2, 2)));
        let subscriptions = vec![says(1, 0, 0, one)];
        let ends = Event::Subscribed { user: bob(), subscriptions, first_asked };
        found(with(vec![(SECOND / 2, ack), decided, (21 * SECOND, sent(2, false)), (60 * SECOND, ends)]))
    };
    assert_eq!(asked_at(5 * SECOND), Vec::<String>::new(), "clocks are off");
    assert!(!asked_at(10 * SECOND).is_empty(), "said before it subscribed");
}

#[test]
fn who_is_subscribed_again_is_woken_for_what_is_said_then_and_may_be_decided_for_once_more() {
    let one = Some(Uuid::from_u128(1));
    let again = |subscriptions| {
        let twice = vec![(20 * SECOND, decided(1, None)), (21 * SECOND, sent(2, false))];
        found(with(
            [twice, vec![(60 * SECOND, Event::Subscribed { user: bob(), subscriptions, first_asked: 0 })]].concat(),
        ))
    };
    assert!(!again(vec![says(1, 0, 0, one)]).is_empty(), "it knew of the first time");
    assert!(again(vec![says(1, 0, 0, one), says(1, 5, 6, None), says(1, 7, 8, one)]).is_empty(), "it was gone");
    let missed = |said: u64, subscriptions| {
        let mut events = story();
        events.remove(1);
        events.push((said * SECOND, Event::Invoke(0, CONVERSATION, id(2))));
        events.push((60 * SECOND, Event::Subscribed { user: bob(), subscriptions, first_asked: 0 }));
        found(events)
    };
    assert!(!missed(30, vec![says(1, 0, 0, one)]).is_empty(), "nothing was decided");
    assert!(missed(30, vec![says(1, 0, 0, one), says(1, 28, 29, None), says(1, 30, 31, one)]).is_empty(), "in between");
    assert!(missed(30, vec![says(1, 0, 0, one), says(1, 40, 41, None)]).is_empty(), "not subscribed any more");
}
