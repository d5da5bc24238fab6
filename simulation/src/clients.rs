//! Clients: they send, hear acks, send again under the same id, lose connections, and come back at other regions and
//! from other devices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hearth_protocol::media::MediaId;
use hearth_protocol::{
    ConversationId, DeviceId, EntryKind, Level, LogId, MessageId, Position, SealedEntry, Timestamp, UserId,
};
use region_model::session::{Deliveries, Stay};
use region_model::{Ack, Command, Input, LogView, Outcome};

use crate::alterations::{Alteration, Named, expiry_of};
use crate::history::{self, Acked, OnDisk, RegionSet, SessionId};
use crate::plan::SECOND;
use crate::random::Random;
use crate::region::Ticket;
use crate::sessions;
use crate::woken::said_by;
use crate::world::{Event, World};

/// Unacked messages above which a client sends no new ones.
const WINDOW: usize = 16;
/// Without an answer for so long, a client sends again.
const AGAIN: u64 = 10 * SECOND;
/// Without an ack for a queued message for so long, a client comes back elsewhere.
const AGAIN_QUEUED: u64 = 40 * SECOND;
/// Without an answer from a region that stands still for so long, a client leaves it.
const PATIENCE: u64 = 6 * SECOND;
/// The way between a client and its region.
const WAY: (u64, u64) = (2_000, 30_000);

/// Who waits for an answer of a core.
#[derive(Clone, Debug)]
pub(crate) enum Waits {
    /// A connection, for a message.
    Send { connection: u64, client: usize, conversation: usize, message: MessageId },
    /// A connection, to begin with a conversation.
    Replay { connection: u64, conversation: usize },
    /// An errand.
    Errand(u64),
    /// A change of a group's members.
    Churn(usize),
    /// The move of a home.
    Move,
}

/// A message that is not acked yet.
#[derive(Clone, Debug)]
pub(crate) struct Outstanding {
    sending: Sending,
    sent_at: u64,
    queued: bool,
    /// It was refused for now: everything is sent again then.
    retry_at: Option<u64>,
}

impl Outstanding {
    /// The conversation and the message.
    pub(crate) fn names(&self) -> (usize, MessageId) {
        (self.sending.conversation, self.sending.message)
    }
}

/// A message, or a change of one, on its way to a region.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    client: usize,
    conversation: usize,
    message: MessageId,
    level: Option<Level>,
    /// When its content is over.
    expires_at: Option<Timestamp>,
    /// What it asks for; a message where there is none.
    change: Option<Alteration>,
    /// What it carries.
    media: Option<MediaId>,
}

/// One user with one device at a time.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) user: UserId,
    pub(crate) prefers: usize,
    device: DeviceId,
    pub(crate) connection: Option<u64>,
    connect_at: u64,
    pub(crate) conversations: Vec<usize>,
    pub(crate) outstanding: Vec<Outstanding>,
    pub(crate) cursors: BTreeMap<usize, Position>,
    pub(crate) named: BTreeMap<usize, Named>,
    pub(crate) random: Random,
}

impl Client {
    pub(crate) fn new(seed: u64, number: usize, regions: usize) -> Self {
        let mut random = Random::of(seed, "client", number);
        Self {
            user: UserId::new(format!("u{number}")).expect("a valid user id"),
            prefers: number % regions,
            device: DeviceId(random.uuid()),
            connection: None,
            connect_at: 0,
            conversations: Vec::new(),
            outstanding: Vec::new(),
            cursors: BTreeMap::new(),
            named: BTreeMap::new(),
            random,
        }
    }
}

/// A connection of a client.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: usize,
    pub(crate) region: usize,
    pub(crate) session: SessionId,
    pub(crate) device: DeviceId,
    /// When it came, by the clock of its region.
    pub(crate) since: Timestamp,
    /// What it was sent, and what it may be sent next.
    pub(crate) stream: Deliveries<Arc<SealedEntry>>,
    /// Conversations of which it was shown a delete.
    pub(crate) deletes: BTreeSet<usize>,
    /// Conversations whose stream here has passed the removal of this user.
    pub(crate) removed: BTreeSet<usize>,
    /// Its number at its node.
    pub(crate) number: u64,
    /// Whether it was told to leave.
    pub(crate) stay: Stay,
    /// When what was sent last arrives.
    arrives: u64,
}

/// A conversation of the run.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) id: ConversationId,
    pub(crate) log: LogId,
    pub(crate) admin: usize,
    /// Who comes and goes.
    pub(crate) guest: Option<usize>,
    pub(crate) ready: bool,
    /// The change of members under way, and since when.
    pub(crate) churn: Option<(Command, bool, u64)>,
    pub(crate) guest_is_in: bool,
}

impl World {
    pub(crate) fn client(&mut self, number: usize) {
        let pace = self.plan.size.pace * 1_000;
        let next = self.clients[number].random.between(pace / 3, pace * 5 / 3);
        self.after(next, Event::Client(number));
        let calm = self.now >= self.plan.calm_at;
        let Some(connection) = self.clients[number].connection else {
            if self.now >= self.clients[number].connect_at {
                self.connect(number);
            }
            return;
        };
        let region = self.connections[&connection].region;
        let client = &mut self.clients[number];
        let oldest = client.outstanding.iter().map(|outstanding| outstanding.sent_at).min();
        let waited = oldest.map_or(0, |at| self.now - at);
        let roams = !calm && client.random.percent(1);
        let stuck = client.outstanding.iter().any(|of| of.queued && self.now > of.sent_at + AGAIN_QUEUED);
        if roams || stuck || (!self.regions[region].runs() && waited > PATIENCE) {
            self.trace.count(self.now, "client-roams", number as u64, region as u64);
            self.disconnect(connection, 0);
            if self.clients[number].random.percent(50) {
                self.switch_device(number);
            }
            return;
        }
        let now = self.now;
        self.presence_acts(connection);
        self.push_acts(connection);
        self.typing_acts(connection);
        self.media_acts(connection);
        self.explain_acts(connection);
        let due = |of: &Outstanding| of.retry_at.map_or(!of.queued && now > of.sent_at + AGAIN, |at| now >= at);
        if self.clients[number].outstanding.iter().any(due) {
            self.send_all_again(number);
        } else if !calm {
            self.send_new(number);
        }
    }

    /// A device is gone for good: what was queued goes on without it, and what was not may be lost.
    pub(crate) fn switch_device(&mut self, number: usize) {
        self.trace.count(self.now, "device-switched", number as u64, 0);
        self.clients[number].device = DeviceId(self.clients[number].random.uuid());
        if !self.clients[number].outstanding.iter().any(|of| of.queued) {
            return;
        }
        for Outstanding { sending, .. } in std::mem::take(&mut self.clients[number].outstanding) {
            self.trace.count(self.now, "forgotten", number as u64, sending.conversation as u64);
            let conversation = self.conversations[sending.conversation].id;
            self.history.add(self.now, history::Event::Forgotten(conversation, sending.message));
        }
    }

    fn send_new(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let waits = client.outstanding.iter().any(|outstanding| outstanding.retry_at.is_some());
        let ready: Vec<usize> =
            client.conversations.iter().copied().filter(|at| self.conversations[*at].ready).collect();
        if ready.is_empty() || waits || client.outstanding.len() >= WINDOW {
            return;
        }
        let conversation = ready[client.random.below(ready.len())];
        let level = match client.random.below(20) {
            0 => Some(Level::Majority),
            1 | 2 => Some(Level::TwoRegions),
            _ => None,
        };
        let message = MessageId(client.random.uuid());
        let named = client.named.entry(conversation).or_default();
        let change = named.pick(&mut client.random, message);
        let (change, media) = self.with_media(number, conversation, message, change);
        let client = &mut self.clients[number];
        let writes = change.as_ref().is_none_or(|change| change.kind == EntryKind::Edit);
        let region =
            client.connection.and_then(|id| self.connections.get(&id)).map_or(0, |connection| connection.region);
        let wall = self.regions[region].clock.wall(self.now);
        let expires_at = expiry_of(message, wall).filter(|_| change.is_none());
        let sending = Sending { client: number, conversation, message, level, expires_at, change, media };
        client.outstanding.push(Outstanding { sending: sending.clone(), sent_at: 0, queued: false, retry_at: None });
        let step = sending.change.as_ref().and_then(|change| change.kind.as_str()).unwrap_or("send");
        self.trace.count(self.now, step, number as u64, conversation as u64);
        if writes {
            let event = history::Event::Wrote(self.conversations[conversation].id, message, message.to_string());
            self.history.add(self.now, event);
        }
        if sending.change.is_none() {
            self.push_mentions(number, conversation, message);
        }
        self.send(sending);
    }

    /// A client sends everything unacked again, in order.
    fn send_all_again(&mut self, number: usize) {
        for sending in self.clients[number].outstanding.iter().map(|of| of.sending.clone()).collect::<Vec<_>>() {
            self.resent += 1;
            self.trace.count(self.now, "resend", number as u64, sending.conversation as u64);
            self.send(sending);
        }
    }

    fn send(&mut self, sending: Sending) {
        let number = sending.client;
        let client = &mut self.clients[number];
        let Some(id) = client.connection else { return };
        let way = client.random.between(WAY.0, WAY.1);
        let outstanding = client.outstanding.iter_mut().find(|of| of.sending.message == sending.message);
        if let Some(outstanding) = outstanding {
            outstanding.sent_at = self.now;
            outstanding.retry_at = None;
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let id_of = self.conversations[sending.conversation].id;
        self.history.add(self.now, history::Event::Invoke(connection.session, id_of, sending.message));
        connection.arrives = connection.arrives.max(self.now + way);
        let (arrives, region) = (connection.arrives, connection.region);
        self.at(arrives, Event::Sent { region, connection: id, sending: Box::new(sending) });
    }

    /// What a client sent arrived at its region.
    pub(crate) fn sent(&mut self, region: usize, connection: u64, sending: Sending) {
        let Some(device) = self.connections.get(&connection).map(|connection| connection.device) else { return };
        let Sending { client, conversation, message, level, expires_at, change, media } = sending;
        if let Err(refusal) = self.counted(region, client, conversation, message) {
            let id = self.conversations[conversation].id;
            return self.hear(region, connection, id, message, Outcome::Refused(refusal));
        }
        self.own_sent(connection, conversation);
        let url = media.map(|media| media.url(self.conversations[conversation].id, None));
        let text = || said_by(client, message, url.as_deref());
        let command = Command {
            log: self.conversations[conversation].log,
            kind: change.as_ref().map_or(EntryKind::Message, |change| change.kind),
            sender: self.clients[client].user.clone(),
            id: message.0,
            content: change.as_ref().map_or_else(text, |change| change.change.encode()),
            reply_to: None,
            target: change.map(|change| change.target.0),
            expires_at,
            level,
            origin: self.regions[region].id.clone(),
            original_time: None::<Timestamp>,
            joined: None,
        };
        let reply = self.number();
        self.tickets.insert(reply, Waits::Send { connection, client, conversation, message });
        let salt = self.regions[region].random.salt();
        self.input(region, Input::Command { command, salt, reply, device: Some(device) });
    }

    fn connect(&mut self, number: usize) {
        let count = self.regions.len();
        let client = &mut self.clients[number];
        let wanted = if client.random.percent(70) { client.prefers } else { client.random.below(count) };
        let region = self.node_for(wanted);
        if !self.begins_sessions(region) {
            self.clients[number].connect_at = self.now + SECOND / 2;
            return;
        }
        let client = &mut self.clients[number];
        let device = client.device;
        let user = client.user.clone();
        let conversations = client.conversations.clone();
        let id = self.number();
        let number_here = self.regions[region].node.next_number();
        let named = u64::from_be_bytes(device.0.as_bytes()[..8].try_into().unwrap_or_default());
        let session = self.history.session(format!("{user} at {}", self.regions[region].id), named);
        let connection = Connection {
            client: number,
            region,
            session,
            device,
            since: self.regions[region].clock.wall(self.now),
            stream: Deliveries::new(sessions::LIMITS, self.plan.seed),
            deletes: BTreeSet::new(),
            removed: BTreeSet::new(),
            number: number_here,
            stay: Stay::Served,
            arrives: self.now,
        };
        self.connections.insert(id, connection);
        self.clients[number].connection = Some(id);
        self.regions[region].sessions.entry(user.clone()).or_default().push(id);
        self.trace.count(self.now, "connect", number as u64, region as u64);
        self.resumes(id);
        self.presence_connected(id);
        self.looks_at(id, None);
        self.typing_connected(id);
        self.input(region, Input::DeviceConnected(user, device));
        for conversation in conversations {
            self.begin_with(id, conversation);
        }
        self.arrival(region, number);
        self.send_all_again(number);
    }

    pub(crate) fn disconnect(&mut self, id: u64, wait: u64) {
        self.presence_gone(id);
        self.push_gone(id);
        self.typing_gone(id);
        let Some(connection) = self.connections.remove(&id) else { return };
        self.drained_gone(&connection);
        let client = &mut self.clients[connection.client];
        client.connection = None;
        client.connect_at = self.now + wait;
        if let Some(sessions) = self.regions[connection.region].sessions.get_mut(&client.user) {
            sessions.retain(|known| *known != id);
        }
    }

    pub(crate) fn drop_sessions(&mut self, region: usize) {
        let here: Vec<u64> =
            self.connections.iter().filter(|(_, connection)| connection.region == region).map(|(id, _)| *id).collect();
        for id in here {
            let wait = self.random.between(SECOND / 5, 5 * SECOND / 2);
            self.disconnect(id, wait);
        }
    }

    pub(crate) fn reply(&mut self, place: usize, ticket: Ticket, outcome: Outcome) {
        let Some(waits) = self.tickets.get(&ticket).cloned() else { return };
        match waits {
            Waits::Send { connection, conversation, message, .. } => {
                let lost = self.now < self.plan.calm_at && self.regions[place].random.below(400) == 0;
                if lost && matches!(outcome, Outcome::Acked(_)) {
                    self.trace.count(self.now, "ack-lost", place as u64, ticket);
                    self.disconnect(connection, SECOND / 5);
                } else {
                    let conversation = self.conversations[conversation].id;
                    self.limited(conversation, message, &outcome);
                    self.hear(place, connection, conversation, message, outcome);
                }
            }
            Waits::Replay { connection, conversation } => self.not_replayed(connection, conversation),
            Waits::Errand(errand) => self.errand_answered(errand, ticket, &outcome),
            Waits::Churn(conversation) => self.churned(conversation, &outcome),
            Waits::Move => self.trace.count(self.now, "move-refused", place as u64, 0),
        }
    }

    /// A connection hears how a message ended, or that it waits.
    pub(crate) fn hear(
        &mut self,
        place: usize,
        id: u64,
        conversation: ConversationId,
        message: MessageId,
        outcome: Outcome,
    ) {
        let Some(Connection { session, client, .. }) = self.connections.get(&id) else { return };
        let (session, number) = (*session, *client);
        let now = self.now;
        if let Outcome::Acked(ack) = &outcome {
            self.own_acked(id, conversation, ack.position);
        }
        let client = &mut self.clients[number];
        let at = client.outstanding.iter().position(|of| of.sending.message == message);
        match outcome {
            Outcome::Acked(ack) => {
                if let Some(Sending { conversation, change: None, .. }) =
                    at.map(|at| client.outstanding.remove(at).sending)
                {
                    client.named.entry(conversation).or_default().note_own(message);
                }
                let step = if ack.duplicate { "ack-again" } else { "ack" };
                self.trace.count(now, step, ack.position.epoch.0, ack.position.sequence.0);
                let on_disk = self.on_disk(conversation, message, &ack);
                let acked = self.acked(&ack);
                self.history.add(now, history::Event::Ack { session, conversation, message, acked, on_disk });
            }
            Outcome::Queued(..) => {
                if let Some(at) = at {
                    client.outstanding[at].queued = true;
                }
                self.trace.count(now, "queued", place as u64, number as u64);
                self.history.add(now, history::Event::Queued(session, conversation, message));
            }
            Outcome::Refused(refusal) => {
                let again = refusal.retry_after.is_some();
                if let Some(at) = at {
                    if again {
                        let after = refusal.retry_after.unwrap_or(1).min(5) * SECOND;
                        client.outstanding[at].retry_at = Some(now + after);
                    } else {
                        client.outstanding.remove(at);
                    }
                }
                let step = if again { "refused-for-now" } else { "refused" };
                self.trace.count(now, step, place as u64, number as u64);
                self.history.add(now, history::Event::Refused { session, conversation, message, again });
            }
        }
    }

    /// An ack, as the history tells of it.
    pub(crate) fn acked(&self, ack: &Ack) -> Acked {
        Acked {
            position: ack.position,
            time: ack.time.0,
            level: ack.level,
            home: self.place_of(&ack.home),
            regions: ack.regions.iter().filter_map(|region| self.place_of(region)).collect(),
            again: ack.duplicate,
        }
    }

    /// What the disks hold of an acked message now.
    fn on_disk(&self, conversation: ConversationId, message: MessageId, ack: &Ack) -> Option<OnDisk> {
        let log = LogId::conversation(conversation);
        let home = self.place_of(&ack.home)?;
        let voters = self.regions[home].disk.logs.get(&log)?.record.as_ref()?.voters.len();
        let holds = |region: &usize| {
            let of = &self.regions[*region];
            std::iter::once(&of.disk).chain(of.stores.before(self.now, ack.duplicate)).any(|disk| {
                let fixed = disk.entry(log, ack.position.sequence.0).map(|entry| &entry.entry.fixed);
                fixed.is_some_and(|fixed| fixed.id == message.0 && fixed.position == ack.position)
            })
        };
        let regions: RegionSet = (0..self.regions.len()).filter(holds).collect();
        Some(OnDisk { voters, regions })
    }

    /// A query is answered.
    pub(crate) fn view(&mut self, place: usize, ticket: Ticket, view: &LogView) {
        match self.tickets.remove(&ticket) {
            Some(Waits::Replay { connection, conversation }) => self.replay(place, connection, conversation, view),
            Some(Waits::Errand(errand)) => self.errand_viewed(errand, ticket, view),
            Some(Waits::Move) => {
                self.moves += 1;
                self.trace.count(self.now, "moved", place as u64, 0);
            }
            _ => {}
        }
    }
}
