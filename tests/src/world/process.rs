//! A program that runs: its ready line, what it tells, and its end, wanted or not.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use oa_nips::nostr::PublicKey;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;

use crate::world::{DEADLINE, Program, programs};

/// Events kept to be waited for; a benchmark tells far more than anybody looks at.
const EVENTS_MAX: usize = 20_000;

/// How a program is started; the same each time.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Which one.
    pub program: Program,
    /// After `--home DIR` and `--json`.
    pub args: Vec<String>,
    /// Its environment, besides the test's own.
    pub envs: Vec<(String, String)>,
    flags: &'static [&'static str],
    home: PathBuf,
    /// The network namespace it is started in.
    netns: Option<String>,
}

/// A running program; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    launch: Launch,
    child: Child,
    ready: Value,
    told: Arc<Told>,
    changed: watch::Receiver<u64>,
}

/// What it told on stdout.
#[derive(Debug, Default)]
struct Told {
    events: Mutex<VecDeque<(u64, Value)>>,
}

impl Launch {
    pub(super) fn new(program: Program, home: &Path) -> Self {
        Self {
            program,
            args: Vec::new(),
            envs: Vec::new(),
            flags: &["--json"],
            home: home.to_owned(),
            netns: None,
        }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// With a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.envs.push((name.into(), value.into()));
        self
    }

    /// In a network namespace, by the name that `ip netns` knows.
    #[must_use]
    pub fn inside(mut self, netns: &str) -> Self {
        self.netns = Some(netns.to_owned());
        self
    }

    /// As a person starts it, without `--json`.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.flags = &[];
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it ends before, or is not ready in [`DEADLINE`]; with what it printed on stderr.
    pub async fn start(self) -> Result<Process> {
        let mut process = self.spawn()?;
        match process.wait_for(DEADLINE, |event| is(event, "ready")).await {
            Ok(ready) => process.ready = ready,
            Err(error) => {
                let stderr = process.stderr().unwrap_or_default();
                return Err(error.context(format!("not ready; stderr: {stderr}")));
            }
        }
        Ok(process)
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(self) -> Result<Process> {
        let stdout_log = log(&self.home, "stdout")?;
        let stderr_log = log(&self.home, "stderr")?;
        let program = programs()?.path(self.program);
        let mut command = match &self.netns {
            None => Command::new(program),
            // `ip` becomes the program: its process id is that of the program.
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns]).arg(program);
                command
            }
        };
        let mut child = command
            .arg("--home")
            .arg(&self.home)
            .args(self.flags)
            .args(&self.args)
            .envs(self.envs.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr_log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {:?}", self.program))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let told = Arc::new(Told::default());
        let (change, changed) = watch::channel(0);
        tokio::spawn(listen(stdout, stdout_log, told.clone(), change));
        Ok(Process { launch: self, child, ready: Value::Null, told, changed })
    }
}

/// A log beside the home, to be appended to.
fn log(home: &Path, stream: &str) -> Result<File> {
    let path = log_path(home, stream);
    OpenOptions::new().create(true).append(true).open(&path).with_context(|| path.display().to_string())
}

fn log_path(home: &Path, stream: &str) -> PathBuf {
    let name = home.file_name().unwrap_or_default().to_string_lossy();
    home.with_file_name(format!("{name}.{stream}.log"))
}

/// Keeps what is told, until there is no more.
async fn listen(stdout: ChildStdout, mut log: File, told: Arc<Told>, change: watch::Sender<u64>) {
    let mut lines = BufReader::new(stdout).lines();
    let mut number = 0;
    while let Ok(Some(line)) = lines.next_line().await {
        // A full disk shows in the test that looks for the line.
        let _ = writeln!(log, "{line}");
        let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
        number += 1;
        {
            let mut events = told.events.lock().unwrap_or_else(PoisonError::into_inner);
            if events.len() >= EVENTS_MAX {
                events.pop_front();
            }
            events.push_back((number, event));
        }
        change.send_replace(number);
    }
}

impl Process {
    /// The ready line.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// Where its relay is.
    ///
    /// # Errors
    /// When the ready line does not say.
    pub fn relay(&self) -> Result<String> {
        Ok(field(&self.ready, "relay").context("the ready line names a relay")?.to_owned())
    }

    /// The node's key.
    ///
    /// # Errors
    /// When the ready line does not say.
    pub fn node(&self) -> Result<PublicKey> {
        key(field(&self.ready, "node"))
    }

    /// An agent's key.
    ///
    /// # Errors
    /// When the ready line does not name it.
    pub fn agent(&self, name: &str) -> Result<PublicKey> {
        let agents = self.ready.get("agents").and_then(Value::as_array);
        let agents = agents.context("the ready line lists agents")?;
        let agent = agents.iter().find(|agent| field(agent, "name") == Some(name));
        key(field(agent.with_context(|| format!("no agent {name}"))?, "npub"))
    }

    /// The process id.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("the process has ended")
    }

    /// How many events it has told: for [`Process::wait_since`].
    pub fn told(&self) -> u64 {
        *self.changed.borrow()
    }

    /// All events it has told since it was started, the newest 20,000.
    pub fn events(&self) -> Vec<Value> {
        let events = self.told.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().map(|(_, event)| event.clone()).collect()
    }

    /// Waits for an event that it told at any time since it was started.
    ///
    /// # Errors
    /// When there is none within `within`, or no more can come.
    pub async fn wait_for(&self, within: Duration, is_it: impl FnMut(&Value) -> bool) -> Result<Value> {
        self.wait_since(0, within, is_it).await
    }

    /// Waits for an event after the first `seen`.
    ///
    /// # Errors
    /// As [`Process::wait_for`].
    pub async fn wait_since(
        &self,
        seen: u64,
        within: Duration,
        mut is_it: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = tokio::time::Instant::now() + within;
        let mut changed = self.changed.clone();
        let mut seen = seen;
        loop {
            changed.borrow_and_update();
            {
                let events = self.told.events.lock().unwrap_or_else(PoisonError::into_inner);
                for (number, event) in events.iter() {
                    if *number <= seen {
                        continue;
                    }
                    seen = *number;
                    if is_it(event) {
                        return Ok(event.clone());
                    }
                }
            }
            match tokio::time::timeout_at(deadline, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => bail!("it ended its output without the event waited for"),
                Err(_) => bail!("the event waited for did not come within {within:?}"),
            }
        }
    }

    /// Everything this home's programs printed on stderr.
    ///
    /// # Errors
    /// What the file system said.
    pub fn stderr(&self) -> Result<String> {
        Ok(std::fs::read_to_string(log_path(&self.launch.home, "stderr"))?)
    }

    /// Everything this home's programs printed on stdout.
    ///
    /// # Errors
    /// What the file system said.
    pub fn stdout(&self) -> Result<String> {
        Ok(std::fs::read_to_string(log_path(&self.launch.home, "stdout"))?)
    }

    /// Resident memory, in bytes.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn rss_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()?)?;
        Ok(kill_process(Pid::from_raw(pid).context("a process id")?, signal)?)
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self) -> Result<()> {
        if self.child.id().is_some() {
            self.signal(Signal::KILL)?;
        }
        self.wait(DEADLINE).await.map(drop)
    }

    /// SIGTERM; answers the exit code.
    ///
    /// # Errors
    /// When it does not end within `within`, or a signal ended it.
    pub async fn terminate(&mut self, within: Duration) -> Result<i32> {
        self.signal(Signal::TERM)?;
        let status = self.wait(within).await?;
        status.code().ok_or_else(|| anyhow!("ended by a signal: {status}"))
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When it does not come within `within`.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let ended = tokio::time::timeout(within, self.child.wait()).await;
        Ok(ended.map_err(|_| anyhow!("still running after {within:?}"))??)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Starts the same again after its end; answers how long it took to be ready.
    ///
    /// # Errors
    /// When it still runs, or is not ready in time.
    pub async fn restart(&mut self) -> Result<Duration> {
        ensure!(!self.is_running()?, "it still runs");
        let began = Instant::now();
        *self = self.launch.clone().start().await?;
        Ok(began.elapsed())
    }
}

fn key(npub: Option<&str>) -> Result<PublicKey> {
    Ok(PublicKey::parse(npub.context("an npub")?)?)
}

/// A text in a JSON object.
pub fn field<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str()
}

/// Whether an event of stdout has this name.
pub fn is(event: &Value, name: &str) -> bool {
    field(event, "event") == Some(name)
}
