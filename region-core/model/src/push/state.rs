//! One user's part: what waits, what was decided, what the devices show.

use std::collections::{BTreeMap, VecDeque};

use hearth_protocol::{DeviceId, LogId, Position, RegionId, Timestamp, UserId};
use uuid::Uuid;

use super::{
    CONVERSATIONS, COUNTED, Decision, Offer, Outcome, Preferences, Push, PushPolicy, PushTimes, READ_EPOCHS,
    REMEMBERED, Showing, VIEWS, WAITING, Withheld,
};
use crate::mutants::Mutant;

#[derive(Clone, Debug)]
struct Waiting {
    offer: Offer,
    due: u64,
}

#[derive(Clone, Copy, Debug)]
struct Pushed {
    position: Position,
    mentions: bool,
}

#[derive(Clone, Debug, Default)]
struct Conversation {
    /// The newest position that was taken; what is not above it is a repeat.
    taken: Option<Position>,
    read: Read,
    waiting: VecDeque<Waiting>,
    /// What the devices show, ascending; the newest [`COUNTED`].
    pushed: VecDeque<Pushed>,
    used: u64,
}

impl Conversation {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.pushed.is_empty()
    }
}

/// Up to where the user read, under each epoch that says more than a later one: a cursor of an older epoch says nothing of
/// what a newer one sequenced, and one of a newer epoch may be further back.
#[derive(Clone, Debug, Default)]
struct Read(Vec<Position>);

/// Whether one cursor says all that another one says.
fn says_more(cursor: Position, other: Position) -> bool {
    cursor.epoch >= other.epoch && cursor.sequence >= other.sequence
}

impl Read {
    fn take(&mut self, cursor: Position) {
        if self.covers(cursor) {
            return;
        }
        self.0.retain(|other| !says_more(cursor, *other));
        self.0.push(cursor);
        self.0.sort_unstable();
        if self.0.len() > READ_EPOCHS {
            self.0.remove(0);
        }
    }

    fn covers(&self, position: Position) -> bool {
        self.0.iter().any(|cursor| says_more(*cursor, position))
    }
}

/// A view of one device, by the region that it is connected to.
#[derive(Clone, Copy, Debug)]
struct View {
    log: LogId,
    until: u64,
}

/// What is kept of the decisions on one conversation, for another process to go on from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Up to where it is decided.
    pub decided: Option<Position>,
    /// What the devices show, ascending, each with whether it names the user.
    pub shown: Vec<(Position, bool)>,
}

/// Push decisions of one user, at the home of the user's record.
#[derive(Clone, Debug)]
pub struct UserPush {
    user: UserId,
    times: PushTimes,
    conversations: BTreeMap<LogId, Conversation>,
    /// Those that are not the default; as many as the user's record has.
    preferences: BTreeMap<LogId, Preferences>,
    views: BTreeMap<(RegionId, DeviceId), View>,
    remembered: VecDeque<Uuid>,
}

impl UserPush {
    /// Nothing is decided yet.
    #[must_use]
    pub fn new(user: UserId, times: PushTimes) -> Self {
        Self {
            user,
            times,
            conversations: BTreeMap::new(),
            preferences: BTreeMap::new(),
            views: BTreeMap::new(),
            remembered: VecDeque::new(),
        }
    }

    /// Goes on from what another home, or an earlier process, had decided and knew to be read.
    pub fn resume(&mut self, log: LogId, decided: Option<Position>, read: &[Position]) {
        let conversation = self.conversations.entry(log).or_default();
        conversation.taken = conversation.taken.max(decided);
        for cursor in read {
            conversation.read.take(*cursor);
        }
    }

    /// As [`UserPush::resume`], and what the devices show goes once it is read.
    pub fn restore(&mut self, log: LogId, kept: &Kept) {
        self.resume(log, kept.decided, &[]);
        if let Some(conversation) = self.conversations.get_mut(&log) {
            let shown =
                kept.shown.iter().map(|(position, mentions)| Pushed { position: *position, mentions: *mentions });
            conversation.pushed = shown.collect();
        }
    }

    /// What the devices show of a conversation, as [`Kept`] has it.
    #[must_use]
    pub fn shown(&self, log: LogId) -> Vec<(Position, bool)> {
        let pushed = self.conversations.get(&log).map(|conversation| &conversation.pushed);
        pushed.into_iter().flatten().map(|pushed| (pushed.position, pushed.mentions)).collect()
    }

    /// The newest position of a conversation that was taken.
    #[must_use]
    pub fn taken(&self, log: LogId) -> Option<Position> {
        self.conversations.get(&log)?.taken
    }

    /// Up to where a conversation is decided, to be kept: below what waits.
    #[must_use]
    pub fn decided(&self, log: LogId) -> Option<Position> {
        let conversation = self.conversations.get(&log)?;
        let first = conversation.waiting.front().map(|waiting| waiting.offer.position);
        match first.filter(|_| !Mutant::WaitingCountsAsDecided.is_on()) {
            None => conversation.taken,
            Some(Position { epoch, sequence }) => {
                Some(Position { epoch, sequence: hearth_protocol::Sequence(sequence.0.saturating_sub(1)) })
            }
        }
    }

    /// A message is offered. A repeat gives nothing.
    pub fn offered(&mut self, offer: Offer, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        let log = offer.log;
        if self.conversation(log, now).taken.is_some_and(|taken| offer.position <= taken) {
            return outcome;
        }
        let at_once = if offer.sender == self.user {
            Some(Withheld::Own)
        } else if self.remembered.contains(&offer.message) {
            Some(Withheld::Repeated)
        } else {
            self.in_view(log, now).then_some(Withheld::InView)
        };
        self.remember(offer.message);
        let due = now.0.saturating_add(self.times.grace);
        let conversation = self.conversation(log, now);
        conversation.taken = Some(offer.position);
        if let Some(why) = at_once {
            outcome.decisions.push(decision(&offer, Some(why)));
            return outcome;
        }
        conversation.waiting.push_back(Waiting { offer, due });
        if conversation.waiting.len() > WAITING {
            self.decide(log, now, None, |at, _| at == 0, &mut outcome);
        }
        self.forget(log, now, &mut outcome);
        outcome
    }

    /// A device's session has a conversation in view (`None`: none of them, or the session is over or in the
    /// background). A region says it again within [`PushTimes::view_counts`] for as long as it is so. What waits of that
    /// conversation is withheld.
    pub fn viewed(&mut self, region: RegionId, device: DeviceId, log: Option<LogId>, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        self.views.retain(|_, view| view.until > now.0);
        let key = (region, device);
        let Some(log) = log else {
            self.views.remove(&key);
            return outcome;
        };
        self.decide(log, now, Some(Withheld::InView), |_, _| true, &mut outcome);
        self.views.insert(key, View { log, until: now.0.saturating_add(self.times.view_counts) });
        if self.views.len() > VIEWS
            && let Some(oldest) = self.views.iter().min_by_key(|(_, view)| view.until).map(|(key, _)| key.clone())
        {
            self.views.remove(&oldest);
        }
        outcome
    }

    /// The user read up to a position. What waits for it is withheld when its grace is over; what the devices show goes
    /// once all of it is read.
    pub fn read(&mut self, log: LogId, up_to: Position, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        let conversation = self.conversation(log, now);
        conversation.read.take(up_to);
        let newest = conversation.pushed.back().map(|pushed| pushed.position);
        let Conversation { pushed, read, .. } = conversation;
        pushed.retain(|pushed| !read.covers(pushed.position));
        if let Some(position) = newest.filter(|_| conversation.pushed.is_empty()) {
            outcome.pushes.push(Push { log, position, showing: Showing::Clear });
        }
        self.forget(log, now, &mut outcome);
        outcome
    }

    /// The user wants something else of a conversation from now on.
    pub fn prefers(&mut self, log: LogId, preferences: Preferences) {
        if preferences == Preferences::default() {
            self.preferences.remove(&log);
        } else {
            self.preferences.insert(log, preferences);
        }
    }

    /// The user is no member any more: nothing of the conversation is pushed, and what is shown goes. What it wants stays as
    /// its record says: it may be a member again before that tells of either.
    pub fn left(&mut self, log: LogId, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        self.decide(log, now, Some(Withheld::Unwanted), |_, _| true, &mut outcome);
        let Some(conversation) = self.conversations.get_mut(&log) else { return outcome };
        if let Some(pushed) = conversation.pushed.back() {
            outcome.pushes.push(Push { log, position: pushed.position, showing: Showing::Clear });
        }
        conversation.pushed.clear();
        outcome
    }

    /// When [`UserPush::elapsed`] has something to decide.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        self.conversations
            .values()
            .filter_map(|conversation| conversation.waiting.front())
            .map(|w| w.due)
            .min()
            .map(Timestamp)
    }

    /// Decides whatever's grace is over: one push a conversation.
    pub fn elapsed(&mut self, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        let over = |conversation: &Conversation| conversation.waiting.front().is_some_and(|first| first.due <= now.0);
        let logs: Vec<LogId> = self.conversations.iter().filter(|(_, of)| over(of)).map(|(log, _)| *log).collect();
        for log in logs {
            self.decide(log, now, None, |_, waiting| waiting.due <= now.0, &mut outcome);
        }
        outcome
    }

    /// Decides the first of a conversation for as long as `which` (by its index among them) says so; all as `because`,
    /// where that is given.
    fn decide(
        &mut self,
        log: LogId,
        now: Timestamp,
        because: Option<Withheld>,
        which: impl Fn(usize, &Waiting) -> bool,
        outcome: &mut Outcome,
    ) {
        let stale = self.times.stale;
        let preferences = self.preferences.get(&log).copied().unwrap_or_default();
        let Some(conversation) = self.conversations.get_mut(&log) else { return };
        let mut newest = None;
        let mut at = 0;
        while let Some(waiting) = conversation.waiting.pop_front_if(|waiting| which(at, waiting)) {
            at += 1;
            let why = because.or_else(|| withheld(&waiting.offer, &conversation.read, preferences, stale, now));
            outcome.decisions.push(decision(&waiting.offer, why));
            if why.is_some() {
                continue;
            }
            let offer = waiting.offer;
            conversation.pushed.push_back(Pushed { position: offer.position, mentions: offer.mentions });
            if conversation.pushed.len() > COUNTED {
                conversation.pushed.pop_front();
            }
            newest = Some((offer.position, offer.expires_at));
        }
        if let Some((position, expires_at)) = newest {
            let unread = u32::try_from(conversation.pushed.len()).unwrap_or(u32::MAX);
            let mentions = conversation.pushed.iter().any(|pushed| pushed.mentions);
            outcome.pushes.push(Push { log, position, showing: Showing::Notify { unread, mentions, expires_at } });
        }
    }

    fn in_view(&self, log: LogId, now: Timestamp) -> bool {
        self.views.values().any(|view| view.log == log && view.until > now.0)
    }

    fn remember(&mut self, message: Uuid) {
        if self.remembered.contains(&message) {
            return;
        }
        if self.remembered.len() >= REMEMBERED {
            self.remembered.pop_front();
        }
        self.remembered.push_back(message);
    }

    fn conversation(&mut self, log: LogId, now: Timestamp) -> &mut Conversation {
        let conversation = self.conversations.entry(log).or_default();
        conversation.used = conversation.used.max(now.0);
        conversation
    }

    /// Keeps the bound: `used_now` stays, and of the others the one that costs least goes.
    fn forget(&mut self, used_now: LogId, now: Timestamp, outcome: &mut Outcome) {
        if self.conversations.len() <= CONVERSATIONS {
            return;
        }
        let others = self.conversations.iter().filter(|(log, _)| **log != used_now);
        let least = others.min_by_key(|(_, of)| (!of.is_idle(), of.used)).map(|(log, _)| *log);
        if let Some(log) = least {
            self.decide(log, now, None, |_, _| true, outcome);
            self.conversations.remove(&log);
        }
    }
}

fn decision(offer: &Offer, withheld: Option<Withheld>) -> Decision {
    Decision { log: offer.log, position: offer.position, message: offer.message, withheld }
}

/// Why a message whose grace is over wakes nobody.
fn withheld(offer: &Offer, read: &Read, preferences: Preferences, stale: u64, now: Timestamp) -> Option<Withheld> {
    let Preferences { policy, muted_until } = preferences;
    let too_old = now.0 >= offer.sequenced_at.0.saturating_add(stale);
    if read.covers(offer.position) {
        Some(Withheld::Read)
    } else if too_old || offer.expires_at.is_some_and(|at| at <= now) {
        Some(Withheld::Stale)
    } else if muted_until.is_some_and(|until| until > now) {
        Some(Withheld::Muted)
    } else {
        match policy {
            PushPolicy::None => Some(Withheld::Unwanted),
            PushPolicy::Mentions if !offer.mentions => Some(Withheld::NotMentioned),
            PushPolicy::Mentions | PushPolicy::All => None,
        }
    }
}
