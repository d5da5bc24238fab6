//! The verbs of administration on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use hearth_protocol::client::MessageName;
use hearth_protocol::{ConversationId, MessageId, RegionId, UserId};

/// Which mesh, and how it lets one in.
#[derive(Clone, Debug, Args)]
pub(crate) struct Where {
    /// The data folder of a development mesh; where `--admin` is not given.
    #[arg(long, default_value = ".hearth-dev")]
    pub(crate) data: PathBuf,
    /// The administration port of a node, as https://HOST:PORT. May be given once for each node of the mesh: verbs go to
    /// the node that they need, and what is read is read from all.
    #[arg(long, value_name = "URL", requires_all = ["cert", "key", "ca"])]
    pub(crate) admin: Vec<String>,
    /// With `--admin`: your certificate, of `hearth ca issue admin`.
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub(crate) cert: Option<PathBuf>,
    /// With `--admin`: its key.
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub(crate) key: Option<PathBuf>,
    /// With `--admin`: the mesh's authority, ca.pem.
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub(crate) ca: Option<PathBuf>,
    /// JSON on standard output: one line; where there is progress, one line a step and the result last.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `hearth region`.
#[derive(Debug, Args)]
pub(crate) struct RegionArguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: RegionVerb,
}

/// What to do with the regions of a mesh. Every change is safe to ask for twice. Exit codes: 0 done, or so already;
/// 1 refused, with what to type instead; 7 no node answers; 70 it failed on the way: what was done stands.
#[derive(Debug, Subcommand)]
pub(crate) enum RegionVerb {
    /// Show regions, slots, links, sessions and homes.
    Status(Where),
    /// End the right of a region that is gone to its homes; stewards open them anew at other voters.
    Failover {
        /// The region that is gone.
        #[arg(value_parser = region)]
        region: RegionId,
        /// In a mesh of two regions, and with `--accept-loss` where a majority of the region map's voters is gone: on
        /// your word that they are down. They then start fenced.
        #[arg(long)]
        force: bool,
        /// On your word: open its homes with the voters that live, though they may lack what was acked. What may be
        /// missing is stated, and comes back with its region: hearth region losses.
        #[arg(long)]
        accept_loss: bool,
        /// How, and where.
        #[command(flatten)]
        how: How,
    },
    /// Give a region that is back what is its own.
    Failback {
        /// The region that is back.
        #[arg(value_parser = region)]
        region: RegionId,
        /// How, and where.
        #[command(flatten)]
        how: How,
    },
    /// Empty a region while it runs: slots and homes go to others, sessions leave.
    Drain {
        /// The region.
        #[arg(value_parser = region)]
        region: RegionId,
        /// End the drain, whether it is over or not.
        #[arg(long)]
        undo: bool,
        /// Spread the sessions' reconnects over this long, at most an hour.
        #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
        over: Duration,
        /// Homes moved a second, 1 to 10,000.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rate: u32,
        /// How, and where.
        #[command(flatten)]
        how: How,
    },
    /// Add a region; typed again once it runs, lets it take part, and vote for what lacks a voter.
    Add {
        /// The new region.
        #[arg(value_parser = region)]
        region: RegionId,
        /// Logs that get it as a voter a second, 1 to 10,000.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rate: u32,
        /// How, and where.
        #[command(flatten)]
        how: How,
    },
    /// Take out a region that is drained or failed over: other regions get its votes first. Every other node is asked.
    Remove {
        /// The region.
        #[arg(value_parser = region)]
        region: RegionId,
        /// Logs whose voters change a second, 1 to 10,000.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rate: u32,
        /// How, and where.
        #[command(flatten)]
        how: How,
    },
    /// List loss statements: what epochs that opened after a failover may lack.
    Losses(Where),
}

/// How a change is asked for.
#[derive(Clone, Debug, Args)]
pub(crate) struct How {
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Where.
    #[command(flatten)]
    pub(crate) at: Where,
}

/// `hearth home`.
#[derive(Debug, Args)]
pub(crate) struct HomeArguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: HomeVerb,
}

/// What to do with homes of conversations.
#[derive(Debug, Subcommand)]
pub(crate) enum HomeVerb {
    /// Show where a conversation lives, and what each region holds of it.
    Show {
        /// The conversation.
        #[arg(value_parser = conversation)]
        conversation: ConversationId,
        /// Where.
        #[command(flatten)]
        at: Where,
    },
    /// Move the home of a conversation, or of many, to another region. One that does not vote for it takes a copy first.
    Move {
        /// The conversation.
        #[arg(value_parser = conversation, required_unless_present = "selector", conflicts_with = "selector")]
        conversation: Option<ConversationId>,
        /// Which homes instead: `home=REGION`, all of that region.
        #[arg(long, value_name = "home=REGION", value_parser = selector)]
        selector: Option<RegionId>,
        /// The region that they move to.
        #[arg(long, value_parser = region)]
        to: RegionId,
        /// With `--selector`: homes moved a second, 1 to 10,000.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rate: u32,
        /// How, and where.
        #[command(flatten)]
        how: How,
    },
}

/// `hearth why`. Exit codes: 0 explained; 1 refused, with what to type instead; 7 no node answers.
#[derive(Debug, Args)]
pub(crate) struct WhyArguments {
    /// The message: its id, or with `--conversation` its number there.
    #[arg(value_name = "MESSAGE", value_parser = message)]
    pub(crate) message: MessageName,
    /// The user whom it is for, as tokens name it.
    #[arg(long = "for", value_name = "USER", value_parser = user)]
    pub(crate) user: UserId,
    /// Its conversation. Without it, the one in which a message of this id passed a region within the last hour.
    #[arg(long, value_name = "ID", value_parser = conversation)]
    pub(crate) conversation: Option<ConversationId>,
    /// Where.
    #[command(flatten)]
    pub(crate) at: Where,
}

/// `hearth parked`.
#[derive(Debug, Args)]
pub(crate) struct ParkedArguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: ParkedVerb,
}

/// What to do with parked sends.
#[derive(Debug, Subcommand)]
pub(crate) enum ParkedVerb {
    /// List the sends that wait for their home, and the refusals that wait for their device; without their texts.
    List(Where),
}

/// `hearth verify`: exit code 1 when there is a fault.
#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// The data folder of one region that is down, instead of a mesh; opening its store replays its journal.
    #[arg(long, requires = "region", conflicts_with = "admin")]
    pub(crate) folder: Option<PathBuf>,
    /// With `--folder`: whose it is.
    #[arg(long, value_parser = region, requires = "folder")]
    pub(crate) region: Option<RegionId>,
    /// Where. Regions of a development mesh that are down are walked in their folders.
    #[command(flatten)]
    pub(crate) at: Where,
}

/// `hearth audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArguments {
    /// Lines of each node, 1 to 1,000.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) last: u32,
    /// Where.
    #[command(flatten)]
    pub(crate) at: Where,
}

/// `hearth user`.
#[derive(Debug, Args)]
pub(crate) struct UserArguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: UserVerb,
}

/// What to do with a user. Exit codes: 0 done, or so already; 1 refused, with what to type instead; 7 no node answers;
/// 70 not all of it: what was done stands, and the same is typed again.
#[derive(Debug, Subcommand)]
pub(crate) enum UserVerb {
    /// Take away what a user wrote so far, in every conversation and region; rows and positions stay. End its tokens
    /// first: what it writes afterwards is kept.
    Erase {
        /// The user, as tokens name it.
        #[arg(value_parser = user)]
        user: UserId,
        /// How, and where.
        #[command(flatten)]
        how: How,
    },
}

pub(crate) fn region(text: &str) -> Result<RegionId, String> {
    RegionId::new(text).map_err(|error| error.to_string())
}

fn conversation(text: &str) -> Result<ConversationId, String> {
    serde_json::from_value(text.into()).map_err(|_| "a conversation's id is a UUID".to_owned())
}

fn message(text: &str) -> Result<MessageName, String> {
    if let Ok(number) = text.parse::<u64>() {
        return if number == 0 { Err("numbers begin at 1".to_owned()) } else { Ok(MessageName::Number(number)) };
    }
    let id: Result<MessageId, _> = serde_json::from_value(text.into());
    id.map(MessageName::Id).map_err(|_| "a message's id is a UUID; its number needs --conversation".to_owned())
}

fn selector(text: &str) -> Result<RegionId, String> {
    match text.split_once('=') {
        Some(("home", name)) => region(name),
        Some(_) | None => Err("type home=REGION, as home=eu-west".to_owned()),
    }
}

fn user(text: &str) -> Result<UserId, String> {
    UserId::new(text).map_err(|error| error.to_string())
}
