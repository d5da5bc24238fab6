//! Whatever happens, a while after the last fault every region says what is so, and sessions were told no more often than
//! they should be.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::client::{Certainty, PresenceStatus};
use proptest::prelude::*;

use super::super::{PresenceBounds, SessionId};
use super::world::World;

const USERS: usize = 6;
const REGIONS: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    Set(usize, usize, bool),
    Gone(usize),
    Subscribe(usize, usize),
    Unsubscribe(usize, usize),
    Background(usize, bool),
    Link(usize, bool),
    Restart(usize),
    Fence(usize, bool),
    Loss(u64),
    Twice(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..USERS * 2, 0..REGIONS, any::<bool>()).prop_map(|(session, place, online)| Step::Set(session, place, online)),
        3 => (0..USERS * 2).prop_map(Step::Gone),
        4 => (0..USERS * 2, 0..USERS).prop_map(|(session, of)| Step::Subscribe(session, of)),
        1 => (0..USERS * 2, 0..USERS).prop_map(|(session, of)| Step::Unsubscribe(session, of)),
        1 => (0..USERS * 2, any::<bool>()).prop_map(|(session, is)| Step::Background(session, is)),
        3 => (0..REGIONS, any::<bool>()).prop_map(|(pair, up)| Step::Link(pair, up)),
        1 => (0..REGIONS).prop_map(Step::Restart),
        1 => (0..REGIONS, any::<bool>()).prop_map(|(place, is)| Step::Fence(place, is)),
        1 => (0..60u64).prop_map(Step::Loss),
        1 => (0..60u64).prop_map(Step::Twice),
    ]
}

/// What is so: a plain list of sessions with where they are and what they say.
#[derive(Debug, Default)]
struct Truth {
    sessions: BTreeMap<usize, (usize, bool)>,
    subscribed: BTreeMap<usize, BTreeSet<usize>>,
    /// Sessions that were told the latest on their return, or began anew with a user: at times of their own choice.
    irregular: BTreeSet<usize>,
}

impl Truth {
    fn gone(&mut self, session: usize) -> Option<usize> {
        self.subscribed.remove(&session);
        self.sessions.remove(&session).map(|(place, _)| place)
    }

    /// Session `n` is one of user `n / 2`.
    fn status(&self, of: usize) -> PresenceStatus {
        let mine = self.sessions.iter().filter(|(session, _)| *session / 2 == of);
        let status = |online: bool| if online { PresenceStatus::Online } else { PresenceStatus::Away };
        mine.map(|(_, (_, online))| status(*online)).max().unwrap_or_default()
    }
}

/// Nobody expires in a run.
fn bounds() -> PresenceBounds {
    PresenceBounds { expiry: 10_000_000, ..PresenceBounds::default() }
}

fn id(session: usize) -> SessionId {
    session as SessionId + 1
}

fn take(step: Step, world: &mut World, truth: &mut Truth) {
    match step {
        Step::Set(session, place, online) => {
            if let Some((before, _)) = truth.sessions.get(&session).copied().filter(|(before, _)| *before != place) {
                world.gone(before, id(session));
                truth.gone(session);
            }
            truth.sessions.insert(session, (place, online));
            let status = if online { PresenceStatus::Online } else { PresenceStatus::Away };
            world.set(place, id(session), session / 2, status);
        }
        Step::Gone(session) => {
            if let Some(place) = truth.gone(session) {
                world.gone(place, id(session));
            }
        }
        Step::Subscribe(session, of) => {
            if let Some((place, _)) = truth.sessions.get(&session) {
                truth.subscribed.entry(session).or_default().insert(of);
                world.subscribe(*place, id(session), &[of]);
            }
        }
        Step::Unsubscribe(session, of) => {
            if let Some((place, _)) = truth.sessions.get(&session) {
                truth.irregular.insert(session);
                truth.subscribed.entry(session).or_default().remove(&of);
                world.unsubscribe(*place, id(session), &[of]);
            }
        }
        Step::Background(session, is) => {
            if let Some((place, _)) = truth.sessions.get(&session) {
                truth.irregular.insert(session);
                world.background(*place, id(session), is);
            }
        }
        Step::Link(pair, up) => {
            let (low, high) = world.pairs()[pair];
            world.set_link(low, high, up);
        }
        Step::Restart(place) => {
            let there: Vec<usize> =
                truth.sessions.iter().filter(|(_, (at, _))| *at == place).map(|(session, _)| *session).collect();
            for session in there {
                truth.gone(session);
            }
            world.restart(place);
        }
        Step::Fence(place, is) => world.fence(place, is),
        Step::Loss(percent) => world.loss = percent,
        Step::Twice(percent) => world.twice = percent,
    }
}

fn check(world: &World, truth: &Truth) -> Result<(), TestCaseError> {
    for (session, users) in &truth.subscribed {
        let place = truth.sessions[session].0;
        for of in users {
            let (read, status) = (world.read(place, *of), truth.status(*of));
            prop_assert_eq!((read.status, read.certainty), (status, Certainty::Fresh), "read of u{} at {}", of, place);
            let last = world.last(place, id(*session), *of);
            prop_assert_eq!(last.map(|last| last.status), Some(status), "told of u{} at {}", of, place);
            prop_assert_eq!(last.map(|last| &last.regions), Some(&read.regions));
        }
    }
    let regular = |session: SessionId| !truth.irregular.iter().any(|irregular| id(*irregular) == session);
    for ((place, session), told) in world.told.iter().filter(|((_, session), _)| regular(*session)) {
        let mut before: BTreeMap<_, u64> = BTreeMap::new();
        for (at, update) in &told.updates {
            if let Some(last) = before.insert(update.user_id.clone(), *at) {
                prop_assert!(
                    *at >= last + 1_000,
                    "{} told twice within {} ms at {place} {session}",
                    update.user_id,
                    at - last
                );
            }
        }
    }
    Ok(())
}

/// A world, and what is so in it, after some steps with a pause behind each, in milliseconds.
fn after(steps: Vec<(Step, u64)>, seed: u64) -> (World, Truth) {
    let (mut world, mut truth) = (World::bound_by(REGIONS, bounds()), Truth::default());
    world.seed(seed);
    for (step, later) in steps {
        take(step, &mut world, &mut truth);
        world.pass(later);
    }
    (world, truth)
}

proptest! {
    #[test]
    fn five_seconds_after_the_last_fault_every_region_says_what_is_so_and_sessions_heard_it(
        steps in proptest::collection::vec((any_step(), 0..1_500u64), 0..60),
        seed in any::<u64>(),
    ) {
        let (mut world, truth) = after(steps, seed);
        (world.loss, world.twice) = (0, 0);
        for (low, high) in world.pairs() {
            world.set_link(low, high, true);
        }
        (0..REGIONS).for_each(|place| world.fence(place, false));
        for (session, (place, _)) in &truth.sessions {
            world.background(*place, id(*session), false);
        }
        world.pass(5_000);
        check(&world, &truth)?;
    }

    #[test]
    fn a_cut_of_all_links_tells_of_nobody_whatever_was_before(
        steps in proptest::collection::vec((any_step(), 0..1_500u64), 0..40),
        seed in any::<u64>(),
    ) {
        let (mut world, truth) = after(steps, seed);
        (0..REGIONS).for_each(|place| world.fence(place, false));
        // What changed before is told within the second that each user has.
        world.pass(3_000);
        let count = |world: &World| world.told.values().map(|told| told.updates.len()).sum::<usize>();
        for (low, high) in world.pairs() {
            world.set_link(low, high, false);
        }
        let before = count(&world);
        world.pass(30_000);
        prop_assert_eq!(count(&world), before);
        for of in 0..USERS {
            let there = world.read(0, of);
            let sure = truth.sessions.iter().any(|(session, at)| session / 2 == of && *at == (0, true));
            prop_assert!(sure || there.certainty == Certainty::Unknown, "{:?}", there);
        }
    }
}
