//! Who is there: what clients say of themselves and ask of others, and what they are told.

use serde::{Deserialize, Serialize};

use crate::ids::{RegionId, Timestamp, UserId};

/// Whether a user is there. The order is how much it counts where devices or regions differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PresenceStatus {
    /// No device is connected.
    #[default]
    Offline,
    /// A device is connected, and says that nobody is at it.
    Away,
    /// A device is connected.
    Online,
}

impl PresenceStatus {
    /// As a number between regions.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Offline => 0,
            Self::Away => 1,
            Self::Online => 2,
        }
    }

    /// Reads [`PresenceStatus::number`]; what a later version may say counts as offline.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Away,
            2 => Self::Online,
            _ => Self::Offline,
        }
    }
}

/// What kind of device a user is at. The order decides between devices that are equal otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DeviceType {
    /// A desktop application.
    Desktop,
    /// A browser.
    Web,
    /// A telephone or a tablet.
    Mobile,
}

impl DeviceType {
    /// As a number between regions; 0 for one that is not known.
    #[must_use]
    pub fn number(device: Option<Self>) -> u32 {
        match device {
            None => 0,
            Some(Self::Desktop) => 1,
            Some(Self::Web) => 2,
            Some(Self::Mobile) => 3,
        }
    }

    /// Reads [`DeviceType::number`].
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Desktop),
            2 => Some(Self::Web),
            3 => Some(Self::Mobile),
            _ => None,
        }
    }
}

/// How sure a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// It holds now.
    Fresh,
    /// A region that may know better has not answered yet, or was fenced.
    Stale,
    /// A region that may know better is out of reach.
    Unknown,
}

/// What a client may say of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ChosenStatus {
    /// Somebody is at the device.
    Online,
    /// Nobody is.
    Away,
}

/// `presence.set`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PresenceSetRequest {
    /// Of this device.
    pub status: ChosenStatus,
    /// What kind of device it is; as said before if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_type: Option<DeviceType>,
}

/// `presence.subscribe` and `presence.unsubscribe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PresenceUsersRequest {
    /// Whose presence.
    #[cfg_attr(feature = "schema", schemars(length(max = crate::limits::PRESENCE_PER_FRAME)))]
    pub user_ids: Vec<UserId>,
    /// Whether the frame was `presence.subscribe`.
    #[serde(skip)]
    pub subscribe: bool,
}

/// Whether somebody looks at the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ClientState {
    /// Somebody does.
    Active,
    /// Nobody does: typing and presence wait.
    Background,
}

/// `client.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClientStateRequest {
    /// Which.
    pub state: ClientState,
}

/// `presence.update`, and a row of `presence.bulk`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PresencePayload {
    /// The user.
    pub user_id: UserId,
    /// Over all devices and regions.
    pub status: PresenceStatus,
    /// Always `null`: in which conversation somebody types is told to those who look at it, by `typing.update`.
    #[serde(default)]
    pub typing_in: Option<()>,
    /// When the user was online last, in milliseconds since the epoch; absent while online and where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Of the device that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_type: Option<DeviceType>,
    /// Up to when the statement is known to hold, in milliseconds since the epoch.
    pub as_of: Timestamp,
    /// How sure it is.
    pub certainty: Certainty,
    /// Where the user's devices are connected.
    pub regions: Vec<RegionId>,
}

/// `presence.bulk`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PresenceBulkPayload {
    /// In the order asked; none after `presence.unsubscribe`.
    pub presences: Vec<PresencePayload>,
}
