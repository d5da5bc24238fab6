//! Partition modes over real sockets: what an edge says while the link to a conversation's home is cut.

use std::time::Duration;

use chaos_tests::{Mesh, Peer, until};
use serde_json::{Value, json};

/// The contract's five seconds, and room for a busy machine.
const NOTICED: Duration = Duration::from_secs(8);

/// Cuts the home's link, and waits until the session at the other end is told.
async fn cut(mesh: &Mesh, peer: &Peer) {
    mesh.cut(0, 1).await;
    told(mesh, peer, false).await;
}

async fn heal(mesh: &Mesh, peer: &Peer) {
    mesh.heal(0, 1).await;
    told(mesh, peer, true).await;
}

async fn told(mesh: &Mesh, peer: &Peer, reachable: bool) {
    let home = mesh.regions[0].id.clone();
    let status =
        |frame: &Value| frame["payload"]["region"] == home.as_str() && frame["payload"]["reachable"] == reachable;
    peer.expect_within("region.status", NOTICED, status).await;
}

/// The code that a send is refused with.
async fn refused(peer: &Peer, group: &str, text: &str) -> (String, Value) {
    let message = peer.send(group, text).await;
    let frame = peer.expect_within("error", NOTICED, |frame| frame["id"] == message.as_str()).await;
    (message, frame.value["payload"]["error"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_cut_link_read_only_refuses_sends_and_fail_refuses_reads_too_and_a_heal_ends_both() {
    let mesh = Mesh::quick(&[]).await;
    let body = json!({ "name": "a story", "participantIds": ["bob", "cem"], "partitionMode": "read-only" });
    let made = mesh.rest("ann", 0, "POST", "/api/v1/groups", Some(body)).await;
    assert_eq!((made.status, &made.body["partitionMode"]), (201, &json!("read-only")), "{made:?}");
    let group = made.body["conversationId"].as_str().expect("an id").to_owned();
    let path = format!("/api/v1/conversations/{group}");
    let (bob, cem) = (Peer::connect(&mesh, "bob", 1).await, Peer::connect(&mesh, "cem", 2).await);
    bob.say(&group, "before the cut").await;

    cut(&mesh, &bob).await;
    let (message, code) = refused(&bob, &group, "while it is read-only").await;
    assert_eq!(code, "READ_ONLY");
    assert_eq!(mesh.history("bob", 1, &group).await.len(), 1, "reads go on");
    cem.say(&group, "the third region reaches the home").await;
    heal(&mesh, &bob).await;
    bob.send_as(&group, "while it is read-only", &message).await;
    assert!(bob.acked(&message).await["duplicate"].is_null(), "it was never taken");

    let patched = mesh.rest("ann", 0, "PATCH", &path, Some(json!({ "partitionMode": "fail" }))).await;
    assert_eq!((patched.status, &patched.body["partitionMode"]), (200, &json!("fail")), "{patched:?}");
    let row = |frame: &Value| frame["payload"]["partitionMode"] == "fail";
    bob.expect_within("conversation.updated", NOTICED, row).await;
    cut(&mesh, &bob).await;
    let (_, code) = refused(&bob, &group, "while it fails").await;
    assert_eq!(code, "HOME_UNREACHABLE");
    for read in [path.clone(), format!("{path}/messages"), format!("{path}/members")] {
        let answer = mesh.rest("bob", 1, "GET", &read, None).await;
        assert_eq!((answer.status, &answer.body["error"]), (503, &json!("HOME_UNREACHABLE")), "{read}: {answer:?}");
        let elsewhere = mesh.rest("cem", 2, "GET", &read, None).await;
        assert_eq!(elsewhere.status, 200, "{read}: {elsewhere:?}");
    }
    let stranger = mesh.rest("dan", 1, "GET", &path, None).await;
    assert_eq!(stranger.status, 404, "{stranger:?}");
    let sync = json!({ "conversations": [{ "conversationId": group, "lastSequence": 0 }] });
    let synced = mesh.rest("bob", 1, "POST", "/api/v1/sync", Some(sync)).await;
    assert_eq!(synced.body["refused"][0]["error"], "HOME_UNREACHABLE", "{synced:?}");
    let feed = mesh.rest("bob", 1, "GET", "/api/v1/conversations", None).await;
    assert_eq!(feed.body["feed"], "partial", "{feed:?}");
    assert_eq!(mesh.metric(1, "hearth_home_parked", "").await, 0.0, "nothing is parked in either mode");

    heal(&mesh, &bob).await;
    bob.say(&group, "after the heal").await;
    until("reads go on", NOTICED, || async {
        mesh.try_history("bob", 1, &group).await.is_ok_and(|rows| rows.len() == 5)
    })
    .await;
    drop((bob, cem));
    mesh.end().await;
}
