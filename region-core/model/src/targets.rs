//! What a home decides upon: the view, and for a command that changes a message that one, looked up in the store and
//! brought up to what was decided since.

use std::collections::VecDeque;

use hearth_protocol::record::{ChangeRecord, MessageChange};
use hearth_protocol::{EntryKind, ErrorCode, LogId, LogKind, Refusal, SealedEntry, Timestamp};

use crate::command::Command;
use crate::core::Context;
use crate::effect::Effect;
use crate::log::Log;
use crate::ports::{TargetFound, TargetKey};
use crate::view::{Decision, Present, Target, View};

/// Changes of messages that a look-up on its way may have missed.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    records: VecDeque<ChangeRecord>,
    /// Every change from this number on is among them.
    from: u64,
}

impl Changed {
    /// None yet: whatever is below `from` is in the store.
    pub(crate) fn from(from: u64) -> Self {
        Self { records: VecDeque::new(), from }
    }

    /// Takes what an entry changes.
    pub(crate) fn note(&mut self, record: ChangeRecord) {
        self.records.push_back(record);
    }

    /// Forgets what every look-up from now on finds in the store.
    pub(crate) fn forget_below(&mut self, safe: u64) {
        self.from = self.from.max(safe);
        while self.records.front().is_some_and(|record| record.position.sequence.0 < safe) {
            self.records.pop_front();
        }
    }
}

/// What an entry does to an earlier message, or says is kept no longer. `None` for other kinds, and where its content is
/// gone: the text of an edit goes only when its message is deleted or its author erased, and then it shows no more.
pub(crate) fn change_record(log: LogId, sealed: &SealedEntry) -> Option<ChangeRecord> {
    let fixed = &sealed.entry.fixed;
    let (target, what) = match log.kind {
        LogKind::Conversation => {
            sealed.change_of_message().or_else(|| Some((0, MessageChange::Forgotten(sealed.forgets()?))))?
        }
        LogKind::User => (0, MessageChange::Forgotten(sealed.forgets()?)),
        LogKind::Placement => return None,
    };
    let time = fixed.original_time.unwrap_or(fixed.time);
    Some(ChangeRecord { target, position: fixed.position, sender: fixed.sender.clone(), time, what })
}

/// A look-up of the message that a command changes.
#[derive(Clone, Debug)]
pub(crate) enum TargetLook {
    /// It changes none.
    NotNeeded,
    /// It is on its way.
    Asked,
    /// What it told.
    Found(Box<TargetFound>),
}

/// Whether a command is of an entry of a tail whose content was taken away.
pub(crate) fn comes_back_bare(command: &Command) -> bool {
    let has_text = matches!(command.kind, EntryKind::Message | EntryKind::Edit);
    command.original_time.is_some() && has_text && command.content.is_empty()
}

/// The look-up that a command needs.
fn key_of(command: &Command) -> Option<TargetKey> {
    let id = command.target.filter(|_| command.kind.changes_message())?;
    Some(TargetKey { log: command.log, actor: command.sender.clone(), id })
}

/// A look-up told too little: it is asked again.
pub(crate) struct Again;

impl<R: Clone> Log<R> {
    /// A message that was sequenced before and comes back with a tail was admitted then. Where its content was taken away
    /// since, its place in the line comes back.
    pub(crate) fn judge(&self, command: &Command, target: Option<&Target>, context: &Context<'_, R>) -> Decision {
        let now = self.time_of_next(context.now.wall);
        let is_over = command.original_time.is_some() && command.expires_at.is_some_and(|at| at <= now);
        let bare = comes_back_bare(command) || is_over;
        let comes_back = command.original_time.is_some() && (command.kind == EntryKind::Message || bare);
        if let Some(refusal) = self.view.refuse_forgotten(command) {
            return Decision::Refuse(refusal);
        }
        if View::floor_above(command, self.marked) {
            return Decision::Refuse(Refusal::invalid("a floor is not above what is marked"));
        }
        if comes_back && matches!(self.view, View::Conversation(_)) {
            let level = command.level.unwrap_or_default().max(self.view.level());
            return Decision::Append { content: command.content.clone(), level, bare };
        }
        if command.original_time.is_none() && self.was_sent_before_leaving(command) {
            let refusal = Refusal::new(ErrorCode::Forbidden, "its sender left the conversation after it was sent");
            return Decision::Refuse(refusal);
        }
        if command.kind.changes_message() {
            return self.view.decide_change(command, target, now);
        }
        self.view.decide(command, now, context.bounds)
    }

    /// Whether a member sent this under a membership that has ended, and is a member again: what waited at one region
    /// may have been refused meanwhile, and no region may take later what another one has refused.
    fn was_sent_before_leaving(&self, command: &Command) -> bool {
        let (Some(joined), View::Conversation(state)) = (command.joined, &self.view) else { return false };
        state.members.get(&command.sender).is_some_and(|member| member.since > joined)
    }

    /// Asks for the message that a command changes.
    pub(crate) fn look_for_target(&self, command: &Command, context: &mut Context<'_, R>) -> TargetLook {
        match key_of(command) {
            Some(key) => {
                context.effects.push(Effect::Target(key));
                TargetLook::Asked
            }
            None => TargetLook::NotNeeded,
        }
    }

    /// Whether an answer is for a command.
    pub(crate) fn is_target_of(command: &Command, key: &TargetKey) -> bool {
        key_of(command).as_ref() == Some(key)
    }

    /// The message that a command changes, with everything decided so far. Its sender may name one of its own that is
    /// on its way to the disk; nobody else was shown that one, but what comes back with a tail was sent by who had seen
    /// the message there.
    pub(crate) fn target_of(&self, command: &Command, found: &TargetFound) -> Result<Option<Target>, Again> {
        if found.length < self.changed.from {
            return Err(Again);
        }
        let comes_back = command.original_time.is_some() && found.entry.is_none();
        let sender = (!comes_back).then_some(&command.sender);
        let on_its_way = command.target.and_then(|id| self.home.in_flight_of(sender, id));
        let entry = match (&found.entry, on_its_way.filter(|sequence| *sequence >= found.length)) {
            (Some(entry), _) if entry.entry.fixed.sender == command.sender => Some(entry.clone()),
            (_, Some(sequence)) => Some(self.pending_at(sequence).ok_or(Again)?.entry.clone()),
            (entry, _) => entry.clone(),
        };
        let Some(entry) = entry.filter(|entry| entry.entry.fixed.kind == EntryKind::Message) else { return Ok(None) };
        let number = entry.sequence().0;
        let stored = found.changes.iter().filter(|change| change.target == number);
        let since = self.changed.records.iter();
        let since = since.filter(|change| change.target == number && change.position.sequence.0 >= found.length);
        let present = Present::of(stored.chain(since));
        Ok(Some(Target { entry, present }))
    }
}

/// When the content of an entry goes: that of an edit with its message.
pub(crate) fn expiry_of(command: &Command, target: Option<&Target>) -> Option<Timestamp> {
    let of_message = target.filter(|_| command.kind == EntryKind::Edit);
    of_message.map_or(command.expires_at, |target| target.entry.entry.fixed.expires_at)
}
