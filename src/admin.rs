//! `hearth region`, `hearth home`, `hearth user`, `hearth parked`, `hearth verify` and `hearth audit`: asks nodes over
//! their administration ports.

use std::process::ExitCode;

use hearth_mesh::admin::{AdminClient, AdminPem, AskError};
use hearth_mesh::dev::{admin_pem, read_mesh_file};
use hearth_protocol::RegionId;
use hearth_protocol::admin::{
    self, AuditLine, AuditPage, Change, ChangeRequest, HomeRow, Line, Losses, ParkedPage, Status,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::admin_arguments::{
    AuditArguments, HomeArguments, HomeVerb, How, ParkedArguments, ParkedVerb, RegionArguments, RegionVerb,
    UserArguments, UserVerb, Where,
};
use crate::{admin_text, losses, output, votes};

/// Refused, with what to type instead; or a walk that found faults.
pub(crate) const REFUSED: u8 = 1;
/// No mesh runs at the folder, or no node answers.
pub(crate) const NOBODY: u8 = 7;
/// It failed on the way.
pub(crate) const FAILED: u8 = 70;

/// A node that can be asked.
#[derive(Debug)]
pub(crate) struct Target {
    /// Its region, where it is known before it was asked.
    pub(crate) region: Option<RegionId>,
    pub(crate) client: AdminClient,
}

/// What is told instead of an answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into() }
    }

    pub(crate) fn told(self, json: bool) -> ExitCode {
        output::failure(self.code, &self.message, &self.hint, json)
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let message = error.to_string();
        match error {
            AskError::Tls(_) => Self::new(
                2,
                message,
                "name what `hearth ca issue admin` wrote: --cert admin.pem --key admin.key --ca ca.pem",
            ),
            AskError::Unreachable { .. } => {
                Self::new(NOBODY, message, "start the node, or name another: --admin https://HOST:PORT")
            }
            AskError::NotTrusted { .. } => {
                let hint = "nodes let in certificates of `hearth ca issue admin` by their own mesh's authority, and no region's; renew yours there";
                Self::new(REFUSED, message, hint)
            }
            AskError::Refused(refusal) => Self::new(REFUSED, refusal.to_string(), "look at it: hearth region status"),
            AskError::Unexpected { .. } => {
                Self::new(FAILED, message, "the node may be of another version; see hearth audit")
            }
        }
    }
}

/// The nodes that `--data` or `--admin` name.
pub(crate) fn targets(at: &Where) -> Result<Vec<Target>, Failure> {
    if at.admin.is_empty() {
        let Some(file) = read_mesh_file(&at.data) else {
            let message = format!("no mesh runs at {}", at.data.display());
            return Err(Failure::new(
                NOBODY,
                message,
                "start one: hearth dev; name its folder with --data, or a node with --admin",
            ));
        };
        let pem =
            admin_pem(&at.data).map_err(|error| Failure::new(FAILED, error.to_string(), "start the mesh again"))?;
        let target = |spec: &hearth_mesh::dev::RegionSpec| -> Result<Target, Failure> {
            let client = AdminClient::new(&spec.administration(), &pem, Some(&spec.id))?;
            Ok(Target { region: RegionId::new(&spec.id).ok(), client })
        };
        return file.spec.regions.iter().map(target).collect();
    }
    let read = |path: Option<&std::path::PathBuf>| -> Result<String, Failure> {
        let path = path.ok_or_else(|| Failure::new(2, "--admin needs --cert, --key and --ca", "see --help"))?;
        std::fs::read_to_string(path).map_err(|error| {
            let message = format!("{}: {error}", path.display());
            Failure::new(2, message, "name what `hearth ca issue admin` wrote")
        })
    };
    let pem = AdminPem { ca: read(at.ca.as_ref())?, certificate: read(at.cert.as_ref())?, key: read(at.key.as_ref())? };
    let target = |url: &String| -> Result<Target, Failure> {
        Ok(Target { region: None, client: AdminClient::new(url, &pem, None)? })
    };
    at.admin.iter().map(target).collect()
}

/// The answers of all nodes that answer, and what the others said.
///
/// # Errors
/// The first failure, when nobody answers.
pub(crate) async fn ask_all<T: DeserializeOwned>(at: &Where, path: &str) -> Result<(Vec<T>, Vec<String>), Failure> {
    let (mut answers, mut silent, mut first) = (Vec::new(), Vec::new(), None);
    for target in targets(at)? {
        match target.client.get(path).await {
            Ok(answer) => answers.push(answer),
            Err(error) => {
                silent.push(error.to_string());
                first.get_or_insert(error);
            }
        }
    }
    match first {
        Some(error) if answers.is_empty() => Err(error.into()),
        _ => Ok((answers, silent)),
    }
}

/// Prints an answer: for programs as it is, for people as text; who did not answer is told on standard error.
fn show(json: bool, body: &serde_json::Value, text: &str, silent: &[String]) -> ExitCode {
    if json {
        output::line(&body.to_string());
    } else {
        output::line(text.trim_end());
        silent.iter().for_each(|reason| output::note(&format!("note: {reason}")));
    }
    ExitCode::SUCCESS
}

fn told(result: Result<ExitCode, Failure>, json: bool) -> ExitCode {
    result.unwrap_or_else(|failure| failure.told(json))
}

/// `hearth region`.
pub(crate) async fn region(arguments: RegionArguments) -> ExitCode {
    match arguments.verb {
        RegionVerb::Status(at) => told(status(&at).await, at.json),
        RegionVerb::Losses(at) => told(losses(&at).await, at.json),
        RegionVerb::Failover { region, force, accept_loss, how } => {
            change(&how, Change::Failover { region, force, accept_loss }).await
        }
        RegionVerb::Failback { region, how } => change(&how, Change::Failback { region }).await,
        RegionVerb::Drain { region, undo: true, how, .. } => change(&how, Change::Undrain { region }).await,
        RegionVerb::Drain { region, over, rate, how, .. } => {
            let over_milliseconds = u64::try_from(over.as_millis()).unwrap_or(u64::MAX);
            if over_milliseconds > 3_600_000 {
                let hint = "for example: hearth region drain eu-west --over 10m";
                return output::failure(2, "--over: sessions leave within an hour at most", hint, how.at.json);
            }
            change(&how, Change::Drain { region, over_milliseconds, rate }).await
        }
        RegionVerb::Add { region, rate, how } => told(votes::add(region, rate, &how).await, how.at.json),
        RegionVerb::Remove { region, rate, how } => told(votes::remove(region, rate, &how).await, how.at.json),
    }
}

/// `hearth home`.
pub(crate) async fn home(arguments: HomeArguments) -> ExitCode {
    match arguments.verb {
        HomeVerb::Show { conversation, at } => told(home_show(&at, &conversation.to_string()).await, at.json),
        HomeVerb::Move { conversation: Some(conversation), to, how, .. } => {
            change(&how, Change::MoveHome { conversation, to }).await
        }
        HomeVerb::Move { selector: Some(home), to, rate, how, .. } => {
            change(&how, Change::MoveHomes { home, to, rate }).await
        }
        HomeVerb::Move { how, .. } => {
            output::failure(2, "which homes?", "name a conversation, or --selector home=REGION", how.at.json)
        }
    }
}

/// `hearth user`.
pub(crate) async fn user(arguments: UserArguments) -> ExitCode {
    let UserVerb::Erase { user, how } = arguments.verb;
    change(&how, Change::EraseUser { user }).await
}

/// `hearth parked`.
pub(crate) async fn parked(arguments: ParkedArguments) -> ExitCode {
    let ParkedVerb::List(at) = arguments.verb;
    told(parked_list(&at).await, at.json)
}

/// `hearth audit`.
pub(crate) async fn audit(arguments: AuditArguments) -> ExitCode {
    let AuditArguments { last, at } = arguments;
    told(audit_lines(&at, last).await, at.json)
}

async fn status(at: &Where) -> Result<ExitCode, Failure> {
    let (answers, silent): (Vec<Status>, _) = ask_all(at, admin::STATUS).await?;
    let newest = answers.iter().max_by_key(|status| status.map_version);
    let Some(newest) = newest else { return Err(Failure::new(NOBODY, "no node answers", "start one")) };
    let nodes: Vec<_> = answers.iter().map(|status| &status.node).collect();
    let body = json!({
        "mapVersion": newest.map_version,
        "mapLeader": newest.map_leader,
        "regions": newest.regions,
        "nodes": nodes,
        "unreachable": silent,
    });
    Ok(show(at.json, &body, &admin_text::status(newest, &nodes), &silent))
}

async fn losses(at: &Where) -> Result<ExitCode, Failure> {
    let (answers, silent): (Vec<Losses>, _) = ask_all(at, admin::LOSSES).await?;
    let rows = losses::together(&answers);
    let more = answers.iter().any(|answer| answer.more);
    let body = json!({ "losses": rows, "more": more, "unreachable": silent });
    Ok(show(at.json, &body, &losses::text(&rows, more), &silent))
}

async fn home_show(at: &Where, conversation: &str) -> Result<ExitCode, Failure> {
    let path = format!("{}/{conversation}", admin::HOMES);
    let (answers, silent): (Vec<HomeRow>, _) = ask_all(at, &path).await?;
    let body = json!({ "regions": answers, "unreachable": silent });
    Ok(show(at.json, &body, &admin_text::home(&answers), &silent))
}

async fn parked_list(at: &Where) -> Result<ExitCode, Failure> {
    let (answers, silent): (Vec<ParkedPage>, _) = ask_all(at, admin::PARKED).await?;
    let body = json!({ "regions": answers, "unreachable": silent });
    Ok(show(at.json, &body, &admin_text::parked(&answers), &silent))
}

async fn audit_lines(at: &Where, last: u32) -> Result<ExitCode, Failure> {
    let (answers, silent): (Vec<AuditPage>, _) = ask_all(at, &format!("{}?limit={last}", admin::AUDIT)).await?;
    let mut lines: Vec<(&RegionId, &AuditLine)> =
        answers.iter().flat_map(|page| page.audit.iter().map(|line| (&page.region, line))).collect();
    lines.sort_by_key(|(_, line)| line.at);
    let rows: Vec<_> = lines.iter().map(|(region, line)| json!({ "region": region, "audit": line })).collect();
    let body = json!({ "audit": rows, "unreachable": silent });
    Ok(show(at.json, &body, &admin_text::audit(&lines), &silent))
}

/// A line of an answer, as it comes: progress goes to standard error, for programs everything to standard output.
pub(crate) fn tell(line: &Line, json: bool) {
    if json {
        if !matches!(line, Line::Refused { .. }) {
            output::line(&serde_json::to_string(line).unwrap_or_default());
        }
        return;
    }
    match line {
        Line::Plan { text } => output::line(&format!("would: {text}")),
        Line::Progress { text, .. } => output::note(text),
        Line::Fault(fault) => output::line(&admin_text::fault(fault)),
        Line::Done { text, .. } => output::line(text),
        Line::Verified { .. } | Line::Refused { .. } => {}
    }
}

pub(crate) async fn change(how: &How, change: Change) -> ExitCode {
    let request = ChangeRequest { change, dry_run: how.dry_run };
    told(ask_change(&how.at, &request).await, how.at.json)
}

/// Asks the node that the change needs, and shows its lines.
pub(crate) async fn ask_change(at: &Where, request: &ChangeRequest) -> Result<ExitCode, Failure> {
    ask_change_with(at, request, &mut |line| tell(line, at.json)).await
}

/// Asks the node that the change needs; a node that is down is passed over, one that names another is believed once.
pub(crate) async fn ask_change_with(
    at: &Where,
    request: &ChangeRequest,
    tell: &mut (dyn FnMut(&Line) + Send),
) -> Result<ExitCode, Failure> {
    let mut targets = targets(at)?;
    let subject = match &request.change {
        Change::Failover { region, .. } | Change::RemoveRegion { region } => Some(region),
        _ => None,
    };
    // The region that is gone is asked last, the one that has what is changed first.
    let (wanted, last) = (request.change.asked_at().cloned(), subject.cloned());
    targets.sort_by_key(|target| match &target.region {
        region if region.is_some() && *region == wanted => 0,
        region if region.is_some() && *region == last => 2,
        _ => 1,
    });
    let for_all = matches!(request.change, Change::Failover { accept_loss: true, .. });
    let mut made = false;
    let mut unreachable = None;
    let mut at_region: Option<RegionId> = None;
    let mut refused = None;
    for target in &targets {
        if at_region.is_some() && target.region.is_some() && target.region != at_region {
            continue;
        }
        match target.client.change(request, &mut *tell).await {
            Ok(Line::Refused { message, hint, at: other, failed }) => {
                let code = if failed { FAILED } else { REFUSED };
                if made {
                    output::note(&format!("note: {message}"));
                    continue;
                }
                refused = Some(Failure::new(code, message, hint));
                if other.is_none() {
                    break;
                }
                at_region = other;
            }
            // The word of a loss is heard by every steward.
            Ok(_) if for_all => made = true,
            Ok(_) => return Ok(ExitCode::SUCCESS),
            Err(error @ AskError::Unreachable { .. }) => {
                unreachable.get_or_insert(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    if made {
        return Ok(ExitCode::SUCCESS);
    }
    let nobody = || Failure::new(NOBODY, "no node answers", "start one, or name it with --admin");
    Err(refused.or(unreachable.map(Failure::from)).unwrap_or_else(nobody))
}
