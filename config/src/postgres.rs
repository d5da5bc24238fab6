//! `[store.postgres]`: where a region's metadata are projected.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::files::{FileError, read_secret};
use crate::values::{SecretText, duration};

/// `[store.postgres]`: one PostgreSQL server. In builds with the feature `postgres`. The region keeps nothing there that
/// its store does not have.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSection {
    /// The server's name or address.
    pub host: String,
    /// Its port; default 5432.
    #[serde(default = "port")]
    pub port: u16,
    /// The database, which has to be there.
    pub database: String,
    /// Who the server knows the region as.
    pub username: String,
    /// A file with the password of `username`; default none: the server asks for none.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The region's own schema: 1 to 40 of a-z, 0-9 and `_`, starting with a letter. Made where it is not there. Default:
    /// `hearth_` and the region's name with `_` for `-`.
    #[serde(default)]
    pub schema: Option<String>,
    /// Connections, at most; default 4, from 1 to 64.
    #[serde(default = "connections")]
    pub connections: usize,
    /// After this the server ends a statement; default 10 s, from 100 ms to 10 minutes.
    #[serde(default = "statement_timeout", deserialize_with = "duration::deserialize")]
    pub statement_timeout: Duration,
    /// After this a call ends with all its statements; default 30 s, from 100 ms to 1 hour.
    #[serde(default = "deadline", deserialize_with = "duration::deserialize")]
    pub deadline: Duration,
    /// How often the region looks at its logs for what is new; default 5 s, from 100 ms to 1 hour.
    #[serde(default = "every", deserialize_with = "duration::deserialize")]
    pub every: Duration,
    /// How often it looks at the cursors of conversations in which nothing else changed; default 1 minute, from 1 s to 1 day.
    #[serde(default = "cursors_every", deserialize_with = "duration::deserialize")]
    pub cursors_every: Duration,
}

fn port() -> u16 {
    5432
}

fn connections() -> usize {
    4
}

fn statement_timeout() -> Duration {
    Duration::from_secs(10)
}

fn deadline() -> Duration {
    Duration::from_secs(30)
}

fn every() -> Duration {
    Duration::from_secs(5)
}

fn cursors_every() -> Duration {
    Duration::from_secs(60)
}

/// A time of the section: its key, its value, its bounds and its default.
pub(crate) type Time = (&'static str, Duration, RangeInclusive<Duration>, Duration);

impl PostgresSection {
    /// A schema of the server's first database, for development: no password, looked at every second.
    #[must_use]
    pub fn new(host: String, port: u16, schema: String) -> Self {
        Self {
            host,
            port,
            database: "postgres".to_owned(),
            username: "hearth".to_owned(),
            password_file: None,
            schema: Some(schema),
            connections: connections(),
            statement_timeout: statement_timeout(),
            deadline: deadline(),
            every: Duration::from_secs(1),
            cursors_every: cursors_every(),
        }
    }

    /// The schema of a region.
    #[must_use]
    pub fn schema_of(&self, region: &str) -> String {
        self.schema.clone().unwrap_or_else(|| format!("hearth_{}", region.replace('-', "_")))
    }

    /// The password of `username`, of its file; none when there is none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_password(&self) -> Result<Option<SecretText>, FileError> {
        read_secret(self.password_file.as_deref())
    }

    pub(crate) fn times(&self) -> [Time; 4] {
        let (least, second) = (Duration::from_millis(100), Duration::from_secs(1));
        let (hour, day) = (Duration::from_secs(3_600), Duration::from_secs(24 * 3_600));
        [
            ("statement_timeout", self.statement_timeout, least..=Duration::from_secs(600), statement_timeout()),
            ("deadline", self.deadline, least..=hour, deadline()),
            ("every", self.every, least..=hour, every()),
            ("cursors_every", self.cursors_every, second..=day, cursors_every()),
        ]
    }
}
