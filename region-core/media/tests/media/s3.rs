//! Against moto's S3, with each signature made again by botocore (`s3.py`).

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_protocol::{ConversationId, Timestamp};
use region_media::{S3Options, S3Store};
use region_model::media::ports::{Download, Link, MediaObject, MediaStore as _, StoredMedia, Upload};
use reqwest::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use uuid::Uuid;

use crate::python::python;

/// The server; it ends with its standard input.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/media/s3.py");
        let mut command = Command::new(python("tests/media/requirements.txt", "media-python"));
        let mut child = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().expect("its port");
        Self { child, port }
    }

    fn store(&self, secret: &str) -> S3Store {
        let options = S3Options {
            endpoint: format!("http://127.0.0.1:{}", self.port),
            bucket: "media".to_owned(),
            region: "eu-west-1".to_owned(),
            path_style: true,
            access_key_id: "AKIATEST".to_owned(),
            secret_access_key: secret.to_owned(),
        };
        S3Store::new(&options).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn now() -> Timestamp {
    Timestamp(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap())
}

fn object(id: u128) -> MediaObject {
    MediaObject { conversation: ConversationId(Uuid::from_u128(1)), id: Uuid::from_u128(id) }
}

async fn put(link: &Link, content_type: &str, body: &'static [u8]) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.put(&link.url).header(CONTENT_TYPE, content_type).body(body);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_takes_exactly_what_was_signed_gives_it_back_as_signed_and_deletes_it() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let store = server.store("a secret of the tests");
    let (object, until) = (object(2), Timestamp(now().0 + 60_000));
    let upload = Upload { content_type: "text/html", size: 5 };
    let link = store.upload_link(object, upload, now(), until);
    assert_eq!(store.stat(object).await, Ok(None), "nothing is there yet");
    let refused =
        |answer: (u16, String)| assert!(answer.0 == 403 && answer.1.contains("SignatureDoesNotMatch"), "{answer:?}");
    refused(put(&link, "text/html", b"longer").await);
    refused(put(&link, "text/html", b"shor").await);
    refused(put(&link, "image/png", b"right").await);
    let forged = Link { url: link.url.replace("/00000000-0000-0000-0000-000000000002", "/other"), ..link.clone() };
    refused(put(&forged, "text/html", b"right").await);
    refused(
        put(&server.store("another secret").upload_link(object, upload, now(), until), "text/html", b"right").await,
    );
    let then = Timestamp(now().0 - 120_000);
    let over = store.upload_link(object, upload, then, Timestamp(then.0 + 60_000));
    let answer = put(&over, "text/html", b"right").await;
    assert!(answer.0 == 403 && answer.1.contains("ExpiredToken"), "{answer:?}");
    assert_eq!(store.stat(object).await, Ok(None), "nothing of all that is there");
    let answer = put(&link, "text/html", b"right").await;
    assert_eq!(answer.0, 200, "{answer:?}");
    let there = StoredMedia { size: 5, content_type: Some("text/html".to_owned()) };
    assert_eq!(store.stat(object).await, Ok(Some(there)));
    let download = Download { content_type: "text/html", name: Some("é.html") };
    let link = store.download_link(object, download, now(), until);
    let given = reqwest::Client::builder().no_proxy().build().unwrap().get(&link.url).send().await.unwrap();
    assert_eq!(given.status().as_u16(), 200);
    assert_eq!(given.headers()[CONTENT_DISPOSITION], "attachment; filename*=UTF-8''%C3%A9.html");
    assert_eq!(given.headers()[CONTENT_TYPE], "text/html");
    assert_eq!(given.bytes().await.unwrap(), "right");
    let inline = link.url.replace("attachment", "inline");
    let changed = reqwest::Client::builder().no_proxy().build().unwrap().get(inline).send().await.unwrap();
    assert_eq!(changed.status().as_u16(), 403, "how it is given is signed");
    for _ in 0..2 {
        assert_eq!(store.delete(object).await, Ok(()), "what is not there is deleted, too");
        assert_eq!(store.stat(object).await, Ok(None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_believe_the_region_is_an_error_and_not_an_absence() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let store = server.store("another secret");
    assert!(store.stat(object(2)).await.is_err() && store.delete(object(2)).await.is_err());
}
