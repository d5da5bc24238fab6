//! `hearth store`.

use std::process::ExitCode;

use hearth_config::{LogFormat, init_logging};
use hearth_mesh::{MigrationStep, StartError};
use serde_json::json;

use crate::arguments::{OfRegion, StoreArguments, StoreVerb};
use crate::output;
use crate::serve::configuration;

/// Looks after a store.
pub(crate) async fn store(arguments: StoreArguments) -> ExitCode {
    // What is done is the output.
    let _ = init_logging(LogFormat::Text, "off");
    let StoreVerb::Migrate(OfRegion { config: file, dry_run, json }) = arguments.verb;
    let config = match configuration(&file, json) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match hearth_mesh::migrate(&config, dry_run).await {
        Ok(steps) => told(&steps, dry_run, json),
        Err(error @ StartError::Config(_)) => {
            output::failure(2, &error.to_string(), "it is for regions with [store.cql], by builds that have it", json)
        }
        Err(error) => output::failure(70, &error.to_string(), "nothing is half done: mend it and type it again", json),
    }
}

fn told(steps: &[MigrationStep], dry_run: bool, as_json: bool) -> ExitCode {
    if as_json {
        output::line(&json!({ "dryRun": dry_run, "migrations": steps }).to_string());
        return ExitCode::SUCCESS;
    }
    if steps.is_empty() {
        output::line("up to date");
    }
    for step in steps {
        let what = if dry_run { "would be made" } else { "made" };
        output::line(&format!("{} {}: {what}", step.number, step.name));
        if dry_run {
            step.statements.iter().for_each(|statement| output::line(&format!("{statement};")));
        }
    }
    ExitCode::SUCCESS
}
