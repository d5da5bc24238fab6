//! `hearth rebuild`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hearth_config::{LogFormat, RegionConfig, init_logging};
use hearth_mesh::{RebuildPlan, RebuildProgress, StartError};
use serde_json::json;

use crate::arguments::{OfRegion, RebuildArguments, RebuildVerb};
use crate::output;
use crate::serve::configuration;

/// Exit code of what a signal ended.
const INTERRUPTED: u8 = 130;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Makes a region's metadata anew.
pub(crate) async fn rebuild(arguments: RebuildArguments) -> ExitCode {
    // What is done is the output.
    let _ = init_logging(LogFormat::Text, "off");
    let RebuildVerb::Metadata(OfRegion { config: file, dry_run, json }) = arguments.verb;
    let config = match configuration(&file, json) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if dry_run {
        return match hearth_mesh::plan_metadata(&config).await {
            Ok(plan) => planned(&plan, json),
            Err(error) => refused(&error, json),
        };
    }
    tokio::select! {
        code = run(&config, json) => code,
        () = signalled() => {
            let file = file.display();
            let hint = format!("the old rows stand; to go on where it was: hearth rebuild metadata --config {file}");
            output::failure(INTERRUPTED, "interrupted", &hint, json)
        }
    }
}

async fn run(config: &RegionConfig, json: bool) -> ExitCode {
    let mut told = Instant::now();
    let mut tell = |progress: &RebuildProgress| {
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            output::note(&text(progress));
        }
    };
    match hearth_mesh::rebuild_metadata(config, &mut tell).await {
        Ok(done) if json => {
            output::line(&json!({ "dryRun": false, "done": done }).to_string());
            ExitCode::SUCCESS
        }
        Ok(done) => {
            output::line(&format!("made anew: {}", text(&done)));
            ExitCode::SUCCESS
        }
        Err(error) => refused(&error, json),
    }
}

fn text(progress: &RebuildProgress) -> String {
    let RebuildProgress { logs, written, entries, rows, behind } = progress;
    let behind = match behind {
        0 => String::new(),
        behind => format!("; {behind} logs are not here whole yet, a running region projects them later"),
    };
    format!("{logs} logs, {written} of them written, {entries} entries, {rows} rows{behind}")
}

fn planned(plan: &RebuildPlan, as_json: bool) -> ExitCode {
    if as_json {
        output::line(&json!({ "dryRun": true, "plan": plan }).to_string());
        return ExitCode::SUCCESS;
    }
    for step in &plan.migrations {
        output::line(&format!("{} {}: would be made", step.number, step.name));
        step.statements.iter().for_each(|statement| output::line(&format!("{statement};")));
    }
    let RebuildPlan { users, conversations, entries, projected, begun, .. } = plan;
    output::line(&format!("would read {users} users and {conversations} conversations, {entries} entries"));
    output::line(&format!("would replace what is projected of {projected} logs"));
    if *begun {
        output::line("would go on with one that was begun before");
    }
    ExitCode::SUCCESS
}

fn refused(error: &StartError, json: bool) -> ExitCode {
    match error {
        StartError::Config(_) => {
            let hint =
                "it is for regions with [store.postgres] and a store in their data folder, by builds that have it";
            output::failure(2, &error.to_string(), hint, json)
        }
        StartError::Store(_) => {
            let hint = "stop the region first: its store has one user at a time";
            output::failure(70, &error.to_string(), hint, json)
        }
        _ => output::failure(70, &error.to_string(), "the old rows stand: mend it and type it again", json),
    }
}

/// Resolves at SIGINT or SIGTERM; never where they cannot be caught, and the process ends by them.
async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}
