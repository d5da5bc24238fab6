//! Looking at certificates the way the links and listeners will.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, NamedGroup, RootCertStore};
use x509_parser::extensions::GeneralName;

use crate::ca::ADMIN_URI;
use crate::values::is_name;

/// What is wrong with a certificate or its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The certificate cannot be read.
    #[error("this is no certificate in PEM form: {0}")]
    Certificate(String),
    /// The key cannot be read.
    #[error("this is no private key in PEM form: {0}")]
    Key(String),
    /// The key belongs to another certificate.
    #[error("the key does not belong to the certificate")]
    Mismatch,
    /// The authority cannot be read.
    #[error("this is no certificate authority in PEM form: {0}")]
    Authority(String),
    /// The certificate is not in its time.
    #[error("the certificate has expired or is not valid yet")]
    Time,
    /// The certificate names somebody else.
    #[error("the certificate does not name `{0}`")]
    Name(String),
    /// Another authority signed the certificate.
    #[error("the certificate was not issued by this mesh's authority")]
    Issuer,
    /// Anything else.
    #[error("the certificate is refused: {0}")]
    Other(String),
}

/// Whether `key_pem` is the private key of the first certificate in `certificate_pem`.
///
/// # Errors
/// With what is wrong.
pub fn check_pair(certificate_pem: &str, key_pem: &str) -> Result<(), Fault> {
    let chain = chain(certificate_pem).map_err(Fault::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| Fault::Key(error.to_string()))?;
    match CertifiedKey::from_der(chain, key, &crypto_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(Fault::Mismatch),
        Err(rustls::Error::InvalidCertificate(error)) => Err(Fault::Certificate(error.to_string())),
        Err(error) => Err(Fault::Key(error.to_string())),
    }
}

/// Whether a link to the region `name` would accept `certificate_pem` under the authority at `now`.
///
/// # Errors
/// With what is wrong.
pub fn verify(certificate_pem: &str, authority_pem: &str, name: &str, now: SystemTime) -> Result<(), Fault> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(authority_pem).map_err(Fault::Authority)? {
        roots.add(certificate).map_err(|error| Fault::Authority(error.to_string()))?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(crypto_provider()))
        .build()
        .map_err(|error| Fault::Authority(error.to_string()))?;
    let chain = chain(certificate_pem).map_err(Fault::Certificate)?;
    let (own, between) = chain.split_first().expect("chain() gives at least one certificate");
    let server = ServerName::try_from(name).map_err(|_| Fault::Name(name.to_owned()))?;
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match verifier.verify_server_cert(own, between, &server, &[], UnixTime::since_unix_epoch(since_epoch)) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InvalidCertificate(error)) => Err(fault(&error, name)),
        Err(error) => Err(Fault::Other(error.to_string())),
    }
}

fn fault(error: &CertificateError, name: &str) -> Fault {
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Fault::Time,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Fault::Name(name.to_owned())
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Fault::Issuer,
        other => Fault::Other(other.to_string()),
    }
}

/// The time until the first certificate of a chain expires, zero when it has; none when it cannot be read.
#[must_use]
pub fn time_left(certificate_pem: &str, now: SystemTime) -> Option<Duration> {
    let chain = chain(certificate_pem).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
    let end = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(end);
    Some(end.duration_since(now).unwrap_or_default())
}

/// Whose administrator's certificate this is; none when it is no such certificate, or none at all. Who signed it is for
/// the handshake to say.
#[must_use]
pub fn admin_name(certificate_der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate_der).ok()?;
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let [GeneralName::URI(uri)] = names.as_slice() else { return None };
    let name = uri.strip_prefix(ADMIN_URI)?;
    is_name(name).then(|| name.to_owned())
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err("it holds no certificate".to_owned()),
        Ok(chain) => Ok(chain),
        Err(error) => Err(error.to_string()),
    }
}

/// The key of a PEM text in PKCS #8 form; none when it is no such key.
pub(crate) fn private_key_der(key_pem: &str) -> Option<Vec<u8>> {
    match PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).ok()? {
        PrivateKeyDer::Pkcs8(key) => Some(key.secret_pkcs8_der().to_vec()),
        _ => None,
    }
}

/// What encrypts and signs for clients and administrators: the provider of the process. Key exchange with ML-KEM comes
/// last: whoever wants it gets it, and a storm of logins does not pay for it. Which features of rustls a dependency switches
/// on changes that order otherwise, as it may for links between regions and the driver of CQL.
#[must_use]
pub fn crypto_provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    // A stable sort: the others stay in the library's order.
    provider.kx_groups.sort_by_key(|group| group.name() == NamedGroup::X25519MLKEM768);
    provider
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_exchange_that_costs_most_is_offered_last_and_none_is_left_out() {
        let names = |provider: &CryptoProvider| provider.kx_groups.iter().map(|group| group.name()).collect::<Vec<_>>();
        let (ours, all) = (names(&crypto_provider()), names(&aws_lc_rs::default_provider()));
        assert_eq!((ours.first(), ours.last()), (Some(&NamedGroup::X25519), Some(&NamedGroup::X25519MLKEM768)));
        assert!(ours.len() == all.len() && all.iter().all(|name| ours.contains(name)), "{ours:?} of {all:?}");
    }
}
