//! What a client under chaos keeps over its connections: what is not acked yet, and up to where it has each
//! conversation. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A refusal for now is heeded for so long at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Refusals after which the same message is sent again.
const FOR_NOW: [&str; 5] = ["HOME_UNREACHABLE", "STORE_UNAVAILABLE", "OVERLOADED", "DRAINING", "RATE_LIMITED"];

/// A message that has not ended.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its id.
    pub message: String,
    /// Its conversation, by number.
    pub conversation: usize,
    /// Type and payload of its frame, sent again as they were.
    pub frame: (&'static str, Value),
    /// When it was sent last.
    pub sent_at: Instant,
    /// Whether the region said that it holds it.
    pub queued: bool,
    /// Set when it was refused for now.
    retry_at: Option<Instant>,
}

/// Up to where a client has a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shown {
    epoch: u64,
    sequence: u64,
}

/// Messages that a client remembers, to change them or react to them; the oldest are forgotten.
const KNOWN: usize = 24;

/// A message that the client was shown, or sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its conversation, by number.
    pub conversation: usize,
    /// Its id.
    pub message: String,
    /// Whether the client sent it.
    pub own: bool,
}

/// The state of one client.
#[derive(Debug)]
pub struct Book {
    conversations: Vec<String>,
    pending: Vec<Pending>,
    shown: BTreeMap<usize, Shown>,
    known: VecDeque<Known>,
    /// The newest resume token.
    pub resume: Option<String>,
    /// Refusals for good, by their code.
    pub refused: BTreeMap<String, usize>,
    /// Refusals for now, by their code.
    pub put_off: BTreeMap<String, usize>,
    /// Resumes that were answered as exact.
    pub exact: usize,
}

impl Book {
    /// Of a client that is in these conversations.
    #[must_use]
    pub fn new(conversations: Vec<String>) -> Self {
        Self {
            conversations,
            pending: Vec::new(),
            shown: BTreeMap::new(),
            known: VecDeque::new(),
            resume: None,
            refused: BTreeMap::new(),
            put_off: BTreeMap::new(),
            exact: 0,
        }
    }

    /// What has not ended, in the order in which it was handed over first.
    #[must_use]
    pub fn pending(&self) -> &[Pending] {
        &self.pending
    }

    /// The next conversation from `turn` on that may take one more message: fewer than `window` are open in it, and none
    /// of them waits for a retry, which must come first.
    #[must_use]
    pub fn free(&self, turn: usize, window: usize) -> Option<usize> {
        let count = self.conversations.len();
        (0..count).map(|step| (turn + step) % count).find(|conversation| {
            let mut open = self.pending.iter().filter(|pending| pending.conversation == *conversation);
            open.clone().count() < window && open.all(|pending| pending.retry_at.is_none())
        })
    }

    /// Notes a message before it is sent for the first time.
    pub fn hand_over(&mut self, conversation: usize, frame: (&'static str, Value), now: Instant) {
        let message = frame.1["messageId"].as_str().unwrap_or_default().to_owned();
        self.pending.push(Pending { message, conversation, frame, sent_at: now, queued: false, retry_at: None });
    }

    /// Messages that the client knows.
    #[must_use]
    pub fn known(&self) -> &VecDeque<Known> {
        &self.known
    }

    /// Up to which epoch and number it was shown a conversation.
    #[must_use]
    pub fn shown(&self, conversation: usize) -> Option<(u64, u64)> {
        self.shown.get(&conversation).map(|shown| (shown.epoch, shown.sequence))
    }

    fn know(&mut self, conversation: usize, message: &str, own: bool) {
        if self.known.len() == KNOWN {
            self.known.pop_front();
        }
        self.known.push_back(Known { conversation, message: message.to_owned(), own });
    }

    /// All that is to be sent again on a new connection, in order.
    pub fn again(&mut self, now: Instant) -> Vec<(&'static str, Value)> {
        for pending in &mut self.pending {
            (pending.sent_at, pending.queued, pending.retry_at) = (now, false, None);
        }
        self.pending.iter().map(|pending| pending.frame.clone()).collect()
    }

    /// What is to be sent again because a refusal for now is over: all of its conversation, in order.
    pub fn due(&mut self, now: Instant) -> Vec<(&'static str, Value)> {
        let due = |pending: &Pending| pending.retry_at.is_some_and(|at| at <= now);
        let Some(conversation) = self.pending.iter().find(|pending| due(pending)).map(|pending| pending.conversation)
        else {
            return Vec::new();
        };
        let of_it = self.pending.iter_mut().filter(|pending| pending.conversation == conversation);
        of_it
            .map(|pending| {
                (pending.sent_at, pending.retry_at) = (now, None);
                pending.frame.clone()
            })
            .collect()
    }

    /// How long the oldest message has been without any answer.
    #[must_use]
    pub fn unanswered(&self, now: Instant) -> Duration {
        let open = self.pending.iter().filter(|pending| !pending.queued && pending.retry_at.is_none());
        open.map(|pending| now.saturating_duration_since(pending.sent_at)).max().unwrap_or_default()
    }

    /// Cursors for a resume.
    #[must_use]
    pub fn cursors(&self) -> Value {
        let rows = self.conversations.iter().enumerate().map(|(number, conversation)| {
            let shown = self.shown.get(&number).copied().unwrap_or_default();
            let mut row = json!({ "conversationId": conversation, "lastSequence": shown.sequence });
            if shown.epoch > 0 {
                row["epoch"] = json!(shown.epoch);
            }
            row
        });
        rows.collect()
    }

    /// Takes a frame in. True when it ended a message with an ack.
    pub fn hear(&mut self, frame: &Value, now: Instant) -> bool {
        let payload = &frame["payload"];
        let number = |field: &str| payload[field].as_u64().unwrap_or(0);
        let message = payload["messageId"].as_str().unwrap_or_default();
        match frame["type"].as_str().unwrap_or_default() {
            "connected" => {
                self.resume = frame["resumeToken"].as_str().map(str::to_owned);
                self.exact += usize::from(frame["resumed"] == "exact");
            }
            "message.ack" => {
                let sent = self.pending.iter().find(|pending| pending.message == message);
                if let Some(conversation) =
                    sent.filter(|sent| sent.frame.0 == "message.send").map(|sent| sent.conversation)
                {
                    self.know(conversation, message, true);
                }
                return self.ended(message);
            }
            "message.new" => {
                if let Some(conversation) = self.place(payload) {
                    let shown = Shown { epoch: number("epoch"), sequence: number("sequenceNumber") };
                    self.shown.insert(conversation, shown);
                    if payload["kind"] == "message" {
                        self.know(conversation, message, false);
                    }
                }
            }
            "message.queued" => {
                let queued = self.pending.iter_mut().find(|pending| pending.message == message);
                queued.into_iter().for_each(|pending| pending.queued = true);
            }
            "message.refused" => self.refuse(message, payload),
            "error" => self.error(frame, now),
            "conversation.rewound" => {
                if let Some(shown) = self.place(payload).and_then(|place| self.shown.get_mut(&place)) {
                    shown.sequence = shown.sequence.min(number("afterSequence"));
                }
            }
            _ => {}
        }
        false
    }

    fn place(&self, payload: &Value) -> Option<usize> {
        self.conversations.iter().position(|conversation| payload["conversationId"] == conversation.as_str())
    }

    fn ended(&mut self, message: &str) -> bool {
        let before = self.pending.len();
        self.pending.retain(|pending| pending.message != message);
        self.pending.len() < before
    }

    fn refuse(&mut self, message: &str, payload: &Value) {
        if self.ended(message) {
            let code = payload["error"].as_str().unwrap_or_default().to_owned();
            *self.refused.entry(code).or_default() += 1;
        }
    }

    fn error(&mut self, frame: &Value, now: Instant) {
        let payload = &frame["payload"];
        let message = frame["id"].as_str().unwrap_or_default();
        if !is_for_now(payload) {
            return self.refuse(message, payload);
        }
        let pause = Duration::from_secs(payload["retryAfter"].as_u64().unwrap_or(1)).min(LONGEST_PAUSE);
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.message == message) {
            pending.retry_at = Some(now + pause);
            let code = payload["error"].as_str().unwrap_or_default().to_owned();
            *self.put_off.entry(code).or_default() += 1;
        }
    }
}

/// Whether the payload of an `error` says that the same message may be sent again.
#[must_use]
pub fn is_for_now(payload: &Value) -> bool {
    let code = payload["error"].as_str().unwrap_or_default();
    payload["retryAfter"].is_u64() || FOR_NOW.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Book {
        Book::new(vec!["a".to_owned(), "b".to_owned()])
    }

    fn send(book: &mut Book, conversation: usize, message: &str, now: Instant) {
        book.hand_over(conversation, ("message.send", json!({ "messageId": message })), now);
    }

    fn frame(kind: &str, message: &str) -> Value {
        json!({ "type": kind, "id": message, "payload": { "messageId": message, "error": "OVERLOADED" } })
    }

    fn ids<'a>(payloads: &'a [(&'static str, Value)]) -> Vec<&'a str> {
        payloads.iter().filter_map(|(_, payload)| payload["messageId"].as_str()).collect()
    }

    #[test]
    fn everything_unacked_is_sent_again_in_order_on_a_new_connection() {
        let (mut book, now) = (book(), Instant::now());
        for (conversation, message) in [(0, "1"), (1, "2"), (0, "3"), (0, "4")] {
            send(&mut book, conversation, message, now);
        }
        assert!(book.hear(&frame("message.ack", "3"), now));
        book.hear(&frame("message.queued", "1"), now);
        assert_eq!(ids(&book.again(now)), ["1", "2", "4"]);
        assert!(!book.pending()[0].queued, "the new region has said nothing yet");
    }

    #[test]
    fn a_conversation_whose_window_is_full_or_that_waits_for_a_retry_takes_nothing_new() {
        let (mut book, now) = (book(), Instant::now());
        send(&mut book, 0, "1", now);
        send(&mut book, 0, "2", now);
        assert_eq!((book.free(0, 3), book.free(0, 2)), (Some(0), Some(1)));
        book.hear(&frame("error", "1"), now);
        assert_eq!((book.free(0, 3), book.due(now)), (Some(1), vec![]));
        let later = now + LONGEST_PAUSE;
        assert_eq!(ids(&book.due(later)), ["1", "2"], "what came after it comes after it again");
        assert_eq!((book.free(0, 3), book.due(later).len()), (Some(0), 0));
    }

    #[test]
    fn cursors_say_what_was_shown_last_and_a_rewind_takes_them_back() {
        let (mut book, now) = (book(), Instant::now());
        let new = |sequence: u64, epoch: u64| {
            json!({ "type": "message.new",
                "payload": { "conversationId": "b", "sequenceNumber": sequence, "epoch": epoch } })
        };
        book.hear(&new(7, 2), now);
        assert_eq!(book.cursors()[1], json!({ "conversationId": "b", "lastSequence": 7, "epoch": 2 }));
        assert_eq!(book.cursors()[0], json!({ "conversationId": "a", "lastSequence": 0 }));
        let rewound = json!({ "type": "conversation.rewound",
            "payload": { "conversationId": "b", "epoch": 3, "afterSequence": 4 } });
        book.hear(&rewound, now);
        assert_eq!(book.cursors()[1]["lastSequence"], 4);
    }

    #[test]
    fn a_refusal_for_good_ends_a_message_and_silence_is_counted_from_the_last_send() {
        let (mut book, now) = (book(), Instant::now());
        send(&mut book, 0, "1", now);
        let later = now + Duration::from_secs(3);
        assert_eq!(book.unanswered(later), Duration::from_secs(3));
        let refused = json!({ "type": "error", "id": "1", "payload": { "error": "FORBIDDEN" } });
        book.hear(&refused, later);
        assert_eq!((book.pending().len(), book.refused.get("FORBIDDEN")), (0, Some(&1)));
    }
}
