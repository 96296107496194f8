//! Lets alarms go off: the envelope and the alarm's next time land in one transaction.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::alarm;
use crate::agent::envelope::{AlarmFired, Envelope, Heard};
use crate::engine::Engine;
use crate::engine::shared::Shared;
use crate::plumber::{Item, Place};
use crate::store::backend::BackendError;
use crate::store::read::Due;
use crate::store::write::{AlarmFiring, Verdict, Write};

/// Where an alarm that was set in the tick of an event keeps which: in place of who is answered, since nobody is.
pub(crate) const HEARD: &str = "heard";

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
            while !cancel.is_cancelled() && fire_due(&shared, &engine).await.is_ok_and(|more| more) {}
        }
    })
}

/// Fires what is due; answers whether there may be more.
async fn fire_due(shared: &Shared, engine: &Engine) -> Result<bool, BackendError> {
    let now_ms = shared.time.now_ms();
    let mut due = shared.store.alarms_due(BATCH)?;
    due.retain(|alarm| alarm.due_ms <= now_ms);
    let is_full = due.len() == BATCH;
    // Handed in together, so that those due at nine share a flush.
    let mut firing = Vec::new();
    for alarm in due {
        if let Some(write) = fire(shared, &alarm, now_ms)? {
            firing.push((alarm, shared.store.submit(vec![write]).await));
        }
    }
    for (alarm, pending) in firing {
        match pending.verdicts().await {
            Ok(verdicts) if matches!(verdicts.first(), Some(Verdict::Queued(_))) => {
                engine.arrived(alarm.agent).await
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(agent = %alarm.agent, alarm = alarm.id, %error, "alarm not fired");
                return Err(error);
            }
        }
    }
    Ok(is_full)
}

fn fire(shared: &Shared, due: &Due, now_ms: u64) -> Result<Option<Write>, BackendError> {
    let Some(alarm) = shared.store.alarm(due.agent, &due.id)? else { return Ok(None) };
    let fired = alarm::fire(&alarm, now_ms);
    let heard = alarm.origin.as_ref().and_then(|origin| origin.get(HEARD)).cloned();
    let heard: Option<Heard> = heard.and_then(|heard| serde_json::from_value(heard).ok());
    let origin = alarm.origin.clone().and_then(|origin| serde_json::from_value(origin).ok());
    let Some(row) = shared.store.agent(due.agent)? else { return Ok(None) };
    let route = shared.plumber.place(&Item::of_alarm(&alarm.text), &row)?;
    let told = AlarmFired { id: due.id.clone(), due: fired.due_ms / 1000, missed: fired.missed };
    let envelope = match route.place {
        Place::Nowhere => {
            tracing::info!(agent = row.name, alarm = due.id, rule = route.rule, "alarm dropped by a rule");
            None
        }
        // Nobody else's rules are asked about an alarm.
        Place::Inbox | Place::Agent(_) => {
            let envelope = Envelope::from_alarm(due.agent, told, alarm.text.clone(), origin, now_ms);
            Some(Envelope { heard, ..envelope.by_rule(route.rule, None) })
        }
    };
    let firing =
        AlarmFiring { agent: due.agent, id: due.id.clone(), due_ms: due.due_ms, envelope, next: fired.next };
    Ok(Some(Write::Fire(Box::new(firing))))
}
