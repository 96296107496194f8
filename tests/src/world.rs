//! A world: temporary homes, and the real programs that run in them.
//!
//! A [`World`] owns a folder that goes away with it. A [`Home`] is one node's home in it, with a port of its own
//! that stays the same over restarts. A [`Process`] is a program that runs there, killed when dropped. What a
//! process prints is kept beside its home (`NAME.stdout.log`, `NAME.stderr.log`), whole, over all restarts.

mod process;
mod programs;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

pub use process::{Launch, Process, field, is};
pub use programs::{Program, programs};

/// Longest wait for anything that should take milliseconds; reached only by a failing test.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// Ports of homes are taken below the range from which the system gives ports to connections.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A folder of homes. Set `OA_TEST_KEEP=1` to find it after the test.
#[derive(Debug)]
pub struct World {
    dir: Option<TempDir>,
    path: PathBuf,
}

/// A home, which need not exist yet.
#[derive(Debug, Clone)]
pub struct Home {
    dir: PathBuf,
    port: u16,
}

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct Done {
    /// The exit code; nothing when a signal ended it.
    pub code: Option<i32>,
    /// Its results.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

impl Done {
    /// The lines of stdout as JSON.
    ///
    /// # Errors
    /// When a line is none.
    pub fn json(&self) -> Result<Vec<serde_json::Value>> {
        let parse = |line: &str| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"));
        self.stdout.lines().map(parse).collect()
    }

    /// Checks that it went well; answers stdout.
    ///
    /// # Errors
    /// With all it printed.
    pub fn ok(self) -> Result<String> {
        ensure!(self.code == Some(0), "exit code {:?}\n{}\n{}", self.code, self.stdout, self.stderr);
        Ok(self.stdout)
    }
}

impl World {
    /// An empty world.
    ///
    /// # Errors
    /// What the file system said.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("oa-world-").tempdir()?;
        let path = dir.path().to_owned();
        if std::env::var_os("OA_TEST_KEEP").is_some() {
            return Ok(Self { path: dir.keep(), dir: None });
        }
        Ok(Self { dir: Some(dir), path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the folder goes away with this.
    pub fn is_temporary(&self) -> bool {
        self.dir.is_some()
    }

    /// A home of this name, not created yet, with a free port.
    ///
    /// # Errors
    /// When no port is free.
    pub fn home(&self, name: &str) -> Result<Home> {
        Home::at(self.path.join(name))
    }
}

impl Home {
    /// A home anywhere.
    ///
    /// # Errors
    /// When no port is free.
    pub fn at(dir: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self { dir: dir.into(), port: free_port()? })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The port its relay listens on, the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1` and the port.
    pub fn listen(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where its relay is.
    pub fn relay_url(&self) -> String {
        format!("ws://{}", self.listen())
    }

    /// Writes a file into the home, creating the folder; `config.toml` for one.
    ///
    /// # Errors
    /// What the file system said.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        Ok(std::fs::write(self.dir.join(file), text)?)
    }

    /// `oa up --json` on this home's port.
    pub fn up(&self) -> Launch {
        self.launch(Program::Oa, ["up", "--listen", &self.listen()])
    }

    /// `oa-node run --json`; what it does is in the home's config.toml.
    pub fn run(&self) -> Launch {
        self.launch(Program::OaNode, ["run"])
    }

    /// `oa relay --json` on this home's port, storing in this home.
    pub fn relay(&self) -> Launch {
        self.launch(Program::Oa, ["relay", "--listen", &self.listen()])
    }

    /// Any command that stays, with `--home` and `--json` before its arguments.
    pub fn launch<'a>(&self, program: Program, args: impl IntoIterator<Item = &'a str>) -> Launch {
        let mut launch = Launch::new(program, &self.dir);
        launch.args.extend(args.into_iter().map(str::to_owned));
        launch
    }

    /// Runs `oa` to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub async fn oa(&self, args: &[&str]) -> Result<Done> {
        self.command(Program::Oa, args).await
    }

    /// Runs `oa-node` to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub async fn oa_node(&self, args: &[&str]) -> Result<Done> {
        self.command(Program::OaNode, args).await
    }

    /// Runs `oa-wallet` to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub async fn oa_wallet(&self, args: &[&str]) -> Result<Done> {
        self.command(Program::OaWallet, args).await
    }

    async fn command(&self, program: Program, args: &[&str]) -> Result<Done> {
        let mut command = tokio::process::Command::new(programs()?.path(program));
        command.arg("--home").arg(&self.dir).args(args);
        finish(command).await.with_context(|| format!("{program:?} {args:?}"))
    }
}

/// Runs a command to its end, without stdin, and gives what it left.
///
/// # Errors
/// When it cannot be started, or does not end within a minute.
pub async fn finish(mut command: tokio::process::Command) -> Result<Done> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(3 * DEADLINE, command.output()).await.context("it does not end")??;
    Ok(Done {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A port that nobody listens on, never the same one twice in a process.
///
/// # Errors
/// When all are taken.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let size = PORTS.end - PORTS.start;
    // Tests run in several processes at once; each begins elsewhere.
    let begin = std::process::id().wrapping_mul(97) % u32::from(size);
    for _ in 0..size {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from((begin + step) % u32::from(size))?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no port is free")
}

/// Asks again and again until there is an answer.
///
/// # Errors
/// When there is none within `within`, with what was last in the way.
pub async fn eventually<T, F: Future<Output = Result<T>>>(
    within: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<T> {
    /// Between two questions.
    const PAUSE: Duration = Duration::from_millis(20);
    let deadline = tokio::time::Instant::now() + within;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_free() {
        let ports = [free_port().unwrap(), free_port().unwrap(), free_port().unwrap()];
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2], "{ports:?}");
        for port in ports {
            TcpListener::bind(("127.0.0.1", port)).unwrap();
        }
    }

    #[test]
    fn a_world_takes_its_folder_along() {
        let world = World::new().unwrap();
        let path = world.path().to_owned();
        let home = world.home("a").unwrap();
        home.write("config.toml", "x").unwrap();
        assert!(path.join("a/config.toml").exists());
        let is_temporary = world.is_temporary();
        drop(world);
        assert_eq!(path.exists(), !is_temporary);
    }
}
