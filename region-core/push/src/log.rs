//! The sender of a region without push services: says in its log what would have gone out.

use async_trait::async_trait;
use hearth_protocol::Timestamp;
use region_model::push::Showing;
use region_model::push::ports::{Notice, PushSender, Sent, Subscription};

/// Writes one line a push, without token, endpoint, conversation or text.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogSender;

#[async_trait]
impl PushSender for LogSender {
    fn way(&self, _: &Subscription) -> String {
        "log".to_owned()
    }

    async fn send(&self, to: &Subscription, notice: &Notice, _: Timestamp) -> Sent {
        let (showing, unread) = match notice.showing {
            Showing::Notify { unread, .. } => ("notify", unread),
            Showing::Clear => ("clear", 0),
        };
        let service = to.target.service().label();
        tracing::info!(service, subscription = %to.id, showing, unread, collapse = notice.collapse, "push");
        Sent::Accepted
    }
}
