//! Who is in a conversation, what they see of it, and the feed that tells them.

use std::time::Duration;

use chaos_tests::{Mesh, Peer, new_id, until, web};
use serde_json::{Value, json};

fn of(conversation: &str) -> impl Fn(&Value) -> bool {
    move |frame: &Value| frame["payload"]["conversationId"] == conversation
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_added_hears_of_it_and_who_is_removed_or_left_hears_nothing_more() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob, cem) = (
        Peer::connect(&mesh, "ann", 0).await,
        Peer::connect(&mesh, "bob", 1).await,
        Peer::connect(&mesh, "cem", 2).await,
    );
    ann.say(&group, "before cem came").await;
    let members = format!("/api/v1/conversations/{group}/members");
    let added = mesh.rest("ann", 0, "POST", &members, Some(json!({ "userIds": ["cem"] }))).await;
    assert_eq!(added.status, 200, "{added:?}");
    cem.expect("conversation.new", of(&group)).await;
    bob.expect("message.new", |frame| {
        frame["payload"]["kind"] == "member" && frame["payload"]["change"]["userIds"] == json!(["cem"])
    })
    .await;
    let seen = ann.say(&group, "now with cem").await;
    cem.expect("message.new", |frame| frame["payload"]["sequenceNumber"] == seen["sequenceNumber"]).await;
    let removed = mesh.rest("ann", 0, "DELETE", &format!("{members}/cem"), None).await;
    assert_eq!(removed.status, 204, "{removed:?}");
    let left = mesh.rest("bob", 1, "DELETE", &format!("{members}/bob"), None).await;
    assert_eq!(left.status, 204, "{left:?}");
    let after = ann.say(&group, "only ann may read this").await;
    let direct = mesh
        .rest("ann", 0, "POST", "/api/v1/conversations", Some(json!({ "type": "direct", "participantIds": ["cem"] })))
        .await;
    let direct = direct.body["conversationId"].as_str().expect("an id").to_owned();
    ann.say(&direct, "what comes later on another way").await;
    cem.expect("message.new", of(&direct)).await;
    cem.settled().await;
    bob.settled().await;
    for peer in [&bob, &cem] {
        let later = peer.payloads("message.new").into_iter().any(|row| row["messageId"] == after["messageId"]);
        assert!(!later, "{} got a message after it had gone", peer.user);
    }
    let answer = mesh.rest("cem", 2, "GET", &format!("/api/v1/conversations/{group}/messages"), None).await;
    assert_eq!(answer.status, 404, "{answer:?}");
    drop((ann, bob, cem));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_of_a_group_without_history_is_told_what_is_withheld() {
    let mesh = Mesh::quick(&[]).await;
    let body = json!({ "name": "a story", "participantIds": ["bob"], "settings": { "historyForNewMembers": "none" } });
    let made = mesh.rest("ann", 0, "POST", "/api/v1/groups", Some(body)).await;
    assert_eq!(made.status, 201, "{made:?}");
    let group = made.body["conversationId"].as_str().expect("an id").to_owned();
    let ann = Peer::connect(&mesh, "ann", 0).await;
    for number in 0..3 {
        ann.say(&group, &format!("before cem came, {number}")).await;
    }
    let path = format!("/api/v1/conversations/{group}");
    let added = mesh.rest("ann", 0, "POST", &format!("{path}/members"), Some(json!({ "userIds": ["cem"] }))).await;
    assert_eq!(added.status, 200, "{added:?}");
    ann.say(&group, "now with cem").await;
    mesh.agreed("bob", &[0, 1, 2], &group, 5).await;
    for region in 0..3 {
        let page = mesh.rest("cem", region, "GET", &format!("{path}/messages"), None).await;
        assert_eq!(page.status, 200, "{page:?}");
        assert!(!page.text.contains("before cem came"), "region {region} shows what it must withhold");
        assert_eq!(page.body["withheld"][0]["from"], 1, "{}", page.body["withheld"]);
        assert!(page.text.contains("now with cem"));
    }
    drop(ann);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_a_group_reach_its_members_everywhere() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let path = format!("/api/v1/conversations/{group}");
    let body = json!({ "name": "another name", "durability": "majority" });
    let patched = mesh.rest("ann", 0, "PATCH", &path, Some(body)).await;
    assert_eq!(patched.status, 200, "{patched:?}");
    bob.expect("conversation.updated", |frame| frame["payload"]["name"] == "another name").await;
    until("every region shows the change", Duration::from_secs(15), || async {
        let row = mesh.rest("bob", 2, "GET", &path, None).await.body;
        row["name"] == "another name" && row["durability"] == "majority"
    })
    .await;
    let ack = ann.say(&group, "at the new level").await;
    assert!(ack["durability"]["regions"].as_array().is_some_and(|regions| regions.len() >= 2), "{ack}");
    let foreign = mesh.rest("bob", 1, "PATCH", &path, Some(json!({ "name": "by a plain member" }))).await;
    assert_eq!(foreign.status, 403, "{foreign:?}");
    let user = mesh.rest("ann", 0, "PATCH", "/api/v1/users/me", Some(json!({ "displayName": "Ann A." }))).await;
    assert_eq!(user.status, 200, "{user:?}");
    until("every region knows the user's name", Duration::from_secs(15), || async {
        mesh.rest("bob", 1, "GET", "/api/v1/users/ann", None).await.body["displayName"] == "Ann A."
    })
    .await;
    drop((ann, bob));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_conversation_begun_in_two_regions_at_once_is_one() {
    let mesh = Mesh::quick(&[]).await;
    for round in 0..10 {
        let (one, other) = (format!("ann{round}"), format!("bob{round}"));
        let body = |with: &str| Some(json!({ "type": "direct", "participantIds": [with] }));
        let (here, there) = tokio::join!(
            mesh.rest(&one, 0, "POST", "/api/v1/conversations", body(&other)),
            mesh.rest(&other, 1, "POST", "/api/v1/conversations", body(&one))
        );
        assert!(here.status <= 201 && there.status <= 201, "{here:?} {there:?}");
        assert_eq!(here.body["conversationId"], there.body["conversationId"]);
        let direct = here.body["conversationId"].as_str().expect("an id").to_owned();
        let (ann, bob) = (Peer::connect(&mesh, &one, 0).await, Peer::connect(&mesh, &other, 1).await);
        let (mine, yours) = tokio::join!(ann.say(&direct, "said by the one"), bob.say(&direct, "said by the other"));
        assert_eq!((&mine["home"], &mine["epoch"]), (&yours["home"], &yours["epoch"]), "one home");
        mesh.agreed(&one, &[0, 1, 2], &direct, 2).await;
    }
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_with_an_idempotency_key_happens_once_wherever_it_is_retried() {
    let mesh = Mesh::quick(&[]).await;
    let token = mesh.token("ann", 0).await;
    let write = async |region: usize, path: &str, key: &str, body: Value| {
        let base = &mesh.regions[region].http;
        web::call(base, "POST", path, Some(body), Some(&token), &[("Idempotency-Key", key)]).await
    };
    let key = new_id();
    let body = json!({ "name": "a story", "participantIds": ["bob"] });
    let first = write(0, "/api/v1/groups", &key, body.clone()).await;
    let again = write(0, "/api/v1/groups", &key, body.clone()).await;
    assert!(first.status == 201 && again.status <= 201, "{first:?} {again:?}");
    assert_eq!(first.body["conversationId"], again.body["conversationId"]);
    let elsewhere = write(1, "/api/v1/groups", &key, body).await;
    assert_eq!(first.body["conversationId"], elsewhere.body["conversationId"], "{elsewhere:?}");
    let group = first.body["conversationId"].as_str().expect("an id").to_owned();
    let (path, key) = (format!("/api/v1/conversations/{group}/members"), new_id());
    for region in [1, 2, 0] {
        let added = write(region, &path, &key, json!({ "userIds": ["cem"] })).await;
        assert_eq!(added.status, 200, "{added:?}");
    }
    let rows = mesh.agreed("ann", &[0, 1, 2], &group, 1).await;
    assert_eq!(rows.len(), 1, "one entry: {rows:?}");
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_feed_pages_through_every_conversation_and_a_cursor_never_hides_one_in_any_region() {
    let mesh = Mesh::quick(&[]).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(mesh.group("ann", 0, &["bob"]).await);
    }
    let page = async |region: usize, cursor: &str| {
        let cursor: String = cursor.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = format!("/api/v1/conversations?limit=2&cursor={cursor}");
        let answer = mesh.rest("bob", region, "GET", &path, None).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    };
    let ids = |body: &Value| -> Vec<String> {
        let rows = body["conversations"].as_array().expect("rows").iter();
        rows.filter_map(|row| row["conversationId"].as_str().map(str::to_owned)).collect()
    };
    let whole = async |region: usize| {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        for _ in 0..10 {
            let body = page(region, &cursor).await;
            seen.extend(ids(&body));
            body["cursor"].as_str().expect("a cursor").clone_into(&mut cursor);
            if body["hasMore"] != json!(true) {
                return (seen, cursor);
            }
        }
        panic!("the feed does not end");
    };
    made.sort();
    for region in 0..3 {
        until("the feed has every group, each once", Duration::from_secs(15), || async {
            let (mut seen, _) = whole(region).await;
            seen.sort();
            seen == made
        })
        .await;
    }
    let cursor = whole(1).await.1;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    ann.say(&made[2], "a change for the feed").await;
    until("the change alone comes after the cursor", Duration::from_secs(15), || async {
        ids(&page(1, &cursor).await) == [made[2].clone()]
    })
    .await;
    for unplaceable in ["bm8gc3VjaCBjdXJzb3I", "?!"] {
        assert_eq!(ids(&page(2, unplaceable).await).len(), 2, "a cursor that cannot be placed begins again");
    }
    let elsewhere = async || {
        let mut rest = page(2, &cursor).await;
        let mut seen = ids(&rest);
        for _ in 0..10 {
            if rest["hasMore"] != json!(true) {
                break;
            }
            rest = page(2, rest["cursor"].as_str().expect("a cursor")).await;
            seen.extend(ids(&rest));
        }
        seen
    };
    until("the change comes after the cursor at another region too", Duration::from_secs(15), || async {
        elsewhere().await.contains(&made[2])
    })
    .await;
    drop(ann);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_and_settings_are_changed_from_every_region_and_the_last_admin_stays() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let bob = Peer::connect(&mesh, "bob", 1).await;
    let path = format!("/api/v1/conversations/{group}");
    let member = |user: &str| format!("{path}/members/{user}");
    let patch =
        async |by: &str, region: usize, path: &str, body: Value| mesh.rest(by, region, "PATCH", path, Some(body)).await;
    let last = mesh.rest("ann", 0, "DELETE", &member("ann"), None).await;
    assert_eq!((last.status, &last.body["error"]), (403, &json!("FORBIDDEN")), "{last:?}");
    assert_eq!(patch("bob", 1, &member("bob"), json!({ "role": "admin" })).await.status, 403);
    let promoted = patch("ann", 2, &member("bob"), json!({ "role": "admin" })).await;
    assert_eq!(promoted.status, 200, "{promoted:?}");
    bob.expect("message.new", |frame| {
        frame["payload"]["change"] == json!({ "action": "role", "by": "ann", "role": "admin", "userIds": ["bob"] })
    })
    .await;
    bob.expect("conversation.updated", |frame| frame["payload"]["role"] == "admin").await;
    let settings = json!({ "settings": { "allowMemberInvites": false, "onlyAdminsCanPost": true } });
    let patched = patch("bob", 1, &path, settings).await;
    assert_eq!(patched.body["settings"]["allowMemberInvites"], false, "{patched:?}");
    let invite = json!({ "userIds": ["dan"] });
    let invited = mesh.rest("cem", 2, "POST", &format!("{path}/members"), Some(invite)).await;
    assert_eq!(invited.status, 403, "{invited:?}");
    let left = mesh.rest("ann", 0, "DELETE", &member("me"), None).await;
    assert_eq!(left.status, 204, "{left:?}");
    until("who left sees nothing of it in any region", Duration::from_secs(15), || async {
        let mut gone = true;
        for region in 0..3 {
            for part in ["", "/members", "/messages", "/messages/1/edits"] {
                gone &= mesh.rest("ann", region, "GET", &format!("{path}{part}"), None).await.status == 404;
            }
        }
        gone
    })
    .await;
    assert_eq!(patch("bob", 2, &member("bob"), json!({ "role": "member" })).await.status, 403);
    drop(bob);
    mesh.end().await;
}
