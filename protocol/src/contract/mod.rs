//! The machine-readable contract: OpenAPI 3.1 for REST and AsyncAPI 3.0 for frames, made from the types of this crate,
//! checked in beside it, and served by every edge. A test makes both again and compares.

#[cfg(feature = "schema")]
mod frames;
#[cfg(feature = "schema")]
mod routes;
#[cfg(feature = "schema")]
mod schemas;

#[cfg(feature = "schema")]
pub use frames::{CLIENT_FRAMES, SERVER_FRAMES, asyncapi};
#[cfg(feature = "schema")]
pub use routes::{ROUTES, openapi};

#[cfg(feature = "schema")]
pub(crate) use schemas::{changeable_settings, changes_something, direct, group_or_channel, time_or_null};

/// The OpenAPI 3.1 document of the REST routes, as JSON.
pub const OPENAPI: &str = include_str!("../../contract/openapi.json");
/// The AsyncAPI 3.0 document of the frames, as JSON.
pub const ASYNCAPI: &str = include_str!("../../contract/asyncapi.json");
