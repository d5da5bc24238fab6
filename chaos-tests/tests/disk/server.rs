//! The shipped binary as a child process.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hearth_client::{Address, Endpoint};
use hearth_protocol::RegionId;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The binary: `HEARTH`, or the one that was built beside this test.
pub(crate) fn hearth() -> PathBuf {
    if let Some(path) = std::env::var_os("HEARTH") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("a test has a path");
    let release = test.parent().and_then(Path::parent).expect("target/release/deps").join("hearth");
    assert!(release.exists(), "{} is missing: run ./test, or cargo build --release", release.display());
    release
}

/// A running mesh or region.
pub(crate) struct Server {
    child: Child,
    pub(crate) regions: Vec<(RegionId, String, String)>,
}

impl Server {
    /// Starts `hearth dev` on a data folder. `env` are variables such as fail points.
    pub(crate) fn dev(data: &Path, regions: &str, env: &[(&str, &str)]) -> Self {
        Self::dev_with(data, regions, env, &["--port", "0"])
    }

    pub(crate) fn dev_with(data: &Path, regions: &str, env: &[(&str, &str)], more: &[&str]) -> Self {
        let mut command = Command::new(hearth());
        command.args(["dev", "--json", "--latency", "none", "--limits", "off", "--regions", regions]);
        command.arg("--data").arg(data).args(more).envs(env.iter().copied());
        let (child, ready) = spawn(command);
        let text = |row: &Value, name: &str| row[name].as_str().expect("a URL").to_owned();
        let regions = ready["regions"].as_array().expect("regions").iter().map(|row| {
            let id = RegionId::new(text(row, "id")).expect("a region");
            (id, text(row, "http"), text(row, "ws"))
        });
        Self { regions: regions.collect(), child }
    }

    pub(crate) fn http(&self, index: usize) -> &str {
        &self.regions[index].1
    }

    pub(crate) fn endpoint(&self, index: usize) -> Endpoint {
        let (region, http, ws) = self.regions[index].clone();
        Endpoint { region, address: Address { http, ws, webtransport: None } }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // A process that ended by itself needs no signal.
        let _ = kill(Pid::from_raw(pid), signal);
    }

    /// Stops it where it stands: it does nothing more until it is killed.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(crate) fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("a child");
    }

    /// Ends it as Ctrl-C does; the exit code.
    pub(crate) fn interrupt(mut self) -> Option<i32> {
        self.signal(Signal::SIGINT);
        self.child.wait().expect("a child").code()
    }

    /// Waits until it ended by itself; whether it did in time.
    pub(crate) fn ended_within(&mut self, within: Duration) -> bool {
        let until = Instant::now() + within;
        while Instant::now() < until {
            if self.child.try_wait().expect("a child").is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a command and reads its ready line.
pub(crate) fn spawn(mut command: Command) -> (Child, Value) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("hearth starts");
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    out.read_line(&mut line).expect("a line");
    let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("no ready line: {error}: {line:?}"));
    assert_eq!(ready["ready"], true, "{line}");
    (child, ready)
}

/// Runs a command and fails with its output when it fails.
pub(crate) fn run(command: &str) {
    let output = Command::new("bash").args(["-ec", command]).output().expect("bash runs");
    assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// A file system of its own in an image, mounted until dropped.
pub(crate) struct Image {
    pub(crate) file: PathBuf,
    pub(crate) mount: PathBuf,
}

impl Image {
    /// Makes an ext4 of this many MiB. Needs root, as CI and a container have it.
    pub(crate) fn make(folder: &Path, name: &str, mebibytes: u32) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "mounting an image needs root: run the tests as root");
        let file = folder.join(format!("{name}.img"));
        let image = file.display();
        run(&format!("truncate -s {mebibytes}M {image} && mkfs.ext4 -q -F {image}"));
        Self::mount(file, &folder.join(name))
    }

    pub(crate) fn mount(file: PathBuf, mount: &Path) -> Self {
        run(&format!("mkdir -p {0} && mount -o loop {1} {0}", mount.display(), file.display()));
        Self { file, mount: mount.to_owned() }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}
