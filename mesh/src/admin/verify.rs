//! `hearth verify`: every log of a store, entry by entry.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_protocol::admin::{FaultRow, Line};
use hearth_protocol::record::LogRecord;
use hearth_protocol::{LogId, LogKind, RegionId, SealedEntry};
use region_model::chain::ChainCheck;
use region_model::ports::{LogSummary, StoreError, Stores};
use region_store::embedded::{Embedded, EmbeddedOptions, OpenError};

use super::change::Teller;

const KINDS: [LogKind; 3] = [LogKind::Conversation, LogKind::User, LogKind::Placement];
/// Logs looked at once.
const PAGE: usize = 64;
/// Logs between two lines of progress.
const TELL_EVERY: u64 = 500;
/// Faults told; more are only counted.
const FAULTS_TOLD: u64 = 1_000;

/// Where the logs are.
enum Source {
    /// The store of a region that runs: one whose row does not read stops its region, so the walk ends there.
    Running(Stores),
    /// The store of a region that is down: it is opened again behind a row that does not read.
    Folder { folder: PathBuf, region: RegionId, store: Option<Embedded> },
}

/// Why a walk did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum NotVerified {
    /// The store does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no store at that place.
    #[error("{} holds no store", .0.display())]
    NoStore(PathBuf),
    /// The store does not read, and where was told as a fault if it is known.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Source {
    fn stores(&mut self) -> Result<Stores, OpenError> {
        match self {
            Self::Running(stores) => Ok(stores.clone()),
            Self::Folder { folder, region, store } => {
                let open = match store.take() {
                    Some(open) if open.broken().borrow().is_none() => open,
                    broken => {
                        drop(broken);
                        Embedded::open(folder, region, &EmbeddedOptions::default())?
                    }
                };
                let stores = open.stores();
                *store = Some(open);
                Ok(stores)
            }
        }
    }

    fn goes_on_behind_what_does_not_read(&self) -> bool {
        matches!(self, Self::Folder { .. })
    }
}

/// A walk over all logs.
struct Walk<'a> {
    source: Source,
    region: RegionId,
    tell: &'a Teller,
    logs: u64,
    entries: u64,
    faults: u64,
}

/// Walks the store of a region that runs.
///
/// # Errors
/// [`NotVerified`].
pub(super) async fn running(region: RegionId, stores: Stores, tell: &Teller) -> Result<Line, NotVerified> {
    Walk { source: Source::Running(stores), region, tell, logs: 0, entries: 0, faults: 0 }.run().await
}

/// Walks the store of a region that is down, in its data folder. Opening it replays what its journal holds.
///
/// # Errors
/// [`NotVerified`].
pub async fn folder(data: &Path, region: RegionId, tell: &Teller) -> Result<Line, NotVerified> {
    let folder = data.join("store");
    if !folder.is_dir() {
        return Err(NotVerified::NoStore(folder));
    }
    let source = Source::Folder { folder, region: region.clone(), store: None };
    Walk { source, region, tell, logs: 0, entries: 0, faults: 0 }.run().await
}

impl Walk<'_> {
    async fn run(mut self) -> Result<Line, NotVerified> {
        for kind in KINDS {
            let mut after = None;
            loop {
                let page = self.page(kind, after).await?;
                let full = page.len() == PAGE;
                after = page.last().map(|summary| summary.log);
                for summary in page {
                    self.log(&summary).await?;
                }
                if !full {
                    break;
                }
            }
        }
        let Self { region, logs, entries, faults, .. } = self;
        Ok(Line::Verified { region, logs, entries, faults })
    }

    async fn page(&mut self, kind: LogKind, after: Option<LogId>) -> Result<Vec<LogSummary>, NotVerified> {
        let stores = self.source.stores()?;
        match stores.log.logs(kind, after, PAGE).await {
            Ok(page) => Ok(page),
            Err(error) => {
                let place = after.map_or_else(|| "the start".to_owned(), |log| log.to_string());
                let fault =
                    format!("a record or a last entry of one of the {PAGE} logs behind it does not read: {error}");
                self.fault(format!("after {place}"), 0, fault, None);
                Err(error.into())
            }
        }
    }

    async fn log(&mut self, summary: &LogSummary) -> Result<(), NotVerified> {
        let mut found = self.walk(summary).await?;
        if !found.is_empty() && !self.source.goes_on_behind_what_does_not_read() {
            // A running region may have put a tail apart or begun above a gap meanwhile: the log as it is now counts.
            let loaded = self.source.stores()?.log.load(summary.log).await?;
            if let Some(record) = loaded.record.filter(|record| *record != summary.record) {
                let now = LogSummary { record, length: loaded.length, mark: loaded.mark, ..summary.clone() };
                found = self.walk(&now).await?;
            }
        }
        for (sequence, fault) in found {
            self.fault(summary.log.to_string(), sequence, fault, Some(&summary.record));
        }
        self.logs += 1;
        if self.logs.is_multiple_of(TELL_EVERY) {
            let text = format!("{} logs, {} entries, {} faults", self.logs, self.entries, self.faults);
            self.tell.progress("logs", self.logs, None, text);
        }
        Ok(())
    }

    /// What is wrong with one log, by sequence.
    async fn walk(&mut self, summary: &LogSummary) -> Result<Vec<(u64, String)>, NotVerified> {
        let mut check = ChainCheck::new(&summary.record);
        let mut found = Vec::new();
        while check.next() < summary.length {
            let sequence = check.next();
            match self.entry(summary.log, sequence).await {
                Ok(entry) => {
                    self.entries += 1;
                    if let Err(fault) = check.take(entry.as_deref()) {
                        found.push((sequence, fault.to_string()));
                    }
                }
                Err(error) => {
                    let fault = format!("it does not read: {error}");
                    if !self.source.goes_on_behind_what_does_not_read() {
                        self.fault(summary.log.to_string(), sequence, fault, Some(&summary.record));
                        return Err(error.into());
                    }
                    found.push((sequence, fault));
                    check.skip();
                }
            }
        }
        if let Err(fault) = check.end(summary.mark) {
            found.push((summary.length, fault.to_string()));
        }
        Ok(found)
    }

    /// One at a time, so that one that does not read has a number.
    async fn entry(&mut self, log: LogId, sequence: u64) -> Result<Option<Arc<SealedEntry>>, StoreError> {
        let stores = self.source.stores().map_err(|error| StoreError::Unavailable(Arc::from(error.to_string())))?;
        Ok(stores.log.read(log, sequence, sequence + 1, 1, usize::MAX).await?.pop())
    }

    fn fault(&mut self, log: String, sequence: u64, fault: String, record: Option<&LogRecord>) {
        self.faults += 1;
        if self.faults <= FAULTS_TOLD {
            let hint = hint(&self.region, record);
            self.tell.line(Line::Fault(FaultRow { log, sequence, fault, hint }));
        }
    }
}

/// What to do about a fault.
fn hint(region: &RegionId, record: Option<&LogRecord>) -> String {
    let others = record.map_or_else(Vec::new, |record| {
        record.voters.iter().filter(|voter| *voter != region).map(RegionId::as_str).collect::<Vec<_>>()
    });
    let Some(record) = record.filter(|_| !others.is_empty()) else {
        return format!(
            "stop {region}, keep its data folder, and bring the store back from a copy that was made while it was down"
        );
    };
    let others = others.join(" and ");
    if record.home == *region {
        format!(
            "its copies are at {others}: stop {region}, keep its data folder, check the disk, then: hearth region failover {region}"
        )
    } else {
        format!(
            "its home is {}, copies are at {others}: stop {region}, keep its data folder, check the disk, and start it on an empty one",
            record.home
        )
    }
}
