//! What a node tells whoever runs it, as it happens: for terminals, logs and `--json`.

use oa_nips::mail::Protocol;
use serde::Serialize;
use tokio::sync::broadcast;

/// Notices kept for a listener that is behind; beyond it the listener is told how many it missed.
const BEHIND_MAX: usize = 1024;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Notice {
    /// Mail went into an inbox.
    MailIn { agent: String, from: String, protocol: Protocol, id: String },
    /// Mail was refused.
    MailRefused { agent: String, from: Option<String>, reason: String },
    /// A relay has an outgoing message.
    MailOut { agent: String, to: String, protocol: Protocol, relay: String },
    /// A tick ended.
    Tick { agent: String, seq: u64, outcome: String, duration_ms: u64 },
    /// An agent's lifecycle changed by itself.
    Lifecycle { agent: String, lifecycle: String, reason: String },
    /// A relay is connected and subscribed.
    RelayUp { relay: String },
    /// A relay is gone.
    RelayDown { relay: String, reason: String },
    /// Something the operator should know.
    Error { message: String },
}

/// Sends notices to whoever listens.
#[derive(Debug, Clone)]
pub struct Notices(broadcast::Sender<Notice>);

impl Default for Notices {
    fn default() -> Self {
        Self(broadcast::channel(BEHIND_MAX).0)
    }
}

impl Notices {
    /// Tells; nobody has to listen.
    pub(crate) fn tell(&self, notice: impl FnOnce() -> Notice) {
        if self.0.receiver_count() > 0 {
            // Fails only when the last listener has just gone.
            let _ = self.0.send(notice());
        }
    }

    /// Listens from now on.
    pub fn listen(&self) -> broadcast::Receiver<Notice> {
        self.0.subscribe()
    }
}
