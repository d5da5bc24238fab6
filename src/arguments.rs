//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A chat backend that runs in many regions at once: one order, honest acks.
#[derive(Debug, Parser)]
#[command(name = "hearth", version, about)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a mesh of regions on this machine, with real links between them.
    Dev(DevArguments),
    /// Run one region from a configuration file.
    Serve(ServeArguments),
    /// Look at configuration files.
    Config(ConfigArguments),
    /// Make the mesh's certificates.
    Ca(CaArguments),
    /// Talk to somebody over a development mesh.
    Chat(ChatArguments),
    /// Measure a development mesh on this machine.
    Bench(BenchArguments),
}

/// `on` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// `hearth dev`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DevArguments {
    /// What to do with a running mesh, instead of starting one.
    #[command(subcommand)]
    pub verb: Option<DevVerb>,
    /// Regions, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "eu-west,us-east,ap-south")]
    pub regions: Vec<String>,
    /// Region i listens on this port + i, TCP for HTTP and WebSocket, UDP for WebTransport; 0 for any free port.
    #[arg(long, default_value_t = 8081)]
    pub port: u16,
    /// Folder for stores, keys and certificates.
    #[arg(long, default_value = ".hearth-dev")]
    pub data: PathBuf,
    /// Empty the data folder first.
    #[arg(long)]
    pub fresh: bool,
    /// One-way delay of every link: `none` or a duration such as `20ms`. Default: eu-us 40 ms, us-ap 90 ms, eu-ap 70 ms,
    /// any other pair 50 ms.
    #[arg(long, value_name = "none|DURATION")]
    pub latency: Option<String>,
    /// Rate limits, as in production.
    #[arg(long, value_enum, default_value = "on")]
    pub limits: Switch,
    /// How often homes compare with replicas.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub anti_entropy: Duration,
    /// One process a region, under a supervisor that restarts none.
    #[arg(long)]
    pub processes: bool,
    /// One line of JSON on standard output, and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// What to do with a running mesh.
#[derive(Debug, Subcommand)]
pub enum DevVerb {
    /// Start a region that is down, or take up one whose store failed. Exit code 6: it runs already; 7: no mesh runs.
    Start(DevRegion),
    /// Stop a region. Exit code 6: it is down already; 7: no mesh runs.
    Stop(DevRegion),
    /// Let the sessions of a region leave; its homes stay.
    Drain(DevDrain),
    /// Print a token for a user.
    Token(DevToken),
    /// Cut, heal, delay or thin out links, or list them.
    Link(DevLink),
    /// Part of `--processes`.
    #[command(hide = true)]
    Child {
        /// The region.
        region: String,
    },
}

/// A region of a running mesh.
#[derive(Debug, Args)]
pub struct DevRegion {
    /// The region.
    pub region: String,
    /// The data folder of the mesh.
    #[arg(long, default_value = ".hearth-dev")]
    pub data: PathBuf,
    /// One line of JSON on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `hearth dev drain`.
#[derive(Debug, Args)]
pub struct DevDrain {
    /// Which, and where.
    #[command(flatten)]
    pub region: DevRegion,
    /// Spread the sessions' reconnects over this long.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub over: Duration,
}

/// `hearth dev token`.
#[derive(Debug, Args)]
pub struct DevToken {
    /// The user.
    pub user: String,
    /// How long it is valid.
    #[arg(long, default_value = "24h", value_parser = humantime::parse_duration)]
    pub ttl: Duration,
    /// The data folder of the mesh.
    #[arg(long, default_value = ".hearth-dev")]
    pub data: PathBuf,
    /// One line of JSON on standard output.
    #[arg(long)]
    pub json: bool,
}

/// What to do with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LinkVerb {
    /// Nothing gets through.
    Cut,
    /// Everything gets through.
    Heal,
    /// Change delay or loss only.
    Set,
    /// Show all links.
    List,
}

/// `hearth dev link`.
#[derive(Debug, Args)]
pub struct DevLink {
    /// What to do.
    pub verb: LinkVerb,
    /// One end.
    #[arg(required_if_eq_any([("verb", "cut"), ("verb", "heal"), ("verb", "set")]))]
    pub from: Option<String>,
    /// The other end.
    #[arg(required_if_eq_any([("verb", "cut"), ("verb", "heal"), ("verb", "set")]))]
    pub to: Option<String>,
    /// Only from the first to the second.
    #[arg(long)]
    pub one_way: bool,
    /// One-way delay.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub delay: Option<Duration>,
    /// Percent of datagrams lost.
    #[arg(long)]
    pub loss: Option<f64>,
    /// The data folder of the mesh.
    #[arg(long, default_value = ".hearth-dev")]
    pub data: PathBuf,
    /// One line of JSON on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `hearth serve`.
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// The configuration file; `config/examples` has some.
    #[arg(long)]
    pub config: PathBuf,
    /// One line of JSON on standard output once the region serves.
    #[arg(long)]
    pub json: bool,
}

/// `hearth config`.
#[derive(Debug, Args)]
pub struct ConfigArguments {
    /// What to do.
    #[command(subcommand)]
    pub verb: ConfigVerb,
}

/// What to do with a configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Say everything that is wrong with a file, with its lines. Exit code 1 when there are errors.
    Check {
        /// The file.
        file: PathBuf,
        /// JSON on standard output.
        #[arg(long)]
        json: bool,
    },
}

/// `hearth ca`.
#[derive(Debug, Args)]
pub struct CaArguments {
    /// What to do.
    #[command(subcommand)]
    pub verb: CaVerb,
}

/// What to do with the mesh's certificate authority.
#[derive(Debug, Subcommand)]
pub enum CaVerb {
    /// Make the authority of a mesh.
    Init {
        /// Its folder.
        #[arg(long, default_value = "ca")]
        dir: PathBuf,
        /// JSON on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Issue the certificate of a region.
    Issue {
        /// The region.
        region: String,
        /// The authority's folder.
        #[arg(long, default_value = "ca")]
        dir: PathBuf,
        /// Where the files go; default: the authority's folder.
        #[arg(long)]
        out: Option<PathBuf>,
        /// Days that it is valid.
        #[arg(long, default_value_t = 365)]
        days: u32,
        /// Further DNS names, for client listeners.
        #[arg(long, value_delimiter = ',')]
        dns: Vec<String>,
        /// Further addresses, for client listeners.
        #[arg(long, value_delimiter = ',')]
        ip: Vec<std::net::IpAddr>,
        /// JSON on standard output.
        #[arg(long)]
        json: bool,
    },
}

/// `hearth chat`.
#[derive(Debug, Args)]
pub struct ChatArguments {
    /// Who you are.
    #[arg(long = "as")]
    pub user: String,
    /// Whom you talk to; with `--group`, whom to make it with, separated by commas.
    #[arg(long, required_unless_present = "group")]
    pub to: Option<String>,
    /// A group by its name: your own if there is one, else it is made.
    #[arg(long)]
    pub group: Option<String>,
    /// At which region you connect; default: the first.
    #[arg(long)]
    pub region: Option<String>,
    /// `websocket` or `webtransport`.
    #[arg(long, default_value = "websocket")]
    pub transport: String,
    /// Any region of the mesh.
    #[arg(long, default_value = "http://127.0.0.1:8081")]
    pub url: String,
    /// How many of the last messages are shown first, 0 to 200.
    #[arg(long, default_value_t = 20)]
    pub history: u64,
}

/// `hearth bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// Scenarios, separated by commas: a1, a16, b, c, d; default all.
    #[arg(long, value_delimiter = ',')]
    pub scenario: Vec<String>,
    /// Regions of the mesh under test, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "eu-west")]
    pub regions: Vec<String>,
    /// Seconds that a scenario is measured.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// JSON on standard output.
    #[arg(long)]
    pub json: bool,
}
