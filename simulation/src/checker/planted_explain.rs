//! The checker of explanations judged: each thing that it looks for is planted once in a history that is good otherwise.

use hearth_protocol::client::{Block, BlockReason, DeliveryState, ExplanationPayload, Hop, HopKind};
use hearth_protocol::{ConversationId, Epoch, Level, MessageId, Position, RegionId, Sequence, Timestamp, UserId};
use uuid::Uuid;

use super::{Guarantee, check};
use crate::history::{Acked, AskedRegion, Event, Explained, History, RegionSet};

const SECOND: u64 = 1_000_000;
const CONVERSATION: ConversationId = ConversationId(Uuid::from_u128(9));
const BEFORE: MessageId = MessageId(Uuid::from_u128(1));
const MESSAGE: MessageId = MessageId(Uuid::from_u128(2));
const REGIONS: [&str; 3] = ["eu-west", "us-east", "ap-south"];
/// The sessions: ann's at the home, bob's elsewhere.
const ANN: u32 = 0;
const BOB: u32 = 1;

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a valid user id")
}

fn region(at: usize) -> RegionId {
    RegionId::new(REGIONS[at]).expect("a valid name")
}

fn at(epoch: u64, sequence: u64) -> Position {
    Position { epoch: Epoch(epoch), sequence: Sequence(sequence) }
}

fn ack(session: u32, message: MessageId, position: Position) -> Event {
    let (regions, home) = (RegionSet::from_iter([0]), Some(0));
    let acked = Acked { position, time: 1, level: Level::Region, home, regions, again: false };
    Event::Ack { session, conversation: CONVERSATION, message, acked, on_disk: None }
}

fn hop(kind: HopKind, place: usize, second: u64) -> Hop {
    Hop { hop: kind, region: Some(region(place)), to: None, at: Timestamp(second * 1_000), micros: Some(7) }
}

fn block(reason: BlockReason) -> Block {
    let (region, waits_for, text) = (Some(region(1)), Vec::new(), String::new());
    Block { reason, region, waits_for, link_up: None, since: None, text }
}

/// ann sends a message, which is acked; bob, to whom all of it is told, is shown it and says so.
fn story() -> Vec<(u64, Event)> {
    vec![
        (SECOND, Event::Invoke(ANN, CONVERSATION, BEFORE)),
        (SECOND, ack(ANN, BEFORE, at(1, 4))),
        (2 * SECOND, Event::Invoke(ANN, CONVERSATION, MESSAGE)),
        (3 * SECOND, ack(ANN, MESSAGE, at(1, 5))),
        (4 * SECOND, Event::Shown(BOB, CONVERSATION, at(1, 5), MESSAGE)),
    ]
}

fn said(read: bool) -> (u64, Event) {
    (5 * SECOND, Event::Said { session: BOB, conversation: CONVERSATION, up_to: 5, read })
}

/// What ann is told of it, of whom all regions are in reach.
fn answer() -> ExplanationPayload {
    ExplanationPayload {
        conversation_id: CONVERSATION,
        message_id: Some(MESSAGE),
        sequence_number: Some(5),
        epoch: Some(Epoch(1)),
        home: Some(region(0)),
        user_id: user("bob"),
        state: DeliveryState::Delivered,
        blocks: Vec::new(),
        hops: vec![
            hop(HopKind::EdgeIn, 0, 20),
            hop(HopKind::HomeAppend, 0, 21),
            hop(HopKind::Acked, 0, 22),
            hop(HopKind::LinkIn, 1, 40),
            hop(HopKind::ReplicaApply, 1, 41),
            hop(HopKind::EdgeOut, 1, 42),
        ],
        kept: Vec::new(),
        out_of_reach: Vec::new(),
    }
}

fn explained(change: impl FnOnce(&mut Explained, &mut ExplanationPayload)) -> (u64, Event) {
    let asked = |region| AskedRegion {
        region,
        ahead: [18, 36, 50][region] * SECOND,
        known_since: SECOND,
        has: Some(at(1, 5)),
        waits: false,
        connected: region < 2,
    };
    let mut explained = Explained {
        asker: user("ann"),
        operator: false,
        conversation: CONVERSATION,
        message: MESSAGE,
        user: user("bob"),
        answer: None,
        asked: (0..3).map(asked).collect(),
        settled: false,
    };
    let mut answer = answer();
    change(&mut explained, &mut answer);
    explained.answer = Some(answer);
    (10 * SECOND, Event::Explained(Box::new(explained)))
}

fn found(more: Vec<(u64, Event)>) -> Vec<String> {
    let mut history = History { regions: REGIONS.map(str::to_owned).to_vec(), ..History::default() };
    history.session("ann at eu-west", 1);
    history.session("bob at us-east", 2);
    history.events = story().into_iter().chain(more).collect();
    let report = check(&history);
    let found = report.violations.into_iter().filter(|violation| violation.guarantee == Guarantee::Explained);
    found.map(|violation| violation.what).collect()
}

fn finds(what: &str, change: impl FnOnce(&mut Explained, &mut ExplanationPayload)) {
    let found = found(vec![said(false), explained(change)]);
    assert!(found.iter().any(|said| said.contains(what)), "{what} is not found: {found:?}");
}

fn holds(change: impl FnOnce(&mut Explained, &mut ExplanationPayload)) {
    assert_eq!(found(vec![said(false), explained(change)]), Vec::<String>::new());
}

/// bob does not have it, for a reason.
fn waits(answer: &mut ExplanationPayload, reason: BlockReason) {
    (answer.state, answer.blocks) = (DeliveryState::Waiting, vec![block(reason)]);
}

#[test]
fn what_is_said_as_it_is_is_not_blamed() {
    holds(|_, _| ());
    holds(|_, answer| waits(answer, BlockReason::NotReceived));
    holds(|explained, answer| {
        (explained.asker, explained.operator) = (user("root"), true);
        answer.state = DeliveryState::Delivered;
    });
    holds(|explained, answer| {
        explained.asked.truncate(1);
        answer.out_of_reach = vec![region(1), region(2)];
        answer.hops.truncate(3);
        waits(answer, BlockReason::OutOfReach);
    });
}

#[test]
fn a_message_that_waits_for_nothing_or_has_come_and_waits_is_found() {
    finds("Waiting for []", |_, answer| answer.state = DeliveryState::Waiting);
    finds("Delivered for [", |_, answer| answer.blocks = vec![block(BlockReason::NoSession)]);
    finds("whether that was asked", |explained, _| explained.asked.truncate(2));
    finds("whether that was asked", |_, answer| answer.out_of_reach = vec![region(2)]);
}

#[test]
fn one_who_is_neither_the_sender_nor_the_user_and_is_told_something_is_found() {
    let third = |explained: &mut Explained| explained.asker = user("cem");
    finds("neither sent it nor", |explained, _| third(explained));
    holds(|explained, answer| {
        third(explained);
        (answer.sequence_number, answer.hops) = (None, Vec::new());
        explained.asked.iter_mut().for_each(|asked| asked.has = None);
        waits(answer, BlockReason::Unknown);
    });
}

#[test]
fn a_block_that_its_target_is_told_of_is_found() {
    let blocked = (SECOND, Event::Blocks(CONVERSATION, user("bob"), user("ann")));
    let of = |change: fn(&mut Explained, &mut ExplanationPayload)| {
        found(vec![blocked.clone(), said(false), explained(change)])
    };
    let is_found = |found: Vec<String>| found.iter().any(|said| said.contains("whom the user blocks"));
    assert!(is_found(of(|_, answer| answer.hops.truncate(5))), "it is delivered");
    assert!(is_found(of(|_, answer| waits(answer, BlockReason::NoSession))), "it was handed over");
    assert!(is_found(of(|_, answer| {
        answer.hops.truncate(5);
        waits(answer, BlockReason::NotReceived);
    })));
    let away = of(|_, answer| {
        answer.hops.truncate(5);
        waits(answer, BlockReason::NoSession);
    });
    assert_eq!(away, Vec::<String>::new());
}

#[test]
fn a_message_that_is_delivered_or_read_though_no_client_says_so_or_was_shown_it_is_found() {
    finds("no client of the user has said so", |_, answer| answer.state = DeliveryState::Read);
    let silent = found(vec![explained(|_, _| ())]);
    assert!(silent.iter().any(|said| said.contains("no client of the user has said so")), "{silent:?}");
    finds("no client of the user has said so", |_, answer| answer.hops.push(hop(HopKind::ClientRead, 1, 50)));
    assert_eq!(
        found(vec![said(true), explained(|_, answer| answer.state = DeliveryState::Read)]),
        Vec::<String>::new()
    );
    let unseen = |explained: &mut Explained, answer: &mut ExplanationPayload| {
        explained.message = BEFORE;
        (answer.sequence_number, answer.hops) = (Some(4), Vec::new());
        explained.asked.iter_mut().for_each(|asked| (asked.has, asked.known_since) = (Some(at(1, 4)), 8 * SECOND));
    };
    finds("no client of the user was shown it", unseen);
    let told = (4 * SECOND, Event::Told(BOB, Some(CONVERSATION)));
    assert_eq!(found(vec![told, said(false), explained(unseen)]), Vec::<String>::new());
    finds("it is not of the user", |_, answer| answer.state = DeliveryState::Own);
}

#[test]
fn another_position_than_that_of_the_ack_is_found() {
    finds("and was acked as", |_, answer| answer.sequence_number = Some(6));
    finds("and was acked as", |_, answer| answer.epoch = Some(Epoch(2)));
    let renumbered = |_: &mut Explained, answer: &mut ExplanationPayload| answer.epoch = Some(Epoch(2));
    let lost = (6 * SECOND, Event::Loss { conversation: CONVERSATION, from: at(1, 5), below: 2, covered_copies: 2 });
    let found = found(vec![lost, said(false), explained(renumbered)]);
    assert!(!found.iter().any(|said| said.contains("and was acked as")), "{found:?}");
}

#[test]
fn steps_that_were_not_taken_are_found() {
    finds("where it was not handed over", |_, answer| answer.hops.push(hop(HopKind::EdgeIn, 2, 20)));
    finds("where it was not handed over", |_, answer| answer.hops.push(hop(HopKind::Acked, 1, 20)));
    finds("where it was not handed over", |_, answer| answer.hops.push(hop(HopKind::Queued, 1, 20)));
    finds("was not shown it there", |_, answer| answer.hops.push(hop(HopKind::EdgeOut, 2, 60)));
    finds("and another region did", |_, answer| answer.hops.push(hop(HopKind::HomeAppend, 1, 60)));
}

#[test]
fn steps_that_were_taken_and_are_not_told_are_found_where_they_are_known() {
    finds("numbered it, and does not say when", |_, answer| drop(answer.hops.remove(1)));
    finds("was acked in eu-west", |_, answer| drop(answer.hops.remove(2)));
    holds(|explained, answer| {
        explained.asked[0].known_since = 2 * SECOND + 1;
        answer.hops.drain(..3);
    });
}

#[test]
fn steps_of_one_region_out_of_their_order_are_found_unless_its_clock_was_set() {
    let swapped = [(0, 1), (0, 2), (1, 2), (3, 4), (4, 5)];
    for (first, second) in swapped {
        let swap = move |_: &mut Explained, answer: &mut ExplanationPayload| {
            let later = answer.hops[second].at;
            answer.hops[first].at = Timestamp(later.0 + 1);
        };
        finds("comes after", swap);
        let set = (6 * SECOND, Event::ClockSet(usize::from(first > 2)));
        assert_eq!(found(vec![said(false), set, explained(swap)]), Vec::<String>::new());
    }
}

#[test]
fn steps_before_it_was_handed_over_or_after_the_answer_are_found() {
    let to = |second: u64| {
        move |explained: &mut Explained, answer: &mut ExplanationPayload| {
            explained.asked[0].ahead = 10 * SECOND;
            answer.hops = (0..3).map(|at| hop(answer.hops[at].hop, 0, second)).collect();
        }
    };
    holds(to(13));
    finds("and it was handed over at", to(11));
    finds("and it was handed over at", to(21));
}

#[test]
fn reasons_that_are_not_so_are_found() {
    finds("it is unknown, and", |_, answer| waits(answer, BlockReason::Unknown));
    finds("the user has no session, and", |_, answer| waits(answer, BlockReason::NoSession));
    finds("lacks it, and has it", |_, answer| waits(answer, BlockReason::ReplicaBehind));
    holds(|explained, answer| {
        explained.asked[1].has = None;
        waits(answer, BlockReason::ReplicaBehind);
    });
    holds(|explained, answer| {
        explained.asked[1].connected = false;
        explained.asked[0].connected = false;
        waits(answer, BlockReason::NoSession);
    });
}

#[test]
fn what_waits_for_something_in_trouble_at_the_end_is_found() {
    let settled = |reason| {
        move |explained: &mut Explained, answer: &mut ExplanationPayload| {
            explained.settled = true;
            waits(answer, reason);
        }
    };
    finds("at the end it waits", settled(BlockReason::CopiesMissing));
    finds("at the end it waits", settled(BlockReason::NotMarked));
    holds(settled(BlockReason::NotReceived));
    let (at, event) = explained(|explained, _| explained.settled = true);
    let Event::Explained(mut refused) = event else { return };
    refused.answer = None;
    let found = found(vec![(at, Event::Explained(refused))]);
    assert!(found.iter().any(|said| said.contains("is not explained at the end")), "{found:?}");
}
