//! The REST routes, typed. One value serves any number of regions: each call names the region's base URL.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use hearth_protocol::entry::ConversationKind;
use hearth_protocol::rest::{
    AddMembers, ConversationRow, CreateConversation, CreateGroup, FeedResponse, HistoryQuery, HistoryResponse,
    MembersResponse, SettingsPatch, SyncRequest, SyncResponse, UserRow,
};
use hearth_protocol::{ConversationId, Refusal, RegionId, UserId};
use reqwest::{Method, RequestBuilder};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::transport::platform_tls;

/// How long one REST call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a REST call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// The region answered with an error of the contract.
    #[error("{refusal}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Code, text and when to retry.
        refusal: Refusal,
    },
    /// The region could not be reached, or did not answer within 15 s.
    #[error("could not reach {url}: {source}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What the transport said.
        source: reqwest::Error,
    },
    /// The answer has another form than the contract fixes.
    #[error("{url} answered {status} with a body of another form than expected")]
    Unexpected {
        /// What was asked.
        url: String,
        /// HTTP status.
        status: u16,
    },
}

/// A token of the development mesh.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DevToken {
    /// The JWT.
    pub token: String,
    /// Milliseconds since the epoch.
    pub expires_at: u64,
}

impl std::fmt::Debug for DevToken {
    /// Leaves the token out: this may be logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// A region as the development mesh names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevRegion {
    /// The region.
    pub id: RegionId,
    /// `http://host:port`.
    pub http: String,
    /// `ws://host:port/ws`.
    pub ws: String,
    /// `https://host:port/wt`.
    #[serde(default)]
    pub webtransport: Option<String>,
}

/// What a link between two regions is to do; absent fields stay as they are.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkChange {
    /// The region that sends.
    pub from: RegionId,
    /// The region that receives.
    pub to: RegionId,
    /// `cut` or `up`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// One-way delay in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_percent: Option<f64>,
    /// Whether the other direction changes too (default true).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub both: Option<bool>,
}

/// One direction of a link.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkState {
    /// The region that sends.
    pub from: RegionId,
    /// The region that receives.
    pub to: RegionId,
    /// `cut` or `up`.
    pub state: String,
    /// One-way delay in milliseconds.
    #[serde(default)]
    pub delay_ms: u64,
    /// 0 to 100.
    #[serde(default)]
    pub loss_percent: f64,
}

/// Calls REST routes over kept-alive connections.
#[derive(Clone, Debug)]
pub struct Rest {
    http: reqwest::Client,
}

impl Rest {
    /// With `tls`, or the platform's trust. Makes no connection yet.
    ///
    /// # Errors
    /// When neither TLS nor the HTTP client can be set up on this machine.
    pub fn new(tls: Option<Arc<rustls::ClientConfig>>) -> Result<Self, RestError> {
        let unusable = |source| RestError::Unreachable { url: "(no URL yet)".to_owned(), source };
        let builder = reqwest::Client::builder().timeout(CALL_TIMEOUT).no_proxy();
        // Without a platform trust store plain HTTP still works, so reqwest's own default stands in.
        let builder = match tls.or_else(|| platform_tls().ok()) {
            Some(tls) => builder.tls_backend_preconfigured((*tls).clone()),
            None => builder,
        };
        Ok(Self { http: builder.build().map_err(unusable)? })
    }

    /// Names the user that calls.
    #[must_use]
    pub fn with_token<'a>(&'a self, base: &'a str, token: &'a str) -> Api<'a> {
        Api { rest: self, base, token }
    }

    async fn call<T: DeserializeOwned>(&self, url: &str, request: RequestBuilder) -> Result<T, RestError> {
        let unreachable = |source: reqwest::Error| RestError::Unreachable { url: url.to_owned(), source };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        let body = response.bytes().await.map_err(unreachable)?;
        let unexpected = RestError::Unexpected { url: url.to_owned(), status };
        if (200..300).contains(&status) {
            let body: &[u8] = if body.is_empty() { b"null" } else { &body };
            return serde_json::from_slice(body).map_err(|_| unexpected);
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => Err(RestError::Refused { status, refusal }),
            Err(_) => Err(unexpected),
        }
    }

    /// `GET /api/v1/dev/regions`: the regions of a development mesh.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn dev_regions(&self, base: &str) -> Result<Vec<DevRegion>, RestError> {
        #[derive(Deserialize)]
        struct Answer {
            regions: Vec<DevRegion>,
        }
        let url = format!("{base}/api/v1/dev/regions");
        Ok(self.call::<Answer>(&url, self.http.get(&url)).await?.regions)
    }

    /// `POST /api/v1/dev/tokens`: a token for `user` that lives for `seconds`.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn dev_token(&self, base: &str, user: &UserId, seconds: u64) -> Result<DevToken, RestError> {
        let url = format!("{base}/api/v1/dev/tokens");
        let body = serde_json::json!({ "userId": user, "ttlSeconds": seconds });
        self.call(&url, self.http.post(&url).json(&body)).await
    }

    /// `POST /api/v1/dev/links`: cuts, heals, slows or thins a link.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn set_dev_link(&self, base: &str, change: &LinkChange) -> Result<Vec<LinkState>, RestError> {
        let url = format!("{base}/api/v1/dev/links");
        Ok(self.call::<Links>(&url, self.http.post(&url).json(change)).await?.links)
    }

    /// `GET /api/v1/dev/links`: every direction of every link.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn dev_links(&self, base: &str) -> Result<Vec<LinkState>, RestError> {
        let url = format!("{base}/api/v1/dev/links");
        Ok(self.call::<Links>(&url, self.http.get(&url)).await?.links)
    }

    /// SHA-256 hashes of the certificates that `GET /transport.json` names; none where the platform's trust holds.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn webtransport_hashes(&self, base: &str) -> Result<Vec<[u8; 32]>, RestError> {
        let url = format!("{base}/transport.json");
        let answer: TransportJson = self.call(&url, self.http.get(&url)).await?;
        let hashes = answer.webtransport.map(|part| part.certificate_hashes).unwrap_or_default();
        let decoded = hashes.iter().filter(|hash| hash.algorithm == "sha-256").map(|hash| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(&hash.value).ok()?;
            <[u8; 32]>::try_from(bytes).ok()
        });
        decoded.collect::<Option<Vec<_>>>().ok_or(RestError::Unexpected { url, status: 200 })
    }

    /// `GET /metrics` as text.
    ///
    /// # Errors
    /// [`RestError::Unreachable`].
    pub async fn metrics(&self, base: &str) -> Result<String, RestError> {
        let url = format!("{base}/metrics");
        let unreachable = |source| RestError::Unreachable { url: url.clone(), source };
        let response = self.http.get(&url).send().await.map_err(unreachable)?;
        response.text().await.map_err(unreachable)
    }
}

#[derive(Deserialize)]
struct Links {
    links: Vec<LinkState>,
}

#[derive(Deserialize)]
struct TransportJson {
    #[serde(default)]
    webtransport: Option<WebTransportJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WebTransportJson {
    #[serde(default)]
    certificate_hashes: Vec<CertificateHash>,
}

#[derive(Deserialize)]
struct CertificateHash {
    algorithm: String,
    value: String,
}

/// The routes of one user at one region.
#[derive(Clone, Copy)]
pub struct Api<'a> {
    rest: &'a Rest,
    base: &'a str,
    token: &'a str,
}

impl std::fmt::Debug for Api<'_> {
    /// Leaves the token out: this may be logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Api<'_> {
    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, RestError> {
        let url = format!("{}/api/v1{path}", self.base);
        let request = self.rest.http.request(method, &url).bearer_auth(self.token);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        self.rest.call(&url, request).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, RestError> {
        self.request(Method::GET, path, None::<&()>).await
    }

    /// The direct conversation with `other`, made if need be: the same id from either side and every region.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn direct(&self, other: &UserId) -> Result<ConversationRow, RestError> {
        let body = CreateConversation { kind: ConversationKind::Direct, participant_ids: vec![other.clone()] };
        self.request(Method::POST, "/conversations", Some(&body)).await
    }

    /// A new group whose creator is its admin.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn create_group(&self, name: &str, others: &[UserId]) -> Result<ConversationRow, RestError> {
        self.create(name, others, None).await
    }

    /// A new channel, in which only its admins write; its creator is one.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn create_channel(&self, name: &str, others: &[UserId]) -> Result<ConversationRow, RestError> {
        self.create(name, others, Some(ConversationKind::Channel)).await
    }

    async fn create(
        &self,
        name: &str,
        others: &[UserId],
        kind: Option<ConversationKind>,
    ) -> Result<ConversationRow, RestError> {
        let body = CreateGroup {
            name: name.to_owned(),
            participant_ids: others.to_vec(),
            kind,
            settings: SettingsPatch::default(),
            partition_mode: None,
        };
        self.request(Method::POST, "/groups", Some(&body)).await
    }

    /// One conversation with its first members and its settings.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn conversation(&self, id: ConversationId) -> Result<ConversationRow, RestError> {
        self.get(&format!("/conversations/{id}")).await
    }

    /// One page of the user's change feed since `cursor`.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn conversations(&self, cursor: Option<&str>, limit: u64) -> Result<FeedResponse, RestError> {
        let cursor = cursor.map(|cursor| format!("&cursor={}", escape(cursor))).unwrap_or_default();
        self.get(&format!("/conversations?limit={limit}{cursor}")).await
    }

    /// One page of members.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn members(
        &self,
        id: ConversationId,
        cursor: Option<&str>,
        limit: u64,
    ) -> Result<MembersResponse, RestError> {
        let cursor = cursor.map(|cursor| format!("&cursor={}", escape(cursor))).unwrap_or_default();
        self.get(&format!("/conversations/{id}/members?limit={limit}{cursor}")).await
    }

    /// Adds members, at most 1,000.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn add_members(&self, id: ConversationId, users: &[UserId]) -> Result<ConversationRow, RestError> {
        let body = AddMembers { user_ids: users.to_vec() };
        self.request(Method::POST, &format!("/conversations/{id}/members"), Some(&body)).await
    }

    /// Removes a member; the caller itself: leaves.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn remove_member(&self, id: ConversationId, user: &UserId) -> Result<(), RestError> {
        self.request(Method::DELETE, &format!("/conversations/{id}/members/{user}"), None::<&()>).await
    }

    /// One page of history, ascending.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn history(&self, id: ConversationId, query: &HistoryQuery) -> Result<HistoryResponse, RestError> {
        let mut path = format!("/conversations/{id}/messages?");
        for (name, value) in [("before", query.before), ("after", query.after), ("limit", query.limit)] {
            if let Some(value) = value {
                path.push_str(&format!("{name}={value}&"));
            }
        }
        path.pop();
        self.get(&path).await
    }

    /// What is newer than the cursors, for several conversations at once.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn sync(&self, request: &SyncRequest) -> Result<SyncResponse, RestError> {
        self.request(Method::POST, "/sync", Some(request)).await
    }

    /// A user's profile.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn user(&self, user: &UserId) -> Result<UserRow, RestError> {
        self.get(&format!("/users/{user}")).await
    }
}

/// Percent-encodes what may not stand in a query value. Cursors are opaque, so nothing is assumed of them.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn a_cursor_of_any_characters_fits_into_a_query() {
        assert_eq!(escape("a+b/c=&é"), "a%2Bb%2Fc%3D%26%C3%A9");
    }
}
