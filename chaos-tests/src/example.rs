//! How the examples that measure end.

use std::process::ExitCode;

/// Prints the help, or what is wrong with the arguments, or measures. 0 when what was measured is as promised or help
/// was asked for, 1 when it is not or could not be measured, 64 for arguments.
pub async fn example<A>(
    help: &str,
    asked: Result<Option<A>, String>,
    measure: impl AsyncFnOnce(A) -> Result<bool, String>,
) -> ExitCode {
    let asked = match asked {
        Ok(Some(asked)) => asked,
        Ok(None) => {
            println!("{help}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}: see --help");
            return ExitCode::from(64);
        }
    };
    match measure(asked).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(1)
        }
    }
}
