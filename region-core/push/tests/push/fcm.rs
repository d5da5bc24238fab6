use std::sync::atomic::Ordering;
use std::time::Duration;

use hearth_protocol::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use region_model::push::ports::{Detail, Preview, PushSender as _, Scope, Sent, Subscription, Target};
use region_push::fcm::{FcmOptions, FcmSender};
use serde_json::{Value, json};

use crate::fcm_service::{DEVICE, EMAIL, Fcm, KEY_ID, OTHER_SENDER, PROJECT, REMOVED};
use crate::support::{NOW, Reply, clear, notice, plain_client, subscription};

fn sender(fcm: &Fcm) -> FcmSender {
    let options =
        FcmOptions { origin: fcm.service.origin.clone(), service_account: fcm.account(), http: fcm.service.http() };
    FcmSender::new(options).unwrap()
}

fn device(registration: &str) -> Subscription {
    subscription(Target::Fcm { registration: registration.to_owned() })
}

fn data(fcm: &Fcm) -> (Value, Value) {
    let body: Value = serde_json::from_slice(&fcm.service.last().body).unwrap();
    let data = serde_json::from_str(body["message"]["data"]["hearth"].as_str().unwrap()).unwrap();
    (body["message"]["android"].clone(), data)
}

#[tokio::test]
async fn fcm_takes_what_the_sender_sends_under_a_token_that_its_account_was_granted() {
    let fcm = Fcm::start().await;
    let sender = sender(&fcm);
    assert_eq!(sender.send(&device(DEVICE), &notice(Detail::Nothing), NOW).await, Sent::Accepted);
    let (android, nothing) = data(&fcm);
    let tag = "n9HuwtcYqBmHkyF8_2oG5A";
    assert_eq!(android, json!({"collapse_key": tag, "priority": "HIGH", "ttl": "3600s"}));
    assert_eq!(nothing, json!({"type": "notify", "tag": tag}), "free of content");
    assert_eq!(sender.send(&device(DEVICE), &clear(), NOW).await, Sent::Accepted);
    assert_eq!(data(&fcm).1["type"], "clear");
    let text = "\"\\é🎉".repeat(4_000);
    let preview = notice(Detail::Preview(Preview { title: "Ann".to_owned(), text }));
    assert_eq!(sender.send(&device(DEVICE), &preview, NOW).await, Sent::Accepted);
    assert_eq!(fcm.granted.load(Ordering::SeqCst), 1, "one token serves all");
}

#[tokio::test]
async fn many_pushes_at_once_ask_for_one_token() {
    let fcm = Fcm::start().await;
    let sender = std::sync::Arc::new(sender(&fcm));
    let mut sends = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let sender = std::sync::Arc::clone(&sender);
        sends.spawn(async move { sender.send(&device(DEVICE), &notice(Detail::Ids), NOW).await });
    }
    assert!(sends.join_all().await.into_iter().all(|sent| sent == Sent::Accepted));
    assert_eq!(fcm.granted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_token_is_replaced_before_its_end_and_when_the_service_takes_it_back() {
    let fcm = Fcm::start().await;
    let sender = sender(&fcm);
    let send = async |minutes: u64| {
        let now = Timestamp(NOW.0 + minutes * 60_000);
        fcm.clock.store(now.0, Ordering::SeqCst);
        sender.send(&device(DEVICE), &notice(Detail::Ids), now).await
    };
    assert_eq!((send(0).await, send(54).await), (Sent::Accepted, Sent::Accepted));
    assert_eq!(fcm.granted.load(Ordering::SeqCst), 1);
    assert_eq!(send(56).await, Sent::Accepted);
    assert_eq!(fcm.granted.load(Ordering::SeqCst), 2);
    // Somebody else was granted a newer one: ours is not good any more.
    fcm.granted.fetch_add(1, Ordering::SeqCst);
    assert_eq!(send(57).await, Sent::Accepted);
    assert_eq!(fcm.granted.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn an_account_that_google_does_not_believe_rests_and_drops_no_device() {
    let fcm = Fcm::start().await;
    let stranger = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let account = fcm
        .account()
        .replace(&json!(fcm.key.serialize_pem()).to_string(), &json!(stranger.serialize_pem()).to_string());
    let options = FcmOptions { origin: fcm.service.origin.clone(), service_account: account, http: fcm.service.http() };
    let sender = FcmSender::new(options).unwrap();
    let rest = |seconds| Sent::Wait { scope: Scope::Way, after: Some(Duration::from_secs(seconds)) };
    assert_eq!(sender.send(&device(DEVICE), &notice(Detail::Ids), NOW).await, rest(300));
    fcm.service.answer_next(Reply::new(429, "").retry_after("3"));
    assert_eq!(sender.send(&device(DEVICE), &notice(Detail::Ids), NOW).await, rest(3));
    fcm.service.answer_next(Reply::new(500, ""));
    assert_eq!(sender.send(&device(DEVICE), &notice(Detail::Ids), NOW).await, Sent::Failed("token_service"));
    fcm.service.answer_next(Reply::new(200, "{}"));
    assert_eq!(sender.send(&device(DEVICE), &notice(Detail::Ids), NOW).await, Sent::Failed("token_form"));
}

#[tokio::test]
async fn answers_of_fcm_are_followed_as_documented() {
    let fcm = Fcm::start().await;
    let sender = sender(&fcm);
    let rest = |seconds| Sent::Wait { scope: Scope::Way, after: Some(Duration::from_secs(seconds)) };
    for dead in [REMOVED, "", "no registration"] {
        assert_eq!(sender.send(&device(dead), &notice(Detail::Ids), NOW).await, Sent::Gone, "{dead}");
    }
    let other = sender.send(&device(OTHER_SENDER), &notice(Detail::Ids), NOW).await;
    assert_eq!(other, Sent::Refused("sender"), "a wrong account must not drop every device");
    let violation = json!({"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": [{
        "@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": "message.android.ttl"}]}]}});
    let cases = [
        (Reply::new(429, "").retry_after("11"), rest(11)),
        (Reply::new(429, ""), rest(60)),
        (Reply::new(503, "").retry_after("12"), rest(12)),
        (Reply::new(500, ""), Sent::Failed("service")),
        (Reply::new(400, violation.to_string()), Sent::Refused("request")),
        (Reply::new(403, ""), rest(300)),
        (Reply::new(404, ""), rest(300)),
    ];
    for (reply, expected) in cases {
        fcm.service.answer_next(reply.clone());
        assert_eq!(sender.send(&device(DEVICE), &notice(Detail::Ids), NOW).await, expected, "{reply:?}");
    }
}

#[tokio::test]
async fn an_account_file_of_another_form_is_refused_at_the_start() {
    let fcm = Fcm::start().await;
    let file = fcm.account();
    let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    let ec = file.replace(&json!(fcm.key.serialize_pem()).to_string(), &json!(ec).to_string());
    for (number, account) in
        [String::new(), "{}".to_owned(), ec, file.replace(PROJECT, "a/../b"), file.replace("https://", "http://")]
            .into_iter()
            .enumerate()
    {
        let options = FcmOptions { origin: String::new(), service_account: account, http: fcm.service.http() };
        let error = FcmSender::new(options).expect_err("refused");
        assert!(!format!("{error:?} {error}").contains("PRIVATE"), "case {number}");
    }
}

fn claim(key: &rcgen::KeyPair, kid: &str, claims: &Value) -> String {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::RS256) };
    let key = EncodingKey::from_rsa_pem(key.serialize_pem().as_bytes()).unwrap();
    jsonwebtoken::encode(&header, claims, &key).unwrap()
}

#[tokio::test]
async fn the_local_token_endpoint_refuses_whatever_googles_refuses() {
    let fcm = Fcm::start().await;
    let now = NOW.0 / 1_000;
    let aud = format!("{}/token", fcm.service.origin);
    let scope = "https://www.googleapis.com/auth/firebase.messaging";
    let good = json!({"iss": EMAIL, "scope": scope, "aud": aud, "iat": now, "exp": now + 3_600});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claim(&fcm.key, KEY_ID, &claims)
    };
    let stranger = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let (form, grant) = ("application/x-www-form-urlencoded", "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer");
    let cases = [
        (form, grant, claim(&fcm.key, KEY_ID, &good), 200),
        ("application/json", grant, claim(&fcm.key, KEY_ID, &good), 400),
        (form, "password", claim(&fcm.key, KEY_ID, &good), 400),
        (form, grant, "not.a.claim".to_owned(), 400),
        (form, grant, claim(&stranger, KEY_ID, &good), 400),
        (form, grant, claim(&fcm.key, "other", &good), 400),
        (form, grant, with("iss", json!("other")), 400),
        (form, grant, with("scope", json!("https://www.googleapis.com/auth/cloud-platform")), 400),
        (form, grant, with("aud", json!("https://elsewhere.example/other")), 400),
        (form, grant, with("exp", json!(now + 3_601)), 400),
        (form, grant, with("exp", json!(now)), 400),
        (form, grant, with("iat", json!(now + 600)), 400),
    ];
    let client = plain_client(&fcm.service, true);
    for (number, (content, grant, claim, expected)) in cases.into_iter().enumerate() {
        let body = format!("grant_type={grant}&assertion={claim}");
        let request = client.post(&aud).header("content-type", content).body(body);
        assert_eq!(request.send().await.unwrap().status().as_u16(), expected, "case {number}");
    }
}

#[tokio::test]
async fn the_local_fcm_refuses_whatever_the_real_one_refuses() {
    let fcm = Fcm::start().await;
    fcm.granted.store(1, Ordering::SeqCst);
    let good =
        json!({"message": {"token": DEVICE, "data": {"hearth": "x"}, "android": {"priority": "HIGH", "ttl": "9s"}}});
    let with = |path: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(path).unwrap() = value;
        body.to_string()
    };
    let path = format!("/v1/projects/{PROJECT}/messages:send");
    let json_type = "application/json";
    let text = |bytes: usize| json!("x".repeat(bytes));
    let cases = [
        (&path[..], "ya29.1", json_type, good.to_string(), 200),
        (&path, "ya29.0", json_type, good.to_string(), 401),
        ("/v1/projects/other/messages:send", "ya29.1", json_type, good.to_string(), 404),
        (&path, "ya29.1", "text/plain", good.to_string(), 400),
        (&path, "ya29.1", json_type, "{".to_owned(), 400),
        (&path, "ya29.1", json_type, with("/message", json!({"token": DEVICE, "data": {}, "text": "x"})), 400),
        (&path, "ya29.1", json_type, with("/message/data/hearth", json!(12)), 400),
        (&path, "ya29.1", json_type, with("/message/data", json!({"from": "x"})), 400),
        (&path, "ya29.1", json_type, with("/message/data/hearth", text(4_090)), 200),
        (&path, "ya29.1", json_type, with("/message/data/hearth", text(4_091)), 400),
        (&path, "ya29.1", json_type, with("/message/android/priority", json!("LOUD")), 400),
        (&path, "ya29.1", json_type, with("/message/android/ttl", json!("9")), 400),
        (&path, "ya29.1", json_type, with("/message/android/ttl", json!("2419201s")), 400),
        (&path, "ya29.1", json_type, with("/message/token", json!(REMOVED)), 404),
        (&path, "ya29.1", json_type, with("/message/token", json!("unknown")), 400),
        (&path, "ya29.1", json_type, with("/message/token", json!(OTHER_SENDER)), 403),
    ];
    let client = plain_client(&fcm.service, true);
    for (number, (path, token, content, body, expected)) in cases.into_iter().enumerate() {
        let url = format!("{}{path}", fcm.service.origin);
        let request = client.post(url).bearer_auth(token).header("content-type", content).body(body);
        assert_eq!(request.send().await.unwrap().status().as_u16(), expected, "case {number}");
    }
}
