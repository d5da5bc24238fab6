//! The schema, by numbered migrations that only go forward. One process brings a keyspace up to date at a time: start one
//! node of a new version first.

use scylla::client::session::Session;

use crate::OpenError;

/// A step of the schema. What was released never changes; a change is another step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its number: they are made in this order, without a gap.
    pub number: i32,
    /// What it is about.
    pub name: &'static str,
    text: &'static str,
}

const MIGRATIONS: [Migration; 3] = [
    Migration { number: 1, name: "logs", text: include_str!("../migrations/0001-logs.cql") },
    Migration { number: 2, name: "indexes", text: include_str!("../migrations/0002-indexes.cql") },
    Migration { number: 3, name: "others", text: include_str!("../migrations/0003-others.cql") },
];

const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS migrations (part int, number int, name text, PRIMARY KEY (part, number))";

impl Migration {
    /// Its statements, without comments.
    #[must_use]
    pub fn statements(&self) -> Vec<String> {
        let lines = self.text.lines().filter(|line| !line.trim_start().starts_with("--"));
        let text = lines.collect::<Vec<_>>().join("\n");
        text.split(';').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
    }
}

fn failed(error: impl std::fmt::Display) -> OpenError {
    OpenError::Failed(error.to_string())
}

/// The number of the last migration that the keyspace has; 0 for none.
async fn last(session: &Session) -> Result<i32, OpenError> {
    let rows = session.query_unpaged("SELECT number FROM migrations WHERE part = 0", ()).await.map_err(failed)?;
    let rows = rows.into_rows_result().map_err(failed)?;
    let numbers = rows.rows::<(i32,)>().map_err(failed)?;
    let numbers = numbers.map(|row| row.map(|(number,)| number)).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    Ok(numbers.into_iter().max().unwrap_or(0))
}

/// Those behind the last that a keyspace has.
fn behind(found: i32) -> Result<Vec<Migration>, OpenError> {
    let known = MIGRATIONS[MIGRATIONS.len() - 1].number;
    if found > known {
        return Err(OpenError::Version { found, known });
    }
    Ok(MIGRATIONS.into_iter().filter(|migration| migration.number > found).collect())
}

/// Which migrations a keyspace needs, that may not be there yet. Changes nothing.
pub(crate) async fn pending(session: &Session, keyspace: &str) -> Result<Vec<Migration>, OpenError> {
    let asked = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = 'migrations'";
    let found = session.query_unpaged(asked, (keyspace,)).await.map_err(failed)?;
    if found.into_rows_result().map_err(failed)?.rows_num() == 0 {
        return behind(0);
    }
    session.use_keyspace(keyspace, false).await.map_err(failed)?;
    behind(last(session).await?)
}

/// Brings the keyspace in use up to date; which migrations that took.
pub(crate) async fn migrate(session: &Session) -> Result<Vec<Migration>, OpenError> {
    session.query_unpaged(TABLE, ()).await.map_err(failed)?;
    let pending = behind(last(session).await?)?;
    for migration in &pending {
        for statement in migration.statements() {
            session.query_unpaged(statement, ()).await.map_err(failed)?;
        }
        // Last: one that was interrupted is made again, and finds what it made.
        let done = "INSERT INTO migrations (part, number, name) VALUES (0, ?, ?)";
        session.query_unpaged(done, (migration.number, migration.name)).await.map_err(failed)?;
    }
    Ok(pending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_without_a_gap_and_may_be_made_again() {
        for (place, migration) in (1..).zip(MIGRATIONS) {
            assert_eq!(migration.number, place);
            let statements = migration.statements();
            assert!(statements.len() > 2, "{}", migration.name);
            for statement in statements {
                assert!(statement.starts_with("CREATE TABLE IF NOT EXISTS "), "{statement}");
                let lower = statement.to_lowercase();
                assert!(!lower.contains("time_to_live") && !lower.contains("ttl"), "rows never go by themselves");
            }
        }
    }
}
