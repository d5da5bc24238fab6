//! What each fault does to the mesh, and how it ends.

use hearth_protocol::RegionId;
use region_model::Input;

use crate::clients::Waits;
use crate::history;
use crate::plan::{FaultKind, SECOND};
use crate::world::{Event, World};

impl World {
    pub(crate) fn fault(&mut self, index: usize) {
        let fault = self.plan.faults[index];
        self.trace.add(self.now, fault.kind.name(), u64::from(fault.number), fault.lasts);
        self.history.add(self.now, history::Event::FaultBegins(fault.number, fault.kind.name()));
        self.push_troubled(fault.kind, true);
        self.typing_troubled(fault.kind, true);
        self.explain_troubled(fault.kind);
        match fault.kind {
            FaultKind::Cut(one, other) => {
                self.cut(one, other);
                self.cut(other, one);
            }
            FaultKind::CutOneWay(from, to) => self.cut(from, to),
            FaultKind::Isolate(region) => self.for_all_links(region, |world, from, to| world.cut(from, to)),
            FaultKind::Loss(one, other, percent) => {
                self.links.weather(one, other).loss = percent;
                self.links.weather(other, one).loss = percent;
            }
            FaultKind::Duplicate(one, other) => {
                self.links.weather(one, other).duplicates += 1;
                self.links.weather(other, one).duplicates += 1;
            }
            FaultKind::Reorder(one, other) => {
                self.links.weather(one, other).late += 1;
                self.links.weather(other, one).late += 1;
            }
            FaultKind::Crash(region) => self.goes_down(region, false),
            FaultKind::PowerCut(region) => self.goes_down(region, true),
            FaultKind::Pause(region) => {
                self.regions[region].paused += 1;
                self.notices_of_all(region);
            }
            FaultKind::SlowDisk(region, times) => self.regions[region].slow = times,
            FaultKind::FailedSync(region) => {
                self.regions[region].fail_sync = self.regions[region].core.is_some();
                self.regions[region].down += 1;
            }
            FaultKind::ClockJump(region, by) => self.regions[region].clock.jump = by,
            FaultKind::Disconnect(region) => self.drop_sessions(region),
            FaultKind::Move(conversation, region) => self.move_home(conversation, region),
            FaultKind::Drain(region) => self.drain(region),
            FaultKind::StoreLost(region) | FaultKind::StoreRestored(region, _) => self.goes_down(region, true),
            FaultKind::Voters(conversation, first, count) => self.change_voters(conversation, first, count),
            FaultKind::Erase(client, conversation) => self.erase(client, conversation),
            FaultKind::Floor(conversation, percent) => self.raise_floor(conversation, percent),
            FaultKind::FenceByHand(region) => {
                self.for_all_links(region, |world, from, to| world.cut(from, to));
                self.after(SECOND / 2, Event::FenceByHand(region, self.now + fault.lasts));
            }
            FaultKind::PowerCutAt(region, aim) => self.regions[region].target.aim = Some(aim),
            FaultKind::DrainNode(region, seconds) => self.drain_node(region, seconds),
        }
        self.after(fault.lasts, Event::FaultEnds(index));
    }

    pub(crate) fn fault_ends(&mut self, index: usize) {
        let fault = self.plan.faults[index];
        self.history.add(self.now, history::Event::FaultEnds(fault.number));
        self.push_troubled(fault.kind, false);
        self.typing_troubled(fault.kind, false);
        self.explain_troubled(fault.kind);
        match fault.kind {
            FaultKind::Cut(one, other) => {
                self.heal(one, other);
                self.heal(other, one);
            }
            FaultKind::CutOneWay(from, to) => self.heal(from, to),
            FaultKind::Isolate(region) | FaultKind::FenceByHand(region) => {
                self.for_all_links(region, |world, from, to| world.heal(from, to));
            }
            FaultKind::Loss(one, other, _) => {
                self.links.weather(one, other).loss = 0;
                self.links.weather(other, one).loss = 0;
            }
            FaultKind::Duplicate(one, other) => {
                self.links.weather(one, other).duplicates -= 1;
                self.links.weather(other, one).duplicates -= 1;
            }
            FaultKind::Reorder(one, other) => {
                self.links.weather(one, other).late -= 1;
                self.links.weather(other, one).late -= 1;
            }
            FaultKind::Crash(region) | FaultKind::PowerCut(region) => self.comes_up(region),
            FaultKind::FailedSync(region) => {
                self.regions[region].fail_sync = false;
                self.comes_up(region);
            }
            FaultKind::Pause(region) => {
                self.regions[region].paused -= 1;
                if self.regions[region].paused == 0 {
                    for event in std::mem::take(&mut self.regions[region].held) {
                        self.after(0, event);
                    }
                }
            }
            FaultKind::SlowDisk(region, _) => self.regions[region].slow = 1,
            FaultKind::ClockJump(region, _) => self.regions[region].clock.jump = 0,
            FaultKind::StoreLost(region) => {
                self.replace_store(region, None);
                self.comes_up(region);
            }
            FaultKind::StoreRestored(region, seconds) => {
                self.replace_store(region, Some(fault.at.saturating_sub(seconds * SECOND)));
                self.comes_up(region);
            }
            FaultKind::PowerCutAt(region, _) => {
                let target = std::mem::take(&mut self.regions[region].target);
                if target.hit {
                    self.comes_up(region);
                }
            }
            FaultKind::DrainNode(region, _) => self.node_serves(region),
            FaultKind::Disconnect(_)
            | FaultKind::Move(..)
            | FaultKind::Drain(_)
            | FaultKind::Voters(..)
            | FaultKind::Erase(..)
            | FaultKind::Floor(..) => {}
        }
    }

    fn for_all_links(&mut self, region: usize, what: impl Fn(&mut Self, usize, usize)) {
        for peer in (0..self.regions.len()).filter(|peer| *peer != region) {
            what(self, region, peer);
            what(self, peer, region);
        }
    }

    pub(crate) fn goes_down(&mut self, region: usize, power: bool) {
        self.regions[region].down += 1;
        if self.regions[region].core.is_some() {
            self.crash(region, power);
        }
    }

    fn comes_up(&mut self, region: usize) {
        let of = &mut self.regions[region];
        of.down = of.down.saturating_sub(1);
        if of.down == 0 && of.core.is_none() {
            self.start(region);
        }
    }

    /// The region that a conversation's home is, as the newest placement on a disk says.
    pub(crate) fn home_of(&self, conversation: usize) -> Option<usize> {
        let log = self.conversations[conversation].log;
        let placements = self.regions.iter().filter_map(|region| region.disk.placement(log));
        let newest = placements.max_by_key(|placement| placement.epoch)?;
        self.place_of(&newest.home)
    }

    fn move_home(&mut self, conversation: usize, to: usize) {
        let conversation = conversation % self.conversations.len().max(1);
        let Some(home) = self.home_of(conversation).filter(|home| *home != to && self.regions[*home].runs()) else {
            return;
        };
        let log = self.conversations[conversation].log;
        let to: RegionId = self.regions[to].id.clone();
        let reply = self.number();
        self.tickets.insert(reply, Waits::Move);
        self.trace.count(self.now, "move-asked", conversation as u64, home as u64);
        self.input(home, Input::Move { log, to, reply });
    }

    /// A conversation is to have so many voters, from a region on, its home among them if that is one of these.
    fn change_voters(&mut self, conversation: usize, first: usize, count: usize) {
        let conversation = conversation % self.conversations.len().max(1);
        let Some(home) = self.home_of(conversation).filter(|home| self.regions[*home].runs()) else { return };
        let all = self.regions.len();
        let places: Vec<usize> = (0..count.min(all)).map(|step| (first + step) % all).collect();
        let to = if places.contains(&home) { home } else { places[0] };
        let voters: Vec<RegionId> = places.into_iter().map(|place| self.regions[place].id.clone()).collect();
        let (log, to) = (self.conversations[conversation].log, self.regions[to].id.clone());
        let reply = self.number();
        self.tickets.insert(reply, Waits::Move);
        self.trace.count(self.now, "voters-asked", conversation as u64, home as u64);
        self.input(home, Input::ChangeVoters { log, to, voters, reply });
    }

    /// Every home of a region moves to the next one.
    fn drain(&mut self, region: usize) {
        let to = (region + 1) % self.regions.len();
        for conversation in 0..self.conversations.len() {
            if self.home_of(conversation) == Some(region) {
                self.move_home(conversation, to);
            }
        }
    }
}
