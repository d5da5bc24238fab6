use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::{ConversationId, DeviceId, Epoch, RegionId, Sequence};
use proptest::prelude::*;

use super::*;

const TIMES: PushTimes = PushTimes { grace: 1_000, view_counts: 5_000, stale: 60_000 };

fn log(number: u128) -> LogId {
    LogId::conversation(ConversationId(Uuid::from_u128(number)))
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a name")
}

fn region(name: &str) -> RegionId {
    RegionId::new(name).expect("a region")
}

fn device(number: u128) -> DeviceId {
    DeviceId(Uuid::from_u128(number))
}

fn at(epoch: u64, sequence: u64) -> Position {
    Position { epoch: Epoch(epoch), sequence: Sequence(sequence) }
}

fn offer(position: Position, now: u64) -> Offer {
    Offer {
        log: log(1),
        position,
        message: Uuid::from_u128(u128::from(position.epoch.0) << 64 | u128::from(position.sequence.0)),
        sender: user("ann"),
        mentions: false,
        sequenced_at: Timestamp(now),
        expires_at: None,
    }
}

fn bob() -> UserPush {
    UserPush::new(user("bob"), TIMES)
}

/// Why each of the decisions withholds.
fn reasons(outcome: &Outcome) -> Vec<Option<Withheld>> {
    outcome.decisions.iter().map(|decision| decision.withheld).collect()
}

fn notify(outcome: &Outcome) -> Option<(Position, u32, bool)> {
    match outcome.pushes.as_slice() {
        [Push { position, showing: Showing::Notify { unread, mentions, .. }, .. }] => {
            Some((*position, *unread, *mentions))
        }
        _ => None,
    }
}

#[test]
fn a_message_that_nobody_reads_within_the_grace_is_one_push_with_those_of_its_conversation() {
    let mut bob = bob();
    assert_eq!(bob.offered(offer(at(1, 1), 0), Timestamp(0)), Outcome::default());
    assert_eq!(bob.offered(offer(at(1, 2), 600), Timestamp(600)), Outcome::default());
    assert_eq!(bob.due(), Some(Timestamp(1_000)));
    assert_eq!(bob.elapsed(Timestamp(999)), Outcome::default());
    let first = bob.elapsed(Timestamp(1_600));
    assert_eq!(reasons(&first), [None, None]);
    assert_eq!(notify(&first), Some((at(1, 2), 2, false)));
    assert_eq!((bob.due(), bob.elapsed(Timestamp(9_000))), (None, Outcome::default()));
    bob.offered(Offer { mentions: true, ..offer(at(1, 3), 9_000) }, Timestamp(9_000));
    assert_eq!(notify(&bob.elapsed(Timestamp(10_000))), Some((at(1, 3), 3, true)));
}

#[test]
fn each_message_has_its_whole_grace_whatever_came_before_it() {
    let mut bob = bob();
    bob.offered(offer(at(1, 1), 0), Timestamp(0));
    bob.offered(offer(at(1, 2), 600), Timestamp(600));
    assert_eq!(notify(&bob.elapsed(Timestamp(1_000))), Some((at(1, 1), 1, false)));
    assert_eq!(bob.due(), Some(Timestamp(1_600)));
    bob.read(log(1), at(1, 2), Timestamp(1_500));
    assert_eq!(reasons(&bob.elapsed(Timestamp(1_600))), [Some(Withheld::Read)]);
}

#[test]
fn what_a_device_reads_within_the_grace_is_withheld_and_reading_the_rest_clears() {
    let mut bob = bob();
    for sequence in 1..=3 {
        bob.offered(offer(at(1, sequence), 0), Timestamp(0));
    }
    assert_eq!(bob.read(log(1), at(1, 1), Timestamp(10)), Outcome::default());
    let decided = bob.elapsed(Timestamp(1_000));
    assert_eq!(reasons(&decided), [Some(Withheld::Read), None, None]);
    assert_eq!(bob.read(log(1), at(1, 2), Timestamp(1_100)), Outcome::default(), "one of two is read");
    let cleared = Push { log: log(1), position: at(1, 3), showing: Showing::Clear };
    assert_eq!(bob.read(log(1), at(1, 7), Timestamp(1_200)).pushes, [cleared]);
    assert_eq!(bob.read(log(1), at(1, 8), Timestamp(1_300)), Outcome::default(), "nothing is shown any more");
}

#[test]
fn a_cursor_of_an_older_epoch_does_not_withhold_what_a_newer_one_sequenced() {
    let mut bob = bob();
    bob.read(log(1), at(1, 9), Timestamp(0));
    bob.offered(offer(at(2, 7), 0), Timestamp(0));
    assert_eq!(reasons(&bob.elapsed(Timestamp(1_000))), [None]);
}

#[test]
fn a_view_at_any_device_in_any_region_withholds_for_as_long_as_it_is_told() {
    let mut bob = bob();
    bob.viewed(region("ap-east"), device(1), Some(log(1)), Timestamp(0));
    assert_eq!(reasons(&bob.offered(offer(at(1, 1), 0), Timestamp(0))), [Some(Withheld::InView)]);
    bob.viewed(region("ap-east"), device(1), Some(log(2)), Timestamp(10));
    bob.offered(offer(at(1, 2), 10), Timestamp(10));
    let seen = bob.viewed(region("eu-west"), device(2), Some(log(1)), Timestamp(500));
    assert_eq!(reasons(&seen), [Some(Withheld::InView)], "it came into view within the grace");
    bob.offered(offer(at(1, 3), 5_500), Timestamp(5_500));
    assert_eq!(reasons(&bob.elapsed(Timestamp(6_500))), [None], "nobody said again that it is in view");
    bob.viewed(region("eu-west"), device(2), Some(log(1)), Timestamp(7_000));
    bob.viewed(region("eu-west"), device(2), None, Timestamp(7_100));
    bob.offered(offer(at(1, 4), 7_200), Timestamp(7_200));
    assert_eq!(reasons(&bob.elapsed(Timestamp(8_200))), [None], "the session is over");
}

#[test]
fn mute_and_mentions_only_withhold_by_what_the_user_wants_when_the_grace_is_over() {
    let decide = |preferences: Preferences, mentions: bool| {
        let mut bob = bob();
        bob.offered(Offer { mentions, ..offer(at(1, 1), 0) }, Timestamp(0));
        bob.prefers(log(1), preferences);
        reasons(&bob.elapsed(Timestamp(1_000)))[0]
    };
    let wants = |policy, muted_until: Option<u64>| Preferences { policy, muted_until: muted_until.map(Timestamp) };
    assert_eq!(decide(wants(PushPolicy::All, None), false), None);
    assert_eq!(decide(wants(PushPolicy::Mentions, None), true), None);
    assert_eq!(decide(wants(PushPolicy::Mentions, None), false), Some(Withheld::NotMentioned));
    assert_eq!(decide(wants(PushPolicy::None, None), true), Some(Withheld::Unwanted));
    assert_eq!(decide(wants(PushPolicy::All, Some(1_001)), true), Some(Withheld::Muted), "mentions neither");
    assert_eq!(decide(wants(PushPolicy::All, Some(1_000)), false), None, "the mute is over");
}

#[test]
fn own_expired_and_late_messages_and_those_of_a_conversation_that_was_left_wake_nobody() {
    let mut bob = bob();
    let own = Offer { sender: user("bob"), ..offer(at(1, 1), 0) };
    assert_eq!(reasons(&bob.offered(own, Timestamp(0))), [Some(Withheld::Own)]);
    bob.offered(Offer { expires_at: Some(Timestamp(900)), ..offer(at(1, 2), 0) }, Timestamp(0));
    assert_eq!(reasons(&bob.elapsed(Timestamp(1_000))), [Some(Withheld::Stale)]);
    bob.offered(offer(at(1, 3), 0), Timestamp(59_500));
    assert_eq!(reasons(&bob.elapsed(Timestamp(60_500))), [Some(Withheld::Stale)]);
    bob.offered(offer(at(1, 4), 61_000), Timestamp(61_000));
    bob.elapsed(Timestamp(62_000));
    bob.offered(offer(at(1, 5), 62_000), Timestamp(62_000));
    let left = bob.left(log(1), Timestamp(62_100));
    assert_eq!(reasons(&left), [Some(Withheld::Unwanted)]);
    assert_eq!(left.pushes, [Push { log: log(1), position: at(1, 4), showing: Showing::Clear }]);
}

#[test]
fn a_repeat_is_not_decided_again_not_even_at_another_position_or_by_another_process() {
    let mut bob = bob();
    for _ in 0..3 {
        bob.offered(offer(at(1, 5), 0), Timestamp(0));
    }
    assert_eq!(bob.decided(log(1)), Some(at(1, 4)), "what waits is not decided");
    assert_eq!(reasons(&bob.elapsed(Timestamp(1_000))), [None]);
    assert_eq!(bob.decided(log(1)), Some(at(1, 5)));
    assert_eq!(bob.offered(offer(at(1, 5), 0), Timestamp(2_000)), Outcome::default());
    let again = Offer { position: at(2, 5), ..offer(at(1, 5), 0) };
    assert_eq!(reasons(&bob.offered(again, Timestamp(2_000))), [Some(Withheld::Repeated)]);
    let mut other = UserPush::new(user("bob"), TIMES);
    other.resume(log(1), Some(at(2, 5)), &[at(1, 9), at(2, 6)]);
    assert_eq!(other.offered(offer(at(1, 5), 0), Timestamp(3_000)), Outcome::default());
    other.offered(offer(at(2, 6), 3_000), Timestamp(3_000));
    assert_eq!(reasons(&other.elapsed(Timestamp(4_000))), [Some(Withheld::Read)]);
}

#[test]
fn what_is_remembered_of_a_user_is_bounded_and_whatever_waits_is_decided_first() {
    let mut bob = bob();
    let mut decided = 0;
    for sequence in 1..=(WAITING as u64 + 5) {
        decided += bob.offered(offer(at(1, sequence), 0), Timestamp(0)).decisions.len();
    }
    assert_eq!(decided, 5, "the oldest do not wait for their grace");
    for number in 0..(CONVERSATIONS as u128 + 5) {
        let offer = Offer { log: log(100 + number), message: Uuid::from_u128(number), ..offer(at(1, 1), 1) };
        decided += bob.offered(offer, Timestamp(1)).decisions.len();
    }
    decided += bob.elapsed(Timestamp(2_000)).decisions.len();
    assert_eq!(decided, WAITING + 5 + CONVERSATIONS + 5);
    for number in 0..200 {
        bob.viewed(region("eu-west"), device(number), Some(log(number)), Timestamp(2_000));
    }
    let seen = |number: u128, bob: &mut UserPush| {
        let offer = Offer { log: log(number), message: Uuid::from_u128(number << 32), ..offer(at(9, 9), 2_000) };
        reasons(&bob.offered(offer, Timestamp(2_000)))
    };
    let counted = (0..200).filter(|number| !seen(*number, &mut bob).is_empty()).count();
    assert_eq!(counted, VIEWS);
}

#[derive(Clone, Debug)]
enum Step {
    Offer { log: u128, back: u64, mentions: bool, own: bool },
    Epoch { log: u128, rewind: u64 },
    Read { log: u128, back: u64 },
    View { device: u128, log: Option<u128> },
    Mute { log: u128, policy: u8, muted: bool },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let log = || 0..3u128;
    prop_oneof![
        6 => (log(), 0..3u64, any::<bool>(), 0..6u8)
            .prop_map(|(log, back, mentions, own)| Step::Offer { log, back, mentions, own: own == 0 }),
        1 => (log(), 0..4u64).prop_map(|(log, rewind)| Step::Epoch { log, rewind }),
        2 => (log(), 0..3u64).prop_map(|(log, back)| Step::Read { log, back }),
        1 => (0..3u128, proptest::option::of(log())).prop_map(|(device, log)| Step::View { device, log }),
        1 => (log(), 0..3u8, any::<bool>()).prop_map(|(log, policy, muted)| Step::Mute { log, policy, muted }),
        3 => (0..2_000u64).prop_map(Step::Wait),
    ]
}

/// What a plain reading of the rules keeps: everything, for ever.
#[derive(Default)]
struct Reference {
    now: u64,
    heads: BTreeMap<u128, Position>,
    offered: BTreeSet<(LogId, Position)>,
    decided: BTreeMap<(LogId, Position), Option<Withheld>>,
    reads: BTreeMap<LogId, BTreeSet<Position>>,
    views: BTreeMap<u128, (LogId, u64)>,
    shown: BTreeMap<LogId, u32>,
}

impl Reference {
    fn read(&self, log: LogId, position: Position) -> bool {
        let covers = |read: &Position| read.epoch >= position.epoch && read.sequence >= position.sequence;
        self.reads.get(&log).is_some_and(|reads| reads.iter().any(covers))
    }

    fn take(&mut self, outcome: Outcome) -> Result<(), TestCaseError> {
        for Decision { log, position, withheld, .. } in outcome.decisions {
            prop_assert!(self.offered.contains(&(log, position)), "nobody offered it");
            prop_assert!(self.decided.insert((log, position), withheld).is_none(), "decided twice: {position:?}");
            if withheld.is_none() {
                let viewed = self.views.values().any(|(of, until)| *of == log && *until > self.now);
                prop_assert!(!viewed && !self.read(log, position), "a device has it in view, or read it");
            }
        }
        let conversations: BTreeSet<LogId> = outcome.pushes.iter().map(|push| push.log).collect();
        prop_assert_eq!(conversations.len(), outcome.pushes.len(), "collapsed per conversation");
        for push in outcome.pushes {
            match push.showing {
                Showing::Notify { unread, .. } => self.shown.insert(push.log, unread),
                Showing::Clear => self.shown.remove(&push.log),
            };
        }
        Ok(())
    }

    fn check_shown(&self) -> Result<(), TestCaseError> {
        for number in 0..3 {
            let unread = |((of, position), why): (&(LogId, Position), &Option<Withheld>)| {
                *of == log(number) && why.is_none() && !self.read(*of, *position)
            };
            let unread = self.decided.iter().any(|(key, why)| unread((key, why)));
            prop_assert_eq!(self.shown.contains_key(&log(number)), unread, "shown just while something is unread");
        }
        Ok(())
    }
}

fn apply(bob: &mut UserPush, reference: &mut Reference, step: Step) -> Result<(), TestCaseError> {
    let now = Timestamp(reference.now);
    let head = |reference: &Reference, log: u128| reference.heads.get(&log).copied().unwrap_or(at(1, 0));
    let outcome = match step {
        Step::Offer { log: number, back, mentions, own } => {
            let mut position = head(reference, number);
            if back == 0 {
                position.sequence.0 += 1;
                reference.heads.insert(number, position);
            } else {
                position.sequence.0 = position.sequence.0.saturating_sub(back - 1).max(1);
                let known = reference.offered.contains(&(log(number), position));
                if !known {
                    return Ok(());
                }
            }
            reference.offered.insert((log(number), position));
            let sender = user(if own { "bob" } else { "ann" });
            bob.offered(
                Offer {
                    log: log(number),
                    mentions,
                    sender,
                    message: Uuid::from_u128(
                        number << 96 | u128::from(position.epoch.0) << 64 | u128::from(position.sequence.0),
                    ),
                    ..offer(position, reference.now)
                },
                now,
            )
        }
        Step::Epoch { log, rewind } => {
            let mut position = head(reference, log);
            position.epoch.0 += 1;
            position.sequence.0 = position.sequence.0.saturating_sub(rewind);
            reference.heads.insert(log, position);
            Outcome::default()
        }
        Step::Read { log: number, back } => {
            let mut position = head(reference, number);
            position.sequence.0 = position.sequence.0.saturating_sub(back);
            reference.reads.entry(log(number)).or_default().insert(position);
            bob.read(log(number), position, now)
        }
        Step::View { device: number, log: view } => {
            reference.views.remove(&number);
            let outcome = bob.viewed(region("eu-west"), device(number), view.map(log), now);
            if let Some(view) = view {
                reference.views.insert(number, (log(view), reference.now + TIMES.view_counts));
            }
            outcome
        }
        Step::Mute { log: number, policy, muted } => {
            let policy = [PushPolicy::All, PushPolicy::Mentions, PushPolicy::None][usize::from(policy)];
            bob.prefers(log(number), Preferences { policy, muted_until: muted.then_some(Timestamp(now.0 + 3_000)) });
            Outcome::default()
        }
        Step::Wait(time) => {
            reference.now += time;
            bob.elapsed(Timestamp(reference.now))
        }
    };
    reference.take(outcome)?;
    reference.check_shown()
}

proptest! {
    #[test]
    fn every_message_is_decided_once_and_pushed_only_while_no_device_has_it_in_view_or_read_it(
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let (mut bob, mut reference) = (bob(), Reference::default());
        for step in steps {
            apply(&mut bob, &mut reference, step)?;
        }
        reference.now += TIMES.grace;
        let last = bob.elapsed(Timestamp(reference.now));
        reference.take(last)?;
        reference.check_shown()?;
        let decided: BTreeSet<(LogId, Position)> = reference.decided.keys().copied().collect();
        prop_assert_eq!(&decided, &reference.offered, "every message has its decision");
        prop_assert_eq!(bob.due(), None);
    }

    #[test]
    fn what_is_kept_of_the_decisions_lets_another_process_go_on_without_a_message_lost(
        offers in 1..30u64, until in 0..4_000u64,
    ) {
        let mut bob = bob();
        let mut decided = BTreeSet::new();
        for sequence in 1..=offers {
            let now = Timestamp(sequence * 100);
            decided.extend(bob.elapsed(now).decisions.iter().map(|decision| decision.position));
            bob.offered(offer(at(1, sequence), now.0), now);
        }
        decided.extend(bob.elapsed(Timestamp(until)).decisions.iter().map(|decision| decision.position));
        let mut next = UserPush::new(user("bob"), TIMES);
        next.resume(log(1), bob.decided(log(1)), &[]);
        for sequence in 1..=offers {
            next.offered(offer(at(1, sequence), 4_000), Timestamp(4_000));
        }
        for decision in next.elapsed(Timestamp(5_000)).decisions {
            prop_assert!(decided.insert(decision.position), "decided twice");
        }
        prop_assert_eq!(decided.len() as u64, offers);
    }
}
