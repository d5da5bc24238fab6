//! Rules that the compiler does not know.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for file in fs::read_dir(folder).expect("reads the folder") {
        let path = file.expect("reads the folder").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// fjall's `commit()` answers before any sync unless the batch asks for one.
#[test]
fn only_the_durable_batch_makes_and_commits_batches_of_fjall() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > 5);
    for file in files.iter().filter(|file| !file.ends_with("embedded/batch.rs")) {
        let text = fs::read_to_string(file).expect("reads the file");
        for forbidden in [".commit()", "WriteBatch", ".batch()", "PersistMode", ".persist("] {
            assert!(!text.contains(forbidden), "{} has {forbidden}", file.display());
        }
    }
}
