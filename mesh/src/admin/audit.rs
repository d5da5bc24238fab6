//! The audit log: one line a change began and one it ended, on disk before anything is answered.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_config::{PRIVATE, create_folder, sync_folder};
use hearth_protocol::admin::AuditLine;
use parking_lot::Mutex;

/// Bytes of one file; the one that would grow beyond begins a new one.
const FILE_BYTES: u64 = 1 << 20;
/// Files kept, the newest included: at most 8 MiB, some 20,000 changes.
const FILES: usize = 8;
const NEWEST: &str = "audit.jsonl";

/// Why a line was not written.
#[derive(Debug, thiserror::Error)]
#[error("the audit log in {} cannot be written: {reason}", folder.display())]
pub(crate) struct NotWritten {
    folder: PathBuf,
    reason: String,
}

/// The audit log of one node. Clones are the same log.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    folder: PathBuf,
    file_bytes: u64,
    /// Held while a line is written: lines never mix.
    alone: Arc<Mutex<()>>,
}

impl Audit {
    /// The log in a folder, made with its first line.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, file_bytes: FILE_BYTES, alone: Arc::default() }
    }

    /// Adds a line; it is on disk when this returns. Blocks for a sync.
    ///
    /// # Errors
    /// [`NotWritten`]: then the change must not be made.
    pub(crate) fn append(&self, line: &AuditLine) -> Result<(), NotWritten> {
        let failed = |reason: String| NotWritten { folder: self.folder.clone(), reason };
        let mut text = serde_json::to_vec(line).map_err(|error| failed(error.to_string()))?;
        text.push(b'\n');
        let _alone = self.alone.lock();
        create_folder(&self.folder).map_err(|error| failed(error.to_string()))?;
        self.write(&text).map_err(|error| failed(error.to_string()))
    }

    fn write(&self, text: &[u8]) -> io::Result<()> {
        let path = self.file(0);
        let size = fs::metadata(&path).map_or(0, |facts| facts.len());
        if size > 0 && size + text.len() as u64 > self.file_bytes {
            self.rotate()?;
        }
        let mut file = OpenOptions::new().create(true).read(true).append(true).mode(PRIVATE).open(&path)?;
        if ends_inside_a_line(&mut file)? {
            // A power cut tore the last line: it stays, and this one does not become a part of it.
            file.write_all(b"\n")?;
        }
        file.write_all(text)?;
        file.sync_all()?;
        sync_folder(&self.folder).map_err(io::Error::other)
    }

    /// The oldest file goes, each other one becomes one older.
    fn rotate(&self) -> io::Result<()> {
        for number in (0..FILES - 1).rev() {
            match fs::rename(self.file(number), self.file(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn file(&self, number: usize) -> PathBuf {
        match number {
            0 => self.folder.join(NEWEST),
            older => self.folder.join(format!("audit.{older}.jsonl")),
        }
    }

    /// The last `limit` lines, oldest first. Lines that were torn are left out.
    pub(crate) fn last(&self, limit: usize) -> io::Result<Vec<AuditLine>> {
        let _alone = self.alone.lock();
        let mut lines = Vec::new();
        for number in 0..FILES {
            if lines.len() >= limit {
                break;
            }
            let mut older = read(&self.file(number))?;
            older.append(&mut lines);
            lines = older;
        }
        Ok(lines.split_off(lines.len().saturating_sub(limit)))
    }
}

fn ends_inside_a_line(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

fn read(path: &Path) -> io::Result<Vec<AuditLine>> {
    match File::open(path) {
        Ok(file) => {
            let lines: io::Result<Vec<Vec<u8>>> = BufReader::new(file).split(b'\n').collect();
            Ok(lines?.iter().filter_map(|line| serde_json::from_slice(line).ok()).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use hearth_protocol::admin::Change;
    use hearth_protocol::{RegionId, Timestamp};

    use super::*;

    fn line(number: u64) -> AuditLine {
        AuditLine {
            at: Timestamp(number),
            id: format!("c{number}"),
            who: "ann".to_owned(),
            state: "began".to_owned(),
            change: Change::Failback { region: RegionId::new("eu").expect("a name") },
            result: String::new(),
        }
    }

    fn audit(folder: &Path, file_bytes: u64) -> Audit {
        Audit { file_bytes, ..Audit::new(folder.join("audit")) }
    }

    #[test]
    fn lines_are_read_back_newest_last_and_a_torn_one_spoils_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let audit = audit(folder.path(), FILE_BYTES);
        assert_eq!(audit.last(5).expect("reads"), []);
        audit.append(&line(1)).expect("written");
        let mut file = OpenOptions::new().append(true).open(audit.file(0)).expect("it is there");
        file.write_all(b"{\"at\":2,\"id\":\"c").expect("written");
        audit.append(&line(3)).expect("written");
        assert_eq!(audit.last(5).expect("reads"), [line(1), line(3)]);
        assert_eq!(audit.last(1).expect("reads"), [line(3)]);
    }

    #[test]
    fn the_log_is_bounded_and_keeps_its_newest_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let audit = audit(folder.path(), 300);
        for number in 0..100 {
            audit.append(&line(number)).expect("written");
        }
        let kept = audit.last(1_000).expect("reads");
        assert!((8..=24).contains(&kept.len()), "{} lines", kept.len());
        assert_eq!(kept.last(), Some(&line(99)));
        assert!(kept.windows(2).all(|pair| pair[0].at < pair[1].at));
        assert_eq!(fs::read_dir(&audit.folder).expect("reads").count(), FILES);
    }

    #[test]
    fn a_log_that_cannot_be_written_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("audit"), b"a file in its place").expect("written");
        let error = audit(folder.path(), FILE_BYTES).append(&line(1)).expect_err("no folder");
        assert!(error.to_string().contains("the audit log in"), "{error}");
    }
}
