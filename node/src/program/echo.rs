//! The smallest agent: it says back what it heard. For tests, benchmarks, and as a first example to read.

use crate::program::{Agent, Fault, Run, Tick};

/// Answers each message with `You said: …`.
#[derive(Debug, Clone, Copy)]
pub struct Echo;

impl Agent for Echo {
    fn on_trigger<'a>(&'a self, tick: &'a mut Tick) -> Run<'a> {
        Box::pin(async move {
            let trigger = tick.ns.read("/trigger").await?;
            let trigger: serde_json::Value = serde_json::from_slice(&trigger)
                .map_err(|error| Fault::Failed(format!("/trigger is not JSON: {error}")))?;
            let Some(text) = trigger.get("text").and_then(serde_json::Value::as_str) else { return Ok(()) };
            tick.ns.write("/reply", format!("You said: {text}").as_bytes()).await?;
            Ok(())
        })
    }
}
