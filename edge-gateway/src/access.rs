//! Which requests are let in at all: by `Host`, by `Origin`, and from where; and what pages may read (CORS).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hearth_protocol::{ErrorCode, Refusal};

use crate::error::ApiError;
use crate::options::Access;
use crate::state::GatewayState;

/// The other end of a connection, as the listener saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address that a connection counts for: the nearest one that is not a trusted proxy. `None` for a trusted proxy
/// that names nobody.
pub(crate) fn client_address(access: &Access, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
    let trusted = |address: IpAddr| access.trusted_forwarders.iter().any(|range| range.contains(address));
    if !trusted(peer) {
        return Some(peer);
    }
    let listed = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let addresses: Vec<&str> = listed.flat_map(|list| list.split(',')).collect();
    addresses.iter().rev().filter_map(|text| text.trim().parse().ok()).find(|address| !trusted(*address))
}

/// What the `Origin` of a request means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OriginVerdict {
    /// There is none: no browser, or a plain navigation.
    Absent,
    /// Its pages may connect.
    Allowed,
    /// Its pages may not.
    Foreign,
}

/// Judges an origin. `host` is the authority that the request was sent to.
pub(crate) fn judge_origin(access: &Access, origin: Option<&str>, host: Option<&str>) -> OriginVerdict {
    let Some(origin) = origin else { return OriginVerdict::Absent };
    let own = origin
        .strip_prefix("https://")
        .or_else(|| origin.strip_prefix("http://"))
        .is_some_and(|authority| host.is_some_and(|host| host.eq_ignore_ascii_case(authority)));
    let listed = access.allowed_origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin));
    if own || listed { OriginVerdict::Allowed } else { OriginVerdict::Foreign }
}

/// Whether `host` is served.
pub(crate) fn host_is_served(access: &Access, host: Option<&str>) -> bool {
    let Some(served) = &access.allowed_hosts else { return true };
    host.is_some_and(|host| served.iter().any(|name| name.eq_ignore_ascii_case(host)))
}

pub(crate) fn host_of<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    headers
        .get(HOST)
        .and_then(|value| value.to_str().ok())
        .or_else(|| uri.authority().map(|authority| authority.as_str()))
}

/// The layer around every route: refuses foreign hosts and origins, answers preflights, adds CORS headers.
pub(crate) async fn guard(State(gateway): State<Arc<GatewayState>>, request: Request, next: Next) -> Response {
    let access = &gateway.options.access;
    let host = host_of(request.headers(), request.uri());
    if !host_is_served(access, host) {
        return refused("this name is not served here");
    }
    let origin = request.headers().get(ORIGIN).cloned();
    // An origin that is no text is nobody's.
    let text = origin.as_ref().map(|value| value.to_str().unwrap_or("null"));
    let verdict = judge_origin(access, text, host);
    let strict = access.refuse_foreign_origins || matches!(request.uri().path(), "/ws" | "/wt");
    if verdict == OriginVerdict::Foreign && strict {
        return refused("this origin may not connect");
    }
    let preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    response.headers_mut().append(VARY, HeaderValue::from_static("Origin"));
    if let (OriginVerdict::Allowed, Some(origin)) = (verdict, origin) {
        allow(response.headers_mut(), origin, preflight);
    }
    response
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue, preflight: bool) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
    if preflight {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PATCH, PUT, DELETE"));
        let names = "authorization, content-type, idempotency-key, x-device-id";
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
}

fn refused(reason: &'static str) -> Response {
    ApiError(Refusal::new(ErrorCode::Forbidden, reason)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::AddressRange;

    #[test]
    fn origins_are_judged_by_the_list_and_by_the_own_host() {
        let access = Access { allowed_origins: vec!["https://chat.example.com".into()], ..Access::default() };
        let table = [
            (None, Some("h:1"), OriginVerdict::Absent),
            (Some("https://chat.example.com"), Some("h:1"), OriginVerdict::Allowed),
            (Some("http://h:1"), Some("h:1"), OriginVerdict::Allowed),
            (Some("http://h:2"), Some("h:1"), OriginVerdict::Foreign),
            (Some("null"), Some("h:1"), OriginVerdict::Foreign),
            (Some("https://chat.example.com.evil.example"), Some("h:1"), OriginVerdict::Foreign),
            (Some("http://h:1"), None, OriginVerdict::Foreign),
        ];
        for (origin, host, verdict) in table {
            assert_eq!(judge_origin(&access, origin, host), verdict, "{origin:?} at {host:?}");
        }
    }

    #[test]
    fn a_forwarded_address_counts_only_from_a_trusted_proxy() {
        let range = AddressRange { address: "10.0.0.0".parse().unwrap(), prefix: 8 };
        let access = Access { trusted_forwarders: vec![range], ..Access::default() };
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED_FOR, HeaderValue::from_static("1.1.1.1, 203.0.113.9, 10.0.0.2"));
        let address = |peer: &str| client_address(&access, peer.parse().unwrap(), &headers).map(|a| a.to_string());
        assert_eq!(address("198.51.100.1").as_deref(), Some("198.51.100.1"));
        assert_eq!(address("10.0.0.1").as_deref(), Some("203.0.113.9"));
    }
}
