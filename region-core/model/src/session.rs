//! In which order the messages of one session go out: ascending per conversation, none twice, none after a hole that
//! the client was not told about. And from where a client that comes back goes on.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hearth_protocol::rest::SyncCursor;
use hearth_protocol::{ConversationId, Epoch};

use crate::delivery::SessionSent;
use crate::effect::LogView;

mod drain;
mod events;
mod rate;
#[cfg(test)]
mod tests;
mod track;

pub use drain::{Drain, DrainSlot, Drained, Leave, Stay};
pub use events::{Delivery, DeliveryLimits, LeftOut, LineChanged, Live, Replay, Rewound, Skipped};
pub use rate::MessageRate;
use track::{Behind, Held, Track};

/// For how long a message waits behind a hole that may be an own message whose ack is on its way, in milliseconds.
const OWN_ACK_MS: u64 = 2_000;
/// For how long a message counts as sent and not acked, in milliseconds.
const OWN_SENT_MS: u64 = 10_000;

/// What a session was sent, by conversation.
#[derive(Debug)]
pub struct Deliveries<F> {
    limits: DeliveryLimits,
    tracks: HashMap<ConversationId, Track<F>, FixedState>,
    held: usize,
    held_bytes: usize,
}

impl<F> Deliveries<F> {
    /// Nothing was sent yet. `salt` is nothing that a client could know: it names conversations of its own choice.
    #[must_use]
    pub fn new(limits: DeliveryLimits, salt: u64) -> Self {
        Self { limits, tracks: HashMap::with_hasher(FixedState::with_seed(salt)), held: 0, held_bytes: 0 }
    }

    /// Takes a live message.
    pub fn live(&mut self, live: Live<F>, now: u64, out: &mut impl FnMut(Delivery<F>)) {
        if !self.tracks.contains_key(&live.conversation) {
            self.make_room();
            let track = Track::new(live.epoch, live.sequence, live.sequence.saturating_sub(1));
            self.tracks.insert(live.conversation, track);
        }
        let track = self.tracks.get_mut(&live.conversation).expect("inserted above");
        track.begin(live.epoch, live.sequence);
        if let Some(held) = &mut track.held {
            let bytes = self.held_bytes.saturating_add(live.bytes);
            let waits = !matches!(held.behind, Behind::Line(_));
            if waits && self.held < self.limits.held && bytes <= self.limits.held_bytes {
                self.held += 1;
                self.held_bytes = bytes;
                held.frames.push_back(live);
            } else {
                held.dropped = Some((live.epoch, live.sequence));
                out(Delivery::LeftOut(LeftOut::Held));
            }
            return;
        }
        self.deliver(live, now, out);
    }

    fn deliver(&mut self, live: Live<F>, now: u64, out: &mut impl FnMut(Delivery<F>)) {
        let Some(track) = self.tracks.get_mut(&live.conversation) else { return };
        if live.epoch < track.shown || (live.sequence <= track.sent && live.epoch <= track.epoch) {
            return out(Delivery::LeftOut(LeftOut::Duplicate));
        }
        if live.sequence <= track.sent {
            // Of a newer line than the client is on, which nobody told.
            let mut after = live.sequence - 1;
            while track.own.contains(&(after, live.epoch)) {
                after -= 1;
            }
            let rewound = Rewound { conversation: live.conversation, epoch: live.epoch, after };
            track.rewind(rewound, out);
            if live.sequence <= track.sent {
                return out(Delivery::LeftOut(LeftOut::Duplicate));
            }
        }
        let missing = track.missing(live.sequence);
        if missing == 0 {
            return track.send(live, out);
        }
        let bytes = self.held_bytes.saturating_add(live.bytes);
        if track.may_be_own(missing, now) && self.held < self.limits.held && bytes <= self.limits.held_bytes {
            let mut held = Held::behind(Behind::Acks(now + OWN_ACK_MS));
            (self.held, self.held_bytes) = (self.held + 1, bytes);
            held.frames.push_back(live);
            track.held = Some(held);
            return;
        }
        track.pull(live.conversation, live.epoch, live.sequence, out);
        out(Delivery::LeftOut(LeftOut::Gap));
    }

    /// Until when messages of a conversation wait for acks of own ones; `None` for never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let until = |track: &Track<F>| match track.held.as_ref()?.behind {
            Behind::Acks(until) => Some(until),
            Behind::Replay(_) | Behind::Line(_) => None,
        };
        // Nothing waits in most sessions, most of the time.
        if self.held == 0 { None } else { self.tracks.values().filter_map(until).min() }
    }

    /// Looks at the time: what waited for acks that did not come goes out, behind a word of what is missing.
    pub fn handle_timeout(&mut self, now: u64, out: &mut impl FnMut(ConversationId, Delivery<F>)) {
        if self.held == 0 {
            return;
        }
        let over = |track: &Track<F>| {
            track.held.as_ref().is_some_and(|held| matches!(held.behind, Behind::Acks(until) if until <= now))
        };
        let due: Vec<ConversationId> =
            self.tracks.iter().filter(|(_, track)| over(track)).map(|(conversation, _)| *conversation).collect();
        for conversation in due {
            if let Some(track) = self.tracks.get_mut(&conversation) {
                (track.own_unacked, track.own_until) = (0, 0);
            }
            self.release(conversation, now, &mut |delivery| out(conversation, delivery));
        }
    }

    /// The region's stream of a conversation goes on above messages that it does not show: the client is told to pull
    /// them, unless they are all its own.
    pub fn skipped(&mut self, skipped: &Skipped, out: &mut impl FnMut(Delivery<F>)) {
        let Skipped { conversation, epoch, from, at } = *skipped;
        let Some(track) = self.tracks.get_mut(&conversation) else {
            // The client was sent nothing of it: it may have read up to where this region showed it to others.
            if from < at {
                out(Delivery::SyncRequired { conversation, from });
            }
            return;
        };
        if let Some(held) = &mut track.held {
            held.dropped = held.dropped.max(Some((epoch, at - 1)));
            return;
        }
        track.begin(epoch, from);
        if track.sent + 1 >= at {
            return;
        }
        if track.missing(at) > 0 {
            track.pull(conversation, epoch, at - 1, out);
        } else {
            (track.epoch, track.sent) = (epoch, at - 1);
            track.absorb_own();
        }
    }

    /// The region is on another line from now on: who has something that is not in it is told. Live messages that wait
    /// are of the line before as far as they are above that.
    pub fn line_changed(&mut self, changed: &LineChanged, now: u64, out: &mut impl FnMut(Delivery<F>)) {
        let LineChanged { conversation, line } = changed;
        let Some(track) = self.tracks.get_mut(conversation) else { return };
        track.follow(*conversation, line, out);
        let Some(held) = &mut track.held else { return };
        let (mut count, mut bytes) = (0, 0);
        held.frames.retain(|live| {
            let stays = line.cut(live.epoch, live.sequence) == live.sequence;
            (count, bytes) = if stays { (count, bytes) } else { (count + 1, bytes + live.bytes) };
            stays
        });
        (self.held, self.held_bytes) = (self.held - count, self.held_bytes - bytes);
        held.dropped = held.dropped.map(|(epoch, sequence)| (epoch, line.cut(epoch, sequence)));
        match &mut held.behind {
            Behind::Replay(known) => *known = Some(Arc::clone(line)),
            Behind::Line(epoch) if *epoch <= line.epoch() => self.release(*conversation, now, out),
            Behind::Line(_) => {}
            Behind::Acks(_) => self.release(*conversation, now, out),
        }
    }

    /// The last number of a conversation that this session was sent, or told to pull.
    #[must_use]
    pub fn sent(&self, conversation: ConversationId) -> Option<(Epoch, u64)> {
        self.tracks.get(&conversation).filter(|track| track.begun).map(|track| (track.epoch, track.sent))
    }

    /// What this session was sent of a message.
    #[must_use]
    pub fn about(&self, conversation: ConversationId, sequence: u64) -> SessionSent {
        let Some(track) = self.tracks.get(&conversation) else { return SessionSent::Before };
        if track.is_own(sequence) {
            return SessionSent::Sent;
        }
        match sequence {
            _ if !track.begun || sequence < track.first => SessionSent::Before,
            _ if sequence > track.sent => SessionSent::Waits,
            _ if (track.pulled.0..=track.pulled.1).contains(&sequence) => SessionSent::Pulls,
            _ => SessionSent::Sent,
        }
    }

    /// This session sent a message: its number will not come as `message.new`.
    pub fn own_sent(&mut self, conversation: ConversationId, now: u64) {
        if !self.tracks.contains_key(&conversation) {
            self.make_room();
        }
        let track = self.tracks.entry(conversation).or_insert_with(Track::of_own);
        if now > track.own_until {
            track.own_unacked = 0;
        }
        track.own_unacked += 1;
        track.own_until = now + OWN_SENT_MS;
    }

    /// An ack went to this session: what waited behind that number follows it.
    pub fn own_acked(
        &mut self,
        conversation: ConversationId,
        (epoch, sequence): (Epoch, u64),
        now: u64,
        out: &mut impl FnMut(Delivery<F>),
    ) {
        let Some(track) = self.tracks.get_mut(&conversation) else { return };
        track.own_unacked = track.own_unacked.saturating_sub(1);
        if !track.add_own((sequence, epoch)) {
            return;
        }
        if track.begun {
            track.absorb_own();
        }
        if track.held.as_ref().is_some_and(|held| matches!(held.behind, Behind::Acks(_))) {
            self.release(conversation, now, out);
        }
    }

    /// From now on live frames of the conversation wait for [`Deliveries::replayed`].
    pub fn begin_replay(&mut self, cursor: &SyncCursor) {
        if !self.tracks.contains_key(&cursor.conversation_id) {
            self.make_room();
        }
        let fresh = || Track::new(cursor.epoch.unwrap_or(Epoch(0)), cursor.last_sequence + 1, cursor.last_sequence);
        let track = self.tracks.entry(cursor.conversation_id).or_insert_with(fresh);
        track.begin(cursor.epoch.unwrap_or(Epoch(0)), cursor.last_sequence + 1);
        match &mut track.held {
            // What waits goes on waiting, for the replay.
            Some(held) if !matches!(held.behind, Behind::Replay(_)) => held.behind = Behind::Replay(None),
            Some(_) => {}
            None => track.held = Some(Held::behind(Behind::Replay(None))),
        }
    }

    /// Sends what a replay gave, then what waited behind it.
    pub fn replayed(
        &mut self,
        cursor: &SyncCursor,
        mut replay: Replay<F>,
        now: u64,
        out: &mut impl FnMut(Delivery<F>),
    ) {
        let conversation = cursor.conversation_id;
        let Some(track) = self.tracks.get_mut(&conversation) else { return };
        let mut last = cursor.last_sequence;
        if let Some(rewound) = replay.rewound {
            track.rewind(rewound, out);
            last = rewound.after;
        }
        let Some(held) = &mut track.held else { return };
        if let Behind::Replay(Some(line)) = &held.behind
            && line.epoch() > replay.epoch
        {
            // It was read before the region went over to another line.
            let end = line.cut(replay.epoch, replay.up_to);
            replay.up_to = end;
            replay.frames.retain(|(sequence, _)| *sequence <= end);
            last = last.min(track.sent);
        } else if replay.epoch < track.epoch {
            // The region is on an older line than the client: what it shows meanwhile may not be in the client's.
            let newest = held.frames.back().map(|live| (live.epoch, live.sequence));
            self.held -= held.frames.len();
            self.held_bytes -= held.frames.iter().map(|live| live.bytes).sum::<usize>();
            *held = Held { dropped: held.dropped.max(newest), ..Held::behind(Behind::Line(track.epoch)) };
            return;
        }
        self.take_replay(conversation, last, replay, out);
        self.release(conversation, now, out);
    }

    /// Sends what is behind the last number of a client.
    fn take_replay(
        &mut self,
        conversation: ConversationId,
        last: u64,
        replay: Replay<F>,
        out: &mut impl FnMut(Delivery<F>),
    ) {
        let limits = self.limits;
        let Some(track) = self.tracks.get_mut(&conversation) else { return };
        let base = last.max(replay.visible_from.saturating_sub(1));
        if last + 1 < replay.floor {
            // Retention took them: whoever pulls is told the floor.
            out(Delivery::SyncGap { conversation, from: last + 1, to: replay.floor - 1 });
        }
        let missed = replay.up_to.saturating_sub(base);
        let start = if missed > limits.gap_rows {
            let start = replay.up_to - limits.replay_rows;
            out(Delivery::SyncGap { conversation, from: base + 1, to: start });
            start
        } else if missed > limits.replay_rows {
            out(Delivery::SyncRequired { conversation, from: base + 1 });
            replay.up_to
        } else {
            base
        };
        let start = Self::tell_hole(conversation, start, &replay, out);
        if start > base {
            track.pulled = (base + 1, start);
        }
        for (sequence, frame) in replay.frames {
            if sequence > start && !track.was_sent(sequence) {
                out(Delivery::Frame(frame));
            }
        }
        track.first = track.first.min(start + 1);
        if replay.up_to >= track.sent {
            (track.epoch, track.sent) = (replay.epoch.max(track.epoch), replay.up_to.max(base));
        }
        track.absorb_own();
    }

    /// A replay may have fewer rows than were asked for: what lacks at its front is told. Returns after which number
    /// the rows follow without a hole.
    fn tell_hole(
        conversation: ConversationId,
        start: u64,
        replay: &Replay<F>,
        out: &mut impl FnMut(Delivery<F>),
    ) -> u64 {
        let first = replay.frames.iter().map(|(sequence, _)| *sequence).find(|sequence| *sequence > start);
        match first {
            Some(first) if first > start + 1 => {
                out(Delivery::SyncGap { conversation, from: start + 1, to: first - 1 });
                first - 1
            }
            None if replay.up_to > start => {
                out(Delivery::SyncRequired { conversation, from: start + 1 });
                replay.up_to
            }
            Some(_) | None => start,
        }
    }

    /// A replay failed: the client pulls, if `pull`. What waited goes out after it.
    pub fn not_replayed(&mut self, cursor: &SyncCursor, pull: bool, now: u64, out: &mut impl FnMut(Delivery<F>)) {
        if pull {
            out(Delivery::SyncRequired { conversation: cursor.conversation_id, from: cursor.last_sequence + 1 });
        }
        let Some(track) = self.tracks.get_mut(&cursor.conversation_id) else { return };
        // The client was told to pull from its own number on: the first live message may follow at any distance.
        if let Some(first) = track.held.as_ref().and_then(|held| held.frames.front()) {
            track.sent = track.sent.max(first.sequence.saturating_sub(1));
            track.pulled = (cursor.last_sequence + 1, track.sent);
            self.release(cursor.conversation_id, now, out);
        } else {
            self.tracks.remove(&cursor.conversation_id);
        }
    }

    /// What waited goes out, as far as nothing else is missing before it.
    fn release(&mut self, conversation: ConversationId, now: u64, out: &mut impl FnMut(Delivery<F>)) {
        let Some(track) = self.tracks.get_mut(&conversation) else { return };
        let Some(held) = track.held.take() else { return };
        self.held -= held.frames.len();
        self.held_bytes -= held.frames.iter().map(|live| live.bytes).sum::<usize>();
        let first = held.frames.front().map(|live| live.sequence);
        let was_ahead = matches!(held.behind, Behind::Line(_));
        for live in held.frames {
            self.live(live, now, out);
        }
        let Some(track) = self.tracks.get_mut(&conversation) else { return };
        match (&mut track.held, held.behind) {
            // The same hole is still open: nobody waits for longer than was said.
            (Some(Held { frames, behind: Behind::Acks(until), .. }), Behind::Acks(before))
                if frames.front().map(|live| live.sequence) == first =>
            {
                *until = before.min(*until);
            }
            // Nothing of what was left out is known to be in the client's line: it pulls, and the stream goes on.
            (None, Behind::Line(_)) if held.dropped.is_some() => {
                out(Delivery::SyncRequired { conversation, from: track.sent + 1 });
            }
            _ => {}
        }
        match (held.dropped, &mut track.held) {
            (Some(dropped), Some(held)) => held.dropped = held.dropped.max(Some(dropped)),
            (Some((epoch, sequence)), None) if sequence > track.sent && !was_ahead => {
                track.pull(conversation, epoch, sequence, out);
            }
            _ => {}
        }
    }

    /// Forgets one conversation when too many are known: the core sends in order all the same.
    fn make_room(&mut self) {
        if self.tracks.len() < self.limits.tracked {
            return;
        }
        let idle = self.tracks.iter().find(|(_, track)| track.held.is_none()).map(|(id, _)| *id);
        if let Some(idle) = idle {
            self.tracks.remove(&idle);
        }
    }
}

/// A cursor of an older epoch is good below the first number of every later epoch; one without an epoch below that of
/// every epoch that may lack something of before. A client that is further is told to forget what it has above.
#[must_use]
pub fn rewound_for(view: &LogView, cursor: &SyncCursor) -> Option<Rewound> {
    let line = view.line();
    let after = match cursor.epoch {
        Some(epoch) => line.cut(epoch, cursor.last_sequence),
        None => line.cut_unknown(cursor.last_sequence),
    };
    let conversation = cursor.conversation_id;
    (after < cursor.last_sequence).then(|| Rewound { conversation, epoch: line.epoch(), after })
}
