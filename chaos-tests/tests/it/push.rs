//! Who is away is woken once for what nobody at any device of theirs has seen, wherever home, record and devices are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chaos_tests::site::{Door, Keys, issue};
use chaos_tests::{Mesh, Peer, Served, Site, new_id, until};
use serde_json::{Value, json};

/// What must come on a busy machine, after a heal, a restart or a failover.
const LATE: Duration = Duration::from_secs(40);
/// Longer than the grace: what was to be pushed is pushed by then.
const GRACE: Duration = Duration::from_millis(2_500);

/// A subscription of a user, made at a region: where the user is new, the home of the record.
async fn subscribe(mesh: &Mesh, user: &str, region: usize) -> String {
    let body = json!({ "deviceId": new_id(), "service": "fcm", "token": format!("registration-of-{user}") });
    let answer = mesh.rest(user, region, "POST", "/api/v1/push-subscriptions", Some(body)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.body["subscriptionId"].as_str().expect("an id").to_owned()
}

/// Lines of the log sender about a subscription that show something, or with `clear` nothing any more.
fn pushes(mesh: &Mesh, subscription: &str, clear: bool) -> Vec<String> {
    let showing = if clear { "clear" } else { "notify" };
    let mine = |line: &&str| line.contains(subscription) && line.contains(&format!("showing=\"{showing}\""));
    mesh.log().lines().filter(mine).map(str::to_owned).collect()
}

async fn pushed(mesh: &Mesh, subscription: &str, count: usize) -> String {
    until(&format!("{count} pushes"), LATE, || async { pushes(mesh, subscription, false).len() >= count }).await;
    let lines = pushes(mesh, subscription, false);
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines[count - 1].clone()
}

/// Decisions of all regions that answer, by what was decided.
async fn decisions(mesh: &Mesh, regions: &[usize]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for region in regions {
        let text = mesh.plain(*region, "GET", "/metrics", None).await.text;
        for line in text.lines().filter(|line| line.starts_with("hearth_push_decisions_total{")) {
            let decision = line.split("decision=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a label");
            let count: f64 = line.rsplit(' ').next().and_then(|count| count.parse().ok()).expect("a number");
            if line.contains(&format!("region=\"{}\"", mesh.regions[*region].id)) {
                *all.entry(decision.to_owned()).or_default() += count as u64;
            }
        }
    }
    all
}

async fn decided(mesh: &Mesh, regions: &[usize], decision: &str, count: u64) {
    until(&format!("{count} decisions {decision}"), LATE, || async {
        decisions(mesh, regions).await.get(decision).copied().unwrap_or_default() >= count
    })
    .await;
    let all = decisions(mesh, regions).await;
    assert_eq!(all.get(decision).copied(), Some(count), "{all:?}");
}

async fn view(peer: &Peer, conversation: Option<&str>) {
    peer.frame(json!({ "type": "conversation.view", "payload": { "conversationId": conversation } })).await;
    peer.settled().await;
}

async fn shown(peer: &Peer, number: u64) -> u64 {
    let matches = |frame: &Value| frame["payload"]["sequenceNumber"] == json!(number);
    let frame = peer.expect_within("message.new", LATE, matches).await;
    frame.value["payload"]["epoch"].as_u64().expect("an epoch")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_away_is_woken_once_not_while_a_device_anywhere_looks_or_reads_and_reading_clears() {
    let mesh = Mesh::quick(&[]).await;
    // The record of bob has its home in region 1, the conversation in region 0, and his devices are in region 2.
    let subscription = subscribe(&mesh, "bob", 1).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    ann.say(&group, "the first for bob").await;
    let line = pushed(&mesh, &subscription, 1).await;
    assert!(line.contains("unread=1"), "{line}");
    for text in ["the second for bob", "the third for bob", "the fourth for bob"] {
        ann.say(&group, text).await;
    }
    // Each has its whole grace: on a busy machine they are not over together.
    until("the newest push counts all", LATE, || async {
        pushes(&mesh, &subscription, false).last().is_some_and(|line| line.contains("unread=4"))
    })
    .await;
    let before = pushes(&mesh, &subscription, false).len();
    assert!((2..=4).contains(&before), "{before}");
    tokio::time::sleep(GRACE).await;
    assert_eq!(pushes(&mesh, &subscription, false).len(), before, "nothing is pushed twice");
    assert_eq!(decisions(&mesh, &[0, 1, 2]).await["pushed"], 4, "one decision a message, and none for cem");
    let bob = Peer::connect(&mesh, "bob", 2).await;
    ann.say(&group, "the fifth, while bob is there and looks elsewhere").await;
    let epoch = shown(&bob, 5).await;
    pushed(&mesh, &subscription, before + 1).await;
    assert!(pushes(&mesh, &subscription, true).is_empty(), "nothing is read yet");
    bob.receipt(&group, 5, Some(epoch), true).await;
    until("it is cleared", LATE, || async { !pushes(&mesh, &subscription, true).is_empty() }).await;
    // What is read within the grace wakes no other device.
    ann.say(&group, "the sixth is read at once").await;
    shown(&bob, 6).await;
    bob.receipt(&group, 6, Some(epoch), true).await;
    decided(&mesh, &[0, 1, 2], "read", 1).await;
    // Nor what comes while it is on a screen in another region than home and record.
    view(&bob, Some(&group)).await;
    ann.say(&group, "the seventh is on the screen").await;
    decided(&mesh, &[0, 1, 2], "in_view", 1).await;
    view(&bob, None).await;
    bob.say(&group, "an answer of bob himself").await;
    decided(&mesh, &[0, 1, 2], "own", 1).await;
    tokio::time::sleep(GRACE).await;
    assert_eq!(pushes(&mesh, &subscription, false).len(), before + 1);
    assert_eq!(pushes(&mesh, &subscription, true).len(), 1);
    let all = decisions(&mesh, &[0, 1, 2]).await;
    assert_eq!(all.values().sum::<u64>(), 8, "one decision a message: {all:?}");
    drop((ann, bob));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mentions_mutes_and_subscriptions_are_set_from_any_region_and_refused_with_a_reason() {
    let mesh = Mesh::quick(&[]).await;
    let subscription = subscribe(&mesh, "bob", 1).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let preferences = format!("/api/v1/conversations/{group}/preferences");
    let set = async |body: Value| mesh.rest("bob", 2, "PATCH", &preferences, Some(body)).await;
    let answer = set(json!({ "push": "mentions" })).await;
    assert_eq!((answer.status, &answer.body), (200, &json!({ "conversationId": group, "push": "mentions" })));
    ann.say(&group, "this names nobody at all").await;
    decided(&mesh, &[1], "not_mentioned", 1).await;
    let content = json!({ "type": "text", "text": "this names bob alone", "mentions": ["bob"] });
    let message = new_id();
    ann.send_payload(json!({ "messageId": message, "conversationId": group, "content": content })).await;
    ann.acked(&message).await;
    pushed(&mesh, &subscription, 1).await;
    let until_then = 4_000_000_000_000_u64;
    let answer = set(json!({ "mutedUntil": until_then })).await;
    assert_eq!(answer.body["mutedUntil"], json!(until_then));
    assert_eq!(answer.body["push"], "mentions", "what is not named stays");
    let row = mesh.rest("bob", 1, "GET", &format!("/api/v1/conversations/{group}"), None).await;
    assert_eq!(row.body["mutedUntil"], json!(until_then), "{row:?}");
    ann.say(&group, "this comes while bob has muted it").await;
    decided(&mesh, &[1], "muted", 1).await;
    let answer = set(json!({ "mutedUntil": null, "push": "all" })).await;
    assert_eq!((answer.status, &answer.body), (200, &json!({ "conversationId": group, "push": "all" })));
    ann.say(&group, "this is heard again").await;
    pushed(&mesh, &subscription, 2).await;
    let refused = async |user: &str, method: &str, path: &str, body: Value, status: u16, error: &str| {
        let answer = mesh.rest(user, 2, method, path, Some(body)).await;
        assert_eq!((answer.status, answer.body["error"].as_str()), (status, Some(error)), "{answer:?}");
    };
    let path = "/api/v1/push-subscriptions";
    refused("bob", "PATCH", &preferences, json!({}), 400, "INVALID_MESSAGE").await;
    refused("bob", "PATCH", &preferences, json!({ "push": "some" }), 400, "INVALID_MESSAGE").await;
    refused("eve", "PATCH", &preferences, json!({ "push": "none" }), 404, "CONVERSATION_NOT_FOUND").await;
    refused("bob", "POST", path, json!({ "service": "fcm", "token": "x" }), 400, "INVALID_MESSAGE").await;
    refused("bob", "DELETE", path, json!({ "subscriptionId": new_id() }), 404, "NOT_FOUND").await;
    refused("eve", "DELETE", path, json!({ "subscriptionId": subscription }), 404, "NOT_FOUND").await;
    for number in 1..32 {
        let body = json!({ "deviceId": new_id(), "service": "fcm", "token": format!("another-{number}") });
        let answer = mesh.rest("bob", number % 3, "POST", path, Some(body)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let one_more = json!({ "deviceId": new_id(), "service": "fcm", "token": "one-more" });
    refused("bob", "POST", path, one_more, 413, "TOO_LARGE").await;
    let held = mesh.rest("bob", 0, "GET", path, None).await;
    assert_eq!(held.body["subscriptions"].as_array().map(Vec::len), Some(32), "{held:?}");
    let answer = mesh.rest("bob", 0, "DELETE", path, Some(json!({ "subscriptionId": subscription }))).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    ann.say(&group, "this goes to the others").await;
    let others = held.body["subscriptions"].as_array().cloned().unwrap_or_default();
    let other = others.iter().filter_map(|row| row["subscriptionId"].as_str()).find(|id| *id != subscription);
    pushed(&mesh, other.expect("another"), 1).await;
    assert_eq!(pushes(&mesh, &subscription, false).len(), 2, "it is over");
    drop(ann);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_home_of_the_record_loses_and_doubles_no_push_and_clears_what_was_shown_before() {
    let mesh = Mesh::quick(&["--processes", "--failover", "off"]).await;
    let subscription = subscribe(&mesh, "bob", 1).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    ann.say(&group, "pushed before the restart").await;
    pushed(&mesh, &subscription, 1).await;
    // One whose grace is not over when the process dies, and one that comes while it is gone.
    ann.say(&group, "waits when the process dies").await;
    let pid = nix::unistd::Pid::from_raw(mesh.regions[1].pid.expect("a process"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("a signal");
    ann.say(&group, "comes while the region is gone").await;
    mesh.start_region(1).await;
    let line = pushed(&mesh, &subscription, 2).await;
    assert!(line.contains("unread=3"), "what was shown before counts still: {line}");
    let all = decisions(&mesh, &[1]).await;
    assert_eq!(all["pushed"], 2, "the first is not decided again: {all:?}");
    ann.say(&group, "comes after the restart").await;
    pushed(&mesh, &subscription, 3).await;
    mesh.stop_region(1).await;
    mesh.start_region(1).await;
    let bob = Peer::connect(&mesh, "bob", 2).await;
    bob.receipt(&group, 4, None, true).await;
    until("what earlier processes showed is cleared", LATE, || async {
        !pushes(&mesh, &subscription, true).is_empty()
    })
    .await;
    tokio::time::sleep(GRACE).await;
    assert_eq!((pushes(&mesh, &subscription, false).len(), pushes(&mesh, &subscription, true).len()), (3, 1));
    drop((ann, bob));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_cut_link_nobody_is_woken_and_after_the_heal_once_for_all_that_was_missed() {
    let mesh = Mesh::quick(&["--failover", "off"]).await;
    let subscription = subscribe(&mesh, "bob", 1).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    ann.say(&group, "before the cut").await;
    pushed(&mesh, &subscription, 1).await;
    mesh.cut(0, 1).await;
    for number in 0..5 {
        ann.say(&group, &format!("behind the cut link, number {number}")).await;
    }
    tokio::time::sleep(GRACE).await;
    assert_eq!(pushes(&mesh, &subscription, false).len(), 1);
    mesh.heal(0, 1).await;
    let line = pushed(&mesh, &subscription, 2).await;
    assert!(line.contains("unread=6"), "{line}");
    // What a device in a third region has on its screen is known behind the cut.
    let bob = Peer::connect(&mesh, "bob", 2).await;
    view(&bob, Some(&group)).await;
    mesh.cut(0, 1).await;
    ann.say(&group, "seen by bob, while his record is cut off").await;
    shown(&bob, 7).await;
    mesh.heal(0, 1).await;
    decided(&mesh, &[1], "in_view", 1).await;
    tokio::time::sleep(GRACE).await;
    assert_eq!(pushes(&mesh, &subscription, false).len(), 2);
    drop((ann, bob));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_home_of_the_record_fails_over_its_successor_wakes_who_subscribed_before() {
    let mesh = Mesh::quick(&["--processes", "--failover-after", "3s"]).await;
    let subscription = subscribe(&mesh, "bob", 1).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    ann.say(&group, "before the failover").await;
    pushed(&mesh, &subscription, 1).await;
    let pid = nix::unistd::Pid::from_raw(mesh.regions[1].pid.expect("a process"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("a signal");
    ann.say(&group, "while nobody decides").await;
    // What was pushed in the last minute may come again: the successor does not know of it.
    until("the successor pushes", LATE, || async { pushes(&mesh, &subscription, false).len() >= 2 }).await;
    tokio::time::sleep(GRACE).await;
    let before = pushes(&mesh, &subscription, false).len();
    assert!(before <= 3, "{before}");
    ann.say(&group, "after the failover").await;
    until("and goes on", LATE, || async { pushes(&mesh, &subscription, false).len() > before }).await;
    tokio::time::sleep(GRACE).await;
    assert_eq!(pushes(&mesh, &subscription, false).len(), before + 1);
    mesh.start_region(1).await;
    ann.say(&group, "when the old home is back").await;
    until("still once", LATE, || async { pushes(&mesh, &subscription, false).len() > before + 1 }).await;
    tokio::time::sleep(GRACE).await;
    assert_eq!(pushes(&mesh, &subscription, false).len(), before + 2);
    drop(ann);
    mesh.end().await;
}

/// What came to the push service: path, headers in lower case, body.
type Received = Vec<(String, String, Vec<u8>)>;

/// A push service of a browser over TLS: takes what comes to `/alive`, and says of everything else that it is gone.
async fn push_service(site: &Site) -> (u16, Arc<Mutex<Received>>) {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    issue("push-service", &site.path("ca"), &site.path("tls")).await;
    let chain = CertificateDer::pem_file_iter(site.path("tls/push-service.pem")).expect("a chain");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_file(site.path("tls/push-service.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_no_client_auth().with_single_cert(chain, key).expect("a certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let received: Arc<Mutex<Received>> = Arc::default();
    let log = received.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, log) = (acceptor.clone(), log.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                answer_one(stream, &log).await;
            });
        }
    });
    (port, received)
}

async fn answer_one(mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>, log: &Mutex<Received>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    while bytes.len() < end + length {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let status = if path == "/alive" { "201 Created" } else { "410 Gone" };
    log.lock().expect("no panic holds it").push((path, head, bytes[end..].to_vec()));
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn served_regions_push_to_a_browsers_service_encrypted_and_signed_and_drop_what_is_gone_there() {
    let settings = "[push.web]\nkey = \"vapid.pem\"\ncontact = \"mailto:push@example.com\"\nany_address = true\n\
                    authorities = \"ca/ca.pem\"\n";
    let site = Site::of(&[Door::Plain, Door::Plain], Keys::Secret, settings).await;
    let key = rcgen::KeyPair::generate().expect("a key of P-256");
    std::fs::write(site.path("vapid.pem"), key.serialize_pem()).expect("written");
    let (port, received) = push_service(&site).await;
    let (one, other) = tokio::join!(Served::start(&site, 0), Served::start(&site, 1));
    let path = "/api/v1/push-subscriptions";
    let server_key = site.rest(Some("bob"), 1, "GET", path, None, &[]).await.body["applicationServerKey"].clone();
    assert_eq!(server_key, json!(URL_SAFE_NO_PAD.encode(key.public_key_raw())), "what browsers subscribe with");
    let browser = rcgen::KeyPair::generate().expect("a key of P-256");
    let p256dh = URL_SAFE_NO_PAD.encode(browser.public_key_raw());
    let keys = json!({ "p256dh": p256dh, "auth": URL_SAFE_NO_PAD.encode([7; 16]) });
    for place in ["alive", "taken-back"] {
        let endpoint = format!("https://localhost:{port}/{place}");
        let body = json!({ "deviceId": new_id(), "service": "web-push", "endpoint": endpoint, "keys": keys });
        let answer = site.rest(Some("bob"), 1, "POST", path, Some(body), &[]).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let apns = json!({ "deviceId": new_id(), "service": "apns", "token": "ab".repeat(32) });
    let answer = site.rest(Some("bob"), 1, "POST", path, Some(apns), &[]).await;
    assert_eq!((answer.status, &answer.body["error"]), (400, &json!("INVALID_MESSAGE")), "no sender is set up for it");
    let group = site.group("ann", "bob").await;
    let ann = site.peer("ann", 0, site.token("ann", 600)).await;
    ann.expect("connected", |_| true).await;
    ann.say(&group, "a text that no push service may read").await;
    let count = |place: &str| {
        let received = received.lock().expect("no panic holds it");
        received.iter().filter(|(path, ..)| path == place).count()
    };
    until("both came", LATE, || async { count("/alive") == 1 && count("/taken-back") == 1 }).await;
    until("what is gone is dropped", LATE, || async {
        let held = site.rest(Some("bob"), 0, "GET", path, None, &[]).await;
        held.body["subscriptions"].as_array().map(Vec::len) == Some(1)
    })
    .await;
    ann.say(&group, "another text that no push service may read").await;
    until("it goes on to the other", LATE, || async { count("/alive") == 2 }).await;
    assert_eq!(count("/taken-back"), 1);
    for (_, head, body) in received.lock().expect("no panic holds it").iter() {
        for wanted in ["content-encoding: aes128gcm", "authorization: vapid t=", "ttl: ", "topic: ", "urgency: high"] {
            assert!(head.contains(wanted), "{head}");
        }
        assert!(body.len() > 86 && body[20] == 65 && body[21] == 4, "the header of RFC 8188");
        assert!(!body.windows(6).any(|six| six == b"a text"), "nothing can be read");
    }
    drop(ann);
    tokio::join!(one.end(), other.end());
}
