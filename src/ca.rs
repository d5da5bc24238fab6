//! `hearth ca`.

use std::process::ExitCode;
use std::time::SystemTime;

use hearth_config::{ADMIN, CaError, IssueOptions, IssuedPaths, init, issue, issue_admin};
use serde_json::json;

use crate::arguments::{CaArguments, CaVerb};
use crate::output;

/// Makes an authority, or issues a certificate.
pub(crate) fn ca(arguments: CaArguments) -> ExitCode {
    match arguments.verb {
        CaVerb::Init { dir, json } => match init(&dir, SystemTime::now()) {
            Ok(paths) => {
                if json {
                    let body = json!({ "certificate": paths.certificate, "key": paths.key });
                    output::line(&body.to_string());
                } else {
                    output::line(&format!(
                        "made the mesh's authority: {}\nits key must not leave this machine: {}\nnext: hearth ca issue REGION --dir {}",
                        paths.certificate.display(),
                        paths.key.display(),
                        dir.display()
                    ));
                }
                ExitCode::SUCCESS
            }
            Err(error) => failure(&error, json),
        },
        CaVerb::Issue { region, name, dir, out, days, json, .. } if region == ADMIN => {
            let name = name.as_deref().unwrap_or(ADMIN);
            match issue_admin(&dir, name, out.as_deref(), days, SystemTime::now()) {
                Ok(paths) => {
                    admin_issued(name, &paths, json);
                    ExitCode::SUCCESS
                }
                Err(error) => failure(&error, json),
            }
        }
        CaVerb::Issue { name: Some(_), json, .. } => {
            let hint = "a region's certificate names the region; for a person: hearth ca issue admin --name NAME";
            output::failure(2, "--name goes with `hearth ca issue admin` only", hint, json)
        }
        CaVerb::Issue { region, dir, out, days, dns, ip, json, .. } => {
            let options = IssueOptions { valid_days: days, dns_names: dns, ips: ip };
            match issue(&dir, &region, out.as_deref(), &options, SystemTime::now()) {
                Ok(paths) => {
                    if json {
                        let body = json!({ "certificate": paths.certificate, "key": paths.key, "ca": paths.ca });
                        output::line(&body.to_string());
                    } else {
                        output::line(&format!(
                            "issued {region}: {}\nits key: {}\nname both in [mesh] of its configuration, and ca = {:?}",
                            paths.certificate.display(),
                            paths.key.display(),
                            paths.ca.display().to_string()
                        ));
                    }
                    ExitCode::SUCCESS
                }
                Err(error) => failure(&error, json),
            }
        }
    }
}

fn admin_issued(name: &str, paths: &IssuedPaths, json: bool) {
    if json {
        let body = json!({ "name": name, "certificate": paths.certificate, "key": paths.key, "ca": paths.ca });
        return output::line(&body.to_string());
    }
    output::line(&format!(
        "issued administrator {name}: {certificate}\nits key: {key}\nnext: hearth region status --admin https://HOST:PORT --cert {certificate} --key {key} --ca {ca}",
        certificate = paths.certificate.display(),
        key = paths.key.display(),
        ca = paths.ca.display()
    ));
}

/// Says what is wrong, and what to type: these errors have it after a semicolon.
fn failure(error: &CaError, json: bool) -> ExitCode {
    let code = match error {
        CaError::Name(_)
        | CaError::Reserved
        | CaError::AdminName(_)
        | CaError::AlternativeName(_)
        | CaError::Days(_) => 2,
        CaError::Exists(_)
        | CaError::Missing(_)
        | CaError::Broken { .. }
        | CaError::BrokenKey(_)
        | CaError::File(_)
        | CaError::Crypto(_) => 70,
    };
    let text = error.to_string();
    let (message, hint) =
        text.split_once("; ").unwrap_or((&text, "make the folder readable and writable, or name another"));
    output::failure(code, message, hint, json)
}
