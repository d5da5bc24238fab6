//! Who may type, who hears of it in a region, and which regions do.

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::ids::direct_conversation;
use hearth_protocol::{ConversationId, LogId, Refusal, RegionId, UserId, mesh};

use super::book::{TypingBook, Update};
use crate::LogView;
use crate::mutants::Mutant;
use crate::view::{Members, PrivacyState};

/// Members of a direct conversation.
const DIRECT: usize = 2;

/// What a link brought about typing, if it is that.
#[must_use]
pub fn of_body(body: &mesh::Body) -> Option<&mesh::Typing> {
    if let mesh::Body::Typing(frame) = body { Some(frame) } else { None }
}

/// An update as links carry it.
#[must_use]
pub fn body(update: &Update) -> mesh::Body {
    mesh::Body::Typing(mesh::Typing {
        log: Bytes::copy_from_slice(&update.log.to_bytes()),
        user: update.user.as_str().to_owned(),
        typing: update.typing,
    })
}

/// What another region told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The conversation.
    pub log: LogId,
    /// Who.
    pub user: UserId,
    /// Whether it types.
    pub typing: bool,
}

impl Heard {
    /// A frame, if it names a log and a user.
    #[must_use]
    pub fn of(frame: &mesh::Typing) -> Option<Self> {
        let (log, user) = (LogId::from_bytes(&frame.log)?, UserId::new(&frame.user).ok()?);
        Some(Self { log, user, typing: frame.typing })
    }
}

/// Members as far as the region follows them.
fn members(view: &LogView) -> Option<&Members> {
    view.view.members().filter(|_| view.held).map(Arc::as_ref)
}

/// Whether a user is a member, as far as this region knows: of a conversation that it does not hold, members' other
/// regions do.
///
/// # Errors
/// `CONVERSATION_NOT_FOUND`: it is none.
pub fn may_type(view: &LogView, user: &UserId) -> Result<(), Refusal> {
    let member = match members(view) {
        Some(members) => members.contains_key(user),
        None => view.placement.is_some(),
    };
    if member { Ok(()) } else { Err(Refusal::no_conversation()) }
}

/// Whether a user is not told that another one types: in the direct conversation of the two, while one of them blocks the
/// other. `privacy` is what the user withholds.
#[must_use]
pub fn is_withheld(
    (conversation, members): (ConversationId, &Members),
    user: &UserId,
    typist: &UserId,
    privacy: Option<&PrivacyState>,
) -> bool {
    let blocks = |privacy: &PrivacyState| privacy.blocks.contains_key(typist) || privacy.blocked_by.contains(typist);
    members.len() == DIRECT && privacy.is_some_and(blocks) && direct_conversation(user, typist) == conversation
}

impl TypingBook {
    /// A session of this region starts or stops.
    ///
    /// # Errors
    /// As [`may_type`].
    pub fn said(
        &mut self,
        (log, view): (LogId, &LogView),
        user: &UserId,
        typing: bool,
        now: u64,
    ) -> Result<Option<Update>, Refusal> {
        may_type(view, user)?;
        Ok(if typing { self.start(log, user, now) } else { self.stop(log, user, None) })
    }

    /// A session has a conversation in view: who types there, of whom it may be told. Where the region does not follow
    /// the conversation, nobody.
    ///
    /// # Errors
    /// As [`may_type`].
    pub fn viewed(
        &self,
        (log, view): (LogId, &LogView),
        user: &UserId,
        privacy: Option<&PrivacyState>,
    ) -> Result<Vec<UserId>, Refusal> {
        may_type(view, user)?;
        let (Some(members), Some(conversation)) = (members(view), log.as_conversation()) else { return Ok(Vec::new()) };
        let told = |typist: &UserId| {
            let withheld = is_withheld((conversation, members), user, typist, privacy);
            typist != user && members.contains_key(typist) && !withheld
        };
        Ok(self.typing_in(log).into_iter().filter(told).collect())
    }

    /// Another region tells: that one who is no member here starts is not taken.
    pub fn told(&mut self, heard: &Heard, from: &RegionId, view: &LogView, now: u64) -> Option<Update> {
        let Heard { log, user, typing } = heard;
        if !typing {
            return self.stop(*log, user, Some(from));
        }
        let known = members(view).is_none_or(|members| members.contains_key(user));
        if known { self.heard(*log, user, from, now) } else { None }
    }
}

/// Who is to hear an update.
#[derive(Clone, Debug)]
pub struct Telling<'a> {
    /// The members whose sessions here are offered it. An end is for those who were told of the start ([`super::Screen`]).
    pub audience: Option<(ConversationId, &'a Members)>,
    /// The regions that are told.
    pub peers: Vec<&'a RegionId>,
}

impl<'a> Telling<'a> {
    /// Of an update, as the region `me` knows the conversation: sessions of members here, and other regions; the home tells
    /// all that hold the conversation, others tell the home. That somebody types who is no member is told to nobody.
    #[must_use]
    pub fn of(update: &'a Update, view: &'a LogView, me: &RegionId) -> Self {
        // Who stopped may be no member any more, and a region that follows no longer has told of the start.
        let all = if update.typing { members(view) } else { view.view.members().map(Arc::as_ref) };
        let unknown = update.typing && all.is_some_and(|members| !members.contains_key(&update.user));
        if unknown {
            return Self { audience: None, peers: Vec::new() };
        }
        let audience = update.log.as_conversation().zip(all);
        Self { audience, peers: peers(update, view, me) }
    }
}

fn peers<'a>(update: &'a Update, view: &'a LogView, me: &RegionId) -> Vec<&'a RegionId> {
    let Some(placement) = &view.placement else { return Vec::new() };
    let at_home = placement.home == *me;
    // What another region told is passed on by the home alone, and what ends by itself ends everywhere by itself.
    let passed_on = update.here || (at_home && update.from.is_some() && !Mutant::TypingNotPassedOn.is_on());
    if !passed_on {
        return Vec::new();
    }
    let mut peers: Vec<&RegionId> =
        if at_home { view.replicas.iter().chain(&placement.voters).collect() } else { vec![&placement.home] };
    peers.sort();
    peers.dedup();
    peers.retain(|peer| *peer != me && Some(*peer) != update.from.as_ref());
    peers
}

#[cfg(test)]
mod tests {
    use hearth_protocol::entry::{ConversationKind, Role};
    use hearth_protocol::{Level, Placement, Timestamp};

    use super::*;
    use crate::few::FewMap;
    use crate::view::{ConversationState, Forgotten, Member, View, default_settings};

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("a name")
    }

    fn region(name: &str) -> RegionId {
        RegionId::new(name).expect("a name")
    }

    fn direct() -> LogId {
        LogId::conversation(direct_conversation(&user("ann"), &user("bob")))
    }

    /// A conversation of these, which a region holds, with its home in `eu`.
    fn of(log: LogId, members: &[&str]) -> LogView {
        let member = Member { role: Role::Member, since: 0, messages_before: 0, sent_before: 0 };
        let state = ConversationState {
            kind: ConversationKind::Group,
            name: None,
            settings: default_settings(ConversationKind::Group),
            level: Level::Region,
            created_at: Timestamp(0),
            members: Arc::new(members.iter().map(|name| (user(name), member.clone())).collect()),
            messages: 0,
            sent: FewMap::new(),
            partition_mode: None,
            forgotten: Forgotten::default(),
        };
        let voters = vec![region("ap"), region("eu"), region("us")];
        let placement = Placement::first(log, region("eu"), voters, Level::Region);
        LogView {
            placement: Some(placement),
            held: true,
            view: View::Conversation(Arc::new(state)),
            replicas: vec![region("ap"), region("sa")],
            ..LogView::default()
        }
    }

    fn book() -> TypingBook {
        TypingBook::new(10, 5_000)
    }

    #[test]
    fn the_home_tells_all_that_hold_it_but_who_told_and_others_tell_the_home_of_their_own() {
        let (log, ann, ap) = (direct(), user("ann"), region("ap"));
        let view = of(log, &["ann", "bob"]);
        let peers = |update: &Update, me: &str| -> Vec<String> {
            Telling::of(update, &view, &region(me)).peers.into_iter().map(ToString::to_string).collect()
        };
        let own = book().start(log, &ann, 0).expect("news");
        assert_eq!(
            (peers(&own, "us"), peers(&own, "eu")),
            (vec!["eu".to_owned()], vec!["ap".into(), "sa".into(), "us".into()])
        );
        let mut heard = book();
        let told = heard.heard(log, &ann, &ap, 0).expect("news");
        assert_eq!((peers(&told, "us"), peers(&told, "eu")), (vec![], vec!["sa".to_owned(), "us".into()]));
        let over = heard.expire(7_000).pop().expect("over");
        assert_eq!(peers(&over, "eu"), Vec::<String>::new(), "it is over everywhere by itself");
    }

    #[test]
    fn who_is_no_member_neither_types_nor_is_told_who_does() {
        let (log, eve) = (direct(), user("eve"));
        let (view, unknown) = (of(log, &["ann", "bob"]), LogView::default());
        let mut book = book();
        assert!(book.said((log, &view), &eve, true, 0).is_err() && book.said((log, &unknown), &eve, true, 0).is_err());
        let heard = Heard { log, user: eve.clone(), typing: true };
        assert_eq!(book.told(&heard, &region("us"), &view, 0), None);
        assert!(book.said((log, &view), &user("ann"), true, 0).expect("a member").is_some());
        assert!(book.viewed((log, &view), &eve, None).is_err());
        assert_eq!(book.viewed((log, &view), &user("bob"), None).expect("a member"), vec![user("ann")]);
        let follows_no_more = LogView { held: false, ..view };
        assert_eq!(book.viewed((log, &follows_no_more), &eve, None).expect("unknown"), vec![]);
    }

    #[test]
    fn the_end_of_one_who_was_removed_while_typing_is_told_and_a_start_is_not() {
        let log = LogId::conversation(ConversationId(uuid::Uuid::from_u128(1)));
        let (with, without) = (of(log, &["ann", "bob", "cem"]), of(log, &["ann", "bob"]));
        let (mut book, cem, eu) = (book(), user("cem"), region("eu"));
        let start = book.said((log, &with), &cem, true, 0).expect("a member").expect("news");
        assert!(Telling::of(&start, &with, &eu).audience.is_some());
        let refused = Telling::of(&start, &without, &eu);
        assert!(refused.audience.is_none() && refused.peers.is_empty());
        assert_eq!(book.viewed((log, &without), &user("ann"), None).expect("a member"), vec![]);
        let end = book.expire(5_000).pop().expect("over");
        assert!(Telling::of(&end, &without, &eu).audience.is_some());
        assert!(Telling::of(&end, &LogView { held: false, ..without }, &eu).audience.is_some());
    }

    #[test]
    fn in_their_direct_conversation_neither_is_told_of_the_other_while_one_blocks_also_who_looks_only_then() {
        let (log, ann, bob) = (direct(), user("ann"), user("bob"));
        let group = LogId::conversation(ConversationId(uuid::Uuid::from_u128(1)));
        let blocks = PrivacyState { blocks: [(ann.clone(), Timestamp(1))].into(), ..PrivacyState::default() };
        let blocked = PrivacyState { blocked_by: [ann.clone()].into(), ..PrivacyState::default() };
        let mut book = book();
        for at in [log, group] {
            book.start(at, &ann, 0);
        }
        for privacy in [blocks, blocked] {
            let viewed = |log, view: &LogView| book.viewed((log, view), &bob, Some(&privacy)).expect("a member");
            assert_eq!(viewed(log, &of(log, &["ann", "bob"])), vec![]);
            assert_eq!(viewed(group, &of(group, &["ann", "bob", "cem"])), vec![ann.clone()], "groups are as ever");
            assert_eq!(viewed(group, &of(group, &["ann", "bob"])), vec![ann.clone()], "a group of two is a group");
        }
    }
}
