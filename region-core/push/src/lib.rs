//! Push notifications: what was decided (`region_model::push`) waits in a bounded queue and goes to the push services.
//!
//! ```text
//!   Push ─ enqueue ─► PushQueue ─ Dispatcher ─► PushSender: log, Web Push, APNs, FCM
//!            one job a subscription     │  gone: the subscription is dropped; wait: its way rests; failed: later
//!                                       └─ Directory: subscriptions and previews
//! ```
//! Nothing in here decides whether a message is pushed. No token, endpoint or text is in a log line or an error.

pub mod apns;
mod collapse;
mod dispatch;
pub mod fcm;
mod http;
mod log;
mod payload;
mod public;
mod queue;
mod rests;
mod stored;
pub mod web_push;

pub use collapse::CollapseKey;
pub use dispatch::{Directory, DispatchOptions, Dispatcher, Said, Senders, enqueue};
pub use http::{Addresses, HttpOptions, Roots};
pub use log::LogSender;
pub use queue::MemoryQueue;
pub use stored::StoredQueue;

/// Why a sender cannot be made of what the operator configured.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A key does not read. What it was is not said.
    #[error("{what} is not {expected}")]
    Key {
        /// Which.
        what: &'static str,
        /// The form that it needs.
        expected: &'static str,
    },
    /// A value is outside its bounds.
    #[error("{what} {rule}")]
    Value {
        /// Which.
        what: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// The HTTP client could not be made.
    #[error("the HTTP client cannot be made")]
    Http(#[source] reqwest::Error),
}
