//! The other end of the administration port, for the command line.

use std::time::Duration;

use hearth_protocol::Refusal;
use hearth_protocol::admin::{self, ChangeRequest, Line};
use serde::de::DeserializeOwned;

use super::tls::{self, AdminPem, AdminTlsError};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for an answer that is read, or for the next line of one that takes time.
const ANSWER: Duration = Duration::from_secs(120);
/// Bytes of one line.
const LINE_BYTES: usize = 1 << 20;

/// Why a node gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] AdminTlsError),
    /// Nobody answers there.
    #[error("no node answers at {url}: {reason}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// One end did not believe the other's certificate.
    #[error("the certificates do not fit at {url}: {reason}")]
    NotTrusted {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// The node refused.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The answer is of another form.
    #[error("{url} answered in another form than expected: {reason}")]
    Unexpected {
        /// Where.
        url: String,
        /// What.
        reason: String,
    },
}

/// A node's administration port.
#[derive(Clone, Debug)]
pub struct AdminClient {
    url: String,
    http: reqwest::Client,
}

impl AdminClient {
    /// A client for the port at `https://HOST:PORT`; with `region` the node has to be one of that region. Connects when
    /// it asks.
    ///
    /// # Errors
    /// [`AskError::Tls`] when the certificate is no administrator's or cannot be used.
    pub fn new(url: &str, pem: &AdminPem, region: Option<&str>) -> Result<Self, AskError> {
        Self::with_tls(url, tls::client(pem, region)?)
    }

    /// As [`AdminClient::new`], with TLS settings of one's own.
    ///
    /// # Errors
    /// [`AskError::Unreachable`] when no client can be made.
    pub fn with_tls(url: &str, tls: rustls::ClientConfig) -> Result<Self, AskError> {
        let url = url.trim_end_matches('/').to_owned();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .no_proxy()
            .connect_timeout(CONNECT)
            .read_timeout(ANSWER)
            .build()
            .map_err(|error| AskError::Unreachable { url: url.clone(), reason: chain(&error) })?;
        Ok(Self { url, http })
    }

    /// Reads what is at a path of [`hearth_protocol::admin`].
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AskError> {
        let response = self.http.get(format!("{}{path}", self.url)).send().await;
        let body = self.body(response).await?.bytes().await.map_err(|error| self.lost(&error))?;
        serde_json::from_slice(&body).map_err(|error| self.unexpected(&error))
    }

    /// Has a change thought through or made; `tell` gets each line as it comes, the last one too.
    ///
    /// # Errors
    /// [`AskError`]; when the connection breaks, the node goes on: its audit log says how it ended.
    pub async fn change(&self, request: &ChangeRequest, tell: impl FnMut(&Line)) -> Result<Line, AskError> {
        let body = serde_json::to_vec(request).map_err(|error| self.unexpected(&error))?;
        self.lines(self.http.post(format!("{}{}", self.url, admin::CHANGES)).body(body), tell).await
    }

    /// Has the node walk its logs; `tell` gets each line as it comes, the last one too.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn verify(&self, tell: impl FnMut(&Line)) -> Result<Line, AskError> {
        self.lines(self.http.post(format!("{}{}", self.url, admin::VERIFY)), tell).await
    }

    async fn lines(&self, request: reqwest::RequestBuilder, mut tell: impl FnMut(&Line)) -> Result<Line, AskError> {
        let mut response = self.body(request.send().await).await?;
        let mut waiting = Vec::new();
        let mut last = None;
        while let Some(chunk) = response.chunk().await.map_err(|error| self.lost(&error))? {
            waiting.extend_from_slice(&chunk);
            while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
                let text: Vec<u8> = waiting.drain(..=end).collect();
                let line: Line = serde_json::from_slice(&text).map_err(|error| self.unexpected(&error))?;
                tell(&line);
                last = Some(line);
            }
            if waiting.len() > LINE_BYTES {
                return Err(self.unexpected(&format!("a line of more than {LINE_BYTES} bytes")));
            }
        }
        match last {
            Some(line @ (Line::Done { .. } | Line::Verified { .. } | Line::Refused { .. })) => Ok(line),
            Some(_) | None => Err(self.unexpected(&"it ended before its last line; its audit log says how it went on")),
        }
    }

    async fn body(&self, response: Result<reqwest::Response, reqwest::Error>) -> Result<reqwest::Response, AskError> {
        let response = response.map_err(|error| self.lost(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.lost(&error))?;
        Err(match serde_json::from_slice(&body) {
            Ok(refusal) => AskError::Refused(refusal),
            Err(_) => self.unexpected(&status),
        })
    }

    fn unexpected(&self, reason: &impl ToString) -> AskError {
        AskError::Unexpected { url: self.url.clone(), reason: reason.to_string() }
    }

    /// In TLS 1.3 a client learns that its certificate was refused when it reads.
    fn lost(&self, error: &reqwest::Error) -> AskError {
        let (url, reason) = (self.url.clone(), chain(error));
        let of_trust = ["alert", "certificate", "Certificate", "UnknownIssuer"];
        if of_trust.iter().any(|word| reason.contains(word)) {
            AskError::NotTrusted { url, reason }
        } else {
            AskError::Unreachable { url, reason }
        }
    }
}

/// An error with everything below it: the reason of a failed handshake lies deep.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        below = error.source();
    }
    text
}
