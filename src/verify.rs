//! `hearth verify`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hearth_config::{LogFormat, init_logging};
use hearth_mesh::admin::{AskError, Teller, verify_folder};
use hearth_protocol::RegionId;
use hearth_protocol::admin::Line;

use crate::admin::{FAILED, Failure, NOBODY, REFUSED, Target, targets, tell};
use crate::admin_arguments::{VerifyArguments, Where};
use crate::output;

/// Faults and logs over all stores.
#[derive(Debug, Default)]
struct Sum {
    stores: usize,
    faults: u64,
    failed: Option<String>,
}

/// Walks every log of every store that is named.
pub(crate) async fn verify(arguments: VerifyArguments) -> ExitCode {
    // Faults are the output; a store that breaks says so there.
    let _ = init_logging(LogFormat::Text, "off");
    let VerifyArguments { folder, region, at } = arguments;
    let sum = match (folder, region) {
        (Some(folder), Some(region)) => {
            let mut sum = Sum::default();
            walk_folder(&folder, region, at.json, &mut sum).await;
            Ok(sum)
        }
        _ => walk_mesh(&at).await,
    };
    match sum {
        Ok(sum) => end(&sum, at.json),
        Err(failure) => failure.told(at.json),
    }
}

fn end(sum: &Sum, json: bool) -> ExitCode {
    if let Some(message) = &sum.failed {
        return output::failure(
            FAILED,
            message,
            "what was found so far stands above; walk the region's folder while it is down",
            json,
        );
    }
    if sum.faults > 0 { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS }
}

/// Regions that run are asked; those of a development mesh that do not are walked in their folders.
async fn walk_mesh(at: &Where) -> Result<Sum, Failure> {
    let mut sum = Sum::default();
    let running = match targets(at) {
        Ok(targets) => targets,
        Err(failure) if failure.code == NOBODY && at.admin.is_empty() => Vec::new(),
        Err(failure) => return Err(failure),
    };
    let mut walked = Vec::new();
    for Target { region, client } in running {
        match client.verify(|line| take(line, at.json, &mut sum)).await {
            Ok(_) => walked.extend(region),
            Err(AskError::Unreachable { .. }) if at.admin.is_empty() => {}
            Err(error) => return Err(error.into()),
        }
    }
    if at.admin.is_empty() {
        for (region, folder) in folders(&at.data).into_iter().filter(|(region, _)| !walked.contains(region)) {
            walk_folder(&folder, region, at.json, &mut sum).await;
        }
    }
    if sum.stores == 0 && sum.failed.is_none() {
        let message = format!("no mesh was started at {}", at.data.display());
        let hint =
            "name its folder with --data, a node with --admin, or one region's folder with --folder and --region";
        return Err(Failure { code: NOBODY, message, hint: hint.to_owned() });
    }
    Ok(sum)
}

/// The regions of a development mesh that have a store.
fn folders(data: &Path) -> Vec<(RegionId, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(data.join("regions")) else { return Vec::new() };
    let mut found: Vec<(RegionId, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("store").is_dir())
        .filter_map(|entry| Some((RegionId::new(entry.file_name().to_str()?).ok()?, entry.path())))
        .collect();
    found.sort();
    found
}

async fn walk_folder(folder: &Path, region: RegionId, json: bool, sum: &mut Sum) {
    let (tell, mut told) = Teller::new();
    let (folder, name) = (folder.to_owned(), region.clone());
    let walk = async move {
        let ended = verify_folder(&folder, region, &tell).await;
        match ended {
            Ok(line) => tell.last(line).await,
            Err(error) => {
                let hint = "free the folder, or name the one that holds `store`".to_owned();
                tell.last(Line::Refused { message: format!("{name}: {error}"), hint, at: None, failed: true }).await;
            }
        }
    };
    let read = async {
        while let Some(line) = told.recv().await {
            take(&line, json, sum);
        }
    };
    tokio::join!(walk, read);
}

fn take(line: &Line, json: bool, sum: &mut Sum) {
    tell(line, json);
    match line {
        Line::Verified { region, logs, entries, faults } => {
            sum.stores += 1;
            sum.faults += faults;
            if !json {
                let text = if *faults == 0 { "no fault".to_owned() } else { format!("{faults} faults") };
                output::line(&format!("{region}: {logs} logs, {entries} entries, {text}"));
            }
        }
        Line::Refused { message, .. } => {
            sum.failed.get_or_insert_with(|| message.clone());
        }
        Line::Plan { .. } | Line::Progress { .. } | Line::Fault(_) | Line::Done { .. } => {}
    }
}
