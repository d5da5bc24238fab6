//! Links to media of a region's own store are paths: here they get the host under which clients reach that region.

use axum::extract::Request;
use hearth_protocol::media::{MediaDownload, MediaUpload};
use hearth_protocol::rest::ApiAnswer;
use hearth_protocol::{ErrorCode, Refusal, RegionId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::access::host_of;
use crate::http::Secure;
use crate::state::GatewayState;

/// How a client reached this region: `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reached(String);

impl Reached {
    pub(crate) fn of(request: &Request) -> Self {
        let host = host_of(request.headers(), request.uri()).unwrap_or("localhost");
        let scheme = if request.extensions().get::<Secure>().is_some() { "https" } else { "http" };
        Self(format!("{scheme}://{host}"))
    }
}

/// Where REST of a region is whose WebSocket is there: beside it.
fn beside(ws: &str) -> Option<String> {
    let base = ws.strip_suffix("/ws")?;
    let (scheme, rest) = base.split_once("://")?;
    match scheme {
        "wss" => Some(format!("https://{rest}")),
        "ws" => Some(format!("http://{rest}")),
        _ => None,
    }
}

/// The URL of a link that a region gave.
fn absolute(gateway: &GatewayState, reached: &Reached, region: &RegionId, url: String) -> Result<String, Refusal> {
    if !url.starts_with('/') {
        return Ok(url);
    }
    let base = if region == gateway.core.region() {
        Some(gateway.options.public_http.clone().unwrap_or_else(|| reached.0.clone()))
    } else {
        let endpoints = gateway.core.endpoints();
        endpoints.iter().find(|endpoint| endpoint.region == *region).and_then(|endpoint| beside(&endpoint.ws))
    };
    let base = base.ok_or_else(|| {
        let message = format!("these media are in {region}, and nobody told this region where clients reach it");
        Refusal::new(ErrorCode::HomeUnreachable, message).with_retry_after(60)
    })?;
    Ok(format!("{}{url}", base.trim_end_matches('/')))
}

/// Brings a body of the core to what the client is told; refusals stay as they are.
fn with<T: DeserializeOwned + Serialize>(
    answer: ApiAnswer,
    bring: impl FnOnce(&mut T) -> Result<(), Refusal>,
) -> Result<ApiAnswer, Refusal> {
    if !(200..300).contains(&answer.status) {
        return Ok(answer);
    }
    let body = serde_json::from_slice(&answer.body);
    let mut body: T = body.map_err(|_| Refusal::new(ErrorCode::Internal, "the region's answer does not read"))?;
    bring(&mut body)?;
    Ok(ApiAnswer::json(answer.status, &body))
}

/// The answer to `POST /media`.
///
/// # Errors
/// `HOME_UNREACHABLE` where nobody knows under which host the media's region is reached.
pub(crate) fn upload_answer(
    gateway: &GatewayState,
    reached: &Reached,
    answer: ApiAnswer,
) -> Result<ApiAnswer, Refusal> {
    with(answer, |upload: &mut MediaUpload| {
        let url = std::mem::take(&mut upload.upload.url);
        upload.upload.url = absolute(gateway, reached, &upload.region, url)?;
        Ok(())
    })
}

/// The answer to `GET …/media/{media}`.
///
/// # Errors
/// As [`upload_answer`].
pub(crate) fn download_answer(
    gateway: &GatewayState,
    reached: &Reached,
    answer: ApiAnswer,
) -> Result<ApiAnswer, Refusal> {
    with(answer, |download: &mut MediaDownload| {
        let url = std::mem::take(&mut download.url);
        download.url = absolute(gateway, reached, &download.region, url)?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_is_beside_the_websocket() {
        assert_eq!(beside("wss://eu.example.com/ws").as_deref(), Some("https://eu.example.com"));
        assert_eq!(beside("ws://127.0.0.1:8081/ws").as_deref(), Some("http://127.0.0.1:8081"));
        assert_eq!(beside("wss://example.com/chat/ws").as_deref(), Some("https://example.com/chat"));
        for bad in ["wss://eu.example.com/", "eu/ws", "https://eu/ws"] {
            assert_eq!(beside(bad), None, "{bad}");
        }
    }
}
