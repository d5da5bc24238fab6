//! The error codes that clients see, the same in frames and REST.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:literal;)+) => {
        /// A stable public code with its HTTP status.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode { $($(#[$doc])* $variant,)+ }

        impl ErrorCode {
            /// Every code, in the order of this file.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The code as clients see it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }

            /// Reads [`ErrorCode::as_str`]; an unknown code reads as [`ErrorCode::Internal`].
            #[must_use]
            pub fn parse(text: &str) -> Self {
                match text { $($text => Self::$variant,)+ _ => Self::Internal }
            }
        }
    };
}

error_codes! {
    /// Not a member, or no such conversation: nobody can tell which.
    ConversationNotFound = "CONVERSATION_NOT_FOUND", 404;
    /// The node is leaving.
    Draining = "DRAINING", 503;
    /// The same id with other content.
    DuplicateMessage = "DUPLICATE_MESSAGE", 409;
    /// Parked longer than the limit, or `expiresAt` passed.
    Expired = "EXPIRED", 410;
    /// A member without the right.
    Forbidden = "FORBIDDEN", 403;
    /// The home is out of reach and this request cannot wait.
    HomeUnreachable = "HOME_UNREACHABLE", 503;
    /// A fault of ours.
    Internal = "INTERNAL", 500;
    /// Not of the form that `protocol.md` fixes.
    InvalidMessage = "INVALID_MESSAGE", 400;
    /// The route exists, this method does not.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", 405;
    /// No such thing.
    NotFound = "NOT_FOUND", 404;
    /// A bound is reached; later it may work.
    Overloaded = "OVERLOADED", 503;
    /// Too many messages.
    RateLimited = "RATE_LIMITED", 429;
    /// The conversation takes no writes now.
    ReadOnly = "READ_ONLY", 409;
    /// The allowed regions forbid it.
    Residency = "RESIDENCY", 409;
    /// The region's store failed.
    StoreUnavailable = "STORE_UNAVAILABLE", 503;
    /// A size or count over its limit.
    TooLarge = "TOO_LARGE", 413;
    /// No token, or not a good one.
    Unauthorized = "UNAUTHORIZED", 401;
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for ErrorCode {
    fn schema_name() -> Cow<'static, str> {
        "ErrorCode".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let codes: Vec<&str> = Self::ALL.iter().map(|code| code.as_str()).collect();
        schemars::json_schema!({ "type": "string", "enum": codes })
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::parse(&Cow::<'de, str>::deserialize(deserializer)?))
    }
}

/// The body of every error: `{"error", "message", "retryAfter"?, "limit"?}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[error("{}: {message}", error.as_str())]
pub struct Refusal {
    /// The code.
    pub error: ErrorCode,
    /// For people: what happened, why, and what to do.
    pub message: Cow<'static, str>,
    /// Seconds after which a retry may work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// Which limit was met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Cow<'static, str>>,
}

impl Refusal {
    /// A refusal without retry time and limit.
    #[must_use]
    pub fn new(error: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { error, message: message.into(), retry_after: None, limit: None }
    }

    /// [`ErrorCode::InvalidMessage`] with a reason.
    #[must_use]
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidMessage, message)
    }

    /// [`ErrorCode::ConversationNotFound`], with one text whatever the reason, so that nobody can probe.
    #[must_use]
    pub fn no_conversation() -> Self {
        Self::new(ErrorCode::ConversationNotFound, "no such conversation for this user")
    }

    /// [`ErrorCode::TooLarge`] naming the limit.
    #[must_use]
    pub fn too_large(message: impl Into<Cow<'static, str>>, limit: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::TooLarge, message).with_limit(limit)
    }

    /// Names the limit that was met.
    #[must_use]
    pub fn with_limit(mut self, limit: impl Into<Cow<'static, str>>) -> Self {
        self.limit = Some(limit.into());
        self
    }

    /// Says after how many seconds a retry may work.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_from_its_text() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), *code);
            assert!((400..600).contains(&code.status()));
        }
    }
}
