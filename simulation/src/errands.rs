//! What shells of regions do on behalf of users beside messages: conversations are made, users arrive, memberships are
//! told and changed. Each is a few commands in a row, tried again until they are done.

use std::collections::VecDeque;

use bytes::Bytes;
use hearth_protocol::entry::{ConversationKind, Forget, MemberAction, Role};
use hearth_protocol::ids::direct_conversation;
use hearth_protocol::record::OutboxRecord;
use hearth_protocol::{Change, ConversationId, EntryKind, Header, Level, LogId, Slot, UserId};
use region_model::view::{Forgotten, default_settings};
use region_model::{Command, Input, LogView, Outcome, region_sender};

use crate::clients::{Client, Conversation, Waits};
use crate::plan::SECOND;
use crate::random::Random;
use crate::region::Ticket;
use crate::world::{Event, World};

/// An answer that did not come within this is asked for again.
const PATIENCE: u64 = 9 * SECOND;
/// After a refusal an errand goes on this much later.
const PAUSE: u64 = SECOND / 2;
/// Members of a group change this often, at least and at most.
const CHURN: (u64, u64) = (4 * SECOND, 12 * SECOND);
/// Members of a group.
const GROUP: usize = 8;
/// Items of the outbox that a region tells at a time.
const TELLING: usize = 64;

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A log has a placement: it is given one if need be.
    Placed(LogId, Level),
    /// The record of a user is there.
    Record(UserId),
    Command(Box<Command>),
    Marked(LogId, u64),
    Follow(LogId),
}

#[derive(Clone, Debug)]
pub(crate) enum Done {
    Nothing,
    Ready(usize),
    Told(OutboxRecord),
    Visited(usize),
    Wished(usize),
}

/// Commands in a row.
#[derive(Debug)]
pub(crate) struct Errand {
    region: usize,
    steps: VecDeque<Step>,
    done: Done,
    /// Whom the answer comes to, and since when it is waited for.
    waits: Option<(Ticket, u64)>,
    /// Whether it had a placement made: until its region knows of it, it is looked for again after a pause.
    placed: bool,
    /// When it goes on: what was planned for another time counts no more.
    goes_on: u64,
}

pub(crate) fn change(
    sender: UserId,
    log: LogId,
    kind: EntryKind,
    id: uuid::Uuid,
    content: Bytes,
    origin: &World,
    at: usize,
) -> Command {
    Command {
        log,
        kind,
        sender,
        id,
        content,
        reply_to: None,
        target: None,
        expires_at: None,
        level: None,
        origin: origin.regions[at].id.clone(),
        original_time: None,
        joined: None,
    }
}

impl World {
    /// Clients, and the conversations that they are in: groups of eight, and pairs.
    pub(crate) fn make_clients(&mut self) {
        let (seed, count, regions) = (self.plan.seed, self.plan.size.clients, self.regions.len());
        self.clients = (0..count).map(|number| Client::new(seed, number, regions)).collect();
        let taking_part = self.plan.clients.clone();
        let mut random = Random::of(seed, "conversations", 0);
        for group in 0..count.div_ceil(GROUP) {
            let members: Vec<usize> = (group * GROUP..(group + 1) * GROUP).map(|number| number % count).collect();
            let admin = members[random.below(GROUP)];
            let guest = (group * GROUP + GROUP + random.below(count.saturating_sub(GROUP).max(1))) % count;
            let log = self.group_log(&mut random, self.clients[admin].prefers);
            self.make_conversation(log, admin, &members, Some(guest).filter(|guest| !members.contains(guest)));
        }
        for pair in 0..count / 2 {
            let (one, other) = (pair * 2, (pair * 2 + 1 + 2 * random.below(count / 2)) % count);
            let id = direct_conversation(&self.clients[one].user, &self.clients[other].user);
            let log = LogId::conversation(id);
            if one != other && !self.by_log.contains_key(&log) {
                self.make_conversation(log, one, &[one, other], None);
            }
        }
        for number in taking_part {
            let begins = self.clients[number].random.between(0, SECOND);
            self.after(begins, Event::Client(number));
        }
    }

    /// An id in a slot that the region stewards.
    fn group_log(&self, random: &mut Random, region: usize) -> LogId {
        loop {
            let log = LogId::conversation(ConversationId(random.uuid()));
            if *self.map.steward(Slot::of(&log)) == self.regions[region].id {
                return log;
            }
        }
    }

    fn make_conversation(&mut self, log: LogId, admin: usize, members: &[usize], guest: Option<usize>) {
        let Some(id) = log.as_conversation() else { return };
        let number = self.conversations.len();
        let direct = members.len() == 2;
        let kind = if direct { ConversationKind::Direct } else { ConversationKind::Group };
        let role = |member: usize| if !direct && member == admin { Role::Admin } else { Role::Member };
        let mut unique = members.to_vec();
        unique.sort_unstable();
        unique.dedup();
        let header = Header::Conversation {
            kind,
            name: (!direct).then(|| format!("group {number}")),
            settings: default_settings(kind),
            members: unique.iter().map(|member| (self.clients[*member].user.clone(), role(*member))).collect(),
        };
        for member in &unique {
            self.clients[*member].conversations.push(number);
        }
        let conversation = Conversation { id, log, admin, guest, ready: false, churn: None, guest_is_in: false };
        self.conversations.push(conversation);
        self.by_log.insert(log, number);
        // Every third conversation loses nothing at a failover.
        let level = if number.is_multiple_of(3) { Level::TwoRegions } else { Level::Region };
        // Both of a pair ask first, each at its region.
        let makers = if direct { unique } else { vec![admin] };
        for maker in makers {
            let region = self.clients[maker].prefers;
            let sender = self.clients[maker].user.clone();
            let id = self.random.uuid();
            let command = change(sender, log, EntryKind::Header, id, header.encode(), self, region);
            let steps = [Step::Placed(log, level), Step::Command(Box::new(command))];
            self.begin_errand(region, steps, Done::Ready(number));
        }
        if guest.is_some() {
            let first = self.random.between(CHURN.0, CHURN.1);
            self.after(first, Event::Churn(number));
        }
    }

    pub(crate) fn begin_errand(&mut self, region: usize, steps: impl IntoIterator<Item = Step>, done: Done) {
        let number = self.number();
        let errand =
            Errand { region, steps: steps.into_iter().collect(), done, waits: None, placed: false, goes_on: 0 };
        self.errands.insert(number, errand);
        self.go_on_after(number, 0);
    }

    /// A user connected at a region: its record names the region, and is followed there.
    pub(crate) fn arrival(&mut self, region: usize, client: usize) {
        let user = self.clients[client].user.clone();
        let log = LogId::user(&user);
        let at = self.regions[region].clock.wall(self.now);
        let resident = Change::Resident { region: self.regions[region].id.clone(), at };
        let command = self.own(region, log, EntryKind::User, resident.encode());
        let steps = [Step::Record(user), Step::Command(Box::new(command)), Step::Follow(log)];
        self.begin_errand(region, steps, Done::Nothing);
    }

    /// An operator has a client erased in a conversation of its own, at any region that runs.
    pub(crate) fn erase(&mut self, client: usize, conversation: usize) {
        let Some(of) = self.clients.get(client).filter(|of| !of.conversations.is_empty()) else { return };
        let number = of.conversations[conversation % of.conversations.len()];
        let (user, at) = (of.user.clone(), (client + conversation) % self.regions.len());
        if !self.conversations[number].ready || !self.regions[at].runs() {
            return;
        }
        self.trace.count(self.now, "erase-asked", number as u64, client as u64);
        self.media_erased(number, &user);
        let content = Change::Forget(Forget::User(user)).encode();
        let command = self.own(at, self.conversations[number].log, EntryKind::System, content);
        self.begin_errand(at, [Step::Command(Box::new(command))], Done::Nothing);
    }

    /// The home of a conversation raises its floor, over so many in a hundred of what is marked and stands above it.
    pub(crate) fn raise_floor(&mut self, conversation: usize, percent: u64) {
        let number = conversation % self.conversations.len().max(1);
        let Some(home) = self.home_of(number).filter(|home| self.regions[*home].runs()) else { return };
        let log = self.conversations[number].log;
        let Some(stored) = self.regions[home].disk.logs.get(&log) else { return };
        let mut forgotten = Forgotten::default();
        stored.entries.values().for_each(|entry| forgotten.fold(entry));
        let from = forgotten.floor();
        let floor = from + stored.mark.saturating_sub(from) * percent / 100;
        let (Some(below), Some(above)) = (stored.entries.get(&(floor - 1)), stored.entries.get(&floor)) else { return };
        let (before, next) = (below.entry.fixed.time, above.entry.fixed.time);
        if floor == from || before == next {
            return;
        }
        let content = Change::Forget(Forget::Below { from, floor, before, previous: below.hash }).encode();
        self.trace.count(self.now, "floor-asked", number as u64, floor);
        self.media_floor(number, floor);
        let command = self.own(home, log, EntryKind::System, content);
        self.begin_errand(home, [Step::Command(Box::new(command))], Done::Nothing);
    }

    fn own(&mut self, region: usize, log: LogId, kind: EntryKind, content: Bytes) -> Command {
        let sender = region_sender(&self.regions[region].id);
        let id = self.random.uuid();
        change(sender, log, kind, id, content, self, region)
    }

    /// An item of the outbox may be told.
    pub(crate) fn tell(&mut self, region: usize, item: OutboxRecord) {
        let Some(conversation) = item.log.as_conversation() else { return };
        let key = (item.log, item.position.sequence.0, item.user.as_str().to_owned());
        if self.regions[region].telling.len() >= TELLING || !self.regions[region].telling.insert(key) {
            return;
        }
        self.trace.count(self.now, "outbox", region as u64, item.position.sequence.0);
        let position = item.position;
        let told = if item.joined {
            Change::Joined { conversation, position }
        } else {
            Change::Removed { conversation, position }
        };
        let log = LogId::user(&item.user);
        let command = self.own(region, log, EntryKind::User, told.encode());
        let marked = Step::Marked(item.log, position.sequence.0);
        let steps = [marked, Step::Record(item.user.clone()), Step::Command(Box::new(command))];
        self.begin_errand(region, steps, Done::Told(item));
    }

    pub(crate) fn sweep_outbox(&mut self, region: usize) {
        let items: Vec<OutboxRecord> = self.regions[region].disk.outbox.values().take(TELLING).cloned().collect();
        for item in items {
            self.tell(region, item);
        }
    }

    /// An errand goes on, or is tried again.
    fn go_on_after(&mut self, number: u64, microseconds: u64) {
        if let Some(errand) = self.errands.get_mut(&number) {
            errand.goes_on = self.now + microseconds;
            self.after(microseconds, Event::Errand(number));
        }
    }

    pub(crate) fn errand(&mut self, number: u64) {
        let Some(errand) = self.errands.get(&number).filter(|errand| errand.goes_on <= self.now) else { return };
        let (region, waits) = (errand.region, errand.waits);
        if !self.regions[region].runs() {
            match errand.done {
                Done::Ready(_) | Done::Visited(_) => self.go_on_after(number, SECOND),
                Done::Nothing | Done::Told(_) | Done::Wished(_) => self.drop_errand(number),
            }
            return;
        }
        if waits.is_some_and(|(_, since)| self.now < since + PATIENCE) {
            return;
        }
        let Some(step) = self.errands.get(&number).and_then(|errand| errand.steps.front()).cloned() else {
            return self.errand_done(number);
        };
        let ticket = self.number();
        self.tickets.insert(ticket, Waits::Errand(number));
        if let Some(errand) = self.errands.get_mut(&number) {
            errand.waits = Some((ticket, self.now));
        }
        self.go_on_after(number, PATIENCE + 1);
        match step {
            Step::Command(command) => {
                let salt = self.regions[region].random.salt();
                self.input(region, Input::Command { command: *command, salt, reply: ticket, device: None });
            }
            Step::Placed(log, _) => self.input(region, Input::Query { log, ask: true, reply: ticket }),
            Step::Record(user) => {
                self.input(region, Input::Query { log: LogId::user(&user), ask: true, reply: ticket });
            }
            Step::Marked(log, _) => self.input(region, Input::Query { log, ask: false, reply: ticket }),
            Step::Follow(log) => {
                self.input(region, Input::Follow { log, hold: true });
                self.step_done(number);
            }
        }
    }

    fn step_done(&mut self, number: u64) {
        if let Some(errand) = self.errands.get_mut(&number) {
            errand.steps.pop_front();
            errand.waits = None;
            self.go_on_after(number, 0);
        }
    }

    fn is_waited_for(&self, number: u64, ticket: Ticket) -> bool {
        self.errands.get(&number).is_some_and(|errand| errand.waits.is_some_and(|(waited, _)| waited == ticket))
    }

    pub(crate) fn errand_answered(&mut self, number: u64, ticket: Ticket, outcome: &Outcome) {
        if matches!(outcome, Outcome::Queued(..)) {
            return;
        }
        self.tickets.remove(&ticket);
        if !self.is_waited_for(number, ticket) {
            return;
        }
        match outcome {
            Outcome::Acked(_) => self.step_done(number),
            Outcome::Refused(refusal) if refusal.retry_after.is_some() => {
                self.later(number);
            }
            Outcome::Refused(_) | Outcome::Queued(..) => {
                self.trace.count(self.now, "errand-refused", number, 0);
                self.drop_errand(number);
            }
        }
    }

    /// The same step again, after a pause.
    fn later(&mut self, number: u64) {
        if let Some(errand) = self.errands.get_mut(&number) {
            errand.waits = None;
            errand.placed = false;
        }
        self.go_on_after(number, PAUSE);
    }

    pub(crate) fn errand_viewed(&mut self, number: u64, ticket: Ticket, view: &LogView) {
        if !self.is_waited_for(number, ticket) {
            return;
        }
        let Some(errand) = self.errands.get(&number) else { return };
        let region = errand.region;
        let Some(step) = errand.steps.front().cloned() else { return };
        match step {
            Step::Placed(log, level) if view.placement.is_none() => {
                if errand.placed {
                    self.later(number);
                    return;
                }
                let place = self.placing(region, log, level);
                if let Some(errand) = self.errands.get_mut(&number) {
                    errand.placed = true;
                }
                self.put_before(number, vec![Step::Command(Box::new(place))]);
            }
            Step::Record(user) if view.placement.is_none() || !view.held => {
                let log = LogId::user(&user);
                let header = Header::User { user };
                let header = self.own(region, log, EntryKind::Header, header.encode());
                if let Some(errand) = self.errands.get_mut(&number) {
                    errand.steps.pop_front();
                }
                let placed = Step::Placed(log, Level::Majority);
                self.put_before(number, vec![placed, Step::Command(Box::new(header))]);
            }
            Step::Marked(_, sequence) if view.marked <= sequence => self.drop_errand(number),
            _ => self.step_done(number),
        }
    }

    fn put_before(&mut self, number: u64, steps: Vec<Step>) {
        if let Some(errand) = self.errands.get_mut(&number) {
            for step in steps.into_iter().rev() {
                errand.steps.push_front(step);
            }
            errand.waits = None;
            self.go_on_after(number, 0);
        }
    }

    fn placing(&mut self, region: usize, log: LogId, level: Level) -> Command {
        let placement = self.first_placement(region, log, level);
        let place = Change::Place { replaces: None, placement };
        self.own(region, LogId::placement(Slot::of(&log)), EntryKind::Placement, place.encode())
    }

    fn first_placement(&self, region: usize, log: LogId, level: Level) -> hearth_protocol::Placement {
        let clock = self.regions[region].clock.monotonic(self.now);
        let generation = self.regions[region].keeper.right(clock).generation;
        hearth_protocol::Placement { generation, ..self.map.first_placement(log, &self.regions[region].id, level) }
    }

    fn drop_errand(&mut self, number: u64) {
        let Some(errand) = self.errands.remove(&number) else { return };
        if let Done::Told(item) = errand.done {
            let key = (item.log, item.position.sequence.0, item.user.as_str().to_owned());
            self.regions[errand.region].telling.remove(&key);
        }
    }

    fn errand_done(&mut self, number: u64) {
        let Some(errand) = self.errands.remove(&number) else { return };
        match errand.done {
            Done::Nothing => {}
            Done::Visited(visitor) => self.visited(visitor),
            Done::Wished(wish) => self.wished(wish),
            Done::Ready(conversation) => {
                if !std::mem::replace(&mut self.conversations[conversation].ready, true) {
                    self.begin_for_all(conversation);
                }
            }
            Done::Told(item) => {
                let key = (item.log, item.position.sequence.0, item.user.as_str().to_owned());
                self.regions[errand.region].telling.remove(&key);
                self.told(errand.region, item);
            }
        }
    }

    /// The guest of a group comes or goes; a change under way is asked for again.
    pub(crate) fn churn(&mut self, conversation: usize) {
        let again = self.random.between(CHURN.0, CHURN.1);
        let of = &self.conversations[conversation];
        let Some(guest) = of.guest.filter(|_| of.ready) else {
            return self.after(again, Event::Churn(conversation));
        };
        let region = self.clients[of.admin].prefers;
        let (under_way, comes, log) = (of.churn.is_some(), !of.guest_is_in, of.log);
        if under_way || self.now < self.plan.calm_at {
            self.after(again, Event::Churn(conversation));
        }
        if !self.regions[region].runs() || (!under_way && self.now >= self.plan.calm_at) {
            return;
        }
        if !under_way {
            let action = if comes { MemberAction::Add(Role::Member) } else { MemberAction::Remove };
            let members = Change::Members { action, users: vec![self.clients[guest].user.clone()] };
            let sender = self.clients[self.conversations[conversation].admin].user.clone();
            let id = self.random.uuid();
            let command = change(sender, log, EntryKind::Member, id, members.encode(), self, region);
            self.conversations[conversation].churn = Some((command, comes, self.now));
            if comes {
                self.typing_unsure(log);
            } else {
                self.typing_leaves(conversation, true);
            }
        }
        let Some((command, ..)) = self.conversations[conversation].churn.clone() else { return };
        self.trace.count(self.now, "members-change", conversation as u64, u64::from(comes));
        let ticket = self.number();
        self.tickets.insert(ticket, Waits::Churn(conversation));
        let salt = self.regions[region].random.salt();
        self.input(region, Input::Command { command, salt, reply: ticket, device: None });
    }

    pub(crate) fn churned(&mut self, conversation: usize, outcome: &Outcome) {
        let temporary = match outcome {
            Outcome::Acked(_) => false,
            Outcome::Queued(..) => true,
            Outcome::Refused(refusal) => refusal.retry_after.is_some(),
        };
        let of = &mut self.conversations[conversation];
        if temporary || of.churn.is_none() {
            return;
        }
        let comes = of.churn.take().is_some_and(|(_, comes, _)| comes);
        let Some(guest) = of.guest else { return };
        of.guest_is_in = comes;
        if comes {
            self.typing_leaves(conversation, false);
            self.clients[guest].conversations.push(conversation);
            if let Some(id) = self.clients[guest].connection {
                self.follow_with(id, conversation);
            }
        } else {
            self.clients[guest].conversations.retain(|known| *known != conversation);
        }
    }
}
