//! Mutual TLS 1.3 under the mesh's own authority, and the QUIC configuration that rides on it.

use std::sync::Arc;

use aws_lc_rs::hmac;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{IdleTimeout, TransportConfig, VarInt};
use rustls::RootCertStore;
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};

use crate::config::{LinkConfig, LinkTls};
use crate::lanes::LANES;
use crate::wire::ALPN;

/// First guess of a round trip, before one was measured. quinn's own (333 ms) makes the first
/// repeat of a lost handshake packet wait a second, which is long after a cut was healed.
const INITIAL_ROUND_TRIP: std::time::Duration = std::time::Duration::from_millis(100);

/// Bytes of probes that may wait, each way: a few hundred of them.
const PROBE_BUFFER_BYTES: usize = 16 << 10;

/// TLS material that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A text is not PEM, or lacks a certificate or key.
    #[error("{what} is not usable PEM")]
    Pem {
        /// Which of the three texts.
        what: &'static str,
        /// What the parser said.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// rustls does not accept the material, for example a key of another certificate.
    #[error("the certificates cannot be used")]
    Rustls(#[from] rustls::Error),
    /// The authority cannot verify clients.
    #[error("the authority cannot be used")]
    Authority(#[from] rustls::server::VerifierBuilderError),
    /// The provider lacks the cipher suite that QUIC starts with.
    #[error("no cipher suite for QUIC")]
    Suite(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
    /// The region's name is not a DNS name, or not in its certificate.
    #[error("the certificate is not one for region {region}")]
    Region {
        /// This region.
        region: String,
    },
}

/// quinn's three configurations.
pub(crate) struct QuicConfigs {
    pub(crate) endpoint: quinn::EndpointConfig,
    pub(crate) server: quinn::ServerConfig,
    pub(crate) client: quinn::ClientConfig,
}

struct Material {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(list) if list.is_empty() => Err(TlsError::Pem { what, source: rustls::pki_types::pem::Error::NoItemsFound }),
        Ok(list) => Ok(list),
        Err(source) => Err(TlsError::Pem { what, source }),
    }
}

fn read_material(tls: &LinkTls) -> Result<Material, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.ca_pem, "ca_pem")? {
        roots.add(certificate)?;
    }
    let chain = certificates(&tls.cert_pem, "cert_pem")?;
    let key = PrivateKeyDer::from_pem_slice(tls.key_pem.as_bytes())
        .map_err(|source| TlsError::Pem { what: "key_pem", source })?;
    Ok(Material { roots: Arc::new(roots), chain, key })
}

/// Whether `certificate` is one for `region`: the name is among its DNS names. The chain to the
/// authority was verified in the handshake.
pub(crate) fn is_for_region(certificate: &CertificateDer<'_>, region: &str) -> bool {
    let Ok(name) = ServerName::try_from(region) else {
        return false;
    };
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

/// Builds quinn's configurations from `config`.
pub(crate) fn quic_configs(config: &LinkConfig) -> Result<QuicConfigs, TlsError> {
    let material = read_material(&config.tls)?;
    if !material.chain.first().is_some_and(|certificate| is_for_region(certificate, &config.region)) {
        return Err(TlsError::Region { region: config.region.clone() });
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let transport = Arc::new(transport(config));
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server_tls(
        &material,
        Arc::clone(&provider),
    )?)?));
    server.transport_config(Arc::clone(&transport));
    server.migration(false);
    let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client_tls(&material, provider)?)?));
    client.transport_config(transport);
    Ok(QuicConfigs { endpoint: endpoint(&material.key), server, client })
}

/// Sessions are not resumed and nothing is sent before the handshake ends: every connection
/// verifies both certificates anew.
fn server_tls(material: &Material, provider: Arc<CryptoProvider>) -> Result<rustls::ServerConfig, TlsError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&material.roots), Arc::clone(&provider)).build()?;
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(material.chain.clone(), material.key.clone_key())?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(server)
}

fn client_tls(material: &Material, provider: Arc<CryptoProvider>) -> Result<rustls::ClientConfig, TlsError> {
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(Arc::clone(&material.roots))
        .with_client_auth_cert(material.chain.clone(), material.key.clone_key())?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    Ok(client)
}

fn transport(config: &LinkConfig) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = u32::try_from(config.times.idle.as_millis()).unwrap_or(u32::MAX);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(u32::try_from(LANES).expect("ten lanes")))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
        .stream_receive_window(VarInt::from_u32(config.limits.stream_window))
        .receive_window(VarInt::from_u32(config.limits.connection_window))
        // Never the bound that binds: a lane that fills a common send window would stall lanes of
        // higher priority. What binds is the window of each stream.
        .send_window(2 * u64::from(config.limits.connection_window))
        .initial_rtt(INITIAL_ROUND_TRIP)
        .datagram_receive_buffer_size(Some(PROBE_BUFFER_BYTES))
        .datagram_send_buffer_size(PROBE_BUFFER_BYTES);
    transport
}

/// The key of stateless resets comes from the private key, so that a region that died and came back
/// tells its peers at once that their connections are gone, instead of leaving them to time out.
fn endpoint(key: &PrivateKeyDer<'_>) -> quinn::EndpointConfig {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, key.secret_der());
    let reset = hmac::sign(&secret, b"hearth link stateless reset");
    let mut endpoint = quinn::EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset.as_ref())));
    endpoint.cid_generator(|| Box::new(RandomIds));
    endpoint
}

/// Random connection ids. quinn's own ids carry a hash under a key of the process, by which a
/// restarted region would drop packets of its former life without the reset.
struct RandomIds;

impl quinn::ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        quinn::ConnectionId::new(&rand::random::<[u8; 8]>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}
