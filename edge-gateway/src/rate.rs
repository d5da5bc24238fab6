//! How many messages a user may send in a minute, over all of the user's sessions in this region.

use std::collections::HashMap;
use std::sync::Arc;

use hearth_protocol::{ConversationId, MessageId, Refusal, UserId};
use parking_lot::Mutex;
use region_core::MessageRate;

/// Users remembered. Above it, users without a session and with a full bucket go first, then any without a session.
const USERS: usize = 100_000;

/// Buckets of all users of this region.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    per_minute: u32,
    users: Mutex<HashMap<UserId, Arc<UserRate>>>,
}

/// The bucket of one user, shared by the user's sessions; `None`: no limit.
#[derive(Debug)]
pub(crate) struct UserRate(Option<Mutex<MessageRate>>);

impl RateLimiter {
    /// `per_minute` 0: no limit.
    #[must_use]
    pub(crate) fn new(per_minute: u32) -> Self {
        Self { per_minute, users: Mutex::new(HashMap::new()) }
    }

    /// The bucket of a user. `now` in ticks.
    #[must_use]
    pub(crate) fn user(&self, user: &UserId, now: u64) -> Arc<UserRate> {
        let mut users = self.users.lock();
        if let Some(rate) = users.get(user) {
            return Arc::clone(rate);
        }
        if users.len() >= USERS {
            make_room(&mut users, now);
        }
        let rate = Arc::new(UserRate::new(self.per_minute, now));
        if self.per_minute > 0 {
            users.insert(user.clone(), Arc::clone(&rate));
        }
        rate
    }
}

fn make_room(users: &mut HashMap<UserId, Arc<UserRate>>, now: u64) {
    users.retain(|_, rate| Arc::strong_count(rate) > 1 || !rate.is_idle(now));
    if users.len() >= USERS {
        users.retain(|_, rate| Arc::strong_count(rate) > 1);
    }
}

impl UserRate {
    fn new(per_minute: u32, now: u64) -> Self {
        Self((per_minute > 0).then(|| Mutex::new(MessageRate::new(per_minute, now))))
    }

    fn is_idle(&self, now: u64) -> bool {
        self.0.as_ref().is_none_or(|rate| rate.lock().is_idle(now))
    }

    /// Counts a message at `now` (ticks), as [`MessageRate::take`].
    ///
    /// # Errors
    /// `RATE_LIMITED` with the limit and the whole seconds after which one message is free again.
    pub(crate) fn take(&self, conversation: ConversationId, message: MessageId, now: u64) -> Result<(), Refusal> {
        self.0.as_ref().map_or(Ok(()), |rate| rate.lock().take(conversation, message, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: u64 = 60_000;

    use proptest::prelude::*;
    use uuid::Uuid;

    fn conversation() -> ConversationId {
        ConversationId(Uuid::from_u128(1))
    }

    fn message(number: u128) -> MessageId {
        MessageId(Uuid::from_u128(number))
    }

    #[test]
    fn the_hundred_and_first_message_of_a_minute_is_refused_with_a_time_that_holds() {
        let rate = UserRate::new(100, 0);
        for number in 0..100 {
            rate.take(conversation(), message(number), 0).unwrap();
        }
        let refusal = rate.take(conversation(), message(100), 0).unwrap_err();
        assert_eq!(refusal.error, hearth_protocol::ErrorCode::RateLimited);
        assert_eq!(refusal.limit.as_deref(), Some("100 messages a minute"));
        let wait = refusal.retry_after.unwrap();
        rate.take(conversation(), message(100), wait * 1000).unwrap();
    }

    #[test]
    fn a_retry_of_a_counted_id_is_free_but_not_without_end() {
        let rate = UserRate::new(2, 0);
        rate.take(conversation(), message(1), 0).unwrap();
        rate.take(conversation(), message(2), 0).unwrap();
        for _ in 0..20 {
            rate.take(conversation(), message(1), 0).unwrap();
        }
        assert!(rate.take(conversation(), message(1), 0).is_err());
        assert!(rate.take(conversation(), message(3), 0).is_err());
    }

    #[test]
    fn sessions_of_one_user_share_a_bucket_and_zero_means_no_limit() {
        let limiter = RateLimiter::new(1);
        let ann = UserId::new("ann").unwrap();
        limiter.user(&ann, 0).take(conversation(), message(1), 0).unwrap();
        assert!(limiter.user(&ann, 0).take(conversation(), message(2), 0).is_err());
        let bob = UserId::new("bob").unwrap();
        limiter.user(&bob, 0).take(conversation(), message(2), 0).unwrap();
        let open = RateLimiter::new(0).user(&ann, 0);
        for number in 0..10_000 {
            open.take(conversation(), message(number), 0).unwrap();
        }
    }

    proptest! {
        #[test]
        fn in_any_span_no_more_pass_than_the_burst_and_the_refill(
            per_minute in 1u32..500,
            gaps in proptest::collection::vec(0u64..2_000, 1..400),
        ) {
            let rate = UserRate::new(per_minute, 0);
            let (mut now, mut passed) = (0u64, 0u64);
            for (number, gap) in gaps.iter().enumerate() {
                now += gap;
                match rate.take(conversation(), message(number as u128), now) {
                    Ok(()) => passed += 1,
                    Err(refusal) => {
                        let wait = refusal.retry_after.unwrap();
                        prop_assert!((1..=61).contains(&wait));
                    }
                }
                let most = u64::from(per_minute) + now * u64::from(per_minute) / MINUTE_MS;
                prop_assert!(passed <= most);
            }
        }
    }
}
