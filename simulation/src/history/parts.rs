//! What events of a history are made of.

use hearth_protocol::client::ExplanationPayload;
use hearth_protocol::{ConversationId, Level, MessageId, Position, UserId};

/// Regions of the history by their place in [`super::History::regions`], as a set.
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

/// What a user's record says from one of its entries on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce<T> {
    /// The epoch of the record under which the entry was sequenced: who decides under an older one need not know of it.
    pub epoch: u64,
    /// When it was first on its way to a disk, in microseconds of the run: nobody knew of it before.
    pub from: u64,
    /// When the record's home said that it stands, in microseconds of the run; `u64::MAX` where nobody heard of that.
    pub known: u64,
    /// What it says.
    pub what: T,
}

impl InForce<()> {
    /// This, from then on.
    #[must_use]
    pub fn of<T>(self, what: T) -> InForce<T> {
        let Self { epoch, from, known, what: () } = self;
        InForce { epoch, from, known, what }
    }
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
