//! What a region says while its store cannot be used: for good, when it failed, or for now, while it is **away**.
//!
//! A store that is away answers later by itself, and whatever the core asked of it waits. Who asks the region meanwhile is
//! refused at once instead of waiting for as long: what was taken before may still be done, and is answered when it is.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use hearth_protocol::{ErrorCode, Refusal};
use tokio::sync::watch;

use crate::region::{Region, STOPPED};

/// When a client asks again; a store that comes back takes some of them at once.
const ASK_AGAIN_SECONDS: u64 = 2;

/// Since when a store does not answer, and why.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    began: Instant,
    reason: Arc<str>,
}

/// What a region knows of its store.
#[derive(Debug)]
pub(crate) struct StoreState {
    pub(crate) failed: watch::Sender<Option<String>>,
    away: watch::Sender<Option<Outage>>,
}

impl Default for StoreState {
    fn default() -> Self {
        Self { failed: watch::Sender::new(None), away: watch::Sender::new(None) }
    }
}

impl StoreState {
    /// Why the store does not answer, while it does not.
    pub(crate) fn away(&self) -> Option<Arc<str>> {
        self.away.borrow().as_ref().map(|outage| outage.reason.clone())
    }

    /// Resolves once the store does not answer.
    pub(crate) async fn until_away(&self) {
        // The sender lives in the region that the waiter holds.
        let _ = self.away.subscribe().wait_for(Option::is_some).await;
    }
}

impl Region {
    /// The store failed: nothing is sequenced any more, and everybody is told why.
    pub(crate) fn fail(&self, reason: &str) {
        let first = self.store.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                *failed = Some(reason.to_owned());
            }
            first
        });
        if first && reason != STOPPED {
            tracing::error!(region = %self.me(), reason, "the store failed: this region stops");
        }
    }

    /// The store does not answer (`reason`), or does again. Each is logged once.
    pub(crate) fn set_away(&self, reason: Option<Arc<str>>) {
        let before = self.store.away.borrow().clone();
        match (&before, reason) {
            (None, Some(reason)) => {
                tracing::warn!(region = %self.me(), %reason, "the store does not answer: what needs it waits");
                self.store.away.send_replace(Some(Outage { began: Instant::now(), reason }));
            }
            (Some(outage), None) => {
                let seconds = outage.began.elapsed().as_secs();
                tracing::info!(region = %self.me(), seconds, "the store answers again");
                self.store.away.send_replace(None);
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    /// What everybody is told once the store failed.
    pub(crate) fn unavailable(&self) -> Refusal {
        Refusal::new(ErrorCode::StoreUnavailable, "this region's store is unavailable; other regions serve")
            .with_retry_after(5)
    }

    /// What everybody is told while the store does not answer.
    pub(crate) fn away_for_now(&self) -> Refusal {
        let text = "this region's store does not answer now; what was sent before may still be done";
        Refusal::new(ErrorCode::StoreUnavailable, text).with_retry_after(ASK_AGAIN_SECONDS)
    }

    /// Resolves once the store failed.
    pub(crate) async fn until_failed(failed: &mut watch::Receiver<Option<String>>) {
        // The sender lives in the region that the waiter holds.
        let _ = failed.wait_for(Option::is_some).await;
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.store.failed.borrow().is_some()
    }

    /// # Errors
    /// `STORE_UNAVAILABLE` when the store failed, or does not answer now.
    pub(crate) fn check_store(&self) -> Result<(), Refusal> {
        if self.has_failed() {
            return Err(self.unavailable());
        }
        if self.store.away.borrow().is_some() { Err(self.away_for_now()) } else { Ok(()) }
    }

    /// Work of a request, as long as the store answers.
    pub(crate) async fn while_there<T>(&self, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        self.check_store()?;
        tokio::select! {
            biased;
            done = work => done,
            () = self.store.until_away() => Err(self.away_for_now()),
        }
    }
}
