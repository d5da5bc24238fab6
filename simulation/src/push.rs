//! Push in a run: the decisions that ship, driven as `region-core/src/push.rs` drives them. What it looks at, draws and
//! sends is apart from the chat's, so that a seed's chat stays as it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hearth_protocol::{LogId, LogKind, MessageId, RegionId, SealedEntry, UserId, mesh};
use region_model::LogView;
use region_model::line::Line;
use region_model::push::ports::PushJob;
use region_model::push::{
    Desk, Due, FirstWanted, Kept, Offering, Offers, PushTimes, Records, Screens, Turn, Watchers, Wish, concerns_push,
    decides_under, wire,
};
use region_model::view::View;

use crate::history;
use crate::network::Aside;
use crate::plan::{FaultKind, SECOND};
use crate::wishes::Wishes;
use crate::world::World;

/// Users of all watches of a region.
const WATCHED: usize = 4_000_000;
/// Rows of one frame.
const ROWS: u64 = 256;
/// Conversations that are offered in one round.
const LOGS: usize = 64;
/// Wishes said again in one round.
const WISHES: usize = 256;
/// A page of what is watched is looked at this often.
const SWEEP: u64 = 5 * SECOND;
/// Watched conversations looked at in one sweep.
const SWEPT: usize = 1_024;
/// How long a push may wait for its device, in milliseconds.
const LIVES: u64 = 24 * 3_600_000;

/// What the run keeps of it.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) aside: Aside,
    /// What is on the screen of a connection, and since when.
    pub(crate) screens: BTreeMap<u64, (usize, u64)>,
    /// Faults that trouble a region, and when that changed last.
    troubles: Vec<(u32, u64)>,
    /// When a link, a region, a home or what a user wants changed last.
    pub(crate) changed: u64,
    pub(crate) wishes: Wishes,
    /// What homes of conversations showed when they said where they begin for a user.
    shown: BTreeMap<(LogId, UserId), u64>,
}

impl Push {
    pub(crate) fn new(seed: u64, regions: usize) -> Self {
        let aside = Aside::new(seed, "push");
        let (screens, troubles) = (BTreeMap::new(), vec![(0, 0); regions]);
        Self { aside, screens, troubles, changed: 0, wishes: Wishes::new(seed), shown: BTreeMap::new() }
    }
}

/// What is in the memory of a region.
#[derive(Debug)]
pub(crate) struct PushTask {
    records: Records,
    watchers: Watchers,
    screens: Screens,
    /// Records to be looked at.
    touched: BTreeSet<LogId>,
    /// Conversations whose wishes are to be said again.
    again: BTreeSet<LogId>,
    /// Frames for this region itself.
    own: VecDeque<mesh::Push>,
    /// Records of which something may be kept still from an earlier process.
    unswept: BTreeSet<LogId>,
    swept: Option<LogId>,
    sweep_at: u64,
    /// Since when each user is decided for here.
    since: BTreeMap<UserId, u64>,
    /// When a push that a service did not take is tried again.
    pub(crate) tried: BTreeMap<(uuid::Uuid, hearth_protocol::ConversationId), u64>,
}

impl World {
    /// A region starts: all records are looked at.
    pub(crate) fn push_start(&mut self, place: usize) {
        let times = PushTimes::default();
        let now = self.now;
        let region = &mut self.regions[place];
        let records: BTreeSet<LogId> =
            region.disk.logs.keys().filter(|log| log.kind == LogKind::User).copied().collect();
        region.push = Some(PushTask {
            records: Records::new(Desk::new(times)),
            watchers: Watchers::new(WATCHED),
            screens: Screens::new(times.view_counts / 3, now / 1_000),
            touched: records.clone(),
            again: BTreeSet::new(),
            own: VecDeque::new(),
            unswept: records,
            swept: None,
            sweep_at: now + SWEEP,
            since: BTreeMap::new(),
            tried: BTreeMap::new(),
        });
        self.push.changed = now;
        self.push.troubles[place].1 = now;
    }

    /// A fault begins or ends: what stands between its regions is judged anew.
    pub(crate) fn push_troubled(&mut self, kind: FaultKind, begins: bool) {
        let places = match kind {
            FaultKind::Cut(one, other)
            | FaultKind::CutOneWay(one, other)
            | FaultKind::Loss(one, other, _)
            | FaultKind::Duplicate(one, other)
            | FaultKind::Reorder(one, other) => vec![one, other],
            FaultKind::Isolate(_) | FaultKind::FenceByHand(_) => (0..self.regions.len()).collect(),
            FaultKind::Crash(region)
            | FaultKind::PowerCut(region)
            | FaultKind::Pause(region)
            | FaultKind::SlowDisk(region, _)
            | FaultKind::FailedSync(region)
            | FaultKind::ClockJump(region, _)
            | FaultKind::StoreLost(region)
            | FaultKind::StoreRestored(region, _)
            | FaultKind::PowerCutAt(region, _) => vec![region],
            FaultKind::Disconnect(_)
            | FaultKind::DrainNode(..)
            | FaultKind::Move(..)
            | FaultKind::Drain(_)
            | FaultKind::Voters(..)
            | FaultKind::Erase(..)
            | FaultKind::Floor(..) => Vec::new(),
        };
        for place in places {
            let (troubles, changed) = &mut self.push.troubles[place];
            *troubles = if begins { *troubles + 1 } else { troubles.saturating_sub(1) };
            *changed = self.now;
            self.push.changed = self.now;
        }
    }

    /// Since when nothing has stood between two regions; `None`: something does.
    pub(crate) fn untroubled(&self, one: usize, other: usize) -> Option<u64> {
        let of = |place: usize| self.push.troubles.get(place).filter(|(troubles, _)| *troubles == 0);
        Some(of(one)?.1.max(of(other)?.1))
    }

    pub(crate) fn push_link(&mut self, place: usize, peer: usize, up: bool) {
        self.push.changed = self.now;
        self.push.troubles[place].1 = self.now;
        let (peer, now) = (self.regions[peer].id.clone(), self.now / 1_000);
        let Some(task) = &mut self.regions[place].push else { return };
        if up {
            let mut after = None;
            loop {
                let page = task.records.desk.logs_after(after, WISHES);
                after = page.last().copied();
                if after.is_none() {
                    break;
                }
                task.again.extend(page);
            }
            task.screens.all_again(now);
        } else {
            task.watchers.lost(&peer);
        }
    }

    pub(crate) fn push_home_changed(&mut self, place: usize, log: LogId) {
        self.push.changed = self.now;
        self.trace.count(self.now, "home-changed", place as u64, 0);
        let Some(task) = &mut self.regions[place].push else { return };
        if log.kind == LogKind::User {
            task.touched.insert(log);
        } else if log.kind == LogKind::Conversation {
            task.again.insert(log);
        }
    }

    pub(crate) fn push_user_changed(&mut self, place: usize, log: LogId, entry: &SealedEntry) {
        self.trace.count(self.now, "user-changed", place as u64, entry.sequence().0);
        if let Some(task) = self.regions[place].push.as_mut().filter(|_| concerns_push(entry)) {
            task.touched.insert(log);
        }
    }

    pub(crate) fn push_delivered(&mut self, place: usize, log: LogId) {
        if let Some(task) = &mut self.regions[place].push {
            task.watchers.delivered(log);
        }
    }

    /// A cursor of a user grew at a region.
    pub(crate) fn push_read(&mut self, place: usize, log: LogId, user: &UserId) {
        if let Some(task) = &mut self.regions[place].push {
            task.watchers.read(log, user);
        }
    }

    /// Does what is due in a region.
    pub(crate) fn push_round(&mut self, place: usize) {
        if self.regions[place].push.is_none() {
            return;
        }
        self.look_at_records(place);
        self.wish_again(place);
        self.offer_round(place);
        self.decide_due(place);
        self.screens_round(place);
        self.send_pushes(place);
        let now = self.now;
        if let Some(task) = self.regions[place].push.as_mut().filter(|task| task.sweep_at <= now) {
            task.sweep_at = now + SWEEP;
            let page = task.records.desk.logs_after(task.swept, SWEPT);
            task.swept = page.last().copied().filter(|_| page.len() == SWEPT);
            task.again.extend(page);
            self.exchange_reads(place);
        }
        self.own_frames(place);
    }

    fn own_frames(&mut self, place: usize) {
        while let Some(frame) = self.regions[place].push.as_mut().and_then(|task| task.own.pop_front()) {
            self.push_frame(place, place, &frame);
        }
    }

    fn look_at_records(&mut self, place: usize) {
        while let Some(record) = self.regions[place].push.as_mut().and_then(|task| task.touched.pop_first()) {
            self.look_at_record(place, record);
        }
    }

    fn look_at_record(&mut self, place: usize, record: LogId) {
        let view = self.look(place, record, true);
        let View::User(state) = &view.view else { return };
        let Some(state) = self.with_blocks(state) else { return };
        let (now, wall) = (self.now, self.now_of(place).wall);
        let region = &mut self.regions[place];
        let Some(task) = &mut region.push else { return };
        task.screens.again(&state.user);
        let unswept = task.unswept.remove(&record);
        let epoch = decides_under(&region.id, &view, &state);
        let turn = match epoch {
            Some(epoch) => {
                let mut kept: BTreeMap<LogId, Kept> = BTreeMap::new();
                let rows = region.disk.push_kept.iter().filter(|((of, _), _)| *of == record);
                let rows: Vec<_> = rows.map(|(key, row)| (*key, row.clone())).collect();
                if !task.records.knows(&state.user) {
                    for (key, (under, row)) in rows {
                        if under == epoch {
                            kept.insert(key.1, row);
                        } else {
                            region.disk.keep_push(key, None);
                        }
                    }
                    task.since.insert(state.user.clone(), now);
                }
                task.records.take(&state, epoch, &kept, wall)
            }
            None if task.records.desk.has(&state.user) => {
                task.since.remove(&state.user);
                task.records.leave(&state.user)
            }
            None if unswept => {
                let rows: Vec<_> = region.disk.push_kept.keys().filter(|(of, _)| *of == record).copied().collect();
                rows.into_iter().for_each(|key| region.disk.keep_push(key, None));
                return;
            }
            None => return,
        };
        self.perform_push(place, turn);
        if let (None, Some(task)) = (epoch, &mut self.regions[place].push) {
            task.records.left(&state.user);
        }
    }

    fn wish_again(&mut self, place: usize) {
        let Some(task) = &mut self.regions[place].push else { return };
        let mut wishes = Vec::new();
        for _ in 0..WISHES {
            let Some(log) = task.again.pop_first() else { break };
            wishes.extend(Some(task.records.desk.wish(log)).filter(|wish| !wish.users.is_empty()));
        }
        self.send_wishes(place, wishes);
    }

    /// Each to the home of its conversation.
    fn send_wishes(&mut self, place: usize, wishes: Vec<Wish>) {
        let mut by_home: BTreeMap<RegionId, Vec<Wish>> = BTreeMap::new();
        for wish in wishes {
            let known = self.regions[place].disk.placement(wish.log).or_else(|| self.newest_placement(wish.log));
            let Some(home) = known.map(|placement| placement.home.clone()) else { continue };
            by_home.entry(home).or_default().push(wish);
        }
        for (home, wishes) in by_home {
            let Some(to) = self.place_of(&home) else { continue };
            wire::of_wishes(&wishes).into_iter().for_each(|frame| self.push_send(place, to, frame));
        }
    }

    pub(crate) fn push_send(&mut self, from: usize, to: usize, frame: mesh::Push) {
        if from == to {
            if let Some(task) = &mut self.regions[from].push {
                task.own.push_back(frame);
            }
            return;
        }
        self.send_aside(|world| &mut world.push.aside, "push", (from, to), mesh::Body::Push(frame));
    }

    pub(crate) fn push_frame(&mut self, place: usize, from: usize, frame: &mesh::Push) {
        let (peer, wall) = (self.regions[from].id.clone(), self.now_of(place).wall);
        for watch in &frame.watches {
            if let (Some(log), Some(task)) = (wire::conversation_of(&watch.log), &mut self.regions[place].push) {
                task.watchers.watch(log, peer.clone(), watch.fresh, wire::wanted(watch));
            }
        }
        for offered in &frame.offers {
            let Some(log) = wire::conversation_of(&offered.log) else { continue };
            let offers = wire::offers(offered);
            self.note_starts(place, log, &offers);
            let Some(task) = &mut self.regions[place].push else { return };
            let turn = task.records.desk.offers(log, &offers, wall);
            self.perform_push(place, turn);
        }
        for view in &frame.views {
            let (Some((user, device, log)), Some(task)) = (wire::viewed(view), &mut self.regions[place].push) else {
                continue;
            };
            let turn = task.records.desk.viewed(&user, (peer.clone(), device), log, wall);
            self.perform_push(place, turn);
        }
        self.own_frames(place);
    }

    /// Where it begins for users of whom the home of their record knows nothing.
    fn note_starts(&mut self, place: usize, log: LogId, offers: &Offers) {
        let Some(conversation) = log.as_conversation() else { return };
        for (user, at) in &offers.starts {
            let desk = self.regions[place].push.as_ref().map(|task| &task.records.desk);
            if desk.and_then(|desk| desk.kept(user, log)).is_none_or(|kept| kept.decided.is_some()) {
                continue;
            }
            let shown = self.push.shown.get(&(log, user.clone())).copied().unwrap_or(0);
            let event = history::Event::PushStart(user.clone(), conversation, *at, shown);
            self.history.add(self.now, event);
        }
    }

    fn offer_round(&mut self, place: usize) {
        let due = self.regions[place].push.as_ref().map(|task| task.watchers.due(LOGS)).unwrap_or_default();
        for log in due {
            let view = self.look(place, log, false);
            let me = self.regions[place].id.clone();
            let home = view.placement.as_ref().map(|placement| &placement.home);
            let is_home = home == Some(&me) && view.held;
            let Some(task) = &mut self.regions[place].push else { return };
            if !is_home {
                task.watchers.forget(log);
                continue;
            }
            for due in task.watchers.take(log) {
                self.offer(place, log, &view, &due);
            }
        }
    }

    fn offer(&mut self, place: usize, log: LogId, view: &LogView, due: &Due) {
        let wall = self.now_of(place).wall;
        let region = &self.regions[place];
        let Some(task) = &region.push else { return };
        let Some(users) = task.watchers.watched(log, &due.region) else { return };
        let line = Line::of(view);
        let firsts: Vec<u64> = due
            .asked
            .iter()
            .map(|wanted| {
                let known = task.watchers.known(log, &wanted.user);
                let mut first = FirstWanted::new(view, &line, wanted, known, wall);
                while let Some(probed) = first.probe() {
                    first.take(probed, region.disk.entry(log, probed).map(|entry| entry.entry.fixed.time));
                }
                first.found()
            })
            .collect();
        let offering = Offering::new(view, due, &firsts);
        let rows = region.disk.read(log, offering.from(), view.marked.min(offering.from() + ROWS));
        for wanted in &due.asked {
            self.push.shown.insert((log, wanted.user.clone()), view.marked);
        }
        let asked = due.asked.iter().map(|wanted| &wanted.user);
        let read: BTreeSet<&UserId> = asked.chain(&due.read).collect();
        let reads = read.into_iter().filter_map(|user| Some((user.clone(), region.reads.of(log, user)?))).collect();
        let (offers, more) = offering.with(view, users, rows.iter().map(AsRef::as_ref), reads);
        let nothing = offers.from == offers.to && offers.reads.is_empty() && !offers.begins;
        if let Some(task) = &mut self.regions[place].push {
            task.watchers.offered(log, &due.region, offers.to, more);
        }
        if let Some(to) = self.place_of(&due.region).filter(|_| !nothing) {
            self.push_send(place, to, wire::of_offers(log, &offers));
        }
    }

    /// Decides what is due, while the region has its lease.
    fn decide_due(&mut self, place: usize) {
        let now = self.now_of(place);
        let Some(task) = &mut self.regions[place].push else { return };
        if task.records.desk.due().is_some_and(|due| due <= now.wall) && now.right.leased {
            let turn = task.records.desk.elapsed(now.wall);
            self.perform_push(place, turn);
        }
    }

    /// What follows of decisions: first what is to be sent waits for that, then what is decided is kept.
    fn perform_push(&mut self, place: usize, turn: Turn) {
        let wall = self.now_of(place).wall;
        self.note_decisions(place, &turn);
        let region = &mut self.regions[place];
        for (user, subscriptions, push) in &turn.pushes {
            for job in PushJob::of(user, subscriptions, push, wall, LIVES) {
                region.disk.put_push((job.subscription, job.conversation), Some(job));
            }
        }
        let Some(task) = &region.push else { return };
        for (user, log) in &turn.kept {
            let kept = task.records.desk.kept(user, *log).map(|kept| (task.records.epoch(user), kept));
            region.disk.keep_push((LogId::user(user), *log), kept);
        }
        self.send_wishes(place, turn.wishes);
    }

    fn note_decisions(&mut self, place: usize, turn: &Turn) {
        let wall = self.now_of(place).wall;
        for (user, decision) in &turn.decisions {
            let Some(conversation) = decision.log.as_conversation() else { continue };
            let Some(task) = &self.regions[place].push else { return };
            let epoch = task.records.epoch(user).0;
            let since = task.since.get(user).copied();
            let in_view_since = since.and_then(|since| Some(self.in_view_since(place, user, decision.log)?.max(since)));
            self.trace.count(self.now, "push-decided", place as u64, decision.position.sequence.0);
            let event = history::Event::PushDecided {
                user: user.clone(),
                conversation,
                message: MessageId(decision.message),
                position: decision.position,
                withheld: decision.withheld,
                by: (place, epoch, self.regions[place].start),
                in_view_since,
                wall,
            };
            self.history.add(self.now, event);
        }
    }

    /// Since when a device of a user has had a conversation in view with nothing between it and a region.
    fn in_view_since(&self, place: usize, user: &UserId, log: LogId) -> Option<u64> {
        let number = self.clients.iter().position(|client| client.user == *user)?;
        let connection = self.clients[number].connection?;
        let (shown, since) = self.push.screens.get(&connection)?;
        let region = self.connections.get(&connection)?.region;
        let untroubled = self.untroubled(region, place)?;
        (self.conversations[*shown].log == log).then(|| untroubled.max(*since))
    }

    fn screens_round(&mut self, place: usize) {
        let now = self.now / 1_000;
        let Some(task) = &mut self.regions[place].push else { return };
        if task.screens.is_due(now) {
            task.screens.all_again(now);
        }
        for (user, device) in task.screens.due() {
            self.tell_screen(place, &user, device);
        }
    }

    pub(crate) fn set_screen(
        &mut self,
        place: usize,
        (connection, user, device): (u64, &UserId, hearth_protocol::DeviceId),
        shown: Option<hearth_protocol::ConversationId>,
    ) {
        let Some(task) = &mut self.regions[place].push else { return };
        if task.screens.set(connection, user, device, shown) {
            self.tell_screen(place, user, device);
        }
    }

    fn tell_screen(&mut self, place: usize, user: &UserId, device: hearth_protocol::DeviceId) {
        let view = self.look(place, LogId::user(user), true);
        let (View::User(_), Some(placement)) = (&view.view, &view.placement) else { return };
        let Some(task) = &self.regions[place].push else { return };
        let shown = task.screens.of(user, device).map(LogId::conversation);
        if let Some(to) = self.place_of(&placement.home).filter(|_| self.is_woken(user)) {
            self.push_send(place, to, wire::of_view(user, device, shown));
        }
        self.own_frames(place);
    }
}
