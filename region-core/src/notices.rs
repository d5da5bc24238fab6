//! `conversation.new` and `conversation.updated`: each member's own row, made beside the message path.

use std::sync::Arc;

use hearth_protocol::LogId;
use hearth_protocol::client::{ServerFrame, encode_server_frame};
use tokio::sync::mpsc;

use crate::hub::{Concerned, Notice};
use crate::region::Region;

/// Runs until the region stops.
pub(crate) async fn run(region: Arc<Region>, mut notices: mpsc::Receiver<Notice>) {
    let mut failed = region.store.failed.subscribe();
    loop {
        // The region holds the sender of this queue: that it is closed is no end.
        let notice = tokio::select! {
            () = Region::until_failed(&mut failed) => return,
            notice = notices.recv() => notice,
        };
        let Some(notice) = notice else { return };
        // The first entry may be here before the placement is; then its steward is asked.
        let Ok(view) = region.view(LogId::conversation(notice.conversation), true).await else { continue };
        let users = match (notice.users, view.view.members()) {
            (Concerned::Users(users), _) => users,
            (Concerned::Members, Some(members)) => region.hub.online(members),
            (Concerned::Members, None) => Vec::new(),
        };
        for user in &users {
            let Ok(row) = region.conversation_row(notice.conversation, &view, user, true).await else { continue };
            let frame = if notice.joined.contains(user) {
                ServerFrame::ConversationNew(Box::new(row))
            } else {
                ServerFrame::ConversationUpdated(Box::new(row))
            };
            region.hub.to_user(user, &encode_server_frame(&frame, None));
        }
    }
}
