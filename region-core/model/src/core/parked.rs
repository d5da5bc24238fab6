//! Sends that wait here for their home: parked, released in order, refused.

use std::collections::BTreeSet;

use hearth_protocol::client::QueuedReason;
use hearth_protocol::record::ParkedSend;
use hearth_protocol::{ConversationId, DeviceId, ErrorCode, LogId, MessageId, Refusal, RegionId, Timestamp, UserId};

use super::{Now, RELEASE_WINDOW, RegionCore, Slotted, Waiting, home_unreachable};
use crate::command::{Command, Outcome, other_content};
use crate::effect::{DeviceOutcome, Effect};
use crate::mutants::Mutant;
use crate::parking::Parked;
use crate::view::View;

/// Other devices that are told how one parked message ends; more hear it by their own retries.
const OTHER_DEVICES: usize = 8;

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    /// Parks a message; anything else is refused, since its sender waits for the answer.
    pub(super) fn park(
        &mut self,
        command: Command,
        home: &RegionId,
        reply: R,
        device: Option<DeviceId>,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        let refused = |refusal| Effect::Reply(reply.clone(), Outcome::Refused(refusal));
        let (Some(device), true, Some(conversation)) = (device, command.kind.is_sent(), command.log.as_conversation())
        else {
            effects.push(refused(home_unreachable(home)));
            return;
        };
        if let Some(Slotted::Ready(log)) = self.logs.get(&command.log)
            && let View::Conversation(state) = &log.view
            && !state.members.contains_key(&command.sender)
        {
            effects.push(refused(Refusal::no_conversation()));
            return;
        }
        if let Some(number) = self.lot.number_of(command.log, &command.sender, command.id) {
            self.park_again(number, &command, home, reply, device, effects);
            return;
        }
        if let Err(refusal) = self.lot.check_room(command.log, command.content.len()) {
            effects.push(refused(refusal));
            return;
        }
        self.keep(command, conversation, device, vec![reply], now, effects);
    }

    /// Writes a send down, behind all that are parked. Returns its number.
    fn keep(
        &mut self,
        command: Command,
        conversation: ConversationId,
        device: DeviceId,
        replies: Vec<R>,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) -> u64 {
        let number = self.lot.next_number();
        let send = ParkedSend {
            number,
            conversation,
            sender: command.sender,
            device,
            id: MessageId(command.id),
            content: command.content,
            reply_to: command.reply_to,
            expires_at: command.expires_at,
            level: command.level,
            parked_at: now.wall,
            refused: None,
            kind: command.kind,
            target: command.target,
            joined: command.joined,
        };
        effects.push(Effect::Park(Box::new(send.clone())));
        if Mutant::QueuedBeforeDisk.is_on() {
            let queued = |reply: &R| {
                let me = self.options.me.clone();
                Effect::Reply(reply.clone(), Outcome::Queued(QueuedReason::HomeUnreachable, me))
            };
            effects.extend(replies.iter().map(queued));
        }
        self.lot.insert(Parked::new(send, replies));
        number
    }

    /// A home that may not number parks what a user sends, and before it what the user has in the log above the mark:
    /// that may leave the line when another region becomes the home, and the next send must not come before it.
    pub(super) fn park_unmarked(
        &mut self,
        command: &Command,
        device: Option<DeviceId>,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        let (Some(device), Some(conversation)) = (device, command.log.as_conversation()) else { return };
        let Some(Slotted::Ready(log)) = self.logs.get(&command.log) else { return };
        if self.lot.holds(command.log, &command.sender) {
            return;
        }
        for (earlier, sent_here) in log.unmarked_of(&command.sender) {
            let room = self.lot.check_room(command.log, earlier.content.len()).is_ok();
            if room && self.lot.number_of(command.log, &earlier.sender, earlier.id).is_none() {
                let number = self.keep(earlier, conversation, device, Vec::new(), now, effects);
                if let Some(parked) = self.lot.get_mut(number) {
                    parked.sent_now = sent_here;
                }
            }
        }
    }

    /// The same message again, while it is here: told again, not parked twice. Another device that sends it is told how
    /// it ends, as its own device is.
    fn park_again(
        &mut self,
        number: u64,
        command: &Command,
        home: &RegionId,
        reply: R,
        device: DeviceId,
        effects: &mut Vec<Effect<R>>,
    ) {
        let Some(parked) = self.lot.get_mut(number) else { return };
        if let Some(refusal) = kept_refusal(&parked.send) {
            effects.push(Effect::Reply(reply, Outcome::Refused(refusal)));
            return;
        }
        let send = &parked.send;
        let same = (send.reply_to, send.kind, send.target) == (command.reply_to, command.kind, command.target);
        if !same || (!send.content.is_empty() && send.content != command.content) {
            effects.push(Effect::Reply(reply, Outcome::Refused(other_content())));
            return;
        }
        if device == parked.send.device {
            parked.sent_now = true;
        } else if parked.others.len() < OTHER_DEVICES {
            parked.others.insert(device);
        }
        if parked.durable {
            let outcome = Outcome::Queued(QueuedReason::HomeUnreachable, home.clone());
            effects.push(Effect::Reply(reply, outcome));
        } else {
            parked.replies.push(reply);
        }
    }

    /// Parks what a device just sent. A device that connects sends all again that it has no answer for, in its order.
    /// Some of it may have ended here without its hearing of that: that is parked anew, and what is still here from
    /// before and comes after it in the device's order goes behind it.
    pub(super) fn park_sent(
        &mut self,
        command: Command,
        home: &RegionId,
        reply: R,
        device: Option<DeviceId>,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        let (log, sender, id) = (command.log, command.sender.clone(), command.id);
        let was_here = self.lot.number_of(log, &sender, id).is_some();
        self.park(command, home, reply, device, now, effects);
        let is_here = self.lot.number_of(log, &sender, id).is_some();
        let Some(device) = device.filter(|_| is_here && !was_here) else { return };
        let waiting = self.lot.not_sent_again(log, &sender, device);
        self.withdraw_late(waiting.iter().filter_map(|(_, forward)| *forward).collect(), now, effects);
        let mut moved = Vec::new();
        for (number, _) in waiting {
            if let Some(send) = self.lot.move_behind(number) {
                effects.push(Effect::Park(Box::new(send)));
                moved.push(number);
            }
        }
        // Power may fail between any two of these, and what it brings back of an `Unpark` stands before the copy: a later
        // send is not to be left alone before the copy of an earlier one.
        effects.extend(moved.into_iter().rev().map(Effect::Unpark));
    }

    /// A parked send, or its refusal, is on disk.
    pub(super) fn parked(&mut self, number: u64, now: Now, effects: &mut Vec<Effect<R>>) {
        let Some(parked) = self.lot.get_mut(number) else { return };
        parked.durable = true;
        if parked.told {
            self.lot.remove(number);
            effects.push(Effect::Unpark(number));
            return;
        }
        let replies = std::mem::take(&mut parked.replies);
        let refused = kept_refusal(&parked.send);
        let log = LogId::conversation(parked.send.conversation);
        let home = self.placement_of(log).map_or(&self.options.me, |placement| &placement.home).clone();
        for reply in replies {
            let outcome = match &refused {
                Some(refusal) => Outcome::Refused(refusal.clone()),
                None => Outcome::Queued(QueuedReason::HomeUnreachable, home.clone()),
            };
            effects.push(Effect::Reply(reply, outcome));
        }
        self.release(log, now, effects);
    }

    pub(super) fn parked_at_start(&mut self, sends: Vec<ParkedSend>) {
        for send in sends.into_iter().filter(|_| !Mutant::ParkedLostAtStart.is_on()) {
            self.lot.insert(Parked { durable: true, ..Parked::new(send, Vec::new()) });
        }
    }

    /// Sends what is parked for a conversation, in order, as far as the window allows.
    pub(super) fn release(&mut self, log: LogId, now: Now, effects: &mut Vec<Effect<R>>) {
        let ready = self.lot.ready(log, RELEASE_WINDOW);
        if ready.is_empty() {
            return;
        }
        let Some(home) = self.placement_of(log).map(|placement| placement.home.clone()) else {
            // Not in memory, or its placement is not known here: comes back here once it is.
            if !self.lookups.contains_key(&log) {
                self.on_log(log, Waiting::Release, now, effects);
            }
            return;
        };
        let reached = if home == self.options.me { self.numbers(log, now) } else { self.links_up.contains(&home) };
        if !reached || self.rounds.is_broken(log) {
            return;
        }
        for number in ready {
            let Some(parked) = self.lot.get_mut(number) else { continue };
            let send = &parked.send;
            let command = Command {
                log,
                kind: send.kind,
                sender: send.sender.clone(),
                id: send.id.0,
                content: send.content.clone(),
                reply_to: send.reply_to,
                target: send.target,
                expires_at: send.expires_at,
                level: send.level,
                origin: self.options.me.clone(),
                original_time: None,
                joined: send.joined,
            };
            let device = Some(send.device);
            self.forward(command, home.clone(), None, device, Some(number), now, effects);
        }
    }

    /// The home answered for a parked send.
    pub(super) fn parked_answered(&mut self, number: u64, outcome: Outcome, now: Now, effects: &mut Vec<Effect<R>>) {
        match outcome {
            Outcome::Acked(ack) => {
                if let Some(parked) = self.lot.remove(number) {
                    effects.push(Effect::Unpark(number));
                    let log = LogId::conversation(parked.send.conversation);
                    tell_others(&parked.send, &parked.others, &DeviceOutcome::Acked(ack.clone()), effects);
                    effects.push(Effect::Device { send: Box::new(parked.send), ended: DeviceOutcome::Acked(ack) });
                    self.release(log, now, effects);
                }
            }
            // The home cannot take it now: it goes out again with the next anti-entropy, before those behind it.
            Outcome::Refused(refusal) if is_passing(refusal.error) => self.lot.wait(number),
            Outcome::Refused(refusal) => self.refuse_parked(number, refusal, effects),
            Outcome::Queued(_, home) => {
                if let Some(parked) = self.lot.get_mut(number) {
                    let send = Box::new(parked.send.clone());
                    effects.push(Effect::Device { send, ended: DeviceOutcome::CopiesMissing(home) });
                }
            }
        }
    }

    /// Keeps a refusal until its device has it.
    pub(super) fn refuse_parked(&mut self, number: u64, refusal: Refusal, effects: &mut Vec<Effect<R>>) {
        let Some(send) = self.lot.refuse(number, &refusal) else { return };
        let others = self.lot.get_mut(number).map(|parked| std::mem::take(&mut parked.others)).unwrap_or_default();
        tell_others(&send, &others, &DeviceOutcome::Refused(refusal.clone()), effects);
        effects.push(Effect::Park(Box::new(send.clone())));
        effects.push(Effect::Device { send: Box::new(send), ended: DeviceOutcome::Refused(refusal) });
    }

    /// Takes texts of parked sends away at their time, refuses sends that waited too long, and forgets refusals whose
    /// device does not come back.
    pub(super) fn expire_parked(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        let expired = self.lot.take_expired(now.wall).into_iter();
        effects.extend(expired.map(|send| Effect::Park(Box::new(send))));
        for number in self.lot.overdue(now.wall.0) {
            let refusal = Refusal::new(ErrorCode::Expired, "the home was out of reach for longer than sends are kept");
            self.refuse_parked(number, refusal, effects);
        }
        for number in self.lot.abandoned(now.wall.0) {
            self.lot.remove(number);
            effects.push(Effect::Unpark(number));
        }
    }

    /// A user was erased in a log at a time. Whether the home took a message before, it says by itself, as of one that
    /// expired; an edit is refused.
    pub(super) fn erase_parked(&mut self, log: LogId, user: &UserId, at: Timestamp, effects: &mut Vec<Effect<R>>) {
        let (taken, edits) = self.lot.take_erased(log, user, at);
        effects.extend(taken.into_iter().map(|send| Effect::Park(Box::new(send))));
        for number in edits {
            self.refuse_parked(number, Refusal::new(ErrorCode::Expired, "its sender was erased since"), effects);
        }
    }

    /// A device has been told of a refusal: it can be forgotten, once what is being stored of it is stored.
    pub(super) fn refusal_told(&mut self, number: u64, effects: &mut Vec<Effect<R>>) {
        let Some(parked) = self.lot.get_mut(number).filter(|parked| parked.send.refused.is_some()) else { return };
        if !parked.durable {
            parked.told = true;
        } else {
            self.lot.remove(number);
            effects.push(Effect::Unpark(number));
        }
    }

    pub(super) fn device_connected(&mut self, user: &UserId, device: DeviceId, effects: &mut Vec<Effect<R>>) {
        self.lot.connected(user, device);
        for send in self.lot.refusals(user, device) {
            if let Some(refusal) = kept_refusal(&send) {
                effects.push(Effect::Device { send: Box::new(send), ended: DeviceOutcome::Refused(refusal) });
            }
        }
    }
}

fn kept_refusal(send: &ParkedSend) -> Option<Refusal> {
    send.refused.as_ref().map(|(code, message)| Refusal::new(ErrorCode::parse(code), message.clone()))
}

/// Whether a refusal says that the same send may be taken later.
pub(crate) fn is_passing(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::HomeUnreachable
            | ErrorCode::Overloaded
            | ErrorCode::RateLimited
            | ErrorCode::StoreUnavailable
            | ErrorCode::Draining
    )
}

/// Tells the other devices that sent a parked message again. The number is left out: a refusal is kept for the device
/// that parked it, whoever else has been told.
fn tell_others<R>(send: &ParkedSend, others: &BTreeSet<DeviceId>, ended: &DeviceOutcome, effects: &mut Vec<Effect<R>>) {
    for device in others {
        let send = Box::new(ParkedSend { device: *device, number: 0, ..send.clone() });
        effects.push(Effect::Device { send, ended: ended.clone() });
    }
}
