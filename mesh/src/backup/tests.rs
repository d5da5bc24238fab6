use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_protocol::{RegionId, Timestamp};
use region_store::embedded::{Embedded, EmbeddedOptions, ROWS_FORMAT};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::make::{BackupError, Source, make};
use super::*;

const CONVERSATION: &str = "00000000-0000-0000-0000-00000000000c";
const MEDIA_NAME: &str = "00000000-0000-0000-0000-00000000000d";

fn region(name: &str) -> RegionId {
    RegionId::new(name).expect("a name")
}

/// A region that runs, as far as its files go.
struct Running {
    folder: tempfile::TempDir,
    source: Source,
}

impl Running {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let media = data.join("media");
        fs::create_dir_all(media.join(CONVERSATION)).expect("made");
        fs::create_dir_all(media.join("incoming")).expect("made");
        fs::create_dir_all(data.join("audit")).expect("made");
        fs::write(media.join(CONVERSATION).join(MEDIA_NAME), vec![7; 300_000]).expect("written");
        fs::write(media.join("incoming").join(MEDIA_NAME), b"half").expect("written");
        fs::write(data.join("audit/audit.jsonl"), b"{}\n").expect("written");
        fs::write(data.join("region.key"), b"the key of the region").expect("written");
        let store = Embedded::open(&data.join("store"), &region("eu"), &EmbeddedOptions::default()).expect("opens");
        let source = Source { store: Some(store), data, media: Some(media), mesh: "story".to_owned() };
        Self { folder, source }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn manifest(&self) -> Manifest {
        Manifest {
            format: COPY_FORMAT,
            made_by: "test".to_owned(),
            made_at: Timestamp(1_700_000_000_000),
            mesh: "story".to_owned(),
            region: region("eu"),
            store: Uuid::nil(),
            store_format: ROWS_FORMAT,
            map_version: 3,
            regions: vec![region("eu"), region("us")],
            media: false,
            rows: 0,
            files: 0,
            bytes: 0,
            list_sha256: String::new(),
        }
    }

    async fn copy_to(&self, name: &str, stop: &CancellationToken) -> Result<Manifest, BackupError> {
        let store = self.source.store.as_ref().expect("in files");
        let copy = store.copy(&[]).await.expect("the store answers").expect("no other copy is made");
        make(&self.source, &copy, &self.path(name), self.manifest(), stop, &mut |_, _, _| {})
    }

    async fn copied(&self) -> PathBuf {
        self.copy_to("copy", &CancellationToken::new()).await.expect("copied");
        self.path("copy")
    }

    fn restore(&self, copy: &Path) -> Restore {
        Restore::into_folder(self.path("new/data"), region("eu"), copy.to_owned(), With::Peers)
    }
}

fn quiet() -> Tell {
    Arc::new(|_| {})
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_copy_has_store_media_and_audit_log_no_keys_and_comes_back_as_another_store() {
    let running = Running::new();
    let copy = running.copied().await;
    assert_eq!(names(&copy), ["audit", "files.jsonl", "manifest.json", "media", "store"]);
    assert_eq!(names(&copy.join("media")), [CONVERSATION], "what is only coming is left out");
    let checked = running.restore(&copy).check(quiet()).await.expect("it is whole");
    assert!(checked.media && checked.files >= 3 && checked.rows > 0, "{checked:?}");
    assert!(!running.path("new").exists(), "nothing is written by looking");

    fs::create_dir_all(running.path("new/data")).expect("an empty folder");
    let restored = running.restore(&copy).run(quiet()).await.expect("restored");
    assert_eq!((restored.copy, restored.trusted), (checked, 0));
    let data = running.path("new/data");
    assert_eq!(names(&data), ["audit", "media", "store"]);
    assert_eq!(names(&running.path("new")), ["data"], "nothing is left beside");
    assert_eq!(fs::read(data.join("media").join(CONVERSATION).join(MEDIA_NAME)).expect("read"), vec![7; 300_000]);
    let store = Embedded::open(&data.join("store"), &region("eu"), &EmbeddedOptions::default()).expect("opens");
    assert_eq!(store.stores().identity.store, restored.store);
    assert_ne!(restored.store, running.source.store.as_ref().expect("in files").stores().identity.store);
}

#[tokio::test]
async fn a_copy_goes_to_an_absolute_path_that_is_not_in_use_and_outside_of_what_is_copied() {
    let running = Running::new();
    let check = |path: PathBuf| running.source.check(&path);
    assert!(check(running.path("copies/one")).is_ok());
    assert!(matches!(check(PathBuf::from("copies/one")), Err(BackupError::Relative(_))));
    assert!(matches!(check(running.path("data/copies")), Err(BackupError::Inside(_))));
    assert!(matches!(check(running.path("data/media/x/y")), Err(BackupError::Inside(_))));
    std::os::unix::fs::symlink(running.path("data"), running.path("link")).expect("linked");
    assert!(matches!(check(running.path("link/copies")), Err(BackupError::Inside(_))));
    let copy = running.copied().await;
    assert!(matches!(check(copy), Err(BackupError::NotEmpty(_))));
}

#[tokio::test]
async fn a_backup_that_was_interrupted_is_no_copy() {
    let running = Running::new();
    let stop = CancellationToken::new();
    stop.cancel();
    let stopped = running.copy_to("copy", &stop).await;
    assert!(matches!(stopped, Err(BackupError::Stopped)), "{stopped:?}");
    let refused = running.restore(&running.path("copy")).run(quiet()).await.expect_err("it is no copy");
    assert!(matches!(refused, RestoreError::NotWhole(_)) && refused.is_refusal(), "{refused}");
    assert!(!running.path("new/data").exists());
}

#[tokio::test]
async fn a_copy_that_is_not_as_it_was_written_is_refused_and_leaves_no_data_folder() {
    let running = Running::new();
    let copy = running.copied().await;
    let rows = copy.join("store/000001.rows");
    let media = copy.join("media").join(CONVERSATION).join(MEDIA_NAME);
    for path in [rows, media, copy.join("files.jsonl"), copy.join("audit/audit.jsonl")] {
        let whole = fs::read(&path).expect("read");
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        let cut = whole[..whole.len() - 1].to_vec();
        for wrong in [Some(changed), Some(cut), None] {
            match wrong {
                Some(bytes) => fs::write(&path, bytes).expect("written"),
                None => fs::remove_file(&path).expect("removed"),
            }
            for restore in
                [running.restore(&copy).check(quiet()).await.err(), running.restore(&copy).run(quiet()).await.err()]
            {
                let error = restore.expect("it is refused");
                assert!(matches!(error, RestoreError::Damaged { .. }), "{}: {error}", path.display());
                assert!(error.is_refusal() && !error.hint().is_empty());
            }
            assert!(!running.path("new/data").exists());
        }
        fs::write(&path, whole).expect("written");
    }
    running.restore(&copy).run(quiet()).await.expect("it is whole again, and what was left beside is no obstacle");
}

#[tokio::test]
async fn a_copy_of_another_region_mesh_or_format_is_refused_and_so_is_a_folder_in_use() {
    let running = Running::new();
    let copy = running.copied().await;
    let other = Restore { region: region("us"), ..running.restore(&copy) }.run(quiet()).await;
    assert!(matches!(other, Err(RestoreError::OtherRegion { .. })), "{other:?}");
    let other = Restore { mesh: Some("another".to_owned()), ..running.restore(&copy) }.run(quiet()).await;
    assert!(matches!(other, Err(RestoreError::OtherMesh { .. })), "{other:?}");
    let used = Restore { data: running.path("data"), ..running.restore(&copy) }.run(quiet()).await;
    assert!(matches!(used, Err(RestoreError::NotEmpty(_))), "{used:?}");
    let nothing = running.restore(&running.path("nothing")).run(quiet()).await;
    assert!(matches!(nothing, Err(RestoreError::NotWhole(_))), "{nothing:?}");
    let path = copy.join("manifest.json");
    let text = fs::read_to_string(&path).expect("read");
    fs::write(&path, text.replace("\"format\": 1", "\"format\": 2")).expect("written");
    let newer = running.restore(&copy).run(quiet()).await;
    assert!(matches!(newer, Err(RestoreError::Format { found: 2 })), "{newer:?}");
    let alone = text.replace(",\n    \"us\"", "");
    assert_ne!(alone, text);
    fs::write(&path, alone).expect("written");
    let alone = running.restore(&copy).run(quiet()).await;
    assert!(matches!(alone, Err(RestoreError::Alone(_))), "{alone:?}");
}

#[test]
fn a_list_names_places_inside_of_the_copy_alone() {
    assert!(inner_path("media/a/b").is_some());
    for path in ["", "files.jsonl", "/etc/passwd", "../x/y", "media/../../x", "./media/x"] {
        assert_eq!(inner_path(path), None, "{path:?}");
    }
}
