//! `wallet.toml`: which coins, who tells about the chain, which relays, where peers come in. Unknown keys are refused.

use std::path::{Path, PathBuf};
use std::time::Duration;

use oa_nips::nostr::RelayUrl;
use oa_wallet::backend::ldk::{ChainSource, Config as Lightning, Lsp, Password, SyncRate};
use oa_wallet::backend::{Network, NodeId};
use oa_wallet::msat::Msat;
use serde::Deserialize;

use super::secret;
use crate::config::relay_url;
use crate::error::{Error, Kind, Result};

/// How often a chain of one's own is asked, in milliseconds: nobody minds, and everything there is quick.
const REGTEST_SYNC_MS: u64 = 1_000;
/// How often any may be asked at most, in milliseconds.
const SYNC_MS_MIN: u64 = 50;

/// Whose coins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Coins {
    Mainnet,
    Testnet,
    Signet,
    Regtest,
    /// Worth nothing, and kept nowhere but in the ledger.
    PlayMoney,
}

impl Coins {
    /// The network, where they are real.
    pub(crate) fn network(self) -> Option<Network> {
        match self {
            Self::Mainnet => Some(Network::Mainnet),
            Self::Testnet => Some(Network::Testnet),
            Self::Signet => Some(Network::Signet),
            Self::Regtest => Some(Network::Regtest),
            Self::PlayMoney => None,
        }
    }

    /// As people read it.
    pub(crate) fn name(self) -> &'static str {
        self.network().map_or(super::PLAY_MONEY, Network::name)
    }

    /// As `wallet.toml` has it.
    pub(crate) fn word(self) -> &'static str {
        self.network().map_or("play-money", Network::name)
    }
}

impl From<Network> for Coins {
    fn from(network: Network) -> Self {
        match network {
            Network::Mainnet => Self::Mainnet,
            Network::Testnet => Self::Testnet,
            Network::Signet => Self::Signet,
            Network::Regtest => Self::Regtest,
        }
    }
}

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Whose coins; never changed once there are some.
    pub(crate) network: Coins,
    /// Where it is spoken to.
    pub(crate) relays: Vec<String>,
    /// What it calls itself among Lightning nodes.
    #[serde(default = "alias")]
    pub(crate) alias: String,
    /// Where it listens for Lightning peers, as `host:port`.
    #[serde(default)]
    pub(crate) listen: Vec<String>,
    /// What it tells peers to dial.
    #[serde(default)]
    pub(crate) announce: Vec<String>,
    /// A server that condenses the network's channels.
    #[serde(default)]
    pub(crate) rapid_gossip: Option<String>,
    /// Who tells about the chain.
    #[serde(default)]
    pub(crate) chain: Option<Chain>,
    /// A provider of inbound liquidity (LSPS2).
    #[serde(default)]
    pub(crate) lsp: Option<Provider>,
}

fn alias() -> String {
    "oa".to_owned()
}

/// `[chain]`: exactly one of them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Chain {
    /// The URL of an Esplora API.
    pub(crate) esplora: Option<String>,
    /// `ssl://host:port` or `tcp://host:port`.
    pub(crate) electrum: Option<String>,
    /// A bitcoind's RPC.
    pub(crate) bitcoind: Option<Bitcoind>,
    /// How often it is asked, in milliseconds; by default as suits a public server, and every second on regtest. A
    /// bitcoind is asked every two seconds.
    pub(crate) sync_ms: Option<u64>,
}

/// `[chain.bitcoind]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bitcoind {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    /// A file with the password, for its owner only.
    pub(crate) password_file: PathBuf,
}

/// `[lsp]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provider {
    pub(crate) node: String,
    pub(crate) address: String,
    /// A file with the token, for its owner only.
    #[serde(default)]
    pub(crate) token_file: Option<PathBuf>,
    /// The most it may keep of a payment: this,
    pub(crate) fee_max_msat: u64,
    /// and so many millionths of it.
    #[serde(default)]
    pub(crate) fee_max_ppm: u32,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Names the file, and within it line and key.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let kind =
                if error.kind() == std::io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Failed };
            Error::new(kind, format!("{}: {error}", path.display()))
                .hint("`oa-wallet init` makes a wallet; --home names another home")
        })?;
        let mut config: Self = toml::from_str(&text)
            .map_err(|error| Error::new(Kind::Usage, format!("{}: {error}", path.display())))?;
        config.place(path.parent().unwrap_or(Path::new(".")));
        Ok(config)
    }

    /// Files that it names are beside it, wherever the wallet is started.
    fn place(&mut self, folder: &Path) {
        let password = self.chain.iter_mut().filter_map(|chain| chain.bitcoind.as_mut());
        let token = self.lsp.iter_mut().filter_map(|lsp| lsp.token_file.as_mut());
        for file in password.map(|bitcoind| &mut bitcoind.password_file).chain(token) {
            *file = folder.join(&file);
        }
    }

    /// The relays.
    ///
    /// # Errors
    /// Names what is none; at least one is needed.
    pub(crate) fn relays(&self) -> Result<Vec<RelayUrl>> {
        let parse = |url: &String| relay_url(url).map_err(|reason| Error::new(Kind::Usage, reason));
        let relays = self.relays.iter().map(parse).collect::<Result<Vec<_>>>()?;
        if relays.is_empty() {
            return Err(Error::new(Kind::Usage, "wallet.toml names no relay"));
        }
        Ok(relays)
    }

    /// How the Lightning node is set up that keeps its things in `dir`.
    ///
    /// # Errors
    /// What is missing or cannot be read.
    pub(crate) fn lightning(&self, network: Network, dir: PathBuf) -> Result<Lightning> {
        Ok(Lightning {
            alias: self.alias.clone(),
            listen: self.listen.clone(),
            announce: self.announce.clone(),
            rapid_gossip: self.rapid_gossip.clone(),
            lsp: self.lsp.as_ref().map(Provider::lsp).transpose()?,
            sync: self.sync_rate(network),
            ..Lightning::new(dir, network, self.source()?)
        })
    }

    fn sync_rate(&self, network: Network) -> SyncRate {
        let chain = self.chain.clone().unwrap_or_default();
        let asked = chain.sync_ms.or((network == Network::Regtest).then_some(REGTEST_SYNC_MS));
        match asked {
            Some(ms) if chain.bitcoind.is_none() => {
                SyncRate::Every(Duration::from_millis(ms.max(SYNC_MS_MIN)))
            }
            _ => SyncRate::Default,
        }
    }

    fn source(&self) -> Result<ChainSource> {
        let chain = self.chain.clone().unwrap_or_default();
        match (chain.esplora, chain.electrum, chain.bitcoind) {
            (Some(url), None, None) => Ok(ChainSource::Esplora { url }),
            (None, Some(url), None) => Ok(ChainSource::Electrum { url }),
            (None, None, Some(Bitcoind { host, port, user, password_file })) => {
                let password = Password(secret::read(&password_file)?.trim().to_owned());
                Ok(ChainSource::Bitcoind { host, port, user, password })
            }
            _ => Err(Error::new(
                Kind::Usage,
                "wallet.toml: [chain] has to name one of esplora, electrum, bitcoind",
            )),
        }
    }
}

impl Provider {
    fn lsp(&self) -> Result<Lsp> {
        let node_id: NodeId = self
            .node
            .parse()
            .map_err(|error| Error::new(Kind::Usage, format!("wallet.toml: lsp.node: {error}")))?;
        let token = self.token_file.as_deref().map(secret::read).transpose()?;
        Ok(Lsp {
            node_id,
            address: self.address.clone(),
            token: token.map(|token| Password(token.trim().to_owned())),
            fee_max: Msat::new(self.fee_max_msat),
            fee_max_ppm: self.fee_max_ppm,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_beside_the_file_and_for_its_owner() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wallet.toml");
        let node = "02104d67a82954b6ab5da6b825dfe4d14985a314c1e12a87b084b9c4b5b77e4722";
        let text = format!(
            "network = \"signet\"\nrelays = [\"ws://a.b\"]\n[lsp]\nnode = \"{node}\"\naddress = \"a:1\"\n\
             token_file = \"token\"\nfee_max_msat = 1\n"
        );
        std::fs::write(&path, text).unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "secret\n").unwrap();
        let lsp = || Config::load(&path).unwrap().lsp.unwrap().lsp();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(lsp().unwrap_err().to_string().contains("can be read by others"));
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(lsp().unwrap().token, Some(Password("secret".to_owned())));
    }

    #[test]
    fn a_chain_has_one_source() {
        let config = |chain: &str| -> Config {
            toml::from_str(&format!("network = \"regtest\"\nrelays = [\"ws://a.b\"]\n[chain]\n{chain}"))
                .unwrap()
        };
        assert!(matches!(config("esplora = \"http://x\"").source(), Ok(ChainSource::Esplora { .. })));
        assert!(config("").source().is_err());
        let rate = |chain: &str, network| config(chain).sync_rate(network);
        let every = |ms| SyncRate::Every(Duration::from_millis(ms));
        assert_eq!(rate("esplora = \"http://x\"", Network::Regtest), every(1_000));
        assert_eq!(rate("esplora = \"http://x\"", Network::Signet), SyncRate::Default);
        assert_eq!(rate("esplora = \"http://x\"\nsync_ms = 0", Network::Signet), every(50));
        assert!(config("esplora = \"http://x\"\nelectrum = \"tcp://x:1\"").source().is_err());
        assert!(toml::from_str::<Config>("network = \"regtest\"\nrelays = []\nextra = 1").is_err());
        assert!(toml::from_str::<Config>("network = \"bitcoin\"\nrelays = []").is_err());
    }
}
