//! Media in three regions: put in one, got in another, by members alone; through a kill, a failover, and the end of the
//! message that carries them.

use std::path::Path;
use std::time::Duration;

use chaos_tests::process::hide;
use chaos_tests::{Answer, Mesh, Peer, new_id, until, web};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::edits::holds;

/// What must come after a restart or a failover, on a busy machine.
const LATE: Duration = Duration::from_secs(60);
/// Until a sweep has taken media away, on a busy machine.
const SWEPT: Duration = Duration::from_secs(60);
const ALL: [usize; 3] = [0, 1, 2];
const MARK: &str = "bytes of a picture that members alone may have";

/// What came for a link.
struct Got {
    status: u16,
    headers: reqwest::header::HeaderMap,
    text: String,
}

async fn by_link(method: &str, url: &str, content_type: Option<&str>, body: &str) -> Got {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20));
    let nobody = rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty());
    let client = client.tls_backend_preconfigured(nobody.with_no_client_auth()).build().expect("a client");
    let mut request = client.request(method.parse().expect("a method"), url).body(body.to_owned());
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    let answer = request.send().await.unwrap_or_else(|error| panic!("{method} of a link: {error:?}"));
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Got { status, headers, text: answer.text().await.expect("a body") }
}

async fn get(url: &str) -> Got {
    by_link("GET", url, None, "").await
}

fn wanted(conversation: &str, content_type: &str, size: usize) -> Value {
    json!({ "conversationId": conversation, "contentType": content_type, "size": size, "name": "cat é.png" })
}

async fn ask(mesh: &Mesh, user: &str, region: usize, wanted: &Value, key: Option<&str>) -> Answer {
    let token = mesh.token(user, region).await;
    let headers: Vec<(&str, &str)> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
    let base = &mesh.regions[region].http;
    let answer = web::call(base, "POST", "/api/v1/media", Some(wanted.clone()), Some(&token), &headers).await;
    hide_link(mesh, &answer.body["upload"]["url"]);
    answer
}

/// No log may show what makes a link good.
fn hide_link(mesh: &Mesh, url: &Value) {
    if let Some((_, signature)) = url.as_str().and_then(|url| url.split_once("signature=")) {
        hide(&mesh.secrets, signature);
    }
}

/// Puts bytes at a region; what it said of them.
async fn put(mesh: &Mesh, user: &str, region: usize, conversation: &str, bytes: &str) -> Value {
    let made = ask(mesh, user, region, &wanted(conversation, "image/png", bytes.len()), None).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let upload = &made.body["upload"];
    assert_eq!((&upload["method"], &upload["headers"]), (&json!("PUT"), &json!({ "content-type": "image/png" })));
    let url = upload["url"].as_str().expect("a link");
    assert!(url.starts_with(&mesh.regions[region].http), "{url}");
    let came = by_link("PUT", url, Some("image/png"), bytes).await;
    assert_eq!(came.status, 200, "{}", came.text);
    made.body
}

/// Asks for a link at a region.
async fn link(mesh: &Mesh, user: &str, region: usize, media: &Value) -> Answer {
    let path = media["mediaUrl"].as_str().expect("a path");
    let answer = mesh.rest(user, region, "GET", path, None).await;
    hide_link(mesh, &answer.body["url"]);
    answer
}

/// Waits until a link is given, or refused with this code.
async fn is_said(mesh: &Mesh, user: &str, region: usize, media: &Value, status: u16) {
    until(&format!("{user} is told {status} in region {region}"), LATE, || async {
        link(mesh, user, region, media).await.status == status
    })
    .await;
}

async fn send(peer: &Peer, conversation: &str, media: &Value) -> String {
    let content = json!({ "type": "image", "mediaUrl": media["mediaUrl"] });
    let payload = json!({ "messageId": new_id(), "conversationId": conversation, "content": content });
    let message = peer.send_payload(payload).await;
    peer.acked_within(&message, LATE).await;
    message
}

async fn in_no_file(mesh: &Mesh, mark: &str) {
    for region in ALL {
        let folder = &mesh.regions[region].data;
        until(&format!("the bytes are in no file of region {region}"), SWEPT, || async { !holds(folder, mark) }).await;
    }
}

/// Whether something is below a folder of media.
fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_put_in_one_region_reach_members_in_every_region_nobody_else_and_go_with_their_message() {
    let mesh = Mesh::quick(&["--content-sweep", "2s"]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let _cem = Peer::connect(&mesh, "cem", 2).await;
    let media = put(&mesh, "ann", 0, &group, MARK).await;
    assert_eq!(link(&mesh, "ann", 0, &media).await.status, 200, "whoever put them may look at them");
    assert_eq!(link(&mesh, "bob", 1, &media).await.status, 404, "nothing shows them yet");
    let message = send(&ann, &group, &media).await;
    bob.expect_within("message.new", LATE, |frame| frame["payload"]["messageId"] == message.as_str()).await;
    let mut links = Vec::new();
    for (user, region) in [("ann", 0), ("bob", 1), ("cem", 2), ("bob", 2)] {
        is_said(&mesh, user, region, &media, 200).await;
        let given = link(&mesh, user, region, &media).await;
        assert_eq!((given.status, &given.body["region"]), (200, &json!(mesh.regions[0].id)), "{}", given.text);
        assert_eq!((&given.body["size"], &given.body["contentType"]), (&json!(MARK.len()), &json!("image/png")));
        let url = given.body["url"].as_str().expect("a link").to_owned();
        let got = get(&url).await;
        assert_eq!((got.status, got.text.as_str()), (200, MARK));
        let header = |name: &str| got.headers[name].to_str().expect("text").to_owned();
        assert_eq!((header("content-type"), header("x-content-type-options")), ("image/png".into(), "nosniff".into()));
        assert_eq!(header("content-disposition"), "inline; filename*=UTF-8''cat%20%C3%A9.png");
        assert!(header("content-security-policy").contains("sandbox"));
        links.push(url);
    }
    // A stranger is told the same of these, of others, and of a conversation that is none.
    let path = media["mediaUrl"].as_str().expect("a path").split('?').next().expect("a path").to_owned();
    let others = format!("{}.{}", mesh.regions[0].id, new_id());
    let none = path.replace(&group, &new_id());
    let made_up = path.replace(media["mediaId"].as_str().expect("an id"), &others);
    for region in ALL {
        for path in [&path, &made_up, &none] {
            let told = mesh.rest("dan", region, "GET", path, None).await;
            assert_eq!((told.status, &told.body["error"]), (404, &json!("CONVERSATION_NOT_FOUND")), "{}", told.text);
            assert!(told.text.contains("no such conversation for this user"), "{}", told.text);
        }
        let told = ask(&mesh, "dan", region, &wanted(&group, "image/png", 1 << 40), None).await;
        assert_eq!((told.status, &told.body["error"]), (404, &json!("CONVERSATION_NOT_FOUND")), "{}", told.text);
        assert_eq!(mesh.plain(region, "GET", &path, None).await.status, 401);
        assert_eq!(mesh.rest("bob", region, "GET", &made_up, None).await.status, 404, "of members, too");
    }
    assert!(holds(&mesh.regions[0].data, MARK) && !holds(&mesh.regions[1].data, MARK), "one region has them");
    let deleted = ann.delete(&group, &message).await;
    bob.expect_within("message.new", LATE, |frame| frame["payload"]["messageId"] == deleted.as_str()).await;
    for (user, region) in [("ann", 0), ("bob", 1), ("cem", 2)] {
        is_said(&mesh, user, region, &media, 404).await;
    }
    in_no_file(&mesh, MARK).await;
    for url in links {
        assert_eq!(get(&url).await.status, 404, "a link that was given before leads to nothing");
    }
    until("nothing is counted", SWEPT, || async { mesh.metric(0, "hearth_media_items", "").await == 0.0 }).await;
    assert!(is_empty(&mesh.regions[0].data.join("media/incoming")));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_put_is_refused_with_a_reason_and_a_link_is_good_for_what_it_says_alone() {
    let mesh = Mesh::quick(&["--regions", "eu-west"]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let limit = 25 << 20;
    let refused = async |wanted: Value| {
        let told = ask(&mesh, "ann", 0, &wanted, None).await;
        (told.status, told.body["error"].clone(), told.body["limit"].clone())
    };
    let (status, error, told) = refused(wanted(&group, "image/png", limit + 1)).await;
    assert_eq!((status, error, told), (413, json!("TOO_LARGE"), json!(format!("{limit} bytes of media"))));
    let (status, error, told) = refused(wanted(&group, "text/html", 10)).await;
    assert_eq!((status, error), (400, json!("INVALID_MESSAGE")));
    assert!(told.as_str().is_some_and(|types| types.contains("image/png, image/gif")), "{told}");
    for bad in [json!({ "size": 0 }), json!({ "size": -1 }), json!({ "contentType": "png" }), json!({ "name": "" })] {
        let mut body = wanted(&group, "image/png", 10);
        bad.as_object().expect("fields").iter().for_each(|(name, value)| body[name] = value.clone());
        assert_eq!(refused(body).await.0, 400, "{bad}");
    }
    let key = new_id();
    let first = ask(&mesh, "ann", 0, &wanted(&group, "image/png", 10), Some(&key)).await;
    assert_eq!((first.status, &first.body["limits"]["maxBytes"]), (201, &json!(limit)), "{}", first.text);
    let again = ask(&mesh, "ann", 0, &wanted(&group, "image/png", 10), Some(&key)).await;
    assert_eq!((again.status, &again.body["mediaId"]), (200, &first.body["mediaId"]), "{}", again.text);
    assert_eq!(ask(&mesh, "ann", 0, &wanted(&group, "image/png", 11), Some(&key)).await.status, 409);
    assert_eq!(link(&mesh, "ann", 0, &first.body).await.status, 404, "no bytes have come");
    let url = first.body["upload"]["url"].as_str().expect("a link").to_owned();
    let changes = [
        ("size=10", "size=11"),
        ("image%2Fpng", "text%2Fhtml"),
        ("expires=1", "expires=2"),
        ("signature=", "signature=A"),
    ];
    for (from, to) in changes {
        let forged = url.replacen(from, to, 1);
        assert_ne!(forged, url);
        let told = by_link("PUT", &forged, Some("image/png"), "0123456789").await;
        assert!(told.status == 403 && told.text.contains("FORBIDDEN"), "{from}: {} {}", told.status, told.text);
    }
    for method in ["GET", "HEAD"] {
        assert_eq!(by_link(method, &url, None, "").await.status, 403, "{method}: a link to put is none to get");
    }
    for (status, content_type, body) in
        [(400, "text/html", "0123456789"), (400, "image/png", "012345678"), (413, "image/png", "0123456789A")]
    {
        let told = by_link("PUT", &url, Some(content_type), body).await;
        assert_eq!(told.status, status, "{}", told.text);
    }
    let long = "x".repeat(1 << 20);
    assert_eq!(by_link("PUT", &url, Some("image/png"), &long).await.status, 413);
    assert_eq!(link(&mesh, "ann", 0, &first.body).await.status, 404, "nothing of that was kept");
    assert!(is_empty(&mesh.regions[0].data.join("media/incoming")));
    for body in ["0123456789", "9876543210"] {
        assert_eq!(by_link("PUT", &url, Some("image/png"), body).await.status, 200);
        let given = link(&mesh, "ann", 0, &first.body).await;
        assert_eq!(get(given.body["url"].as_str().expect("a link")).await.text, "0123456789", "the first stand");
    }
    let mut made = Vec::new();
    for _ in 0..40 {
        made.push(ask(&mesh, "bob", 0, &wanted(&group, "image/png", 10), None).await);
    }
    let taken = made.iter().filter(|answer| answer.status == 201).count();
    let last = made.last().expect("some");
    assert_eq!((taken, last.status, &last.body["error"]), (32, 429, &json!("RATE_LIMITED")), "{}", last.text);
    assert!(last.body["retryAfter"].is_u64() && last.text.contains("32 media"), "{}", last.text);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_kill_9_cuts_off_leaves_nothing_and_its_link_is_good_after_the_restart() {
    let mut mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let bytes = MARK.repeat(20_000);
    let made = ask(&mesh, "ann", 0, &wanted(&group, "image/png", bytes.len()), None).await;
    let url = made.body["upload"]["url"].as_str().expect("a link").to_owned();
    let (host, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("a URL");
    let mut connection = tokio::net::TcpStream::connect(host).await.expect("a connection");
    let head = format!(
        "PUT /{path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: image/png\r\ncontent-length: {}\r\n\r\n",
        bytes.len()
    );
    connection.write_all(head.as_bytes()).await.expect("the head is taken");
    connection.write_all(&bytes.as_bytes()[..bytes.len() / 2]).await.expect("half is taken");
    let folder = mesh.regions[0].data.join("media");
    until("half of it is on disk", LATE, || async { holds(&folder, MARK) }).await;
    assert_eq!(link(&mesh, "ann", 0, &made.body).await.status, 404, "half of it is not there");
    mesh.kill().await;
    assert!(holds(&folder, MARK), "the kill came in the middle");
    mesh.restart().await;
    assert!(!holds(&folder, MARK) && is_empty(&folder.join("incoming")));
    assert_eq!(link(&mesh, "ann", 0, &made.body).await.status, 404);
    assert_eq!(by_link("PUT", &url, Some("image/png"), &bytes).await.status, 200, "the link is as good as it was");
    let given = link(&mesh, "ann", 0, &made.body).await;
    assert_eq!(get(given.body["url"].as_str().expect("a link")).await.text, bytes);
    // What is whole outlives a kill.
    mesh.kill().await;
    mesh.restart().await;
    let given = link(&mesh, "ann", 0, &made.body).await;
    assert_eq!(get(given.body["url"].as_str().expect("a link")).await.text, bytes);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_of_a_region_that_is_failed_over_are_out_of_reach_come_back_with_it_and_follow_the_new_home() {
    let mesh = Mesh::quick(&["--processes", "--failover-after", "3s", "--content-sweep", "2s"]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let stays = put(&mesh, "ann", 0, &group, "bytes that stay in their region").await;
    let goes = put(&mesh, "ann", 0, &group, MARK).await;
    let elsewhere = put(&mesh, "bob", 1, &group, "bytes that were put elsewhere").await;
    let (_, message) = (send(&ann, &group, &stays).await, send(&ann, &group, &goes).await);
    send(&bob, &group, &elsewhere).await;
    for media in [&stays, &goes, &elsewhere] {
        is_said(&mesh, "cem", 2, media, 200).await;
    }
    let pid = mesh.regions[0].pid.expect("a process");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a signal");
    let text = bob.send(&group, "words under the new home").await;
    let ack = bob.acked_within(&text, LATE).await;
    assert!(ack["epoch"].as_u64().is_some_and(|epoch| epoch > 1), "{ack}");
    let told = link(&mesh, "bob", 1, &stays).await;
    assert_eq!((told.status, &told.body["error"]), (503, &json!("HOME_UNREACHABLE")), "{}", told.text);
    assert_eq!(mesh.rest("dan", 1, "GET", stays["mediaUrl"].as_str().expect("a path"), None).await.status, 404);
    is_said(&mesh, "cem", 2, &elsewhere, 200).await;
    let back = Peer::connect(&mesh, "ann", 1).await;
    let deleted = back.delete(&group, &message).await;
    back.acked_within(&deleted, LATE).await;
    mesh.start_region(0).await;
    for (user, region) in [("bob", 1), ("cem", 2), ("ann", 0)] {
        is_said(&mesh, user, region, &stays, 200).await;
        is_said(&mesh, user, region, &goes, 404).await;
    }
    in_no_file(&mesh, MARK).await;
    let given = link(&mesh, "cem", 2, &stays).await;
    assert_eq!(get(given.body["url"].as_str().expect("a link")).await.text, "bytes that stay in their region");
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_go_when_their_message_expires_when_retention_is_over_and_when_who_sent_it_is_erased() {
    let mesh = Mesh::quick(&["--retention-day", "20s", "--content-sweep", "1s", "--anti-entropy", "1s"]).await;
    let body = json!({ "name": "brief", "participantIds": ["bob", "cem"], "settings": { "retentionDays": 1 } });
    let made = mesh.rest("ann", 0, "POST", "/api/v1/groups", Some(body)).await;
    let brief = made.body["conversationId"].as_str().unwrap_or_else(|| panic!("{}", made.text)).to_owned();
    let lasting = mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    let marks = ["bytes that stay", "bytes that expire", "bytes past retention", "bytes of an erased user"];
    let stays = put(&mesh, "ann", 0, &lasting, marks[0]).await;
    let expires = put(&mesh, "ann", 0, &lasting, marks[1]).await;
    let old = put(&mesh, "ann", 0, &brief, marks[2]).await;
    let erased = put(&mesh, "bob", 1, &lasting, marks[3]).await;
    send(&ann, &lasting, &stays).await;
    send(&ann, &brief, &old).await;
    send(&bob, &lasting, &erased).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_millis();
    let expires_at = u64::try_from(now).expect("a time") + 6_000;
    let content = json!({ "type": "file", "mediaUrl": expires["mediaUrl"] });
    let payload =
        json!({ "messageId": new_id(), "conversationId": lasting, "content": content, "expiresAt": expires_at });
    let message = ann.send_payload(payload).await;
    ann.acked_within(&message, LATE).await;
    for media in [&stays, &expires, &erased] {
        is_said(&mesh, "cem", 2, media, 200).await;
    }
    for (region, mark) in [(0, marks[0]), (0, marks[1]), (0, marks[2]), (1, marks[3])] {
        assert!(holds(&mesh.regions[region].data, mark), "{mark}");
    }
    is_said(&mesh, "cem", 2, &expires, 404).await;
    in_no_file(&mesh, marks[1]).await;
    is_said(&mesh, "cem", 2, &old, 404).await;
    in_no_file(&mesh, marks[2]).await;
    let data = mesh.data().to_string_lossy().into_owned();
    let verb = chaos_tests::run(&["user", "erase", "bob", "--json", "--data", &data]).await;
    assert_eq!(verb.code, 0, "{verb:?}");
    is_said(&mesh, "cem", 2, &erased, 404).await;
    in_no_file(&mesh, marks[3]).await;
    is_said(&mesh, "cem", 2, &stays, 200).await;
    assert!(holds(&mesh.regions[0].data, marks[0]));
    mesh.end().await;
}
