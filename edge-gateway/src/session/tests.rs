use std::collections::HashMap;
use std::time::Duration;

use hearth_protocol::rest::ApiAnswer;
use hearth_protocol::{ConversationId, Epoch};
use region_core::Replay;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;

const START: Moment = Moment { wall: Timestamp(1_800_000_000_000), ticks: 1_000 };

/// Takes `user` or `user/milliseconds` as tokens: the user, and for how long from the start it is good.
#[derive(Debug)]
struct WordVerifier;

impl TokenVerifier for WordVerifier {
    fn verify(&self, token: &str, now: Timestamp) -> Result<Identity, AuthError> {
        let (user, lifetime) = token.split_once('/').unwrap_or((token, "3600000"));
        let user = UserId::new(user).map_err(|_| AuthError::Subject)?;
        let expires_at = Timestamp(START.wall.0 + lifetime.parse::<u64>().map_err(|_| AuthError::Malformed)?);
        if user.as_str() == "mallory" {
            return Err(AuthError::Signature);
        }
        if now >= expires_at {
            return Err(AuthError::Expired);
        }
        Ok(Identity { user, expires_at, token_expires_at: expires_at, operator: false })
    }
}

fn shared(change: impl FnOnce(&mut GatewayLimits)) -> Arc<SessionShared> {
    let mut limits = GatewayLimits::default();
    change(&mut limits);
    let keys = ResumeKeys::new([("1".to_owned(), b"a secret of the tests".to_vec())], 7 * 24 * 3_600_000).unwrap();
    Arc::new(SessionShared {
        rates: RateLimiter::new(limits.messages_per_minute),
        limits,
        times: GatewayTimes::default(),
        verifier: Arc::new(WordVerifier),
        resume_keys: Arc::new(keys),
        region: hearth_protocol::RegionId::new("eu-west").unwrap(),
        node: "eu-west-1".to_owned(),
    })
}

fn shared_afresh() -> Arc<SessionShared> {
    shared(|_| {})
}

/// A session with what it did so far.
struct Story {
    session: Session,
    now: Moment,
    sent: Vec<Value>,
    closed: Option<CloseCode>,
    forwarded: Vec<Submission>,
    calls: Vec<Ticket>,
    replays: Vec<SyncCursor>,
}

impl Story {
    fn begin(shared: Arc<SessionShared>, token: Option<&str>) -> Self {
        let arrival = Arrival {
            token: token.map(str::to_owned),
            device: None,
            new_device: device(99),
            connection_id: "c1".to_owned(),
        };
        let session = Session::new(shared, arrival, START);
        let mut story = Self {
            session,
            now: START,
            sent: Vec::new(),
            closed: None,
            forwarded: Vec::new(),
            calls: Vec::new(),
            replays: Vec::new(),
        };
        story.settle();
        story
    }

    /// A session of ann that is connected.
    fn live() -> Self {
        Self::live_with(shared(|_| {}))
    }

    fn live_with(shared: Arc<SessionShared>) -> Self {
        let mut story = Self::begin(shared, Some("ann"));
        assert_eq!(story.take()[0]["type"], "connected");
        story
    }

    fn settle(&mut self) {
        while let Some(effect) = self.session.next_effect() {
            assert!(self.closed.is_none(), "nothing follows a close");
            match effect {
                Effect::Send(frame) => self.sent.push(serde_json::from_slice(&frame).unwrap()),
                Effect::Close(code) => self.closed = Some(code),
                Effect::Open { .. } => {
                    let facts = OpenedFacts { feed_complete: true, endpoints: Vec::new() };
                    self.session.handle_opened(Ok(facts), self.now);
                }
                Effect::Forward { send, .. } => self.forwarded.push(*send),
                Effect::Api { ticket, .. } => self.calls.push(ticket),
                Effect::Replay { cursor, .. } => self.replays.push(cursor),
                _ => {}
            }
        }
    }

    fn frame(&mut self, frame: &Value) -> Vec<Value> {
        self.bytes(frame.to_string().as_bytes())
    }

    fn bytes(&mut self, frame: &[u8]) -> Vec<Value> {
        self.session.handle_frame(frame, self.now);
        self.take()
    }

    fn live_message(&mut self, epoch: u64, sequence: u64) -> Vec<Value> {
        let frame = message(sequence);
        let event = EdgeEvent::Message { conversation: conversation(), epoch: Epoch(epoch), sequence, frame };
        self.session.handle_event(event, self.now);
        self.take()
    }

    fn ack(&mut self, sequence: u64) -> Vec<Value> {
        let payload = json!({"conversationId": conversation(), "sequenceNumber": sequence});
        let frame = format!("{{\"type\":\"message.ack\",\"payload\":{payload}}}");
        self.session.handle_event(EdgeEvent::Frame(frame.into_bytes().into()), self.now);
        self.take()
    }

    fn send_own(&mut self, number: u128) -> Vec<Value> {
        self.frame(&send_frame(number))
    }

    fn wait(&mut self, milliseconds: u64) -> Vec<Value> {
        self.now = self.now.plus(Duration::from_millis(milliseconds));
        self.session.handle_timeout(self.now);
        self.take()
    }

    fn take(&mut self) -> Vec<Value> {
        self.settle();
        std::mem::take(&mut self.sent)
    }

    fn answer_replay(&mut self, up_to: u64, rows: impl Iterator<Item = u64>) -> Vec<Value> {
        let cursor = self.replays.remove(0);
        let frames = rows.map(|sequence| (sequence, message(sequence))).collect();
        let replay = Replay { frames, epoch: Epoch(1), up_to, visible_from: 1, floor: 1, rewound: None };
        self.session.handle_replayed(&cursor, Ok(replay), self.now);
        self.take()
    }
}

fn conversation() -> ConversationId {
    ConversationId(Uuid::from_u128(5))
}

fn device(number: u128) -> DeviceId {
    DeviceId(Uuid::from_u128(number))
}

fn message(sequence: u64) -> Bytes {
    json!({"type": "message.new", "payload": {"sequenceNumber": sequence}}).to_string().into_bytes().into()
}

fn send_frame(number: u128) -> Value {
    json!({"type": "message.send", "id": format!("r{number}"), "payload": {
        "messageId": Uuid::from_u128(number), "conversationId": conversation(),
        "content": {"type": "text", "text": "hello"}}})
}

fn auth(token: &str, more: Value) -> Value {
    let mut payload = json!({"token": token});
    payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"type": "auth", "payload": payload})
}

fn cursors(last: u64) -> Value {
    json!({"cursors": [{"conversationId": conversation(), "lastSequence": last}]})
}

/// `new 3`, `sync.required 4`, `sync.gap 1-900`, or the type.
fn short(frames: &[Value]) -> Vec<String> {
    frames
        .iter()
        .map(|frame| {
            let payload = &frame["payload"];
            match frame["type"].as_str().unwrap() {
                "message.new" => format!("new {}", payload["sequenceNumber"]),
                "sync.required" => format!("required {}", payload["fromSequence"]),
                "sync.gap" => format!("gap {}-{}", payload["fromSequence"], payload["toSequence"]),
                "sync.complete" => format!("complete {}", payload["resumed"].as_str().unwrap()),
                "error" => format!("error {}", payload["error"].as_str().unwrap()),
                "close" => format!("close {}", frame["code"]),
                other => other.to_owned(),
            }
        })
        .collect()
}

#[test]
fn first_frames_decide_what_a_session_becomes() {
    let big = format!("{{\"type\":\"x\",\"payload\":\"{}\"}}", "a".repeat(70_000));
    let deep = format!("{{\"type\":\"x\",\"payload\":{}{}}}", "[".repeat(40), "]".repeat(40));
    let table: Vec<(&[u8], &[&str])> = vec![
        (br#"{"type":"auth","payload":{"token":"ann"}}"#, &["connected"]),
        (br#"{"type":"auth","payload":{"token":"ann","cursors":[]}}"#, &["connected", "complete exact"]),
        (br#"{"type":"auth","payload":{"token":"mallory"}}"#, &["close 4001"]),
        (br#"{"type":"auth","payload":{"token":"ann/0"}}"#, &["close 4001"]),
        (br#"{"type":"auth","payload":{}}"#, &["error INVALID_MESSAGE", "close 4001"]),
        (br#"{"type":"heartbeat"}"#, &["close 4001"]),
        (br#"{"type":"message.send"}"#, &["error INVALID_MESSAGE", "close 4001"]),
        (b"hello", &["error INVALID_MESSAGE", "close 4400"]),
        (b"\xff\xfe", &["error INVALID_MESSAGE", "close 4400"]),
        (b"[]", &["error INVALID_MESSAGE", "close 4400"]),
        (big.as_bytes(), &["error TOO_LARGE", "close 4400"]),
        (deep.as_bytes(), &["error INVALID_MESSAGE", "close 4001"]),
    ];
    for (frame, expected) in table {
        let mut story = Story::begin(shared(|_| {}), None);
        assert_eq!(short(&story.bytes(frame)), expected, "{}", String::from_utf8_lossy(&frame[..frame.len().min(60)]));
    }
}

#[test]
fn a_live_session_answers_bad_frames_and_goes_on_unless_they_are_no_frames() {
    let deep = format!("{{\"type\":\"x\",\"payload\":{}{}}}", "[".repeat(40), "]".repeat(40));
    let goes_on: Vec<&str> = vec![
        r#"{"type":"nonsense"}"#,
        r#"{"payload":{}}"#,
        r#"{"type":7}"#,
        &deep,
        r#"{"type":"message.send","payload":{"messageId":"x"}}"#,
        r#"{"type":"history.request","payload":{"conversationId":"00000000-0000-0000-0000-000000000005","limit":201}}"#,
        r#"{"type":"history.request","payload":{"conversationId":"00000000-0000-0000-0000-000000000005","before":9,"after":1}}"#,
        r#"{"type":"auth","payload":{"token":"ann"}}"#,
        r#"{"type":"typing.start","payload":{}}"#,
    ];
    let mut story = Story::live();
    for frame in goes_on {
        assert_eq!(short(&story.bytes(frame.as_bytes())), ["error INVALID_MESSAGE"], "{frame}");
        assert_eq!(short(&story.frame(&json!({"type": "heartbeat"}))), ["heartbeat.ack"]);
    }
    assert_eq!(short(&story.bytes(b"}{")), ["error INVALID_MESSAGE", "close 4400"]);
    assert!(story.bytes(b"{}").is_empty());
}

#[test]
fn every_close_is_told_in_band_first_with_its_code_and_reason() {
    let mut story = Story::begin(shared(|_| {}), Some("mallory"));
    let frames = story.take();
    assert_eq!(frames, [json!({"type": "close", "code": 4001, "reason": "unauthorized: wrong signature"})]);
    assert_eq!(story.closed, Some(CloseCode::Unauthorized));
}

#[test]
fn connected_has_its_fields_beside_the_type() {
    let mut story = Story::begin(shared(|_| {}), Some("ann"));
    let connected = &story.take()[0];
    for field in [
        "connectionId",
        "serverTime",
        "heartbeatInterval",
        "resumeToken",
        "userId",
        "deviceId",
        "region",
        "node",
        "resumed",
        "feed",
        "endpoints",
        "protocolVersion",
    ] {
        assert!(connected.get(field).is_some(), "{field}");
    }
    assert_eq!(connected["userId"], "ann");
    assert_eq!(connected["resumed"], "fresh");
    assert_eq!(connected["heartbeatInterval"], 30_000);
}

#[test]
fn times_that_pass_close_with_their_codes() {
    let table: [(Option<&str>, u64, u64, CloseCode); 3] = [
        (None, 4_999, 5_000, CloseCode::Unauthorized),
        (Some("ann"), 89_999, 90_000, CloseCode::HeartbeatLost),
        (Some("ann/7000"), 6_999, 7_000, CloseCode::TokenExpired),
    ];
    for (token, good, bad, code) in table {
        let mut story = Story::begin(shared(|_| {}), token);
        assert_eq!(story.session.poll_timeout(story.now), Some(bad));
        story.wait(good);
        assert_eq!(story.closed, None, "{code:?} comes too early");
        story.wait(bad - good);
        assert_eq!(story.closed, Some(code));
    }
}

#[test]
fn a_heartbeat_keeps_a_session_and_a_refresh_extends_it() {
    let mut story = Story::begin(shared(|_| {}), Some("ann/100000"));
    story.take();
    story.wait(80_000);
    assert_eq!(short(&story.frame(&json!({"type": "heartbeat", "timestamp": 1}))), ["heartbeat.ack"]);
    let refused = [("bob", "another user's"), ("mallory", "signature"), ("ann/1", "expired")];
    for (token, _) in refused {
        let frames = story.frame(&json!({"type": "auth.refresh", "id": "f", "payload": {"token": token}}));
        assert_eq!(short(&frames), ["error UNAUTHORIZED"]);
        assert_eq!(frames[0]["id"], "f");
    }
    let frames = story.frame(&json!({"type": "auth.refresh", "id": "f", "payload": {"token": "ann/170000"}}));
    assert_eq!(frames[0]["payload"]["expiresAt"], START.wall.0 + 170_000);
    story.wait(80_000);
    assert_eq!(story.closed, None);
    story.frame(&json!({"type": "heartbeat"}));
    story.wait(10_000);
    assert_eq!(story.closed, Some(CloseCode::TokenExpired));
}

#[test]
fn a_resume_replays_the_listed_conversation_before_its_live_frames() {
    let mut story = Story::begin(shared(|_| {}), None);
    assert_eq!(short(&story.frame(&auth("ann", cursors(10)))), ["connected"]);
    assert!(story.live_message(1, 13).is_empty(), "a live frame waits behind the replay");
    assert!(story.live_message(1, 14).is_empty());
    let frames = story.answer_replay(13, 11..=13);
    assert_eq!(short(&frames), ["new 11", "new 12", "new 13", "new 14", "complete exact"]);
    let complete = &frames[4]["payload"]["conversations"][0];
    assert_eq!((&complete["upToSequence"], &complete["epoch"]), (&json!(13), &json!(1)));
    assert_eq!(short(&story.live_message(1, 15)), ["new 15"]);
}

#[test]
fn many_missed_messages_are_pulled_and_very_many_leave_a_gap() {
    let table: [(u64, Vec<String>); 4] = [
        (110, (11..=110).map(|n| format!("new {n}")).collect()),
        (111, vec!["required 11".into()]),
        (1_010, vec!["required 11".into()]),
        (1_011, std::iter::once("gap 11-911".to_owned()).chain((912..=1_011).map(|n| format!("new {n}"))).collect()),
    ];
    for (up_to, mut expected) in table {
        let mut story = Story::begin(shared(|_| {}), None);
        story.frame(&auth("ann", cursors(10)));
        let frames = story.answer_replay(up_to, (11.max(up_to - 99))..=up_to);
        expected.push("complete exact".to_owned());
        assert_eq!(short(&frames), expected, "up to {up_to}");
        assert_eq!(short(&story.live_message(1, up_to + 1)), [format!("new {}", up_to + 1)]);
    }
}

#[test]
fn one_resume_frame_serves_clients_that_authenticated_before() {
    let mut story = Story::live();
    assert_eq!(short(&story.live_message(1, 12)), ["new 12"]);
    assert!(story.frame(&json!({"type": "resume", "payload": cursors(10)})).is_empty());
    // 12 went out already and is not sent twice.
    assert_eq!(short(&story.answer_replay(12, 11..=12)), ["new 11", "complete exact"]);
    let again = story.frame(&json!({"type": "resume", "id": "x", "payload": cursors(10)}));
    assert_eq!(short(&again), ["error INVALID_MESSAGE"]);
}

#[test]
fn only_a_good_resume_token_of_the_same_user_and_device_promises_exact() {
    let shared = shared(|_| {});
    let keys = &shared.resume_keys;
    let ann = UserId::new("ann").unwrap();
    let bob = UserId::new("bob").unwrap();
    let old = Timestamp(START.wall.0 - 8 * 24 * 3_600_000);
    let table = [
        (Some(keys.issue(&ann, device(7), START.wall)), "exact"),
        (None, "exact"),
        (Some(keys.issue(&bob, device(7), START.wall)), "fresh"),
        (Some(keys.issue(&ann, device(8), START.wall)), "fresh"),
        (Some(keys.issue(&ann, device(7), old)), "fresh"),
        (Some("r1.1.AAAA.BBBB".to_owned()), "fresh"),
        (Some(String::new()), "fresh"),
    ];
    for (token, word) in table {
        let mut story = Story::begin(Arc::clone(&shared), None);
        let mut more = cursors(1);
        more["deviceId"] = json!(device(7));
        more["resumeToken"] = json!(token);
        let connected = story.frame(&auth("ann", more));
        assert_eq!(connected[0]["resumed"], word, "{token:?}");
        // The cursors are served all the same.
        assert_eq!(short(&story.answer_replay(2, 2..=2)), ["new 2".to_owned(), format!("complete {word}")]);
    }
}

#[test]
fn a_client_without_a_device_goes_on_as_the_device_of_its_resume_token() {
    let shared = shared(|_| {});
    let token = shared.resume_keys.issue(&UserId::new("ann").unwrap(), device(7), START.wall);
    let mut story = Story::begin(shared, None);
    let connected = story.frame(&auth("ann", json!({"resumeToken": token})));
    assert_eq!(connected[0]["deviceId"], json!(device(7)));
    let mut other = Story::begin(shared_afresh(), None);
    assert_eq!(other.frame(&auth("ann", json!({})))[0]["deviceId"], json!(device(99)));
}

#[test]
fn a_conversation_of_others_is_not_served_and_any_other_trouble_asks_the_client_to_pull() {
    let table = [
        (ErrorCode::ConversationNotFound, vec!["complete fresh"]),
        (ErrorCode::HomeUnreachable, vec!["required 11", "complete exact"]),
    ];
    for (error, expected) in table {
        let mut story = Story::begin(shared(|_| {}), None);
        story.frame(&auth("ann", cursors(10)));
        let cursor = story.replays.remove(0);
        story.session.handle_replayed(&cursor, Err(Refusal::new(error, "")), story.now);
        assert_eq!(short(&story.take()), expected);
    }
}

#[test]
fn resumes_run_a_few_at_a_time_and_complete_comes_after_the_last() {
    let mut story = Story::begin(shared(|limits| limits.session_replays = 2), None);
    let listed: Vec<_> = (0..5u128).map(|n| json!({"conversationId": Uuid::from_u128(n), "lastSequence": 0})).collect();
    story.frame(&auth("ann", json!({"cursors": listed})));
    for left in (0..5).rev() {
        assert_eq!(story.replays.len(), 2.min(left + 1));
        let frames = story.answer_replay(0, std::iter::empty());
        assert_eq!(frames.is_empty(), left > 0);
    }
}

#[test]
fn a_hole_is_told_and_never_jumped_over_silently() {
    let mut story = Story::live();
    assert_eq!(short(&story.live_message(1, 5)), ["new 5"]);
    assert_eq!(short(&story.live_message(1, 6)), ["new 6"]);
    assert!(story.live_message(1, 6).is_empty(), "a duplicate is dropped");
    assert_eq!(short(&story.live_message(1, 9)), ["required 7"]);
    assert_eq!(short(&story.live_message(1, 10)), ["new 10"]);
}

#[test]
fn own_messages_leave_no_hole_whether_their_ack_comes_before_or_after() {
    let mut story = Story::live();
    story.live_message(1, 1);
    story.send_own(1);
    assert_eq!(short(&story.ack(2)), ["message.ack"]);
    assert_eq!(short(&story.live_message(1, 3)), ["new 3"]);
    story.send_own(2);
    assert!(story.live_message(1, 5).is_empty(), "number 4 may be the own message whose ack is under way");
    assert_eq!(short(&story.ack(4)), ["message.ack", "new 5"]);
    assert_eq!(short(&story.live_message(1, 7)), ["required 6"]);
    assert_eq!(story.forwarded.len(), 2);
}

#[test]
fn own_messages_before_the_first_delivery_leave_no_hole_either() {
    let mut story = Story::live();
    story.send_own(1);
    story.send_own(2);
    assert_eq!(short(&story.ack(7)), ["message.ack"]);
    assert_eq!(short(&story.live_message(1, 5)), ["new 5"]);
    assert_eq!(short(&story.live_message(1, 6)), ["new 6"]);
    assert_eq!(short(&story.live_message(1, 8)), ["new 8"], "number 7 is the own message that was acked first");
    assert!(story.live_message(1, 10).is_empty(), "number 9 may be the own message whose ack is under way");
    assert!(story.wait(1_900).is_empty());
    assert_eq!(short(&story.wait(200)), ["required 9"], "no ack came");
}

#[test]
fn a_resume_shows_own_messages_again() {
    let mut story = Story::live();
    story.live_message(1, 1);
    story.send_own(1);
    story.ack(2);
    story.live_message(1, 3);
    story.frame(&json!({"type": "resume", "payload": cursors(0)}));
    assert_eq!(short(&story.answer_replay(3, 1..=3)), ["new 2", "complete exact"]);
}

#[test]
fn a_new_epoch_may_take_numbers_again_and_an_old_line_is_never_sent() {
    let mut story = Story::live();
    story.live_message(1, 10);
    assert!(story.live_message(1, 9).is_empty());
    assert_eq!(short(&story.live_message(2, 9)), ["conversation.rewound", "new 9"]);
    assert!(story.live_message(1, 10).is_empty());
    assert_eq!(short(&story.live_message(2, 10)), ["new 10"]);
}

#[test]
fn live_frames_over_the_bound_behind_a_replay_become_a_pull() {
    let mut story = Story::begin(shared(|limits| limits.held_frames = 2), None);
    story.frame(&auth("ann", cursors(0)));
    for sequence in 1..=5 {
        assert!(story.live_message(1, sequence).is_empty());
    }
    assert_eq!(short(&story.answer_replay(0, std::iter::empty())), ["new 1", "new 2", "required 3", "complete exact"]);
    assert_eq!(short(&story.live_message(1, 6)), ["new 6"]);
}

#[test]
fn sends_over_the_rate_are_refused_with_the_limit_and_others_go_on() {
    let mut story = Story::live_with(shared(|limits| limits.messages_per_minute = 3));
    for number in 1..=3 {
        assert!(story.send_own(number).is_empty());
    }
    let frames = story.send_own(4);
    assert_eq!(short(&frames), ["error RATE_LIMITED"]);
    assert_eq!(frames[0]["id"], "r4");
    assert_eq!(frames[0]["payload"]["retryAfter"], 20);
    assert!(frames[0]["payload"]["limit"].as_str().unwrap().contains("3 messages a minute"));
    assert!(story.send_own(3).is_empty(), "a retry is free");
    assert_eq!(story.forwarded.len(), 4);
    story.wait(20_000);
    assert!(story.send_own(4).is_empty());
}

#[test]
fn a_thousand_refusals_within_a_minute_close_the_session_and_fewer_do_not() {
    let mut story = Story::live();
    let nonsense = json!({"type": "nonsense"});
    for _ in 0..999 {
        story.frame(&nonsense);
    }
    assert_eq!(story.closed, None);
    story.wait(60_000);
    for _ in 0..999 {
        story.frame(&nonsense);
    }
    assert_eq!(story.closed, None);
    assert_eq!(short(&story.frame(&nonsense)), ["error INVALID_MESSAGE", "close 4029"]);
    let mut unlimited = Story::live_with(shared(|limits| limits.refusals_per_minute = 0));
    for _ in 0..2_000 {
        assert_eq!(short(&unlimited.frame(&nonsense)), ["error INVALID_MESSAGE"]);
    }
}

#[test]
fn refusals_of_the_core_count_as_well() {
    let mut story = Story::live_with(shared(|limits| limits.refusals_per_minute = 1));
    let frame = br#"{"type":"error","id":"a","payload":{"error":"FORBIDDEN","message":""}}"#;
    story.session.handle_event(EdgeEvent::Frame(Bytes::from_static(frame)), story.now);
    assert_eq!(short(&story.take()), ["error FORBIDDEN", "close 4029"]);
}

#[test]
fn answers_of_the_api_carry_the_id_of_their_request() {
    let mut story = Story::live();
    story.frame(&json!({"type": "sync.request", "id": "s\"1", "payload": {"conversations": []}}));
    story.frame(&json!({"type": "history.request", "id": "h1", "payload": {"conversationId": conversation()}}));
    assert_eq!(story.session.requests(), 2);
    let (sync, history) = (story.calls.remove(0), story.calls.remove(0));
    story.session.handle_answer(&history, &Refusal::no_conversation().into(), story.now);
    let frames = story.take();
    assert_eq!(short(&frames), ["error CONVERSATION_NOT_FOUND"]);
    assert_eq!(frames[0]["id"], "h1");
    story.session.handle_answer(&sync, &ApiAnswer::json(200, &HashMap::from([("serverTime", 1)])), story.now);
    assert_eq!(story.take(), [json!({"type": "sync.response", "id": "s\"1", "payload": {"serverTime": 1}})]);
    assert_eq!(story.session.requests(), 0);
}

#[test]
fn a_draining_session_is_told_its_slot_and_serves_until_it_is_closed() {
    let mut story = Story::live();
    let close_at = story.now.plus(Duration::from_secs(10));
    let (slot, close_at_wall) = (DrainSlot { reconnect_after: 700, close_at: close_at.ticks }, close_at.wall);
    story.session.handle_drain(&DrainNotice { slot, close_at_wall }, Vec::new(), story.now);
    let frames = story.take();
    assert_eq!(frames[0]["type"], "server.draining");
    assert_eq!(frames[0]["reconnectAfterMs"], 700);
    assert_eq!(frames[0]["deadlineMs"], close_at.wall.0);
    assert!(frames[0]["resumeToken"].is_string());
    assert!(story.send_own(1).is_empty());
    assert_eq!(story.forwarded.len(), 1);
    story.wait(9_999);
    assert_eq!(story.closed, None);
    assert_eq!(short(&story.wait(1)), ["close 4009"]);
    let mut greeting = Story::begin(shared(|_| {}), None);
    greeting.session.handle_drain(&DrainNotice { slot, close_at_wall }, Vec::new(), greeting.now);
    assert_eq!(short(&greeting.take()), ["close 4009"]);
}

#[test]
fn a_client_that_does_not_read_is_closed_to_reconnect() {
    let mut story = Story::live();
    story.session.handle_overflow();
    assert_eq!(short(&story.take()), ["close 4010"]);
}

#[test]
fn a_message_that_has_expired_already_goes_to_its_home_which_may_have_taken_it_in_time() {
    let mut story = Story::live();
    let mut frame = send_frame(1);
    frame["payload"]["expiresAt"] = json!(START.wall.0);
    assert!(story.frame(&frame).is_empty());
    assert_eq!(story.forwarded.len(), 1);
}
