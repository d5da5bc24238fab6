//! Which region may number a log now: the right, the epoch that a placement names, promises of newer ones.

use std::sync::Arc;

use hearth_protocol::{
    Change, EntryKind, Epoch, ErrorCode, Level, LogId, LogKind, Placement, Refusal, RegionId, SealedEntry, Slot,
};
use uuid::Uuid;

use super::{Following, Now, RegionCore, Slotted, WAITING_FOR_LOG, Waiting, region_sender, too_many_waiting};
use crate::command::{Command, Outcome, command_of};
use crate::effect::Effect;
use crate::home::answer;
use crate::joins::Join;
use crate::line::Line;
use crate::log::{Log, Waiter};
use crate::mutants::Mutant;
use crate::ownership::{Flaw, OpenError, Right};
use crate::region_map::MapState;
use crate::succession::{Owned, OwnedWrite, read_first};
use crate::view::Members;

/// After this long a home that promised a newer epoch, and was not replaced, places itself above its promise.
const WAY_BACK_MILLISECONDS: u64 = 3_000;
/// The epoch of placement logs of a map that was just founded.
const FOUNDING: Epoch = Epoch(1);

/// Whether the right covers the placement of a log whose home is `me`.
pub(super) fn covers<R>(right: Right, me: &RegionId, log: &Log<R>) -> bool {
    log.placement.as_ref().is_some_and(|placement| {
        let same = right.generation == placement.generation || Mutant::Rule(Flaw::FenceForgiven).is_on();
        placement.home == *me && right.leased && same
    })
}

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    /// The region that stewards a slot.
    pub(super) fn steward_of(&self, slot: Slot) -> RegionId {
        let mapped = self.map.as_ref().and_then(|map| map.steward(slot));
        mapped.unwrap_or_else(|| self.options.map.steward(slot)).clone()
    }

    /// How often a region was fenced, as a number that grows.
    pub(super) fn generation_of(&self, region: &RegionId) -> u64 {
        self.map.as_ref().and_then(|map| map.region(region)).map_or(0, |entry| entry.fence)
    }

    /// Where a slot's placement log lives: the region map says it. Where a later epoch than the first opens is known to
    /// whoever opened it alone.
    pub(super) fn placement_log(&self, slot: Slot) -> Placement {
        let Some(group) = self.map.as_ref().and_then(|map| map.slots.group(slot)) else {
            return self.options.map.placement_log(slot);
        };
        let (fence, epoch) = (self.generation_of(&group.steward), Epoch(group.since));
        let voters = group.voters.clone();
        let placement = Placement::first(LogId::placement(slot), group.steward.clone(), voters, Level::Majority);
        Placement {
            epoch,
            // A fence after it was named ended its right to it.
            generation: if fence < group.since { fence } else { u64::MAX },
            first: if epoch == FOUNDING { 0 } else { u64::MAX },
            ..placement
        }
    }

    /// Whether this region may number entries of a log now.
    pub(super) fn numbers(&self, id: LogId, now: Now) -> bool {
        match self.logs.get(&id) {
            Some(Slotted::Ready(log)) => {
                log.is_home_of(&self.options.me) && log.is_unsealed() && covers(now.right, &self.options.me, log)
            }
            Some(Slotted::Loading(_)) | None => false,
        }
    }

    /// Whether an epoch of this region is on its way to the disk.
    pub(super) fn opens(&self, id: LogId) -> bool {
        self.owned.get(&id).is_some_and(|writes| writes.iter().any(|write| write.opened))
    }

    /// Keeps an input until this region opened an epoch, or has read a hash.
    pub(super) fn hold(&mut self, id: LogId, waiting: Waiting<R>, effects: &mut Vec<Effect<R>>) {
        let held = self.held.entry(id).or_default();
        if held.len() < WAITING_FOR_LOG {
            held.push(waiting);
        } else {
            self.fail_waiting(id, vec![waiting], &too_many_waiting(), effects);
        }
    }

    fn go_on_with_held(&mut self, id: LogId, now: Now, effects: &mut Vec<Effect<R>>) {
        for waiting in self.held.remove(&id).unwrap_or_default() {
            self.on_log(id, waiting, now, effects);
        }
    }

    /// The right came, went, or is another one.
    pub(super) fn right_changed(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        self.right = now.right;
        if !now.right.leased {
            return;
        }
        let ids: Vec<LogId> = self.logs.keys().copied().collect();
        for id in ids {
            self.ensure_open(id, now, effects);
            if self.numbers(id, now) {
                self.with_log(id, now, effects, |log, context| log.advance(context));
            }
        }
        for log in self.lot.logs() {
            self.release(log, now, effects);
        }
    }

    /// Opens the epoch that a log's placement names this region for, if it is not open.
    pub(super) fn ensure_open(&mut self, id: LogId, now: Now, effects: &mut Vec<Effect<R>>) {
        let Some(Slotted::Ready(log)) = self.logs.get(&id) else { return };
        let Some((placement, record)) = log.placement.as_ref().zip(log.record.as_ref()) else { return };
        if log.is_sealed_home(&self.options.me) {
            self.sealed_homes.entry(id).or_insert(now.monotonic);
        }
        let named = placement.home == self.options.me && placement.first != u64::MAX;
        let due = named && record.accepted < placement.epoch && record.sealed <= placement.epoch;
        if !due || !covers(now.right, &self.options.me, log) || self.opens(id) {
            return;
        }
        let mut failed = None;
        self.with_log(id, now, effects, |log, context| failed = log.open_epoch(now.right, context).err());
        match failed {
            Some(OpenError::Unread(sequence)) => {
                self.hold(id, Waiting::Open, effects);
                read_first(id, crate::ownership::Unread(sequence), effects);
            }
            // The store is not what was sealed: nothing is opened, and the map's fence leads to another home.
            Some(OpenError::OtherLog) => effects.push(Effect::Fork { log: id, peer: self.options.me.clone() }),
            Some(OpenError::NoRight | OpenError::Newer(_) | OpenError::NewStore) | None => {}
        }
    }

    /// A step left commits on their way, or words that wait for them.
    pub(super) fn owned_step(&mut self, id: LogId, owned: Owned, effects: &mut Vec<Effect<R>>) {
        match owned {
            Owned::Say(says) => match self.owned.get_mut(&id).and_then(|writes| writes.back_mut()) {
                Some(last) => last.says.extend(says),
                None => say(id, says, effects),
            },
            Owned::Write(write) => {
                let reload = write.reload;
                self.owned.entry(id).or_default().push_back(write);
                if reload {
                    self.unload(id, effects);
                }
            }
        }
    }

    /// Commits are durable that put a log on a newer epoch's line: that is told before anything of it is shown.
    pub(super) fn tell_lines(&self, id: LogId, count: usize, effects: &mut Vec<Effect<R>>) {
        if count == 0 {
            return;
        }
        let writes = self.owned.get(&id).into_iter().flatten().take(count);
        let tell = |(line, audience): &(Arc<Line>, Arc<Members>)| Effect::LineChanged {
            log: id,
            line: Arc::clone(line),
            audience: Arc::clone(audience),
        };
        effects.extend(writes.filter_map(|write| write.line.as_ref()).map(tell));
    }

    /// Commits that change promises or lines are durable.
    pub(super) fn promised(&mut self, id: LogId, count: usize, now: Now, effects: &mut Vec<Effect<R>>) {
        for _ in 0..count {
            let Some(writes) = self.owned.get_mut(&id) else { return };
            let Some(OwnedWrite { says, reload, apart, opened, .. }) = writes.pop_front() else { return };
            if writes.is_empty() {
                self.owned.remove(&id);
            }
            say(id, says, effects);
            if reload {
                effects.push(Effect::Load(id));
            }
            if reload || apart {
                self.tail_found(id);
            }
            if opened && reload {
                self.on_log(id, Waiting::Opened, now, effects);
            } else if opened {
                self.opened(id, now, effects);
            }
        }
        if count > 0 && self.moves.contains_key(&id) && self.home_here(id) {
            self.with_log(id, now, effects, |log, context| log.ask_voters(context));
        }
    }

    /// An epoch of this region is open: replicas are told, and what waited for it goes on.
    pub(super) fn opened(&mut self, id: LogId, now: Now, effects: &mut Vec<Effect<R>>) {
        self.resume_unmarked(id, now, effects);
        self.go_on_with_held(id, now, effects);
        self.release(id, now, effects);
        if id.kind == LogKind::Placement {
            self.steward(id, now, effects);
        }
    }

    /// A log leaves memory while entries leave it on disk. Who waited for an ack asks again once it is read.
    fn unload(&mut self, id: LogId, effects: &mut Vec<Effect<R>>) {
        let waiting = self.take_waiters(id, effects);
        if let Some(Slotted::Ready(log)) = self.logs.get(&id) {
            self.told.insert(id, log.told_mark);
        }
        self.logs.insert(id, Slotted::Loading(waiting));
        self.open.remove(&id);
        self.waiting_for_copies.remove(&id);
    }

    /// Takes everybody out of a log who waits for this region as its home: sessions here as commands to be made again
    /// under their ids, other regions are told.
    fn take_waiters(&mut self, id: LogId, effects: &mut Vec<Effect<R>>) -> Vec<Waiting<R>> {
        let Some(Slotted::Ready(log)) = self.logs.get_mut(&id) else { return Vec::new() };
        let mut commands: Vec<(Command, [u8; 16], Waiter<R>)> = Vec::new();
        for pending in &mut log.pending {
            let joins = std::mem::take(&mut pending.joins).into_iter();
            commands.extend(joins.map(Join::into_parts));
            for waiter in std::mem::take(&mut pending.waiters) {
                let (command, salt) = command_of(id, &pending.entry);
                commands.push((command, salt, waiter));
            }
        }
        commands.extend(log.home.take_undecided());
        log.home = crate::home::HomeState::default();
        let mut again = Vec::new();
        for (command, salt, waiter) in commands {
            match waiter {
                Waiter::Local { .. } => again.push(Waiting::Command { command, salt, waiter, again: true }),
                Waiter::Peer { .. } => {
                    self.rounds.refuse(id, &waiter);
                    let refusal = Refusal::new(ErrorCode::HomeUnreachable, "the home moved").with_retry_after(1);
                    answer(waiter, Outcome::Refused(refusal), effects, id);
                }
                Waiter::Gone => {}
            }
        }
        again
    }

    /// A placement may come to stand after its home was fenced: the steward passed over it when it looked for such logs.
    fn replace_if_fenced(&mut self, placement: &Placement) {
        let fenced = placement.generation < self.generation_of(&placement.home);
        if fenced && self.home_here(LogId::placement(Slot::of(&placement.log))) {
            let newest = self.newest_entry(&placement.log);
            self.failovers.push(placement.log, newest);
        }
    }

    /// A placement is known here: the log's home may be another one from now on.
    pub(super) fn take_placement(&mut self, placement: Placement, now: Now, effects: &mut Vec<Effect<R>>) {
        let (id, me) = (placement.log, self.options.me.clone());
        let (home, epoch) = (placement.home.clone(), placement.epoch);
        let voters = placement.voters.clone();
        self.failovers.placed(&placement);
        self.replace_if_fenced(&placement);
        let (mut again, mut changed) = (Vec::new(), home == me);
        match self.logs.get_mut(&id) {
            Some(Slotted::Ready(log)) => {
                if log.placement.as_ref().is_some_and(|known| known.epoch > epoch) {
                    return;
                }
                let known = log.placement.as_ref().map_or(FOUNDING, |known| known.epoch);
                changed = known < epoch;
                // A voter that is none any more goes on as a follower, until nobody here needs the log.
                let voted = log.placement.as_ref().is_some_and(|known| known.voters.contains(&me));
                if voted && log.is_held() && !voters.contains(&me) {
                    self.follows.entry(id).or_insert(Following::Wanted);
                }
                log.note_placement(&placement);
                log.placement = Some(placement);
                if changed {
                    again = self.take_waiters(id, effects);
                    self.waiting_for_copies.remove(&id);
                }
            }
            // What is read may be older.
            Some(Slotted::Loading(_)) => {
                self.learned.insert(id, placement);
                changed = true;
            }
            // A first placement: it opens with its first entry.
            None if epoch == FOUNDING => changed = false,
            None if changed => {
                self.learned.insert(id, placement);
            }
            None => changed = true,
        }
        if epoch > FOUNDING && !voters.contains(&me) && !matches!(self.logs.get(&id), Some(Slotted::Ready(_))) {
            self.on_log(id, Waiting::LeftOut, now, effects);
        }
        self.begin_failovers(now, effects);
        if !changed && home == me {
            // It was told before it could be taken up.
            self.ensure_open(id, now, effects);
        }
        if changed {
            if id.kind != LogKind::Placement && epoch > FOUNDING {
                effects.push(Effect::HomeChanged(id));
            }
            self.sealed_homes.remove(&id);
            self.moved(id, &home, &voters, epoch, effects);
            self.follow_home(id, &home);
            self.withdraw_from_others(id, &home, now, effects);
            for waiting in again {
                self.on_log(id, waiting, now, effects);
            }
            if home == me {
                self.on_log(id, Waiting::Open, now, effects);
            }
            self.lot.offer_to_another(id);
            self.release(id, now, effects);
            if self.follows.get(&id) == Some(&Following::Wanted) {
                self.on_log(id, Waiting::Follow { hold: true }, now, effects);
            }
        }
    }

    /// Forwards to a home of before are taken back.
    fn withdraw_from_others(&mut self, id: LogId, home: &RegionId, now: Now, effects: &mut Vec<Effect<R>>) {
        let before: Vec<u64> = self
            .forwards
            .iter()
            .filter(|(_, forwarded)| forwarded.command.log == id && forwarded.home != *home)
            .map(|(number, _)| *number)
            .collect();
        self.withdraw_late(before, now, effects);
    }

    /// A placement leaves this region out. What it holds of the log goes on as a follower: it may have what the line of
    /// today lacks.
    pub(super) fn left_out(&mut self, id: LogId, now: Now, effects: &mut Vec<Effect<R>>) {
        let Some(Slotted::Ready(log)) = self.logs.get(&id) else { return };
        let votes = log.placement.as_ref().is_none_or(|placement| placement.voters.contains(&self.options.me));
        if log.is_held() && !votes && !self.follows.contains_key(&id) {
            self.follows.insert(id, Following::Wanted);
            self.on_log(id, Waiting::Follow { hold: true }, now, effects);
        }
    }

    /// What this region follows it asks of the new home.
    fn follow_home(&mut self, id: LogId, home: &RegionId) {
        if let Some(following) = self.follows.get_mut(&id)
            && matches!(following, Following::Asked(before) if before != home)
        {
            *following = Following::Wanted;
        }
    }

    /// The region map changed: stewards may be others, homes fenced.
    pub(super) fn map_changed(&mut self, map: Arc<MapState>, now: Now, effects: &mut Vec<Effect<R>>) {
        let before = self.map.replace(Arc::clone(&map));
        if before.as_ref().is_some_and(|before| before.changed == map.changed) {
            return;
        }
        let fences = |map: &MapState| map.regions.iter().map(|entry| entry.fence).collect::<Vec<_>>();
        self.regions = map.members().map(|entry| entry.region.clone()).collect();
        let fenced = match &before {
            Some(before) => fences(before) != fences(&map),
            None => map.regions.iter().any(|entry| entry.fence > 0),
        };
        for (slot, group) in map.slots.iter() {
            let id = LogId::placement(slot);
            let loaded = matches!(self.logs.get(&id), Some(Slotted::Ready(_)));
            if loaded {
                self.replace_steward(id, slot, now, effects);
            }
            let renamed = before.as_ref().is_none_or(|before| before.slots.group(slot) != Some(group));
            if group.steward == self.options.me && (fenced || (renamed && Epoch(group.since) > FOUNDING)) {
                self.on_log(id, Waiting::Steward, now, effects);
            }
        }
    }

    fn replace_steward(&mut self, id: LogId, slot: Slot, now: Now, effects: &mut Vec<Effect<R>>) {
        let placement = self.placement_log(slot);
        let Some(Slotted::Ready(log)) = self.logs.get_mut(&id) else { return };
        if log.placement.as_ref() == Some(&placement) {
            return;
        }
        log.placement = Some(placement);
        for waiting in self.take_waiters(id, effects) {
            self.on_log(id, waiting, now, effects);
        }
    }

    /// Hashes that a decision needs were read, from `sequence` on.
    pub(super) fn hashes_read(
        &mut self,
        id: LogId,
        sequence: u64,
        entries: &[Arc<SealedEntry>],
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        match self.logs.get_mut(&id) {
            Some(Slotted::Ready(log)) if entries.first().is_some_and(|first| first.sequence().0 == sequence) => {
                log.hashes_read(entries);
            }
            // It left the log meanwhile: whoever asked sends again.
            _ => {
                if let Some(held) = self.held.get_mut(&id) {
                    held.retain(|waiting| !matches!(waiting, Waiting::Frame(..) | Waiting::Open));
                }
            }
        }
        if !self.opens(id) {
            self.go_on_with_held(id, now, effects);
        }
    }

    /// Homes that promised a newer epoch, and were not replaced by whoever asked for it, place themselves above it; those
    /// that promised before they had opened seal the voters anew.
    pub(super) fn go_back(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        let due: Vec<LogId> = self
            .sealed_homes
            .iter()
            .filter(|(_, since)| now.monotonic >= **since + WAY_BACK_MILLISECONDS)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(Slotted::Ready(log)) = self.logs.get(&id) else { continue };
            if !log.is_sealed_home(&self.options.me) {
                self.sealed_homes.remove(&id);
                continue;
            }
            if let Some(since) = self.sealed_homes.get_mut(&id) {
                *since = now.monotonic;
            }
            let Some(replaces) = log.placement.as_ref().map(|placement| placement.epoch) else { continue };
            if id.kind == LogKind::Placement {
                // The map alone names stewards.
                continue;
            }
            if let Some(placement) = log.way_back(&self.options.me, now.right) {
                self.place(replaces, placement, now, effects);
            } else if log.promised_above(&self.options.me, now.right).is_some() {
                let newest = self.newest_entry(&id);
                self.failovers.push(id, newest);
            }
        }
        self.begin_failovers(now, effects);
    }

    /// Has a placement appended on the condition that it replaces the one of an epoch.
    pub(super) fn place(&mut self, replaces: Epoch, placement: Placement, now: Now, effects: &mut Vec<Effect<R>>) {
        let slot_log = LogId::placement(Slot::of(&placement.log));
        let change = Change::Place { replaces: Some(replaces), placement };
        let command = Command {
            log: slot_log,
            kind: EntryKind::Placement,
            sender: region_sender(&self.options.me),
            id: Uuid::nil(),
            content: change.encode(),
            reply_to: None,
            target: None,
            expires_at: None,
            level: None,
            origin: self.options.me.clone(),
            original_time: None,
            joined: None,
        };
        self.on_log(
            slot_log,
            Waiting::Command { command, salt: [0; 16], waiter: Waiter::Gone, again: false },
            now,
            effects,
        );
    }
}

fn say<R>(id: LogId, says: Vec<(RegionId, hearth_protocol::mesh::Body)>, effects: &mut Vec<Effect<R>>) {
    for (peer, body) in says {
        effects.push(Effect::Send { peer, lane: crate::effect::Lane::Log(id), body });
    }
}
