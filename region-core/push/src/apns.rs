//! Apple's service: one HTTP/2 POST a push, under a provider token (ES256).

use std::time::Duration;

use async_trait::async_trait;
use hearth_protocol::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use region_model::push::Showing;
use region_model::push::ports::{Notice, PushSender, Scope, Sent, Subscription, Target};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::http::{Answer, Versions, ask, client};
use crate::{HttpOptions, SetupError, payload};

/// Apple's service for apps from its store.
pub const PRODUCTION: &str = "https://api.push.apple.com";
/// Apple's service for apps under development. A device token is good at one of the two.
pub const DEVELOPMENT: &str = "https://api.sandbox.push.apple.com";

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 4_096;
/// Bytes of `apns-collapse-id`.
const COLLAPSE_BYTES: usize = 64;
/// A token is made anew after this time: it is refused after an hour.
const TOKEN_AGE: Duration = Duration::from_secs(50 * 60);
/// And never more often than this, or the service answers 429 `TooManyProviderTokenUpdates`.
const TOKEN_REST: Duration = Duration::from_secs(20 * 60);
/// How long everything rests when the service does not believe the credentials: an operator has to mend them.
const CREDENTIALS_REST: Duration = Duration::from_secs(300);
/// What the service leaves open about 429 and 503.
const BUSY_REST: Duration = Duration::from_secs(60);

/// What the operator has from Apple.
#[derive(Clone)]
pub struct ApnsOptions {
    /// [`PRODUCTION`] or [`DEVELOPMENT`].
    pub origin: String,
    /// The team's id: the token's `iss`.
    pub team_id: String,
    /// The key's id: the token's `kid`.
    pub key_id: String,
    /// The key: the text of the `.p8` file.
    pub key_pem: String,
    /// The app's bundle id.
    pub topic: String,
    /// How to reach it.
    pub http: HttpOptions,
}

/// Without the key.
impl std::fmt::Debug for ApnsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApnsOptions").field("origin", &self.origin).field("topic", &self.topic).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Token {
    text: String,
    made_at: Timestamp,
}

/// Sends to Apple's service.
pub struct ApnsSender {
    client: reqwest::Client,
    options: ApnsOptions,
    key: EncodingKey,
    token: Mutex<Option<Token>>,
}

impl std::fmt::Debug for ApnsSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApnsSender").field("options", &self.options).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: u64,
}

/// What Apple's own software reads, and beside it the client's part.
#[derive(Serialize)]
struct Payload<'a> {
    aps: Aps<'a>,
    hearth: &'a RawValue,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Aps<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<Alert>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<&'a str>,
    /// Lets the app's extension fetch what is to be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    mutable_content: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_available: Option<u8>,
}

/// A text of the app itself, in the language of the device: nothing of the message.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Alert {
    loc_key: &'static str,
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    reason: String,
    /// With 410: since when the token is dead, in milliseconds.
    timestamp: Option<u64>,
}

impl ApnsSender {
    /// Makes a sender.
    ///
    /// # Errors
    /// [`SetupError`] when the key is not a P-256 key in PKCS #8, or a value has another form.
    pub fn new(options: ApnsOptions) -> Result<Self, SetupError> {
        let expected = "a PKCS #8 key of P-256 in PEM (the .p8 file)";
        let key = EncodingKey::from_ec_pem(options.key_pem.as_bytes());
        let key = key.map_err(|_| SetupError::Key { what: "the key of APNs", expected })?;
        let header_safe = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        for (what, value) in [("team_id", &options.team_id), ("key_id", &options.key_id), ("topic", &options.topic)] {
            if !header_safe(value) {
                return Err(SetupError::Value { what, rule: "must be printable ASCII without spaces" });
            }
        }
        let sender = Self { client: client(&options.http, Versions::Two)?, options, key, token: Mutex::new(None) };
        sender.make_token(Timestamp(0)).ok_or(SetupError::Key { what: "the key of APNs", expected })?;
        Ok(sender)
    }

    fn make_token(&self, now: Timestamp) -> Option<String> {
        let header = Header { typ: None, kid: Some(self.options.key_id.clone()), ..Header::new(Algorithm::ES256) };
        let claims = Claims { iss: &self.options.team_id, iat: now.0 / 1_000 };
        jsonwebtoken::encode(&header, &claims, &self.key).ok()
    }

    /// The token in use, made anew when it is too old.
    fn token(&self, now: Timestamp) -> Option<Token> {
        let mut token = self.token.lock();
        if token.as_ref().is_none_or(|token| age(token, now) >= TOKEN_AGE) {
            *token = self.make_token(now).map(|text| Token { text, made_at: now });
        }
        token.clone()
    }

    /// The service says that a token is too old. `None` when another one was made too short a time ago.
    fn renewed(&self, refused: &Token, now: Timestamp) -> Option<Token> {
        let mut token = self.token.lock();
        if token.as_ref().is_some_and(|token| token.text == refused.text) {
            if age(refused, now) < TOKEN_REST {
                return None;
            }
            *token = self.make_token(now).map(|text| Token { text, made_at: now });
        }
        token.clone()
    }

    async fn post(&self, token: &Token, device: &str, notice: &Notice, now: Timestamp) -> Result<Answer, Sent> {
        let clear = notice.showing == Showing::Clear;
        let body = payload_of(notice).ok_or(Sent::Refused("payload"))?;
        let (push_type, priority) = if clear { ("background", "5") } else { ("alert", "10") };
        let url = format!("{}/3/device/{device}", self.options.origin);
        let request = self
            .client
            .post(url)
            .bearer_auth(&token.text)
            .header("apns-topic", &self.options.topic)
            .header("apns-push-type", push_type)
            .header("apns-priority", priority)
            .header("apns-collapse-id", &notice.collapse)
            .header("apns-expiration", (notice.not_after.0 / 1_000).to_string())
            .header("content-type", "application/json")
            .body(body);
        ask(request, now).await.map_err(Sent::Failed)
    }
}

fn age(token: &Token, now: Timestamp) -> Duration {
    Duration::from_millis(now.0.saturating_sub(token.made_at.0))
}

/// The whole payload, never above [`PAYLOAD_BYTES`].
fn payload_of(notice: &Notice) -> Option<Vec<u8>> {
    let aps = || match notice.showing {
        Showing::Clear => Aps { content_available: Some(1), ..Aps::default() },
        Showing::Notify { .. } => Aps {
            alert: Some(Alert { loc_key: "HEARTH_NEW_MESSAGE" }),
            sound: Some("default"),
            thread_id: Some(&notice.collapse),
            mutable_content: Some(1),
            ..Aps::default()
        },
    };
    let around = serde_json::to_vec(&Payload { aps: aps(), hearth: RawValue::NULL }).ok()?.len();
    let data = String::from_utf8(payload::data(notice, PAYLOAD_BYTES + "null".len() - around)?).ok()?;
    let data: Box<RawValue> = serde_json::from_str(&data).ok()?;
    serde_json::to_vec(&Payload { aps: aps(), hearth: &data }).ok()
}

/// What Apple documents of each answer.
fn outcome(answer: &Answer, registered_at: Timestamp) -> Sent {
    let refusal: Refusal = serde_json::from_slice(&answer.body).unwrap_or_default();
    let wait = |scope, rest| Sent::Wait { scope, after: Some(answer.retry_after.unwrap_or(rest)) };
    match (answer.status, refusal.reason.as_str()) {
        (200, _) => Sent::Accepted,
        (400, "BadDeviceToken") => Sent::Gone,
        // A device that registered after that moment has the token again.
        (410, _) if refusal.timestamp.is_none_or(|since| registered_at.0 <= since) => Sent::Gone,
        (410, _) => Sent::Failed("registered_again"),
        (403, _) => {
            tracing::error!(status = 403, "APNs does not believe the provider token");
            wait(Scope::Way, CREDENTIALS_REST)
        }
        (429, "TooManyProviderTokenUpdates") => wait(Scope::Way, TOKEN_REST),
        (429, _) => wait(Scope::Subscription, BUSY_REST),
        (503, _) => wait(Scope::Way, BUSY_REST),
        (413, _) => Sent::Refused("too_large"),
        (400, "DeviceTokenNotForTopic" | "BadTopic" | "MissingTopic" | "TopicDisallowed") => Sent::Refused("topic"),
        (400..=499, _) => Sent::Refused("request"),
        _ => Sent::Failed("service"),
    }
}

#[async_trait]
impl PushSender for ApnsSender {
    fn way(&self, _: &Subscription) -> String {
        "apns".to_owned()
    }

    async fn send(&self, to: &Subscription, notice: &Notice, now: Timestamp) -> Sent {
        let Target::Apns { device_token } = &to.target else { return Sent::Refused("service") };
        let hexadecimal = device_token.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hexadecimal || device_token.is_empty() || device_token.len() > 200 {
            return Sent::Gone;
        }
        if notice.collapse.len() > COLLAPSE_BYTES {
            return Sent::Refused("collapse");
        }
        let Some(token) = self.token(now) else { return Sent::Refused("token") };
        let answer = match self.post(&token, device_token, notice, now).await {
            Ok(answer) => answer,
            Err(sent) => return sent,
        };
        let expired = answer.status == 403 && String::from_utf8_lossy(&answer.body).contains("ExpiredProviderToken");
        let renewed = if expired { self.renewed(&token, now) } else { None };
        let Some(token) = renewed else { return outcome(&answer, to.registered_at) };
        match self.post(&token, device_token, notice, now).await {
            Ok(answer) => outcome(&answer, to.registered_at),
            Err(sent) => sent,
        }
    }
}
