//! Frames that edges send: the text is the contract, and it reads back into what was written.

use hearth_protocol::client::{
    AckDurability, AckPayload, Block, BlockReason, Certainty, ClosePayload, Connected, DeliveredPayload, DeliveryState,
    DeviceType, Draining, Endpoint, ExplanationPayload, Hop, HopKind, KeptHops, KeptWhy, PresenceBulkPayload,
    PresencePayload, PresenceStatus, QueuedPayload, QueuedReason, ReadReceiptPayload, ReceiptsSummaryPayload,
    RefusedPayload, RewoundPayload, ServerFrame, SyncCompletePayload, SyncGapPayload, SyncRequiredPayload, SyncedUpTo,
    TypingPayload, encode_message_new, encode_server_frame,
};
use hearth_protocol::entry::{ConversationKind, HistoryForNewMembers, Role, Settings};
use hearth_protocol::placement::PartitionMode;
use hearth_protocol::rest::{
    ConversationRow, HistoryResponse, Participant, Range, Reactions, Row, SyncRefusal, SyncResponse, SyncedConversation,
};
use hearth_protocol::{Epoch, ErrorCode, Level, Refusal};

use crate::sample::{check, conversation, device, message, region, time, user};

fn row() -> Row {
    let content = serde_json::value::RawValue::from_string(r#"{"type":"text","text":"hello"}"#.to_owned());
    Row {
        message_id: message(),
        conversation_id: conversation(),
        sender_id: user("ann"),
        content: Some(content.expect("JSON")),
        sequence_number: 300,
        timestamp: time(),
        epoch: Epoch(2),
        kind: "message".to_owned(),
        target_message_id: None,
        change: None,
        reply_to: Some(message()),
        expires_at: Some(time()),
        origin_region: region("us-east"),
        original_timestamp: Some(time()),
        edited_at: None,
        deleted: None,
        expired: None,
        reactions: None,
        blocked: None,
    }
}

fn edited_row() -> Row {
    let reactions = vec![Reactions { emoji: "👍".to_owned(), count: 2, by_me: true }];
    Row { edited_at: Some(time()), reactions: Some(reactions), ..row() }
}

fn deleted_row() -> Row {
    Row { content: None, deleted: Some(true), ..row() }
}

fn expired_row() -> Row {
    Row { content: None, expired: Some(true), ..row() }
}

fn reaction_row() -> Row {
    Row {
        content: None,
        kind: "reaction".to_owned(),
        target_message_id: Some(message()),
        change: Some(serde_json::json!({"action": "add", "by": "ann", "emoji": "👍"})),
        ..member_row()
    }
}

fn member_row() -> Row {
    Row {
        content: None,
        kind: "member".to_owned(),
        change: Some(serde_json::json!({"action": "add", "by": "ann", "role": "member", "userIds": ["bob"]})),
        reply_to: None,
        expires_at: None,
        original_timestamp: None,
        ..row()
    }
}

fn conversation_row(whole: bool) -> ConversationRow {
    ConversationRow {
        conversation_id: conversation(),
        kind: ConversationKind::Group,
        name: Some("Tea".to_owned()),
        role: Some(Role::Admin),
        last_sequence: 300,
        read_up_to: 0,
        unread_count: 7,
        last_message: Some(row()),
        muted_until: None,
        home: region("eu-west"),
        epoch: Epoch(2),
        created_at: "2026-09-21T14:13:20.123Z".to_owned(),
        participants: whole.then(|| vec![Participant { user_id: user("ann"), role: Role::Admin }]),
        member_count: whole.then_some(1),
        settings: whole.then_some(Settings {
            only_admins_can_post: false,
            allow_member_invites: true,
            history_for_new_members: HistoryForNewMembers::All,
            retention_days: 30,
        }),
        durability: whole.then_some(Level::Majority),
        partition_mode: None,
        voters: whole.then(|| vec![region("eu-west"), region("us-east")]),
        floor_sequence: whole.then_some(1),
    }
}

fn endpoint() -> Endpoint {
    Endpoint {
        region: region("us-east"),
        ws: "ws://us.example/ws".to_owned(),
        webtransport: Some("https://us.example/wt".to_owned()),
    }
}

fn session_frames() -> Vec<(&'static str, ServerFrame)> {
    let connected = Connected {
        connection_id: "c-1".to_owned(),
        server_time: time(),
        heartbeat_interval: 30_000,
        resume_token: "R".to_owned(),
        user_id: user("ann"),
        device_id: device(),
        region: region("eu-west"),
        node: "n1".to_owned(),
        resumed: "fresh".to_owned(),
        feed: "complete".to_owned(),
        endpoints: vec![endpoint()],
        protocol_version: 1,
    };
    let draining = Draining {
        reconnect_after_ms: 250,
        deadline_ms: 10_000,
        endpoints: vec![Endpoint { webtransport: None, ..endpoint() }],
        resume_token: "R".to_owned(),
    };
    let refusal = Refusal {
        error: ErrorCode::RateLimited,
        message: "too fast".into(),
        retry_after: Some(3),
        limit: Some("100 messages a minute".into()),
    };
    vec![
        ("connected", ServerFrame::Connected(Box::new(connected))),
        ("server.draining", ServerFrame::Draining(draining)),
        ("close", ServerFrame::Close(ClosePayload { code: 4009, reason: "draining".to_owned() })),
        ("heartbeat.ack", ServerFrame::HeartbeatAck(time())),
        ("auth.refreshed", ServerFrame::AuthRefreshed(time())),
        ("feed.complete", ServerFrame::FeedComplete),
        ("region.status", ServerFrame::RegionStatus { region: region("ap-south"), reachable: false, fenced: None }),
        (
            "region.status-fenced",
            ServerFrame::RegionStatus { region: region("ap-south"), reachable: false, fenced: Some(true) },
        ),
        ("error", ServerFrame::Error(refusal)),
        ("error-least", ServerFrame::Error(Refusal::invalid("unknown frame type"))),
    ]
}

fn message_frames() -> Vec<(&'static str, ServerFrame)> {
    let ack = |duplicate| {
        let regions = vec![region("eu-west"), region("us-east")];
        ServerFrame::Ack(AckPayload {
            message_id: message(),
            sequence_number: 300,
            timestamp: time(),
            conversation_id: conversation(),
            epoch: Epoch(2),
            home: region("eu-west"),
            durability: AckDurability { level: Level::TwoRegions, regions },
            duplicate,
        })
    };
    let queued = |reason| {
        ServerFrame::Queued(QueuedPayload {
            message_id: message(),
            conversation_id: conversation(),
            reason,
            home: region("eu-west"),
        })
    };
    let refused = RefusedPayload {
        message_id: message(),
        conversation_id: conversation(),
        error: ErrorCode::Expired,
        message: "parked longer than 7 days".to_owned(),
    };
    let read_only = ConversationRow { partition_mode: Some(PartitionMode::ReadOnly), ..conversation_row(true) };
    vec![
        ("message.ack", ack(None)),
        ("message.ack-duplicate", ack(Some(true))),
        ("message.queued-home-unreachable", queued(QueuedReason::HomeUnreachable)),
        ("message.queued-home-moving", queued(QueuedReason::HomeMoving)),
        ("message.queued-copies-missing", queued(QueuedReason::CopiesMissing)),
        ("message.refused", ServerFrame::Refused(refused)),
        ("message.new", ServerFrame::New(Box::new(row()))),
        ("message.new-member", ServerFrame::New(Box::new(member_row()))),
        ("message.new-edited", ServerFrame::New(Box::new(edited_row()))),
        ("message.new-deleted", ServerFrame::New(Box::new(deleted_row()))),
        ("message.new-expired", ServerFrame::New(Box::new(expired_row()))),
        ("message.new-reaction", ServerFrame::New(Box::new(reaction_row()))),
        ("conversation.new", ServerFrame::ConversationNew(Box::new(conversation_row(false)))),
        ("conversation.updated", ServerFrame::ConversationUpdated(Box::new(conversation_row(true)))),
        ("conversation.updated-read-only", ServerFrame::ConversationUpdated(Box::new(read_only))),
    ]
}

fn sync_frames() -> Vec<(&'static str, ServerFrame)> {
    let covered = SyncedUpTo { conversation_id: conversation(), epoch: Epoch(2), up_to_sequence: 300 };
    let complete = SyncCompletePayload { conversations: vec![covered], resumed: "exact".to_owned() };
    let rewound = RewoundPayload { conversation_id: conversation(), epoch: Epoch(3), after_sequence: 11 };
    let required = SyncRequiredPayload { conversation_id: conversation(), from_sequence: 12 };
    let gap = SyncGapPayload { conversation_id: conversation(), from_sequence: 12, to_sequence: 200 };
    let synced =
        SyncedConversation { conversation_id: conversation(), messages: vec![row(), member_row()], has_more: true };
    let response = SyncResponse {
        conversations: vec![synced],
        refused: vec![SyncRefusal { conversation_id: conversation(), error: ErrorCode::ConversationNotFound }],
        server_time: time(),
    };
    let history = HistoryResponse {
        conversation_id: conversation(),
        messages: vec![row()],
        has_more: true,
        next_cursor: Some(300),
        floor_sequence: 1,
        withheld: vec![Range { from: 1, to: 4 }],
    };
    vec![
        ("sync.complete", ServerFrame::SyncComplete(complete)),
        ("sync.required", ServerFrame::SyncRequired(required)),
        ("conversation.rewound", ServerFrame::ConversationRewound(rewound)),
        ("sync.gap", ServerFrame::SyncGap(gap)),
        ("sync.response", ServerFrame::SyncResponse(response)),
        ("history.response", ServerFrame::HistoryResponse(history)),
    ]
}

fn receipt_frames() -> Vec<(&'static str, ServerFrame)> {
    let delivered = DeliveredPayload {
        conversation_id: conversation(),
        message_ids: vec![message()],
        delivered_to: user("bob"),
        timestamp: time(),
        up_to_sequence: 300,
        epoch: Epoch(2),
    };
    let read = ReadReceiptPayload {
        conversation_id: conversation(),
        read_up_to_sequence: 300,
        read_by: user("bob"),
        timestamp: time(),
        epoch: Epoch(2),
    };
    let typing = TypingPayload { conversation_id: conversation(), user_id: user("bob"), is_typing: true };
    let summary =
        ReceiptsSummaryPayload { conversation_id: conversation(), sequence_number: 300, delivered: 120, read: 7 };
    vec![
        ("message.delivered", ServerFrame::Delivered(delivered)),
        ("message.read_receipt", ServerFrame::ReadReceipt(read)),
        ("receipts.summary", ServerFrame::ReceiptsSummary(summary)),
        ("typing.update", ServerFrame::TypingUpdate(typing)),
    ]
}

fn presence_frames() -> Vec<(&'static str, ServerFrame)> {
    let online = PresencePayload {
        user_id: user("bob"),
        status: PresenceStatus::Online,
        typing_in: None,
        last_seen: None,
        device_type: Some(DeviceType::Mobile),
        as_of: time(),
        certainty: Certainty::Fresh,
        regions: vec![region("eu-west"), region("us-east")],
    };
    let offline = PresencePayload {
        status: PresenceStatus::Offline,
        last_seen: Some(time()),
        device_type: None,
        certainty: Certainty::Unknown,
        regions: Vec::new(),
        ..online.clone()
    };
    let bulk = PresenceBulkPayload { presences: vec![online.clone(), offline.clone()] };
    vec![
        ("presence.update", ServerFrame::PresenceUpdate(online)),
        ("presence.update-offline", ServerFrame::PresenceUpdate(offline)),
        ("presence.bulk", ServerFrame::PresenceBulk(bulk)),
        ("presence.bulk-empty", ServerFrame::PresenceBulk(PresenceBulkPayload { presences: Vec::new() })),
    ]
}

fn explanation_frames() -> Vec<(&'static str, ServerFrame)> {
    let hop = |hop, at: &str, to: Option<&str>, micros| Hop {
        hop,
        region: Some(region(at)),
        to: to.map(region),
        at: time(),
        micros,
    };
    let block = Block {
        reason: BlockReason::ReplicaBehind,
        region: Some(region("us-east")),
        waits_for: vec![region("eu-west")],
        link_up: Some(false),
        since: Some(time()),
        text: "us-east lacks it: the link to eu-west is down".to_owned(),
    };
    let waiting = ExplanationPayload {
        conversation_id: conversation(),
        message_id: Some(message()),
        sequence_number: Some(300),
        epoch: Some(Epoch(2)),
        home: Some(region("eu-west")),
        user_id: user("bob"),
        state: DeliveryState::Waiting,
        blocks: vec![block],
        hops: vec![
            hop(HopKind::HomeAppend, "eu-west", None, Some(250)),
            hop(HopKind::LinkOut, "eu-west", Some("us-east"), None),
        ],
        kept: vec![KeptHops { region: region("eu-west"), since: time(), why: KeptWhy::Start }],
        out_of_reach: vec![region("ap-south")],
    };
    let delivered = ExplanationPayload {
        message_id: None,
        sequence_number: None,
        epoch: None,
        home: None,
        state: DeliveryState::Delivered,
        blocks: Vec::new(),
        hops: Vec::new(),
        kept: Vec::new(),
        out_of_reach: Vec::new(),
        ..waiting.clone()
    };
    vec![
        ("delivery.explanation", ServerFrame::Explanation(Box::new(waiting))),
        ("delivery.explanation-least", ServerFrame::Explanation(Box::new(delivered))),
    ]
}

#[test]
fn every_frame_of_an_edge_has_its_golden_text_and_reads_back() {
    let frames = session_frames().into_iter().chain(message_frames()).chain(sync_frames());
    let frames: Vec<_> = frames.chain(receipt_frames()).chain(presence_frames()).chain(explanation_frames()).collect();
    let mut values = Vec::new();
    for (name, frame) in &frames {
        let bytes = encode_server_frame(frame, Some("7"));
        let text = std::str::from_utf8(&bytes).expect("UTF-8").to_owned();
        let (id, parsed) = ServerFrame::parse(&text).expect("it reads back");
        assert_eq!(encode_server_frame(&parsed.expect("a known type"), id.as_deref()), bytes, "{name}");
        values.push((*name, text));
    }
    check("frames_of_edges.txt", &values);
}

#[test]
fn a_message_for_many_is_the_same_text_as_one_without_an_id() {
    assert_eq!(encode_message_new(&row()), encode_server_frame(&ServerFrame::New(Box::new(row())), None));
}

#[test]
fn a_frame_of_an_unknown_type_is_ignored_and_its_id_told() {
    let (id, frame) = ServerFrame::parse(r#"{"type":"later","id":"7","payload":{}}"#).expect("JSON");
    assert!(id.as_deref() == Some("7") && frame.is_none());
}
