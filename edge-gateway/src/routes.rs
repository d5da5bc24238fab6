//! The REST routes of `protocol.md`: each reads its request, checks it, and asks the core.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawPathParams, Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use hearth_protocol::entry::ConversationKind;
use hearth_protocol::media::{CreateMedia, check_name as check_media_name};
use hearth_protocol::push::{PatchPreferences, Subscribe, Subscription, Unsubscribe};
use hearth_protocol::rest::{
    AddMembers, CreateConversation, CreateGroup, HistoryQuery, PatchConversation, PatchMember, PatchUser, SyncRequest,
};
use hearth_protocol::{ConversationId, ErrorCode, Refusal, UserId, limits};
use region_core::ApiCall;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{ApiError, answer_of};
use crate::media::{Reached, download_answer, upload_answer};
use crate::rest::{
    Caller, QueryValues, check_history, check_name, check_settings, check_sync, check_users, idempotency_key,
    json_body, path_id,
};
use crate::state::GatewayState;

type Gateway = State<Arc<GatewayState>>;
type Answer = Result<Response, ApiError>;

/// Everything under `/api/v1`.
pub(crate) fn api() -> Router<Arc<GatewayState>> {
    let conversation = "/conversations/{conversation}";
    Router::new()
        .route("/sync", post(sync))
        .route("/conversations", get(feed).post(create_direct))
        .route("/groups", post(create_group))
        .route(conversation, get(show).patch(change))
        .route(&format!("{conversation}/members"), get(members).post(add_members))
        .route(&format!("{conversation}/members/{{user}}"), delete(remove_member).patch(set_role))
        .route(&format!("{conversation}/messages"), get(history))
        .route(&format!("{conversation}/messages/{{sequence}}/edits"), get(edits))
        .route(&format!("{conversation}/preferences"), axum::routing::patch(set_preferences))
        .route("/media", post(create_media))
        .route(&format!("{conversation}/media/{{media}}"), get(media))
        .route("/push-subscriptions", post(subscribe_push).delete(unsubscribe_push).get(push_subscriptions))
        .route("/users/me", axum::routing::patch(change_me).get(show_me))
        .route("/users/me/blocks/{user}", put(block).delete(unblock))
        .route("/users/{user}", get(user))
}

async fn call(gateway: &GatewayState, user: &UserId, call: ApiCall) -> Answer {
    Ok(answer_of(gateway.core.api(user, call).await))
}

async fn body<T: DeserializeOwned>(gateway: &GatewayState, request: Request) -> Result<T, Refusal> {
    let limits = &gateway.options.limits;
    json_body(request.into_body(), limits.body_bytes, limits.frame.json_depth).await
}

fn conversation_of(params: &RawPathParams) -> Result<ConversationId, Refusal> {
    path_id(params, "conversation", Refusal::no_conversation())
}

fn user_of(params: &RawPathParams) -> Result<UserId, Refusal> {
    path_id(params, "user", Refusal::new(ErrorCode::NotFound, "no such user"))
}

async fn sync(State(gateway): Gateway, Caller(user): Caller, request: Request) -> Answer {
    let request: SyncRequest = body(&gateway, request).await?;
    check_sync(&request)?;
    call(&gateway, &user, ApiCall::Sync { request }).await
}

async fn feed(State(gateway): Gateway, Caller(user): Caller, request: Request) -> Answer {
    let query = QueryValues::read(request.uri())?;
    let cursor = query.text("cursor").map(str::to_owned);
    call(&gateway, &user, ApiCall::Feed { cursor, limit: query.limit(limits::FEED_ROWS as u64)? }).await
}

async fn create_direct(State(gateway): Gateway, Caller(user): Caller, request: Request) -> Answer {
    idempotency_key(request.headers())?;
    let mut body: CreateConversation = body(&gateway, request).await?;
    if body.kind != ConversationKind::Direct {
        return Err(Refusal::invalid("only `direct` here; groups and channels by POST /groups").into());
    }
    check_users(&body.participant_ids, gateway.options.limits.members_per_request)?;
    body.participant_ids.retain(|other| *other != user);
    body.participant_ids.dedup();
    let [other] = <[UserId; 1]>::try_from(body.participant_ids)
        .map_err(|_| Refusal::invalid("a direct conversation has exactly one other participant"))?;
    call(&gateway, &user, ApiCall::CreateDirect { other }).await
}

async fn create_group(State(gateway): Gateway, Caller(user): Caller, request: Request) -> Answer {
    let key = idempotency_key(request.headers())?;
    let keyed = request.headers().contains_key(crate::rest::IDEMPOTENCY_KEY);
    let group: CreateGroup = body(&gateway, request).await?;
    check_name(&group.name)?;
    check_settings(&group.settings)?;
    check_users(&group.participant_ids, gateway.options.limits.members_per_request)?;
    if group.kind == Some(ConversationKind::Direct) {
        return Err(Refusal::invalid("`type` is group or channel").into());
    }
    call(&gateway, &user, ApiCall::CreateGroup { group, key, keyed }).await
}

async fn show(State(gateway): Gateway, Caller(user): Caller, params: RawPathParams) -> Answer {
    call(&gateway, &user, ApiCall::Conversation { id: conversation_of(&params)? }).await
}

async fn change(State(gateway): Gateway, Caller(user): Caller, params: RawPathParams, request: Request) -> Answer {
    let id = conversation_of(&params)?;
    let key = idempotency_key(request.headers())?;
    let patch: PatchConversation = patch(body(&gateway, request).await?, &["allowedRegions"])?;
    if let Some(name) = &patch.name {
        check_name(name)?;
    }
    if let Some(settings) = &patch.settings {
        check_settings(settings)?;
        if settings.history_for_new_members.is_some() {
            return Err(Refusal::invalid("`historyForNewMembers` stays as the conversation was created").into());
        }
    }
    if patch.is_empty() {
        return Err(Refusal::invalid("nothing to change: `name`, `settings`, `durability` or `partitionMode`").into());
    }
    call(&gateway, &user, ApiCall::PatchConversation { id, patch, key }).await
}

/// Reads a patch; fields that this version does not serve are refused, lest a client believe that they took effect.
fn patch<T: DeserializeOwned>(fields: Map<String, Value>, unserved: &[&str]) -> Result<T, Refusal> {
    if let Some(field) = unserved.iter().find(|field| fields.contains_key(**field)) {
        return Err(Refusal::invalid(format!("`{field}` cannot be changed by this version yet")));
    }
    serde_json::from_value(Value::Object(fields)).map_err(|_| Refusal::invalid("a field of the body has another form"))
}

async fn members(State(gateway): Gateway, Caller(user): Caller, params: RawPathParams, request: Request) -> Answer {
    let id = conversation_of(&params)?;
    let query = QueryValues::read(request.uri())?;
    let cursor = query.text("cursor").map(str::to_owned);
    call(&gateway, &user, ApiCall::Members { id, cursor, limit: query.limit(limits::MEMBERS_ROWS as u64)? }).await
}

async fn add_members(State(gateway): Gateway, Caller(user): Caller, params: RawPathParams, request: Request) -> Answer {
    let id = conversation_of(&params)?;
    let key = idempotency_key(request.headers())?;
    let AddMembers { user_ids: users } = body(&gateway, request).await?;
    check_users(&users, gateway.options.limits.members_per_request)?;
    if users.is_empty() {
        return Err(Refusal::invalid("`userIds` is empty").into());
    }
    call(&gateway, &user, ApiCall::AddMembers { id, users, key }).await
}

async fn remove_member(
    State(gateway): Gateway,
    Caller(caller): Caller,
    params: RawPathParams,
    headers: HeaderMap,
) -> Answer {
    let id = conversation_of(&params)?;
    let key = idempotency_key(&headers)?;
    let user = match user_of(&params)? {
        me if me.as_str() == "me" => caller.clone(),
        other => other,
    };
    call(&gateway, &caller, ApiCall::RemoveMember { id, user, key }).await
}

async fn set_role(State(gateway): Gateway, Caller(caller): Caller, params: RawPathParams, request: Request) -> Answer {
    let id = conversation_of(&params)?;
    let key = idempotency_key(request.headers())?;
    let user = match user_of(&params)? {
        me if me.as_str() == "me" => caller.clone(),
        other => other,
    };
    let PatchMember { role } = body(&gateway, request).await?;
    call(&gateway, &caller, ApiCall::SetRole { id, user, role, key }).await
}

async fn history(State(gateway): Gateway, Caller(user): Caller, params: RawPathParams, request: Request) -> Answer {
    let id = conversation_of(&params)?;
    let values = QueryValues::read(request.uri())?;
    let query = HistoryQuery {
        before: values.sequence("before")?,
        after: values.sequence("after")?,
        limit: values.number("limit")?,
    };
    check_history(&query)?;
    call(&gateway, &user, ApiCall::History { id, query }).await
}

async fn edits(State(gateway): Gateway, Caller(user): Caller, params: RawPathParams) -> Answer {
    let id = conversation_of(&params)?;
    let sequence = path_id(&params, "sequence", Refusal::new(ErrorCode::NotFound, "no such message"))?;
    call(&gateway, &user, ApiCall::Edits { id, sequence }).await
}

async fn user(State(gateway): Gateway, Caller(caller): Caller, params: RawPathParams) -> Answer {
    call(&gateway, &caller, ApiCall::User { id: user_of(&params)? }).await
}

async fn show_me(State(gateway): Gateway, Caller(caller): Caller) -> Answer {
    let id = caller.clone();
    call(&gateway, &caller, ApiCall::User { id }).await
}

async fn change_me(State(gateway): Gateway, Caller(caller): Caller, request: Request) -> Answer {
    idempotency_key(request.headers())?;
    let patch: PatchUser = patch(body(&gateway, request).await?, &[])?;
    if let Some(Some(name)) = &patch.display_name {
        check_name(name)?;
    }
    if let Some(Some(url)) = &patch.avatar_url
        && url.len() > limits::URL_CHARACTERS
    {
        let limit = format!("{} characters of URL", limits::URL_CHARACTERS);
        return Err(Refusal::too_large("the avatarUrl is too long", limit).into());
    }
    call(&gateway, &caller, ApiCall::PatchMe { patch }).await
}

async fn block(State(gateway): Gateway, Caller(caller): Caller, params: RawPathParams, headers: HeaderMap) -> Answer {
    idempotency_key(&headers)?;
    call(&gateway, &caller, ApiCall::Block { user: user_of(&params)?, blocked: true }).await
}

async fn unblock(State(gateway): Gateway, Caller(caller): Caller, params: RawPathParams, headers: HeaderMap) -> Answer {
    idempotency_key(&headers)?;
    call(&gateway, &caller, ApiCall::Block { user: user_of(&params)?, blocked: false }).await
}

async fn set_preferences(
    State(gateway): Gateway,
    Caller(user): Caller,
    params: RawPathParams,
    request: Request,
) -> Answer {
    let id = conversation_of(&params)?;
    idempotency_key(request.headers())?;
    let patch: PatchPreferences = body(&gateway, request).await?;
    if patch.is_empty() {
        return Err(Refusal::invalid("nothing to change: give `mutedUntil` or `push`").into());
    }
    if patch.muted_until.flatten().is_some_and(|until| until.0 > limits::SEQUENCE) {
        return Err(Refusal::invalid("`mutedUntil` stays below 2^53").into());
    }
    call(&gateway, &user, ApiCall::SetPreferences { id, patch }).await
}

async fn subscribe_push(State(gateway): Gateway, Caller(user): Caller, request: Request) -> Answer {
    idempotency_key(request.headers())?;
    let request: Subscribe = body(&gateway, request).await?;
    let now = gateway.clock.now().wall;
    let subscription = Subscription::new(&user, request.device_id, request.target()?, now);
    call(&gateway, &user, ApiCall::SubscribePush { subscription }).await
}

async fn unsubscribe_push(State(gateway): Gateway, Caller(user): Caller, request: Request) -> Answer {
    idempotency_key(request.headers())?;
    let Unsubscribe { subscription_id } = body(&gateway, request).await?;
    call(&gateway, &user, ApiCall::UnsubscribePush { id: subscription_id }).await
}

async fn push_subscriptions(State(gateway): Gateway, Caller(user): Caller) -> Answer {
    call(&gateway, &user, ApiCall::PushSubscriptions).await
}

async fn create_media(State(gateway): Gateway, Caller(user): Caller, request: Request) -> Answer {
    let key = idempotency_key(request.headers())?;
    let host = Reached::of(&request);
    let media: CreateMedia = body(&gateway, request).await?;
    media.check()?;
    let answer = gateway.core.api(&user, ApiCall::CreateMedia { media, key }).await;
    Ok(answer_of(upload_answer(&gateway, &host, answer)?))
}

async fn media(State(gateway): Gateway, Caller(user): Caller, params: RawPathParams, request: Request) -> Answer {
    let id = conversation_of(&params)?;
    let media = path_id(&params, "media", Refusal::new(ErrorCode::NotFound, "no such media"))?;
    let name = QueryValues::read(request.uri())?.text("name").map(str::to_owned);
    name.as_deref().map_or(Ok(()), check_media_name)?;
    let host = Reached::of(&request);
    let answer = gateway.core.api(&user, ApiCall::MediaLink { id, media, name }).await;
    Ok(answer_of(download_answer(&gateway, &host, answer)?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hearth_protocol::contract;
    use serde_json::Value;

    /// Methods and paths that this file serves.
    fn served() -> BTreeSet<(String, String)> {
        let mut served = BTreeSet::new();
        for line in include_str!("routes.rs").lines().filter_map(|line| line.trim().strip_prefix(".route(")) {
            let (path, handlers) = line.split_once(", ").expect("a path and its handlers");
            let text = path.split('"').nth(1).unwrap_or("{conversation}");
            let below =
                text.strip_prefix("{conversation}").map(|rest| format!("/conversations/{{conversation}}{rest}"));
            let path = below.unwrap_or_else(|| text.to_owned()).replace("{{", "{").replace("}}", "}");
            let calls: Vec<&str> = handlers.split('(').collect();
            for pair in calls.windows(2) {
                let method = pair[0].rsplit(['.', ':', ' ']).next().unwrap_or_default();
                served.insert((method.to_owned(), path.clone()));
            }
        }
        served
    }

    #[test]
    fn the_contract_names_every_route_that_is_served_and_no_other() {
        let document: Value = serde_json::from_str(contract::OPENAPI).expect("JSON");
        let paths = document["paths"].as_object().expect("paths").iter();
        let methods = |of: &Value| of.as_object().expect("methods").keys().cloned().collect::<Vec<_>>();
        let told: BTreeSet<(String, String)> =
            paths.flat_map(|(path, of)| methods(of).into_iter().map(|method| (method, path.clone()))).collect();
        assert_eq!(told, served());
    }
}
