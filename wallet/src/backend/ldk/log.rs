//! LDK's log lines become tracing events of target `ldk`.

use ldk_node::logger::{LogLevel, LogRecord, LogWriter};

/// Writes to whatever collects tracing events.
#[derive(Debug)]
pub(super) struct Tracing;

impl LogWriter for Tracing {
    /// LDK calls an error what a peer or a user did wrong, and info what happens with each payment: one step down.
    fn log(&self, record: LogRecord<'_>) {
        let (module, args) = (record.module_path, record.args);
        match record.level {
            LogLevel::Error | LogLevel::Warn => tracing::warn!(target: "ldk", module, "{args}"),
            LogLevel::Info => tracing::debug!(target: "ldk", module, "{args}"),
            LogLevel::Debug | LogLevel::Trace => tracing::trace!(target: "ldk", module, "{args}"),
            LogLevel::Gossip => {}
        }
    }
}
