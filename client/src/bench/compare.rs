//! `hearth bench compare OLD NEW`: two binaries by turns, judged by the server's CPU time for 1,000 messages.
//!
//! Each binary runs its **own** `hearth bench --json`, so that one of the two may be older than this command. A pair is
//! one run of each, one right after the other, and which goes first alternates: what the machine does slowly meanwhile
//! (heat, a fuller disk, a neighbour) hits both alike and leaves their ratio.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::median::Median;

/// Runs that did not hold, or showed nothing, are made again so often before it is given up.
const MADE_AGAIN: usize = 5;
/// Lines of a failed binary's standard error that are told.
const LINES_TOLD: usize = 3;

/// What `hearth bench compare` was asked for.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// The binary that is compared with.
    pub old: PathBuf,
    /// The binary that is judged.
    pub new: PathBuf,
    /// Pairs of runs, 1 or more; below 6 their interval is not one of 95 %.
    pub pairs: usize,
    /// Scenarios of each run, as `hearth bench` knows them.
    pub scenarios: Vec<String>,
    /// How long each load is measured, in seconds.
    pub seconds: u64,
    /// How long it warms up before, in seconds.
    pub warm_up_seconds: u64,
    /// Leave out runs on three regions.
    pub one_region: bool,
    /// The greatest median of NEW's CPU time divided by OLD's that is within.
    pub limit: f64,
    /// Where servers' data go.
    pub data: PathBuf,
}

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A binary cannot be run.
    #[error("{path} cannot be run: {what}")]
    NotRun {
        /// As given.
        path: String,
        /// What the system says.
        what: String,
    },
    /// A binary is something else.
    #[error("{path} is not hearth: to --version it says {said:?}")]
    NotHearth {
        /// As given.
        path: String,
        /// The first line of its answer.
        said: String,
    },
    /// A binary is too old.
    #[error("{path} has no `bench` with --json and --scenario")]
    NoBench {
        /// As given.
        path: String,
    },
    /// A binary's run showed nothing, again and again.
    #[error("{path}: {what}")]
    Failed {
        /// As given.
        path: String,
        /// What the last run said.
        what: String,
    },
    /// The two measured nothing in common.
    #[error("the two binaries have no run in common")]
    NothingInCommon,
}

/// What a bench of any age tells of one run.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    scenario: String,
    regions: usize,
    load: String,
    server_cpu_ms_per_thousand: f64,
}

/// What a bench of any age tells.
#[derive(Clone, Debug, Deserialize)]
struct Told {
    #[serde(default)]
    runs: Vec<Run>,
    #[serde(default)]
    held: bool,
    #[serde(default)]
    message: Option<String>,
}

/// A kind of run: scenario, regions, load.
type Kind = (String, usize, String);
/// CPU milliseconds for 1,000 messages by kind.
type Measured = BTreeMap<Kind, f64>;

/// One kind of run over all pairs.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// As in `hearth bench`.
    pub scenario: String,
    /// How many regions the mesh had.
    pub regions: usize,
    /// `full`, `half` or `even`.
    pub load: String,
    /// OLD's CPU milliseconds for 1,000 messages, by pair.
    pub old_ms_per_thousand: Vec<f64>,
    /// NEW's.
    pub new_ms_per_thousand: Vec<f64>,
    /// NEW's divided by OLD's, by pair.
    pub ratios: Vec<f64>,
    /// Their median and its interval.
    #[serde(flatten)]
    pub median: Median,
    /// Whether the median is within the limit.
    pub within: bool,
}

/// What was compared.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// The binary that was compared with.
    pub old: PathBuf,
    /// The binary that was judged.
    pub new: PathBuf,
    /// Pairs that count.
    pub pairs: usize,
    /// Runs that did not hold and were made again.
    pub made_again: usize,
    /// One for each scenario, number of regions and load.
    pub rows: Vec<Row>,
    /// What the medians were judged by.
    pub limit: f64,
    /// Whether every row is within.
    pub within: bool,
}

/// Compares two binaries; progress goes to standard error.
///
/// # Errors
/// [`CompareError`] when a binary cannot be used, or shows nothing.
pub async fn compare(options: &CompareOptions) -> Result<Comparison, CompareError> {
    let (old, new) = (Binary::check(&options.old).await?, Binary::check(&options.new).await?);
    let mut pairs = Vec::new();
    let mut made_again = 0;
    while pairs.len() < options.pairs {
        let number = pairs.len();
        let old_first = number.is_multiple_of(2);
        let (first, second) = if old_first { (&old, &new) } else { (&new, &old) };
        let results = match first.run(options).await {
            Ok(one) => second.run(options).await.map(|other| if old_first { (one, other) } else { (other, one) }),
            Err(error) => Err(error),
        };
        match results {
            Ok(pair) => {
                eprintln!("{}", progress(number + 1, options.pairs, old_first, &pair));
                pairs.push(pair);
            }
            Err(error) if made_again < MADE_AGAIN => {
                made_again += 1;
                eprintln!("pair {} of {} is made again: {error}", number + 1, options.pairs);
            }
            Err(error) => return Err(error),
        }
    }
    judge(options, &pairs, made_again)
}

fn progress(number: usize, of: usize, old_first: bool, (old, new): &(Measured, Measured)) -> String {
    let ratios: Vec<String> = old
        .iter()
        .filter_map(|(kind, before)| {
            let after = new.get(kind)?;
            Some(format!("{} {before:.1} -> {after:.1} ms (x {:.3})", name(kind), after / before))
        })
        .collect();
    format!("pair {number} of {of}, {} first: {}", if old_first { "OLD" } else { "NEW" }, ratios.join(", "))
}

fn name((scenario, regions, load): &Kind) -> String {
    format!("{scenario}/{regions} {load}")
}

/// Judges each kind of run that both binaries have in every pair.
fn judge(
    options: &CompareOptions,
    pairs: &[(Measured, Measured)],
    made_again: usize,
) -> Result<Comparison, CompareError> {
    let kinds = pairs.first().map(|(old, _)| old.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut rows = Vec::new();
    for kind in kinds {
        let both: Option<Vec<(f64, f64)>> =
            pairs.iter().map(|(old, new)| Some((*old.get(&kind)?, *new.get(&kind)?))).collect();
        let Some(both) = both else { continue };
        let (old, new): (Vec<f64>, Vec<f64>) = both.into_iter().unzip();
        let ratios: Vec<f64> = old.iter().zip(&new).map(|(old, new)| new / old).collect();
        let Some(median) = Median::of(&ratios) else { continue };
        let within = median.median <= options.limit;
        let (scenario, regions, load) = kind;
        rows.push(Row {
            scenario,
            regions,
            load,
            old_ms_per_thousand: old,
            new_ms_per_thousand: new,
            ratios,
            median,
            within,
        });
    }
    if rows.is_empty() {
        return Err(CompareError::NothingInCommon);
    }
    Ok(Comparison {
        old: options.old.clone(),
        new: options.new.clone(),
        pairs: pairs.len(),
        made_again,
        within: rows.iter().all(|row| row.within),
        rows,
        limit: options.limit,
    })
}

impl Comparison {
    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "server CPU for 1,000 messages, {} pairs; OLD {}, NEW {}\n\n{:<6}{:>8}{:>6}{:>10}{:>10}{:>9}  {:<24}{}\n",
            self.pairs,
            self.old.display(),
            self.new.display(),
            "run",
            "regions",
            "load",
            "OLD ms",
            "NEW ms",
            "ratio",
            "interval",
            "verdict"
        );
        for row in &self.rows {
            let middle = |values: &[f64]| Median::of(values).map_or(f64::NAN, |median| median.median);
            let Median { median, low, high, confidence } = row.median;
            let interval = format!("{low:.3} to {high:.3} ({:.1} %)", confidence * 100.0);
            text.push_str(&format!(
                "{:<6}{:>8}{:>6}{:>10.1}{:>10.1}{median:>9.3}  {interval:<24}{}\n",
                row.scenario,
                row.regions,
                row.load,
                middle(&row.old_ms_per_thousand),
                middle(&row.new_ms_per_thousand),
                if row.within { "within" } else { "ABOVE" },
            ));
        }
        text.push_str(&format!(
            "\nratio: median of the pairs' NEW / OLD, at most {} is within; interval: between order statistics of the \
             ratios, by the binomial\ndistribution (Conover, Practical Nonparametric Statistics, 3.2). OLD and NEW: \
             medians of their own.\n",
            self.limit
        ));
        if self.made_again > 0 {
            text.push_str(&format!("{} pairs were made again, since a run in them did not hold\n", self.made_again));
        }
        text
    }
}

/// A binary that is hearth and has a bench.
#[derive(Debug)]
struct Binary {
    path: PathBuf,
}

impl Binary {
    async fn check(path: &Path) -> Result<Self, CompareError> {
        let shown = path.display().to_string();
        if !path.is_file() {
            return Err(CompareError::NotRun { path: shown, what: "there is no such file".to_owned() });
        }
        // A path without a folder would be looked for among the system's programs.
        let path = path
            .canonicalize()
            .map_err(|error| CompareError::NotRun { path: shown.clone(), what: error.to_string() })?;
        let binary = Self { path };
        let (_, said) = binary.output(&["--version".to_owned()]).await?;
        let said = String::from_utf8_lossy(&said.0).lines().next().unwrap_or_default().to_owned();
        if !said.starts_with("hearth ") {
            return Err(CompareError::NotHearth { path: shown, said });
        }
        let (fine, (help, _)) = binary.output(&["bench".to_owned(), "--help".to_owned()]).await?;
        let help = String::from_utf8_lossy(&help);
        if !fine || !["--json", "--scenario"].iter().all(|flag| help.contains(flag)) {
            return Err(CompareError::NoBench { path: shown });
        }
        Ok(binary)
    }

    /// One `bench --json` of this binary over its own server.
    async fn run(&self, options: &CompareOptions) -> Result<Measured, CompareError> {
        let failed = |what: String| CompareError::Failed { path: self.path.display().to_string(), what };
        let (seconds, warm_up) = (options.seconds.to_string(), options.warm_up_seconds.to_string());
        let mut arguments: Vec<String> =
            ["bench", "--json", "--seconds", &seconds, "--warm-up", &warm_up].map(str::to_owned).to_vec();
        arguments.extend(["--data".to_owned(), options.data.display().to_string()]);
        if !options.scenarios.is_empty() {
            arguments.extend(["--scenario".to_owned(), options.scenarios.join(",")]);
        }
        if options.one_region {
            arguments.push("--one-region".to_owned());
        }
        let (_, (line, errors)) = self.output(&arguments).await?;
        let told: Option<Told> = serde_json::from_slice(&line).ok();
        let Some(told) = told else {
            let errors = String::from_utf8_lossy(&errors);
            let mut last: Vec<&str> = errors.lines().rev().take(LINES_TOLD).collect();
            last.reverse();
            return Err(failed(format!("its bench ended without a report: {}", last.join("; "))));
        };
        if let Some(message) = told.message.filter(|_| told.runs.is_empty()) {
            return Err(failed(message));
        }
        if !told.held {
            return Err(failed("a run of its bench did not hold".to_owned()));
        }
        let measured = told.runs.into_iter();
        let measured: Measured = measured
            .filter(|run| run.server_cpu_ms_per_thousand > 0.0)
            .map(|run| ((run.scenario, run.regions, run.load), run.server_cpu_ms_per_thousand))
            .collect();
        if measured.is_empty() {
            return Err(failed("its bench measured no CPU time".to_owned()));
        }
        Ok(measured)
    }

    /// Whether it ended well, and what it wrote to standard output and standard error.
    async fn output(&self, arguments: &[String]) -> Result<(bool, (Vec<u8>, Vec<u8>)), CompareError> {
        let output = Command::new(&self.path).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await;
        let output = output
            .map_err(|error| CompareError::NotRun { path: self.path.display().to_string(), what: error.to_string() })?;
        Ok((output.status.success(), (output.stdout, output.stderr)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn options(old: &Path, new: &Path) -> CompareOptions {
        CompareOptions {
            old: old.to_owned(),
            new: new.to_owned(),
            pairs: 10,
            scenarios: vec!["a16".to_owned()],
            seconds: 1,
            warm_up_seconds: 0,
            one_region: true,
            limit: 1.1,
            data: std::env::temp_dir(),
        }
    }

    /// A folder for the scripts of one test, which stand in for binaries.
    fn folder(test: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("hearth-compare-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    /// A script that writes its name into `order` and gives the report that `bench --json` would.
    fn stand_in(folder: &Path, name: &str, cpu: &str) -> PathBuf {
        let path = folder.join(name);
        let text = format!(
            "#!/bin/sh\ncase \"$*\" in\n--version) echo hearth 0.1.0;;\n*--help) echo --json --scenario;;\n\
             *) echo {name} >> {}/order; n=$(grep -c {name} {0}/order); echo \"running\" >&2\n\
             echo \"{{\\\"runs\\\":[{{\\\"scenario\\\":\\\"a16\\\",\\\"regions\\\":1,\\\"load\\\":\\\"full\\\",\
             \\\"serverCpuMsPerThousand\\\":{cpu},\\\"other\\\":1}}],\\\"held\\\":true}}\";;\nesac\n",
            folder.display()
        );
        write_script(&path, &text);
        path
    }

    /// Writes through a process of its own: what a test beside this one forks meanwhile would inherit a file that is
    /// open for writing here, and to run that file is then refused as busy.
    fn write_script(path: &Path, text: &str) {
        let mut writer = std::process::Command::new("sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        writer.stdin.take().expect("its input").write_all(text.as_bytes()).expect("a script");
        assert!(writer.wait().expect("its end").success());
    }

    #[tokio::test]
    async fn pairs_alternate_and_the_median_of_their_ratios_decides() {
        let folder = folder("pairs");
        let (old, new) = (stand_in(&folder, "old", "$((20 + n))"), stand_in(&folder, "new", "$((20 + n)).84"));
        let comparison = compare(&options(&old, &new)).await.expect("a comparison");
        let order = std::fs::read_to_string(folder.join("order")).expect("the order");
        assert_eq!(order, "old\nnew\nnew\nold\n".repeat(5));
        let row = &comparison.rows[0];
        assert!(comparison.within && row.ratios.len() == 10, "{comparison:?}");
        assert!(row.median.low > 1.02 && row.median.high < 1.05 && row.median.confidence > 0.95, "{row:?}");
        let strict = CompareOptions { limit: 1.01, pairs: 2, ..options(&old, &new) };
        let comparison = compare(&strict).await.expect("a comparison");
        assert!(!comparison.within && comparison.table().contains("ABOVE"), "{}", comparison.table());
        std::fs::remove_dir_all(folder).expect("removed");
    }

    #[tokio::test]
    async fn a_pair_with_a_run_that_did_not_hold_is_made_again_and_at_last_given_up() {
        let folder = folder("again");
        let (old, new) = (stand_in(&folder, "old", "20"), stand_in(&folder, "new", "21"));
        let text = std::fs::read_to_string(&new).expect("the script");
        let broken = |times: &str| text.replace("echo \"running\"", &format!("[ $n -gt {times} ] || exit 1; echo"));
        write_script(&new, &broken("2"));
        let comparison = compare(&options(&old, &new)).await.expect("a comparison");
        assert_eq!((comparison.pairs, comparison.made_again), (10, 2));
        write_script(&new, &broken("100"));
        let error = compare(&options(&old, &new)).await.expect_err("it never holds");
        assert!(error.to_string().contains("without a report"), "{error}");
        std::fs::remove_dir_all(folder).expect("removed");
    }

    #[tokio::test]
    async fn what_is_missing_is_not_hearth_or_has_no_bench_is_said_before_anything_runs() {
        let folder = folder("errors");
        let good = stand_in(&folder, "good", "20");
        let missing = compare(&options(&good, &folder.join("none"))).await.expect_err("missing");
        assert!(matches!(missing, CompareError::NotRun { .. }), "{missing}");
        let other = compare(&options(Path::new("/bin/true"), &good)).await.expect_err("not hearth");
        assert!(matches!(other, CompareError::NotHearth { .. }), "{other}");
        let text = std::fs::read_to_string(&good).expect("the script").replace("--json --scenario", "usage");
        write_script(&good, &text);
        let old = compare(&options(&good, &good)).await.expect_err("no bench");
        assert!(matches!(old, CompareError::NoBench { .. }), "{old}");
        assert!(!folder.join("order").exists(), "nothing ran");
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
