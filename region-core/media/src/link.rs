//! Links of the local store: what they claim, and the region's signature (HMAC-SHA256) over all of it.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hearth_protocol::media::encoded;
use hearth_protocol::{ConversationId, ErrorCode, Refusal, Timestamp};
use percent_encoding::percent_decode_str;
use region_model::media::ports::MediaObject;
use uuid::Uuid;

/// Before what is signed, so that a signature of these can be nothing else.
const PURPOSE: &[u8] = b"hearth-media-link-1";
/// Where links of the local store lead, on the region that signed them.
pub(crate) const PATH: &str = "/media/";

/// What a link lets somebody do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To put the bytes.
    Put,
    /// To get them.
    Get,
}

impl Right {
    fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
        }
    }
}

/// What a link says, all of it signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkClaim {
    /// What for.
    pub right: Right,
    /// Which bytes.
    pub object: MediaObject,
    /// What they are.
    pub content_type: String,
    /// How many are to be put; 0 in a link that gets them.
    pub size: u64,
    /// Under which name they are saved.
    pub name: Option<String>,
    /// Until when.
    pub expires_at: Timestamp,
}

/// The key that signs the links of a region.
pub struct LinkKey(hmac::Key);

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey")
    }
}

fn forged() -> Refusal {
    Refusal::new(ErrorCode::Forbidden, "this region did not sign this link: ask for another")
}

impl LinkKey {
    /// Bytes of a key.
    pub const LENGTH: usize = 32;

    /// A key of these bytes.
    #[must_use]
    pub fn new(secret: &[u8; Self::LENGTH]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The link that makes a claim.
    #[must_use]
    pub fn link(&self, claim: &LinkClaim) -> String {
        let MediaObject { conversation, id } = claim.object;
        let name = claim.name.as_deref().map(|name| format!("&name={}", encoded(name))).unwrap_or_default();
        let signature = URL_SAFE_NO_PAD.encode(self.sign(claim));
        format!(
            "{PATH}{conversation}/{id}?type={}&size={}&expires={}{name}&signature={signature}",
            encoded(&claim.content_type),
            claim.size,
            claim.expires_at.0,
        )
    }

    /// Reads a link, for whoever wants to do this with it at a time.
    ///
    /// # Errors
    /// `FORBIDDEN` where it is not what this key signed, for this; `EXPIRED` where its time is over.
    pub fn read(&self, right: Right, path: &str, query: &str, now: Timestamp) -> Result<LinkClaim, Refusal> {
        let (claim, signature) = claim_of(right, path, query).ok_or_else(forged)?;
        hmac::verify(&self.0, &message(&claim), &signature).map_err(|_| forged())?;
        if claim.expires_at <= now {
            return Err(Refusal::new(ErrorCode::Expired, "the time of this link is over: ask for another"));
        }
        Ok(claim)
    }

    fn sign(&self, claim: &LinkClaim) -> hmac::Tag {
        hmac::sign(&self.0, &message(claim))
    }
}

/// All that a claim says, each part with its length before it: no two claims have one message.
fn message(claim: &LinkClaim) -> Vec<u8> {
    let mut message = PURPOSE.to_vec();
    let (size, expires) = (claim.size.to_be_bytes(), claim.expires_at.0.to_be_bytes());
    let named = [u8::from(claim.name.is_some())];
    let parts: [&[u8]; 8] = [
        claim.right.as_str().as_bytes(),
        claim.object.conversation.0.as_bytes(),
        claim.object.id.as_bytes(),
        claim.content_type.as_bytes(),
        &size,
        &expires,
        &named,
        claim.name.as_deref().unwrap_or_default().as_bytes(),
    ];
    for part in parts {
        message.extend_from_slice(&(part.len() as u64).to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}

/// What a link says that nobody has verified.
fn claim_of(right: Right, path: &str, query: &str) -> Option<(LinkClaim, Vec<u8>)> {
    let (conversation, id) = path.strip_prefix(PATH)?.split_once('/')?;
    let object = MediaObject {
        conversation: ConversationId(Uuid::try_parse(conversation).ok()?),
        id: Uuid::try_parse(id).ok()?,
    };
    let mut claim =
        LinkClaim { right, object, content_type: String::new(), size: 0, name: None, expires_at: Timestamp(0) };
    let mut signature = None;
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=')?;
        let value = percent_decode_str(value).decode_utf8().ok()?.into_owned();
        match key {
            "type" => claim.content_type = value,
            "size" => claim.size = value.parse().ok()?,
            "expires" => claim.expires_at = Timestamp(value.parse().ok()?),
            "name" => claim.name = Some(value),
            "signature" => signature = Some(URL_SAFE_NO_PAD.decode(value).ok()?),
            _ => return None,
        }
    }
    Some((claim, signature?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> LinkKey {
        LinkKey::new(&[byte; LinkKey::LENGTH])
    }

    fn claim() -> LinkClaim {
        LinkClaim {
            right: Right::Put,
            object: MediaObject { conversation: ConversationId(Uuid::from_u128(1)), id: Uuid::from_u128(2) },
            content_type: "image/svg+xml".to_owned(),
            size: 10,
            name: Some("a&b=c ü.png".to_owned()),
            expires_at: Timestamp(1_000),
        }
    }

    fn read(key: &LinkKey, right: Right, link: &str, now: u64) -> Result<LinkClaim, ErrorCode> {
        let (path, query) = link.split_once('?').unwrap();
        key.read(right, path, query, Timestamp(now)).map_err(|refusal| refusal.error)
    }

    #[test]
    fn a_link_is_good_for_what_it_says_until_its_time_and_with_the_key_that_signed_it() {
        let link = key(1).link(&claim());
        assert!(link.is_ascii() && !link.contains(' '), "{link}");
        assert_eq!(read(&key(1), Right::Put, &link, 999), Ok(claim()));
        assert_eq!(read(&key(1), Right::Put, &link, 1_000), Err(ErrorCode::Expired));
        assert_eq!(read(&key(1), Right::Get, &link, 999), Err(ErrorCode::Forbidden), "who may put may not get by it");
        assert_eq!(read(&key(2), Right::Put, &link, 999), Err(ErrorCode::Forbidden));
        let without_name = LinkClaim { name: None, ..claim() };
        assert_eq!(read(&key(1), Right::Put, &key(1).link(&without_name), 0), Ok(without_name));
    }

    #[test]
    fn a_link_in_which_anything_was_changed_is_refused_whatever_its_time() {
        let link = key(1).link(&claim());
        let changes = [
            ("size=10", "size=11"),
            ("expires=1000", "expires=9000"),
            ("svg", "png"),
            ("name=a", "name=b"),
            ("&name=a%26b%3Dc%20%C3%BC.png", ""),
            ("/00000000-0000-0000-0000-000000000002", "/00000000-0000-0000-0000-000000000003"),
            ("/media/00000000-0000-0000-0000-000000000001", "/media/00000000-0000-0000-0000-000000000009"),
            ("/media/", "/media/../"),
            ("&signature=", "&more=1&signature="),
        ];
        for (from, to) in changes {
            let changed = link.replacen(from, to, 1);
            assert_ne!(changed, link, "{from}");
            assert_eq!(read(&key(1), Right::Put, &changed, 0), Err(ErrorCode::Forbidden), "{from}");
        }
        let unsigned = link.split_once("&signature=").unwrap().0;
        assert_eq!(read(&key(1), Right::Put, unsigned, 0), Err(ErrorCode::Forbidden));
        let cut = &link[..link.len() - 1];
        assert_eq!(read(&key(1), Right::Put, cut, 0), Err(ErrorCode::Forbidden));
    }

    proptest! {
        #[test]
        fn no_two_claims_share_a_signature_and_each_link_reads_back(
            one in (".{0,20}", 0u64..5, proptest::option::of(".{0,20}")),
            other in (".{0,20}", 0u64..5, proptest::option::of(".{0,20}")),
        ) {
            let of = |(content_type, size, name): (String, u64, Option<String>)| LinkClaim { content_type, size, name, ..claim() };
            let (one, other) = (of(one), of(other));
            prop_assert_eq!(read(&key(1), Right::Put, &key(1).link(&one), 0), Ok(one.clone()));
            prop_assert_eq!(message(&one) == message(&other), one == other);
        }

        #[test]
        fn no_path_and_query_makes_the_reader_panic(path in ".{0,80}", query in ".{0,80}") {
            let refused = key(1).read(Right::Get, &path, &query, Timestamp(0)).map_err(|refusal| refusal.error);
            prop_assert_eq!(refused, Err(ErrorCode::Forbidden));
        }
    }
}
