//! From a file and the environment to a configuration, or to everything that is wrong with it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::check::check_sections;
use crate::document::{self, PREFIX};
use crate::model::RegionConfig;
use crate::report::{CheckReport, ConfigError, Finding};

/// Reads a configuration file, lays `environment` over it (variables named `HEARTH__SECTION__KEY`;
/// others are ignored), makes paths absolute against the file's folder, and checks everything.
/// Warnings and notices do not refuse; [`check_file`] tells them.
///
/// # Errors
/// With all findings when at least one is an error.
pub fn load(path: &Path, environment: &[(String, String)]) -> Result<RegionConfig, ConfigError> {
    let (config, report) = load_at(path, environment, SystemTime::now());
    match config {
        Some(config) if !report.has_errors() => Ok(config),
        _ => Err(ConfigError::new(report)),
    }
}

/// All findings about a configuration file under the environment of this process; what `hearth config
/// check` prints.
#[must_use]
pub fn check_file(path: &Path) -> CheckReport {
    load_at(path, &environment(), SystemTime::now()).1
}

/// As [`load`] and [`check_file`] together, at a given time: the configuration when it could be read at
/// all, also with errors, and all findings.
#[must_use]
pub fn load_at(path: &Path, environment: &[(String, String)], now: SystemTime) -> (Option<RegionConfig>, CheckReport) {
    match std::fs::read_to_string(path) {
        Ok(text) => load_text(path, text, environment, now),
        Err(error) => {
            let finding = Finding::error("", format!("cannot read the file: {error}"))
                .help("name a configuration file; config/examples/three-regions holds one for each of three regions");
            (None, CheckReport::new(path, String::new(), vec![finding]))
        }
    }
}

/// The variables of this process that override keys. One that is not UTF-8 is replaced as far as
/// needed, and so found wrong rather than ignored.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    let mut variables: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| (text(name), text(value)))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    variables.sort();
    variables
}

fn load_text(
    path: &Path,
    text: String,
    environment: &[(String, String)],
    now: SystemTime,
) -> (Option<RegionConfig>, CheckReport) {
    let mut reading = document::read(&text, environment);
    let mut meaning = Vec::new();
    if let Some(config) = &mut reading.config {
        config.resolve_paths(&folder_of(path));
        meaning = check_sections(config, now, &reading.damaged);
    }
    meaning.extend(reading.places.secrets_in_file().into_iter().map(secret_in_file));
    for finding in &mut meaning {
        reading.places.locate(&text, finding);
    }
    reading.findings.extend(meaning);
    let report = CheckReport::new(path, text, reading.findings);
    (reading.config, report)
}

fn secret_in_file(key: String) -> Finding {
    let variable = key.replace(['[', '.'], "__").replace(']', "").to_ascii_uppercase();
    Finding::error(key, "a secret does not belong into a configuration file").help(format!(
        "put it into a file of its own and name that by the key that ends in secret_file, or set {PREFIX}{variable}"
    ))
}

/// Absolute, so that a later change of the working folder changes nothing.
fn folder_of(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.parent().unwrap_or(Path::new("/")).to_owned()
}
