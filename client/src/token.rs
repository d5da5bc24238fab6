//! Where a client's tokens come from.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_protocol::UserId;

use crate::rest::Rest;

/// A token of the identity provider.
#[derive(Clone)]
pub struct Token {
    /// The JWT.
    pub jwt: String,
    /// How long it lives from now on, if known: it is replaced after 80% of that time.
    pub lifetime: Option<Duration>,
}

impl std::fmt::Debug for Token {
    /// Leaves the token out: this may be logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// No token could be had; the client tries again with its next attempt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no token: {0}")]
pub struct TokenError(pub String);

type Answer = Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send>>;

/// Gives a new token each time it is asked: at the start, before the old one expires, and after 4011.
#[derive(Clone)]
pub struct TokenSource(Arc<dyn Fn() -> Answer + Send + Sync>);

impl std::fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenSource")
    }
}

impl TokenSource {
    /// Asks `source`.
    pub fn new<F, A>(source: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<Token, TokenError>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(source())))
    }

    /// Always the same token: good for as long as it lives.
    #[must_use]
    pub fn fixed(jwt: String) -> Self {
        Self::new(move || {
            let jwt = jwt.clone();
            async move { Ok(Token { jwt, lifetime: None }) }
        })
    }

    /// The development mesh: asks the first of `bases` that answers, for a token of `lifetime`.
    #[must_use]
    pub fn dev(rest: Rest, bases: Vec<String>, user: UserId, lifetime: Duration) -> Self {
        Self::new(move || {
            let (rest, bases, user) = (rest.clone(), bases.clone(), user.clone());
            async move {
                let mut why = "no region to ask".to_owned();
                for base in &bases {
                    match rest.dev_token(base, &user, lifetime.as_secs().max(1)).await {
                        Ok(token) => {
                            let expires = UNIX_EPOCH + Duration::from_millis(token.expires_at);
                            let lifetime = expires.duration_since(SystemTime::now()).unwrap_or(lifetime);
                            return Ok(Token { jwt: token.token, lifetime: Some(lifetime) });
                        }
                        Err(error) => why = error.to_string(),
                    }
                }
                Err(TokenError(why))
            }
        })
    }

    /// A new token.
    ///
    /// # Errors
    /// [`TokenError`] as the source gave it.
    pub async fn token(&self) -> Result<Token, TokenError> {
        (self.0)().await
    }
}
