//! Regions in one process, over real sockets: how media end that nobody shows, and what becomes of links and of room.

#[path = "support/regions.rs"]
mod regions;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_config::{Limits, MediaSection};
use hearth_mesh::RunningRegion;
use hearth_protocol::client::{Asked, ChangePayload, Content, ContentType, SendPayload, Submission};
use hearth_protocol::media::{CreateMedia, MediaDownload, MediaUpload};
use hearth_protocol::rest::CreateGroup;
use hearth_protocol::{ConversationId, DeviceId, MessageId, UserId};
use region_core::{ApiCall, EdgeEvent, Opened, QueueBounds, Taken};
use serde_json::Value;
use uuid::Uuid;

use regions::{LATE, Setup, authority, until};

const QUEUE: QueueBounds = QueueBounds { events: 1_024, bytes: 1024 * 1024 };

/// Regions that forget a conversation and sweep within seconds.
async fn start(names: &[&str], data: &Path, media: MediaSection) -> Vec<RunningRegion> {
    let (resident_for, content_sweep) = (Duration::from_secs(2), Duration::from_secs(1));
    let limits = Limits { resident_for, content_sweep, ..Limits::default() };
    Setup { limits, media, ..Setup::new(names, data) }.start(&authority()).await
}

/// Runs a test over a folder that stays until the last thread of its regions is done: a store may be rewriting its files
/// when its region is stopped.
fn over_a_folder(test: impl AsyncFnOnce(PathBuf)) {
    let data = tempfile::tempdir().expect("a folder");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(test(data.path().to_owned()));
    drop(runtime);
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a user id")
}

async fn open(region: &RunningRegion, who: &str) -> Opened {
    region.handle.open(user(who), DeviceId(Uuid::new_v4()), QUEUE).await.expect("it connects")
}

async fn group(region: &RunningRegion) -> ConversationId {
    let group = CreateGroup {
        name: "a test".to_owned(),
        participant_ids: vec![user("bob")],
        kind: None,
        settings: hearth_protocol::rest::SettingsPatch::default(),
        partition_mode: None,
    };
    let call = ApiCall::CreateGroup { group, key: Uuid::new_v4(), keyed: false };
    let answer = region.handle.api(&user("ann"), call).await;
    let row: Value = serde_json::from_slice(&answer.body).expect("a row");
    row["conversationId"].as_str().and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("{row}"))
}

async fn ask(region: &RunningRegion, who: &str, id: ConversationId, size: u64) -> Result<MediaUpload, Value> {
    let content_type = "image/png".to_owned();
    let media = CreateMedia { conversation_id: id, content_type, size, name: None };
    let answer = region.handle.api(&user(who), ApiCall::CreateMedia { media, key: Uuid::new_v4() }).await;
    match answer.status {
        201 => Ok(serde_json::from_slice(&answer.body).expect("an upload")),
        _ => Err(serde_json::from_slice(&answer.body).expect("a refusal")),
    }
}

/// Status and text of what comes for a link.
async fn by_link(region: &RunningRegion, method: &str, url: &str, body: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().timeout(LATE).build().expect("a client");
    let request = client.request(method.parse().expect("a method"), format!("http://{}{url}", region.http));
    let answer = request.header("content-type", "image/png").body(body.to_owned()).send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a body"))
}

async fn put(region: &RunningRegion, who: &str, id: ConversationId, bytes: &str) -> MediaUpload {
    let upload = ask(region, who, id, bytes.len() as u64).await.unwrap_or_else(|refusal| panic!("{refusal}"));
    let (status, text) = by_link(region, "PUT", &upload.upload.url, bytes).await;
    assert_eq!(status, 200, "{text}");
    upload
}

async fn link(region: &RunningRegion, who: &str, upload: &MediaUpload) -> (u16, Option<MediaDownload>) {
    let call = ApiCall::MediaLink { id: upload.conversation_id, media: upload.media_id.clone(), name: None };
    let answer = region.handle.api(&user(who), call).await;
    (answer.status, serde_json::from_slice(&answer.body).ok())
}

async fn submit(opened: &Opened, region: &RunningRegion, sent: Submission) {
    region.handle.send(&opened.connection, Some("s".to_owned()), sent);
    let acked = async {
        while let Taken::Events(events) = opened.connection.take().await {
            let frames = events.iter().filter_map(EdgeEvent::frame).map(|frame| String::from_utf8_lossy(frame));
            let frames: Vec<_> = frames.collect();
            assert!(!frames.iter().any(|frame| frame.contains("\"error\"")), "{frames:?}");
            if frames.iter().any(|frame| frame.contains("message.ack")) {
                return;
            }
        }
        panic!("the connection overflowed");
    };
    tokio::time::timeout(LATE, acked).await.expect("an ack");
}

async fn send(opened: &Opened, region: &RunningRegion, upload: &MediaUpload) -> MessageId {
    let message_id = MessageId(Uuid::new_v4());
    let mut content = Content::text("a picture");
    (content.kind, content.media_url) = (ContentType::Image, Some(upload.media_url.clone()));
    let payload = SendPayload {
        message_id,
        conversation_id: upload.conversation_id,
        content,
        reply_to: None,
        expires_at: None,
        durability: None,
    };
    submit(opened, region, Submission::Message(payload)).await;
    message_id
}

/// Names of files in a region's folder of media.
fn files(data: &Path, region: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![data.join(region).join("media")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    found
}

#[test]
fn media_go_with_their_message_though_their_region_does_not_hold_the_conversation_any_more() {
    over_a_folder(async move |data| departed(&data).await);
}

async fn departed(data: &Path) {
    let names = ["ra", "rb", "rc", "rd", "re"];
    let regions = start(&names, data, MediaSection::default()).await;
    let (home, far) = (&regions[0], &regions[4]);
    let (ann, bob) = (open(home, "ann").await, open(far, "bob").await);
    let id = group(home).await;
    until("the far region follows", async || far.handle.holds_copy(id).await).await;
    let (goes, stays) = (put(far, "bob", id, "goes").await, put(far, "bob", id, "stays").await);
    let message = send(&bob, far, &goes).await;
    send(&bob, far, &stays).await;
    far.handle.close(&bob.connection);
    until("the copy is dropped", async || {
        far.handle.api(&user("bob"), ApiCall::Feed { cursor: None, limit: None }).await;
        !far.handle.holds_copy(id).await
    })
    .await;
    for upload in [&goes, &stays] {
        let (status, given) = link(home, "ann", upload).await;
        assert_eq!((status, given.map(|given| given.region.to_string())), (200, Some("re".to_owned())));
        assert_eq!(link(&regions[3], "bob", upload).await.0, 200, "from a region that holds neither");
        assert_eq!(link(&regions[3], "dan", upload).await.0, 404);
    }
    // Twice what a sweep needs: nothing goes while a message shows it.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(files(data, "re").len(), 2);
    // An admin may take away what others wrote.
    let delete = ChangePayload {
        conversation_id: id,
        target_message_id: message,
        message_id: MessageId(Uuid::new_v4()),
        what: Asked::Delete,
    };
    submit(&ann, home, Submission::Change(delete)).await;
    assert_eq!(link(home, "ann", &goes).await.0, 404, "it is shown no more");
    until("the bytes are gone", async || files(data, "re") == [stays.media_id.id.to_string()]).await;
    assert_eq!(link(home, "ann", &stays).await.0, 200);
    for region in regions {
        region.stop().await;
    }
}

#[test]
fn what_no_message_carries_goes_in_its_time_and_what_nobody_remembers_at_the_start() {
    over_a_folder(async move |data| unused(&data).await);
}

async fn unused(data: &Path) {
    let media = MediaSection { unused_for: Duration::from_secs(5), ..MediaSection::default() };
    let regions = start(&["ra"], data, media.clone()).await;
    let ann = open(&regions[0], "ann").await;
    let id = group(&regions[0]).await;
    let (used, unused) = (put(&regions[0], "ann", id, "used").await, put(&regions[0], "ann", id, "unused").await);
    send(&ann, &regions[0], &used).await;
    assert_eq!(link(&regions[0], "bob", &used).await.0, 200);
    until("what is not used is gone", async || files(data, "ra") == [used.media_id.id.to_string()]).await;
    assert_eq!((link(&regions[0], "ann", &unused).await.0, link(&regions[0], "bob", &used).await.0), (404, 200));
    drop(ann);
    for region in regions {
        region.stop().await;
    }
    // As a store leaves it that was restored from before.
    let folder = data.join("ra/media").join(Uuid::new_v4().to_string());
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join(Uuid::new_v4().to_string()), "forgotten").expect("a file");
    let regions = start(&["ra"], data, media).await;
    until("what nobody remembers is gone", async || files(data, "ra") == [used.media_id.id.to_string()]).await;
    assert_eq!(link(&regions[0], "bob", &used).await.0, 200);
    for region in regions {
        region.stop().await;
    }
}

#[test]
fn links_end_with_their_time_and_a_region_that_is_full_refuses_until_there_is_room() {
    over_a_folder(async move |data| links(&data).await);
}

async fn links(data: &Path) {
    let second = Duration::from_secs(1);
    let media = MediaSection { kept_bytes: 20, link_for: second, upload_for: second, ..MediaSection::default() };
    let regions = start(&["ra"], data, media).await;
    let region = &regions[0];
    let ann = open(region, "ann").await;
    let id = group(region).await;
    let late = ask(region, "ann", id, 5).await.expect("a link");
    let upload = put(region, "ann", id, "ten bytes!").await;
    let message = send(&ann, region, &upload).await;
    let given = link(region, "bob", &upload).await.1.expect("a link").url;
    assert_eq!(by_link(region, "GET", &given, "").await, (200, "ten bytes!".to_owned()));
    tokio::time::sleep(second * 3 / 2).await;
    for (method, url) in [("GET", &given), ("PUT", &late.upload.url)] {
        let (status, text) = by_link(region, method, url, "fives").await;
        assert!(status == 410 && text.contains("EXPIRED"), "{method}: {status} {text}");
    }
    let given = link(region, "bob", &upload).await.1.expect("another link").url;
    assert_eq!(by_link(region, "GET", &given, "").await.0, 200);
    // Five bytes may still come, ten are there, twenty are all.
    let refused = ask(region, "ann", id, 6).await.expect_err("there is no room");
    assert!(refused["error"] == "OVERLOADED" && refused["retryAfter"].is_u64(), "{refused}");
    assert!(refused["limit"].as_str().is_some_and(|limit| limit.contains("20 bytes")), "{refused}");
    ask(region, "ann", id, 5).await.expect("so much fits");
    ask(region, "ann", id, 1).await.expect_err("and no more");
    let delete = ChangePayload {
        conversation_id: id,
        target_message_id: message,
        message_id: MessageId(Uuid::new_v4()),
        what: Asked::Delete,
    };
    submit(&ann, region, Submission::Change(delete)).await;
    until("there is room again", async || ask(region, "ann", id, 10).await.is_ok()).await;
    for region in regions {
        region.stop().await;
    }
}
