//! Other people's clients, which `tests/interop/install.sh` installs, and the scripts that use them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

/// The scripts.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/interop");

/// Where the clients are installed, which they must be.
///
/// # Errors
/// When they are not, or others are.
pub fn installed() -> Result<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/oa-tests"));
    let cache = std::env::var_os("OA_TEST_CACHE").map(PathBuf::from).or_else(home).context("no HOME")?;
    let dir = cache.join("interop");
    let wanted = ["package.json", "requirements.txt"]
        .map(|file| std::fs::read_to_string(script(file)).unwrap_or_default())
        .concat();
    let found = std::fs::read_to_string(dir.join("installed")).unwrap_or_default();
    ensure!(
        found.trim() == wanted.trim(),
        "the clients are not installed, or old: run tests/interop/install.sh"
    );
    Ok(dir)
}

/// Where a script is.
pub fn script(name: &str) -> PathBuf {
    Path::new(SCRIPTS).join(name)
}

/// Runs a module of JavaScript; arguments follow.
///
/// # Errors
/// When there is no such script.
pub fn node(dir: &Path, name: &str) -> Result<Command> {
    let mut command = Command::new("node");
    // A module from stdin finds its dependencies by the current folder.
    let file = File::open(script(name)).with_context(|| name.to_owned())?;
    command.current_dir(dir).args(["--input-type=module", "-"]).stdin(Stdio::from(file));
    Ok(command)
}
