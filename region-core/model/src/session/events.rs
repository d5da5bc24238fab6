//! What a session is given, and what goes out.

use std::sync::Arc;

use hearth_protocol::{ConversationId, Epoch};

use crate::line::Line;

/// A live message on its way to the client. `F` is what goes out: a frame's bytes, or what stands for them.
#[derive(Debug)]
pub struct Live<F> {
    /// The conversation.
    pub conversation: ConversationId,
    /// The epoch of its entry.
    pub epoch: Epoch,
    /// Its number.
    pub sequence: u64,
    /// Its bytes.
    pub bytes: usize,
    /// What goes out.
    pub frame: F,
}

/// Messages of a conversation that a region does not show live: its stream begins above them, and reads of them are
/// answered meanwhile by a region that holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The conversation.
    pub conversation: ConversationId,
    /// The epoch of the stream.
    pub epoch: Epoch,
    /// The first number that was not shown here.
    pub from: u64,
    /// The first number of the stream.
    pub at: u64,
}

/// A newer epoch opened in a conversation, and the region is on its line from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineChanged {
    /// The conversation.
    pub conversation: ConversationId,
    /// Where its epochs opened.
    pub line: Arc<Line>,
}

/// What a client has of older epochs above a number is not in the line: a home was replaced that had not copied it. The
/// client forgets it; what was not lost comes again under new numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewound {
    /// The conversation.
    pub conversation: ConversationId,
    /// The epoch of the line from now on.
    pub epoch: Epoch,
    /// The last number that stays.
    pub after: u64,
}

/// What was stored of one conversation beyond a client's cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay<F> {
    /// Messages with their numbers, ascending.
    pub frames: Vec<(u64, F)>,
    /// The epoch on whose line this is.
    pub epoch: Epoch,
    /// The last number that this region may show now.
    pub up_to: u64,
    /// The lowest number that this user may see.
    pub visible_from: u64,
    /// The lowest number that retention left.
    pub floor: u64,
    /// Set when the cursor was not good: what the client has above is to be forgotten, and the frames follow behind that.
    pub rewound: Option<Rewound>,
}

/// What goes to the client, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery<F> {
    /// A message.
    Frame(F),
    /// What is above a number has left the line.
    Rewound(Rewound),
    /// Messages from a number on were left out: the client pulls them.
    SyncRequired {
        /// The conversation.
        conversation: ConversationId,
        /// The first number to pull.
        from: u64,
    },
    /// So many were missed that the newest come first; these lie before them.
    SyncGap {
        /// The conversation.
        conversation: ConversationId,
        /// The first number left out.
        from: u64,
        /// The last number left out.
        to: u64,
    },
    /// A message was left out here: to be counted.
    LeftOut(LeftOut),
}

/// Why a message did not go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It was sent already, or belongs to an older line.
    Duplicate,
    /// A number before it is missing: the client was told to pull.
    Gap,
    /// Too many live messages waited behind a replay.
    Held,
}

/// Bounds of [`Deliveries`](super::Deliveries).
#[derive(Clone, Copy, Debug)]
pub struct DeliveryLimits {
    /// Messages behind replays.
    pub held: usize,
    /// Their bytes.
    pub held_bytes: usize,
    /// Conversations whose numbers are remembered.
    pub tracked: usize,
    /// Rows that a replay sends at most.
    pub replay_rows: u64,
    /// With more missed than this, the newest come first.
    pub gap_rows: u64,
}
