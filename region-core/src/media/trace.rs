//! What the log says about media: which entries carry them, and what became of those that did. Answered by whoever holds
//! the conversation, which the region of the media need not any more.

use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::media::MediaId;
use hearth_protocol::rest::ApiAnswer;
use hearth_protocol::{ConversationId, ErrorCode, LogId, Position, Refusal, RegionId, Timestamp, UserId};
use region_model::LogView;
use region_model::media::{Standing, carried, carried_by};
use region_model::view::View;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::MediaKnown;
use crate::api::{no_holder, refusal_of, unreadable};
use crate::call::ApiCall;
use crate::present::Reader;
use crate::reads::{check_mode, has_rows, seen};
use crate::region::Region;
use crate::runtime::wall;

/// Entries of a conversation looked through in one call.
const LOOKED_THROUGH: usize = 4_096;
/// Calls of that kind before a reader is told to come again: the region of the media is that far behind.
const SHOWN_CALLS: usize = 4;
/// Bytes of one read of the log.
const READ_BYTES: usize = 1024 * 1024;

fn not_shown() -> Refusal {
    Refusal::new(ErrorCode::NotFound, "no message that is shown to this user carries these media")
}

/// What was found from a place on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Looked {
    /// Entries that carry media of a region: where, and which.
    pub(super) references: Vec<(Position, Uuid)>,
    /// The last entry that was looked at.
    pub(super) scanned: Option<Position>,
    /// Whether there is more behind it.
    pub(super) more: bool,
}

/// What the region of media is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Trace {
    pub(super) looked: Looked,
    /// What became of the uses asked about, in their order.
    pub(super) standings: Vec<Standing>,
    /// How long the conversation keeps its messages, in milliseconds.
    pub(super) kept_for: u64,
}

/// What a region asks about its media of a conversation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TraceQuestion {
    /// Whose media.
    pub region: RegionId,
    /// Up to where the conversation was looked through.
    pub scanned: Option<Position>,
    /// Entries that carried some.
    pub uses: Vec<Position>,
}

fn kept_for(view: &LogView, day: Duration) -> u64 {
    let day = u64::try_from(day.as_millis()).unwrap_or(u64::MAX);
    match &view.view {
        View::Conversation(state) => u64::from(state.settings.retention_days).saturating_mul(day),
        View::Empty | View::User(_) | View::Placements(_) => u64::MAX,
    }
}

impl Region {
    /// Whether a user is a member, asked of whoever holds the conversation.
    ///
    /// # Errors
    /// `CONVERSATION_NOT_FOUND`, or that nobody who holds it is in reach.
    pub(super) async fn check_member(&self, user: &UserId, id: ConversationId, pass_on: bool) -> Result<(), Refusal> {
        let view = self.view(LogId::conversation(id), true).await?;
        check_mode(&view, user)?;
        if self.holds(&view) {
            return seen(&view, user).map(drop);
        }
        let answer = self.pass_on(&view, user, &ApiCall::Member { id }, pass_on).await?;
        agreed(&answer)
    }

    /// Whether some message is shown to a user that carries media: whoever is shown it may have them.
    ///
    /// # Errors
    /// `CONVERSATION_NOT_FOUND` for who is no member, `NOT_FOUND` where nothing shows them, `OVERLOADED` while too much of
    /// the conversation was not looked through yet.
    pub(super) async fn check_shown(
        &self,
        user: &UserId,
        id: ConversationId,
        media: &MediaId,
        known: &MediaKnown,
        pass_on: bool,
    ) -> Result<(), Refusal> {
        let view = self.view(LogId::conversation(id), true).await?;
        check_mode(&view, user)?;
        let lowest = known.uses.iter().chain(&known.scanned).map(|position| position.sequence.0).min().unwrap_or(0);
        if !self.holds(&view) || !has_rows(&view, lowest, view.marked) {
            let call = ApiCall::MediaShown { id, media: media.clone(), known: known.clone() };
            let answer = self.pass_on(&view, user, &call, pass_on).await?;
            return agreed(&answer);
        }
        let seen = seen(&view, user)?;
        let mut carrying: Vec<u64> = known.uses.iter().map(|position| position.sequence.0).collect();
        let mut scanned = known.scanned;
        let mut more = true;
        for _ in 0..SHOWN_CALLS {
            let looked = self.look_through(id, &view, &media.region, scanned).await?;
            let of_these = looked.references.iter().filter(|(_, found)| *found == media.id);
            carrying.extend(of_these.map(|(position, _)| position.sequence.0));
            (scanned, more) = (looked.scanned, looked.more);
            if !more {
                break;
            }
        }
        let reader = Reader::of(user, &seen, self.blocked_since(user, seen.state).await);
        for number in carrying.iter().rev().copied().filter(|number| (seen.from..seen.to).contains(number)) {
            let rows = self.read_rows(id, reader, (number, number + 1), 1).await?;
            let content = rows.first().and_then(|row| row.content.as_ref());
            if content.is_some_and(|content| carried(content.get().as_bytes(), id).as_ref() == Some(media)) {
                return Ok(());
            }
        }
        if more {
            let refusal =
                Refusal::new(ErrorCode::Overloaded, "the conversation is being looked through for these media");
            return Err(refusal.with_retry_after(5));
        }
        if carrying.is_empty() && known.uploader == *user { Ok(()) } else { Err(not_shown()) }
    }

    /// Looks through what follows an entry for media of a region. Where the line has another entry there, a failover took
    /// it away, and all of the conversation is looked through again.
    async fn look_through(
        &self,
        id: ConversationId,
        view: &LogView,
        region: &RegionId,
        scanned: Option<Position>,
    ) -> Result<Looked, Refusal> {
        let log = LogId::conversation(id);
        let refusal = |error| self.store_refusal(&error);
        let known = match scanned {
            Some(at) => self.entry_at(log, at.sequence.0).await.map_err(refusal)?,
            None => None,
        };
        let goes_on = known.filter(|entry| Some(entry.entry.fixed.position) == scanned);
        let mut next = goes_on.as_ref().map_or(view.floor.max(1), |entry| entry.sequence().0 + 1);
        let mut looked = Looked { scanned: goes_on.map(|entry| entry.entry.fixed.position), ..Looked::default() };
        if !has_rows(view, next, view.marked) {
            return Err(no_holder());
        }
        let mut left = LOOKED_THROUGH;
        while next < view.marked && left > 0 {
            let page = self.stores.log.read(log, next, view.marked, left, READ_BYTES).await.map_err(refusal)?;
            let Some(last) = page.last() else { return Err(no_holder()) };
            next = last.sequence().0 + 1;
            left = left.saturating_sub(page.len());
            looked.scanned = Some(last.entry.fixed.position);
            for entry in &page {
                let found = carried_by(entry, id).filter(|found| found.region == *region);
                looked.references.extend(found.map(|found| (entry.entry.fixed.position, found.id)));
            }
        }
        looked.more = next < view.marked;
        Ok(looked)
    }

    /// What the log says about a region's media, here or at whoever holds the conversation.
    pub(super) async fn trace(
        &self,
        user: &UserId,
        id: ConversationId,
        question: &TraceQuestion,
        pass_on: bool,
    ) -> Result<Trace, Refusal> {
        let view = self.view(LogId::conversation(id), pass_on).await?;
        let positions = question.uses.iter().chain(&question.scanned);
        let lowest = positions.map(|position| position.sequence.0).min().unwrap_or(view.floor);
        if self.holds(&view) && view.held && has_rows(&view, lowest, view.marked) {
            return self.trace_here(id, &view, question).await;
        }
        let call = ApiCall::MediaTrace { id, question: question.clone() };
        let answer = self.pass_on(&view, user, &call, pass_on).await?;
        if answer.status != 200 {
            return Err(refusal_of(&answer));
        }
        serde_json::from_slice(&answer.body).map_err(|_| unreadable())
    }

    async fn trace_here(&self, id: ConversationId, view: &LogView, question: &TraceQuestion) -> Result<Trace, Refusal> {
        let (log, now) = (LogId::conversation(id), wall());
        let mut standings = Vec::with_capacity(question.uses.len());
        for position in &question.uses {
            standings.push(self.standing(log, view, *position, now).await?);
        }
        let looked = self.look_through(id, view, &question.region, question.scanned).await?;
        Ok(Trace { looked, standings, kept_for: kept_for(view, self.options.retention_day) })
    }

    async fn standing(&self, log: LogId, view: &LogView, at: Position, now: Timestamp) -> Result<Standing, Refusal> {
        let entry = self.entry_at(log, at.sequence.0).await.map_err(|error| self.store_refusal(&error))?;
        Ok(Standing::of(at, entry.as_deref(), view.floor, now))
    }

    /// Answers what regions ask each other about media.
    pub(crate) async fn answer_about_media(
        self: &Arc<Self>,
        user: &UserId,
        call: &ApiCall,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        match call {
            ApiCall::Member { id } => self.check_member(user, *id, pass_on).await.map(|()| ApiAnswer::empty()),
            ApiCall::MediaShown { id, media, known } => {
                self.check_shown(user, *id, media, known, pass_on).await.map(|()| ApiAnswer::empty())
            }
            ApiCall::MediaTrace { id, question } => {
                Ok(ApiAnswer::json(200, &self.trace(user, *id, question, pass_on).await?))
            }
            ApiCall::MediaGiven { id, media, name } => {
                Ok(ApiAnswer::json(200, &self.give_media(*id, media, name.as_deref()).await?))
            }
            ApiCall::MediaLink { id, media, name } => self.media_link(user, *id, media, name.as_deref()).await,
            ApiCall::CreateMedia { media, key } if pass_on => self.create_media(user, media, *key).await,
            _ => Err(Refusal::new(ErrorCode::Internal, "not about media")),
        }
    }
}

fn agreed(answer: &ApiAnswer) -> Result<(), Refusal> {
    if answer.status == 204 { Ok(()) } else { Err(refusal_of(answer)) }
}
