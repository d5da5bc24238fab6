//! Questions about placements: where a log lives is asked of its slot's steward when it is not known here.

use bytes::Bytes;
use hearth_protocol::record::Record;
use hearth_protocol::{ErrorCode, LogId, LogKind, Placement, Refusal, Slot, mesh};

use super::{
    Following, Lookup, Now, RegionCore, Slotted, WAITING_FOR_LOG, Waiting, home_unreachable, too_many_waiting,
};
use crate::command::Outcome;
use crate::effect::{Effect, Lane, LogView};
use crate::home::answer;
use crate::log::Log;
use crate::ports::LoadedLog;
use crate::view::View;

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    /// Asks the steward where a log is.
    pub(super) fn look_up(&mut self, id: LogId, waiting: Waiting<R>, now: Now, effects: &mut Vec<Effect<R>>) {
        if let Some(lookup) = self.lookups.get_mut(&id) {
            if lookup.waiting.len() < WAITING_FOR_LOG {
                lookup.waiting.push(waiting);
            } else {
                self.fail_waiting(id, vec![waiting], &too_many_waiting(), effects);
            }
            return;
        }
        let slot = Slot::of(&id);
        let steward = self.steward_of(slot);
        let mut lookup = Lookup { waiting: vec![waiting], asked_at: now.monotonic, request_id: None };
        if steward == self.options.me {
            self.lookups.insert(id, lookup);
            self.on_log(LogId::placement(slot), Waiting::Lookup { about: id }, now, effects);
        } else if self.links_up.contains(&steward) {
            let request_id = self.new_id();
            lookup.request_id = Some(request_id);
            self.lookups.insert(id, lookup);
            let question = mesh::Question::Placement(Bytes::copy_from_slice(&id.to_bytes()));
            let body = mesh::Body::Request(mesh::Request { request_id, question: Some(question) });
            effects.push(Effect::Send { peer: steward, lane: Lane::Control, body });
        } else {
            self.fail_waiting(id, lookup.waiting, &home_unreachable(&steward), effects);
        }
    }

    /// A placement that counts: its entry is below the mark of its slot's log.
    pub(super) fn placed(&self, slot_log: LogId, about: LogId) -> Option<Placement> {
        let Some(Slotted::Ready(log)) = self.logs.get(&slot_log) else { return None };
        let View::Placements(state) = &log.view else { return None };
        state.placed.get(&about).filter(|placed| placed.sequence < log.marked).map(|placed| placed.placement.clone())
    }

    pub(super) fn lookup_answered(
        &mut self,
        id: LogId,
        placement: Option<Placement>,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        match placement {
            Some(placement) => {
                effects.push(Effect::PutPlacement(placement.clone()));
                self.placement_learned(placement, now, effects);
            }
            None => {
                if let Some(lookup) = self.lookups.remove(&id) {
                    let refusal = match id.kind {
                        LogKind::Conversation => Refusal::no_conversation(),
                        LogKind::User | LogKind::Placement => Refusal::new(ErrorCode::NotFound, "no such record"),
                    };
                    self.fail_waiting(id, lookup.waiting, &refusal, effects);
                }
            }
        }
    }

    /// A placement is known here: what waited for it goes on.
    pub(super) fn placement_learned(&mut self, placement: Placement, now: Now, effects: &mut Vec<Effect<R>>) {
        let id = placement.log;
        self.take_placement(placement, now, effects);
        if let Some(lookup) = self.lookups.remove(&id) {
            let first = self.next_id;
            for waiting in lookup.waiting {
                self.on_log(id, waiting, now, effects);
            }
            // Who waited for the steward does not wait as long again for the home.
            let ends = lookup.asked_at + self.options.forward_patience();
            for forwarded in self.forwards.range_mut(first..).map(|(_, forwarded)| forwarded) {
                forwarded.patience_ends = forwarded.patience_ends.min(ends);
            }
        }
    }

    /// Ends what waited for a log in vain. A query is answered with what is known: nothing.
    pub(super) fn fail_waiting(
        &mut self,
        id: LogId,
        waiting: Vec<Waiting<R>>,
        refusal: &Refusal,
        effects: &mut Vec<Effect<R>>,
    ) {
        let unknown = matches!(refusal.error, ErrorCode::ConversationNotFound | ErrorCode::NotFound);
        for waiting in waiting {
            match waiting {
                Waiting::Command { waiter, .. } => {
                    if !unknown {
                        // Another region may wait: what comes behind it in its round may be taken by then, and is not to be.
                        self.rounds.refuse(id, &waiter);
                    }
                    answer(waiter, Outcome::Refused(refusal.clone()), effects, id);
                }
                Waiting::Query { reply, .. } if unknown => effects.push(Effect::View(reply, Box::default())),
                Waiting::Query { reply, .. } => effects.push(Effect::Reply(reply, Outcome::Refused(refusal.clone()))),
                // It stays wanted, and is asked for again with the next link or anti-entropy.
                Waiting::Follow { hold: true } if !unknown => {
                    self.follows.insert(id, Following::Wanted);
                }
                Waiting::Follow { .. } => {
                    self.follows.remove(&id);
                }
                Waiting::Lookup { about } => {
                    if let Some(lookup) = self.lookups.remove(&about) {
                        self.fail_waiting(about, lookup.waiting, refusal, effects);
                    }
                }
                Waiting::Move { reply, .. } => effects.push(Effect::Reply(reply, Outcome::Refused(refusal.clone()))),
                Waiting::Open
                | Waiting::Opened
                | Waiting::Steward
                | Waiting::Join
                | Waiting::Frame(..)
                | Waiting::PlacementQuestion { .. }
                | Waiting::Release
                | Waiting::LeftOut
                | Waiting::LinkUp(_)
                | Waiting::Compare(..) => {}
            }
        }
    }

    /// What is known here of a log that is in memory, as a query of it would be answered. Nothing changes by looking.
    #[must_use]
    pub fn look(&self, id: LogId, now: Now) -> Option<LogView> {
        match self.logs.get(&id)? {
            Slotted::Ready(log) => Some(self.told_of(id, log.view(), self.reaches_home_of(log, now))),
            Slotted::Loading(_) => None,
        }
    }

    /// As [`RegionCore::look`], of a log that is not in memory, as the store has it.
    #[must_use]
    pub fn look_at(&self, id: LogId, loaded: LoadedLog, now: Now) -> LogView {
        let log = Log::<R>::from_loaded(id, loaded, now.monotonic);
        self.told_of(id, log.view(), self.reaches_home_of(&log, now))
    }

    /// What a log's own view does not say.
    fn told_of(&self, id: LogId, mut view: LogView, reaches_home: bool) -> LogView {
        view.home_out_of_reach = !reaches_home;
        view.tail_settled = self.tails.get(&id).map(super::tails::Tail::is_settled);
        if self.follows.get(&id) == Some(&Following::Left) {
            // Nobody tells this region what happens there any more.
            view.held = false;
        }
        view
    }

    pub(super) fn query(&mut self, id: LogId, ask: bool, reply: R, now: Now, effects: &mut Vec<Effect<R>>) {
        let view = self.look(id, now).unwrap_or_else(|| self.told_of(id, LogView::default(), true));
        if ask && view.placement.is_none() {
            self.look_up(id, Waiting::Query { ask: false, reply }, now, effects);
        } else {
            effects.push(Effect::View(reply, Box::new(view)));
        }
    }

    pub(super) fn give_up_lookups(&mut self, ids: Vec<LogId>, effects: &mut Vec<Effect<R>>) {
        for id in ids {
            if let Some(lookup) = self.lookups.remove(&id) {
                let steward = self.steward_of(Slot::of(&id));
                self.fail_waiting(id, lookup.waiting, &home_unreachable(&steward), effects);
            }
        }
    }

    pub(super) fn placement_response(&mut self, response: &mesh::Response, now: Now, effects: &mut Vec<Effect<R>>) {
        let asked = self.lookups.iter().find(|(_, lookup)| lookup.request_id == Some(response.request_id));
        let Some(id) = asked.map(|(id, _)| *id) else { return };
        let placement = if response.status == 200 {
            Placement::decode(&response.body).ok().filter(|found| found.log == id)
        } else {
            None
        };
        self.lookup_answered(id, placement, now, effects);
    }
}
