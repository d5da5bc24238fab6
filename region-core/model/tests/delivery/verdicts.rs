//! What follows from what regions know: one thing is changed at a time.

use hearth_protocol::client::{BlockReason, DeliveryState, ExplanationPayload, HopKind, KeptWhy, MessageName};
use hearth_protocol::{ConversationId, ErrorCode, MessageId, Refusal, RegionId, Timestamp, UserId};
use uuid::Uuid;

use region_model::delivery::{
    Asker, CursorFacts, EntryFacts, HopTimes, Kept, LogFacts, MemberFacts, Question, RegionPart, SessionFacts,
    SessionSent, UserFacts, explain,
};
use region_model::{CopyStanding, ParkedStanding, Standing};

const AT: u64 = 1_700_000_000_000;
/// The message's number.
const NUMBER: u64 = 7;
const HOME: usize = 0;
const EAST: usize = 1;

fn region(at: usize) -> RegionId {
    RegionId::new(["eu-west", "us-east", "ap-south"][at]).expect("a name")
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a name")
}

fn facts() -> EntryFacts {
    let (id, sender) = (Uuid::from_u128(9), user("ann"));
    EntryFacts { id, sender, sequence: NUMBER, epoch: 1, time: Timestamp(AT), gone: false }
}

fn part(at: usize) -> RegionPart {
    let copy = |at| CopyStanding { region: region(at), votes: true, length: NUMBER + 1, link_up: true };
    let home_here = at == HOME;
    let copies = if home_here { vec![copy(1), copy(2)] } else { Vec::new() };
    RegionPart {
        region: region(at),
        kept: Kept { since: AT * 1_000, why: KeptWhy::Start },
        hops: Some(HopTimes {
            sequence: NUMBER,
            epoch: 1,
            numbered: home_here,
            came: Some((AT + 20) * 1_000 + at as u64),
            durable: Some((AT + 30) * 1_000),
            shown: Some((AT + 40) * 1_000),
            ..HopTimes::default()
        }),
        entry: Some(facts()),
        log: Some(LogFacts {
            home: region(HOME),
            reaches_home: true,
            held: true,
            length: NUMBER + 1,
            marked: NUMBER + 1,
            open: None,
            floor: 1,
            asker_is_member: true,
            member: Some(MemberFacts { visible_from: 1 }),
        }),
        standing: Standing { home_here, numbers: home_here, copies, ..Standing::default() },
        user: UserFacts {
            resident: Some(vec![region(HOME), region(EAST)]),
            blocks_sender: Some(false),
            last_seen: None,
            ..UserFacts::default()
        },
    }
}

/// ann sent a message at its home; bob is connected in the east, and was sent it.
fn regions() -> Vec<RegionPart> {
    let mut parts: Vec<RegionPart> = (0..3).map(part).collect();
    let session = SessionFacts { since: Timestamp(AT), sent: Some(SessionSent::Sent), waiting_bytes: 0 };
    parts[EAST].user.sessions = vec![session];
    let home = parts[HOME].hops.as_mut().expect("it passed");
    home.taken = Some((AT + 10) * 1_000);
    home.out = vec![(region(EAST), (AT + 15) * 1_000), (region(2), (AT + 16) * 1_000)];
    parts
}

fn asked_by(asker: &str, operator: bool, parts: &[RegionPart], away: &[usize]) -> Result<ExplanationPayload, Refusal> {
    let (bob, asker) = (user("bob"), user(asker));
    let name = MessageName::Id(MessageId(Uuid::from_u128(9)));
    let question = Question { conversation: ConversationId(Uuid::from_u128(1)), name, user: &bob };
    let away: Vec<RegionId> = away.iter().map(|at| region(*at)).collect();
    explain(question, Asker { user: &asker, operator }, parts, &away)
}

fn asked(parts: &[RegionPart], away: &[usize]) -> ExplanationPayload {
    asked_by("ann", false, parts, away).expect("the sender is told")
}

fn reasons(explained: &ExplanationPayload) -> Vec<BlockReason> {
    explained.blocks.iter().map(|block| block.reason).collect()
}

/// Without the message in any log.
fn unsequenced() -> Vec<RegionPart> {
    let mut parts = regions();
    for part in &mut parts {
        (part.entry, part.hops) = (None, None);
        let log = part.log.as_mut().expect("it is held");
        (log.length, log.marked) = (NUMBER, NUMBER);
    }
    parts
}

#[test]
fn a_delivered_message_has_its_hops_in_the_order_of_the_way_and_waits_for_nothing() {
    let mut parts = regions();
    parts[EAST].user.delivered = CursorFacts { up_to: NUMBER, passed: Some(Timestamp(AT + 50)) };
    let explained = asked(&parts, &[]);
    assert_eq!((explained.state, explained.blocks.len()), (DeliveryState::Delivered, 0));
    let kinds: Vec<HopKind> = explained.hops.iter().map(|hop| hop.hop).collect();
    use HopKind::{ClientReceived, EdgeIn, EdgeOut, HomeAppend, LinkIn, LinkOut, ReplicaApply};
    let way =
        [EdgeIn, HomeAppend, LinkOut, LinkOut, LinkIn, LinkIn, ReplicaApply, ReplicaApply, EdgeOut, ClientReceived];
    assert_eq!(kinds, way);
    assert_eq!(explained.hops[8].region, Some(region(EAST)), "where the user is, and nowhere else");
    assert_eq!((explained.hops[4].at, explained.hops[4].micros), (Timestamp(AT + 20), Some(1)));
    assert_eq!((explained.sequence_number, explained.home), (Some(NUMBER), Some(region(HOME))));
    parts[EAST].user.read = CursorFacts { up_to: NUMBER, passed: None };
    let read = asked(&parts, &[]);
    assert_eq!((read.state, read.hops.len()), (DeliveryState::Read, 10), "a time that is not known is not told");
}

#[test]
fn its_sender_the_user_and_operators_are_told_and_nobody_else() {
    let parts = regions();
    let told = |asker: &str, operator| asked_by(asker, operator, &parts, &[]).map(|explained| explained.state);
    for asker in ["ann", "bob"] {
        assert_eq!(told(asker, false), Ok(DeliveryState::Waiting), "{asker}");
    }
    assert_eq!(told("cem", true), Ok(DeliveryState::Waiting));
    assert_eq!(told("cem", false).expect_err("a third member").error, ErrorCode::Forbidden);
    let mut strangers = regions();
    strangers.iter_mut().flat_map(|part| &mut part.log).for_each(|log| log.asker_is_member = false);
    for asker in ["ann", "bob", "cem"] {
        let refusal = asked_by(asker, false, &strangers, &[]).expect_err("no member");
        assert_eq!(refusal, Refusal::no_conversation(), "{asker}");
    }
    assert!(asked_by("cem", true, &strangers, &[]).is_ok());
}

#[test]
fn where_nobody_holds_it_there_is_no_such_conversation_or_nobody_in_reach_who_knows() {
    let mut parts = regions();
    parts.iter_mut().for_each(|part| part.log = None);
    parts.iter_mut().for_each(|part| part.standing = Standing::default());
    let code =
        |parts: &[RegionPart], away: &[usize]| asked_by("ann", false, parts, away).map_err(|refusal| refusal.error);
    assert_eq!(code(&parts, &[]), Err(ErrorCode::ConversationNotFound));
    assert_eq!(code(&parts[..2], &[2]), Err(ErrorCode::HomeUnreachable));
    let mut placed = part(2);
    placed.log.as_mut().expect("it is placed").held = false;
    assert_eq!(code(&[placed.clone()], &[0, 1]), Err(ErrorCode::HomeUnreachable));
    assert!(asked_by("cem", true, &[placed], &[0, 1]).is_ok(), "an operator is told what is known");
}

#[test]
fn sent_and_not_received_names_the_region_and_since_when() {
    let explained = asked(&regions(), &[]);
    assert_eq!((explained.state, reasons(&explained)), (DeliveryState::Waiting, vec![BlockReason::NotReceived]));
    let block = &explained.blocks[0];
    assert_eq!((block.region.as_ref(), block.since), (Some(&region(EAST)), Some(Timestamp(AT + 40))));
    let of = |sent| {
        let mut parts = regions();
        parts[EAST].user.sessions[0].sent = sent;
        reasons(&asked(&parts, &[]))
    };
    assert_eq!(of(Some(SessionSent::Pulls)), [BlockReason::SessionPulls]);
    assert_eq!(of(Some(SessionSent::Waits)), [BlockReason::SessionSlow]);
    assert_eq!(of(Some(SessionSent::Before)), [BlockReason::NotAskedFor]);
    assert_eq!(of(None), [BlockReason::SessionSlow]);
}

#[test]
fn a_session_that_came_after_it_was_shown_was_not_handed_it_then() {
    let mut parts = regions();
    parts[EAST].user.sessions[0].since = Timestamp(AT + 41);
    let explained = asked(&parts, &[]);
    assert!(explained.hops.iter().all(|hop| hop.hop != HopKind::EdgeOut));
    assert_eq!(explained.blocks[0].since, None, "when it was replayed is not kept");
}

#[test]
fn a_copy_that_is_behind_is_named_with_its_link_whether_its_region_can_be_asked_or_not() {
    let mut parts = regions();
    parts[EAST].entry = None;
    let log = parts[EAST].log.as_mut().expect("it is held");
    (log.length, log.marked, log.reaches_home) = (NUMBER, NUMBER, false);
    let explained = asked(&parts, &[]);
    let block = &explained.blocks[0];
    assert_eq!(reasons(&explained), [BlockReason::ReplicaBehind]);
    assert_eq!(
        (block.region.as_ref(), &block.waits_for[..], block.link_up),
        (Some(&region(EAST)), &[region(HOME)][..], Some(false))
    );
    let east = parts.remove(EAST);
    let copy = &mut parts[HOME].standing.copies[0];
    (copy.length, copy.link_up) = (NUMBER, false);
    let explained = asked(&parts, &[EAST]);
    assert_eq!(reasons(&explained), [BlockReason::ReplicaBehind, BlockReason::OutOfReach]);
    assert_eq!((explained.blocks[0].region.as_ref(), explained.blocks[0].link_up), (Some(&region(EAST)), Some(false)));
    assert_eq!(explained.out_of_reach, [region(EAST)]);
    parts[HOME].user.resident = Some(vec![region(HOME)]);
    parts[1].user.resident = None;
    assert_eq!(reasons(&asked(&parts, &[EAST])), [BlockReason::NoSession], "the user was never there");
    let mut open = regions();
    open[EAST].log = Some(LogFacts { open: Some((3, 8)), ..east.log.expect("it is held") });
    assert_eq!(reasons(&asked(&open, &[])), [BlockReason::ReplicaBehind]);
}

#[test]
fn a_region_that_has_it_and_no_mark_and_one_that_follows_nothing_yet_are_told_apart() {
    let mut parts = regions();
    parts[EAST].log.as_mut().expect("it is held").marked = NUMBER;
    assert_eq!(reasons(&asked(&parts, &[])), [BlockReason::NotMarked]);
    parts[EAST].log.as_mut().expect("it is held").held = false;
    assert_eq!(reasons(&asked(&parts, &[])), [BlockReason::NotFollowed]);
}

#[test]
fn above_the_mark_the_voters_that_lack_it_are_named() {
    let mut parts = regions();
    parts.iter_mut().flat_map(|part| &mut part.log).for_each(|log| log.marked = NUMBER);
    let standing = &mut parts[HOME].standing;
    standing.copies_wanted = Some(2);
    for copy in &mut standing.copies {
        (copy.length, copy.link_up) = (NUMBER, false);
    }
    let explained = asked(&parts, &[]);
    assert_eq!(reasons(&explained), [BlockReason::CopiesMissing]);
    assert_eq!(explained.blocks[0].waits_for, [region(1), region(2)]);
    assert_eq!(explained.blocks[0].link_up, Some(false));
    parts[HOME].standing.behind_another = true;
    assert_eq!(reasons(&asked(&parts, &[])), [BlockReason::BehindAnother]);
    parts[HOME].standing.numbers = false;
    assert_eq!(reasons(&asked(&parts, &[])), [BlockReason::HomeNotServing, BlockReason::BehindAnother]);
    let explained = asked(&parts[1..], &[HOME]);
    assert_eq!(reasons(&explained)[0], BlockReason::OutOfReach, "its home cannot be asked");
}

#[test]
fn a_parked_message_says_where_and_what_it_waits_for() {
    let mut parts = unsequenced();
    let parked = ParkedStanding { sender: user("ann"), since: Timestamp(AT + 5), on_its_way: false, refused: None };
    parts[EAST].standing.parked = Some(parked.clone());
    parts[EAST].log.as_mut().expect("it is held").reaches_home = false;
    let explained = asked(&parts, &[]);
    let block = &explained.blocks[0];
    assert_eq!((explained.state, reasons(&explained)), (DeliveryState::Waiting, vec![BlockReason::Parked]));
    assert_eq!(
        (block.region.as_ref(), block.since, block.link_up),
        (Some(&region(EAST)), Some(Timestamp(AT + 5)), Some(false))
    );
    assert_eq!(block.waits_for, [region(HOME)]);
    assert_eq!(asked_by("cem", false, &parts, &[]).expect_err("a third member").error, ErrorCode::Forbidden);
    assert_eq!(reasons(&asked(&parts[1..], &[HOME])), [BlockReason::Parked, BlockReason::OutOfReach]);
    parts[HOME].standing.numbers = false;
    assert_eq!(reasons(&asked(&parts, &[])), [BlockReason::Parked, BlockReason::HomeNotServing]);
    let refused = Some(("EXPIRED".to_owned(), "too late".to_owned()));
    parts[EAST].standing.parked = Some(ParkedStanding { refused, ..parked });
    assert_eq!(reasons(&asked(&parts, &[])), [BlockReason::Refused]);
    parts[EAST].standing = Standing { forwarded: Some(user("ann")), ..Standing::default() };
    assert_eq!(reasons(&asked(&parts, &[]))[0], BlockReason::OnItsWay);
}

#[test]
fn a_message_that_nobody_knows_is_told_as_that_and_nothing_of_it_to_one_who_may_be_anybody() {
    let mut parts = unsequenced();
    assert_eq!(reasons(&asked_by("bob", false, &parts, &[]).expect("the user")), [BlockReason::Unknown]);
    // A region knows hops, and nobody who was reached whose message it is.
    parts[EAST].hops = part(EAST).hops;
    let third = asked_by("cem", false, &parts, &[2]).expect("a member");
    assert_eq!(reasons(&third), [BlockReason::Unknown]);
    assert!(third.hops.is_empty() && third.kept.is_empty() && third.sequence_number.is_none());
    assert!(!asked_by("cem", true, &parts, &[]).expect("an operator").hops.is_empty());
}

#[test]
fn what_is_not_for_the_user_says_why() {
    let state = |change: fn(&mut RegionPart)| {
        let mut parts = regions();
        parts.iter_mut().for_each(change);
        let explained = asked_by("bob", false, &parts, &[]).expect("the user");
        (explained.state, reasons(&explained))
    };
    let withheld = |reason| (DeliveryState::Withheld, vec![reason]);
    assert_eq!(state(|part| part.log.as_mut().expect("held").floor = NUMBER + 1), withheld(BlockReason::BelowFloor));
    assert_eq!(state(|part| part.log.as_mut().expect("held").member = None), withheld(BlockReason::NotAMember));
    let later = |part: &mut RegionPart| {
        part.log.as_mut().expect("held").member = Some(MemberFacts { visible_from: NUMBER + 1 });
    };
    assert_eq!(state(later), withheld(BlockReason::JoinedLater));
    assert_eq!(state(|part| part.entry.as_mut().expect("held").gone = true), withheld(BlockReason::ContentGone));
    let blocked = state(|part| part.user.blocks_sender = Some(true));
    assert_eq!(blocked, withheld(BlockReason::Blocked));
}

#[test]
fn what_was_read_up_to_a_number_says_nothing_of_what_stood_there_on_another_line() {
    let mut parts = regions();
    // The copy in the east is on the line before; where the message stood, the home has another one, which bob has read.
    parts.retain(|part| part.region != region(2));
    parts[HOME].entry = None;
    parts[HOME].user.read = CursorFacts { up_to: NUMBER, passed: Some(Timestamp(AT + 50)) };
    parts[HOME].user.delivered = parts[HOME].user.read;
    let explained = asked(&parts, &[2]);
    assert_eq!((explained.state, reasons(&explained)), (DeliveryState::Waiting, vec![BlockReason::OnItsWay]));
    let block = &explained.blocks[0];
    assert_eq!((block.region.as_ref(), &block.waits_for[..]), (Some(&region(EAST)), &[region(HOME)][..]));
    assert!(explained.hops.iter().all(|hop| hop.hop < HopKind::ClientReceived));
}

#[test]
fn who_came_later_has_read_nothing_of_what_it_may_not_see() {
    let mut parts = regions();
    for part in &mut parts {
        part.log.as_mut().expect("held").member = Some(MemberFacts { visible_from: NUMBER + 1 });
        part.user.read = CursorFacts { up_to: NUMBER + 5, passed: None };
        part.user.delivered = part.user.read;
    }
    let explained = asked(&parts, &[]);
    assert_eq!((explained.state, reasons(&explained)), (DeliveryState::Withheld, vec![BlockReason::JoinedLater]));
}

#[test]
fn for_a_blocked_sender_the_user_looks_like_one_who_is_away_and_never_was_seen() {
    let mut blocked = regions();
    blocked.iter_mut().for_each(|part| part.user.blocks_sender = Some(true));
    blocked[EAST].user.last_seen = Some(Timestamp(AT));
    let mut away = regions();
    away.iter_mut().for_each(|part| part.user.sessions.clear());
    for unreached in [None, Some(EAST), Some(HOME)] {
        let reached = |parts: &[RegionPart]| -> Vec<RegionPart> {
            let parts = parts.iter().enumerate().filter(|(at, _)| Some(*at) != unreached);
            parts.map(|(_, part)| part.clone()).collect()
        };
        let unreached: Vec<usize> = unreached.into_iter().collect();
        assert_eq!(asked(&reached(&blocked), &unreached), asked(&reached(&away), &unreached), "{unreached:?}");
    }
    let operator = asked_by("cem", true, &blocked, &[]).expect("an operator");
    assert_eq!(reasons(&operator), [BlockReason::Blocked]);
}

#[test]
fn who_is_away_is_told_with_when_it_was_seen_last_and_the_sender_of_itself_waits_for_nothing_once_it_is_shown() {
    let mut parts = regions();
    parts[EAST].user.sessions.clear();
    parts[EAST].user.last_seen = Some(Timestamp(AT - 9));
    let explained = asked(&parts, &[]);
    assert_eq!(
        (reasons(&explained), explained.blocks[0].since),
        (vec![BlockReason::NoSession], Some(Timestamp(AT - 9)))
    );
    let mut own = regions();
    for part in &mut own {
        part.entry.as_mut().expect("held").sender = user("bob");
    }
    let explained = asked_by("bob", false, &own, &[]).expect("the sender");
    assert_eq!((explained.state, explained.blocks.len()), (DeliveryState::Own, 0));
}
