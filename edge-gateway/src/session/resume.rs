//! Resuming: every listed conversation is read from storage, a few at a time; `sync.complete` follows the last.

use std::collections::VecDeque;

use hearth_protocol::client::{ServerFrame, SyncCompletePayload, SyncedUpTo};
use hearth_protocol::rest::SyncCursor;
use hearth_protocol::{ErrorCode, Refusal, limits};
use region_core::Replay;

use super::deliveries::{effect_of, sync_required};
use super::{Effect, Session, State};
use crate::clock::Moment;

/// A resume under way.
#[derive(Debug)]
pub(crate) struct Resume {
    waiting: VecDeque<SyncCursor>,
    running: usize,
    done: Vec<SyncedUpTo>,
    exact: bool,
}

/// The word of the contract.
pub(crate) fn word(exact: bool) -> &'static str {
    if exact { "exact" } else { "fresh" }
}

impl Session {
    /// Whether the resume token, if there is one, is this user's and device's and in time.
    pub(super) fn token_holds(&self, token: Option<&str>, now: Moment) -> bool {
        let Some(token) = token else { return true };
        let Some(old) = self.shared.resume_keys.verify(token, now.wall) else { return false };
        Some(&old.user) == self.user() && Some(old.device) == self.device
    }

    pub(super) fn begin_resume(&mut self, token: Option<&str>, mut cursors: Vec<SyncCursor>, now: Moment) {
        let readable = cursors.iter().all(|cursor| cursor.last_sequence <= limits::SEQUENCE);
        let exact = readable && self.token_holds(token, now);
        // A conversation listed twice is served from its lowest number, once.
        cursors.sort_by_key(|cursor| (cursor.conversation_id, cursor.last_sequence));
        cursors.dedup_by_key(|cursor| cursor.conversation_id);
        cursors.retain(|cursor| cursor.last_sequence <= limits::SEQUENCE);
        let pulled = cursors.split_off(cursors.len().min(limits::SYNC_CONVERSATIONS));
        for cursor in &cursors {
            self.deliveries.begin_replay(cursor);
        }
        for cursor in pulled {
            self.effects.push_back(sync_required(cursor.conversation_id, cursor.last_sequence + 1));
        }
        self.resume = Some(Resume { waiting: cursors.into(), running: 0, done: Vec::new(), exact });
        self.go_on_resuming();
    }

    fn go_on_resuming(&mut self) {
        let most = self.shared.limits.session_replays.max(1);
        let rows = usize::try_from(self.shared.limits.replay_rows).unwrap_or(limits::SYNC_ROWS);
        let Some(resume) = &mut self.resume else { return };
        while resume.running < most
            && let Some(cursor) = resume.waiting.pop_front()
        {
            resume.running += 1;
            self.effects.push_back(Effect::Replay { cursor, rows });
        }
        if resume.running > 0 {
            return;
        }
        let Some(resume) = self.resume.take() else { return };
        let payload = SyncCompletePayload { conversations: resume.done, resumed: word(resume.exact).to_owned() };
        self.send(&ServerFrame::SyncComplete(payload), None);
    }

    /// One listed conversation was read, or not.
    pub(crate) fn handle_replayed(&mut self, cursor: &SyncCursor, replayed: Result<Replay, Refusal>, now: Moment) {
        if self.state == State::Closed {
            return;
        }
        let Some(resume) = &mut self.resume else { return };
        resume.running -= 1;
        match replayed {
            Ok(replay) => {
                resume.done.push(SyncedUpTo {
                    conversation_id: cursor.conversation_id,
                    epoch: replay.epoch,
                    up_to_sequence: replay.up_to,
                });
                let out = &mut |delivery| self.effects.push_back(effect_of(delivery));
                self.deliveries.replayed(cursor, replay, now.ticks, out);
            }
            Err(refusal) => {
                let unknown = refusal.error == ErrorCode::ConversationNotFound;
                // A conversation that is not this user's is not served; any other trouble is told as `sync.required`.
                resume.exact &= !unknown;
                let out = &mut |delivery| self.effects.push_back(effect_of(delivery));
                self.deliveries.not_replayed(cursor, !unknown, now.ticks, out);
            }
        }
        self.go_on_resuming();
    }
}
