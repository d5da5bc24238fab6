//! Refusals of parked sends: kept where the send was parked, told to the device at whatever region it connects.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::client::{RefusedPayload, ServerFrame, encode_server_frame};
use hearth_protocol::mesh::{self, Question};
use hearth_protocol::record::ParkedSend;
use hearth_protocol::{DeviceId, ErrorCode, MessageId, RegionId, UserId};
use parking_lot::Mutex;
use region_model::Input;
use uuid::Uuid;

use crate::region::Region;

/// Refusals kept in this region, by number.
#[derive(Debug, Default)]
pub(crate) struct KeptRefusals(Mutex<BTreeMap<u64, ParkedSend>>);

impl KeptRefusals {
    /// Takes note of a parked send that is stored: it may have become a refusal.
    pub(crate) fn stored(&self, send: &ParkedSend) {
        if send.refused.is_some() {
            self.0.lock().insert(send.number, send.clone());
        }
    }

    /// A send is forgotten.
    pub(crate) fn forgotten(&self, number: u64) {
        self.0.lock().remove(&number);
    }

    fn of(&self, user: &UserId, device: DeviceId) -> Vec<ParkedSend> {
        let kept = self.0.lock();
        kept.values().filter(|send| send.sender == *user && send.device == device).cloned().collect()
    }
}

fn payload(send: &ParkedSend) -> RefusedPayload {
    let (code, message) = send.refused.clone().unwrap_or_default();
    RefusedPayload { message_id: send.id, conversation_id: send.conversation, error: ErrorCode::parse(&code), message }
}

impl Region {
    /// Answers another region: the refusals kept here for a device, less those that it has now.
    pub(crate) async fn refusals_for(&self, asked: &mesh::Refusals) -> Option<Bytes> {
        let user = UserId::new(&asked.user).ok()?;
        let device = DeviceId(Uuid::from_slice(&asked.device).ok()?);
        let told: Vec<MessageId> =
            asked.told.iter().filter_map(|id| Uuid::from_slice(id).ok()).map(MessageId).collect();
        let (had, left): (Vec<ParkedSend>, Vec<ParkedSend>) =
            self.refusals.of(&user, device).into_iter().partition(|send| told.contains(&send.id));
        for send in had {
            self.input(Input::RefusalTold(send.number)).await;
        }
        let payloads: Vec<RefusedPayload> = left.iter().map(payload).collect();
        serde_json::to_vec(&payloads).ok().map(Bytes::from)
    }

    /// A device connected here: other regions are asked what they keep for it.
    pub(crate) async fn fetch_refusals(self: Arc<Self>, user: UserId, device: DeviceId) {
        for peer in &self.options.map.regions {
            if peer != self.me() && self.links.is_up(peer) {
                self.fetch_refusals_from(peer, &user, device).await;
            }
        }
    }

    async fn fetch_refusals_from(&self, peer: &RegionId, user: &UserId, device: DeviceId) {
        let question = |told| {
            Question::Refusals(mesh::Refusals {
                user: user.as_str().to_owned(),
                device: Bytes::copy_from_slice(device.0.as_bytes()),
                told,
            })
        };
        let Some(answer) = self.ask(peer, question(Vec::new())).await else { return };
        let Ok(refused) = serde_json::from_slice::<Vec<RefusedPayload>>(&answer.body) else { return };
        let mut told = Vec::new();
        for payload in refused {
            let id = Bytes::copy_from_slice(payload.message_id.0.as_bytes());
            let frame = encode_server_frame(&ServerFrame::Refused(payload), None);
            if self.hub.to_device(user, device, &frame) {
                told.push(id);
            }
        }
        if !told.is_empty() {
            // Without an answer they are told once more: a client knows them by their ids.
            let _ = self.ask(peer, question(told)).await;
        }
    }
}
