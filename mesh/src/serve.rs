//! `hearth serve`: one region from its configuration, until a signal or a failed store ends it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use hearth_config::{RegionConfig, environment, load_at};
use tokio::signal::unix::{SignalKind, signal};

use crate::region::{RegionParts, RunningRegion, StartError};

/// Exit code when the store failed while running (`EX_IOERR` of sysexits.h).
pub const STORE_FAILED: u8 = 74;

/// How `serve` ended.
#[derive(Debug)]
pub enum Ended {
    /// A signal, after draining.
    Stopped,
    /// The store failed, for this reason.
    StoreFailed(String),
}

/// Why `serve` did not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration has errors; this is their text for people.
    #[error("{0}")]
    Config(String),
    /// It does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Signals cannot be caught.
    #[error("signals: {0}")]
    Signals(std::io::Error),
}

/// Reads a configuration; warnings and notices go to standard error.
///
/// # Errors
/// [`ServeError::Config`] with everything that is wrong.
pub fn read(path: &Path) -> Result<RegionConfig, ServeError> {
    let (config, report) = load_at(path, &environment(), SystemTime::now());
    let text = report.render();
    match config {
        Some(config) if !report.has_errors() => {
            if report.count(hearth_config::Severity::Warning) + report.count(hearth_config::Severity::Notice) > 0 {
                tracing::warn!("{text}");
            }
            Ok(config)
        }
        Some(_) | None => Err(ServeError::Config(text)),
    }
}

/// How long a start waits for the lease of its region.
const LEASE_PATIENCE: Duration = Duration::from_secs(3);

/// Runs a region until SIGINT or SIGTERM, then drains it; a second signal ends at once. `ready` is called once the
/// region serves.
///
/// # Errors
/// [`ServeError`] when it does not start.
pub async fn serve(config: RegionConfig, ready: impl FnOnce(&RunningRegion)) -> Result<Ended, ServeError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let region = RunningRegion::start(&config, RegionParts::default()).await?;
    // Alone, or with too few of the map's voters, it serves what needs no home, and parks.
    let _waited = tokio::time::timeout(LEASE_PATIENCE, region.until_it_may_sequence()).await;
    ready(&region);
    let reason = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        reason = region.failed() => Some(reason),
    };
    if let Some(reason) = reason {
        region.stop().await;
        return Ok(Ended::StoreFailed(reason));
    }
    tokio::select! {
        left = region.drain(config.drain.within) => {
            if left > 0 {
                tracing::warn!(left, "sessions had not left when the drain ended");
            }
        }
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    region.stop().await;
    Ok(Ended::Stopped)
}
