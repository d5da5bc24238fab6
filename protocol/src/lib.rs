//! Everything that leaves a process, and nothing else does: client frames, inter-region messages, stored records.
//!
//! Three forms of one message live here side by side: the **client form** ([`client`], camelCase JSON as
//! `protocol.md` fixes it), the **mesh form** ([`mesh`], prost messages with tags, unknown fields skipped) and the
//! **stored form** ([`entry`] and [`record`], a version byte and then postcard). The crate is pure: it has no socket,
//! no clock and no entropy.

pub mod admin;
pub mod client;
pub mod contract;
pub mod entry;
pub mod error;
pub mod ids;
pub mod joins;
mod lenient;
pub mod limits;
pub mod media;
pub mod mesh;
pub mod placement;
pub mod push;
pub mod record;
pub mod rest;
pub mod withheld;

pub use entry::{Change, Entry, EntryKind, Hash, Header, SealedEntry};
pub use error::{ErrorCode, Refusal};
pub use ids::{
    ConversationId, DeviceId, Epoch, LogId, LogKind, MessageId, NodeId, Position, RegionId, Sequence, Slot, Timestamp,
    UserId,
};
pub use joins::JoinRequest;
pub use placement::{Level, LossStatement, Placement, RegionMap};
