//! A relay, and the real wallet process with play money beside it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Customer;
use crate::world::{Done, Home, Process, Program, World};

/// A world with one wallet of play money, which runs.
#[derive(Debug)]
pub struct Purse {
    /// Where everything is.
    pub world: World,
    /// The wallet's home; its port is the relay's.
    pub home: Home,
    /// The relay.
    pub relay: Process,
    /// The wallet.
    pub wallet: Process,
}

impl Purse {
    /// Starts relay and wallet.
    ///
    /// # Errors
    /// When one of them does not.
    pub async fn start() -> Result<Self> {
        Self::start_with(|home| home.relay_url(), &[]).await
    }

    /// The same, with the relay's address as clients are to know it, and variables for the wallet's environment.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start_with(address: impl Fn(&Home) -> String, envs: &[(&str, &str)]) -> Result<Self> {
        let world = World::new()?;
        let home = world.home("a")?;
        let relay =
            home.launch(Program::Oa, ["relay", "--memory", "--listen", &home.listen()]).start().await?;
        Self::beside(world, home, relay, address, envs).await
    }

    /// A wallet beside a relay that runs.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn beside(
        world: World,
        home: Home,
        relay: Process,
        address: impl Fn(&Home) -> String,
        envs: &[(&str, &str)],
    ) -> Result<Self> {
        home.oa_wallet(&["init", "--fake", "--relay", &address(&home)]).await?.ok()?;
        let mut launch = home.launch(Program::OaWallet, ["run"]);
        for (name, value) in envs {
            launch = launch.env(*name, *value);
        }
        Ok(Self { wallet: launch.start().await?, world, home, relay })
    }

    /// `oa wallet … --json`, by the admin connection.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub async fn oa(&self, args: &[&str]) -> Result<Done> {
        self.home.oa(&[&["wallet"], args, &["--json"]].concat()).await
    }

    /// The same by another connection.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub async fn by(&self, connection: &Path, args: &[&str]) -> Result<Done> {
        let file = connection.to_str().context("a path")?;
        self.oa(&[&["--nwc-file", file], args].concat()).await
    }

    /// Makes a connection, in a file of its own.
    ///
    /// # Errors
    /// When the wallet refuses.
    pub async fn connect(&self, name: &str, more: &[&str]) -> Result<PathBuf> {
        let file = self.world.path().join(format!("{name}.nwc"));
        let out = file.to_str().context("a path")?;
        self.oa(&[&["connect", name, "--out", out], more].concat()).await?.ok()?;
        Ok(file)
    }

    /// Makes a connection and uses it.
    ///
    /// # Errors
    /// When the wallet refuses, or no relay answers.
    pub async fn customer(&self, name: &str, more: &[&str]) -> Result<Customer> {
        let file = self.connect(name, more).await?;
        Customer::of_file(&file).await
    }

    /// Uses the admin connection.
    ///
    /// # Errors
    /// When no relay answers.
    pub async fn admin(&self) -> Result<Customer> {
        Customer::of_file(&self.home.dir().join("wallet/admin.nwc")).await
    }
}
