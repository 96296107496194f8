//! The command lines of `oa agent`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// Create an agent
    New(AgentNew),
    /// List the agents
    List,
    /// Show an agent's status
    Show {
        /// Its name
        name: String,
    },
    /// Remove an agent for good; its key is never used again
    Rm {
        /// Its name
        name: String,
        /// Do not ask, on a terminal
        #[arg(long)]
        yes: bool,
    },
    /// Let somebody in who waits, or keep out who was in
    Allow {
        /// The agent
        name: String,
        /// Who
        npub: String,
        /// Keep out instead
        #[arg(long)]
        not: bool,
    },
    /// Find agents anywhere: by something they can do, or by a name at a domain
    Find {
        /// Such as translate/de-en, or bob@example.com
        what: String,
    },
    /// Say, with this home's key, that an agent is yours, for its profile to show
    Vouch {
        /// Its name
        name: String,
    },
    /// Write an agent to a file, all of it but its key
    Export {
        /// Its name
        name: String,
        /// Where to, never over another file; stdout without it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Stop it here, to go on elsewhere with `import --mode migrate`
        #[arg(long)]
        migrate: bool,
    },
    /// Take in an agent from a file
    Import(AgentImport),
    /// Say a word to an agent's ctl: tick, wake, hibernate, stop, resume, claim, disown
    Ctl {
        /// The agent
        name: String,
        /// The word
        word: String,
    },
}

/// `oa agent import`
#[derive(Debug, Args)]
pub(crate) struct AgentImport {
    /// The bundle; - reads it from stdin
    pub(crate) file: PathBuf,
    /// The same agent after its node was lost, one that was exported with --migrate, or another one like it
    #[arg(long)]
    pub(crate) mode: ImportMode,
    /// What a clone is called, if not as the first
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Who owns a clone, if not you
    #[arg(long, value_name = "NPUB")]
    pub(crate) owner: Option<String>,
}

/// How a bundle is taken in.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ImportMode {
    /// The same key; needs a node with the same seed words
    Restore,
    /// A new key, no mail and no past
    Clone,
    /// As restore, of an agent that was stopped before
    Migrate,
}

/// `oa agent new`
#[derive(Debug, Args)]
pub(crate) struct AgentNew {
    /// Its name: a-z, 0-9 and -
    pub(crate) name: String,
    /// A manifest in TOML to start from; - reads it from stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Where its key comes from: the node's seed words; or it has its own, and can move to another node
    #[arg(long, value_enum, default_value_t = KeyKind::Seed, conflicts_with = "bunker")]
    pub(crate) key: KeyKind,
    /// Its key is in this bunker (NIP-46): its address bunker://…, a file with it, or - for stdin. One with a secret
    /// in it is not taken as an argument
    #[arg(long, value_name = "URI|FILE|-")]
    pub(crate) bunker: Option<String>,
    /// Which program it runs
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) program: Option<String>,
    /// Who may write to it
    #[arg(long, value_enum)]
    pub(crate) dm: Option<Policy>,
}

/// Where an agent's key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyKind {
    Seed,
    Own,
}

/// A DM policy.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Policy {
    Owner,
    Allowlist,
    Pairing,
    Open,
}
