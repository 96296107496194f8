//! A process of a devnet: one of our programs, found beside the running one, told to end when its stdin does.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Kind, Result};

/// How long a program may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// How long it may take to end; a wallet takes its time before it gives up, too.
const END: Duration = Duration::from_secs(70);
/// So much of what it said is shown where it failed, in bytes.
const SAID_MAX: usize = 2_000;

/// A process. Dropping it ends its stdin, and so it.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    process: tokio::process::Child,
    /// Kept apart, because who waits for a process closes its stdin.
    stdin: Option<ChildStdin>,
    stdout: Option<Lines<BufReader<ChildStdout>>>,
    /// What it says on stderr.
    log: PathBuf,
    _drained: Option<AbortOnDropHandle<()>>,
}

impl Child {
    /// Starts `program` in a home. `name` is for people, and for its log in the same folder as the home.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) fn start(program: &str, home: &Path, name: &str) -> Result<Self> {
        let log = home.with_file_name(format!("{name}.log"));
        let stderr = OpenOptions::new().create(true).append(true).open(&log)?;
        let path = beside(program)?;
        let mut process = Command::new(&path)
            .arg("--home")
            .arg(home)
            .args(["--json", "run", "--until-eof"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            // Ctrl-C is for this process, which ends the others in order.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                Error::new(Kind::Failed, format!("{}: {error}", path.display()))
                    .hint(format!("{program} belongs beside oa: install it there"))
            })?;
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        Ok(Self { name: name.to_owned(), process, stdin, stdout, log, _drained: None })
    }

    /// What it says when it is ready.
    ///
    /// # Errors
    /// When it ends before, or takes too long; with what it said.
    pub(crate) async fn ready(&mut self) -> Result<Value> {
        let Some(mut stdout) = self.stdout.take() else {
            return Err(Error::new(Kind::Failed, format!("{} was ready already", self.name)));
        };
        let ready = async {
            while let Ok(Some(line)) = stdout.next_line().await {
                let told = serde_json::from_str::<Value>(&line).unwrap_or_default();
                if told.get("event").and_then(Value::as_str) == Some("ready") {
                    return Some(told);
                }
            }
            None
        };
        match timeout(READY, ready).await {
            Ok(Some(told)) => {
                // A pipe that nobody reads would stop it.
                let drain = async move { while let Ok(Some(_)) = stdout.next_line().await {} };
                self._drained = Some(AbortOnDropHandle::new(tokio::spawn(drain)));
                Ok(told)
            }
            Ok(None) => Err(self.failure("did not start")),
            Err(_) => Err(self.failure("is not ready in time")),
        }
    }

    /// Waits for an end that should not come.
    pub(crate) async fn ended(&mut self) -> Error {
        // Whatever its code: nobody told it to.
        let _ = self.process.wait().await;
        self.failure("has ended")
    }

    fn failure(&self, what: &str) -> Error {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let from = said.len().saturating_sub(SAID_MAX);
        let said = said.get(said.ceil_char_boundary(from)..).unwrap_or_default().trim();
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        Error::new(Kind::Failed, format!("{} {what}{said}", self.name))
    }

    /// Its process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Ends it, by force where it does not end.
    async fn stop(mut self) -> Result<()> {
        drop(self.stdin.take());
        match timeout(END, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(_) => Err(self.failure("did not end well")),
            Err(_) => {
                // It may have ended just now.
                let _ = self.process.kill().await;
                Err(self.failure("did not end in time"))
            }
        }
    }
}

/// Ends several at once.
///
/// # Errors
/// The first that did not end well; all have ended.
pub(crate) async fn stop(children: Vec<Child>) -> Result<()> {
    let ended = futures_util::future::join_all(children.into_iter().map(Child::stop)).await;
    ended.into_iter().collect()
}

/// A program of ours, beside the one that runs.
fn beside(program: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.with_file_name(program))
}
