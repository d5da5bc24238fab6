//! The small value types of a configuration: durations, sizes, networks, certificate material, secrets.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::files::{FileError, read_text};

/// A certificate, chain or key in PEM form: in a file, as in a configuration file (written there as a
/// path), or in memory, as a development mesh makes it.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// A file, read each time, so that a renewed one is seen.
    File(PathBuf),
    /// The PEM text itself.
    Inline(String),
}

impl Pem {
    /// The PEM text.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self) -> Result<String, FileError> {
        match self {
            Self::File(path) => read_text(path),
            Self::Inline(text) => Ok(text.clone()),
        }
    }

    /// The file, for whoever watches it for changes; none for text in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Inline(_) => None,
        }
    }

    pub(crate) fn resolve(&mut self, folder: &Path) {
        if let Self::File(path) = self {
            *path = folder.join(&*path);
        }
    }
}

/// An inline text may be a key, so it is not shown.
impl fmt::Debug for Pem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => formatter.debug_tuple("File").field(path).finish(),
            Self::Inline(_) => formatter.write_str("Inline(..)"),
        }
    }
}

impl<'de> Deserialize<'de> for Pem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        PathBuf::deserialize(deserializer).map(Self::File)
    }
}

/// A secret text; never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret as bytes, without white space around it.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.trim().as_bytes()
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretText(..)")
    }
}

/// An address or a range of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// The address of the range.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits of the address that count.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether `address` lies in this range. An IPv4 address mapped into IPv6, as a dual-stack socket
    /// reports it, counts as the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                same_prefix(u128::from(own.to_bits()) << 96, u128::from(other.to_bits()) << 96, self.prefix)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => same_prefix(own.to_bits(), other.to_bits(), self.prefix),
            _ => false,
        }
    }
}

fn same_prefix(one: u128, other: u128, prefix: u8) -> bool {
    prefix == 0 || (one ^ other) >> (128 - u32::from(prefix)) == 0
}

/// Why a text is not a [`Network`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an address or a range of addresses")]
pub struct NetworkError {
    /// The text as given.
    pub text: String,
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || NetworkError { text: text.to_owned() };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| refused())?)),
            None => (text, None),
        };
        let address = address.parse::<IpAddr>().map_err(|_| refused())?;
        let widest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(widest);
        if prefix > widest {
            return Err(refused());
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Durations in a configuration: a number with its unit, as in `"90s"`, `"7d"` or `"1h 30m"`.
pub(crate) mod duration {
    use std::time::Duration;

    use serde::Deserialize;
    use serde::de::{self, Deserializer};

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|error| de::Error::custom(format_args!("`{text}` is not a duration: {error}")))
    }
}

/// A duration as a person would type it, as `7d` or `1h 30m`: days and down, since months and years
/// have no exact length.
pub(crate) fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (u64::from(duration.subsec_millis()), "ms"),
    ];
    let shown: Vec<String> =
        parts.into_iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

/// Sizes in a configuration: a number of bytes, or a text as `"64 KiB"`.
pub(crate) mod size {
    use serde::de::{self, Deserializer};

    use super::SizeVisitor;

    pub(crate) fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: TryFrom<u64>,
    {
        let bytes = deserializer.deserialize_any(SizeVisitor)?;
        T::try_from(bytes).map_err(|_| de::Error::custom(format_args!("{bytes} bytes is more than fits here")))
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = u64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number of bytes or a text as \"64 KiB\"")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value).map_err(|_| E::custom(format_args!("{value} is not a size")))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        parse_size(text).ok_or_else(|| E::custom(format_args!("`{text}` is not a size")))
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Whether `name` can name a region, a mesh or a node: 1 to 32 of `a-z 0-9 -`, starting with a letter
/// and not ending in `-`, so that it is a DNS label, a file name and a metric label at once.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&name.len())
        && name.as_bytes()[0].is_ascii_lowercase()
        && !name.ends_with('-')
        && name.bytes().all(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_contains_its_own_addresses_and_no_others() {
        assert!(network("10.0.0.0/8").contains(address("10.255.0.1")));
        assert!(!network("10.0.0.0/8").contains(address("11.0.0.1")));
        assert!(network("10.1.2.3").contains(address("10.1.2.3")));
        assert!(!network("10.1.2.3").contains(address("10.1.2.4")));
        assert!(network("2001:db8::/32").contains(address("2001:db8:1::1")));
        assert!(!network("2001:db8::/32").contains(address("2001:db9::1")));
        assert!(network("0.0.0.0/0").contains(address("203.0.113.9")));
        assert!(!network("0.0.0.0/0").contains(address("::1")));
    }

    #[test]
    fn a_mapped_address_counts_as_its_ipv4_address() {
        assert!(network("10.0.0.0/8").contains(address("::ffff:10.1.1.1")));
    }

    #[test]
    fn a_prefix_that_is_too_long_and_a_host_name_are_refused() {
        assert!("10.0.0.0/33".parse::<Network>().is_err());
        assert!("proxy.example.com".parse::<Network>().is_err());
    }

    #[test]
    fn sizes_are_read_with_binary_units_and_never_overflow() {
        assert_eq!(parse_size("64 KiB"), Some(65536));
        assert_eq!(parse_size("1MiB"), Some(1_048_576));
        assert_eq!(parse_size("17"), Some(17));
        assert_eq!(parse_size("99999999999999 GiB"), None);
        assert_eq!(parse_size("64 KB"), None);
    }

    #[test]
    fn a_shown_duration_reads_back_as_itself() {
        for text in ["31d", "1h 30m", "100ms", "0s", "90d 1s"] {
            let read = humantime::parse_duration(text).unwrap();
            assert_eq!(show_duration(read), text);
        }
    }

    #[test]
    fn names_are_dns_labels() {
        assert!(is_name("eu-west") && is_name("a") && is_name("core-1"));
        for bad in ["", "-a", "a-", "EU", "eu_west", "1a", "../x", &"a".repeat(33)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_shown_by_debug() {
        assert!(!format!("{:?}", SecretText::new("hunter2")).contains("hunter2"));
        assert!(!format!("{:?}", Pem::Inline("hunter2".into())).contains("hunter2"));
    }
}
