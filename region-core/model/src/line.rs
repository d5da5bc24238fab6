//! The line of a log: where its epochs opened, and what of an older epoch is good in it.

use hearth_protocol::record::{LogRecord, Opening};
use hearth_protocol::{Epoch, Placement};

use crate::effect::LogView;

/// The line of a log as a region knows it: where each epoch opened, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    pub(crate) openings: Vec<Opening>,
}

impl Line {
    /// With these openings, oldest first.
    #[must_use]
    pub fn new(openings: Vec<Opening>) -> Self {
        Self { openings }
    }

    /// The line that a region holds.
    #[must_use]
    pub fn of(view: &LogView) -> Self {
        Self { openings: view.openings.clone() }
    }

    /// The line of a stored record.
    #[must_use]
    pub fn of_record(record: &LogRecord) -> Self {
        Self { openings: record.openings.clone() }
    }

    /// The epoch under which it goes on.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.openings.last().map_or(Epoch(1), |opening| opening.epoch)
    }

    /// The same, with an opening more.
    #[must_use]
    pub fn with(mut self, placed: &Placement) -> Self {
        let loss = placed.loss.is_some();
        self.openings.push(Opening { epoch: placed.epoch, first: placed.first, previous: [0; 32], loss });
        self
    }

    /// A number of an older epoch counts up to the next opening: what that epoch had at or above it is not in this line.
    #[must_use]
    pub fn cut(&self, epoch: Epoch, up_to: u64) -> u64 {
        let later = self.openings.iter().filter(|opening| opening.epoch > epoch);
        later.map(|opening| opening.first.saturating_sub(1)).min().map_or(up_to, |most| most.min(up_to))
    }

    /// A number of an unknown epoch counts up to the first opening that may lack something of before.
    #[must_use]
    pub fn cut_unknown(&self, up_to: u64) -> u64 {
        let lossy = self.openings.iter().filter(|opening| opening.loss);
        lossy.map(|opening| opening.first.saturating_sub(1)).min().map_or(up_to, |most| most.min(up_to))
    }
}
