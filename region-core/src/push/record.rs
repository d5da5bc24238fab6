//! The home of users' records: who is woken at all, what is decided, and what follows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hearth_protocol::{Epoch, LogId, LogKind, RegionId, UserId, mesh};
use region_model::LogView;
use region_model::ports::MapSync;
use region_model::push::ports::{PushJob, Put};
use region_model::push::{Turn, Wish, decides_under, wire};
use region_model::view::{UserState, View};

use super::{Task, kept};
use crate::runtime::wall;

/// Records looked at in one round.
const RECORDS: usize = 128;
/// Wishes said again in one round.
const WISHES: usize = 256;
/// Watched conversations looked at in one sweep.
const SWEPT: usize = 1_024;

impl Task {
    /// Looks at records that changed, and at the start at all of them.
    pub(super) async fn look_at_records(&mut self) {
        if let Some(after) = self.records_after {
            let page = match self.region.stores.log.logs(LogKind::User, after, RECORDS).await {
                Ok(page) => page,
                Err(error) => return self.region.fail(&error.to_string()),
            };
            let last = page.last().map(|summary| summary.log).filter(|_| page.len() == RECORDS);
            self.records_after = last.map(Some);
            for summary in &page {
                self.region.push.touched(summary.log);
                self.unswept.insert(summary.log);
            }
        }
        for _ in 0..RECORDS {
            let next = self.region.push.touched.lock().pop_first();
            let Some(record) = next else { return };
            self.look_at_record(record).await;
        }
    }

    async fn look_at_record(&mut self, record: LogId) {
        let region = self.region.clone();
        let Ok(view) = region.view(record, true).await else {
            region.push.touched(record);
            return;
        };
        let View::User(state) = view.view.clone() else { return };
        self.screens.again(&state.user);
        match decides_under(region.me(), &view, &state) {
            Some(epoch) => self.take_user(&state, record, epoch).await,
            None if self.records.desk.has(&state.user) => {
                let turn = self.records.leave(&state.user);
                self.perform(turn).await;
                self.records.left(&state.user);
            }
            // What an earlier process kept, while this region had the home, is of no use to anybody.
            None if self.unswept.contains(&record) => {
                if let Err(error) = kept::load(&*region.stores.map, record, None).await {
                    region.fail(&error.to_string());
                }
            }
            None => {}
        }
        self.unswept.remove(&record);
        region.push.counters.users.store(self.records.desk.users() as u64, Ordering::Relaxed);
    }

    async fn take_user(&mut self, state: &Arc<UserState>, record: LogId, epoch: Epoch) {
        let kept = if self.records.knows(&state.user) {
            BTreeMap::new()
        } else {
            match kept::load(&*self.region.stores.map, record, Some(epoch)).await {
                Ok(kept) => kept,
                Err(error) => return self.region.fail(&error.to_string()),
            }
        };
        let turn = self.records.take(state, epoch, &kept, wall());
        self.perform(turn).await;
    }

    /// Says wishes again, of conversations whose home does not know of them.
    pub(super) async fn wish_again(&mut self) {
        let mut wishes = Vec::new();
        for _ in 0..WISHES {
            let Some(log) = self.region.push.again.lock().pop_first() else { break };
            let wish = self.records.desk.wish(log);
            if !wish.users.is_empty() {
                wishes.push(wish);
            }
        }
        self.send_wishes(wishes).await;
    }

    /// A page of all that is watched: a wish or an offer that was lost is made good by it.
    pub(super) fn sweep(&mut self) {
        let page = self.records.desk.logs_after(self.swept, SWEPT);
        self.swept = page.last().copied().filter(|_| page.len() == SWEPT);
        self.region.push.again.lock().extend(page);
    }

    /// Decides what is due, while this region has its lease: without it somebody else may decide.
    pub(super) async fn decide_due(&mut self) {
        let now = wall();
        if self.records.desk.due().is_some_and(|due| due <= now) && self.region.ownership.right().leased {
            let turn = self.records.desk.elapsed(now);
            self.perform(turn).await;
        }
    }

    pub(super) async fn offered(&mut self, offers: &mesh::PushOffers) {
        let Some(log) = wire::conversation_of(&offers.log) else { return };
        let turn = self.records.desk.offers(log, &wire::offers(offers), wall());
        self.perform(turn).await;
    }

    pub(super) async fn viewed(&mut self, peer: &RegionId, view: &mesh::PushView) {
        let Some((user, device, log)) = wire::viewed(view) else { return };
        let turn = self.records.desk.viewed(&user, (peer.clone(), device), log, wall());
        self.perform(turn).await;
    }

    /// Another region, or this one, wants messages of a conversation.
    pub(super) fn watched(&self, peer: &RegionId, watch: &mesh::PushWatch) {
        let Some(log) = wire::conversation_of(&watch.log) else { return };
        let wanted = wire::wanted(watch);
        let refused = self.region.push.watchers.lock().watch(log, peer.clone(), watch.fresh, wanted);
        self.region.push.counters.dropped.fetch_add(refused as u64, Ordering::Relaxed);
    }

    /// What follows of decisions: first what is to be sent waits for that, then what is decided is kept.
    async fn perform(&mut self, turn: Turn) {
        let (region, now) = (self.region.clone(), wall());
        let options = &region.options.push;
        let lives = u64::try_from(options.lives.as_millis()).unwrap_or(u64::MAX);
        for (_, decision) in &turn.decisions {
            region.push.counters.decided(decision.withheld);
        }
        for (user, subscriptions, push) in &turn.pushes {
            for job in PushJob::of(user, subscriptions, push, now, lives) {
                if options.queue.put(job, now).await == Put::Full {
                    region.push.counters.full.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        if !turn.kept.is_empty() {
            let change = |(user, log): &(UserId, LogId)| {
                kept::change(user, *log, self.records.epoch(user), self.records.desk.kept(user, *log))
            };
            let changes = turn.kept.iter().map(change).collect();
            if let Err(error) = region.stores.map.write(changes, MapSync::Kernel).await {
                return region.fail(&error.to_string());
            }
        }
        self.send_wishes(turn.wishes).await;
    }

    /// Each to the home of its conversation, as far as that is known here.
    async fn send_wishes(&mut self, wishes: Vec<Wish>) {
        let mut by_home: BTreeMap<RegionId, Vec<Wish>> = BTreeMap::new();
        for wish in wishes {
            // A copy may be here before its placement is known here, so the steward is asked.
            let view = self.region.view(wish.log, true).await;
            let Ok(LogView { placement: Some(placement), .. }) = view else { continue };
            by_home.entry(placement.home).or_default().push(wish);
        }
        for (home, wishes) in by_home {
            wire::of_wishes(&wishes).into_iter().for_each(|frame| self.send(&home, frame));
        }
    }
}
