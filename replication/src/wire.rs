//! The layer's own messages: hello, refusal and probe. They never leave this package.

use prost::Message;

/// TLS application protocol of region links.
pub(crate) const ALPN: &[u8] = b"hearth-mesh/1";

/// Largest hello that is read from a peer, in bytes.
pub(crate) const MAXIMUM_HELLO_BYTES: usize = 16 * 1_024;

/// Longest region name that is taken from a peer, in bytes (a DNS label sequence is no longer).
const MAXIMUM_NAME_BYTES: usize = 253;

/// QUIC close code: this side stops.
pub(crate) const CLOSE_SHUTDOWN: u32 = 1;
/// QUIC close code: none of our pings was echoed.
pub(crate) const CLOSE_SILENT: u32 = 2;
/// QUIC close code: the peer made a newer connection.
pub(crate) const CLOSE_REPLACED: u32 = 3;
/// QUIC close code: the peer broke the rules of this layer.
pub(crate) const CLOSE_PROTOCOL: u32 = 4;
/// First of the close codes that are refusals.
const CLOSE_REFUSED: u32 = 16;

/// Versions that one side can speak: both ends included, `minimum <= current`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    /// Oldest version that this side still speaks.
    pub minimum: u32,
    /// Newest version that this side speaks.
    pub current: u32,
}

impl Default for VersionRange {
    fn default() -> Self {
        Self { minimum: 1, current: 1 }
    }
}

/// Two sides that share no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no common version: here {ours:?}, there {theirs:?}")]
pub struct Incompatible {
    /// What this side speaks.
    pub ours: VersionRange,
    /// What the other side speaks.
    pub theirs: VersionRange,
}

/// The version that two sides use: the newest that both speak. Both sides compute the same.
///
/// # Errors
/// [`Incompatible`] when the ranges do not meet.
pub fn negotiate(ours: VersionRange, theirs: VersionRange) -> Result<u32, Incompatible> {
    let version = ours.current.min(theirs.current);
    if version >= ours.minimum && version >= theirs.minimum { Ok(version) } else { Err(Incompatible { ours, theirs }) }
}

/// Why a link is not made although both sides could be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// TLS failed: no certificate, another authority, or not the name that was dialled.
    #[error("the certificate is not one of this mesh for that region")]
    Certificate,
    /// The other side belongs to another mesh.
    #[error("the mesh is another one")]
    Mesh,
    /// The two sides share no version.
    #[error(transparent)]
    Version(#[from] Incompatible),
    /// The region maps differ.
    #[error("the region map is another one")]
    MapDigest,
    /// The region that was claimed is not in the certificate, or not the one that was dialled.
    #[error("the region claimed is not that of the certificate")]
    Region,
    /// The region that was claimed is not a peer here.
    #[error("the region is not a peer")]
    UnknownRegion,
    /// The region that dialled sorts after the one it dialled.
    #[error("the other side of this pair dials")]
    WrongDialler,
}

impl Refusal {
    /// What [`Refusal::name`] may give.
    pub(crate) const NAMES: [&'static str; 7] =
        ["certificate", "mesh", "version", "map_digest", "region", "unknown_region", "wrong_dialler"];

    /// Short name for metrics, one of `Refusal::NAMES`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Mesh => "mesh",
            Self::Version(_) => "version",
            Self::MapDigest => "map_digest",
            Self::Region => "region",
            Self::UnknownRegion => "unknown_region",
            Self::WrongDialler => "wrong_dialler",
        }
    }

    /// QUIC close code of this refusal.
    pub(crate) fn close_code(&self) -> u32 {
        CLOSE_REFUSED
            + match self {
                Self::Certificate => 0,
                Self::Mesh => 1,
                Self::Version(_) => 2,
                Self::MapDigest => 3,
                Self::Region => 4,
                Self::UnknownRegion => 5,
                Self::WrongDialler => 6,
            }
    }

    /// Bytes that go with the close code: the versions that the refusing side speaks.
    pub(crate) fn close_detail(&self) -> Vec<u8> {
        match self {
            Self::Version(incompatible) => {
                VersionDetail { minimum: incompatible.ours.minimum, current: incompatible.ours.current }.encode_to_vec()
            }
            _ => Vec::new(),
        }
    }

    /// The refusal that the other side meant by this close, if it was one; `ours` are our versions.
    pub(crate) fn from_close(code: u64, detail: &[u8], ours: VersionRange) -> Option<Self> {
        Some(match code.checked_sub(u64::from(CLOSE_REFUSED))? {
            0 => Self::Certificate,
            1 => Self::Mesh,
            2 => {
                let detail = VersionDetail::decode(detail).unwrap_or_default();
                let theirs = VersionRange { minimum: detail.minimum, current: detail.current };
                Self::Version(Incompatible { ours, theirs })
            }
            3 => Self::MapDigest,
            4 => Self::Region,
            5 => Self::UnknownRegion,
            6 => Self::WrongDialler,
            _ => return None,
        })
    }
}

/// First frame of the control lane, in both directions.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Hello {
    #[prost(string, tag = "1")]
    pub(crate) mesh_id: String,
    #[prost(string, tag = "2")]
    pub(crate) region: String,
    #[prost(string, tag = "3")]
    pub(crate) node: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) store_id: Vec<u8>,
    #[prost(uint64, tag = "5")]
    pub(crate) incarnation: u64,
    #[prost(bytes = "vec", tag = "6")]
    pub(crate) map_digest: Vec<u8>,
    #[prost(uint32, tag = "7")]
    pub(crate) minimum_version: u32,
    #[prost(uint32, tag = "8")]
    pub(crate) current_version: u32,
}

impl Hello {
    /// Versions that the sender speaks.
    pub(crate) fn versions(&self) -> VersionRange {
        VersionRange { minimum: self.minimum_version, current: self.current_version }
    }
}

/// Compares the peer's hello with ours and gives the version to speak.
///
/// The order of the checks is that of usefulness to whoever reads the refusal: a side of another
/// mesh is told so before anything else. Who the peer is was proved by its certificate before.
pub(crate) fn check_hello(ours: &Hello, theirs: &Hello) -> Result<u32, Refusal> {
    if ours.mesh_id != theirs.mesh_id {
        return Err(Refusal::Mesh);
    }
    let version = negotiate(ours.versions(), theirs.versions())?;
    if ours.map_digest != theirs.map_digest {
        return Err(Refusal::MapDigest);
    }
    if theirs.region.is_empty() || theirs.region.len() > MAXIMUM_NAME_BYTES {
        return Err(Refusal::Region);
    }
    Ok(version)
}

/// Detail of a refused version.
#[derive(Clone, PartialEq, Message)]
struct VersionDetail {
    #[prost(uint32, tag = "1")]
    minimum: u32,
    #[prost(uint32, tag = "2")]
    current: u32,
}

/// A ping or its echo; travels as a QUIC datagram.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Probe {
    /// Number of a ping, to be echoed.
    #[prost(uint64, optional, tag = "1")]
    pub(crate) ping: Option<u64>,
    /// Number of the ping that this echoes.
    #[prost(uint64, optional, tag = "2")]
    pub(crate) pong: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(minimum: u32, current: u32) -> VersionRange {
        VersionRange { minimum, current }
    }

    fn hello() -> Hello {
        Hello {
            mesh_id: "mesh".into(),
            region: "eu-west".into(),
            node: "a".into(),
            store_id: vec![1; 16],
            incarnation: 7,
            map_digest: vec![2; 32],
            minimum_version: 1,
            current_version: 3,
        }
    }

    #[test]
    fn both_sides_choose_the_newest_version_that_both_speak() {
        for (ours, theirs, expected) in [
            (range(1, 1), range(1, 1), Some(1)),
            (range(1, 3), range(2, 5), Some(3)),
            (range(2, 5), range(1, 3), Some(3)),
            (range(3, 4), range(1, 2), None),
            (range(1, 2), range(3, 4), None),
        ] {
            assert_eq!(negotiate(ours, theirs).ok(), expected);
            assert_eq!(negotiate(theirs, ours).ok(), expected);
        }
    }

    #[test]
    fn a_refusal_survives_the_way_to_the_peer() {
        let incompatible = Incompatible { ours: range(3, 4), theirs: range(1, 2) };
        for refusal in [
            Refusal::Certificate,
            Refusal::Mesh,
            Refusal::MapDigest,
            Refusal::Region,
            Refusal::UnknownRegion,
            Refusal::WrongDialler,
        ] {
            let read = Refusal::from_close(refusal.close_code().into(), &refusal.close_detail(), range(1, 2));
            assert_eq!(read, Some(refusal));
        }
        let refusal = Refusal::Version(incompatible);
        let read = Refusal::from_close(refusal.close_code().into(), &refusal.close_detail(), range(1, 2));
        assert_eq!(read, Some(Refusal::Version(Incompatible { ours: range(1, 2), theirs: range(3, 4) })));
        assert_eq!(Refusal::from_close(CLOSE_SHUTDOWN.into(), b"", range(1, 1)), None);
        assert_eq!(Refusal::from_close(99, b"", range(1, 1)), None);
    }

    #[test]
    fn a_hello_of_another_mesh_version_or_map_is_refused() {
        let ours = hello();
        assert_eq!(check_hello(&ours, &hello()), Ok(3));
        let theirs = Hello { mesh_id: "other".into(), ..hello() };
        assert_eq!(check_hello(&ours, &theirs), Err(Refusal::Mesh));
        let theirs = Hello { minimum_version: 4, current_version: 9, ..hello() };
        assert!(matches!(check_hello(&ours, &theirs), Err(Refusal::Version(_))));
        let theirs = Hello { map_digest: vec![3; 32], ..hello() };
        assert_eq!(check_hello(&ours, &theirs), Err(Refusal::MapDigest));
    }

    #[test]
    fn unknown_fields_of_a_newer_hello_are_skipped() {
        let mut bytes = hello().encode_to_vec();
        bytes.extend_from_slice(&[0xf8, 0x01, 0x05]); // field 31, varint 5
        assert_eq!(Hello::decode(bytes.as_slice()), Ok(hello()));
    }
}
