//! The home of a conversation: offers its messages, once the mark has passed them, to the regions that want them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hearth_protocol::{LogId, UserId};
use region_model::LogView;
use region_model::line::Line;
use region_model::ports::StoreError;
use region_model::push::{Due, FirstWanted, Offering, Offers, wire};

use super::Task;
use crate::region::Region;
use crate::runtime::wall;

/// Rows of one frame.
const ROWS: usize = 256;
/// Bytes of them.
const BYTES: usize = 1024 * 1024;
/// Conversations of one round.
const LOGS: usize = 64;

impl Task {
    /// Offers what is due.
    pub(super) async fn offer_round(&mut self) {
        let due = self.region.push.watchers.lock().due(LOGS);
        for log in due {
            if let Err(error) = self.offer(log).await {
                return self.region.fail(&error.to_string());
            }
        }
    }

    async fn offer(&mut self, log: LogId) -> Result<(), StoreError> {
        let region = self.region.clone();
        // A view that cannot be had now is asked for in the next round.
        let Ok(view) = region.view(log, false).await else { return Ok(()) };
        let home = view.placement.as_ref().map(|placement| &placement.home);
        if home != Some(region.me()) || !view.held {
            // Those who want it say so to the home.
            region.push.watchers.lock().forget(log);
            return Ok(());
        }
        let due = region.push.watchers.lock().take(log);
        for due in due {
            let Some(users) = region.push.watchers.lock().watched(log, &due.region).cloned() else { continue };
            let (offers, more) = region.offers_of(log, &view, &due, &users).await?;
            region.push.watchers.lock().offered(log, &due.region, offers.to, more);
            let nothing = offers.from == offers.to && offers.reads.is_empty() && !offers.begins;
            if !nothing {
                self.send(&due.region, wire::of_offers(log, &offers));
            }
        }
        Ok(())
    }
}

impl Region {
    /// What one region is to be told of a conversation, and whether there is more.
    async fn offers_of(
        self: &Arc<Self>,
        log: LogId,
        view: &LogView,
        due: &Due,
        users: &BTreeSet<UserId>,
    ) -> Result<(Offers, bool), StoreError> {
        let line = Line::of(view);
        let mut firsts = Vec::with_capacity(due.asked.len());
        for wanted in &due.asked {
            let known = self.push.watchers.lock().known(log, &wanted.user);
            let mut first = FirstWanted::new(view, &line, wanted, known, wall());
            while let Some(probed) = first.probe() {
                let row = self.stores.log.read(log, probed, probed + 1, 1, usize::MAX).await?;
                first.take(probed, row.first().map(|row| row.entry.fixed.time));
            }
            firsts.push(first.found());
        }
        let offering = Offering::new(view, due, &firsts);
        let rows = self.stores.log.read(log, offering.from(), view.marked, ROWS, BYTES).await?;
        let asked = due.asked.iter().map(|wanted| &wanted.user);
        let read: BTreeSet<&UserId> = asked.chain(&due.read).collect();
        let mut reads = Vec::new();
        if !read.is_empty() && self.load_cursors(log).await {
            let parts = read.into_iter().map(|user| (user.clone(), self.receipts.read_parts(log, user)));
            reads = parts.filter(|(_, parts)| !parts.is_empty()).collect();
        }
        Ok(offering.with(view, users, rows.iter().map(AsRef::as_ref), reads))
    }

    /// The mark passed an entry of a conversation.
    pub(crate) fn push_delivered(&self, log: LogId) {
        if self.push.watched.load(Ordering::Relaxed) {
            self.push.watchers.lock().delivered(log);
        }
    }

    /// Cursors of these members grew here.
    pub(crate) fn push_read<'a>(&self, log: LogId, users: impl Iterator<Item = &'a UserId>) {
        if self.push.watched.load(Ordering::Relaxed) {
            let mut watchers = self.push.watchers.lock();
            for user in users {
                watchers.read(log, user);
            }
        }
    }
}
