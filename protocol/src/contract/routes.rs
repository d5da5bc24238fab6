//! The REST routes, and the OpenAPI document of them.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use super::schemas::Schemas;
use crate::error::{ErrorCode, Refusal};
use crate::ids::{ConversationId, UserId};
use crate::limits;
use crate::media::{CreateMedia, MediaDownload, MediaId, MediaUpload};
use crate::push::{PatchPreferences, PreferencesRow, Subscribe, SubscriptionRow, SubscriptionsResponse, Unsubscribe};
use crate::rest::{
    AddMembers, ConversationRow, CreateConversation, CreateGroup, EditsResponse, FeedResponse, HistoryResponse,
    MembersResponse, PatchConversation, PatchMember, PatchUser, SyncRequest, SyncResponse, UserRow,
};

/// Adds the schema of a body.
type Body = fn(&mut Schemas) -> Value;

/// A route of the contract.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// In lower case.
    pub method: &'static str,
    /// Below `/api/v1`, with its parameters in braces.
    pub path: &'static str,
    id: &'static str,
    summary: &'static str,
    /// Parameters of the query string, by name.
    query: &'static [&'static str],
    /// Whether it takes an `Idempotency-Key`.
    keyed: bool,
    body: Option<Body>,
    /// The answers that are no refusals.
    answers: &'static [(u16, Option<Body>)],
}

const GET: Route =
    Route { method: "get", path: "", id: "", summary: "", query: &[], keyed: false, body: None, answers: &[] };
const WRITE: Route = Route { keyed: true, ..GET };

const fn sent<T: JsonSchema>() -> Option<Body> {
    Some(|schemas| schemas.sent::<T>())
}

const fn given<T: JsonSchema>() -> Option<Body> {
    Some(|schemas| schemas.answered::<T>())
}

/// Every route that is served.
pub const ROUTES: &[Route] = &[
    Route {
        method: "post",
        path: "/sync",
        id: "sync",
        summary: "What the client lacks of conversations",
        body: sent::<SyncRequest>(),
        answers: &[(200, given::<SyncResponse>())],
        ..GET
    },
    Route {
        path: "/conversations",
        id: "feed",
        summary: "The user's change feed: new and changed conversations since a cursor",
        query: &["cursor", "feedLimit"],
        answers: &[(200, given::<FeedResponse>())],
        ..GET
    },
    Route {
        method: "post",
        path: "/conversations",
        id: "createDirect",
        summary: "The direct conversation with a user: 201 the first time, 200 after",
        body: sent::<CreateConversation>(),
        answers: &[(200, given::<ConversationRow>()), (201, given::<ConversationRow>())],
        ..WRITE
    },
    Route {
        method: "post",
        path: "/groups",
        id: "createGroup",
        summary: "A new group or channel; its creator is admin",
        body: sent::<CreateGroup>(),
        answers: &[(200, given::<ConversationRow>()), (201, given::<ConversationRow>())],
        ..WRITE
    },
    Route {
        path: "/conversations/{conversation}",
        id: "conversation",
        summary: "One conversation with its first members, settings and place",
        answers: &[(200, given::<ConversationRow>())],
        ..GET
    },
    Route {
        method: "patch",
        path: "/conversations/{conversation}",
        id: "changeConversation",
        summary: "Name, settings, durability, partition mode",
        body: sent::<PatchConversation>(),
        answers: &[(200, given::<ConversationRow>())],
        ..WRITE
    },
    Route {
        path: "/conversations/{conversation}/members",
        id: "members",
        summary: "Members, by user id",
        query: &["cursor", "membersLimit"],
        answers: &[(200, given::<MembersResponse>())],
        ..GET
    },
    Route {
        method: "post",
        path: "/conversations/{conversation}/members",
        id: "addMembers",
        summary: "Adds members",
        body: sent::<AddMembers>(),
        answers: &[(200, given::<ConversationRow>())],
        ..WRITE
    },
    Route {
        method: "delete",
        path: "/conversations/{conversation}/members/{user}",
        id: "removeMember",
        summary: "Removes a member; `me`: leaves",
        answers: &[(204, None)],
        ..WRITE
    },
    Route {
        method: "patch",
        path: "/conversations/{conversation}/members/{user}",
        id: "setRole",
        summary: "Another role",
        body: sent::<PatchMember>(),
        answers: &[(200, given::<ConversationRow>())],
        ..WRITE
    },
    Route {
        path: "/conversations/{conversation}/messages",
        id: "history",
        summary: "Rows below or above a number; with neither, the newest",
        query: &["before", "after", "historyLimit"],
        answers: &[(200, given::<HistoryResponse>())],
        ..GET
    },
    Route {
        path: "/conversations/{conversation}/messages/{sequence}/edits",
        id: "edits",
        summary: "The versions of a message, for its author and admins",
        answers: &[(200, given::<EditsResponse>())],
        ..GET
    },
    Route {
        method: "patch",
        path: "/conversations/{conversation}/preferences",
        id: "setPreferences",
        summary: "What the caller wants to be woken for there",
        body: sent::<PatchPreferences>(),
        answers: &[(200, given::<PreferencesRow>())],
        ..WRITE
    },
    Route {
        method: "post",
        path: "/media",
        id: "createMedia",
        summary: "Where to put media of a conversation: 201 the first time, 200 with the same key after",
        body: sent::<CreateMedia>(),
        answers: &[(200, given::<MediaUpload>()), (201, given::<MediaUpload>())],
        ..WRITE
    },
    Route {
        path: "/conversations/{conversation}/media/{media}",
        id: "media",
        summary: "Where media are, for a member who is shown a message that carries them",
        query: &["name"],
        answers: &[(200, given::<MediaDownload>())],
        ..GET
    },
    Route {
        path: "/push-subscriptions",
        id: "pushSubscriptions",
        summary: "Where the caller's devices are woken",
        answers: &[(200, given::<SubscriptionsResponse>())],
        ..GET
    },
    Route {
        method: "post",
        path: "/push-subscriptions",
        id: "subscribePush",
        summary: "A device is to be woken: 201 the first time, 200 after",
        body: sent::<Subscribe>(),
        answers: &[(200, given::<SubscriptionRow>()), (201, given::<SubscriptionRow>())],
        ..WRITE
    },
    Route {
        method: "delete",
        path: "/push-subscriptions",
        id: "unsubscribePush",
        summary: "A device is to be woken no longer",
        body: sent::<Unsubscribe>(),
        answers: &[(204, None)],
        ..WRITE
    },
    Route {
        method: "put",
        path: "/users/me/blocks/{user}",
        id: "block",
        summary: "Nothing of a user's direct messages, and nothing for it of the caller's presence",
        answers: &[(204, None)],
        ..WRITE
    },
    Route {
        method: "delete",
        path: "/users/me/blocks/{user}",
        id: "unblock",
        summary: "Blocks a user no longer",
        answers: &[(204, None)],
        ..WRITE
    },
    Route {
        path: "/users/me",
        id: "me",
        summary: "The caller's own row",
        answers: &[(200, given::<UserRow>())],
        ..GET
    },
    Route {
        method: "patch",
        path: "/users/me",
        id: "changeMe",
        summary: "Name and picture; null takes one away",
        body: sent::<PatchUser>(),
        answers: &[(200, given::<UserRow>())],
        ..WRITE
    },
    Route { path: "/users/{user}", id: "user", summary: "A user", answers: &[(200, given::<UserRow>())], ..GET },
];

fn parameter(name: &str, place: &str, description: &str, schema: Value) -> Value {
    json!({ "name": name, "in": place, "required": place == "path", "description": description, "schema": schema })
}

fn limit(most: usize) -> Value {
    parameter("limit", "query", "Rows of a page.", json!({ "type": "integer", "minimum": 1, "maximum": most }))
}

fn sequence() -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": limits::SEQUENCE })
}

/// The parameters of all routes, by the name that a route refers to them with.
fn parameters(schemas: &mut Schemas) -> BTreeMap<&'static str, Value> {
    let text = || json!({ "type": "string" });
    let key = json!({ "type": "string", "format": "uuid" });
    let name = json!({ "type": "string", "minLength": 1, "maxLength": limits::NAME_CHARACTERS });
    BTreeMap::from([
        ("conversation", parameter("conversation", "path", "Its id.", schemas.sent::<ConversationId>())),
        ("user", parameter("user", "path", "A user's id.", schemas.sent::<UserId>())),
        ("media", parameter("media", "path", "Their id.", schemas.sent::<MediaId>())),
        ("name", parameter("name", "query", "Under which name they are saved.", name)),
        ("sequence", parameter("sequence", "path", "The number of a message.", sequence())),
        ("cursor", parameter("cursor", "query", "From an earlier page; opaque.", text())),
        ("feedLimit", limit(limits::FEED_ROWS)),
        ("membersLimit", limit(limits::MEMBERS_ROWS)),
        ("historyLimit", limit(limits::HISTORY_ROWS)),
        ("before", parameter("before", "query", "Rows below this number; excludes `after`.", sequence())),
        ("after", parameter("after", "query", "Rows above this number; excludes `before`.", sequence())),
        ("Idempotency-Key", parameter("Idempotency-Key", "header", "Repeating a write with it writes once.", key)),
    ])
}

impl Route {
    fn operation(&self, schemas: &mut Schemas, refusals: &BTreeSet<u16>) -> Value {
        let in_path = self.path.split('{').skip(1).filter_map(|part| part.split('}').next());
        let keyed = self.keyed.then_some("Idempotency-Key");
        let names = in_path.chain(self.query.iter().copied()).chain(keyed);
        let parameters: Vec<Value> =
            names.map(|name| json!({ "$ref": format!("#/components/parameters/{name}") })).collect();
        let mut responses = Map::new();
        for (status, body) in self.answers {
            let mut answer = json!({ "description": if *status == 204 { "Done." } else { "As asked." } });
            if let Some(body) = body {
                answer["content"] = json!({ "application/json": { "schema": body(schemas) } });
            }
            responses.insert(status.to_string(), answer);
        }
        for status in refusals {
            responses.insert(status.to_string(), json!({ "$ref": format!("#/components/responses/{status}") }));
        }
        let mut operation = json!({
            "operationId": self.id, "summary": self.summary, "parameters": parameters, "responses": responses
        });
        if let Some(body) = self.body {
            operation["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": body(schemas) } } });
        }
        operation
    }
}

/// One answer a status of the refusals, with its codes.
fn refusals(schemas: &mut Schemas) -> BTreeMap<u16, Value> {
    let mut codes: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for code in ErrorCode::ALL.iter().filter(|code| **code != ErrorCode::MethodNotAllowed) {
        codes.entry(code.status()).or_default().push(code.as_str());
    }
    let mut answer = |(status, codes): (u16, Vec<&str>)| {
        let body = json!({ "application/json": { "schema": schemas.answered::<Refusal>() } });
        (status, json!({ "description": codes.join(", "), "content": body }))
    };
    codes.into_iter().map(&mut answer).collect()
}

/// OpenAPI 3.1 of the REST routes.
#[must_use]
pub fn openapi() -> Value {
    let mut schemas = Schemas::new();
    let refusals = refusals(&mut schemas);
    let statuses: BTreeSet<u16> = refusals.keys().copied().collect();
    let parameters = parameters(&mut schemas);
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let operation = route.operation(&mut schemas, &statuses);
        paths.entry(route.path).or_insert_with(|| json!({}))[route.method] = operation;
    }
    let named: BTreeMap<String, Value> = refusals.into_iter().map(|(status, it)| (status.to_string(), it)).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hearth REST",
            "version": "1",
            "description": "The same at every region. Every refusal has a JSON body with a stable code.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" }
        },
        "servers": [{ "url": "/api/v1" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
            "parameters": parameters,
            "responses": named,
            "schemas": schemas.all()
        }
    })
}
