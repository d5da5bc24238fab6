//! Whether a message is worth waking a user's devices, decided once a user and message at the home of the user's record.
//!
//! ```text
//!   offered ──grace──► decided: pushed (collapsed with what else is due of its conversation) or withheld, and why
//!      │ own message, in view at any device then or in the grace: withheld at once
//!      └ read meanwhile, muted, not mentioned, too old: withheld when the grace is over
//!   read covers all that was pushed ──► clear
//! ```
//! The home of a conversation offers its entries in ascending order once the mark has passed them, and offers again what
//! it does not know to be decided: what is at or below the newest decided position is a repeat, and decided no more.

mod desk;
mod offering;
mod offers;
pub mod ports;
mod record;
mod screens;
mod state;
#[cfg(test)]
mod tests;
pub mod wire;

pub use hearth_protocol::push::{Preferences, PushPolicy};
use hearth_protocol::{LogId, Position, Timestamp, UserId};
use uuid::Uuid;

pub use desk::{Desk, DeskUser, Turn, Wish};
pub use offering::{FirstWanted, Offering};
pub use offers::{Due, Offered, Offers, Wanted, Watchers};
pub use record::{Records, concerns_push, decides_under};
pub use screens::Screens;
pub use state::{Kept, UserPush};

/// Conversations of one user of which something is remembered. Above it those that were not used for the longest go,
/// those with nothing waiting and nothing pushed first.
pub const CONVERSATIONS: usize = 1_024;
/// Messages of one conversation that wait for their grace. Above it the oldest is decided at once.
pub const WAITING: usize = 256;
/// Pushed messages of one conversation that are counted: a notification never says more.
pub const COUNTED: usize = 100;
/// Ids of decided messages that are remembered a user: one that a failover took away and that got another position
/// later is decided once, unless so many were decided in between.
pub const REMEMBERED: usize = 256;
/// Epochs of one conversation whose read cursors are remembered. Of more the oldest goes.
pub const READ_EPOCHS: usize = 8;
/// Views of one user that count: of more devices the newest.
pub const VIEWS: usize = 64;

/// How long things may take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushTimes {
    /// How long a message waits for a device to read it. Messages of this time in one conversation are one push.
    pub grace: u64,
    /// How long a view counts after a region said that it is there: a region that is cut off cannot take it back.
    pub view_counts: u64,
    /// A message that is offered so long after it was sequenced wakes nobody.
    pub stale: u64,
}

impl Default for PushTimes {
    fn default() -> Self {
        Self { grace: 2_000, view_counts: 90_000, stale: 24 * 3_600_000 }
    }
}

/// A message that may be pushed, as the home of its conversation offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The conversation.
    pub log: LogId,
    /// Where it stands.
    pub position: Position,
    /// Its id.
    pub message: Uuid,
    /// Who wrote it.
    pub sender: UserId,
    /// Whether it names the user.
    pub mentions: bool,
    /// When it was sequenced.
    pub sequenced_at: Timestamp,
    /// When its content goes away.
    pub expires_at: Option<Timestamp>,
}

/// Why a message wakes nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Withheld {
    /// The user wrote it.
    Own,
    /// A device has the conversation in view.
    InView,
    /// A device read it.
    Read,
    /// The conversation is muted.
    Muted,
    /// Only mentions are wanted, and it names others.
    NotMentioned,
    /// Nothing is wanted of the conversation.
    Unwanted,
    /// It came too late, or its content is gone already.
    Stale,
    /// It was decided at the position that it had before a failover.
    Repeated,
}

impl Withheld {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::Own,
        Self::InView,
        Self::Read,
        Self::Muted,
        Self::NotMentioned,
        Self::Unwanted,
        Self::Stale,
        Self::Repeated,
    ];

    /// The reason as a label of metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::InView => "in_view",
            Self::Read => "read",
            Self::Muted => "muted",
            Self::NotMentioned => "not_mentioned",
            Self::Unwanted => "unwanted",
            Self::Stale => "stale",
            Self::Repeated => "repeated",
        }
    }
}

/// What was decided of one message: exactly one an offered position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The conversation.
    pub log: LogId,
    /// The message's position.
    pub position: Position,
    /// Its id.
    pub message: Uuid,
    /// Why it is withheld; `None` when it is pushed.
    pub withheld: Option<Withheld>,
}

/// What the user's devices are to show of a conversation: the newest replaces what was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Showing {
    /// A notification.
    Notify {
        /// Pushed messages that are not read, up to [`COUNTED`].
        unread: u32,
        /// Whether one of those names the user.
        mentions: bool,
        /// When the newest's content goes away.
        expires_at: Option<Timestamp>,
    },
    /// Nothing any more: all that was pushed is read.
    Clear,
}

/// One push to all of the user's subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The conversation.
    pub log: LogId,
    /// The newest message that it is about; for a clear, the newest that was pushed.
    pub position: Position,
    /// What to show.
    pub showing: Showing,
}

/// What follows from an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Decisions, in the order in which they were made.
    pub decisions: Vec<Decision>,
    /// Pushes, at most one a conversation.
    pub pushes: Vec<Push>,
}
