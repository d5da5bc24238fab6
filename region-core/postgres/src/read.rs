//! From the ports of a region's store to rows: which entries of a log are read, and from where on.

use std::sync::Arc;

use hearth_protocol::{LogId, UserId};
use region_model::line::Line;
use region_model::ports::{Cursors, LogSummary, MessageLog, StoreError, Stores};
use region_model::view::View;
use uuid::Uuid;

use crate::projector::{Projector, cursor_row};
use crate::rows::{CursorRow, LogRows, Stand, What, shown};

/// Entries of a page, and bytes of one, about.
const PAGE: usize = 1_000;
const PAGE_BYTES: usize = 1 << 20;
/// Cursors of a page.
const CURSORS: usize = 1_000;

/// Where a projection is made from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Entries.
    pub log: Arc<dyn MessageLog>,
    /// How far members are.
    pub cursors: Arc<dyn Cursors>,
    /// Who the store is: numbers of changes are its own.
    pub store: Uuid,
}

impl From<&Stores> for Source {
    fn from(stores: &Stores) -> Self {
        Self { log: Arc::clone(&stores.log), cursors: Arc::clone(&stores.cursors), store: stores.identity.store }
    }
}

/// What reading a log gave.
#[derive(Debug)]
pub(crate) enum Reading {
    /// Its rows, and what it adds up to.
    Rows(Box<LogRows>, View),
    /// Nothing yet: it changed while it was read, or what there is of it does not add up to anything before more of it
    /// is here. The next pass looks again.
    NotYet,
}

/// What came of feeding entries to a projector.
enum Fed {
    Whole,
    AnotherLine,
    NotYet,
}

impl Source {
    /// Reads a log as far as it may be shown. `kept` is what it adds up to where it stands, if that is known.
    pub(crate) async fn read(
        &self,
        summary: &LogSummary,
        stand: Option<&Stand>,
        kept: Option<View>,
        entries: &mut u64,
    ) -> Result<Reading, StoreError> {
        if let Some(stand) = stand.filter(|stand| stand.length > 0 && stand.length <= summary.length) {
            // A mark that was not on disk when the power went is behind what it was: what was shown stays projected.
            let to = shown(summary).max(stand.length);
            let projector = match kept {
                Some(view) => Some(Projector::after(summary.log, stand.clone(), view, stand.length)),
                None => self.begin(summary, to, Some(stand)).await?,
            };
            let Some(mut projector) = projector else { return Ok(Reading::NotYet) };
            match self.feed(summary, &mut projector, to, entries).await? {
                Fed::Whole => return Ok(finish(&projector, summary)),
                Fed::NotYet => return Ok(Reading::NotYet),
                Fed::AnotherLine => {}
            }
        }
        let Some(mut projector) = self.begin(summary, shown(summary), None).await? else { return Ok(Reading::NotYet) };
        match self.feed(summary, &mut projector, shown(summary), entries).await? {
            Fed::Whole => Ok(finish(&projector, summary)),
            Fed::NotYet | Fed::AnotherLine => Ok(Reading::NotYet),
        }
    }

    /// A projector at a place from which the entries up to `to` are there. A log that is projected anew is read from its
    /// header on, where all of it is here: entries say what snapshots leave out.
    async fn begin(
        &self,
        summary: &LogSummary,
        to: u64,
        stand: Option<&Stand>,
    ) -> Result<Option<Projector>, StoreError> {
        let log = summary.log;
        let projector = |view, folded| match stand {
            Some(stand) => Projector::after(log, stand.clone(), view, folded),
            None => Projector::anew(log, view, folded),
        };
        let is_whole = summary.record.open_ranges.is_empty();
        if stand.is_none() && is_whole {
            return Ok(Some(projector(View::Empty, 0)));
        }
        let snapshot = self.log.load(log).await?.snapshot;
        let snapshot = snapshot.filter(|(length, _)| *length <= to);
        let snapshot = snapshot.and_then(|(length, bytes)| Some((View::from_snapshot(&bytes)?, length)));
        Ok(match snapshot {
            Some((view, length)) => Some(projector(view, length)),
            None if is_whole => Some(projector(View::Empty, 0)),
            None => None,
        })
    }

    async fn feed(
        &self,
        summary: &LogSummary,
        projector: &mut Projector,
        to: u64,
        entries: &mut u64,
    ) -> Result<Fed, StoreError> {
        let mut next = projector.first();
        if summary.record.open_ranges.iter().any(|(from, end)| *from < to && next < *end) {
            return Ok(Fed::AnotherLine);
        }
        while next < to {
            let page = self.log.read(summary.log, next, to, PAGE, PAGE_BYTES).await?;
            if page.is_empty() {
                return Ok(Fed::NotYet);
            }
            for entry in page {
                if !projector.is_same_line(&entry) {
                    return Ok(Fed::AnotherLine);
                }
                if projector.take(&entry).is_err() {
                    return Ok(Fed::NotYet);
                }
                next = entry.sequence().0 + 1;
                *entries += 1;
            }
        }
        Ok(Fed::Whole)
    }

    /// Cursors of a conversation that were put by changes above `since`.
    pub(crate) async fn cursors(&self, summary: &LogSummary, since: u64) -> Result<Vec<CursorRow>, StoreError> {
        let line = Line::of_record(&summary.record);
        let (mut rows, mut after): (Vec<CursorRow>, Option<UserId>) = (Vec::new(), None);
        loop {
            let page = self.cursors.cursors(summary.log, after, CURSORS).await?;
            let full = page.len() == CURSORS;
            after = page.last().map(|(record, _)| record.user.clone());
            let newer = page.iter().filter(|(_, change)| *change > since);
            rows.extend(newer.map(|(record, change)| cursor_row(record, *change, &line)));
            if !full {
                return Ok(rows);
            }
        }
    }
}

fn finish(projector: &Projector, summary: &LogSummary) -> Reading {
    match projector.finish(&summary.record, summary.change) {
        Some(rows) => Reading::Rows(Box::new(rows), projector.view().clone()),
        None => Reading::NotYet,
    }
}

/// A log of which nothing but cursors is to be written.
pub(crate) fn cursors_alone(log: LogId, stand: &Stand, cursors: Vec<CursorRow>) -> LogRows {
    let (before, after) = (Some(stand.clone()), stand.clone());
    LogRows { log, before, after, anew: false, what: What::Nothing, cursors }
}
