//! The content of a message: checked once, then carried as compact JSON.

use serde::{Deserialize, Serialize};

use crate::error::Refusal;
use crate::ids::UserId;
use crate::limits;

/// What a message shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ContentType {
    /// `text`.
    Text,
    /// `mediaUrl`.
    Image,
    /// `mediaUrl`.
    File,
    /// `metadata`.
    Location,
}

/// `content` of `message.send`. Unknown fields are ignored and not stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Content {
    /// What it shows.
    #[serde(rename = "type")]
    pub kind: ContentType,
    /// At most 16 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Where the media lie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = limits::URL_CHARACTERS)))]
    pub media_url: Option<String>,
    /// Anything, at most 16 KiB of JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
    /// Users named in the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = limits::MENTIONS)))]
    pub mentions: Option<Vec<UserId>>,
}

impl Content {
    /// A text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { kind: ContentType::Text, text: Some(text.into()), media_url: None, metadata: None, mentions: None }
    }

    /// Compact JSON, the same for the same content whatever the spacing or order of fields it came in: dedup compares it.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("content holds only string keys")
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// `INVALID_MESSAGE` when the field that the type needs is absent, `TOO_LARGE` when one is over its limit.
    pub fn check(&self, text_bytes: usize) -> Result<(), Refusal> {
        match self.kind {
            ContentType::Text if self.text.as_deref().unwrap_or("").is_empty() => {
                return Err(Refusal::invalid("content of type text needs a text that is not empty"));
            }
            ContentType::Image | ContentType::File if self.media_url.is_none() => {
                return Err(Refusal::invalid("content of type image or file needs a mediaUrl"));
            }
            ContentType::Location if self.metadata.is_none() => {
                return Err(Refusal::invalid("content of type location needs metadata"));
            }
            ContentType::Text | ContentType::Image | ContentType::File | ContentType::Location => {}
        }
        if self.text.as_ref().is_some_and(|text| text.len() > text_bytes) {
            return Err(Refusal::too_large("the text is too long", format!("{text_bytes} bytes of text")));
        }
        if self.media_url.as_ref().is_some_and(|url| url.len() > limits::URL_CHARACTERS) {
            return Err(Refusal::too_large("the mediaUrl is too long", "2048 characters of URL"));
        }
        if self.mentions.as_ref().is_some_and(|users| users.len() > limits::MENTIONS) {
            return Err(Refusal::too_large("too many mentions", "100 mentions a message"));
        }
        let metadata_bytes =
            self.metadata.as_ref().map_or(0, |map| serde_json::to_vec(map).map_or(0, |json| json.len()));
        if metadata_bytes > limits::METADATA_BYTES {
            return Err(Refusal::too_large("the metadata is too long", "16384 bytes of metadata"));
        }
        Ok(())
    }
}
