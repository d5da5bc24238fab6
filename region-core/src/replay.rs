//! What a resume shows of one conversation, as frames.

use std::sync::Arc;

use hearth_protocol::client::encode_message_new;
use hearth_protocol::rest::{HistoryQuery, HistoryResponse, Row, SyncCursor};
use hearth_protocol::{Epoch, ErrorCode, LogId, Refusal, UserId, limits};

use region_model::LogView;
use region_model::session::rewound_for;

use crate::call::ApiCall;
use crate::handle::Replay;
use crate::present::Reader;
use crate::reads::{check_mode, seen};
use crate::region::Region;

impl Region {
    pub(crate) async fn replay(
        self: &Arc<Self>,
        user: &UserId,
        cursor: &SyncCursor,
        rows: usize,
        newest: bool,
    ) -> Result<Replay, Refusal> {
        let id = cursor.conversation_id;
        let view = self.view(LogId::conversation(id), true).await?;
        check_mode(&view, user)?;
        if let Some(rewound) = rewound_for(&view, cursor) {
            let good = SyncCursor { last_sequence: rewound.after, epoch: Some(rewound.epoch), ..cursor.clone() };
            let replay = Box::pin(self.replay(user, &good, rows, newest)).await?;
            return Ok(Replay { rewound: Some(rewound), ..replay });
        }
        if !self.holds(&view) {
            return self.replay_elsewhere(user, cursor, rows, newest, &view).await;
        }
        let seen = seen(&view, user)?;
        let first = cursor.last_sequence.saturating_add(1).max(seen.from);
        let count = u64::try_from(rows).unwrap_or(u64::MAX);
        let from = if newest { first.max(seen.to.saturating_sub(count)) } else { first };
        if !view.has_rows(from, seen.to) {
            return self.replay_elsewhere(user, cursor, rows, newest, &view).await;
        }
        let reader = Reader::of(user, &seen, self.blocked_since(user, seen.state).await);
        let read = if from < seen.to { self.read_rows(id, reader, (from, seen.to), rows).await? } else { Vec::new() };
        Ok(replay_of(read, view.line().epoch(), seen.to - 1, (seen.from, view.floor)))
    }

    /// The same from a region that holds the conversation: its newest page tells how far it goes.
    async fn replay_elsewhere(
        self: &Arc<Self>,
        user: &UserId,
        cursor: &SyncCursor,
        rows: usize,
        newest: bool,
        view: &LogView,
    ) -> Result<Replay, Refusal> {
        let limit = Some(rows.clamp(1, limits::HISTORY_ROWS) as u64);
        let last =
            self.history_elsewhere(user, cursor, HistoryQuery { limit, ..HistoryQuery::default() }, view).await?;
        let up_to = last.messages.last().map_or(0, |row| row.sequence_number);
        let floor = last.floor_sequence;
        let visible_from = last.withheld.last().map_or(floor, |range| range.to + 1);
        let missed = up_to.saturating_sub(cursor.last_sequence);
        let page = if newest || missed <= rows as u64 {
            last
        } else {
            let query = HistoryQuery { after: Some(cursor.last_sequence), limit, ..HistoryQuery::default() };
            self.history_elsewhere(user, cursor, query, view).await?
        };
        // Whoever answered may know of a newer epoch than this region.
        let epoch = page.messages.last().map_or(Epoch(1), |row| row.epoch).max(view.line().epoch());
        let wanted = page.messages.into_iter().filter(|row| row.sequence_number > cursor.last_sequence).collect();
        Ok(replay_of(wanted, epoch, up_to, (visible_from, floor)))
    }

    async fn history_elsewhere(
        self: &Arc<Self>,
        user: &UserId,
        cursor: &SyncCursor,
        query: HistoryQuery,
        view: &LogView,
    ) -> Result<HistoryResponse, Refusal> {
        let call = ApiCall::History { id: cursor.conversation_id, query };
        let answer = self.pass_on(view, user, &call, true).await?;
        if answer.status != 200 {
            let refusal = serde_json::from_slice::<Refusal>(&answer.body);
            return Err(
                refusal.unwrap_or_else(|_| Refusal::new(ErrorCode::Internal, "a region's answer does not read"))
            );
        }
        serde_json::from_slice(&answer.body)
            .map_err(|_| Refusal::new(ErrorCode::Internal, "a region's answer does not read"))
    }
}

fn replay_of(rows: Vec<Row>, epoch: Epoch, up_to: u64, (visible_from, floor): (u64, u64)) -> Replay {
    let frames = rows.into_iter().map(|row| (row.sequence_number, encode_message_new(&row))).collect();
    Replay { frames, epoch, up_to, visible_from, floor, rewound: None }
}
