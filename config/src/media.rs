//! `[media]`: what clients may attach to messages, and where it is kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::files::{FileError, read_text};
use crate::values::{SecretText, duration, size};

/// `[media]`: what clients may attach to messages, and where it is kept. Media stay at the region where they were put.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MediaSection {
    /// Bytes of one upload; default 25 MiB. Over it: `TOO_LARGE`.
    #[serde(deserialize_with = "size::deserialize")]
    pub item_bytes: u64,
    /// Bytes of all that the region keeps; default 10 GiB. Over it: `OVERLOADED`.
    #[serde(deserialize_with = "size::deserialize")]
    pub kept_bytes: u64,
    /// What may be attached, as `image/png`; another type is refused. Default: pictures, sound, film, PDF, text, zip and
    /// `application/octet-stream`.
    pub content_types: Vec<String>,
    /// How long media stay that no message carries; default 8 days, longer than `limits.parked_for`.
    #[serde(deserialize_with = "duration::deserialize")]
    pub unused_for: Duration,
    /// How long an upload may wait to begin; default 15 minutes.
    #[serde(deserialize_with = "duration::deserialize")]
    pub upload_for: Duration,
    /// How long a link to media is good; default 5 minutes. Who has one needs no token.
    #[serde(deserialize_with = "duration::deserialize")]
    pub link_for: Duration,
    /// The folder that holds the bytes; made when it does not exist. Default none: `media` in the region's data folder.
    pub folder: Option<PathBuf>,
    /// An S3-compatible store instead of the folder; default none.
    pub s3: Option<S3Section>,
}

impl MediaSection {
    /// The least and the most of `item_bytes`: what one `PUT` of S3 takes.
    pub const ITEM_BYTES: std::ops::RangeInclusive<u64> = 1024..=5 << 30;
    /// The shortest and the longest `unused_for`.
    pub const UNUSED_FOR: std::ops::RangeInclusive<Duration> =
        Duration::from_secs(60)..=Duration::from_secs(365 * 24 * 3600);

    /// The shortest and the longest `upload_for` and `link_for`.
    pub const LINKS: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(24 * 3600);

    /// Where the bytes are, of a region whose data are in a folder.
    #[must_use]
    pub fn folder_in(&self, data: &Path) -> PathBuf {
        self.folder.clone().unwrap_or_else(|| data.join("media"))
    }

    pub(crate) fn resolve(&mut self, folder: &Path) {
        if let Some(path) = &mut self.folder {
            *path = folder.join(&*path);
        }
        if let Some(path) = self.s3.as_mut().and_then(|s3| s3.secret_access_key_file.as_mut()) {
            *path = folder.join(&*path);
        }
    }
}

impl Default for MediaSection {
    fn default() -> Self {
        let types = [
            "image/jpeg",
            "image/png",
            "image/gif",
            "image/webp",
            "image/avif",
            "image/heic",
            "audio/mpeg",
            "audio/mp4",
            "audio/ogg",
            "audio/webm",
            "audio/wav",
            "video/mp4",
            "video/webm",
            "video/quicktime",
            "application/pdf",
            "text/plain",
            "application/zip",
            "application/octet-stream",
        ];
        Self {
            item_bytes: 25 << 20,
            kept_bytes: 10 << 30,
            content_types: types.map(str::to_owned).to_vec(),
            unused_for: Duration::from_secs(8 * 24 * 3600),
            upload_for: Duration::from_secs(15 * 60),
            link_for: Duration::from_secs(5 * 60),
            folder: None,
            s3: None,
        }
    }
}

/// `[media.s3]`: an S3-compatible store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Section {
    /// Where it is, as clients and this region reach it.
    pub endpoint: String,
    /// The bucket; it is there already.
    pub bucket: String,
    /// As the store names its region.
    pub region: String,
    /// Whether the bucket stands in the path and not in the host; default false.
    #[serde(default)]
    pub path_style: bool,
    /// Who asks.
    pub access_key_id: String,
    /// A file with the secret of who asks; default none.
    #[serde(default)]
    pub secret_access_key_file: Option<PathBuf>,
    /// The secret itself: from the environment or code, never in a configuration file.
    #[serde(default)]
    pub secret_access_key: Option<SecretText>,
}

impl S3Section {
    /// The secret, of the environment or code first, then of its file; none when neither is set.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_secret(&self) -> Result<Option<SecretText>, FileError> {
        match (&self.secret_access_key, &self.secret_access_key_file) {
            (Some(secret), _) => Ok(Some(secret.clone())),
            (None, Some(path)) => read_text(path).map(|text| Some(SecretText::new(text))),
            (None, None) => Ok(None),
        }
    }
}
