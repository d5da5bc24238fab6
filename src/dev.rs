//! `hearth dev` and `hearth chat`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use hearth_client::chat::ChatError;
use hearth_config::{FailoverSection, LogFormat, init_logging};
use hearth_mesh::HAS_SERVERS;
use hearth_mesh::dev::{
    self, ControlRequest, DevError, DevOptions, DevStores, Latency, RegionRow, ServerAddress, read_mesh_file,
    ready_line,
};
use serde_json::{Value, json};

use crate::arguments::{
    ChatArguments, DevArguments, DevDrain, DevLink, DevRegion, DevToken, DevVerb, LinkVerb, Stores, Switch,
};
use crate::output;

/// A shorter period would leave time for nothing else.
const SHORTEST_ANTI_ENTROPY: Duration = Duration::from_millis(10);
/// Bounds of `--content-sweep`.
const SHORTEST_SWEEP: Duration = Duration::from_secs(1);
const LONGEST_SWEEP: Duration = Duration::from_secs(24 * 3_600);
/// What a mesh logs. The CQL driver warns of each connection that is told its keyspace; that servers do not answer is said
/// by the region.
const LOG_FILTER: &str = "warn,hearth=info,hearth_mesh=info,region_push=info,scylla=error";
/// No mesh runs at the data folder.
const NO_MESH: u8 = 7;

/// Runs a mesh, or does something to a running one.
pub(crate) async fn dev(arguments: DevArguments) -> ExitCode {
    match arguments.verb {
        None => start_mesh(arguments).await,
        Some(DevVerb::Start(region)) => {
            let request = ControlRequest::Start { region: region.region.clone() };
            control(&region, request).await
        }
        Some(DevVerb::Stop(region)) => {
            let request = ControlRequest::Stop { region: region.region.clone() };
            control(&region, request).await
        }
        Some(DevVerb::Drain(DevDrain { region, over })) => {
            let over_ms = u64::try_from(over.as_millis()).unwrap_or(u64::MAX);
            let request = ControlRequest::Drain { region: region.region.clone(), over_ms };
            control(&region, request).await
        }
        Some(DevVerb::Token(arguments)) => token(arguments).await,
        Some(DevVerb::Link(arguments)) => link(arguments).await,
        Some(DevVerb::Child { region }) => child(&region).await,
    }
}

async fn start_mesh(arguments: DevArguments) -> ExitCode {
    let json = arguments.json;
    let stores = match stores(arguments.stores, arguments.cassandra, arguments.postgresql, HAS_SERVERS) {
        Ok(stores) => stores,
        Err((message, hint)) => return output::failure(2, message, hint, json),
    };
    let latency = match arguments.latency.as_deref() {
        None => Latency::Default,
        Some("none") => Latency::Fixed(Duration::ZERO),
        Some(text) => match humantime::parse_duration(text) {
            Ok(delay) if delay <= Duration::from_secs(60) => Latency::Fixed(delay),
            Ok(_) | Err(_) => {
                let message = format!("--latency {text}: neither `none` nor a duration of at most a minute");
                return output::failure(2, &message, "for example: hearth dev --latency 20ms", json);
            }
        },
    };
    if arguments.anti_entropy < SHORTEST_ANTI_ENTROPY {
        let given = humantime::format_duration(arguments.anti_entropy);
        let message = format!("--anti-entropy {given}: homes compare with replicas at most every 10 ms");
        return output::failure(2, &message, "for example: hearth dev --anti-entropy 1s", json);
    }
    if !(SHORTEST_SWEEP..=LONGEST_SWEEP).contains(&arguments.content_sweep) {
        let given = humantime::format_duration(arguments.content_sweep);
        let message = format!("--content-sweep {given}: texts of deleted messages are taken away every 1s to 1d");
        return output::failure(2, &message, "for example: hearth dev --content-sweep 10s", json);
    }
    if !(SHORTEST_SWEEP..=LONGEST_SWEEP).contains(&arguments.retention_day) {
        let given = humantime::format_duration(arguments.retention_day);
        let message = format!("--retention-day {given}: a day of retentionDays lasts 1s to 1d");
        return output::failure(2, &message, "for example: hearth dev --retention-day 1m", json);
    }
    if !FailoverSection::AFTER.contains(&arguments.failover_after) {
        let given = humantime::format_duration(arguments.failover_after);
        let message = format!("--failover-after {given}: a region is waited for from 1s to 1h");
        return output::failure(2, &message, "for example: hearth dev --failover-after 10s", json);
    }
    let folder = arguments.data.clone();
    let options = DevOptions {
        regions: arguments.regions,
        port: arguments.port,
        data: arguments.data,
        fresh: arguments.fresh,
        latency,
        limits: arguments.limits == Switch::On,
        anti_entropy: arguments.anti_entropy,
        content_sweep: arguments.content_sweep,
        retention_day: arguments.retention_day,
        failover: arguments.failover == Switch::On,
        failover_after: arguments.failover_after,
        processes: arguments.processes,
        stores,
    };
    if let Err(error) = init_logging(LogFormat::Text, LOG_FILTER) {
        return output::failure(2, &error.to_string(), "mend HEARTH_LOG or RUST_LOG", json);
    }
    let ended = dev::run(options, |rows| {
        if json {
            output::line(&ready_line(rows));
        } else {
            output::line(&welcome(rows, &folder));
        }
    });
    end(ended.await, json)
}

/// Where the regions keep what is durable, by what was asked for and whether this build has it; else what to say and what
/// to type.
fn stores(
    asked: Stores,
    cassandra: String,
    postgresql: ServerAddress,
    has_servers: bool,
) -> Result<DevStores, (&'static str, &'static str)> {
    match asked {
        Stores::Embedded => Ok(DevStores::Embedded),
        Stores::Production if has_servers => Ok(DevStores::Production { cassandra, postgresql }),
        Stores::Production => Err((
            "--stores production: this build has no adapters of servers",
            "build it with them: cargo run --release --features production -- dev --stores production",
        )),
    }
}

fn end(ended: Result<(), DevError>, json: bool) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::failure(error.exit_code(), &error.to_string(), &error.hint(), json),
    }
}

/// What to do next, in commands that work as they stand.
fn welcome(rows: &[RegionRow], folder: &Path) -> String {
    let mut text = String::from("the mesh is ready\n\n");
    for row in rows {
        text.push_str(&format!("  {:<12} {}\n", row.id, row.http));
    }
    let Some(first) = rows.first() else { return text };
    let other = rows.get(1).unwrap_or(first);
    let url = if first.http.ends_with(":8081") { String::new() } else { format!(" --url {}", first.http) };
    let data = if folder == Path::new(".hearth-dev") { String::new() } else { format!(" --data {}", folder.display()) };
    text.push_str(&format!(
        "\nlook at it:        {}/\ntalk in two terminals:\n  hearth chat --as ann --to bob --region {}{url}\n  hearth chat --as bob --to ann --region {}{url}\n",
        first.http, first.id, other.id
    ));
    if rows.len() > 1 {
        text.push_str(&format!("cut a link:        hearth dev link cut {} {}{data}\n", first.id, other.id));
    }
    text.push_str(&format!("regions and homes: hearth region status{data}\n"));
    text.push_str("Ctrl-C ends it; what was acked is kept\n");
    text
}

async fn child(region: &str) -> ExitCode {
    if let Err(error) = init_logging(LogFormat::Text, LOG_FILTER) {
        return output::failure(2, &error.to_string(), "mend HEARTH_LOG or RUST_LOG", false);
    }
    end(dev::child(region, output::line).await, false)
}

async fn control(region: &DevRegion, request: ControlRequest) -> ExitCode {
    match dev::ask(&region.data, request).await {
        Some(answer) if answer.code == 0 => {
            say(region.json, &json!({ "ok": true, "message": answer.message }), &answer.message);
            ExitCode::SUCCESS
        }
        Some(answer) => output::failure(answer.code, &answer.message, "see `hearth dev --help`", region.json),
        None => no_mesh(&region.data, region.json),
    }
}

fn no_mesh(data: &Path, json: bool) -> ExitCode {
    let message = format!("no mesh runs at {}", data.display());
    output::failure(NO_MESH, &message, "start one: hearth dev; or name its folder with --data", json)
}

fn say(as_json: bool, body: &Value, text: &str) {
    if as_json { output::line(&body.to_string()) } else { output::line(text) }
}

/// Sends a request to the first region of the mesh that answers.
async fn at_any_region(data: &Path, route: &str, body: Option<&Value>) -> Option<(u16, Value)> {
    let file = read_mesh_file(data)?;
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().ok()?;
    for region in &file.spec.regions {
        let url = format!("{}{route}", region.http());
        let request = match body {
            Some(body) => client.post(url).json(body),
            None => client.get(url),
        };
        if let Ok(answer) = request.send().await {
            let status = answer.status().as_u16();
            return Some((status, answer.json().await.ok()?));
        }
    }
    None
}

async fn token(arguments: DevToken) -> ExitCode {
    let role = arguments.operator.then_some("operator");
    let body = json!({ "userId": arguments.user, "ttlSeconds": arguments.ttl.as_secs(), "role": role });
    match at_any_region(&arguments.data, "/api/v1/dev/tokens", Some(&body)).await {
        Some((200, answer)) => {
            say(arguments.json, &answer, answer["token"].as_str().unwrap_or_default());
            ExitCode::SUCCESS
        }
        Some((_, answer)) => refused(&answer, "see `hearth dev token --help`", arguments.json),
        None => no_mesh(&arguments.data, arguments.json),
    }
}

fn refused(answer: &Value, hint: &str, json: bool) -> ExitCode {
    output::failure(2, answer["message"].as_str().unwrap_or("the mesh refused it"), hint, json)
}

async fn link(arguments: DevLink) -> ExitCode {
    let body = (arguments.verb != LinkVerb::List).then(|| {
        let mut body = json!({ "from": arguments.from, "to": arguments.to, "both": !arguments.one_way });
        match arguments.verb {
            LinkVerb::Cut => body["state"] = json!("cut"),
            LinkVerb::Heal => body["state"] = json!("up"),
            LinkVerb::Set | LinkVerb::List => {}
        }
        if let Some(delay) = arguments.delay {
            body["delayMs"] = json!(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        }
        if let Some(loss) = arguments.loss {
            body["lossPercent"] = json!(loss);
        }
        body
    });
    match at_any_region(&arguments.data, "/api/v1/dev/links", body.as_ref()).await {
        Some((200, answer)) => {
            say(arguments.json, &answer, &link_table(&answer));
            ExitCode::SUCCESS
        }
        Some((_, answer)) => {
            refused(&answer, "`hearth dev link list` shows the regions; see `hearth dev link --help`", arguments.json)
        }
        None => no_mesh(&arguments.data, arguments.json),
    }
}

fn link_table(answer: &Value) -> String {
    let mut text = format!("{:<12} {:<12} {:<5} {:>8} {:>7}", "from", "to", "state", "delay", "loss");
    for row in answer["links"].as_array().into_iter().flatten() {
        let cell = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        text.push_str(&format!(
            "\n{:<12} {:<12} {:<5} {:>5} ms {:>5} %",
            cell("from"),
            cell("to"),
            cell("state"),
            row["delayMs"].to_string(),
            row["lossPercent"].to_string()
        ));
    }
    text
}

/// Talks to somebody.
pub(crate) async fn chat(arguments: ChatArguments) -> ExitCode {
    let transport = match arguments.transport.as_str() {
        "websocket" => hearth_client::TransportKind::WebSocket,
        "webtransport" => hearth_client::TransportKind::WebTransport,
        other => {
            return output::failure(2, &format!("no transport {other:?}"), "websocket or webtransport", false);
        }
    };
    let options = hearth_client::chat::ChatOptions {
        as_user: arguments.user,
        to: arguments.to,
        group: arguments.group,
        region: arguments.region,
        url: arguments.url,
        transport,
        history: arguments.history,
    };
    match hearth_client::chat::chat(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = if matches!(error, ChatError::NoRegion { .. } | ChatError::User { .. }) { 2 } else { 70 };
            output::failure(code, &error.to_string(), "see `hearth chat --help`", false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_in_servers_are_for_builds_that_have_them_and_another_says_what_to_type() {
        let asked = |kind: Stores, has_servers: bool| {
            let postgresql = "127.0.0.1:19032".parse().expect("an address");
            stores(kind, "127.0.0.1:19042".to_owned(), postgresql, has_servers)
        };
        assert!(matches!(asked(Stores::Production, true), Ok(DevStores::Production { .. })));
        let (message, hint) = asked(Stores::Production, false).expect_err("left out");
        assert!(message.contains("no adapters of servers") && hint.contains("--features production"));
        assert_eq!(asked(Stores::Embedded, false), Ok(DevStores::Embedded));
    }
}
