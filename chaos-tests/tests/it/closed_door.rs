//! No token, no frame; no membership, no conversation; no secret in a log. Every mesh's log is searched at its end.

use chaos_tests::{Mesh, Peer, new_id, raw, until};
use std::time::Duration;

fn host(mesh: &Mesh) -> String {
    mesh.regions[0].http.trim_start_matches("http://").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_cannot_tell_a_foreign_conversation_from_none() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    ann.say(&group, "not for strangers").await;
    for region in 0..3 {
        for (method, rest) in
            [("GET", ""), ("GET", "/messages"), ("GET", "/members"), ("DELETE", "/members/bob"), ("PATCH", "")]
        {
            let body = (method == "PATCH").then(|| serde_json::json!({ "name": "mine now" }));
            let path = |id: &str| format!("/api/v1/conversations/{id}{rest}");
            let foreign = mesh.rest("eve", region, method, &path(&group), body.clone()).await;
            let unknown = mesh.rest("eve", region, method, &path(&new_id()), body).await;
            assert_eq!((foreign.status, unknown.status), (404, 404), "{method} {rest}: {foreign:?} {unknown:?}");
            assert_eq!(foreign.text, unknown.text, "{method} {rest}");
        }
    }
    let none = mesh.plain(0, "GET", "/api/v1/conversations", None).await;
    assert_eq!(none.status, 401, "{none:?}");
    drop(ann);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_host_or_origin_is_refused_at_every_door_of_the_development_mesh() {
    let mesh = Mesh::quick(&[]).await;
    let (region, own) = (&mesh.regions[0], host(&mesh));
    let get = |path: &str, host: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n");
    for path in ["/api/v1/dev/links", "/api/v1/dev/regions", "/metrics", "/transport.json"] {
        let (status, _) = raw::request(region, &get(path, &own, "")).await;
        assert_eq!(status, 200, "{path} under its own name");
        let (status, _) = raw::request(region, &get(path, &own, &format!("Origin: http://{own}\r\n"))).await;
        assert_eq!(status, 200, "{path} from its own page");
        for (host, more) in [("evil.example", ""), (own.as_str(), "Origin: http://evil.example\r\n")] {
            let (status, _) = raw::request(region, &get(path, host, more)).await;
            assert_eq!(status, 403, "{path} {host} {more}");
        }
    }
    for (host, more) in [(Some("evil.example"), ""), (None, "Origin: http://evil.example\r\n")] {
        let (status, _) = raw::upgrade(region, host, more).await;
        assert_eq!(status, 403, "/ws {host:?} {more}");
    }
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_in_urls_and_headers_work_and_reach_no_log_and_links_count_what_they_carry() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let bob = Peer::connect(&mesh, "bob", 1).await;
    let token = mesh.token("ann", 0).await;
    let by_header = format!("Authorization: Bearer {token}\r\n");
    let by_protocol = format!("Sec-WebSocket-Protocol: chat.v1, bearer.{token}\r\n");
    for headers in [by_header, by_protocol] {
        let (status, _stream) = raw::upgrade(&mesh.regions[0], None, &headers).await;
        assert_eq!(status, 101);
    }
    for text in [token.as_str(), "a.wrong.token-in-a-url"] {
        mesh.secrets.lock().expect("no panic holds it").insert(text.to_owned());
        let head = format!(
            "GET /ws?token={text} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            host(&mesh)
        );
        assert_eq!(raw::request(&mesh.regions[0], &head).await.0, 101, "refused in-band, if at all");
    }
    let before = mesh.metric(0, "hearth_link_bytes_total{", &mesh.regions[1].id).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let long = "a text that takes room ".repeat(400);
    let ack = ann.say(&group, &long).await;
    bob.expect("message.new", |frame| frame["payload"]["messageId"] == ack["messageId"]).await;
    until("the link's bytes have grown by the text at least", Duration::from_secs(5), || async {
        let after = mesh.metric(0, "hearth_link_bytes_total{", &mesh.regions[1].id).await;
        after - before >= long.len() as f64
    })
    .await;
    drop((ann, bob));
    mesh.end().await;
}
