//! Web Push (RFC 8030): a message that only the browser can read, sent to the push resource that it named.

mod encryption;
mod vapid;

use std::time::Duration;

use async_trait::async_trait;
use hearth_protocol::Timestamp;
use region_model::push::Showing;
use region_model::push::ports::{Notice, PushSender, Scope, Sent, Subscription, Target};
use reqwest::Url;

use crate::http::{Answer, Versions, ask, client};
use crate::public::is_public;
use crate::{Addresses, HttpOptions, SetupError, payload};

pub use encryption::{EncryptionError, PLAINTEXT_BYTES, Receiver, encrypt};
pub use vapid::Vapid;

/// Characters of an endpoint.
const ENDPOINT_CHARACTERS: usize = 2_048;
/// Characters of `Topic`.
const TOPIC_CHARACTERS: usize = 32;
/// A message's length says little: it is padded to a multiple of this.
const PADDING: usize = 256;
/// The rest after 429 and 503 that do not say how long.
const BUSY_REST: Duration = Duration::from_secs(60);
/// The longest life of a message, in seconds: what is usual at services is four weeks.
const LONGEST_LIFE: u64 = 28 * 24 * 3_600;

/// What the operator sets.
#[derive(Clone, Debug)]
pub struct WebPushOptions {
    /// Who we are, to push services.
    pub vapid: Vapid,
    /// How to reach them.
    pub http: HttpOptions,
}

/// Sends to whatever service a browser uses.
#[derive(Debug)]
pub struct WebPushSender {
    client: reqwest::Client,
    options: WebPushOptions,
}

impl WebPushSender {
    /// Makes a sender.
    ///
    /// # Errors
    /// [`SetupError::Http`].
    pub fn new(options: WebPushOptions) -> Result<Self, SetupError> {
        Ok(Self { client: client(&options.http, Versions::Any)?, options })
    }
}

/// Checks a push resource that a client wants to be used: `https`, a name and no address, the usual port, nobody's
/// password. Whether the name leads to a public address is checked at each connection.
///
/// # Errors
/// What is wrong, as a text for the client.
pub fn check_endpoint(endpoint: &str, addresses: Addresses) -> Result<Url, &'static str> {
    if endpoint.len() > ENDPOINT_CHARACTERS {
        return Err("the endpoint is too long");
    }
    let url = Url::parse(endpoint).map_err(|_| "the endpoint is not a URL")?;
    if url.scheme() != "https" {
        return Err("the endpoint must begin with https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the endpoint must not have a password");
    }
    let host = url.host_str().ok_or("the endpoint has no host")?;
    if addresses == Addresses::Public {
        let address = host.trim_matches(['[', ']']).parse().ok();
        if address.is_some_and(|address| !is_public(address)) || host == "localhost" {
            return Err("the endpoint is not in the public internet");
        }
        if url.port().is_some() {
            return Err("the endpoint must use the usual port");
        }
    }
    Ok(url)
}

/// What RFC 8030 says of each answer.
fn outcome(answer: &Answer) -> Sent {
    match answer.status {
        200..=299 => Sent::Accepted,
        404 | 410 => Sent::Gone,
        413 => Sent::Refused("too_large"),
        // Made under another key of ours, or a key that the service does not believe.
        401 | 403 => Sent::Refused("vapid"),
        429 | 503 => Sent::Wait { scope: Scope::Way, after: Some(answer.retry_after.unwrap_or(BUSY_REST)) },
        300..=499 => Sent::Refused("request"),
        _ => Sent::Failed("service"),
    }
}

#[async_trait]
impl PushSender for WebPushSender {
    /// Browsers of one maker share a service, and it rests alone.
    fn way(&self, to: &Subscription) -> String {
        let Target::WebPush { endpoint, .. } = &to.target else { return "web_push".to_owned() };
        Url::parse(endpoint).map_or_else(|_| "web_push".to_owned(), |url| url.origin().ascii_serialization())
    }

    async fn send(&self, to: &Subscription, notice: &Notice, now: Timestamp) -> Sent {
        let Target::WebPush { endpoint, p256dh, auth } = &to.target else { return Sent::Refused("service") };
        let Ok(url) = check_endpoint(endpoint, self.options.http.addresses) else { return Sent::Gone };
        let Ok(receiver) = Receiver::new(p256dh, auth) else { return Sent::Gone };
        if notice.collapse.len() > TOPIC_CHARACTERS {
            return Sent::Refused("collapse");
        }
        let Some(data) = payload::data(notice, PLAINTEXT_BYTES) else { return Sent::Refused("payload") };
        let padded = data.len().next_multiple_of(PADDING).min(PLAINTEXT_BYTES);
        let Ok(body) = encrypt(&receiver, &data, padded - data.len()) else { return Sent::Gone };
        let Some(authorization) = self.options.vapid.authorization(&url.origin().ascii_serialization(), now) else {
            return Sent::Refused("vapid");
        };
        let life = (notice.not_after.0.saturating_sub(now.0) / 1_000).min(LONGEST_LIFE);
        let urgency = if notice.showing == Showing::Clear { "normal" } else { "high" };
        let request = self
            .client
            .post(url)
            .header("authorization", authorization)
            .header("content-encoding", "aes128gcm")
            .header("content-type", "application/octet-stream")
            .header("ttl", life.to_string())
            .header("topic", &notice.collapse)
            .header("urgency", urgency)
            .body(body);
        match ask(request, now).await {
            Ok(answer) => outcome(&answer),
            Err(reason) => Sent::Failed(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_leads_to_the_public_internet_by_tls() {
        for good in ["https://push.example.net/p/JzLQ3raZJfFBR0aqvOMsLrt54w4rJUsV", "https://1.1.1.1/a"] {
            assert!(check_endpoint(good, Addresses::Public).is_ok(), "{good}");
        }
        for bad in [
            "",
            "push",
            "http://push.example.net/",
            "https://u:p@push.example.net/",
            "https://localhost/x",
            "https://127.0.0.1/x",
            "https://[::1]/x",
            "https://169.254.169.254/latest",
            "https://0x7f.1/x",
            "https://push.example.net:8443/x",
            "file:///etc/passwd",
        ] {
            assert!(check_endpoint(bad, Addresses::Public).is_err(), "{bad}");
        }
        assert!(check_endpoint(&format!("https://a/{}", "b".repeat(2_048)), Addresses::Public).is_err());
        assert!(check_endpoint("https://localhost:8443/x", Addresses::Any).is_ok());
    }
}
