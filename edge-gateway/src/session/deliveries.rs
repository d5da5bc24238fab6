//! What a session's deliveries are as effects.

use bytes::Bytes;
use hearth_protocol::ConversationId;
use hearth_protocol::client::{RewoundPayload, ServerFrame, SyncGapPayload, SyncRequiredPayload, encode_server_frame};
use region_core::{Delivery, LeftOut};

use super::Effect;
use crate::metrics::DropLabel;

/// The effect of a delivery.
pub(crate) fn effect_of(delivery: Delivery<Bytes>) -> Effect {
    match delivery {
        Delivery::Frame(frame) => Effect::Send(frame),
        Delivery::Rewound(rewound) => {
            let (conversation_id, epoch) = (rewound.conversation, rewound.epoch);
            let payload = RewoundPayload { conversation_id, epoch, after_sequence: rewound.after };
            Effect::Send(encode_server_frame(&ServerFrame::ConversationRewound(payload), None))
        }
        Delivery::SyncRequired { conversation, from } => sync_required(conversation, from),
        Delivery::SyncGap { conversation, from, to } => {
            let payload = SyncGapPayload { conversation_id: conversation, from_sequence: from, to_sequence: to };
            Effect::Send(encode_server_frame(&ServerFrame::SyncGap(payload), None))
        }
        Delivery::LeftOut(LeftOut::Duplicate) => Effect::Dropped(DropLabel::Duplicate),
        Delivery::LeftOut(LeftOut::Gap) => Effect::Dropped(DropLabel::Gap),
        Delivery::LeftOut(LeftOut::Held) => Effect::Dropped(DropLabel::Held),
    }
}

pub(crate) fn sync_required(conversation_id: ConversationId, from_sequence: u64) -> Effect {
    let payload = SyncRequiredPayload { conversation_id, from_sequence };
    Effect::Send(encode_server_frame(&ServerFrame::SyncRequired(payload), None))
}
