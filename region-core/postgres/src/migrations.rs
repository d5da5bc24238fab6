//! The tables: numbered migrations that only go forward. All that a schema lacks are made in one transaction, so that
//! nothing is ever half made.

use deadpool_postgres::Client;

use crate::database::{Database, work};
use crate::error::Error;

/// A step of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its number, from 1.
    pub number: i32,
    /// What it is about.
    pub name: &'static str,
    text: &'static str,
}

pub(crate) const MIGRATIONS: [Migration; 3] = [
    Migration { number: 1, name: "projected", text: include_str!("../migrations/0001-projected.sql") },
    Migration { number: 2, name: "conversations", text: include_str!("../migrations/0002-conversations.sql") },
    Migration { number: 3, name: "users", text: include_str!("../migrations/0003-users.sql") },
];

const TABLE: &str = "CREATE TABLE IF NOT EXISTS migrations (
  number integer PRIMARY KEY, name text NOT NULL, made_at timestamptz NOT NULL DEFAULT now())";

impl Migration {
    /// Its statements, without comments.
    #[must_use]
    pub fn statements(&self) -> Vec<String> {
        let lines = self.text.lines().filter(|line| !line.trim_start().starts_with("--"));
        let text = lines.collect::<Vec<_>>().join("\n");
        text.split(';').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
    }
}

/// Those behind the last that a schema has.
fn behind(found: i32) -> Result<Vec<Migration>, Error> {
    let known = MIGRATIONS[MIGRATIONS.len() - 1].number;
    if found > known {
        return Err(Error::Version { found, known });
    }
    Ok(MIGRATIONS.into_iter().filter(|migration| migration.number > found).collect())
}

/// The number of the last migration that the schema has; 0 for none.
async fn last(client: &impl deadpool_postgres::GenericClient, schema: &str) -> Result<i32, tokio_postgres::Error> {
    // By the catalogue, whose rows are seen as they are now: what `to_regclass` looks into is brought up to date when a
    // transaction begins, and another process may have made the table since.
    let there = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
      WHERE n.nspname = $1 AND c.relname = 'migrations')";
    let there = client.query_one(there, &[&schema]).await?;
    if !there.get::<_, bool>(0) {
        return Ok(0);
    }
    let row = client.query_one(&format!("SELECT coalesce(max(number), 0) FROM {schema}.migrations"), &[]).await?;
    Ok(row.get(0))
}

/// Which migrations a schema lacks, that may not be there yet. Changes nothing.
pub(crate) async fn pending(database: &Database) -> Result<Vec<Migration>, Error> {
    let schema = database.schema.clone();
    let asked = work(move |client| Box::pin(async move { last(&*client, &schema).await }));
    behind(database.call("to look at its migrations", asked).await?)
}

/// Makes the schema where it is not there, and brings it up to date; which migrations that took. One process at a time
/// does that, and another one waits.
pub(crate) async fn migrate(database: &Database) -> Result<Vec<Migration>, Error> {
    // Where nothing is to be done nothing is locked, and the user needs no right to make a schema.
    if pending(database).await?.is_empty() {
        return Ok(Vec::new());
    }
    let schema = database.schema.clone();
    let made = work(move |client| Box::pin(async move { make(client, &schema).await }));
    // A table of millions may take longer than any deadline; nobody waits for it but who starts.
    database.call_within("a migration", None, made).await?
}

/// See [`crate::drop_schema`].
pub(crate) async fn drop_schema(database: &Database) -> Result<(), Error> {
    let statement = format!("DROP SCHEMA IF EXISTS {} CASCADE", database.schema);
    let dropped = work(move |client| Box::pin(async move { client.batch_execute(&statement).await }));
    database.call("to drop a schema", dropped).await
}

async fn make(client: &mut Client, schema: &str) -> Result<Result<Vec<Migration>, Error>, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute("SET LOCAL statement_timeout = 0").await?;
    let key = format!("hearth migrations of {schema}");
    transaction.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", &[&key]).await?;
    let pending = match behind(last(&transaction, schema).await?) {
        Ok(pending) => pending,
        Err(error) => return Ok(Err(error)),
    };
    // Whoever may use a schema that is there need not have the right to make one.
    let there = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
    let there = transaction.query_one(there, &[&schema]).await?;
    if !there.get::<_, bool>(0) {
        transaction.batch_execute(&format!("CREATE SCHEMA {schema}")).await?;
    }
    transaction.batch_execute(TABLE).await?;
    for migration in &pending {
        for statement in migration.statements() {
            transaction.batch_execute(&statement).await?;
        }
        let done = "INSERT INTO migrations (number, name) VALUES ($1, $2)";
        transaction.execute(done, &[&migration.number, &migration.name]).await?;
    }
    transaction.commit().await?;
    Ok(Ok(pending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_without_a_gap_and_name_no_schema_of_their_own() {
        for (place, migration) in (1..).zip(MIGRATIONS) {
            assert_eq!(migration.number, place);
            let statements = migration.statements();
            assert!(!statements.is_empty(), "{}", migration.name);
            for statement in statements {
                assert!(statement.starts_with("CREATE "), "{statement}");
            }
        }
    }

    #[test]
    fn a_schema_of_a_newer_version_is_refused() {
        let known = MIGRATIONS[MIGRATIONS.len() - 1].number;
        assert_eq!(behind(0).expect("it is older").len(), MIGRATIONS.len());
        assert_eq!(behind(known).expect("it is this one"), []);
        assert!(matches!(behind(known + 1), Err(Error::Version { found, .. }) if found == known + 1));
    }
}
