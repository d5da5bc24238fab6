//! `hearth store`.

use std::process::ExitCode;

use hearth_config::{LogFormat, init_logging};
use hearth_mesh::{MigrationStep, StartError};
use serde_json::json;

use crate::arguments::{StoreArguments, StoreVerb};
use crate::output;

/// Looks after a store.
pub(crate) async fn store(arguments: StoreArguments) -> ExitCode {
    // What is done is the output.
    let _ = init_logging(LogFormat::Text, "off");
    let StoreVerb::Migrate { config: file, dry_run, json } = arguments.verb;
    let config = match hearth_mesh::serve::read(&file) {
        Ok(config) => config,
        Err(error) => {
            output::note(&error.to_string());
            let hint = format!("mend the file, then: hearth config check {}", file.display());
            return output::failure(2, &format!("the configuration {} cannot be used", file.display()), &hint, json);
        }
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
