//! Findings about a configuration, each with its place and what to type instead.

use std::fmt;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};
use serde::Serialize;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The region does not start.
    Error,
    /// The region starts, and somebody should look at this.
    Warning,
    /// What the set-up cannot do, said so that it surprises nobody.
    Notice,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
        }
    }
}

/// A place in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Location {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In characters, within the line, at least 1.
    pub length: usize,
    #[serde(skip)]
    pub(crate) offset: usize,
    #[serde(skip)]
    pub(crate) bytes: usize,
}

impl Location {
    /// The place of a byte range of `text`, cut to its first line.
    pub(crate) fn of(text: &str, start: usize, end: usize) -> Self {
        let start = floor_boundary(text, start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let end = floor_boundary(text, end).clamp(start, line_end);
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            length: text[start..end].chars().count().max(1),
            offset: start,
            bytes: end - start,
        }
    }
}

fn floor_boundary(text: &str, mut index: usize) -> usize {
    index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The key that it is about, as `mesh.regions[1].address`; empty for the file as a whole.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to type instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Where it stands; none when it stands nowhere, or in the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// The environment variable that the value came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
}

impl Finding {
    pub(crate) fn new(severity: Severity, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity, key: key.into(), message: message.into(), help: None, location: None, variable: None }
    }

    pub(crate) fn error(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, key, message)
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// A line that holds a secret is named and not shown.
    fn shows_source(&self) -> bool {
        !self.key.ends_with("secret")
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Finding {}

impl Diagnostic for Finding {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
            Severity::Notice => miette::Severity::Advice,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let location = self.location.as_ref().filter(|_| self.shows_source())?;
        let span = LabeledSpan::new(Some("here".to_owned()), location.offset, location.bytes);
        Some(Box::new(std::iter::once(span)))
    }
}

/// All findings about one configuration file; what `hearth config check` prints.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// The file as it was named.
    pub path: PathBuf,
    /// Errors first, then by place.
    pub findings: Vec<Finding>,
    #[serde(skip)]
    source: String,
}

impl CheckReport {
    pub(crate) fn new(path: &Path, source: String, mut findings: Vec<Finding>) -> Self {
        let place = |finding: &Finding| finding.location.as_ref().map_or(usize::MAX, |location| location.offset);
        findings.sort_by_key(|finding| (finding.severity, place(finding)));
        Self { path: path.to_owned(), findings, source }
    }

    /// Whether a region would refuse to start; decides the exit code.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// The number of findings of one severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// All findings as text: `path:line:column: error: …`, the line with the value underlined, and
    /// `help: …`; the counts last.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            self.render_finding(&mut text, finding);
        }
        text.push_str(&self.summary());
        text.push('\n');
        text
    }

    /// One line with the counts, as `region.toml: 2 errors, 1 warning`.
    #[must_use]
    pub fn summary(&self) -> String {
        let counts: Vec<String> = [Severity::Error, Severity::Warning, Severity::Notice]
            .into_iter()
            .filter_map(|severity| match self.count(severity) {
                0 => None,
                1 => Some(format!("1 {}", severity.word())),
                count => Some(format!("{count} {}s", severity.word())),
            })
            .collect();
        let counts = if counts.is_empty() { "no findings".to_owned() } else { counts.join(", ") };
        format!("{}: {counts}", self.path.display())
    }

    fn render_finding(&self, text: &mut String, finding: &Finding) {
        let place = match (&finding.location, &finding.variable) {
            (Some(location), _) => format!("{}:{}:{}", self.path.display(), location.line, location.column),
            (None, Some(variable)) => format!("environment variable {variable}"),
            (None, None) => self.path.display().to_string(),
        };
        push_line(text, format_args!("{place}: {}: {}", finding.severity.word(), finding.message));
        if let Some(location) = finding.location.as_ref().filter(|_| finding.shows_source()) {
            self.render_source(text, location);
        }
        if let Some(help) = &finding.help {
            push_line(text, format_args!("  help: {}", help.replace('\n', "\n        ")));
        }
        text.push('\n');
    }

    fn render_source(&self, text: &mut String, location: &Location) {
        let line = self.source.lines().nth(location.line - 1).unwrap_or_default();
        let number = location.line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs stay tabs, so that the underline stands below its value in every terminal.
        let indent: String =
            line.chars().take(location.column - 1).map(|it| if it == '\t' { '\t' } else { ' ' }).collect();
        push_line(text, format_args!("  {margin} |"));
        push_line(text, format_args!("  {number} | {line}"));
        push_line(text, format_args!("  {margin} | {indent}{}", "^".repeat(location.length)));
    }
}

fn push_line(text: &mut String, line: fmt::Arguments<'_>) {
    text.write_fmt(line).expect("writing to a String cannot fail");
    text.push('\n');
}

/// Why a configuration was refused: at least one finding is an error.
pub struct ConfigError {
    report: Box<CheckReport>,
    source: NamedSource<String>,
}

impl ConfigError {
    pub(crate) fn new(report: CheckReport) -> Self {
        let source = NamedSource::new(report.path.display().to_string(), report.source.clone());
        Self { report: Box::new(report), source }
    }

    /// All findings.
    #[must_use]
    pub fn report(&self) -> &CheckReport {
        &self.report
    }

    /// All findings as text; see [`CheckReport::render`].
    #[must_use]
    pub fn render(&self) -> String {
        self.report.render()
    }
}

/// The source may hold a secret and is not shown.
impl fmt::Debug for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ConfigError").field("findings", &self.report.findings).finish_non_exhaustive()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.report.summary())
    }
}

impl std::error::Error for ConfigError {}

impl Diagnostic for ConfigError {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.report.findings.iter().map(|finding| finding as &dyn Diagnostic)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_counts_characters_and_stays_within_its_line() {
        let text = "a = 1\nname = \"é\" # x\n";
        let start = text.find("\"é").unwrap();
        let location = Location::of(text, start, text.len());
        assert_eq!((location.line, location.column, location.length), (2, 8, 7));
        let end = Location::of(text, text.len(), text.len() + 9);
        assert_eq!((end.line, end.column, end.length), (3, 1, 1));
    }
}
