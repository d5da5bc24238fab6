//! Single stories, each a sentence of the contract.

use hearth_protocol::ErrorCode;
use hearth_protocol::client::{Certainty, DeviceType, PresenceStatus};

use super::super::PresenceBounds;
use super::world::{World, region, user};

const ONLINE: PresenceStatus = PresenceStatus::Online;
const AWAY: PresenceStatus = PresenceStatus::Away;
const OFFLINE: PresenceStatus = PresenceStatus::Offline;

/// Session 1 of user 0 in the first region subscribes to users 1 and 2; user 1 is online in the second region.
fn two_regions() -> World {
    let mut world = World::new(2);
    world.set(1, 7, 1, ONLINE);
    world.set(0, 1, 0, ONLINE);
    world.subscribe(0, 1, &[1, 2]);
    world.pass(3_000);
    world
}

#[test]
fn an_answer_waits_for_the_links_and_says_what_they_say() {
    let world = two_regions();
    let told = &world.told[&(0, 1)];
    assert_eq!((told.bulks.len(), told.updates.len()), (1, 0), "what the answer said is not told again");
    let rows: Vec<_> = told.bulks[0].iter().map(|row| (row.user_id.clone(), row.status, row.certainty)).collect();
    assert_eq!(rows, [(user(1), ONLINE, Certainty::Fresh), (user(2), OFFLINE, Certainty::Fresh)]);
    assert_eq!(told.bulks[0][0].regions.iter().map(|region| region.as_str()).collect::<Vec<_>>(), ["us-east"]);
}

#[test]
fn devices_are_joined_and_the_one_that_is_most_there_counts() {
    let mut world = World::new(1);
    let now = world.moment();
    world.set(0, 9, 9, ONLINE);
    world.subscribe(0, 9, &[1]);
    world.books[0].session(1, &user(1), AWAY, Some(DeviceType::Mobile), now);
    world.pass(2_000);
    let away = world.read(0, 1);
    assert_eq!((away.status, away.device_type, away.last_seen.is_some()), (AWAY, Some(DeviceType::Mobile), true));
    let now = world.moment();
    world.books[0].session(2, &user(1), ONLINE, Some(DeviceType::Web), now);
    world.pass(2_000);
    let online = world.read(0, 1);
    assert_eq!((online.status, online.device_type, online.last_seen), (ONLINE, Some(DeviceType::Web), None));
    world.gone(0, 2);
    world.pass(2_000);
    assert_eq!(world.read(0, 1).status, AWAY);
    world.gone(0, 1);
    world.pass(2_000);
    let offline = world.read(0, 1);
    assert_eq!((offline.status, offline.device_type), (OFFLINE, None));
    assert!(offline.last_seen.is_some_and(|seen| seen > away.last_seen.expect("away")));
    let told: Vec<_> = world.told[&(0, 9)].updates.iter().map(|(_, update)| update.status).collect();
    assert_eq!(told, [AWAY, ONLINE, AWAY, OFFLINE]);
}

#[test]
fn a_user_is_told_of_at_most_once_a_second_and_the_last_word_is_the_latest() {
    let mut world = two_regions();
    for turn in 0..50 {
        world.set(1, 7, 1, if turn % 2 == 0 { AWAY } else { ONLINE });
        world.pass(110);
    }
    world.set(1, 7, 1, AWAY);
    world.pass(3_000);
    let updates = &world.told[&(0, 1)].updates;
    assert!(updates.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 1_000), "{updates:?}");
    assert!(updates.len() >= 3 && world.last(0, 1, 1).is_some_and(|last| last.status == AWAY));
}

#[test]
fn a_client_that_is_killed_is_offline_after_90_to_120_seconds_without_anybodys_help() {
    let mut world = two_regions();
    for _ in 0..9 {
        // The session that looks is heard, the one that is killed is not.
        world.pass(8_900);
        world.set(0, 1, 0, ONLINE);
    }
    assert_eq!(world.last(0, 1, 1).map(|last| last.status), Some(ONLINE), "after {} ms", world.now);
    for _ in 0..4 {
        world.pass(8_900);
        world.set(0, 1, 0, ONLINE);
    }
    assert!(world.now < 120_000);
    assert_eq!(world.last(0, 1, 1).map(|last| last.status), Some(OFFLINE));
    let offline = world.told[&(0, 1)].updates.last().expect("an update").0;
    assert!((90_000..120_000).contains(&offline), "offline after {offline} ms");
}

#[test]
fn both_limits_are_refused_by_name_and_whole() {
    let bounds = PresenceBounds { per_frame: 3, per_session: 5, ..PresenceBounds::default() };
    let mut world = World::bound_by(1, bounds);
    world.set(0, 1, 0, ONLINE);
    world.subscribe(0, 1, &[1, 2, 3, 4]);
    world.subscribe(0, 1, &[1, 2, 3]);
    world.subscribe(0, 1, &[3, 4, 5]);
    world.subscribe(0, 1, &[6]);
    let told = &world.told[&(0, 1)];
    let limits: Vec<_> = told.refused.iter().map(|refusal| (refusal.error, refusal.limit.as_deref())).collect();
    let frame = (ErrorCode::TooLarge, Some("presence_per_frame: 3 users a frame"));
    assert_eq!(limits, [frame, (ErrorCode::TooLarge, Some("presence_subscriptions: 5 users a connection"))]);
    assert_eq!(world.books[0].sizes().subscriptions, 5);
    world.unsubscribe(0, 1, &[1, 2]);
    world.subscribe(0, 1, &[6]);
    assert_eq!((world.books[0].sizes().subscriptions, world.books[0].sizes().interest), (4, 4));
    world.gone(0, 1);
    assert_eq!((world.books[0].sizes().subscriptions, world.books[0].is_idle()), (0, true));
}

#[test]
fn a_user_who_may_not_be_seen_looks_like_one_who_never_was() {
    let mut world = World::new(2);
    world.hidden.insert(user(1));
    world.set(1, 7, 1, ONLINE);
    world.set(0, 8, 1, ONLINE);
    world.set(0, 1, 0, ONLINE);
    world.subscribe(0, 1, &[1, 2]);
    world.pass(3_000);
    let rows = &world.told[&(0, 1)].bulks[0];
    let mut never = rows[1].clone();
    never.user_id = user(1);
    assert_eq!(rows[0], never);
    assert_eq!(world.books[1].sizes().asked, 1, "no link is asked for whom nobody may see");
    world.gone(0, 8);
    world.set(0, 8, 1, ONLINE);
    world.pass(3_000);
    assert_eq!(world.updates(0, 1), 0);
    // They come to share a conversation, and do so no longer.
    world.hidden.clear();
    world.touch(&[1]);
    world.pass(3_000);
    assert_eq!(world.last(0, 1, 1).map(|last| last.status), Some(ONLINE));
    world.hidden.insert(user(1));
    world.touch(&[0]);
    world.pass(3_000);
    assert_eq!(world.last(0, 1, 1).map(|last| (last.status, last.regions.len())), Some((OFFLINE, 0)));
    let told = world.updates(0, 1);
    world.gone(1, 7);
    world.pass(3_000);
    assert_eq!(world.updates(0, 1), told);
}

#[test]
fn a_cut_link_tells_of_nobody_and_makes_reads_unknown_and_after_the_heal_all_agree_within_five_seconds() {
    let mut world = two_regions();
    world.set(0, 2, 2, ONLINE);
    world.pass(3_000);
    let before = world.updates(0, 1);
    world.set_link(0, 1, false);
    let cut = world.moment().wall;
    world.pass(20_000);
    assert_eq!(world.updates(0, 1), before, "no storm");
    let (there, here) = (world.read(0, 1), world.read(0, 2));
    assert_eq!((there.status, there.certainty), (ONLINE, Certainty::Unknown));
    assert!(there.as_of.0 <= cut && there.as_of.0 + 2_000 > cut, "known up to the cut");
    assert_eq!((here.status, here.certainty), (ONLINE, Certainty::Fresh), "who is online here is so in any case");
    world.gone(1, 7);
    world.set(1, 8, 3, ONLINE);
    world.subscribe(0, 1, &[3]);
    world.pass(3_000);
    assert_eq!(world.read(0, 3).certainty, Certainty::Unknown);
    assert_eq!(world.told[&(0, 1)].bulks.len(), 2, "it is answered all the same");
    world.set_link(0, 1, true);
    world.pass(5_000);
    for (of, status) in [(1, OFFLINE), (2, ONLINE), (3, ONLINE)] {
        let read = world.read(0, of);
        assert_eq!((read.status, read.certainty), (status, Certainty::Fresh), "{read:?}");
        assert_eq!(world.last(0, 1, of).map(|last| last.status), Some(status));
    }
    assert_eq!(world.updates(0, 1), before + 2, "only what changed is told");
}

#[test]
fn a_fence_tells_of_nobody_and_gives_offline_with_the_last_moment_known_until_the_region_is_back() {
    let mut world = two_regions();
    let before = world.updates(0, 1);
    world.set_link(0, 1, false);
    let cut = world.moment().wall;
    world.pass(12_000);
    world.fence(1, true);
    world.pass(10_000);
    assert_eq!(world.updates(0, 1), before);
    let read = world.read(0, 1);
    assert_eq!((read.status, read.certainty), (OFFLINE, Certainty::Stale));
    assert!(read.as_of.0 <= cut && read.last_seen.is_some_and(|seen| seen.0 <= cut), "{read:?}");
    assert_eq!(world.read(0, 2).certainty, Certainty::Fresh, "nobody waits for a region that is fenced");
    world.set_link(0, 1, true);
    world.fence(1, false);
    world.pass(5_000);
    assert_eq!(world.last(0, 1, 1).map(|last| (last.status, last.certainty)), Some((ONLINE, Certainty::Fresh)));
    assert_eq!(world.updates(0, 1), before + 1);
}

#[test]
fn a_fence_tells_of_those_who_are_in_another_region_too_and_otherwise_there() {
    let mut world = two_regions();
    world.set(0, 9, 1, AWAY);
    world.pass(2_000);
    let before = world.updates(0, 1);
    world.set_link(0, 1, false);
    world.pass(12_000);
    assert_eq!(world.last(0, 1, 1).map(|last| last.status), Some(ONLINE));
    world.fence(1, true);
    world.pass(2_000);
    assert_eq!((world.updates(0, 1), world.last(0, 1, 1).map(|last| last.status)), (before + 1, Some(AWAY)));
}

#[test]
fn who_came_to_another_region_within_the_second_before_a_fence_stays_online_for_those_who_are_told() {
    let mut world = two_regions();
    world.set(1, 7, 1, AWAY);
    world.pass(2_000);
    world.set(1, 7, 1, ONLINE);
    world.pass(300);
    assert_eq!(world.last(0, 1, 1).map(|last| last.regions.clone()), Some(vec![region(1)]));
    world.set(0, 9, 1, ONLINE);
    world.fence(1, true);
    assert_eq!(world.last(0, 1, 1).map(|last| last.status), Some(OFFLINE), "a client knows of no other region");
    world.pass(2_000);
    let last = world.last(0, 1, 1).map(|last| (last.status, last.regions.clone()));
    assert_eq!(last, Some((ONLINE, vec![region(0)])));
}

#[test]
fn an_answer_that_is_ahead_of_what_others_were_told_is_followed_up() {
    let mut world = two_regions();
    world.set(0, 3, 3, ONLINE);
    world.set(1, 7, 1, AWAY);
    world.pass(1_200);
    // The second of user 1 has begun again; what changes within it is in the answer, and changes back unheard.
    world.set(1, 7, 1, ONLINE);
    world.pass(300);
    world.gone(1, 7);
    world.set(0, 9, 1, ONLINE);
    world.gone(0, 9);
    world.pass(1_000);
    world.subscribe(0, 3, &[1]);
    world.set(1, 7, 1, ONLINE);
    world.pass(4_000);
    for session in [1, 3] {
        assert_eq!(world.last(0, session, 1).map(|last| last.status), Some(ONLINE), "session {session}");
    }
}

#[test]
fn in_the_background_nothing_is_told_and_on_return_only_the_latest() {
    let mut world = two_regions();
    world.background(0, 1, true);
    for status in [AWAY, ONLINE, AWAY] {
        world.set(1, 7, 1, status);
        world.pass(2_000);
    }
    assert_eq!(world.updates(0, 1), 0);
    world.background(0, 1, false);
    assert_eq!(world.updates(0, 1), 1);
    assert_eq!(world.last(0, 1, 1).map(|last| last.status), Some(AWAY));
    world.pass(5_000);
    assert_eq!(world.updates(0, 1), 1);
}

#[test]
fn a_session_that_is_too_slow_loses_updates_and_gets_the_latest() {
    let mut world = two_regions();
    world.busy.insert((0, 1));
    for status in [AWAY, ONLINE, AWAY] {
        world.set(1, 7, 1, status);
        world.pass(2_000);
    }
    assert_eq!(world.updates(0, 1), 0);
    world.busy.clear();
    world.pass(2_000);
    assert_eq!((world.updates(0, 1), world.last(0, 1, 1).map(|last| last.status)), (1, Some(AWAY)));
}

#[test]
fn what_a_process_said_is_void_once_another_one_speaks() {
    let mut world = two_regions();
    world.restart(1);
    world.pass(4_000);
    assert_eq!(world.last(0, 1, 1).map(|last| last.status), Some(OFFLINE));
    world.set(1, 7, 1, ONLINE);
    world.pass(2_000);
    assert_eq!(world.last(0, 1, 1).map(|last| last.status), Some(ONLINE));
}

#[test]
fn a_frame_that_is_lost_is_healed_by_the_next_digests() {
    let mut world = two_regions();
    world.loss = 100;
    world.set(1, 7, 1, AWAY);
    world.pass(900);
    world.loss = 0;
    world.pass(4_500);
    assert_eq!(world.last(0, 1, 1).map(|last| last.status), Some(AWAY));
    // The ask itself is lost.
    world.loss = 100;
    world.set(1, 8, 3, ONLINE);
    world.subscribe(0, 1, &[3]);
    world.pass(900);
    world.loss = 0;
    world.pass(5_000);
    assert_eq!(world.last(0, 1, 3).map(|last| last.status), Some(ONLINE));
}

#[test]
fn links_that_have_nothing_to_tell_carry_one_digest_a_second() {
    let mut world = two_regions();
    let before = world.sent;
    world.pass(10_000);
    assert!((world.sent - before) <= 2 * 2 * 11, "{} frames", world.sent - before);
}

#[test]
fn of_users_without_a_device_the_oldest_are_forgotten_and_nobody_who_is_asked_for() {
    let mut world = World::bound_by(2, PresenceBounds { remembered: 3, ..PresenceBounds::default() });
    world.set(0, 1, 0, ONLINE);
    world.subscribe(0, 1, &[1]);
    world.pass(1_000);
    for of in 1..10 {
        world.set(1, 100 + of as u64, of, ONLINE);
        world.pass(1_200);
        world.gone(1, 100 + of as u64);
        world.pass(1_200);
    }
    let sizes = world.books[1].sizes();
    assert_eq!((sizes.devices, sizes.remembered, sizes.users), (0, 3, 4));
    assert!(world.read(0, 1).last_seen.is_some());
}

#[test]
fn who_hides_when_it_was_there_last_is_told_of_without_that_in_every_region_and_also_once_its_region_is_fenced() {
    let mut world = two_regions();
    let hide = |world: &mut World, hides: bool| {
        let now = world.moment();
        world.books[1].hides_last_seen(&user(1), hides, now);
        world.pass(2_000);
    };
    hide(&mut world, true);
    world.set(1, 7, 1, AWAY);
    world.pass(3_000);
    for region in [0, 1] {
        let row = world.read(region, 1);
        assert_eq!((row.status, row.last_seen), (AWAY, None), "region {region}");
    }
    world.fence(1, true);
    world.pass(2_000);
    assert_eq!((world.read(0, 1).status, world.read(0, 1).last_seen), (OFFLINE, None));
    world.fence(1, false);
    world.pass(5_000);
    hide(&mut world, false);
    assert!(world.read(0, 1).last_seen.is_some() && world.read(1, 1).last_seen.is_some());
    // It holds for who is gone, too.
    world.gone(1, 7);
    world.pass(3_000);
    hide(&mut world, true);
    assert_eq!((world.read(0, 1).status, world.read(0, 1).last_seen), (OFFLINE, None));
}
