//! How many sessions are opened at once. After a failure everybody comes at the same time: who resumes, and costs
//! little, goes past those who log in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hearth_protocol::{ErrorCode, Refusal};
use tokio::sync::{Semaphore, SemaphorePermit};

/// How long a client waits for its turn before it is told to come back.
const PATIENCE: Duration = Duration::from_secs(8);

/// Places for sessions that are being opened: two queues, each in the order in which clients came.
#[derive(Debug)]
pub(crate) struct Admission {
    logins: Semaphore,
    resumes: Semaphore,
    most: (usize, usize),
    patience: Duration,
    refused: AtomicU64,
}

impl Admission {
    /// Room for so many logins and so many resumes, 1 or more each.
    pub(crate) fn new(logins: usize, resumes: usize) -> Self {
        Self {
            logins: Semaphore::new(logins),
            resumes: Semaphore::new(resumes),
            most: (logins, resumes),
            patience: PATIENCE,
            refused: AtomicU64::new(0),
        }
    }

    /// Waits for a place; it is free again when the permit is dropped.
    ///
    /// # Errors
    /// `OVERLOADED` when there was none for 8 s.
    pub(crate) async fn admit(&self, resumes: bool) -> Result<SemaphorePermit<'_>, Refusal> {
        let queue = if resumes { &self.resumes } else { &self.logins };
        if let Ok(Ok(permit)) = tokio::time::timeout(self.patience, queue.acquire()).await {
            return Ok(permit);
        }
        let limit = if resumes {
            format!("resumes_at_once: {}", self.most.1)
        } else {
            format!("logins_at_once: {}", self.most.0)
        };
        let refusal = Refusal::new(ErrorCode::Overloaded, "too many clients come to this node at once");
        // Not all of them come back at the same moment.
        Err(refusal.with_limit(limit).with_retry_after(1 + self.refused.fetch_add(1, Ordering::Relaxed) % 5))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn resumes_go_past_logins_and_who_waits_too_long_is_told_when_to_come_back() {
        let admission = Admission { patience: Duration::from_millis(20), ..Admission::new(1, 2) };
        let first = admission.admit(false).await.expect("there is a place");
        assert!(admission.admit(false).now_or_never().is_none(), "one login at a time");
        let resumed = [admission.admit(true).await.expect("a place"), admission.admit(true).await.expect("a place")];
        let refusal = admission.admit(false).await.expect_err("it waited");
        assert_eq!((refusal.error, refusal.limit.as_deref()), (ErrorCode::Overloaded, Some("logins_at_once: 1")));
        assert!(refusal.retry_after.is_some_and(|seconds| (1..=5).contains(&seconds)));
        drop(first);
        assert!(admission.admit(false).await.is_ok());
        drop(resumed);
    }
}
