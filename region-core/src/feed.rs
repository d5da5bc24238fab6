//! The change feed of a user: places in it, and its pages.
//!
//! A run of pages is sorted once, by the numbers of the last changes of the user's conversations, none of which is
//! loaded for it. What changes meanwhile is told by the next run: its number is above all of this one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use hearth_protocol::rest::{ApiAnswer, ConversationRow, FeedResponse};
use hearth_protocol::{ConversationId, ErrorCode, LogId, Refusal, UserId, limits};
use parking_lot::Mutex;
use region_model::LogView;
use region_model::view::View;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::call::ApiCall;
use crate::push::muted;
use crate::region::Region;

/// How long the order of a run of pages is kept for the next page.
const RUN_FOR: Duration = Duration::from_secs(60);
/// Places of all kept runs together, 24 bytes each; of more, the runs that began first go, and are sorted anew.
const PLACES: usize = 262_144;
/// Rows of a page that are read, or asked of other regions, at once.
const ROWS_AT_ONCE: usize = 64;

/// A place in the change feed. Numbers of changes are those of one store: a cursor of another region's store cannot be
/// placed here, and gives everything from the start, which a client takes in again without harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FeedCursor {
    pub(crate) store: Uuid,
    pub(crate) change: u64,
    /// Within a run of pages: the last conversation told of those that are held elsewhere only.
    #[serde(default)]
    pub(crate) elsewhere: Option<ConversationId>,
    /// Within a run of pages: the lowest change whose row nobody in reach could give. The next run begins before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) missed: Option<u64>,
}

impl FeedCursor {
    pub(crate) fn start(store: Uuid) -> Self {
        Self { store, change: 0, elsewhere: None, missed: None }
    }

    /// Reads [`FeedCursor::write`]; the start for bytes of another form and for another store's cursor.
    pub(crate) fn read(text: Option<&str>, store: Uuid) -> Self {
        let read = |text| serde_json::from_slice::<Self>(&URL_SAFE_NO_PAD.decode(text).ok()?).ok();
        text.and_then(read).filter(|cursor| cursor.store == store).unwrap_or_else(|| Self::start(store))
    }

    pub(crate) fn write(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a cursor holds only string keys"))
    }

    /// The place behind a page: its rows by number of change (0 for those held elsewhere only) and conversation, those
    /// of them that nobody in reach could give, and whether more follow. A row that is left out keeps no page behind it
    /// back; the run that comes after the last page tells it again.
    pub(crate) fn after(&self, page: &[(u64, ConversationId)], left_out: &[u64], has_more: bool) -> Self {
        let change = page.last().map_or(self.change, |(change, _)| self.change.max(*change));
        let missed = left_out.iter().copied().filter(|change| *change > 0).chain(self.missed).min();
        if !has_more {
            // Those held elsewhere only are told by every run: this region does not see them change.
            let change = missed.map_or(change, |missed| change.min(missed - 1));
            return Self { store: self.store, change, elsewhere: None, missed: None };
        }
        let elsewhere = match page.last() {
            Some((0, id)) => Some(*id),
            Some(_) => Some(ConversationId(Uuid::max())),
            None => None,
        };
        Self { store: self.store, change, elsewhere, missed }
    }
}

/// Conversations of a user in the order of a feed: those held elsewhere only (0) by id, then by their last change.
type Order = Arc<Vec<(u64, ConversationId)>>;

/// The orders of runs that are under way.
#[derive(Debug, Default)]
pub(crate) struct FeedRuns(Mutex<BTreeMap<UserId, (Instant, Order)>>);

impl FeedRuns {
    /// The order of the run that a user's page continues.
    fn of(&self, user: &UserId, now: Instant) -> Option<Order> {
        let runs = self.0.lock();
        let (began, order) = runs.get(user)?;
        (now.duration_since(*began) < RUN_FOR).then(|| order.clone())
    }

    fn keep(&self, user: &UserId, order: &Order, now: Instant) {
        let mut runs = self.0.lock();
        runs.retain(|_, (began, _)| now.duration_since(*began) < RUN_FOR);
        runs.insert(user.clone(), (now, order.clone()));
        while runs.values().map(|(_, order)| order.len()).sum::<usize>() > PLACES {
            let Some(first) = runs.iter().min_by_key(|(_, (began, _))| *began).map(|(user, _)| user.clone()) else {
                return;
            };
            runs.remove(&first);
        }
    }

    fn forget(&self, user: &UserId) {
        self.0.lock().remove(user);
    }
}

/// What the feed shows of one conversation.
enum FeedRow {
    Row(Box<ConversationRow>),
    /// The user left meanwhile.
    None,
    /// Nobody who holds it is in reach, or answered.
    OutOfReach,
}

impl Region {
    /// A page of a user's change feed.
    pub(crate) async fn feed(
        self: &Arc<Self>,
        user: &UserId,
        cursor: Option<&str>,
        limit: Option<u64>,
        call: &ApiCall,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        let limit = limit.unwrap_or(50);
        if limit == 0 || limit > limits::FEED_ROWS as u64 {
            return Err(Refusal::invalid("limit is 1 to 200").with_limit("200 conversations a page"));
        }
        let view = self.view(LogId::user(user), true).await?;
        if view.placement.is_some() && !self.holds(&view) {
            return self.pass_on(&view, user, call, pass_on).await;
        }
        let place = FeedCursor::read(cursor, self.stores.identity.store);
        let limit = usize::try_from(limit).unwrap_or(50);
        let (page, has_more) = self.feed_page(&view, &place, limit).await?;
        let mut rows = Vec::new();
        for part in page.chunks(ROWS_AT_ONCE) {
            rows.extend(join_all(part.iter().map(|(_, id)| self.feed_row(user, *id, pass_on))).await);
        }
        let (mut conversations, mut left_out) = (Vec::new(), Vec::new());
        for ((change, _), row) in page.iter().zip(rows) {
            match row {
                FeedRow::Row(mut row) => {
                    row.muted_until = muted(&view, row.conversation_id);
                    conversations.push(*row);
                }
                FeedRow::None => {}
                FeedRow::OutOfReach => left_out.push(*change),
            }
        }
        let partial = !left_out.is_empty() || place.missed.is_some();
        let cursor = place.after(&page, &left_out, has_more).write();
        let feed = partial.then(|| "partial".to_owned());
        Ok(ApiAnswer::json(200, &FeedResponse { conversations, cursor, has_more, feed }))
    }

    /// The places of the page behind `place`, and whether more follow.
    async fn feed_page(
        &self,
        view: &LogView,
        place: &FeedCursor,
        limit: usize,
    ) -> Result<(Vec<(u64, ConversationId)>, bool), Refusal> {
        let View::User(state) = &view.view else { return Ok((Vec::new(), false)) };
        // Only within a run does a cursor tell of those held elsewhere.
        let kept = place.elsewhere.and_then(|_| self.feed_runs.of(&state.user, Instant::now()));
        let begins = kept.is_none();
        let order = match kept {
            Some(order) => order,
            None => Arc::new(self.feed_order(view).await?),
        };
        let from = match place.elsewhere {
            // Held elsewhere, and behind those that were told.
            Some(told) if told != ConversationId(Uuid::max()) => order.partition_point(|at| *at <= (0, told)),
            _ if place.elsewhere.is_none() => 0,
            _ => order.partition_point(|(change, _)| *change == 0),
        };
        // A run begins with those held elsewhere, then come those that changed since its cursor.
        let elsewhere = order[from..].iter().take_while(|(change, _)| *change == 0);
        let changed = &order[order.partition_point(|(change, _)| *change <= place.change)..];
        let mut page: Vec<_> = elsewhere.chain(changed).take(limit + 1).copied().collect();
        let has_more = page.len() > limit;
        page.truncate(limit);
        match (begins, has_more) {
            (true, true) => self.feed_runs.keep(&state.user, &order, Instant::now()),
            (false, false) => self.feed_runs.forget(&state.user),
            // Most feeds are one page, and nothing is kept for them.
            (true, false) | (false, true) => {}
        }
        Ok((page, has_more))
    }

    /// All conversations of a user, in the order of a feed.
    async fn feed_order(&self, view: &LogView) -> Result<Vec<(u64, ConversationId)>, Refusal> {
        let View::User(state) = &view.view else { return Ok(Vec::new()) };
        let joined = state.conversations.iter().filter(|(_, membership)| membership.joined);
        let ids: Vec<ConversationId> = joined.map(|(id, _)| *id).collect();
        let logs = ids.iter().map(|id| LogId::conversation(*id)).collect();
        let changes = self.stores.last_changes.last_changes(&state.user, logs).await;
        let changes = changes.map_err(|error| self.store_refusal(&error))?;
        let mut order: Vec<_> = changes.into_iter().map(Option::unwrap_or_default).zip(ids).collect();
        order.sort_unstable();
        Ok(order)
    }

    /// One row of the feed. A copy may be here before its placement is known here, so the steward is asked.
    async fn feed_row(self: &Arc<Self>, user: &UserId, id: ConversationId, pass_on: bool) -> FeedRow {
        match self.row_of(user, id, pass_on).await {
            Ok(row) => FeedRow::Row(Box::new(row)),
            Err(refusal) if refusal.error == ErrorCode::ConversationNotFound => FeedRow::None,
            Err(_) => FeedRow::OutOfReach,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> ConversationId {
        ConversationId(Uuid::from_u128(number))
    }

    fn cursor(change: u64) -> FeedCursor {
        FeedCursor { change, ..FeedCursor::start(Uuid::from_u128(9)) }
    }

    #[test]
    fn a_row_that_nobody_in_reach_could_give_is_told_by_the_next_run_and_keeps_no_later_row_back() {
        let first = cursor(10).after(&[(0, id(1)), (12, id(2)), (13, id(3))], &[12], true);
        assert_eq!((first.change, first.missed), (13, Some(12)));
        let second = first.after(&[(14, id(4)), (15, id(5))], &[15], true);
        assert_eq!((second.change, second.missed), (15, Some(12)));
        let end = second.after(&[(16, id(6))], &[], false);
        assert_eq!(end, cursor(11));
        assert_eq!(end.after(&[(12, id(2)), (13, id(3))], &[], false), cursor(13));
    }

    #[test]
    fn those_held_elsewhere_are_told_once_a_run_and_by_every_run() {
        let first = cursor(0).after(&[(0, id(1)), (0, id(2))], &[0], true);
        assert_eq!((first.change, first.elsewhere), (0, Some(id(2))));
        let second = first.after(&[(0, id(3)), (4, id(4))], &[], true);
        assert_eq!((second.change, second.elsewhere), (4, Some(ConversationId(Uuid::max()))));
        assert_eq!(second.after(&[], &[], false), cursor(4));
    }

    #[test]
    fn a_cursor_reads_back_and_one_of_another_store_or_another_form_gives_everything() {
        let cursor = FeedCursor { elsewhere: Some(id(1)), missed: Some(7), ..cursor(12) };
        let text = cursor.write();
        assert_eq!(FeedCursor::read(Some(&text), cursor.store), cursor);
        let other = Uuid::from_u128(8);
        for text in [Some(text.as_str()), Some("nothing of ours"), Some("e30"), None] {
            assert_eq!(FeedCursor::read(text, other), FeedCursor::start(other));
        }
    }

    #[test]
    fn a_cursor_of_the_first_release_reads() {
        let text =
            URL_SAFE_NO_PAD.encode(r#"{"store":"00000000-0000-0000-0000-000000000009","change":12,"elsewhere":null}"#);
        assert_eq!(FeedCursor::read(Some(&text), Uuid::from_u128(9)), cursor(12));
    }
}
