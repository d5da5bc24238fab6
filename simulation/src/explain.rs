//! Where messages are, in a run: each region keeps a book of hops and cursors of members, as they ship, and is asked now
//! and then what became of a message. What that draws is apart from the chat's, so that a seed's chat stays as it is.

use std::collections::BTreeSet;

use hearth_protocol::client::MessageName;
use hearth_protocol::mesh::Body;
use hearth_protocol::record::ParkedSend;
use hearth_protocol::{ConversationId, EntryKind, LogId, MessageId, Position, RegionId, UserId};
use region_model::delivery::{
    Asker, CursorFacts, CursorKind, EntryFacts, HopBook, LogFacts, MoveBook, OfSession, Question, RegionPart,
    SessionFacts, Sought, UserFacts, explain,
};
use region_model::line::Line;
use region_model::ports::TargetKey;
use region_model::receipts::{Change, Claim, Facts, MemberCursors, ReceiptBook, Said};
use region_model::view::{PrivacyState, View};
use region_model::{DeviceOutcome, Effect, Input, LogView};

use crate::clients::{Client, Connection, Conversation, Waits};
use crate::history::{self, AskedRegion, Explained};
use crate::plan::FaultKind;
use crate::random::Random;
use crate::region::Ticket;
use crate::world::World;

/// Messages and moves of cursors that a region keeps: few, so that the oldest go in every run.
const MESSAGES: usize = 1_024;
const MOVES: usize = 256;
/// Of a thousand times that a client does something, it says that it has what it was shown, and asks where a message is.
const SAYS: u64 = 60;
const ASKS: u64 = 20;
/// Of each conversation, so many of the newest messages are explained at the end, each for so many members.
const MESSAGES_AT_THE_END: usize = 2;
const MEMBERS_AT_THE_END: usize = 3;

/// What the run keeps of it.
#[derive(Debug)]
pub(crate) struct Explaining {
    random: Random,
}

impl Explaining {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::of(seed, "explain", 0) }
    }
}

/// When messages and cursors passed a region: in its memory.
#[derive(Debug)]
pub(crate) struct Hops {
    book: HopBook,
    moves: MoveBook,
}

/// How far members are, as a region keeps it; and of its own clients, whose cursors each other region was not told.
#[derive(Debug, Default)]
pub(crate) struct Received {
    book: ReceiptBook,
    untold: Vec<BTreeSet<(LogId, UserId)>>,
}

/// A question.
struct Asks<'a> {
    asker: &'a UserId,
    operator: bool,
    message: MessageId,
    /// Whether nothing has happened for long.
    settled: bool,
}

/// The message whose answer the holder of a ticket waits for.
fn of_session<'a>(
    waits: Option<&Waits>,
    (clients, conversations): (&'a [Client], &[Conversation]),
    taken: u64,
) -> Option<OfSession<'a>> {
    let Some(Waits::Send { client, conversation, message, .. }) = waits else { return None };
    let (conversation, sender) = (conversations[*conversation].id, &clients[*client].user);
    Some(OfSession { conversation, id: message.0, sender, taken })
}

impl World {
    /// A region starts: it knows of no step.
    pub(crate) fn explain_start(&mut self, place: usize) {
        let at = self.micros_of(place);
        let me = &self.regions[place].id;
        let others: Vec<RegionId> = self.map.regions.iter().filter(|other| *other != me).cloned().collect();
        let (book, moves) = (HopBook::new(MESSAGES, others, self.plan.seed, at), MoveBook::new(MOVES, self.plan.seed));
        self.regions[place].hops = Some(Hops { book, moves });
        let regions = self.regions.len();
        self.regions[place].received.untold.resize(regions, BTreeSet::new());
    }

    /// The wall clock of a region, in microseconds since the epoch.
    pub(crate) fn micros_of(&self, place: usize) -> u64 {
        self.regions[place].clock.wall(self.now).0 * 1_000 + self.now % 1_000
    }

    /// Before a region's core has an input.
    pub(crate) fn notes_input(&mut self, place: usize, input: &Input<Ticket>, at: u64) {
        let Self { regions, tickets, clients, conversations, .. } = self;
        let (tickets, of) = (&*tickets, (clients.as_slice(), conversations.as_slice()));
        let Some(hops) = &mut regions[place].hops else { return };
        hops.book.input(input, |ticket| of_session(tickets.get(ticket), of, at), at);
    }

    /// Before what a region's core decided is done.
    pub(crate) fn notes_effect(&mut self, place: usize, effect: &Effect<Ticket>, at: u64) {
        let Self { regions, tickets, clients, conversations, .. } = self;
        let (tickets, of) = (&*tickets, (clients.as_slice(), conversations.as_slice()));
        let Some(hops) = &mut regions[place].hops else { return };
        hops.book.effect(effect, |ticket| of_session(tickets.get(ticket), of, at), at);
    }

    /// A link of a region took a frame.
    pub(crate) fn notes_frame(&mut self, place: usize, peer: &RegionId, body: &Body) {
        let at = self.micros_of(place);
        if let Some(hops) = &mut self.regions[place].hops {
            hops.book.went(peer, body, at);
        }
    }

    /// A device was told how its parked send ended.
    pub(crate) fn notes_device(&mut self, place: usize, send: &ParkedSend, ended: &DeviceOutcome) {
        let at = self.micros_of(place);
        if let Some(hops) = &mut self.regions[place].hops {
            hops.book.told_device(send, ended, at);
        }
    }

    /// A fault begins or ends: the checker is told whose clock was set.
    pub(crate) fn explain_troubled(&mut self, kind: FaultKind) {
        if let FaultKind::ClockJump(region, _) = kind {
            self.history.add(self.now, history::Event::ClockSet(region));
        }
    }

    /// A client did something: at times it says what it has, or asks where a message is.
    pub(crate) fn explain_acts(&mut self, connection: u64) {
        let drawn = self.explaining.random.between(0, 999);
        let Some(of) = self.connections.get(&connection) else { return };
        let (place, client) = (of.region, of.client);
        if drawn >= SAYS + ASKS || !self.regions[place].runs() {
            return;
        }
        if drawn < SAYS {
            self.says_what_it_has(connection, (place, client), drawn.is_multiple_of(2));
        } else {
            self.asks_where(place, client);
        }
    }

    /// A client says that it has, or has read, what it was shown of a conversation.
    fn says_what_it_has(&mut self, connection: u64, (place, client): (usize, usize), read: bool) {
        let cursors = &self.clients[client].cursors;
        let which = self.explaining.random.below(cursors.len());
        let Some((conversation, position)) = cursors.iter().nth(which).map(|(at, position)| (*at, *position)) else {
            return;
        };
        let Conversation { id, log, .. } = self.conversations[conversation];
        let (session, up_to) = (self.connections[&connection].session, position.sequence.0);
        self.history.add(self.now, history::Event::Said { session, conversation: id, up_to, read });
        let view = self.look(place, log, false);
        let Some(members) = view.view.members().filter(|_| view.held) else { return };
        let said = Said { up_to, epoch: Some(position.epoch), sent: None };
        let user = self.clients[client].user.clone();
        let claim = Claim { user, delivered: said, read: read.then_some(said), by: () };
        let facts = Facts { line: &Line::of(&view), last: view.marked.saturating_sub(1), members };
        let wall = self.now_of(place).wall;
        let change = self.regions[place].received.book.claim(log, &claim, &facts, wall, self.now / 1_000);
        let user = claim.user;
        if self.has_moved(place, id, change) {
            for untold in &mut self.regions[place].received.untold {
                untold.insert((log, user.clone()));
            }
        }
    }

    /// Takes note of cursors that moved, if any did.
    fn has_moved(&mut self, place: usize, conversation: ConversationId, change: Option<Change>) -> bool {
        if let (Some(change), Some(hops)) = (&change, &mut self.regions[place].hops) {
            hops.moves.changed(conversation, change);
        }
        change.is_some()
    }

    /// A region tells others, as far as it reaches them, what its clients have said.
    pub(crate) fn exchange_receipts(&mut self, place: usize) {
        for peer in (0..self.regions.len()).filter(|peer| *peer != place) {
            if self.regions[place].received.untold[peer].is_empty() || !self.answers(place, peer) {
                continue;
            }
            for (log, user) in std::mem::take(&mut self.regions[place].received.untold[peer]) {
                let record = self.regions[place].received.book.record(log, &user);
                let view = self.look(peer, log, false);
                let (Some(record), Some(id)) = (record.filter(|_| view.held), log.as_conversation()) else { continue };
                let theirs = MemberCursors::of(record.delivered, record.read);
                let book = &mut self.regions[peer].received.book;
                let change = book.merge(log, &user, &theirs, &Line::of(&view), self.now / 1_000);
                self.has_moved(peer, id, change);
            }
        }
    }

    /// A client asks where a message is: one that it waits for, one of its own, or one that it was shown.
    fn asks_where(&mut self, place: usize, client: usize) {
        let random = &mut self.explaining.random;
        let (of, drawn) = (&self.clients[client], random.below(10));
        let waits = of.outstanding.get(random.below(of.outstanding.len())).map(|of| of.names());
        let conversation = *of.conversations.get(random.below(of.conversations.len())).unwrap_or(&0);
        let named = of.named.get(&conversation);
        let named = named.and_then(|named| Some((conversation, named.some_message(random, drawn < 7)?)));
        let Some((conversation, message)) = waits.filter(|_| drawn < 4).or(named) else { return };
        let members: Vec<&Client> =
            self.clients.iter().filter(|other| other.conversations.contains(&conversation)).collect();
        // Of what it was shown itself, one in three is for somebody else, which is not told to everybody.
        let for_itself = drawn >= 7 && random.below(3) > 0;
        let other = members.get(random.below(members.len()));
        let (asker, operator) = (of.user.clone(), random.percent(10));
        let user = other.filter(|_| !for_itself).map_or_else(|| asker.clone(), |other| other.user.clone());
        let asks = Asks { asker: &asker, operator, message, settled: false };
        self.explained(place, conversation, &user, &asks);
    }

    /// A region explains a message, from what it and those that it reaches know.
    fn explained(&mut self, place: usize, conversation: usize, user: &UserId, asks: &Asks<'_>) {
        let id = self.conversations[conversation].id;
        let others = (0..self.regions.len()).filter(|other| *other != place);
        let (reached, away): (Vec<usize>, Vec<usize>) = others.partition(|other| self.answers(place, *other));
        let away: Vec<RegionId> = away.into_iter().map(|other| self.regions[other].id.clone()).collect();
        let locate = |at: usize| self.locate(at, id, asks);
        let entry = locate(place).or_else(|| EntryFacts::newest(reached.iter().filter_map(|at| locate(*at))));
        let question = Question { conversation: id, name: MessageName::Id(asks.message), user };
        let asked = || std::iter::once(place).chain(reached.iter().copied());
        let parts: Vec<RegionPart> = asked().map(|at| self.part_of(at, asks.asker, question, entry.as_ref())).collect();
        let asker = Asker { user: asks.asker, operator: asks.operator };
        let explained = Explained {
            asker: asks.asker.clone(),
            operator: asks.operator,
            conversation: id,
            message: asks.message,
            user: user.clone(),
            answer: explain(question, asker, &parts, &away).ok(),
            asked: asked().map(|at| self.asked_region(at, id, user, asks)).collect(),
            settled: asks.settled,
        };
        let state = explained.answer.as_ref().map_or(0, |answer| answer.state as u64);
        self.trace.count(self.now, "explain-asked", place as u64, state);
        self.history.add(self.now, history::Event::Explained(Box::new(explained)));
    }

    /// What somebody who sees everything knows of a region that was asked.
    fn asked_region(&self, at: usize, conversation: ConversationId, user: &UserId, asks: &Asks<'_>) -> AskedRegion {
        let (region, now) = (&self.regions[at], self.micros_of(at));
        let kept = region.hops.as_ref().map_or(now, |hops| hops.book.kept(now).since);
        let mut parked = region.disk.parked.values();
        AskedRegion {
            region: at,
            ahead: now - self.now,
            known_since: self.now.saturating_sub(now.saturating_sub(kept)),
            has: self.on_disk_of(at, conversation, asks).map(|(position, _)| position),
            waits: parked.any(|send| (send.conversation, send.id) == (conversation, asks.message)),
            connected: region.sessions.get(user).is_some_and(|sessions| !sessions.is_empty()),
        }
    }

    fn on_disk_of(&self, at: usize, conversation: ConversationId, asks: &Asks<'_>) -> Option<(Position, EntryFacts)> {
        let key = TargetKey { log: LogId::conversation(conversation), actor: asks.asker.clone(), id: asks.message.0 };
        let entry = self.regions[at].disk.target(&key).entry?;
        Some((entry.entry.fixed.position, EntryFacts::of(&entry)))
    }

    /// Which entry a message is, where a region has it on disk.
    fn locate(&self, at: usize, conversation: ConversationId, asks: &Asks<'_>) -> Option<EntryFacts> {
        let view = self.look(at, LogId::conversation(conversation), true);
        self.on_disk_of(at, conversation, asks).map(|(_, entry)| entry).filter(|_| view.held)
    }

    /// All that a region knows.
    fn part_of(&self, at: usize, asker: &UserId, question: Question<'_>, entry: Option<&EntryFacts>) -> RegionPart {
        let (region, now) = (&self.regions[at], self.micros_of(at));
        let log = LogId::conversation(question.conversation);
        let view = self.look(at, log, true);
        let sought = Sought::new(question.name, entry);
        let standing =
            region.core.as_ref().map(|core| core.standing(log, sought.name, sought.sequence, self.now_of(at)));
        let sequence = entry.map(|entry| entry.sequence);
        let is_here = |sequence: &u64| *sequence < view.length && view.has_rows(*sequence, *sequence + 1);
        let held = sequence.filter(is_here).and_then(|sequence| region.disk.entry(log, sequence));
        let held = held.filter(|_| view.held).map(|held| EntryFacts::of(held));
        let hops = region.hops.as_ref();
        RegionPart {
            region: region.id.clone(),
            kept: hops.map_or_else(|| HopBook::new(1, Vec::new(), 0, now).kept(now), |hops| hops.book.kept(now)),
            hops: hops.and_then(|hops| sought.hops(&hops.book, question.conversation, now)),
            entry: held.filter(|held| entry.is_some_and(|entry| entry.is_there(held))),
            log: LogFacts::of(&view, asker, question.user),
            standing: standing.unwrap_or_default(),
            user: self.user_facts(at, &view, question, entry),
        }
    }

    fn user_facts(&self, at: usize, view: &LogView, question: Question<'_>, entry: Option<&EntryFacts>) -> UserFacts {
        let (region, user) = (&self.regions[at], question.user);
        let record = self.look(at, LogId::user(user), false);
        let state = match &record.view {
            View::User(state) if record.held => Some(state),
            _ => None,
        };
        let nothing = PrivacyState::default();
        let privacy = self.typing.privacy_of(user).unwrap_or(&nothing);
        let sequence = entry.map(|entry| entry.sequence);
        let sessions = region.sessions.get(user).into_iter().flatten().filter_map(|id| self.connections.get(id));
        let session = |of: &Connection| SessionFacts {
            since: of.since,
            sent: sequence.map(|sequence| of.stream.about(question.conversation, sequence)),
            waiting_bytes: 0,
        };
        let (delivered, read) = self.cursor_facts(at, view, question, sequence);
        UserFacts {
            sessions: sessions.map(session).collect(),
            resident: state.map(|state| state.resident.keys().cloned().collect()),
            blocks_sender: state.zip(entry).map(|(_, entry)| entry.is_blocked(question.conversation, user, privacy)),
            last_seen: None,
            delivered,
            read,
        }
    }

    fn cursor_facts(
        &self,
        at: usize,
        view: &LogView,
        question: Question<'_>,
        sequence: Option<u64>,
    ) -> (CursorFacts, CursorFacts) {
        let (region, wall) = (&self.regions[at], self.now_of(at).wall);
        let record = region.received.book.record(LogId::conversation(question.conversation), question.user);
        let (Some(record), line) = (record.filter(|_| view.held), Line::of(view)) else {
            return <(CursorFacts, CursorFacts)>::default();
        };
        let passed = |kind| {
            let moves = region.hops.as_ref().map(|hops| &hops.moves);
            move |sequence| moves?.passed(question.conversation, question.user, kind, sequence, wall)
        };
        let delivered = CursorFacts::of(&record.delivered, &line, sequence, passed(CursorKind::Delivered));
        (delivered, CursorFacts::of(&record.read, &line, sequence, passed(CursorKind::Read)))
    }

    /// Once everything is settled, the newest messages of each conversation are explained for some of its members.
    pub(crate) fn explain_at_the_end(&mut self) {
        let operator = UserId::new("operator").expect("a valid user id");
        for conversation in 0..self.conversations.len() {
            let members = self.clients.iter().filter(|client| client.conversations.contains(&conversation));
            let users: Vec<UserId> = members.map(|client| client.user.clone()).take(MEMBERS_AT_THE_END).collect();
            for (place, message) in self.newest_messages(conversation).into_iter().enumerate() {
                for user in &users {
                    let asks = Asks { asker: &operator, operator: true, message, settled: true };
                    self.explained((conversation + place) % self.regions.len(), conversation, user, &asks);
                }
            }
        }
    }

    fn newest_messages(&self, conversation: usize) -> Vec<MessageId> {
        let log = self.conversations[conversation].log;
        let home = self.home_of(conversation).filter(|_| self.conversations[conversation].ready);
        let stored = home.and_then(|home| self.regions[home].disk.logs.get(&log));
        let entries = stored.into_iter().flat_map(|stored| stored.entries.values().rev());
        let messages = entries.filter(|entry| entry.entry.fixed.kind == EntryKind::Message);
        messages.take(MESSAGES_AT_THE_END).map(|entry| MessageId(entry.entry.fixed.id)).collect()
    }
}
