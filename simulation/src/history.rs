//! What clients of a mesh saw, in the order of one clock. The simulator writes it, and so do the stories over real
//! sockets; [`crate::checker`] judges both.

mod parts;

use std::sync::Arc;

use hearth_protocol::client::PresenceStatus;
use hearth_protocol::push::Preferences;
use hearth_protocol::{ConversationId, MessageId, Position, Timestamp, UserId};
use region_model::media::ports::MediaObject;
use region_model::push::Withheld;
use uuid::Uuid;

pub use parts::{Acked, AskedRegion, Did, Explained, InForce, MediaAnswer, OnDisk, ReadRow, RegionSet, Row};

/// A session of the history, by its place in [`History::sessions`].
pub type SessionId = u32;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session hands a message over, for the first time or again. Recorded before the bytes leave.
    Invoke(SessionId, ConversationId, MessageId),
    /// A client writes a text, of a message or an edit.
    Wrote(ConversationId, MessageId, String),
    /// What the row says that a session is shown.
    Says {
        /// Which session.
        session: SessionId,
        /// Where.
        conversation: ConversationId,
        /// Which row.
        message: MessageId,
        /// What it does.
        did: Did,
        /// The text that it gives.
        text: Option<String>,
    },
    /// Somebody was given a conversation from its first row on, as it stood then.
    Read {
        /// Who, for people.
        reader: String,
        /// Of which conversation.
        conversation: ConversationId,
        /// The rows. Readers that were given the same share them: they are judged once.
        rows: Arc<Vec<ReadRow>>,
    },
    /// A session hears an ack.
    Ack {
        /// Which.
        session: SessionId,
        /// Where.
        conversation: ConversationId,
        /// What.
        message: MessageId,
        /// How.
        acked: Acked,
        /// What the disks held then.
        on_disk: Option<OnDisk>,
    },
    /// A session hears that a message is held, and will be sequenced or refused.
    Queued(SessionId, ConversationId, MessageId),
    /// A session hears that a message will not be sequenced.
    Refused {
        /// Which.
        session: SessionId,
        /// Where.
        conversation: ConversationId,
        /// What.
        message: MessageId,
        /// Whether the same message may be sent again and taken.
        again: bool,
    },
    /// A region will not sequence a message that it held, and keeps that for a device that may never come back.
    RefusalKept(ConversationId, MessageId),
    /// A message that a region held for its home was acked, and its device has no connection there to hear of it.
    AckUnheard(ConversationId, MessageId, Acked),
    /// The device that handed a message over is gone for good: nobody hands it over again or hears how it ends.
    Forgotten(ConversationId, MessageId),
    /// A region held a message for its home, and its store is gone with it.
    ParkedGone(ConversationId, MessageId),
    /// The last copy of a message is gone with a store: where it was acked with that copy alone it cannot come back.
    CopyGone(ConversationId, MessageId),
    /// A session is shown an entry.
    Shown(SessionId, ConversationId, Position, MessageId),
    /// A session is told that entries were left out before what it is shown next; `None`: of any conversation.
    Told(SessionId, Option<ConversationId>),
    /// A session is told that entries from a number on have left the line.
    Rewound(SessionId, ConversationId, u64),
    /// A session is at a region from now on.
    At(SessionId, usize),
    /// A session says that its user has, or has read, everything up to a number. Recorded before the bytes leave.
    Said {
        /// Which.
        session: SessionId,
        /// Where.
        conversation: ConversationId,
        /// The number.
        up_to: u64,
        /// Whether it was read, and not only received.
        read: bool,
    },
    /// A session hears how far a member is.
    Receipt {
        /// Which.
        session: SessionId,
        /// Where.
        conversation: ConversationId,
        /// The member: the name of its sessions.
        member: String,
        /// How far.
        up_to: Position,
        /// Whether it was read, and not only received.
        read: bool,
    },
    /// A session is there, away or gone from now on.
    There {
        /// Which.
        session: SessionId,
        /// Whose.
        user: String,
        /// How.
        status: PresenceStatus,
    },
    /// A session is told whether a user is there.
    PresenceTold {
        /// Which.
        session: SessionId,
        /// Who.
        user: String,
        /// How.
        status: PresenceStatus,
        /// Whether for certain.
        sure: bool,
        /// Up to when it was known to be so, in microseconds of the run.
        as_of: u64,
    },
    /// What a region or a session takes a user for, long after the last fault.
    PresenceEnd {
        /// Which, for people.
        who: String,
        /// Of whom.
        user: String,
        /// What.
        status: PresenceStatus,
        /// Whether it says so for certain.
        sure: bool,
    },
    /// A device of a user has another conversation in view, or none any more.
    Screen(UserId, Option<ConversationId>),
    /// A user has read up to a position.
    ReadUpTo(UserId, ConversationId, Position),
    /// A message names a user.
    Names(ConversationId, MessageId, UserId),
    /// It was decided whether a message wakes a user.
    PushDecided {
        /// Whom.
        user: UserId,
        /// Of which conversation.
        conversation: ConversationId,
        /// Which message.
        message: MessageId,
        /// Where it stands.
        position: Position,
        /// Why not; `None`: it does.
        withheld: Option<Withheld>,
        /// The region that decided, the epoch of the user's record under which it did, and a number of its process.
        by: (usize, u64, u64),
        /// Since when a device of the user has had the conversation in view with nothing between it and that region, as
        /// somebody who sees everything knows.
        in_view_since: Option<u64>,
        /// What the wall clock of that region said.
        wall: Timestamp,
    },
    /// A service was sent what a user's devices are to show of a conversation.
    PushSent {
        /// Whose.
        user: UserId,
        /// Of which conversation.
        conversation: ConversationId,
        /// The newest message that it is about.
        position: Position,
        /// Whether there is something, and not nothing any more.
        notify: bool,
        /// Whether its time was over, and nothing was sent.
        is_over: bool,
        /// To which of the user's subscriptions.
        subscription: Uuid,
        /// The epoch of the user's record under which the sending region is its home, if it is.
        epoch: Option<u64>,
    },
    /// The home of a conversation says where it begins for a user of whom the home of the record has kept nothing; and what
    /// it showed of it then, up to below this number.
    PushStart(UserId, ConversationId, Position, u64),
    /// What was kept of a user's decisions on a conversation is gone with the power, or a store.
    PushForgot(UserId, ConversationId),
    /// What a user should have been woken for of a conversation, long after the last fault.
    PushEnd {
        /// Who.
        user: UserId,
        /// Of which conversation.
        conversation: ConversationId,
        /// From above which number on, and up to which, the user was a member.
        spans: Vec<(u64, u64)>,
        /// What it wanted, in the order of its record; all, before anything was said.
        wants: Vec<InForce<Preferences>>,
        /// Who decides, and under which epoch of the user's record; `None` where something has changed lately.
        decides: Option<(usize, u64)>,
    },
    /// What a user was subscribed with, in the order of its record: nothing, before anything was said. A user without this
    /// event is subscribed all the time.
    Subscribed {
        /// Who.
        user: UserId,
        /// With what.
        subscriptions: Vec<InForce<Option<Uuid>>>,
        /// When it first asked to be: what was said before wakes nobody.
        first_asked: u64,
    },
    /// A session says that its user types in a conversation, or does so no longer, and its region takes it.
    Typed {
        /// Which.
        session: SessionId,
        /// Whose.
        user: UserId,
        /// Where.
        conversation: ConversationId,
        /// Whether it types.
        typing: bool,
    },
    /// What a session has in view, from now on.
    InView {
        /// Which.
        session: SessionId,
        /// Whose.
        user: UserId,
        /// At which region.
        region: usize,
        /// What.
        conversation: Option<ConversationId>,
        /// Whether it is in the background.
        aside: bool,
    },
    /// A session is told that a user types, or does so no longer.
    TypingTold {
        /// Which.
        session: SessionId,
        /// Who.
        user: UserId,
        /// Where.
        conversation: ConversationId,
        /// Whether it types.
        typing: bool,
    },
    /// So long ago a user started to type that everybody in reach knows.
    TypingReached {
        /// Who.
        user: UserId,
        /// Where.
        conversation: ConversationId,
        /// When.
        since: u64,
        /// Sessions of other members with which there has been nothing in between for long.
        sessions: Vec<SessionId>,
    },
    /// In a direct conversation a user blocks the other one, all the time.
    Blocks(ConversationId, UserId, UserId),
    /// A region has shown that a user was removed from a conversation, or that is not so any more, or not for certain.
    ShownOut {
        /// Which.
        region: usize,
        /// From which conversation.
        conversation: ConversationId,
        /// Who.
        user: UserId,
        /// Whether.
        is_out: bool,
    },
    /// Somebody asks that a user is removed from a conversation (`true`): regions may know before they show it, and tell it
    /// nothing more. Or that it is a member again, and regions know that.
    Leaves(ConversationId, UserId, bool),
    /// A region stands still from now on, or goes on.
    StandsStill(usize, bool),
    /// Media came whole to a region.
    MediaCame(MediaObject),
    /// The bytes of media go.
    MediaTaken {
        /// Which.
        media: MediaObject,
        /// Messages that carry them, which some region shows though nobody was asked to take them away, and whose time is
        /// not over by any clock: as somebody who sees all disks knows. With each, whether the region of the media ever
        /// noted that it carries them.
        shown: Vec<(MessageId, bool)>,
        /// When whoever holds the conversation was asked what became of it.
        asked_at: u64,
    },
    /// The store of a region is gone, or an older copy there, with the media that it had.
    MediaGone(usize),
    /// Somebody asked where a message is on its way to a user.
    Explained(Box<Explained>),
    /// The wall clock of a region was set.
    ClockSet(usize),
    /// A user asks for media.
    MediaAsked {
        /// Who.
        user: UserId,
        /// For which.
        media: MediaObject,
        /// What it is answered.
        answer: MediaAnswer,
        /// Whether the region that judged has the user for a member.
        is_member: bool,
        /// Messages that carry them, which that region shows to the user.
        shown: Vec<MessageId>,
        /// Whether the user put them.
        is_own: bool,
    },
    /// What is left of media long after the last fault.
    MediaEnd {
        /// Of which.
        media: MediaObject,
        /// The region that has them.
        region: usize,
        /// Whether there are bytes.
        has_bytes: bool,
        /// Whether there is a record.
        has_record: bool,
        /// Whether something is to keep them.
        is_kept: bool,
        /// Messages that carry them and are shown, each with whether the region of the media ever noted it.
        shown: Vec<(MessageId, bool)>,
    },
    /// Whether a user is a member of a conversation at the end, by its line and by the user's own record.
    MembershipEnd {
        /// Of which conversation.
        conversation: ConversationId,
        /// Who.
        user: String,
        /// What the line says.
        is_member: bool,
        /// What the record says.
        recorded: bool,
    },
    /// Whether a user is a member of a conversation at the end, who was added by an acked request: and was removed since,
    /// where the request came once more, unless it is expected to be one.
    JoinEnd {
        /// Of which conversation.
        conversation: ConversationId,
        /// Who.
        user: String,
        /// What the line says.
        is_member: bool,
        /// What acks say.
        expected: bool,
    },
    /// A loss statement: positions from `from` on, below the epoch `below`, may be missing where fewer than
    /// `covered_copies` regions had them.
    Loss {
        /// Of which conversation.
        conversation: ConversationId,
        /// The first position that may be missing.
        from: Position,
        /// The epoch that opened with the statement.
        below: u64,
        /// Acks with at least so many copies are covered.
        covered_copies: usize,
    },
    /// A session begins, whose client has everything of a conversation up to a position, or was told of what it lacks.
    Resumes(SessionId, ConversationId, Position),
    /// A node is drained: no session begins there, and those that are there have to be gone within a time.
    Drains {
        /// Which.
        region: usize,
        /// The time, in microseconds.
        within: u64,
        /// Those that are there.
        sessions: Vec<SessionId>,
    },
    /// A session is told that its node is drained.
    ToldToLeave {
        /// Which.
        session: SessionId,
        /// When it shall leave, in microseconds of the run.
        at: u64,
        /// When it is closed otherwise, in microseconds of the run.
        until: u64,
    },
    /// A session that was told to leave is over, or one is closed for a drain.
    LeftNode {
        /// Which.
        session: SessionId,
        /// Whether its node closes it for the drain. Otherwise its client left, or something else ended it.
        closed: bool,
    },
    /// A node counts a message of a user, or refuses it.
    Counted {
        /// The node's region, and a number of its process.
        process: (usize, u64),
        /// Whose.
        user: UserId,
        /// Where.
        conversation: ConversationId,
        /// Which.
        message: MessageId,
        /// How many the node takes of a user in a minute.
        per_minute: u32,
        /// Whether it takes it.
        taken: bool,
    },
    /// A client hears that a message came too fast for the conversation's home.
    Limited(ConversationId, MessageId),
    /// Sessions begin at a node again that was drained.
    Serves(usize),
    /// A queue or a cache of a region was looked at.
    Bound {
        /// Which.
        what: &'static str,
        /// How full it was.
        value: usize,
        /// What it may hold.
        bound: usize,
    },
    /// A fault begins.
    FaultBegins(u32, &'static str),
    /// A fault is over.
    FaultEnds(u32),
    /// A region gave a conversation from its first row to its end, after everything was healed.
    Reading {
        /// Which.
        region: usize,
        /// The first reading is 1; one after a restart of all regions is 2.
        pass: u32,
        /// Of what.
        conversation: ConversationId,
        /// What. Regions that gave the same share it: it is judged once.
        rows: Arc<Vec<Row>>,
    },
}

/// A client session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Who, for people.
    pub name: String,
    /// Names the device: messages of one device keep their order in a conversation.
    pub device: u64,
}

/// One run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The regions' names.
    pub regions: Vec<String>,
    /// Its sessions.
    pub sessions: Vec<Session>,
    /// What happened, by a clock in microseconds that never goes back.
    pub events: Vec<(u64, Event)>,
}

impl History {
    /// Adds a session.
    pub fn session(&mut self, name: impl Into<String>, device: u64) -> SessionId {
        self.sessions.push(Session { name: name.into(), device });
        SessionId::try_from(self.sessions.len() - 1).unwrap_or(SessionId::MAX)
    }

    /// Adds an event.
    pub fn add(&mut self, at: u64, event: Event) {
        self.events.push((at, event));
    }
}
