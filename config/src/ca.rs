//! The mesh's certificate authority: `hearth ca init`, `hearth ca issue REGION`, `hearth ca issue admin`, and the same in
//! memory for development meshes.
//!
//! A region's certificate names the region as a DNS name and is good as client and server of links. An administrator's
//! names a person as a URI, `hearth:admin:NAME`, has no DNS name and is good as a client only: neither passes for the
//! other.
//!
//! Every command can be interrupted anywhere and typed again. Keys are written before the certificates
//! that need them, a key without a certificate is taken up by the next run, and renewing replaces the
//! certificate alone, in one rename.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};

use crate::certificates::check_pair;
use crate::files::{FileError, PRIVATE, PUBLIC, create_folder, read_text, write_atomic};
use crate::values::is_name;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long an authority lasts.
const AUTHORITY_DAYS: u32 = 3650;
/// Certificates start this much before they are made, for clocks that run behind.
const BACKDATE: Duration = Duration::from_secs(3600);
/// Browsers accept a certificate by its hash when it lasts at most 14 days, start to end.
const WEBTRANSPORT_DAYS: u32 = 13;
/// What `hearth ca issue` is given for an administrator instead of a region, and the administrator's name by default.
pub const ADMIN: &str = "admin";
/// How the URI of an administrator's certificate begins; the name follows.
pub(crate) const ADMIN_URI: &str = "hearth:admin:";

/// Why an authority could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// There is an authority already.
    #[error("{} holds an authority already; type `hearth ca issue REGION --dir {}` to use it, or name another folder", .0.display(), .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("{} holds no authority; type `hearth ca init --dir {}` to make one", .0.display(), .0.display())]
    Missing(PathBuf),
    /// The authority's key and certificate do not belong together, or one cannot be read as such.
    #[error("the authority in {} cannot be used: {reason}; restore its ca.pem and ca.key from a backup", folder.display())]
    Broken {
        /// The authority's folder.
        folder: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The region's existing key file is not a key.
    #[error("{} is not a private key; remove it and its certificate to issue new ones", .0.display())]
    BrokenKey(PathBuf),
    /// The name stands for administrators.
    #[error(
        "`admin` cannot be a region's name, since `hearth ca issue admin` makes an administrator's certificate; type another name"
    )]
    Reserved,
    /// The name cannot name an administrator.
    #[error("`{0}` cannot name an administrator; type 1 to 32 of a-z, 0-9 and -, starting with a letter, as ann")]
    AdminName(String),
    /// The name cannot name a region.
    #[error("`{0}` cannot be a region's name; type 1 to 32 of a-z, 0-9 and -, starting with a letter, as eu-west")]
    Name(String),
    /// A name for the client listener is no DNS name.
    #[error("`{0}` cannot stand in a certificate; type a DNS name as chat.example.com")]
    AlternativeName(String),
    /// The days are none, or more than the authority lasts.
    #[error("a certificate cannot be valid for {0} days; type 1 to {AUTHORITY_DAYS}")]
    Days(u32),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The cryptography failed.
    #[error("the certificate could not be made: {0}")]
    Crypto(String),
}

impl From<rcgen::Error> for CaError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}

/// The files of an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaPaths {
    /// `ca.pem`: goes to every region.
    pub certificate: PathBuf,
    /// `ca.key`, mode 0600: stays where certificates are issued.
    pub key: PathBuf,
}

impl CaPaths {
    /// The files of an authority in `folder`.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { certificate: folder.join("ca.pem"), key: folder.join("ca.key") }
    }
}

/// The files of an issued certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedPaths {
    /// `REGION.pem`.
    pub certificate: PathBuf,
    /// `REGION.key`, mode 0600.
    pub key: PathBuf,
    /// `ca.pem`, beside them.
    pub ca: PathBuf,
}

/// What may vary between issued certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssueOptions {
    /// How long the certificate is valid; default 365 days.
    pub valid_days: u32,
    /// Further DNS names, for the client listener.
    pub dns_names: Vec<String>,
    /// Further addresses, for the client listener.
    pub ips: Vec<IpAddr>,
}

impl Default for IssueOptions {
    fn default() -> Self {
        Self { valid_days: 365, dns_names: Vec::new(), ips: Vec::new() }
    }
}

/// A certificate with its key, in memory.
#[derive(Clone)]
pub struct IssuedCertificate {
    /// The certificate in PEM form.
    pub certificate_pem: String,
    /// The private key in PEM form (PKCS #8).
    pub key_pem: String,
    /// The certificate in DER form.
    pub certificate_der: Vec<u8>,
    /// SHA-256 of the DER form, as browsers compare it.
    pub sha256: [u8; 32],
    /// When it expires.
    pub not_after: SystemTime,
}

/// The key is not shown.
impl fmt::Debug for IssuedCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("IssuedCertificate").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Makes an authority in `folder`, valid for ten years. An existing key without a certificate, as an
/// interrupted run leaves it, is used and kept.
///
/// # Errors
/// When there is an authority already, or the folder cannot be written.
pub fn init(folder: &Path, now: SystemTime) -> Result<CaPaths, CaError> {
    let paths = CaPaths::of(folder);
    if exists(&paths.certificate)? {
        return Err(CaError::Exists(folder.to_owned()));
    }
    create_folder(folder)?;
    let key = load_or_make_key(&paths.key)?;
    let params = authority_params(now)?;
    let certificate = params.self_signed(&key)?;
    write_atomic(&paths.certificate, certificate.pem().as_bytes(), PUBLIC)?;
    Ok(paths)
}

/// Issues a region's certificate from the authority in `folder` into `out` (default: the same folder),
/// good as client and server of links. A region that has a key keeps it, so that renewing replaces the
/// certificate alone.
///
/// # Errors
/// When there is no usable authority, a name is none, or a file cannot be written.
pub fn issue(
    folder: &Path,
    region: &str,
    out: Option<&Path>,
    options: &IssueOptions,
    now: SystemTime,
) -> Result<IssuedPaths, CaError> {
    let authority = CertificateAuthority::load(folder)?;
    let params = region_params(region, options, now)?;
    let out = out.unwrap_or(folder);
    create_folder(out)?;
    let paths = IssuedPaths {
        certificate: out.join(format!("{region}.pem")),
        key: out.join(format!("{region}.key")),
        ca: CaPaths::of(out).certificate,
    };
    let key = load_or_make_key(&paths.key)?;
    let certificate = params.signed_by(&key, &authority.issuer)?;
    if paths.ca != CaPaths::of(folder).certificate {
        write_atomic(&paths.ca, authority.certificate_pem.as_bytes(), PUBLIC)?;
    }
    write_atomic(&paths.certificate, certificate.pem().as_bytes(), PUBLIC)?;
    Ok(paths)
}

/// Issues an administrator's certificate from the authority in `folder` into `out` (default: the same folder): the
/// right to use the administration ports of all regions. `name` stands in audit logs; a name that has a key keeps it.
///
/// # Errors
/// When there is no usable authority, the name is none, or a file cannot be written.
pub fn issue_admin(
    folder: &Path,
    name: &str,
    out: Option<&Path>,
    valid_days: u32,
    now: SystemTime,
) -> Result<IssuedPaths, CaError> {
    let authority = CertificateAuthority::load(folder)?;
    let params = admin_params(name, valid_days, now)?;
    let out = out.unwrap_or(folder);
    create_folder(out)?;
    let stem = admin_stem(name);
    let paths = IssuedPaths {
        certificate: out.join(format!("{stem}.pem")),
        key: out.join(format!("{stem}.key")),
        ca: CaPaths::of(out).certificate,
    };
    let key = load_or_make_key(&paths.key)?;
    let certificate = params.signed_by(&key, &authority.issuer)?;
    if paths.ca != CaPaths::of(folder).certificate {
        write_atomic(&paths.ca, authority.certificate_pem.as_bytes(), PUBLIC)?;
    }
    write_atomic(&paths.certificate, certificate.pem().as_bytes(), PUBLIC)?;
    Ok(paths)
}

/// What the files of an administrator are called, without their ends: a dot keeps them apart from those of regions.
fn admin_stem(name: &str) -> String {
    if name == ADMIN { ADMIN.to_owned() } else { format!("{name}.{ADMIN}") }
}

/// A certificate for WebTransport that browsers accept by its hash: ECDSA P-256, from an hour before
/// `now` for 13 days.
///
/// # Errors
/// When a name is no DNS name.
pub fn self_signed_webtransport(
    names: &[String],
    ips: &[IpAddr],
    now: SystemTime,
) -> Result<IssuedCertificate, CaError> {
    let mut params = params(now, WEBTRANSPORT_DAYS)?;
    params.distinguished_name = common_name("Hearth WebTransport");
    params.subject_alt_names = alternative_names(names, ips)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = make_key()?;
    let certificate = params.self_signed(&key)?;
    Ok(issued(&certificate, &key, end(now, WEBTRANSPORT_DAYS)))
}

/// An authority in memory that issues certificates of regions.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

/// The key is not shown.
impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CertificateAuthority").finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// The authority in `folder`.
    ///
    /// # Errors
    /// When there is none, or its files are no authority.
    pub fn load(folder: &Path) -> Result<Self, CaError> {
        let paths = CaPaths::of(folder);
        if !exists(&paths.certificate)? {
            return Err(CaError::Missing(folder.to_owned()));
        }
        let certificate_pem = read_text(&paths.certificate)?;
        let key_pem = read_text(&paths.key)?;
        let broken = |reason: String| CaError::Broken { folder: folder.to_owned(), reason };
        check_pair(&certificate_pem, &key_pem).map_err(|fault| broken(fault.to_string()))?;
        let key = KeyPair::from_pem(&key_pem).map_err(|error| broken(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(|error| broken(error.to_string()))?;
        Ok(Self { issuer, certificate_pem })
    }

    /// The authority in `folder`, made when there is none.
    ///
    /// # Errors
    /// When its files are no authority, or the folder cannot be written.
    pub fn load_or_create(folder: &Path, now: SystemTime) -> Result<Self, CaError> {
        match init(folder, now) {
            Ok(_) | Err(CaError::Exists(_)) => Self::load(folder),
            Err(error) => Err(error),
        }
    }

    /// An authority that no file holds, for tests.
    ///
    /// # Errors
    /// When the cryptography fails.
    pub fn in_memory(now: SystemTime) -> Result<Self, CaError> {
        let key = make_key()?;
        let params = authority_params(now)?;
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate_pem })
    }

    /// The authority's certificate in PEM form.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Issues a region's certificate with a new key, good as client and server of links.
    ///
    /// # Errors
    /// When a name is none or the days are out of range.
    pub fn issue_region(
        &self,
        region: &str,
        options: &IssueOptions,
        now: SystemTime,
    ) -> Result<IssuedCertificate, CaError> {
        let params = region_params(region, options, now)?;
        let key = make_key()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(issued(&certificate, &key, end(now, options.valid_days)))
    }

    /// Issues an administrator's certificate with a new key.
    ///
    /// # Errors
    /// When the name is none or the days are out of range.
    pub fn issue_admin(&self, name: &str, valid_days: u32, now: SystemTime) -> Result<IssuedCertificate, CaError> {
        let params = admin_params(name, valid_days, now)?;
        let key = make_key()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(issued(&certificate, &key, end(now, valid_days)))
    }
}

fn issued(certificate: &rcgen::Certificate, key: &KeyPair, not_after: SystemTime) -> IssuedCertificate {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest::digest(&digest::SHA256, certificate.der()).as_ref());
    IssuedCertificate {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
        certificate_der: certificate.der().to_vec(),
        sha256,
        not_after,
    }
}

fn authority_params(now: SystemTime) -> Result<CertificateParams, CaError> {
    let mut params = params(now, AUTHORITY_DAYS)?;
    params.distinguished_name = common_name("Hearth mesh authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn region_params(region: &str, options: &IssueOptions, now: SystemTime) -> Result<CertificateParams, CaError> {
    if region == ADMIN {
        return Err(CaError::Reserved);
    }
    if !is_name(region) {
        return Err(CaError::Name(region.to_owned()));
    }
    let mut params = params(now, checked(options.valid_days)?)?;
    params.distinguished_name = common_name(region);
    let mut names = vec![region.to_owned()];
    names.extend(options.dns_names.iter().filter(|name| *name != region).cloned());
    params.subject_alt_names = alternative_names(&names, &options.ips)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn admin_params(name: &str, valid_days: u32, now: SystemTime) -> Result<CertificateParams, CaError> {
    if !is_name(name) {
        return Err(CaError::AdminName(name.to_owned()));
    }
    let mut params = params(now, checked(valid_days)?)?;
    params.distinguished_name = common_name(name);
    let uri = format!("{ADMIN_URI}{name}");
    params.subject_alt_names =
        vec![SanType::URI(uri.as_str().try_into().map_err(|_| CaError::AdminName(name.to_owned()))?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn checked(days: u32) -> Result<u32, CaError> {
    if (1..=AUTHORITY_DAYS).contains(&days) { Ok(days) } else { Err(CaError::Days(days)) }
}

fn params(now: SystemTime, days: u32) -> Result<CertificateParams, CaError> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut params = CertificateParams::default();
    params.not_before = epoch + since_epoch(now - BACKDATE);
    params.not_after = epoch + since_epoch(end(now, days));
    params.serial_number = Some(serial_number()?);
    Ok(params)
}

/// The end of a certificate's time, counted from its backdated start so that the whole stays within
/// `days`.
fn end(now: SystemTime, days: u32) -> SystemTime {
    now - BACKDATE + DAY * days
}

/// Drawn anew each time, since a renewed certificate keeps its key and browsers refuse a repeated number.
fn serial_number() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CaError::Crypto("no random numbers".to_owned()))?;
    // Positive, and without a leading zero byte.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn alternative_names(names: &[String], ips: &[IpAddr]) -> Result<Vec<SanType>, CaError> {
    let is_dns = |name: &str| {
        let name = name.strip_prefix("*.").unwrap_or(name);
        name.len() <= 253 && name.split('.').all(is_label)
    };
    let mut all = Vec::new();
    for name in names {
        let refused = || CaError::AlternativeName(name.clone());
        if !is_dns(name) {
            return Err(refused());
        }
        all.push(SanType::DnsName(name.as_str().try_into().map_err(|_| refused())?));
    }
    all.extend(ips.iter().map(|ip| SanType::IpAddress(*ip)));
    Ok(all)
}

fn is_label(label: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&label.len()) && label.bytes().all(inside) && !label.starts_with('-') && !label.ends_with('-')
}

fn make_key() -> Result<KeyPair, CaError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn load_or_make_key(path: &Path) -> Result<KeyPair, CaError> {
    if exists(path)? {
        return KeyPair::from_pem(&read_text(path)?).map_err(|_| CaError::BrokenKey(path.to_owned()));
    }
    let key = make_key()?;
    write_atomic(path, key.serialize_pem().as_bytes(), PRIVATE)?;
    Ok(key)
}

fn exists(path: &Path) -> Result<bool, CaError> {
    path.try_exists().map_err(|source| CaError::File(FileError::new(path, "look at", source)))
}
