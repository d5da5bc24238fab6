//! One region behind TLS: a `hearth serve` from a configuration that this benchmark writes, since a development mesh
//! listens without TLS.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_protocol::{RegionId, UserId};
use jsonwebtoken::EncodingKey;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use tokio::process::Command;

use super::{BenchError, HOME};
use crate::rest::DevRegion;

/// How long a token lives, in seconds: longer than a run.
const TOKEN_SECONDS: u64 = 86_400;

/// What a region was set up with.
pub(super) struct Setup {
    pub(super) region: DevRegion,
    pub(super) trust: Arc<ClientConfig>,
    pub(super) signer: Signer,
}

/// Signs tokens that the region takes.
pub(super) struct Signer(EncodingKey);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a UserId,
    iss: &'static str,
    aud: &'static str,
    iat: u64,
    exp: u64,
}

impl Signer {
    /// A token for a user.
    pub(super) fn token(&self, user: &UserId) -> Result<String, BenchError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = Claims { sub: user, iss: "bench", aud: "chat", iat: now, exp: now + TOKEN_SECONDS };
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &self.0).map_err(told)
    }
}

fn told(error: impl std::fmt::Display) -> BenchError {
    BenchError::Server { what: format!("setting up TLS: {error}") }
}

fn secret() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}

/// Three ports that are free now.
fn ports() -> Result<[u16; 3], BenchError> {
    let listeners: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>().map_err(told)?;
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr().map_err(told)?.port();
    }
    Ok(ports)
}

async fn hearth(executable: &Path, arguments: &[&str]) -> Result<(), BenchError> {
    let output = Command::new(executable).args(arguments).output().await.map_err(told)?;
    if output.status.success() {
        return Ok(());
    }
    Err(told(format!("hearth {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())))
}

/// Writes an authority, a certificate, secrets and `region.toml` into a folder, as an operator does.
pub(super) async fn set_up(executable: &Path, folder: &Path, connections: usize) -> Result<Setup, BenchError> {
    let path = |name: &str| folder.join(name);
    let (authority, tls) = (path("ca").display().to_string(), path("tls").display().to_string());
    hearth(executable, &["ca", "init", "--dir", &authority]).await?;
    let named = ["--ip", "127.0.0.1", "--dns", "localhost"];
    hearth(executable, &[&["ca", "issue", HOME, "--dir", &authority, "--out", &tls], &named[..]].concat()).await?;
    let [http, webtransport, link] = ports()?;
    let token_secret = secret();
    std::fs::write(path("token.secret"), &token_secret).map_err(told)?;
    std::fs::write(path("resume.secret"), secret()).map_err(told)?;
    let tls = format!("{{ certificate = \"tls/{HOME}.pem\", key = \"tls/{HOME}.key\" }}");
    let text = format!(
        "[region]\nid = \"{HOME}\"\ndata = \"data\"\n\
         [mesh]\nid = \"bench\"\nlisten = \"127.0.0.1:{link}\"\ncertificate = \"tls/{HOME}.pem\"\n\
         key = \"tls/{HOME}.key\"\nca = \"ca/ca.pem\"\n\
         [[mesh.regions]]\nid = \"{HOME}\"\naddress = \"127.0.0.1:{link}\"\nws = \"wss://127.0.0.1:{http}/ws\"\n\
         [listen]\nhttp = \"127.0.0.1:{http}\"\nwebtransport = \"127.0.0.1:{webtransport}\"\ntls = {tls}\n\
         [auth]\nhs256_secret_file = \"token.secret\"\nissuer = \"bench\"\naudience = \"chat\"\n\
         [[auth.resume_keys]]\nid = \"1\"\nsecret_file = \"resume.secret\"\n\
         [limits]\nconnections_per_address = {}\nconnects_per_minute = 0\n",
        connections * 3
    );
    std::fs::write(path("region.toml"), text).map_err(told)?;
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(path("ca").join("ca.pem")).map_err(told)?;
    roots.add(authority).map_err(told)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(told)?;
    Ok(Setup {
        region: DevRegion {
            id: RegionId::new(HOME).map_err(told)?,
            http: format!("https://127.0.0.1:{http}"),
            ws: format!("wss://127.0.0.1:{http}/ws"),
            webtransport: None,
        },
        trust: Arc::new(builder.with_root_certificates(roots).with_no_client_auth()),
        signer: Signer(EncodingKey::from_secret(token_secret.as_bytes())),
    })
}
