//! Typing in a run: the decisions that ship, driven as `region-core/src/typing.rs` drives them, and clients that type,
//! look at conversations and put them aside. What it draws and sends is apart from the chat's, so that a seed's chat stays
//! as it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hearth_protocol::ids::direct_conversation;
use hearth_protocol::{ConversationId, LogId, Timestamp, UserId, mesh};
use region_model::typing::{Heard, Offered, Screen, Telling, TypingBook, Update, body, is_withheld};
use region_model::view::{Members, PrivacyState};

use crate::clients::Conversation;
use crate::history::{self, SessionId};
use crate::network::Aside;
use crate::plan::{FaultKind, SECOND};
use crate::world::{Event, World};

/// Users who type at a time in a region, as the product has it.
const MOST: usize = 16_384;
/// As `limits.typing_for` is without a configuration, in milliseconds.
const TYPING_FOR: u64 = 5_000;
/// Of a hundred times that a client does something, it does so often each of these.
const LOOKS_ELSEWHERE: u64 = 8;
const LOOKS_AT_NOTHING: u64 = 15;
const GOES_ASIDE: u64 = 3;
const COMES_BACK: u64 = 25;
const STARTS: u64 = 5;
const STARTS_ELSEWHERE: u64 = 10;
const STOPS: u64 = 12;
const FALLS_SILENT: u64 = 8;
/// Of the direct conversations one in so many is of two of whom one blocks the other.
const BLOCKED: usize = 5;
/// So long after a start everybody in reach is told: two frames, and a second at the regions on the way.
const TOLD_WITHIN: u64 = 3 * SECOND;
/// Whoever is in reach has been there for so long.
const SETTLED: u64 = 8 * SECOND;

/// What comes to a region from a session.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    /// It starts to type in a conversation, or stops.
    Types(usize, bool),
    /// It has another conversation in view, or none.
    Views(Option<usize>),
    /// It goes to the background, or comes back.
    Aside(bool),
}

/// A start of which is asked later whether those in reach were told.
#[derive(Clone, Copy, Debug)]
struct Start {
    at: u64,
    client: usize,
    conversation: usize,
    /// Where it was said, and the home then.
    region: usize,
    home: usize,
}

/// What the run keeps of it.
#[derive(Debug)]
pub(crate) struct Typing {
    aside: Aside,
    /// What each connection has in view.
    screens: BTreeMap<u64, Screen<(UserId, bool)>>,
    /// When each connection came.
    came: BTreeMap<u64, u64>,
    /// Where a connection's client types.
    types: BTreeMap<u64, usize>,
    /// What users withhold in their direct conversations: the same all the time.
    privacy: BTreeMap<UserId, PrivacyState>,
    starts: VecDeque<Start>,
    /// When a conversation got another home.
    moved: BTreeMap<LogId, u64>,
    /// Guests whose removal a region has shown.
    out: BTreeSet<(usize, usize)>,
}

impl Typing {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            aside: Aside::new(seed, "typing"),
            screens: BTreeMap::new(),
            came: BTreeMap::new(),
            types: BTreeMap::new(),
            privacy: BTreeMap::new(),
            starts: VecDeque::new(),
            moved: BTreeMap::new(),
            out: BTreeSet::new(),
        }
    }

    /// What a user withholds in its direct conversations.
    pub(crate) fn privacy_of(&self, user: &UserId) -> Option<&PrivacyState> {
        self.privacy.get(user)
    }

    /// A placement of a newer epoch is somewhere.
    pub(crate) fn has_moved(&mut self, log: LogId, now: u64) {
        self.moved.insert(log, now);
    }
}

impl World {
    /// Of some direct conversations one blocks the other.
    pub(crate) fn typing_begins(&mut self) {
        let mut blocks = Vec::new();
        for one in 0..self.clients.len() {
            for other in one + 1..self.clients.len() {
                let (user, blocked) = (&self.clients[one].user, &self.clients[other].user);
                let id = direct_conversation(user, blocked);
                let number = self.by_log.get(&LogId::conversation(id)).copied();
                if number.is_some_and(|number| number.is_multiple_of(BLOCKED)) {
                    blocks.push((id, user.clone(), blocked.clone()));
                }
            }
        }
        for (id, user, blocked) in blocks {
            let of = self.typing.privacy.entry(user.clone()).or_default();
            of.blocks.insert(blocked.clone(), Timestamp(1));
            self.typing.privacy.entry(blocked.clone()).or_default().blocked_by.insert(user.clone());
            self.history.add(self.now, history::Event::Blocks(id, user, blocked));
        }
    }

    /// A region starts: nobody types.
    pub(crate) fn typing_start(&mut self, place: usize) {
        self.regions[place].typing = Some(TypingBook::new(MOST, TYPING_FOR));
        self.forget_removals(|(at, _)| *at == place);
    }

    /// A fault begins, or ends, with the others as they stand.
    pub(crate) fn typing_troubled(&mut self, kind: FaultKind, begins: bool) {
        if let FaultKind::Pause(region) = kind
            && self.regions[region].paused == u32::from(!begins)
        {
            self.history.add(self.now, history::Event::StandsStill(region, begins));
        }
    }

    fn forget_removals(&mut self, which: impl Fn(&(usize, usize)) -> bool) {
        let forgotten: Vec<(usize, usize)> = self.typing.out.iter().filter(|out| which(out)).copied().collect();
        for (place, conversation) in forgotten {
            self.note_removal(place, conversation, false);
        }
    }

    /// A region has shown that a guest was removed, or that is not sure any more.
    fn note_removal(&mut self, place: usize, conversation: usize, is_out: bool) {
        let key = (place, conversation);
        let news = if is_out { self.typing.out.insert(key) } else { self.typing.out.remove(&key) };
        let of = &self.conversations[conversation];
        if let Some(guest) = of.guest.filter(|_| news) {
            let (id, user) = (of.id, self.clients[guest].user.clone());
            for connection in self.regions[place].sessions.get(&user).into_iter().flatten().filter(|_| is_out) {
                self.typing.screens.entry(*connection).or_default().left(id);
            }
            self.history.add(self.now, history::Event::ShownOut { region: place, conversation: id, user, is_out });
        }
    }

    /// A region shows an entry to these.
    pub(crate) fn typing_delivered(&mut self, place: usize, log: LogId, audience: &Members) {
        let Some(conversation) = self.by_log.get(&log).copied() else { return };
        let of = &self.conversations[conversation];
        let Some(guest) = of.guest else { return };
        let is_out = !audience.contains_key(&self.clients[guest].user);
        // Once somebody asks that the guest is a member again, some regions know before they show even the removal.
        let is_removed = of.churn.as_ref().map_or(!of.guest_is_in, |(_, comes, _)| !comes);
        if is_removed || !is_out {
            self.note_removal(place, conversation, is_out);
        }
    }

    /// Somebody asks that a guest is a member again, or what a region has shown leaves the line.
    pub(crate) fn typing_unsure(&mut self, log: LogId) {
        let Some(conversation) = self.by_log.get(&log).copied() else { return };
        self.forget_removals(|(_, of)| *of == conversation);
    }

    /// Somebody asks that a guest is removed, or it is a member again.
    pub(crate) fn typing_leaves(&mut self, conversation: usize, leaves: bool) {
        let Conversation { id, guest, .. } = self.conversations[conversation];
        if let Some(user) = guest.map(|guest| self.clients[guest].user.clone()) {
            self.history.add(self.now, history::Event::Leaves(id, user, leaves));
        }
    }

    pub(crate) fn typing_connected(&mut self, id: u64) {
        self.typing.screens.insert(id, Screen::default());
        self.typing.came.insert(id, self.now);
        self.looks_elsewhere(id);
    }

    /// Before the connection is forgotten.
    pub(crate) fn typing_gone(&mut self, id: u64) {
        if self.typing.screens.contains_key(&id) {
            self.note_view(id, None, false);
            self.typing.screens.remove(&id);
            self.typing.came.remove(&id);
            self.typing.types.remove(&id);
        }
    }

    fn note_view(&mut self, id: u64, conversation: Option<ConversationId>, aside: bool) {
        let Some(of) = self.connections.get(&id) else { return };
        let (session, region, user) = (of.session, of.region, self.clients[of.client].user.clone());
        self.history.add(self.now, history::Event::InView { session, user, region, conversation, aside });
    }

    /// A client did something: at times it types, goes on, stops or falls silent, and looks elsewhere or at nothing.
    pub(crate) fn typing_acts(&mut self, id: u64) {
        let random = &mut self.typing.aside.random;
        if random.percent(LOOKS_ELSEWHERE) {
            self.looks_elsewhere(id);
        }
        let Some(screen) = self.typing.screens.get(&id) else { return };
        let aside = screen.in_view().is_none();
        let random = &mut self.typing.aside.random;
        if random.percent(if aside { COMES_BACK } else { GOES_ASIDE }) {
            return self.typing_say(id, Said::Aside(!aside));
        }
        match self.typing.types.get(&id).copied() {
            Some(_) if random.percent(FALLS_SILENT) => drop(self.typing.types.remove(&id)),
            Some(conversation) if random.percent(STOPS) => {
                self.typing.types.remove(&id);
                self.typing_say(id, Said::Types(conversation, false));
                // It may change its mind at once.
                if self.typing.aside.random.percent(STOPS) {
                    self.typing_say(id, Said::Types(conversation, true));
                }
            }
            Some(conversation) => self.typing_say(id, Said::Types(conversation, true)),
            None if random.percent(STARTS) => self.starts_to_type(id),
            None => {}
        }
    }

    fn looks_elsewhere(&mut self, id: u64) {
        let random = &mut self.typing.aside.random;
        let nothing = random.percent(LOOKS_AT_NOTHING);
        let conversation = if nothing { None } else { self.one_of(id) };
        self.typing_say(id, Said::Views(conversation));
    }

    /// One of the conversations of a connection's client.
    fn one_of(&mut self, id: u64) -> Option<usize> {
        let client = self.connections.get(&id)?.client;
        let of = &self.clients[client].conversations;
        let one = of.get(self.typing.aside.random.below(of.len().max(1))).copied()?;
        self.conversations[one].ready.then_some(one)
    }

    fn starts_to_type(&mut self, id: u64) {
        let viewed = self.typing.screens.get(&id).and_then(Screen::in_view);
        let viewed = viewed.and_then(|viewed| self.by_log.get(&LogId::conversation(viewed)).copied());
        let elsewhere = self.typing.aside.random.percent(STARTS_ELSEWHERE);
        let Some(conversation) = (if elsewhere { self.one_of(id) } else { viewed }) else { return };
        self.typing.types.insert(id, conversation);
        self.typing_say(id, Said::Types(conversation, true));
    }

    fn typing_say(&mut self, connection: u64, said: Said) {
        let Some(region) = self.connections.get(&connection).map(|of| of.region) else { return };
        let start = self.regions[region].start;
        self.after(0, Event::Typing { region, start, connection, said });
    }

    /// A word of a session comes to its region.
    pub(crate) fn typing_said(&mut self, place: usize, id: u64, said: Said) {
        let writes = self.writes_under_way();
        match said {
            Said::Types(conversation, typing) => self.takes_word(place, id, conversation, typing),
            Said::Views(conversation) => self.takes_view(place, id, conversation),
            Said::Aside(aside) => self.goes_aside(id, aside),
        }
        self.typing_over(place);
        self.typing_wrote(writes);
    }

    fn writes_under_way(&self) -> usize {
        self.regions.iter().map(|region| region.writes.len()).sum()
    }

    fn typing_wrote(&mut self, before: usize) {
        if self.writes_under_way() != before {
            self.broken.push("something of typing goes to a store".to_owned());
        }
    }

    fn takes_word(&mut self, place: usize, id: u64, conversation: usize, typing: bool) {
        let Some(of) = self.connections.get(&id) else { return };
        let (session, client) = (of.session, of.client);
        let Conversation { id: named, log, .. } = self.conversations[conversation];
        let (user, now) = (self.clients[client].user.clone(), self.now_of(place).monotonic);
        let view = self.look(place, log, true);
        let Some(book) = &mut self.regions[place].typing else { return };
        let Ok(update) = book.said((log, &view), &user, typing, now) else { return };
        self.trace.count(self.now, "typed", place as u64, u64::from(typing));
        self.history.add(self.now, history::Event::Typed { session, user, conversation: named, typing });
        if let Some(home) = self.home_of(conversation).filter(|_| typing) {
            let start = Start { at: self.now, client, conversation, region: place, home };
            self.typing.starts.push_back(start);
        }
        if let Some(update) = update {
            self.tell_typing(place, &update);
        }
    }

    fn takes_view(&mut self, place: usize, id: u64, conversation: Option<usize>) {
        let Some(client) = self.connections.get(&id).map(|of| of.client) else { return };
        let named = conversation.map(|conversation| self.conversations[conversation].id);
        let Some(screen) = self.typing.screens.get_mut(&id) else { return };
        screen.set_view(named);
        let aside = screen.is_aside();
        self.note_view(id, named, aside);
        let (Some(conversation), Some(named)) = (conversation, named) else { return };
        let (log, user) = (self.conversations[conversation].log, self.clients[client].user.clone());
        let view = self.look(place, log, true);
        let Some(book) = &self.regions[place].typing else { return };
        let Ok(users) = book.viewed((log, &view), &user, self.typing.privacy.get(&user)) else { return };
        for user in users {
            self.offer_typing(id, named, &user, true);
        }
    }

    fn goes_aside(&mut self, id: u64, aside: bool) {
        let Some(screen) = self.typing.screens.get_mut(&id) else { return };
        let told: Vec<(UserId, bool)> = screen.set_background(aside).collect();
        let viewed = screen.viewed();
        self.note_view(id, viewed, aside);
        for (user, typing) in told {
            if let Some(conversation) = viewed {
                self.typing_told(id, conversation, user, typing);
            }
        }
    }

    fn offer_typing(&mut self, id: u64, conversation: ConversationId, user: &UserId, typing: bool) {
        let Some(screen) = self.typing.screens.get_mut(&id) else { return };
        if screen.offer(conversation, user, typing, || (user.clone(), typing)) == Offered::Now {
            self.typing_told(id, conversation, user.clone(), typing);
        }
    }

    fn typing_told(&mut self, id: u64, conversation: ConversationId, user: UserId, typing: bool) {
        let Some(session) = self.connections.get(&id).map(|of| of.session) else { return };
        self.trace.count(self.now, "typing-told", id, u64::from(typing));
        self.history.add(self.now, history::Event::TypingTold { session, user, conversation, typing });
    }

    /// Another region tells.
    pub(crate) fn typing_frame(&mut self, place: usize, from: usize, frame: &mesh::Typing) {
        let Some(heard) = Heard::of(frame) else { return };
        let writes = self.writes_under_way();
        let (view, now) = (self.look(place, heard.log, false), self.now_of(place).monotonic);
        let peer = self.regions[from].id.clone();
        let book = self.regions[place].typing.as_mut();
        if let Some(update) = book.and_then(|book| book.told(&heard, &peer, &view, now)) {
            self.tell_typing(place, &update);
        }
        self.typing_wrote(writes);
    }

    /// Sessions of a region are told, and other regions.
    fn tell_typing(&mut self, place: usize, update: &Update) {
        let view = self.look(place, update.log, false);
        let me = self.regions[place].id.clone();
        let telling = Telling::of(update, &view, &me);
        if let Some((conversation, members)) = telling.audience {
            let typing = &self.typing.privacy;
            let told = |user: &&UserId| {
                let privacy = typing.get(*user);
                **user != update.user && !is_withheld((conversation, members), user, &update.user, privacy)
            };
            let sessions = &self.regions[place].sessions;
            let here = members.keys().filter(told).filter_map(|user| sessions.get(user)).flatten();
            for id in here.copied().collect::<Vec<u64>>() {
                self.offer_typing(id, conversation, &update.user, update.typing);
            }
        }
        for peer in telling.peers {
            let Some(to) = self.place_of(peer) else { continue };
            self.send_aside(|world| &mut world.typing.aside, "typing", (place, to), body(update));
        }
    }

    /// What is over, or may be told again.
    fn typing_over(&mut self, place: usize) {
        let now = self.now_of(place).monotonic;
        let Some(book) = self.regions[place].typing.as_mut() else { return };
        if book.due().is_none_or(|due| due > now) {
            return;
        }
        for update in book.expire(now) {
            self.tell_typing(place, &update);
        }
    }

    /// Does what is due in a region.
    pub(crate) fn typing_round(&mut self, place: usize) {
        self.typing_over(place);
        while let Some(start) = self.typing.starts.front().copied().filter(|start| start.at + TOLD_WITHIN <= self.now) {
            self.typing.starts.pop_front();
            self.ask_who_was_told(start);
        }
    }

    /// Who should have been told of a start: sessions between which and its region there has been nothing for long.
    fn ask_who_was_told(&mut self, start: Start) {
        let Start { at, client, conversation, region, home } = start;
        let of = &self.conversations[conversation];
        let since = at.saturating_sub(SETTLED);
        let calm = |one, other| self.untroubled(one, other).is_some_and(|calm| calm <= since);
        let moved = self.typing.moved.get(&of.log).is_some_and(|moved| *moved > since);
        if moved || !calm(region, home) || self.home_of(conversation) != Some(home) || of.guest == Some(client) {
            return;
        }
        let settled = |(id, came): (&u64, &u64)| -> Option<SessionId> {
            let connection = self.connections.get(id).filter(|_| *came <= since)?;
            let is_in = self.clients[connection.client].conversations.contains(&conversation);
            let sure = is_in && of.guest != Some(connection.client) && connection.client != client;
            (sure && calm(home, connection.region)).then_some(connection.session)
        };
        let sessions: Vec<SessionId> = self.typing.came.iter().filter_map(settled).collect();
        let (user, conversation) = (self.clients[client].user.clone(), of.id);
        self.trace.count(self.now, "typing-asked", client as u64, sessions.len() as u64);
        self.history.add(self.now, history::Event::TypingReached { user, conversation, since: at, sessions });
    }
}
