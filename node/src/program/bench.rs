//! A bench to try programs on: ticks on files in memory, without a node.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use oa_nips::nostr::PublicKey;
use serde_json::Value;

use super::{Agent, Fault, Tick};
use crate::agent::AgentId;
use crate::agent::envelope::{Envelope, Kind, Trust};
use crate::agent::manifest::Manifest;
use crate::engine::clock::{Clock, Random};
use crate::namespace::journal::{Line, Pin};
use crate::namespace::mount::Mounts;
use crate::namespace::service::FileType;
use crate::namespace::{Consent, Done, Durable, Error, MemoryState, Namespace, NoConsent, Setting};
use crate::serve;
use crate::store::row::AgentRow;

/// An agent between its ticks, whose files are in memory.
#[derive(Debug)]
pub struct Bench {
    /// Its files by path.
    pub files: MemoryState,
    /// Its mounts: its own files, `/trigger` and `/status`; more may be added.
    pub mounts: Mounts,
    /// Who is asked before a change; nobody at first.
    pub consent: Arc<dyn Consent>,
    manifest: Arc<Manifest>,
    row: Arc<AgentRow>,
}

/// A journal that nobody reads again.
#[derive(Debug)]
struct Nowhere;

impl Durable for Nowhere {
    fn record(&self, _: u32, _: Vec<Line>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}

impl Bench {
    /// An agent with no files.
    pub fn new(pubkey: PublicKey) -> Self {
        let row = AgentRow::new(AgentId(0), pubkey, 0);
        let manifest = Arc::new(Manifest::new("bench", "bench"));
        Self {
            files: MemoryState::default(),
            mounts: serve::own_files(),
            consent: Arc::new(NoConsent),
            manifest,
            row: Arc::new(row),
        }
    }

    /// One tick that reads `trigger` and `status`, at this time in milliseconds since 1970. What it changes in files
    /// is there for the next.
    ///
    /// # Errors
    /// The program's own.
    pub async fn tick(
        &mut self,
        program: &dyn Agent,
        trigger: &Value,
        status: &str,
        now_ms: u64,
    ) -> Result<Done, Fault> {
        let mut mounts = self.mounts.clone();
        for (path, content) in [("/trigger", trigger.to_string()), ("/status", status.to_owned())] {
            let file = serve::OneFile::value(move |_| Ok(content.clone().into_bytes())).fixed();
            mounts.mount_file(serve::at(path), FileType::Value, Arc::new(file), "given");
        }
        let setting = Setting {
            mounts: Arc::new(mounts),
            row: self.row.clone(),
            manifest: self.manifest.clone(),
            envelope: Arc::new(Envelope::from_node(Kind::Poke, "bench", now_ms)),
            committed: Arc::new(self.files.clone()),
            durable: Arc::new(Nowhere),
            consent: self.consent.clone(),
        };
        let pin = Pin { program: "bench".to_owned(), trust: Trust::Node };
        let ns = Namespace::new(setting, pin, Vec::new()).map_err(|e| Fault::Failed(e.to_string()))?;
        let random = Random::new(&[1; 32], &[2; 32]);
        let mut tick = Tick { ns, clock: Clock::new(now_ms), random };
        program.on_trigger(&mut tick).await?;
        let done = tick.ns.finish().map_err(|error| Fault::Failed(error.to_string()))??;
        for (path, content) in &done.files {
            match content {
                Some(content) => self.files.0.insert(path.to_string(), content.clone()),
                None => self.files.0.remove(path.as_str()),
            };
        }
        Ok(done)
    }
}
