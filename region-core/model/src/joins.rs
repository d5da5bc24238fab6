//! Who joins a large conversation: requests to add members that come within a second share one entry, so that a channel
//! of many thousand members is not told of each by itself (protocol.md, "Limits").
//!
//! A request waits behind its dedup lookup, decided and not numbered. An entry has one sender, so that those of each
//! adder make one of their own. What an entry changes is judged when it is made: a request is refused alone. Every
//! request keeps its idempotency key, which the entry carries: its retry is answered by the entry wherever that goes.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::entry::MemberAction;
use hearth_protocol::joins::encode_joins;
use hearth_protocol::{Change, EntryKind, JoinRequest, Level, Refusal, UserId, limits};

use crate::command::{Command, Outcome};
use crate::core::Context;
use crate::home::answer;
use crate::log::{Log, Waiter};
use crate::view::{Decision, View};

/// The first who waits does so for this long.
const JOINS_WAIT_MILLISECONDS: u64 = 1_000;
/// Users who wait to become members at most: then they wait no longer. An entry has as many, or those of one request: of
/// the longest ids it is 90 KB.
const JOINING_USERS: usize = limits::MEMBERS_PER_REQUEST;

/// A request to add members, and who waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Join<R> {
    pub(crate) command: Command,
    pub(crate) salt: [u8; 16],
    pub(crate) waiter: Waiter<R>,
}

impl<R> Join<R> {
    pub(crate) fn into_parts(self) -> (Command, [u8; 16], Waiter<R>) {
        (self.command, self.salt, self.waiter)
    }
}

/// Requests that wait for others. Bounded: when they are full, an entry is made of them.
#[derive(Debug)]
pub(crate) struct Joins<R> {
    waiting: Vec<Join<R>>,
    /// Whom they name.
    users: BTreeSet<UserId>,
    /// When the first of them came, in milliseconds.
    since: u64,
}

impl<R> Default for Joins<R> {
    fn default() -> Self {
        Self { waiting: Vec::new(), users: BTreeSet::new(), since: 0 }
    }
}

impl<R> Joins<R> {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes all of them.
    pub(crate) fn take(&mut self) -> Vec<Join<R>> {
        std::mem::take(self).waiting
    }

    /// Forgets who asked from another region: the requests stay.
    pub(crate) fn forget_waiters(&mut self, is_gone: impl Fn(&Waiter<R>) -> bool) {
        for join in self.waiting.iter_mut().filter(|join| is_gone(&join.waiter)) {
            join.waiter = Waiter::Gone;
        }
    }

    /// Whether a command is to be decided behind them: its sender waits to be a member, or it changes what they depend on
    /// or what depends on them.
    fn concern(&self, command: &Command) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let adds = |user: &UserId| self.waiting.iter().any(|join| join.command.sender == *user);
        let named = || match Change::decode(&command.content) {
            Some(Change::Members { users, .. }) => users.iter().any(|user| self.users.contains(user) || adds(user)),
            _ => false,
        };
        self.users.contains(&command.sender)
            || command.kind == EntryKind::System
            || (command.kind == EntryKind::Member && named())
    }

    /// Whether so many more users may wait with them.
    fn has_room(&self, users: usize) -> bool {
        self.waiting.len() < limits::JOINS_OF_AN_ENTRY && self.users.len() + users <= JOINING_USERS
    }
}

/// What one entry makes of the requests of one adder.
struct Batch<R> {
    requests: Vec<JoinRequest>,
    users: BTreeSet<UserId>,
    joins: Vec<Join<R>>,
}

impl<R> Batch<R> {
    fn new() -> Self {
        Self { requests: Vec::new(), users: BTreeSet::new(), joins: Vec::new() }
    }

    /// Takes a request, unless it is refused. One whose users are members by the others waits with them.
    fn take(&mut self, join: Join<R>, users: Vec<UserId>) {
        if users.is_empty() {
            self.joins.push(Join { waiter: join.waiter.into_retry(), ..join });
            return;
        }
        self.users.extend(users.iter().cloned());
        self.requests.push(JoinRequest { id: join.command.id, users });
        self.joins.push(join);
    }
}

/// Whom a command adds, when it is a request to add members.
fn added_by(command: &Command) -> Option<Vec<UserId>> {
    match Change::decode(&command.content).filter(|_| command.kind == EntryKind::Member) {
        Some(Change::Members { action: MemberAction::Add(_), users }) => Some(users),
        _ => None,
    }
}

impl<R: Clone> Log<R> {
    /// Whether a command waits for others, and whom it adds. What comes back with a tail had an entry once.
    pub(crate) fn joins_with_others(&self, command: &Command, context: &Context<'_, R>) -> Option<Vec<UserId>> {
        let large = self.view.members().is_some_and(|members| members.len() > context.bounds.fanout_threshold);
        if large && command.original_time.is_none() { added_by(command) } else { None }
    }

    /// Decides what waits before a command that is not to be decided without it.
    pub(crate) fn make_joins_before(&mut self, command: &Command, context: &mut Context<'_, R>) {
        if self.home.joins.concern(command) {
            self.make_joins(context);
        }
    }

    /// Keeps a request to add `users` for its second. What is refused already, or so already, does not wait.
    pub(crate) fn wait_for_others(&mut self, join: Join<R>, users: Vec<UserId>, context: &mut Context<'_, R>) {
        let asks = self.home.joins.users.contains(&join.command.sender);
        if asks || !self.home.joins.has_room(users.len()) {
            self.make_joins(context);
        }
        match self.judge(&join.command, None, context) {
            Decision::Refuse(refusal) => answer(join.waiter, Outcome::Refused(refusal), context.effects, self.id),
            Decision::AlreadySo => self.answer_already(join.waiter, context),
            Decision::Append { .. } => {
                let joins = &mut self.home.joins;
                if joins.waiting.is_empty() {
                    joins.since = context.now.monotonic;
                }
                joins.users.extend(users);
                joins.waiting.push(join);
                if !joins.has_room(1) {
                    // Nobody else has room with them.
                    self.make_joins(context);
                }
            }
        }
    }

    /// Makes entries of the requests that wait, once the first did so for a second: less, where sends are to be answered
    /// sooner than they are by default.
    pub(crate) fn make_due_joins(&mut self, context: &mut Context<'_, R>) {
        let wait = JOINS_WAIT_MILLISECONDS.min(context.copies_patience / 3);
        if self.home.joins.len() > 0 && context.now.monotonic >= self.home.joins.since + wait {
            self.make_joins(context);
        }
    }

    /// Makes entries of the requests that wait: one for each adder, in the order in which they asked first.
    pub(crate) fn make_joins(&mut self, context: &mut Context<'_, R>) {
        let waiting = self.home.joins.take();
        if !self.may_ack(context) {
            context.homeless.extend(waiting.into_iter().map(Join::into_parts));
            return;
        }
        let mut adders: BTreeMap<UserId, usize> = BTreeMap::new();
        let mut asked: Vec<Vec<Join<R>>> = Vec::new();
        for join in waiting {
            let place = *adders.entry(join.command.sender.clone()).or_insert(asked.len());
            if place == asked.len() {
                asked.push(Vec::new());
            }
            asked[place].push(join);
        }
        for joins in asked {
            self.make_entry_of(joins, context);
        }
    }

    /// Makes one entry of requests of one adder; each that may not be done now is refused.
    fn make_entry_of(&mut self, joins: Vec<Join<R>>, context: &mut Context<'_, R>) {
        let mut batch = Batch::new();
        for join in joins {
            let twice = batch.requests.iter().any(|request| request.id == join.command.id);
            let taken = if twice { Ok(Vec::new()) } else { self.joiners_of(&join.command, &batch.users, context) };
            match taken {
                Ok(users) => batch.take(join, users),
                Err(refusal) => answer(join.waiter, Outcome::Refused(refusal), context.effects, self.id),
            }
        }
        let Batch { requests, mut joins, .. } = batch;
        let Some(first) = requests.first() else {
            joins.into_iter().for_each(|join| self.answer_already(join.waiter, context));
            return;
        };
        let first = joins.iter().find(|join| join.command.id == first.id).map(|join| (join.command.clone(), join.salt));
        let Some((command, salt)) = first else { return };
        let (sender, sequence) = (command.sender.clone(), self.length);
        let command = Command { content: encode_joins(&requests), level: Some(Level::Majority), ..command };
        self.append(command, false, salt, Waiter::Gone, context);
        let ids = requests.into_iter().map(|request| (sender.clone(), request.id));
        self.home.note_in_flight(ids, sequence);
        joins.retain(|join| !matches!(join.waiter, Waiter::Gone));
        self.home.waiters += joins.len();
        if let Some(pending) = self.pending.back_mut() {
            pending.joins = joins;
        }
    }

    fn joiners_of(
        &self,
        command: &Command,
        others: &BTreeSet<UserId>,
        context: &Context<'_, R>,
    ) -> Result<Vec<UserId>, Refusal> {
        let View::Conversation(state) = &self.view else { return Err(Refusal::no_conversation()) };
        state.joiners(&command.sender, added_by(command).unwrap_or_default(), others, context.bounds)
    }
}
