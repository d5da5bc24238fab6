//! Sessions: what a client that comes back is shown, and what its connection is shown live. What goes out in which order
//! is decided by the session that ships ([`Deliveries`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use hearth_protocol::rest::SyncCursor;
use hearth_protocol::{ConversationId, EntryKind, Epoch, LogId, MessageId, Position, SealedEntry, UserId, limits};
use region_model::line::Line;
use region_model::session::{
    Deliveries, Delivery, DeliveryLimits, LineChanged, Live, Replay, Rewound, Skipped, rewound_for,
};
use region_model::view::{Members, View};
use region_model::{Input, LogView};

use crate::alterations::said;
use crate::clients::{Connection, Conversation, Waits};
use crate::history;
use crate::plan::SECOND;
use crate::region::Ticket;
use crate::world::{Event, World};

/// A region that is behind a membership is asked again after this.
const BEHIND: u64 = SECOND / 4;

/// As an edge has them.
pub(crate) const LIMITS: DeliveryLimits = DeliveryLimits {
    held: 1_000,
    held_bytes: 1 << 20,
    tracked: 4_096,
    replay_rows: limits::REPLAY_ROWS,
    gap_rows: limits::REPLAY_GAP_ROWS,
};

/// What goes to a client.
type Out = Delivery<Arc<SealedEntry>>;

impl World {
    /// A connection begins with a conversation: its region holds it from now on, and shows what the client lacks.
    pub(crate) fn begin_with(&mut self, id: u64, conversation: usize) {
        let Some(region) = self.connections.get(&id).map(|connection| connection.region) else { return };
        let client = self.connections[&id].client;
        if !self.conversations[conversation].ready || !self.clients[client].conversations.contains(&conversation) {
            return;
        }
        let log = self.conversations[conversation].log;
        let cursor = self.cursor(id, conversation);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.stream.begin_replay(&cursor);
        }
        self.follow_with(id, conversation);
        let reply = self.number();
        self.tickets.insert(reply, Waits::Replay { connection: id, conversation });
        self.input(region, Input::Query { log, ask: true, reply });
    }

    /// A region holds a conversation from now on: a session that lives when its user joins is shown what comes.
    pub(crate) fn follow_with(&mut self, id: u64, conversation: usize) {
        let Some(region) = self.connections.get(&id).map(|connection| connection.region) else { return };
        let log = self.conversations[conversation].log;
        self.input(region, Input::Follow { log, hold: true });
    }

    /// A conversation came to be: whoever is in it and connected begins with it.
    pub(crate) fn begin_for_all(&mut self, conversation: usize) {
        for number in 0..self.clients.len() {
            if self.clients[number].conversations.contains(&conversation)
                && let Some(id) = self.clients[number].connection
            {
                self.begin_with(id, conversation);
            }
        }
    }

    /// Where a connection's client is in a conversation, as it says when it comes back.
    fn cursor(&self, id: u64, conversation: usize) -> SyncCursor {
        let client = self.connections.get(&id).map(|connection| &self.clients[connection.client]);
        let known = client.and_then(|client| client.cursors.get(&conversation)).copied();
        let last_sequence = known.map_or(0, |position| position.sequence.0);
        let conversation_id = self.conversations[conversation].id;
        SyncCursor { conversation_id, last_sequence, epoch: known.map(|position| position.epoch) }
    }

    /// A session decides, and its client is shown what comes of that.
    fn decide(
        &mut self,
        id: u64,
        conversation: usize,
        by: impl FnOnce(&mut Deliveries<Arc<SealedEntry>>, u64, &mut dyn FnMut(Out)),
    ) {
        let now = self.now / 1_000;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mut out = std::mem::take(&mut self.deliveries);
        by(&mut connection.stream, now, &mut |delivery| out.push(delivery));
        out.drain(..).for_each(|delivery| self.goes_out(id, conversation, delivery));
        self.deliveries = out;
    }

    fn goes_out(&mut self, id: u64, conversation: usize, delivery: Out) {
        let Some(session) = self.connections.get(&id).map(|connection| connection.session) else { return };
        match delivery {
            Delivery::Frame(entry) => self.show(id, conversation, &entry),
            Delivery::Rewound(rewound) => self.forget_above(id, conversation, &rewound),
            Delivery::SyncRequired { conversation, .. } | Delivery::SyncGap { conversation, .. } => {
                self.history.add(self.now, history::Event::Told(session, Some(conversation)));
            }
            Delivery::LeftOut(_) => {}
        }
    }

    /// What a connection sends will not come to it as a message.
    pub(crate) fn own_sent(&mut self, id: u64, conversation: usize) {
        let (now, conversation) = (self.now / 1_000, self.conversations[conversation].id);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.stream.own_sent(conversation, now);
        }
    }

    /// What waited for the ack follows it.
    pub(crate) fn own_acked(&mut self, id: u64, conversation: ConversationId, Position { epoch, sequence }: Position) {
        let Some(at) = self.by_log.get(&LogId::conversation(conversation)).copied() else { return };
        let acked = (epoch, sequence.0);
        self.decide(id, at, |stream, now, mut out| stream.own_acked(conversation, acked, now, &mut out));
    }

    /// Sessions of a region look at the time.
    pub(crate) fn look_at_waits(&mut self, place: usize) {
        let now = self.now / 1_000;
        let due = |(id, connection): (&u64, &Connection)| {
            let due = connection.region == place && connection.stream.poll_timeout().is_some_and(|until| until <= now);
            due.then_some(*id)
        };
        let due: Vec<u64> = self.connections.iter().filter_map(due).collect();
        for id in due {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let mut out = Vec::new();
            connection.stream.handle_timeout(now, &mut |conversation, delivery| out.push((conversation, delivery)));
            for (conversation, delivery) in out {
                if let Some(at) = self.by_log.get(&LogId::conversation(conversation)).copied() {
                    self.goes_out(id, at, delivery);
                }
            }
        }
    }

    /// A region shows an entry to the sessions of its members here.
    pub(crate) fn deliver(
        &mut self,
        place: usize,
        log: LogId,
        entry: &Arc<SealedEntry>,
        audience: &Members,
        skip: Option<Ticket>,
    ) {
        let Some(conversation) = self.by_log.get(&log).copied() else { return };
        let skip = skip.and_then(|ticket| match self.tickets.get(&ticket) {
            Some(Waits::Send { connection, .. }) => Some(*connection),
            _ => None,
        });
        self.trace.count(self.now, "deliver", place as u64, entry.sequence().0);
        if entry.sequence().0 == 0 {
            return;
        }
        self.follow_guest(place, conversation, audience);
        let sessions = &self.regions[place].sessions;
        let users = audience.keys().filter_map(|user| sessions.get(user)).flatten();
        let named = self.conversations[conversation].id;
        let Position { epoch, sequence } = entry.entry.fixed.position;
        for id in users.copied().filter(|id| Some(*id) != skip).collect::<Vec<_>>() {
            let (sequence, bytes, frame) = (sequence.0, entry.encoded.len(), Arc::clone(entry));
            let live = Live { conversation: named, epoch, sequence, bytes, frame };
            self.decide(id, conversation, |stream, now, mut out| stream.live(live, now, &mut out));
        }
    }

    /// A guest who was removed and is a member again hears so where the stream says it, as the notice of a region tells
    /// it: what came between is not for it.
    fn follow_guest(&mut self, place: usize, conversation: usize, audience: &Members) {
        let Conversation { id, guest, .. } = self.conversations[conversation];
        let Some((number, id_of)) = guest.and_then(|guest| Some((guest, self.clients[guest].connection?))) else {
            return;
        };
        let Some(connection) = self.connections.get_mut(&id_of).filter(|connection| connection.region == place) else {
            return;
        };
        if !audience.contains_key(&self.clients[number].user) {
            connection.removed.insert(conversation);
        } else if connection.removed.remove(&conversation) {
            self.history.add(self.now, history::Event::Told(connection.session, Some(id)));
        }
    }

    /// A client is shown an entry.
    fn show(&mut self, id: u64, conversation: usize, entry: &SealedEntry) {
        let fixed = &entry.entry.fixed;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let client = &mut self.clients[connection.client];
        let (session, position) = (connection.session, fixed.position);
        let cursor = client.cursors.entry(conversation).or_default();
        if position.sequence > cursor.sequence || position.epoch > cursor.epoch {
            *cursor = position;
        }
        let (id, message) = (self.conversations[conversation].id, MessageId(fixed.id));
        self.history.add(self.now, history::Event::Shown(session, id, position, message));
        let plain = fixed.kind == EntryKind::Message;
        if plain {
            client.named.entry(conversation).or_default().note_seen(message);
        }
        if fixed.kind == EntryKind::Delete {
            connection.deletes.insert(conversation);
        }
        // What a message says matters once a delete was shown.
        if !plain || connection.deletes.contains(&conversation) {
            let (did, text) = said(entry);
            self.history.add(self.now, history::Event::Says { session, conversation: id, message, did, text });
        }
    }

    /// Sessions of members are told that a region's stream goes on at a number, behind what it does not show. Where the
    /// region showed nothing before, a session that named the conversation in no cursor has nothing to miss.
    pub(crate) fn skipped(
        &mut self,
        place: usize,
        log: LogId,
        epoch: Epoch,
        range: (u64, u64),
        users: &BTreeSet<UserId>,
    ) {
        let Some(conversation) = self.by_log.get(&log).copied() else { return };
        let (from, at) = range;
        let named = self.conversations[conversation].id;
        let skipped = Skipped { conversation: named, epoch, from: if from > 0 { from } else { at }, at };
        let sessions = &self.regions[place].sessions;
        let connections: Vec<u64> = users.iter().filter_map(|user| sessions.get(user)).flatten().copied().collect();
        for id in connections {
            self.decide(id, conversation, |stream, _, mut out| stream.skipped(&skipped, &mut out));
        }
    }

    /// A region is on a newer epoch's line: sessions of members find out what of theirs is not in it.
    pub(crate) fn line_changed(&mut self, place: usize, log: LogId, line: &Arc<Line>, audience: &Members) {
        let Some(conversation) = self.by_log.get(&log).copied() else { return };
        let changed = LineChanged { conversation: self.conversations[conversation].id, line: Arc::clone(line) };
        let sessions = &self.regions[place].sessions;
        let connections: Vec<u64> = audience.keys().filter_map(|user| sessions.get(user)).flatten().copied().collect();
        for id in connections {
            self.decide(id, conversation, |stream, now, mut out| stream.line_changed(&changed, now, &mut out));
        }
    }

    /// A client hears what has left the line.
    fn forget_above(&mut self, id: u64, conversation: usize, rewound: &Rewound) {
        let Some(connection) = self.connections.get(&id) else { return };
        let cursors = &mut self.clients[connection.client].cursors;
        if let Some(cursor) = cursors.get_mut(&conversation).filter(|cursor| cursor.sequence.0 > rewound.after) {
            (cursor.epoch, cursor.sequence.0) = (rewound.epoch, rewound.after);
        }
        self.trace.count(self.now, "rewound", conversation as u64, rewound.after);
        let event = history::Event::Rewound(connection.session, rewound.conversation, rewound.after + 1);
        self.history.add(self.now, event);
    }

    /// A region could not say what a client lacks.
    pub(crate) fn not_replayed(&mut self, id: u64, conversation: usize) {
        let cursor = self.cursor(id, conversation);
        self.decide(id, conversation, |stream, now, mut out| stream.not_replayed(&cursor, true, now, &mut out));
    }

    /// What a region holds behind the client's cursor, up to the mark.
    pub(crate) fn replay(&mut self, place: usize, id: u64, conversation: usize, view: &LogView) {
        let Some(client) = self.connections.get(&id).map(|connection| connection.client) else { return };
        // A region that does not know the membership yet would leave out what comes before it.
        let visible_from = match &view.view {
            View::Conversation(state) => state
                .members
                .get(&self.clients[client].user)
                .filter(|member| member.since < view.marked)
                .map(|member| state.visible_from(member)),
            _ => None,
        };
        match visible_from {
            None if view.held => self.after(BEHIND, Event::Begin { connection: id, conversation }),
            Some(visible_from) if view.held => {
                let cursor = self.cursor(id, conversation);
                let replay = self.replay_of(place, &cursor, visible_from, view);
                self.decide(id, conversation, |stream, now, mut out| stream.replayed(&cursor, replay, now, &mut out));
            }
            _ => self.not_replayed(id, conversation),
        }
    }

    /// What is on the disk of a region behind a cursor, or behind what is left of it where that is not good.
    fn replay_of(
        &self,
        place: usize,
        cursor: &SyncCursor,
        visible_from: u64,
        view: &LogView,
    ) -> Replay<Arc<SealedEntry>> {
        let rewound = rewound_for(view, cursor);
        let (log, to) = (LogId::conversation(cursor.conversation_id), view.shown().max(1));
        let last = rewound.map_or(cursor.last_sequence, |rewound| rewound.after);
        let below = view.open.map_or(0, |(_, to)| to).max(to.saturating_sub(LIMITS.replay_rows));
        let from = (last + 1).max(visible_from).max(view.floor).max(below);
        let rows = if from < to { self.regions[place].disk.read(log, from, to) } else { Vec::new() };
        let frames = rows.into_iter().map(|entry| (entry.sequence().0, entry)).collect();
        let (epoch, floor) = (view.line().epoch(), view.floor);
        Replay { frames, epoch, up_to: to - 1, visible_from: visible_from.max(floor), floor, rewound }
    }
}
