//! `hearth verify`: every log of a store, entry by entry.

use std::path::{Path, PathBuf};

use hearth_protocol::admin::{FaultRow, Line};
use hearth_protocol::record::LogRecord;
use hearth_protocol::{LogId, LogKind, RegionId};
use region_model::chain::ChainCheck;
use region_model::ports::{LogLook, NotRead, StoreError, Stores};
use region_store::embedded::{Embedded, EmbeddedOptions, OpenError};

use super::change::Teller;

const KINDS: [LogKind; 3] = [LogKind::Conversation, LogKind::User, LogKind::Placement];
/// Logs looked at once.
const PAGE: usize = 64;
/// Logs between two lines of progress.
const TELL_EVERY: u64 = 500;
/// Faults told; more are only counted.
const FAULTS_TOLD: u64 = 1_000;

/// Why a walk did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum NotVerified {
    /// The store does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no store at that place.
    #[error("{} holds no store", .0.display())]
    NoStore(PathBuf),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A walk over all logs.
struct Walk<'a> {
    stores: Stores,
    /// Whether the region writes meanwhile.
    running: bool,
    region: RegionId,
    tell: &'a Teller,
    logs: u64,
    entries: u64,
    faults: u64,
}

impl<'a> Walk<'a> {
    fn new(stores: Stores, running: bool, region: RegionId, tell: &'a Teller) -> Self {
        Self { stores, running, region, tell, logs: 0, entries: 0, faults: 0 }
    }
}

/// Walks the store of a region that runs. What does not read is a fault, and does not stop the region.
///
/// # Errors
/// [`NotVerified`].
pub(super) async fn running(region: RegionId, stores: Stores, tell: &Teller) -> Result<Line, NotVerified> {
    Walk::new(stores, true, region, tell).run().await
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
    let store = Embedded::open(&folder, &region, &EmbeddedOptions::default())?;
    Walk::new(store.stores(), false, region, tell).run().await
}

impl Walk<'_> {
    async fn run(mut self) -> Result<Line, NotVerified> {
        for kind in KINDS {
            let mut after = None;
            loop {
                let page = match self.stores.inspect.log_ids(kind, after, PAGE).await {
                    Ok(page) => page,
                    Err(NotRead::Store(error)) => return Err(error.into()),
                    Err(NotRead::Row(error)) => {
                        let place = after.map_or_else(|| format!("{kind:?}"), |log| format!("after {log}"));
                        let fault = format!("the list of logs does not read, those behind are not walked: {error}");
                        self.fault(place, 0, fault, None);
                        break;
                    }
                };
                after = page.last().copied();
                for log in &page {
                    self.log(*log).await?;
                }
                if page.len() < PAGE {
                    break;
                }
            }
        }
        let Self { region, logs, entries, faults, .. } = self;
        Ok(Line::Verified { region, logs, entries, faults })
    }

    /// What is known of a log; `None` once its record was told not to read.
    async fn look(&mut self, log: LogId) -> Result<Option<LogLook>, NotVerified> {
        match self.stores.inspect.look(log).await {
            Ok(look) => Ok(look),
            Err(NotRead::Store(error)) => Err(error.into()),
            Err(NotRead::Row(error)) => {
                self.fault(log.to_string(), 0, format!("its record or its end does not read: {error}"), None);
                Ok(None)
            }
        }
    }

    async fn log(&mut self, log: LogId) -> Result<(), NotVerified> {
        if let Some(mut look) = self.look(log).await? {
            let mut found = self.walk(log, &look).await?;
            // A running region may have put a tail apart or begun above a gap meanwhile: the log as it is now counts.
            if !found.is_empty()
                && self.running
                && let Some(now) = self.look(log).await?
                && now.record != look.record
            {
                found = self.walk(log, &now).await?;
                look = now;
            }
            for (sequence, fault) in found {
                self.fault(log.to_string(), sequence, fault, Some(&look.record));
            }
        }
        self.logs += 1;
        if self.logs.is_multiple_of(TELL_EVERY) {
            let text = format!("{} logs, {} entries, {} faults", self.logs, self.entries, self.faults);
            self.tell.progress("logs", self.logs, None, text);
        }
        Ok(())
    }

    /// What is wrong with one log, by sequence. Entries are read one at a time, so that one that does not read has a
    /// number.
    async fn walk(&mut self, log: LogId, look: &LogLook) -> Result<Vec<(u64, String)>, NotVerified> {
        let mut check = ChainCheck::new(&look.record);
        let mut found = Vec::new();
        while check.next() < look.length {
            let sequence = check.next();
            match self.stores.inspect.entry(log, sequence).await {
                Ok(entry) => {
                    self.entries += 1;
                    if let Err(fault) = check.take(entry.as_deref()) {
                        found.push((sequence, fault.to_string()));
                    }
                }
                Err(NotRead::Row(error)) => {
                    found.push((sequence, format!("it does not read: {error}")));
                    check.skip();
                }
                Err(NotRead::Store(error)) => return Err(error.into()),
            }
        }
        for anchor in check.anchors() {
            // One that does not read was told.
            let below = match self.stores.inspect.entry(log, anchor.floor.saturating_sub(1)).await {
                Ok(below) => below,
                Err(NotRead::Row(_)) => continue,
                Err(NotRead::Store(error)) => return Err(error.into()),
            };
            if let Err(fault) = anchor.check(below.as_deref()) {
                found.push((anchor.by, fault.to_string()));
            }
        }
        if let Err(fault) = check.end(look.mark) {
            found.push((look.length, fault.to_string()));
        }
        Ok(found)
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
        return format!("stop {region}, keep its data folder, and bring it back from a copy: hearth store restore");
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
