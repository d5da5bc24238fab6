//! How many messages a user may send in a minute, over all of the user's sessions at a node.

use std::collections::VecDeque;

use hearth_protocol::{ConversationId, ErrorCode, MessageId, Refusal};

use crate::bucket::Bucket;
use crate::mutants::Mutant;

/// Ids of a user whose retries are free.
const RECENT: usize = 256;
/// Free retries a minute, as a multiple of the limit: a retry is work too.
const RETRIES: u64 = 10;

/// What one user has sent lately.
#[derive(Clone, Debug)]
pub struct MessageRate {
    per_minute: u32,
    messages: Bucket,
    retries: Bucket,
    recent: VecDeque<(ConversationId, MessageId)>,
}

impl MessageRate {
    /// Nothing was sent. `now` in milliseconds of any clock that does not go back.
    #[must_use]
    pub fn new(per_minute: u32, now: u64) -> Self {
        let limit = u64::from(per_minute);
        let (messages, retries) = (Bucket::full(limit, now), Bucket::full(limit * RETRIES, now));
        Self { per_minute, messages, retries, recent: VecDeque::new() }
    }

    /// Counts a message. A retry of an id that was counted is free.
    ///
    /// # Errors
    /// `RATE_LIMITED` with the limit and the whole seconds after which one message is free again.
    pub fn take(&mut self, conversation: ConversationId, message: MessageId, now: u64) -> Result<(), Refusal> {
        let key = (conversation, message);
        let retried = self.recent.contains(&key) && !Mutant::RetriesCount.is_on();
        let taken = if retried { self.retries.take(now) } else { self.messages.take(now) };
        if let Err(wait) = taken {
            let refusal = Refusal::new(ErrorCode::RateLimited, "too many messages, slow down");
            return Err(refusal
                .with_limit(format!("{} messages a minute", self.per_minute))
                .with_retry_after(wait.div_ceil(1000).max(1)));
        }
        if !retried {
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(key);
        }
        Ok(())
    }

    /// Whether nothing was sent lately.
    pub fn is_idle(&mut self, now: u64) -> bool {
        self.messages.is_full(now)
    }
}
