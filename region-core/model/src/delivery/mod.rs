//! Where a message is on its way to a user: when it passed each step ([`HopBook`], [`MoveBook`]), what every region knows
//! of it ([`RegionPart`]), and what follows from that ([`explain`]).
//!
//! ```text
//!   session ─► edge ─────► home ─────────► replica ────────► session ──► client
//!            edge_in  home_append  link_out  link_in,        edge_out  client_received
//!            queued                          replica_apply
//!            forwarded
//! ```
//! Times are told, never decided upon: what holds a message up is read from what stands now, not from which time is
//! missing.

mod book;
mod moves;
mod noting;
mod part;
mod verdict;
mod ways;

pub use book::{HopBook, HopTimes, KEPT_MICROSECONDS, Kept};
pub use moves::{CursorKind, MoveBook};
pub use noting::OfSession;
pub use part::{
    CursorFacts, EntryFacts, LogFacts, MemberFacts, RegionPart, SessionFacts, SessionSent, Sought, UserFacts,
};
pub use verdict::{Asker, Question, explain};
