//! Stored records: a version byte first, and an unknown one is refused.

use bytes::Bytes;
use hearth_protocol::entry::{
    ConversationKind, Entry, EntryError, Fixed, Forget, HistoryForNewMembers, MemberAction, Privacy, Role, Settings,
    SettingsChange, content_digest,
};
use hearth_protocol::joins::{decode_joins, encode_joins};
use hearth_protocol::placement::PartitionMode;
use hearth_protocol::push::{PushPolicy, Subscription, Target};
use hearth_protocol::record::{
    ChangeRecord, CursorRecord, DedupRecord, LogRecord, MediaRecord, MediaScanRecord, MessageChange, Opening,
    OutboxRecord, ParkedSend, PushJobRecord, PushRecord, Reached, Record, RecordError, StoreIdentity,
};
use hearth_protocol::{
    Change, EntryKind, Epoch, Header, JoinRequest, Level, LossStatement, Placement, SealedEntry, Timestamp,
};

use crate::sample::{check, conversation, device, hex, log, message, of_before, position, region, time, user, uuid};

const SALT: [u8; 16] = [5; 16];

fn entry(kind: EntryKind, content: Option<&[u8]>) -> Entry {
    let digest = content_digest(&SALT, content.unwrap_or_default());
    let fixed = Fixed {
        position: position(),
        kind,
        sender: user("ann"),
        id: message().0,
        time: time(),
        level: Level::TwoRegions,
        digest,
        previous: [7; 32],
        origin: region("us-east"),
        reply_to: Some(uuid(4)),
        target: Some(uuid(5)),
        expires_at: Some(time()),
        original_time: Some(time()),
    };
    let content = content.map(|content| (Bytes::copy_from_slice(&SALT), Bytes::copy_from_slice(content)));
    Entry { fixed, content }
}

/// As version 1 stored it.
fn placement() -> Placement {
    Placement {
        log: log(),
        home: region("eu-west"),
        epoch: Epoch(2),
        voters: vec![region("eu-west"), region("us-east"), region("ap-south")],
        durability: Level::Majority,
        partition_mode: PartitionMode::Park,
        allowed_regions: Some(vec![region("eu-west")]),
        generation: 0,
        first: 0,
        previous: [0; 32],
        loss: None,
    }
}

fn opened_placement() -> Placement {
    let loss =
        LossStatement { epoch: Epoch(1), from: 90, covered_copies: 2, lost_home: region("us-east"), made_at: time() };
    Placement { generation: 17, first: 100, previous: [9; 32], loss: Some(loss), ..placement() }
}

fn changes() -> Vec<(&'static str, Change)> {
    let members = |action| Change::Members { action, users: vec![user("ann"), user("bob")] };
    let settings =
        SettingsChange { only_admins_can_post: Some(true), allow_member_invites: Some(false), retention_days: Some(7) };
    vec![
        ("members-add-admin", members(MemberAction::Add(Role::Admin))),
        ("members-add-member", members(MemberAction::Add(Role::Member))),
        ("members-remove", members(MemberAction::Remove)),
        ("members-leave", members(MemberAction::Leave)),
        ("members-role", members(MemberAction::Role(Role::Admin))),
        ("name", Change::Name("Tea".to_owned())),
        ("durability", Change::Durability(Level::Majority)),
        ("joined", Change::Joined { conversation: conversation(), position: position() }),
        ("removed", Change::Removed { conversation: conversation(), position: position() }),
        ("resident", Change::Resident { region: region("eu-west"), at: time() }),
        ("left", Change::Left { region: region("eu-west"), last_connect: time() }),
        ("profile", Change::Profile { display_name: Some(Some("Ann".to_owned())), avatar_url: Some(None) }),
        ("profile-nothing", Change::Profile { display_name: None, avatar_url: None }),
        ("place-2", Change::Place { replaces: Some(Epoch(1)), placement: opened_placement() }),
        ("place-2-first", Change::Place { replaces: None, placement: placement() }),
        ("partition-mode-park", Change::PartitionMode(PartitionMode::Park)),
        ("partition-mode-read-only", Change::PartitionMode(PartitionMode::ReadOnly)),
        ("partition-mode-fail", Change::PartitionMode(PartitionMode::Fail)),
        ("settings", Change::Settings(settings)),
        ("settings-nothing", Change::Settings(SettingsChange::default())),
        ("edit", Change::Edit { target: 299, content: r#"{"type":"text","text":"better"}"#.to_owned() }),
        ("delete", Change::Delete { target: 299 }),
        ("reaction-added", Change::Reaction { target: 299, emoji: "👍".to_owned(), added: true }),
        ("reaction-removed", Change::Reaction { target: 299, emoji: "👍".to_owned(), added: false }),
        ("forget-user", Change::Forget(Forget::User(user("ann")))),
        ("forget-below", Change::Forget(below())),
        ("privacy-last-seen", Change::Privacy(Privacy::ShowLastSeen(false))),
        ("privacy-block", Change::Privacy(Privacy::Block { user: user("bob"), blocked: true })),
        ("privacy-blocked-by", Change::Privacy(Privacy::BlockedBy { user: user("bob"), blocked: false })),
        ("subscribed-web-push", Change::Subscribed(subscription(browser()))),
        ("subscribed-apns", Change::Subscribed(subscription(Target::Apns { device_token: "ab".repeat(32) }))),
        ("subscribed-fcm", Change::Subscribed(subscription(Target::Fcm { registration: "token".to_owned() }))),
        ("unsubscribed", Change::Unsubscribed { id: uuid(9), registered_until: time() }),
        ("preferred", preferred(Some(Some(time())), Some(PushPolicy::Mentions))),
        ("preferred-unmuted", preferred(Some(None), Some(PushPolicy::None))),
        ("preferred-nothing", preferred(None, None)),
    ]
}

fn below() -> Forget {
    Forget::Below { from: 7, floor: 299, before: time(), previous: [6; 32] }
}

fn browser() -> Target {
    Target::WebPush {
        endpoint: "https://push.example/x".to_owned(),
        p256dh: Bytes::from_static(&[4; 65]),
        auth: Bytes::from_static(&[7; 16]),
    }
}

fn subscription(target: Target) -> Subscription {
    Subscription { id: uuid(9), device: device(), registered_at: time(), target }
}

fn preferred(muted_until: Option<Option<Timestamp>>, policy: Option<PushPolicy>) -> Change {
    Change::Preferred { conversation: conversation(), muted_until, policy }
}

fn headers() -> Vec<(&'static str, Header)> {
    let settings = Settings {
        only_admins_can_post: true,
        allow_member_invites: false,
        history_for_new_members: HistoryForNewMembers::None,
        retention_days: 30,
    };
    let conversation = |kind| Header::Conversation {
        kind,
        name: Some("Tea".to_owned()),
        settings: settings.clone(),
        members: vec![(user("ann"), Role::Admin), (user("bob"), Role::Member)],
    };
    vec![
        ("direct", conversation(ConversationKind::Direct)),
        ("group", conversation(ConversationKind::Group)),
        ("channel", conversation(ConversationKind::Channel)),
        ("user", Header::User { user: user("ann") }),
        ("placement", Header::Placement),
    ]
}

#[test]
fn every_kind_of_entry_has_its_golden_bytes_and_reads_back() {
    let kinds = [
        ("header", EntryKind::Header),
        ("message", EntryKind::Message),
        ("edit", EntryKind::Edit),
        ("delete", EntryKind::Delete),
        ("reaction", EntryKind::Reaction),
        ("member", EntryKind::Member),
        ("system", EntryKind::System),
        ("user", EntryKind::User),
        ("placement", EntryKind::Placement),
    ];
    let mut entries: Vec<_> =
        kinds.iter().map(|(name, kind)| (*name, entry(*kind, Some(br#"{"type":"text"}"#)))).collect();
    entries.push(("message-content-removed", entry(EntryKind::Message, None)));
    let mut values = Vec::new();
    for (name, entry) in entries {
        let sealed = SealedEntry::seal(entry);
        assert_eq!(sealed.encoded[0], 1, "the version byte comes first");
        assert_eq!(SealedEntry::decode(sealed.encoded.clone()).as_ref(), Ok(&sealed), "{name}");
        values.push((name, format!("{} {}", hex(&sealed.encoded), hex(&sealed.hash))));
    }
    check("entries.txt", &values);
}

#[test]
fn every_change_and_header_has_its_golden_bytes_and_reads_back() {
    let mut values = Vec::new();
    for (name, change) in changes() {
        let bytes = change.encode();
        let version = if matches!(change, Change::Place { .. }) { 2 } else { 1 };
        assert_eq!((bytes[0], Change::decode(&bytes)), (version, Some(change)), "{name}");
        values.push((name, hex(&bytes)));
    }
    for (name, replaces) in [("place", Some(Epoch(1))), ("place-first", None)] {
        let (bytes, value) = of_before("changes.txt", name);
        assert_eq!(Change::decode(&bytes), Some(Change::Place { replaces, placement: placement() }), "{name}");
        values.push((name, value));
    }
    values.push(("members-add-shared", shared_joins()));
    check("changes.txt", &values);
    let mut values = Vec::new();
    for (name, header) in headers() {
        let bytes = header.encode();
        assert_eq!((bytes[0], Header::decode(&bytes)), (1, Some(header)), "{name}");
        values.push((name, hex(&bytes)));
    }
    check("headers.txt", &values);
}

/// Requests that share an entry: the change alone reads back for who knows nothing of them.
fn shared_joins() -> String {
    let request =
        |last, names: &[&str]| JoinRequest { id: uuid(last), users: names.iter().copied().map(user).collect() };
    let requests = [request(2, &["ann", "bob"]), request(9, &["cem"])];
    let bytes = encode_joins(&requests);
    let users = ["ann", "bob", "cem"].map(user).to_vec();
    let change = Change::Members { action: MemberAction::Add(Role::Member), users };
    assert_eq!(Change::decode(&bytes).as_ref(), Some(&change));
    assert_eq!(decode_joins(&bytes), requests);
    assert_eq!(decode_joins(&change.encode()), vec![], "as one request it is what it was before there were several");
    assert_eq!(
        encode_joins(&[JoinRequest { id: uuid(2), users: ["ann", "bob", "cem"].map(user).to_vec() }]),
        change.encode()
    );
    let sealed = SealedEntry::seal(entry(EntryKind::Member, Some(&bytes)));
    assert_eq!(sealed.ids().collect::<Vec<_>>(), [uuid(2), uuid(9)]);
    hex(&bytes)
}

/// The golden value of a record; it reads back, and not under another version byte or none.
fn golden<T: Record + PartialEq + std::fmt::Debug>(record: &T) -> String {
    assert_eq!(record.encode()[0], T::VERSION);
    golden_of_any(record)
}

/// The same of a record that may be written as an older version still.
fn golden_of_any<T: Record + PartialEq + std::fmt::Debug>(record: &T) -> String {
    let mut bytes = record.encode();
    assert_eq!(&T::decode(&bytes).expect("it reads back"), record);
    let value = hex(&bytes);
    bytes[0] = T::VERSION + 1;
    assert_eq!(T::decode(&bytes).expect_err("of another version"), RecordError::Version(Some(T::VERSION + 1)));
    assert_eq!(T::decode(&[]).expect_err("no version"), RecordError::Version(None));
    value
}

fn log_record() -> LogRecord {
    LogRecord {
        home: region("eu-west"),
        voters: vec![region("eu-west"), region("us-east")],
        accepted: Epoch(2),
        sealed: Epoch(3),
        openings: vec![
            Opening { epoch: Epoch(1), first: 0, previous: [0; 32], loss: false },
            Opening { epoch: Epoch(2), first: 100, previous: [9; 32], loss: true },
        ],
        floor: 1,
        published: 299,
        open_ranges: vec![(150, 200)],
        incarnation: 3,
    }
}

fn parked_send() -> ParkedSend {
    ParkedSend {
        number: 12,
        conversation: conversation(),
        sender: user("ann"),
        device: device(),
        id: message(),
        content: Bytes::from_static(br#"{"type":"text","text":"hello"}"#),
        reply_to: Some(uuid(4)),
        expires_at: Some(time()),
        level: Some(Level::Majority),
        parked_at: time(),
        refused: None,
        kind: EntryKind::Message,
        target: None,
        joined: Some(7),
    }
}

fn push_record() -> PushRecord {
    PushRecord { epoch: Epoch(2), decided: Some(position()), shown: vec![(position(), true)] }
}

fn push_job(notify: Option<(u32, bool, Option<Timestamp>)>) -> PushJobRecord {
    PushJobRecord {
        user: user("bob"),
        subscription: uuid(9),
        conversation: conversation(),
        position: position(),
        notify,
        not_after: time(),
    }
}

fn media_record() -> MediaRecord {
    MediaRecord {
        uploader: user("ann"),
        content_type: "image/png".to_owned(),
        size: 5_000,
        created_at: time(),
        upload_until: time(),
        stored: true,
        uses: vec![position()],
        rewound: false,
        carriers: Vec::new(),
        apart: Vec::new(),
    }
}

#[test]
fn every_other_record_has_its_golden_bytes_and_reads_back_under_its_version_alone() {
    let dedup = DedupRecord {
        position: position(),
        time: time(),
        digest: [6; 32],
        reply_to: Some(uuid(4)),
        level: Level::TwoRegions,
    };
    let refused = ParkedSend { refused: Some(("EXPIRED".to_owned(), "too old".to_owned())), ..parked_send() };
    let outbox = OutboxRecord { log: log(), position: position(), user: user("bob"), joined: true };
    let identity = StoreIdentity { store: uuid(8), region: region("eu-west"), incarnation: 4 };
    let reached = |epoch, up_to| Reached { epoch: Epoch(epoch), up_to, at: time() };
    let (delivered, read) = (vec![reached(1, 99), reached(2, 300)], vec![reached(2, 200)]);
    let cursor = CursorRecord { log: log(), user: user("bob"), delivered, read };
    let edit = Change::Edit { target: 0, content: r#"{"type":"text","text":"better"}"#.to_owned() };
    let parked_edit =
        ParkedSend { content: edit.encode(), kind: EntryKind::Edit, target: Some(uuid(5)), ..parked_send() };
    let change = |what| ChangeRecord { target: 299, position: position(), sender: user("ann"), time: time(), what };
    assert_eq!((parked_send().encode()[0], parked_edit.encode()[0]), (2, 3), "a message parks as it always did");
    let (before, placement_before) = of_before("records.txt", "placement");
    assert_eq!(Placement::decode(&before).expect("version 1 reads"), placement());
    let (before, log_before) = of_before("records.txt", "log");
    let of_first = LogRecord { incarnation: 1, ..log_record() };
    assert_eq!(LogRecord::decode(&before).expect("version 1 reads"), of_first);
    let (before, parked_before) = of_before("records.txt", "parked");
    let without = ParkedSend { joined: None, ..parked_send() };
    assert_eq!(ParkedSend::decode(&before).expect("version 1 reads"), without);
    let (before, refused_before) = of_before("records.txt", "parked-refused");
    let refused_without = ParkedSend { joined: None, ..refused.clone() };
    assert_eq!(ParkedSend::decode(&before).expect("version 1 reads"), refused_without);
    let media_with_ids = MediaRecord { carriers: vec![uuid(5)], apart: vec![uuid(4)], ..media_record() };
    let values = [
        ("log", log_before),
        ("log-2", golden(&log_record())),
        ("dedup", golden(&dedup)),
        ("parked", parked_before),
        ("parked-refused", refused_before),
        ("parked-2", golden_of_any(&parked_send())),
        ("parked-refused-2", golden_of_any(&refused)),
        ("parked-3-edit", golden(&parked_edit)),
        ("change-edited", golden(&change(MessageChange::Edited))),
        ("change-deleted", golden(&change(MessageChange::Deleted))),
        ("change-reacted", golden(&change(MessageChange::Reacted { emoji: "👍".to_owned(), added: true }))),
        ("change-forgotten", golden(&change(MessageChange::Forgotten(Forget::User(user("ann")))))),
        ("change-forgotten-below", golden(&change(MessageChange::Forgotten(below())))),
        ("outbox", golden(&outbox)),
        ("store-identity", golden(&identity)),
        ("placement", placement_before),
        ("placement-2", golden(&opened_placement())),
        ("cursor", golden(&cursor)),
        ("push", golden(&push_record())),
        ("push-job", golden(&push_job(Some((3, true, Some(time())))))),
        ("push-job-clear", golden(&push_job(None))),
        ("media", golden_of_any(&media_record())),
        ("media-2", golden(&media_with_ids)),
        ("media-scan", golden(&MediaScanRecord { scanned: Some(position()) })),
    ];
    check("records.txt", &values);
}

#[test]
fn entries_changes_and_headers_of_another_version_are_refused() {
    let sealed = SealedEntry::seal(entry(EntryKind::Message, Some(b"{}")));
    let mut bytes = sealed.encoded.to_vec();
    bytes[0] = 2;
    assert_eq!(SealedEntry::decode(bytes.into()).expect_err("another version"), EntryError::Version(2));
    let mut change = Change::Name("Tea".to_owned()).encode().to_vec();
    change[0] = 3;
    assert_eq!((Change::decode(&change), Header::decode(&[3, 2])), (None, None));
}

#[test]
fn content_that_is_not_what_the_digest_names_is_refused() {
    let sealed = SealedEntry::seal(entry(EntryKind::Message, Some(b"{}")));
    let mut bytes = sealed.encoded.to_vec();
    *bytes.last_mut().expect("content") ^= 1;
    assert_eq!(SealedEntry::decode(bytes.into()).expect_err("forged"), EntryError::Digest);
}
