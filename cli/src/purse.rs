//! The wallet that a node is a customer of: a file with one connection, which is money and is read like a key.

use std::path::Path;

use oa_node::money::{self, Pricing, Rate, Uri};

use crate::config;
use crate::error::{Error, Kind, Result};
use crate::secret;

/// The connection that `oa up` takes without being told, in the home.
const FILE: &str = "node.nwc";

/// The wallet that a configuration names; its file is looked for in the home.
///
/// # Errors
/// When the file is not there, is no connection, or can be read by others.
pub(crate) fn of_config(home: &Path, wallet: &config::Wallet) -> Result<money::Config> {
    let rate = wallet.sats_per_usd.map(Rate::from_sats_per_usd).transpose();
    let rate = rate.map_err(|error| Error::new(Kind::Usage, format!("wallet.sats_per_usd: {error}")))?;
    let source = wallet.rate.as_ref().map(config::PriceSource::source).transpose();
    let source =
        source.map_err(|(key, error)| Error::new(Kind::Usage, format!("wallet.rate.{key}: {error}")))?;
    let rate = source.map(Pricing::Source).or(rate.map(Pricing::Fixed));
    Ok(money::Config { uri: read(&home.join(&wallet.nwc_file))?, rate })
}

/// The wallet of `oa up`: the one it is told, or the home's, if there is one.
///
/// # Errors
/// As [`of_config`].
pub(crate) fn of_home(home: &Path, told: Option<&Path>) -> Result<Option<money::Config>> {
    let default = home.join(FILE);
    let file = match told {
        Some(file) => file,
        None if default.exists() => &default,
        None => return Ok(None),
    };
    Ok(Some(money::Config { uri: read(file)?, rate: None }))
}

/// What to say in a home that has a wallet which the node does not use.
pub(crate) fn hint(home: &Path) -> Option<String> {
    let is_there = home.join("wallet").join("wallet.toml").exists();
    let file = home.join(FILE);
    is_there.then(|| {
        format!(
            "this home has a wallet that the agents do not use. To give them accounts in it, while it runs:\n  \
             oa wallet connect node --account operator --out {}\nand start again",
            file.display()
        )
    })
}

fn read(file: &Path) -> Result<Uri> {
    let text = secret::read(file).map_err(|error| match error.kind {
        Kind::NotFound => error.hint(
            "make one: oa wallet connect node --account operator --out FILE; or paste the line of your wallet into it, \
             and chmod 600 it",
        ),
        _ => error,
    })?;
    text.parse().map_err(|error| Error::new(Kind::Usage, format!("{}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const LINE: &str = "nostr+walletconnect://b889ff5b1513b641e2a139f661a661364979c5beee91842f8f0ef42ab558e9d4?relay=wss://a.b&\
        secret=71a8c14c1407c113601079c4302dab36460f0ccd0ad506f1f2dc73b5100e4f3c";

    #[test]
    fn the_file_is_found_in_the_home_and_must_be_the_owners_alone() {
        let home = tempfile::tempdir().unwrap();
        assert!(of_home(home.path(), None).unwrap().is_none());
        assert!(hint(home.path()).is_none());
        let wallet = config::Wallet { nwc_file: FILE.into(), sats_per_usd: Some(0), rate: None };
        assert!(of_config(home.path(), &wallet).unwrap_err().message.contains("sats_per_usd"));
        let wallet = config::Wallet { sats_per_usd: Some(1000), ..wallet };
        assert_eq!(of_config(home.path(), &wallet).unwrap_err().kind, Kind::NotFound);
        let file = home.path().join(FILE);
        secret::write(&file, LINE).unwrap();
        assert!(of_home(home.path(), None).unwrap().is_some());
        assert!(of_config(home.path(), &wallet).unwrap().rate.is_some());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = of_home(home.path(), None).unwrap_err();
        assert_eq!(refused.hint.unwrap(), format!("chmod 600 {}", file.display()));
        let other = home.path().join("other");
        secret::write(&other, "lnbc1").unwrap();
        let wrong = of_home(home.path(), Some(&other)).unwrap_err();
        assert!(wrong.message.contains("other") && !wrong.message.contains("lnbc1"), "{}", wrong.message);
        std::fs::create_dir(home.path().join("wallet")).unwrap();
        std::fs::write(home.path().join("wallet/wallet.toml"), "").unwrap();
        assert!(hint(home.path()).unwrap().contains("oa wallet connect node"));
    }
}
