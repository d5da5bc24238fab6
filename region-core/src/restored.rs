//! What a store that was brought back from a copy has to forget or to promise before a region starts over it, when nobody
//! else of the mesh is left: on the operator's word its copies are the ones that count.

use hearth_protocol::record::LogRecord;
use hearth_protocol::{Epoch, LogId, LogKind, RegionId, Slot};
use region_model::ports::{AppendOutcome, LogAppend, LogSummary, MessageLog, StoreError, Stores};
use region_model::region_map::{MapState, RegionState};

use crate::word;

/// Logs that are looked at and written at a time.
const PAGE: usize = 512;

/// Why the copies do not count.
#[derive(Debug, thiserror::Error)]
pub enum NotTrusted {
    /// The store does not read or write.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A log is not as it was read a moment before.
    #[error("the log {0} changes: another process uses the store")]
    Changes(LogId),
}

/// Has every copy of a restored store count once the map has given the store the incarnation `floor` + 1, as one that goes
/// on above `floor` does ([`MapState::anew`]). What is voted for here is promised to take nothing below `floor`, so that
/// every log goes on under an epoch that nobody has used. Returns how many logs that were.
///
/// # Errors
/// [`NotTrusted`]; it may be done again.
pub async fn trust_copies(stores: &Stores, region: &RegionId, floor: u64) -> Result<u64, NotTrusted> {
    let (incarnation, above) = (floor + 1, Epoch(floor));
    let mut trusted = 0;
    for kind in [LogKind::Conversation, LogKind::User, LogKind::Placement] {
        let mut after = None;
        loop {
            let page = stores.log.logs(kind, after, PAGE).await?;
            after = page.last().map(|summary| summary.log);
            let full = page.len() == PAGE;
            let appends = page.iter().map(|summary| trusting(summary, region, incarnation, above)).collect();
            trusted += write(&*stores.log, appends).await?;
            if !full {
                break;
            }
        }
    }
    trusted += make_placement_logs(stores, region, incarnation).await?;
    Ok(trusted)
}

/// The operator's word for a map that goes on at one region: homes of all are opened with the voters that there are.
///
/// # Errors
/// Of the store.
pub async fn accept_losses(stores: &Stores, map: &MapState) -> Result<(), StoreError> {
    for entry in map.members().filter(|entry| entry.state != RegionState::Following) {
        word::keep(&*stores.map, &entry.region, entry.fence).await?;
    }
    Ok(())
}

/// The record of a log from now on: nothing else of it changes.
fn trusting(summary: &LogSummary, region: &RegionId, incarnation: u64, above: Epoch) -> LogAppend {
    let before = &summary.record;
    // A placement log goes on under the epoch that the map names. Whoever follows without a vote promises nothing.
    let votes = summary.log.kind != LogKind::Placement && (before.voters.contains(region) || before.home == *region);
    let sealed = if votes { before.sealed.max(above) } else { before.sealed };
    record_only(summary.log, summary.length, LogRecord { incarnation, sealed, ..before.clone() })
}

fn record_only(log: LogId, length: u64, record: LogRecord) -> LogAppend {
    let nothing = LogAppend::empty(log, length, record.sealed);
    LogAppend { record: Some(record), promises: true, ..nothing }
}

/// Nobody wrote to most placement logs: their voter holds all that they have, which is nothing.
async fn make_placement_logs(stores: &Stores, region: &RegionId, incarnation: u64) -> Result<u64, NotTrusted> {
    let mut made = 0;
    let slots: Vec<LogId> = (0..Slot::COUNT).map(|slot| LogId::placement(Slot(slot))).collect();
    for page in slots.chunks(PAGE) {
        let mut appends = Vec::new();
        for log in page {
            if stores.log.load(*log).await?.record.is_none() {
                let record = LogRecord {
                    home: region.clone(),
                    voters: vec![region.clone()],
                    accepted: Epoch::default(),
                    sealed: Epoch::default(),
                    openings: Vec::new(),
                    floor: 0,
                    published: 0,
                    open_ranges: Vec::new(),
                    incarnation,
                };
                appends.push(record_only(*log, 0, record));
            }
        }
        made += write(&*stores.log, appends).await?;
    }
    Ok(made)
}

async fn write(log: &dyn MessageLog, appends: Vec<LogAppend>) -> Result<u64, NotTrusted> {
    let ids: Vec<LogId> = appends.iter().map(|append| append.log).collect();
    if ids.is_empty() {
        return Ok(0);
    }
    let outcomes = log.append(appends).await?;
    let conflict = ids.iter().zip(&outcomes).find(|(_, outcome)| matches!(outcome, AppendOutcome::Conflict { .. }));
    match conflict {
        Some((log, _)) => Err(NotTrusted::Changes(*log)),
        None => Ok(ids.len() as u64),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use region_model::conformance::samples;
    use region_model::region_map::{FirstMap, MapCommand};
    use region_store::embedded::{Embedded, EmbeddedOptions};
    use uuid::Uuid;

    use super::*;

    const FLOOR: u64 = 5_000;

    #[tokio::test]
    async fn every_copy_counts_what_is_voted_for_goes_on_above_all_epochs_and_the_word_is_given() {
        let folder = tempfile::tempdir().expect("a folder");
        let region = samples::region("eu");
        let store = Embedded::open(folder.path(), &region, &EmbeddedOptions::default()).expect("opens");
        let stores = store.stores();
        let (voted, followed) = (samples::conversation(1), samples::conversation(2));
        let mut elsewhere = samples::append(followed, 0, 3);
        let record = elsewhere.record.as_mut().expect("it creates the log");
        (record.home, record.voters) = (samples::region("us"), vec![samples::region("us")]);
        stores.log.append(vec![samples::append(voted, 0, 3), elsewhere]).await.expect("appends");
        let mut map = MapState::default();
        map.apply(&MapCommand::Found(FirstMap::of(vec![region.clone(), samples::region("us")])));
        let map = map.anew(&region, (Uuid::from_u128(9), 0), FLOOR).expect("a part of the mesh");

        // It may be done again.
        for _ in 0..2 {
            let trusted = trust_copies(&stores, &region, FLOOR).await.expect("trusts");
            assert_eq!(trusted, 2 + u64::from(Slot::COUNT));
        }
        let mut records = BTreeMap::new();
        for log in [voted, followed, LogId::placement(Slot(7))] {
            let loaded = stores.log.load(log).await.expect("loads");
            let record = loaded.record.expect("it is held");
            assert_eq!(Some(record.incarnation), map.region(&region).and_then(|entry| Some(entry.store?.incarnation)));
            records.insert(log, (loaded.length, record.sealed));
        }
        assert_eq!(records[&voted], (3, Epoch(FLOOR)));
        assert_eq!((records[&followed].0, records[&LogId::placement(Slot(7))]), (3, (0, Epoch(0))));
        assert!(records[&followed].1 < Epoch(FLOOR), "who has no vote promises nothing");
        accept_losses(&stores, &map).await.expect("it is kept");
        let words = word::kept(&*stores.map).await.expect("reads");
        assert_eq!(words, [(region, FLOOR), (samples::region("us"), FLOOR)]);
    }
}
