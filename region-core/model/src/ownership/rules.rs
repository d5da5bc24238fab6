//! Wrong readings of the protocol that tests switch on, to show that the models and the simulator would notice.

/// One wrong reading. Each was refuted by a model (docs/ownership.md names the property that it breaks).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flaw {
    /// A seal is answered and not kept, and no append is refused for its epoch.
    SealOff,
    /// One sealed voter fewer than the rule asks for suffices.
    OneSealTooFew,
    /// The longest log wins.
    LongestWins,
    /// The highest (epoch, sequence) of a last entry wins.
    EntryEpochWins,
    /// The accepted epoch is stored at the first append that fits.
    AcceptAtFirstAppend,
    /// The accepted epoch is stored while entries of an older one stay behind the opening.
    AcceptWithTail,
    /// An entry is appended whatever it names as its predecessor.
    PredecessorUnchecked,
    /// What was held beyond the fork is deleted.
    TailDropped,
    /// A replica counts for an epoch that it has not accepted.
    CountUnaccepted,
    /// An answer is still counted after this region was sealed at a newer epoch.
    CountAfterSeal,
    /// An ack does not wait for its copies.
    AckBeforeCopies,
    /// A retry is answered from the dedup record at once.
    RetryAtOnce,
    /// No entry is recognised as sent before.
    NoDedup,
    /// Dedup records stay when their entries go apart.
    DedupOutlivesRewind,
    /// The mark moves by the conversation's level, not by the entry's own.
    MarkByConversation,
    /// A mark is believed before its epoch is accepted.
    MarkUnaccepted,
    /// A follower takes the stream of an epoch older than the one that it subscribed to.
    FollowerTakesOlder,
    /// Stream entries held above an open range stay over a new subscription.
    HeldOverSubscription,
    /// A pulled range is not checked where it meets the stream.
    PullUnchecked,
    /// A home that was fenced goes on under its old epoch when it gets a lease again.
    FenceForgiven,
    /// Who loses a placement race tries the next epoch.
    LoserGoesOn,
    /// A replaced store counts at once.
    NewStoreTrusted,
    /// A replaced store counts as soon as it accepted the epoch that it hears of.
    NewStoreCountsOnceAccepted,
    /// A store older than the map knows is taken for the same.
    OldStoreUnnoticed,
    /// A move copies to the new home only.
    MoveCopiesHomeOnly,
    /// A copy for a move stores the new epoch as accepted.
    MoveCopyAccepts,
    /// A home that sealed itself cannot come back.
    NoWayBack,
    /// A region that is named home of an epoch below its promise does not open above that.
    NoOpeningAbove,
    /// A placement entry counts before its log's mark covers it.
    PlacementBeforeMark,
    /// A placement entry is appended whatever epoch it replaces.
    PlacementUnconditional,
    /// A move takes the length for its opening before the old home sealed itself.
    MoveWithoutSeal,
}

/// Which rules hold. The shipping core passes [`Shipped`].
pub trait Rules {
    /// Whether a wrong reading is switched on.
    fn has(&self, flaw: Flaw) -> bool {
        let _ = flaw;
        false
    }
}

/// All rules hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shipped;

impl Rules for Shipped {
    fn has(&self, flaw: Flaw) -> bool {
        crate::mutants::Mutant::Rule(flaw).is_on()
    }
}
