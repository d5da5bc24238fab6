//! The ownership protocol as pure decisions (design.md 4): who may number entries, which copies count, who wins a
//! failover, how a home moves.
//!
//! Every decision is one [`Step`]: one atomic write, then what may be said once that write is durable. Nothing here
//! reads a clock, a disk or a link. The types are generic over the entry and over the names of regions, so that the
//! models in `tests/ownership` explore exactly the code that ships. Wrong readings of the rules that are known to lose
//! messages can be switched on by a model through [`Rules`]; [`Shipped`] has none.

mod home;
mod line;
mod migration;
mod opener;
mod placing;
mod readmission;
mod replica;
mod rules;
mod step;
mod trust;

pub use home::{Home, OpenError};
pub use line::{Held, LineEntry, OpeningAt, Unread};
pub use migration::{Migration, MoveError, Stage, promised_above, way_back};
pub use opener::{LossStatement, Opener, Progress, seals_needed};
pub use placing::{Placing, Race, Right, after_lost_race};
pub use readmission::{Readmission, missing_from};
pub use replica::{Arrival, Replica, Standing};
pub use rules::{Flaw, Rules, Shipped};
pub use step::{Append, Said, StageWrite, Staged, Step, Write};
pub use trust::{Goal, StoreAge, Trust, judge_store};
