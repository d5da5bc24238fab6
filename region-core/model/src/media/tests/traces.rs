//! What a log says of media, and to whom.

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::entry::{ConversationKind, Role};
use hearth_protocol::{EntryKind, ErrorCode, Header, Level, LogId, Placement, Position, RegionId, SealedEntry, UserId};

use super::super::{LookThrough, Looked, MediaKnown, Shown, ShownStep, TraceQuestion};
use super::{at, conversation, entry, media};
use crate::LogView;
use crate::seen::{Seen, seen};
use crate::view::default_settings;

fn carrying(position: Position) -> Arc<SealedEntry> {
    let content = serde_json::json!({ "mediaUrl": media().url(conversation(), None) }).to_string();
    entry(EntryKind::Message, position, Bytes::from(content), None)
}

/// A line of these epochs, from number 1 on; every entry carries the media.
fn line(epochs: &[u64]) -> Vec<Arc<SealedEntry>> {
    (1..).zip(epochs).map(|(number, epoch)| carrying(at(*epoch, number))).collect()
}

fn looked(line: &[Arc<SealedEntry>], scanned: Option<Position>) -> Looked {
    let view = LogView { marked: line.len() as u64 + 1, floor: 1, ..LogView::default() };
    let of = |number: u64| line.get(usize::try_from(number).unwrap().wrapping_sub(1));
    let there = scanned.and_then(|scanned| of(scanned.sequence.0));
    let region = media().region;
    let mut look = LookThrough::new(&view, (conversation(), &region), scanned, there.map(AsRef::as_ref)).unwrap();
    while let Some((from, _, _)) = look.reads() {
        // A page of the store may be short.
        let page: Vec<_> = (from..from + 2).filter_map(of).cloned().collect();
        assert!(look.take(&page));
    }
    look.found()
}

#[test]
fn a_look_goes_on_behind_what_was_seen_and_begins_anew_where_a_failover_changed_the_line() {
    let found = |line: &[Arc<SealedEntry>], scanned| {
        let looked = looked(line, scanned);
        assert_eq!(looked.references.len(), looked.carriers.len());
        (looked.references.iter().map(|(position, _)| position.sequence.0).collect::<Vec<_>>(), looked.scanned)
    };
    let first = line(&[1, 1, 1, 1, 1]);
    assert_eq!(found(&first, None), (vec![1, 2, 3, 4, 5], Some(at(1, 5))));
    assert_eq!(found(&first, Some(at(1, 3))), (vec![4, 5], Some(at(1, 5))));
    assert_eq!(found(&first, Some(at(1, 5))), (vec![], Some(at(1, 5))));
    let second = line(&[1, 1, 2, 2, 2, 2]);
    assert_eq!(found(&second, Some(at(1, 2))), (vec![3, 4, 5, 6], Some(at(2, 6))));
    assert_eq!(found(&second, Some(at(1, 5))), (vec![1, 2, 3, 4, 5, 6], Some(at(2, 6))));
    assert_eq!(found(&second[..3], Some(at(1, 5))), (vec![1, 2, 3], Some(at(2, 3))), "it is shorter now");
    assert_eq!(found(&[], None), (vec![], None));
}

#[test]
fn what_a_home_has_above_its_mark_is_told_to_nobody_and_keeps_media_all_the_same() {
    let region = media().region;
    let voters = vec![region.clone()];
    let placement = Placement::first(LogId::conversation(conversation()), region.clone(), voters, Level::Majority);
    let line = line(&[1, 1, 1]);
    let looked = |marked: u64, length: u64| {
        let placement = Some(placement.clone());
        let view = LogView { marked, length, floor: 1, held: true, placement, ..LogView::default() };
        let scanned = at(1, marked - 1);
        let there = line.get(usize::try_from(marked).unwrap() - 2);
        let look = LookThrough::new(&view, (conversation(), &region), Some(scanned), there.map(AsRef::as_ref));
        let mut look = look.unwrap().judging(&view);
        while let Some((from, to, _)) = look.reads() {
            let page: Vec<_> = (from..to).map(|number| line[usize::try_from(number).unwrap() - 1].clone()).collect();
            assert!(look.take(&page));
        }
        let looked = look.found();
        assert_eq!((looked.references.len(), looked.scanned), (0, Some(scanned)));
        TraceQuestion::answer(&region, &view, Vec::new(), looked, 1).is_whole()
    };
    assert!(looked(4, 4), "all of it is shown");
    assert!(!looked(3, 4), "the last one may have been acked");
    assert!(!looked(2, 4));
}

#[test]
fn rows_that_are_missing_are_not_looked_through_and_answer_no_question() {
    let view = LogView { marked: 9, floor: 1, held: true, open: Some((3, 5)), ..LogView::default() };
    let region = media().region;
    let look = |scanned: Option<Position>, there: Option<Arc<SealedEntry>>| {
        LookThrough::new(&view, (conversation(), &region), scanned, there.as_deref()).is_some()
    };
    assert!(!look(None, None));
    assert!(look(Some(at(1, 6)), Some(carrying(at(1, 6)))));
    let question = |uses| TraceQuestion { region: region.clone(), scanned: Some(at(1, 6)), uses, judges: false };
    assert!(question(Vec::new()).is_answered_at(&region, &view));
    assert!(!question(vec![at(1, 2)]).is_answered_at(&region, &view));
}

#[test]
fn media_go_by_the_word_of_the_home_alone_which_has_the_right_to_number() {
    let [home, other] = ["eu", "us"].map(|name| RegionId::new(name).unwrap());
    let voters = vec![home.clone(), other.clone()];
    let placement = Placement::first(LogId::conversation(conversation()), home.clone(), voters, Level::Region);
    let view = LogView { marked: 9, floor: 1, held: true, placement: Some(placement), ..LogView::default() };
    let question = |judges| TraceQuestion { region: other.clone(), scanned: None, uses: Vec::new(), judges };
    assert!(question(true).is_answered_at(&home, &view));
    assert!(!question(true).is_answered_at(&other, &view), "it may not have heard of everything yet");
    assert!(question(false).is_answered_at(&other, &view));
    let current =
        |region, view: &LogView| TraceQuestion::answer(region, view, Vec::new(), Looked::default(), 1).current;
    assert!(current(&home, &view) && !current(&other, &view));
    let without_right = LogView { home_out_of_reach: true, ..view };
    assert!(!question(true).is_answered_at(&home, &without_right) && !current(&home, &without_right));
}

/// What a reader is told of media that these numbers carry, where it sees `from` to `to`, and `shows` what those rows show.
fn told(
    known: &MediaKnown,
    user: &str,
    (from, to): (u64, u64),
    looks: &[Looked],
    shows: impl Fn(u64) -> bool,
) -> Result<(), ErrorCode> {
    let kind = ConversationKind::Group;
    let members = vec![(UserId::new(user).unwrap(), Role::Member)];
    let header = Header::Conversation { kind, name: None, settings: default_settings(kind), members };
    let mut view = LogView { held: true, ..LogView::default() };
    view.view.fold(&entry(EntryKind::Header, at(1, 0), header.encode(), None));
    let seen = Seen { from, to, ..seen(&view, &UserId::new(user).unwrap()).unwrap() };
    let mut shown = Shown::new(conversation(), &media(), known, &UserId::new(user).unwrap(), &seen);
    let mut looks = looks.iter();
    loop {
        match shown.step() {
            ShownStep::Look(_) => shown.looked(looks.next().expect("as many looks as it may take")),
            ShownStep::Row(number) => {
                let content = carrying(at(1, number)).content().unwrap().clone();
                shown.read(number, shows(number).then_some(&content));
            }
            ShownStep::Known(known) => return known.map_err(|refusal| refusal.error),
        }
    }
}

#[test]
fn media_are_for_whoever_is_shown_a_row_with_them_and_before_that_for_who_put_them() {
    let known = |uses: &[u64]| {
        let uses = uses.iter().map(|number| at(1, *number)).collect();
        MediaKnown { uploader: UserId::new("ann").unwrap(), uses, scanned: Some(at(1, 9)) }
    };
    let nothing = [Looked::default()];
    let found = [Looked { references: vec![(at(1, 12), media().id)], ..Looked::default() }];
    let refused = Err(ErrorCode::NotFound);
    assert_eq!(told(&known(&[3, 7]), "bob", (1, 20), &nothing, |number| number == 3), Ok(()));
    assert_eq!(told(&known(&[3, 7]), "bob", (4, 20), &nothing, |number| number == 3), refused, "it joined later");
    assert_eq!(told(&known(&[3, 7]), "ann", (1, 20), &nothing, |_| false), refused, "it is shown no more");
    assert_eq!(told(&known(&[]), "bob", (1, 20), &found, |number| number == 12), Ok(()));
    assert_eq!(told(&known(&[]), "bob", (1, 12), &found, |_| true), refused, "it is not marked there");
    assert_eq!(told(&known(&[]), "ann", (1, 20), &nothing, |_| false), Ok(()));
    assert_eq!(told(&known(&[]), "bob", (1, 20), &nothing, |_| true), refused);
    let more: Vec<_> = (0..4).map(|_| Looked { more: true, ..Looked::default() }).collect();
    assert_eq!(told(&known(&[]), "ann", (1, 20), &more, |_| false), Err(ErrorCode::Overloaded), "to come again");
    assert_eq!(told(&known(&[3]), "bob", (1, 20), &more, |_| true), Ok(()));
}
