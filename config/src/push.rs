//! `[push]`: how users are woken who are not there.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::values::Pem;

/// `[push]`: how users are woken who are not there. The same in every region: what a device may subscribe to is asked where
/// it is connected, and sent where its user's record has its home.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PushSection {
    /// How much a push says to its service and the device: `nothing` (default) but that there is something, or `ids`.
    pub says: PushSays,
    /// Whether pushes to services without a section of their own are written into the log, a line each; default false:
    /// nobody can subscribe to such a service.
    pub log: bool,
    /// Web Push, for browsers.
    pub web: Option<WebPushSection>,
    /// Apple's service.
    pub apns: Option<ApnsSection>,
    /// Firebase Cloud Messaging.
    pub fcm: Option<FcmSection>,
}

/// How much a push says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PushSays {
    /// That there is something.
    #[default]
    Nothing,
    /// Which conversation and message.
    Ids,
}

/// `[push.web]`: who this mesh is to browsers' push services (RFC 8292).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebPushSection {
    /// A private key of P-256 in PKCS #8 form (PEM), the same in every region.
    pub key: Pem,
    /// How a push service reaches the operator: `mailto:…` or `https://…`.
    pub contact: String,
    /// Whether endpoints may lie at any address and port; default false: in the public internet, at port 443.
    #[serde(default)]
    pub any_address: bool,
    /// Certificate authorities to believe instead of those of the platform (PEM); default none.
    #[serde(default)]
    pub authorities: Option<Pem>,
}

/// `[push.apns]`: what the operator has from Apple.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApnsSection {
    /// The `.p8` file.
    pub key: Pem,
    /// The key's id, 10 characters.
    pub key_id: String,
    /// The team's id, 10 characters.
    pub team_id: String,
    /// The app's bundle id.
    pub topic: String,
    /// Whether Apple's service for apps under development is used; default false.
    #[serde(default)]
    pub development: bool,
}

/// `[push.fcm]`: what the operator has from Google.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FcmSection {
    /// The file of the service account (JSON).
    pub account: PathBuf,
}

impl PushSection {
    pub(crate) fn resolve(&mut self, folder: &Path) {
        if let Some(web) = &mut self.web {
            web.key.resolve(folder);
            web.authorities.iter_mut().for_each(|authorities| authorities.resolve(folder));
        }
        if let Some(apns) = &mut self.apns {
            apns.key.resolve(folder);
        }
        if let Some(fcm) = &mut self.fcm {
            fcm.account = folder.join(&fcm.account);
        }
    }
}
