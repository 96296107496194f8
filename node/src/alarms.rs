//! Lets alarms go off: the envelope and the alarm's next time land in one transaction.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::alarm;
use crate::agent::envelope::{AlarmFired, Envelope};
use crate::engine::Engine;
use crate::engine::shared::Shared;
use crate::store::backend::BackendError;
use crate::store::read::Due;
use crate::store::write::{AlarmFiring, Verdict, Write};

/// Alarms fired in one go.
const BATCH: usize = 256;
/// The longest sleep: an alarm that a tick sets for sooner is late by this at most.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Starts the clockwork; it ends when `cancel` does.
pub(crate) fn start(shared: Arc<Shared>, engine: Engine, cancel: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                _ = look.tick() => {}
            }
            while let Ok(true) = fire_due(&shared, &engine).await {}
        }
    })
}

/// Fires what is due; answers whether there may be more.
async fn fire_due(shared: &Shared, engine: &Engine) -> Result<bool, BackendError> {
    let now_ms = shared.time.now_ms();
    let mut due = shared.store.alarms_due(BATCH)?;
    due.retain(|alarm| alarm.due_ms <= now_ms);
    let is_full = due.len() == BATCH;
    for alarm in due {
        if let Err(error) = fire(shared, engine, &alarm, now_ms).await {
            tracing::error!(agent = %alarm.agent, alarm = alarm.id, %error, "alarm not fired");
            return Err(error);
        }
    }
    Ok(is_full)
}

async fn fire(shared: &Shared, engine: &Engine, due: &Due, now_ms: u64) -> Result<(), BackendError> {
    let Some(alarm) = shared.store.alarm(due.agent, &due.id)? else { return Ok(()) };
    let fired = alarm::fire(&alarm, now_ms);
    let origin = alarm.origin.clone().and_then(|origin| serde_json::from_value(origin).ok());
    let told = AlarmFired { id: due.id.clone(), due: fired.due_ms / 1000, missed: fired.missed };
    let firing = AlarmFiring {
        agent: due.agent,
        id: due.id.clone(),
        due_ms: due.due_ms,
        envelope: Envelope::from_alarm(due.agent, told, alarm.text.clone(), origin, now_ms),
        next: fired.next,
    };
    let verdicts = shared.store.write(Write::Fire(Box::new(firing))).await?;
    if matches!(verdicts, Verdict::Queued(_)) {
        engine.arrived(due.agent).await;
    }
    Ok(())
}
