//! Which inputs and effects of a core are steps on the way of a message. Whoever drives a core tells its book of all that
//! goes in and comes out.

use hearth_protocol::mesh::{self, Body};
use hearth_protocol::record::ParkedSend;
use hearth_protocol::{ConversationId, LogId, RegionId, UserId};
use uuid::Uuid;

use super::book::HopBook;
use crate::{DeviceOutcome, Effect, Input, Outcome};

/// A message that a session here sent, as whoever waits for the core's answer names it.
#[derive(Clone, Copy, Debug)]
pub struct OfSession<'a> {
    /// The conversation.
    pub conversation: ConversationId,
    /// The message.
    pub id: Uuid,
    /// Whose.
    pub sender: &'a UserId,
    /// When the session gave it to the core, in microseconds since the epoch.
    pub taken: u64,
}

fn conversation_of(log: &[u8]) -> Option<ConversationId> {
    LogId::from_bytes(log)?.as_conversation()
}

impl HopBook {
    /// Takes note of what comes to the core at `at`, microseconds since the epoch. `of` says which message of a session
    /// waits for an answer; `None` for others who do.
    pub fn input<'a, R>(&mut self, input: &'a Input<R>, of: impl FnOnce(&'a R) -> Option<OfSession<'a>>, at: u64) {
        match input {
            Input::Command { command, reply, .. } => {
                if let Some(sent) = of(reply) {
                    self.taken(sent.conversation, command.id, command.sender.as_str(), sent.taken);
                }
            }
            Input::Frame { body, entries, .. } if !entries.is_empty() => {
                let log = match body.as_ref() {
                    Body::Append(mesh::Append { log, .. }) | Body::Pulled(mesh::Pulled { log, .. }) => log,
                    _ => return,
                };
                if let Some(conversation) = conversation_of(log) {
                    entries.iter().for_each(|entry| self.arrived(conversation, entry, at));
                }
            }
            Input::Appended { log, length, .. } => {
                if let Some(conversation) = log.as_conversation() {
                    self.durable(conversation, *length, at);
                }
            }
            _ => {}
        }
    }

    /// Takes note of what the core decided at `at`; `of` as for [`HopBook::input`].
    pub fn effect<'a, R>(&mut self, effect: &'a Effect<R>, of: impl FnOnce(&'a R) -> Option<OfSession<'a>>, at: u64) {
        match effect {
            Effect::Append(append) => {
                if let Some(conversation) = append.log.as_conversation() {
                    append.entries.iter().for_each(|entry| self.numbered(conversation, entry, at));
                }
            }
            Effect::Reply(reply, outcome) => {
                let Some(OfSession { conversation, id, sender, .. }) = of(reply) else { return };
                match outcome {
                    Outcome::Acked(ack) => {
                        let place = (ack.position.sequence.0, ack.position.epoch.0);
                        self.acked((conversation, id, sender.as_str()), place, at);
                    }
                    Outcome::Queued(..) => self.queued(conversation, id, sender.as_str(), at),
                    Outcome::Refused(_) => {}
                }
            }
            Effect::Deliver { log, entry, .. } => {
                if let Some(conversation) = log.as_conversation() {
                    let position = entry.entry.fixed.position;
                    self.shown(conversation, (position.sequence.0, position.epoch.0), at);
                }
            }
            _ => {}
        }
    }

    /// The device of a parked send was told how that ended.
    pub fn told_device(&mut self, send: &ParkedSend, ended: &DeviceOutcome, at: u64) {
        if let DeviceOutcome::Acked(ack) = ended {
            let place = (ack.position.sequence.0, ack.position.epoch.0);
            self.acked((send.conversation, send.id.0, send.sender.as_str()), place, at);
        }
    }

    /// A link took a frame at `at`.
    pub fn went(&mut self, peer: &RegionId, body: &Body, at: u64) {
        match body {
            Body::Append(append) if !append.entries.is_empty() => {
                if let Some(conversation) = conversation_of(&append.log) {
                    self.sent(conversation, peer, (append.first, append.entries.len() as u64), at);
                }
            }
            Body::Forward(forward) => {
                if let (Some(conversation), Ok(id)) = (conversation_of(&forward.log), Uuid::from_slice(&forward.id)) {
                    self.forwarded(conversation, id, &forward.sender, at);
                }
            }
            _ => {}
        }
    }
}
