//! Where media are, by the configuration; and the routes under which a folder's bytes come and go, by links that the region
//! signed. Nobody is asked for a token there: who has a link may use it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use hearth_config::{MediaSection, RegionConfig, S3Section};
use hearth_protocol::{ErrorCode, Refusal, Timestamp};
use rand::RngCore;
use region_core::MediaOptions;
use region_media::{LinkClaim, LinkKey, LocalStore, Right, S3Options, S3Store, UPLOADS};
use region_model::media::ports::{Download, disposition};
use region_model::media::{MediaRules, UPLOAD_LASTS};
use region_model::ports::{MapChange, MapStore, MapSync};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use crate::region::StartError;

/// Media of one region, whatever their size.
const ITEMS: usize = 1_000_000;
/// Media of one user that no message carries yet.
const UNUSED_OF_USER: usize = 32;
/// Where the region's own key for links is, beside the region map's keys and the records of media.
pub(crate) const KEY: &[u8] = b"media/key";
/// Bytes of one read of a file.
const CHUNK: usize = 64 * 1024;
/// Bytes of a refused upload that are read and thrown away, and for how long: a client that is still writing would lose
/// the answer with the connection.
const POLITE: (usize, Duration) = (8 * 1024 * 1024, Duration::from_secs(5));

/// What a region keeps media by.
pub(crate) struct MediaParts {
    /// For the core.
    pub(crate) options: MediaOptions,
    local: Option<Arc<LocalStore>>,
}

fn clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn rules(media: &MediaSection) -> MediaRules {
    MediaRules {
        item_bytes: media.item_bytes,
        content_types: media.content_types.clone(),
        kept_bytes: media.kept_bytes,
        kept_items: ITEMS,
        unused_of_user: UNUSED_OF_USER,
        unused_for: milliseconds(media.unused_for),
        upload_for: milliseconds(media.upload_for),
        upload_lasts: UPLOAD_LASTS,
        link_for: milliseconds(media.link_for),
    }
}

/// The key that signs this region's links: made once, and on its disk before it signs.
async fn link_key(store: &dyn MapStore) -> Result<LinkKey, StartError> {
    let key = Bytes::from_static(KEY);
    let known = store.get(key.clone()).await?;
    let mut secret = [0; LinkKey::LENGTH];
    match known.filter(|known| known.len() == secret.len()) {
        Some(known) => secret.copy_from_slice(&known),
        None => {
            rand::rng().fill_bytes(&mut secret);
            store.write(vec![MapChange::Put(key, Bytes::copy_from_slice(&secret))], MapSync::Disk).await?;
        }
    }
    Ok(LinkKey::new(&secret))
}

pub(crate) fn s3(section: &S3Section) -> Result<S3Store, StartError> {
    let config = |error: String| StartError::Config(format!("media.s3: {error}"));
    let secret = section.read_secret().map_err(|error| config(error.to_string()))?;
    let secret = secret.ok_or_else(|| config("the store's key has no secret".to_owned()))?;
    let options = S3Options {
        endpoint: section.endpoint.clone(),
        bucket: section.bucket.clone(),
        region: section.region.clone(),
        path_style: section.path_style,
        access_key_id: section.access_key_id.clone(),
        secret_access_key: String::from_utf8_lossy(secret.expose()).into_owned(),
    };
    S3Store::new(&options).map_err(|error| config(error.to_string()))
}

impl MediaParts {
    /// From the configuration.
    ///
    /// # Errors
    /// When the folder cannot be used, the store's section is wrong, or the region's own store does not read.
    pub(crate) async fn new(config: &RegionConfig, store: &dyn MapStore) -> Result<Self, StartError> {
        let rules = rules(&config.media);
        if let Some(section) = &config.media.s3 {
            return Ok(Self { options: MediaOptions { store: Arc::new(s3(section)?), rules }, local: None });
        }
        let folder = config.media.folder_in(&config.region.data);
        let local = LocalStore::open(folder.clone(), link_key(store).await?, UPLOADS).await;
        let local =
            local.map_err(|error| StartError::Config(format!("the folder of media {}: {error}", folder.display())))?;
        let local = Arc::new(local);
        Ok(Self { options: MediaOptions { store: local.clone(), rules }, local: Some(local) })
    }

    /// Adds the routes of the folder to others; none where an S3-compatible store has the bytes.
    pub(crate) fn routes(&self, others: Option<Router>) -> Option<Router> {
        let Some(local) = &self.local else { return others };
        let own = Router::new().route("/media/{conversation}/{media}", get(give).put(take)).with_state(local.clone());
        Some(own.merge(others.unwrap_or_default()))
    }
}

fn refuse(refusal: Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let retry_after = refusal.retry_after;
    let mut response = (status, Json(refusal)).into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn claim(store: &LocalStore, right: Right, request: &Request) -> Result<LinkClaim, Refusal> {
    let uri = request.uri();
    store.read_link(right, uri.path(), uri.query().unwrap_or_default(), clock())
}

/// `PUT` by a signed link.
async fn take(State(store): State<Arc<LocalStore>>, request: Request) -> Response {
    let claim = claim(&store, Right::Put, &request);
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut body = request.into_body().into_data_stream();
    let taken = match claim {
        Ok(claim) => store.receive(&claim, content_type.as_deref(), &mut body).await,
        Err(refusal) => Err(refusal),
    };
    match taken {
        Ok(()) => StatusCode::OK.into_response(),
        Err(refusal) => {
            // Whoever sends more than that, or slower, loses the answer.
            let _ = tokio::time::timeout(POLITE.1, throw_away(&mut body, POLITE.0)).await;
            refuse(refusal)
        }
    }
}

async fn throw_away(body: &mut BodyDataStream, mut most: usize) {
    while let Some(Ok(bytes)) = body.next().await {
        most = most.saturating_sub(bytes.len());
        if most == 0 {
            return;
        }
    }
}

/// `GET` by a signed link.
async fn give(State(store): State<Arc<LocalStore>>, request: Request) -> Response {
    let claim = match claim(&store, Right::Get, &request) {
        Ok(claim) => claim,
        Err(refusal) => return refuse(refusal),
    };
    match store.read(claim.object).await {
        Ok(Some((file, size))) => given(&claim, file, size),
        Ok(None) => refuse(Refusal::new(ErrorCode::NotFound, "these media are gone")),
        Err(error) => {
            tracing::warn!(%error, "media cannot be read");
            let refusal = Refusal::new(ErrorCode::StoreUnavailable, "this region's media store is unavailable");
            refuse(refusal.with_retry_after(30))
        }
    }
}

fn given(claim: &LinkClaim, file: File, size: u64) -> Response {
    let text = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let shown = Download { content_type: &claim.content_type, name: claim.name.as_deref() };
    let seconds = claim.expires_at.0.saturating_sub(clock().0) / 1_000;
    let mut response = Response::new(Body::from_stream(chunks(file)));
    let headers = [
        (CONTENT_TYPE, text(&claim.content_type)),
        (CONTENT_LENGTH, HeaderValue::from(size)),
        (CONTENT_DISPOSITION, text(&disposition(shown))),
        // Whatever it says it is, a browser makes nothing else of it, and runs nothing of it.
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox")),
        (CACHE_CONTROL, text(&format!("private, max-age={seconds}"))),
    ];
    response.headers_mut().extend(headers);
    response
}

/// A file in pieces.
fn chunks(file: File) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold(file, async |mut file| {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let read = file.read_buf(&mut chunk).await?;
        Ok((read > 0).then(|| (chunk.freeze(), file)))
    })
}
