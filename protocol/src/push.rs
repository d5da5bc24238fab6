//! What a user wants to be woken for, and where: parts of the user's record, and the bodies of the routes that set them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::Refusal;
use crate::ids::{ConversationId, DeviceId, Timestamp, UserId, hashed_uuid};
use crate::limits;

/// What a user wants to be woken for in a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PushPolicy {
    /// Every message of others.
    #[default]
    All,
    /// Messages that name the user.
    Mentions,
    /// None.
    None,
}

/// A user's preferences for a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preferences {
    /// What for.
    pub policy: PushPolicy,
    /// Until when nothing of it, mentions neither.
    pub muted_until: Option<Timestamp>,
}

/// A kind of push service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// Web Push.
    WebPush,
    /// Apple's.
    Apns,
    /// Firebase's.
    Fcm,
}

impl Service {
    /// The service as a label of metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::WebPush => "web_push",
            Self::Apns => "apns",
            Self::Fcm => "fcm",
        }
    }
}

/// Where a push service delivers to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// A browser's subscription (RFC 8030).
    WebPush {
        /// The push resource. Whoever knows it can send there.
        endpoint: String,
        /// The browser's key: a point of P-256, 65 bytes, uncompressed.
        p256dh: Bytes,
        /// The browser's secret, 16 bytes.
        auth: Bytes,
    },
    /// A device of Apple's service.
    Apns {
        /// The device token in hexadecimal.
        device_token: String,
    },
    /// A device of Firebase Cloud Messaging.
    Fcm {
        /// The registration token.
        registration: String,
    },
}

impl Target {
    /// The kind of service.
    #[must_use]
    pub fn service(&self) -> Service {
        match self {
            Self::WebPush { .. } => Service::WebPush,
            Self::Apns { .. } => Service::Apns,
            Self::Fcm { .. } => Service::Fcm,
        }
    }
}

/// Says the service alone: all of the rest would let a reader of a log send.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.service()).finish()
    }
}

/// A device's subscription, as its user's record has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its id.
    pub id: Uuid,
    /// The device that made it.
    pub device: DeviceId,
    /// When the device last said that it holds.
    pub registered_at: Timestamp,
    /// Where it leads.
    pub target: Target,
}

impl Subscription {
    /// A subscription whose id is a function of user and target: registered again it is the same.
    #[must_use]
    pub fn new(user: &UserId, device: DeviceId, target: Target, registered_at: Timestamp) -> Self {
        let place = match &target {
            Target::WebPush { endpoint, .. } => endpoint,
            Target::Apns { device_token } => device_token,
            Target::Fcm { registration } => registration,
        };
        let service = target.service().label();
        let parts = [b"hearth-push-1", user.as_str().as_bytes(), service.as_bytes(), place.as_bytes()];
        Self { id: hashed_uuid(&parts), device, registered_at, target }
    }
}

/// `POST /push-subscriptions`.
#[derive(Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Subscribe {
    /// The device: a later subscription of it to the same service replaces the one before.
    pub device_id: DeviceId,
    /// `web-push`, `apns` or `fcm`.
    pub service: Service,
    /// Of a browser: the push resource.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Of a browser.
    #[serde(default)]
    pub keys: Option<BrowserKeys>,
    /// Of APNs and FCM: the device token, or the registration token.
    #[serde(default)]
    pub token: Option<String>,
}

/// `keys` of a browser's `PushSubscription`, in URL-safe base64.
#[derive(Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BrowserKeys {
    /// A point of P-256, uncompressed.
    pub p256dh: String,
    /// 16 bytes.
    pub auth: String,
}

/// Without what would let a reader of a log send.
impl fmt::Debug for Subscribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe").field("service", &self.service).finish_non_exhaustive()
    }
}

impl fmt::Debug for BrowserKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BrowserKeys")
    }
}

impl Subscribe {
    /// The target, its form checked.
    ///
    /// # Errors
    /// `INVALID_MESSAGE` when a field that the service needs is absent or of another form, `TOO_LARGE` when it is too long.
    pub fn target(&self) -> Result<Target, Refusal> {
        match self.service {
            Service::WebPush => {
                let endpoint = bounded(self.endpoint.as_deref(), "endpoint", limits::URL_CHARACTERS)?;
                if !endpoint.starts_with("https://") || !endpoint.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(Refusal::invalid("`endpoint` is not an https:// URL"));
                }
                let keys = self.keys.as_ref().ok_or_else(|| Refusal::invalid("`keys` is missing"))?;
                let p256dh = key(&keys.p256dh, 65).filter(|point| point[0] == 4);
                let p256dh = p256dh.ok_or_else(|| {
                    Refusal::invalid("`keys.p256dh` is not an uncompressed point of P-256 in URL-safe base64")
                })?;
                let auth = key(&keys.auth, 16)
                    .ok_or_else(|| Refusal::invalid("`keys.auth` is not 16 bytes in URL-safe base64"))?;
                Ok(Target::WebPush { endpoint: endpoint.to_owned(), p256dh, auth })
            }
            Service::Apns => {
                let token = bounded(self.token.as_deref(), "token", limits::APNS_TOKEN_CHARACTERS)?;
                if token.len() < 64 || token.len() % 2 == 1 || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(Refusal::invalid("`token` is not a device token in hexadecimal"));
                }
                Ok(Target::Apns { device_token: token.to_ascii_lowercase() })
            }
            Service::Fcm => {
                let token = bounded(self.token.as_deref(), "token", limits::FCM_TOKEN_CHARACTERS)?;
                if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(Refusal::invalid("`token` is not a registration token"));
                }
                Ok(Target::Fcm { registration: token.to_owned() })
            }
        }
    }
}

fn bounded<'a>(text: Option<&'a str>, name: &'static str, most: usize) -> Result<&'a str, Refusal> {
    let text = text.filter(|text| !text.is_empty()).ok_or_else(|| Refusal::invalid(format!("`{name}` is missing")))?;
    if text.len() > most {
        return Err(Refusal::too_large(format!("`{name}` is too long"), format!("{most} characters of {name}")));
    }
    Ok(text)
}

fn key(text: &str, bytes: usize) -> Option<Bytes> {
    // Browsers leave the padding out, and some libraries put it there.
    let key = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
    (key.len() == bytes).then(|| Bytes::from(key))
}

/// A subscription in answers: what its target is stays in the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionRow {
    /// Its id, for `DELETE`.
    pub subscription_id: Uuid,
    /// The device that made it.
    pub device_id: DeviceId,
    /// Which service.
    pub service: Service,
    /// When the device last said that it holds.
    pub registered_at: Timestamp,
}

/// `GET /push-subscriptions`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionsResponse {
    /// The user's.
    pub subscriptions: Vec<SubscriptionRow>,
    /// What a browser needs to subscribe; absent where Web Push is not configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_server_key: Option<String>,
}

impl From<&Subscription> for SubscriptionRow {
    fn from(subscription: &Subscription) -> Self {
        Self {
            subscription_id: subscription.id,
            device_id: subscription.device,
            service: subscription.target.service(),
            registered_at: subscription.registered_at,
        }
    }
}

/// `DELETE /push-subscriptions`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Unsubscribe {
    /// As the answer to `POST` named it.
    pub subscription_id: Uuid,
}

/// `PATCH /conversations/{id}/preferences`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(transform = crate::contract::changes_something))]
#[serde(rename_all = "camelCase")]
pub struct PatchPreferences {
    /// Milliseconds since the epoch; `null` ends a mute.
    #[serde(default, deserialize_with = "crate::lenient::whole_or_null", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::contract::time_or_null"))]
    pub muted_until: Option<Option<Timestamp>>,
    /// What to be woken for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "PushPolicy"))]
    pub push: Option<PushPolicy>,
}

impl PatchPreferences {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.muted_until.is_none() && self.push.is_none()
    }
}

/// The answer to `PATCH /conversations/{id}/preferences`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PreferencesRow {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Until when nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muted_until: Option<Timestamp>,
    /// What for.
    pub push: PushPolicy,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::error::ErrorCode;

    fn target(body: Value) -> Result<Target, ErrorCode> {
        let body: Subscribe = serde_json::from_value(body).map_err(|_| ErrorCode::Internal)?;
        body.target().map_err(|refusal| refusal.error)
    }

    fn with(mut body: Value, changes: Value) -> Value {
        for (name, value) in changes.as_object().expect("an object") {
            body[name] = value.clone();
        }
        body
    }

    #[test]
    fn a_subscription_is_taken_in_the_form_of_its_service_and_in_no_other() {
        let device = "018f0000-0000-7000-8000-000000000003";
        let keys = json!({ "p256dh": URL_SAFE_NO_PAD.encode([4; 65]), "auth": URL_SAFE_NO_PAD.encode([7; 16]) });
        let web =
            json!({ "deviceId": device, "service": "web-push", "endpoint": "https://push.example/x", "keys": keys });
        let apns = json!({ "deviceId": device, "service": "apns", "token": "AB".repeat(32) });
        let fcm = json!({ "deviceId": device, "service": "fcm", "token": "a:registration" });
        assert!(matches!(target(web.clone()), Ok(Target::WebPush { .. })));
        assert_eq!(target(apns.clone()), Ok(Target::Apns { device_token: "ab".repeat(32) }));
        assert_eq!(target(fcm.clone()), Ok(Target::Fcm { registration: "a:registration".to_owned() }));
        let short = json!({ "p256dh": URL_SAFE_NO_PAD.encode([4; 64]), "auth": URL_SAFE_NO_PAD.encode([7; 16]) });
        let compressed = json!({ "p256dh": URL_SAFE_NO_PAD.encode([2; 65]), "auth": URL_SAFE_NO_PAD.encode([7; 16]) });
        for bad in [
            with(web.clone(), json!({ "endpoint": "http://push.example/x" })),
            with(web.clone(), json!({ "endpoint": "https://push.example/a b" })),
            with(web.clone(), json!({ "endpoint": null })),
            with(web.clone(), json!({ "keys": null })),
            with(web.clone(), json!({ "keys": short })),
            with(web.clone(), json!({ "keys": compressed })),
            with(apns.clone(), json!({ "token": "ab".repeat(31) })),
            with(apns.clone(), json!({ "token": "xy".repeat(32) })),
            with(fcm.clone(), json!({ "token": "" })),
            with(fcm.clone(), json!({ "token": "a\nb" })),
        ] {
            assert_eq!(target(bad.clone()), Err(ErrorCode::InvalidMessage), "{bad}");
        }
        for long in [
            with(web, json!({ "endpoint": format!("https://push.example/{}", "a".repeat(2_048)) })),
            with(apns, json!({ "token": "ab".repeat(200) })),
            with(fcm, json!({ "token": "a".repeat(5_000) })),
        ] {
            assert_eq!(target(long), Err(ErrorCode::TooLarge));
        }
    }

    #[test]
    fn the_same_target_of_the_same_user_is_the_same_subscription_and_of_another_not() {
        let (ann, bob) = (UserId::new("ann").unwrap(), UserId::new("bob").unwrap());
        let at = |user: &UserId, token: &str, now| {
            let target = Target::Fcm { registration: token.to_owned() };
            Subscription::new(user, DeviceId(Uuid::nil()), target, Timestamp(now)).id
        };
        assert_eq!(at(&ann, "t", 1), at(&ann, "t", 2));
        assert_ne!(at(&ann, "t", 1), at(&bob, "t", 1));
        assert_ne!(at(&ann, "t", 1), at(&ann, "u", 1));
    }
}
