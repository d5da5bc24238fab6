//! Each sender against a local service that refuses what the real one refuses, over TLS.

#[cfg(test)]
mod apns;
#[cfg(test)]
mod apns_service;
#[cfg(test)]
mod dispatch;
#[cfg(test)]
mod fcm;
#[cfg(test)]
mod fcm_service;
#[cfg(test)]
mod independent;
#[cfg(test)]
mod python;
#[cfg(test)]
mod queue;
#[cfg(test)]
mod stored;
#[cfg(test)]
mod support;
#[cfg(test)]
mod web_push;
#[cfg(test)]
mod web_push_service;
