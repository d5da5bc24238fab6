//! File systems of their own, in image files.

use std::path::{Path, PathBuf};
use std::process::Command;

use chaos_tests::shell;

/// A file system of its own in an image, mounted until dropped.
pub(crate) struct Image {
    pub(crate) file: PathBuf,
    pub(crate) mount: PathBuf,
}

impl Image {
    /// Makes an ext4 of this many MiB. Needs root, as CI and a container have it.
    pub(crate) fn make(folder: &Path, name: &str, mebibytes: u32) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "mounting an image needs root: run the tests as root");
        let file = folder.join(format!("{name}.img"));
        let image = file.display();
        shell(&format!("truncate -s {mebibytes}M {image} && mkfs.ext4 -q -F {image}"));
        Self::mount(file, &folder.join(name))
    }

    pub(crate) fn mount(file: PathBuf, mount: &Path) -> Self {
        shell(&format!("mkdir -p {0} && mount -o loop {1} {0}", mount.display(), file.display()));
        Self { file, mount: mount.to_owned() }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}

/// Moves the data of a region onto a file system of its own, and returns that.
pub(crate) fn on_own_disk(folder: &Path, data: &Path) -> Image {
    let image = Image::make(folder, "small", 512);
    shell(&format!("cp -a {}/. {}", data.display(), image.mount.display()));
    let file = image.file.clone();
    drop(image);
    Image::mount(file, data)
}
