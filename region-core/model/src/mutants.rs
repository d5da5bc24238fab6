//! Wrong readings in the code that ships, switched on by a test, one at a time in a process. Without the feature
//! `mutants` every switch is off and compiled to nothing.

use crate::ownership::Flaw;

/// One wrong reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// One of ownership's rules is read wrongly.
    Rule(Flaw),
    /// A region that held a lease once goes on for ever.
    LeaseNeverLapses,
    /// A region is fenced while it may still hold its lease.
    FenceWithoutWaiting,
    /// A device's later sends overtake those that are parked.
    ParkedIsOvertaken,
    /// A home acks what it has decided, and its disk may not have yet.
    AckBeforeDisk,
    /// A replica tells the home of entries that its disk may not have yet.
    CopyBeforeDisk,
    /// A voter says that it promised before the promise is on its disk.
    SealBeforeDisk,
    /// Nothing is compared and nothing is asked for again but when a link comes up.
    AntiEntropyOff,
    /// A device hears that its message is parked before the message is on disk.
    QueuedBeforeDisk,
    /// What was parked is forgotten at a start.
    ParkedLostAtStart,
    /// What follows from an entry is not written down with it, and lost at a crash.
    PublishLost,
    /// Who comes second in a race to place a log places it again.
    PlacedTwice,
    /// The range below a follower's stream ends an entry before the stream.
    PullWithGap,
    /// A session is shown what comes behind a hole, and is not told of that.
    HoleUntold,
    /// What waits whether it wakes somebody is kept as decided.
    WaitingCountsAsDecided,
    /// Who comes again is offered what was said while it was no member.
    JoinsOverlooked,
    /// Nobody looks at a record because of what its user wants to be woken for.
    PreferencesOverlooked,
    /// A device that gets another token is sent to at the one that it had.
    TokenStays,
    /// What another region told of who types is not over by itself.
    TypingWithoutEnd,
    /// Whoever is a member is told who types, whatever is in view.
    TypingOutOfView,
    /// A home keeps to itself what another region told of who types.
    TypingNotPassedOn,
    /// All sessions of a node that is drained are to reconnect at the same moment.
    OneSlotForAll,
    /// A session that is told to leave is closed at once.
    DrainedAtOnce,
    /// A message that is sent again counts as another one.
    RetriesCount,
    /// Media go by what a copy says that may lack something.
    MediaByOldCopies,
    /// What stands above the mark of a home does not keep media.
    BlindAboveTheMark,
    /// A conversation is looked through for media from a number on, whatever the line has there now.
    ScanGoesOnBlindly,
    /// An entry that a failover put apart counts as gone for good.
    PutApartIsGone,
    /// How far a user has read is the highest number that it said, whatever of that left the line since.
    DeliveredOnAnyLine,
    /// What passed under the number of a message is told of it, whatever message that was.
    HopsByNumber,
    /// Whoever asks is told that the user blocks the sender, and where it is.
    BlocksAreTold,
}

impl Mutant {
    /// Every mutant with its name on the command line.
    pub const ALL: [(&'static str, Self); 50] = [
        ("seal-off", Self::Rule(Flaw::SealOff)),
        ("one-seal-too-few", Self::Rule(Flaw::OneSealTooFew)),
        ("longest-wins", Self::Rule(Flaw::LongestWins)),
        ("entry-epoch-wins", Self::Rule(Flaw::EntryEpochWins)),
        ("accept-at-first-append", Self::Rule(Flaw::AcceptAtFirstAppend)),
        ("accept-with-tail", Self::Rule(Flaw::AcceptWithTail)),
        ("predecessor-unchecked", Self::Rule(Flaw::PredecessorUnchecked)),
        ("tail-dropped", Self::Rule(Flaw::TailDropped)),
        ("count-unaccepted", Self::Rule(Flaw::CountUnaccepted)),
        ("count-after-seal", Self::Rule(Flaw::CountAfterSeal)),
        ("ack-before-copies", Self::Rule(Flaw::AckBeforeCopies)),
        ("retry-at-once", Self::Rule(Flaw::RetryAtOnce)),
        ("no-dedup", Self::Rule(Flaw::NoDedup)),
        ("mark-by-conversation", Self::Rule(Flaw::MarkByConversation)),
        ("fence-forgiven", Self::Rule(Flaw::FenceForgiven)),
        ("move-without-seal", Self::Rule(Flaw::MoveWithoutSeal)),
        ("move-copies-home-only", Self::Rule(Flaw::MoveCopiesHomeOnly)),
        ("new-store-trusted", Self::Rule(Flaw::NewStoreTrusted)),
        ("old-store-unnoticed", Self::Rule(Flaw::OldStoreUnnoticed)),
        ("no-opening-above", Self::Rule(Flaw::NoOpeningAbove)),
        ("lease-never-lapses", Self::LeaseNeverLapses),
        ("fence-without-waiting", Self::FenceWithoutWaiting),
        ("parked-is-overtaken", Self::ParkedIsOvertaken),
        ("ack-before-disk", Self::AckBeforeDisk),
        ("copy-before-disk", Self::CopyBeforeDisk),
        ("seal-before-disk", Self::SealBeforeDisk),
        ("anti-entropy-off", Self::AntiEntropyOff),
        ("queued-before-disk", Self::QueuedBeforeDisk),
        ("parked-lost-at-start", Self::ParkedLostAtStart),
        ("publish-lost", Self::PublishLost),
        ("pull-with-gap", Self::PullWithGap),
        ("placed-twice", Self::PlacedTwice),
        ("hole-untold", Self::HoleUntold),
        ("waiting-counts-as-decided", Self::WaitingCountsAsDecided),
        ("joins-overlooked", Self::JoinsOverlooked),
        ("preferences-overlooked", Self::PreferencesOverlooked),
        ("token-stays", Self::TokenStays),
        ("typing-without-end", Self::TypingWithoutEnd),
        ("typing-out-of-view", Self::TypingOutOfView),
        ("typing-not-passed-on", Self::TypingNotPassedOn),
        ("one-slot-for-all", Self::OneSlotForAll),
        ("drained-at-once", Self::DrainedAtOnce),
        ("retries-count", Self::RetriesCount),
        ("media-by-old-copies", Self::MediaByOldCopies),
        ("blind-above-the-mark", Self::BlindAboveTheMark),
        ("scan-goes-on-blindly", Self::ScanGoesOnBlindly),
        ("put-apart-is-gone", Self::PutApartIsGone),
        ("delivered-on-any-line", Self::DeliveredOnAnyLine),
        ("hops-by-number", Self::HopsByNumber),
        ("blocks-are-told", Self::BlocksAreTold),
    ];

    /// Whether it is switched on.
    #[must_use]
    #[inline]
    pub fn is_on(self) -> bool {
        #[cfg(feature = "mutants")]
        return switch::is_any() && switch::get() == Some(self);
        #[cfg(not(feature = "mutants"))]
        false
    }
}

#[cfg(feature = "mutants")]
mod switch {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Mutant;

    /// The place of the mutant in [`Mutant::ALL`], counted from 1; 0 for none.
    static ON: AtomicUsize = AtomicUsize::new(0);

    /// Whether one is on: asked inline, in most runs none is.
    #[inline]
    pub(super) fn is_any() -> bool {
        ON.load(Ordering::Relaxed) > 0
    }

    #[cold]
    pub(super) fn get() -> Option<Mutant> {
        let place = ON.load(Ordering::Relaxed).checked_sub(1)?;
        Mutant::ALL.get(place).map(|(_, mutant)| *mutant)
    }

    pub(super) fn set(place: usize) {
        ON.store(place, Ordering::Relaxed);
    }
}

/// Switches a mutant on by its name, or all off; returns whether there is such a one.
#[cfg(feature = "mutants")]
pub fn switch_on(name: Option<&str>) -> bool {
    let place = match name {
        None => Some(0),
        Some(name) => Mutant::ALL.iter().position(|(known, _)| *known == name).map(|place| place + 1),
    };
    switch::set(place.unwrap_or(0));
    place.is_some()
}
