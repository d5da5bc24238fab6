//! One region: the homes that it sequences, the replicas that it holds, the sends that it parks.
//!
//! The decisions are in `region-model`; this crate is their shell. [`handle::RegionHandle`] is what edges and
//! compositions use. Only `runtime` performs effects of the core.

mod api;
mod call;
mod delivery;
mod departures;
pub mod edge;
mod erase;
mod expiry;
mod fail_point;
mod fanout;
mod feed;
pub mod handle;
mod hub;
pub mod links;
mod losses;
mod media;
mod metrics;
mod notices;
mod outage;
mod outbox;
pub mod ownership;
mod presence;
mod present;
mod privacy;
mod push;
mod queue;
mod reads;
mod receipts;
mod refusals;
mod region;
mod replay;
mod reply;
mod restored;
mod retention;
mod rows;
mod runtime;
mod sweep;
mod typing;
mod users;
mod word;

pub use call::ApiCall;
pub use delivery::DeliveryCall;
pub use edge::{Connection, EdgeEvent, QueueBounds, SessionQuestion};
pub use erase::{UserFound, UserTraces};
pub use handle::{Opened, Readiness, RegionHandle, Replay};
pub use links::{LinkEvent, Links, NotSent};
pub use losses::Loss;
pub use media::{MediaKnown, MediaOptions, TraceQuestion};
pub use ownership::Ownership;
pub use push::{PushDoor, PushOptions};
pub use queue::Taken;
pub use region::RegionOptions;
pub use region_model::Bucket;
pub use region_model::delivery::SessionSent;
pub use region_model::session::{
    Deliveries, Delivery, DeliveryLimits, Drain, DrainSlot, Drained, Leave, LeftOut, LineChanged, Live, MessageRate,
    Rewound, Skipped, Stay,
};
pub use restored::{NotTrusted, accept_losses, trust_copies};
