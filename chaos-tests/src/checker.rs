//! What every story may ask of what its clients saw. The history goes to the checker of [`simulation`], which judges
//! simulated runs by the same rules.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_protocol::{ConversationId, Epoch, Level, MessageId, Position, Sequence};
use serde_json::Value;
use simulation::checker::{self, Guarantee};
use simulation::history::{Acked, Did, Event, History, ReadRow, RegionSet, Row, SessionId};
use uuid::Uuid;

use crate::chaos::book::is_for_now;
use crate::peer::{Peer, Said};

/// Collects what sessions saw, and compares it with histories.
#[derive(Debug, Default)]
pub struct Checker {
    began: Option<Instant>,
    history: History,
    acked: BTreeMap<MessageId, u64>,
    devices: BTreeMap<(String, String), u64>,
    /// Where each message went.
    sent: BTreeMap<MessageId, ConversationId>,
    faults: u32,
}

/// What a region gave of a conversation from its first row to its end.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The region's place.
    pub region: usize,
    /// 1 for the first reading, 2 for the one after a restart of all regions.
    pub pass: u32,
    /// Of which conversation.
    pub conversation: String,
    /// Its rows.
    pub rows: Vec<Value>,
}

fn id(value: &Value) -> Uuid {
    named(value.as_str().unwrap_or_default())
}

fn named(text: &str) -> Uuid {
    Uuid::try_parse(text).unwrap_or_default()
}

fn conversation_of(payload: &Value) -> Option<ConversationId> {
    payload["conversationId"].as_str().map(|text| ConversationId(named(text)))
}

impl Checker {
    /// Of a mesh of these regions, whose clock begins at zero now.
    #[must_use]
    pub fn of(regions: Vec<String>) -> Self {
        let history = History { regions, ..History::default() };
        Self { began: Some(Instant::now()), history, ..Self::default() }
    }

    /// Takes in all that a session saw and sent.
    pub fn observe(&mut self, peer: &Peer) {
        let session = self.session(&peer.user, &peer.device);
        self.observe_as(session, peer);
    }

    /// Takes in the connections of one client, each of which resumed where the one before it had ended: what it was shown
    /// has to go on without a silent gap from one to the next.
    pub fn observe_resumed(&mut self, peers: &[Arc<Peer>]) {
        let Some(first) = peers.first() else { return };
        let session = self.session(&first.user, &first.device);
        peers.iter().for_each(|peer| self.observe_as(session, peer));
    }

    fn observe_as(&mut self, session: SessionId, peer: &Peer) {
        let mut happened: Vec<(Instant, Happened)> = peer
            .sent()
            .into_iter()
            .map(|sent| (sent.at, Happened::Sent(named(&sent.conversation), named(&sent.message), sent.text)))
            .collect();
        happened.extend(peer.said().into_iter().map(|said| (said.at, Happened::Said(said))));
        happened.extend(peer.frames().into_iter().map(|frame| (frame.at, Happened::Frame(frame.value))));
        // What was sent at the moment of a frame was sent before it.
        happened.sort_by_key(|(at, _)| *at);
        let began = *self.began.get_or_insert_with(|| happened.first().map_or_else(Instant::now, |(at, _)| *at));
        for (at, happened) in happened {
            // A session that was watched before the first one observed begins at zero.
            let at = u64::try_from(at.saturating_duration_since(began).as_micros()).unwrap_or(u64::MAX);
            self.take(at, session, happened);
        }
    }

    /// A moment by the clock of the history, in microseconds.
    #[must_use]
    pub fn micros(&self, at: Instant) -> u64 {
        let since = self.began.map_or(Duration::ZERO, |began| at.saturating_duration_since(began));
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    /// Notes a fault.
    pub fn fault(&mut self, name: &'static str, began: Instant, ended: Instant) {
        self.faults += 1;
        self.history.add(self.micros(began), Event::FaultBegins(self.faults, name));
        self.history.add(self.micros(ended), Event::FaultEnds(self.faults));
    }

    /// Notes a loss statement: positions from `from` on, below the epoch `below`, may be missing where fewer than
    /// `covered_copies` regions had them.
    pub fn loss(&mut self, conversation: &str, from: Position, below: u64, covered_copies: usize) {
        let conversation = ConversationId(named(conversation));
        self.history.add(0, Event::Loss { conversation, from, below, covered_copies });
    }

    /// What happened, by one clock, with what was read of it.
    #[must_use]
    pub fn history(&self, readings: &[Reading]) -> History {
        let mut history = self.history.clone();
        // Sessions are observed one after the other; the checker wants one clock.
        history.events.sort_by_key(|(at, _)| *at);
        let end = history.events.last().map_or(0, |(at, _)| *at);
        for Reading { region, pass, conversation, rows } in readings {
            let conversation = ConversationId(named(conversation));
            let reader = format!("region {region} (reading {pass})");
            let said = Event::Read { reader, conversation, rows: Arc::new(rows.iter().map(read_row).collect()) };
            let rows = Arc::new(rows.iter().map(row).collect());
            history.add(end, Event::Reading { region: *region, pass: *pass, conversation, rows });
            history.add(end, said);
        }
        history
    }

    fn session(&mut self, user: &str, device: &str) -> SessionId {
        let next = self.devices.len() as u64;
        let device = *self.devices.entry((user.to_owned(), device.to_owned())).or_insert(next);
        self.history.session(user, device)
    }

    fn take(&mut self, at: u64, session: SessionId, happened: Happened) {
        let frame = match happened {
            Happened::Sent(conversation, message, text) => {
                if let Some(text) = text {
                    let wrote = Event::Wrote(ConversationId(conversation), MessageId(message), text);
                    self.history.add(at, wrote);
                }
                self.sent.insert(MessageId(message), ConversationId(conversation));
                let event = Event::Invoke(session, ConversationId(conversation), MessageId(message));
                return self.history.add(at, event);
            }
            Happened::Said(said) => {
                let conversation = ConversationId(named(&said.conversation));
                let event = Event::Said { session, conversation, up_to: said.up_to, read: said.read };
                return self.history.add(at, event);
            }
            Happened::Frame(frame) => frame,
        };
        let payload = &frame["payload"];
        let (conversation, message) =
            (ConversationId(id(&payload["conversationId"])), MessageId(id(&payload["messageId"])));
        let event = match frame["type"].as_str().unwrap_or_default() {
            "message.ack" => {
                let acked = acked(payload, &self.history.regions);
                self.acked.entry(message).or_insert(acked.position.sequence.0);
                Event::Ack { session, conversation, message, acked, on_disk: None }
            }
            "message.new" => {
                let (did, text) = (did(payload), text(payload));
                self.history.add(at, Event::Says { session, conversation, message, did, text });
                Event::Shown(session, conversation, position(payload), message)
            }
            "message.queued" => Event::Queued(session, conversation, message),
            "message.refused" => Event::Refused { session, conversation, message, again: false },
            "error" => {
                // An error that answers a message names it by the request's id.
                let message = MessageId(id(&frame["id"]));
                let Some(conversation) = self.sent.get(&message).copied() else { return };
                Event::Refused { session, conversation, message, again: is_for_now(payload) }
            }
            "message.delivered" => receipt(session, payload, ("deliveredTo", "upToSequence"), false),
            "message.read_receipt" => receipt(session, payload, ("readBy", "readUpToSequence"), true),
            "connected" => {
                let place = |known: &String| frame["region"] == known.as_str();
                if let Some(region) = self.history.regions.iter().position(place) {
                    self.history.add(at, Event::At(session, region));
                }
                if frame["resumed"] != "fresh" {
                    return;
                }
                Event::Told(session, None)
            }
            "sync.required" | "sync.gap" => Event::Told(session, conversation_of(payload)),
            "conversation.rewound" => {
                Event::Rewound(session, conversation, payload["afterSequence"].as_u64().unwrap_or(0) + 1)
            }
            _ => return,
        };
        self.history.add(at, event);
    }

    /// How many messages were acked.
    #[must_use]
    pub fn acked(&self) -> usize {
        self.acked.len()
    }

    /// The first number that `message` was acked with.
    #[must_use]
    pub fn number(&self, message: &str) -> Option<u64> {
        self.acked.get(&MessageId(named(message))).copied()
    }

    /// What does not hold for a conversation, given its history in each region.
    #[must_use]
    pub fn faults(&self, conversation: &str, histories: &[Vec<Value>]) -> Vec<String> {
        let of = |(region, rows): (usize, &Vec<Value>)| {
            let conversation = conversation.to_owned();
            Reading { region, pass: 1, conversation, rows: rows.clone() }
        };
        let readings: Vec<Reading> = histories.iter().enumerate().map(of).collect();
        let mut history = self.history(&readings);
        history.regions = (0..histories.len()).map(|region| format!("region {region}")).collect();
        let report = checker::check(&history);
        // A story that waits for answers asks for them by itself; one that ends a session does not hear all.
        let counts = report.violations.into_iter().filter(|violation| violation.guarantee != Guarantee::Answered);
        counts.map(|violation| format!("{:?}: {}", violation.guarantee, violation.what)).collect()
    }

    /// # Panics
    /// When something does not hold.
    pub fn check(&self, conversation: &str, histories: &[Vec<Value>]) {
        let faults = self.faults(conversation, histories);
        assert!(
            faults.is_empty(),
            "{} faults, first ones:\n  {}",
            faults.len(),
            faults[..faults.len().min(5)].join("\n  ")
        );
    }
}

/// What a session did or heard.
enum Happened {
    Sent(Uuid, Uuid, Option<String>),
    Said(Said),
    Frame(Value),
}

/// A session hears how far a member is.
fn receipt(session: SessionId, payload: &Value, (member, number): (&str, &str), read: bool) -> Event {
    let epoch = Epoch(payload["epoch"].as_u64().unwrap_or(0));
    let sequence = Sequence(payload[number].as_u64().unwrap_or(0));
    Event::Receipt {
        session,
        conversation: ConversationId(id(&payload["conversationId"])),
        member: payload[member].as_str().unwrap_or_default().to_owned(),
        up_to: Position { epoch, sequence },
        read,
    }
}

fn position(payload: &Value) -> Position {
    let number = |field: &str| payload[field].as_u64().unwrap_or(0);
    Position { epoch: Epoch(number("epoch")), sequence: Sequence(number("sequenceNumber")) }
}

fn acked(payload: &Value, regions: &[String]) -> Acked {
    let place = |region: &Value| regions.iter().position(|known| *region == known.as_str());
    let named = payload["durability"]["regions"].as_array();
    let level = payload["durability"]["level"].as_str().and_then(Level::parse).unwrap_or_default();
    Acked {
        position: position(payload),
        time: payload["timestamp"].as_u64().unwrap_or(0),
        level,
        home: place(&payload["home"]),
        regions: named.into_iter().flatten().filter_map(place).collect::<RegionSet>(),
        again: payload["duplicate"].as_bool().unwrap_or(false),
    }
}

/// What a row does.
fn did(row: &Value) -> Did {
    let change = &row["change"];
    if let Some(user) = change["userIds"][0].as_str().filter(|_| row["kind"] == "system" && change["action"] == "erase")
    {
        return Did::Erase(user.to_owned());
    }
    if let Some(floor) = change["floorSequence"].as_u64().filter(|_| row["kind"] == "system") {
        return Did::Floor(floor);
    }
    let reaction = change["emoji"].as_str().map(|emoji| (emoji, change["action"] == "add"));
    let target = row["targetMessageId"].as_str().map(|target| MessageId(named(target)));
    // A row of an older form has no kind, and is a message.
    Did::of(row["kind"].as_str().unwrap_or("message"), target, reaction)
}

fn text(row: &Value) -> Option<String> {
    row["content"]["text"].as_str().map(str::to_owned)
}

fn read_row(row: &Value) -> ReadRow {
    let counted = |of: &Value| Some((of["emoji"].as_str()?.to_owned(), of["count"].as_u64()?));
    ReadRow {
        sequence: row["sequenceNumber"].as_u64().unwrap_or(0),
        message: MessageId(id(&row["messageId"])),
        sender: row["senderId"].as_str().unwrap_or_default().to_owned(),
        time: row["originalTimestamp"].as_u64().or(row["timestamp"].as_u64()).unwrap_or(0),
        did: did(row),
        text: text(row),
        deleted: row["deleted"] == true,
        expires: row["expiresAt"].as_u64(),
        expired: row["expired"] == true,
        bare: false,
        reactions: row["reactions"].as_array().into_iter().flatten().filter_map(counted).collect(),
    }
}

fn row(row: &Value) -> Row {
    Row {
        sequence: row["sequenceNumber"].as_u64().unwrap_or(0),
        epoch: row["epoch"].as_u64().unwrap_or(0),
        message: MessageId(id(&row["messageId"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CONVERSATION: &str = "00000000-0000-0000-0000-00000000000c";

    fn message(name: u8) -> String {
        format!("00000000-0000-0000-0000-0000000000{name:02x}")
    }

    fn rows(rows: &[(u64, u8)]) -> Vec<Value> {
        let row = |(sequence, name): &(u64, u8)| json!({ "sequenceNumber": sequence, "messageId": message(*name) });
        rows.iter().map(row).collect()
    }

    fn frame(kind: &str, sequence: u64, name: u8) -> Value {
        let payload = json!({ "conversationId": CONVERSATION, "messageId": message(name),
            "sequenceNumber": sequence, "epoch": 1, "timestamp": sequence });
        json!({ "type": kind, "payload": payload })
    }

    /// Ann sent 1 and 3, bob sent 2 and saw hers.
    fn story() -> Checker {
        let mut checker = Checker::default();
        let (ann, bob) = (checker.session("ann", "a"), checker.session("bob", "b"));
        let sent = |name| Happened::Sent(named(CONVERSATION), named(&message(name)), None);
        let heard = |kind, sequence, name| Happened::Frame(frame(kind, sequence, name));
        let happened = [
            (ann, sent(1)),
            (ann, heard("message.ack", 1, 1)),
            (bob, heard("message.new", 1, 1)),
            (bob, sent(2)),
            (bob, heard("message.ack", 2, 2)),
            (ann, sent(3)),
            (ann, heard("message.ack", 3, 3)),
            (bob, heard("message.new", 3, 3)),
        ];
        for (at, (session, happened)) in happened.into_iter().enumerate() {
            checker.take(at as u64, session, happened);
        }
        checker
    }

    const GOOD: [(u64, u8); 3] = [(1, 1), (2, 2), (3, 3)];

    #[test]
    fn a_good_story_of_real_frames_has_no_fault() {
        assert_eq!(story().faults(CONVERSATION, &[rows(&GOOD), rows(&GOOD)]), Vec::<String>::new());
    }

    #[test]
    fn faults_planted_in_real_rows_and_frames_are_found() {
        let lost = story().faults(CONVERSATION, &[rows(&GOOD[..2])]);
        assert!(lost.iter().any(|fault| fault.starts_with("G1")), "{lost:?}");
        let seen = [("again", 1, 1, "G2"), ("a phantom", 2, 9, "G2")];
        for (name, sequence, of, guarantee) in seen {
            let mut checker = story();
            let cem = checker.session("cem", "c");
            checker.take(8, cem, Happened::Frame(frame("message.new", 1, 1)));
            checker.take(9, cem, Happened::Frame(frame("message.new", sequence, of)));
            let faults = checker.faults(CONVERSATION, &[rows(&GOOD)]);
            assert!(faults.iter().any(|fault| fault.starts_with(guarantee)), "{name}: {faults:?}");
        }
    }
}
