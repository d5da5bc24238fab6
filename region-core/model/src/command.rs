//! What a region is asked to sequence, and how that ends.

use bytes::Bytes;
use hearth_protocol::client::QueuedReason;
use hearth_protocol::joins::encode_joins;
use hearth_protocol::{
    Change, EntryKind, ErrorCode, Level, LogId, Position, Refusal, RegionId, SealedEntry, Timestamp, UserId, mesh,
};
use uuid::Uuid;

/// A wish to append one entry to a log. The home decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The log.
    pub log: LogId,
    /// What the entry does.
    pub kind: EntryKind,
    /// Who asks; for commands that a region makes itself, `region:<name>`.
    pub sender: UserId,
    /// The idempotency key.
    pub id: Uuid,
    /// JSON of a message, or a stored change or header.
    pub content: Bytes,
    /// What it answers.
    pub reply_to: Option<Uuid>,
    /// The message that it changes.
    pub target: Option<Uuid>,
    /// When its content goes.
    pub expires_at: Option<Timestamp>,
    /// A level above the log's own.
    pub level: Option<Level>,
    /// The edge region.
    pub origin: RegionId,
    /// Set for an entry of a tail that comes back: when it was sequenced first.
    pub original_time: Option<Timestamp>,
    /// Set by an edge region on what waits or travels: the sequence at which its sender had become a member when the
    /// edge took it. The home refuses what was sent under a membership that has ended since.
    pub joined: Option<u64>,
}

impl Command {
    /// The form that travels to the home.
    #[must_use]
    pub fn to_forward(&self, forward_id: u64) -> mesh::Forward {
        mesh::Forward {
            forward_id,
            log: Bytes::copy_from_slice(&self.log.to_bytes()),
            kind: self.kind.number(),
            sender: self.sender.as_str().to_owned(),
            id: Bytes::copy_from_slice(self.id.as_bytes()),
            content: self.content.clone(),
            reply_to: self.reply_to.map(|id| Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default(),
            expires_at: self.expires_at.map_or(0, |at| at.0),
            level: self.level.map_or(0, |level| level as u32),
            origin: self.origin.as_str().to_owned(),
            parked: false,
            original_time: self.original_time.map_or(0, |time| time.0),
            joined: self.joined.map_or(0, |sequence| sequence.saturating_add(1)),
            round: 0,
            place: 0,
            target: self.target.map(|id| Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default(),
        }
    }

    /// Reads [`Command::to_forward`]; `None` when a field is not of its form.
    #[must_use]
    pub fn from_forward(forward: &mesh::Forward) -> Option<Self> {
        Some(Self {
            log: LogId::from_bytes(&forward.log)?,
            kind: EntryKind::from_number(forward.kind)?,
            sender: UserId::new(&forward.sender).ok()?,
            id: Uuid::from_slice(&forward.id).ok()?,
            content: forward.content.clone(),
            reply_to: if forward.reply_to.is_empty() { None } else { Some(Uuid::from_slice(&forward.reply_to).ok()?) },
            target: if forward.target.is_empty() { None } else { Some(Uuid::from_slice(&forward.target).ok()?) },
            expires_at: (forward.expires_at > 0).then_some(Timestamp(forward.expires_at)),
            level: if forward.level == 0 { None } else { Some(Level::from_number(forward.level)?) },
            origin: RegionId::new(&forward.origin).ok()?,
            original_time: (forward.original_time > 0).then_some(Timestamp(forward.original_time)),
            joined: forward.joined.checked_sub(1),
        })
    }
}

/// An entry is sequenced and has the copies of its level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Where it stands.
    pub position: Position,
    /// When it was sequenced.
    pub time: Timestamp,
    /// The home.
    pub home: RegionId,
    /// The level that it was acked at.
    pub level: Level,
    /// The regions that have it on disk.
    pub regions: Vec<RegionId>,
    /// Whether it had been sequenced before this command came, or nothing was there to change.
    pub duplicate: bool,
}

/// How a command ended, or that it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Acked(Ack),
    /// It is durably held and will be done or refused later.
    Queued(QueuedReason, RegionId),
    /// It will not be done.
    Refused(Refusal),
}

impl Outcome {
    /// The form that travels to the edge region.
    #[must_use]
    pub fn to_answer(&self, forward_id: u64) -> mesh::Answer {
        let mut answer = mesh::Answer { forward_id, ..mesh::Answer::default() };
        match self {
            Self::Acked(ack) => {
                answer.ack = Some(mesh::Ack {
                    epoch: ack.position.epoch.0,
                    sequence: ack.position.sequence.0,
                    time: ack.time.0,
                    home: ack.home.as_str().to_owned(),
                    level: ack.level as u32,
                    regions: ack.regions.iter().map(|region| region.as_str().to_owned()).collect(),
                    duplicate: ack.duplicate,
                });
            }
            Self::Queued(..) => answer.copies_missing = true,
            Self::Refused(refusal) => {
                answer.refused = Some(mesh::Refused {
                    error: refusal.error.as_str().to_owned(),
                    message: refusal.message.clone().into_owned(),
                    retry_after: refusal.retry_after.unwrap_or(0),
                    limit: refusal.limit.clone().unwrap_or_default().into_owned(),
                });
            }
        }
        answer
    }

    /// Reads [`Outcome::to_answer`], which came from `home`; `None` when it is not of its form.
    #[must_use]
    pub fn from_answer(answer: &mesh::Answer, home: &RegionId) -> Option<Self> {
        if let Some(ack) = &answer.ack {
            return Some(Self::Acked(Ack {
                position: Position {
                    epoch: hearth_protocol::Epoch(ack.epoch),
                    sequence: hearth_protocol::Sequence(ack.sequence),
                },
                time: Timestamp(ack.time),
                home: RegionId::new(&ack.home).ok()?,
                level: Level::from_number(ack.level)?,
                regions: ack.regions.iter().filter_map(|region| RegionId::new(region).ok()).collect(),
                duplicate: ack.duplicate,
            }));
        }
        if let Some(refused) = &answer.refused {
            let mut refusal = Refusal::new(ErrorCode::parse(&refused.error), refused.message.clone());
            refusal.retry_after = (refused.retry_after > 0).then_some(refused.retry_after);
            refusal.limit = (!refused.limit.is_empty()).then(|| refused.limit.clone().into());
            return Some(Self::Refused(refusal));
        }
        answer.copies_missing.then(|| Self::Queued(QueuedReason::CopiesMissing, home.clone()))
    }
}

/// The commands that an entry came from: one, or one for each of the requests that share it.
pub(crate) fn commands_of(log: LogId, sealed: &SealedEntry) -> Vec<Command> {
    let (command, _) = command_of(log, sealed);
    let others = sealed.join_requests().into_iter().skip(1);
    let others: Vec<Command> = others
        .map(|request| Command { id: request.id, content: encode_joins(&[request]), ..command.clone() })
        .collect();
    std::iter::once(command).chain(others).collect()
}

/// The command that an entry came from; of requests that share it, the first. Where the content was taken away it is
/// empty.
pub(crate) fn command_of(log: LogId, sealed: &SealedEntry) -> (Command, [u8; 16]) {
    let fixed = &sealed.entry.fixed;
    let (salt, content) = sealed.entry.content.clone().unwrap_or_default();
    let content = match sealed.join_requests().into_iter().next() {
        Some(first) => encode_joins(&[first]),
        None => content,
    };
    let command = Command {
        log,
        kind: fixed.kind,
        sender: fixed.sender.clone(),
        id: fixed.id,
        content,
        reply_to: fixed.reply_to,
        target: fixed.target,
        expires_at: fixed.expires_at,
        level: Some(fixed.level),
        origin: fixed.origin.clone(),
        original_time: fixed.original_time,
        joined: Some(fixed.position.sequence.0),
    };
    (command, salt[..].try_into().unwrap_or_default())
}

pub(crate) fn other_content() -> Refusal {
    Refusal::new(ErrorCode::DuplicateMessage, "this messageId was used for another content or replyTo")
}

/// Whether a command repeats an entry: content gone, from the entry or from a send that expired while it was parked, the id
/// alone decides.
pub(crate) fn same_content(sealed: &SealedEntry, command: &Command) -> bool {
    let fixed = &sealed.entry.fixed;
    let sent = fixed.kind.is_sent() || command.kind.is_sent();
    if fixed.reply_to != command.reply_to || (sent && (fixed.kind, fixed.target) != (command.kind, command.target)) {
        return false;
    }
    match fixed.kind {
        EntryKind::Message => {
            command.content.is_empty() || sealed.content().is_none_or(|content| *content == command.content)
        }
        // The number of the message is the home's.
        kind if kind.changes_message() => sealed.change().is_none_or(|change| {
            Some(change.of_message(0)) == Change::decode(&command.content).map(|asked| asked.of_message(0))
        }),
        _ => true,
    }
}
