//! What push asks of the outside: a queue of what is to be sent, and whoever sends it. Records hold positions, never text.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hearth_protocol::{ConversationId, DeviceId, Position, Timestamp, UserId};
use uuid::Uuid;

use super::Showing;

/// Where a push service delivers to.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// A browser's subscription (RFC 8030).
    WebPush {
        /// The push resource. Whoever knows it can send there.
        endpoint: String,
        /// The browser's key: a point of P-256, 65 bytes, uncompressed.
        p256dh: Bytes,
        /// The browser's secret, 16 bytes.
        auth: Bytes,
    },
    /// A device of Apple's service.
    Apns {
        /// The device token in hexadecimal.
        device_token: String,
    },
    /// A device of Firebase Cloud Messaging.
    Fcm {
        /// The registration token.
        registration: String,
    },
}

impl Target {
    /// The kind of service.
    #[must_use]
    pub fn service(&self) -> Service {
        match self {
            Self::WebPush { .. } => Service::WebPush,
            Self::Apns { .. } => Service::Apns,
            Self::Fcm { .. } => Service::Fcm,
        }
    }
}

/// Says the service alone: all of the rest would let a reader of a log send.
impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Target").field(&self.service()).finish()
    }
}

impl Service {
    /// The service as a label of metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::WebPush => "web_push",
            Self::Apns => "apns",
            Self::Fcm => "fcm",
        }
    }
}

/// A kind of push service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Web Push.
    WebPush,
    /// Apple's.
    Apns,
    /// Firebase's.
    Fcm,
}

/// A device's subscription, as its user's record has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Its id.
    pub id: Uuid,
    /// The device that made it.
    pub device: DeviceId,
    /// When the device last said that it holds.
    pub registered_at: Timestamp,
    /// Where it leads.
    pub target: Target,
}

/// What is to be sent to one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushJob {
    /// Whose.
    pub user: UserId,
    /// Which of the user's subscriptions.
    pub subscription: Uuid,
    /// The conversation that it is about. One job a subscription and conversation waits; a later one replaces it.
    pub conversation: ConversationId,
    /// The newest message that it is about.
    pub position: Position,
    /// What to show.
    pub showing: Showing,
    /// When nobody is to be woken by it any more.
    pub not_after: Timestamp,
    /// How often it was tried.
    pub tries: u32,
}

/// Names a job that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// What became of a job that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It waits.
    Queued,
    /// It waits in the place of an earlier one.
    Replaced,
    /// So many wait that this one is not taken: its devices find the message at their next sync.
    Full,
}

/// Jobs that wait. At least once: a job that was taken and not said to be done comes again when its loan is over.
#[async_trait]
pub trait PushQueue: Send + Sync + std::fmt::Debug {
    /// Adds a job, or replaces the one that waits for the same subscription and conversation; a replaced one keeps its
    /// place and its time. A job that is lent is not replaced: the new one waits behind it, and is not lent before the
    /// other is done or set to later.
    async fn put(&self, job: PushJob, due: Timestamp) -> Put;

    /// Lends at most `most` jobs that are due, the oldest first, until `loan` has passed.
    async fn take(&self, now: Timestamp, loan: Duration, most: usize) -> Vec<(JobId, PushJob)>;

    /// A lent job is over. Nothing happens when it is not there any more.
    async fn done(&self, id: JobId);

    /// A lent job is to be tried again later, `tries` attempts having been made. Where a newer one waits for the same
    /// subscription and conversation, that one takes its place, and waits as long.
    async fn later(&self, id: JobId, due: Timestamp, tries: u32);

    /// When the next job is due, or a loan over.
    async fn next_due(&self) -> Option<Timestamp>;

    /// Waits until a job was put, or set to another time, since the last call that returned.
    async fn changed(&self);
}

/// What a message says on a lock screen, where the operator wants it to say anything.
#[derive(Clone, PartialEq, Eq)]
pub struct Preview {
    /// Who wrote, or which group.
    pub title: String,
    /// What. Cut where it does not fit.
    pub text: String,
}

/// Never what it says.
impl std::fmt::Debug for Preview {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Preview")
    }
}

/// How much a notification says to a push service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// That there is something, and nothing else: the client asks its region. Which conversation replaces which on the
    /// device is told by a keyed hash.
    Nothing,
    /// The conversation and the position.
    Ids,
    /// Also what the message says.
    Preview(Preview),
}

/// One push, as a sender gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The conversation.
    pub conversation: ConversationId,
    /// What replaces what on the device: at most 32 characters of the URL-safe base64 alphabet.
    pub collapse: String,
    /// The newest message.
    pub position: Position,
    /// What to show.
    pub showing: Showing,
    /// How much to say.
    pub detail: Detail,
    /// When nobody is to be woken by it any more.
    pub not_after: Timestamp,
}

/// How far a request to wait reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This subscription.
    Subscription,
    /// Everything that goes the same way ([`PushSender::way`]).
    Way,
}

/// What came of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The service has it.
    Accepted,
    /// The subscription is dead: it is to be dropped, and never used again.
    Gone,
    /// Not now: no more attempts in this scope before `after` has passed (`None`: the sender's own patience).
    Wait {
        /// What rests.
        scope: Scope,
        /// For how long, as the service says.
        after: Option<Duration>,
    },
    /// It may go well another time: a lost connection, an error of the service.
    Failed(&'static str),
    /// It will never go well: what was sent, or the operator's credentials, are wrong. The reason is from a closed set.
    Refused(&'static str),
}

/// Sends to one kind of push service.
#[async_trait]
pub trait PushSender: Send + Sync + std::fmt::Debug {
    /// What rests together when the service asks for it: a service, or an origin of it.
    fn way(&self, to: &Subscription) -> String;

    /// One attempt. It ends within a minute, whatever the service does.
    async fn send(&self, to: &Subscription, notice: &Notice, now: Timestamp) -> Sent;
}
