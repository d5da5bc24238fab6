//! Who may have media, and what the log says about them: read here, or asked of whoever holds the conversation, which
//! the region of the media need not any more.

use std::sync::Arc;

use hearth_protocol::media::MediaId;
use hearth_protocol::rest::ApiAnswer;
use hearth_protocol::{ConversationId, ErrorCode, LogId, Position, Refusal, RegionId, UserId};
use region_model::LogView;
use region_model::media::{LookThrough, Looked, MediaKnown, Shown, ShownStep, Standing, Trace, TraceQuestion};
use region_model::seen::seen;

use crate::api::{no_holder, refusal_of, unreadable};
use crate::call::ApiCall;
use crate::present::Reader;
use crate::reads::check_mode;
use crate::region::Region;
use crate::runtime::wall;

/// Bytes of one read of the log.
const READ_BYTES: usize = 1024 * 1024;

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
        if !known.is_judged_at(self.me(), &view) {
            let call = ApiCall::MediaShown { id, media: media.clone(), known: known.clone() };
            let answer = self.pass_on(&view, user, &call, pass_on).await?;
            return agreed(&answer);
        }
        let seen = seen(&view, user)?;
        let reader = Reader::of(user, &seen, self.blocked_since(user, seen.state).await);
        let mut shown = Shown::new(id, media, known, user, &seen);
        loop {
            match shown.step() {
                ShownStep::Look(scanned) => {
                    shown.looked(&self.look_through((id, &media.region), &view, scanned, false).await?);
                }
                ShownStep::Row(number) => {
                    let rows = self.read_rows(id, reader, (number, number + 1), 1).await?;
                    let content = rows.first().and_then(|row| row.content.as_ref());
                    shown.read(number, content.map(|content| content.get().as_bytes()));
                }
                ShownStep::Known(known) => return known,
            }
        }
    }

    /// Looks through what follows an entry for media of a region; where some are `judged`, above the mark, too.
    async fn look_through(
        &self,
        (id, region): (ConversationId, &RegionId),
        view: &LogView,
        scanned: Option<Position>,
        judged: bool,
    ) -> Result<Looked, Refusal> {
        let log = LogId::conversation(id);
        let refusal = |error| self.store_refusal(&error);
        let there = match scanned {
            Some(at) => self.entry_at(log, at.sequence.0).await.map_err(refusal)?,
            None => None,
        };
        let look = LookThrough::new(view, (id, region), scanned, there.as_deref());
        let look = look.ok_or_else(no_holder)?;
        let mut look = if judged { look.judging(view) } else { look };
        while let Some((from, to, rows)) = look.reads() {
            let page = self.stores.log.read(log, from, to, rows, READ_BYTES).await.map_err(refusal)?;
            if !look.take(&page) {
                return Err(no_holder());
            }
        }
        Ok(look.found())
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
        if question.is_answered_at(self.me(), &view) {
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
            let entry = self.entry_at(log, position.sequence.0).await.map_err(|error| self.store_refusal(&error))?;
            standings.push(Standing::of(*position, entry.as_deref(), view.floor, now));
        }
        let looked = self.look_through((id, &question.region), view, question.scanned, question.judges).await?;
        let day = u64::try_from(self.options.retention_day.as_millis()).unwrap_or(u64::MAX);
        Ok(TraceQuestion::answer(self.me(), view, standings, looked, day))
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
