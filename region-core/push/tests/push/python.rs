//! A Python with pinned packages, for what independent libraries say. Tests of other packages take this file, too: both
//! paths are of whichever package is built.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The interpreter of a folder beside the build, made once with the packages of a file of the package; a folder without
/// its mark is made anew.
pub(crate) fn python(requirements: &str, folder: &str) -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join(requirements);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let (mark, pinned) = (folder.join(".made-from"), std::fs::read_to_string(&requirements).unwrap());
    let interpreter = folder.join("bin/python");
    if std::fs::read_to_string(&mark).ok().as_deref() == Some(&pinned) {
        return interpreter;
    }
    let _ = std::fs::remove_dir_all(&folder);
    let run = |command: &mut Command| assert!(command.status().expect("python3 is there").success());
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
    let mut install = Command::new(&interpreter);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&requirements);
    run(&mut install);
    std::fs::write(&mark, pinned).unwrap();
    interpreter
}
