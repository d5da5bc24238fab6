//! Media of conversations: how they are named, and the bodies of the routes that put and get them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::error::Refusal;
use crate::ids::{ConversationId, RegionId, Timestamp, UserId, hashed_uuid};
use crate::limits;

/// Where the routes of conversations begin.
const CONVERSATIONS: &str = "/api/v1/conversations/";
/// What stands as it is in a part of a URL; everything else is percent-encoded.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Names media: the region that has them, and an id. `eu-west.018f0000-0000-7000-8000-000000000001`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaId {
    /// The region that has them.
    pub region: RegionId,
    /// Their id there.
    pub id: Uuid,
}

/// Why a text is no [`MediaId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a media id is a region, a point and a UUID")]
pub struct NoMediaId;

impl MediaId {
    /// The id under which a user puts media with an idempotency key: a retry finds the first.
    #[must_use]
    pub fn of_key(region: &RegionId, user: &UserId, conversation: ConversationId, key: Uuid) -> Self {
        let parts: [&[u8]; 4] =
            [b"hearth-media-1", user.as_str().as_bytes(), conversation.0.as_bytes(), key.as_bytes()];
        Self { region: region.clone(), id: hashed_uuid(&parts) }
    }

    /// What a message's `mediaUrl` says: a path that leads to the media at every region.
    #[must_use]
    pub fn url(&self, conversation: ConversationId, name: Option<&str>) -> String {
        let path = format!("{CONVERSATIONS}{conversation}/media/{self}");
        match name {
            Some(name) => format!("{path}?name={}", encoded(name)),
            None => path,
        }
    }

    /// Reads [`MediaId::url`], with or without a scheme and a host before it; `None` for a URL that does not name media
    /// of this conversation.
    #[must_use]
    pub fn of_url(url: &str, conversation: ConversationId) -> Option<Self> {
        let path = url.split(['?', '#']).next()?;
        let (_, rest) = path.rsplit_once(CONVERSATIONS)?;
        let (of, media) = rest.split_once("/media/")?;
        if of.parse::<ConversationId>().ok()? != conversation {
            return None;
        }
        media.parse().ok()
    }
}

/// A text as a part of a URL.
#[must_use]
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

impl fmt::Display for MediaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.region, self.id)
    }
}

impl FromStr for MediaId {
    type Err = NoMediaId;

    fn from_str(text: &str) -> Result<Self, NoMediaId> {
        let (region, id) = text.split_once('.').ok_or(NoMediaId)?;
        let region = RegionId::new(region).map_err(|_| NoMediaId)?;
        // The form that it is printed in, and no other: one thing has one name.
        let id = Uuid::try_parse(id).ok().filter(|read| read.to_string() == id).ok_or(NoMediaId)?;
        Ok(Self { region, id })
    }
}

impl Serialize for MediaId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MediaId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for MediaId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MediaId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
        let pattern = format!("^[a-z][a-z0-9-]{{0,31}}\\.{uuid}$");
        schemars::json_schema!({ "type": "string", "pattern": pattern, "description": "The region that has the media, and an id." })
    }
}

/// `POST /api/v1/media`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CreateMedia {
    /// Whose members may have them.
    pub conversation_id: ConversationId,
    /// What they are, as `image/png`: lower case, without parameters.
    #[cfg_attr(feature = "schema", schemars(with = "String", regex(pattern = CONTENT_TYPE)))]
    pub content_type: String,
    /// Their exact size in bytes.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = limits::SEQUENCE)))]
    #[serde(deserialize_with = "crate::lenient::whole")]
    pub size: u64,
    /// Under which name they are saved.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = limits::NAME_CHARACTERS)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The form of [`CreateMedia::content_type`] in the contract.
#[cfg(feature = "schema")]
const CONTENT_TYPE: &str = "^[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}$";

/// Whether a text is a content type in lower case without parameters (RFC 6838, 4.2).
#[must_use]
pub fn is_content_type(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| {
        (1..=64).contains(&part.len())
            && plain(part.as_bytes()[0])
            && part.bytes().all(|byte| plain(byte) || b"!#$&^_.+-".contains(&byte))
    };
    text.split_once('/').is_some_and(|(kind, of)| is_part(kind) && is_part(of))
}

impl CreateMedia {
    /// Checks the form; what is allowed is the region's to say.
    ///
    /// # Errors
    /// `INVALID_MESSAGE`.
    pub fn check(&self) -> Result<(), Refusal> {
        if !is_content_type(&self.content_type) {
            return Err(Refusal::invalid("`contentType` is a type and a subtype in lower case, as image/png"));
        }
        if !(1..=limits::SEQUENCE).contains(&self.size) {
            return Err(Refusal::invalid("`size` is the number of bytes, 1 at least"));
        }
        self.name.as_deref().map_or(Ok(()), check_name)
    }
}

/// Checks the name of a file.
///
/// # Errors
/// `INVALID_MESSAGE` unless it has 1 to 100 characters.
pub fn check_name(name: &str) -> Result<(), Refusal> {
    let most = limits::NAME_CHARACTERS;
    if (1..=most).contains(&name.chars().count()) {
        return Ok(());
    }
    let refusal = Refusal::invalid(format!("`name` has 1 to {most} characters"));
    Err(refusal.with_limit(format!("{most} characters of name")))
}

/// The answer to `POST /api/v1/media`: where to put the bytes, and what to say in the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct MediaUpload {
    /// Their id.
    pub media_id: MediaId,
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The region that has them.
    pub region: RegionId,
    /// For `content.mediaUrl` of the message.
    pub media_url: String,
    /// Where to put the bytes.
    pub upload: UploadLink,
    /// What the region takes.
    pub limits: MediaLimits,
}

/// One request that puts the bytes, signed beforehand: whoever has it can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct UploadLink {
    /// `PUT`.
    pub method: String,
    /// Where to.
    pub url: String,
    /// Headers to be sent as they are, beside the length.
    pub headers: BTreeMap<String, String>,
    /// Until when it may begin.
    pub expires_at: Timestamp,
}

/// What a region takes of media.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct MediaLimits {
    /// Bytes of one upload.
    pub max_bytes: u64,
    /// What they may be.
    pub content_types: Vec<String>,
}

/// The answer to `GET /api/v1/conversations/{id}/media/{mediaId}`: where the bytes are for a short time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct MediaDownload {
    /// Their id.
    pub media_id: MediaId,
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The region that has them.
    pub region: RegionId,
    /// What they are.
    pub content_type: String,
    /// Bytes.
    pub size: u64,
    /// To be got by anybody who has it, without a token.
    pub url: String,
    /// Until when.
    pub expires_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    fn conversation(number: u128) -> ConversationId {
        ConversationId(Uuid::from_u128(number))
    }

    fn media() -> MediaId {
        MediaId { region: RegionId::new("eu-west").unwrap(), id: Uuid::from_u128(7) }
    }

    #[test]
    fn a_media_url_leads_back_to_its_media_of_its_conversation_alone() {
        for name in [None, Some("é?#/../x y.png")] {
            let url = media().url(conversation(1), name);
            assert!(url.starts_with("/api/v1/conversations/00000000-") && url.is_ascii(), "{url}");
            assert_eq!(MediaId::of_url(&url, conversation(1)), Some(media()));
            let absolute = format!("https://eu-west.chat.example.com{url}");
            assert_eq!(MediaId::of_url(&absolute, conversation(1)), Some(media()));
            assert_eq!(MediaId::of_url(&url, conversation(2)), None);
        }
        let longest = media().url(conversation(1), Some(&"\u{10FFFF}".repeat(limits::NAME_CHARACTERS)));
        assert!(longest.len() <= limits::URL_CHARACTERS, "it fits into the content of a message");
        assert_eq!(MediaId::of_url("https://cdn.example.com/cat.png", conversation(1)), None);
    }

    #[test]
    fn an_id_has_one_form_and_nothing_else_is_read() {
        let text = media().to_string();
        assert_eq!(text.parse(), Ok(media()));
        let upper = format!("eu-west.{}", Uuid::from_u128(0xABC).to_string().to_uppercase());
        let bare = format!("eu-west.{}", Uuid::from_u128(7).simple());
        for bad in [
            "",
            "eu-west",
            "eu-west.",
            ".x",
            "eu-west.../etc",
            "EU.00000000-0000-0000-0000-000000000007",
            &upper,
            &bare,
        ] {
            assert_eq!(bad.parse::<MediaId>(), Err(NoMediaId), "{bad}");
        }
    }

    #[test]
    fn the_same_key_of_the_same_user_and_conversation_gives_the_same_id_and_no_other_does() {
        let (ann, bob) = (UserId::new("ann").unwrap(), UserId::new("bob").unwrap());
        let id =
            |user: &UserId, of, key| MediaId::of_key(&media().region, user, conversation(of), Uuid::from_u128(key));
        assert_eq!(id(&ann, 1, 2), id(&ann, 1, 2));
        assert!(
            id(&ann, 1, 2) != id(&bob, 1, 2) && id(&ann, 1, 2) != id(&ann, 2, 2) && id(&ann, 1, 2) != id(&ann, 1, 3)
        );
    }

    #[test]
    fn what_is_to_be_put_is_checked_by_its_form() {
        let good = CreateMedia {
            conversation_id: conversation(1),
            content_type: "image/svg+xml".to_owned(),
            size: 1,
            name: Some("a".to_owned()),
        };
        assert_eq!(good.check(), Ok(()));
        let refused = |change: &dyn Fn(&mut CreateMedia)| {
            let mut media = good.clone();
            change(&mut media);
            media.check().map_err(|refusal| refusal.error)
        };
        for bad in ["", "image", "image/", "/png", "Image/png", "image/png; charset=x", "image/p\nng", "a/b/c"] {
            assert_eq!(
                refused(&|media| media.content_type = bad.to_owned()),
                Err(ErrorCode::InvalidMessage),
                "{bad:?}"
            );
        }
        assert_eq!(refused(&|media| media.size = 0), Err(ErrorCode::InvalidMessage));
        assert_eq!(refused(&|media| media.name = Some(String::new())), Err(ErrorCode::InvalidMessage));
        assert_eq!(refused(&|media| media.name = Some("a".repeat(101))), Err(ErrorCode::InvalidMessage));
    }
}
