//! What every change has in common: one at a time, thought through or made, told line by line, audited before and after.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_protocol::admin::{AuditLine, Change, ChangeRequest, Line};
use hearth_protocol::{RegionId, Timestamp};
use region_map::{NotDecided, NotFailedOver, RegionMapLog as _, SlotsMoved, StartError};
use region_model::ports::StoreError;
use region_model::region_map::{MapAnswer, MapCommand, MapRefusal, MapState};
use tokio::sync::mpsc;

use super::node::AdminNode;
use super::{backup, drain, erase, failback, failover, moves, regions, votes};

/// Lines that wait for a slow reader; more lines of progress are left out, all others wait.
const LINES: usize = 256;
/// Longest wait for the region map to take a command.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Tries of a command whose map changed between the look and the proposal.
const TRIES: usize = 5;

/// Where the lines of an answer go.
#[derive(Clone, Debug)]
pub struct Teller(mpsc::Sender<Line>);

impl Teller {
    /// A teller, and what it tells. The one who reads may go: then nothing is told.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Line>) {
        let (lines, told) = mpsc::channel(LINES);
        (Self(lines), told)
    }

    /// A line that may be left out when the reader is slow.
    pub(super) fn line(&self, line: Line) {
        // The change goes on whoever reads.
        let _ = self.0.try_send(line);
    }

    pub(super) fn progress(&self, step: &str, done: u64, total: Option<u64>, text: impl Into<String>) {
        self.line(Line::Progress { step: step.to_owned(), done, total, text: text.into() });
    }

    pub(super) fn plan(&self, text: impl Into<String>) {
        self.line(Line::Plan { text: text.into() });
    }

    /// The last line.
    pub async fn last(self, line: Line) {
        // The audit log has it, when nobody is there to read it.
        let _ = self.0.send(line).await;
    }
}

/// A change that was made, or that holds already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) changed: bool,
    pub(super) text: String,
    pub(super) counts: Vec<(String, u64)>,
}

impl Made {
    pub(super) fn changed(text: impl Into<String>) -> Self {
        Self { changed: true, text: text.into(), counts: Vec::new() }
    }

    pub(super) fn already(text: impl Into<String>) -> Self {
        Self { changed: false, text: text.into(), counts: Vec::new() }
    }

    pub(super) fn count(mut self, name: &str, number: u64) -> Self {
        self.counts.push((name.to_owned(), number));
        self
    }
}

/// Why a change was not made, and what to type instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) message: String,
    pub(super) hint: String,
    pub(super) at: Option<RegionId>,
    pub(super) failed: bool,
}

impl Refused {
    /// It is not allowed now.
    pub(super) fn because(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), at: None, failed: false }
    }

    /// Something went wrong: what was done before stands.
    pub(super) fn failed(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { failed: true, ..Self::because(message, hint) }
    }

    /// Another region's node has to be asked.
    pub(super) fn ask_at(region: &RegionId, message: impl Into<String>) -> Self {
        let hint = format!("ask the node of {region}: --admin https://HOST:PORT of its administration port");
        Self { at: Some(region.clone()), ..Self::because(message, hint) }
    }

    pub(super) fn unknown(map: &MapState, region: &RegionId) -> Self {
        let known: Vec<&str> = map.members().map(|entry| entry.region.as_str()).collect();
        Self::because(format!("the mesh has no region {region}"), format!("type one of: {}", known.join(", ")))
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::failed(
            format!("the node's store: {error}"),
            "ask another node: --admin, or with --data once it runs again",
        )
    }
}

impl From<MapRefusal> for Refused {
    fn from(refusal: MapRefusal) -> Self {
        let hint = match &refusal {
            MapRefusal::NotFounded => "start a majority of the map's voters",
            MapRefusal::VotersChanging | MapRefusal::Changed(_) | MapRefusal::Renewed(_) => "type the same again",
            MapRefusal::InUse => "empty it first: hearth region drain REGION",
            _ => "look at it: hearth region status",
        };
        Self::because(format!("the region map refused: {refusal}"), hint)
    }
}

impl From<NotDecided> for Refused {
    fn from(error: NotDecided) -> Self {
        Self::failed(
            error.to_string(),
            "see which map voters are down (hearth region status), then type the same again",
        )
    }
}

impl From<StartError> for Refused {
    fn from(error: StartError) -> Self {
        Self::failed(error.to_string(), "look at it: hearth region status")
    }
}

impl From<NotFailedOver> for Refused {
    fn from(error: NotFailedOver) -> Self {
        match &error {
            NotFailedOver::NoMajority => Self::from(NotDecided::Unknown),
            NotFailedOver::Stopped => Self::from(NotDecided::Stopped),
            NotFailedOver::NotFounded => Self::from(MapRefusal::NotFounded),
            NotFailedOver::Busy => Self::because(error.to_string(), "type the same again"),
            NotFailedOver::UnknownRegion(_) | NotFailedOver::HoldsLease(_) | NotFailedOver::State(_) => {
                Self::because(error.to_string(), "look at it: hearth region status")
            }
        }
    }
}

impl AdminNode {
    /// Proposes a command, made anew for each map that it is refused for.
    pub(super) async fn propose(&self, command: impl Fn(&MapState) -> MapCommand) -> Result<MapAnswer, Refused> {
        let mut map = (*self.map_state()).clone();
        for _ in 0..TRIES {
            let answer = self.map.propose(command(&map), PATIENCE).await?;
            match answer.fact() {
                Ok(_) => return Ok(answer),
                Err(MapRefusal::Changed(_) | MapRefusal::Renewed(_)) => map = self.newer(answer.version()).await,
                Err(refusal) => return Err(refusal.clone().into()),
            }
        }
        Err(Refused::because("the region map keeps changing", "type the same again"))
    }

    /// Gives the slots of a fenced region to others, and waits until the map here says so.
    pub(super) async fn reassign(&self, region: &RegionId) -> Result<SlotsMoved, Refused> {
        let slots = self.map.reassign(region, PATIENCE).await?;
        let mut watch = self.map.watch();
        let left = usize::try_from(slots.left).unwrap_or(usize::MAX);
        let shown = watch.wait_for(|map| map.slots.stewarded(region) <= left);
        // One that stays behind shows it later.
        let _late = tokio::time::timeout(PATIENCE, shown).await.is_err();
        Ok(slots)
    }

    /// The map as of a version, or as it is here when that does not come.
    pub(super) async fn newer(&self, version: u64) -> MapState {
        let mut watch = self.map.watch();
        let found = tokio::time::timeout(PATIENCE, watch.wait_for(|map| map.version >= version)).await;
        match found {
            Ok(Ok(map)) => (**map).clone(),
            Ok(Err(_)) | Err(_) => (*self.map_state()).clone(),
        }
    }

    /// Thinks a change through or makes it. Whoever asked may go: a change that began comes to its end.
    pub(super) async fn change(self: Arc<Self>, who: Arc<str>, request: ChangeRequest, tell: Teller) {
        let line = match self.audited(&who, &request, &tell).await {
            Ok(made) => Line::Done { changed: made.changed, text: made.text, counts: made.counts },
            Err(Refused { message, hint, at, failed }) => Line::Refused { message, hint, at, failed },
        };
        tell.last(line).await;
    }

    async fn audited(&self, who: &str, request: &ChangeRequest, tell: &Teller) -> Result<Made, Refused> {
        let change = &request.change;
        if let Some(region) = change.asked_at().filter(|region| **region != self.region) {
            if self.map_state().region(region).is_none() {
                return Err(Refused::unknown(&self.map_state(), region));
            }
            let message = format!("this is a node of {}, and what {region} has is changed at {region}", self.region);
            return Err(Refused::ask_at(region, message));
        }
        if request.dry_run {
            return self.perform(change, true, tell).await;
        }
        // A copy takes long, and what it changes is a folder of its own.
        let _place = match change {
            Change::Backup { .. } => None,
            _ => Some(Place::take(self, who, change)?),
        };
        let line = AuditLine {
            at: now(),
            id: uuid(),
            who: who.to_owned(),
            state: "began".to_owned(),
            change: change.clone(),
            result: String::new(),
        };
        self.write(line.clone()).await?;
        let made = self.perform(change, false, tell).await;
        let (state, result) = match &made {
            Ok(made) if made.changed => ("done", made.text.clone()),
            Ok(made) => ("done", format!("already so: {}", made.text)),
            Err(refused) if refused.failed => ("failed", refused.message.clone()),
            Err(refused) => ("refused", refused.message.clone()),
        };
        tracing::info!(who, ?change, state, result, "a change by an administrator");
        self.write(AuditLine { at: now(), state: state.to_owned(), result, ..line }).await?;
        made
    }

    async fn write(&self, line: AuditLine) -> Result<(), Refused> {
        let audit = self.audit.clone();
        let written = tokio::task::spawn_blocking(move || audit.append(&line)).await;
        let hint = "free space in the node's data folder, or make it writable; nothing is changed without its line";
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Refused::failed(error.to_string(), hint)),
            Err(error) => Err(Refused::failed(error.to_string(), hint)),
        }
    }

    async fn perform(&self, change: &Change, dry: bool, tell: &Teller) -> Result<Made, Refused> {
        match change {
            Change::Failover { region, force, accept_loss } => {
                let word = failover::Word { force: *force, accept_loss: *accept_loss };
                failover::failover(self, region, word, dry, tell).await
            }
            Change::Failback { region } => failback::failback(self, region, dry, tell).await,
            Change::Drain { over_milliseconds, rate, .. } => {
                drain::drain(self, Duration::from_millis(*over_milliseconds), *rate, dry, tell).await
            }
            Change::Undrain { .. } => drain::undrain(self, dry, tell).await,
            Change::AddRegion { region } => regions::add(self, region, dry, tell).await,
            Change::RemoveRegion { region } => regions::remove(self, region, dry, tell).await,
            Change::LeaveVotes { region, rate } => votes::leave(self, region, *rate, dry, tell).await,
            Change::GiveVotes { region, rate } => votes::give(self, region, *rate, dry, tell).await,
            Change::MoveHome { conversation, to } => moves::one(self, *conversation, to, dry, tell).await,
            Change::MoveHomes { to, rate, .. } => moves::all(self, to, *rate, dry, tell).await,
            Change::EraseUser { user } => erase::user(self, user, dry, tell).await,
            Change::Backup { to, .. } => backup::backup(self, to, dry, tell).await,
        }
    }
}

/// The place of the one change that is under way at a node.
struct Place<'a>(&'a AdminNode);

impl<'a> Place<'a> {
    fn take(node: &'a AdminNode, who: &str, change: &Change) -> Result<Self, Refused> {
        let mut under_way = node.under_way.lock();
        if let Some(other) = &*under_way {
            let message = format!("another change is under way at this node: {other}");
            return Err(Refused::because(message, "wait for its end (hearth audit), then type the same again"));
        }
        *under_way = Some(format!("{change:?} by {who}"));
        Ok(Self(node))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.under_way.lock() = None;
    }
}

pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn uuid() -> String {
    format!("{:016x}", rand::random::<u64>())
}
