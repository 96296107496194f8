//! The command lines of `oa` and `oa-node`.

mod agent;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub(crate) use self::agent::{Agent, AgentImport, AgentNew, ImportMode, KeyKind, Policy};
use crate::client::Choice;

/// The heading of options that every command has.
const EVERYWHERE: &str = "Options of every command";

/// Where everything of ours lives, and how to print.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The home folder [default: ~/.oa]
    #[arg(long, env = "OA_HOME", global = true, value_name = "DIR", help_heading = EVERYWHERE)]
    pub(crate) home: Option<PathBuf>,
    /// One JSON object a line on stdout, everything else on stderr; a file's bytes come as they are
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) json: bool,
    /// A file with the passphrase of this home's encrypted keys; without it, systemd's credential oa-passphrase, or a
    /// prompt
    #[arg(long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// What to log on stderr, as error, warn, info, debug, trace or a filter such as oa_node=debug [default: warn]
    #[arg(long, env = "OA_LOG", global = true, value_name = "FILTER", help_heading = EVERYWHERE)]
    pub(crate) log: Option<String>,
}

const OA_EXAMPLES: &str = "\
Examples:
  oa up                                a relay, a node and an agent to talk to
  oa dm concierge \"note buy milk\"      talk to it, from another terminal
  oa agent new alice --dm pairing      another agent
  oa ls /agents/alice                  its files; cat, tail, write, mount …
  oa devnet                            Lightning to play with, on this machine";

const OA_NODE_EXAMPLES: &str = "\
Example, with the operator's npub as `oa key show` prints it on the operator's machine:
  oa-node --home /var/lib/oa init --operator npub1… --relay wss://relay.example
  oa-node --home /var/lib/oa run";

/// Agents that live on Nostr.
#[derive(Debug, Parser)]
#[command(name = "oa", version, max_term_width = 100, after_help = OA_EXAMPLES)]
pub(crate) struct Oa {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: OaCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OaCommand {
    /// Start a relay, a node and the concierge, and say how to reach it
    Up(Up),
    /// Send a direct message and print the reply
    #[command(after_help = "Example:\n  oa dm concierge \"remind me tomorrow at 9 to call Ann\"")]
    Dm(Dm),
    /// Create, list, show and remove agents
    #[command(subcommand)]
    Agent(Agent),
    /// Print what an agent did
    Logs(Logs),
    /// Start a relay, a chain and two operators with money to try things with, on this machine alone
    #[cfg(feature = "wallet")]
    Devnet(crate::commands::devnet::DevnetArgs),
    /// Run the relay alone
    Relay(Relay),
    /// Remember a remote node in this home
    #[command(
        after_help = "Example:\n  oa connect npub1… --relay wss://relay.example --key-file operator.key"
    )]
    Connect(Connect),
    /// List what agents wish for that needs your consent
    Approvals {
        /// Also what was decided
        #[arg(long)]
        all: bool,
    },
    /// Consent to a wish: it is done once
    Approve {
        /// As `oa approvals` shows it
        id: String,
    },
    /// Refuse a wish
    Deny {
        /// As `oa approvals` shows it
        id: String,
    },
    /// Let other programs sign with an agent's key (NIP-46)
    #[command(subcommand)]
    Bunker(crate::commands::bunker::Bunker),
    /// Back up or show this home's keys
    #[command(subcommand)]
    Key(crate::commands::key::Key),
    /// Show the node's tree as a folder of this machine
    #[cfg(feature = "fuse")]
    Mount(crate::commands::mount::Mount),
    /// Pay, be paid, and steer a wallet
    #[cfg(feature = "wallet")]
    Wallet(crate::commands::wallet::Wallet),
    /// List a folder of the node's tree
    Ls(Place),
    /// Say what a path is
    Stat(Place),
    /// Print a file
    Cat(File),
    /// Call a file, and print what it answers
    #[command(after_help = "Example:\n  oa call /agents/alice/ctl tick")]
    Call(Content),
    /// Replace a file's content
    #[command(after_help = "Example:\n  oa write /agents/alice/manifest - < alice.toml")]
    Write(Content),
    /// Append to a file: a message to an agent, say
    #[command(after_help = "Example:\n  oa append /agents/alice/inbox/new '{\"text\":\"hi\"}'")]
    Append(Content),
    /// Print the end of a file, and go on printing what comes
    Tail(Tail),
    /// Create a folder
    Mkdir(One),
    /// Remove a file or an empty folder
    Rm(One),
    /// Move a file or folder
    Mv(Move),
}

/// `oa connect`
#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The node's npub
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// A relay that the node lives on too
    #[arg(long, value_name = "URL")]
    pub(crate) relay: String,
    /// Take this operator's key over into the home; - reads it from stdin. Without it, the home makes its own
    #[arg(long, value_name = "FILE", conflicts_with = "bunker")]
    pub(crate) key_file: Option<PathBuf>,
    /// The operator's key is in this bunker (NIP-46): its address bunker://…, a file with it, or - for stdin. One with
    /// a secret in it is not taken as an argument
    #[arg(long, value_name = "URI|FILE|-")]
    pub(crate) bunker: Option<String>,
}

/// A path of the node's tree.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Such as /agents/alice
    #[arg(default_value = "/", value_parser = tree_path)]
    pub(crate) path: String,
}

/// A file of the node's tree.
#[derive(Debug, Args)]
pub(crate) struct File {
    /// Such as /agents/alice/status
    #[arg(value_parser = tree_path)]
    pub(crate) path: String,
}

/// A path, and what goes there.
#[derive(Debug, Args)]
pub(crate) struct Content {
    /// Where; `oa ls` shows what there is
    #[arg(value_parser = tree_path)]
    pub(crate) path: String,
    /// What to send; - reads it from stdin
    #[arg(default_value = "-")]
    pub(crate) body: String,
    #[command(flatten)]
    pub(crate) queue: Queue,
}

/// A path that something is done to.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// Such as /agents/alice/memory/notes
    #[arg(value_parser = tree_path)]
    pub(crate) path: String,
    #[command(flatten)]
    pub(crate) queue: Queue,
}

/// `oa mv`
#[derive(Debug, Args)]
pub(crate) struct Move {
    /// What is moved
    #[arg(value_parser = tree_path)]
    pub(crate) from: String,
    /// Where to
    #[arg(value_parser = tree_path)]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) queue: Queue,
}

/// Whether to leave a command for a node that is offline.
#[derive(Debug, Args)]
pub(crate) struct Queue {
    /// Leave it on the relay for a node that is offline, for seven days at most. It is done after what this home has
    /// queued before; with --queue=new, and what is queued after that, it waits for nothing
    #[arg(long, value_name = "QUEUE", num_args = 0..=1, require_equals = true, default_missing_value = "home")]
    pub(crate) queue: Option<Choice>,
    /// Wait for its answer, so long at most [default: 10m]
    #[arg(long, requires = "queue", value_name = "TIME", value_parser = duration)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "10m")]
    pub(crate) wait: Option<Duration>,
}

/// `oa tail`
#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// Such as /agents/alice/logs/trace
    #[arg(value_parser = tree_path)]
    pub(crate) path: String,
    /// Begin with so many lines of what is there
    #[arg(short = 'n', long, default_value_t = 10, value_name = "LINES")]
    pub(crate) lines: usize,
    /// Go on printing what comes; the default
    #[arg(short, long, conflicts_with = "once")]
    pub(crate) follow: bool,
    /// Print what is there, and go
    #[arg(long)]
    pub(crate) once: bool,
}

/// `oa up`
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Where the bundled relay listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7447", value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// Another relay to live on too; may be given several times
    #[arg(long, value_name = "URL")]
    pub(crate) relay: Vec<String>,
    /// Who owns the concierge from the start, instead of whoever claims it
    #[arg(long, value_name = "NPUB")]
    pub(crate) owner: Option<String>,
    /// A connection to the wallet that the agents have their accounts in [default: node.nwc in the home, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) wallet_file: Option<PathBuf>,
    /// Take the keys over from another node that has used them since this home did
    #[arg(long)]
    pub(crate) take_lease: bool,
    /// Look for missed mail this often, in milliseconds
    #[arg(long, default_value_t = 60_000, hide = true)]
    pub(crate) sweep_ms: u64,
}

/// `oa dm`
#[derive(Debug, Args)]
pub(crate) struct Dm {
    /// An agent of the node, or anybody's npub
    #[arg(value_name = "NAME|NPUB")]
    pub(crate) to: String,
    /// What to say; - reads it from stdin
    pub(crate) text: String,
    /// How long to wait for the reply, as 500ms, 10s or 2m
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(crate) wait: Duration,
    /// Send and go
    #[arg(long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,
    /// Speak the legacy protocol (NIP-04)
    #[arg(long)]
    pub nip04: bool,
}

/// `oa logs`
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The agent
    pub(crate) agent: String,
    /// Go on printing what comes
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Print mail that was refused instead of ticks
    #[arg(long)]
    pub(crate) refused: bool,
}

/// `oa relay`
#[derive(Debug, Args)]
pub(crate) struct Relay {
    /// Where it listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7447", value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// Where it keeps events [default: the home's relay folder]
    #[arg(long, value_name = "DIR", conflicts_with = "memory")]
    pub(crate) data: Option<PathBuf>,
    /// Keep events in memory only
    #[arg(long)]
    pub(crate) memory: bool,
}

/// A node of agents, for a server; `oa` steers it.
#[derive(Debug, Parser)]
#[command(name = "oa-node", version, max_term_width = 100, after_help = OA_NODE_EXAMPLES)]
pub(crate) struct OaNode {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: OaNodeCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OaNodeCommand {
    /// Create a home: seed, config.toml
    Init {
        /// Who may steer the node; without it an operator key is made in the home
        #[arg(long, value_name = "NPUB")]
        operator: Option<String>,
        /// A relay to live on; may be given several times
        #[arg(long, value_name = "URL")]
        relay: Vec<String>,
        /// Rebuild a node that was lost, and its agents, from its seed words
        #[arg(long)]
        restore: bool,
        /// Where the seed words are, - for stdin; typed at the terminal without it
        #[arg(long, value_name = "FILE", requires = "restore")]
        words: Option<PathBuf>,
        /// An agent that comes back as it was; may be given several times
        #[arg(long, value_name = "FILE", requires = "restore")]
        bundle: Vec<PathBuf>,
    },
    /// Run the node until SIGTERM
    Run {
        /// Take the keys over from another node that has used them since this home did
        #[arg(long)]
        take_lease: bool,
        /// End when stdin does, as a part of another program
        #[arg(long, hide = true)]
        until_eof: bool,
    },
    /// Ask the running node how it is
    Status,
    /// Look at all that a node in this home needs, and say what is wrong
    Doctor,
    /// Keys of agents that can move, out of this home and into it
    #[command(subcommand)]
    Key(crate::commands::node_key::NodeKey),
}

/// Reads a path of the tree as people type it, and as `oa ls` shows folders: there is nothing but the root to begin at,
/// and a slash at the end says nothing.
fn tree_path(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a path begins with /, such as /agents".to_owned());
    }
    let path = text.trim_end_matches('/');
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

/// Reads `10s`, `500ms`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a time such as 10s"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs).ok_or_else(|| "too long".to_owned()),
        _ => Err(format!("{unit:?} is none of ms, s, m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_consistent() {
        use clap::CommandFactory;
        Oa::command().debug_assert();
        OaNode::command().debug_assert();
    }

    #[test]
    fn paths_are_read_as_people_type_them() {
        for (typed, path) in [
            ("/", "/"),
            ("/agents", "/agents"),
            ("/agents/", "/agents"),
            ("agents/alice", "/agents/alice"),
            ("/agents/../node", "/agents/../node"),
            ("//", "/"),
        ] {
            assert_eq!(tree_path(typed).as_deref(), Ok(path), "{typed}");
        }
        assert!(tree_path("").is_err());
    }

    #[test]
    fn times_are_read_with_their_units() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("soon").is_err() && duration("3 weeks").is_err());
    }
}
