//! What the senders send, read by Python's `http_ece`, `py_vapid` and `cryptography`.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use region_model::push::ports::{Detail, Preview, PushSender as _, Sent, Target};
use region_push::apns::{ApnsOptions, ApnsSender};
use region_push::fcm::{FcmOptions, FcmSender};
use serde_json::{Value, json};

use crate::apns_service::{Apns, DEVICE, KEY_ID, TEAM, TOPIC};
use crate::fcm_service::{self, Fcm};
use crate::python::python;
use crate::support::{NOW, notice, subscription};
use crate::web_push::{pkcs8, sender, vapid};
use crate::web_push_service::{ALIVE, PushService};

fn ask(verb: &str, cases: &Value) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/push/independent.py");
    let mut command = Command::new(python("tests/push/requirements.txt", "push-python"));
    command.arg(script).arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    child.stdin.take().unwrap().write_all(cases.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).expect("its answer")
}

fn bytes(text: &Value) -> Bytes {
    URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_library_decrypts_web_push_bodies_and_verifies_vapid() {
    let key = pkcs8();
    let vapid = vapid(&key);
    let push = PushService::start(vapid.public_key()).await;
    let sender = sender(&vapid, &push);
    let browser = tokio::task::block_in_place(|| ask("subscribe", &Value::Null));
    let endpoint = format!("{}{ALIVE}", push.service.origin);
    let target = Target::WebPush { endpoint, p256dh: bytes(&browser["p256dh"]), auth: bytes(&browser["auth"]) };
    let to = subscription(target);
    let preview = notice(Detail::Preview(Preview { title: "Ann é".to_owned(), text: "Hello 🎉".repeat(2_000) }));
    let mut cases = Vec::new();
    for notice in [notice(Detail::Nothing), notice(Detail::Ids), preview] {
        assert_eq!(sender.send(&to, &notice, NOW).await, Sent::Accepted);
        let body = URL_SAFE_NO_PAD.encode(push.service.last().body);
        cases.push(json!({"what": "decrypt", "private": browser["private"], "auth": browser["auth"], "body": body}));
    }
    let authorization = push.service.last().header("authorization").unwrap().to_owned();
    cases.push(json!({"what": "vapid", "authorization": authorization}));
    // Each of these breaks one thing.
    let broken = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut case = cases[1].clone();
        let mut changed = bytes(&case[name]).to_vec();
        change(&mut changed);
        case[name] = json!(URL_SAFE_NO_PAD.encode(changed));
        case
    };
    let stranger = tokio::task::block_in_place(|| ask("subscribe", &Value::Null));
    let mut others = cases[1].clone();
    others["private"] = stranger["private"].clone();
    let last = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    let breaks = [
        broken("body", &last),
        broken("body", &|body| body[0] ^= 1),
        broken("body", &|body| body[100] ^= 1),
        broken("auth", &last),
        others,
        json!({"what": "vapid", "authorization": authorization.replace("vapid t=ey", "vapid t=eX")}),
        json!({"what": "vapid", "authorization": authorization.replace(vapid.public_key(), crate::web_push::vapid(&pkcs8()).public_key())}),
    ];
    cases.extend(breaks);
    let read = tokio::task::block_in_place(|| ask("check", &json!(cases)));
    let tag = "n9HuwtcYqBmHkyF8_2oG5A";
    let payload = |number: usize| serde_json::from_str::<Value>(read[number].as_str().unwrap()).unwrap();
    assert_eq!(payload(0), json!({"type": "notify", "tag": tag}));
    assert_eq!((&payload(1)["sequenceNumber"], &payload(1)["tag"]), (&json!(41), &json!(tag)));
    assert!(payload(2)["text"].as_str().unwrap().starts_with("Hello 🎉Hello"));
    assert_eq!(read[3]["aud"], push.service.origin);
    assert_eq!(read[3]["sub"], "mailto:push@example.com");
    for number in 4..cases.len() {
        assert!(read[number].is_null(), "case {number} breaks something and was taken: {}", read[number]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_library_verifies_the_tokens_of_apns_and_fcm() {
    let (apns, fcm) = (Apns::start().await, Fcm::start().await);
    let sender = ApnsSender::new(ApnsOptions {
        origin: apns.service.origin.clone(),
        team_id: TEAM.to_owned(),
        key_id: KEY_ID.to_owned(),
        key_pem: apns.key.serialize_pem(),
        topic: TOPIC.to_owned(),
        http: apns.service.http(),
    });
    let to = subscription(Target::Apns { device_token: DEVICE.to_owned() });
    assert_eq!(sender.unwrap().send(&to, &notice(Detail::Ids), NOW).await, Sent::Accepted);
    let options =
        FcmOptions { origin: fcm.service.origin.clone(), service_account: fcm.account(), http: fcm.service.http() };
    let to = subscription(Target::Fcm { registration: fcm_service::DEVICE.to_owned() });
    assert_eq!(FcmSender::new(options).unwrap().send(&to, &notice(Detail::Ids), NOW).await, Sent::Accepted);
    let provider = apns.service.last().bearer().unwrap().to_owned();
    let exchange = String::from_utf8(fcm.service.received()[0].body.to_vec()).unwrap();
    let claim = exchange.split_once("assertion=").unwrap().1.to_owned();
    let case = |token: &str, key: &rcgen::KeyPair| json!({"what": "token", "token": token, "key": key.serialize_pem()});
    let cut = |token: &str| token[..token.len() - 8].to_owned() + "AAAAAAAA";
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let cases = json!([
        case(&provider, &apns.key),
        case(&claim, &fcm.key),
        case(&cut(&provider), &apns.key),
        case(&cut(&claim), &fcm.key),
        case(&provider, &ec),
        case(&claim, &rsa),
    ]);
    let read = tokio::task::block_in_place(|| ask("check", &cases));
    assert_eq!(read[0]["header"], json!({"alg": "ES256", "kid": KEY_ID}));
    assert_eq!(read[0]["claims"], json!({"iss": TEAM, "iat": NOW.0 / 1_000}));
    assert_eq!(read[1]["header"]["alg"], "RS256");
    assert_eq!(read[1]["claims"]["exp"].as_u64().unwrap() - read[1]["claims"]["iat"].as_u64().unwrap(), 3_600);
    for number in 2..6 {
        assert!(read[number].is_null(), "case {number} breaks something and was taken");
    }
}
