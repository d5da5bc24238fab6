//! How a region comes in at its servers: who it is, what is spoken on the way, and what to say when it is not let in.

use std::fmt;

use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, MetadataError, NewSessionError,
};

use crate::{CqlOptions, OpenError};

/// Who a region is to its servers.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub username: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

/// TLS to the servers, in builds with the feature `tls`. A node is believed when its certificate names its address.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that sign the certificates of nodes (PEM).
    pub authorities: String,
    /// What is shown to nodes that ask for it: a certificate and its key (PEM).
    pub identity: Option<(String, String)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("identity", &self.identity.is_some()).finish_non_exhaustive()
    }
}

/// A builder that knows the way in.
pub(crate) fn come_in(builder: SessionBuilder, options: &CqlOptions) -> Result<SessionBuilder, OpenError> {
    let builder = match &options.login {
        Some(login) => builder.user(&login.username, &login.password),
        None => builder,
    };
    match &options.tls {
        Some(tls) => spoken(builder, tls),
        None => Ok(builder),
    }
}

#[cfg(feature = "tls")]
fn spoken(builder: SessionBuilder, tls: &Tls) -> Result<SessionBuilder, OpenError> {
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ClientConfig, RootCertStore};

    let failed = |what: &str, error: &dyn fmt::Display| OpenError::Failed(format!("{what}: {error}"));
    let certificates = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let mut roots = RootCertStore::empty();
    for authority in certificates(&tls.authorities).map_err(|error| failed("authorities", &error))? {
        roots.add(authority).map_err(|error| failed("authorities", &error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed("TLS", &error))?
        .with_root_certificates(roots);
    let config = match &tls.identity {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate).map_err(|error| failed("certificate", &error))?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| failed("key", &error))?;
            config.with_client_auth_cert(chain, key).map_err(|error| failed("certificate", &error))?
        }
    };
    Ok(builder.tls_context(Some(Arc::new(config))))
}

#[cfg(not(feature = "tls"))]
fn spoken(_: SessionBuilder, _: &Tls) -> Result<SessionBuilder, OpenError> {
    Err(OpenError::Failed("this build speaks no TLS to servers: build it with the feature tls".to_owned()))
}

/// Why no session came about, with what to do where that is known.
pub(crate) fn not_in(options: &CqlOptions, error: &NewSessionError) -> OpenError {
    let nodes = options.nodes.join(", ");
    let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(ConnectionPoolError::Broken {
        last_connection_error: last,
    })) = error
    else {
        return OpenError::Server { nodes, reason: error.to_string() };
    };
    match last {
        ConnectionError::ConnectionSetupRequestError(setup) => match &setup.error {
            ConnectionSetupRequestErrorKind::MissingAuthentication => {
                let reason = "they ask who this is: say so by username and password_file".to_owned();
                OpenError::Login { nodes, reason }
            }
            ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, text) => {
                OpenError::Login { nodes, reason: text.clone() }
            }
            other => OpenError::Server { nodes, reason: other.to_string() },
        },
        other => OpenError::Server { nodes, reason: other.to_string() },
    }
}
