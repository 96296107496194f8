//! Programs that run until they are ended: what they tell of their life, on stdout and to the service manager.
//!
//! systemd waits for a service of `Type=notify` until it says that it is ready, and names what it does (sd_notify(3)). Under
//! nothing of the kind (`NOTIFY_SOCKET` is not set) only stdout is told.

use sd_notify::NotifyState;
use serde_json::{Value, json};

use crate::output::Output;

/// It can be used from now on. `event` is what `--json` prints, `{"event":"ready",…}`.
pub(crate) fn ready(output: Output, event: &Value) {
    output.object(event);
    notify(&[NotifyState::Ready]);
}

/// It was told to end, and does.
pub(crate) fn stopping(output: Output) {
    output.object(&json!({ "event": "stopping" }));
    output.note("stopping");
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
