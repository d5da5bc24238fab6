//! Whether the store can still be believed. A write or a sync that failed once is never tried again.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

/// Set once, for ever.
#[derive(Debug)]
pub(super) struct Broken {
    reason: OnceLock<Arc<str>>,
    told: watch::Sender<Option<Arc<str>>>,
}

impl Broken {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { reason: OnceLock::new(), told: watch::Sender::new(None) })
    }

    /// Why the store is broken, if it is.
    pub(super) fn reason(&self) -> Option<Arc<str>> {
        self.reason.get().cloned()
    }

    /// Breaks the store; answers the first reason.
    pub(super) fn set(&self, reason: &str) -> Arc<str> {
        let first = self.reason.get_or_init(|| {
            tracing::error!(reason, "the store is broken");
            Arc::from(reason)
        });
        self.told.send_if_modified(|told| {
            let news = told.is_none();
            *told = Some(Arc::clone(first));
            news
        });
        Arc::clone(first)
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.told.subscribe()
    }

    /// Breaks the store when the thread that holds it panics.
    pub(super) fn guard(self: &Arc<Self>) -> PanicGuard {
        PanicGuard(Arc::clone(self))
    }
}

pub(super) struct PanicGuard(Arc<Broken>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set("the committer panicked");
        }
    }
}
