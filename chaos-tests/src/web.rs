//! One HTTP request and its answer.

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

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

/// A client without proxies. Not shared: every test has its own runtime, and a pool would outlive it.
fn client() -> reqwest::Client {
    static PROVIDER: OnceLock<()> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        // Another part of the test may have been first; it installed the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
    let roots = rustls::RootCertStore::empty();
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
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
    let method = method.parse::<reqwest::Method>().expect("a method");
    let mut request = client().request(method.clone(), format!("{base}{path}"));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("a body");
    Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::Null), text }
}
