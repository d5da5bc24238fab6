//! What a log says about media: which entries carry them, and what became of those that did. Decided at whoever has a
//! copy, which reads its rows in between.

use std::sync::Arc;

use hearth_protocol::media::MediaId;
use hearth_protocol::{ConversationId, Position, RegionId, SealedEntry};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Standing, carried_by};
use crate::LogView;
use crate::mutants::Mutant;
use crate::view::View;

/// Entries of a conversation looked through in one call.
const LOOKED_THROUGH: usize = 4_096;

/// What was found from a place on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    /// Entries that carry media of a region: where, and which.
    pub references: Vec<(Position, Uuid)>,
    /// The id of each of them, in their order.
    #[serde(default)]
    pub carriers: Vec<Uuid>,
    /// The last entry that was looked at.
    pub scanned: Option<Position>,
    /// Whether there is more behind it.
    pub more: bool,
    /// Whether an entry above the mark carries some, too: it may have been acked, and is shown to nobody yet. Looked for
    /// where media are judged ([`LookThrough::judging`]).
    #[serde(skip)]
    pub above: bool,
}

impl Looked {
    /// Entries that carry media: where, which media, and the entry's id where it was told.
    pub fn uses(&self) -> impl Iterator<Item = (Position, Uuid, Option<Uuid>)> {
        let carriers = self.carriers.iter().copied().map(Some).chain(std::iter::repeat(None));
        self.references.iter().zip(carriers).map(|((position, media), carrier)| (*position, *media, carrier))
    }
}

/// What the region of media is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Entries that it may not know.
    pub looked: Looked,
    /// What became of the uses asked about, in their order.
    pub standings: Vec<Standing>,
    /// How long the conversation keeps its messages, in milliseconds.
    pub kept_for: u64,
    /// Whether the log's home answered, which has the right to number, and nothing above its mark carries media: what is
    /// not in it was not said. What is not in another copy, which may not have heard of it yet, was said to others all the
    /// same.
    #[serde(default)]
    pub current: bool,
}

impl Trace {
    /// Whether nothing that this does not know of carries media: only then may some go.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let current = self.current || Mutant::MediaByOldCopies.is_on();
        current && self.looked.references.is_empty() && !self.looked.more
    }
}

/// What a region asks about its media of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceQuestion {
    /// Whose media.
    pub region: RegionId,
    /// Up to where the conversation was looked through.
    pub scanned: Option<Position>,
    /// Entries that carried some.
    pub uses: Vec<Position>,
    /// Whether media are to go by the answer: then nobody but the home gives one.
    #[serde(default)]
    pub judges: bool,
}

impl TraceQuestion {
    /// Whether the copy of a region can answer it: nothing is missing in it that is asked about.
    #[must_use]
    pub fn is_answered_at(&self, region: &RegionId, view: &LogView) -> bool {
        if self.judges && !view.is_home_at(region) && !Mutant::MediaByOldCopies.is_on() {
            return false;
        }
        let positions = self.uses.iter().chain(&self.scanned);
        let lowest = positions.map(|position| position.sequence.0).min().unwrap_or(view.floor);
        view.is_read_at(region) && view.held && view.has_rows(lowest, view.marked)
    }

    /// The number of the last entry that is shown, where the copy of a region is good: what is put now is carried above
    /// it.
    #[must_use]
    pub fn begins_behind(view: &LogView, region: &RegionId) -> Option<u64> {
        (view.is_read_at(region) && view.marked > 1).then(|| view.marked - 1)
    }

    /// The answer, by what became of the uses and what was found behind them.
    #[must_use]
    pub fn answer(region: &RegionId, view: &LogView, standings: Vec<Standing>, looked: Looked, day: u64) -> Trace {
        let current = view.is_home_at(region) && !looked.above;
        Trace { looked, standings, kept_for: kept_for(view, day), current }
    }
}

/// How long a conversation keeps its messages, with days of so many milliseconds.
fn kept_for(view: &LogView, day: u64) -> u64 {
    match &view.view {
        View::Conversation(state) => u64::from(state.settings.retention_days).saturating_mul(day),
        View::Empty | View::User(_) | View::Placements(_) => u64::MAX,
    }
}

/// Looks through a conversation for media of a region, from behind an entry on. Where the line has another entry there, a
/// failover took it away, and all of the conversation is looked through again.
#[derive(Clone, Debug)]
pub struct LookThrough {
    conversation: ConversationId,
    region: RegionId,
    next: u64,
    /// The mark.
    end: u64,
    /// The end of what is looked at above the mark; the mark where nothing is.
    above: u64,
    left: usize,
    looked: Looked,
}

impl LookThrough {
    /// Behind `scanned`, where the line has `there` at its number now. `None` where rows are missing here.
    #[must_use]
    pub fn new(
        view: &LogView,
        (conversation, region): (ConversationId, &RegionId),
        scanned: Option<Position>,
        there: Option<&SealedEntry>,
    ) -> Option<Self> {
        let position = there.map(|entry| entry.entry.fixed.position);
        let blind = Mutant::ScanGoesOnBlindly.is_on();
        let goes_on = scanned.filter(|_| position == scanned || (blind && position.is_some()));
        let next = goes_on.map_or(view.floor.max(1), |position| position.sequence.0 + 1);
        let looked = Looked { scanned: goes_on, ..Looked::default() };
        let (region, end) = (region.clone(), view.marked);
        let look = Self { conversation, region, next, end, above: end, left: LOOKED_THROUGH, looked };
        view.has_rows(next, end).then_some(look)
    }

    /// Looks at what is above the mark, too: where media are to go, and only whether anything there carries some. A failover
    /// may still take it away, so nothing of it is told.
    #[must_use]
    pub fn judging(self, view: &LogView) -> Self {
        let above = if Mutant::BlindAboveTheMark.is_on() { self.end } else { view.length.max(self.end) };
        Self { above, ..self }
    }

    /// Which rows are to be read next, `from <= sequence < to`, and how many of them at most; none: it is done.
    #[must_use]
    pub fn reads(&self) -> Option<(u64, u64, usize)> {
        let to = if self.next < self.end { self.end } else { self.above };
        (self.next < to && self.left > 0).then_some((self.next, to, self.left))
    }

    /// The first of the rows to be read. Returns whether there were any: they are missing otherwise.
    #[must_use]
    pub fn take(&mut self, page: &[Arc<SealedEntry>]) -> bool {
        let Some(last) = page.last() else { return false };
        self.next = last.sequence().0 + 1;
        self.left = self.left.saturating_sub(page.len());
        let above = page.partition_point(|entry| entry.sequence().0 < self.end);
        let (shown, above) = page.split_at(above);
        if let Some(last) = shown.last() {
            self.looked.scanned = Some(last.entry.fixed.position);
        }
        let carries = |entry: &Arc<SealedEntry>| {
            carried_by(entry, self.conversation).is_some_and(|found| found.region == self.region)
        };
        let found_above = above.iter().any(carries);
        self.looked.above |= found_above;
        for entry in shown {
            let found = carried_by(entry, self.conversation).filter(|found| found.region == self.region);
            if let Some(MediaId { id, .. }) = found {
                self.looked.references.push((entry.entry.fixed.position, id));
                self.looked.carriers.push(entry.entry.fixed.id);
            }
        }
        true
    }

    /// What was found.
    #[must_use]
    pub fn found(mut self) -> Looked {
        self.looked.more = self.next < self.end;
        self.looked.above |= self.next < self.above;
        self.looked
    }
}
