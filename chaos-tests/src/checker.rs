//! What every story may ask of what its clients saw: acked is kept, one order, no hole, nothing twice.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::peer::Peer;

#[derive(Clone, Debug, PartialEq)]
struct Ack {
    conversation: String,
    sequence: u64,
    epoch: u64,
    timestamp: Value,
}

#[derive(Debug, Default)]
struct Session {
    name: String,
    /// Messages in the order of their first sends, by conversation.
    sent: BTreeMap<String, Vec<String>>,
    /// Delivered (sequence, message), by conversation.
    delivered: BTreeMap<String, Vec<(u64, String)>>,
    acked: BTreeSet<(String, u64)>,
    told_of_gaps: bool,
}

/// Collects what sessions saw, and compares it with histories.
#[derive(Debug, Default)]
pub struct Checker {
    acks: BTreeMap<String, Ack>,
    sessions: Vec<Session>,
    faults: Vec<String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Checker {
    /// Takes in all that a session saw and sent.
    pub fn observe(&mut self, peer: &Peer) {
        let frames: Vec<Value> = peer.frames().into_iter().map(|frame| frame.value).collect();
        let sent: Vec<(String, String)> =
            peer.sent().into_iter().map(|sent| (sent.conversation, sent.message)).collect();
        self.take(&peer.user, &sent, &frames);
    }

    fn take(&mut self, name: &str, sent: &[(String, String)], frames: &[Value]) {
        let mut session = Session { name: name.to_owned(), ..Session::default() };
        for (conversation, message) in sent {
            let list = session.sent.entry(conversation.clone()).or_default();
            if !list.contains(message) {
                list.push(message.clone());
            }
        }
        for frame in frames {
            let payload = &frame["payload"];
            match frame["type"].as_str().unwrap_or_default() {
                "message.ack" => self.ack(&mut session, payload),
                "message.new" => session
                    .delivered
                    .entry(text(&payload["conversationId"]))
                    .or_default()
                    .push((payload["sequenceNumber"].as_u64().unwrap_or(0), text(&payload["messageId"]))),
                "sync.required" | "sync.gap" => session.told_of_gaps = true,
                _ => {}
            }
        }
        self.sessions.push(session);
    }

    fn ack(&mut self, session: &mut Session, payload: &Value) {
        let message = text(&payload["messageId"]);
        let ack = Ack {
            conversation: text(&payload["conversationId"]),
            sequence: payload["sequenceNumber"].as_u64().unwrap_or(0),
            epoch: payload["epoch"].as_u64().unwrap_or(0),
            timestamp: payload["timestamp"].clone(),
        };
        session.acked.insert((ack.conversation.clone(), ack.sequence));
        let known = self.acks.entry(message.clone()).or_insert_with(|| ack.clone());
        if *known != ack {
            self.faults.push(format!("{message} was acked as {known:?} and as {ack:?}"));
        }
    }

    /// How many messages were acked.
    #[must_use]
    pub fn acked(&self) -> usize {
        self.acks.len()
    }

    /// The first number that `message` was acked with.
    #[must_use]
    pub fn number(&self, message: &str) -> Option<u64> {
        self.acks.get(message).map(|ack| ack.sequence)
    }

    /// What does not hold for a conversation, given its history in each region.
    #[must_use]
    pub fn faults(&self, conversation: &str, histories: &[Vec<Value>]) -> Vec<String> {
        let mut faults = self.faults.clone();
        for (region, rows) in histories.iter().enumerate() {
            self.against(conversation, region, rows, &mut faults);
            let ids = |rows: &[Value]| rows.iter().map(|row| text(&row["messageId"])).collect::<Vec<_>>();
            if ids(rows) != ids(&histories[0]) {
                faults.push(format!("region {region} has another history than the first"));
            }
        }
        faults
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

    fn against(&self, conversation: &str, region: usize, rows: &[Value], faults: &mut Vec<String>) {
        let mut at = BTreeMap::new();
        for (index, row) in rows.iter().enumerate() {
            let sequence = row["sequenceNumber"].as_u64().unwrap_or(0);
            if sequence != index as u64 + 1 {
                faults.push(format!("region {region}: number {sequence} stands at place {}", index + 1));
            }
            if at.insert(text(&row["messageId"]), sequence).is_some() {
                faults.push(format!("region {region}: {} is there twice", row["messageId"]));
            }
        }
        for (message, ack) in self.acks.iter().filter(|(_, ack)| ack.conversation == conversation) {
            match at.get(message) {
                None => faults.push(format!("region {region}: acked {message} is lost")),
                Some(sequence) if *sequence != ack.sequence => {
                    faults.push(format!("region {region}: {message} was acked as {} and is {sequence}", ack.sequence));
                }
                Some(_) => {}
            }
        }
        for session in &self.sessions {
            session.against(conversation, &at, faults);
        }
    }
}

impl Session {
    fn against(&self, conversation: &str, at: &BTreeMap<String, u64>, faults: &mut Vec<String>) {
        let name = &self.name;
        let sent = self.sent.get(conversation).into_iter().flatten();
        let mine: Vec<u64> = sent.filter_map(|message| at.get(message)).copied().collect();
        if !mine.is_sorted() {
            faults.push(format!("{name}: its messages stand in another order than it sent them"));
        }
        let delivered = self.delivered.get(conversation).map_or(&[][..], Vec::as_slice);
        for pair in delivered.windows(2) {
            let (before, after) = (pair[0].0, pair[1].0);
            if after <= before {
                faults.push(format!("{name}: was shown {after} after {before}"));
            }
            let unseen = |sequence: &u64| !self.acked.contains(&(conversation.to_owned(), *sequence));
            if !self.told_of_gaps && after > before && (before + 1..after).any(|sequence| unseen(&sequence)) {
                faults.push(format!("{name}: was shown {after} after {before} and not told of what is between"));
            }
        }
        for (sequence, message) in delivered {
            if at.get(message) != Some(sequence) {
                faults
                    .push(format!("{name}: was shown {message} as {sequence}; the history says {:?}", at.get(message)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CONVERSATION: &str = "c";

    fn row(sequence: u64, message: &str) -> Value {
        json!({ "sequenceNumber": sequence, "messageId": message })
    }

    fn frame(kind: &str, sequence: u64, message: &str) -> Value {
        let payload = json!({ "conversationId": CONVERSATION, "messageId": message, "sequenceNumber": sequence,
            "epoch": 1, "timestamp": 5 });
        json!({ "type": kind, "payload": payload })
    }

    /// Ann sent a and c, bob sent b and saw a and c.
    fn story() -> Checker {
        let mut checker = Checker::default();
        let sent =
            |messages: &[&str]| messages.iter().map(|m| (CONVERSATION.to_owned(), (*m).to_owned())).collect::<Vec<_>>();
        checker.take("ann", &sent(&["a", "c"]), &[frame("message.ack", 1, "a"), frame("message.ack", 3, "c")]);
        let bob = [frame("message.new", 1, "a"), frame("message.ack", 2, "b"), frame("message.new", 3, "c")];
        checker.take("bob", &sent(&["b"]), &bob);
        checker
    }

    fn good() -> Vec<Value> {
        vec![row(1, "a"), row(2, "b"), row(3, "c")]
    }

    #[test]
    fn a_good_story_has_no_fault() {
        assert!(story().faults(CONVERSATION, &[good(), good()]).is_empty());
    }

    #[test]
    fn every_planted_fault_is_found() {
        let planted: Vec<(&str, Vec<Vec<Value>>)> = vec![
            ("a lost tail", vec![vec![row(1, "a"), row(2, "b")]]),
            ("one region without its tail", vec![good(), vec![row(1, "a"), row(2, "b")]]),
            ("another message at a number", vec![vec![row(1, "a"), row(2, "x"), row(3, "c")]]),
            ("a hole", vec![vec![row(1, "a"), row(2, "b"), row(4, "c")]]),
            ("a message twice", vec![[good(), vec![row(4, "a")]].concat()]),
            ("two swapped", vec![vec![row(1, "c"), row(2, "b"), row(3, "a")]]),
        ];
        for (name, histories) in planted {
            assert!(!story().faults(CONVERSATION, &histories).is_empty(), "{name} is not found");
        }
    }

    #[test]
    fn planted_faults_of_sessions_are_found() {
        let seen: [(&str, Vec<Value>); 4] = [
            ("a missed message", vec![frame("message.new", 1, "a"), frame("message.new", 3, "c")]),
            ("a message again", vec![frame("message.new", 1, "a"), frame("message.new", 1, "a")]),
            ("a phantom", vec![frame("message.new", 2, "x")]),
            ("another ack for a retry", vec![frame("message.ack", 2, "a")]),
        ];
        for (name, frames) in seen {
            let mut checker = story();
            checker.take("cem", &[], &frames);
            assert!(!checker.faults(CONVERSATION, &[good()]).is_empty(), "{name} is not found");
        }
    }
}
