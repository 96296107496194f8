//! Where the real programs are: beside the test that runs them, built for the same profile.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow, ensure};

/// One of the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `oa`
    Oa,
    /// `oa-node`
    OaNode,
    /// `oa-wallet`
    OaWallet,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Oa => "oa",
            Self::OaNode => "oa-node",
            Self::OaWallet => "oa-wallet",
        }
    }
}

/// The folder of the programs.
#[derive(Debug)]
pub struct Programs(PathBuf);

impl Programs {
    /// Where a program is.
    pub fn path(&self, program: Program) -> PathBuf {
        self.0.join(program.name())
    }

    /// Programs that are not there, or older than the test that wants them, are built: a test is linked with the
    /// library they are made of, so it cannot be older than a change to them.
    fn find() -> Result<Self> {
        if let Some(dir) = std::env::var_os("OA_TEST_PROGRAMS") {
            return Ok(Self(dir.into()));
        }
        let exe = std::env::current_exe()?;
        let above = exe.parent().context("a test is in a folder")?;
        let dir =
            if above.ends_with("deps") { above.parent().context("deps is in a folder")? } else { above };
        let found = Self(dir.to_owned());
        let asked = modified(&exe)?;
        let is_fresh = |program| modified(&found.path(program)).is_ok_and(|built| built >= asked);
        if ![Program::Oa, Program::OaNode, Program::OaWallet].into_iter().all(is_fresh) {
            build(dir)?;
        }
        Ok(found)
    }
}

fn modified(path: &Path) -> Result<SystemTime> {
    Ok(std::fs::metadata(path)?.modified()?)
}

fn build(dir: &Path) -> Result<()> {
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target = dir.parent().context("a profile's folder is in the target folder")?;
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--package", "oa-cli", "--profile", profile, "--manifest-path"])
        .arg(manifest)
        .env("CARGO_TARGET_DIR", target)
        .status()
        .context("cargo does not start")?;
    ensure!(status.success(), "cargo build --package oa-cli --profile {profile}: {status}");
    Ok(())
}

/// The programs, found or built once. `OA_TEST_PROGRAMS` names a folder that has other ones to be tested.
///
/// # Errors
/// When they are not there and cannot be built.
pub fn programs() -> Result<&'static Programs> {
    static FOUND: OnceLock<Result<Programs, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| Programs::find().map_err(|error| format!("{error:#}")));
    found.as_ref().map_err(|error| anyhow!("no programs to test: {error}"))
}
