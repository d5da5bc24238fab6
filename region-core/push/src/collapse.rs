//! What replaces what on a device, without telling a push service who talks with whom.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hearth_protocol::{ConversationId, UserId};

/// Names a user's conversation to push services: the same in every region that has the secret, and different for two
/// users of one conversation, so that a service cannot tell that they share it.
#[derive(Clone)]
pub struct CollapseKey(hmac::Key);

impl CollapseKey {
    /// From a secret that all regions share.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// 22 characters of the URL-safe base64 alphabet: fits Web Push's `Topic` (32 characters) and `apns-collapse-id` (64
    /// bytes).
    #[must_use]
    pub fn name(&self, user: &UserId, conversation: ConversationId) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(b"hearth push collapse v1\0");
        context.update(user.as_str().as_bytes());
        context.update(b"\0");
        context.update(conversation.0.as_bytes());
        URL_SAFE_NO_PAD.encode(&context.sign().as_ref()[..16])
    }
}

impl std::fmt::Debug for CollapseKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CollapseKey")
    }
}
