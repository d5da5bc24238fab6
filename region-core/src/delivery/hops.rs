//! What the loop of the core writes down of every message, and how it is asked.

use hearth_protocol::client::MessageName;
use hearth_protocol::mesh::{self, Body};
use hearth_protocol::{ConversationId, LogId, RegionId, UserId};
use region_model::delivery::{HopBook, HopTimes, Kept};
use region_model::{Effect, Input, Outcome, Standing};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::reply::ReplyTo;

/// A question to the loop. Whoever asks may be gone by the answer.
#[derive(Debug)]
pub(crate) enum Ask {
    /// In which conversations a message of this id passed.
    Where { id: Uuid, answer: oneshot::Sender<Vec<ConversationId>> },
    /// What stands of a message.
    Stands {
        conversation: ConversationId,
        name: MessageName,
        sequence: Option<u64>,
        sender: Option<UserId>,
        answer: oneshot::Sender<Stands>,
    },
}

/// What the loop knows of a message.
#[derive(Debug)]
pub(crate) struct Stands {
    pub(crate) hops: Option<HopTimes>,
    pub(crate) kept: Kept,
    pub(crate) standing: Standing,
}

/// The book of hops, as the loop fills it.
#[derive(Debug)]
pub(crate) struct Hops {
    pub(crate) book: HopBook,
}

fn conversation_of(log: &[u8]) -> Option<ConversationId> {
    LogId::from_bytes(log)?.as_conversation()
}

impl Hops {
    /// Takes note of what comes to the core at `at`, microseconds since the epoch.
    pub(crate) fn input(&mut self, input: &Input<ReplyTo>, at: u64) {
        match input {
            Input::Command { command, reply: ReplyTo::Send(reply), .. } => {
                self.book.taken(reply.conversation, command.id, command.sender.as_str(), reply.taken);
            }
            Input::Frame { body, entries, .. } if !entries.is_empty() => {
                let log = match body.as_ref() {
                    Body::Append(mesh::Append { log, .. }) | Body::Pulled(mesh::Pulled { log, .. }) => log,
                    _ => return,
                };
                if let Some(conversation) = conversation_of(log) {
                    entries.iter().for_each(|entry| self.book.arrived(conversation, entry, at));
                }
            }
            Input::Appended { log, length, .. } => {
                if let Some(conversation) = log.as_conversation() {
                    self.book.durable(conversation, *length, at);
                }
            }
            _ => {}
        }
    }

    /// Takes note of what the core decided at `at`.
    pub(crate) fn effect(&mut self, effect: &Effect<ReplyTo>, at: u64) {
        match effect {
            Effect::Append(append) => {
                if let Some(conversation) = append.log.as_conversation() {
                    append.entries.iter().for_each(|entry| self.book.numbered(conversation, entry, at));
                }
            }
            Effect::Reply(ReplyTo::Send(reply), outcome) => {
                let (conversation, id, sender) = (reply.conversation, reply.message.0, reply.connection.user.as_str());
                match outcome {
                    Outcome::Acked(ack) => {
                        let place = (ack.position.sequence.0, ack.position.epoch.0);
                        self.book.acked((conversation, id, sender), place, at);
                    }
                    Outcome::Queued(..) => self.book.queued(conversation, id, sender, at),
                    Outcome::Refused(_) => {}
                }
            }
            Effect::Deliver { log, entry, .. } => {
                if let Some(conversation) = log.as_conversation() {
                    self.book.shown(conversation, entry.sequence().0, at);
                }
            }
            _ => {}
        }
    }

    /// A link took a frame at `at`.
    pub(crate) fn went(&mut self, peer: &RegionId, body: &Body, at: u64) {
        match body {
            Body::Append(append) if !append.entries.is_empty() => {
                if let Some(conversation) = conversation_of(&append.log) {
                    self.book.sent(conversation, peer, (append.first, append.entries.len() as u64), at);
                }
            }
            Body::Forward(forward) => {
                if let (Some(conversation), Ok(id)) = (conversation_of(&forward.log), Uuid::from_slice(&forward.id)) {
                    self.book.forwarded(conversation, id, &forward.sender, at);
                }
            }
            _ => {}
        }
    }
}
