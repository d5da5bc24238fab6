//! What a peer does to messages: edits, deletes, reactions.

use serde_json::{Value, json};

use crate::new_id;
use crate::peer::Peer;

impl Peer {
    /// Sends a change of message `target`: a frame of this type with these fields beside the ids. Its own id.
    pub async fn change(&self, kind: &str, conversation: &str, target: &str, fields: Value) -> String {
        self.change_as(kind, conversation, (&new_id(), target), fields).await
    }

    /// As [`Peer::change`], under an id.
    pub async fn change_as(
        &self,
        kind: &str,
        conversation: &str,
        (id, target): (&str, &str),
        mut fields: Value,
    ) -> String {
        self.hide_text(&fields);
        fields["conversationId"] = json!(conversation);
        fields["messageId"] = json!(id);
        fields["targetMessageId"] = json!(target);
        self.post_as(kind, fields).await
    }

    /// Edits a message of one's own.
    pub async fn edit(&self, conversation: &str, target: &str, text: &str) -> String {
        let content = json!({ "type": "text", "text": text });
        self.change("message.edit", conversation, target, json!({ "content": content })).await
    }

    /// Deletes a message.
    pub async fn delete(&self, conversation: &str, target: &str) -> String {
        self.change("message.delete", conversation, target, json!({})).await
    }

    /// Adds a reaction.
    pub async fn react(&self, conversation: &str, target: &str, emoji: &str) -> String {
        self.change("reaction.add", conversation, target, json!({ "emoji": emoji })).await
    }
}
