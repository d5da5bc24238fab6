//! Firebase Cloud Messaging by its HTTP v1 interface, under an OAuth token of a service account.

mod oauth;

use std::time::Duration;

use async_trait::async_trait;
use hearth_protocol::Timestamp;
use region_model::push::Showing;
use region_model::push::ports::{Notice, PushSender, Scope, Sent, Subscription, Target};
use serde::{Deserialize, Serialize};

use crate::http::{Answer, Versions, ask, client};
use crate::{HttpOptions, SetupError, payload};
use oauth::{OAuth, TokenError};

/// Google's service.
pub const PRODUCTION: &str = "https://fcm.googleapis.com";

/// Bytes of a message's data, keys and values together.
const DATA_BYTES: usize = 4_096;
/// The one key of our data.
const DATA_KEY: &str = "hearth";
/// How long everything rests when the service does not believe the credentials: an operator has to mend them.
const CREDENTIALS_REST: Duration = Duration::from_secs(300);
/// The rest after 429 and 503 that do not say how long; for 429 the documents name a minute.
const BUSY_REST: Duration = Duration::from_secs(60);
/// The longest life of a message, in seconds: four weeks.
const LONGEST_LIFE: u64 = 28 * 24 * 3_600;

/// What the operator has from Google.
#[derive(Clone)]
pub struct FcmOptions {
    /// [`PRODUCTION`].
    pub origin: String,
    /// The file of the service account, as Google gives it: JSON with `project_id`, `client_email`, `private_key`,
    /// `private_key_id` and `token_uri`.
    pub service_account: String,
    /// How to reach both the service and its token endpoint.
    pub http: HttpOptions,
}

/// Without the account.
impl std::fmt::Debug for FcmOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FcmOptions").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// Sends to Firebase.
#[derive(Debug)]
pub struct FcmSender {
    client: reqwest::Client,
    url: String,
    oauth: OAuth,
}

#[derive(Serialize)]
struct Request<'a> {
    message: Message<'a>,
}

#[derive(Serialize)]
struct Message<'a> {
    token: &'a str,
    data: Data,
    android: Android<'a>,
}

/// Values are strings, by the service's rule.
#[derive(Serialize)]
struct Data {
    hearth: String,
}

#[derive(Serialize)]
struct Android<'a> {
    collapse_key: &'a str,
    priority: &'static str,
    ttl: String,
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    error: RefusalError,
}

#[derive(Default, Deserialize)]
struct RefusalError {
    #[serde(default)]
    status: String,
    #[serde(default)]
    details: Vec<Details>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    #[serde(default, rename = "@type")]
    kind: String,
    #[serde(default)]
    error_code: String,
    #[serde(default)]
    field_violations: Vec<Violation>,
}

#[derive(Default, Deserialize)]
struct Violation {
    #[serde(default)]
    field: String,
}

impl FcmSender {
    /// Makes a sender.
    ///
    /// # Errors
    /// [`SetupError`] when the service account does not read.
    pub fn new(options: FcmOptions) -> Result<Self, SetupError> {
        let client = client(&options.http, Versions::Any)?;
        let (oauth, project) = OAuth::new(client.clone(), &options.service_account)?;
        Ok(Self { client, url: format!("{}/v1/projects/{project}/messages:send", options.origin), oauth })
    }

    async fn post(&self, token: &str, registration: &str, notice: &Notice, now: Timestamp) -> Result<Answer, Sent> {
        let body = body_of(registration, notice, now).ok_or(Sent::Refused("payload"))?;
        let request =
            self.client.post(&self.url).bearer_auth(token).header("content-type", "application/json").body(body);
        ask(request, now).await.map_err(Sent::Failed)
    }

    async fn token(&self, now: Timestamp) -> Result<String, Sent> {
        self.oauth.token(now).await.map_err(|error| match error {
            TokenError::Refused => {
                tracing::error!("the token endpoint of FCM does not believe the service account");
                Sent::Wait { scope: Scope::Way, after: Some(CREDENTIALS_REST) }
            }
            TokenError::Busy(after) => Sent::Wait { scope: Scope::Way, after: Some(after.unwrap_or(BUSY_REST)) },
            TokenError::Failed(reason) => Sent::Failed(reason),
        })
    }
}

/// The request's JSON; its data is at most [`DATA_BYTES`].
fn body_of(registration: &str, notice: &Notice, now: Timestamp) -> Option<Vec<u8>> {
    let data = payload::data(notice, DATA_BYTES - DATA_KEY.len())?;
    let life = (notice.not_after.0.saturating_sub(now.0) / 1_000).min(LONGEST_LIFE);
    let priority = if notice.showing == Showing::Clear { "NORMAL" } else { "HIGH" };
    let android = Android { collapse_key: &notice.collapse, priority, ttl: format!("{life}s") };
    let data = Data { hearth: String::from_utf8(data).ok()? };
    serde_json::to_vec(&Request { message: Message { token: registration, data, android } }).ok()
}

/// What Google documents of each answer.
fn outcome(answer: &Answer) -> Sent {
    let error = serde_json::from_slice::<Refusal>(&answer.body).unwrap_or_default().error;
    let fcm = error.details.iter().find(|details| details.kind.ends_with("fcm.v1.FcmError"));
    let code = fcm.map_or("", |details| details.error_code.as_str());
    let mut violations = error.details.iter().flat_map(|details| &details.field_violations).peekable();
    let wait = |rest| Sent::Wait { scope: Scope::Way, after: Some(answer.retry_after.unwrap_or(rest)) };
    match (answer.status, code) {
        (200, _) => Sent::Accepted,
        (_, "UNREGISTERED") => Sent::Gone,
        // An argument of the service itself, and no field of the request: the registration is not one.
        (400, "INVALID_ARGUMENT") if violations.peek().is_none() => Sent::Gone,
        (400, _) if violations.any(|violation| violation.field == "message.token") => Sent::Gone,
        (403, "SENDER_ID_MISMATCH") => Sent::Refused("sender"),
        (401 | 403 | 404, _) => {
            tracing::error!(status = answer.status, reason = error.status, "FCM does not take the service account");
            wait(CREDENTIALS_REST)
        }
        (429 | 503, _) => wait(BUSY_REST),
        (400..=499, _) => Sent::Refused("request"),
        _ => Sent::Failed("service"),
    }
}

#[async_trait]
impl PushSender for FcmSender {
    fn way(&self, _: &Subscription) -> String {
        "fcm".to_owned()
    }

    async fn send(&self, to: &Subscription, notice: &Notice, now: Timestamp) -> Sent {
        let Target::Fcm { registration } = &to.target else { return Sent::Refused("service") };
        let attempt = async |token: &str| self.post(token, registration, notice, now).await;
        let token = match self.token(now).await {
            Ok(token) => token,
            Err(sent) => return sent,
        };
        let answer = match attempt(&token).await {
            Ok(answer) if answer.status == 401 => answer,
            Ok(answer) => return outcome(&answer),
            Err(sent) => return sent,
        };
        // The token was taken back before its time: once more with another one.
        self.oauth.forget(&token);
        match self.token(now).await {
            Ok(other) if other != token => match attempt(&other).await {
                Ok(answer) => outcome(&answer),
                Err(sent) => sent,
            },
            Ok(_) => outcome(&answer),
            Err(sent) => sent,
        }
    }
}
