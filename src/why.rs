//! `hearth why`: where a message is on its way to a user.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use hearth_mesh::admin::AskError;
use hearth_protocol::client::{BlockReason, DeliveryState, ExplanationPayload, Hop, HopKind, KeptWhy, MessageName};
use hearth_protocol::{ErrorCode, Refusal, RegionId, Timestamp, admin};

use crate::admin::{Failure, NOBODY, REFUSED, targets};
use crate::admin_arguments::WhyArguments;
use crate::admin_text::{head, table, time};
use crate::output;

/// Asks the nodes one after the other until one of them reaches all regions, and shows the answer that knows most.
pub(crate) async fn why(arguments: WhyArguments) -> ExitCode {
    let json = arguments.at.json;
    match ask(&arguments).await {
        Ok((explanation, silent)) => {
            if json {
                let mut body = serde_json::to_value(&explanation).unwrap_or_default();
                body["unreachable"] = serde_json::json!(silent);
                output::line(&body.to_string());
            } else {
                output::line(text(&explanation).trim_end());
                silent.iter().for_each(|reason| output::note(&format!("note: {reason}")));
            }
            ExitCode::SUCCESS
        }
        Err(failure) => failure.told(json),
    }
}

async fn ask(arguments: &WhyArguments) -> Result<(ExplanationPayload, Vec<String>), Failure> {
    let path = path(arguments)?;
    let (mut best, mut silent, mut refused): (Option<ExplanationPayload>, Vec<String>, Option<Refusal>) =
        Default::default();
    for target in targets(&arguments.at)? {
        match target.client.get::<ExplanationPayload>(&path).await {
            Ok(answer) => {
                let better = best.as_ref().is_none_or(|best| unknown(&answer) < unknown(best));
                if better {
                    best = Some(answer);
                }
                if best.as_ref().is_some_and(|best| unknown(best) == (0, false)) {
                    break;
                }
            }
            // A node that knows nothing says less than one that refuses for another reason.
            Err(AskError::Refused(refusal)) => {
                if refused.as_ref().is_none_or(|before| before.error == ErrorCode::NotFound) {
                    refused = Some(refusal);
                }
            }
            Err(error @ AskError::Unreachable { .. }) => silent.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    match (best, refused) {
        (Some(best), _) => Ok((best, silent)),
        (None, Some(refusal)) => Err(not_explained(arguments, &refusal)),
        (None, None) => Err(Failure::new(
            NOBODY,
            silent.first().cloned().unwrap_or_else(|| "no node answers".to_owned()),
            "start a node, or name another: --admin https://HOST:PORT",
        )),
    }
}

/// How much an answer does not know: regions that were not asked, and whether the message is among it.
fn unknown(answer: &ExplanationPayload) -> (usize, bool) {
    let message = answer.blocks.iter().any(|block| block.reason == BlockReason::Unknown);
    (answer.out_of_reach.len(), message)
}

fn path(arguments: &WhyArguments) -> Result<String, Failure> {
    let mut path = match arguments.message {
        MessageName::Id(id) => format!("{}?message={id}", admin::WHY),
        MessageName::Number(number) if arguments.conversation.is_some() => format!("{}?number={number}", admin::WHY),
        MessageName::Number(number) => {
            let hint = format!("hearth why {number} --for {} --conversation ID", arguments.user);
            return Err(Failure::new(2, "a message's number needs its conversation", hint));
        }
    };
    let _ = write!(path, "&for={}", arguments.user);
    if let Some(conversation) = arguments.conversation {
        let _ = write!(path, "&conversation={conversation}");
    }
    Ok(path)
}

fn not_explained(arguments: &WhyArguments, refusal: &Refusal) -> Failure {
    let hint = match (refusal.error, arguments.message, arguments.conversation) {
        (ErrorCode::NotFound | ErrorCode::InvalidMessage, MessageName::Id(id), None) => {
            format!("hearth why {id} --for {} --conversation ID", arguments.user)
        }
        (ErrorCode::ConversationNotFound, _, Some(conversation)) => {
            format!("look at the id: hearth home show {conversation}")
        }
        _ => "look at it: hearth region status".to_owned(),
    };
    Failure::new(REFUSED, refusal.to_string(), hint)
}

fn word<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn names(regions: &[RegionId]) -> String {
    regions.iter().map(RegionId::as_str).collect::<Vec<_>>().join(", ")
}

/// An instant for people, to the microsecond where that is known.
fn instant(hop: &Hop) -> String {
    let micros = hop.at.0.saturating_mul(1_000).saturating_add(hop.micros.unwrap_or(0).into());
    let at = UNIX_EPOCH + Duration::from_micros(micros);
    match hop.micros {
        Some(_) => humantime::format_rfc3339_micros(at).to_string(),
        None => humantime::format_rfc3339_millis(at).to_string(),
    }
}

/// How long after the first hop.
fn after(first: &Hop, hop: &Hop) -> String {
    let micros = |hop: &Hop| hop.at.0 as f64 + f64::from(hop.micros.unwrap_or(0)) / 1_000.0;
    format!("{:+.3} ms", micros(hop) - micros(first))
}

fn step(kind: HopKind) -> String {
    word(&kind).replace('_', " ")
}

fn text(explained: &ExplanationPayload) -> String {
    let mut text = String::new();
    let id = explained.message_id.map_or_else(|| "message".to_owned(), |id| format!("message {id}"));
    let place = match (explained.sequence_number, explained.epoch) {
        (Some(number), Some(epoch)) => format!("number {number} of epoch {epoch}"),
        _ => "without a number that is known".to_owned(),
    };
    let state = match explained.state {
        DeliveryState::Waiting => "on its way".to_owned(),
        DeliveryState::Own => "sent by the user itself".to_owned(),
        state => word(&state),
    };
    let _ = writeln!(text, "{id}, {place} in {}", explained.conversation_id);
    let _ = writeln!(text, "to {}: {state}", explained.user_id);
    for block in &explained.blocks {
        let word_of_time = if block.reason == BlockReason::NoSession { "last seen" } else { "since" };
        let since = block.since.map(|since| format!(" ({word_of_time} {})", time(since.0))).unwrap_or_default();
        let _ = writeln!(text, "  {}: {}{since}", word(&block.reason), block.text);
    }
    if let Some(first) = explained.hops.first() {
        let mut rows = vec![head(&["step", "region", "to", "at", "after the first"])];
        let region = |region: &Option<RegionId>| region.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        rows.extend(
            explained
                .hops
                .iter()
                .map(|hop| vec![step(hop.hop), region(&hop.region), region(&hop.to), instant(hop), after(first, hop)]),
        );
        text.push_str(&table(&rows));
        text.push_str("each time is by its own region's clock\n");
    }
    for kept in &explained.kept {
        let Timestamp(since) = kept.since;
        let why = match kept.why {
            KeptWhy::Hour => "steps are kept for an hour",
            KeptWhy::Start => "its process started then",
            KeptWhy::Full => "there is no room for older ones: limits.explained_messages",
        };
        let _ = writeln!(text, "{} knows steps since {}: {why}", kept.region, time(since));
    }
    if !explained.out_of_reach.is_empty() {
        let _ = writeln!(text, "not asked, out of reach: {}", names(&explained.out_of_reach));
    }
    text
}
