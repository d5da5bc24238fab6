//! The applier: one thread per store that brings into the tables what the journal has, behind the committer's back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::batch::Staged;
use super::broken::Broken;
use super::journal::{Needed, SLOTS};
use super::rests::{self, Rests};
use super::tables::Tables;

/// Commits that the tables may be behind; above it, or when the journal's slots are full, the committer waits.
pub(super) const COMMITS_BEHIND: usize = 16_384;

/// A commit that is in the journal.
pub(super) struct Work {
    pub(super) staged: Staged,
    /// Counts commits from 1.
    pub(super) ticket: u64,
    /// The journal's segment that holds it.
    pub(super) segment: u64,
    /// Keys of its dedup records, as in [`Behind::remember`].
    pub(super) dedup: Vec<Vec<u8>>,
}

/// The commit that a dedup record is kept for, and the record.
type Recent = (u64, Vec<u8>);

/// How far the tables are behind the journal, and what they lack meanwhile.
#[derive(Debug)]
pub(super) struct Behind {
    /// The last commit that was answered.
    committed: AtomicU64,
    applied: Mutex<u64>,
    moved: Condvar,
    told: watch::Sender<u64>,
    /// Dedup records that the tables may lack: each send asks for one, and must not wait for the tables.
    recent: Mutex<HashMap<Vec<u8>, Recent>>,
}

impl Behind {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            committed: AtomicU64::new(0),
            applied: Mutex::new(0),
            moved: Condvar::new(),
            told: watch::Sender::new(0),
            recent: Mutex::new(HashMap::new()),
        })
    }

    /// Keeps a dedup record until commit `ticket` is in the tables.
    pub(super) fn remember(&self, key: Vec<u8>, ticket: u64, record: Vec<u8>) {
        self.recent.lock().insert(key, (ticket, record));
    }

    /// A dedup record that the tables may lack. To be asked before the tables are.
    pub(super) fn recent(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.recent.lock().get(key).map(|(_, record)| record.clone())
    }

    /// Commit `ticket` is in the journal, as durably as it is to be: from now on reads must show it.
    pub(super) fn committed(&self, ticket: u64) {
        self.committed.store(ticket, Ordering::Release);
    }

    /// Waits until the tables have everything that was answered before this call.
    pub(super) async fn caught_up(&self) {
        let committed = self.committed.load(Ordering::Acquire);
        if *self.told.borrow() < committed {
            // The sender lives as long as `self`.
            let _ = self.told.subscribe().wait_for(|applied| *applied >= committed).await;
        }
    }

    /// Blocks until the tables have commit `ticket`.
    pub(super) fn wait_for(&self, ticket: u64) {
        let mut applied = self.applied.lock();
        while *applied < ticket {
            self.moved.wait(&mut applied);
        }
    }

    /// Blocks until the tables have everything that was answered before this call.
    pub(super) fn wait_for_committed(&self) {
        self.wait_for(self.committed.load(Ordering::Acquire));
    }

    fn applied(&self, ticket: u64) {
        *self.applied.lock() = ticket;
        self.moved.notify_all();
        self.told.send_replace(ticket);
    }

    fn forget(&self, keys: &[Vec<u8>], ticket: u64) {
        if keys.is_empty() {
            return;
        }
        let mut recent = self.recent.lock();
        for key in keys {
            if recent.get(key).is_some_and(|(kept_for, _)| *kept_for <= ticket) {
                recent.remove(key);
            }
        }
    }
}

/// Nobody waits for an applier that ended.
struct Ended(Arc<Behind>, Arc<Needed>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.applied(u64::MAX);
        self.1.end();
    }
}

/// What the thread needs.
pub(super) struct Applier {
    pub(super) tables: Tables,
    pub(super) broken: Arc<Broken>,
    pub(super) behind: Arc<Behind>,
    pub(super) needed: Arc<Needed>,
}

impl Applier {
    /// Applies until the committer is gone and everything is in the tables, on disk. A store that is broken takes
    /// nothing more: the journal has it.
    pub(super) fn run(self, queue: &Receiver<Work>) {
        let _guard = self.broken.guard();
        let _ended = Ended(Arc::clone(&self.behind), Arc::clone(&self.needed));
        let mut lowest = None;
        let mut rests = Rests::new(Instant::now());
        loop {
            let work = queue.recv_timeout(rests::WINDOW);
            if rests.is_due(Instant::now()) {
                self.rest();
            }
            let Work { staged, ticket, segment, dedup } = match work {
                Ok(work) => work,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            rests.applied(staged.len());
            if self.broken.reason().is_none()
                && let Err(error) = self.apply(staged, segment, lowest.get_or_insert(segment))
            {
                self.broken.set(&format!("the tables cannot be written: {error}"));
            }
            if self.broken.reason().is_some() {
                self.needed.end();
            }
            // Before whoever waits for this commit goes on: it may take the records away again.
            self.behind.forget(&dedup, ticket);
            self.behind.applied(ticket);
        }
        if self.broken.reason().is_none()
            && let Err(error) = self.tables.sync()
        {
            self.broken.set(&format!("the tables cannot be synced: {error}"));
        }
    }

    /// Lets what is in memory go to disk, without waiting for it.
    fn rest(&self) {
        if self.broken.reason().is_none()
            && let Err(error) = self.tables.write_out()
        {
            self.broken.set(&format!("the tables cannot be written: {error}"));
        }
    }

    /// When half of the journal's slots wait, what came before goes to disk first: then they are free again.
    fn apply(&self, staged: Staged, segment: u64, lowest: &mut u64) -> Result<(), fjall::Error> {
        if segment >= *lowest + SLOTS as u64 / 2 {
            self.tables.sync()?;
            self.needed.only_from(segment);
            *lowest = segment;
        }
        staged.apply()
    }
}
