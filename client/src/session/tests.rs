//! What a client decides, one sentence a test.

use std::time::Duration;

use hearth_protocol::client::{Content, SendPayload};
use hearth_protocol::rest::SyncCursor;
use hearth_protocol::{ConversationId, ErrorCode, MessageId};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;

const CONVERSATION: ConversationId = ConversationId(Uuid::from_u128(7));

fn at(seconds: u64) -> Duration {
    Duration::from_secs(1_000_000 + seconds)
}

fn endpoint(region: &str) -> Endpoint {
    let address = Address { http: format!("http://{region}"), ws: format!("ws://{region}/ws"), webtransport: None };
    Endpoint { region: RegionId::new(region).expect("valid"), address }
}

fn session_from(last_sequence: u64) -> Session {
    let cursors = vec![SyncCursor { conversation_id: CONVERSATION, last_sequence, epoch: None }];
    let endpoints = vec![endpoint("eu-west"), endpoint("us-east")];
    let mut session = Session::new(SessionOptions { endpoints, device: None, cursors, unacked_limit: 3 }, at(0));
    session.tick(at(0), 0.5);
    session
}

fn connected_frame() -> String {
    json!({"type": "connected", "connectionId": "c", "serverTime": 0, "heartbeatInterval": 30000,
        "resumeToken": "resume", "userId": "ann", "deviceId": Uuid::from_u128(9), "region": "eu-west", "node": "n",
        "resumed": "exact", "feed": "complete", "endpoints": [{"region": "ap-south", "ws": "ws://ap-south:1/ws"}],
        "protocolVersion": 1})
    .to_string()
}

/// Dials, authenticates and forgets what that wrote.
fn bring_up(session: &mut Session, now: Duration) -> Vec<Value> {
    session.tick(now, 0.0);
    assert!(matches!(session.take_actions().last(), Some(Action::Dial { .. })));
    session.opened("jwt".to_owned(), None, true, now);
    let auth = frames_of(session);
    session.handle_frame(&connected_frame(), now).expect("a frame");
    assert!(events_of(session).iter().any(|event| matches!(event, Event::Connected { .. })));
    auth
}

fn live() -> Session {
    let mut session = session_from(0);
    bring_up(&mut session, at(0));
    session
}

fn frames_of(session: &mut Session) -> Vec<Value> {
    session.take_frames().iter().map(|frame| serde_json::from_str(frame).expect("JSON")).collect()
}

fn events_of(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.take_event()).collect()
}

/// The numbers of the rows that came out.
fn rows_of(session: &mut Session) -> Vec<u64> {
    let number = |event: Event| if let Event::Message(row) = event { Some(row.sequence_number) } else { None };
    events_of(session).into_iter().filter_map(number).collect()
}

fn row(sequence: u64) -> Value {
    json!({"messageId": Uuid::from_u128(u128::from(sequence) + 1_000), "conversationId": CONVERSATION,
        "senderId": "bob", "content": {"type": "text", "text": "hi"}, "sequenceNumber": sequence, "timestamp": 1,
        "epoch": 1, "kind": "message", "originRegion": "eu-west"})
}

fn receive(session: &mut Session, kind: &str, payload: &Value, now: Duration) {
    let frame = json!({"type": kind, "payload": payload}).to_string();
    session.handle_frame(&frame, now).expect("a frame");
    session.tick(now, 0.5);
}

fn answer(session: &mut Session, id: &Value, rows: &[u64], has_more: bool, now: Duration) {
    let messages: Vec<_> = rows.iter().map(|sequence| row(*sequence)).collect();
    let payload = json!({"conversationId": CONVERSATION, "messages": messages, "hasMore": has_more,
        "floorSequence": 1, "withheld": []});
    let frame = json!({"type": "history.response", "id": id, "payload": payload}).to_string();
    session.handle_frame(&frame, now).expect("a frame");
    session.tick(now, 0.5);
}

fn payload(message: u128) -> SendPayload {
    SendPayload {
        message_id: MessageId(Uuid::from_u128(message)),
        conversation_id: CONVERSATION,
        content: Content::text("hello"),
        reply_to: None,
        expires_at: None,
        durability: None,
    }
}

fn ack(message: u128, sequence: u64) -> Value {
    json!({"messageId": Uuid::from_u128(message), "conversationId": CONVERSATION, "sequenceNumber": sequence,
        "timestamp": 1, "epoch": 1, "home": "eu-west", "durability": {"level": "region", "regions": ["eu-west"]}})
}

fn sent_ids(frames: &[Value]) -> Vec<String> {
    let sends = frames.iter().filter(|frame| frame["type"] == "message.send");
    sends.map(|frame| frame["payload"]["messageId"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn a_question_about_a_message_has_its_own_answer_or_the_end_of_the_connection() {
    let request = hearth_protocol::client::ExplainRequest {
        conversation_id: CONVERSATION,
        message_id: None,
        sequence_number: Some(5),
        user_id: hearth_protocol::UserId::new("bob").expect("a name"),
    };
    assert!(session_from(0).explain(&request).is_err(), "there is no session yet");
    let mut session = live();
    let numbers: Vec<u64> = (0..3).map(|_| session.explain(&request).expect("it is asked")).collect();
    let frames = frames_of(&mut session);
    assert_eq!((frames.len(), &frames[0]["type"]), (3, &json!("delivery.explain")));
    assert_eq!(frames[0]["payload"], json!({"conversationId": CONVERSATION, "sequenceNumber": 5, "userId": "bob"}));
    let explanation = json!({"conversationId": CONVERSATION, "userId": "bob", "state": "read", "blocks": [],
        "hops": [], "kept": [], "outOfReach": []});
    for answer in [
        json!({"type": "delivery.explanation", "id": frames[1]["id"], "payload": explanation}),
        json!({"type": "delivery.explanation", "id": frames[1]["id"], "payload": explanation}),
        json!({"type": "error", "id": frames[0]["id"], "payload": {"error": "FORBIDDEN", "message": "no"}}),
    ] {
        session.handle_frame(&answer.to_string(), at(1)).expect("a frame");
    }
    session.lost(None, "gone".to_owned(), at(2), 0.0);
    session.tick(at(9), 0.0);
    session.opened("jwt".to_owned(), None, true, at(9));
    let answers: Vec<_> = std::iter::from_fn(|| session.take_explained()).collect();
    let told: Vec<(u64, Result<_, ErrorCode>)> = answers
        .into_iter()
        .map(|(number, explained)| {
            (number, explained.map(|explained| explained.state).map_err(|refusal| refusal.error))
        })
        .collect();
    let read = hearth_protocol::client::DeliveryState::Read;
    assert_eq!(
        told,
        [
            (numbers[1], Ok(read)),
            (numbers[0], Err(ErrorCode::Forbidden)),
            (numbers[2], Err(ErrorCode::HomeUnreachable))
        ]
    );
    assert!(events_of(&mut session).iter().all(|event| !matches!(event, Event::Error { .. })));
}

#[test]
fn rows_come_out_in_order_and_once() {
    let mut session = live();
    for sequence in [1, 2, 2, 1, 3] {
        receive(&mut session, "message.new", &row(sequence), at(1));
    }
    assert_eq!(rows_of(&mut session), [1, 2, 3]);
    assert!(frames_of(&mut session).is_empty());
}

#[test]
fn a_gap_is_pulled_before_later_rows_come_out() {
    let mut session = live();
    for sequence in [1, 4, 5] {
        receive(&mut session, "message.new", &row(sequence), at(1));
    }
    assert_eq!(rows_of(&mut session), [1]);
    let frames = frames_of(&mut session);
    assert_eq!(frames.len(), 1, "one pull for one hole");
    assert_eq!(frames[0]["type"], "history.request");
    assert_eq!(frames[0]["payload"]["after"], 1);
    answer(&mut session, &frames[0]["id"], &[2, 3, 4], true, at(2));
    assert_eq!(rows_of(&mut session), [2, 3, 4, 5]);
    assert!(frames_of(&mut session).is_empty());
}

#[test]
fn a_pull_that_brings_nothing_is_asked_again_later() {
    let mut session = live();
    receive(&mut session, "message.new", &row(2), at(1));
    let first = frames_of(&mut session);
    answer(&mut session, &first[0]["id"], &[], false, at(1));
    assert!(frames_of(&mut session).is_empty());
    let again = session.deadline().expect("a deadline");
    assert!(again > at(1) && again <= at(7));
    session.tick(again, 0.5);
    let second = frames_of(&mut session);
    assert_eq!(second[0]["type"], "history.request");
    answer(&mut session, &second[0]["id"], &[1, 2], false, again);
    assert_eq!(rows_of(&mut session), [1, 2]);
}

#[test]
fn an_own_ack_fills_its_position_without_a_row() {
    let mut session = live();
    session.send(&payload(1), at(1)).expect("taken");
    receive(&mut session, "message.new", &row(2), at(1));
    assert!(rows_of(&mut session).is_empty());
    assert_eq!(frames_of(&mut session).len(), 1, "the hole may be the own message: no pull yet");
    receive(&mut session, "message.ack", &ack(1, 1), at(1));
    let events = events_of(&mut session);
    assert!(matches!(&events[..], [Event::Acked(_), Event::Message(row)] if row.sequence_number == 2), "{events:?}");
    session.tick(at(5), 0.5);
    assert!(frames_of(&mut session).is_empty());
}

#[test]
fn a_hole_behind_an_own_ack_is_pulled_after_a_grace() {
    let mut session = live();
    session.send(&payload(1), at(1)).expect("taken");
    frames_of(&mut session);
    receive(&mut session, "message.ack", &ack(1, 3), at(1));
    assert!(frames_of(&mut session).is_empty());
    session.tick(at(2), 0.5);
    let frames = frames_of(&mut session);
    assert_eq!(frames[0]["payload"]["after"], 0);
    answer(&mut session, &frames[0]["id"], &[1, 2, 3], false, at(2));
    assert_eq!(rows_of(&mut session), [1, 2], "the acked position is told by its ack alone");
}

#[test]
fn everything_unacked_goes_out_again_in_order_before_anything_new() {
    let mut session = live();
    for message in [1, 2, 3] {
        session.send(&payload(message), at(1)).expect("taken");
    }
    let first = sent_ids(&frames_of(&mut session));
    receive(&mut session, "message.ack", &ack(2, 1), at(1));
    session.lost(None, "gone".to_owned(), at(2), 0.5);
    session.send(&payload(4), at(2)).expect("taken");
    assert!(frames_of(&mut session).is_empty());
    bring_up(&mut session, at(3));
    session.tick(at(3), 0.5);
    let again = sent_ids(&frames_of(&mut session));
    assert_eq!(again, [first[0].clone(), first[2].clone(), Uuid::from_u128(4).to_string()]);
}

#[test]
fn a_full_queue_refuses_with_its_limit() {
    let mut session = live();
    for message in [1, 2, 3] {
        session.send(&payload(message), at(1)).expect("taken");
    }
    assert_eq!(session.send(&payload(4), at(1)), Err(SendError::Full { limit: 3 }));
    receive(&mut session, "message.ack", &ack(1, 1), at(1));
    assert_eq!(session.send(&payload(2), at(1)), Err(SendError::Repeated));
    session.send(&payload(4), at(1)).expect("taken");
}

#[test]
fn a_queued_message_stays_unacked_and_a_refused_one_does_not() {
    let mut session = live();
    session.send(&payload(1), at(1)).expect("taken");
    let queued = json!({"messageId": Uuid::from_u128(1), "conversationId": CONVERSATION,
        "reason": "HOME_UNREACHABLE", "home": "us-east"});
    receive(&mut session, "message.queued", &queued, at(1));
    assert_eq!(session.unacked(), 1);
    session.tick(at(20), 0.5);
    assert!(session.take_actions().is_empty(), "a queued message is answered: no reconnect for it");
    let refused = json!({"messageId": Uuid::from_u128(1), "conversationId": CONVERSATION,
        "error": "EXPIRED", "message": "waited too long"});
    receive(&mut session, "message.refused", &refused, at(21));
    assert_eq!(session.unacked(), 0);
    let events = events_of(&mut session);
    assert!(matches!(&events[..], [Event::Queued(_), Event::Refused(_)]), "{events:?}");
}

#[test]
fn an_error_names_the_message_that_it_refuses() {
    let mut session = live();
    session.send(&payload(1), at(1)).expect("taken");
    let frame = json!({"type": "error", "id": Uuid::from_u128(1).to_string(),
        "payload": {"error": "RATE_LIMITED", "message": "slow down", "retryAfter": 3}});
    session.handle_frame(&frame.to_string(), at(1)).expect("a frame");
    let events = events_of(&mut session);
    assert!(matches!(&events[..], [Event::Error { message: Some(_), refusal }] if refusal.retry_after == Some(3)));
    assert_eq!(session.unacked(), 0);
}

#[test]
fn a_resume_names_token_device_and_cursors() {
    let mut session = live();
    for sequence in [1, 2] {
        receive(&mut session, "message.new", &row(sequence), at(1));
    }
    session.lost(None, "gone".to_owned(), at(9), 0.5);
    let auth = bring_up(&mut session, at(10));
    assert_eq!(auth[0]["payload"]["resumeToken"], "resume");
    assert_eq!(auth[0]["payload"]["deviceId"], Uuid::from_u128(9).to_string());
    assert_eq!(auth[0]["payload"]["cursors"], json!([{"conversationId": CONVERSATION, "lastSequence": 2, "epoch": 1}]));
}

#[test]
fn a_tail_that_a_sync_covered_and_no_row_showed_is_pulled() {
    let mut session = live();
    let complete = json!({"conversations": [{"conversationId": CONVERSATION, "epoch": 1, "upToSequence": 2}],
        "resumed": "exact"});
    receive(&mut session, "sync.complete", &complete, at(1));
    session.tick(at(2), 0.5);
    assert_eq!(frames_of(&mut session)[0]["payload"]["after"], 0);
}

#[test]
fn sync_required_pulls_page_after_page_until_no_more_follow() {
    let mut session = live();
    receive(&mut session, "sync.required", &json!({"conversationId": CONVERSATION, "fromSequence": 1}), at(1));
    let first = frames_of(&mut session);
    answer(&mut session, &first[0]["id"], &[1, 2], true, at(1));
    let second = frames_of(&mut session);
    assert_eq!(second[0]["payload"]["after"], 2);
    answer(&mut session, &second[0]["id"], &[3], false, at(1));
    assert_eq!(rows_of(&mut session), [1, 2, 3]);
    assert!(frames_of(&mut session).is_empty());
}

#[test]
fn positions_that_cannot_be_had_are_told_and_passed() {
    let mut session = live();
    receive(&mut session, "message.new", &row(8), at(1));
    let frames = frames_of(&mut session);
    let payload = json!({"conversationId": CONVERSATION, "messages": [row(4), row(7)], "hasMore": false,
        "floorSequence": 4, "withheld": [{"from": 5, "to": 6}]});
    let frame = json!({"type": "history.response", "id": frames[0]["id"], "payload": payload}).to_string();
    session.handle_frame(&frame, at(1)).expect("a frame");
    let told: Vec<_> = events_of(&mut session)
        .into_iter()
        .map(|event| match event {
            Event::Gap { from, to, reason, .. } => (from, to, Some(reason)),
            Event::Message(row) => (row.sequence_number, row.sequence_number, None),
            other => panic!("unexpected {other:?}"),
        })
        .collect();
    let expected = [
        (1, 3, Some(GapReason::Retention)),
        (4, 4, None),
        (5, 6, Some(GapReason::Withheld)),
        (7, 7, None),
        (8, 8, None),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_conversation_that_may_not_be_read_is_followed_no_longer() {
    let mut session = live();
    receive(&mut session, "message.new", &row(3), at(1));
    let id = frames_of(&mut session)[0]["id"].clone();
    let refusal = json!({"error": "CONVERSATION_NOT_FOUND", "message": "no such conversation"});
    session.handle_frame(&json!({"type": "error", "id": id, "payload": refusal}).to_string(), at(1)).expect("a frame");
    let events = events_of(&mut session);
    assert!(matches!(&events[..], [Event::Unfollowed { error: ErrorCode::ConversationNotFound, .. }]), "{events:?}");
    assert!(session.cursors().is_empty());
}

#[test]
fn failed_dials_go_through_the_regions_in_turn_and_wait_longer() {
    let mut session = session_from(0);
    let mut now = at(0);
    let mut dialed = Vec::new();
    let mut waits = Vec::new();
    for _ in 0..4 {
        let actions = session.take_actions();
        let [Action::Dial { address, .. }] = &actions[..] else { panic!("no dial: {actions:?}") };
        dialed.push(address.http.clone());
        session.failed(Disconnect::Unreachable("refused".to_owned()), now, 1.0);
        let until = session.deadline().expect("a deadline");
        waits.push((until - now).as_millis());
        now = until;
        session.tick(now, 1.0);
    }
    assert_eq!(dialed, ["http://eu-west", "http://us-east", "http://eu-west", "http://us-east"]);
    assert_eq!(waits, [500, 1_000, 2_000, 4_000]);
}

#[test]
fn a_session_lost_after_a_good_life_dials_the_same_region_within_half_a_second() {
    let mut session = live();
    session.lost(None, "gone".to_owned(), at(60), 1.0);
    let until = session.deadline().expect("a deadline");
    assert_eq!(until, at(60) + Duration::from_millis(500));
    session.tick(until, 0.5);
    let actions = session.take_actions();
    assert!(matches!(&actions[..], [Action::Dial { address, .. }] if address.http == "http://eu-west"), "{actions:?}");
}

#[test]
fn a_heartbeat_goes_out_every_interval_and_silence_ends_the_connection() {
    let mut session = live();
    session.tick(at(30), 0.5);
    assert_eq!(frames_of(&mut session)[0]["type"], "heartbeat");
    session.tick(at(40), 0.5);
    assert_eq!(session.take_actions(), [Action::HangUp]);
    assert!(matches!(&events_of(&mut session)[..], [Event::Disconnected { reason: Disconnect::Silent, .. }]));
}

#[test]
fn a_message_without_any_answer_ends_the_connection() {
    let mut session = live();
    session.send(&payload(1), at(1)).expect("taken");
    session.tick(at(15), 0.5);
    assert!(session.take_actions().is_empty());
    session.tick(at(16), 0.5);
    assert_eq!(session.take_actions(), [Action::HangUp]);
}

#[test]
fn a_draining_server_is_left_at_its_slot_for_the_region_that_it_names() {
    let mut session = live();
    let draining = json!({"type": "server.draining", "reconnectAfterMs": 2000, "deadlineMs": 10000,
        "endpoints": [{"region": "us-east", "ws": "ws://us-east/ws"}], "resumeToken": "later"});
    session.handle_frame(&draining.to_string(), at(1)).expect("a frame");
    session.tick(at(2), 0.5);
    assert!(session.take_actions().is_empty());
    session.tick(at(3), 0.5);
    assert_eq!(session.take_actions(), [Action::HangUp]);
    session.tick(at(3), 0.5);
    let actions = session.take_actions();
    assert!(matches!(&actions[..], [Action::Dial { address, .. }] if address.http == "http://us-east"), "{actions:?}");
}

#[test]
fn an_expired_token_is_replaced_and_a_refused_one_ends_the_client() {
    let mut session = live();
    let close = |code: u16| json!({"type": "close", "code": code, "reason": "token"}).to_string();
    session.handle_frame(&close(4011), at(9)).expect("a frame");
    session.lost(None, "closed".to_owned(), at(9), 0.0);
    session.tick(at(9), 0.5);
    assert!(matches!(&session.take_actions()[..], [Action::Dial { fresh_token: true, .. }]));
    session.opened("jwt".to_owned(), None, true, at(9));
    session.handle_frame(&close(4001), at(9)).expect("a frame");
    session.lost(Some(4001), "closed".to_owned(), at(9), 0.0);
    assert!(session.is_ended());
    assert!(matches!(events_of(&mut session).last(), Some(Event::Closed { code: 4001, .. })));
}

#[test]
fn a_token_is_refreshed_on_the_live_session_before_it_expires() {
    let mut session = session_from(0);
    assert_eq!(session.take_actions().len(), 1);
    session.opened("jwt".to_owned(), Some(Duration::from_secs(20)), true, at(0));
    session.handle_frame(&connected_frame(), at(0)).expect("a frame");
    frames_of(&mut session);
    assert_eq!(session.deadline(), Some(at(16)));
    session.tick(at(16), 0.5);
    assert_eq!(session.take_actions(), [Action::RefreshToken]);
    session.refresh("new", Some(Duration::from_secs(20)), at(16));
    let frames = frames_of(&mut session);
    assert_eq!(
        (frames[0]["type"].as_str(), frames[0]["payload"]["token"].as_str()),
        (Some("auth.refresh"), Some("new"))
    );
}

#[test]
fn frames_of_unknown_types_are_ignored() {
    let mut session = live();
    receive(&mut session, "later.frame", &json!({"anything": 1}), at(1));
    assert!(events_of(&mut session).is_empty());
}

#[test]
fn a_conversation_joined_while_away_is_read_from_its_beginning() {
    let mut session = session_from(0);
    bring_up(&mut session, at(0));
    let other = ConversationId(Uuid::from_u128(8));
    let feed_row = json!({"conversationId": other, "type": "group", "role": "member", "lastSequence": 3, "readUpTo": 0,
        "unreadCount": 3, "home": "eu-west", "epoch": 1, "createdAt": "2026-01-01T00:00:00Z"});
    session.take_feed(vec![serde_json::from_value(feed_row).expect("a row")], false, at(1));
    session.tick(at(1), 0.5);
    let frames = frames_of(&mut session);
    assert_eq!(frames[0]["payload"], json!({"conversationId": other, "after": 0, "limit": 200}));
}
