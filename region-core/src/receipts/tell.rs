//! Receipts as frames to sessions of this region: to the senders of what they cover, and to the reader's own devices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hearth_protocol::client::{
    DeliveredPayload, ReadReceiptPayload, ReceiptsSummaryPayload, ServerFrame, encode_server_frame,
};
use hearth_protocol::{ConversationId, EntryKind, LogId, MessageId, SealedEntry, UserId, limits};
use region_model::LogView;
use region_model::line::Line;
use region_model::receipts::{Change, Facts, Moved};

use super::Touched;
use crate::region::Region;

/// Numbers below the end of a receipt whose senders are looked up; of more than these every member is told.
const ROWS: u64 = 1_000;
/// Bytes of them.
const BYTES: usize = 4 * 1024 * 1024;
/// Numbers below the end of a large conversation whose senders hear summaries.
const SUMMARY_ROWS: u64 = 256;
/// Senders of one summary round.
const SUMMARY_SENDERS: usize = 32;
/// Summaries remembered, so that only changes are told.
const SUMMARIES: usize = 16_384;

/// What was summed up last: number, delivered, read.
pub(super) type Summaries = BTreeMap<(LogId, UserId), (u64, u64, u64)>;

/// Whether receipts of a conversation are summed up.
pub(super) fn is_large(view: &LogView, threshold: usize) -> bool {
    view.view.members().is_some_and(|members| members.len() > threshold)
}

impl Region {
    /// Tells what changed to sessions here.
    pub(super) async fn tell(self: &Arc<Self>, touched: &Touched) {
        let Some(members) = touched.view.view.members() else { return };
        let Some(conversation) = touched.log.as_conversation() else { return };
        let online = self.hub.online(members);
        if online.is_empty() {
            return self.receipts.book.lock().no_summary(touched.log);
        }
        for (change, speaker) in &touched.changes {
            if let Some(read) = &change.read {
                let frame = encode_server_frame(&read_receipt(conversation, &change.user, read), None);
                let told = self.hub.to_user_but(&change.user, &frame, *speaker);
                self.receipts.told.fetch_add(told, Ordering::Relaxed);
            }
        }
        if is_large(&touched.view, self.options.fanout_threshold) {
            return;
        }
        self.receipts.book.lock().no_summary(touched.log);
        let moves = || touched.changes.iter().flat_map(|(change, _)| change.delivered.iter().chain(&change.read));
        let Some(to) = moves().map(|moved| moved.reached.up_to).max() else { return };
        let from = moves().map(|moved| moved.from).min().unwrap_or(0).max(to.saturating_sub(ROWS));
        let rows = self.stores.log.read(touched.log, from + 1, to + 1, usize::MAX, BYTES).await;
        let Ok(rows) = rows else { return };
        let messages: Vec<&SealedEntry> =
            rows.iter().map(|row| &**row).filter(|row| row.entry.fixed.kind == EntryKind::Message).collect();
        for (change, _) in &touched.changes {
            let known = Known { conversation, online: &online, messages: &messages, from };
            self.tell_change(change, &known);
        }
    }

    fn tell_change(&self, change: &Change, known: &Known<'_>) {
        let mut told = 0;
        if let Some(delivered) = &change.delivered {
            for (sender, message_ids) in known.senders(delivered, &change.user) {
                if self.hub.is_blocked_by(known.conversation, &sender, &change.user) {
                    continue;
                }
                let payload = DeliveredPayload {
                    conversation_id: known.conversation,
                    message_ids,
                    delivered_to: change.user.clone(),
                    timestamp: delivered.reached.at,
                    up_to_sequence: delivered.reached.up_to,
                    epoch: delivered.reached.epoch,
                };
                told +=
                    self.hub.to_user_but(&sender, &encode_server_frame(&ServerFrame::Delivered(payload), None), None);
            }
        }
        if let Some(read) = &change.read {
            let frame = encode_server_frame(&read_receipt(known.conversation, &change.user, read), None);
            for (sender, _) in known.senders(read, &change.user) {
                if self.hub.is_blocked_by(known.conversation, &sender, &change.user) {
                    continue;
                }
                told += self.hub.to_user_but(&sender, &frame, None);
            }
        }
        self.receipts.told.fetch_add(told, Ordering::Relaxed);
    }

    /// Tells senders in a large conversation how many have the newest of their messages, when that is due.
    pub(super) async fn sum_up(&self, log: LogId, view: &LogView) {
        if !is_large(view, self.options.fanout_threshold) {
            return self.receipts.book.lock().no_summary(log);
        }
        let (Some(members), Some(conversation)) = (view.view.members(), log.as_conversation()) else { return };
        if !self.receipts.book.lock().take_summary(log, self.receipts.now()) {
            return;
        }
        let from = view.marked.saturating_sub(SUMMARY_ROWS).max(1);
        let Ok(rows) = self.stores.log.read(log, from, view.marked, usize::MAX, BYTES).await else { return };
        let line = Line::of(view);
        let facts = Facts { line: &line, last: view.marked.saturating_sub(1), members };
        let mut newest: BTreeMap<&UserId, u64> = BTreeMap::new();
        for row in rows.iter().rev().filter(|row| row.entry.fixed.kind == EntryKind::Message) {
            let sender = &row.entry.fixed.sender;
            if newest.len() < SUMMARY_SENDERS && self.hub.is_connected(sender) && members.contains_key(sender) {
                newest.entry(sender).or_insert(row.sequence().0);
            }
        }
        for (sender, sequence_number) in newest {
            let (delivered, read) = self.receipts.book.lock().count(log, sequence_number, &facts, sender);
            if self.was_told(log, sender, (sequence_number, delivered, read)) {
                continue;
            }
            let payload = ReceiptsSummaryPayload { conversation_id: conversation, sequence_number, delivered, read };
            let frame = encode_server_frame(&ServerFrame::ReceiptsSummary(payload), None);
            let told = self.hub.to_user_but(sender, &frame, None);
            self.receipts.told.fetch_add(told, Ordering::Relaxed);
        }
    }

    fn was_told(&self, log: LogId, sender: &UserId, summary: (u64, u64, u64)) -> bool {
        let mut summaries = self.receipts.summaries.lock();
        if summaries.len() >= SUMMARIES {
            summaries.clear();
        }
        summaries.insert((log, sender.clone()), summary) == Some(summary)
    }
}

fn read_receipt(conversation_id: ConversationId, user: &UserId, read: &Moved) -> ServerFrame {
    ServerFrame::ReadReceipt(ReadReceiptPayload {
        conversation_id,
        read_up_to_sequence: read.reached.up_to,
        read_by: user.clone(),
        timestamp: read.reached.at,
        epoch: read.reached.epoch,
    })
}

/// What is known of the messages that receipts cover.
struct Known<'a> {
    conversation: ConversationId,
    /// Members with a session here.
    online: &'a [UserId],
    /// Messages above `from`, ascending.
    messages: &'a [&'a SealedEntry],
    from: u64,
}

impl Known<'_> {
    /// Those with a session here whose messages a cursor newly covers, with the newest of these messages. Where it
    /// covers more than is known every member may be one.
    fn senders(&self, moved: &Moved, but: &UserId) -> Vec<(UserId, Vec<MessageId>)> {
        let mut senders: BTreeMap<&UserId, Vec<MessageId>> = BTreeMap::new();
        if moved.from < self.from {
            senders.extend(self.online.iter().map(|user| (user, Vec::new())));
        }
        let covered = |row: &&&SealedEntry| row.sequence().0 > moved.from && row.sequence().0 <= moved.reached.up_to;
        for row in self.messages.iter().filter(covered) {
            senders.entry(&row.entry.fixed.sender).or_default().push(MessageId(row.entry.fixed.id));
        }
        let online = |user: &&UserId| self.online.contains(user);
        let others = senders.into_iter().filter(|(user, _)| *user != but && online(user));
        others
            .map(|(user, mut ids)| {
                ids.drain(..ids.len().saturating_sub(limits::RECEIPT_MESSAGES));
                (user.clone(), ids)
            })
            .collect()
    }
}
