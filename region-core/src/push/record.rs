//! The home of users' records: who is woken at all, what is decided, and what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hearth_protocol::ids::direct_conversation;
use hearth_protocol::push::{Preferences, PushPolicy};
use hearth_protocol::{Epoch, LogId, LogKind, Position, RegionId, Sequence, Timestamp, UserId, mesh};
use region_model::LogView;
use region_model::ports::MapSync;
use region_model::push::ports::{PushJob, Put};
use region_model::push::{DeskUser, Offered, Offers, Turn, Wanted, Wish};
use region_model::view::{UserState, View};
use uuid::Uuid;

use super::{Task, kept};
use crate::runtime::wall;

/// Records looked at in one round.
const RECORDS: usize = 128;
/// Wishes said again in one round.
const WISHES: usize = 256;
/// Users named in one part of a frame.
const USERS: usize = 1_000;
/// Of a subscription younger than this, in milliseconds, no other region has decided anything.
const YOUNG: u64 = 60_000;
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
        let home = view.placement.as_ref().filter(|placement| view.held && placement.home == *region.me());
        let epoch = home.map(|placement| placement.epoch).filter(|_| !state.push.subscriptions.is_empty());
        match epoch {
            Some(epoch) => self.take_user(&state, record, epoch).await,
            None if self.desk.has(&state.user) => {
                let turn = self.desk.gone(&state.user);
                self.perform(turn).await;
                self.epochs.remove(&state.user);
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
        region.push.counters.users.store(self.desk.users() as u64, Ordering::Relaxed);
    }

    async fn take_user(&mut self, state: &Arc<UserState>, record: LogId, epoch: Epoch) {
        let known = self.epochs.insert(state.user.clone(), epoch);
        let kept = if known.is_some() {
            BTreeMap::new()
        } else {
            match kept::load(&*self.region.stores.map, record, Some(epoch)).await {
                Ok(kept) => kept,
                Err(error) => return self.region.fail(&error.to_string()),
            }
        };
        let now = wall();
        let mut user = desk_user(state, now);
        user.taken_over = known.is_none() && kept.is_empty() && now.0.saturating_sub(user.since.0) > YOUNG;
        let mut turn = self.desk.user(&state.user, user, &kept, now);
        if known.is_some_and(|known| known != epoch) {
            turn.kept.extend(self.desk.stands(&state.user).into_iter().map(|log| (state.user.clone(), log)));
        }
        self.perform(turn).await;
    }

    /// Says wishes again, of conversations whose home does not know of them.
    pub(super) async fn wish_again(&mut self) {
        let mut wishes = Vec::new();
        for _ in 0..WISHES {
            let Some(log) = self.region.push.again.lock().pop_first() else { break };
            let wish = self.desk.wish(log);
            if !wish.users.is_empty() {
                wishes.push(wish);
            }
        }
        self.send_wishes(wishes).await;
    }

    /// A page of all that is watched: a wish or an offer that was lost is made good by it.
    pub(super) fn sweep(&mut self) {
        let page = self.desk.logs_after(self.swept, SWEPT);
        self.swept = page.last().copied().filter(|_| page.len() == SWEPT);
        self.region.push.again.lock().extend(page);
    }

    /// Decides what is due, while this region has its lease: without it somebody else may decide.
    pub(super) async fn decide_due(&mut self) {
        let now = wall();
        if self.desk.due().is_some_and(|due| due <= now) && self.region.ownership.right().leased {
            let turn = self.desk.elapsed(now);
            self.perform(turn).await;
        }
    }

    pub(super) async fn offered(&mut self, offers: &mesh::PushOffers) {
        let Some(log) = LogId::from_bytes(&offers.log).filter(|log| log.kind == LogKind::Conversation) else { return };
        let turn = self.desk.offers(log, &of_mesh(offers), wall());
        self.perform(turn).await;
    }

    pub(super) async fn viewed(&mut self, peer: &RegionId, view: &mesh::PushView) {
        let (Ok(user), Ok(device)) = (UserId::new(&view.user), Uuid::from_slice(&view.device)) else { return };
        let place = (peer.clone(), hearth_protocol::DeviceId(device));
        let turn = self.desk.viewed(&user, place, LogId::from_bytes(&view.log), wall());
        self.perform(turn).await;
    }

    /// Another region, or this one, wants messages of a conversation.
    pub(super) fn watched(&self, peer: &RegionId, watch: &mesh::PushWatch) {
        let Some(log) = LogId::from_bytes(&watch.log).filter(|log| log.kind == LogKind::Conversation) else { return };
        let wanted = watch.users.iter().filter_map(|user| {
            Some(Wanted {
                user: UserId::new(&user.user).ok()?,
                after: position(user.epoch, user.sequence),
                since: (user.since > 0).then_some(Timestamp(user.since)),
                taken_over: user.taken_over,
            })
        });
        let refused = self.region.push.watchers.lock().watch(log, peer.clone(), watch.fresh, wanted.collect());
        self.region.push.counters.dropped.fetch_add(refused as u64, Ordering::Relaxed);
    }

    /// What follows of decisions: first what is to be sent waits for that, then what is decided is kept.
    async fn perform(&mut self, turn: Turn) {
        let (region, now) = (self.region.clone(), wall());
        let options = &region.options.push;
        let lives = u64::try_from(options.lives.as_millis()).unwrap_or(u64::MAX);
        for decision in &turn.decisions {
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
                let epoch = self.epochs.get(user).copied().unwrap_or_default();
                kept::change(user, *log, epoch, self.desk.kept(user, *log))
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
        let mut frames: BTreeMap<RegionId, Vec<mesh::PushWatch>> = BTreeMap::new();
        for wish in wishes {
            // A copy may be here before its placement is known here, so the steward is asked.
            let view = self.region.view(wish.log, true).await;
            let Ok(LogView { placement: Some(placement), .. }) = view else { continue };
            frames.entry(placement.home).or_default().extend(watches(&wish));
        }
        for (home, watches) in frames {
            let mut part = mesh::Push::default();
            let mut users = 0;
            for watch in watches {
                users += watch.users.len() + 1;
                part.watches.push(watch);
                if users >= USERS {
                    users = 0;
                    self.send(&home, std::mem::take(&mut part));
                }
            }
            if !part.watches.is_empty() {
                self.send(&home, part);
            }
        }
    }
}

fn position(epoch: u64, sequence: u64) -> Position {
    Position { epoch: Epoch(epoch), sequence: Sequence(sequence) }
}

/// A user as the desk needs it. A device that subscribed just now is not woken for what was said before.
fn desk_user(state: &UserState, now: Timestamp) -> DeskUser {
    let first = state.push.subscriptions.values().map(|subscription| subscription.registered_at).min();
    let joined = state.conversations.iter().filter(|(_, membership)| membership.joined);
    let wants = state.push.preferences.iter().map(|(id, wants)| (LogId::conversation(*id), *wants));
    // In a direct conversation with somebody whom the user blocks, nobody else writes.
    let nothing = Preferences { policy: PushPolicy::None, muted_until: None };
    let blocked = state.privacy.blocks.keys().map(|other| direct_conversation(&state.user, other));
    let blocked = blocked.map(|id| (LogId::conversation(id), nothing));
    DeskUser {
        subscriptions: state.push.subscriptions.values().cloned().collect(),
        preferences: wants.chain(blocked).collect(),
        joined: joined.map(|(id, membership)| (LogId::conversation(*id), membership.position)).collect(),
        since: first.unwrap_or(now),
        taken_over: false,
    }
}

/// A wish in parts of bounded length; the first of them says that the others are all.
fn watches(wish: &Wish) -> Vec<mesh::PushWatch> {
    let log = Bytes::copy_from_slice(&wish.log.to_bytes());
    let user = |wanted: &Wanted| mesh::PushWatcher {
        user: wanted.user.as_str().to_owned(),
        epoch: wanted.after.epoch.0,
        sequence: wanted.after.sequence.0,
        since: wanted.since.map_or(0, |since| since.0.max(1)),
        taken_over: wanted.taken_over,
    };
    if wish.users.is_empty() {
        return vec![mesh::PushWatch { log, users: Vec::new(), fresh: true }];
    }
    let part = |(at, users): (usize, &[Wanted])| mesh::PushWatch {
        log: log.clone(),
        users: users.iter().map(user).collect(),
        fresh: wish.fresh && at == 0,
    };
    wish.users.chunks(USERS).enumerate().map(part).collect()
}

fn of_mesh(offers: &mesh::PushOffers) -> Offers {
    let name = |text: &String| UserId::new(text).ok();
    let item = |item: &mesh::PushOffer| {
        Some(Offered {
            position: position(item.epoch, item.sequence),
            message: Uuid::from_slice(&item.message).ok()?,
            sender: name(&item.sender)?,
            mentions: item.mentions.iter().filter_map(name).collect::<BTreeSet<UserId>>(),
            sequenced_at: Timestamp(item.sequenced_at),
            expires_at: (item.expires_at > 0).then_some(Timestamp(item.expires_at)),
        })
    };
    let reads = |member: &mesh::MemberReceipts| {
        let parts = member.read.iter().map(|part| position(part.epoch, part.up_to)).collect();
        Some((name(&member.user)?, parts))
    };
    let start = |start: &mesh::PushWatcher| Some((name(&start.user)?, position(start.epoch, start.sequence)));
    Offers {
        from: offers.from,
        to: offers.to,
        epoch: Epoch(offers.epoch),
        begins: offers.begins,
        items: offers.items.iter().filter_map(item).collect(),
        reads: offers.reads.iter().filter_map(reads).collect(),
        gone: offers.gone.iter().filter_map(name).collect(),
        starts: offers.starts.iter().filter_map(start).collect(),
    }
}

#[cfg(test)]
mod tests {
    use hearth_protocol::ConversationId;

    use super::*;

    #[test]
    fn whom_a_user_blocks_wakes_it_in_no_direct_conversation_whatever_it_wants_there() {
        let user = |name: &str| UserId::new(name).expect("a valid name");
        let mut ann = UserState::created(user("ann"), Timestamp(1));
        let (with_bob, with_cem) = (direct_conversation(&ann.user, &user("bob")), ConversationId(Uuid::from_u128(9)));
        let mentions = Preferences { policy: PushPolicy::Mentions, muted_until: None };
        ann.push.preferences = [(with_bob, mentions), (with_cem, mentions)].into();
        ann.privacy.blocks = [(user("bob"), Timestamp(2))].into();
        let of = |state: &UserState, id| desk_user(state, Timestamp(3)).preferences[&LogId::conversation(id)].policy;
        assert_eq!((of(&ann, with_bob), of(&ann, with_cem)), (PushPolicy::None, PushPolicy::Mentions));
        ann.privacy.blocks.clear();
        assert_eq!(of(&ann, with_bob), PushPolicy::Mentions);
    }
}
