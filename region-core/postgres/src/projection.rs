//! The projection of a region: opened, brought up to date behind the logs, and made anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use deadpool_postgres::Client;
use hearth_protocol::{LogId, LogKind, RegionId};
use parking_lot::Mutex;
use region_model::ports::LogSummary;
use uuid::Uuid;

use crate::database::{Database, Work, work};
use crate::error::Error;
use crate::migrations;
use crate::read::{Reading, Source, cursors_alone};
use crate::rows::{LogRows, Stand};
use crate::views::Views;
use crate::write::{self, kind};
use crate::{PostgresOptions, statements};

/// The kinds of logs that are projected. Users first: whoever reads finds the members of a conversation there already.
pub(crate) const KINDS: [LogKind; 2] = [LogKind::User, LogKind::Conversation];
/// Logs looked at once.
const PAGE: usize = 256;
/// Characters of a schema's name: a rebuild adds some.
const SCHEMA: usize = 40;
/// A batch is written once it has so many rows, or logs.
const BATCH_ROWS: usize = 4_000;

/// What a pass over the logs did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Logs that were looked at.
    pub logs: u64,
    /// Of those, logs that were written.
    pub written: u64,
    /// Of those, logs that were projected from their first entry on, for the first time or since they are on another line.
    pub anew: u64,
    /// Logs that went, since the region does not hold them any more.
    pub forgotten: u64,
    /// Entries that were read.
    pub entries: u64,
    /// Rows that were written, about.
    pub rows: u64,
    /// Statements that wrote them, those around them in their transactions included.
    pub statements: u64,
    /// Logs that could not be projected yet: they changed meanwhile, or are not here whole.
    pub behind: u64,
}

impl Pass {
    /// Both together; what is behind is so since the later one.
    #[must_use]
    pub fn and(&self, later: &Self) -> Self {
        Self {
            logs: self.logs + later.logs,
            written: self.written + later.written,
            anew: self.anew + later.anew,
            forgotten: self.forgotten + later.forgotten,
            entries: self.entries + later.entries,
            rows: self.rows + later.rows,
            statements: self.statements + later.statements,
            behind: later.behind,
        }
    }
}

/// Whose cursors a pass looks at. The logs do not tell when one moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Those of conversations that changed otherwise.
    Changed,
    /// Those of all conversations.
    All,
}

/// An open projection. Clones share it.
#[derive(Clone, Debug)]
pub struct Projection {
    pub(crate) database: Database,
    views: Arc<Mutex<Views>>,
    changes: Arc<Mutex<Changes>>,
}

/// What is known of numbers of changes.
#[derive(Debug, Default)]
struct Changes {
    /// The store whose they are.
    store: Option<Uuid>,
    /// The highest that the pass before this one saw. Cursors that were put by it, or before it, are there by now: a store
    /// in servers may show a later one first.
    settled: u64,
}

/// One pass: what it has read and not written yet.
struct Under<'a> {
    source: &'a Source,
    sweep: Sweep,
    pass: Pass,
    batch: Vec<LogRows>,
    rows: usize,
    /// The highest number of a change that was seen.
    seen: u64,
}

impl Projection {
    /// Opens the projection of a region: makes its schema, or brings it up to date.
    ///
    /// # Errors
    /// [`Error`]; nothing is half made.
    pub async fn open(options: &PostgresOptions, region: &RegionId) -> Result<Self, Error> {
        if options.schema.len() > SCHEMA {
            return Err(Error::Name(options.schema.clone()));
        }
        Self::open_in(options, &options.schema, region).await
    }

    pub(crate) async fn open_in(options: &PostgresOptions, schema: &str, region: &RegionId) -> Result<Self, Error> {
        let database = Database::new(options, schema)?;
        migrations::migrate(&database).await?;
        let asked = region.clone();
        let identify = work(move |client| {
            Box::pin(async move {
                client.execute(statements::OWN, &[&asked.as_str()]).await?;
                let row = client.query_one(statements::IDENTITY, &[]).await?;
                Ok((row.get(0), row.get(1)))
            })
        });
        let owner = database.call("to look whose schema it is", Self::owner).await?;
        let (found, store) = match owner {
            Some(owner) => owner,
            None => database.call("to name the schema's region", identify).await?,
        };
        if found != region.as_str() {
            return Err(Error::Region { found, asked: region.clone() });
        }
        Ok(Self { database, views: Arc::default(), changes: Arc::new(Mutex::new(Changes { store, settled: 0 })) })
    }

    fn owner(client: &mut Client) -> Work<'_, Option<(String, Option<Uuid>)>> {
        Box::pin(async move {
            let row = client.query_opt(statements::IDENTITY, &[]).await?;
            Ok(row.map(|row| (row.get(0), row.get(1))))
        })
    }

    /// Brings the projection up to date: looks at all logs, and writes what changed, a batch in a transaction. What is
    /// interrupted goes on where it was. `tell` hears of each page of logs.
    ///
    /// # Errors
    /// [`Error`]; what was written before stands.
    pub async fn catch_up(
        &self,
        source: &Source,
        sweep: Sweep,
        tell: &mut (dyn FnMut(&Pass) + Send),
    ) -> Result<Pass, Error> {
        self.take_store(source.store).await?;
        let mut under = Under { source, sweep, pass: Pass::default(), batch: Vec::new(), rows: 0, seen: 0 };
        for kind in KINDS {
            let mut after = None;
            loop {
                let page = source.log.logs(kind, after, PAGE).await?;
                let last = page.last().map(|summary| summary.log).filter(|_| page.len() == PAGE);
                under.pass.forgotten += self.forget(kind, after, last, &page).await?;
                self.page(&mut under, &page).await?;
                tell(&under.pass);
                let Some(last) = last else { break };
                after = Some(last);
            }
            self.flush(&mut under).await?;
        }
        self.changes.lock().settled = under.seen;
        tell(&under.pass);
        Ok(under.pass)
    }

    async fn page(&self, under: &mut Under<'_>, page: &[LogSummary]) -> Result<(), Error> {
        let stands = self.stands(page.iter().map(|summary| summary.log).collect()).await?;
        for summary in page {
            under.pass.logs += 1;
            let stand = stands.get(&summary.log);
            under.seen = under.seen.max(summary.change);
            let Some(mut rows) = self.rows(under, summary, stand).await? else { continue };
            let sweeps = under.sweep == Sweep::All || !stand.is_some_and(|stand| stand.is_current(summary));
            if summary.log.kind == LogKind::Conversation && sweeps {
                // On another line a cursor counts for something else.
                let same = stand.filter(|stand| !rows.anew && stand.line == rows.after.line);
                let since = same.map_or(0, |stand| stand.cursors);
                rows.cursors = under.source.cursors(summary, since).await?;
                under.seen = rows.cursors.iter().map(|row| row.change).fold(under.seen, u64::max);
                rows.after.cursors = since.max(self.changes.lock().settled);
            }
            if rows.is_nothing() {
                continue;
            }
            under.rows += rows.count();
            under.batch.push(rows);
            if under.rows >= BATCH_ROWS {
                self.flush(under).await?;
            }
        }
        Ok(())
    }

    /// The rows of a log but for its cursors; `None` where nothing can be said, or nothing is to be.
    async fn rows(
        &self,
        under: &mut Under<'_>,
        summary: &LogSummary,
        stand: Option<&Stand>,
    ) -> Result<Option<LogRows>, Error> {
        match stand {
            Some(stand) if stand.is_current(summary) => {
                let sweeps = under.sweep == Sweep::All && summary.log.kind == LogKind::Conversation;
                return Ok(sweeps.then(|| cursors_alone(summary.log, stand, Vec::new())));
            }
            None if crate::rows::shown(summary) == 0 => return Ok(None),
            Some(_) | None => {}
        }
        let kept = stand.and_then(|stand| self.views.lock().take(summary.log, stand));
        match under.source.read(summary, stand, kept, &mut under.pass.entries).await? {
            Reading::Rows(rows, view) => {
                under.pass.anew += u64::from(rows.anew);
                self.views.lock().put(summary.log, (rows.after.length, rows.after.hash), view);
                let before = stand.cloned();
                Ok(Some(LogRows { before, ..*rows }))
            }
            Reading::NotYet => {
                under.pass.behind += 1;
                Ok(None)
            }
        }
    }

    /// Writes what was read.
    async fn flush(&self, under: &mut Under<'_>) -> Result<(), Error> {
        let batch = std::mem::take(&mut under.batch);
        under.rows = 0;
        if batch.is_empty() {
            return Ok(());
        }
        let counts: BTreeMap<LogId, usize> = batch.iter().map(|rows| (rows.log, rows.count())).collect();
        let schema = self.database.schema.clone();
        let writing = work(move |client| Box::pin(async move { write::write(client, &schema, batch).await }));
        let (written, statements) = self.database.call("to write a batch of logs", writing).await?;
        under.pass.statements += statements as u64;
        under.pass.written += written.len() as u64;
        under.pass.behind += (counts.len() - written.len()) as u64;
        under.pass.rows += written.iter().filter_map(|log| counts.get(log)).map(|count| *count as u64).sum::<u64>();
        Ok(())
    }

    /// How far logs are projected.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn stands(&self, logs: Vec<LogId>) -> Result<BTreeMap<LogId, Stand>, Error> {
        let (kinds, ids) = write::keys(logs.into_iter());
        let asked = work(move |client| {
            Box::pin(async move {
                let statement = client.prepare_cached(statements::STANDS).await?;
                Ok(write::stands(&client.query(&statement, &[&kinds, &ids]).await?))
            })
        });
        self.database.call("how far logs are projected", asked).await
    }

    /// Takes logs away that the region does not hold: those between two places that the page does not have.
    async fn forget(
        &self,
        of: LogKind,
        after: Option<LogId>,
        to: Option<LogId>,
        page: &[LogSummary],
    ) -> Result<u64, Error> {
        let Some(kind) = kind(of) else { return Ok(0) };
        let held: Vec<Uuid> = page.iter().map(|summary| summary.log.id).collect();
        let (after, to) = (after.map(|log| log.id), to.map(|log| log.id));
        let drop = if of == LogKind::User { statements::DROP_USERS } else { statements::DROP_CONVERSATIONS };
        let key = write::lock_of(&self.database.schema);
        let forgetting = work(move |client| {
            Box::pin(async move {
                let asked = client.prepare_cached(statements::GONE).await?;
                let gone = client.query(&asked, &[&kind, &after, &to, &held]).await?;
                let gone: Vec<Uuid> = gone.iter().map(|row| row.get(0)).collect();
                if gone.is_empty() {
                    return Ok(0);
                }
                let transaction = client.transaction().await?;
                transaction.execute(statements::LOCK, &[&key]).await?;
                transaction.execute(statements::FORGET, &[&kind, &gone]).await?;
                transaction.execute(drop, &[&gone]).await?;
                transaction.commit().await?;
                Ok(gone.len() as u64)
            })
        });
        self.database.call("to forget logs", forgetting).await
    }

    /// Numbers of changes are those of one store: with another one all logs are looked at again.
    async fn take_store(&self, store: Uuid) -> Result<(), Error> {
        if self.changes.lock().store == Some(store) {
            return Ok(());
        }
        let key = write::lock_of(&self.database.schema);
        let taking = work(move |client| {
            Box::pin(async move {
                let transaction = client.transaction().await?;
                transaction.execute(statements::LOCK, &[&key]).await?;
                transaction.execute(statements::OTHER_STORE, &[]).await?;
                transaction.execute(statements::STORE, &[&store]).await?;
                transaction.commit().await
            })
        });
        self.database.call("to take up another store", taking).await?;
        *self.changes.lock() = Changes { store: Some(store), settled: 0 };
        Ok(())
    }
}
