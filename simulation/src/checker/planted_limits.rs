//! The checker of rates judged.

use hearth_protocol::{ConversationId, MessageId, UserId};
use uuid::Uuid;

use super::{Guarantee, check};
use crate::history::{Event, History};

const SECOND: u64 = 1_000_000;
const CONVERSATION: ConversationId = ConversationId(Uuid::from_u128(9));

fn id(number: u64) -> MessageId {
    MessageId(Uuid::from_u128(u128::from(number)))
}

/// Three a minute may be sent.
fn counted(second: u64, number: u64, taken: bool) -> (u64, Event) {
    let user = UserId::new("bob").expect("a valid user id");
    let (process, conversation, message, per_minute) = ((0, 1), CONVERSATION, id(number), 3);
    (second * SECOND, Event::Counted { process, user, conversation, message, per_minute, taken })
}

fn broken(events: Vec<(u64, Event)>) -> usize {
    check(&History { events, ..History::default() }).count(&[Guarantee::Limits])
}

#[test]
fn what_is_refused_without_too_many_before_or_taken_after_too_many_is_found() {
    let three = || (1..4).map(|number| counted(number, number, true)).collect::<Vec<_>>();
    let then = |next: Vec<(u64, Event)>| broken([three(), next].concat());
    assert_eq!(then(vec![counted(4, 4, false), counted(23, 5, true), counted(24, 4, false)]), 0);
    assert_eq!(then(vec![counted(90, 4, false)]), 1, "a minute later");
    assert_eq!(broken(vec![counted(1, 1, true), counted(2, 2, false)]), 1, "the second");
    assert_eq!(then((4..9).map(|number| counted(4, number, true)).collect()), 1, "eight of three");
}

#[test]
fn a_retry_that_is_refused_is_found() {
    let twice = vec![counted(1, 1, true), counted(2, 1, true), counted(3, 1, true), counted(4, 1, true)];
    assert_eq!(broken([twice.clone(), vec![counted(5, 2, true), counted(5, 3, true)]].concat()), 0);
    assert_eq!(broken([twice, vec![counted(5, 1, false)]].concat()), 1);
}

#[test]
fn what_a_region_holds_and_a_home_refuses_for_its_rate_is_found() {
    let limited = (3 * SECOND, Event::Limited(CONVERSATION, id(1)));
    let queued = (SECOND, Event::Queued(0, CONVERSATION, id(1)));
    let again = (2 * SECOND, Event::Invoke(0, CONVERSATION, id(1)));
    assert_eq!(broken(vec![limited.clone()]), 0);
    assert_eq!(broken(vec![queued.clone(), limited.clone()]), 1);
    assert_eq!(broken(vec![queued, again, limited]), 0, "it is handed over again");
}
