//! What administration says, for people.

use std::fmt::Write as _;

use hearth_protocol::RegionId;
use hearth_protocol::admin::{AuditLine, FaultRow, HomeRow, NodeStatus, ParkedPage, Status};

/// Rows as columns, each as wide as its widest cell.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

pub(crate) fn head(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_uppercase()).collect()
}

pub(crate) fn status(status: &Status, nodes: &[&NodeStatus]) -> String {
    let names = [
        "region",
        "state",
        "slots",
        "map",
        "link",
        "round trip",
        "sessions",
        "homes",
        "logs",
        "parked",
        "losses",
        "lease",
        "",
    ];
    let mut rows = vec![head(&names)];
    for region in &status.regions {
        let node = nodes.iter().find(|node| node.region == region.region);
        let number =
            |count: fn(&NodeStatus) -> u64| node.map_or_else(|| "-".to_owned(), |node| count(node).to_string());
        let leads = status.map_leader.as_ref() == Some(&region.region);
        rows.push(vec![
            region.region.to_string(),
            region.state.clone(),
            region.slots.to_string(),
            if leads {
                "leads"
            } else if region.map_voter {
                "votes"
            } else {
                "learns"
            }
            .to_owned(),
            match region.link_up {
                None => "here".to_owned(),
                Some(true) => "up".to_owned(),
                Some(false) => "down".to_owned(),
            },
            region.round_trip_milliseconds.map_or_else(|| "-".to_owned(), |time| format!("{time} ms")),
            number(|node| node.sessions as u64),
            number(|node| node.homes),
            number(|node| node.logs),
            number(|node| node.parked),
            number(|node| node.losses),
            node.map_or_else(|| "-".to_owned(), |node| format!("{} ms", node.lease_milliseconds)),
            match node {
                None => "does not answer".to_owned(),
                Some(node) => node.not_ready.clone().unwrap_or_default(),
            },
        ]);
    }
    let seen = nodes.iter().find(|node| node.region == status.node.region).map_or("?", |node| node.region.as_str());
    format!("{}region map: version {}, links as seen from {seen}\n", table(&rows), status.map_version)
}

pub(crate) fn home(regions: &[HomeRow]) -> String {
    let Some(newest) = regions.iter().max_by_key(|row| row.epoch) else { return String::new() };
    let names = |regions: &[RegionId]| regions.iter().map(RegionId::as_str).collect::<Vec<_>>().join(", ");
    let allowed = newest.allowed_regions.as_deref().map_or_else(|| "all".to_owned(), names);
    let mut rows = vec![head(&["at", "home", "epoch", "entries", "shown", "accepted", "sealed", "still pulled"])];
    for row in regions {
        let mut cells = vec![row.region.to_string(), row.home.to_string(), row.epoch.to_string()];
        match &row.copy {
            None => cells.push("no copy".to_owned()),
            Some(copy) => cells.extend([
                copy.length.to_string(),
                copy.mark.to_string(),
                copy.accepted.to_string(),
                copy.sealed.to_string(),
                copy.open_ranges.iter().map(|(from, to)| to - from).sum::<u64>().to_string(),
            ]),
        }
        rows.push(cells);
    }
    format!(
        "{}: home {} at epoch {}, voters {}, level {}, out of reach: {}, allowed regions: {allowed}\n{}",
        newest.conversation,
        newest.home,
        newest.epoch,
        names(&newest.voters),
        newest.durability,
        newest.partition_mode,
        table(&rows)
    )
}

pub(crate) fn parked(pages: &[ParkedPage]) -> String {
    let mut rows = vec![head(&["at", "number", "conversation", "home", "sender", "message", "since", "refused"])];
    for page in pages {
        for send in &page.parked {
            rows.push(vec![
                page.region.to_string(),
                send.number.to_string(),
                send.conversation.to_string(),
                send.home.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string),
                send.sender.to_string(),
                send.message.to_string(),
                time(send.parked_at.0),
                send.refused.clone().unwrap_or_default(),
            ]);
        }
        if page.next.is_some() {
            rows.push(vec![page.region.to_string(), "…".to_owned(), "and more".to_owned()]);
        }
    }
    if rows.len() == 1 { "nothing is parked".to_owned() } else { table(&rows) }
}

pub(crate) fn audit(lines: &[(&RegionId, &AuditLine)]) -> String {
    if lines.is_empty() {
        return "no change was asked for".to_owned();
    }
    let mut rows = vec![head(&["when", "at", "who", "change", "state", "what", "result"])];
    for (region, line) in lines {
        rows.push(vec![
            time(line.at.0),
            region.to_string(),
            line.who.clone(),
            line.id.clone(),
            line.state.clone(),
            serde_json::to_string(&line.change).unwrap_or_default(),
            line.result.clone(),
        ]);
    }
    table(&rows)
}

pub(crate) fn fault(fault: &FaultRow) -> String {
    format!("{} at {}: {}\n  help: {}", fault.log, fault.sequence, fault.fault, fault.hint)
}

/// An instant for people, to the second.
pub(crate) fn time(milliseconds: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(milliseconds);
    humantime::format_rfc3339_seconds(time).to_string()
}
