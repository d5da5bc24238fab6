//! The data folder of a development mesh: its lock, its version, its keys and its certificates.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fs4::fs_std::FileExt;
use hearth_config::{ADMIN, CertificateAuthority, IssueOptions, PRIVATE, PUBLIC, create_folder, write_atomic};
use rand::RngCore;
use serde::{Deserialize, Serialize};

use super::spec::DevSpec;
use crate::admin::AdminPem;

/// Version of the data folder that this build makes and reads.
pub(crate) const VERSION: u32 = 1;
/// Issuer of development tokens.
pub(crate) const ISSUER: &str = "hearth-dev";

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another mesh runs in it.
    #[error("the data folder {0} is in use by another `hearth dev`")]
    InUse(PathBuf),
    /// Made by another version.
    #[error("the data folder {path} has version {found}, this build knows {VERSION}")]
    Version {
        /// The folder.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// There are other things in it.
    #[error("{0} is not empty and is no data folder of `hearth dev`")]
    Foreign(PathBuf),
    /// Its regions have the other kind of store.
    #[error("the regions of {path} keep what is durable in {has} stores")]
    Stores {
        /// The folder.
        path: PathBuf,
        /// `embedded` or `production`.
        has: &'static str,
    },
    /// It cannot be read or written.
    #[error("{path}: {reason}")]
    Failed {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The secrets of a mesh, made with its folder.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Secrets {
    pub(crate) token: String,
    pub(crate) resume: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// A data folder that is locked for this process, and may still have to be emptied.
#[derive(Debug)]
pub(crate) struct LockedFolder {
    pub(crate) path: PathBuf,
    known: bool,
    lock: File,
}

/// An open data folder, locked for this process.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) secrets: Secrets,
    _lock: File,
}

pub(crate) fn failed(path: &Path, reason: impl std::fmt::Display) -> FolderError {
    FolderError::Failed { path: path.to_owned(), reason: reason.to_string() }
}

impl LockedFolder {
    /// Finds or makes the folder, and locks it, if it is a data folder and nobody uses it.
    pub(crate) fn of(path: &Path) -> Result<Self, FolderError> {
        if path.is_file() {
            return Err(failed(path, "this is a file, and a folder is needed"));
        }
        create_folder(path).map_err(|error| failed(path, error))?;
        let path = path.canonicalize().map_err(|error| failed(path, error))?;
        let known = path.join("version").exists();
        if !known && !is_empty(&path)? {
            return Err(FolderError::Foreign(path));
        }
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).map_err(|error| failed(&lock_path, error))?;
        if !FileExt::try_lock_exclusive(&lock).map_err(|error| failed(&lock_path, error))? {
            return Err(FolderError::InUse(path));
        }
        Ok(Self { path, known, lock })
    }

    /// Opens it. `fresh` empties it first.
    pub(crate) fn open(self, fresh: bool) -> Result<Folder, FolderError> {
        let Self { path, known, lock } = self;
        let version_file = path.join("version");
        if fresh {
            empty(&path)?;
        } else if known {
            check_version(&path, &version_file)?;
        }
        write_atomic(&version_file, VERSION.to_string().as_bytes(), PUBLIC)
            .map_err(|error| failed(&version_file, error))?;
        let secrets = secrets(&path)?;
        Ok(Folder { path, secrets, _lock: lock })
    }
}

impl Folder {
    /// Reads the secrets of a folder that another process of the same mesh has locked.
    pub(crate) fn secrets_of(path: &Path) -> Result<Secrets, FolderError> {
        secrets(path)
    }

    /// Certificates of the regions from the mesh's authority; those that exist stay.
    pub(crate) fn certify(&self, spec: &DevSpec) -> Result<(), FolderError> {
        let now = SystemTime::now();
        let ca = self.path.join("ca");
        let authority = CertificateAuthority::load_or_create(&ca, now).map_err(|error| failed(&ca, error))?;
        for region in &spec.regions {
            let (certificate, key) = (region.data.join("region.pem"), region.data.join("region.key"));
            if certificate.exists() && key.exists() {
                continue;
            }
            create_folder(&region.data).map_err(|error| failed(&region.data, error))?;
            let options = IssueOptions { valid_days: 3_650, ..IssueOptions::default() };
            let issued =
                authority.issue_region(&region.id, &options, now).map_err(|error| failed(&certificate, error))?;
            write_atomic(&key, issued.key_pem.as_bytes(), PRIVATE).map_err(|error| failed(&key, error))?;
            write_atomic(&certificate, issued.certificate_pem.as_bytes(), PUBLIC)
                .map_err(|error| failed(&certificate, error))?;
        }
        certify_admin(&authority, &ca, now)
    }
}

/// The certificate by which `hearth region …` finds its way in.
fn certify_admin(authority: &CertificateAuthority, ca: &Path, now: SystemTime) -> Result<(), FolderError> {
    let (certificate, key) = (ca.join("admin.pem"), ca.join("admin.key"));
    if certificate.exists() && key.exists() {
        return Ok(());
    }
    let issued = authority.issue_admin(ADMIN, 3_650, now).map_err(|error| failed(&certificate, error))?;
    write_atomic(&key, issued.key_pem.as_bytes(), PRIVATE).map_err(|error| failed(&key, error))?;
    write_atomic(&certificate, issued.certificate_pem.as_bytes(), PUBLIC).map_err(|error| failed(&certificate, error))
}

/// What the verbs of administration show to the nodes of the mesh in a folder.
///
/// # Errors
/// [`FolderError`] when the mesh was never started there.
pub fn admin_pem(data: &Path) -> Result<AdminPem, FolderError> {
    let ca = data.join("ca");
    let read = |name: &str| {
        let path = ca.join(name);
        std::fs::read_to_string(&path).map_err(|error| failed(&path, error))
    };
    Ok(AdminPem { ca: read("ca.pem")?, certificate: read("admin.pem")?, key: read("admin.key")? })
}

fn is_empty(path: &Path) -> Result<bool, FolderError> {
    let mut entries = std::fs::read_dir(path).map_err(|error| failed(path, error))?;
    // A lock alone is what an interrupted first start leaves.
    Ok(entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lock")))
}

fn empty(path: &Path) -> Result<(), FolderError> {
    for entry in std::fs::read_dir(path).map_err(|error| failed(path, error))? {
        let entry = entry.map_err(|error| failed(path, error))?;
        if entry.file_name() == "lock" {
            continue;
        }
        let child = entry.path();
        let removed = if child.is_dir() { std::fs::remove_dir_all(&child) } else { std::fs::remove_file(&child) };
        removed.map_err(|error| failed(&child, error))?;
    }
    Ok(())
}

fn check_version(path: &Path, file: &Path) -> Result<(), FolderError> {
    let found = std::fs::read_to_string(file).map_err(|error| failed(file, error))?;
    if found.trim() == VERSION.to_string() {
        return Ok(());
    }
    Err(FolderError::Version { path: path.to_owned(), found: found.trim().chars().take(20).collect() })
}

fn secrets(path: &Path) -> Result<Secrets, FolderError> {
    let file = path.join("secrets.json");
    match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(&file, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let secrets = Secrets { token: random_secret(), resume: random_secret() };
            let bytes = serde_json::to_vec(&secrets).map_err(|error| failed(&file, error))?;
            write_atomic(&file, &bytes, PRIVATE).map_err(|error| failed(&file, error))?;
            Ok(secrets)
        }
        Err(error) => Err(failed(&file, error)),
    }
}

/// 32 bytes of entropy as text.
pub(crate) fn random_secret() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// How a running mesh is found by its folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MeshFile {
    /// Port of the control listener, on loopback.
    pub control: u16,
    /// What a control request carries.
    pub secret: String,
    /// The mesh.
    pub spec: DevSpec,
}

pub(crate) fn mesh_file(data: &Path) -> PathBuf {
    data.join("mesh.json")
}

/// Reads the mesh file of a folder; `None` when no mesh was started there.
#[must_use]
pub fn read_mesh_file(data: &Path) -> Option<MeshFile> {
    serde_json::from_slice(&std::fs::read(mesh_file(data)).ok()?).ok()
}

pub(crate) fn write_mesh_file(data: &Path, file: &MeshFile) -> Result<(), FolderError> {
    let path = mesh_file(data);
    let bytes = serde_json::to_vec(file).map_err(|error| failed(&path, error))?;
    write_atomic(&path, &bytes, PRIVATE).map_err(|error| failed(&path, error))
}
