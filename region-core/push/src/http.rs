//! One HTTP client a service: TLS only, no redirects, no proxies, bounded answers, bounded time.

use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::Timestamp;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Certificate, Client, RequestBuilder};

use crate::SetupError;
use crate::public::PublicOnly;

/// Time for one request, its connection included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read; the rest is left.
const ANSWER_BYTES: usize = 8 * 1024;
/// The longest rest that a service may ask for.
const LONGEST_REST: Duration = Duration::from_secs(24 * 3_600);

/// Whom to believe.
#[derive(Clone, Debug, Default)]
pub enum Roots {
    /// The certificate authorities of the platform.
    #[default]
    Platform,
    /// These and no others, in DER.
    Only(Vec<Vec<u8>>),
}

/// Which addresses may be connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// Those of the public internet, at port 443 where a client chose the URL.
    #[default]
    Public,
    /// Any: for tests, and for operators with a push service inside their network.
    Any,
}

/// How to reach a service.
#[derive(Clone, Debug, Default)]
pub struct HttpOptions {
    /// Whom to believe.
    pub roots: Roots,
    /// Which addresses may be connected to.
    pub addresses: Addresses,
}

/// Which versions of HTTP a service is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Versions {
    /// HTTP/2 or nothing.
    Two,
    /// HTTP/2 where the service offers it, else HTTP/1.1.
    Any,
}

pub(crate) fn client(options: &HttpOptions, versions: Versions) -> Result<Client, SetupError> {
    let mut builder = Client::builder()
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .timeout(REQUEST_TIMEOUT)
        .pool_idle_timeout(Duration::from_secs(600))
        .user_agent("hearth");
    if versions == Versions::Two {
        builder = builder.http2_prior_knowledge();
    }
    if options.addresses == Addresses::Public {
        builder = builder.dns_resolver(Arc::new(PublicOnly));
    }
    if let Roots::Only(roots) = &options.roots {
        let certificates: Result<Vec<Certificate>, _> = roots.iter().map(|der| Certificate::from_der(der)).collect();
        builder = builder.tls_certs_only(certificates.map_err(SetupError::Http)?);
    }
    builder.build().map_err(SetupError::Http)
}

/// What a service answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Vec<u8>,
}

/// Sends one request.
///
/// # Errors
/// What went wrong, from a closed set: the error itself would name the URL, which may be a secret.
pub(crate) async fn ask(request: RequestBuilder, now: Timestamp) -> Result<Answer, &'static str> {
    let reason = |error: reqwest::Error| match error {
        error if error.is_timeout() => "timeout",
        error if error.is_connect() => "connect",
        error if error.is_builder() => "request",
        _ => "http",
    };
    let mut response = request.send().await.map_err(reason)?;
    let (status, retry_after) = (response.status().as_u16(), retry_after(response.headers(), now));
    let mut body = Vec::new();
    while body.len() < ANSWER_BYTES {
        // The status says what became of the push; a body that breaks off changes nothing of it.
        let Ok(Some(chunk)) = response.chunk().await else { break };
        body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES - body.len())]);
    }
    Ok(Answer { status, retry_after, body })
}

/// `Retry-After` in both its forms (RFC 9110, 10.2.3), never longer than [`LONGEST_REST`].
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
            Duration::from_millis(u64::try_from(at.as_millisecond()).ok()?.saturating_sub(now.0))
        }
    };
    Some(asked.min(LONGEST_REST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date_and_is_bounded() {
        let read = |text: &str, now: u64| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, Timestamp(now))
        };
        assert_eq!(read("120", 0), Some(Duration::from_secs(120)));
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(read(date, 784_111_770_000), Some(Duration::from_secs(7)));
        assert_eq!(read(date, 784_111_999_000), Some(Duration::ZERO), "in the past");
        assert_eq!(read("99999999999", 0), Some(LONGEST_REST));
        assert_eq!((read("soon", 0), read("-1", 0)), (None, None));
        assert_eq!(retry_after(&HeaderMap::new(), Timestamp(0)), None);
    }
}
