//! `hearth serve` and `hearth config`.

use std::path::Path;
use std::process::ExitCode;

use hearth_config::{LogFormat, RegionConfig, check_file, init_logging};
use hearth_mesh::RunningRegion;
use hearth_mesh::serve::{Ended, STORE_FAILED, ServeError};
use serde_json::json;

use crate::arguments::{ConfigArguments, ConfigVerb, ServeArguments};
use crate::output;

/// Reads the configuration of a region.
///
/// # Errors
/// The exit code of a verb whose file cannot be used, which was told.
pub(crate) fn configuration(file: &Path, json: bool) -> Result<RegionConfig, ExitCode> {
    hearth_mesh::serve::read(file).map_err(|error| {
        output::note(&error.to_string());
        let file = file.display();
        let hint = format!("mend the file, then: hearth config check {file}");
        output::failure(2, &format!("the configuration {file} cannot be used"), &hint, json)
    })
}

/// Runs one region.
pub(crate) async fn serve(arguments: ServeArguments) -> ExitCode {
    let json = arguments.json;
    let config = match configuration(&arguments.config, json) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if let Err(error) = init_logging(config.log.format, &config.log.filter) {
        return output::failure(2, &error.to_string(), "mend [log] filter in the configuration", json);
    }
    let in_servers = config.store.cql.is_some();
    match hearth_mesh::serve::serve(config, |region| ready(region, json)).await {
        Ok(Ended::Stopped) => ExitCode::SUCCESS,
        Ok(Ended::StoreFailed(reason)) => output::failure(
            STORE_FAILED,
            &format!("the store failed: {reason}"),
            if in_servers {
                "look at the servers that [store.cql] names, then start again: what was acked is there"
            } else {
                "free space or replace the disk, then start again: what was acked is on disk"
            },
            json,
        ),
        Err(error) => {
            let hint = match &error {
                ServeError::Start(hearth_mesh::StartError::InUse { .. }) => {
                    "stop what listens there, or change the address"
                }
                _ => "the text above names what to change",
            };
            output::failure(70, &error.to_string(), hint, json)
        }
    }
}

fn ready(region: &RunningRegion, as_json: bool) {
    let webtransport = region.webtransport.map(|address| address.to_string());
    if as_json {
        let body = json!({
            "ready": true,
            "region": region.handle.region(),
            "http": region.http.to_string(),
            "webtransport": webtransport,
            "administration": region.administration.to_string(),
        });
        output::line(&body.to_string());
    } else {
        output::line(&format!("region {} serves at {}", region.handle.region(), region.http));
    }
}

/// Checks a configuration file.
pub(crate) fn config(arguments: ConfigArguments) -> ExitCode {
    // Findings are the output; a log of them would say everything twice.
    let _ = init_logging(LogFormat::Text, "error");
    let ConfigVerb::Check { file, json } = arguments.verb;
    let report = check_file(&file);
    if json {
        output::line(&serde_json::to_string(&report).unwrap_or_default());
    } else {
        output::line(report.render().trim_end());
    }
    if report.has_errors() { ExitCode::from(1) } else { ExitCode::SUCCESS }
}
