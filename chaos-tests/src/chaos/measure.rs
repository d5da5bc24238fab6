//! What a history says beside the checker's verdict: under which epochs there were acks, and how long a failover took.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hearth_protocol::{ConversationId, MessageId};
use simulation::history::{Event, History};

/// A fault as it was performed, by the clock of the history, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Performed {
    /// Its place in the plan.
    pub fault: usize,
    /// The region that is gone for the others while it lasts.
    pub takes_away: Option<usize>,
    /// Whether the map must fail that region over.
    pub fails_over: bool,
    /// When.
    pub began: u64,
    /// Until when.
    pub ended: u64,
}

/// How the homes of one region that was gone came to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rehomed {
    /// The fault, by its place in the plan.
    pub fault: usize,
    /// From the fault to the first ack under a newer epoch, for each conversation whose home was gone, ascending.
    pub after: Vec<Duration>,
    /// Conversations without such an ack.
    pub without: usize,
}

/// The last home of each conversation by what was acked before a moment, and its epoch.
fn homes_before(history: &History, moment: u64) -> BTreeMap<ConversationId, (usize, u64)> {
    let mut homes: BTreeMap<ConversationId, (usize, u64)> = BTreeMap::new();
    for (at, event) in &history.events {
        let Event::Ack { conversation, acked, .. } = event else { continue };
        let Some(home) = acked.home.filter(|_| *at < moment && !acked.again) else { continue };
        let known = homes.entry(*conversation).or_insert((home, 0));
        if acked.position.epoch.0 >= known.1 {
            *known = (home, acked.position.epoch.0);
        }
    }
    homes
}

/// For each fault that takes a region away for long enough to fail it over: when its homes acked again elsewhere.
#[must_use]
pub fn rehomed(history: &History, performed: &[Performed]) -> Vec<Rehomed> {
    let long = performed.iter().filter(|fault| fault.fails_over);
    long.map(|fault| {
        let mut open: BTreeMap<ConversationId, u64> = homes_before(history, fault.began)
            .into_iter()
            .filter(|(_, (home, _))| Some(*home) == fault.takes_away)
            .map(|(conversation, (_, epoch))| (conversation, epoch))
            .collect();
        let mut after = Vec::new();
        for (at, event) in &history.events {
            let Event::Ack { conversation, acked, .. } = event else { continue };
            let newer = open.get(conversation).is_some_and(|epoch| acked.position.epoch.0 > *epoch);
            if *at > fault.began && newer && !acked.again {
                open.remove(conversation);
                after.push(Duration::from_micros(at - fault.began));
            }
        }
        Rehomed { fault: fault.fault, after, without: open.len() }
    })
    .collect()
}

/// Epochs that were seen of each conversation: in an ack, in what a session was shown, in a reading, or in `opened`,
/// which is what regions said. Those without an ack come second.
#[must_use]
pub fn epochs(
    history: &History,
    opened: &BTreeMap<ConversationId, BTreeSet<u64>>,
) -> (usize, Vec<(ConversationId, u64)>) {
    let mut acked: BTreeSet<(ConversationId, u64)> = BTreeSet::new();
    let mut seen: BTreeSet<(ConversationId, u64)> = BTreeSet::new();
    for (_, event) in &history.events {
        match event {
            Event::Ack { conversation, acked: ack, .. } => {
                acked.insert((*conversation, ack.position.epoch.0));
            }
            Event::Shown(_, conversation, position, _) => {
                seen.insert((*conversation, position.epoch.0));
            }
            Event::Reading { conversation, rows, .. } => {
                seen.extend(rows.iter().map(|row| (*conversation, row.epoch)));
            }
            _ => {}
        }
    }
    let told = opened.iter().flat_map(|(conversation, epochs)| epochs.iter().map(|epoch| (*conversation, *epoch)));
    seen.extend(told);
    let without = seen.difference(&acked).copied().collect();
    (seen.union(&acked).count(), without)
}

/// The longest time between two acks of one conversation, its first and its last ack taken as ends.
#[must_use]
pub fn longest_silence(history: &History) -> Duration {
    let mut last: BTreeMap<ConversationId, u64> = BTreeMap::new();
    let mut longest = 0;
    for (at, event) in &history.events {
        if let Event::Ack { conversation, .. } = event {
            let before = last.insert(*conversation, *at).unwrap_or(*at);
            longest = longest.max(at - before);
        }
    }
    Duration::from_micros(longest)
}

/// Messages that were acked at one position and stand at another: they left a line and came back (G8).
#[must_use]
pub fn readmitted(history: &History) -> usize {
    let mut stands: BTreeMap<(ConversationId, MessageId), u64> = BTreeMap::new();
    for (_, event) in &history.events {
        if let Event::Reading { conversation, rows, .. } = event {
            stands.extend(rows.iter().map(|row| ((*conversation, row.message), row.sequence)));
        }
    }
    let moved = history.events.iter().filter_map(|(_, event)| match event {
        Event::Ack { conversation, message, acked, .. } => {
            let now = stands.get(&(*conversation, *message))?;
            (*now != acked.position.sequence.0).then_some((*conversation, *message))
        }
        _ => None,
    });
    moved.collect::<BTreeSet<_>>().len()
}

/// The middle and the greatest of some times; `None` of none.
#[must_use]
pub fn middle_and_most(times: &[Duration]) -> Option<(Duration, Duration)> {
    let mut times = times.to_vec();
    times.sort_unstable();
    Some((*times.get(times.len() / 2)?, *times.last()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_protocol::{Epoch, Level, Position, Sequence};
    use simulation::history::{Acked, Row};
    use uuid::Uuid;

    const SECOND: u64 = 1_000_000;

    fn conversation(name: u128) -> ConversationId {
        ConversationId(Uuid::from_u128(name))
    }

    fn ack(of: u128, epoch: u64, sequence: u64, home: usize) -> Event {
        let position = Position { epoch: Epoch(epoch), sequence: Sequence(sequence) };
        let (time, level) = (0, Level::default());
        let acked =
            Acked { position, time, level, home: Some(home), regions: [home].into_iter().collect(), again: false };
        let message = MessageId(Uuid::from_u128(u128::from(sequence)));
        Event::Ack { session: 0, conversation: conversation(of), message, acked, on_disk: None }
    }

    /// One conversation at home in 0, the other in 1; 0 is gone from second 2 on.
    fn story() -> (History, Performed) {
        let mut history = History::default();
        let events = [
            (1, ack(1, 1, 1, 0)),
            (1, ack(2, 1, 1, 1)),
            (3, ack(2, 1, 2, 1)),
            (9, ack(1, 3, 2, 2)),
            (10, ack(1, 3, 3, 2)),
        ];
        events.into_iter().for_each(|(at, event)| history.add(at * SECOND, event));
        let fault =
            Performed { fault: 4, takes_away: Some(0), fails_over: true, began: 2 * SECOND, ended: 20 * SECOND };
        (history, fault)
    }

    #[test]
    fn a_failover_takes_from_the_fault_to_the_first_ack_of_the_newer_epoch() {
        let (history, fault) = story();
        let of_it = Rehomed { fault: 4, after: vec![Duration::from_secs(7)], without: 0 };
        assert_eq!(rehomed(&history, &[fault]), [of_it]);
        let elsewhere = Performed { takes_away: Some(1), ..fault };
        assert_eq!(rehomed(&history, &[elsewhere]), [Rehomed { fault: 4, after: vec![], without: 1 }]);
        assert_eq!(rehomed(&history, &[Performed { fails_over: false, ..fault }]), []);
    }

    #[test]
    fn an_epoch_that_opened_and_was_never_acked_under_is_named() {
        let (history, _) = story();
        assert_eq!(epochs(&history, &BTreeMap::new()), (3, vec![]));
        let opened = BTreeMap::from([(conversation(1), BTreeSet::from([1, 2, 3]))]);
        assert_eq!(epochs(&history, &opened), (4, vec![(conversation(1), 2)]));
    }

    #[test]
    fn the_longest_silence_is_counted_for_each_conversation_by_itself() {
        assert_eq!(longest_silence(&story().0), Duration::from_secs(8));
        assert_eq!(longest_silence(&History::default()), Duration::ZERO);
    }

    #[test]
    fn a_message_that_stands_elsewhere_than_it_was_acked_has_come_back() {
        let (mut history, _) = story();
        let row = |sequence, message| Row { sequence, epoch: 1, message: MessageId(Uuid::from_u128(message)) };
        let rows = vec![row(1, 1), row(2, 3)].into();
        history.add(20 * SECOND, Event::Reading { region: 0, pass: 1, conversation: conversation(1), rows });
        assert_eq!(readmitted(&history), 1, "3 was acked at 3; 2 is lost, which others say");
    }

    #[test]
    fn the_middle_of_some_times_is_one_of_them() {
        let times = [3, 1, 2].map(Duration::from_secs);
        assert_eq!(middle_and_most(&times), Some((times[2], times[0])));
        assert_eq!(middle_and_most(&[]), None);
    }
}
