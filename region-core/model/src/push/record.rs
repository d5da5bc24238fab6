//! The home of users' records: who is decided for here, by what the records say.

use std::collections::BTreeMap;

use hearth_protocol::ids::direct_conversation;
use hearth_protocol::push::{Preferences, PushPolicy};
use hearth_protocol::{Change, EntryKind, Epoch, LogId, RegionId, SealedEntry, Timestamp, UserId};

use super::desk::{Desk, DeskUser, Turn};
use super::state::Kept;
use crate::LogView;
use crate::mutants::Mutant;
use crate::view::UserState;

/// Of a subscription younger than this, in milliseconds, no other region has decided anything.
const YOUNG: u64 = 60_000;

/// The epoch under which a region decides for a user: where it is the home of the record, and there are subscriptions.
#[must_use]
pub fn decides_under(me: &RegionId, view: &LogView, state: &UserState) -> Option<Epoch> {
    let home = view.placement.as_ref().filter(|placement| view.held && placement.home == *me);
    home.map(|placement| placement.epoch).filter(|_| !state.push.subscriptions.is_empty())
}

/// Whether an entry of a user's record may change what the user is woken for. Where it was last, and what it calls itself,
/// changes nothing of that.
#[must_use]
pub fn concerns_push(entry: &SealedEntry) -> bool {
    let change = entry.change();
    if Mutant::PreferencesOverlooked.is_on() && matches!(change, Some(Change::Preferred { .. })) {
        return false;
    }
    entry.entry.fixed.kind == EntryKind::User
        && !matches!(change, Some(Change::Resident { .. } | Change::Left { .. } | Change::Profile { .. }) | None)
}

/// The users of one region, each under the epoch of its record.
#[derive(Clone, Debug)]
pub struct Records {
    /// Their decisions.
    pub desk: Desk,
    epochs: BTreeMap<UserId, Epoch>,
}

impl Records {
    /// Nobody is decided for yet.
    #[must_use]
    pub fn new(desk: Desk) -> Self {
        Self { desk, epochs: BTreeMap::new() }
    }

    /// Whether a user is decided for already: then nothing that is kept counts any more.
    #[must_use]
    pub fn knows(&self, user: &UserId) -> bool {
        self.epochs.contains_key(user)
    }

    /// The epoch under which a user is decided for.
    #[must_use]
    pub fn epoch(&self, user: &UserId) -> Epoch {
        self.epochs.get(user).copied().unwrap_or_default()
    }

    /// A record says this under this epoch. `kept` is what an earlier process kept under the same one.
    pub fn take(&mut self, state: &UserState, epoch: Epoch, kept: &BTreeMap<LogId, Kept>, now: Timestamp) -> Turn {
        let known = self.epochs.insert(state.user.clone(), epoch);
        let mut user = desk_user(state, now);
        user.taken_over = known.is_none() && kept.is_empty() && now.0.saturating_sub(user.since.0) > YOUNG;
        let mut turn = self.desk.user(&state.user, user, kept, now);
        if known.is_some_and(|known| known != epoch) {
            turn.kept.extend(self.desk.stands(&state.user).into_iter().map(|log| (state.user.clone(), log)));
        }
        turn
    }

    /// A user is not decided for here any more.
    pub fn leave(&mut self, user: &UserId) -> Turn {
        self.desk.gone(user)
    }

    /// What follows of its departure is done.
    pub fn left(&mut self, user: &UserId) {
        self.epochs.remove(user);
    }
}

/// A user as the desk needs it. A device that subscribed just now is not woken for what was said before.
fn desk_user(state: &UserState, now: Timestamp) -> DeskUser {
    let first = state.push.subscriptions.values().map(|subscription| subscription.registered_at).min();
    let joined = state.conversations.iter().filter(|(_, membership)| membership.joined);
    let wants = state.push.preferences.iter().map(|(id, wants)| (LogId::conversation(*id), *wants));
    // In a direct conversation with somebody whom the user blocks, nobody else writes.
    let nothing = Preferences { policy: PushPolicy::None, muted_until: None };
    let blocked = state.privacy.blocks.keys().map(|other| direct_conversation(&state.user, other));
    let blocked = blocked.map(|id| (LogId::conversation(id), nothing));
    DeskUser {
        subscriptions: state.push.subscriptions.values().cloned().collect(),
        preferences: wants.chain(blocked).collect(),
        joined: joined.map(|(id, membership)| (LogId::conversation(*id), membership.position)).collect(),
        since: first.unwrap_or(now),
        taken_over: false,
    }
}

#[cfg(test)]
mod tests {
    use hearth_protocol::ConversationId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn whom_a_user_blocks_wakes_it_in_no_direct_conversation_whatever_it_wants_there() {
        let user = |name: &str| UserId::new(name).expect("a valid name");
        let mut ann = UserState::created(user("ann"), Timestamp(1));
        let (with_bob, with_cem) = (direct_conversation(&ann.user, &user("bob")), ConversationId(Uuid::from_u128(9)));
        let mentions = Preferences { policy: PushPolicy::Mentions, muted_until: None };
        ann.push.preferences = [(with_bob, mentions), (with_cem, mentions)].into();
        ann.privacy.blocks = [(user("bob"), Timestamp(2))].into();
        let of = |state: &UserState, id| desk_user(state, Timestamp(3)).preferences[&LogId::conversation(id)].policy;
        assert_eq!((of(&ann, with_bob), of(&ann, with_cem)), (PushPolicy::None, PushPolicy::Mentions));
        ann.privacy.blocks.clear();
        assert_eq!(of(&ann, with_bob), PushPolicy::Mentions);
    }
}
