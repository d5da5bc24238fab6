//! Frames as WebSocket texts.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::{MAX_RECEIVED_BYTES, Received, TransportError, platform_tls};

/// An open WebSocket, with or without TLS.
#[derive(Debug)]
pub(super) enum WebSocket {
    Plain(Box<WebSocketStream<TcpStream>>),
    Tls(Box<WebSocketStream<tokio_rustls::client::TlsStream<TcpStream>>>),
}

impl WebSocket {
    pub(super) async fn open(url: &str, tls: Option<Arc<ClientConfig>>) -> Result<Self, TransportError> {
        let mut request = url.into_client_request().map_err(|error| TransportError::connect(url, error))?;
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("chat.v1"));
        let bad_url = |reason| TransportError::Url { url: url.to_owned(), reason };
        let secure = match request.uri().scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(bad_url("it starts with neither ws:// nor wss://")),
        };
        let host = request.uri().host().ok_or_else(|| bad_url("it names no host"))?.to_owned();
        let port = request.uri().port_u16().unwrap_or(if secure { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await.map_err(|error| TransportError::connect(url, error))?;
        stream.set_nodelay(true).map_err(|error| TransportError::connect(url, error))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_RECEIVED_BYTES))
            .max_frame_size(Some(MAX_RECEIVED_BYTES));
        if !secure {
            let (socket, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(config))
                .await
                .map_err(|error| TransportError::connect(url, error))?;
            return Ok(Self::Plain(Box::new(socket)));
        }
        let config_tls = match tls {
            Some(tls) => tls,
            None => platform_tls().map_err(|error| TransportError::connect(url, error))?,
        };
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| TransportError::connect(url, error))?;
        let stream = TlsConnector::from(config_tls)
            .connect(name, stream)
            .await
            .map_err(|error| TransportError::connect(url, error))?;
        let (socket, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(config))
            .await
            .map_err(|error| TransportError::connect(url, error))?;
        Ok(Self::Tls(Box::new(socket)))
    }

    pub(super) async fn send_many(&mut self, frames: Vec<String>) -> Result<(), TransportError> {
        // `feed` only buffers; one flush writes all of them.
        for frame in frames {
            let message = Message::text(frame);
            match self {
                Self::Plain(socket) => socket.feed(message).await,
                Self::Tls(socket) => socket.feed(message).await,
            }
            .map_err(TransportError::lost)?;
        }
        match self {
            Self::Plain(socket) => socket.flush().await,
            Self::Tls(socket) => socket.flush().await,
        }
        .map_err(TransportError::lost)
    }

    pub(super) async fn receive(&mut self) -> Result<Received, TransportError> {
        loop {
            let next = match self {
                Self::Plain(socket) => socket.next().await,
                Self::Tls(socket) => socket.next().await,
            };
            match next {
                None => return Ok(Received::Closed(None)),
                Some(Err(error)) => return Err(TransportError::lost(error)),
                Some(Ok(Message::Text(text))) => return Ok(Received::Text(text.as_str().to_owned())),
                Some(Ok(Message::Binary(_))) => return Err(TransportError::Malformed("a binary message")),
                Some(Ok(Message::Close(frame))) => return Ok(Received::Closed(frame.map(|frame| frame.code.into()))),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            }
        }
    }

    pub(super) async fn close(&mut self) {
        // The peer may be gone already; there is nobody left to tell.
        let _ = match self {
            Self::Plain(socket) => socket.as_mut().close(None).await,
            Self::Tls(socket) => socket.as_mut().close(None).await,
        };
    }
}
