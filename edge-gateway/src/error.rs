//! Refusals as HTTP answers: always JSON, with `Retry-After` where there is a time.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hearth_protocol::rest::ApiAnswer;
use hearth_protocol::{ErrorCode, Refusal};
use serde::Deserialize;

/// A refusal on its way to a REST client.
#[derive(Clone, Debug)]
pub(crate) struct ApiError(pub(crate) Refusal);

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        answer_of(self.0.into())
    }
}

/// The part of an error body that the edge needs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorHead {
    error: ErrorCode,
    #[serde(default)]
    retry_after: Option<u64>,
}

/// The refusal's code of an answer, so that it can be counted where the answer passes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefusedWith(pub(crate) ErrorCode);

/// An answer of the API as an HTTP response.
pub(crate) fn answer_of(answer: ApiAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let head = if status.as_u16() >= 400 { serde_json::from_slice::<ErrorHead>(&answer.body).ok() } else { None };
    let empty = answer.body.is_empty();
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = status;
    if !empty {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some(head) = head {
        if let Some(seconds) = head.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(RefusedWith(head.error));
    }
    response
}
