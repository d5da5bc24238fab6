//! Firebase Cloud Messaging (HTTP v1) and Google's token endpoint as their documents describe them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::Method;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use parking_lot::Mutex;
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{NOW, Received, Reply, TlsService};

pub(crate) const PROJECT: &str = "hearth-test";
pub(crate) const EMAIL: &str = "push@hearth-test.iam.gserviceaccount.com";
pub(crate) const KEY_ID: &str = "4ee1";
pub(crate) const DEVICE: &str = "bk3RNwTe3H0:CI2k_HHwgIpoDKCIZvvDMExUdFQ3P1";
pub(crate) const REMOVED: &str = "removed";
pub(crate) const OTHER_SENDER: &str = "other-sender";

pub(crate) struct Fcm {
    pub(crate) service: TlsService,
    pub(crate) key: KeyPair,
    /// The service's clock, in milliseconds.
    pub(crate) clock: Arc<AtomicU64>,
    /// How many tokens were granted; the newest is the only one that is good.
    pub(crate) granted: Arc<AtomicU64>,
}

struct Rules {
    key: DecodingKey,
    origin: Arc<Mutex<String>>,
    clock: Arc<AtomicU64>,
    granted: Arc<AtomicU64>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    scope: String,
    aud: String,
    iat: u64,
    exp: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    message: Message,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    token: String,
    data: std::collections::BTreeMap<String, Value>,
    #[serde(default)]
    android: Android,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Android {
    #[serde(rename = "collapse_key")]
    _collapse_key: Option<String>,
    priority: Option<String>,
    ttl: Option<String>,
}

fn error(status: u16, name: &str, details: Value) -> Reply {
    let error = json!({"code": status, "message": "no", "status": name, "details": details});
    Reply::new(status, json!({"error": error}).to_string())
}

fn fcm_error(status: u16, name: &str, code: &str) -> Reply {
    let kind = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
    error(status, name, json!([{"@type": kind, "errorCode": code}]))
}

fn bad_field(field: &str) -> Reply {
    let kind = "type.googleapis.com/google.rpc.BadRequest";
    let violations = json!([{"field": field, "description": "no"}]);
    error(400, "INVALID_ARGUMENT", json!([{"@type": kind, "fieldViolations": violations}]))
}

fn no_grant(reason: &str) -> Reply {
    Reply::new(400, json!({"error": reason, "error_description": "no"}).to_string())
}

impl Rules {
    /// RFC 7523, with Google's claims.
    fn grant(&self, request: &Received) -> Result<Reply, Reply> {
        if request.method != Method::POST {
            return Err(Reply::new(405, ""));
        }
        if request.header("content-type") != Some("application/x-www-form-urlencoded") {
            return Err(no_grant("invalid_request"));
        }
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let fields: Vec<(&str, &str)> = body.split('&').filter_map(|field| field.split_once('=')).collect();
        let field = |name: &str| fields.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
        if field("grant_type") != Some("urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer") {
            return Err(no_grant("unsupported_grant_type"));
        }
        let mut validation = Validation::new(Algorithm::RS256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claim = field("assertion").ok_or_else(|| no_grant("invalid_request"))?;
        let claim =
            jsonwebtoken::decode::<Claims>(claim, &self.key, &validation).map_err(|_| no_grant("invalid_grant"))?;
        let (now, claims) = (self.clock.load(Ordering::SeqCst) / 1_000, claim.claims);
        let aud = claims.aud == format!("{}/token", self.origin.lock());
        let scope = claims.scope == "https://www.googleapis.com/auth/firebase.messaging";
        let lives = claims.iat <= now + 60 && now < claims.exp && claims.exp <= claims.iat + 3_600;
        if claims.iss != EMAIL || claim.header.kid.as_deref() != Some(KEY_ID) || !aud || !scope || !lives {
            return Err(no_grant("invalid_grant"));
        }
        let number = self.granted.fetch_add(1, Ordering::SeqCst) + 1;
        let token = json!({"access_token": format!("ya29.{number}"), "expires_in": 3_599, "token_type": "Bearer"});
        Ok(Reply::new(200, token.to_string()))
    }

    fn send(&self, request: &Received) -> Result<Reply, Reply> {
        let good = format!("ya29.{}", self.granted.load(Ordering::SeqCst));
        if request.bearer() != Some(good.as_str()) {
            return Err(error(401, "UNAUTHENTICATED", json!([])));
        }
        if request.method != Method::POST || request.path != format!("/v1/projects/{PROJECT}/messages:send") {
            return Err(error(404, "NOT_FOUND", json!([])));
        }
        if request.header("content-type") != Some("application/json") {
            return Err(error(400, "INVALID_ARGUMENT", json!([])));
        }
        let Ok(Request { message }) = serde_json::from_slice(&request.body) else { return Err(bad_field("message")) };
        let mut bytes = 0;
        for (key, value) in &message.data {
            let reserved =
                key == "from" || key == "message_type" || key.starts_with("google") || key.starts_with("gcm");
            let text = value.as_str().filter(|_| !reserved).ok_or_else(|| bad_field("message.data[0].value"))?;
            bytes += key.len() + text.len();
        }
        if bytes > 4_096 {
            return Err(bad_field("message.data"));
        }
        let Android { priority, ttl, .. } = message.android;
        if priority.is_some_and(|priority| !["NORMAL", "HIGH"].contains(&priority.as_str())) {
            return Err(bad_field("message.android.priority"));
        }
        let life = ttl.map(|ttl| ttl.strip_suffix('s').and_then(|ttl| ttl.parse::<u64>().ok()));
        if life.is_some_and(|life| life.is_none_or(|life| life > 28 * 24 * 3_600)) {
            return Err(bad_field("message.android.ttl"));
        }
        match message.token.as_str() {
            DEVICE => Ok(Reply::new(200, json!({"name": format!("projects/{PROJECT}/messages/1")}).to_string())),
            REMOVED => Err(fcm_error(404, "NOT_FOUND", "UNREGISTERED")),
            OTHER_SENDER => Err(fcm_error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH")),
            "" => Err(bad_field("message.token")),
            _ => Err(fcm_error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT")),
        }
    }
}

impl Fcm {
    pub(crate) async fn start() -> Self {
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let (clock, granted) = (Arc::new(AtomicU64::new(NOW.0)), Arc::new(AtomicU64::new(0)));
        let public = DecodingKey::from_rsa_der(key.public_key_raw());
        let origin: Arc<Mutex<String>> = Arc::default();
        let rules = Rules {
            key: public,
            origin: Arc::clone(&origin),
            clock: Arc::clone(&clock),
            granted: Arc::clone(&granted),
        };
        let answering = move |request: &Received| {
            let answer = if request.path == "/token" { rules.grant(request) } else { rules.send(request) };
            answer.unwrap_or_else(|refusal| refusal)
        };
        let service = TlsService::start(&["h2", "http/1.1"], Arc::new(answering)).await;
        service.origin.clone_into(&mut origin.lock());
        Self { service, key, clock, granted }
    }

    /// The file that an operator gets.
    pub(crate) fn account(&self) -> String {
        json!({
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": KEY_ID,
            "private_key": self.key.serialize_pem(),
            "client_email": EMAIL,
            "token_uri": format!("{}/token", self.service.origin),
        })
        .to_string()
    }
}
