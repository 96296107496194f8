//! `config.toml`: what a server's node is and where. Unknown keys are refused, errors name file, line and key.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oa_nips::nip05;
use oa_nips::nostr::RelayUrl;
use oa_node::agent::manifest::{Manifest, Npub};
use oa_node::engine::Programs;
use oa_node::money::{BadSource, FRESH, Source};
use oa_node::namespace::mount::Access;
use oa_node::node::JournalLimits;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Kind, Result};

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Who may do everything, by the operator protocol.
    #[serde(default)]
    pub(crate) operators: Vec<Npub>,
    /// Who may consent to what any agent wishes for.
    #[serde(default)]
    pub(crate) approvers: Vec<Npub>,
    /// Who may see how the node and its agents do.
    #[serde(default)]
    pub(crate) viewers: Vec<Npub>,
    /// Folders of this machine that manifests may mount, by name.
    #[serde(default)]
    pub(crate) srv: BTreeMap<String, Srv>,
    /// The relays it lives on, besides the bundled one.
    #[serde(default)]
    pub(crate) relays: Vec<String>,
    /// The domain at which agents have names, such as `concierge@example.com` (NIP-05).
    #[serde(default)]
    pub(crate) domain: Option<String>,
    /// Hosts that relays named by others may have although they are private.
    #[serde(default)]
    pub(crate) allow_private: Vec<String>,
    /// Hosts of private networks that agents' requests may go to, with a port where only that one: `localhost:11434`.
    #[serde(default)]
    pub(crate) http_private: Vec<String>,
    /// An agent that nothing came to for this long sleeps.
    #[serde(default = "dormant_after_s")]
    pub(crate) dormant_after_s: u64,
    /// How much is kept of what ticks did outside, once they are over.
    #[serde(default)]
    pub(crate) journals: Journals,
    /// The wallet that its agents have their accounts in.
    #[serde(default)]
    pub(crate) wallet: Option<Wallet>,
    /// The bundled relay.
    #[serde(default)]
    pub(crate) relay: Relay,
    /// Catching up on missed mail.
    #[serde(default)]
    pub(crate) sweep: Sweep,
    /// Agents that are created at the start, unless they are there.
    #[serde(default)]
    pub(crate) agents: Vec<Manifest>,
}

fn dormant_after_s() -> u64 {
    300
}

/// `[srv.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Srv {
    /// The folder.
    pub(crate) path: PathBuf,
    /// Whether agents may change it.
    #[serde(default = "read_only")]
    pub(crate) access: Access,
    /// The agents that may mount it; all by default.
    #[serde(default)]
    pub(crate) agents: Option<Vec<String>>,
}

fn read_only() -> Access {
    Access::ReadOnly
}

/// `[journals]`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Journals {
    /// For so long, in seconds.
    pub(crate) kept_s: u64,
    /// So much of it, the newest.
    pub(crate) bytes_max: u64,
}

impl Default for Journals {
    fn default() -> Self {
        let JournalLimits { kept, bytes_max } = JournalLimits::default();
        Self { kept_s: kept.as_secs(), bytes_max }
    }
}

impl From<Journals> for JournalLimits {
    fn from(journals: Journals) -> Self {
        Self { kept: Duration::from_secs(journals.kept_s), bytes_max: journals.bytes_max }
    }
}

/// `wallet = { … }`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wallet {
    /// The file with the connection (nostr+walletconnect://…); relative to the home.
    pub(crate) nwc_file: PathBuf,
    /// What a dollar costs, in satoshi; without it no dollars are changed into bitcoin.
    #[serde(default)]
    pub(crate) sats_per_usd: Option<u64>,
    /// Or where that is read.
    #[serde(default)]
    pub(crate) rate: Option<PriceSource>,
}

/// `[wallet.rate]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PriceSource {
    /// Answers a JSON document.
    pub(crate) url: String,
    /// Where in it the price of one bitcoin in US dollars stands (RFC 6901).
    pub(crate) pointer: String,
    /// It is asked once in so many seconds.
    #[serde(default = "rate_every_s")]
    pub(crate) every_s: u64,
    /// What it said may be spent by for so long, in seconds.
    #[serde(default = "rate_fresh_s")]
    pub(crate) fresh_s: u64,
}

fn rate_every_s() -> u64 {
    60
}

fn rate_fresh_s() -> u64 {
    FRESH.as_secs()
}

impl PriceSource {
    /// # Errors
    /// The key that is wrong, and why.
    pub(crate) fn source(&self) -> std::result::Result<Source, (&'static str, BadSource)> {
        let seconds = Duration::from_secs;
        Source::new(&self.url, &self.pointer, seconds(self.every_s), seconds(self.fresh_s)).map_err(|error| {
            let key = match error {
                BadSource::Url(_) => "url",
                BadSource::Pointer => "pointer",
                BadSource::Every => "every_s",
                BadSource::Fresh => "fresh_s",
            };
            (key, error)
        })
    }
}

/// `[relay]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Relay {
    /// Whether there is one.
    pub(crate) enabled: bool,
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Whether the node takes all its mail in one subscription; pays off from some hundred agents on.
    pub(crate) wide: bool,
    /// How others reach it, such as `wss://relay.example`; what agents publish as their relay.
    pub(crate) url: Option<String>,
}

impl Default for Relay {
    fn default() -> Self {
        Self { enabled: true, listen: ([127, 0, 0, 1], 7447).into(), wide: false, url: None }
    }
}

/// `[sweep]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Sweep {
    /// Where a relay can reconcile (NIP-77), in milliseconds.
    pub(crate) every_ms: u64,
    /// Where everything must be paged through, in milliseconds.
    pub(crate) paging_every_ms: u64,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { every_ms: 60_000, paging_every_ms: 15 * 60_000 }
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Names the file, and within it line and key.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::new(Kind::Usage, format!("{}: {error}", path.display()))
                .hint("`oa-node init` makes a home with a config.toml that explains itself")
        })?;
        Self::parse(&text).map_err(|reason| Error::new(Kind::Usage, format!("{}: {reason}", path.display())))
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// Names line and key.
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string().trim().to_owned())?;
        let wrong = |key: &str, error: String| format!("line {}: {key}: {error}", line(text, key));
        for (n, agent) in config.agents.iter().enumerate() {
            agent.check().map_err(|error| {
                let error = error.to_string();
                let (key, reason) = error.split_once(": ").unwrap_or(("name", &error));
                wrong(&format!("agents.{n}.{key}"), reason.to_owned())
            })?;
            Programs::default()
                .check(&agent.program)
                .map_err(|error| wrong(&format!("agents.{n}.program"), error))?;
            if config.agents.iter().take(n).any(|other| other.name == agent.name) {
                return Err(wrong(&format!("agents.{n}.name"), format!("{:?} is there already", agent.name)));
            }
        }
        for (n, url) in config.relays.iter().enumerate() {
            relay_url(url).map_err(|error| wrong(&format!("relays.{n}"), error))?;
        }
        for (name, srv) in &config.srv {
            if !matches!(srv.access, Access::ReadOnly | Access::ReadWrite) {
                return Err(wrong(
                    &format!("srv.{name}.access"),
                    "is neither read_only nor read_write".to_owned(),
                ));
            }
        }
        if let Some((wallet, rate)) =
            config.wallet.as_ref().and_then(|wallet| Some((wallet, wallet.rate.as_ref()?)))
        {
            rate.source().map_err(|(key, error)| wrong(&format!("wallet.rate.{key}"), error.to_string()))?;
            if wallet.sats_per_usd.is_some() {
                return Err(wrong(
                    "wallet.rate",
                    "stands beside sats_per_usd: a rate is set or read".to_owned(),
                ));
            }
        }
        if let Some(domain) = &config.domain {
            let name = format!("_@{domain}").parse::<nip05::Name>();
            name.map_err(|_| wrong("domain", format!("{domain:?} is no domain, such as example.com")))?;
        }
        if let Some(url) = &config.relay.url {
            relay_url(url).map_err(|error| wrong("relay.url", error))?;
        }
        if !config.relay.enabled && config.relays.is_empty() {
            return Err(wrong("relay.enabled", "is false, and there are no relays".to_owned()));
        }
        Ok(config)
    }
}

/// The line of a dotted key such as `agents.0.name`, or of the nearest thing above it.
fn line(text: &str, key: &str) -> usize {
    let mut at = 0;
    if let Ok(table) = DeTable::parse(text) {
        let mut here = Some(DeValue::Table(table.into_inner()));
        for part in key.split('.') {
            let next = match here {
                Some(DeValue::Table(table)) => {
                    table.into_iter().find(|(name, _)| name.get_ref() == part).map(|(_, value)| value)
                }
                Some(DeValue::Array(array)) => part.parse().ok().and_then(|n| array.into_iter().nth(n)),
                _ => None,
            };
            at = next.as_ref().map_or(at, |next| next.span().start);
            here = next.map(Spanned::into_inner);
        }
    }
    text.get(..at).unwrap_or_default().matches('\n').count() + 1
}

/// Reads a relay's address.
///
/// # Errors
/// Names it.
pub(crate) fn relay_url(url: &str) -> std::result::Result<RelayUrl, String> {
    RelayUrl::parse(url).map_err(|error| format!("{url:?} is no relay address (wss://… or ws://…): {error}"))
}

/// The file that `oa-node init` writes.
pub(crate) fn template(operators: &[Npub], relays: &[String]) -> String {
    let list =
        |items: Vec<String>| items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(", ");
    let operators = list(operators.iter().map(ToString::to_string).collect());
    format!(
        r#"# oa-node: what this node is and where. Read at start; a change takes effect with the next.

# Who may steer this node by events, as npub. They need no account and no open port here.
operators = [{operators}]

# Relays to live on, besides the bundled one: other people's clients find the agents there.
relays = [{relays}]

# A domain of yours at which agents have names, such as concierge@example.com (NIP-05): have it answer
# /.well-known/nostr.json as the bundled relay does, which serves that document.
# domain = "example.com"

# Host names or addresses that relays named by correspondents may have although they are private.
allow_private = []

# Who may consent to what any agent wishes for, and who may see how everything does, as npub.
approvers = []
viewers = []

# Hosts of private networks that agents' HTTP requests may go to, such as "localhost:11434".
http_private = []

# An agent that nothing came to for this long sleeps; it costs one row then.
dormant_after_s = 300

[journals]
# What ticks did outside is kept so long after they are over, in seconds, and so much of it, in bytes.
kept_s = 604800
bytes_max = 1073741824

# The wallet that the agents have their accounts in: a connection of `oa wallet connect NAME --account operator --out FILE`,
# or of any wallet that speaks Nostr Wallet Connect. See docs/wallet.md.
# [wallet]
# nwc_file = "node.nwc"
# sats_per_usd = 1000
# Or instead of that, where the price of one bitcoin in US dollars is read: a JSON document, and where it stands in it.
# [wallet.rate]
# url = "https://api.coinbase.com/v2/prices/BTC-USD/spot"
# pointer = "/data/amount"
# every_s = 60
# fresh_s = 300

[relay]
# The bundled relay. Without it, `relays` must name at least one.
enabled = true
listen = "127.0.0.1:7447"
# How others reach it, if they can: a TLS proxy in front of it, say. Agents publish this address.
# url = "wss://relay.example"
# One subscription for everybody's mail instead of shards of 500 agents; pays off from some hundred agents on.
wide = false

[sweep]
# How often relays are looked through for mail that did not come by itself, in milliseconds: by reconciliation
# (NIP-77), or where a relay lacks it, page by page.
every_ms = 60000
paging_every_ms = 900000

# Folders of this machine that manifests may mount ([[mounts]] from = ["work"]); see docs/namespace.md.
# [srv.work]
# path = "/data/work"
# access = "read_only"
# agents = ["alice"]

# Agents that are created at the start, unless they are there. Later ones: `oa agent new`.
[[agents]]
name = "concierge"
program = "concierge"
# owner = "npub1..."

[agents.dm]
# owner: only the owner. allowlist: and those in `allow`. pairing: strangers get a code the owner can let in.
# open: anybody.
policy = "open"
"#,
        relays = list(relays.to_vec()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid_and_errors_name_line_and_key() {
        let config = Config::parse(&template(&[], &["wss://relay.example".to_owned()])).unwrap();
        assert_eq!(config.agents.len(), 1);
        let typo = Config::parse("dormant_after = 3\n").unwrap_err();
        assert!(typo.contains("line 1") && typo.contains("dormant_after"), "{typo}");
        let wrong = Config::parse("[relay]\nlisten = \"here\"\n").unwrap_err();
        assert!(wrong.contains("line 2") && wrong.contains("listen"), "{wrong}");
        let relay = Config::parse("relays = [\"example.com\"]\n").unwrap_err();
        assert!(relay.contains("example.com"), "{relay}");
        let agent = Config::parse("[[agents]]\nname = \"A b\"\n").unwrap_err();
        assert!(agent.starts_with("line 2: agents.0.name: "), "{agent}");
        let off = Config::parse("[relay]\nenabled = false\n").unwrap_err();
        assert!(off.starts_with("line 2: relay.enabled: "), "{off}");
        let twice = "[[agents]]\nname = \"a\"\n\n[[agents]]\nprogram = \"echo\"\nname = \"a\"\n";
        let twice = Config::parse(twice).unwrap_err();
        assert!(twice.starts_with("line 6: agents.1.name: "), "{twice}");
        // What is left out is looked for where it would be.
        assert_eq!(line("\n[[agents]]\nname = \"a\"\n", "agents.0.program"), 2);
    }

    #[test]
    fn a_rate_is_set_or_read_and_errors_name_the_key() {
        let wallet = "[wallet]\nnwc_file = \"n\"\n";
        let read = format!("{wallet}[wallet.rate]\nurl = \"https://a.b/c\"\npointer = \"/usd\"\n");
        assert!(Config::parse(&read).is_ok());
        for (more, key) in [
            ("every_s = 0", "wallet.rate.every_s"),
            ("every_s = 200", "wallet.rate.fresh_s"),
            ("fresh_s = 86401", "wallet.rate.fresh_s"),
        ] {
            let refused = Config::parse(&format!("{read}{more}\n")).unwrap_err();
            assert!(refused.contains(&format!("{key}: not from")), "{refused}");
        }
        for (right, bad, words) in [
            ("https://a.b/c", "ftp://a.b", "line 4: wallet.rate.url: the url is neither"),
            ("/usd", "usd", "line 5: wallet.rate.pointer: not a JSON pointer"),
            ("/usd", "/u~2", "line 5: wallet.rate.pointer: "),
            ("pointer", "pointr", "pointr"),
        ] {
            let refused = Config::parse(&read.replace(right, bad)).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
        let both = Config::parse(&read.replace("\"n\"", "\"n\"\nsats_per_usd = 1")).unwrap_err();
        assert!(both.starts_with("line 4: wallet.rate: stands beside"), "{both}");
        assert!(Config::parse(&format!("{wallet}rate = 3\n")).unwrap_err().contains("line 3"));
    }
}
