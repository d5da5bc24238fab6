//! Certificates and key sets that change while a region runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edge_gateway::{GatewayHandle, JwtVerifier, SharedTls};
use hearth_config::{ListenSection, WebTransportCertificate};

use crate::region::{server_tls, webtransport_certificate};

/// How often files are looked at. Looking at times and sizes is right on every file system, mounted secrets included.
const LOOK: Duration = Duration::from_secs(2);
/// A self-made certificate is valid for 13 days; it is renewed well before.
const RENEW_SELF_MADE: Duration = Duration::from_secs(6 * 24 * 3_600);

/// What a file looked like.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen(Vec<Option<(SystemTime, u64)>>);

fn look(paths: &[PathBuf]) -> Seen {
    Seen(
        paths
            .iter()
            .map(|path| std::fs::metadata(path).ok().and_then(|data| Some((data.modified().ok()?, data.len()))))
            .collect(),
    )
}

/// Runs until the region stops. A new file that cannot be used is logged, and the old stays in force.
pub(crate) async fn run(
    listen: ListenSection,
    gateway: Arc<GatewayHandle>,
    tls: Option<SharedTls>,
    verifier: Arc<JwtVerifier>,
) {
    let tls_files: Vec<PathBuf> = listen
        .tls
        .iter()
        .flat_map(|files| [files.certificate.path(), files.key.path()])
        .flatten()
        .map(std::path::Path::to_owned)
        .collect();
    let key_files: Vec<PathBuf> = verifier.jwks_path().map(std::path::Path::to_owned).into_iter().collect();
    let (mut tls_seen, mut keys_seen) = (look(&tls_files), look(&key_files));
    let mut renewed = tokio::time::Instant::now();
    let mut clock = tokio::time::interval(LOOK);
    loop {
        clock.tick().await;
        let now_seen = look(&tls_files);
        if now_seen != tls_seen {
            tls_seen = now_seen;
            reload_tls(&listen, &gateway, tls.as_ref());
        }
        let now_seen = look(&key_files);
        if now_seen != keys_seen {
            keys_seen = now_seen;
            match verifier.reload() {
                Ok(()) => tracing::info!("the JWKS file changed: its keys count from now on"),
                Err(error) => tracing::error!(%error, "the changed JWKS file cannot be used; the old keys stay"),
            }
        }
        if listen.webtransport_certificate == WebTransportCertificate::SelfMade && renewed.elapsed() > RENEW_SELF_MADE {
            renewed = tokio::time::Instant::now();
            replace_webtransport(&listen, &gateway);
        }
    }
}

fn reload_tls(listen: &ListenSection, gateway: &GatewayHandle, tls: Option<&SharedTls>) {
    let (Some(files), Some(shared)) = (&listen.tls, tls) else { return };
    match server_tls(files) {
        Ok(config) => {
            shared.store(config);
            tracing::info!("the TLS files changed: new connections get the new certificate");
        }
        Err(error) => {
            tracing::error!(%error, "the changed TLS files cannot be used; the old certificate stays");
            return;
        }
    }
    if listen.webtransport_certificate == WebTransportCertificate::Tls {
        replace_webtransport(listen, gateway);
    }
}

fn replace_webtransport(listen: &ListenSection, gateway: &GatewayHandle) {
    let replaced = webtransport_certificate(listen)
        .map_err(|error| error.to_string())
        .and_then(|made| gateway.replace_webtransport_certificate(&made).map_err(|error| error.to_string()));
    if let Err(error) = replaced {
        tracing::error!(error, "the WebTransport certificate cannot be replaced; the old one stays");
    }
}
