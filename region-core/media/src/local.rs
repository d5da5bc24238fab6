//! Media in a folder of the region, for which the region signs links to itself.
//!
//! ```text
//!   media/incoming/<random>            bytes that are coming; emptied at the start, and by whoever gives up
//!   media/<conversation>/<media>       whole and on disk: made by one rename
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use hearth_protocol::{ConversationId, ErrorCode, Refusal, Timestamp};
use parking_lot::Mutex;
use region_model::media::UPLOAD_LASTS;
use region_model::media::ports::{Download, Link, MediaObject, MediaStore, MediaStoreError, StoredMedia, Upload};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::link::{LinkClaim, LinkKey, Right};

/// Uploads that a region takes at once; a further one is refused `OVERLOADED`.
pub const UPLOADS: usize = 64;
/// Where bytes are that are coming.
const INCOMING: &str = "incoming";
/// Longest wait for the next bytes of an upload.
const NEXT_BYTES: Duration = Duration::from_secs(30);

/// A folder with media.
#[derive(Debug)]
pub struct LocalStore {
    folder: PathBuf,
    key: LinkKey,
    uploads: Arc<Semaphore>,
    under_way: Mutex<BTreeSet<MediaObject>>,
}

/// Bytes that are coming. What is not kept is taken away, whatever ends the upload.
struct Incoming<'a> {
    store: &'a LocalStore,
    object: MediaObject,
    path: PathBuf,
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        // Where it was renamed there is nothing any more.
        let _ = std::fs::remove_file(&self.path);
        self.store.under_way.lock().remove(&self.object);
    }
}

/// What the disk said. The region goes on: other uploads may fit.
fn disk(error: &io::Error) -> Refusal {
    tracing::warn!(%error, "media cannot be written");
    Refusal::new(ErrorCode::StoreUnavailable, "this region's media store is unavailable").with_retry_after(30)
}

fn unavailable(error: &io::Error) -> MediaStoreError {
    MediaStoreError(error.to_string())
}

/// `None` where there is no such file.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

async fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder).await?.sync_all().await
}

impl LocalStore {
    /// A store over a folder, which is made; what was coming when an earlier process ended is taken away.
    ///
    /// # Errors
    /// Of the file system.
    pub async fn open(folder: PathBuf, key: LinkKey, uploads: usize) -> io::Result<Self> {
        let incoming = folder.join(INCOMING);
        found(fs::remove_dir_all(&incoming).await)?;
        fs::create_dir_all(&incoming).await?;
        sync_folder(&folder).await?;
        let (uploads, under_way) = (Arc::new(Semaphore::new(uploads)), Mutex::default());
        Ok(Self { folder, key, uploads, under_way })
    }

    /// Reads a link, as [`LinkKey::read`] does.
    ///
    /// # Errors
    /// `FORBIDDEN` or `EXPIRED`.
    pub fn read_link(&self, right: Right, path: &str, query: &str, now: Timestamp) -> Result<LinkClaim, Refusal> {
        self.key.read(right, path, query, now)
    }

    fn place(&self, object: MediaObject) -> PathBuf {
        self.folder.join(object.conversation.to_string()).join(object.id.to_string())
    }

    /// Takes the bytes that a link is for: exactly so many, of this type. Once it returns they are on disk. The first ones
    /// stand: what is put again by the same link is read and not kept.
    ///
    /// # Errors
    /// `TOO_LARGE` for more bytes than were signed, `INVALID_MESSAGE` for fewer or another type, `OVERLOADED` while too many
    /// upload, `STORE_UNAVAILABLE` where the disk does not take them. Nothing is left then.
    pub async fn receive<E: fmt::Display>(
        &self,
        claim: &LinkClaim,
        content_type: Option<&str>,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<(), Refusal> {
        if content_type != Some(claim.content_type.as_str()) {
            let refusal = Refusal::invalid("the Content-Type is not the one that was asked for");
            return Err(refusal.with_limit(claim.content_type.clone()));
        }
        let permit = self.uploads.clone().try_acquire_owned();
        let incoming = match permit {
            Ok(_) if self.under_way.lock().insert(claim.object) => self.incoming(claim.object),
            Ok(_) => {
                return Err(
                    Refusal::new(ErrorCode::Overloaded, "these media are being put already").with_retry_after(5)
                );
            }
            Err(_) => {
                let refusal = Refusal::new(ErrorCode::Overloaded, "too many uploads at once").with_retry_after(1);
                return Err(refusal.with_limit(format!("{UPLOADS} uploads")));
            }
        };
        let lasts = Duration::from_millis(UPLOAD_LASTS);
        let taken = tokio::time::timeout(lasts, self.take(&incoming, claim, std::pin::pin!(body))).await;
        taken.unwrap_or_else(|_| Err(Refusal::invalid("the upload took too long")))
    }

    fn incoming(&self, object: MediaObject) -> Incoming<'_> {
        let path = self.folder.join(INCOMING).join(Uuid::new_v4().to_string());
        Incoming { store: self, object, path }
    }

    async fn take<E: fmt::Display>(
        &self,
        incoming: &Incoming<'_>,
        claim: &LinkClaim,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(), Refusal> {
        let is_there = fs::try_exists(self.place(claim.object)).await.map_err(|error| disk(&error))?;
        let file =
            if is_there { None } else { Some(File::create_new(&incoming.path).await.map_err(|error| disk(&error))?) };
        let file = write(file, claim.size, body).await?;
        match file {
            Some(file) => self.keep(file, incoming).await.map_err(|error| disk(&error)),
            None => Ok(()),
        }
    }

    /// The file first, then its name: after a power cut it is whole or not there.
    async fn keep(&self, file: File, incoming: &Incoming<'_>) -> io::Result<()> {
        file.sync_all().await?;
        let place = self.place(incoming.object);
        let folder = self.folder.join(incoming.object.conversation.to_string());
        fs::create_dir_all(&folder).await?;
        fs::rename(&incoming.path, &place).await?;
        sync_folder(&folder).await?;
        sync_folder(&self.folder).await
    }

    /// The bytes with their number; `None` where there are none.
    ///
    /// # Errors
    /// Of the file system.
    pub async fn read(&self, object: MediaObject) -> io::Result<Option<(File, u64)>> {
        let Some(file) = found(File::open(self.place(object)).await)? else { return Ok(None) };
        let size = file.metadata().await?.len();
        Ok(Some((file, size)))
    }
}

/// Writes exactly `size` bytes; without a file they are counted alone.
async fn write<E: fmt::Display>(
    mut file: Option<File>,
    size: u64,
    mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> Result<Option<File>, Refusal> {
    let mut came = 0u64;
    loop {
        let next = tokio::time::timeout(NEXT_BYTES, body.next()).await;
        let bytes = match next {
            Ok(None) => break,
            Ok(Some(Ok(bytes))) => bytes,
            Ok(Some(Err(_))) | Err(_) => return Err(Refusal::invalid("the bytes did not arrive whole")),
        };
        came = came.saturating_add(bytes.len() as u64);
        if came > size {
            return Err(Refusal::too_large("more bytes came than were asked for", format!("{size} bytes of media")));
        }
        if let Some(file) = &mut file {
            file.write_all(&bytes).await.map_err(|error| disk(&error))?;
        }
    }
    if came < size {
        let refusal = Refusal::invalid(format!("{came} bytes came instead of those that were asked for"));
        return Err(refusal.with_limit(format!("{size} bytes of media")));
    }
    if let Some(file) = &mut file {
        file.flush().await.map_err(|error| disk(&error))?;
    }
    Ok(file)
}

/// The names in a folder that are UUIDs, ascending.
async fn uuids(folder: &Path) -> io::Result<Vec<Uuid>> {
    let mut names = Vec::new();
    let Some(mut listing) = found(fs::read_dir(folder).await)? else { return Ok(names) };
    while let Some(entry) = listing.next_entry().await? {
        names.extend(entry.file_name().to_str().and_then(|name| Uuid::try_parse(name).ok()));
    }
    names.sort_unstable();
    Ok(names)
}

#[async_trait]
impl MediaStore for LocalStore {
    fn upload_link(&self, object: MediaObject, upload: Upload<'_>, _: Timestamp, until: Timestamp) -> Link {
        let content_type = upload.content_type.to_owned();
        let headers = vec![("content-type".to_owned(), content_type.clone())];
        let right = Right::Put;
        let claim = LinkClaim { right, object, content_type, size: upload.size, name: None, expires_at: until };
        Link { url: self.key.link(&claim), headers, expires_at: until }
    }

    fn download_link(&self, object: MediaObject, download: Download<'_>, _: Timestamp, until: Timestamp) -> Link {
        let (content_type, name) = (download.content_type.to_owned(), download.name.map(str::to_owned));
        let claim = LinkClaim { right: Right::Get, object, content_type, size: 0, name, expires_at: until };
        Link { url: self.key.link(&claim), headers: Vec::new(), expires_at: until }
    }

    async fn stat(&self, object: MediaObject) -> Result<Option<StoredMedia>, MediaStoreError> {
        let metadata = found(fs::metadata(self.place(object)).await).map_err(|error| unavailable(&error))?;
        Ok(metadata.map(|metadata| StoredMedia { size: metadata.len(), content_type: None }))
    }

    async fn delete(&self, object: MediaObject) -> Result<(), MediaStoreError> {
        found(fs::remove_file(self.place(object)).await).map_err(|error| unavailable(&error))?;
        // It stays where other media of the conversation are.
        let _ = fs::remove_dir(self.folder.join(object.conversation.to_string())).await;
        Ok(())
    }

    async fn objects(&self, after: Option<MediaObject>, rows: usize) -> Result<Vec<MediaObject>, MediaStoreError> {
        let mut objects = Vec::new();
        let conversations = uuids(&self.folder).await.map_err(|error| unavailable(&error))?;
        for conversation in conversations.into_iter().map(ConversationId) {
            if after.is_some_and(|after| conversation < after.conversation) {
                continue;
            }
            let names =
                uuids(&self.folder.join(conversation.to_string())).await.map_err(|error| unavailable(&error))?;
            let found = names.into_iter().map(|id| MediaObject { conversation, id });
            objects.extend(found.filter(|object| after.is_none_or(|after| *object > after)));
            if objects.len() >= rows {
                break;
            }
        }
        objects.truncate(rows);
        Ok(objects)
    }
}
