//! Copies of a region's data folder: made while the region serves, and brought back into an empty folder.
//!
//! ```text
//!   COPY/store/000001.rows …   every row of the store as of one moment (region_store::embedded::StoreCopy)
//!        media/…  audit/…      files as they are
//!        files.jsonl           a line a file: path, bytes, SHA-256
//!        manifest.json         whose it is, of when, the list's SHA-256; written last, by one rename
//! ```
//! A folder without a manifest is no copy: its backup was interrupted. Media are copied behind the store, so that what
//! the store names is there unless it was taken away meanwhile.

mod make;
mod restore;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use hearth_protocol::{RegionId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use make::{BackupError, Source, make};
pub use restore::{Restore, RestoreError, Restored, Tell, With};

/// The format of copies that this build writes, and the only one that it reads.
pub const COPY_FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const LIST: &str = "files.jsonl";
const STORE: &str = "store";
const MEDIA: &str = "media";
const AUDIT: &str = "audit";
/// Bytes of a manifest that are read.
const MANIFEST_BYTES: u64 = 1 << 20;
/// Bytes of one line of the list.
const LINE_BYTES: usize = 4_096;
/// Bytes that are read and written at a time.
const CHUNK: usize = 256 * 1024;

/// What a copy says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`COPY_FORMAT`].
    pub format: u32,
    /// The version of the program that made it.
    pub made_by: String,
    /// The moment that it shows, by the region's clock.
    pub made_at: Timestamp,
    /// The mesh.
    pub mesh: String,
    /// The region.
    pub region: RegionId,
    /// The store that was copied. What is made of the copy is another one.
    pub store: Uuid,
    /// The format of its rows.
    pub store_format: u32,
    /// The version of the region map that the region knew.
    pub map_version: u64,
    /// The regions of the mesh by that.
    pub regions: Vec<RegionId>,
    /// Whether media are in it; they are not where an S3-compatible store has them.
    pub media: bool,
    /// Rows of the store.
    pub rows: u64,
    /// Files, the list and the manifest not counted.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// SHA-256 of the list of files, in hexadecimal digits.
    pub list_sha256: String,
}

/// One file of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileRow {
    /// Its path in the copy.
    path: String,
    bytes: u64,
    sha256: String,
}

/// A file or folder of a copy that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {action}: {source}", path.display())]
pub struct FileFailed {
    /// Which.
    pub path: PathBuf,
    /// What was tried.
    pub action: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> FileFailed {
    move |source| FileFailed { path: path.to_owned(), action, source }
}

/// SHA-256 of what passes.
struct Sum {
    context: Context,
    bytes: u64,
}

impl Sum {
    fn new() -> Self {
        Self { context: Context::new(&SHA256), bytes: 0 }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn hex(self) -> String {
        let digest = self.context.finish();
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A file that is read, and what its bytes come to.
struct Summed<R> {
    from: R,
    sum: Sum,
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.sum.take(&buffer[..read]);
        Ok(read)
    }
}

/// Whether a folder holds nothing, or is not there.
fn is_free(folder: &Path) -> Result<bool, FileFailed> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(failed(folder, "look into it")(error)),
    }
}

fn sync_folder(folder: &Path) -> Result<(), FileFailed> {
    File::open(folder).and_then(|handle| handle.sync_all()).map_err(failed(folder, "synchronise it"))
}

/// A path of the list as a path below a folder: a list is not believed to stay inside.
fn inner_path(path: &str) -> Option<&Path> {
    let path = Path::new(path);
    let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
    (plain && path.components().count() > 1).then_some(path)
}

fn rows_file(number: u64) -> String {
    format!("{STORE}/{number:06}.rows")
}

#[cfg(test)]
mod tests;
