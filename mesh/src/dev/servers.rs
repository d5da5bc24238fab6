//! The servers in which the regions of a development mesh keep their stores with `--stores production`: where they are,
//! and what in them is this mesh's. The data folder remembers both, so that `--fresh` finds what it has to drop.

use std::path::{Path, PathBuf};

use hearth_config::{CqlSection, PRIVATE, PostgresSection, StoreSection, write_atomic};
use serde::{Deserialize, Serialize};

use super::folder::{FolderError, failed};
use super::spec::{DevOptions, DevStores, ServerAddress};
use crate::metadata::drop_schema;
use crate::region::StartError;
use crate::store::drop_keyspace;

/// Characters of the id that a folder's names in servers carry.
const ID: usize = 8;

/// What a mesh has in servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevServers {
    /// The CQL server, `host:port`.
    pub cassandra: String,
    /// The PostgreSQL server; `None` in folders that are older than its use.
    #[serde(default)]
    pub postgresql: Option<ServerAddress>,
    /// What the names of this mesh carry: a folder has its own.
    pub id: String,
    /// Every region that was ever started from the folder.
    pub regions: Vec<String>,
}

impl DevServers {
    /// The keyspace of a region in Cassandra and its schema in PostgreSQL, within the 48 characters that both take.
    #[must_use]
    pub fn name_of(&self, region: &str) -> String {
        format!("dev_{}_{}", self.id, region.replace('-', "_"))
    }

    /// `[store]` of a region.
    pub(crate) fn store(&self, region: &str) -> StoreSection {
        let cql = CqlSection::new(self.cassandra.clone(), self.name_of(region));
        StoreSection { cql: Some(cql), postgres: self.metadata(region) }
    }

    fn metadata(&self, region: &str) -> Option<PostgresSection> {
        let ServerAddress { host, port } = self.postgresql.clone()?;
        Some(PostgresSection::new(host, port, self.name_of(region)))
    }

    /// Drops all that is this mesh's.
    async fn dropped(&self) -> Result<(), StartError> {
        for region in &self.regions {
            drop_keyspace(&CqlSection::new(self.cassandra.clone(), self.name_of(region))).await?;
            if let Some(metadata) = self.metadata(region) {
                drop_schema(&metadata, region).await?;
            }
        }
        Ok(())
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("stores.json")
}

/// What a folder remembers; `None` where its regions are embedded, or it is new.
fn remembered(folder: &Path) -> Result<Option<DevServers>, FolderError> {
    let file = file(folder);
    match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(&file, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&file, error)),
    }
}

/// Drops what a folder that is about to be emptied has in servers. Where they do not answer, or this build does not speak
/// to them, a warning names what stays: a mesh whose stores are embedded has no use for them.
pub(super) async fn forget(folder: &Path, stores: &DevStores) -> Result<(), StartError> {
    let old = match remembered(folder) {
        Ok(Some(old)) => old,
        Ok(None) => return Ok(()),
        Err(error) => {
            tracing::warn!(%error, "what the folder has in servers is not known any more, and stays there");
            return Ok(());
        }
    };
    match old.dropped().await {
        Err(error) if *stores == DevStores::Embedded => {
            let names: Vec<String> = old.regions.iter().map(|region| old.name_of(region)).collect();
            tracing::warn!(%error, cassandra = old.cassandra, ?names, "what the folder has in servers stays");
            Ok(())
        }
        dropped => dropped,
    }
}

/// What the mesh of a folder has in servers from now on, by what was asked for; `None` for embedded stores.
///
/// # Errors
/// [`FolderError::Stores`] where its regions have stores of the other kind.
pub(super) fn settle(folder: &Path, options: &DevOptions) -> Result<Option<DevServers>, FolderError> {
    let known = remembered(folder)?;
    let other = |has: &'static str| FolderError::Stores { path: folder.to_owned(), has };
    let DevStores::Production { cassandra, postgresql } = &options.stores else {
        return if known.is_none() { Ok(None) } else { Err(other("production")) };
    };
    if known.is_none() && folder.join("regions").exists() {
        return Err(other("embedded"));
    }
    let (id, regions) = known.map_or_else(|| (new_id(), Vec::new()), |known| (known.id, known.regions));
    let mut servers = DevServers { cassandra: cassandra.clone(), postgresql: Some(postgresql.clone()), id, regions };
    let more = options.regions.iter().filter(|region| !servers.regions.contains(region));
    let more: Vec<String> = more.cloned().collect();
    servers.regions.extend(more);
    let (file, bytes) = (file(folder), serde_json::to_vec(&servers));
    let bytes = bytes.map_err(|error| failed(&file, error))?;
    write_atomic(&file, &bytes, PRIVATE).map_err(|error| failed(&file, error))?;
    Ok(Some(servers))
}

fn new_id() -> String {
    let mut id = uuid::Uuid::new_v4().simple().to_string();
    id.truncate(ID);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn production(regions: &[&str]) -> DevOptions {
        let postgresql = "127.0.0.1:19032".parse().expect("an address");
        let stores = DevStores::Production { cassandra: "127.0.0.1:19042".to_owned(), postgresql };
        DevOptions { stores, regions: regions.iter().map(|name| (*name).to_owned()).collect(), ..DevOptions::default() }
    }

    #[test]
    fn a_folder_keeps_its_names_in_servers_and_every_region_that_it_had_and_stays_with_its_kind_of_store() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = settle(folder.path(), &production(&["eu-west", "us-east"])).expect("new").expect("servers");
        assert_eq!(first.name_of("eu-west"), format!("dev_{}_eu_west", first.id));
        let second = settle(folder.path(), &production(&["us-east", "ap-south"])).expect("known").expect("servers");
        assert_eq!(second.id, first.id);
        assert_eq!(second.regions, ["eu-west", "us-east", "ap-south"]);
        let asked = settle(folder.path(), &DevOptions::default());
        assert!(matches!(asked, Err(FolderError::Stores { has: "production", .. })), "{asked:?}");

        let embedded = tempfile::tempdir().expect("a folder");
        assert_eq!(settle(embedded.path(), &DevOptions::default()).expect("new"), None);
        std::fs::create_dir(embedded.path().join("regions")).expect("made");
        let asked = settle(embedded.path(), &production(&["eu-west"]));
        assert!(matches!(asked, Err(FolderError::Stores { has: "embedded", .. })), "{asked:?}");
    }

    #[test]
    fn the_longest_name_of_a_region_gives_a_name_that_both_servers_take() {
        let servers = DevServers { cassandra: String::new(), postgresql: None, id: new_id(), regions: Vec::new() };
        let longest = (1..=200).map(|length| "a".repeat(length));
        let longest = longest.take_while(|name| hearth_protocol::RegionId::new(name).is_ok()).last().expect("a name");
        let name = servers.name_of(&longest);
        assert!(name.len() <= 48, "{name}");
    }
}
