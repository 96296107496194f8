//! What a node tells whoever runs it, as it happens: for terminals, logs and `--json`.

use std::sync::Arc;

use oa_nips::mail::Protocol;
use serde::Serialize;
use tokio::sync::broadcast;

use crate::agent::AgentId;
use crate::feeds::Feeds;

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

impl Notice {
    /// The agent that it is about, if it is about one.
    pub(crate) fn agent(&self) -> Option<&str> {
        match self {
            Self::MailIn { agent, .. }
            | Self::MailRefused { agent, .. }
            | Self::MailOut { agent, .. }
            | Self::Tick { agent, .. }
            | Self::Lifecycle { agent, .. } => Some(agent),
            Self::RelayUp { .. } | Self::RelayDown { .. } | Self::Error { .. } => None,
        }
    }
}

/// Sends notices to whoever listens, and keeps the newest of them as a log.
#[derive(Debug, Clone)]
pub struct Notices {
    sender: broadcast::Sender<Notice>,
    feeds: Arc<Feeds>,
}

impl Notices {
    /// Nobody listens yet.
    pub(crate) fn new(feeds: Arc<Feeds>) -> Self {
        Self { sender: broadcast::channel(BEHIND_MAX).0, feeds }
    }

    /// Tells; nobody has to listen.
    pub(crate) fn tell(&self, notice: impl FnOnce() -> Notice) {
        let notice = notice();
        self.feeds.notice(&notice);
        if self.sender.receiver_count() > 0 {
            // Fails only when the last listener has just gone.
            let _ = self.sender.send(notice);
        }
    }

    /// Tells of a tick that went well: there are so many that it is said only where somebody listens.
    pub(crate) fn tell_tick(&self, agent: AgentId, notice: impl FnOnce() -> Notice) {
        if self.sender.receiver_count() > 0 || self.feeds.wants_ticks(agent) {
            self.tell(notice);
        }
    }

    /// Listens from now on.
    pub fn listen(&self) -> broadcast::Receiver<Notice> {
        self.sender.subscribe()
    }
}
