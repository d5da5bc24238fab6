//! The folder: whole or not there, whatever ends an upload.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use hearth_protocol::{ConversationId, ErrorCode, Refusal, Timestamp};
use region_media::{LinkClaim, LinkKey, LocalStore, Right};
use region_model::media::ports::{MediaObject, MediaStore as _, StoredMedia};
use tokio::io::AsyncReadExt as _;
use uuid::Uuid;

async fn open(folder: &Path, uploads: usize) -> LocalStore {
    let key = LinkKey::new(&[7; LinkKey::LENGTH]);
    LocalStore::open(folder.join("media"), key, uploads).await.unwrap()
}

fn object(conversation: u128, id: u128) -> MediaObject {
    MediaObject { conversation: ConversationId(Uuid::from_u128(conversation)), id: Uuid::from_u128(id) }
}

fn claim(object: MediaObject, size: u64) -> LinkClaim {
    let (right, content_type) = (Right::Put, "image/png".to_owned());
    LinkClaim { right, object, content_type, size, name: None, expires_at: Timestamp(1) }
}

fn pieces(pieces: &[&'static str]) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
    stream::iter(pieces.iter().map(|piece| Ok(Bytes::from(*piece))).collect::<Vec<_>>())
}

async fn put(store: &LocalStore, object: MediaObject, size: u64, body: &[&'static str]) -> Result<(), Refusal> {
    store.receive(&claim(object, size), Some("image/png"), pieces(body)).await
}

async fn read(store: &LocalStore, object: MediaObject) -> Option<String> {
    let (mut file, size) = store.read(object).await.unwrap()?;
    let mut text = String::new();
    file.read_to_string(&mut text).await.unwrap();
    assert_eq!(text.len() as u64, size);
    Some(text)
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path().to_string_lossy().into_owned());
        }
    }
    found
}

#[tokio::test]
async fn what_was_put_whole_is_there_for_another_process_and_gone_once_it_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 4).await;
    assert_eq!(store.stat(object(1, 1)).await, Ok(None));
    put(&store, object(1, 1), 6, &["abc", "", "def"]).await.unwrap();
    put(&store, object(1, 2), 1, &["x"]).await.unwrap();
    drop(store);
    let store = open(folder.path(), 4).await;
    assert_eq!(store.stat(object(1, 1)).await, Ok(Some(StoredMedia { size: 6, content_type: None })));
    assert_eq!(read(&store, object(1, 1)).await.as_deref(), Some("abcdef"));
    assert_eq!(read(&store, object(2, 1)).await, None, "of another conversation");
    for _ in 0..2 {
        store.delete(object(1, 1)).await.unwrap();
        assert_eq!(read(&store, object(1, 1)).await, None);
    }
    assert_eq!(read(&store, object(1, 2)).await.as_deref(), Some("x"), "others stay");
    store.delete(object(1, 2)).await.unwrap();
    assert_eq!(files(folder.path()), Vec::<String>::new());
    assert!(!folder.path().join("media").join(Uuid::from_u128(1).to_string()).exists());
}

#[tokio::test]
async fn other_bytes_than_those_that_were_signed_are_refused_and_nothing_of_them_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 4).await;
    let refused = |result: Result<(), Refusal>| result.unwrap_err().error;
    let endless = stream::iter(std::iter::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[0; 1_000]))));
    let much = store.receive(&claim(object(1, 1), 10_000), Some("image/png"), endless).await;
    assert_eq!(refused(much), ErrorCode::TooLarge, "it is not read to its end");
    assert_eq!(refused(put(&store, object(1, 1), 3, &["ab", "cd"]).await), ErrorCode::TooLarge);
    assert_eq!(refused(put(&store, object(1, 1), 3, &["ab"]).await), ErrorCode::InvalidMessage);
    for content_type in [None, Some("text/html"), Some("image/png; charset=x")] {
        let other = store.receive(&claim(object(1, 1), 2), content_type, pieces(&["ab"])).await;
        assert_eq!(refused(other), ErrorCode::InvalidMessage, "{content_type:?}");
    }
    let broken = stream::iter([Ok(Bytes::from("a")), Err("the connection is gone")]);
    assert_eq!(
        refused(store.receive(&claim(object(1, 1), 2), Some("image/png"), broken).await),
        ErrorCode::InvalidMessage
    );
    assert_eq!(files(folder.path()), Vec::<String>::new());
    assert_eq!(store.stat(object(1, 1)).await, Ok(None));
    put(&store, object(1, 1), 2, &["ab"]).await.expect("and the next one is taken");
}

#[tokio::test]
async fn an_upload_that_is_dropped_or_whose_process_dies_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 4).await;
    let stuck = || pieces(&["ab"]).chain(stream::pending());
    let begun = claim(object(1, 1), 4);
    let dropped = tokio::time::timeout(Duration::from_millis(200), store.receive(&begun, Some("image/png"), stuck()));
    assert!(dropped.await.is_err());
    assert_eq!(files(folder.path()), Vec::<String>::new());
    // As a process leaves it that is killed.
    std::fs::write(folder.path().join("media/incoming/rest"), "half").unwrap();
    let store = open(folder.path(), 4).await;
    assert_eq!(files(folder.path()), Vec::<String>::new());
    put(&store, object(1, 1), 2, &["ab"]).await.unwrap();
}

#[tokio::test]
async fn the_first_bytes_stand_and_the_same_media_are_not_put_twice_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 4).await;
    let (begin, waits) = tokio::sync::oneshot::channel::<()>();
    let slow = stream::once(async move {
        waits.await.unwrap();
        Ok::<_, Infallible>(Bytes::from("first"))
    });
    let slow_claim = claim(object(1, 1), 5);
    let first = store.receive(&slow_claim, Some("image/png"), Box::pin(slow));
    let second = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let refused = put(&store, object(1, 1), 5, &["other"]).await.unwrap_err();
        begin.send(()).unwrap();
        refused
    };
    let (first, second) = tokio::join!(first, second);
    first.unwrap();
    assert_eq!((second.error, second.retry_after.is_some()), (ErrorCode::Overloaded, true));
    put(&store, object(1, 1), 5, &["later"]).await.expect("a retry is no error");
    assert_eq!(read(&store, object(1, 1)).await.as_deref(), Some("first"));
    assert_eq!(put(&store, object(1, 1), 5, &["longer"]).await.unwrap_err().error, ErrorCode::TooLarge);
    assert_eq!(files(folder.path()).len(), 1);
}

#[tokio::test]
async fn so_many_uploads_are_taken_at_once_and_room_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 1).await;
    let stuck = pieces(&["ab"]).chain(stream::pending());
    let begun = claim(object(1, 1), 4);
    {
        let mut first = Box::pin(store.receive(&begun, Some("image/png"), stuck));
        let waited = tokio::time::timeout(Duration::from_millis(100), &mut first).await;
        assert!(waited.is_err());
        let refused = put(&store, object(1, 2), 2, &["ab"]).await.unwrap_err();
        assert_eq!((refused.error, refused.retry_after), (ErrorCode::Overloaded, Some(1)));
    }
    put(&store, object(1, 2), 2, &["ab"]).await.unwrap();
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_told_and_the_store_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 4).await;
    // A file where the conversation's folder would be.
    let place = folder.path().join("media").join(Uuid::from_u128(1).to_string());
    std::fs::write(&place, "").unwrap();
    assert_eq!(put(&store, object(1, 1), 2, &["ab"]).await.unwrap_err().error, ErrorCode::StoreUnavailable);
    std::fs::remove_file(&place).unwrap();
    assert_eq!(files(folder.path()), Vec::<String>::new());
    put(&store, object(1, 1), 2, &["ab"]).await.unwrap();
}

#[tokio::test]
async fn what_is_there_is_listed_in_pages_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 4).await;
    let all = [object(1, 1), object(1, 2), object(2, 1), object(3, 1), object(3, 2)];
    for object in all {
        put(&store, object, 1, &["x"]).await.unwrap();
    }
    std::fs::write(folder.path().join("media/incoming/half"), "").unwrap();
    for rows in 1..=6 {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = store.objects(after, rows).await.unwrap();
            assert!(page.len() <= rows);
            let Some(last) = page.last() else { break };
            after = Some(*last);
            listed.extend(page);
        }
        assert_eq!(listed, all, "{rows} a page");
    }
}
