//! The verbs of a store on the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hearth_protocol::RegionId;

use crate::admin_arguments::{How, region};
use crate::arguments::OfRegion;

/// `hearth store`.
#[derive(Debug, Args)]
pub(crate) struct StoreArguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: StoreVerb,
}

/// What to do with a store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreVerb {
    /// Bring the servers' tables up to date, forward only. A region does so itself when it starts.
    Migrate(OfRegion),
    /// Copy the store, the media and the audit log of a region that runs, as of one moment, while it serves. Keys and
    /// certificates are not copied. Exit codes: 0 done; 1 refused, with what to type instead; 7 no node answers; 70 it
    /// failed on the way: what was written is no copy.
    Backup {
        /// The region.
        #[arg(value_parser = region)]
        region: RegionId,
        /// A folder on the node's machine: empty, or not there. A relative path is one of where this is typed.
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
        /// How, and where.
        #[command(flatten)]
        how: How,
    },
    /// Bring a copy back into an empty data folder. The region comes back as one with a new store: what it holds counts
    /// once it has caught up with its peers. Exit codes: 0 done; 1 refused, with what to type instead; 2 usage, or a
    /// configuration that cannot be used; 70 it failed on the way: no data folder was made.
    Restore(RestoreArguments),
}

/// `hearth store restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArguments {
    /// The folder with the copy.
    #[arg(value_name = "COPY")]
    pub(crate) copy: PathBuf,
    /// The region's configuration file, which names its data folder.
    #[arg(long, value_name = "FILE", required_unless_present = "folder", conflicts_with = "folder")]
    pub(crate) config: Option<PathBuf>,
    /// The data folder instead.
    #[arg(long, value_name = "DIR", requires = "region")]
    pub(crate) folder: Option<PathBuf>,
    /// With `--folder`: whose it is.
    #[arg(long, value_parser = region, requires = "folder")]
    pub(crate) region: Option<RegionId>,
    /// On your word: no region of the mesh is left, and none will come back but from a copy. The mesh goes on at this
    /// one; what was acked after the copy is lost, unless another region's copy has it.
    #[arg(long)]
    pub(crate) mesh_is_gone: bool,
    /// On your word, for each further region of a mesh that is gone: the number that the restore with `--mesh-is-gone`
    /// said. What this copy has counts beside the copy of that region.
    #[arg(long, value_name = "NUMBER", conflicts_with = "mesh_is_gone")]
    pub(crate) goes_on_above: Option<u64>,
    /// Check the copy, every byte of it, and the data folder; write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// One line of JSON on standard output; progress on standard error all the same.
    #[arg(long)]
    pub(crate) json: bool,
}
