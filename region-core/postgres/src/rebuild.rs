//! The projection made anew, beside the one that is read: in a schema of its own, whose rows then take the place of the old
//! ones in one transaction. Readers see the old rows until then, and keep their rights.

use deadpool_postgres::{Client, GenericClient as _, Object};
use hearth_protocol::RegionId;

use crate::database::{Database, work};
use crate::error::Error;
use crate::migrations::{self, Migration};
use crate::projection::{KINDS, Pass, Projection, Sweep};
use crate::read::Source;
use crate::rows::shown;
use crate::write::lock_of;
use crate::{PostgresOptions, statements};

/// What the schema in which it is made is called behind the name of the other.
const SUFFIX: &str = "_rebuild";
/// The tables whose rows are replaced; each refers to those before it alone.
const TABLES: [&str; 9] = [
    "projected",
    "conversations",
    "conversation_members",
    "cursors",
    "users",
    "user_regions",
    "user_conversations",
    "push_preferences",
    "push_subscriptions",
];
/// Passes until logs that change meanwhile are left to the follower.
const PASSES: usize = 3;
/// Logs counted at once.
const PAGE: usize = 256;

/// What a rebuild would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Migrations that it would make first.
    pub migrations: Vec<Migration>,
    /// Records of users that it would read.
    pub users: u64,
    /// Conversations that it would read.
    pub conversations: u64,
    /// Their entries.
    pub entries: u64,
    /// Logs that are projected now.
    pub projected: u64,
    /// Whether one was begun before, and would be gone on with.
    pub begun: bool,
}

/// Says what a rebuild would do. Changes nothing.
///
/// # Errors
/// [`Error`].
pub async fn plan(options: &PostgresOptions, source: &Source) -> Result<Plan, Error> {
    let database = Database::new(options, &options.schema)?;
    let migrations = migrations::pending(&database).await?;
    let (live, fresh) = (format!("{}.projected", options.schema), format!("{}{SUFFIX}.projected", options.schema));
    let asked = work(move |client| {
        Box::pin(async move {
            let there = "SELECT to_regclass($1) IS NOT NULL, to_regclass($2) IS NOT NULL";
            let there = client.query_one(there, &[&live, &fresh]).await?;
            let projected = match there.get(0) {
                true => client.query_one(&format!("SELECT count(*) FROM {live}"), &[]).await?.get(0),
                false => 0_i64,
            };
            Ok((u64::try_from(projected).unwrap_or(0), there.get(1)))
        })
    });
    let (projected, begun) = database.call("what is projected", asked).await?;
    let mut plan = Plan { migrations, users: 0, conversations: 0, entries: 0, projected, begun };
    for kind in KINDS {
        let mut after = None;
        loop {
            let page = source.log.logs(kind, after, PAGE).await?;
            let of_kind =
                if kind == hearth_protocol::LogKind::User { &mut plan.users } else { &mut plan.conversations };
            *of_kind += page.len() as u64;
            plan.entries += page.iter().map(shown).sum::<u64>();
            after = page.last().map(|summary| summary.log);
            if page.len() < PAGE {
                break;
            }
        }
    }
    Ok(plan)
}

/// Makes the projection anew. Interrupted it leaves the old one as it is, and goes on where it was when it is run again.
/// `tell` hears of each page of logs. Returns what was done this time.
///
/// # Errors
/// [`Error`]; [`Error::Busy`] while another process does the same.
pub async fn rebuild(
    options: &PostgresOptions,
    region: &RegionId,
    source: &Source,
    tell: &mut (dyn FnMut(&Pass) + Send),
) -> Result<Pass, Error> {
    let live = Projection::open(options, region).await?;
    // Beside the pool, which may have one connection alone.
    let lock = alone(&Database::new(options, &options.schema)?).await?;
    let rebuilt = replace(&live, options, region, source, tell).await;
    // With its connection the lock goes, too, but a moment later.
    let _ = lock.batch_execute("SELECT pg_advisory_unlock_all()").await;
    drop(Object::take(lock));
    rebuilt
}

async fn replace(
    live: &Projection,
    options: &PostgresOptions,
    region: &RegionId,
    source: &Source,
    tell: &mut (dyn FnMut(&Pass) + Send),
) -> Result<Pass, Error> {
    let fresh = Projection::open_in(options, &format!("{}{SUFFIX}", options.schema), region).await?;
    let mut sum = Pass::default();
    for _ in 0..PASSES {
        let before = sum;
        let mut tell_sum = |pass: &Pass| tell(&before.and(pass));
        let pass = fresh.catch_up(source, Sweep::All, &mut tell_sum).await?;
        sum = before.and(&pass);
        if pass.behind == 0 {
            break;
        }
    }
    let (old, new) = (live.database.schema.clone(), fresh.database.schema.clone());
    let swapping = work(move |client| Box::pin(async move { swap(client, &old, &new).await }));
    live.database.call_within("to put the new rows in the place of the old ones", None, swapping).await?;
    Ok(sum)
}

/// A connection that keeps other rebuilds of the schema out as long as it is there.
async fn alone(database: &Database) -> Result<Client, Error> {
    const WHAT: &str = "a rebuild of this projection";
    let client = database.connect(WHAT).await?;
    let key = format!("hearth rebuild of {}", database.schema);
    let row = client.query_one("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", &[&key]).await;
    let row = row.map_err(|error| database.explain(WHAT, &error))?;
    if row.get(0) { Ok(client) } else { Err(Error::Busy(WHAT)) }
}

/// Deleted rows stay visible to whoever reads meanwhile; a `TRUNCATE` would make readers wait.
async fn swap(client: &mut Client, old: &str, new: &str) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute("SET LOCAL statement_timeout = 0").await?;
    for schema in [old, new] {
        transaction.execute(statements::LOCK, &[&lock_of(schema)]).await?;
    }
    for table in TABLES.iter().rev() {
        transaction.batch_execute(&format!("DELETE FROM {old}.{table}")).await?;
    }
    for table in TABLES {
        transaction.batch_execute(&format!("INSERT INTO {old}.{table} SELECT * FROM {new}.{table}")).await?;
    }
    transaction
        .batch_execute(&format!("UPDATE {old}.projection_of SET store = (SELECT store FROM {new}.projection_of)"))
        .await?;
    transaction.batch_execute(&format!("DROP SCHEMA {new} CASCADE")).await?;
    transaction.commit().await
}
