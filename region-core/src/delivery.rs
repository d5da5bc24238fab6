//! Where a message is on its way to a user. The loop of the core keeps when each message passed it; what is asked
//! goes to every region that is in reach, since a message may have come in anywhere and a user may be connected anywhere;
//! the answers are joined by `region_model::delivery`.

pub(crate) mod hops;
mod part;

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use hearth_protocol::client::{ExplainRequest, ExplanationPayload, MessageName};
use hearth_protocol::rest::ApiAnswer;
use hearth_protocol::{ConversationId, ErrorCode, LogId, MessageId, Refusal, RegionId, Timestamp, UserId};
use parking_lot::Mutex;
use region_model::delivery::{Asker, CursorKind, EntryFacts, MoveBook, Question, RegionPart, explain};
use region_model::receipts::Change;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::call::ApiCall;
use crate::reads::check_mode;
use crate::region::Region;
use hops::Ask;

/// Explanations that a region makes at a time; more are refused `OVERLOADED`.
const AT_ONCE: usize = 32;
/// Of those one user's, operators aside, so that nobody takes them all.
const OF_ONE_USER: usize = 4;
/// Questions that wait for the loop of the core.
pub(crate) const ASKS: usize = 128;

/// What edges ask about the way of a message, and regions of each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum DeliveryCall {
    /// `delivery.explain`. Answered by the region that is asked, and never passed on.
    Explain {
        /// What is asked.
        request: ExplainRequest,
        /// Whether the token of who asks says `role: operator`.
        operator: bool,
    },
    /// Between regions: which entry that is.
    Locate {
        /// The conversation.
        conversation: ConversationId,
        /// The message.
        name: MessageName,
    },
    /// Between regions: all that the region knows.
    Part {
        /// The conversation.
        conversation: ConversationId,
        /// The message.
        name: MessageName,
        /// To whom.
        user: UserId,
        /// The message, where a region has it in the log.
        entry: Option<EntryFacts>,
    },
}

/// What a region keeps for explanations, beside what the loop of its core does.
#[derive(Debug)]
pub(crate) struct Delivery {
    asks: mpsc::Sender<Ask>,
    moves: Mutex<MoveBook>,
    under_way: Arc<Semaphore>,
    /// How many of them each user asked for, of those who ask.
    by_user: Arc<Mutex<HashMap<UserId, usize>>>,
}

/// An explanation that is being made, for as long as this is held.
#[derive(Debug)]
struct UnderWay {
    _permit: OwnedSemaphorePermit,
    by_user: Arc<Mutex<HashMap<UserId, usize>>>,
    user: UserId,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut by_user = self.by_user.lock();
        if let Some(count) = by_user.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                by_user.remove(&self.user);
            }
        }
    }
}

impl Delivery {
    /// For at most `most` moves of cursors; `asks` goes to the loop of the core.
    pub(crate) fn new(most: usize, asks: mpsc::Sender<Ask>) -> Self {
        Self {
            asks,
            moves: Mutex::new(MoveBook::new(most, rand::random())),
            under_way: Arc::new(Semaphore::new(AT_ONCE)),
            by_user: Arc::default(),
        }
    }

    /// Takes up an explanation, where there is room for one more, and for one more of who asks.
    fn begin(&self, asker: Asker<'_>) -> Result<UnderWay, Refusal> {
        let mut by_user = self.by_user.lock();
        let of_user = by_user.get(asker.user).copied().unwrap_or_default();
        if of_user >= OF_ONE_USER && !asker.operator {
            return Err(too_many("you", OF_ONE_USER));
        }
        let permit = self.under_way.clone().try_acquire_owned();
        let permit = permit.map_err(|_| too_many("this region's users", AT_ONCE))?;
        by_user.insert(asker.user.clone(), of_user + 1);
        Ok(UnderWay { _permit: permit, by_user: self.by_user.clone(), user: asker.user.clone() })
    }

    /// Takes note of cursors that moved.
    pub(crate) fn moved<'a>(&self, log: LogId, changes: impl Iterator<Item = &'a Change>) {
        let Some(conversation) = log.as_conversation() else { return };
        let mut moves = self.moves.lock();
        changes.for_each(|change| moves.changed(conversation, change));
    }

    fn passed(
        &self,
        (conversation, user, kind): (ConversationId, &UserId, CursorKind),
        sequence: u64,
        now: Timestamp,
    ) -> Option<Timestamp> {
        self.moves.lock().passed(conversation, user, kind, sequence, now)
    }
}

fn too_many(whose: &str, most: usize) -> Refusal {
    let text = format!("as many explanations as {whose} may ask for at a time are being made");
    Refusal::new(ErrorCode::Overloaded, text).with_retry_after(1).with_limit(format!("{most} explanations at a time"))
}

fn no_answer() -> Refusal {
    Refusal::new(ErrorCode::Overloaded, "too many questions wait for this region's core").with_retry_after(1)
}

impl Region {
    /// Asks the loop of the core.
    async fn ask_loop<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Refusal> {
        self.check_store()?;
        let (answer, told) = oneshot::channel();
        self.delivery.asks.try_send(ask(answer)).map_err(|_| no_answer())?;
        told.await.map_err(|_| self.unavailable())
    }

    /// Answers a call about the way of a message.
    pub(crate) async fn delivery_call(
        self: &Arc<Self>,
        user: &UserId,
        call: &DeliveryCall,
        pass_on: bool,
    ) -> Result<ApiAnswer, Refusal> {
        match call {
            DeliveryCall::Explain { request, operator } if pass_on => {
                let asker = Asker { user, operator: *operator };
                let explained = self.explain(asker, request.conversation_id, request.name()?, &request.user_id);
                Ok(ApiAnswer::json(200, &explained.await?))
            }
            DeliveryCall::Explain { .. } => Err(Refusal::invalid("an explanation is made where it is asked for")),
            DeliveryCall::Locate { conversation, name } => {
                Ok(ApiAnswer::json(200, &self.locate(user, *conversation, *name).await?))
            }
            DeliveryCall::Part { conversation, name, user: to, entry } => {
                let question = Question { conversation: *conversation, name: *name, user: to };
                Ok(ApiAnswer::json(200, &self.delivery_part(user, question, entry.as_ref()).await?))
            }
        }
    }

    /// The conversation in which a message of an id passed this region within the last hour.
    ///
    /// # Errors
    /// `NOT_FOUND` for none, `INVALID_MESSAGE` for several.
    pub(crate) async fn conversation_of(&self, id: MessageId) -> Result<ConversationId, Refusal> {
        let found = self.ask_loop(|answer| Ask::Where { id: id.0, answer }).await?;
        match found.as_slice() {
            [conversation] => Ok(*conversation),
            [] => {
                let why = format!(
                    "no message {id} passed {} within the last hour, or it is older than what is kept",
                    self.me()
                );
                Err(Refusal::new(ErrorCode::NotFound, format!("{why}: name its conversation")))
            }
            several => {
                let some: Vec<String> = several.iter().take(8).map(ToString::to_string).collect();
                let text = format!("{id} is a message in several conversations: name one of {}", some.join(", "));
                Err(Refusal::invalid(text))
            }
        }
    }

    /// Explains where a message is on its way to a user.
    pub(crate) async fn explain(
        self: &Arc<Self>,
        asker: Asker<'_>,
        conversation: ConversationId,
        name: MessageName,
        user: &UserId,
    ) -> Result<ExplanationPayload, Refusal> {
        let _under_way = self.delivery.begin(asker)?;
        let view = self.view(LogId::conversation(conversation), true).await?;
        if !asker.operator {
            check_mode(&view, asker.user)?;
            // Who is no member costs the other regions nothing, where that is known here.
            let stranger = view.held && !view.behind && !members_have(&view, asker.user);
            if stranger && self.holds(&view) {
                return Err(Refusal::no_conversation());
            }
        }
        let (reached, mut out_of_reach) = self.other_regions();
        let entry = self.locate_anywhere(asker.user, (conversation, name), &reached).await?;
        let call = DeliveryCall::Part { conversation, name, user: user.clone(), entry: entry.clone() };
        let asked = reached.iter().map(|region| self.ask_region::<RegionPart>(region, asker.user, &call));
        let question = Question { conversation, name, user };
        let here = self.delivery_part(asker.user, question, entry.as_ref());
        let (here, told) = tokio::join!(here, join_all(asked));
        let mut parts = vec![here?];
        for (region, part) in reached.into_iter().zip(told) {
            match part {
                Some(part) => parts.push(part),
                None => out_of_reach.push(region),
            }
        }
        explain(question, asker, &parts, &out_of_reach)
    }

    /// The other regions of the mesh: those in reach, and the others.
    fn other_regions(&self) -> (Vec<RegionId>, Vec<RegionId>) {
        let others = self.options.map.regions.iter().filter(|region| *region != self.me());
        others.cloned().partition(|region| self.links.is_up(region))
    }

    /// What another region answers; `None` when it does not, or cannot.
    async fn ask_region<T: DeserializeOwned>(
        &self,
        region: &RegionId,
        user: &UserId,
        call: &DeliveryCall,
    ) -> Option<T> {
        let answer = self.proxy(region, user, &ApiCall::Delivery(call.clone())).await;
        (answer.status == 200).then(|| serde_json::from_slice(&answer.body).ok())?
    }

    async fn locate_anywhere(
        self: &Arc<Self>,
        asker: &UserId,
        (conversation, name): (ConversationId, MessageName),
        reached: &[RegionId],
    ) -> Result<Option<EntryFacts>, Refusal> {
        if let Some(found) = self.locate(asker, conversation, name).await? {
            return Ok(Some(found));
        }
        let call = DeliveryCall::Locate { conversation, name };
        let asked = reached.iter().map(|region| self.ask_region::<Option<EntryFacts>>(region, asker, &call));
        Ok(EntryFacts::newest(join_all(asked).await.into_iter().flatten().flatten()))
    }
}

fn members_have(view: &region_model::LogView, user: &UserId) -> bool {
    view.view.members().is_some_and(|members| members.contains_key(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_explanations_and_whoever_is_done_may_ask_again() {
        let delivery = Delivery::new(1, mpsc::channel(1).0);
        let users: Vec<UserId> = (0..20).filter_map(|number| UserId::new(format!("u{number}")).ok()).collect();
        let asks = |user: &UserId, operator| delivery.begin(Asker { user, operator });
        let of_one: Vec<UnderWay> = (0..OF_ONE_USER).filter_map(|_| asks(&users[0], false).ok()).collect();
        assert_eq!(of_one.len(), OF_ONE_USER);
        let refusal = asks(&users[0], false).expect_err("one too many");
        assert_eq!(
            (refusal.error, refusal.limit.as_deref()),
            (ErrorCode::Overloaded, Some("4 explanations at a time"))
        );
        let others: Vec<UnderWay> =
            users[1..].iter().cycle().take(100).filter_map(|user| asks(user, false).ok()).collect();
        assert_eq!(others.len(), AT_ONCE - OF_ONE_USER, "as many as the region makes");
        drop(of_one);
        assert!(asks(&users[0], false).is_ok(), "it is done");
        drop(others);
        assert!(delivery.by_user.lock().is_empty());
        let operator: Vec<UnderWay> = (0..AT_ONCE + 1).filter_map(|_| asks(&users[0], true).ok()).collect();
        assert_eq!(operator.len(), AT_ONCE, "an operator may take them all");
    }
}
