//! A service account's access token: a signed claim is exchanged for it (RFC 7523), and it serves for about an hour.

use std::time::Duration;

use hearth_protocol::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::SetupError;
use crate::http::ask;

/// What the token allows.
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
/// How long a claim is good, in seconds: the most that is allowed.
const CLAIM_LIFE: u64 = 3_600;
/// A token is not used in the last part of its life, in milliseconds.
const SPARE: u64 = 300_000;

#[derive(Deserialize)]
struct Account {
    project_id: String,
    client_email: String,
    private_key: String,
    private_key_id: String,
    token_uri: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'static str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

#[derive(Clone)]
struct Token {
    text: String,
    until: u64,
}

/// Why there is no token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TokenError {
    /// The endpoint does not believe the account.
    Refused,
    /// It asks to wait.
    Busy(Option<Duration>),
    /// It may go well another time.
    Failed(&'static str),
}

/// The account and the token in use.
pub(super) struct OAuth {
    client: reqwest::Client,
    email: String,
    key_id: String,
    key: EncodingKey,
    token_uri: String,
    token: Mutex<Option<Token>>,
    /// One exchange at a time: whoever waits takes what the first one got.
    exchange: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for OAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OAuth")
    }
}

impl OAuth {
    /// The account of a file, and its project.
    pub(super) fn new(client: reqwest::Client, file: &str) -> Result<(Self, String), SetupError> {
        let what = "the service account of FCM";
        let bad = |expected| SetupError::Key { what, expected };
        let account: Account = serde_json::from_str(file).map_err(|_| bad("JSON as Google gives it"))?;
        let key = EncodingKey::from_rsa_pem(account.private_key.as_bytes());
        let key = key.map_err(|_| bad("with an RSA key in PEM"))?;
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
        if account.project_id.is_empty() || !plain(&account.project_id) {
            return Err(SetupError::Value {
                what: "project_id",
                rule: "must be letters, digits, '-', '_', '.' and ':'",
            });
        }
        if !account.token_uri.starts_with("https://") {
            return Err(SetupError::Value { what: "token_uri", rule: "must begin with https://" });
        }
        let Account { project_id, client_email: email, private_key_id: key_id, token_uri, .. } = account;
        let (token, exchange) = (Mutex::new(None), tokio::sync::Mutex::default());
        let oauth = Self { client, email, key_id, key, token_uri, token, exchange };
        oauth.claim(Timestamp(0)).ok_or(bad("with an RSA key of 2048 bits or more"))?;
        Ok((oauth, project_id))
    }

    /// The token in use, or a new one.
    pub(super) async fn token(&self, now: Timestamp) -> Result<String, TokenError> {
        let held = || self.token.lock().as_ref().filter(|token| now.0 < token.until).map(|token| token.text.clone());
        if let Some(text) = held() {
            return Ok(text);
        }
        let _exchange = self.exchange.lock().await;
        if let Some(text) = held() {
            return Ok(text);
        }
        let token = self.ask(now).await?;
        *self.token.lock() = Some(token.clone());
        Ok(token.text)
    }

    /// The service does not take this token.
    pub(super) fn forget(&self, text: &str) {
        self.token.lock().take_if(|token| token.text == text);
    }

    fn claim(&self, now: Timestamp) -> Option<String> {
        let iat = now.0 / 1_000;
        let claims = Claims { iss: &self.email, scope: SCOPE, aud: &self.token_uri, iat, exp: iat + CLAIM_LIFE };
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::RS256) };
        jsonwebtoken::encode(&header, &claims, &self.key).ok()
    }

    async fn ask(&self, now: Timestamp) -> Result<Token, TokenError> {
        let claim = self.claim(now).ok_or(TokenError::Failed("claim"))?;
        // A claim is of the URL-safe base64 alphabet and dots: nothing in it needs an escape.
        let body = format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={claim}");
        let request = self.client.post(&self.token_uri).header("content-type", "application/x-www-form-urlencoded");
        let answer = ask(request.body(body), now).await.map_err(TokenError::Failed)?;
        match answer.status {
            200 => {
                let granted: Granted =
                    serde_json::from_slice(&answer.body).map_err(|_| TokenError::Failed("token_form"))?;
                let life = granted.expires_in.saturating_mul(1_000).saturating_sub(SPARE);
                Ok(Token { text: granted.access_token, until: now.0.saturating_add(life) })
            }
            429 | 503 => Err(TokenError::Busy(answer.retry_after)),
            400..=499 => Err(TokenError::Refused),
            _ => Err(TokenError::Failed("token_service")),
        }
    }
}
