//! What push asks of the outside: a queue of what is to be sent, and whoever sends it. Records hold positions, never text.

use std::time::Duration;

use async_trait::async_trait;
pub use hearth_protocol::push::{Service, Subscription, Target};
use hearth_protocol::{ConversationId, Position, Timestamp, UserId};
use uuid::Uuid;

use super::{Push, Showing};

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

impl PushJob {
    /// The jobs of what was decided, one a subscription; `lives` is how long one may wait for its device, in milliseconds.
    #[must_use]
    pub fn of(user: &UserId, subscriptions: &[Subscription], push: &Push, now: Timestamp, lives: u64) -> Vec<Self> {
        let Some(conversation) = push.log.as_conversation() else { return Vec::new() };
        let expires_at = match push.showing {
            Showing::Notify { expires_at, .. } => expires_at,
            Showing::Clear => None,
        };
        let not_after = Timestamp(now.0.saturating_add(lives)).min(expires_at.unwrap_or(Timestamp(u64::MAX)));
        let job = |subscription: &Subscription| Self {
            user: user.clone(),
            subscription: subscription.id,
            conversation,
            position: push.position,
            showing: push.showing.clone(),
            not_after,
            tries: 0,
        };
        subscriptions.iter().map(job).collect()
    }
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
