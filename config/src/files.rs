//! Small writes that are whole or absent: temporary file, fsync, rename, fsync of the folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::values::SecretText;

/// Mode of a file that only its owner may read: keys and secrets.
pub const PRIVATE: u32 = 0o600;
/// Mode of a file that everybody may read: certificates and configuration.
pub const PUBLIC: u32 = 0o644;

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A file operation that failed, with the file it was about.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// The file or folder.
    pub path: PathBuf,
    /// What was tried, as in "cannot {action} {path}".
    pub action: &'static str,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn new(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self { path: path.to_owned(), action, source }
    }
}

/// Reads a whole UTF-8 file.
///
/// # Errors
/// When the file does not exist, is unreadable or not UTF-8.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(|source| FileError::new(path, "read", source))
}

/// Reads a secret; none where no file is named.
pub(crate) fn read_secret(path: Option<&Path>) -> Result<Option<SecretText>, FileError> {
    path.map(|path| read_text(path).map(SecretText::new)).transpose()
}

/// Makes a folder and its parents; one that exists is left as it is.
///
/// # Errors
/// When the folder cannot be made.
pub fn create_folder(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(|source| FileError::new(path, "make the folder", source))
}

/// Replaces `path` by `content` so that a reader, and a restart after a crash at any point, sees the
/// old file or the new one and nothing between. `mode` is the file's Unix mode, set before any byte
/// is written, so a private file is never readable by others for a moment.
///
/// # Errors
/// When the folder is missing or not writable, or the disk is full; the old file is then unchanged.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let temporary = temporary_name(path);
    let written = write_new(&temporary, content, mode)
        .and_then(|()| fs::rename(&temporary, path).map_err(|source| FileError::new(path, "rename to", source)));
    if written.is_err() {
        // The first error is the one to report; a leftover temporary file is harmless.
        drop(fs::remove_file(&temporary));
    }
    written.and_then(|()| sync_folder(parent(path)))
}

/// Makes renames and removals in `folder` durable.
///
/// # Errors
/// When the folder cannot be opened or synchronised.
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder)
        .and_then(|handle| handle.sync_all())
        .map_err(|source| FileError::new(folder, "synchronise the folder", source))
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|source| FileError::new(path, "write", source))
}

/// A name beside the target, since a rename is atomic within one file system only; the process id and
/// a counter keep two writers apart.
fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    parent(path).join(format!(".{name}.{}-{count}.tmp", std::process::id()))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_written_file_has_its_content_and_mode_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_atomic(&path, b"one", PRIVATE).unwrap();
        write_atomic(&path, b"two", PRIVATE).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("target");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"kept").unwrap();
        assert!(write_atomic(&path, b"new", PUBLIC).is_err());
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"kept");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
