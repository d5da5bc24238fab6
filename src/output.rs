//! What goes to standard output and standard error.

use std::io::Write;
use std::process::ExitCode;

/// Prints a line to standard output. A reader that went away is no fault.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints a line for people to standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Says what failed and what to type: for people on standard error, with `--json` one line on standard output.
pub(crate) fn failure(code: u8, message: &str, hint: &str, json: bool) -> ExitCode {
    if json {
        line(&serde_json::json!({ "error": code, "message": message, "hint": hint }).to_string());
    } else {
        note(&format!("error: {message}\n help: {hint}"));
    }
    ExitCode::from(code)
}
