//! `hearth store backup`: a copy of the region's data, made while it serves. Nothing waits for it: other changes are made
//! meanwhile.

use std::path::{Path, PathBuf};

use hearth_protocol::Timestamp;
use region_model::ports::StoreError;
use region_store::embedded::{CopyError, ROWS_FORMAT, in_background};

use super::change::{Made, Refused, Teller, now};
use super::node::AdminNode;
use crate::backup::{BackupError, COPY_FORMAT, Manifest, make};
use crate::media::KEY;

/// The key that signs links to media: a region without one makes one, so that a copy needs none.
const LEFT_OUT: &[&[u8]] = &[KEY];

impl From<BackupError> for Refused {
    fn from(error: BackupError) -> Self {
        let message = error.to_string();
        match error {
            BackupError::Relative(_) => Self::because(message, "name a folder on the node's machine from / on"),
            BackupError::Inside(_) => Self::because(message, "name a folder outside of the data folder"),
            BackupError::NotEmpty(_) => Self::because(message, "name a new folder for each copy"),
            BackupError::Stopped => Self::failed(message, "what was written is no copy: remove it"),
            BackupError::File(_) | BackupError::Store(_) => Self::failed(
                message,
                "what was written is no copy: remove it, mend the disk or name another, and type it again",
            ),
        }
    }
}

/// Copies the region's data to a folder on the node's machine.
pub(super) async fn backup(node: &AdminNode, to: &str, dry: bool, tell: &Teller) -> Result<Made, Refused> {
    let Some(store) = node.backup.store.clone() else {
        let message = format!("the store of {} is in servers, and is copied by their own tools", node.region);
        return Err(Refused::because(message, "see docs/operations/backup.md"));
    };
    let path = PathBuf::from(to);
    let (source, checked) = (node.backup.clone(), path.clone());
    on_its_thread(move || source.check(&checked)).await??;
    if dry {
        tell.plan(format!("copy the store of {} to {to}", node.region));
        tell.plan(if node.backup.media.is_some() { "copy its media" } else { "leave its media where they are" });
        return Ok(Made::already(format!("{to} is free")));
    }
    let copy = store.copy(LEFT_OUT).await.map_err(broken)?;
    let Some(copy) = copy else {
        let message = format!("another copy of {} is being made, or its files are being rewritten", node.region);
        return Err(Refused::because(message, "type the same again in a minute"));
    };
    let manifest = begun(node, now(), copy.identity().store);
    let (source, stop, progress, folder) = (node.backup.clone(), node.stop.clone(), tell.clone(), path.clone());
    let made = on_its_thread(move || {
        let mut tell = |step: &'static str, done, text: String| progress.progress(step, done, None, text);
        make(&source, &copy, &folder, manifest, &stop, &mut tell)
    })
    .await??;
    Ok(told(&path, &made))
}

fn told(path: &Path, made: &Manifest) -> Made {
    let megabytes = made.bytes / 1_000_000;
    let text = format!("copied to {}: {} rows, {} files, {megabytes} MB", path.display(), made.rows, made.files);
    Made::changed(text)
        .count("rows", made.rows)
        .count("files", made.files)
        .count("bytes", made.bytes)
        .count("madeAt", made.made_at.0)
}

/// What is known of a copy before it is made.
fn begun(node: &AdminNode, made_at: Timestamp, store: uuid::Uuid) -> Manifest {
    let map = node.map_state();
    Manifest {
        format: COPY_FORMAT,
        made_by: env!("CARGO_PKG_VERSION").to_owned(),
        made_at,
        mesh: node.backup.mesh.clone(),
        region: node.region.clone(),
        store,
        store_format: ROWS_FORMAT,
        map_version: map.version,
        regions: map.members().map(|entry| entry.region.clone()).collect(),
        media: false,
        rows: 0,
        files: 0,
        bytes: 0,
        list_sha256: String::new(),
    }
}

fn broken(error: StoreError) -> Refused {
    Refused::failed(error.to_string(), "see the runbook for a store that failed, in docs/operating.md")
}

/// Work that reads and writes files, where it gives way to the region's own.
async fn on_its_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
    let (ended, end) = tokio::sync::oneshot::channel();
    let begun = in_background("backup", move || {
        // Whoever waited may have gone.
        let _gone = ended.send(work()).is_err();
    });
    begun.map_err(|error| Refused::failed(error.to_string(), "free some memory or threads"))?;
    end.await.map_err(|_| BackupError::Store(CopyError::Store("the copying ended by itself".to_owned())).into())
}
