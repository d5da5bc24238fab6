//! The binary under test as a child process: `hearth dev` and `hearth serve` alike, and the short verbs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Longest wait for a ready line. The contract's times are measured by hand: a busy machine must not fail a story.
const READY: Duration = Duration::from_secs(40);
/// Longest wait for a process to end.
const END: Duration = Duration::from_secs(40);

/// The binary under test: `HEARTH`, or the one built beside this test.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn hearth() -> PathBuf {
    if let Some(path) = std::env::var_os("HEARTH") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("a test has a path");
    let binary = test.parent().and_then(Path::parent).expect("target/release/deps").join("hearth");
    assert!(binary.exists(), "{} is missing: run ./test, or cargo build --release", binary.display());
    binary
}

/// How a process ended.
#[derive(Debug)]
pub struct Exit {
    /// Its exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Exit {
    /// Standard output as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.out.trim()).unwrap_or(Value::Null)
    }
}

/// Runs the binary to its end.
///
/// # Panics
/// When it does not end within 40 s.
pub async fn run(arguments: &[&str]) -> Exit {
    let child = Command::new(hearth())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let ended = tokio::time::timeout(END, child.wait_with_output()).await;
    let output = ended.unwrap_or_else(|_| panic!("hearth {arguments:?} does not end")).expect("it runs");
    Exit {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a line of shell for what is around the binary: mounts, namespaces, archives.
///
/// # Panics
/// When it fails, with what it said.
pub fn shell(command: &str) {
    let output = std::process::Command::new("bash").args(["-ec", command]).output().expect("bash runs");
    assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Strings that no log may show: tokens and message texts.
pub type Secrets = Arc<Mutex<BTreeSet<String>>>;

/// Hides a string from logs: the story fails when one shows it.
///
/// # Panics
/// Never.
pub fn hide(secrets: &Secrets, text: &str) {
    secrets.lock().expect("no panic holds it").insert(text.to_owned());
}

/// All that was logged to a file, over all starts.
#[must_use]
pub fn log_of(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// # Panics
/// When a log shows a token, a text of a message or a panic.
pub fn check_log(log: &str, secrets: &Secrets) {
    for secret in secrets.lock().expect("no panic holds it").iter() {
        assert!(!log.contains(secret.as_str()), "a log shows a token or a text of {} bytes", secret.len());
    }
    assert!(!log.contains("panicked at"), "something panicked:\n{log}");
}

/// A server that said that it is ready.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the binary with these arguments and variables, and waits for its ready line. What it logs is added to
    /// `log`.
    ///
    /// # Errors
    /// Its exit code, when it ended instead.
    ///
    /// # Panics
    /// When it says nothing within 40 s.
    pub async fn start(
        arguments: &[String],
        environment: &[(String, String)],
        log: &Path,
    ) -> Result<(Self, Value), i32> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("a log file");
        let mut child = Command::new(hearth())
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = tokio::time::timeout(READY, lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("no ready line of hearth {arguments:?}\n{}", log_of(log)));
        let line: Value = serde_json::from_str(&line.expect("a pipe").unwrap_or_default()).unwrap_or(Value::Null);
        let mut process = Self { child, log: log.to_owned() };
        if line["ready"] == json!(true) { Ok((process, line)) } else { Err(process.wait().await) }
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id().expect("it runs")).expect("a process id")
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("a signal");
    }

    /// Waits for its end; its exit code, -1 after a signal.
    ///
    /// # Panics
    /// When it does not end within 40 s.
    pub async fn wait(&mut self) -> i32 {
        let ended = tokio::time::timeout(END, self.child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("the process does not end\n{}", log_of(&self.log)));
        status.expect("it ran").code().unwrap_or(-1)
    }
}
