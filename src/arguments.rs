//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use hearth_mesh::dev::ServerAddress;

use crate::admin_arguments::{
    AuditArguments, HomeArguments, ParkedArguments, RegionArguments, UserArguments, VerifyArguments, WhyArguments,
};
use crate::store_arguments::StoreArguments;

/// A chat backend that runs in many regions at once: one order, honest acks.
#[derive(Debug, Parser)]
#[command(name = "hearth", version, about)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a mesh of regions on this machine, with real links between them.
    Dev(DevArguments),
    /// Run one region from a configuration file.
    Serve(ServeArguments),
    /// Look at configuration files.
    Config(ConfigArguments),
    /// Make the mesh's certificates.
    Ca(CaArguments),
    /// Copy the store of a region while it runs, bring a copy back, look after a store in servers.
    Store(StoreArguments),
    /// Make anew what a region keeps of its logs beside them.
    Rebuild(RebuildArguments),
    /// Look at the regions of a mesh; fail over, fail back, drain, add and remove them.
    Region(RegionArguments),
    /// Look at the homes of conversations, and move them.
    Home(HomeArguments),
    /// Erase what a user wrote.
    User(UserArguments),
    /// Look at sends that wait for their home.
    Parked(ParkedArguments),
    /// Explain where a message is on its way to a user: when it passed each step, and what it waits for now.
    Why(WhyArguments),
    /// Walk the hash chain of every log: a changed entry or a forked epoch is named, with what to do.
    Verify(VerifyArguments),
    /// Show who changed what, when, and what came of it.
    Audit(AuditArguments),
    /// Talk to somebody over a development mesh.
    Chat(ChatArguments),
    /// Measure a development mesh on this machine.
    Bench(BenchArguments),
    /// Simulate a mesh from a seed, and check what its clients saw.
    Sim(SimArguments),
}

/// `on` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// Where the regions of a development mesh keep what is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stores {
    /// In files of the data folder.
    Embedded,
    /// In servers: one of each kind, with a keyspace for each region. In builds with the feature `production`.
    Production,
}

/// `hearth dev`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DevArguments {
    /// What to do with a running mesh, instead of starting one.
    #[command(subcommand)]
    pub(crate) verb: Option<DevVerb>,
    /// Regions, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "eu-west,us-east,ap-south")]
    pub(crate) regions: Vec<String>,
    /// Region i listens on this port + i, TCP for HTTP and WebSocket, UDP for WebTransport; 0 for any free port.
    #[arg(long, default_value_t = 8081)]
    pub(crate) port: u16,
    /// Folder for stores, keys and certificates.
    #[arg(long, default_value = ".hearth-dev")]
    pub(crate) data: PathBuf,
    /// Empty the data folder first.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// One-way delay of every link: `none` or a duration such as `20ms`. Default: eu-us 40 ms, us-ap 90 ms, eu-ap 70 ms,
    /// any other pair 50 ms.
    #[arg(long, value_name = "none|DURATION")]
    pub(crate) latency: Option<String>,
    /// Rate limits, as in production.
    #[arg(long, value_enum, default_value = "on")]
    pub(crate) limits: Switch,
    /// How often homes compare with replicas.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) anti_entropy: Duration,
    /// How often the texts of deleted messages are taken out of the store and its files.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    pub(crate) content_sweep: Duration,
    /// How long a day of a conversation's `retentionDays` lasts: shorter, to see what retention does.
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = humantime::parse_duration)]
    pub(crate) retention_day: Duration,
    /// Whether a region that a majority cannot reach is fenced by itself, and its slots go to others. With `off`, and
    /// with fewer than three regions, that is left to you.
    #[arg(long, value_enum, default_value = "on")]
    pub(crate) failover: Switch,
    /// How long a region is out of reach before that, from 1s to 1h.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) failover_after: Duration,
    /// One process a region, under a supervisor that restarts none.
    #[arg(long)]
    pub(crate) processes: bool,
    /// Where the regions keep what is durable.
    #[arg(long, value_enum, default_value = "embedded")]
    pub(crate) stores: Stores,
    /// With `--stores production`, the CQL server; `./services up cassandra` starts one at this address.
    #[arg(long, value_name = "HOST:PORT", env = "HEARTH_CASSANDRA", default_value = "127.0.0.1:19042")]
    pub(crate) cassandra: String,
    /// With `--stores production`, the PostgreSQL server that metadata are projected into; `./services up postgresql`
    /// starts one at this address.
    #[arg(long, value_name = "HOST:PORT", env = "HEARTH_POSTGRESQL", default_value = "127.0.0.1:19032")]
    pub(crate) postgresql: ServerAddress,
    /// One line of JSON on standard output, and nothing else.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to do with a running mesh.
#[derive(Debug, Subcommand)]
pub(crate) enum DevVerb {
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
pub(crate) struct DevRegion {
    /// The region.
    pub(crate) region: String,
    /// The data folder of the mesh.
    #[arg(long, default_value = ".hearth-dev")]
    pub(crate) data: PathBuf,
    /// One line of JSON on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `hearth dev drain`.
#[derive(Debug, Args)]
pub(crate) struct DevDrain {
    /// Which, and where.
    #[command(flatten)]
    pub(crate) region: DevRegion,
    /// Spread the sessions' reconnects over this long.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) over: Duration,
}

/// `hearth dev token`.
#[derive(Debug, Args)]
pub(crate) struct DevToken {
    /// The user.
    pub(crate) user: String,
    /// How long it is valid.
    #[arg(long, default_value = "24h", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Duration,
    /// With `role: operator`: its user may ask where messages of others are.
    #[arg(long)]
    pub(crate) operator: bool,
    /// The data folder of the mesh.
    #[arg(long, default_value = ".hearth-dev")]
    pub(crate) data: PathBuf,
    /// One line of JSON on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to do with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LinkVerb {
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
pub(crate) struct DevLink {
    /// What to do.
    pub(crate) verb: LinkVerb,
    /// One end.
    #[arg(required_if_eq_any([("verb", "cut"), ("verb", "heal"), ("verb", "set")]))]
    pub(crate) from: Option<String>,
    /// The other end.
    #[arg(required_if_eq_any([("verb", "cut"), ("verb", "heal"), ("verb", "set")]))]
    pub(crate) to: Option<String>,
    /// Only from the first to the second.
    #[arg(long)]
    pub(crate) one_way: bool,
    /// One-way delay.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) delay: Option<Duration>,
    /// Percent of datagrams lost.
    #[arg(long)]
    pub(crate) loss: Option<f64>,
    /// The data folder of the mesh.
    #[arg(long, default_value = ".hearth-dev")]
    pub(crate) data: PathBuf,
    /// One line of JSON on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `hearth serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// The configuration file; `config/examples` has some.
    #[arg(long)]
    pub(crate) config: PathBuf,
    /// One line of JSON on standard output once the region serves.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `hearth config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: ConfigVerb,
}

/// What to do with a configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Say everything that is wrong with a file, with its lines. Exit code 1 when there are errors.
    Check {
        /// The file.
        file: PathBuf,
        /// JSON on standard output.
        #[arg(long)]
        json: bool,
    },
}

/// What verbs over the configuration of a region take.
#[derive(Debug, Args)]
pub(crate) struct OfRegion {
    /// The region's configuration file.
    #[arg(long)]
    pub(crate) config: PathBuf,
    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// JSON on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `hearth rebuild`.
#[derive(Debug, Args)]
pub(crate) struct RebuildArguments {
    /// What to make anew.
    #[command(subcommand)]
    pub(crate) verb: RebuildVerb,
}

/// What to make anew.
#[derive(Debug, Subcommand)]
pub(crate) enum RebuildVerb {
    /// Users, conversations, members and cursors in PostgreSQL, from the store of a region that is down. Readers see the old
    /// rows until the new ones are whole. Interrupted, type it again: it goes on where it was.
    Metadata(OfRegion),
}

/// `hearth ca`.
#[derive(Debug, Args)]
pub(crate) struct CaArguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: CaVerb,
}

/// What to do with the mesh's certificate authority.
#[derive(Debug, Subcommand)]
pub(crate) enum CaVerb {
    /// Make the authority of a mesh.
    Init {
        /// Its folder.
        #[arg(long, default_value = "ca")]
        dir: PathBuf,
        /// JSON on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Issue the certificate of a region, or, as `hearth ca issue admin`, that of an administrator.
    Issue {
        /// The region, or `admin`.
        region: String,
        /// With `admin`: who it is for, as audit logs name them; default: admin.
        #[arg(long)]
        name: Option<String>,
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
pub(crate) struct ChatArguments {
    /// Who you are.
    #[arg(long = "as")]
    pub(crate) user: String,
    /// Whom you talk to; with `--group`, whom to make it with, separated by commas.
    #[arg(long, required_unless_present = "group")]
    pub(crate) to: Option<String>,
    /// A group by its name: your own if there is one, else it is made.
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// At which region you connect; default: the first.
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// `websocket` or `webtransport`.
    #[arg(long, default_value = "websocket")]
    pub(crate) transport: String,
    /// Any region of the mesh.
    #[arg(long, default_value = "http://127.0.0.1:8081")]
    pub(crate) url: String,
    /// How many of the last messages are shown first, 0 to 200.
    #[arg(long, default_value_t = 20)]
    pub(crate) history: u64,
}

/// `hearth bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArguments {
    /// What to do, instead of measuring this binary.
    #[command(subcommand)]
    pub(crate) verb: Option<BenchVerb>,
    /// Scenarios, separated by commas: a1, a16, b, c1, c, d, which are the default, and presence, fanout,
    /// fanout-received, sync, sessions.
    #[arg(long, value_delimiter = ',')]
    pub(crate) scenario: Vec<String>,
    /// Where the server keeps what is durable, one after the other: embedded, production, or both. The second needs
    /// `./services up cassandra postgresql`, whose addresses HEARTH_CASSANDRA and HEARTH_POSTGRESQL change.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "embedded")]
    pub(crate) stores: Vec<Stores>,
    /// Sessions of the scenario sessions. This process and the server need so many file descriptors each.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(2..=20_000))]
    pub(crate) sessions: u64,
    /// Seconds that a run is measured.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) seconds: u64,
    /// Seconds before that.
    #[arg(long, default_value_t = 2)]
    pub(crate) warm_up: u64,
    /// Leave out the runs of a, b and d on three regions.
    #[arg(long)]
    pub(crate) one_region: bool,
    /// Where the server's data go, in a folder of their own that is removed; default: the system's temporary folder.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// JSON on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to do with binaries.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchVerb {
    /// Compare two binaries by the server's CPU time for 1,000 messages. Exit code 1 when a median is above the limit.
    Compare(CompareArguments),
}

/// `hearth bench compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArguments {
    /// The hearth binary to compare with; it may be older than this command.
    pub(crate) old: PathBuf,
    /// The hearth binary that is judged.
    pub(crate) new: PathBuf,
    /// Pairs of runs; the binary that goes first alternates.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) pairs: u64,
    /// Scenarios, separated by commas: a1, a16, b, c1, c.
    #[arg(long, value_delimiter = ',', default_value = "a16")]
    pub(crate) scenario: Vec<String>,
    /// Seconds that each load of a run is measured.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) seconds: u64,
    /// Seconds before that.
    #[arg(long, default_value_t = 2)]
    pub(crate) warm_up: u64,
    /// Leave out the runs of a and b on three regions.
    #[arg(long)]
    pub(crate) one_region: bool,
    /// The greatest median of NEW / OLD that is within.
    #[arg(long, default_value_t = 1.10)]
    pub(crate) limit: f64,
    /// Where servers' data go, in folders of their own that are removed; default: the system's temporary folder.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// One line of JSON on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `hearth sim`.
#[derive(Debug, Args)]
pub(crate) struct SimArguments {
    /// The seed of the one run.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Simulated seconds of each run, 10 to 86,400. Everything is healed for the last 15 %.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(10..=86_400))]
    pub(crate) seconds: u64,
    /// Run seeds in turn for so many simulated hours.
    #[arg(long)]
    pub(crate) hours: Option<f64>,
    /// Runs at a time with --hours; each takes one core. Default: as many as there are cores.
    #[arg(long, value_name = "RUNS", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: Option<u16>,
    /// The first seed of --hours: go on where an earlier call ended.
    #[arg(long, default_value_t = 1)]
    pub(crate) from: u64,
    /// Regions, 2 to 6.
    #[arg(long, default_value_t = 3, value_parser = regions_of_a_simulation)]
    pub(crate) regions: usize,
    /// Clients, 2 to 1,000.
    #[arg(long, default_value_t = 50, value_parser = clients_of_a_simulation)]
    pub(crate) clients: usize,
    /// Milliseconds between two acts of a client, in the mean, 10 to 60,000.
    #[arg(long, default_value_t = simulation::PACE, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub(crate) pace: u64,
    /// Cut regions off one after the other, so that homes fail over again and again.
    #[arg(long)]
    pub(crate) successions: bool,
    /// One region loses its store now and then, and comes back over an empty one or an older copy.
    #[arg(long)]
    pub(crate) stores: bool,
    /// Conversations get other voters now and then.
    #[arg(long)]
    pub(crate) voters: bool,
    /// Clients are erased in their conversations, and floors raised, now and then.
    #[arg(long)]
    pub(crate) erasures: bool,
    /// Regions are out of reach and fenced by hand now and then, as soon as their leases let it.
    #[arg(long)]
    pub(crate) by_hand: bool,
    /// Power fails now and then at the very moment of a write.
    #[arg(long)]
    pub(crate) aimed: bool,
    /// Groups are large for their regions, and many join them at the same time.
    #[arg(long)]
    pub(crate) joins: bool,
    /// Of a seed's faults only these, by number, or `none`.
    #[arg(long, value_name = "NUMBERS")]
    pub(crate) faults: Option<String>,
    /// Of the clients only these, by number.
    #[arg(long, value_name = "NUMBERS")]
    pub(crate) only_clients: Option<String>,
    /// Heal everything and stop sending at this second.
    #[arg(long, value_name = "SECOND")]
    pub(crate) calm_from: Option<u64>,
    /// Make a failing run smaller, and print what is left of it.
    #[arg(long)]
    pub(crate) shrink: bool,
    /// Add failing runs to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) keep: Option<PathBuf>,
    /// Print every step to standard error.
    #[arg(long)]
    pub(crate) trace: bool,
    /// Switch a mutant on, or `all` in turn, and say how many seeds it takes to see it: a line of a table each.
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME|all")]
    pub(crate) mutant: Option<String>,
    /// Seeds that a mutant is looked for in, at most.
    #[cfg(feature = "mutants")]
    #[arg(long, default_value_t = 100)]
    pub(crate) seeds: u64,
    /// One line of JSON a run on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

fn in_range(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    if (least..=most).contains(&number) { Ok(number) } else { Err(format!("it is {least} to {most}")) }
}

fn regions_of_a_simulation(text: &str) -> Result<usize, String> {
    in_range(text, 2, 6)
}

fn clients_of_a_simulation(text: &str) -> Result<usize, String> {
    in_range(text, 2, 1_000)
}
