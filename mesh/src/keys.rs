//! Keys of tokens, from the configuration.

use std::sync::Arc;
use std::time::Duration;

use edge_gateway::{JwtOptions, JwtVerifier, ResumeKeys};
use hearth_config::AuthSection;

use crate::region::StartError;

/// Who checks JWTs.
pub(crate) fn verifier(auth: &AuthSection) -> Result<Arc<JwtVerifier>, StartError> {
    let secret = auth.read_hs256_secret().map_err(|error| StartError::Config(error.to_string()))?;
    JwtVerifier::new(JwtOptions {
        jwks: auth.jwks.clone(),
        hs256_secret: secret.map(|secret| secret.expose().to_vec()),
        issuer: auth.issuer.clone(),
        audience: auth.audience.clone(),
        leeway_seconds: auth.leeway.as_secs(),
    })
    .map_err(|error| StartError::Config(format!("[auth]: {error}")))
}

/// Keys of resume tokens.
pub(crate) fn resume_keys(auth: &AuthSection, kept: Duration) -> Result<ResumeKeys, StartError> {
    let mut keys = Vec::new();
    for key in &auth.resume_keys {
        let secret = key.read_secret().map_err(|error| StartError::Config(error.to_string()))?;
        let secret = secret.ok_or_else(|| StartError::Config(format!("resume key {:?} has no secret", key.id)))?;
        keys.push((key.id.clone(), secret.expose().to_vec()));
    }
    let kept = u64::try_from(kept.as_millis()).unwrap_or(u64::MAX);
    ResumeKeys::new(keys, kept).map_err(|error| StartError::Config(format!("auth.resume_keys: {error}")))
}
