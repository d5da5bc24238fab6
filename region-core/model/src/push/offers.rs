//! The home of a conversation: who wants its messages, and what of it they were offered.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::{Epoch, LogId, Position, RegionId, Timestamp, UserId};
use uuid::Uuid;

/// One message, as it is offered to all users of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Where it stands.
    pub position: Position,
    /// Its id.
    pub message: Uuid,
    /// Who wrote it.
    pub sender: UserId,
    /// Whom it names.
    pub mentions: BTreeSet<UserId>,
    /// When it was sequenced.
    pub sequenced_at: Timestamp,
    /// When its content goes away.
    pub expires_at: Option<Timestamp>,
}

/// What the home of a conversation says to the home of users' records at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// The first number that this covers.
    pub from: u64,
    /// The exclusive end of what this covers.
    pub to: u64,
    /// The epoch of the entry before `from`.
    pub epoch: Epoch,
    /// Whether it answers a wish: it goes on from what that said, whatever was offered before.
    pub begins: bool,
    /// Messages, ascending.
    pub items: Vec<Offered>,
    /// How far users have read, by epoch.
    pub reads: Vec<(UserId, Vec<Position>)>,
    /// Users who are no members any more, or not yet at the end of this.
    pub gone: Vec<UserId>,
    /// Where it begins for users whose wishes it answers: the last that is not wanted, or decided.
    pub starts: Vec<(UserId, Position)>,
}

/// From where one user's messages are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The user.
    pub user: UserId,
    /// Up to where it is decided, or where the user joined.
    pub after: Position,
    /// Set where nothing is decided yet: what was sequenced before this is not wanted.
    pub since: Option<Timestamp>,
    /// With `since`: another region may have decided before.
    pub taken_over: bool,
}

/// What one region wants of a conversation.
#[derive(Clone, Debug, Default)]
struct Watch {
    users: BTreeSet<UserId>,
    /// Said since the last offers: where to begin is looked up with the log.
    asked: BTreeMap<UserId, Wanted>,
    /// The first number that was not offered; `None` before the first offers.
    next: Option<u64>,
    /// Users who read since the last offers.
    read: BTreeSet<UserId>,
}

/// What is to be offered to one region now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The region.
    pub region: RegionId,
    /// Wishes that were not answered yet: the offers begin at the lowest place of these and of `next`.
    pub asked: Vec<Wanted>,
    /// The first number that was not offered.
    pub next: Option<u64>,
    /// Users whose cursors are to be told.
    pub read: BTreeSet<UserId>,
}

/// Who wants messages of the conversations whose home is here. It is not stored: whoever wants them says so again.
#[derive(Clone, Debug)]
pub struct Watchers {
    logs: BTreeMap<LogId, BTreeMap<RegionId, Watch>>,
    /// Conversations of which something is to be offered.
    due: BTreeSet<LogId>,
    /// Up to where it was decided for users, as their regions said last: for whoever takes them over.
    known: BTreeMap<LogId, BTreeMap<UserId, Position>>,
    knows: usize,
    users: usize,
    most: usize,
}

impl Watchers {
    /// Nobody wants anything; at most `most` users are taken, over all conversations: of more nothing is offered.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let (logs, due, known) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { logs, due, known, knows: 0, users: 0, most }
    }

    /// Whether nobody wants anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// Users that are watched for, each once a conversation and region.
    #[must_use]
    pub fn users(&self) -> usize {
        self.users
    }

    /// A region says for whom it wants a conversation's messages; with `fresh`, for nobody else, and otherwise for those
    /// of before as well: where they are not known here, that says nothing, and the region says all of it again. Returns
    /// how many users were not taken for want of room.
    pub fn watch(&mut self, log: LogId, region: RegionId, fresh: bool, wanted: Vec<Wanted>) -> usize {
        if fresh {
            self.end(log, &region);
        }
        let knows_others = fresh || self.logs.get(&log).is_some_and(|regions| regions.contains_key(&region));
        if wanted.is_empty() || !knows_others {
            return 0;
        }
        let watch = self.logs.entry(log).or_default().entry(region).or_default();
        let mut refused = 0;
        for wanted in wanted {
            if !watch.users.contains(&wanted.user) {
                if self.users >= self.most {
                    refused += 1;
                    continue;
                }
                self.users += 1;
                watch.users.insert(wanted.user.clone());
            }
            if wanted.since.is_none() {
                let known = self.known.entry(log).or_default().insert(wanted.user.clone(), wanted.after);
                self.knows += usize::from(known.is_none());
            }
            watch.asked.insert(wanted.user.clone(), wanted);
        }
        self.due.insert(log);
        if self.knows > self.most {
            // Whoever takes users over then begins with the last minute.
            self.known.clear();
            self.knows = 0;
        }
        refused
    }

    /// Up to where it was decided for a user, as far as it was told.
    #[must_use]
    pub fn known(&self, log: LogId, user: &UserId) -> Option<Position> {
        self.known.get(&log)?.get(user).copied()
    }

    /// A region wants nothing of a conversation any more.
    fn end(&mut self, log: LogId, region: &RegionId) {
        let Some(regions) = self.logs.get_mut(&log) else { return };
        if let Some(watch) = regions.remove(region) {
            self.users -= watch.users.len();
        }
        if regions.is_empty() {
            self.logs.remove(&log);
            self.due.remove(&log);
        }
    }

    /// A region is out of reach: it says again what it wants.
    pub fn lost(&mut self, region: &RegionId) {
        let logs: Vec<LogId> = self.logs.keys().copied().collect();
        logs.into_iter().for_each(|log| self.end(log, region));
    }

    /// The home of a conversation is elsewhere.
    pub fn forget(&mut self, log: LogId) {
        let regions: Vec<RegionId> = self.logs.get(&log).into_iter().flat_map(BTreeMap::keys).cloned().collect();
        regions.iter().for_each(|region| self.end(log, region));
        self.knows -= self.known.remove(&log).map_or(0, |known| known.len());
    }

    /// The mark passed something. Returns whether anybody wants it.
    pub fn delivered(&mut self, log: LogId) -> bool {
        let wanted = self.logs.contains_key(&log);
        if wanted {
            self.due.insert(log);
        }
        wanted
    }

    /// Somebody read. Returns whether a region wants to know.
    pub fn read(&mut self, log: LogId, user: &UserId) -> bool {
        let Some(regions) = self.logs.get_mut(&log) else { return false };
        let mut wanted = false;
        for watch in regions.values_mut().filter(|watch| watch.users.contains(user)) {
            watch.read.insert(user.clone());
            wanted = true;
        }
        if wanted {
            self.due.insert(log);
        }
        wanted
    }

    /// Conversations of which something is to be offered, at most `most`.
    #[must_use]
    pub fn due(&self, most: usize) -> Vec<LogId> {
        self.due.iter().take(most).copied().collect()
    }

    /// What is to be offered of one; it is not due any more.
    pub fn take(&mut self, log: LogId) -> Vec<Due> {
        self.due.remove(&log);
        let Some(regions) = self.logs.get_mut(&log) else { return Vec::new() };
        let due = |(region, watch): (&RegionId, &mut Watch)| Due {
            region: region.clone(),
            asked: std::mem::take(&mut watch.asked).into_values().collect(),
            next: watch.next,
            read: std::mem::take(&mut watch.read),
        };
        regions.iter_mut().map(due).collect()
    }

    /// Everything below `to` was offered; with `more`, not everything that there is.
    pub fn offered(&mut self, log: LogId, region: &RegionId, to: u64, more: bool) {
        let Some(watch) = self.logs.get_mut(&log).and_then(|regions| regions.get_mut(region)) else { return };
        watch.next = Some(to);
        if more {
            self.due.insert(log);
        }
    }

    /// Those whom a region wants a conversation's messages for.
    #[must_use]
    pub fn watched(&self, log: LogId, region: &RegionId) -> Option<&BTreeSet<UserId>> {
        self.logs.get(&log)?.get(region).map(|watch| &watch.users)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(number: u128) -> LogId {
        LogId::conversation(hearth_protocol::ConversationId(Uuid::from_u128(number)))
    }

    fn wanted(user: &str) -> Wanted {
        Wanted { user: UserId::new(user).unwrap(), after: Position::default(), since: None, taken_over: false }
    }

    #[test]
    fn who_wants_messages_is_offered_them_once_more_after_each_wish_and_nothing_beyond_the_bound() {
        let (here, there) = (RegionId::new("here").unwrap(), RegionId::new("there").unwrap());
        let mut watchers = Watchers::new(3);
        assert!(!watchers.delivered(log(1)));
        assert_eq!(watchers.watch(log(1), here.clone(), true, vec![wanted("ann"), wanted("bob")]), 0);
        assert_eq!(
            watchers.watch(log(1), there.clone(), true, vec![wanted("cem"), wanted("dan")]),
            1,
            "no room for dan"
        );
        assert_eq!(watchers.due(9), [log(1)]);
        let due = watchers.take(log(1));
        assert_eq!((due.len(), due[0].asked.len(), due[0].next, due[1].asked.len()), (2, 2, None, 1));
        watchers.offered(log(1), &here, 7, false);
        watchers.offered(log(1), &there, 5, true);
        assert_eq!(watchers.due(9), [log(1)], "there is more");
        let due = watchers.take(log(1));
        assert_eq!((due[0].asked.len(), due[0].next, due[1].next), (0, Some(7), Some(5)));
        assert!(
            watchers.read(log(1), &UserId::new("bob").unwrap()) && !watchers.read(log(1), &UserId::new("eve").unwrap())
        );
        let due = watchers.take(log(1));
        assert_eq!((due[0].read.len(), due[1].read.len()), (1, 0));
        let cem = UserId::new("cem").unwrap();
        watchers.lost(&there);
        assert_eq!(watchers.watch(log(1), there.clone(), false, vec![wanted("dan")]), 0);
        assert_eq!(watchers.watched(log(1), &there), None, "cem is wanted there, too, and not known any more");
        assert_eq!(
            (watchers.users(), watchers.known(log(1), &cem)),
            (2, Some(Position::default())),
            "for another region"
        );
        assert_eq!(watchers.watch(log(1), here, true, Vec::new()), 0);
        assert!(watchers.is_empty() && watchers.users() == 0 && watchers.due(9).is_empty());
        watchers.forget(log(1));
        assert_eq!(watchers.known(log(1), &cem), None);
    }
}
