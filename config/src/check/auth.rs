//! Checks of `[auth]`: keys that tokens are verified and resume tokens are signed by.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::Checker;
use crate::explain::example_of;
use crate::model::AuthSection;

/// Bytes that a shared secret must have at least: the output of SHA-256.
const SECRET_BYTES: usize = 32;

impl Checker<'_> {
    pub(super) fn token_keys(&mut self) {
        let auth = &self.config.auth;
        let has_secret = auth.hs256_secret.is_some() || auth.hs256_secret_file.is_some();
        if auth.jwks.is_none() && !has_secret {
            let help = "add jwks = \"jwks.json\" with the public keys of your identity provider, or hs256_secret_file = \"hs256.secret\"";
            self.error("auth", "no key is given that tokens could be checked by", help);
        }
        if let Some(path) = &auth.jwks {
            self.jwks(path);
        }
        if auth.hs256_secret.is_none()
            && let Some(path) = &auth.hs256_secret_file
        {
            self.private_file("auth.hs256_secret_file", path);
        }
        if let Ok(Some(secret)) = auth.read_hs256_secret() {
            let key = if auth.hs256_secret.is_some() { "auth.hs256_secret" } else { "auth.hs256_secret_file" };
            self.secret_length(key, secret.expose());
        }
        for (key, value) in [("issuer", &auth.issuer), ("audience", &auth.audience)] {
            if value.is_none() && (auth.jwks.is_some() || has_secret) {
                let path = format!("auth.{key}");
                let help = example_of(&path).map_or_else(String::new, |line| format!("add, for example: {line}"));
                self.notice(path, format!("tokens of any {key} are accepted"), help);
            }
        }
        let default = AuthSection::default().leeway;
        self.time("auth.leeway", auth.leeway, Duration::ZERO, Duration::from_secs(600), default);
    }

    fn jwks(&mut self, path: &Path) {
        let help = "name a JWKS file: {\"keys\": [{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"kid\": …, \"x\": …}]}";
        let Some(text) = self.file("auth.jwks", path, help) else {
            return;
        };
        let keys = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|document| document.get("keys").and_then(|keys| keys.as_array().cloned()));
        let Some(keys) = keys else {
            return self.error("auth.jwks", format!("{} is not a key set", path.display()), help);
        };
        let usable = |key: &serde_json::Value| {
            matches!(key.get("kty").and_then(|kind| kind.as_str()), Some("OKP" | "EC" | "RSA"))
        };
        if !keys.iter().any(usable) {
            let message = format!("{} holds no key of EdDSA, ES256 or RS256", path.display());
            self.error("auth.jwks", message, help);
        }
    }

    pub(super) fn resume_keys(&mut self) {
        let keys = &self.config.auth.resume_keys;
        let make = "make a secret, the same file in every region: head -c 32 /dev/urandom | base64 > resume-1.secret";
        if keys.is_empty() {
            let help = format!("{make}\nadd resume_keys = [{{ id = \"1\", secret_file = \"resume-1.secret\" }}]");
            self.error("auth.resume_keys", "no key is given that resume tokens could be signed by", help);
        }
        let mut ids = BTreeSet::new();
        for (index, key) in keys.iter().enumerate() {
            let place = |field: &str| format!("auth.resume_keys[{index}].{field}");
            if key.id.is_empty()
                || key.id.len() > 32
                || !key.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            {
                let message = format!("`{}` cannot be a key's name", key.id);
                self.error(place("id"), message, "type 1 to 32 letters, digits and -");
            }
            if !ids.insert(&key.id) {
                self.error(place("id"), format!("`{}` names two keys", key.id), "give each key its own id");
            }
            match (&key.secret, &key.secret_file) {
                (None, None) => self.error(place("secret_file"), "the key has no secret", make),
                (None, Some(path)) => self.private_file(place("secret_file"), path),
                (Some(_), _) => {}
            }
            if let Ok(Some(secret)) = key.read_secret() {
                let field = if key.secret.is_some() { "secret" } else { "secret_file" };
                self.secret_length(place(field), secret.expose());
            }
        }
    }

    fn secret_length(&mut self, key: impl Into<String>, secret: &[u8]) {
        if secret.len() < SECRET_BYTES {
            let message = format!("the secret has {} bytes and needs at least {SECRET_BYTES}", secret.len());
            self.error(key, message, "make one by: head -c 32 /dev/urandom | base64");
        }
    }
}
