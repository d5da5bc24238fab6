//! Rates of a run, low enough to be reached now and then: of users at their node, as `region_model::session` counts them,
//! and of conversations at their homes. Some regions have none.

use hearth_protocol::{ErrorCode, MessageId, Refusal};
use region_model::Outcome;
use region_model::session::MessageRate;

use crate::history::Event;
use crate::random::Random;
use crate::world::World;

/// Of a hundred regions so many limit what users send, and what is sent to a conversation.
const LIMITED: u64 = 50;
/// Messages a minute of a user at such a node, at least and at most.
const OF_A_USER: (u64, u64) = (70, 110);
/// Messages a minute of a conversation at such a home, at least and at most.
const OF_A_CONVERSATION: (u64, u64) = (150, 300);

/// What one region limits; 0: nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) user: u32,
    pub(crate) conversation: u32,
}

impl Limits {
    /// From chances of their own, so that the rest of a seed's plan is the same.
    pub(crate) fn of(seed: u64, region: usize) -> Self {
        let mut random = Random::of(seed, "limits", region);
        let mut drawn = |(low, high)| {
            let limit = random.between(low, high);
            if random.percent(LIMITED) { u32::try_from(limit).unwrap_or(0) } else { 0 }
        };
        Self { user: drawn(OF_A_USER), conversation: drawn(OF_A_CONVERSATION) }
    }
}

impl World {
    /// A node counts what came from a client.
    ///
    /// # Errors
    /// What it refuses it with.
    pub(crate) fn counted(
        &mut self,
        place: usize,
        client: usize,
        conversation: usize,
        message: MessageId,
    ) -> Result<(), Refusal> {
        let now = self.now_of(place).monotonic;
        let id = self.conversations[conversation].id;
        let region = &mut self.regions[place];
        let per_minute = region.limits.user;
        if per_minute == 0 {
            return Ok(());
        }
        let rate = region.rates.entry(client).or_insert_with(|| MessageRate::new(per_minute, now));
        let taken = rate.take(id, message, now);
        let (process, user) = ((place, region.start), self.clients[client].user.clone());
        let event = Event::Counted { process, user, conversation: id, message, per_minute, taken: taken.is_ok() };
        self.history.add(self.now, event);
        taken
    }

    /// A client hears of a region how a message ended: whether the home had too many of its conversation.
    pub(crate) fn limited(
        &mut self,
        conversation: hearth_protocol::ConversationId,
        message: MessageId,
        outcome: &Outcome,
    ) {
        if let Outcome::Refused(refusal) = outcome
            && refusal.error == ErrorCode::RateLimited
        {
            self.trace.count(self.now, "rate-limited", 0, 0);
            self.history.add(self.now, Event::Limited(conversation, message));
        }
    }
}
