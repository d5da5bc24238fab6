//! REST over real sockets: what is refused, how, and what reaches the core.

use crate::common::*;
use edge_gateway::GatewayOptions;
use region_core::Readiness;
use serde_json::json;

#[tokio::test]
async fn every_refusal_has_the_status_and_the_body_of_the_contract() {
    let gateway = start(GatewayOptions::default()).await;
    let big = format!("{{\"name\":\"{}\"}}", "a".repeat(1_100_000));
    let long_name = format!("{{\"name\":\"{}\"}}", "a".repeat(101));
    let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
    let crowd: Vec<String> = (0..1_001).map(|n| format!("u{n}")).collect();
    let crowd = json!({"name": "g", "participantIds": crowd}).to_string();
    let id = conversation().to_string();
    let of = |rest: &str| format!("/api/v1/conversations/{id}{rest}");
    let table: Vec<(&str, String, &str, u16, &str)> = vec![
        ("GET", "/nowhere".into(), "", 404, "NOT_FOUND"),
        ("GET", "/api/v1/nowhere".into(), "", 404, "NOT_FOUND"),
        ("DELETE", "/api/v1/sync".into(), "", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/livez".into(), "", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/ws".into(), "", 400, "INVALID_MESSAGE"),
        ("POST", "/api/v1/groups".into(), "", 400, "INVALID_MESSAGE"),
        ("POST", "/api/v1/groups".into(), "{", 400, "INVALID_MESSAGE"),
        ("POST", "/api/v1/groups".into(), "{}", 400, "INVALID_MESSAGE"),
        ("POST", "/api/v1/groups".into(), &deep, 400, "INVALID_MESSAGE"),
        ("POST", "/api/v1/groups".into(), r#"{"name":""}"#, 400, "INVALID_MESSAGE"),
        ("POST", "/api/v1/groups".into(), &long_name, 400, "INVALID_MESSAGE"),
        ("POST", "/api/v1/groups".into(), r#"{"name":"g","type":"direct"}"#, 400, "INVALID_MESSAGE"),
        ("POST", "/api/v1/groups".into(), r#"{"name":"g","participantIds":["bad id"]}"#, 400, "INVALID_MESSAGE"),
        ("POST", "/api/v1/groups".into(), &crowd, 413, "TOO_LARGE"),
        ("POST", "/api/v1/groups".into(), &big, 413, "TOO_LARGE"),
        ("POST", "/api/v1/conversations".into(), r#"{"type":"direct","participantIds":[]}"#, 400, "INVALID_MESSAGE"),
        (
            "POST",
            "/api/v1/conversations".into(),
            r#"{"type":"direct","participantIds":["ann"]}"#,
            400,
            "INVALID_MESSAGE",
        ),
        (
            "POST",
            "/api/v1/conversations".into(),
            r#"{"type":"direct","participantIds":["b","c"]}"#,
            400,
            "INVALID_MESSAGE",
        ),
        ("GET", of("/messages?limit=201"), "", 400, "INVALID_MESSAGE"),
        ("GET", of("/messages?limit=0"), "", 400, "INVALID_MESSAGE"),
        ("GET", of("/messages?before=9&after=1"), "", 400, "INVALID_MESSAGE"),
        ("GET", of("/messages?before=x"), "", 400, "INVALID_MESSAGE"),
        ("GET", "/api/v1/conversations/no-uuid".into(), "", 404, "CONVERSATION_NOT_FOUND"),
        ("GET", "/api/v1/conversations/00000000-0000-0000-0000-000000000009".into(), "", 404, "CONVERSATION_NOT_FOUND"),
        ("GET", "/api/v1/users/a%20b".into(), "", 404, "NOT_FOUND"),
        ("GET", "/api/v1/users/%ff".into(), "", 400, "INVALID_MESSAGE"),
        ("PATCH", of(""), "{}", 400, "INVALID_MESSAGE"),
        ("PATCH", of(""), r#"{"settings":{}}"#, 400, "INVALID_MESSAGE"),
        ("PATCH", of(""), r#"{"partitionMode":"later"}"#, 400, "INVALID_MESSAGE"),
        ("PATCH", of(""), r#"{"allowedRegions":[]}"#, 400, "INVALID_MESSAGE"),
        ("PATCH", of(""), r#"{"settings":{"historyForNewMembers":"all"}}"#, 400, "INVALID_MESSAGE"),
        ("PATCH", of("/preferences"), "{}", 400, "INVALID_MESSAGE"),
        ("GET", of("/messages/first/edits"), "", 404, "NOT_FOUND"),
        ("POST", "/api/v1/media".into(), "", 400, "INVALID_MESSAGE"),
        ("POST", of("/members"), r#"{"userIds":[]}"#, 400, "INVALID_MESSAGE"),
        ("POST", "/api/v1/sync".into(), r#"{"conversations":[],"limit":201}"#, 400, "INVALID_MESSAGE"),
        ("GET", "/api/v1/users/busy".into(), "", 503, "OVERLOADED"),
    ];
    for (method, path, body, status, error) in table {
        let answer = gateway.ann(method, &path, body).await;
        let shown = &body[..body.len().min(60)];
        assert_eq!(answer.status, status, "{method} {path} {shown}: {}", answer.body);
        assert_eq!(answer.json()["error"], error, "{method} {path} {shown}");
        assert!(answer.json()["message"].is_string());
    }
    assert_eq!(gateway.ann("GET", "/api/v1/users/busy", "").await.header("retry-after"), Some("7"));
}

#[tokio::test]
async fn a_request_without_a_good_token_is_401_and_reaches_nobody() {
    let gateway = start(GatewayOptions::default()).await;
    for headers in
        [&[][..], &["authorization: Bearer mallory"], &["authorization: Basic YTpi"], &["authorization: Bearer"]]
    {
        let answer = gateway.request("GET", "/api/v1/conversations", headers, "").await;
        assert_eq!((answer.status, &answer.json()["error"]), (401, &json!("UNAUTHORIZED")), "{headers:?}");
    }
    assert!(gateway.core.calls.lock().is_empty());
}

#[tokio::test]
async fn good_requests_reach_the_core_as_they_were_meant() {
    let gateway = start(GatewayOptions::default()).await;
    let id = conversation().to_string();
    let of = |rest: &str| format!("/api/v1/conversations/{id}{rest}");
    let key = "idempotency-key: 00000000-0000-0000-0000-000000000001";
    let table: Vec<(&str, String, &str, u16, &str)> = vec![
        ("POST", "/api/v1/conversations".into(), r#"{"type":"direct","participantIds":["bob"]}"#, 201, "CreateDirect"),
        (
            "POST",
            "/api/v1/conversations".into(),
            r#"{"type":"direct","participantIds":["ann","bob"]}"#,
            201,
            "CreateDirect",
        ),
        ("POST", "/api/v1/groups".into(), r#"{"name":"g","participantIds":["bob"]}"#, 201, "CreateGroup"),
        (
            "GET",
            "/api/v1/conversations?cursor=abc&limit=5".into(),
            "",
            200,
            "Feed { cursor: Some(\"abc\"), limit: Some(5) }",
        ),
        ("GET", of(""), "", 200, "Conversation {"),
        ("PATCH", of(""), r#"{"name":"h"}"#, 200, "PatchConversation"),
        ("PATCH", of(""), r#"{"partitionMode":"read-only"}"#, 200, "partition_mode: Some(ReadOnly)"),
        ("GET", of("/members?limit=1000"), "", 200, "limit: Some(1000)"),
        ("POST", of("/members"), r#"{"userIds":["carl"]}"#, 200, "AddMembers"),
        ("DELETE", of("/members/me"), "", 204, "RemoveMember"),
        ("PATCH", of("/members/bob"), r#"{"role":"admin"}"#, 200, "role: Admin"),
        ("PATCH", of(""), r#"{"settings":{"allowMemberInvites":false}}"#, 200, "allow_member_invites: Some(false)"),
        ("GET", of("/messages/7/edits"), "", 200, "sequence: 7"),
        ("GET", of("/messages?before=seq_7&limit=200"), "", 200, "before: Some(7), after: None, limit: Some(200)"),
        ("GET", of("/messages?after=3"), "", 200, "after: Some(3)"),
        ("GET", "/api/v1/users/bob".into(), "", 200, "User {"),
        ("PATCH", "/api/v1/users/me".into(), r#"{"displayName":null}"#, 200, "display_name: Some(None)"),
        ("POST", "/api/v1/sync".into(), r#"{"conversations":[]}"#, 200, "Sync"),
    ];
    for (method, path, body, status, call) in table {
        let answer = gateway.request(method, &path, &["authorization: bearer ann", key], body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        let made = gateway.core.calls.lock().pop().unwrap();
        assert!(made.starts_with("ann: ") && made.contains(call), "{method} {path}: {made}");
        if made.contains("key:") {
            assert!(made.contains("00000000-0000-0000-0000-000000000001"));
        }
    }
    let headers = ["authorization: Bearer ann", "idempotency-key: seven"];
    let answer = gateway.request("POST", "/api/v1/groups", &headers, r#"{"name":"g"}"#).await;
    assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("INVALID_MESSAGE")));
}

#[tokio::test]
async fn pages_of_allowed_origins_get_cors_headers_and_others_none() {
    let mut options = GatewayOptions::default();
    options.access.allowed_origins = vec!["https://chat.example.com".into()];
    let gateway = start(options.clone()).await;
    let preflight = ["origin: https://chat.example.com", "access-control-request-method: PATCH"];
    let answer = gateway.request("OPTIONS", "/api/v1/users/me", &preflight, "").await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://chat.example.com"));
    assert!(answer.header("access-control-allow-headers").unwrap().contains("idempotency-key"));
    let page = ["origin: https://chat.example.com", "authorization: Bearer mallory"];
    let answer = gateway.request("GET", "/api/v1/conversations", &page, "").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin").is_some()), (401, true));
    let foreign = ["origin: https://evil.example", "authorization: Bearer ann"];
    let answer = gateway.request("GET", "/api/v1/conversations", &foreign, "").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
    options.access.refuse_foreign_origins = true;
    let strict = start(options).await;
    assert_eq!(strict.request("GET", "/api/v1/conversations", &foreign, "").await.status, 403);
}

#[tokio::test]
async fn health_metrics_and_transports_are_shown() {
    let gateway = start(GatewayOptions::default()).await;
    assert_eq!(gateway.request("GET", "/livez", &[], "").await.status, 200);
    assert_eq!(gateway.request("GET", "/readyz", &[], "").await.status, 200);
    *gateway.core.readiness.lock() = Readiness::NotReady("the store failed".into());
    let answer = gateway.request("GET", "/readyz", &[], "").await;
    assert_eq!((answer.status, &answer.json()["reason"]), (503, &json!("the store failed")));
    let mut session = gateway.session("ann").await;
    session.send(&json!({"type": "nonsense"})).await;
    session.next().await;
    let metrics = gateway.request("GET", "/metrics", &[], "").await.body;
    for line in [
        "hearth_gateway_sessions{transport=\"websocket\"} 1",
        "hearth_gateway_frames_total{direction=\"in\",transport=\"websocket\"} 2",
        "hearth_gateway_refusals_total{error=\"INVALID_MESSAGE\"} 1",
        "hearth_gateway_refusals_total{error=\"RATE_LIMITED\"} 0",
        "hearth_gateway_closes_total{code=\"4010\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    let transport = gateway.request("GET", "/transport.json", &[], "").await.json();
    assert_eq!(transport, json!({"websocket": {"url": format!("ws://{}/ws", gateway.address)}}));
}

#[tokio::test]
async fn routes_of_the_composition_stand_beside_the_own_ones() {
    let extra = axum::Router::new().route("/api/v1/dev/tokens", axum::routing::post(|| async { "made" }));
    let verifier = std::sync::Arc::new(NameVerifier);
    let gateway = start_with(GatewayOptions::default(), None, None, verifier, Some(extra)).await;
    assert_eq!(gateway.request("POST", "/api/v1/dev/tokens", &[], "").await.body, "made");
    assert_eq!(gateway.request("GET", "/api/v1/dev/tokens", &[], "").await.json()["error"], "METHOD_NOT_ALLOWED");
    assert_eq!(gateway.ann("GET", "/api/v1/users/bob", "").await.status, 200);
}
