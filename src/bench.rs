//! `hearth bench` and `hearth bench compare`.

use std::process::ExitCode;

use hearth_client::bench::{BenchError, BenchOptions, BenchStores, CompareError, CompareOptions};
use hearth_mesh::HAS_SERVERS;

use crate::arguments::{BenchArguments, BenchVerb, CompareArguments, Stores};
use crate::output;

/// A median that is above the limit, or a run that did not hold.
const NOT_HELD: u8 = 1;
/// A binary that cannot be used.
const USAGE: u8 = 2;
/// Fewer pairs than these are a trial.
const PAIRS_THAT_COUNT: u64 = 10;

/// Measures. Exit code 1 when a run did not hold: a message missing or twice, or acks that did not wait for the disk.
pub(crate) async fn bench(arguments: BenchArguments) -> ExitCode {
    if let Some(BenchVerb::Compare(arguments)) = arguments.verb {
        return compare(arguments).await;
    }
    let json = arguments.json;
    if arguments.stores.contains(&Stores::Production) && !HAS_SERVERS {
        let hint =
            "build it with them: cargo run --release --features production -- bench --stores embedded,production";
        return output::failure(USAGE, "--stores production: this build has no adapters of servers", hint, json);
    }
    let stores = |stores: Stores| match stores {
        Stores::Embedded => BenchStores::Embedded,
        Stores::Production => BenchStores::Production,
    };
    let options = BenchOptions {
        stores: arguments.stores.into_iter().map(stores).collect(),
        scenarios: arguments.scenario,
        sessions: usize::try_from(arguments.sessions).unwrap_or(10_000),
        seconds: arguments.seconds,
        warm_up_seconds: arguments.warm_up,
        three_regions: !arguments.one_region,
        json,
        data: arguments.data.unwrap_or_else(std::env::temp_dir),
        ..BenchOptions::default()
    };
    match hearth_client::bench::bench(options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_HELD),
        Err(error) => {
            let code = if matches!(error, BenchError::Scenario { .. }) { USAGE } else { 70 };
            output::failure(code, &error.to_string(), "see `hearth bench --help`", json)
        }
    }
}

/// Compares two binaries. Exit code 1 when a median is above the limit.
async fn compare(arguments: CompareArguments) -> ExitCode {
    let json = arguments.json;
    if !(arguments.limit.is_finite() && arguments.limit > 0.0) {
        return output::failure(USAGE, "--limit has to be greater than 0", "type for example --limit 1.10", json);
    }
    if arguments.pairs < PAIRS_THAT_COUNT {
        output::note(&format!("{} pairs are a trial: type --pairs {PAIRS_THAT_COUNT} or more", arguments.pairs));
    }
    let options = CompareOptions {
        old: arguments.old,
        new: arguments.new,
        pairs: usize::try_from(arguments.pairs).unwrap_or(usize::MAX),
        scenarios: arguments.scenario,
        seconds: arguments.seconds,
        warm_up_seconds: arguments.warm_up,
        one_region: arguments.one_region,
        limit: arguments.limit,
        data: arguments.data.unwrap_or_else(std::env::temp_dir),
    };
    match hearth_client::bench::compare(&options).await {
        Ok(comparison) => {
            if json {
                match serde_json::to_string(&comparison) {
                    Ok(text) => output::line(&text),
                    Err(error) => return output::failure(70, &error.to_string(), "this is a fault of hearth", json),
                }
            } else {
                output::line(comparison.table().trim_end());
            }
            if comparison.within { ExitCode::SUCCESS } else { ExitCode::from(NOT_HELD) }
        }
        Err(error) => {
            let (code, hint) = match &error {
                CompareError::NotRun { .. } | CompareError::NotHearth { .. } => {
                    (USAGE, "name two hearth binaries: hearth bench compare OLD NEW")
                }
                CompareError::NoBench { .. } => (USAGE, "name a binary that knows `hearth bench --json --scenario`"),
                CompareError::NothingInCommon => (70, "name a --scenario that both know"),
                CompareError::Failed { .. } => (70, "run that binary's `hearth bench` by hand to see more"),
            };
            output::failure(code, &error.to_string(), hint, json)
        }
    }
}
