//! Users who have not connected here for the resident time: this region says so in their records, and drops what it
//! then holds for nobody.

use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::{Change, LogId, LogKind, Timestamp, UserId};
use region_model::line::Line;
use region_model::view::{UserState, View};
use region_model::{Input, LogView};

use crate::region::Region;
use crate::runtime::wall;

/// Records looked at per page.
const PAGE: usize = 256;
/// The sweep runs this often, or more often where the resident time is shorter than ten of these.
const SWEEP: Duration = Duration::from_secs(3_600);

/// Runs until the region stops.
pub(crate) async fn run(region: Arc<Region>) {
    let every = SWEEP.min(region.options.resident_for / 10).max(Duration::from_millis(200));
    let mut sweep = tokio::time::interval(every);
    let mut failed = region.store.failed.subscribe();
    loop {
        tokio::select! {
            () = Region::until_failed(&mut failed) => return,
            _ = sweep.tick() => region.sweep_residents().await,
        }
    }
}

/// Whether a copy may hold what the present line lacks and its home has not taken yet: it is on an older line, or kept the
/// end of one.
fn owes(view: &LogView) -> bool {
    let behind = view.placement.as_ref().is_some_and(|placement| placement.epoch > Line::of(view).epoch());
    behind || view.tail_settled == Some(false)
}

impl Region {
    async fn sweep_residents(self: &Arc<Self>) {
        let mut after = None;
        loop {
            let page = match self.stores.log.logs(LogKind::User, after, PAGE).await {
                Ok(page) => page,
                Err(error) => return self.fail(&error.to_string()),
            };
            for summary in &page {
                // A record whose home is out of reach is looked at again by the next sweep.
                if let Ok(view) = self.view(summary.log, false).await
                    && let View::User(state) = &view.view
                {
                    self.sweep_resident(&view, state).await;
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.log),
                Some(_) | None => return,
            }
        }
    }

    async fn sweep_resident(self: &Arc<Self>, view: &LogView, state: &Arc<UserState>) {
        let Some(last_connect) = state.resident.get(self.me()).copied() else { return };
        if self.hub.is_connected(&state.user) {
            // A session that lasts keeps its user resident; the record takes it once an hour.
            let change = Change::Resident { region: self.me().clone(), at: wall() };
            let _ = self.change_user(&state.user, &change).await;
            return;
        }
        let kept = u64::try_from(self.options.resident_for.as_millis()).unwrap_or(u64::MAX);
        if wall().0.saturating_sub(last_connect.0) <= kept {
            return;
        }
        if self.leave(&state.user, last_connect).await {
            self.drop_unneeded(view, state).await;
        }
    }

    /// Says that the user is resident here no longer. The record refuses it when a connect came between.
    async fn leave(&self, user: &UserId, last_connect: Timestamp) -> bool {
        let change = Change::Left { region: self.me().clone(), last_connect };
        let told = self.change_user(user, &change).await.is_ok();
        told && !self.hub.is_connected(user)
    }

    /// Drops the record, and each conversation of it in which no other member is resident here, unless it votes.
    async fn drop_unneeded(self: &Arc<Self>, record: &LogView, state: &Arc<UserState>) {
        for conversation in state.conversations.keys() {
            let log = LogId::conversation(*conversation);
            let Ok(view) = self.view(log, false).await else { continue };
            if view.held && !self.votes(&view) && !owes(&view) && !self.has_other_residents(&view, &state.user).await {
                self.drop_copy(log).await;
            }
        }
        if !self.votes(record) {
            self.drop_copy(LogId::user(&state.user)).await;
        }
    }

    fn votes(&self, view: &LogView) -> bool {
        view.placement.as_ref().is_none_or(|placement| placement.voters.contains(self.me()))
    }

    async fn has_other_residents(&self, conversation: &LogView, leaving: &UserId) -> bool {
        let View::Conversation(state) = &conversation.view else { return false };
        for member in state.members.keys().filter(|member| *member != leaving) {
            if self.hub.is_connected(member) {
                return true;
            }
            let Ok(view) = self.view(LogId::user(member), false).await else { return true };
            if matches!(&view.view, View::User(user) if user.resident.contains_key(self.me())) {
                return true;
            }
        }
        false
    }

    /// Stops following, then forgets: in this order, so that what is on its way is not taken for a log to hold.
    async fn drop_copy(&self, log: LogId) {
        self.input(Input::Follow { log, hold: false }).await;
        // A query behind it is answered after it was handled.
        let _ = self.view(log, false).await;
        let removed = self.stores.log.remove(log).await;
        self.receipts.forget(log);
        match removed {
            Ok(()) => self.input(Input::Forget(log)).await,
            Err(error) => self.fail(&error.to_string()),
        }
    }
}
