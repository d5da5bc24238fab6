use bytes::Bytes;
use hearth_protocol::entry::{Entry, Fixed, content_digest};
use hearth_protocol::{Epoch, Level, RegionId, Sequence, UserId};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

mod sweeps;
mod traces;

const KEPT_FOR: u64 = 10_000;

fn rules() -> MediaRules {
    MediaRules {
        item_bytes: 1_000,
        content_types: vec!["image/png".to_owned(), "text/plain".to_owned()],
        kept_bytes: 5_000,
        kept_items: 4,
        unused_of_user: 2,
        unused_for: 1_000,
        upload_for: 100,
        upload_lasts: UPLOAD_LASTS,
        link_for: 50,
    }
}

fn conversation() -> ConversationId {
    ConversationId(Uuid::from_u128(1))
}

fn media() -> MediaId {
    MediaId { region: RegionId::new("eu-west").unwrap(), id: Uuid::from_u128(7) }
}

fn at(epoch: u64, sequence: u64) -> Position {
    Position { epoch: Epoch(epoch), sequence: Sequence(sequence) }
}

fn record() -> MediaRecord {
    MediaRecord {
        uploader: UserId::new("ann").unwrap(),
        content_type: "image/png".to_owned(),
        size: 10,
        created_at: Timestamp(0),
        upload_until: Timestamp(100),
        stored: true,
        uses: Vec::new(),
        rewound: false,
        carriers: Vec::new(),
        apart: Vec::new(),
    }
}

fn entry(
    kind: EntryKind,
    position: Position,
    content: Bytes,
    expires_at: Option<Timestamp>,
) -> std::sync::Arc<SealedEntry> {
    let salt = Bytes::from_static(&[5; 16]);
    let fixed = Fixed {
        position,
        kind,
        sender: UserId::new("ann").unwrap(),
        id: Uuid::from_u128(9),
        time: Timestamp(1),
        level: Level::Region,
        digest: content_digest(&salt, &content),
        previous: [0; 32],
        origin: RegionId::new("eu-west").unwrap(),
        reply_to: None,
        target: None,
        expires_at,
        original_time: None,
    };
    SealedEntry::seal(Entry { fixed, content: Some((salt, content)) })
}

fn create(content_type: &str, size: u64) -> CreateMedia {
    CreateMedia { conversation_id: conversation(), content_type: content_type.to_owned(), size, name: None }
}

#[test]
fn what_is_too_large_or_of_a_type_that_is_not_allowed_is_refused_with_the_limit() {
    let refused = |content_type, size| rules().check(&create(content_type, size)).map_err(|it| (it.error, it.limit));
    assert_eq!(refused("image/png", 1_000), Ok(()));
    assert_eq!(refused("image/png", 1_001), Err((ErrorCode::TooLarge, Some("1000 bytes of media".into()))));
    assert_eq!(refused("text/html", 1), Err((ErrorCode::InvalidMessage, Some("image/png, text/plain".into()))));
}

#[test]
fn a_region_that_is_full_and_a_user_who_uses_nothing_are_refused_and_told_when_to_come_again() {
    let refused = |size, room: Room| rules().check_room(size, room).map_err(|it| (it.error, it.retry_after.is_some()));
    let room = Room { bytes: 4_000, items: 3, unused_of_user: 1 };
    assert_eq!(refused(1_000, room), Ok(()));
    assert_eq!(refused(1_001, room), Err((ErrorCode::Overloaded, true)));
    assert_eq!(refused(1, Room { items: 4, ..room }), Err((ErrorCode::Overloaded, true)));
    assert_eq!(refused(1, Room { unused_of_user: 2, ..room }), Err((ErrorCode::RateLimited, true)));
    assert_eq!(refused(u64::MAX, room), Err((ErrorCode::Overloaded, true)), "and nothing overflows");
}

#[test]
fn an_entry_carries_the_media_that_its_message_or_edit_names_and_no_other_entry_does() {
    let url = media().url(conversation(), Some("cat.png"));
    let content = serde_json::json!({ "type": "image", "mediaUrl": url, "metadata": { "a": 1 } }).to_string();
    let of = |kind, content: &Bytes| carried_by(&entry(kind, at(1, 1), content.clone(), None), conversation());
    let message = Bytes::from(content.clone());
    assert_eq!(of(EntryKind::Message, &message), Some(media()));
    let edit = Change::Edit { target: 1, content: content.clone() }.encode();
    assert_eq!(of(EntryKind::Edit, &edit), Some(media()));
    assert_eq!(of(EntryKind::System, &message), None);
    let escaped = Bytes::from(content.replace("/media/", "\\/media\\/"));
    assert_eq!(of(EntryKind::Message, &escaped), Some(media()), "however the JSON is written");
    for other in [r#"{"type":"text","text":"mediaUrl"}"#, r#"{"mediaUrl":5}"#, r#"{"mediaUrl":null}"#, "no json"] {
        assert_eq!(of(EntryKind::Message, &Bytes::from(other)), None, "{other}");
    }
    let sealed = entry(EntryKind::Message, at(1, 1), message, None);
    assert_eq!(carried_by(&sealed.without_content(), conversation()), None);
    assert_eq!(carried_by(&sealed, ConversationId(Uuid::from_u128(2))), None, "of another conversation");
}

#[test]
fn an_entry_stands_until_its_content_goes_its_time_is_over_the_floor_passes_it_or_the_line_has_another() {
    let (content, floor, now) = (Bytes::from_static(b"{}"), 1, Timestamp(100));
    let kept = entry(EntryKind::Message, at(2, 5), content.clone(), None);
    let of = |entry: Option<&SealedEntry>, floor| Standing::of(at(2, 5), entry, floor, now);
    assert_eq!(of(Some(&kept), floor), Standing::Stands);
    assert_eq!(of(Some(&kept.without_content()), floor), Standing::Gone);
    assert_eq!(of(Some(&kept), 6), Standing::Gone);
    assert_eq!(of(None, 6), Standing::Gone, "below the floor nothing comes back");
    assert_eq!(of(None, floor), Standing::Rewound);
    assert_eq!(of(Some(&entry(EntryKind::Message, at(3, 5), content.clone(), None)), floor), Standing::Rewound);
    let of_time = |time| entry(EntryKind::Message, at(2, 5), content.clone(), Some(Timestamp(time)));
    assert_eq!(of(Some(&of_time(101)), floor), Standing::Stands);
    assert_eq!(of(Some(&of_time(100)), floor), Standing::Gone);
}

#[test]
fn bytes_that_came_are_noted_others_go_and_what_does_not_come_is_given_up_once_nothing_can_be_under_way() {
    let pending = MediaRecord { stored: false, ..record() };
    let of = |size, content_type: Option<&str>| {
        let stored = StoredMedia { size, content_type: content_type.map(str::to_owned) };
        let mut record = pending.clone();
        (arrived(&mut record, Some(&stored), Timestamp(50), &rules()), record.stored)
    };
    assert_eq!(of(10, None), (Fate::Stays, true));
    assert_eq!(of(10, Some("image/png")), (Fate::Stays, true));
    assert_eq!(of(11, Some("image/png")), (Fate::Goes, false));
    assert_eq!(of(10, Some("text/html")), (Fate::Goes, false));
    let nothing = |now| arrived(&mut pending.clone(), None, Timestamp(now), &rules());
    assert_eq!(nothing(99 + 2 * UPLOAD_LASTS), Fate::Stays);
    assert_eq!(nothing(100 + 2 * UPLOAD_LASTS), Fate::Goes);
    let unused = |now| follow(&mut pending.clone(), &[], KEPT_FOR, Timestamp(now), &rules());
    assert_eq!((unused(99 + 2 * UPLOAD_LASTS), unused(100 + 2 * UPLOAD_LASTS)), (Fate::Stays, Fate::Goes));
}

#[test]
fn what_came_back_counts_as_before_and_what_did_not_keeps_media_whatever_else_carried_them() {
    let (came_back, other) = (Some(Uuid::from_u128(1)), Some(Uuid::from_u128(2)));
    let fate = |record: &mut MediaRecord, standings: &[Standing]| {
        follow(record, standings, KEPT_FOR, Timestamp(KEPT_FOR - 1), &rules())
    };
    // A sweep sees at once that it was put apart and that it is back, and it is deleted.
    let mut record = record();
    used_by(&mut record, at(1, 5), came_back);
    used_by(&mut record, at(2, 9), came_back);
    assert_eq!(fate(&mut record, &[Standing::Rewound, Standing::Stands]), Fate::Stays);
    assert_eq!(fate(&mut record, &[Standing::Gone]), Fate::Goes);
    // One is put apart, and another one comes and goes.
    let mut record = MediaRecord { uses: Vec::new(), ..self::record() };
    used_by(&mut record, at(1, 5), came_back);
    assert_eq!(fate(&mut record, &[Standing::Rewound]), Fate::Stays);
    used_by(&mut record, at(2, 6), other);
    assert_eq!(fate(&mut record, &[Standing::Gone]), Fate::Stays, "it may come back");
    used_by(&mut record, at(2, 9), came_back);
    assert_eq!(fate(&mut record, &[Standing::Gone]), Fate::Goes);
}

#[test]
fn of_records_that_know_no_ids_what_was_put_apart_keeps_media_until_something_else_is_seen() {
    let mut record = MediaRecord { uses: vec![at(1, 5)], ..record() };
    let now = Timestamp(KEPT_FOR - 1);
    assert_eq!(follow(&mut record, &[Standing::Rewound], KEPT_FOR, now, &rules()), Fate::Stays);
    assert!(record.rewound && record.apart.is_empty());
    used_by(&mut record, at(2, 6), None);
    assert_eq!(follow(&mut record, &[Standing::Gone], KEPT_FOR, now, &rules()), Fate::Goes);
}

/// What happens to media between two sweeps.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Another entry carries them.
    Used,
    /// The content of this entry goes: the number counts those that carry them.
    ContentGoes(usize),
    /// A failover puts this entry apart.
    PutApart(usize),
    /// What was put apart comes back, by another number.
    ComesBack,
    Time(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Used),
        3 => (0usize..4).prop_map(Event::ContentGoes),
        1 => (0usize..4).prop_map(Event::PutApart),
        1 => Just(Event::ComesBack),
        2 => (0u64..3_000).prop_map(Event::Time),
    ]
}

proptest! {
    /// Against a list of what became of each entry that ever carried the media: they stay while one shows them or may
    /// come back, and go with the first sweep after the last one.
    #[test]
    fn media_stay_as_long_as_something_shows_them_or_may_again_and_go_with_the_next_sweep(
        events in proptest::collection::vec(event(), 1..40),
    ) {
        let (mut record, mut line, mut now, mut next) = (record(), Vec::<(Position, Standing, Uuid)>::new(), 0, 1);
        for event in events {
            let standing = |line: &[(Position, Standing, Uuid)], of| {
                let found: Vec<usize> = (0..line.len()).filter(|at| line[*at].1 == of).collect();
                found
            };
            let mut appear = |line: &mut Vec<_>, record: &mut MediaRecord, id: Option<Uuid>| {
                let (position, id) = (at(1, next), id.unwrap_or(Uuid::from_u128(u128::from(next))));
                next += 1;
                line.push((position, Standing::Stands, id));
                used_by(record, position, Some(id));
            };
            match event {
                Event::Used => appear(&mut line, &mut record, None),
                Event::ContentGoes(which) => {
                    if let Some(found) = standing(&line, Standing::Stands).get(which) {
                        line[*found].1 = Standing::Gone;
                    }
                }
                Event::PutApart(which) => {
                    if let Some(found) = standing(&line, Standing::Stands).get(which) {
                        line[*found].1 = Standing::Rewound;
                    }
                }
                Event::ComesBack => {
                    // The record may not have heard that it was gone.
                    if let Some(found) = standing(&line, Standing::Rewound).first().copied() {
                        let (_, _, id) = line.remove(found);
                        appear(&mut line, &mut record, Some(id));
                    }
                }
                Event::Time(passes) => now += passes,
            }
            let of = |position: &Position| line.iter().find(|(at, ..)| at == position).map_or(Standing::Rewound, |it| it.1);
            let standings: Vec<Standing> = record.uses.iter().map(of).collect();
            let fate = follow(&mut record, &standings, KEPT_FOR, Timestamp(now), &rules());
            let stands = line.iter().any(|(_, standing, _)| *standing == Standing::Stands);
            let apart = line.iter().any(|(_, standing, _)| *standing == Standing::Rewound);
            if stands {
                prop_assert_eq!(fate, Fate::Stays);
            } else if !apart && line.is_empty() {
                prop_assert_eq!(fate == Fate::Goes, now >= rules().unused_for);
            } else if now >= KEPT_FOR {
                prop_assert_eq!(fate, Fate::Goes);
            } else {
                prop_assert_eq!(fate == Fate::Goes, !apart);
            }
            if fate == Fate::Goes {
                return Ok(());
            }
        }
    }

    #[test]
    fn a_use_is_noted_once_and_of_many_so_many(sequences in proptest::collection::vec(1u64..200, 0..300)) {
        let mut record = record();
        for sequence in &sequences {
            let known = record.uses.contains(&at(1, *sequence));
            let full = record.uses.len() == USES;
            prop_assert_eq!(used_by(&mut record, at(1, *sequence), None), !known && !full);
        }
        let mut distinct = record.uses.clone();
        distinct.sort_unstable();
        distinct.dedup();
        prop_assert_eq!(distinct.len(), record.uses.len());
        prop_assert!(record.uses.len() <= USES);
    }
}
