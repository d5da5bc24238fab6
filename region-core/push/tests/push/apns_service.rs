//! Apple's service as its documents describe it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::{Method, Version};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use parking_lot::Mutex;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::Deserialize;

use crate::support::{NOW, Received, Reply, TlsService};

pub(crate) const TEAM: &str = "TEAM123456";
pub(crate) const KEY_ID: &str = "KEY1234567";
pub(crate) const TOPIC: &str = "net.example.hearth";
/// A device that takes pushes.
pub(crate) const DEVICE: &str = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0";
/// One whose app was removed, a second after [`NOW`].
pub(crate) const REMOVED: &str = "11fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0";

pub(crate) struct Apns {
    pub(crate) service: TlsService,
    pub(crate) key: KeyPair,
    /// The service's clock, in milliseconds.
    pub(crate) clock: Arc<AtomicU64>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    iat: u64,
}

struct Rules {
    key: DecodingKey,
    clock: Arc<AtomicU64>,
    /// When the token in use came, and which it is.
    token: Mutex<Option<(u64, String)>>,
}

fn refusal(status: u16, reason: &str) -> Reply {
    Reply::new(status, format!(r#"{{"reason":"{reason}"}}"#))
}

impl Rules {
    /// Provider tokens: signed by the team's key, at most an hour old, and not replaced more often than in 20 minutes.
    fn token(&self, request: &Received) -> Result<(), Reply> {
        let invalid = || refusal(403, "InvalidProviderToken");
        let token = request.bearer().ok_or_else(|| refusal(403, "MissingProviderToken"))?;
        let mut validation = Validation::new(Algorithm::ES256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.key, &validation).map_err(|_| invalid())?;
        if decoded.header.kid.as_deref() != Some(KEY_ID) || decoded.claims.iss != TEAM {
            return Err(invalid());
        }
        let now = self.clock.load(Ordering::SeqCst) / 1_000;
        if decoded.claims.iat > now + 60 {
            return Err(invalid());
        }
        if now >= decoded.claims.iat + 3_600 {
            return Err(refusal(403, "ExpiredProviderToken"));
        }
        let mut held = self.token.lock();
        if let Some((since, text)) = held.as_ref()
            && text != token
            && now < since + 20 * 60
        {
            return Err(refusal(429, "TooManyProviderTokenUpdates"));
        }
        if held.as_ref().is_none_or(|(_, text)| text != token) {
            *held = Some((now, token.to_owned()));
        }
        Ok(())
    }

    fn headers(request: &Received) -> Result<(), Reply> {
        match request.header("apns-topic") {
            None => return Err(refusal(400, "MissingTopic")),
            Some(TOPIC) => {}
            Some(_) => return Err(refusal(400, "DeviceTokenNotForTopic")),
        }
        let push_type = request.header("apns-push-type");
        if !push_type.is_some_and(|push_type| ["alert", "background", "voip"].contains(&push_type)) {
            return Err(refusal(400, "InvalidPushType"));
        }
        let priority = request.header("apns-priority").unwrap_or("10");
        if !["1", "5", "10"].contains(&priority) || (push_type == Some("background") && priority == "10") {
            return Err(refusal(400, "BadPriority"));
        }
        if request.header("apns-collapse-id").is_some_and(|id| id.len() > 64) {
            return Err(refusal(400, "BadCollapseId"));
        }
        if request.header("apns-expiration").is_some_and(|at| at.parse::<u64>().is_err()) {
            return Err(refusal(400, "BadExpirationDate"));
        }
        Ok(())
    }

    fn answer(&self, request: &Received) -> Result<Reply, Reply> {
        if request.version != Version::HTTP_2 {
            return Err(refusal(505, "HttpVersion"));
        }
        if request.method != Method::POST {
            return Err(refusal(405, "MethodNotAllowed"));
        }
        let device = request.path.strip_prefix("/3/device/").ok_or_else(|| refusal(404, "BadPath"))?;
        self.token(request)?;
        Self::headers(request)?;
        if request.body.is_empty() {
            return Err(refusal(400, "PayloadEmpty"));
        }
        if request.body.len() > 4_096 {
            return Err(refusal(413, "PayloadTooLarge"));
        }
        match device {
            "" => Err(refusal(400, "MissingDeviceToken")),
            DEVICE => Ok(Reply::new(200, "")),
            REMOVED => Err(Reply::new(410, format!(r#"{{"reason":"Unregistered","timestamp":{}}}"#, NOW.0 + 1_000))),
            _ => Err(refusal(400, "BadDeviceToken")),
        }
    }
}

impl Apns {
    pub(crate) async fn start() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let clock = Arc::new(AtomicU64::new(NOW.0));
        let public = DecodingKey::from_ec_der(key.public_key_raw());
        let rules = Rules { key: public, clock: Arc::clone(&clock), token: Mutex::new(None) };
        let answering = move |request: &Received| rules.answer(request).unwrap_or_else(|refusal| refusal);
        Self { service: TlsService::start(&["h2"], Arc::new(answering)).await, key, clock }
    }
}
