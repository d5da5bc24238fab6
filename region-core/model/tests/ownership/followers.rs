//! A follower and three lines of one log: what arrives late, from whom, and what it may show.

use hearth_protocol::{Epoch, Level};
use region_model::ownership::{
    Append, Flaw, Held, LineEntry, OpeningAt, Replica, Rules, Said, Shipped, StageWrite, Standing, Write,
};
use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::entry::{Entry, insert};

/// One epoch: what it opened with, all that its home ever wrote, and how far that was marked at last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Line {
    opening: OpeningAt<u32>,
    entries: Vec<Entry>,
    mark: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Following {
    /// Nobody's state: which of the possible histories it is.
    lines: Vec<Line>,
    replica: Replica<Entry>,
    log: Vec<Entry>,
    staged: Vec<Entry>,
    shown: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Event {
    /// The home of a line answers the subscription, when its log was so long.
    Subscribed { line: usize, start: u64 },
    /// An entry of a home's stream.
    Stream { line: usize, index: usize },
    /// A home's mark.
    Mark { line: usize },
    /// An entry pulled from a replica that is on a line.
    Pulled { line: usize, index: usize },
}

#[derive(Clone, Debug)]
struct Follower {
    flaw: Option<Flaw>,
}

impl Rules for Follower {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }
}

/// A line that goes on from the first `first` entries of another with so many messages.
fn line(epoch: u8, base: &[Entry], first: usize, messages: &[u8], marked: usize) -> Line {
    let mut entries = base[..first].to_vec();
    let previous = |entries: &[Entry]| entries.last().map_or(0, LineEntry::chain);
    let opening = OpeningAt { epoch: Epoch(u64::from(epoch)), first: first as u64, previous: previous(&entries) };
    for message in messages {
        let sequence = u8::try_from(entries.len()).expect("small");
        let previous = previous(&entries);
        entries.push(Entry { epoch, sequence, message: *message, level: Level::TwoRegions, previous });
    }
    Line { opening, mark: marked as u64, entries }
}

/// Every history of three epochs in which no mark is rewound.
fn histories() -> Vec<Vec<Line>> {
    let mut all = Vec::new();
    for marked in 0..=2 {
        let first = line(1, &[], 0, &[1, 2], marked);
        for second_opens in marked..=2 {
            for second_marked in second_opens..=second_opens + 1 {
                let second = line(2, &first.entries, second_opens, &[3], second_marked);
                for third_opens in second_marked..=second.entries.len() {
                    let third = line(3, &second.entries, third_opens, &[4], third_opens + 1);
                    all.push(vec![first.clone(), second.clone(), third]);
                }
                if second_marked == second_opens {
                    // Nothing of the second epoch was marked: the third may have opened on the first one's line.
                    let third = line(3, &first.entries, second_opens, &[4], second_opens + 1);
                    all.push(vec![first.clone(), second, third]);
                }
            }
        }
    }
    all
}

impl Following {
    fn commit(&mut self, write: Option<Write<Entry>>) {
        let Some(write) = write else { return };
        match write.stage {
            StageWrite::Keep => {}
            StageWrite::Drop => self.staged.clear(),
            StageWrite::Start(entries) => self.staged = entries,
            StageWrite::Extend(entries) => self.staged.extend(entries),
        }
        if let Some(from) = write.apart {
            self.log.truncate(usize::try_from(from).expect("small"));
        }
        if write.adopt {
            self.log.append(&mut self.staged);
        }
        self.log.extend(write.append);
        let marked = usize::try_from(self.replica.standing().mark).expect("small").min(self.log.len());
        for entry in self.log[..marked].iter().copied() {
            insert(&mut self.shown, entry);
        }
    }

    fn perform(&mut self, rules: &Follower, event: Event) {
        let step = match event {
            Event::Subscribed { line, start } => {
                let line = &self.lines[line];
                let previous = line.entries.as_slice().hash_before(start).ok().flatten().unwrap_or(0);
                self.replica.handle_subscribed(self.log.as_slice(), line.opening, start, previous, rules)
            }
            Event::Stream { line, index } => {
                let line = &self.lines[line];
                let entries = vec![line.entries[index]];
                let append = Append { epoch: line.opening.epoch, opening: line.opening, entries, mark: 0 };
                if self.replica.hold_above(&append) {
                    return;
                }
                self.replica.handle_append(self.log.as_slice(), &append, rules)
            }
            Event::Mark { line } => {
                let line = &self.lines[line];
                let append =
                    Append { epoch: line.opening.epoch, opening: line.opening, entries: Vec::new(), mark: line.mark };
                self.replica.handle_append(self.log.as_slice(), &append, rules)
            }
            Event::Pulled { line, index } => {
                let entries = [self.lines[line].entries[index]];
                self.replica.handle_pulled(self.log.as_slice(), &entries, rules)
            }
        };
        let step = step.expect("a log in memory has all hashes");
        self.commit(step.write);
    }
}

impl Model for Follower {
    type State = Following;
    type Action = Event;

    fn init_states(&self) -> Vec<Following> {
        let begin = |lines| Following {
            lines,
            replica: Replica::new(Standing::empty()),
            log: Vec::new(),
            staged: Vec::new(),
            shown: Vec::new(),
        };
        histories().into_iter().map(begin).collect()
    }

    fn actions(&self, state: &Following, actions: &mut Vec<Event>) {
        for (line, of) in state.lines.iter().enumerate() {
            let length = of.entries.len() as u64;
            actions.extend((of.opening.first..=length).map(|start| Event::Subscribed { line, start }));
            actions.extend((0..of.entries.len()).map(|index| Event::Stream { line, index }));
            actions.push(Event::Mark { line });
            if state.replica.arrival().is_some() {
                actions.extend((0..of.entries.len()).map(|index| Event::Pulled { line, index }));
            }
        }
    }

    fn next_state(&self, before: &Following, event: Event) -> Option<Following> {
        let mut state = before.clone();
        state.perform(self, event);
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("an accepted log is on its home's line", |_, state: &Following| {
                let standing = state.replica.standing();
                // Between a promise and its opening the log may grow along the newer line already.
                let settled = standing.accepted == standing.sealed;
                let line = state.lines.iter().find(|line| settled && line.opening.epoch == standing.accepted);
                line.is_none_or(|line| line.entries.starts_with(&state.log))
            }),
            Property::always("shown stays", |_, state: &Following| {
                let newest = state.lines.last().expect("three lines");
                state.shown.iter().all(|entry| newest.entries.contains(entry))
            }),
            Property::sometimes("the newest line was shown to its end", |_, state: &Following| {
                state.lines.last().is_some_and(|line| line.entries.iter().all(|entry| state.shown.contains(entry)))
            }),
            Property::sometimes("a stream was held", |_, state: &Following| {
                state.replica.arrival().is_some_and(|arrival| !arrival.above.is_empty())
            }),
        ]
    }
}

fn messages(entries: &[Entry]) -> Vec<u8> {
    entries.iter().map(|entry| entry.message).collect()
}

/// Explores; returns the violated property.
fn explore(name: &str, flaw: Option<Flaw>) -> Option<&'static str> {
    let checker = Follower { flaw }.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let violated = ["an accepted log is on its home's line", "shown stays"]
        .into_iter()
        .find(|property| checker.discovery(property).is_some());
    let path = violated.and_then(|property| checker.discovery(property));
    if let Some(path) = path.as_ref().filter(|_| std::env::var_os("HEARTH_MODEL_STEPS").is_some()) {
        let line =
            |line: &Line| format!("{} at {}: {:?}", line.opening.epoch.0, line.opening.first, messages(&line.entries));
        let lines = path.last_state().lines.iter().map(line).collect::<Vec<_>>();
        println!("lines {lines:?}, log {:?}", messages(&path.last_state().log));
        println!("{:?}\n{:?}", path.clone().into_actions(), path.last_state().replica);
    }
    let steps = path.map(|path| path.into_actions().len());
    println!(
        "{name} | {} states | {} distinct | depth {} | violated: {violated:?} in {steps:?} steps",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    if violated.is_none() {
        for seen in ["the newest line was shown to its end", "a stream was held"] {
            assert!(checker.discovery(seen).is_some(), "never seen: {seen}");
        }
    }
    violated
}

#[test]
fn a_follower_stays_on_its_homes_line() {
    assert_eq!(explore("follower, 3 epochs", None), None);
}

#[test]
fn a_follower_refuses_an_older_stream() {
    assert!(explore("mutant: follower takes an older stream", Some(Flaw::FollowerTakesOlder)).is_some());
}

#[test]
fn a_new_subscription_drops_what_was_held() {
    assert!(explore("mutant: held over a subscription", Some(Flaw::HeldOverSubscription)).is_some());
}

#[test]
fn a_pulled_range_is_checked_where_it_meets_the_stream() {
    assert!(explore("mutant: pulled range unchecked", Some(Flaw::PullUnchecked)).is_some());
}

/// What a home does with each answer of a replica, until the replica accepted: the number of frames, or `None` when the
/// two go round. `first` is where the home begins, `page` how many entries a frame has.
fn frames_until_accepted(old: &Line, new: &Line, first: u64, page: usize) -> Option<usize> {
    let standing = Standing { accepted: old.opening.epoch, openings: vec![old.opening], ..Standing::empty() };
    let (log, replica) = (old.entries.clone(), Replica::new(standing));
    let mut following = Following { lines: Vec::new(), replica, log, staged: Vec::new(), shown: Vec::new() };
    let mut place = first;
    for frames in 0..50 {
        if following.replica.standing().accepted == new.opening.epoch {
            assert_eq!(following.log[..], new.entries[..following.log.len()], "what is accepted is the new line");
            return Some(frames);
        }
        let from = usize::try_from(place).expect("small").min(new.entries.len());
        let entries = new.entries[from..].iter().take(page).copied().collect();
        let append = Append { epoch: new.opening.epoch, opening: new.opening, entries, mark: 0 };
        let step = following.replica.handle_append(following.log.as_slice(), &append, &Shipped);
        let step = step.expect("a log in memory has all hashes");
        following.commit(step.write);
        place = match step.then[..] {
            [.., Said::Asks { from }] => from,
            [.., Said::Holds { length, .. }] => length.min(new.opening.first.saturating_sub(1)),
            _ => return None,
        };
    }
    None
}

#[test]
fn a_replica_comes_to_a_newer_line_wherever_its_home_begins() {
    let old_messages: Vec<u8> = (1..=9).collect();
    for held in 0..old_messages.len() {
        let old = line(1, &[], 0, &old_messages[..held], 0);
        for fork in 0..=held {
            let between = line(2, &old.entries, fork, &[21, 22, 23, 24, 25, 26], 0);
            for opens in fork..=between.entries.len() {
                let new = line(3, &between.entries, opens, &[31, 32, 33, 34, 35], 0);
                for (first, page) in (0..=new.entries.len()).flat_map(|first| [(first, 1), (first, 3), (first, 99)]) {
                    let frames = frames_until_accepted(&old, &new, first as u64, page);
                    assert!(frames.is_some(), "{held} held, fork {fork}, opens {opens}, from {first} by {page}");
                }
            }
        }
    }
}
