//! Media at an S3-compatible store: links by `rusty-s3` (AWS Signature Version 4), questions and deletes by one HTTP client.
//! Bytes go between the client and the store, and never through the region.

use std::sync::Once;
use std::time::Duration;

use async_trait::async_trait;
use hearth_protocol::Timestamp;
use region_model::media::ports::{
    Download, Link, MediaObject, MediaStore, MediaStoreError, StoredMedia, Upload, disposition,
};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Client, StatusCode};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};

/// How long the region's own requests are good for, and how long one may take.
const REQUEST: Duration = Duration::from_secs(10);
/// The longest that a link may be good for: the store takes none that is good for longer.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Where the store is, and as whom it is asked.
pub struct S3Options {
    /// As `https://s3.eu-west-1.amazonaws.com`, as clients and the region reach it.
    pub endpoint: String,
    /// The bucket; it is there already.
    pub bucket: String,
    /// As the store names its region.
    pub region: String,
    /// Whether the bucket stands in the path (`endpoint/bucket/key`) and not in the host.
    pub path_style: bool,
    /// Who asks.
    pub access_key_id: String,
    /// The secret of who asks.
    pub secret_access_key: String,
}

impl std::fmt::Debug for S3Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Options")
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

/// Why a store cannot be made of what the operator configured.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The endpoint is no URL.
    #[error("the endpoint is no URL: {0}")]
    Endpoint(#[from] url::ParseError),
    /// Endpoint and bucket give no address.
    #[error("the bucket has no address there: {0}")]
    Bucket(#[from] rusty_s3::BucketError),
    /// The HTTP client could not be made.
    #[error("the HTTP client cannot be made")]
    Http(#[source] reqwest::Error),
}

/// An S3-compatible store.
pub struct S3Store {
    bucket: Bucket,
    credentials: Credentials,
    http: Client,
}

impl std::fmt::Debug for S3Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Store").field("bucket", &self.bucket.name()).finish_non_exhaustive()
    }
}

/// The name of an object in the bucket.
fn key(object: MediaObject) -> String {
    format!("{}/{}", object.conversation, object.id)
}

fn moment(now: Timestamp) -> jiff::Timestamp {
    let milliseconds = i64::try_from(now.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::MAX)
}

/// How long a link that begins now is good for: whole seconds, one at least.
fn lives(now: Timestamp, until: Timestamp) -> Duration {
    Duration::from_secs(until.0.saturating_sub(now.0) / 1_000).clamp(Duration::from_secs(1), LONGEST)
}

/// Signs an action as if it were `now`.
fn signed<'a>(action: &impl S3Action<'a>, now: Timestamp, lives: Duration) -> url::Url {
    action.sign_with_time(lives, &moment(now))
}

/// What went wrong, without the URL: it may be used by whoever reads it.
fn unanswered(error: reqwest::Error) -> MediaStoreError {
    MediaStoreError(error.without_url().to_string())
}

fn refused(status: StatusCode) -> MediaStoreError {
    MediaStoreError(format!("it answered {status}"))
}

impl S3Store {
    /// A store that nobody was asked for yet.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(options: &S3Options) -> Result<Self, SetupError> {
        static PROVIDER: Once = Once::new();
        // The HTTP client takes the process's; whoever was first installed the same.
        PROVIDER.call_once(|| drop(rustls::crypto::aws_lc_rs::default_provider().install_default()));
        let style = if options.path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let bucket = Bucket::new(options.endpoint.parse()?, style, options.bucket.clone(), options.region.clone())?;
        let credentials = Credentials::new(options.access_key_id.clone(), options.secret_access_key.clone());
        let http = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST)
            .user_agent("hearth")
            .build()
            .map_err(SetupError::Http)?;
        Ok(Self { bucket, credentials, http })
    }

    /// The URL of a get, as signed at a time.
    fn get(&self, key: &str, query: &[(&'static str, String)], now: Timestamp, lives: Duration) -> url::Url {
        let mut action = self.bucket.get_object(Some(&self.credentials), key);
        for (name, value) in query {
            action.query_mut().insert(*name, value.clone());
        }
        signed(&action, now, lives)
    }
}

/// The time by this machine: the store compares it with its own.
fn wall() -> Timestamp {
    Timestamp(u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0))
}

#[async_trait]
impl MediaStore for S3Store {
    fn upload_link(&self, object: MediaObject, upload: Upload<'_>, now: Timestamp, until: Timestamp) -> Link {
        let key = key(object);
        let mut action = self.bucket.put_object(Some(&self.credentials), &key);
        // Both are signed: the store takes these bytes alone. Clients set the length by themselves.
        action.headers_mut().insert("content-length", upload.size.to_string());
        action.headers_mut().insert("content-type", upload.content_type.to_owned());
        let url = signed(&action, now, lives(now, until)).to_string();
        let headers = vec![("content-type".to_owned(), upload.content_type.to_owned())];
        Link { url, headers, expires_at: until }
    }

    fn download_link(&self, object: MediaObject, download: Download<'_>, now: Timestamp, until: Timestamp) -> Link {
        let query = [
            ("response-content-disposition", disposition(download)),
            ("response-content-type", download.content_type.to_owned()),
        ];
        let url = self.get(&key(object), &query, now, lives(now, until)).to_string();
        Link { url, headers: Vec::new(), expires_at: until }
    }

    async fn stat(&self, object: MediaObject) -> Result<Option<StoredMedia>, MediaStoreError> {
        let key = key(object);
        let url = signed(&self.bucket.head_object(Some(&self.credentials), &key), wall(), REQUEST);
        let answer = self.http.head(url).send().await.map_err(unanswered)?;
        match answer.status() {
            StatusCode::OK => {
                let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
                let size = header(CONTENT_LENGTH).and_then(|text| text.parse().ok());
                let size = size.ok_or_else(|| MediaStoreError("it told no length".to_owned()))?;
                Ok(Some(StoredMedia { size, content_type: header(CONTENT_TYPE).map(str::to_owned) }))
            }
            StatusCode::NOT_FOUND => Ok(None),
            other => Err(refused(other)),
        }
    }

    async fn delete(&self, object: MediaObject) -> Result<(), MediaStoreError> {
        let key = key(object);
        let url = signed(&self.bucket.delete_object(Some(&self.credentials), &key), wall(), REQUEST);
        let answer = self.http.delete(url).send().await.map_err(unanswered)?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => Ok(()),
            other => Err(refused(other)),
        }
    }

    /// A bucket may be shared with other regions: what is in it is not looked through.
    async fn objects(&self, _: Option<MediaObject>, _: usize) -> Result<Vec<MediaObject>, MediaStoreError> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use hearth_protocol::ConversationId;
    use uuid::Uuid;

    use super::*;

    /// As the documentation of Amazon S3 has them, in "Authenticating Requests: Using Query Parameters".
    fn documented() -> S3Store {
        S3Store::new(&S3Options {
            endpoint: "https://s3.amazonaws.com".to_owned(),
            bucket: "examplebucket".to_owned(),
            region: "us-east-1".to_owned(),
            path_style: false,
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
        })
        .unwrap()
    }

    /// 24 May 2013, 00:00:00 UTC.
    const THEN: Timestamp = Timestamp(1_369_353_600_000);

    #[test]
    fn the_published_example_of_a_presigned_get_has_the_published_signature() {
        let url = documented().get("test.txt", &[], THEN, Duration::from_secs(86_400)).to_string();
        let published = "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
            &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z\
            &X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
            &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        assert_eq!(url, published);
    }

    #[test]
    fn an_upload_is_signed_with_its_type_and_length_and_a_download_with_how_it_is_given() {
        let object = MediaObject { conversation: ConversationId(Uuid::from_u128(1)), id: Uuid::from_u128(2) };
        let until = Timestamp(THEN.0 + 900_500);
        let put = |content_type, size| documented().upload_link(object, Upload { content_type, size }, THEN, until);
        let link = put("image/png", 10);
        assert!(link.url.contains("X-Amz-SignedHeaders=content-length%3Bcontent-type%3Bhost"), "{}", link.url);
        assert!(link.url.contains("X-Amz-Expires=900&"), "{}", link.url);
        assert_eq!(link.headers, [("content-type".to_owned(), "image/png".to_owned())]);
        assert_ne!(put("image/png", 11).url, link.url);
        assert_ne!(put("image/gif", 10).url, link.url);
        let download = Download { content_type: "text/html", name: Some("a b.html") };
        let url = documented().download_link(object, download, THEN, until).url;
        assert!(
            url.contains("response-content-disposition=attachment%3B%20filename%2A%3DUTF-8%27%27a%2520b.html"),
            "{url}"
        );
        assert!(url.contains("response-content-type=text%2Fhtml"), "{url}");
    }

    #[test]
    fn what_is_logged_of_a_store_and_its_options_says_no_key() {
        let options = S3Options { secret_access_key: "hunter2".to_owned(), ..options_of("https://s3.example.com") };
        let store = S3Store::new(&options).unwrap();
        let object = MediaObject { conversation: ConversationId(Uuid::nil()), id: Uuid::nil() };
        let link = store.upload_link(object, Upload { content_type: "a/b", size: 1 }, THEN, THEN);
        let shown = format!("{options:?} {store:?} {link:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("Signature"), "{shown}");
    }

    fn options_of(endpoint: &str) -> S3Options {
        S3Options {
            endpoint: endpoint.to_owned(),
            bucket: "media".to_owned(),
            region: "eu".to_owned(),
            path_style: true,
            access_key_id: "id".to_owned(),
            secret_access_key: "secret".to_owned(),
        }
    }

    #[test]
    fn an_endpoint_that_is_none_is_refused() {
        for bad in ["", "s3.example.com", "ftp://s3.example.com"] {
            assert!(S3Store::new(&options_of(bad)).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_is_an_error_without_the_link() {
        let store = S3Store::new(&options_of("http://127.0.0.1:1")).unwrap();
        let object = MediaObject { conversation: ConversationId(Uuid::nil()), id: Uuid::nil() };
        let errors = [store.stat(object).await.unwrap_err(), store.delete(object).await.unwrap_err()];
        assert!(errors.iter().all(|error| !error.to_string().contains("Signature")), "{errors:?}");
    }
}
