//! Media of conversations: what may be put, and how long it stays. Decided from what the log says and a time alone.
//!
//! ```text
//!   asked for ──bytes come──► unused ──an entry carries them──► used ──no such entry has its content any more──► gone
//!       └ no bytes in time: gone  └ nobody uses them in time: gone └ a failover put the entry apart: as long as
//!                                                                    retention would keep it, or until it is back
//! ```
//! An entry loses its content when its message is deleted or expires, when retention or an erasure is over for it: media
//! follow the text that carries them, and need no order of their own.

pub mod ports;
mod shown;
mod sweep;
mod trace;

use bytes::Bytes;
use hearth_protocol::media::{CreateMedia, MediaId, MediaLimits};
use hearth_protocol::record::MediaRecord;
use hearth_protocol::{
    Change, ConversationId, EntryKind, ErrorCode, Position, Refusal, SealedEntry, Timestamp, UserId,
};
use serde::Deserialize;
use uuid::Uuid;

use crate::mutants::Mutant;
use crate::view::is_expired;
use ports::StoredMedia;

pub use shown::{MediaKnown, Shown, ShownStep};
pub use sweep::{Items, Sweep, SweepStep, SweepTold, Traced};
pub use trace::{LookThrough, Looked, Trace, TraceQuestion};

/// Entries that carry the same media and are remembered: of more, the first. Media stay as long as one of those does.
pub const USES: usize = 64;
/// How long an upload may last that began in time, in milliseconds.
pub const UPLOAD_LASTS: u64 = 15 * 60 * 1_000;

/// What a region takes, and for how long. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaRules {
    /// Bytes of one upload.
    pub item_bytes: u64,
    /// What it may be.
    pub content_types: Vec<String>,
    /// Bytes of all that the region has, with what was asked for and has not come yet.
    pub kept_bytes: u64,
    /// How many.
    pub kept_items: usize,
    /// How many of one user that no message carries yet.
    pub unused_of_user: usize,
    /// How long media stay that no message carries.
    pub unused_for: u64,
    /// How long an upload may wait to begin.
    pub upload_for: u64,
    /// How long one may last that began in time.
    pub upload_lasts: u64,
    /// How long a link to the bytes is good.
    pub link_for: u64,
}

/// What a region has already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes, with those that were asked for and have not come yet.
    pub bytes: u64,
    /// How many.
    pub items: usize,
    /// How many of them are of the user who asks, and not carried by a message yet.
    pub unused_of_user: usize,
}

impl MediaRules {
    /// Whether media of this size and type may be put.
    ///
    /// # Errors
    /// `TOO_LARGE`, or `INVALID_MESSAGE` for a type that is not allowed.
    pub fn check(&self, wanted: &CreateMedia) -> Result<(), Refusal> {
        wanted.check()?;
        if !self.content_types.contains(&wanted.content_type) {
            let refusal = Refusal::invalid("media of this type are not taken here");
            return Err(refusal.with_limit(self.content_types.join(", ")));
        }
        if wanted.size > self.item_bytes {
            return Err(Refusal::too_large("the media are too large", format!("{} bytes of media", self.item_bytes)));
        }
        Ok(())
    }

    /// Whether there is room for so many bytes more.
    ///
    /// # Errors
    /// `RATE_LIMITED` where the user has put too many that no message carries, `OVERLOADED` where the region is full.
    pub fn check_room(&self, size: u64, room: Room) -> Result<(), Refusal> {
        if room.unused_of_user >= self.unused_of_user {
            let refusal = Refusal::new(ErrorCode::RateLimited, "send what was put already, before putting more");
            let limit = format!("{} media of a user that no message carries", self.unused_of_user);
            return Err(refusal.with_limit(limit).with_retry_after(60));
        }
        if room.items >= self.kept_items || room.bytes.saturating_add(size) > self.kept_bytes {
            let refusal = Refusal::new(ErrorCode::Overloaded, "this region has no room for more media");
            let limit = format!("{} bytes and {} media of a region", self.kept_bytes, self.kept_items);
            return Err(refusal.with_limit(limit).with_retry_after(3_600));
        }
        Ok(())
    }

    /// The record of media that a user asks to put under a key, by the one that was there before.
    ///
    /// # Errors
    /// `DUPLICATE_MESSAGE` where the key was used for other media, and as [`Self::check_room`].
    pub fn record(
        &self,
        before: Option<&MediaRecord>,
        wanted: &CreateMedia,
        user: &UserId,
        room: Room,
        now: Timestamp,
    ) -> Result<MediaRecord, Refusal> {
        let upload_until = Timestamp(now.0 + self.upload_for);
        match before {
            Some(known) if known.content_type != wanted.content_type || known.size != wanted.size => {
                Err(Refusal::new(ErrorCode::DuplicateMessage, "the key was used for other media"))
            }
            Some(known) => Ok(MediaRecord { upload_until, ..known.clone() }),
            None => {
                self.check_room(wanted.size, room)?;
                Ok(MediaRecord {
                    uploader: user.clone(),
                    content_type: wanted.content_type.clone(),
                    size: wanted.size,
                    created_at: now,
                    upload_until,
                    stored: false,
                    uses: Vec::new(),
                    rewound: false,
                    carriers: Vec::new(),
                    apart: Vec::new(),
                })
            }
        }
    }

    /// From when on no upload can be under way that began in time.
    fn last_upload(&self, record: &MediaRecord) -> u64 {
        record.upload_until.0.saturating_add(2 * self.upload_lasts)
    }

    /// What clients are told.
    #[must_use]
    pub fn limits(&self) -> MediaLimits {
        MediaLimits { max_bytes: self.item_bytes, content_types: self.content_types.clone() }
    }
}

/// The part of a content that media need.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Carries<'a> {
    #[serde(borrow, default)]
    media_url: Option<std::borrow::Cow<'a, str>>,
}

/// The media of this conversation that a message's content carries.
#[must_use]
pub fn carried(content: &[u8], conversation: ConversationId) -> Option<MediaId> {
    let carries: Carries<'_> = serde_json::from_slice(content).ok()?;
    MediaId::of_url(carries.media_url.as_deref()?, conversation)
}

/// The content that an entry gives to its message: its own, or its new one. `None` for entries that give none, and where
/// it is gone.
#[must_use]
pub fn given_content(entry: &SealedEntry) -> Option<Bytes> {
    match entry.entry.fixed.kind {
        EntryKind::Message => entry.content().cloned(),
        EntryKind::Edit => match entry.change()? {
            Change::Edit { content, .. } => Some(content.into()),
            _ => None,
        },
        _ => None,
    }
}

/// The media of its conversation that an entry gives to its message. `None` for entries that carry none, and where the
/// content is gone.
#[must_use]
pub fn carried_by(entry: &SealedEntry, conversation: ConversationId) -> Option<MediaId> {
    carried(&given_content(entry)?, conversation)
}

/// Whether no message carries them or may come back that did.
#[must_use]
pub fn is_unused(record: &MediaRecord) -> bool {
    record.uses.is_empty() && !record.rewound && record.apart.is_empty()
}

/// What became of an entry that carried media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Standing {
    /// It stands in the line, with its content.
    Stands,
    /// It lost its content, or lies below the floor.
    Gone,
    /// The line has something else there: a failover put it apart.
    Rewound,
}

impl Standing {
    /// What became of the entry at a position, by what the line has at its number now.
    #[must_use]
    pub fn of(position: Position, entry: Option<&SealedEntry>, floor: u64, now: Timestamp) -> Self {
        if position.sequence.0 < floor {
            return Self::Gone;
        }
        match entry.filter(|entry| entry.entry.fixed.position == position) {
            None => Self::Rewound,
            Some(entry) if entry.content().is_none() || is_expired(entry, now) => Self::Gone,
            Some(_) => Self::Stands,
        }
    }
}

/// Whether media stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They stay.
    Stays,
    /// They go, with their record.
    Goes,
}

/// Notes that an entry carries them, with its id where that is known. Returns whether that is new.
pub fn used_by(record: &mut MediaRecord, position: Position, carrier: Option<Uuid>) -> bool {
    if record.uses.contains(&position) || record.uses.len() >= USES {
        return false;
    }
    record.carriers.resize(record.uses.len(), Uuid::nil());
    record.uses.push(position);
    record.carriers.push(carrier.unwrap_or_default());
    record.apart.retain(|apart| Some(*apart) != carrier);
    record.rewound = false;
    true
}

/// What may come back of what carried them: the line has something else where it stood, and nowhere else the same.
fn put_apart(record: &mut MediaRecord, standings: &[Standing]) {
    record.carriers.resize(record.uses.len(), Uuid::nil());
    for (at, _) in standings.iter().enumerate().filter(|(_, standing)| **standing == Standing::Rewound) {
        let carrier = record.carriers[at];
        let is_it = |other: usize| other != at && record.carriers[other] == carrier;
        let is_back = (0..standings.len()).any(|other| standings[other] != Standing::Rewound && is_it(other));
        if carrier.is_nil() || record.apart.len() >= USES {
            record.rewound = true;
        } else if !is_back && !record.apart.contains(&carrier) {
            record.apart.push(carrier);
        }
    }
}

/// Brings a record to what became of its uses, given in their order, and says whether the media stay. `kept_for` is how
/// long the conversation keeps its messages, in milliseconds.
///
/// # Panics
/// When there are not as many standings as uses.
pub fn follow(
    record: &mut MediaRecord,
    standings: &[Standing],
    kept_for: u64,
    now: Timestamp,
    rules: &MediaRules,
) -> Fate {
    assert_eq!(record.uses.len(), standings.len(), "one standing a use");
    let was_used = !record.uses.is_empty();
    if !Mutant::PutApartIsGone.is_on() {
        put_apart(record, standings);
    }
    let mut of_use = standings.iter();
    record.uses.retain(|_| of_use.next() == Some(&Standing::Stands));
    let mut of_use = standings.iter();
    record.carriers.retain(|_| of_use.next() == Some(&Standing::Stands));
    if !record.uses.is_empty() {
        return Fate::Stays;
    }
    let may_come_back = record.rewound || !record.apart.is_empty();
    let stays_for = match (may_come_back, was_used) {
        // What was put apart comes back with the region that has it, unless retention is over for it first.
        (true, _) => kept_for.max(rules.unused_for),
        (false, true) => 0,
        (false, false) => rules.unused_for,
    };
    // Bytes that may still come find their record.
    let may_come = if record.stored { 0 } else { rules.last_upload(record) };
    if record.created_at.0.saturating_add(stays_for).max(may_come) <= now.0 { Fate::Goes } else { Fate::Stays }
}

/// Brings a record whose bytes were not seen yet to what the store has, and says whether it stays: other bytes than those
/// that were asked for go, and so does a record for which none came in time.
pub fn arrived(record: &mut MediaRecord, stored: Option<&StoredMedia>, now: Timestamp, rules: &MediaRules) -> Fate {
    match stored {
        Some(stored) => {
            let other_type = stored.content_type.as_ref().is_some_and(|of| *of != record.content_type);
            if stored.size != record.size || other_type {
                return Fate::Goes;
            }
            record.stored = true;
            Fate::Stays
        }
        None if now.0 >= rules.last_upload(record) => Fate::Goes,
        None => Fate::Stays,
    }
}

#[cfg(test)]
mod tests;
