//! Presence is told in every region to whoever shares a conversation and asked, at most once a second, and a link that is
//! cut makes it unsure and tells of nobody.

use std::time::{Duration, Instant};

use chaos_tests::site::{Door, Keys, Served, Site};
use chaos_tests::{Mesh, Peer, until};
use hearth_client::TransportKind;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// What must come on a busy machine.
const LATE: Duration = Duration::from_secs(20);
/// The contract's time after a heal (G11).
const AGREED: Duration = Duration::from_secs(5);

async fn set(peer: &Peer, status: &str, device: Option<&str>) {
    let mut payload = json!({ "status": status });
    if let Some(device) = device {
        payload["deviceType"] = json!(device);
    }
    peer.frame(json!({ "type": "presence.set", "payload": payload })).await;
}

async fn state(peer: &Peer, state: &str) {
    peer.frame(json!({ "type": "client.state", "payload": { "state": state } })).await;
    // Frames of a session are taken in order: what is answered later was read later.
    peer.settled().await;
}

/// Subscribes, again too, and gives what is said of each.
async fn look(peer: &Peer, users: &[&str]) -> Vec<Value> {
    let id = chaos_tests::new_id();
    peer.frame(json!({ "type": "presence.subscribe", "id": id, "payload": { "userIds": users } })).await;
    let bulk = peer.expect_within("presence.bulk", LATE, |frame| frame["id"] == id.as_str()).await;
    let rows = bulk.value["payload"]["presences"].as_array().expect("presences").clone();
    assert_eq!(rows.iter().map(|row| row["userId"].as_str().expect("a user")).collect::<Vec<_>>(), users);
    rows
}

async fn told(peer: &Peer, user: &str, status: &str) -> (Instant, Value) {
    let matches = |frame: &Value| frame["payload"]["userId"] == user && frame["payload"]["status"] == status;
    let frame = peer.expect_within("presence.update", LATE, matches).await;
    (frame.at, frame.value["payload"].clone())
}

/// Until a region says this of a user, as a session there reads it.
async fn reads(peer: &Peer, user: &str, status: &str, certainty: &str) -> Value {
    let began = Instant::now();
    loop {
        let row = look(peer, &[user]).await.remove(0);
        if row["status"] == status && row["certainty"] == certainty {
            return row;
        }
        assert!(began.elapsed() < LATE, "{user} is not {status} and {certainty}: {row}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_is_told_in_every_region_to_whoever_shares_a_conversation_and_to_nobody_else() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let bob = Peer::connect_over(&mesh, "bob", 1, TransportKind::WebTransport).await;
    let eve = Peer::connect(&mesh, "eve", 1).await;
    let rows = look(&ann, &["bob", "cem", "eve", "nobody"]).await;
    let said: Vec<_> = rows.iter().map(|row| row["status"].as_str().expect("a status")).collect();
    assert_eq!(said, ["online", "offline", "offline", "offline"]);
    assert_eq!(rows[0]["regions"], json!([mesh.regions[1].id]));
    assert!(rows[0]["typingIn"].is_null() && rows[0]["certainty"] == "fresh");
    let without = |row: &Value| {
        let mut row = row.clone();
        row["userId"] = Value::Null;
        row
    };
    assert_eq!(without(&rows[2]), without(&rows[3]), "who may not be seen looks like nobody");
    set(&bob, "away", Some("mobile")).await;
    let (_, away) = told(&ann, "bob", "away").await;
    assert!(away["deviceType"] == "mobile" && away["lastSeen"].is_u64(), "{away}");
    // Devices and regions are joined.
    let other = Peer::connect(&mesh, "bob", 2).await;
    let (_, online) = told(&ann, "bob", "online").await;
    assert_eq!(online["regions"].as_array().map(Vec::len), Some(2));
    let cem = Peer::connect(&mesh, "cem", 2).await;
    told(&ann, "cem", "online").await;
    assert_eq!(look(&cem, &["ann", "bob"]).await[0]["status"], "online");
    other.leave().await;
    told(&ann, "bob", "away").await;
    bob.leave().await;
    let (_, offline) = told(&ann, "bob", "offline").await;
    assert!(offline["lastSeen"].is_u64() && offline["regions"] == json!([]), "{offline}");
    told(&cem, "bob", "offline").await;
    assert!(ann.payloads("presence.update").iter().all(|update| update["userId"] != "eve"));
    // Who comes to share a conversation is seen, and who is removed is not any more.
    let direct = json!({ "participantIds": ["eve"], "type": "direct" });
    let answer = mesh.rest("ann", 0, "POST", "/api/v1/conversations", Some(direct)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    told(&ann, "eve", "online").await;
    let path = format!("/api/v1/conversations/{group}/members/cem");
    assert_eq!(mesh.rest("ann", 0, "DELETE", &path, None).await.status, 204);
    let (_, hidden) = told(&ann, "cem", "offline").await;
    assert!(hidden.get("lastSeen").is_none(), "{hidden}");
    drop((ann, eve, cem));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_told_of_at_most_once_a_second_and_limits_are_refused_by_name() {
    let mesh = Mesh::quick(&[]).await;
    mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    look(&ann, &["bob"]).await;
    let began = Instant::now();
    let mut sets = 0;
    while began.elapsed() < Duration::from_secs(4) {
        set(&bob, if sets % 2 == 0 { "away" } else { "online" }, None).await;
        sets += 1;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    // An odd number of changes ends with the other status.
    set(&bob, "away", Some("web")).await;
    let web = |frame: &Value| frame["payload"]["deviceType"] == "web" && frame["payload"]["status"] == "away";
    ann.expect_within("presence.update", LATE, web).await;
    let updates: Vec<Instant> =
        ann.frames().iter().filter(|frame| frame.value["type"] == "presence.update").map(|frame| frame.at).collect();
    assert!(sets > 40 && updates.len() >= 2 && updates.len() <= 8, "{} updates of {sets}", updates.len());
    let users: Vec<String> = (0..501).map(|number| format!("user-{number}")).collect();
    ann.frame(json!({ "type": "presence.subscribe", "id": "many", "payload": { "userIds": users } })).await;
    let refused = ann.expect("error", |frame| frame["id"] == "many").await.value;
    assert_eq!(refused["payload"]["error"], "TOO_LARGE");
    assert!(refused["payload"]["limit"].as_str().is_some_and(|limit| limit.contains("presence_per_frame: 500")));
    for page in 0..20 {
        let users: Vec<String> = (0..500).map(|number| format!("user-{page}-{number}")).collect();
        let id = format!("page-{page}");
        ann.frame(json!({ "type": "presence.subscribe", "id": id, "payload": { "userIds": users } })).await;
        if page < 19 {
            ann.expect_within("presence.bulk", LATE, |frame| frame["id"] == id.as_str()).await;
        }
    }
    let refused = ann.expect_within("error", LATE, |frame| frame["id"] == "page-19").await.value;
    let limit = refused["payload"]["limit"].as_str().unwrap_or_default();
    assert!(limit.contains("presence_subscriptions: 10000"), "{refused}");
    ann.frame(json!({ "type": "presence.unsubscribe", "id": "end", "payload": { "userIds": ["bob"] } })).await;
    let empty = ann.expect_within("presence.bulk", LATE, |frame| frame["id"] == "end").await.value;
    assert_eq!(empty["payload"], json!({ "presences": [] }));
    let before = ann.payloads("presence.update").len();
    set(&bob, "online", None).await;
    let cem = Peer::connect(&mesh, "bob", 0).await;
    assert_eq!(look(&cem, &["ann"]).await[0]["status"], "online");
    assert_eq!(ann.payloads("presence.update").len(), before);
    drop((ann, bob, cem));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link_is_one_event_and_unknown_reads_and_all_agree_within_five_seconds_of_the_heal() {
    let mesh = Mesh::quick(&["--failover", "off"]).await;
    let others: Vec<String> = (0..10).map(|number| format!("bob{number}")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    mesh.group("ann", 0, &others).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let mut bobs = Vec::new();
    for other in &others {
        bobs.push(Peer::connect(&mesh, other, 1).await);
    }
    for other in &others {
        reads(&ann, other, "online", "fresh").await;
    }
    let seen = ann.frames().len();
    mesh.cut(0, 1).await;
    let down = |frame: &Value| {
        frame["payload"]["region"] == mesh.regions[1].id.as_str() && frame["payload"]["reachable"] == json!(false)
    };
    ann.expect_within("region.status", LATE, down).await;
    let rows = look(&ann, &others).await;
    for row in &rows {
        assert_eq!((&row["status"], &row["certainty"]), (&json!("online"), &json!("unknown")), "{row}");
    }
    // While the link is cut half of them leave, and others step away.
    for bob in bobs.drain(..5) {
        bob.leave().await;
    }
    for bob in &bobs {
        set(bob, "away", None).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let since = ann.since(seen);
    assert!(since.iter().all(|frame| frame["type"] != "presence.update"), "no storm");
    let events = since.iter().filter(|frame| frame["type"] == "region.status").count();
    assert_eq!(events, 1, "one event for the region");
    mesh.heal(0, 1).await;
    let healed = Instant::now();
    let mut last = healed;
    for (number, other) in others.iter().enumerate() {
        let (at, update) = told(&ann, other, if number < 5 { "offline" } else { "away" }).await;
        assert_eq!(update["certainty"], "fresh", "{update}");
        last = last.max(at);
    }
    let took = last.duration_since(healed);
    println!("all agree {took:?} after the heal");
    assert!(took < AGREED, "all agree only {took:?} after the heal");
    let up = |frame: &Value| frame["payload"]["reachable"] == json!(true);
    ann.expect_within("region.status", LATE, up).await;
    drop((ann, bobs));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_background_presence_and_typing_wait_and_only_the_latest_is_told_on_return() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let watch = Peer::connect(&mesh, "ann", 0).await;
    bob.say(&group, "before anybody types").await;
    for peer in [&ann, &watch] {
        reads(peer, "bob", "online", "fresh").await;
        peer.frame(json!({ "type": "conversation.view", "payload": { "conversationId": group } })).await;
        peer.settled().await;
    }
    state(&ann, "background").await;
    for status in ["away", "online", "away"] {
        set(&bob, status, None).await;
        told(&watch, "bob", status).await;
    }
    let types = |kind: &str| json!({ "type": kind, "payload": { "conversationId": group } });
    bob.frame(types("typing.start")).await;
    watch.expect_within("typing.update", LATE, |frame| frame["payload"]["isTyping"] == json!(true)).await;
    bob.frame(types("typing.stop")).await;
    watch.expect_within("typing.update", LATE, |frame| frame["payload"]["isTyping"] == json!(false)).await;
    ann.settled().await;
    assert!(ann.payloads("presence.update").is_empty() && ann.payloads("typing.update").is_empty());
    bob.say(&group, "a message is told in the background, too").await;
    ann.expect_within("message.new", LATE, |frame| frame["payload"]["kind"] == "message").await;
    state(&ann, "active").await;
    told(&ann, "bob", "away").await;
    ann.expect_within("typing.update", LATE, |frame| frame["payload"]["isTyping"] == json!(false)).await;
    assert_eq!((ann.payloads("presence.update").len(), ann.payloads("typing.update").len()), (1, 1));
    set(&bob, "online", None).await;
    told(&ann, "bob", "online").await;
    drop((ann, bob, watch));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_is_one_event_and_its_users_are_offline_since_they_were_seen_last_until_it_is_back() {
    let mesh = Mesh::quick(&["--processes", "--failover-after", "3s"]).await;
    mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    reads(&ann, "bob", "online", "fresh").await;
    let labels = format!("region=\"{}\",state=\"active\"", mesh.regions[1].id);
    until("it is in the map", LATE, || async { mesh.metric(0, "hearth_region_state", &labels).await > 0.0 }).await;
    until("it has its lease", LATE, || async { mesh.metric(1, "hearth_lease_seconds", "").await > 0.0 }).await;
    let seen = ann.frames().len();
    kill(Pid::from_raw(mesh.regions[1].pid.expect("a process")), Signal::SIGKILL).expect("a signal");
    let fenced = |is: bool| move |frame: &Value| frame["payload"]["fenced"] == json!(is);
    ann.expect_within("region.status", Duration::from_secs(60), fenced(true)).await;
    let row = reads(&ann, "bob", "offline", "stale").await;
    assert!(row["lastSeen"].is_u64() && row["asOf"].as_u64() <= row["lastSeen"].as_u64(), "{row}");
    assert!(ann.since(seen).iter().all(|frame| frame["type"] != "presence.update"), "no update a user");
    // Who begins now hears of it, too.
    let cem = Peer::connect(&mesh, "cem", 2).await;
    cem.expect_within("region.status", LATE, fenced(true)).await;
    assert_eq!(look(&cem, &["bob"]).await[0]["status"], "offline");
    drop(bob);
    mesh.start_region(1).await;
    ann.expect_within("region.status", Duration::from_secs(60), fenced(false)).await;
    let bob = Peer::connect(&mesh, "bob", 1).await;
    for peer in [&ann, &cem] {
        told(peer, "bob", "online").await;
        reads(peer, "bob", "online", "fresh").await;
    }
    drop((ann, bob, cem));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_falls_silent_is_offline_once_its_time_is_over_without_anybodys_help() {
    let site = Site::new([Door::Plain, Door::Plain], Keys::Secret).await;
    for index in [0, 1] {
        let text = std::fs::read_to_string(site.config(index)).expect("the configuration");
        let limits = "[limits]\nheartbeat_interval = \"1s\"\nheartbeat_timeout = \"3s\"\n";
        std::fs::write(site.config(index), format!("{text}{limits}")).expect("written");
    }
    let (first, second) = (Served::start(&site, 0).await, Served::start(&site, 1).await);
    until("the group is made", LATE, || async {
        let body = json!({ "name": "a story", "participantIds": ["bob"] });
        site.rest(Some("ann"), 0, "POST", "/api/v1/groups", Some(body), &[]).await.status == 201
    })
    .await;
    let ann = site.peer("ann", 0, site.token("ann", 600)).await;
    let bob = site.peer("bob", 1, site.token("bob", 600)).await;
    bob.expect_within("connected", LATE, |_| true).await;
    let began = Instant::now();
    reads(&ann, "bob", "online", "fresh").await;
    let offline = |frame: &Value| frame["type"] == "presence.update" && frame["payload"]["status"] == "offline";
    let gone = loop {
        ann.settled().await;
        if let Some(frame) = ann.take(offline) {
            break frame.at;
        }
        assert!(began.elapsed() < LATE, "it is not told");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let took = gone.duration_since(began);
    println!("offline after {took:?} of silence");
    assert!(took >= Duration::from_millis(2_500) && took < Duration::from_secs(8), "offline after {took:?}");
    drop((ann, bob));
    first.end().await;
    second.end().await;
}
