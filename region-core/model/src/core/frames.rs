//! What other regions say, and what this region asks of them as a replica.

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::{Epoch, ErrorCode, LogId, LogKind, Refusal, RegionId, SealedEntry, Slot, mesh};

use super::{Following, Now, RegionCore, Slotted, Waiting};
use crate::command::{Command, Outcome, other_content, same_content};
use crate::copies::length_of;
use crate::effect::{Effect, Lane};
use crate::home::answer;
use crate::log::Waiter;
use crate::succession::read_first;

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    pub(super) fn appended(
        &mut self,
        id: LogId,
        length: u64,
        change: u64,
        ranges: usize,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        let home_here = self.home_here(id);
        self.with_log(id, now, effects, |log, context| {
            log.change = log.change.max(change);
            log.ranges_written(ranges, context);
            if home_here { log.appended(length, context) } else { log.applied(length, context) }
        });
        if ranges > 0 {
            self.pull_next(now, effects);
        }
    }

    pub(super) fn frame(
        &mut self,
        peer: RegionId,
        body: Box<mesh::Body>,
        entries: Vec<Arc<SealedEntry>>,
        salt: [u8; 16],
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        match &*body {
            mesh::Body::Forward(forward) => {
                let forward_id = forward.forward_id;
                let (round, asker) = (forward.round, peer.clone());
                let waiter = Waiter::Peer { peer, forward_id, retry: false, parked: forward.parked, round };
                let log = LogId::from_bytes(&forward.log);
                if let Some(id) = log.filter(|id| self.rounds.is_out_of_turn(*id, &asker, round, forward.place)) {
                    let refusal = Refusal::new(ErrorCode::HomeUnreachable, "one before it was refused or is missing");
                    answer(waiter, Outcome::Refused(refusal.with_retry_after(1)), effects, id);
                    return;
                }
                match Command::from_forward(forward) {
                    Some(command) => {
                        let waiting = Waiting::Command { salt, waiter, command, again: false };
                        let id = LogId::from_bytes(&forward.log).unwrap_or(LogId::placement(Slot(0)));
                        self.on_log(id, waiting, now, effects);
                    }
                    None => {
                        let refusal = Refusal::invalid("a forward that this region cannot read");
                        answer(waiter, Outcome::Refused(refusal), effects, LogId::placement(Slot(0)));
                    }
                }
            }
            mesh::Body::Answer(said) => self.answered(&peer, said, now, effects),
            mesh::Body::Append(mesh::Append { log, .. })
            | mesh::Body::Appended(mesh::Appended { log, .. })
            | mesh::Body::Follow(mesh::Follow { log, .. })
            | mesh::Body::Pull(mesh::Pull { log, .. })
            | mesh::Body::Pulled(mesh::Pulled { log, .. })
            | mesh::Body::Seal(mesh::Seal { log, .. }) => {
                if let Some(id) = LogId::from_bytes(log) {
                    self.on_log(id, Waiting::Frame(peer, body, entries), now, effects);
                }
            }
            mesh::Body::Sealed(sealed) => self.sealed(&peer, sealed, now, effects),
            mesh::Body::Lengths(_) => {
                if let mesh::Body::Lengths(lengths) = *body {
                    self.lengths_told(&peer, lengths, now, effects);
                }
            }
            mesh::Body::Request(request) => {
                if let Some(mesh::Question::Placement(bytes)) = &request.question
                    && let Some(about) = LogId::from_bytes(bytes)
                {
                    let waiting = Waiting::PlacementQuestion { peer, request_id: request.request_id, about };
                    self.on_log(LogId::placement(Slot::of(&about)), waiting, now, effects);
                }
            }
            mesh::Body::Response(response) => self.placement_response(response, now, effects),
            // They go to the region map, to the receipts or to typing before they come here.
            mesh::Body::MapAsk(_)
            | mesh::Body::MapTell(_)
            | mesh::Body::Receipts(_)
            | mesh::Body::ReceiptDigests(_)
            | mesh::Body::Typing(_)
            | mesh::Body::Presence(_)
            | mesh::Body::Push(_) => {}
        }
    }

    /// Lengths that a home told of its logs: those that are not in memory are loaded for it.
    fn lengths_told(&mut self, peer: &RegionId, lengths: mesh::Lengths, now: Now, effects: &mut Vec<Effect<R>>) {
        for length in lengths.logs {
            if let Some(id) = LogId::from_bytes(&length.log) {
                self.on_log(id, Waiting::Compare(peer.clone(), length), now, effects);
            }
        }
    }

    pub(super) fn log_frame(
        &mut self,
        id: LogId,
        peer: &RegionId,
        body: &mesh::Body,
        entries: &[Arc<SealedEntry>],
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        let copies = matches!(body, mesh::Body::Append(_) | mesh::Body::Pulled(_));
        let invited = matches!(body, mesh::Body::Append(append) if append.invited);
        if copies && !self.keeps_copy(id) && !(invited && self.take_invitation(id, peer)) {
            if matches!(body, mesh::Body::Append(_)) {
                self.send_follow(peer.clone(), id, 0, true, false, effects);
            }
            return;
        }
        if let mesh::Body::Pulled(_) = body
            && self.fetched(id, peer, entries, now, effects)
        {
            return;
        }
        let home_here = self.home_here(id);
        // Until the epoch that this region opens is on its disk, nobody hears of it; then everybody is asked.
        let opens = self.opens(id);
        if matches!(body, mesh::Body::Follow(_)) && opens {
            self.hold(id, Waiting::Frame(peer.clone(), Box::new(body.clone()), entries.to_vec()), effects);
            return;
        }
        let mut unread = None;
        self.with_log(id, now, effects, |log, context| match body {
            mesh::Body::Append(append) if !home_here || log.epoch().0 < append.epoch => {
                unread = log.take_append(peer, append, entries, context).err();
            }
            mesh::Body::Appended(said) if home_here && !opens => log.replica_appended(peer, said, context),
            mesh::Body::Follow(follow) if home_here && follow.unfollow => log.unfollow(peer),
            mesh::Body::Follow(follow) if home_here => log.follow(peer, follow, context),
            mesh::Body::Pull(pull) => log.pull_asked(peer, pull, context),
            mesh::Body::Pulled(pulled) if !home_here => log.pulled(peer, pulled.to, entries, context),
            mesh::Body::Seal(seal) => unread = log.seal(peer, Epoch(seal.epoch), context).err(),
            _ => {}
        });
        if let Some(unread) = unread {
            self.hold(id, Waiting::Frame(peer.clone(), Box::new(body.clone()), entries.to_vec()), effects);
            read_first(id, unread, effects);
        }
        if let mesh::Body::Appended(said) = body
            && home_here
        {
            self.copied(id, peer, said, now, effects);
        }
    }

    /// Whether entries of a log belong on this region's disk: it votes for it, or follows it.
    fn keeps_copy(&self, id: LogId) -> bool {
        let Some(Slotted::Ready(log)) = self.logs.get(&id) else { return true };
        let votes = id.kind == LogKind::Placement
            || log.placement.as_ref().is_none_or(|placement| placement.voters.contains(&self.options.me));
        match self.follows.get(&id) {
            _ if votes => true,
            Some(Following::Wanted | Following::Asked(_)) => true,
            Some(Following::Left) => false,
            // After a start: what is held is followed again by whoever runs the core.
            None => log.is_held(),
        }
    }

    /// The home of a log wants this region to vote for it: a copy is taken as a follower, until a placement names it.
    fn take_invitation(&mut self, id: LogId, home: &RegionId) -> bool {
        let placement = self.placement_of(id);
        let from_home = placement.is_some_and(|placement| {
            placement.home == *home
                && placement.allowed_regions.as_ref().is_none_or(|allowed| allowed.contains(&self.options.me))
        });
        if from_home {
            self.follows.insert(id, Following::Asked(home.clone()));
        }
        from_home
    }

    /// Asks the home of a log to send it, or says that it is not wanted any more.
    pub(super) fn follow(&mut self, id: LogId, hold: bool, effects: &mut Vec<Effect<R>>) {
        let Some(Slotted::Ready(log)) = self.logs.get(&id) else { return };
        let Some(placement) = &log.placement else {
            self.follows.insert(id, Following::Left);
            return;
        };
        let (home, length, fresh) = (placement.home.clone(), log.head(), log.ranges.stale);
        if home == self.options.me || placement.voters.contains(&self.options.me) {
            self.follows.remove(&id);
            return;
        }
        let up = self.links_up.contains(&home);
        let following = match (hold, up) {
            (true, true) => Following::Asked(home.clone()),
            (true, false) => Following::Wanted,
            // When the home cannot hear it now, it does as soon as it sends something.
            (false, _) => Following::Left,
        };
        self.follows.insert(id, following);
        if up {
            self.send_follow(home, id, length, !hold, hold && fresh, effects);
        }
    }

    fn send_follow(
        &self,
        home: RegionId,
        id: LogId,
        length: u64,
        unfollow: bool,
        fresh: bool,
        effects: &mut Vec<Effect<R>>,
    ) {
        let log = Bytes::copy_from_slice(&id.to_bytes());
        let accepted = match self.logs.get(&id) {
            Some(Slotted::Ready(held)) => held.record.as_ref().map_or(0, |record| record.accepted.0),
            Some(Slotted::Loading(_)) | None => 0,
        };
        let body = mesh::Body::Follow(mesh::Follow { log, length, unfollow, fresh, accepted });
        effects.push(Effect::Send { peer: home, lane: Lane::Log(id), body });
    }

    pub(super) fn compare_homes(&self, peer: &RegionId, lengths: Vec<mesh::Length>, effects: &mut Vec<Effect<R>>) {
        // Logs in memory know more than the page that was read.
        let logs =
            lengths.into_iter().map(|length| match LogId::from_bytes(&length.log).and_then(|id| self.logs.get(&id)) {
                Some(Slotted::Ready(log)) => length_of(log),
                Some(Slotted::Loading(_)) | None => length,
            });
        let body = mesh::Body::Lengths(mesh::Lengths { logs: logs.collect() });
        effects.push(Effect::Send { peer: peer.clone(), lane: Lane::Bulk, body });
    }

    pub(super) fn retry_read(
        &mut self,
        ticket: u64,
        entry: Option<Arc<SealedEntry>>,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        let Some(check) = self.retries.remove(&ticket) else { return };
        if !self.numbers(check.command.log, now) {
            // An ack again is an ack: it takes the right to give one.
            let refusal = Refusal::new(ErrorCode::HomeUnreachable, "the home may not sequence now").with_retry_after(1);
            answer(check.waiter, Outcome::Refused(refusal), effects, check.command.log);
            return;
        }
        let outcome = match entry {
            Some(entry) if !same_content(&entry, &check.command) => Outcome::Refused(other_content()),
            Some(_) | None => Outcome::Acked(check.ack),
        };
        answer(check.waiter, outcome, effects, check.command.log);
    }
}
