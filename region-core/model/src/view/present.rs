//! What the row of a message shows at present: the fold of the changes made to it. The order in which they are folded
//! does not matter, so a page of them may come from anywhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_protocol::record::{ChangeRecord, MessageChange};
use hearth_protocol::rest::Reactions;
use hearth_protocol::{Position, SealedEntry, Timestamp, UserId};

/// A message, and what was done to it up to some number.
#[derive(Clone, Debug)]
pub struct Target {
    /// The message as it was sent.
    pub entry: Arc<SealedEntry>,
    /// What it shows by now.
    pub present: Present,
}

/// What was done to a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    edit: Option<(Timestamp, Position)>,
    deleted: Option<Position>,
    reactions: BTreeMap<String, BTreeMap<UserId, Reacted>>,
    changes: usize,
}

/// The last word of a user about one emoji.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reacted {
    at: (Timestamp, Position),
    added: bool,
}

impl Present {
    /// The fold of these changes, which are all of one message.
    #[must_use]
    pub fn of<'a>(changes: impl IntoIterator<Item = &'a ChangeRecord>) -> Self {
        let mut present = Self::default();
        changes.into_iter().for_each(|change| present.fold(change));
        present
    }

    /// Adds one change. Of two edits, and of two words of one user about one emoji, the later counts by the time at
    /// which it was made: what comes back with a tail does not undo what was done since. A delete is final.
    pub fn fold(&mut self, change: &ChangeRecord) {
        self.changes += 1;
        let at = (change.time, change.position);
        match &change.what {
            MessageChange::Edited => self.edit = self.edit.max(Some(at)),
            MessageChange::Forgotten(_) => {}
            MessageChange::Deleted => {
                self.deleted = Some(self.deleted.map_or(change.position, |first| first.min(change.position)));
            }
            MessageChange::Reacted { emoji, added } => {
                let of_emoji = self.reactions.entry(emoji.clone()).or_default();
                let said = of_emoji.entry(change.sender.clone()).or_insert(Reacted { at, added: *added });
                if said.at < at {
                    *said = Reacted { at, added: *added };
                }
            }
        }
    }

    /// Whether its content is gone for good.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.deleted.is_some()
    }

    /// The edit that it shows: when it was made, and where it stands. Also while it is deleted.
    #[must_use]
    pub fn edit(&self) -> Option<(Timestamp, Position)> {
        self.edit
    }

    /// Changes so far, taken-back ones too.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.changes
    }

    /// Whether a user's reaction with an emoji shows.
    #[must_use]
    pub fn has_reaction(&self, user: &UserId, emoji: &str) -> bool {
        self.reactions.get(emoji).and_then(|users| users.get(user)).is_some_and(|said| said.added)
    }

    /// Whether anybody's reaction with an emoji shows.
    #[must_use]
    pub fn has_emoji(&self, emoji: &str) -> bool {
        self.reactions.get(emoji).is_some_and(|users| users.values().any(|said| said.added))
    }

    /// Different emoji that show.
    #[must_use]
    pub fn emoji(&self) -> usize {
        self.reactions.keys().filter(|emoji| self.has_emoji(emoji)).count()
    }

    /// The reactions that show, as `reader` sees them: by the oldest of each emoji.
    #[must_use]
    pub fn reactions(&self, reader: &UserId) -> Vec<Reactions> {
        let mut shown: Vec<_> = self
            .reactions
            .iter()
            .filter_map(|(emoji, users)| {
                let there = users.values().filter(|said| said.added);
                let oldest = there.clone().map(|said| said.at).min()?;
                let count = there.count() as u64;
                let by_me = users.get(reader).is_some_and(|said| said.added);
                Some((oldest, Reactions { emoji: emoji.clone(), count, by_me }))
            })
            .collect();
        shown.sort_by_key(|(oldest, _)| *oldest);
        shown.into_iter().map(|(_, reactions)| reactions).collect()
    }
}

#[cfg(test)]
mod tests {
    use hearth_protocol::{Epoch, Sequence};
    use proptest::prelude::*;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("a valid name")
    }

    fn change(sequence: u64, time: u64, sender: &str, what: MessageChange) -> ChangeRecord {
        let position = Position { epoch: Epoch(1), sequence: Sequence(sequence) };
        ChangeRecord { target: 1, position, sender: user(sender), time: Timestamp(time), what }
    }

    fn reacted(sequence: u64, time: u64, sender: &str, emoji: &str, added: bool) -> ChangeRecord {
        change(sequence, time, sender, MessageChange::Reacted { emoji: emoji.to_owned(), added })
    }

    #[test]
    fn reactions_are_counted_by_emoji_with_the_oldest_first_and_taken_back_by_their_user_alone() {
        let said = [
            reacted(2, 2, "ann", "👍", true),
            reacted(3, 3, "ben", "🎉", true),
            reacted(4, 4, "ben", "👍", true),
            reacted(5, 5, "cem", "🎉", false),
            reacted(6, 6, "ann", "👍", false),
            reacted(7, 7, "ann", "👍", true),
        ];
        let shown = |count: usize, reader| {
            let shown = Present::of(&said[..count]).reactions(&user(reader));
            shown.into_iter().map(|of| (of.emoji, of.count, of.by_me)).collect::<Vec<_>>()
        };
        assert_eq!(shown(3, "ben"), [("👍".to_owned(), 2, true), ("🎉".to_owned(), 1, true)]);
        assert_eq!(shown(4, "cem"), [("👍".to_owned(), 2, false), ("🎉".to_owned(), 1, false)]);
        assert_eq!(shown(5, "ann"), [("🎉".to_owned(), 1, false), ("👍".to_owned(), 1, false)]);
    }

    #[test]
    fn what_comes_back_with_a_tail_does_not_undo_what_was_done_since_and_a_delete_is_final() {
        let edits = [change(2, 20, "ann", MessageChange::Edited), change(3, 10, "ann", MessageChange::Edited)];
        assert_eq!(Present::of(&edits).edit().map(|(_, at)| at.sequence.0), Some(2));
        let reactions = [reacted(4, 20, "ben", "👍", false), reacted(5, 10, "ben", "👍", true)];
        assert_eq!(Present::of(&reactions).reactions(&user("ben")), []);
        let deletes = [change(6, 20, "ann", MessageChange::Edited), change(7, 10, "ann", MessageChange::Deleted)];
        assert!(Present::of(&deletes).is_deleted());
    }

    fn any_change() -> impl Strategy<Value = ChangeRecord> {
        let what = prop_oneof![
            Just(MessageChange::Edited),
            Just(MessageChange::Deleted),
            ("[ab]", any::<bool>()).prop_map(|(emoji, added)| MessageChange::Reacted { emoji, added }),
        ];
        (0..5u64, prop_oneof![Just("ann"), Just("ben")], what).prop_map(|(time, who, what)| change(0, time, who, what))
    }

    proptest! {
        #[test]
        fn the_order_in_which_changes_are_folded_does_not_matter(
            mut changes in prop::collection::vec(any_change(), 0..12),
            seed in any::<u64>(),
        ) {
            for (sequence, change) in (2..).zip(&mut changes) {
                change.position.sequence = Sequence(sequence);
            }
            let folded = Present::of(&changes);
            let mut shuffled: Vec<_> = changes.iter().collect();
            shuffled.sort_by_key(|change| (change.position.sequence.0 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            prop_assert_eq!(Present::of(shuffled), folded);
        }
    }
}
