//! The embedded store: every port over a journal and one fjall database, with a committer and an applier thread.
//!
//! ```text
//!   append, park, …  ──bounded queue──►  committer: check, one record, one sync of the journal, answer all
//!                                           └─bounded queue─►  applier: into the tables
//!   load, read, …    ──once the tables have all that was answered: on the caller's thread, from a snapshot
//! ```
//! A call takes its place in the queue at its first poll. When the queue is full it waits there, and later calls wait
//! behind it. A write or sync that fails breaks the store for ever: from then on every call answers
//! [`StoreError::Unavailable`] at once, and [`Embedded::broken`] tells it.

mod applier;
mod batch;
mod broken;
mod committer;
mod copy;
mod dedup;
mod heads;
mod ids;
mod journal;
mod keys;
mod open;
mod ports;
mod rests;
mod scrub;
mod tables;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;

use hearth_protocol::RegionId;
use hearth_protocol::record::StoreIdentity;
use region_model::ports::{AppendOutcome, LogAppend, NotRead, StoreCounters, StoreError, Stores};
use tokio::sync::{mpsc, oneshot, watch};

use applier::{Applier, Behind, COMMITS_BEHIND};
use broken::Broken;
use committer::{Answer, Committer, Job, QUEUE_BOUND, Write};
use dedup::Dedup;
use ids::Ids;
use keys::ReadError;
use tables::Tables;

pub use copy::{Blocks, CopyError, LeftOut, ROWS_FORMAT, Restoring, StoreCopy, in_background, read_block};

/// How an embedded store is opened.
#[derive(Clone, Debug, Default)]
pub struct EmbeddedOptions {
    /// Compresses tables and journals. Off by default, so that a text can be found by searching the files. Tables
    /// keep what the store was made with.
    pub compression: bool,
    /// A mutant: commits answer before the disk has them.
    #[cfg(feature = "mutants")]
    pub skip_sync: bool,
}

impl EmbeddedOptions {
    /// With compression.
    #[must_use]
    pub fn compressed(mut self) -> Self {
        self.compression = true;
        self
    }

    fn skips_sync(&self) -> bool {
        #[cfg(feature = "mutants")]
        return self.skip_sync;
        #[cfg(not(feature = "mutants"))]
        return false;
    }
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another handle of this one, has the folder open.
    #[error("the store is in use by another process")]
    InUse,
    /// Another version of this program made it.
    #[error("the store has format {found}, this build knows {known}")]
    Version {
        /// The format found.
        found: u32,
        /// The format that this build reads and writes.
        known: u32,
    },
    /// It is the store of another region.
    #[error("the store belongs to region {found}, not to {asked}")]
    Region {
        /// Whose it is.
        found: RegionId,
        /// Who asked for it.
        asked: RegionId,
    },
    /// Anything else: files that cannot be read or written, or do not hold what they should.
    #[error("the store does not open: {0}")]
    Failed(String),
}

impl From<std::io::Error> for OpenError {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<fjall::Error> for OpenError {
    fn from(error: fjall::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// An open store. The folder is free again once this and everything from [`Embedded::stores`] is dropped; the last
/// drop waits until the committer has finished what waits.
#[derive(Clone, Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
}

impl Embedded {
    /// Opens the store of a region, or makes one in an empty or missing folder. Its identity is durable when this
    /// returns. Blocks: about half a second for each 64 MiB of journal that was not flushed.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(folder: &Path, region: &RegionId, options: &EmbeddedOptions) -> Result<Self, OpenError> {
        let opened = open::open(folder, region, options)?;
        let (broken, counters) = (Broken::new(), Arc::new(StoreCounters::default()));
        let (queue, jobs) = mpsc::channel(QUEUE_BOUND);
        let (behind, ids) = (Behind::new(), Arc::new(Ids::default()));
        let (work, works) = std::sync::mpsc::sync_channel(COMMITS_BEHIND);
        let applier = Applier {
            tables: opened.tables.clone(),
            broken: Arc::clone(&broken),
            behind: Arc::clone(&behind),
            needed: opened.journal.needed(),
        };
        let committer = Committer::new(
            (opened.tables.clone(), opened.journal),
            (work, Arc::clone(&behind), Arc::clone(&ids)),
            Arc::clone(&broken),
            Arc::clone(&counters),
            opened.change_floor,
            options.skips_sync(),
        );
        let thread = |name: &str| std::thread::Builder::new().name(format!("{name}-{region}"));
        // Each ends when the one before it has ended and nothing is left.
        let threads = vec![
            thread("commit").spawn(move || committer.run(jobs))?,
            thread("apply").spawn(move || applier.run(&works))?,
        ];
        let dedup = Arc::new(Dedup {
            tables: opened.tables.clone(),
            behind: Arc::clone(&behind),
            ids,
            broken: Arc::clone(&broken),
        });
        let shared = Shared {
            queue: tokio::sync::Mutex::new(Some(queue)),
            threads: parking_lot::Mutex::new(threads),
            broken,
            counters,
            behind,
            dedup,
            identity: opened.identity,
            tables: opened.tables,
            rewriting: Arc::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The ports.
    #[must_use]
    pub fn stores(&self) -> Stores {
        Stores {
            log: Arc::clone(&self.shared) as _,
            placements: Arc::clone(&self.shared) as _,
            outbox: Arc::clone(&self.shared) as _,
            parking: Arc::clone(&self.shared) as _,
            cursors: Arc::clone(&self.shared) as _,
            last_changes: Arc::clone(&self.shared) as _,
            map: Arc::clone(&self.shared) as _,
            inspect: Arc::clone(&self.shared) as _,
            identity: self.shared.identity.clone(),
            counters: Arc::clone(&self.shared.counters),
        }
    }

    /// Why the store is broken, once it is. Never goes back to `None`.
    #[must_use]
    pub fn broken(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.shared.broken.watch()
    }

    /// Takes no further changes, finishes those that wait and ends the committer. Blocks for about one commit. Later
    /// changes are answered `Unavailable`; reads go on until the last handle is dropped.
    pub fn close(&self) {
        self.shared.close();
    }
}

/// What all handles share.
struct Shared {
    /// `None` once closed. The lock is fair and held while waiting for room: that keeps the order of first polls.
    queue: tokio::sync::Mutex<Option<mpsc::Sender<Job>>>,
    threads: parking_lot::Mutex<Vec<JoinHandle<()>>>,
    broken: Arc<Broken>,
    counters: Arc<StoreCounters>,
    behind: Arc<Behind>,
    dedup: Arc<Dedup>,
    identity: StoreIdentity,
    tables: Tables,
    /// Held while files are rewritten, and while a copy is made: its snapshot keeps what was taken away in the files.
    rewriting: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("identity", &self.identity)
            .field("broken", &self.broken.reason())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn close(&self) {
        // A caller that waits for room holds the lock until the committer has made some.
        while !self.threads.lock().is_empty() {
            if let Ok(mut queue) = self.queue.try_lock() {
                queue.take();
                break;
            }
            std::thread::yield_now();
        }
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                self.broken.set("a thread of the store panicked");
            }
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        self.broken.reason().map_or(Ok(()), |reason| Err(StoreError::Unavailable(reason)))
    }

    /// Answers a read once the tables have what was answered before it; one that fails breaks the store.
    async fn read<T>(&self, read: impl FnOnce(&Tables) -> Result<T, ReadError>) -> Result<T, StoreError> {
        self.check()?;
        self.behind.caught_up().await;
        read(&self.tables).map_err(|error| self.unreadable(&error))
    }

    /// As [`Shared::read`], for a look that breaks nothing.
    async fn look_at<T>(&self, look: impl FnOnce(&Tables) -> Result<T, ReadError>) -> Result<T, NotRead> {
        self.check()?;
        self.behind.caught_up().await;
        look(&self.tables).map_err(|error| NotRead::Row(error.to_string()))
    }

    fn unreadable(&self, error: &ReadError) -> StoreError {
        StoreError::Unavailable(self.broken.set(&error.to_string()))
    }

    /// Takes a place in the queue and waits for the answer.
    async fn ask<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> Result<T, StoreError> {
        self.check()?;
        let (answer, answered) = oneshot::channel();
        {
            let queue = self.queue.lock().await;
            let Some(queue) = queue.as_ref() else {
                return Err(StoreError::Unavailable(Arc::from("the store is closed")));
            };
            let place = queue.reserve().await.map_err(|_| self.ended())?;
            self.counters.waiting.fetch_add(1, Relaxed);
            place.send(job(answer));
        }
        // The committer answers everything that it took; without an answer it panicked on the way.
        answered.await.unwrap_or(Err(StoreError::Unknown))
    }

    fn ended(&self) -> StoreError {
        StoreError::Unavailable(self.broken.set("the committer ended"))
    }

    async fn scrub(&self) -> Result<bool, StoreError> {
        // While a copy is made it is left to the next call.
        let Ok(_alone) = self.rewriting.try_lock() else { return Ok(false) };
        let Some(after) = self.read(Tables::to_scrub).await? else { return Ok(false) };
        let tables = self.tables.clone();
        let rewriting = tokio::task::spawn_blocking(move || tables.rewrite().map_err(ReadError::from));
        // A rewriting that panicked is done again.
        rewriting.await.unwrap_or(Ok(())).map_err(|error| self.unreadable(&error))?;
        self.write(Write::Scrubbed(after)).await?;
        Ok(true)
    }

    async fn append(&self, appends: Vec<LogAppend>) -> Result<Vec<AppendOutcome>, StoreError> {
        self.ask(|answer| Job::Append(appends, answer)).await
    }

    async fn write(&self, write: Write) -> Result<(), StoreError> {
        self.ask(|answer| Job::Write(write, answer)).await
    }
}
