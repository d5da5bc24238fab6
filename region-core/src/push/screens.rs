//! The edge: what its sessions have on their screens, told to the homes of those users' records who are woken at all.

use hearth_protocol::{DeviceId, LogId, UserId};
use region_model::push::wire;
use region_model::view::View;

use super::Task;

impl Task {
    /// Tells what a device shows, where its user has subscriptions.
    pub(super) async fn tell_screen(&mut self, user: &UserId, device: DeviceId) {
        let record = LogId::user(user);
        // A copy may be here before its placement is known here, so the steward is asked.
        let Ok(view) = self.region.view(record, true).await else { return };
        let View::User(state) = &view.view else { return };
        let Some(placement) = view.placement.as_ref().filter(|_| !state.push.subscriptions.is_empty()) else { return };
        let shown = self.screens.of(user, device).map(LogId::conversation);
        let home = placement.home.clone();
        self.send(&home, wire::of_view(user, device, shown));
    }
}
