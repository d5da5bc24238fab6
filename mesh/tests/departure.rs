//! Five regions in one process, over real sockets: a user arrives where nobody held anything, and leaves again.

#[path = "support/regions.rs"]
mod regions;

use std::path::Path;
use std::time::Duration;

use hearth_config::Limits;
use hearth_mesh::RunningRegion;
use hearth_protocol::client::{Content, SendPayload};
use hearth_protocol::rest::{CreateGroup, HistoryQuery};
use hearth_protocol::{ConversationId, DeviceId, MessageId, UserId};
use region_core::{ApiCall, EdgeEvent, Opened, QueueBounds, Taken};
use serde_json::Value;
use uuid::Uuid;

use regions::{LATE, Setup, authority, until};

const REGIONS: [&str; 5] = ["ra", "rb", "rc", "rd", "re"];
const QUEUE: QueueBounds = QueueBounds { events: 1_024, bytes: 1024 * 1024 };
const TEXT: &str = "a text that only some regions may hold 5309271";

/// Regions that forget a conversation within seconds.
async fn start(data: &Path) -> Vec<RunningRegion> {
    let limits = Limits { resident_for: Duration::from_secs(2), ..Limits::default() };
    Setup { limits, ..Setup::new(&REGIONS, data) }.start(&authority()).await
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a user id")
}

/// Whether any file below a folder holds the text.
fn holds_text(folder: &Path) -> bool {
    std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds_text(&path);
        }
        std::fs::read(&path).is_ok_and(|bytes| bytes.windows(TEXT.len()).any(|window| window == TEXT.as_bytes()))
    })
}

async fn history(region: &RunningRegion, who: &str, id: ConversationId) -> (u16, Value) {
    let answer = region.handle.api(&user(who), ApiCall::History { id, query: HistoryQuery::default() }).await;
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
}

async fn send(opened: &Opened, region: &RunningRegion, id: ConversationId, text: &str) {
    let payload = SendPayload {
        message_id: MessageId(Uuid::new_v4()),
        conversation_id: id,
        content: Content::text(text),
        reply_to: None,
        expires_at: None,
        durability: None,
    };
    region.handle.send(&opened.connection, Some("s".to_owned()), hearth_protocol::client::Submission::Message(payload));
    wait_for(opened, "message.ack").await;
}

async fn wait_for(opened: &Opened, what: &str) {
    let wait = async {
        while let Taken::Events(events) = opened.connection.take().await {
            // What comes with it is nobody's: each wait is for what comes after a call of its own.
            let mut frames = events.iter().filter_map(EdgeEvent::frame);
            if frames.any(|frame| String::from_utf8_lossy(frame).contains(what)) {
                return;
            }
        }
        panic!("the connection overflowed before {what}");
    };
    tokio::time::timeout(LATE, wait).await.unwrap_or_else(|_| panic!("no {what} in time"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_holds_a_conversation_from_a_members_arrival_until_its_departure_and_no_byte_before_or_after() {
    let data = tempfile::tempdir().expect("a folder");
    let regions = start(data.path()).await;
    let (home, far) = (&regions[0], &regions[4]);
    let device = || DeviceId(Uuid::new_v4());
    let ann = home.handle.open(user("ann"), device(), QUEUE).await.expect("ann connects");
    let group = CreateGroup {
        name: "five".to_owned(),
        participant_ids: vec![user("bob")],
        kind: None,
        settings: hearth_protocol::rest::SettingsPatch::default(),
        partition_mode: None,
    };
    let answer = home.handle.api(&user("ann"), ApiCall::CreateGroup { group, key: Uuid::new_v4(), keyed: false }).await;
    let row: Value = serde_json::from_slice(&answer.body).expect("a row");
    assert_eq!(answer.status, 201, "{row}");
    let id: ConversationId = row["conversationId"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    send(&ann, home, id, TEXT).await;
    let folder = |index: usize| data.path().join(REGIONS[index]);
    until("a voter holds the text", async || holds_text(&folder(0)) && holds_text(&folder(1))).await;
    assert!(!holds_text(&folder(3)), "a region that neither votes nor follows holds the text");
    assert!(!holds_text(&folder(4)), "a region that neither votes nor follows holds the text");

    // Without a resident member the far region answers from a replica, and still holds nothing.
    let (status, body) = history(far, "bob", id).await;
    assert_eq!((status, body["messages"].as_array().map(Vec::len)), (200, Some(1)), "{body}");
    assert!(!holds_text(&folder(4)), "a proxied read left the text on disk");

    let bob = far.handle.open(user("bob"), device(), QUEUE).await.expect("bob connects");
    until("the follower holds the text", async || holds_text(&folder(4))).await;
    send(&ann, home, id, "live to the follower").await;
    wait_for(&bob, "live to the follower").await;

    far.handle.close(&bob.connection);
    let gone = async {
        loop {
            let answer = far.handle.api(&user("bob"), ApiCall::Feed { cursor: None, limit: None }).await;
            let copy = far.handle.holds_copy(id).await;
            if answer.status == 200 && !copy {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.expect("the copy is dropped after the departure");
    // And a return makes it follow again, with everything.
    let _again = far.handle.open(user("bob"), device(), QUEUE).await.expect("bob connects again");
    let back = async {
        while !far.handle.holds_copy(id).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), back).await.expect("the copy is back");
    let (status, body) = history(far, "bob", id).await;
    assert_eq!((status, body["messages"].as_array().map(Vec::len)), (200, Some(2)), "{body}");
    for region in regions {
        region.stop().await;
    }
}
