//! A client of Hearth: both transports, reconnects, resume at any region, and one ordered stream of events out.

pub mod bench;
pub mod chat;
mod client;
pub mod rest;
pub mod session;
mod shell;
mod token;
pub mod transport;

pub use client::{Client, ClientOptions, ConnectError, Events};
pub use session::{Disconnect, Endpoint, Event, GapReason, SendError};
pub use token::{Token, TokenError, TokenSource};
pub use transport::{Address, TransportKind};

#[cfg(test)]
mod mock;
#[cfg(test)]
mod tests;
