use std::time::Duration;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use bytes::Bytes;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use region_model::push::ports::{Detail, Preview, PushSender as _, Scope, Sent, Subscription, Target};
use region_push::web_push::{Vapid, WebPushOptions, WebPushSender};
use region_push::{Addresses, HttpOptions};
use serde_json::{Value, json};

use crate::support::{NOW, Reply, clear, notice, plain_client, subscription};
use crate::web_push_service::{ALIVE, PushService, TAKEN_BACK};

pub(crate) fn pkcs8() -> Vec<u8> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    pair.to_pkcs8v1().unwrap().as_ref().to_vec()
}

pub(crate) fn vapid(pkcs8: &[u8]) -> Vapid {
    Vapid::new(pkcs8, "mailto:push@example.com").unwrap()
}

pub(crate) fn sender(vapid: &Vapid, service: &PushService) -> WebPushSender {
    WebPushSender::new(WebPushOptions { vapid: vapid.clone(), http: service.service.http() }).unwrap()
}

/// A browser whose keys nobody needs.
fn browser(origin: &str, path: &str) -> Subscription {
    let key = PrivateKey::generate(&ECDH_P256).unwrap();
    let p256dh = Bytes::copy_from_slice(key.compute_public_key().unwrap().as_ref());
    subscription(Target::WebPush { endpoint: format!("{origin}{path}"), p256dh, auth: Bytes::from_static(&[7; 16]) })
}

#[tokio::test]
async fn a_push_service_takes_what_the_sender_sends_and_its_length_says_little() {
    let key = pkcs8();
    let vapid = vapid(&key);
    let push = PushService::start(vapid.public_key()).await;
    let sender = sender(&vapid, &push);
    let to = browser(&push.service.origin, ALIVE);
    let mut lengths = Vec::new();
    let preview = |bytes: usize| notice(Detail::Preview(Preview { title: String::new(), text: "x".repeat(bytes) }));
    for notice in [notice(Detail::Nothing), clear(), notice(Detail::Ids), preview(16_384)] {
        assert_eq!(sender.send(&to, &notice, NOW).await, Sent::Accepted);
        lengths.push(push.service.last().body.len());
    }
    assert_eq!(lengths[0], lengths[1], "a clear looks like a message");
    assert_eq!(lengths[3], 4_096);
    let request = push.service.last();
    assert_eq!((request.header("ttl"), request.header("urgency")), (Some("3600"), Some("high")));
    assert_eq!(request.header("topic"), Some("n9HuwtcYqBmHkyF8_2oG5A"));
}

#[tokio::test]
async fn answers_of_a_push_service_are_followed_as_documented() {
    let key = pkcs8();
    let vapid = vapid(&key);
    let push = PushService::start(vapid.public_key()).await;
    let sender = sender(&vapid, &push);
    let origin = &push.service.origin;
    for dead in [TAKEN_BACK, "/p/never-was"] {
        assert_eq!(sender.send(&browser(origin, dead), &notice(Detail::Ids), NOW).await, Sent::Gone);
    }
    let rest = |seconds| Sent::Wait { scope: Scope::Way, after: Some(Duration::from_secs(seconds)) };
    let cases = [
        (Reply::new(201, ""), Sent::Accepted),
        (Reply::new(202, ""), Sent::Accepted),
        (Reply::new(429, "").retry_after("5"), rest(5)),
        (Reply::new(503, ""), rest(60)),
        (Reply::new(413, ""), Sent::Refused("too_large")),
        (Reply::new(403, ""), Sent::Refused("vapid")),
        (Reply::new(400, ""), Sent::Refused("request")),
        (Reply::new(500, ""), Sent::Failed("service")),
        (Reply::new(307, "").retry_after("1"), Sent::Refused("request")),
    ];
    for (reply, expected) in cases {
        push.service.answer_next(reply.clone());
        assert_eq!(sender.send(&browser(origin, ALIVE), &notice(Detail::Ids), NOW).await, expected, "{reply:?}");
    }
    let before = push.service.received().len();
    let (_, key, auth) = match browser(origin, ALIVE).target {
        Target::WebPush { endpoint, p256dh, auth } => (endpoint, p256dh, auth),
        _ => unreachable!(),
    };
    let not_on_the_curve = Bytes::from_static(&[4; 65]);
    for (endpoint, p256dh, auth) in [
        (format!("{origin}{ALIVE}"), not_on_the_curve, auth.clone()),
        (format!("{origin}{ALIVE}"), key.clone(), auth.slice(1..)),
        (format!("{origin}{ALIVE}").replace("https", "http"), key, auth),
    ] {
        let to = subscription(Target::WebPush { endpoint, p256dh, auth });
        assert_eq!(sender.send(&to, &notice(Detail::Ids), NOW).await, Sent::Gone);
    }
    assert_eq!(push.service.received().len(), before, "nothing was sent for those");
}

#[tokio::test]
async fn an_endpoint_inside_the_operators_network_is_not_connected_to() {
    let key = pkcs8();
    let vapid = vapid(&key);
    let push = PushService::start(vapid.public_key()).await;
    let http = HttpOptions { addresses: Addresses::Public, ..push.service.http() };
    let sender = WebPushSender::new(WebPushOptions { vapid, http }).unwrap();
    let to = browser(&push.service.origin, ALIVE);
    assert_eq!(sender.send(&to, &notice(Detail::Ids), NOW).await, Sent::Gone, "localhost by its name");
    assert!(push.service.received().is_empty());
    // The name looks public; where it leads is found when it is connected to.
    let hostname = browser("https://localhost.localdomain", ALIVE);
    let sent = sender.send(&hostname, &notice(Detail::Ids), NOW).await;
    assert_eq!(sent, Sent::Failed("connect"));
}

/// A token of RFC 8292 with other claims.
fn token(pkcs8: &[u8], public: &str, claims: &Value) -> String {
    let key = EncodingKey::from_ec_der(pkcs8);
    let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), claims, &key).unwrap();
    format!("vapid t={token}, k={public}")
}

#[tokio::test]
async fn the_local_push_service_refuses_whatever_the_real_ones_refuse() {
    let (key, other) = (pkcs8(), pkcs8());
    let (ours, others) = (vapid(&key), vapid(&other));
    let push = PushService::start(ours.public_key()).await;
    let now = NOW.0 / 1_000;
    let good = json!({"aud": push.service.origin, "exp": now + 100, "sub": "mailto:a@example.com"});
    let stranger = good.clone();
    let claims = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        token(&key, ours.public_key(), &claims)
    };
    let good = token(&key, ours.public_key(), &good);
    let body = |bytes: usize| {
        let mut body = vec![0; bytes];
        if bytes > 21 {
            (body[20], body[21]) = (65, 4);
        }
        body
    };
    let header = |name: &'static str, value: &str| Some((name, value.to_owned()));
    let cases = [
        (ALIVE, good.clone(), None, body(200), 201),
        (ALIVE, String::new(), None, body(200), 401),
        (ALIVE, "Bearer a.b.c".to_owned(), None, body(200), 403),
        (ALIVE, token(&other, ours.public_key(), &stranger), None, body(200), 403),
        (ALIVE, token(&other, others.public_key(), &stranger), None, body(200), 403),
        (ALIVE, claims("aud", json!("https://elsewhere.example")), None, body(200), 403),
        (ALIVE, claims("exp", json!(now)), None, body(200), 403),
        (ALIVE, claims("exp", json!(now + 24 * 3_600 + 1)), None, body(200), 403),
        (ALIVE, claims("sub", json!("somebody")), None, body(200), 403),
        (ALIVE, good.clone(), header("ttl", ""), body(200), 400),
        (ALIVE, good.clone(), header("ttl", "soon"), body(200), 400),
        (ALIVE, good.clone(), header("topic", &"t".repeat(32)), body(200), 201),
        (ALIVE, good.clone(), header("topic", &"t".repeat(33)), body(200), 400),
        (ALIVE, good.clone(), header("topic", "a/b"), body(200), 400),
        (ALIVE, good.clone(), header("urgency", "loud"), body(200), 400),
        (ALIVE, good.clone(), header("content-encoding", "aesgcm"), body(200), 400),
        (ALIVE, good.clone(), None, body(86), 400),
        (ALIVE, good.clone(), None, vec![0; 200], 400),
        (ALIVE, good.clone(), None, body(4_096), 201),
        (ALIVE, good.clone(), None, body(4_097), 413),
        (TAKEN_BACK, good.clone(), None, body(200), 410),
        ("/p/other", good, None, body(200), 404),
    ];
    let client = plain_client(&push.service, true);
    for (number, (path, authorization, changed, body, expected)) in cases.into_iter().enumerate() {
        let mut headers = vec![("ttl", "60".to_owned()), ("content-encoding", "aes128gcm".to_owned())];
        if let Some((name, value)) = changed {
            headers.retain(|(other, _)| *other != name);
            headers.push((name, value));
        }
        headers.push(("authorization", authorization));
        let mut request = client.post(format!("{}{path}", push.service.origin)).body(body);
        for (name, value) in headers.into_iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(name, value);
        }
        assert_eq!(request.send().await.unwrap().status().as_u16(), expected, "case {number}");
    }
}
