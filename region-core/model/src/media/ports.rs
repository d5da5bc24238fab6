//! What media ask of the outside: a store that lets clients put and get bytes by links that were signed beforehand.

use async_trait::async_trait;
use hearth_protocol::{ConversationId, Timestamp};
use uuid::Uuid;

/// Names the bytes of one upload in a [`MediaStore`]. Both are UUIDs: no client gives a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaObject {
    /// Whose.
    pub conversation: ConversationId,
    /// Which.
    pub id: Uuid,
}

/// One request that a client may make, until a time.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    /// An absolute URL, or a path below `/media/` of the region that signed it.
    pub url: String,
    /// Headers that belong to what is signed, to be sent as they are.
    pub headers: Vec<(String, String)>,
    /// Until when it may begin.
    pub expires_at: Timestamp,
}

/// Never the URL: whoever has it can use it.
impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Bytes that are to be put: the link is for these and no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upload<'a> {
    /// What they are, as `image/png`.
    pub content_type: &'a str,
    /// How many, exactly.
    pub size: u64,
}

/// How bytes are to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Download<'a> {
    /// What they are.
    pub content_type: &'a str,
    /// Under which name they are saved; none: the client's choice.
    pub name: Option<&'a str>,
}

/// What a store has of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMedia {
    /// Bytes.
    pub size: u64,
    /// What they are, where the store knows.
    pub content_type: Option<String>,
}

/// Why a store did not answer. Nothing of the region stops for it: what is to be deleted is deleted by a later sweep.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the media store does not answer: {0}")]
pub struct MediaStoreError(pub String);

/// Keeps the bytes of media. An object is whole or not there.
#[async_trait]
pub trait MediaStore: Send + Sync + std::fmt::Debug {
    /// A link to put these bytes, and no others, under this name until a time.
    fn upload_link(&self, object: MediaObject, upload: Upload<'_>, now: Timestamp, until: Timestamp) -> Link;

    /// A link to get the bytes until a time. Signed whether they are there or not.
    fn download_link(&self, object: MediaObject, download: Download<'_>, now: Timestamp, until: Timestamp) -> Link;

    /// What is there; `None` where nothing is, also while an upload is under way.
    ///
    /// # Errors
    /// When the store does not answer.
    async fn stat(&self, object: MediaObject) -> Result<Option<StoredMedia>, MediaStoreError>;

    /// Takes the bytes away; nothing happens where there are none.
    ///
    /// # Errors
    /// When the store does not answer: they may be there still.
    async fn delete(&self, object: MediaObject) -> Result<(), MediaStoreError>;

    /// Some of the objects that are here and that nobody may remember: with a store of the region's own, those behind
    /// `after`, at most `rows`, by name. None where the store is not the region's alone.
    ///
    /// # Errors
    /// When the store does not answer.
    async fn objects(&self, after: Option<MediaObject>, rows: usize) -> Result<Vec<MediaObject>, MediaStoreError>;
}

/// How the bytes are offered to whoever saves or shows them (RFC 6266): shown in place where a browser runs nothing of
/// it, else saved.
#[must_use]
pub fn disposition(download: Download<'_>) -> String {
    let kind = if is_shown(download.content_type) { "inline" } else { "attachment" };
    match download.name {
        Some(name) => format!("{kind}; filename*=UTF-8''{}", hearth_protocol::media::encoded(&plain_name(name))),
        None => kind.to_owned(),
    }
}

/// Whether a browser shows this without running anything of it.
fn is_shown(content_type: &str) -> bool {
    let image = content_type.starts_with("image/") && !content_type.contains("svg") && !content_type.contains("xml");
    image || content_type.starts_with("video/") || content_type.starts_with("audio/")
}

/// A name that is a name in every file system: no separator, no control character, nothing hidden.
fn plain_name(name: &str) -> String {
    let plain =
        |character: char| if character.is_control() || "/\\:*?\"<>|".contains(character) { '_' } else { character };
    let name: String = name.chars().map(plain).collect();
    let name = name.trim_matches(['.', ' ']);
    if name.is_empty() { "file".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_nothing_is_shown_in_place_and_names_stay_names() {
        let of = |content_type, name| disposition(Download { content_type, name });
        assert_eq!(of("image/png", None), "inline");
        assert_eq!(of("video/mp4", Some("a.mp4")), "inline; filename*=UTF-8''a.mp4");
        for runs in ["image/svg+xml", "text/html", "application/xhtml+xml", "application/pdf", "text/plain"] {
            assert_eq!(of(runs, None), "attachment", "{runs}");
        }
        assert_eq!(of("image/png", Some("../x\r\ny: é")), "inline; filename*=UTF-8''_x__y_%20%C3%A9");
        assert_eq!(of("image/png", Some("..")), "inline; filename*=UTF-8''file");
    }
}
