//! Who a token names. Keys are chosen by algorithm first, so that no token can pick how it is checked.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hearth_protocol::{Timestamp, UserId};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

/// Bytes of a token. A longer one is refused before it is looked at.
const TOKEN_BYTES: usize = 8 * 1024;

/// The `role` of those who may ask about messages of others.
const OPERATOR: &str = "operator";

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `sub`.
    pub user: UserId,
    /// `exp` with the leeway: from here on the token is refused.
    pub expires_at: Timestamp,
    /// `exp` itself.
    pub token_expires_at: Timestamp,
    /// Whether `role` is `operator`.
    pub operator: bool,
}

/// Why a token is not good. The texts name no part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is none.
    #[error("no token")]
    Missing,
    /// It is no JWT, or lacks `sub` or `exp`, or they have another form.
    #[error("not a usable token")]
    Malformed,
    /// No key of that id and algorithm is known.
    #[error("the token is signed by a key that this region does not know")]
    UnknownKey,
    /// The signature is another's.
    #[error("the token's signature is wrong")]
    Signature,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` lies ahead.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iss` is another.
    #[error("the token is from another issuer")]
    Issuer,
    /// `aud` is another.
    #[error("the token is for another audience")]
    Audience,
    /// `sub` is no user id.
    #[error("the token's subject is not a user id")]
    Subject,
}

/// Decides whether a token is good at a time.
pub trait TokenVerifier: Send + Sync + std::fmt::Debug + 'static {
    /// Checks signature, issuer, audience, `nbf`, `exp` and `sub`.
    ///
    /// # Errors
    /// [`AuthError`].
    fn verify(&self, token: &str, now: Timestamp) -> Result<Identity, AuthError>;
}

/// What tokens are checked by.
#[derive(Clone, Default)]
pub struct JwtOptions {
    /// A JWKS file; read again by [`JwtVerifier::reload`].
    pub jwks: Option<PathBuf>,
    /// A shared secret for HS256.
    pub hs256_secret: Option<Vec<u8>>,
    /// The `iss` that a token must carry.
    pub issuer: Option<String>,
    /// The `aud` that a token must carry.
    pub audience: Option<String>,
    /// How far clocks may differ, in seconds.
    pub leeway_seconds: u64,
}

impl std::fmt::Debug for JwtOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtOptions")
            .field("jwks", &self.jwks)
            .field("hs256", &self.hs256_secret.is_some())
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

/// Why the keys could not be read.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("cannot read the JWKS file: {0}")]
    Read(#[from] std::io::Error),
    /// It is no JWKS.
    #[error("the JWKS file is not a key set: {0}")]
    Form(#[from] serde_json::Error),
    /// No key of it can be used, and no secret is set.
    #[error("no key of EdDSA, ES256 or RS256, and no HS256 secret")]
    NoKey,
}

/// A key with the one algorithm that it may check.
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Checks JWTs by a JWKS file, a shared secret, or both.
pub struct JwtVerifier {
    options: JwtOptions,
    keys: ArcSwap<Vec<Key>>,
}

impl std::fmt::Debug for JwtVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtVerifier").field("keys", &self.keys.load().len()).finish_non_exhaustive()
    }
}

impl JwtVerifier {
    /// Reads the keys.
    ///
    /// # Errors
    /// [`KeysError`] when there is no usable key.
    pub fn new(options: JwtOptions) -> Result<Arc<Self>, KeysError> {
        let keys = read_keys(&options)?;
        Ok(Arc::new(Self { options, keys: ArcSwap::from_pointee(keys) }))
    }

    /// Reads the JWKS file again. Sessions go on; the next token is checked by the new keys.
    ///
    /// # Errors
    /// [`KeysError`]; the old keys stay then.
    pub fn reload(&self) -> Result<(), KeysError> {
        self.keys.store(Arc::new(read_keys(&self.options)?));
        Ok(())
    }

    /// The JWKS file, for whoever watches it.
    #[must_use]
    pub fn jwks_path(&self) -> Option<&std::path::Path> {
        self.options.jwks.as_deref()
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        // Times are checked below, by the time that the caller passes.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.required_spec_claims.clear();
        validation.validate_aud = false;
        if let Some(audience) = &self.options.audience {
            validation.validate_aud = true;
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        if let Some(issuer) = &self.options.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        validation
    }

    fn check_claims(&self, claims: Claims, now: Timestamp) -> Result<Identity, AuthError> {
        let leeway = self.options.leeway_seconds as f64;
        let now_seconds = now.0 as f64 / 1000.0;
        let expires =
            claims.exp.filter(|seconds| seconds.is_finite() && *seconds >= 0.0).ok_or(AuthError::Malformed)?;
        if now_seconds >= expires + leeway {
            return Err(AuthError::Expired);
        }
        if claims.nbf.is_some_and(|seconds| !seconds.is_finite() || seconds > now_seconds + leeway) {
            return Err(AuthError::NotYetValid);
        }
        let user = UserId::new(claims.sub.ok_or(AuthError::Subject)?).map_err(|_| AuthError::Subject)?;
        // Wire integers stay below 2^53: a token that never ends is shown as ending there.
        let milliseconds = |seconds: f64| Timestamp((seconds * 1000.0).min(9e15) as u64);
        let operator = claims.role.as_ref().and_then(serde_json::Value::as_str) == Some(OPERATOR);
        let (expires_at, token_expires_at) = (milliseconds(expires + leeway), milliseconds(expires));
        Ok(Identity { user, expires_at, token_expires_at, operator })
    }
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: Option<String>,
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default)]
    nbf: Option<f64>,
    /// Of any form: a provider may use the name for something else.
    #[serde(default)]
    role: Option<serde_json::Value>,
}

impl TokenVerifier for JwtVerifier {
    fn verify(&self, token: &str, now: Timestamp) -> Result<Identity, AuthError> {
        if token.is_empty() {
            return Err(AuthError::Missing);
        }
        if token.len() > TOKEN_BYTES {
            return Err(AuthError::Malformed);
        }
        let header = decode_header(token).map_err(|_| AuthError::Malformed)?;
        let keys = self.keys.load();
        let candidates = keys.iter().filter(|key| {
            let id_fits = match (&header.kid, &key.id) {
                (Some(asked), Some(id)) => asked == id,
                (Some(_) | None, None) | (None, Some(_)) => true,
            };
            key.algorithm == header.alg && id_fits
        });
        let mut refusal = AuthError::UnknownKey;
        for key in candidates {
            match decode::<Claims>(token, &key.key, &self.validation(key.algorithm)) {
                Ok(data) => return self.check_claims(data.claims, now),
                Err(error) => refusal = reason(error.kind()),
            }
        }
        Err(refusal)
    }
}

fn reason(kind: &jsonwebtoken::errors::ErrorKind) -> AuthError {
    use jsonwebtoken::errors::ErrorKind;
    match kind {
        ErrorKind::InvalidSignature => AuthError::Signature,
        ErrorKind::InvalidIssuer => AuthError::Issuer,
        ErrorKind::InvalidAudience => AuthError::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => AuthError::Issuer,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => AuthError::Audience,
        _ => AuthError::Malformed,
    }
}

fn read_keys(options: &JwtOptions) -> Result<Vec<Key>, KeysError> {
    let mut keys = Vec::new();
    if let Some(secret) = &options.hs256_secret {
        keys.push(Key { id: None, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(secret) });
    }
    if let Some(path) = &options.jwks {
        let set: JwkSet = serde_json::from_slice(&std::fs::read(path)?)?;
        keys.extend(set.keys.iter().filter_map(public_key));
    }
    if keys.is_empty() { Err(KeysError::NoKey) } else { Ok(keys) }
}

/// A key of a set that may check signatures; `None` for others. A shared secret does not belong in a public set.
fn public_key(jwk: &Jwk) -> Option<Key> {
    if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(parameters) if parameters.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        AlgorithmParameters::EllipticCurve(parameters) if parameters.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        _ => return None,
    };
    let stated = jwk.common.key_algorithm.map(|stated| stated.to_string());
    if stated.is_some_and(|stated| stated != format!("{algorithm:?}")) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(Key { id: jwk.common.key_id.clone(), algorithm, key })
}
