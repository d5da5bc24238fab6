//! Who may have media: whoever is shown a message that carries them. Decided at a region that holds the conversation,
//! which reads its rows in between.

use hearth_protocol::media::MediaId;
use hearth_protocol::{ConversationId, ErrorCode, Position, Refusal, RegionId, UserId};
use serde::{Deserialize, Serialize};

use super::carried;
use super::trace::Looked;
use crate::LogView;
use crate::seen::Seen;

/// Looks into a conversation before a reader is told to come again: the region of the media is that far behind.
const LOOKS: usize = 4;

/// What the region of media knows of their uses: whoever holds the conversation goes on from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaKnown {
    /// Who put them: as long as nothing carries them they are shown to nobody else.
    pub uploader: UserId,
    /// Entries that carry them.
    pub uses: Vec<Position>,
    /// Up to where the conversation was looked through.
    pub scanned: Option<Position>,
}

impl MediaKnown {
    /// Whether the copy of a region can say who is shown them: nothing is missing in it from the first use on.
    #[must_use]
    pub fn is_judged_at(&self, region: &RegionId, view: &LogView) -> bool {
        let positions = self.uses.iter().chain(&self.scanned);
        let lowest = positions.map(|position| position.sequence.0).min().unwrap_or(0);
        view.is_read_at(region) && view.has_rows(lowest, view.marked)
    }
}

/// What is to be done next to know whether media are shown to a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShownStep {
    /// The conversation is looked through from behind this entry on.
    Look(Option<Position>),
    /// The row of this number is read, as the user sees it now.
    Row(u64),
    /// It is known: the user may have them, or is told this.
    Known(Result<(), Refusal>),
}

/// Finds out whether some message is shown to a user that carries media.
#[derive(Clone, Debug)]
pub struct Shown {
    conversation: ConversationId,
    media: MediaId,
    may_put: bool,
    seen: (u64, u64),
    scanned: Option<Position>,
    /// Numbers of entries that carry them.
    carrying: Vec<u64>,
    more: bool,
    looks: usize,
    /// How many of those were not looked at yet, from the last one on; `None` before all is looked through.
    unread: Option<usize>,
    shown: bool,
}

impl Shown {
    /// A member asks.
    #[must_use]
    pub fn new(
        conversation: ConversationId,
        media: &MediaId,
        known: &MediaKnown,
        user: &UserId,
        of: &Seen<'_>,
    ) -> Self {
        Self {
            conversation,
            media: media.clone(),
            may_put: known.uploader == *user,
            seen: (of.from, of.to),
            scanned: known.scanned,
            carrying: known.uses.iter().map(|position| position.sequence.0).collect(),
            more: true,
            looks: 0,
            unread: None,
            shown: false,
        }
    }

    /// What is to be done next.
    #[must_use]
    pub fn step(&self) -> ShownStep {
        let Some(unread) = self.unread else { return ShownStep::Look(self.scanned) };
        if self.shown {
            return ShownStep::Known(Ok(()));
        }
        let (from, to) = self.seen;
        match self.carrying[..unread].iter().rfind(|number| (from..to).contains(number)) {
            Some(number) => ShownStep::Row(*number),
            None => ShownStep::Known(self.not_shown()),
        }
    }

    fn not_shown(&self) -> Result<(), Refusal> {
        if self.more {
            let why = "the conversation is being looked through for these media";
            return Err(Refusal::new(ErrorCode::Overloaded, why).with_retry_after(5));
        }
        if self.carrying.is_empty() && self.may_put {
            return Ok(());
        }
        Err(Refusal::new(ErrorCode::NotFound, "no message that is shown to this user carries these media"))
    }

    /// What was found from where it was to be looked through.
    pub fn looked(&mut self, looked: &Looked) {
        let of_these = looked.references.iter().filter(|(_, found)| *found == self.media.id);
        self.carrying.extend(of_these.map(|(position, _)| position.sequence.0));
        (self.scanned, self.more) = (looked.scanned, looked.more);
        self.looks += 1;
        if !self.more || self.looks == LOOKS {
            self.unread = Some(self.carrying.len());
        }
    }

    /// What the row to be read shows, if it shows anything.
    pub fn read(&mut self, number: u64, content: Option<&[u8]>) {
        self.shown |= content.is_some_and(|content| carried(content, self.conversation).as_ref() == Some(&self.media));
        let at = self.carrying[..self.unread.unwrap_or(0)].iter().rposition(|carrying| *carrying == number);
        self.unread = at.or(Some(0));
    }
}
