//! Placements, follows, user records and membership.

use hearth_protocol::entry::{ConversationKind, HistoryForNewMembers, MemberAction, Role, Settings, SettingsChange};
use hearth_protocol::{
    Change, ConversationId, EntryKind, Epoch, Header, Level, LogId, Position, Sequence, ids::direct_conversation,
};
use region_model::view::{Bounds, ConversationState, View, default_settings};
use region_model::{Input, region_sender};
use uuid::Uuid;

use crate::support::{Message, Setup, Sim, group, group_settings, user};

fn state(view: &View) -> &ConversationState {
    match view {
        View::Conversation(state) => state,
        other => panic!("{other:?} is no conversation"),
    }
}

#[test]
fn two_regions_that_place_one_direct_conversation_agree_on_one_placement_and_one_header() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed);
        let log = LogId::conversation(direct_conversation(&user("ann"), &user("ben")));
        let placed = [sim.place(1, 1, log), sim.place(2, 2, log)];
        let first = placed.map(|ticket| sim.acked(ticket).duplicate);
        assert_ne!(first[0], first[1], "one wins");
        let header = Header::Conversation {
            kind: ConversationKind::Direct,
            name: None,
            settings: default_settings(ConversationKind::Direct),
            members: vec![(user("ann"), Role::Member), (user("ben"), Role::Member)],
        };
        let asked = [1, 2].map(|region| sim.query(region, log, true));
        sim.run_until("both know", |sim| asked.iter().all(|ticket| sim.views.contains_key(ticket)));
        assert_eq!(sim.views[&asked[0]].placement, sim.views[&asked[1]].placement);
        let headers = [sim.header(1, log, &header), sim.header(2, log, &header)];
        assert_eq!(headers.map(|ticket| sim.acked(ticket).duplicate).iter().filter(|again| **again).count(), 1);
        let sent = sim.send(0, log, &Message::new("ben", 1));
        assert_eq!(sim.acked(sent).position.sequence.0, 1);
    }
}

#[test]
fn what_nobody_placed_is_not_found() {
    let mut sim = Sim::new(1);
    let log = LogId::conversation(ConversationId(Uuid::from_u128(77)));
    for region in 0..3 {
        let asked = sim.query(region, log, true);
        let sent = sim.send(region, log, &Message::new("ann", 1));
        assert_eq!(sim.refused(sent), "CONVERSATION_NOT_FOUND");
        assert!(sim.views[&asked].placement.is_none());
    }
}

#[test]
fn a_region_that_does_not_vote_holds_nothing_until_it_follows_then_catches_up_and_shows_live_until_it_leaves() {
    let mut sim = Sim::with(1, Setup { regions: 4, ..Setup::default() });
    let log = sim.group_at(0, 1);
    let sent = sim.send(3, log, &Message::new("ann", 1));
    sim.acked(sent);
    sim.run_for(12_000);
    assert!(sim.entries(3, log).is_empty() && !sim.view(3, log).held);
    sim.input(3, Input::Follow { log, hold: true });
    sim.settle(&[0, 3], log);
    let sent = sim.send(0, log, &Message::new("ann", 2));
    sim.acked(sent);
    sim.settle(&[0, 3], log);
    assert_eq!(sim.shown(3, log), [0, 1, 2]);
    sim.cut(0, 3);
    sim.run_for(5_000);
    let sent = sim.send(0, log, &Message::new("ann", 3));
    sim.acked(sent);
    sim.heal_all();
    sim.settle(&[0, 3], log);
    sim.input(3, Input::Follow { log, hold: false });
    sim.run_for(1_000);
    let sent = sim.send(0, log, &Message::new("ann", 4));
    sim.acked(sent);
    sim.run_for(1_000);
    assert_eq!(sim.entries(3, log).len(), 4);
    assert!(!sim.view(3, log).held);
}

fn follower_of(messages: u64, follow_in_order: u64) -> (Sim, LogId) {
    let bounds = Bounds { follow_in_order, ..Bounds::default() };
    let mut sim = Sim::with(1, Setup { regions: 4, bounds, ..Setup::default() });
    let log = sim.group_at(0, 1);
    for id in 0..messages {
        let ticket = sim.send(0, log, &Message::new("ann", id));
        if id % 100 == 0 {
            sim.acked(ticket);
        }
    }
    sim.settle(&[0, 1, 2], log);
    (sim, log)
}

#[test]
fn a_follower_shows_the_stream_at_once_pulls_what_is_missing_below_and_tells_the_gap() {
    let (mut sim, log) = follower_of(3_000, 256);
    let added = sim.members(0, log, "ann", MemberAction::Add(Role::Member), &["dan"]);
    sim.acked(added);
    sim.settle(&[0, 1, 2], log);
    sim.input(3, Input::Follow { log, hold: true });
    sim.run_until("it holds the end", |sim| sim.regions[3].disk.logs.contains_key(&log));
    let open = sim.view(3, log).open;
    assert!(open.is_some_and(|(from, to)| from == 0 && to > 1_000), "{open:?} is open");
    assert!(state(&sim.view(3, log).view).members.contains_key(&user("dan")), "the members are those of the end");
    let sent = sim.send(0, log, &Message::new("ann", 3_000));
    let shown = sim.acked(sent).position.sequence.0;
    sim.run_until("it is shown", |sim| sim.shown(3, log) == [shown]);
    sim.settle(&[0, 3], log);
    assert_eq!((sim.view(3, log).open, sim.gaps), (None, 1));
    let unread = |view: &View| state(view).unread(&user("ben"), &state(view).members[&user("ben")]);
    assert_eq!(unread(&sim.view(3, log).view), 3_001);
}

#[test]
fn what_a_follower_holds_above_an_open_range_is_dropped_at_a_new_subscription_and_what_is_below_stays() {
    let (mut sim, log) = follower_of(20, 256);
    sim.input(3, Input::Follow { log, hold: true });
    sim.settle(&[0, 3], log);
    sim.cut(0, 3);
    sim.run_until("both sides notice", |sim| !sim.is_linked(0, 3));
    for id in 20..5_000 {
        sim.send(0, log, &Message::new("ann", id));
    }
    sim.settle(&[0, 1, 2], log);
    sim.heal_all();
    sim.run_until("a range is open", |sim| {
        let record = sim.regions[3].disk.logs[&log].record.as_ref();
        record.is_some_and(|record| record.open_ranges.first().is_some_and(|(from, to)| *from == 21 && *to < 5_000))
    });
    sim.crash(3);
    for id in 5_000..5_010 {
        sim.send(0, log, &Message::new("ann", id));
    }
    sim.start(3);
    sim.settle(&[0, 3], log);
    assert!(sim.gaps >= 2);
    assert_eq!(sim.message_ids(3, log).len(), 5_010);
    let ticket = sim.send(3, log, &Message::new("ann", 5_010));
    sim.acked(ticket);
    sim.settle(&[0, 3], log);
}

#[test]
fn a_page_that_does_not_reach_the_hash_above_it_is_not_taken_and_is_pulled_again() {
    let (mut sim, log) = follower_of(600, 10);
    sim.spoil_pulls = 3;
    sim.input(3, Input::Follow { log, hold: true });
    sim.settle(&[0, 3], log);
    assert_eq!(sim.spoil_pulls, 0, "three pages were other than asked for");
    assert!(sim.forks.is_empty());
}

#[test]
fn a_follower_takes_what_it_lacks_little_of_in_order() {
    let (mut sim, log) = follower_of(200, 256);
    sim.input(3, Input::Follow { log, hold: true });
    sim.settle(&[0, 3], log);
    assert_eq!((sim.gaps, sim.shown(3, log).len()), (0, 201));
}

#[test]
fn a_user_record_applies_only_greater_positions() {
    let mut sim = Sim::new(1);
    let log = LogId::user(&user("ann"));
    sim.create_log(0, 0, log, &Header::User { user: user("ann") });
    let me = region_sender(&sim.regions[0].id);
    let conversation = ConversationId(Uuid::from_u128(5));
    let at = |sequence| Position { epoch: Epoch(1), sequence: Sequence(sequence) };
    let changes = [
        (Change::Joined { conversation, position: at(3) }, false),
        (Change::Removed { conversation, position: at(2) }, true),
        (Change::Joined { conversation, position: at(3) }, true),
        (Change::Removed { conversation, position: at(9) }, false),
    ];
    for (change, already) in changes {
        let ticket = sim.change(1, log, &me, EntryKind::User, &change);
        assert_eq!(sim.acked(ticket).duplicate, already, "{change:?}");
    }
    sim.settle(&[0, 1, 2], log);
    let View::User(record) = sim.view(0, log).view else { panic!("it is a user record") };
    assert!(!record.conversations[&conversation].joined);
    assert!(sim.user_changes.iter().any(|(region, _, sequence)| *region == 1 && *sequence == 2));
}

#[test]
fn a_second_header_changes_nothing() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    let again = sim.header(1, log, &group(group_settings(), &["mallory"]));
    assert!(sim.acked(again).duplicate);
    assert_eq!(sim.entries(0, log).len(), 1);
}

#[test]
fn members_are_added_removed_and_leave_within_their_rights_and_bounds() {
    let bounds = Bounds { group_members: 4, ..Bounds::default() };
    let mut sim = Sim::with(1, Setup { bounds, ..Setup::default() });
    let log = sim.group_at(0, 1);
    let add = MemberAction::Add(Role::Member);
    let over = sim.members(0, log, "ann", add.clone(), &["dan", "eve"]);
    assert_eq!(sim.refused(over), "TOO_LARGE");
    let added = sim.members(1, log, "ben", add.clone(), &["dan"]);
    assert_eq!(sim.acked(added).level, Level::Majority);
    let again = sim.members(1, log, "ann", add, &["dan"]);
    assert!(sim.acked(again).duplicate);
    let not_admin = sim.members(0, log, "ben", MemberAction::Remove, &["dan"]);
    assert_eq!(sim.refused(not_admin), "FORBIDDEN");
    let for_another = sim.members(0, log, "ben", MemberAction::Leave, &["dan"]);
    assert_eq!(sim.refused(for_another), "INVALID_MESSAGE");
    let left = sim.members(0, log, "dan", MemberAction::Leave, &["dan"]);
    sim.acked(left);
    let removed = sim.members(0, log, "ann", MemberAction::Remove, &["cem"]);
    sim.acked(removed);
    let outside = sim.send(1, log, &Message::new("cem", 1));
    assert_eq!(sim.refused(outside), "CONVERSATION_NOT_FOUND");
    let told: Vec<(String, bool)> = sim.outbox.iter().map(|item| (item.user.to_string(), item.joined)).collect();
    for item in [("dan", true), ("dan", false), ("cem", false)] {
        assert!(told.contains(&(item.0.to_owned(), item.1)), "{item:?} is told");
    }
}

#[test]
fn unread_counts_are_of_others_and_a_new_member_without_history_sees_only_what_came_after() {
    let mut sim = Sim::new(1);
    let log = LogId::conversation(ConversationId(Uuid::from_u128(9)));
    let settings = Settings { history_for_new_members: HistoryForNewMembers::None, ..group_settings() };
    sim.create_log(0, 0, log, &group(settings, &["ann", "ben"]));
    for id in 0..3 {
        let ticket = sim.send(0, log, &Message::new("ann", id));
        sim.acked(ticket);
    }
    let added = sim.members(0, log, "ann", MemberAction::Add(Role::Member), &["dan"]);
    let added = sim.acked(added).position.sequence.0;
    for (sender, id) in [("ben", 4), ("dan", 5)] {
        let ticket = sim.send(1, log, &Message::new(sender, id));
        sim.acked(ticket);
    }
    sim.settle(&[0, 1, 2], log);
    for region in 0..3 {
        let view = sim.view(region, log);
        let state = state(&view.view);
        let unread = |name| state.unread(&user(name), &state.members[&user(name)]);
        assert_eq!((unread("ann"), unread("ben"), unread("dan")), (2, 4, 1));
        assert_eq!(state.visible_from(&state.members[&user("dan")]), added);
        assert_eq!(state.visible_from(&state.members[&user("ann")]), 1);
    }
}

#[test]
fn admins_promote_and_demote_and_the_last_of_them_stays_until_another_is_one() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    let role = |role| MemberAction::Role(role);
    let mut refused = |sender, action: MemberAction, users: &[&str], code| {
        let ticket = sim.members(1, log, sender, action.clone(), users);
        assert_eq!(sim.refused(ticket), code, "{sender} {action:?} {users:?}");
    };
    refused("ben", role(Role::Admin), &["ben"], "FORBIDDEN");
    refused("ann", role(Role::Admin), &["mallory"], "NOT_FOUND");
    refused("ann", role(Role::Member), &["ann"], "FORBIDDEN");
    refused("ann", MemberAction::Leave, &["ann"], "FORBIDDEN");
    let promoted = sim.members(0, log, "ann", role(Role::Admin), &["ben"]);
    assert_eq!(sim.acked(promoted).level, Level::Majority);
    let again = sim.members(2, log, "ann", role(Role::Admin), &["ben"]);
    assert!(sim.acked(again).duplicate, "it is so already");
    let left = sim.members(0, log, "ann", MemberAction::Leave, &["ann"]);
    sim.acked(left);
    let removed = sim.members(0, log, "ben", MemberAction::Remove, &["cem"]);
    sim.acked(removed);
    let last = sim.members(0, log, "ben", MemberAction::Leave, &["ben"]);
    sim.acked(last);
    sim.settle(&[0, 1, 2], log);
    for region in 0..3 {
        let view = sim.view(region, log);
        assert!(state(&view.view).members.is_empty(), "who is alone may leave");
    }
}

#[test]
fn settings_change_for_those_who_come_later_and_admins_alone_change_them() {
    let mut sim = Sim::new(1);
    let log = sim.group_at(0, 1);
    let settings = |change| Change::Settings(change);
    let no_invites = SettingsChange { allow_member_invites: Some(false), ..SettingsChange::default() };
    let by_ben = sim.change(0, log, &user("ben"), EntryKind::System, &settings(no_invites.clone()));
    assert_eq!(sim.refused(by_ben), "FORBIDDEN");
    let by_ann = sim.change(1, log, &user("ann"), EntryKind::System, &settings(no_invites.clone()));
    sim.acked(by_ann);
    let again = sim.change(1, log, &user("ann"), EntryKind::System, &settings(no_invites));
    assert!(sim.acked(again).duplicate);
    let invited = sim.members(1, log, "ben", MemberAction::Add(Role::Member), &["dan"]);
    assert_eq!(sim.refused(invited), "FORBIDDEN");
    let quiet = SettingsChange { only_admins_can_post: Some(true), ..SettingsChange::default() };
    let quiet = sim.change(0, log, &user("ann"), EntryKind::System, &settings(quiet));
    sim.acked(quiet);
    let sent = sim.send(2, log, &Message::new("ben", 1));
    assert_eq!(sim.refused(sent), "FORBIDDEN");
    let added = sim.members(0, log, "ann", MemberAction::Add(Role::Member), &["dan"]);
    sim.acked(added);
}
