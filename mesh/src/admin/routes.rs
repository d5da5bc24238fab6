//! The routes of the administration port. Everybody who got so far is an administrator.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use hearth_protocol::admin::{self, AuditPage, ChangeRequest, Line};
use hearth_protocol::client::MessageName;
use hearth_protocol::{ConversationId, ErrorCode, MessageId, Refusal, UserId};
use region_model::ports::StoreError;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::change::Teller;
use super::listener::Who;
use super::node::{AdminNode, ROWS};
use super::verify;

/// Bytes of a request's body.
const BODY_BYTES: usize = 16 * 1024;

type Node = Arc<AdminNode>;

pub(super) fn routes(node: Node) -> Router {
    Router::new()
        .route(admin::STATUS, get(status))
        .route(&format!("{}/{{conversation}}", admin::HOMES), get(home))
        .route(admin::PARKED, get(parked))
        .route(admin::LOSSES, get(losses))
        .route(admin::WHY, get(why))
        .route(admin::AUDIT, get(audit))
        .route(admin::VERIFY, post(verify))
        .route(admin::CHANGES, post(change))
        .fallback(async || refuse(StatusCode::NOT_FOUND, Refusal::new(ErrorCode::NotFound, "no such route")))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(&node), while_the_store_answers))
        .with_state(node)
}

/// Nobody waits for a store that does not answer: most of what is asked here is in it.
async fn while_the_store_answers(State(node): State<Node>, request: Request, next: Next) -> Response {
    let away = || {
        let reason = node.handle.store_away().unwrap_or_default();
        let text = format!("the store of {} does not answer now ({reason}): ask again, or another region", node.region);
        let refusal = Refusal::new(ErrorCode::StoreUnavailable, text).with_retry_after(2);
        refuse(StatusCode::SERVICE_UNAVAILABLE, refusal)
    };
    tokio::select! {
        biased;
        () = node.handle.until_store_away() => away(),
        answer = next.run(request) => answer,
    }
}

fn refuse(status: StatusCode, refusal: Refusal) -> Response {
    (status, Json(refusal)).into_response()
}

fn read<T: serde::Serialize>(read: Result<T, StoreError>) -> Response {
    match read {
        Ok(body) => Json(body).into_response(),
        Err(error) => {
            let refusal = Refusal::new(ErrorCode::StoreUnavailable, error.to_string());
            refuse(StatusCode::SERVICE_UNAVAILABLE, refusal)
        }
    }
}

async fn status(State(node): State<Node>) -> Response {
    read(node.status().await)
}

async fn home(State(node): State<Node>, Path(conversation): Path<String>) -> Response {
    let Ok(id) = conversation.parse::<uuid::Uuid>() else {
        let refusal = Refusal::invalid(format!("{conversation:?} is no conversation's id: it is a UUID"));
        return refuse(StatusCode::BAD_REQUEST, refusal);
    };
    match node.home(ConversationId(id)).await {
        Ok(Some(row)) => Json(row).into_response(),
        Ok(None) => refuse(StatusCode::NOT_FOUND, Refusal::no_conversation()),
        Err(error) => read::<()>(Err(error)),
    }
}

#[derive(Deserialize)]
struct Page {
    after: Option<u64>,
    limit: Option<usize>,
}

impl Page {
    fn rows(&self) -> usize {
        self.limit.unwrap_or(ROWS).clamp(1, ROWS)
    }
}

fn invalid(error: &QueryRejection) -> Response {
    refuse(StatusCode::BAD_REQUEST, Refusal::invalid(error.body_text()))
}

async fn parked(State(node): State<Node>, page: Result<Query<Page>, QueryRejection>) -> Response {
    match page {
        Ok(Query(page)) => read(node.parked(page.after, page.rows()).await),
        Err(error) => invalid(&error),
    }
}

async fn losses(State(node): State<Node>) -> Response {
    read(node.losses().await)
}

#[derive(Deserialize)]
struct Asked {
    message: Option<uuid::Uuid>,
    number: Option<u64>,
    conversation: Option<uuid::Uuid>,
    #[serde(rename = "for")]
    user: UserId,
}

async fn why(State(node): State<Node>, asked: Result<Query<Asked>, QueryRejection>) -> Response {
    let Asked { message, number, conversation, user } = match asked {
        Ok(Query(asked)) => asked,
        Err(error) => return invalid(&error),
    };
    let name = match (message, number) {
        (Some(id), None) => MessageName::Id(MessageId(id)),
        (None, Some(number)) => MessageName::Number(number),
        _ => {
            let refusal = Refusal::invalid("name the message by `message` or by `number`, and not by both");
            return refuse(StatusCode::BAD_REQUEST, refusal);
        }
    };
    // Administrators are no users: the region asks, on their behalf.
    let asker = region_model::region_sender(&node.region);
    match node.handle.explain(&asker, conversation.map(ConversationId), name, &user).await {
        Ok(explanation) => Json(explanation).into_response(),
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            refuse(status, refusal)
        }
    }
}

async fn audit(State(node): State<Node>, page: Result<Query<Page>, QueryRejection>) -> Response {
    let rows = match page {
        Ok(Query(page)) => page.rows(),
        Err(error) => return invalid(&error),
    };
    let (log, region) = (node.audit.clone(), node.region.clone());
    let lines = tokio::task::spawn_blocking(move || log.last(rows)).await;
    match lines {
        Ok(Ok(audit)) => Json(AuditPage { region, audit }).into_response(),
        Ok(Err(error)) => {
            let refusal = Refusal::new(ErrorCode::StoreUnavailable, format!("the audit log does not read: {error}"));
            refuse(StatusCode::SERVICE_UNAVAILABLE, refusal)
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, Refusal::new(ErrorCode::Internal, error.to_string())),
    }
}

async fn verify(State(node): State<Node>) -> Response {
    let (tell, told) = Teller::new();
    tokio::spawn(async move {
        let line = match verify::running(node.region.clone(), node.stores.clone(), &tell).await {
            Ok(line) => line,
            Err(error) => Line::Refused {
                message: error.to_string(),
                hint: format!(
                    "stop {}, then walk its folder: hearth verify --folder DIR --region {}",
                    node.region, node.region
                ),
                at: None,
                failed: true,
            },
        };
        tell.last(line).await;
    });
    lines(told)
}

async fn change(State(node): State<Node>, Extension(Who(who)): Extension<Who>, body: Bytes) -> Response {
    match serde_json::from_slice::<ChangeRequest>(&body) {
        Ok(request) => {
            let (tell, told) = Teller::new();
            // Whoever asked may go away: a change that began comes to its end.
            tokio::spawn(node.change(who, request, tell));
            lines(told)
        }
        Err(error) => {
            let refusal = Refusal::invalid(format!("the body does not read: {error}"));
            refuse(StatusCode::BAD_REQUEST, refusal)
        }
    }
}

/// An answer in lines, as they are told.
fn lines(told: mpsc::Receiver<Line>) -> Response {
    let lines = futures_util::stream::unfold(told, |mut told| async {
        let line = told.recv().await?;
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(text), told))
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}
