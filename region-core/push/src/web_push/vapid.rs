//! Who we are, to push services (RFC 8292).

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hearth_protocol::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use serde::Serialize;

use crate::SetupError;

/// How long a token is good, in seconds: half of what is allowed.
const LIFE: u64 = 12 * 3_600;
/// How long it is used, in milliseconds.
const USED: u64 = 3_600_000;
/// Origins whose tokens are kept. Of more the oldest goes, and is signed again.
const ORIGINS: usize = 256;

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    exp: u64,
    sub: &'a str,
}

/// The operator's key and contact, and the tokens in use.
#[derive(Clone)]
pub struct Vapid(Arc<Inner>);

struct Inner {
    key: EncodingKey,
    /// The public key as browsers want it when they subscribe.
    public: String,
    contact: String,
    /// By origin: when it was made, and the value of `Authorization`.
    made: Mutex<BTreeMap<String, (u64, String)>>,
}

impl std::fmt::Debug for Vapid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vapid").field("public", &self.0.public).finish_non_exhaustive()
    }
}

impl Vapid {
    /// From a P-256 key in PKCS #8 (DER), and how a push service reaches the operator: `mailto:` or `https:`.
    ///
    /// # Errors
    /// [`SetupError`] when one of them has another form.
    pub fn new(pkcs8: &[u8], contact: &str) -> Result<Self, SetupError> {
        let bad = SetupError::Key { what: "the key of Web Push", expected: "a PKCS #8 key of P-256" };
        let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8) else { return Err(bad) };
        if !contact.starts_with("mailto:") && !contact.starts_with("https://") {
            return Err(SetupError::Value { what: "contact", rule: "must begin with mailto: or https://" });
        }
        let public = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let (key, made) = (EncodingKey::from_ec_der(pkcs8), Mutex::default());
        Ok(Self(Arc::new(Inner { key, public, contact: contact.to_owned(), made })))
    }

    /// The public key: an uncompressed point in URL-safe base64, as `applicationServerKey` of a browser wants it.
    #[must_use]
    pub fn public_key(&self) -> &str {
        &self.0.public
    }

    /// The value of `Authorization` for an origin. `None` when signing failed.
    pub(super) fn authorization(&self, origin: &str, now: Timestamp) -> Option<String> {
        let mut made = self.0.made.lock();
        if let Some((at, value)) = made.get(origin)
            && now.0.saturating_sub(*at) < USED
        {
            return Some(value.clone());
        }
        let claims = Claims { aud: origin, exp: now.0 / 1_000 + LIFE, sub: &self.0.contact };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.0.key).ok()?;
        let value = format!("vapid t={token}, k={}", self.0.public);
        if made.len() >= ORIGINS
            && let Some(oldest) = made.iter().min_by_key(|(_, (at, _))| *at).map(|(origin, _)| origin.clone())
        {
            made.remove(&oldest);
        }
        made.insert(origin.to_owned(), (now.0, value.clone()));
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    fn vapid() -> Vapid {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Vapid::new(pair.to_pkcs8v1().unwrap().as_ref(), "mailto:push@example.com").unwrap()
    }

    /// Checks a value of `Authorization` as a push service does, and gives the claims.
    fn verify(value: &str) -> Option<serde_json::Value> {
        let (token, key) = value.strip_prefix("vapid t=")?.split_once(", k=")?;
        let (signed, signature) = token.rsplit_once('.')?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, URL_SAFE_NO_PAD.decode(key).ok()?);
        key.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(signed.split_once('.')?.1).ok()?).ok()
    }

    /// RFC 8292, 2.4.
    const EXAMPLE: &str = concat!(
        "vapid t=eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9.eyJhdWQiOiJodHRwczovL3B1c2guZXhhbXBsZS5uZXQiLCJleHAiOjE0NTM1",
        "MjM3NjgsInN1YiI6Im1haWx0bzpwdXNoQGV4YW1wbGUuY29tIn0.i3CYb7t4xfxCDquptFOepC9GAu_HLGkMlMuCGSK2rpiUfnK9ojFw",
        "DXb1JrErtmysazNjjvW2L9OkSSHzvoD1oA, k=BA1Hxzyi1RUM1b5wjxsn7nGxAszw2u61m164i3MrAIxHF6YK5h4SDYic-dRuU_RCPCf",
        "A5aq9ojSwk5Y2EmClBPs",
    );

    #[test]
    fn a_token_has_the_form_of_the_rfcs_example_and_verifies_by_its_key() {
        let example = verify(EXAMPLE).expect("the check takes the RFC's own example");
        assert_eq!(example["aud"], "https://push.example.net");
        assert_eq!(verify(&EXAMPLE.replace("i3CYb7t4", "i3CYb7t5")), None, "and no other signature");
        let ours = vapid().authorization("https://push.example.net", Timestamp(1_453_480_568_000)).unwrap();
        let claims = verify(&ours).expect("a good signature");
        assert_eq!(claims["exp"].as_u64(), Some(1_453_523_768), "as in the example");
        assert_eq!(claims, example);
        let header = |value: &str| value["vapid t=".len()..].split('.').next().map(str::to_owned);
        assert_eq!(header(&ours), header(EXAMPLE), "typ and alg");
    }

    #[test]
    fn a_token_is_for_one_origin_used_for_an_hour_and_so_many_are_kept() {
        let vapid = vapid();
        let first = vapid.authorization("https://a.example", Timestamp(0));
        assert_eq!(vapid.authorization("https://a.example", Timestamp(USED - 1)), first);
        assert_ne!(vapid.authorization("https://b.example", Timestamp(0)), first);
        assert_ne!(vapid.authorization("https://a.example", Timestamp(USED)), first);
        for number in 0..ORIGINS + 9 {
            vapid.authorization(&format!("https://{number}.example"), Timestamp(USED));
        }
        assert_eq!(vapid.0.made.lock().len(), ORIGINS);
    }

    #[test]
    fn a_key_of_another_kind_and_a_contact_that_nobody_can_reach_are_refused() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let good = pair.to_pkcs8v1().unwrap();
        assert!(Vapid::new(good.as_ref(), "push@example.com").is_err());
        assert!(Vapid::new(&good.as_ref()[1..], "mailto:push@example.com").is_err());
        let ed25519 =
            aws_lc_rs::signature::Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
        assert!(Vapid::new(ed25519.as_ref(), "mailto:push@example.com").is_err());
    }
}
