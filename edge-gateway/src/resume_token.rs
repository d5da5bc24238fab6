//! Resume tokens: which user and device a session belonged to, and since when. They authenticate nobody.
//!
//! Form: `r1.<key id>.<payload>.<mac>` in unpadded URL-safe base64. The payload is the issue time (8 bytes), the
//! device (16 bytes) and the user; the MAC is HMAC-SHA256 over everything before it.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hearth_protocol::{DeviceId, Timestamp, UserId};

/// Bytes of a resume token. A longer one is refused before it is looked at.
const TOKEN_BYTES: usize = 512;
const PREFIX: &str = "r1";

/// How far ahead another region's clock may be, in milliseconds.
const SKEW: u64 = 5 * 60 * 1000;

/// Keys that all regions share. The first signs, all verify, so that keys can be changed one region after the other.
pub struct ResumeKeys {
    keys: Vec<(String, hmac::Key)>,
    lifetime_ms: u64,
}

impl std::fmt::Debug for ResumeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResumeKeys").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

/// There is no key to sign by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("resume tokens need at least one key")]
pub struct NoKey;

/// What a resume token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumable {
    /// Whose session it was.
    pub user: UserId,
    /// From which device.
    pub device: DeviceId,
    /// When it was issued.
    pub issued_at: Timestamp,
}

impl ResumeKeys {
    /// Keys by id (letters, digits and `-`), the signing one first. Tokens older than `lifetime_ms` are refused.
    ///
    /// # Errors
    /// [`NoKey`] when `keys` is empty.
    pub fn new<I>(keys: I, lifetime_ms: u64) -> Result<Self, NoKey>
    where
        I: IntoIterator<Item = (String, Vec<u8>)>,
    {
        let keys: Vec<_> =
            keys.into_iter().map(|(id, secret)| (id, hmac::Key::new(hmac::HMAC_SHA256, &secret))).collect();
        if keys.is_empty() { Err(NoKey) } else { Ok(Self { keys, lifetime_ms }) }
    }

    /// A token for this user and device.
    #[must_use]
    pub fn issue(&self, user: &UserId, device: DeviceId, now: Timestamp) -> String {
        let (id, key) = self.keys.first().expect("the constructor refuses an empty list");
        let mut payload = Vec::with_capacity(24 + user.as_str().len());
        payload.extend_from_slice(&now.0.to_be_bytes());
        payload.extend_from_slice(device.0.as_bytes());
        payload.extend_from_slice(user.as_str().as_bytes());
        let mut token = format!("{PREFIX}.{id}.{}", URL_SAFE_NO_PAD.encode(payload));
        let mac = hmac::sign(key, token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(mac.as_ref(), &mut token);
        token
    }

    /// What the token says; `None` when it is forged, too old, from the future or of another form.
    #[must_use]
    pub fn verify(&self, token: &str, now: Timestamp) -> Option<Resumable> {
        if token.len() > TOKEN_BYTES {
            return None;
        }
        let (signed, mac) = token.rsplit_once('.')?;
        let mut parts = signed.split('.');
        let (prefix, id, payload) = (parts.next()?, parts.next()?, parts.next()?);
        if prefix != PREFIX || parts.next().is_some() {
            return None;
        }
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        let (_, key) = self.keys.iter().find(|(known, _)| known == id)?;
        hmac::verify(key, signed.as_bytes(), &mac).ok()?;
        let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
        let (issued_at, rest) = payload.split_first_chunk::<8>()?;
        let (device, user) = rest.split_first_chunk::<16>()?;
        let issued_at = Timestamp(u64::from_be_bytes(*issued_at));
        let user = UserId::new(std::str::from_utf8(user).ok()?).ok()?;
        let in_time = now.0 <= issued_at.0.saturating_add(self.lifetime_ms) && issued_at.0 <= now.0 + SKEW;
        in_time.then(|| Resumable { user, device: DeviceId(uuid::Uuid::from_bytes(*device)), issued_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;
    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn keys(ids: &[&str]) -> ResumeKeys {
        ResumeKeys::new(ids.iter().map(|id| ((*id).to_owned(), format!("secret of {id}").into_bytes())), 7 * DAY)
            .unwrap()
    }

    fn ann() -> (UserId, DeviceId) {
        (UserId::new("ann").unwrap(), DeviceId(uuid::Uuid::from_u128(7)))
    }

    #[test]
    fn a_token_names_its_user_device_and_time_at_any_region_with_the_keys() {
        let (user, device) = ann();
        let token = keys(&["2"]).issue(&user, device, NOW);
        let elsewhere = keys(&["3", "2"]);
        assert_eq!(elsewhere.verify(&token, NOW), Some(Resumable { user, device, issued_at: NOW }));
    }

    #[test]
    fn no_single_changed_character_passes() {
        let (user, device) = ann();
        let keys = keys(&["1"]);
        let token = keys.issue(&user, device, NOW);
        for at in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(keys.verify(&forged, NOW), None, "position {at}");
        }
        for cut in 0..token.len() {
            assert_eq!(keys.verify(&token[..cut], NOW), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_key_that_is_not_known_an_old_token_and_one_from_the_future_are_refused() {
        let (user, device) = ann();
        let token = keys(&["1"]).issue(&user, device, NOW);
        assert_eq!(keys(&["2"]).verify(&token, NOW), None);
        assert!(keys(&["1"]).verify(&token, Timestamp(NOW.0 + 7 * DAY)).is_some());
        assert_eq!(keys(&["1"]).verify(&token, Timestamp(NOW.0 + 7 * DAY + 1)), None);
        assert_eq!(keys(&["1"]).verify(&token, Timestamp(NOW.0 - DAY)), None);
        assert_eq!(keys(&["1"]).verify(&"x.".repeat(10_000), NOW), None);
    }
}
