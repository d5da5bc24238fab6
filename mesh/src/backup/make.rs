//! Makes a copy.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hearth_config::{PRIVATE, RegionConfig, write_atomic};
use region_store::embedded::{Blocks, CopyError, Embedded, StoreCopy};
use tokio_util::sync::CancellationToken;

use super::{
    AUDIT, CHUNK, FileFailed, FileRow, LIST, MANIFEST, MEDIA, Manifest, STORE, Sum, failed, is_free, rows_file,
};

/// Bytes from which the next block goes into the next file.
const FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Mode of the folders: a copy holds texts of messages.
const PRIVATE_FOLDER: u32 = 0o700;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What of a region is copied.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Its store; `None` where that is in servers.
    pub(crate) store: Option<Embedded>,
    /// Its data folder.
    pub(crate) data: PathBuf,
    /// Where its media are; `None` where an S3-compatible store has them.
    pub(crate) media: Option<PathBuf>,
    /// The mesh's name.
    pub(crate) mesh: String,
}

/// Why no copy was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    #[error("{} is no absolute path", .0.display())]
    Relative(PathBuf),
    #[error("{} lies in a folder that is copied", .0.display())]
    Inside(PathBuf),
    #[error("{} is not empty, and nothing is written over", .0.display())]
    NotEmpty(PathBuf),
    #[error("the region stops")]
    Stopped,
    #[error(transparent)]
    File(#[from] FileFailed),
    #[error(transparent)]
    Store(#[from] CopyError),
}

impl Source {
    /// Of the region with this configuration, whose store is in files where `store` is given.
    pub(crate) fn of(config: &RegionConfig, store: Option<Embedded>) -> Self {
        let media = config.media.s3.is_none().then(|| config.media.folder_in(&config.region.data));
        Self { store, data: config.region.data.clone(), media, mesh: config.mesh.id.clone() }
    }

    /// Whether a copy may go there: a path that is not in use, outside of what is copied.
    ///
    /// # Errors
    /// [`BackupError`], with nothing written.
    pub(crate) fn check(&self, to: &Path) -> Result<(), BackupError> {
        if !to.is_absolute() {
            return Err(BackupError::Relative(to.to_owned()));
        }
        let real = resolved(to);
        let copied = [Some(&self.data), self.media.as_ref()];
        if copied.into_iter().flatten().any(|folder| real.starts_with(resolved(folder))) {
            return Err(BackupError::Inside(to.to_owned()));
        }
        if is_free(to)? { Ok(()) } else { Err(BackupError::NotEmpty(to.to_owned())) }
    }
}

/// A path without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let mut below = Vec::new();
    for folder in path.ancestors() {
        if let Ok(found) = folder.canonicalize() {
            return below.into_iter().rev().fold(found, |path, name| path.join(name));
        }
        below.extend(folder.file_name());
    }
    path.to_owned()
}

/// A copy under way.
struct Copier<'a> {
    to: &'a Path,
    list: BufWriter<File>,
    list_sum: Sum,
    files: u64,
    bytes: u64,
    buffer: Vec<u8>,
    stop: &'a CancellationToken,
    told: Instant,
    tell: &'a mut dyn FnMut(&'static str, u64, String),
}

/// Writes a copy of `source` to a folder, as the manifest says in what it does not find out itself. Blocks the thread;
/// memory is one block and one chunk. `tell` hears of a step, how much of it is done, and in words.
///
/// # Errors
/// [`BackupError`]: what was written is no copy.
pub(crate) fn make(
    source: &Source,
    copy: &StoreCopy,
    to: &Path,
    manifest: Manifest,
    stop: &CancellationToken,
    tell: &mut dyn FnMut(&'static str, u64, String),
) -> Result<Manifest, BackupError> {
    source.check(to)?;
    make_folder(to)?;
    let list = create(&to.join(LIST))?;
    let mut copier = Copier {
        to,
        list: BufWriter::new(list),
        list_sum: Sum::new(),
        files: 0,
        bytes: 0,
        buffer: vec![0; CHUNK],
        stop,
        told: Instant::now(),
        tell,
    };
    let rows = copier.store(copy)?;
    if let Some(media) = &source.media {
        copier.media(media)?;
    }
    copier.audit(&source.data.join(AUDIT))?;
    let Copier { list, list_sum, files, bytes, .. } = copier;
    let list_path = to.join(LIST);
    let list = list.into_inner().map_err(|error| failed(&list_path, "write it")(error.into_error()))?;
    list.sync_all().map_err(failed(&list_path, "synchronise it"))?;
    super::sync_folder(to)?;
    let manifest =
        Manifest { media: source.media.is_some(), rows, files, bytes, list_sha256: list_sum.hex(), ..manifest };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| failed(to, "write its manifest")(error.into()))?;
    let path = to.join(MANIFEST);
    // Last: who finds it finds all of the rest on disk.
    write_atomic(&path, &text, PRIVATE).map_err(|error| failed(&path, "write it")(error.source))?;
    Ok(manifest)
}

fn make_folder(path: &Path) -> Result<(), FileFailed> {
    let made = DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(path);
    made.map_err(failed(path, "make the folder"))?;
    path.parent().map_or(Ok(()), super::sync_folder)
}

fn create(path: &Path) -> Result<File, FileFailed> {
    OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path).map_err(failed(path, "make it"))
}

impl Copier<'_> {
    fn go_on(&mut self, step: &'static str, text: impl FnOnce(&Self) -> (u64, String)) -> Result<(), BackupError> {
        if self.stop.is_cancelled() {
            return Err(BackupError::Stopped);
        }
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let (done, text) = text(self);
            (self.tell)(step, done, text);
        }
        Ok(())
    }

    fn store(&mut self, copy: &StoreCopy) -> Result<u64, BackupError> {
        make_folder(&self.to.join(STORE))?;
        let mut blocks = copy.blocks();
        let mut number = 0;
        loop {
            number += 1;
            if !self.rows_file(&rows_file(number), &mut blocks)? {
                break;
            }
        }
        super::sync_folder(&self.to.join(STORE))?;
        Ok(blocks.rows())
    }

    /// Writes one file of rows. Whether more may follow.
    fn rows_file(&mut self, name: &str, blocks: &mut Blocks<'_>) -> Result<bool, BackupError> {
        let Some(first) = blocks.next().transpose()? else { return Ok(false) };
        let path = self.to.join(name);
        let mut file = create(&path)?;
        let mut sum = Sum::new();
        let mut next = Some(first);
        while let Some(block) = next {
            file.write_all(&block).map_err(failed(&path, "write it"))?;
            sum.take(&block);
            let rows = blocks.rows();
            let written = self.bytes + sum.bytes;
            self.go_on("store", |_| (rows, format!("{rows} rows, {} MB", written / 1_000_000)))?;
            if sum.bytes >= FILE_BYTES {
                break;
            }
            next = blocks.next().transpose()?;
        }
        file.sync_all().map_err(failed(&path, "synchronise it"))?;
        self.listed(name, sum)?;
        Ok(true)
    }

    fn listed(&mut self, name: &str, sum: Sum) -> Result<(), BackupError> {
        let bytes = sum.bytes;
        let row = FileRow { path: name.to_owned(), bytes, sha256: sum.hex() };
        let path = self.to.join(LIST);
        let mut line = serde_json::to_vec(&row).map_err(|error| failed(&path, "write it")(error.into()))?;
        line.push(b'\n');
        self.list_sum.take(&line);
        self.list.write_all(&line).map_err(failed(&path, "write it"))?;
        self.files += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// Every file of a conversation's folder; what is only coming has no place yet.
    fn media(&mut self, from: &Path) -> Result<(), BackupError> {
        for conversation in entries(from)? {
            let conversation = conversation.map_err(failed(from, "list it"))?;
            let Some(folder) = uuid_name(&conversation.file_name()) else { continue };
            let mut copied = false;
            for media in entries(&conversation.path())? {
                let media = media.map_err(failed(&conversation.path(), "list it"))?;
                let Some(name) = uuid_name(&media.file_name()) else { continue };
                if !copied {
                    make_folder(&self.to.join(MEDIA).join(&folder))?;
                    copied = true;
                }
                self.file(&media.path(), &format!("{MEDIA}/{folder}/{name}"), u64::MAX)?;
                self.go_on("media", |copier| (copier.files, format!("{} files", copier.files)))?;
            }
            if copied {
                super::sync_folder(&self.to.join(MEDIA).join(&folder))?;
            }
        }
        let media = self.to.join(MEDIA);
        if media.is_dir() { Ok(super::sync_folder(&media)?) } else { Ok(()) }
    }

    /// The audit log as it is now. A line that is being written may be in it in part: reading leaves that out.
    fn audit(&mut self, from: &Path) -> Result<(), BackupError> {
        for file in entries(from)? {
            let file = file.map_err(failed(from, "list it"))?;
            let name = file.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".jsonl") {
                continue;
            }
            make_folder(&self.to.join(AUDIT))?;
            // What is appended meanwhile is left out.
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            self.file(&file.path(), &format!("{AUDIT}/{name}"), length)?;
        }
        let audit = self.to.join(AUDIT);
        if audit.is_dir() { Ok(super::sync_folder(&audit)?) } else { Ok(()) }
    }

    /// Copies a file, up to so many bytes; one that is gone by now is left out.
    fn file(&mut self, from: &Path, name: &str, most: u64) -> Result<(), BackupError> {
        let source = match File::open(from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(failed(from, "open it"))?,
        };
        let mut source = source.take(most);
        let path = self.to.join(name);
        let mut file = create(&path)?;
        let mut sum = Sum::new();
        loop {
            let read = source.read(&mut self.buffer).map_err(failed(from, "read it"))?;
            if read == 0 {
                break;
            }
            file.write_all(&self.buffer[..read]).map_err(failed(&path, "write it"))?;
            sum.take(&self.buffer[..read]);
        }
        file.sync_all().map_err(failed(&path, "synchronise it"))?;
        self.listed(name, sum)
    }
}

/// What is in a folder; nothing where it is not there.
fn entries(folder: &Path) -> Result<impl Iterator<Item = io::Result<fs::DirEntry>>, FileFailed> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(error) => Err(failed(folder, "list it")(error)),
    }
}

/// A name that is a UUID, as media and their conversations have.
fn uuid_name(name: &std::ffi::OsStr) -> Option<String> {
    name.to_str().filter(|name| uuid::Uuid::try_parse(name).is_ok()).map(str::to_owned)
}
