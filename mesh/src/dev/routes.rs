//! Development endpoints and the page, on every region's port. They need no token and exist in development only.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hearth_protocol::{ErrorCode, Refusal, UserId};
use replication::FaultState;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::folder::ISSUER;
use super::mesh::{DevMesh, RegionRow};

/// Longest one-way delay of a link, in milliseconds, as for `--latency`.
const MAXIMUM_DELAY_MS: u64 = 60_000;

#[derive(Clone)]
struct Dev {
    mesh: Arc<DevMesh>,
    region: String,
}

/// One row per direction of a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LinkRow {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) state: String,
    pub(crate) delay_ms: u64,
    pub(crate) loss_percent: f64,
}

/// The routes of one region.
pub(crate) fn routes(mesh: Arc<DevMesh>, region: &str) -> Router {
    Router::new()
        .route("/", get(|| page("text/html; charset=utf-8", include_str!("../../../web/dev/index.html"))))
        .route("/page.js", get(|| page("text/javascript; charset=utf-8", include_str!("../../../web/dev/page.js"))))
        .route("/client.js", get(|| page("text/javascript; charset=utf-8", include_str!("../../../web/dev/client.js"))))
        .route("/page.css", get(|| page("text/css; charset=utf-8", include_str!("../../../web/dev/page.css"))))
        .route("/api/v1/dev/regions", get(regions))
        .route("/api/v1/dev/tokens", post(tokens))
        .route("/api/v1/dev/links", get(links).post(set_links))
        .with_state(Dev { mesh, region: region.to_owned() })
}

async fn page(kind: &'static str, text: &'static str) -> Response {
    let policy = "default-src 'self'; connect-src *; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'";
    (
        [(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, policy), (header::CACHE_CONTROL, "no-cache")],
        text,
    )
        .into_response()
}

async fn regions(State(dev): State<Dev>) -> Response {
    let rows: Vec<RegionRow> = dev.mesh.spec.regions.iter().map(RegionRow::with_link).collect();
    Json(json!({ "regions": rows })).into_response()
}

fn refuse(refusal: Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(refusal)).into_response()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenRequest {
    user_id: String,
    #[serde(default)]
    ttl_seconds: Option<u64>,
    /// As the claim `role`.
    #[serde(default)]
    role: Option<String>,
}

/// Reads a body as JSON, with an error in the form of all others.
fn body<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::invalid(format!("the body does not read: {error}")))
}

async fn tokens(State(dev): State<Dev>, bytes: axum::body::Bytes) -> Response {
    match make_token(&dev, &bytes) {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => refuse(refusal),
    }
}

fn make_token(dev: &Dev, bytes: &[u8]) -> Result<serde_json::Value, Refusal> {
    let request: TokenRequest = body(bytes)?;
    let user = UserId::new(&request.user_id).map_err(|error| Refusal::invalid(error.to_string()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let expires = now + request.ttl_seconds.unwrap_or(86_400).min(10 * 365 * 86_400);
    let mut claims = json!({ "sub": user, "iss": ISSUER, "iat": now, "exp": expires });
    if let Some(role) = request.role {
        claims["role"] = json!(role);
    }
    let key = jsonwebtoken::EncodingKey::from_secret(dev.mesh.secrets().token.as_bytes());
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256), &claims, &key)
        .map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))?;
    Ok(json!({ "token": token, "expiresAt": expires * 1_000 }))
}

#[derive(Deserialize)]
struct LinkQuery {
    /// Set when another region passed the request on: it is applied here and goes no further.
    #[serde(default)]
    passed: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LinkRequest {
    from: String,
    to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss_percent: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    both: Option<bool>,
}

async fn links(State(dev): State<Dev>) -> Response {
    Json(json!({ "links": rows(&dev.mesh) })).into_response()
}

fn rows(mesh: &DevMesh) -> Vec<LinkRow> {
    let mut rows = Vec::new();
    for from in &mesh.spec.regions {
        for to in mesh.spec.regions.iter().filter(|to| to.id != from.id) {
            rows.push(row(mesh, &from.id, &to.id));
        }
    }
    rows
}

fn row(mesh: &DevMesh, from: &str, to: &str) -> LinkRow {
    let fault = mesh.faults.get(from, to);
    LinkRow {
        from: from.to_owned(),
        to: to.to_owned(),
        state: if fault.cut { "cut" } else { "up" }.to_owned(),
        delay_ms: u64::try_from(fault.delay.as_millis()).unwrap_or(u64::MAX),
        loss_percent: fault.loss_percent,
    }
}

async fn set_links(State(dev): State<Dev>, Query(query): Query<LinkQuery>, bytes: axum::body::Bytes) -> Response {
    match set(&dev.mesh, &bytes) {
        Ok((request, changed)) => {
            if !query.passed {
                pass_on(&dev, &request).await;
            }
            Json(json!({ "links": changed })).into_response()
        }
        Err(refusal) => refuse(refusal),
    }
}

fn set(mesh: &DevMesh, bytes: &[u8]) -> Result<(LinkRequest, Vec<LinkRow>), Refusal> {
    let request: LinkRequest = body(bytes)?;
    for region in [&request.from, &request.to] {
        if mesh.spec.region(region).is_none() {
            return Err(Refusal::new(ErrorCode::NotFound, format!("no region {region:?} in this mesh")));
        }
    }
    if request.from == request.to {
        return Err(Refusal::invalid("a link has two ends"));
    }
    if request.delay_ms.is_some_and(|delay| delay > MAXIMUM_DELAY_MS) {
        return Err(Refusal::invalid(format!("delayMs is 0 to {MAXIMUM_DELAY_MS}")));
    }
    if request.loss_percent.is_some_and(|loss| !(0.0..=100.0).contains(&loss)) {
        return Err(Refusal::invalid("lossPercent is 0 to 100"));
    }
    let cut = match request.state.as_deref() {
        None => None,
        Some("cut") => Some(true),
        Some("up") => Some(false),
        Some(_) => return Err(Refusal::invalid("state is cut or up")),
    };
    let mut pairs = vec![(request.from.clone(), request.to.clone())];
    if request.both.unwrap_or(true) {
        pairs.push((request.to.clone(), request.from.clone()));
    }
    for (from, to) in &pairs {
        let known = mesh.faults.get(from, to);
        mesh.faults.set(
            from,
            to,
            FaultState {
                cut: cut.unwrap_or(known.cut),
                delay: request.delay_ms.map_or(known.delay, Duration::from_millis),
                loss_percent: request.loss_percent.unwrap_or(known.loss_percent),
            },
        );
    }
    let changed = pairs.iter().map(|(from, to)| row(mesh, from, to)).collect();
    Ok((request, changed))
}

/// With a process a region, each applies the faults of what it sends: all are told.
async fn pass_on(dev: &Dev, request: &LinkRequest) {
    if std::env::var_os(super::processes::CHILD).is_none() {
        return;
    }
    let Ok(client) = reqwest::Client::builder().timeout(Duration::from_secs(2)).no_proxy().build() else { return };
    for region in dev.mesh.spec.regions.iter().filter(|region| region.id != dev.region) {
        let url = format!("{}/api/v1/dev/links?passed=true", region.http());
        // A region that is down has nothing to send; it asks the others when it starts.
        let _ = client.post(url).json(request).send().await;
    }
}

/// Takes over the faults that the other regions' processes apply: those set while this one was down.
pub(super) async fn adopt_faults(mesh: &DevMesh, region: &str) {
    #[derive(Deserialize)]
    struct Links {
        links: Vec<LinkRow>,
    }
    let Ok(client) = reqwest::Client::builder().timeout(Duration::from_millis(500)).no_proxy().build() else { return };
    for other in mesh.spec.regions.iter().filter(|other| other.id != region) {
        // When the whole mesh starts nobody answers, and there is nothing to take over.
        let Ok(answer) = client.get(format!("{}/api/v1/dev/links", other.http())).send().await else { continue };
        let Ok(Links { links }) = answer.json().await else { continue };
        for row in links {
            let state = FaultState {
                cut: row.state == "cut",
                delay: Duration::from_millis(row.delay_ms),
                loss_percent: row.loss_percent,
            };
            mesh.faults.set(&row.from, &row.to, state);
        }
        return;
    }
}
