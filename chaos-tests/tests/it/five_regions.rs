//! Five regions: a region keeps what it votes for or follows, and nothing else.

use std::path::Path;
use std::time::Duration;

use chaos_tests::{Mesh, Peer, until};
use serde_json::{Value, json};

/// Whether any file under `folder` holds `text`.
fn holds(folder: &Path, text: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.filter_map(Result::ok).map(|entry| entry.path()).any(|path| {
        if path.is_dir() {
            return holds(&path, text);
        }
        // A file that a compaction has just removed holds nothing.
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

async fn voters(mesh: &Mesh, user: &str, conversation: &str) -> Vec<usize> {
    let row = mesh.rest(user, 0, "GET", &format!("/api/v1/conversations/{conversation}"), None).await.body;
    let named = row["voters"].as_array().expect("voters").clone();
    let index = |id: &Value| mesh.regions.iter().position(|region| *id == region.id.as_str());
    named.iter().filter_map(index).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_without_members_holds_no_byte_of_a_text_until_one_arrives() {
    let mesh = Mesh::quick(&["--regions", "a,b,c,d,e"]).await;
    let group = mesh.group("ann", 0, &["dora"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let text = format!("a text to look for {}", chaos_tests::new_id());
    ann.say(&group, &text).await;
    let voters = voters(&mesh, "ann", &group).await;
    assert_eq!(voters.len(), 3, "three of five vote");
    for voter in &voters {
        let data = &mesh.regions[*voter].data;
        until("every voter has the text on disk", Duration::from_secs(15), || async { holds(data, &text) }).await;
    }
    let others: Vec<usize> = (0..5).filter(|region| !voters.contains(region)).collect();
    for other in &others {
        assert!(!holds(&mesh.regions[*other].data, &text), "region {other} holds a text that is not its");
    }
    let arrival = others[0];
    let dora = Peer::connect(&mesh, "dora", arrival).await;
    let hello = dora.frames()[0].value.clone();
    if hello["feed"] != "complete" {
        dora.expect_within("feed.complete", Duration::from_secs(15), |_| true).await;
    }
    let feed = mesh.rest("dora", arrival, "GET", "/api/v1/conversations", None).await.body;
    assert_eq!(feed["conversations"][0]["conversationId"], group.as_str(), "{feed}");
    dora.frame(json!({ "type": "history.request", "id": "h", "payload": { "conversationId": group, "limit": 10 } }))
        .await;
    let history = dora.expect("history.response", |frame| frame["id"] == "h").await.value;
    assert_eq!(history["payload"]["messages"][0]["content"]["text"], text.as_str());
    let live = ann.say(&group, "a text for one who has arrived").await;
    dora.expect("message.new", |frame| frame["payload"]["messageId"] == live["messageId"]).await;
    let data = &mesh.regions[arrival].data;
    until("the region of the arrival follows", Duration::from_secs(15), || async { holds(data, &text) }).await;
    for other in &others[1..] {
        assert!(!holds(&mesh.regions[*other].data, &text), "region {other} holds a text that is not its");
    }
    dora.say(&group, "an answer from where she arrived").await;
    drop((ann, dora));
    mesh.end().await;
}
