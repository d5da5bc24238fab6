//! Brings a copy back: into a folder beside the data folder, checked as it is read, and put in its place by one rename.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hearth_config::{PRIVATE, RegionConfig};
use hearth_protocol::record::StoreIdentity;
use hearth_protocol::{RegionId, Timestamp};
use region_store::embedded::{CopyError, Embedded, EmbeddedOptions, OpenError, Restoring, read_block};
use serde::Serialize;
use uuid::Uuid;

use super::{
    AUDIT, CHUNK, COPY_FORMAT, FileFailed, FileRow, LINE_BYTES, LIST, MANIFEST, MANIFEST_BYTES, MEDIA, Manifest, STORE,
    Sum, Summed, failed, inner_path, is_free, rows_file, sync_folder,
};

/// Held by whoever writes a folder that is not in its place yet.
const LOCK: &str = "restoring.lock";
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Hears how far it is.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// What is to be brought back, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The folder with the copy.
    pub copy: PathBuf,
    /// The data folder: empty, or not there.
    pub data: PathBuf,
    /// Where the region has its media.
    pub media: PathBuf,
    /// The region.
    pub region: RegionId,
    /// The mesh, where that is known.
    pub mesh: Option<String>,
    /// Whom the region goes on with.
    pub with: With,
}

/// Whom a restored region goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// The regions that live: it catches up from them.
    Peers,
    /// Nobody, on the operator's word: no region of the mesh is left, and the mesh goes on at this one.
    Nobody,
    /// A region that was restored alone before, whose restore said this number: all the others are gone, on the
    /// operator's word, and what this copy has counts beside that one's.
    Restored(u64),
}

/// What was brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// The copy.
    pub copy: Manifest,
    /// The store that was made of it.
    pub store: Uuid,
    /// Logs whose copies count at once: those of a mesh that is gone.
    pub trusted: u64,
    /// The number for [`With::Restored`], where the mesh goes on at this region.
    pub goes_on_above: Option<u64>,
}

/// Why nothing was brought back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is no manifest.
    #[error("{} is no whole copy: it has no {MANIFEST}, so that its backup was interrupted, or it is none", .0.display())]
    NotWhole(PathBuf),
    /// Another version of this program made it.
    #[error("the copy has format {found}, this build reads {COPY_FORMAT}")]
    Format {
        /// The format found.
        found: u64,
    },
    /// It is the copy of another region.
    #[error("the copy is of region {found}, not of {asked}")]
    OtherRegion {
        /// Whose it is.
        found: RegionId,
        /// Whose was wanted.
        asked: RegionId,
    },
    /// It is the copy of a region of another mesh.
    #[error("the copy is of mesh {found}, not of {asked}")]
    OtherMesh {
        /// Which it is of.
        found: String,
        /// Which was wanted.
        asked: String,
    },
    /// A file of it is not as it was written.
    #[error("{} is not as it was written: {reason}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// What is there stays.
    #[error("{} is not empty, and nothing is written over", .0.display())]
    NotEmpty(PathBuf),
    /// Somebody else restores to the same place.
    #[error("another restore to {} is under way", .0.display())]
    UnderWay(PathBuf),
    /// There is nobody to catch up from.
    #[error("{0} was the only region of its mesh when the copy was made: there is nobody that it could catch up from")]
    Alone(RegionId),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileFailed),
    /// No store can be made of it.
    #[error(transparent)]
    Store(#[from] CopyError),
    /// The store that was made does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The region map in it.
    #[error(transparent)]
    Map(#[from] region_map::StartError),
    /// Its copies cannot be made to count.
    #[error(transparent)]
    Trust(#[from] region_core::NotTrusted),
    /// The work ended by itself.
    #[error("the restore ended: {0}")]
    Ended(String),
}

impl RestoreError {
    /// Whether it was refused, with nothing done; else it failed on the way.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::NotWhole(_)
            | Self::Format { .. }
            | Self::OtherRegion { .. }
            | Self::OtherMesh { .. }
            | Self::Damaged { .. }
            | Self::NotEmpty(_)
            | Self::UnderWay(_)
            | Self::Alone(_)
            | Self::Store(CopyError::Damaged(_) | CopyError::Form(_) | CopyError::Region(_)) => true,
            Self::File(_) | Self::Store(_) | Self::Open(_) | Self::Map(_) | Self::Trust(_) | Self::Ended(_) => false,
        }
    }

    /// What to type instead.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NotWhole(_) | Self::Damaged { .. } | Self::Store(CopyError::Damaged(_)) => {
                "take another copy; a region whose peers live needs none: start it over an empty data folder".to_owned()
            }
            Self::Format { .. } | Self::Store(CopyError::Form(_)) => {
                "restore with the version that made it, see its manifest.json".to_owned()
            }
            Self::OtherRegion { found, .. } => format!("name a copy of this region, or restore {found}"),
            Self::OtherMesh { .. } => "name a copy of this mesh, see its manifest.json".to_owned(),
            Self::NotEmpty(folder) => format!("keep what is there under another name: mv {0} {0}.before", folder.display()),
            Self::UnderWay(_) => "wait for its end".to_owned(),
            Self::Alone(_) => {
                "type the same with --mesh-is-gone; when regions were added since, start it over an empty data folder"
                    .to_owned()
            }
            Self::File(FileFailed { action: IN_ITS_PLACE, .. }) => {
                "the data folder must not be a mount point, and its parent must be on the same file system: name one below"
                    .to_owned()
            }
            _ => "nothing starts as a region from what was written: mend it and type it again".to_owned(),
        }
    }
}

const IN_ITS_PLACE: &str = "put it in its place";

/// A folder beside another one, where that is written.
fn beside(folder: &Path) -> PathBuf {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    folder.with_file_name(format!(".{name}.hearth-restoring"))
}

impl Restore {
    /// The restore of a region by its configuration.
    ///
    /// # Errors
    /// [`crate::StartError::Config`] for a name that is none.
    pub fn of(config: &RegionConfig, copy: PathBuf, with: With) -> Result<Self, crate::StartError> {
        Ok(Self {
            copy,
            data: config.region.data.clone(),
            media: config.media.folder_in(&config.region.data),
            region: crate::region::region_id(&config.region.id)?,
            mesh: Some(config.mesh.id.clone()),
            with,
        })
    }

    /// The restore of a region into its data folder, whatever its configuration.
    #[must_use]
    pub fn into_folder(data: PathBuf, region: RegionId, copy: PathBuf, with: With) -> Self {
        Self { copy, media: data.join(MEDIA), data, region, mesh: None, with }
    }

    /// Checks all that can be checked: the manifest, the target, and every byte of the copy. Writes nothing.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub async fn check(self, tell: Tell) -> Result<Manifest, RestoreError> {
        blocking(move || {
            let manifest = self.accept()?;
            Unpacking { restore: &self, tell: &*tell, told: Instant::now(), work: None }.run(&manifest)?;
            Ok(manifest)
        })
        .await
    }

    /// Brings the copy back. The data folder is there whole, or as it was.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub async fn run(self, tell: Tell) -> Result<Restored, RestoreError> {
        let lock = {
            let again = self.clone();
            blocking(move || {
                again.accept()?;
                lock(&beside(&again.data), &again.data)
            })
            .await?
        };
        let restored = self.bring_back(tell).await;
        if restored.is_err() {
            // Most of it is worth nothing, and the next restore begins from nothing anyway.
            self.work_folders().iter().for_each(|folder| drop(fs::remove_dir_all(folder)));
        }
        drop(lock);
        restored
    }

    async fn bring_back(&self, tell: Tell) -> Result<Restored, RestoreError> {
        let (again, told) = (self.clone(), Arc::clone(&tell));
        let (copy, identity) = blocking(move || again.unpack(&*told)).await?;
        tell("the copy is read; it becomes a store that has promised nothing");
        let (trusted, goes_on_above) = self.settle(&beside(&self.data).join(STORE), &identity).await?;
        let again = self.clone();
        blocking(move || again.put_in_place()).await?;
        Ok(Restored { copy, store: identity.store, trusted, goes_on_above })
    }

    /// Reads the manifest, and says whether this copy may go there.
    fn accept(&self) -> Result<Manifest, RestoreError> {
        let manifest = read_manifest(&self.copy)?;
        if manifest.region != self.region {
            return Err(RestoreError::OtherRegion { found: manifest.region, asked: self.region.clone() });
        }
        if let Some(asked) = self.mesh.clone().filter(|asked| *asked != manifest.mesh) {
            return Err(RestoreError::OtherMesh { found: manifest.mesh, asked });
        }
        if manifest.regions == [self.region.clone()] && self.with == With::Peers {
            return Err(RestoreError::Alone(self.region.clone()));
        }
        let outside = (!self.media.starts_with(&self.data)).then_some(&self.media);
        for folder in [Some(&self.data), outside].into_iter().flatten() {
            if !is_free(folder)? {
                return Err(RestoreError::NotEmpty(folder.clone()));
            }
        }
        Ok(manifest)
    }

    /// Writes everything beside its place.
    fn unpack(&self, tell: &dyn Fn(&str)) -> Result<(Manifest, StoreIdentity), RestoreError> {
        let manifest = self.accept()?;
        for folder in self.work_folders() {
            clear(&folder)?;
        }
        let work = Some(beside(&self.data));
        let identity = Unpacking { restore: self, tell, told: Instant::now(), work }.run(&manifest)?;
        Ok((manifest, identity.ok_or_else(|| CopyError::Region(self.region.clone()))?))
    }

    /// Where data and media are written: one folder, unless the media are elsewhere.
    fn work_folders(&self) -> Vec<PathBuf> {
        let outside = !self.media.starts_with(&self.data);
        [Some(beside(&self.data)), outside.then(|| beside(&self.media))].into_iter().flatten().collect()
    }

    fn media_work(&self) -> PathBuf {
        match self.media.strip_prefix(&self.data) {
            Ok(below) => beside(&self.data).join(below),
            Err(_) => beside(&self.media),
        }
    }

    /// What the store may keep of promises, votes and rights of before: nothing; or, when nobody else is left, all of it
    /// under epochs that nobody has used. Answers how many copies count at once, and above which number the mesh goes on.
    async fn settle(&self, folder: &Path, identity: &StoreIdentity) -> Result<(u64, Option<u64>), RestoreError> {
        let (path, region) = (folder.to_owned(), self.region.clone());
        let store = blocking(move || Ok(Embedded::open(&path, &region, &EmbeddedOptions::default())?)).await?;
        let stores = store.stores();
        let settled = async {
            if self.with != With::Nobody {
                region_map::forget(&stores.map, identity.store).await?;
            }
            match self.with {
                With::Peers => Ok((0, None)),
                With::Restored(floor) => Ok((region_core::trust_copies(&stores, &self.region, floor).await?, None)),
                With::Nobody => {
                    let floor = now().0;
                    let map = region_map::begin_anew(&stores.map, &self.region, identity.store, floor).await?;
                    let trusted = region_core::trust_copies(&stores, &self.region, floor).await?;
                    region_core::accept_losses(&stores, &map).await.map_err(region_core::NotTrusted::from)?;
                    Ok((trusted, Some(floor)))
                }
            }
        };
        let settled: Result<(u64, Option<u64>), RestoreError> = settled.await;
        drop(stores);
        blocking(move || {
            store.close();
            Ok(())
        })
        .await?;
        settled
    }

    /// From here on it is a region's data.
    fn put_in_place(&self) -> Result<(), RestoreError> {
        let work = beside(&self.data);
        let lock = work.join(LOCK);
        fs::remove_file(&lock).map_err(failed(&lock, "remove it"))?;
        for folder in self.work_folders() {
            // Files are on disk; this puts the folders there that they are in.
            let synced = File::open(&folder).and_then(|file| Ok(nix::unistd::syncfs(file)?));
            synced.map_err(failed(&folder, "synchronise it"))?;
        }
        if !self.media.starts_with(&self.data) {
            rename(&beside(&self.media), &self.media)?;
        }
        rename(&work, &self.data)
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), RestoreError> {
    if !from.exists() {
        return Ok(());
    }
    // Onto an empty folder, or where none is; never over a file.
    fs::rename(from, to).map_err(failed(to, IN_ITS_PLACE))?;
    Ok(to.parent().map_or(Ok(()), sync_folder)?)
}

/// Makes the folder, and holds it against others.
fn lock(work: &Path, data: &Path) -> Result<File, RestoreError> {
    fs::create_dir_all(work).map_err(failed(work, "make the folder"))?;
    let path = work.join(LOCK);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(PRIVATE);
    let lock = options.open(&path).map_err(failed(&path, "open it"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(RestoreError::UnderWay(data.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(failed(&path, "lock it")(error).into()),
    }
}

/// Takes away what an interrupted restore left there.
fn clear(work: &Path) -> Result<(), RestoreError> {
    fs::create_dir_all(work).map_err(failed(work, "make the folder"))?;
    for entry in fs::read_dir(work).map_err(failed(work, "list it"))? {
        let path = entry.map_err(failed(work, "list it"))?.path();
        if path.file_name().is_some_and(|name| name == LOCK) {
            continue;
        }
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.map_err(failed(&path, "remove it"))?;
    }
    Ok(())
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RestoreError::Ended(error.to_string()))?
}

/// Reads the manifest of a copy.
///
/// # Errors
/// [`RestoreError`] where it is not there, is of another format, or does not read.
fn read_manifest(copy: &Path) -> Result<Manifest, RestoreError> {
    let path = copy.join(MANIFEST);
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(RestoreError::NotWhole(copy.to_owned()));
        }
        opened => opened.map_err(failed(&path, "open it"))?,
    };
    let mut text = Vec::new();
    file.take(MANIFEST_BYTES).read_to_end(&mut text).map_err(failed(&path, "read it"))?;
    let damaged = |error: serde_json::Error| RestoreError::Damaged { path: path.clone(), reason: error.to_string() };
    // The format first: another one may have other fields.
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
    match value["format"].as_u64() {
        Some(found) if found != u64::from(COPY_FORMAT) => Err(RestoreError::Format { found }),
        _ => serde_json::from_value(value).map_err(damaged),
    }
}

/// Reads a copy file by file, and writes what it is made of. Without a place to write to it only checks.
struct Unpacking<'a> {
    restore: &'a Restore,
    tell: &'a dyn Fn(&str),
    told: Instant,
    work: Option<PathBuf>,
}

impl Unpacking<'_> {
    fn damaged(&self, path: &str, reason: impl Into<String>) -> RestoreError {
        RestoreError::Damaged { path: self.restore.copy.join(path), reason: reason.into() }
    }

    /// Everything that the list names. Answers who the store is that was made.
    fn run(&mut self, manifest: &Manifest) -> Result<Option<StoreIdentity>, RestoreError> {
        let mut rows = self.begin(manifest)?;
        let list = self.restore.copy.join(LIST);
        let file = self.there(LIST)?;
        let mut lines = BufReader::new(file);
        let (mut sum, mut files, mut bytes, mut blocks, mut stores) = (Sum::new(), 0, 0, 0, 0);
        loop {
            let mut line = Vec::new();
            let most = LINE_BYTES as u64;
            let read = lines.by_ref().take(most).read_until(b'\n', &mut line).map_err(failed(&list, "read it"))?;
            if read == 0 {
                break;
            }
            sum.take(&line);
            let row: FileRow = serde_json::from_slice(&line).map_err(|error| self.damaged(LIST, error.to_string()))?;
            if row.path == rows_file(stores + 1) {
                stores += 1;
                self.rows(&row, &mut rows, &mut blocks)?;
            } else {
                self.file(&row)?;
            }
            (files, bytes) = (files + 1, bytes + row.bytes);
            self.progress(files, manifest.files, bytes);
        }
        if sum.hex() != manifest.list_sha256 || files != manifest.files {
            return Err(self.damaged(LIST, "it is another list than the manifest is about"));
        }
        let made = rows.map(Restoring::finish).transpose()?;
        if let Some(work) = &self.work {
            sync_folder(work)?;
        }
        Ok(made)
    }

    fn begin(&self, manifest: &Manifest) -> Result<Option<Restoring>, RestoreError> {
        let begin = |work: &PathBuf| Restoring::begin(&work.join(STORE), &self.restore.region, manifest.store_format);
        Ok(self.work.as_ref().map(begin).transpose()?)
    }

    fn progress(&mut self, files: u64, of: u64, bytes: u64) {
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            (self.tell)(&format!("{files} of {of} files, {} MB", bytes / 1_000_000));
        }
    }

    fn there(&self, name: &str) -> Result<File, RestoreError> {
        let path = self.restore.copy.join(name);
        match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(self.damaged(name, "it is missing")),
            opened => Ok(opened.map_err(failed(&path, "open it"))?),
        }
    }

    fn open(&self, row: &FileRow) -> Result<Summed<File>, RestoreError> {
        Ok(Summed { from: self.there(&row.path)?, sum: Sum::new() })
    }

    fn compare(&self, row: &FileRow, sum: Sum) -> Result<(), RestoreError> {
        if sum.bytes != row.bytes {
            let reason = format!("it has {} bytes instead of {}", sum.bytes, row.bytes);
            return Err(self.damaged(&row.path, reason));
        }
        if sum.hex() != row.sha256 {
            return Err(self.damaged(&row.path, "its SHA-256 is another one"));
        }
        Ok(())
    }

    /// One file of rows.
    fn rows(&self, row: &FileRow, into: &mut Option<Restoring>, number: &mut u64) -> Result<(), RestoreError> {
        let mut file = self.open(row)?;
        while let Some(block) = read_block(&mut file, *number).map_err(|error| match error {
            CopyError::Damaged(number) => self.damaged(&row.path, format!("block {number} does not read")),
            other => other.into(),
        })? {
            *number += 1;
            if let Some(into) = into {
                into.take(&block)?;
            }
        }
        self.compare(row, file.sum)
    }

    /// A file of media or of the audit log.
    fn file(&self, row: &FileRow) -> Result<(), RestoreError> {
        let inner = inner_path(&row.path).ok_or_else(|| self.damaged(LIST, "it names a place outside"))?;
        let target = self.work.as_ref().and_then(|work| match (inner.strip_prefix(MEDIA), inner.strip_prefix(AUDIT)) {
            (Ok(below), _) => Some(self.restore.media_work().join(below)),
            (_, Ok(_)) => Some(work.join(inner)),
            // What another version put into the copy is checked, and not used.
            (Err(_), Err(_)) => None,
        });
        let mut file = self.open(row)?;
        let mut into = target.as_deref().map(create).transpose()?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = file.read(&mut chunk).map_err(failed(&self.restore.copy.join(inner), "read it"))?;
            if read == 0 {
                break;
            }
            if let (Some(into), Some(target)) = (&mut into, &target) {
                into.write_all(&chunk[..read]).map_err(failed(target, "write it"))?;
            }
        }
        if let (Some(into), Some(target)) = (into, &target) {
            let written = into.into_inner().map_err(std::io::IntoInnerError::into_error);
            written.and_then(|file| file.sync_all()).map_err(failed(target, "write it"))?;
        }
        self.compare(row, file.sum)
    }
}

fn create(path: &Path) -> Result<BufWriter<File>, FileFailed> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed(folder, "make the folder"))?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(PRIVATE);
    options.open(path).map(BufWriter::new).map_err(failed(path, "make it"))
}
