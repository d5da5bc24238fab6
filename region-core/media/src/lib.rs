//! Bytes of media: in a folder of the region ([`LocalStore`]) or at an S3-compatible store ([`S3Store`]).
//!
//! Both let a client put and get bytes by a link that was signed beforehand: nothing in here asks who somebody is. Who may
//! have a link is decided in `region-core`, what is taken and how long it stays in `region_model::media`. No link is in a
//! log line or an error: whoever has one can use it.

mod link;
mod local;
mod s3;

pub use link::{LinkClaim, LinkKey, Right};
pub use local::{LocalStore, UPLOADS};
pub use s3::{S3Options, S3Store, SetupError};
