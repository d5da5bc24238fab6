//! One HTTP request and its answer.

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body as JSON; null when it is none.
    pub body: Value,
    /// The body as text.
    pub text: String,
}

/// A client without proxies that trusts nobody, or whom `tls` trusts. Not shared: every test has its own runtime, and a
/// pool would outlive it.
fn client(tls: Option<rustls::ClientConfig>) -> reqwest::Client {
    static PROVIDER: OnceLock<()> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        // Another part of the test may have been first; it installed the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
    let nobody = rustls::RootCertStore::empty;
    let tls =
        tls.unwrap_or_else(|| rustls::ClientConfig::builder().with_root_certificates(nobody()).with_no_client_auth());
    reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .tls_backend_preconfigured(tls)
        .build()
        .expect("a client")
}

/// One request.
///
/// # Panics
/// When no answer comes.
pub async fn call(
    base: &str,
    method: &str,
    path: &str,
    body: Option<Value>,
    token: Option<&str>,
    headers: &[(&str, &str)],
) -> Answer {
    let answer = try_call(None, base, method, path, body, token, headers).await;
    answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// As [`call`], over TLS that trusts whom `tls` trusts.
///
/// # Errors
/// Why no answer came.
///
/// # Panics
/// When `method` is none.
pub async fn try_call(
    tls: Option<rustls::ClientConfig>,
    base: &str,
    method: &str,
    path: &str,
    body: Option<Value>,
    token: Option<&str>,
    headers: &[(&str, &str)],
) -> Result<Answer, String> {
    let method = method.parse::<reqwest::Method>().expect("a method");
    let mut request = client(tls).request(method, format!("{base}{path}"));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
    let status = answer.status().as_u16();
    let text = answer.text().await.map_err(|error| format!("{error:?}"))?;
    Ok(Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::Null), text })
}

/// The whole history of a conversation, ascending.
///
/// # Errors
/// The answer that is no history.
///
/// # Panics
/// When no answer comes, or one lacks its rows.
pub async fn history(
    tls: Option<rustls::ClientConfig>,
    base: &str,
    token: &str,
    conversation: &str,
) -> Result<Vec<Value>, Answer> {
    let (mut rows, mut after) = (Vec::new(), 0);
    loop {
        let path = format!("/api/v1/conversations/{conversation}/messages?after={after}&limit=200");
        let answer = try_call(tls.clone(), base, "GET", &path, None, Some(token), &[]).await;
        let answer = answer.unwrap_or_else(|error| panic!("GET {path}: {error}"));
        if answer.status != 200 {
            return Err(answer);
        }
        let page = answer.body["messages"].as_array().expect("messages").clone();
        after = page.last().and_then(|row| row["sequenceNumber"].as_u64()).unwrap_or(after);
        let done = page.is_empty() || answer.body["hasMore"] != json!(true);
        rows.extend(page);
        if done {
            return Ok(rows);
        }
    }
}

/// The sum of a metric in the text of a scrape, over the lines that carry `labels`.
#[must_use]
pub fn metric(text: &str, name: &str, labels: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(labels));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
