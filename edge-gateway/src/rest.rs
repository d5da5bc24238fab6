//! What a REST request must look like before the core sees it.

use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use hearth_protocol::client::json_depth_exceeds;
use hearth_protocol::rest::{HistoryQuery, SettingsPatch, SyncRequest};
use hearth_protocol::{ErrorCode, Refusal, UserId, limits};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use uuid::Uuid;

use crate::error::ApiError;
use crate::state::GatewayState;

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The user of a REST request, by its bearer token.
#[derive(Clone, Debug)]
pub(crate) struct Caller(pub(crate) UserId);

impl FromRequestParts<Arc<GatewayState>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<GatewayState>) -> Result<Self, ApiError> {
        let token = bearer(&parts.headers).unwrap_or_default();
        let identity = gateway.sessions.verifier.verify(token, gateway.clock.now().wall);
        identity.map(|identity| Self(identity.user)).map_err(|error| {
            tracing::debug!(%error, "REST credentials refused");
            ApiError(Refusal::new(ErrorCode::Unauthorized, error.to_string()))
        })
    }
}

/// The bearer token of the headers; empty when `Authorization` is of another form, which no verifier accepts.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().unwrap_or_default();
    let (scheme, token) = text.split_once(' ').unwrap_or_default();
    Some(if scheme.eq_ignore_ascii_case("bearer") { token.trim() } else { "" })
}

/// The `Idempotency-Key`, or one made here.
///
/// # Errors
/// `INVALID_MESSAGE` when it is no UUID.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Uuid, Refusal> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(Uuid::new_v4()) };
    let key = value.to_str().ok().and_then(|text| Uuid::try_parse(text).ok());
    key.ok_or_else(|| Refusal::invalid("the Idempotency-Key is not a UUID"))
}

/// A part of the path as an id.
///
/// # Errors
/// `NOT_FOUND` or `CONVERSATION_NOT_FOUND`: a path with something that is no id names nothing.
pub(crate) fn path_id<T: std::str::FromStr>(
    params: &RawPathParams,
    name: &str,
    missing: Refusal,
) -> Result<T, Refusal> {
    let part = params.iter().find(|(key, _)| *key == name);
    part.and_then(|(_, value)| value.parse().ok()).ok_or(missing)
}

/// Reads a JSON body.
///
/// # Errors
/// `TOO_LARGE` over `most` bytes, `INVALID_MESSAGE` when it is not JSON, too deep or of another form.
pub(crate) async fn json_body<T: DeserializeOwned>(body: Body, most: usize, depth: usize) -> Result<T, Refusal> {
    let bytes = read_body(body, most).await?;
    if json_depth_exceeds(&bytes, depth) {
        let refusal = Refusal::invalid("the body nests too deep");
        return Err(refusal.with_limit(format!("{depth} levels of JSON")));
    }
    // The text of the error would repeat parts of the body.
    serde_json::from_slice(&bytes).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "the body has a field that is missing or of another form",
            _ => "the body is not JSON",
        };
        Refusal::invalid(format!("{what}, at line {} column {}", error.line(), error.column()))
    })
}

/// Reads a body of at most `most` bytes. Some more are read and thrown away before the refusal, since a client that is
/// still writing would lose the answer with the connection.
async fn read_body(mut body: Body, most: usize) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let mut total = 0usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::invalid("the body did not arrive whole"))?;
        let Ok(data) = frame.into_data() else { continue };
        total += data.len();
        if total > most.saturating_mul(POLITE) {
            break;
        }
        if total <= most {
            bytes.extend_from_slice(&data);
        }
    }
    if total > most {
        return Err(Refusal::too_large("the body is too long", format!("{most} bytes of body")));
    }
    Ok(bytes)
}

/// How many times the limit of a body is read before the connection is given up.
const POLITE: usize = 8;

/// The values of a query string.
pub(crate) struct QueryValues(Vec<(String, String)>);

impl QueryValues {
    /// Reads a query string.
    ///
    /// # Errors
    /// `INVALID_MESSAGE` when it is not of the form of forms.
    pub(crate) fn read(uri: &axum::http::Uri) -> Result<Self, Refusal> {
        let values = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        values.map(|values| Self(values.0)).map_err(|_| Refusal::invalid("the query string is malformed"))
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A number.
    ///
    /// # Errors
    /// `INVALID_MESSAGE` when it is none.
    pub(crate) fn number(&self, name: &'static str) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Refusal::invalid(format!("`{name}` is not a number")))
    }

    /// A sequence number, also in the source document's form `seq_N`.
    ///
    /// # Errors
    /// `INVALID_MESSAGE` when it is neither.
    pub(crate) fn sequence(&self, name: &'static str) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let digits = text.strip_prefix("seq_").unwrap_or(text);
        digits.parse().map(Some).map_err(|_| Refusal::invalid(format!("`{name}` is not a sequence number")))
    }

    /// A `limit` from 1 to `most`.
    ///
    /// # Errors
    /// `INVALID_MESSAGE` outside of it.
    pub(crate) fn limit(&self, most: u64) -> Result<Option<u64>, Refusal> {
        let limit = self.number("limit")?;
        if limit.is_some_and(|limit| limit == 0 || limit > most) {
            return Err(Refusal::invalid(format!("`limit` is from 1 to {most}")).with_limit(format!("{most} rows")));
        }
        Ok(limit)
    }
}

/// Checks a history request, of a frame or of REST.
///
/// # Errors
/// `INVALID_MESSAGE` for both bounds at once, and for a limit outside 1 to 200.
pub(crate) fn check_history(query: &HistoryQuery) -> Result<(), Refusal> {
    if query.before.or(query.after).is_some_and(|bound| bound > limits::SEQUENCE) {
        return Err(Refusal::invalid("a sequence number stays below 2^53"));
    }
    if query.before.is_some() && query.after.is_some() {
        return Err(Refusal::invalid("`before` and `after` exclude each other"));
    }
    let most = limits::HISTORY_ROWS as u64;
    if query.limit.is_some_and(|limit| limit == 0 || limit > most) {
        return Err(Refusal::invalid(format!("`limit` is from 1 to {most}")).with_limit(format!("{most} rows")));
    }
    Ok(())
}

/// Checks a sync request, of a frame or of REST.
///
/// # Errors
/// `TOO_LARGE` for too many conversations, `INVALID_MESSAGE` for a limit outside 1 to 200 or a number over 2^53.
pub(crate) fn check_sync(request: &SyncRequest) -> Result<(), Refusal> {
    let most = limits::SYNC_CONVERSATIONS;
    if request.conversations.len() > most {
        let limit = format!("{most} conversations a request");
        return Err(Refusal::too_large("too many conversations", limit));
    }
    let rows = limits::SYNC_ROWS as u64;
    if request.limit.is_some_and(|limit| limit == 0 || limit > rows) {
        return Err(Refusal::invalid(format!("`limit` is from 1 to {rows}")).with_limit(format!("{rows} rows")));
    }
    if request.conversations.iter().any(|cursor| cursor.last_sequence > limits::SEQUENCE) {
        return Err(Refusal::invalid("a sequence number stays below 2^53"));
    }
    Ok(())
}

/// Checks settings.
///
/// # Errors
/// `INVALID_MESSAGE` for a retention outside 1 to 3,650 days.
pub(crate) fn check_settings(settings: &SettingsPatch) -> Result<(), Refusal> {
    if settings.retention_days.is_some_and(|days| !(1..=limits::RETENTION_DAYS).contains(&days)) {
        return Err(Refusal::invalid("`retentionDays` is from 1 to 3650"));
    }
    Ok(())
}

/// Checks a name.
///
/// # Errors
/// `INVALID_MESSAGE` unless it has 1 to 100 characters, not all white space.
pub(crate) fn check_name(name: &str) -> Result<(), Refusal> {
    let most = limits::NAME_CHARACTERS;
    if name.trim().is_empty() || name.chars().count() > most {
        let refusal = Refusal::invalid(format!("a name has 1 to {most} characters"));
        return Err(refusal.with_limit(format!("{most} characters of name")));
    }
    Ok(())
}

/// Checks a list of users.
///
/// # Errors
/// `TOO_LARGE` over `most`.
pub(crate) fn check_users(users: &[UserId], most: usize) -> Result<(), Refusal> {
    if users.len() > most {
        return Err(Refusal::too_large("too many users", format!("{most} users a request")));
    }
    Ok(())
}
