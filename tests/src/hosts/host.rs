//! One network namespace: programs and threads run inside it, and it goes away when dropped.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

/// Where `ip netns` keeps them.
const FOLDER: &str = "/run/netns";

/// A host made of a network namespace.
#[derive(Debug)]
pub struct Host {
    name: String,
}

impl Host {
    pub(super) fn add(name: String) -> Result<Self> {
        said("ip", &["netns", "add", &name])?;
        Ok(Self { name })
    }

    /// What `ip netns` calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip` in this host; the words are parted by spaces.
    pub(super) fn ip(&self, words: &str) -> Result<String> {
        let words: Vec<&str> = ["-n", &self.name].into_iter().chain(words.split(' ')).collect();
        said("ip", &words)
    }

    /// A command inside; its words are parted by spaces.
    pub(super) fn exec(&self, words: &str) -> Result<String> {
        let words: Vec<&str> = ["netns", "exec", &self.name].into_iter().chain(words.split(' ')).collect();
        said("ip", &words)
    }

    /// Runs something inside, on a thread of its own with a runtime of its own; programs that it starts are inside too.
    ///
    /// # Errors
    /// When the namespace cannot be entered; what `make` says.
    pub async fn run<T, Make, Made>(&self, make: Make) -> Result<T>
    where
        T: Send + 'static,
        Make: FnOnce() -> Made + Send + 'static,
        Made: Future<Output = Result<T>>,
    {
        let namespace = File::open(Path::new(FOLDER).join(&self.name))?;
        let (tell, told) = oneshot::channel();
        std::thread::Builder::new().name(self.name.clone()).spawn(move || {
            // Nobody listens any more: then nobody need know.
            let _ = tell.send(inside(&namespace, make));
        })?;
        told.await.context("the thread in the host panicked")?
    }
}

fn inside<T, Made: Future<Output = Result<T>>>(namespace: &File, make: impl FnOnce() -> Made) -> Result<T> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { make().await })
}

impl Drop for Host {
    fn drop(&mut self) {
        // Its links go with it.
        let _ = said("ip", &["netns", "delete", &self.name]);
    }
}

fn said(program: &str, words: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(words).stdin(Stdio::null()).output().context(program.to_owned())?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", words.join(" "), stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
