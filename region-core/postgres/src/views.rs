//! What logs added up to when they were projected last, of those that change often: a large channel is not folded anew for
//! each of its messages.

use std::collections::BTreeMap;

use hearth_protocol::{Hash, LogId};
use region_model::view::View;

use crate::rows::Stand;

/// Views kept, and members and memberships in all of them together: about 30 MB.
const VIEWS: usize = 1_024;
const THINGS: usize = 200_000;

#[derive(Debug)]
struct Kept {
    length: u64,
    hash: Hash,
    view: View,
    things: usize,
    used: u64,
}

/// The views that were used last.
#[derive(Debug, Default)]
pub(crate) struct Views {
    kept: BTreeMap<LogId, Kept>,
    things: usize,
    clock: u64,
}

fn things(view: &View) -> usize {
    match view {
        View::Empty | View::Placements(_) => 0,
        View::Conversation(state) => state.members.len() + state.sent.len(),
        View::User(state) => state.conversations.len() + state.push.preferences.len(),
    }
}

impl Views {
    /// What a log adds up to where it stands; once, since it is put back when more was added.
    pub(crate) fn take(&mut self, log: LogId, stand: &Stand) -> Option<View> {
        let kept = self.kept.remove(&log)?;
        self.things -= kept.things;
        (kept.length == stand.length && kept.hash == stand.hash).then_some(kept.view)
    }

    /// Keeps a view, and lets those go that were not used for the longest.
    pub(crate) fn put(&mut self, log: LogId, (length, hash): (u64, Hash), view: View) {
        let things = things(&view);
        if things > THINGS / 2 {
            return;
        }
        self.clock += 1;
        let kept = Kept { length, hash, view, things, used: self.clock };
        self.things += things;
        if let Some(before) = self.kept.insert(log, kept) {
            self.things -= before.things;
        }
        while self.kept.len() > VIEWS || self.things > THINGS {
            let Some(oldest) = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(log, _)| *log) else { return };
            self.things -= self.kept.remove(&oldest).map_or(0, |gone| gone.things);
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_protocol::{Timestamp, UserId};
    use region_model::conformance::samples::conversation;
    use region_model::view::UserState;

    use super::*;

    fn stand(length: u64, hash: u8) -> Stand {
        Stand { length, epoch: 1, hash: [hash; 32], line: 1, change: 1, cursors: 0 }
    }

    #[test]
    fn a_view_is_given_for_the_line_and_length_that_it_is_of_and_so_many_are_kept() {
        let view = || {
            let user = UserId::new("ann").expect("a name");
            View::User(std::sync::Arc::new(UserState::created(user, Timestamp(1))))
        };
        let mut views = Views::default();
        views.put(conversation(1), (5, [1; 32]), view());
        assert_eq!(views.take(conversation(1), &stand(5, 2)), None, "it is of another line");
        views.put(conversation(1), (5, [1; 32]), view());
        assert_eq!(views.take(conversation(1), &stand(5, 1)), Some(view()));
        assert_eq!(views.take(conversation(1), &stand(5, 1)), None, "it was taken");
        for number in 0..2 * VIEWS as u128 {
            views.put(conversation(number), (5, [1; 32]), view());
        }
        assert_eq!(views.kept.len(), VIEWS);
        assert!(views.take(conversation(0), &stand(5, 1)).is_none());
    }
}
