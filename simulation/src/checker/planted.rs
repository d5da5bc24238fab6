//! The checker judged: each guarantee is broken once in a history that is good otherwise, and found.

use std::sync::Arc;

use hearth_protocol::client::PresenceStatus;
use hearth_protocol::{ConversationId, Epoch, Level, MessageId, Position, Sequence};
use uuid::Uuid;

use super::{Guarantee, check};
use crate::history::{Acked, Did, Event, History, OnDisk, ReadRow, RegionSet, Row};

const CONVERSATION: ConversationId = ConversationId(Uuid::from_u128(9));

fn id(number: u128) -> MessageId {
    MessageId(Uuid::from_u128(number))
}

fn at(epoch: u64, sequence: u64) -> Position {
    Position { epoch: Epoch(epoch), sequence: Sequence(sequence) }
}

fn regions(places: &[usize]) -> RegionSet {
    places.iter().copied().collect()
}

fn acked(position: Position) -> Acked {
    Acked {
        position,
        time: position.sequence.0,
        level: Level::Region,
        home: Some(0),
        regions: regions(&[0]),
        again: false,
    }
}

fn ack(session: u32, message: u128, acked: Acked) -> Event {
    let on_disk = Some(OnDisk { voters: 3, regions: regions(&[0, 1]) });
    Event::Ack { session, conversation: CONVERSATION, message: id(message), acked, on_disk }
}

fn invoke(session: u32, message: u128) -> Event {
    Event::Invoke(session, CONVERSATION, id(message))
}

fn shown(session: u32, position: Position, message: u128) -> Event {
    Event::Shown(session, CONVERSATION, position, id(message))
}

fn reading(region: usize, rows: &[(u64, u64, u128)]) -> Event {
    let rows =
        rows.iter().map(|(epoch, sequence, message)| Row { epoch: *epoch, sequence: *sequence, message: id(*message) });
    Event::Reading { region, pass: 1, conversation: CONVERSATION, rows: Arc::new(rows.collect()) }
}

fn history(events: Vec<Event>) -> History {
    let mut history = History { regions: vec!["eu".to_owned(), "us".to_owned()], ..History::default() };
    history.session("ann", 1);
    history.session("bob", 2);
    events.into_iter().enumerate().for_each(|(time, event)| history.add(time as u64, event));
    history
}

const LINE: [(u64, u64, u128); 3] = [(1, 1, 11), (1, 2, 12), (1, 3, 13)];

/// Ann sends 11 and 13, bob 12; bob is shown ann's.
fn story() -> Vec<Event> {
    vec![
        invoke(0, 11),
        ack(0, 11, acked(at(1, 1))),
        shown(1, at(1, 1), 11),
        invoke(1, 12),
        ack(1, 12, acked(at(1, 2))),
        invoke(0, 13),
        ack(0, 13, acked(at(1, 3))),
        shown(1, at(1, 3), 13),
    ]
}

fn with(more: Vec<Event>, readings: Vec<Event>) -> Vec<Event> {
    story().into_iter().chain(more).chain(readings).collect()
}

fn both(rows: &[(u64, u64, u128)]) -> Vec<Event> {
    vec![reading(0, rows), reading(1, rows)]
}

fn broken(events: Vec<Event>) -> Vec<Guarantee> {
    let mut found: Vec<Guarantee> =
        check(&history(events)).violations.into_iter().map(|violation| violation.guarantee).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn finds(name: &str, guarantee: Guarantee, events: Vec<Event>) {
    let found = broken(events);
    assert!(found.contains(&guarantee), "{name}: {guarantee:?} is not among {found:?}");
}

#[test]
fn a_good_history_breaks_nothing_and_is_counted() {
    let report = check(&history(with(vec![], both(&LINE))));
    assert_eq!(report.violations, vec![]);
    assert_eq!((report.sends, report.acked), (3, 3));
}

#[test]
fn lost_acked_messages_break_g1() {
    finds("tail lost everywhere", Guarantee::G1, with(vec![], both(&LINE[..2])));
    finds("one region lost its tail", Guarantee::G1, with(vec![], vec![reading(0, &LINE), reading(1, &LINE[..2])]));
    finds("overwritten", Guarantee::G1, with(vec![], both(&[LINE[0], (1, 2, 99), LINE[2]])));
    finds("moved", Guarantee::G1, with(vec![], both(&[(1, 1, 13), LINE[1], (1, 3, 11)])));
}

#[test]
fn another_order_breaks_g2() {
    finds("a hole", Guarantee::G2, with(vec![], both(&[LINE[0], LINE[1], (1, 4, 13)])));
    let other = [LINE[0], LINE[1], (1, 3, 98)];
    finds("regions differ", Guarantee::G2, with(vec![], vec![reading(0, &LINE), reading(1, &other)]));
    finds("the epoch falls", Guarantee::G2, with(vec![], both(&[(2, 1, 11), (1, 2, 12), (1, 3, 13)])));
    finds("shown backwards", Guarantee::G2, with(vec![shown(1, at(1, 1), 11)], both(&LINE)));
    finds("a phantom", Guarantee::G2, with(vec![shown(0, at(1, 2), 77)], both(&LINE)));
    let below = vec![invoke(0, 14), ack(0, 14, acked(at(1, 2)))];
    finds("below an earlier ack", Guarantee::G2, with(below, both(&LINE)));
}

#[test]
fn repetitions_break_g3() {
    let again = [LINE[0], LINE[1], LINE[2], (1, 4, 11)];
    finds("a second position", Guarantee::G3, with(vec![], both(&again)));
    let retry = vec![invoke(0, 11), ack(0, 11, acked(at(1, 4)))];
    finds("another ack", Guarantee::G3, with(retry, both(&LINE)));
}

#[test]
fn what_is_left_out_silently_breaks_g4_and_what_is_told_does_not() {
    let more = |told: bool| {
        let mut events = vec![invoke(0, 14), ack(0, 14, acked(at(1, 4))), invoke(0, 15), ack(0, 15, acked(at(1, 5)))];
        events.extend(told.then_some(Event::Told(1, Some(CONVERSATION))));
        events.push(shown(1, at(1, 5), 15));
        with(events, both(&[LINE[0], LINE[1], LINE[2], (1, 4, 14), (1, 5, 15)]))
    };
    finds("a silent gap", Guarantee::G4, more(false));
    assert_eq!(broken(more(true)), vec![]);
}

/// The ack of its own message may come late; it is no gap in what a session is shown.
#[test]
fn an_own_message_on_its_way_is_no_gap() {
    let line = [LINE[0], LINE[1], LINE[2], (1, 4, 14), (1, 5, 15)];
    let own = vec![invoke(1, 14), invoke(0, 15), ack(0, 15, acked(at(1, 5))), shown(1, at(1, 5), 15)];
    let elsewhere = vec![ack(0, 14, acked(at(1, 4)))];
    assert_eq!(broken(with([own, elsewhere].concat(), both(&line))), vec![]);
}

#[test]
fn a_second_writer_breaks_g5() {
    let other = Acked { home: Some(1), ..acked(at(1, 4)) };
    let line = [LINE[0], LINE[1], LINE[2], (1, 4, 14)];
    finds("two homes of an epoch", Guarantee::G5, with(vec![invoke(0, 14), ack(0, 14, other)], both(&line)));
    let stale = vec![
        invoke(0, 14),
        ack(0, 14, Acked { home: Some(1), ..acked(at(2, 4)) }),
        invoke(0, 15),
        ack(0, 15, acked(at(1, 5))),
    ];
    finds("a stale home acks", Guarantee::G5, with(stale, both(&LINE)));
}

#[test]
fn acks_without_their_copies_break_g6() {
    let two = Acked { level: Level::TwoRegions, regions: regions(&[0, 2]), ..acked(at(1, 4)) };
    let line = [LINE[0], LINE[1], LINE[2], (1, 4, 14)];
    finds(
        "a region named that lacks it",
        Guarantee::G6,
        with(vec![invoke(0, 14), ack(0, 14, two.clone())], both(&line)),
    );
    let few = Event::Ack {
        session: 0,
        conversation: CONVERSATION,
        message: id(14),
        acked: Acked { regions: regions(&[0]), ..two },
        on_disk: Some(OnDisk { voters: 3, regions: regions(&[0]) }),
    };
    finds("below its level", Guarantee::G6, with(vec![invoke(0, 14), few], both(&line)));
}

#[test]
fn a_queued_message_that_goes_breaks_g7() {
    let queued = vec![invoke(0, 14), Event::Queued(0, CONVERSATION, id(14))];
    finds("queued, then dropped", Guarantee::G7, with(queued.clone(), both(&LINE)));
    let refused = Event::Refused { session: 0, conversation: CONVERSATION, message: id(14), again: false };
    let ended = [queued.clone(), vec![refused]].concat();
    assert_eq!(broken(with(ended.clone(), both(&LINE))), vec![]);
    let for_now = Event::Refused { session: 0, conversation: CONVERSATION, message: id(14), again: true };
    let again = vec![invoke(0, 14), for_now, Event::Forgotten(CONVERSATION, id(14))];
    assert_eq!(broken(with([ended.clone(), again].concat(), both(&LINE))), vec![], "nobody promised it anew");
    finds("queued anew, then dropped", Guarantee::G7, with([ended, queued.clone()].concat(), both(&LINE)));
    let forgotten = Event::Forgotten(CONVERSATION, id(14));
    let copy = vec![Event::CopyGone(CONVERSATION, id(14)), forgotten.clone()];
    let queued_and_gone = with([queued.clone(), copy.clone()].concat(), both(&LINE));
    assert_eq!(broken(queued_and_gone), vec![], "it waited for copies, and the only disk that had it is gone");
    let anew = with([queued.clone(), copy, queued.clone()].concat(), both(&LINE));
    finds("queued anew on another disk", Guarantee::G7, anew);
    let gone = vec![Event::ParkedGone(CONVERSATION, id(14)), forgotten];
    assert_eq!(broken(with([queued, gone].concat(), both(&LINE))), vec![], "its disk is gone");
}

#[test]
fn a_message_at_region_may_go_with_the_disk_that_held_it_alone_and_one_with_two_copies_may_not() {
    let gone = |level, held: &[usize]| {
        let acked = Acked { level, regions: regions(held), ..acked(at(1, 5)) };
        with(vec![invoke(0, 14), ack(0, 14, acked), Event::CopyGone(CONVERSATION, id(14))], both(&LINE))
    };
    assert_eq!(broken(gone(Level::Region, &[0])), vec![]);
    finds("its copies are gone", Guarantee::G1, gone(Level::TwoRegions, &[0, 1]));
}

/// A loss statement for all from 3 on: what is named there may come back elsewhere, and must come back.
#[test]
fn what_a_loss_statement_names_must_come_back_and_what_it_does_not_name_stays() {
    let loss = |from| Event::Loss { conversation: CONVERSATION, from: at(1, from), below: 2, covered_copies: 2 };
    let back = [LINE[0], LINE[1], (2, 3, 55), (2, 4, 13)];
    assert_eq!(broken(with(vec![loss(3)], both(&back))), vec![]);
    finds("did not come back", Guarantee::G8, with(vec![loss(3)], both(&[LINE[0], LINE[1], (2, 3, 55)])));
    let refused = vec![loss(3), Event::RefusalKept(CONVERSATION, id(13))];
    assert_eq!(broken(with(refused, both(&[LINE[0], LINE[1], (2, 3, 55)]))), vec![], "its device is told");
    let did = Did::React { target: id(77), emoji: "+".to_owned(), added: true };
    let reaction = Event::Says { session: 0, conversation: CONVERSATION, message: id(13), did, text: None };
    let events = with(vec![loss(3), reaction], both(&[LINE[0], LINE[1], (2, 3, 55)]));
    assert_eq!(broken(events), vec![], "nothing is left that it changes");
    let short = with(vec![loss(4)], both(&[LINE[0], LINE[1], (2, 3, 55), (2, 4, 13)]));
    finds("a statement that names one too few", Guarantee::G1, short);
    let covered = Acked { level: Level::TwoRegions, regions: regions(&[0, 1]), ..acked(at(1, 4)) };
    let events = vec![invoke(0, 14), ack(0, 14, covered), loss(3)];
    let line = [LINE[0], LINE[1], (2, 3, 55), (2, 4, 13), (2, 5, 14)];
    finds("a covered ack moved", Guarantee::G1, with(events, both(&line)));
}

#[test]
fn a_full_queue_above_its_bound_breaks_g9() {
    finds("too full", Guarantee::G9, with(vec![Event::Bound { what: "parked", value: 11, bound: 10 }], both(&LINE)));
}

/// Bob reads up to 3; ann hears of it.
#[test]
fn receipts_that_fall_or_run_ahead_break_g10() {
    let said = |up_to, read| Event::Said { session: 1, conversation: CONVERSATION, up_to, read };
    let heard = |up_to, read| {
        let (session, conversation, member) = (0, CONVERSATION, "bob".to_owned());
        Event::Receipt { session, conversation, member, up_to, read }
    };
    let good =
        vec![said(2, false), heard(at(1, 2), false), said(3, true), heard(at(1, 3), false), heard(at(1, 3), true)];
    assert_eq!(broken(with(good, both(&LINE))), vec![]);
    let falls = vec![said(3, false), heard(at(1, 3), false), heard(at(1, 2), false)];
    finds("a cursor falls", Guarantee::G10, with(falls, both(&LINE)));
    let roams = |back| {
        let there = vec![Event::At(0, 0), said(3, false), heard(at(1, 3), false), Event::At(0, 1)];
        [there, vec![heard(at(1, 2), false), Event::At(0, back), heard(at(1, 1), false)]].concat()
    };
    finds("a cursor falls where the session went", Guarantee::G10, with(roams(1), both(&LINE)));
    finds("a cursor falls where the session was before", Guarantee::G10, with(roams(0), both(&LINE)));
    let behind = vec![Event::At(0, 0), said(3, false), heard(at(1, 3), false), Event::At(0, 1), heard(at(1, 2), false)];
    assert_eq!(broken(with(behind, both(&LINE))), vec![], "another region may be behind");
    let again = vec![said(3, false), heard(at(2, 2), false), heard(at(1, 3), false)];
    finds("an older epoch", Guarantee::G10, with(again, both(&LINE)));
    let ahead = vec![said(99, false), heard(at(1, 4), false)];
    finds("past the head", Guarantee::G10, with(ahead, both(&LINE)));
    finds("past what was said", Guarantee::G10, with(vec![said(1, false), heard(at(1, 2), false)], both(&LINE)));
    finds("read and only received", Guarantee::G10, with(vec![said(2, false), heard(at(1, 2), true)], both(&LINE)));
}

fn wrote(message: u128, text: &str) -> Event {
    Event::Wrote(CONVERSATION, id(message), text.to_owned())
}

fn read_row(sequence: u64, message: u128, sender: &str, did: Did, text: Option<&str>) -> ReadRow {
    let (sender, text, message) = (sender.to_owned(), text.map(str::to_owned), id(message));
    ReadRow {
        sequence,
        message,
        sender,
        time: sequence,
        did,
        text,
        deleted: false,
        expires: None,
        expired: false,
        bare: false,
        reactions: Vec::new(),
    }
}

fn reacted(target: u128, added: bool) -> Did {
    Did::React { target: id(target), emoji: "+".to_owned(), added }
}

/// Ann's 11 is edited by 14 and then by 15, which comes back with a tail and is older; bob's 12 is deleted by 16; both
/// react to 11, and bob takes that back.
fn changed() -> Vec<ReadRow> {
    vec![
        ReadRow { reactions: vec![("+".to_owned(), 1)], ..read_row(1, 11, "ann", Did::Message, Some("the newest")) },
        ReadRow { deleted: true, ..read_row(2, 12, "bob", Did::Message, None) },
        read_row(3, 14, "ann", Did::Edit(id(11)), Some("the newest")),
        ReadRow { time: 2, ..read_row(4, 15, "ann", Did::Edit(id(11)), None) },
        read_row(5, 16, "bob", Did::Delete(id(12)), None),
        read_row(6, 17, "ann", reacted(11, true), None),
        read_row(7, 18, "bob", reacted(11, true), None),
        read_row(8, 19, "bob", reacted(11, false), None),
    ]
}

fn reading_of(change: impl FnOnce(&mut Vec<ReadRow>)) -> Vec<Event> {
    let mut rows = changed();
    change(&mut rows);
    let texts = [(11, "the first"), (12, "gone"), (14, "the newest"), (15, "from a tail")];
    let wrote = texts.iter().map(|(message, text)| wrote(*message, text));
    let read = Event::Read { reader: "eu".to_owned(), conversation: CONVERSATION, rows: Arc::new(rows) };
    wrote.chain(std::iter::once(read)).collect()
}

#[test]
fn rows_that_do_not_show_what_the_line_says_are_found() {
    assert_eq!(broken(reading_of(|_| {})), vec![]);
    let wrong = |name: &str, change: fn(&mut Vec<ReadRow>)| finds(name, Guarantee::Present, reading_of(change));
    wrong("the first text", |rows| rows[0].text = Some("the first".to_owned()));
    wrong("no text", |rows| rows[0].text = None);
    wrong("what came back with a tail", |rows| rows[0].text = Some("from a tail".to_owned()));
    wrong("an edit that does not show", |rows| rows[3].text = Some("from a tail".to_owned()));
    wrong("not deleted", |rows| rows[1].deleted = false);
    wrong("deleted without a delete", |rows| rows[0].deleted = true);
    wrong("a deleted text", |rows| rows[1].text = Some("gone".to_owned()));
    wrong("a reaction too many", |rows| rows[0].reactions[0].1 = 2);
    wrong("a reaction too few", |rows| rows[0].reactions.clear());
    wrong("an edit that is not there", |rows| drop(rows.remove(2)));
}

#[test]
fn what_is_over_and_says_something_and_what_came_too_late_are_found() {
    let expires = |rows: &mut Vec<ReadRow>, at| [0, 2, 3].into_iter().for_each(|row| rows[row].expires = Some(at));
    let good = |rows: &mut Vec<ReadRow>| {
        expires(rows, 10);
        (rows[0].expired, rows[0].text, rows[2].text) = (true, None, None);
        rows[0].reactions.clear();
    };
    assert_eq!(broken(reading_of(|rows| expires(rows, 10))), vec![]);
    assert_eq!(broken(reading_of(good)), vec![]);
    let wrong = |name: &str, change: fn(&mut Vec<ReadRow>)| {
        let rows = |rows: &mut Vec<ReadRow>| {
            good(rows);
            change(rows);
        };
        finds(name, Guarantee::Expired, reading_of(rows));
    };
    wrong("a text", |rows| rows[0].text = Some("the newest".to_owned()));
    wrong("a reaction", |rows| rows[0].reactions.push(("+".to_owned(), 1)));
    wrong("without a time", |rows| rows[0].expires = None);
    wrong("an edit with another time", |rows| rows[2].expires = None);
    wrong("a message that came too late", |rows| rows[0].expires = Some(1));
    finds("a reaction that came too late", Guarantee::Expired, reading_of(|rows| expires(rows, 6)));
}

#[test]
fn a_text_that_a_session_is_given_after_its_delete_is_found() {
    let says = |session, message, did, text: Option<&str>| Event::Says {
        session,
        conversation: CONVERSATION,
        message: id(message),
        did,
        text: text.map(str::to_owned),
    };
    let before = vec![says(1, 11, Did::Message, Some("gone")), says(1, 16, Did::Delete(id(11)), None)];
    assert_eq!(broken(before.clone()), vec![]);
    let other = says(0, 11, Did::Message, Some("gone"));
    assert_eq!(broken([before.clone(), vec![other]].concat()), vec![], "another session may be behind");
    for after in [says(1, 11, Did::Message, Some("gone")), says(1, 14, Did::Edit(id(11)), Some("gone, too"))] {
        finds("given again", Guarantee::Deleted, [before.clone(), vec![after]].concat());
    }
    let bare = says(1, 14, Did::Edit(id(11)), None);
    assert_eq!(broken([before, vec![bare]].concat()), vec![]);
}

/// Bob comes and steps away; ann is told, and 60 s later everybody agrees.
#[test]
fn a_storm_of_offline_and_an_end_without_agreement_break_g11() {
    let seconds = |events: Vec<(u64, Event)>| {
        let mut history = history(Vec::new());
        events.into_iter().for_each(|(second, event)| history.add(second * 1_000_000, event));
        let found = check(&history).violations.into_iter().map(|violation| violation.guarantee);
        found.collect::<Vec<_>>()
    };
    let is = |status| Event::There { session: 1, user: "bob".to_owned(), status };
    let knew = |second: u64, status, sure| Event::PresenceTold {
        session: 0,
        user: "bob".to_owned(),
        status,
        sure,
        as_of: second * 1_000_000,
    };
    let says = |status, sure| knew(60, status, sure);
    let told = |status| says(status, true);
    let end = |status, sure| Event::PresenceEnd { who: "eu".to_owned(), user: "bob".to_owned(), status, sure };
    let (online, away, offline) = (PresenceStatus::Online, PresenceStatus::Away, PresenceStatus::Offline);
    let good = vec![(1, is(online)), (2, told(online)), (30, is(away)), (31, told(away)), (60, end(away, true))];
    assert_eq!(seconds(good.clone()), []);
    let with = |more: Vec<(u64, Event)>| seconds(good.iter().cloned().chain(more).collect());
    assert_eq!(with(vec![(61, told(offline))]), [Guarantee::G11], "it is there all the time");
    assert_eq!(with(vec![(61, says(offline, false))]), [Guarantee::G11], "unsure, too");
    let other = |status| Event::There { session: 0, user: "bob".to_owned(), status };
    let moves = |sure| vec![(59, other(online)), (61, is(offline)), (62, says(offline, sure))];
    assert_eq!(
        (with(moves(false)), with(moves(true))),
        (vec![], vec![Guarantee::G11]),
        "it went where nobody reaches it"
    );
    let hears = |as_of| {
        let told = [(90, knew(as_of, away, false)), (91, says(offline, false))];
        with([vec![(59, other(away)), (61, is(offline))], told.to_vec()].concat())
    };
    assert_eq!((hears(61), hears(90)), (vec![], vec![Guarantee::G11]), "news of the past to who knew nothing later");
    assert_eq!(with(vec![(61, is(offline)), (62, told(offline))]), [], "it went");
    assert_eq!(with(vec![(61, is(offline)), (62, is(online)), (63, told(offline))]), [], "it went for a moment");
    assert_eq!(with(vec![(61, end(offline, true))]), [Guarantee::G11], "taken for gone");
    assert_eq!(with(vec![(61, end(online, true))]), [Guarantee::G11], "taken for online");
    assert_eq!(with(vec![(61, end(away, false))]), [Guarantee::G11], "not sure");
    assert_eq!(with(vec![(61, is(online)), (63, end(away, true))]), [], "it changed just now");
}

#[test]
fn what_was_before_an_edit_shows_only_where_its_text_went_at_its_time() {
    let before = |at: Option<u64>, bare: bool| {
        reading_of(move |rows| {
            for row in [0, 2, 3] {
                rows[row].expires = at;
            }
            rows[2].bare = bare;
            rows[2].text = None;
            rows[0].text = Some("from a tail".to_owned());
            rows[3].text = Some("from a tail".to_owned());
        })
    };
    assert_eq!(broken(before(Some(100), true)), vec![]);
    finds("the edit is there", Guarantee::Present, before(Some(100), false));
    finds("it has no time", Guarantee::Present, before(None, true));
}

#[test]
fn messages_of_a_device_out_of_order_and_sends_without_an_answer_are_found() {
    let line = [LINE[0], LINE[1], LINE[2], (1, 4, 15), (1, 5, 14)];
    let events = vec![invoke(0, 14), invoke(0, 15), ack(0, 15, acked(at(1, 4))), ack(0, 14, acked(at(1, 5)))];
    finds("swapped", Guarantee::DeviceOrder, with(events.clone(), both(&line)));
    // Another message of the conversation came too fast: one that was handed over again may have, too, unheard.
    let limited = |more: Vec<Event>| {
        with([events.clone(), vec![Event::Limited(CONVERSATION, id(99))], more].concat(), both(&line))
    };
    assert_eq!(broken(limited(vec![invoke(0, 14)])), vec![]);
    finds("handed over once", Guarantee::DeviceOrder, limited(vec![]));
    finds("nobody came too fast", Guarantee::DeviceOrder, with([events, vec![invoke(0, 14)]].concat(), both(&line)));
    let later = |did, expires, kept: bool| {
        let row = ReadRow { expires, ..read_row(5, 14, "ann", did, None) };
        let read = Event::Read { reader: "eu".to_owned(), conversation: CONVERSATION, rows: Arc::new(vec![row]) };
        let kept = kept.then_some(Event::RefusalKept(CONVERSATION, id(14)));
        let acks = [ack(0, 15, acked(at(1, 4))), ack(0, 14, acked(at(1, 5)))];
        let events: Vec<Event> = [invoke(0, 14), invoke(0, 15), read].into_iter().chain(kept).chain(acks).collect();
        with(events, both(&line))
    };
    let change = reacted(11, true);
    assert_eq!(broken(later(change.clone(), None, true)), vec![], "one region refused it before its message came back");
    assert_eq!(broken(later(Did::Message, Some(1_000), true)), vec![], "its time was over by the clock of one home");
    finds("a message", Guarantee::DeviceOrder, later(Did::Message, None, true));
    finds("a change that nobody refused", Guarantee::DeviceOrder, later(change, None, false));
    finds("a time that nobody found over", Guarantee::DeviceOrder, later(Did::Message, Some(1_000), false));
    let lost = |level| {
        let unheard = Event::AckUnheard(CONVERSATION, id(14), Acked { level, ..acked(at(1, 3)) });
        let loss = Event::Loss { conversation: CONVERSATION, from: at(1, 3), below: 2, covered_copies: 2 };
        let line = [LINE[0], LINE[1], LINE[2], (2, 4, 15), (2, 5, 14)];
        let acks = [ack(0, 15, acked(at(2, 4))), ack(0, 14, acked(at(2, 5)))];
        let events: Vec<Event> = [invoke(0, 14), invoke(0, 15), unheard, loss].into_iter().chain(acks).collect();
        with(events, both(&line))
    };
    assert_eq!(broken(lost(Level::Region)), vec![], "it was acked, unheard, and lost, as its level allows");
    finds("acked with a copy that stays", Guarantee::DeviceOrder, lost(Level::TwoRegions));
    finds("unanswered", Guarantee::Answered, with(vec![invoke(0, 14)], both(&LINE)));
    let refused = |again| Event::Refused { session: 0, conversation: CONVERSATION, message: id(14), again };
    let twice = vec![invoke(0, 14), invoke(0, 14), refused(false), refused(true)];
    assert_eq!(broken(with(twice.clone(), both(&LINE))), vec![]);
    finds("handed over again", Guarantee::Answered, with([twice, vec![invoke(0, 14)]].concat(), both(&LINE)));
}

#[test]
fn faults_count_as_overlapping_only_while_a_send_is_in_flight() {
    let fault = |id| vec![Event::FaultBegins(id, "cut"), Event::FaultEnds(id)];
    let events = [fault(1), vec![invoke(0, 14)], fault(2), vec![ack(0, 14, acked(at(1, 4)))], fault(3)].concat();
    let report = check(&history(events));
    assert_eq!((report.faults, report.faults_overlapping), (3, 1));
}

/// Bob's 12 and the edit 13 of it are taken away by 4, which erases him; 15 he wrote since.
fn erased(change: impl FnOnce(&mut Vec<ReadRow>)) -> Vec<Event> {
    let mut rows = vec![
        read_row(1, 11, "ann", Did::Message, Some("of ann")),
        ReadRow { deleted: true, ..read_row(2, 12, "bob", Did::Message, None) },
        read_row(3, 13, "bob", Did::Edit(id(12)), None),
        read_row(4, 14, "region:eu", Did::Erase("bob".to_owned()), None),
        read_row(5, 15, "bob", Did::Message, Some("of bob, later")),
    ];
    change(&mut rows);
    let texts = [(11, "of ann"), (12, "of bob"), (13, "of bob, edited"), (15, "of bob, later")];
    let wrote = texts.iter().map(|(message, text)| wrote(*message, text));
    let read = Event::Read { reader: "eu".to_owned(), conversation: CONVERSATION, rows: Arc::new(rows) };
    wrote.chain(std::iter::once(read)).collect()
}

#[test]
fn texts_of_an_erased_user_are_found_and_what_it_wrote_since_is_not() {
    assert_eq!(broken(with(erased(|_| {}), both(&LINE))), vec![]);
    let says = |row: usize, text: &str| erased(|rows| rows[row].text = Some(text.to_owned()));
    finds("a message", Guarantee::Present, with(says(1, "of bob"), both(&LINE)));
    finds("an edit", Guarantee::Present, with(says(2, "of bob, edited"), both(&LINE)));
    finds("not told", Guarantee::Present, with(erased(|rows| rows[1].deleted = false), both(&LINE)));
    finds("somebody else's", Guarantee::Present, with(erased(|rows| rows[0].text = None), both(&LINE)));
    finds("a later one", Guarantee::Present, with(erased(|rows| rows[4].text = None), both(&LINE)));
}

/// What stands at 1 is below the floor, which 4 raised to 2.
#[test]
fn a_line_may_begin_at_its_floor_and_nowhere_else_and_what_is_below_is_not_lost() {
    let line = [LINE[1], LINE[2], (1, 4, 14)];
    let told = |floor| {
        let rows = vec![
            read_row(2, 12, "bob", Did::Message, Some("of bob")),
            read_row(3, 13, "ann", Did::Message, Some("of ann")),
            read_row(4, 14, "region:eu", Did::Floor(floor), None),
        ];
        vec![Event::Read { reader: "eu".to_owned(), conversation: CONVERSATION, rows: Arc::new(rows) }]
    };
    assert_eq!(broken(with(told(2), both(&line))), vec![]);
    finds("above its floor", Guarantee::G2, with(told(1), both(&line)));
    let lost = [told(2), vec![invoke(0, 15), ack(0, 15, acked(at(1, 5)))]].concat();
    finds("lost above it", Guarantee::G1, with(lost, both(&line)));
}

#[test]
fn an_acked_join_that_is_lost_and_one_that_came_again_are_found() {
    let end = |is_member, expected| {
        let end = Event::JoinEnd { conversation: CONVERSATION, user: "visitor1".to_owned(), is_member, expected };
        with(vec![end], both(&LINE))
    };
    for good in [true, false] {
        assert_eq!(broken(end(good, good)), vec![]);
    }
    finds("lost", Guarantee::G1, end(false, true));
    finds("added again", Guarantee::G3, end(true, false));
}

#[test]
fn a_record_that_does_not_say_what_the_line_says_of_a_member_is_found() {
    let end = |is_member, recorded| {
        let end = Event::MembershipEnd { conversation: CONVERSATION, user: "ann".to_owned(), is_member, recorded };
        with(vec![end], both(&LINE))
    };
    for good in [true, false] {
        assert_eq!(broken(end(good, good)), vec![]);
    }
    finds("never told", Guarantee::Recorded, end(true, false));
    finds("told of no end", Guarantee::Recorded, end(false, true));
}
