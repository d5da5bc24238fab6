//! Mutual TLS 1.3 of the administration port: an administrator's certificate of the mesh's authority on one side, a
//! region's on the other. Neither passes for the other.

use std::sync::Arc;

use hearth_config::{admin_name, crypto_provider};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, RootCertStore,
    ServerConfig, SignatureScheme,
};

/// Certificates or keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdminTlsError {
    /// A text is not PEM, or lacks a certificate or key.
    #[error("the {what} is not usable PEM: {source}")]
    Pem {
        /// Which one.
        what: &'static str,
        /// What the parser said.
        source: rustls::pki_types::pem::Error,
    },
    /// rustls does not accept them.
    #[error("the certificates cannot be used: {0}")]
    Rustls(#[from] Error),
    /// The authority cannot verify clients.
    #[error("the authority cannot be used: {0}")]
    Authority(#[from] rustls::server::VerifierBuilderError),
    /// The client's certificate is none of an administrator.
    #[error("the certificate is no administrator's")]
    NoAdministrator,
}

/// PEM texts of one side.
#[derive(Clone)]
pub struct AdminPem {
    /// The mesh's authority.
    pub ca: String,
    /// The side's own chain.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// The key is not shown.
impl std::fmt::Debug for AdminPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminPem").finish_non_exhaustive()
    }
}

struct Material {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, AdminTlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let list = found.map_err(|source| AdminTlsError::Pem { what, source })?;
    if list.is_empty() {
        return Err(AdminTlsError::Pem { what, source: rustls::pki_types::pem::Error::NoItemsFound });
    }
    Ok(list)
}

fn read(pem: &AdminPem) -> Result<Material, AdminTlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&pem.ca, "authority")? {
        roots.add(certificate)?;
    }
    let chain = certificates(&pem.certificate, "certificate")?;
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes())
        .map_err(|source| AdminTlsError::Pem { what: "key", source })?;
    Ok(Material { roots: Arc::new(roots), chain, key })
}

/// The server's side.
pub(crate) fn server(pem: &AdminPem) -> Result<Arc<ServerConfig>, AdminTlsError> {
    let material = read(pem)?;
    let provider = Arc::new(crypto_provider());
    let chain = WebPkiClientVerifier::builder_with_provider(material.roots, Arc::clone(&provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Administrators { chain }))
        .with_single_cert(material.chain, material.key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Every connection verifies both certificates anew.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Lets in what the authority signed, and of that administrators only: a region's certificate is refused in the
/// handshake, before a byte of a request is read.
#[derive(Debug)]
struct Administrators {
    chain: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for Administrators {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        match admin_name(end_entity) {
            Some(_) => Ok(verified),
            None => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The administrator's side. With `region` the node has to show that region's certificate; else any region's of the
/// mesh, since an address says nothing about names.
pub(crate) fn client(pem: &AdminPem, region: Option<&str>) -> Result<ClientConfig, AdminTlsError> {
    let material = read(pem)?;
    if material.chain.first().is_none_or(|certificate| admin_name(certificate).is_none()) {
        return Err(AdminTlsError::NoAdministrator);
    }
    client_of(material, region)
}

/// As [`client`], whatever the certificate is for.
#[doc(hidden)]
pub fn client_without_a_look(pem: &AdminPem) -> Result<ClientConfig, AdminTlsError> {
    client_of(read(pem)?, None)
}

fn client_of(material: Material, region: Option<&str>) -> Result<ClientConfig, AdminTlsError> {
    let provider = Arc::new(crypto_provider());
    let verifier = Nodes { roots: material.roots, region: region.map(str::to_owned), provider: Arc::clone(&provider) };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(material.chain, material.key)?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Believes a node that the mesh's authority signed as a server. Administrators' certificates are none.
#[derive(Debug)]
struct Nodes {
    roots: Arc<RootCertStore>,
    region: Option<String>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Nodes {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        if let Some(region) = &self.region {
            let name = ServerName::try_from(region.as_str())
                .map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))?;
            verify_server_name(&parsed, &name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedCipherSuite))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
