//! Each sender against a local service that refuses what the real one refuses, over TLS.

mod apns;
mod apns_service;
mod dispatch;
mod fcm;
mod fcm_service;
mod independent;
mod queue;
mod support;
mod web_push;
mod web_push_service;
