//! The REST routes of the mock: one request a connection.

use hearth_protocol::UserId;
use hearth_protocol::ids::direct_conversation;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Conversation, State, history};

pub(super) async fn serve(mut stream: TcpStream, state: &Mutex<State>, base: &str) {
    let mut request = Vec::new();
    let body_at = loop {
        if let Some(at) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(length) if length > 0 => request.extend_from_slice(&chunk[..length]),
            _ => return,
        }
    };
    let head = String::from_utf8_lossy(&request[..body_at]).to_lowercase();
    let length =
        head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok()).unwrap_or(0);
    let mut body = request.split_off(body_at);
    while body.len() < length {
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(length) if length > 0 => body.extend_from_slice(&chunk[..length]),
            _ => return,
        }
    }
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let answer = answer(&mut state.lock(), &head, &body, base).to_string();
    let text = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{answer}",
        answer.len()
    );
    let _ = stream.write_all(text.as_bytes()).await;
}

fn answer(state: &mut State, head: &str, body: &Value, base: &str) -> Value {
    let mut words = head.split([' ', '\r']);
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let caller = head.split("bearer token-").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap_or("");
    match (method, path.trim_start_matches("/api/v1")) {
        ("get", "/dev/regions") => json!({"regions": [{"id": "eu-west", "http": format!("http://{base}"),
            "ws": format!("ws://{base}/ws"), "webtransport": format!("https://{base}/wt")}]}),
        ("post", "/dev/tokens") => {
            json!({"token": format!("token-{}", body["userId"].as_str().unwrap_or("")), "expiresAt": 4_000_000_000_000u64})
        }
        ("post", "/conversations") => {
            let user = UserId::new(caller).expect("valid");
            let other = UserId::new(body["participantIds"][0].as_str().expect("a user")).expect("valid");
            let id = direct_conversation(&user, &other);
            let known = state.conversations.entry(id.0).or_default();
            known.members = vec![user, other];
            conversation_row(&id.to_string(), "direct", known.rows.len())
        }
        ("post", "/groups") => {
            let id = uuid::Uuid::now_v7();
            let mut members = vec![UserId::new(caller).expect("valid")];
            for user in body["participantIds"].as_array().into_iter().flatten() {
                members.push(UserId::new(user.as_str().expect("a user")).expect("valid"));
            }
            state.conversations.insert(id, Conversation { members, rows: Vec::new() });
            conversation_row(&id.to_string(), "group", 0)
        }
        ("get", "/metrics") => json!("# EOF"),
        ("get", "/conversations") => json!({"conversations": [], "cursor": "c", "hasMore": false}),
        ("get", route) => {
            let id = route.split('/').nth(2).unwrap_or("");
            let mut asked = json!({"conversationId": id});
            for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
                asked[name] = json!(value.parse::<u64>().expect("a number"));
            }
            history(state, &asked)
        }
        _ => Value::Null,
    }
}

fn conversation_row(id: &str, kind: &str, last_sequence: usize) -> Value {
    json!({"conversationId": id, "type": kind, "role": "member", "lastSequence": last_sequence, "readUpTo": 0,
        "unreadCount": 0, "home": "eu-west", "epoch": 1, "createdAt": "2026-01-01T00:00:00Z"})
}
