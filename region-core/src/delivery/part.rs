//! What this region knows of a message and of the user whom it is for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::client::MessageName;
use hearth_protocol::record::Reached;
use hearth_protocol::{ConversationId, LogId, Refusal, SealedEntry, UserId};
use region_model::LogView;
use region_model::delivery::{
    CursorFacts, CursorKind, EntryFacts, LogFacts, Question, RegionPart, SessionFacts, Sought, UserFacts,
};
use region_model::line::Line;
use region_model::ports::TargetKey;
use region_model::view::View;
use tokio::sync::mpsc;

use super::hops::{Ask, Stands};
use crate::edge::Connection;
use crate::region::Region;
use crate::runtime::wall;

/// How long a session may take to say what it was sent.
const SESSION_PATIENCE: Duration = Duration::from_secs(1);
/// Sessions of a user that are looked at.
const SESSIONS: usize = 32;

impl Region {
    /// Which entry a message is, where this region has it on disk.
    pub(super) async fn locate(
        self: &Arc<Self>,
        asker: &UserId,
        conversation: ConversationId,
        name: MessageName,
    ) -> Result<Option<EntryFacts>, Refusal> {
        let view = self.view(LogId::conversation(conversation), true).await?;
        if !view.held {
            return Ok(None);
        }
        let MessageName::Id(id) = name else { return self.entry_of(conversation, &view, name, None).await };
        let key = TargetKey { log: LogId::conversation(conversation), actor: asker.clone(), id: id.0 };
        let found = self.stores.log.target(key).await.map_err(|error| self.store_refusal(&error))?;
        if let Some(entry) = found.entry {
            return Ok(Some(EntryFacts::of(&entry)));
        }
        // A change of a message is found by its number alone, which the book has.
        let stands = self.stands(conversation, name, None).await?;
        let sequence = stands.hops.map(|times| times.sequence);
        let entry = self.entry_of(conversation, &view, name, sequence).await?;
        Ok(entry.filter(|entry| entry.id == id.0))
    }

    async fn entry_of(
        &self,
        conversation: ConversationId,
        view: &LogView,
        name: MessageName,
        sequence: Option<u64>,
    ) -> Result<Option<EntryFacts>, Refusal> {
        let sequence = match (name, sequence) {
            (MessageName::Number(number), _) => number,
            (MessageName::Id(_), Some(number)) => number,
            (MessageName::Id(_), None) => return Ok(None),
        };
        let stored = self.stored(conversation, view, sequence).await?;
        Ok(stored.map(|entry| EntryFacts::of(&entry)))
    }

    async fn stored(
        &self,
        conversation: ConversationId,
        view: &LogView,
        sequence: u64,
    ) -> Result<Option<Arc<SealedEntry>>, Refusal> {
        if !view.held || sequence == 0 || sequence >= view.length || !view.has_rows(sequence, sequence + 1) {
            return Ok(None);
        }
        let log = LogId::conversation(conversation);
        let entry = self.entry_at(log, sequence).await.map_err(|error| self.store_refusal(&error))?;
        Ok(entry.filter(|entry| entry.sequence().0 == sequence))
    }

    async fn stands(
        &self,
        conversation: ConversationId,
        name: MessageName,
        entry: Option<&EntryFacts>,
    ) -> Result<Stands, Refusal> {
        let sought = Sought::new(name, entry);
        self.ask_loop(|answer| Ask::Stands { conversation, sought, answer }).await
    }

    /// All that this region knows.
    pub(super) async fn delivery_part(
        self: &Arc<Self>,
        asker: &UserId,
        question: Question<'_>,
        entry: Option<&EntryFacts>,
    ) -> Result<RegionPart, Refusal> {
        let conversation = question.conversation;
        let view = self.view(LogId::conversation(conversation), true).await?;
        let Stands { hops, kept, standing } = self.stands(conversation, question.name, entry).await?;
        let held = match entry {
            Some(entry) => self.stored(conversation, &view, entry.sequence).await?.map(|entry| EntryFacts::of(&entry)),
            None => None,
        };
        let sequence = entry.map(|entry| entry.sequence);
        Ok(RegionPart {
            region: self.me().clone(),
            kept,
            hops,
            entry: held.filter(|held| entry.is_some_and(|entry| entry.is_there(held))),
            log: LogFacts::of(&view, asker, question.user),
            standing,
            user: self.user_facts(&view, question, entry, sequence).await?,
        })
    }

    async fn user_facts(
        self: &Arc<Self>,
        view: &LogView,
        question: Question<'_>,
        entry: Option<&EntryFacts>,
        sequence: Option<u64>,
    ) -> Result<UserFacts, Refusal> {
        let (conversation, user) = (question.conversation, question.user);
        let record = self.view(LogId::user(user), false).await?;
        let state = match &record.view {
            View::User(state) if record.held => Some(state),
            _ => None,
        };
        let blocks_sender = state.zip(entry).map(|(state, entry)| entry.is_blocked(conversation, user, &state.privacy));
        let (delivered, read) = self.cursor_facts(conversation, view, user, sequence).await;
        Ok(UserFacts {
            sessions: self.session_facts(conversation, user, sequence).await,
            resident: state.map(|state| state.resident.keys().cloned().collect()),
            blocks_sender,
            last_seen: self.presence.last_seen(user).await,
            delivered,
            read,
        })
    }

    async fn cursor_facts(
        &self,
        conversation: ConversationId,
        view: &LogView,
        user: &UserId,
        sequence: Option<u64>,
    ) -> (CursorFacts, CursorFacts) {
        let log = LogId::conversation(conversation);
        if !view.held || !self.load_cursors(log).await {
            return <(CursorFacts, CursorFacts)>::default();
        }
        let Some(record) = self.receipts.record(log, user) else { return <(CursorFacts, CursorFacts)>::default() };
        let line = Line::of(view);
        let facts = |kind, reached: &[Reached]| {
            CursorFacts::of(reached, &line, sequence, |sequence| {
                self.delivery.passed((conversation, user, kind), sequence, wall())
            })
        };
        (facts(CursorKind::Delivered, &record.delivered), facts(CursorKind::Read, &record.read))
    }

    /// The sessions of the user here, each with what it says that it was sent.
    async fn session_facts(
        &self,
        conversation: ConversationId,
        user: &UserId,
        sequence: Option<u64>,
    ) -> Vec<SessionFacts> {
        let mut connections = self.hub.of(user);
        connections.truncate(SESSIONS);
        let mut said = HashMap::new();
        if let Some(sequence) = sequence {
            let (answer, mut told) = mpsc::channel(SESSIONS);
            for connection in &connections {
                // One that is busy takes no question: that is its answer.
                let _ = connection.ask((conversation, sequence), &answer);
            }
            drop(answer);
            let all = async {
                while let Some((connection, sent)) = told.recv().await {
                    said.insert(connection, sent);
                }
            };
            // Who does not answer in time is busy: that is an answer, too.
            let _ = tokio::time::timeout(SESSION_PATIENCE, all).await;
        }
        let facts = |connection: &Arc<Connection>| SessionFacts {
            since: connection.since,
            sent: said.get(&connection.id).copied(),
            waiting_bytes: connection.waiting_bytes() as u64,
        };
        connections.iter().map(facts).collect()
    }
}
