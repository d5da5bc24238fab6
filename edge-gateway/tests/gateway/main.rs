//! The gateway from outside: real sockets, real keys, a fake core.

#[cfg(test)]
mod auth;
#[cfg(test)]
mod common;
#[cfg(test)]
mod rest;
#[cfg(test)]
mod secure;
#[cfg(test)]
mod websocket;
