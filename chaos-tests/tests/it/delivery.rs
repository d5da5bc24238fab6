//! Where a message is on its way to a user: each step with its time and what holds it up, over real sockets in three
//! regions, asked by a frame and on the command line.

use std::path::Path;
use std::time::Duration;

use chaos_tests::{Auth, Exit, Mesh, Peer, new_id, run, until, web};
use hearth_client::TransportKind;
use serde_json::{Value, json};

/// What must come after a cut, a heal or a restart, on a busy machine.
const LATE: Duration = Duration::from_secs(30);

/// What a region answers to `delivery.explain`.
async fn answer(peer: &Peer, payload: Value) -> Value {
    let id = new_id();
    peer.frame(json!({ "type": "delivery.explain", "id": id, "payload": payload })).await;
    peer.first("answer to a question", LATE, |frame| frame["id"] == id.as_str()).await.value
}

/// The explanation of a message to a user.
async fn explained(peer: &Peer, conversation: &str, message: &str, user: &str) -> Value {
    let asked = json!({ "conversationId": conversation, "messageId": message, "userId": user });
    let frame = answer(peer, asked).await;
    assert_eq!(frame["type"], "delivery.explanation", "{frame}");
    frame["payload"].clone()
}

/// The explanation once it is in a state.
async fn explained_as(peer: &Peer, conversation: &str, message: &str, user: &str, state: &str) -> Value {
    until(&format!("the message is {state}"), LATE, || async {
        explained(peer, conversation, message, user).await["state"] == state
    })
    .await;
    explained(peer, conversation, message, user).await
}

async fn refused(peer: &Peer, payload: Value) -> Value {
    let frame = answer(peer, payload).await;
    assert_eq!(frame["type"], "error", "{frame}");
    frame["payload"]["error"].clone()
}

/// When a step was taken at a region, in microseconds.
fn at(explained: &Value, hop: &str, region: Option<&str>, to: Option<&str>) -> u64 {
    let hops = explained["hops"].as_array().expect("hops");
    let is_it = |row: &&Value| {
        row["hop"] == hop && region.is_none_or(|region| row["region"] == region) && to.is_none_or(|to| row["to"] == to)
    };
    let row = hops.iter().find(is_it).unwrap_or_else(|| panic!("no {hop} at {region:?} to {to:?}: {explained}"));
    row["at"].as_u64().expect("a time") * 1_000 + row["micros"].as_u64().unwrap_or(0)
}

fn reasons(explained: &Value) -> Vec<&str> {
    let blocks = explained["blocks"].as_array().expect("blocks");
    blocks.iter().map(|block| block["reason"].as_str().expect("a reason")).collect()
}

async fn told(peer: &Peer, region: &str, reachable: bool) {
    let status = |frame: &Value| frame["payload"]["region"] == region && frame["payload"]["reachable"] == reachable;
    peer.expect_within("region.status", LATE, status).await;
}

async fn shown(peer: &Peer, message: &str) -> Value {
    let frame = peer.expect_within("message.new", LATE, |frame| frame["payload"]["messageId"] == message).await;
    frame.value["payload"].clone()
}

async fn receive(peer: &Peer, conversation: &str, message: &str) {
    let row = shown(peer, message).await;
    peer.receipt(conversation, row["sequenceNumber"].as_u64().expect("a number"), row["epoch"].as_u64(), false).await;
}

/// A session of a user whose token says `role: operator`.
async fn operator(mesh: &Mesh, user: &str, region: usize) -> Peer {
    let body = json!({ "userId": user, "role": "operator" });
    let made = web::call(&mesh.regions[region].http, "POST", "/api/v1/dev/tokens", Some(body), None, &[]).await;
    let auth = Auth { token: made.body["token"].as_str().expect("a token").to_owned(), ..Auth::default() };
    let peer = Peer::open(mesh, user, region, TransportKind::WebSocket, auth).await;
    peer.expect("connected", |_| true).await;
    peer
}

async fn why(mesh: &Mesh, arguments: &[&str]) -> Exit {
    let data = mesh.data().to_string_lossy().into_owned();
    run(&[&["why"], arguments, &["--data", &data]].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivered_message_has_every_step_in_order_for_its_sender_the_user_and_operators_and_for_nobody_else() {
    let mesh = Mesh::quick(&[]).await;
    let [home, east, south] = [0, 1, 2].map(|region| mesh.regions[region].id.clone());
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let cem = Peer::connect(&mesh, "cem", 2).await;
    let message = ann.send(&group, "where does this one go").await;
    let ack = ann.acked(&message).await;
    receive(&bob, &group, &message).await;
    let way = explained_as(&ann, &group, &message, "bob", "delivered").await;
    assert_eq!((&way["sequenceNumber"], &way["epoch"]), (&ack["sequenceNumber"], &ack["epoch"]), "{way}");
    assert_eq!((&way["blocks"], &way["outOfReach"], &way["home"]), (&json!([]), &json!([]), &json!(home)), "{way}");
    let steps = [
        at(&way, "edge_in", Some(&home), None),
        at(&way, "home_append", Some(&home), None),
        at(&way, "link_out", Some(&home), Some(&east)),
        at(&way, "link_in", Some(&east), None),
        at(&way, "replica_apply", Some(&east), None),
        at(&way, "edge_out", Some(&east), None),
    ];
    assert!(steps.is_sorted(), "one machine has one clock: {way}");
    // A receipt is timed in whole milliseconds.
    assert!(at(&way, "client_received", None, None) / 1_000 >= steps[5] / 1_000, "{way}");
    at(&way, "acked", Some(&home), None);
    at(&way, "replica_apply", Some(&south), None);
    let kept: Vec<&Value> = way["kept"].as_array().expect("kept").iter().map(|kept| &kept["why"]).collect();
    assert_eq!(kept, ["start", "start", "start"], "{way}");

    let by_number = json!({ "conversationId": group, "sequenceNumber": ack["sequenceNumber"], "userId": "bob" });
    let of_bob = answer(&bob, by_number.clone()).await;
    assert_eq!((&of_bob["payload"]["hops"], &of_bob["payload"]["messageId"]), (&way["hops"], &json!(message)));
    let dan = operator(&mesh, "dan", 2).await;
    assert_eq!(explained(&dan, &group, &message, "bob").await["hops"], way["hops"], "an operator is no member");
    assert_eq!(refused(&cem, by_number.clone()).await, "FORBIDDEN");
    let eve = Peer::connect(&mesh, "eve", 1).await;
    assert_eq!(refused(&eve, by_number).await, "CONVERSATION_NOT_FOUND");
    let nowhere = json!({ "conversationId": new_id(), "messageId": message, "userId": "bob" });
    assert_eq!(refused(&eve, nowhere.clone()).await, "CONVERSATION_NOT_FOUND");
    assert_eq!(refused(&dan, nowhere).await, "CONVERSATION_NOT_FOUND");
    assert_eq!(refused(&ann, json!({ "conversationId": group, "userId": "bob" })).await, "INVALID_MESSAGE");
    let none = explained(&ann, &group, &new_id(), "bob").await;
    assert_eq!((reasons(&none), &none["hops"]), (vec!["UNKNOWN"], &json!([])), "{none}");
    drop((ann, bob, cem, dan, eve));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_cut_link_the_copy_that_lacks_it_is_named_with_the_link_and_after_the_heal_it_is_delivered() {
    let mesh = Mesh::quick(&["--failover", "off"]).await;
    let [home, east] = [0, 1].map(|region| mesh.regions[region].id.clone());
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let before = ann.send(&group, "before the cut").await;
    receive(&bob, &group, &before).await;
    explained_as(&ann, &group, &before, "bob", "delivered").await;
    mesh.cut(0, 1).await;
    told(&ann, &east, false).await;
    let message = ann.send(&group, "behind the cut").await;
    ann.acked(&message).await;
    let way = explained(&ann, &group, &message, "bob").await;
    assert_eq!((&way["state"], reasons(&way)), (&json!("waiting"), vec!["REPLICA_BEHIND", "OUT_OF_REACH"]), "{way}");
    let block = &way["blocks"][0];
    assert_eq!((&block["region"], &block["waitsFor"], &block["linkUp"]), (&json!(east), &json!([home]), &json!(false)));
    assert_eq!(way["outOfReach"], json!([east]), "{way}");
    // The third region reaches both: an administrator who asks all of them hears it from the one that lacks it.
    let asked = why(&mesh, &[&message, "--for", "bob", "--json"]).await;
    assert_eq!((asked.code, reasons(&asked.json())), (0, vec!["REPLICA_BEHIND"]), "{asked:?}");
    assert_eq!((&asked.json()["blocks"][0]["linkUp"], &asked.json()["outOfReach"]), (&json!(false), &json!([])));
    mesh.heal(0, 1).await;
    receive(&bob, &group, &message).await;
    let way = explained_as(&ann, &group, &message, "bob", "delivered").await;
    let out = at(&way, "link_out", Some(&home), Some(&east));
    assert!(out > at(&way, "home_append", Some(&home), None) && out <= at(&way, "link_in", Some(&east), None), "{way}");
    at(&way, "edge_out", Some(&east), None);
    drop((ann, bob));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_message_says_where_it_is_held_for_which_home_and_why_and_later_that_it_was() {
    let mesh = Mesh::quick(&["--failover", "off"]).await;
    let [home, east] = [0, 1].map(|region| mesh.regions[region].id.clone());
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    bob.say(&group, "before the cut").await;
    mesh.cut(0, 1).await;
    told(&bob, &home, false).await;
    let message = bob.send(&group, "parked in the east").await;
    bob.expect_within("message.queued", LATE, |frame| frame["payload"]["messageId"] == message.as_str()).await;
    let way = explained(&bob, &group, &message, "ann").await;
    let block = &way["blocks"][0];
    assert_eq!((&way["state"], reasons(&way)), (&json!("waiting"), vec!["PARKED", "OUT_OF_REACH"]), "{way}");
    assert_eq!((&block["region"], &block["waitsFor"], &block["linkUp"]), (&json!(east), &json!([home]), &json!(false)));
    assert!(block["since"].as_u64().is_some_and(|since| since > 0) && way.get("sequenceNumber").is_none(), "{way}");
    at(&way, "edge_in", Some(&east), None);
    at(&way, "queued", Some(&east), None);
    let unknown = explained(&ann, &group, &message, "ann").await;
    assert_eq!((reasons(&unknown), &unknown["outOfReach"]), (vec!["UNKNOWN"], &json!([east])), "{unknown}");
    mesh.heal(0, 1).await;
    bob.acked_within(&message, LATE).await;
    shown(&ann, &message).await;
    let way = explained(&bob, &group, &message, "ann").await;
    assert_eq!(reasons(&way), ["NOT_RECEIVED"], "{way}");
    let steps = [
        at(&way, "edge_in", Some(&east), None),
        at(&way, "queued", Some(&east), None),
        at(&way, "forwarded", Some(&east), Some(&home)),
        at(&way, "home_append", Some(&home), None),
        at(&way, "edge_out", Some(&home), None),
    ];
    assert!(steps.is_sorted(), "{way}");
    drop((ann, bob));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_a_message_is_explained_as_it_stands_and_the_answer_says_that_its_steps_are_not_kept() {
    let mut mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let message = ann.send(&group, "before the restart").await;
    let sent = ann.acked(&message).await["timestamp"].as_u64().expect("a time");
    receive(&bob, &group, &message).await;
    explained_as(&ann, &group, &message, "bob", "delivered").await;
    drop((ann, bob));
    mesh.kill().await;
    mesh.restart().await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let way = explained_as(&ann, &group, &message, "bob", "delivered").await;
    assert_eq!(way["hops"], json!([]), "{way}");
    for kept in way["kept"].as_array().expect("kept") {
        assert!(kept["why"] == "start" && kept["since"].as_u64().is_some_and(|since| since >= sent), "{way}");
    }
    let unknown = why(&mesh, &[&message, "--for", "bob", "--json"]).await;
    assert!(unknown.code == 1 && unknown.json()["hint"].as_str().is_some_and(|hint| hint.contains("--conversation")));
    let named = why(&mesh, &[&message, "--for", "bob", "--json", "--conversation", &group]).await;
    assert_eq!((named.code, &named.json()["state"]), (0, &json!("delivered")), "{named:?}");
    drop(ann);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_come_to_a_user_says_why_and_a_block_is_told_to_the_blocker_alone() {
    let mesh = Mesh::quick(&[]).await;
    let settings = json!({ "historyForNewMembers": "none" });
    let body = json!({ "name": "a story", "participantIds": ["away"], "settings": settings });
    let made = mesh.rest("ann", 0, "POST", "/api/v1/groups", Some(body)).await;
    let group = made.body["conversationId"].as_str().expect("an id").to_owned();
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let message = ann.send(&group, "before somebody came").await;
    ann.acked(&message).await;
    let path = format!("/api/v1/conversations/{group}/members");
    let added = mesh.rest("ann", 0, "POST", &path, Some(json!({ "userIds": ["late"] }))).await;
    assert_eq!(added.status, 200, "{added:?}");
    let way = async |user: &str| explained(&ann, &group, &message, user).await;
    assert_eq!(reasons(&way("late").await), ["JOINED_LATER"]);
    assert_eq!(way("late").await["state"], "withheld");
    assert_eq!(reasons(&way("nobody").await), ["NOT_A_MEMBER"]);
    assert_eq!(reasons(&way("away").await), ["NO_SESSION"]);
    assert_eq!(way("ann").await["state"], "own");
    // Who connects later has to ask for what was shown before.
    let away = Peer::connect(&mesh, "away", 2).await;
    until("the third region follows", LATE, || async { reasons(&way("away").await) == ["NOT_ASKED_FOR"] }).await;

    let direct = mesh
        .rest("ann", 0, "POST", "/api/v1/conversations", Some(json!({ "type": "direct", "participantIds": ["bob"] })))
        .await;
    let direct = direct.body["conversationId"].as_str().unwrap_or_else(|| panic!("{direct:?}")).to_owned();
    let bob = Peer::connect(&mesh, "bob", 1).await;
    let blocked = mesh.rest("bob", 1, "PUT", "/api/v1/users/me/blocks/ann", None).await;
    assert_eq!(blocked.status, 204, "{blocked:?}");
    let message = ann.send(&direct, "for who blocks its sender").await;
    ann.acked(&message).await;
    until("the blocker is told why", LATE, || async {
        reasons(&explained(&bob, &direct, &message, "bob").await) == ["BLOCKED"]
    })
    .await;
    let for_sender = explained(&ann, &direct, &message, "bob").await;
    assert_eq!((reasons(&for_sender), &for_sender["state"]), (vec!["NO_SESSION"], &json!("waiting")), "{for_sender}");
    let hops = for_sender["hops"].as_array().expect("hops");
    assert!(hops.iter().all(|hop| hop["hop"] != "edge_out"), "{for_sender}");
    drop((ann, bob, away));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_command_line_wrong_inputs_say_what_to_type_and_a_message_is_found_by_its_id_alone() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let message = ann.send(&group, "asked about by an administrator").await;
    let number = ann.acked(&message).await["sequenceNumber"].to_string();
    let found = why(&mesh, &[&message, "--for", "bob", "--json"]).await;
    assert_eq!((found.code, &found.json()["conversationId"]), (0, &json!(group)), "{found:?}");
    let by_number = why(&mesh, &[&number, "--for", "bob", "--conversation", &group, "--json"]).await;
    assert_eq!((by_number.code, &by_number.json()["messageId"]), (0, &json!(message)), "{by_number:?}");
    let text = why(&mesh, &[&message, "--for", "bob"]).await;
    for word in ["to bob: on its way", "NO_SESSION: bob has no session", "STEP", "home append", "its process started"] {
        assert!(text.out.contains(word), "{word:?} in {}", text.out);
    }
    let hint = |exit: &Exit| exit.json()["hint"].as_str().unwrap_or_default().to_owned();
    let unknown = why(&mesh, &[&new_id(), "--for", "bob", "--json"]).await;
    assert!(unknown.code == 1 && hint(&unknown).contains("--conversation ID"), "{unknown:?}");
    let nowhere = why(&mesh, &[&message, "--for", "bob", "--conversation", &new_id(), "--json"]).await;
    assert!(nowhere.code == 1 && hint(&nowhere).contains("hearth home show"), "{nowhere:?}");
    let alone = why(&mesh, &[&number, "--for", "bob", "--json"]).await;
    assert!(alone.code == 2 && hint(&alone).contains("--conversation ID"), "{alone:?}");
    for wrong in [
        vec!["not-an-id", "--for", "bob"],
        vec!["0", "--for", "bob", "--conversation", &group],
        vec![&message, "--for", "not a name"],
        vec![&message, "--for", "bob", "--conversation", "nine"],
        vec![&message],
    ] {
        let exit = why(&mesh, &wrong).await;
        assert_eq!(exit.code, 2, "{wrong:?}: {exit:?}");
    }
    drop(ann);
    mesh.end().await;
    let nobody =
        run(&["why", &message, "--for", "bob", "--json", "--data", &Path::new("no-mesh-was-here").to_string_lossy()])
            .await;
    assert!(nobody.code == 7 && hint(&nobody).contains("hearth dev"), "{nobody:?}");
}
