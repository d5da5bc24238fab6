//! `GET /ws`: credentials in any of the forms of `protocol.md`, then a session over WebSocket.

use std::sync::Arc;

use axum::RequestExt as _;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Extension, Request, State, WebSocketUpgrade};
use axum::http::header::SEC_WEBSOCKET_PROTOCOL;
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use hearth_protocol::{DeviceId, Refusal};

use crate::access::{Peer, client_address};
use crate::connections::Place;
use crate::error::ApiError;
use crate::metrics::TransportLabel;
use crate::rest::{QueryValues, bearer};
use crate::session_task::{self, Presented};
use crate::state::GatewayState;
use crate::transport::websocket::{WebSocketFrames, configure};

const PROTOCOL: &str = "chat.v1";
const BEARER_PREFIX: &str = "bearer.";
const DEVICE_HEADER: &str = "x-device-id";

/// The upgrade. A session with refused credentials is accepted and then closed in band, since browsers show no other
/// reason; what is refused here has no session at all.
pub(crate) async fn websocket(
    State(gateway): State<Arc<GatewayState>>,
    peer: Option<Extension<Peer>>,
    place: Option<Extension<Arc<Place>>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    gateway.check_serving()?;
    let presented = presented(request.headers(), request.uri())?;
    let forwarded = forwarded_place(&gateway, peer.map(|peer| peer.0), request.headers())?;
    let offered = offers_protocol(request.headers());
    let upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection> = request.extract_parts().await;
    let mut upgrade = upgrade.map_err(|_| Refusal::invalid("/ws takes WebSocket upgrades only"))?;
    if offered {
        upgrade.set_selected_protocol(HeaderValue::from_static(PROTOCOL));
    }
    let upgrade = configure(upgrade, &gateway.options.limits);
    let response = upgrade.on_upgrade(move |socket| {
        let session = session_task::run(gateway, WebSocketFrames::new(socket), presented, TransportLabel::WebSocket);
        // A task of its own: that of the upgrade is several times as large, and would last as long as the session. Mapped,
        // since an async block has room for what it captures and once more for what it awaits.
        tokio::spawn(session.map(move |()| drop((place, forwarded))));
        std::future::ready(())
    });
    Ok(response.into_response())
}

/// Behind a proxy every connection has the proxy's address: sessions are counted by the address that it names.
fn forwarded_place(gateway: &GatewayState, peer: Option<Peer>, headers: &HeaderMap) -> Result<Option<Place>, Refusal> {
    let Some(peer) = peer else { return Ok(None) };
    let peer = peer.address.ip();
    let Some(address) = client_address(&gateway.options.access, peer, headers) else { return Ok(None) };
    if address == peer {
        return Ok(None);
    }
    Ok(Some(gateway.connections.forwarded(address)?))
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|list| list.split(',')).map(str::trim)
}

fn offers_protocol(headers: &HeaderMap) -> bool {
    protocols(headers).any(|protocol| protocol == PROTOCOL)
}

fn presented(headers: &HeaderMap, uri: &Uri) -> Result<Presented, Refusal> {
    let query = QueryValues::read(uri)?;
    let token = bearer(headers)
        .or_else(|| protocols(headers).find_map(|protocol| protocol.strip_prefix(BEARER_PREFIX)))
        .or_else(|| query.text("token"))
        .map(str::to_owned);
    let header = headers.get(DEVICE_HEADER).map(|value| value.to_str().unwrap_or_default());
    let device = query.text("device_id").or(header).map(str::parse::<DeviceId>).transpose();
    let device = device.map_err(|_| Refusal::invalid("the device id is not a UUID"))?;
    Ok(Presented { token, device, since: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_in_the_order_of_the_contract() {
        let uri: Uri = "/ws?token=u&device_id=00000000-0000-0000-0000-000000000007".parse().unwrap();
        let mut headers = HeaderMap::new();
        let token = |headers: &HeaderMap| presented(headers, &uri).unwrap().token.unwrap();
        assert_eq!(token(&headers), "u");
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("chat.v1, bearer.p"));
        assert_eq!(token(&headers), "p");
        assert!(offers_protocol(&headers));
        headers.insert("authorization", HeaderValue::from_static("Bearer h"));
        assert_eq!(token(&headers), "h");
        headers.insert("authorization", HeaderValue::from_static("Basic eDp5"));
        assert_eq!(token(&headers), "", "another scheme is a refused token and not no token");
        assert!(presented(&headers, &uri).unwrap().device.is_some());
        assert!(presented(&headers, &"/ws?device_id=x".parse().unwrap()).is_err());
    }
}
