//! What may happen next, and what it does to the world.

use hearth_protocol::Epoch;
use region_model::ownership::{
    Append, Flaw, Goal, Held, LineEntry, LossStatement, Migration, Opener, Placing, Progress, Race, Replica, Rules,
    Said, Stage, Standing, StoreAge, Trust, after_lost_race, judge_store, missing_from, promised_above, way_back,
};

use crate::entry::{Packet, insert};
use crate::world::{Acked, Bounds, Region, World, short};

/// One event. Regions are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A client sends a message to a home, or sends it again.
    Send { home: u8, message: u8 },
    /// A packet arrives.
    Deliver { to: u8, packet: Packet },
    /// A lease runs out at its holder.
    Lapse(u8),
    /// A region gets a lease, for the generation that the map knows.
    Renew(u8),
    /// A process dies and starts again: what is on disk stays.
    Crash(u8),
    /// A region opens the epoch that the placement names it for.
    Open(u8),
    /// The map ends a home's right, and a steward begins to open a new epoch.
    Fence,
    /// A voter gets the steward's seal, and the steward its answer.
    Seal(u8),
    /// The steward places a winner.
    Place(u8),
    /// A home takes back what a region holds apart.
    Readmit { home: u8, from: u8 },
    /// A home begins a move to a target of the bounds.
    MoveBegin(u8),
    /// The old home seals itself.
    MoveSeal(u8),
    /// The move's placement is appended.
    MovePlace(u8),
    /// A home that sealed itself places itself again.
    WayBack(u8),
    /// A voter promises an epoch to a steward that never places: it lost its slot, or died.
    Stray(u8),
    /// A home hears that a voter promised a newer epoch, and seals itself at it.
    GiveWay(u8),
    /// A region that is named home of an epoch below its promise begins to open a newer one.
    OpenAbove(u8),
    /// A region's store is lost: an empty or an older one comes, and the region is a new incarnation if it is noticed.
    Replace(u8),
    /// A new incarnation subscribes at the home that the placement names.
    Join(u8),
}

impl World {
    pub(crate) fn list_actions(&self, bounds: &Bounds, actions: &mut Vec<Action>) {
        for region in 0..bounds.regions {
            self.list_region(bounds, region, actions);
        }
        for packet in &self.net {
            for to in 0..bounds.regions {
                if self.is_addressed(*packet, to, bounds) {
                    actions.push(Action::Deliver { to, packet: *packet });
                }
            }
        }
        let home = &self.regions[usize::from(self.placing.home)];
        let fenced = self.fenced(self.placing.home, self.placing.generation);
        if self.opener.is_none()
            && self.counts.failovers < bounds.failovers
            && (home.lease.is_none() || bounds.wrong_clocks || bounds.lapse_with_fence || fenced)
        {
            actions.push(Action::Fence);
        }
        if let Some(opener) = &self.opener {
            actions.extend(opener.unsealed().map(|voter| Action::Seal(*voter)));
            let raced = opener.replaces().epoch() != self.placing.epoch();
            let winners = if raced { vec![self.placing.home] } else { opener.winners(bounds) };
            actions.extend(winners.into_iter().map(Action::Place));
        }
    }

    fn list_region(&self, bounds: &Bounds, region: u8, actions: &mut Vec<Action>) {
        let at = &self.regions[usize::from(region)];
        let standing = at.replica.standing();
        if at.home.is_some() && at.may_sequence(bounds) {
            let messages = 1..=bounds.sendable(&self.net);
            actions.extend(messages.map(|message| Action::Send { home: region, message }));
            let apart = !bounds.wrong_clocks && !bounds.lapse_with_fence;
            if self.counts.failovers < bounds.failovers && apart {
                actions.push(Action::Lapse(region));
            }
            if bounds.readmission {
                let holders = (0..bounds.regions).filter(|from| !self.regions[usize::from(*from)].tails.is_empty());
                actions.extend(holders.map(|from| Action::Readmit { home: region, from }));
            }
            if self.counts.moves < bounds.moves.count && at.moving.is_none() && self.placing.home == region {
                actions.extend((0..short(bounds.moves.targets.len() as u64)).map(Action::MoveBegin));
            }
        }
        if at.lease.is_none() {
            actions.push(Action::Renew(region));
        }
        if self.counts.crashes < bounds.crashes {
            actions.push(Action::Crash(region));
        }
        if self.counts.replacements < bounds.replacements.count && standing.accepted > Epoch(0) {
            actions.push(Action::Replace(region));
        }
        if standing.trust == Trust::Joining(None) && self.open_home().is_some() && self.placing.home != region {
            actions.push(Action::Join(region));
        }
        let named = self.placing.home == region;
        if named && at.home.as_ref().is_none_or(|(home, _)| home.epoch() < self.placing.epoch()) {
            actions.push(Action::Open(region));
        }
        if let Some(moving) = &at.moving {
            let copying = *moving.stage() == Stage::Copying;
            actions.push(if copying { Action::MoveSeal(region) } else { Action::MovePlace(region) });
        }
        if (bounds.moves.count > 0 || bounds.strays > 0) && named && standing.accepted == self.placing.epoch() {
            actions.push(Action::WayBack(region));
        }
        if self.counts.strays < bounds.strays && self.placing.voters.contains(&region) {
            actions.push(Action::Stray(region));
        }
        if bounds.strays > 0 {
            actions.extend([Action::GiveWay(region), Action::OpenAbove(region)]);
        }
    }

    /// Whether a packet can change anything at a region.
    fn is_addressed(&self, packet: Packet, to: u8, bounds: &Bounds) -> bool {
        let at = &self.regions[usize::from(to)];
        let home = at.home.as_ref().map(|(home, _)| home.epoch());
        match packet {
            // A home takes nothing of its own or an older epoch, whatever the rules for replicas are.
            Packet::Append { opening, .. } | Packet::Mark { opening, .. } => {
                home.is_none_or(|mine| mine < opening.epoch)
            }
            Packet::Holds { from, accepted, .. } => {
                let mine = Epoch(u64::from(accepted));
                from != to && (home == Some(mine) || home.is_some_and(|_| bounds.has(Flaw::CountUnaccepted)))
            }
        }
    }

    /// Does it. Returns whether it was possible.
    pub(crate) fn perform(&mut self, bounds: &Bounds, action: Action) -> bool {
        match action {
            Action::Send { home, message } => self.send(bounds, home, message),
            Action::Deliver { to, packet } => self.deliver(bounds, to, packet),
            Action::Lapse(region) => self.region(region).lease.take().is_some(),
            Action::Renew(region) => {
                let generation = self.generations[usize::from(region)];
                self.region(region).lease = Some(generation);
                self.settle(bounds, region);
                true
            }
            Action::Crash(region) => self.crash(bounds, region),
            Action::Open(region) => self.open(bounds, region),
            Action::Fence => self.fence(bounds),
            Action::Seal(voter) => self.seal(bounds, voter),
            Action::Place(winner) => self.place(bounds, winner),
            Action::Readmit { home, from } => self.readmit(bounds, home, from),
            Action::MoveBegin(target) => self.move_begin(bounds, target),
            Action::MoveSeal(region) => self.move_seal(bounds, region),
            Action::MovePlace(region) => self.move_place(bounds, region),
            Action::WayBack(region) => self.way_back(bounds, region),
            Action::Stray(voter) => self.stray(bounds, voter),
            Action::GiveWay(region) => self.give_way(bounds, region),
            Action::OpenAbove(region) => self.open_above(bounds, region),
            Action::Replace(region) => self.replace(bounds, region),
            Action::Join(region) => self.join(bounds, region),
        }
    }

    fn send(&mut self, bounds: &Bounds, home: u8, message: u8) -> bool {
        if !self.regions[usize::from(home)].may_sequence(bounds) {
            return false;
        }
        if !self.knows(bounds, home, message) {
            let at = &self.regions[usize::from(home)];
            // Without dedup a log grows for ever: one repetition shows enough.
            let room = at.log.len() <= bounds.messages.len() && self.may_place(bounds, home, message);
            return room && self.number(bounds, home, message);
        }
        let at = &self.regions[usize::from(home)];
        let Some((epoch, _)) = &at.home else { return false };
        let (standing, length) = (at.replica.standing(), at.log.len() as u64);
        let found = at.log.iter().chain(&at.outlived).find(|entry| entry.id() == Some(message)).copied();
        let found = found.filter(|entry| epoch.may_ack_retry(standing, entry, length, true, bounds));
        let epoch = epoch.epoch();
        if let Some(entry) = found {
            self.ack(home, epoch, entry);
        }
        true
    }

    pub(crate) fn deliver(&mut self, bounds: &Bounds, to: u8, packet: Packet) -> bool {
        match packet {
            Packet::Append { opening, entry } => {
                let mut opening = opening;
                if bounds.has(Flaw::MoveCopyAccepts) {
                    self.pretend_move(&mut opening);
                }
                self.take(bounds, to, &Append { epoch: opening.epoch, opening, entries: vec![entry], mark: 0 });
            }
            Packet::Mark { opening, mark } => {
                let append = Append { epoch: opening.epoch, opening, entries: Vec::new(), mark: u64::from(mark) };
                self.take(bounds, to, &append);
            }
            Packet::Holds { from, accepted, length, counts } => {
                let said = (Epoch(u64::from(accepted)), u64::from(length), counts);
                let at = self.region(to);
                let standing = at.replica.standing();
                if let Some((home, _)) = &mut at.home {
                    home.handle_holds(standing, &from, said, bounds);
                }
                if let Some(moving) = &mut at.moving {
                    moving.handle_holds(&from, said.0, said.1, said.2);
                }
                self.settle(bounds, to);
            }
        }
        true
    }

    fn crash(&mut self, bounds: &Bounds, region: u8) -> bool {
        self.counts.crashes += 1;
        let at = self.region(region);
        let mut standing = at.replica.standing().clone();
        if bounds.seal_forgotten {
            standing.sealed = standing.accepted;
        }
        at.replica = Replica::new(standing);
        at.home = None;
        at.moving = None;
        at.lease = None;
        true
    }

    fn fence(&mut self, bounds: &Bounds) -> bool {
        self.counts.failovers += 1;
        if !self.fenced(self.placing.home, self.placing.generation) {
            self.generations[usize::from(self.placing.home)] += 1;
            if bounds.lapse_with_fence {
                let generation = self.generations[usize::from(self.placing.home)];
                self.region(self.placing.home).lease = Some(generation);
            }
        }
        let placing = self.placing.clone();
        let above = placing.epoch();
        self.opener = Some(Opener::begin(placing, above, bounds.lowest, bounds.accept_loss));
        true
    }

    fn seal(&mut self, bounds: &Bounds, voter: u8) -> bool {
        let Some(mut opener) = self.opener.take() else { return false };
        let at = self.region(voter);
        let Ok(step) = at.replica.handle_seal(at.log.as_slice(), opener.epoch(), bounds) else {
            unreachable!("a log in memory has all hashes")
        };
        let last_epoch = at.log.as_slice().last_epoch().unwrap_or_default();
        self.commit(bounds, voter, step.write);
        for said in step.then {
            let progress = match said {
                Said::Sealed { epoch, accepted, length, last, counts } => {
                    opener.handle_sealed(&voter, epoch, (accepted, length, last), last_epoch, counts, bounds)
                }
                Said::Newer { sealed } => opener.handle_newer(sealed),
                _ => unreachable!("a seal has two answers"),
            };
            if let Progress::BackOff(above) = progress {
                // The steward looks at the placement again before it goes on.
                let fenced = self.fenced(self.placing.home, self.placing.generation);
                let again = Opener::begin(self.placing.clone(), above, bounds.lowest, bounds.accept_loss);
                self.opener = (fenced || self.is_named_in_vain(bounds)).then_some(again);
                return true;
            }
        }
        self.opener = Some(opener);
        true
    }

    fn place(&mut self, bounds: &Bounds, winner: u8) -> bool {
        let Some(opener) = self.opener.take() else { return false };
        if opener.replaces().epoch() != self.placing.epoch() {
            let fenced = self.fenced(self.placing.home, self.placing.generation);
            if let Race::Again(above) = after_lost_race(&self.placing, fenced, false, bounds) {
                self.opener = Some(Opener::begin(self.placing.clone(), above, bounds.lowest, bounds.accept_loss));
            }
            return true;
        }
        let generation = u64::from(self.generations[usize::from(winner)]);
        let Some(placing) = opener.place(&winner, generation) else { return false };
        let loss = opener.loss(&winner);
        let line = &self.regions[usize::from(winner)].log;
        let old = &self.regions[usize::from(opener.replaces().home)];
        let had = |acked: &Acked| {
            let entry = old.log.get(usize::from(acked.sequence));
            entry.is_some_and(|entry| entry.epoch == acked.epoch && entry.message == acked.message)
        };
        // Before it loses its store, the home that is replaced has all that was acked under its epoch.
        let unnamed = old.replica.standing().accepted == opener.replaces().epoch()
            && self.acks.iter().filter(|acked| had(acked)).any(|acked| {
                let kept = line.iter().any(|entry| entry.message == acked.message);
                let copies = acked.level.copies(placing.voters.len());
                let at = (Epoch(u64::from(acked.epoch)), u64::from(acked.sequence));
                let named = |loss: LossStatement| loss.names(at.0, at.1, copies);
                !kept && !loss.is_some_and(named)
            });
        self.alarms.unnamed_loss |= unnamed;
        assert!(placing.may_replace(opener.replaces().epoch(), &self.placing));
        self.placing = placing;
        true
    }

    fn readmit(&mut self, bounds: &Bounds, home: u8, from: u8) -> bool {
        if !self.regions[usize::from(home)].may_sequence(bounds) {
            return false;
        }
        let tails = self.regions[usize::from(from)].tails.clone();
        for tail in &tails {
            let missing: Vec<u8> =
                missing_from(tail, |id| self.knows(bounds, home, *id)).into_iter().map(|entry| entry.message).collect();
            for message in missing {
                if self.regions[usize::from(home)].log.len() > bounds.messages.len() {
                    return false;
                }
                self.readmitted |= self.number(bounds, home, message);
            }
        }
        true
    }
}

impl World {
    fn move_begin(&mut self, bounds: &Bounds, target: u8) -> bool {
        let (target, voters) = bounds.moves.targets[usize::from(target)].clone();
        let home = self.placing.home;
        let joining = |region: &u8| self.regions[usize::from(*region)].replica.standing().trust != Trust::Full;
        let Ok(moving) = Migration::begin(self.placing.clone(), target, voters, joining) else { return false };
        self.counts.moves += 1;
        self.region(home).moving = Some(moving);
        true
    }

    fn move_seal(&mut self, bounds: &Bounds, region: u8) -> bool {
        let at = self.region(region);
        let (Some(moving), Some((home, _))) = (&mut at.moving, &at.home) else { return false };
        let Ok(step) = moving.seal_self(home, &mut at.replica, at.log.as_slice(), bounds) else {
            at.moving = None;
            return true;
        };
        self.commit(bounds, region, step.write);
        true
    }

    fn move_place(&mut self, bounds: &Bounds, region: u8) -> bool {
        let Some(moving) = self.region(region).moving.take() else { return false };
        if moving.replaces().epoch() != self.placing.epoch() {
            return self.move_lost(bounds, region, &moving);
        }
        let generation = u64::from(self.generations[usize::from(*moving.target())]);
        match moving.place(&region, bounds.highest(), generation, bounds) {
            Some(placing) => self.placing = placing,
            None => {
                self.region(region).moving = Some(moving);
                return false;
            }
        }
        if !bounds.has(Flaw::CountAfterSeal) {
            self.forget_home(region);
        }
        true
    }

    /// Another placement came first.
    fn move_lost(&mut self, bounds: &Bounds, region: u8, moving: &Migration<u8, u32>) -> bool {
        let won = self.placing.clone();
        let fenced = self.fenced(won.home, won.generation);
        // The steward sees to a fenced home; a mover goes on for a home only under a wrong reading.
        if let Race::Again(above) = after_lost_race(&won, false, false, bounds)
            && !fenced
        {
            let generation = u64::from(self.generations[usize::from(*moving.target())]);
            if let Some(placing) = moving.place(&region, bounds.highest(), generation, bounds) {
                let mut opening = placing.opening;
                opening.epoch = Epoch(above.0 + 1);
                self.placing = Placing { opening, ..placing };
            }
        }
        self.forget_home(region);
        true
    }

    /// Drops what a closed home kept in memory for its move.
    fn forget_home(&mut self, region: u8) {
        let at = self.region(region);
        if at.home.as_ref().is_some_and(|(home, _)| at.replica.standing().sealed > home.epoch()) {
            at.home = None;
        }
    }

    /// The wrong reading: the copies of a move are stored under the new epoch.
    fn pretend_move(&self, opening: &mut region_model::ownership::OpeningAt<u32>) {
        let sealed =
            self.regions.iter().filter_map(|region| region.moving.as_ref()).find_map(|moving| match moving.stage() {
                Stage::Sealed { opening, .. } => Some(*opening),
                Stage::Copying => None,
            });
        if let Some(new) = sealed.filter(|new| new.epoch.0 == opening.epoch.0 + 1) {
            *opening = new;
        }
    }

    fn way_back(&mut self, bounds: &Bounds, region: u8) -> bool {
        let at = &self.regions[usize::from(region)];
        let Ok(placing) = way_back(&region, &self.placing, at.right(), &at.replica, at.log.as_slice(), bounds) else {
            return false;
        };
        let Some(placing) = placing else { return false };
        assert!(placing.may_replace(self.placing.epoch(), &self.placing));
        self.placing = placing;
        self.region(region).moving = None;
        self.forget_home(region);
        true
    }

    /// A steward that nobody hears of again asks for a promise above all that is under way.
    fn stray(&mut self, bounds: &Bounds, voter: u8) -> bool {
        self.counts.strays += 1;
        let under_way = self.opener.as_ref().map(Opener::epoch).unwrap_or_default();
        let epoch = Epoch(self.placing.epoch().max(under_way).0 + 1);
        let at = self.region(voter);
        let Ok(step) = at.replica.handle_seal(at.log.as_slice(), epoch, bounds) else {
            unreachable!("a log in memory has all hashes")
        };
        self.commit(bounds, voter, step.write);
        true
    }

    /// What a voter promised is said to the home of an older epoch whenever that sends, so at any time.
    fn give_way(&mut self, bounds: &Bounds, region: u8) -> bool {
        let at = &self.regions[usize::from(region)];
        let Some((home, _)) = &at.home else { return false };
        let voters = self.placing.voters.iter().filter(|voter| **voter != region);
        let newest = voters.map(|voter| self.regions[usize::from(*voter)].replica.standing().sealed).max();
        let Some(newest) = newest.filter(|newest| *newest > home.epoch()) else { return false };
        let Some(write) = self.region(region).replica.give_way(newest) else { return false };
        self.commit(bounds, region, Some(write));
        true
    }

    /// Whether the placement names a region that promised a newer epoch before it opened.
    pub(crate) fn is_named_in_vain(&self, bounds: &Bounds) -> bool {
        let at = &self.regions[usize::from(self.placing.home)];
        promised_above(&self.placing.home, &self.placing, at.right(), at.replica.standing(), bounds).is_some()
    }

    fn open_above(&mut self, bounds: &Bounds, region: u8) -> bool {
        let at = &self.regions[usize::from(region)];
        let promised = promised_above(&region, &self.placing, at.right(), at.replica.standing(), bounds);
        let Some(promised) = promised.filter(|_| self.opener.is_none()) else { return false };
        self.opener = Some(Opener::begin(self.placing.clone(), promised, bounds.lowest, bounds.accept_loss));
        true
    }

    /// A store is lost. The map counts the new incarnation, unless the older copy goes unnoticed.
    fn replace(&mut self, bounds: &Bounds, region: u8) -> bool {
        self.counts.replacements += 1;
        let older = bounds.replacements.older;
        let mine = (if older { 1u8 } else { 2 }, if older { 0 } else { 1 });
        let age = judge_store(Some(&(1, 1)), &mine);
        let known = age == StoreAge::Same || bounds.has(Flaw::OldStoreUnnoticed);
        let before = self.regions[usize::from(region)].clone();
        let mut at = Region { lease: None, ..Region::empty() };
        if older {
            // Yesterday's copy: one entry less, and nothing promised or accepted since its last one.
            at.log = before.log;
            at.log.pop();
            let epoch = at.log.as_slice().last_epoch().unwrap_or_default();
            let mut standing = Standing { sealed: epoch, accepted: epoch, ..Standing::empty() };
            standing.openings.extend(before.replica.standing().openings.iter().filter(|o| o.epoch <= epoch));
            at.replica = Replica::new(standing);
        }
        if !known {
            let step = at.replica.begin_joining();
            *self.region(region) = at;
            self.commit(bounds, region, step.write);
            self.generations[usize::from(region)] += 1;
        } else {
            *self.region(region) = at;
        }
        true
    }

    fn join(&mut self, bounds: &Bounds, region: u8) -> bool {
        let Some(home) = self.open_home() else { return false };
        let length = home.log.len() as u64;
        let last = home.log.as_slice().hash_before(length).ok().flatten().unwrap_or(0);
        let goal = Goal { epoch: self.placing.epoch(), length, last };
        let at = self.region(region);
        let Ok(step) = at.replica.handle_joined(at.log.as_slice(), goal, bounds) else {
            unreachable!("a log in memory has all hashes")
        };
        self.commit(bounds, region, step.write);
        if let Some(Said::Holds { accepted, length, counts }) = step.then.last().cloned() {
            let (accepted, length) = (short(accepted.0), short(length));
            insert(&mut self.net, Packet::Holds { from: region, accepted, length, counts });
        }
        true
    }
}
