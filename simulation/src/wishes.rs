//! Clients change what they are woken for while a run goes on: they subscribe, get other tokens, unsubscribe, and want
//! other things of their conversations. Each change is a command to the user's record at its home, as
//! `region-core/src/push/calls.rs` gives it, so that records say what holds, and regions hear of it as they do.

use std::collections::BTreeMap;

use hearth_protocol::ids::direct_conversation;
use hearth_protocol::push::{Preferences, PushPolicy, Subscription, Target};
use hearth_protocol::{Change, ConversationId, DeviceId, EntryKind, LogId, LogKind, Timestamp, UserId};
use region_model::ports::LogAppend;
use region_model::view::{PushState, View};
use uuid::Uuid;

use crate::errands::{Done, Step, change};
use crate::history::InForce;
use crate::plan::SECOND;
use crate::random::Random;
use crate::woken::number_of;
use crate::world::World;

/// Of a hundred times that a client does something, it changes something of this so often.
const CHANGES: u64 = 8;
/// Of a hundred changes so many are each of these, by what its record says; the others are of what it wants.
const SUBSCRIBES_AGAIN: u64 = 60;
const UNSUBSCRIBES: u64 = 12;
const GETS_ANOTHER_TOKEN: u64 = 12;
/// Whoever mutes a conversation does so for these milliseconds, at least and at most, or for good.
const MUTED_FOR: (u64, u64) = (SECOND / 1_000, 40 * SECOND / 1_000);

/// What a change comes to.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Subscription(Option<Uuid>),
    Of(ConversationId, Preferences),
}

/// A change that a client asked for.
#[derive(Debug)]
struct Asked {
    client: usize,
    at: u64,
    /// The id of its entry.
    entry: Uuid,
    wish: Wish,
    /// When its home said that it stands.
    acked: Option<u64>,
}

/// What the run keeps of it.
#[derive(Debug)]
pub(crate) struct Wishes {
    random: Random,
    asked: Vec<Asked>,
    /// When an entry of a record was first on its way to a disk: nobody knew of it before.
    begun: BTreeMap<Uuid, u64>,
    /// Tokens that devices of each client have had.
    tokens: BTreeMap<usize, u64>,
}

impl Wishes {
    pub(crate) fn new(seed: u64) -> Self {
        let random = Random::of(seed, "wishes", 0);
        Self { random, asked: Vec::new(), begun: BTreeMap::new(), tokens: BTreeMap::new() }
    }
}

/// What somebody who sees all disks knows of what a user was to be woken for.
#[derive(Debug, Default)]
pub(crate) struct Says {
    pub(crate) subscriptions: Vec<InForce<Option<Uuid>>>,
    pub(crate) preferences: BTreeMap<ConversationId, Vec<InForce<Preferences>>>,
    /// When it first asked to be subscribed, or `u64::MAX`.
    pub(crate) first_asked: u64,
}

impl Says {
    fn take(&mut self, before: &PushState, after: &PushState, of: InForce<()>) {
        let subscription = |state: &PushState| state.subscriptions.keys().next().copied();
        if subscription(before) != subscription(after) {
            self.subscriptions.push(of.of(subscription(after)));
        }
        for id in before.preferences.keys().chain(after.preferences.keys()) {
            let wants = after.preferences(*id);
            let list = self.preferences.entry(*id).or_default();
            if before.preferences(*id) != wants && list.last().is_none_or(|last| last.what != wants) {
                list.push(of.of(wants));
            }
        }
    }

    /// What was on its way and is not in the line may have been in force from then on.
    fn take_left_out(&mut self, wish: Wish, from: u64) {
        let of = InForce { epoch: u64::MAX, from, known: u64::MAX, what: () };
        match wish {
            Wish::Subscription(what) => self.subscriptions.push(of.of(what)),
            Wish::Of(id, what) => self.preferences.entry(id).or_default().push(of.of(what)),
        }
    }
}

impl World {
    /// A client who is woken did something: at times it wants something else from then on.
    pub(crate) fn wishes_act(&mut self, id: u64) {
        if self.now >= self.plan.calm_at || !self.push.wishes.random.percent(CHANGES) {
            return;
        }
        let Some(connection) = self.connections.get(&id) else { return };
        let (client, region) = (connection.client, connection.region);
        let Some((home, push)) = self.record_in_reach(region, client) else { return };
        let is_first = !self.push.wishes.tokens.contains_key(&client);
        let random = &mut self.push.wishes.random;
        match push.subscriptions.keys().next().copied() {
            None if is_first || random.percent(SUBSCRIBES_AGAIN) => self.subscribes(client, region, home),
            Some(_) if random.percent(GETS_ANOTHER_TOKEN) => self.subscribes(client, region, home),
            Some(id) if random.percent(UNSUBSCRIBES) => {
                let change = Change::Unsubscribed { id, registered_until: Timestamp(u64::MAX) };
                self.ask_record(client, home, &change, Wish::Subscription(None));
            }
            _ => self.prefers(client, region, home),
        }
    }

    /// The home of a client's record and what that says, where its region and the home answer each other.
    fn record_in_reach(&mut self, region: usize, client: usize) -> Option<(usize, PushState)> {
        let log = LogId::user(&self.clients[client].user);
        let placement = self.look(region, log, true).placement?;
        let home = self.place_of(&placement.home)?;
        if !self.regions[home].runs() || (home != region && !self.links.calls(region, home)) {
            return None;
        }
        let View::User(state) = self.look(home, log, false).view else { return None };
        Some((home, state.push.clone()))
    }

    fn subscribes(&mut self, client: usize, region: usize, home: usize) {
        let wishes = &mut self.push.wishes;
        let number = wishes.tokens.entry(client).or_default();
        // A device may come again with the token that it had.
        if *number == 0 || wishes.random.percent(50) {
            *number += 1;
        }
        let user = &self.clients[client].user;
        let target = Target::Fcm { registration: format!("token {number} of {user}") };
        let at = self.regions[region].clock.wall(self.now);
        let subscription = Subscription::new(user, DeviceId(Uuid::nil()), target, at);
        let wish = Wish::Subscription(Some(subscription.id));
        self.ask_record(client, home, &Change::Subscribed(subscription), wish);
    }

    fn prefers(&mut self, client: usize, region: usize, home: usize) {
        let wall = self.regions[region].clock.wall(self.now);
        let of = &self.clients[client].conversations;
        let random = &mut self.push.wishes.random;
        let Some(conversation) = of.get(random.below(of.len())).copied() else { return };
        let all = Preferences::default();
        let wants = match random.below(10) {
            0..=3 => all,
            4 | 5 => Preferences { policy: PushPolicy::Mentions, ..all },
            6 => Preferences { policy: PushPolicy::None, ..all },
            7 => Preferences { muted_until: Some(Timestamp(u64::MAX)), ..all },
            _ => {
                let muted_for = random.between(MUTED_FOR.0, MUTED_FOR.1);
                Preferences { muted_until: Some(Timestamp(wall.0 + muted_for)), ..all }
            }
        };
        let of = &self.conversations[conversation];
        if of.ready {
            let id = of.id;
            let (muted_until, policy) = (Some(wants.muted_until), Some(wants.policy));
            let change = Change::Preferred { conversation: id, muted_until, policy };
            self.ask_record(client, home, &change, Wish::Of(id, wants));
        }
    }

    fn ask_record(&mut self, client: usize, home: usize, what: &Change, wish: Wish) {
        let entry = self.push.wishes.random.uuid();
        let log = LogId::user(&self.clients[client].user);
        let sender = region_model::region_sender(&self.regions[home].id);
        let command = change(sender, log, EntryKind::User, entry, what.encode(), self, home);
        let number = self.push.wishes.asked.len();
        self.push.wishes.asked.push(Asked { client, at: self.now, entry, wish, acked: None });
        self.trace.count(self.now, "wish-asked", client as u64, number as u64);
        self.begin_errand(home, [Step::Command(Box::new(command))], Done::Wished(number));
    }

    /// The home of a record says that a change stands.
    pub(crate) fn wished(&mut self, number: usize) {
        self.trace.count(self.now, "wished", number as u64, 0);
        self.push.wishes.asked[number].acked = Some(self.now);
        self.push.changed = self.now;
    }

    /// A region has its store append to a log.
    pub(crate) fn wishes_append(&mut self, append: &LogAppend) {
        if append.log.kind == LogKind::User {
            for entry in &append.entries {
                self.push.wishes.begun.entry(entry.entry.fixed.id).or_insert(self.now);
            }
        }
    }

    /// What a client's record says at the end, and since when.
    pub(crate) fn said_by_record(&self, client: usize) -> Says {
        let log = LogId::user(&self.clients[client].user);
        let wishes = &self.push.wishes;
        let mut asked: BTreeMap<Uuid, &Asked> =
            wishes.asked.iter().filter(|asked| asked.client == client).map(|asked| (asked.entry, asked)).collect();
        let copies = self.regions.iter().filter_map(|region| region.disk.logs.get(&log));
        let entries = copies.max_by_key(|copy| copy.length()).into_iter().flat_map(|copy| copy.entries.values());
        let (mut view, mut says, mut before) = (View::Empty, Says::default(), PushState::default());
        for entry in entries {
            view.fold(entry);
            let id = entry.entry.fixed.id;
            let known = asked.remove(&id).and_then(|asked| asked.acked).unwrap_or(u64::MAX);
            let View::User(state) = &view else { continue };
            let from = wishes.begun.get(&id).copied().unwrap_or(0);
            says.take(&before, &state.push, InForce { epoch: entry.epoch().0, from, known, what: () });
            before = state.push.clone();
        }
        let of_client = wishes.asked.iter().filter(|asked| asked.client == client);
        let subscribes = |asked: &&Asked| matches!(asked.wish, Wish::Subscription(Some(_)));
        says.first_asked = of_client.filter(subscribes).map(|asked| asked.at).min().unwrap_or(u64::MAX);
        for (id, left_out) in asked {
            if let Some(from) = wishes.begun.get(&id) {
                says.take_left_out(left_out.wish, *from);
            }
        }
        says
    }

    /// What each client who is woken wants of a conversation, and that it blocks the other one there.
    pub(crate) fn wanted_of(
        &self,
        user: &UserId,
        conversation: ConversationId,
        says: &Says,
    ) -> Vec<InForce<Preferences>> {
        let blocks = number_of(user).and_then(|client| self.blocked_by(client));
        if blocks.is_some_and(|other| direct_conversation(user, other) == conversation) {
            let nothing = Preferences { policy: PushPolicy::None, muted_until: None };
            return vec![InForce { epoch: 0, from: 0, known: 0, what: nothing }];
        }
        says.preferences.get(&conversation).cloned().unwrap_or_default()
    }
}
