//! The edge of a region: clients come here over WebSocket, WebTransport and REST.
//!
//! A [`Gateway`] owns the client listeners. Each connection has one task that runs one pure state machine
//! (`session/`) over one port (`transport/`); REST requests are checked (`rest`, `routes`) and handed on. What is
//! decided about messages is decided behind [`Core`].

mod accept;
mod access;
mod admission;
mod auth;
mod clock;
mod connections;
mod core_port;
mod error;
mod gateway;
mod http;
mod media;
mod metrics;
mod options;
mod rate;
mod rest;
mod resume_token;
mod routes;
mod session;
mod session_task;
mod socket;
mod state;
mod transport;
mod upgrade;
mod webtransport_server;

pub use accept::SharedTls;
pub use auth::{AuthError, Identity, JwtOptions, JwtVerifier, KeysError, TokenVerifier};
pub use clock::{Clock, Moment, SystemClock};
pub use core_port::Core;
pub use gateway::{Gateway, GatewayHandle, GatewayParts, Listeners, StartError};
pub use options::{Access, AddressRange, GatewayLimits, GatewayOptions, GatewayTimes};
pub use resume_token::{NoKey, Resumable, ResumeKeys};
pub use webtransport_server::{CertificateError, WebTransportCertificate};
