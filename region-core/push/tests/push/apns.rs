use std::sync::atomic::Ordering;
use std::time::Duration;

use hearth_protocol::Timestamp;
use hyper::Version;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use region_model::push::ports::{Detail, Notice, Preview, PushSender as _, Scope, Sent, Subscription, Target};
use region_push::apns::{ApnsOptions, ApnsSender};
use serde_json::{Value, json};

use crate::apns_service::{Apns, DEVICE, KEY_ID, REMOVED, TEAM, TOPIC};
use crate::support::{NOW, Received, Reply, TlsService, clear, notice, plain_client, subscription};

fn options(apns: &Apns) -> ApnsOptions {
    ApnsOptions {
        origin: apns.service.origin.clone(),
        team_id: TEAM.to_owned(),
        key_id: KEY_ID.to_owned(),
        key_pem: apns.key.serialize_pem(),
        topic: TOPIC.to_owned(),
        http: apns.service.http(),
    }
}

fn device(token: &str) -> Subscription {
    subscription(Target::Apns { device_token: token.to_owned() })
}

fn preview(text: &str) -> Notice {
    notice(Detail::Preview(Preview { title: "Ann".to_owned(), text: text.to_owned() }))
}

#[tokio::test]
async fn apns_takes_what_the_sender_sends_as_alert_and_as_clear() {
    let apns = Apns::start().await;
    let sender = ApnsSender::new(options(&apns)).unwrap();
    assert_eq!(sender.send(&device(DEVICE), &notice(Detail::Nothing), NOW).await, Sent::Accepted);
    let alert = apns.service.last();
    assert_eq!((alert.version, alert.header("apns-push-type")), (Version::HTTP_2, Some("alert")));
    assert_eq!(alert.header("apns-collapse-id"), Some("n9HuwtcYqBmHkyF8_2oG5A"));
    assert_eq!(alert.header("apns-expiration"), Some("1800003600"));
    let body: Value = serde_json::from_slice(&alert.body).unwrap();
    assert_eq!(body["hearth"], json!({"type": "notify", "tag": "n9HuwtcYqBmHkyF8_2oG5A"}), "free of content");
    assert_eq!(body["aps"]["alert"], json!({"loc-key": "HEARTH_NEW_MESSAGE"}));
    assert_eq!(sender.send(&device(DEVICE), &clear(), NOW).await, Sent::Accepted);
    let silent = apns.service.last();
    assert_eq!((silent.header("apns-push-type"), silent.header("apns-priority")), (Some("background"), Some("5")));
    let body: Value = serde_json::from_slice(&silent.body).unwrap();
    assert_eq!((&body["aps"], &body["hearth"]["type"]), (&json!({"content-available": 1}), &json!("clear")));
    assert_eq!(alert.header("authorization"), silent.header("authorization"), "one token serves both");
}

#[tokio::test]
async fn a_preview_of_any_length_is_cut_to_what_apns_takes() {
    let apns = Apns::start().await;
    let sender = ApnsSender::new(options(&apns)).unwrap();
    for text in ["x".repeat(16_384), "\"\\\n".repeat(5_000), "é🎉".repeat(3_000), String::new()] {
        assert_eq!(sender.send(&device(DEVICE), &preview(&text), NOW).await, Sent::Accepted);
        let body = apns.service.last().body;
        assert!(body.len() <= 4_096 && (text.is_empty() || body.len() > 4_000), "{}", body.len());
    }
}

#[tokio::test]
async fn a_dead_device_is_gone_unless_it_registered_after_its_death() {
    let apns = Apns::start().await;
    let sender = ApnsSender::new(options(&apns)).unwrap();
    let unknown = "22fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0";
    for dead in [REMOVED, unknown, "", "../../", "not hexadecimal"] {
        assert_eq!(sender.send(&device(dead), &notice(Detail::Ids), NOW).await, Sent::Gone, "{dead}");
    }
    let again = Subscription { registered_at: Timestamp(NOW.0 + 2_000), ..device(REMOVED) };
    assert_eq!(sender.send(&again, &notice(Detail::Ids), NOW).await, Sent::Failed("registered_again"));
}

#[tokio::test]
async fn a_provider_token_serves_fifty_minutes_and_is_replaced_before_it_is_refused() {
    let apns = Apns::start().await;
    let sender = ApnsSender::new(options(&apns)).unwrap();
    let mut tokens = Vec::new();
    for minutes in [0, 25, 49, 50, 75, 99, 100] {
        let now = Timestamp(NOW.0 + minutes * 60_000);
        apns.clock.store(now.0, Ordering::SeqCst);
        assert_eq!(sender.send(&device(DEVICE), &notice(Detail::Ids), now).await, Sent::Accepted, "{minutes}");
        tokens.push(apns.service.last().bearer().unwrap().to_owned());
    }
    tokens.dedup();
    assert_eq!(tokens.len(), 3);
}

#[tokio::test]
async fn an_expired_provider_token_is_made_anew_once_and_never_more_often_than_in_twenty_minutes() {
    let apns = Apns::start().await;
    let sender = ApnsSender::new(options(&apns)).unwrap();
    assert_eq!(sender.send(&device(DEVICE), &notice(Detail::Ids), NOW).await, Sent::Accepted);
    // The service's clock is ahead by more than the spare time.
    apns.clock.store(NOW.0 + 70 * 60_000, Ordering::SeqCst);
    let early = Timestamp(NOW.0 + 19 * 60_000);
    let rest = Sent::Wait { scope: Scope::Way, after: Some(Duration::from_secs(300)) };
    assert_eq!(sender.send(&device(DEVICE), &notice(Detail::Ids), early).await, rest);
    assert_eq!(apns.service.received().len(), 2, "no second attempt");
    let late = Timestamp(NOW.0 + 21 * 60_000);
    assert_eq!(sender.send(&device(DEVICE), &notice(Detail::Ids), late).await, Sent::Accepted);
    assert_eq!(apns.service.received().len(), 4, "refused, and once more with another token");
}

#[tokio::test]
async fn answers_of_apns_are_followed_as_documented() {
    let apns = Apns::start().await;
    let sender = ApnsSender::new(options(&apns)).unwrap();
    let seconds = |scope, seconds| Sent::Wait { scope, after: Some(Duration::from_secs(seconds)) };
    let reason = |reason: &str| format!(r#"{{"reason":"{reason}"}}"#);
    let cases = [
        (Reply::new(429, reason("TooManyRequests")).retry_after("7"), seconds(Scope::Subscription, 7)),
        (Reply::new(429, reason("TooManyRequests")), seconds(Scope::Subscription, 60)),
        (Reply::new(429, reason("TooManyProviderTokenUpdates")), seconds(Scope::Way, 1_200)),
        (Reply::new(503, reason("ServiceUnavailable")).retry_after("9"), seconds(Scope::Way, 9)),
        (Reply::new(503, reason("Shutdown")), seconds(Scope::Way, 60)),
        (Reply::new(500, reason("InternalServerError")), Sent::Failed("service")),
        (Reply::new(403, reason("InvalidProviderToken")), seconds(Scope::Way, 300)),
        (Reply::new(413, reason("PayloadTooLarge")), Sent::Refused("too_large")),
        (Reply::new(400, reason("DeviceTokenNotForTopic")), Sent::Refused("topic")),
        (Reply::new(400, reason("BadCollapseId")), Sent::Refused("request")),
        (Reply::new(400, "not json"), Sent::Refused("request")),
        (Reply::new(410, ""), Sent::Gone),
        (Reply::new(302, "").retry_after("1"), Sent::Failed("service")),
    ];
    for (reply, expected) in cases {
        apns.service.answer_next(reply.clone());
        assert_eq!(sender.send(&device(DEVICE), &notice(Detail::Ids), NOW).await, expected, "{reply:?}");
    }
}

#[tokio::test]
async fn a_service_without_http_2_or_with_a_stranger_certificate_is_not_spoken_to() {
    let answering = std::sync::Arc::new(|_: &Received| Reply::new(200, ""));
    let old = TlsService::start(&["http/1.1"], answering.clone()).await;
    let stranger = TlsService::start(&["h2"], answering).await;
    let apns = Apns::start().await;
    for (origin, http) in [(&old.origin, old.http()), (&stranger.origin, apns.service.http())] {
        let sender = ApnsSender::new(ApnsOptions { origin: origin.clone(), http, ..options(&apns) }).unwrap();
        let sent = sender.send(&device(DEVICE), &notice(Detail::Ids), NOW).await;
        assert!(matches!(sent, Sent::Failed(_)), "{sent:?}");
    }
    assert!(old.received().is_empty() && stranger.received().is_empty());
}

#[test]
fn credentials_of_another_form_are_refused_at_the_start() {
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem();
    let good = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    let options = |key: &str, topic: &str| ApnsOptions {
        origin: "https://localhost".to_owned(),
        team_id: TEAM.to_owned(),
        key_id: KEY_ID.to_owned(),
        key_pem: key.to_owned(),
        topic: topic.to_owned(),
        http: region_push::HttpOptions::default(),
    };
    assert!(ApnsSender::new(options(&good, TOPIC)).is_ok());
    for (key, topic) in [(rsa.as_str(), TOPIC), ("", TOPIC), (&good, ""), (&good, "a\nb")] {
        assert!(ApnsSender::new(options(key, topic)).is_err());
    }
    assert!(!format!("{:?}", options(&good, TOPIC)).contains("PRIVATE"));
}

/// A request that the service takes, in parts that a test breaks one at a time.
struct Good {
    http2: bool,
    method: reqwest::Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: String,
}

fn token(key: &rcgen::KeyPair, kid: &str, iss: &str, iat: u64) -> String {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::ES256) };
    let key = EncodingKey::from_ec_der(&key.serialize_der());
    format!("Bearer {}", jsonwebtoken::encode(&header, &json!({"iss": iss, "iat": iat}), &key).unwrap())
}

impl Good {
    fn of(token: &str) -> Self {
        let headers = [
            ("authorization", token),
            ("apns-topic", TOPIC),
            ("apns-push-type", "alert"),
            ("apns-priority", "10"),
            ("apns-collapse-id", "a"),
            ("apns-expiration", "1"),
        ];
        Self {
            http2: true,
            method: reqwest::Method::POST,
            path: format!("/3/device/{DEVICE}"),
            headers: headers.into_iter().map(|(name, value)| (name, value.to_owned())).collect(),
            body: r#"{"aps":{}}"#.to_owned(),
        }
    }

    fn with(mut self, name: &str, value: Option<&str>) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        if let Some(value) = value {
            self.headers.push((name.to_owned().leak(), value.to_owned()));
        }
        self
    }

    async fn answer(self, apns: &Apns) -> String {
        let client = plain_client(&apns.service, self.http2);
        let mut request = client.request(self.method, format!("{}{}", apns.service.origin, self.path)).body(self.body);
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let Ok(response) = request.send().await else { return "no connection".to_owned() };
        let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
        let reason =
            serde_json::from_str::<Value>(&text).ok().and_then(|json| json["reason"].as_str().map(str::to_owned));
        format!("{status} {}", reason.unwrap_or_default()).trim().to_owned()
    }
}

#[tokio::test]
async fn the_local_apns_refuses_whatever_the_real_one_refuses() {
    let seconds = NOW.0 / 1_000;
    let apns = Apns::start().await;
    let good = token(&apns.key, KEY_ID, TEAM, seconds);
    let other_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let new = || Good::of(&good);
    let at = |path: &str| Good { path: path.to_owned(), ..new() };
    let sized = |bytes: usize| Good { body: "x".repeat(bytes), ..new() };
    let authorized = |token: String| new().with("authorization", Some(&token));
    let cases = [
        (new(), "200"),
        (Good { http2: false, ..new() }, "no connection"),
        (Good { method: reqwest::Method::PUT, ..new() }, "405 MethodNotAllowed"),
        (at("/4/device/00"), "404 BadPath"),
        (at("/3/device/"), "400 MissingDeviceToken"),
        (at("/3/device/00"), "400 BadDeviceToken"),
        (at(&format!("/3/device/{REMOVED}")), "410 Unregistered"),
        (new().with("authorization", None), "403 MissingProviderToken"),
        (authorized(token(&other_key, KEY_ID, TEAM, seconds)), "403 InvalidProviderToken"),
        (authorized(token(&apns.key, "OTHER", TEAM, seconds)), "403 InvalidProviderToken"),
        (authorized(token(&apns.key, KEY_ID, "OTHER", seconds)), "403 InvalidProviderToken"),
        (authorized(token(&apns.key, KEY_ID, TEAM, seconds + 900)), "403 InvalidProviderToken"),
        (authorized(token(&apns.key, KEY_ID, TEAM, seconds - 3_600)), "403 ExpiredProviderToken"),
        (authorized(token(&apns.key, KEY_ID, TEAM, seconds - 1)), "429 TooManyProviderTokenUpdates"),
        (new().with("apns-topic", None), "400 MissingTopic"),
        (new().with("apns-topic", Some("net.example.other")), "400 DeviceTokenNotForTopic"),
        (new().with("apns-push-type", None), "400 InvalidPushType"),
        (new().with("apns-push-type", Some("loud")), "400 InvalidPushType"),
        (new().with("apns-push-type", Some("background")), "400 BadPriority"),
        (new().with("apns-priority", Some("7")), "400 BadPriority"),
        (new().with("apns-collapse-id", Some(&"a".repeat(64))), "200"),
        (new().with("apns-collapse-id", Some(&"a".repeat(65))), "400 BadCollapseId"),
        (new().with("apns-expiration", Some("tomorrow")), "400 BadExpirationDate"),
        (sized(0), "400 PayloadEmpty"),
        (sized(4_096), "200"),
        (sized(4_097), "413 PayloadTooLarge"),
    ];
    for (number, (request, expected)) in cases.into_iter().enumerate() {
        assert_eq!(request.answer(&apns).await, expected, "case {number}");
    }
}
