//! Users arrive: their records are created, held here, and what they are in is followed.

use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::placement::PartitionMode;
use hearth_protocol::{Change, EntryKind, ErrorCode, Header, Level, LogId, Placement, Refusal, RegionId, Slot, UserId};
use region_model::region_map::RegionState;
use region_model::view::View;
use region_model::{Input, LogView};
use uuid::Uuid;

use crate::region::Region;
use crate::runtime::wall;

/// Pause between looks at a record that is on its way here.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Looks before an arrival is tried again from the start.
const LOOKS: u32 = 500;

impl Region {
    /// Where a log lives; placed with its home here when nobody has placed it.
    pub(crate) async fn place(
        &self,
        log: LogId,
        durability: Level,
        partition_mode: PartitionMode,
    ) -> Result<Placement, Refusal> {
        if let Some(placement) = self.view(log, true).await?.placement {
            return Ok(placement);
        }
        let first = self.options.map.first_placement(log, self.me(), durability);
        let placement = {
            let watch = self.ownership.map();
            let map = watch.borrow();
            // A region that is being emptied, or only follows, is no voter of what is new. One that is fenced comes back.
            let takes_part = |region: &RegionId| {
                let state = map.region(region).map(|entry| entry.state);
                map.version == 0 || matches!(state, Some(RegionState::Active | RegionState::Fenced))
            };
            let voters = self.options.map.voters_of(self.me(), takes_part);
            Placement { generation: map.generation_of(self.me()), partition_mode, voters, ..first }
        };
        let change = Change::Place { replaces: None, placement };
        let command =
            self.own_command(LogId::placement(Slot::of(&log)), EntryKind::Placement, Uuid::new_v4(), change.encode());
        // A lost race is acked too: the placement that stands is read, whoever made it.
        self.command(command).await?;
        self.view(log, true).await?.placement.ok_or_else(|| {
            Refusal::new(ErrorCode::HomeUnreachable, "the placement is not known yet").with_retry_after(1)
        })
    }

    /// The home of a user's record; created here when no region ever needed it.
    pub(crate) async fn ensure_user(&self, user: &UserId) -> Result<RegionId, Refusal> {
        let log = LogId::user(user);
        let view = self.view(log, true).await?;
        if let Some(placement) = view.placement
            && view.held
        {
            return Ok(placement.home);
        }
        let placement = self.place(log, Level::Majority, PartitionMode::Park).await?;
        let header = Header::User { user: user.clone() };
        self.command(self.own_command(log, EntryKind::Header, Uuid::new_v4(), header.encode())).await?;
        Ok(placement.home)
    }

    /// Appends a change to a user's record, wherever its home is.
    pub(crate) async fn change_user(&self, user: &UserId, change: &Change) -> Result<(), Refusal> {
        self.ensure_user(user).await?;
        let log = LogId::user(user);
        self.command(self.own_command(log, EntryKind::User, Uuid::new_v4(), change.encode())).await.map(|_| ())
    }

    /// A user connected here: resident from now on. Returns once this region knows all of the user's conversations.
    pub(crate) async fn arrive(self: &Arc<Self>, user: &UserId) -> Result<(), Refusal> {
        self.change_user(user, &Change::Resident { region: self.me().clone(), at: wall() }).await?;
        let log = LogId::user(user);
        self.input(Input::Follow { log, hold: true }).await;
        let view = self.wait_for_record(log).await?;
        if let View::User(state) = &view.view {
            self.keep_private(user, &state.privacy);
            for (conversation, membership) in &state.conversations {
                if membership.joined {
                    let log = LogId::conversation(*conversation);
                    self.input(Input::Follow { log, hold: true }).await;
                    self.receipts.compare_soon(log);
                }
            }
        }
        Ok(())
    }

    /// Waits until the record is here with this region named resident: then everything before is here too.
    async fn wait_for_record(&self, log: LogId) -> Result<LogView, Refusal> {
        for _ in 0..LOOKS {
            let view = self.view(log, false).await?;
            let resident = matches!(&view.view, View::User(state) if state.resident.contains_key(self.me()));
            if view.held && resident && !view.behind {
                return Ok(view);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Err(Refusal::new(ErrorCode::HomeUnreachable, "the user's record did not arrive").with_retry_after(1))
    }
}
