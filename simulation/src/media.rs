//! Media in a run, at the regions: sweeps, looks for uses and the decisions who may have them, as they ship, driven in the
//! order of `region-core/src/media/`. What they draw is apart from the chat's.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use hearth_protocol::media::MediaId;
use hearth_protocol::record::MediaScanRecord;
use hearth_protocol::{ConversationId, LogId, MessageId, Position, SealedEntry, UserId};
use region_model::LogView;
use region_model::media::ports::{MediaObject, StoredMedia};
use region_model::media::{
    Fate, LookThrough, Looked, MediaKnown, MediaRules, Shown, ShownStep, Standing, Sweep, SweepStep, SweepTold, Trace,
    TraceQuestion, Traced, arrived, given_content, used_by,
};
use region_model::seen::seen;
use region_model::view::{Forgotten, Present, View, is_expired};

use crate::history::{self, MediaAnswer};
use crate::random::Random;
use crate::uploads::{Asked, Upload};
use crate::world::World;

/// How long media stay that no message carries, in milliseconds.
pub(crate) const UNUSED_FOR: u64 = 30_000;
/// How long an upload may wait to begin, and how long it may last.
pub(crate) const UPLOAD_FOR: u64 = 3_000;
/// A day of retention, in milliseconds: what was put apart by a failover stays for longer than any run.
const DAY: u64 = 24 * 3_600_000;
/// Steps of a sweep between two looks at the time, at most.
const STEPS: u64 = 8;
/// Of a hundred bytes that are to go so many do not yet.
const FAILS: u64 = 5;
/// Rows, records and objects of a page.
const PAGE: usize = 8;
/// Entries of one read of a log.
const READ: u64 = 256;

/// What the run keeps of media.
#[derive(Debug)]
pub(crate) struct Media {
    pub(crate) random: Random,
    pub(crate) rules: MediaRules,
    /// Everything that clients put.
    pub(crate) put: BTreeMap<MediaObject, Upload>,
    /// When whoever holds each conversation was asked last what became of its media, by the region of those.
    asked_at: BTreeMap<(usize, ConversationId), u64>,
    /// What is to go.
    pub(crate) asked: Asked,
    /// The latest time that a clock showed when something was decided, in milliseconds.
    pub(crate) latest: u64,
}

impl Media {
    pub(crate) fn new(seed: u64) -> Self {
        let rules = MediaRules {
            item_bytes: 1 << 20,
            content_types: vec!["image/png".to_owned()],
            kept_bytes: 1 << 40,
            kept_items: 1 << 20,
            unused_of_user: 1 << 10,
            unused_for: UNUSED_FOR,
            upload_for: UPLOAD_FOR,
            upload_lasts: UPLOAD_FOR,
            link_for: UPLOAD_FOR,
        };
        let (random, put, asked_at) = (Random::of(seed, "media", 0), BTreeMap::new(), BTreeMap::new());
        Self { random, rules, put, asked_at, asked: Asked::default(), latest: 0 }
    }
}

/// What is in the memory of a region.
#[derive(Debug, Default)]
pub(crate) struct MediaTask {
    sweep: Option<Sweep>,
    has_compared: bool,
}

impl World {
    /// A region starts: what lies in its store is compared with its records.
    pub(crate) fn media_start(&mut self, place: usize) {
        let sweep = Some(Sweep::new(true));
        self.regions[place].media = Some(MediaTask { sweep, has_compared: false });
    }

    /// Contents were taken away at a region: what they carried follows.
    pub(crate) fn media_swept(&mut self, place: usize) {
        let wall = self.now_of(place).wall.0;
        self.media.latest = self.media.latest.max(wall);
        let Some(task) = &mut self.regions[place].media else { return };
        if task.sweep.is_none() {
            task.sweep = Some(Sweep::new(!task.has_compared));
        }
    }

    /// A sweep goes on; a crash may come between any two of its steps.
    pub(crate) fn media_round(&mut self, place: usize) {
        let under_way = |world: &Self| world.regions[place].media.as_ref().is_some_and(|task| task.sweep.is_some());
        if !under_way(self) {
            return;
        }
        for _ in 0..self.media.random.between(1, STEPS) {
            self.media_step(place);
            if !under_way(self) {
                return;
            }
        }
    }

    fn media_step(&mut self, place: usize) {
        let step = self.regions[place].media.as_ref().and_then(|task| task.sweep.as_ref()?.step());
        let told = step.map(|step| self.sweep_step(place, step));
        let now = self.now_of(place).wall;
        let rules = &self.media.rules;
        let Some(task) = &mut self.regions[place].media else { return };
        match (told, &mut task.sweep) {
            (Some(told), Some(sweep)) => sweep.take(told, now, rules),
            _ => task.sweep = None,
        }
        task.has_compared |= task.sweep.as_ref().is_none_or(Sweep::has_compared);
    }

    fn sweep_step(&mut self, place: usize, step: SweepStep) -> SweepTold {
        let disk = &self.regions[place].disk;
        match step {
            SweepStep::Objects(after) => {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                SweepTold::Objects(Some(
                    disk.bytes.range((from, Bound::Unbounded)).map(|(object, _)| *object).take(PAGE).collect(),
                ))
            }
            SweepStep::IsKnown(object) => SweepTold::Is(disk.media.contains_key(&object)),
            SweepStep::Conversation(after) => {
                let last = |conversation| MediaObject { conversation, id: uuid::Uuid::max() };
                let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(last(after)));
                let next = disk.media.range((from, Bound::Unbounded)).next();
                SweepTold::Conversation(next.map(|(object, _)| object.conversation))
            }
            SweepStep::Page(conversation, after) => {
                let of = |id| MediaObject { conversation, id };
                let from = after.map_or(Bound::Included(of(uuid::Uuid::nil())), |after| Bound::Excluded(of(after)));
                let page = disk.media.range((from, Bound::Included(of(uuid::Uuid::max()))));
                SweepTold::Items(page.map(|(object, record)| (*object, Some(record.clone()))).take(PAGE).collect())
            }
            SweepStep::Look(conversation, _) => SweepTold::Looked(self.look_for_uses(place, conversation, true)),
            SweepStep::Trace(conversation, _, uses) => SweepTold::Traced(self.trace_uses(place, conversation, uses)),
            SweepStep::Stat(object) => {
                let stored = |size: &u64| StoredMedia { size: *size, content_type: None };
                SweepTold::Stored(Some(disk.bytes.get(&object).map(stored)))
            }
            SweepStep::IsSame(object, known) => SweepTold::Is(disk.media.get(&object) == Some(&known)),
            SweepStep::Delete(object) => SweepTold::Is(self.delete_bytes(place, object)),
            SweepStep::Put(object, known, record) => {
                if disk.media.get(&object) == Some(&known) {
                    self.regions[place].disk.put_media(object, record);
                }
                SweepTold::Done
            }
            SweepStep::ForgetScan(conversation) => {
                if !disk.media.keys().any(|object| object.conversation == conversation) {
                    self.regions[place].disk.put_scan(conversation, None);
                }
                SweepTold::Done
            }
        }
    }

    fn delete_bytes(&mut self, place: usize, object: MediaObject) -> bool {
        if self.media.random.percent(FAILS) {
            return false;
        }
        if self.regions[place].disk.bytes.remove(&object).is_some() {
            self.trace.count(self.now, "media-taken", place as u64, 0);
            let shown = self.shown_anywhere(object);
            let asked_at = self.media.asked_at.get(&(place, object.conversation)).copied().unwrap_or(0);
            self.history.add(self.now, history::Event::MediaTaken { media: object, shown, asked_at });
        }
        true
    }

    fn trace_uses(&mut self, place: usize, conversation: ConversationId, uses: Vec<Position>) -> Traced {
        let Some(scan) = self.regions[place].disk.scans.get(&conversation).copied() else {
            return Traced::NothingLookedFor;
        };
        let question =
            TraceQuestion { region: self.regions[place].id.clone(), scanned: scan.scanned, uses, judges: true };
        self.media.asked_at.insert((place, conversation), self.now);
        self.trace_media(place, conversation, &question, true).map_or(Traced::OutOfReach, Traced::Said)
    }

    /// Looks through what is new in a conversation for media of a region. Returns whether there is more, if anybody can say.
    fn look_for_uses(&mut self, place: usize, conversation: ConversationId, pass_on: bool) -> Option<bool> {
        let Some(scan) = self.regions[place].disk.scans.get(&conversation).copied() else { return Some(false) };
        let question = TraceQuestion {
            region: self.regions[place].id.clone(),
            scanned: scan.scanned,
            uses: Vec::new(),
            judges: false,
        };
        let looked = self.trace_media(place, conversation, &question, pass_on)?.looked;
        let disk = &mut self.regions[place].disk;
        for (position, id, carrier) in looked.uses() {
            let object = MediaObject { conversation, id };
            let Some(mut record) = disk.media.get(&object).cloned() else { continue };
            if used_by(&mut record, position, carrier) {
                disk.put_media(object, Some(record));
                if let (Some(put), Some(carrier)) = (self.media.put.get_mut(&object), carrier) {
                    put.noted.insert((MessageId(carrier), position));
                }
            }
        }
        if looked.scanned != scan.scanned {
            disk.put_scan(conversation, Some(MediaScanRecord { scanned: looked.scanned }));
        }
        Some(looked.more)
    }

    /// The region that is asked for what is not here: the first that a link leads to. `None` where it does not answer.
    fn asks(&mut self, place: usize, view: &LogView) -> Option<usize> {
        let me = self.regions[place].id.clone();
        let holders: Vec<usize> = view.holders(&me).filter_map(|region| self.place_of(region)).collect();
        let holder = holders.into_iter().find(|to| self.links.carries(place, *to).is_some())?;
        self.answers(place, holder).then_some(holder)
    }

    /// Whether a question of a region to another one is answered.
    pub(crate) fn answers(&mut self, place: usize, to: usize) -> bool {
        self.regions[to].runs() && self.links.calls(place, to)
    }

    /// What the log says about a region's media, here or at whoever holds the conversation.
    fn trace_media(
        &mut self,
        place: usize,
        conversation: ConversationId,
        question: &TraceQuestion,
        pass_on: bool,
    ) -> Option<Trace> {
        let log = LogId::conversation(conversation);
        let view = self.look(place, log, pass_on);
        if question.is_answered_at(&self.regions[place].id, &view) {
            return self.trace_here(place, conversation, &view, question);
        }
        let to = self.asks(place, &view).filter(|_| pass_on)?;
        let view = self.look(to, log, false);
        let answered = question.is_answered_at(&self.regions[to].id, &view);
        if answered { self.trace_here(to, conversation, &view, question) } else { None }
    }

    fn trace_here(
        &mut self,
        place: usize,
        conversation: ConversationId,
        view: &LogView,
        question: &TraceQuestion,
    ) -> Option<Trace> {
        let now = self.now_of(place).wall;
        self.media.latest = self.media.latest.max(now.0);
        let (log, disk) = (LogId::conversation(conversation), &self.regions[place].disk);
        let standing = |position: &Position| {
            let entry = disk.entry(log, position.sequence.0);
            Standing::of(*position, entry.map(AsRef::as_ref), view.floor, now)
        };
        let standings = question.uses.iter().map(standing).collect();
        let of = (conversation, &question.region);
        let looked = self.look_through(place, of, view, question.scanned, question.judges)?;
        Some(TraceQuestion::answer(&self.regions[place].id, view, standings, looked, DAY))
    }

    fn look_through(
        &self,
        place: usize,
        (conversation, region): (ConversationId, &hearth_protocol::RegionId),
        view: &LogView,
        scanned: Option<Position>,
        judged: bool,
    ) -> Option<Looked> {
        let (log, disk) = (LogId::conversation(conversation), &self.regions[place].disk);
        let there = scanned.and_then(|at| disk.entry(log, at.sequence.0));
        let look = LookThrough::new(view, (conversation, region), scanned, there.map(AsRef::as_ref))?;
        let mut look = if judged { look.judging(view) } else { look };
        while let Some((from, to, _)) = look.reads() {
            if !look.take(&disk.read(log, from, to.min(from + READ))) {
                return None;
            }
        }
        Some(look.found())
    }

    /// A user asks at a region for media.
    pub(crate) fn ask_for_media(&mut self, place: usize, user: &UserId, conversation: ConversationId, media: &MediaId) {
        let object = MediaObject { conversation, id: media.id };
        let log = LogId::conversation(conversation);
        let view = self.look(place, log, true);
        let given = match self.place_of(&media.region) {
            Some(at) if at == place || self.answers(place, at) => self.give_media(at, object),
            _ => Err(MediaAnswer::Later),
        };
        let known = given.as_ref().ok();
        let me = &self.regions[place].id;
        let here = known.map_or(view.is_read_at(me), |known| known.is_judged_at(me, &view));
        let judge = if here { Some(place) } else { self.asks(place, &view) };
        let view = match judge.filter(|judge| *judge != place) {
            Some(judge) => self.look(judge, log, false),
            None => view,
        };
        let of = judge.map(|judge| &self.regions[judge].id);
        let can = of.is_some_and(|of| known.map_or(view.is_read_at(of), |known| known.is_judged_at(of, &view)));
        let Some(judge) = judge.filter(|_| can) else { return };
        let (is_member, answer) = match (seen(&view, user), given) {
            (Err(_), _) => (false, MediaAnswer::NotShown),
            (Ok(_), Err(answer)) => (true, answer),
            (Ok(of), Ok(known)) => {
                let shown = Shown::new(conversation, media, &known, user, &of);
                (true, self.judge(judge, (conversation, media), &view, shown))
            }
        };
        let from_to = seen(&view, user).map_or((0, 0), |of| (of.from, of.to));
        let carrying = self.carried_at(judge, &view, object);
        let shown = carrying.iter().filter(|(number, ..)| (from_to.0..from_to.1).contains(number));
        let shown = shown.map(|(_, entry, _)| *entry).collect();
        let is_own = self.media.put.get(&object).is_some_and(|put| self.clients[put.by].user == *user);
        self.trace.count(self.now, "media-asked", place as u64, u64::from(is_member));
        let user = user.clone();
        let event = history::Event::MediaAsked { user, media: object, answer, is_member, shown, is_own };
        self.history.add(self.now, event);
    }

    /// A link to media, with what is known of their uses.
    fn give_media(&mut self, at: usize, object: MediaObject) -> Result<MediaKnown, MediaAnswer> {
        let now = self.now_of(at).wall;
        let disk = &mut self.regions[at].disk;
        let Some(mut record) = disk.media.get(&object).cloned() else { return Err(MediaAnswer::None) };
        if !record.stored {
            let stored = disk.bytes.get(&object).map(|size| StoredMedia { size: *size, content_type: None });
            if arrived(&mut record, stored.as_ref(), now, &self.media.rules) == Fate::Goes || !record.stored {
                return Err(MediaAnswer::None);
            }
            disk.put_media(object, Some(record));
        }
        self.look_for_uses(at, object.conversation, false);
        let disk = &self.regions[at].disk;
        let record = disk.media.get(&object).ok_or(MediaAnswer::None)?;
        let scanned = disk.scans.get(&object.conversation).copied().unwrap_or_default().scanned;
        Ok(MediaKnown { uploader: record.uploader.clone(), uses: record.uses.clone(), scanned })
    }

    /// What a region that holds the conversation says.
    fn judge(&self, place: usize, of: (ConversationId, &MediaId), view: &LogView, mut shown: Shown) -> MediaAnswer {
        let (conversation, media) = of;
        let object = MediaObject { conversation, id: media.id };
        loop {
            match shown.step() {
                ShownStep::Look(scanned) => {
                    let looked = self.look_through(place, (conversation, &media.region), view, scanned, false);
                    let Some(looked) = looked else { return MediaAnswer::Later };
                    shown.looked(&looked);
                }
                ShownStep::Row(number) => {
                    let content = self
                        .shown_at(place, LogId::conversation(conversation), view, number)
                        .and_then(|entry| given_content(&entry));
                    shown.read(number, content.as_deref());
                }
                ShownStep::Known(Ok(())) => {
                    let has_bytes = self.place_of(&media.region).is_some_and(|at| self.has_bytes(at, object));
                    return MediaAnswer::Given(has_bytes);
                }
                ShownStep::Known(Err(refusal)) if refusal.retry_after.is_some() => return MediaAnswer::Later,
                ShownStep::Known(Err(_)) => return MediaAnswer::NotShown,
            }
        }
    }

    pub(crate) fn has_bytes(&self, at: usize, object: MediaObject) -> bool {
        self.regions[at].disk.bytes.contains_key(&object)
    }

    /// The entry whose content the row of a number shows at a region: the message, or the last edit of it.
    fn shown_at(&self, place: usize, log: LogId, view: &LogView, number: u64) -> Option<Arc<SealedEntry>> {
        let View::Conversation(state) = &view.view else { return None };
        let stored = self.regions[place].disk.logs.get(&log)?;
        let entry = stored.entries.get(&number)?;
        shown_in(entry, &state.forgotten, self.now_of(place).wall, view.shown(), stored)
    }

    /// The entries that carry media and are shown at a region: number, id, and the message's.
    pub(crate) fn carried_at(
        &self,
        place: usize,
        view: &LogView,
        object: MediaObject,
    ) -> Vec<(u64, MessageId, MessageId)> {
        let Some(put) = self.media.put.get(&object) else { return Vec::new() };
        let log = LogId::conversation(object.conversation);
        let Some(stored) = self.regions[place].disk.logs.get(&log) else { return Vec::new() };
        let id = |entry: &Arc<SealedEntry>| MessageId(entry.entry.fixed.id);
        let named = |entry: &&Arc<SealedEntry>| put.carried.contains_key(&id(entry));
        let shown = |entry: &Arc<SealedEntry>| {
            let View::Conversation(state) = &view.view else { return false };
            let of = shown_in(entry, &state.forgotten, self.now_of(place).wall, view.shown(), stored);
            of.is_some_and(|shown| shown.hash == entry.hash)
        };
        let below = stored.entries.range(..view.shown()).map(|(_, entry)| entry).filter(named);
        let shown = below.filter(|entry| shown(entry));
        shown.map(|entry| (entry.sequence().0, id(entry), put.carried[&id(entry)])).collect()
    }
}

/// The entry whose content is shown in the row of an entry, by what was done below a number to the message that it is,
/// or changes.
fn shown_in(
    entry: &Arc<SealedEntry>,
    forgotten: &Forgotten,
    now: hearth_protocol::Timestamp,
    below: u64,
    stored: &crate::disk::StoredLog,
) -> Option<Arc<SealedEntry>> {
    let changed = entry.change_of_message().map(|(target, _)| target);
    let number = changed.unwrap_or_else(|| entry.sequence().0);
    let message = stored.entries.get(&number)?;
    let hidden = |entry: &SealedEntry| forgotten.hides(entry) || is_expired(entry, now) || entry.content().is_none();
    let of_it = stored.changes.values().filter(|change| change.target == number && change.position.sequence.0 < below);
    let present = Present::of(of_it);
    if present.is_deleted() || number < forgotten.floor() || hidden(entry) || hidden(message) {
        return None;
    }
    let edit = present.edit().map(|(_, at)| at);
    match (edit, changed) {
        (Some(at), Some(_)) if at != entry.entry.fixed.position => None,
        (Some(at), None) => stored.entries.get(&at.sequence.0).filter(|edit| !hidden(edit)).cloned(),
        _ => Some(Arc::clone(entry)),
    }
}
