//! What clients of a mesh saw, in the order of one clock. The simulator writes it, and so do the stories over real
//! sockets; [`crate::checker`] judges both.

use std::sync::Arc;

use hearth_protocol::client::{ExplanationPayload, PresenceStatus};
use hearth_protocol::push::Preferences;
use hearth_protocol::{ConversationId, Level, MessageId, Position, UserId};
use region_model::media::ports::MediaObject;
use region_model::push::Withheld;

/// A session of the history, by its place in [`History::sessions`].
pub type SessionId = u32;

/// Regions of the history by their place in [`History::regions`], as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionSet(u64);

impl RegionSet {
    /// Adds a region; one with a place above 63 is left out.
    pub fn add(&mut self, region: usize) {
        self.0 |= 1u64.checked_shl(u32::try_from(region).unwrap_or(u32::MAX)).unwrap_or(0);
    }

    /// How many there are.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of these are among the others.
    #[must_use]
    pub fn is_within(self, others: Self) -> bool {
        self.0 & !others.0 == 0
    }
}

impl FromIterator<usize> for RegionSet {
    fn from_iter<T: IntoIterator<Item = usize>>(regions: T) -> Self {
        let mut set = Self::default();
        regions.into_iter().for_each(|region| set.add(region));
        set
    }
}

/// An ack as a client got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acked {
    /// Where the message stands.
    pub position: Position,
    /// When it was sequenced, in milliseconds since the Unix epoch.
    pub time: u64,
    /// The level that it was acked at.
    pub level: Level,
    /// The region that sequenced it; `None` when the ack does not say.
    pub home: Option<usize>,
    /// The regions that it names.
    pub regions: RegionSet,
    /// Whether it says that the message stood there before: any home of a later epoch may say so.
    pub again: bool,
}

/// What somebody who sees all disks saw at the moment of an ack. Real clients cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnDisk {
    /// Voters of the conversation.
    pub voters: usize,
    /// Regions with this very entry on disk.
    pub regions: RegionSet,
}

/// A row of a conversation, as a region gave it at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number, from 1.
    pub sequence: u64,
    /// Its epoch; 0 when the reader does not know it.
    pub epoch: u64,
    /// Its id.
    pub message: MessageId,
}

/// What an entry does to a message, as its row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    /// It is one.
    Message,
    /// It gives this one other content.
    Edit(MessageId),
    /// It takes this one's content away.
    Delete(MessageId),
    /// A reaction comes or goes.
    React {
        /// To which message.
        target: MessageId,
        /// What it shows.
        emoji: String,
        /// Whether it comes.
        added: bool,
    },
    /// The texts of this user in the rows above it are taken away.
    Erase(String),
    /// Rows below this number are shown no more.
    Floor(u64),
    /// Nothing.
    Other,
}

impl Did {
    /// Of a row of this kind with this target. `reaction`: its emoji, and whether it comes.
    #[must_use]
    pub fn of(kind: &str, target: Option<MessageId>, reaction: Option<(&str, bool)>) -> Self {
        match (kind, target, reaction) {
            ("message", ..) => Self::Message,
            ("edit", Some(target), _) => Self::Edit(target),
            ("delete", Some(target), _) => Self::Delete(target),
            ("reaction", Some(target), Some((emoji, added))) => Self::React { target, emoji: emoji.to_owned(), added },
            _ => Self::Other,
        }
    }
}

/// A row of a conversation with what it says, as somebody was given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRow {
    /// Its number.
    pub sequence: u64,
    /// Its id.
    pub message: MessageId,
    /// Who sent it.
    pub sender: String,
    /// When it was sequenced first, in milliseconds since the Unix epoch.
    pub time: u64,
    /// What it does.
    pub did: Did,
    /// The text that it gives.
    pub text: Option<String>,
    /// Whether it says that the message is deleted.
    pub deleted: bool,
    /// When its content is over, in milliseconds since the Unix epoch.
    pub expires: Option<u64>,
    /// Whether it says that this is so.
    pub expired: bool,
    /// Whether the disk that it was read from has no content of it, where that is known.
    pub bare: bool,
    /// Reactions that it tells of, each with its count.
    pub reactions: Vec<(String, u64)>,
}

/// How a region answers a user who asks for media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaAnswer {
    /// With a link to them; whether there are bytes behind it.
    Given(bool),
    /// There is nothing for this user.
    NotShown,
    /// To come again later.
    Later,
    /// There are no such media, or they have not come.
    None,
}

/// Somebody asked where a message is on its way to a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Who asked.
    pub asker: UserId,
    /// Whether as an operator.
    pub operator: bool,
    /// Where.
    pub conversation: ConversationId,
    /// The message.
    pub message: MessageId,
    /// To whom.
    pub user: UserId,
    /// What was answered; `None`: it was refused.
    pub answer: Option<ExplanationPayload>,
    /// The regions whose word is in it.
    pub asked: Vec<AskedRegion>,
    /// Whether nothing has happened for long.
    pub settled: bool,
}

/// What somebody who sees everything knew of a region whose word is in an explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedRegion {
    /// Which.
    pub region: usize,
    /// What its wall clock, in microseconds since the epoch, is ahead of the clock of the run.
    pub ahead: u64,
    /// From when on it says to know of every step, in microseconds of the run.
    pub known_since: u64,
    /// Where the message stands on its disk.
    pub has: Option<Position>,
    /// Whether its disk holds the message for its home.
    pub waits: bool,
    /// Whether the user has a session there.
    pub connected: bool,
}

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
    },
    /// The home of a conversation says where it begins for a user of whom the home of the record has kept nothing.
    PushStart(UserId, ConversationId, Position),
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
        /// What it wants, all the time.
        wants: Preferences,
        /// Who decides, and under which epoch of the user's record; `None` where something has changed lately.
        decides: Option<(usize, u64)>,
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
