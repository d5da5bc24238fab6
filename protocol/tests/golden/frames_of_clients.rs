//! Frames that clients send: the contract is what is read from the text.

use hearth_protocol::client::{
    Asked, ChosenStatus, ClientFrame, ClientState, DeviceType, FrameError, FrameLimits, MessageName, parse_client_frame,
};
use hearth_protocol::{ErrorCode, Level};

use crate::sample;

const FRAMES: &str = include_str!("frames_of_clients.txt");

fn frame(name: &str) -> (Option<String>, ClientFrame) {
    let text = FRAMES.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let (id, frame) = parse_client_frame(text.expect("the golden line is there").as_bytes(), &FrameLimits::default());
    (id, frame.expect("the golden frame is taken"))
}

#[test]
fn every_golden_frame_of_a_client_is_taken() {
    let ids: Vec<_> = FRAMES.lines().map(|line| frame(line.split(' ').next().expect("a name")).0).collect();
    assert_eq!(ids.len(), 27);
}

#[test]
fn auth_and_resume_carry_tokens_and_cursors() {
    let (_, ClientFrame::Auth(auth)) = frame("auth") else { panic!("an auth") };
    assert_eq!((auth.token.as_str(), auth.resume_token.as_deref()), ("T", Some("R")));
    assert_eq!(auth.device_id, Some(sample::device()));
    assert!(auth.datagrams && auth.streams);
    let cursors = auth.cursors.expect("cursors");
    assert_eq!((cursors[0].conversation_id, cursors[0].last_sequence), (sample::conversation(), 300));
    assert_eq!(cursors[0].epoch.map(|epoch| epoch.0), Some(2));
    assert_eq!(cursors[1].epoch, None);
    let (_, ClientFrame::Auth(auth)) = frame("auth-least") else { panic!("an auth") };
    assert!(auth.device_id.is_none() && auth.cursors.is_none() && !auth.datagrams && !auth.streams);
    let (_, ClientFrame::Resume(resume)) = frame("resume") else { panic!("a resume") };
    assert_eq!((resume.resume_token.as_deref(), resume.cursors.len()), (Some("R"), 1));
    let (_, ClientFrame::AuthRefresh(token)) = frame("auth.refresh") else { panic!("a refresh") };
    assert_eq!(token, "T");
}

#[test]
fn a_send_carries_every_field_of_the_contract_and_ignores_others() {
    let (id, ClientFrame::Send(send)) = frame("message.send") else { panic!("a send") };
    assert_eq!(id.as_deref(), Some("7"));
    assert_eq!((send.message_id, send.conversation_id), (sample::message(), sample::conversation()));
    assert_eq!((send.expires_at, send.durability), (Some(sample::time()), Some(Level::TwoRegions)));
    assert_eq!(send.reply_to, Some(sample::message()));
    let stored = String::from_utf8(send.content.to_json()).expect("JSON");
    assert_eq!(stored, r#"{"type":"text","text":"hello","metadata":{"a":[1,null]},"mentions":["bob"]}"#);
    let (id, ClientFrame::Send(send)) = frame("message.send-least") else { panic!("a send") };
    assert_eq!((id, send.durability, send.expires_at), (None, None, None));
}

#[test]
fn the_other_requests_carry_their_fields() {
    let (_, ClientFrame::Receipt(receipt)) = frame("message.received") else { panic!("a receipt") };
    assert_eq!((receipt.up_to_sequence, receipt.epoch.map(|epoch| epoch.0)), (300, Some(2)));
    assert!(!receipt.read);
    assert!(matches!(frame("message.read"), (_, ClientFrame::Receipt(receipt)) if receipt.read));
    let (id, ClientFrame::Sync(sync)) = frame("sync.request") else { panic!("a sync") };
    assert_eq!((id.as_deref(), sync.limit, sync.conversations.len()), (Some("s"), Some(50), 1));
    let (_, ClientFrame::History(history)) = frame("history.request") else { panic!("a history") };
    assert_eq!((history.before, history.after, history.limit), (Some(300), None, Some(50)));
    assert!(matches!(frame("heartbeat"), (None, ClientFrame::Heartbeat)));
}

#[test]
fn typing_and_what_is_on_the_screen_name_a_conversation_or_none() {
    let (_, ClientFrame::Typing(start)) = frame("typing.start") else { panic!("a start") };
    let (_, ClientFrame::Typing(stop)) = frame("typing.stop") else { panic!("a stop") };
    assert_eq!((start.conversation_id, start.typing, stop.typing), (sample::conversation(), true, false));
    let (_, ClientFrame::View(view)) = frame("conversation.view") else { panic!("a view") };
    assert_eq!(view.conversation_id, Some(sample::conversation()));
    assert!(matches!(frame("conversation.view-none"), (_, ClientFrame::View(view)) if view.conversation_id.is_none()));
    for kind in ["typing.start", "typing.stop", "conversation.view"] {
        let text = format!(r#"{{"type":"{kind}","id":"9","payload":{{}}}}"#);
        let (_, result) = parse_client_frame(text.as_bytes(), &FrameLimits::default());
        assert!(matches!(result, Err(FrameError::Refused(refusal)) if refusal.error == ErrorCode::InvalidMessage));
    }
}

#[test]
fn changes_of_a_message_name_it_and_what_is_done_to_it() {
    let change = |name| match frame(name) {
        (_, ClientFrame::Change(change)) => *change,
        other => panic!("{name} is a change: {other:?}"),
    };
    let edit = change("message.edit");
    let ids = (edit.message_id, edit.conversation_id, edit.target_message_id);
    assert_eq!(ids, (sample::message(), sample::conversation(), hearth_protocol::MessageId(sample::uuid(4))));
    assert!(matches!(&edit.what, Asked::Edit(content) if content.text.as_deref() == Some("better")));
    assert_eq!(change("message.delete").what, Asked::Delete);
    let react = |added| Asked::React { emoji: "👍".to_owned(), added };
    assert_eq!(change("reaction.add").what, react(true));
    assert_eq!(change("reaction.remove").what, react(false));
}

#[test]
fn a_change_without_a_target_or_with_what_is_no_emoji_or_content_is_refused() {
    let whole = |kind: &str, rest: &str| {
        let (message, conversation) = (sample::uuid(2), sample::uuid(1));
        let ids = format!(r#""messageId":"{message}","conversationId":"{conversation}""#);
        let text = format!(r#"{{"type":"{kind}","payload":{{{ids}{rest}}}}}"#);
        parse_client_frame(text.as_bytes(), &FrameLimits::default()).1
    };
    let target = format!(r#","targetMessageId":"{}""#, sample::uuid(4));
    let with = |rest: &str| format!("{target}{rest}");
    let emoji = |emoji: &str| with(&format!(r#","emoji":"{emoji}""#));
    for (kind, rest, error) in [
        ("message.delete", String::new(), ErrorCode::InvalidMessage),
        ("message.edit", target.clone(), ErrorCode::InvalidMessage),
        ("message.edit", with(r#","content":{"type":"text","text":""}"#), ErrorCode::InvalidMessage),
        ("reaction.add", target.clone(), ErrorCode::InvalidMessage),
        ("reaction.add", emoji(""), ErrorCode::InvalidMessage),
        ("reaction.add", emoji("a b"), ErrorCode::InvalidMessage),
        ("reaction.remove", emoji(&"x".repeat(65)), ErrorCode::TooLarge),
    ] {
        let Err(FrameError::Refused(refusal)) = whole(kind, &rest) else { panic!("{kind} {rest} is refused") };
        assert_eq!(refusal.error, error, "{kind} {rest}");
    }
    assert!(whole("message.delete", &target).is_ok());
}

#[test]
fn presence_names_a_status_users_and_a_state_and_nothing_else_is_taken() {
    let (_, ClientFrame::PresenceSet(set)) = frame("presence.set") else { panic!("a status") };
    assert_eq!((set.status, set.device_type), (ChosenStatus::Away, Some(DeviceType::Mobile)));
    let (_, ClientFrame::PresenceSet(set)) = frame("presence.set-least") else { panic!("a status") };
    assert_eq!((set.status, set.device_type), (ChosenStatus::Online, None));
    let (id, ClientFrame::PresenceUsers(users)) = frame("presence.subscribe") else { panic!("a subscription") };
    assert_eq!((id.as_deref(), users.subscribe), (Some("p"), true));
    assert_eq!(users.user_ids, [sample::user("ann"), sample::user("bob")]);
    assert!(matches!(frame("presence.unsubscribe"), (_, ClientFrame::PresenceUsers(users)) if !users.subscribe));
    let state = |name| match frame(name) {
        (_, ClientFrame::State(state)) => state.state,
        other => panic!("{other:?} is no state"),
    };
    assert_eq!((state("client.state-active"), state("client.state")), (ClientState::Active, ClientState::Background));
    for text in [
        r#"{"type":"presence.set","payload":{"status":"offline"}}"#,
        r#"{"type":"presence.set","payload":{}}"#,
        r#"{"type":"presence.subscribe","payload":{"userIds":["not a name"]}}"#,
        r#"{"type":"presence.subscribe","payload":{}}"#,
        r#"{"type":"client.state","payload":{"state":"asleep"}}"#,
    ] {
        let (_, result) = parse_client_frame(text.as_bytes(), &FrameLimits::default());
        assert!(
            matches!(result, Err(FrameError::Refused(refusal)) if refusal.error == ErrorCode::InvalidMessage),
            "{text}"
        );
    }
}

#[test]
fn a_message_to_be_explained_is_named_by_its_id_or_by_its_number_and_not_by_both() {
    let (id, ClientFrame::Explain(by_id)) = frame("delivery.explain") else { panic!("a question") };
    assert_eq!((id.as_deref(), by_id.name()), (Some("w"), Ok(MessageName::Id(sample::message()))));
    assert_eq!((by_id.conversation_id, by_id.user_id.as_str()), (sample::conversation(), "bob"));
    let (_, ClientFrame::Explain(by_number)) = frame("delivery.explain-number") else { panic!("a question") };
    assert_eq!(by_number.name(), Ok(MessageName::Number(300)));
    let (conversation, message) = (sample::uuid(1), sample::uuid(2));
    for rest in [
        String::new(),
        format!(r#","messageId":"{message}","sequenceNumber":3"#),
        r#","sequenceNumber":0"#.to_owned(),
        r#","sequenceNumber":9007199254740992"#.to_owned(),
        r#","messageId":"nine""#.to_owned(),
    ] {
        let text = format!(
            r#"{{"type":"delivery.explain","payload":{{"conversationId":"{conversation}","userId":"bob"{rest}}}}}"#
        );
        let (_, result) = parse_client_frame(text.as_bytes(), &FrameLimits::default());
        assert!(matches!(result, Err(FrameError::Refused(_))), "{text}");
    }
}

#[test]
fn frames_of_later_versions_and_unknown_ones_are_refused_and_end_no_session() {
    for kind in ["delivery.forget", "something.else"] {
        let text = format!(r#"{{"type":"{kind}","id":"9","payload":{{}}}}"#);
        let (id, result) = parse_client_frame(text.as_bytes(), &FrameLimits::default());
        assert_eq!(id.as_deref(), Some("9"));
        let Err(FrameError::Refused(refusal)) = result else { panic!("{kind} is refused") };
        assert_eq!(refusal.error, ErrorCode::InvalidMessage);
    }
}
