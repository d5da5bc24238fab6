//! `hearth store`.

use std::process::ExitCode;
use std::sync::Arc;

use hearth_config::{LogFormat, init_logging};
use hearth_mesh::backup::{Manifest, Restore, Restored, Tell, With};
use hearth_mesh::{MigrationStep, StartError};
use hearth_protocol::admin::Change;
use serde_json::json;

use crate::admin::{FAILED, REFUSED};
use crate::arguments::OfRegion;
use crate::serve::configuration;
use crate::store_arguments::{RestoreArguments, StoreArguments, StoreVerb};
use crate::{admin, output};

/// Looks after a store.
pub(crate) async fn store(arguments: StoreArguments) -> ExitCode {
    // What is done is the output.
    let _ = init_logging(LogFormat::Text, "off");
    match arguments.verb {
        StoreVerb::Migrate(of) => migrate(of).await,
        StoreVerb::Backup { region, to, how } => {
            let to = std::path::absolute(to).ok().and_then(|to| to.to_str().map(str::to_owned));
            match to {
                Some(to) => admin::change(&how, Change::Backup { region, to }).await,
                None => output::failure(2, "--to is no path that can be sent", "name a folder from / on", how.at.json),
            }
        }
        StoreVerb::Restore(arguments) => restore(arguments).await,
    }
}

async fn migrate(OfRegion { config: file, dry_run, json }: OfRegion) -> ExitCode {
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

async fn restore(arguments: RestoreArguments) -> ExitCode {
    let (dry_run, json) = (arguments.dry_run, arguments.json);
    let restore = match asked(arguments) {
        Ok(restore) => restore,
        Err(code) => return code,
    };
    let tell: Tell = Arc::new(output::note);
    let ended = if dry_run {
        restore.clone().check(tell).await.map(|copy| checked(&restore, &copy, json))
    } else {
        restore.clone().run(tell).await.map(|done| restored(&restore, &done, json))
    };
    ended.unwrap_or_else(|error| {
        let code = if error.is_refusal() { REFUSED } else { FAILED };
        output::failure(code, &error.to_string(), &error.hint(), json)
    })
}

/// What is to be restored, by the configuration or by the folder.
fn asked(arguments: RestoreArguments) -> Result<Restore, ExitCode> {
    let RestoreArguments { copy, config, folder, region, mesh_is_gone, goes_on_above, json, .. } = arguments;
    let with = match goes_on_above {
        Some(number) => With::Restored(number),
        None if mesh_is_gone => With::Nobody,
        None => With::Peers,
    };
    let usage = |message: &str| output::failure(2, message, "see hearth store restore --help", json);
    if let (Some(folder), Some(region)) = (folder, region) {
        let folder = std::path::absolute(folder).map_err(|error| usage(&format!("--folder: {error}")))?;
        return Ok(Restore::into_folder(folder, region, copy, with));
    }
    let file = config.ok_or_else(|| usage("which region? name --config, or --folder and --region"))?;
    let config = configuration(&file, json)?;
    if config.store.cql.is_some() {
        let hint = "bring it back by the servers' own tools, see docs/operations/backup.md";
        return Err(output::failure(REFUSED, "the region's store is in servers", hint, json));
    }
    Restore::of(&config, copy, with).map_err(|error| usage(&error.to_string()))
}

fn checked(restore: &Restore, copy: &Manifest, as_json: bool) -> ExitCode {
    if as_json {
        output::line(&json!({ "dryRun": true, "copy": copy, "data": restore.data }).to_string());
        return ExitCode::SUCCESS;
    }
    output::line(&format!(
        "would: bring {} back into {}: a copy of {}, whole: {} rows, {} files, {} MB",
        copy.region,
        restore.data.display(),
        time(copy),
        copy.rows,
        copy.files,
        copy.bytes / 1_000_000
    ));
    ExitCode::SUCCESS
}

fn restored(restore: &Restore, done: &Restored, as_json: bool) -> ExitCode {
    if as_json {
        output::line(&json!({ "dryRun": false, "done": done, "data": restore.data }).to_string());
        return ExitCode::SUCCESS;
    }
    let copy = &done.copy;
    let (region, data) = (&copy.region, restore.data.display());
    output::line(&format!("{region} is back in {data}, as of {}: start it", time(copy)));
    output::line(&match (restore.with, done.goes_on_above) {
        (With::Nobody, Some(number)) => {
            format!("the mesh goes on at it alone; restore copies of other regions with --goes-on-above {number}")
        }
        (With::Restored(_), _) => format!("what it holds counts: {} logs", done.trusted),
        (With::Nobody | With::Peers, _) => {
            "what it holds counts once it has caught up: watch hearth_home_joining until it is 0".to_owned()
        }
    });
    ExitCode::SUCCESS
}

/// When a copy was made, for people.
fn time(copy: &Manifest) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(copy.made_at.0);
    humantime::format_rfc3339_seconds(at).to_string()
}
