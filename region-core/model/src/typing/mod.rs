//! Typing: who types where, who of a region's sessions is told, and which regions are. Nothing of it is stored.
//!
//! ```text
//!   session ──starts, stops──► TypingBook ──Update──► Telling ──► sessions that have it in view (Screen)
//!   region  ──mesh::Typing──►  (when due) ──Update──►         └─► the home; the home, all that hold it
//! ```

mod book;
mod screen;
mod telling;

pub use book::{LOST_AFTER, TOLD_EVERY, TypingBook, Update};
pub use screen::{HELD, Offered, Screen};
pub use telling::{Heard, Telling, body, is_withheld, may_type, of_body};
