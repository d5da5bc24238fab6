//! Places in the change feed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hearth_protocol::ConversationId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A place in the change feed. Numbers of changes are those of one store: a cursor of another region's store cannot be
/// placed here, and gives everything from the start, which a client takes in again without harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FeedCursor {
    pub(crate) store: Uuid,
    pub(crate) change: u64,
    /// Within a run of pages: the last conversation told of those that are held elsewhere only.
    #[serde(default)]
    pub(crate) elsewhere: Option<ConversationId>,
    /// Within a run of pages: the lowest change whose row nobody in reach could give. The next run begins before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) missed: Option<u64>,
}

impl FeedCursor {
    pub(crate) fn start(store: Uuid) -> Self {
        Self { store, change: 0, elsewhere: None, missed: None }
    }

    /// Reads [`FeedCursor::write`]; the start for bytes of another form and for another store's cursor.
    pub(crate) fn read(text: Option<&str>, store: Uuid) -> Self {
        let read = |text| serde_json::from_slice::<Self>(&URL_SAFE_NO_PAD.decode(text).ok()?).ok();
        text.and_then(read).filter(|cursor| cursor.store == store).unwrap_or_else(|| Self::start(store))
    }

    pub(crate) fn write(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a cursor holds only string keys"))
    }

    /// The place behind a page: its rows by number of change (0 for those held elsewhere only) and conversation, those
    /// of them that nobody in reach could give, and whether more follow. A row that is left out keeps no page behind it
    /// back; the run that comes after the last page tells it again.
    pub(crate) fn after(&self, page: &[(u64, ConversationId)], left_out: &[u64], has_more: bool) -> Self {
        let change = page.last().map_or(self.change, |(change, _)| self.change.max(*change));
        let missed = left_out.iter().copied().filter(|change| *change > 0).chain(self.missed).min();
        if !has_more {
            // Those held elsewhere only are told by every run: this region does not see them change.
            let change = missed.map_or(change, |missed| change.min(missed - 1));
            return Self { store: self.store, change, elsewhere: None, missed: None };
        }
        let elsewhere = match page.last() {
            Some((0, id)) => Some(*id),
            Some(_) => Some(ConversationId(Uuid::max())),
            None => None,
        };
        Self { store: self.store, change, elsewhere, missed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> ConversationId {
        ConversationId(Uuid::from_u128(number))
    }

    fn cursor(change: u64) -> FeedCursor {
        FeedCursor { change, ..FeedCursor::start(Uuid::from_u128(9)) }
    }

    #[test]
    fn a_row_that_nobody_in_reach_could_give_is_told_by_the_next_run_and_keeps_no_later_row_back() {
        let first = cursor(10).after(&[(0, id(1)), (12, id(2)), (13, id(3))], &[12], true);
        assert_eq!((first.change, first.missed), (13, Some(12)));
        let second = first.after(&[(14, id(4)), (15, id(5))], &[15], true);
        assert_eq!((second.change, second.missed), (15, Some(12)));
        let end = second.after(&[(16, id(6))], &[], false);
        assert_eq!(end, cursor(11));
        assert_eq!(end.after(&[(12, id(2)), (13, id(3))], &[], false), cursor(13));
    }

    #[test]
    fn those_held_elsewhere_are_told_once_a_run_and_by_every_run() {
        let first = cursor(0).after(&[(0, id(1)), (0, id(2))], &[0], true);
        assert_eq!((first.change, first.elsewhere), (0, Some(id(2))));
        let second = first.after(&[(0, id(3)), (4, id(4))], &[], true);
        assert_eq!((second.change, second.elsewhere), (4, Some(ConversationId(Uuid::max()))));
        assert_eq!(second.after(&[], &[], false), cursor(4));
    }

    #[test]
    fn a_cursor_reads_back_and_one_of_another_store_or_another_form_gives_everything() {
        let cursor = FeedCursor { elsewhere: Some(id(1)), missed: Some(7), ..cursor(12) };
        let text = cursor.write();
        assert_eq!(FeedCursor::read(Some(&text), cursor.store), cursor);
        let other = Uuid::from_u128(8);
        for text in [Some(text.as_str()), Some("nothing of ours"), Some("e30"), None] {
            assert_eq!(FeedCursor::read(text, other), FeedCursor::start(other));
        }
    }

    #[test]
    fn a_cursor_of_the_first_release_reads() {
        let text =
            URL_SAFE_NO_PAD.encode(r#"{"store":"00000000-0000-0000-0000-000000000009","change":12,"elsewhere":null}"#);
        assert_eq!(FeedCursor::read(Some(&text), Uuid::from_u128(9)), cursor(12));
    }
}
