//! Commands on their way to their home: decided here, forwarded, or parked.

use std::collections::BTreeSet;

use hearth_protocol::{DeviceId, ErrorCode, LogId, Refusal, RegionId, mesh};

use super::parked::is_passing;
use super::{FORWARDS, Forwarded, HELD_PATIENCE_MILLISECONDS, Now, RegionCore, Slotted, Waiting};
use crate::command::{Command, Outcome};
use crate::effect::{Effect, Lane};
use crate::home::answer;
use crate::log::Waiter;
use crate::view::View;

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    pub(super) fn route(
        &mut self,
        command: Command,
        salt: [u8; 16],
        waiter: Waiter<R>,
        again: bool,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        let id = command.log;
        let Some(home) = (match self.logs.get(&id) {
            Some(Slotted::Ready(log)) => log.placement.as_ref().map(|placement| placement.home.clone()),
            Some(Slotted::Loading(_)) | None => None,
        }) else {
            self.look_up(id, Waiting::Command { command, salt, waiter, again }, now, effects);
            return;
        };
        let command = if again { command } else { self.with_membership(command, &waiter) };
        if !again && let Some(refusal) = self.refused_by_mode(&command, &waiter, now) {
            return answer(waiter, Outcome::Refused(refusal), effects, id);
        }
        if home == self.options.me {
            let behind = !again && waiter.device().is_some() && self.lot.holds(id, &command.sender);
            // What came before it may still wait for its lookup: nothing of its device overtakes that, not even to be
            // parked.
            let (undecided, of_user) = match self.logs.get(&id) {
                Some(Slotted::Ready(log)) => (log.has_undecided(), behind && log.has_undecided_of(&command.sender)),
                Some(Slotted::Loading(_)) | None => (false, false),
            };
            let behind = behind && !of_user;
            if (self.numbers(id, now) || undecided) && !behind {
                self.with_log(id, now, effects, |log, context| log.submit(command, salt, waiter, context));
            } else if self.opens(id) {
                self.hold(id, Waiting::Command { command, salt, waiter, again }, effects);
            } else {
                self.homeless(command, salt, waiter, now, effects);
            }
            return;
        }
        match waiter {
            Waiter::Local { reply, device, .. } => self.send_home(command, home, reply, device, again, now, effects),
            Waiter::Peer { .. } => {
                self.rounds.refuse(id, &waiter);
                let refusal = Refusal::new(ErrorCode::HomeUnreachable, "this region is not the home of the log");
                answer(waiter, Outcome::Refused(refusal), effects, id);
            }
            // What this region wants itself, and asks for again when it does not come.
            Waiter::Gone if self.forwards.len() < FORWARDS && self.links_up.contains(&home) => {
                self.forward(command, home, None, None, None, now, effects);
            }
            Waiter::Gone => {}
        }
    }

    /// Notes on what a device sends here since when its sender is a member, as this region knows it: the home may take it
    /// much later.
    fn with_membership(&self, command: Command, waiter: &Waiter<R>) -> Command {
        if waiter.device().is_none() || command.joined.is_some() {
            return command;
        }
        let joined = match self.logs.get(&command.log) {
            Some(Slotted::Ready(log)) => match &log.view {
                View::Conversation(state) => state.members.get(&command.sender).map(|member| member.since),
                _ => None,
            },
            _ => None,
        };
        Command { joined, ..command }
    }

    /// A command whose log has its home here, while nothing may be numbered: a message is parked, others are refused.
    pub(super) fn homeless(
        &mut self,
        command: Command,
        salt: [u8; 16],
        waiter: Waiter<R>,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        let elsewhere = self.placement_of(command.log).is_some_and(|placement| placement.home != self.options.me);
        if elsewhere {
            // It moved meanwhile.
            return self.route(command, salt, waiter, false, now, effects);
        }
        match waiter {
            Waiter::Local { reply, device, .. } => {
                let me = self.options.me.clone();
                self.park_unmarked(&command, device, now, effects);
                self.park_sent(command, &me, reply, device, now, effects);
            }
            waiter @ (Waiter::Peer { .. } | Waiter::Gone) => {
                self.rounds.refuse(command.log, &waiter);
                let refusal = Refusal::new(ErrorCode::HomeUnreachable, "the home may not sequence now");
                answer(waiter, Outcome::Refused(refusal.with_retry_after(1)), effects, command.log);
            }
        }
    }

    /// Sends a command to its home elsewhere, or parks it.
    #[expect(clippy::too_many_arguments, reason = "a send is all of this")]
    fn send_home(
        &mut self,
        command: Command,
        home: RegionId,
        reply: R,
        device: Option<DeviceId>,
        again: bool,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        if command.kind.is_sent() {
            let key = (command.log, command.sender.clone(), command.id);
            self.awaiting.insert(key, reply.clone());
        }
        let behind = !again && device.is_some() && self.lot.holds(command.log, &command.sender);
        let behind = behind || (device.is_some() && self.rounds.is_broken(command.log));
        if !self.links_up.contains(&home) || behind {
            self.park_sent(command, &home, reply, device, now, effects);
        } else if self.forwards.len() >= FORWARDS {
            let refusal = Refusal::new(ErrorCode::Overloaded, "too many requests are on their way to other regions")
                .with_retry_after(1)
                .with_limit(format!("{FORWARDS} requests"));
            effects.push(Effect::Reply(reply, Outcome::Refused(refusal)));
        } else {
            self.forward(command, home, Some(reply), device, None, now, effects);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a forward is all of this, and is made in two places")]
    pub(super) fn forward(
        &mut self,
        command: Command,
        home: RegionId,
        reply: Option<R>,
        device: Option<DeviceId>,
        parked: Option<u64>,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        let forward_id = self.new_id();
        let tail = command.original_time.is_some();
        let in_order = device.is_some() || tail;
        let (round, place) = if in_order { self.rounds.begin(command.log, forward_id) } else { (0, 0) };
        let waits_for_room = parked.is_some() || tail;
        let forward = mesh::Forward { parked: waits_for_room, round, place, ..command.to_forward(forward_id) };
        effects.push(Effect::Send {
            peer: home.clone(),
            lane: Lane::Log(command.log),
            body: mesh::Body::Forward(forward),
        });
        if let Some(number) = parked {
            self.lot.on_its_way(number, Some(forward_id));
        }
        let patience_ends = now.monotonic + self.options.forward_patience();
        self.forwards.insert(forward_id, Forwarded { command, home, reply, device, patience_ends, parked, tail });
    }

    /// The home `peer` answered a forward. An answer to one that was taken back is dropped: it was offered again.
    pub(super) fn answered(&mut self, peer: &RegionId, said: &mesh::Answer, now: Now, effects: &mut Vec<Effect<R>>) {
        let Some(outcome) = Outcome::from_answer(said, peer) else { return };
        let Some(forwarded) = self.forwards.get_mut(&said.forward_id).filter(|forwarded| forwarded.home == *peer)
        else {
            return;
        };
        if matches!(outcome, Outcome::Queued(..)) {
            forwarded.patience_ends = now.monotonic + HELD_PATIENCE_MILLISECONDS;
            let (number, reply) = (forwarded.parked, forwarded.reply.clone());
            match (number, reply) {
                (Some(number), _) => self.parked_answered(number, outcome, now, effects),
                (None, Some(reply)) => effects.push(Effect::Reply(reply, outcome)),
                (None, None) => {}
            }
            return;
        }
        let refused_now = matches!(&outcome, Outcome::Refused(refusal) if refusal.error == ErrorCode::HomeUnreachable);
        if forwarded.is_in_order() {
            self.rounds.end(forwarded.command.log, said.forward_id, refused_now);
        }
        if forwarded.tail && !refused_now {
            let log = forwarded.command.log;
            self.forwards.remove(&said.forward_id);
            let took = !matches!(&outcome, Outcome::Refused(refusal) if is_passing(refusal.error));
            self.tail_answered(log, said.forward_id, took, now, effects);
            return;
        }
        let (parked, reply) = (forwarded.parked, forwarded.reply.clone());
        if refused_now {
            // The home cannot tell yet that it is the home: a message waits for that here, and all behind it.
            self.withdraw_late(vec![said.forward_id], now, effects);
        } else {
            self.forwards.remove(&said.forward_id);
        }
        match (parked, reply) {
            (Some(number), _) => self.parked_answered(number, outcome, now, effects),
            (None, Some(reply)) if !refused_now => effects.push(Effect::Reply(reply, outcome)),
            (None, _) => {}
        }
    }

    /// Takes back forwards that were not answered in time, and with them all messages on their way to the same logs:
    /// else a send that comes now would be parked before those of its device, and overtake them.
    pub(super) fn withdraw_late(&mut self, mut late: Vec<u64>, now: Now, effects: &mut Vec<Effect<R>>) {
        let messages = late.iter().filter_map(|id| self.forwards.get(id)).filter(|forwarded| forwarded.is_in_order());
        let logs: BTreeSet<LogId> = messages.map(|forwarded| forwarded.command.log).collect();
        let of_logs = self
            .forwards
            .iter()
            .filter(|(_, forwarded)| forwarded.is_in_order() && logs.contains(&forwarded.command.log));
        late.extend(of_logs.map(|(id, _)| *id));
        self.withdraw(late, now, effects);
    }

    /// Takes back forwards whose answer is not to be expected: messages are parked in their order, others refused.
    pub(super) fn withdraw(&mut self, forward_ids: Vec<u64>, now: Now, effects: &mut Vec<Effect<R>>) {
        let ids: BTreeSet<u64> = forward_ids.into_iter().collect();
        for id in ids {
            let Some(Forwarded { command, home, reply, device, parked, tail, .. }) = self.forwards.remove(&id) else {
                continue;
            };
            if device.is_some() || tail {
                self.rounds.end(command.log, id, true);
            }
            if tail {
                self.tail_answered(command.log, id, false, now, effects);
            } else if let Some(number) = parked {
                self.lot.on_its_way(number, None);
            } else if let Some(reply) = reply {
                self.park(command, &home, reply, device, now, effects);
            }
        }
    }
}
