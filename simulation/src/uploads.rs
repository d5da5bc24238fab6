//! Media in a run, at the clients: some of their messages and edits carry some, they take their own away again, send what
//! others put once more, and ask for media at any region, members and others alike.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::media::{CreateMedia, MediaId};
use hearth_protocol::record::MediaScanRecord;
use hearth_protocol::{Change, ConversationId, EntryKind, LogId, MessageId, Position, UserId};
use region_model::media::TraceQuestion;
use region_model::media::ports::MediaObject;
use region_model::view::is_expired;

use crate::alterations::Alteration;
use crate::history;
use crate::plan::SECOND;
use crate::world::World;

/// Of a thousand messages so many carry media that are put for them.
const UPLOADS: u64 = 4;
/// Of a thousand messages so many carry media that somebody else put, or the sender for another one.
const AGAIN: u64 = 5;
/// Of a thousand messages so many take one away that carries media, where the client has sent such a one.
const TAKEN: u64 = 60;
/// Of a thousand edits so many carry media.
const EDITS: u64 = 20;
/// Of a hundred media so many are never sent, and of so many no bytes come.
const UNSENT: u64 = 15;
const MISSING: u64 = 10;
/// Of a thousand times that a client does something it asks for some.
const ASKS: u64 = 10;
/// How long after everything is settled what nothing shows any more may still be there.
const GONE_WITHIN: u64 = 15 * SECOND;
/// Bytes of each.
const SIZE: u64 = 1_000;
/// A message that is over within so many milliseconds may be taken away by a region whose clock jumped.
const CLOCKS: u64 = 5_000;

/// Media that a client put.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) by: usize,
    /// The region that has them.
    pub(crate) region: usize,
    conversation: usize,
    came: bool,
    /// The entries that carry them, and the message of each.
    pub(crate) carried: BTreeMap<MessageId, MessageId>,
    /// Entries that the region noted, and where.
    pub(crate) noted: BTreeSet<(MessageId, Position)>,
}

impl Upload {
    /// At how many places its region noted an entry.
    fn places(&self, entry: MessageId) -> usize {
        self.noted.iter().filter(|(noted, _)| *noted == entry).count()
    }
}

/// What somebody was asked to take away.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    deleted: BTreeSet<(usize, MessageId)>,
    erased: BTreeSet<(usize, UserId)>,
    /// The highest number below which a conversation is to be kept no longer.
    floors: BTreeMap<usize, u64>,
    /// Messages with media that their clients may take away.
    own: Vec<(usize, usize, MessageId)>,
}

impl World {
    /// What a client is to send: perhaps with media, or instead of it the end of a message that has some.
    pub(crate) fn with_media(
        &mut self,
        number: usize,
        conversation: usize,
        message: MessageId,
        change: Option<Alteration>,
    ) -> (Option<Alteration>, Option<MediaId>) {
        let drawn = self.media.random.between(0, 999);
        let Some(mut change) = change else { return self.message_with_media(number, conversation, message, drawn) };
        if change.kind == EntryKind::Delete {
            self.media.asked.deleted.insert((conversation, change.target));
        }
        if change.kind != EntryKind::Edit || drawn >= EDITS {
            return (Some(change), None);
        }
        let media = self.upload(number, conversation);
        if let Some(media) = &media {
            let content = content_with(message, &media.url(self.conversations[conversation].id, None));
            change.change = Change::Edit { target: 0, content };
            self.carries(conversation, media, message, change.target);
        }
        (Some(change), media)
    }

    fn message_with_media(
        &mut self,
        number: usize,
        conversation: usize,
        message: MessageId,
        drawn: u64,
    ) -> (Option<Alteration>, Option<MediaId>) {
        if drawn < TAKEN {
            let asked = &mut self.media.asked;
            let own = asked.own.iter().position(|(by, of, _)| (*by, *of) == (number, conversation));
            let Some((_, _, target)) = own.map(|own| asked.own.swap_remove(own)) else { return (None, None) };
            asked.deleted.insert((conversation, target));
            let change = Change::Delete { target: 0 };
            return (Some(Alteration { target, kind: EntryKind::Delete, change }), None);
        }
        let media = if drawn < TAKEN + AGAIN {
            self.known_media(conversation)
        } else if drawn < TAKEN + AGAIN + UPLOADS {
            let media = self.upload(number, conversation);
            media.filter(|_| !self.media.random.percent(UNSENT))
        } else {
            None
        };
        if let Some(media) = &media {
            self.carries(conversation, media, message, message);
            self.media.asked.own.push((number, conversation, message));
        }
        (None, media)
    }

    /// Media that somebody put in a conversation before.
    fn known_media(&mut self, conversation: usize) -> Option<MediaId> {
        let sent = |put: &Upload| put.conversation == conversation && !put.carried.is_empty();
        let known: Vec<(MediaObject, usize)> =
            self.media.put.iter().filter(|(_, put)| sent(put)).map(|(object, put)| (*object, put.region)).collect();
        let (object, region) = *known.get(self.media.random.below(known.len()))?;
        Some(MediaId { region: self.regions[region].id.clone(), id: object.id })
    }

    fn carries(&mut self, conversation: usize, media: &MediaId, entry: MessageId, message: MessageId) {
        let object = MediaObject { conversation: self.conversations[conversation].id, id: media.id };
        if let Some(put) = self.media.put.get_mut(&object) {
            put.carried.insert(entry, message);
        }
    }

    /// A client asks its region where to put media, and puts them there.
    fn upload(&mut self, number: usize, conversation: usize) -> Option<MediaId> {
        let place = self.connections.get(&self.clients[number].connection?)?.region;
        if !self.regions[place].runs() {
            return None;
        }
        let (id, key) = (self.conversations[conversation].id, self.media.random.uuid());
        let (log, user) = (LogId::conversation(id), self.clients[number].user.clone());
        let media = MediaId::of_key(&self.regions[place].id, &user, id, key);
        let object = MediaObject { conversation: id, id: media.id };
        let (now, content_type) = (self.now_of(place).wall, "image/png".to_owned());
        let wanted = CreateMedia { conversation_id: id, content_type, size: SIZE, name: None };
        let record = self.media.rules.record(None, &wanted, &user, region_model::media::Room::default(), now).ok()?;
        let view = self.look(place, log, false);
        let last = TraceQuestion::begins_behind(&view, &self.regions[place].id);
        let disk = &mut self.regions[place].disk;
        if !disk.scans.contains_key(&id) {
            let scanned = last.and_then(|last| disk.entry(log, last)).map(|entry| entry.entry.fixed.position);
            disk.put_scan(id, Some(MediaScanRecord { scanned }));
        }
        disk.put_media(object, Some(record));
        disk.sync();
        let came = !self.media.random.percent(MISSING);
        if came {
            self.regions[place].disk.bytes.insert(object, SIZE);
            self.history.add(self.now, history::Event::MediaCame(object));
        }
        self.trace.count(self.now, "media-put", place as u64, conversation as u64);
        let carried = BTreeMap::new();
        self.media
            .put
            .insert(object, Upload { by: number, region: place, conversation, came, carried, noted: BTreeSet::new() });
        Some(media)
    }

    pub(crate) fn media_erased(&mut self, conversation: usize, user: &UserId) {
        self.media.asked.erased.insert((conversation, user.clone()));
    }

    pub(crate) fn media_floor(&mut self, conversation: usize, floor: u64) {
        let known = self.media.asked.floors.entry(conversation).or_default();
        *known = floor.max(*known);
    }

    /// A client did something: at times it asks for media, of its own conversations and of others.
    pub(crate) fn media_acts(&mut self, connection: u64) {
        if self.media.random.between(0, 999) >= ASKS || self.media.put.is_empty() {
            return;
        }
        let Some((place, client)) = self.connections.get(&connection).map(|of| (of.region, of.client)) else { return };
        let which = self.media.random.below(self.media.put.len());
        let Some(object) = self.media.put.keys().nth(which).copied().filter(|_| self.regions[place].runs()) else {
            return;
        };
        let user = self.clients[client].user.clone();
        self.ask_for(place, &user, object);
    }

    fn ask_for(&mut self, place: usize, user: &UserId, object: MediaObject) {
        let Some(put) = self.media.put.get(&object) else { return };
        let media = MediaId { region: self.regions[put.region].id.clone(), id: object.id };
        self.ask_for_media(place, user, object.conversation, &media);
    }

    /// Entries that carry media and are shown by some region, though nobody was asked to take them away, nor is their time
    /// over by any clock.
    pub(crate) fn shown_anywhere(&self, object: MediaObject) -> Vec<(MessageId, bool)> {
        let log = LogId::conversation(object.conversation);
        let mut shown = BTreeSet::new();
        for place in 0..self.regions.len() {
            let view = self.look(place, log, false);
            let carried = self.carried_at(place, &view, object).into_iter();
            shown.extend(carried.filter(|of| !self.is_asked_away(place, log, of)).map(|(_, entry, _)| entry));
        }
        shown.into_iter().map(|entry| (entry, self.is_noted(object, entry))).collect()
    }

    fn is_noted(&self, object: MediaObject, entry: MessageId) -> bool {
        self.media.put.get(&object).is_some_and(|put| put.places(entry) > 0)
    }

    fn is_asked_away(&self, place: usize, log: LogId, of: &(u64, MessageId, MessageId)) -> bool {
        let (number, _, message) = of;
        let (Some(at), asked) = (self.by_log.get(&log), &self.media.asked) else { return true };
        let Some(entry) = self.regions[place].disk.entry(log, *number) else { return true };
        let fixed = &entry.entry.fixed;
        let target = entry.change_of_message().map_or(*number, |(target, _)| target);
        asked.deleted.contains(&(*at, *message))
            || asked.erased.contains(&(*at, fixed.sender.clone()))
            || asked.floors.get(at).is_some_and(|floor| target < *floor)
            || fixed.expires_at.is_some_and(|over| over.0 <= self.media.latest + CLOCKS)
    }

    /// Whether something is to keep media at the end: a message that carries them and is not over, one that was put apart
    /// and has not come back, or that they are not old enough.
    fn is_kept(&self, object: MediaObject) -> bool {
        let Some(put) = self.media.put.get(&object) else { return false };
        let region = &self.regions[put.region];
        let record = region.disk.media.get(&object);
        let rules = &self.media.rules;
        let young = record.is_some_and(|record| {
            let unused = record.created_at.0 + rules.unused_for;
            let coming = if record.stored { 0 } else { record.upload_until.0 + 2 * rules.upload_lasts };
            unused.max(coming) > region.clock.wall(self.now).0
        });
        let log = LogId::conversation(object.conversation);
        let Some(home) = self.home_of(put.conversation) else { return true };
        let Some(stored) = self.regions[home].disk.logs.get(&log) else { return true };
        let view = self.look(home, log, false);
        let Some(forgotten) = view.view.forgotten() else { return true };
        let (mut found, now) = (BTreeSet::new(), self.regions[home].clock.wall(self.now));
        for entry in stored.entries.values() {
            if !put.carried.contains_key(&MessageId(entry.entry.fixed.id)) {
                continue;
            }
            found.insert(entry.entry.fixed.id);
            let number = entry.change_of_message().map_or_else(|| entry.sequence().0, |(target, _)| target);
            let deleted = stored.changes.values().any(|change| change.target == number && is_delete(change));
            let over = deleted || number < view.floor || forgotten.hides(entry) || is_expired(entry, now);
            if !over {
                return true;
            }
        }
        // What comes back and is deleted before it is looked at was never seen again.
        let is_back = |id: &uuid::Uuid| found.contains(id) && put.places(MessageId(*id)) > 1;
        young || record.is_some_and(|record| record.apart.iter().any(|id| !is_back(id)))
    }

    /// Media that are there though nothing is to keep them.
    fn left(&self) -> usize {
        let there = |object: &MediaObject, put: &Upload| {
            let disk = &self.regions[put.region].disk;
            disk.media.contains_key(object) || disk.bytes.contains_key(object)
        };
        self.media.put.iter().filter(|(object, put)| there(object, put) && !self.is_kept(**object)).count()
    }

    /// What is left of media once everything is settled, and who gets them then.
    pub(crate) fn media_at_the_end(&mut self) {
        let end = self.now + GONE_WITHIN;
        while self.left() > 0 && self.now < end {
            self.run_until(self.now + SECOND);
        }
        let all: Vec<MediaObject> = self.media.put.keys().copied().collect();
        for object in all {
            self.media_end(object);
            for place in 0..self.regions.len() {
                for user in self.some_users(object.conversation, place) {
                    self.ask_for(place, &user, object);
                }
            }
        }
    }

    fn media_end(&mut self, object: MediaObject) {
        let Some(put) = self.media.put.get(&object) else { return };
        let (region, came) = (put.region, put.came);
        let home = self.home_of(put.conversation).unwrap_or(region);
        let disk = &self.regions[region].disk;
        let (has_bytes, has_record) = (disk.bytes.contains_key(&object), disk.media.contains_key(&object));
        let view = self.look(home, LogId::conversation(object.conversation), false);
        let log = LogId::conversation(object.conversation);
        // A delete may go with a store, and what it took with it is gone.
        let asked_away = |of: &_| self.plan.size.stores && self.is_asked_away(home, log, of);
        let shown = self.carried_at(home, &view, object).into_iter().filter(|of| came && !asked_away(of));
        let shown = shown.map(|(_, entry, _)| (entry, self.is_noted(object, entry))).collect();
        let is_kept = self.is_kept(object);
        let event = history::Event::MediaEnd { media: object, region, has_bytes, has_record, is_kept, shown };
        self.history.add(self.now, event);
    }

    /// A member of a conversation, and somebody who is none.
    fn some_users(&self, conversation: ConversationId, shift: usize) -> Vec<UserId> {
        let Some(at) = self.by_log.get(&LogId::conversation(conversation)) else { return Vec::new() };
        let count = self.clients.len();
        let all = (0..count).map(|number| &self.clients[(number + shift * 7) % count]);
        let (inside, outside): (Vec<_>, Vec<_>) = all.partition(|client| client.conversations.contains(at));
        inside.first().into_iter().chain(outside.first()).map(|client| client.user.clone()).collect()
    }
}

fn is_delete(change: &hearth_protocol::record::ChangeRecord) -> bool {
    region_model::view::Taking::deleted(change).is_some()
}

/// What an edit says that carries media.
fn content_with(message: MessageId, url: &str) -> String {
    format!("{{\"type\":\"image\",\"text\":\"{message}\",\"mediaUrl\":\"{url}\"}}")
}
