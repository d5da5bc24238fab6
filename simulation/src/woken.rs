//! Who is woken in a run: some clients subscribe to pushes, and change what they want. They have conversations on their
//! screens, read what they were shown, and their devices are sent what was decided.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::{ConversationId, Epoch, LogId, MessageId, Position, Sequence, Timestamp, UserId};
use region_model::push::ports::PushJob;
use region_model::push::{Showing, decides_under};
use region_model::view::{UserState, View};

use crate::disk::Disk;
use crate::history;
use crate::plan::SECOND;
use crate::wishes::Says;
use crate::world::World;

/// Of so many clients one is woken.
const WOKEN: usize = 4;
/// When some of them began to block others: as the run begins.
const BLOCKED: Timestamp = Timestamp(1_800_000_000_000);
/// Of a hundred times that a client does something, it has another conversation on its screen, or none, so often.
const LOOKS_ELSEWHERE: u64 = 15;
/// Of a hundred pushes so many are not taken by their service, and tried again.
const FAILS: u64 = 8;
const AGAIN: u64 = 2 * SECOND;
/// So long after the last trouble everything is decided: wishes are said again, what waits is over, and pushes are sent.
const DECIDED: u64 = 9 * SECOND;

/// How far users have read, under each epoch.
#[derive(Debug, Default)]
pub(crate) struct Reads(BTreeMap<(LogId, UserId), BTreeMap<Epoch, u64>>);

impl Reads {
    /// Takes a cursor; returns whether that is new.
    fn take(&mut self, log: LogId, user: &UserId, Position { epoch, sequence }: Position) -> bool {
        let known = self.0.entry((log, user.clone())).or_default().entry(epoch).or_default();
        let grows = *known < sequence.0;
        *known = sequence.0.max(*known);
        grows
    }

    pub(crate) fn of(&self, log: LogId, user: &UserId) -> Option<Vec<Position>> {
        let of = self.0.get(&(log, user.clone()))?;
        Some(of.iter().map(|(epoch, up_to)| Position { epoch: *epoch, sequence: Sequence(*up_to) }).collect())
    }
}

/// The number of a client by its user.
pub(crate) fn number_of(user: &UserId) -> Option<usize> {
    user.as_str().strip_prefix('u')?.parse().ok()
}

/// Whom a message names, if anybody: its id says it, so that it is the same when it is sent again.
fn mentioned(sender: usize, message: MessageId) -> Option<usize> {
    let [chance, whom] = [message.0.as_bytes()[3], message.0.as_bytes()[4]].map(usize::from);
    (chance % 4 == 0).then_some(sender / 8 * 8 + whom % 8)
}

/// What a message says. `media`: the URL of what it carries.
pub(crate) fn said_by(sender: usize, message: MessageId, media: Option<&str>) -> Bytes {
    let media = media.map_or_else(String::new, |url| format!(",\"mediaUrl\":\"{url}\""));
    let mentions = mentioned(sender, message).map_or_else(String::new, |user| format!(",\"mentions\":[\"u{user}\"]"));
    Bytes::from(format!("{{\"type\":\"text\",\"text\":\"{message}\"{mentions}{media}}}"))
}

impl World {
    pub(crate) fn is_woken(&self, user: &UserId) -> bool {
        number_of(user).is_some_and(|number| number % WOKEN == 1)
    }

    /// Whom a client blocks, if anybody.
    pub(crate) fn blocked_by(&self, client: usize) -> Option<&UserId> {
        (client % (3 * WOKEN) == 1).then(|| &self.clients[(client / 2 * 2 + 1 - client % 2) % self.clients.len()].user)
    }

    /// The record of a client who is woken, with whom it blocks.
    pub(crate) fn with_blocks(&self, state: &Arc<UserState>) -> Option<Arc<UserState>> {
        let number = number_of(&state.user).filter(|_| self.is_woken(&state.user))?;
        let mut state = UserState::clone(state);
        state.privacy.blocks.extend(self.blocked_by(number).map(|user| (user.clone(), BLOCKED)));
        Some(Arc::new(state))
    }

    /// A client who is woken is told of when it names somebody, so that the checker knows.
    pub(crate) fn push_mentions(&mut self, sender: usize, conversation: usize, message: MessageId) {
        let named = mentioned(sender, message).and_then(|number| self.clients.get(number));
        let Some(user) = named.map(|client| client.user.clone()).filter(|user| self.is_woken(user)) else { return };
        let id = self.conversations[conversation].id;
        self.history.add(self.now, history::Event::Names(id, message, user));
    }

    /// A connection has another conversation on its screen.
    pub(crate) fn looks_at(&mut self, id: u64, conversation: Option<usize>) {
        let Some(of) = self.connections.get(&id) else { return };
        let (region, client, device) = (of.region, of.client, of.device);
        let user = self.clients[client].user.clone();
        if !self.is_woken(&user) {
            return;
        }
        let shown = conversation.map(|conversation| self.conversations[conversation].id);
        match conversation {
            Some(conversation) => drop(self.push.screens.insert(id, (conversation, self.now))),
            None => drop(self.push.screens.remove(&id)),
        }
        self.history.add(self.now, history::Event::Screen(user.clone(), shown));
        self.set_screen(region, (id, &user, device), shown);
    }

    /// Before the connection is forgotten.
    pub(crate) fn push_gone(&mut self, id: u64) {
        if self.push.screens.contains_key(&id) {
            self.looks_at(id, None);
        }
    }

    /// A client did something: it has something else on its screen at times, and reads what is there.
    pub(crate) fn push_acts(&mut self, id: u64) {
        let Some(client) = self.connections.get(&id).map(|of| of.client) else { return };
        if !self.is_woken(&self.clients[client].user) {
            return;
        }
        self.wishes_act(id);
        let calm = self.now >= self.plan.calm_at;
        let random = &mut self.push.aside.random;
        if random.percent(LOOKS_ELSEWHERE) && !calm {
            let of = &self.clients[client].conversations;
            let looked_at = of.get(random.below(2 * of.len())).copied();
            let ready = looked_at.filter(|at| self.conversations[*at].ready);
            self.looks_at(id, ready);
        }
        let Some((conversation, _)) = self.push.screens.get(&id).copied() else { return };
        if let Some(up_to) = self.clients[client].cursors.get(&conversation).copied() {
            self.reads_up_to(id, client, conversation, up_to);
        }
    }

    fn reads_up_to(&mut self, id: u64, client: usize, conversation: usize, up_to: Position) {
        let Some(region) = self.connections.get(&id).map(|of| of.region) else { return };
        let (user, of) = (self.clients[client].user.clone(), &self.conversations[conversation]);
        let (log, named) = (of.log, of.id);
        if self.regions[region].reads.take(log, &user, up_to) {
            self.history.add(self.now, history::Event::ReadUpTo(user.clone(), named, up_to));
            self.push_read(region, log, &user);
        }
    }

    /// A region tells the others how far users have read, as receipts are compared between them.
    pub(crate) fn exchange_reads(&mut self, place: usize) {
        let told: Vec<(LogId, UserId, Position)> =
            self.regions[place].reads.0.iter().fold(Vec::new(), |mut told, ((log, user), of)| {
                let at = |(epoch, up_to): (&Epoch, &u64)| Position { epoch: *epoch, sequence: Sequence(*up_to) };
                told.extend(of.iter().map(|part| (*log, user.clone(), at(part))));
                told
            });
        for peer in (0..self.regions.len()).filter(|peer| *peer != place) {
            let weather = self.links.carries(place, peer).map(|(_, weather, _)| weather);
            if weather.is_none_or(|weather| weather.cuts != 0) || !self.regions[peer].runs() {
                continue;
            }
            for (log, user, at) in &told {
                if self.regions[peer].reads.take(*log, user, *at) {
                    self.push_read(peer, *log, user);
                }
            }
        }
    }

    /// What was decided goes out, unless its service does not take it.
    pub(crate) fn send_pushes(&mut self, place: usize) {
        let wall = self.now_of(place).wall;
        let jobs: Vec<_> = self.regions[place].disk.push_jobs.iter().map(|(key, job)| (*key, job.clone())).collect();
        for (key, job) in jobs {
            let Some(task) = &self.regions[place].push else { return };
            if task.tried.get(&key).is_some_and(|until| *until > self.now) {
                continue;
            }
            let is_over = wall >= job.not_after;
            let Some(epoch) = self.still_subscribed(place, &job) else {
                self.regions[place].disk.put_push(key, None);
                continue;
            };
            if !is_over && self.push.aside.random.percent(FAILS) {
                if let Some(task) = &mut self.regions[place].push {
                    task.tried.insert(key, self.now + AGAIN);
                }
                continue;
            }
            self.regions[place].disk.put_push(key, None);
            let (user, conversation, position, subscription) =
                (job.user, job.conversation, job.position, job.subscription);
            let notify = matches!(job.showing, Showing::Notify { .. });
            self.trace.count(self.now, "push-sent", place as u64, u64::from(notify));
            let event = history::Event::PushSent { user, conversation, position, notify, is_over, subscription, epoch };
            self.history.add(self.now, event);
        }
        let of = &mut self.regions[place];
        if let Some(task) = &mut of.push {
            task.tried.retain(|key, _| of.disk.push_jobs.contains_key(key));
        }
    }

    /// Whether the subscription of a job holds still, by the user's record as a region has it; and the epoch under which
    /// that region is the home of it, if it is.
    fn still_subscribed(&self, place: usize, job: &PushJob) -> Option<Option<u64>> {
        let view = self.look(place, LogId::user(&job.user), false);
        let View::User(state) = &view.view else { return None };
        state.push.subscriptions.get(&job.subscription)?;
        Some(decides_under(&self.regions[place].id, &view, state).map(|epoch| epoch.0))
    }

    /// Power fails in a region: the newest of what is kept goes.
    pub(crate) fn push_forgotten(&mut self, place: usize) {
        let disk = &self.regions[place].disk;
        let jobs = disk.unsynced_jobs().into_iter().map(|job| (job.user.clone(), job.conversation)).collect();
        let gone = disk.unsynced_pushes();
        self.jobs_forgotten(jobs);
        for (record, log) in gone {
            self.push_forgets(record, log);
        }
    }

    /// The store of a region is gone, or an older copy of it there.
    pub(crate) fn push_store_gone(&mut self, place: usize, old: &Disk) {
        self.jobs_forgotten(old.push_jobs.values().map(|job| (job.user.clone(), job.conversation)).collect());
        let kept = old.push_kept.keys().chain(self.regions[place].disk.push_kept.keys()).copied();
        for (record, log) in kept.collect::<std::collections::BTreeSet<_>>() {
            self.push_forgets(record, log);
        }
    }

    /// What waited is not sent.
    fn jobs_forgotten(&mut self, of: Vec<(UserId, ConversationId)>) {
        for (user, conversation) in of {
            self.history.add(self.now, history::Event::PushForgot(user, conversation));
        }
    }

    fn push_forgets(&mut self, record: LogId, log: LogId) {
        let client = self.clients.iter().find(|client| LogId::user(&client.user) == record);
        let (Some(user), Some(conversation)) = (client.map(|client| client.user.clone()), log.as_conversation()) else {
            return;
        };
        self.history.add(self.now, history::Event::PushForgot(user, conversation));
    }

    /// Of each conversation and client who is woken what it should have been woken for, once nothing has changed for long
    /// enough.
    pub(crate) fn push_at_the_end(&mut self) {
        let settled = self.push.changed <= self.now.saturating_sub(DECIDED);
        if !settled {
            self.trace.count(self.now, "push-unjudged", 0, 0);
        }
        let woken = self.clients.iter().enumerate().filter(|(_, client)| self.is_woken(&client.user));
        let says: BTreeMap<UserId, Says> =
            woken.map(|(number, client)| (client.user.clone(), self.said_by_record(number))).collect();
        let mut ends = Vec::new();
        for conversation in self.conversations.iter().filter(|of| of.ready) {
            let spans = self.memberships_of(conversation.log);
            for (user, spans) in spans {
                let Some(says) = says.get(&user) else { continue };
                let wants = self.wanted_of(&user, conversation.id, says);
                let decides = self.decides_for(&user, conversation.id).filter(|_| settled);
                ends.push(history::Event::PushEnd { user, conversation: conversation.id, spans, wants, decides });
            }
        }
        ends.into_iter().for_each(|end| self.history.add(self.now, end));
        for (user, says) in says {
            let Says { subscriptions, first_asked, .. } = says;
            self.history.add(self.now, history::Event::Subscribed { user, subscriptions, first_asked });
        }
    }

    /// The home of a user's record and its epoch, where the record says that the user is in a conversation.
    fn decides_for(&self, user: &UserId, conversation: ConversationId) -> Option<(usize, u64)> {
        let placement = self.newest_placement(LogId::user(user))?;
        let View::User(state) = self.folded(LogId::user(user)) else { return None };
        let joined = state.conversations.get(&conversation).is_some_and(|of| of.joined);
        Some((self.place_of(&placement.home)?, placement.epoch.0)).filter(|_| joined)
    }

    /// Who was a member from which number on and, where it ended, up to which.
    fn memberships_of(&self, log: LogId) -> BTreeMap<UserId, Vec<(u64, u64)>> {
        let copies = self.regions.iter().filter_map(|region| region.disk.logs.get(&log));
        let mut spans: BTreeMap<UserId, Vec<(u64, u64)>> = BTreeMap::new();
        let mut view = View::Empty;
        for entry in copies.max_by_key(|copy| copy.length()).into_iter().flat_map(|copy| copy.entries.values()) {
            let before = view.members().cloned();
            view.fold(entry);
            let at = entry.sequence().0;
            let (Some(after), before) = (view.members(), before.unwrap_or_default()) else { continue };
            for user in after.keys().filter(|user| !before.contains_key(*user)) {
                spans.entry(user.clone()).or_default().push((at, u64::MAX));
            }
            for user in before.keys().filter(|user| !after.contains_key(*user)) {
                if let Some(last) = spans.get_mut(user).and_then(|spans| spans.last_mut()) {
                    last.1 = at;
                }
            }
        }
        spans
    }
}
