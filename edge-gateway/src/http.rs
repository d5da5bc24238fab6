//! The router: REST, `/ws`, health, metrics, and answers with an error body for everything else.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hearth_protocol::{ErrorCode, Refusal, contract};
use region_core::Readiness;
use serde::Serialize;

use crate::access::{guard, host_of};
use crate::error::{ApiError, RefusedWith};
use crate::state::{GatewayState, Phase};
use crate::webtransport_server::CertificateHashEntry;
use crate::{routes, upgrade};

/// All routes of a gateway; `extra` are the composition's own (development).
pub(crate) fn router(gateway: Arc<GatewayState>, extra: Option<Router>) -> Router {
    let own: Router = Router::new()
        .route("/ws", get(upgrade::websocket))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/transport.json", get(transport))
        .route("/openapi.json", get(|| async { document(contract::OPENAPI) }))
        .route("/asyncapi.json", get(|| async { document(contract::ASYNCAPI) }))
        .nest("/api/v1", routes::api())
        .with_state(Arc::clone(&gateway));
    own.merge(extra.unwrap_or_default())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&gateway), guard))
        .layer(middleware::from_fn_with_state(gateway, errors_have_a_body))
}

async fn not_found() -> ApiError {
    ApiError(Refusal::new(ErrorCode::NotFound, "no such route"))
}

async fn method_not_allowed() -> ApiError {
    ApiError(Refusal::new(ErrorCode::MethodNotAllowed, "this route has no such method"))
}

/// Counts refusals, and gives answers that the framework made (a malformed path, an upgrade that is none) the error
/// body of the contract.
async fn errors_have_a_body(State(gateway): State<Arc<GatewayState>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if let Some(RefusedWith(code)) = response.extensions().get() {
        gateway.metrics.refused(*code);
        return response;
    }
    let status = response.status();
    let json =
        response.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if status.as_u16() < 400 || json {
        return response;
    }
    let code = match status {
        StatusCode::NOT_FOUND => ErrorCode::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => ErrorCode::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::URI_TOO_LONG => ErrorCode::TooLarge,
        status if status.is_server_error() => ErrorCode::Internal,
        _ => ErrorCode::InvalidMessage,
    };
    gateway.metrics.refused(code);
    let mut answer = ApiError(Refusal::new(code, "the request cannot be read")).into_response();
    for (name, value) in response.headers() {
        if name != CONTENT_TYPE && name != axum::http::header::CONTENT_LENGTH {
            answer.headers_mut().append(name.clone(), value.clone());
        }
    }
    *answer.status_mut() = status;
    answer
}

/// A document of the contract.
fn document(json: &'static str) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response()
}

async fn livez() -> &'static str {
    "ok\n"
}

#[derive(Serialize)]
struct ReadyBody {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

async fn readyz(State(gateway): State<Arc<GatewayState>>) -> Response {
    let reason = match (*gateway.phase.borrow(), gateway.core.readiness()) {
        (Phase::Draining(_) | Phase::Stopping, _) => Some("draining".to_owned()),
        (Phase::Serving, Readiness::NotReady(reason)) => Some(reason),
        (Phase::Serving, Readiness::Ready) => None,
    };
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ReadyBody { ready: reason.is_none(), reason })).into_response()
}

async fn metrics(State(gateway): State<Arc<GatewayState>>) -> Response {
    let mut text = String::new();
    let encoded = prometheus_client::encoding::text::encode(&mut text, &gateway.registry.lock());
    if encoded.is_err() {
        return ApiError(Refusal::new(ErrorCode::Internal, "the metrics cannot be written")).into_response();
    }
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(CONTENT_TYPE, kind)], text).into_response()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WebTransportBody {
    url: String,
    certificate_hashes: Vec<CertificateHashEntry>,
}

#[derive(Serialize)]
struct WebSocketBody {
    url: String,
}

#[derive(Serialize)]
struct TransportBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    webtransport: Option<WebTransportBody>,
    websocket: WebSocketBody,
}

async fn transport(State(gateway): State<Arc<GatewayState>>, request: Request) -> Response {
    let host = host_of(request.headers(), request.uri()).unwrap_or("localhost").to_owned();
    let secure = request.extensions().get::<Secure>().is_some();
    let websocket = gateway
        .options
        .public_ws
        .clone()
        .unwrap_or_else(|| format!("{}://{host}/ws", if secure { "wss" } else { "ws" }));
    let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(&*host, |(name, _)| name);
    let webtransport = gateway.webtransport_port.map(|port| WebTransportBody {
        url: gateway.options.public_webtransport.clone().unwrap_or_else(|| format!("https://{name}:{port}/wt")),
        certificate_hashes: gateway.certificate_hash.entries(),
    });
    Json(TransportBody { webtransport, websocket: WebSocketBody { url: websocket } }).into_response()
}

/// Marks requests that came over TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secure;
