//! A configuration file as a tree that remembers where each key and value stands, with the environment
//! laid over it, and read into structures with every error placed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use crate::explain;
use crate::limits::Limits;
use crate::media::MediaSection;
use crate::model::{
    AdministrationSection, AuthSection, DrainSection, FailoverSection, ListenSection, LogSection, MeshSection,
    RegionConfig, RegionSection, ReplicationSection,
};
use crate::push::PushSection;
use crate::report::{Finding, Location};
use crate::store::StoreSection;

/// Names of environment variables that override keys start so: `HEARTH__SECTION__KEY`.
pub(crate) const PREFIX: &str = "HEARTH__";

/// An upper bound of structural findings; each one takes a part of the tree away, so the loop ends
/// before.
const MOST_FINDINGS: usize = 100;

/// An upper bound of the steps in the name of an override; no key lies as deep.
const MOST_STEPS: usize = 16;

/// Every section optional, so that a missing one is one finding and not the end of the reading.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sections {
    region: Option<RegionSection>,
    mesh: Option<MeshSection>,
    listen: Option<ListenSection>,
    #[serde(default)]
    auth: AuthSection,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    replication: ReplicationSection,
    #[serde(default)]
    failover: FailoverSection,
    #[serde(default)]
    administration: AdministrationSection,
    #[serde(default)]
    drain: DrainSection,
    #[serde(default)]
    store: StoreSection,
    #[serde(default)]
    push: PushSection,
    #[serde(default)]
    media: MediaSection,
    #[serde(default)]
    log: LogSection,
}

/// Where one key stands.
#[derive(Debug, Clone)]
struct Place {
    key: Range<usize>,
    value: Range<usize>,
    is_table: bool,
    variable: Option<String>,
}

/// The places of all keys by their paths, as `mesh.regions[1].address`.
#[derive(Debug, Default)]
pub(crate) struct Places {
    places: BTreeMap<String, Place>,
}

impl Places {
    /// Gives the finding its location: of its key's value, or of the nearest table above it.
    pub(crate) fn locate(&self, text: &str, finding: &mut Finding) {
        let mut path = finding.key.as_str();
        while !path.is_empty() {
            if let Some(place) = self.places.get(path) {
                finding.variable.clone_from(&place.variable);
                if place.variable.is_none() {
                    let range = if place.is_table { &place.key } else { &place.value };
                    finding.location = Some(Location::of(text, range.start, range.end));
                }
                return;
            }
            path = parent(path);
        }
    }

    /// Keys whose value stands in the file itself and whose name is `secret` or ends so.
    pub(crate) fn secrets_in_file(&self) -> Vec<String> {
        let is_secret = |path: &str, place: &Place| path.ends_with("secret") && place.variable.is_none();
        self.places.iter().filter(|(path, place)| is_secret(path, place)).map(|(path, _)| path.clone()).collect()
    }

    /// The path of the innermost key whose name or value covers an error's range.
    fn path_at(&self, range: &Range<usize>) -> Option<String> {
        let covers = |outer: &Range<usize>| outer.start <= range.start && range.end <= outer.end;
        self.places
            .iter()
            .filter(|(_, place)| covers(&place.key) || covers(&place.value))
            .min_by_key(|(path, place)| {
                let tightest = [&place.key, &place.value].into_iter().filter(|it| covers(it)).map(Range::len).min();
                (tightest, std::cmp::Reverse(path.len()))
            })
            .map(|(path, _)| path.clone())
    }

    fn add_table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let path =
                if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
            self.add_value(path, key.span(), value);
        }
    }

    fn add_value(&mut self, path: String, key: Range<usize>, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => self.add_table(&path, table),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.add_value(format!("{path}[{index}]"), item.span(), item);
                }
            }
            _ => {}
        }
        let is_table = matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_));
        self.places.insert(path, Place { key, value: value.span(), is_table, variable: None });
    }
}

/// What reading gave.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The configuration; none when a section that has no default is missing or broken.
    pub(crate) config: Option<RegionConfig>,
    /// What is wrong with the form, located.
    pub(crate) findings: Vec<Finding>,
    /// Sections of which something was left out because of a finding.
    pub(crate) damaged: BTreeSet<String>,
    /// Where everything stands.
    pub(crate) places: Places,
}

/// Reads `text` with `environment` laid over it.
pub(crate) fn read(text: &str, environment: &[(String, String)]) -> Reading {
    let (mut tree, syntax_errors) = DeTable::parse_recoverable(text);
    if !syntax_errors.is_empty() {
        return unreadable(text, &syntax_errors);
    }
    let mut places = Places::default();
    places.add_table("", tree.get_ref());
    let mut reader = Reader { text, places, findings: Vec::new(), damaged: BTreeSet::new(), removed: BTreeSet::new() };
    reader.lay_over(tree.get_mut(), environment);
    let config = reader.deserialize(tree).and_then(|sections| reader.assemble(sections));
    Reading { config, findings: reader.findings, damaged: reader.damaged, places: reader.places }
}

fn unreadable(text: &str, errors: &[toml::de::Error]) -> Reading {
    let finding = |error: &toml::de::Error| {
        let mut finding = Finding::error("", format!("this is not TOML: {}", error.message()));
        finding.location = error.span().map(|span| Location::of(text, span.start, span.end));
        finding.help("a line is `key = value` or `[section]`; texts stand in double quotes")
    };
    let mut findings: Vec<Finding> = errors.iter().take(MOST_FINDINGS).map(finding).collect();
    // The rest of a line that cannot be read is an error after the error.
    findings.dedup_by_key(|finding| finding.location.as_ref().map(|location| location.line));
    Reading { config: None, findings, damaged: BTreeSet::new(), places: Places::default() }
}

struct Reader<'a> {
    text: &'a str,
    places: Places,
    findings: Vec<Finding>,
    damaged: BTreeSet<String>,
    removed: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    /// Each override, and each table made for one, gets a range of its own behind the end of the file,
    /// so that an error about it is found by range like any other.
    fn lay_over(&mut self, tree: &mut DeTable<'a>, environment: &'a [(String, String)]) {
        for (index, (variable, value)) in environment.iter().enumerate() {
            let Some(name) = variable.strip_prefix(PREFIX) else {
                continue;
            };
            let steps: Vec<String> = name.split("__").map(str::to_ascii_lowercase).collect();
            let start = self.text.len() + 1 + index * MOST_STEPS;
            match (steps.len() <= MOST_STEPS).then(|| set(tree, &steps, value, start)).flatten() {
                Some(made) => self.add_override(variable, &made),
                None => {
                    let mut finding = Finding::error("", "this names no key of the configuration")
                        .help("name it HEARTH__SECTION__KEY, as HEARTH__LIMITS__SESSIONS; entries of lists that the file has by their number from 0");
                    finding.variable = Some(variable.clone());
                    self.findings.push(finding);
                }
            }
        }
    }

    fn add_override(&mut self, variable: &str, made: &[(String, Range<usize>)]) {
        for (path, range) in made {
            let is_table = made.first().is_some_and(|(value, _)| value != path);
            let place =
                Place { key: range.clone(), value: range.clone(), is_table, variable: Some(variable.to_owned()) };
            self.places.places.insert(path.clone(), place);
        }
    }

    /// Reads again after each error without the part that was wrong, so that all are told at once.
    fn deserialize(&mut self, mut tree: Spanned<DeTable<'a>>) -> Option<Sections> {
        for _ in 0..MOST_FINDINGS {
            let error = match Sections::deserialize(Deserializer::from(tree.clone())) {
                Ok(sections) => return Some(sections),
                Err(error) => error,
            };
            let path = error.span().and_then(|span| self.places.path_at(&span));
            let Some(path) = path else {
                self.findings.push(Finding::error("", error.message()));
                return None;
            };
            if self.retry_as_text(tree.get_mut(), &path) {
                continue;
            }
            self.record(&path, error.message());
            let removable = without_index(&path);
            remove(tree.get_mut(), &split(removable))?;
            if !explain::is_about_the_key(error.message()) {
                self.damaged.insert(section_of(&path).to_owned());
            }
            self.removed.insert(removable.to_owned());
        }
        None
    }

    /// An override is read as TOML first; where that is the wrong type, `HEARTH__REGION__NODE=7`, the
    /// characters themselves are meant.
    fn retry_as_text(&self, tree: &mut DeTable<'a>, path: &str) -> bool {
        let Some(value) = find(tree, &split(path)) else {
            return false;
        };
        let range = value.span();
        let is_override = self.places.places.get(path).is_some_and(|place| place.variable.is_some());
        if range.start <= self.text.len() || !is_override {
            return false;
        }
        let text = match value.get_ref() {
            DeValue::Integer(number) => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Boolean(flag) => flag.to_string(),
            DeValue::Datetime(instant) => instant.to_string(),
            _ => return false,
        };
        *value = Spanned::new(range, DeValue::String(text.into()));
        true
    }

    fn record(&mut self, path: &str, message: &str) {
        let missing = explain::missing_field(message);
        if missing.is_some_and(|field| self.removed.contains(&format!("{path}.{field}"))) {
            return;
        }
        let is_about_the_key = explain::is_about_the_key(message);
        let (message, help) = explain::explain(path, message);
        let mut finding = Finding::error(path, message).help(help);
        self.places.locate(self.text, &mut finding);
        if is_about_the_key && let Some(place) = self.places.places.get(path).filter(|place| place.variable.is_none()) {
            finding.location = Some(Location::of(self.text, place.key.start, place.key.end));
        }
        self.findings.push(finding);
    }

    fn assemble(&mut self, sections: Sections) -> Option<RegionConfig> {
        let present = [
            ("region", sections.region.is_some()),
            ("mesh", sections.mesh.is_some()),
            ("listen", sections.listen.is_some()),
        ];
        for (name, present) in present {
            if !present && !self.removed.contains(name) {
                let finding = Finding::error(name, format!("the section [{name}] is missing"));
                self.findings.push(finding.help(explain::section_help(name)));
            }
        }
        Some(RegionConfig {
            region: sections.region?,
            mesh: sections.mesh?,
            listen: sections.listen?,
            auth: sections.auth,
            limits: sections.limits,
            replication: sections.replication,
            failover: sections.failover,
            administration: sections.administration,
            drain: sections.drain,
            store: sections.store,
            push: sections.push,
            media: sections.media,
            log: sections.log,
        })
    }
}

/// Sets the value at `steps`; returns what was set and which tables were made for it, with the range
/// that each got from `start` on; none when the steps lead nowhere.
fn set<'a>(
    table: &mut DeTable<'a>,
    steps: &[String],
    text: &'a str,
    start: usize,
) -> Option<Vec<(String, Range<usize>)>> {
    let (step, rest) = steps.split_first()?;
    let range = start..start + 1;
    if step.is_empty() {
        return None;
    }
    if rest.is_empty() {
        let value = Spanned::new(range.clone(), parse_override(text, &range));
        // The key is replaced too, for an error about its name.
        table.remove(step.as_str());
        table.insert(Spanned::new(range.clone(), step.clone().into()), value);
        return Some(vec![(step.clone(), range)]);
    }
    let is_new = !table.contains_key(step.as_str());
    if is_new {
        let empty = Spanned::new(range.clone(), DeValue::Table(DeTable::new()));
        table.insert(Spanned::new(range.clone(), step.clone().into()), empty);
    }
    let mut made = set_within(table.get_mut(step.as_str())?.get_mut(), rest, text, start + 1)?;
    for (path, _) in &mut made {
        let dot = if path.starts_with('[') { "" } else { "." };
        *path = format!("{step}{dot}{path}");
    }
    if is_new {
        made.push((step.clone(), range));
    }
    Some(made)
}

fn set_within<'a>(
    value: &mut DeValue<'a>,
    steps: &[String],
    text: &'a str,
    start: usize,
) -> Option<Vec<(String, Range<usize>)>> {
    match value {
        DeValue::Table(inner) => set(inner, steps, text, start),
        DeValue::Array(items) => {
            let (index, rest) = steps.split_first()?;
            let index: usize = index.parse().ok()?;
            let DeValue::Table(inner) = items.get_mut(index)?.get_mut() else {
                return None;
            };
            let mut made = set(inner, rest, text, start + 1)?;
            for (path, _) in &mut made {
                *path = format!("[{index}].{path}");
            }
            Some(made)
        }
        _ => None,
    }
}

/// A number, flag or list is read as TOML; everything else is a text.
fn parse_override<'a>(text: &'a str, range: &Range<usize>) -> DeValue<'a> {
    match DeValue::parse(text) {
        Ok(value) => place_all(value.into_inner(), range),
        Err(_) => DeValue::String(text.into()),
    }
}

fn place_all<'a>(value: DeValue<'a>, range: &Range<usize>) -> DeValue<'a> {
    match value {
        DeValue::Array(items) => DeValue::Array(
            items.into_iter().map(|item| Spanned::new(range.clone(), place_all(item.into_inner(), range))).collect(),
        ),
        DeValue::Table(table) => DeValue::Table(
            table
                .into_iter()
                .map(|(key, item)| {
                    let item = Spanned::new(range.clone(), place_all(item.into_inner(), range));
                    (Spanned::new(range.clone(), key.into_inner()), item)
                })
                .collect(),
        ),
        other => other,
    }
}

/// The steps of a path: `mesh.regions[1].id` is `mesh`, `regions`, `1`, `id`.
fn split(path: &str) -> Vec<&str> {
    path.split(['.', '[']).map(|step| step.trim_end_matches(']')).collect()
}

/// The first step of a path.
pub(crate) fn section_of(path: &str) -> &str {
    path.split(['.', '[']).next().unwrap_or(path)
}

fn parent(path: &str) -> &str {
    path.rfind(['.', '[']).map_or("", |end| &path[..end])
}

fn find<'t, 'a>(table: &'t mut DeTable<'a>, steps: &[&str]) -> Option<&'t mut Spanned<DeValue<'a>>> {
    let (first, rest) = steps.split_first()?;
    let mut value = table.get_mut(*first)?;
    for step in rest {
        value = match value.get_mut() {
            DeValue::Table(inner) => inner.get_mut(*step)?,
            DeValue::Array(items) => items.get_mut(step.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(value)
}

/// Takes a key out of its table.
fn remove(table: &mut DeTable<'_>, steps: &[&str]) -> Option<()> {
    let (last, above) = steps.split_last()?;
    if above.is_empty() {
        return table.remove(*last).map(drop);
    }
    match find(table, above)?.get_mut() {
        DeValue::Table(inner) => inner.remove(*last).map(drop),
        _ => None,
    }
}

/// An entry of a list goes with its whole list, since taking it alone would renumber the others.
fn without_index(mut path: &str) -> &str {
    while path.ends_with(']') {
        path = parent(path);
    }
    path
}
