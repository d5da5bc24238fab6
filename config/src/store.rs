//! `[store]`: where a region keeps what is durable.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `[store]`: where a region keeps what is durable. Default: one embedded store in its data folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// Servers that speak CQL instead; default none.
    pub cql: Option<CqlSection>,
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
}
