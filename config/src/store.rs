//! `[store]`: where a region keeps what is durable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::files::{FileError, read_secret};
use crate::postgres::PostgresSection;
use crate::values::{Pem, SecretText};

/// `[store]`: where a region keeps what is durable. Default: one embedded store in its data folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// Servers that speak CQL instead; default none.
    pub cql: Option<CqlSection>,
    /// Where users, conversations and members are projected for others to read; default nowhere.
    pub postgres: Option<PostgresSection>,
}

/// `[store.cql]`: Apache Cassandra or ScyllaDB. In builds with the feature `cql`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CqlSection {
    /// Nodes to begin with, `host:port`; the others are learned from them.
    pub nodes: Vec<String>,
    /// The region's own keyspace: 1 to 48 of a-z, 0-9 and `_`, starting with a letter.
    pub keyspace: String,
    /// Copies in each data centre, with which a new keyspace is made, from 1 to 9 each. Default none: one copy of all,
    /// for development.
    #[serde(default)]
    pub data_centres: BTreeMap<String, u8>,
    /// Who the servers know the region as; default none: they ask nobody.
    #[serde(default)]
    pub username: Option<String>,
    /// A file with the password of `username`; default none.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Authorities (PEM) that sign the certificates of the nodes, which name the nodes' addresses: with it TLS is spoken
    /// to all of them. Default none: no TLS.
    #[serde(default)]
    pub authorities: Option<Pem>,
    /// The certificate (PEM) that the region shows to nodes that ask for one; default none.
    #[serde(default)]
    pub certificate: Option<Pem>,
    /// The key (PEM) of `certificate`.
    #[serde(default)]
    pub key: Option<Pem>,
}

impl CqlSection {
    /// One node and one keyspace, for development: no password, no TLS, one copy of each row.
    #[must_use]
    pub fn new(node: String, keyspace: String) -> Self {
        Self {
            nodes: vec![node],
            keyspace,
            data_centres: BTreeMap::new(),
            username: None,
            password_file: None,
            authorities: None,
            certificate: None,
            key: None,
        }
    }

    /// The password of `username`, of its file; none when there is none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_password(&self) -> Result<Option<SecretText>, FileError> {
        read_secret(self.password_file.as_deref())
    }
}

impl StoreSection {
    pub(crate) fn resolve(&mut self, folder: &Path) {
        if let Some(path) = self.postgres.as_mut().and_then(|postgres| postgres.password_file.as_mut()) {
            *path = folder.join(&*path);
        }
        let Some(cql) = &mut self.cql else { return };
        cql.password_file.iter_mut().for_each(|path| *path = folder.join(&*path));
        [&mut cql.authorities, &mut cql.certificate, &mut cql.key]
            .into_iter()
            .flatten()
            .for_each(|pem| pem.resolve(folder));
    }
}
