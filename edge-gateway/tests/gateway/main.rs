//! The gateway from outside: real sockets, real keys, a fake core.

mod auth;
mod common;
mod rest;
mod secure;
mod websocket;
