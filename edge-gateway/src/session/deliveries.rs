//! In which order the messages of one session go out: ascending per conversation, none twice, none after a hole that
//! the client was not told about.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use hearth_protocol::client::{RewoundPayload, ServerFrame, SyncGapPayload, SyncRequiredPayload, encode_server_frame};
use hearth_protocol::rest::SyncCursor;
use hearth_protocol::{ConversationId, Epoch};
use region_core::{Replay, Rewound, SessionSent, Skipped};

use super::Effect;
use crate::metrics::DropLabel;

/// Numbers of own messages remembered per conversation: the core does not send these to the connection that sent them.
const OWN_NUMBERS: usize = 256;
/// For how long a hole may be an own message whose ack is on its way, in milliseconds.
const OWN_ACK_MS: u64 = 10_000;

/// A live message on its way to the client.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) conversation: ConversationId,
    pub(crate) epoch: Epoch,
    pub(crate) sequence: u64,
    pub(crate) frame: Bytes,
}

/// Bounds of [`Deliveries`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeliveryLimits {
    /// Frames behind replays.
    pub(crate) held: usize,
    /// Their bytes.
    pub(crate) held_bytes: usize,
    pub(crate) tracked: usize,
    pub(crate) replay_rows: u64,
    pub(crate) gap_rows: u64,
}

/// What this session was sent, by conversation.
#[derive(Debug)]
pub(crate) struct Deliveries {
    limits: DeliveryLimits,
    tracks: HashMap<ConversationId, Track>,
    held: usize,
    held_bytes: usize,
}

/// What is known of one conversation: numbers `first..=sent` were sent, but for those in `own`.
#[derive(Debug)]
struct Track {
    epoch: Epoch,
    first: u64,
    sent: u64,
    /// Whether `first` and `sent` say anything: an own message may come before the first that is delivered.
    begun: bool,
    own: VecDeque<u64>,
    own_unacked: u64,
    own_until: u64,
    held: Option<Held>,
    /// The range that the client was told to pull last; `(1, 0)` for none.
    pulled: (u64, u64),
}

/// Live frames behind a replay.
#[derive(Debug, Default)]
struct Held {
    frames: VecDeque<Live>,
    /// The highest number dropped because too many waited.
    dropped: Option<(Epoch, u64)>,
}

impl Track {
    fn new(epoch: Epoch, first: u64, sent: u64) -> Self {
        Self {
            epoch,
            first,
            sent,
            begun: true,
            own: VecDeque::new(),
            own_unacked: 0,
            own_until: 0,
            held: None,
            pulled: (1, 0),
        }
    }

    /// A conversation of which only own messages are known so far.
    fn of_own() -> Self {
        Self { begun: false, ..Self::new(Epoch(0), 0, 0) }
    }

    /// Sets where deliveries begin, if that is not known yet.
    fn begin(&mut self, epoch: Epoch, first: u64) {
        if !self.begun {
            (self.begun, self.epoch, self.first, self.sent) = (true, epoch, first, first.saturating_sub(1));
        }
    }

    fn was_sent(&self, sequence: u64) -> bool {
        (self.first..=self.sent).contains(&sequence) && !self.own.contains(&sequence)
    }

    /// Whether nothing is missing before `sequence` but messages that this session sent itself.
    fn follows(&self, sequence: u64, now: u64) -> bool {
        let missing = sequence - self.sent - 1;
        let acked = self.own.iter().filter(|own| **own > self.sent && **own < sequence).count() as u64;
        let unacked = if now <= self.own_until { self.own_unacked } else { 0 };
        missing <= acked + unacked
    }

    fn absorb_own(&mut self) {
        while self.own.contains(&(self.sent + 1)) {
            self.sent += 1;
        }
    }
}

impl Deliveries {
    pub(crate) fn new(limits: DeliveryLimits) -> Self {
        Self { limits, tracks: HashMap::new(), held: 0, held_bytes: 0 }
    }

    /// Takes a live message.
    pub(crate) fn live(&mut self, live: Live, now: u64, effects: &mut VecDeque<Effect>) {
        if !self.tracks.contains_key(&live.conversation) {
            self.make_room();
            let track = Track::new(live.epoch, live.sequence, live.sequence.saturating_sub(1));
            self.tracks.insert(live.conversation, track);
        }
        let track = self.tracks.get_mut(&live.conversation).expect("inserted above");
        track.begin(live.epoch, live.sequence);
        if let Some(held) = &mut track.held {
            let bytes = self.held_bytes.saturating_add(live.frame.len());
            if self.held >= self.limits.held || bytes > self.limits.held_bytes {
                held.dropped = Some((live.epoch, live.sequence));
                effects.push_back(Effect::Dropped(DropLabel::Held));
            } else {
                self.held += 1;
                self.held_bytes = bytes;
                held.frames.push_back(live);
            }
            return;
        }
        Self::deliver(track, live, now, effects);
    }

    /// The region's stream of a conversation goes on above messages that it does not show: the client is told to pull
    /// them, unless they are all its own.
    pub(crate) fn skipped(&mut self, skipped: &Skipped, now: u64, effects: &mut VecDeque<Effect>) {
        let Skipped { conversation, epoch, from, at } = *skipped;
        let Some(track) = self.tracks.get_mut(&conversation) else {
            // The client was sent nothing of it: it may have read up to where this region showed it to others.
            if from < at {
                effects.push_back(sync_required(conversation, from));
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
        if !track.follows(at, now) {
            effects.push_back(sync_required(conversation, track.sent + 1));
            track.pulled = (track.sent + 1, at - 1);
        }
        (track.epoch, track.sent) = (epoch.max(track.epoch), at - 1);
        track.absorb_own();
    }

    /// Messages that may have been sent have left the line. Behind a replay it is told at once: what is replayed is of
    /// the new line.
    pub(crate) fn rewound(&mut self, rewound: &Rewound, effects: &mut VecDeque<Effect>) {
        let Rewound { conversation, epoch, after } = *rewound;
        let payload = RewoundPayload { conversation_id: conversation, epoch, after_sequence: after };
        effects.push_back(Effect::Send(encode_server_frame(&ServerFrame::ConversationRewound(payload), None)));
        if let Some(track) = self.tracks.get_mut(&conversation)
            && epoch > track.epoch
        {
            track.own.clear();
            track.epoch = epoch;
            track.sent = track.sent.min(after);
            track.first = track.first.min(after + 1);
        }
    }

    fn deliver(track: &mut Track, live: Live, now: u64, effects: &mut VecDeque<Effect>) {
        let rewound = live.epoch > track.epoch && live.sequence <= track.sent;
        if live.epoch < track.epoch || (live.sequence <= track.sent && !rewound) {
            effects.push_back(Effect::Dropped(DropLabel::Duplicate));
            return;
        }
        if rewound {
            track.own.clear();
            track.first = live.sequence;
        } else if !track.follows(live.sequence, now) {
            effects.push_back(sync_required(live.conversation, track.sent + 1));
            effects.push_back(Effect::Dropped(DropLabel::Gap));
            track.pulled = (track.sent + 1, live.sequence);
            track.epoch = live.epoch;
            track.sent = live.sequence;
            return;
        }
        track.epoch = live.epoch;
        track.sent = live.sequence;
        track.absorb_own();
        effects.push_back(Effect::Send(live.frame));
    }

    /// The last number of a conversation that this session was sent, or told to pull.
    pub(crate) fn sent(&self, conversation: ConversationId) -> Option<(Epoch, u64)> {
        self.tracks.get(&conversation).filter(|track| track.begun).map(|track| (track.epoch, track.sent))
    }

    /// What this session was sent of a message.
    pub(crate) fn about(&self, conversation: ConversationId, sequence: u64) -> SessionSent {
        let Some(track) = self.tracks.get(&conversation) else { return SessionSent::Before };
        if track.own.contains(&sequence) {
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
    pub(crate) fn own_sent(&mut self, conversation: ConversationId, now: u64) {
        if !self.tracks.contains_key(&conversation) {
            self.make_room();
        }
        let track = self.tracks.entry(conversation).or_insert_with(Track::of_own);
        if now > track.own_until {
            track.own_unacked = 0;
        }
        track.own_unacked += 1;
        track.own_until = now + OWN_ACK_MS;
    }

    /// An ack went to this session.
    pub(crate) fn own_acked(&mut self, conversation: ConversationId, sequence: u64) {
        let Some(track) = self.tracks.get_mut(&conversation) else { return };
        track.own_unacked = track.own_unacked.saturating_sub(1);
        if track.own.contains(&sequence) {
            return;
        }
        if track.own.len() == OWN_NUMBERS {
            track.own.pop_front();
        }
        track.own.push_back(sequence);
        if track.begun {
            track.absorb_own();
        }
    }

    /// From now on live frames of the conversation wait for [`Deliveries::replayed`].
    pub(crate) fn begin_replay(&mut self, cursor: &SyncCursor) {
        if !self.tracks.contains_key(&cursor.conversation_id) {
            self.make_room();
        }
        let fresh = || Track::new(cursor.epoch.unwrap_or(Epoch(0)), cursor.last_sequence + 1, cursor.last_sequence);
        let track = self.tracks.entry(cursor.conversation_id).or_insert_with(fresh);
        track.begin(cursor.epoch.unwrap_or(Epoch(0)), cursor.last_sequence + 1);
        track.held.get_or_insert_default();
    }

    /// Sends what a replay gave, then what waited behind it.
    pub(crate) fn replayed(&mut self, cursor: &SyncCursor, replay: Replay, now: u64, effects: &mut VecDeque<Effect>) {
        let conversation = cursor.conversation_id;
        let limits = self.limits;
        let Some(track) = self.tracks.get_mut(&conversation) else { return };
        let base = cursor.last_sequence.max(replay.visible_from.saturating_sub(1));
        if cursor.last_sequence + 1 < replay.floor {
            // Retention took them: whoever pulls is told the floor.
            effects.push_back(sync_gap(conversation, cursor.last_sequence + 1, replay.floor - 1));
        }
        let missed = replay.up_to.saturating_sub(base);
        let start = if missed > limits.gap_rows {
            let start = replay.up_to - limits.replay_rows;
            effects.push_back(sync_gap(conversation, base + 1, start));
            start
        } else if missed > limits.replay_rows {
            effects.push_back(sync_required(conversation, base + 1));
            replay.up_to
        } else {
            base
        };
        let start = Self::tell_hole(cursor, start, &replay, effects);
        if start > base {
            track.pulled = (base + 1, start);
        }
        for (sequence, frame) in replay.frames {
            if sequence > start && !track.was_sent(sequence) {
                effects.push_back(Effect::Send(frame));
            }
        }
        track.first = track.first.min(start + 1);
        if replay.up_to >= track.sent {
            (track.epoch, track.sent) = (replay.epoch.max(track.epoch), replay.up_to.max(base));
        }
        track.absorb_own();
        self.release(conversation, now, effects);
    }

    /// A replay may have fewer rows than were asked for: what lacks at its front is told. Returns after which number
    /// the rows follow without a hole.
    fn tell_hole(cursor: &SyncCursor, start: u64, replay: &Replay, effects: &mut VecDeque<Effect>) -> u64 {
        let first = replay.frames.iter().map(|(sequence, _)| *sequence).find(|sequence| *sequence > start);
        match first {
            Some(first) if first > start + 1 => {
                effects.push_back(sync_gap(cursor.conversation_id, start + 1, first - 1));
                first - 1
            }
            None if replay.up_to > start => {
                effects.push_back(sync_required(cursor.conversation_id, start + 1));
                replay.up_to
            }
            Some(_) | None => start,
        }
    }

    /// A replay failed: the client pulls, if `pull`. What waited goes out after it.
    pub(crate) fn not_replayed(&mut self, cursor: &SyncCursor, pull: bool, now: u64, effects: &mut VecDeque<Effect>) {
        if pull {
            effects.push_back(sync_required(cursor.conversation_id, cursor.last_sequence + 1));
        }
        let Some(track) = self.tracks.get_mut(&cursor.conversation_id) else { return };
        // The client was told to pull from its own number on: the first live message may follow at any distance.
        if let Some(first) = track.held.as_ref().and_then(|held| held.frames.front()) {
            track.sent = track.sent.max(first.sequence.saturating_sub(1));
            track.pulled = (cursor.last_sequence + 1, track.sent);
            self.release(cursor.conversation_id, now, effects);
        } else {
            self.tracks.remove(&cursor.conversation_id);
        }
    }

    fn release(&mut self, conversation: ConversationId, now: u64, effects: &mut VecDeque<Effect>) {
        let Some(track) = self.tracks.get_mut(&conversation) else { return };
        let Some(held) = track.held.take() else { return };
        self.held -= held.frames.len();
        self.held_bytes -= held.frames.iter().map(|live| live.frame.len()).sum::<usize>();
        for live in held.frames {
            Self::deliver(track, live, now, effects);
        }
        if let Some((epoch, sequence)) = held.dropped
            && sequence > track.sent
        {
            effects.push_back(sync_required(conversation, track.sent + 1));
            track.pulled = (track.sent + 1, sequence);
            (track.epoch, track.sent) = (epoch, sequence);
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

pub(crate) fn sync_required(conversation_id: ConversationId, from_sequence: u64) -> Effect {
    let payload = SyncRequiredPayload { conversation_id, from_sequence };
    Effect::Send(encode_server_frame(&ServerFrame::SyncRequired(payload), None))
}

fn sync_gap(conversation_id: ConversationId, from_sequence: u64, to_sequence: u64) -> Effect {
    let payload = SyncGapPayload { conversation_id, from_sequence, to_sequence };
    Effect::Send(encode_server_frame(&ServerFrame::SyncGap(payload), None))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn conversation() -> ConversationId {
        ConversationId(Uuid::from_u128(1))
    }

    fn frame(sequence: u64) -> Bytes {
        format!("{{\"type\":\"message.new\",\"payload\":{{\"sequenceNumber\":{sequence}}}}}").into_bytes().into()
    }

    /// Reads effects as a client does that starts with `have`: every message continues it, or a pull or gap was told.
    fn check(have: u64, effects: VecDeque<Effect>) -> Result<u64, TestCaseError> {
        let mut last = have;
        let mut told = false;
        for effect in effects {
            let Effect::Send(frame) = effect else { continue };
            let frame: serde_json::Value = serde_json::from_slice(&frame).unwrap();
            let payload = &frame["payload"];
            if frame["type"] == "message.new" {
                let sequence = payload["sequenceNumber"].as_u64().unwrap();
                prop_assert!(sequence > last, "{sequence} after {last}");
                prop_assert!(sequence == last + 1 || told, "{sequence} jumps over {last}");
                last = sequence;
                told = false;
            } else {
                // A second pull before the first was answered continues where that one ends.
                prop_assert!(told || payload["fromSequence"].as_u64().unwrap() <= last + 1, "a pull beyond {last}");
                told = true;
            }
        }
        Ok(last)
    }

    #[test]
    fn messages_that_the_region_does_not_show_are_told_once_and_not_where_the_client_cannot_miss_them() {
        let limits = DeliveryLimits { held: 8, held_bytes: 1_000, tracked: 4, replay_rows: 5, gap_rows: 20 };
        let live = |sequence| Live { conversation: conversation(), epoch: Epoch(1), sequence, frame: frame(sequence) };
        let skipped = |from, at| Skipped { conversation: conversation(), epoch: Epoch(1), from, at };
        let mut deliveries = Deliveries::new(limits);
        let mut effects = VecDeque::new();
        deliveries.skipped(&skipped(7, 7), 0, &mut effects);
        assert!(effects.is_empty(), "nothing of it was shown to anybody");
        deliveries.live(live(7), 0, &mut effects);
        deliveries.skipped(&skipped(8, 8), 0, &mut effects);
        assert_eq!(effects.len(), 1, "nothing is missing");
        deliveries.skipped(&skipped(8, 12), 0, &mut effects);
        deliveries.skipped(&skipped(8, 12), 0, &mut effects);
        deliveries.live(live(12), 0, &mut effects);
        assert_eq!(effects.len(), 3, "one pull is told, and the stream goes on");
        let listed = SyncCursor { conversation_id: conversation(), last_sequence: 12, epoch: Some(Epoch(1)) };
        deliveries.begin_replay(&listed);
        deliveries.skipped(&skipped(13, 20), 0, &mut effects);
        deliveries.live(live(20), 0, &mut effects);
        let replay =
            Replay { frames: Vec::new(), epoch: Epoch(1), up_to: 12, visible_from: 1, floor: 1, rewound: None };
        deliveries.replayed(&listed, replay, 0, &mut effects);
        assert!(check(6, effects).is_ok());
    }

    #[test]
    fn what_a_session_was_sent_of_a_message_is_told_as_that() {
        let limits = DeliveryLimits { held: 8, held_bytes: 1_000, tracked: 4, replay_rows: 5, gap_rows: 20 };
        let live = |sequence| Live { conversation: conversation(), epoch: Epoch(1), sequence, frame: frame(sequence) };
        let mut deliveries = Deliveries::new(limits);
        let mut effects = VecDeque::new();
        let about =
            |deliveries: &Deliveries| [3, 5, 6, 9, 10, 11].map(|number| deliveries.about(conversation(), number));
        use SessionSent::{Before, Pulls, Sent, Waits};
        assert_eq!(about(&deliveries), [Before; 6]);
        deliveries.live(live(5), 0, &mut effects);
        assert_eq!(about(&deliveries), [Before, Sent, Waits, Waits, Waits, Waits]);
        deliveries.live(live(9), 0, &mut effects);
        assert_eq!(about(&deliveries), [Before, Sent, Pulls, Pulls, Waits, Waits], "a hole is pulled");
        deliveries.own_sent(conversation(), 0);
        deliveries.own_acked(conversation(), 10);
        assert_eq!(about(&deliveries), [Before, Sent, Pulls, Pulls, Sent, Waits], "its own came back as the ack");
        let listed = SyncCursor { conversation_id: conversation(), last_sequence: 10, epoch: Some(Epoch(1)) };
        deliveries.begin_replay(&listed);
        deliveries.live(live(11), 0, &mut effects);
        assert_eq!(deliveries.about(conversation(), 11), Waits, "it is behind a replay");
        let replay =
            Replay { frames: Vec::new(), epoch: Epoch(1), up_to: 10, visible_from: 1, floor: 1, rewound: None };
        deliveries.replayed(&listed, replay, 0, &mut effects);
        assert_eq!(deliveries.about(conversation(), 11), Sent);
    }

    #[test]
    fn what_left_the_line_is_told_and_the_new_line_follows_from_there() {
        let limits = DeliveryLimits { held: 8, held_bytes: 1_000, tracked: 4, replay_rows: 5, gap_rows: 20 };
        let live = |epoch, sequence| Live {
            conversation: conversation(),
            epoch: Epoch(epoch),
            sequence,
            frame: frame(sequence),
        };
        let mut deliveries = Deliveries::new(limits);
        let mut effects = VecDeque::new();
        for sequence in 5..9 {
            deliveries.live(live(1, sequence), 0, &mut effects);
        }
        let rewound = Rewound { conversation: conversation(), epoch: Epoch(2), after: 6 };
        deliveries.rewound(&rewound, &mut effects);
        for sequence in 7..9 {
            deliveries.live(live(2, sequence), 0, &mut effects);
        }
        deliveries.live(live(1, 9), 0, &mut effects);
        let sent = effects.iter().filter_map(|effect| match effect {
            Effect::Send(frame) => Some(String::from_utf8_lossy(frame).into_owned()),
            _ => None,
        });
        let sent: Vec<String> = sent.collect();
        assert_eq!(sent.len(), 7, "four of the old line, the word, two of the new one: {sent:?}");
        assert!(sent[4].contains("conversation.rewound") && sent[4].contains(r#""afterSequence":6"#), "{sent:?}");
    }

    #[test]
    fn a_replay_with_fewer_rows_than_were_missed_names_what_lacks() {
        let limits = DeliveryLimits { held: 8, held_bytes: 1_000, tracked: 4, replay_rows: 500, gap_rows: 1_000 };
        let listed = SyncCursor { conversation_id: conversation(), last_sequence: 10, epoch: Some(Epoch(1)) };
        for (rows, told) in [(409..411, r#""sync.gap""#), (411..411, r#""sync.required""#)] {
            let mut deliveries = Deliveries::new(limits);
            let mut effects = VecDeque::new();
            deliveries.begin_replay(&listed);
            let count = rows.clone().count();
            let frames = rows.map(|sequence| (sequence, frame(sequence))).collect();
            let replay = Replay { frames, epoch: Epoch(1), up_to: 410, visible_from: 1, floor: 1, rewound: None };
            deliveries.replayed(&listed, replay, 0, &mut effects);
            let Some(Effect::Send(first)) = effects.front() else { panic!("{effects:?}") };
            assert!(String::from_utf8_lossy(first).contains(told), "{effects:?}");
            assert_eq!(effects.len(), count + 1);
            check(10, effects).unwrap();
        }
    }

    proptest! {
        #[test]
        fn whatever_is_dropped_doubled_or_late_no_message_comes_twice_or_after_an_untold_hole(
            cursor in 0u64..30,
            stored in 0u64..60,
            lacking in 0u64..7,
            before in proptest::collection::vec(1u64..40, 0..40),
            after in proptest::collection::vec(1u64..80, 0..60),
            held in 0usize..8,
            held_bytes in 0usize..600,
        ) {
            let limits = DeliveryLimits { held, held_bytes, tracked: 4, replay_rows: 5, gap_rows: 20 };
            let mut deliveries = Deliveries::new(limits);
            let mut effects = VecDeque::new();
            let live = |sequence| Live { conversation: conversation(), epoch: Epoch(1), sequence, frame: frame(sequence) };
            let listed = SyncCursor { conversation_id: conversation(), last_sequence: cursor, epoch: Some(Epoch(1)) };
            deliveries.begin_replay(&listed);
            for sequence in before {
                deliveries.live(live(sequence), 0, &mut effects);
            }
            prop_assert!(!effects.iter().any(|effect| matches!(effect, Effect::Send(_))), "live before its replay");
            let rows = (cursor + 1).max((stored + lacking).saturating_sub(4))..=stored;
            let frames = rows.map(|sequence| (sequence, frame(sequence))).collect();
            let replay = Replay { frames, epoch: Epoch(1), up_to: stored, visible_from: 1, floor: 1, rewound: None };
            deliveries.replayed(&listed, replay, 0, &mut effects);
            for sequence in after {
                deliveries.live(live(sequence), 0, &mut effects);
            }
            check(cursor, effects)?;
            prop_assert_eq!((deliveries.held, deliveries.held_bytes), (0, 0));
        }
    }
}
