//! The home of users' records: all users here who have push subscriptions, and the conversations that are watched for
//! them. What is kept of it lets another process go on; who takes over from another region begins anew.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::push::{Preferences, Subscription};
use hearth_protocol::{DeviceId, LogId, Position, RegionId, Sequence, Timestamp, UserId};

use super::offers::{Offered, Offers, Wanted};
use super::state::{Kept, UserPush};
use super::{Decision, Offer, Outcome, Push, PushTimes};
use crate::mutants::Mutant;

/// A user with push subscriptions, as the record has it.
#[derive(Clone, Debug, Default)]
pub struct DeskUser {
    /// Where pushes go.
    pub subscriptions: Vec<Subscription>,
    /// By conversation, those that are not the default.
    pub preferences: BTreeMap<LogId, Preferences>,
    /// Conversations that the user is in, and since where.
    pub joined: BTreeMap<LogId, Position>,
    /// Of conversations on which nothing is decided yet: what was sequenced before this wakes nobody.
    pub since: Timestamp,
    /// Whether another region may have decided for the user before.
    pub taken_over: bool,
}

/// How far a user's decisions on one conversation are.
#[derive(Clone, Copy, Debug)]
struct Stand {
    joined: Position,
    /// `None` until the home of the conversation said where it begins.
    decided: Option<Position>,
    /// Whether what is offered goes on from what is decided. It does not from the wish of this user on until that is
    /// answered: an answer to another user's wish may begin above what this one lacks.
    answered: bool,
}

#[derive(Clone, Debug)]
struct Held {
    push: UserPush,
    subscriptions: Vec<Subscription>,
    preferences: BTreeMap<LogId, Preferences>,
    since: Timestamp,
    taken_over: bool,
    stands: BTreeMap<LogId, Stand>,
    due: Option<Timestamp>,
}

/// A conversation that is watched.
#[derive(Clone, Debug, Default)]
struct Watched {
    users: BTreeSet<UserId>,
    /// The exclusive end of what was offered with nothing missing; `None` while an answer is waited for.
    seen: Option<u64>,
}

/// What the home of a conversation is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The conversation.
    pub log: LogId,
    /// Whether these are all for whom its messages are wanted.
    pub fresh: bool,
    /// For whom, and from where.
    pub users: Vec<Wanted>,
}

/// What follows from an input. Whatever is to be kept is kept after the pushes are: a push may come twice, and none is
/// lost.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// To be sent, each to all subscriptions of its user.
    pub pushes: Vec<(UserId, Vec<Subscription>, Push)>,
    /// Decisions, and on whom.
    pub decisions: Vec<(UserId, Decision)>,
    /// What changed of what is kept: [`Desk::kept`] has it, or it goes.
    pub kept: BTreeSet<(UserId, LogId)>,
    /// Wishes to homes of conversations.
    pub wishes: Vec<Wish>,
}

/// The users of one region.
#[derive(Clone, Debug)]
pub struct Desk {
    times: PushTimes,
    users: BTreeMap<UserId, Held>,
    logs: BTreeMap<LogId, Watched>,
    due: BTreeSet<(Timestamp, UserId)>,
}

impl Held {
    fn wanted(&self, user: &UserId, log: LogId) -> Option<Wanted> {
        let stand = self.stands.get(&log)?;
        let since = stand.decided.is_none().then_some(self.since);
        let after = self.push.decided(log).max(stand.decided).unwrap_or(stand.joined);
        // What waits is offered again, and is a repeat then.
        Some(Wanted { user: user.clone(), after, since, taken_over: since.is_some() && self.taken_over })
    }

    /// Takes what follows of one conversation, or of several.
    fn take(&mut self, user: &UserId, outcome: Outcome, turn: &mut Turn) {
        let touched = outcome.decisions.iter().map(|decision| decision.log);
        let touched: BTreeSet<LogId> = touched.chain(outcome.pushes.iter().map(|push| push.log)).collect();
        for log in touched {
            if let Some(stand) = self.stands.get_mut(&log) {
                stand.decided = stand.decided.max(self.push.decided(log));
            }
            turn.kept.insert((user.clone(), log));
        }
        turn.decisions.extend(outcome.decisions.into_iter().map(|decision| (user.clone(), decision)));
        let to = |push| (user.clone(), self.subscriptions.clone(), push);
        turn.pushes.extend(outcome.pushes.into_iter().map(to));
    }

    /// Nothing up to a position is decided any more.
    fn pass(&mut self, user: &UserId, log: LogId, position: Position, turn: &mut Turn) {
        self.push.resume(log, Some(position), &[]);
        if let Some(stand) = self.stands.get_mut(&log) {
            stand.decided = stand.decided.max(Some(position));
        }
        turn.kept.insert((user.clone(), log));
    }

    fn offered(&mut self, user: &UserId, log: LogId, item: &Offered, now: Timestamp, turn: &mut Turn) {
        let Some(stand) = self.stands.get(&log).copied() else { return };
        // Nothing counts before it was said where it begins; then it is offered again.
        if stand.decided.is_none_or(|decided| item.position <= decided)
            || item.position <= stand.joined
            || !stand.answered
        {
            return;
        }
        let offer = Offer {
            log,
            position: item.position,
            message: item.message,
            sender: item.sender.clone(),
            mentions: item.mentions.contains(user),
            sequenced_at: item.sequenced_at,
            expires_at: item.expires_at,
        };
        let outcome = self.push.offered(offer, now);
        self.take(user, outcome, turn);
    }
}

impl Desk {
    /// Nobody is here yet.
    #[must_use]
    pub fn new(times: PushTimes) -> Self {
        Self { times, users: BTreeMap::new(), logs: BTreeMap::new(), due: BTreeSet::new() }
    }

    /// Users with push subscriptions.
    #[must_use]
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// Whether a user is here.
    #[must_use]
    pub fn has(&self, user: &UserId) -> bool {
        self.users.contains_key(user)
    }

    /// The conversations of a user who is here.
    #[must_use]
    pub fn stands(&self, user: &UserId) -> Vec<LogId> {
        self.users.get(user).into_iter().flat_map(|held| held.stands.keys().copied()).collect()
    }

    /// A user is here, or the record says something else. `kept` is of an earlier process under the same epoch of the
    /// record, and counts where the user was not here.
    pub fn user(&mut self, user: &UserId, record: DeskUser, kept: &BTreeMap<LogId, Kept>, now: Timestamp) -> Turn {
        let mut turn = Turn::default();
        let times = self.times;
        let held = self.users.entry(user.clone()).or_insert_with(|| Held {
            push: UserPush::new(user.clone(), times),
            subscriptions: Vec::new(),
            preferences: BTreeMap::new(),
            since: record.since,
            taken_over: record.taken_over,
            stands: BTreeMap::new(),
            due: None,
        });
        if held.subscriptions.is_empty() || !Mutant::TokenStays.is_on() {
            held.subscriptions = record.subscriptions;
        }
        for log in held.preferences.keys().filter(|log| !record.preferences.contains_key(log)) {
            held.push.prefers(*log, Preferences::default());
        }
        record.preferences.iter().for_each(|(log, preferences)| held.push.prefers(*log, *preferences));
        held.preferences = record.preferences;
        let left: Vec<LogId> = held.stands.keys().filter(|log| !record.joined.contains_key(log)).copied().collect();
        for log in &left {
            let outcome = held.push.left(*log, now);
            held.take(user, outcome, &mut turn);
            held.stands.remove(log);
        }
        left.into_iter().for_each(|log| self.unwatch(user, log, &mut turn));
        for (log, position) in record.joined {
            self.join(user, log, position, kept.get(&log), &mut turn);
        }
        self.schedule(user);
        turn
    }

    fn join(&mut self, user: &UserId, log: LogId, position: Position, kept: Option<&Kept>, turn: &mut Turn) {
        let Some(held) = self.users.get_mut(user) else { return };
        if let Some(stand) = held.stands.get_mut(&log) {
            stand.joined = stand.joined.max(position);
            return;
        }
        if let Some(kept) = kept {
            held.push.restore(log, kept);
        }
        let decided = kept.and_then(|kept| kept.decided);
        held.stands.insert(log, Stand { joined: position, decided, answered: false });
        // Those who were watched for before miss nothing by it: what they were offered goes on. A home that does not know
        // of them takes this for nothing, and is told of all by the next wish.
        let watched = self.logs.entry(log).or_default();
        let fresh = watched.users.is_empty();
        watched.users.insert(user.clone());
        turn.wishes.extend(held.wanted(user, log).map(|wanted| Wish { log, fresh, users: vec![wanted] }));
    }

    fn unwatch(&mut self, user: &UserId, log: LogId, turn: &mut Turn) {
        turn.kept.insert((user.clone(), log));
        if let Some(watched) = self.logs.get_mut(&log) {
            watched.users.remove(user);
            turn.wishes.push(self.wish(log));
        }
        self.logs.retain(|known, watched| *known != log || !watched.users.is_empty());
    }

    /// A user is not here any more, or has no subscriptions: what waits is decided elsewhere, or by nobody.
    pub fn gone(&mut self, user: &UserId) -> Turn {
        let mut turn = Turn::default();
        let Some(held) = self.users.remove(user) else { return turn };
        if let Some(due) = held.due {
            self.due.remove(&(due, user.clone()));
        }
        for log in held.stands.into_keys() {
            self.unwatch(user, log, &mut turn);
        }
        turn
    }

    /// What is wanted of a conversation, from where it is decided: for its home, which does not know, or another one. What
    /// is offered meanwhile of an earlier wish does not count.
    pub fn wish(&mut self, log: LogId) -> Wish {
        let Some(watched) = self.logs.get_mut(&log) else { return Wish { log, fresh: true, users: Vec::new() } };
        watched.seen = None;
        for user in &watched.users {
            if let Some(stand) = self.users.get_mut(user).and_then(|held| held.stands.get_mut(&log)) {
                stand.answered = false;
            }
        }
        let wanted = watched.users.iter().filter_map(|user| self.users.get(user)?.wanted(user, log));
        Wish { log, fresh: true, users: wanted.collect() }
    }

    /// Conversations that are watched, after one of them, at most `most`.
    #[must_use]
    pub fn logs_after(&self, after: Option<LogId>, most: usize) -> Vec<LogId> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.logs.range((from, Unbounded)).take(most).map(|(log, _)| *log).collect()
    }

    /// The home of a conversation offers messages.
    pub fn offers(&mut self, log: LogId, offers: &Offers, now: Timestamp) -> Turn {
        let mut turn = Turn::default();
        let Some(watched) = self.logs.get_mut(&log) else {
            // Nobody here wants it: its home is told.
            turn.wishes.push(Wish { log, fresh: true, users: Vec::new() });
            return turn;
        };
        match watched.seen {
            Some(seen) if offers.from > seen => {
                turn.wishes.push(self.wish(log));
                return turn;
            }
            None if !offers.begins => return turn,
            Some(_) | None => {}
        }
        watched.seen = if offers.begins { Some(offers.to) } else { watched.seen.max(Some(offers.to)) };
        let users = watched.users.clone();
        for (user, read) in offers.reads.iter().filter(|(user, _)| users.contains(user)) {
            self.with(user, &mut turn, |held, turn| {
                for position in read {
                    let outcome = held.push.read(log, *position, now);
                    held.take(user, outcome, turn);
                }
            });
        }
        for user in &users {
            self.with(user, &mut turn, |held, turn| held.take_offers(user, log, offers, now, turn));
        }
        turn
    }

    /// A device's session has a conversation in view, or none.
    pub fn viewed(
        &mut self,
        user: &UserId,
        (region, device): (RegionId, DeviceId),
        log: Option<LogId>,
        now: Timestamp,
    ) -> Turn {
        let mut turn = Turn::default();
        self.with(user, &mut turn, |held, turn| {
            let outcome = held.push.viewed(region, device, log, now);
            held.take(user, outcome, turn);
        });
        turn
    }

    /// When [`Desk::elapsed`] has something to decide.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Decides whatever's grace is over.
    pub fn elapsed(&mut self, now: Timestamp) -> Turn {
        let mut turn = Turn::default();
        while let Some((_, user)) = self.due.first().filter(|(due, _)| *due <= now).cloned() {
            self.with(&user, &mut turn, |held, turn| {
                let outcome = held.push.elapsed(now);
                held.take(&user, outcome, turn);
            });
        }
        turn
    }

    /// What is to be kept of a user's conversation; `None`: nothing.
    #[must_use]
    pub fn kept(&self, user: &UserId, log: LogId) -> Option<Kept> {
        let held = self.users.get(user)?;
        let stand = held.stands.get(&log)?;
        Some(Kept { decided: stand.decided, shown: held.push.shown(log) })
    }

    fn with(&mut self, user: &UserId, turn: &mut Turn, act: impl FnOnce(&mut Held, &mut Turn)) {
        let Some(held) = self.users.get_mut(user) else { return };
        act(held, turn);
        self.schedule(user);
    }

    fn schedule(&mut self, user: &UserId) {
        let Some(held) = self.users.get_mut(user) else { return };
        let due = held.push.due();
        if held.due != due {
            if let Some(before) = held.due {
                self.due.remove(&(before, user.clone()));
            }
            self.due.extend(due.map(|due| (due, user.clone())));
            held.due = due;
        }
    }
}

impl Held {
    /// Finds out whether offers answer this user's wish. What answers those of others alone may be of before its home knew
    /// of this user, and say nothing of whether a message names it, or whether it is a member. A home of an earlier version
    /// says nothing of whom it answers where something is decided of all: that counts if it begins below what is lacked.
    fn begin(&mut self, user: &UserId, log: LogId, offers: &Offers, turn: &mut Turn) {
        let taken = self.push.taken(log);
        let Some(stand) = self.stands.get_mut(&log).filter(|_| offers.begins) else { return };
        let start = offers.starts.iter().find(|(of, _)| of == user).map(|(_, start)| *start);
        let sequence = Sequence(offers.from.saturating_sub(1));
        let goes_on = Some(Position { epoch: offers.epoch, sequence }) <= stand.decided.max(taken);
        stand.answered |= start.is_some() || (offers.starts.is_empty() && goes_on);
        if let Some(start) = start.filter(|_| stand.decided.is_none()) {
            self.pass(user, log, start, turn);
        }
    }

    fn take_offers(&mut self, user: &UserId, log: LogId, offers: &Offers, now: Timestamp, turn: &mut Turn) {
        self.begin(user, log, offers, turn);
        if offers.gone.contains(user) {
            // What is offered again says nothing of what the user became above it.
            let is_past =
                self.push.taken(log).is_some_and(|taken| (taken.epoch, taken.sequence.0) >= (offers.epoch, offers.to));
            if !is_past {
                let outcome = self.push.left(log, now);
                self.take(user, outcome, turn);
            }
            return;
        }
        offers.items.iter().for_each(|item| self.offered(user, log, item, now, turn));
    }
}

#[cfg(test)]
mod tests {
    use hearth_protocol::push::{PushPolicy, Target};
    use hearth_protocol::{ConversationId, Epoch, Sequence};
    use uuid::Uuid;

    use super::super::{Showing, Withheld};
    use super::*;

    const TIMES: PushTimes = PushTimes { grace: 1_000, view_counts: 5_000, stale: 60_000 };

    fn name(text: &str) -> UserId {
        UserId::new(text).unwrap()
    }

    fn log(number: u128) -> LogId {
        LogId::conversation(ConversationId(Uuid::from_u128(number)))
    }

    fn at(epoch: u64, sequence: u64) -> Position {
        Position { epoch: Epoch(epoch), sequence: Sequence(sequence) }
    }

    fn record(user: &str, logs: &[u128], since: u64) -> DeskUser {
        let target = Target::Fcm { registration: "token".to_owned() };
        let subscription = Subscription::new(&name(user), DeviceId(Uuid::nil()), target, Timestamp(since));
        DeskUser {
            subscriptions: vec![subscription],
            preferences: BTreeMap::new(),
            joined: logs.iter().map(|number| (log(*number), at(1, 0))).collect(),
            since: Timestamp(since),
            taken_over: false,
        }
    }

    fn offers(from: u64, to: u64, begins: bool, time: u64) -> Offers {
        let item = |sequence| Offered {
            position: at(1, sequence),
            message: Uuid::from_u128(u128::from(sequence)),
            sender: name("ann"),
            mentions: BTreeSet::new(),
            sequenced_at: Timestamp(time),
            expires_at: None,
        };
        let starts = ["bob", "cem"].map(|user| (name(user), at(1, from - 1)));
        let starts = if begins { starts.to_vec() } else { Vec::new() };
        Offers { from, to, epoch: Epoch(1), begins, items: (from..to).map(item).collect(), starts, ..Offers::default() }
    }

    fn withheld(turn: &Turn) -> Vec<Option<Withheld>> {
        turn.decisions.iter().map(|(_, decision)| decision.withheld).collect()
    }

    fn desk(users: &[&str]) -> Desk {
        let mut desk = Desk::new(TIMES);
        for user in users {
            desk.user(&name(user), record(user, &[1], 0), &BTreeMap::new(), Timestamp(0));
        }
        desk
    }

    #[test]
    fn each_user_of_a_conversation_gets_one_decision_a_message_whatever_is_offered_again() {
        let mut desk = desk(&["bob", "cem"]);
        assert!(
            desk.offers(log(1), &offers(1, 3, false, 1), Timestamp(1)).decisions.is_empty(),
            "no wish was answered"
        );
        assert!(desk.offers(log(1), &offers(1, 3, true, 1), Timestamp(1)).decisions.is_empty(), "the grace");
        desk.offers(log(1), &offers(2, 3, false, 1), Timestamp(2));
        let turn = desk.elapsed(Timestamp(1_001));
        assert_eq!(withheld(&turn), [None; 4]);
        assert_eq!(turn.pushes.len(), 2, "one a user");
        assert_eq!(desk.kept(&name("bob"), log(1)).unwrap().decided, Some(at(1, 2)));
        let wish = desk.wish(log(1));
        assert!(wish.users.iter().all(|wanted| wanted.after == at(1, 2) && wanted.since.is_none()));
        desk.offers(log(1), &offers(1, 3, true, 1), Timestamp(2_000));
        assert_eq!((desk.elapsed(Timestamp(9_000)).decisions.len(), desk.due()), (0, None));
    }

    #[test]
    fn an_answer_to_one_users_wish_is_not_taken_for_one_to_another_users_who_lacks_more() {
        let mut desk = Desk::new(TIMES);
        for (user, decided) in [("bob", 2), ("cem", 1)] {
            let kept = BTreeMap::from([(log(1), Kept { decided: Some(at(1, decided)), shown: Vec::new() })]);
            desk.user(&name(user), record(user, &[1], 0), &kept, Timestamp(0));
        }
        let for_bob = Offers { starts: vec![(name("bob"), at(1, 2))], ..offers(3, 4, true, 1) };
        desk.offers(log(1), &for_bob, Timestamp(1));
        let for_cem = Offers { starts: vec![(name("cem"), at(1, 1))], ..offers(2, 4, true, 1) };
        desk.offers(log(1), &for_cem, Timestamp(2));
        let turn = desk.elapsed(Timestamp(9_000));
        let of = |user: &str| turn.decisions.iter().filter(|(of, _)| *of == name(user)).count();
        assert_eq!((of("bob"), of("cem")), (1, 2));
        // A home of an earlier version says where it begins for those alone of whom nothing is decided.
        desk.wish(log(1));
        desk.offers(log(1), &Offers { starts: Vec::new(), ..offers(4, 5, true, 1) }, Timestamp(9_001));
        assert_eq!(desk.elapsed(Timestamp(19_000)).decisions.len(), 2);
    }

    #[test]
    fn what_a_home_offers_that_does_not_know_of_a_user_yet_is_not_taken_for_messages_that_do_not_name_it() {
        let mut desk = Desk::new(TIMES);
        let mentions = Preferences { policy: PushPolicy::Mentions, muted_until: None };
        let mut fresh = Vec::new();
        for user in ["bob", "cem"] {
            let kept = BTreeMap::from([(log(1), Kept { decided: Some(at(1, 2)), shown: Vec::new() })]);
            let wants = DeskUser { preferences: BTreeMap::from([(log(1), mentions)]), ..record(user, &[1], 0) };
            fresh.extend(desk.user(&name(user), wants, &kept, Timestamp(0)).wishes.into_iter().map(|wish| wish.fresh));
        }
        assert_eq!(fresh, [true, false], "the first one says that it is all");
        // The home knows of bob alone, and begins below what cem lacks.
        let for_bob = Offers { starts: vec![(name("bob"), at(1, 2))], ..offers(1, 4, true, 1) };
        desk.offers(log(1), &for_bob, Timestamp(1));
        let mut for_both = Offers { starts: ["bob", "cem"].map(|user| (name(user), at(1, 2))).into(), ..for_bob };
        for_both.items[2].mentions.insert(name("cem"));
        desk.offers(log(1), &for_both, Timestamp(2));
        let turn = desk.elapsed(Timestamp(9_000));
        let why = turn.decisions.iter().map(|(user, decision)| (user.as_str(), decision.withheld));
        assert_eq!(why.collect::<Vec<_>>(), [("bob", Some(Withheld::NotMentioned)), ("cem", None)]);
    }

    #[test]
    fn what_is_offered_again_of_before_a_user_came_withholds_nothing_of_since() {
        let mut desk = desk(&["bob"]);
        desk.offers(log(1), &offers(5, 6, true, 1), Timestamp(1));
        let before = Offers { gone: vec![name("bob")], ..offers(3, 5, true, 1) };
        assert!(desk.offers(log(1), &before, Timestamp(2)).decisions.is_empty());
        let since = Offers { gone: vec![name("bob")], ..offers(6, 7, false, 1) };
        desk.offers(log(1), &offers(5, 6, false, 1), Timestamp(3));
        assert_eq!(withheld(&desk.offers(log(1), &since, Timestamp(4))), [Some(Withheld::Unwanted)]);
    }

    #[test]
    fn what_is_missing_between_offers_is_asked_for_and_nothing_above_it_is_taken_before() {
        let mut desk = desk(&["bob"]);
        desk.offers(log(1), &offers(1, 2, true, 1), Timestamp(1));
        let turn = desk.offers(log(1), &offers(3, 4, false, 1), Timestamp(2));
        assert_eq!((turn.wishes.len(), turn.wishes[0].fresh), (1, true));
        desk.offers(log(1), &offers(4, 5, false, 1), Timestamp(3));
        desk.offers(log(1), &offers(1, 5, true, 1), Timestamp(4));
        assert_eq!(withheld(&desk.elapsed(Timestamp(1_004))), [None; 4]);
    }

    #[test]
    fn who_subscribes_is_not_woken_for_what_was_said_before_and_another_process_goes_on_from_what_is_kept() {
        let mut desk = Desk::new(TIMES);
        let turn = desk.user(&name("bob"), record("bob", &[1], 50), &BTreeMap::new(), Timestamp(50));
        assert_eq!(turn.wishes[0].users[0].since, Some(Timestamp(50)));
        // It begins lower for somebody else, and at 6 for bob.
        let begins = Offers { starts: vec![(name("bob"), at(1, 5))], ..offers(4, 6, true, 49) };
        desk.offers(log(1), &begins, Timestamp(51));
        desk.offers(log(1), &offers(6, 8, false, 50), Timestamp(52));
        assert_eq!(withheld(&desk.elapsed(Timestamp(2_000))), [None; 2]);
        let kept = desk.kept(&name("bob"), log(1)).unwrap();
        assert_eq!((kept.decided, kept.shown.len()), (Some(at(1, 7)), 2));
        let mut next = Desk::new(TIMES);
        let kept = BTreeMap::from([(log(1), kept)]);
        let turn = next.user(&name("bob"), record("bob", &[1], 50), &kept, Timestamp(2_100));
        assert_eq!((turn.wishes[0].users[0].after, turn.wishes[0].users[0].since), (at(1, 7), None));
        let read = Offers { reads: vec![(name("bob"), vec![at(1, 8)])], ..offers(6, 9, true, 50) };
        let turn = next.offers(log(1), &read, Timestamp(2_200));
        assert_eq!(turn.pushes[0].2.showing, Showing::Clear, "what an earlier process pushed is read");
        assert_eq!(withheld(&next.elapsed(Timestamp(9_000))), [Some(Withheld::Read)]);
    }

    #[test]
    fn who_leaves_or_goes_elsewhere_is_watched_for_no_more_and_nothing_of_it_is_kept() {
        let mut desk = desk(&["bob", "cem"]);
        desk.offers(log(1), &offers(1, 2, true, 1), Timestamp(1));
        let turn = desk.user(&name("bob"), record("bob", &[], 0), &BTreeMap::new(), Timestamp(2));
        assert_eq!(withheld(&turn), [Some(Withheld::Unwanted)]);
        assert_eq!((turn.wishes[0].fresh, turn.wishes[0].users.len()), (true, 1), "cem is watched for still");
        assert_eq!(desk.kept(&name("bob"), log(1)), None);
        let turn = desk.gone(&name("cem"));
        assert!(turn.decisions.is_empty() && turn.wishes[0].users.is_empty());
        assert_eq!((desk.due(), desk.logs_after(None, 9).len(), desk.has(&name("cem"))), (None, 0, false));
    }

    #[test]
    fn preferences_and_views_reach_the_user_whom_they_are_of() {
        let mut desk = desk(&["bob", "cem"]);
        let mentions = Preferences { policy: PushPolicy::Mentions, muted_until: None };
        let wants = DeskUser { preferences: BTreeMap::from([(log(1), mentions)]), ..record("bob", &[1], 0) };
        desk.user(&name("bob"), wants, &BTreeMap::new(), Timestamp(0));
        let place = (RegionId::new("eu-west").unwrap(), DeviceId(Uuid::nil()));
        desk.viewed(&name("cem"), place, Some(log(1)), Timestamp(0));
        let turn = desk.offers(log(1), &offers(1, 2, true, 1), Timestamp(1));
        assert_eq!(withheld(&turn), [Some(Withheld::InView)]);
        assert_eq!(withheld(&desk.elapsed(Timestamp(1_001))), [Some(Withheld::NotMentioned)]);
        let gone = Offers { gone: vec![name("bob")], ..offers(2, 2, false, 1) };
        desk.offers(log(1), &gone, Timestamp(1_500));
        desk.offers(log(1), &offers(2, 3, false, 1_500), Timestamp(1_600));
        let turn = desk.elapsed(Timestamp(2_700));
        let why = [Some(Withheld::NotMentioned)];
        assert_eq!(withheld(&turn), why, "who left and is a member again wants what it wanted");
        desk.user(&name("bob"), record("bob", &[1], 0), &BTreeMap::new(), Timestamp(2_800));
        desk.offers(log(1), &offers(3, 4, false, 2_000), Timestamp(7_000));
        assert_eq!(withheld(&desk.elapsed(Timestamp(8_000))), [None; 2]);
    }
}
